// Entries are looked up in workgroup memory: on an H200 62 instead of 46 % of its bandwidth for IQ4_NL. `table_entries`, of eight
// values, is the format's.

//import codebook
//import team

var<workgroup> table: array<vec2<u32>, table_entries>;

fn keep_table(local: u32) {
    for (var i = local; i < table_entries; i += threads) {
        table[i] = codebook[i];
    }
}

// The four values of entry `index`, where entries have as many.
fn four_values(index: u32) -> u32 {
    return table[index / 2u][index & 1u];
}

// The eight values of entry `index`.
fn eight_values(index: u32) -> vec2<u32> {
    return table[index];
}
