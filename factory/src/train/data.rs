//! Texts to learn from, and batches of them.

use outstation_kernels::train::Span;

use super::net::Batch;
use crate::task::Dice;

/// A prompt with its answer, as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// All tokens: what was asked, what was answered, and the end.
    pub ids: Vec<u32>,
    /// The first token of the answer. Earlier ones are not learned.
    pub answer_from: usize,
}

/// Examples in an order that a seed gives, again and again, each time in another.
#[derive(Debug)]
pub(super) struct Stream<'a> {
    examples: &'a [Example],
    order: Vec<u32>,
    seed: u64,
    place: Place,
}

/// How far a stream is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Place {
    epoch: u64,
    next: usize,
}

impl<'a> Stream<'a> {
    pub(super) fn new(examples: &'a [Example], seed: u64, place: Place) -> Self {
        let mut stream = Self {
            examples,
            order: Vec::new(),
            seed,
            place,
        };
        stream.shuffle();
        stream
    }

    fn shuffle(&mut self) {
        let examples = u32::try_from(self.examples.len()).expect("fewer than 2^32 examples");
        self.order = (0..examples).collect();
        Dice::new(self.seed.wrapping_add(self.place.epoch)).shuffle(&mut self.order);
    }

    pub(super) fn place(&self) -> Place {
        self.place
    }

    fn next(&mut self) -> &'a Example {
        if self.place.next == self.order.len() {
            self.place = Place {
                epoch: self.place.epoch + 1,
                next: 0,
            };
            self.shuffle();
        }
        let example = &self.examples[self.order[self.place.next] as usize];
        self.place.next += 1;
        example
    }

    /// The next examples, as many as come to `tokens` or just over it.
    pub(super) fn batch(&mut self, tokens: usize) -> Batch {
        let mut batch = Batch::default();
        while batch.ids.len() < tokens {
            batch.push(self.next());
        }
        batch
    }
}

impl Batch {
    /// Adds an example after the others.
    pub(super) fn push(&mut self, example: &Example) {
        let start = self.ids.len();
        self.ids.extend_from_slice(&example.ids);
        self.spans.push(Span {
            start,
            len: example.ids.len(),
        });
        for at in example.answer_from.max(1)..example.ids.len() {
            self.rows
                .push(u32::try_from(start + at - 1).expect("a batch is small"));
            self.targets.push(example.ids[at]);
            self.weights.push(1.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples() -> Vec<Example> {
        let example = |id| Example {
            ids: vec![id; 5],
            answer_from: 3,
        };
        (0..7).map(example).collect()
    }

    #[test]
    fn each_epoch_has_each_example_once_and_another_order() {
        let examples = examples();
        let mut stream = Stream::new(&examples, 1, Place::default());
        let mut epoch = || -> Vec<u32> { (0..7).map(|_| stream.next().ids[0]).collect() };
        let (first, second) = (epoch(), epoch());
        assert_ne!(first, second);
        for mut order in [first, second] {
            order.sort_unstable();
            assert_eq!(order, [0, 1, 2, 3, 4, 5, 6]);
        }
    }

    #[test]
    fn a_stream_goes_on_from_its_place() {
        let examples = examples();
        let mut stream = Stream::new(&examples, 1, Place::default());
        for _ in 0..9 {
            stream.next();
        }
        let mut again = Stream::new(&examples, 1, stream.place());
        for _ in 0..20 {
            assert_eq!(stream.next(), again.next());
        }
    }

    #[test]
    fn a_batch_learns_answers_alone() {
        let mut batch = Batch::default();
        for ids in [vec![1, 2, 3, 4], vec![5, 6, 7]] {
            batch.push(&Example {
                ids,
                answer_from: 2,
            });
        }
        assert_eq!(batch.ids, [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!((batch.rows, batch.targets), (vec![1, 2, 5], vec![3, 4, 7]));
        assert_eq!(
            batch.spans,
            [Span { start: 0, len: 4 }, Span { start: 4, len: 3 }]
        );
    }
}
