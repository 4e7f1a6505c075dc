//! Every set of instructions that this processor has against the definition, bit for bit, and the definition against sums
//! in f64.

use flashflood_vectors::{Activations, Affine, BlockKind, Blocks, Instructions, Number, SmallFloats};
use proptest::prelude::*;

/// The next of SplitMix64's numbers.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 29)
}

fn bytes(state: &mut u64, count: usize) -> Vec<u8> {
    (0..count).map(|_| (next(state) >> 40) as u8).collect()
}

fn number(state: &mut u64) -> f32 {
    (next(state) >> 40) as f32 / (1 << 23) as f32 - 1.0
}

/// As bf16, f16 (of few bits) or f32.
fn encode(kind: Number, value: f32) -> Vec<u8> {
    match kind {
        Number::Bf16 => value.to_bits().to_le_bytes()[2..].to_vec(),
        // 10 bits of mantissa, exponents that a half has
        Number::F16 => {
            let bits = value.to_bits();
            let exponent = (bits >> 23 & 0xff).saturating_sub(127 - 15);
            ((bits >> 16 & 0x8000 | exponent << 10 | bits >> 13 & 0x3ff) as u16).to_le_bytes().to_vec()
        }
        Number::F32 => value.to_le_bytes().to_vec(),
    }
}

fn decode(kind: Number, bytes: &[u8]) -> f64 {
    let half = || u32::from(u16::from_le_bytes([bytes[0], bytes[1]]));
    match kind {
        Number::Bf16 => f64::from(f32::from_bits(half() << 16)),
        Number::F16 => {
            let (exponent, mantissa) = ((half() >> 10 & 31) as i32, f64::from(half() & 0x3ff));
            let sign = if half() & 0x8000 == 0 { 1.0 } else { -1.0 };
            let magnitude = match exponent {
                0 => mantissa * 2f64.powi(-24),
                _ => (1024.0 + mantissa) * 2f64.powi(exponent - 25),
            };
            sign * magnitude
        }
        Number::F32 => f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
    }
}

/// Columns between the four codes of a word, in the order that so many bits want.
fn interleave(bits: usize) -> usize {
    match bits {
        8 => 1,
        4 => 2,
        2 | 6 => 4,
        _ => 8,
    }
}

/// Random activations, also as codes in the order of columns.
fn activations(
    state: &mut u64,
    tokens: usize,
    blocks: usize,
    interleave: usize,
    offset: i32,
) -> (Activations, Vec<Vec<i8>>) {
    let mut x = Activations::new(tokens, blocks);
    let codes: Vec<Vec<i8>> = (0..tokens)
        .map(|_| bytes(state, 32 * blocks).into_iter().map(|code| (code as i8).max(-127)).collect())
        .collect();
    for (token, codes) in codes.iter().enumerate() {
        for (b, codes) in codes.as_chunks::<32>().0.iter().enumerate() {
            let block = x.block_mut(token, b);
            let words = 8 / interleave;
            for (j, word) in block.words.iter_mut().enumerate() {
                let column = |b: usize| 4 * interleave * (j % words) + interleave * b + j / words;
                *word = u32::from_le_bytes([0, 1, 2, 3].map(|b| codes[column(b)] as u8));
            }
            let sums = [0, 16].map(|first| codes[first..first + 16].iter().map(|code| i32::from(*code)).sum::<i32>());
            block.scale = number(state).abs() / 100.0;
            block.sum = block.scale * (sums[0] + sums[1]) as f32;
            block.halves = sums.map(|sum| sum as f32);
            block.lost = [sums[0], sums[1], sums[0] + sums[1]].map(|sum| -offset * sum);
        }
    }
    (x, codes)
}

/// What is right, and the sum of what is added in any order: the error is a share of that.
fn close(found: f32, expected: f64, magnitude: f64) -> bool {
    (f64::from(found) - expected).abs() <= 1e-5 * magnitude + 1e-30
}

