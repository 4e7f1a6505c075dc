//! The WGSL of every kernel, put together from `wgsl/`: the shared pieces that a kernel imports, then the kernel. Nothing
//! else is generated.
//!
//! A line `//import NAME` of a kernel or of a shared piece takes `wgsl/shared/NAME.wgsl`: what it imports itself comes
//! before it, and however often it is named it is taken once. `enable` lines of all pieces go to the top.
//!
//! Kernels of products exist once per form of the activations and format of the weights. What depends on these is
//! imported by its role:
//!
//! | role | is | declares |
//! | --- | --- | --- |
//! | `activations` | `activations_f32`, `activations_int8` or, for scales of 16 columns, `activations_int8_16` | `x` (binding 0), `load`, `dot_block`, and the `Weights` of a block |
//! | `weights` | `weights_FORMAT` | which stream is what, and 32 weights of a row: as `codes_at` for `block_affine_*`, as `unpack` for `block_dense` |
//! | `separate` | `separate_FORMAT`, of formats with signed codes | 32 weights of a row for `block_separated_*`: codes, scales and biases |
//! | `block` | the format's for the form: `block_dense`, `block_affine_*`, `block_separated_*`, or what reads the format | `block_of`: the `Weights` of a row's block |
//! | `tile_form` | `tile_f32` or `tile_int8` | `tile_sums`: a tile of rows times tokens |
//! | `tile_scales` | `tile_scales_32` or `tile_scales_16` | scales of a tile of integers, and `add_products` |
//! | `weight_halves` | `weight_halves` or `weight_halves_16` | `weight_halves`: a block's weights in f16 |
//! | `unit` | `unit_of_block`, or what reads several blocks or another form of codes at a time, with activations in 8 bits | what a thread of a team multiplies at a time: `Unit`, `load_unit`, `dot_unit` |
//! | `separate_two`, `separate_numbers`, `separate_numbers_16` | the `separate_FORMAT` that declares more | what `unit_*` reads |
//! | `four_values`, `eight_values`, `even_signs`, `eight_signs`, `prepare` | `table_of_fours`, `table_of_eights`, `signs_of_*` and `prepare_tables` for teams, else what does without | what codes and signs are looked up in |
//! | `kept_table`, `kept_signs` | those of workgroup memory | what `prepare_tables` brings there |
//!
//! A weight format is a file `wgsl/shared/weights_NAME.wgsl` or `separate_NAME.wgsl`, and a row in `FORMATS`.

#[cfg(test)]
pub(crate) mod taken;

use std::sync::LazyLock;

/// One file of `wgsl/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct File {
    name: &'static str,
    text: &'static str,
}

