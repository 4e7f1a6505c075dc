//! What `$ref` stands for.

use serde_json::Value;

/// Most parts of a schema that are looked at for an anchor or an id.
const MOST_PARTS: usize = 20_000;

/// The part of `root` that a reference names: by a pointer, an anchor or an id; `None` where there is none. Nothing is
/// fetched. Definitions that stand somewhere below the root (a schema put into another as it is) are found by their name.
pub(crate) fn target<'a>(root: &'a Value, reference: &str) -> Option<&'a Value> {
    let (place, fragment) = reference.split_once('#').unwrap_or((reference, ""));
    let fragment = percent_decoded(fragment);
    let document = if place.is_empty() { Some(root) } else { find(root, &|part| id_is(part, place)) };
    let found = document.and_then(|document| match fragment.as_str() {
        "" => Some(document),
        pointer if pointer.starts_with('/') => document.pointer(pointer),
        anchor => find(document, &|part| anchor_is(part, anchor)),
    });
    found.filter(|part| part.is_object() || part.is_boolean()).or_else(|| {
        let (lists, name) = fragment.rsplit_once('/')?;
        lists.ends_with("$defs").then_some(()).or_else(|| lists.ends_with("definitions").then_some(()))?;
        let name = name.replace("~1", "/").replace("~0", "~");
        let holder = find(root, &|part| definition(part, &name).is_some())?;
        definition(holder, &name)
    })
}

fn definition<'a>(part: &'a Value, name: &str) -> Option<&'a Value> {
    ["$defs", "definitions"].into_iter().find_map(|list| part.get(list)?.get(name))
}

fn id_is(part: &Value, id: &str) -> bool {
    let own = part.get("$id").or_else(|| part.get("id")).and_then(Value::as_str);
    // a relative reference beside an absolute id
    own.is_some_and(|own| own.trim_end_matches('#') == id || own.rsplit('/').next() == Some(id))
}

fn anchor_is(part: &Value, anchor: &str) -> bool {
    let named = |key: &str| part.get(key).and_then(Value::as_str);
    named("$anchor").or_else(|| named("$dynamicAnchor")) == Some(anchor)
        || named("$id").and_then(|id| id.strip_prefix('#')) == Some(anchor)
}

/// The first part, in the order of the text, that is wanted.
fn find<'a>(root: &'a Value, wanted: &dyn Fn(&Value) -> bool) -> Option<&'a Value> {
    let mut stack = vec![root];
    for _ in 0..MOST_PARTS {
        let part = stack.pop()?;
        match part {
            Value::Object(members) => {
                if wanted(part) {
                    return Some(part);
                }
                stack.extend(members.values().rev());
            }
            Value::Array(items) => stack.extend(items.iter().rev()),
            _ => {}
        }
    }
    None
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let code = after.get(..2).filter(|_| *first == b'%').and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references_are_found_by_pointer_anchor_id_and_name() {
        let root = json!({
            "$id": "https://example.com/root",
            "$defs": {"a/b": {"title": "slash"}, "x y": {"title": "blank"}, "P": {"$anchor": "here", "title": "P"}},
            "properties": {"q": {"$id": "https://example.com/q.json", "$defs": {"Inner": {"title": "inner"}}}},
        });
        let title = |reference: &str| target(&root, reference).and_then(|part| part["title"].as_str());
        assert_eq!(title("#/$defs/P"), Some("P"));
        assert_eq!(title("#/$defs/a~1b"), Some("slash"));
        assert_eq!(title("#/$defs/x%20y"), Some("blank"));
        assert_eq!(title("#here"), Some("P"));
        assert_eq!(title("https://example.com/root#/$defs/P"), Some("P"));
        assert_eq!(title("q.json#/$defs/Inner"), Some("inner"));
        assert_eq!(title("#/$defs/Inner"), Some("inner"));
        assert_eq!(title("#/definitions/P"), Some("P"));
        assert!(target(&root, "#").is_some_and(|part| std::ptr::eq(part, &root)));
        for missing in ["#/$defs/none", "#none", "https://elsewhere.org/x", "#/properties/%", ""] {
            assert_eq!(title(missing), None, "{missing}");
        }
    }
}
