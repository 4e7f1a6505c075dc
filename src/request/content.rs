//! Contents of messages as texts. The models read text: what is something else gets a short text in its place, so that
//! a history goes on; only what is asked now is refused.

use serde_json::Value;

use super::RequestError;

/// What becomes of a part that is no text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// A short text in its place says what it was.
    Named,
    /// An error: the answer would be about something that the model has not seen.
    Refused,
}

/// A content, which is a text, a list of parts, one part or nothing, as one text. `between` stands between parts.
pub(crate) fn content_text(
    content: &Value,
    between: &str,
    unreadable: Unreadable,
    field: &str,
) -> Result<String, RequestError> {
    match content {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => {
            let texts = parts.iter().map(|part| part_text(part, unreadable, field));
            Ok(texts.collect::<Result<Vec<_>, _>>()?.join(between))
        }
        Value::Object(_) => part_text(content, unreadable, field),
        other => Ok(other.to_string()),
    }
}

/// One part.
fn part_text(part: &Value, unreadable: Unreadable, field: &str) -> Result<String, RequestError> {
    let text = |key: &str| part.get(key).and_then(Value::as_str);
    let inner =
        |key: &str| part.get(key).map_or(Ok(String::new()), |content| content_text(content, "\n", unreadable, field));
    let kind = match part {
        Value::Object(_) => text("type").unwrap_or_default(),
        Value::String(text) => return Ok(text.clone()),
        Value::Null => return Ok(String::new()),
        other => return Ok(other.to_string()),
    };
    let known = match kind {
        "text" | "input_text" | "output_text" | "refusal" | "summary_text" | "reasoning_text" | "" => {
            text("text").or_else(|| text("refusal")).or_else(|| text("content")).map(str::to_owned)
        }
        "thinking" => text("thinking").map(str::to_owned),
        "redacted_thinking" | "encrypted_content" => Some(String::new()),
        "document" => Some(document(part, unreadable, field)?),
        "file" | "input_file" => file(part),
        "search_result" => Some(titled(text("title"), text("source"), &inner("content")?)),
        "web_search_result" => Some(titled(text("title"), text("url"), text("page_age").unwrap_or_default())),
        "tool_reference" => text("tool_name").or_else(|| text("name")).map(|name| format!("[tool: {name}]")),
        "tool_result" | "mcp_tool_result" => Some(inner("content")?),
        // what tools of a provider's own server did
        kind if kind.ends_with("_tool_result") => Some(titled(Some(kind), None, &inner("content")?)),
        kind if kind.ends_with("tool_use") => {
            let input = part.get("input").map(Value::to_string).unwrap_or_default();
            Some(format!("[{}: {input}]", text("name").unwrap_or(kind)))
        }
        _ => None,
    };
    match (known, unreadable) {
        (Some(text), _) => Ok(text),
        (None, Unreadable::Named) => Ok(placeholder(kind)),
        (None, Unreadable::Refused) => {
            let message = format!(
                "this model reads text; a part of type {:?} is not",
                if kind.is_empty() { "none" } else { kind }
            );
            Err(RequestError::unsupported(field, &message))
        }
    }
}

/// `[image]` for what cannot be read.
fn placeholder(kind: &str) -> String {
    let what = ["image", "audio", "video", "document", "file"].into_iter().find(|what| kind.contains(what));
    format!("[{}]", what.unwrap_or(if kind.is_empty() { "unknown content" } else { kind }))
}

/// Anthropic's documents: text in them is read, other media are named.
fn document(part: &Value, unreadable: Unreadable, field: &str) -> Result<String, RequestError> {
    let title = part.get("title").and_then(Value::as_str);
    let source = part.get("source").unwrap_or(&Value::Null);
    let body = match source["type"].as_str() {
        Some("text") => source["data"].as_str().unwrap_or_default().to_owned(),
        Some("content") => content_text(&source["content"], "\n", unreadable, field)?,
        _ if unreadable == Unreadable::Refused => {
            let message = "this model reads text; a document must be plain text";
            return Err(RequestError::unsupported(field, message));
        }
        _ => placeholder("document"),
    };
    let context = part.get("context").and_then(Value::as_str);
    Ok(titled(title, context, &body))
}

/// OpenAI's files: those of plain text are read.
fn file(part: &Value) -> Option<String> {
    let file = part.get("file").unwrap_or(part);
    let name = file.get("filename").and_then(Value::as_str);
    let data = file.get("file_data").and_then(Value::as_str)?;
    // a data URL is not text, unless it says so and is not in base64
    let text = match data.strip_prefix("data:") {
        None => data,
        Some(url) => url.strip_prefix("text/plain,")?,
    };
    Some(titled(name, None, text))
}

fn titled(title: Option<&str>, source: Option<&str>, body: &str) -> String {
    let head: Vec<&str> = [title, source].into_iter().flatten().filter(|text| !text.is_empty()).collect();
    match (head.is_empty(), body.is_empty()) {
        (true, _) => body.to_owned(),
        (false, true) => format!("[{}]", head.join(", ")),
        (false, false) => format!("[{}]\n{body}", head.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use serde_json::json;

    #[test]
    fn parts_become_texts() {
        for (part, expected) in [
            (json!("plain"), "plain"),
            (json!({"type": "text", "text": "a"}), "a"),
            (json!({"type": "refusal", "refusal": "no"}), "no"),
            (json!({"type": "image_url", "image_url": {"url": "data:..."}}), "[image]"),
            (json!({"type": "input_audio", "input_audio": {}}), "[audio]"),
            (json!({"type": "tool_reference", "tool_name": "TaskStop"}), "[tool: TaskStop]"),
            (json!({"type": "document", "source": {"type": "text", "data": "hello"}}), "hello"),
            (json!({"type": "document", "title": "T", "source": {"type": "base64", "data": "..."}}), "[T]\n[document]"),
            (
                json!({"type": "search_result", "source": "s", "title": "t", "content": [{"type": "text", "text": "x"}]}),
                "[t, s]\nx",
            ),
            (
                json!({"type": "server_tool_use", "name": "web_search", "input": {"query": "q"}}),
                "[web_search: {\"query\":\"q\"}]",
            ),
            (
                json!({"type": "web_search_tool_result", "content": [{"type": "web_search_result", "title": "t", "url": "u"}]}),
                "[web_search_tool_result]\n[t, u]",
            ),
            (json!({"type": "something_new"}), "[something_new]"),
            (json!(null), ""),
        ] {
            let list = json!([part]);
            assert_eq!(content_text(&list, "\n", Unreadable::Named, "f").unwrap(), expected, "{part}");
        }
        let image = json!([{"type": "image", "source": {}}]);
        let error = content_text(&image, "", Unreadable::Refused, "messages[0].content").unwrap_err();
        assert_eq!(error.field.as_deref(), Some("messages[0].content"));
        assert!(
            content_text(&json!([{"type": "document", "source": {"type": "url"}}]), "", Unreadable::Refused, "f")
                .is_err()
        );
    }
}
