//! Packs: made, opened, resumed, checked, and refused when they are damaged.
#![allow(clippy::unwrap_used, reason = "tests")]

mod damage;
mod model;

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use flashflood::experts::ExpertFile;
use flashflood::formats::pack::{self, PackError, PackOptions, Progress, write_pack};
use flashflood::formats::{ScaleType, WeightFormat};
use flashflood::model::weights::MixerWeights;
use flashflood::model::{Config, Matrix, MatrixBlock, ModelSource};

use model::{QUIET, contents, expert_rows, folders, image, made, matrix_rows, options, quantised, repack, source};

#[test]
fn a_pack_holds_the_quantised_weights_of_its_source() {
    let (_temp, model, out) = folders();
    let source = source(&model, 1);
    for (bits, down_bits) in [(4, None), (3, Some(4)), (2, Some(3)), (5, Some(6)), (8, None)] {
        let options = PackOptions { bits, down_bits, ..PackOptions::default() };
        let summary = write_pack(&source, None, &out, &options, QUIET).unwrap();
        assert_eq!((summary.layers_written, summary.layers_kept), (3, 0));
        let pack = pack::open(&out).unwrap();
        assert_eq!(pack.config, Config { norm_plus_one: false, ..source.config.clone() });
        for layer in 0..3 {
            for expert in 0..6 {
                let (from, to) = (&source.experts.layers[layer].slot, &pack.experts.layers[layer].slot);
                let (was, is) = (image(&source.experts, layer, expert), image(&pack.experts, layer, expert));
                let down = down_bits.unwrap_or(bits);
                assert_eq!(to.gate_up.format, WeightFormat::affine(bits, 64));
                assert_eq!(to.down.format, WeightFormat::affine(down, 32), "96 columns");
                let gate_up = quantised(&expert_rows(&from.gate_up, &was), bits, 64);
                assert_eq!(expert_rows(&to.gate_up, &is), gate_up, "layer {layer}, expert {expert}");
                let down = quantised(&expert_rows(&from.down, &was), down, 32);
                assert_eq!(expert_rows(&to.down, &is), down, "layer {layer}, expert {expert}");
                let sum = pack.experts.layers[layer].checksums.as_ref().unwrap()[expert];
                assert_eq!(sum, xxhash_rust::xxh3::xxh3_64(&is));
            }
        }
        let report = pack::verify(&out, QUIET).unwrap();
        assert_eq!(report.records, 18);
        assert_eq!(report.bytes, summary.resident_bytes + summary.expert_bytes);
        fs::remove_dir_all(&out).unwrap();
    }
}

#[test]
fn resident_weights_keep_their_names_shapes_and_values() {
    let (_temp, model, out) = folders();
    let source = source(&model, 2);
    write_pack(&source, None, &out, &options(4), QUIET).unwrap();
    let pack = pack::open(&out).unwrap();
    let (was, is) = (&source.weights, &pack.weights);
    let eight = |was: &Matrix, is: &Matrix| {
        assert_eq!(is.format, WeightFormat::affine(8, 64), "{}", is.name);
        assert_eq!(matrix_rows(is), quantised(&matrix_rows(was), 8, 64), "{}", is.name);
    };
    let same = |was: &Matrix, is: &Matrix| {
        assert_eq!(is.format, was.format, "{}", is.name);
        assert_eq!(matrix_rows(is), matrix_rows(was), "{}", is.name);
    };
    eight(&was.embed_tokens, &is.embed_tokens);
    eight(&was.lm_head, &is.lm_head);
    assert_eq!(was.norm, is.norm);
    assert_eq!(is.layers.len(), 3);
    for (was, is) in was.layers.iter().zip(&is.layers) {
        assert_eq!((&was.input_norm, &was.post_norm), (&is.input_norm, &is.post_norm));
        same(&was.router, &is.router);
        let (was_shared, is_shared) = (was.shared.as_ref().unwrap(), is.shared.as_ref().unwrap());
        eight(&was_shared.gate, &is_shared.gate);
        eight(&was_shared.up, &is_shared.up);
        eight(&was_shared.down, &is_shared.down);
        same(&was_shared.scalar_gate, &is_shared.scalar_gate);
        match (&was.mixer, &is.mixer) {
            (MixerWeights::Attention(was), MixerWeights::Attention(is)) => {
                eight(&was.q, &is.q);
                eight(&was.k, &is.k);
                eight(&was.v, &is.v);
                eight(&was.o, &is.o);
                assert_eq!((&was.q_norm, &was.k_norm), (&is.q_norm, &is.k_norm));
            }
            (MixerWeights::DeltaNet(was), MixerWeights::DeltaNet(is)) => {
                eight(&was.qkv, &is.qkv);
                eight(&was.z, &is.z);
                same(&was.b, &is.b);
                same(&was.a, &is.a);
                eight(&was.out, &is.out);
                assert_eq!((&was.conv, &was.a_log), (&is.conv, &is.a_log));
                assert_eq!((&was.dt_bias, &was.norm), (&is.dt_bias, &is.norm));
            }
            _ => panic!("another mixer"),
        }
    }
}

