#!/usr/bin/env python3
"""Oracle for the Qwen3.5-MoE text model family (CPU, torch + transformers from PyPI).

  python oracle.py --out tiny                       # Qwen3.5-MoE, tiny dims (default)
  python oracle.py --preset realheads --out tiny_rh # real head dims (256 / 128), small width
  python oracle.py --arch qwen3_next --out tiny_next
  python oracle.py --arch qwen3_moe  --out tiny_q3moe
  python oracle.py --preset mini --layer-types full,linear,full,linear --out mini_seed   # about 1.5 MB, any mix of layers
  python oracle.py --preset mini_heads --no-mtp-weights --out mini_heads                # real head dims in about 1 MB

Writes into --out:
  config.json, generation_config.json, model-0000x-of-0000y.safetensors, model.safetensors.index.json
      a checkpoint with the tensor names, shapes and dtypes of the real one (BF16; A_log and linear_attn.norm F32
      for qwen3_5_moe), including mtp.* (per-expert tensors, as in Qwen3.5-35B-A3B)
  oracle.safetensors   reference tensors, all F32/I32 (see oracle.json for what each one is)
  oracle.json          versions, arguments, token list, measured agreements

All reference numbers are computed in float32 from the BF16-rounded weights, so an implementation that keeps
BF16 weights and computes in f32 must agree to ~1e-4 relative.
"""
import argparse, json, os, sys
import torch
import transformers
from safetensors.torch import save_file, load_file

ap = argparse.ArgumentParser()
ap.add_argument("--arch", default="qwen3_5_moe", choices=["qwen3_5_moe", "qwen3_next", "qwen3_moe"])
ap.add_argument("--preset", default="tiny", choices=["tiny", "mini", "mini_heads", "heads", "realheads"])
ap.add_argument("--out", default="tiny")
ap.add_argument("--seed", type=int, default=None)
ap.add_argument("--tokens", type=int, default=96, help="length of the token list (64 + 32: two chunks)")
ap.add_argument("--split", type=int, default=50, help="continuation test: prefill this many, then 41 more, then single steps")
ap.add_argument("--shard-mb", type=float, default=1.0)
ap.add_argument("--threads", type=int, default=2)
ap.add_argument("--residual-gain", type=float, default=1.0, help="scale of o_proj/out_proj/down_proj: < 1 gives a model that "
                "amplifies rounding less, for testing low-precision activations")
ap.add_argument("--layer-types", default=None, help="qwen3_5_moe only: comma-separated full|linear, one per layer; written as layer_types "
                "without full_attention_interval")
ap.add_argument("--no-mtp-weights", action="store_true", help="leave mtp.* out of the checkpoint; nothing else in it or in the oracle changes")
ap.add_argument("--probe-seeds", type=int, default=0, help="only print the smallest router gap for this many seeds from --seed")
a = ap.parse_args()
if a.seed is None:   # seeds chosen for a wide smallest router gap (see --probe-seeds)
    a.seed = {("qwen3_5_moe", "realheads"): 20260324}.get((a.arch, a.preset), 20260264)
torch.set_num_threads(a.threads)
torch.manual_seed(a.seed)
gen = torch.Generator().manual_seed(a.seed)

# ---------------------------------------------------------------- dimensions
if a.preset == "heads":   # real head sizes in a small file
    D = dict(H=128, L=2, V=256, nq=4, nkv=2, hd=256, E=8, topk=4, I=64, Is=64, hk=2, hv=4, dk=128, dv=128, mrope=[11, 11, 10], theta=10000000.0,
             layer_types=["linear_attention", "full_attention"])
elif a.preset == "mini_heads":   # real head sizes in the smallest file
    D = dict(H=64, L=2, V=128, nq=2, nkv=1, hd=256, E=4, topk=2, I=32, Is=32, hk=1, hv=2, dk=128, dv=128, mrope=[11, 11, 10], theta=10000000.0,
             layer_types=["linear_attention", "full_attention"])
elif a.preset == "tiny":
    D = dict(H=128, L=4, V=512, nq=8, nkv=2, hd=32, E=16, topk=4, I=64, Is=64, hk=2, hv=8, dk=32, dv=32,
             mrope=[2, 1, 1], theta=10000000.0)
