//! What a grammar allows as a call in Qwen's dialects: each argument as its schema wants it.

use std::fmt::Write;

use llguidance::regex_to_lark;
use serde_json::{Map, Value, json};

use super::super::lark::{Rules, json_of, literal, one_of};
use super::super::schema::{ArgumentForm, SchemaError, Strictness, argument_forms, leaves, plain, syntax};

const END_PARAMETER: &str = "\n</parameter>\n";

/// What no text of a forced call contains, because a reader could take it for the end of the text.
const MARKS: &str = r"/(?s:.*)<(\/(parameter|function|tool_call)|(parameter|function)=|tool_call)(?s:.*)/";

/// A `maxLength` above is a long one.
const LONG: u64 = 1_000;

/// Most arguments of any name that must come.
const MOST_OTHERS: usize = 64;

/// Names of arguments that a schema does not name.
const NAME: &str = r"/[A-Za-z_][A-Za-z0-9_.\-]{0,63}/";

/// Formats that are followed in plain text; all others are remarks there.
const FORMATS: [(&str, &str); 4] = [
    ("date", r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])"),
    ("time", r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+\-]([01][0-9]|2[0-3]):[0-5][0-9])"),
    (
        "date-time",
        r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+\-]([01][0-9]|2[0-3]):[0-5][0-9])",
    ),
    ("uuid", r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"),
];

/// One function of a list of tools.
struct Function<'a> {
    name: &'a str,
    parameters: &'a Value,
    strictness: Strictness,
}

impl<'a> Function<'a> {
    fn of(tool: &'a Value) -> Self {
        let function = tool.get("function").unwrap_or(tool);
        Function {
            name: function.get("name").and_then(Value::as_str).unwrap_or_default(),
            parameters: function.get("parameters").unwrap_or(&Value::Null),
            strictness: match function.get("strict") {
                Some(Value::Bool(true)) => Strictness::Strict,
                _ => Strictness::Lenient,
            },
        }
    }

    fn forms(&self) -> Result<Vec<ArgumentForm>, SchemaError> {
        argument_forms(self.parameters).map_err(|error| self.named(error))
    }

    /// The error with the tool's name.
    fn named(&self, error: SchemaError) -> SchemaError {
        SchemaError { place: format!("tool {}: {}", self.name, error.place), ..error }
    }
}

/// A call as JSON, behind `<tool_call>`.
pub(super) fn json_rules(rules: &mut Rules, index: usize, tool: &Value) -> Result<(), SchemaError> {
    let function = Function::of(tool);
    let has_open_names = function.parameters.get("patternProperties").is_some();
    let object = |form: ArgumentForm| match form.others {
        Some(others) => json!({"type": "object", "additionalProperties": others}),
        None => json!({
            "type": "object", "properties": form.arguments, "required": form.required, "additionalProperties": false,
        }),
    };
    let schema = match has_open_names {
        true => json!({"allOf": [{"type": "object"}, function.parameters]}),
        false => {
            let mut objects: Vec<Value> = function.forms()?.into_iter().map(object).collect();
            if objects.len() == 1 { objects.swap_remove(0) } else { json!({"anyOf": objects}) }
        }
    };
    let schema = plain(function.parameters, &schema, function.strictness).map_err(|error| function.named(error))?;
    let arguments = rules.shared("json", json_of(schema));
    let begin = literal(&format!("\n{{\"name\": {}, \"arguments\": ", Value::from(function.name)));
    rules.rule(&format!("call_{index}"), &format!("{begin} {arguments} {}", literal("}\n</tool_call>")));
    Ok(())
}

/// A call as XML, behind `<tool_call>`: parameters in the order of the schema, those that are not required may be absent.
pub(super) fn xml_rules(rules: &mut Rules, index: usize, tool: &Value) -> Result<(), SchemaError> {
    let function = Function::of(tool);
    let begin = literal(&format!("\n<function={}>\n", function.name));
    if function.strictness == Strictness::Strict {
        plain(function.parameters, function.parameters, Strictness::Strict).map_err(|error| function.named(error))?;
    }
    let mut forms = Vec::new();
    for form in function.forms()? {
        if let Some(form) = xml_form(rules, &function, &form).map_err(|error| function.named(error))? {
            forms.push(form);
        }
    }
    if forms.is_empty() {
        let reason = "no arguments fit the schema of the tool".to_owned();
        return Err(function.named(SchemaError { place: "parameters".to_owned(), reason }));
    }
    let forms = rules.shared("arguments", forms.join(" | "));
    rules.rule(&format!("call_{index}"), &format!("{begin} {forms} {}", literal("</function>\n</tool_call>")));
    Ok(())
}

