//! Packs and sources that are damaged: refused with what was expected and found, never with a panic.

use std::fs;
use std::path::Path;

use crate::model::ModelSource;
use crate::weights::pack::{self, Manifest, PackError, PackOptions};
use crate::weights::{ExpertFile, Matrix, MatrixBlock, Place, WeightFormat};
use flashflood_backends::positioned::{read_exact_at, write_all_at};
use proptest::prelude::*;

use super::model::{HIDDEN, QUIET, Random, VOCAB, folders, made, options, replace, source};

fn flip(path: &Path, offset: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    read_exact_at(&file, &mut byte, offset).unwrap();
    write_all_at(&file, &[byte[0] ^ 4], offset).unwrap();
}

fn edit_manifest(out: &Path, edit: impl FnOnce(&mut serde_json::Value)) {
    let path = out.join(pack::MANIFEST);
    let mut manifest: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    // as packs from before manifests had a checksum of their own
    for key in ["checksum", "files"] {
        manifest.as_object_mut().unwrap().shift_remove(key);
    }
    edit(&mut manifest);
    fs::write(&path, manifest.to_string()).unwrap();
}

#[test]
fn a_weight_that_is_not_finite_is_named() {
    let (_temp, model, out) = folders();
    let mut source = source(&model, 1);
    // layer 1, expert 3, up, row 5
    let (offset, file) = {
        let (file, offset, _, _) = source.experts().slices(1, 3).nth(1).unwrap();
        (offset + 5 * 128 * 2 + 14, file as usize)
    };
    let ExpertFile::Path(path) = &source.experts().files[file] else { panic!("on disk") };
    write_all_at(&fs::File::options().write(true).open(path).unwrap(), &[0xc0, 0x7f], offset).unwrap();
    let error = source.write_pack(None, &out, &options(4), QUIET).unwrap_err();
    assert!(matches!(error, PackError::ExpertWeight { layer: 1, expert: 3, matrix: "up", row: 5, .. }), "{error}");
    assert!(error.to_string().contains("column 7 is NaN"), "{error}");

    // NaN scales of a matrix that stays as it is, and of one that does not
    for bits in [4, 8] {
        let format = WeightFormat::affine(bits, 64);
        let [codes, scales, biases] = format.stream_bytes(HIDDEN).map(|row| vec![0; VOCAB * row]);
        let mut streams = [codes, scales, biases];
        streams[1][42 * 4 + 2..42 * 4 + 4].copy_from_slice(&[0xc0, 0x7f]);
        let blocks = vec![MatrixBlock { rows: VOCAB, streams: streams.map(Into::into) }];
        let matrix = Matrix { name: "lm_head".into(), rows: VOCAB, cols: HIDDEN, format, blocks };
        replace(&mut source, "lm_head", matrix);
        fs::remove_dir_all(&out).unwrap();
        let options = PackOptions { resident_bits: 4, ..options(4) };
        let error = source.write_pack(None, &out, &options, QUIET).unwrap_err();
        assert!(matches!(&error, PackError::ResidentWeight { row: 42, .. }), "{error}");
        assert!(error.to_string().starts_with("lm_head, row 42: weight at column 64 is NaN"), "{error}");
    }
}

#[test]
fn another_version_is_refused_with_what_helps() {
    let (_temp, out) = made();
    for (version, helps) in [(3, "a newer flashflood made this pack"), (0, "an older flashflood made this pack")] {
        edit_manifest(&out, |manifest| manifest["version"] = version.into());
        let error = pack::open(&out).map(drop).unwrap_err();
        assert!(matches!(error, PackError::File(_)), "{error}");
        let text = error.to_string();
        assert!(text.starts_with(&out.join(pack::MANIFEST).display().to_string()), "{text}");
        assert!(text.contains("expected flashflood-pack version 2"), "{text}");
        assert!(text.contains(&format!("found \"flashflood-pack\" version {version}")), "{text}");
        assert!(text.contains(&format!("\nhint: {helps}")), "{text}");
    }
    edit_manifest(&out, |manifest| manifest["format"] = "zip".into());
    assert!(pack::open(&out).map(drop).unwrap_err().to_string().contains("not a flashflood pack"));
}

