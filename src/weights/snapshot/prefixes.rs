//! Where the text model lies among the tensors of a release: prefixes, and which tensors are not its own.

use crate::weights::safetensors::TensorSet;

/// Where the text model lies, as (prefix of the trunk, name of lm_head): the multimodal release, MLX, text only.
pub(crate) const LAYOUTS: [(&str, &str); 3] =
    [("model.language_model.", "lm_head"), ("language_model.model.", "language_model.lm_head"), ("model.", "lm_head")];

/// What is in front of a module's name, longest first: the same module is `language_model.model.layers.0.mlp.gate` in
/// one release and `model.layers.0.mlp.gate` in another.
const PREFIXES: [&str; 4] = ["model.language_model.", "language_model.model.", "language_model.", "model."];

/// A module's name without the release's prefix: `layers.0.mlp.gate`, `embed_tokens`, `lm_head`.
pub(crate) fn plain(module: &str) -> &str {
    PREFIXES.iter().find_map(|prefix| module.strip_prefix(prefix)).unwrap_or(module)
}

/// Whether a module belongs to the text model's trunk or lm_head, and not to the vision tower or the MTP head.
pub(crate) fn is_text(module: &str) -> bool {
    let plain = plain(module);
    ["layers.", "embed_tokens", "norm", "lm_head"].iter().any(|start| plain.starts_with(start))
}

/// The text model's layout in `tensors`; `None` when there is no embedding under any known name.
pub(crate) fn layout(tensors: &TensorSet) -> Option<(&'static str, &'static str)> {
    LAYOUTS.into_iter().find(|(trunk, _)| tensors.get(&format!("{trunk}embed_tokens.weight")).is_some())
}

/// Whether a snapshot is in MLX form, which has the 1 of `1 + w` baked into its norms.
///
/// The axes of the convolution decide where there is one, as they do for MLX itself: MLX moves them when it adds the 1.
pub(crate) fn is_mlx(tensors: &TensorSet) -> bool {
    let conv = tensors.names().filter(|name| is_text(name)).find(|name| name.ends_with(".linear_attn.conv1d.weight"));
    match conv.and_then(|name| tensors.get(name)).map(|tensor| &tensor.shape[..]) {
        Some([_, 1, taps]) if *taps > 1 => false,
        Some([_, taps, 1]) if *taps > 1 => true,
        _ => tensors.names().any(|name| name.starts_with("language_model.") || name.ends_with(".scales")),
    }
}
