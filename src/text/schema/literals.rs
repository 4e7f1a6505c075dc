//! Values that a model wrote as JSON, or as Python writes them.

use serde_json::{Map, Value};

/// Lists and dictionaries within each other: as deep as `serde_json` reads JSON.
const MOST_DEPTH: usize = 100;

/// `true` or `false`, however they are capitalised.
pub(super) fn boolean(text: &str) -> Option<Value> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Some(true.into()),
        "false" => Some(false.into()),
        _ => None,
    }
}

/// `null`, or Python's `None`.
pub(super) fn null(text: &str) -> Option<Value> {
    (text.eq_ignore_ascii_case("null") || text == "None").then_some(Value::Null)
}

/// A whole number that JSON here holds exactly (64 bits): `5`, `+7`, `-0`, `5.0`, `1e3`.
pub(super) fn integer(text: &str) -> Option<Value> {
    let digits = text.strip_prefix('+').unwrap_or(text);
    if let Ok(number) = digits.parse::<i64>() {
        return Some(number.into());
    }
    if let Ok(number) = digits.parse::<u64>() {
        return Some(number.into());
    }
    if let Some((whole, fraction)) = digits.split_once('.')
        && !fraction.is_empty()
        && fraction.bytes().all(|digit| digit == b'0')
    {
        return whole.parse::<i64>().ok().map(Into::into);
    }
    // what a float holds exactly
    let number = float(digits).filter(|_| digits.contains(['e', 'E']))?;
    (number.fract() == 0.0 && number.abs() < 9e15).then(|| Value::from(number as i64))
}

/// A number as JSON has it, or with a sign or a point that JSON does not allow: `+7`, `.5`, `5.`.
pub(super) fn number(text: &str) -> Option<Value> {
    match serde_json::from_str::<Value>(text) {
        Ok(number @ Value::Number(_)) => return Some(number),
        Ok(_) => return None,
        Err(_) => {}
    }
    let plain = text.strip_prefix('+').unwrap_or(text);
    plain
        .parse::<i64>()
        .ok()
        .map(Value::from)
        .or_else(|| serde_json::Number::from_f64(float(plain)?).map(Value::Number))
}

/// Rust's own reading takes `inf` and `nan` as well.
fn float(text: &str) -> Option<f64> {
    let is_number = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
    text.bytes().all(is_number).then(|| text.parse().ok()).flatten().filter(|number: &f64| number.is_finite())
}

/// An object or a list, as JSON or as Python writes it.
pub(super) fn structure(text: &str) -> Option<Value> {
    if !text.starts_with(['{', '[', '(']) {
        return None;
    }
    match serde_json::from_str(text) {
        Ok(value) => Some(value),
        Err(_) => python(text).filter(|value| value.is_object() || value.is_array()),
    }
}