/// Gate and up have one format under one key, or two under two.
#[test]
fn formats_that_contradict_each_other_are_refused() {
    let (_temp, out) = made();
    let whole = fs::read_to_string(out.join(pack::MANIFEST)).unwrap();
    let found = |keys: &[&str]| format!("{keys:?}");
    for (gate_up, others, expected) in [
        (true, vec![("up", 4)], found(&["gate_up", "up"])),
        (true, vec![("gate", 4), ("up", 8)], found(&["gate_up", "gate", "up"])),
        (false, vec![], found(&[])),
        (false, vec![("gate", 4)], found(&["gate"])),
        (false, vec![("gate", 4), ("up", 4)], found(&["gate", "up"])),
        // they agree, but the record has the size of one format
        (false, vec![("gate", 4), ("up", 8)], "layers[1].bytes".to_owned()),
    ] {
        edit_manifest(&out, |manifest| {
            let layer = manifest["layers"][1].as_object_mut().unwrap();
            if !gate_up {
                layer.remove("gate_up");
            }
            for (key, bits) in others {
                layer.insert(key.to_owned(), serde_json::to_value(WeightFormat::affine(bits, 64)).unwrap());
            }
        });
        let error = ModelSource::open(&out).unwrap_err().to_string();
        fs::write(out.join(pack::MANIFEST), &whole).unwrap();
        assert!(error.contains("layers[1]") && error.contains(&expected), "{error}");
    }
    ModelSource::open(&out).unwrap();
}

#[test]
fn values_that_do_not_hold_are_refused_by_key() {
    let (_temp, out) = made();
    let path = out.join(pack::MANIFEST);
    let whole = fs::read_to_string(&path).unwrap();
    // (of the manifest, what it becomes, key, what is expected)
    for (pointer, value, key, expected) in [
        // the config's keys have the names that they have in config.json
        ("/config/hidden_size", 1_000_000_000_000u64.into(), "`hidden_size`", "1 to 131072"),
        ("/config/head_dim", 0.into(), "`head_dim`", "1 to 256"),
        ("/config/num_experts_per_tok", 7.into(), "`num_experts_per_tok`", "1 to 6"),
        ("/config/linear_num_key_heads", serde_json::Value::Null, "`linear_num_key_heads`", "a whole number"),
        ("/record_align", 3000.into(), "record_align", "a power of two"),
        ("/layers/1/stride", 512.into(), "layers[1].stride", ""),
        ("/layers/1/bytes", 64.into(), "layers[1].", ""),
        ("/layers/1/layer", 0.into(), "layers", "ascending order"),
        ("/layers/2/gate_up/affine/bits", 7.into(), "layers[2].gate_up", "2, 3, 4, 5, 6 or 8 bits"),
        ("/layers/2/gate_up/affine/group", 0.into(), "layers[2].gate_up", "groups of 32, 64 or 128"),
        ("/layers/2/down/affine/group", 64.into(), "layers[2].down", "a format whose groups divide 96 columns"),
        ("/layers/2/down/affine/bits", 5.into(), "layers[2].bytes", ""),
    ] {
        edit_manifest(&out, |manifest| *manifest.pointer_mut(pointer).unwrap() = value);
        let error = ModelSource::open(&out).unwrap_err().to_string();
        fs::write(&path, &whole).unwrap();
        assert!(error.starts_with(&format!("{}: {key}", path.display())), "{pointer}: {error}");
        assert!(error.contains("expected ") && error.contains(expected), "{pointer}: {error}");
    }

    // lengths whose sum no number holds
    edit_manifest(&out, |manifest| manifest["resident"]["bytes"] = u64::MAX.into());
    let error = pack::verify(&out, QUIET).unwrap_err().to_string();
    assert!(error.contains(&format!("expected {} bytes", u64::MAX)), "{error}");
    fs::write(&path, &whole).unwrap();

    // a model of more experts than the pack has
    edit_manifest(&out, |manifest| manifest["config"]["num_experts"] = 7.into());
    let error = ModelSource::open(&out).unwrap_err().to_string();
    assert!(error.contains("tensor layers.0.router.weight: expected [7, 128]"), "{error}");
    fs::write(&path, &whole).unwrap();

    // records of more layers than the model has
    edit_manifest(&out, |manifest| {
        manifest["config"]["num_hidden_layers"] = 2.into();
        drop(manifest["config"]["layer_types"].as_array_mut().unwrap().pop());
    });
    let error = ModelSource::open(&out).unwrap_err().to_string();
    let expected =
        "layers: expected records of the 2 layers with routed experts, found records of layer 2, which has none";
    assert_eq!(error, format!("{}: {expected}", path.display()));
    fs::write(&path, &whole).unwrap();

    // a layer without its records, and one with too few
    edit_manifest(&out, |manifest| drop(manifest["layers"].as_array_mut().unwrap().pop()));
    let error = ModelSource::open(&out).unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("{}: `layers` is missing: expected records of layer 2", path.display())),
        "{error}"
    );
    fs::write(&path, &whole).unwrap();
    let mut stride = 0;
    edit_manifest(&out, |manifest| {
        stride = manifest["layers"][0]["stride"].as_u64().unwrap();
        manifest["layers"][0]["xxh3"].as_array_mut().unwrap().pop();
    });
    fs::File::options().write(true).open(out.join(pack::layer_file(0))).unwrap().set_len(5 * stride).unwrap();
    let error = ModelSource::open(&out).unwrap_err().to_string();
    let expected = format!("{}: layers[0].xxh3: expected 6 checksums, one per expert, found 5", path.display());
    assert_eq!(error, expected);
}

