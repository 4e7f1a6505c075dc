//! The small MoE as part of the program: a 4-bit pack of a trained 18 M-parameter model of the real architecture, so that
//! the first command a newcomer types works without a download.

macro_rules! file {
    ($name:literal) => {
        concat!(env!("CARGO_MANIFEST_DIR"), "/models/small-moe/", $name)
    };
}

macro_rules! layers {
    ($($name:literal),*) => {
        [$(($name, include_bytes!(file!($name)))),*]
    };
}

pub(super) const MANIFEST: &str = include_str!(file!("manifest.json"));
pub(super) const RESIDENT: &[u8] = include_bytes!(file!("resident.safetensors"));
pub(super) const LAYERS: [(&str, &[u8]); 8] = layers!(
    "experts/layer-000.bin",
    "experts/layer-001.bin",
    "experts/layer-002.bin",
    "experts/layer-003.bin",
    "experts/layer-004.bin",
    "experts/layer-005.bin",
    "experts/layer-006.bin",
    "experts/layer-007.bin"
);
pub(super) const TOKENIZER: &str = include_str!(file!("tokenizer.json"));
pub(super) const TOKENIZER_CONFIG: &str = include_str!(file!("tokenizer_config.json"));
pub(super) const CHAT_TEMPLATE: &str = include_str!(file!("chat_template.jinja"));
pub(super) const GENERATION_CONFIG: &str = include_str!(file!("generation_config.json"));
