// What a thread multiplies at a time where four blocks of 32 columns begin at a whole word, and none of them alone: all four.
// Rows that are no whole number of fours, and gate and up of experts, are taken block by block: then `unit_blocks` is 1.

//import activations

override unit_blocks: u32 = 4u;

struct Unit {
    a: Activations,
    b: Activations,
    c: Activations,
    d: Activations,
}

fn load_unit(row: u32, unit: u32) -> Unit {
    let block = unit_blocks * unit;
    let a = load(row, block);
    if unit_blocks == 1u {
        return Unit(a, a, a, a);
    }
    return Unit(a, load(row, block + 1u), load(row, block + 2u), load(row, block + 3u));
}
