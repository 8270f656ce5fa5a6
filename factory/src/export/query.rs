//! Which requests an export takes: a small language.
//!
//! ```text
//! flagged and workload=support and not flag=truncated
//! (liked or corrected) and since=2026-03-01 and until=2026-04-01 and model="demo 2"
//! ```
//!
//! `not` binds before `and`, `and` before `or`. A value with spaces or brackets stands in double quotes.

use crate::days::Day;

/// An expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// Each of them holds; of none: always.
    All(Vec<Query>),
    /// One of them holds.
    Any(Vec<Query>),
    /// It does not hold.
    Not(Box<Query>),
    /// There is a flag for which a box selects a request; others only describe it.
    Flagged,
    /// There is this flag. `random` is one of them.
    Flag(String),
    /// It was for this workload.
    Workload(String),
    /// It was this tenant's.
    Tenant(String),
    /// This model answered: its name, or the first digits of its digest.
    Model(String),
    /// This box answered: the first digits of its identity.
    Appliance(String),
    /// It ended so.
    Finish(String),
    /// On this day or later.
    Since(Day),
    /// Before this day.
    Until(Day),
    /// Somebody said what the answer should have been.
    Corrected,
    /// The score is above 0.
    Liked,
    /// The score is below 0.
    Disliked,
}

/// What a query asks about.
pub(super) trait Subject {
    fn flags(&self) -> &[String];
    fn workload(&self) -> &str;
    fn tenant(&self) -> &str;
    fn model(&self) -> &str;
    fn model_digest(&self) -> &str;
    fn appliance(&self) -> &str;
    fn finish(&self) -> &str;
    fn day(&self) -> Day;
    fn score(&self) -> Option<f64>;
    fn is_corrected(&self) -> bool;
}

/// Why a text is no query.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--where, character {at}: {what}")]
pub struct QueryError {
    /// Which character, from 1.
    at: usize,
    /// What is wrong there.
    what: String,
}

/// Words with a value.
const WITH_VALUE: [&str; 8] = [
    "flag",
    "workload",
    "tenant",
    "model",
    "appliance",
    "finish",
    "since",
    "until",
];
/// Words without.
const ALONE: [&str; 5] = ["flagged", "random", "corrected", "liked", "disliked"];

/// Brackets within brackets.
const DEPTH_MAX: usize = 32;

impl Query {
    /// From text; of nothing: everything.
    pub fn parse(text: &str) -> Result<Self, QueryError> {
        let words = words(text)?;
        let mut parser = Parser {
            words: &words,
            end: text.chars().count() + 1,
            depth: 0,
        };
        if words.is_empty() {
            return Ok(Self::All(Vec::new()));
        }
        let query = parser.any()?;
        match parser.words.first() {
            None => Ok(query),
            Some(word) => Err(word.wrong(&format!(
                "{} stands after the end of an expression: write `and`, `or` or nothing before it",
                word.shown()
            ))),
        }
    }

    /// Whether it holds.
    pub(super) fn holds(&self, subject: &impl Subject) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.holds(subject)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(subject)),
            Self::Not(part) => !part.holds(subject),
            Self::Flagged => {
                let selects = |flag: &String| !DESCRIBING.contains(&flag.as_str());
                subject.flags().iter().any(selects)
            }
            Self::Flag(name) => subject.flags().contains(name),
            Self::Workload(name) => subject.workload() == name,
            Self::Tenant(name) => subject.tenant() == name,
            Self::Model(name) => {
                let digest = name.len() >= DIGITS_MIN && subject.model_digest().starts_with(name);
                digest || subject.model() == name
            }
            Self::Appliance(digits) => subject.appliance().starts_with(digits),
            Self::Finish(reason) => subject.finish() == reason,
            Self::Since(day) => subject.day() >= *day,
            Self::Until(day) => subject.day() < *day,
            Self::Corrected => subject.is_corrected(),
            Self::Liked => subject.score().is_some_and(|score| score > 0.0),
            Self::Disliked => subject.score().is_some_and(|score| score < 0.0),
        }
    }

    /// Whether a file of this workload and day can hold a row for which it holds, whatever else it asks.
    pub(super) fn may_hold(&self, workload: &str, day: Day) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.may_hold(workload, day)),
            Self::Any(parts) => parts.iter().any(|part| part.may_hold(workload, day)),
            Self::Workload(name) => name == workload,
            Self::Since(since) => day >= *since,
            Self::Until(until) => day < *until,
            _ => true,
        }
    }
}

