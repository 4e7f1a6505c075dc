//! The events of a streamed answer of `/v1/messages`: blocks that are opened, filled and closed one after the other.

use serde_json::{Value, json};

use super::answer::AnswerPart;
use super::error::Protocol;
use super::messages::{signature, stop_reason, usage};
use super::sse::{Frame, StreamWriter};

#[derive(Clone, Copy, PartialEq)]
enum Block {
    Thinking,
    Text,
    Call,
}

/// The state of a streamed answer.
pub(crate) struct Blocks {
    id: String,
    model: String,
    prompt_tokens: usize,
    stops: Vec<String>,
    open: Option<Block>,
    /// The number of the block that is open, or comes next.
    index: usize,
    has_calls: bool,
    /// Of the block that is open.
    thoughts: String,
}

impl Blocks {
    pub(crate) fn new(id: String, model: String, prompt_tokens: usize, stops: Vec<String>) -> Self {
        Blocks { id, model, prompt_tokens, stops, open: None, index: 0, has_calls: false, thoughts: String::new() }
    }

    fn start(&self, block: &Value) -> Frame {
        let data = json!({"type": "content_block_start", "index": self.index, "content_block": block});
        Frame::named("content_block_start", &data)
    }

    fn delta(&self, delta: &Value) -> Frame {
        let data = json!({"type": "content_block_delta", "index": self.index, "delta": delta});
        Frame::named("content_block_delta", &data)
    }

    fn stop(&mut self) -> Frame {
        let data = json!({"type": "content_block_stop", "index": self.index});
        self.index += 1;
        Frame::named("content_block_stop", &data)
    }

    fn close(&mut self, frames: &mut Vec<Frame>) {
        if let Some(block) = self.open.take() {
            if block == Block::Thinking {
                let signature = signature(&std::mem::take(&mut self.thoughts));
                frames.push(self.delta(&json!({"type": "signature_delta", "signature": signature})));
            }
            frames.push(self.stop());
        }
    }

    fn fill(&mut self, block: Block, empty: &Value, delta: &Value) -> Vec<Frame> {
        let mut frames = Vec::new();
        if self.open != Some(block) {
            self.close(&mut frames);
            frames.push(self.start(empty));
            self.open = Some(block);
        }
        frames.push(self.delta(delta));
        frames
    }
}

impl StreamWriter for Blocks {
    fn begin(&mut self) -> Vec<Frame> {
        let message = json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [],
            "stop_reason": null,
            "stop_sequence": null,
            "usage": {"input_tokens": self.prompt_tokens, "output_tokens": 0},
        });
        vec![
            Frame::named("message_start", &json!({"type": "message_start", "message": message})),
            Frame::named("ping", &json!({"type": "ping"})),
        ]
    }

    fn part(&mut self, part: AnswerPart) -> Vec<Frame> {
        match part {
            AnswerPart::Thinking(text) => {
                self.thoughts.push_str(&text);
                let empty = json!({"type": "thinking", "thinking": "", "signature": ""});
                self.fill(Block::Thinking, &empty, &json!({"type": "thinking_delta", "thinking": text}))
            }
            AnswerPart::Text(text) => {
                let empty = json!({"type": "text", "text": ""});
                self.fill(Block::Text, &empty, &json!({"type": "text_delta", "text": text}))
            }
            AnswerPart::CallBegin { id, name } => {
                let mut frames = Vec::new();
                self.close(&mut frames);
                self.has_calls = true;
                self.open = Some(Block::Call);
                frames.push(self.start(&json!({"type": "tool_use", "id": id, "name": name, "input": {}})));
                frames
            }
            AnswerPart::CallArguments(piece) => {
                vec![self.delta(&json!({"type": "input_json_delta", "partial_json": piece}))]
            }
            AnswerPart::Call(_) => {
                let mut frames = Vec::new();
                self.close(&mut frames);
                frames
            }
            AnswerPart::Probability(_) | AnswerPart::Prompt(_) | AnswerPart::StopToken(_) | AnswerPart::Progress(_) => {
                Vec::new()
            }
            AnswerPart::Done(done) => {
                let mut frames = Vec::new();
                self.close(&mut frames);
                let (reason, stop) = stop_reason(&done, self.has_calls, &self.stops);
                let delta = json!({"stop_reason": reason, "stop_sequence": stop});
                let last = json!({"type": "message_delta", "delta": delta, "usage": usage(&done)});
                frames.push(Frame::named("message_delta", &last));
                frames.push(Frame::named("message_stop", &json!({"type": "message_stop"})));
                frames
            }
            AnswerPart::Failed(error) => vec![Frame::named("error", &error.json(Protocol::Anthropic))],
        }
    }

    /// A null reason to stop: pings do not keep Claude Code waiting.
    fn waiting(&mut self) -> Option<Frame> {
        let delta = json!({"stop_reason": null, "stop_sequence": null});
        let data = json!({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 0}});
        Some(Frame::named("message_delta", &data))
    }
}
