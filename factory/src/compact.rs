//! Segments become files: decrypted, each record once, by day and workload.
//!
//! Any number of replicas may do it at once, over the same segments; `docs/factory.md` says why each row counts once.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{ObjectMeta, PutPayload};
use outstation_wire::record::{Body, Gap};
use outstation_wire::seal::FactoryKey;
use outstation_wire::segment::SEGMENT_BYTES_MAX;
use parquet::errors::ParquetError;

use crate::commits::{
    Append, Bad, Commit, CommitError, GapSum, Input, Log, Output, State, list_tenant,
};
use crate::rows::{Partition, Partitions, Row, Written, gap_reason, write_rows};
use crate::segments::Segment;
use crate::store::StoreError;

/// What a compactor does at once, and when.
#[derive(Debug, Clone)]
pub struct CompactOptions {
    /// Bytes of segments in one commit. Default 64 MiB; the compactor's memory is about five times as much.
    pub batch_bytes_max: u64,
    /// Fewer bytes than these wait for more, since small files are slow to read. Default 0: nothing waits.
    pub batch_bytes_min: u64,
    /// But none waits longer than this since it arrived.
    pub wait_max: Duration,
    /// Which part of the boxes this compactor serves.
    pub shard: Shard,
    /// What to do with segments that could not be read before.
    pub bad: BadSegments,
    /// Segments that are read and decrypted at the same time. Default 4.
    pub segments_at_once: usize,
}

impl Default for CompactOptions {
    fn default() -> Self {
        Self {
            batch_bytes_max: 64 << 20,
            batch_bytes_min: 0,
            wait_max: Duration::from_mins(15),
            shard: Shard { index: 0, count: 1 },
            bad: BadSegments::LeftAlone,
            segments_at_once: 4,
        }
    }
}

/// One of `count` parts of the boxes: compactors with different parts never do the same work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// Which, from 0.
    pub index: u64,
    /// Of how many.
    pub count: u64,
}

impl Shard {
    fn has(self, key: &Path) -> bool {
        // seg/v1/<appliance>/…
        let appliance = key.parts().nth(2);
        let digest = blake3::hash(appliance.as_ref().map_or("", AsRef::as_ref).as_bytes());
        let number = digest.as_bytes()[..8]
            .iter()
            .fold(0, |number, &byte| number << 8 | u64::from(byte));
        number % self.count.max(1) == self.index
    }
}

/// What to do with segments that could not be read before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadSegments {
    /// Nothing.
    LeftAlone,
    /// They are read again, since a key or a later program came.
    TriedAgain,
}

/// Why compaction stops.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    /// The list or the store.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A file cannot be written or read.
    #[error("Parquet: {0}")]
    Parquet(#[from] ParquetError),
}

impl From<StoreError> for CompactError {
    fn from(error: StoreError) -> Self {
        Self::Commit(error.into())
    }
}