#[test]
fn tied_embeddings_are_stored_once() {
    let (_temp, model, out) = folders();
    let mut source = source(&model, 2);
    source.config.tied_embeddings = true;
    source.weights.lm_head = source.weights.embed_tokens.clone();
    write_pack(&source, None, &out, &options(4), QUIET).unwrap();
    let pack = pack::open(&out).unwrap();
    assert_eq!(pack.weights.lm_head.blocks[0].codes.as_ptr(), pack.weights.embed_tokens.blocks[0].codes.as_ptr());
}

#[test]
fn what_has_the_wanted_format_is_copied() {
    let (temp, model, out) = folders();
    write_pack(&source(&model, 1), None, &out, &options(4), QUIET).unwrap();
    let four = repack(pack::open(&out).unwrap());
    let again = temp.path().join("again");
    let warnings = Mutex::new(Vec::new());
    let observer = |progress: Progress<'_>| {
        if let Progress::Warning(text) = progress {
            warnings.lock().unwrap().push(text.to_owned());
        }
    };
    write_pack(&four, None, &again, &options(4), &observer).unwrap();
    let records = |out: &Path| fs::read(out.join(pack::layer_file(1))).unwrap();
    assert_eq!(records(&out), records(&again));
    let resident = |out: &Path| fs::read(out.join(pack::RESIDENT)).unwrap();
    assert_eq!(resident(&out), resident(&again));
    assert!(warnings.lock().unwrap().is_empty());

    // 0 keeps everything
    let kept = temp.path().join("kept");
    let keep = PackOptions { bits: 0, resident_bits: 0, ..PackOptions::default() };
    write_pack(&source(&model, 1), None, &kept, &keep, QUIET).unwrap();
    let kept = pack::open(&kept).unwrap();
    assert_eq!(kept.experts.layers[0].slot.gate_up.format, WeightFormat::Bf16);
    assert_eq!(kept.weights.lm_head.format, WeightFormat::Bf16);
    assert_eq!(image(&kept.experts, 2, 5), image(&source(&model, 1).experts, 2, 5));

    // fewer bits from few bits
    let two = temp.path().join("two");
    write_pack(&four, None, &two, &options(2), &observer).unwrap();
    assert!(warnings.lock().unwrap()[0].contains("make low-bit packs from BF16"), "{warnings:?}");
    pack::verify(&two, QUIET).unwrap();
}

