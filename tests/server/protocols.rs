//! The other protocols, and what a server tells about itself.

use super::*;

#[test]
fn completions_go_on_with_a_text() {
    let server = Server::start(&[]);
    let asked = json!({"prompt": "Once upon a time", "max_tokens": 20, "temperature": 0});
    let whole = server.ask("/v1/completions", &asked);
    let text = whole["choices"][0]["text"].as_str().unwrap();
    assert!(text.starts_with(" there was a little"), "{text}");
    assert_eq!(
        (&whole["choices"][0]["finish_reason"], &whole["usage"]["completion_tokens"]),
        (&json!("length"), &json!(20))
    );
    let chunks = server.post("/v1/completions", &with(asked, json!({"stream": true}))).chunks();
    let streamed: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
    assert_eq!(streamed, text);
    let tokens = server.ask("/tokenize", &json!({"content": "Once upon a time"}))["tokens"].clone();
    assert_eq!(server.ask("/detokenize", &json!({"tokens": tokens}))["content"], "Once upon a time");
    let same = server.ask("/v1/completions", &json!({"prompt": tokens, "max_tokens": 20, "temperature": 0}));
    assert_eq!(same["choices"][0]["text"], text);
}

fn anthropic(more: Value) -> Value {
    with(with(peru(), json!({"max_tokens": 100})), more)
}

/// The events of a stream of Anthropic's, checked for their order: every block is opened, filled and closed.
fn blocks(answer: &Answer) -> (Vec<Value>, Value) {
    let mut blocks: Vec<Value> = Vec::new();
    let mut open = None;
    let mut end = Value::Null;
    let events = answer.events();
    assert_eq!((events[0].0.as_str(), events.last().unwrap().0.as_str()), ("message_start", "message_stop"));
    for (name, data) in &events {
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["type"], name.as_str());
        match name.as_str() {
            "content_block_start" => {
                assert_eq!((open, data["index"].as_u64()), (None, Some(blocks.len() as u64)), "{data}");
                open = data["index"].as_u64();
                blocks.push(data["content_block"].clone());
            }
            "content_block_delta" => {
                assert_eq!(data["index"].as_u64(), open, "{data}");
                let block = blocks.last_mut().unwrap();
                let (key, piece) = match data["delta"]["type"].as_str().unwrap() {
                    "text_delta" => ("text", &data["delta"]["text"]),
                    "input_json_delta" => ("json", &data["delta"]["partial_json"]),
                    other => panic!("{other}"),
                };
                block[key] = (block[key].as_str().unwrap_or_default().to_owned() + piece.as_str().unwrap()).into();
            }
            "content_block_stop" => assert_eq!(data["index"].as_u64(), open.take(), "{data}"),
            "message_delta" => end = data,
            "message_start" | "ping" | "message_stop" => {}
            other => panic!("{other}"),
        }
    }
    assert_eq!(open, None);
    (blocks, end)
}

#[test]
fn anthropics_messages() {
    let server = Server::start(&[]);
    let whole = server.ask("/v1/messages", &anthropic(json!({})));
    assert_eq!(whole["content"], json!([{"type": "text", "text": "Lima"}]));
    assert_eq!((&whole["stop_reason"], &whole["type"]), (&json!("end_turn"), &json!("message")));
    let (found, end) = blocks(&server.post("/v1/messages", &anthropic(json!({"stream": true}))));
    assert_eq!((&found[0]["text"], &end["delta"]["stop_reason"]), (&json!("Lima"), &json!("end_turn")));
    assert_eq!(end["usage"], whole["usage"]);
    let stopped = server.ask("/v1/messages", &anthropic(json!({"stop_sequences": ["m"]})));
    assert_eq!((&stopped["stop_reason"], &stopped["stop_sequence"]), (&json!("stop_sequence"), &json!("m")));
    let cut = server.ask("/v1/messages", &anthropic(json!({"max_tokens": 1})));
    assert_eq!(cut["stop_reason"], "max_tokens");

    let counted = server.ask("/v1/messages/count_tokens", &peru())["input_tokens"].clone();
    assert_eq!(counted, whole["usage"]["input_tokens"]);
    // the line that changes each time is not part of the prompt
    let count = |system: &str| {
        server.ask("/v1/messages/count_tokens", &with(peru(), json!({"system": system})))["input_tokens"].clone()
    };
    assert_eq!(count("x-anthropic-billing-header: cch=12345;\nBe kind."), count("Be kind."));
}