/// Box and epoch of a key under `seg/v1` or `quarantine/v1`.
fn epoch_of(key: &Path) -> String {
    let parts: Vec<_> = key.parts().skip(2).take(2).collect();
    let parts: Vec<_> = parts.iter().map(AsRef::as_ref).collect();
    parts.join("/")
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CompactSummary {
    /// Commits.
    pub commits: u64,
    /// Segments taken.
    pub segments: u64,
    /// Their bytes.
    pub segment_bytes: u64,
    /// Segments that could not be read, or not all of them.
    pub bad: u64,
    /// Rows in files.
    pub rows: u64,
    /// Records that had been taken before.
    pub duplicates: u64,
    /// Records of erased tenants, dropped.
    pub erased: u64,
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub file_bytes: u64,
}

/// Makes files of segments.
#[derive(Debug, Clone)]
pub struct Compactor {
    log: Log,
    keys: Arc<[FactoryKey]>,
    options: CompactOptions,
}

impl Compactor {
    /// With the factory's keys, old ones too.
    pub fn new(log: Log, keys: Arc<[FactoryKey]>, options: CompactOptions) -> Self {
        Self { log, keys, options }
    }

    /// Takes what there is, batch by batch.
    ///
    /// Memory: the segments of a batch as records, one partition of them as columns, and its file, about five times
    /// [`CompactOptions::batch_bytes_max`]; and the [`State`].
    pub async fn run(&self, now_unix_ms: u64) -> Result<CompactSummary, CompactError> {
        let mut state = self.log.read().await?;
        let mut listed = self.log.store().list(&Path::from("seg/v1"), None).await?;
        let apart = self.kept_apart().await?;
        listed.retain(|meta| !apart.contains(&epoch_of(&meta.location)));
        let mut summary = CompactSummary::default();
        // What was tried in this run and is neither taken nor bad: it is gone from the store.
        let mut gone = HashSet::new();
        let mut lost = 0;
        loop {
            let picked = self.pick(&state, &listed, &gone, now_unix_ms);
            if picked.is_empty() {
                return Ok(summary);
            }
            match self.batch(&mut state, &picked, now_unix_ms).await? {
                Some(done) => {
                    summary.add(&done);
                    lost = 0;
                    gone.extend(picked.into_iter().map(|meta| meta.location));
                }
                None if lost >= LOST_MAX => {
                    return Err(CommitError::Crowded { tries: lost }.into());
                }
                None => lost += 1,
            }
        }
    }

    /// Epochs that two machines wrote: whose records are whose, nobody can say, so they wait for somebody to look.
    async fn kept_apart(&self) -> Result<HashSet<String>, CompactError> {
        let folder = Path::from("quarantine/v1");
        let listed = self.log.store().list(&folder, None).await?;
        let markers = listed.into_iter().map(|meta| meta.location);
        let markers = markers.filter(|key| key.filename() == Some("reason.json"));
        Ok(markers.map(|key| epoch_of(&key)).collect())
    }

    fn pick(
        &self,
        state: &State,
        listed: &[ObjectMeta],
        gone: &HashSet<Path>,
        now_unix_ms: u64,
    ) -> Vec<ObjectMeta> {
        let mut picked = Vec::new();
        let mut bytes = 0;
        let mut waited = false;
        let wait_ms = u64::try_from(self.options.wait_max.as_millis()).unwrap_or(u64::MAX);
        for meta in listed {
            let key = meta.location.as_ref();
            let again = self.options.bad == BadSegments::TriedAgain;
            let open = !state.pending().contains_key(key)
                && (again || !state.bad().contains_key(key))
                && !gone.contains(&meta.location)
                && self.options.shard.has(&meta.location);
            if !open {
                continue;
            }
            if bytes + meta.size > self.options.batch_bytes_max && !picked.is_empty() {
                return picked;
            }
            bytes += meta.size;
            waited |= arrived_unix_ms(meta).saturating_add(wait_ms) <= now_unix_ms;
            picked.push(meta.clone());
        }
        if bytes < self.options.batch_bytes_min && !waited {
            picked.clear();
        }
        picked
    }

    /// One commit. `None`: others committed what this batch did not know of, and it must begin anew.
    async fn batch(
        &self,
        state: &mut State,
        picked: &[ObjectMeta],
        now_unix_ms: u64,
    ) -> Result<Option<CompactSummary>, CompactError> {
        let generation = state.generation();
        let read: Vec<Read> = futures_util::stream::iter(picked.iter().cloned())
            .map(|meta| self.read(meta))
            .buffered(self.options.segments_at_once.max(1))
            .try_filter_map(async |read| Ok(read))
            .try_collect()
            .await?;
        let mut batch = Batch::new(read, state);
        batch.commit.unix_ms = now_unix_ms;
        if batch.commit.inputs.is_empty() && batch.commit.bad.is_empty() {
            // All of them are gone: others took them and tidied up.
            return Ok(Some(CompactSummary::default()));
        }
        for (partition, rows) in std::mem::take(&mut batch.partitions) {
            let written = blocking(move || Ok((write_rows(&partition, &rows)?, partition))).await?;
            let (written, partition) = written;
            let output = store_file(&self.log, generation, &partition, written).await?;
            batch.commit.outputs.push(output);
        }
        for _ in 0..LOST_MAX {
            match self.log.append(state, batch.commit.clone()).await? {
                Append::Won => return Ok(Some(CompactSummary::of(&batch.commit))),
                Append::Lost => self.log.catch_up(state).await?,
            }
            if !state.admits(generation, &batch.commit) {
                return Ok(None);
            }
        }
        Err(CommitError::Crowded { tries: LOST_MAX }.into())
    }

    /// A segment, decrypted. `None`: it is gone.
    async fn read(&self, meta: ObjectMeta) -> Result<Option<Read>, CompactError> {
        let key: Arc<str> = meta.location.as_ref().into();
        let arrived_unix_ms = arrived_unix_ms(&meta);
        let (bytes, opened) = if meta.size > SEGMENT_BYTES_MAX {
            let reason = format!("{} bytes are more than any segment has", meta.size);
            (meta.size, Err(reason))
        } else {
            let Some(bytes) = self.log.store().get_if_there(&meta.location).await? else {
                return Ok(None);
            };
            let keys = Arc::clone(&self.keys);
            let name = Arc::clone(&key);
            let length = bytes.len() as u64;
            let opened = blocking(move || Ok(Segment::open(&name, &bytes, &keys)));
            (length, opened.await?)
        };
        Ok(Some(Read {
            key,
            bytes,
            arrived_unix_ms,
            opened,
        }))
    }
}

/// Times that others may be faster.
pub(crate) const LOST_MAX: u32 = 64;

fn arrived_unix_ms(meta: &ObjectMeta) -> u64 {
    u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0)
}

