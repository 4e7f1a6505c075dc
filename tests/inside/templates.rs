//! Published chat templates, rendered as jinja2 renders them when transformers sets it up. `tests/golden/templates` has
//! the templates, the conversations and what came out; `make.py` there made it.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::xxh3_64;

use crate::engine::{Device, Engine, EngineOptions};
use crate::model::ModelSource;
use crate::text::{ChatTemplate, Message, TextError};

/// Renderings that differ from jinja2's: template, conversation (`*` is any), why.
const KNOWN_DIFFERENCES: &[(&str, &str, &str)] = &[(
    "llama-cpp-deepseek-r1",
    "*",
    "`tools | map(..) | tojson`: Python has no JSON for a generator and refuses every conversation with tools; here the list is written",
)];

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/templates").join(file)
}

fn read(file: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(golden(file)).unwrap()).unwrap()
}

/// The fifth of January 2026, 17:04:09, as `make.py` has it.
fn clock() -> u64 {
    1_767_632_649
}

fn template(name: &str, source: &str) -> Result<ChatTemplate, TextError> {
    let mut template = ChatTemplate::with_clock(Path::new(name), source, clock)?;
    let tokens = json!({"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"});
    template.add_special_tokens(Some(&tokens.to_string()), None);
    Ok(template)
}

fn render(template: &ChatTemplate, conversation: &Value) -> Result<String, TextError> {
    let messages: Vec<Message> = serde_json::from_value(conversation["messages"].clone()).unwrap();
    let tools = Some(&conversation["tools"]).filter(|tools| !tools.is_null());
    let prompt = conversation["add_generation_prompt"].as_bool().unwrap();
    template.render(&messages, tools, prompt, conversation["extra"].as_object().unwrap())
}

#[test]
fn published_templates_render_as_in_transformers() {
    let templates = miniz_oxide::inflate::decompress_to_vec_zlib(&fs::read(golden("templates.zlib")).unwrap()).unwrap();
    let templates: Map<String, Value> = serde_json::from_slice(&templates).unwrap();
    let (conversations, expected) = (read("conversations.json"), read("expected.json"));
    let conversations = conversations.as_object().unwrap();
    assert!(templates.len() > 60 && conversations.len() == 24);

    let mut wrong = Vec::new();
    let mut excused = vec![false; KNOWN_DIFFERENCES.len()];
    for (name, source) in &templates {
        let template = template(name, source.as_str().unwrap());
        for ((title, conversation), expected) in conversations.iter().zip(expected[name].as_array().unwrap()) {
            let text = template
                .as_ref()
                .map_err(ToString::to_string)
                .and_then(|template| render(template, conversation).map_err(|error| error.to_string()));
            let hash = text.as_ref().ok().map(|text| format!("{:016x}", xxh3_64(text.as_bytes()))[..8].to_owned());
            if hash.as_deref() == expected.as_str() {
                continue;
            }
            let known = KNOWN_DIFFERENCES.iter().position(|(n, t, _)| n == name && (*t == "*" || t == title));
            match known {
                Some(index) => excused[index] = true,
                None => wrong
                    .push(format!("{name} / {title}: {}", text.map_or_else(|error| error, |_| "another text".into()))),
            }
        }
    }
    assert!(wrong.is_empty(), "{} renderings:\n{}", wrong.len(), wrong.join("\n"));
    for (known, excused) in KNOWN_DIFFERENCES.iter().zip(excused) {
        assert!(excused, "no longer a difference: {known:?}");
    }
}

