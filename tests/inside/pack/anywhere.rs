//! Damage anywhere in a model's files: an error, a warning, or the same logits; never other ones without a word.
//!
//! `FLASHFLOOD_DAMAGES=1000 cargo test --lib pack::anywhere` tries so many.

use std::fs;
use std::path::{Path, PathBuf};

use super::model::{QUIET, Random, VOCAB, config, folders, options, source_of};
use crate::engine::{Device, Engine, EngineOptions};
use crate::model::ModelSource;
use crate::weights::pack;

fn damages() -> usize {
    std::env::var("FLASHFLOOD_DAMAGES").ok().and_then(|n| n.parse().ok()).unwrap_or(150)
}

fn below(random: &mut Random, n: usize) -> usize {
    let part = (f64::from(random.next()) + 1.0) / 2.0;
    ((part * n as f64) as usize).min(n.saturating_sub(1))
}

/// Damages the files in turn, as often as is wanted, and shows each damage that changes something; then the file is whole.
fn each_damage(all: &[PathBuf], mut random: Random, mut shown: impl FnMut(&Path, &str)) {
    for n in 0..damages() {
        // every file in turn: most of the bytes are those of experts
        let path = &all[n % all.len()];
        let whole = fs::read(path).unwrap();
        let mut bytes = whole.clone();
        let how = damage(&mut bytes, &mut random);
        if bytes == whole {
            continue;
        }
        fs::write(path, &bytes).unwrap();
        shown(path, &how);
        fs::write(path, &whole).unwrap();
    }
}

/// Changes some bytes of a file, which is not empty; says how.
fn damage(bytes: &mut Vec<u8>, random: &mut Random) -> String {
    let at = below(random, bytes.len());
    let some = (1 << below(random, 13)).min(bytes.len() - at);
    match below(random, 6) {
        0 => {
            bytes[at] ^= 1 << below(random, 8);
            format!("a bit of byte {at}")
        }
        1 => {
            bytes[at] = bytes[at].wrapping_add(1);
            format!("byte {at} one more")
        }
        2 => {
            bytes[at..at + some].fill(0);
            format!("{some} zeros at {at}")
        }
        3 => {
            let other = below(random, bytes.len() - some + 1);
            bytes.copy_within(other..other + some, at);
            format!("{some} bytes from {other} at {at}")
        }
        4 => {
            bytes.truncate(at);
            format!("cut at {at}")
        }
        _ => {
            let other = below(random, bytes.len());
            bytes.swap(at, other);
            format!("bytes {at} and {other} exchanged")
        }
    }
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
    found.sort();
}

/// The logits of some tokens; an error for whatever is said, a warning too.
fn logits(folder: &Path) -> Result<Vec<u32>, String> {
    let source = ModelSource::open(folder).map_err(|e| e.to_string())?;
    let told = std::cell::RefCell::new(Vec::new());
    if let Some(files) = &source.pack_files {
        files.verify(&|error| told.borrow_mut().push(error.to_string())).map_err(|e| e.to_string())?;
    }
    let options = EngineOptions { device: Device::Cpu, context: Some(64), ..EngineOptions::default() };
    let mut engine = Engine::from_source(source, &options).map_err(|e| e.to_string())?;
    let mut session = engine.session().map_err(|e| e.to_string())?;
    let mut all = Vec::new();
    for token in 0..16 {
        session.decode(token * 5 % VOCAB as u32).map_err(|e| e.to_string())?;
        all.extend(session.logits().map_err(|e| e.to_string())?.into_iter().map(f32::to_bits));
    }
    match told.into_inner().first() {
        Some(warning) => Err(warning.clone()),
        None => Ok(all),
    }
}

