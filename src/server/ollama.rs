//! The protocol of ollama, which many desktop programs speak: `/api/chat`, `/api/generate`, and what they ask before.
//! Answers come as lines of JSON, unless `stream` is false.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request as HttpRequest, Response, StatusCode};
use serde_json::{Value, json};

use super::Server;
use super::answer::{AnswerPart, Call, Whole, is_cut};
use super::body;
use super::error::{ApiError, Protocol, json_response};
use super::model::{Model, time_text};
use super::sse::{self, Frame, StreamWriter};
use crate::request::{BodyKeys, sampling, template_keys, thinking_budget};
use crate::{Content, Generated, Message, Prompt, Request, ToolChoice};

/// The version of ollama whose protocol this is: programs look whether it is new enough.
const VERSION: &str = "0.13.0";

pub(crate) fn version() -> Response<Body> {
    json_response(StatusCode::OK, &json!({"version": VERSION}))
}

/// `GET /api/tags` and `/api/ps`: the one model there is.
pub(crate) fn models(server: &Server) -> Response<Body> {
    let model = |model: &Arc<Model>| {
        json!({
            "name": model.name,
            "model": model.name,
            "modified_at": time_text(model.created),
            "expires_at": "2999-01-01T00:00:00Z",
            "size": 0,
            "size_vram": 0,
            "digest": format!("{:064x}", 0),
            "context_length": model.language.context(),
            "details": details(),
        })
    };
    let models: Vec<Value> = server.model.get().map(model).into_iter().collect();
    json_response(StatusCode::OK, &json!({"models": models}))
}

fn details() -> Value {
    json!({
        "parent_model": "", "format": "flashflood", "family": "flashflood", "families": ["flashflood"],
        "parameter_size": "", "quantization_level": "",
    })
}

/// `POST /api/show`.
pub(crate) async fn show(server: &Arc<Server>, request: HttpRequest<Body>) -> Result<Response<Body>, ApiError> {
    let mut keys = body::keys(request).await?;
    let model = server.model()?;
    if let Some(name) = keys.any::<String>(&["model", "name"])?
        && without_tag(&name) != without_tag(&model.name)
    {
        return Err(ApiError::new(StatusCode::NOT_FOUND, format!("model '{name}' not found")));
    }
    let mut capabilities = vec!["completion", "tools", "thinking"];
    if model.language.fills_gaps() {
        capabilities.push("insert");
    }
    let shown = json!({
        "modelfile": "", "parameters": "", "template": "", "license": "",
        "details": details(),
        "model_info": {
            "general.architecture": "flashflood",
            "flashflood.context_length": model.language.context(),
        },
        "capabilities": capabilities,
        "modified_at": time_text(model.created),
    });
    Ok(json_response(StatusCode::OK, &shown))
}

/// `name:latest` is `name`.
fn without_tag(name: &str) -> &str {
    name.strip_suffix(":latest").unwrap_or(name)
}

/// `POST /api/chat`.
pub(crate) async fn chat(server: &Arc<Server>, request: HttpRequest<Body>) -> Result<Response<Body>, ApiError> {
    let mut keys = body::keys(request).await?;
    let messages: Vec<Value> = keys.get("messages")?.unwrap_or_default();
    let mut wanted = Request {
        prompt: Prompt::Chat(messages.into_iter().map(message).collect::<Result<_, _>>()?),
        tools: keys.get("tools")?.unwrap_or_default(),
        tool_choice: ToolChoice::Auto,
        ..Request::default()
    };
    fill(&mut keys, &mut wanted)?;
    answer(server, keys, wanted, "/api/chat", Shape::Chat).await
}

/// `POST /api/generate`: a prompt for the chat template, or with `raw` a text that goes on as it
/// stands, or with `suffix` what stands before a gap.
pub(crate) async fn generate(server: &Arc<Server>, request: HttpRequest<Body>) -> Result<Response<Body>, ApiError> {
    let mut keys = body::keys(request).await?;
    let prompt: String = keys.get("prompt")?.unwrap_or_default();
    let (system, raw): (Option<String>, Option<bool>) = (keys.get("system")?, keys.get("raw")?);
    for (field, why) in [
        ("images", "this model reads text"),
        ("template", "the template is the model's own"),
        ("context", "send the conversation to /api/chat"),
    ] {
        if keys.says(field) {
            return Err(ApiError::unsupported(field, &format!("{field}: {why}")));
        }
    }
    let suffix: Option<String> = keys.get("suffix")?;
    let mut wanted = match (suffix.filter(|text| !text.is_empty()), raw) {
        (Some(after), _) => {
            Request { prompt: Prompt::Infill { before: prompt, after, files: Vec::new() }, ..Request::default() }
        }
        (None, Some(true)) => Request::text(prompt),
        _ => {
            let system = system.filter(|text| !text.is_empty()).map(|text| Message::new("system", text));
            Request::chat(system.into_iter().chain([Message::new("user", prompt)]))
        }
    };
    fill(&mut keys, &mut wanted)?;
    answer(server, keys, wanted, "/api/generate", Shape::Generate).await
}