elif a.preset == "mini":   # the smallest one: what a repository can hold several of
    D = dict(H=64, L=4, V=256, nq=4, nkv=2, hd=32, E=8, topk=2, I=64, Is=64, hk=2, hv=4, dk=32, dv=32,
             mrope=[2, 1, 1], theta=10000000.0)
else:  # head dims, rotary dim and mrope sections of the real models
    D = dict(H=256, L=4, V=1024, nq=4, nkv=2, hd=256, E=32, topk=8, I=128, Is=128, hk=2, hv=8, dk=128, dv=128,
             mrope=[11, 11, 10], theta=10000000.0)

if a.layer_types:
    if a.arch != "qwen3_5_moe": ap.error("--layer-types: only qwen3_5_moe writes layer_types into config.json")
    D["layer_types"] = [{"full": "full_attention", "linear": "linear_attention"}[x] for x in a.layer_types.split(",")]
    if len(D["layer_types"]) != D["L"]: ap.error(f"--layer-types: {D['L']} layers wanted")

common = dict(vocab_size=D["V"], hidden_size=D["H"], num_hidden_layers=D["L"], num_attention_heads=D["nq"],
              num_key_value_heads=D["nkv"], head_dim=D["hd"], hidden_act="silu", max_position_embeddings=4096,
              rms_norm_eps=1e-6, attention_bias=False, moe_intermediate_size=D["I"], num_experts=D["E"],
              num_experts_per_tok=D["topk"], tie_word_embeddings=False, bos_token_id=None, eos_token_id=None)
if "layer_types" in D: common["layer_types"] = D["layer_types"]
linear = dict(linear_conv_kernel_dim=4, linear_key_head_dim=D["dk"], linear_value_head_dim=D["dv"],
              linear_num_key_heads=D["hk"], linear_num_value_heads=D["hv"], shared_expert_intermediate_size=D["Is"])

if a.arch == "qwen3_5_moe":
    from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe as M
    cfg = transformers.Qwen3_5MoeTextConfig(**common, **linear, rope_parameters=dict(
        rope_type="default", rope_theta=D["theta"], partial_rotary_factor=0.25, mrope_section=D["mrope"],
        mrope_interleaved=True))
    Model, P = transformers.Qwen3_5MoeForCausalLM, "Qwen3_5Moe"
elif a.arch == "qwen3_next":
    from transformers.models.qwen3_next import modeling_qwen3_next as M
    cfg = transformers.Qwen3NextConfig(**common, **linear, intermediate_size=2 * D["I"], norm_topk_prob=True,
                                       decoder_sparse_step=1, mlp_only_layers=[], rope_parameters=dict(
        rope_type="default", rope_theta=D["theta"], partial_rotary_factor=0.25))
    Model, P = transformers.Qwen3NextForCausalLM, "Qwen3Next"
else:
    from transformers.models.qwen3_moe import modeling_qwen3_moe as M
    cfg = transformers.Qwen3MoeConfig(**common, intermediate_size=2 * D["I"], norm_topk_prob=True,
                                      decoder_sparse_step=1, mlp_only_layers=[], rope_parameters=dict(
        rope_type="default", rope_theta=1000000.0))
    Model, P = transformers.Qwen3MoeForCausalLM, "Qwen3Moe"
cfg._attn_implementation = "eager"
cfg._experts_implementation = "eager"
zero_centred = a.arch != "qwen3_moe"        # RMSNorm multiplies by (1 + w)
has_linear = a.arch != "qwen3_moe"

# ---------------------------------------------------------------- weights
def rnd(shape, std=1.0, mean=0.0):
    return torch.randn(shape, generator=gen) * std + mean

def uni(shape, lo, hi):
    return torch.rand(shape, generator=gen) * (hi - lo) + lo

def init_(name, t):
    """Values that make every path matter: norms not trivial, decays spread over (0.2, 1), router well separated."""
    n = name
    if n.endswith("A_log"):
        return torch.log(uni(t.shape, 0.5, 8.0))
    if n.endswith("dt_bias"):
        return uni(t.shape, -5.0, -1.0)
    if n.endswith("linear_attn.norm.weight"):
        return rnd(t.shape, 0.1, 1.0)                    # plain weight, NOT zero-centred
    if n.endswith("norm.weight") or "layernorm" in n or "pre_fc_norm" in n:
        return rnd(t.shape, 0.1, 0.0 if zero_centred else 1.0)
    if n.endswith("conv1d.weight"):
        return rnd(t.shape, 0.4)
    if n.endswith("embed_tokens.weight"):
        return rnd(t.shape, 1.0)
    fan_in = t.shape[-1]
    gain = 2.0 if ("mlp.gate.weight" in n or "lm_head" in n) else 1.0
    if any(x in n for x in ("o_proj", "out_proj", "down_proj")):
        gain *= a.residual_gain
    return rnd(t.shape, gain / fan_in ** 0.5)

