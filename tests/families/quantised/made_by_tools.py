"""Tiny models that public tools quantised, each with the logits of transformers in f32 for the weights as the tool reads them.

    pip install torch transformers compressed-tensors "mlx[cpu]"
    python made_by_tools.py OUT [AUTOAWQ]

AUTOAWQ is the unpacked source of autoawq; without it there is no model of AWQ. Every folder of OUT is what a hub would hold, with
tokens.txt and logits.f32 [tokens, vocabulary]. `FLASHFLOOD_QUANTISED=OUT cargo test --test families made_by_tools -- --ignored`
compares.
"""

import json
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import save_file
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.integrations.finegrained_fp8 import _dequantize_fp8_weight

HIDDEN, EXPERTS, VOCABULARY, TOKENS = 256, 4, 128, 12


def config_of(width):
    return Qwen3MoeConfig(
        hidden_size=HIDDEN, intermediate_size=width, moe_intermediate_size=width, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, num_experts=EXPERTS, num_experts_per_tok=2, vocab_size=VOCABULARY,
        norm_topk_prob=True, max_position_embeddings=256, tie_word_embeddings=False, rope_theta=10000.0,
        eos_token_id=1, bos_token_id=None, pad_token_id=None)


def weights_of(config, seed):
    """Plain weights by the names of releases, one tensor for each expert."""
    torch.manual_seed(seed)
    h, w = HIDDEN, config.moe_intermediate_size
    weights = {"model.embed_tokens.weight": torch.randn(VOCABULARY, h) * 0.5, "model.norm.weight": 1 + 0.1 * torch.randn(h),
               "lm_head.weight": torch.randn(VOCABULARY, h) * 0.3}
    for layer in range(config.num_hidden_layers):
        at = f"model.layers.{layer}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{at}{name}.weight"] = 1 + 0.1 * torch.randn(h)
        for name, rows, cols in (("q", 256, h), ("k", 128, h), ("v", 128, h), ("o", h, 256)):
            weights[f"{at}self_attn.{name}_proj.weight"] = torch.randn(rows, cols) / cols**0.5
        for name in "qk":
            weights[f"{at}self_attn.{name}_norm.weight"] = 1 + 0.1 * torch.randn(64)
        weights[f"{at}mlp.gate.weight"] = torch.randn(EXPERTS, h) / h**0.5
        for e in range(EXPERTS):
            for name, rows, cols in (("gate", w, h), ("up", w, h), ("down", h, w)):
                weights[f"{at}mlp.experts.{e}.{name}_proj.weight"] = 1.5 * torch.randn(rows, cols) / cols**0.5
    return {name: weight.bfloat16() for name, weight in weights.items()}


def is_quantised(name):
    return name.endswith("_proj.weight")


def fp8_blocks(scales):
    def quantise(name, weight):
        w, (rows, cols) = weight.float(), weight.shape
        high, wide = -(-rows // 128), -(-cols // 128)
        scale = torch.empty(high, wide)
        for i in range(high):
            for j in range(wide):
                scale[i, j] = w[128 * i:128 * i + 128, 128 * j:128 * j + 128].abs().max() / 448
        scale = scale.to(scales)
        each = scale.float().repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :cols]
        numbers = (w / each).clamp(-448, 448).to(torch.float8_e4m3fn)
        read = _dequantize_fp8_weight(numbers, scale, [128, 128], torch.float32)
        module = name.removesuffix(".weight")
        return {name: numbers, f"{module}.weight_scale_inv": scale}, read
    return quantise


def compressed(kind, format_name, **arguments):
    """By compressed-tensors, scales by its own rule."""
    args = QuantizationArgs(**arguments)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    compressor = BaseCompressor.get_value_from_registry(format_name)

    def quantise(name, weight):
        w = weight.float()
        rows, cols = w.shape
        state = {"weight": w}
        if kind == "tensor":
            low, high = w.min().reshape(1), w.max().reshape(1)
        elif kind == "channel":
            low, high = w.min(1, keepdim=True).values, w.max(1, keepdim=True).values
        elif kind == "block":
            blocks = [[w[i:i + 128, j:j + 128] for j in range(0, cols, 128)] for i in range(0, rows, 128)]
            low = torch.tensor([[b.min() for b in line] for line in blocks])
            high = torch.tensor([[b.max() for b in line] for line in blocks])
        else:
            groups = w.reshape(rows, -1, args.group_size)
            low, high = groups.min(2).values, groups.max(2).values
        if kind == "tensor_group":
            state["weight_global_scale"] = (448.0 * 6.0 / w.abs().max()).reshape(1).float()
        scale, zero = calculate_qparams(low, high, args, global_scale=state.get("weight_global_scale"))
        state["weight_scale"], state["weight_zero_point"] = scale, zero
        state = compressor.compress(state, scheme)
        read = compressor.decompress(dict(state), scheme)["weight"].float()
        if kind == "tensor_group":
            # which rounds to bf16
            numbers = unpack_fp4_from_uint8(state["weight_packed"], rows, cols, dtype=torch.float32)
            read = numbers * (state["weight_scale"].float() / state["weight_global_scale"]).repeat_interleave(16, 1)
        module = name.removesuffix(".weight")
        return {f"{module}.{part}": tensor.contiguous() for part, tensor in state.items()}, read
    return quantise


