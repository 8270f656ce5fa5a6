//! Where rows lie: days, workloads, tables; and how long.

use std::sync::Arc;

use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use outstation_factory::clean::clean;
use outstation_factory::commits::{CHECKPOINT_COMMITS, Log};
use outstation_factory::compact::{CompactOptions, Compactor, Shard};
use outstation_factory::days::Day;
use outstation_factory::erase::{erase, finish_erasures, readmit};
use outstation_factory::merge::{MergeOptions, MergeSummary, merge};
use outstation_factory::retain::{Retention, retain};
use outstation_factory::store::Store;
use outstation_wire::record::{Body, Record, Time};
use outstation_wire::seal::FactoryKey;
use outstation_wire::segment::Class;

use crate::support::boxes::{DAY_MS, START_MS, Spool, at, event, gap, inference};
use crate::support::oracle::{committed, keys as keys_of};
use crate::support::random::Random;
use crate::world::{NO_GRACE, NOW_MS};

struct Factory {
    store: Store,
    log: Log,
    keys: Arc<[FactoryKey]>,
    random: Random,
    spool: Spool,
}

impl Factory {
    fn new() -> Self {
        let key = FactoryKey::generate();
        let store = Store::new(Arc::new(InMemory::new()));
        Self {
            log: Log::new(store.clone(), "test"),
            store,
            spool: Spool::new(1, Class::P0, &key),
            keys: Arc::new([key]),
            random: Random(1),
        }
    }

    /// A request of a tenant for a workload at a time.
    fn request(
        &mut self,
        tenant: &str,
        workload: &str,
        unix_ms: u64,
        unix_untrusted: bool,
    ) -> Record {
        let mut record = inference(&mut self.random, 20);
        record.time = Some(Time {
            unix_ms,
            unix_untrusted,
            boot: 1,
            since_boot_ms: 5,
        });
        let Some(Body::Inference(inference)) = &mut record.body else {
            unreachable!("it is one")
        };
        tenant.clone_into(&mut inference.tenant);
        workload.clone_into(&mut inference.workload);
        record
    }

    async fn send(&mut self, records: &[Record]) {
        let (key, bytes) = self.spool.seal(records);
        self.store.put_once(&key, bytes.into()).await.unwrap();
    }

    async fn compact(&self) {
        let options = CompactOptions::default();
        let compactor = Compactor::new(self.log.clone(), Arc::clone(&self.keys), options);
        compactor.run(NOW_MS).await.unwrap();
    }

    async fn folders(&self) -> Vec<String> {
        let (state, _) = committed(&self.store).await;
        let folders = state
            .files()
            .keys()
            .map(|key| key.rsplit_once('/').unwrap().0.to_owned());
        folders.collect()
    }

    /// How many rows each tenant has.
    async fn tenants(&self) -> String {
        let (_, rows) = committed(&self.store).await;
        let count = |name: &str| rows.values().filter(|tenant| *tenant == name).count();
        let shown = ["a", "b", ""].map(|name| format!("{name}:{}", count(name)));
        shown.join(" ")
    }
}