#[test]
fn anthropics_tools() {
    let server = Server::start(&[]);
    let tools: Vec<Value> = tools()
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| json!({"name": tool["function"]["name"], "input_schema": tool["function"]["parameters"]}))
        .collect();
    let question = user("Wake me at 07:30 for the kite.");
    let asked = json!({"messages": question, "tools": tools, "temperature": 0, "max_tokens": 100});
    let whole = server.ask("/v1/messages", &asked);
    assert_eq!(whole["stop_reason"], "tool_use");
    let input = json!({"time": "07:30", "label": "kite"});
    assert_eq!((&whole["content"][0]["name"], &whole["content"][0]["input"]), (&json!("set_alarm"), &input));
    let (found, _) = blocks(&server.post("/v1/messages", &with(asked.clone(), json!({"stream": true}))));
    assert_eq!(serde_json::from_str::<Value>(found[0]["json"].as_str().unwrap()).unwrap(), input);
    let result = json!({"type": "tool_result", "tool_use_id": whole["content"][0]["id"], "content": "sunny"});
    let turns =
        json!([question[0], {"role": "assistant", "content": whole["content"]}, {"role": "user", "content": [result]}]);
    let after = server.ask("/v1/messages", &with(asked.clone(), json!({"messages": turns})));
    let read = |answer: &Value| {
        let count = |key: &str| answer["usage"][key].as_u64().unwrap();
        count("input_tokens") + count("cache_read_input_tokens")
    };
    assert!(read(&after) > read(&whole));
    let any = with(asked, json!({"messages": user("What is 1 + 1?"), "tool_choice": {"type": "any"}}));
    assert_eq!(server.ask("/v1/messages", &any)["stop_reason"], "tool_use");
}

#[test]
fn openais_responses() {
    let server = Server::start(&[]);
    let asked = json!({"input": "What is the capital of Peru?", "temperature": 0});
    let whole = server.ask("/v1/responses", &asked);
    assert_eq!((&whole["status"], &whole["object"]), (&json!("completed"), &json!("response")));
    assert_eq!(whole["output"][0]["content"][0]["text"], "Lima");
    let events = server.post("/v1/responses", &with(asked, json!({"stream": true}))).events();
    let events: Vec<Value> = events
        .iter()
        .map(|(name, data)| {
            let data: Value = serde_json::from_str(data).unwrap();
            assert_eq!(data["type"], name.as_str());
            data
        })
        .collect();
    for (i, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], i);
    }
    let text: String = events
        .iter()
        .filter(|event| event["type"] == "response.output_text.delta")
        .map(|event| event["delta"].as_str().unwrap())
        .collect();
    assert_eq!(text, "Lima");
    let last = events.last().unwrap();
    assert_eq!(
        (&last["type"], &last["response"]["output"][0]["content"]),
        (&json!("response.completed"), &whole["output"][0]["content"])
    );

    let tools: Vec<Value> = tools()
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| with(tool["function"].clone(), json!({"type": "function"})))
        .collect();
    let asked = json!({"input": [{"role": "user", "content": [{"type": "input_text", "text": "Wake me at 07:30 for the kite."}]}], "tools": tools, "temperature": 0});
    let called = server.ask("/v1/responses", &asked);
    let call = &called["output"][0];
    assert_eq!((&call["type"], &call["name"]), (&json!("function_call"), &json!("set_alarm")));
    let events = server.post("/v1/responses", &with(asked.clone(), json!({"stream": true}))).events();
    let events: Vec<Value> = events.iter().map(|(_, data)| serde_json::from_str(data).unwrap()).collect();
    let of = |name: &str| events.iter().filter(|event| event["type"] == name).collect::<Vec<_>>();
    let added = of("response.output_item.added");
    assert_eq!((&added[0]["item"]["name"], &added[0]["item"]["arguments"]), (&json!("set_alarm"), &json!("")));
    let pieces = of("response.function_call_arguments.delta");
    let arguments: String = pieces.iter().map(|event| event["delta"].as_str().unwrap()).collect();
    assert!(pieces.len() > 3 && pieces.iter().all(|event| event["item_id"] == added[0]["item"]["id"]), "{pieces:?}");
    assert_eq!(call["arguments"], arguments);
    assert_eq!(of("response.function_call_arguments.done")[0]["arguments"], arguments);
    assert_eq!(of("response.output_item.done")[0]["item"]["arguments"], arguments);
    assert_eq!(events.last().unwrap()["response"]["output"][0]["status"], "completed");
    let mut items = asked["input"].as_array().unwrap().clone();
    items
        .extend([call.clone(), json!({"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"})]);
    let after = server.ask("/v1/responses", &with(asked, json!({"input": items})));
    assert!(after["usage"]["input_tokens"].as_u64() > called["usage"]["input_tokens"].as_u64());
}

