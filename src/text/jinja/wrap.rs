//! Where long text is cut: the filters `truncate` and `wordwrap`.

use minijinja::{Error, Value};

use super::arguments::Arguments;

/// The first `length` characters or less, to the end of a word.
pub(super) fn truncate(text: &str, given: &[Value]) -> Result<String, Error> {
    let mut arguments = Arguments::new("truncate", given);
    let length = arguments.integer("length")?.map_or(255, |length| usize::try_from(length).unwrap_or(0));
    let kill_words = arguments.flag("killwords", false);
    let end = arguments.text("end")?.unwrap_or_else(|| "...".into());
    let leeway = arguments.integer("leeway")?.map_or(5, |leeway| usize::try_from(leeway).unwrap_or(0));
    arguments.end()?;
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text.to_owned());
    }
    let kept: String = text.chars().take(length.saturating_sub(end.chars().count())).collect();
    let kept = match kept.rsplit_once(' ') {
        Some((words, _)) if !kill_words => words,
        _ => &kept,
    };
    Ok(format!("{kept}{end}"))
}

/// Lines of `width` characters at most.
pub(super) fn wordwrap(text: &str, given: &[Value]) -> Result<String, Error> {
    let mut arguments = Arguments::new("wordwrap", given);
    let width = arguments.integer("width")?.map_or(79, |width| usize::try_from(width).unwrap_or(1).max(1));
    let break_long_words = arguments.flag("break_long_words", true);
    let separator = arguments.text("wrapstring")?.unwrap_or_else(|| "\n".into());
    let break_on_hyphens = arguments.flag("break_on_hyphens", true);
    arguments.end()?;
    let lines = text.lines().map(|line| wrap_line(line, width, break_long_words, break_on_hyphens).join(&separator));
    Ok(lines.collect::<Vec<_>>().join(&separator))
}

/// As Python's `textwrap` does, with white space kept inside of lines.
fn wrap_line(line: &str, width: usize, break_long_words: bool, break_on_hyphens: bool) -> Vec<String> {
    let length = |text: &str| text.chars().count();
    let mut pieces: Vec<String> = pieces(line, break_on_hyphens);
    pieces.reverse();
    let mut lines = Vec::new();
    while let Some(first) = pieces.last() {
        if !lines.is_empty() && first.trim().is_empty() {
            pieces.pop();
            if pieces.is_empty() {
                break;
            }
        }
        let mut current = String::new();
        while let Some(piece) = pieces.pop() {
            let room = width.saturating_sub(length(&current));
            if length(&piece) <= room {
                current.push_str(&piece);
                continue;
            }
            if length(&piece) > width && (break_long_words || current.is_empty()) {
                let cut = if break_long_words { room.max(usize::from(current.is_empty())) } else { usize::MAX };
                let split = piece.char_indices().nth(cut).map_or(piece.len(), |(at, _)| at);
                current.push_str(&piece[..split]);
                if split < piece.len() {
                    pieces.push(piece[split..].to_owned());
                }
            } else {
                pieces.push(piece);
            }
            break;
        }
        let kept = current.trim_end();
        if !kept.is_empty() {
            lines.push(kept.to_owned());
        }
    }
    lines
}

/// Words and the blanks between them; words are cut after hyphens between letters.
fn pieces(line: &str, break_on_hyphens: bool) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    let chars: Vec<char> = line.chars().collect();
    for (index, &c) in chars.iter().enumerate() {
        let starts = match index.checked_sub(1).map(|before| chars[before]) {
            None => true,
            Some(before) if before.is_whitespace() != c.is_whitespace() => true,
            Some('-') if break_on_hyphens => {
                let letter = |at: Option<&char>| at.is_some_and(|c| c.is_alphabetic());
                index >= 3 && letter(chars.get(index - 2)) && letter(chars.get(index - 3)) && letter(chars.get(index))
            }
            Some(_) => false,
        };
        match pieces.last_mut() {
            Some(piece) if !starts => piece.push(c),
            _ => pieces.push(c.to_string()),
        }
    }
    pieces
}