#[tokio::test(start_paused = true)]
async fn rows_lie_by_table_day_and_workload() {
    let mut factory = Factory::new();
    let records = [
        factory.request("a", "plant/7 ä", START_MS, false),
        factory.request("a", "..", START_MS + DAY_MS - 1, false),
        factory.request("a", "", START_MS + DAY_MS, false),
        // The clock said 1970; the segment came today.
        factory.request("a", "untrusted", 5, true),
        // The clock is years ahead.
        factory.request("a", "ahead", NOW_MS, false),
        at(START_MS, gap(&mut factory.random)),
        at(START_MS, event(&mut factory.random)),
    ];
    factory.send(&records).await;
    factory.compact().await;
    let mut folders = factory.folders().await;
    let listed = factory.store.list(&Path::from("seg"), None).await.unwrap();
    let arrived = u64::try_from(listed[0].last_modified.timestamp_millis()).unwrap();
    let today = Day::of_unix_ms(arrived);
    let mut expected = vec![
        "parquet/event/dt=2026-03-01".to_owned(),
        "parquet/gap/dt=2026-03-01".to_owned(),
        "parquet/inference/dt=2026-03-01/workload=%2E%2E".replace("%2E%2E", ".."),
        "parquet/inference/dt=2026-03-01/workload=plant%2F7%20%C3%A4".to_owned(),
        "parquet/inference/dt=2026-03-02/workload=__HIVE_DEFAULT_PARTITION__".to_owned(),
        format!("parquet/inference/dt={today}/workload=ahead"),
        format!("parquet/inference/dt={today}/workload=untrusted"),
    ];
    folders.sort();
    expected.sort();
    assert_eq!(folders, expected);
    let (state, _) = committed(&factory.store).await;
    let gaps: Vec<_> = state.gaps().collect();
    assert_eq!(gaps.len(), 1);
    assert_eq!((gaps[0].records, gaps[0].reason.as_str()), (10, "evicted"));
}

#[tokio::test(start_paused = true)]
async fn an_erased_tenant_is_nowhere_and_stays_away() {
    let mut factory = Factory::new();
    let (first, other) = (
        factory.request("a", "w", START_MS, false),
        factory.request("b", "w", START_MS, false),
    );
    factory.send(&[first.clone(), other.clone()]).await;
    factory.send(std::slice::from_ref(&other)).await;
    factory.compact().await;
    // A segment that nobody took yet.
    factory.send(&[first.clone(), other.clone()]).await;
    let done = erase(&factory.log, "a", NOW_MS).await.unwrap();
    assert_eq!((done.rewritten.files, done.rewritten.rows), (1, 1));
    assert_eq!(factory.tenants().await, "a:0 b:2 :0");
    assert_eq!(
        keys_of(&factory.store, "seg").await.len(),
        2,
        "the segment with a's row is gone"
    );
    assert_eq!(
        keys_of(&factory.store, "parquet").await.len(),
        1,
        "and so is the file"
    );
    factory.compact().await;
    assert_eq!(factory.tenants().await, "a:0 b:3 :0");
    finish_erasures(&factory.log, NOW_MS).await.unwrap();
    assert_eq!(
        keys_of(&factory.store, "seg").await.len(),
        1,
        "that one, too"
    );
    // No plaintext of theirs is left, nor their name but where it says that they are gone.
    for folder in ["parquet", "seg"] {
        for key in keys_of(&factory.store, folder).await {
            let bytes = factory
                .store
                .get(&Path::parse(&key).unwrap())
                .await
                .unwrap();
            let Some(Body::Inference(inference)) = &first.body else {
                unreachable!("it is one")
            };
            let id = inference.response_id.as_bytes();
            assert!(!bytes.windows(id.len()).any(|window| window == id), "{key}");
        }
    }
    // Asked twice, nothing more is done.
    let again = erase(&factory.log, "a", NOW_MS).await.unwrap();
    assert_eq!((again.rewritten.files, again.deleted.objects), (0, 0));
    readmit(&factory.log, "a", NOW_MS).await.unwrap();
    factory.send(&[first]).await;
    factory.compact().await;
    assert_eq!(factory.tenants().await, "a:1 b:3 :0");
}

