//! What agents and chat programs send, as reported from the field: none of it ends a session.

use std::fs;
use std::path::Path;

use super::*;

/// Refuses what the templates of Qwen3.5 refuse.
const STRICT: &str = "{%- set seen = namespace(user=false) %}{%- for m in messages %}
{%- if m.role == 'system' and not loop.first %}{{ raise_exception('System message must be at the beginning.') }}{%- endif %}
{%- if m.role == 'user' %}{%- set seen.user = true %}{%- endif %}
{{- '<|im_start|>' + m.role + '\n' + m.content|trim }}
{%- for call in m.tool_calls or [] %}{{- '<call ' + call.function.name + '>' + call.function.arguments|tojson }}{%- endfor %}
{{- '<|im_end|>\n' }}{%- endfor %}
{%- if not seen.user %}{{ raise_exception('No user query found in messages.') }}{%- endif %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}";

/// The small model with this template.
fn with_template(template: &str) -> (tempfile::TempDir, Server) {
    let folder = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/small-moe/snapshot-8bit");
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    let server = Server::start(&["--model", folder.path().to_str().unwrap(), "--model-name", "org/Name"]);
    (folder, server)
}

/// The prompt that messages come to.
fn prompt(server: &Server, messages: Value) -> String {
    server.ask("/apply-template", &json!({"messages": messages}))["prompt"].as_str().unwrap().to_owned()
}

fn message(role: &str, content: impl Into<Value>) -> Value {
    json!({"role": role, "content": content.into()})
}

