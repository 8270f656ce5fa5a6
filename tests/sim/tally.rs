//! What the seeds together have lived through: a simulation in which nothing happens finds nothing.

use outstation::scheduler::Outcome;
use outstation::station::StepTotals;

use crate::truth::{Phase, Truth};

/// How often each thing happened.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    requests: u64,
    tokens: u64,
    ended_by_stop: u64,
    ended_by_length: u64,
    refused: u64,
    cancelled_waiting: u64,
    cancelled_admitted: u64,
    cancelled_in_prompt: u64,
    cancelled_in_decode: u64,
    cancelled_after_end: u64,
    cancelled_unknown: u64,
    steps_waiting_for_blocks: u64,
    steps_cut_short: u64,
    cached_tokens: u64,
    refused_for_deadline: u64,
    ended_by_deadline: u64,
    made_room: u64,
    guesses: u64,
    guesses_right: u64,
    first_tokens_in_time: u64,
    first_tokens_late: u64,
    pub(crate) changes_of_model: u64,
    /// Tokens of prompts with an adapter that needed no work.
    cached_adapted: u64,
}

impl Tally {
    /// Counts a cancel that is about to come.
    pub(crate) fn count_cancel(&mut self, truth: &Truth, id: u64) {
        let request = usize::try_from(id)
            .ok()
            .and_then(|id| truth.requests.get(id));
        let counter = match request {
            None => &mut self.cancelled_unknown,
            Some(request) => match request.phase {
                Phase::Ended(_) => &mut self.cancelled_after_end,
                _ if request.runs && request.fed >= request.prompt_tokens() => {
                    &mut self.cancelled_in_decode
                }
                _ if request.begun => &mut self.cancelled_in_prompt,
                _ if request.runs => &mut self.cancelled_admitted,
                _ => &mut self.cancelled_waiting,
            },
        };
        *counter += 1;
    }

    /// Counts a world that is over.
    pub(crate) fn count_truth(&mut self, truth: &Truth, totals: StepTotals) {
        let counted = totals.scheduler;
        assert_eq!(
            counted.preempted, truth.made_room,
            "times that room was made"
        );
        assert_eq!(counted.guessed, truth.guesses, "guesses");
        self.made_room += truth.made_room;
        self.guesses += truth.guesses;
        self.guesses_right += counted.guessed_right;
        let firsts = truth
            .requests
            .iter()
            .filter_map(|r| Some((r.first_token?, r.due)));
        let in_time = firsts.clone().filter(|(first, due)| first <= due).count() as u64;
        let late = firsts.count() as u64 - in_time;
        self.first_tokens_in_time += in_time;
        self.first_tokens_late += late;
        self.steps_waiting_for_blocks += truth.waits_for_blocks;
        self.steps_cut_short += truth.steps_cut_short;
        for request in &truth.requests {
            self.requests += 1;
            if request.submission.adapter.is_some() {
                self.cached_adapted += u64::from(request.cached);
            }
            self.cached_tokens += u64::from(request.cached);
            self.tokens += request.tokens.len() as u64;
            match request.phase {
                Phase::Ended(Outcome::Stop) => self.ended_by_stop += 1,
                Phase::Ended(Outcome::Length) => self.ended_by_length += 1,
                Phase::Ended(Outcome::Overloaded { .. }) => self.refused += 1,
                Phase::Ended(Outcome::Deadline) if request.due.is_zero() => {
                    self.refused_for_deadline += 1;
                }
                Phase::Ended(Outcome::Deadline) => self.ended_by_deadline += 1,
                _ => {}
            }
        }
    }

    /// Everything that the simulation is for has happened.
    pub(crate) fn assert_all_happened(&self) {
        let counts = [
            self.ended_by_stop,
            self.ended_by_length,
            self.refused,
            self.cancelled_waiting,
            self.cancelled_admitted,
            self.cancelled_in_prompt,
            self.cancelled_in_decode,
            self.cancelled_after_end,
            self.cancelled_unknown,
            self.steps_waiting_for_blocks,
            self.steps_cut_short,
            self.cached_tokens,
            self.refused_for_deadline,
            self.ended_by_deadline,
            self.made_room,
            self.guesses,
            self.guesses_right,
            self.changes_of_model,
            self.cached_adapted,
        ];
        assert!(counts.iter().all(|&count| count > 0), "{self:#?}");
    }
}
