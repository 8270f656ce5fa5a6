//! Which adapters are served, and which of the places that were taken at start are free for others.
//!
//! ```text
//! free ─begin─▶ loading ─finish─▶ served ─unload, or another by its name─▶ leaving ─last request ends─▶ free
//! ```
//!
//! The pool has one share of each adapter and each request that uses it another, so a place is free when the pool's
//! share is the only one. The share of a request goes with its submission and comes back with it.

use std::sync::Arc;

use super::{Base, PackedAdapter};

/// An adapter that is served, for lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedAdapter {
    /// Its name: what stands after the base's and a colon.
    pub name: String,
    /// BLAKE3 of its files.
    pub digest: [u8; 32],
    /// When it was loaded, seconds since 1970.
    pub created_unix_s: u64,
}

/// Why an adapter is not loaded, or not unloaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// A name that could not be asked for.
    #[error(
        "`{name}` cannot be an adapter's name: it must be 1 to 64 letters, digits, `.`, `_` or `-`, and neither the \
         base's name nor `default`"
    )]
    Name {
        /// As given.
        name: String,
    },
    /// No place was planned for.
    #[error("no memory was planned for adapters: set adapters.count_max and restart")]
    NoPlaces,
    /// All places are taken.
    #[error(
        "all {places} places for adapters are taken ({leaving} by some that requests still use): unload one, wait, or \
         raise adapters.count_max and restart"
    )]
    Full {
        /// Places.
        places: usize,
        /// Those whose adapter is no longer served.
        leaving: usize,
    },
    /// Nothing of this name.
    #[error("no adapter `{name}` is loaded: there {known}")]
    Unknown {
        /// As given.
        name: String,
        /// What there is.
        known: String,
    },
}

/// The places of a base model. All memory is taken before `new`.
#[derive(Debug)]
pub struct AdapterPool {
    base: String,
    targets: Arc<Base>,
    places: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    /// `None` while somebody loads into it.
    adapter: Option<Arc<PackedAdapter>>,
    served: Option<ServedAdapter>,
}

/// A place that somebody loads into, and gives back with [`AdapterPool::finish`] or [`AdapterPool::give_up`].
#[derive(Debug)]
#[must_use = "the place is lost if it is not given back"]
pub struct Place {
    index: usize,
    name: String,
    adapter: Arc<PackedAdapter>,
    targets: Arc<Base>,
}

/// An adapter that is served no longer.
#[derive(Debug)]
pub struct Leaving {
    index: usize,
}

impl Place {
    /// What is to be filled, and for which base.
    pub fn parts(&mut self) -> (&mut PackedAdapter, &Base) {
        let adapter = Arc::get_mut(&mut self.adapter).expect("nobody else has a share of it");
        (adapter, &self.targets)
    }
}

impl AdapterPool {
    /// A pool for a base, over places that are empty. Without places nothing can be loaded.
    pub fn new(base: &str, targets: Base, places: Vec<PackedAdapter>) -> Self {
        let entry = |adapter| Entry {
            adapter: Some(Arc::new(adapter)),
            served: None,
        };
        Self {
            base: base.to_owned(),
            targets: Arc::new(targets),
            places: places.into_iter().map(entry).collect(),
        }
    }

    /// A pool without places, for a base that nothing is added to.
    pub fn none() -> Self {
        Self::new("", Base::none(), Vec::new())
    }

    /// Takes a free place to load an adapter into that shall have this name.
    pub fn begin(&mut self, name: &str) -> Result<Place, PoolError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        let possible = (1..=NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(plain);
        if !possible || name == self.base || name == "default" {
            return Err(PoolError::Name {
                name: name.chars().take(NAME_BYTES_MAX).collect(),
            });
        }
        if self.places.is_empty() {
            return Err(PoolError::NoPlaces);
        }
        let index = self.places.iter_mut().position(Entry::is_free);
        let Some(index) = index else {
            let leaving = self.places.iter().filter(|entry| entry.is_leaving());
            return Err(PoolError::Full {
                places: self.places.len(),
                leaving: leaving.count(),
            });
        };
        Ok(Place {
            index,
            name: name.to_owned(),
            adapter: self.places[index].adapter.take().expect("it is free"),
            targets: self.targets.clone(),
        })
    }

    /// Serves what was loaded. Who asks for the name from here on gets it; an adapter that had the name leaves when the
    /// last request that uses it ends.
    pub fn finish(&mut self, place: Place, created_unix_s: u64) {
        for entry in &mut self.places {
            entry.served.take_if(|served| served.name == place.name);
        }
        let digest = place.adapter.digest();
        let Some(entry) = self.places.get_mut(place.index) else {
            return; // the base has gone meanwhile
        };
        *entry = Entry {
            adapter: Some(place.adapter),
            served: Some(ServedAdapter {
                name: place.name,
                digest,
                created_unix_s,
            }),
        };
    }

    /// Gives a place back that nothing came of.
    pub fn give_up(&mut self, place: Place) {
        if let Some(entry) = self.places.get_mut(place.index) {
            entry.adapter = Some(place.adapter);
        }
    }

    /// Serves an adapter no longer. Its place is free when the last request that uses it ends.
    pub fn unload(&mut self, name: &str) -> Result<Leaving, PoolError> {
        match self.places.iter().position(|entry| entry.has_name(name)) {
            Some(index) => {
                self.places[index].served = None;
                Ok(Leaving { index })
            }
            None => Err(PoolError::Unknown {
                name: name.chars().take(NAME_BYTES_MAX).collect(),
                known: match self
                    .served()
                    .map(|served| &*served.name)
                    .collect::<Vec<_>>()
                {
                    names if names.is_empty() => "are none".to_owned(),
                    names => format!("is {}", names.join(", ")),
                },
            }),
        }
    }

    /// Whether nobody uses it any more.
    pub fn has_left(&mut self, leaving: &Leaving) -> bool {
        // Where somebody loads already, or is served, it was free before.
        let entry = self.places.get_mut(leaving.index);
        entry.is_none_or(|entry| !entry.is_leaving() || entry.is_free())
    }

    /// A share of the adapter with this name.
    pub fn find(&self, name: &str) -> Option<Arc<PackedAdapter>> {
        let entry = self.places.iter().find(|entry| entry.has_name(name))?;
        entry.adapter.clone()
    }

    /// What is served, in the order of the places.
    pub fn served(&self) -> impl Iterator<Item = &ServedAdapter> {
        self.places.iter().filter_map(|entry| entry.served.as_ref())
    }

    /// Places in all.
    pub fn places(&self) -> usize {
        self.places.len()
    }

    /// Places that an adapter could be loaded into now.
    pub fn free(&mut self) -> usize {
        self.places
            .iter_mut()
            .filter_map(|e| e.is_free().then_some(()))
            .count()
    }

    /// Gives all memory back: the base is served no longer.
    pub fn clear(&mut self) {
        self.places.clear();
    }
}

impl Entry {
    /// Whether nobody but the pool has a share of what is there, and it is not served.
    fn is_free(&mut self) -> bool {
        let alone = self
            .adapter
            .as_mut()
            .is_some_and(|a| Arc::get_mut(a).is_some());
        alone && self.served.is_none()
    }

    /// Whether it is used by who asked for it while it was served.
    fn is_leaving(&self) -> bool {
        self.served.is_none() && self.adapter.is_some()
    }

    fn has_name(&self, name: &str) -> bool {
        self.served
            .as_ref()
            .is_some_and(|served| served.name == name)
    }
}

/// Bytes of a name.
const NAME_BYTES_MAX: usize = 64;
