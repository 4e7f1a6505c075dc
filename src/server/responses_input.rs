//! What a body of `/v1/responses` asks for: items of a history become messages, tools of all kinds functions.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::request::function;
use crate::request::{
    BodyKeys, MOST_PROBABILITIES, Unreadable, content_text, json_schema, sampling, template_keys, thinking_budget,
};
use crate::{Content, Message, Prompt, Request, ToolChoice};

/// How a call of a function is told, where not as a `function_call`.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ToolKind {
    /// A tool that takes a free text: the function has one argument, [`FREE_TEXT`].
    Custom,
    /// A function of a namespace.
    Of(String),
}

/// The argument of a custom tool.
pub(super) const FREE_TEXT: &str = "input";

/// What is asked.
pub(super) struct Asked {
    pub(super) request: Request,
    /// By the names of functions.
    pub(super) kinds: HashMap<String, ToolKind>,
    /// The response that this one goes on from.
    pub(super) previous: Option<String>,
    /// Whether a later request may go on from this one.
    pub(super) is_kept: bool,
}

/// Reads the body; keys that nobody knows are left.
pub(super) fn asked(keys: &mut BodyKeys) -> Result<Asked, ApiError> {
    let mut messages = Vec::new();
    if let Some(instructions) = keys.value("instructions") {
        messages.push(Message::new("system", content_text(&instructions, "\n", Unreadable::Named, "instructions")?));
    }
    match keys.value("input") {
        Some(Value::String(text)) => messages.push(Message::new("user", text)),
        Some(Value::Array(items)) => {
            for (i, item) in items.iter().enumerate() {
                convert(item, &format!("input[{i}]"), i + 1 == items.len(), &mut messages)?;
            }
        }
        _ => return Err(ApiError::invalid("input is a text or a list of items").at("input")),
    }
    let mut template = template_keys(keys)?;
    let thinking_budget = thinking_budget(keys, &mut template)?;
    let (mut tools, mut kinds) = (Vec::new(), HashMap::new());
    for tool in keys.get::<Vec<Value>>("tools")?.unwrap_or_default() {
        offer(&tool, None, &mut tools, &mut kinds);
    }
    let text = keys.value("text").unwrap_or_default();
    let probabilities = keys.count(&["top_logprobs"])?;
    if probabilities.is_some_and(|top| top > 0) {
        let what = format!("probabilities are told by /v1/chat/completions (logprobs, up to {MOST_PROBABILITIES})");
        return Err(ApiError::unsupported("top_logprobs", &what));
    }
    let mut request = Request {
        prompt: Prompt::Chat(messages),
        tools,
        tool_choice: ToolChoice::from_openai(keys.value("tool_choice").as_ref())?,
        one_call: keys.get("parallel_tool_calls")? == Some(false),
        json_schema: json_schema(text.get("format"), "text.format")?,
        max_tokens: keys.count(&["max_output_tokens"])?,
        thinking_budget,
        template,
        ..Request::default()
    };
    sampling(keys, &mut request)?;
    let is_kept = keys.get("store")? != Some(false);
    Ok(Asked { request, kinds, previous: keys.get("previous_response_id")?, is_kept })
}

/// Adds a tool, if it can be called here; those of the provider's own servers cannot.
fn offer(tool: &Value, namespace: Option<&str>, tools: &mut Vec<Value>, kinds: &mut HashMap<String, ToolKind>) {
    let name = tool["name"].as_str().unwrap_or_default();
    match tool["type"].as_str() {
        Some("function") => {
            tools.push(function(tool.get("name"), tool.get("description"), tool.get("parameters")));
            if let Some(namespace) = namespace {
                kinds.insert(name.to_owned(), ToolKind::Of(namespace.to_owned()));
            }
        }
        Some("custom") => {
            let mut argument = Map::new();
            argument.insert("type".to_owned(), "string".into());
            // a grammar of the tool is said to the model; it is not forced
            if let Some(definition) = tool.pointer("/format/definition").and_then(Value::as_str) {
                argument.insert("description".to_owned(), format!("A text of this grammar:\n{definition}").into());
            }
            let parameters = json!({"type": "object", "properties": {FREE_TEXT: argument}, "required": [FREE_TEXT]});
            tools.push(function(tool.get("name"), tool.get("description"), Some(&parameters)));
            kinds.insert(name.to_owned(), ToolKind::Custom);
        }
        Some("namespace") => {
            for inner in tool["tools"].as_array().into_iter().flatten() {
                offer(inner, Some(name), tools, kinds);
            }
        }
        kind => tracing::warn!("a tool of type {:?} cannot be called here: it is left out", kind.unwrap_or("none")),
    }
}

