//! Which model serves, which one wants to, and what was taken back: the state of a box's models, over any power cut.
//!
//! ```text
//!             offer        verified       load       test        canary       soak       commit
//! committed ──────▶ FETCHING ────▶ VERIFIED ──▶ LOADING ──▶ SELF-TEST ──▶ CANARY ──▶ SOAK ──────▶ committed
//!     ▲                │  ▲           │            │            │           │         │           (old: previous)
//!     │  abandon       │  └─ fetch ───┤            └──── reject ┴───────────┴─────────┘
//!     ├────────────────┴──────────────┘                         ▼
//!     └───────────────────── rolled_back, its digest is remembered ── ROLLING BACK
//! ```
//!
//! Each arrow is one durable write of the superblock, before the action that it allows: so after a cut the phase is the
//! old one or the new one, and [`Slots::restart`] says how to go on. The committed model is what serves after a start,
//! whatever the candidate did. Tries are spent only by loading: switching a box off and on again costs none.

use prost::Message;

use crate::disk::{Disk, DiskError};
use crate::superblock::{Found, Layout, Superblock, SuperblockError};

mod stored;
#[cfg(test)]
mod tests;

pub(crate) use stored::stem;
pub use stored::{Adapter, Candidate, Floors, Phase, Reason, Rejected, Release, State};

/// The two copies.
pub const LAYOUT: Layout = Layout {
    names: ["models.a", "models.b"],
    kind: 2,
    version: 1,
    bytes: 16 << 10,
};

/// Times that a release is loaded before it is taken for one that ends the program.
pub const TRIES: u32 = 3;
/// Changes of phase of one release: what goes round and round is rejected.
const TRANSITIONS_MAX: u32 = 64;
/// Rejected releases that are remembered; the oldest makes room.
const REJECTED_MAX: usize = 16;
/// Names whose highest release is remembered.
const NAMES_MAX: usize = 24;
/// Adapters that serve.
pub const ADAPTERS_MAX: usize = 8;
/// Characters of a reason.
const REASON_CHARS_MAX: usize = 100;

/// The state, on its disk.
pub struct Slots<D: Disk> {
    block: Superblock<D>,
    state: State,
}

/// What [`Slots::open`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// Nothing was ever stored.
    New,
    /// The last state.
    Found,
    /// Both copies are damaged: nothing is installed until somebody confirms.
    Lost,
}

/// Why a release is not offered a place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Declined {
    /// It serves.
    #[error("it is what serves")]
    Committed,
    /// Another one is under way.
    #[error("`{0}` is under way")]
    Busy(String),
    /// An operator holds what serves.
    #[error("the model is pinned: `outstation models unpin` lets releases come in again")]
    Pinned,
    /// The state was lost.
    #[error(
        "the state of the models was lost with both copies: look what serves, then `outstation models confirm` lets releases \
         come in again"
    )]
    Unconfirmed,
    /// It was taken back.
    #[error("it was rejected: {0}")]
    Rejected(String),
    /// The box has seen a later one.
    #[error("release {offered} of `{name}` is older than {seen}, which this box has had")]
    Older {
        /// Of the release.
        name: String,
        /// Its number.
        offered: u64,
        /// The highest.
        seen: u64,
    },
    /// There are as many adapters as fit.
    #[error("{ADAPTERS_MAX} adapters are there: retire one first")]
    Adapters,
}

/// Why the state did not change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// It could not be stored; what was stands.
    #[error("the state of the models cannot be stored: {0}")]
    Disk(#[from] DiskError),
    /// The release may not come in.
    #[error("{0}")]
    Declined(#[from] Declined),
    /// There is nothing to go back to.
    #[error("there is no model to go back to: the one before was removed, or there was none")]
    NoPrevious,
    /// There is no candidate.
    #[error("no release is under way")]
    NoCandidate,
}

/// How to go on after a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// Nothing is under way.
    Idle,
    /// Fetch on.
    Fetch,
    /// It is on the disk, whole.
    Wait,
    /// It was on trial when the program ended, for the last time: it is rejected.
    Rejected,
}

