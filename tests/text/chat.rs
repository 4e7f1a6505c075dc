//! Conversations through the small MoE's template and through one with the devices of a large model's.

use std::path::Path;

use flashflood::text::{ChatTemplate, Message};
use serde_json::{Map, Value, json};

use super::{read, small_moe};

fn small_template() -> ChatTemplate {
    ChatTemplate::new(&small_moe("chat_template.jinja"), &read("chat_template.jinja")).unwrap()
}

#[test]
fn small_moe_is_asked_as_it_was_trained() {
    let template = small_template();
    let text =
        template.render(&[Message::new("user", "What is the capital of Peru?")], None, true, &Map::new()).unwrap();
    assert_eq!(
        text,
        "<|im_start|>user\nWhat is the capital of Peru?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    );
}

#[test]
fn conversations_render_to_the_training_texts() {
    let template = small_template();
    // the golden texts end with a line of their own and <|endoftext|>
    let golden: Value = serde_json::from_str(&read("golden.json")).unwrap();
    let mut with_tools = 0;
    for prompt in golden["prompts"].as_array().unwrap() {
        let text = prompt["text"].as_str().unwrap();
        let Some(text) = text.strip_suffix("<|endoftext|>").filter(|t| t.starts_with("<|im_start|>")) else {
            continue;
        };
        let mut messages = Vec::new();
        let mut tools = Vec::new();
        for turn in text.split("<|im_start|>").skip(1) {
            let (role, content) = turn.strip_suffix("<|im_end|>\n").unwrap().split_once('\n').unwrap();
            if role == "system" {
                let list = content.split_once("<tools>\n").unwrap().1.strip_suffix("\n</tools>").unwrap();
                tools = list.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
                with_tools += 1;
                continue;
            }
            let content = content.trim_start_matches("<think>\n\n</think>\n\n");
            let response = content.strip_prefix("<tool_response>\n").and_then(|c| c.strip_suffix("\n</tool_response>"));
            messages.push(match response {
                Some(response) => Message::new("tool", response),
                None => Message::new(role, content),
            });
        }
        let tools = (!tools.is_empty()).then_some(Value::Array(tools));
        assert_eq!(template.render(&messages, tools.as_ref(), false, &Map::new()).unwrap(), text);
    }
    assert!(with_tools >= 2);
}

/// The devices of a large model's template: macros, namespaces, reversed loops, thoughts dropped before the last
/// question, tool calls spelled out.
const LARGE_TEMPLATE: &str = r#"
{%- macro body(content) %}
    {%- if content is string %}
        {{- content }}
    {%- elif content is iterable and content is not mapping %}
        {%- for part in content if part.type == 'text' %}
            {{- part.text }}
        {%- endfor %}
    {%- elif content is not none and content is not undefined %}
        {{- raise_exception('content of an unknown kind') }}
    {%- endif %}
{%- endmacro %}
{%- if not messages %}
    {{- raise_exception('No messages.') }}
{%- endif %}
{%- if tools and tools is iterable %}
    {{- '<|im_start|>system\n<tools>' }}
    {%- for tool in tools %}
        {{- '\n' }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- '\n</tools><|im_end|>\n' }}
{%- endif %}
{%- set state = namespace(searching=true, last_question=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if state.searching and message.role == "user" and not body(message.content).startswith('<tool_response>') %}
        {%- set state.searching = false %}
        {%- set state.last_question = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = body(message.content)|trim %}
    {%- if message.role == "system" and not loop.first %}
        {{- raise_exception('System message must be first.') }}
    {%- elif message.role == "assistant" %}
        {%- set thoughts = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thoughts = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thoughts = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\n' }}
        {%- if loop.index0 > state.last_question %}
            {{- '<think>\n' + thoughts|trim + '\n</think>\n\n' }}
        {%- endif %}
        {{- content }}
        {%- if message.tool_calls is defined and message.tool_calls %}
            {%- for call in message.tool_calls %}
                {%- if call.function is defined %}
                    {%- set call = call.function %}
                {%- endif %}
                {{- '\n<tool_call>\n<function=' + call.name + '>\n' }}
                {%- for name, value in call.arguments|items %}
                    {%- set value = value | tojson if value is mapping or (value is sequence and value is not string) else value | string %}
                    {{- '<parameter=' + name + '>\n' + value + '\n</parameter>\n' }}
                {%- endfor %}
                {{- '</function>\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.previtem is undefined or loop.previtem.role != "tool" %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<tool_response>\n' + content + '\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != "tool" %}
            {{- '<|im_end|>\n' }}
        {%- endif %}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- else %}
        {{- '<think>\n' }}
    {%- endif %}
{%- endif %}
"#;

#[test]
fn large_template_renders_tool_loops_and_thoughts() {
    let template = ChatTemplate::new(Path::new("dir/chat_template.jinja"), LARGE_TEMPLATE).unwrap();
    let messages: Vec<Message> = serde_json::from_value(json!([
        {"role": "system", "content": " Be brief. "},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "<think>\nold\n</think>\n\nYes."},
        {"role": "user", "content": [{"type": "text", "text": "Two "}, {"type": "image"}, {"type": "text", "text": "<b>?"}]},
        {"role": "assistant", "content": null, "reasoning_content": "new", "tool_calls": [{"type": "function", "function": {
            "name": "look", "arguments": "{\"z\": true, \"a\": [1, \"é\"], \"s\": \"x y\", \"n\": 1.0}"}}]},
        {"role": "tool", "content": "r1"},
        {"role": "tool", "content": "r2"},
    ])).unwrap();
    let tools = json!([{"type": "function", "function": {"name": "look", "parameters": {}}}]);
    let expected = "<|im_start|>system\n<tools>\n{\"type\": \"function\", \"function\": {\"name\": \"look\", \"parameters\": {}}}\n</tools><|im_end|>\n\
        <|im_start|>system\nBe brief.<|im_end|>\n\
        <|im_start|>user\nOne?<|im_end|>\n\
        <|im_start|>assistant\nYes.<|im_end|>\n\
        <|im_start|>user\nTwo <b>?<|im_end|>\n\
        <|im_start|>assistant\n<think>\nnew\n</think>\n\n\n<tool_call>\n<function=look>\n\
        <parameter=z>\nTrue\n</parameter>\n<parameter=a>\n[1, \"é\"]\n</parameter>\n<parameter=s>\nx y\n</parameter>\n<parameter=n>\n1.0\n</parameter>\n\
        </function>\n</tool_call><|im_end|>\n\
        <|im_start|>user\n<tool_response>\nr1\n</tool_response>\n<tool_response>\nr2\n</tool_response><|im_end|>\n";
    assert_eq!(template.render(&messages, Some(&tools), false, &Map::new()).unwrap(), expected);

    let question = [Message::new("user", "Hi")];
    let asked = |extra: Value| template.render(&question, None, true, extra.as_object().unwrap()).unwrap();
    assert_eq!(asked(json!({})), "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n");
    assert!(asked(json!({"enable_thinking": false})).ends_with("assistant\n<think>\n\n</think>\n\n"));

    let late = [Message::new("user", "Hi"), Message::new("system", "x")];
    let error = template.render(&late, None, true, &Map::new()).unwrap_err().to_string();
    let line = LARGE_TEMPLATE.lines().position(|l| l.contains("must be first")).unwrap() + 1;
    assert_eq!(error, format!("dir/chat_template.jinja: line {line}: System message must be first."));
    assert!(template.render(&[], None, true, &Map::new()).unwrap_err().to_string().contains("No messages."));
}
