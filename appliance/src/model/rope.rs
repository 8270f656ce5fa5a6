//! Frequencies of rotary embeddings, with the scalings that published models use.

use outstation_kernels::ops::RopeStyle;

use super::load::{ModelError, Reader};
use super::{Dims, Rope};

/// What a layer's rotary embedding starts from.
pub(super) struct RopeBase {
    pub(super) style: RopeStyle,
    /// Base of the geometric series of frequencies.
    pub(super) theta: f32,
    /// Whether the file's scaling applies: sliding layers of Gemma 3 leave it out.
    pub(super) scaled: bool,
}

/// Reads the rotary dimension and scaling, and computes the frequency of each pair.
///
/// Source: Su et al. 2021, eq. 15 (frequencies); Llama 3.1's reference code through `rope_freqs.weight` (divisors per pair);
/// Ding et al. 2024, LongRoPE (long and short factors, magnitude); linear: positions are divided by the factor.
pub(super) fn read(reader: &Reader<'_>, dims: &Dims, base: &RopeBase) -> Result<Rope, ModelError> {
    let head_dim = u32::try_from(dims.head_dim).expect("read as a u32");
    let rotary = reader.count_or("rope.dimension_count", head_dim, head_dim)?;
    if rotary % 2 != 0 {
        return Err(ModelError::BadValue {
            key: reader.key("rope.dimension_count"),
            value: rotary.to_string(),
            why: "pairs are rotated, so it must be even".into(),
        });
    }
    let pairs = rotary as usize / 2;
    let mut inv_freq: Box<[f64]> = (0..pairs)
        .map(|i| f64::from(base.theta).powf(-2.0 * i as f64 / f64::from(rotary)))
        .collect();
    let mut magnitude = 1.0;
    if base.scaled {
        scale_linearly(reader, &mut inv_freq)?;
        if let Some(divisors) = reader.vector_if("rope_freqs.weight", pairs)? {
            divide(&mut inv_freq, &divisors);
        }
        magnitude = scale_long(reader, dims, &mut inv_freq)?;
    }
    Ok(Rope {
        style: base.style,
        inv_freq,
        magnitude,
    })
}

fn scale_linearly(reader: &Reader<'_>, inv_freq: &mut [f64]) -> Result<(), ModelError> {
    let key = reader.key("rope.scaling.type");
    match reader.gguf.str(&key)? {
        None | Some("none" | "longrope") => Ok(()),
        Some("linear") => {
            let factor = f64::from(reader.positive_or("rope.scaling.factor", 1.0)?);
            for frequency in inv_freq {
                *frequency /= factor;
            }
            Ok(())
        }
        Some(other) => Err(ModelError::Unsupported {
            key,
            value: other.to_owned(),
        }),
    }
}

/// LongRoPE: the file has divisors for contexts up to and past the original one. Which set holds is fixed by the context
/// that the model declares, so that a sequence never changes its frequencies while it grows.
fn scale_long(reader: &Reader<'_>, dims: &Dims, inv_freq: &mut [f64]) -> Result<f32, ModelError> {
    let pairs = inv_freq.len();
    let original = reader.count_or(
        "rope.scaling.original_context_length",
        dims.context_positions,
        u32::MAX,
    )?;
    let name = if dims.context_positions > original {
        "rope_factors_long.weight"
    } else {
        "rope_factors_short.weight"
    };
    let Some(divisors) = reader.vector_if(name, pairs)? else {
        return Ok(1.0);
    };
    divide(inv_freq, &divisors);
    reader.positive_or("rope.scaling.attn_factor", 1.0)
}

fn divide(inv_freq: &mut [f64], divisors: &[f32]) {
    for (f, &divisor) in inv_freq.iter_mut().zip(divisors) {
        *f /= f64::from(divisor);
    }
}
