//! Adapters of a ring: each is fetched, tested on the model that serves, and served beside the others; nobody waits.

use std::path::PathBuf;

use outstation_wire::release::{Manifest, Rollout};
use tokio::time::Instant;

use super::client::Releases;
use super::host::{Host, Unfit};
use super::opening::file;
use super::runner::{RoundError, Runner};
use crate::slot::{Candidate, Declined, Reason, Release};

impl<H: Host> Runner<H> {
    /// The next adapter that is to come in, once the ring's model serves, by the name that apps call it. Those that the
    /// ring does not have any more go.
    pub(super) async fn next_adapter(
        &mut self,
        base: &[u8; 32],
        rollout: &Rollout,
        releases: &mut Releases,
    ) -> Result<Option<(String, Manifest)>, RoundError> {
        if self.slots.state().pinned {
            return Ok(None);
        }
        let served = self.slots.state().adapters.clone();
        for adapter in served {
            if !rollout.adapters.iter().any(|a| a.name == adapter.name) {
                self.slots.retire(&mut self.disk, &adapter.name)?;
                self.host.unload_adapter(&adapter.name).await;
                tracing::info!("adapter `{}` is retired", adapter.name);
            }
        }
        for adapter in &rollout.adapters {
            let manifest = Self::manifest(&adapter.manifest, releases).await?;
            let release = Release::of(&manifest);
            let candidate = self.slots.state().candidate.as_ref();
            if candidate.map(Candidate::release) != Some(&release) {
                match self.slots.may(&release, Some(&adapter.name)) {
                    Ok(()) => {}
                    Err(Declined::Committed | Declined::Rejected(_) | Declined::Busy(_)) => {
                        continue;
                    }
                    Err(declined) => return Err(RoundError::Document(declined.to_string())),
                }
            }
            if manifest.base() != Some(*base) {
                let why = format!(
                    "{} is an adapter of another model than {}",
                    adapter.manifest, rollout.manifest
                );
                return Err(RoundError::Document(why));
            }
            self.fits_here(&manifest)
                .map_err(|unfit| RoundError::Document(unfit.text))?;
            return Ok(Some((adapter.name.clone(), manifest)));
        }
        Ok(None)
    }

    /// An adapter that is whole is tested and served, or rejected.
    pub(super) async fn add_adapter(
        &mut self,
        name: &str,
        manifest: &Manifest,
    ) -> Result<(), RoundError> {
        // Whether there is a place is the operator's matter: nothing is held against the adapter.
        self.host.adapter_place().map_err(RoundError::Document)?;
        if !self.is_still_whole(manifest)? {
            return Ok(());
        }
        let release = Release::of(manifest);
        let file = file(&self.settings.folder, &release);
        let began = Instant::now();
        self.slots.load(&mut self.disk)?;
        self.report("release.trial", &release, "");
        self.show(None, None);
        let on_trial = format!("{name}.{}", release.release);
        let tested = self
            .host
            .test_adapter(&on_trial, &file, &manifest.golden)
            .await;
        let served = match tested {
            Ok(()) => {
                self.slots.test(&mut self.disk)?;
                self.slots.soak(&mut self.disk)?;
                self.host.load_adapter(name, &file).await
            }
            Err(unfit) => Err(unfit),
        };
        if let Err(unfit) = served {
            tracing::warn!("adapter {release} is not served: {}", unfit.text);
            self.reject(&unfit)?;
            self.slots.rolled_back(&mut self.disk)?;
            self.report_rejected();
            return Ok(());
        }
        self.slots.commit(&mut self.disk)?;
        self.report("release.committed", &release, "");
        tracing::info!(
            %release,
            "adapter `{name}` serves, after {:.1} s",
            began.elapsed().as_secs_f64()
        );
        Ok(())
    }

    /// Names and files of the adapters of the committed model.
    pub(super) fn adapters(&self) -> Vec<(String, PathBuf)> {
        super::opening::adapters(&self.settings.folder, self.slots.state())
    }
}

/// Whether a model or adapter finds a golden text as likely as it should.
pub(crate) fn golden(number: usize, nll: f64, wanted: f64, tolerance: f64) -> Result<(), Unfit> {
    let off = (nll - wanted).abs();
    if !nll.is_finite() {
        return Err(Unfit {
            reason: Reason::NotFinite,
            text: format!("golden text {number}: what it computes is no number"),
        });
    }
    if off > tolerance {
        return Err(Unfit {
            reason: Reason::Golden,
            text: format!(
                "golden text {number}: -ln p is {nll:.4} in the mean, it should be {wanted:.4} ± {tolerance}"
            ),
        });
    }
    Ok(())
}
