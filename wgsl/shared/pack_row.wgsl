// A row that a workgroup has just written to `out`, in 8 bits to `packed`: after shared/quantise.wgsl, in a shader with
// `threads`, `out: array<vec4<f32>>` and `packed: array<u32>`.

//import quantise

override pack: u32 = 0u;

fn out_at(row: u32, column: u32) -> f32 {
    return out[row + column / 4u][column % 4u];
}

// `words` words of codes, from a row that starts at vector `from_row` to one that starts at word `to_row`.
fn pack_row(local: u32, words: u32, from_row: u32, to_row: u32) {
    storageBarrier();
    workgroupBarrier();
    for (var first = 0u; first < words; first += threads) {
        let word = first + local;
        let j = word % 8u;
        let c = min(word, words - 1u) / 8u * 32u + first_column(j);
        let v = vec4<f32>(
            out_at(from_row, c), out_at(from_row, c + interleave),
            out_at(from_row, c + 2u * interleave), out_at(from_row, c + 3u * interleave),
        );
        let q = quantise_group(local, v);
        if word < words {
            packed[to_row + word] = q.word;
            if j == 0u {
                packed[to_row + words + word / 4u] = bitcast<u32>(q.scale);
                packed[to_row + words + word / 4u + 1u] = bitcast<u32>(q.sum);
            }
        }
    }
}
