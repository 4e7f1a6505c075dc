//! From canonical names to those of a release.
//!
//! Canonical names are this program's own, and packs hold them: `embed_tokens`, `lm_head`, `norm`, and of layer N
//! `layers.N.` with `input_norm`, `post_norm`, `attention.q`, `.k`, `.v`, `.o`, `.q_norm`, `.k_norm`, `delta_net.qkv`,
//! `.z`, `.b`, `.a`, `.out`, `.conv`, `.a_log`, `.dt_bias`, `.norm`, `ffn.gate`, `.up`, `.down`, `router`,
//! `shared.gate`, `.up`, `.down`, `.scalar_gate`. A family gives its table of what its releases call them.

use std::ops::Range;
use std::path::Path;

use crate::file_error::FileError;

/// What releases of a family call its tensors.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    /// (canonical, in a release), of the parts of one layer: without `layers.N.`, and without `.weight` where a module has
    /// one.
    pub layer: &'static [&'static [(&'static str, &'static str)]],
    /// Norm weights in the release are `w` of `1 + w`, but for those that are [plain](super::VectorRole::PlainNorm).
    pub norms_plus_one: bool,
    /// Matrices that some releases keep as one, with rows out of order.
    pub fused: Vec<FusedRows>,
    /// How routed experts are called.
    pub experts: ExpertNames,
}

/// One tensor in a release that holds the rows of several canonical matrices.
#[derive(Clone, Debug)]
pub(crate) struct FusedRows {
    /// In a release, below the layer.
    pub module: &'static str,
    /// Rows of it.
    pub rows: usize,
    /// (canonical, name for messages, its rows in their order).
    pub parts: Vec<(&'static str, &'static str, Vec<Range<usize>>)>,
}

/// Routed experts of a layer in a release.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExpertNames {
    /// The module that holds them: `mlp`.
    pub module: &'static str,
    /// Gate, up and down of one expert, behind `experts.N.`.
    pub listed: [&'static str; 3],
}

/// [`ExpertNames`] of the Qwen families.
pub(crate) const MLP_EXPERTS: ExpertNames =
    ExpertNames { module: "mlp", listed: ["gate_proj", "up_proj", "down_proj"] };

/// The layer of a canonical name, and the rest of it: `layers.3.attention.q` is (3, `attention.q`).
pub(crate) fn of_layer(name: &str) -> Option<(usize, &str)> {
    let (layer, rest) = name.strip_prefix("layers.")?.split_once('.')?;
    Some((layer.parse().ok()?, rest))
}

/// No two tensors of the file at `path` have one name.
pub(crate) fn check_unique<'a>(path: &Path, names: impl Iterator<Item = &'a str>) -> Result<(), FileError> {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(()),
        Some(twice) => Err(FileError::new(path, format!("tensor `{}`", twice[0]), "one tensor of this name", "two")),
    }
}

impl Names {
    /// What a release calls `name` behind the prefix of its trunk.
    ///
    /// # Panics
    /// For a name that the family's table does not have: a mistake in the family.
    pub(crate) fn in_release(&self, name: &str) -> String {
        match of_layer(name) {
            None => name.to_owned(),
            Some((layer, rest)) => {
                let found = self.layer.iter().copied().flatten().find(|(canonical, _)| *canonical == rest);
                let (_, module) = found.unwrap_or_else(|| panic!("{name} is not in the family's table of names"));
                format!("layers.{layer}.{module}")
            }
        }
    }

    /// Where `name` is a part of a fused tensor.
    pub(crate) fn fused_for(&self, name: &str) -> Option<(&FusedRows, &'static str, &[Range<usize>])> {
        let (_, rest) = of_layer(name)?;
        self.fused.iter().find_map(|fused| {
            let (_, called, rows) = fused.parts.iter().find(|(canonical, ..)| *canonical == rest)?;
            Some((fused, *called, &rows[..]))
        })
    }
}
