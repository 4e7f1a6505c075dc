//! The small MoE as part of the program: a 4-bit pack of a trained 18 M-parameter model of the real architecture, so that
//! the first command a newcomer types works without a download.
//!
//! It is a crate of its own because the registry takes ten megabytes a crate, which it nearly has.

macro_rules! file {
    ($name:literal) => {
        concat!(env!("CARGO_MANIFEST_DIR"), "/small-moe/", $name)
    };
}

macro_rules! layers {
    ($($name:literal),*) => {
        [$(($name, include_bytes!(file!($name)))),*]
    };
}

/// The manifest of the pack.
pub const MANIFEST: &str = include_str!(file!("manifest.json"));
/// Weights that every token needs.
pub const RESIDENT: &[u8] = include_bytes!(file!("resident.safetensors"));
/// Experts of each layer, with the name that the manifest has for their file.
pub const LAYERS: [(&str, &[u8]); 8] = layers!(
    "experts/layer-000.bin",
    "experts/layer-001.bin",
    "experts/layer-002.bin",
    "experts/layer-003.bin",
    "experts/layer-004.bin",
    "experts/layer-005.bin",
    "experts/layer-006.bin",
    "experts/layer-007.bin"
);
/// `tokenizer.json`.
pub const TOKENIZER: &str = include_str!(file!("tokenizer.json"));
/// `tokenizer_config.json`.
pub const TOKENIZER_CONFIG: &str = include_str!(file!("tokenizer_config.json"));
/// `chat_template.jinja`.
pub const CHAT_TEMPLATE: &str = include_str!(file!("chat_template.jinja"));
/// `generation_config.json`.
pub const GENERATION_CONFIG: &str = include_str!(file!("generation_config.json"));
