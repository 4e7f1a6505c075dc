//! Every reader of bytes that strangers wrote, as a function of bytes: what `cargo fuzz run NAME` calls, and ordinary tests
//! with the inputs that are kept in `fuzz/corpus/NAME`. Whatever the bytes are, they end in a value or an error.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use flashflood_formats::CacheFormat;
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

use crate::engine::{Device, Engine, EngineOptions};
use crate::experts::trace::Trace;
use crate::model::{GgufHead, ModelSource, shape_of_config, verify_numbers};
use crate::request::{Language, Request};
use crate::state::{Identity, LayerContent, SessionReader, StreamShape};
use crate::text::{AnswerForm, ChatTemplate, GenerationConfig, GrammarCompiler, Message, QWEN, ReplyParser, Tokenizer};
use crate::weights::pack::Manifest;
use crate::weights::safetensors::TensorSet;

#[cfg(feature = "server")]
mod connection;

/// What a target is called in errors.
const NAME: &str = "input";

/// What a target does with its input.
pub type Reader = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: [(&str, Reader); 12] = [
    ("safetensors", safetensors),
    ("gguf", gguf),
    ("manifest", manifest),
    ("tokenizer", tokenizer),
    ("config", config),
    ("generation_config", generation_config),
    ("session", session),
    ("trace", trace),
    ("template", template),
    ("reply", reply),
    ("schema", schema),
    ("request", request),
];

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// A file with these bytes; readers that map or seek want one.
fn with_file(bytes: &[u8], read: impl FnOnce(&Path)) {
    let path =
        std::env::temp_dir().join(format!("flashflood-fuzz-{}-{:?}", std::process::id(), std::thread::current().id()));
    if std::fs::File::create(&path).and_then(|mut file| file.write_all(bytes)).is_ok() {
        read(&path);
    }
    let _ = std::fs::remove_file(&path);
}

/// A file of tensors.
pub fn safetensors(bytes: &[u8]) {
    if let Ok(set) = TensorSet::from_bytes(NAME, Bytes::copy_from_slice(bytes)) {
        set.names().filter_map(|name| set.get(name)).for_each(|tensor| drop(tensor.to_f32()));
    }
}

/// A GGUF file: what is listed of it, and the model in it as it is opened, without computing anything.
pub fn gguf(bytes: &[u8]) {
    with_file(bytes, |path| {
        drop(GgufHead::of_file(path));
        // another file is none of a model, whatever is in it
        if bytes.starts_with(b"GGUF")
            && let Ok(source) = ModelSource::open(path)
        {
            drop((verify_numbers(&source), source.tokenizer(), source.chat_template()));
        }
    });
}

/// The manifest of a pack.
pub fn manifest(bytes: &[u8]) {
    drop(Manifest::parse(Path::new(NAME), &text(bytes)));
}

/// `tokenizer.json`.
pub fn tokenizer(bytes: &[u8]) {
    if let Ok(tokenizer) = Tokenizer::from_json(Path::new(NAME), &text(bytes)) {
        let tokens = tokenizer.encode("Hello, wörld 12\n").unwrap_or_default();
        drop(tokenizer.decode(&tokens, false));
    }
}

/// `config.json`.
pub fn config(bytes: &[u8]) {
    drop(shape_of_config(Path::new(NAME), &text(bytes)));
}

/// `generation_config.json`.
pub fn generation_config(bytes: &[u8]) {
    if let Ok(config) = GenerationConfig::from_json(Path::new(NAME), &text(bytes)) {
        drop(config.sampler.settings());
    }
}

/// A session file, all of it. Checksums would hide what stands behind them, so that of the header is made right, and what
/// those of sections say is passed over.
pub fn session(bytes: &[u8]) {
    let file = sealed(bytes);
    let stream = |width, format| StreamShape { width, format };
    // of a model without layers everything but them is read; the other one has a layer of each kind
    let layers = match le(&file, 24, 4) {
        0 => Vec::new(),
        _ => vec![
            LayerContent::State(vec![stream(2, CacheFormat::F32), stream(1, CacheFormat::F32)]),
            LayerContent::Cache(vec![stream(32, CacheFormat::Q8 { head: 32 }), stream(1, CacheFormat::F16)]),
        ],
    };
    let identity = Identity { fingerprint: 0, form: String::new(), layers };
    with_file(&file, |path| {
        let Ok(mut reader) = SessionReader::open(path, &identity) else { return };
        let header = reader.header.clone();
        header.usable(&header.tokens);
        for section in header.sections() {
            if reader.begin(&section).is_err() {
                break;
            }
            // the file was held against what its header says, so it has these bytes
            let mut rows = vec![0; usize::try_from(section.bytes).unwrap_or(0)];
            if reader.bytes(&mut rows).is_err() {
                break;
            }
            drop(reader.end(&section));
        }
    });
}