#[test]
fn text_files_go_along() {
    let (_temp, model, out) = folders();
    let source = source(&model, 1);
    fs::write(model.join("tokenizer.json"), "{}").unwrap();
    fs::write(model.join("chat_template.jinja"), "{{ messages }}").unwrap();
    fs::write(model.join("README.md"), "no").unwrap();
    write_pack(&source, Some(&model), &out, &options(4), QUIET).unwrap();
    assert_eq!(fs::read_to_string(out.join("chat_template.jinja")).unwrap(), "{{ messages }}");
    let names: Vec<String> = contents(&out).into_iter().map(|(name, _)| name).collect();
    let expected = [
        "chat_template.jinja",
        "layer-000.bin",
        "layer-001.bin",
        "layer-002.bin",
        "manifest.json",
        "resident.safetensors",
        "tokenizer.json",
    ];
    assert_eq!(names, expected);
}

#[test]
fn an_interrupted_run_goes_on_where_it_stopped() {
    let (temp, model, out) = folders();
    let source = source(&model, 1);
    let whole = temp.path().join("whole");
    write_pack(&source, None, &whole, &options(4), QUIET).unwrap();

    // the last layer's file is cut in the middle of expert 4
    let ExpertFile::Path(cut) = &source.experts.files[2] else { panic!("on disk") };
    let bytes = fs::read(cut).unwrap();
    fs::write(cut, &bytes[..bytes.len() - 100]).unwrap();
    let error = write_pack(&source, None, &out, &options(4), QUIET).unwrap_err();
    // experts lie backwards in this file
    assert!(matches!(error, PackError::Read { layer: 2, expert: 0, .. }), "{error}");
    assert!(error.to_string().contains(&*cut.to_string_lossy()), "{error}");
    assert!(!pack::is_pack(&out));
    assert!(matches!(pack::open(&out), Err(PackError::Io { .. })));
    assert!(contents(&out).iter().all(|(name, _)| !name.ends_with(".part")));

    // with other options it does not go on
    let error = write_pack(&source, None, &out, &options(3), QUIET).unwrap_err();
    assert!(matches!(error, PackError::OtherPack { .. }), "{error}");
    assert!(error.to_string().contains("bits 4") && error.to_string().contains("bits 3"), "{error}");

    fs::write(cut, &bytes).unwrap();
    let resumed = Mutex::new(0);
    let observer = |progress: Progress<'_>| {
        if let Progress::Resumed { layers, .. } = progress {
            *resumed.lock().unwrap() = layers;
        }
    };
    let summary = write_pack(&source, None, &out, &options(4), &observer).unwrap();
    assert_eq!((summary.layers_written, summary.layers_kept, *resumed.lock().unwrap()), (1, 2, 2));
    assert_eq!(contents(&out), contents(&whole));

    // a finished pack is left as it is; what is missing of it is made again
    let summary = write_pack(&source, None, &out, &options(4), QUIET).unwrap();
    assert_eq!((summary.layers_written, summary.layers_kept), (0, 3));
    fs::remove_file(out.join(pack::layer_file(0))).unwrap();
    let summary = write_pack(&source, None, &out, &options(4), QUIET).unwrap();
    assert_eq!((summary.layers_written, summary.layers_kept), (1, 2));
    assert_eq!(contents(&out), contents(&whole));
}

#[test]
fn a_folder_with_something_else_is_left_alone() {
    let (temp, model, out) = folders();
    let first = source(&model, 1);
    let error = write_pack(&first, Some(&model), &model, &options(4), QUIET).unwrap_err();
    assert!(matches!(error, PackError::NotEmpty { .. }), "{error}");
    write_pack(&first, None, &out, &options(4), QUIET).unwrap();
    let other = temp.path().join("other");
    fs::create_dir(&other).unwrap();
    let before = contents(&out);
    let error = write_pack(&source(&other, 9), None, &out, &options(4), QUIET).unwrap_err();
    assert!(matches!(error, PackError::OtherPack { .. }), "{error}");
    assert_eq!(contents(&out), before);
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
        let error = write_pack(&source, None, &out, &options, QUIET).unwrap_err();
        assert!(matches!(error, PackError::Option { .. }), "{error}");
        assert!(!out.exists());
    }
}

