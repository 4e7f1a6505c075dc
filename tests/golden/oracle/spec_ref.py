#!/usr/bin/env python3
"""The specification as code: plain numpy, no torch. Reads a checkpoint directory written by oracle.py (or any real
checkpoint of the family that fits in memory), runs it, and compares with oracle.safetensors.

  python spec_ref.py tiny [--f32] [--chunk] [--gguf=file.gguf] [--save=logits.bin]

--gguf takes the weights from a GGUF file (needs the gguf package) and config and oracle from the directory.
"""
import json, struct, sys, os
import numpy as np

DT = np.float32 if "--f32" in sys.argv else np.float64
CHUNKED = "--chunk" in sys.argv
d = [x for x in sys.argv[1:] if not x.startswith("--")][0]

# ---- safetensors -------------------------------------------------------------------------------------------------
def read_safetensors(path):
    raw = open(path, "rb").read()
    n = struct.unpack("<Q", raw[:8])[0]
    head = json.loads(raw[8:8 + n])
    out = {}
    for k, m in head.items():
        if k == "__metadata__": continue
        b, e = m["data_offsets"]; buf = raw[8 + n + b: 8 + n + e]
        if m["dtype"] == "BF16":                                  # bf16 -> f32 is a 16-bit shift, exact
            v = (np.frombuffer(buf, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            v = np.frombuffer(buf, {"F32": "<f4", "I32": "<i4", "I64": "<i8", "F16": "<f2", "U32": "<u4"}[m["dtype"]])
        out[k] = v.reshape(m["shape"])
    return out

GGUF = [x[7:] for x in sys.argv if x.startswith("--gguf=")]
SAVE = [x[7:] for x in sys.argv if x.startswith("--save=")]
W = {}
idx = os.path.join(d, "model.safetensors.index.json")
files = sorted(set(json.load(open(idx))["weight_map"].values())) if os.path.exists(idx) else ["model.safetensors"]
for f in files: W.update(read_safetensors(os.path.join(d, f)))
O = read_safetensors(os.path.join(d, "oracle.safetensors"))

# ---- MLX affine-quantised checkpoints: dequantise and rename to the original names -----------------------------------
MLX = any(k.startswith("language_model.") or k.endswith(".scales") for k in W)
if MLX:
    out = {}
    for k, v in W.items():
        if k.endswith((".scales", ".biases")): continue
        base = k[:-len(".weight")] if k.endswith(".weight") else k
        if base + ".scales" in W:
            s, b = W[base + ".scales"], W[base + ".biases"]
            q = json.load(open(os.path.join(d, "config.json")))["quantization"]
            bits = q.get(base, q)["bits"]; gs = q.get(base, q)["group_size"]
            assert v.shape[-1] * 32 // bits == s.shape[-1] * gs                     # one config value follows from the shapes and the other
            raw = np.unpackbits(np.ascontiguousarray(v).view(np.uint8), axis=-1, bitorder="little")  # a row is one little-endian bit stream,
            codes = raw.reshape(*v.shape[:-1], -1, bits) @ (1 << np.arange(bits)).astype(np.float64) # so 3-, 5- and 6-bit codes cross words
            v = (codes.reshape(*s.shape, gs) * s[..., None].astype(np.float64) + b[..., None].astype(np.float64)).reshape(codes.shape)
        k2 = k.replace("language_model.model.", "model.language_model.").replace("language_model.lm_head", "lm_head")
        if "conv1d.weight" in k2: v = np.moveaxis(v, 1, 2)                          # [C, 4, 1] -> [C, 1, 4]
        if ".switch_mlp." in k2: k2 = k2.replace("switch_mlp", "experts")           # [E, out, in]
        out[k2] = v
    W = out

# ---- GGUF (general.architecture = qwen35moe): undo what convert_hf_to_gguf did -------------------------------------
if GGUF:
    from gguf import GGUFReader
    from gguf.quants import dequantize
    rd = GGUFReader(GGUF[0]); A = "qwen35moe"
    kv = lambda k: rd.fields[A + "." + k].contents()
    hk, hv, dk = kv("ssm.group_count"), kv("ssm.time_step_rank"), kv("ssm.state_size"); dv = kv("ssm.inner_size") // hv
    n_main = kv("block_count") - (kv("nextn_predict_layers") if A + ".nextn_predict_layers" in rd.fields else 0)
    def untile(x, axis, dim):                 # stored v-head order: j * Hk + k ; original: k * r + j
        sh = x.shape; r = hv // hk
        x = x.reshape(*sh[:axis], r, hk, dim, *sh[axis + 1:])
        return np.swapaxes(x, axis, axis + 1).reshape(sh)
    names = {"attn_norm.weight": "input_layernorm.weight", "post_attention_norm.weight": "post_attention_layernorm.weight",
             "attn_q.weight": "self_attn.q_proj.weight", "attn_k.weight": "self_attn.k_proj.weight", "attn_v.weight": "self_attn.v_proj.weight",
             "attn_output.weight": "self_attn.o_proj.weight", "attn_q_norm.weight": "self_attn.q_norm.weight", "attn_k_norm.weight": "self_attn.k_norm.weight",
             "attn_qkv.weight": "linear_attn.in_proj_qkv.weight", "attn_gate.weight": "linear_attn.in_proj_z.weight",
             "ssm_alpha.weight": "linear_attn.in_proj_a.weight", "ssm_beta.weight": "linear_attn.in_proj_b.weight",
             "ssm_conv1d.weight": "linear_attn.conv1d.weight", "ssm_a": "linear_attn.A_log", "ssm_dt.bias": "linear_attn.dt_bias",
             "ssm_norm.weight": "linear_attn.norm.weight", "ssm_out.weight": "linear_attn.out_proj.weight", "ffn_gate_inp.weight": "mlp.gate.weight",
             "ffn_gate_inp_shexp.weight": "mlp.shared_expert_gate.weight", "ffn_gate_shexp.weight": "mlp.shared_expert.gate_proj.weight",
             "ffn_up_shexp.weight": "mlp.shared_expert.up_proj.weight", "ffn_down_shexp.weight": "mlp.shared_expert.down_proj.weight",
             "ffn_gate_exps.weight": "mlp.experts.gate_proj.weight", "ffn_up_exps.weight": "mlp.experts.up_proj.weight", "ffn_down_exps.weight": "mlp.experts.down_proj.weight",
             "nextn.eh_proj.weight": "fc.weight", "nextn.enorm.weight": "pre_fc_norm_embedding.weight", "nextn.hnorm.weight": "pre_fc_norm_hidden.weight",
             "nextn.shared_head_norm.weight": "norm.weight"}
    W = {}
    for t in rd.tensors:
        x = dequantize(t.data, t.tensor_type).astype(np.float64).reshape([int(i) for i in t.shape][::-1])   # ne is reversed
        n = t.name
        if n.startswith("blk."):
            _, i, tail = n.split(".", 2); i = int(i); hf = names[tail]
            if tail == "attn_qkv.weight" or tail == "ssm_conv1d.weight":
                x = np.concatenate([x[: 2 * hk * dk], untile(x[2 * hk * dk:], 0, dv)])
            elif tail in ("attn_gate.weight",): x = untile(x, 0, dv)
            elif tail in ("ssm_alpha.weight", "ssm_beta.weight", "ssm_a", "ssm_dt.bias"): x = untile(x, 0, 1)
            elif tail == "ssm_out.weight": x = untile(x, 1, dv)
            if tail == "ssm_a": x = np.log(-x)
            if tail == "ssm_conv1d.weight": x = x[:, None]
            if x.ndim == 1 and "norm" in tail and tail != "ssm_norm.weight": x = x - 1
            if tail == "ffn_gate_inp_shexp.weight": x = x.reshape(1, -1)
            W[("mtp." if tail.startswith("nextn") else f"model.language_model.layers.{i}." if i < n_main else f"mtp.layers.{i - n_main}.") + hf] = x
        else:
            W[{"token_embd.weight": "model.language_model.embed_tokens.weight", "output_norm.weight": "model.language_model.norm.weight",
               "output.weight": "lm_head.weight"}[n]] = x - 1 if n == "output_norm.weight" else x

# ---- config ------------------------------------------------------------------------------------------------------
root = json.load(open(os.path.join(d, "config.json")))
c = root.get("text_config", root)
arch = root["model_type"]                                         # qwen3_5_moe | qwen3_next | qwen3_moe
H, L, eps = c["hidden_size"], c["num_hidden_layers"], c["rms_norm_eps"]
nq, nkv, hd = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
E, topk, I = c["num_experts"] if "num_experts" in c else c["num_local_experts"], c["num_experts_per_tok"], c["moe_intermediate_size"]
rp = c.get("rope_parameters") or c
theta = float(rp["rope_theta"])
rot = int(hd * (rp.get("partial_rotary_factor", c.get("partial_rotary_factor", 1.0)) if arch != "qwen3_moe" else 1.0))
renorm = c.get("norm_topk_prob", True)                            # key absent in Qwen3.5: always true
one_plus = arch != "qwen3_moe" and not MLX                                    # zero-centred RMSNorm
gated_attn = arch != "qwen3_moe"
shared = arch != "qwen3_moe"
types = c.get("layer_types") or (["full_attention"] * L if arch == "qwen3_moe" else
    ["linear_attention" if (i + 1) % c["full_attention_interval"] else "full_attention" for i in range(L)])
pre = "model.language_model." if arch == "qwen3_5_moe" else "model."
if arch != "qwen3_moe":
    Hk, Hv, Dk, Dv = c["linear_num_key_heads"], c["linear_num_value_heads"], c["linear_key_head_dim"], c["linear_value_head_dim"]
    KK = c["linear_conv_kernel_dim"]; Kd, Vd = Hk * Dk, Hv * Dv

def w(name): return W[name].astype(DT)
def lin(x, name): return x @ w(name).T                            # weights are [out, in]; no bias anywhere
def sigmoid(x): return 1 / (1 + np.exp(-x))
def silu(x): return x * sigmoid(x)
def softplus(x): return np.where(x > 20, x, np.log1p(np.exp(np.minimum(x, 20))))
def softmax(x): x = np.exp(x - x.max(-1, keepdims=True)); return x / x.sum(-1, keepdims=True)
def rms(x, name):
    y = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)
    return y * ((1 if one_plus else 0) + w(name))

# ---- full attention ----------------------------------------------------------------------------------------------
inv_freq = theta ** (-np.arange(0, rot, 2, dtype=np.float64) / rot)
def rope(x, pos):                                                 # x [T, heads, hd]
    ang = (pos[:, None] * inv_freq[None]).astype(DT)              # [T, rot/2]
    cs, sn = np.cos(ang)[:, None], np.sin(ang)[:, None]
    a, b, rest = x[..., :rot // 2], x[..., rot // 2: rot], x[..., rot:]
    return np.concatenate([a * cs - b * sn, b * cs + a * sn, rest], -1)

def attention(x, p, pos):
    T = x.shape[0]
    if gated_attn:
        qg = lin(x, p + "q_proj.weight").reshape(T, nq, 2, hd)    # per head: hd of q, then hd of gate
        q, gate = qg[:, :, 0], qg[:, :, 1].reshape(T, nq * hd)
    else:
        q = lin(x, p + "q_proj.weight").reshape(T, nq, hd)
    k = lin(x, p + "k_proj.weight").reshape(T, nkv, hd)
    v = lin(x, p + "v_proj.weight").reshape(T, nkv, hd)
    q, k = rope(rms(q, p + "q_norm.weight"), pos), rope(rms(k, p + "k_norm.weight"), pos)
    o = np.zeros((T, nq, hd), DT)
    mask = np.triu(np.full((T, T), -np.inf), 1)
    for h in range(nq):
        kv = h // (nq // nkv)
        o[:, h] = softmax(q[:, h] @ k[:, kv].T * hd ** -0.5 + mask) @ v[:, kv]
    o = o.reshape(T, nq * hd)
    if gated_attn: o = o * sigmoid(gate)
    return lin(o, p + "o_proj.weight")

# ---- gated delta net ---------------------------------------------------------------------------------------------
def gdn_inputs(x, p):
    T = x.shape[0]
    if p + "in_proj_qkv.weight" in W:                             # Qwen3.5: four projections, heads contiguous
        qkv, z = lin(x, p + "in_proj_qkv.weight"), lin(x, p + "in_proj_z.weight")
        b, a = lin(x, p + "in_proj_b.weight"), lin(x, p + "in_proj_a.weight")
    else:                                                         # Qwen3-Next: per k head [q Dk | k Dk | v r*Dv | z r*Dv], [b r | a r]
        r = Hv // Hk
        m = lin(x, p + "in_proj_qkvz.weight").reshape(T, Hk, 2 * Dk + 2 * r * Dv)
        q, k, v, z = np.split(m, [Dk, 2 * Dk, 2 * Dk + r * Dv], -1)
        qkv = np.concatenate([q.reshape(T, Kd), k.reshape(T, Kd), v.reshape(T, Vd)], -1); z = z.reshape(T, Vd)
        m = lin(x, p + "in_proj_ba.weight").reshape(T, Hk, 2 * r)
        b, a = m[..., :r].reshape(T, Hv), m[..., r:].reshape(T, Hv)
    cw = w(p + "conv1d.weight")[:, 0]                             # [C, 4]; tap 3 multiplies the current token
    pad = np.concatenate([np.zeros((KK - 1, qkv.shape[1]), DT), qkv])
    y = silu(sum(pad[j: j + T] * cw[:, j] for j in range(KK)))
    q, k, v = y[:, :Kd].reshape(T, Hk, Dk), y[:, Kd: 2 * Kd].reshape(T, Hk, Dk), y[:, 2 * Kd:].reshape(T, Hv, Dv)
    g = -np.exp(w(p + "A_log")) * softplus(a + w(p + "dt_bias"))  # log decay, <= 0
    return q, k, v, g, sigmoid(b), z.reshape(T, Hv, Dv)

def l2(x): return x / np.sqrt((x * x).sum(-1, keepdims=True) + 1e-6)

def delta_recurrent(q, k, v, g, beta, S):                         # S [Hv, Dk, Dv]
    T = q.shape[0]; r = Hv // Hk; o = np.zeros((T, Hv, Dv), DT)
    q, k = l2(q) * Dk ** -0.5, l2(k)
    for t in range(T):
        for h in range(Hv):
            kt, qt = k[t, h // r], q[t, h // r]
            S[h] *= np.exp(g[t, h])
            delta = beta[t, h] * (v[t, h] - kt @ S[h])
            S[h] += np.outer(kt, delta)
            o[t, h] = qt @ S[h]
    return o, S

def delta_chunked(q, k, v, g, beta, S, C=64):
    T = q.shape[0]; r = Hv // Hk; o = np.zeros((T, Hv, Dv), DT)
    q, k = l2(q) * Dk ** -0.5, l2(k)
    for s in range(0, T, C):
        e = min(s + C, T); n = e - s                              # a short last chunk needs no padding
        low, strict = np.tril(np.ones((n, n))), np.tril(np.ones((n, n)), -1)
        for h in range(Hv):
            Q, K, V, B, G = q[s:e, h // r], k[s:e, h // r], v[s:e, h], beta[s:e, h], np.cumsum(g[s:e, h])
            Gam = np.exp(np.where(low > 0, G[:, None] - G[None], -np.inf))           # Gam_ij = exp(G_i - G_j), j <= i
            A = B[:, None] * (K @ K.T) * Gam * strict
            Tm = np.eye(n)                                        # (I + A)^-1 by forward substitution
            for i in range(1, n): Tm[i, :i] = -(A[i, :i] @ Tm[:i, :i])
            U = Tm @ (B[:, None] * V)
            Wm = Tm @ (B[:, None] * np.exp(G)[:, None] * K)
            Vn = U - Wm @ S[h]
            o[s:e, h] = (np.exp(G)[:, None] * Q) @ S[h] + ((Q @ K.T) * Gam) @ Vn
            S[h] = np.exp(G[-1]) * S[h] + (np.exp(G[-1] - G)[:, None] * K).T @ Vn
    return o, S

def gdn(x, p, states):
    q, k, v, g, beta, z = gdn_inputs(x, p)
    o, S = (delta_chunked if CHUNKED else delta_recurrent)(q, k, v, g, beta, np.zeros((Hv, Dk, Dv), DT))
    states.append(S)
    y = o / np.sqrt((o * o).mean(-1, keepdims=True) + eps) * w(p + "norm.weight")   # plain weight, over Dv
    return lin((y * silu(z)).reshape(x.shape[0], Vd), p + "out_proj.weight")

# ---- MoE ---------------------------------------------------------------------------------------------------------
def mlp(x, p): return lin(silu(lin(x, p + "gate_proj.weight")) * lin(x, p + "up_proj.weight"), p + "down_proj.weight")
def expert(x, p, e):
    if p + "experts.gate_up_proj" in W:                           # fused [E, 2I, H]: gate rows first, then up
        gu = x @ W[p + "experts.gate_up_proj"][e].astype(DT).T
        return (silu(gu[..., :I]) * gu[..., I:]) @ W[p + "experts.down_proj"][e].astype(DT).T
    if p + "experts.gate_proj.weight" in W:                       # MLX: three stacked tensors
        m = {n: W[f"{p}experts.{n}_proj.weight"][e].astype(DT) for n in ("gate", "up", "down")}
        return (silu(x @ m["gate"].T) * (x @ m["up"].T)) @ m["down"].T
    return mlp(x, f"{p}experts.{e}.")
def moe(x, p):
    prob = softmax(lin(x, p + "gate.weight"))
    top = np.argsort(-prob, -1, kind="stable")[:, :topk]
    y = np.zeros_like(x)
    for t in range(x.shape[0]):
        s = prob[t, top[t]]
        if renorm: s = s / s.sum()
        for e, se in zip(top[t], s): y[t] += se * expert(x[t], p, e)
    if shared: y = y + sigmoid(lin(x, p + "shared_expert_gate.weight")) * mlp(x, p + "shared_expert.")
    return y, top

def layer(x, p, kind, pos, states):
    h = rms(x, p + "input_layernorm.weight")
    x = x + (gdn(h, p + "linear_attn.", states) if kind == "linear_attention" else attention(h, p + "self_attn.", pos))
    y, top = moe(rms(x, p + "post_attention_layernorm.weight"), p + "mlp.")
    return x + y, top

tok = O["tokens"]; pos = np.arange(len(tok)); compared = []     # an oracle may be trimmed: what it lacks is not compared
emb = W[pre + "embed_tokens.weight"]
x = emb[tok].astype(DT); states = []; worst = 0
for i in range(L):
    x, top = layer(x, f"{pre}layers.{i}.", types[i], pos, states)
    if f"prefill.layer.{i}.router_experts" in O and not GGUF:
        assert (np.sort(top, -1) == np.sort(O[f"prefill.layer.{i}.router_experts"], -1)).all(), f"routing differs in layer {i}"
        compared.append("routing")
    if f"prefill.layer.{i}.out" in O:
        worst = max(worst, np.abs(x - O[f"prefill.layer.{i}.out"]).max()); compared.append("out")
hn = rms(x, pre + "norm.weight")
head = w("lm_head.weight" if not c.get("tie_word_embeddings") else pre + "embed_tokens.weight")
logits = hn @ head.T
res = {"dtype": DT.__name__, "chunked": CHUNKED, "layers_routing_equal": compared.count("routing"),
       "layer_out_max_abs": float(worst) if "out" in compared else None,
       "logits_vs_prefill": float(np.abs(logits - O["logits_prefill"]).max()),
       **{"logits_vs_" + n: float(np.abs(logits - O["logits_" + n]).max()) for n in ("stepwise", "continued") if "logits_" + n in O},
       "argmax_agree": float((logits.argmax(-1) == O["logits_prefill"].argmax(-1)).mean())}
li = [i for i in range(L) if types[i] == "linear_attention"]
if li and f"cache.layer.{li[0]}.recurrent_state" in O: res["state_max_abs"] = float(max(np.abs(s - O[f"cache.layer.{i}.recurrent_state"]).max() for i, s in zip(li, states)))
if "mtp_logits" in O and "mtp.fc.weight" in W:
    e = emb[tok[1:]].astype(DT)
    m = np.concatenate([rms(e, "mtp.pre_fc_norm_embedding.weight"), rms(hn[:-1], "mtp.pre_fc_norm_hidden.weight")], -1)
    m, _ = layer(lin(m, "mtp.fc.weight"), "mtp.layers.0.", "full_attention", pos[:-1], [])
    res["mtp_logits"] = float(np.abs(rms(m, "mtp.norm.weight") @ head.T - O["mtp_logits"]).max())
if SAVE: logits.astype("<f4").tofile(SAVE[0])
print(json.dumps(res))
