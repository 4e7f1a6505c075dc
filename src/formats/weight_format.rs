use std::fmt;

/// The type in which an affine format stores its scales and biases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleType {
    /// 2 bytes, the upper half of an f32.
    Bf16,
    /// 2 bytes, IEEE half.
    F16,
    /// 4 bytes.
    F32,
}

impl ScaleType {
    /// Bytes of one scale or bias.
    pub fn bytes(self) -> usize {
        match self {
            ScaleType::Bf16 | ScaleType::F16 => 2,
            ScaleType::F32 => 4,
        }
    }
}

/// How the elements of a weight matrix are stored, row by row.
///
/// A dense row is its elements, little-endian. An affine row is three streams: codes (unsigned, `bits` each, packed
/// without gaps from the lowest bit of the first byte), and per group of `group` columns a scale and a bias:
/// `w = scale * code + bias`. Scales may be negative. Rows start at whole 32-bit words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightFormat {
    /// 4 bytes an element.
    F32,
    /// 2 bytes an element, IEEE half.
    F16,
    /// 2 bytes an element, the upper half of an f32.
    Bf16,
    /// Affine quantisation as MLX writes it.
    Affine {
        /// Bits per code: 2, 3, 4, 5, 6 or 8.
        bits: u8,
        /// Columns that share a scale and a bias: 32, 64 or 128.
        group: u16,
        /// Type of scales and biases.
        scales: ScaleType,
    },
}

impl WeightFormat {
    /// The bits that an affine format may have.
    pub const BITS: [u8; 6] = [2, 3, 4, 5, 6, 8];
    /// The group sizes that an affine format may have.
    pub const GROUPS: [u16; 3] = [32, 64, 128];

    /// Affine with bf16 scales and biases: what MLX and our packs hold.
    pub fn affine(bits: u8, group: u16) -> Self {
        WeightFormat::Affine { bits, group, scales: ScaleType::Bf16 }
    }

    /// Bytes of the codes (or dense elements) of a row of `cols` columns.
    pub fn row_bytes(self, cols: usize) -> usize {
        match self {
            WeightFormat::F32 => cols * 4,
            WeightFormat::F16 | WeightFormat::Bf16 => cols * 2,
            WeightFormat::Affine { bits, .. } => cols * usize::from(bits) / 8,
        }
    }

    /// Bytes of the scales of a row of `cols` columns; the biases take as many. Zero for dense formats.
    pub fn row_scale_bytes(self, cols: usize) -> usize {
        match self {
            WeightFormat::Affine { group, scales, .. } => cols / usize::from(group) * scales.bytes(),
            _ => 0,
        }
    }

    /// All bytes of a matrix: codes, scales and biases.
    pub fn matrix_bytes(self, rows: usize, cols: usize) -> usize {
        rows * (self.row_bytes(cols) + 2 * self.row_scale_bytes(cols))
    }

    /// Columns must be a multiple of this.
    pub fn column_multiple(self) -> usize {
        match self {
            WeightFormat::Affine { group, .. } => usize::from(group),
            // kernels take 32 columns at a time
            _ => 32,
        }
    }

    /// Columns between the four that one word of 8-bit activations holds, in the order that products with these weights
    /// want (`wgsl/shared/quantise.wgsl`); `None` for dense weights, which are multiplied with f32 only.
    pub fn interleave(self) -> Option<usize> {
        match self {
            WeightFormat::Affine { bits: 8, .. } => Some(1),
            WeightFormat::Affine { bits: 4, .. } => Some(2),
            WeightFormat::Affine { bits: 2 | 6, .. } => Some(4),
            WeightFormat::Affine { .. } => Some(8),
            _ => None,
        }
    }

    /// The kernel suffix: `f32`, `f16`, `bf16`, `q2` … `q8`.
    pub fn suffix(self) -> &'static str {
        match self {
            WeightFormat::F32 => "f32",
            WeightFormat::F16 => "f16",
            WeightFormat::Bf16 => "bf16",
            WeightFormat::Affine { bits: 2, .. } => "q2",
            WeightFormat::Affine { bits: 3, .. } => "q3",
            WeightFormat::Affine { bits: 4, .. } => "q4",
            WeightFormat::Affine { bits: 5, .. } => "q5",
            WeightFormat::Affine { bits: 6, .. } => "q6",
            WeightFormat::Affine { .. } => "q8",
        }
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WeightFormat::Affine { bits, group, .. } => write!(f, "{bits}-bit affine, group {group}"),
            other => f.write_str(other.suffix()),
        }
    }
}