def bf16(t):
    return t.to(torch.bfloat16).to(torch.float32)

def keep_f32(name):   # dtypes of the published Qwen3.5 checkpoints (Qwen3-Next and Qwen3.6 store these two in BF16)
    return a.arch == "qwen3_5_moe" and (name.endswith("linear_attn.A_log") or name.endswith("linear_attn.norm.weight"))

model = Model(cfg).float().eval()
with torch.no_grad():
    for name, p in sorted(model.named_parameters()):
        v = init_(name, p)
        p.copy_(v if keep_f32(name) else bf16(v))

def probe():
    """The generator order must be that of a real run: model weights, then mtp weights, then tokens."""
    for seed in range(a.seed, a.seed + a.probe_seeds):
        gen.manual_seed(seed)
        with torch.no_grad():
            for name, p in sorted(model.named_parameters()):
                v = init_(name, p); p.copy_(v if keep_f32(name) else bf16(v))
            if mtp is not None:
                for name, p in sorted(mtp.named_parameters()): init_("mtp." + name, p)
        t = torch.randint(0, D["V"] - 8, (1, a.tokens), generator=gen)
        print(seed, smallest_gap(model, t), flush=True)

# the MTP block, built from the model's own decoder layer class (transformers does not build it for Qwen3.5)
mtp = None
if has_linear:
    import copy
    mcfg = copy.deepcopy(cfg)
    mcfg.num_hidden_layers, mcfg.layer_types = 1, ["full_attention"]
    Norm = getattr(M, P + "RMSNorm")
    mtp = torch.nn.ModuleDict(dict(
        fc=torch.nn.Linear(2 * D["H"], D["H"], bias=False),
        pre_fc_norm_embedding=Norm(D["H"], eps=1e-6), pre_fc_norm_hidden=Norm(D["H"], eps=1e-6),
        norm=Norm(D["H"], eps=1e-6),
        layers=torch.nn.ModuleList([getattr(M, P + "DecoderLayer")(mcfg, 0)]))).float().eval()
    with torch.no_grad():
        for name, p in sorted(mtp.named_parameters()):
            p.copy_(bf16(init_("mtp." + name, p)))

# ---------------------------------------------------------------- checkpoint
def smallest_gap(m, toks):
    """Smallest probability gap between the last chosen expert and the first not chosen: how far routing is from a tie."""
    g = []
    hs = [l.mlp.gate.register_forward_hook(lambda mod, i, o: g.append(o[0].detach())) for l in m.model.layers]
    with torch.no_grad(): m(toks, use_cache=False)
    for h in hs: h.remove()
    s = torch.sort(torch.softmax(torch.stack(g), -1), -1, descending=True)[0]
    return (s[..., D["topk"] - 1] - s[..., D["topk"]]).min().item()

if a.probe_seeds:
    probe(); sys.exit()

def experts_split(prefix, gate_up, down, out):
    for e in range(gate_up.shape[0]):
        g, u = gate_up[e].chunk(2, dim=0)
        out[f"{prefix}.{e}.gate_proj.weight"] = g
        out[f"{prefix}.{e}.up_proj.weight"] = u
        out[f"{prefix}.{e}.down_proj.weight"] = down[e]

ck = {}
sd = {k: v.detach().clone() for k, v in model.state_dict().items()}
for k, v in sd.items():
    dt = torch.float32 if keep_f32(k) else torch.bfloat16
    v = v.to(dt)
    if a.arch == "qwen3_5_moe":
        ck[k.replace("model.", "model.language_model.", 1) if k.startswith("model.") else k] = v
    elif k.endswith("experts.gate_up_proj"):
        experts_split(k[: -len(".gate_up_proj")], v, sd[k.replace("gate_up_proj", "down_proj")].to(dt), ck)
    elif k.endswith("experts.down_proj"):
        pass
    else:
        ck[k] = v