fn affine_case(
    bits: usize,
    group: usize,
    kind: Number,
    (rows, first, groups, tokens): (usize, usize, usize, usize),
    seed: u64,
) {
    let mut state = seed;
    let (cols, all) = (group * groups, first + rows);
    let codes = bytes(&mut state, all * cols * bits / 8);
    let numbers =
        |state: &mut u64| -> Vec<u8> { (0..all * groups).flat_map(|_| encode(kind, number(state))).collect() };
    let (scales, biases) = (numbers(&mut state), numbers(&mut state));
    let weights =
        Affine { bits: bits as u8, group, cols, number: kind, codes: &codes, scales: &scales, biases: &biases };
    let (mut x, x_codes) = activations(&mut state, tokens, cols / 32, interleave(bits), 0);
    let mut expected = vec![0.0; rows * tokens];
    weights.times(Instructions::Portable, first, &x, &mut expected);
    for instructions in Instructions::available() {
        let mut found = vec![f32::NAN; rows * tokens];
        weights.times(instructions, first, &x, &mut found);
        assert_eq!(found, expected, "{instructions}, {bits} bits, group {group}");
    }
    for (r, expected) in expected.chunks_exact(tokens).enumerate() {
        let row = first + r;
        let code = |column: usize| {
            let bit = |b: usize| {
                let at = (row * cols + column) * bits + b;
                u32::from(codes[at / 8] >> (at % 8) & 1) << b
            };
            f64::from((0..bits).map(bit).sum::<u32>())
        };
        for (t, expected) in expected.iter().enumerate() {
            let (mut sum, mut magnitude) = (0.0, 0.0);
            for (column, x_code) in x_codes[t].iter().enumerate() {
                let at = kind.bytes() * (row * groups + column / group);
                let (scale, bias) = (decode(kind, &scales[at..]), decode(kind, &biases[at..]));
                let x = f64::from(*x_code) * f64::from(x.block_mut(t, column / 32).scale);
                sum += (scale * code(column) + bias) * x;
                magnitude += ((scale * code(column)).abs() + bias.abs()) * x.abs();
            }
            assert!(close(*expected, sum, magnitude), "{bits} bits, row {row}, token {t}: {expected} for {sum}");
        }
    }
    // one token alone has the same bits
    let t = tokens - 1;
    let mut alone = Activations::new(1, cols / 32);
    (0..cols / 32).for_each(|b| *alone.block_mut(0, b) = *x.block_mut(t, b));
    let expected: Vec<f32> = expected.chunks_exact(tokens).map(|row| row[t]).collect();
    for instructions in Instructions::available() {
        let mut found = vec![f32::NAN; rows];
        weights.times(instructions, first, &alone, &mut found);
        assert_eq!(found, expected, "{instructions}, {bits} bits, one token of {tokens}");
    }
}

/// A number of 8 bits (E4M3).
fn e4m3(byte: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f64::from(byte & 7));
    let magnitude = if exponent == 0 { mantissa * 2f64.powi(-9) } else { (8.0 + mantissa) * 2f64.powi(exponent - 10) };
    if byte < 0x80 { magnitude } else { -magnitude }
}

