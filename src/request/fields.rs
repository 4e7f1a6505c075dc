//! Fields of requests that several protocols have in common.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::keys::{BodyKeys, mismatch, typed, whole_number};
use super::{Request, RequestError, ToolChoice};
use crate::text::SamplerOptions;

/// Most stop strings: each is looked for in every piece of text.
const MOST_STOPS: usize = 256;

/// Fields that would change the answer and that are not done here; what says nothing, such as 0, `false` or an empty
/// list, is passed over.
const NOT_DONE: [(&str, &str); 32] = [
    ("grammar", "grammars of llama.cpp are not read; a JSON schema is (response_format)"),
    ("guided_regex", "answers follow JSON schemas (response_format), not patterns"),
    ("guided_choice", "answers follow JSON schemas (response_format): an enum is one"),
    ("guided_grammar", "answers follow JSON schemas (response_format), not grammars"),
    ("regex", "answers follow JSON schemas (response_format), not patterns"),
    ("ebnf", "answers follow JSON schemas (response_format), not grammars"),
    ("min_tokens", "an answer ends where the model ends it"),
    ("ignore_eos", "an answer ends where the model ends it"),
    ("stop_token_ids", "answers end at texts (stop)"),
    ("bad_words", "tokens are weighted by their ids (logit_bias)"),
    ("allowed_token_ids", "tokens are weighted by their ids (logit_bias)"),
    ("best_of", "one answer is made for each that is wanted (n)"),
    ("use_beam_search", "answers are sampled"),
    ("length_penalty", "answers are sampled, not searched for"),
    ("mirostat", "the samplers are temperature, top_k, top_p, min_p and penalties"),
    ("dry_multiplier", "the samplers are temperature, top_k, top_p, min_p and penalties"),
    ("xtc_probability", "the samplers are temperature, top_k, top_p, min_p and penalties"),
    ("top_a", "the samplers are temperature, top_k, top_p, min_p and penalties"),
    ("tfs_z", "the samplers are temperature, top_k, top_p, min_p and penalties"),
    ("dynatemp_range", "the samplers are temperature, top_k, top_p, min_p and penalties"),
    ("functions", "functions are called through tools and tool_choice"),
    ("function_call", "functions are called through tools and tool_choice"),
    ("audio", "this model writes text"),
    ("web_search_options", "there is no web search here"),
    ("mcp_servers", "there are no servers of tools here"),
    ("container", "there are no containers here"),
    ("background", "answers are given while the caller waits"),
    ("conversation", "conversations are kept by their last response (previous_response_id)"),
    ("lora", "there are no adapters here"),
    ("control_vectors", "there are no control vectors here"),
    ("prompt_embeds", "prompts are texts or token ids"),
    ("prompt_template", "prompts are texts or token ids"),
];

/// `"a"` or `["a", "b"]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// How tokens are chosen, and where text stops.
///
/// # Errors
/// Values of another type, and what would change the answer and is not done.
pub(crate) fn sampling(keys: &mut BodyKeys, request: &mut Request) -> Result<(), RequestError> {
    let temperature: Option<f32> = keys.get("temperature")?;
    request.sampling = SamplerOptions {
        // not `> 0`: the sampler refuses what is no temperature
        do_sample: temperature.map(|t| t != 0.0),
        temperature,
        // 0 and less: all
        top_k: keys
            .value("top_k")
            .map(|value| whole_number(&value).ok_or_else(|| mismatch("top_k", "a whole number", &value)))
            .transpose()?
            .map(|k| u32::try_from(k.max(0)).unwrap_or(u32::MAX)),
        top_p: keys.get("top_p")?,
        min_p: keys.get("min_p")?,
        presence_penalty: keys.get("presence_penalty")?,
        frequency_penalty: keys.get("frequency_penalty")?,
        repetition_penalty: keys.any(&["repetition_penalty", "repeat_penalty"])?,
    };
    request.seed = match keys.value("seed") {
        None => None,
        Some(value) => match whole_number(&value) {
            // -1 takes one that was not used before, as everywhere
            Some(-1) => None,
            Some(number) => Some(number as u64),
            None => return Err(mismatch("seed", "a whole number", &value)),
        },
    };
    request.stop = match keys.any(&["stop", "stop_sequences"])? {
        None => Vec::new(),
        Some(OneOrMany::One(stop)) => vec![stop],
        Some(OneOrMany::Many(stops)) => stops,
    };
    request.stop.retain(|stop| !stop.is_empty());
    if request.stop.len() > MOST_STOPS {
        let message = format!("at most {MOST_STOPS} stop strings are possible, found {}", request.stop.len());
        return Err(RequestError::invalid(message).at("stop"));
    }
    request.logit_bias = logit_bias(keys)?;
    for (field, why) in NOT_DONE {
        let says = match field {
            // one answer for each is what is done, and every conversation is its own
            "best_of" => keys.value(field).is_some_and(|n| n != 1),
            "length_penalty" => keys.value(field).is_some_and(|n| n != 1),
            _ => keys.says(field),
        };
        if says {
            return Err(RequestError::unsupported(field, &format!("{field}: {why}")));
        }
    }
    Ok(())
}