if mtp is not None and not a.no_mtp_weights:
    msd = mtp.state_dict()
    for k, v in msd.items():
        k2, v = "mtp." + k, v.detach().to(torch.bfloat16)
        if k.endswith("experts.gate_up_proj"):
            experts_split(k2[: -len(".gate_up_proj")], v, msd[k.replace("gate_up_proj", "down_proj")].to(torch.bfloat16), ck)
        elif not k.endswith("experts.down_proj"):
            ck[k2] = v
os.makedirs(a.out, exist_ok=True)
for f in os.listdir(a.out):
    if f.endswith(".safetensors") or f.endswith(".json"):
        os.remove(os.path.join(a.out, f))
shards, size = [{}], 0
for k in sorted(ck):
    b = ck[k].numel() * ck[k].element_size()
    if size and size + b > a.shard_mb * 1e6:
        shards.append({}); size = 0
    shards[-1][k] = ck[k].contiguous(); size += b
index = {"metadata": {"total_size": sum(v.numel() * v.element_size() for v in ck.values())}, "weight_map": {}}
for i, s in enumerate(shards):
    fn = f"model-{i+1:05d}-of-{len(shards):05d}.safetensors"
    save_file(s, os.path.join(a.out, fn), metadata={"format": "pt"})
    for k in s: index["weight_map"][k] = fn
json.dump(index, open(os.path.join(a.out, "model.safetensors.index.json"), "w"), indent=1, sort_keys=True)

tc = {k: v for k, v in cfg.to_dict().items() if k not in ("architectures", "transformers_version", "_name_or_path", "dtype", "torch_dtype")}
tc["dtype"] = "bfloat16"
if has_linear and "layer_types" not in D:
    tc["full_attention_interval"] = 4
if a.arch == "qwen3_5_moe":
    tc.update(attn_output_gate=True, mamba_ssm_dtype="float32", mtp_num_hidden_layers=1, mtp_use_dedicated_embeddings=False,
              mlp_only_layers=[], partial_rotary_factor=0.25)
    root = {"architectures": ["Qwen3_5MoeForConditionalGeneration"], "model_type": "qwen3_5_moe", "image_token_id": D["V"] - 4,
            "video_token_id": D["V"] - 3, "vision_start_token_id": D["V"] - 6, "vision_end_token_id": D["V"] - 5,
            "tie_word_embeddings": False, "text_config": tc, "transformers_version": transformers.__version__,
            "vision_config": {"model_type": "qwen3_5_moe_vision", "depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 32,
                              "in_channels": 3, "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2,
                              "out_hidden_size": D["H"], "num_position_embeddings": 16, "hidden_act": "gelu_pytorch_tanh",
                              "deepstack_visual_indexes": [], "initializer_range": 0.02}}
else:
    root = dict(tc, architectures=[Model.__name__], transformers_version=transformers.__version__)
    if a.arch == "qwen3_next":   # the published key layout: flat rope keys, no layer_types
        rp = root.pop("rope_parameters"); root.pop("layer_types", None)
        root.update(rope_theta=rp["rope_theta"], partial_rotary_factor=0.25, rope_scaling=None)
    else:
        rp = root.pop("rope_parameters"); root.update(rope_theta=rp["rope_theta"], rope_scaling=None)
json.dump(root, open(os.path.join(a.out, "config.json"), "w"), indent=1, sort_keys=True)
json.dump({"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": [D["V"] - 1, D["V"] - 2]},
          open(os.path.join(a.out, "generation_config.json"), "w"), indent=1)

# ---------------------------------------------------------------- reference runs
tokens = torch.randint(0, D["V"] - 8, (1, a.tokens), generator=gen)
R = {"tokens": tokens[0].to(torch.int32)}
rec = {}
def hook(name, pick=lambda o: o):
    def f(mod, inp, out): rec[name] = pick(out).detach().clone()
    return f
