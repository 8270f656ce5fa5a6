//! The engine thread: a plain synchronous loop that owns scheduler, KV pool, model and samplers; of two models, where a
//! new one is tried beside the one that serves.
//!
//! Two fixed rings connect it with the io thread: requests and cancellations in, events out. It sees token ids only,
//! never text, and takes no lock while it serves. When there is nothing to do it parks; whoever puts something into its
//! ring unparks it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use outstation_kernels::heap::{self, OnUse};
use ringbuf::traits::{Consumer, Observer, Producer, Split};
use ringbuf::{HeapCons, HeapProd, HeapRb};
use tokio::sync::Notify;

use super::board::Board;
use super::energy::work::{self, WorkIn, WorkOut};
use super::exchange::Exchange;
use crate::engine::Engine;
use crate::request::{Lane, RequestId, Submission};
use crate::scheduler::{Event, Occupancy};
use crate::station::{Station, StepOutcome, StepTotals};

/// What the io thread asks for.
#[derive(Debug)]
pub enum ToEngine {
    /// Run this.
    Submit {
        /// What.
        submission: Box<Submission>,
        /// Since when its client waits.
        arrived: Instant,
    },
    /// Its client left.
    Cancel(RequestId),
    /// Finish what this lane has, then give its station out.
    HandOver(Lane),
}

/// The io thread's ends of the rings.
pub struct EngineHandle {
    /// Requests and cancellations. When it is full, wait for the bell.
    pub requests: HeapProd<ToEngine>,
    /// Events, in order.
    pub events: HeapCons<Event>,
    /// Rung after events were put into their ring, or requests taken from theirs.
    pub bell: Arc<Notify>,
    /// Numbers for status.
    pub board: Arc<Board>,
    /// Who ran when, where that was asked for.
    pub work: Option<WorkIn>,
    thread: Thread,
    stop: Arc<AtomicBool>,
    join: JoinHandle<()>,
}

impl EngineHandle {
    /// Lets the engine look into its ring.
    pub fn wake(&self) {
        self.thread.unpark();
    }

    /// Ends the loop after the current step and waits for it. What still runs is dropped: drain first.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Release);
        self.thread.unpark();
        // A panic there has ended the process already (release), or is the test's own failure.
        let _ = self.join.join();
    }
}

/// Sizes of the rings.
#[derive(Debug, Clone, Copy)]
pub struct RingSizes {
    /// Requests and cancellations that may be under way.
    pub requests: usize,
    /// Events between two looks of the io thread. When it is full the engine waits: no event is lost.
    pub events: usize,
    /// Whether somebody wants to know who ran when.
    pub work: WantsWork,
}

/// Whether somebody wants to know who ran when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantsWork {
    /// Of so many sequences at most.
    Of(u32),
    /// Nobody.
    Nobody,
}

/// Starts the thread. It first decodes one token, then says `ready` on its board.
pub fn start<E: Engine + Send + 'static>(
    station: Station<E>,
    sizes: RingSizes,
) -> std::io::Result<(EngineHandle, Exchange<E>)> {
    let (requests, requests_in) = HeapRb::new(sizes.requests).split();
    let (events_out, events) = HeapRb::new(sizes.events).split();
    let bell = Arc::new(Notify::new());
    let board = Arc::new(Board::default());
    let stop = Arc::new(AtomicBool::new(false));
    let started = Instant::now();
    let (work_out, work) = match sizes.work {
        WantsWork::Of(sequences_max) => {
            let (out, work) = work::ring(sequences_max, started);
            (Some(out), Some(work))
        }
        WantsWork::Nobody => (None, None),
    };
    let exchange = Exchange::new();
    let mut engine = EngineLoop {
        lanes: [None, None],
        turn: Lane::First,
        room: 0,
        left: StepTotals::default(),
        exchange: exchange.clone(),
        requests: requests_in,
        events: events_out,
        events_max: sizes.events,
        bell: bell.clone(),
        board: board.clone(),
        stop: stop.clone(),
        work: work_out,
        started,
    };
    let join = thread::Builder::new()
        .name("engine".into())
        .spawn(move || {
            engine.exchange.begin(thread::current());
            let mut station = Box::new(station);
            station.warm_up(&mut || started.elapsed());
            engine.take_in(Lane::First, station);
            engine.run();
            engine.exchange.stop();
        })?;
    let thread = join.thread().clone();
    let handle = EngineHandle {
        requests,
        events,
        bell,
        board,
        work,
        thread,
        stop,
        join,
    };
    Ok((handle, exchange))
}

/// A model that is loaded.
struct Loaded<E> {
    station: Box<Station<E>>,
    /// It is to be given out once it has finished what it has.
    leaves: bool,
}

struct EngineLoop<E> {
    lanes: [Option<Loaded<E>>; 2],
    /// Whose step is next, if both have something to do.
    turn: Lane,
    /// Events of one call.
    room: usize,
    /// What stations did that were given out.
    left: StepTotals,
    exchange: Exchange<E>,
    requests: HeapCons<ToEngine>,
    events: HeapProd<Event>,
    events_max: usize,
    bell: Arc<Notify>,
    board: Arc<Board>,
    stop: Arc<AtomicBool>,
    work: Option<WorkOut>,
    started: Instant,
}