impl<D: Disk> Slots<D> {
    /// Opens the state, or begins one.
    pub fn open(disk: &mut D) -> Result<(Self, Opened), SuperblockError> {
        let (block, found) = Superblock::open(disk, LAYOUT)?;
        let Found { payload, is_new } = found;
        let decoded = payload.and_then(|payload| State::decode(&payload[..]).ok());
        let opened = match (&decoded, is_new) {
            (Some(_), _) => Opened::Found,
            (None, true) => Opened::New,
            (None, false) => Opened::Lost,
        };
        let state = decoded.unwrap_or_else(|| State {
            unconfirmed: opened == Opened::Lost,
            ..State::default()
        });
        Ok((Self { block, state }, opened))
    }

    /// What is.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Before anything else after a start.
    pub fn restart(&mut self, disk: &mut D) -> Result<Resume, SlotError> {
        let Some(candidate) = &self.state.candidate else {
            return Ok(Resume::Idle);
        };
        match candidate.phase() {
            Phase::Fetching => Ok(Resume::Fetch),
            Phase::Verified => Ok(Resume::Wait),
            Phase::RollingBack => {
                self.rolled_back(disk)?;
                Ok(Resume::Rejected)
            }
            _ if candidate.tries_left == 0 => {
                let text = format!("the program ended {TRIES} times while it was on trial");
                self.reject(disk, Reason::Crashed, &text)?;
                self.rolled_back(disk)?;
                Ok(Resume::Rejected)
            }
            _ => {
                self.phase(disk, Phase::Verified)?;
                Ok(Resume::Wait)
            }
        }
    }

    /// Whether a release may come in now.
    pub fn may(&self, release: &Release, adapter: Option<&str>) -> Result<(), Declined> {
        let state = &self.state;
        if state.unconfirmed {
            return Err(Declined::Unconfirmed);
        }
        let serves = match adapter {
            None => state.committed.as_ref(),
            Some(name) => state.adapter(name),
        };
        if serves.is_some_and(|serves| serves.digest == release.digest) {
            return Err(Declined::Committed);
        }
        if state.pinned {
            return Err(Declined::Pinned);
        }
        if let Some(rejected) = state.rejection(release) {
            return Err(Declined::Rejected(rejected.text.clone()));
        }
        let seen = state.highest(&release.name);
        if release.release < seen {
            return Err(Declined::Older {
                name: release.name.clone(),
                offered: release.release,
                seen,
            });
        }
        if let Some(candidate) = &state.candidate {
            return Err(Declined::Busy(candidate.release().to_string()));
        }
        if adapter.is_some_and(|name| state.adapter(name).is_none())
            && state.adapters.len() >= ADAPTERS_MAX
        {
            return Err(Declined::Adapters);
        }
        Ok(())
    }

    /// Takes a release on: from here its bytes may be fetched. `adapter`: the name that it is to have, if it is one;
    /// `rollout`: the counter of the rollout that brings it.
    pub fn offer(
        &mut self,
        disk: &mut D,
        release: Release,
        adapter: Option<&str>,
        rollout: u64,
    ) -> Result<(), SlotError> {
        self.may(&release, adapter)?;
        let candidate = Candidate {
            release: Some(release),
            adapter: adapter.unwrap_or_default().to_owned(),
            phase: Phase::Fetching.into(),
            tries_left: TRIES,
            rollout,
            ..Candidate::default()
        };
        self.store(disk, |state| state.candidate = Some(candidate))
    }

    /// All bytes are there and are those that were signed.
    pub fn verified(&mut self, disk: &mut D) -> Result<(), SlotError> {
        self.expect(&[Phase::Fetching]);
        self.phase(disk, Phase::Verified)
    }

    /// Bytes of it went bad on the disk.
    pub fn fetch(&mut self, disk: &mut D) -> Result<(), SlotError> {
        self.expect(&[Phase::Verified]);
        self.phase(disk, Phase::Fetching)
    }

    /// Gives it up without a word against it: another release takes its place, or its rollout was stopped. What is
    /// committed has all requests again after that.
    pub fn abandon(&mut self, disk: &mut D) -> Result<(), SlotError> {
        self.expect(&[
            Phase::Fetching,
            Phase::Verified,
            Phase::Loading,
            Phase::SelfTest,
            Phase::Canary,
            Phase::Soak,
        ]);
        self.store(disk, |state| state.candidate = None)
    }

