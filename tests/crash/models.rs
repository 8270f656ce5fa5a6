//! The power goes at every operation while a model comes in and takes its place, and again at every operation of the
//! start after it. After each: what was committed is there, whole; the phase is the old one or the new one; a chunk is
//! fetched again at most; and the release arrives in the end.

use outstation::disk::{self, Disk as _, DiskError};
use outstation::fetch::{self, Download, Finish};
use outstation::slot::{Opened, Phase, Release, SlotError, Slots, State};
use outstation_wire::release::{Chunk, Index, Pack, Place, Stored};

use crate::disk::{Cut, Fault, Faults, SimDisk};
use crate::random::Random;
use crate::seeds;

const CHUNKS: usize = 6;

/// A release and its bytes.
#[derive(Clone)]
struct Model {
    release: Release,
    file: Vec<u8>,
    index: Index,
}

impl Model {
    fn new(number: u64) -> Self {
        let mut random = Random::new(number);
        let mut file = Vec::new();
        let mut chunks = Vec::new();
        for _ in 0..CHUNKS {
            let bytes = 700 + random.below(900);
            let chunk: Vec<u8> = (0..bytes)
                .map(|_| u8::try_from(random.below(256)).unwrap())
                .collect();
            let bytes = u32::try_from(bytes).unwrap();
            chunks.push(Chunk {
                bytes,
                digest: blake3::hash(&chunk).into(),
                form: Stored::Plain,
                place: Place {
                    pack: 0,
                    offset: u32::try_from(file.len()).unwrap(),
                    bytes,
                },
            });
            file.extend(chunk);
        }
        let digest: [u8; 32] = blake3::hash(&file).into();
        let index = Index {
            digest,
            packs: vec![Pack {
                digest,
                bytes: u32::try_from(file.len()).unwrap(),
            }],
            bases: Vec::new(),
            chunks,
            patches: Vec::new(),
        };
        let release = Release {
            name: "site".into(),
            release: number,
            digest: digest.to_vec(),
            bytes: file.len() as u64,
        };
        Self {
            release,
            file,
            index,
        }
    }
}

/// What a box does with a release, one durable step after the other, and what the checker saw of it.
#[derive(Clone, Default)]
struct Witness {
    /// Chunks that were fetched.
    fetched: usize,
    /// The state that was stored last, and the one that was being stored.
    last: Option<State>,
    next: Option<State>,
    /// The metadata that was stored last, and the one that was being stored.
    metadata: (u64, u64),
    /// The release is to fail its trial.
    fails: bool,
}

impl Witness {
    /// One life: goes on until the release is committed or rejected, or the disk stops it.
    fn live(&mut self, disk: &mut SimDisk, model: &Model) -> Result<(), SlotError> {
        let (mut slots, opened) = Slots::open(disk).map_err(|error| match error {
            outstation::superblock::SuperblockError::Disk(error) => SlotError::Disk(error),
            other @ outstation::superblock::SuperblockError::Later { .. } => panic!("{other}"),
        })?;
        assert_ne!(opened, Opened::Lost, "two copies never go at once");
        self.check_state(slots.state());
        check_committed(disk, &slots);
        self.check_metadata(disk)?;
        self.step(&mut slots, |slots| slots.restart(disk).map(drop))?;
        loop {
            check_committed(disk, &slots);
            let Some(candidate) = slots.state().candidate.clone() else {
                match slots.may(&model.release, None) {
                    Ok(()) => {}
                    Err(_) => return Ok(()),
                }
                self.put_metadata(disk)?;
                self.step(&mut slots, |slots| {
                    slots.offer(disk, model.release.clone(), None, 1)
                })?;
                continue;
            };
            match candidate.phase() {
                Phase::Fetching => {
                    self.fetch(disk, model)?;
                    self.step(&mut slots, |slots| slots.verified(disk))?;
                }
                Phase::Verified => self.step(&mut slots, |slots| slots.load(disk))?,
                Phase::Loading => self.step(&mut slots, |slots| slots.test(disk))?,
                Phase::SelfTest => self.step(&mut slots, |slots| slots.canary(disk, 10))?,
                Phase::Canary if self.fails => self.step(&mut slots, |slots| {
                    slots.reject(disk, outstation::slot::Reason::Gate, "slow")
                })?,
                Phase::Canary => self.step(&mut slots, |slots| slots.soak(disk))?,
                Phase::Soak => self.step(&mut slots, |slots| slots.commit(disk))?,
                Phase::RollingBack => self.step(&mut slots, |slots| slots.rolled_back(disk))?,
                Phase::Unknown => panic!("every phase is known"),
            }
        }
    }

    fn step(
        &mut self,
        slots: &mut Slots<SimDisk>,
        change: impl FnOnce(&mut Slots<SimDisk>) -> Result<(), SlotError>,
    ) -> Result<(), SlotError> {
        self.last = Some(slots.state().clone());
        let changed = change(slots);
        // In memory the state stays the old one where the disk failed, though the new one may have arrived.
        self.next = Some(slots.state().clone());
        if changed.is_ok() {
            self.last.clone_from(&self.next);
        } else {
            assert_eq!(
                Some(slots.state()),
                self.last.as_ref(),
                "what was not stored is not so"
            );
            self.next = None;
        }
        changed
    }

