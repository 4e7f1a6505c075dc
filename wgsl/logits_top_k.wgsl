// The top_k largest of each run of 1,024 (value, id) pairs, largest first, ties to the lowest id. Run again on its own
// output until one run is left. The first pass takes bare logits, whose id is their place, and leaves of each run the
// largest, and the sum of exp(logit - largest) with logits divided by the temperature. NaN is left out of the largest: where
// a run has fewer than top_k numbers, the rest are NaN with no id. The sum is NaN then.
// A run is sorted, by halves that first rise and then fall: 55 steps, whatever top_k is.

struct Params {
    count: u32,
    top_k: u32,
    first_pass: u32,
    x_offset: u32,
    inverse_temperature: f32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> x: array<u32>; // bits of [count] logits, or [count, 2] (bits of the value, id)
@group(0) @binding(1) var<storage, read_write> out: array<u32>; // [runs * top_k, 2] (bits of the value, id)
@group(0) @binding(2) var<storage, read_write> totals: array<vec2<f32>>; // [runs] (largest, sum)

const none: u32 = 0xffffffffu;

var<workgroup> key: array<u32, 1024>;
var<workgroup> id: array<u32, 1024>;
var<workgroup> of_thread: array<f32, 256>;

// Integers in the order of the numbers, 0 for NaN: drivers may compare floats as if there were no NaN.
fn key_of(bits: u32) -> u32 {
    let number = select(bits ^ 0x80000000u, ~bits, bits >= 0x80000000u);
    return select(number, 0u, (bits & 0x7fffffffu) > 0x7f800000u);
}

// the number's bits again; NaN for 0
fn bits_of(key: u32) -> u32 {
    return select(~key, key ^ 0x80000000u, key >= 0x80000000u);
}

// Puts entries a < b in order: the one that comes first, or last, is a.
fn put_in_order(a: u32, b: u32, falls: bool) {
    let of_a = vec2<u32>(key[a], id[a]);
    let of_b = vec2<u32>(key[b], id[b]);
    let a_is_first = of_a.x > of_b.x || (of_a.x == of_b.x && of_a.y < of_b.y);
    if a_is_first != falls {
        key[a] = of_b.x;
        id[a] = of_b.y;
        key[b] = of_a.x;
        id[b] = of_a.y;
    }
}

fn sort(local: u32) {
    for (var size = 2u; size <= 1024u; size *= 2u) {
        for (var apart = size / 2u; apart > 0u; apart /= 2u) {
            workgroupBarrier();
            for (var pair = local; pair < 512u; pair += 256u) {
                let a = 2u * pair - (pair & (apart - 1u));
                put_in_order(a, a + apart, (a & size) == 0u);
            }
        }
    }
    workgroupBarrier();
}

// What a sorted run of logits adds up to.
fn add_up(run: u32, local: u32, has_nan: bool) {
    let largest = bitcast<f32>(bits_of(key[0]));
    var sum = select(0.0, bitcast<f32>(0x7fc00000u), has_nan);
    for (var i = local; i < 1024u; i += 256u) {
        // a difference of two infinities is none, and NaN is no number
        let v = bitcast<f32>(bits_of(key[i]));
        let term = exp((v - largest) * params.inverse_temperature);
        sum += select(select(term, 1.0, key[i] == key[0]), 0.0, key[i] == 0u);
    }
    of_thread[local] = sum;
    for (var half = 128u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local < half {
            of_thread[local] += of_thread[local + half];
        }
    }
    if local == 0u {
        totals[run] = vec2<f32>(largest, of_thread[0]);
    }
}

@compute @workgroup_size(256)
fn logits_top_k(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    var has_nan = false;
    for (var i = local; i < 1024u; i += 256u) {
        let at = group.x * 1024u + i;
        key[i] = 0u;
        id[i] = none;
        if at < params.count {
            if params.first_pass == 1u {
                key[i] = key_of(x[params.x_offset + at]);
                id[i] = select(none, at, key[i] > 0u);
                has_nan = has_nan || key[i] == 0u;
            } else {
                key[i] = key_of(x[2u * at]);
                id[i] = x[2u * at + 1u];
            }
        }
    }
    sort(local);
    for (var k = local; k < params.top_k; k += 256u) {
        let at = 2u * (group.x * params.top_k + k);
        out[at] = bits_of(key[k]);
        out[at + 1u] = id[k];
    }
    if params.first_pass == 1u {
        add_up(group.x, local, has_nan);
    }
}
