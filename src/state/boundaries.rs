//! Where the next turn of a conversation may part from this one.

use serde_json::{Map, Value};

use crate::text::{ChatTemplate, Message, Tokenizer};

/// Two texts that begin differently: what prompts share that differ in a user's message alone is where that begins.
const FILLERS: [&str; 2] = ["a", "Z"];

/// Positions of `tokens`, a conversation as `template` renders it with an answer to come, that later prompts are likely
/// to share the tokens before:
///
/// - after the system prompt and the tools, which other conversations have too;
/// - before the last message of the user, which may be edited and asked again;
/// - after the last message, before the beginning of the answer: templates that drop thoughts from earlier turns render
///   the answer differently next time.
///
/// `tools` and `extra` are as given to [`ChatTemplate::render`]. Every prefix of `tokens` is found by comparing token
/// ids, as tokens may reach over the end of a message. A rendering that the template refuses gives no position.
pub(crate) fn chat_boundaries(
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
    messages: &[Message],
    tools: Option<&Value>,
    extra: &Map<String, Value>,
    tokens: &[u32],
) -> Vec<usize> {
    // tokens of the prompt that a rendering of `messages` shares
    let shared = |messages: &[Message], answer: bool| -> Option<usize> {
        let text = template.render(messages, tools, answer, extra).ok()?;
        let other = tokenizer.encode_marked(&text).ok()?;
        Some(common_prefix(tokens, &other))
    };
    let before_user = |history: &[Message]| -> Option<usize> {
        let of = |filler: &str| shared(&[history, &[Message::new("user", filler)]].concat(), true);
        FILLERS.into_iter().map(of).try_fold(usize::MAX, |least, found| Some(least.min(found?)))
    };
    let system = messages.iter().take_while(|message| message.role == "system").count();
    let last_user = messages.iter().rposition(|message| message.role == "user");
    let mut found: Vec<usize> = [
        before_user(&messages[..system]),
        last_user.and_then(|at| before_user(&messages[..at])),
        shared(messages, false),
    ]
    .into_iter()
    .flatten()
    .filter(|at| (1..tokens.len()).contains(at))
    .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// How many tokens two lists begin with in common.
pub(crate) fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::path::Path;

    use super::*;
    use crate::model::ModelSource;

    fn text_of_the_embedded_model() -> (ChatTemplate, Tokenizer) {
        let files = ModelSource::embedded().unwrap().text_files;
        let template = ChatTemplate::new(Path::new("template"), &files.chat_template.unwrap()).unwrap();
        (template, Tokenizer::from_json(Path::new("tokenizer"), &files.tokenizer.unwrap()).unwrap())
    }

    /// The text before every boundary.
    fn texts(template: &ChatTemplate, tokenizer: &Tokenizer, messages: &[Message]) -> Vec<String> {
        let none = Map::new();
        let tokens = tokenizer.encode(&template.render(messages, None, true, &none).unwrap()).unwrap();
        let found = chat_boundaries(template, tokenizer, messages, None, &none, &tokens);
        found.into_iter().map(|at| tokenizer.decode(&tokens[..at], false)).collect()
    }

    #[test]
    fn of_a_conversation() {
        let (template, tokenizer) = text_of_the_embedded_model();
        let system = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n";
        let mut messages = vec![Message::new("system", "Be brief."), Message::new("user", "a?")];
        let asked = format!("{system}a?<|im_end|>\n");
        assert_eq!(texts(&template, &tokenizer, &messages), [system, &asked]);
        messages.extend([Message::new("assistant", "Lima"), Message::new("user", "Zagreb?")]);
        let again = format!("{asked}<|im_start|>assistant\n<think>\n\n</think>\n\nLima<|im_end|>\n<|im_start|>user\n");
        assert_eq!(texts(&template, &tokenizer, &messages), [system, &again, &format!("{again}Zagreb?<|im_end|>\n")]);
    }

    #[test]
    fn a_template_that_refuses_gives_none() {
        let (_, tokenizer) = text_of_the_embedded_model();
        let source = "{%- if messages|length < 2 %}{{ raise_exception('no') }}{%- endif %}{{ messages[0].content }} .";
        let template = ChatTemplate::new(Path::new("template"), source).unwrap();
        assert_eq!(texts(&template, &tokenizer, &[Message::new("user", "x"), Message::new("tool", "y")]), [""; 0]);
    }
}
