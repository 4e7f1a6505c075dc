//! Packs: made, opened, resumed, checked, and refused when they are damaged.
#![allow(clippy::unwrap_used, reason = "tests")]

mod anywhere;
mod damage;
mod embedded;
mod model;
mod resume;
mod version_1;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Mutex;

use crate::model::ModelSource;
use crate::weights::pack::{self, PackError, PackOptions, Progress};
use crate::weights::safetensors::TensorSet;
use crate::weights::{Affine, Listed, Matrix, MatrixBlock, ScaleType, WeightFormat};
use serde_json::Value;

pub(crate) use model::contents;
use model::{
    EXPERTS, HIDDEN, QUIET, VOCAB, assert_same_bytes, config, expert_rows, folders, image, matrix_rows, options,
    quantised, replace, source, source_of,
};

#[test]
fn a_pack_holds_the_quantised_weights_of_its_source() {
    let (_temp, model, out) = folders();
    let source = source(&model, 1);
    for (bits, down_bits) in [(4, None), (3, Some(4)), (2, Some(3)), (5, Some(6)), (8, None)] {
        let options = PackOptions { bits, down_bits, ..PackOptions::default() };
        let summary = source.write_pack(None, &out, &options, QUIET).unwrap();
        assert_eq!((summary.layers_written, summary.layers_kept), (3, 0));
        let pack = ModelSource::open(&out).unwrap();
        assert_eq!(pack.shape, source.shape);
        let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(json(&pack.config), json(&source.config));
        for layer in 0..3 {
            for expert in 0..EXPERTS {
                let (from, to) = (&source.experts().layers[layer].slot, &pack.experts().layers[layer].slot);
                let (was, is) = (image(source.experts(), layer, expert), image(pack.experts(), layer, expert));
                let down = down_bits.unwrap_or(bits);
                assert_eq!(to.gate.format, WeightFormat::affine(bits, 64));
                assert_eq!(to.down.format, WeightFormat::affine(down, 32), "96 columns");
                let gate_up = quantised(&expert_rows(&from.gate_up().unwrap(), &was), bits, 64);
                assert_eq!(expert_rows(&to.gate_up().unwrap(), &is), gate_up, "layer {layer}, expert {expert}");
                let down = quantised(&expert_rows(&from.down, &was), down, 32);
                assert_eq!(expert_rows(&to.down, &is), down, "layer {layer}, expert {expert}");
                let sum = pack.experts().layers[layer].checksums.as_ref().unwrap()[expert];
                assert_eq!(sum, xxhash_rust::xxh3::xxh3_64(&is));
            }
        }
        let report = pack::verify(&out, QUIET).unwrap();
        assert_eq!(report.records, 18);
        assert_eq!(report.bytes, summary.resident_bytes + summary.expert_bytes);
        fs::remove_dir_all(&out).unwrap();
    }
}

/// Of layers of attention and of delta-nets: (those in 8 bits, those that stay as they are, vectors).
const OF_A_LAYER: [[&[&str]; 3]; 2] = [
    [
        &["delta_net.qkv", "delta_net.z", "delta_net.out"],
        &["delta_net.b", "delta_net.a"],
        &["delta_net.conv", "delta_net.a_log", "delta_net.dt_bias", "delta_net.norm"],
    ],
    [&["attention.q", "attention.k", "attention.v", "attention.o"], &[], &["attention.q_norm", "attention.k_norm"]],
];