/// What needs a processor for long runs beside the tasks that wait for the network.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ParquetError> + Send + 'static,
) -> Result<T, CompactError> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.expect("it does not panic, and is not cancelled")?)
}

/// Stores a file of a partition under a name that follows from its bytes and the generation.
pub(crate) async fn store_file(
    log: &Log,
    generation: u64,
    partition: &Partition,
    written: Written,
) -> Result<Output, CompactError> {
    let mut name = blake3::Hasher::new();
    name.update(&generation.to_le_bytes());
    name.update(&written.bytes);
    let key = format!(
        "{}/{}.parquet",
        partition.folder(),
        name.finalize().to_hex()
    );
    let path = Path::parse(&key).expect("folders and names are encoded");
    let output = Output {
        key,
        table: partition.table.name().to_owned(),
        day: partition.day.to_string(),
        workload: partition.workload.clone(),
        rows: written.rows,
        bytes: written.bytes.len() as u64,
        blake3: blake3::hash(&written.bytes).to_hex().to_string(),
        tenants: written.tenants,
    };
    log.store()
        .put_once(&path, PutPayload::from_bytes(written.bytes))
        .await?;
    Ok(output)
}

/// A segment of a batch.
struct Read {
    key: Arc<str>,
    bytes: u64,
    arrived_unix_ms: u64,
    opened: Result<Segment, String>,
}

/// Rows by their places, and the commit that will name their files.
struct Batch {
    partitions: Partitions,
    commit: Commit,
}

/// A row, the day that it goes to, and its segment's place among the inputs.
struct Found {
    row: Row,
    arrived_unix_ms: u64,
    input: usize,
}

impl Batch {
    /// The same from the same segments and state, in whatever order they were listed.
    fn new(read: Vec<Read>, state: &State) -> Self {
        let mut commit = Commit::default();
        let mut found = Vec::new();
        for segment in read {
            take(segment, &mut commit, &mut found);
        }
        // Of two copies of a record the one in the first segment is taken.
        found.sort_by(|a, b| {
            let order = |found: &Found| (Arc::clone(&found.row.stream), found.row.record_seq);
            order(a).cmp(&order(b))
        });
        let mut partitions = Partitions::new();
        for Found {
            row,
            arrived_unix_ms,
            input,
        } in found
        {
            let input = &mut commit.inputs[input];
            let stream = &*row.stream;
            let before = state.streams().get(stream);
            let new = commit.streams.entry(stream.to_owned()).or_default();
            let known = before.is_some_and(|taken| taken.contains(row.record_seq));
            if known || new.contains(row.record_seq) {
                input.duplicates += 1;
                continue;
            }
            new.insert(row.record_seq);
            if state.erased().contains_key(row.tenant()) {
                input.erased += 1;
                continue;
            }
            if let Body::Gap(gap) = &row.body {
                let appliance = stream.split('/').next().unwrap_or_default();
                add_gap(&mut commit.gaps, appliance, gap);
            }
            let partition = row.partition(arrived_unix_ms);
            partitions.entry(partition).or_default().push(row);
        }
        commit.streams.retain(|_, ranges| !ranges.is_empty());
        Self { partitions, commit }
    }
}

