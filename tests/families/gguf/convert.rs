//! From a golden snapshot to GGUF, by the conventions of llama.cpp's convert_hf_to_gguf.py: names, order of dimensions and
//! of rows, `1 + w` of norms, `-exp(A_log)`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use flashflood::weights::safetensors::TensorSet;
use serde_json::Value as Json;

use super::writer::{GgufFile, Numbers, Value};
use crate::snapshot::Draft;

/// A tensor: shape and numbers.
type Tensor = (Vec<usize>, Vec<f32>);

/// How files may differ that hold the same model.
#[derive(Clone, Copy)]
pub(super) struct Form {
    pub(super) numbers: Numbers,
    /// Gate and up of the experts as one tensor, and q, k and v of attention: `--fuse-gate-up-exps`, `--fuse-qkv`.
    pub(super) fused: bool,
    /// As the first files of an architecture: a tensor for each expert (Mixtral), `ssm_in` (Qwen3-Next), a shared gate
    /// of one dimension, and dimensions of 1.
    pub(super) legacy: bool,
}

impl Form {
    pub(super) const PLAIN: Form = Form { numbers: Numbers::F32, fused: false, legacy: false };
}

/// A model as transformers has it.
pub(super) struct Golden {
    config: Json,
    tensors: BTreeMap<String, Tensor>,
}

impl Golden {
    /// Of `tests/golden/families`.
    pub(super) fn family(name: &str) -> Golden {
        let draft = Draft::of(name);
        let to_f32 = |bytes: &[u8]| {
            bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect()
        };
        let tensors = draft.files.values().flatten();
        let tensors = tensors.map(|(name, t)| (name.clone(), (t.shape.clone(), to_f32(&t.bytes)))).collect();
        Golden { config: draft.config, tensors }
    }

    /// Of `tests/golden/oracle`.
    pub(super) fn oracle(folder: &Path) -> Golden {
        let config: Json = serde_json::from_str(&fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
        let mut tensors = BTreeMap::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if !path.file_name().unwrap().to_string_lossy().starts_with("model-") {
                continue;
            }
            let set = TensorSet::open_file(&path).unwrap();
            for name in set.names() {
                let tensor = set.get(name).unwrap();
                tensors.insert(name.to_owned(), (tensor.shape.clone(), tensor.to_f32().unwrap()));
            }
        }
        Golden { config, tensors }
    }

    fn key(&self, key: &str) -> &Json {
        let text = &self.config["text_config"];
        let text = if text.is_object() { text } else { &self.config };
        match &text[key] {
            Json::Null => &text["rope_parameters"][key],
            found => found,
        }
    }

    fn size(&self, key: &str) -> usize {
        self.key(key).as_u64().unwrap_or_else(|| panic!("no {key}")) as usize
    }

