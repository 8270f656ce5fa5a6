//! Which of the models that are loaded gets a request: the one that serves, or a new one beside it, by its share.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use super::models::Answering;
use super::{Command, Gateway, TextModel};
use crate::io::exchange::Exchange;
use crate::request::{Lane, Refusal};
use crate::station::Station;

/// A model that is loaded.
#[derive(Clone)]
pub(super) struct Seat {
    pub(super) text: Arc<TextModel>,
    pub(super) lane: Lane,
    /// Held by requests on their way to its engine.
    entering: Arc<()>,
}

impl Seat {
    pub(super) fn new(text: TextModel, lane: Lane) -> Self {
        Self {
            text: Arc::new(text),
            lane,
            entering: Arc::default(),
        }
    }
}

/// The models that are loaded.
pub(super) struct Seats {
    pub(super) main: Seat,
    pub(super) beside: Option<Beside>,
}

/// A model on trial, beside the one that serves.
pub(super) struct Beside {
    pub(super) seat: Seat,
    /// Its share of new requests.
    pub(super) percent: u32,
}

/// A model that gets no new requests any more, and has some to finish.
#[must_use]
pub struct Leaving(Seat);

impl Gateway {
    pub(super) fn seats(&self) -> RwLockReadGuard<'_, Seats> {
        let seats = self.shared.seats.read();
        seats.unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn seats_mut(&self) -> RwLockWriteGuard<'_, Seats> {
        let seats = self.shared.seats.write();
        seats.unwrap_or_else(PoisonError::into_inner)
    }

    /// Who answers a request. Adapters belong to the model that serves; what names none may go to the one beside it.
    pub(super) fn choose(&self, model: Option<&str>) -> Result<(Seat, Answering), Refusal> {
        let seats = self.seats();
        let answering = seats.main.text.resolve(model)?;
        if let Some(beside) = &seats.beside
            && answering.adapter.is_none()
            && drawn(self.shared.draws.fetch_add(1, Ordering::Relaxed)) < beside.percent
        {
            return Ok((beside.seat.clone(), beside.seat.text.base()));
        }
        Ok((seats.main.clone(), answering))
    }

    /// Serves a second model beside the first, for now with no requests. It is warmed up on this thread, which takes
    /// its time.
    ///
    /// Panics if there is one.
    pub fn add_beside<E: crate::engine::Engine>(
        &self,
        exchange: &Exchange<E>,
        station: Box<Station<E>>,
        text: TextModel,
    ) -> Lane {
        let lane = self.seats().main.lane.other();
        exchange.give(lane, station);
        let mut seats = self.seats_mut();
        assert!(seats.beside.is_none(), "there are two places");
        seats.beside = Some(Beside {
            seat: Seat::new(text, lane),
            percent: 0,
        });
        lane
    }

    /// Gives the second model this share of new requests.
    ///
    /// Panics without one.
    pub fn share(&self, percent: u32) {
        let mut seats = self.seats_mut();
        let beside = seats.beside.as_mut();
        beside.expect("there is a second model").percent = percent;
    }

    /// The second model serves from here on, and the first leaves.
    ///
    /// Panics without a second.
    pub fn promote(&self) -> Leaving {
        let mut seats = self.seats_mut();
        let beside = seats.beside.take().expect("there is a second model");
        Leaving(std::mem::replace(&mut seats.main, beside.seat))
    }

    /// The second model leaves, if there is one.
    pub fn withdraw(&self) -> Option<Leaving> {
        let beside = self.seats_mut().beside.take();
        beside.map(|beside| Leaving(beside.seat))
    }

    /// Lets a model finish what it has, and takes its station out. `None`: the engine has stopped.
    pub async fn leave<E: Send + 'static>(
        &self,
        Leaving(seat): Leaving,
        exchange: Exchange<E>,
    ) -> Option<Box<Station<E>>> {
        while Arc::strong_count(&seat.entering) > 1 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let lane = seat.lane;
        self.shared
            .commands
            .send(Command::HandOver(lane))
            .await
            .ok()?;
        let taken = tokio::task::spawn_blocking(move || exchange.take(lane)).await;
        let station = taken.expect("waiting does not panic")?;
        seat.text.adapters().clear();
        Some(station)
    }
}

/// The draw of the n-th request, 0 to 99: multiples of the golden ratio, which fill every share evenly from the first
/// request on, whatever the rhythm of those who ask.
fn drawn(n: u64) -> u32 {
    let fraction = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let percent = (u128::from(fraction) * 100) >> 64;
    u32::try_from(percent).expect("it is below 100")
}

#[cfg(test)]
mod tests {
    use super::drawn;

    /// A share is met to one request, for every share and from every beginning.
    #[test]
    fn shares_are_even() {
        for percent in [1, 10, 50, 99, 100] {
            for first in [0, 17, 4711, u64::MAX / 3] {
                let mine = (first..first + 1000).filter(|&n| drawn(n) < percent);
                let wanted = f64::from(percent) * 10.0;
                let got = mine.count() as f64;
                assert!((got - wanted).abs() <= 4.0, "{got} of 1000 for {percent} %");
            }
        }
    }
}
