//! What NEON has with and without products of bytes: 4 rows.

/// The primitives of 4 rows, compiled for `$features`; `dot_words` is the module's own.
macro_rules! primitives {
    ($features:literal) => {
        const LANES: usize = 4;
        const TILE: [usize; 2] = [1, 2];

        type Words = uint32x4_t;
        type Floats = float32x4_t;

        $crate::arm::lanes::primitives! { @ $features
            fn load(from: &[u32; LANES]) -> Words {
                // SAFETY: 16 bytes that are borrowed; any alignment will do
                unsafe { vld1q_u32(from.as_ptr()) }
            }

            fn load_floats(from: &[f32; LANES]) -> Floats {
                // SAFETY: as above
                unsafe { vld1q_f32(from.as_ptr()) }
            }

            fn store(values: Floats, to: &mut [f32; LANES]) -> () {
                // SAFETY: as above, borrowed for writing
                unsafe { vst1q_f32(to.as_mut_ptr(), values) }
            }

            fn store_words(values: Words, to: &mut [u32; LANES]) -> () {
                // SAFETY: as above
                unsafe { vst1q_u32(to.as_mut_ptr(), values) }
            }

            fn load_bytes(from: &[u8; 16]) -> Words {
                // SAFETY: as above
                vreinterpretq_u32_u8(unsafe { vld1q_u8(from.as_ptr()) })
            }

            fn spread(word: u32) -> Words {
                vdupq_n_u32(word)
            }

            fn spread_float(number: f32) -> Floats {
                vdupq_n_f32(number)
            }

            fn and(a: Words, mask: u32) -> Words {
                vandq_u32(a, spread(mask))
            }

            fn or(a: Words, b: Words) -> Words {
                vorrq_u32(a, b)
            }

            fn flip(a: Words) -> Words {
                veorq_u32(a, spread(0x8080_8080))
            }

            fn left(a: Words, bits: u32) -> Words {
                vshlq_u32(a, vdupq_n_s32(bits as i32))
            }

            fn right(a: Words, bits: u32) -> Words {
                vshlq_u32(a, vdupq_n_s32(-(bits as i32)))
            }

            fn from_halves(a: Words) -> Floats {
                // as `portable::f16`
                let (sign, rest) = (left(and(a, 0x8000), 16), left(and(a, 0x7fff), 13));
                let number = as_words(product(as_floats(rest), as_floats(spread((127 + 127 - 15) << 23))));
                let is_special = vcgeq_u32(rest, spread(0x7c00 << 13));
                as_floats(or(or(sign, number), and(is_special, 0x7f80_0000)))
            }

            fn widen(bytes: &[u8; LANES]) -> Words {
                let bytes = vreinterpret_u8_u32(vdup_n_u32(u32::from_le_bytes(*bytes)));
                vmovl_u16(vget_low_u16(vmovl_u8(bytes)))
            }

            fn from_e4m3(bytes: &[u8; LANES]) -> Floats {
                let bytes = widen(bytes);
                from_halves(or(left(and(bytes, 0x7f), 7), left(and(bytes, 0x80), 8)))
            }

            fn as_words(a: Floats) -> Words {
                vreinterpretq_u32_f32(a)
            }

            fn as_floats(a: Words) -> Floats {
                vreinterpretq_f32_u32(a)
            }

            fn to_floats(a: Words) -> Floats {
                vcvtq_f32_s32(vreinterpretq_s32_u32(a))
            }

            fn add_words(a: Words, b: Words) -> Words {
                vaddq_u32(a, b)
            }

            fn product(a: Floats, b: Floats) -> Floats {
                vmulq_f32(a, b)
            }

            fn sum(a: Floats, b: Floats) -> Floats {
                vaddq_f32(a, b)
            }

            fn difference(a: Floats, b: Floats) -> Floats {
                vsubq_f32(a, b)
            }

            fn quotient(a: Floats, b: Floats) -> Floats {
                vdivq_f32(a, b)
            }

            fn times(a: Words, b: u32) -> Words {
                vmulq_n_u32(a, b)
            }

            fn xor(a: Words, b: Words) -> Words {
                veorq_u32(a, b)
            }

            fn look_up(table: &[u8; 16], at: Words) -> Words {
                // SAFETY: as above
                let table = unsafe { vld1q_u8(table.as_ptr()) };
                vreinterpretq_u32_u8(vqtbl1q_u8(table, vreinterpretq_u8_u32(at)))
            }

            fn gather<const N: usize>(table: &[u32; N], at: Words) -> Words {
                const { assert!(N.is_power_of_two()) };
                let mut places = [0; LANES];
                store_words(at, &mut places);
                load(&places.map(|at| table[at as usize % N]))
            }

            fn spread_byte(a: Words, i: usize) -> Words {
                let bytes = load(&[0, 1, 2, 3].map(|word| (4 * word + i as u32) * 0x0101_0101));
                vreinterpretq_u32_u8(vqtbl1q_u8(vreinterpretq_u8_u32(a), vreinterpretq_u8_u32(bytes)))
            }

            fn mirrored(a: Words, signs: Words, of: u32, sum: u32) -> Words {
                let bytes = |words| vreinterpretq_u8_u32(words);
                let is_set = vtstq_u8(bytes(signs), bytes(spread(of)));
                vreinterpretq_u32_u8(vbslq_u8(is_set, vsubq_u8(bytes(spread(sum)), bytes(a)), bytes(a)))
            }

            fn larger(a: Floats, b: Floats) -> Floats {
                vbslq_f32(vcgtq_f32(a, b), a, b)
            }

            fn smaller(a: Floats, b: Floats) -> Floats {
                vbslq_f32(vcltq_f32(a, b), a, b)
            }

            fn fused(a: Floats, b: Floats, c: Floats) -> Floats {
                vfmaq_f32(c, a, b)
            }

            fn square(rows: [Words; LANES]) -> [Words; LANES] {
                let pair = |a, b| (vreinterpretq_u64_u32(vtrn1q_u32(a, b)), vreinterpretq_u64_u32(vtrn2q_u32(a, b)));
                let (even, odd) = pair(rows[0], rows[1]);
                let (last_even, last_odd) = pair(rows[2], rows[3]);
                [
                    vreinterpretq_u32_u64(vtrn1q_u64(even, last_even)),
                    vreinterpretq_u32_u64(vtrn1q_u64(odd, last_odd)),
                    vreinterpretq_u32_u64(vtrn2q_u64(even, last_even)),
                    vreinterpretq_u32_u64(vtrn2q_u64(odd, last_odd)),
                ]
            }

            fn window(rows: &[&[u8]; LANES], at: usize, out: &mut [[u32; LANES]; 4]) -> () {
                let mut words = [spread(0); LANES];
                for lane in 0..LANES {
                    let bytes = rows[lane][at..].first_chunk();
                    words[lane] = load_bytes(bytes.expect("rows are as long as `out` wants"));
                }
                words = square(words);
                for lane in 0..LANES {
                    store_words(words[lane], &mut out[lane]);
                }
            }

            fn transpose(rows: &[&[u8]; LANES], first: usize, out: &mut [[u32; LANES]]) -> () {
                let count = out.len();
                let (whole, rest) = out.as_chunks_mut::<4>();
                for (i, out) in whole.iter_mut().enumerate() {
                    window(rows, first + 16 * i, out);
                }
                if rest.is_empty() {
                    return;
                }
                let done = count - rest.len();
                match out.last_chunk_mut() {
                    // once more what is done, and the rest
                    Some(last) => window(rows, first + 4 * (count - 4), last),
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
            // SAFETY: the row has these bytes; any alignment will do
            square(rows.map(|row| vreinterpretq_u32_u8(unsafe { vld1q_u8(row.as_ptr().add(at)) })))
        }
    };
    (@ $features:literal $(fn $name:ident $(<const $generic:ident: usize>)? ($($argument:ident: $type:ty),*) -> $out:ty $body:block)*) => {$(
        #[target_feature(enable = $features)]
        #[inline]
        fn $name $(<const $generic: usize>)? ($($argument: $type),*) -> $out $body
    )*};
}
pub(super) use primitives;

/// `dot_words` by `sdot`, whose intrinsics are not stable yet, compiled for `$features`.
macro_rules! products_of_bytes {
    ($features:literal) => {
        /// Adds the products of each word's bytes.
        #[target_feature(enable = $features)]
        #[inline]
        fn add_products(sums: Words, a: Words, b: Words) -> Words {
            let mut sums = sums;
            // SAFETY: registers alone, of an instruction that functions with this feature are called for
            unsafe {
                std::arch::asm!(
                    "sdot {sums:v}.4s, {a:v}.16b, {b:v}.16b",
                    sums = inout(vreg) sums,
                    a = in(vreg) a,
                    b = in(vreg) b,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
            sums
        }

        /// The same with one word of `b` for all of `a`.
        #[target_feature(enable = $features)]
        #[inline]
        fn add_products_with<const WORD: usize>(sums: Words, a: Words, b: Words) -> Words {
            let mut sums = sums;
            // SAFETY: as above
            unsafe {
                std::arch::asm!(
                    "sdot {sums:v}.4s, {a:v}.16b, {b:v}.4b[{word}]",
                    sums = inout(vreg) sums,
                    a = in(vreg) a,
                    b = in(vreg) b,
                    word = const WORD,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
            sums
        }

        /// Adds the products of words of codes, of `BITS` bits, with those of `x`: 4 at a time, or 8.
        #[target_feature(enable = $features)]
        #[inline]
        fn dot_words<const BITS: usize>(sums: Words, codes: &[Words], x: &[u32]) -> Words {
            let mut sums = sums;
            for (codes, x) in codes.as_chunks::<4>().0.iter().zip(x.as_chunks().0) {
                let (x, mut codes) = (load(x), *codes);
                if BITS == 8 {
                    // as signed bytes, which are 128 less
                    for code in &mut codes {
                        *code = flip(*code);
                    }
                    let lost = vaddvq_u32(add_products(spread(0), spread(0x0101_0101), x));
                    sums = add_words(sums, spread(lost << 7));
                }
                sums = add_products_with::<0>(sums, codes[0], x);
                sums = add_products_with::<1>(sums, codes[1], x);
                sums = add_products_with::<2>(sums, codes[2], x);
                sums = add_products_with::<3>(sums, codes[3], x);
            }
            sums
        }
    };
}
pub(super) use products_of_bytes;
