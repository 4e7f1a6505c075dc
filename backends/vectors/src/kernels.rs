//! The loops, over the primitives of whichever module they are put in.

/// Blocks whose words are transposed together: with 8 bits these are 8 KiB, which stay in the nearest cache.
pub(crate) const BLOCKS: usize = 16;

/// Tokens that a row is multiplied with while it is in the nearest caches: their sums are 8 KiB.
pub(crate) const TOKENS: usize = 128;

/// `dot_words` one after the other, over the `dot4` of the module around.
macro_rules! dot_words {
    ($(#[$attribute:meta])*) => {
        /// Adds the products of words of codes, of `BITS` bits, with those of `x`.
        $(#[$attribute])*
        #[inline]
        fn dot_words<const BITS: usize>(sums: Words, codes: &[Words], x: &[u32]) -> Words {
            codes.iter().zip(x).fold(sums, |sums, (codes, x)| dot4::<BITS>(sums, *codes, spread(*x)))
        }
    };
}
pub(crate) use dot_words;

/// One token as many, over the loops of the module around.
macro_rules! one_token_in_tiles {
    ($(#[$attribute:meta])*) => {
        /// `affine` of one token.
        $(#[$attribute])*
        fn one_token<const BITS: usize>(w: &Affine<'_>, first: usize, x: &Activations, out: &mut [f32]) {
            affine_tokens::<BITS, true>(w, first, x, out);
        }
    };
}
pub(crate) use one_token_in_tiles;

/// The loops. Of the module around: `LANES` rows in `Words` and `Floats`, and `transpose`, `fours`, `load`, `load_floats`, `store`,
/// `spread`, `spread_float`, `and`, `or`, `flip`, `left`, `right`, `dot_words`, `as_floats`, `to_floats`, `product`, `sum`,
/// `from_halves` and `fused`; besides, `one_token`, which a macro beside this one makes, and `add_block`, of `add_kernels`.
macro_rules! kernels {
    ($(#[$attribute:meta])*) => {
        use $crate::int8::{Activations, Affine, Block, Number};
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
            let bytes = out.len() * number.bytes();
            for row in rows {
                assert!(row.len() >= bytes, "rows have as many numbers as `out` wants");
            }
            if number == Number::F32 {
                let (whole, rest) = out.as_chunks_mut::<4>();
                for (i, out) in whole.iter_mut().enumerate() {
                    // SAFETY: four numbers of `out`, which rows have
                    let words = unsafe { fours(rows, 16 * i) };
                    for (out, words) in out.iter_mut().zip(words) {
                        store(as_floats(words), out);
                    }
                }
                let words = &mut words[..rest.len()];
                transpose(rows, 16 * whole.len(), words);
                for (out, words) in rest.iter_mut().zip(words) {
                    store(as_floats(load(words)), out);
                }
                return;
            }
            let (eights, rest) = out.as_chunks_mut::<8>();
            for (i, out) in eights.iter_mut().enumerate() {
                // SAFETY: eight numbers of `out`, which rows have
                let words = unsafe { fours(rows, 16 * i) };
                for ([low, high], words) in out.as_chunks_mut().0.iter_mut().zip(words) {
                    halves(number, words, low, high);
                }
            }
            let (pairs, last) = rest.as_chunks_mut::<2>();
            let (at, words) = (16 * eights.len(), &mut words[..pairs.len()]);
            transpose(rows, at, words);
            for ([low, high], words) in pairs.iter_mut().zip(&*words) {
                halves(number, load(words), low, high);
            }
            // a row may end within a word
            for last in last {
                let mut ends = [0; LANES];
                for lane in 0..LANES {
                    ends[lane] = u32::from(rows[lane][at + 4 * pairs.len()]) | u32::from(rows[lane][at + 4 * pairs.len() + 1]) << 8;
                }
                halves(number, load(&ends), last, &mut [0.0; LANES]);
            }
        }

        /// The numbers of 2 bytes in the lower and the upper half of words.
        $(#[$attribute])*
        #[inline]
        fn halves(number: Number, words: Words, low: &mut [f32; LANES], high: &mut [f32; LANES]) {
            if number == Number::F16 {
                store(from_halves(and(words, 0xffff)), low);
                store(from_halves(right(words, 16)), high);
            } else {
                store(as_floats(left(words, 16)), low);
                store(as_floats(and(words, 0xffff_0000)), high);
            }
        }

        /// Sums of all rows, of each token; of `ONE` token in a register.
        struct Sums<'a, const ONE: bool> {
            one: Floats,
            each: &'a mut [[f32; LANES]],
        }

        /// Sums of these tokens, all 0.
        $(#[$attribute])*
        #[inline]
        fn zero_sums<const ONE: bool>(each: &mut [[f32; LANES]]) -> Sums<'_, ONE> {
            each.fill([0.0; LANES]);
            Sums { one: spread_float(0.0), each }
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

        /// The sums of the tokens from `at` on, to `out`, `[row, tokens]`.
        $(#[$attribute])*
        fn write<const ONE: bool>(sums: Sums<'_, ONE>, at: usize, tokens: usize, out: &mut [f32]) {
            if ONE {
                store(sums.one, &mut sums.each[0]);
            }
            for (lane, out) in out.chunks_mut(tokens).take(LANES).enumerate() {
                for (out, sums) in out[at..at + sums.each.len()].iter_mut().zip(&*sums.each) {
                    *out = sums[lane];
                }
            }
        }

        $(#[$attribute])*
        pub(crate) fn affine<const BITS: usize>(w: &Affine<'_>, first: usize, x: &Activations, out: &mut [f32]) {
            match x.tokens() {
                1 => one_token::<BITS>(w, first, x, out),
                _ => affine_tokens::<BITS, false>(w, first, x, out),
            }
        }

        $(#[$attribute])*
        fn affine_tokens<const BITS: usize, const ONE: bool>(
            w: &Affine<'_>,
            first: usize,
            x: &Activations,
            out: &mut [f32],
        ) {
            let (tokens, blocks) = (x.tokens(), w.cols / 32);
            let (count, per_group) = (out.len() / tokens, w.group / 32);
            let groups = w.cols / w.group;
            let mut words = vec![[0; LANES]; groups.max(BLOCKS * BITS)];
            let (mut scales, mut biases) = (vec![[0.0; LANES]; groups], vec![[0.0; LANES]; groups]);
            let mut each = vec![[0.0; LANES]; TOKENS.min(tokens)];
            for at in (0..tokens).step_by(TOKENS) {
                let now = TOKENS.min(tokens - at);
                for r in (0..count).step_by(LANES) {
                    let rows = |stream, bytes| rows_of(stream, bytes, first + r, count - r);
                    numbers(w.number, &rows(w.scales, groups * w.number.bytes()), &mut words, &mut scales);
                    numbers(w.number, &rows(w.biases, groups * w.number.bytes()), &mut words, &mut biases);
                    let codes = rows(w.codes, 4 * BITS * blocks);
                    let mut sums = zero_sums::<ONE>(&mut each[..now]);
                    let (mut group, mut left) = (0, per_group);
                    for chunk in (0..blocks).step_by(BLOCKS) {
                        let words = &mut words[..BLOCKS.min(blocks - chunk) * BITS];
                        transpose(&codes, 4 * chunk * BITS, words);
                        for (b, words) in words.chunks_exact(BITS).enumerate() {
                            let x = &x.of_block(chunk + b)[at..at + now];
                            let (scale, bias) = (load_floats(&scales[group]), load_floats(&biases[group]));
                            add_block::<BITS, ONE>(expand::<BITS>(words), scale, bias, x, &mut sums);
                            left -= 1;
                            if left == 0 {
                                (group, left) = (group + 1, per_group);
                            }
                        }
                    }
                    write(sums, at, tokens, &mut out[r * tokens..]);
                }
            }
        }
    };
}
pub(crate) use kernels;
