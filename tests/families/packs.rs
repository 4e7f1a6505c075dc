//! Packs in 8 and in 4 bits: they open, hold fewer bytes, compute the same on both devices, and are as near to the model
//! as their bits allow.

use std::fs;

use flashflood::model::ModelSource;
use flashflood::weights::pack::{self, PackOptions};
use tempfile::TempDir;

use super::snapshot::{Draft, Oracle, Snapshot};
use super::*;

/// Bits, and between which shares of themselves they put logits off: rounding all matrices of these models by the same
/// rule in torch puts them off by 0.011 to 0.020 in 8 bits, and by 0.18 to 0.32 in 4.
const BOUNDS: [(u8, f64, f64); 2] = [(8, 0.005, 0.06), (4, 0.1, 0.6)];

/// All matrices in `bits` bits; 0 keeps them.
fn packed(snapshot: &Snapshot, bits: u8) -> TempDir {
    let out = tempfile::tempdir().unwrap();
    let source = ModelSource::open(snapshot.path()).unwrap();
    let options = PackOptions { bits, resident_bits: bits, ..PackOptions::default() };
    source.write_pack(Some(snapshot.path()), out.path(), &options, &|_| {}).unwrap();
    out
}

/// Deviation of `found` from `expected`, as a share of the deviation of `expected` from zero.
pub(super) fn share_off(found: &[f32], expected: &[f32]) -> f64 {
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
    let off = square(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    (off / square(&mut expected.iter().copied())).sqrt()
}

fn bytes_in(folder: &Path) -> u64 {
    let of = |entry: fs::DirEntry| match entry.file_type().unwrap().is_dir() {
        true => bytes_in(&entry.path()),
        false if entry.path().extension().is_some_and(|e| e == "json") => 0,
        false => entry.metadata().unwrap().len(),
    };
    fs::read_dir(folder).unwrap().map(|entry| of(entry.unwrap())).sum()
}

fn check(name: &str, records: usize) {
    let (snapshot, oracle) = (Snapshot::of(name), Oracle::of(name));
    let (tokens, expected) = (oracle.ids("tokens").unwrap(), oracle.logits());
    let weights = Draft::of(name).parameters() as u64;
    for (bits, least, most) in BOUNDS {
        let pack = packed(&snapshot, bits);
        // half a bit of scale and bias for each weight, and the rest of two for vectors, routers and headers; records begin
        // at multiples of 4096 bytes
        let (bytes, most_bytes) = (bytes_in(pack.path()), weights * (u64::from(bits) + 2) / 8 + 4096 * records as u64);
        assert!(bytes <= most_bytes, "{name} in {bits} bits: {bytes} bytes, expected {most_bytes} at most");
        let report = pack::verify(pack.path(), &|_| {}).unwrap();
        assert_eq!(report.records, records, "{name}: expert records");
        let on_cpu = computed(pack.path(), Device::Cpu, &tokens);
        let share = share_off(&on_cpu.logits, &expected);
        println!("{name} in {bits} bits: logits off by {share:.4}");
        assert!((least..=most).contains(&share), "{name} in {bits} bits: logits off by {share}");
        let on_gpu = computed(pack.path(), Device::Gpu, &tokens);
        let difference = largest_difference(&on_gpu.logits, &on_cpu.logits);
        assert!(difference <= TOLERANCE, "{name} in {bits} bits: CPU and GPU differ by {difference}");
    }
    // a pack that keeps all formats is the snapshot
    let kept = packed(&snapshot, 0);
    assert!(computed(kept.path(), Device::Cpu, &tokens) == computed(snapshot.path(), Device::Cpu, &tokens), "{name}");
}

#[test]
fn qwen3() {
    check("qwen3", 0);
}

#[test]
fn qwen3_5_text() {
    check("qwen3_5_text", 0);
}

#[test]
fn mixtral() {
    check("mixtral", 4 * 8);
}

/// A pack does not need the folder that it was made of, and neither do its text files.
#[test]
fn a_pack_stands_alone() {
    for name in FAMILIES {
        let snapshot = Snapshot::of(name).with_text();
        let pack = packed(&snapshot, 4);
        drop(snapshot);
        let text = Oracle::of(name).ids("text").unwrap();
        let engine = open(pack.path(), Device::Cpu);
        assert_eq!(engine.tokenizer().unwrap().encode("user: Hello\nassistant:").unwrap(), text);
        assert!(engine.chat_template().is_ok(), "{name}");
    }
}
