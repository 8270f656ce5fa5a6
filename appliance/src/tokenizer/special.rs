//! Finds the tokens that are not merged but read whole: control tokens and user-defined text.

use super::{Special, TokenKind, Vocabulary};

/// Tokens read whole, sorted by their bytes.
pub(super) struct SpecialTokens {
    sorted: Vec<Entry>,
    /// Bytes that some entry begins with; most text is passed over by this alone.
    begins: [bool; 256],
    control_eats_space: bool,
}

struct Entry {
    text: Box<[u8]>,
    id: u32,
    kind: TokenKind,
    eats_space: bool,
}

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fragment<'t> {
    /// To be merged; never empty.
    Text(&'t str),
    /// Read whole.
    Token(u32),
}

impl SpecialTokens {
    pub(super) fn new(vocabulary: &Vocabulary, kinds: &[TokenKind]) -> SpecialTokens {
        let wanted = [
            TokenKind::Control,
            TokenKind::UserDefined,
            TokenKind::Unknown,
        ];
        let mut sorted: Vec<Entry> = (0u32..)
            .zip(&vocabulary.tokens)
            .zip(kinds)
            .filter(|((_, token), kind)| wanted.contains(kind) && !token.is_empty())
            .map(|((id, token), &kind)| Entry {
                text: token.as_bytes().into(),
                id,
                kind,
                eats_space: !NEVER_EATS_SPACE.contains(&token.as_str()),
            })
            .collect();
        sorted.sort_unstable_by(|a, b| a.text.cmp(&b.text));
        let mut begins = [false; 256];
        for entry in &sorted {
            begins[usize::from(entry.text[0])] = true;
        }
        SpecialTokens {
            sorted,
            begins,
            control_eats_space: vocabulary.control_eats_space,
        }
    }

    /// Cuts a text, leftmost token first, the longest where several begin at one place.
    ///
    /// llama.cpp looks for the longest token of the whole text first. The two differ only where tokens overlap
    /// in part, which no published vocabulary has among its control tokens.
    ///
    /// Cost: O(n) for ordinary text; at worst each byte times the longest token.
    pub(super) fn fragments<'t>(&self, text: &'t str, special: Special) -> Vec<Fragment<'t>> {
        let mut fragments = Vec::new();
        let (mut start, mut at) = (0, 0);
        while at < text.len() {
            let Some(entry) = self.longest(&text.as_bytes()[at..], special) else {
                at += 1;
                continue;
            };
            if start < at {
                fragments.push(Fragment::Text(&text[start..at]));
            }
            fragments.push(Fragment::Token(entry.id));
            at += entry.text.len();
            if self.control_eats_space && entry.eats_space {
                let rest = &text[at..];
                at = text.len() - rest.trim_start_matches(is_c_space).len();
            }
            start = at;
        }
        if start < text.len() {
            fragments.push(Fragment::Text(&text[start..]));
        }
        fragments
    }

    /// Is there a control token's name at the beginning of `text`?
    pub(super) fn begins_control(&self, text: &[u8]) -> bool {
        self.longest(text, Special::Parse)
            .is_some_and(|entry| entry.kind != TokenKind::UserDefined)
    }

    /// The longest allowed entry that `text` begins with. All of `range` share `text[..depth]`.
    fn longest(&self, text: &[u8], special: Special) -> Option<&Entry> {
        if !self.begins[usize::from(text[0])] {
            return None;
        }
        let mut range = &self.sorted[..];
        let mut best = None;
        for depth in 0.. {
            if range.first().is_some_and(|entry| entry.text.len() == depth) {
                let entry = &range[0];
                if special == Special::Parse || entry.kind == TokenKind::UserDefined {
                    best = Some(entry);
                }
                range = &range[1..];
            }
            let Some(&byte) = text.get(depth) else { break };
            let low = range.partition_point(|entry| entry.text[depth] < byte);
            let high = range.partition_point(|entry| entry.text[depth] <= byte);
            range = &range[low..high];
            if range.is_empty() {
                break;
            }
        }
        best
    }
}

/// C's `isspace`, by which llama.cpp strips.
fn is_c_space(letter: char) -> bool {
    matches!(letter, ' ' | '\t'..='\r')
}

/// Tokens of Phi-3 that leave the space after them alone. Source: llama.cpp `src/llama-vocab.cpp`.
const NEVER_EATS_SPACE: &[&str] = &["<unk>", "<s>", "<|endoftext|>"];
