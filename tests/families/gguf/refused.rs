//! What is refused of GGUF files, and in which words.

use flashflood::model::ModelSource;

use super::writer::{RawTensor, Value};
use super::*;

/// What opening `file` says, with the folder left out.
fn said(file: &GgufFile) -> String {
    let (folder, path) = write(file);
    let error = ModelSource::open(&path).expect_err("a file that is refused").to_string();
    error.replace(folder.path().to_str().unwrap(), "FOLDER")
}

/// A change of a golden model's file.
type Change = fn(&mut GgufFile);

fn all_said(name: &str, changes: &[(&str, Change)]) -> String {
    let (golden, ..) = golden(name);
    let plain = golden.gguf(Form::PLAIN);
    let one = |(what, change): &(&str, Change)| {
        let mut file = plain.clone();
        change(&mut file);
        format!("# {name}: {what}\n{}\n\n", said(&file))
    };
    changes.iter().map(one).collect()
}

fn put_in(tensor: &mut RawTensor, i: usize, value: f32) {
    tensor.bytes[4 * i..][..4].copy_from_slice(&value.to_le_bytes());
}

#[test]
fn in_these_words() {
    let mut text = all_said(
        "qwen3",
        &[
            ("an architecture that is not read", |file| file.put("general.architecture", "gemma3")),
            ("no architecture", |file| file.remove("general.architecture")),
            ("a vision encoder", |file| file.put("general.architecture", "clip")),
            ("no epsilon", |file| file.remove("qwen3.attention.layer_norm_rms_epsilon")),
            ("a text for a number", |file| file.put("qwen3.block_count", "four")),
            ("heads that are not shared evenly", |file| file.put("qwen3.attention.head_count_kv", Value::U32(3))),
            ("heads that differ by layer", |file| {
                file.put("qwen3.attention.head_count_kv", Value::I32s(vec![2, 2, 1, 2]));
            }),
            ("values of another size", |file| file.put("qwen3.attention.value_length", Value::U32(16))),
            ("part of a head rotated", |file| file.put("qwen3.rope.dimension_count", Value::U32(16))),
            ("scaled positions", |file| file.put("qwen3.rope.scaling.type", "longrope")),
            ("positions that are scaled evenly", |file| {
                file.put("qwen3.rope.scaling.type", "linear");
                file.put("qwen3.rope.scaling.factor", Value::F32(4.0));
            }),
            ("only layers that guess", |file| file.put("qwen3.nextn_predict_layers", Value::U32(4))),
            ("no embedding", |file| file.tensors.retain(|tensor| tensor.name != "token_embd.weight")),
            ("no matrix", |file| file.tensors.retain(|tensor| tensor.name != "blk.2.attn_v.weight")),
            ("no norm", |file| file.tensors.retain(|tensor| tensor.name != "blk.2.ffn_norm.weight")),
            ("a matrix of another shape", |file| file.tensor("blk.1.attn_k.weight").dims = vec![32, 128]),
            ("a bias that is not computed with", |file| {
                file.add("blk.1.attn_q.bias", &[128], &[0.0; 128], Numbers::F32);
            }),
            ("frequencies that are not computed with", |file| {
                file.add("rope_freqs.weight", &[16], &[1.0; 16], Numbers::F32);
            }),
            ("a norm that is not a number", |file| put_in(file.tensor("blk.1.attn_norm.weight"), 7, f32::NAN)),
            ("a type that is not computed with", |file| {
                let tensor = file.tensor("blk.1.ffn_up.weight");
                (tensor.kind, tensor.bytes) = (28, tensor.bytes.repeat(2));
            }),
        ],
    );
    text += &all_said(
        "mixtral",
        &[
            ("no experts", |file| file.remove("llama.expert_count")),
            ("a router that is no softmax", |file| file.put("llama.expert_gating_func", Value::U32(2))),
            ("weights that are scaled", |file| file.put("llama.expert_weights_scale", Value::F32(2.5))),
            ("one projection of the experts is missing", |file| {
                file.tensors.retain(|tensor| tensor.name != "blk.3.ffn_up_exps.weight");
            }),
        ],
    );
    text += &all_said(
        "qwen3_5_text",
        &[
            ("a decay that grows", |file| put_in(file.tensor("blk.0.ssm_a"), 1, 0.5)),
            ("heads that do not make the width", |file| file.put("qwen35.ssm.inner_size", Value::U32(96))),
            ("kinds of too few layers", |file| {
                file.put("qwen35.attention.recurrent_layers", Value::Bools(vec![true; 3]));
            }),
        ],
    );
    let folder = tempfile::tempdir().unwrap();
    for name in ["a-Q4_K_M.gguf", "a-Q8_0-00001-of-00002.gguf", "a-Q8_0-00002-of-00002.gguf", "mmproj-F16.gguf"] {
        fs::write(folder.path().join(name), "GGUF").unwrap();
    }
    let error = ModelSource::open(folder.path()).expect_err("two models").to_string();
    text += &format!("# two models in a folder\n{}\n", error.replace(folder.path().to_str().unwrap(), "FOLDER"));
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("gguf_refused", text);
    });
}
