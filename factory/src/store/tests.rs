use std::path::Path as FilePath;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, PutMultipartOptions,
    PutOptions, PutResult, Result,
};

use super::open::check_links;
use super::*;

/// What the store says to a write, one after the other, and then no more than the truth.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Say {
    /// 409 or 412, and nothing is written.
    Exists,
    /// 503, and nothing is written.
    Busy,
    /// It is written, and the reply is lost.
    Lost,
    /// Nothing, for good: neither a write nor a reply.
    Silence,
}

#[derive(Debug)]
struct Moody {
    inner: InMemory,
    says: Vec<Say>,
    puts: AtomicU32,
}

impl std::fmt::Display for Moody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Moody")
    }
}

#[async_trait]
impl ObjectStore for Moody {
    async fn put_opts(
        &self,
        key: &Path,
        bytes: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let number = self.puts.fetch_add(1, Ordering::SeqCst);
        let said = self.says.get(number as usize);
        let generic = || Error::Generic {
            store: "moody",
            source: "no reply".into(),
        };
        match said {
            None => self.inner.put_opts(key, bytes, options).await,
            Some(Say::Exists) => Err(Error::AlreadyExists {
                path: key.to_string(),
                source: "409".into(),
            }),
            Some(Say::Busy) => Err(generic()),
            Some(Say::Lost) => {
                self.inner.put_opts(key, bytes, options).await.ok();
                Err(generic())
            }
            Some(Say::Silence) => std::future::pending().await,
        }
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        unreachable!("the factory does not use it")
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(key, options).await
    }

    fn delete_stream(
        &self,
        keys: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(keys)
    }

    fn list(&self, folder: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(folder)
    }

    async fn list_with_delimiter(&self, folder: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(folder).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

fn moody(says: &[Say]) -> Store {
    Store::new(Arc::new(Moody {
        inner: InMemory::new(),
        says: says.to_vec(),
        puts: AtomicU32::new(0),
    }))
}

/// What comes of a write, and whether it is there afterwards.
async fn put(store: &Store, bytes: &'static [u8]) -> String {
    let key = Path::from("a/b");
    let put = store.put_once(&key, PutPayload::from_static(bytes)).await;
    let there = store.get_if_there(&key).await.unwrap();
    let there = there.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
    match put {
        Ok(put) => format!("{put:?}, {there:?}"),
        Err(error) => format!("{error}, {there:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_is_believed_only_after_a_look() {
    for says in [
        &[][..],
        &[Say::Exists],
        &[Say::Busy],
        &[Say::Silence],
        &[
            Say::Exists,
            Say::Busy,
            Say::Silence,
            Say::Exists,
            Say::Busy,
            Say::Busy,
            Say::Exists,
        ],
    ] {
        let store = moody(says);
        assert_eq!(put(&store, b"x").await, r#"Created, Some("x")"#, "{says:?}");
        assert_eq!(put(&store, b"x").await, r#"Present, Some("x")"#, "{says:?}");
        for other in [&b"y"[..], b"xx", b""] {
            let said = put(&store, other).await;
            assert_eq!(
                said,
                r#"a/b holds other bytes than those that belong there: two writers use one name, Some("x")"#
            );
        }
    }
    for says in [&[Say::Lost][..], &[Say::Busy, Say::Lost]] {
        let store = moody(says);
        assert_eq!(put(&store, b"x").await, r#"Present, Some("x")"#, "{says:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_never_recovers_is_given_up() {
    let store = moody(&[Say::Busy; 100]);
    let before = tokio::time::Instant::now();
    let said = put(&store, b"x").await;
    assert_eq!(
        said,
        "the store fails at a/b, 8 times: Generic moody error: no reply, None"
    );
    let waited = before.elapsed();
    assert!(waited > Duration::from_secs(5), "{waited:?}");
    assert!(waited < Duration::from_secs(15), "{waited:?}");
}

#[test]
fn a_folder_without_hard_links_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let none = |_: &FilePath, _: &FilePath| Err(std::io::ErrorKind::Unsupported.into());
    let error = check_links(folder.path(), none).unwrap_err().to_string();
    let name = folder.path().display();
    assert_eq!(
        error,
        format!(
            "the folder {name} cannot hold hard links (unsupported), and without them two writers could overwrite \
             each other: use ext4, XFS, Btrfs or ZFS, not FAT, exFAT or a network share without links"
        )
    );
    Store::folder(folder.path()).unwrap();
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 0, "the probe takes its files away");
}

#[tokio::test]
async fn addresses_are_folders_or_clouds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b");
    for url in [
        path.display().to_string(),
        format!("file://{}", path.display()),
    ] {
        let store = Store::open(&url).unwrap();
        // Names that a file system or a URL would change come back as they are.
        let key = Path::parse("w=a%2Fb%20ä/x.parquet").unwrap();
        store
            .put_once(&key, PutPayload::from_static(b"x"))
            .await
            .unwrap();
        let listed = store.list(&Path::from("w=a%2Fb"), None).await.unwrap();
        assert!(listed.is_empty());
        let folder = Path::parse("w=a%2Fb%20ä").unwrap();
        let listed = store.list(&folder, None).await.unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].location, key);
        assert!(path.join("w=a%2Fb%20ä/x.parquet").is_file());
    }
    let refused = |url| Store::open(url).unwrap_err().to_string();
    assert_eq!(
        refused("ftp://x/y"),
        "ftp://x/y is no store: use a folder, or s3://, gs:// or az://"
    );
    #[cfg(not(feature = "aws"))]
    assert_eq!(
        refused("s3://bucket/x"),
        "s3://bucket/x is no store: this program was built without the feature `aws`"
    );
}