/// The file says how each matrix is stored: what the streams do not bear out, or nobody knows, is refused by name.
#[test]
fn formats_of_resident_matrices_are_held_against_their_streams() {
    let (_temp, out) = made();
    let path = out.join(pack::RESIDENT);
    let whole = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for (said, expected) in [
        (r#""f16""#, "a stream of f16"),
        (r#""q9""#, "a format that this program knows"),
        (r#"{"affine":{"bits":7,"group":64,"scales":"bf16"}}"#, "affine with 2, 3, 4, 5, 6 or 8 bits"),
    ] {
        let mut header: serde_json::Value = serde_json::from_slice(&whole[8..][..length]).unwrap();
        header["__metadata__"]["layers.0.router"] = said.into();
        let mut text = header.to_string().into_bytes();
        text.resize(text.len().next_multiple_of(64) + 56, b' ');
        let bytes = [&(text.len() as u64).to_le_bytes()[..], &text, &whole[8 + length..]].concat();
        fs::write(&path, &bytes).unwrap();
        edit_manifest(&out, |manifest| manifest["resident"]["bytes"] = bytes.len().into());
        let error = ModelSource::open(&out).unwrap_err().to_string();
        assert!(error.contains("layers.0.router") && error.contains(expected), "{error}");
    }
}

#[test]
fn a_flipped_byte_is_found() {
    let (_temp, out) = made();
    let source = ModelSource::open(&out).unwrap();
    let slot = source.experts().layers[1].slot;
    let Place::Strided { stride, .. } = source.experts().layers[1].parts[0].place else { panic!("strided") };
    let layer = out.join(pack::layer_file(1));
    drop(source);

    let [_, scales, _] = slot.down.streams;
    let offset = 4 * stride + scales as u64 + 3;
    flip(&layer, offset);
    flip(&layer, 5 * stride);
    let error = pack::verify(&out, QUIET).unwrap_err();
    assert!(matches!(&error, PackError::Checksum { what, .. } if what == "layer 1, expert 4"), "{error}");
    assert!(error.to_string().contains(&format!("at offset {}", 4 * stride)), "{error}");
    assert!(error.to_string().contains("layer-001.bin"), "{error}");
    flip(&layer, offset);
    flip(&layer, 5 * stride);
    pack::verify(&out, QUIET).unwrap();

    assert!((slot.bytes as u64) < stride);
    flip(&layer, 3 * stride - 1);
    let error = pack::verify(&out, QUIET).unwrap_err().to_string();
    assert!(error.contains(&format!("padding at offset {}", 3 * stride - 1)), "{error}");
    flip(&layer, 3 * stride - 1);

    flip(&out.join(pack::RESIDENT), 5000);
    let error = pack::verify(&out, QUIET).unwrap_err().to_string();
    assert!(error.contains("resident weights"), "{error}");
}

#[test]
fn a_file_of_another_length_or_none_is_refused() {
    for name in [pack::layer_file(2), pack::RESIDENT.to_owned()] {
        let (_temp, out) = made();
        let path = out.join(&name);
        let length = fs::metadata(&path).unwrap().len();
        fs::File::options().write(true).open(&path).unwrap().set_len(length - 1).unwrap();
        for error in [pack::open(&out).map(drop).unwrap_err(), pack::verify(&out, QUIET).map(drop).unwrap_err()] {
            assert!(matches!(error, PackError::File(_)), "{error}");
            let text = error.to_string();
            assert!(text.ends_with("hint: the file is damaged; make the pack again"), "{text}");
            assert!(text.contains(&format!("expected {length} bytes, found {}", length - 1)), "{text}");
            assert!(text.contains(&name), "{text}");
        }
        fs::remove_file(&path).unwrap();
        let error = pack::open(&out).map(drop).unwrap_err();
        let PackError::File(file) = &error else { panic!("{error}") };
        assert_eq!(file.io_error().unwrap().kind(), std::io::ErrorKind::NotFound, "{error}");
        assert!(error.to_string().contains(&name), "{error}");
    }
}

/// A value somewhere in a JSON document, chosen by `pick`.
fn somewhere<'a>(value: &'a mut serde_json::Value, pick: &mut Random) -> &'a mut serde_json::Value {
    let children = match &*value {
        serde_json::Value::Array(items) => items.len(),
        serde_json::Value::Object(items) => items.len(),
        _ => 0,
    };
    let chosen = ((pick.next() + 1.0) / 2.0 * (children as f32 + 0.2)) as usize;
    if chosen >= children {
        return value;
    }
    match value {
        serde_json::Value::Array(items) => somewhere(&mut items[chosen], pick),
        serde_json::Value::Object(items) => somewhere(items.values_mut().nth(chosen).unwrap(), pick),
        _ => unreachable!("has children"),
    }
}

const CASES: u32 = 400;

/// Opening and checking a folder, whatever is in it: neither may panic.
fn try_all(folder: &Path) {
    let _ = ModelSource::open(folder);
    let _ = pack::verify(folder, QUIET);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn no_text_makes_the_manifest_reader_panic(text in ".{0,200}") {
        let _ = Manifest::parse(Path::new("manifest.json"), &text);
    }
}

#[test]
fn no_edit_of_a_manifest_makes_opening_panic() {
    let (_temp, out) = made();
    let path = out.join(pack::MANIFEST);
    let whole: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let value = prop_oneof![
        Just(serde_json::Value::Null),
        any::<u64>().prop_map(Into::into),
        (0..64u64).prop_map(|shift| (1u64 << shift).into()),
        any::<i32>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        Just("bf16".into()),
        Just(serde_json::json!([])),
        Just(serde_json::json!({})),
    ];
    proptest!(ProptestConfig::with_cases(CASES), |(seed: u64, value in value)| {
        let mut manifest = whole.clone();
        *somewhere(&mut manifest, &mut Random(seed)) = value;
        fs::write(&path, manifest.to_string()).unwrap();
        try_all(&out);
    });
}

#[test]
fn no_byte_of_a_manifest_makes_the_reader_panic() {
    let (_temp, out) = made();
    let path = out.join(pack::MANIFEST);
    let whole = fs::read(&path).unwrap();
    proptest!(ProptestConfig::with_cases(CASES), |(at in 0..whole.len(), byte: u8)| {
        let mut text = whole.clone();
        text[at] = byte;
        fs::write(&path, &text).unwrap();
        try_all(&out);
    });
}

#[test]
fn no_byte_of_the_resident_header_makes_opening_panic() {
    let (_temp, out) = made();
    let path = out.join(pack::RESIDENT);
    let whole = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    proptest!(ProptestConfig::with_cases(CASES), |(at in 0..header, byte: u8)| {
        let mut resident = whole.clone();
        resident[at] = byte;
        fs::write(&path, &resident).unwrap();
        try_all(&out);
    });
}
