//! Guesses at how an answer goes on, from what it and its prompt said before: answers that quote (summaries, edits,
//! code, JSON over given names) go on as the text they quote. A step checks several guesses at once, for little more
//! than one token costs, and a guess that is not what is drawn anyway is forgotten, so answers stay the same bits.
//!
//! Source: prompt-lookup decoding (Saxena 2023). An index by the last three tokens makes the look-up O(1).

use crate::sampler::splitmix;

/// Tokens that must be the same before a guess.
const SAME: usize = 3;

/// Entries of an index. A later place takes over the entry of an earlier one: text quotes what was said last.
const ENTRIES: usize = 1024;

/// Most guesses at a time.
pub const DRAFT_TOKENS_MAX: usize = 7;

/// What share of guesses proves right at first, and how fast that is learned.
const SHARE_FIRST: f64 = 0.5;
const SHARE_GAIN: f64 = 0.15;

/// Where no guess was made, the share drifts back to this, so that a text that begins to quote is noticed.
const SHARE_REST: f64 = 0.3;
const SHARE_DRIFT: f64 = 0.02;

/// Of one sequence: where three tokens were last seen, and how good guesses were.
#[derive(Debug)]
pub struct Drafter {
    /// Position after the three tokens with this hash; 0 is none.
    after: Box<[u32; ENTRIES]>,
    /// Tokens of the text that are in the index.
    seen: usize,
    /// Share of guesses that were right, lately.
    share: f64,
}

impl Default for Drafter {
    /// Without text.
    fn default() -> Self {
        Self {
            after: Box::new([0; ENTRIES]),
            seen: 0,
            share: SHARE_FIRST,
        }
    }
}

impl Drafter {
    /// Bytes of one.
    pub const BYTES: usize = ENTRIES * size_of::<u32>() + size_of::<Self>();

    /// Another text begins.
    pub fn reset(&mut self) {
        self.after.fill(0);
        self.seen = 0;
        self.share = SHARE_FIRST;
    }

    /// Share of guesses that were right, lately.
    pub fn share(&self) -> f64 {
        self.share
    }

    /// Guesses at what follows a text, which must begin as it did at the last call.
    ///
    /// Cost: O(tokens that are new since the last call).
    pub fn guess<'t>(&mut self, text: &'t [u32]) -> &'t [u32] {
        for end in self.seen.max(SAME)..text.len() {
            self.after[entry(&text[end - SAME..end])] = u32::try_from(end).expect("a context");
        }
        self.seen = text.len();
        let Some(last) = text.len().checked_sub(SAME) else {
            return &[];
        };
        let place = self.after[entry(&text[last..])] as usize;
        if place == 0 || text[place - SAME..place] != text[last..] {
            return &[];
        }
        let rest = &text[place..];
        &rest[..rest.len().min(DRAFT_TOKENS_MAX)]
    }

    /// How many of some guesses were right. None made: the share drifts back.
    pub fn handle_outcome(&mut self, made: usize, right: usize) {
        if made == 0 {
            self.share += SHARE_DRIFT * (SHARE_REST - self.share);
            return;
        }
        // Those after the first wrong one say nothing.
        for _ in 0..right {
            self.share += SHARE_GAIN * (1.0 - self.share);
        }
        if right < made {
            self.share -= SHARE_GAIN * self.share;
        }
    }
}

fn entry(tokens: &[u32]) -> usize {
    let hash = tokens
        .iter()
        .fold(0, |hash, &token| splitmix(hash ^ u64::from(token)));
    usize::try_from(hash % ENTRIES as u64).expect("few")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_repeats_is_guessed() {
        let mut drafter = Drafter::default();
        let mut text = vec![1, 2, 3, 4, 5, 6];
        assert_eq!(drafter.guess(&text), &[] as &[u32]);
        text.extend([1, 2]);
        assert_eq!(drafter.guess(&text), &[] as &[u32], "two are not three");
        text.push(3);
        assert_eq!(drafter.guess(&text), [4, 5, 6, 1, 2, 3]);
        text.extend([9, 1, 2, 3]);
        assert_eq!(drafter.guess(&text), [9, 1, 2, 3], "as it went on last");
        drafter.reset();
        assert_eq!(drafter.guess(&[1, 2, 3]), &[] as &[u32]);
    }

    #[test]
    fn guesses_are_tokens_that_really_stand_there() {
        let mut drafter = Drafter::default();
        let mut text = Vec::new();
        let mut state = 5;
        for _ in 0..5000 {
            state = splitmix(state);
            text.push(u32::try_from(state % 12).unwrap());
            let guess = drafter.guess(&text).to_vec();
            if let Some(first) = guess.first() {
                let same = &text[text.len() - SAME..];
                let there = text
                    .windows(SAME + 1)
                    .any(|w| w[..SAME] == *same && w[SAME] == *first);
                assert!(there, "{same:?} {first}");
            }
        }
    }

    #[test]
    fn the_share_follows_what_happens() {
        let mut drafter = Drafter::default();
        for _ in 0..20 {
            drafter.handle_outcome(7, 7);
        }
        assert!(drafter.share() > 0.99);
        for _ in 0..20 {
            drafter.handle_outcome(7, 0);
        }
        assert!(drafter.share() < 0.05);
        for _ in 0..200 {
            drafter.handle_outcome(0, 0);
        }
        assert!((0.25..0.31).contains(&drafter.share()));
    }
}