macro_rules! kernel {
    ($name:expr) => {
        File { name: $name, text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/wgsl/", $name, ".wgsl")) }
    };
}

macro_rules! shared {
    ($name:expr) => {
        File { name: $name, text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/wgsl/shared/", $name, ".wgsl")) }
    };
}

/// Kernels that read no weights of any format.
const PLAIN: [File; 20] = [
    kernel!("attention"),
    kernel!("attention_merge"),
    kernel!("attention_prefill"),
    kernel!("combine"),
    kernel!("combine_norm"),
    kernel!("delta_net"),
    kernel!("delta_net_chunks"),
    kernel!("delta_net_inputs"),
    kernel!("delta_net_keep"),
    kernel!("delta_net_norm"),
    kernel!("delta_net_solve"),
    kernel!("expert_swiglu"),
    kernel!("kv_norm_rope"),
    kernel!("logits_top_k"),
    kernel!("query_norm_rope"),
    kernel!("quantise"),
    kernel!("rms_norm"),
    kernel!("router_top_k"),
    kernel!("stream_read"),
    kernel!("swiglu"),
];

/// Kernels of products, and the forms of activations that they take.
const PRODUCTS: [(File, &[Form]); 7] = [
    (kernel!("expert_down"), &Form::ALL),
    (kernel!("expert_gate_up"), &Form::ALL),
    (kernel!("expert_matmul_down"), &Form::ALL),
    (kernel!("expert_matmul_gate_up"), &Form::ALL),
    (kernel!("matmul"), &Form::ALL),
    (kernel!("matvec"), &Form::ALL),
    // it rounds to f16, which activations in f32 are not asked to bear
    (kernel!("matmul_cooperative"), &[Form::Int8]),
];

/// Pieces that are imported by their own name.
const SHARED: [File; 29] = [
    shared!("bytes"),
    shared!("bytes_of_signs"),
    shared!("codebook"),
    shared!("combined"),
    shared!("conv_input"),
    shared!("delta_net_scratch"),
    shared!("delta_net_token"),
    shared!("dot_16"),
    shared!("gated"),
    shared!("halves"),
    shared!("keep_inputs"),
    shared!("numbers_of_4_bits"),
    shared!("numbers_of_8_bits"),
    shared!("pack_head"),
    shared!("pack_row"),
    shared!("pairs_of_values"),
    shared!("place"),
    shared!("quantise"),
    shared!("rotated_head"),
    shared!("rows"),
    shared!("scales"),
    shared!("scales_of_6_bits"),
    shared!("separated"),
    shared!("sigmoid"),
    shared!("sum_over_threads"),
    shared!("team"),
    shared!("tile"),
    shared!("tile_codes"),
    shared!("tile_write"),
];

/// A weight format, as far as kernels see it.
struct Format {
    /// What the names of its shaders end with.
    suffix: &'static str,
    weights: File,
    /// How a block is read for products with activations in f32.
    block_f32: File,
    /// And in 8 bits; none where it is never multiplied with those.
    int8: Option<Int8>,
    /// What its codes, and the signs beside them, are looked up in, where teams have that in workgroup memory.
    table: Option<Table>,
}

/// What codes and signs are looked up in by workgroups.
#[derive(Clone, Copy)]
struct Table {
    values: File,
    signs: File,
}

/// How products with activations in 8 bits read a format.
#[derive(Clone, Copy)]
struct Int8 {
    activations: File,
    block: File,
    tile_scales: File,
    weight_halves: File,
    /// What a thread of a team multiplies at a time.
    unit: File,
}

impl Int8 {
    /// Of blocks with one scale.
    const fn of_32(block: File) -> Int8 {
        Int8 {
            activations: shared!("activations_int8"),
            block,
            tile_scales: shared!("tile_scales_32"),
            weight_halves: shared!("weight_halves"),
            unit: shared!("unit_of_block"),
        }
    }

    /// Of blocks with a scale for each 16 columns.
    const fn of_16(block: File) -> Int8 {
        Int8 {
            activations: shared!("activations_int8_16"),
            block,
            tile_scales: shared!("tile_scales_16"),
            weight_halves: shared!("weight_halves_16"),
            unit: shared!("unit_of_block"),
        }
    }

    const fn by(self, unit: File) -> Int8 {
        Int8 { unit, ..self }
    }
}

macro_rules! dense {
    ($suffix:literal) => {
        Format {
            suffix: $suffix,
            weights: shared!(concat!("weights_", $suffix)),
            block_f32: shared!("block_dense"),
            int8: None,
            table: None,
        }
    };
}

macro_rules! affine {
    ($suffix:literal) => {
        Format {
            suffix: $suffix,
            weights: shared!(concat!("weights_", $suffix)),
            block_f32: shared!("block_affine_f32"),
            int8: Some(Int8::of_32(shared!("block_affine_int8"))),
            table: None,
        }
    };
}

macro_rules! blocks {
    ($suffix:literal, $int8:expr) => {
        blocks!($suffix, $int8, None)
    };
    ($suffix:literal, $int8:expr, $values:literal and $signs:literal) => {
        blocks!($suffix, $int8, Some(Table { values: shared!($values), signs: shared!($signs) }))
    };
    ($suffix:literal, $int8:expr, $table:expr) => {
        Format {
            suffix: $suffix,
            weights: shared!(concat!("separate_", $suffix)),
            block_f32: shared!("block_separated_f32"),
            int8: Some($int8),
            table: $table,
        }
    };
}

const OF_32: Int8 = Int8::of_32(shared!("block_separated_int8"));
const OF_16: Int8 = Int8::of_16(shared!("block_separated_int8_16"));
const BY_TWO: Int8 = OF_16.by(shared!("unit_of_two"));
const FP4: Int8 = OF_32.by(shared!("unit_fp4"));
const FP4_16: Int8 = OF_16.by(shared!("unit_fp4_16"));

/// Every weight format.
static FORMATS: [Format; 35] = [
    dense!("bf16"),
    dense!("f16"),
    dense!("f32"),
    Format { suffix: "fp8", weights: shared!("block_fp8"), block_f32: shared!("block_fp8"), int8: None, table: None },
    Format {
        suffix: "fp4",
        weights: shared!("separate_fp4"),
        block_f32: shared!("block_interleaved_f32"),
        int8: Some(FP4),
        table: None,
    },
    Format {
        suffix: "fp4_16",
        weights: shared!("separate_fp4_16"),
        block_f32: shared!("block_interleaved_f32"),
        int8: Some(FP4_16),
        table: None,
    },
    affine!("q2"),
    affine!("q3"),
    affine!("q4"),
    affine!("q5"),
    affine!("q6"),
    affine!("q8"),
    blocks!("iq1_m", OF_16),
    blocks!("iq1_s", OF_32),
    blocks!("iq2_s", OF_16),
    blocks!("iq2_xs", OF_16, "table_of_eights" and "signs_of_seven"),
    blocks!("iq2_xxs", OF_32, "table_of_eights" and "signs_of_seven"),
    blocks!("iq3_s", OF_32, "table_of_fours" and "signs_of_eight"),
    blocks!("iq3_xxs", OF_32, "table_of_fours" and "signs_of_seven"),
    blocks!("iq4_nl", OF_32, "table_of_fours" and "signs_none"),
    blocks!("iq4_xs", OF_32, "table_of_fours" and "signs_none"),
    blocks!("mxfp4", FP4),
    blocks!("nvfp4", FP4_16),
    blocks!("q2_k", BY_TWO),
    blocks!("q3_k", BY_TWO),
    blocks!("q4_0", OF_32),
    blocks!("q4_1", OF_32),
    blocks!("q4_k", OF_32),
    blocks!("q5_0", OF_32),
    blocks!("q5_1", OF_32),
    blocks!("q5_k", OF_32),
    blocks!("q6_k", BY_TWO),
    blocks!("q8_0", OF_32),
    blocks!("tq1_0", OF_32),
    blocks!("tq2_0", OF_32),
];

/// What a product multiplies weights with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Activations as they are.
    F32,
    /// Activations that `quantise` packed.
    Int8,
}

impl Form {
    const ALL: [Form; 2] = [Form::F32, Form::Int8];
}

/// A kernel of products for one form and format.
struct Variant {
    name: &'static str,
    kernel: File,
    form: Form,
    format: &'static Format,
}

impl Variant {
    /// The tables of the format, where the kernel is one of teams.
    fn table(&self) -> Option<Table> {
        self.format.table.filter(|_| !self.kernel.name.contains("matmul"))
    }

    fn role(&self, import: &str) -> Option<File> {
        let int8 = self.format.int8.filter(|_| self.form == Form::Int8);
        match (import, int8) {
            ("weights" | "separate" | "separate_two" | "separate_numbers" | "separate_numbers_16", _) => {
                Some(self.format.weights)
            }
            ("activations", Some(int8)) => Some(int8.activations),
            ("block", Some(int8)) => Some(int8.block),
            ("tile_form", Some(_)) => Some(shared!("tile_int8")),
            ("tile_scales", Some(int8)) => Some(int8.tile_scales),
            ("weight_halves", Some(int8)) => Some(int8.weight_halves),
            ("activations", None) => Some(shared!("activations_f32")),
            ("block", None) => Some(self.format.block_f32),
            ("tile_form", None) => Some(shared!("tile_f32")),
            ("unit", Some(int8)) => Some(int8.unit),
            ("unit", None) => Some(shared!("unit_of_block")),
            ("four_values" | "eight_values", _) => Some(self.table().map_or(shared!("table_of_device"), |t| t.values)),
            ("even_signs" | "eight_signs", _) => Some(self.table().map_or(shared!("signs_computed"), |t| t.signs)),
            ("kept_table", _) => self.table().map(|table| table.values),
            ("kept_signs", _) => self.table().map(|table| table.signs),
            ("prepare", _) if self.table().is_some() => Some(shared!("prepare_tables")),
            ("prepare", _) => Some(shared!("prepare_nothing")),
            _ => None,
        }
    }
}

/// All variants. Names are made once, so that each is one `&'static str` everywhere.
static VARIANTS: LazyLock<Vec<Variant>> = LazyLock::new(|| {
    let mut all = Vec::new();
    for (kernel, forms) in PRODUCTS {
        for &form in forms {
            for format in &FORMATS {
                if form == Form::Int8 && format.int8.is_none() {
                    continue;
                }
                let name = match form {
                    Form::F32 => format!("{}_{}", kernel.name, format.suffix),
                    Form::Int8 => format!("{}_int8_{}", kernel.name, format.suffix),
                };
                all.push(Variant { name: name.leak(), kernel, form, format });
            }
        }
    }
    all
});

/// Why a shader cannot be put together.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShaderError {
    /// No kernel, form and format have this name.
    #[error("there is no shader `{0}`")]
    Unknown(String),
    /// An import that is neither a piece nor a role of the shader.
    #[error("`{file}` imports `{import}`: expected a file of wgsl/shared or, in a product, a role (see shaders.rs)")]
    Import {
        /// The kernel or piece.
        file: &'static str,
        /// What it names.
        import: &'static str,
    },
    /// A piece that imports itself, maybe through others.
    #[error("`{0}` is imported by what it imports")]
    Circle(&'static str),
}

/// The name of `kernel` for activations and a weight format: `matvec`, f32 and `q4` give `matvec_q4`, with int8
/// `matvec_int8_q4`.
///
/// # Panics
/// For a kernel or a format that does not exist, or that is not multiplied with this form: a mistake in an op.
pub fn variant(kernel: &str, form: Form, format: &str) -> &'static str {
    let found = VARIANTS.iter().find(|v| v.kernel.name == kernel && v.form == form && v.format.suffix == format);
    found.expect("kernels, forms and formats are rows of PRODUCTS and FORMATS").name
}

