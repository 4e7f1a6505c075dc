//! Answers in pieces: as server-sent events, or as lines of JSON.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Response, header};
use axum::response::IntoResponse;
use axum::response::sse::{Event, Sse};
use futures_util::stream;
use serde_json::{Value, json};

use super::answer::{AnswerPart, Running};

/// One event.
pub(crate) struct Frame {
    /// Its name, where the protocol has names.
    pub(crate) name: Option<&'static str>,
    pub(crate) data: String,
}

impl Frame {
    /// Data without a name.
    pub(crate) fn data(data: &Value) -> Self {
        Frame { name: None, data: data.to_string() }
    }

    /// What ends a stream of OpenAI's behind its last chunk: the usage, where it is told, and a word.
    pub(super) fn end(mut last: Value, usage: Option<Value>) -> Vec<Frame> {
        let usage = usage.map(|usage| {
            last["choices"] = json!([]);
            last["usage"] = usage;
            Frame::data(&last)
        });
        usage.into_iter().chain([Frame { name: None, data: "[DONE]".to_owned() }]).collect()
    }

    /// Data whose `type` is its name as well.
    pub(crate) fn named(name: &'static str, data: &Value) -> Self {
        Frame { name: Some(name), data: data.to_string() }
    }
}

/// How a protocol writes an answer down, piece by piece.
pub(crate) trait StreamWriter: Send + 'static {
    /// What comes first, before anything is computed.
    fn begin(&mut self) -> Vec<Frame>;

    /// A piece; after the last one nothing comes.
    fn part(&mut self, part: AnswerPart) -> Vec<Frame>;

    /// What the protocol says while nothing happens: clients that pass over comments give up otherwise. Claude Code ends
    /// after 300 seconds without an event, Codex as well.
    fn waiting(&mut self) -> Option<Frame> {
        None
    }
}

/// How often a client hears that the answer is computed, by a comment: clients and proxies give up on long prompts.
const COMMENT: Duration = Duration::from_secs(1);

/// Every so many comments an event of the protocol comes in the place of one.
const COMMENTS: u32 = 10;

struct State<W> {
    running: Option<Running>,
    writer: W,
    frames: VecDeque<Frame>,
    /// Signs of life since the last frame.
    silent: u32,
}

impl<W: StreamWriter> State<W> {
    fn new(running: Running, mut writer: W) -> Self {
        let frames = writer.begin().into();
        State { running: Some(running), writer, frames, silent: 0 }
    }

    /// The next frame, or `None` in it for a sign of life; `None` at the end.
    async fn next(&mut self) -> Option<Option<Frame>> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                self.silent = 0;
                return Some(Some(frame));
            }
            let Ok(part) = tokio::time::timeout(COMMENT, self.running.as_mut()?.next()).await else {
                self.silent += 1;
                let is_event = self.silent.is_multiple_of(COMMENTS);
                return Some(if is_event { self.writer.waiting() } else { None });
            };
            let (is_done, has_failed) = (matches!(part, AnswerPart::Done(_)), matches!(part, AnswerPart::Failed(_)));
            self.frames.extend(self.writer.part(part));
            match self.running.as_mut().filter(|_| is_done).map(Running::go_on) {
                Some(Ok(true)) => {}
                Some(Err(error)) => {
                    self.frames.extend(self.writer.part(AnswerPart::Failed(error)));
                    self.running = None;
                }
                Some(Ok(false)) => self.running = None,
                None if has_failed => self.running = None,
                None => {}
            }
        }
    }
}

/// The response that writes `running` down as server-sent events.
pub(crate) fn response(running: Running, writer: impl StreamWriter) -> Response<Body> {
    let events = stream::unfold(State::new(running, writer), |mut state| async move {
        let event = match state.next().await? {
            None => Event::default().comment("computing"),
            Some(Frame { name: None, data }) => Event::default().data(data),
            Some(Frame { name: Some(name), data }) => Event::default().event(name).data(data),
        };
        Some((Ok::<_, Infallible>(event), state))
    });
    unbuffered(Sse::new(events).into_response())
}

/// The response that writes `running` down as lines of JSON.
pub(crate) fn lines(running: Running, writer: impl StreamWriter) -> Response<Body> {
    let lines = stream::unfold(State::new(running, writer), |mut state| async move {
        // a blank between lines is a sign of life as well
        let line = state.next().await?.map_or_else(|| "\n".to_owned(), |frame| frame.data + "\n");
        Some((Ok::<_, Infallible>(line), state))
    });
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    unbuffered(response)
}

