//! Which adapters are on the device, and which of them the columns of a step have.

use outstation_cuda::{AdaptersSize, GpuAdapters, GpuError, GpuKernels};

use crate::adapter::{AdapterPlaces, Base, PackedAdapter};
use crate::engine::StepPlan;
use crate::model::Model;

/// Memory for as many adapters as there can be at once. One comes over with the first step that has it, into the place
/// of the one that no step had for longest.
pub(super) struct Residents {
    pub(super) gpu: GpuAdapters,
    /// What a place has, and the last step that used it.
    places: Vec<(Option<[u8; 32]>, u64)>,
    step: u64,
    /// Of the adapters of a step, in the order of the plan; then of its columns.
    of_adapted: Vec<u32>,
    of_column: Vec<u32>,
}

impl Residents {
    /// None where there are no places.
    pub(super) fn new(
        kernels: &GpuKernels,
        model: &Model,
        places: AdapterPlaces,
        columns_max: usize,
    ) -> Result<Option<Residents>, GpuError> {
        if places.count == 0 {
            return Ok(None);
        }
        Ok(Some(Residents {
            gpu: GpuAdapters::new(kernels.gpu(), size(model, places, columns_max))?,
            places: vec![(None, 0); places.count as usize],
            step: 0,
            of_adapted: Vec::with_capacity(columns_max),
            of_column: Vec::with_capacity(columns_max),
        }))
    }

    /// Bytes of the device that they take.
    pub(super) fn bytes(model: &Model, places: AdapterPlaces, columns_max: usize) -> u64 {
        if places.count == 0 {
            return 0;
        }
        size(model, places, columns_max).bytes()
    }

    /// Brings over what a step needs, and finds out which column has what.
    pub(super) fn load(&mut self, plan: &StepPlan) -> Result<(), GpuError> {
        self.step += 1;
        self.of_adapted.clear();
        for adapted in plan.adapted() {
            let digest = Some(adapted.adapter.digest());
            let known = self.places.iter().position(|place| place.0 == digest);
            if let Some(place) = known {
                self.places[place].1 = self.step;
            }
        }
        for adapted in plan.adapted() {
            let place = self.place_of(&adapted.adapter)?;
            self.of_adapted.push(place);
        }
        self.of_column.clear();
        plan.each_run(|columns, adapted| {
            let place = adapted.map_or(GpuAdapters::NO_PLACE, |index| self.of_adapted[index]);
            self.of_column.extend(std::iter::repeat_n(place, columns));
        });
        Ok(())
    }

    /// The place of a column's adapter.
    pub(super) fn of_column(&self, column: usize) -> u32 {
        self.of_column[column]
    }

    fn place_of(&mut self, adapter: &PackedAdapter) -> Result<u32, GpuError> {
        let digest = Some(adapter.digest());
        let places = &mut self.places;
        if let Some(place) = places.iter().position(|place| place.0 == digest) {
            return Ok(place as u32);
        }
        let oldest = (0..places.len()).min_by_key(|place| places[*place].1);
        let place = oldest.expect("there are places");
        assert!(places[place].1 < self.step, "a place for each adapter");
        places[place].0 = None; // until all of it is there
        self.gpu.put(place, adapter.bytes(), adapter.factors_at())?;
        places[place] = (digest, self.step);
        Ok(place as u32)
    }
}

fn size(model: &Model, places: AdapterPlaces, columns: usize) -> AdaptersSize {
    let base = Base::of(model);
    AdaptersSize {
        places: places.count as usize,
        place_bytes: base.bytes(places.rank()),
        rank_max: places.rank(),
        matrices: base.matrices_max(),
        columns,
    }
}
