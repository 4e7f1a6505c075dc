// Q6_K: 128 bytes, of each 64 the low halves first; 64 bytes of upper pairs of bits, of each 32 the lowest first; 16 signed
// scales; what they are multiplied with (f16). Codes are less 32.

//import bytes
//import place
//import separated

const block_groups: u32 = 8u; // of 32 columns
const block_bytes: u32 = 210u;

// Of 32 columns.
fn scales_of(at: u32, part: u32) -> vec2<f32> {
    return vec2<f32>(unpack4xI8(short_at(at + 192u + 2u * part)).xy);
}

fn of_codes(a: vec4<u32>, b: vec4<u32>, scales: vec2<f32>) -> Separated {
    return Separated(array<vec4<u32>, 2>(less(a, 32u), less(b, 32u)), scales, vec2<f32>());
}

fn separate(matrix: Place, row: u32, block: u32) -> Separated {
    let at = first_byte(matrix, row, block);
    let part = block & 7u;
    let quarter = part & 3u;
    let lower = eight_words_at(at + (part / 4u) * 64u + (quarter & 1u) * 32u);
    let upper = eight_words_at(at + 128u + (part / 4u) * 32u);
    let low_shift = vec4<u32>(4u * (quarter / 2u));
    let up_shift = vec4<u32>(2u * quarter);
    let mask = vec4<u32>(0x0f0f0f0fu);
    let pairs = vec4<u32>(0x03030303u);
    let a = ((lower[0] >> low_shift) & mask) | (((upper[0] >> up_shift) & pairs) << vec4<u32>(4u));
    let b = ((lower[1] >> low_shift) & mask) | (((upper[1] >> up_shift) & pairs) << vec4<u32>(4u));
    return of_codes(a, b, half_at(at + 208u) * scales_of(at, part));
}

// Of part `part` and of the one two behind it: the low and the high halves of the same bytes.
fn two_blocks(matrix: Place, row: u32, block: u32) -> array<Separated, 2> {
    let at = first_byte(matrix, row, block);
    let part = block & 7u;
    let lower = eight_words_at(at + (part / 4u) * 64u + (part & 1u) * 32u);
    let upper = eight_words_at(at + 128u + (part / 4u) * 32u);
    let shift = vec4<u32>(2u * (part & 1u));
    let upper_a = upper[0] >> shift;
    let upper_b = upper[1] >> shift;
    let pairs = vec4<u32>(0x30303030u);
    let four = vec4<u32>(4u);
    let scale = half_at(at + 208u);
    return array<Separated, 2>(
        of_codes(
            low(lower[0]) | ((upper_a << four) & pairs), low(lower[1]) | ((upper_b << four) & pairs),
            scale * scales_of(at, part),
        ),
        of_codes(high(lower[0]) | (upper_a & pairs), high(lower[1]) | (upper_b & pairs), scale * scales_of(at, part + 2u)),
    );
}
