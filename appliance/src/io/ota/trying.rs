//! The trial of a release: tested beside the program, then serving, watched, and kept or taken back.

use std::time::Duration;

use outstation_wire::release::{Manifest, Rollout};
use tokio::time::Instant;

use super::host::{Host, Unfit};
use super::opening::{digest_of, file};
use super::runner::{Order, RoundError, Runner};
use crate::disk::Disk as _;
use crate::fetch::{discard, names};
use crate::slot::{Reason, Release};
use crate::trial::{Verdict, Window, judge};

impl<H: Host> Runner<H> {
    /// The trial of a candidate that is whole: it serves at the end, or what served before does.
    pub(super) async fn trial(&mut self, manifest: &Manifest) -> Result<(), RoundError> {
        let release = Release::of(manifest);
        let rollout = self.rollout.clone().expect("a look leaves it");
        let file = file(&self.settings.folder, &release);
        // What lay on the disk since it was fetched is looked at again.
        if digest_of(&mut self.disk, &manifest.digest()).ok() != Some(manifest.digest()) {
            let [_, _, whole] = names(&manifest.digest());
            self.slots.fetch(&mut self.disk)?;
            let _ = self.disk.remove(&whole);
            discard(&mut self.disk, &manifest.digest())?;
            return Ok(());
        }
        let before = self.host.window();
        let began = Instant::now();
        self.slots.load(&mut self.disk)?;
        self.report("release.trial", &release, "");
        self.show(None, None);
        let within = Duration::from_secs(rollout.gates.load_s_max);
        let tested = match self.host.test(&file, within).await {
            Ok(tested) => tested,
            Err(unfit) => return self.take_back(&unfit, began).await,
        };
        self.slots.test(&mut self.disk)?;
        self.slots.soak(&mut self.disk)?;
        if let Err(unfit) = self.host.serve(Some(&file), Some(&manifest.name)).await {
            return self.take_back(&unfit, began).await;
        }
        tracing::info!(
            release = %release,
            load_s = tested.load_s,
            "a release is on trial: it serves, and may be taken back"
        );
        match self.soak(&rollout, &before).await? {
            Ended::Stays => {
                self.slots.commit(&mut self.disk)?;
                self.report("release.committed", &release, "");
                tracing::info!(release = %release, "a release is committed");
                Ok(())
            }
            Ended::Goes(unfit) => self.take_back(&unfit, began).await,
        }
    }

    /// Watches a model that serves until it is clear what becomes of it.
    async fn soak(&mut self, rollout: &Rollout, before: &Window) -> Result<Ended, RoundError> {
        let began = Instant::now();
        let (least, most) = (
            Duration::from_secs(rollout.soak_s),
            Duration::from_secs(rollout.deadline_s),
        );
        loop {
            let now = self.host.window();
            self.show(Some(now.requests()), None);
            let verdict = judge(before, &now, &rollout.gates);
            let elapsed = began.elapsed();
            match verdict {
                Verdict::Fail(text) => {
                    return Ok(Ended::Goes(Unfit {
                        reason: Reason::Gate,
                        text,
                    }));
                }
                Verdict::Pass if elapsed >= least => return Ok(Ended::Stays),
                // Nobody asks: the golden texts were its trial.
                Verdict::Wait if elapsed >= most || (elapsed >= least && now.requests() == 0) => {
                    return Ok(Ended::Stays);
                }
                Verdict::Pass | Verdict::Wait => {}
            }
            tokio::select! {
                () = tokio::time::sleep(WATCH_EVERY) => {}
                order = self.orders.recv() => {
                    let Some((order, answer)) = order else {
                        // The box goes down: after the next start the trial begins again.
                        std::future::pending::<()>().await;
                        continue;
                    };
                    let ended = match order {
                        Order::Commit => Some(Ended::Stays),
                        Order::Rollback => Some(Ended::Goes(Unfit {
                            reason: Reason::Operator,
                            text: "an operator took it back".to_owned(),
                        })),
                        _ => None,
                    };
                    let busy = || "a release is on trial: commit or roll it back first".to_owned();
                    let _ = answer.send(ended.as_ref().map(|_| ()).ok_or_else(busy));
                    if let Some(ended) = ended {
                        return Ok(ended);
                    }
                }
            }
        }
    }

    /// Loads what is committed, in place of what serves.
    pub(super) async fn serve_committed(&mut self) -> Result<(), Unfit> {
        match self.slots.state().committed.clone() {
            Some(release) => {
                let file = file(&self.settings.folder, &release);
                self.host.serve(Some(&file), Some(&release.name)).await
            }
            None => self.host.serve(None, None).await,
        }
    }

    /// The candidate failed: what served before serves again, and the factory hears of it.
    async fn take_back(&mut self, unfit: &Unfit, began: Instant) -> Result<(), RoundError> {
        self.reject(unfit)?;
        let served = self.serve_committed().await;
        self.slots.rolled_back(&mut self.disk)?;
        self.report_rejected();
        tracing::warn!(
            "a release was taken back after {:.1} s: {}",
            began.elapsed().as_secs_f64(),
            unfit.text
        );
        served.map_err(|unfit| RoundError::NoModel(unfit.text))
    }
}

/// What becomes of a model on trial.
enum Ended {
    Stays,
    Goes(Unfit),
}

/// How often a trial is looked at.
const WATCH_EVERY: Duration = Duration::from_millis(500);