handles = []
for i, layer in enumerate(model.model.layers):
    first = lambda o: o[0] if isinstance(o, tuple) else o
    handles.append(layer.register_forward_hook(hook(f"layer.{i}.out", first)))
    handles.append(layer.input_layernorm.register_forward_hook(hook(f"layer.{i}.input_norm")))
    handles.append(layer.post_attention_layernorm.register_forward_hook(hook(f"layer.{i}.post_norm")))
    mixer = layer.linear_attn if hasattr(layer, "linear_attn") else layer.self_attn
    handles.append(mixer.register_forward_hook(hook(f"layer.{i}.mixer_out", first)))
    handles.append(layer.mlp.register_forward_hook(hook(f"layer.{i}.mlp_out", first)))
    handles.append(layer.mlp.gate.register_forward_hook(hook(f"layer.{i}.router_logits", lambda o: o[0])))
    handles.append(layer.mlp.gate.register_forward_hook(hook(f"layer.{i}.router_weights", lambda o: o[1])))
    handles.append(layer.mlp.gate.register_forward_hook(hook(f"layer.{i}.router_experts", lambda o: o[2])))
handles.append(model.model.norm.register_forward_hook(hook("final_norm")))
handles.append(model.model.embed_tokens.register_forward_hook(hook("embed")))

# inputs and outputs of the delta rule itself (post conv+SiLU q, k, v; g = log decay; beta; o before the gated norm)
gdn_calls = []
if has_linear:
    orig = M.torch_chunk_gated_delta_rule
    def spy(q, k, v, *args, **kw):
        o, s = orig(q, k, v, *args, **kw)
        gdn_calls.append(dict(q=q, k=k, v=v, g=kw["g"], beta=kw["beta"], o=o))
        return o, s
    M.torch_chunk_gated_delta_rule = spy
# post-norm post-RoPE q, k of the attention layers
rope_calls = []
orig_rope = M.apply_rotary_pos_emb
def spy_rope(q, k, cos, sin, **kw):
    o = orig_rope(q, k, cos, sin, **kw); rope_calls.append(o); return o
M.apply_rotary_pos_emb = spy_rope

with torch.no_grad():
    out = model(tokens, use_cache=True)
R["logits_prefill"] = out.logits[0].float()
for k, v in rec.items():
    v = v[0] if v.dim() == 3 and v.shape[0] == 1 else v
    R["prefill." + k] = v.to(torch.int32) if v.dtype == torch.int64 else v.float()
lin_layers = [i for i, l in enumerate(model.model.layers) if hasattr(l, "linear_attn")]
att_layers = [i for i in range(D["L"]) if i not in lin_layers]
for i, c in zip(lin_layers, gdn_calls):
    for n, v in c.items(): R[f"prefill.layer.{i}.gdn_{n}"] = v[0].float()
for i, (q, k) in zip(att_layers, rope_calls):
    R[f"prefill.layer.{i}.attn_q_rope"] = q[0].float(); R[f"prefill.layer.{i}.attn_k_rope"] = k[0].float()
cache = out.past_key_values
for i in range(D["L"]):
    cl = cache.layers[i]
    if i in lin_layers:
        R[f"cache.layer.{i}.conv_state"] = cl.conv_states[0][0].float().clone()        # [conv_dim, 4]: last 4 columns, newest last
        R[f"cache.layer.{i}.recurrent_state"] = cl.recurrent_states[0][0].float().clone()  # [Hv, Dk, Dv]
    else:
        R[f"cache.layer.{i}.k"] = cl.keys[0].float().clone(); R[f"cache.layer.{i}.v"] = cl.values[0].float().clone()  # [Hkv, T, hd]
for h in handles: h.remove()
M.apply_rotary_pos_emb = orig_rope
if has_linear: M.torch_chunk_gated_delta_rule = orig

def run(pieces):
    past, outs = None, []
    with torch.no_grad():
        pos = 0
        for n in pieces:
            o = model(tokens[:, pos:pos + n], past_key_values=past, use_cache=True)
            past = o.past_key_values; outs.append(o.logits[0].float()); pos += n
    return torch.cat(outs), past
steps, step_cache = run([1] * a.tokens)
R["logits_stepwise"] = steps
rest = a.tokens - a.split
second = min(41, rest)
cont, _ = run([a.split, second] + [1] * (rest - second))
R["logits_continued"] = cont
with torch.no_grad():
    nocache = model(tokens, use_cache=False).logits[0].float()

def cmp(x, y):
    d = (x - y).abs()
    return {"max_abs": d.max().item(), "max_abs_over_logit_std": (d.max() / y.std()).item(),
            "argmax_agree": (x.argmax(-1) == y.argmax(-1)).float().mean().item()}
