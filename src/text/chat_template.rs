//! Renders a checkpoint's chat template, which is a Jinja template written for Python.
//!
//! The surroundings are those that transformers gives it: blocks swallow their line, Python's string methods exist,
//! `tojson` writes like `json.dumps`, `raise_exception` refuses a conversation, `strftime_now` tells the date, and the
//! special tokens have their names.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use minijinja::{Error, ErrorKind, Value};
use serde_json::Map;

use super::aside::{Aside, GivenUp};
use super::jinja::{self, Template};
use super::special_tokens::special_tokens;
use super::{Message, TextError};

/// How long a template may take, however many its steps: a step may be a long text.
const LONGEST: Duration = Duration::from_secs(30);

/// A parsed chat template, or two: one for conversations with tools.
#[derive(Debug)]
pub struct ChatTemplate {
    default: Named,
    tool_use: Option<Named>,
    special_tokens: Map<String, serde_json::Value>,
    clock: jinja::Clock,
}

/// A template and its path, for error messages.
#[derive(Debug)]
struct Named {
    origin: PathBuf,
    source: String,
    template: Arc<Template>,
    /// The engine calls itself, and stacks of callers may be small.
    threads: Aside,
}

impl Named {
    fn new(origin: &Path, source: &str, clock: jinja::Clock) -> Result<Self, TextError> {
        let at = |line, reason| TextError::ChatTemplate { path: origin.to_path_buf(), line, reason };
        jinja::check_source(source).map_err(|(line, reason)| at(line, reason))?;
        let threads = Aside::new("template", jinja::STACK, LONGEST);
        let text = source.to_owned();
        let template = threads.run(&|| true, move || Template::new(&text, clock).map(Arc::new));
        let template = template.map_err(|e| given_up(origin, &e))?.map_err(|e| template_error(origin, &e))?;
        Ok(Named { origin: origin.to_path_buf(), source: source.to_owned(), template, threads })
    }

    fn render(&self, variables: Value) -> Result<String, TextError> {
        let Named { origin, template, threads, .. } = self;
        let template = template.clone();
        match threads.run(&|| true, move || template.render(variables)) {
            Ok(rendered) => rendered.map_err(|e| template_error(origin, &e)),
            Err(e) => Err(given_up(origin, &e)),
        }
    }
}

impl ChatTemplate {
    /// Parses the text of `chat_template.jinja`; `origin` is its path, for error messages.
    pub fn new(origin: &Path, source: &str) -> Result<Self, TextError> {
        Self::with_clock(origin, source, jinja::now)
    }

    /// As [`new`](Self::new), at the time that `clock` tells.
    pub(crate) fn with_clock(origin: &Path, source: &str, clock: fn() -> u64) -> Result<Self, TextError> {
        let default = Named::new(origin, source, clock)?;
        Ok(ChatTemplate { default, tool_use: None, special_tokens: Map::new(), clock })
    }

    /// Takes the template `tool_use` for conversations with tools.
    pub(crate) fn set_tool_use(&mut self, origin: &Path, source: &str) -> Result<(), TextError> {
        self.tool_use = Some(Named::new(origin, source, self.clock)?);
        Ok(())
    }

    /// Lets templates name the special tokens of `tokenizer_config.json` and `special_tokens_map.json`.
    pub(crate) fn add_special_tokens(&mut self, config: Option<&str>, map: Option<&str>) {
        self.special_tokens = special_tokens(config, map);
    }

    /// The text of the template that conversations with tools have.
    pub(crate) fn source(&self) -> &str {
        &self.tool_use.as_ref().unwrap_or(&self.default).source
    }

    /// The text of a conversation, ready for the tokenizer.
    ///
    /// `tools` is an array of OpenAI-style function descriptions. With `add_generation_prompt` the text ends where the
    /// assistant's answer begins. `extra` holds whatever else the template knows, such as `enable_thinking`; it wins
    /// over the names above. An error names the line of the template.
    pub fn render(
        &self,
        messages: &[Message],
        tools: Option<&serde_json::Value>,
        add_generation_prompt: bool,
        extra: &Map<String, serde_json::Value>,
    ) -> Result<String, TextError> {
        let messages = messages.iter().map(|message| template_value(&as_transformers(message.for_template())));
        let messages = messages.collect::<Vec<Value>>();
        let mut context = vec![
            ("messages", Value::from(messages)),
            ("tools", tools.map_or(Value::from(()), template_value)),
            ("documents", Value::from(())),
            ("add_generation_prompt", add_generation_prompt.into()),
        ];
        let others = self.special_tokens.iter().chain(extra);
        context.extend(others.map(|(key, value)| (key.as_str(), template_value(value))));
        let named = self.tool_use.as_ref().filter(|_| tools.is_some()).unwrap_or(&self.default);
        named.render(Value::from_pairs(context))
    }
}

