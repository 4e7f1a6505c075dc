//! The loops over blocks of GGUF files, over the primitives and loops of whichever module they are put in.

/// The loops. `KIND` is the place in [`BlockKind::ALL`](crate::BlockKind::ALL).
macro_rules! block_kernels {
    ($(#[$attribute:meta])*) => {
        use $crate::blocks::{BlockKind, Blocks};

        /// Words from a byte on.
        $(#[$attribute])*
        #[inline]
        fn words_at<const N: usize>(words: &[[u32; LANES]], byte: usize) -> [Words; N] {
            let (words, bits) = (&words[byte / 4..], 8 * (byte % 4) as u32);
            let mut out = [spread(0); N];
            for i in 0..N {
                out[i] = match bits {
                    0 => load(&words[i]),
                    _ => or(right(load(&words[i]), bits), left(load(&words[i + 1]), 32 - bits)),
                };
            }
            out
        }

        /// Some bits from bit `bit` of byte `byte` on; they do not go beyond a word.
        $(#[$attribute])*
        #[inline]
        fn field(words: &[[u32; LANES]], byte: usize, bit: u32, mask: u32) -> Words {
            and(right(load(&words[byte / 4]), 8 * (byte % 4) as u32 + bit), mask)
        }

        /// The half at an even byte.
        $(#[$attribute])*
        #[inline]
        fn half_at(words: &[[u32; LANES]], byte: usize) -> Floats {
            let word = load(&words[byte / 4]);
            from_halves(if byte % 4 == 0 { and(word, 0xffff) } else { right(word, 16) })
        }

        /// The low halves of 16 bytes, then the high halves.
        $(#[$attribute])*
        #[inline]
        fn low_and_high(words: &[[u32; LANES]], byte: usize) -> [Words; 8] {
            let packed: [Words; 4] = words_at(words, byte);
            let mut codes = [spread(0); 8];
            for i in 0..4 {
                codes[i] = and(packed[i], 0x0f0f_0f0f);
                codes[4 + i] = and(right(packed[i], 4), 0x0f0f_0f0f);
            }
            codes
        }

        /// Adds the fifth bit of each code, of 32 at a byte.
        $(#[$attribute])*
        #[inline]
        fn with_fifth_bits(codes: [Words; 8], words: &[[u32; LANES]], byte: usize) -> [Words; 8] {
            let [bits]: [Words; 1] = words_at(words, byte);
            let mut codes = codes;
            for (j, code) in codes.iter_mut().enumerate() {
                let four = and(right(bits, 4 * j as u32), 15);
                let low = or(and(left(four, 4), 0x10), and(left(four, 11), 0x1000));
                let high = or(and(left(four, 18), 0x10_0000), and(left(four, 25), 0x1000_0000));
                *code = or(*code, or(low, high));
            }
            codes
        }

        /// Scale and minimum, times -1, of 32 columns of a block of 256, of 6 bits each.
        $(#[$attribute])*
        #[inline]
        fn scales_of_6_bits(words: &[[u32; LANES]], b: usize) -> [Floats; 2] {
            let [scales, minima, both] = [load(&words[1]), load(&words[2]), load(&words[3])];
            let (scale, minimum) = if b < 4 {
                (and(right(scales, 8 * b as u32), 63), and(right(minima, 8 * b as u32), 63))
            } else {
                let at = 8 * (b - 4) as u32;
                let high = |of| and(right(of, at + 2), 0x30);
                (or(and(right(both, at), 15), high(scales)), or(and(right(both, at + 4), 15), high(minima)))
            };
            let minimum = product(half_at(words, 2), to_floats(minimum));
            [product(half_at(words, 0), to_floats(scale)), difference(spread_float(0.0), minimum)]
        }

        /// Codes of 32 columns of a block of 256, of which byte `byte` and those behind it hold the low four bits.
        $(#[$attribute])*
        #[inline]
        fn half_of_bytes(words: &[[u32; LANES]], byte: usize, b: usize) -> [Words; 8] {
            let packed: [Words; 8] = words_at(words, byte + 32 * (b / 2));
            packed.map(|word| and(right(word, 4 * (b % 2) as u32), 0x0f0f_0f0f))
        }

        /// Two bits of 32 columns of a block of 256 whose codes begin at byte `byte`: of each 32 bytes the lowest pairs are the
        /// first 32 columns.
        $(#[$attribute])*
        #[inline]
        fn pairs_of_bits(words: &[[u32; LANES]], byte: usize, b: usize) -> [Words; 8] {
            let mut codes: [Words; 8] = words_at(words, byte + 32 * (b / 4));
            for code in &mut codes {
                *code = and(right(*code, 2 * (b % 4) as u32), 0x0303_0303);
            }
            codes
        }

        /// Adds 32 columns, number `b` among those whose words these are.
        $(#[$attribute])*
        #[inline]
        fn add_columns<const KIND: usize, const ONE: bool>(
            words: &[[u32; LANES]],
            b: usize,
            grid: &[u32],
            x: &[Block],
            sums: &mut Sums<'_, ONE>,
        ) {
            let kind = const { BlockKind::ALL[KIND] };
            let (columns, bytes) = kind.shape();
            // bytes that blocks of 256 begin with are counted from `at`, columns from the block's first
            let (at, b) = (b / (columns / 32) * bytes, b % (columns / 32));
            match kind {
                BlockKind::Q4_0 => add_symmetric::<4, ONE>(low_and_high(words, at + 2), half_at(words, at), x, sums),
                BlockKind::Q4_1 => {
                    let codes = low_and_high(words, at + 4);
                    add_block::<4, ONE>(codes, half_at(words, at), half_at(words, at + 2), x, sums);
                }
                BlockKind::Q5_0 => {
                    let codes = with_fifth_bits(low_and_high(words, at + 6), words, at + 2);
                    add_symmetric::<5, ONE>(codes, half_at(words, at), x, sums);
                }
                BlockKind::Q5_1 => {
                    let codes = with_fifth_bits(low_and_high(words, at + 8), words, at + 4);
                    add_block::<5, ONE>(codes, half_at(words, at), half_at(words, at + 2), x, sums);
                }
                BlockKind::Q8_0 => {
                    let mut codes: [Words; 8] = words_at(words, at + 2);
                    for code in &mut codes {
                        *code = flip(*code);
                    }
                    add_symmetric::<8, ONE>(codes, half_at(words, at), x, sums);
                }
                BlockKind::Q2_K => {
                    let codes = pairs_of_bits(words, at + 16, b);
                    let (d, min) = (half_at(words, at + 80), half_at(words, at + 82));
                    let scale = |of, half, bit| product(of, to_floats(field(words, at + 2 * b + half, bit, 15)));
                    let zero = spread_float(0.0);
                    let biases = [difference(zero, scale(min, 0, 4)), difference(zero, scale(min, 1, 4))];
                    add_biased_halves::<2, ONE>(codes, [scale(d, 0, 0), scale(d, 1, 0)], biases, x, sums);
                }
                BlockKind::Q3_K => {
                    let mut codes = pairs_of_bits(words, at + 32, b);
                    let third: [Words; 8] = words_at(words, at);
                    for (code, third) in codes.iter_mut().zip(third) {
                        *code = or(*code, left(and(right(third, b as u32), 0x0101_0101), 2));
                    }
                    let d = half_at(words, at + 108);
                    let scale = |i: usize| {
                        let low = field(words, at + 96 + i % 8, 4 * (i / 8) as u32, 15);
                        let high = field(words, at + 104 + i % 4, 2 * (i / 4) as u32, 3);
                        product(d, difference(to_floats(or(low, left(high, 4))), spread_float(32.0)))
                    };
                    add_halves::<3, ONE>(codes, [scale(2 * b), scale(2 * b + 1)], x, sums);
                }
                BlockKind::Q4_K => {
                    let words = &words[at / 4..];
                    let [scale, bias] = scales_of_6_bits(words, b);
                    add_block::<4, ONE>(half_of_bytes(words, 16, b), scale, bias, x, sums);
                }
                BlockKind::Q5_K => {
                    let words = &words[at / 4..];
                    let [scale, bias] = scales_of_6_bits(words, b);
                    let mut codes = half_of_bytes(words, 48, b);
                    let fifth: [Words; 8] = words_at(words, 16);
                    for (code, fifth) in codes.iter_mut().zip(fifth) {
                        *code = or(*code, left(and(right(fifth, b as u32), 0x0101_0101), 4));
                    }
                    add_block::<5, ONE>(codes, scale, bias, x, sums);
                }
                BlockKind::Q6_K => {
                    // 64 bytes are the low bits of 128 columns, 32 bytes their high ones
                    let (half, quarter) = (b / 4, b % 4);
                    let low: [Words; 8] = words_at(words, 64 * half + 32 * (quarter % 2));
                    let high: [Words; 8] = words_at(words, 128 + 32 * half);
                    let mut codes = [spread(0); 8];
                    for i in 0..8 {
                        let low = and(right(low[i], 4 * (quarter / 2) as u32), 0x0f0f_0f0f);
                        codes[i] = or(low, left(and(right(high[i], 2 * quarter as u32), 0x0303_0303), 4));
                    }
                    let scales = load(&words[48 + b / 2]);
                    // one of four signed bytes
                    let d = half_at(words, 208);
                    let scale = |i: usize| {
                        let byte = and(right(scales, 8 * i as u32), 0xff);
                        let signed = difference(to_floats(xor_80(byte)), spread_float(128.0));
                        product(d, signed)
                    };
                    add_halves::<6, ONE>(codes, [scale(2 * (b % 2)), scale(2 * (b % 2) + 1)], x, sums);
                }
                BlockKind::IQ4_NL => {
                    let codes = looked_up(&IQ4, low_and_high(words, at + 2));
                    add_symmetric::<8, ONE>(codes, half_at(words, at), x, sums);
                }
                BlockKind::IQ4_XS => {
                    let codes = looked_up(&IQ4, low_and_high(words, at + 8 + 16 * b));
                    let low = field(words, at + 4 + b / 2, 4 * (b % 2) as u32, 15);
                    let high = field(words, at + 2, 2 * b as u32, 3);
                    let scale = difference(to_floats(or(low, left(high, 4))), spread_float(32.0));
                    add_symmetric::<8, ONE>(codes, product(half_at(words, at), scale), x, sums);
                }
                BlockKind::MXFP4 => {
                    let codes = looked_up(&FP4, low_and_high(words, at + 1));
                    add_symmetric::<5, ONE>(codes, half_of_power(field(words, at, 0, 0xff)), x, sums);
                }
                BlockKind::NVFP4 => {
                    let codes = looked_up(&FP4, low_and_high_of_eight(words_at(words, at + 4 + 16 * b)));
                    let scale = |half| {
                        let byte = field(words, at + 2 * b + half, 0, 0x7f);
                        // 0x7f, which would be NaN, is 0
                        let is_number = difference(spread_float(1.0), to_floats(right(add_words(byte, spread(1)), 7)));
                        product(half_of_scale(byte), is_number)
                    };
                    add_halves::<5, ONE>(codes, [scale(0), scale(1)], x, sums);
                }
                BlockKind::TQ1_0 => {
                    let d = half_at(words, at + 52);
                    add_symmetric::<2, ONE>(ternary(words, at, b), d, x, sums);
                }
                BlockKind::TQ2_0 => {
                    add_symmetric::<2, ONE>(pairs_of_bits(words, at, b), half_at(words, at + 64), x, sums);
                }
                BlockKind::IQ2_XXS => {
                    let (codes, scale) = iq2_xxs(words, at, b, grid);
                    add_symmetric::<7, ONE>(codes, scale, x, sums);
                }
                BlockKind::IQ2_XS => {
                    let (codes, scales) = iq2_xs(words, at, b, grid);
                    add_halves::<7, ONE>(codes, scales, x, sums);
                }
                BlockKind::IQ2_S => {
                    let (codes, scales) = iq2_s(words, at, b, grid);
                    add_halves::<7, ONE>(codes, scales, x, sums);
                }
                BlockKind::IQ3_XXS => {
                    let (codes, scale) = iq3_xxs(words, at, b, grid);
                    add_symmetric::<7, ONE>(codes, scale, x, sums);
                }
                BlockKind::IQ3_S => {
                    let (codes, scale) = iq3_s(words, at, b, grid);
                    add_symmetric::<7, ONE>(codes, scale, x, sums);
                }
                BlockKind::IQ1_S => {
                    let (codes, scale) = iq1_s(words, at, b, grid);
                    add_symmetric::<5, ONE>(codes, scale, x, sums);
                }
                BlockKind::IQ1_M => {
                    let (codes, scales) = iq1_m(words, at, b, grid);
                    add_halves::<5, ONE>(codes, scales, x, sums);
                }
            }
        }

        /// A byte with its sign turned: 128 more than it is as a signed one.
        $(#[$attribute])*
        #[inline]
        fn xor_80(byte: Words) -> Words {
            and(flip(byte), 0xff)
        }

        /// The bytes of rows from `at` on, fewer than four, as a word each.
        $(#[$attribute])*
        #[inline]
        fn last_word(rows: &[&[u8]; LANES], at: usize, bytes: usize, word: &mut [u32; LANES]) {
            for (word, row) in word.iter_mut().zip(rows) {
                // a word that ends with them, where there are others before
                *word = match row[..at + bytes].last_chunk() {
                    Some(last) => u32::from_le_bytes(*last) >> (32 - 8 * bytes),
                    None => row[at..at + bytes].iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte)),
                };
            }
        }

        $(#[$attribute])*
        pub(crate) fn blocks<const KIND: usize>(w: &Blocks<'_>, first: usize, x: &Activations, out: &mut [f32]) {
            match x.tokens() {
                1 => block_tokens::<KIND, true>(w, first, x, out),
                _ => block_tokens::<KIND, false>(w, first, x, out),
            }
        }

        $(#[$attribute])*
        fn block_tokens<const KIND: usize, const ONE: bool>(
            w: &Blocks<'_>,
            first: usize,
            x: &Activations,
            out: &mut [f32],
        ) {
            let kind = const { BlockKind::ALL[KIND] };
            let (columns, bytes) = kind.shape();
            let (tokens, count) = (x.tokens(), w.cols / columns);
            let rows = out.len() / tokens;
            let mut words = vec![[0; LANES]; (kind.at_once() * bytes).div_ceil(4)];
            let mut each = vec![[0.0; LANES]; TOKENS.min(tokens)];
            for at in (0..tokens).step_by(TOKENS) {
                let now = TOKENS.min(tokens - at);
                for r in (0..rows).step_by(LANES) {
                    let rows = rows_of(w.bytes, w.row_bytes(), first + r, rows - r);
                    let mut sums = zero_sums::<ONE>(&mut each[..now]);
                    for block in (0..count).step_by(kind.at_once()) {
                        let blocks = kind.at_once().min(count - block);
                        let (from, whole) = (block * bytes, blocks * bytes / 4);
                        transpose(&rows, from, &mut words[..whole]);
                        if blocks * bytes % 4 != 0 {
                            last_word(&rows, from + 4 * whole, blocks * bytes % 4, &mut words[whole]);
                        }
                        let first = block * (columns / 32);
                        for b in 0..blocks * (columns / 32) {
                            let x = &x.of_block(first + b)[at..at + now];
                            add_columns::<KIND, ONE>(&words, b, w.grid, x, &mut sums);
                        }
                    }
                    write(sums, at, tokens, &mut out[r * tokens..]);
                }
            }
        }
    };
}
pub(crate) use block_kernels;
