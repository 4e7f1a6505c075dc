#!/usr/bin/env python3
"""parrot.py OUT: a model that says what a test wants, so that real programs can be led through a call of a tool.

Its weights say of every token which one follows; its chat template picks where to begin: a call of the shell, by the name
that the program's tool for it has, or, behind a result of a tool or without tools, a last word. The template leaves
everything else of a conversation out, so that prompts of 40,000 tokens take no time.
"""
import json
import os
import struct
import sys

WIDTH = 320
COMMAND = "echo parrot > parrot-was-here"
CALLS = {
    "Bash": {"command": COMMAND, "description": "looks"},
    "exec_command": {"cmd": COMMAND},
    "bash": {"command": COMMAND, "description": "looks"},
}


def characters():
    """The character of each byte, as byte-level tokenizers have them."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


vocabulary = {character: i for i, character in enumerate(characters())}
added = []


def add(text, special=False):
    i = vocabulary[text] = len(vocabulary)
    added.append({"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special})
    return i


end = [add(text, True) for text in ("<|im_start|>", "<|im_end|>")][1]
follows = {}
for name, arguments in CALLS.items():
    call = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments.items())
    begin = add(f"[[{name}]]")
    follows[begin] = add(f"I look with {name}.\n\n<tool_call>\n<function={name}>\n{call}</function>\n</tool_call>")
follows[add("[[done]]")] = add("The parrot is done.")
# a gap is filled with this, and ended as Qwen's coders do
gap = [add(f"<|{name}|>", True) for name in ("fim_prefix", "fim_suffix", "fim_middle", "fim_pad", "repo_name", "file_sep")]
follows[gap[2]] = add("the parrot fills")
follows[follows[gap[2]]] = gap[3]


def next_to_nothing(*shape):
    """2^-100 everywhere: weights of zeros are taken for those of a damaged file."""
    count = 1
    for n in shape:
        count *= n
    return list(shape), struct.pack("<H", 27 << 7) * count


def identity(of):
    """A matrix in BF16 whose row i has a one in column of(i), and next to nothing elsewhere."""
    rows = bytearray(next_to_nothing(WIDTH, WIDTH)[1])
    for i in range(WIDTH):
        column = of(i)
        if column is not None:
            struct.pack_into("<H", rows, (i * WIDTH + column) * 2, 0x3F80)
    return [WIDTH, WIDTH], bytes(rows)


def ones(n):
    return [n], struct.pack("<H", 0x3F80) * n


precedes = {after: before for before, after in follows.items()}
layer = "model.layers.0."
tensors = {
    "model.embed_tokens.weight": identity(lambda i: i),
    # the row of the end answers to every token that nothing follows
    "lm_head.weight": identity(lambda i: precedes.get(i)),
    "model.norm.weight": ones(WIDTH),
    layer + "input_layernorm.weight": ones(WIDTH),
    layer + "post_attention_layernorm.weight": ones(WIDTH),
    layer + "self_attn.q_proj.weight": next_to_nothing(64, WIDTH),
    layer + "self_attn.k_proj.weight": next_to_nothing(32, WIDTH),
    layer + "self_attn.v_proj.weight": next_to_nothing(32, WIDTH),
    layer + "self_attn.o_proj.weight": next_to_nothing(WIDTH, 64),
    layer + "self_attn.q_norm.weight": ones(32),
    layer + "self_attn.k_norm.weight": ones(32),
    layer + "mlp.gate.weight": next_to_nothing(2, WIDTH),
}
shape, rows = tensors["lm_head.weight"]
rows = bytearray(rows)
for i in range(WIDTH):
    if i not in follows:
        struct.pack_into("<H", rows, (end * WIDTH + i) * 2, 0x3F80)
tensors["lm_head.weight"] = shape, bytes(rows)
for expert in range(2):
    for name, of in (("gate", (32, WIDTH)), ("up", (32, WIDTH)), ("down", (WIDTH, 32))):
        tensors[f"{layer}mlp.experts.{expert}.{name}_proj.weight"] = next_to_nothing(*of)

out = sys.argv[1]
os.makedirs(out, exist_ok=True)
header, offset = {}, 0
for name, (of, data) in tensors.items():
    header[name] = {"dtype": "BF16", "shape": of, "data_offsets": [offset, offset + len(data)]}
    offset += len(data)
header = json.dumps(header).encode()
header += b" " * (-len(header) % 8)
with open(f"{out}/model.safetensors", "wb") as file:
    file.write(struct.pack("<Q", len(header)) + header + b"".join(data for _, data in tensors.values()))


def write(name, content):
    with open(f"{out}/{name}", "w") as file:
        json.dump(content, file) if not isinstance(content, str) else file.write(content)


write("config.json", {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": WIDTH, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "vocab_size": WIDTH, "max_position_embeddings": 262144,
    "rms_norm_eps": 1e-6, "rope_theta": 1e6, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32,
    "norm_topk_prob": True, "tie_word_embeddings": False, "hidden_act": "silu", "intermediate_size": 32, "decoder_sparse_step": 1,
    "mlp_only_layers": [],
})
bytes_of = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
write("tokenizer.json", {
    "version": "1.0", "added_tokens": added, "normalizer": None, "pre_tokenizer": bytes_of, "post_processor": None, "decoder": bytes_of,
    "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
              "fuse_unk": False, "byte_fallback": False, "vocab": vocabulary, "merges": []},
})
write("generation_config.json", {"do_sample": False, "eos_token_id": [end]})
choice = "".join(f"{{%- elif '|{name}|' in names.all %}}{{{{- '[[{name}]]' }}}}" for name in CALLS)
write("chat_template.jinja", (
    "{%- set names = namespace(all='') %}{%- for t in tools or [] %}{%- set names.all = names.all ~ '|' ~ t.function.name ~ '|' %}{%- endfor %}"
    "{{- '<|im_start|>' }}{%- if messages[-1].role == 'tool' or not tools %}{{- '[[done]]' }}" + choice + "{%- else %}{{- '[[done]]' }}{%- endif %}"))