fn small_float_case(
    (by_16, row_scales): (bool, bool),
    (rows, first, blocks, tokens): (usize, usize, usize, usize),
    seed: u64,
) {
    const NUMBERS: [f64; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let mut state = seed;
    let (cols, all, shared) = (32 * blocks, first + rows, if by_16 { 16 } else { 32 });
    let numbers = bytes(&mut state, all * cols / 2);
    // powers of two of moderate size, and the smallest of all
    let scale = |byte: u8| if by_16 { byte } else { [0, 1, 2][usize::from(byte % 3)] + byte / 3 % 2 * 120 };
    let scales: Vec<u8> = bytes(&mut state, all * cols / shared).into_iter().map(scale).collect();
    let of_rows: Vec<f32> = (0..if row_scales { all } else { 0 }).map(|_| number(&mut state)).collect();
    let row_bytes: Vec<u8> = of_rows.iter().flat_map(|scale| scale.to_le_bytes()).collect();
    let weights = SmallFloats { cols, numbers: &numbers, scales: &scales, by_16, row_scales: &row_bytes };
    let (mut x, x_codes) = activations(&mut state, tokens, blocks, 1, SmallFloats::OFFSET);
    for (token, codes) in x_codes.iter().enumerate() {
        for (b, codes) in codes.as_chunks::<32>().0.iter().enumerate() {
            for (j, word) in x.block_mut(token, b).words.iter_mut().enumerate() {
                *word = u32::from_le_bytes([0, 1, 2, 3].map(|b| codes[SmallFloats::column(j, b)] as u8));
            }
        }
    }
    let mut expected = vec![0.0; rows * tokens];
    weights.times(Instructions::Portable, first, &x, &mut expected);
    for instructions in Instructions::available() {
        let mut found = vec![f32::NAN; rows * tokens];
        weights.times(instructions, first, &x, &mut found);
        assert_eq!(found, expected, "{instructions}");
    }
    for (r, expected) in expected.chunks_exact(tokens).enumerate() {
        let row = first + r;
        for (t, expected) in expected.iter().enumerate() {
            let (mut sum, mut magnitude) = (0.0, 0.0);
            for (column, x_code) in x_codes[t].iter().enumerate() {
                let at = row * cols + column;
                let code = numbers[at / 2] >> (4 * (at % 2)) & 15;
                let number = if code < 8 { NUMBERS[usize::from(code)] } else { -NUMBERS[usize::from(code - 8)] };
                let scale = scales[at / shared];
                let scale = if by_16 { e4m3(scale) } else { 2f64.powi(i32::from(scale) - 127) };
                let of_row = of_rows.get(row).map_or(1.0, |scale| f64::from(*scale));
                let product =
                    number * scale * of_row * f64::from(*x_code) * f64::from(x.block_mut(t, column / 32).scale);
                (sum, magnitude) = (sum + product, magnitude + product.abs());
            }
            assert!(close(*expected, sum, magnitude), "row {row}, token {t}: {expected} for {sum}");
        }
    }
}

/// What the blocks mean is tested where they are read otherwise too: in `formats`.
fn block_case(kind: BlockKind, (rows, first, blocks, tokens): (usize, usize, usize, usize), seed: u64) {
    let mut state = seed;
    let (columns, size) = kind.shape();
    let (cols, all) = (columns * blocks, first + rows);
    let mut bytes = bytes(&mut state, all * blocks * size);
    let halves: &[usize] = match kind {
        BlockKind::Q6_K => &[208],
        BlockKind::Q2_K => &[80, 82],
        BlockKind::Q3_K => &[108],
        BlockKind::TQ1_0 => &[52],
        BlockKind::TQ2_0 => &[64],
        BlockKind::MXFP4 | BlockKind::NVFP4 => &[],
        // the highest bits are those of the last word of scales
        BlockKind::IQ1_M => &[54],
        BlockKind::Q4_1 | BlockKind::Q5_1 | BlockKind::Q4_K | BlockKind::Q5_K => &[0, 2],
        _ => &[0],
    };
    for block in bytes.chunks_exact_mut(size) {
        // neither infinite nor NaN
        halves.iter().for_each(|at| block[at + 1] &= 0xbb);
        if kind == BlockKind::MXFP4 {
            block[0] = block[0] % 140 + 1;
        }
    }
    // levels below 3 in each half of a byte, or bytes of 7 bits
    let grid: Vec<u32> = (0..kind.grid())
        .map(|_| {
            let word = next(&mut state) as u32;
            match kind {
                BlockKind::IQ3_XXS | BlockKind::IQ3_S => (word & 0x3f3f_3f3f) + 0x4040_4040,
                _ => (0..8).map(|i| word >> (4 * i) & 15).enumerate().map(|(i, level)| (level % 3) << (4 * i)).sum(),
            }
        })
        .collect();
    let weights = Blocks { kind, cols, bytes: &bytes, grid: &grid };
    let (mut x, _) = activations(&mut state, tokens, cols / 32, 1, kind.offset());
    let mut expected = vec![0.0; rows * tokens];
    weights.times(Instructions::Portable, first, &x, &mut expected);
    assert!(expected.iter().all(|sum| sum.is_finite()) && expected.iter().any(|sum| *sum != 0.0));
    for instructions in Instructions::available() {
        let mut found = vec![f32::NAN; rows * tokens];
        weights.times(instructions, first, &x, &mut found);
        assert_eq!(found, expected, "{instructions}, {kind:?}");
    }
    let t = tokens - 1;
    let mut alone = Activations::new(1, cols / 32);
    (0..cols / 32).for_each(|b| *alone.block_mut(0, b) = *x.block_mut(t, b));
    let mut found = vec![0.0; rows];
    weights.times(Instructions::best(), first, &alone, &mut found);
    assert_eq!(found, expected.chunks_exact(tokens).map(|row| row[t]).collect::<Vec<_>>(), "{kind:?}, one of {tokens}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn affine_products_have_the_bits_of_the_definition(
        bits in prop::sample::select(vec![2usize, 3, 4, 5, 6, 8]),
        group in prop::sample::select(vec![32usize, 64, 128]),
        kind in prop::sample::select(vec![Number::Bf16, Number::F16, Number::F32]),
        (rows, first, groups, tokens) in (1usize..40, 0usize..5, 1usize..12, 1usize..9),
        seed: u64,
    ) {
        affine_case(bits, group, kind, (rows, first, groups, tokens), seed);
    }

    #[test]
    fn products_with_blocks_have_the_bits_of_the_definition(
        kind in prop::sample::select(BlockKind::ALL.to_vec()),
        (rows, first, blocks, tokens) in (1usize..40, 0usize..5, 1usize..40, 1usize..9),
        seed: u64,
    ) {
        block_case(kind, (rows, first, blocks, tokens), seed);
    }

    #[test]
    fn small_floats_have_the_bits_of_the_definition(
        kind in prop::sample::select(vec![(false, false), (true, false), (true, true)]),
        (rows, first, blocks, tokens) in (1usize..40, 0usize..5, 1usize..40, 1usize..9),
        seed: u64,
    ) {
        small_float_case(kind, (rows, first, blocks, tokens), seed);
    }
}

/// More tokens than are taken at a time, and the widest of rows.
#[test]
fn many_tokens_and_long_rows() {
    for bits in [2, 3, 4, 5, 6, 8] {
        affine_case(bits, 64, Number::Bf16, (17, 1, 3, 131), 7);
        affine_case(bits, 128, Number::Bf16, (16, 0, 33, 3), 8);
        // one token: groups of a block, parts of chunks, tiles of rows with more and with fewer blocks than lanes, and one row
        affine_case(bits, 32, Number::F32, (49, 1, 67, 1), 10);
        affine_case(bits, 64, Number::F16, (33, 3, 41, 1), 11);
    }
    small_float_case((true, true), (17, 1, 35, 131), 9);
    for kind in BlockKind::ALL {
        block_case(kind, (17, 1, 3, 131), 9);
    }
}

/// The largest codes with the largest activations: what 16 bits do not hold.
#[test]
fn extremes_do_not_saturate() {
    // of short rows and of long ones
    for (bits, blocks) in [2, 3, 4, 5, 6, 8].into_iter().flat_map(|bits| [(bits, 1), (bits, 16), (bits, 19)]) {
        let (codes, one) = (vec![0xff; 16 * 4 * bits * blocks], 1f32.to_le_bytes().repeat(16 * blocks));
        let biases = 0f32.to_le_bytes().repeat(16 * blocks);
        let (number, cols) = (Number::F32, 32 * blocks);
        let weights =
            Affine { bits: bits as u8, group: 32, cols, number, codes: &codes, scales: &one, biases: &biases };
        for x_code in [127i8, -127, -128] {
            let mut x = Activations::new(1, blocks);
            let words = [u32::from_le_bytes([x_code as u8; 4]); 8];
            for block in 0..blocks {
                *x.block_mut(0, block) = flashflood_vectors::Block { words, scale: 1.0, ..Default::default() };
            }
            for instructions in Instructions::available() {
                let mut out = [0.0; 16];
                weights.times(instructions, 0, &x, &mut out);
                let expected = (cols * ((1 << bits) - 1)) as f32 * f32::from(x_code);
                assert_eq!(out, [expected; 16], "{instructions}, {bits} bits, {cols} columns");
            }
        }
    }
}