#[test]
fn resident_weights_keep_their_names_shapes_and_values() {
    let (_temp, model, out) = folders();
    let source = source(&model, 2);
    source.write_pack(None, &out, &options(4), QUIET).unwrap();
    let pack = ModelSource::open(&out).unwrap();

    let mut eight = vec!["embed_tokens".to_owned(), "lm_head".to_owned()];
    let (mut same, mut vectors) = (Vec::new(), vec!["norm".to_owned()]);
    for layer in 0..3 {
        let mut add = |[as_eight, as_same, as_vectors]: [&[&str]; 3]| {
            let name = |rest: &&str| format!("layers.{layer}.{rest}");
            eight.extend(as_eight.iter().map(name));
            same.extend(as_same.iter().map(name));
            vectors.extend(as_vectors.iter().map(name));
        };
        add(OF_A_LAYER[layer % 2]);
        let shared: &[&str] = &["shared.gate", "shared.up", "shared.down"];
        add([shared, &["router", "shared.scalar_gate"], &["input_norm", "post_norm"]]);
    }
    let names = |source: &ModelSource| -> Vec<String> {
        source.weights.resident.iter().map(|listed| listed.name().to_owned()).collect()
    };
    assert_eq!(names(&pack), names(&source));
    let all: BTreeSet<String> = [&eight[..], &same, &vectors].concat().into_iter().collect();
    assert_eq!(names(&pack).into_iter().collect::<BTreeSet<_>>(), all);

    let both = |name: &str| (source.weights.matrix(name).unwrap(), pack.weights.matrix(name).unwrap());
    for name in &eight {
        let (was, is) = both(name);
        assert_eq!(was.format, WeightFormat::Bf16, "{name}");
        assert_eq!(is.format, WeightFormat::affine(8, 64), "{name}");
        assert_eq!(matrix_rows(is), quantised(&matrix_rows(was), 8, 64), "{name}");
    }
    for name in &same {
        let (was, is) = both(name);
        assert_eq!(is.format, was.format, "{name}");
        assert_eq!(matrix_rows(is), matrix_rows(was), "{name}");
    }
    for name in &vectors {
        assert_eq!(pack.weights.vector(name).unwrap(), source.weights.vector(name).unwrap(), "{name}");
    }
    assert!(both("layers.0.delta_net.qkv").0.blocks.len() > 1, "rows of several blocks are in order");
    for (was, is) in source.weights.resident.iter().zip(&pack.weights.resident) {
        if let (Listed::Vector { shape: was, .. }, Listed::Vector { shape, name, .. }) = (was, is) {
            assert_eq!(shape, was, "{name}");
        }
    }

    // norms are plain weights on disk: the 1 of `1 + w` is added
    let tensors = TensorSet::open_file(&out.join(pack::RESIDENT)).unwrap();
    let of_snapshot = TensorSet::open(&model).unwrap().get("model.norm.weight").unwrap().to_f32().unwrap();
    let plain: Vec<f32> = of_snapshot.iter().map(|w| w + 1.0).collect();
    assert_eq!(tensors.get("norm").unwrap().to_f32().unwrap(), plain);
    let streams = |name: &String| ["weight", "scales", "biases"].map(|stream| format!("{name}.{stream}"));
    let expected: BTreeSet<String> = eight.iter().flat_map(streams).collect();
    let expected = expected.into_iter().chain(same.iter().map(|name| format!("{name}.weight"))).chain(vectors);
    assert_eq!(tensors.names().map(str::to_owned).collect::<BTreeSet<_>>(), expected.collect());
}

#[test]
fn tied_embeddings_are_stored_once() {
    let (_temp, model, out) = folders();
    let mut config = config();
    config["tie_word_embeddings"] = true.into();
    let source = source_of(&model, 2, &config);
    source.write_pack(None, &out, &options(4), QUIET).unwrap();
    let pack = ModelSource::open(&out).unwrap();
    assert!(source.shape.tied_embeddings && pack.shape.tied_embeddings);
    assert!(pack.weights.matrix("lm_head").is_none());
    assert_eq!(pack.weights.matrix("embed_tokens").unwrap().rows, VOCAB);
    let tensors = TensorSet::open_file(&out.join(pack::RESIDENT)).unwrap();
    assert!(tensors.names().all(|name| !name.starts_with("lm_head")));
}

#[test]
fn what_has_the_wanted_format_is_copied() {
    let (temp, model, out) = folders();
    source(&model, 1).write_pack(None, &out, &options(4), QUIET).unwrap();
    let four = ModelSource::open(&out).unwrap();
    let again = temp.path().join("again");
    let warnings = Mutex::new(Vec::new());
    let observer = |progress: Progress<'_>| {
        if let Progress::Warning(text) = progress {
            warnings.lock().unwrap().push(text.to_owned());
        }
    };
    four.write_pack(None, &again, &options(4), &observer).unwrap();
    let records = |out: &Path| fs::read(out.join(pack::layer_file(1))).unwrap();
    assert_eq!(records(&out), records(&again));
    let resident = |out: &Path| fs::read(out.join(pack::RESIDENT)).unwrap();
    assert_eq!(resident(&out), resident(&again));
    assert!(warnings.lock().unwrap().is_empty());

    // 0 keeps everything
    let kept = temp.path().join("kept");
    let keep = PackOptions { bits: 0, resident_bits: 0, ..PackOptions::default() };
    source(&model, 1).write_pack(None, &kept, &keep, QUIET).unwrap();
    let kept = ModelSource::open(&kept).unwrap();
    assert_eq!(kept.experts().layers[0].slot.gate.format, WeightFormat::Bf16);
    assert_eq!(kept.weights.matrix("lm_head").unwrap().format, WeightFormat::Bf16);
    assert_eq!(image(kept.experts(), 2, 5), image(source(&model, 1).experts(), 2, 5));

    // fewer bits from few bits
    let two = temp.path().join("two");
    four.write_pack(None, &two, &options(2), &observer).unwrap();
    assert!(warnings.lock().unwrap()[0].contains("make low-bit packs from BF16"), "{warnings:?}");
    pack::verify(&two, QUIET).unwrap();
}