#[test]
fn no_damage_of_a_pack_changes_logits_without_a_word() {
    let (_temp, model, out) = folders();
    let source = source_of(&model, 1, &config());
    let small = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/small-moe");
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"] {
        fs::copy(small.join(name), model.join(name)).unwrap();
    }
    source.write_pack(Some(&model), &out, &options(4), QUIET).unwrap();
    let expected = logits(&out).unwrap();
    let mut all = Vec::new();
    files(&out, &mut all);
    assert!(all.len() >= 9, "{all:?}");
    let mut found = 0;
    each_damage(&all, Random(17), |path, how| {
        match logits(&out) {
            Ok(logits) => assert_eq!(logits, expected, "{}: {how}: other logits, and nobody said so", path.display()),
            Err(_) => found += 1,
        }
        // whatever the logits are, whoever asks is told
        let is_padding = path.extension().is_some_and(|end| end == "bin");
        assert!(is_padding || pack::verify(&out, QUIET).is_err(), "{}: {how}: not found", path.display());
    });
    println!("{} damages, {found} found at opening or at work, 0 silent", damages());
    assert!(found > damages() / 2);
}

/// Moves `files` to where the hub's client keeps them: `FOLDER/hub/blobs/HASH`, and links in a snapshot. The snapshot, and the
/// blobs.
#[cfg(all(feature = "hub", unix))]
fn downloaded(folder: &Path, files: &[PathBuf]) -> (PathBuf, Vec<PathBuf>) {
    use sha2::{Digest, Sha256};

    let (blobs, snapshot) = (folder.join("hub/blobs"), folder.join("hub/snapshots/c0ffee"));
    [&blobs, &snapshot].iter().for_each(|folder| fs::create_dir_all(folder).unwrap());
    let blob = |path: &PathBuf| {
        let hash: String = Sha256::digest(fs::read(path).unwrap()).iter().map(|b| format!("{b:02x}")).collect();
        let blob = blobs.join(&hash);
        fs::rename(path, &blob).unwrap();
        let link = snapshot.join(path.file_name().unwrap());
        std::os::unix::fs::symlink(Path::new("../../blobs").join(&hash), link).unwrap();
        blob
    };
    let all = files.iter().map(blob).collect();
    (snapshot, all)
}

/// Damages each of the blobs of `snapshot`, which is opened at `model`: whoever asks `verify` is told, whatever the model
/// computes.
#[cfg(all(feature = "hub", unix))]
fn each_damage_is_told(snapshot: &Path, model: &Path, blobs: &[PathBuf], seed: u64) {
    use crate::hub::verify_downloaded;

    let expected = logits(model).unwrap();
    assert_eq!(verify_downloaded(snapshot, &|_| ()).unwrap().intact, blobs.len());
    let (mut changes, mut at_opening, mut other) = (0, 0, 0);
    each_damage(blobs, Random(seed), |path, how| {
        changes += 1;
        match logits(model) {
            Err(_) => at_opening += 1,
            Ok(logits) => other += usize::from(logits != expected),
        }
        assert!(verify_downloaded(snapshot, &|_| ()).is_err(), "{}: {how}: not found", path.display());
    });
    println!(
        "{changes} changes, all told by verify; {at_opening} end at opening, {other} give other logits until somebody asks"
    );
    assert!(at_opening > 0 && other > 0, "{at_opening}, {other}");
}

#[cfg(all(feature = "hub", unix))]
#[test]
fn no_damage_of_a_snapshot_is_missed() {
    let (temp, model, _) = folders();
    source_of(&model, 1, &config());
    let small = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/small-moe");
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"] {
        fs::copy(small.join(name), model.join(name)).unwrap();
    }
    let mut all = Vec::new();
    files(&model, &mut all);
    let (snapshot, blobs) = downloaded(temp.path(), &all);
    each_damage_is_told(&snapshot, &snapshot, &blobs, 29);
}

#[cfg(all(feature = "hub", unix))]
#[test]
fn no_damage_of_a_gguf_file_is_missed() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("model.gguf");
    let config = super::super::random_gguf::small(crate::model::Published::Qwen35A3b, 4);
    super::super::random_gguf::written(&config, "Q4_0", &path);
    let (snapshot, blobs) = downloaded(temp.path(), &[path]);
    each_damage_is_told(&snapshot, &snapshot.join("model.gguf"), &blobs, 31);
}
