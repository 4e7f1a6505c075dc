//! Files that are not as they were written: refused with a message, and the prompt is computed.

use std::fs;

use crate::engine::Engine;
use tempfile::TempDir;

use super::files::{folder, names, prompt};
use super::*;

/// A folder with the file of one session, and a prompt that it goes on to.
struct Saved {
    directory: TempDir,
    file: PathBuf,
    bytes: Vec<u8>,
    engine: Engine,
    prompt: Vec<u32>,
    expected: Vec<u32>,
}

impl Saved {
    fn new() -> Saved {
        let directory = tempfile::tempdir().unwrap();
        let mut engine = engine(&tiny(), Device::Cpu, 64);
        let prompt = prompt(34);
        let mut session = engine.session().unwrap();
        sync(&mut session, &prompt, &[]);
        let expected = bits(&session.logits().unwrap());
        let mut session = engine.session().unwrap();
        session.keep_checkpoints(EVERYWHERE);
        sync(&mut session, &prompt[..30], &[]);
        session.keep_checkpoints(CheckpointOptions { every: 100, ..EVERYWHERE });
        sync(&mut session, &prompt[..31], &[]);
        let file = session.save(&mut folder(directory.path())).unwrap().unwrap();
        let bytes = fs::read(&file).unwrap();
        Saved { directory, file, bytes, engine, prompt, expected }
    }

    /// Restores what is in the folder and computes the rest; what was restored, and why files were refused.
    fn restore(&mut self) -> (usize, Vec<String>) {
        let mut session = self.engine.session().unwrap();
        let restored = session.restore(&folder(self.directory.path()), &self.prompt).unwrap();
        let synced = sync(&mut session, &self.prompt, &[]);
        assert_eq!(synced.reused, restored.tokens);
        assert!(bits(&session.logits().unwrap()) == self.expected, "other bits");
        (restored.tokens, restored.refused.iter().map(ToString::to_string).collect())
    }

    /// The file with other contents is refused with a message that has `parts`.
    fn refused(&mut self, bytes: &[u8], parts: &[&str]) {
        fs::write(&self.file, bytes).unwrap();
        self.is_refused(parts);
    }

    fn is_refused(&mut self, parts: &[&str]) {
        let (tokens, messages) = self.restore();
        assert_eq!((tokens, messages.len()), (0, 1), "{messages:?}");
        let path = self.file.to_str().unwrap();
        for part in [path, "expected ", "found "].iter().chain(parts) {
            assert!(messages[0].contains(part), "{part:?} is not in {:?}", messages[0]);
        }
    }
}

#[test]
fn whole() {
    let mut saved = Saved::new();
    assert_eq!(saved.restore(), (31, vec![]));
}

#[test]
fn truncated() {
    let mut saved = Saved::new();
    let bytes = saved.bytes.clone();
    let mut lengths: Vec<usize> = (0..60).chain((0..40).map(|n| bytes.len() * n / 40)).collect();
    lengths.extend([bytes.len() - 9, bytes.len() - 8, bytes.len() - 1]);
    for length in lengths {
        saved.refused(&bytes[..length], &["bytes"]);
    }
    let longer = [&bytes[..], &[0]].concat();
    saved.refused(&longer, &["length", &format!("{} bytes", bytes.len())]);
}

#[test]
fn a_flipped_bit_anywhere() {
    let mut saved = Saved::new();
    let bytes = saved.bytes.clone();
    // the header, and every so many bytes of the sections: the least of them is the cache of one layer
    let header = 40 + 200;
    let offsets = (0..header).chain((header..bytes.len()).step_by(bytes.len() / 150 + 1));
    for offset in offsets.chain(bytes.len() - 8..bytes.len()) {
        let mut damaged = bytes.clone();
        damaged[offset] ^= 1 << (offset % 8);
        saved.refused(&damaged, &[]);
    }
}

