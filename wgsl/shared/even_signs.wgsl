// Signs of which every eighth is not stored: it makes the number of those of its eight columns even.

// Four bytes of seven, each with its eighth.
fn with_eighths(sevens: u32) -> u32 {
    let threes = sevens ^ (sevens >> 1u) ^ (sevens >> 2u);
    let all = threes ^ (threes >> 3u) ^ (sevens >> 6u);
    return sevens | ((all & 0x01010101u) << 7u);
}

// The lowest 28 bits as four bytes of seven.
fn bytes_of_sevens(bits: u32) -> u32 {
    return (bits & 0x7fu) | ((bits << 1u) & 0x7f00u) | ((bits << 2u) & 0x7f0000u) | ((bits << 3u) & 0x7f000000u);
}