    /// It is about to be loaded: spends a try.
    pub fn load(&mut self, disk: &mut D) -> Result<(), SlotError> {
        self.expect(&[Phase::Verified]);
        let spend = |candidate: &mut Candidate| {
            candidate.tries_left = candidate
                .tries_left
                .checked_sub(1)
                .expect("restart looked at the tries");
        };
        self.advance(disk, Phase::Loading, spend)
    }

    /// It is loaded, and is about to be tested.
    pub fn test(&mut self, disk: &mut D) -> Result<(), SlotError> {
        self.expect(&[Phase::Loading]);
        self.phase(disk, Phase::SelfTest)
    }

    /// It is about to get this share of new requests.
    pub fn canary(&mut self, disk: &mut D, percent: u32) -> Result<(), SlotError> {
        self.expect(&[Phase::SelfTest, Phase::Canary]);
        self.advance(disk, Phase::Canary, |candidate| candidate.percent = percent)
    }

    /// It is about to get all new requests, and may still be taken back by itself.
    pub fn soak(&mut self, disk: &mut D) -> Result<(), SlotError> {
        self.expect(&[Phase::SelfTest, Phase::Canary]);
        self.advance(disk, Phase::Soak, |candidate| candidate.percent = 100)
    }

    /// It passed.
    pub fn commit(&mut self, disk: &mut D) -> Result<(), SlotError> {
        self.expect(&[Phase::Soak]);
        self.store(disk, |state| {
            let candidate = state.candidate.take().expect("it was looked at");
            let release = candidate.release().clone();
            state.note_highest(&release);
            if candidate.adapter.is_empty() {
                // Adapters belong to the model that they were made for.
                state.adapters.clear();
                state.previous = state.committed.replace(release);
                state.has_previous = true;
            } else {
                state
                    .adapters
                    .retain(|adapter| adapter.name != candidate.adapter);
                state.adapters.push(Adapter {
                    name: candidate.adapter,
                    release: Some(release),
                });
            }
        })
    }

    /// It failed: it is about to be taken back, and is not tried again.
    pub fn reject(&mut self, disk: &mut D, reason: Reason, text: &str) -> Result<(), SlotError> {
        let text: String = text.chars().take(REASON_CHARS_MAX).collect();
        self.advance(disk, Phase::RollingBack, |candidate| {
            candidate.reason = reason.into();
            candidate.text = text;
        })
    }

    /// The committed model has all requests again.
    pub fn rolled_back(&mut self, disk: &mut D) -> Result<(), SlotError> {
        self.expect(&[Phase::RollingBack]);
        self.store(disk, |state| {
            let candidate = state.candidate.take().expect("it was looked at");
            state.note_rejected(Rejected {
                reason: candidate.reason,
                text: candidate.text.clone(),
                release: candidate.release,
            });
        })
    }

    /// An operator goes back to the model before, for good.
    pub fn back(&mut self, disk: &mut D) -> Result<(), SlotError> {
        if self.state.candidate.is_some() {
            let busy = self
                .state
                .candidate
                .as_ref()
                .map(|candidate| candidate.release().to_string());
            return Err(Declined::Busy(busy.unwrap_or_default()).into());
        }
        if !self.state.has_previous {
            return Err(SlotError::NoPrevious);
        }
        self.store(disk, |state| {
            let from = std::mem::replace(&mut state.committed, state.previous.take());
            state.has_previous = false;
            state.adapters.clear();
            state.note_rejected(Rejected {
                release: from,
                reason: Reason::Operator.into(),
                text: "an operator went back to the model before".into(),
            });
        })
    }

    /// An operator holds what serves, or lets go.
    pub fn pin(&mut self, disk: &mut D, pinned: Pinned) -> Result<(), SlotError> {
        self.store(disk, |state| state.pinned = pinned == Pinned::Yes)
    }

    /// An operator has looked at what serves after both copies were lost; or what was rejected may come again.
    pub fn confirm(&mut self, disk: &mut D, forget: Forget) -> Result<(), SlotError> {
        self.store(disk, |state| {
            state.unconfirmed = false;
            if forget == Forget::Rejections {
                state.rejected.clear();
            }
        })
    }

