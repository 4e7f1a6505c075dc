// Where the stages of the chunked delta rule leave what the next one reads, in units of vec4. `rows` is the tokens of the
// run, whole chunks. A chunk's matrices are turned, [columns / 4, 32 tokens], where threads that work side by side have a
// token each. For shaders with the overrides key_dim and value4, and `params` of the same names.
//
//   queries  [key_heads, chunks, key4, 32]    of unit length, times 1 / sqrt(key_dim)
//   keys     [key_heads, chunks, key4, 32]    of unit length
//   rows     [key_heads, rows, key4]          keys again, a token's in a row
//   values   [value_heads, rows, value4]      first v, then the outputs before the norm
//   solved   [value_heads, chunks, 8, 32]     (I + A)^-1 diag(beta)
//   scores   [value_heads, chunks, 8, 32]     Q K^T with decays
//   decays   [value_heads, rows]              first (g, beta), then (since the chunk's first, to its last), each exp

override key4: u32 = (key_dim + 3u) / 4u;

fn queries_at(key_head: u32) -> u32 {
    return key_head * params.rows * key4;
}

fn keys_at(key_head: u32) -> u32 {
    return (params.key_heads + key_head) * params.rows * key4;
}

fn key_rows_at(key_head: u32) -> u32 {
    return (2u * params.key_heads + key_head) * params.rows * key4;
}

fn values_at(head: u32) -> u32 {
    return params.rows * (3u * params.key_heads * key4 + head * value4);
}

fn solved_at(head: u32) -> u32 {
    return params.rows * (3u * params.key_heads * key4 + params.value_heads * value4 + head * 8u);
}

fn scores_at(head: u32) -> u32 {
    return solved_at(params.value_heads + head);
}

fn decays_at(head: u32) -> u32 {
    return solved_at(2u * params.value_heads) + head * params.rows;
}
