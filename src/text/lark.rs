//! Rules of llguidance's dialect of Lark, as text.

use std::collections::HashMap;
use std::fmt::Write;

use serde_json::{Value, json};

/// Blanks between two parts of JSON: one, or a line's end with some indentation. Without a limit a model may write blanks
/// for ever.
const JSON_BLANK: &str = r"(\x20|\n(\x20{0,12}|\t{0,4}))";

/// A grammar in the making.
#[derive(Debug, Default)]
pub(super) struct Rules {
    text: String,
    /// Names of rules by what they say.
    shared: HashMap<String, String>,
}

impl Rules {
    /// Adds a rule.
    pub(super) fn rule(&mut self, name: &str, body: &str) {
        let _ = writeln!(self.text, "{name}: {body}");
    }

    /// The name of the rule that says this, which is added if there is none. Names that begin with a capital letter are
    /// those of terminals.
    pub(super) fn shared(&mut self, kind: &str, body: String) -> String {
        let name = format!("{kind}_{}", self.shared.len());
        let text = &mut self.text;
        let add = |body: &String| {
            let _ = writeln!(text, "{name}: {body}");
            name.clone()
        };
        self.shared.entry(body).or_insert_with_key(add).clone()
    }

    /// The whole grammar.
    pub(super) fn into_text(self) -> String {
        self.text
    }
}

/// JSON of a schema that [`plain`](super::schema::plain) wrote.
pub(super) fn json_of(schema: Value) -> String {
    let Value::Object(mut schema) = schema else { return format!("%json {schema}") };
    // what is left and cannot be followed (a least number of optional members) is passed over
    let options = json!({"whitespace_pattern": JSON_BLANK, "lenient": true, "coerce_one_of": true});
    schema.insert("x-guidance".to_owned(), options);
    format!("%json {}", Value::Object(schema))
}

/// A text in quotes.
pub(super) fn literal(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// The texts of one of several words, as a terminal.
pub(super) fn one_of(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| literal(word)).collect();
    format!("({})", words.join(" | "))
}
