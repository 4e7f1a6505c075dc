//! What of the patterns that people write an automaton can follow.

/// Longest pattern, in bytes.
const LONGEST_PATTERN: usize = 4_000;

/// The characters of a pattern that mean something to it, neither escaped nor in a class: where each stands, and how many
/// brackets are open behind it.
pub(crate) fn syntax(pattern: &str) -> impl Iterator<Item = (usize, char, usize)> {
    let (mut depth, mut in_class, mut escaped) = (0usize, false, false);
    pattern.char_indices().filter_map(move |(at, character)| {
        match character {
            _ if escaped => {
                escaped = false;
                return None;
            }
            '\\' => {
                escaped = true;
                return None;
            }
            '[' => in_class = true,
            ']' => in_class = false,
            '(' if !in_class => depth += 1,
            ')' if !in_class => depth = depth.saturating_sub(1),
            _ => {}
        }
        (!in_class).then_some((at, character, depth))
    })
}

/// A pattern without the looks ahead that it begins with, if it has any.
pub(super) fn behind_looks(pattern: &str) -> Option<String> {
    let mut rest = pattern.strip_prefix('^')?;
    while ["(?!", "(?="].iter().any(|look| rest.starts_with(look)) {
        let (end, ..) = syntax(rest).find(|(.., depth)| *depth == 0)?;
        rest = &rest[end + 1..];
    }
    (rest.len() + 1 < pattern.len()).then(|| format!("^{rest}"))
}

/// What of a pattern no automaton can follow.
pub(super) fn check_pattern(pattern: &str) -> Result<(), String> {
    if pattern.len() > LONGEST_PATTERN {
        return Err(format!("a pattern has {LONGEST_PATTERN} bytes at most here, found {}", pattern.len()));
    }
    let mut rest = pattern;
    while let Some(at) = rest.find(['\\', '(']) {
        rest = &rest[at..];
        if ["(?=", "(?!", "(?<=", "(?<!"].iter().any(|look| rest.starts_with(look)) {
            return Err(format!("look-around in a pattern cannot be followed, found {pattern:?}; leave it out"));
        }
        let escaped = rest.strip_prefix('\\').and_then(|rest| rest.chars().next());
        if let Some('1'..='9' | 'k') = escaped {
            return Err(format!("a back-reference in a pattern cannot be followed, found {pattern:?}; leave it out"));
        }
        rest = &rest[1 + escaped.map_or(0, char::len_utf8)..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_ahead_at_the_begin_can_be_left_out() {
        assert_eq!(behind_looks(r"^(?!\.)(?!.*[)(]\))([a-z]+)$").as_deref(), Some("^([a-z]+)$"));
        assert_eq!(behind_looks("^(?=(a|b))a").as_deref(), Some("^a"));
        for none in ["^a(?!b)", "(?!b)a", "a", "^(?!b", ""] {
            assert_eq!(behind_looks(none), None, "{none}");
        }
    }

    #[test]
    fn only_what_has_no_state_is_followed() {
        for good in ["^a+$", r"\(?=", r"\\1", "(?:a|b)", r"(?P<name>\d)", "(?i)a", r"\p{L}"] {
            assert_eq!(check_pattern(good), Ok(()), "{good}");
        }
        for bad in ["a(?=b)", "(?<!a)b", "(?<=a)b", r"(a)\1", r"(?<n>a)\k<n>", &"a".repeat(5_000)] {
            assert!(check_pattern(bad).is_err(), "{bad}");
        }
    }
}