/// The number of `bytes` bytes at `at`; 0 where there are none.
fn le(file: &[u8], at: usize, bytes: usize) -> u64 {
    let bytes = file.get(at..at + bytes).unwrap_or_default();
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// A session file whose header, as long as its own numbers make it, has the checksum that it should have.
fn sealed(bytes: &[u8]) -> Vec<u8> {
    let mut file = bytes.to_vec();
    let [form, layers, states] = [12, 24, 28].map(|at| le(bytes, at, 4));
    let [tokens, streams] = [32, 40].map(|at| le(bytes, at, 8));
    let ends = [streams.checked_mul(16), tokens.checked_mul(4)]
        .into_iter()
        .try_fold(48 + form, |all, more| all.checked_add(more?));
    let end = ends.and_then(|end| usize::try_from(end.checked_add(8 * layers + 16 * states)?).ok());
    if let Some(end) = end.filter(|end| file.len().checked_sub(8).is_some_and(|last| *end <= last)) {
        let sum = xxh3_64(&file[..end]);
        file[end..end + 8].copy_from_slice(&sum.to_le_bytes());
    }
    file
}

/// A trace of experts.
pub fn trace(mut bytes: &[u8]) {
    drop(Trace::read(&mut bytes));
}

/// A chat template.
pub fn template(bytes: &[u8]) {
    let Ok(template) = ChatTemplate::new(Path::new(NAME), &text(bytes)) else { return };
    let messages = [Message::new("user", "Hi"), Message::new("assistant", "<b>"), Message::new("user", "1")];
    drop(template.render(&messages, Some(&json!([{"function": {"name": "f"}}])), true, &serde_json::Map::new()));
}

/// What a model writes: the first byte says into pieces of how many characters it comes.
pub fn reply(bytes: &[u8]) {
    let (piece, bytes) = bytes.split_first().map_or((1, bytes), |(first, rest)| (usize::from(first % 16) + 1, rest));
    let tool = json!({"function": {"name": "f", "parameters": {"properties": {"a": {"type": "integer"}, "b": {}}}}});
    let mut parser = ReplyParser::new(&QWEN, "", vec![tool]);
    let all: Vec<char> = text(bytes).chars().collect();
    for piece in all.chunks(piece) {
        parser.push(&piece.iter().collect::<String>());
    }
    parser.finish();
}

/// The schema of an answer and of a tool, to a grammar.
pub fn schema(bytes: &[u8]) {
    static COMPILER: OnceLock<Option<GrammarCompiler>> = OnceLock::new();
    let make = || {
        let json = crate::model::embedded_tokenizer();
        let tokenizer = Tokenizer::from_json(Path::new(NAME), json).ok()?;
        GrammarCompiler::new(&tokenizer, &[2], &QWEN).ok()
    };
    let (Some(compiler), Ok(schema)) = (COMPILER.get_or_init(make), serde_json::from_slice::<Value>(bytes)) else {
        return;
    };
    let tool = json!({"function": {"name": "f", "parameters": schema}});
    let json = AnswerForm { json: Some(schema), ..AnswerForm::default() };
    for form in [json, AnswerForm { calls: vec![tool], ..AnswerForm::default() }] {
        drop(compiler.compile_while(form, &|| true));
    }
}

/// A request. The body of a chat is made ready for the small model. Everything else is for a server that still loads its
/// model: the body for a path that stands on a line in front of it, or the bytes of a connection.
pub fn request(bytes: &[u8]) {
    match bytes.first() {
        Some(b'{') => chat(bytes),
        #[cfg(feature = "server")]
        Some(b'/') => connection::post(bytes),
        #[cfg(feature = "server")]
        _ => connection::send(bytes),
        #[cfg(not(feature = "server"))]
        _ => {}
    }
}

fn chat(bytes: &[u8]) {
    static LANGUAGE: OnceLock<Arc<Language>> = OnceLock::new();
    let Ok(Ok(asked)) = serde_json::from_slice(bytes).map(Request::from_openai_chat) else { return };
    let language = LANGUAGE.get_or_init(|| {
        let options = EngineOptions { device: Device::Cpu, context: Some(1024), ..EngineOptions::default() };
        let engine = Engine::embedded(&options).expect("the model in the program opens");
        engine.language().expect("it has a tokenizer")
    });
    drop(language.prepare(asked));
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use std::collections::BTreeSet;
    use std::fs;

    fn corpus() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
    }

    /// The inputs that are kept, each cut and changed here and there as well.
    #[test]
    fn saved_inputs_end_in_a_value_or_an_error() {
        for (name, read) in TARGETS {
            let mut inputs = 0;
            for entry in fs::read_dir(corpus().join(name)).unwrap() {
                let bytes = fs::read(entry.unwrap().path()).unwrap();
                read(&bytes);
                inputs += 1;
                let step = (bytes.len() / 12).max(1);
                for at in (0..bytes.len()).step_by(step) {
                    read(&bytes[..at]);
                    for change in [0, 0xFF, b'9', b'"'] {
                        let mut changed = bytes.clone();
                        changed[at] = change;
                        read(&changed);
                    }
                }
            }
            assert!(inputs > 1, "{name}: {inputs} inputs");
        }
    }

    #[test]
    fn every_target_has_a_program_and_inputs() {
        let names: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        let inside = |folder: &Path| -> BTreeSet<String> {
            fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
                .collect()
        };
        assert_eq!(inside(&corpus()), names);
        assert_eq!(inside(&corpus().with_file_name("fuzz_targets")), names);
    }
}
