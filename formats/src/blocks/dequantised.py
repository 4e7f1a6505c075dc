#!/usr/bin/env python3
"""dequantised.py > dequantised.csv: hashes of what the PyPI package gguf (0.19) makes of blocks of every type.

The blocks are random bytes (SplitMix64 seeded with the type's number), their f16 scales made finite; then the same with
the largest scales there are, and with zeros for scales; then one block of each byte alone."""
import numpy as np
from gguf import GGMLQuantizationType as T, GGML_QUANT_SIZES, quants

HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ2_XXS": [0], "IQ2_XS": [0], "IQ3_XXS": [0], "IQ1_S": [0],
          "IQ4_NL": [0], "IQ3_S": [0], "IQ2_S": [0], "IQ4_XS": [0], "IQ1_M": [], "TQ1_0": [52], "TQ2_0": [64],
          "MXFP4": [], "NVFP4": []}


def split_mix(seed, n):
    state, mask, out = seed, (1 << 64) - 1, bytearray()
    while len(out) < n:
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        out += (z ^ (z >> 31)).to_bytes(8, "little")
    return np.frombuffer(bytes(out[:n]), np.uint8).copy()


def with_scales(blocks, name, change):
    blocks = blocks.copy()
    for at in HALVES[name]:
        blocks[:, at:at + 2] = change(blocks[:, at:at + 2].copy().view(np.uint16)).view(np.uint8)
    if name == "IQ1_M":
        # a scale that is finite: its highest four bits are those of the last word
        blocks[:, 55] &= 0xBF
    return blocks


for name, halves in HALVES.items():
    kind = T[name]
    columns, size = GGML_QUANT_SIZES[kind]
    random = split_mix(int(kind), 97 * size).reshape(97, size)
    alone = np.repeat(np.arange(256, dtype=np.uint8)[:, None], size, axis=1)
    finite = lambda half: np.where(half & 0x7C00 == 0x7C00, half & 0xBFFF, half).astype(np.uint16)
    blocks = np.concatenate([with_scales(random, name, finite), with_scales(random, name, lambda h: h * 0 + np.uint16(0x7BFF)),
                             with_scales(random, name, lambda h: h * 0), with_scales(alone, name, finite)])
    with np.errstate(over="ignore", invalid="ignore"):
        values = quants.dequantize(blocks, kind).astype(np.float32).reshape(-1)
    assert len(values) == len(blocks) * columns
    hash = 0xCBF29CE484222325
    for bits in values.view(np.uint32).tolist():
        hash = ((hash ^ bits) * 0x100000001B3) & ((1 << 64) - 1)
    print(f"{name.lower()},{int(kind)},{columns},{size},{hash:016x}")