#[test]
fn a_server_tells_about_itself() {
    let server = Server::start(&["--model-name", "toy", "-c", "2048"]);
    assert_eq!(server.get("/health").json(), json!({"status": "ok"}));
    let models = server.get("/v1/models").json();
    assert_eq!((&models["data"][0]["id"], &models["data"][0]["context_length"]), (&json!("toy"), &json!(2048)));
    assert_eq!(server.get("/v1/models/toy").json(), models["data"][0]);
    let document = server.get("/openapi.json").json();
    for path in document["paths"].as_object().unwrap().keys().filter(|path| !path.contains('{')) {
        let wrong = if document["paths"][path].get("post").is_some() { "GET" } else { "POST" };
        assert_eq!(server.request(wrong, path, &[], b"").status, 405, "{path}");
    }
    server.ask("/v1/chat/completions", &peru());
    let metrics = server.get("/metrics").body;
    let value = |name: &str| -> f64 {
        let line = metrics.lines().find(|line| line.starts_with(&format!("flashflood_{name} ")));
        line.unwrap_or_else(|| panic!("{name}: {metrics}")).split(' ').nth(1).unwrap().parse().unwrap()
    };
    assert!(value("prompt_tokens_total") > 10.0 && value("generated_tokens_total") >= 1.0);
    assert!(value("expert_misses_total") > 0.0 && value("ttft_seconds_count") == 1.0);
    assert_eq!((value("requests_in_flight"), value("queue_depth")), (0.0, 0.0));
    let answer = server.request("GET", "/health", &[("X-Request-Id", "abc")], b"");
    assert_eq!(answer.header("x-request-id"), Some("abc"));
    assert!(server.get("/health").header("x-request-id").unwrap().starts_with("req_"));
}

#[test]
fn completions_tell_probabilities() {
    let server = Server::start(&[]);
    let asked = json!({"prompt": "Once upon a time", "temperature": 0, "max_tokens": 5, "logprobs": 2});
    let told = server.ask("/v1/completions", &asked)["choices"][0].clone();
    let tokens: Vec<&str> =
        told["logprobs"]["tokens"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    assert_eq!((tokens.len(), tokens.concat().as_str()), (5, told["text"].as_str().unwrap()));
    for (i, token) in tokens.iter().enumerate() {
        let offset: usize = tokens[..i].iter().map(|token| token.chars().count()).sum();
        assert_eq!(told["logprobs"]["text_offset"][i], offset);
        let top = told["logprobs"]["top_logprobs"][i].as_object().unwrap();
        assert_eq!((top.len(), &top[*token]), (2, &told["logprobs"]["token_logprobs"][i]));
    }
    let chunks = server.post("/v1/completions", &with(asked, json!({"stream": true}))).chunks();
    let streamed: Vec<Value> = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["logprobs"]["text_offset"].as_array())
        .flatten()
        .cloned()
        .collect();
    assert_eq!(Value::from(streamed), told["logprobs"]["text_offset"]);
    assert_eq!(server.post("/v1/completions", &json!({"prompt": "a", "logprobs": 21})).status, 400);
}