/// A message of ollama's: images stand beside the text, arguments are objects already.
fn message(given: Value) -> Result<Message, ApiError> {
    let images = given.get("images").and_then(Value::as_array).map_or(0, Vec::len);
    let mut message: Message =
        serde_json::from_value(given).map_err(|e| ApiError::invalid(format!("messages: {e}")).at("messages"))?;
    message.other.shift_remove("images");
    if let Some(Value::String(thoughts)) = message.other.shift_remove("thinking") {
        message.reasoning_content.get_or_insert(thoughts);
    }
    if images > 0 {
        let text = match &message.content {
            Content::Text(text) => text.clone(),
            Content::None | Content::Parts(_) => String::new(),
        };
        let parts = std::iter::once(json!({"type": "text", "text": text}));
        message.content = Content::Parts(parts.chain((0..images).map(|_| json!({"type": "image"}))).collect());
    }
    Ok(message)
}

/// What both have: the form of the answer, thoughts, and `options`.
fn fill(keys: &mut BodyKeys, wanted: &mut Request) -> Result<(), ApiError> {
    wanted.json_schema = match keys.value("format") {
        None => None,
        Some(Value::String(word)) if word == "json" => Some(json!({"type": "object"})),
        Some(Value::String(word)) if word.is_empty() => None,
        Some(schema @ Value::Object(_)) => Some(schema),
        Some(_) => return Err(ApiError::unsupported("format", "format is \"json\" or a JSON schema")),
    };
    wanted.template = template_keys(keys)?;
    wanted.thinking_budget = thinking_budget(keys, &mut wanted.template)?;
    let mut options = BodyKeys::new(keys.value("options").unwrap_or_else(|| json!({})))?;
    wanted.max_tokens = options.count(&["num_predict"])?;
    sampling(&mut options, wanted)?;
    // where and how a model is loaded was decided when the server began
    const LOADING: [&str; 9] =
        ["num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "use_mmap", "use_mlock", "numa", "num_keep"];
    if let Some(option) = options.rest().find(|option| !LOADING.contains(option)) {
        tracing::info!("ollama's option {option:?} is passed over");
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Shape {
    Chat,
    Generate,
}

async fn answer(
    server: &Arc<Server>,
    mut keys: BodyKeys,
    wanted: Request,
    path: &str,
    shape: Shape,
) -> Result<Response<Body>, ApiError> {
    let is_stream = keys.get("stream")? != Some(false);
    keys.value("keep_alive");
    server.tell_ignored(path, &keys);
    let mut running = server.submit(wanted).await?;
    let lines = Lines { shape, model: running.model.name.clone() };
    if is_stream {
        return Ok(sse::lines(running, lines));
    }
    let (whole, done) = running.whole().await?;
    Ok(json_response(StatusCode::OK, &lines.last(&whole, &done)))
}

/// The lines of a streamed answer.
struct Lines {
    shape: Shape,
    model: String,
}

impl Lines {
    fn line(&self, part: &Whole) -> Value {
        let mut line = json!({"model": self.model, "created_at": time_text(super::model::now()), "done": false});
        match self.shape {
            Shape::Chat => {
                let mut message = json!({"role": "assistant", "content": part.text});
                if !part.thinking.is_empty() {
                    message["thinking"] = part.thinking.clone().into();
                }
                if !part.calls.is_empty() {
                    message["tool_calls"] = part.calls.iter().map(call).collect();
                }
                line["message"] = message;
            }
            Shape::Generate => {
                line["response"] = part.text.clone().into();
                if !part.thinking.is_empty() {
                    line["thinking"] = part.thinking.clone().into();
                }
            }
        }
        line
    }

    fn last(&self, part: &Whole, done: &Generated) -> Value {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let mut line = self.line(part);
        line["done"] = true.into();
        line["done_reason"] = if is_cut(done) { "length" } else { "stop" }.into();
        line["total_duration"] = nanoseconds(done.prefill + done.decode).into();
        line["load_duration"] = 0.into();
        line["prompt_eval_count"] = done.prompt.into();
        line["prompt_eval_duration"] = nanoseconds(done.prefill).into();
        line["eval_count"] = done.tokens.len().into();
        line["eval_duration"] = nanoseconds(done.decode).into();
        line
    }
}

fn call(call: &Call) -> Value {
    let arguments: Value = serde_json::from_str(&call.arguments).unwrap_or_default();
    json!({"id": call.id, "function": {"name": call.name, "arguments": arguments}})
}

impl StreamWriter for Lines {
    fn begin(&mut self) -> Vec<Frame> {
        Vec::new()
    }

    fn part(&mut self, part: AnswerPart) -> Vec<Frame> {
        let mut piece = Whole::default();
        match part {
            AnswerPart::Thinking(text) => piece.thinking = text,
            AnswerPart::Text(text) => piece.text = text,
            AnswerPart::Call(call) => piece.calls.push(call),
            AnswerPart::Done(done) => return vec![Frame::data(&self.last(&piece, &done))],
            AnswerPart::Failed(error) => return vec![Frame::data(&error.json(Protocol::Ollama))],
            // calls are told whole
            AnswerPart::CallBegin { .. } | AnswerPart::CallArguments(_) => return Vec::new(),
            AnswerPart::Probability(_) | AnswerPart::Prompt(_) | AnswerPart::StopToken(_) | AnswerPart::Progress(_) => {
                return Vec::new();
            }
        }
        vec![Frame::data(&self.line(&piece))]
    }

    fn waiting(&mut self) -> Option<Frame> {
        Some(Frame::data(&self.line(&Whole::default())))
    }
}
