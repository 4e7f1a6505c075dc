//! What `/v1/completions` answers: `text_completion` objects, whole or in chunks, with OpenAI's `logprobs` of texts.

use serde_json::{Map, Value, json};

use super::answer::{AnswerPart, is_cut, timings, usage};
use super::error::Protocol;
use super::sse::{Frame, StreamWriter};
use crate::Generated;

/// What every object of an answer has.
pub(super) struct CompletionObject {
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: String,
}

impl CompletionObject {
    pub(super) fn json(&self, index: usize, text: &str, logprobs: Value, done: Option<&Generated>) -> Value {
        let finish = done.map(|done| if is_cut(done) { "length" } else { "stop" });
        let mut answer = json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": [{"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}],
        });
        if let Some(done) = done {
            answer["timings"] = timings(done);
        }
        answer
    }
}

/// The `logprobs` of a text: lists side by side.
#[derive(Clone, Default)]
pub(super) struct Told {
    /// Whether the prompt is told as well. Then the token that ends the answer is, too: whoever asks for one token behind
    /// a prompt counts on one.
    echoes: bool,
    tokens: Vec<String>,
    logprobs: Vec<Value>,
    top: Vec<Value>,
    offsets: Vec<usize>,
    /// Characters that have begun so far.
    characters: usize,
}

impl Told {
    pub(super) fn new(echoes: bool) -> Self {
        Told { echoes, ..Told::default() }
    }

    /// Adds what a part tells of tokens.
    pub(super) fn push(&mut self, part: &AnswerPart) {
        match part {
            AnswerPart::Prompt(tokens) => tokens.iter().for_each(|token| self.token(token)),
            AnswerPart::Probability(token) => self.token(token),
            AnswerPart::StopToken(token) if self.echoes => self.token(token),
            _ => {}
        }
    }

    /// Adds a token as a chat tells it.
    fn token(&mut self, token: &Value) {
        let is_known = !token["logprob"].is_null();
        let mut top: Map<String, Value> = Map::new();
        for other in token["top_logprobs"].as_array().into_iter().flatten() {
            top.insert(text_of(other), other["logprob"].clone());
        }
        if is_known {
            top.insert(text_of(token), token["logprob"].clone());
        }
        self.top.push(if is_known { top.into() } else { Value::Null });
        self.tokens.push(text_of(token));
        self.logprobs.push(token["logprob"].clone());
        self.offsets.push(self.characters);
        let begins = |byte: &&Value| byte.as_u64().is_some_and(|byte| byte & 0xC0 != 0x80);
        self.characters += token["bytes"].as_array().map_or(0, |bytes| bytes.iter().filter(begins).count());
    }

    /// What was added since the last time.
    pub(super) fn take(&mut self) -> Value {
        let (characters, echoes) = (self.characters, self.echoes);
        let told = std::mem::replace(self, Told { characters, echoes, ..Told::default() });
        match told.tokens.is_empty() {
            true => Value::Null,
            false => json!({
                "tokens": told.tokens, "token_logprobs": told.logprobs, "top_logprobs": told.top,
                "text_offset": told.offsets,
            }),
        }
    }
}

/// A token's text. Bytes that are no characters are spelled, as OpenAI does: two tokens must not have one name.
fn text_of(token: &Value) -> String {
    let text = token["token"].as_str().unwrap_or_default();
    if !text.contains('\u{FFFD}') {
        return text.to_owned();
    }
    let bytes: Option<Vec<u8>> = token["bytes"].as_array().map(|bytes| {
        let byte = |byte: &Value| byte.as_u64().and_then(|byte| u8::try_from(byte).ok());
        bytes.iter().filter_map(byte).collect()
    });
    match bytes {
        Some(bytes) if std::str::from_utf8(&bytes).is_err() => {
            bytes.iter().fold("bytes:".to_owned(), |text, byte| format!("{text}\\x{byte:02x}"))
        }
        _ => text.to_owned(),
    }
}

/// The chunks of a streamed answer: one choice after the other.
pub(super) struct CompletionChunks {
    pub(super) shape: CompletionObject,
    /// To each prompt.
    pub(super) answers: usize,
    /// What the answers to each prompt begin with.
    pub(super) echoed: Vec<String>,
    pub(super) told: Told,
    pub(super) tells_usage: bool,
    /// The choices that are done; the number of them is the index of the one that is not.
    pub(super) done: Vec<Generated>,
}

impl CompletionChunks {
    fn chunk(&mut self, text: &str, done: Option<&Generated>) -> Value {
        self.shape.json(self.done.len(), text, self.told.take(), done)
    }

    /// The prompt, where it is echoed.
    fn echo(&mut self) -> Vec<Frame> {
        let text = std::mem::take(&mut self.echoed[self.done.len() / self.answers]);
        let frames = if text.is_empty() { Vec::new() } else { vec![Frame::data(&self.chunk(&text, None))] };
        self.echoed[self.done.len() / self.answers] = text;
        frames
    }
}

impl StreamWriter for CompletionChunks {
    fn begin(&mut self) -> Vec<Frame> {
        // with the probabilities of its tokens it comes when they are known
        if self.told.echoes { Vec::new() } else { self.echo() }
    }

    fn part(&mut self, part: AnswerPart) -> Vec<Frame> {
        match part {
            AnswerPart::Text(text) | AnswerPart::Thinking(text) => vec![Frame::data(&self.chunk(&text, None))],
            AnswerPart::Prompt(_) => {
                self.told.push(&part);
                self.echo()
            }
            AnswerPart::Done(done) => {
                let last = self.chunk("", Some(&done));
                let mut frames = vec![Frame::data(&last)];
                self.done.push(done);
                self.told = Told::new(self.told.echoes);
                if self.done.len() < self.answers * self.echoed.len() {
                    frames.extend(self.begin());
                    return frames;
                }
                frames.extend(Frame::end(last, self.tells_usage.then(|| usage(&self.done, self.answers))));
                frames
            }
            AnswerPart::Failed(error) => vec![Frame::data(&error.json(Protocol::OpenAi))],
            part => {
                self.told.push(&part);
                Vec::new()
            }
        }
    }
}