/// Proxies must not collect it.
pub(super) fn unbuffered(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::time::Duration;

    use serde_json::{Value, json};

    use super::super::ReasoningField;
    use super::super::answer::{AnswerPart, Call};
    use super::super::chat_completions::Chunks;
    use super::super::error::ApiError;
    use super::super::messages_stream::Blocks;
    use super::super::responses::Envelope;
    use super::super::responses_stream::Items;
    use super::*;
    use crate::{Finish, Generated};

    /// Thoughts, text, a call, and the end, in the events of a writer: their names and data.
    fn written(mut writer: impl StreamWriter, last: AnswerPart) -> Vec<(Option<&'static str>, Value)> {
        let call = Call { id: "call_1".into(), name: "f".into(), arguments: "{\"x\":1}".into() };
        let text = |text: &str| AnswerPart::Text(text.into());
        let mut frames = writer.begin();
        for part in [
            AnswerPart::Thinking("h".into()),
            AnswerPart::Thinking("m".into()),
            text("a"),
            text("b"),
            AnswerPart::CallBegin { id: "call_1".into(), name: "f".into() },
            AnswerPart::CallArguments("{\"x\"".into()),
            AnswerPart::CallArguments(":1}".into()),
            AnswerPart::Call(call),
            last,
        ] {
            frames.extend(writer.part(part));
        }
        let json = |data: &str| serde_json::from_str(data).unwrap_or_else(|_| data.into());
        frames.iter().map(|frame| (frame.name, json(&frame.data))).collect()
    }

    fn done() -> AnswerPart {
        AnswerPart::Done(Generated {
            finish: Finish::Stop,
            stop_string: None,
            prompt: 10,
            reused: 4,
            computed: 6,
            tokens: vec![0; 7],
            thinking: 3,
            prefill: Duration::from_secs(1),
            decode: Duration::from_secs(2),
        })
    }

    #[test]
    fn openais_chunks() {
        let chunks = || Chunks::new("id".into(), 0, "m".into(), 1, true, ReasoningField::default());
        let events = written(chunks(), done());
        let deltas: Vec<&Value> = events.iter().map(|(_, data)| &data["choices"][0]["delta"]).collect();
        assert_eq!((deltas[1], deltas[3]), (&json!({"reasoning_content": "h"}), &json!({"content": "a"})));
        let call =
            json!([{"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}]);
        assert_eq!(deltas[5]["tool_calls"], call);
        assert_eq!(deltas[6]["tool_calls"], json!([{"index": 0, "function": {"arguments": "{\"x\""}}]));
        assert_eq!(deltas[7]["tool_calls"], json!([{"index": 0, "function": {"arguments": ":1}"}}]));
        assert_eq!(events[8].1["choices"][0]["finish_reason"], "tool_calls");
        let usage = &events[9].1["usage"];
        assert_eq!(usage["completion_tokens_details"]["reasoning_tokens"], 3);
        assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 4);
        assert_eq!((events.len(), &events[10].1), (11, &json!("[DONE]")));
        let failed = written(chunks(), AnswerPart::Failed(ApiError::internal("why")));
        assert_eq!(failed.last().unwrap().1["error"]["message"], "why");
    }

    #[test]
    fn anthropics_blocks() {
        let blocks = || Blocks::new("id".into(), "m".into(), 10, Vec::new());
        let events = written(blocks(), done());
        let names: Vec<&str> = events.iter().map(|(name, _)| name.unwrap()).collect();
        let (start, delta, stop) = ("content_block_start", "content_block_delta", "content_block_stop");
        // the thoughts' last delta is their signature
        let expected = [
            "message_start",
            "ping",
            start,
            delta,
            delta,
            delta,
            stop,
            start,
            delta,
            delta,
            stop,
            start,
            delta,
            delta,
            stop,
            "message_delta",
            "message_stop",
        ];
        assert_eq!(names, expected);
        assert_eq!(events[3].1["delta"], json!({"type": "thinking_delta", "thinking": "h"}));
        let signature = super::super::messages::signature("hm");
        assert_eq!(events[5].1["delta"], json!({"type": "signature_delta", "signature": signature}));
        assert_eq!((&events[11].1["index"], &events[11].1["content_block"]["name"]), (&json!(2), &json!("f")));
        assert_eq!(events[13].1["delta"], json!({"type": "input_json_delta", "partial_json": ":1}"}));
        let end = &events[15].1;
        assert_eq!((&end["delta"]["stop_reason"], &end["usage"]["input_tokens"]), (&json!("tool_use"), &json!(6)));
        assert_eq!(written(blocks(), AnswerPart::Failed(ApiError::internal("why"))).last().unwrap().0, Some("error"));
    }

    #[test]
    fn openais_items() {
        let items = || {
            let (previous, kinds) = (None, std::collections::HashMap::new());
            Items::new(Envelope { id: "id".into(), created: 0, model: "m".into(), previous, kinds }, None)
        };
        let events = written(items(), done());
        let last = &events.last().unwrap().1;
        assert_eq!(last["type"], "response.completed");
        let output = last["response"]["output"].as_array().unwrap();
        assert_eq!(output[0]["content"][0]["text"], "hm");
        assert_eq!((&output[1]["content"][0]["text"], &output[2]["call_id"]), (&json!("ab"), &json!("call_1")));
        assert_eq!(output[2]["arguments"], "{\"x\":1}");
        // an item is done as it stands in the end
        let ended: Vec<&Value> = events
            .iter()
            .filter(|(name, _)| *name == Some("response.output_item.done"))
            .map(|(_, data)| &data["item"])
            .collect();
        assert_eq!(ended, output.iter().collect::<Vec<_>>());
        let failed = written(items(), AnswerPart::Failed(ApiError::internal("why")));
        assert_eq!(failed.last().unwrap().1["response"]["error"]["message"], "why");
    }
}