/// The flag of requests that were kept by chance.
const RANDOM: &str = "random";

/// Flags for which no request is selected: the lot, single signals, of which each marks its own fiftieth, and drift,
/// which marks all. docs/flagging.md has them.
const DESCRIBING: [&str; 9] = [
    RANDOM,
    "mean_nll",
    "entropy_mean",
    "entropy_max",
    "window_confidence",
    "tail_confidence",
    "margin",
    "repetition",
    "entropy_drift",
];
/// Digits of a digest that are enough to mean one.
const DIGITS_MIN: usize = 6;

#[derive(Debug)]
struct Word {
    at: usize,
    text: String,
    value: Option<String>,
}

impl Word {
    fn wrong(&self, what: &str) -> QueryError {
        QueryError {
            at: self.at,
            what: what.to_owned(),
        }
    }

    fn is(&self, text: &str) -> bool {
        self.value.is_none() && self.text == text
    }

    fn shown(&self) -> String {
        format!("`{}`", self.text)
    }
}

/// Words, brackets among them.
fn words(text: &str) -> Result<Vec<Word>, QueryError> {
    let mut words = Vec::new();
    let mut rest = (1..).zip(text.chars()).peekable();
    while let Some((at, c)) = rest.next() {
        if c.is_whitespace() {
            continue;
        }
        let mut word = Word {
            at,
            text: c.to_string(),
            value: None,
        };
        if c != '(' && c != ')' {
            while let Some((_, c)) = rest.next_if(|(_, c)| is_plain(*c) && *c != '=') {
                word.text.push(c);
            }
            if rest.next_if(|(_, c)| *c == '=').is_some() {
                word.value = Some(value(&mut rest, at)?);
            }
        }
        words.push(word);
    }
    Ok(words)
}

fn is_plain(c: char) -> bool {
    !c.is_whitespace() && c != '(' && c != ')'
}

fn value(
    rest: &mut std::iter::Peekable<impl Iterator<Item = (usize, char)>>,
    at: usize,
) -> Result<String, QueryError> {
    let mut value = String::new();
    if rest.next_if(|(_, c)| *c == '"').is_none() {
        while let Some((_, c)) = rest.next_if(|(_, c)| is_plain(*c)) {
            value.push(c);
        }
        return Ok(value);
    }
    for (_, c) in rest {
        if c == '"' {
            return Ok(value);
        }
        value.push(c);
    }
    Err(QueryError {
        at,
        what: "a value begins with \" and has no \" at its end".to_owned(),
    })
}

struct Parser<'a> {
    words: &'a [Word],
    end: usize,
    depth: usize,
}

impl Parser<'_> {
    fn any(&mut self) -> Result<Query, QueryError> {
        let mut parts = vec![self.all()?];
        while self.take("or") {
            parts.push(self.all()?);
        }
        Ok(one_or(parts, Query::Any))
    }

    fn all(&mut self) -> Result<Query, QueryError> {
        let mut parts = vec![self.not()?];
        while self.take("and") {
            parts.push(self.not()?);
        }
        Ok(one_or(parts, Query::All))
    }

    fn not(&mut self) -> Result<Query, QueryError> {
        let mut odd = false;
        while self.take("not") {
            odd = !odd;
        }
        let query = self.one()?;
        Ok(if odd {
            Query::Not(Box::new(query))
        } else {
            query
        })
    }

    fn one(&mut self) -> Result<Query, QueryError> {
        let Some((word, rest)) = self.words.split_first() else {
            return Err(QueryError {
                at: self.end,
                what: "it ends where an expression should stand".to_owned(),
            });
        };
        self.words = rest;
        if word.is("(") {
            self.depth += 1;
            if self.depth > DEPTH_MAX {
                return Err(word.wrong(&format!("more than {DEPTH_MAX} brackets are open")));
            }
            let query = self.any()?;
            self.depth -= 1;
            if self.take(")") {
                return Ok(query);
            }
            return Err(word.wrong("this bracket is not closed"));
        }
        term(word)
    }

    fn take(&mut self, text: &str) -> bool {
        match self.words.split_first() {
            Some((word, rest)) if word.is(text) => {
                self.words = rest;
                true
            }
            _ => false,
        }
    }
}

fn one_or(mut parts: Vec<Query>, many: fn(Vec<Query>) -> Query) -> Query {
    if parts.len() == 1 {
        parts.remove(0)
    } else {
        many(parts)
    }
}

