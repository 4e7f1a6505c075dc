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

            fn load_bytes(from: &[u8; 32]) -> Words {
                // SAFETY: as above
                unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
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

            fn prefetch(row: &[u8], at: usize) -> () {
                _mm_prefetch::<_MM_HINT_T0>(row.as_ptr().wrapping_add(at).cast());
            }

            fn window(rows: &[&[u8]; LANES], at: usize, out: &mut [[u32; LANES]; 8]) -> () {
                let mut words = [spread(0); LANES];
                for lane in 0..LANES {
                    let bytes = rows[lane][at..].first_chunk();
                    // as many streams as lanes are more than processors foresee
                    prefetch(rows[lane], at + LANES * rows[0].len());
                    words[lane] = load_bytes(bytes.expect("rows are as long as `out` wants"));
                }
                words = square(words);
                for lane in 0..LANES {
                    store_words(words[lane], &mut out[lane]);
                }
            }

            fn transpose(rows: &[&[u8]; LANES], first: usize, out: &mut [[u32; LANES]]) -> () {
                let count = out.len();
                let (whole, rest) = out.as_chunks_mut::<8>();
                for (i, out) in whole.iter_mut().enumerate() {
                    window(rows, first + 32 * i, out);
                }
                if rest.is_empty() {
                    return;
                }
                let done = count - rest.len();
                match out.last_chunk_mut() {
                    // once more what is done, and the rest
                    Some(last) => window(rows, first + 4 * (count - 8), last),
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
    };
    (@ $features:literal $(fn $name:ident ($($argument:ident: $type:ty),*) -> $out:ty $body:block)*) => {$(
        #[target_feature(enable = $features)]
        #[inline]
        fn $name($($argument: $type),*) -> $out $body
    )*};
}
pub(super) use primitives;
