//! OpenAI's chat: answers whole and in pieces, tools, forms of answers, probabilities.

use super::*;

const CHAT: &str = "/v1/chat/completions";

fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

/// An answer in pieces, put together: text, calls, finish reason.
fn joined(chunks: &[Value]) -> (String, Vec<Value>, String) {
    let deltas = || chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]);
    let text = deltas().filter_map(|delta| delta["content"].as_str()).collect();
    let mut calls: Vec<Value> = Vec::new();
    for piece in deltas().filter_map(|delta| delta["tool_calls"].as_array()).flatten() {
        let index = piece["index"].as_u64().unwrap() as usize;
        if index == calls.len() {
            // the first piece tells all but the arguments
            assert!(piece["id"].is_string() && piece["type"] == "function" && piece["function"]["arguments"] == "");
            calls.push(piece.clone());
            continue;
        }
        assert_eq!((index + 1, piece.get("id"), piece["function"].get("name")), (calls.len(), None, None), "{piece}");
        let arguments = &mut calls[index]["function"]["arguments"];
        *arguments = (arguments.as_str().unwrap().to_owned() + piece["function"]["arguments"].as_str().unwrap()).into();
    }
    let finish = chunks.iter().find_map(|chunk| chunk["choices"][0]["finish_reason"].as_str()).unwrap();
    (text, calls, finish.to_owned())
}

#[test]
fn an_answer_whole_and_in_pieces() {
    let server = Server::start(&[]);
    let whole = server.ask(CHAT, &peru());
    assert_eq!((content(&whole), &whole["choices"][0]["finish_reason"]), ("Lima", &json!("stop")));
    assert_eq!(whole["object"], "chat.completion");
    let usage = &whole["usage"];
    let count = |key: &str| usage[key].as_u64().unwrap();
    assert_eq!(count("prompt_tokens") + count("completion_tokens"), count("total_tokens"));
    assert!(count("prompt_tokens") > 10 && usage["prompt_tokens_details"]["cached_tokens"].is_u64(), "{usage}");
    assert!(whole["timings"]["prompt_per_second"].as_f64().unwrap() > 0.0);

    let stream = with(peru(), json!({"stream": true, "stream_options": {"include_usage": true}}));
    let answer = server.post(CHAT, &stream);
    let chunks = answer.chunks();
    assert_eq!(joined(&chunks), ("Lima".to_owned(), Vec::new(), "stop".to_owned()));
    assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"] && chunk["object"] == "chat.completion.chunk"));
    assert_eq!(
        (&chunks[0]["choices"][0]["delta"]["role"], &chunks.last().unwrap()["choices"]),
        (&json!("assistant"), &json!([]))
    );
    assert_eq!(chunks.last().unwrap()["usage"]["completion_tokens"], usage["completion_tokens"]);
    let without = server.post(CHAT, &with(peru(), json!({"stream": true}))).chunks();
    assert!(without.iter().all(|chunk| chunk.get("usage").is_none()));
}

/// What a conversation began with is not computed again, nor what two conversations share.
#[test]
fn a_conversation_goes_on_from_its_state() {
    let server = Server::start(&[]);
    let cached = |answer: &Value| {
        let usage = &answer["usage"];
        let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
        (cached, usage["prompt_tokens"].as_u64().unwrap())
    };
    let rules = "You answer questions in as few words as can be, and never tell anybody why, whatever they say to you.";
    let ask = |turns: &[Value]| server.ask(CHAT, &json!({"messages": turns, "temperature": 0}));
    let mut turns = vec![json!({"role": "system", "content": rules})];
    turns.push(json!({"role": "user", "content": "What is the capital of Peru?"}));
    let first = ask(&turns);
    assert_eq!(cached(&first).0, 0);
    turns.push(first["choices"][0]["message"].clone());
    turns.push(json!({"role": "user", "content": "What is the capital of Japan?"}));
    let second = ask(&turns);
    let ((_, read), (reused, all)) = (cached(&first), cached(&second));
    assert!(reused + 10 >= read && all - reused < 40, "{reused} of {all} tokens, {read} were read before");
    assert_eq!(content(&second), "Tokyo");
    // another conversation under the same rules
    let other = [turns[0].clone(), json!({"role": "user", "content": "What is the capital of Japan?"})];
    let other = ask(&other);
    assert!(cached(&other).0 > 32, "{}", other["usage"]);
    assert_eq!(content(&other), content(&second));
}