/// Every shader by name.
pub fn names() -> impl Iterator<Item = &'static str> {
    let plain = PLAIN.iter().map(|kernel| kernel.name);
    plain.chain(VARIANTS.iter().map(|variant| variant.name))
}

/// The source of a shader, and its entry point.
///
/// # Errors
/// For a name that is not among [`names`]. Whatever else is wrong is a mistake in `wgsl/`, which a test finds.
pub fn source(name: &str) -> Result<(String, &'static str), ShaderError> {
    if let Some(kernel) = PLAIN.iter().find(|kernel| kernel.name == name) {
        return Ok((assemble(*kernel, &piece)?, kernel.name));
    }
    let variant = VARIANTS.iter().find(|v| v.name == name).ok_or_else(|| ShaderError::Unknown(name.to_owned()))?;
    let text = assemble(variant.kernel, &|import| variant.role(import).or_else(|| piece(import)))?;
    Ok((text, variant.kernel.name))
}

fn piece(import: &str) -> Option<File> {
    SHARED.iter().find(|file| file.name == import).copied()
}

/// `kernel` after all that it imports, as `find` resolves it.
fn assemble(kernel: File, find: &dyn Fn(&str) -> Option<File>) -> Result<String, ShaderError> {
    let mut files = Vec::new();
    take(kernel, find, &mut Vec::new(), &mut files)?;
    let is_enable = |line: &&str| line.starts_with("enable ");
    let mut enables: Vec<&str> = files.iter().flat_map(|file| file.text.lines().filter(is_enable)).collect();
    enables.sort_unstable();
    enables.dedup();
    let code = files.iter().flat_map(|file| file.text.lines().filter(|line| !is_enable(line)));
    Ok(enables.into_iter().chain(code).flat_map(|line| [line, "\n"]).collect())
}

