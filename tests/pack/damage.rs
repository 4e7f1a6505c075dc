//! Packs and sources that are damaged: refused with what was expected and found, never with a panic.

use std::fs;
use std::path::{Path, PathBuf};

use flashflood::experts::{ExpertFile, Place};
use flashflood::formats::WeightFormat;
use flashflood::formats::pack::{self, Manifest, PackError, PackOptions, write_pack};
use flashflood::model::{Matrix, MatrixBlock};
use flashflood_backends::positioned::{read_exact_at, write_all_at};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::model::{QUIET, Random, folders, made, options, source};

fn flip(path: &Path, offset: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    read_exact_at(&file, &mut byte, offset).unwrap();
    write_all_at(&file, &[byte[0] ^ 4], offset).unwrap();
}

fn edit_manifest(out: &Path, edit: impl FnOnce(&mut serde_json::Value)) {
    let path = out.join(pack::MANIFEST);
    let mut manifest = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    edit(&mut manifest);
    fs::write(&path, manifest.to_string()).unwrap();
}

#[test]
fn a_weight_that_is_not_finite_is_named() {
    let (_temp, model, out) = folders();
    let mut source = source(&model, 1);
    // layer 1, expert 3, up, row 5
    let (offset, file) = {
        let (file, offset, _, _) = source.experts.slices(1, 3).nth(1).unwrap();
        (offset + 5 * 128 * 2 + 14, file as usize)
    };
    let ExpertFile::Path(path) = &source.experts.files[file] else { panic!("on disk") };
    write_all_at(&fs::File::options().write(true).open(path).unwrap(), &[0xc0, 0x7f], offset).unwrap();
    let error = write_pack(&source, None, &out, &options(4), QUIET).unwrap_err();
    assert!(matches!(error, PackError::ExpertWeight { layer: 1, expert: 3, matrix: "up", row: 5, .. }), "{error}");
    assert!(error.to_string().contains("column 7 is NaN"), "{error}");

    // NaN scales of a matrix that stays as it is, and of one that does not
    for bits in [4, 8] {
        let format = WeightFormat::affine(bits, 64);
        let mut scales = vec![0; 100 * 4];
        scales[42 * 4 + 2..42 * 4 + 4].copy_from_slice(&[0xc0, 0x7f]);
        source.weights.lm_head = Matrix {
            name: "lm_head".into(),
            rows: 100,
            cols: 128,
            format,
            blocks: vec![MatrixBlock {
                rows: 100,
                codes: vec![0; 100 * format.row_bytes(128)].into(),
                scales: scales.into(),
                biases: vec![0; 100 * 4].into(),
            }],
        };
        fs::remove_dir_all(&out).unwrap();
        let options = PackOptions { resident_bits: 4, ..options(4) };
        let error = write_pack(&source, None, &out, &options, QUIET).unwrap_err();
        assert!(matches!(&error, PackError::ResidentWeight { row: 42, .. }), "{error}");
        assert!(error.to_string().starts_with("lm_head, row 42: weight at column 64 is NaN"), "{error}");
    }
}