/// One item of the input. Calls and thoughts belong to the message of an assistant before them, if there is one. What a
/// provider's own tools did, and whatever else stands in a history, is named in the text of the assistant.
fn convert(item: &Value, at: &str, is_last: bool, messages: &mut Vec<Message>) -> Result<(), ApiError> {
    let field = |key: &str| item.get(key).and_then(Value::as_str).unwrap_or_default();
    let text = |key: &str| content_text(item.get(key).unwrap_or(&Value::Null), "", Unreadable::Named, at);
    // results of a local shell have no other
    let id = if field("call_id").is_empty() { field("id") } else { field("call_id") };
    let mut call = |name: &str, arguments: Value| {
        let function = json!({"name": name, "arguments": arguments});
        let call = json!({"id": id, "type": "function", "function": function});
        assistant(messages).tool_calls.get_or_insert_default().push(call);
    };
    match item.get("type").and_then(Value::as_str) {
        None | Some("message") => {
            let role = field("role");
            let unreadable = if is_last && role == "user" { Unreadable::Refused } else { Unreadable::Named };
            let content = item.get("content").unwrap_or(&Value::Null);
            add_text(messages, role, content_text(content, "", unreadable, at)?);
        }
        Some("function_call") => call(field("name"), field("arguments").into()),
        Some("custom_tool_call") => call(field("name"), json!({FREE_TEXT: field("input")})),
        Some("local_shell_call") => call("local_shell", item.get("action").cloned().unwrap_or_default()),
        Some("mcp_call") => {
            call(field("name"), field("arguments").into());
            add_result(messages, field("id"), text("output")?);
        }
        Some(kind) if kind.ends_with("_call_output") => add_result(messages, id, text("output")?),
        Some("reasoning") => {
            let thoughts = [text("content")?, text("summary")?].into_iter().find(|text| !text.is_empty());
            // encrypted ones are another provider's
            if let Some(thoughts) = thoughts {
                let message =
                    Message { role: "assistant".into(), reasoning_content: Some(thoughts), ..Message::default() };
                messages.push(message);
            }
        }
        // it stands in the history that the caller sends anyway
        Some("item_reference") => {}
        Some(kind) => {
            let what = item.get("action").or_else(|| item.get("summary")).or_else(|| item.get("content"));
            let what = what.map(|what| format!(": {what}")).unwrap_or_default();
            add_text(messages, "assistant", format!("[{kind}{what}]"));
        }
    }
    Ok(())
}

fn add_result(messages: &mut Vec<Message>, id: &str, text: String) {
    let mut message = Message::new("tool", text);
    message.other.insert("tool_call_id".to_owned(), id.into());
    messages.push(message);
}

/// Adds a message; an assistant's belongs to thoughts that stand before it.
fn add_text(messages: &mut Vec<Message>, role: &str, text: String) {
    match messages.last_mut() {
        Some(last)
            if role == "assistant"
                && last.role == role
                && last.content == Content::None
                && last.tool_calls.is_none() =>
        {
            last.content = Content::Text(text);
        }
        _ => messages.push(Message::new(role, text)),
    }
}

/// The assistant's message at the end, made if there is none.
fn assistant(messages: &mut Vec<Message>) -> &mut Message {
    if messages.last().is_none_or(|last| last.role != "assistant") {
        messages.push(Message { role: "assistant".into(), ..Message::default() });
    }
    let last = messages.len() - 1;
    &mut messages[last]
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn of(body: Value) -> Asked {
        asked(&mut BodyKeys::new(body).unwrap()).unwrap_or_else(|_| panic!("refused"))
    }

    fn messages(items: Value) -> Vec<Message> {
        let Prompt::Chat(messages) = of(json!({"input": items})).request.prompt else { panic!() };
        messages
    }

    #[test]
    fn tools_of_all_kinds_are_offered_or_left_out() {
        let asked = of(json!({"input": "hi", "tools": [
            {"type": "function", "name": "exec_command", "parameters": {"type": "object"}},
            {"type": "namespace", "name": "agents", "tools": [{"type": "function", "name": "spawn", "parameters": {}}]},
            {"type": "web_search"}, {"type": "local_shell"},
            {"type": "custom", "name": "apply_patch", "description": "edit", "format": {"type": "grammar", "definition": "start: x"}},
        ]}));
        let names: Vec<&str> = asked.request.tools.iter().map(|t| t["function"]["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["exec_command", "spawn", "apply_patch"]);
        assert_eq!(
            (&asked.kinds["spawn"], &asked.kinds["apply_patch"]),
            (&ToolKind::Of("agents".into()), &ToolKind::Custom)
        );
        assert!(asked.request.tools[2].to_string().contains("start: x"));
    }

    #[test]
    fn a_local_shell_of_a_history_is_read() {
        let action = json!({"type": "exec", "command": ["ls", "-l"], "env": {}});
        let found = messages(json!([
            {"role": "user", "content": "q"},
            {"type": "local_shell_call", "id": "lsh_1", "call_id": "c1", "status": "completed", "action": action},
            {"type": "local_shell_call_output", "id": "c1", "output": "{\"stdout\": \"a\"}"},
            {"role": "user", "content": "go on"},
        ]));
        let call = &found[1].tool_calls.as_ref().unwrap()[0];
        assert_eq!(
            (&call["id"], &call["function"]),
            (&json!("c1"), &json!({"name": "local_shell", "arguments": action}))
        );
        assert_eq!((found[2].role.as_str(), &found[2].other["tool_call_id"]), ("tool", &json!("c1")));
        assert_eq!(found[2].content, Content::Text("{\"stdout\": \"a\"}".into()));
    }

    #[test]
    fn items_of_a_history_become_messages() {
        let found = messages(json!([
            {"role": "user", "content": "q"},
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "q"}},
            {"type": "custom_tool_call", "call_id": "c1", "name": "apply_patch", "input": "p"},
            {"type": "custom_tool_call_output", "call_id": "c1", "output": "ok"},
            {"type": "something_new", "content": "x"},
            {"role": "user", "content": [{"type": "input_text", "text": "go on"}]},
        ]));
        let roles: Vec<&str> = found.iter().map(|message| message.role.as_str()).collect();
        assert_eq!(roles, ["user", "assistant", "tool", "assistant", "user"]);
        assert_eq!(found[1].reasoning_content.as_deref(), Some("hm"));
        assert!(
            matches!(&found[1].content, Content::Text(text) if text.contains("web_search_call") && text.contains("\"q\""))
        );
        assert_eq!(found[1].tool_calls.as_ref().unwrap()[0]["function"]["arguments"], json!({"input": "p"}));
        assert_eq!((&found[2].content, &found[2].other["tool_call_id"]), (&Content::Text("ok".into()), &json!("c1")));
        assert!(matches!(&found[3].content, Content::Text(text) if text == "[something_new: \"x\"]"));
    }
}
