//! `/v1/completions` as evaluations and editors use it: probabilities of prompts, several answers, gaps.

use std::path::Path;

use super::*;

const COMPLETIONS: &str = "/v1/completions";

/// The rows of `flashflood logits` for some tokens, as logarithms of probabilities.
fn log_softmax(tokens: &[u64]) -> Vec<Vec<f64>> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/small-moe");
    let ids = tokens.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    let arguments = ["logits", model.to_str().unwrap(), "--device", "cpu", "--tokens", &ids, "--out"];
    assert!(flashflood(&arguments).arg(&out).status().unwrap().success());
    let bytes = std::fs::read(out).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let logits = tensors.tensor("logits").unwrap();
    let values: Vec<f32> =
        logits.data().chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
    let row = |row: &[f32]| {
        let total: f64 = row.iter().map(|logit| f64::from(*logit).exp()).sum();
        row.iter().map(|logit| f64::from(*logit) - total.ln()).collect()
    };
    values.chunks_exact(logits.shape()[1]).map(row).collect()
}

fn ids(server: &Server, text: &str) -> Vec<u64> {
    let tokens = server.ask("/tokenize", &json!({"content": text}))["tokens"].clone();
    serde_json::from_value(tokens).unwrap()
}

/// As lm-eval asks: what of a text was how likely, and one token more.
#[test]
fn the_probabilities_of_a_prompt() {
    let server = Server::start(&[]);
    let text = "Once upon a time there was a little fox named Hugo. Café ☕";
    let tokens = ids(&server, text);
    let right = log_softmax(&tokens);
    let asked = json!({"prompt": tokens, "max_tokens": 1, "logprobs": 3, "echo": true, "temperature": 0});
    let whole = server.ask(COMPLETIONS, &asked);
    let choice = &whole["choices"][0];
    assert!(choice["text"].as_str().unwrap().starts_with(text), "{choice}");
    let told = &choice["logprobs"];
    let lists: Vec<&Vec<Value>> = ["tokens", "token_logprobs", "top_logprobs", "text_offset"]
        .iter()
        .map(|list| told[*list].as_array().unwrap())
        .collect();
    assert!(lists.iter().all(|list| list.len() == tokens.len() + 1), "{told}");
    assert!(lists[1][0].is_null() && lists[2][0].is_null());
    for at in 1..tokens.len() {
        let row = &right[at - 1];
        let (found, expected) = (lists[1][at].as_f64().unwrap(), row[tokens[at] as usize]);
        assert!((found - expected).abs() < 1e-4, "token {at}: {found}, expected {expected}");
        let mut best = row.clone();
        best.sort_by(|a, b| b.total_cmp(a));
        let mut top: Vec<f64> = lists[2][at].as_object().unwrap().values().map(|v| v.as_f64().unwrap()).collect();
        top.sort_by(|a, b| b.total_cmp(a));
        // the token itself is among them, or beside them
        assert!(top.len() == 3 || (top.len() == 4 && top[3] == found), "{top:?}");
        assert!(top[..3].iter().zip(&best).all(|(a, b)| (a - b).abs() < 1e-4), "{top:?}, {:?}", &best[..3]);
    }
    // one token more, whatever it is
    let row = right.last().unwrap();
    let best = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    assert!((lists[1][tokens.len()].as_f64().unwrap() - best).abs() < 1e-4);
    // offsets count the characters of the text; bytes that are none have names of their own
    let spelled = lists[0].iter().position(|token| token.as_str().unwrap().starts_with("bytes:\\x")).unwrap();
    for at in 0..spelled {
        let before: usize = lists[0][..at].iter().map(|token| token.as_str().unwrap().chars().count()).sum();
        assert_eq!(lists[3][at], before);
    }
    assert_eq!(lists[3][tokens.len()], text.chars().count());

    // no answer at all, in a stream, of two prompts, and as a text
    let alone = with(asked.clone(), json!({"max_tokens": 0}));
    let only = server.ask(COMPLETIONS, &alone)["choices"][0].clone();
    assert_eq!((&only["text"], &only["finish_reason"]), (&json!(text), &json!("length")));
    assert_eq!(only["logprobs"]["token_logprobs"].as_array().unwrap()[..], lists[1][..tokens.len()]);
    let chunks = server.post(COMPLETIONS, &with(alone.clone(), json!({"stream": true}))).chunks();
    assert_eq!(
        (&chunks[0]["choices"][0]["text"], &chunks[0]["choices"][0]["logprobs"]),
        (&json!(text), &only["logprobs"])
    );
    let two = server.ask(COMPLETIONS, &with(alone.clone(), json!({"prompt": [tokens, &tokens[..5]]})));
    assert_eq!((&two["choices"][0]["logprobs"], &two["choices"][1]["index"]), (&only["logprobs"], &json!(1)));
    assert_eq!(two["choices"][1]["logprobs"]["token_logprobs"].as_array().unwrap()[..], lists[1][..5]);
    let prompt = server.ask(COMPLETIONS, &with(alone.clone(), json!({"prompt": text})));
    assert_eq!(prompt["choices"][0]["logprobs"], only["logprobs"]);
    let plain = server.ask(COMPLETIONS, &json!({"prompt": text, "max_tokens": 0, "echo": true}));
    assert_eq!((&plain["choices"][0]["text"], &plain["choices"][0]["logprobs"]), (&json!(text), &Value::Null));
}

