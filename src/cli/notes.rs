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
use std::io::Write;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_to_terminals_are_not_carried_out() {
        assert_eq!(printable("a\tb\nZoé 😀"), "a\tb\nZoé 😀");
        assert_eq!(
            printable("\x1b]0;owned\x07\x1b[2J\r\u{9b}1m"),
            "\u{fffd}]0;owned\u{fffd}\u{fffd}[2J\u{fffd}\u{fffd}1m"
        );
    }
}
