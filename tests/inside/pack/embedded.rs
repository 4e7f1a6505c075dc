//! A pack that is part of the binary.

use std::fs;
use std::path::Path;

use crate::model::ModelSource;
use crate::weights::pack::{self, Pack, PackError, PackSource, write_pack};
use crate::weights::{ExpertLayout, ExpertShape, Listed, Listing};

use super::model::{QUIET, assert_same_bytes, assert_same_experts, contents, made, options};

/// Everything that `mapped` asked its source for, of `pack`.
fn listing(pack: &Pack, mapped: &ModelSource) -> Listing {
    let again = |listed: &Listed| match listed.clone() {
        Listed::Matrix { name, role, matrix } => {
            let matrix = pack.weights.matrix(&name, matrix.rows, matrix.cols, role).unwrap();
            Listed::Matrix { name, role, matrix }
        }
        Listed::Vector { name, role, shape, .. } => {
            let values = pack.weights.vector(&name, &shape, role).unwrap();
            Listed::Vector { name, role, shape, values }
        }
    };
    let layers = mapped.experts().layers.iter().enumerate().map(|(n, layer)| {
        let (hidden, width) = (layer.slot.gate.cols, layer.slot.down.cols);
        let shape = ExpertShape { experts: layer.experts, top_k: layer.top_k, hidden, width };
        pack.weights.experts(n, &shape).unwrap()
    });
    let experts = ExpertLayout { files: pack.weights.files(), layers: layers.collect() };
    Listing { resident: mapped.weights.resident.iter().map(again).collect(), experts }
}

#[test]
fn an_embedded_pack_is_the_same_pack() {
    let (_temp, out) = made();
    let leak = |name: &str| -> &'static [u8] { fs::read(out.join(name)).unwrap().leak() };
    let manifest = std::str::from_utf8(leak(pack::MANIFEST)).unwrap();
    let resident = leak(pack::RESIDENT);
    let layers: Vec<(&'static str, &'static [u8])> =
        (0..3).map(|n| (&*pack::layer_file(n).leak(), leak(&pack::layer_file(n)))).collect();
    let embedded = pack::open_embedded(manifest, resident, &layers).unwrap();
    let mapped = ModelSource::open(&out).unwrap();
    assert_eq!(embedded.config, mapped.config);
    assert_eq!(embedded.source, pack::open(&out).map(|pack| pack.source).unwrap());
    let weights = listing(&embedded, &mapped);
    for (matrix, _) in mapped.weights.matrices() {
        assert_same_bytes(weights.matrix(&matrix.name).unwrap(), matrix);
    }
    assert_eq!(weights.vector("norm"), mapped.weights.vector("norm"));
    assert_same_experts(&weights.experts, mapped.experts());

    let refused = |layers: &[(&'static str, &'static [u8])]| {
        let error = pack::open_embedded(manifest, resident, layers).map(drop).unwrap_err();
        let PackError::File(file) = error else { panic!("{error}") };
        file
    };
    let error = refused(&layers[1..]);
    assert_eq!((error.path(), error.place()), (Path::new(pack::MANIFEST), "layers"), "{error}");
    let short = [layers[0], layers[1], (layers[2].0, &layers[2].1[1..])];
    let (error, length) = (refused(&short), layers[2].1.len());
    assert_eq!(error.path(), Path::new(layers[2].0));
    assert!(error.to_string().contains(&format!("expected {length} bytes, found {}", length - 1)), "{error}");

    // and can be a source
    let config = &embedded.config;
    let source = PackSource { weights: &weights, moe_layers: &[0, 1, 2], config, texts: &[], calibration: None };
    write_pack(source, None, &out.join("again"), &options(4), QUIET).unwrap();
    assert_eq!(contents(&out.join("again/experts")), contents(&out.join("experts")));
}
