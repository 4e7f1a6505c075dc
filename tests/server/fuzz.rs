//! Requests that nobody would write: each is answered, with a status that blames the right side.

use super::*;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// A request of every protocol, with most of the fields it has.
fn seeds() -> Vec<(&'static str, Value)> {
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
    let chat = json!({
        "model": "x", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "42"}],
        "tools": tools(), "tool_choice": "auto", "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
        "stream": true, "stream_options": {"include_usage": true}, "temperature": 0.5, "top_p": 0.9, "seed": 1, "stop": ["x"],
        "logprobs": true, "top_logprobs": 2, "reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": false}, "max_tokens": 3,
    });
    let messages = json!({
        "max_tokens": 3, "system": [{"type": "text", "text": "s"}], "messages": [{"role": "user", "content": "hi"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "42"}]}]}],
        "tools": [{"name": "f", "input_schema": schema}], "tool_choice": {"type": "auto"}, "thinking": {"type": "enabled", "budget_tokens": 9}, "stream": true,
    });
    let responses = json!({
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}, {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": "42"}, {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "t"}]}],
        "instructions": "s", "tools": [{"type": "function", "name": "f", "parameters": schema}], "max_output_tokens": 3, "stream": true,
    });
    vec![
        ("/v1/chat/completions", chat),
        ("/v1/messages", messages.clone()),
        ("/v1/messages/count_tokens", messages),
        ("/v1/responses", responses),
        ("/v1/completions", json!({"prompt": "Once", "max_tokens": 3, "stop": "x", "stream": false})),
        (
            "/v1/completions",
            json!({"prompt": ["Once", [1, 2]], "max_tokens": 3, "n": 2, "echo": true, "logprobs": 2, "stream": true}),
        ),
        (
            "/infill",
            json!({"input_prefix": "a", "input_suffix": "b", "input_extra": [{"filename": "f", "text": "t"}], "n_predict": 3}),
        ),
        (
            "/completion",
            json!({"prompt": ["Once", 1], "n_predict": 3, "n_probs": 2, "return_tokens": true, "stream": true}),
        ),
        ("/detokenize", json!({"tokens": [1, 2, 3]})),
    ]
}

/// Something that may stand anywhere in JSON.
fn odd() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop::num::f64::NORMAL.prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        prop::sample::select(vec![
            "<think>",
            "</think>",
            "<tool_call>",
            "<|im_end|>",
            "\u{0}",
            "{{",
            "[[\"",
            "required"
        ])
        .prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!([[[[1]]]])),
        Just(json!({"type": "object", "$ref": "#"})),
        Just(json!({"type": "string", "pattern": "(a*)*b{1000}"})),
    ]
}

/// How many values a JSON text has, itself among them.
fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(entries) => entries.values().map(count).sum(),
        _ => 0,
    }
}

/// Puts `new` in the place of the value number `index`.
fn replace(value: &mut Value, index: &mut usize, new: &Value) {
    if *index == 0 {
        *value = new.clone();
    }
    *index = index.wrapping_sub(1);
    let inner: Vec<&mut Value> = match value {
        Value::Array(items) => items.iter_mut().collect(),
        Value::Object(entries) => entries.values_mut().collect(),
        _ => Vec::new(),
    };
    // once replaced, the number has wrapped, and is not reached again
    inner.into_iter().for_each(|value| replace(value, index, new));
}

#[test]
fn mutated_requests_are_answered() {
    let server = Server::start(&["-c", "512"]);
    let seeds = seeds();
    let changes = prop::collection::vec((any::<prop::sample::Index>(), odd()), 1..4);
    let mut runner = TestRunner::new(Config { cases: 200, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(
        &(0..seeds.len(), changes, any::<prop::sample::Index>(), prop::bool::weighted(0.1)),
        |(seed, changes, cut, is_cut)| {
            let (path, mut body) = seeds[seed].clone();
            for (at, new) in changes {
                let mut index = at.index(count(&body));
                replace(&mut body, &mut index, &new);
            }
            // an answer must not take for ever
            if let Some(body) = body.as_object_mut() {
                for key in ["max_tokens", "max_completion_tokens", "max_output_tokens"] {
                    if body.get(key).and_then(Value::as_u64).is_some_and(|most| most > 20) || !body.contains_key(key) {
                        body.insert(key.to_owned(), 5.into());
                    }
                }
            }
            let mut bytes = body.to_string().into_bytes();
            if is_cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            let answer = server.request("POST", path, &[], &bytes);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            prop_assert!(
                answer.status == 200 || (answer.status == 400 && answer.json()["error"]["message"].is_string()),
                "{}: {:?}",
                text,
                answer
            );
            if answer.header("content-type") == Some("text/event-stream") {
                prop_assert!(!answer.events().is_empty(), "{}", text);
            }
            Ok(())
        },
    );
    outcome.unwrap();
    assert_eq!(server.ask("/v1/chat/completions", &peru())["choices"][0]["message"]["content"], "Lima");
}
