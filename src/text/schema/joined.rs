//! What stands within each other and together in a schema, through references and `allOf`: the patterns of one text must
//! hold at once, and an automaton of several is as large as the product of theirs.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Value};

use super::plain::{MOST_DEPTH, SchemaError};

/// Most patterns that one text follows.
const MOST_PATTERNS: usize = 4;
/// Largest number that another is a multiple of, as a whole number of its last digit: an automaton has a state for each.
const MOST_MULTIPLE: f64 = 10_000.0;
/// Most schemas that are looked at, those that are joined with several others once for each.
const MOST_STEPS: usize = 200_000;
/// Deeper, schemas that are joined refer to themselves, which llguidance finds out.
const MOST_JOINED_DEPTH: usize = 60;

/// Schemas are compiled by functions that call themselves, behind references too.
pub(super) fn check_depth(whole: &Value) -> Result<(), SchemaError> {
    depth_of(whole, whole, 0, &mut HashSet::new())
}

fn depth_of<'a>(
    root: &'a Value,
    part: &'a Value,
    depth: usize,
    seen: &mut HashSet<&'a str>,
) -> Result<(), SchemaError> {
    if depth > 2 * MOST_DEPTH {
        let reason = format!("more than {MOST_DEPTH} schemas stand within each other");
        return Err(SchemaError { place: "the schema".to_owned(), reason });
    }
    match part {
        Value::Object(members) => {
            for (key, value) in members.iter().filter(|(key, _)| *key != "$defs") {
                depth_of(root, value, depth + 1, seen)?;
                let Some(reference) = value.as_str().filter(|_| key == "$ref") else { continue };
                if let Some(part) = root.pointer(reference.trim_start_matches('#')).filter(|_| seen.insert(reference)) {
                    depth_of(root, part, depth + 1, seen)?;
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                depth_of(root, item, depth + 1, seen)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Holds what stands together in `whole`, as [`plain`](super::plain::plain) writes it, against what can be followed.
pub(super) fn check_joined(whole: &Value) -> Result<(), SchemaError> {
    let mut joined = Joined { whole, steps: 0, seen: HashSet::new() };
    joined.check(vec![whole], "the schema", 0)
}

/// Takes out what makes large automata: patterns, and what numbers are multiples of.
pub(super) fn loosen(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            members.retain(|key, _| key != "pattern" && key != "multipleOf");
            for (key, value) in members {
                match (key.as_str(), value) {
                    // names of properties and of definitions are no keywords
                    ("properties" | "patternProperties" | "$defs", Value::Object(named)) => {
                        named.values_mut().for_each(loosen);
                    }
                    // values, not schemas
                    ("const" | "enum" | "default" | "examples" | "required", _) => {}
                    (_, value) => loosen(value),
                }
            }
        }
        Value::Array(schemas) => schemas.iter_mut().for_each(loosen),
        _ => {}
    }
}

struct Joined<'a> {
    whole: &'a Value,
    steps: usize,
    /// Sets of schemas that were looked at.
    seen: HashSet<Vec<*const Value>>,
}

/// The parts of several schemas that one value must fit, by where they stand in it.
type Children<'a> = BTreeMap<(&'static str, String), Vec<&'a Value>>;

/// Schemas that hold at once, and the lists of which one does.
type Together<'a> = (Vec<&'a Map<String, Value>>, Vec<&'a [Value]>);

impl<'a> Joined<'a> {
    /// Schemas that one value must fit, all of them.
    fn check(&mut self, mut nodes: Vec<&'a Value>, place: &str, depth: usize) -> Result<(), SchemaError> {
        nodes.sort_by_key(|node| std::ptr::from_ref::<Value>(node));
        nodes.dedup_by_key(|node| std::ptr::from_ref::<Value>(node));
        let set: Vec<*const Value> = nodes.iter().map(|node| std::ptr::from_ref(*node)).collect();
        if !self.seen.insert(set) || nodes.len() > 1 && depth > MOST_JOINED_DEPTH {
            return Ok(());
        }
        let (parts, options) = self.together(&nodes, place)?;
        self.hold(&parts, place)?;
        for list in &options {
            for option in *list {
                // with what stands beside the list; of other lists the longest way through each
                let mut chosen = nodes.clone();
                chosen.push(option);
                let (parts, lists) = self.together(&chosen, place)?;
                self.hold(&parts, place)?;
                let mut patterns = count(&parts);
                for other in lists.into_iter().filter(|other| !std::ptr::eq(*other, *list)) {
                    patterns += self.most_of(other, place)?;
                }
                if patterns > MOST_PATTERNS {
                    return Err(too_many(place, patterns));
                }
                self.children(&parts, place, depth + 1)?;
                // an option may be a list of options itself; that it was seen ends those that refer to themselves
                self.check(vec![option], place, depth + 1)?;
            }
        }
        self.children(&parts, place, depth + 1)
    }

    /// The most patterns that an option has.
    fn most_of(&mut self, options: &'a [Value], place: &str) -> Result<usize, SchemaError> {
        let mut most = 0;
        for option in options {
            most = most.max(count(&self.together(&[option], place)?.0));
        }
        Ok(most)
    }

    fn children(&mut self, parts: &[&'a Map<String, Value>], place: &str, depth: usize) -> Result<(), SchemaError> {
        let children = children(parts);
        self.pay(children.len(), place)?;
        children.into_iter().try_for_each(|((_, name), children)| self.check(children, &name, depth))
    }

    /// All schemas that hold where `nodes` do, and the lists of which one does.
    fn together(&mut self, nodes: &[&'a Value], place: &str) -> Result<Together<'a>, SchemaError> {
        let (mut parts, mut options) = (Vec::new(), Vec::new());
        let mut waiting = nodes.to_vec();
        let mut seen = HashSet::new();
        while let Some(node) = waiting.pop() {
            if !seen.insert(std::ptr::from_ref(node)) {
                continue;
            }
            self.pay(1, place)?;
            let Value::Object(keywords) = node else { continue };
            parts.push(keywords);
            waiting.extend(keywords.get("allOf").and_then(Value::as_array).into_iter().flatten());
            let reference = keywords.get("$ref").and_then(Value::as_str);
            waiting.extend(reference.and_then(|reference| self.whole.pointer(reference.trim_start_matches('#'))));
            options.extend(keywords.get("anyOf").and_then(Value::as_array).map(Vec::as_slice));
        }
        Ok((parts, options))
    }

    fn hold(&self, parts: &[&'a Map<String, Value>], place: &str) -> Result<(), SchemaError> {
        let patterns = count(parts);
        if patterns > MOST_PATTERNS {
            return Err(too_many(place, patterns));
        }
        let multiples = parts.iter().filter_map(|part| part.get("multipleOf")).map(last_digits);
        let multiple: f64 = multiples.product();
        if multiple > MOST_MULTIPLE {
            let reason = format!("multipleOf is {MOST_MULTIPLE} of the last digit at most here, found {multiple}");
            return Err(SchemaError { place: place.to_owned(), reason });
        }
        Ok(())
    }

    fn pay(&mut self, steps: usize, place: &str) -> Result<(), SchemaError> {
        self.steps += steps;
        match self.steps > MOST_STEPS {
            true => {
                let reason = "the schema is too large: too many alternatives stand together".to_owned();
                Err(SchemaError { place: place.to_owned(), reason })
            }
            false => Ok(()),
        }
    }
}

fn too_many(place: &str, found: usize) -> SchemaError {
    let reason = format!("{MOST_PATTERNS} patterns for one text can be followed at most, found {found}; join them");
    SchemaError { place: place.to_owned(), reason }
}

/// Different patterns and formats of one text.
fn count(parts: &[&Map<String, Value>]) -> usize {
    let texts = |key: &'static str| parts.iter().filter_map(move |part| part.get(key)?.as_str());
    texts("pattern").chain(texts("format")).collect::<HashSet<_>>().len()
}

/// `0.01` as 1, `2.5` as 25, `1000` as 1000.
fn last_digits(number: &Value) -> f64 {
    let text = number.to_string();
    let (digits, exponent) = text.split_once(['e', 'E']).unwrap_or((&text, "0"));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let joined: f64 = format!("{whole}{}", fraction.trim_end_matches('0')).parse().unwrap_or(f64::MAX);
    // of 1e9 the zeros count as well
    joined.abs() * 10f64.powi(exponent.parse::<i32>().unwrap_or(i32::MAX).clamp(0, 400))
}

fn children<'a>(parts: &[&'a Map<String, Value>]) -> Children<'a> {
    let mut children = Children::new();
    let mut add = |kind: &'static str, name: &str, node: &'a Value| {
        children.entry((kind, name.to_owned())).or_default().push(node);
    };
    for part in parts {
        for key in ["properties", "patternProperties"] {
            let members = part.get(key).and_then(Value::as_object).into_iter().flatten();
            members.for_each(|(name, node)| add(key, name, node));
        }
        for key in ["items", "additionalProperties"] {
            part.get(key).into_iter().for_each(|node| add(key, key, node));
        }
        let first = part.get("prefixItems").and_then(Value::as_array).into_iter().flatten();
        first.enumerate().for_each(|(i, node)| add("prefixItems", &i.to_string(), node));
    }
    children
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use serde_json::json;

    #[test]
    fn patterns_that_hold_at_once_have_a_limit() {
        let patterns = |n: usize| -> Vec<Value> { (0..n).map(|i| json!({"pattern": format!("^.*a{i}.*$")})).collect() };
        let apart: Map<String, Value> = (0..50).map(|i| (format!("p{i}"), patterns(1)[0].clone())).collect();
        let list = |n: usize| json!({"anyOf": [{"type": "string"}, {"allOf": patterns(n)}]});
        for good in [
            json!({"type": "string", "allOf": patterns(MOST_PATTERNS)}),
            json!({"type": "object", "properties": apart}),
            json!({"anyOf": patterns(50)}),
            json!({"$ref": "#/$defs/d0", "$defs": {"d0": {"properties": {"next": {"$ref": "#/$defs/d0"}}}}}),
            json!({"allOf": [list(2), list(2)]}),
            json!({"multipleOf": 0.01}),
            json!({"multipleOf": 1000}),
        ] {
            assert_eq!(check_joined(&good), Ok(()), "{good}");
        }
        let twice = |n: usize| json!({"properties": {"a": {"allOf": patterns(n)}}});
        let other = json!({"properties": {"a": {"pattern": "b", "format": "date"}}});
        for bad in [
            json!({"type": "string", "allOf": patterns(MOST_PATTERNS + 1)}),
            json!({"allOf": [twice(3), other]}),
            json!({"items": {"$ref": "#/$defs/d0"}, "$defs": {"d0": {"allOf": patterns(200)}}}),
            json!({"allOf": [list(3), list(2)]}),
            json!({"anyOf": [list(200)]}),
            json!({"anyOf": [{"anyOf": [list(200)]}]}),
            json!({"anyOf": [{"$ref": "#/$defs/d0"}], "$defs": {"d0": list(200)}}),
            json!({"allOf": patterns(3), "anyOf": [list(2)]}),
            json!({"anyOf": [{"items": list(200)}]}),
            json!({"anyOf": [{"type": "null"}, {"allOf": patterns(9)}]}),
            json!({"multipleOf": 1_000_003}),
            json!({"multipleOf": 1e9}),
            json!({"allOf": [{"multipleOf": 997}, {"multipleOf": 991}]}),
        ] {
            assert!(check_joined(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_doubles_at_every_step_ends() {
        let options = json!({"anyOf": [{"$ref": "#/$defs/d0"}, {"properties": {"a": {"$ref": "#/$defs/d0"}}}]});
        let doubling =
            json!({"allOf": vec![options.clone(); 12], "$defs": {"d0": {"allOf": [options.clone(), options]}}});
        let since = std::time::Instant::now();
        let _ = check_joined(&doubling);
        assert!(since.elapsed() < std::time::Duration::from_secs(2));
    }

    #[test]
    fn tools_lose_what_cannot_be_followed_and_answers_are_refused() {
        use super::super::plain::{Strictness, plain};
        let patterns: Vec<Value> = (0..5).map(|n| json!({ "pattern": format!("a{n}") })).collect();
        let tool = json!({ "type": "object", "required": ["id"], "properties": {
            "id": { "type": "string", "allOf": patterns },
            "every": { "type": "integer", "multipleOf": 86_400_000 },
            "pattern": { "type": "string" }, "kind": { "enum": ["pattern"] },
        }});
        assert!(plain(&tool, &tool, Strictness::Strict).is_err());
        let text = plain(&tool, &tool, Strictness::Lenient).unwrap().to_string();
        assert!(!text.contains("multipleOf") && !text.contains("a0"), "{text}");
        // a property of that name, and a value
        assert_eq!(text.matches("pattern").count(), 2, "{text}");
    }
}
