//! The next token of each row of logits, drawn on the device: what leaves it is an [`Outcome`] each.

use outstation_kernels::ops::Certainty;

use super::driver::{Buffer, Grid, Inbox, Kernel, Pinned, Slice};
use super::{Gpu, GpuError, GpuKernels};

/// How the token of a row is drawn.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Draw {
    /// Divides logits.
    pub temperature: f32,
    /// Of the mass, the likeliest tokens' share that is drawn from; 1 is all.
    pub top_p: f32,
    /// Of the likeliest token's probability, the share that others need; 0 is none.
    pub min_p: f32,
    /// Tokens that are drawn from; 0 is all.
    pub top_k: u32,
    /// Where in the mass the token lies, in 2⁻⁵³: the lower word, and the upper.
    pub unit: [u32; 2],
    /// 1 where [`GpuDraws::put_form`] said what is allowed.
    pub formed: u32,
    /// One of the constants below.
    pub how: u32,
}

impl Draw {
    /// Not at all, only looked at.
    pub const NOT: u32 = 0;
    /// The likeliest of those that are allowed.
    pub const GREEDY: u32 = 1;
    /// By their probabilities.
    pub const RANDOM: u32 = 2;

    pub(super) fn words(self) -> [u32; 8] {
        [
            self.temperature.to_bits(),
            self.top_p.to_bits(),
            self.min_p.to_bits(),
            self.top_k,
            self.unit[0],
            self.unit[1],
            self.formed,
            self.how,
        ]
    }
}

/// What came of a row.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outcome {
    /// How sure the model is.
    pub certainty: Certainty,
    /// The token that was drawn; [`Outcome::NO_TOKEN`] if none was to be.
    pub token: u32,
    /// Its logit.
    pub logit: f32,
}

impl Outcome {
    /// No token.
    pub const NO_TOKEN: u32 = u32::MAX;
}

/// Blocks that look at one row; a warp joins what they saw, a lane for each.
const CHUNKS_MAX: usize = 32;

/// Tokens that a block looks at, at least.
const CHUNK_TOKENS_MIN: usize = 1024;

/// Bytes of a `Chunk` of `draw.cu`.
const CHUNK_BYTES: usize = 32;

/// Shared memory of `draw`, which asserts it.
const DRAW_SHARED: usize = 15640;

/// Memory to draw with.
pub struct GpuDraws {
    vocabulary: usize,
    chunks: Buffer<u8>,
    /// A bit for each token, on both sides: `[rows, words]`.
    told: Pinned<u32>,
    allowed: Buffer<u32>,
    outcomes: Inbox<Outcome>,
}

impl GpuDraws {
    /// For so many rows.
    pub fn new(gpu: &Gpu, vocabulary: usize, rows_max: usize) -> Result<GpuDraws, GpuError> {
        let words = rows_max * vocabulary.div_ceil(32);
        Ok(GpuDraws {
            vocabulary,
            chunks: gpu.buffer(rows_max * chunks(vocabulary).0 * CHUNK_BYTES)?,
            told: gpu.pinned(words)?,
            allowed: gpu.buffer(words)?,
            outcomes: gpu.inbox(rows_max)?,
        })
    }

    /// Bytes that [`GpuDraws::new`] takes of the device, and of the host.
    pub fn bytes(vocabulary: usize, rows_max: usize) -> [u64; 2] {
        let words = rows_max * vocabulary.div_ceil(32);
        let chunks = rows_max * chunks(vocabulary).0 * CHUNK_BYTES;
        let outcomes = rows_max * size_of::<Outcome>();
        [(chunks + words * 4) as u64, (words * 4 + outcomes) as u64]
    }

    /// Says which tokens a row may have: bit `i % 32` of word `i / 32`. What is past the last word it may not.
    pub fn put_form(&mut self, row: usize, allowed: &[u32]) {
        let words = self.vocabulary.div_ceil(32);
        let to = &mut self.told[row * words..][..words];
        let known = allowed.len().min(words);
        to[..known].copy_from_slice(&allowed[..known]);
        to[known..].fill(0);
    }

    /// What came of each row, once all that was asked for is done.
    pub fn outcomes(&mut self) -> Result<&[Outcome], GpuError> {
        Ok(self.outcomes.wait()?)
    }
}

/// Chunks of a row, and tokens of each: whole words of a form.
fn chunks(vocabulary: usize) -> (usize, usize) {
    let tokens = vocabulary
        .div_ceil(CHUNKS_MAX)
        .max(CHUNK_TOKENS_MIN)
        .next_multiple_of(32);
    (vocabulary.div_ceil(tokens), tokens)
}

/// The kernels.
pub(super) struct DrawKernels {
    survey: Kernel,
    draw: Kernel,
}

impl DrawKernels {
    pub(super) fn find(gpu: &Gpu) -> Result<DrawKernels, GpuError> {
        Ok(DrawKernels {
            survey: gpu.kernel("survey", 0)?,
            draw: gpu.kernel("draw", DRAW_SHARED)?,
        })
    }
}

impl GpuKernels {
    /// Looks at rows of logits, `[rows, vocabulary]`, and draws as `draws` say; in `memory` they are rows from `first`
    /// on.
    pub fn draw(
        &self,
        logits: Slice<'_, f32>,
        draws: Slice<'_, Draw>,
        (memory, first): (&GpuDraws, usize),
    ) -> Result<(), GpuError> {
        #[repr(C)]
        #[derive(Clone, Copy)]
        struct Arg {
            logits: u64,
            draws: u64,
            told: u64,
            allowed: u64,
            chunks: u64,
            outcomes: u64,
            vocabulary: i32,
            chunks_count: i32,
            chunk_tokens: i32,
        }
        let rows = draws.len();
        let (chunks, tokens) = chunks(memory.vocabulary);
        assert!(rows * memory.vocabulary <= logits.len());
        assert!(first + rows <= memory.outcomes.len());
        let after = |at: u64, bytes: usize| at + (first * bytes) as u64;
        let form_bytes = memory.vocabulary.div_ceil(32) * 4;
        let argument = Arg {
            logits: logits.at(),
            draws: draws.at(),
            told: after(memory.told.at(), form_bytes),
            allowed: after(memory.allowed.all().at(), form_bytes),
            chunks: after(memory.chunks.all().at(), chunks * CHUNK_BYTES),
            outcomes: after(memory.outcomes.at(), size_of::<Outcome>()),
            vocabulary: memory.vocabulary as i32,
            chunks_count: chunks as i32,
            chunk_tokens: tokens as i32,
        };
        let survey = Grid {
            blocks: (rows, chunks),
            threads: 256,
            // A float and what was found for each of 8 warps, and the words of a form.
            shared: (8 + 8 * 5 + tokens / 32) * 4,
            early: true,
        };
        self.gpu().launch(self.draws.survey, survey, &argument)?;
        let draw = Grid {
            blocks: (rows, 1),
            threads: 512,
            shared: DRAW_SHARED,
            early: true,
        };
        self.gpu().launch(self.draws.draw, draw, &argument)
    }
}