#[test]
fn an_embedded_pack_is_the_same_pack() {
    let (_temp, out) = made();
    let leak = |name: &str| -> &'static [u8] { fs::read(out.join(name)).unwrap().leak() };
    let manifest = std::str::from_utf8(leak(pack::MANIFEST)).unwrap();
    let layers: Vec<(&'static str, &'static [u8])> =
        (0..3).map(|n| (&*pack::layer_file(n).leak(), leak(&pack::layer_file(n)))).collect();
    let embedded = pack::open_embedded(manifest, leak(pack::RESIDENT), &layers).unwrap();
    let mapped = pack::open(&out).unwrap();
    assert_eq!(embedded.config, mapped.config);
    assert_eq!(embedded.source, mapped.source);
    assert_eq!(embedded.weights.lm_head.blocks[0].codes, mapped.weights.lm_head.blocks[0].codes);
    assert_eq!(image(&embedded.experts, 2, 1), image(&mapped.experts, 2, 1));
    assert!(matches!(pack::open_embedded(manifest, leak(pack::RESIDENT), &layers[1..]), Err(PackError::Value { .. })));
    let short = [layers[0], layers[1], (layers[2].0, &layers[2].1[1..])];
    assert!(matches!(pack::open_embedded(manifest, leak(pack::RESIDENT), &short), Err(PackError::Length { .. })));
    // and can be a source
    write_pack(&repack(embedded), None, &out.join("again"), &options(4), QUIET).unwrap();
    assert_eq!(contents(&out.join("again/experts")), contents(&out.join("experts")));
}

#[test]
fn scales_of_other_types_survive() {
    let (_temp, model, out) = folders();
    let mut source = source(&model, 1);
    let format = WeightFormat::Affine { bits: 3, group: 32, scales: ScaleType::F16 };
    let block = MatrixBlock {
        rows: 100,
        codes: vec![0x5a; 100 * format.row_bytes(128)].into(),
        scales: vec![0x11; 100 * 8].into(),
        biases: vec![0x22; 100 * 8].into(),
    };
    source.weights.lm_head =
        Matrix { name: "lm_head".into(), rows: 100, cols: 128, format, blocks: vec![block.clone()] };
    write_pack(&source, None, &out, &options(4), QUIET).unwrap();
    let lm_head = pack::open(&out).unwrap().weights.lm_head;
    assert_eq!(lm_head.format, format);
    assert_eq!((&lm_head.blocks[0].codes, &lm_head.blocks[0].scales), (&block.codes, &block.scales));
    assert_eq!(lm_head.blocks[0].biases, block.biases);
}

/// A layer's file is read from the first stripe that has it, and may be missing in the pack then.
#[test]
fn layers_may_lie_on_several_disks() {
    let (temp, model, out) = folders();
    write_pack(&source(&model, 1), None, &out, &options(4), QUIET).unwrap();
    let whole = pack::open(&out).unwrap();
    let expected: Vec<_> = (0..3).map(|layer| image(&whole.experts, layer, 1)).collect();
    let stripes = [temp.path().join("disk-2"), temp.path().join("disk-3")];
    for (stripe, layer) in stripes.iter().zip(1..) {
        fs::create_dir_all(stripe.join("experts")).unwrap();
        let name = format!("experts/layer-{layer:03}.bin");
        fs::rename(out.join(&name), stripe.join(&name)).unwrap();
    }
    let striped = pack::open_striped(&out, &stripes).unwrap();
    for (layer, expected) in expected.iter().enumerate() {
        assert!(image(&striped.experts, layer, 1) == *expected, "layer {layer}");
    }
    let error = pack::open(&out).unwrap_err().to_string();
    assert!(error.contains("layer-001.bin"), "{error}");
    let file = stripes[1].join("experts/layer-002.bin");
    fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(10).unwrap();
    let error = pack::open_striped(&out, &stripes).unwrap_err().to_string();
    assert!(error.starts_with(&file.display().to_string()), "{error}");
    let error = ModelSource::open_striped(&out, &[out.join("none")]).unwrap_err().to_string();
    assert!(error.contains("expected a folder with layers of the pack"), "{error}");
}
