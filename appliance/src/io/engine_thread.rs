//! The engine thread: a plain synchronous loop that owns scheduler, KV pool, model and samplers.
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
use crate::request::{RequestId, Submission};
use crate::scheduler::Event;
use crate::station::{Station, StepOutcome};

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
    /// Finish what you have, then give your station out.
    HandOver,
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
    assert!(
        sizes.events >= 2 * station.events_per_call_max(),
        "a step's events fit twice"
    );
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
    let mut engine = EngineLoop {
        requests: requests_in,
        events: events_out,
        bell: bell.clone(),
        board: board.clone(),
        stop: stop.clone(),
        work: work_out,
        started,
        hands_over: false,
    };
    let exchange = Exchange::new();
    let engine_side = exchange.clone();
    let join = thread::Builder::new()
        .name("engine".into())
        .spawn(move || {
            let mut next = Some(Box::new(station));
            while let Some(mut station) = next {
                next = match engine.serve(&mut station) {
                    Pause::Stop => None,
                    Pause::HandOver => engine_side.hand_over(station, &engine.stop),
                };
            }
            engine_side.stop();
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

/// Why the loop left off.
enum Pause {
    Stop,
    HandOver,
}

struct EngineLoop {
    requests: HeapCons<ToEngine>,
    events: HeapProd<Event>,
    bell: Arc<Notify>,
    board: Arc<Board>,
    stop: Arc<AtomicBool>,
    work: Option<WorkOut>,
    started: Instant,
    /// It was asked to give its station out.
    hands_over: bool,
}

impl EngineLoop {
    /// Serves with a station until there is a reason to leave off.
    fn serve<E: Engine>(&mut self, station: &mut Station<E>) -> Pause {
        let started = self.started;
        station.warm_up(&mut || started.elapsed());
        let guard = heap::guard();
        heap::arm(ON_HEAP_USE);
        self.board.set_ready(true);
        self.bell.notify_one();
        let pause = self.run(station);
        drop(guard);
        self.board.set_ready(false);
        pause
    }

    fn run<E: Engine>(&mut self, station: &mut Station<E>) -> Pause {
        let room = station.events_per_call_max();
        while !self.stop.load(Ordering::Acquire) {
            let mut outcome = StepOutcome::Idle;
            if self.has_room(room) {
                outcome = self.turn(station, room);
            }
            self.board.publish(station.occupancy(), station.totals());
            let idle = outcome == StepOutcome::Idle;
            if idle && let Some(work) = &mut self.work {
                work.handle_idle(self.started.elapsed());
            }
            if idle && self.hands_over && station.is_idle() {
                self.hands_over = false;
                return Pause::HandOver;
            }
            let blocked = self.requests.is_empty() || !self.has_room(room);
            if idle && blocked {
                // An unpark between the check and here makes this return at once. Both rings' other ends unpark: who
                // puts a request in, and who takes events out.
                thread::park_timeout(IDLE_LOOK);
            }
        }
        Pause::Stop
    }

    /// Takes what came in, runs a step, passes on what happened.
    fn turn<E: Engine>(&mut self, station: &mut Station<E>, room: usize) -> StepOutcome {
        while self.has_room(room) {
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
                    station.handle_submit(now, arrived, submission);
                }
                ToEngine::Cancel(id) => station.handle_cancel(now, id),
                ToEngine::HandOver => self.hands_over = true,
            }
            self.pass_events(station);
            self.bell.notify_one();
        }
        if !self.has_room(room) {
            return StepOutcome::Idle;
        }
        let started = self.started;
        let outcome = station.step(&mut || started.elapsed());
        if outcome == StepOutcome::Worked
            && let Some(work) = &mut self.work
        {
            let (from, to, carried) = station.last_step();
            work.handle_step(from, to, carried);
        }
        self.pass_events(station);
        outcome
    }

    /// Whether the events of one call fit.
    fn has_room(&self, room: usize) -> bool {
        self.events.vacant_len() >= room
    }

    fn pass_events<E: Engine>(&mut self, station: &mut Station<E>) {
        let mut any = false;
        while let Some(event) = station.poll_event() {
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
