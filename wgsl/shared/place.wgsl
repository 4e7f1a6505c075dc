// Where a matrix lies in `weights`, in words. Sections start at whole 16 bytes, and so do blocks of 32 columns where
// their size allows it: those are loaded 16 bytes at a time.
struct Place {
    codes: u32,
    scales: u32,
    biases: u32,
}

fn word(at: u32) -> u32 {
    return weights[at >> 2u][at & 3u];
}