def mlx(mode, bits, group):
    def quantise(name, weight):
        w = mx.array(weight.float().numpy())
        parts = mx.quantize(w, group_size=group, bits=bits, mode=mode)
        # dequantize gives bf16: the numbers have few bits, so f32 is read back from exact products
        numbers, scales = np.array(parts[0]), np.array(parts[1])
        read = torch.from_numpy(np.array(mx.dequantize(*parts, group_size=group, bits=bits, mode=mode).astype(mx.float32)))
        module = name.removesuffix(".weight")
        return {name: torch.from_numpy(numbers), f"{module}.scales": torch.from_numpy(scales)}, read
    return quantise


def modelopt(name, weight):
    """The documented layout of NVFP4: two numbers a byte, the first in the low half; scales times the matrix's scale."""
    w = weight.float()
    rows, cols = w.shape
    matrix = w.abs().max() / (6 * 448)
    scale = (w.reshape(rows, -1, 16).abs().amax(2) / 6 / matrix).clamp(2**-9, 448).to(torch.float8_e4m3fn)
    each = (scale.float() * matrix).repeat_interleave(16, 1)
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    magnitude = ((w / each).abs()[..., None] - values).abs().argmin(-1)
    codes = (magnitude + 8 * (w < 0)).to(torch.uint8)
    read = torch.where(w < 0, -1.0, 1.0) * values[magnitude] * each
    module = name.removesuffix(".weight")
    packed = codes[:, 0::2] | codes[:, 1::2] << 4
    return {name: packed, f"{module}.weight_scale": scale, f"{module}.weight_scale_2": matrix.reshape(()),
            f"{module}.input_scale": torch.tensor(0.01)}, read


def integers(weight, bits, group, symmetric):
    w = weight.float().t()  # [columns, rows], as GPTQ and AWQ have it
    cols, rows = w.shape
    groups = w.reshape(-1, group, rows)
    top = 2**bits - 1
    if symmetric:
        scale = groups.abs().amax(1) / (2**(bits - 1))
        zero = torch.full(scale.shape, 2**(bits - 1), dtype=torch.int32)
    else:
        low, high = groups.amin(1).clamp(max=0), groups.amax(1).clamp(min=0)
        scale = (high - low) / top
        zero = (-low / scale).round().clamp(0, top).to(torch.int32)
    scale = scale.half()
    codes = (groups / scale.float()[:, None] + zero[:, None]).round().clamp(0, top).to(torch.int32).reshape(cols, rows)
    read = (codes.reshape(-1, group, rows) - zero[:, None]) * scale.float()[:, None]
    return codes, scale, zero, read.reshape(cols, rows).t().contiguous()