#[test]
fn fields_of_the_request_count() {
    let server = Server::start(&[]);
    let mut turns = user("What is the capital of Peru?").as_array().unwrap().clone();
    turns.push(json!({"role": "assistant", "content": "Lima"}));
    turns.push(json!({"role": "user", "content": [{"type": "text", "text": "What is the capital of "}, {"type": "text", "text": "Japan?"}]}));
    assert_eq!(content(&server.ask(CHAT, &json!({"messages": turns, "temperature": 0, "nobody_knows": 1}))), "Tokyo");
    let cut = server.ask(CHAT, &with(peru(), json!({"max_completion_tokens": 1, "max_tokens": null})));
    assert_eq!(
        (&cut["choices"][0]["finish_reason"], &cut["usage"]["completion_tokens"]),
        (&json!("length"), &json!(1))
    );
    assert_eq!(content(&server.ask(CHAT, &with(peru(), json!({"stop": ["x", "ma"]})))), "Li");
    let story = |seed: u64| {
        let asked = json!({"prompt": "Once upon a time", "max_tokens": 30, "temperature": 1.5, "seed": seed});
        server.ask("/v1/completions", &asked)["choices"][0]["text"].as_str().unwrap().to_owned()
    };
    assert_eq!(story(1), story(1));
    assert_ne!(story(1), story(2));
}

#[test]
fn probabilities_are_told() {
    let server = Server::start(&[]);
    let asked = with(peru(), json!({"logprobs": true, "top_logprobs": 3}));
    let whole = server.ask(CHAT, &asked);
    let tokens = whole["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    let text: String = tokens.iter().map(|token| token["token"].as_str().unwrap()).collect();
    assert_eq!(text, "Lima");
    for token in &tokens {
        let top: Vec<f64> =
            token["top_logprobs"].as_array().unwrap().iter().map(|t| t["logprob"].as_f64().unwrap()).collect();
        assert!(top.len() == 3 && top.is_sorted_by(|a, b| a >= b) && top[0] <= 0.0, "{token}");
        // the temperature is 0: the most likely one was taken
        assert_eq!(token["logprob"].as_f64().unwrap(), top[0]);
        let together: f64 = top.iter().map(|logprob| logprob.exp()).sum();
        assert!(together > 0.5 && together < 1.0 + 1e-4, "{together}");
    }
    let chunks = server.post(CHAT, &with(asked, json!({"stream": true}))).chunks();
    let streamed: Vec<Value> = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array())
        .flatten()
        .cloned()
        .collect();
    assert_eq!(streamed, tokens);
}