agree = {"stepwise_vs_prefill": cmp(R["logits_stepwise"], R["logits_prefill"]),
         "continued_vs_prefill": cmp(R["logits_continued"], R["logits_prefill"]),
         "nocache_vs_prefill": cmp(nocache, R["logits_prefill"])}
if has_linear:
    agree["final_state_stepwise_vs_prefill_max_abs"] = max(
        (step_cache.layers[i].recurrent_states[0][0] - R[f"cache.layer.{i}.recurrent_state"]).abs().max().item() for i in lin_layers)

# greedy continuation
with torch.no_grad():
    past, ids, cur = out.past_key_values, [], R["logits_prefill"][-1].argmax().view(1, 1)
    for _ in range(24):
        ids.append(cur.item())
        o = model(cur, past_key_values=past, use_cache=True); past = o.past_key_values
        cur = o.logits[0, -1].argmax().view(1, 1)
R["greedy_24"] = torch.tensor(ids, dtype=torch.int32)

# MTP: row t uses embed(token[t+1]) and the post-final-norm hidden state at t, and predicts token[t+2]
if mtp is not None:
    def run_mtp(shift):
        T = a.tokens - 1
        with torch.no_grad():
            e = model.model.embed_tokens(tokens[:, 1:]); h = rec["final_norm"][:, :T]
            x = mtp["fc"](torch.cat([mtp["pre_fc_norm_embedding"](e), mtp["pre_fc_norm_hidden"](h)], dim=-1))
            pos = (torch.arange(T) + shift).view(1, 1, -1).expand(3, 1, -1) if a.arch == "qwen3_5_moe" else (torch.arange(T) + shift).view(1, -1)
            pe = model.model.rotary_emb(x, pos)
            mask = torch.full((T, T), float("-inf")).triu(1).view(1, 1, T, T)
            x = mtp["layers"][0](x, position_embeddings=pe, attention_mask=mask)
            x = x[0] if isinstance(x, tuple) else x
            x = mtp["norm"](x)
            return x[0], model.lm_head(x)[0]
    hm, lm = run_mtp(0)
    R["mtp_hidden"], R["mtp_logits"] = hm.float(), lm.float()
    agree["mtp_position_offset_0_vs_1"] = cmp(run_mtp(1)[1], lm)

# reload the checkpoint through the library: proves the names, shapes and dtypes written above
with torch.no_grad():
    re = Model.from_pretrained(a.out, dtype=torch.float32, attn_implementation="eager").eval()
    re.config._experts_implementation = "eager"
    agree["reloaded_vs_built"] = cmp(re(tokens, use_cache=False).logits[0].float(), nocache)
    # what the library itself gives in BF16 (information only: the size of BF16 noise)
    b = Model.from_pretrained(a.out, dtype=torch.bfloat16, attn_implementation="eager").eval()
    agree["bf16_compute_vs_f32"] = cmp(b(tokens, use_cache=False).logits[0].float(), R["logits_prefill"])

router_gap = smallest_gap(model, tokens)
save_file({k: v.contiguous() for k, v in R.items()}, os.path.join(a.out, "oracle.safetensors"))
meta = {"arch": a.arch, "preset": a.preset, "seed": a.seed, "residual_gain": a.residual_gain, "no_mtp_weights": a.no_mtp_weights, "dims": D, "versions": {"torch": torch.__version__,
        "transformers": transformers.__version__, "python": sys.version.split()[0]},
        "parameters": sum(v.numel() for v in ck.values()), "checkpoint_bytes": index["metadata"]["total_size"],
        "shards": len(shards), "tokens": tokens[0].tolist(), "greedy_24": ids, "layer_types": getattr(cfg, "layer_types", None),
        "smallest_router_gap_between_rank_k_and_k_plus_1": router_gap,
        "logit_std": R["logits_prefill"].std().item(), "agreement": agree,
        "tensors": {k: list(v.shape) for k, v in R.items()}}
json.dump(meta, open(os.path.join(a.out, "oracle.json"), "w"), indent=1)
print(json.dumps({k: meta[k] for k in ("arch", "preset", "versions", "parameters", "shards", "logit_std",
                                       "smallest_router_gap_between_rank_k_and_k_plus_1", "agreement")}, indent=1))
