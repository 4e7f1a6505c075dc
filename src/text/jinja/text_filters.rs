//! The filters of jinja2 for text.

use minijinja::value::ValueKind;
use minijinja::{Environment, Error, Value};

use super::arguments::{Arguments, Given, invalid, short};
use super::format::percent;
use super::json;
use super::limits::check_text;
use super::methods::pairs;
use super::operators::{escape, items};
use super::python_text::{is_dict, python_str};
use super::string_methods::{capitalize, is_space, pad, replace, strip};
use super::wrap::{truncate, wordwrap};

/// Makes the filters known.
pub(super) fn add_to(environment: &mut Environment<'_>) {
    environment.add_filter("tojson", |value: &Value, given: Given| json::tojson(value, &given.into_values()));
    environment.add_filter("upper", |value: &Value| python_str(value).to_uppercase());
    environment.add_filter("lower", |value: &Value| python_str(value).to_lowercase());
    environment.add_filter("capitalize", |value: &Value| capitalize(&python_str(value)));
    environment.add_filter("title", |value: &Value| title(&python_str(value)));
    environment.add_filter("trim", |value: &Value, given: Given| -> Result<String, Error> {
        let mut arguments = Arguments::new("trim", &given.into_values());
        let chars = arguments.text("chars")?;
        arguments.end()?;
        Ok(strip(&python_str(value), chars.as_deref(), true, true).to_owned())
    });
    environment.add_filter("replace", |value: &Value, given: Given| -> Result<String, Error> {
        let mut arguments = Arguments::new("replace", &given.into_values());
        let (old, new) = (python_str(&arguments.required("old")?), python_str(&arguments.required("new")?));
        let count = arguments.integer("count")?.and_then(|count| usize::try_from(count).ok());
        arguments.end()?;
        replace(&python_str(value), &old, &new, count)
    });
    environment.add_filter("center", |value: &Value, given: Given| -> Result<String, Error> {
        let mut arguments = Arguments::new("center", &given.into_values());
        let width = arguments.integer("width")?.unwrap_or(80);
        arguments.end()?;
        pad(&python_str(value), "center", width, " ")
    });
    environment.add_filter("indent", indent);
    environment
        .add_filter("truncate", |value: &Value, given: Given| truncate(&python_str(value), &given.into_values()));
    environment
        .add_filter("wordwrap", |value: &Value, given: Given| wordwrap(&python_str(value), &given.into_values()));
    environment.add_filter("wordcount", |value: &Value| {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        python_str(value).split(|c| !is_word(c)).filter(|word| !word.is_empty()).count()
    });
    environment.add_filter("striptags", |value: &Value| striptags(&python_str(value)));
    environment.add_filter("escape", escaped);
    environment.add_filter("e", escaped);
    environment.add_filter("forceescape", |value: &Value| Value::from_safe_string(escape(&python_str(value))));
    environment.add_filter("safe", |value: &Value| Value::from_safe_string(python_str(value)));
    environment.add_filter("format", |value: &Value, given: Given| -> Result<String, Error> {
        let given = given.into_values();
        match given.first() {
            Some(named) if named.is_kwargs() => {
                let named = Arguments::new("format", &given).all_named();
                percent(&python_str(value), &[Value::from_pairs(named)])
            }
            _ => percent(&python_str(value), &given),
        }
    });
    environment.add_filter("urlencode", urlencode);
    environment.add_filter("filesizeformat", filesizeformat);
    environment.add_filter("xmlattr", xmlattr);
}

/// jinja2's own: words begin after a blank, a hyphen or an opening bracket.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut starts = true;
    for c in text.chars() {
        let separates = matches!(c, '-' | '(' | '{' | '[' | '<') || is_space(c);
        match starts && !separates {
            true => out.extend(c.to_uppercase()),
            false => out.extend(c.to_lowercase()),
        }
        starts = separates;
    }
    out
}

fn indent(value: &Value, given: Given) -> Result<String, Error> {
    let mut arguments = Arguments::new("indent", &given.into_values());
    let width = arguments.optional("width").unwrap_or_else(|| Value::from(4));
    let first = arguments.flag("first", false);
    let blank = arguments.flag("blank", false);
    arguments.end()?;
    let by = match (width.as_str(), super::arguments::integer(&width)) {
        (Some(text), _) => text.to_owned(),
        (None, Some(blanks)) => {
            let blanks = usize::try_from(blanks).unwrap_or(0);
            check_text(blanks)?;
            " ".repeat(blanks)
        }
        (None, None) => return Err(invalid(format!("indent: `width`: found {}", short(&width)))),
    };
    let text = python_str(value);
    check_text(text.len().saturating_add(by.len().saturating_mul(text.matches('\n').count() + 1)))?;
    let mut out = String::with_capacity(text.len());
    for (index, line) in text.split('\n').enumerate() {
        if index > 0 {
            out.push('\n');
        }
        if (index == 0 && first) || (index > 0 && (blank || !line.is_empty())) {
            out.push_str(&by);
        }
        out.push_str(line);
    }
    Ok(out)
}

