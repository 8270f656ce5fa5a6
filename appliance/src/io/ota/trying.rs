//! The trial of a release: tested beside the program, then serving, watched, and kept or taken back.

use std::time::Duration;

use outstation_wire::release::{Manifest, Rollout};
use tokio::time::Instant;

use super::host::{Host, Unfit, Way};
use super::opening::{digest_of, file};
use super::runner::{Order, RoundError, Runner};
use crate::disk::Disk as _;
use crate::fetch::{discard, names};
use crate::slot::{Reason, Release};
use crate::trial::{Verdict, Window, judge};

impl<H: Host> Runner<H> {
    /// The trial of a candidate that is whole: it serves at the end, or what served before does.
    pub(super) async fn trial(&mut self, manifest: &Manifest) -> Result<(), RoundError> {
        if !self.is_still_whole(manifest)? {
            return Ok(());
        }
        let mut trial = Trial {
            release: Release::of(manifest),
            rollout: self.rollout.clone().expect("a look leaves it"),
            before: self.host.seen().candidate,
            began: Instant::now(),
            way: None,
            kept: false,
        };
        self.slots.load(&mut self.disk)?;
        let ended = match self.try_it(&mut trial, manifest).await {
            Ok(ended) => ended,
            Err(error) => {
                // The state could not be stored: the next round begins again.
                let _ = self.leave(trial.way).await;
                return Err(error);
            }
        };
        let release = &trial.release;
        match ended {
            Ended::Stays => {
                self.slots.commit(&mut self.disk)?;
                self.host.keep();
                self.report("release.committed", release, "");
                tracing::info!(%release, "a release is committed");
                Ok(())
            }
            Ended::Goes(unfit) => self.take_back(&unfit, &trial).await,
            Ended::Stopped => {
                self.slots.abandon(&mut self.disk)?;
                let left = self.leave(trial.way).await;
                self.report("release.abandoned", release, "stopped");
                left.map_err(|unfit| RoundError::NoModel(unfit.text))
            }
        }
    }

    /// What lay on the disk since it was fetched is looked at again: where it went bad it is fetched again.
    pub(super) fn is_still_whole(&mut self, manifest: &Manifest) -> Result<bool, RoundError> {
        if digest_of(&mut self.disk, &manifest.digest()).ok() == Some(manifest.digest()) {
            return Ok(true);
        }
        let [_, _, whole] = names(&manifest.digest());
        self.slots.fetch(&mut self.disk)?;
        let _ = self.disk.remove(&whole);
        discard(&mut self.disk, &manifest.digest())?;
        Ok(false)
    }

    async fn try_it(
        &mut self,
        trial: &mut Trial,
        manifest: &Manifest,
    ) -> Result<Ended, RoundError> {
        let (release, rollout) = (trial.release.clone(), trial.rollout.clone());
        let file = file(&self.settings.folder, &release);
        self.report("release.trial", &release, "");
        self.show(None, None);
        let way = match self.host.way(&file).await {
            Ok(way) => *trial.way.insert(way),
            Err(unfit) => return Ok(Ended::Goes(unfit)),
        };
        let within = Duration::from_secs(rollout.gates.load_s_max);
        let tested = match self.host.test(&file, way, within).await {
            Ok(tested) => tested,
            Err(unfit) => return Ok(Ended::Goes(unfit)),
        };
        self.slots.test(&mut self.disk)?;
        if way == Way::Instead {
            self.slots.soak(&mut self.disk)?;
        }
        let serves = match way {
            Way::Beside => self.host.add(&file, &manifest.name).await,
            Way::Instead => {
                let model = (&*file, &*manifest.name);
                self.host.serve(Some(model), &[]).await
            }
        };
        if let Err(unfit) = serves {
            return Ok(Ended::Goes(unfit));
        }
        tracing::info!(
            %release,
            load_s = tested.load_s,
            ?way,
            "a release is on trial: it serves, and may be taken back"
        );
        if way == Way::Beside {
            for &percent in &rollout.canary_percent {
                self.slots.canary(&mut self.disk, percent)?;
                self.host.share(percent);
                match self.watch(trial, percent).await? {
                    Ended::Stays => {}
                    ended => return Ok(ended),
                }
                if trial.kept {
                    break;
                }
            }
            self.slots.soak(&mut self.disk)?;
            self.host.share(100);
        }
        self.watch(trial, 100).await
    }

