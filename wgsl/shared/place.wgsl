// Where a matrix lies in `weights`, in words: the streams of its format, which says what they are. They start at whole 16
// bytes, and so do blocks of 32 columns where their size allows it: those are loaded 16 bytes at a time.

struct Place {
    stream_0: u32,
    stream_1: u32,
    stream_2: u32,
}

fn word(at: u32) -> u32 {
    return weights[at >> 2u][at & 3u];
}
