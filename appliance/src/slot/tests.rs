use super::*;
use crate::disk::DiskError;

/// A disk in memory that never fails.
#[derive(Default)]
struct Memory(std::collections::BTreeMap<String, std::rc::Rc<std::cell::RefCell<Vec<u8>>>>);

impl Disk for Memory {
    type File = std::rc::Rc<std::cell::RefCell<Vec<u8>>>;

    fn create(&mut self, name: &str, bytes: u64) -> Result<Self::File, DiskError> {
        let file = Self::File::default();
        file.borrow_mut().resize(usize::try_from(bytes).unwrap(), 0);
        self.0.insert(name.to_owned(), file.clone());
        Ok(file)
    }

    fn open(&mut self, name: &str) -> Result<Self::File, DiskError> {
        self.0.get(name).cloned().ok_or(DiskError::Missing)
    }

    fn length(&mut self, file: &Self::File) -> Result<u64, DiskError> {
        Ok(file.borrow().len() as u64)
    }

    fn read(
        &mut self,
        file: &Self::File,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize, DiskError> {
        let offset = usize::try_from(offset).unwrap();
        buffer.copy_from_slice(&file.borrow()[offset..offset + buffer.len()]);
        Ok(buffer.len())
    }

    fn write(&mut self, file: &Self::File, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let offset = usize::try_from(offset).unwrap();
        file.borrow_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn cut(&mut self, _: &Self::File, _: u64) -> Result<(), DiskError> {
        unreachable!("a superblock is never cut")
    }

    fn sync(&mut self, _: &Self::File) -> Result<(), DiskError> {
        Ok(())
    }

    fn sync_folder(&mut self) -> Result<(), DiskError> {
        Ok(())
    }

    fn rename(&mut self, _: &str, _: &str) -> Result<(), DiskError> {
        unreachable!("a superblock is never renamed")
    }

    fn remove(&mut self, name: &str) -> Result<(), DiskError> {
        self.0.remove(name).map(drop).ok_or(DiskError::Missing)
    }

    fn list(&mut self, _: &mut dyn FnMut(&str, u64)) -> Result<(), DiskError> {
        unreachable!("a superblock knows its names")
    }
}

fn release(number: u64) -> Release {
    Release {
        name: "site".into(),
        release: number,
        digest: vec![u8::try_from(number).unwrap(); 32],
        bytes: 1000,
    }
}

struct Bench {
    disk: Memory,
    slots: Slots<Memory>,
}

impl Bench {
    fn new() -> Self {
        let mut disk = Memory::default();
        let (slots, opened) = Slots::open(&mut disk).unwrap();
        assert_eq!(opened, Opened::New);
        Self { disk, slots }
    }

    fn offer(&mut self, number: u64) -> Result<(), SlotError> {
        self.slots.offer(&mut self.disk, release(number), None, 1)
    }

    fn begin_loading(&mut self, number: u64) {
        self.offer(number).unwrap();
        self.slots.verified(&mut self.disk).unwrap();
        self.slots.load(&mut self.disk).unwrap();
    }

    fn install(&mut self, number: u64) {
        self.begin_loading(number);
        self.slots.test(&mut self.disk).unwrap();
        self.slots.canary(&mut self.disk, 10).unwrap();
        self.slots.soak(&mut self.disk).unwrap();
        self.slots.commit(&mut self.disk).unwrap();
    }

    /// The program ends and starts again.
    fn again(&mut self) -> Resume {
        let (slots, opened) = Slots::open(&mut self.disk).unwrap();
        assert_eq!(opened, Opened::Found);
        assert_eq!(
            slots.state(),
            self.slots.state(),
            "every transition was stored"
        );
        self.slots = slots;
        self.slots.restart(&mut self.disk).unwrap()
    }

    fn declined(&mut self, number: u64) -> String {
        self.offer(number).unwrap_err().to_string()
    }
}

#[test]
fn a_release_that_passes_is_committed_and_the_old_one_is_kept() {
    let mut bench = Bench::new();
    bench.install(1);
    assert_eq!(bench.again(), Resume::Idle);
    bench.install(2);
    let state = bench.slots.state();
    assert_eq!(state.committed, Some(release(2)));
    assert_eq!(state.previous, Some(release(1)));
    assert!(bench.slots.keeps(&[1; 32]) && bench.slots.keeps(&[2; 32]));
    assert!(!bench.slots.keeps(&[3; 32]));
}

#[test]
fn a_restart_in_a_trial_spends_no_try_but_the_load_did() {
    let mut bench = Bench::new();
    bench.offer(1).unwrap();
    assert_eq!(bench.again(), Resume::Fetch);
    bench.slots.verified(&mut bench.disk).unwrap();
    for _ in 0..10 {
        // A box that is switched off and on again.
        assert_eq!(bench.again(), Resume::Wait);
    }
    for left in (0..TRIES).rev() {
        bench.slots.load(&mut bench.disk).unwrap();
        let candidate = bench.slots.state().candidate.as_ref().unwrap();
        assert_eq!(candidate.tries_left, left);
        let resume = bench.again();
        assert_eq!(
            resume,
            if left > 0 {
                Resume::Wait
            } else {
                Resume::Rejected
            }
        );
    }
    let rejected = &bench.slots.state().rejected[0];
    assert_eq!(rejected.reason(), Reason::Crashed);
    assert_eq!(
        bench.slots.state().committed,
        None,
        "what served before serves"
    );
    assert_eq!(
        bench.declined(1),
        "it was rejected: the program ended 3 times while it was on trial"
    );
    bench.offer(2).unwrap();
}

#[test]
fn what_failed_is_rolled_back_also_over_a_restart_and_never_tried_again() {
    let mut bench = Bench::new();
    bench.install(1);
    bench.begin_loading(2);
    bench
        .slots
        .reject(&mut bench.disk, Reason::Gate, "too slow")
        .unwrap();
    assert_eq!(bench.again(), Resume::Rejected);
    assert_eq!(bench.slots.state().committed, Some(release(1)));
    assert_eq!(bench.declined(2), "it was rejected: too slow");
    bench
        .slots
        .confirm(&mut bench.disk, Forget::Rejections)
        .unwrap();
    bench.offer(2).unwrap();
}

#[test]
fn older_releases_and_what_serves_are_declined_also_after_going_back() {
    let mut bench = Bench::new();
    bench.install(5);
    assert_eq!(bench.declined(5), "it is what serves");
    assert_eq!(
        bench.declined(4),
        "release 4 of `site` is older than 5, which this box has had"
    );
    bench.install(6);
    bench.slots.back(&mut bench.disk).unwrap();
    assert_eq!(bench.slots.state().committed, Some(release(5)));
    assert_eq!(
        bench.declined(6),
        "it was rejected: an operator went back to the model before"
    );
    let none = bench.slots.back(&mut bench.disk).unwrap_err();
    assert_eq!(none, SlotError::NoPrevious);
}

#[test]
fn one_comes_in_at_a_time_and_none_while_pinned() {
    let mut bench = Bench::new();
    bench.offer(1).unwrap();
    assert_eq!(bench.declined(2), "`site@1` is under way");
    bench.slots.abandon(&mut bench.disk).unwrap();
    bench.slots.pin(&mut bench.disk, Pinned::Yes).unwrap();
    assert_eq!(
        bench.declined(2),
        "the model is pinned: `outstation models unpin` lets releases come in again"
    );
    bench.slots.pin(&mut bench.disk, Pinned::No).unwrap();
    bench.offer(2).unwrap();
}

#[test]
fn both_copies_bad_is_safe_mode_until_somebody_confirms() {
    let mut bench = Bench::new();
    bench.install(1);
    for name in LAYOUT.names {
        bench.disk.0[name].borrow_mut()[20] ^= 1;
    }
    let (slots, opened) = Slots::open(&mut bench.disk).unwrap();
    assert_eq!(opened, Opened::Lost);
    bench.slots = slots;
    bench.slots.adopt(&mut bench.disk, release(1)).unwrap();
    assert_eq!(bench.slots.state().committed, Some(release(1)));
    assert!(
        bench
            .declined(2)
            .starts_with("the state of the models was lost")
    );
    assert_eq!(bench.again(), Resume::Idle);
    bench
        .slots
        .confirm(&mut bench.disk, Forget::Nothing)
        .unwrap();
    bench.offer(2).unwrap();
}

#[test]
fn one_copy_bad_costs_the_last_transition_at_most() {
    let mut bench = Bench::new();
    bench.install(1);
    bench.offer(2).unwrap();
    let newest = bench.slots.state().clone();
    let mut seen = Vec::new();
    for name in LAYOUT.names {
        bench.disk.0[name].borrow_mut()[30] ^= 1;
        let (slots, opened) = Slots::open(&mut bench.disk).unwrap();
        assert_eq!(opened, Opened::Found);
        seen.push(slots.state().clone());
        bench.disk.0[name].borrow_mut()[30] ^= 1;
    }
    assert!(seen.contains(&newest));
    assert!(seen.iter().all(|state| state.committed == Some(release(1))));
}

#[test]
fn floors_rise_and_never_fall() {
    let mut bench = Bench::new();
    let floors = |timestamp, unix_ms| Floors {
        timestamp,
        unix_ms,
        ..Floors::default()
    };
    bench.slots.raise(&mut bench.disk, &floors(7, 100)).unwrap();
    bench.slots.raise(&mut bench.disk, &floors(6, 200)).unwrap();
    assert_eq!(bench.slots.state().floors, Some(floors(7, 200)));
}

#[test]
fn a_release_that_goes_round_and_round_is_rejected() {
    let mut bench = Bench::new();
    bench.offer(1).unwrap();
    for _ in 0..TRANSITIONS_MAX {
        let phase = bench.slots.state().candidate.as_ref().unwrap().phase();
        match phase {
            Phase::Fetching => bench.slots.verified(&mut bench.disk).unwrap(),
            _ => bench.slots.fetch(&mut bench.disk).unwrap(),
        }
    }
    bench.slots.verified(&mut bench.disk).unwrap();
    assert_eq!(bench.again(), Resume::Rejected);
    assert_eq!(bench.slots.state().rejected[0].reason(), Reason::Restless);
}

#[test]
fn the_largest_state_fits_its_copies() {
    let mut state = State {
        pinned: true,
        ..State::default()
    };
    let long = |number: u64| Release {
        name: format!("{number:064}"),
        release: u64::MAX,
        digest: vec![255; 32],
        bytes: u64::MAX,
    };
    let text: String = std::iter::repeat_n('🜚', REASON_CHARS_MAX).collect();
    state.committed = Some(long(0));
    state.previous = Some(long(1));
    state.candidate = Some(Candidate {
        release: Some(long(2)),
        adapter: long(3).name,
        text: text.clone(),
        transitions: u32::MAX,
        rollout: u64::MAX,
        ..Candidate::default()
    });
    for number in 0..100 {
        state.note_highest(&long(number));
        state.note_rejected(Rejected {
            release: Some(long(number)),
            reason: Reason::Gate.into(),
            text: text.clone(),
        });
    }
    for number in 0..ADAPTERS_MAX {
        state.adapters.push(Adapter {
            name: format!("{number:064}"),
            release: Some(long(number as u64)),
        });
    }
    let bytes = state.encode_to_vec().len();
    assert!(bytes < LAYOUT.payload_bytes_max(), "{bytes}");
}
