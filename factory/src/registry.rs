//! Who is in the fleet, and how it is: small JSON objects, each with one reason to be written.
//!
//! ```text
//! devices/<appliance>/enrolment.json       once, when the box joins
//! devices/<appliance>/contact.json         over and over, at most once a minute: how the box was when it last called
//! devices/<appliance>/revocation.json      once: it does not belong here any more
//! boots/<appliance>/<epoch>/<boot20>       once: the nonce of this start. Another nonce is another machine (U-14)
//! quarantine/v1/<appliance>/<epoch>/reason.json     once: two machines write this epoch
//! enrol/<lookup>/code.json, used.json      a one-time code that was given out, and who used it
//! ```

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use outstation_wire::uplink::ReleasePhase;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::keys::unhex;
use crate::store::{Put, Store, StoreError, hex};

mod progress;

pub use progress::{Missing, Progress};

/// The registry of a store.
#[derive(Debug, Clone)]
pub struct Registry {
    store: Store,
}

/// A box joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// What the operator calls it.
    pub name: String,
    /// When, milliseconds since 1970.
    pub unix_ms: u64,
    /// Machine, for people.
    pub hardware: String,
    /// BLAKE3 of its key, hexadecimal.
    pub key: String,
}

/// How a box was when it last called.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Contact {
    /// When, by the factory's clock.
    pub unix_ms: u64,
    /// The address that it called from.
    pub remote: String,
    /// Program and version.
    pub agent: String,
    /// The model that it serves.
    pub model: String,
    /// Its BLAKE3, hexadecimal.
    pub model_digest: String,
    /// Machine, for people.
    pub hardware: String,
    /// The spool that it writes, hexadecimal.
    pub epoch: String,
    /// Starts of the program since the spool was made.
    pub boot: u64,
    /// Its clock less the factory's.
    pub clock_skew_ms: i64,
    /// Bytes that wait in its spool.
    pub spool_bytes: u64,
    /// Segments that wait.
    pub spool_segments: u64,
    /// Records lost, as it counts.
    pub records_lost: u64,
    /// Requests served since its start.
    pub requests_served: u64,
    /// What is wrong with it, in its words.
    pub trouble: String,
    /// Whose releases it follows.
    pub ring: String,
    /// The counter of the rollout that it acts on.
    pub rollout: u64,
    /// The target of the manifest that it acts on.
    pub manifest: String,
    /// How far it is with that, as [`phase_word`] says it.
    pub phase: String,
    /// Why it gave that up, in its words.
    pub reason: String,
    /// Epochs in which another machine wrote, as far as this box showed.
    pub clones: u64,
    /// Segments of it that are stored with damage inside.
    pub segments_damaged: u64,
    /// What arrived of each spool and class, the newest spools last.
    pub progress: Vec<Progress>,
}

/// A box was sent away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// When.
    pub unix_ms: u64,
    /// Why.
    pub reason: String,
}

/// A one-time code that was given out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    /// What the box will be called.
    pub name: String,
    /// After this it is worth nothing.
    pub expires_unix_ms: u64,
}

/// Who used a code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// The identity that it got, hexadecimal.
    pub appliance: String,
    /// BLAKE3 of its key, hexadecimal.
    pub key: String,
    /// Its certificate, DER, hexadecimal.
    pub certificate: String,
    /// When.
    pub unix_ms: u64,
    /// Machine, for people.
    pub hardware: String,
}

/// All that is known of a box.
#[derive(Debug, Clone, Serialize)]
pub struct Device {
    /// Its identity, hexadecimal.
    pub appliance: String,
    /// When it joined.
    pub enrolment: Option<Enrolment>,
    /// How it was.
    pub contact: Option<Contact>,
    /// Whether it was sent away.
    pub revocation: Option<Revocation>,
}

/// What a start of a box turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boot {
    /// The only one of this number.
    Own,
    /// Another machine has this number in this spool.
    Cloned,
}

/// Requests to the store at once, when many objects are read.
const READS_AT_ONCE: usize = 32;

impl Registry {
    /// Of a store.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Claims a start of a box. Safe to repeat.
    pub async fn boot(
        &self,
        appliance: &[u8; 16],
        epoch: &[u8; 16],
        boot: u64,
        nonce: &[u8],
    ) -> Result<Boot, StoreError> {
        let key = Path::from(format!(
            "boots/{}/{}/{boot:020}",
            hex(appliance),
            hex(epoch)
        ));
        match self
            .store
            .put_once(&key, hex(nonce).into_bytes().into())
            .await
        {
            Ok(_) => Ok(Boot::Own),
            Err(StoreError::Conflict { .. }) => Ok(Boot::Cloned),
            Err(error) => Err(error),
        }
    }

