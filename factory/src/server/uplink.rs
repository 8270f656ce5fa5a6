//! One box's connection: its Hello, its segments, and what it fetches.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outstation_wire::uplink::{
    BoxMessage, FactoryMessage, Hello, Offer, Refused, RefusedCode, Welcome,
};
use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{CLOSE_NO_ERROR, CLOSE_PROTOCOL, CLOSE_REVOKED, Factory};
use crate::channel::{self, ChannelError, later, never};
use crate::clock::unix_ms;
use crate::contacts::Cell;
use crate::ingest::{Arrived, unavailable};
use crate::registry::{Boot, Contact, Missing, Progress, phase_word};
use crate::store::hex;

mod fetch;

/// The first message of a stream.
const FIRST_MAX: Duration = Duration::from_secs(10);
/// Silence after which a Hello stream is given up: three missed Hellos.
const HELLOS_MISSED: u32 = 3;
/// How long an answer of the registry about a box holds (U-16).
const KNOWN_FOR: Duration = Duration::from_secs(30);
/// Characters of a text that are kept.
const TEXT_CHARS_MAX: usize = 200;
/// Spools and classes of a box whose progress is kept.
const PROGRESS_MAX: usize = 12;

/// A box that is connected.
struct Peer {
    appliance: [u8; 16],
    remote: String,
    factory: Arc<Factory>,
    cell: Arc<Cell>,
    /// Epochs with whether they have two writers, and when the registry was asked.
    epochs: Mutex<HashMap<[u8; 16], (bool, Instant)>>,
    greeted: watch::Sender<bool>,
    /// When the registry was last asked whether the box belongs here.
    admitted: Mutex<Instant>,
    /// When it may have the next byte of what is released.
    next_byte: Mutex<Instant>,
}

pub(super) async fn run(
    connection: &Connection,
    appliance: [u8; 16],
    factory: &Arc<Factory>,
    mut closing: watch::Receiver<bool>,
) {
    let peer = match Peer::open(connection, appliance, factory).await {
        Ok(peer) => Arc::new(peer),
        Err(refused) => return refuse(connection, factory, refused).await,
    };
    factory.metrics.connections.inc();
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            stream = connection.accept_bi() => match stream {
                Ok(stream) => drop(streams.spawn(peer.clone().stream(connection.clone(), stream))),
                Err(error) => {
                    tracing::debug!(appliance = hex(&appliance), %error, "a box is gone");
                    break;
                }
            },
            Some(_) = streams.join_next(), if !streams.is_empty() => {}
            Ok(()) = closing.changed() => break,
        }
    }
    // Uploads that broke off keep what they have.
    while streams.join_next().await.is_some() {}
    factory.metrics.connections.dec();
}

/// Says why a box may not come in, on the first stream that it opens, and closes.
async fn refuse(connection: &Connection, factory: &Factory, refused: Refused) {
    factory.metrics.refused(refused.code);
    let talk = async {
        let Ok((mut send, _)) = connection.accept_bi().await else {
            return;
        };
        let answer = FactoryMessage::Refused(refused.clone());
        if channel::send(&mut send, answer).await.is_ok() && send.finish().is_ok() {
            let _ = send.stopped().await;
        }
    };
    let _ = tokio::time::timeout(FIRST_MAX, talk).await;
    let code = match RefusedCode::try_from(refused.code) {
        Ok(RefusedCode::Revoked) => CLOSE_REVOKED,
        _ => CLOSE_NO_ERROR,
    };
    connection.close(code, refused.message.as_bytes());
}

impl Peer {
    async fn open(
        connection: &Connection,
        appliance: [u8; 16],
        factory: &Arc<Factory>,
    ) -> Result<Self, Refused> {
        admit(factory, &appliance).await?;
        let cell = factory
            .contacts
            .open(&factory.registry, appliance)
            .await
            .map_err(unavailable)?;
        Ok(Self {
            appliance,
            remote: connection.remote_address().to_string(),
            factory: factory.clone(),
            cell,
            epochs: Mutex::default(),
            greeted: watch::Sender::new(false),
            admitted: Mutex::new(Instant::now()),
            next_byte: Mutex::new(Instant::now()),
        })
    }

