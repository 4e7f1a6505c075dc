// The top_k largest of each run of 1,024 (value, id) pairs, largest first, ties to the lowest id. Run again on its own
// output until one run is left. The first pass takes bare logits: the id is the place. NaN is left out: where a run has
// fewer than top_k numbers, the rest are NaN with no id.

struct Params {
    count: u32,
    top_k: u32,
    first_pass: u32,
    x_offset: u32,
}
var<immediate> params: Params;

@group(0) @binding(0) var<storage, read> x: array<u32>; // bits of [count] logits, or [count, 2] (bits of the value, id)
@group(0) @binding(1) var<storage, read_write> out: array<u32>; // [runs * top_k, 2] (bits of the value, id)

const none: u32 = 0xffffffffu;

var<workgroup> key: array<u32, 1024>;
var<workgroup> id: array<u32, 1024>;
var<workgroup> best: array<u32, 128>;

// Integers in the order of the numbers, 0 for NaN: drivers may compare floats as if there were no NaN.
fn key_of(bits: u32) -> u32 {
    let number = select(bits ^ 0x80000000u, ~bits, bits >= 0x80000000u);
    return select(number, 0u, (bits & 0x7fffffffu) > 0x7f800000u);
}

// the number's bits again; NaN for 0
fn bits_of(key: u32) -> u32 {
    return select(~key, key ^ 0x80000000u, key >= 0x80000000u);
}

// whether entry a comes before entry b
fn before(a: u32, b: u32) -> bool {
    return key[a] > key[b] || (key[a] == key[b] && id[a] < id[b]);
}

@compute @workgroup_size(128)
fn logits_top_k(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    for (var i = local; i < 1024u; i += 128u) {
        let at = group.x * 1024u + i;
        key[i] = 0u;
        id[i] = none;
        if at < params.count {
            if params.first_pass == 1u {
                key[i] = key_of(x[params.x_offset + at]);
                id[i] = select(none, at, key[i] > 0u);
            } else {
                key[i] = key_of(x[2u * at]);
                id[i] = x[2u * at + 1u];
            }
        }
    }
    for (var k = 0u; k < params.top_k; k++) {
        workgroupBarrier();
        var mine = local;
        for (var i = local + 128u; i < 1024u; i += 128u) {
            if before(i, mine) {
                mine = i;
            }
        }
        best[local] = mine;
        for (var half = 64u; half > 0u; half /= 2u) {
            workgroupBarrier();
            if local < half && before(best[local + half], best[local]) {
                best[local] = best[local + half];
            }
        }
        workgroupBarrier();
        if local == 0u {
            let winner = best[0];
            let at = 2u * (group.x * params.top_k + k);
            out[at] = bits_of(key[winner]);
            out[at + 1u] = id[winner];
            key[winner] = 0u;
            id[winner] = none;
        }
    }
}