/// The token that ends an answer is told behind an echoed prompt: whoever asks for one token drops the last of the list.
#[test]
fn an_answer_that_ends_at_once_has_its_last_token() {
    let server = Server::start(&[]);
    let prompt = server.ask("/apply-template", &peru())["prompt"].as_str().unwrap().to_owned() + "Lima";
    let tokens = ids(&server, &prompt);
    let asked = json!({"prompt": prompt, "max_tokens": 1, "logprobs": 0, "echo": true, "temperature": 0});
    let choice = server.ask(COMPLETIONS, &asked)["choices"][0].clone();
    let told = choice["logprobs"]["tokens"].as_array().unwrap();
    assert_eq!(
        (told.len(), told.last().unwrap(), &choice["finish_reason"]),
        (tokens.len() + 1, &json!("<|im_end|>"), &json!("stop"))
    );
    assert_eq!(choice["text"], prompt);
}

/// The texts of a stream's choices, by their indices, which come one after the other.
fn streamed(chunks: &[Value], text: impl Fn(&Value) -> Option<&str>) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    for choice in chunks.iter().filter_map(|chunk| chunk["choices"].get(0)) {
        let index = choice["index"].as_u64().unwrap() as usize;
        if index == texts.len() {
            texts.push(String::new());
        }
        assert_eq!(index + 1, texts.len(), "{choice}");
        texts[index] += text(choice).unwrap_or_default();
    }
    texts
}

#[test]
fn several_answers_in_a_stream() {
    let server = Server::start(&[]);
    let texts = |answer: &Value, of: &str| -> Vec<String> {
        let choices = answer["choices"].as_array().unwrap();
        choices.iter().map(|choice| choice.pointer(of).unwrap().as_str().unwrap().to_owned()).collect()
    };
    let asked = json!({"prompt": ["Once upon a time", "What is"], "n": 2, "max_tokens": 8, "seed": 1, "temperature": 1.5,
        "echo": true, "logprobs": 1});
    let whole = server.ask(COMPLETIONS, &asked);
    let stream = json!({"stream": true, "stream_options": {"include_usage": true}});
    let chunks = server.post(COMPLETIONS, &with(asked.clone(), stream.clone())).chunks();
    let told = streamed(&chunks, |choice| choice["text"].as_str());
    assert_eq!((told.len(), &told), (4, &texts(&whole, "/text")));
    assert!(told[..2].iter().all(|text| text.starts_with("Once upon a time")) && told[0] != told[1]);
    assert!(told[2..].iter().all(|text| text.starts_with("What is")));
    let finished = chunks.iter().filter(|chunk| chunk["choices"][0]["finish_reason"].is_string()).count();
    assert_eq!(finished, 4);
    let usage = &chunks.last().unwrap()["usage"];
    assert_eq!(usage["completion_tokens"], whole["usage"]["completion_tokens"]);
    assert_eq!(usage["prompt_tokens"], whole["usage"]["prompt_tokens"]);
    let prompts = ids(&server, "Once upon a time").len() + ids(&server, "What is").len();
    assert_eq!(usage["prompt_tokens"], prompts);

    let chat = with(peru(), json!({"n": 3, "temperature": 1.5, "seed": 7, "max_tokens": 8}));
    let whole = server.ask("/v1/chat/completions", &chat);
    let chunks = server.post("/v1/chat/completions", &with(chat, stream)).chunks();
    let told = streamed(&chunks, |choice| choice["delta"]["content"].as_str());
    assert_eq!((told.len(), &told), (3, &texts(&whole, "/message/content")));
    let roles = chunks.iter().filter(|chunk| chunk["choices"][0]["delta"]["role"] == "assistant").count();
    assert_eq!(roles, 3);
    assert_eq!(chunks.last().unwrap()["usage"]["completion_tokens"], whole["usage"]["completion_tokens"]);
    // what cannot be done is said before the stream begins
    assert_eq!(server.post(COMPLETIONS, &json!({"prompt": ["a", [99999]], "stream": true})).status, 400);
}