/// A message as transformers hands it to a template: what is null is left out, and thoughts have the names that
/// templates read.
fn as_transformers(message: serde_json::Value) -> serde_json::Value {
    const THOUGHTS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
    let serde_json::Value::Object(mut message) = message else { return message };
    message.retain(|_, value| !value.is_null());
    let Some(thoughts) = THOUGHTS.iter().find_map(|name| message.get(*name).cloned()) else { return message.into() };
    let mut all = Map::new();
    all.insert("thinking".into(), thoughts.clone());
    all.extend(message);
    all.insert("reasoning_content".into(), thoughts);
    all.into()
}

/// Why a template was not tried, or not to its end.
fn given_up(origin: &Path, reason: &GivenUp) -> TextError {
    let said = reason.to_string();
    match reason {
        GivenUp::Busy(_) | GivenUp::NoThread(_) => TextError::TemplateBusy { reason: said },
        _ => TextError::ChatTemplate { path: origin.to_path_buf(), line: 0, reason: said },
    }
}

fn template_error(origin: &Path, error: &Error) -> TextError {
    let mut reason = match error.detail() {
        _ if error.kind() == ErrorKind::OutOfFuel => "this takes too many steps: it seems to go on for ever".to_owned(),
        Some(detail) => detail.to_owned(),
        None => error.kind().to_string(),
    };
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        reason.push_str(": ");
        reason.push_str(&cause.to_string());
        source = cause.source();
    }
    TextError::ChatTemplate { path: origin.to_path_buf(), line: error.line().unwrap_or(0), reason }
}