#[test]
fn small_templates_render_as_in_transformers() {
    let expressions = read("expressions.json");
    let mut wrong = Vec::new();
    for pair in expressions["templates"].as_array().unwrap() {
        let source = pair[0].as_str().unwrap();
        let found = template("t", source)
            .and_then(|template| template.render(&[], None, false, expressions["values"].as_object().unwrap()));
        if found.as_ref().ok().map(String::as_str) != pair[1].as_str() {
            wrong.push(format!("{source}\n  jinja2 {:?}\n  here   {found:?}", pair[1].as_str()));
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_template_that_never_ends_is_refused() {
    for source in [
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='x') %}{% for a in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x='x') %}{% for a in range(99) %}{% set ns.x = ns.x.replace('x', 'xxx') %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for a in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set big = 'x' * 99999 %}{% set all %}{% for a in range(99999) %}{{ big }}{% endfor %}{% endset %}",
        "{{ 'x' * 999999999999 }}",
        "{{ 'x'.center(999999999999) }}",
        "{{ [1] * 999999999999 }}",
        "{{ '%999999999999d' % 1 }}",
        "{{ '{:>999999999999}'.format(1) }}",
        "{{ [[1]] | tojson(indent=999999999999) }}",
        "{{ range(1, 999999999999) | list }}",
        "{{ loop.cycle() }}{% for x in [1] %}{{ loop.cycle() }}{% endfor %}",
    ] {
        let refused = template("t", source).and_then(|template| template.render(&[], None, false, &Map::new()));
        assert!(refused.is_err(), "{source}");
    }
}

#[test]
fn a_models_files_reach_its_template() {
    let mut source = ModelSource::embedded().unwrap();
    let files = &mut source.text_files;
    files.chat_template = Some("{{ bos_token }}{{ messages[0].content + eos_token }}".into());
    files.named_templates = vec![("tool_use".into(), "{{ pad_token }}{{ tools | length }}".into())];
    files.special_tokens_map =
        Some(json!({"bos_token": "<b>", "eos_token": {"content": "<e>"}, "pad_token": "<p>"}).to_string());
    let options = EngineOptions { device: Device::Cpu, context: Some(64), ..EngineOptions::default() };
    let template = Engine::from_source(source, &options).unwrap().chat_template().unwrap();
    let render = |tools| template.render(&[Message::new("user", "hi")], tools, false, &Map::new()).unwrap();
    assert_eq!((render(None), render(Some(&json!([1])))), ("<b>hi<e>".into(), "<p>1".into()));
}

proptest! {
    /// Pieces of templates in any order: an error or a text, and nothing else.
    #[test]
    fn any_text_is_a_template_or_an_error(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..24)) {
        let source: String = pieces.concat();
        if let Ok(template) = template("t", &source) {
            let values = json!({"x": [1, "é", {"a": null}], "s": "a b"});
            let _ = template.render(&[], None, true, values.as_object().unwrap());
        }
    }
}

const PIECES: &[&str] = &[
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "#}",
    "-",
    " ",
    "\n",
    "if ",
    "else",
    "endif",
    "for a in ",
    "endfor",
    "generation",
    "endgeneration",
    "set x = ",
    "set x",
    "endset",
    "macro m(a, b=a)",
    "endmacro",
    "raw",
    "endraw",
    "x",
    "s",
    "m(",
    "(",
    ")",
    "[",
    "]",
    "[::-1]",
    "[1:",
    ".items",
    ".split('é'",
    "|tojson",
    "|join(",
    "|map('",
    "is ",
    "not ",
    "in ",
    "+",
    "~",
    "*",
    "%",
    "'%s'",
    "'",
    "\"",
    "\\",
    "9",
    "1e9",
    "none",
    ",",
    ":",
    "=",
    "loop.cycle()",
    "é",
    "{% if x %}",
    "{% endif %}",
    "{{ x[0] }}",
];

#[test]
fn conversations_with_tools_have_their_own_template() {
    let mut template = template("dir/chat_template.jinja", "{{ bos_token }} no tools").unwrap();
    template
        .set_tool_use(
            Path::new("dir/tool_use"),
            "{{ eos_token }}{{ tools | length }}\n{{ raise_exception('no') if n }}",
        )
        .unwrap();
    let render = |tools: Option<&Value>, extra: Value| template.render(&[], tools, false, extra.as_object().unwrap());
    assert_eq!(render(None, json!({})).unwrap(), "<bos> no tools");
    assert_eq!(render(Some(&json!([1, 2])), json!({})).unwrap(), "<eos>2\n");
    assert_eq!(render(Some(&json!([])), json!({"n": 1})).unwrap_err().to_string(), "dir/tool_use: line 2: no");
}
