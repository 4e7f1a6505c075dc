//! What AVX2 has with and without VNNI: 8 rows.

/// The primitives of 8 rows, compiled for `$features`; `dot4` is the module's own.
macro_rules! primitives {
    ($features:literal) => {
        const LANES: usize = 8;
        const TILE: [usize; 2] = [2, 1];

        type Words = __m256i;
        type Floats = __m256;

        $crate::x86::ymm::primitives! { @ $features
            fn load(from: &[u32; LANES]) -> Words {
                // SAFETY: 32 bytes that are borrowed; any alignment will do
                unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
            }

            fn load_floats(from: &[f32; LANES]) -> Floats {
                // SAFETY: as above
                unsafe { _mm256_loadu_ps(from.as_ptr()) }
            }

            fn store(values: Floats, to: &mut [f32; LANES]) -> () {
                // SAFETY: as above, borrowed for writing
                unsafe { _mm256_storeu_ps(to.as_mut_ptr(), values) }
            }

            fn store_words(values: Words, to: &mut [u32; LANES]) -> () {
                // SAFETY: as above
                unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), values) }
            }

            fn spread(word: u32) -> Words {
                _mm256_set1_epi32(word as i32)
            }

            fn spread_float(number: f32) -> Floats {
                _mm256_set1_ps(number)
            }

            fn and(a: Words, mask: u32) -> Words {
                _mm256_and_si256(a, spread(mask))
            }

            fn or(a: Words, b: Words) -> Words {
                _mm256_or_si256(a, b)
            }

            fn flip(a: Words) -> Words {
                _mm256_xor_si256(a, spread(0x8080_8080))
            }

            fn left(a: Words, bits: u32) -> Words {
                _mm256_sllv_epi32(a, spread(bits))
            }

            fn right(a: Words, bits: u32) -> Words {
                _mm256_srlv_epi32(a, spread(bits))
            }

            fn as_floats(a: Words) -> Floats {
                _mm256_castsi256_ps(a)
            }

            fn to_floats(a: Words) -> Floats {
                _mm256_cvtepi32_ps(a)
            }

            fn product(a: Floats, b: Floats) -> Floats {
                _mm256_mul_ps(a, b)
            }

            fn sum(a: Floats, b: Floats) -> Floats {
                _mm256_add_ps(a, b)
            }

            fn fused(a: Floats, b: Floats, c: Floats) -> Floats {
                _mm256_fmadd_ps(a, b, c)
            }

            fn from_halves(a: Words) -> Floats {
                // no more than 16 bits: no number is cut
                let packed = _mm256_packus_epi32(a, a);
                _mm256_cvtph_ps(_mm256_castsi256_si128(_mm256_permute4x64_epi64::<0x08>(packed)))
            }

            fn widen(bytes: &[u8; LANES]) -> Words {
                // SAFETY: as above
                _mm256_cvtepu8_epi32(unsafe { _mm_loadl_epi64(bytes.as_ptr().cast()) })
            }

            fn from_e4m3(bytes: &[u8; LANES]) -> Floats {
                // SAFETY: as above
                let bytes = _mm_cvtepi8_epi16(unsafe { _mm_loadl_epi64(bytes.as_ptr().cast()) });
                // the sign and, without its copy, what is below
                _mm256_cvtph_ps(_mm_and_si128(_mm_slli_epi16::<7>(bytes), _mm_set1_epi16(0xbf80u16 as i16)))
            }

            fn as_words(a: Floats) -> Words {
                _mm256_castps_si256(a)
            }

            fn add_words(a: Words, b: Words) -> Words {
                _mm256_add_epi32(a, b)
            }

            fn difference(a: Floats, b: Floats) -> Floats {
                _mm256_sub_ps(a, b)
            }

            fn quotient(a: Floats, b: Floats) -> Floats {
                _mm256_div_ps(a, b)
            }

            fn times(a: Words, b: u32) -> Words {
                _mm256_mullo_epi32(a, spread(b))
            }

            fn xor(a: Words, b: Words) -> Words {
                _mm256_xor_si256(a, b)
            }

            fn look_up(table: &[u8; 16], at: Words) -> Words {
                // SAFETY: 16 bytes that are borrowed; any alignment will do
                let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
                _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), at)
            }

            fn gather<const N: usize>(table: &[u32; N], at: Words) -> Words {
                const { assert!(N.is_power_of_two()) };
                // SAFETY: every index is below N, the number of entries
                unsafe { _mm256_i32gather_epi32::<4>(table.as_ptr().cast(), and(at, N as u32 - 1)) }
            }

            fn spread_byte(a: Words, i: usize) -> Words {
                let byte = |word: i32| (4 * word + i as i32) * 0x0101_0101;
                let bytes = _mm_set_epi32(byte(3), byte(2), byte(1), byte(0));
                _mm256_shuffle_epi8(a, _mm256_broadcastsi128_si256(bytes))
            }

            fn mirrored(a: Words, signs: Words, of: u32, sum: u32) -> Words {
                let is_set = _mm256_cmpeq_epi8(_mm256_and_si256(signs, spread(of)), spread(of));
                _mm256_blendv_epi8(a, _mm256_sub_epi8(spread(sum), a), is_set)
            }

            fn larger(a: Floats, b: Floats) -> Floats {
                _mm256_max_ps(a, b)
            }

            fn smaller(a: Floats, b: Floats) -> Floats {
                _mm256_min_ps(a, b)
            }

            fn square(rows: [Words; LANES]) -> [Words; LANES] {
                let mut out = rows;
                let mut fours = rows;
                for i in 0..2 {
                    let r = &rows[4 * i..];
                    let [a, b] = [_mm256_unpacklo_epi32(r[0], r[1]), _mm256_unpackhi_epi32(r[0], r[1])];
                    let [c, d] = [_mm256_unpacklo_epi32(r[2], r[3]), _mm256_unpackhi_epi32(r[2], r[3])];
                    fours[4 * i] = _mm256_unpacklo_epi64(a, c);
                    fours[4 * i + 1] = _mm256_unpackhi_epi64(a, c);
                    fours[4 * i + 2] = _mm256_unpacklo_epi64(b, d);
                    fours[4 * i + 3] = _mm256_unpackhi_epi64(b, d);
                }
                for c in 0..4 {
                    out[c] = _mm256_permute2x128_si256::<0x20>(fours[c], fours[4 + c]);
                    out[4 + c] = _mm256_permute2x128_si256::<0x31>(fours[c], fours[4 + c]);
                }
                out
            }

            fn load_bytes(from: &[u8; 4 * LANES]) -> Words {
                // SAFETY: 32 bytes that are borrowed; any alignment will do
                unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
            }

            fn add_pairs(a: Words, b: Words) -> Words {
                _mm256_hadd_epi32(a, b)
            }

            fn join_quarters(a: Words, b: Words) -> Words {
                _mm256_add_epi32(_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b))
            }

            fn three_bits(from: &[u8; 3 * LANES]) -> [Words; 2] {
                let [low, high]: [&[u8; 16]; 2] = [&from[..16], &from[8..]].map(|half| half.try_into().expect("24 bytes"));
                // SAFETY: each 16 bytes that are borrowed; any alignment will do
                let words = unsafe { _mm256_loadu2_m128i(high.as_ptr().cast(), low.as_ptr().cast()) };
                // the first, second and third byte of each 8 columns, of two blocks: the last begins at byte 4 of its half
                let [a, b, c] = [0x0906_0300, 0x0a07_0401, 0x0b08_0502];
                let each = |d3, d2, d1, d0| _mm256_set_epi32(d3, d2, d1, d0, d3, d2, d1, d0);
                let begin = _mm256_set_epi64x(0x0404_0404_0404_0404, 0x0404_0404_0404_0404, 0, 0);
                let select = |d3, d2, d1, d0| {
                    _mm256_shuffle_epi8(words, _mm256_add_epi8(each(d3, d2, d1, d0), begin))
                };
                let first = _mm256_srlv_epi32(select(b, a, a, a), each(1, 6, 3, 0));
                let last = _mm256_srlv_epi32(select(c, c, b, b), each(5, 2, 7, 4));
                // of columns whose bits are of two bytes those of the second
                let second = _mm256_sllv_epi32(select(a, b, c, a), each(0, 2, 1, 0));
                let first = _mm256_and_si256(first, each(0x0707_0707, 0x0303_0303, 0x0707_0707, 0x0707_0707));
                let last = _mm256_and_si256(last, each(0x0707_0707, 0x0707_0707, 0x0101_0101, 0x0707_0707));
                [
                    _mm256_or_si256(first, _mm256_and_si256(second, each(0, 0x0404_0404, 0, 0))),
                    _mm256_or_si256(last, _mm256_and_si256(second, each(0, 0, 0x0606_0606, 0))),
                ]
            }

            fn prefetch(row: &[u8], at: usize) -> () {
                _mm_prefetch::<_MM_HINT_T0>(row.as_ptr().wrapping_add(at).cast());
            }

            fn transpose(rows: &[&[u8]; LANES], first: usize, out: &mut [[u32; LANES]]) -> () {
                let count = out.len();
                let end = first + 4 * count;
                assert!(rows.iter().all(|row| row.len() >= end), "rows are as long as `out` wants");
                let (whole, rest) = out.as_chunks_mut::<8>();
                for (i, out) in whole.iter_mut().enumerate() {
                    // SAFETY: a window of `out`, whose rows end at `end` or later
                    unsafe { window(rows, first + 32 * i, out) };
                }
                if rest.is_empty() {
                    return;
                }
                let done = count - rest.len();
                match out.last_chunk_mut() {
                    // once more what is done, and the rest
                    // SAFETY: as above
                    Some(last) => unsafe { window(rows, end - 32, last) },
                    None => {
                        for (i, out) in out[done..].iter_mut().enumerate() {
                            for (word, row) in out.iter_mut().zip(rows) {
                                *word = u32::from_le_bytes(*row[first + 4 * (done + i)..].first_chunk().expect("as above"));
                            }
                        }
                    }
                }
            }
        }

        /// Four words of rows, from byte `at` of each on.
        ///
        /// # Safety
        /// Every row has 16 bytes from there on.
        #[target_feature(enable = $features)]
        #[inline]
        unsafe fn fours(rows: &[&[u8]; LANES], at: usize) -> [Words; 4] {
            // half h of `of_rows(from)` is of row `4 h + from`
            let of_rows = |from: usize| {
                let bytes = |row: usize| rows[row].as_ptr().wrapping_add(at).cast();
                // SAFETY: the rows have these bytes; any alignment will do
                unsafe { _mm256_loadu2_m128i(bytes(4 + from), bytes(from)) }
            };
            let [a, b, c, d] = [of_rows(0), of_rows(1), of_rows(2), of_rows(3)];
            let [low, later_low] = [_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d)];
            let [high, later_high] = [_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d)];
            [
                _mm256_unpacklo_epi64(low, later_low),
                _mm256_unpackhi_epi64(low, later_low),
                _mm256_unpacklo_epi64(high, later_high),
                _mm256_unpackhi_epi64(high, later_high),
            ]
        }

        /// Words of rows from byte `at` of each on: `[word, row]`.
        ///
        /// # Safety
        /// Every row has 32 bytes from there on.
        #[target_feature(enable = $features)]
        #[inline]
        unsafe fn window(rows: &[&[u8]; LANES], at: usize, out: &mut [[u32; LANES]; 8]) {
            // as many streams as lanes are more than processors foresee, a stream in the order of memory is not: the
            // bytes of two tiles of rows later
            let later = LANES * (2 * rows[0].len() + at);
            for line in 0..LANES / 2 {
                prefetch(rows[0], later + 64 * line);
            }
            let mut words = [spread(0); LANES];
            for lane in 0..LANES {
                // SAFETY: the row has these bytes; any alignment will do
                words[lane] = unsafe { _mm256_loadu_si256(rows[lane].as_ptr().add(at).cast()) };
            }
            words = square(words);
            for lane in 0..LANES {
                store_words(words[lane], &mut out[lane]);
            }
        }
    };
    (@ $features:literal $(fn $name:ident $(<const $generic:ident: usize>)? ($($argument:ident: $type:ty),*) -> $out:ty $body:block)*) => {$(
        #[target_feature(enable = $features)]
        #[inline]
        fn $name $(<const $generic: usize>)? ($($argument: $type),*) -> $out $body
    )*};
}
pub(super) use primitives;
