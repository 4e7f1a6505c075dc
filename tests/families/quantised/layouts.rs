//! Random matrices as each method stores them, and the weights that they are by its definition.

use half::f16;
use safetensors::Dtype;

/// A tensor of a module: what its name ends with, its type, shape and bytes.
pub(super) type Part = (&'static str, Dtype, Vec<usize>, Vec<u8>);

/// Random bits.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    fn below(&mut self, n: u32) -> u32 {
        self.bits() % n
    }

    /// From `low` to `high`.
    pub(super) fn uniform(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * (self.bits() as f32 / (1u32 << 31) as f32)
    }

    fn codes(&mut self, count: usize, below: u32) -> Vec<u32> {
        (0..count).map(|_| self.below(below)).collect()
    }

    /// `count` scales in f16 and their bytes.
    fn halves(&mut self, count: usize, most: f32) -> (Vec<f32>, Vec<u8>) {
        let scales: Vec<f16> = (0..count).map(|_| f16::from_f32(self.uniform(0.5 * most, most))).collect();
        (scales.iter().map(|scale| scale.to_f32()).collect(), scales.iter().flat_map(|s| s.to_le_bytes()).collect())
    }
}

/// A method: the tensors of a matrix of `rows` by `cols`, and its weights.
pub(super) type Method = fn(&mut Random, usize, usize) -> (Vec<Part>, Vec<f32>);

