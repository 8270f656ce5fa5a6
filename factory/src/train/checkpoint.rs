//! Checkpoints: weights and what the optimizer remembers as safetensors, with the plan in its metadata.
#![expect(clippy::disallowed_methods, reason = "a checkpoint is a file")]

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::data::Place;
use super::optimizer::Optimizer;
use super::{Plan, TrainError};

/// How far a run was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) step: u32,
    pub(super) tokens: u64,
    pub(super) place: Place,
}

/// Writes beside, syncs, and renames: after a kill at any time there is the old file or the new one.
pub(super) fn write(
    file: &Path,
    plan: &Plan,
    stored: Stored,
    optimizer: &Optimizer,
) -> Result<(), TrainError> {
    let mut bytes = Vec::new();
    for slot in &optimizer.slots {
        for (part, numbers) in [
            ("", &slot.weights),
            (".mean", &slot.mean),
            (".square", &slot.square),
        ] {
            let data: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
            bytes.push((
                format!("{}{part}", slot.parameter.name),
                slot.parameter.var.dims().to_vec(),
                data,
            ));
        }
    }
    let views = bytes.iter().map(|(name, shape, data)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), data)
            .expect("the shape is that of the data");
        (name, view)
    });
    let json = |value: Result<String, serde_json::Error>| value.expect("it is plain data");
    let metadata = HashMap::from([
        ("plan".to_owned(), json(serde_json::to_string(plan))),
        ("stored".to_owned(), json(serde_json::to_string(&stored))),
    ]);
    let whole = safetensors::serialize(views, Some(metadata)).expect("names are unique");
    crate::whole::write(file, &whole).map_err(TrainError::file(file))
}

/// Reads into an optimizer of the same plan. `None`: there is no checkpoint.
pub(super) fn read(
    file: &Path,
    plan: &Plan,
    optimizer: &mut Optimizer,
) -> Result<Option<Stored>, TrainError> {
    let whole = match std::fs::read(file) {
        Ok(whole) => whole,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(TrainError::file(file)(error)),
    };
    let bad = |reason: String| TrainError::Checkpoint {
        path: file.to_owned(),
        reason,
    };
    let (_, header) = SafeTensors::read_metadata(&whole).map_err(|e| bad(e.to_string()))?;
    let metadata = header
        .metadata()
        .as_ref()
        .ok_or_else(|| bad("it has no metadata".to_owned()))?;
    let field = |name: &str| {
        metadata
            .get(name)
            .ok_or_else(|| bad(format!("it has no {name}")))
    };
    let theirs: Plan = serde_json::from_str(field("plan")?).map_err(|e| bad(e.to_string()))?;
    if theirs != *plan {
        return Err(TrainError::OtherRun(file.to_owned()));
    }
    let stored = serde_json::from_str(field("stored")?).map_err(|e| bad(e.to_string()))?;
    let tensors = SafeTensors::deserialize(&whole).map_err(|e| bad(e.to_string()))?;
    for slot in &mut optimizer.slots {
        for (part, numbers) in [
            ("", &mut slot.weights),
            (".mean", &mut slot.mean),
            (".square", &mut slot.square),
        ] {
            let name = format!("{}{part}", slot.parameter.name);
            let tensor = tensors.tensor(&name).map_err(|e| bad(e.to_string()))?;
            let data = tensor.data().as_chunks().0;
            if tensor.dtype() != Dtype::F32 || data.len() != numbers.len() {
                return Err(bad(format!("{name} has another shape")));
            }
            for (number, bytes) in numbers.iter_mut().zip(data) {
                *number = f32::from_le_bytes(*bytes);
            }
        }
    }
    Ok(Some(stored))
}
