//! Codes that are looked up, over the primitives and pieces of whichever module they are put in: small floats and IQ4 in tables
//! of 16 bytes, which are registers; vectors of IQ1 to IQ3 in grids, one load for each row. And codes of base 3.

/// Values of 4-bit codes of IQ4, and 128.
pub(crate) const IQ4: [u8; 16] = [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];

/// Twice the numbers of 4 bits (E2M1), and 12.
pub(crate) const FP4: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

/// Magnitudes of IQ2 by their levels, and [`SIGNED_OFFSET`](crate::blocks::SIGNED_OFFSET).
pub(crate) const IQ2: [u8; 16] = [72, 89, 107, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// -1, 0 and 1 and an eighth more, then an eighth less, in eighths, and 9.
pub(crate) const IQ1: [u8; 16] = [2, 10, 18, 0, 0, 8, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// The eighth sign of seven, in the highest bit, by four of them: it makes their number even.
pub(crate) const EVEN: [u8; 16] = {
    let mut signs = [0; 16];
    let mut i = 0;
    while i < 16 {
        signs[i] = ((i.count_ones() % 2) << 7) as u8;
        i += 1;
    }
    signs
};

/// The functions. Of the module around, beside what `kernels` wants: `look_up`, `gather`, `spread_byte`, `mirrored`, `times`,
/// `xor` and `add_words`.
macro_rules! table_kernels {
    ($(#[$attribute:meta])*) => {
        use $crate::blocks::SIGNED_OFFSET;
        use $crate::int8::SmallFloats;
        use $crate::table_kernels::{EVEN, FP4, IQ1, IQ2, IQ4};

        /// Each code, of 4 bits, as its value in a table.
        $(#[$attribute])*
        #[inline]
        fn looked_up(table: &[u8; 16], codes: [Words; 8]) -> [Words; 8] {
            let mut codes = codes;
            for code in &mut codes {
                *code = look_up(table, *code);
            }
            codes
        }

        /// The low halves of 8 bytes, then their high halves, twice.
        $(#[$attribute])*
        #[inline]
        fn low_and_high_of_eight(packed: [Words; 4]) -> [Words; 8] {
            let mut codes = [spread(0); 8];
            for i in 0..4 {
                let at = i / 2 * 4 + i % 2;
                codes[at] = and(packed[i], 0x0f0f_0f0f);
                codes[at + 2] = and(right(packed[i], 4), 0x0f0f_0f0f);
            }
            codes
        }

        /// Half of 2^(exponent - 127). In two factors: the smallest are below what a float's exponent can say.
        $(#[$attribute])*
        #[inline]
        fn half_of_power(exponent: Words) -> Floats {
            let power = |half| as_floats(left(add_words(half, spread(63)), 23));
            product(power(right(exponent, 1)), power(right(add_words(exponent, spread(1)), 1)))
        }

        /// Half of a number of 8 bits (E4M3).
        $(#[$attribute])*
        #[inline]
        fn half_of_scale(byte: Words) -> Floats {
            // as an IEEE half, whose exponents begin 8 lower
            let half = or(left(and(byte, 0x80), 8), left(and(byte, 0x7f), 7));
            product(from_halves(half), spread_float(128.0))
        }

        /// Numbers of 8 bits (E4M3) times the scale of each 16; what would be NaN is 480.
        $(#[$attribute])*
        pub(crate) fn scale_small_floats(numbers: &[u8], scales: &[[f32; 2]], out: &mut [f32]) {
            let groups = numbers.as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<16>().0);
            for ((numbers, out), [scale, _]) in groups.zip(scales) {
                let scale = spread_float(256.0 * scale);
                let out = out.as_chunks_mut::<LANES>().0;
                for (numbers, out) in numbers.as_chunks::<LANES>().0.iter().zip(out) {
                    store(product(from_e4m3(numbers), scale), out);
                }
            }
        }

        /// Codes of 32 columns of TQ1_0, 0 to 2: a byte is a number of base 3, multiplied so that the highest digit is the upper
        /// part of a product with 3. Of 32 bytes the first digits are 32 columns, of 16 bytes 16, of the last four 4.
        $(#[$attribute])*
        #[inline]
        fn ternary(words: &[[u32; LANES]], at: usize, b: usize) -> [Words; 8] {
            const POWERS: [u32; 5] = [1, 3, 9, 27, 81];
            let mut codes = [spread(0); 8];
            for (j, code) in codes.iter_mut().enumerate() {
                let digit = if b < 5 { b } else { 2 * (b - 5) + j / 4 };
                let (byte, digit) = match (b, digit) {
                    (..5, _) => (4 * j, digit),
                    (_, ..5) => (32 + 4 * (j % 4), digit),
                    _ => (48, j % 4),
                };
                let [word]: [Words; 1] = words_at(words, at + byte);
                let digits = |bytes| {
                    let lowest = and(times(bytes, POWERS[digit]), 0x00ff_00ff);
                    and(right(times(lowest, 3), 8), 0x0003_0003)
                };
                let (even, odd) = (digits(and(word, 0x00ff_00ff)), digits(and(right(word, 8), 0x00ff_00ff)));
                *code = or(even, left(odd, 8));
            }
            codes
        }

        /// Four times seven signs, from the lowest bits of a word, as a byte each with the eighth.
        $(#[$attribute])*
        #[inline]
        fn signs_of_28_bits(word: Words) -> Words {
            let low = or(and(word, 0x7f), and(left(word, 1), 0x7f00));
            with_eighth_signs(or(low, or(and(left(word, 2), 0x7f_0000), and(left(word, 3), 0x7f00_0000))))
        }

        /// Adds the eighth sign to seven of each byte.
        $(#[$attribute])*
        #[inline]
        fn with_eighth_signs(signs: Words) -> Words {
            let [low, high] = [and(signs, 0x0f0f_0f0f), and(right(signs, 4), 0x0707_0707)];
            or(signs, xor(look_up(&EVEN, low), look_up(&EVEN, high)))
        }

        /// Codes with signs of their own, of the four columns from `4 * quad` on; a byte of signs is of eight columns.
        $(#[$attribute])*
        #[inline]
        fn signed_four(codes: Words, signs: Words, quad: usize) -> Words {
            let of = if quad % 2 == 0 { 0x0804_0201 } else { 0x8040_2010 };
            // 64 + a becomes 64 - a
            mirrored(codes, spread_byte(signs, quad / 2), of, (2 * SIGNED_OFFSET) as u32 * 0x0101_0101)
        }

        /// Codes of 32 columns of IQ2, from four entries of the grid.
        $(#[$attribute])*
        #[inline]
        fn iq2<const N: usize>(grid: &[u32], entries: [Words; 4], signs: Words) -> [Words; 8] {
            let grid = grid.first_chunk::<N>().expect("`times` has seen to it");
            let mut codes = [spread(0); 8];
            for j in 0..4 {
                let levels = gather(grid, entries[j]);
                let four = |half: u32| look_up(&IQ2, and(right(levels, 4 * half), 0x0f0f_0f0f));
                codes[2 * j] = signed_four(four(0), signs, 2 * j);
                codes[2 * j + 1] = signed_four(four(1), signs, 2 * j + 1);
            }
            codes
        }

        /// The same of IQ3, from eight entries.
        $(#[$attribute])*
        #[inline]
        fn iq3<const N: usize>(grid: &[u32], entries: [Words; 8], signs: Words) -> [Words; 8] {
            let grid = grid.first_chunk::<N>().expect("`times` has seen to it");
            let mut codes = entries;
            for (j, code) in codes.iter_mut().enumerate() {
                *code = signed_four(gather(grid, *code), signs, j);
            }
            codes
        }

        /// Four bytes, each in a word. Bits above it are not of the byte: grids of 256 entries do not look at them.
        $(#[$attribute])*
        #[inline]
        fn each_byte(word: Words) -> [Words; 4] {
            [word, right(word, 8), right(word, 16), right(word, 24)]
        }

        /// `(half + part) * factor`, which scales of a few bits are multiplied with.
        $(#[$attribute])*
        #[inline]
        fn and_a_half(d: Floats, part: Words, factor: f32) -> Floats {
            product(product(d, sum(spread_float(0.5), to_floats(part))), spread_float(factor))
        }

        /// Scales of 4 bits for each 16 columns, and a half more.
        $(#[$attribute])*
        #[inline]
        fn quarters(words: &[[u32; LANES]], at: usize, byte: usize) -> [Floats; 2] {
            let d = half_at(words, at);
            [and_a_half(d, field(words, byte, 0, 15), 0.25), and_a_half(d, field(words, byte, 4, 15), 0.25)]
        }

        $(#[$attribute])*
        #[inline]
        fn iq2_xxs(words: &[[u32; LANES]], at: usize, b: usize, grid: &[u32]) -> ([Words; 8], Floats) {
            let [entries, signs]: [Words; 2] = words_at(words, at + 2 + 8 * b);
            let scale = and_a_half(half_at(words, at), right(signs, 28), 0.25);
            (iq2::<256>(grid, each_byte(entries), signs_of_28_bits(signs)), scale)
        }

        $(#[$attribute])*
        #[inline]
        fn iq2_xs(words: &[[u32; LANES]], at: usize, b: usize, grid: &[u32]) -> ([Words; 8], [Floats; 2]) {
            // 9 bits of an entry, then 7 signs
            let [first, last]: [Words; 2] = words_at(words, at + 2 + 8 * b);
            let entries = [first, right(first, 16), last, right(last, 16)];
            let pair = |word| or(and(right(word, 9), 0x7f), and(right(word, 17), 0x7f00));
            let signs = with_eighth_signs(or(pair(first), left(pair(last), 16)));
            (iq2::<512>(grid, entries, signs), quarters(words, at, at + 66 + b))
        }

        $(#[$attribute])*
        #[inline]
        fn iq2_s(words: &[[u32; LANES]], at: usize, b: usize, grid: &[u32]) -> ([Words; 8], [Floats; 2]) {
            let [low]: [Words; 1] = words_at(words, at + 2 + 4 * b);
            let [signs]: [Words; 1] = words_at(words, at + 34 + 4 * b);
            let mut entries = each_byte(low);
            for (j, entry) in entries.iter_mut().enumerate() {
                *entry = or(and(*entry, 0xff), left(field(words, at + 66 + b, 2 * j as u32, 3), 8));
            }
            (iq2::<1024>(grid, entries, signs), quarters(words, at, at + 74 + b))
        }

        $(#[$attribute])*
        #[inline]
        fn iq3_xxs(words: &[[u32; LANES]], at: usize, b: usize, grid: &[u32]) -> ([Words; 8], Floats) {
            let [first, last]: [Words; 2] = words_at(words, at + 2 + 8 * b);
            let [signs]: [Words; 1] = words_at(words, at + 66 + 4 * b);
            let ([a, b, c, d], [e, f, g, h]) = (each_byte(first), each_byte(last));
            let scale = and_a_half(half_at(words, at), right(signs, 28), 0.5);
            (iq3::<256>(grid, [a, b, c, d, e, f, g, h], signs_of_28_bits(signs)), scale)
        }

        $(#[$attribute])*
        #[inline]
        fn iq3_s(words: &[[u32; LANES]], at: usize, b: usize, grid: &[u32]) -> ([Words; 8], Floats) {
            let [first, last]: [Words; 2] = words_at(words, at + 2 + 8 * b);
            let [signs]: [Words; 1] = words_at(words, at + 74 + 4 * b);
            let ([c, d, e, f], [g, h, i, j]) = (each_byte(first), each_byte(last));
            let mut entries = [c, d, e, f, g, h, i, j];
            for (j, entry) in entries.iter_mut().enumerate() {
                *entry = or(and(*entry, 0xff), left(field(words, at + 66 + b, j as u32, 1), 8));
            }
            let part = to_floats(or(left(field(words, at + 106 + b / 2, 4 * (b % 2) as u32, 15), 1), spread(1)));
            (iq3::<512>(grid, entries, signs), product(half_at(words, at), part))
        }

        /// Codes of eight columns of IQ1, in eighths; `less` is 4 for an eighth less and 0 for one more.
        $(#[$attribute])*
        #[inline]
        fn iq1(grid: &[u32], entry: Words, less: Words) -> [Words; 2] {
            let levels = gather(grid.first_chunk::<2048>().expect("`times` has seen to it"), entry);
            let levels = or(levels, times(less, 0x1111_1111));
            [look_up(&IQ1, and(levels, 0x0f0f_0f0f)), look_up(&IQ1, and(right(levels, 4), 0x0f0f_0f0f))]
        }

        /// `(2 part + 1) / 8` times a scale.
        $(#[$attribute])*
        #[inline]
        fn odd_eighths(d: Floats, part: Words) -> Floats {
            product(product(d, to_floats(or(left(part, 1), spread(1)))), spread_float(0.125))
        }

        $(#[$attribute])*
        #[inline]
        fn iq1_s(words: &[[u32; LANES]], at: usize, b: usize, grid: &[u32]) -> ([Words; 8], Floats) {
            let [low]: [Words; 1] = words_at(words, at + 2 + 4 * b);
            // the upper 3 bits of four entries, 3 bits of the scale, and whether it is an eighth less
            let high = field(words, at + 34 + 2 * b, 0, 0xffff);
            let less = left(right(high, 15), 2);
            let mut codes = [spread(0); 8];
            for (j, low) in each_byte(low).into_iter().enumerate() {
                let entry = or(and(low, 0xff), left(and(right(high, 3 * j as u32), 7), 8));
                [codes[2 * j], codes[2 * j + 1]] = iq1(grid, entry, less);
            }
            (codes, odd_eighths(half_at(words, at), and(right(high, 12), 7)))
        }

        $(#[$attribute])*
        #[inline]
        fn iq1_m(words: &[[u32; LANES]], at: usize, b: usize, grid: &[u32]) -> ([Words; 8], [Floats; 2]) {
            let [low]: [Words; 1] = words_at(words, at + 4 * b);
            // of each entry 3 bits more, and whether it is an eighth less
            let high = field(words, at + 32 + 2 * b, 0, 0xffff);
            let mut codes = [spread(0); 8];
            for (j, low) in each_byte(low).into_iter().enumerate() {
                let high = right(high, 4 * j as u32);
                let entry = or(and(low, 0xff), left(and(high, 7), 8));
                [codes[2 * j], codes[2 * j + 1]] = iq1(grid, entry, and(right(high, 1), 4));
            }
            // the block's scale is the last four bits of each word of scales
            let [first, last]: [Words; 2] = words_at(words, at + 48);
            let low = or(and(right(first, 12), 0xf), and(right(first, 24), 0xf0));
            let d = from_halves(or(low, or(and(right(last, 4), 0xf00), and(right(last, 16), 0xf000))));
            let word = if b < 4 { first } else { last };
            let scale = |i: usize| odd_eighths(d, and(right(word, (16 * (i / 4 % 2) + 3 * (i % 4)) as u32), 7));
            (codes, [scale(2 * b), scale(2 * b + 1)])
        }

        /// Scales of `COLUMNS` columns of a row's numbers, `[scale, row]`, halved. `words` is scratch.
        $(#[$attribute])*
        fn halved_scales<const COLUMNS: usize>(
            rows: &[&[u8]; LANES],
            of_rows: Floats,
            words: &mut [[u32; LANES]],
            out: &mut [[f32; LANES]],
        ) {
            let whole = out.len() / 4;
            transpose(rows, 0, &mut words[..whole]);
            if out.len() % 4 != 0 {
                last_word(rows, 4 * whole, out.len() % 4, &mut words[whole]);
            }
            for (i, out) in out.iter_mut().enumerate() {
                let scale = match COLUMNS {
                    16 => half_of_scale(field(words, i, 0, 0xff)),
                    _ => half_of_power(field(words, i, 0, 0xff)),
                };
                store(product(scale, of_rows), out);
            }
        }

        $(#[$attribute])*
        pub(crate) fn small_floats<const COLUMNS: usize>(
            w: &SmallFloats<'_>,
            first: usize,
            x: &Activations,
            out: &mut [f32],
        ) {
            match x.tokens() {
                1 => small_floats_tokens::<COLUMNS, true>(w, first, x, out),
                _ => small_floats_tokens::<COLUMNS, false>(w, first, x, out),
            }
        }

        $(#[$attribute])*
        fn small_floats_tokens<const COLUMNS: usize, const ONE: bool>(
            w: &SmallFloats<'_>,
            first: usize,
            x: &Activations,
            out: &mut [f32],
        ) {
            let (tokens, blocks, of_block) = (x.tokens(), w.cols / 32, 32 / COLUMNS);
            let count = out.len() / tokens;
            let mut words = vec![[0; LANES]; (4 * BLOCKS).max((blocks * of_block).div_ceil(4))];
            let mut scales = vec![[0.0; LANES]; blocks * of_block];
            let mut each = vec![[0.0; LANES]; TOKENS.min(tokens)];
            for at in (0..tokens).step_by(TOKENS) {
                let now = TOKENS.min(tokens - at);
                for r in (0..count).step_by(LANES) {
                    let rows = |stream, bytes| rows_of(stream, bytes, first + r, count - r);
                    let mut of_rows = [[1.0; LANES]];
                    if !w.row_scales.is_empty() {
                        numbers(Number::F32, &rows(w.row_scales, 4), &mut words, &mut of_rows);
                    }
                    let of_rows = load_floats(&of_rows[0]);
                    halved_scales::<COLUMNS>(&rows(w.scales, blocks * of_block), of_rows, &mut words, &mut scales);
                    let codes = rows(w.numbers, 16 * blocks);
                    let mut sums = zero_sums::<ONE>(&mut each[..now]);
                    for chunk in (0..blocks).step_by(BLOCKS) {
                        let words = &mut words[..4 * BLOCKS.min(blocks - chunk)];
                        transpose(&codes, 16 * chunk, words);
                        for (b, words) in words.as_chunks::<4>().0.iter().enumerate() {
                            let x = &x.of_block(chunk + b)[at..at + now];
                            let codes = looked_up(&FP4, low_and_high_of_eight(words_of(words)));
                            match &scales[(chunk + b) * of_block..] {
                                [low, high, ..] if COLUMNS == 16 => {
                                    add_halves::<5, ONE>(codes, [load_floats(low), load_floats(high)], x, &mut sums);
                                }
                                scales => add_symmetric::<5, ONE>(codes, load_floats(&scales[0]), x, &mut sums),
                            }
                        }
                    }
                    write(sums, at, tokens, &mut out[r * tokens..]);
                }
            }
        }
    };
}
pub(crate) use table_kernels;
