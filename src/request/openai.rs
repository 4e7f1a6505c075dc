//! A request from the body of OpenAI's `/v1/chat/completions`.

use serde_json::Value;

use super::fields::{json_schema, sampling, template_keys, thinking_budget};
use super::keys::BodyKeys;
use super::{Prompt, Request, RequestError, ToolChoice};
use crate::text::Message;

/// Most `top_logprobs`, as in OpenAI's own.
pub(crate) const MOST_PROBABILITIES: usize = 20;

impl Request {
    /// What the body of OpenAI's `/v1/chat/completions` asks for. Fields that are not known are passed over.
    ///
    /// # Errors
    /// Fields of the wrong type, and those that mean what is not done here.
    pub fn from_openai_chat(body: Value) -> Result<Self, RequestError> {
        Request::from_chat_keys(&mut BodyKeys::new(body)?)
    }

    /// The same; keys that nobody knows are left.
    pub(crate) fn from_chat_keys(keys: &mut BodyKeys) -> Result<Self, RequestError> {
        let unsupported = |field: &str, what: &str| Err(RequestError::unsupported(field, what));
        let missing = || RequestError::invalid("messages: there are none").at("messages");
        let messages: Vec<Message> = keys.get("messages")?.ok_or_else(missing)?;
        let modalities: Option<Vec<String>> = keys.get("modalities")?;
        if modalities.is_some_and(|kinds| kinds.iter().any(|kind| kind != "text")) {
            return unsupported("modalities", "this model writes text");
        }
        let (wanted, top) = (keys.get::<bool>("logprobs")?.unwrap_or(false), keys.count(&["top_logprobs"])?);
        let probabilities = match (wanted, top) {
            (_, Some(top)) if top > MOST_PROBABILITIES => {
                return unsupported("top_logprobs", "at most 20 tokens' probabilities are told");
            }
            (false, Some(1..)) => return unsupported("top_logprobs", "top_logprobs needs logprobs: true"),
            (wanted, top) => wanted.then_some(top.unwrap_or(0)),
        };
        let mut template = template_keys(keys)?;
        let thinking_budget = thinking_budget(keys, &mut template)?;
        let mut request = Request {
            new_turn: is_new_turn(keys, &messages)?,
            prompt: Prompt::Chat(messages),
            tools: keys.get("tools")?.unwrap_or_default(),
            tool_choice: ToolChoice::from_openai(keys.value("tool_choice").as_ref())?,
            one_call: keys.get("parallel_tool_calls")? == Some(false),
            json_schema: schema_of(keys)?,
            max_tokens: keys.count(&["max_completion_tokens", "max_tokens", "n_predict"])?,
            thinking_budget,
            probabilities,
            template,
            ..Request::default()
        };
        sampling(keys, &mut request)?;
        Ok(request)
    }
}

/// The schema of the answer, by any of its names.
pub(crate) fn schema_of(keys: &mut BodyKeys) -> Result<Option<Value>, RequestError> {
    let format = json_schema(keys.value("response_format").as_ref(), "response_format")?;
    // vLLM's and llama.cpp's names for the same
    let guided = keys.any_value(&["guided_json", "json_schema"]);
    let structured = keys.value("structured_outputs");
    let named = match (guided, structured) {
        (Some((_, Value::String(text))), _) => {
            let schema = serde_json::from_str(&text);
            Some(schema.map_err(|e| RequestError::invalid(format!("the schema is not JSON: {e}")).at("guided_json"))?)
        }
        (Some((_, schema)), _) => Some(schema),
        (None, Some(structured)) => match structured.get("json") {
            Some(schema) => Some(schema.clone()),
            None => return Err(RequestError::unsupported("structured_outputs", "answers follow JSON schemas")),
        },
        (None, None) => None,
    };
    Ok(format.or(named))
}

/// Whether an assistant's message at the end is a turn of its own, and not the beginning of the answer.
fn is_new_turn(keys: &mut BodyKeys, messages: &[Message]) -> Result<bool, RequestError> {
    let ends_with_assistant = messages.last().is_some_and(|message| message.role == "assistant");
    let (continues, begins) = (keys.get("continue_final_message")?, keys.get("add_generation_prompt")?);
    if continues == Some(true) && !ends_with_assistant {
        let message = "continue_final_message: expected an assistant's message at the end, found another";
        return Err(RequestError::invalid(message).at("continue_final_message"));
    }
    Ok(continues == Some(false) || (continues.is_none() && begins == Some(true)))
}
