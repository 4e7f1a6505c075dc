// Heads of a cache in 4 bits: they are turned, so that elements are those of a Gaussian whatever the head is, and have
// the nearest of its sixteen best levels. Words of eight codes, the first in the lowest bits, then a factor in f32.
// code = that of x * sqrt(dim) / |head| ; factor = |head| / |levels| ; x' = level * factor

//import head
//import turn_quads

override level_words: u32 = dim / 8u; // of a head

var<workgroup> levels: array<f32, 16>; // of each code
var<workgroup> head_eighths: array<f32, 16>;
var<workgroup> head_numbers: array<vec2<f32>, 2>; // of the own key and value: what codes are found by, and the factor

fn level_of(code: u32) -> f32 {
    let low = vec4<f32>(0.12840, 0.38805, 0.65676, 0.94234);
    let high = vec4<f32>(1.25623, 1.61805, 2.06902, 2.73259);
    let size = select(low[code % 4u], high[code % 4u], (code & 4u) == 4u);
    return select(size, -size, (code & 8u) == 8u);
}

// Before anything is read: all threads. Others see it behind the next barrier, which `ready_own` has.
fn prepare_cache(local: u32) {
    if local < 16u {
        levels[local] = level_of(local);
    }
}

// The same where no barrier follows.
fn prepare_reading(local: u32) {
    prepare_cache(local);
    workgroupBarrier();
}

// Four elements, before the factor.
fn quad_of_codes(codes: u32) -> vec4<f32> {
    return vec4<f32>(
        levels[codes & 15u], levels[(codes >> 4u) & 15u], levels[(codes >> 8u) & 15u], levels[(codes >> 12u) & 15u],
    );
}

fn quads_above(size: vec4<f32>, threshold: f32) -> vec4<u32> {
    return select(vec4<u32>(), vec4<u32>(1u), size > vec4<f32>(threshold));
}

fn codes_of_four(v: vec4<f32>) -> u32 {
    let size = abs(v);
    let codes = quads_above(size, 0.258225) + quads_above(size, 0.522405) + quads_above(size, 0.79955)
        + quads_above(size, 1.099285) + quads_above(size, 1.43714) + quads_above(size, 1.843535)
        + quads_above(size, 2.400805) + select(vec4<u32>(), vec4<u32>(8u), v < vec4<f32>());
    return codes.x | (codes.y << 4u) | (codes.z << 8u) | (codes.w << 12u);
}

// Codes of quad `i` of own[first..], the key's at 0 or the value's at 64.
fn own_codes(first: u32, i: u32) -> u32 {
    return codes_of_four(own[first + i] * head_numbers[first / 64u].x);
}

// Sums over the first 64 threads and the next 64; nobody has a head in `y` yet.
fn sums_of_heads(local: u32, value: f32) -> vec2<f32> {
    if local < 128u {
        y[local] = value;
    }
    workgroupBarrier();
    if local < 16u {
        var sum = 0.0;
        for (var i = 8u * local; i < 8u * local + 8u; i++) {
            sum += y[i];
        }
        head_eighths[local] = sum;
    }
    workgroupBarrier();
    var sums = vec2<f32>();
    for (var i = 0u; i < 8u; i++) {
        sums += vec2<f32>(head_eighths[i], head_eighths[8u + i]);
    }
    return sums;
}

// Turns the own heads, of which `count` quads are there, and finds the numbers of key and value. The thread of each quad
// has set it. Heads that are not turned get numbers that nobody reads.
fn ready_own(local: u32, count: u32) {
    let dim4 = dim / 4u;
    let is_there = local < count && local % 64u < dim4;
    turn_quads(local, is_there && (local / 64u == 1u || keys_are_turned), dim4, false);
    let is_kept = is_there && local < 128u;
    var square = 0.0;
    if is_kept {
        square = dot(own[local], own[local]);
    }
    let squares = sums_of_heads(local, square);
    let inverse = select(vec2<f32>(), sqrt(f32(dim)) / sqrt(squares), squares > vec2<f32>());
    square = 0.0;
    if is_kept {
        let v = quad_of_codes(codes_of_four(own[local] * select(inverse.x, inverse.y, local >= 64u)));
        square = dot(v, v);
    }
    // a barrier lies between the last read of what is written here and this
    let of_levels = sums_of_heads(local, square);
    if local == 0u {
        head_numbers[0] = vec2<f32>(inverse.x, sqrt(squares.x / of_levels.x));
        head_numbers[1] = vec2<f32>(inverse.y, sqrt(squares.y / of_levels.y));
    }
    workgroupBarrier();
}

fn cell_of_4(first: u32, i: u32) -> u32 {
    if i == level_words {
        return bitcast<u32>(head_numbers[first / 64u].y);
    }
    return own_codes(first, 2u * i) | (own_codes(first, 2u * i + 1u) << 16u);
}

fn kept_of_4(first: u32, i: u32) -> vec4<f32> {
    return quad_of_codes(own_codes(first, i)) * head_numbers[first / 64u].y;
}
