//! Calibrations: what they collect is what the model does, an interrupted one becomes what an undisturbed one is, packs are
//! made by them, and what is not of the model is refused.

use std::fs;
use std::path::{Path, PathBuf};

use crate::calibrate::{CalibrateError, CalibrateOptions, CalibrateProgress, calibrate};
use crate::compute::LogitRows;
use crate::engine::{Activations, Device, Engine, EngineOptions};
use crate::model::ModelSource;
use crate::weights::calibration::Calibration;
use crate::weights::pack::{PackError, PackOptions, Progress};

const QUIET: &crate::weights::pack::Observer<'static> = &|_| {};

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/oracle/tiny")
}

/// Sequences of a few hundred tokens, of different lengths.
fn sequences(source: &ModelSource) -> Vec<Vec<u32>> {
    let id = |n: usize| (n * n * 31 + n * 7) as u32 % source.shape.vocab as u32;
    [200, 37, 520, 64].into_iter().enumerate().map(|(i, len)| (i * 100..i * 100 + len).map(id).collect()).collect()
}

fn calibrated(source: &ModelSource, out: &Path, mut goes_on: impl FnMut(f64) -> bool) -> Result<(), CalibrateError> {
    let mut observer = |progress: CalibrateProgress| match progress {
        CalibrateProgress::Done(share) => goes_on(share),
        CalibrateProgress::Resumed { .. } => true,
    };
    calibrate(source, &sequences(source), out, CalibrateOptions::default(), &mut observer)
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    crate::inside::pack::contents(folder)
}

#[test]
fn experts_see_what_they_see_when_the_model_runs() {
    let temp = tempfile::tempdir().unwrap();
    let source = ModelSource::open(&model()).unwrap();
    let out = temp.path().join("stats");
    calibrated(&source, &out, |_| true).unwrap();
    let calibration = Calibration::open(&out).unwrap();
    let options = EngineOptions {
        device: Device::Cpu,
        activations: Activations::F32,
        context: Some(600),
        ..EngineOptions::default()
    };
    let mut engine = Engine::open(&model(), &options).unwrap();
    let layers = source.experts().layers.len();
    let mut counts: Vec<Vec<u32>> = source.experts().layers.iter().map(|layer| vec![0; layer.experts]).collect();
    for ids in sequences(&source) {
        let mut session = engine.session().unwrap();
        session
            .extend(&ids, LogitRows::All, |session, _| {
                for (counts, chosen) in counts.iter_mut().zip(session.routing()) {
                    chosen.iter().for_each(|id| counts[*id as usize] += 1);
                }
                true
            })
            .unwrap();
    }
    for (n, counts) in counts.iter().enumerate() {
        let layer = calibration.layer(n, &source.experts().layers[n]).unwrap();
        for (expert, (uses, count)) in layer.uses.iter().zip(counts).enumerate() {
            let kept_out = layer.hidden_kept_out.of(expert).nrows() as u32;
            // a choice between two that are nearly alike may fall otherwise
            let found = uses + kept_out;
            assert!(
                found.abs_diff(*count) <= 2,
                "layer {n} of {layers}, expert {expert}: {found} uses, {count} when it runs"
            );
            assert_eq!(kept_out, found / 10, "a tenth");
        }
    }
}

#[test]
fn an_interrupted_calibration_becomes_what_an_undisturbed_one_is() {
    let temp = tempfile::tempdir().unwrap();
    let source = ModelSource::open(&model()).unwrap();
    let [quiet, disturbed] = ["quiet", "disturbed"].map(|name| temp.path().join(name));
    calibrated(&source, &quiet, |_| true).unwrap();
    for end in [0.1, 0.4, 0.6, 0.9] {
        let outcome = calibrated(&source, &disturbed, |share| share < end);
        assert!(matches!(outcome, Err(CalibrateError::Interrupted)), "{outcome:?}");
        assert!(Calibration::open(&disturbed).is_err(), "it is not finished");
    }
    let mut first = None;
    calibrated(&source, &disturbed, |share| {
        first.get_or_insert(share);
        true
    })
    .unwrap();
    assert!(first.unwrap() > 0.7, "finished layers are not done again: {first:?}");
    assert!(files(&quiet) == files(&disturbed), "other bytes");
    // done is done
    calibrated(&source, &disturbed, |_| panic!("nothing is left to do")).unwrap();
    // another text does not go on with it
    let mut observer = |_: CalibrateProgress| true;
    let error = calibrate(&source, &[vec![1, 2, 3, 4, 5]], &disturbed, CalibrateOptions::default(), &mut observer);
    let error = error.unwrap_err().to_string();
    assert!(
        ["calibration.json", "expected model", "5 tokens", "found model", "hint: "]
            .iter()
            .all(|part| error.contains(part)),
        "{error}"
    );
}