    /// Watches a model that has a share of the requests until it is clear what becomes of it.
    async fn watch(&mut self, trial: &mut Trial, percent: u32) -> Result<Ended, RoundError> {
        if trial.kept {
            return Ok(Ended::Stays);
        }
        let rollout = trial.rollout.clone();
        let began = Instant::now();
        let mut looked = began;
        let (least, most) = (
            Duration::from_secs(rollout.soak_s),
            Duration::from_secs(rollout.deadline_s),
        );
        loop {
            let seen = self.host.seen();
            // Who has more of the requests runs them in larger batches, so a small share is compared with the rest, and
            // a large one with what was before.
            let before = match &seen.beside {
                Some(beside) if percent <= 50 => beside,
                _ => &trial.before,
            };
            let now = &seen.candidate;
            self.show(Some(now.requests()), None);
            let elapsed = began.elapsed();
            match judge(before, now, &rollout.gates) {
                Verdict::Fail(text) => {
                    return Ok(Ended::Goes(Unfit {
                        reason: Reason::Gate,
                        text,
                    }));
                }
                Verdict::Pass if elapsed >= least => return Ok(Ended::Stays),
                // Nobody asks: the golden texts were its trial.
                Verdict::Wait
                    if trial.began.elapsed() >= most
                        || (elapsed >= least && now.requests() == 0) =>
                {
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
                        trial.kept = matches!(ended, Ended::Stays);
                        return Ok(ended);
                    }
                }
            }
            if looked.elapsed() >= self.settings.interval {
                looked = Instant::now();
                if !self.is_wanted(&trial.release).await {
                    return Ok(Ended::Stopped);
                }
            }
        }
    }

    /// Whether the ring still wants a release that is on trial; true where nobody answers.
    async fn is_wanted(&mut self, release: &Release) -> bool {
        match tokio::time::timeout(LOOK_MAX, self.rollout_now()).await {
            Ok(Ok((rollout, _))) => {
                let manifest = Manifest::path_of(&release.name, release.release);
                !rollout.stop && rollout.manifest == manifest
            }
            Ok(Err(_)) | Err(_) => true,
        }
    }

    /// Loads what is committed, in place of what serves.
    pub(super) async fn serve_committed(&mut self) -> Result<(), Unfit> {
        let adapters = self.adapters();
        match self.slots.state().committed.clone() {
            Some(release) => {
                let file = file(&self.settings.folder, &release);
                self.host
                    .serve(Some((&file, &release.name)), &adapters)
                    .await
            }
            None => self.host.serve(None, &[]).await,
        }
    }

    /// What served before serves all requests again.
    async fn leave(&mut self, way: Option<Way>) -> Result<(), Unfit> {
        match way {
            None => Ok(()),
            Some(Way::Beside) => {
                self.host.withdraw();
                Ok(())
            }
            Some(Way::Instead) => self.serve_committed().await,
        }
    }

    /// The candidate failed: what served before serves again, and the factory hears of it.
    async fn take_back(&mut self, unfit: &Unfit, trial: &Trial) -> Result<(), RoundError> {
        self.reject(unfit)?;
        let served = self.leave(trial.way).await;
        self.slots.rolled_back(&mut self.disk)?;
        self.report_rejected();
        tracing::warn!(
            "a release was taken back after {:.1} s: {}",
            trial.began.elapsed().as_secs_f64(),
            unfit.text
        );
        served.map_err(|unfit| RoundError::NoModel(unfit.text))
    }
}

/// A trial under way.
struct Trial {
    release: Release,
    /// As it was when the trial began: its gates do not change under way.
    rollout: Rollout,
    /// What requests saw of the model before it, when that had all of them.
    before: Window,
    began: Instant,
    /// How it comes in, once that is decided.
    way: Option<Way>,
    /// An operator has seen enough.
    kept: bool,
}

/// What becomes of a model on trial.
enum Ended {
    Stays,
    Goes(Unfit),
    /// Its ring does not want it any more. Nothing speaks against it.
    Stopped,
}

/// How often a trial is looked at.
const WATCH_EVERY: Duration = Duration::from_millis(500);

/// How long a look at the rollout may keep the gates of a trial waiting.
const LOOK_MAX: Duration = Duration::from_secs(5);
