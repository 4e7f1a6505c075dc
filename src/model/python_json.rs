//! JSON as Python writes it: with NaN and infinities, which JSON does not have.

/// `text` with `null` in the place of such numbers, which then count as absent.
pub(super) fn without_python_numbers(text: String) -> String {
    const WORDS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
    if !WORDS[1..].iter().any(|word| text.contains(word)) {
        return text;
    }
    let (mut out, mut rest, mut in_string) = (String::with_capacity(text.len()), text.as_str(), false);
    while let Some(first) = rest.chars().next() {
        let word = WORDS.iter().find(|word| !in_string && rest.starts_with(**word));
        let taken = match (word, first) {
            (Some(word), _) => {
                out.push_str("null");
                rest = &rest[word.len()..];
                continue;
            }
            // what follows cannot end the string
            (None, '\\') if in_string => 1 + rest.chars().nth(1).map_or(0, char::len_utf8),
            (None, '"') => {
                in_string = !in_string;
                1
            }
            _ => first.len_utf8(),
        };
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_null_and_strings_stay() {
        let same = |text: &str| assert_eq!(without_python_numbers(text.to_owned()), text);
        let read = |text: &str| without_python_numbers(text.to_owned());
        assert_eq!(read(r#"{"a": NaN, "b": [Infinity, -Infinity]}"#), r#"{"a": null, "b": [null, null]}"#);
        same(r#"{"NaN": "Infinity", "é": "a \" NaN \\\\"}"#);
        assert_eq!(read(r#"{"a": "\\", "b": NaN}"#), r#"{"a": "\\", "b": null}"#);
        same(r#"{"a": 1e5}"#);
        same("\"NaN \\");
    }
}
