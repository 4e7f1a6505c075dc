#!/usr/bin/env python3
"""families.py FAMILY --out DIR [--alt] [--seed N]: a small random model of a family, and what transformers computes with it.

FAMILY is qwen3, qwen3_5_text or mixtral; --alt has other dimensions. DIR gets:

config.json           as transformers writes it
weights.json          {seed, files: {file: {tensor: {shape, low, high}}}}: names, shapes and files as save_pretrained lays them out. The weights
                      themselves are not kept: element i of a tensor is low + (high - low) * u, rounded to BF16, where u comes from SplitMix64,
                      seeded with the FNV-1a hash of the tensor's name xor the seed. tests/families/snapshot.rs writes the same files.
oracle.safetensors    in float32 from the BF16 weights:
                      tokens [96], logits_prefill [96, V]; stepwise_off and continued_off: how far the logits of single steps, and of 50, then 41,
                      then single tokens, are from those, in F16; greedy [16]: ids after the 96 tokens; text, text_greedy [12]: a prompt of bytes and
                      its greedy continuation; routing.N [96, K]: the experts of MoE layer N, sorted
oracle.json           versions, seed, how far transformers agrees with itself, the smallest gaps of router logits and of greedy logits
With --alt the oracle has tokens, logits_prefill and routing.N only.

With --rope JSON nothing is written: the same model with these keys in rope_parameters, and the first four logits of rows 1, 70 and 95.
"""
import argparse, json, os, shutil, tempfile
import numpy as np, torch, transformers
from safetensors import safe_open
from safetensors.torch import save_file

TEXT = "user: Hello\nassistant:"
DIMENSIONS = dict(V=256, H=64, L=4, nq=4, nkv=2, hd=32, E=8, K=3, I=64, F=128)
OTHER_DIMENSIONS = dict(V=160, H=192, L=5, nq=6, nkv=3, hd=64, E=12, K=3, I=96, F=320)


def config(family, V, H, L, nq, nkv, hd, E, K, I, F):
    base = dict(vocab_size=V, hidden_size=H, num_hidden_layers=L, num_attention_heads=nq, num_key_value_heads=nkv, head_dim=hd, max_position_embeddings=4096,
                rms_norm_eps=1e-6, hidden_act="silu", tie_word_embeddings=False, bos_token_id=None, eos_token_id=None, pad_token_id=None)
    rope = lambda theta, **more: dict(rope_type="default", rope_theta=theta, **more)
    if family == "qwen3":
        return transformers.Qwen3Config(**base, intermediate_size=F, rope_parameters=rope(1e6))
    if family == "qwen3_5_text":
        linear = dict(linear_conv_kernel_dim=4, linear_key_head_dim=32, linear_value_head_dim=32, linear_num_key_heads=2, linear_num_value_heads=4)
        # text has one position per token: the sections change nothing, and with --alt they are not half of the rotated dimensions
        sections = dict(partial_rotary_factor=0.25, mrope_section=[2, 1, 1], mrope_interleaved=True)
        return transformers.Qwen3_5TextConfig(**base, **linear, intermediate_size=F, rope_parameters=rope(1e7, **sections))
    if family == "mixtral":
        return transformers.MixtralConfig(**base, intermediate_size=I, num_local_experts=E, num_experts_per_tok=K, sliding_window=None, rope_parameters=rope(1e6))
    raise SystemExit(f"{family}: expected qwen3, qwen3_5_text or mixtral")


def bounds(family, name, shape):
    """Uniform bounds of a tensor: a mean, and a deviation that keeps activations at unit variance."""
    if name.endswith("A_log"): return -0.69, 2.08
    if name.endswith("dt_bias"): return -5.0, -1.0
    mean = 0.0
    if len(shape) == 1:
        mean = 0.0 if family == "qwen3_5_text" and not name.endswith("linear_attn.norm.weight") else 1.0
        deviation = 0.1
    elif "conv1d" in name: deviation = 0.4
    elif "embed_tokens" in name: deviation = 1.0
    else: deviation = (2.0 if name.endswith("gate.weight") or name == "lm_head.weight" else 1.0) / shape[-1] ** 0.5
    half = round(3 ** 0.5 * deviation, 6)
    return mean - half, mean + half