    async fn stream(
        self: Arc<Self>,
        connection: Connection,
        (mut send, mut receive): (SendStream, RecvStream),
    ) {
        let first = channel::read(&mut receive, FIRST_MAX).await;
        let outcome = match first {
            Ok(Some(BoxMessage::Hello(hello))) => {
                self.hellos(*hello, &mut send, &mut receive).await
            }
            Ok(Some(BoxMessage::Offer(offer))) => self.offer(&offer, &mut send, &mut receive).await,
            Ok(Some(BoxMessage::Enrol(_))) => {
                let refused = never(RefusedCode::Malformed, "this box is enrolled already");
                self.answer(&mut send, Err(refused)).await.map(drop)
            }
            Ok(Some(BoxMessage::Fetch(fetch))) => self.fetch(&fetch, &mut send).await,
            // A message of a later version.
            Ok(None) => {
                let refused = never(
                    RefusedCode::Unknown,
                    "this factory does not know the message: update it",
                );
                self.answer(&mut send, Err(refused)).await.map(drop)
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => {
                let _ = send.finish();
                // A refusal in the middle of an upload: the rest is not wanted.
                let _ = receive.stop(CLOSE_PROTOCOL);
            }
            Err(ChannelError::Uplink(error)) => {
                connection.close(CLOSE_PROTOCOL, error.to_string().as_bytes());
            }
            Err(error) => {
                tracing::debug!(appliance = hex(&self.appliance), %error, "a stream ended");
                let _ = send.reset(CLOSE_PROTOCOL);
            }
        }
    }

    /// Hello after Hello, on one stream.
    async fn hellos(
        &self,
        first: Hello,
        send: &mut SendStream,
        receive: &mut RecvStream,
    ) -> Result<(), ChannelError> {
        let mut next = Some(Box::new(first));
        while let Some(hello) = next {
            let answer = self.hello(&hello).await.map(FactoryMessage::Welcome);
            if !self.answer(send, answer).await? {
                return Ok(());
            }
            let patience = self.factory.limits.hello_interval * HELLOS_MISSED + FIRST_MAX;
            next = match channel::read(receive, patience).await? {
                Some(BoxMessage::Hello(hello)) => Some(hello),
                _ => None,
            };
        }
        Ok(())
    }

    async fn hello(&self, hello: &Hello) -> Result<Welcome, Refused> {
        self.admit().await?;
        let malformed = |what| never(RefusedCode::Malformed, what);
        let epoch: [u8; 16] = hello
            .epoch
            .as_slice()
            .try_into()
            .map_err(|_| malformed("an epoch has 16 bytes"))?;
        if hello.boot_nonce.len() != 16 {
            return Err(malformed("a boot nonce has 16 bytes"));
        }
        let boot =
            self.factory
                .registry
                .boot(&self.appliance, &epoch, hello.boot, &hello.boot_nonce);
        let boot = self
            .factory
            .metrics
            .timed("boot", boot)
            .await
            .map_err(unavailable)?;
        if boot == Boot::Cloned {
            // U-14
            let reason = format!("two machines are in start {} of this spool", hello.boot);
            let marked = self
                .factory
                .registry
                .quarantine(&self.appliance, &epoch, &reason);
            self.factory
                .metrics
                .timed("mark", marked)
                .await
                .map_err(unavailable)?;
            self.know(epoch, true);
        }
        let new_epoch = self.is_quarantined(epoch).await?;
        self.note(hello, new_epoch);
        self.greeted.send_replace(true);
        Ok(Welcome {
            unix_ms: unix_ms(),
            new_epoch,
            hello_interval_s: u32::try_from(self.factory.limits.hello_interval.as_secs())
                .unwrap_or(u32::MAX),
            upload_bytes_per_s_max: self.factory.limits.upload_bytes_per_s_max,
        })
    }

    fn note(&self, hello: &Hello, cloned: bool) {
        let text = |text: &str| text.chars().take(TEXT_CHARS_MAX).collect::<String>();
        let now = unix_ms();
        self.cell.update(|contact| {
            let clones = contact.clones;
            let epoch = hex(&hello.epoch);
            let again = contact.epoch == epoch;
            *contact = Contact {
                unix_ms: now,
                remote: self.remote.clone(),
                agent: text(&hello.agent),
                model: text(&hello.model),
                model_digest: hex(hello.model_digest.get(..32).unwrap_or_default()),
                hardware: text(&hello.hardware),
                epoch,
                boot: hello.boot,
                clock_skew_ms: i64::try_from(i128::from(hello.unix_ms) - i128::from(now))
                    .unwrap_or(i64::MAX),
                spool_bytes: hello.spool_bytes,
                spool_segments: hello.spool_segments,
                records_lost: hello.records_lost,
                requests_served: hello.requests_served,
                trouble: text(&hello.trouble),
                ring: text(&hello.ring),
                rollout: hello.rollout,
                manifest: text(&hello.manifest),
                phase: phase_word(hello.phase()).to_owned(),
                reason: text(&hello.reason),
                clones,
                segments_damaged: contact.segments_damaged,
                progress: std::mem::take(&mut contact.progress),
            };
            // A spool is counted once, at its first Hello after the mark.
            if cloned && !(again && clones > 0) {
                contact.clones += 1;
                self.factory.metrics.clones.inc();
            }
        });
    }

    async fn offer(
        &self,
        offer: &Offer,
        send: &mut SendStream,
        receive: &mut RecvStream,
    ) -> Result<(), ChannelError> {
        if let Err(refused) = self.before_offer(offer).await {
            return self.answer(send, Err(refused)).await.map(drop);
        }
        let epoch = offer.epoch.as_slice().try_into().unwrap_or_default();
        let quarantined = match self.is_quarantined(epoch).await {
            Ok(quarantined) => quarantined,
            Err(refused) => return self.answer(send, Err(refused)).await.map(drop),
        };
        let streams = (send, receive);
        match self
            .factory
            .ingest
            .take(offer, self.appliance, quarantined, streams)
            .await?
        {
            Ok(arrived) => self.arrived(&arrived, quarantined).await,
            Err(refused) if refused.code == i32::from(RefusedCode::Conflict) => {
                self.know(epoch, true);
            }
            Err(refused) => {
                tracing::debug!(
                    appliance = hex(&self.appliance),
                    "refused: {}",
                    refused.message
                );
            }
        }
        Ok(())
    }

    async fn before_offer(&self, offer: &Offer) -> Result<(), Refused> {
        if !*self.greeted.borrow() {
            // Hello and the first offers may be on their way together.
            let mut greeted = self.greeted.subscribe();
            let waited =
                tokio::time::timeout(FIRST_MAX, greeted.wait_for(|greeted| *greeted)).await;
            if !matches!(waited, Ok(Ok(_))) {
                // The registry may be slow to answer the Hello: the segment is not to blame.
                let message = "a box says Hello before it offers a segment";
                return Err(later(RefusedCode::Busy, message, FIRST_MAX));
            }
        }
        if offer.epoch.len() != 16 {
            return Err(never(RefusedCode::Malformed, "an epoch has 16 bytes"));
        }
        self.admit().await
    }

    /// Notes that a segment is there; what it leapt over is looked for first.
    async fn arrived(&self, arrived: &Arrived, quarantined: bool) {
        if arrived.repeated || quarantined {
            return;
        }
        let (epoch, class) = (hex(&arrived.id.epoch), arrived.id.class.number());
        let known = |contact: &Contact| {
            let same = |progress: &&Progress| progress.epoch == epoch && progress.class == class;
            contact.progress.iter().find(same).cloned()
        };
        let before =
            known(&self.cell.read()).unwrap_or_else(|| Progress::new(epoch.clone(), class));
        let present = match before.leap(arrived.id.seq) {
            Some(leap) => self.present(arrived, leap).await,
            None => Vec::new(),
        };
        self.cell.update(|contact| {
            contact.unix_ms = unix_ms();
            contact.segments_damaged += u64::from(arrived.damaged);
            let same = |progress: &Progress| progress.epoch == epoch && progress.class == class;
            if !contact.progress.iter().any(same) {
                contact.progress.push(Progress::new(epoch.clone(), class));
            }
            let progress = contact.progress.iter_mut().find(|progress| same(progress));
            let progress = progress.expect("it was put there");
            progress.arrived(arrived.id.seq, arrived.bytes, &present);
            let excess = contact.progress.len().saturating_sub(PROGRESS_MAX);
            contact.progress.drain(..excess);
        });
    }

    /// Places of a leap that are in the store: another replica took them, and had no time to say so.
    async fn present(&self, arrived: &Arrived, leap: Missing) -> Vec<u64> {
        use futures_util::TryStreamExt as _;
        let key = arrived.id.key();
        let folder: object_store::path::Path = key.parts().take(key.parts_count() - 1).collect();
        let from = folder.clone().join(format!("{:020}", leap.from));
        let seq = |meta: object_store::ObjectMeta| {
            meta.location.filename()?.get(..20)?.parse::<u64>().ok()
        };
        let listed = self
            .factory
            .store
            .objects()
            .list_with_offset(Some(&folder), &from);
        let listed = listed
            .map_ok(seq)
            .try_filter_map(|seq| std::future::ready(Ok(seq)));
        let listed = self
            .factory
            .metrics
            .timed("look", listed.try_collect::<Vec<u64>>())
            .await;
        let listed = listed.unwrap_or_default().into_iter();
        listed
            .filter(|seq| (leap.from..=leap.to).contains(seq))
            .collect()
    }

    /// Sends an answer; whether it was a yes.
    async fn answer(
        &self,
        send: &mut SendStream,
        answer: Result<FactoryMessage, Refused>,
    ) -> Result<bool, ChannelError> {
        let yes = answer.is_ok();
        let message = answer.unwrap_or_else(|refused| {
            self.factory.metrics.refused(refused.code);
            FactoryMessage::Refused(refused)
        });
        channel::send(send, message).await?;
        Ok(yes)
    }

    /// Whether the box still belongs here, as of half a minute ago at most (U-16).
    async fn admit(&self) -> Result<(), Refused> {
        let asked = *self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.elapsed() < KNOWN_FOR {
            return Ok(());
        }
        admit(&self.factory, &self.appliance).await?;
        *self.admitted.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        Ok(())
    }

    async fn is_quarantined(&self, epoch: [u8; 16]) -> Result<bool, Refused> {
        let known = self
            .epochs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&epoch)
            .copied();
        match known {
            // It never ends.
            Some((true, _)) => return Ok(true),
            Some((false, asked)) if asked.elapsed() < KNOWN_FOR => return Ok(false),
            _ => {}
        }
        let asked = self
            .factory
            .registry
            .is_quarantined(&self.appliance, &epoch);
        let quarantined = self
            .factory
            .metrics
            .timed("mark", asked)
            .await
            .map_err(unavailable)?;
        self.know(epoch, quarantined);
        Ok(quarantined)
    }

    fn know(&self, epoch: [u8; 16], quarantined: bool) {
        let mut epochs = self.epochs.lock().unwrap_or_else(PoisonError::into_inner);
        // A box that invents epochs gains nothing by it.
        if epochs.len() >= PROGRESS_MAX {
            epochs.clear();
        }
        epochs.insert(epoch, (quarantined, Instant::now()));
    }
}

/// Whether a box belongs here.
async fn admit(factory: &Factory, appliance: &[u8; 16]) -> Result<(), Refused> {
    let revocation = factory.registry.revocation(appliance);
    match factory
        .metrics
        .timed("admit", revocation)
        .await
        .map_err(unavailable)?
    {
        None => Ok(()),
        Some(revocation) => Err(never(
            RefusedCode::Revoked,
            format!(
                "this box was sent away ({}): enrol it anew if that was wrong",
                revocation.reason
            ),
        )),
    }
}