/// `{"1234": -100}`, or llama.cpp's `[[1234, -100]]`, in which `false` is never.
fn logit_bias(keys: &mut BodyKeys) -> Result<Vec<(u32, f32)>, RequestError> {
    let wrong = |found: &Value| mismatch("logit_bias", "token ids with a bias of -100 to 100", found);
    let pair = |id: Option<u32>, bias: &Value| match (id, bias.as_f64(), bias) {
        (Some(id), Some(bias), _) => Ok((id, bias.clamp(-100.0, 100.0) as f32)),
        (Some(id), None, Value::Bool(false)) => Ok((id, f32::NEG_INFINITY)),
        _ => Err(wrong(bias)),
    };
    match keys.value("logit_bias") {
        None => Ok(Vec::new()),
        Some(Value::Object(biases)) => biases.iter().map(|(id, bias)| pair(id.parse().ok(), bias)).collect(),
        Some(Value::Array(biases)) => {
            biases.iter().map(|item| pair(item[0].as_u64().and_then(|id| u32::try_from(id).ok()), &item[1])).collect()
        }
        Some(other) => Err(wrong(&other)),
    }
}

/// What is for the chat template: whether to think, by any of the names that clients use, and `chat_template_kwargs`.
pub(crate) fn template_keys(keys: &mut BodyKeys) -> Result<Map<String, Value>, RequestError> {
    let mut template = Map::new();
    let effort: Option<String> = match keys.value("reasoning") {
        Some(Value::Object(reasoning)) => match reasoning.get("effort") {
            None | Some(Value::Null) => {
                // OpenRouter's way to switch it
                if let Some(Value::Bool(enabled)) = reasoning.get("enabled") {
                    template.insert("enable_thinking".to_owned(), (*enabled).into());
                }
                None
            }
            Some(effort) => Some(typed("reasoning.effort", effort.clone())?),
        },
        Some(other) => return Err(mismatch("reasoning", "an object", &other)),
        None => None,
    };
    let effort = keys.get("reasoning_effort")?.or(effort);
    if let Some(thinks) = thinks(effort.as_deref())? {
        template.insert("enable_thinking".to_owned(), thinks.into());
        template.insert("reasoning_effort".to_owned(), effort.into());
    }
    // Anthropic's and GLM's; a budget of tokens stands in it as well
    let mut budget = None;
    if let Some(thinking) = keys.value("thinking") {
        let kind = thinking.get("type").and_then(Value::as_str);
        let thinks = match (kind, thinking.as_bool()) {
            (Some("enabled" | "adaptive" | "auto"), _) => true,
            (Some("disabled"), _) => false,
            (_, Some(thinks)) => thinks,
            _ => return Err(mismatch("thinking", "{\"type\": \"enabled\"} or {\"type\": \"disabled\"}", &thinking)),
        };
        template.insert("enable_thinking".to_owned(), thinks.into());
        budget = thinking.get("budget_tokens").cloned();
    }
    // ollama's, which may be an effort as well
    match keys.value("think") {
        None => {}
        Some(Value::Bool(thinks)) => drop(template.insert("enable_thinking".to_owned(), thinks.into())),
        Some(Value::String(effort)) => {
            if let Some(thinks) = thinks(Some(&effort))? {
                template.insert("enable_thinking".to_owned(), thinks.into());
            }
        }
        Some(other) => return Err(mismatch("think", "true or false", &other)),
    }
    if let Some(thinks) = keys.get::<bool>("enable_thinking")? {
        template.insert("enable_thinking".to_owned(), thinks.into());
    }
    template.extend(keys.get::<Map<String, Value>>("chat_template_kwargs")?.unwrap_or_default());
    if let Some(budget) = budget {
        template.insert(BUDGET.to_owned(), budget);
    }
    Ok(template)
}

