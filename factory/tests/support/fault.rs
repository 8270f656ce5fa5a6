//! A store that fails where it is told to.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What happens to an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The replica dies before it: neither it nor anything after it happens.
    KillBefore,
    /// The replica dies after it.
    KillAfter,
    /// 409 or 412, which the library tells as one: "already there", and nothing is written.
    Conflict,
    /// 503, and nothing happens.
    Unavailable,
    /// It happens, and the reply is lost.
    LostReply,
    /// Others work right before it, to the end.
    Meanwhile,
}

impl Fault {
    pub(crate) const ALL: [Self; 5] = [
        Self::KillBefore,
        Self::KillAfter,
        Self::Conflict,
        Self::Unavailable,
        Self::LostReply,
    ];
}

/// A replica's view of a store.
pub(crate) struct Faulty {
    inner: Arc<dyn ObjectStore>,
    operations: AtomicU64,
    at: u64,
    fault: Option<Fault>,
    meanwhile: Mutex<Option<BoxFuture<'static, ()>>>,
    lag: Option<Mutex<BTreeMap<Path, Vec<ObjectMeta>>>>,
    random: Option<Mutex<super::random::Random>>,
}

impl Faulty {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            operations: AtomicU64::new(0),
            at: u64::MAX,
            fault: None,
            meanwhile: Mutex::new(None),
            lag: None,
            random: None,
        }
    }

    /// A fault at one operation, from 0.
    pub(crate) fn at(self, at: u64, fault: Fault) -> Self {
        Self {
            at,
            fault: Some(fault),
            ..self
        }
    }

    /// Others' work at one operation.
    pub(crate) fn meanwhile(self, at: u64, work: BoxFuture<'static, ()>) -> Self {
        Self {
            meanwhile: Mutex::new(Some(work)),
            ..self.at(at, Fault::Meanwhile)
        }
    }

    /// Each list is that of the time before, the first one empty.
    pub(crate) fn lagging(self) -> Self {
        Self {
            lag: Some(Mutex::new(BTreeMap::new())),
            ..self
        }
    }

    /// Every operation may fail or take its time.
    pub(crate) fn random(self, seed: u64) -> Self {
        Self {
            random: Some(Mutex::new(super::random::Random(seed))),
            ..self
        }
    }

    /// How many operations there were.
    pub(crate) fn operations(&self) -> u64 {
        self.operations.load(Ordering::SeqCst)
    }

    /// What happens to this operation.
    async fn next(&self) -> Option<Fault> {
        if let Some(random) = &self.random {
            let (turns, fault) = {
                let mut random = random.lock().unwrap();
                (random.below(6), random.below(60))
            };
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
            // Dying is not among them: there is nobody to start the replica again.
            return [Fault::Conflict, Fault::Unavailable, Fault::LostReply]
                .get(usize::try_from(fault).unwrap())
                .copied();
        }
        let number = self.operations.fetch_add(1, Ordering::SeqCst);
        let fault = self.fault?;
        if number == self.at {
            let work = self.meanwhile.lock().unwrap().take();
            if let Some(work) = work {
                work.await;
                return None;
            }
            return Some(fault);
        }
        let dead = matches!(fault, Fault::KillBefore | Fault::KillAfter) && number > self.at;
        dead.then_some(Fault::KillBefore)
    }

    async fn with<T>(
        &self,
        key: &Path,
        writes: bool,
        operation: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let lost = |why: &'static str| Error::Generic {
            store: "faulty",
            source: why.into(),
        };
        match self.next().await {
            Some(Fault::Conflict) if writes => Err(Error::AlreadyExists {
                path: key.to_string(),
                source: "409, but nothing is there".into(),
            }),
            Some(Fault::KillBefore) => Err(lost("dead")),
            Some(Fault::Unavailable) => Err(lost("503")),
            Some(Fault::KillAfter | Fault::LostReply) => {
                operation.await.ok();
                Err(lost("the reply is lost"))
            }
            _ => operation.await,
        }
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

/// Lets a replica own its view, and the test look at it.
#[derive(Debug, Clone)]
pub(crate) struct View(pub(crate) Arc<Faulty>);

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("View")
    }
}

#[async_trait]
impl ObjectStore for View {
    async fn put_opts(
        &self,
        key: &Path,
        bytes: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.0
            .with(key, true, self.0.inner.put_opts(key, bytes, options))
            .await
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        unreachable!("the factory does not use it")
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        self.0
            .with(key, false, self.0.inner.get_opts(key, options))
            .await
    }

    fn delete_stream(
        &self,
        keys: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let faulty = Arc::clone(&self.0);
        let deleted = keys.then(move |key| {
            let faulty = Arc::clone(&faulty);
            async move {
                let key = key?;
                let one = futures_util::stream::iter([Ok(key.clone())]).boxed();
                let delete = faulty.inner.delete_stream(one).try_collect::<Vec<_>>();
                faulty.with(&key, false, delete).await?;
                Ok(key)
            }
        });
        deleted.boxed()
    }

    fn list(&self, folder: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let faulty = Arc::clone(&self.0);
        let folder = folder.cloned().unwrap_or_default();
        let list = async move {
            let list = faulty.inner.list(Some(&folder)).try_collect::<Vec<_>>();
            let listed = faulty.with(&folder, false, list).await?;
            Ok::<_, Error>(match &faulty.lag {
                None => listed,
                Some(lag) => lag
                    .lock()
                    .unwrap()
                    .insert(folder, listed)
                    .unwrap_or_default(),
            })
        };
        let listed = futures_util::stream::once(list);
        let listed =
            listed.map_ok(|list: Vec<ObjectMeta>| futures_util::stream::iter(list).map(Ok));
        listed.try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        unreachable!("the factory does not use it")
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        unreachable!("the factory does not use it")
    }
}
