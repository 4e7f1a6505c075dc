//! The loops, over the primitives of whichever module they are put in.

/// Blocks whose words are transposed together: with 8 bits these are 8 KiB, which stay in the nearest cache.
pub(crate) const BLOCKS: usize = 16;

/// Tokens that a row is multiplied with while it is in the nearest caches: their sums are 8 KiB.
pub(crate) const TOKENS: usize = 128;

/// The loops. Of the module around: `LANES` rows in `Words` and `Floats`, and `transpose`, `load`, `load_floats`, `store`,
/// `spread`, `spread_float`, `and`, `or`, `flip`, `left`, `right`, `dot4`, `as_floats`, `to_floats`, `product`, `sum` and
/// `fused`.
macro_rules! kernels {
    ($(#[$attribute:meta])*) => {
        use $crate::int8::{Activations, Affine, Block, Number, Signed};
        use $crate::kernels::{BLOCKS, TOKENS};

        /// Byte `i` of `4 N` bytes in words, as byte `to`.
        $(#[$attribute])*
        #[inline]
        fn byte<const N: usize>(words: &[Words; N], i: usize, to: usize) -> Words {
            let (word, from) = (words[i / 4], i % 4);
            let moved = if to >= from {
                left(word, 8 * (to - from) as u32)
            } else {
                right(word, 8 * (from - to) as u32)
            };
            and(moved, 0xff << (8 * to))
        }

        /// Bytes `first`, `first + apart`, ... as the four bytes of a word.
        $(#[$attribute])*
        #[inline]
        fn bytes<const N: usize>(words: &[Words; N], first: usize, apart: usize) -> Words {
            let low = or(byte(words, first, 0), byte(words, first + apart, 1));
            or(low, or(byte(words, first + 2 * apart, 2), byte(words, first + 3 * apart, 3)))
        }

        $(#[$attribute])*
        #[inline]
        fn words_of<const N: usize>(words: &[[u32; LANES]]) -> [Words; N] {
            let mut out = [spread(0); N];
            for (out, words) in out.iter_mut().zip(words) {
                *out = load(words);
            }
            out
        }

        /// The codes of a block, four of each row in a word, in the order that activations for so many bits have.
        $(#[$attribute])*
        #[inline]
        fn expand<const BITS: usize>(packed: &[[u32; LANES]]) -> [Words; 8] {
            let mut codes = [spread(0); 8];
            match BITS {
                2 => {
                    let p: [Words; 2] = words_of(packed);
                    for j in 0..8 {
                        codes[j] = and(right(p[j % 2], 2 * (j / 2) as u32), 0x0303_0303);
                    }
                }
                3 => {
                    let p: [Words; 3] = words_of(packed);
                    // the first, second and third byte of each 8 columns
                    let [a, b, c] = [bytes(&p, 0, 3), bytes(&p, 1, 3), bytes(&p, 2, 3)];
                    codes[0] = and(a, 0x0707_0707);
                    codes[1] = and(right(a, 3), 0x0707_0707);
                    codes[2] = or(and(right(a, 6), 0x0303_0303), and(left(b, 2), 0x0404_0404));
                    codes[3] = and(right(b, 1), 0x0707_0707);
                    codes[4] = and(right(b, 4), 0x0707_0707);
                    codes[5] = or(and(right(b, 7), 0x0101_0101), and(left(c, 1), 0x0606_0606));
                    codes[6] = and(right(c, 2), 0x0707_0707);
                    codes[7] = and(right(c, 5), 0x0707_0707);
                }
                4 => {
                    let p: [Words; 4] = words_of(packed);
                    for j in 0..4 {
                        codes[j] = and(p[j], 0x0f0f_0f0f);
                        codes[4 + j] = and(right(p[j], 4), 0x0f0f_0f0f);
                    }
                }
                5 => {
                    let p: [Words; 5] = words_of(packed);
                    let [a, b, c, d, e] =
                        [bytes(&p, 0, 5), bytes(&p, 1, 5), bytes(&p, 2, 5), bytes(&p, 3, 5), bytes(&p, 4, 5)];
                    codes[0] = and(a, 0x1f1f_1f1f);
                    codes[1] = or(and(right(a, 5), 0x0707_0707), and(left(b, 3), 0x1818_1818));
                    codes[2] = and(right(b, 2), 0x1f1f_1f1f);
                    codes[3] = or(and(right(b, 7), 0x0101_0101), and(left(c, 1), 0x1e1e_1e1e));
                    codes[4] = or(and(right(c, 4), 0x0f0f_0f0f), and(left(d, 4), 0x1010_1010));
                    codes[5] = and(right(d, 1), 0x1f1f_1f1f);
                    codes[6] = or(and(right(d, 6), 0x0303_0303), and(left(e, 2), 0x1c1c_1c1c));
                    codes[7] = and(right(e, 3), 0x1f1f_1f1f);
                }
                6 => {
                    let p: [Words; 6] = words_of(packed);
                    for half in 0..2 {
                        // the first, second and third byte of each 4 columns
                        let first = 12 * half;
                        let [a, b, c] = [bytes(&p, first, 3), bytes(&p, first + 1, 3), bytes(&p, first + 2, 3)];
                        codes[half] = and(a, 0x3f3f_3f3f);
                        codes[2 + half] = or(and(right(a, 6), 0x0303_0303), and(left(b, 2), 0x3c3c_3c3c));
                        codes[4 + half] = or(and(right(b, 4), 0x0f0f_0f0f), and(left(c, 4), 0x3030_3030));
                        codes[6 + half] = and(right(c, 2), 0x3f3f_3f3f);
                    }
                }
                _ => codes = words_of(packed),
            }
            codes
        }

        /// The numbers of rows, `[index, row]`. `words` is scratch.
        $(#[$attribute])*
        fn numbers(number: Number, rows: &[&[u8]; LANES], words: &mut [[u32; LANES]], out: &mut [[f32; LANES]]) {
            match number {
                Number::F32 => {
                    let count = out.len();
                    transpose(rows, 0, &mut words[..count]);
                    for (out, words) in out.iter_mut().zip(words) {
                        store(as_floats(load(words)), out);
                    }
                }
                Number::Bf16 | Number::F16 => {
                    let pairs = out.len() / 2;
                    transpose(rows, 0, &mut words[..pairs]);
                    let (whole, last) = out.as_chunks_mut::<2>();
                    for ([low, high], words) in whole.iter_mut().zip(&*words) {
                        halves(number, load(words), low, high);
                    }
                    // a row may end within a word
                    for last in last {
                        let mut ends = [0; LANES];
                        for lane in 0..LANES {
                            ends[lane] = u32::from(rows[lane][4 * pairs]) | u32::from(rows[lane][4 * pairs + 1]) << 8;
                        }
                        halves(number, load(&ends), last, &mut [0.0; LANES]);
                    }
                }
            }
        }

        /// The numbers of 2 bytes in the lower and the upper half of words.
        $(#[$attribute])*
        #[inline]
        fn halves(number: Number, words: Words, low: &mut [f32; LANES], high: &mut [f32; LANES]) {
            store(as_floats(left(words, 16)), low);
            store(as_floats(and(words, 0xffff_0000)), high);
            if number == Number::F16 {
                for lane in 0..LANES {
                    low[lane] = $crate::portable::f16(low[lane].to_bits() >> 16);
                    high[lane] = $crate::portable::f16(high[lane].to_bits() >> 16);
                }
            }
        }

        /// Adds a block of all rows to the sums of each token.
        $(#[$attribute])*
        #[inline]
        fn add_block<const BITS: usize>(
            codes: [Words; 8],
            scale: Floats,
            bias: Floats,
            x: &[Block],
            sums: &mut [[f32; LANES]],
        ) {
            for (x, sums) in x.iter().zip(sums) {
                let mut products = spread(0);
                for j in 0..8 {
                    products = dot4::<BITS>(products, codes[j], spread(x.words[j]));
                }
                let products = product(to_floats(products), spread_float(x.scale));
                let sum = fused(products, scale, load_floats(sums));
                store(fused(bias, spread_float(x.sum), sum), sums);
            }
        }

        /// The rows that lanes are for: beyond the last one the last again.
        $(#[$attribute])*
        #[inline]
        fn rows_of(stream: &[u8], bytes: usize, first: usize, count: usize) -> [&[u8]; LANES] {
            let mut rows = [stream; LANES];
            for (lane, row) in rows.iter_mut().enumerate() {
                *row = &stream[(first + lane.min(count - 1)) * bytes..][..bytes];
            }
            rows
        }

        /// Sums of `[token, lane]` for the tokens from `at` on, to `out`, `[row, tokens]`.
        $(#[$attribute])*
        fn write(sums: &[[f32; LANES]], at: usize, tokens: usize, out: &mut [f32]) {
            for (lane, out) in out.chunks_mut(tokens).take(LANES).enumerate() {
                for (out, sums) in out[at..at + sums.len()].iter_mut().zip(sums) {
                    *out = sums[lane];
                }
            }
        }

        $(#[$attribute])*
        pub(crate) fn affine<const BITS: usize>(w: &Affine<'_>, first: usize, x: &Activations, out: &mut [f32]) {
            let (tokens, blocks) = (x.tokens(), w.cols / 32);
            let (count, per_group) = (out.len() / tokens, w.group / 32);
            let groups = w.cols / w.group;
            let mut words = vec![[0; LANES]; groups.max(BLOCKS * BITS)];
            let (mut scales, mut biases) = (vec![[0.0; LANES]; groups], vec![[0.0; LANES]; groups]);
            let mut sums = [[0.0; LANES]; TOKENS];
            for at in (0..tokens).step_by(TOKENS) {
                let now = TOKENS.min(tokens - at);
                for r in (0..count).step_by(LANES) {
                    let rows = |stream, bytes| rows_of(stream, bytes, first + r, count - r);
                    numbers(w.number, &rows(w.scales, groups * w.number.bytes()), &mut words, &mut scales);
                    numbers(w.number, &rows(w.biases, groups * w.number.bytes()), &mut words, &mut biases);
                    let codes = rows(w.codes, 4 * BITS * blocks);
                    let sums = &mut sums[..now];
                    sums.fill([0.0; LANES]);
                    for chunk in (0..blocks).step_by(BLOCKS) {
                        let words = &mut words[..BLOCKS.min(blocks - chunk) * BITS];
                        transpose(&codes, 4 * chunk * BITS, words);
                        for (b, words) in words.chunks_exact(BITS).enumerate() {
                            let group = (chunk + b) / per_group;
                            let x = &x.of_block(chunk + b)[at..at + now];
                            let (scale, bias) = (load_floats(&scales[group]), load_floats(&biases[group]));
                            add_block::<BITS>(expand::<BITS>(words), scale, bias, x, sums);
                        }
                    }
                    write(sums, at, tokens, &mut out[r * tokens..]);
                }
            }
        }

        /// Adds a block of signed codes, of which the first half has other scales than the last.
        $(#[$attribute])*
        #[inline]
        fn add_signed(
            codes: [Words; 8],
            scales: [Floats; 2],
            biases: [Floats; 2],
            x: &[Block],
            sums: &mut [[f32; LANES]],
        ) {
            for (x, sums) in x.iter().zip(sums) {
                let mut halves = [spread_float(0.0); 2];
                for (half, out) in halves.iter_mut().enumerate() {
                    let mut products = spread(x.lost[half] as u32);
                    for j in 4 * half..4 * half + 4 {
                        products = dot4::<8>(products, codes[j], spread(x.words[j]));
                    }
                    let bias = product(biases[half], spread_float(x.halves[half]));
                    *out = fused(scales[half], to_floats(products), bias);
                }
                let both = sum(halves[0], halves[1]);
                store(fused(both, spread_float(x.scale), load_floats(sums)), sums);
            }
        }

        $(#[$attribute])*
        pub(crate) fn signed(w: &Signed<'_>, x: &Activations, out: &mut [f32]) {
            let (tokens, blocks) = (x.tokens(), w.cols / 32);
            let (count, groups) = (out.len() / tokens, bytemuck::cast_slice(w.groups));
            let mut words = [[0; LANES]; BLOCKS * 8];
            // scale and bias of the first half, then of the last
            let mut scales = vec![[0; LANES]; 4 * blocks];
            let mut sums = [[0.0; LANES]; TOKENS];
            for r in (0..count).step_by(LANES) {
                transpose(&rows_of(groups, 16 * blocks, r, count - r), 0, &mut scales);
                let codes = rows_of(w.codes, w.cols, r, count - r);
                for at in (0..tokens).step_by(TOKENS) {
                    let now = TOKENS.min(tokens - at);
                    let sums = &mut sums[..now];
                    sums.fill([0.0; LANES]);
                    for chunk in (0..blocks).step_by(BLOCKS) {
                        let words = &mut words[..8 * BLOCKS.min(blocks - chunk)];
                        transpose(&codes, 32 * chunk, words);
                        for (b, words) in words.as_chunks::<8>().0.iter().enumerate() {
                            let s = &scales[4 * (chunk + b)..][..4];
                            let [scale, bias, last_scale, last_bias] = [0, 1, 2, 3].map(|i| as_floats(load(&s[i])));
                            let mut codes: [Words; 8] = words_of(words);
                            for code in &mut codes {
                                *code = flip(*code);
                            }
                            let x = &x.of_block(chunk + b)[at..at + now];
                            add_signed(codes, [scale, last_scale], [bias, last_bias], x, sums);
                        }
                    }
                    write(sums, at, tokens, &mut out[r * tokens..]);
                }
            }
        }
    };
}
pub(crate) use kernels;
