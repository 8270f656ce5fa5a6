//! Rules that need no learning: what is wrong with an answer by itself.

use super::verdict::{Flag, Flags};
use super::{Finish, Form, Outcome, Signals};

/// Tokens of a loop at the end that are no accident, as a list of zeros may be.
pub(super) const LOOP_TOKENS_MIN: u32 = 32;

/// Flags that an answer has by itself.
pub(super) fn rules(signals: &Signals, outcome: &Outcome) -> Flags {
    let mut flags = Flags::default();
    let mut fires = |flag, when| {
        if when {
            flags.insert(flag);
        }
    };
    fires(Flag::Truncated, outcome.finish == Finish::Length);
    fires(Flag::InvalidJson, outcome.json == Form::Invalid);
    fires(Flag::InvalidToolCall, outcome.tool_call == Form::Invalid);
    fires(Flag::RepetitionLoop, signals.loop_tokens >= LOOP_TOKENS_MIN);
    fires(Flag::Refusal, outcome.refusal);
    flags
}

/// Whether an answer begins as refusals do, in English, German, French or Spanish.
///
/// Case, quotes, markup and the kind of apostrophe do not matter, and apologies are passed over. It is a list of
/// phrases and misses what is said otherwise. Cost: no allocation; reads some 200 characters.
pub fn begins_as_refusal(answer: &str) -> bool {
    let mut text = Text::new(answer);
    for _ in 0..3 {
        let apology = APOLOGIES.iter().find_map(|phrase| text.after(phrase));
        let Some(rest) = apology else {
            break;
        };
        text = rest;
    }
    REFUSALS.iter().any(|phrase| text.after(phrase).is_some())
        || SPLIT_REFUSALS.iter().any(|(start, word)| {
            let rest = text.after(start);
            rest.is_some_and(|rest| rest.has_word(word))
        })
}

/// The beginning of a text in small letters, one space between words, without punctuation.
#[derive(Clone, Copy)]
struct Text {
    chars: [char; TEXT_CHARS],
    start: usize,
    end: usize,
}

const TEXT_CHARS: usize = 160;

/// Words among which the second half of a phrase is looked for.
const SPLIT_WORDS: usize = 5;

impl Text {
    fn new(text: &str) -> Self {
        let mut chars = [' '; TEXT_CHARS];
        let mut end = 0;
        let mut space = false;
        for c in text.chars().take(2 * TEXT_CHARS) {
            let apostrophe = matches!(c, '\'' | '\u{2019}' | '\u{2bc}' | '`');
            let inside = apostrophe && end > 0 && !space;
            if !c.is_alphanumeric() && !inside {
                space = end > 0;
                continue;
            }
            // The few letters whose small form is two characters are in no phrase.
            let c = if apostrophe {
                '\''
            } else {
                c.to_lowercase().next().unwrap_or(c)
            };
            if end + 2 > TEXT_CHARS {
                break;
            }
            if space {
                end += 1;
                space = false;
            }
            chars[end] = c;
            end += 1;
        }
        Self {
            chars,
            start: 0,
            end,
        }
    }

    /// What follows a phrase at the beginning, if it is there as whole words.
    fn after(&self, phrase: &str) -> Option<Self> {
        let chars = &self.chars[self.start..self.end];
        let len = phrase.chars().count();
        let same = chars.len() >= len && phrase.chars().zip(chars).all(|(a, b)| a == *b);
        let whole = same && chars.get(len).is_none_or(|c| *c == ' ');
        whole.then(|| Self {
            start: (self.start + len + 1).min(self.end),
            ..*self
        })
    }

    /// Whether a word is among the next few.
    fn has_word(&self, word: &str) -> bool {
        let words = self.chars[self.start..self.end].split(|c| *c == ' ');
        words
            .take(SPLIT_WORDS)
            .any(|w| w.iter().copied().eq(word.chars()))
    }
}

/// What may come before a refusal.
const APOLOGIES: [&str; 27] = [
    "i'm sorry",
    "i am sorry",
    "i'm very sorry",
    "i'm really sorry",
    "sorry",
    "i apologize",
    "unfortunately",
    "but",
    "es tut mir leid",
    "tut mir leid",
    "entschuldigung",
    "leider",
    "aber",
    "je suis désolé",
    "je suis désolée",
    "désolé",
    "désolée",
    "malheureusement",
    "mais",
    "lo siento",
    "lo siento mucho",
    "lo lamento",
    "lamentablemente",
    "desafortunadamente",
    "disculpa",
    "disculpe",
    "pero",
];

const REFUSALS: [&str; 38] = [
    "i cannot",
    "i can't",
    "i can not",
    "i'm unable",
    "i am unable",
    "i'm not able",
    "i am not able",
    "i won't be able",
    "i don't have the ability",
    "i must decline",
    "as an ai",
    "as a language model",
    "as a large language model",
    "als ki",
    "als eine ki",
    "als künstliche intelligenz",
    "als sprachmodell",
    "als ein sprachmodell",
    "als großes sprachmodell",
    "ich bin nicht in der lage",
    "ich bin nicht befugt",
    "je ne peux pas",
    "je ne peux malheureusement pas",
    "je ne suis pas en mesure",
    "je ne suis pas capable",
    "en tant qu'ia",
    "en tant qu'intelligence artificielle",
    "en tant que modèle de langage",
    "no puedo",
    "no me es posible",
    "no soy capaz",
    "no estoy en condiciones",
    "como ia",
    "como una ia",
    "como inteligencia artificial",
    "como una inteligencia artificial",
    "como modelo de lenguaje",
    "como un modelo de lenguaje",
];

/// German puts its negation after the object.
const SPLIT_REFUSALS: [(&str, &str); 7] = [
    ("ich kann", "nicht"),
    ("ich kann", "keine"),
    ("ich kann", "kein"),
    ("ich kann", "keinen"),
    ("ich darf", "nicht"),
    ("ich darf", "keine"),
    ("kann ich", "nicht"),
];