#[test]
fn the_prompt_of_a_chat() {
    let server = Server::start(&[]);
    let prompt = server.ask("/apply-template", &peru())["prompt"].as_str().unwrap().to_owned();
    assert!(prompt.contains("<|im_start|>user\nWhat is the capital of Peru?<|im_end|>"), "{prompt}");
    let tokens = server.ask("/tokenize", &json!({"content": prompt}))["tokens"].as_array().unwrap().len();
    assert_eq!(server.ask("/v1/chat/completions", &peru())["usage"]["prompt_tokens"], tokens);
}

/// The small model with a template that lets it think.
fn pack_that_thinks() -> tempfile::TempDir {
    let small = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/small-moe");
    let pack = tempfile::tempdir().unwrap();
    std::fs::create_dir(pack.path().join("experts")).unwrap();
    for folder in ["", "experts"] {
        for entry in std::fs::read_dir(small.join(folder)).unwrap().flatten().filter(|entry| entry.path().is_file()) {
            let bytes = std::fs::read(entry.path()).unwrap();
            std::fs::write(pack.path().join(folder).join(entry.file_name()), bytes).unwrap();
        }
    }
    let template = pack.path().join("chat_template.jinja");
    let text = std::fs::read_to_string(&template).unwrap();
    let (history, prompt) = text.rsplit_once("<think>\\n\\n</think>\\n\\n").unwrap();
    std::fs::write(&template, format!("{history}<think>\\n{prompt}")).unwrap();
    pack
}

/// Thoughts stand where the client looks for them, and end when their budget is used up.
#[test]
fn thoughts_and_their_budget() {
    let pack = pack_that_thinks();
    let model = ["-m", pack.path().to_str().unwrap()];
    // at this temperature tokens are nearly random: the one that ends thoughts does not come soon
    let thinking = json!({"thinking_budget": 1, "max_tokens": 20, "seed": 1});
    let random = json!({"temperature": 50, "top_k": 0, "top_p": 1});
    let thinking = with(thinking, random.clone());
    for (field, names) in [
        ("reasoning_content", &["reasoning_content"][..]),
        ("reasoning", &["reasoning"]),
        ("both", &["reasoning", "reasoning_content"]),
        ("none", &[]),
    ] {
        let server = Server::start(&[&model[..], &["--reasoning-field", field]].concat());
        let answer = server.ask("/v1/chat/completions", &with(peru(), thinking.clone()));
        // what ends them is two tokens
        assert_eq!(answer["usage"]["completion_tokens_details"]["reasoning_tokens"], 3, "{answer}");
        let message = answer["choices"][0]["message"].as_object().unwrap();
        assert!(!message["content"].as_str().unwrap().is_empty(), "{answer}");
        let is_thoughts = |key: &&str| key.starts_with("reasoning");
        let mut found: Vec<&str> = message.keys().map(String::as_str).filter(is_thoughts).collect();
        found.sort_unstable();
        assert_eq!(found, names, "{answer}");
        let stream = with(with(peru(), thinking.clone()), json!({"stream": true}));
        let chunks = server.post("/v1/chat/completions", &stream).chunks();
        for name in ["reasoning", "reasoning_content"] {
            let is_told = chunks.iter().any(|chunk| chunk["choices"][0]["delta"][name].is_string());
            assert_eq!(is_told, names.contains(&name), "{field}: {chunks:?}");
        }
    }
    // a schema holds for the answer, not for the thoughts before it
    let server = Server::start(&model);
    let schema = json!({"type": "json_schema", "json_schema": {"schema": {"enum": [7, 12]}}});
    let answer = server.ask("/v1/chat/completions", &with(with(peru(), thinking), json!({"response_format": schema})));
    let content = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(["7", "12"].contains(&content.trim()), "{answer}");
    let budget = json!({"type": "enabled", "budget_tokens": 1});
    let asked = with(json!({"thinking": budget, "max_tokens": 20}), random);
    let answer = server.ask("/v1/messages", &anthropic(asked));
    assert_eq!((&answer["content"][0]["type"], &answer["content"][1]["type"]), (&json!("thinking"), &json!("text")));
}