/// Every method with the section of `config.json` that belongs to it.
pub(super) const METHODS: [(&str, &str, Method); 11] = [
    ("fp8 in blocks", r#"{"quant_method": "fp8", "weight_block_size": [128, 128]}"#, fp8_blocks),
    ("fp8 in rows", r#"{"quant_method": "compressed-tensors"}"#, fp8_rows),
    ("fp8 whole", r#"{"quant_method": "modelopt"}"#, fp8_whole),
    ("mxfp8", r#"{"group_size": 32, "bits": 8, "mode": "mxfp8"}"#, mxfp8),
    ("mxfp4", r#"{"group_size": 32, "bits": 4, "mode": "mxfp4"}"#, mxfp4),
    ("nvfp4 of MLX", r#"{"group_size": 16, "bits": 4, "mode": "nvfp4"}"#, nvfp4_mlx),
    ("nvfp4 of modelopt", r#"{"quant_method": "modelopt"}"#, nvfp4_modelopt),
    ("nvfp4 of compressed-tensors", r#"{"quant_method": "compressed-tensors"}"#, nvfp4_compressed),
    ("integers of compressed-tensors", r#"{"quant_method": "compressed-tensors"}"#, integers_compressed),
    ("gptq", r#"{"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": false}"#, gptq),
    ("awq", r#"{"quant_method": "awq", "bits": 4, "group_size": 64}"#, awq),
];

fn bf16(value: f32) -> (f32, [u8; 2]) {
    let rounded = half::bf16::from_f32(value);
    (rounded.to_f32(), rounded.to_le_bytes())
}

fn e4m3(code: u32) -> f32 {
    let (exponent, mantissa) = ((code >> 3 & 15) as i32, (code & 7) as f32 / 8.0);
    let magnitude = if exponent == 0 { mantissa * 2f32.powi(-6) } else { (1.0 + mantissa) * 2f32.powi(exponent - 7) };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

fn e2m1(code: u32) -> f32 {
    let magnitude = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][(code & 7) as usize];
    if code & 8 == 0 { magnitude } else { -magnitude }
}

/// Numbers up to 1 in 8 bits.
fn numbers_of_8(random: &mut Random, count: usize) -> Vec<u32> {
    (0..count).map(|_| random.below(2) << 7 | random.below(0x39)).collect()
}

fn bytes(codes: &[u32]) -> Vec<u8> {
    codes.iter().map(|code| *code as u8).collect()
}

/// Two codes a byte, the first in the low half.
fn nibbles(codes: &[u32]) -> Vec<u8> {
    codes.chunks(2).map(|pair| (pair[0] | pair[1] << 4) as u8).collect()
}

fn times(rows: usize, cols: usize, weight: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col))).map(|(row, col)| weight(row, col)).collect()
}

fn fp8_blocks(random: &mut Random, rows: usize, cols: usize) -> (Vec<Part>, Vec<f32>) {
    let (high, wide) = (rows.div_ceil(128), cols.div_ceil(128));
    let codes = numbers_of_8(random, rows * cols);
    let scales: Vec<_> = (0..high * wide).map(|_| bf16(random.uniform(0.05, 0.2))).collect();
    let weights = times(rows, cols, |r, c| e4m3(codes[r * cols + c]) * scales[r / 128 * wide + c / 128].0);
    let parts = vec![
        ("weight", Dtype::F8_E4M3, vec![rows, cols], bytes(&codes)),
        ("weight_scale_inv", Dtype::BF16, vec![high, wide], scales.iter().flat_map(|scale| scale.1).collect()),
    ];
    (parts, weights)
}

fn fp8_rows(random: &mut Random, rows: usize, cols: usize) -> (Vec<Part>, Vec<f32>) {
    let codes = numbers_of_8(random, rows * cols);
    let scales: Vec<_> = (0..rows).map(|_| bf16(random.uniform(0.05, 0.2))).collect();
    let weights = times(rows, cols, |r, c| e4m3(codes[r * cols + c]) * scales[r].0);
    let parts = vec![
        ("weight", Dtype::F8_E4M3, vec![rows, cols], bytes(&codes)),
        ("weight_scale", Dtype::BF16, vec![rows, 1], scales.iter().flat_map(|scale| scale.1).collect()),
    ];
    (parts, weights)
}

fn fp8_whole(random: &mut Random, rows: usize, cols: usize) -> (Vec<Part>, Vec<f32>) {
    let (codes, scale) = (numbers_of_8(random, rows * cols), random.uniform(0.05, 0.2));
    let weights = times(rows, cols, |r, c| e4m3(codes[r * cols + c]) * scale);
    let parts = vec![
        ("weight", Dtype::F8_E4M3, vec![rows, cols], bytes(&codes)),
        ("weight_scale", Dtype::F32, vec![], scale.to_le_bytes().to_vec()),
        ("input_scale", Dtype::F32, vec![], 1f32.to_le_bytes().to_vec()),
    ];
    (parts, weights)
}

/// Powers of two from 1/32 to 1/4.
fn exponents(random: &mut Random, count: usize) -> Vec<u32> {
    (0..count).map(|_| 122 + random.below(4)).collect()
}

fn mxfp8(random: &mut Random, rows: usize, cols: usize) -> (Vec<Part>, Vec<f32>) {
    let (codes, scales) = (numbers_of_8(random, rows * cols), exponents(random, rows * cols / 32));
    let weights = times(rows, cols, |r, c| {
        let at = r * cols + c;
        e4m3(codes[at]) * 2f32.powi(scales[at / 32] as i32 - 127)
    });
    let parts = vec![
        ("weight", Dtype::U32, vec![rows, cols / 4], bytes(&codes)),
        ("scales", Dtype::U8, vec![rows, cols / 32], bytes(&scales)),
    ];
    (parts, weights)
}

fn mxfp4(random: &mut Random, rows: usize, cols: usize) -> (Vec<Part>, Vec<f32>) {
    let (codes, scales) = (random.codes(rows * cols, 16), exponents(random, rows * cols / 32));
    let weights = times(rows, cols, |r, c| {
        let at = r * cols + c;
        e2m1(codes[at]) * 2f32.powi(scales[at / 32] as i32 - 130)
    });
    let parts = vec![
        ("weight", Dtype::U32, vec![rows, cols / 8], nibbles(&codes)),
        ("scales", Dtype::U8, vec![rows, cols / 32], scales.iter().map(|scale| *scale as u8 - 3).collect()),
    ];
    (parts, weights)
}

/// Codes and scales of NVFP4, and the weights without a scale of the matrix.
fn nvfp4(random: &mut Random, rows: usize, cols: usize, scales: u32) -> (Vec<u8>, Vec<u8>, Vec<f32>) {
    let codes = random.codes(rows * cols, 16);
    let scales: Vec<u32> = (0..rows * cols / 16).map(|_| scales + random.below(16)).collect();
    let weights = times(rows, cols, |r, c| e2m1(codes[r * cols + c]) * e4m3(scales[(r * cols + c) / 16]));
    (nibbles(&codes), bytes(&scales), weights)
}

fn nvfp4_mlx(random: &mut Random, rows: usize, cols: usize) -> (Vec<Part>, Vec<f32>) {
    let (codes, scales, weights) = nvfp4(random, rows, cols, 12);
    let parts =
        vec![("weight", Dtype::U32, vec![rows, cols / 8], codes), ("scales", Dtype::U8, vec![rows, cols / 16], scales)];
    (parts, weights)
}

fn nvfp4_modelopt(random: &mut Random, rows: usize, cols: usize) -> (Vec<Part>, Vec<f32>) {
    let (codes, scales, weights) = nvfp4(random, rows, cols, 0x50);
    let matrix = random.uniform(1e-3, 2e-3);
    let parts = vec![
        ("weight", Dtype::U8, vec![rows, cols / 2], codes),
        ("weight_scale", Dtype::F8_E4M3, vec![rows, cols / 16], scales),
        ("weight_scale_2", Dtype::F32, vec![], matrix.to_le_bytes().to_vec()),
        ("input_scale", Dtype::F32, vec![], 1f32.to_le_bytes().to_vec()),
    ];
    (parts, weights.iter().map(|weight| weight * matrix).collect())
}

fn nvfp4_compressed(random: &mut Random, rows: usize, cols: usize) -> (Vec<Part>, Vec<f32>) {
    let (codes, scales, weights) = nvfp4(random, rows, cols, 0x50);
    let matrix = random.uniform(500.0, 1000.0);
    let parts = vec![
        ("weight_packed", Dtype::U8, vec![rows, cols / 2], codes),
        ("weight_scale", Dtype::F8_E4M3, vec![rows, cols / 16], scales),
        ("weight_global_scale", Dtype::F32, vec![1], matrix.to_le_bytes().to_vec()),
    ];
    (parts, weights.iter().map(|weight| weight / matrix).collect())
}

fn integers_compressed(random: &mut Random, rows: usize, cols: usize) -> (Vec<Part>, Vec<f32>) {
    let codes = random.codes(rows * cols, 16);
    let (scales, scale_bytes) = random.halves(rows * cols / 64, 0.02);
    let weights = times(rows, cols, |r, c| {
        let at = r * cols + c;
        scales[at / 64] * (codes[at] as f32 - 8.0)
    });
    let parts = vec![
        ("weight_packed", Dtype::I32, vec![rows, cols / 8], nibbles(&codes)),
        ("weight_scale", Dtype::F16, vec![rows, cols / 64], scale_bytes),
        ("weight_shape", Dtype::I64, vec![2], [rows as i64, cols as i64].map(i64::to_le_bytes).concat()),
    ];
    (parts, weights)
}

/// `[cols, rows]` codes, `[groups, rows]` scales and zero points, and the weights.
struct ByColumns {
    codes: Vec<u32>,
    scales: Vec<u8>,
    zeros: Vec<u32>,
    weights: Vec<f32>,
}

fn by_columns(random: &mut Random, rows: usize, cols: usize) -> ByColumns {
    let groups = cols / 64;
    let codes = random.codes(cols * rows, 16);
    let zeros: Vec<u32> = (0..groups * rows).map(|_| 1 + random.below(15)).collect();
    let (scales, scale_bytes) = random.halves(groups * rows, 0.02);
    let weights = times(rows, cols, |r, c| {
        let group = c / 64 * rows + r;
        scales[group] * (codes[c * rows + r] as f32 - zeros[group] as f32)
    });
    ByColumns { codes, scales: scale_bytes, zeros, weights }
}

fn gptq(random: &mut Random, rows: usize, cols: usize) -> (Vec<Part>, Vec<f32>) {
    let ByColumns { codes, scales, zeros, weights } = by_columns(random, rows, cols);
    let word =
        |eight: &mut dyn Iterator<Item = u32>| eight.enumerate().fold(0, |word, (i, code)| word | code << (4 * i));
    let words = times_words(cols / 8, rows, |high, row| word(&mut (0..8).map(|i| codes[(8 * high + i) * rows + row])));
    let zeros: Vec<u32> = zeros.chunks(8).map(|eight| word(&mut eight.iter().map(|zero| zero - 1))).collect();
    let parts = vec![
        ("qweight", Dtype::I32, vec![cols / 8, rows], words),
        ("qzeros", Dtype::I32, vec![cols / 64, rows / 8], zeros.iter().flat_map(|word| word.to_le_bytes()).collect()),
        ("scales", Dtype::F16, vec![cols / 64, rows], scales),
        ("g_idx", Dtype::I32, vec![cols], (0..cols as u32).flat_map(|col| (col / 64).to_le_bytes()).collect()),
    ];
    (parts, weights)
}

fn awq(random: &mut Random, rows: usize, cols: usize) -> (Vec<Part>, Vec<f32>) {
    const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
    let ByColumns { codes, scales, zeros, weights } = by_columns(random, rows, cols);
    let word = |eight: &[u32]| ORDER.iter().enumerate().fold(0, |word, (i, at)| word | eight[*at] << (4 * i));
    let words = |codes: &[u32]| codes.chunks(8).flat_map(|eight| word(eight).to_le_bytes()).collect::<Vec<u8>>();
    let parts = vec![
        ("qweight", Dtype::I32, vec![cols, rows / 8], words(&codes)),
        ("qzeros", Dtype::I32, vec![cols / 64, rows / 8], words(&zeros)),
        ("scales", Dtype::F16, vec![cols / 64, rows], scales),
    ];
    (parts, weights)
}

fn times_words(high: usize, wide: usize, word: impl Fn(usize, usize) -> u32) -> Vec<u8> {
    (0..high).flat_map(|i| (0..wide).map(move |j| (i, j))).flat_map(|(i, j)| word(i, j).to_le_bytes()).collect()
}
