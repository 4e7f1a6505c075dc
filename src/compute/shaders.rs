//! The WGSL of every kernel, put together from `wgsl/`: shared pieces, then the kernel. Nothing else is generated.

macro_rules! wgsl {
    ($name:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/wgsl/", $name, ".wgsl"))
    };
}

/// A norm: sums of rows, and their packing.
macro_rules! norm {
    ($name:literal) => {
        concat!(
            wgsl!("shared/sum_over_threads"),
            "\n",
            wgsl!("shared/quantise"),
            "\n",
            wgsl!($name),
            "\n",
            wgsl!("shared/pack_row")
        )
    };
}

/// What makes heads, packed where products take 8 bits.
macro_rules! packs_heads {
    ($($name:literal),*) => {
        concat!(wgsl!("shared/quantise"), $("\n", wgsl!($name),)* "\n", wgsl!("shared/pack_head"))
    };
}

/// Pieces, one after the other.
macro_rules! pieces {
    ($($name:literal),*) => {
        concat!($(wgsl!($name), "\n",)*)
    };
}

/// Kernels that read no quantised weights.
const PLAIN: [(&str, &str); 17] = [
    ("attention", packs_heads!("shared/rotated_head", "attention")),
    ("attention_merge", packs_heads!("attention_merge")),
    ("attention_prefill", wgsl!("attention_prefill")),
    ("combine_norm", norm!("combine_norm")),
    (
        "delta_net",
        packs_heads!(
            "shared/sigmoid",
            "shared/conv_input",
            "shared/keep_inputs",
            "shared/delta_net_token",
            "delta_net"
        ),
    ),
    ("delta_net_chunks", pieces!("shared/delta_net_scratch", "delta_net_chunks")),
    (
        "delta_net_inputs",
        pieces!(
            "shared/sigmoid",
            "shared/conv_input",
            "shared/delta_net_token",
            "shared/delta_net_scratch",
            "delta_net_inputs"
        ),
    ),
    ("delta_net_keep", pieces!("shared/conv_input", "shared/keep_inputs", "delta_net_keep")),
    ("delta_net_norm", packs_heads!("shared/sigmoid", "shared/delta_net_scratch", "delta_net_norm")),
    ("delta_net_solve", pieces!("shared/delta_net_scratch", "delta_net_solve")),
    ("kv_norm_rope", pieces!("shared/rotated_head", "kv_norm_rope")),
    ("logits_top_k", wgsl!("logits_top_k")),
    ("query_norm_rope", pieces!("shared/rotated_head", "query_norm_rope")),
    ("quantise", concat!(wgsl!("shared/quantise"), "\n", wgsl!("quantise"))),
    ("rms_norm", norm!("rms_norm")),
    ("router_top_k", concat!(wgsl!("shared/quantise"), "\n", wgsl!("router_top_k"))),
    ("stream_read", wgsl!("stream_read")),
];

/// Kernels that exist once per weight format.
const MATRIX: [(&str, &str); 7] = [
    ("expert_down", wgsl!("expert_down")),
    ("expert_gate_up", wgsl!("expert_gate_up")),
    ("expert_matmul_down", wgsl!("expert_matmul_down")),
    ("expert_matmul_gate_up", wgsl!("expert_matmul_gate_up")),
    ("matmul", wgsl!("matmul")),
    ("matmul_cooperative", wgsl!("matmul_cooperative")),
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

/// [`VARIANTS`] of the kernel that multiplies with matrix units. It rounds to f16, which activations in f32 are not asked to
/// bear.
const COOPERATIVE: [(&str, Form, &str, &str); 6] = [
    ("matmul_cooperative", Form::Int8, "q2", "matmul_cooperative_int8_q2"),
    ("matmul_cooperative", Form::Int8, "q3", "matmul_cooperative_int8_q3"),
    ("matmul_cooperative", Form::Int8, "q4", "matmul_cooperative_int8_q4"),
    ("matmul_cooperative", Form::Int8, "q5", "matmul_cooperative_int8_q5"),
    ("matmul_cooperative", Form::Int8, "q6", "matmul_cooperative_int8_q6"),
    ("matmul_cooperative", Form::Int8, "q8", "matmul_cooperative_int8_q8"),
];

/// Names of `kernel` per form of the activations and format of the weights, so that a name is one `&'static str`
/// everywhere. Dense weights are multiplied with f32 only.
macro_rules! variants {
    ($($kernel:literal),*) => {
        const VARIANTS: &[(&str, Form, &str, &str)] = &[$(
            ($kernel, Form::F32, "bf16", concat!($kernel, "_bf16")),
            ($kernel, Form::F32, "f16", concat!($kernel, "_f16")),
            ($kernel, Form::F32, "f32", concat!($kernel, "_f32")),
            ($kernel, Form::F32, "q2", concat!($kernel, "_q2")),
            ($kernel, Form::F32, "q3", concat!($kernel, "_q3")),
            ($kernel, Form::F32, "q4", concat!($kernel, "_q4")),
            ($kernel, Form::F32, "q5", concat!($kernel, "_q5")),
            ($kernel, Form::F32, "q6", concat!($kernel, "_q6")),
            ($kernel, Form::F32, "q8", concat!($kernel, "_q8")),
            ($kernel, Form::Int8, "q2", concat!($kernel, "_int8_q2")),
            ($kernel, Form::Int8, "q3", concat!($kernel, "_int8_q3")),
            ($kernel, Form::Int8, "q4", concat!($kernel, "_int8_q4")),
            ($kernel, Form::Int8, "q5", concat!($kernel, "_int8_q5")),
            ($kernel, Form::Int8, "q6", concat!($kernel, "_int8_q6")),
            ($kernel, Form::Int8, "q8", concat!($kernel, "_int8_q8")),
        )*];
    };
}
variants!("expert_down", "expert_gate_up", "expert_matmul_down", "expert_matmul_gate_up", "matmul", "matvec");

/// What a product multiplies weights with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Activations as they are.
    F32,
    /// Activations that `quantise` packed.
    Int8,
}