/// The parameters of one form; `None` where one that must come has no value.
fn xml_form(rules: &mut Rules, function: &Function<'_>, form: &ArgumentForm) -> Result<Option<String>, SchemaError> {
    let mut body = String::from("\"\"");
    for (key, schema) in &form.arguments {
        let is_required = form.required.contains(key);
        let at_argument = |error: SchemaError| SchemaError { place: format!("{key}: {}", error.place), ..error };
        // a name that would end the mark that it stands in
        let value = match key.is_empty() || key.contains(['>', '\n']) {
            true => None,
            false => xml_value(rules, function, schema).map_err(at_argument)?,
        };
        let Some(value) = value else {
            if is_required {
                return Ok(None);
            }
            continue;
        };
        let parameter = rules.shared("parameter", format!("{} {value}", literal(&format!("<parameter={key}>\n"))));
        let _ = write!(body, " {parameter}{}", if is_required { "" } else { "?" });
    }
    if let Some(others) = &form.others {
        let name = rules.shared("NAME", NAME.to_owned());
        if let Some(value) = xml_value(rules, function, others)? {
            let other = rules.shared("other", format!("\"<parameter=\" {name} \">\\n\" {value}"));
            // a number beyond all answers is none
            let _ = write!(body, "{} {other}*", format!(" {other}").repeat(form.least.min(MOST_OTHERS)));
        }
    }
    Ok(Some(body))
}

/// The rule of a value with the end of its parameter: a text as it is, everything else as JSON.
fn xml_value(rules: &mut Rules, function: &Function<'_>, schema: &Value) -> Result<Option<String>, SchemaError> {
    let end = literal(END_PARAMETER);
    let (mut words, mut options) = (Vec::new(), Vec::new());
    for leaf in leaves(function.parameters, schema) {
        if let Some(values) = leaf.get("enum").and_then(Value::as_array) {
            words.extend(values.iter().map(|word| word.as_str().map_or_else(|| word.to_string(), str::to_owned)));
            continue;
        }
        let is_text = match leaf.get("type") {
            Some(kind) => kind == "string",
            None => !leaf.contains_key("allOf"),
        };
        options.push(match is_text {
            true => {
                let text = text_terminal(&leaf, function.strictness)?;
                rules.shared("TEXT", format!("({text}) {end}"))
            }
            false => {
                let schema = plain(function.parameters, &Value::Object(leaf), function.strictness)?;
                let json = rules.shared("json", json_of(schema));
                rules.shared("value", format!("{json} {end}"))
            }
        });
    }
    if !words.is_empty() {
        options.push(rules.shared("WORD", format!("{} {end}", one_of(&words))));
    }
    Ok((!options.is_empty()).then(|| rules.shared("any", options.join(" | "))))
}

/// What a text may be. To count characters and to look for marks at once takes too long, so texts of a limited length have
/// no `<`; beside a long limit they have, and the limit is only kept to where that was asked for.
fn text_terminal(leaf: &Map<String, Value>, strictness: Strictness) -> Result<String, SchemaError> {
    // limits beyond all answers, and those that are no numbers, are the concern of `plain`
    let leaf = plain(&Value::Null, &Value::Object(leaf.clone()), strictness)?;
    let bound = |key: &str| leaf.get(key).and_then(Value::as_u64);
    let any = format!("/(?s:.*)/ & ~{MARKS}");
    let text = match (bound("minLength").unwrap_or(0), bound("maxLength")) {
        (least, Some(most)) if most <= LONG || strictness == Strictness::Strict => format!("/[^<]{{{least},{most}}}/"),
        (0, _) => any,
        (least, _) => format!("/[^<]{{{least}}}/ ({any})"),
    };
    let pattern = match (leaf.get("pattern").and_then(Value::as_str), leaf.get("format").and_then(Value::as_str)) {
        (Some(pattern), _) => Some(regex_to_lark(&whole_pattern(pattern), "dw")),
        (None, Some(format)) => {
            FORMATS.iter().find(|(name, _)| *name == format).map(|(_, pattern)| (*pattern).to_owned())
        }
        (None, None) => None,
    };
    Ok(match pattern {
        Some(pattern) => format!("({text}) & /{pattern}/"),
        None => text,
    })
}

/// A pattern, which may match anywhere in a text, as one that matches all of it.
fn whole_pattern(pattern: &str) -> String {
    let options = alternatives(pattern).into_iter().map(|option| {
        let (begin, option) = option.strip_prefix('^').map_or(("(?s:.*)", option), |rest| ("", rest));
        // a `$` behind an odd number of backslashes is a character
        let end = option.strip_suffix('$').filter(|rest| (rest.len() - rest.trim_end_matches('\\').len()) % 2 == 0);
        let (option, end) = end.map_or((option, "(?s:.*)"), |rest| (rest, ""));
        format!("{begin}(?:{option}){end}")
    });
    options.collect::<Vec<_>>().join("|")
}

/// The parts of a pattern between `|`, without those within brackets.
fn alternatives(pattern: &str) -> Vec<&str> {
    let (mut parts, mut begin) = (Vec::new(), 0);
    for (at, ..) in syntax(pattern).filter(|(_, character, depth)| *character == '|' && *depth == 0) {
        parts.push(&pattern[begin..at]);
        begin = at + 1;
    }
    parts.push(&pattern[begin..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_the_whole_text() {
        for (pattern, whole) in [
            ("^[a-z]+$", "(?:[a-z]+)"),
            ("b", "(?s:.*)(?:b)(?s:.*)"),
            ("^a|b$", "(?:a)(?s:.*)|(?s:.*)(?:b)"),
            ("^(a|b)$", "(?:(a|b))"),
            (r"^a\$", r"(?:a\$)(?s:.*)"),
            (r"^a\\$", r"(?:a\\)"),
            ("^[|]$", "(?:[|])"),
        ] {
            assert_eq!(whole_pattern(pattern), whole, "{pattern}");
        }
    }
}