#[test]
fn text_files_go_along() {
    let (_temp, model, out) = folders();
    let source = source(&model, 1);
    fs::write(model.join("tokenizer.json"), "{}").unwrap();
    fs::write(model.join("chat_template.jinja"), "{{ messages }}").unwrap();
    fs::create_dir(model.join("additional_chat_templates")).unwrap();
    fs::write(model.join("additional_chat_templates/tool_use.jinja"), "{{ tools }}").unwrap();
    fs::write(model.join("README.md"), "no").unwrap();
    source.write_pack(Some(&model), &out, &options(4), QUIET).unwrap();
    assert_eq!(fs::read_to_string(out.join("chat_template.jinja")).unwrap(), "{{ messages }}");
    assert_eq!(fs::read_to_string(out.join("additional_chat_templates/tool_use.jinja")).unwrap(), "{{ tools }}");
    let names: Vec<String> = contents(&out).into_iter().map(|(name, _)| name).collect();
    let expected = [
        "chat_template.jinja",
        "config.json",
        "layer-000.bin",
        "layer-001.bin",
        "layer-002.bin",
        "manifest.json",
        "resident.safetensors",
        "tokenizer.json",
        "tool_use.jinja",
    ];
    assert_eq!(names, expected);
}

#[test]
fn options_without_a_format_are_refused() {
    let (_temp, model, out) = folders();
    let source = source(&model, 1);
    for options in [
        options(1),
        options(7),
        PackOptions { down_bits: Some(16), ..options(4) },
        PackOptions { group: 48, ..options(4) },
    ] {
        let error = source.write_pack(None, &out, &options, QUIET).unwrap_err();
        assert!(matches!(error, PackError::Option { .. }), "{error}");
        assert!(!out.exists());
    }
}

#[test]
fn scales_of_other_types_survive() {
    let (_temp, model, out) = folders();
    let mut source = source(&model, 1);
    let format = WeightFormat::Affine(Affine { bits: 3, group: 32, scales: ScaleType::F16 });
    let [codes, scales, biases] = format.stream_bytes(HIDDEN).map(|row| VOCAB * row);
    let streams = [vec![0x5a; codes].into(), vec![0x11; scales].into(), vec![0x22; biases].into()];
    let blocks = vec![MatrixBlock { rows: VOCAB, streams }];
    let matrix = Matrix { name: "lm_head".into(), rows: VOCAB, cols: HIDDEN, format, blocks };
    replace(&mut source, "lm_head", matrix.clone());
    source.write_pack(None, &out, &options(4), QUIET).unwrap();
    let pack = ModelSource::open(&out).unwrap();
    assert_same_bytes(pack.weights.matrix("lm_head").unwrap(), &matrix);
}

/// A layer's file is read from the first stripe that has it, and may be missing in the pack then.
#[test]
fn layers_may_lie_on_several_disks() {
    let (temp, model, out) = folders();
    source(&model, 1).write_pack(None, &out, &options(4), QUIET).unwrap();
    let whole = ModelSource::open(&out).unwrap();
    let expected: Vec<_> = (0..3).map(|layer| image(whole.experts(), layer, 1)).collect();
    let stripes = [temp.path().join("disk-2"), temp.path().join("disk-3")];
    for (stripe, layer) in stripes.iter().zip(1..) {
        fs::create_dir_all(stripe.join("experts")).unwrap();
        let name = format!("experts/layer-{layer:03}.bin");
        fs::rename(out.join(&name), stripe.join(&name)).unwrap();
    }
    let striped = ModelSource::open_striped(&out, &stripes).unwrap();
    for (layer, expected) in expected.iter().enumerate() {
        assert!(image(striped.experts(), layer, 1) == *expected, "layer {layer}");
    }
    let error = ModelSource::open(&out).unwrap_err().to_string();
    assert!(error.contains("layer-001.bin"), "{error}");
    let file = stripes[1].join("experts/layer-002.bin");
    fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(10).unwrap();
    let error = pack::open_striped(&out, &stripes).map(drop).unwrap_err().to_string();
    assert!(error.starts_with(&file.display().to_string()), "{error}");
    let error = ModelSource::open_striped(&out, &[out.join("none")]).unwrap_err().to_string();
    assert!(error.contains("expected a folder with layers of the pack"), "{error}");
}
