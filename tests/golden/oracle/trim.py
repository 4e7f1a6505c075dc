#!/usr/bin/env python3
"""trim.py DIR... [--drop=REGEX]: rewrites DIR/oracle.safetensors with only what the tests read, and lists the kept tensors in oracle.json.

What goes: embed, input_norm, post_norm, mixer_out, mlp_out, out, final_norm, router_logits, router_weights, gdn_*, attn_*_rope and mtp_*; and
logits_stepwise where it equals logits_prefill bit for bit, as mlx-lm's does on a CPU. oracle.py and mlx_check.py make them again.
--drop also removes the tensors in whose name REGEX is found, such as --drop=stepwise. Trimming twice changes nothing.
"""
import json, os, re, sys
from safetensors.numpy import load_file, save_file

KEEP = re.compile(r"tokens|logits_(prefill|stepwise|continued)|greedy_24|cache\.layer\..*|prefill\.layer\.\d+\.router_experts")

drop = [re.compile(x[7:]) for x in sys.argv[1:] if x.startswith("--drop=")]

for d in [x for x in sys.argv[1:] if not x.startswith("--")]:
    path, meta = os.path.join(d, "oracle.safetensors"), os.path.join(d, "oracle.json")
    before = os.path.getsize(path)
    kept = {k: v for k, v in load_file(path).items() if KEEP.fullmatch(k) and not any(r.search(k) for r in drop)}
    if "logits_stepwise" in kept and kept["logits_stepwise"].tobytes() == kept["logits_prefill"].tobytes():
        del kept["logits_stepwise"]
    save_file(kept, path)
    if os.path.exists(meta):
        m = json.load(open(meta))
        m["tensors"] = {k: s for k, s in m["tensors"].items() if k in kept}
        json.dump(m, open(meta, "w"), indent=1)
    print(f"{d}: {len(kept)} tensors, {before} -> {os.path.getsize(path)} bytes")