    fn architecture(&self) -> &'static str {
        match self.key("model_type").as_str().unwrap() {
            "qwen3_5_moe" | "qwen3_5_moe_text" => "qwen35moe",
            "qwen3_5" | "qwen3_5_text" => "qwen35",
            "qwen3_next" => "qwen3next",
            "qwen3_moe" => "qwen3moe",
            "qwen3" => "qwen3",
            "mixtral" => "llama",
            other => panic!("{other}"),
        }
    }

    /// The model as a GGUF file, without a vocabulary.
    pub(super) fn gguf(&self, form: Form) -> GgufFile {
        let mut file = GgufFile::new();
        self.put_keys(&mut file);
        let mut experts = BTreeMap::new();
        for (name, (shape, values)) in &self.tensors {
            let text =
                name.strip_prefix("model.language_model.").or_else(|| name.strip_prefix("model.")).unwrap_or(name);
            // the head that guesses tokens is the layer behind the last
            let behind = format!("layers.{}.", self.size("num_hidden_layers"));
            let text = text.replace("mtp.layers.0.", &behind);
            match text.as_str() {
                "embed_tokens.weight" => file.add("token_embd.weight", shape, values, form.numbers),
                "lm_head.weight" => file.add("output.weight", shape, values, form.numbers),
                "norm.weight" => file.add("output_norm.weight", shape, &self.norm(&text, values), Numbers::F32),
                "mtp.fc.weight" => {
                    let called = format!("blk.{}.nextn.eh_proj.weight", self.size("num_hidden_layers"));
                    file.add(&called, shape, values, form.numbers);
                }
                _ => {
                    let Some((layer, rest)) = text.strip_prefix("layers.").and_then(|rest| rest.split_once('.')) else {
                        continue;
                    };
                    self.add_of_layer(&mut file, layer, rest, (shape, values), form, &mut experts);
                }
            }
        }
        for ((layer, projection), parts) in experts {
            let (shape, _): &Tensor = &parts[0];
            let all: Vec<f32> = parts.iter().flat_map(|(_, values)| values.iter().copied()).collect();
            let shape = [parts.len(), shape[0], shape[1]];
            file.add(&format!("blk.{layer}.ffn_{projection}_exps.weight"), &shape, &all, form.numbers);
        }
        if form.fused {
            fuse(&mut file);
        }
        file
    }

    fn norm(&self, name: &str, values: &[f32]) -> Vec<f32> {
        let one = ["qwen35moe", "qwen35", "qwen3next"].contains(&self.architecture());
        let plain = name.ends_with("linear_attn.norm.weight");
        values.iter().map(|value| if one && !plain { value + 1.0 } else { *value }).collect()
    }

    /// Value heads, grouped by their key heads, in turn: of rows of `dim` times `width` numbers.
    fn in_turn(&self, values: &[f32], dim: usize, width: usize) -> Vec<f32> {
        if !self.architecture().starts_with("qwen35") {
            return values.to_vec();
        }
        let (keys, heads) = (self.size("linear_num_key_heads"), self.size("linear_num_value_heads"));
        let each = heads / keys;
        let head = |h: usize| &values[h * dim * width..][..dim * width];
        (0..heads).flat_map(|h| head(h % keys * each + h / keys).iter().copied()).collect()
    }

    /// Rows of q or k as interleaved rotary positions want them.
    fn interleaved(&self, values: &[f32], shape: &[usize], heads: usize) -> Vec<f32> {
        let (dim, width) = (shape[0] / heads, shape[1]);
        let row = |row: usize| {
            let (head, pair, part) = (row / dim, row % dim / 2, row % 2);
            &values[(head * dim + part * dim / 2 + pair) * width..][..width]
        };
        (0..shape[0]).flat_map(|r| row(r).iter().copied()).collect()
    }

    fn add_of_layer(
        &self,
        file: &mut GgufFile,
        layer: &str,
        rest: &str,
        (shape, values): (&[usize], &[f32]),
        form: Form,
        experts: &mut BTreeMap<(String, &'static str), Vec<Tensor>>,
    ) {
        let at = |name: &str| format!("blk.{layer}.{name}");
        let numbers = form.numbers;
        let hidden = self.size("hidden_size");
        let linear = || {
            let dim = self.size("linear_value_head_dim");
            (self.size("linear_num_key_heads") * self.size("linear_key_head_dim"), dim)
        };
        let post = if self.architecture().starts_with("qwen35") || self.architecture() == "qwen3next" {
            "post_attention_norm.weight"
        } else {
            "ffn_norm.weight"
        };
        let norm = || self.norm(rest, values);
        let mut plain = |name: &str| file.add(&at(name), shape, values, numbers);
        match rest {
            "input_layernorm.weight" => file.add(&at("attn_norm.weight"), shape, &norm(), Numbers::F32),
            "post_attention_layernorm.weight" => file.add(&at(post), shape, &norm(), Numbers::F32),
            "self_attn.q_norm.weight" => file.add(&at("attn_q_norm.weight"), shape, &norm(), Numbers::F32),
            "self_attn.k_norm.weight" => file.add(&at("attn_k_norm.weight"), shape, &norm(), Numbers::F32),
            "linear_attn.norm.weight" => file.add(&at("ssm_norm.weight"), shape, &norm(), Numbers::F32),
            "self_attn.q_proj.weight" | "self_attn.k_proj.weight" if self.architecture() == "llama" => {
                let (name, heads) = match rest.contains("q_proj") {
                    true => ("attn_q.weight", self.size("num_attention_heads")),
                    false => ("attn_k.weight", self.size("num_key_value_heads")),
                };
                file.add(&at(name), shape, &self.interleaved(values, shape, heads), numbers);
            }
            "self_attn.q_proj.weight" => plain("attn_q.weight"),
            "self_attn.k_proj.weight" => plain("attn_k.weight"),
            "self_attn.v_proj.weight" => plain("attn_v.weight"),
            "self_attn.o_proj.weight" => plain("attn_output.weight"),
            "mlp.gate_proj.weight" => plain("ffn_gate.weight"),
            "mlp.up_proj.weight" => plain("ffn_up.weight"),
            "mlp.down_proj.weight" => plain("ffn_down.weight"),
            "mlp.shared_expert.gate_proj.weight" => plain("ffn_gate_shexp.weight"),
            "mlp.shared_expert.up_proj.weight" => plain("ffn_up_shexp.weight"),
            "mlp.shared_expert.down_proj.weight" => plain("ffn_down_shexp.weight"),
            "mlp.gate.weight" | "block_sparse_moe.gate.weight" => {
                file.add(&at("ffn_gate_inp.weight"), shape, values, Numbers::F32);
            }
            "mlp.shared_expert_gate.weight" => {
                let shape = if form.legacy { vec![hidden] } else { vec![1, hidden] };
                file.add(&at("ffn_gate_inp_shexp.weight"), &shape, values, Numbers::F32);
            }
            "linear_attn.in_proj_qkv.weight" => {
                let (keys, dim) = linear();
                let (qk, v) = values.split_at(2 * keys * hidden);
                file.add(&at("attn_qkv.weight"), shape, &[qk, &self.in_turn(v, dim, hidden)].concat(), numbers);
            }
            "linear_attn.conv1d.weight" => {
                let (keys, dim) = linear();
                let (channels, taps) = (shape[0], shape[2]);
                let (qk, v) = values.split_at(2 * keys * taps);
                let all = [qk, &self.in_turn(v, dim, taps)].concat();
                let shape = if form.legacy { vec![channels, 1, taps] } else { vec![channels, taps] };
                file.add(&at("ssm_conv1d.weight"), &shape, &all, Numbers::F32);
            }
            "linear_attn.in_proj_z.weight" => {
                file.add(&at("attn_gate.weight"), shape, &self.in_turn(values, linear().1, hidden), numbers);
            }
            "linear_attn.in_proj_b.weight" => {
                file.add(&at("ssm_beta.weight"), shape, &self.in_turn(values, 1, hidden), numbers);
            }
            "linear_attn.in_proj_a.weight" => {
                file.add(&at("ssm_alpha.weight"), shape, &self.in_turn(values, 1, hidden), numbers);
            }
            "linear_attn.A_log" => {
                let decays: Vec<f32> = values.iter().map(|value| -value.exp()).collect();
                file.add(&at("ssm_a"), shape, &self.in_turn(&decays, 1, 1), Numbers::F32);
            }
            "linear_attn.dt_bias" => file.add(&at("ssm_dt.bias"), shape, &self.in_turn(values, 1, 1), Numbers::F32),
            "linear_attn.out_proj.weight" => {
                // columns: each row is turned by itself
                let rows = values.chunks(shape[1]).flat_map(|row| self.in_turn(row, linear().1, 1));
                file.add(&at("ssm_out.weight"), shape, &rows.collect::<Vec<_>>(), numbers);
            }
            "linear_attn.in_proj_ba.weight" => plain("ssm_ba.weight"),
            "linear_attn.in_proj_qkvz.weight" if form.legacy => plain("ssm_in.weight"),
            "linear_attn.in_proj_qkvz.weight" => {
                let (keys, dim) = linear();
                let (heads, key) = (self.size("linear_num_key_heads"), keys / self.size("linear_num_key_heads"));
                let value = self.size("linear_num_value_heads") / heads * dim;
                let part = |from: usize, rows: usize| -> Vec<f32> {
                    let head = |h: usize| &values[(h * (2 * key + 2 * value) + from) * hidden..][..rows * hidden];
                    (0..heads).flat_map(|h| head(h).iter().copied()).collect()
                };
                let qkv = [part(0, key), part(key, key), part(2 * key, value)].concat();
                file.add(&at("attn_qkv.weight"), &[qkv.len() / hidden, hidden], &qkv, numbers);
                let z = part(2 * key + value, value);
                file.add(&at("attn_gate.weight"), &[z.len() / hidden, hidden], &z, numbers);
            }
            "mlp.experts.down_proj" => plain("ffn_down_exps.weight"),
            "mlp.experts.gate_up_proj" => {
                let [experts, rows, cols] = shape else { panic!("{shape:?}") };
                for (half, name) in [(0, "ffn_gate_exps.weight"), (1, "ffn_up_exps.weight")] {
                    let values = values.chunks(rows * cols / 2).skip(half).step_by(2).flatten().copied();
                    file.add(&at(name), &[*experts, rows / 2, *cols], &values.collect::<Vec<_>>(), numbers);
                }
            }
            _ => {
                let of_expert = rest.strip_prefix("mlp.experts.").or(rest.strip_prefix("block_sparse_moe.experts."));
                let (expert, name) =
                    of_expert.and_then(|rest| rest.split_once('.')).unwrap_or_else(|| panic!("{rest}"));
                let projection = match name {
                    "gate_proj.weight" | "w1.weight" => "gate",
                    "up_proj.weight" | "w3.weight" => "up",
                    "down_proj.weight" | "w2.weight" => "down",
                    other => panic!("{other}"),
                };
                if form.legacy && self.architecture() == "llama" {
                    return file.add(&at(&format!("ffn_{projection}.{expert}.weight")), shape, values, numbers);
                }
                let parts = experts.entry((layer.to_owned(), projection)).or_default();
                let expert: usize = expert.parse().unwrap();
                // names come in the order of their letters
                parts.resize(parts.len().max(expert + 1), Default::default());
                parts[expert] = (shape.to_vec(), values.to_vec());
            }
        }
    }

    fn put_keys(&self, file: &mut GgufFile) {
        let architecture = self.architecture();
        let linear = architecture.starts_with("qwen35") || architecture == "qwen3next";
        let guessing = usize::from(self.tensors.keys().any(|name| name.starts_with("mtp.layers")));
        let layers = self.size("num_hidden_layers");
        let head = self.size("head_dim");
        file.put("general.architecture", architecture);
        file.put("tokenizer.ggml.model", "none");
        let mut put = |key: &str, value: Value| file.put(&format!("{architecture}.{key}"), value);
        let size = |key: &str| Value::U32(self.size(key) as u32);
        let number = |key: &str| Value::F32(self.key(key).as_f64().unwrap() as f32);
        put("block_count", Value::U32((layers + guessing) as u32));
        if guessing > 0 {
            put("nextn_predict_layers", Value::U32(guessing as u32));
        }
        put("context_length", size("max_position_embeddings"));
        put("embedding_length", size("hidden_size"));
        put("attention.head_count", size("num_attention_heads"));
        put("attention.head_count_kv", size("num_key_value_heads"));
        put("attention.key_length", Value::U32(head as u32));
        put("attention.value_length", Value::U32(head as u32));
        put("attention.layer_norm_rms_epsilon", number("rms_norm_eps"));
        put("rope.freq_base", number("rope_theta"));
        match self.key("partial_rotary_factor").as_f64() {
            Some(factor) if linear => put("rope.dimension_count", Value::U32((head as f64 * factor) as u32)),
            _ if architecture == "llama" => put("rope.dimension_count", Value::U32(head as u32)),
            _ => {}
        }
        for (key, from) in [
            ("feed_forward_length", "intermediate_size"),
            ("expert_count", "num_experts"),
            ("expert_count", "num_local_experts"),
            ("expert_used_count", "num_experts_per_tok"),
            ("expert_feed_forward_length", "moe_intermediate_size"),
            ("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
        ] {
            if self.key(from).is_u64() {
                put(key, size(from));
            }
        }
        if linear {
            put("ssm.conv_kernel", size("linear_conv_kernel_dim"));
            put("ssm.state_size", size("linear_key_head_dim"));
            put("ssm.group_count", size("linear_num_key_heads"));
            put("ssm.time_step_rank", size("linear_num_value_heads"));
            let width = self.size("linear_num_value_heads") * self.size("linear_value_head_dim");
            put("ssm.inner_size", Value::U32(width as u32));
            match self.key("layer_types").as_array() {
                Some(types) => {
                    let mut flags: Vec<bool> = types.iter().map(|kind| kind == "linear_attention").collect();
                    flags.resize(layers + guessing, false);
                    put("attention.recurrent_layers", Value::Bools(flags));
                }
                None => put("full_attention_interval", size("full_attention_interval")),
            }
        }
    }
}

/// Puts gate over up of the experts, and q over k over v of attention.
fn fuse(file: &mut GgufFile) {
    let layers: Vec<String> = (0..8).map(|layer| format!("blk.{layer}.")).collect();
    for at in layers {
        let mut join = |names: &[&str], fused: &str, outer: usize| {
            let take = |file: &mut GgufFile, name: &str| {
                let index = file.tensors.iter().position(|tensor| tensor.name == format!("{at}{name}.weight"))?;
                Some(file.tensors.remove(index))
            };
            let parts: Vec<_> = names.iter().filter_map(|name| take(file, name)).collect();
            let Some(mut whole) = parts.first().cloned() else { return };
            whole.name = format!("{at}{fused}.weight");
            whole.dims[1] = parts.iter().map(|part| part.dims[1]).sum();
            // of each expert, all parts
            let outer = if outer == 0 { 1 } else { whole.dims[2] as usize };
            let slice = |part: &super::writer::RawTensor, i: usize| {
                let len = part.bytes.len() / outer;
                part.bytes[i * len..][..len].to_vec()
            };
            whole.bytes = (0..outer).flat_map(|i| parts.iter().flat_map(move |part| slice(part, i))).collect();
            file.tensors.push(whole);
        };
        join(&["ffn_gate_exps", "ffn_up_exps"], "ffn_gate_up_exps", 1);
        join(&["attn_q", "attn_k", "attn_v"], "attn_qkv", 0);
    }
}
