//! What most releases call the tensors of a layer: (canonical, in a release), by parts of a layer.

/// Of the names of a family.
pub(super) type Table = [(&'static str, &'static str)];

pub(super) const ATTENTION: &Table = &[
    ("input_norm", "input_layernorm"),
    ("post_norm", "post_attention_layernorm"),
    ("attention.q", "self_attn.q_proj"),
    ("attention.k", "self_attn.k_proj"),
    ("attention.v", "self_attn.v_proj"),
    ("attention.o", "self_attn.o_proj"),
];

pub(super) const HEAD_NORMS: &Table =
    &[("attention.q_norm", "self_attn.q_norm"), ("attention.k_norm", "self_attn.k_norm")];

pub(super) const DELTA_NET: &Table = &[
    ("delta_net.qkv", "linear_attn.in_proj_qkv"),
    ("delta_net.z", "linear_attn.in_proj_z"),
    ("delta_net.b", "linear_attn.in_proj_b"),
    ("delta_net.a", "linear_attn.in_proj_a"),
    ("delta_net.out", "linear_attn.out_proj"),
    ("delta_net.conv", "linear_attn.conv1d"),
    ("delta_net.a_log", "linear_attn.A_log"),
    ("delta_net.dt_bias", "linear_attn.dt_bias"),
    ("delta_net.norm", "linear_attn.norm"),
];

pub(super) const FEED_FORWARD: &Table =
    &[("ffn.gate", "mlp.gate_proj"), ("ffn.up", "mlp.up_proj"), ("ffn.down", "mlp.down_proj")];

pub(super) const ROUTER: &Table = &[("router", "mlp.gate")];

pub(super) const SHARED_EXPERT: &Table = &[
    ("shared.gate", "mlp.shared_expert.gate_proj"),
    ("shared.up", "mlp.shared_expert.up_proj"),
    ("shared.down", "mlp.shared_expert.down_proj"),
    ("shared.scalar_gate", "mlp.shared_expert_gate"),
];
