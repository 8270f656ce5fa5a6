//! Answers of a while, so that feedback can be tied to them.

use std::collections::VecDeque;
use std::sync::Arc;

use outstation_wire::record::Content;
use prost::Message as _;

use crate::request::Tenant;

/// An answer that feedback may come for.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) response_id: String,
    /// The flagger's name of it.
    pub(super) case: u64,
    pub(super) tenant: Tenant,
    pub(super) workload: String,
    /// What was said, redacted, where it may be kept. Goes before the rest.
    pub(super) content: Option<Arc<Content>>,
}

/// The last answers.
#[derive(Debug)]
pub(super) struct Recent {
    answers: VecDeque<Answer>,
    /// Answers at the front that have lost their content.
    bare: usize,
    content_bytes: usize,
}

/// Answers that are remembered.
const ANSWERS_MAX: usize = 4096;

/// Bytes of their contents.
const CONTENT_BYTES_MAX: usize = 4 << 20;

impl Recent {
    /// What it takes at most: each answer has two names of some 64 bytes.
    pub(super) const BYTES_MAX: u64 =
        (ANSWERS_MAX * (size_of::<Answer>() + 160) + 2 * CONTENT_BYTES_MAX) as u64;

    pub(super) fn new() -> Self {
        Self {
            answers: VecDeque::with_capacity(ANSWERS_MAX),
            bare: 0,
            content_bytes: 0,
        }
    }

    pub(super) fn push(&mut self, answer: Answer) {
        if self.answers.len() == ANSWERS_MAX
            && let Some(oldest) = self.answers.pop_front()
        {
            self.content_bytes -= bytes(&oldest);
            self.bare = self.bare.saturating_sub(1);
        }
        self.content_bytes += bytes(&answer);
        self.answers.push_back(answer);
        while self.content_bytes > CONTENT_BYTES_MAX {
            let oldest = &mut self.answers[self.bare];
            self.content_bytes -= bytes(oldest);
            oldest.content = None;
            self.bare += 1;
        }
    }

    /// An answer by its name, if it is this tenant's.
    pub(super) fn find(&self, response_id: &str, tenant: Tenant) -> Option<Answer> {
        let mut newest_first = self.answers.iter().rev();
        newest_first
            .find(|answer| answer.response_id == response_id && answer.tenant == tenant)
            .cloned()
    }
}

fn bytes(answer: &Answer) -> usize {
    let content = answer.content.as_ref();
    content.map_or(0, |content| content.encoded_len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(number: usize, bytes: usize) -> Answer {
        let content = Content {
            output: "x".repeat(bytes),
            ..Content::default()
        };
        Answer {
            response_id: number.to_string(),
            case: 0,
            tenant: Tenant(7),
            workload: String::new(),
            content: Some(Arc::new(content)),
        }
    }

    #[test]
    fn contents_go_first_and_names_later() {
        let mut recent = Recent::new();
        for number in 0..ANSWERS_MAX + 10 {
            recent.push(answer(number, 10_000));
            assert!(recent.content_bytes <= CONTENT_BYTES_MAX);
        }
        assert!(recent.find("9", Tenant(7)).is_none(), "it is too long ago");
        let old = recent
            .find("10", Tenant(7))
            .expect("the last 4096 are known");
        assert!(old.content.is_none());
        let new = recent.find("4105", Tenant(7)).expect("it is the last");
        assert!(new.content.is_some());
        assert!(recent.find("4105", Tenant(8)).is_none(), "it is not theirs");
    }
}