/// Whatever a model does among its thoughts, end them, call from within them, or end its turn, a call that is required comes,
/// and the history of it reads as it was written.
#[test]
fn a_required_call_comes_whatever_is_thought() {
    let pack = pack_that_thinks();
    let server = Server::start(&["-m", pack.path().to_str().unwrap()]);
    let parameters =
        json!({"type": "object", "properties": {"city": {"enum": ["Lima", "Oslo"]}}, "required": ["city"]});
    let tools = json!([{"type": "function", "function": {"name": "get_weather", "parameters": parameters}}]);
    let (mut thoughts, mut markers) = (Vec::new(), Vec::new());
    for seed in 1..=16 {
        let asked = json!({
            "messages": user("How is the weather?"), "tools": tools, "tool_choice": "required", "seed": seed,
            "parallel_tool_calls": false, "max_tokens": 6000, "temperature": 50, "top_k": 0, "top_p": 1,
        });
        let answer = server.ask("/v1/chat/completions", &asked);
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls", "{seed}: {answer}");
        let call = &choice["message"]["tool_calls"][0]["function"];
        let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
        assert!(["Lima", "Oslo"].contains(&arguments["city"].as_str().unwrap()), "{answer}");
        thoughts.push(answer["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap());
        let mut message = choice["message"].clone();
        message.as_object_mut().unwrap().remove("reasoning_content");
        let result = json!({"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "sunny"});
        let history = json!({"messages": [user("How is the weather?")[0], message, result], "tools": tools});
        let prompt = server.ask("/apply-template", &history)["prompt"].as_str().unwrap().to_owned();
        let turn = prompt.split("<|im_start|>assistant\n").nth(1).unwrap().split("<|im_end|>").next().unwrap();
        let written = turn.strip_prefix("<think>\n\n</think>\n\n").unwrap();
        assert!(written.starts_with("<tool_call>\n<function=get_weather>\n"), "{seed}: {turn}");
        markers.push((turn.matches("<tool_call>").count(), turn.matches("</think>").count()));
    }
    assert!(markers.iter().all(|found| *found == (1, 1)), "{markers:?}");
    // the seeds differ in what they do
    assert!(thoughts.iter().max() > thoughts.iter().min(), "{thoughts:?}");
}

/// Every path of the document is there, and every field that it names is read.
#[test]
fn the_document_says_what_is_there() {
    let server = Server::start(&[]);
    let document = server.get("/openapi.json").json();
    let fields = |schema: &Value| -> Vec<String> {
        let parts = schema["allOf"].as_array().cloned().unwrap_or_else(|| vec![schema.clone()]);
        let found = parts.iter().flat_map(|part| {
            let part = match part["$ref"].as_str() {
                Some(name) => document.pointer(&name[1..]).unwrap(),
                None => part,
            };
            part["properties"].as_object().unwrap().keys().cloned().collect::<Vec<_>>()
        });
        found.collect()
    };
    for (path, item) in document["paths"].as_object().unwrap() {
        let item = item.as_object().unwrap();
        for method in item.keys().filter(|method| *method != "parameters") {
            let schema = &item[method]["requestBody"]["content"]["application/json"]["schema"];
            let mut body = json!({});
            if schema.is_object() {
                fields(schema).into_iter().for_each(|field| body[field] = Value::Null);
                for (field, value) in [
                    ("messages", user("hi")),
                    ("prompt", json!("hi")),
                    ("input", json!("hi")),
                    ("content", json!("hi")),
                    ("tokens", json!([1])),
                    ("max_tokens", json!(1)),
                    ("max_output_tokens", json!(1)),
                    ("parse_special", json!(true)),
                    ("options", json!({"num_predict": 1})),
                ] {
                    if body.get(field).is_some() {
                        body[field] = value;
                    }
                }
            }
            if path == "/machine" {
                // it goes on for as long as somebody listens
                let mut line = String::new();
                BufReader::new(server.send("GET", path, &[], b"")).read_line(&mut line).unwrap();
                assert_eq!(line, "HTTP/1.1 200 OK\r\n");
                continue;
            }
            let answer = server.request(&method.to_uppercase(), path, &[], body.to_string().as_bytes());
            let expected = match path.as_str() {
                "/infill" => 400,
                "/v1/models/{id}" => 404,
                _ => 200,
            };
            assert_eq!(answer.status, expected, "{method} {path}: {body}: {answer:?}");
        }
    }
    let log = server.stderr.lock().unwrap().clone();
    assert!(!log.contains("is not known here"), "{log}");
}

/// What the document limits is refused beyond the limit, and taken at it.
#[test]
fn the_document_has_the_limits_of_the_server() {
    let server = Server::start(&[]);
    let document = server.get("/openapi.json").json();
    let mut limits = 0;
    for (path, base) in [
        ("/v1/chat/completions", json!({"messages": user("hi"), "max_tokens": 1, "logprobs": true})),
        ("/v1/completions", json!({"prompt": "hi", "max_tokens": 1})),
        ("/v1/responses", json!({"input": "hi", "max_output_tokens": 1})),
        ("/v1/messages", json!({"messages": user("hi"), "max_tokens": 1})),
        ("/completion", json!({"prompt": "hi", "n_predict": 1})),
    ] {
        let schema = &document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"];
        for part in schema["allOf"].as_array().unwrap() {
            let part = part["$ref"].as_str().map_or(part, |name| document.pointer(&name[1..]).unwrap());
            for (field, schema) in part["properties"].as_object().unwrap() {
                let mut check = |value: Value, status: u16| {
                    let mut body = base.clone();
                    body[field] = value;
                    let answer = server.post(path, &body);
                    assert_eq!(answer.status, status, "{path}: {body}: {answer:?}");
                    limits += 1;
                };
                if let Some(least) = schema["minimum"].as_i64() {
                    check(least.into(), 200);
                    check(if field == "n" { 0.into() } else { json!(least as f64 - 0.5) }, 400);
                }
                if let Some(most) = schema["maximum"].as_i64() {
                    check(most.into(), 200);
                    check((most + 1).into(), 400);
                }
                if let Some(least) = schema["exclusiveMinimum"].as_f64() {
                    check(json!(least + 0.5), 200);
                    check(json!(least), 400);
                }
                for value in schema["enum"].as_array().into_iter().flatten() {
                    check(value.clone(), 200);
                    check(json!("something else"), 400);
                }
                if let Some(most) = schema["anyOf"][1]["maxItems"].as_u64().filter(|_| field.starts_with("stop")) {
                    check(vec!["x"; most as usize].into(), 200);
                    check(vec!["x"; most as usize + 1].into(), 400);
                }
            }
        }
    }
    assert!(limits > 100, "{limits}");
}

#[test]
fn packed_bodies() {
    let server = Server::start(&[]);
    // {"content":"hi"}
    let gzip: [u8; 36] = [
        31, 139, 8, 0, 0, 0, 0, 0, 2, 3, 171, 86, 74, 206, 207, 43, 73, 205, 43, 81, 178, 82, 202, 200, 84, 170, 5, 0,
        144, 121, 199, 226, 16, 0, 0, 0,
    ];
    let plain = server.ask("/tokenize", &json!({"content": "hi"}));
    let packed = server.request("POST", "/tokenize", &[("Content-Encoding", "gzip")], &gzip);
    assert_eq!((packed.status, packed.json()), (200, plain));
    let broken = server.request("POST", "/tokenize", &[("Content-Encoding", "gzip")], &gzip[..30]);
    assert_eq!(broken.status, 400);
    let unknown = server.request("POST", "/v1/messages", &[("Content-Encoding", "br")], &gzip);
    assert_eq!((unknown.status, unknown.header("accept-encoding")), (415, Some("gzip, deflate")));
    assert!(unknown.json()["error"]["message"].as_str().unwrap().contains("found \"br\""), "{unknown:?}");
}