/// A model that fills gaps: the parrot, which says one thing there and ends it as Qwen's coders do.
#[test]
fn gaps_are_filled() {
    let folder = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/parrot.py");
    if let Err(reason) = clients::run(Command::new("python3").arg(script).arg(folder.path())) {
        let is_required = std::env::var("FLASHFLOOD_CLIENT_TESTS").is_ok_and(|value| value == "require");
        assert!(!is_required, "{reason}");
        eprintln!("SKIPPED gaps: {reason}");
        return;
    }
    let server = Server::start(&["--model", folder.path().to_str().unwrap()]);
    let filled = "the parrot fills";
    let asked = json!({"prompt": "fn f() {", "suffix": "}", "max_tokens": 9, "temperature": 0});
    let whole = server.ask(COMPLETIONS, &asked);
    assert_eq!((&whole["choices"][0]["text"], &whole["choices"][0]["finish_reason"]), (&json!(filled), &json!("stop")));
    // three tokens beside the texts; a token that somebody typed is a text of as many tokens as it has bytes
    assert_eq!(whole["usage"]["prompt_tokens"], 3 + "fn f() {}".len());
    let typed = server.ask(COMPLETIONS, &with(asked.clone(), json!({"suffix": "<|fim_middle|>"})));
    assert_eq!(typed["usage"]["prompt_tokens"], 3 + "fn f() {<|fim_middle|>".len());
    assert_eq!(server.post(COMPLETIONS, &with(asked.clone(), json!({"prompt": [1, 2]}))).status, 400);

    let asked = json!({"input_prefix": "a", "input_suffix": "b", "prompt": "c", "n_predict": 9, "temperature": 0,
        "input_extra": [{"filename": "x.rs", "text": "fn x"}, {"text": "y"}]});
    let whole = server.ask("/infill", &asked);
    assert_eq!((&whole["content"], &whole["stop"], &whole["stop_type"]), (&json!(filled), &json!(true), &json!("eos")));
    let files = "myproject\n".len() + "x.rs\nfn x".len() + "tmp\ny".len() + "filename\n".len() + 4;
    assert_eq!(whole["tokens_evaluated"], files + 3 + 3);
    let answer = server.post("/infill", &with(asked.clone(), json!({"stream": true})));
    let pieces: Vec<Value> = answer.events().iter().map(|(_, data)| serde_json::from_str(data).unwrap()).collect();
    let text: String = pieces.iter().map(|piece| piece["content"].as_str().unwrap()).collect();
    assert_eq!((text.as_str(), &pieces.last().unwrap()["stop"]), (filled, &json!(true)));
    // an editor makes the state ready before anybody types
    assert_eq!(server.ask("/infill", &with(asked, json!({"n_predict": 0})))["content"], "");

    let asked = json!({"prompt": "a", "suffix": "b", "stream": false, "options": {"temperature": 0}});
    assert_eq!(server.ask("/api/generate", &asked)["response"], filled);
    assert_eq!(server.ask("/api/show", &json!({}))["capabilities"][3], "insert");

    let without = Server::start(&[]);
    let refused = without.post("/infill", &json!({"input_prefix": "a", "input_suffix": "b"}));
    assert_eq!(refused.status, 400);
    assert!(refused.body.contains("fim_prefix"), "{refused:?}");
    assert_eq!(without.post("/api/generate", &asked).status, 400);
    let refused = without.post(COMPLETIONS, &json!({"prompt": "a", "suffix": "b"}));
    assert_eq!((refused.status, refused.json()["error"]["param"].clone()), (400, json!("suffix")));
}

