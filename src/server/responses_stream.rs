//! The events of a streamed answer of `/v1/responses`: items that are added, filled and done one after the other.

use serde_json::{Value, json};

use super::answer::{AnswerPart, Call, Whole, is_cut};
use super::error::Protocol;
use super::responses::{Envelope, Kept, free_text, message, output_text, reasoning};
use super::responses_input::ToolKind;
use super::sse::{Frame, StreamWriter};
use crate::request::new_id;

enum Open {
    Thinking { id: String, text: String },
    Text { id: String, text: String },
    Call { id: String, call: Call },
}

/// The state of a streamed answer.
pub(crate) struct Items {
    envelope: Envelope,
    open: Option<Open>,
    /// Items that are done.
    output: Vec<Value>,
    /// Events so far.
    number: usize,
    /// The answer so far, and where it is kept.
    whole: Whole,
    kept: Option<Kept>,
}

impl Items {
    pub(super) fn new(envelope: Envelope, kept: Option<Kept>) -> Self {
        Items { envelope, open: None, output: Vec::new(), number: 0, whole: Whole::default(), kept }
    }

    fn frame(&mut self, name: &'static str, mut data: Value) -> Frame {
        data["type"] = name.into();
        data["sequence_number"] = self.number.into();
        self.number += 1;
        Frame::named(name, &data)
    }

    /// An event about a part of the item that is open.
    fn inside(&mut self, name: &'static str, id: &str, mut data: Value) -> Frame {
        data["item_id"] = id.into();
        data["output_index"] = self.output.len().into();
        data["content_index"] = 0.into();
        self.frame(name, data)
    }

    fn item(&mut self, name: &'static str, item: &Value) -> Frame {
        let index = self.output.len();
        self.frame(name, json!({"output_index": index, "item": item}))
    }

    fn close(&mut self, status: &str, frames: &mut Vec<Frame>) {
        let item = match self.open.take() {
            None => return,
            Some(Open::Thinking { id, text }) => {
                frames.push(self.inside("response.reasoning_text.done", &id, json!({"text": text})));
                reasoning(&id, &text, status)
            }
            Some(Open::Text { id, text }) => {
                frames.push(self.inside("response.output_text.done", &id, json!({"text": text, "logprobs": []})));
                let part = json!({"part": output_text(&text)});
                frames.push(self.inside("response.content_part.done", &id, part));
                message(&id, Some(&text), status)
            }
            Some(Open::Call { id, call }) => {
                self.end_call(&id, &call, frames);
                self.envelope.call(&id, &call, status)
            }
        };
        frames.push(self.item("response.output_item.done", &item));
        self.output.push(item);
    }

    fn end_call(&mut self, id: &str, call: &Call, frames: &mut Vec<Frame>) {
        let index = self.output.len();
        let (name, key, given) = match self.envelope.kinds.get(&call.name) {
            Some(ToolKind::Custom) => {
                let given = free_text(call);
                let delta = json!({"item_id": id, "output_index": index, "delta": given});
                frames.push(self.frame("response.custom_tool_call_input.delta", delta));
                ("response.custom_tool_call_input.done", "input", given)
            }
            _ => ("response.function_call_arguments.done", "arguments", call.arguments.clone()),
        };
        frames.push(self.frame(name, json!({"item_id": id, "output_index": index, "name": call.name, key: given})));
    }

    fn thinking(&mut self, piece: &str, frames: &mut Vec<Frame>) {
        if !matches!(self.open, Some(Open::Thinking { .. })) {
            self.close("completed", frames);
            let id = new_id("rs_");
            let item = json!({"id": id, "type": "reasoning", "summary": [], "content": [], "status": "in_progress"});
            frames.push(self.item("response.output_item.added", &item));
            self.open = Some(Open::Thinking { id, text: String::new() });
        }
        if let Some(Open::Thinking { id, text }) = &mut self.open {
            text.push_str(piece);
            let id = id.clone();
            frames.push(self.inside("response.reasoning_text.delta", &id, json!({"delta": piece})));
        }
    }

