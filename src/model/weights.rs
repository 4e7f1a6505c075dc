//! The weights that every token needs, as views of mapped, owned or embedded bytes. The experts are not here: see
//! [`crate::experts`].

use bytes::Bytes;

use crate::formats::WeightFormat;

/// A weight matrix `[rows, cols]`: blocks of rows of one format, one under the other.
///
/// Blocks make one product of several tensors (q over k over v), and put the rows of Qwen3-Next's interleaved
/// projections in order, without copying a byte.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// Name for messages, as in the checkpoint.
    pub name: String,
    /// Output rows, all blocks.
    pub rows: usize,
    /// Input columns.
    pub cols: usize,
    /// How the elements are stored.
    pub format: WeightFormat,
    /// Rows from top to bottom.
    pub blocks: Vec<MatrixBlock>,
}

/// Some rows of a matrix.
#[derive(Clone, Debug)]
pub struct MatrixBlock {
    /// Rows of this block.
    pub rows: usize,
    /// `rows * format.row_bytes(cols)` bytes.
    pub codes: Bytes,
    /// `rows * format.row_scale_bytes(cols)` bytes; empty for dense formats.
    pub scales: Bytes,
    /// As many bytes as `scales`.
    pub biases: Bytes,
}

impl Matrix {
    /// All bytes of codes, scales and biases.
    pub fn bytes(&self) -> usize {
        self.format.matrix_bytes(self.rows, self.cols)
    }

    /// The rows `range` of this matrix.
    ///
    /// # Panics
    /// When the range reaches past the last row: callers have checked shapes.
    pub fn slice_rows(&self, range: std::ops::Range<usize>) -> Matrix {
        assert!(range.end <= self.rows, "rows {range:?} of {} with {} rows", self.name, self.rows);
        let (rb, sb) = (self.format.row_bytes(self.cols), self.format.row_scale_bytes(self.cols));
        let mut blocks = Vec::new();
        let mut first = 0;
        for block in &self.blocks {
            let from = range.start.max(first);
            let to = range.end.min(first + block.rows);
            if from < to {
                let (a, b) = (from - first, to - first);
                blocks.push(MatrixBlock {
                    rows: b - a,
                    codes: block.codes.slice(a * rb..b * rb),
                    scales: block.scales.slice(a * sb..b * sb),
                    biases: block.biases.slice(a * sb..b * sb),
                });
            }
            first += block.rows;
        }
        Matrix { name: self.name.clone(), rows: range.len(), cols: self.cols, format: self.format, blocks }
    }

    /// Puts matrices of one format and width one under the other; `None` when they differ.
    pub fn stack(name: &str, parts: &[&Matrix]) -> Option<Matrix> {
        let first = parts.first()?;
        if parts.iter().any(|m| m.cols != first.cols || m.format != first.format) {
            return None;
        }
        Some(Matrix {
            name: name.to_owned(),
            rows: parts.iter().map(|m| m.rows).sum(),
            cols: first.cols,
            format: first.format,
            blocks: parts.iter().flat_map(|m| m.blocks.iter().cloned()).collect(),
        })
    }
}

/// A vector, already in f32: norms, conv taps, decays.
pub type Vector = Vec<f32>;

/// The resident weights of a model.
#[derive(Clone, Debug)]
pub struct ModelWeights {
    /// `[vocab, hidden]`.
    pub embed_tokens: Matrix,
    /// `[vocab, hidden]`.
    pub lm_head: Matrix,
    /// Final norm, plain weight (any "1 + w" is already added).
    pub norm: Vector,
    /// In order.
    pub layers: Vec<LayerWeights>,
}

/// The resident weights of one layer. Norms are plain weights: any "1 + w" is already added.
#[derive(Clone, Debug)]
pub struct LayerWeights {
    /// `[hidden]`
    pub input_norm: Vector,
    /// `[hidden]`
    pub post_norm: Vector,
    /// Attention or gated delta-net.
    pub mixer: MixerWeights,
    /// `[experts, hidden]`
    pub router: Matrix,
    /// In Qwen3.5-MoE and Qwen3-Next.
    pub shared: Option<SharedExpertWeights>,
}

/// The mixer of one layer.
#[derive(Clone, Debug)]
pub enum MixerWeights {
    /// Full attention.
    Attention(AttentionWeights),
    /// Gated delta-net (linear attention).
    DeltaNet(DeltaNetWeights),
}

impl MixerWeights {
    /// The first matrix that a layer's input is multiplied with.
    pub fn first(&self) -> &Matrix {
        match self {
            MixerWeights::Attention(w) => &w.q,
            MixerWeights::DeltaNet(w) => &w.qkv,
        }
    }
}

/// Full attention.
#[derive(Clone, Debug)]
pub struct AttentionWeights {
    /// `[heads * head_dim * (2 with output gate, else 1), hidden]`; with the gate, per head: q rows, then gate rows.
    pub q: Matrix,
    /// `[kv_heads * head_dim, hidden]`
    pub k: Matrix,
    /// `[kv_heads * head_dim, hidden]`
    pub v: Matrix,
    /// `[hidden, heads * head_dim]`
    pub o: Matrix,
    /// `[head_dim]`
    pub q_norm: Vector,
    /// `[head_dim]`
    pub k_norm: Vector,
}

/// Gated delta-net. Rows are in the Qwen3.5 order whatever the checkpoint's.
#[derive(Clone, Debug)]
pub struct DeltaNetWeights {
    /// `[2 * k_heads * k_dim + v_heads * v_dim, hidden]`: q, k, v.
    pub qkv: Matrix,
    /// `[v_heads * v_dim, hidden]`
    pub z: Matrix,
    /// `[v_heads, hidden]`: β before the sigmoid.
    pub b: Matrix,
    /// `[v_heads, hidden]`: the decay's input.
    pub a: Matrix,
    /// `[channels, kernel]`, tap `kernel - 1` is the current token's.
    pub conv: Vector,
    /// `[v_heads]`
    pub a_log: Vector,
    /// `[v_heads]`
    pub dt_bias: Vector,
    /// `[v_dim]`, plain weight.
    pub norm: Vector,
    /// `[hidden, v_heads * v_dim]`
    pub out: Matrix,
}

/// The expert that every token uses.
#[derive(Clone, Debug)]
pub struct SharedExpertWeights {
    /// `[shared_intermediate, hidden]`
    pub gate: Matrix,
    /// `[shared_intermediate, hidden]`
    pub up: Matrix,
    /// `[hidden, shared_intermediate]`
    pub down: Matrix,
    /// `[1, hidden]`: its scalar gate before the sigmoid.
    pub scalar_gate: Matrix,
}