/// A Python literal, or JSON with Python's freedoms: quotes of either kind, `True`, `None`, raw line ends in texts, a comma
/// behind the last item.
fn python(text: &str) -> Option<Value> {
    let mut reader = Reader { rest: text };
    let value = reader.value(0)?;
    reader.rest.trim_start().is_empty().then_some(value)
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn take(&mut self, mark: char) -> bool {
        let rest = self.rest.trim_start();
        match rest.strip_prefix(mark) {
            Some(after) => self.rest = after,
            None => self.rest = rest,
        }
        self.rest.len() < rest.len()
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth > MOST_DEPTH {
            return None;
        }
        if self.take('{') {
            return self.dictionary(depth);
        }
        for (open, close) in [('[', ']'), ('(', ')')] {
            if self.take(open) {
                return self.items(close, depth);
            }
        }
        if self.rest.starts_with(['"', '\'']) {
            return self.text().map(Value::String);
        }
        let end = self.rest.find(|c: char| ",:]})".contains(c) || c.is_whitespace()).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        match word {
            "True" | "true" => Some(true.into()),
            "False" | "false" => Some(false.into()),
            "None" | "null" => Some(Value::Null),
            _ => number(word),
        }
    }

    fn dictionary(&mut self, depth: usize) -> Option<Value> {
        let mut members = Map::new();
        while !self.take('}') {
            let key = match self.value(depth + 1)? {
                Value::String(key) => key,
                // as json.dumps writes keys that are no texts
                key @ (Value::Number(_) | Value::Bool(_) | Value::Null) => key.to_string(),
                _ => return None,
            };
            if !self.take(':') {
                return None;
            }
            let value = self.value(depth + 1)?;
            members.insert(key, value);
            if !self.take(',') {
                return self.take('}').then_some(Value::Object(members));
            }
        }
        Some(Value::Object(members))
    }

    fn items(&mut self, close: char, depth: usize) -> Option<Value> {
        let mut items = Vec::new();
        while !self.take(close) {
            items.push(self.value(depth + 1)?);
            if !self.take(',') {
                return self.take(close).then_some(Value::Array(items));
            }
        }
        Some(Value::Array(items))
    }

    fn text(&mut self) -> Option<String> {
        let mut characters = self.rest.char_indices();
        let (_, quote) = characters.next()?;
        let mut text = String::new();
        while let Some((at, character)) = characters.next() {
            match character {
                c if c == quote => {
                    self.rest = &self.rest[at + c.len_utf8()..];
                    return Some(text);
                }
                '\\' => match characters.next()?.1 {
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    'r' => text.push('\r'),
                    'b' => text.push('\u{8}'),
                    'f' => text.push('\u{c}'),
                    '0' => text.push('\0'),
                    '\n' => {}
                    kind @ ('x' | 'u' | 'U') => {
                        let length = match kind {
                            'x' => 2,
                            'u' => 4,
                            _ => 8,
                        };
                        let code: String = characters.by_ref().take(length).map(|(_, digit)| digit).collect();
                        let code = u32::from_str_radix(&code, 16).ok()?;
                        // half of a pair has no character of its own
                        text.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                    }
                    same @ ('\\' | '\'' | '"' | '/') => text.push(same),
                    // Python keeps both
                    other => text.extend(['\\', other]),
                },
                other => text.push(other),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn python_literals_are_read() {
        for (text, value) in [
            ("{'a': True, 'b': [None, 1.5, -2], }", json!({"a": true, "b": [null, 1.5, -2]})),
            (r#"['it\'s', "a\n", '\x41\u00e9']"#, json!(["it's", "a\n", "Aé"])),
            ("('a', 'b')", json!(["a", "b"])),
            ("[]", json!([])),
            ("{\"a\": \"two\nlines\"}", json!({"a": "two\nlines"})),
            ("{1: 2, None: 3}", json!({"1": 2, "null": 3})),
        ] {
            assert_eq!(structure(text), Some(value), "{text}");
        }
        for broken in ["[1, 2", "{'a'}", "['a' 'b']", "[x]", "{'a': 1} b", "['a", "[1, nan]", "{[]: 1}", "('a\\"] {
            assert_eq!(structure(broken), None, "{broken}");
        }
        assert_eq!(structure(&"[".repeat(100_000)), None);
    }

    #[test]
    fn integers_are_exact_or_none() {
        for (text, value) in [("5.0", 5), ("+7", 7), ("-0", 0), ("1e3", 1000), ("-3.000", -3), ("007", 7)] {
            assert_eq!(integer(text), Some(json!(value)), "{text}");
        }
        assert_eq!(integer("18446744073709551615"), Some(json!(u64::MAX)));
        for none in ["5.5", "0x10", "five", "", "1e30", "123456789012345678901", "5.", "1_000", "inf"] {
            assert_eq!(integer(none), None, "{none}");
        }
        assert_eq!(number("1e3"), Some(json!(1000.0)));
        assert_eq!(number(".5"), Some(json!(0.5)));
        assert_eq!((number("nan"), number("-inf"), number("1e999"), number("\"1\"")), (None, None, None, None));
    }
}
