//! The WGSL of every kernel, put together from `wgsl/`: shared pieces, then the kernel. Nothing else is generated.

macro_rules! wgsl {
    ($name:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/wgsl/", $name, ".wgsl"))
    };
}

/// Kernels that read no quantised weights.
const PLAIN: [(&str, &str); 9] = [
    ("attention", concat!(wgsl!("shared/rotated_head"), "\n", wgsl!("attention"))),
    ("attention_merge", wgsl!("attention_merge")),
    ("combine_norm", concat!(wgsl!("shared/sum_over_threads"), "\n", wgsl!("combine_norm"))),
    ("delta_net", wgsl!("delta_net")),
    ("kv_norm_rope", concat!(wgsl!("shared/rotated_head"), "\n", wgsl!("kv_norm_rope"))),
    ("logits_top_k", wgsl!("logits_top_k")),
    ("rms_norm", concat!(wgsl!("shared/sum_over_threads"), "\n", wgsl!("rms_norm"))),
    ("router_top_k", wgsl!("router_top_k")),
    ("stream_read", wgsl!("stream_read")),
];

/// Kernels that exist once per weight format.
const MATRIX: [(&str, &str); 4] = [
    ("expert_down", wgsl!("expert_down")),
    ("expert_gate_up", wgsl!("expert_gate_up")),
    ("matmul", wgsl!("matmul")),
    ("matvec", wgsl!("matvec")),
];

/// How a block of 32 weights is unpacked, per format.
const WEIGHTS: [(&str, &str); 9] = [
    ("bf16", wgsl!("shared/weights_bf16")),
    ("f16", wgsl!("shared/weights_f16")),
    ("f32", wgsl!("shared/weights_f32")),
    ("q2", wgsl!("shared/weights_q2")),
    ("q3", wgsl!("shared/weights_q3")),
    ("q4", wgsl!("shared/weights_q4")),
    ("q5", wgsl!("shared/weights_q5")),
    ("q6", wgsl!("shared/weights_q6")),
    ("q8", wgsl!("shared/weights_q8")),
];

/// Names of `kernel` per format, so that a name is one `&'static str` everywhere.
macro_rules! variants {
    ($($kernel:literal),*) => {
        const VARIANTS: &[(&str, &str, &str)] = &[$(
            ($kernel, "bf16", concat!($kernel, "_bf16")),
            ($kernel, "f16", concat!($kernel, "_f16")),
            ($kernel, "f32", concat!($kernel, "_f32")),
            ($kernel, "q2", concat!($kernel, "_q2")),
            ($kernel, "q3", concat!($kernel, "_q3")),
            ($kernel, "q4", concat!($kernel, "_q4")),
            ($kernel, "q5", concat!($kernel, "_q5")),
            ($kernel, "q6", concat!($kernel, "_q6")),
            ($kernel, "q8", concat!($kernel, "_q8")),
        )*];
    };
}
variants!("expert_down", "expert_gate_up", "matmul", "matvec");

/// The name of `kernel` for a weight format: `matvec` and `q4` give `matvec_q4`.
///
/// # Panics
/// For a kernel or a format that does not exist: a mistake in an op.
pub fn variant(kernel: &str, format: &str) -> &'static str {
    VARIANTS
        .iter()
        .find(|(k, f, _)| *k == kernel && *f == format)
        .map(|(_, _, name)| *name)
        .expect("kernels and formats are listed in VARIANTS")
}

/// Every shader by name.
pub fn names() -> impl Iterator<Item = &'static str> {
    let plain = PLAIN.iter().map(|(name, _)| *name);
    plain.chain(VARIANTS.iter().map(|(_, _, name)| *name))
}

/// The source of a shader, and its entry point.
pub fn source(name: &str) -> Option<(String, &'static str)> {
    if let Some((kernel, source)) = PLAIN.iter().find(|(kernel, _)| *kernel == name) {
        return Some(((*source).to_owned(), kernel));
    }
    let (kernel, format, _) = VARIANTS.iter().find(|(_, _, n)| *n == name)?;
    let (kernel, body) = MATRIX.iter().find(|(k, _)| k == kernel)?;
    let (_, weights) = WEIGHTS.iter().find(|(f, _)| f == format)?;
    let mut pieces = vec![wgsl!("shared/place"), weights];
    if format.starts_with('q') {
        pieces.extend([wgsl!("shared/scales"), wgsl!("shared/dot_affine")]);
    } else {
        pieces.push(wgsl!("shared/dot_dense"));
    }
    pieces.push(body);
    Some((pieces.join("\n"), kernel))
}
