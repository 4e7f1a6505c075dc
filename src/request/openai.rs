//! A request from the body of OpenAI's `/v1/chat/completions`.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::fields::{Sampling, json_schema, thinks};
use super::{Prompt, Request, RequestError, ToolChoice};
use crate::text::Message;

/// Most `top_logprobs`, as in OpenAI's own.
const MOST_PROBABILITIES: usize = 20;

/// The fields that say what is asked; those about the response are the server's.
#[derive(Deserialize)]
struct Body {
    messages: Vec<Message>,
    #[serde(flatten)]
    sampling: Sampling,
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    response_format: Option<Value>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    /// Ours, as others have it too: most tokens of thoughts.
    thinking_budget: Option<u64>,
    logprobs: Option<bool>,
    top_logprobs: Option<usize>,
    reasoning_effort: Option<String>,
    chat_template_kwargs: Option<Map<String, Value>>,
    n: Option<u64>,
    // what follows means something that is not done here
    logit_bias: Option<Map<String, Value>>,
    functions: Option<Value>,
    function_call: Option<Value>,
    audio: Option<Value>,
    modalities: Option<Vec<String>>,
    web_search_options: Option<Value>,
}

impl Request {
    /// What the body of OpenAI's `/v1/chat/completions` asks for. Fields that are not known are passed over.
    ///
    /// # Errors
    /// Fields of the wrong type, and those that mean what is not done here.
    pub fn from_openai_chat(body: Value) -> Result<Self, RequestError> {
        let body: Body = serde_json::from_value(body).map_err(|e| RequestError::invalid(e.to_string()))?;
        body.request()
    }
}

impl Body {
    fn request(self) -> Result<Request, RequestError> {
        let unsupported = |field: &str, what: &str| Err(RequestError::unsupported(field, what));
        if self.n.is_some_and(|n| n != 1) {
            return unsupported("n", "one answer is given per request");
        }
        if self.logit_bias.is_some_and(|bias| !bias.is_empty()) {
            return unsupported("logit_bias", "tokens cannot be weighted");
        }
        for (field, is_there) in [
            ("functions", self.functions.is_some_and(|value| !value.is_null())),
            ("function_call", self.function_call.is_some_and(|value| !value.is_null())),
        ] {
            if is_there {
                return unsupported(field, "functions are called through tools and tool_choice");
            }
        }
        let is_audio = self.modalities.is_some_and(|kinds| kinds.iter().any(|kind| kind != "text"));
        if is_audio || self.audio.is_some_and(|value| !value.is_null()) {
            return unsupported("modalities", "this model writes text");
        }
        if self.web_search_options.is_some_and(|value| !value.is_null()) {
            return unsupported("web_search_options", "there is no web search here");
        }
        let probabilities = match (self.logprobs.unwrap_or(false), self.top_logprobs) {
            (_, Some(top)) if top > MOST_PROBABILITIES => {
                return unsupported("top_logprobs", "at most 20 tokens' probabilities are told");
            }
            (false, Some(1..)) => return unsupported("top_logprobs", "top_logprobs needs logprobs: true"),
            (wanted, top) => wanted.then_some(top.unwrap_or(0)),
        };
        let mut template = Map::new();
        if let Some(thinks) = thinks(self.reasoning_effort.as_deref())? {
            template.insert("enable_thinking".to_owned(), thinks.into());
            template.insert("reasoning_effort".to_owned(), self.reasoning_effort.into());
        }
        template.extend(self.chat_template_kwargs.unwrap_or_default());
        let mut request = Request {
            prompt: Prompt::Chat(self.messages),
            tools: self.tools.unwrap_or_default(),
            tool_choice: ToolChoice::from_openai(self.tool_choice.as_ref())?,
            one_call: self.parallel_tool_calls == Some(false),
            json_schema: json_schema(self.response_format.as_ref(), "response_format")?,
            max_tokens: self.max_completion_tokens.or(self.max_tokens).map(whole),
            thinking_budget: self.thinking_budget.map(whole),
            probabilities,
            template,
            ..Request::default()
        };
        self.sampling.fill(&mut request)?;
        Ok(request)
    }
}

/// A number of tokens: more than fits is as good as the most that does.
pub(crate) fn whole(tokens: u64) -> usize {
    usize::try_from(tokens).unwrap_or(usize::MAX)
}
