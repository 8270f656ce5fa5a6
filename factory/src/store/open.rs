//! Where a store is: a folder of this machine, or an address of somebody else's.

use std::fs::File;
use std::io;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use object_store::local::LocalFileSystem;
#[cfg(any(feature = "aws", feature = "azure", feature = "gcp"))]
use object_store::{ObjectStore, path::Path, prefix::PrefixStore};

use super::{Store, StoreError};

impl Store {
    /// A store by its address.
    ///
    /// - `/path` or `file:///path`: a folder of this machine;
    /// - `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`: where the program was built with the
    ///   feature `aws`, `gcp` or `azure`. Credentials, region and endpoint come from the environment, as the tools of
    ///   these clouds have it (`AWS_…`, `GOOGLE_…`, `AZURE_…`).
    pub fn open(url: &str) -> Result<Self, StoreError> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Self::folder(FilePath::new(url));
        };
        match scheme {
            "file" => Self::folder(FilePath::new(rest)),
            #[cfg(feature = "aws")]
            "s3" | "s3a" => {
                let builder = object_store::aws::AmazonS3Builder::from_env()
                    .with_url(url)
                    .with_retry(few_tries());
                prefixed(url, rest, builder.build())
            }
            #[cfg(feature = "gcp")]
            "gs" => {
                let builder = object_store::gcp::GoogleCloudStorageBuilder::from_env()
                    .with_url(url)
                    .with_retry(few_tries());
                prefixed(url, rest, builder.build())
            }
            #[cfg(feature = "azure")]
            "az" | "azure" | "abfs" | "abfss" => {
                let builder = object_store::azure::MicrosoftAzureBuilder::from_env()
                    .with_url(url)
                    .with_retry(few_tries());
                prefixed(url, rest, builder.build())
            }
            _ => Err(StoreError::Address {
                url: url.to_owned(),
                reason: match scheme {
                    "s3" | "s3a" => needs("aws"),
                    "gs" => needs("gcp"),
                    "az" | "azure" | "abfs" | "abfss" => needs("azure"),
                    _ => "use a folder, or s3://, gs:// or az://".to_owned(),
                },
            }),
        }
    }

    /// A folder of this machine, made if it is missing. What is acknowledged is on its disk.
    pub fn folder(folder: &FilePath) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Folder {
            folder: folder.display().to_string(),
            source,
        };
        std::fs::create_dir_all(folder).map_err(failed)?;
        check_links(folder, |from, to| std::fs::hard_link(from, to))?;
        let objects = LocalFileSystem::new_with_prefix(folder)
            .map_err(|source| failed(io::Error::other(source)))?
            .with_fsync(true);
        Ok(Self::new(Arc::new(objects)))
    }
}

fn needs(feature: &str) -> String {
    format!("this program was built without the feature `{feature}`")
}

/// Tries of the library underneath. Ours look at what is there between two of them.
#[cfg(any(feature = "aws", feature = "azure", feature = "gcp"))]
fn few_tries() -> object_store::RetryConfig {
    object_store::RetryConfig {
        max_retries: 1,
        ..object_store::RetryConfig::default()
    }
}

/// A bucket's folder as a store of its own.
#[cfg(any(feature = "aws", feature = "azure", feature = "gcp"))]
fn prefixed<S: ObjectStore>(
    url: &str,
    rest: &str,
    bucket: Result<S, object_store::Error>,
) -> Result<Store, StoreError> {
    let address = |reason: String| StoreError::Address {
        url: url.to_owned(),
        reason,
    };
    let bucket = bucket.map_err(|error| address(error.to_string()))?;
    let prefix = rest.split_once('/').map_or("", |(_, prefix)| prefix);
    let prefix = Path::parse(prefix).map_err(|error| address(error.to_string()))?;
    Ok(if prefix.as_ref().is_empty() {
        Store::new(Arc::new(bucket))
    } else {
        Store::new(Arc::new(PrefixStore::new(bucket, prefix)))
    })
}

/// Tries a hard link, which is how an object appears on a local disk whole, and not over another.
pub(super) fn check_links(
    folder: &FilePath,
    link: impl Fn(&FilePath, &FilePath) -> io::Result<()>,
) -> Result<(), StoreError> {
    let probe = Probe::new(folder);
    let failed = |source| StoreError::Folder {
        folder: folder.display().to_string(),
        source,
    };
    File::create(&probe.file).map_err(failed)?;
    link(&probe.file, &probe.link).map_err(|source| StoreError::Links {
        folder: folder.display().to_string(),
        source,
    })
}

/// Two names, which are gone again at its end.
struct Probe {
    file: PathBuf,
    link: PathBuf,
}

impl Probe {
    fn new(folder: &FilePath) -> Self {
        use std::hash::{BuildHasher as _, RandomState};
        // Two replicas may start in one folder at once.
        let number = RandomState::new().hash_one(std::process::id());
        Self {
            file: folder.join(format!(".links-{number:016x}#1")),
            link: folder.join(format!(".links-{number:016x}#2")),
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        for path in [&self.file, &self.link] {
            // A name that is left over is none of an object: the store skips what ends with # and digits.
            std::fs::remove_file(path).ok();
        }
    }
}