#[test]
fn tools_are_called_and_their_results_read() {
    let server = Server::start(&[]);
    let asked = json!({"messages": user("Wake me at 07:30 for the kite."), "tools": tools(), "temperature": 0});
    let whole = server.ask(CHAT, &asked);
    let choice = &whole["choices"][0];
    assert_eq!((&choice["finish_reason"], &choice["message"]["content"]), (&json!("tool_calls"), &Value::Null));
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(call["function"]["name"], "set_alarm");
    let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
    assert_eq!(arguments, json!({"time": "07:30", "label": "kite"}));

    let chunks = server.post(CHAT, &with(asked.clone(), json!({"stream": true}))).chunks();
    let (text, calls, finish) = joined(&chunks);
    assert_eq!((text.as_str(), calls.len(), finish.as_str()), ("", 1, "tool_calls"));
    assert_eq!(calls[0]["function"], call["function"]);
    assert_eq!(calls[0]["index"], 0);
    // they come with their tokens
    let told = chunks.iter().filter(|chunk| chunk["choices"][0]["delta"]["tool_calls"].is_array()).count();
    assert!(told > 4, "{told} pieces");

    // the history reads as the model wrote it: as many tokens as before, what was written, and the result
    let mut turns = asked["messages"].as_array().unwrap().clone();
    turns.push(choice["message"].clone());
    let count = |turns: &[Value]| {
        let asked = with(asked.clone(), json!({"messages": turns, "max_tokens": 1}));
        server.ask(CHAT, &asked)["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    let known = count(&turns);
    turns[1]["tool_calls"][0]["id"] = "another".into();
    assert!(count(&turns) < known, "an unknown call is left to the template, which does not know calls");
}

#[test]
fn a_choice_of_tools_is_kept_to() {
    let server = Server::start(&[]);
    let asked = |choice: Value| {
        let asked = json!({"messages": user("What is the capital of Peru?"), "tools": tools(), "temperature": 0, "max_tokens": 200, "tool_choice": choice});
        server.ask(CHAT, &asked)["choices"][0]["message"].clone()
    };
    let named = asked(json!({"type": "function", "function": {"name": "set_alarm"}}));
    assert_eq!(named["tool_calls"].as_array().unwrap().len(), 1, "{named}");
    assert_eq!(named["tool_calls"][0]["function"]["name"], "set_alarm");
    let arguments: Value =
        serde_json::from_str(named["tool_calls"][0]["function"]["arguments"].as_str().unwrap()).unwrap();
    let keys: Vec<&String> = arguments.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["time", "label"]);
    assert!(!asked(json!("required"))["tool_calls"].as_array().unwrap().is_empty());
    assert_eq!(asked(json!("none"))["content"], "Lima");
}

#[test]
fn answers_have_the_form_that_is_asked_for() {
    let server = Server::start(&[]);
    let asked = |format: Value, more: Value| {
        let question = user("Write JSON: the name is Mia, the age is 7.");
        let asked = json!({"messages": question, "temperature": 0, "max_tokens": 200, "response_format": format});
        content(&server.ask(CHAT, &with(asked, more))).to_owned()
    };
    let schema = |properties: Value| {
        let keys: Vec<String> = properties.as_object().unwrap().keys().cloned().collect();
        let schema =
            json!({"type": "object", "properties": properties, "required": keys, "additionalProperties": false});
        json!({"type": "json_schema", "json_schema": {"name": "it", "strict": true, "schema": schema}})
    };
    let mia = asked(schema(json!({"name": {"type": "string"}, "age": {"type": "integer"}})), json!({}));
    assert_eq!(serde_json::from_str::<Value>(&mia).unwrap(), json!({"name": "Mia", "age": 7}));
    // a form that the model would not choose by itself, at a temperature that says anything
    for seed in 0..5 {
        let odd = schema(
            json!({"pet": {"enum": ["cat", "dog"]}, "is": {"type": "boolean"}, "n": {"type": "integer", "minimum": 3, "maximum": 5}}),
        );
        let odd: Value = serde_json::from_str(&asked(odd, json!({"temperature": 2, "seed": seed}))).unwrap();
        assert!(odd["pet"] == "cat" || odd["pet"] == "dog", "{odd}");
        assert!(odd["is"].is_boolean() && (3..=5).contains(&odd["n"].as_i64().unwrap()), "{odd}");
    }
    let object: Value = serde_json::from_str(&asked(json!({"type": "json_object"}), json!({}))).unwrap();
    assert!(object.is_object());
}

/// `return_progress` as in llama.cpp: a stream tells how far the prompt is, and only where that is asked for.
#[test]
fn how_far_the_prompt_is() {
    let server = Server::start(&["--chunk", "32"]);
    let long = "a b c d e f g h ".repeat(30);
    let mut body = json!({"messages": [{"role": "user", "content": long}], "max_tokens": 2, "stream": true});
    let told = |body: &Value| -> Vec<Value> {
        let chunks = server.post("/v1/chat/completions", body).chunks();
        chunks.into_iter().map(|chunk| chunk["prompt_progress"].clone()).filter(|told| !told.is_null()).collect()
    };
    assert_eq!(told(&body), Vec::<Value>::new());
    body["return_progress"] = true.into();
    body["messages"][0]["content"] = ("once more: ".to_owned() + &long).into();
    let told = told(&body);
    let (first, last) = (&told[0], &told[told.len() - 1]);
    assert!(first["total"].as_u64().unwrap() > 100 && first["processed"] == first["cache"], "{first}");
    assert_eq!(last["processed"], last["total"]);
    let done: Vec<u64> = told.iter().map(|told| told["processed"].as_u64().unwrap()).collect();
    assert!(done.is_sorted() && told.iter().all(|told| told["time_ms"].is_u64()), "{told:?}");
}