    /// Whether two machines write this epoch.
    pub async fn is_quarantined(
        &self,
        appliance: &[u8; 16],
        epoch: &[u8; 16],
    ) -> Result<bool, StoreError> {
        let marker = quarantine_marker(appliance, epoch);
        Ok(self.get::<serde_json::Value>(&marker).await?.is_some())
    }

    /// Marks that two machines write this epoch. The first reason stays.
    pub async fn quarantine(
        &self,
        appliance: &[u8; 16],
        epoch: &[u8; 16],
        reason: &str,
    ) -> Result<(), StoreError> {
        let marker = quarantine_marker(appliance, epoch);
        let value = serde_json::json!({ "reason": reason });
        match self.put_once(&marker, &value).await {
            Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether a box was sent away.
    pub async fn revocation(&self, appliance: &[u8; 16]) -> Result<Option<Revocation>, StoreError> {
        self.get(&device(&hex(appliance), REVOCATION)).await
    }

    /// Sends a box away. The first reason stays.
    pub async fn revoke(&self, appliance: &str, revocation: &Revocation) -> Result<(), StoreError> {
        match self
            .put_once(&device(appliance, REVOCATION), revocation)
            .await
        {
            Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Notes that a box joined. Safe to repeat with the same.
    pub async fn enrolled(&self, appliance: &str, enrolment: &Enrolment) -> Result<(), StoreError> {
        self.put_once(&device(appliance, ENROLMENT), enrolment)
            .await
            .map(drop)
    }

    /// Whether a box ever joined here.
    pub async fn enrolment(&self, appliance: &[u8; 16]) -> Result<Option<Enrolment>, StoreError> {
        self.get(&device(&hex(appliance), ENROLMENT)).await
    }

    /// How a box was when it last called.
    pub async fn contact(&self, appliance: &[u8; 16]) -> Result<Option<Contact>, StoreError> {
        self.get(&device(&hex(appliance), CONTACT)).await
    }

    /// Notes how a box is, in place of what was noted before.
    pub async fn contacted(
        &self,
        appliance: &[u8; 16],
        contact: &Contact,
    ) -> Result<(), StoreError> {
        let key = device(&hex(appliance), CONTACT);
        let put = self.store.objects().put(&key, json(contact).into()).await;
        put.map(drop).map_err(|source| failed(&key, source))
    }

    /// Gives a code out.
    pub async fn add_code(&self, lookup: &[u8; 32], code: &Code) -> Result<(), StoreError> {
        self.put_once(&enrol(lookup, "code.json"), code)
            .await
            .map(drop)
    }

    /// A code that was given out.
    pub async fn code(&self, lookup: &[u8; 32]) -> Result<Option<Code>, StoreError> {
        self.get(&enrol(lookup, "code.json")).await
    }

    /// Who used a code.
    pub async fn used(&self, lookup: &[u8; 32]) -> Result<Option<Used>, StoreError> {
        self.get(&enrol(lookup, "used.json")).await
    }

    /// Uses a code: the first one has it, and is what all others see.
    pub async fn use_code(&self, lookup: &[u8; 32], used: Used) -> Result<Used, StoreError> {
        let key = enrol(lookup, "used.json");
        match self.put_once(&key, &used).await {
            Ok(_) => Ok(used),
            Err(StoreError::Conflict { .. }) => {
                let first = self.get(&key).await?;
                first.ok_or_else(|| StoreError::Conflict {
                    key: key.to_string(),
                })
            }
            Err(error) => Err(error),
        }
    }

    /// A box and all that is known of it.
    pub async fn device(&self, appliance: &str) -> Result<Option<Device>, StoreError> {
        let found = Device {
            appliance: appliance.to_owned(),
            enrolment: self.get(&device(appliance, ENROLMENT)).await?,
            contact: self.get(&device(appliance, CONTACT)).await?,
            revocation: self.get(&device(appliance, REVOCATION)).await?,
        };
        let known = found.enrolment.is_some() || found.contact.is_some();
        Ok(known.then_some(found))
    }

    /// All boxes, by identity. `before` is what an earlier call left: what did not change since is not read again.
    pub async fn devices(&self, before: &mut Objects) -> Result<Vec<Device>, StoreError> {
        let folder = Path::from("devices");
        let listed: Vec<_> = self
            .store
            .objects()
            .list(Some(&folder))
            .try_collect()
            .await
            .map_err(|source| failed(&folder, source))?;
        let mut now = BTreeMap::new();
        let mut reads = Vec::new();
        for meta in listed {
            let key = meta.location.to_string();
            let version = (meta.last_modified.timestamp_millis(), meta.e_tag, meta.size);
            match before.0.remove(&key) {
                Some((known, bytes)) if known == version => drop(now.insert(key, (known, bytes))),
                _ => reads.push((key, meta.location, version)),
            }
        }
        let read = futures_util::stream::iter(reads).map(|(key, location, version)| async move {
            let bytes = self.bytes(&location).await?;
            Ok::<_, StoreError>((key, version, bytes))
        });
        let read: Vec<_> = read.buffer_unordered(READS_AT_ONCE).try_collect().await?;
        for (key, version, bytes) in read {
            now.insert(key, (version, bytes.unwrap_or_default()));
        }
        before.0 = now;
        Ok(before.devices())
    }

    async fn put_once<T: Serialize>(&self, key: &Path, value: &T) -> Result<Put, StoreError> {
        self.store.put_once(key, json(value).into()).await
    }

    async fn get<T: DeserializeOwned>(&self, key: &Path) -> Result<Option<T>, StoreError> {
        let Some(bytes) = self.bytes(key).await? else {
            return Ok(None);
        };
        let parsed = serde_json::from_slice(&bytes);
        parsed.map(Some).map_err(|e| {
            failed(
                key,
                object_store::Error::Generic {
                    store: "registry",
                    source: Box::new(e),
                },
            )
        })
    }

    async fn bytes(&self, key: &Path) -> Result<Option<Vec<u8>>, StoreError> {
        let got = match self.store.objects().get(key).await {
            Ok(got) => got,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(source) => return Err(failed(key, source)),
        };
        let bytes = got.bytes().await.map_err(|source| failed(key, source))?;
        Ok(Some(bytes.into()))
    }
}

/// Objects that were read, with their versions.
#[derive(Debug, Default)]
pub struct Objects(BTreeMap<String, (Version, Vec<u8>)>);

type Version = (i64, Option<String>, u64);

impl Objects {
    fn devices(&self) -> Vec<Device> {
        let mut devices: BTreeMap<&str, Device> = BTreeMap::new();
        for (key, (_, bytes)) in &self.0 {
            let mut parts = key.split('/').skip(1);
            let (Some(appliance), Some(name)) = (parts.next(), parts.next()) else {
                continue;
            };
            let device = devices.entry(appliance).or_insert_with(|| Device {
                appliance: appliance.to_owned(),
                enrolment: None,
                contact: None,
                revocation: None,
            });
            // What is damaged is as good as absent, and the box will write it again.
            match name {
                ENROLMENT => device.enrolment = serde_json::from_slice(bytes).ok(),
                CONTACT => device.contact = serde_json::from_slice(bytes).ok(),
                REVOCATION => device.revocation = serde_json::from_slice(bytes).ok(),
                _ => {}
            }
        }
        devices.into_values().collect()
    }
}

/// How far a box is with a release, in a word.
pub fn phase_word(phase: ReleasePhase) -> &'static str {
    match phase {
        ReleasePhase::Idle => "idle",
        ReleasePhase::Fetching => "fetching",
        ReleasePhase::Trial => "trial",
        ReleasePhase::Committed => "committed",
        ReleasePhase::Rejected => "rejected",
    }
}

/// An identity as people write it.
pub fn appliance(text: &str) -> Option<[u8; 16]> {
    unhex(&text.to_ascii_lowercase())
}

const ENROLMENT: &str = "enrolment.json";
const CONTACT: &str = "contact.json";
const REVOCATION: &str = "revocation.json";

fn device(appliance: &str, name: &str) -> Path {
    Path::from(format!("devices/{appliance}/{name}"))
}

fn enrol(lookup: &[u8; 32], name: &str) -> Path {
    Path::from(format!("enrol/{}/{name}", hex(lookup)))
}

/// Whoever reads segments of an epoch must look here first.
pub fn quarantine_marker(appliance: &[u8; 16], epoch: &[u8; 16]) -> Path {
    Path::from(format!(
        "quarantine/v1/{}/{}/reason.json",
        hex(appliance),
        hex(epoch)
    ))
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings and numbers")
}

fn failed(key: &Path, source: object_store::Error) -> StoreError {
    StoreError::Store {
        key: key.to_string(),
        tries: 1,
        source,
    }
}
