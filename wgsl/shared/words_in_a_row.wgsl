// 18 words in a row of `weights`, by loads of 16 bytes.

struct Words {
    a: vec4<u32>,
    b: vec4<u32>,
    c: vec4<u32>,
    d: vec4<u32>,
    e: vec2<u32>,
}

// From word `at` on, which is even.
fn words_from_even(at: u32) -> Words {
    let first = at >> 2u;
    let a = weights[first];
    let b = weights[first + 1u];
    let c = weights[first + 2u];
    let d = weights[first + 3u];
    let e = weights[first + 4u];
    let two = (at & 2u) != 0u;
    return Words(
        select(a, vec4<u32>(a.zw, b.xy), two), select(b, vec4<u32>(b.zw, c.xy), two),
        select(c, vec4<u32>(c.zw, d.xy), two), select(d, vec4<u32>(d.zw, e.xy), two), select(e.xy, e.zw, two),
    );
}

// From any word on; the last is not one of them where `at` is odd.
fn words_from(at: u32) -> Words {
    let w = words_from_even(at & ~1u);
    let one = (at & 1u) != 0u;
    return Words(
        select(w.a, vec4<u32>(w.a.yzw, w.b.x), one), select(w.b, vec4<u32>(w.b.yzw, w.c.x), one),
        select(w.c, vec4<u32>(w.c.yzw, w.d.x), one), select(w.d, vec4<u32>(w.d.yzw, w.e.x), one),
        vec2<u32>(select(w.e.x, w.e.y, one), w.e.y),
    );
}