fn escaped(value: &Value) -> Value {
    match value.is_safe() {
        true => value.clone(),
        false => Value::from_safe_string(escape(&python_str(value))),
    }
}

fn striptags(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        let closing = if rest[start..].starts_with("<!--") { "-->" } else { ">" };
        let Some(end) = rest[start..].find(closing) else { break };
        plain.push_str(&rest[..start]);
        rest = &rest[start + end + closing.len()..];
    }
    plain.push_str(rest);
    let words: Vec<&str> = plain.split(is_space).filter(|word| !word.is_empty()).collect();
    let entities = [("&lt;", "<"), ("&gt;", ">"), ("&#39;", "'"), ("&#34;", "\""), ("&quot;", "\""), ("&amp;", "&")];
    entities.iter().fold(words.join(" "), |text, (entity, c)| text.replace(entity, c))
}

fn urlencode(value: &Value) -> Result<String, Error> {
    let quote = |value: &Value, in_query: bool| {
        let mut out = String::new();
        for byte in python_str(value).bytes() {
            match char::from(byte) {
                c if c.is_ascii_alphanumeric() || "_.-~".contains(c) => out.push(c),
                '/' if !in_query => out.push('/'),
                ' ' if in_query => out.push('+'),
                _ => out.push_str(&format!("%{byte:02X}")),
            }
        }
        out
    };
    let of_pairs = match value.kind() {
        _ if is_dict(value) => pairs(value)?,
        ValueKind::Seq | ValueKind::Iterable => items(value)?
            .iter()
            .map(|pair| Ok((pair.get_item_by_index(0)?, pair.get_item_by_index(1)?)))
            .collect::<Result<_, Error>>()?,
        _ => return Ok(quote(value, false)),
    };
    let parts: Vec<String> =
        of_pairs.iter().map(|(key, value)| format!("{}={}", quote(key, true), quote(value, true))).collect();
    Ok(parts.join("&"))
}

fn filesizeformat(value: &Value, given: Given) -> Result<String, Error> {
    let mut arguments = Arguments::new("filesizeformat", &given.into_values());
    let binary = arguments.flag("binary", false);
    arguments.end()?;
    let bytes = match value.as_str() {
        Some(text) => text.trim().parse::<f64>().ok(),
        None => f64::try_from(value.clone()).ok(),
    };
    let bytes = bytes.ok_or_else(|| invalid(format!("filesizeformat: {} is no number", short(value))))?;
    let (base, prefixes) = match binary {
        true => (1024.0, ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"]),
        false => (1000.0, ["kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"]),
    };
    if bytes == 1.0 {
        return Ok("1 Byte".into());
    }
    if bytes < base {
        return Ok(format!("{} Bytes", bytes.trunc()));
    }
    let mut unit = base;
    for prefix in &prefixes[..7] {
        unit *= base;
        if bytes < unit {
            return Ok(format!("{:.1} {prefix}", base * bytes / unit));
        }
    }
    unit *= base;
    Ok(format!("{:.1} {}", base * bytes / unit, prefixes[7]))
}

fn xmlattr(value: &Value, given: Given) -> Result<Value, Error> {
    let mut arguments = Arguments::new("xmlattr", &given.into_values());
    let space_before = arguments.flag("autospace", true);
    arguments.end()?;
    if !is_dict(value) {
        return Err(invalid(format!("xmlattr: expected a dictionary, found {}", short(value))));
    }
    let mut parts = Vec::new();
    for (key, value) in pairs(value)?.iter().filter(|(_, value)| !value.is_none() && !value.is_undefined()) {
        let key = python_str(key);
        if key.contains(|c: char| c.is_ascii_whitespace() || matches!(c, '/' | '>' | '=')) {
            return Err(invalid(format!("xmlattr: `{key}` is no name of an attribute")));
        }
        parts.push(format!("{}=\"{}\"", escape(&key), escape(&python_str(value))));
    }
    let text = parts.join(" ");
    Ok(Value::from(if space_before && !text.is_empty() { format!(" {text}") } else { text }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_and_entities_go() {
        assert_eq!(striptags("<p>a &lt; <!-- <b> -->b\n  c</p> <"), "a < b c <");
    }
}