    fn check_state(&self, found: &State) {
        let Some(last) = &self.last else {
            return;
        };
        if self.next.is_some() {
            assert_eq!(found, last, "what was stored is there");
            return;
        }
        // Cut in the middle of a transition: the old state, or one that came from it by one step.
        let phases = |state: &State| {
            state
                .candidate
                .as_ref()
                .map(outstation::slot::Candidate::phase)
        };
        let moved = phases(found) != phases(last) || found.committed != last.committed;
        assert!(
            found == last || moved,
            "{found:?} is neither {last:?} nor what came after it"
        );
    }

    fn fetch(&mut self, disk: &mut SimDisk, model: &Model) -> Result<(), DiskError> {
        let [_, _, whole] = fetch::names(&model.index.digest);
        if disk.open(&whole).is_ok() {
            return Ok(());
        }
        let mut download = Download::open(disk, model.index.clone())?;
        loop {
            while let Some(range) = download.next(1, &|_| false) {
                for piece in range.pieces {
                    let start = piece.place.offset as usize;
                    let bytes = &model.file[start..start + piece.place.bytes as usize];
                    self.fetched += 1;
                    download
                        .write(disk, piece.chunk, bytes)
                        .map_err(|error| match error {
                            fetch::ChunkError::Disk(error) => error,
                            other @ fetch::ChunkError::Digest { .. } => panic!("{other}"),
                        })?;
                }
                download.commit(disk)?;
            }
            match download.finish(disk)? {
                (Finish::Whole, _) => return Ok(()),
                (Finish::Again(_), Some(again)) => download = again,
                other => panic!("{:?}", other.0),
            }
        }
    }

    fn put_metadata(&mut self, disk: &mut SimDisk) -> Result<(), DiskError> {
        self.metadata.1 = self.metadata.0 + 1;
        disk::replace(disk, "timestamp.json", &self.metadata.1.to_le_bytes())?;
        self.metadata.0 = self.metadata.1;
        Ok(())
    }

    fn check_metadata(&mut self, disk: &mut SimDisk) -> Result<(), DiskError> {
        let Some(bytes) = disk::contents(disk, "timestamp.json", 100)? else {
            assert_eq!(self.metadata.0, 0, "metadata that was stored is there");
            return Ok(());
        };
        let version = u64::from_le_bytes(bytes.try_into().expect("it is whole"));
        assert!(
            version == self.metadata.0 || version == self.metadata.1,
            "version {version} is neither the last nor the next of {:?}",
            self.metadata
        );
        self.metadata = (version, version);
        Ok(())
    }
}

/// Whatever happened, the model that serves is whole.
fn check_committed(disk: &SimDisk, slots: &Slots<SimDisk>) {
    let Some(committed) = &slots.state().committed else {
        return;
    };
    let digest: [u8; 32] = committed.digest.clone().try_into().unwrap();
    let [_, _, name] = fetch::names(&digest);
    // Who looks is no part of what is tested.
    let mut disk = disk.clone();
    disk.cut_at = None;
    disk.faults = Faults::default();
    let bytes = disk::contents(&mut disk, &name, 1 << 20).unwrap();
    assert_eq!(
        bytes.map(|bytes| blake3::hash(&bytes).into()),
        Some(digest),
        "the committed model is there"
    );
}

/// A box that serves release 1 and is offered release 2, with a cut at an operation or without.
fn second_release(fails: bool, cut_at: Option<u64>) -> (Witness, SimDisk) {
    let mut witness = Witness::default();
    let mut disk = SimDisk::default();
    witness.live(&mut disk, &Model::new(1)).unwrap();
    witness.fetched = 0;
    witness.fails = fails;
    disk.operations = 0;
    disk.cut_at = cut_at;
    let ended = witness.live(&mut disk, &Model::new(2));
    assert!(ended.is_ok() || disk.is_cut(), "{ended:?}");
    (witness, disk)
}

/// The rest of a life after cuts, and how it must end.
fn to_the_end(mut witness: Witness, mut disk: SimDisk, cuts: usize) {
    witness.live(&mut disk, &Model::new(2)).unwrap();
    let (slots, _) = Slots::open(&mut disk).unwrap();
    let state = slots.state();
    let committed = state.committed.as_ref().map(|release| release.release);
    let rejected = state.rejected.len();
    if witness.fails {
        assert_eq!((committed, rejected), (Some(1), 1));
    } else {
        assert_eq!((committed, rejected), (Some(2), 0));
    }
    assert!(
        witness.fetched <= CHUNKS + cuts,
        "{} chunks were fetched for {CHUNKS}, over {cuts} cuts",
        witness.fetched
    );
}

