//! A factory with keys, and a box that believes nothing but its root.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use outstation_factory::ota::document::Holders;
use outstation_factory::ota::pending::{Pending, Went};
use outstation_factory::ota::publish::{Facts, Released, Silent, publish};
use outstation_factory::ota::repository::{Refreshed, Repository, handover};
use outstation_factory::ota::signing::SigningKey;
use outstation_factory::ota::source::Source;
use outstation_factory::ota::{OtaError, Role};
use outstation_factory::store::Store;
use outstation_wire::release::{Gates, Index, Manifest, Rollout, Stored, Wave};
use sigstore_tuf::client::Updater;
use sigstore_tuf::transport::FetchFuture;
use tempfile::TempDir;

/// 2027-01-15.
pub(crate) const NOW_S: u64 = 1_800_000_000;
/// The same in milliseconds.
pub(crate) const NOW_MS: u64 = NOW_S * 1000;

pub(crate) struct World {
    pub(crate) folder: TempDir,
    pub(crate) objects: Arc<dyn ObjectStore>,
    now_s: u64,
}

impl World {
    /// Keys of all roles: three of the root of which two sign, two of models that both sign, one of each other.
    pub(crate) async fn new() -> Self {
        Self::at(NOW_S).await
    }

    /// The same at another time.
    pub(crate) async fn at(now_s: u64) -> Self {
        let world = Self {
            folder: tempfile::tempdir().unwrap(),
            objects: Arc::new(object_store::memory::InMemory::new()),
            now_s,
        };
        for (role, count) in [
            (Role::Root, 3),
            (Role::Targets, 1),
            (Role::Models, 2),
            (Role::Rollout, 1),
            (Role::Snapshot, 1),
            (Role::Timestamp, 1),
        ] {
            for number in 1..=count {
                SigningKey::make(&world.path(&format!("{role}{number}")), role).unwrap();
            }
        }
        let pending = world.pending();
        let holders = world.holders();
        for (role, document) in handover(None, &holders, now_s + 10_000_000) {
            pending.write(role, &document).unwrap();
        }
        let keys = world.keys(&["root1", "root2", "targets1", "snapshot1", "timestamp1"]);
        pending
            .commit(&world.repository(), &keys, now_s)
            .await
            .unwrap();
        world
    }

    pub(crate) fn holders(&self) -> BTreeMap<Role, Holders> {
        let of = |role: Role, names: &[&str], threshold| {
            let keys: Vec<_> = self
                .keys(names)
                .iter()
                .map(|key| key.public().clone())
                .collect();
            (role, Holders::new(&keys, threshold))
        };
        [
            of(Role::Root, &["root1", "root2", "root3"], 2),
            of(Role::Targets, &["targets1"], 1),
            of(Role::Models, &["models1", "models2"], 2),
            of(Role::Rollout, &["rollout1"], 1),
            of(Role::Snapshot, &["snapshot1"], 1),
            of(Role::Timestamp, &["timestamp1"], 1),
        ]
        .into()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn keys(&self, names: &[&str]) -> Vec<SigningKey> {
        let keys = names
            .iter()
            .map(|name| SigningKey::load(&self.path(name)).unwrap());
        keys.collect()
    }

    /// All that a release needs.
    pub(crate) fn releasing(&self) -> Vec<SigningKey> {
        self.keys(&["models1", "models2", "rollout1", "snapshot1", "timestamp1"])
    }

    pub(crate) fn pending(&self) -> Pending {
        Pending::new(&self.path("pending"))
    }

    pub(crate) fn repository(&self) -> Repository {
        Repository::new(Store::new(Arc::clone(&self.objects)))
    }

    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Publishes a file, with all keys.
    pub(crate) async fn publish(&self, name: &str, file: &str, against: &[&str]) -> Released {
        let facts = Facts {
            name: name.to_owned(),
            ..Facts::default()
        };
        let released = self
            .try_publish(&self.repository(), &facts, file, against)
            .await;
        released.unwrap().0
    }

    pub(crate) async fn try_publish(
        &self,
        repository: &Repository,
        facts: &Facts,
        file: &str,
        against: &[&str],
    ) -> Result<(Released, Refreshed), OtaError> {
        let open = |name: &&str| Source::open(&self.path(name)).unwrap();
        let (source, against): (_, Vec<_>) = (open(&file), against.iter().map(open).collect());
        let (keys, pending) = (self.releasing(), self.pending());
        let time = (self.now_s * 1000, &mut Silent as &mut _);
        let files = (&source, against.as_slice());
        let released = publish(repository, &pending, files, facts, &keys, time).await?;
        assert!(!matches!(released.went, Some(Went::Waits { .. })));
        Ok((released, repository.refresh(&keys, self.now_s).await?))
    }

    pub(crate) fn rollout(ring: &str, manifest: &str) -> Rollout {
        Rollout {
            format: 1,
            ring: ring.to_owned(),
            counter: 0,
            issued_unix_s: 0,
            manifest: manifest.to_owned(),
            adapters: Vec::new(),
            waves: vec![Wave {
                percent: 100,
                not_before_unix_s: NOW_S,
            }],
            stop: false,
            canary_percent: vec![10],
            soak_s: 60,
            deadline_s: 600,
            gates: Gates::default(),
            failures_percent_max: 10,
            window: String::new(),
        }
    }

    /// A box that has the first root.
    pub(crate) async fn a_box(&self) -> ABox {
        let root = Path::from("ota/metadata/1.root.json");
        let root = self
            .objects
            .get(&root)
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap();
        ABox::new(Arc::clone(&self.objects), &root).await
    }
}

/// Released files as sigstore-tuf asks for them.
struct Files(Arc<dyn ObjectStore>);

impl sigstore_tuf::transport::Repository for Files {
    fn fetch_metadata<'a>(&'a self, name: &'a str, _: u64) -> FetchFuture<'a> {
        Box::pin(get(&self.0, format!("ota/metadata/{name}")))
    }

