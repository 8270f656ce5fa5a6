//! The real station, its fake engine and its checker, called as the engine thread calls it.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use outstation::request::{RequestId, Submission};
use outstation::scheduler::{Outcome, SchedulerLimits};
use outstation::station::{Station, StepOutcome, StepTotals};

use crate::engine::SimEngine;
use crate::events::Call;
use crate::random::Random;
use crate::tally::Tally;
use crate::traffic::Traffic;
use crate::truth::{Phase, Truth};

/// A station under test.
#[derive(Debug)]
pub(crate) struct Simulation {
    station: Station<SimEngine>,
    truth: Rc<RefCell<Truth>>,
    /// What the station counted before anybody came.
    warm: StepTotals,
    /// What stations with other models counted.
    before: StepTotals,
    vocabulary: u32,
}

fn warm_station(
    truth: &Rc<RefCell<Truth>>,
    limits: SchedulerLimits,
    vocabulary: u32,
) -> (Station<SimEngine>, StepTotals) {
    let model = truth.borrow().model;
    let engine = SimEngine::new(Rc::clone(truth), model, vocabulary);
    let mut station = Station::new(limits, engine);
    station.warm_up(&mut || truth.borrow().now);
    truth.borrow_mut().warms_up = false;
    let totals = station.totals();
    (station, totals)
}

impl Simulation {
    fn new(vocabulary: u32, model: u64, limits: SchedulerLimits, noise: Random) -> Self {
        let truth = Rc::new(RefCell::new(Truth::new(limits.clone(), model, noise)));
        let (station, warm) = warm_station(&truth, limits, vocabulary);
        Self {
            station,
            truth,
            warm,
            before: StepTotals::default(),
            vocabulary,
        }
    }

    /// Finishes what was taken, and goes on with another model.
    fn change_model(&mut self, model: u64) {
        self.settle();
        self.before = self.totals();
        let limits = {
            let mut truth = self.truth.borrow_mut();
            (truth.warms_up, truth.model) = (true, model);
            truth.limits.clone()
        };
        (self.station, self.warm) = warm_station(&self.truth, limits, self.vocabulary);
    }

    /// What all stations counted, their warm-ups aside.
    fn totals(&self) -> StepTotals {
        let (now, warm, mut totals) = (self.station.totals(), self.warm, self.before);
        totals.generated_tokens += now.generated_tokens - warm.generated_tokens;
        totals.prompt_tokens += now.prompt_tokens - warm.prompt_tokens;
        totals.scheduler.preempted += now.scheduler.preempted;
        totals.scheduler.guessed += now.scheduler.guessed;
        totals.scheduler.guessed_right += now.scheduler.guessed_right;
        totals
    }

    fn now(&self) -> Duration {
        self.truth.borrow().now
    }

    fn requests(&self) -> usize {
        self.truth.borrow().requests.len()
    }

    fn submit(&mut self, under_way: Duration, submission: Submission) {
        let call = Call::Submit(self.requests());
        let now = self.now();
        let arrived = now.saturating_sub(under_way);
        let copy = again(&submission, submission.id);
        self.truth.borrow_mut().note_submit(arrived, copy);
        self.station
            .handle_submit(now, arrived, Box::new(submission));
        self.hear(call);
    }

    fn cancel(&mut self, id: u64) {
        let now = self.now();
        self.station.handle_cancel(now, RequestId(id));
        self.hear(Call::Cancel(id));
    }

    fn step(&mut self) -> StepOutcome {
        let truth = Rc::clone(&self.truth);
        let began = self.now();
        truth.borrow_mut().step_began = began;
        let outcome = self.station.step(&mut || truth.borrow().now);
        self.hear(Call::Step);
        let truth = self.truth.borrow();
        let idle = outcome == StepOutcome::Idle;
        assert!(!idle || truth.live.is_empty(), "idle with {:?}", truth.live);
        let totals = self.totals();
        assert_eq!(totals.generated_tokens, truth.draws, "tokens drawn");
        assert_eq!(
            totals.prompt_tokens, truth.prompt_columns,
            "prompt tokens run"
        );
        outcome
    }

    /// Polls until nothing more is said, and checks the state behind it.
    fn hear(&mut self, call: Call) {
        let mut truth = self.truth.borrow_mut();
        let mut events = 0;
        while let Some(event) = self.station.poll_event() {
            events += 1;
            truth.check_event(call, event);
        }
        assert!(
            events <= self.station.events_per_call_max(),
            "{events} events of one call"
        );
        truth.check_answered(call);
        self.station.assert_whole();
        truth.check_occupancy(self.station.occupancy());
    }