    /// What serves is this one, of which the state was lost. Nothing is installed before somebody confirms it.
    pub fn adopt(&mut self, disk: &mut D, release: Release) -> Result<(), SlotError> {
        assert!(self.state.unconfirmed, "only a lost state is guessed");
        self.store(disk, |state| {
            state.note_highest(&release);
            state.committed = Some(release);
        })
    }

    /// The committed model's file went bad: the one before serves, if it is whole, or the model of the configuration.
    /// The release may come in again.
    pub fn damaged(&mut self, disk: &mut D, previous_is_whole: bool) -> Result<(), SlotError> {
        self.store(disk, |state| {
            let previous = state.previous.take().filter(|_| previous_is_whole);
            state.committed = previous;
            state.has_previous = false;
            state.adapters.clear();
        })
    }

    /// An adapter that no rollout has any more goes.
    pub fn retire(&mut self, disk: &mut D, adapter: &str) -> Result<(), SlotError> {
        self.store(disk, |state| {
            state.adapters.retain(|kept| kept.name != adapter);
        })
    }

    /// What the metadata must not go below from here on; nothing is stored where nothing rose.
    pub fn raise(&mut self, disk: &mut D, floors: &Floors) -> Result<(), SlotError> {
        let mut raised = self.state.floors.unwrap_or_default();
        raised.raise(floors);
        if Some(raised) == self.state.floors {
            return Ok(());
        }
        self.store(disk, |state| state.floors = Some(raised))
    }

    /// Whether a model's file must stay: it serves, could be gone back to, or is on its way.
    pub fn keeps(&self, digest: &[u8]) -> bool {
        self.kept().any(|release| release.digest == digest)
    }

    /// All whose files must stay.
    pub fn kept(&self) -> impl Iterator<Item = &Release> {
        let state = &self.state;
        let adapters = state
            .adapters
            .iter()
            .filter_map(|adapter| adapter.release.as_ref());
        let candidate = state.candidate.iter().map(Candidate::release);
        adapters
            .chain(candidate)
            .chain(&state.committed)
            .chain(&state.previous)
    }

    /// Makes room for the next model: what could be gone back to is given up.
    pub fn forget_previous(&mut self, disk: &mut D) -> Result<(), SlotError> {
        self.store(disk, |state| {
            state.previous = None;
            state.has_previous = false;
        })
    }

    fn expect(&self, phases: &[Phase]) {
        let phase = self.state.candidate.as_ref().map(Candidate::phase);
        assert!(
            phase.is_some_and(|phase| phases.contains(&phase)),
            "the candidate is in phase {phase:?}, not in one of {phases:?}"
        );
    }

    fn phase(&mut self, disk: &mut D, phase: Phase) -> Result<(), SlotError> {
        self.advance(disk, phase, |_| {})
    }

    /// Changes the candidate, which goes to another phase.
    fn advance(
        &mut self,
        disk: &mut D,
        phase: Phase,
        change: impl FnOnce(&mut Candidate),
    ) -> Result<(), SlotError> {
        let mut candidate = self.state.candidate.clone().ok_or(SlotError::NoCandidate)?;
        candidate.transitions += 1;
        candidate.set_phase(phase);
        change(&mut candidate);
        if candidate.transitions > TRANSITIONS_MAX && phase != Phase::RollingBack {
            candidate.set_phase(Phase::RollingBack);
            candidate.set_reason(Reason::Restless);
            candidate.text = format!("it changed its phase {TRANSITIONS_MAX} times without an end");
        }
        self.store(disk, |state| state.candidate = Some(candidate))
    }

    /// One durable write. After an error what was stands.
    fn store(&mut self, disk: &mut D, change: impl FnOnce(&mut State)) -> Result<(), SlotError> {
        let mut state = self.state.clone();
        change(&mut state);
        let bytes = state.encode_to_vec();
        self.block.store(disk, &bytes)?;
        self.state = state;
        Ok(())
    }
}

/// Whether an operator holds what serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pinned {
    /// Nothing comes in.
    Yes,
    /// Releases may come in.
    No,
}

/// What [`Slots::confirm`] forgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forget {
    /// Nothing.
    Nothing,
    /// What was rejected may be tried again.
    Rejections,
}
