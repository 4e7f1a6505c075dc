//! Safetensors that other programs quantised: every method, against transformers with the weights as the tool reads them.

use std::fs;
use std::path::Path;

use flashflood::engine::Device;

use super::{TOLERANCE, open, run};

/// Models of `quantised/made_by_tools.py`, in the folder that FLASHFLOOD_QUANTISED names.
#[test]
#[ignore = "needs models made by the tools"]
fn made_by_tools() {
    let folder = std::env::var_os("FLASHFLOOD_QUANTISED").expect("FLASHFLOOD_QUANTISED: where the models lie");
    let mut models: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    models.sort();
    assert!(models.len() > 15, "{models:?}");
    let worst: Vec<(String, f32)> = models.iter().map(|model| compare(model)).collect();
    println!("{worst:#?}");
    assert!(worst.iter().all(|(_, worst)| *worst < TOLERANCE), "{worst:#?}");
}

/// The largest difference of a logit, on the CPU and on the GPU, read in one go and token by token.
fn compare(model: &Path) -> (String, f32) {
    let tokens = fs::read_to_string(model.join("tokens.txt")).unwrap();
    let tokens: Vec<u32> = tokens.split_whitespace().map(|token| token.parse().unwrap()).collect();
    let expected = fs::read(model.join("logits.f32")).unwrap();
    let expected = expected.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
    let mut worst: f32 = 0.0;
    for device in [Device::Cpu, Device::Gpu] {
        let mut engine = open(model, device);
        for parts in [vec![&tokens[..]], tokens.chunks(1).collect()] {
            let found = run(&mut engine.session().unwrap(), &parts).logits;
            assert_eq!(found.len(), expected.len(), "{}", model.display());
            let differences = found.iter().zip(expected.clone()).map(|(found, expected)| (found - expected).abs());
            worst = differences.fold(worst, f32::max);
        }
    }
    (model.file_name().unwrap().to_string_lossy().into_owned(), worst)
}
