//! From canonical names to those of GGUF files, and what the files of a family do with its tensors.

use std::ops::Range;

use crate::weights::names::{FusedRows, of_layer};

/// (canonical, in a file) of the parts of one layer, behind `layers.N.` and `blk.N.`.
const LAYER: [(&str, &str); 28] = [
    ("input_norm", "attn_norm"),
    ("attention.q", "attn_q"),
    ("attention.k", "attn_k"),
    ("attention.v", "attn_v"),
    ("attention.o", "attn_output"),
    ("attention.q_norm", "attn_q_norm"),
    ("attention.k_norm", "attn_k_norm"),
    ("delta_net.qkv", "attn_qkv"),
    ("delta_net.z", "attn_gate"),
    ("delta_net.b", "ssm_beta"),
    ("delta_net.a", "ssm_alpha"),
    ("delta_net.out", "ssm_out"),
    ("delta_net.conv", "ssm_conv1d"),
    ("delta_net.a_log", "ssm_a"),
    ("delta_net.dt_bias", "ssm_dt"),
    ("delta_net.norm", "ssm_norm"),
    ("ffn.gate", "ffn_gate"),
    ("ffn.up", "ffn_up"),
    ("ffn.down", "ffn_down"),
    ("router", "ffn_gate_inp"),
    ("shared.gate", "ffn_gate_shexp"),
    ("shared.up", "ffn_up_shexp"),
    ("shared.down", "ffn_down_shexp"),
    ("shared.scalar_gate", "ffn_gate_inp_shexp"),
    // not asked for by name: the routed experts
    ("", "ffn_gate_exps"),
    ("", "ffn_up_exps"),
    ("", "ffn_down_exps"),
    ("", "ffn_gate_up_exps"),
];

/// (canonical, in a file) outside of layers.
const OUTER: [(&str, &str); 3] = [("embed_tokens", "token_embd"), ("norm", "output_norm"), ("lm_head", "output")];

/// What the files of a family do with its tensors.
#[derive(Clone, Debug)]
pub(crate) struct GgufNames {
    /// What the norm before the feed-forward is called.
    pub(crate) post_norm: &'static str,
    /// Tensors that some files have in the place of several.
    pub(crate) fused: Vec<FusedRows>,
    /// Rows of a head of q and k lie as interleaved rotary positions want them: (elements of a head).
    pub(crate) interleaved_heads: Option<usize>,
}

impl GgufNames {
    /// What files call `name`, without `.weight`.
    ///
    /// # Panics
    /// For a name that the table does not have: a mistake in the family.
    pub(super) fn in_file(&self, name: &str) -> String {
        let find = |table: &[(&'static str, &'static str)], name: &str| {
            let found = table.iter().find(|(canonical, _)| *canonical == name);
            found.unwrap_or_else(|| panic!("{name} is not in the table of names")).1
        };
        match of_layer(name) {
            None => find(&OUTER, name).to_owned(),
            Some((layer, "post_norm")) => format!("blk.{layer}.{}", self.post_norm),
            Some((layer, rest)) => format!("blk.{layer}.{}", find(&LAYER, rest)),
        }
    }

    /// Where `name` is a part of a tensor that is fused: its layer, the tensor, and its rows.
    pub(super) fn fused_for(&self, name: &str) -> impl Iterator<Item = (usize, &FusedRows, &[Range<usize>])> {
        let (layer, rest) = of_layer(name).unwrap_or((usize::MAX, ""));
        self.fused.iter().filter_map(move |fused| {
            let (_, _, rows) = fused.parts.iter().find(|(canonical, ..)| *canonical == rest)?;
            Some((layer, fused, &rows[..]))
        })
    }

    /// Whether a tensor of a layer is one that a model may have: `tensor` is behind `blk.N.`.
    fn knows_in_layer(&self, tensor: &str) -> bool {
        let name = match tensor {
            "ssm_a" => return true,
            "ssm_dt.bias" => return true,
            _ => match tensor.strip_suffix(".weight") {
                Some(name) => name,
                None => return false,
            },
        };
        // one tensor for each expert, as in the first files of Mixtral
        let of_expert = |(name, expert): (&str, &str)| {
            ["ffn_gate", "ffn_up", "ffn_down"].contains(&name) && expert.bytes().all(|byte| byte.is_ascii_digit())
        };
        let with_bias = ["ssm_dt", "ssm_a"].contains(&name);
        name == self.post_norm
            || name.split_once('.').is_some_and(of_expert)
            || self.fused.iter().any(|fused| fused.module == name)
            || !with_bias && LAYER.iter().any(|(_, known)| *known == name)
    }

    /// Whether `tensor` is one that the model has, or one that is left alone: a layer from `layers` on is a head that
    /// guesses tokens, and some files hold a vision encoder too. Anything else would change what is computed.
    pub(super) fn knows(&self, tensor: &str, layers: usize) -> bool {
        let of_layer = tensor.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
        match of_layer.map(|(layer, rest)| (layer.parse::<usize>(), rest)) {
            Some((Ok(layer), rest)) => layer >= layers || self.knows_in_layer(rest),
            _ => {
                ["v.", "mm.", "mtp."].iter().any(|start| tensor.starts_with(start))
                    || OUTER.iter().any(|(_, known)| tensor.strip_suffix(".weight") == Some(known))
            }
        }
    }
}
