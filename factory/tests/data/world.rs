//! A small fleet and its store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, PutPayload};
use outstation_factory::clean::{CleanOptions, clean};
use outstation_factory::commits::Log;
use outstation_factory::compact::{CompactError, CompactOptions, CompactSummary, Compactor};
use outstation_factory::store::{Store, hex};
use outstation_wire::record::{Body, Record};
use outstation_wire::seal::FactoryKey;
use outstation_wire::segment::Class;

use crate::support::boxes::{Spool, event, feedback, gap, inference};
use crate::support::oracle::{Rows, committed, keys};
use crate::support::random::Random;

/// In 2096: after all that boxes and the test's own clock say.
pub(crate) const NOW_MS: u64 = 4_000_000_000_000;

/// Everything at once.
pub(crate) const NO_GRACE: CleanOptions = CleanOptions {
    segment_grace: Duration::ZERO,
    orphan_age: Duration::ZERO,
};

/// A store with segments in it, and what must come out.
pub(crate) struct World {
    pub(crate) objects: InMemory,
    pub(crate) keys: Arc<[FactoryKey]>,
    /// Each record that can be read, and whose it is.
    pub(crate) rows: Rows,
    /// Segments that cannot.
    pub(crate) bad: Vec<String>,
}

/// Bytes of segments in one commit here, so that there are a few.
const BATCH_BYTES: u64 = 3 << 10;

impl World {
    /// Two boxes, six segments, one of which repeats records of another; one more is damaged, one for another factory.
    pub(crate) async fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let ours = FactoryKey::generate();
        let mut world = Self {
            objects: InMemory::new(),
            keys: Arc::new([FactoryKey::generate(), ours]),
            rows: BTreeMap::new(),
            bad: Vec::new(),
        };
        for number in 1..=2 {
            let mut spool = Spool::new(number, Class::P0, &world.keys[1]);
            let asked: Vec<_> = (0..4).map(|_| inference(&mut random, 80)).collect();
            let mut said = vec![
                feedback(&mut random, &asked[0], ""),
                feedback(&mut random, &asked[1], "Open it."),
                gap(&mut random),
            ];
            world.store(&mut spool, 1, &asked).await;
            if number == 2 {
                // After a failed fsync: the last two again, and what comes after them.
                let again = [&asked[2..], &said[..]].concat();
                world.store(&mut spool, 3, &again).await;
            } else {
                said.push(event(&mut random));
                world.store(&mut spool, 5, &said).await;
            }
            let mut spool = Spool::new(number, Class::P2, &world.keys[1]);
            let many: Vec<_> = (0..3).map(|_| inference(&mut random, 0)).collect();
            world.store(&mut spool, 1, &many).await;
        }
        let mut other = Spool::new(9, Class::P0, &FactoryKey::generate());
        let (key, bytes) = other.seal(&[inference(&mut random, 0)]);
        world.put(&key, bytes).await;
        world.bad.push(key.to_string());
        let mut damaged = Spool::new(8, Class::P0, &world.keys[1]);
        let (key, mut bytes) = damaged.seal(&[gap(&mut random)]);
        bytes[300] ^= 1;
        world.put(&key, bytes).await;
        world.bad.push(key.to_string());
        world
    }

    pub(crate) async fn put(&self, key: &Path, bytes: Vec<u8>) {
        let put = object_store::PutMode::Create.into();
        self.objects
            .put_opts(key, PutPayload::from(bytes), put)
            .await
            .unwrap();
    }

    /// Stores a segment, and remembers its records.
    pub(crate) async fn store(&mut self, spool: &mut Spool, first: u64, records: &[Record]) {
        let (key, bytes) = spool.seal_as(first, records);
        self.put(&key, bytes).await;
        for (seq, record) in (first..).zip(records) {
            let row = format!(
                "{}/{}/{}/{seq}",
                hex(&spool.appliance),
                hex(&spool.epoch),
                spool.class.name()
            );
            let tenant = match record.body.as_ref().unwrap() {
                Body::Inference(inference) => inference.tenant.clone(),
                Body::Feedback(feedback) => feedback.tenant.clone(),
                _ => String::new(),
            };
            self.rows.insert(row, tenant);
        }
    }

    /// A copy of the store as it was made.
    pub(crate) fn fork(&self) -> Arc<dyn ObjectStore> {
        Arc::new(self.objects.fork())
    }

    pub(crate) fn compactor(&self, store: &Store, writer: &str) -> Compactor {
        let options = CompactOptions {
            batch_bytes_max: BATCH_BYTES,
            segments_at_once: 1,
            ..CompactOptions::default()
        };
        Compactor::new(
            Log::new(store.clone(), writer),
            Arc::clone(&self.keys),
            options,
        )
    }

    pub(crate) async fn compact(
        &self,
        store: &Store,
        writer: &str,
    ) -> Result<CompactSummary, CompactError> {
        self.compactor(store, writer).run(NOW_MS).await
    }

    /// Rows without those of these tenants.
    pub(crate) fn rows_without(&self, tenants: &[&str]) -> Rows {
        let rows = self.rows.iter();
        let kept = rows.filter(|(_, tenant)| !tenants.contains(&tenant.as_str()));
        kept.map(|(row, tenant)| (row.clone(), tenant.clone()))
            .collect()
    }

    /// Once a healthy replica has done all there is to do: each row once, and nothing else in the store.
    pub(crate) async fn check(
        &self,
        objects: &Arc<dyn ObjectStore>,
        erased: &[&str],
        context: &str,
    ) {
        let store = Store::new(Arc::clone(objects));
        self.compact(&store, "healer").await.unwrap();
        clean(&Log::new(store.clone(), "healer"), NO_GRACE, NOW_MS)
            .await
            .unwrap();
        let (state, rows) = committed(&store).await;
        assert_eq!(rows, self.rows_without(erased), "{context}");
        let bad: Vec<_> = state.bad().keys().cloned().collect();
        let mut expected = self.bad.clone();
        expected.sort();
        assert_eq!(bad, expected, "{context}");
        assert_eq!(
            keys(&store, "seg").await,
            expected.into_iter().collect(),
            "{context}"
        );
        let files = state.files().keys().cloned().collect();
        assert_eq!(keys(&store, "parquet").await, files, "{context}");
        assert!(state.condemned().is_empty(), "{context}");
        assert!(state.pending().is_empty(), "{context}");
    }
}