    /// Steps until nobody lives; each request needs at most a step for each of its positions.
    fn settle(&mut self) {
        let bound: u32 = {
            let truth = self.truth.borrow();
            let live = truth.live.iter();
            live.map(|&id| truth.requests[id].steps_max()).sum()
        };
        for _ in 0..bound {
            if self.step() == StepOutcome::Idle {
                break;
            }
        }
        let outcome = self.step();
        assert_eq!(
            outcome,
            StepOutcome::Idle,
            "all is over after {bound} steps"
        );
        let occupancy = self.station.occupancy();
        assert_eq!(
            occupancy.kv_blocks_free, occupancy.kv_blocks,
            "all blocks are free"
        );
        for (id, request) in self.truth.borrow().requests.iter().enumerate() {
            assert!(
                matches!(request.phase, Phase::Ended(_)),
                "request {id} never ended"
            );
        }
    }
}

/// Lives through one seed.
pub(crate) fn run(seed: u64, tally: &mut Tally) {
    let mut random = Random::new(seed);
    let traffic = Traffic::new(&mut random);
    let noise = Random::new(random.any());
    let limits = traffic.limits.clone();
    let mut simulation = Simulation::new(traffic.vocabulary, traffic.model, limits, noise);
    let mut next_arrival = Duration::ZERO;
    for _ in 0..traffic.turns {
        if next_arrival <= simulation.now() {
            for _ in 0..traffic.crowd(&mut random) {
                let id = simulation.requests() as u64;
                let submission = traffic.submission(&mut random, id);
                simulation.submit(Traffic::under_way(&mut random), submission);
            }
            next_arrival += traffic.interval(&mut random);
        }
        if random.chance(traffic.cancels_percent) {
            cancel_somebody(&mut simulation, &mut random, tally);
        }
        if random.chance(traffic.switches_percent) {
            simulation.change_model(random.any());
            tally.changes_of_model += 1;
        }
        if simulation.step() == StepOutcome::Idle {
            let mut truth = simulation.truth.borrow_mut();
            truth.now = truth.now.max(next_arrival);
        }
    }
    simulation.settle();
    tally.count_truth(&simulation.truth.borrow(), simulation.totals());
    check_alone(&simulation.truth.borrow(), &traffic, &mut random);
}

/// Cancels a request that lives, or any that ever was, or one that never was; sometimes twice.
fn cancel_somebody(simulation: &mut Simulation, random: &mut Random, tally: &mut Tally) {
    let id = {
        let truth = simulation.truth.borrow();
        let requests = truth.requests.len() as u64;
        match random.between(0, 9) {
            0 => requests + random.any() % 3,
            1 | 2 if requests > 0 => random.any() % requests,
            _ if !truth.live.is_empty() => random.pick(&truth.live) as u64,
            _ => u64::MAX,
        }
    };
    let times = if random.chance(20) { 2 } else { 1 };
    for _ in 0..times {
        tally.count_cancel(&simulation.truth.borrow(), id);
        simulation.cancel(id);
    }
}

/// A submission once more, with room for its answer.
fn again(submission: &Submission, id: RequestId) -> Submission {
    let mut tokens = Vec::with_capacity(submission.positions_max() as usize);
    tokens.extend_from_slice(submission.prompt());
    Submission {
        id,
        tokens,
        ..submission.clone()
    }
}

/// Each stream has the tokens that its request gets alone in an empty station, with steps of another size.
fn check_alone(crowd: &Truth, traffic: &Traffic, random: &mut Random) {
    for (id, request) in crowd.requests.iter().enumerate() {
        let whole = matches!(request.phase, Phase::Ended(Outcome::Stop | Outcome::Length));
        if !whole && request.tokens.is_empty() {
            continue;
        }
        let limits = SchedulerLimits {
            sequences_max: 1,
            queue_requests_max: 1,
            // One column leaves no room for guesses.
            step_columns_max: random.pick(&[1, 3, 16, 256]),
            ..traffic.limits.clone()
        };
        let noise = Random::new(random.any());
        let mut alone = Simulation::new(traffic.vocabulary, request.model, limits, noise);
        let unhurried = Submission {
            deadline: None,
            ..again(&request.submission, RequestId(0))
        };
        alone.submit(Duration::ZERO, unhurried);
        alone.settle();
        let truth = alone.truth.borrow();
        let [same] = &truth.requests[..] else {
            panic!("one request was submitted")
        };
        if whole {
            assert_eq!(
                request.phase, same.phase,
                "request {id} ends as it does alone"
            );
            assert_eq!(
                request.tokens, same.tokens,
                "request {id} among others and alone"
            );
        } else {
            assert!(
                same.tokens.starts_with(&request.tokens),
                "request {id} until its cancel, and alone: {:?}, {:?}",
                request.tokens,
                same.tokens
            );
        }
    }
}
