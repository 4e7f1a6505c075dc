use super::*;
use crate::{WeightRows, random_bytes};

/// `[rows, cols]` weights of what is stored, by way of [`Stored::arrange`].
fn weights(stored: Stored, rows: usize, cols: usize, tensors: &[&[u8]]) -> Vec<f32> {
    let format = stored.format();
    let mut streams = format.stream_bytes(cols).map(|bytes| vec![0; rows * bytes]);
    let described = stored.tensors(rows, cols);
    assert_eq!(described.len(), tensors.len());
    for (tensor, bytes) in described.iter().zip(tensors) {
        assert_eq!(tensor.bytes(), bytes.len());
        if let Some(stream) = tensor.stream {
            streams[stream].copy_from_slice(bytes);
        }
    }
    let [a, b, c] = &mut streams;
    let mut out = [&mut a[..], &mut b[..], &mut c[..]];
    described.iter().filter_map(|tensor| tensor.stream).for_each(|stream| out[stream] = &mut []);
    stored.arrange(rows, cols, tensors, out);
    let all = WeightRows { format, cols, streams: streams.each_ref().map(|bytes| &bytes[..]) };
    let mut weights = vec![0.0; rows * cols];
    weights.chunks_exact_mut(cols).enumerate().for_each(|(row, out)| all.unpack(row, out));
    weights
}

fn scales(count: usize, dense: Dense) -> (Vec<f32>, Vec<u8>) {
    let mut bytes = Vec::new();
    // 8 bits of mantissa, which every type holds
    let values: Vec<f32> = (0..count).map(|i| (128 + i * 37 % 128) as f32 / 4096.0).collect();
    values.iter().for_each(|value| dense.encode(*value, &mut bytes));
    (values, bytes)
}

fn of_bits(bytes: &[u8], word_at: usize, bits: usize, place: usize) -> f32 {
    code(word(bytes, word_at), bits as u8, place) as f32
}

#[test]
fn codes_of_gptq_lie_along_columns() {
    for bits in [2_usize, 4, 8] {
        // two of the format's groups share a scale
        let (rows, cols, group, codes) = (48, 192, 64, 32 / bits);
        let words = random_bytes(1, cols / codes * rows * 4);
        let zeros = random_bytes(2, cols / group * (rows / codes) * 4);
        let (scale, scale_bytes) = scales(cols / group * rows, Dense::F16);
        let format = Affine { bits: bits as u8, group: 32, scales: ScaleType::F32 };
        for more in [0, 1] {
            let stored = Stored::Gptq { format, scales: StoredScales { number: ScaleType::F16, groups: 2 }, more };
            let found = weights(stored, rows, cols, &[&words, &scale_bytes, &zeros]);
            for (i, w) in found.iter().enumerate() {
                let (row, col) = (i / cols, i % cols);
                let q = of_bits(&words, col / codes * rows + row, bits, col % codes);
                let z = of_bits(&zeros, col / group * (rows / codes) + row / codes, bits, row % codes);
                let expected = scale[col / group * rows + row] * (q - (z + f32::from(more)));
                assert_eq!(*w, expected, "{bits} bits, row {row}, column {col}");
            }
        }
    }
}

#[test]
fn words_of_awq_hold_eight_rows_out_of_order() {
    let (rows, cols, group) = (40, 64, 32);
    let words = random_bytes(1, cols * rows / 8 * 4);
    let zeros = random_bytes(2, cols / group * rows / 8 * 4);
    let (scale, scale_bytes) = scales(cols / group * rows, Dense::F16);
    let format = Affine { bits: 4, group: 32, scales: ScaleType::F32 };
    let stored = Stored::Awq { format, scales: StoredScales { number: ScaleType::F16, groups: 1 } };
    let found = weights(stored, rows, cols, &[&words, &scale_bytes, &zeros]);
    // bits 4 i of a word are row ORDER[i], so row r is at bits 4 times this
    let place = [0, 4, 1, 5, 2, 6, 3, 7];
    for (i, w) in found.iter().enumerate() {
        let (row, col) = (i / cols, i % cols);
        let q = of_bits(&words, col * (rows / 8) + row / 8, 4, place[row % 8]);
        let z = of_bits(&zeros, col / group * (rows / 8) + row / 8, 4, place[row % 8]);
        assert_eq!(*w, scale[col / group * rows + row] * (q - z), "row {row}, column {col}");
    }
}