fn term(word: &Word) -> Result<Query, QueryError> {
    let Some(value) = &word.value else {
        return match word.text.as_str() {
            "flagged" => Ok(Query::Flagged),
            "random" => Ok(Query::Flag(RANDOM.to_owned())),
            "corrected" => Ok(Query::Corrected),
            "liked" => Ok(Query::Liked),
            "disliked" => Ok(Query::Disliked),
            name if WITH_VALUE.contains(&name) => {
                Err(word.wrong(&format!("`{name}` needs a value: {name}=…")))
            }
            _ => Err(unknown(word)),
        };
    };
    let day = || {
        value
            .parse()
            .map_err(|error| word.wrong(&format!("{error}")))
    };
    Ok(match word.text.as_str() {
        "flag" => Query::Flag(value.clone()),
        "workload" => Query::Workload(value.clone()),
        "tenant" => Query::Tenant(value.clone()),
        "model" => Query::Model(value.clone()),
        "appliance" => Query::Appliance(value.to_lowercase()),
        "finish" => Query::Finish(value.clone()),
        "since" => Query::Since(day()?),
        "until" => Query::Until(day()?),
        name if ALONE.contains(&name) => {
            return Err(word.wrong(&format!("`{name}` takes no value")));
        }
        _ => return Err(unknown(word)),
    })
}

/// An unknown word, and the nearest known one.
fn unknown(word: &Word) -> QueryError {
    let known = || {
        WITH_VALUE
            .into_iter()
            .chain(ALONE)
            .chain(["and", "or", "not"])
    };
    let nearest = known().min_by_key(|name| strsim::damerau_levenshtein(name, &word.text));
    let near = nearest.filter(|name| strsim::damerau_levenshtein(name, &word.text) <= 2);
    let hint = near.map_or_else(
        || format!("known are {}", known().collect::<Vec<_>>().join(", ")),
        |name| format!("did you mean `{name}`?"),
    );
    word.wrong(&format!("{} is unknown: {hint}", word.shown()))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::Query;

    fn check(text: &str, expected: Expect) {
        let found = match Query::parse(text) {
            Ok(query) => format!("{query:?}"),
            Err(error) => error.to_string(),
        };
        expected.assert_eq(&found);
    }

    #[test]
    fn queries_mean_what_they_say() {
        check("", expect!["All([])"]);
        check("flagged", expect!["Flagged"]);
        check(
            "flagged and workload=support or not random",
            expect![[r#"Any([All([Flagged, Workload("support")]), Not(Flag("random"))])"#]],
        );
        check(
            r#"(liked or corrected) and not not model="demo (2) x""#,
            expect![[r#"All([Any([Liked, Corrected]), Model("demo (2) x")])"#]],
        );
        check(
            "since=2026-03-01 and until=2026-04-01 and tenant=a=b",
            expect![[
                r#"All([Since(Day { number: 20513 }), Until(Day { number: 20544 }), Tenant("a=b")])"#
            ]],
        );
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            (
                "flaged",
                expect!["--where, character 1: `flaged` is unknown: did you mean `flagged`?"],
            ),
            (
                "price=3",
                expect![
                    "--where, character 1: `price` is unknown: known are flag, workload, tenant, model, appliance, finish, since, until, flagged, random, corrected, liked, disliked, and, or, not"
                ],
            ),
            (
                "since=yesterday",
                expect!["--where, character 1: yesterday is no day: write it like 2026-03-31"],
            ),
            (
                "workload",
                expect!["--where, character 1: `workload` needs a value: workload=…"],
            ),
            (
                "flagged=1",
                expect!["--where, character 1: `flagged` takes no value"],
            ),
            (
                "flagged and",
                expect!["--where, character 12: it ends where an expression should stand"],
            ),
            (
                "(liked or random",
                expect!["--where, character 1: this bracket is not closed"],
            ),
            (
                "liked random",
                expect![
                    "--where, character 7: `random` stands after the end of an expression: write `and`, `or` or nothing before it"
                ],
            ),
            (
                r#"model="demo"#,
                expect![[r#"--where, character 1: a value begins with " and has no " at its end"#]],
            ),
            (
                ")",
                expect!["--where, character 1: `)` is unknown: did you mean `or`?"],
            ),
        ];
        for (text, expected) in cases {
            check(text, expected);
        }
        let deep = "(".repeat(100);
        check(
            &deep,
            expect!["--where, character 33: more than 32 brackets are open"],
        );
    }
}
