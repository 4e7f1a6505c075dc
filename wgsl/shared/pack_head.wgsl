// One head's outputs, which a workgroup has in `y`, in 8 bits to `out`: after shared/quantise.wgsl, in a shader with
// `y: array<f32>` and `out: array<u32>`. A row of `out` is the codes of all heads, then their pairs.

//import quantise

// `dim` columns of head `head` of `heads`, in the row that starts at word `row`. All threads call it together, 8 or more
// for each 32 columns.
fn pack_head(local: u32, dim: u32, head: u32, heads: u32, row: u32) {
    workgroupBarrier();
    let words = dim / 4u;
    let j = local % 8u;
    let c = min(local, words - 1u) / 8u * 32u + first_column(j);
    let q = quantise_group(local, vec4<f32>(y[c], y[c + interleave], y[c + 2u * interleave], y[c + 3u * interleave]));
    if local < words {
        let word = head * words + local;
        out[row + word] = q.word;
        if j == 0u {
            let pair = row + heads * words + word / 4u;
            out[pair] = bitcast<u32>(q.scale);
            out[pair + 1u] = bitcast<u32>(q.sum);
        }
    }
}
