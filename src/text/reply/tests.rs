//! Answers taken apart, whole and in pieces.

use super::*;
use proptest::prelude::*;
use serde_json::json;

fn tools() -> Vec<Value> {
    let properties = json!({
        "city": {"type": "string"}, "days": {"type": "integer"}, "exact": {"type": "boolean"},
        "limit": {"type": ["number", "null"]}, "tags": {"type": "array"}, "where": {"type": "object"},
        "any": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
    });
    let weather =
        json!({"type": "function", "function": {"name": "weather", "parameters": {"properties": properties}}});
    vec![weather, json!({"type": "function", "function": {"name": "stop"}})]
}

/// Thoughts, text and calls of an answer in pieces, neighbours of one kind put together. The pieces of each call must make
/// the whole one, which is all that is given of it.
pub(crate) fn parts(prompt: &str, tools: Vec<Value>, pieces: &[&str]) -> Vec<ReplyPart> {
    let mut parser = ReplyParser::new(&QWEN, prompt, tools);
    let mut found: Vec<ReplyPart> = pieces.iter().flat_map(|piece| parser.push(piece)).collect();
    found.extend(parser.finish());
    let mut joined: Vec<ReplyPart> = Vec::new();
    let mut begun: Option<(String, String)> = None;
    for part in found {
        assert!(begun.is_none() || matches!(part, ReplyPart::CallArguments(_) | ReplyPart::ToolCall(_)), "{part:?}");
        match (joined.last_mut(), part) {
            (_, ReplyPart::CallBegin(name)) => begun = Some((name, String::new())),
            (_, ReplyPart::CallArguments(piece)) => begun.as_mut().expect("a call begins first").1.push_str(&piece),
            (_, ReplyPart::ToolCall(call)) => {
                let whole = (call.name.clone(), Value::Object(call.arguments.clone()).to_string());
                assert_eq!(begun.take().as_ref(), Some(&whole), "{}", call.source);
                joined.push(ReplyPart::ToolCall(call));
            }
            (Some(ReplyPart::Text(before)), ReplyPart::Text(more)) => before.push_str(&more),
            (Some(ReplyPart::Thinking(before)), ReplyPart::Thinking(more)) => before.push_str(&more),
            (_, part) => joined.push(part),
        }
    }
    assert_eq!(begun, None, "a call that began has no end");
    joined
}

/// The parts of an answer, which must be the same wherever it is cut in two, and in pieces of one character.
fn cut(prompt: &str, answer: &str) -> Vec<ReplyPart> {
    cut_with(prompt, &tools(), answer)
}

pub(crate) fn cut_with(prompt: &str, tools: &[Value], answer: &str) -> Vec<ReplyPart> {
    let parts = |pieces: &[&str]| parts(prompt, tools.to_vec(), pieces);
    let whole = parts(&[answer]);
    for (at, _) in answer.char_indices() {
        assert_eq!(parts(&[&answer[..at], &answer[at..]]), whole, "{answer:?} cut at {at}");
    }
    let characters: Vec<&str> = answer.split_inclusive(|_| true).collect();
    assert_eq!(parts(&characters), whole, "{answer:?} in characters");
    whole
}

fn thought(text: &str) -> ReplyPart {
    ReplyPart::Thinking(text.into())
}

fn said(text: &str) -> ReplyPart {
    ReplyPart::Text(text.into())
}

fn called(part: &ReplyPart) -> (&str, Value) {
    match part {
        ReplyPart::ToolCall(call) => (&call.name, call.arguments.clone().into()),
        other => panic!("no call: {other:?}"),
    }
}

pub(crate) const OPEN: &str = "<|im_start|>assistant\n<think>\n";
pub(crate) const CLOSED: &str = "<|im_start|>assistant\n<think>\n\n</think>\n\n";

#[test]
fn thoughts_end_where_they_say() {
    assert_eq!(cut(OPEN, "Hm.\n\nYes.\n</think>\n\nLima é"), [thought("Hm.\n\nYes."), said("Lima é")]);
    assert_eq!(cut(OPEN, "only thoughts </thi"), [thought("only thoughts </thi")]);
    assert_eq!(cut(OPEN, "Not `</think>` yet.</think>Lima"), [thought("Not `</think>` yet."), said("Lima")]);
    assert_eq!(cut(OPEN, "It is \"Lima\"</think>'s"), [thought("It is \"Lima\""), said("'s")]);
    assert_eq!(cut(CLOSED, "Lima\n"), [said("Lima\n")]);
    assert_eq!(cut(CLOSED, " \n"), []);
    assert_eq!(cut(CLOSED, " Lima"), [said(" Lima")]);
    // a model that opens its thoughts itself
    assert_eq!(cut("", "\n<think>a</think>b"), [thought("a"), said("b")]);
    assert_eq!(cut("What is <think>?<|im_end|>\n<|im_start|>assistant\n", "A tag."), [said("A tag.")]);
    // later there are no thoughts to open
    assert_eq!(cut(CLOSED, "x <think> y </think>"), [said("x <think> y </think>")]);
    assert_eq!(cut(OPEN, "a</think>\n <tool"), [thought("a"), said("<tool")]);
}

