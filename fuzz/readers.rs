//! Every reader of bytes that strangers wrote, as a function of bytes: what `cargo fuzz run NAME` calls, and ordinary tests
//! with the inputs that are kept in `fuzz/corpus/NAME`. Whatever the bytes are, they end in a value or an error.

use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::experts::trace::Trace;
use crate::model::shape_of_config;
use crate::request::Request;
use crate::state::{Identity, SessionReader};
use crate::text::{AnswerForm, ChatTemplate, GenerationConfig, GrammarCompiler, Message, QWEN, ReplyParser, Tokenizer};
use crate::weights::gguf::Gguf;
use crate::weights::pack::Manifest;
use crate::weights::safetensors::TensorSet;

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

/// A GGUF file.
pub fn gguf(bytes: &[u8]) {
    with_file(bytes, |path| drop(Gguf::open(path)));
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

/// A session file.
pub fn session(bytes: &[u8]) {
    // the model is not known: all that is read before it matters
    let identity = Identity { fingerprint: 0, form: String::new(), layers: Vec::new() };
    with_file(bytes, |path| drop(SessionReader::open(path, &identity)));
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

/// The body of a chat.
pub fn request(bytes: &[u8]) {
    if let Ok(body) = serde_json::from_slice(bytes) {
        drop(Request::from_openai_chat(body));
    }
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
