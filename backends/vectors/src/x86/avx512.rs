//! AVX-512 with VNNI: 16 rows.

use std::arch::x86_64::*;

use crate::add_kernels::add_by_token;
use crate::block_kernels::block_kernels;
use crate::float_kernels::float_kernels;
use crate::kernels::{dot_words, kernels};
use crate::row_kernels::row_kernels;
use crate::table_kernels::table_kernels;

const LANES: usize = 16;
const TILE: [usize; 2] = [4, 2];

type Words = __m512i;
type Floats = __m512;

macro_rules! primitives {
    ($(fn $name:ident $(<const $generic:ident: usize>)? ($($argument:ident: $type:ty),*) -> $out:ty $body:block)*) => {$(
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
        #[inline]
        fn $name $(<const $generic: usize>)? ($($argument: $type),*) -> $out $body
    )*};
}

primitives! {
    fn load(from: &[u32; LANES]) -> Words {
        // SAFETY: 64 bytes that are borrowed; any alignment will do
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    fn load_floats(from: &[f32; LANES]) -> Floats {
        // SAFETY: as above
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    fn store(values: Floats, to: &mut [f32; LANES]) -> () {
        // SAFETY: as above, borrowed for writing
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), values) }
    }

    fn store_words(values: Words, to: &mut [u32; LANES]) -> () {
        // SAFETY: as above
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), values) }
    }

    fn spread(word: u32) -> Words {
        _mm512_set1_epi32(word as i32)
    }

    fn spread_float(number: f32) -> Floats {
        _mm512_set1_ps(number)
    }

    fn and(a: Words, mask: u32) -> Words {
        _mm512_and_si512(a, spread(mask))
    }

    fn or(a: Words, b: Words) -> Words {
        _mm512_or_si512(a, b)
    }

    fn flip(a: Words) -> Words {
        _mm512_xor_si512(a, spread(0x8080_8080))
    }

    fn left(a: Words, bits: u32) -> Words {
        _mm512_sllv_epi32(a, spread(bits))
    }

    fn right(a: Words, bits: u32) -> Words {
        _mm512_srlv_epi32(a, spread(bits))
    }

    fn dot4<const BITS: usize>(sums: Words, codes: Words, x: Words) -> Words {
        _mm512_dpbusd_epi32(sums, codes, x)
    }

    fn as_floats(a: Words) -> Floats {
        _mm512_castsi512_ps(a)
    }

    fn to_floats(a: Words) -> Floats {
        _mm512_cvtepi32_ps(a)
    }

    fn product(a: Floats, b: Floats) -> Floats {
        _mm512_mul_ps(a, b)
    }

    fn sum(a: Floats, b: Floats) -> Floats {
        _mm512_add_ps(a, b)
    }

    fn fused(a: Floats, b: Floats, c: Floats) -> Floats {
        _mm512_fmadd_ps(a, b, c)
    }

    fn from_halves(a: Words) -> Floats {
        _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a))
    }

    fn widen(bytes: &[u8; LANES]) -> Words {
        // SAFETY: as above
        _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
    }

    fn from_e4m3(bytes: &[u8; LANES]) -> Floats {
        // SAFETY: as above
        let bytes = _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) });
        // the sign and, without its copy, what is below
        _mm512_cvtph_ps(_mm256_and_si256(_mm256_slli_epi16::<7>(bytes), _mm256_set1_epi16(0xbf80u16 as i16)))
    }

    fn as_words(a: Floats) -> Words {
        _mm512_castps_si512(a)
    }

    fn add_words(a: Words, b: Words) -> Words {
        _mm512_add_epi32(a, b)
    }

    fn difference(a: Floats, b: Floats) -> Floats {
        _mm512_sub_ps(a, b)
    }

    fn quotient(a: Floats, b: Floats) -> Floats {
        _mm512_div_ps(a, b)
    }

    fn times(a: Words, b: u32) -> Words {
        _mm512_mullo_epi32(a, spread(b))
    }

    fn xor(a: Words, b: Words) -> Words {
        _mm512_xor_si512(a, b)
    }

    fn look_up(table: &[u8; 16], at: Words) -> Words {
        // SAFETY: 16 bytes that are borrowed; any alignment will do
        let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
        _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), at)
    }

    fn gather<const N: usize>(table: &[u32; N], at: Words) -> Words {
        const { assert!(N.is_power_of_two()) };
        // SAFETY: every index is below N, the number of entries
        unsafe { _mm512_i32gather_epi32::<4>(and(at, N as u32 - 1), table.as_ptr().cast()) }
    }

    fn spread_byte(a: Words, i: usize) -> Words {
        let byte = |word: i32| (4 * word + i as i32) * 0x0101_0101;
        _mm512_shuffle_epi8(a, _mm512_set4_epi32(byte(3), byte(2), byte(1), byte(0)))
    }

    fn mirrored(a: Words, signs: Words, of: u32, sum: u32) -> Words {
        _mm512_mask_sub_epi8(a, _mm512_test_epi8_mask(signs, spread(of)), spread(sum), a)
    }

    fn larger(a: Floats, b: Floats) -> Floats {
        _mm512_max_ps(a, b)
    }

    fn smaller(a: Floats, b: Floats) -> Floats {
        _mm512_min_ps(a, b)
    }

    fn square(rows: [Words; LANES]) -> [Words; LANES] {
        let mut pairs = rows;
        for i in 0..8 {
            pairs[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
            pairs[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
        }
        // words 4 q + c of rows 4 i to 4 i + 3 in quarter q of fours[4 * i + c]
        let mut fours = rows;
        for i in 0..4 {
            let p = &pairs[4 * i..];
            fours[4 * i] = _mm512_unpacklo_epi64(p[0], p[2]);
            fours[4 * i + 1] = _mm512_unpackhi_epi64(p[0], p[2]);
            fours[4 * i + 2] = _mm512_unpacklo_epi64(p[1], p[3]);
            fours[4 * i + 3] = _mm512_unpackhi_epi64(p[1], p[3]);
        }
        let mut out = rows;
        for c in 0..4 {
            let [a, b, d, e] = [fours[c], fours[4 + c], fours[8 + c], fours[12 + c]];
            let even = [_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(d, e)];
            let odd = [_mm512_shuffle_i32x4::<0xdd>(a, b), _mm512_shuffle_i32x4::<0xdd>(d, e)];
            out[c] = _mm512_shuffle_i32x4::<0x88>(even[0], even[1]);
            out[4 + c] = _mm512_shuffle_i32x4::<0x88>(odd[0], odd[1]);
            out[8 + c] = _mm512_shuffle_i32x4::<0xdd>(even[0], even[1]);
            out[12 + c] = _mm512_shuffle_i32x4::<0xdd>(odd[0], odd[1]);
        }
        out
    }

    fn load_bytes(from: &[u8; 4 * LANES]) -> Words {
        // SAFETY: 64 bytes that are borrowed; any alignment will do
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    fn add_pairs(a: Words, b: Words) -> Words {
        let (a, b) = (_mm512_castsi512_ps(a), _mm512_castsi512_ps(b));
        let (even, odd) = (_mm512_shuffle_ps::<0x88>(a, b), _mm512_shuffle_ps::<0xdd>(a, b));
        _mm512_add_epi32(_mm512_castps_si512(even), _mm512_castps_si512(odd))
    }

    fn join_quarters(a: Words, b: Words) -> Words {
        _mm512_add_epi32(_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b))
    }

    fn three_bits(from: &[u8; 3 * LANES]) -> [Words; 2] {
        // SAFETY: 48 bytes that are borrowed; what the mask leaves out is not read
        let words = unsafe { _mm512_maskz_loadu_epi32(0x0fff, from.as_ptr().cast()) };
        // the 12 bytes of a block in each quarter
        let words = _mm512_permutexvar_epi32(_mm512_set_epi32(15, 11, 10, 9, 15, 8, 7, 6, 15, 5, 4, 3, 15, 2, 1, 0), words);
        // the first, second and third byte of each 8 columns
        let [a, b, c] = [0x0906_0300, 0x0a07_0401, 0x0b08_0502];
        let select = |d3, d2, d1, d0| _mm512_shuffle_epi8(words, _mm512_set4_epi32(d3, d2, d1, d0));
        let first = _mm512_srlv_epi32(select(b, a, a, a), _mm512_set4_epi32(1, 6, 3, 0));
        let last = _mm512_srlv_epi32(select(c, c, b, b), _mm512_set4_epi32(5, 2, 7, 4));
        // of columns whose bits are of two bytes those of the second
        let second = _mm512_sllv_epi32(select(a, b, c, a), _mm512_set4_epi32(0, 2, 1, 0));
        let first = _mm512_and_si512(first, _mm512_set4_epi32(0x0707_0707, 0x0303_0303, 0x0707_0707, 0x0707_0707));
        let last = _mm512_and_si512(last, _mm512_set4_epi32(0x0707_0707, 0x0707_0707, 0x0101_0101, 0x0707_0707));
        [
            _mm512_or_si512(first, _mm512_and_si512(second, _mm512_set4_epi32(0, 0x0404_0404, 0, 0))),
            _mm512_or_si512(last, _mm512_and_si512(second, _mm512_set4_epi32(0, 0, 0x0606_0606, 0))),
        ]
    }

    fn prefetch(row: &[u8], at: usize) -> () {
        _mm_prefetch::<_MM_HINT_T0>(row.as_ptr().wrapping_add(at).cast());
    }

    fn transpose(rows: &[&[u8]; LANES], first: usize, out: &mut [[u32; LANES]]) -> () {
        let count = out.len();
        let end = first + 4 * count;
        assert!(rows.iter().all(|row| row.len() >= end), "rows are as long as `out` wants");
        let (whole, rest) = out.as_chunks_mut::<16>();
        for (i, out) in whole.iter_mut().enumerate() {
            // SAFETY: a window of `out`, whose rows end at `end` or later
            unsafe { window(rows, first + 64 * i, out) };
        }
        if rest.is_empty() {
            return;
        }
        let done = count - rest.len();
        match out.last_chunk_mut() {
            // once more what is done, and the rest
            // SAFETY: as above
            Some(last) => unsafe { window(rows, end - 64, last) },
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
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
unsafe fn fours(rows: &[&[u8]; LANES], at: usize) -> [Words; 4] {
    // quarter q of `of_rows(from)` is of row `4 q + from`
    let of_rows = |from: usize| {
        // SAFETY: the row has these bytes; any alignment will do
        let quarter = |q: usize| unsafe { _mm_loadu_si128(rows[4 * q + from].as_ptr().add(at).cast()) };
        let words = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(quarter(0)), quarter(1));
        _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(words, quarter(2)), quarter(3))
    };
    let [a, b, c, d] = [of_rows(0), of_rows(1), of_rows(2), of_rows(3)];
    let [low, later_low] = [_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d)];
    let [high, later_high] = [_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d)];
    [
        _mm512_unpacklo_epi64(low, later_low),
        _mm512_unpackhi_epi64(low, later_low),
        _mm512_unpacklo_epi64(high, later_high),
        _mm512_unpackhi_epi64(high, later_high),
    ]
}

/// Words of rows from byte `at` of each on: `[word, row]`.
///
/// # Safety
/// Every row has 64 bytes from there on.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
unsafe fn window(rows: &[&[u8]; LANES], at: usize, out: &mut [[u32; LANES]; 16]) {
    // as many streams as lanes are more than processors foresee, a stream in the order of memory is not: the
    // bytes of two tiles of rows later
    let later = LANES * (2 * rows[0].len() + at);
    for line in 0..LANES {
        prefetch(rows[0], later + 64 * line);
    }
    let mut words = [spread(0); LANES];
    for lane in 0..LANES {
        // SAFETY: the row has these bytes; any alignment will do
        words[lane] = unsafe { _mm512_loadu_si512(rows[lane].as_ptr().add(at).cast()) };
    }
    words = square(words);
    for lane in 0..LANES {
        store_words(words[lane], &mut out[lane]);
    }
}

dot_words!(#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]);
add_by_token!(#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]);
kernels!(#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]);
row_kernels!(#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]);
float_kernels!(#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]);
block_kernels!(#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]);
table_kernels!(#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]);