#[tokio::test(start_paused = true)]
async fn records_stay_as_long_as_their_tenant_may() {
    let mut factory = Factory::new();
    let records = [
        factory.request("a", "w", START_MS, false),
        factory.request("b", "w", START_MS, false),
        factory.request("a", "w", START_MS + 5 * DAY_MS, false),
        at(START_MS, gap(&mut factory.random)),
    ];
    factory.send(&records).await;
    factory.compact().await;
    let on = |days: u64| START_MS + days * DAY_MS + 1;
    let keeps = |factory: &Factory, now| {
        let log = factory.log.clone();
        async move { retain(&log, now).await.unwrap() }
    };
    let none = keeps(&factory, on(1000)).await;
    assert_eq!(none.rewritten.files, 0, "without a rule all stays");
    let rule = Retention {
        default_days: Some(90),
        tenants: [("a".to_owned(), 30)].into(),
    };
    rule.write(&factory.log).await.unwrap();
    assert_eq!(Retention::read(&factory.log).await.unwrap(), rule);
    keeps(&factory, on(30)).await;
    assert_eq!(factory.tenants().await, "a:2 b:1 :1");
    let done = keeps(&factory, on(31)).await;
    assert_eq!(
        (done.rewritten.files, done.rewritten.rows),
        (1, 1),
        "{done:?}"
    );
    assert_eq!(factory.tenants().await, "a:1 b:1 :1");
    keeps(&factory, on(36)).await;
    assert_eq!(factory.tenants().await, "a:0 b:1 :1");
    keeps(&factory, on(92)).await;
    assert_eq!(factory.tenants().await, "a:0 b:0 :0");
    assert!(keys_of(&factory.store, "parquet").await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_reader_may_begin_anywhere_and_reads_the_same() {
    let mut factory = Factory::new();
    for _ in 0..CHECKPOINT_COMMITS + 3 {
        let record = factory.request("a", "w", START_MS, false);
        factory.send(&[record]).await;
        factory.compact().await;
    }
    let whole = factory.log.read().await.unwrap();
    assert_eq!(whole.number(), CHECKPOINT_COMMITS + 3);
    let checkpoints = keys_of(&factory.store, "checkpoints").await;
    assert_eq!(checkpoints.len(), 1);
    for key in checkpoints {
        factory
            .store
            .objects()
            .delete(&Path::from(key))
            .await
            .unwrap();
    }
    assert_eq!(factory.log.read().await.unwrap(), whole);
    assert_eq!(
        keys_of(&factory.store, "checkpoints").await.len(),
        1,
        "the reader wrote it again"
    );
    clean(&factory.log, NO_GRACE, NOW_MS).await.unwrap();
    assert!(factory.log.read().await.unwrap().pending().is_empty());
}

#[tokio::test(start_paused = true)]
async fn shards_share_the_boxes_and_small_batches_wait() {
    let key = FactoryKey::generate();
    let store = Store::new(Arc::new(InMemory::new()));
    let mut random = Random(5);
    for number in 0..20 {
        let (path, bytes) = Spool::new(number, Class::P2, &key).seal(&[inference(&mut random, 0)]);
        store.put_once(&path, bytes.into()).await.unwrap();
    }
    let keys: Arc<[FactoryKey]> = Arc::new([key]);
    let run = |options: CompactOptions, now| {
        let compactor = Compactor::new(Log::new(store.clone(), "t"), Arc::clone(&keys), options);
        async move { compactor.run(now).await.unwrap().segments }
    };
    let waits = CompactOptions {
        batch_bytes_min: 1 << 20,
        ..CompactOptions::default()
    };
    assert_eq!(run(waits, 0).await, 0, "they came a moment ago");
    let mut taken = 0;
    for index in 0..3 {
        let shard = Shard { index, count: 3 };
        let part = run(
            CompactOptions {
                shard,
                ..CompactOptions::default()
            },
            NOW_MS,
        )
        .await;
        assert!((1..15).contains(&part), "{part} of 20");
        taken += part;
    }
    assert_eq!(taken, 20);
    let objects: &Arc<dyn ObjectStore> = store.objects();
    assert!(
        objects
            .head(&Path::from("commits/00000000000000000003.json"))
            .await
            .is_ok()
    );
}

#[tokio::test(start_paused = true)]
async fn small_files_become_one_that_readers_can_wait_for() {
    let mut factory = Factory::new();
    for _ in 0..7 {
        let record = factory.request("a", "w", START_MS, false);
        factory.send(&[record]).await;
        factory.compact().await;
    }
    let now = NOW_MS;
    let merged = |now| {
        let log = factory.log.clone();
        async move { merge(&log, MergeOptions::default(), now).await.unwrap() }
    };
    assert_eq!(
        merged(now).await,
        MergeSummary::default(),
        "they are not many"
    );
    let record = factory.request("b", "w", START_MS, false);
    factory.send(&[record]).await;
    factory.compact().await;
    let merged = merge(&factory.log, MergeOptions::default(), now)
        .await
        .unwrap();
    assert_eq!((merged.before, merged.after), (8, 1));
    assert_eq!(factory.folders().await.len(), 1);
    assert_eq!(factory.tenants().await, "a:7 b:1 :0");
    clean(&factory.log, NO_GRACE, now).await.unwrap();
    assert_eq!(
        keys_of(&factory.store, "parquet").await.len(),
        9,
        "the small ones stay for an hour"
    );
    clean(&factory.log, NO_GRACE, now + 3_600_000)
        .await
        .unwrap();
    assert_eq!(keys_of(&factory.store, "parquet").await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_erasure_does_not_wait_for_readers_of_merged_files() {
    let mut factory = Factory::new();
    for tenant in ["a", "b", "a", "b", "a", "b", "a", "b"] {
        let record = factory.request(tenant, "w", START_MS, false);
        factory.send(&[record]).await;
        factory.compact().await;
    }
    merge(&factory.log, MergeOptions::default(), NOW_MS)
        .await
        .unwrap();
    erase(&factory.log, "a", NOW_MS).await.unwrap();
    assert_eq!(factory.tenants().await, "a:0 b:4 :0");
    assert_eq!(keys_of(&factory.store, "parquet").await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn more_tenants_than_a_list_has_are_erased_as_well() {
    let mut factory = Factory::new();
    let long = "x".repeat(100);
    let mut records: Vec<_> = (0..300)
        .map(|n| factory.request(&format!("tenant {n}"), "w", START_MS, false))
        .collect();
    records.push(factory.request(&long, "other", START_MS, false));
    factory.send(&records).await;
    factory.compact().await;
    let (state, _) = committed(&factory.store).await;
    assert!(state.files().values().all(|file| file.tenants.is_none()));
    for (tenant, left) in [("tenant 7", 300), (long.as_str(), 299), ("nobody", 299)] {
        erase(&factory.log, tenant, NOW_MS).await.unwrap();
        let (state, rows) = committed(&factory.store).await;
        assert_eq!(rows.len(), left, "{tenant}");
        assert_eq!(state.erased().get(tenant), Some(&true));
    }
}

#[tokio::test(start_paused = true)]
async fn epochs_of_two_writers_wait_for_somebody_to_look() {
    use outstation_factory::registry::quarantine_marker;
    use outstation_wire::segment::Header;
    let mut random = Random(5);
    let key = FactoryKey::generate();
    let store = Store::new(Arc::new(InMemory::new()));
    let mut headers = Vec::new();
    for number in [1, 2] {
        let records = [inference(&mut random, 10)];
        let (path, bytes) = Spool::new(number, Class::P1, &key).seal(&records);
        headers.push(Header::decode(&bytes).unwrap());
        store.put_once(&path, bytes.into()).await.unwrap();
    }
    let marker = quarantine_marker(&headers[0].appliance, &headers[0].epoch);
    store
        .put_once(&marker, b"{}".to_vec().into())
        .await
        .unwrap();
    let log = Log::new(store.clone(), "test");
    let compactor = Compactor::new(log, Arc::new([key]), CompactOptions::default());
    assert_eq!(compactor.run(NOW_MS).await.unwrap().segments, 1);
    // Without the marker they count.
    store.delete(&marker).await.unwrap();
    assert_eq!(compactor.run(NOW_MS).await.unwrap().segments, 1);
    assert_eq!(compactor.run(NOW_MS).await.unwrap().segments, 0);
}
