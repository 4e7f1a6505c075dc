//! Conversations as clients send them, made such that a chat template takes them: templates refuse a second system
//! message, a conversation without a user, or two messages of one role in a row, and some drop them without a word.

use serde_json::Value;

use super::RequestError;
use super::content::{Unreadable, content_text};
use crate::text::{Content, Message};

/// Messages as templates have them: known roles, content that is one text, thoughts in `reasoning_content`.
pub(super) fn plain_messages(messages: Vec<Message>) -> Result<Vec<Message>, RequestError> {
    if messages.is_empty() {
        return Err(RequestError::invalid("there are no messages").at("messages"));
    }
    let last = messages.len() - 1;
    messages.into_iter().enumerate().map(|(i, message)| plain(message, i, i == last)).collect()
}

fn plain(mut message: Message, index: usize, is_last: bool) -> Result<Message, RequestError> {
    message.role = match message.role.as_str() {
        "developer" => "system".to_owned(),
        // as it was before there were tools
        "function" => "tool".to_owned(),
        "system" | "user" | "assistant" | "tool" => message.role,
        other => {
            let text = format!("the role {other:?} is not system, developer, user, assistant or tool");
            return Err(RequestError::invalid(text).at(format!("messages[{index}].role")));
        }
    };
    let unreadable = if is_last && message.role == "user" { Unreadable::Refused } else { Unreadable::Named };
    message.content = Content::Text(match message.content {
        Content::None => String::new(),
        Content::Text(text) => text,
        Content::Parts(parts) => {
            content_text(&Value::Array(parts), "", unreadable, &format!("messages[{index}].content"))?
        }
    });
    if let Some(Value::String(thoughts)) = message.other.shift_remove("reasoning") {
        message.reasoning_content.get_or_insert(thoughts);
    }
    Ok(message)
}

/// Makes a conversation another one.
type Way = fn(&[Message]) -> Vec<Message>;

/// Ways to arrange a conversation, each with less of what templates refuse than the one before:
///
/// 1. system messages at its beginning are one;
/// 2. those further behind are messages of the user where they stand, so that the tokens before them stay the same;
///    before the first answer they belong to the first;
/// 3. there is a user, who says nothing;
/// 4. neighbours of one role are one message;
/// 5. there is no system message: the first user says it.
pub(super) fn arrangements(messages: &[Message]) -> impl Iterator<Item = Vec<Message>> {
    let ways: [Way; 5] = [with_one_beginning, with_first_system_only, with_user, alternating, without_system];
    let (mut ways, mut last) = (ways.into_iter(), None);
    // most conversations need the first alone; what a way does not change was tried before it
    std::iter::from_fn(move || {
        loop {
            let now = ways.next()?(last.as_deref().unwrap_or(messages));
            if last.as_ref() != Some(&now) {
                last = Some(now.clone());
                return Some(now);
            }
        }
    })
}

fn with_one_beginning(messages: &[Message]) -> Vec<Message> {
    joined(messages, |a, b| a.role == "system" && b.role == "system", true)
}

fn alternating(messages: &[Message]) -> Vec<Message> {
    joined(messages, |a, b| a.role == b.role && a.role != "tool" && a.tool_calls.is_none(), false)
}

/// Whether every system message of a conversation stands in what a template made of it.
pub(super) fn shows_system(rendered: &str, messages: &[Message]) -> bool {
    let texts = messages.iter().filter(|message| message.role == "system").map(text_of);
    texts.map(str::trim).all(|text| rendered.contains(text))
}

fn text_of(message: &Message) -> &str {
    match &message.content {
        Content::Text(text) => text,
        Content::None | Content::Parts(_) => "",
    }
}

/// Puts neighbours together, with an empty line between; at the beginning only, or everywhere.
fn joined(messages: &[Message], belong: impl Fn(&Message, &Message) -> bool, at_begin: bool) -> Vec<Message> {
    let mut made: Vec<Message> = Vec::new();
    for message in messages {
        let may = !at_begin || made.len() == 1;
        match made.last_mut() {
            Some(last) if may && belong(last, message) => append(last, message),
            _ => made.push(message.clone()),
        }
    }
    made
}