/// The name of `kernel` for activations and a weight format: `matvec`, f32 and `q4` give `matvec_q4`, with int8
/// `matvec_int8_q4`.
///
/// # Panics
/// For a kernel or a format that does not exist: a mistake in an op.
pub fn variant(kernel: &str, form: Form, format: &str) -> &'static str {
    products()
        .find(|(k, a, f, _)| *k == kernel && *a == form && *f == format)
        .map(|(.., name)| *name)
        .expect("kernels, forms and formats are listed in VARIANTS")
}

fn products() -> impl Iterator<Item = &'static (&'static str, Form, &'static str, &'static str)> {
    VARIANTS.iter().chain(&COOPERATIVE)
}

/// Every shader by name.
pub fn names() -> impl Iterator<Item = &'static str> {
    let plain = PLAIN.iter().map(|(name, _)| *name);
    plain.chain(products().map(|(.., name)| *name))
}

/// The source of a shader, and its entry point.
pub fn source(name: &str) -> Option<(String, &'static str)> {
    if let Some((kernel, source)) = PLAIN.iter().find(|(kernel, _)| *kernel == name) {
        return Some(((*source).to_owned(), kernel));
    }
    let (kernel, form, format, _) = products().find(|(.., n)| *n == name)?;
    let (kernel, body) = MATRIX.iter().find(|(k, _)| k == kernel)?;
    let (_, weights) = WEIGHTS.iter().find(|(f, _)| f == format)?;
    let mut pieces = vec![wgsl!("shared/place"), weights];
    if *kernel == "matmul_cooperative" {
        // directives come first
        pieces.insert(0, "enable f16;\nenable wgpu_cooperative_matrix;");
    }
    if format.starts_with('q') {
        pieces.push(wgsl!("shared/scales"));
        pieces.push(match form {
            Form::F32 => wgsl!("shared/block_affine_f32"),
            Form::Int8 => wgsl!("shared/block_affine_int8"),
        });
    } else {
        pieces.push(wgsl!("shared/block_dense"));
    }
    pieces.push(match form {
        Form::F32 => wgsl!("shared/activations_f32"),
        Form::Int8 => wgsl!("shared/activations_int8"),
    });
    let tile = match form {
        Form::F32 => wgsl!("shared/tile_f32"),
        Form::Int8 => wgsl!("shared/tile_int8"),
    };
    match *kernel {
        "matmul" | "expert_matmul_down" => {
            pieces.extend([wgsl!("shared/tile"), tile, wgsl!("shared/tile_write")]);
        }
        "matmul_cooperative" => pieces.push(wgsl!("shared/halves")),
        "expert_matmul_gate_up" => pieces.extend([wgsl!("shared/tile"), tile, wgsl!("shared/quantise")]),
        "expert_gate_up" => pieces.extend([wgsl!("shared/team"), wgsl!("shared/quantise")]),
        _ => pieces.extend([wgsl!("shared/team"), wgsl!("shared/rows")]),
    }
    pieces.push(body);
    Some((pieces.join("\n"), kernel))
}