    fn text(&mut self, piece: &str, frames: &mut Vec<Frame>) {
        if !matches!(self.open, Some(Open::Text { .. })) {
            self.close("completed", frames);
            let id = new_id("msg_");
            frames.push(self.item("response.output_item.added", &message(&id, None, "in_progress")));
            frames.push(self.inside("response.content_part.added", &id, json!({"part": output_text("")})));
            self.open = Some(Open::Text { id, text: String::new() });
        }
        if let Some(Open::Text { id, text }) = &mut self.open {
            text.push_str(piece);
            let id = id.clone();
            frames.push(self.inside("response.output_text.delta", &id, json!({"delta": piece, "logprobs": []})));
        }
    }

    fn begin_call(&mut self, call: Call, frames: &mut Vec<Frame>) {
        self.close("completed", frames);
        let id = new_id("fc_");
        frames.push(self.item("response.output_item.added", &self.envelope.call(&id, &call, "in_progress")));
        self.open = Some(Open::Call { id, call });
    }

    fn arguments(&mut self, piece: &str, frames: &mut Vec<Frame>) {
        let Some(Open::Call { id, call }) = &mut self.open else { return };
        call.arguments.push_str(piece);
        // a free text is told when the arguments that it stands in are complete
        if self.envelope.kinds.get(&call.name) != Some(&ToolKind::Custom) {
            let delta = json!({"item_id": id, "output_index": self.output.len(), "delta": piece});
            frames.push(self.frame("response.function_call_arguments.delta", delta));
        }
    }
}

impl StreamWriter for Items {
    fn begin(&mut self) -> Vec<Frame> {
        let response = self.envelope.json(&[], None);
        vec![
            self.frame("response.created", json!({"response": response})),
            self.frame("response.in_progress", json!({"response": response})),
        ]
    }

    fn waiting(&mut self) -> Option<Frame> {
        let response = self.envelope.json(&self.output, None);
        Some(self.frame("response.in_progress", json!({"response": response})))
    }

    fn part(&mut self, part: AnswerPart) -> Vec<Frame> {
        let mut frames = Vec::new();
        match part {
            AnswerPart::Thinking(text) => {
                self.whole.thinking.push_str(&text);
                self.thinking(&text, &mut frames);
            }
            AnswerPart::Text(text) => {
                self.whole.text.push_str(&text);
                self.text(&text, &mut frames);
            }
            AnswerPart::CallBegin { id, name } => {
                self.begin_call(Call { id, name, arguments: String::new() }, &mut frames);
            }
            AnswerPart::CallArguments(piece) => self.arguments(&piece, &mut frames),
            AnswerPart::Call(call) => {
                self.close("completed", &mut frames);
                self.whole.calls.push(call);
            }
            AnswerPart::Probability(_) | AnswerPart::Prompt(_) | AnswerPart::StopToken(_) | AnswerPart::Progress(_) => {
            }
            AnswerPart::Done(done) => {
                let (name, status) = match is_cut(&done) {
                    true => ("response.incomplete", "incomplete"),
                    false => ("response.completed", "completed"),
                };
                self.close(status, &mut frames);
                if let Some(kept) = self.kept.take() {
                    kept.keep(&self.whole.thinking, &self.whole.text, &self.whole.calls);
                }
                let response = self.envelope.json(&self.output, Some(&done));
                frames.push(self.frame(name, json!({"response": response})));
            }
            AnswerPart::Failed(error) => {
                let mut response = self.envelope.json(&self.output, None);
                response["status"] = "failed".into();
                let message = error.json(Protocol::OpenAi)["error"]["message"].clone();
                response["error"] = json!({"code": "server_error", "message": message});
                frames.push(self.frame("response.failed", json!({"response": response})));
            }
        }
        frames
    }
}
