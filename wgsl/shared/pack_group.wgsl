// 32 columns of a row that a workgroup has in `of_group`, in 8 bits to `packed`: see shared/quantise.wgsl.

//import quantise

override pack: u32 = 0u;

var<workgroup> of_group: array<f32, 32>;

// Group `group` of a row of `columns`, which is all of `packed`. All threads of a workgroup call it together, after a barrier.
fn pack_group(local: u32, group: u32, columns: u32) {
    let j = local & 7u;
    let at = first_column(j);
    let v = vec4<f32>(
        of_group[at], of_group[at + interleave], of_group[at + 2u * interleave], of_group[at + 3u * interleave],
    );
    let q = quantise_group(local, v);
    if local < 8u {
        packed[group * 8u + j] = q.word;
    }
    if local == 0u {
        packed[columns / 4u + 2u * group] = bitcast<u32>(q.scale);
        packed[columns / 4u + 2u * group + 1u] = bitcast<u32>(q.sum);
    }
}
