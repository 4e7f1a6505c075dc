//! The loops over blocks of GGUF files, over the primitives and loops of whichever module they are put in.

/// The loops. `KIND` is the place in [`BlockKind::ALL`](crate::BlockKind::ALL).
macro_rules! block_kernels {
    ($(#[$attribute:meta])*) => {
        use $crate::blocks::{BlockKind, Blocks};

        /// Words from an even byte on.
        $(#[$attribute])*
        #[inline]
        fn words_at<const N: usize>(words: &[[u32; LANES]], byte: usize) -> [Words; N] {
            let words = &words[byte / 4..];
            let mut out = [spread(0); N];
            for i in 0..N {
                out[i] = match byte % 4 {
                    0 => load(&words[i]),
                    _ => or(right(load(&words[i]), 16), left(load(&words[i + 1]), 16)),
                };
            }
            out
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

        /// Adds 32 columns of signed codes that have become unsigned.
        $(#[$attribute])*
        #[inline]
        fn add_symmetric<const BITS: usize>(codes: [Words; 8], scale: Floats, x: &[Block], sums: &mut [[f32; LANES]]) {
            for (x, sums) in x.iter().zip(sums) {
                let mut products = spread(x.lost[2] as u32);
                for j in 0..8 {
                    products = dot4::<BITS>(products, codes[j], spread(x.words[j]));
                }
                let products = product(to_floats(products), spread_float(x.scale));
                store(fused(products, scale, load_floats(sums)), sums);
            }
        }

        /// The same where the first half has another scale than the last.
        $(#[$attribute])*
        #[inline]
        fn add_halves<const BITS: usize>(codes: [Words; 8], scales: [Floats; 2], x: &[Block], sums: &mut [[f32; LANES]]) {
            for (x, sums) in x.iter().zip(sums) {
                let (mut low, mut high) = (spread(x.lost[0] as u32), spread(x.lost[1] as u32));
                for j in 0..4 {
                    low = dot4::<BITS>(low, codes[j], spread(x.words[j]));
                    high = dot4::<BITS>(high, codes[4 + j], spread(x.words[4 + j]));
                }
                let both = fused(scales[1], to_floats(high), product(scales[0], to_floats(low)));
                store(fused(both, spread_float(x.scale), load_floats(sums)), sums);
            }
        }

        /// Adds 32 columns, number `b` among those whose words these are.
        $(#[$attribute])*
        #[inline]
        fn add_columns<const KIND: usize>(words: &[[u32; LANES]], b: usize, x: &[Block], sums: &mut [[f32; LANES]]) {
            let kind = const { BlockKind::ALL[KIND] };
            let (columns, bytes) = kind.shape();
            let at = b / (columns / 32) * bytes;
            match kind {
                BlockKind::Q4_0 => add_symmetric::<4>(low_and_high(words, at + 2), half_at(words, at), x, sums),
                BlockKind::Q4_1 => {
                    let codes = low_and_high(words, at + 4);
                    add_block::<4>(codes, half_at(words, at), half_at(words, at + 2), x, sums);
                }
                BlockKind::Q5_0 => {
                    let codes = with_fifth_bits(low_and_high(words, at + 6), words, at + 2);
                    add_symmetric::<5>(codes, half_at(words, at), x, sums);
                }
                BlockKind::Q5_1 => {
                    let codes = with_fifth_bits(low_and_high(words, at + 8), words, at + 4);
                    add_block::<5>(codes, half_at(words, at), half_at(words, at + 2), x, sums);
                }
                BlockKind::Q8_0 => {
                    let mut codes: [Words; 8] = words_at(words, at + 2);
                    for code in &mut codes {
                        *code = flip(*code);
                    }
                    add_symmetric::<8>(codes, half_at(words, at), x, sums);
                }
                BlockKind::Q4_K => {
                    let words = &words[at / 4..];
                    let [scale, bias] = scales_of_6_bits(words, b % 8);
                    add_block::<4>(half_of_bytes(words, 16, b % 8), scale, bias, x, sums);
                }
                BlockKind::Q5_K => {
                    let (words, b) = (&words[at / 4..], b % 8);
                    let [scale, bias] = scales_of_6_bits(words, b);
                    let mut codes = half_of_bytes(words, 48, b);
                    let fifth: [Words; 8] = words_at(words, 16);
                    for (code, fifth) in codes.iter_mut().zip(fifth) {
                        *code = or(*code, left(and(right(fifth, b as u32), 0x0101_0101), 4));
                    }
                    add_block::<5>(codes, scale, bias, x, sums);
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
                    add_halves::<6>(codes, [scale(2 * (b % 2)), scale(2 * (b % 2) + 1)], x, sums);
                }
            }
        }

        /// A byte with its sign turned: 128 more than it is as a signed one.
        $(#[$attribute])*
        #[inline]
        fn xor_80(byte: Words) -> Words {
            and(flip(byte), 0xff)
        }

        $(#[$attribute])*
        pub(crate) fn blocks<const KIND: usize>(w: &Blocks<'_>, first: usize, x: &Activations, out: &mut [f32]) {
            let kind = const { BlockKind::ALL[KIND] };
            let (columns, bytes) = kind.shape();
            let (tokens, count) = (x.tokens(), w.cols / columns);
            let rows = out.len() / tokens;
            // the last word of a row may be half of one
            let mut words = vec![[0; LANES]; (kind.at_once() * bytes).div_ceil(4)];
            let mut sums = [[0.0; LANES]; TOKENS];
            for at in (0..tokens).step_by(TOKENS) {
                let now = TOKENS.min(tokens - at);
                for r in (0..rows).step_by(LANES) {
                    let rows = rows_of(w.bytes, w.row_bytes(), first + r, rows - r);
                    let sums = &mut sums[..now];
                    sums.fill([0.0; LANES]);
                    for block in (0..count).step_by(kind.at_once()) {
                        let blocks = kind.at_once().min(count - block);
                        let (from, whole) = (block * bytes, blocks * bytes / 4);
                        transpose(&rows, from, &mut words[..whole]);
                        if blocks * bytes % 4 != 0 {
                            for lane in 0..LANES {
                                let half = &rows[lane][from + 4 * whole..][..2];
                                words[whole][lane] = u32::from(half[0]) | u32::from(half[1]) << 8;
                            }
                        }
                        let first = block * (columns / 32);
                        for b in 0..blocks * (columns / 32) {
                            add_columns::<KIND>(&words, b, &x.of_block(first + b)[at..at + now], sums);
                        }
                    }
                    write(sums, at, tokens, &mut out[r * tokens..]);
                }
            }
        }
    };
}
pub(crate) use block_kernels;