/// Adds a gap to the sums: one for each box, class and reason.
fn add_gap(sums: &mut Vec<GapSum>, appliance: &str, gap: &Gap) {
    let reason = gap_reason(gap);
    // There are three classes; what a box says beyond is counted as one more.
    let class = gap.class.min(3);
    let same = |sum: &&mut GapSum| {
        (sum.appliance.as_str(), sum.class, sum.reason.as_str()) == (appliance, class, reason)
    };
    // Rows come box by box, so the sums of this one are the last ones.
    if let Some(sum) = sums.iter_mut().rev().take(GAP_SUMS_OF_A_BOX).find(same) {
        sum.records = sum.records.saturating_add(gap.records);
        sum.bytes = sum.bytes.saturating_add(gap.bytes);
    } else {
        sums.push(GapSum {
            appliance: appliance.to_owned(),
            class,
            reason: reason.to_owned(),
            records: gap.records,
            bytes: gap.bytes,
        });
    }
}

/// Four classes, seven reasons.
const GAP_SUMS_OF_A_BOX: usize = 28;

/// Adds a segment to the inputs, or to the bad ones, or to both.
fn take(segment: Read, commit: &mut Commit, found: &mut Vec<Found>) {
    let key = segment.key.to_string();
    let opened = match segment.opened {
        Ok(opened) => opened,
        Err(reason) => {
            commit.bad.push(Bad {
                key,
                reason,
                records: 0,
            });
            return;
        }
    };
    let stream = opened.stream();
    let created_unix_ms = opened.header.created_unix_ms;
    let mut input = Input {
        key: key.clone(),
        bytes: segment.bytes,
        tenants: Some(BTreeSet::new()),
        ..Input::default()
    };
    let mut trouble = opened.trouble;
    for (record_seq, record) in opened.records {
        let row = Row::new(&stream, record_seq, &segment.key, created_unix_ms, record);
        let Some(row) = row else {
            // Its number is not taken, so that a later program can.
            let unknown = format!("record {record_seq} is of a kind that a later program knows");
            trouble.get_or_insert(unknown);
            continue;
        };
        input.records += 1;
        list_tenant(&mut input.tenants, row.tenant());
        found.push(Found {
            row,
            arrived_unix_ms: segment.arrived_unix_ms,
            input: commit.inputs.len(),
        });
    }
    if let Some(reason) = trouble {
        commit.bad.push(Bad {
            key,
            reason,
            records: input.records,
        });
    }
    commit.inputs.push(input);
}

impl CompactSummary {
    fn of(commit: &Commit) -> Self {
        let inputs = || commit.inputs.iter();
        let outputs = || commit.outputs.iter();
        Self {
            commits: 1,
            segments: commit.inputs.len() as u64,
            segment_bytes: inputs().map(|input| input.bytes).sum(),
            bad: commit.bad.len() as u64,
            rows: outputs().map(|output| output.rows).sum(),
            duplicates: inputs().map(|input| input.duplicates).sum(),
            erased: inputs().map(|input| input.erased).sum(),
            files: commit.outputs.len() as u64,
            file_bytes: outputs().map(|output| output.bytes).sum(),
        }
    }

    fn add(&mut self, other: &Self) {
        self.commits += other.commits;
        self.segments += other.segments;
        self.segment_bytes += other.segment_bytes;
        self.bad += other.bad;
        self.rows += other.rows;
        self.duplicates += other.duplicates;
        self.erased += other.erased;
        self.files += other.files;
        self.file_bytes += other.file_bytes;
    }
}
