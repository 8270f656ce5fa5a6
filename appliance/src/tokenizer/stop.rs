//! Stop strings in a stream of text, across the borders of its pieces.

/// Watches a stream for stop strings. Text that may yet become one is held back; the rest passes at once.
///
/// The string that is complete first stops the stream; of two that end at the same place the longer counts.
/// So the outcome does not depend on how the text is cut into pieces.
///
/// Cost: O(text × stop strings), whatever they are (Knuth, Morris, Pratt 1977).
#[derive(Clone, Debug)]
pub struct StopMatcher {
    patterns: Vec<Pattern>,
    held: String,
    stopped: bool,
}

/// What a piece of text lets through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopOutcome {
    /// To send: never any of a stop string.
    pub emit: String,
    /// A stop string is complete. Nothing follows.
    pub stopped: bool,
}

#[derive(Clone, Debug)]
struct Pattern {
    text: Box<[u8]>,
    /// `borders[n]`: longest proper prefix of `text[..=n]` that is also its suffix.
    borders: Box<[usize]>,
    /// Bytes of `text` that the stream ends with.
    matched: usize,
}

impl StopMatcher {
    /// Empty strings are ignored: they would stop every stream at once.
    pub fn new<S: AsRef<str>>(stops: impl IntoIterator<Item = S>) -> StopMatcher {
        let patterns = stops
            .into_iter()
            .filter(|stop| !stop.as_ref().is_empty())
            .map(|stop| Pattern::new(stop.as_ref()))
            .collect();
        StopMatcher {
            patterns,
            held: String::new(),
            stopped: false,
        }
    }

    /// Takes the next piece. After a stop, everything is swallowed.
    pub fn push(&mut self, piece: &str) -> StopOutcome {
        if self.stopped {
            return StopOutcome {
                emit: String::new(),
                stopped: true,
            };
        }
        let before = self.held.len();
        self.held.push_str(piece);
        for (place, byte) in piece.bytes().enumerate() {
            let complete = self
                .patterns
                .iter_mut()
                .filter_map(|pattern| pattern.advance(byte));
            if let Some(length) = complete.max() {
                self.stopped = true;
                self.held.truncate(before + place + 1 - length);
                return StopOutcome {
                    emit: std::mem::take(&mut self.held),
                    stopped: true,
                };
            }
        }
        let keep = self
            .patterns
            .iter()
            .map(|pattern| pattern.matched)
            .max()
            .unwrap_or(0);
        // What is kept begins like a stop string, so it begins at a character.
        let kept = self.held.split_off(self.held.len() - keep);
        StopOutcome {
            emit: std::mem::replace(&mut self.held, kept),
            stopped: false,
        }
    }

    /// The text held back, when the stream ends without a stop string.
    pub fn finish(&mut self) -> String {
        for pattern in &mut self.patterns {
            pattern.matched = 0;
        }
        std::mem::take(&mut self.held)
    }
}

impl Pattern {
    fn new(text: &str) -> Pattern {
        let text: Box<[u8]> = text.as_bytes().into();
        let mut borders = vec![0; text.len()];
        let mut border = 0;
        for end in 1..text.len() {
            while border > 0 && text[border] != text[end] {
                border = borders[border - 1];
            }
            border += usize::from(text[border] == text[end]);
            borders[end] = border;
        }
        Pattern {
            text,
            borders: borders.into(),
            matched: 0,
        }
    }

    /// The pattern's length when this byte completes it.
    fn advance(&mut self, byte: u8) -> Option<usize> {
        while self.matched > 0 && self.text[self.matched] != byte {
            self.matched = self.borders[self.matched - 1];
        }
        self.matched += usize::from(self.text[self.matched] == byte);
        (self.matched == self.text.len()).then_some(self.matched)
    }
}
