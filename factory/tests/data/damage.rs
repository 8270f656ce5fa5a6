//! Segments that are not what a box sent.

use std::slice::from_ref;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::path::Path;
use outstation_factory::commits::Log;
use outstation_factory::compact::{BadSegments, CompactOptions, Compactor};
use outstation_factory::segments::Segment;
use outstation_factory::store::Store;
use outstation_wire::record::Record;
use outstation_wire::seal::FactoryKey;
use outstation_wire::segment::{Class, HEADER_BYTES};

use crate::support::boxes::{Spool, gap, inference};
use crate::support::oracle::committed;
use crate::support::random::Random;
use crate::world::NOW_MS;

async fn put(objects: &InMemory, key: &Path, bytes: Vec<u8>) {
    let put = object_store::PutMode::Create.into();
    objects.put_opts(key, bytes.into(), put).await.unwrap();
}

fn compactor(store: &Store, keys: &Arc<[FactoryKey]>, bad: BadSegments) -> Compactor {
    let options = CompactOptions {
        bad,
        ..CompactOptions::default()
    };
    Compactor::new(Log::new(store.clone(), "test"), Arc::clone(keys), options)
}

#[test]
fn no_flipped_bit_makes_a_wrong_record_or_a_panic() {
    let keys = [FactoryKey::generate()];
    let mut random = Random(1);
    let records: Vec<_> = (0..4).map(|_| gap(&mut random)).collect();
    let (key, whole) = Spool::new(1, Class::P0, &keys[0]).seal(&records);
    let good = Segment::open(key.as_ref(), &whole, &keys).unwrap();
    assert_eq!(good.trouble, None);
    assert_eq!(good.records.len(), 4);
    let mut salvaged = 0;
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        match Segment::open(key.as_ref(), &bytes, &keys) {
            Err(reason) => assert!(at < HEADER_BYTES, "byte {at}: {reason}"),
            Ok(segment) => {
                assert!(segment.trouble.is_some(), "byte {at} is not missed");
                assert!(
                    segment.records.len() >= 3,
                    "byte {at} costs one record at most"
                );
                assert!(
                    segment
                        .records
                        .iter()
                        .all(|found| good.records.contains(found))
                );
                salvaged += segment.records.len();
            }
        }
    }
    assert!(salvaged > 3 * (whole.len() - HEADER_BYTES));
    for cut in 0..whole.len() {
        if let Ok(segment) = Segment::open(key.as_ref(), &whole[..cut], &keys) {
            assert!(segment.trouble.is_some(), "cut at {cut}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_bad_segment_blocks_no_other_and_is_taken_once_its_key_is_here() {
    let (ours, old) = (FactoryKey::generate(), FactoryKey::generate());
    let saved = FactoryKey::from_bytes(old.secret_bytes().try_into().unwrap(), old.public());
    let mut random = Random(2);
    let objects = InMemory::new();
    let mut wrong = 0;
    let mut at = |records: &[Record], factory: &FactoryKey| {
        wrong += 1;
        Spool::new(wrong, Class::P0, factory).seal(records)
    };
    let record = inference(&mut random, 50);
    let (good, bytes) = at(from_ref(&record), &ours);
    put(&objects, &good, bytes).await;
    let (locked, bytes) = at(&[record.clone(), record.clone()], &old);
    put(&objects, &locked, bytes).await;
    let (empty, _) = at(from_ref(&record), &ours);
    put(&objects, &empty, Vec::new()).await;
    let (moved, _) = at(from_ref(&record), &ours);
    let (_, bytes) = at(from_ref(&record), &ours);
    put(&objects, &moved, bytes).await;
    let (torn, mut bytes) = at(&[record.clone(), record.clone(), record], &ours);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    put(&objects, &torn, bytes).await;

    let store = Store::new(Arc::new(objects));
    let keys: Arc<[FactoryKey]> = Arc::new([ours]);
    let done = compactor(&store, &keys, BadSegments::LeftAlone)
        .run(NOW_MS)
        .await
        .unwrap();
    assert_eq!((done.rows, done.bad, done.commits), (3, 4, 1), "{done:?}");
    let (state, rows) = committed(&store).await;
    assert_eq!(
        rows.len(),
        3,
        "one whole segment, and two records of the torn one"
    );
    let reason = |key: &Path| state.bad()[key.as_ref()].reason.clone();
    assert!(
        reason(&locked).contains("compact --retry-bad"),
        "{}",
        reason(&locked)
    );
    assert!(
        reason(&empty).contains("0 bytes are no segment"),
        "{}",
        reason(&empty)
    );
    assert!(
        reason(&moved).contains("under another's name"),
        "{}",
        reason(&moved)
    );
    assert!(
        reason(&torn).contains("not those that the box sent"),
        "{}",
        reason(&torn)
    );
    assert_eq!(state.bad()[torn.as_ref()].records, 2);
    assert!(state.pending().contains_key(good.as_ref()));
    assert!(!state.pending().contains_key(torn.as_ref()), "it is kept");

    // Nothing new: nothing is done.
    let again = compactor(&store, &keys, BadSegments::LeftAlone)
        .run(NOW_MS)
        .await;
    assert_eq!(again.unwrap().commits, 0);
    let keys: Arc<[FactoryKey]> = Arc::new([FactoryKey::generate(), saved]);
    let done = compactor(&store, &keys, BadSegments::TriedAgain)
        .run(NOW_MS)
        .await
        .unwrap();
    assert_eq!(done.rows, 2, "{done:?}");
    let (state, rows) = committed(&store).await;
    assert_eq!(rows.len(), 5);
    assert!(!state.bad().contains_key(locked.as_ref()));
}

#[tokio::test(start_paused = true)]
async fn a_segment_that_comes_back_after_it_was_deleted_brings_no_second_row() {
    let keys: Arc<[FactoryKey]> = Arc::new([FactoryKey::generate()]);
    let mut random = Random(3);
    let objects = Arc::new(InMemory::new());
    let (key, bytes) = Spool::new(1, Class::P1, &keys[0]).seal(&[inference(&mut random, 50)]);
    let store = Store::new(Arc::clone(&objects) as Arc<dyn ObjectStore>);
    let log = Log::new(store.clone(), "test");
    for round in 0..3 {
        put(&objects, &key, bytes.clone()).await;
        let done = compactor(&store, &keys, BadSegments::LeftAlone)
            .run(NOW_MS)
            .await
            .unwrap();
        assert_eq!(
            (done.segments, done.rows),
            (1, u64::from(round == 0)),
            "round {round}"
        );
        outstation_factory::clean::clean(&log, crate::world::NO_GRACE, NOW_MS)
            .await
            .unwrap();
        assert!(store.get_if_there(&key).await.unwrap().is_none());
    }
    let (_, rows) = committed(&store).await;
    assert_eq!(rows.len(), 1);
}
