//! What must be true of a store, by a simpler reading of it than the factory's own.

use std::collections::{BTreeMap, BTreeSet};

use arrow_array::cast::AsArray as _;
use arrow_array::types::Int64Type;
use object_store::path::Path;
use outstation_factory::commits::{Log, State};
use outstation_factory::rows::read_batches;
use outstation_factory::store::Store;

/// `<appliance>/<epoch>/<class>/<record_seq>`, and its tenant.
pub(crate) type Rows = BTreeMap<String, String>;

/// Reads every committed file. Panics if one is missing, differs from its commit, or has a row that another has.
pub(crate) async fn committed(store: &Store) -> (State, Rows) {
    let state = Log::new(store.clone(), "oracle").read().await.unwrap();
    let mut rows = Rows::new();
    for (key, file) in state.files() {
        let bytes = store.get(&Path::parse(key).unwrap()).await.unwrap();
        assert_eq!(bytes.len() as u64, file.bytes, "{key}");
        assert_eq!(blake3::hash(&bytes).to_hex().as_str(), file.blake3, "{key}");
        let mut count = 0;
        let mut tenants = BTreeSet::new();
        for batch in read_batches(bytes).unwrap() {
            let batch = batch.unwrap();
            count += batch.num_rows() as u64;
            let text = |name: &str| {
                batch
                    .column_by_name(name)
                    .map(arrow_array::cast::AsArray::as_string::<i32>)
            };
            let seq = batch.column_by_name("record_seq").unwrap();
            let seq = seq.as_primitive::<Int64Type>();
            for n in 0..batch.num_rows() {
                let part = |name| text(name).unwrap().value(n);
                let row = format!(
                    "{}/{}/{}/{}",
                    part("appliance"),
                    part("epoch"),
                    part("class"),
                    seq.value(n)
                );
                let tenant = text("tenant")
                    .map_or("", |tenants| tenants.value(n))
                    .to_owned();
                tenants.insert(tenant.clone());
                assert!(
                    rows.insert(row.clone(), tenant).is_none(),
                    "{row} is there twice"
                );
            }
        }
        assert_eq!(count, file.rows, "{key}");
        if let Some(listed) = &file.tenants {
            assert_eq!(&tenants, listed, "{key}");
        }
    }
    (state, rows)
}

/// Keys under a folder.
pub(crate) async fn keys(store: &Store, folder: &str) -> BTreeSet<String> {
    let listed = store.list(&Path::from(folder), None).await.unwrap();
    listed
        .into_iter()
        .map(|meta| meta.location.to_string())
        .collect()
}
