#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use serde_json::json;

use super::*;
use crate::text::QWEN;

/// The events of an answer, token by token, and the id of its call put as `ID`.
fn events(written: &str, stop: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/small-moe/tokenizer.json");
    let tokenizer = Tokenizer::from_json(&path, &std::fs::read_to_string(&path).unwrap()).unwrap();
    let parameters = json!({"properties": {"time": {"type": "string"}, "n": {"type": "integer"}}});
    let tool = json!({"type": "function", "function": {"name": "set_alarm", "parameters": parameters}});
    let reply = ReplyParser::new(&QWEN, "", vec![tool]);
    let stop_strings = vec![stop.to_owned()];
    let options = GenerateOptions { reply, stop_strings, ..GenerateOptions::default() };
    let mut answer = Answer::new(&tokenizer, &options);
    let mut events = Vec::new();
    for token in tokenizer.encode(written).unwrap() {
        events.extend(answer.push(token));
    }
    events.extend(answer.finish());
    let mut ids = std::collections::BTreeSet::new();
    let mut told = Vec::new();
    for event in events {
        told.push(match event {
            Event::Text(text) => format!("text {text}"),
            Event::ToolCallBegin { id, name } => {
                ids.insert(id);
                format!("begin {name}")
            }
            Event::ToolCallArguments { id, piece } => {
                ids.insert(id);
                piece
            }
            Event::ToolCall(call) => {
                ids.insert(call.id);
                format!("call {} {}", call.name, serde_json::Value::Object(call.arguments))
            }
            other => panic!("{other:?}"),
        });
    }
    assert!(ids.len() == usize::from(told.iter().any(|event| event.starts_with("begin"))), "{ids:?}");
    told
}

#[test]
fn a_call_is_told_in_pieces() {
    let call = "<tool_call>\n<function=set_alarm>\n<parameter=time>\n07:30 END\n</parameter>\n<parameter=n>\n3\n</parameter>\n";
    let whole = format!("One EN{call}</function>\n</tool_call>");
    let told = events(&whole, "END");
    // a stop string is none within a call, nor does it go on behind one
    let begin = told.iter().position(|event| event == "begin set_alarm").unwrap();
    assert_eq!(told[..begin].concat().replace("text ", ""), "One EN");
    let last = told.len() - 1;
    let arguments = r#"{"time":"07:30 END","n":3}"#;
    assert_eq!(
        (told[begin + 1..last].concat().as_str(), told[last].as_str()),
        (arguments, &*format!("call set_alarm {arguments}"))
    );
    assert!(last - begin > 4, "{told:?}");
    // what is cut off ends with what there is
    assert_eq!(events(call, "").last(), told.last());
    let told = events(&call[..call.find("07:30").unwrap() + 3], "");
    assert_eq!(told.last().unwrap(), r#"call set_alarm {"time":"07:"}"#);
    assert_eq!(told[1..told.len() - 1].concat(), r#"{"time":"07:"}"#);
    assert_eq!(events(&format!("An END {call}"), "END").concat().replace("text ", ""), "An ");
}