#[test]
fn another_version_is_refused_with_what_helps() {
    let (_temp, out) = made();
    edit_manifest(&out, |manifest| manifest["version"] = 2.into());
    let error = pack::open(&out).unwrap_err();
    assert!(matches!(error, PackError::Version { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("expected flashflood-pack version 1") && text.contains("version 2"), "{text}");
    assert!(text.contains("a newer flashflood made this pack"), "{text}");
    edit_manifest(&out, |manifest| manifest["format"] = "zip".into());
    assert!(pack::open(&out).unwrap_err().to_string().contains("not a flashflood pack"));
}

#[test]
fn values_that_do_not_hold_are_refused_by_key() {
    for (pointer, value, key) in [
        ("/config/hidden", 1_000_000_000_000u64.into(), "config.hidden"),
        ("/config/head_dim", 0.into(), "config.head_dim"),
        ("/config/top_k", 7.into(), "config.top_k"),
        ("/config/experts", 7.into(), "layers[0].xxh3"),
        ("/config/linear", serde_json::Value::Null, "config.linear"),
        ("/config/norm_plus_one", true.into(), "config.norm_plus_one"),
        ("/record_align", 3000.into(), "record_align"),
        ("/layers/1/stride", 512.into(), "layers[1].stride"),
        ("/layers/1/slot/down/codes", 64.into(), "layers[1].slot"),
        ("/layers/2/slot/gate_up/format/affine/bits", 7.into(), "layers[2].slot.gate_up.format"),
        ("/layers/2/slot/gate_up/format/affine/group", 0.into(), "layers[2].slot.gate_up.format"),
    ] {
        let (_temp, out) = made();
        edit_manifest(&out, |manifest| *manifest.pointer_mut(pointer).unwrap() = value);
        match pack::open(&out).unwrap_err() {
            PackError::Value { key: found, .. } => assert_eq!(found, key),
            PackError::Config(error) => {
                // the config knows its keys by the names they have in config.json
                assert!(pointer.starts_with("/config/"), "{pointer}: {error}");
                assert!(error.to_string().contains("manifest.json"), "{error}");
            }
            other => panic!("{pointer}: {other}"),
        }
    }
}

#[test]
fn a_flipped_byte_is_found() {
    let (_temp, out) = made();
    let pack = pack::open(&out).unwrap();
    let slot = pack.experts.layers[1].slot;
    let Place::Strided { stride, .. } = pack.experts.layers[1].parts[0].place else { panic!("strided") };
    let layer = out.join(pack::layer_file(1));
    drop(pack);

    let offset = 4 * stride + slot.down.scales as u64 + 3;
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
            assert!(matches!(error, PackError::Length { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains(&format!("expected {length} bytes, found {}", length - 1)), "{text}");
            assert!(text.contains(&name), "{text}");
        }
        fs::remove_file(&path).unwrap();
        let error = pack::open(&out).unwrap_err();
        assert!(matches!(error, PackError::Io { .. }) && error.to_string().contains(&name), "{error}");
    }
}

/// The text of a manifest and the resident file that goes with it, made once.
fn specimen() -> &'static (TempDir, PathBuf, String, Vec<u8>) {
    static SPECIMEN: std::sync::OnceLock<(TempDir, PathBuf, String, Vec<u8>)> = std::sync::OnceLock::new();
    SPECIMEN.get_or_init(|| {
        let (temp, out) = made();
        let text = fs::read_to_string(out.join(pack::MANIFEST)).unwrap();
        let resident = fs::read(out.join(pack::RESIDENT)).unwrap();
        (temp, out, text, resident)
    })
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_text_makes_the_manifest_reader_panic(text in ".{0,200}") {
        let _ = Manifest::parse(Path::new("manifest.json"), &text);
    }

    #[test]
    fn no_edit_of_a_manifest_makes_opening_panic(
        seed: u64,
        value in prop_oneof![
            Just(serde_json::Value::Null),
            any::<u64>().prop_map(Into::into),
            (0..64u64).prop_map(|shift| (1u64 << shift).into()),
            any::<i32>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            Just("bf16".into()),
            Just(serde_json::json!([])),
            Just(serde_json::json!({})),
        ],
    ) {
        let (_, _, text, resident) = specimen();
        let mut manifest: serde_json::Value = serde_json::from_str(text).unwrap();
        *somewhere(&mut manifest, &mut Random(seed)) = value;
        let text = manifest.to_string();
        if Manifest::parse(Path::new("manifest.json"), &text).is_ok() {
            let resident = resident.clone().leak();
            let _ = pack::open_embedded(text.leak(), resident, &[]);
        }
    }

    #[test]
    fn no_byte_of_a_manifest_makes_the_reader_panic(at in 0usize..4000, byte: u8) {
        let mut text = specimen().2.clone().into_bytes();
        let at = at % text.len();
        text[at] = byte;
        if let Ok(text) = String::from_utf8(text) {
            let _ = Manifest::parse(Path::new("manifest.json"), &text);
        }
    }

    #[test]
    fn no_byte_of_the_resident_header_makes_opening_panic(at in 0usize..6000, byte: u8) {
        let (_, out, text, resident) = specimen();
        static LAYERS: std::sync::OnceLock<Vec<(&'static str, &'static [u8])>> = std::sync::OnceLock::new();
        let layers = LAYERS.get_or_init(|| {
            (0..3).map(|n| ("layer", &*fs::read(out.join(pack::layer_file(n))).unwrap().leak())).collect()
        });
        let mut resident = resident.clone();
        resident[at] = byte;
        let _ = pack::open_embedded(text.clone().leak(), resident.leak(), layers);
    }
}
