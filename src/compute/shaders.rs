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
//! | `activations` | `activations_f32`, `activations_int8` or, for scales of 16 columns, `activations_int8_16`, for FP8 `activations_int8_fp8` | `x` (binding 0), `load`, `dot_block`, and the `Weights` of a block |
//! | `weights` | `weights_FORMAT` | which stream is what, and 32 weights of a row: as `codes_at` for `block_affine_*`, as `unpack` for `block_dense` |
//! | `separate` | `separate_FORMAT`, of formats with signed codes | 32 weights of a row for `block_separated_*`: codes, scales and biases |
//! | `block` | the format's for the form: `block_dense`, `block_affine_*`, `block_separated_*`, or what reads the format | `block_of`: the `Weights` of a row's block |
//! | `tile_form` | `tile_f32` or `tile_int8` | `tile_sums`: a tile of rows times tokens |
//! | `tile_parts` | `tile_parts_f32` or `tile_parts_int8` | `sums_of_parts`: what adds up those of parts of the columns |
//! | `tile_scales` | `tile_scales_32` or `tile_scales_16` | scales of a tile of integers, and `add_products` |
//! | `matrix_unit`, `add_whole` | `matrix_unit_16` and `add_whole_16` with activations in 8 bits, `matrix_unit_8` and `add_whole_8` with those in f32 | what a matrix unit multiplies and adds, and where that lies |
//! | `weight_halves` | `weight_halves`, `weight_halves_16` or `weight_halves_f32` | `weight_halves`, `activation_halves`: a block in f16 |
//! | `unit` | `unit_of_block`, or what reads several blocks or another form of codes at a time, with activations in 8 bits | what a thread of a team multiplies at a time: `Unit`, `load_unit`, `dot_unit` |
//! | `separate_two`, `separate_numbers`, `separate_numbers_16` | the `separate_FORMAT` that declares more | what `unit_*` reads |
//! | `four_values`, `eight_values`, `eight_signs`, `seven_signs`, `prepare` | `table_of_fours`, `table_of_eights`, `signs_of_*` and `prepare_tables` for teams, else what does without | what codes and signs are looked up in |
//! | `kept_table`, `kept_signs` | those of workgroup memory | what `prepare_tables` brings there |
//!
//! Kernels of the KV cache exist once per format of keys and values: see `cached`.
//!
//! A weight format is a file `wgsl/shared/weights_NAME.wgsl` or `separate_NAME.wgsl`, and a row in `formats`.

#[cfg(test)]
pub(crate) mod taken;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;

use flashflood_backends::gpu::MatrixUnits;

use cached::Cached;
use formats::{FORMATS, Format, Int8, Table};

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

// behind the macros that they use
pub(crate) mod cached;
mod formats;

/// Kernels that read no weights of any format.
const PLAIN: [File; 19] = [
    kernel!("combine"),
    kernel!("combine_norm"),
    kernel!("combine_unscaled"),
    kernel!("delta_net"),
    kernel!("delta_net_chunks"),
    kernel!("delta_net_chunks_cooperative"),
    kernel!("delta_net_inputs"),
    kernel!("delta_net_keep"),
    kernel!("delta_net_norm"),
    kernel!("delta_net_solve"),
    kernel!("expert_count"),
    kernel!("expert_group"),
    kernel!("expert_swiglu"),
    kernel!("logits_top_k"),
    kernel!("quantise"),
    kernel!("rms_norm"),
    kernel!("router_top_k"),
    kernel!("stream_read"),
    kernel!("swiglu"),
];

/// Kernels of products, and the forms of activations that they take.
const PRODUCTS: [(File, &[Form]); 11] = [
    (kernel!("expert_down"), &Form::ALL),
    (kernel!("expert_gate_up"), &Form::ALL),
    (kernel!("expert_matmul_down"), &Form::ALL),
    (kernel!("expert_matmul_gate_up"), &Form::ALL),
    (kernel!("matmul"), &Form::ALL),
    (kernel!("matvec"), &Form::ALL),
    (kernel!("matvec_norm"), &Form::ALL),
    // with activations in f32 an H200 is 1 % faster by the two kernels that it is
    (kernel!("expert_down_combine"), &[Form::Int8]),
    // units of 16 x 16 with activations in 8 bits, of 8 x 8 with those in f32: what devices that have them multiply fastest
    // without. All of them round to f16
    (kernel!("expert_matmul_cooperative_down"), &Form::ALL),
    (kernel!("expert_matmul_cooperative_gate_up"), &Form::ALL),
    (kernel!("matmul_cooperative"), &Form::ALL),
];

/// With activations in 8 bits of formats whose [tiles are not of integers](Int8::tile_scales) alone: of the others, 64 pairs of
/// an expert of 512 x 2048 take an H200 less time by dot products (gate and up 70 TFLOP/s, down 68) than by matrix units (84
/// and 58, with what becomes of the sums), and few pairs half of it.
const EXPERTS_ON_UNITS: [&str; 2] = ["expert_matmul_cooperative_down", "expert_matmul_cooperative_gate_up"];