#[test]
fn every_conversation_has_a_prompt() {
    let (_folder, server) = with_template(STRICT);
    let turn = |role: &str, text: &str| format!("<|im_start|>{role}\n{text}<|im_end|>\n");
    let begun = "<|im_start|>assistant\n";
    let (user, hi) = (turn("user", "hi"), message("user", "hi"));
    for (messages, expected) in [
        (json!([message("system", "A."), message("system", "B."), hi]), turn("system", "A.\n\nB.") + &user),
        (json!([message("developer", "A."), message("system", "B."), hi]), turn("system", "A.\n\nB.") + &user),
        (
            json!([hi, message("assistant", "yo"), message("system", "Be brief."), message("user", "again")]),
            user.clone() + &turn("assistant", "yo") + &turn("user", "Be brief.") + &turn("user", "again"),
        ),
        (json!([message("system", "A."), hi, message("system", "B.")]), turn("system", "A.\n\nB.") + &user),
        (json!([message("system", "Say hi.")]), turn("system", "Say hi.") + &turn("user", "")),
        (json!([message("user", json!([{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]))]), user.clone()),
        (
            json!([
                message("user", json!([{"type": "image_url", "image_url": {"url": "u"}}])),
                message("assistant", "ok"),
                hi
            ]),
            turn("user", "[image]") + &turn("assistant", "ok") + &user,
        ),
    ] {
        assert_eq!(prompt(&server, messages.clone()), expected + begun, "{messages}");
    }
    // arguments that a model wrote wrongly once
    for (arguments, expected) in
        [("{\"x\": ", "{\"arguments\": \"{\\\"x\\\": \"}"), ("null", "{}"), ("[1]", "{\"arguments\": [1]}")]
    {
        let call = json!({"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}});
        let history = json!([hi, {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "invalid"}, message("user", "go on")]);
        assert!(prompt(&server, history).contains(&format!("<call f>{expected}")));
    }
    // what is asked now must be read
    let image = json!({"messages": [message("user", json!([{"type": "image_url", "image_url": {"url": "u"}}]))]});
    assert!(server.post("/v1/chat/completions", &image).body.contains("this model reads text"));
    assert_eq!(server.get("/v1/models/org%2FName").status, 200);
    // an answer that is begun goes on, whatever the template writes around it
    let begun = json!([hi, message("assistant", "The capital is ")]);
    assert!(prompt(&server, begun.clone()).ends_with("<|im_start|>assistant\nThe capital is "));
    let body = json!({"messages": begun, "add_generation_prompt": true});
    let rendered = server.ask("/apply-template", &body)["prompt"].clone();
    assert!(rendered.as_str().unwrap().ends_with("<|im_end|>\n<|im_start|>assistant\n"), "{rendered}");
}

#[test]
fn the_embedded_template_drops_nothing() {
    let server = Server::start(&[]);
    let found = prompt(&server, json!([message("system", "A."), message("system", "B."), message("user", "hi")]));
    assert!(found.contains("A.\n\nB."), "{found}");
    let found = prompt(
        &server,
        json!([message("user", "hi"), message("assistant", "yo"), message("system", "S."), message("user", "x")]),
    );
    assert!(found.contains("S."), "{found}");
    let half = server.request(
        "POST",
        "/v1/chat/completions",
        &[],
        br#"{"messages":[{"role":"user","content":"a\ud83d b"}],"max_tokens":3}"#,
    );
    assert_eq!(half.status, 200, "{half:?}");
}

#[test]
fn special_tokens_that_are_typed_are_text() {
    let server = Server::start(&[]);
    let ask = |text: &str| {
        server.ask("/v1/chat/completions", &json!({"messages": user(text), "max_tokens": 1}))["usage"]["prompt_tokens"]
            .as_u64()
    };
    // one token each, if they were control tokens
    assert!(ask("a<|im_end|><|im_end|><|im_end|>b") > ask("aabbb").map(|n| n + 6));
    // whoever counts tokens may mean them
    assert_eq!(server.ask("/tokenize", &json!({"content": "<|im_end|>"}))["tokens"].as_array().map(Vec::len), Some(1));
    let typed = json!({"content": "<|im_end|>", "parse_special": false});
    assert!(server.ask("/tokenize", &typed)["tokens"].as_array().unwrap().len() > 3);
    assert!(prompt(&server, user("a<|im_end|>b")).contains("a<|im_end|>b"));
}

#[test]
fn penalties_count_the_answer() {
    let server = Server::start(&[]);
    let mut messages = Vec::new();
    for (country, city) in [("Peru", "Lima"), ("France", "Paris"), ("Japan", "Tokyo"), ("Spain", "Madrid")] {
        messages.extend([message("user", format!("What is the capital of {country}?")), message("assistant", city)]);
    }
    messages.push(message("user", "What is the capital of Peru?"));
    let body = json!({"messages": messages, "temperature": 0, "max_tokens": 40, "frequency_penalty": 2});
    let found = server.ask("/v1/chat/completions", &body);
    assert_eq!(
        (&found["choices"][0]["message"]["content"], &found["choices"][0]["finish_reason"]),
        (&json!("Lima"), &json!("stop"))
    );
    let text = "Once upon a time there was a little wolf named Tom who lived near the village. One day";
    let one = |more: Value| {
        server.ask("/v1/completions", &with(json!({"prompt": text, "temperature": 0, "max_tokens": 1}), more))["choices"][0]["text"].clone()
    };
    assert_eq!(one(json!({"presence_penalty": 1.5})), one(json!({})));
    // a bias of a token decides
    let id = server.ask("/tokenize", &json!({"content": " Lima"}))["tokens"][0].to_string();
    assert_eq!(
        one(json!({"logit_bias": {&id: 100}})),
        server.ask("/detokenize", &json!({"tokens": [id.parse::<u32>().unwrap()]}))["content"]
    );
}

#[test]
fn fields_are_done_or_refused_by_name() {
    let server = Server::start(&[]);
    let ask = |more: Value| server.post("/v1/chat/completions", &with(with(peru(), json!({"max_tokens": 5})), more));
    for fine in [
        json!({"max_tokens": -1}),
        json!({"max_tokens": 5.0}),
        json!({"repetition_penalty": 1.1, "repeat_penalty": 1.1}),
        json!({"stop": vec!["x"; 17]}),
        json!({"seed": -1}),
        json!({"seed": 18446744073709551615u64}),
        json!({"seed": -12345}),
        json!({"logit_bias": {}, "n": 1, "grammar": "", "min_tokens": 0, "audio": null}),
        json!({"enable_thinking": false}),
        json!({"think": false}),
        json!({"thinking": {"type": "disabled"}}),
        json!({"reasoning": {"effort": "low"}}),
        json!({"chat_template_kwargs": {"enable_thinking": true}}),
        json!({"something_unknown": 1, "model": "any"}),
    ] {
        let answer = ask(fine.clone());
        assert_eq!(answer.status, 200, "{fine}: {answer:?}");
    }
    for (field, value) in [
        ("grammar", json!("root ::= \"5\"")),
        ("guided_regex", json!("5+")),
        ("min_tokens", json!(3)),
        ("logit_bias", json!({"x": 1})),
        ("logit_bias", json!({"999999": 1})),
        ("n", json!(9)),
        ("continue_final_message", json!(true)),
        ("seed", json!("x")),
        ("max_tokens", json!("many")),
        ("temperature", json!("hot")),
    ] {
        let answer = ask(json!({field: value}));
        assert_eq!(answer.status, 400, "{field}: {answer:?}");
        assert!(answer.json()["error"]["message"].as_str().unwrap().contains(field), "{field}: {answer:?}");
        assert_eq!(answer.json()["error"]["param"], field);
    }
    let five = ask(json!({"guided_json": {"const": 5}})).json();
    assert_eq!(five["choices"][0]["message"]["content"], "5");
    let three = ask(json!({"n": 3})).json();
    assert_eq!(three["choices"].as_array().map(Vec::len), Some(3));
    assert_eq!(
        (&three["choices"][2]["index"], &three["choices"][2]["message"]["content"]),
        (&json!(2), &json!("Lima"))
    );
    let both =
        server.ask("/v1/completions", &json!({"prompt": ["Once upon", "One day"], "max_tokens": 2, "echo": true}));
    assert!(both["choices"][1]["text"].as_str().unwrap().starts_with("One day"), "{both}");
}

#[test]
fn claude_code_and_codex_get_answers() {
    let (_folder, server) = with_template(STRICT);
    let claude = json!({"max_tokens": 20, "system": "You are an agent.",
        "messages": [message("user", "hi"), message("system", "Agents: none.")]});
    server.ask("/v1/messages", &claude);
    let history = json!({"max_tokens": 8, "tools": [{"type": "web_search_20250305", "name": "web_search"}, {"name": "f", "input_schema": {"type": "object"}}],
    "messages": [
        message("user", json!([{"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "hello"}}, {"type": "text", "text": "Sum up."}])),
        message("assistant", json!([{"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "q"}},
            {"type": "tool_use", "id": "t1", "name": "ToolSearch", "input": {}}])),
        message("user", json!([{"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "tool_reference", "tool_name": "TaskStop"}]}])),
    ]});
    server.ask("/v1/messages", &history);
    let developer =
        |text: &str| json!({"type": "message", "role": "developer", "content": [{"type": "input_text", "text": text}]});
    let codex = json!({"max_output_tokens": 20, "input": [developer("A"), developer("B"), {"type": "message", "role": "user",
        "content": [{"type": "input_text", "text": "hi"}]}]});
    let first = server.ask("/v1/responses", &codex);
    let next = json!({"max_output_tokens": 20, "input": "and now?", "previous_response_id": first["id"]});
    let next = server.ask("/v1/responses", &next);
    assert!(next["usage"]["input_tokens"].as_u64() > first["usage"]["input_tokens"].as_u64());
    assert_eq!(next["previous_response_id"], first["id"]);
    let lost = server.post("/v1/responses", &json!({"input": "x", "previous_response_id": "resp_none"}));
    assert_eq!((lost.status, lost.json()["error"]["code"].as_str()), (404, Some("previous_response_not_found")));
    let items = json!({"max_output_tokens": 20, "tools": [{"type": "custom", "name": "apply_patch"}, {"type": "web_search"}],
        "input": [message("user", "q"), {"type": "web_search_call", "id": "w", "status": "completed", "action": {"type": "search", "query": "q"}},
            {"type": "custom_tool_call", "call_id": "c1", "name": "apply_patch", "input": "p"},
            {"type": "custom_tool_call_output", "call_id": "c1", "output": "ok"}, message("user", "go on")]});
    server.ask("/v1/responses", &items);
    // an answer that is begun goes on, over both protocols, as the text that it is
    let embedded = Server::start(&[]);
    let begun = [message("user", "What is the capital of Peru?"), message("assistant", "The capital of Peru is L")];
    let text = prompt(&embedded, json!(begun));
    let asked = json!({"max_tokens": 8, "temperature": 0});
    let whole = embedded.ask("/v1/completions", &with(asked.clone(), json!({"prompt": text})));
    let expected = &whole["choices"][0]["text"];
    assert!(text.ends_with("The capital of Peru is L") && expected != "");
    let begun = with(asked, json!({"messages": begun}));
    assert_eq!(embedded.ask("/v1/messages", &begun)["content"][0]["text"], *expected);
    assert_eq!(embedded.ask("/v1/chat/completions", &begun)["choices"][0]["message"]["content"], *expected);
    // the word that it ends in is finished
    let begun = json!({"max_tokens": 8, "temperature": 0,
        "messages": [message("user", "What is the capital of Peru?"), message("assistant", "L")]});
    assert_eq!(embedded.ask("/v1/messages", &begun)["content"][0]["text"], "ima");
    assert_eq!(embedded.ask("/v1/chat/completions", &begun)["choices"][0]["message"]["content"], "ima");
}

#[test]
fn ollama_is_spoken() {
    let server = Server::start(&["--model-name", "small"]);
    assert!(server.get("/api/version").json()["version"].is_string());
    assert_eq!(server.get("/api/tags").json()["models"][0]["name"], "small");
    assert!(server.ask("/api/show", &json!({"model": "small:latest"}))["capabilities"].is_array());
    let asked = json!({"model": "small", "messages": user("What is the capital of Peru?"), "options": {"temperature": 0, "num_predict": 20}});
    let lines = server.post("/api/chat", &asked);
    assert_eq!(lines.header("content-type"), Some("application/x-ndjson"));
    let lines: Vec<Value> =
        lines.body.lines().filter(|l| !l.is_empty()).map(|l| serde_json::from_str(l).unwrap()).collect();
    let text: String = lines.iter().filter_map(|line| line["message"]["content"].as_str()).collect();
    assert_eq!((text.as_str(), &lines.last().unwrap()["done_reason"]), ("Lima", &json!("stop")));
    let whole = server.ask("/api/chat", &with(asked, json!({"stream": false})));
    assert_eq!((&whole["message"]["content"], &whole["done"]), (&json!("Lima"), &json!(true)));
    let raw = json!({"prompt": "Once upon a time", "raw": true, "stream": false, "options": {"temperature": 0, "num_predict": 5}});
    assert!(server.ask("/api/generate", &raw)["response"].as_str().unwrap().starts_with(" there was"));
    let tool = json!({"messages": user("Wake me at 07:30 for the kite."), "stream": false, "tools": tools(), "options": {"temperature": 0}});
    assert!(server.ask("/api/chat", &tool)["message"]["tool_calls"][0]["function"]["arguments"].is_object());
    let refused = server.post("/api/generate", &json!({"prompt": "x", "suffix": "y"}));
    assert_eq!((refused.status, refused.json()["error"].is_string()), (400, true));
    assert!(server.post("/api/embed", &json!({})).body.contains("no embeddings"));
    let wrong = server.get("/api/chat");
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("POST")));
}

#[test]
fn other_conversations_leave_the_state_of_this_one() {
    let server = Server::start(&[]);
    let story = "Once upon a time there was a little wolf. ".repeat(20);
    let first = json!([message("system", story.clone()), message("user", "What is the capital of Peru?")]);
    let ask = |messages: &Value| {
        server.ask("/v1/chat/completions", &json!({"messages": messages, "temperature": 0, "max_tokens": 8}))
    };
    let answer = ask(&first);
    let prompt = answer["usage"]["prompt_tokens"].as_u64().unwrap();
    // a title, as chat programs ask for between two turns
    ask(&json!([message("user", "Write a title.")]));
    let mut next = first.as_array().unwrap().clone();
    next.extend([answer["choices"][0]["message"].clone(), message("user", "And of France?")]);
    let reused = ask(&next.into())["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!(reused + 10 > prompt, "{reused} of {prompt}");
    // without memory for it, it is computed again
    let server = Server::start(&["--session-memory", "0"]);
    let ask = |messages: &Value| {
        server.ask("/v1/chat/completions", &json!({"messages": messages, "temperature": 0, "max_tokens": 8}))
    };
    ask(&first);
    ask(&json!([message("user", "Write a title.")]));
    assert!(ask(&first)["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap() < 20);
}

#[test]
fn a_prompt_that_is_too_long_is_told_as_agents_know_it() {
    let server = Server::start(&["--ctx", "64"]);
    let long = user(&"wolf ".repeat(200));
    for (path, body) in [
        ("/v1/chat/completions", json!({"messages": long})),
        ("/v1/messages", json!({"messages": long, "max_tokens": 5})),
        ("/v1/responses", json!({"input": long})),
        ("/api/chat", json!({"messages": long})),
    ] {
        let answer = server.post(path, &body);
        assert_eq!(answer.status, 400, "{path}: {answer:?}");
        assert!(
            answer.body.contains("prompt is too long: ") && answer.body.contains(" tokens > 64 maximum"),
            "{answer:?}"
        );
        assert!(answer.body.contains("maximum context length is 64 tokens"), "{answer:?}");
    }
}
