//! Tensors: where they lie in the file, and in which format.

use std::fmt;

/// How a tensor's elements are stored. The ids are ggml's; the layouts are in `outstation-kernels`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the formats' own")]
pub enum TensorType {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Nl,
    Iq4Xs,
}

impl TensorType {
    /// Every type we can read.
    pub const ALL: [Self; 15] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Iq4Nl,
        Self::Iq4Xs,
    ];

    /// Id, name, elements of a quant block, bytes of a quant block. Source: ggml.h `enum ggml_type`, ggml-common.h.
    const fn facts(self) -> (u32, &'static str, u64, u64) {
        match self {
            Self::F32 => (0, "F32", 1, 4),
            Self::F16 => (1, "F16", 1, 2),
            Self::Bf16 => (30, "BF16", 1, 2),
            Self::Q4_0 => (2, "Q4_0", 32, 18),
            Self::Q4_1 => (3, "Q4_1", 32, 20),
            Self::Q5_0 => (6, "Q5_0", 32, 22),
            Self::Q5_1 => (7, "Q5_1", 32, 24),
            Self::Q8_0 => (8, "Q8_0", 32, 34),
            Self::Q2K => (10, "Q2_K", 256, 84),
            Self::Q3K => (11, "Q3_K", 256, 110),
            Self::Q4K => (12, "Q4_K", 256, 144),
            Self::Q5K => (13, "Q5_K", 256, 176),
            Self::Q6K => (14, "Q6_K", 256, 210),
            Self::Iq4Nl => (20, "IQ4_NL", 32, 18),
            Self::Iq4Xs => (23, "IQ4_XS", 256, 136),
        }
    }

    /// ggml's number for the type.
    pub const fn id(self) -> u32 {
        self.facts().0
    }

    /// ggml's name for the type, such as `Q4_K`.
    pub const fn name(self) -> &'static str {
        self.facts().1
    }

    /// Elements in a quant block; 1 for plain floats.
    pub const fn block_elements(self) -> u64 {
        self.facts().2
    }

    /// Bytes of a quant block; of an element for plain floats.
    pub const fn block_bytes(self) -> u64 {
        self.facts().3
    }

    /// The type with ggml's number `id`, if we can read it.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.id() == id)
    }

    /// Bytes of `elements` elements; `None` if they end inside a quant block or overflow.
    pub const fn bytes(self, elements: u64) -> Option<u64> {
        if !elements.is_multiple_of(self.block_elements()) {
            return None;
        }
        (elements / self.block_elements()).checked_mul(self.block_bytes())
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The name of a ggml type that we cannot read, for the error message.
pub(super) const fn foreign_type_name(id: u32) -> &'static str {
    match id {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        21 => "IQ3_S",
        22 => "IQ2_S",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => "unknown",
    }
}

/// A tensor in the file.
///
/// **Shapes**: ggml's order, the contiguous dimension first: a matrix of `rows` rows of `cols` elements has
/// `dims() == [cols, rows]`.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    pub(super) name: &'a str,
    /// Where the description starts, for messages.
    pub(super) name_offset: u64,
    pub(super) dims: [u64; 4],
    pub(super) n_dims: u32,
    pub(super) kind: TensorType,
    pub(super) file_offset: u64,
    pub(super) data: &'a [u8],
}

impl<'a> Tensor<'a> {
    /// The tensor's name, such as `blk.0.attn_q.weight`.
    pub const fn name(&self) -> &'a str {
        self.name
    }

    /// The dimensions that the file states, one to four of them.
    pub fn dims(&self) -> &[u64] {
        &self.dims[..self.n_dims as usize]
    }

    /// How many dimensions the file states.
    pub const fn n_dims(&self) -> u32 {
        self.n_dims
    }

    /// The storage format.
    pub const fn kind(&self) -> TensorType {
        self.kind
    }

    /// Elements in a row: the contiguous dimension.
    pub const fn cols(&self) -> u64 {
        self.dims[0]
    }

    /// Rows: the product of all dimensions but the first.
    pub const fn rows(&self) -> u64 {
        self.dims[1] * self.dims[2] * self.dims[3]
    }

    /// Elements in all.
    pub const fn elements(&self) -> u64 {
        self.cols() * self.rows()
    }

    /// Where the data starts, in bytes from the start of the file; a multiple of the file's alignment.
    pub const fn file_offset(&self) -> u64 {
        self.file_offset
    }

    /// Bytes of its data.
    pub fn bytes(&self) -> u64 {
        let bytes = self.kind.bytes(self.elements());
        bytes.expect("it was computed when the file was parsed")
    }

    /// The tensor's bytes: whole quant blocks, row after row. Empty if only the head of the file was parsed.
    pub const fn data(&self) -> &'a [u8] {
        self.data
    }
}