#[test]
fn centred_codes_keep_their_scales() {
    let (rows, cols, group) = (16, 128, 64);
    let words = random_bytes(1, rows * cols / 2);
    let zeros = random_bytes(2, rows / 8 * (cols / group) * 4);
    let (scale, scale_bytes) = scales(rows * cols / group, Dense::Bf16);
    for with_zeros in [false, true] {
        let scales = if with_zeros { ScaleType::F32 } else { ScaleType::Bf16 };
        let format = Affine { bits: 4, group: 64, scales };
        let scales = StoredScales { number: ScaleType::Bf16, groups: 1 };
        let stored = Stored::Centred { format, scales, zeros: with_zeros };
        let tensors: [&[u8]; 3] = [&words, &scale_bytes, &zeros];
        let found = weights(stored, rows, cols, &tensors[..if with_zeros { 3 } else { 2 }]);
        for (i, w) in found.iter().enumerate() {
            let (row, col) = (i / cols, i % cols);
            let q = of_bits(&words, i / 8, 4, i % 8);
            let z = if with_zeros { of_bits(&zeros, row / 8 * 2 + col / group, 4, row % 8) } else { 8.0 };
            assert_eq!(*w, scale[row * 2 + col / group] * (q - z), "row {row}, column {col}");
        }
    }
}

/// A number of 8 bits by its definition.
fn e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7) / 8.0);
    let magnitude = if exponent == 0 { mantissa * 2f32.powi(-6) } else { (1.0 + mantissa) * 2f32.powi(exponent - 7) };
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

#[test]
fn rows_share_scales_of_fp8() {
    let (rows, cols) = (200, 160);
    let numbers: Vec<u8> = (0..rows * cols).map(|i| (i % 256) as u8).collect();
    for (shared, blocks) in [(Some(128), 4), (None, 1)] {
        let (scale, scale_bytes) = scales(blocks, Dense::F32);
        let format = Scaled::fp8(if shared.is_some() { 128 } else { 0 }, ScaleType::F32);
        let found = weights(Stored::SharedScales { format, rows: shared }, rows, cols, &[&numbers, &scale_bytes]);
        for (i, w) in found.iter().enumerate() {
            let (row, col) = (i / cols, i % cols);
            let scale = scale[if shared.is_some() { row / 128 * 2 + col / 128 } else { 0 }];
            assert_eq!(*w, e4m3(numbers[i]) * scale, "row {row}, column {col}");
        }
    }
}

#[test]
fn every_number_of_4_bits_has_both_scales() {
    const NUMBERS: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let (rows, cols) = (4, 64);
    let numbers: Vec<u8> = (0..rows * cols / 2).map(|i| (i * 17 % 256) as u8).collect();
    let scales: Vec<u8> = (0..rows * cols / 16).map(|i| 0x20 + i as u8).collect();
    for (divides, factor) in [(false, 0.25), (true, 4.0)] {
        let matrix = 0.25f32.to_le_bytes();
        let found = weights(Stored::MatrixScale { divides }, rows, cols, &[&numbers, &scales, &matrix]);
        for (i, w) in found.iter().enumerate() {
            let number = numbers[i / 2] >> (4 * (i % 2)) & 15;
            let magnitude = NUMBERS[usize::from(number & 7)] * e4m3(scales[i / 16]) * factor;
            assert_eq!(*w, if number < 8 { magnitude } else { -magnitude }, "{i}");
        }
    }
}
