//! A change of the model where one fits: the engine's station comes out, another goes in, and what waited goes on with
//! that.

use tokio::sync::OwnedRwLockWriteGuard;

use super::lanes::Seat;
use super::{Command, Gateway, TextModel};
use crate::engine::Engine;
use crate::io::exchange::Exchange;
use crate::request::Lane;
use crate::station::Station;

/// Nothing is served: new requests wait. The engine's station is out, and may be dropped before another is made.
pub struct Paused<E> {
    gateway: Gateway,
    exchange: Exchange<E>,
    lane: Lane,
    _alone: OwnedRwLockWriteGuard<()>,
}

impl Gateway {
    /// Lets new requests wait, lets those that were taken end with the model that they began with, and takes the
    /// engine's station. `None`: the engine has stopped.
    pub async fn pause<E: Send + 'static>(
        &self,
        exchange: Exchange<E>,
    ) -> Option<(Paused<E>, Box<Station<E>>)> {
        let alone = self.shared.changing.clone().write_owned().await;
        let Seat { text, lane, .. } = self.seats().main.clone();
        self.shared
            .commands
            .send(Command::HandOver(lane))
            .await
            .ok()?;
        let taking = exchange.clone();
        let taken = tokio::task::spawn_blocking(move || taking.take(lane));
        let station = taken.await.expect("waiting does not panic")?;
        // They belong to the model that goes.
        text.adapters().clear();
        let paused = Paused {
            gateway: self.clone(),
            exchange,
            lane,
            _alone: alone,
        };
        Some((paused, station))
    }

    /// [`pause`](Gateway::pause), then `change` on a thread of its own, since it takes its time, then
    /// [`resume`](Paused::resume).
    pub async fn change_model<E: Engine + Send + 'static>(
        &self,
        exchange: Exchange<E>,
        change: impl FnOnce(Box<Station<E>>) -> (Box<Station<E>>, TextModel) + Send + 'static,
    ) -> Option<()> {
        let (paused, station) = self.pause(exchange).await?;
        let changed = tokio::task::spawn_blocking(move || change(station));
        let (station, text) = changed.await.expect("the change does not panic");
        paused.resume(station, text);
        Some(())
    }
}

impl<E: Engine> Paused<E> {
    /// Serves with this from here on, beginning with what waited. Which lane it has.
    pub fn resume(self, station: Box<Station<E>>, text: TextModel) -> Lane {
        self.exchange.give(self.lane, station);
        self.gateway.seats_mut().main = Seat::new(text, self.lane);
        self.lane
    }
}