#[test]
fn calls_have_the_types_of_their_schema() {
    let call = "<tool_call>\n<function=weather>\n<parameter=city>\n7\n</parameter>\n<parameter=days>\n3\n</parameter>\n\
        <parameter=exact>\nTrue\n</parameter>\n<parameter=limit>\nnull\n</parameter>\n<parameter=tags>\n[1, \"a\"]\n</parameter>\n\
        <parameter=where>\n{\"x\": {\"y\": 1}}\n</parameter>\n<parameter=any>\n12\n</parameter>\n<parameter=more>\ntwo\nlines\n</parameter>\n\
        </function>\n</tool_call>";
    let found = cut(CLOSED, call);
    assert_eq!(found.len(), 1);
    let arguments = json!({"city": "7", "days": 3, "exact": true, "limit": null, "tags": [1, "a"], "where": {"x": {"y": 1}},
        "any": 12, "more": "two\nlines"});
    assert_eq!(called(&found[0]), ("weather", arguments));
    assert!(matches!(&found[0], ReplyPart::ToolCall(ToolCall { source, .. }) if source == call));
}

#[test]
fn what_does_not_fit_its_type_stays_text() {
    let value = |key: &str, value: &str| {
        let call =
            format!("<tool_call><function=weather><parameter={key}>\n{value}\n</parameter></function></tool_call>");
        called(&cut(CLOSED, &call)[0]).1[key].clone()
    };
    assert_eq!(value("days", "soon"), json!("soon"));
    assert_eq!(value("exact", "maybe"), json!("maybe"));
    assert_eq!(value("tags", "[1,"), json!("[1,"));
    assert_eq!(value("limit", "2.5"), json!(2.5));
    assert_eq!(value("city", "null"), json!("null"));
    // one line end on each side belongs to the dialect, the others to the value
    assert_eq!(value("city", "\na\n"), json!("\na\n"));
}

#[test]
fn calls_in_thoughts_between_text_and_in_json() {
    let stop = "<tool_call>\n<function=stop>\n</function>\n</tool_call>";
    let found = cut(OPEN, &format!("I must. {stop}"));
    assert_eq!(found[0], thought("I must."));
    assert_eq!(called(&found[1]), ("stop", json!({})));
    let found = cut(OPEN, &format!("a</think>\n\nOne:\n\n{stop}\n{stop}\nDone."));
    assert_eq!((&found[0], &found[1], &found[4]), (&thought("a"), &said("One:"), &said("Done.")));
    assert_eq!((called(&found[2]).0, called(&found[3]).0), ("stop", "stop"));
    let json = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Lima\"}}\n</tool_call>";
    assert_eq!(called(&cut(CLOSED, json)[0]), ("weather", json!({"city": "Lima"})));
    // the model's turn ended before the last word of the call
    assert_eq!(called(&cut(CLOSED, "<tool_call><function=stop></function>")[0]), ("stop", json!({})));
}

#[test]
fn nothing_malformed_is_lost() {
    for broken in [
        "<tool_call>",
        "<tool_call>hello</tool_call>",
        "<tool_call><function=></function",
        "<tool_call><function=f>1</function></tool_call>",
        "<tool_call>{\"name\": 3}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>",
        "<tool_call>{\"name\": \"f\", </tool_call>",
    ] {
        assert_eq!(cut(CLOSED, broken), [said(broken)]);
    }
    // without tools a call is text like any other
    let call = "x <tool_call><function=stop></function></tool_call>";
    assert_eq!(parts(CLOSED, Vec::new(), &[call]), [said(call)]);
    assert_eq!(parts(OPEN, Vec::new(), &[call]), [thought(call)]);
    let mut plain = ReplyParser::default();
    assert_eq!(plain.push("<think> </think>"), [said("<think> </think>")]);
}

proptest! {
    /// Whatever comes in whatever pieces: the same parts, and without tools no visible character is lost.
    #[test]
    fn pieces_do_not_matter(
        words in prop::collection::vec(prop::sample::select(vec![
            "<think>", "</think>", "<tool_call>", "</tool_call>", "<function=stop>", "</function>", "<parameter=a>",
            "</parameter>", "{\"name\": \"f\"}", "a", "é", " ", "\n", "<", "</", "<tool",
        ]), 0..16),
        cuts in prop::collection::vec(0usize..200, 0..8),
        opened: bool,
    ) {
        let answer = words.concat();
        let prompt = if opened { OPEN } else { CLOSED };
        let mut ends: Vec<usize> = cuts.into_iter().filter(|at| answer.is_char_boundary(*at)).chain([0, answer.len()]).collect();
        ends.retain(|at| *at <= answer.len());
        ends.sort_unstable();
        let pieces: Vec<&str> = ends.windows(2).map(|pair| &answer[pair[0]..pair[1]]).collect();
        prop_assert_eq!(parts(prompt, tools(), &pieces), parts(prompt, tools(), &[&answer]));
        let visible = |text: &str| text.replace("<think>", "").replace("</think>", "").split_whitespace().collect::<String>();
        let plain: String = parts(prompt, Vec::new(), &pieces).iter().map(|part| match part {
            ReplyPart::Thinking(text) | ReplyPart::Text(text) => text.as_str(),
            _ => "",
        }).collect();
        prop_assert_eq!(visible(&plain), visible(&answer));
    }
}