/// Numbers that would make a reader allocate or overflow.
#[test]
fn absurd_numbers() {
    let mut saved = Saved::new();
    let bytes = saved.bytes.clone();
    // length of the form, layers, states, tokens
    for (offset, length) in [(12, 4), (24, 4), (28, 4), (32, 8)] {
        let mut damaged = bytes.clone();
        damaged[offset..offset + length].fill(0xff);
        saved.refused(&damaged, &["at most "]);
        damaged[offset..offset + length].fill(0);
        saved.refused(&damaged, &["damaged"]);
    }
    let most = u64::from(1u32 << 24);
    let mut damaged = bytes.clone();
    damaged[32..40].copy_from_slice(&most.to_le_bytes());
    saved.refused(&damaged, &["length", "at least "]);
}

#[test]
fn another_version_or_none() {
    let mut saved = Saved::new();
    let mut bytes = saved.bytes.clone();
    bytes[8] = 3;
    saved.refused(&bytes, &["session file of version 2", "version 3"]);
    bytes[8] = 1;
    saved.refused(&bytes, &["session file of version 2", "version 1", "earlier release", "computed again"]);
    bytes[..8].copy_from_slice(b"GGUF\x03\0\0\0");
    saved.refused(&bytes, &["a session file", "begins with GGUF"]);
    saved.refused(b"", &["0 bytes"]);
    saved.refused(&b"x".repeat(1000), &["xxxxxxxx"]);
}

#[test]
fn a_folder_in_place_of_a_file() {
    let mut saved = Saved::new();
    fs::remove_file(&saved.file).unwrap();
    fs::create_dir(&saved.file).unwrap();
    saved.is_refused(&["something else"]);
    // and it cannot be replaced: that is an error of the save, and leaves nothing behind
    let (directory, tokens) = (saved.directory.path(), saved.prompt[..31].to_vec());
    let mut session = saved.engine.session().unwrap();
    sync(&mut session, &tokens, &[]);
    let error = session.save(&mut folder(directory)).unwrap_err().to_string();
    assert!(error.contains(saved.file.to_str().unwrap()) && error.contains("rename"), "{error}");
    assert_eq!(names(directory), [saved.file.file_name().unwrap().to_str().unwrap()]);
}

/// The file of another model is passed over by its name; under our name it is refused, and so is one that was computed
/// with activations of another form.
#[test]
fn another_model() {
    let mut saved = Saved::new();
    let path = tiny().with_file_name("tiny_mlx4");
    let save = |activations: Activations, directory: &Path| {
        let options = EngineOptions { device: Device::Cpu, activations, context: Some(96), ..EngineOptions::default() };
        let mut engine = Engine::open(&path, &options).unwrap();
        let mut session = engine.session().unwrap();
        sync(&mut session, &prompt(31), &[]);
        session.save(&mut folder(directory)).unwrap().unwrap()
    };
    fs::remove_file(&saved.file).unwrap();
    let other = save(Activations::F32, saved.directory.path());
    assert_ne!(other, saved.file);
    assert_eq!(saved.restore(), (0, vec![]));
    fs::rename(&other, &saved.file).unwrap();
    saved.is_refused(&["another model", "experts bf16", "experts 4-bit affine"]);

    let directory = tempfile::tempdir().unwrap();
    save(Activations::Int8, directory.path());
    let options = EngineOptions { activations: Activations::F32, context: Some(96), ..EngineOptions::default() };
    let mut engine = Engine::open(&path, &EngineOptions { device: Device::Cpu, ..options }).unwrap();
    let restored = engine.session().unwrap().restore(&folder(directory.path()), &prompt(34)).unwrap();
    let message = restored.refused[0].to_string();
    assert!(message.contains("activations f32") && message.contains("activations int8"), "{message}");
}

/// The next best file is taken when the best is damaged.
#[test]
fn the_next_best() {
    let mut saved = Saved::new();
    let mut session = saved.engine.session().unwrap();
    session.keep_checkpoints(CheckpointOptions { every: 100, ..EVERYWHERE });
    sync(&mut session, &[&saved.prompt[..20], &[99, 98]].concat(), &[12]);
    session.save(&mut folder(saved.directory.path())).unwrap();
    assert_eq!(saved.restore(), (31, vec![]));
    let last = saved.bytes.len() - 1;
    saved.bytes[last] ^= 1;
    fs::write(&saved.file, &saved.bytes).unwrap();
    let (tokens, messages) = saved.restore();
    assert_eq!((tokens, messages.len()), (12, 1));
    assert!(messages[0].contains("checksum of the KV cache of layer "), "{messages:?}");
}
