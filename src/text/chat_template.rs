//! Renders a checkpoint's chat template, which is a Jinja template written for Python.
//!
//! The surroundings are those that transformers gives it: blocks swallow their line, Python's string methods exist,
//! `tojson` writes like `json.dumps`, `raise_exception` refuses a conversation, `strftime_now` tells the date.

use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value};
use serde_json::Map;

use super::{Message, TextError, python_json, strftime};

const NAME: &str = "chat_template";

/// A parsed chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    origin: PathBuf,
    environment: Environment<'static>,
}

impl ChatTemplate {
    /// Parses the text of `chat_template.jinja`; `origin` is its path, for error messages.
    pub fn new(origin: &Path, source: &str) -> Result<Self, TextError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(|e| template_error(origin, &e))?;
        environment.set_syntax(syntax);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        // in every build, so that errors name the undefined variable
        environment.set_debug(true);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", python_json::tojson);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime::strftime_now);
        environment.add_template_owned(NAME, source.to_owned()).map_err(|e| template_error(origin, &e))?;
        Ok(Self { origin: origin.to_path_buf(), environment })
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
        let messages = messages.iter().map(|message| template_value(&message.for_template())).collect::<Vec<Value>>();
        let mut context = vec![
            ("messages", Value::from(messages)),
            ("tools", tools.map_or(Value::from(()), template_value)),
            ("documents", Value::from(())),
            ("add_generation_prompt", add_generation_prompt.into()),
        ];
        context.extend(extra.iter().map(|(key, value)| (key.as_str(), template_value(value))));
        self.environment
            .get_template(NAME)
            .and_then(|template| template.render(Value::from_pairs(context)))
            .map_err(|e| template_error(&self.origin, &e))
    }
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

fn template_error(origin: &Path, error: &Error) -> TextError {
    let mut reason = match error.detail() {
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

    #[test]
    fn errors_name_file_and_line() {
        let parse = ChatTemplate::new(Path::new("dir/t.jinja"), "a\n{% if x %}\nb").unwrap_err();
        assert!(parse.to_string().starts_with("dir/t.jinja: line 3: "), "{parse}");
        let refused = rendered("a\nb\n{{ raise_exception('System message must be first.') }}", json!({}));
        assert_eq!(refused.unwrap_err().to_string(), "dir/chat_template.jinja: line 3: System message must be first.");
        let undefined = rendered("\n{{ a.b.c }}", json!({})).unwrap_err().to_string();
        assert!(undefined.contains("line 2"), "{undefined}");
        let method = rendered("{{ 'x'.encode('utf-8') }}", json!({})).unwrap_err().to_string();
        assert!(method.contains("encode"), "{method}");
        let date = rendered("{{ strftime_now('%d %b %Y') }}", json!({})).unwrap();
        assert_eq!(date.len(), 11);
        assert!(rendered("{{ strftime_now('%!') }}", json!({})).unwrap_err().to_string().contains("%!"));
    }
}
