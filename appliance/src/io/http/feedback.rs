//! The body of `POST /v1/feedback`.

use serde::Deserialize;

use crate::io::log::Feedback;
use crate::request::{Refusal, RefusalKind};

/// What a body may say. At least one of its fields besides `id` has something.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    /// `id` of the answer.
    id: String,
    /// From -1 to 1.
    score: Option<f64>,
    rating: Option<Rating>,
    label: Option<String>,
    comment: Option<String>,
    correction: Option<String>,
}

/// A thumb.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Rating {
    Up,
    Down,
}

pub(super) fn parse(body: &[u8]) -> Result<Feedback, Refusal> {
    let body: Body = serde_json::from_slice(body).map_err(|error| {
        let message = format!(
            "feedback is an object of id, and of score (-1 to 1), rating (up or down), label, comment or correction: \
             {error}"
        );
        Refusal::plain(RefusalKind::BadRequest, message)
    })?;
    let thumb = body.rating.map(|rating| match rating {
        Rating::Up => 1.0,
        Rating::Down => -1.0,
    });
    if body.score.is_some() && thumb.is_some() {
        let message = "score and rating mean the same: send one".to_owned();
        return Err(Refusal::bad_request("rating", message));
    }
    let score = body.score.or(thumb);
    if score.is_some_and(|score| !(-1.0..=1.0).contains(&score)) {
        let message = "score must be from -1, useless, to 1, right".to_owned();
        return Err(Refusal::bad_request("score", message));
    }
    let feedback = Feedback {
        response_id: body.id,
        score,
        label: body.label.unwrap_or_default(),
        comment: body.comment.unwrap_or_default(),
        correction: body.correction.unwrap_or_default(),
    };
    let empty = Feedback {
        response_id: feedback.response_id.clone(),
        ..Feedback::default()
    };
    if feedback == empty {
        let message =
            "it says nothing: send score, rating, label, comment or correction".to_owned();
        return Err(Refusal::bad_request("score", message));
    }
    Ok(feedback)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(body: &str) -> String {
        match parse(body.as_bytes()) {
            Ok(feedback) => format!("{:?} {}", feedback.score, feedback.correction),
            Err(refusal) => refusal.param.unwrap_or_else(|| "body".to_owned()),
        }
    }

    #[test]
    fn feedback_says_something() {
        assert_eq!(said(r#"{"id": "a", "rating": "down"}"#), "Some(-1.0) ");
        assert_eq!(said(r#"{"id": "a", "score": 0.5}"#), "Some(0.5) ");
        assert_eq!(said(r#"{"id": "a", "correction": "no"}"#), "None no");
        assert_eq!(said(r#"{"id": "a"}"#), "score");
        assert_eq!(said(r#"{"id": "a", "score": 2}"#), "score");
        assert_eq!(said(r#"{"id": "a", "score": 1, "rating": "up"}"#), "rating");
        assert_eq!(said(r#"{"rating": "up"}"#), "body");
        assert_eq!(said(r#"{"id": "a", "ratng": "up"}"#), "body");
    }
}
