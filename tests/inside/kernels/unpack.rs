//! Weights come out of every format exactly: a product with a row of the identity is the weight itself.

use crate::compute::cpu::CpuExecutor;
use crate::compute::gpu::{GpuExecutor, GpuOptions};
use crate::compute::ops::{Matmul, RowsOf};
use crate::compute::shaders::Form;
use crate::compute::{LogitRows, Recording, Step};
use crate::weights::{Affine, Dense, Matrix, MatrixBlock, WeightFormat};
use bytes::Bytes;
use flashflood_formats::{Block, Scaled};

use super::random::{Random, encode, formats};
use super::trial::gpu;

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
    let product =
        Matmul { x: input, matrix: id, out, accumulate: false, exact: false, rows: RowsOf::Tokens, unscaled: None };
    recording.push("product", product).unwrap();
    let recording = std::sync::Arc::new(recording);
    let mut identity = vec![0.0; 32 * x.stride];
    (0..32).for_each(|i| identity[i * x.stride + i] = 1.0);
    let step = Step::prefill(32, 0, LogitRows::All);

    let mut cpu = CpuExecutor::new(recording.clone(), 32, None);
    cpu.write(x.tensor, &identity);
    cpu.run(step, &[], &[0.0; 4], None).unwrap();
    let on_cpu = cpu.read(out.tensor).to_vec();
    let mut gpu =
        GpuExecutor::new(gpu(), recording, 32, None, GpuOptions { cooperative: Some(false), ..GpuOptions::default() })
            .unwrap();
    gpu.write(x.tensor, &identity);
    gpu.run(step, &[], &[0.0; 4], None).unwrap();
    let on_gpu = gpu.read(out.tensor).unwrap();
    // [columns, rows] turned
    [on_cpu, on_gpu].map(|out_of| (0..rows * 32).map(|i| out_of[i % 32 * out.stride + i / 32]).collect())
}

fn matrix(format: WeightFormat, rows: usize, cols: usize, streams: [Vec<u8>; 3]) -> Matrix {
    let block = MatrixBlock { rows, streams: streams.map(Bytes::from) };
    Matrix { name: format.to_string(), rows, cols, format, blocks: vec![block] }
}

/// The same columns bit by bit: codes are one stream of bits, lowest first.
fn by_definition(matrix: &Matrix) -> Vec<f32> {
    let bytes = matrix.format.stream_bytes(matrix.cols);
    let weight = |r: usize, c: usize| {
        let [codes, scales, biases] = [0, 1, 2].map(|i| &matrix.blocks[0].streams[i][r * bytes[i]..][..bytes[i]]);
        match matrix.format {
            WeightFormat::Dense(dense) => number(dense, codes, c),
            WeightFormat::Block(_) | WeightFormat::Scaled(_) => unreachable!("these have a test of their own"),
            WeightFormat::Affine(Affine { bits, group, scales: as_type }) => {
                let first = c * usize::from(bits);
                let bit = |b: usize| codes[(first + b) / 8] >> ((first + b) % 8) & 1;
                let code: u8 = (0..usize::from(bits)).map(|b| bit(b) << b).sum();
                let [scale, bias] = [scales, biases].map(|of| number(as_type.dense(), of, c / usize::from(group)));
                scale * f32::from(code) + bias
            }
        }
    };
    (0..matrix.rows).flat_map(|r| (0..32).map(move |c| (r, c))).map(|(r, c)| weight(r, c)).collect()
}

fn number(of: Dense, bytes: &[u8], i: usize) -> f32 {
    let bytes = &bytes[i * of.bytes()..][..of.bytes()];
    match of {
        Dense::F32 => f32::from_le_bytes(bytes.try_into().unwrap()),
        Dense::F16 => half::f16::from_le_bytes(bytes.try_into().unwrap()).to_f32(),
        Dense::Bf16 => half::bf16::from_le_bytes(bytes.try_into().unwrap()).to_f32(),
    }
}

/// The same columns of rows as they are unpacked one by one.
fn unpacked(matrix: &Matrix) -> Vec<f32> {
    let mut row = vec![0.0; matrix.cols];
    let mut first = |r| {
        matrix.unpack_row(r, &mut row);
        row[..32].to_vec()
    };
    (0..matrix.rows).flat_map(&mut first).collect()
}

