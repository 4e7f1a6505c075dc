// Vectors of eight values are looked up in workgroup memory. `table_entries` is the format's.

//import codebook
//import team

var<workgroup> table: array<vec2<u32>, table_entries>;

fn keep_table(local: u32) {
    for (var i = local; i < table_entries; i += threads) {
        table[i] = codebook[i];
    }
}

// The eight values of entry `index`.
fn eight_values(index: u32) -> vec2<u32> {
    return table[index];
}