/// llama.cpp's own route: a text or tokens, whole and streamed, how it ended, a schema, several prompts, both its names.
#[test]
fn llama_cpps_completion() {
    let server = Server::start(&[]);
    let asked = json!({"prompt": "Once upon a time", "n_predict": 20, "temperature": 0, "cache_prompt": true});
    let whole = server.ask("/completion", &asked);
    let text = whole["content"].as_str().unwrap().to_owned();
    assert!(text.starts_with(" there was a little"), "{whole}");
    let tokens = ids(&server, "Once upon a time");
    let expected = json!({"stop": true, "stop_type": "limit", "stopping_word": "", "tokens_predicted": 20,
        "tokens_evaluated": tokens.len(), "truncated": false, "index": 0});
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&whole[key], value, "{key}");
    }
    assert_eq!(whole["timings"]["predicted_n"], 20);
    let same = [
        json!({"prompt": tokens}),
        json!({"prompt": [tokens[0], server.ask("/detokenize", &json!({"tokens": tokens[1..]}))["content"]]}),
        json!({"prompt": {"prompt_string": "Once upon a time"}}),
        json!({"n_predict": null, "max_tokens": 20}),
    ];
    for more in same {
        assert_eq!(server.ask("/completions", &with(asked.clone(), more.clone()))["content"], text, "{more}");
    }
    let told = server.ask("/completion", &with(asked.clone(), json!({"return_tokens": true, "n_probs": 2})));
    assert_eq!(server.ask("/detokenize", &json!({"tokens": told["tokens"]}))["content"], text);
    let first = &told["completion_probabilities"][0];
    assert_eq!((&first["token"], first["top_logprobs"].as_array().unwrap().len()), (&json!(" there"), 2));

    let answer = server.post("/completion", &with(asked.clone(), json!({"stream": true, "stop": ["little"]})));
    let pieces: Vec<Value> = answer.events().iter().map(|(_, data)| serde_json::from_str(data).unwrap()).collect();
    let (last, before) = pieces.split_last().unwrap();
    let streamed: String = before.iter().map(|piece| piece["content"].as_str().unwrap()).collect();
    assert_eq!(streamed, text.split("little").next().unwrap());
    assert!(before.iter().all(|piece| piece["stop"] == false), "{before:?}");
    assert_eq!(
        (&last["stop"], &last["stop_type"], &last["stopping_word"]),
        (&json!(true), &json!("word"), &json!("little"))
    );

    let schema = json!({"type": "object", "properties": {"n": {"type": "integer", "maximum": 9}}, "required": ["n"],
        "additionalProperties": false});
    let formed = server.ask("/completion", &with(asked.clone(), json!({"json_schema": schema})));
    let value: Value = serde_json::from_str(formed["content"].as_str().unwrap()).unwrap();
    assert!(value["n"].is_i64(), "{formed}");
    let biased = with(asked.clone(), json!({"logit_bias": [[ids(&server, " there")[0], false]], "n_predict": 1}));
    assert_ne!(server.ask("/completion", &biased)["content"], " there");

    let both = server.ask("/completion", &with(asked.clone(), json!({"prompt": ["Once upon a time", tokens]})));
    let both: Vec<(&Value, &Value)> =
        both.as_array().unwrap().iter().map(|answer| (&answer["content"], &answer["index"])).collect();
    assert_eq!(both, [(&json!(text), &json!(0)), (&json!(text), &json!(1))]);

    let wrong = [
        (json!({"prompt": {"prompt_string": "a", "multimodal_data": ["x"]}}), "prompt"),
        (json!({"prompt": [1.5]}), "prompt"),
        (json!({"prompt": []}), "prompt"),
        (json!({"prompt": null}), "prompt"),
        (json!({"grammar": "root ::= \"a\""}), "grammar"),
        (json!({"n_probs": 21}), "n_probs"),
        (json!({"prompt": ["a", "b"], "stream": true}), "stream"),
    ];
    for (more, field) in wrong {
        let refused = server.post("/completion", &with(asked.clone(), more.clone()));
        assert_eq!((refused.status, &refused.json()["error"]["param"]), (400, &json!(field)), "{more}: {refused:?}");
    }
}

/// A text that ends in the middle of a word goes on with the rest of it, over all protocols of texts; what is counted and
/// what is reused are those of the text as it was given. Token ids are taken as they are.
#[test]
fn a_word_that_is_cut_is_finished() {
    let server = Server::start(&[]);
    let more = json!({"max_tokens": 4, "temperature": 0});
    for (text, rest) in
        [("Once upon a ti", "me there was a"), ("There was a li", "ttle"), ("Once upon a time", " there was a")]
    {
        let asked = with(more.clone(), json!({"prompt": text}));
        let whole = server.ask(COMPLETIONS, &asked);
        let found = whole["choices"][0]["text"].as_str().unwrap();
        assert!(found.starts_with(rest), "{text}: {found}");
        let usage = &whole["usage"];
        let given = ids(&server, text);
        assert_eq!((&usage["prompt_tokens"], &usage["completion_tokens"]), (&json!(given.len()), &json!(4)), "{text}");
        let chunks = server.post(COMPLETIONS, &with(asked.clone(), json!({"stream": true}))).chunks();
        let streamed: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
        assert_eq!(streamed, found);
        let echoed = server.ask(COMPLETIONS, &with(asked.clone(), json!({"echo": true})));
        assert_eq!(echoed["choices"][0]["text"], format!("{text}{found}"));
        let native = server.ask("/completion", &json!({"prompt": text, "n_predict": 4, "temperature": 0}));
        assert_eq!(native["content"], found);
        let raw =
            json!({"prompt": text, "raw": true, "stream": false, "options": {"temperature": 0, "num_predict": 4}});
        assert_eq!(server.ask("/api/generate", &raw)["response"], found);
    }
    let tokens = server.ask(COMPLETIONS, &with(more.clone(), json!({"prompt": ids(&server, "Once upon a ti")})));
    assert!(!tokens["choices"][0]["text"].as_str().unwrap().starts_with("me"), "{tokens}");
    for prompt in ["a", "L"] {
        server.ask(COMPLETIONS, &with(more.clone(), json!({"prompt": prompt})));
    }
}
