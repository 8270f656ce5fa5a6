//! Where a model's matrices and vectors lie in the device's memory.

use std::ops::Range;
use std::sync::Mutex;

use outstation_cuda::{Buffer, GpuError, pack};
use outstation_kernels::Team;
use outstation_kernels::quant::Format;

use crate::adapter::{Projection, matrix_index};
use crate::model::{GateUpWeights, Layer, Model, Qkv, Weight};

/// A matrix in the device's memory.
pub(super) struct Placed {
    pub(super) format: Format,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) at: Range<usize>,
    /// Which of the matrices that adapters add to; those of no layer are none of them.
    pub(super) adapted_as: usize,
}

/// One layer's matrices and vectors in the device's memory.
pub(super) struct PlacedLayer {
    pub(super) qkv: Vec<Placed>,
    pub(super) output: Placed,
    pub(super) gate_up: Vec<Placed>,
    pub(super) down: Placed,
    pub(super) attention_norm: Range<usize>,
    pub(super) qkv_bias: Option<Range<usize>>,
    pub(super) qk_norm: Option<[Range<usize>; 2]>,
    pub(super) attention_post_norm: Option<Range<usize>>,
    pub(super) ffn_norm: Range<usize>,
    pub(super) ffn_post_norm: Option<Range<usize>>,
}

/// Sends weights to the device, one after the other.
pub(super) struct Loader<'a> {
    weights: &'a Buffer<u8>,
    file: &'a [u8],
    end: usize,
    done: &'a mut dyn FnMut(&Weight),
    team: &'a mut Team,
    spaces: Vec<Mutex<pack::PackSpace>>,
    staged: Vec<u8>,
}

/// Bytes that are packed before they are sent.
const STAGE_BYTES: usize = 16 << 20;

impl<'a> Loader<'a> {
    /// Of a file, into `weights`, for rows of up to `cols_max`. `done` hears of each matrix.
    pub(super) fn new(
        weights: &'a Buffer<u8>,
        file: &'a [u8],
        cols_max: usize,
        team: &'a mut Team,
        done: &'a mut dyn FnMut(&Weight),
    ) -> Self {
        Self {
            weights,
            file,
            end: 0,
            done,
            spaces: (0..team.threads())
                .map(|_| Mutex::new(pack::PackSpace::new(cols_max)))
                .collect(),
            team,
            staged: Vec::new(),
        }
    }

    /// Packs a matrix and sends it behind those that are there.
    pub(super) fn place(&mut self, weight: &Weight) -> Result<Placed, GpuError> {
        let at = self.end..self.end + bytes(weight);
        self.end += aligned(at.len());
        let file = &self.file[weight.bytes.clone()];
        let row_bytes = weight.format.row_bytes(weight.cols);
        let tile_rows = pack::TILE_ROWS;
        let tile_bytes = pack::bytes(weight.format, tile_rows, weight.cols);
        let tiles = (STAGE_BYTES / tile_bytes).max(1);
        let mut start = at.start;
        for rows in file.chunks(tiles * tile_rows * row_bytes) {
            self.staged.resize(
                pack::bytes(weight.format, rows.len() / row_bytes, weight.cols),
                0,
            );
            let kind = (weight.format, weight.cols);
            pack::pack(self.team, &self.spaces, kind, rows, &mut self.staged);
            self.weights.write(start, &self.staged)?;
            start += self.staged.len();
        }
        (self.done)(weight);
        Ok(Placed {
            format: weight.format,
            rows: weight.rows,
            cols: weight.cols,
            at,
            adapted_as: usize::MAX,
        })
    }

    /// The same for a matrix of a layer.
    fn place_of(
        &mut self,
        index: usize,
        projection: Projection,
        weight: &Weight,
    ) -> Result<Placed, GpuError> {
        Ok(Placed {
            adapted_as: matrix_index(index, projection),
            ..self.place(weight)?
        })
    }

    /// Sends a layer; its vectors go behind `values`.
    pub(super) fn layer(
        &mut self,
        (index, layer): (usize, &Layer),
        values: &mut Vec<f32>,
    ) -> Result<PlacedLayer, GpuError> {
        let mut place = |projection, weight| self.place_of(index, projection, weight);
        let qkv = match &layer.qkv {
            Qkv::Split { q, k, v } => vec![
                place(Projection::Q, q)?,
                place(Projection::K, k)?,
                place(Projection::V, v)?,
            ],
            Qkv::Fused(all) => vec![place(Projection::Qkv, all)?],
        };
        let gate_up = match &layer.gate_up {
            GateUpWeights::Split { gate, up } => {
                vec![place(Projection::Gate, gate)?, place(Projection::Up, up)?]
            }
            GateUpWeights::Fused(both) => vec![place(Projection::GateUp, both)?],
        };
        Ok(PlacedLayer {
            qkv,
            gate_up,
            output: place(Projection::Output, &layer.attention_output)?,
            down: place(Projection::Down, &layer.down)?,
            attention_norm: keep(values, &layer.attention_norm),
            qkv_bias: layer.qkv_bias.as_ref().map(|[q, k, v]| {
                let start = keep(values, q).start;
                keep(values, k);
                start..keep(values, v).end
            }),
            qk_norm: layer
                .qk_norm
                .as_ref()
                .map(|norms| norms.each_ref().map(|norm| keep(values, norm))),
            attention_post_norm: layer.attention_post_norm.as_ref().map(|n| keep(values, n)),
            ffn_norm: keep(values, &layer.ffn_norm),
            ffn_post_norm: layer.ffn_post_norm.as_ref().map(|n| keep(values, n)),
        })
    }
}

/// Puts a vector behind the others.
pub(super) fn keep(values: &mut Vec<f32>, vector: &[f32]) -> Range<usize> {
    let start = values.len();
    values.extend_from_slice(vector);
    start..values.len()
}

/// Every vector of a model.
pub(super) fn vectors(model: &Model) -> impl Iterator<Item = &[f32]> {
    let layers = model.layers.iter().flat_map(|layer| {
        let bias = layer.qkv_bias.iter().flatten();
        let qk = layer.qk_norm.iter().flatten();
        let post = layer.attention_post_norm.iter();
        let post = post.chain(&layer.ffn_post_norm);
        [&layer.attention_norm, &layer.ffn_norm]
            .into_iter()
            .chain(bias)
            .chain(qk)
            .chain(post)
    });
    layers.chain([&model.output_norm]).map(|vector| &**vector)
}

pub(super) fn bytes(weight: &Weight) -> usize {
    pack::bytes(weight.format, weight.rows, weight.cols)
}

/// Matrices start at whole lines of the device's cache.
pub(super) fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(256)
}