/// JSON as the template engine's value, keys in their order.
fn template_value(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(value) => (*value).into(),
        serde_json::Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(value), _) => value.into(),
            (None, Some(value)) => value.into(),
            (None, None) => number.as_f64().into(),
        },
        serde_json::Value::String(text) => text.into(),
        serde_json::Value::Array(items) => Value::from(items.iter().map(template_value).collect::<Vec<_>>()),
        serde_json::Value::Object(entries) => {
            Value::from_pairs(entries.iter().map(|(key, value)| (key.as_str(), template_value(value))))
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use serde_json::json;

    fn template(source: &str) -> ChatTemplate {
        ChatTemplate::new(Path::new("dir/chat_template.jinja"), source).unwrap()
    }

    /// Renders `source` with `values` as its variables.
    fn rendered(source: &str, values: serde_json::Value) -> Result<String, TextError> {
        template(source).render(&[], None, false, values.as_object().unwrap())
    }

    #[test]
    fn while_others_take_too_long_a_template_has_to_wait() {
        let mut template = template("x");
        let threads = Aside::new("template", 256 << 10, Duration::from_millis(30));
        template.default.threads = threads.clone();
        for _ in 0..2 {
            let outcome = threads.run(&|| true, || std::thread::sleep(Duration::from_secs(2)));
            assert!(matches!(outcome, Err(GivenUp::TooLong(_))));
        }
        let outcome = template.render(&[], None, false, &Map::new());
        assert!(matches!(outcome, Err(TextError::TemplateBusy { .. })), "{outcome:?}");
    }

    #[test]
    fn json_is_written_as_python_does() {
        let values = json!({"v": {"b": [1, 2.5, 1e20, true, null], "a": "<é 'x' \"\\\n\u{7f}>", "e": [], "f": {}}});
        assert_eq!(
            rendered("{{ v | tojson }}", values.clone()).unwrap(),
            "{\"b\": [1, 2.5, 1e+20, true, null], \"a\": \"<é 'x' \\\"\\\\\\n\u{7f}>\", \"e\": [], \"f\": {}}"
        );
        assert_eq!(rendered("{{ v.b[:2] | tojson(indent=2) }}", values.clone()).unwrap(), "[\n  1,\n  2.5\n]");
        assert_eq!(
            rendered(
                "{{ {'b': 'é😀', 'a': -1} | tojson(ensure_ascii=true, sort_keys=true, separators=(',', ':')) }}",
                values
            )
            .unwrap(),
            r#"{"a":-1,"b":"\u00e9\ud83d\ude00"}"#
        );
        assert!(rendered("{{ missing | tojson }}", json!({})).is_err());
        assert!(rendered("{{ 1 | tojson(colour=2) }}", json!({})).is_err());
    }

    #[test]
    fn pythons_ways_are_kept() {
        for (source, expected) in [
            // scalars print as in Python
            ("{{ true }} {{ none }} {{ 1.0 }} {{ 'x' ~ false }}", "True None 1.0 xFalse"),
            // a block takes its whole line with it
            ("a\n  {% if true %}\nb\n  {% endif %}\nc\n", "a\nb\nc"),
            ("{{ [1, 2, 3][::-1] | join(',') }}", "3,2,1"),
            ("{{ 'a</think>b</think>c'.split('</think>')[-1] }}", "c"),
            ("{{ '\n\nx\n'.lstrip('\n') }}|{{ 'x\n\n'.rstrip('\n') }}|{{ ' x '.strip() }}", "x\n|x|x"),
            ("{{ 'abc'.startswith('ab') and 'abc'.endswith('c') }}", "True"),
            ("{% for k, v in {'z': 1, 'a': 2}.items() %}{{ k }}{{ v }}{% endfor %}", "z1a2"),
            ("{% for k, v in {'z': 1, 'a': 2} | items %}{{ k }}{{ loop.index0 }}{% endfor %}", "z0a1"),
            ("{% for x in [1, 2, 3] %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}{% endfor %}", "13"),
            ("{% for x in 'ab' %}{{ loop.previtem }}{{ x }}{{ loop.nextitem }};{% endfor %}", "ab;ab;"),
            ("{{ missing }}{{ missing is defined }}{{ missing is none }}", "FalseFalse"),
            ("{{ 'yes' if 'content' in {'content': 1} else 'no' }}", "yes"),
            ("{{ {'a': 1}.get('b', 'none') }} {{ [1, 'x', true] }}", "none [1, 'x', True]"),
            ("{{ tools is none }} {{ '<b>' }}", "True <b>"),
        ] {
            assert_eq!(rendered(source, json!({})).unwrap(), expected, "{source}");
        }
    }

    /// A template comes with a model: whatever it says, it ends, and its model has an error.
    #[test]
    fn templates_that_would_end_the_program() {
        let deep = |n: usize| {
            [
                format!("{{{{ {}1 }}}}", "not ".repeat(n)),
                format!("{{{{ {}1 }}}}", "-".repeat(n)),
                format!("{{{{ a{} }}}}", ".b".repeat(n)),
                format!("{{{{ a{} }}}}", "[0]".repeat(n)),
                format!("{{{{ a{} }}}}", "|e".repeat(n)),
                format!("{{{{ a{} }}}}", " is not b".repeat(n)),
                format!("{{{{ 1{} }}}}", " - 1".repeat(n)),
                format!("{{{{ 1{} }}}}", " ** 1".repeat(n)),
                format!("{{{{ {}1{} }}}}", "(".repeat(n), ")".repeat(n)),
                format!("{{{{ {}1{} }}}}", "[".repeat(n), "]".repeat(n)),
                format!("{{{{ 1{} }}}}", " if 1 else 1".repeat(n)),
                format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(n)),
                format!("{}{}", "{% if 1 %}".repeat(n), "{% endif %}".repeat(n)),
                format!("{}{}", "{% for x in [1] %}".repeat(n), "{% endfor %}".repeat(n)),
            ]
        };
        // as deep as may be, and deeper
        for source in deep(300).into_iter().chain(deep(1_300)) {
            if let Ok(template) = ChatTemplate::new(Path::new("t.jinja"), &source) {
                let _ = template.render(&[], None, false, &Map::new());
            }
        }
        for source in deep(50_000) {
            let error = ChatTemplate::new(Path::new("t.jinja"), &source).unwrap_err().to_string();
            assert!(error.starts_with("t.jinja: "), "{error}");
        }
        for (source, said) in [
            ("{{ [1]|tojson(indent=99999999999) }}", "line 1"),
            ("{{ '%99999999999d'|format(1) }}", "width"),
            ("{{ '%.99999999999f'|format(1) }}", "width"),
            ("{{ '{:99999999999}'.format(1) }}", "width"),
            ("{{ 'a'|indent(99999999999, true) }}", "line 1"),
            ("{{ 'a'|center(99999999999) }}", "line 1"),
            ("{{ 'a'.ljust(99999999999) }}", "line 1"),
            ("{{ 'a' * 99999999999 }}", "line 1"),
            ("{{ [1] * 99999999999 }}", "line 1"),
            (
                "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}x",
                "for ever",
            ),
            ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
            (
                "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
                "",
            ),
        ] {
            let outcome = ChatTemplate::new(Path::new("t.jinja"), source);
            let outcome = outcome.and_then(|template| template.render(&[], None, false, &Map::new()));
            match outcome {
                Err(error) => assert!(error.to_string().contains(said), "{source}: {error}"),
                Ok(_) => assert!(said.is_empty(), "{source}"),
            }
        }
    }

    #[test]
    fn errors_name_file_and_line() {
        let parse = ChatTemplate::new(Path::new("dir/t.jinja"), "a\n{% if x %}\nb").unwrap_err();
        assert!(parse.to_string().starts_with("dir/t.jinja: line 3: "), "{parse}");
        let refused = rendered("a\nb\n{{ raise_exception('System message must be first.') }}", json!({}));
        assert_eq!(refused.unwrap_err().to_string(), "dir/chat_template.jinja: line 3: System message must be first.");
        let undefined = rendered("\n{{ a.b.c }}", json!({})).unwrap_err().to_string();
        assert!(undefined.contains("line 2"), "{undefined}");
        let method = rendered("{{ 'x'.enkode('utf-8') }}", json!({})).unwrap_err().to_string();
        assert!(method.contains("enkode"), "{method}");
        let date = rendered("{{ strftime_now('%d %b %Y') }}", json!({})).unwrap();
        assert_eq!(date.len(), 11);
        assert!(rendered("{{ strftime_now('%!') }}", json!({})).unwrap_err().to_string().contains("%!"));
    }
}