fn append(message: &mut Message, more: &Message) {
    let texts: Vec<&str> = [text_of(message), text_of(more)].into_iter().filter(|text| !text.is_empty()).collect();
    message.content = Content::Text(texts.join("\n\n"));
    if message.tool_calls.is_none() {
        message.tool_calls.clone_from(&more.tool_calls);
    }
    if message.reasoning_content.is_none() {
        message.reasoning_content.clone_from(&more.reasoning_content);
    }
}

fn with_first_system_only(messages: &[Message]) -> Vec<Message> {
    let first_answer = messages.iter().position(|m| m.role == "assistant").unwrap_or(messages.len());
    let mut made: Vec<Message> = Vec::new();
    for (i, message) in messages.iter().enumerate() {
        let is_late = message.role == "system" && i > 0;
        match is_late {
            false => made.push(message.clone()),
            true if i < first_answer => match made.first_mut() {
                Some(first) if first.role == "system" => append(first, message),
                _ => made.insert(0, message.clone()),
            },
            true => made.push(Message { role: "user".to_owned(), ..message.clone() }),
        }
    }
    made
}

fn with_user(messages: &[Message]) -> Vec<Message> {
    let mut made = messages.to_vec();
    if !made.iter().any(|message| message.role == "user") {
        let at = made.iter().take_while(|message| message.role == "system").count();
        made.insert(at, Message::new("user", ""));
    }
    made
}

fn without_system(messages: &[Message]) -> Vec<Message> {
    let mut made = messages.to_vec();
    if made.first().is_some_and(|message| message.role == "system") && made.get(1).is_some_and(|m| m.role == "user") {
        let mut system = made.remove(0);
        append(&mut system, &made[0]);
        made[0].content = system.content;
    }
    made
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn conversation(of: &[(&str, &str)]) -> Vec<Message> {
        of.iter().map(|(role, text)| Message::new(*role, *text)).collect()
    }

    fn short(messages: &[Message]) -> String {
        messages.iter().map(|m| format!("{}:{} ", &m.role[..1], text_of(m).replace("\n\n", "+"))).collect()
    }

    fn ways(of: &[(&str, &str)]) -> Vec<String> {
        arrangements(&conversation(of)).map(|messages| short(&messages)).collect()
    }

    #[test]
    fn each_way_has_less_of_what_is_refused() {
        assert_eq!(ways(&[("user", "hi")]), ["u:hi "]);
        assert_eq!(ways(&[("system", "A"), ("system", "B"), ("user", "hi")]), ["s:A+B u:hi ", "u:A+B+hi "]);
        assert_eq!(
            ways(&[("user", "hi"), ("assistant", "yo"), ("system", "S"), ("user", "go")]),
            ["u:hi a:yo s:S u:go ", "u:hi a:yo u:S u:go ", "u:hi a:yo u:S+go "]
        );
        assert_eq!(ways(&[("system", "A"), ("user", "hi"), ("system", "B")])[1], "s:A+B u:hi ");
        assert_eq!(ways(&[("user", "hi"), ("system", "B")])[1], "s:B u:hi ");
        assert_eq!(ways(&[("system", "A")])[1], "s:A u: ");
        assert_eq!(ways(&[("assistant", "A"), ("tool", "1"), ("tool", "2")])[1], "u: a:A t:1 t:2 ");
    }

    #[test]
    fn what_was_dropped_is_noticed() {
        let messages = conversation(&[("system", " A "), ("user", "x")]);
        assert!(shows_system("..A..", &messages) && !shows_system("..x..", &messages));
    }

    #[test]
    fn roles_and_contents_are_those_of_templates() {
        let parts: Message = serde_json::from_str(
            r#"{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "u"}}]}"#,
        )
        .unwrap();
        let messages = vec![Message::new("developer", "d"), parts.clone(), Message::new("function", "f")];
        assert_eq!(short(&plain_messages(messages).unwrap()), "s:d u:a[image] t:f ");
        // what is asked now cannot be left out
        assert!(plain_messages(vec![parts]).unwrap_err().message.contains("reads text"));
        assert!(plain_messages(vec![Message::new("critic", "x")]).unwrap_err().message.contains("critic"));
        assert!(plain_messages(Vec::new()).is_err());
    }
}
