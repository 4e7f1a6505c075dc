"""Loads a tiny checkpoint with mlx-lm (CPU) and compares with the oracle; --q also quantises it and saves that with its logits.

  python mlx_check.py DIR                                           # mlx-lm against the oracle, nothing written
  python mlx_check.py DIR --q OUT [--bits 4] [--group-size 64]      # mlx-lm's own choices: routers and shared_expert_gate at 8 bits, group 64
  python mlx_check.py DIR --q OUT --mixed                           # another width and group for every kind of tensor, see MIXED

DIR must have full attention at every full_attention_interval-th layer: mlx-lm does not read layer_types.
"""
import sys, json, glob, os, shutil
import numpy as np
import mlx.core as mx
from pathlib import Path
mx.set_default_device(mx.cpu)
from mlx_lm.utils import load_model, quantize_model, save_model, save_config
d = sys.argv[1]
O = mx.load(os.path.join(d, "oracle.safetensors"))
# mlx-lm loads model*.safetensors, so oracle.safetensors in the same folder is not picked up
model, cfg = load_model(Path(d), lazy=False)
def logits(m, cache=False, step=False):
    t = O["tokens"].astype(mx.int32)[None]
    if not step: return np.array(m(t).astype(mx.float32))[0]
    from mlx_lm.models.cache import make_prompt_cache
    c = make_prompt_cache(m); out = []
    for i in range(t.shape[1]): out.append(np.array(m(t[:, i:i+1], cache=c).astype(mx.float32))[0])
    return np.concatenate(out)
ref = np.array(O["logits_prefill"])
def rep(name, x): print(name, "max_abs", float(np.abs(x-ref).max()), "argmax_agree", float((x.argmax(-1)==ref.argmax(-1)).mean()))
from mlx.utils import tree_map
# f32 copy. NB: sanitize already added 1 to the norm weights in bf16, so rounding (1+w) to bf16 is baked in
m32, _ = load_model(Path(d), lazy=False); m32.update(tree_map(lambda p: p.astype(mx.float32), m32.parameters()))
rep("mlx f32 compute (norm 1+w rounded to bf16 by sanitize)", logits(m32))
W = {}
for f in glob.glob(os.path.join(d, "model-*.safetensors")): W.update(mx.load(f))
W = {k: v.astype(mx.float32) for k, v in W.items()}
W = m32.sanitize(W) ; m32.load_weights(list(W.items()))
rep("mlx f32 compute, exact f32 norms, prefill", logits(m32))
rep("mlx f32 compute, exact f32 norms, stepwise", logits(m32, step=True))
def flag(name, default): return int(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else default
# first match counts; None leaves the tensor in BF16; what matches nothing gets the default (4 bits, group 64)
MIXED = [("embed_tokens", (5, 64)), ("lm_head", (8, 32)), ("self_attn.o_proj", (6, 128)), ("self_attn.", (6, 32)), (".mlp.gate", (8, 64)),
         ("shared_expert_gate", None), ("layers.3.mlp.switch_mlp.down_proj", (6, 64)), ("switch_mlp.", (3, 64)),
         ("shared_expert.down_proj", (5, 32)), ("shared_expert.", (2, 32)), ("linear_attn.out_proj", (4, 128)),
         ("in_proj_a", (8, 32)), ("in_proj_b", (8, 32))]
def mixed(path, module):
    for part, how in MIXED:
        if part in path: return {"group_size": how[1], "bits": how[0]} if how else False
    return True
def smallest_gap(m):
    """Smallest probability gap between the last chosen expert and the first not chosen."""
    seen = []
    blocks = [l.mlp for l in m.layers]; k = blocks[0].top_k
    class Spy:
        def __init__(self, gate): self.gate = gate
        def __call__(self, x): y = self.gate(x); seen.append(y); return y
    gates = [b.gate for b in blocks]
    for b in blocks: b.gate = Spy(b.gate)
    logits(m)
    for b, g in zip(blocks, gates): b.gate = g
    s = -np.sort(-np.concatenate([np.array(mx.softmax(y.astype(mx.float32), axis=-1)).reshape(-1, y.shape[-1]) for y in seen]), -1)
    return float((s[:, k - 1] - s[:, k]).min())
if "--q" in sys.argv:
    out = Path(sys.argv[sys.argv.index("--q") + 1]); shutil.rmtree(out, ignore_errors=True)
    dtype = mx.bfloat16; cp = model.cast_predicate
    from mlx.utils import tree_map_with_path
    model.update(tree_map_with_path(lambda k, v: v.astype(dtype) if cp(k) and mx.issubdtype(v.dtype, mx.floating) else v, model.parameters()))
    q, qc = quantize_model(model, json.load(open(os.path.join(d, "config.json"))), flag("--group-size", 64), flag("--bits", 4),
                          quant_predicate=mixed if "--mixed" in sys.argv else None)
    save_model(out, q); save_config(qc, config_path=out / "config.json")
    q32, qcfg = load_model(out, lazy=False)          # proves the saved directory loads
    q32.update(tree_map(lambda p: p.astype(mx.float32) if mx.issubdtype(p.dtype, mx.floating) else p, q32.parameters()))
    x = logits(q32); y = logits(q32, step=True)
    mx.save_safetensors(str(out / "oracle.safetensors"), {"logits_prefill": mx.array(x), "logits_stepwise": mx.array(y), "tokens": O["tokens"]})
    rep("mlx quantised vs the unquantised oracle (size of the quantisation error)", x)
    print("mlx quantised stepwise vs prefill", float(np.abs(x - y).max()), "logit std", float(x.std()), "smallest router gap", smallest_gap(q32))
