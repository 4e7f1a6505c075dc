//! Packs of the first version still open: hundreds of gigabytes need not be made again.

use std::fs;
use std::path::{Path, PathBuf};

use crate::model::ModelSource;
use crate::weights::pack::{self, Manifest};
use tempfile::TempDir;

use super::model::{QUIET, assert_same};

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn manifest() -> String {
    fs::read_to_string(in_repository("tests/golden/pack-v1/manifest.json")).unwrap()
}

/// The files of the embedded model with the manifest that they had in the first version.
fn first() -> TempDir {
    let (temp, from) = (tempfile::tempdir().unwrap(), in_repository("models/small-moe"));
    fs::create_dir(temp.path().join("experts")).unwrap();
    let layers = (0..8).map(pack::layer_file);
    for name in layers.chain([pack::RESIDENT.to_owned()]) {
        fs::copy(from.join(&name), temp.path().join(&name)).unwrap();
    }
    fs::write(temp.path().join(pack::MANIFEST), manifest()).unwrap();
    temp
}

#[test]
fn a_pack_of_the_first_version_is_the_model_that_it_was() {
    let temp = first();
    let text = manifest();
    assert!(text.contains("\"version\": 1"), "the fixture is of the first version");
    assert_same(&ModelSource::open(temp.path()).unwrap(), &ModelSource::embedded().unwrap());
    assert_eq!(pack::verify(temp.path(), QUIET).unwrap().records, 8 * 32);
}

#[test]
fn its_values_must_hold_too() {
    let temp = first();
    let path = temp.path().join(pack::MANIFEST);
    for (pointer, value, key) in [
        ("/config/hidden", 1_000_000_000_000u64.into(), "`hidden_size`"),
        ("/config/head_dim", 0.into(), "`head_dim`"),
        ("/config/top_k", 33.into(), "`num_experts_per_tok`"),
        ("/config/linear", serde_json::Value::Null, "`linear_num_key_heads`"),
        ("/config/norm_plus_one", true.into(), "config.norm_plus_one"),
        ("/record_align", 3000.into(), "record_align"),
        ("/layers/1/stride", 512.into(), "layers[1].stride"),
        ("/layers/1/slot/bytes", 27584.into(), "layers[1].bytes"),
        ("/layers/2/slot/gate_up/format/affine/bits", 7.into(), "layers[2].gate_up"),
    ] {
        let mut manifest: serde_json::Value = serde_json::from_str(&manifest()).unwrap();
        *manifest.pointer_mut(pointer).unwrap() = value;
        fs::write(&path, manifest.to_string()).unwrap();
        let error = ModelSource::open(temp.path()).unwrap_err().to_string();
        let start = format!("{}: {key}", path.display());
        assert!(error.starts_with(&start) && error.contains("expected "), "{pointer}: {error}");
    }
    assert!(Manifest::parse(&path, &manifest().replace("\"xxh3\"", "\"sums\"")).is_err());
}