fn assert_same(matrix: &Matrix, tolerance: f32) {
    assert_close(matrix, Form::F32, tolerance);
}

fn assert_close(matrix: &Matrix, form: Form, tolerance: f32) {
    let expected = by_definition(matrix);
    let [on_cpu, on_gpu] = columns(matrix, form);
    for (who, found) in [("unpacked", unpacked(matrix)), ("CPU", on_cpu), ("GPU", on_gpu)] {
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
    for bits in Affine::BITS {
        let format = WeightFormat::affine(bits, 32);
        let codes = Random::new(u64::from(bits)).bytes(1024 * format.stream_bytes(32)[0]);
        let scales = encode(Dense::Bf16, &[1.0; 1024]);
        let matrix = matrix(format, 1024, 32, [codes, scales, vec![0; 2048]]);
        assert_same(&matrix, 0.0);
        // 1 is 127 steps of 1 / 127
        assert_close(&matrix, Form::Int8, 1e-4);
    }
}

/// Blocks of GGUF files and small floats, every 32 columns of a row, wherever they begin in a word: as they are unpacked,
/// which `flashflood-formats` holds against the package gguf and against their definition.
#[test]
fn every_block() {
    let blocks = Block::all().map(|block| (WeightFormat::Block(block), 3 * block.columns().max(32)));
    // a last group that is not whole
    let floats = Scaled::KINDS.map(|floats| (WeightFormat::Scaled(floats), 160));
    for (format, cols) in blocks.chain(floats) {
        let (rows, mut random) = (61, Random::new(format.stream_bytes(cols)[0] as u64));
        let matrix = random.matrix(format, rows, cols);
        let mut recording = Recording::new(cols);
        let id = recording.matrix(matrix.clone());
        let x = recording.tensor("x", 1, cols);
        let int8 = format.interleave().map(|interleave| recording.quantised(x, interleave).unwrap().into());
        let outs = [Some(x.into()), int8].into_iter().flatten().map(|x| {
            let out = recording.tensor("out", 1, rows);
            let product =
                Matmul { x, matrix: id, out, accumulate: false, exact: false, rows: RowsOf::Tokens, unscaled: None };
            recording.push("product", product).unwrap();
            out
        });
        let outs: Vec<_> = outs.collect();
        let mut identity = vec![0.0; cols * x.stride];
        (0..cols).for_each(|i| identity[i * x.stride + i] = 1.0);
        let mut gpu = GpuExecutor::new(
            gpu(),
            recording.into(),
            cols,
            None,
            GpuOptions { cooperative: Some(false), ..GpuOptions::default() },
        )
        .unwrap();
        gpu.write(x.tensor, &identity);
        gpu.run(Step::prefill(cols, 0, LogitRows::All), &[], &[0.0; 4], None).unwrap();
        let mut row = vec![0.0; cols];
        let found: Vec<Vec<f32>> = outs.iter().map(|out| gpu.read(out.tensor).unwrap()).collect();
        for r in 0..rows {
            matrix.unpack_row(r, &mut row);
            for (c, expected) in row.iter().enumerate() {
                for (out, found) in outs.iter().zip(&found) {
                    let found = found[c * out.stride + r];
                    // 1 is 127 steps of 1 / 127
                    let close = (expected - found).abs() <= 2e-6 * (1.0 + expected.abs());
                    assert!(close, "{format}, row {r}, column {c}: expected {expected:e}, found {found:e}");
                }
            }
        }
    }
}

/// Scales and biases of every type, subnormal f16 among them, at every place in a word, with code 1.
#[test]
fn every_scale() {
    for format in formats("q8") {
        let WeightFormat::Affine(Affine { group, scales, .. }) = format else { unreachable!("q8 is affine") };
        let (rows, cols) = (300, 3 * usize::from(group));
        let mut random = Random::new(u64::from(group));
        let mut any = || {
            let values: Vec<f32> = (0..3 * rows).map(|_| 10f32.powf(random.uniform(-7.0, 3.0))).collect();
            encode(scales.dense(), &values)
        };
        let sections = [vec![1; rows * cols], any(), any()];
        // scale + bias in one rounding or none
        assert_same(&matrix(format, rows, cols, sections), 1e-4);
    }
}