def values(name, shape, low, high, seed):
    state = 0xCBF29CE484222325
    for byte in name.encode(): state = (state ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    z = np.uint64(state ^ seed) + np.arange(1, np.prod(shape) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    u = (z ^ z >> np.uint64(31)) >> np.uint64(40)
    return torch.from_numpy((low + (high - low) * (u / 2.0 ** 24)).astype(np.float32)).reshape(shape).to(torch.bfloat16)


def snapshot(cfg, family, seed, folder):
    """Writes the model as the hub would hold it; its tensors by file."""
    transformers.AutoModelForCausalLM.from_config(cfg).to(torch.bfloat16).save_pretrained(folder, max_shard_size="500KB")
    files = {}
    for file in sorted(f for f in os.listdir(folder) if f.endswith(".safetensors")):
        with safe_open(os.path.join(folder, file), "pt") as f: shapes = {n: f.get_slice(n).get_shape() for n in sorted(f.keys())}
        files[file] = {n: dict(shape=s, low=bounds(family, n, s)[0], high=bounds(family, n, s)[1]) for n, s in shapes.items()}
        save_file({n: values(n, seed=seed, **t) for n, t in files[file].items()}, os.path.join(folder, file), metadata={"format": "pt"})
    return files


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("family"); ap.add_argument("--out"); ap.add_argument("--rope", type=json.loads); ap.add_argument("--seed", type=int, default=1); ap.add_argument("--alt", action="store_true")
    a = ap.parse_args()
    if not (a.out or a.rope): ap.error("expected --out or --rope")
    torch.set_num_threads(2)
    d = OTHER_DIMENSIONS if a.alt else DIMENSIONS
    V, T, K = d["V"], 96, d["K"]
    cfg = config(a.family, **d)
    if a.rope: cfg.rope_parameters = {**cfg.rope_parameters, **a.rope}
    folder = tempfile.mkdtemp()
    files = snapshot(cfg, a.family, a.seed, folder)
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager", output_loading_info=True)
    assert not any(loading.values()), loading
    model.eval()
    # ids below 8 leave room for an end of text
    tokens = torch.from_numpy(np.random.Generator(np.random.PCG64(a.seed)).integers(8, V, (1, T)))
    out, hooks, gaps = {"tokens": tokens[0].int()}, [], []

    def routed(layer):
        def hook(module, inputs, output):
            logits = (output[0] if isinstance(output, tuple) else output).float().reshape(T, -1)
            out[f"routing.{layer}"] = logits.topk(K).indices.sort().values.int()
            best = logits.topk(K + 1).values
            gaps.append((best[:, K - 1] - best[:, K]).min().item())
        return hook

    for i, layer in enumerate(model.model.layers):
        for name, module in layer.named_modules():
            if name == "mlp.gate": hooks.append(module.register_forward_hook(routed(i)))

    def run(ids, cuts):
        past, rows, at = None, [], 0
        for cut in cuts:
            r = model(ids[:, at:at + cut], past_key_values=past, use_cache=True)
            past, at = r.past_key_values, at + cut
            rows.append(r.logits[0].float())
        return torch.cat(rows)

    def greedy(ids, count):
        past, found = None, []
        for _ in range(count):
            r = model(ids, past_key_values=past, use_cache=True)
            past, best = r.past_key_values, r.logits[0, -1].topk(2)
            greedy_gaps.append((best.values[0] - best.values[1]).item())
            ids = best.indices[None, :1]
            found.append(ids.item())
        return torch.tensor(found, dtype=torch.int32)

    greedy_gaps = []
    with torch.no_grad():
        out["logits_prefill"] = model(tokens, use_cache=False).logits[0].float()
        for hook in hooks: hook.remove()
        if a.rope:
            for row in (1, 70, 95): print(row, [round(x, 5) for x in out["logits_prefill"][row, :4].tolist()])
            return shutil.rmtree(folder)
        info = dict(family=a.family, alt=a.alt, seed=a.seed, transformers=transformers.__version__, torch=torch.__version__, smallest_router_gap=min(gaps, default=None))
        if not a.alt:
            for name, cuts in (("stepwise_off", [1] * T), ("continued_off", [50, 41] + [1] * (T - 91))):
                off = run(tokens, cuts) - out["logits_prefill"]
                info[name] = off.abs().max().item()
                out[name] = off.half()
            out["greedy"] = greedy(tokens, 16)
            text = torch.tensor([list(TEXT.encode())])
            out["text"], out["text_greedy"] = text[0].int(), greedy(text, 12)
            info["smallest_greedy_gap"] = min(greedy_gaps)
    os.makedirs(a.out, exist_ok=True)
    shutil.copy(os.path.join(folder, "config.json"), a.out)
    shutil.rmtree(folder)
    lines = ",\n".join(f'{json.dumps(file)}:{{\n' + ",\n".join(f"{json.dumps(n)}:{json.dumps(t, separators=(',', ':'))}" for n, t in tensors.items()) + "}" for file, tensors in files.items())
    with open(os.path.join(a.out, "weights.json"), "w") as f: f.write(f'{{"seed":{a.seed},"files":{{\n{lines}}}}}\n')
    save_file({k: v.contiguous() for k, v in out.items()}, os.path.join(a.out, "oracle.safetensors"))
    with open(os.path.join(a.out, "oracle.json"), "w") as f: f.write(json.dumps(info, indent=1) + "\n")
    print(info, bytes(out["text_greedy"].tolist()) if "text_greedy" in out else "")


main()
