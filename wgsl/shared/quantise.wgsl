// Activations in 8 bits: per group of 32 columns code = round(x / scale) with scale = max |x| / 127, and scale * sum of
// the codes, which multiplies the bias of weights. A row is its codes, four to a word, then a pair (scale, scale * sum)
// per group.
//
// Word j of a group holds in byte b, with interleave i, column 4i (j % (8 / i)) + i b + j / (8 / i): the columns that one
// mask takes out of a word of packed weights (4-bit codes: even columns, then odd ones).
//
// CPU and GPU agree to the bit: no division of floats is in it, and maxima are taken of bits.

override interleave: u32 = 1u; // 1, 2, 4 or 8

override quantisers: u32 = 256u; // threads of a workgroup

var<workgroup> group_largest: array<u32, quantisers>;
var<workgroup> group_sum: array<i32, quantisers>;

struct Quantised {
    word: u32, // four codes
    scale: f32, // of the group
    sum: f32, // scale * sum of the group's codes
}

// The first of the columns, `interleave` apart, that word `j` of a group holds.
fn first_column(j: u32) -> u32 {
    let words = 8u / interleave;
    return 4u * interleave * (j % words) + j / words;
}

// Quantises groups whose words are shared by 8 threads in a row. All threads of a workgroup call it together.
fn quantise_group(local: u32, v: vec4<f32>) -> Quantised {
    // bits of numbers that are not negative have the order of the numbers; infinity and NaN come last
    let bits = bitcast<vec4<u32>>(abs(v));
    group_largest[local] = max(max(bits.x, bits.y), max(bits.z, bits.w));
    workgroupBarrier();
    let first = local & ~7u;
    var largest = group_largest[first];
    for (var i = 1u; i < 8u; i++) {
        largest = max(largest, group_largest[first + i]);
    }
    var inverse = 0.0;
    var scale = bitcast<f32>(largest) * (1.0 / 127.0);
    if largest >= (227u << 23u) {
        // 2^100 and more, infinity, NaN: the result is not a number, and is seen
        scale = bitcast<f32>(0x7fc00000u);
    } else if largest >= (27u << 23u) {
        // 127 / largest to 15 bits, never more
        let quotient = (127u << 24u) / (((largest >> 8u) & 0x7fffu) + 0x8001u);
        inverse = f32(quotient) * bitcast<f32>((245u - (largest >> 23u)) << 23u);
    }
    let word = pack4xI8(vec4<i32>(round(v * inverse)));
    group_sum[local] = dot4I8Packed(word, 0x01010101u);
    workgroupBarrier();
    var sum = 0;
    for (var i = 0u; i < 8u; i++) {
        sum += group_sum[first + i];
    }
    return Quantised(word, scale, scale * f32(sum));
}
