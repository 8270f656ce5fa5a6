//! A store that fails when told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, stream};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::store::Store;

/// What fails.
#[derive(Debug, Default)]
pub(crate) struct Switch {
    /// Every request.
    pub(crate) all: AtomicBool,
    /// Those that store segments.
    pub(crate) puts: AtomicBool,
}

#[derive(Debug)]
struct Failing {
    inner: InMemory,
    switch: Arc<Switch>,
}

/// A store in memory and its switch.
pub(crate) fn store() -> (Store, Arc<Switch>) {
    let switch = Arc::new(Switch::default());
    let inner = InMemory::new();
    let failing = Failing {
        inner,
        switch: switch.clone(),
    };
    (Store::new(Arc::new(failing)), switch)
}

impl Failing {
    fn check(&self, key: Option<&Path>) -> Result<()> {
        let puts = key.is_some_and(|key| key.as_ref().starts_with("seg/"))
            && self.switch.puts.load(Ordering::SeqCst);
        if puts || self.switch.all.load(Ordering::SeqCst) {
            return Err(Error::Generic {
                store: "failing",
                source: "503 Slow Down".into(),
            });
        }
        Ok(())
    }
}

impl std::fmt::Display for Failing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("failing")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Failing {
    async fn put_opts(
        &self,
        key: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.check(Some(key))?;
        self.inner.put_opts(key, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        key: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(key, options).await
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        self.check(None)?;
        self.inner.get_opts(key, options).await
    }

    fn delete_stream(
        &self,
        keys: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.check(None) {
            Ok(()) => self.inner.list(prefix),
            Err(error) => stream::once(std::future::ready(Err(error))).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