/// Adds `file` to `files` after what it imports. `open` are those that are on the way to it.
fn take(
    file: File,
    find: &dyn Fn(&str) -> Option<File>,
    open: &mut Vec<File>,
    files: &mut Vec<File>,
) -> Result<(), ShaderError> {
    if files.contains(&file) {
        return Ok(());
    }
    if open.contains(&file) {
        return Err(ShaderError::Circle(file.name));
    }
    open.push(file);
    for import in file.text.lines().filter_map(|line| line.strip_prefix("//import ")) {
        let found = find(import).ok_or(ShaderError::Import { file: file.name, import })?;
        take(found, find, open, files)?;
    }
    open.pop();
    files.push(file);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [File; 5] = [
        File { name: "low", text: "enable f16;\nlow" },
        File { name: "middle", text: "// middle\n\n//import low\nmiddle" },
        File { name: "lost", text: "//import nowhere" },
        File { name: "chicken", text: "//import egg" },
        File { name: "egg", text: "//import chicken" },
    ];

    fn of(text: &'static str) -> Result<String, ShaderError> {
        assemble(File { name: "kernel", text }, &|import| FILES.iter().find(|file| file.name == import).copied())
    }

    #[test]
    fn imports_come_once_and_before_their_users() {
        let text = of("//import middle\n//import low\nkernel\n").expect("all is there");
        let code: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.starts_with("//")).collect();
        assert_eq!(code, ["enable f16;", "low", "middle", "kernel"]);
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let nowhere = |file, import| Err(ShaderError::Import { file, import });
        assert_eq!(of("//import nothing"), nowhere("kernel", "nothing"));
        assert_eq!(of("//import low \n"), nowhere("kernel", "low "), "a name is the rest of the line");
        assert_eq!(of("//import lost"), nowhere("lost", "nowhere"));
        assert_eq!(of("//import chicken"), Err(ShaderError::Circle("chicken")));
        assert_eq!(source("matvec_q7"), Err(ShaderError::Unknown("matvec_q7".to_owned())));
        // roles are those of products
        assert!(piece("weights").is_none() && piece("block").is_none());
    }
}
