//! Calls as models wrote them, whole and in pieces.

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::text::QWEN;
use crate::text::reply::tests::{CLOSED, OPEN, cut_with, parts};
use crate::text::reply::{ReplyParser, ReplyPart, ToolCall};

/// What a model wrote, and how it is to be read.
#[derive(Deserialize)]
struct Case {
    case: String,
    output: String,
    /// Whether the prompt ends by opening thoughts.
    thinks: bool,
    /// The types of parameters, by the names of functions.
    tools: Map<String, Value>,
    reasoning: String,
    content: String,
    calls: Vec<(String, Value)>,
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("../../../tests/text/calls.json")).expect("a list of cases")
}

fn tools(types: &Map<String, Value>) -> Vec<Value> {
    let tool = |(name, keys): (&String, &Value)| {
        let keys = keys.as_object().into_iter().flatten();
        let properties: Map<String, Value> = keys.map(|(key, kind)| (key.clone(), json!({"type": kind}))).collect();
        json!({"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}})
    };
    types.iter().map(tool).collect()
}

/// All thoughts, all text, all calls.
fn sorted(parts: Vec<ReplyPart>) -> (String, String, Vec<ToolCall>) {
    let mut all = (String::new(), String::new(), Vec::new());
    for part in parts {
        match part {
            ReplyPart::Thinking(piece) => all.0.push_str(&piece),
            ReplyPart::Text(piece) => all.1.push_str(&piece),
            ReplyPart::ToolCall(call) => all.2.push(call),
            ReplyPart::CallBegin(_) | ReplyPart::CallArguments(_) => {}
        }
    }
    all
}

#[test]
fn calls_as_models_write_them() {
    for case in cases() {
        let prompt = if case.thinks { OPEN } else { CLOSED };
        let (reasoning, content, calls) = sorted(cut_with(prompt, &tools(&case.tools), &case.output));
        let mut rest = case.output.as_str();
        for call in &calls {
            let at = rest.find(&call.source).unwrap_or_else(|| panic!("{}: not written: {}", case.case, call.source));
            rest = &rest[at + call.source.len()..];
        }
        let calls: Vec<(String, Value)> = calls.into_iter().map(|call| (call.name, call.arguments.into())).collect();
        assert_eq!((reasoning, content, calls), (case.reasoning, case.content, case.calls), "{}", case.case);
    }
}

/// What is told of a call before its end.
#[test]
fn arguments_are_told_while_they_come() {
    let types = json!({"write": {"path": "string", "content": "string", "mode": "integer"}});
    let told = |written: &str| {
        let mut parser = ReplyParser::new(&QWEN, CLOSED, tools(types.as_object().expect("an object")));
        let parts = parser.push(written);
        let mut told = String::new();
        for part in parts {
            match part {
                ReplyPart::CallBegin(name) => told.push_str(&format!("{name} ")),
                ReplyPart::CallArguments(piece) => told.push_str(&piece),
                other => told.push_str(&format!("{other:?}")),
            }
        }
        told
    };
    let xml = "<tool_call>\n<function=write>\n";
    assert_eq!(told(xml), "");
    let xml = format!("{xml}<parameter=content>\n");
    assert_eq!(told(&xml), "write {\"content\":\"");
    assert_eq!(told(&format!("{xml}a \"b\" <div>\n  c")), r#"write {"content":"a \"b\" <div>\n  c"#);
    assert_eq!(told(&format!("{xml}a\n\n  ")), r#"write {"content":"a\n"#);
    assert_eq!(told(&format!("{xml}a\n</para")), r#"write {"content":"a"#);
    // what is no text is told when it is complete
    let xml = format!("{xml}a\n</parameter>\n<parameter=mode>\n4");
    assert_eq!(told(&xml), r#"write {"content":"a","mode":"#);
    assert_eq!(told(&format!("{xml}2\n</parameter>\n<")), r#"write {"content":"a","mode":"#);
    assert_eq!(told(&format!("{xml}2\n</parameter>\n</function>")), r#"write {"content":"a","mode":42}"#);
    let json = r#"<tool_call>{"name": "write", "arguments": {"content": "a"#;
    assert_eq!(told(json), r#"write {"content":"a"#);
    assert_eq!(told(&format!("{json}\\u00e")), r#"write {"content":"a"#);
    assert_eq!(told(&format!("{json}\\u00e9\", \"mode\": 4")), r#"write {"content":"aé","mode":"#);
}

#[test]
fn a_call_that_is_cut_off_ends_with_what_there_is() {
    let types = json!({"weather": {"city": "string"}});
    let tools = tools(types.as_object().expect("an object"));
    let read = |written: &str| sorted(cut_with(CLOSED, &tools, written));
    for (written, city) in [
        ("<tool_call>\n<function=weather>\n<parameter=city>\nLim", json!({"city": "Lim"})),
        ("<tool_call>\n<function=weather>\n<parameter=city>", json!({"city": ""})),
        ("<tool_call>\n<function=weather>\n<parameter=city>\nLima\n</param", json!({"city": "Lima\n</param"})),
        ("<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\":", json!({"city": null})),
        ("<tool_call>{\"name\": \"weather\", \"arguments\": {\"ci", json!({})),
    ] {
        let (reasoning, content, calls) = read(written);
        assert_eq!((reasoning.as_str(), content.as_str(), calls.len()), ("", "", 1), "{written}");
        assert_eq!((Value::from(calls[0].arguments.clone()), calls[0].source.as_str()), (city, written));
    }
    // its name alone does not make a call
    for written in ["<tool_call>\n<function=weather>\n", "<tool_call>{\"name\": \"weather\", ", "<function=weather"] {
        assert_eq!(read(written), (String::new(), written.to_owned(), Vec::new()));
    }
}

/// A grammar begins at the mark of a call, and JSON that it asks for may look like one.
#[test]
fn where_a_grammar_rules_only_marked_calls_are_calls() {
    let types = json!({"weather": {"city": "string"}});
    for (written, is_call) in [
        ("{\"name\": \"weather\", \"arguments\": {\"city\": \"Lima\"}}", false),
        ("<function=weather>\n<parameter=city>\nLima\n</parameter>\n</function>", false),
        ("<tool_call>\n<function=weather>\n<parameter=city>\nLima\n</parameter>\n</function>\n</tool_call>", true),
    ] {
        let tools = tools(types.as_object().expect("an object"));
        let mut parser = ReplyParser::new(&QWEN, CLOSED, tools).with_grammar();
        let mut parts = parser.push(written);
        parts.extend(parser.finish());
        assert_eq!(sorted(parts).2.len(), usize::from(is_call), "{written}");
    }
    let mut parser = ReplyParser::new(&QWEN, OPEN, Vec::new()).with_grammar();
    parser.push("A \"</think>");
    assert!(!parser.is_thinking(), "what comes next follows the grammar");
    // so does what comes behind the mark of a call
    let mut parser = ReplyParser::new(&QWEN, OPEN, tools(types.as_object().expect("an object"))).with_grammar();
    parser.push("Look.\n<tool_call>");
    assert!(parser.is_calling() && !parser.is_thinking());
}

fn visible(text: &str) -> String {
    text.replace("<think>", "").replace("</think>", "").split_whitespace().collect()
}

/// Pieces of answers: marks, and what stands between them.
const WORDS: [&str; 41] = [
    "<think>",
    "</think>",
    "<tool_call>",
    "<tool_call",
    "</tool_call>",
    "</tool_call",
    "<function=stop>",
    "<function=weather>",
    "<function=\"weather\"",
    "<function=other>",
    "</function>",
    "</function",
    "<parameter=city>",
    "<parameter=city",
    "<parameter=days>",
    "<parameter=x y>",
    "</parameter>",
    "</parameter",
    "{\"name\": \"weather\", \"arguments\": {",
    "{\"name\": \"stop\"}",
    "{'name': 'other',",
    "\"city\": \"",
    "\"arguments\":",
    "\"",
    "'",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "3.70",
    "True",
    "\\u00e9\\n\\d",
    "é",
    " ",
    "  ",
    "\n",
    "\r\n",
    "<",
    "a",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// Whatever comes in whatever pieces: the same parts, and what can be seen is in one of them.
    #[test]
    fn mixtures_of_marks(
        words in prop::collection::vec(prop::sample::select(WORDS.to_vec()), 0..40),
        cuts in prop::collection::vec(0usize..400, 0..8),
        opened: bool,
    ) {
        mixture(&words.concat(), cuts, opened)?;
    }

    /// Cases with something put in, or left out.
    #[test]
    fn cases_with_slips(
        case in prop::sample::select(cases().into_iter().map(|case| (case.output, case.thinks)).collect::<Vec<_>>()),
        word in prop::sample::select(WORDS.to_vec()),
        (from, bytes) in (0usize..400, 0usize..16),
        cuts in prop::collection::vec(0usize..400, 0..8),
    ) {
        let (output, thinks) = case;
        let from = output.floor_char_boundary(from % (output.len() + 1));
        let to = output.floor_char_boundary((from + bytes).min(output.len())).max(from);
        mixture(&[&output[..from], word, &output[to..]].concat(), cuts, thinks)?;
    }
}

fn mixture(answer: &str, cuts: Vec<usize>, opened: bool) -> Result<(), TestCaseError> {
    let types = json!({"weather": {"city": "string", "days": "integer"}, "stop": {}, "write": {"path": "string", "content": "string"}});
    let tools = tools(types.as_object().expect("an object"));
    let prompt = if opened { OPEN } else { CLOSED };
    let mut ends: Vec<usize> =
        cuts.into_iter().filter(|at| answer.is_char_boundary(*at)).chain([0, answer.len()]).collect();
    ends.retain(|at| *at <= answer.len());
    ends.sort_unstable();
    let pieces: Vec<&str> = ends.windows(2).map(|pair| &answer[pair[0]..pair[1]]).collect();
    let whole = parts(prompt, tools.clone(), &[answer]);
    prop_assert_eq!(parts(prompt, tools.clone(), &pieces), whole.clone());
    let characters: Vec<&str> = answer.split_inclusive(|_| true).collect();
    prop_assert_eq!(parts(prompt, tools, &characters), whole.clone());
    let seen: String = whole
        .iter()
        .map(|part| match part {
            ReplyPart::Thinking(text) | ReplyPart::Text(text) => text.as_str(),
            ReplyPart::ToolCall(call) => &call.source,
            _ => "",
        })
        .collect();
    prop_assert_eq!(visible(&seen), visible(answer));
    Ok(())
}