/// Where [`template_keys`] leaves the budget that it found.
const BUDGET: &str = "budget_tokens";

/// The most tokens of thoughts, by any of its names; what [`template_keys`] found is taken from there.
pub(crate) fn thinking_budget(
    keys: &mut BodyKeys,
    template: &mut Map<String, Value>,
) -> Result<Option<usize>, RequestError> {
    let named = keys.count(&["thinking_budget", "thinking_budget_tokens", "reasoning_budget"])?;
    let found = template.shift_remove(BUDGET).as_ref().and_then(whole_number);
    Ok(named.or(found.and_then(|tokens| usize::try_from(tokens).ok())))
}

/// Whether thinking is asked for by an effort: `none` and `minimal` ask for none.
fn thinks(effort: Option<&str>) -> Result<Option<bool>, RequestError> {
    match effort {
        None => Ok(None),
        Some("none" | "minimal") => Ok(Some(false)),
        Some("low" | "medium" | "high" | "xhigh" | "max") => Ok(Some(true)),
        Some(_) => Err(RequestError::unsupported(
            "reasoning_effort",
            "the effort is none, minimal, low, medium, high, xhigh or max",
        )),
    }
}

impl ToolChoice {
    /// OpenAI's form, in which a named function is at `function.name` (chat) or at `name` (responses).
    pub(crate) fn from_openai(value: Option<&Value>) -> Result<Self, RequestError> {
        let Some(value) = value else { return Ok(Self::Auto) };
        let name = value.pointer("/function/name").or_else(|| value.get("name")).and_then(Value::as_str);
        match (value.as_str(), value.get("type").and_then(Value::as_str), name) {
            (Some("auto"), ..) => Ok(Self::Auto),
            (Some("none"), ..) => Ok(Self::None),
            (Some("required" | "any"), ..) => Ok(Self::Required),
            (None, Some("function" | "custom"), Some(name)) => Ok(Self::Named(name.to_owned())),
            (None, Some("allowed_tools"), _) => match value.pointer("/allowed_tools/mode").or(value.get("mode")) {
                Some(Value::String(mode)) if mode == "required" => Ok(Self::Required),
                _ => Ok(Self::Auto),
            },
            _ if value.is_null() => Ok(Self::Auto),
            _ => {
                Err(RequestError::unsupported("tool_choice", "tool_choice is auto, none, required or a named function"))
            }
        }
    }
}

/// The schema that a `response_format` (chat) or `text.format` (responses) asks for; `schema` finds a schema in it.
pub(crate) fn json_schema(format: Option<&Value>, parameter: &'static str) -> Result<Option<Value>, RequestError> {
    let Some(format) = format.filter(|format| !format.is_null()) else { return Ok(None) };
    match format.get("type").and_then(Value::as_str) {
        Some("text") => Ok(None),
        // some clients send a schema with it, as llama.cpp takes it
        Some("json_object") => {
            let schema = format.get("schema").filter(|schema| schema.is_object()).cloned();
            Ok(Some(schema.unwrap_or_else(|| serde_json::json!({"type": "object"}))))
        }
        Some("json_schema") => {
            let schema = format.pointer("/json_schema/schema").or_else(|| format.get("schema"));
            let schema = schema.filter(|schema| schema.is_object());
            schema.cloned().map(Some).ok_or_else(|| RequestError::invalid("json_schema needs a schema").at(parameter))
        }
        _ => Err(RequestError::unsupported(parameter, "the type is text, json_object or json_schema")),
    }
}

/// Tools must be functions with names that can stand in a prompt.
pub(super) fn check_tools(tools: &[Value]) -> Result<(), RequestError> {
    for (i, tool) in tools.iter().enumerate() {
        let name = tool.pointer("/function/name").and_then(Value::as_str).unwrap_or_default();
        let is_name = |c: char| c.is_ascii_alphanumeric() || "_-.:/".contains(c);
        if tool.get("type").and_then(Value::as_str) != Some("function") {
            return Err(RequestError::unsupported(&format!("tools[{i}].type"), "tools are functions"));
        }
        if name.is_empty() || name.len() > 128 || !name.chars().all(is_name) {
            let message = "a function's name has letters, digits, and _ - . : /, 128 at most";
            return Err(RequestError::invalid(message).at(format!("tools[{i}].function.name")));
        }
    }
    Ok(())
}
