//! A round, step by step, as far as it goes now.

use super::folder::Folder;
use super::gate::{Verdict, judge};
use super::label::{JUDGE, LEARN, label, split};
use super::learn::{ADAPTER, train};
use super::release::{Canary, Desk, Signed};
use super::{Ended, Round, RoundError, Settings, cases};
use crate::clock::unix_ms;
use crate::store::Store;

/// What became of a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Too few new cases for a round.
    TooFew {
        /// So many are there.
        found: usize,
        /// So many make a round.
        needed: usize,
    },
    /// Something outside has to happen before the next call can go on.
    Waits {
        /// Which round.
        round: u32,
        /// What.
        what: String,
    },
    /// A round ended.
    Ended {
        /// As it is written down.
        round: Round,
    },
}

/// How often the canary ring is looked at.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_secs(2);

/// Goes on with the round that is not ended, or begins the next one; as far as it goes. `tell` hears of each step.
pub async fn once(
    settings: &Settings,
    store: Store,
    tell: &mut (dyn FnMut(&str) + Send),
) -> Result<Outcome, RoundError> {
    let folder = Folder::lock(&settings.work)?;
    let desk = Desk::new(settings, store.clone())?;
    let rounds = folder.rounds()?;
    let open = rounds.last().filter(|round| round.ended.is_none()).cloned();
    let round = if let Some(round) = open {
        round
    } else {
        let number = u32::try_from(rounds.len()).expect("fewer than 2^32 rounds") + 1;
        let found = cases::choose(settings, &folder, (number, &store), unix_ms()).await?;
        let needed = settings.cases.min;
        if found < needed {
            return Ok(Outcome::TooFew { found, needed });
        }
        let running = desk.running().await?;
        let round = Round {
            number,
            began_unix_ms: unix_ms(),
            model: running.model,
            before: before(&rounds, running.adapter, settings)?,
            ..Round::default()
        };
        folder.store(&round)?;
        tell(&format!("round {number} begins with {found} new cases"));
        round
    };
    let mut work = Work {
        settings,
        folder,
        desk,
        round,
    };
    work.go_on(tell).await
}

/// The round whose adapter a release is; 0 where there is none.
fn before(rounds: &[Round], release: Option<u64>, settings: &Settings) -> Result<u32, RoundError> {
    let Some(release) = release else {
        return Ok(0);
    };
    let made = rounds.iter().find(|round| round.release == release);
    made.map(|round| round.number).ok_or_else(|| {
        RoundError::Settings(format!(
            "the rings have {}@{release}, which no round in {} made: what serves now is not here to compare with",
            settings.model.release,
            settings.work.display()
        ))
    })
}

struct Work<'a> {
    settings: &'a Settings,
    folder: Folder,
    desk: Desk<'a>,
    round: Round,
}

