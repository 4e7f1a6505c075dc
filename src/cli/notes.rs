//! What is said on standard error. Nobody may be reading it, and the disk that it goes to may be full: that is no reason to
//! end. What models and their files say cannot move a terminal's cursor, or do what else terminals do when they are told.

/// Says a line on standard error.
macro_rules! note {
    ($($arguments:tt)*) => {
        $crate::cli::notes::say(&format!($($arguments)*))
    };
}
pub(crate) use note;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::Write;

use serde::Serialize;

pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", printable(line));
}

/// A text without what terminals take for orders: control characters but for line ends and tabs.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let is_order = |c: char| c.is_control() && c != '\n' && c != '\t';
    match text.contains(is_order) {
        true => {
            text.chars().map(|c| if is_order(c) { char::REPLACEMENT_CHARACTER } else { c }).collect::<String>().into()
        }
        false => text.into(),
    }
}

/// JSON for standard output. Characters that terminals take for orders, and JSON lets stand as they are, are escaped: it is
/// the same JSON.
pub(crate) fn json(value: &impl Serialize) -> serde_json::Result<String> {
    let text = serde_json::to_string_pretty(value)?;
    let is_order = |c: char| c.is_control() && c != '\n';
    if !text.contains(is_order) {
        return Ok(text);
    }
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match is_order(c) {
            true => {
                let _ = write!(escaped, "\\u{:04x}", u32::from(c));
            }
            false => escaped.push(c),
        }
    }
    Ok(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_says_the_same_without_orders() {
        let text = "a\x1b[2J\u{9b}1m\x7f\nZoé";
        let json = json(&[text]).expect("is JSON");
        assert!(!json.contains(|c: char| c.is_control() && c != '\n'), "{json:?}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&json).expect("is JSON"), [text]);
    }

    #[test]
    fn orders_to_terminals_are_not_carried_out() {
        assert_eq!(printable("a\tb\nZoé 😀"), "a\tb\nZoé 😀");
        assert_eq!(
            printable("\x1b]0;owned\x07\x1b[2J\r\u{9b}1m"),
            "\u{fffd}]0;owned\u{fffd}\u{fffd}[2J\u{fffd}\u{fffd}1m"
        );
    }
}
