//! What a step carries, and what came of it.

use std::time::Duration;

use super::{Event, Outcome, Picked, Request, Row, SPECULATIVE_COLUMNS_MAX, Sampled, Scheduler};
use crate::energy::Carried;
use crate::engine::{PlanColumn, StepPlan};
use crate::grammar::Progress;
use crate::sampler::Generator;

impl Scheduler {
    /// Writes the next step into `plan`; an empty plan means that there is nothing to do. Returns how many of its
    /// columns are of prompts.
    pub fn plan(&mut self, now: Duration, plan: &mut StepPlan) -> usize {
        plan.clear();
        self.rows.clear();
        self.carried.clear();
        self.planned = now;
        self.tell_read();
        self.drop_overdue(now);
        self.admit();
        self.guess(now);
        for index in 0..self.order.len() {
            self.plan_draw(now, self.order[index], plan);
        }
        let draws = plan.columns().len();
        let mut room = self.prompt_room(now, plan.room());
        for index in 0..self.order.len() {
            if room == 0 {
                break;
            }
            room -= self.plan_prompt(now, self.order[index], room, plan);
        }
        assert_eq!(
            self.rows.len(),
            plan.logits_rows(),
            "each row has its sequence"
        );
        plan.columns().len() - draws
    }

    /// What to draw from for a row of the last step's logits; `None` follows a guess that was wrong, or an end.
    pub fn sampled(&self, row: usize) -> Option<Sampled<'_>> {
        let Row {
            sequence,
            guesses_before,
        } = self.rows[row];
        let request = self.running[sequence as usize].as_ref()?;
        if request.right < guesses_before {
            return None;
        }
        let early = request.submission.answer().len() < request.submission.tokens_min as usize;
        Some(Sampled {
            submission: &request.submission,
            generator: request.generator.clone(),
            forbidden: if early { &self.limits.end_tokens } else { &[] },
        })
    }

    /// Takes the token that was drawn for a row.
    pub fn handle_token(
        &mut self,
        now: Duration,
        row: usize,
        picked: impl Into<Picked>,
        generator: Generator,
    ) {
        let Picked {
            token,
            drawn,
            logprobs,
        } = picked.into();
        let Row { sequence, .. } = self.rows[row];
        let busy = self.busy_at(now);
        let request = self.running[sequence as usize]
            .as_mut()
            .expect("it was sampled");
        request.generator = generator;
        request.busy[2] = busy;
        if request.first_token.is_none() {
            request.first_token = Some(now);
            request.busy[1] = busy;
            let totals = &mut self.totals;
            let in_time = now <= request.due;
            totals.first_tokens_in_time += u64::from(in_time);
            totals.first_tokens_late += u64::from(!in_time);
        }
        request.last_token = now;
        let submission = &mut request.submission;
        if let Some(drawn) = drawn {
            submission.signals.push(drawn);
        }
        self.kv.tell(sequence, &submission.tokens, request.fed);
        if self.limits.end_tokens.contains(&token) && !submission.ignore_eos {
            self.end(now, sequence, Outcome::Stop);
            return;
        }
        let progress = match &mut submission.grammar {
            None => Progress::Open,
            Some(grammar) => grammar.accept(token),
        };
        if progress == Progress::Failed {
            self.end(now, sequence, Outcome::Form);
            return;
        }
        assert!(
            submission.tokens.len() < submission.tokens.capacity(),
            "the answer has its room"
        );
        submission.tokens.push(token);
        self.events.push_back(Event::Token {
            id: submission.id,
            token,
            logprobs,
        });
        if progress == Progress::Complete {
            self.end(now, sequence, Outcome::Stop);
        } else if submission.answer().len() >= submission.tokens_max as usize {
            self.end(now, sequence, Outcome::Length);
        } else if request.guesses.get(request.right) == Some(&token) {
            // What the step computed for the guess is what it would have computed for the token.
            request.right += 1;
            request.fed += 1;
            self.totals.guessed_right += 1;
        }
    }

    /// Takes how long the planned step took, draws included.
    pub fn handle_step(&mut self, now: Duration, columns: usize, took: Duration) {
        self.busy += took;
        self.pace.handle_step(columns, took);
        self.tenants.handle_step(now, took);
    }

    /// Makes known what the last step read of prompts, for those that begin the same way.
    fn tell_read(&mut self) {
        for (sequence, request) in (0..).zip(&self.running) {
            if let Some(request) = request
                && request.reads()
                && request.begun
            {
                self.kv
                    .tell(sequence, &request.submission.tokens, request.fed);
            }
        }
    }

    /// Guesses how streams go on, in steps that have nothing else to do: as many as make the step's tokens come faster
    /// by what guesses were worth and columns cost lately.
    fn guess(&mut self, now: Duration) {
        let all = self.order.len();
        for (request, drafter) in self.running.iter_mut().zip(&mut self.drafters) {
            if let Some(request) = request {
                drafter.handle_outcome(request.guesses.len(), request.right);
                request.guesses.clear();
                request.right = 0;
            }
        }
        let reads = self.running.iter().flatten().any(Request::reads);
        if reads || !self.queue.is_empty() || all == 0 || all >= SPECULATIVE_COLUMNS_MAX {
            return;
        }
        let due = self.time_left(now).unwrap_or_default();
        let fit = all + self.pace.columns_beside(all, due);
        let columns_max = SPECULATIVE_COLUMNS_MAX
            .min(fit)
            .min(self.limits.step_columns_max);
        let mut columns = all;
        let mut expected = all as f64;
        for &sequence in &self.order {
            let drafter = &mut self.drafters[sequence as usize];
            let request = self.running[sequence as usize].as_mut().expect("it runs");
            let guesses = drafter.guess(&request.submission.tokens);
            let left = request.answer_left_max() as usize;
            let mut likely = 1.0;
            for &guess in guesses.iter().take(left.saturating_sub(1)) {
                likely *= drafter.share();
                let (now, then) = (self.pace.step(columns), self.pace.step(columns + 1));
                let gains = (expected + likely) * now.as_secs_f64() > expected * then.as_secs_f64();
                if columns >= columns_max || !gains {
                    break;
                }
                columns += 1;
                expected += likely;
                request
                    .guesses
                    .push(guess)
                    .expect("at most DRAFT_TOKENS_MAX");
            }
        }
        self.totals.guessed += (columns - all) as u64;
    }

    fn plan_draw(&mut self, now: Duration, sequence: u32, plan: &mut StepPlan) {
        let request = self.running[sequence as usize]
            .as_mut()
            .expect("it is in the order");
        if request.reads() {
            return;
        }
        let tokens = &request.submission.tokens;
        assert_eq!(request.fed as usize + 1, tokens.len(), "one token is new");
        let drawn = tokens[request.fed as usize];
        if let Some(adapter) = &request.submission.adapter {
            plan.adapt(sequence, adapter);
        }
        for (index, &token) in [drawn].iter().chain(&request.guesses).enumerate() {
            plan.push(PlanColumn {
                sequence,
                token,
                position: request.fed + u32::try_from(index).expect("few"),
                logits: true,
            });
            self.rows.push(Row {
                sequence,
                guesses_before: index,
            });
        }
        let columns = 1 + request.guesses.len();
        self.tenants
            .handle_columns(now, request.submission.tenant, columns);
        self.carried.push(Carried {
            id: request.submission.id,
            columns: u32::try_from(columns).expect("few"),
        });
        request.fed += 1;
    }

    /// How far a stream is ahead of its target between tokens, since its first.
    pub(super) fn ahead(&self, request: &Request) -> Duration {
        let drawn = u32::try_from(request.submission.answer().len()).expect("a context");
        let first = request.first_token.unwrap_or(request.last_token);
        let due = first + self.pace.itl(request.submission.class) * drawn.saturating_sub(1);
        due.saturating_sub(request.last_token)
    }

    /// Time until the stream that waits longest is due.
    fn time_left(&self, now: Duration) -> Option<Duration> {
        let draws = self.running.iter().flatten().filter(|r| !r.reads());
        let due = draws.map(|r| r.last_token + self.pace.gap(r.submission.class, self.ahead(r)));
        Some(due.min()?.saturating_sub(now))
    }

    /// Columns of prompts that this step should carry, of the `room` that it has.
    fn prompt_room(&self, now: Duration, room: usize) -> usize {
        let columns = match (self.time_left(now), self.order.first()) {
            (Some(left), _) => self.pace.columns_beside(self.rows.len(), left),
            (None, Some(&first)) => {
                let class = self.runs(first).submission.class;
                self.pace.columns_without_streams(class)
            }
            (None, None) => 0,
        };
        columns.min(room)
    }

    /// Plans at most `room` columns of a sequence's prompt and returns how many.
    fn plan_prompt(
        &mut self,
        now: Duration,
        sequence: u32,
        room: usize,
        plan: &mut StepPlan,
    ) -> usize {
        let request = self.running[sequence as usize]
            .as_mut()
            .expect("it is in the order");
        if !request.reads() {
            return 0;
        }
        if !std::mem::replace(&mut request.begun, true) {
            // What others have computed since it got its place.
            request.fed = self.kv.adopt(sequence, &request.submission.tokens);
        }
        if request.started.is_none() {
            request.started = Some(now);
            request.busy = [self.busy; 3];
            request.cached = request.fed;
            self.events.push_back(Event::Started {
                id: request.submission.id,
                queue: now.saturating_sub(request.arrived),
            });
        }
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        if let Some(adapter) = &request.submission.adapter {
            plan.adapt(sequence, adapter);
        }
        let first = request.fed;
        let end = request.prompt_end.min(first.saturating_add(room));
        for position in first..end {
            let row = plan.push(PlanColumn {
                sequence,
                token: request.submission.tokens[position as usize],
                position,
                logits: position + 1 == request.prompt_end,
            });
            if row.is_some() {
                self.rows.push(Row {
                    sequence,
                    guesses_before: 0,
                });
            }
        }
        request.fed = end;
        self.carried.push(Carried {
            id: request.submission.id,
            columns: end - first,
        });
        let columns = (end - first) as usize;
        self.tenants
            .handle_columns(now, request.submission.tenant, columns);
        columns
    }
}