impl<E: Engine> EngineLoop<E> {
    fn run(&mut self) {
        let guard = heap::guard();
        heap::arm(ON_HEAP_USE);
        while !self.stop.load(Ordering::Acquire) {
            self.board.beat();
            self.collect();
            self.take_requests();
            let outcome = self.step();
            self.publish();
            if outcome == StepOutcome::Worked {
                continue;
            }
            if let Some(work) = &mut self.work {
                work.handle_idle(self.started.elapsed());
            }
            if self.requests.is_empty() || !self.has_room() {
                // An unpark between the check and here makes this return at once. Whoever puts a request or a station
                // in, or takes events out, unparks.
                thread::park_timeout(IDLE_LOOK);
            }
        }
        drop(guard);
        self.board.set_ready(false);
    }

    /// Takes in what waits in the exchange.
    fn collect(&mut self) {
        while let Some((lane, station)) = self.exchange.collect() {
            self.take_in(lane, station);
        }
    }

    fn take_in(&mut self, lane: Lane, station: Box<Station<E>>) {
        self.room = self.room.max(station.events_per_call_max());
        assert!(
            self.events_max >= 2 * self.room,
            "a step's events fit twice"
        );
        let place = &mut self.lanes[lane.index()];
        assert!(place.is_none(), "the lane is free");
        *place = Some(Loaded {
            station,
            leaves: false,
        });
        self.publish();
        self.board.set_ready(true);
        self.bell.notify_one();
    }

    /// The model of a lane that somebody speaks of: if it is not here, it was put in since the last look.
    fn loaded(&mut self, lane: Lane) -> Option<&mut Loaded<E>> {
        if self.lanes[lane.index()].is_none() {
            self.collect();
        }
        self.lanes[lane.index()].as_mut()
    }

    /// Takes what came in.
    fn take_requests(&mut self) {
        while self.has_room() {
            let Some(request) = self.requests.try_pop() else {
                break;
            };
            let now = self.started.elapsed();
            match request {
                ToEngine::Submit {
                    submission,
                    arrived,
                } => {
                    // A clock that both threads read: what came before the start came at the start.
                    let arrived = arrived.saturating_duration_since(self.started).min(now);
                    let lane = submission.lane;
                    let loaded = self.loaded(lane);
                    let loaded = loaded.expect("requests go to models that are loaded");
                    loaded.station.handle_submit(now, arrived, submission);
                    self.pass_events(lane);
                }
                ToEngine::Cancel(id) => {
                    for lane in Lane::ALL {
                        if let Some(loaded) = &mut self.lanes[lane.index()] {
                            loaded.station.handle_cancel(now, id);
                            self.pass_events(lane);
                        }
                    }
                }
                ToEngine::HandOver(lane) => {
                    if let Some(loaded) = self.loaded(lane) {
                        loaded.leaves = true;
                    }
                }
            }
            self.bell.notify_one();
        }
    }

    /// A step of one of the models: of each in turn, where both have something to do.
    fn step(&mut self) -> StepOutcome {
        for lane in [self.turn, self.turn.other()] {
            if !self.has_room() {
                return StepOutcome::Idle;
            }
            let started = self.started;
            let Some(loaded) = &mut self.lanes[lane.index()] else {
                continue;
            };
            if loaded.station.step(&mut || started.elapsed()) == StepOutcome::Idle {
                self.pass_events(lane);
                self.give_out(lane);
                continue;
            }
            if let Some(work) = &mut self.work {
                let (from, to, carried) = loaded.station.last_step();
                work.handle_step(from, to, carried);
            }
            self.pass_events(lane);
            self.turn = lane.other();
            return StepOutcome::Worked;
        }
        StepOutcome::Idle
    }

    /// A model that is to leave, and has nothing left to do, leaves.
    fn give_out(&mut self, lane: Lane) {
        let leaves = |loaded: &mut Loaded<E>| loaded.leaves && loaded.station.is_idle();
        let Some(loaded) = self.lanes[lane.index()].take_if(leaves) else {
            return;
        };
        self.left.add(&loaded.station.totals());
        self.board.set_ready(self.lanes.iter().any(Option::is_some));
        self.exchange.hand_over(lane, loaded.station);
    }

    fn publish(&self) {
        let (mut occupancy, mut totals) = (Occupancy::default(), self.left);
        for loaded in self.lanes.iter().flatten() {
            occupancy.add(&loaded.station.occupancy());
            totals.add(&loaded.station.totals());
        }
        self.board.publish(occupancy, totals);
    }

    /// Whether the events of one call fit.
    fn has_room(&self) -> bool {
        self.events.vacant_len() >= self.room
    }

    fn pass_events(&mut self, lane: Lane) {
        let Some(loaded) = &mut self.lanes[lane.index()] else {
            return;
        };
        let mut any = false;
        while let Some(event) = loaded.station.poll_event() {
            any = true;
            if let (Some(work), Event::Ended { .. }) = (&mut self.work, &event) {
                // Whoever hears of the end finds all of its work told.
                work.tell();
            }
            assert!(
                self.events.try_push(event).is_ok(),
                "room was checked before the call"
            );
        }
        if any {
            self.bell.notify_one();
        }
    }
}

/// What happens when this thread or the kernel team uses the heap after READY: a test fails, a box counts it.
const ON_HEAP_USE: OnUse = if cfg!(debug_assertions) {
    OnUse::Abort
} else {
    OnUse::Count
};

/// How long the engine sleeps at most when nobody wakes it.
const IDLE_LOOK: Duration = Duration::from_millis(100);
