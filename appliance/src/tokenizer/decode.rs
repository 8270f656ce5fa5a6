//! Tokens to text as they come, whole characters only.

use super::Tokenizer;

/// Turns a stream of ids into pieces of text. A character whose bytes are spread over several tokens is held
/// until it is whole; U+FFFD stands only for bytes that can no longer become one.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    /// The beginning of a character: 3 bytes at most between calls.
    pending: Vec<u8>,
}

impl Decoder {
    /// A decoder at a token border.
    pub fn new() -> Decoder {
        Decoder::default()
    }

    /// The text that `id` completes, often empty. Control tokens print nothing and complete nothing.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        self.push_bytes(tokenizer.decode_bytes(id))
    }

    /// The text that more bytes complete.
    pub fn push_bytes(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::with_capacity(self.pending.len());
        let mut rest = &self.pending[..];
        loop {
            match std::str::from_utf8(rest) {
                Ok(whole) => {
                    text.push_str(whole);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (whole, bad) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(whole).expect("valid up to here"));
                    rest = bad;
                    let Some(bad_bytes) = error.error_len() else {
                        break;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[bad_bytes..];
                }
            }
        }
        let kept = rest.len();
        assert!(kept <= 3, "an incomplete character has 3 bytes at most");
        self.pending.drain(..self.pending.len() - kept);
        text
    }

    /// What is held when no more tokens come: nothing, or U+FFFD for the torn character.
    pub fn finish(&mut self) -> String {
        let torn = !std::mem::take(&mut self.pending).is_empty();
        if torn {
            char::REPLACEMENT_CHARACTER.to_string()
        } else {
            String::new()
        }
    }
}
