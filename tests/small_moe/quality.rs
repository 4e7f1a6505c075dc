//! Right answers of the 8-bit snapshot and of the 4-bit pack in the binary, held against those of the BF16 model at the
//! end of its training: all that were asked there, 186 in 20 documents of each kind. That takes ten seconds a model on
//! two cores, because the state of a document's earlier turns is used again.

use flashflood::engine::{Device, Engine};
use serde_json::Value;

use super::score::{Answers, answer_places, answers, read_kinds};
use super::{embedded, file, options, snapshot};

/// Documents of each kind: as many as the training asked.
const DOCUMENTS: usize = 20;
/// Points, in percent of all that was asked, that the total may be away from the training's.
const POINTS: f64 = 2.0;
/// Wrong answers of one kind more than in the training.
const MORE_WRONG: usize = 3;

fn check(name: &str, mut engine: Engine) {
    let training: Value = serde_json::from_slice(&std::fs::read(file("training.json")).unwrap()).unwrap();
    let tokenizer = engine.tokenizer().unwrap();
    let (mut total, mut total_expected) = (Answers::default(), Answers::default());
    let mut failures = Vec::new();
    for kind in read_kinds(&file("snapshot-8bit/eval.jsonl")).unwrap().iter().filter(|kind| kind.has_answers()) {
        let count = |key: &str| training["scores"][&kind.name][key].as_u64().unwrap() as usize;
        let expected = Answers { right: count("exact"), asked: count("asked") };
        let found = answers(&mut engine, &tokenizer, kind.first(DOCUMENTS)).unwrap();
        println!("{name}, {}: {} of {} right, after training {}", kind.name, found.right, found.asked, expected.right);
        assert_eq!(found.asked, expected.asked, "{name}, {}", kind.name);
        let places: usize = kind.first(DOCUMENTS).iter().map(|text| answer_places(text).len()).sum();
        assert_eq!(places, found.asked, "{name}, {}", kind.name);
        if found.right + MORE_WRONG < expected.right {
            failures.push(format!("{}: {} right, after training {}", kind.name, found.right, expected.right));
        }
        total += found;
        total_expected += expected;
    }
    let (found, expected) = (total.percent(), total_expected.percent());
    println!("{name}: {found:.1} % right, after training {expected:.1} %");
    assert!((found - expected).abs() <= POINTS, "{name}: {found:.1} % right, after training {expected:.1} %");
    assert!(failures.is_empty(), "{name}: {failures:?}");
}

#[test]
fn snapshot_in_8_bits() {
    check("8 bits", snapshot(&options(Device::Cpu)));
}

#[test]
fn pack_in_4_bits() {
    check("4 bits", embedded(&options(Device::Cpu)));
}