def packed(codes, bits, dim):
    each = 32 // bits
    codes = codes.to(torch.int64).unflatten(dim, (-1, each))
    shifts = torch.arange(each) * bits
    shape = [1] * codes.dim()
    shape[dim + 1] = each
    words = (codes << shifts.reshape(shape)).sum(dim + 1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def gptq(bits, group, symmetric, more):
    def quantise(name, weight):
        codes, scale, zero, read = integers(weight, bits, group, symmetric)
        # version 1 stores zero points less one
        zero = (zero - more).clamp(min=0) if not symmetric else zero - more
        module = name.removesuffix(".weight")
        cols = codes.shape[0]
        index = torch.arange(cols, dtype=torch.int32) // group
        if more and not symmetric:
            zeros = (zero + more).reshape(-1, 1, codes.shape[1])
            read = (codes.reshape(-1, group, codes.shape[1]) - zeros) * scale.float()[:, None]
            read = read.reshape(cols, -1).t().contiguous()
        return {f"{module}.qweight": packed(codes, bits, 0), f"{module}.qzeros": packed(zero, bits, 1),
                f"{module}.scales": scale, f"{module}.g_idx": index}, read
    return quantise


def awq(folder):
    sys.path.insert(0, str(Path(folder) / "awq/utils"))
    from packing_utils import AWQ_ORDER, dequantize_gemm

    def quantise(name, weight):
        codes, scale, zero, _ = integers(weight, 4, 128, False)

        def words(codes):
            return packed(codes.unflatten(1, (-1, 8))[:, :, AWQ_ORDER].flatten(1), 4, 1)
        qweight, qzeros = words(codes), words(zero)
        read = dequantize_gemm(qweight, qzeros, scale.float(), 4, 128).t().contiguous()
        module = name.removesuffix(".weight")
        return {f"{module}.qweight": qweight, f"{module}.qzeros": qzeros, f"{module}.scales": scale}, read
    return quantise


def write(out, name, width, quantise, section, key="quantization_config"):
    config = config_of(width)
    weights = weights_of(config, len(name))
    stored, read = {}, {}
    for tensor, weight in weights.items():
        if is_quantised(tensor):
            parts, read[tensor] = quantise(tensor, weight)
            stored.update(parts)
        else:
            stored[tensor], read[tensor] = weight, weight.float()
    model = Qwen3MoeForCausalLM(config).float().eval()
    state = {}
    for tensor, weight in read.items():
        if ".experts." not in tensor:
            state[tensor] = weight
    for layer in range(config.num_hidden_layers):
        at = f"model.layers.{layer}.mlp.experts."
        of = lambda e, part: read[f"{at}{e}.{part}_proj.weight"]
        state[f"{at}gate_up_proj"] = torch.stack([torch.cat([of(e, "gate"), of(e, "up")]) for e in range(EXPERTS)])
        state[f"{at}down_proj"] = torch.stack([of(e, "down") for e in range(EXPERTS)])
    model.load_state_dict(state)
    tokens = [(7 * i * i + 3 * i + 5) % VOCABULARY for i in range(TOKENS)]
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0].float()
    folder = Path(out) / name
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**config.to_dict(), key: section}, default=str))
    (folder / "tokens.txt").write_text(" ".join(map(str, tokens)))
    logits.numpy().astype("<f4").tofile(folder / "logits.f32")
    print(name, float(logits.abs().max()))


def main(out, autoawq=None):
    blocks = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    write(out, "fp8", 192, fp8_blocks(torch.bfloat16), blocks)
    write(out, "fp8-f32", 256, fp8_blocks(torch.float32), blocks)
    tensors = {"quant_method": "compressed-tensors"}
    eight = dict(num_bits=8, type="float", symmetric=True)
    write(out, "ct-fp8-channel", 192, compressed("channel", "float-quantized", strategy="channel", **eight), tensors)
    write(out, "ct-fp8-tensor", 192, compressed("tensor", "float-quantized", strategy="tensor", **eight), tensors)
    block = compressed("block", "float-quantized", strategy="block", block_structure=[128, 128], **eight)
    write(out, "ct-fp8-block", 256, block, tensors)
    mx8 = compressed("group", "mxfp8-quantized", strategy="group", group_size=32, scale_dtype=torch.uint8, **eight)
    write(out, "ct-mxfp8", 192, mx8, tensors)
    four = dict(num_bits=4, type="float", symmetric=True)
    nv4 = compressed("tensor_group", "nvfp4-pack-quantized", strategy="tensor_group", group_size=16,
                     scale_dtype=torch.float8_e4m3fn, zp_dtype=torch.float8_e4m3fn, **four)
    write(out, "ct-nvfp4", 192, nv4, tensors)
    mx4 = compressed("group", "mxfp4-pack-quantized", strategy="group", group_size=32, scale_dtype=torch.uint8,
                     zp_dtype=torch.uint8, **four)
    write(out, "ct-mxfp4", 192, mx4, tensors)
    whole = dict(num_bits=4, type="int", strategy="group", group_size=128)
    write(out, "ct-w4a16", 256, compressed("group", "pack-quantized", symmetric=True, **whole), tensors)
    write(out, "ct-w4a16-zeros", 256, compressed("group", "pack-quantized", symmetric=False, **whole), tensors)
    rows = dict(num_bits=8, type="int", strategy="channel")
    write(out, "ct-w8a16-channel", 192, compressed("channel", "pack-quantized", symmetric=True, **rows), tensors)
    for mode, bits, group in (("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)):
        section = {"group_size": group, "bits": bits, "mode": mode}
        write(out, f"mlx-{mode}", 192, mlx(mode, bits, group), section, "quantization")
    write(out, "modelopt-nvfp4", 192, modelopt, {"quant_method": "modelopt", "quant_algo": "NVFP4"})
    section = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
    write(out, "gptq", 256, gptq(4, 128, True, 1), section)
    write(out, "gptq-zeros", 192, gptq(4, 64, False, 1), {**section, "group_size": 64, "sym": False})
    write(out, "gptq-v2", 256, gptq(4, 128, False, 0), {**section, "sym": False, "checkpoint_format": "gptq_v2"})
    write(out, "gptq-8", 192, gptq(8, 32, True, 1), {**section, "bits": 8, "group_size": 32})
    if autoawq:
        write(out, "awq", 256, awq(autoawq), {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True})


main(*sys.argv[1:])
