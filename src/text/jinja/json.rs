//! The `tojson` filter as Python's `json.dumps` writes it.
//!
//! Models were trained on tool lists that transformers rendered: `{"a": 1, "b": [1, 2]}` with these spaces, non-ASCII
//! and `<` unescaped, keys in their order. The template engine's own filter escapes for HTML and writes floats as Rust
//! does, which makes other tokens.

use minijinja::value::ValueKind;
use minijinja::{Error, Value};

use super::arguments::{Arguments, invalid};
use super::limits::{MOST_DEPTH, check_text};
use super::python_text::python_float;

/// Writes `value` as JSON; the parameters are those of transformers: `ensure_ascii`, `indent`, `separators`,
/// `sort_keys`.
pub(super) fn tojson(value: &Value, given: &[Value]) -> Result<String, Error> {
    let mut arguments = Arguments::new("tojson", given);
    let ensure_ascii = arguments.flag("ensure_ascii", false);
    let indent = match arguments.optional("indent").filter(|indent| !indent.is_none()) {
        Some(text) if text.as_str().is_some() => text.as_str().map(str::to_owned),
        // no indent, but lines: Python's way with numbers below one
        Some(blanks) => {
            let blanks = super::arguments::integer(&blanks).ok_or_else(|| invalid("tojson: indent is no integer"))?;
            let blanks = usize::try_from(blanks).unwrap_or(0);
            check_text(blanks)?;
            Some(" ".repeat(blanks))
        }
        None => None,
    };
    let separators = arguments.optional("separators");
    let sort_keys = arguments.flag("sort_keys", false);
    arguments.end()?;
    let (item, key) = match separators.filter(|value| !value.is_none()) {
        Some(pair) => (pair.get_item_by_index(0)?.to_string(), pair.get_item_by_index(1)?.to_string()),
        None if indent.is_some() => (",".into(), ": ".into()),
        None => (", ".into(), ": ".into()),
    };
    let mut writer = JsonWriter { out: String::new(), indent, item, key, ensure_ascii, sort_keys };
    writer.write(value, 1)?;
    Ok(writer.out)
}

struct JsonWriter {
    out: String,
    /// What stands before a line, once per level; None keeps all on one line.
    indent: Option<String>,
    item: String,
    key: String,
    ensure_ascii: bool,
    sort_keys: bool,
}

impl JsonWriter {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        check_text(self.out.len())?;
        if depth > MOST_DEPTH {
            return Err(not_json("a value of such depth"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value)?),
            ValueKind::String => self.write_string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.write_items('[', ']', depth, items, |writer, item| writer.write(&item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut pairs = Vec::new();
                for key in value.try_iter()? {
                    pairs.push((key_text(&key)?, value.get_item(&key)?));
                }
                if self.sort_keys {
                    pairs.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.write_items('{', '}', depth, pairs, |writer, (key, value)| {
                    writer.write_string(&key);
                    writer.out.push_str(&writer.key);
                    writer.write(&value, depth + 1)
                })?;
            }
            kind => return Err(not_json(&format!("a value of type {kind}"))),
        }
        Ok(())
    }

    fn write_items<T>(
        &mut self,
        open: char,
        close: char,
        depth: usize,
        items: Vec<T>,
        mut write: impl FnMut(&mut Self, T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        let empty = items.is_empty();
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                self.out.push_str(&self.item);
            }
            self.new_line(depth);
            write(self, item)?;
        }
        if !empty {
            self.new_line(depth - 1);
        }
        self.out.push(close);
        Ok(())
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            for _ in 0..depth {
                self.out.push_str(indent);
            }
        }
    }

    fn write_string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && !(' '..='~').contains(&c)) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

fn key_text(key: &Value) -> Result<String, Error> {
    Ok(match key.kind() {
        ValueKind::String => key.to_string(),
        ValueKind::None => "null".into(),
        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.into(),
        ValueKind::Number => number(key)?,
        kind => return Err(not_json(&format!("a key of type {kind}"))),
    })
}

fn number(value: &Value) -> Result<String, Error> {
    if value.is_integer() {
        return Ok(value.to_string());
    }
    Ok(match f64::try_from(value.clone())? {
        number if number.is_nan() => "NaN".into(),
        number if number.is_infinite() => if number > 0.0 { "Infinity" } else { "-Infinity" }.into(),
        number => python_float(number),
    })
}

fn not_json(what: &str) -> Error {
    invalid(format!("tojson: {what} cannot be written as JSON"))
}
