//! SentencePiece merging: the pair with the best score first, the leftmost of equals.
//!
//! The `tokenizers` crate would need every split of every token as a ranked merge, cannot break ties between
//! equal scores by place, and does not merge characters that have no token of their own; the rule itself is one screen.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::vocabulary::{TokenKind, Vocabulary, VocabularyError, byte_of};

pub(super) struct PieceMerger {
    /// Id and order of each text that merging may produce.
    pieces: HashMap<Box<str>, (u32, i32)>,
    piece_bytes_max: usize,
    /// For characters without a token; the unknown token stands in where a byte has none.
    bytes: Box<[u32; 256]>,
}

/// A run of text in the chain of what is left to merge.
#[derive(Clone, Copy)]
struct Symbol {
    start: u32,
    /// 0: merged into its left neighbour.
    length: u32,
    previous: u32,
    next: u32,
}

const NONE: u32 = u32::MAX;

impl PieceMerger {
    pub(super) fn new(
        vocabulary: &Vocabulary,
        kinds: &[TokenKind],
    ) -> Result<PieceMerger, VocabularyError> {
        let mut pieces: HashMap<Box<str>, (u32, i32)> = HashMap::with_capacity(kinds.len());
        let mut bytes = [vocabulary.unk.unwrap_or(NONE); 256];
        let rows = vocabulary.tokens.iter().zip(&vocabulary.scores).zip(kinds);
        for (id, ((token, &score), kind)) in (0u32..).zip(rows) {
            if kind.is_text() && !token.is_empty() {
                pieces.insert(token.as_str().into(), (id, ascending(score)));
            } else if *kind == TokenKind::Byte
                && let Some(byte) = byte_of(token)
            {
                bytes[usize::from(byte)] = id;
            }
        }
        if let Some(byte) = (0..=0xffu8).find(|&byte| bytes[usize::from(byte)] == NONE) {
            return Err(VocabularyError::MissingByte { byte });
        }
        let piece_bytes_max = pieces.keys().map(|piece| piece.len()).max().unwrap_or(0);
        Ok(PieceMerger {
            pieces,
            piece_bytes_max,
            bytes: Box::new(bytes),
        })
    }

    /// Appends the ids of `text`, whose spaces are `▁` already.
    ///
    /// Source: llama.cpp `src/llama-vocab.cpp`, the SPM tokenizer; SentencePiece `src/bpe_model.cc`.
    pub(super) fn merge(&self, text: &str, ids: &mut Vec<u32>) {
        let mut chain = chain_of(text);
        let mut queue = BinaryHeap::with_capacity(chain.len());
        for left in 1..chain.len() {
            queue.extend(self.candidate(text, &chain, index(left - 1)));
        }
        while let Some((_, Reverse(left), length)) = queue.pop() {
            let symbol = chain[left as usize];
            if symbol.length == 0 || symbol.next == NONE {
                continue;
            }
            let right = chain[symbol.next as usize];
            if symbol.length + right.length != length {
                continue; // one of the two has grown since
            }
            chain[symbol.next as usize].length = 0;
            chain[left as usize].length = length;
            chain[left as usize].next = right.next;
            if right.next != NONE {
                chain[right.next as usize].previous = left;
            }
            if symbol.previous != NONE {
                queue.extend(self.candidate(text, &chain, symbol.previous));
            }
            queue.extend(self.candidate(text, &chain, left));
        }
        for symbol in chain.iter().filter(|symbol| symbol.length > 0) {
            let piece = text_of(text, symbol.start, symbol.length);
            match self.pieces.get(piece) {
                Some(&(id, _)) => ids.push(id),
                None => ids.extend(piece.bytes().map(|byte| self.bytes[usize::from(byte)])),
            }
        }
    }

    /// The pair that begins at `left`, if together they are a token.
    fn candidate(
        &self,
        text: &str,
        chain: &[Symbol],
        left: u32,
    ) -> Option<(i32, Reverse<u32>, u32)> {
        let symbol = chain[left as usize];
        let right = chain.get(symbol.next as usize)?;
        let length = symbol.length + right.length;
        if length as usize > self.piece_bytes_max {
            return None;
        }
        let &(_, order) = self.pieces.get(text_of(text, symbol.start, length))?;
        Some((order, Reverse(left), length))
    }
}

fn chain_of(text: &str) -> Vec<Symbol> {
    let mut chain: Vec<Symbol> = Vec::with_capacity(text.len());
    for (start, letter) in text.char_indices() {
        let place = chain.len();
        chain.push(Symbol {
            start: index(start),
            length: index(letter.len_utf8()),
            previous: if place == 0 { NONE } else { index(place - 1) },
            next: index(place + 1),
        });
    }
    if let Some(last) = chain.last_mut() {
        last.next = NONE;
    }
    chain
}

fn text_of(text: &str, start: u32, length: u32) -> &str {
    &text[start as usize..][..length as usize]
}

fn index(value: usize) -> u32 {
    u32::try_from(value).expect("a prompt is below 4 GiB")
}

/// An integer in the order of the floats (IEEE 754 total order); both zeros are one.
fn ascending(score: f32) -> i32 {
    let bits = (score + 0.0).to_bits().cast_signed();
    if bits < 0 { bits ^ i32::MAX } else { bits }
}
