//! A spool as far as the uplink sees it: files in a folder, made by the test.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use outstation::io::uplink::{Spool, SpoolState};
use outstation::upload::Sealed;
use outstation_factory::trial;
use outstation_wire::segment::{Class, Header, WrappedKey};
use tokio::sync::watch;

pub(crate) struct FolderOutbox {
    folder: PathBuf,
    appliance: [u8; 16],
    list: Mutex<Vec<Sealed>>,
    changed: watch::Sender<u64>,
    /// What the uplink told.
    pub(crate) told: watch::Sender<Told>,
    state: Mutex<SpoolState>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    pub(crate) acked: Vec<Sealed>,
    pub(crate) refused: Vec<(Sealed, String)>,
    pub(crate) new_epochs: u32,
}

impl FolderOutbox {
    pub(crate) fn new(folder: &Path, appliance: [u8; 16], boot_nonce: [u8; 16]) -> Self {
        std::fs::create_dir_all(folder).expect("a folder");
        Self {
            folder: folder.to_owned(),
            appliance,
            list: Mutex::default(),
            changed: watch::Sender::new(0),
            told: watch::Sender::default(),
            state: Mutex::new(SpoolState {
                epoch: [5; 16],
                boot: 1,
                boot_nonce,
                records_lost: 0,
            }),
        }
    }

    /// Seals a segment.
    pub(crate) fn seal(&self, class: Class, seq: u64, bytes: usize) -> Vec<u8> {
        let epoch = self.state.lock().expect("no panic").epoch;
        let header = Header {
            appliance: self.appliance,
            epoch,
            class,
            seq,
            record_seq: seq * 1000,
            boot: 1,
            created_unix_ms: 0,
            key: WrappedKey {
                recipient: [0; 8],
                encapsulated: [0; 32],
                ciphertext: [0; 48],
            },
        };
        let file = trial::segment(&header, bytes);
        let sealed = Sealed {
            class,
            seq,
            bytes: file.len() as u64,
            epoch,
        };
        std::fs::write(self.path(&sealed), &file).expect("it is written");
        self.list.lock().expect("no panic").push(sealed);
        self.changed.send_modify(|count| *count += 1);
        file
    }

    pub(crate) fn files(&self) -> usize {
        std::fs::read_dir(&self.folder)
            .expect("it is there")
            .count()
    }

    fn remove(&self, segment: &Sealed) {
        self.list
            .lock()
            .expect("no panic")
            .retain(|sealed| sealed != segment);
        self.changed.send_modify(|count| *count += 1);
    }
}

impl Spool for FolderOutbox {
    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn sealed(&self) -> Vec<Sealed> {
        self.list.lock().expect("no panic").clone()
    }

    fn path(&self, segment: &Sealed) -> PathBuf {
        self.folder
            .join(format!("{}.{:020}.seg", segment.class.name(), segment.seq))
    }

    fn acked(&self, segment: &Sealed) {
        std::fs::remove_file(self.path(segment)).expect("it was there");
        self.remove(segment);
        self.told.send_modify(|told| told.acked.push(*segment));
    }

    fn refused(&self, segment: &Sealed, reason: &str) {
        self.remove(segment);
        self.told
            .send_modify(|told| told.refused.push((*segment, reason.to_owned())));
    }

    fn new_epoch(&self) {
        self.state.lock().expect("no panic").epoch = [6; 16];
        self.changed.send_modify(|count| *count += 1);
        self.told.send_modify(|told| told.new_epochs += 1);
    }

    fn state(&self) -> SpoolState {
        *self.state.lock().expect("no panic")
    }
}