#[test]
fn a_cut_at_any_operation_of_a_change_of_models_leaves_the_committed_one() {
    let (mut points, mut again) = (0_u64, 0_u64);
    for fails in [false, true] {
        let (_, whole) = second_release(fails, None);
        for at in 1..=whole.operations {
            let tears = (0..seeds(4).end).map(|seed| Cut::Tears(at << 16 | seed));
            for cut in [Cut::Drops, Cut::Keeps].into_iter().chain(tears) {
                points += 1;
                let (witness, disk) = second_release(fails, Some(at));
                let left = disk.after(cut);
                let mut whole = left.clone();
                whole.operations = 0;
                let start = {
                    let (mut witness, mut disk) = (witness.clone(), whole.clone());
                    witness.live(&mut disk, &Model::new(2)).unwrap();
                    disk.operations
                };
                to_the_end(witness.clone(), left.clone(), 1);
                // Again, cut off at each operation after the first cut.
                for second in 1..=start {
                    if (second + at) % 3 != 0 {
                        continue;
                    }
                    again += 1;
                    let (mut witness, mut disk) = (witness.clone(), whole.clone());
                    disk.cut_at = Some(second);
                    let _ = witness.live(&mut disk, &Model::new(2));
                    let left = disk.after(Cut::Tears(second << 32 | at));
                    to_the_end(witness, left, 2);
                }
            }
        }
    }
    println!("{points} cuts, and {again} more after one");
}

#[test]
fn a_disk_that_is_full_or_fails_at_any_operation_keeps_the_committed_model() {
    let mut points = 0_u64;
    let (_, whole) = second_release(false, None);
    for error in [DiskError::Full, DiskError::Failed(5), DiskError::ReadOnly] {
        for at in 1..=whole.operations {
            points += 1;
            let mut witness = Witness::default();
            let mut disk = SimDisk::default();
            witness.live(&mut disk, &Model::new(1)).unwrap();
            disk.operations = 0;
            disk.faults.at.insert(at, Fault::Error(error));
            let failed = witness.live(&mut disk, &Model::new(2));
            if let Err(failed) = failed {
                assert_eq!(failed, SlotError::Disk(error));
            }
            disk.faults.at.clear();
            witness.fetched = 0;
            to_the_end(witness, disk.after(Cut::Keeps), 1);
        }
    }
    println!("{points} failures");
}

#[test]
fn bits_that_flip_in_a_part_are_fetched_again_and_no_more() {
    let model = Model::new(2);
    let mut disk = SimDisk::default();
    let mut download = Download::open(&mut disk, model.index.clone()).unwrap();
    for chunk in 0..CHUNKS {
        let place = model.index.chunks[chunk].place;
        let start = place.offset as usize;
        let bytes = &model.file[start..start + place.bytes as usize];
        download.write(&mut disk, chunk, bytes).unwrap();
    }
    download.commit(&mut disk).unwrap();
    let [part, _, whole] = fetch::names(&model.index.digest);
    let bad = model.index.chunks[3].place.offset as usize + 5;
    disk.flip(&part, bad, 1);
    let (finish, download) = download.finish(&mut disk).unwrap();
    assert_eq!(finish, Finish::Again(1));
    let mut download = download.unwrap();
    assert_eq!(download.missing().collect::<Vec<_>>(), [3]);
    let start = model.index.chunks[3].place.offset as usize;
    let bytes = &model.file[start..start + model.index.chunks[3].bytes as usize];
    assert_eq!(
        download.write(&mut disk, 3, &bytes[1..]),
        Err(fetch::ChunkError::Digest { chunk: 3 })
    );
    download.write(&mut disk, 3, bytes).unwrap();
    download.commit(&mut disk).unwrap();
    assert_eq!(download.finish(&mut disk).unwrap().0, Finish::Whole);
    let file = disk::contents(&mut disk, &whole, 1 << 20).unwrap();
    assert_eq!(file, Some(model.file));
}

#[test]
fn neighbours_are_fetched_together_and_a_patch_where_it_is_shorter() {
    let mut model = Model::new(3);
    model.index.bases.push([9; 32]);
    model.index.packs.push(Pack {
        digest: [1; 32],
        bytes: 100,
    });
    model.index.patches.push(outstation_wire::release::Patch {
        chunk: 2,
        base: 0,
        base_offset: 0,
        base_bytes: 700,
        place: Place {
            pack: 1,
            offset: 0,
            bytes: 100,
        },
    });
    let mut disk = SimDisk::default();
    let download = Download::open(&mut disk, model.index.clone()).unwrap();
    let all = download.next(u32::MAX, &|_| false).unwrap();
    assert_eq!(all.pieces.len(), CHUNKS);
    assert_eq!(all.bytes as usize, model.file.len());
    let with_base = download.next(u32::MAX, &|base| *base == [9; 32]).unwrap();
    let chunks: Vec<usize> = with_base.pieces.iter().map(|piece| piece.chunk).collect();
    assert_eq!(
        chunks,
        [0, 1, 3, 4, 5],
        "the gap is small, the patch comes on its own"
    );
    let two = model.index.chunks[0].bytes + model.index.chunks[1].bytes;
    let some = download.next(two, &|_| false).unwrap();
    assert_eq!(some.pieces.len(), 2);
}
