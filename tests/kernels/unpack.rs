//! Weights come out of every format exactly: a product with a row of the identity is the weight itself.

use bytes::Bytes;
use flashflood::compute::cpu::CpuExecutor;
use flashflood::compute::gpu::{GpuExecutor, GpuOptions};
use flashflood::compute::ops::{MatVec, RowsOf};
use flashflood::compute::shaders::Form;
use flashflood::compute::{Executor, LogitRows, Recording, Step};
use flashflood::formats::quantise::dequantise_row;
use flashflood::formats::{ScaleType, WeightFormat};
use flashflood::model::{Matrix, MatrixBlock};

use crate::random::{Random, encode, formats};
use crate::trial::gpu;

/// The first 32 columns of a matrix as the CPU and the GPU see them, `[rows, 32]`.
fn columns(matrix: &Matrix, form: Form) -> [Vec<f32>; 2] {
    let mut recording = Recording::new(32);
    let (rows, cols) = (matrix.rows, matrix.cols);
    let id = recording.matrix(matrix.clone());
    let (x, out) = (recording.tensor("x", 1, cols), recording.tensor("out", 1, rows));
    let input = match (form, matrix.format.interleave()) {
        (Form::Int8, Some(interleave)) => recording.quantised(x, interleave).unwrap().into(),
        _ => x.into(),
    };
    recording.push("product", MatVec { x: input, matrix: id, out, accumulate: false, rows: RowsOf::Tokens }).unwrap();
    let recording = std::sync::Arc::new(recording);
    let mut identity = vec![0.0; 32 * x.stride];
    (0..32).for_each(|i| identity[i * x.stride + i] = 1.0);
    let step = Step::prefill(32, 0, LogitRows::All);

    let mut cpu = CpuExecutor::new(recording.clone(), 32, 0, None);
    cpu.write(x.tensor, &identity);
    cpu.run(step, &[], &[0.0; 4]).unwrap();
    let on_cpu = cpu.read(out.tensor).to_vec();
    let mut gpu = GpuExecutor::new(gpu(), recording, 32, 0, None, GpuOptions::default()).unwrap();
    gpu.write(x.tensor, &identity);
    gpu.run(step, &[], &[0.0; 4]).unwrap();
    let on_gpu = gpu.read(out.tensor).unwrap();
    // [columns, rows] turned
    [on_cpu, on_gpu].map(|out_of| (0..rows * 32).map(|i| out_of[i % 32 * out.stride + i / 32]).collect())
}

fn matrix(format: WeightFormat, rows: usize, cols: usize, [codes, scales, biases]: [Vec<u8>; 3]) -> Matrix {
    let block = MatrixBlock { rows, codes: codes.into(), scales: scales.into(), biases: Bytes::from(biases) };
    Matrix { name: format.to_string(), rows, cols, format, blocks: vec![block] }
}

/// The same columns by the code that quantises.
fn dequantised(matrix: &Matrix) -> Vec<f32> {
    let (format, cols, block) = (matrix.format, matrix.cols, &matrix.blocks[0]);
    let (row_bytes, scale_bytes) = (format.row_bytes(cols), format.row_scale_bytes(cols));
    let mut all = Vec::new();
    for r in 0..matrix.rows {
        let part = |bytes: &Bytes, len: usize| bytes.slice(r * len..(r + 1) * len);
        let (codes, scales) = (part(&block.codes, row_bytes), part(&block.scales, scale_bytes));
        let mut row = vec![0.0; cols];
        dequantise_row(format, cols, &codes, &scales, &part(&block.biases, scale_bytes), &mut row);
        all.extend_from_slice(&row[..32]);
    }
    all
}

fn assert_same(matrix: &Matrix, tolerance: f32) {
    assert_close(matrix, Form::F32, tolerance);
}

fn assert_close(matrix: &Matrix, form: Form, tolerance: f32) {
    let expected = dequantised(matrix);
    for (who, found) in ["CPU", "GPU"].into_iter().zip(columns(matrix, form)) {
        for (i, (e, f)) in expected.iter().zip(&found).enumerate() {
            let place = format!("{}, {who}, row {}, column {}", matrix.name, i / 32, i % 32);
            assert!((e - f).abs() <= tolerance, "{place}: expected {e:e}, found {f:e}");
        }
    }
}

/// Every number of 16 bits; what is infinite or NaN stands for 0.
fn all_of_16_bits(is_finite: impl Fn(u16) -> bool) -> Vec<u8> {
    (0..=u16::MAX).flat_map(|bits| if is_finite(bits) { bits } else { 0 }.to_le_bytes()).collect()
}

#[test]
fn every_f16() {
    let codes = all_of_16_bits(|bits| half::f16::from_bits(bits).is_finite());
    // subnormal f16 too: they are normal in f32, and small weights are stored so
    assert_same(&matrix(WeightFormat::F16, 2048, 32, [codes, vec![], vec![]]), 0.0);
}

#[test]
fn every_bf16() {
    let codes = all_of_16_bits(|bits| half::bf16::from_bits(bits).is_finite());
    // GPUs may take subnormal f32 for 0
    assert_same(&matrix(WeightFormat::Bf16, 2048, 32, [codes, vec![], vec![]]), f32::MIN_POSITIVE);
}

/// With scale 1 and bias 0 the weight is the code: every place of a code in the words of a block, and every code.
#[test]
fn every_code() {
    for bits in WeightFormat::BITS {
        let format = WeightFormat::affine(bits, 32);
        let codes = Random::new(u64::from(bits)).bytes(1024 * format.row_bytes(32));
        let scales = encode(ScaleType::Bf16, &[1.0; 1024]);
        let matrix = matrix(format, 1024, 32, [codes, scales, vec![0; 2048]]);
        assert_same(&matrix, 0.0);
        // 1 is 127 steps of 1 / 127
        assert_close(&matrix, Form::Int8, 1e-4);
    }
}

/// Scales and biases of every type, subnormal f16 among them, at every place in a word, with code 1.
#[test]
fn every_scale() {
    for format in formats("q8") {
        let WeightFormat::Affine { group, scales, .. } = format else { unreachable!("q8 is affine") };
        let (rows, cols) = (300, 3 * usize::from(group));
        let mut random = Random::new(u64::from(group));
        let mut any = || {
            let values: Vec<f32> = (0..3 * rows).map(|_| 10f32.powf(random.uniform(-7.0, 3.0))).collect();
            encode(scales, &values)
        };
        let sections = [vec![1; rows * cols], any(), any()];
        // scale + bias in one rounding or none
        assert_same(&matrix(format, rows, cols, sections), 1e-4);
    }
}