/// Pieces that are imported by their own name.
const SHARED: [File; 49] = [
    shared!("bytes"),
    shared!("bytes_of_signs"),
    shared!("cache_f16"),
    shared!("cache_q8"),
    shared!("cache_tq4"),
    shared!("chosen"),
    shared!("codebook"),
    shared!("combined"),
    shared!("conv_input"),
    shared!("delta_net_scratch"),
    shared!("delta_net_token"),
    shared!("dot_16"),
    shared!("dot_4_bits"),
    shared!("dot_columns"),
    shared!("even_signs"),
    shared!("expert_tile"),
    shared!("four_blocks"),
    shared!("gated"),
    shared!("halves"),
    shared!("head"),
    shared!("keep_inputs"),
    shared!("numbers_fp8"),
    shared!("numbers_of_4_bits"),
    shared!("numbers_of_8_bits"),
    shared!("own"),
    shared!("pack_group"),
    shared!("pack_head"),
    shared!("pack_row"),
    shared!("pairs_of_values"),
    shared!("place"),
    shared!("prefill_rows"),
    shared!("quantise"),
    shared!("rotated_head"),
    shared!("rows"),
    shared!("scales"),
    shared!("scales_of_6_bits"),
    shared!("separated"),
    shared!("sigmoid"),
    shared!("signs_of_block"),
    shared!("squares"),
    shared!("sum_over_threads"),
    shared!("team"),
    shared!("tile"),
    shared!("tile_codes"),
    shared!("tile_cooperative"),
    shared!("tile_in_parts"),
    shared!("tile_write"),
    shared!("turn_quads"),
    shared!("words_in_a_row"),
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

    /// What matrix units multiply: on Metal activations are in f32, elsewhere in 8 bits.
    pub(crate) fn of_units(units: MatrixUnits) -> Form {
        match units {
            MatrixUnits::By8 => Form::F32,
            MatrixUnits::By16 => Form::Int8,
        }
    }
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
            ("tile_form", Some(Int8 { tile_scales: Some(_), .. })) => Some(shared!("tile_int8")),
            ("tile_scales", Some(int8)) => int8.tile_scales,
            ("weight_halves", Some(int8)) => Some(int8.weight_halves),
            ("weight_halves", None) => Some(shared!("weight_halves_f32")),
            ("matrix_unit", Some(_)) => Some(shared!("matrix_unit_16")),
            ("matrix_unit", None) => Some(shared!("matrix_unit_8")),
            ("add_whole", Some(_)) => Some(shared!("add_whole_16")),
            ("add_whole", None) => Some(shared!("add_whole_8")),
            ("activations", None) => Some(shared!("activations_f32")),
            ("block", None) => Some(self.format.block_f32),
            ("tile_form", _) => Some(shared!("tile_f32")),
            ("tile_parts", Some(Int8 { tile_scales: Some(_), .. })) => Some(shared!("tile_parts_int8")),
            ("tile_parts", _) => Some(shared!("tile_parts_f32")),
            ("unit", Some(int8)) => Some(int8.unit),
            ("unit", None) => Some(shared!("unit_of_block")),
            ("four_values" | "eight_values", _) => Some(self.table().map_or(shared!("table_of_device"), |t| t.values)),
            ("eight_signs", _) => Some(self.table().map_or(shared!("signs_computed"), |t| t.signs)),
            ("seven_signs", _) => Some(self.table().map_or(shared!("sevens_computed"), |t| t.signs)),
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
            let is_made = |format: &&Format| match (form, format.int8) {
                (Form::F32, _) => true,
                (Form::Int8, None) => false,
                (Form::Int8, Some(int8)) => !EXPERTS_ON_UNITS.contains(&kernel.name) || int8.tile_scales.is_none(),
            };
            for format in FORMATS.iter().filter(is_made) {
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

/// All kernels of caches.
static CACHED: LazyLock<Vec<Cached>> = LazyLock::new(Cached::all);

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

/// Whether there is a kernel for activations and a weight format.
pub(crate) fn has_variant(kernel: &str, form: Form, format: &str) -> bool {
    VARIANTS.iter().any(|v| v.kernel.name == kernel && v.form == form && v.format.suffix == format)
}

/// The units that a shader is for, if it is for some.
pub(crate) fn units_of(name: &str) -> Option<MatrixUnits> {
    let by_form = VARIANTS.iter().find(|variant| variant.name == name).map(|variant| variant.form);
    let units = if by_form == Some(Form::F32) { MatrixUnits::By8 } else { MatrixUnits::By16 };
    name.contains("_cooperative").then_some(units)
}

/// Every shader by name.
pub fn names() -> impl Iterator<Item = &'static str> {
    let plain = PLAIN.iter().map(|kernel| kernel.name);
    plain.chain(CACHED.iter().map(|cached| cached.name)).chain(VARIANTS.iter().map(|variant| variant.name))
}

/// The source of a shader, and its entry point.
///
/// # Errors
/// For a name that is not among [`names`]. Whatever else is wrong is a mistake in `wgsl/`, which a test finds.
pub fn source(name: &str) -> Result<(String, &'static str), ShaderError> {
    if let Some(kernel) = PLAIN.iter().find(|kernel| kernel.name == name) {
        return Ok((assemble(*kernel, &piece)?, kernel.name));
    }
    if let Some(cached) = CACHED.iter().find(|cached| cached.name == name) {
        return Ok((assemble(cached.kernel, &|import| cached.find(import))?, cached.kernel.name));
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