impl Work<'_> {
    async fn go_on(&mut self, tell: &mut (dyn FnMut(&str) + Send)) -> Result<Outcome, RoundError> {
        let number = self.round.number;
        let has = |name: &str| self.folder.of(number, name).exists();
        if !(has(LEARN) && has(JUDGE)) {
            let open = label(&self.settings.labels, &self.folder, number, tell).await?;
            if open > 0 {
                return self.wait(format!(
                    "{open} cases wait for a person: `outstation-factory review` shows them"
                ));
            }
            let (learn, judge) = split(&self.folder, number, self.settings.train.judge_percent)?;
            tell(&format!(
                "{} cases are labelled: {learn} to learn from, {judge} to judge with",
                learn + judge
            ));
            if learn == 0 || judge == 0 {
                let why = "too few cases have a label to learn from and to judge with";
                return self.end(Ended::Refused, why.to_owned());
            }
        }
        if self.round.canary == 0 {
            let running = self.desk.running().await?;
            if running.model != self.round.model {
                let why = format!("the rings run {} by now", running.model);
                return self.end(Ended::Abandoned, why);
            }
        }
        if !self.folder.of(number, ADAPTER).exists() {
            tokio::task::block_in_place(|| train(self.settings, &self.folder, number, tell))?;
        }
        let verdict = judge(self.settings, &self.folder, &self.round, tell).await?;
        if self.round.release == 0 {
            tell(&verdict.line());
        }
        if !verdict.passes() {
            return self.end(Ended::Refused, verdict.reasons.join("; "));
        }
        self.release(&verdict, tell).await
    }

    async fn release(
        &mut self,
        verdict: &Verdict,
        tell: &mut (dyn FnMut(&str) + Send),
    ) -> Result<Outcome, RoundError> {
        assert!(verdict.passes(), "what is worse is never released");
        if self.round.release == 0 {
            match self
                .desk
                .publish(&self.folder, &self.round, unix_ms())
                .await?
            {
                Signed::Waits(what) => return self.sign(what),
                Signed::Done(release) => {
                    self.round.release = release;
                    self.known()?;
                    tell(&format!(
                        "released as {}@{release}",
                        self.settings.model.release
                    ));
                }
            }
        }
        let (release, rings) = (Some(self.round.release), &self.settings.rings);
        if self.round.canary == 0 {
            let given = self
                .desk
                .give(&rings.canary, release, &self.round, unix_ms());
            match given.await? {
                Signed::Waits(what) => return self.sign(what),
                Signed::Done(counter) => {
                    self.round.canary = counter;
                    self.known()?;
                    tell(&format!("ring {} gets it", rings.canary));
                }
            }
        }
        let until = tokio::time::Instant::now() + self.settings.patience();
        loop {
            match self.desk.canary(self.round.canary, unix_ms()).await? {
                Canary::Well => break,
                Canary::Bad(why) => return self.take_back(why).await,
                Canary::Trying(what) if tokio::time::Instant::now() >= until => {
                    return self.wait(what);
                }
                Canary::Trying(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
        tell(&format!("ring {} serves it", rings.canary));
        for ring in &rings.fleet {
            let given = self.desk.give(ring, release, &self.round, unix_ms());
            match given.await? {
                Signed::Waits(what) => return self.sign(what),
                Signed::Done(_) => {
                    self.known()?;
                    tell(&format!("ring {ring} gets it"));
                }
            }
        }
        self.end(Ended::Released, String::new())
    }

    /// The canary ring gets what the others have.
    async fn take_back(&mut self, why: String) -> Result<Outcome, RoundError> {
        let mut release = None;
        if self.round.before > 0 {
            let place = (self.round.before, self.round.release);
            let again = self.desk.republish(&self.folder, place, unix_ms()).await?;
            let mut before = self
                .folder
                .rounds()?
                .swap_remove(self.round.before as usize - 1);
            before.release = again;
            self.folder.store(&before)?;
            release = Some(again);
        }
        let ring = &self.settings.rings.canary;
        let given = self.desk.give(ring, release, &self.round, unix_ms());
        match given.await? {
            Signed::Waits(what) => self.sign(what),
            Signed::Done(_) => self.end(Ended::TakenBack, why),
        }
    }

    /// Nothing is waited for any more.
    fn known(&mut self) -> Result<(), RoundError> {
        self.round.waits.clear();
        self.round.signing = false;
        self.folder.store(&self.round)
    }

    fn sign(&mut self, what: String) -> Result<Outcome, RoundError> {
        self.round.signing = true;
        self.wait(what)
    }

    fn wait(&mut self, what: String) -> Result<Outcome, RoundError> {
        self.round.waits.clone_from(&what);
        self.folder.store(&self.round)?;
        Ok(Outcome::Waits {
            round: self.round.number,
            what,
        })
    }

    fn end(&mut self, ended: Ended, reason: String) -> Result<Outcome, RoundError> {
        self.round.ended = Some(ended);
        self.round.reason = reason;
        self.known()?;
        Ok(Outcome::Ended {
            round: self.round.clone(),
        })
    }
}