#[test]
fn packs_by_a_calibration_are_always_the_same_and_differ_from_plain_ones() {
    let temp = tempfile::tempdir().unwrap();
    let source = ModelSource::open(&model()).unwrap();
    let stats = temp.path().join("stats");
    calibrated(&source, &stats, |_| true).unwrap();
    let calibration = Calibration::open(&stats).unwrap();
    let options = PackOptions { bits: 2, down_bits: Some(3), ..PackOptions::default() };
    let warnings = std::sync::Mutex::new(Vec::new());
    let observer = |progress: Progress<'_>| {
        if let Progress::Warning(text) = progress {
            warnings.lock().unwrap().push(text.to_owned());
        }
    };
    let pack = |name: &str| {
        let out = temp.path().join(name);
        source.write_calibrated_pack(&calibration, None, &out, &options, &observer).unwrap();
        files(&out)
    };
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let (first, again) = (pack("first"), one.install(|| pack("again")));
    assert!(first == again, "other bytes");
    let plain = temp.path().join("plain");
    source.write_pack(None, &plain, &options, QUIET).unwrap();
    let experts = |files: &[(String, Vec<u8>)]| {
        files.iter().filter(|(name, _)| name.starts_with("layer-")).cloned().collect::<Vec<_>>()
    };
    assert_ne!(experts(&first), experts(&files(&plain)));
    // random weights have little to gain
    let said = warnings.into_inner().unwrap();
    assert!(said.iter().any(|text| text.contains("matrices lose less without the calibration on tokens")), "{said:?}");
    // one made without is not gone on with
    let error = source.write_calibrated_pack(&calibration, None, &plain, &options, QUIET).unwrap_err();
    assert!(error.to_string().contains(&format!("calibration {}", calibration.checksum())), "{error}");
    crate::weights::pack::verify(&temp.path().join("first"), QUIET).unwrap();
}

#[test]
fn what_is_not_of_the_model_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let source = ModelSource::open(&model()).unwrap();
    let stats = temp.path().join("stats");
    calibrated(&source, &stats, |_| true).unwrap();
    let refused = |source: &ModelSource, parts: &[&str]| {
        let out = temp.path().join("out");
        let options = PackOptions { bits: 2, ..PackOptions::default() };
        let outcome = Calibration::open(&stats)
            .map_err(PackError::from)
            .and_then(|calibration| source.write_calibrated_pack(&calibration, None, &out, &options, QUIET));
        let error = outcome.unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        let _ = fs::remove_dir_all(&out);
    };
    let other = ModelSource::open(&model().with_file_name("mini_q3moe")).unwrap();
    refused(&other, &["calibration.json: model: expected ", ", of this model, found ", "hint: "]);
    let layer = stats.join("layer-001.safetensors");
    let mut bytes = fs::read(&layer).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&layer, &bytes).unwrap();
    refused(&source, &["layer-001.safetensors: expected ", "with checksum", "hint: the file is damaged"]);
    let head = stats.join("calibration.json");
    let text = fs::read_to_string(&head).unwrap();
    fs::write(&head, text.replace("\"version\": 1", "\"version\": 2")).unwrap();
    refused(&source, &["calibration.json: expected flashflood-calibration version 1, found", "hint: "]);
    fs::remove_file(&head).unwrap();
    refused(&source, &["calibration.json: missing, expected by a calibration", "hint: flashflood calibrate"]);
    // what is quantised already
    let packed = temp.path().join("packed");
    source.write_pack(None, &packed, &PackOptions::default(), QUIET).unwrap();
    let packed = ModelSource::open(&packed).unwrap();
    let stats = temp.path().join("of-pack");
    calibrated(&packed, &stats, |_| true).unwrap();
    let calibration = Calibration::open(&stats).unwrap();
    let out = temp.path().join("twice");
    let error = packed.write_calibrated_pack(&calibration, None, &out, &PackOptions::default(), QUIET).unwrap_err();
    assert!(error.to_string().contains("--calibration: expected experts in BF16"), "{error}");
}