    fn fetch_target<'a>(&'a self, path: &'a str, _: u64) -> FetchFuture<'a> {
        Box::pin(get(&self.0, format!("ota/targets/{path}")))
    }
}

async fn get(
    objects: &Arc<dyn ObjectStore>,
    key: String,
) -> Result<Option<Vec<u8>>, sigstore_tuf::Error> {
    match objects.get(&Path::from(key)).await {
        Ok(got) => Ok(Some(got.bytes().await.unwrap().into())),
        Err(_) => Ok(None),
    }
}

/// A reader of its own: nothing of the factory is in it.
pub(crate) struct ABox {
    objects: Arc<dyn ObjectStore>,
    updater: Updater,
    now: jiff::Timestamp,
}

impl ABox {
    pub(crate) async fn new(objects: Arc<dyn ObjectStore>, root: &[u8]) -> Self {
        let files = Files(Arc::clone(&objects));
        let mut updater = Updater::new(files, root).unwrap();
        let now = jiff::Timestamp::from_second(i64::try_from(NOW_S).unwrap()).unwrap();
        updater.refresh(now).await.unwrap();
        Self {
            objects,
            updater,
            now,
        }
    }

    pub(crate) async fn target(&mut self, path: &str) -> Option<Vec<u8>> {
        self.updater.get_target(path, self.now).await.ok()
    }

    pub(crate) async fn manifest(&mut self, path: &str) -> Option<Manifest> {
        let bytes = self.target(path).await?;
        Some(Manifest::parse(&bytes).unwrap())
    }

    pub(crate) async fn index(&mut self, manifest: &Manifest) -> Index {
        Index::parse(&self.target(&manifest.index_path()).await.unwrap()).unwrap()
    }

    /// The file of a release, and the bytes that were fetched for it. With `bases`, by patches where there are some.
    pub(crate) async fn assemble(&mut self, path: &str, bases: &[&[u8]]) -> (Vec<u8>, u64) {
        let manifest = self.manifest(path).await.unwrap();
        let index = self.index(&manifest).await;
        let mut packs = Vec::new();
        for pack in &index.packs {
            let name = format!("ota/packs/{}.pack", blake3::Hash::from_bytes(pack.digest));
            let bytes = get(&self.objects, name).await.unwrap().unwrap();
            assert_eq!(bytes.len(), pack.bytes as usize);
            assert_eq!(blake3::hash(&bytes).as_bytes(), &pack.digest);
            packs.push(bytes);
        }
        let bases: Vec<_> = bases
            .iter()
            .map(|base| (*blake3::hash(base).as_bytes(), *base))
            .collect();
        let (mut file, mut fetched) = (Vec::new(), 0);
        for (number, chunk) in index.chunks.iter().enumerate() {
            let at = |place: outstation_wire::release::Place| {
                let start = place.offset as usize;
                &packs[place.pack as usize][start..start + place.bytes as usize]
            };
            let patch = index.patches.iter().find_map(|patch| {
                let (_, base) = bases
                    .iter()
                    .find(|(digest, _)| *digest == index.bases[patch.base as usize])?;
                (patch.chunk as usize == number).then_some((patch, base))
            });
            let bytes = match (patch, chunk.form) {
                (Some((patch, base)), _) => {
                    let start = usize::try_from(patch.base_offset).unwrap();
                    let part = &base[start..start + patch.base_bytes as usize];
                    let frame = at(patch.place);
                    fetched += frame.len() as u64;
                    let mut decoder =
                        zstd::stream::read::Decoder::with_ref_prefix(frame, part).unwrap();
                    let mut bytes = Vec::new();
                    decoder.read_to_end(&mut bytes).unwrap();
                    bytes
                }
                (None, form) => {
                    let stored = at(chunk.place);
                    fetched += stored.len() as u64;
                    match form {
                        Stored::Plain => stored.to_vec(),
                        Stored::Zstd => {
                            zstd::bulk::decompress(stored, chunk.bytes as usize).unwrap()
                        }
                    }
                }
            };
            assert_eq!(
                blake3::hash(&bytes).as_bytes(),
                &chunk.digest,
                "chunk {number}"
            );
            file.extend(bytes);
        }
        assert_eq!(*blake3::hash(&file).as_bytes(), manifest.digest());
        (file, fetched)
    }
}
