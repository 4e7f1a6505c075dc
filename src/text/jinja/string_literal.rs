//! String constants as Python reads them: the engine's escapes are those of JSON.

use std::iter::Peekable;
use std::str::Chars;

/// The text of one or more literals side by side; None where `source` is anything else.
pub(super) fn python_string(source: &str) -> Option<String> {
    let mut out = String::new();
    let mut chars = source.chars().peekable();
    let mut literals = 0;
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let Some(quote) = chars.next() else { return (literals > 0).then_some(out) };
        if !matches!(quote, '"' | '\'') {
            return None;
        }
        literals += 1;
        loop {
            match chars.next()? {
                c if c == quote => break,
                '\\' => escape(&mut out, &mut chars)?,
                c => out.push(c),
            }
        }
    }
}

/// What stands behind a backslash.
fn escape(out: &mut String, chars: &mut Peekable<Chars<'_>>) -> Option<()> {
    let code = match chars.next()? {
        '\n' => return Some(()),
        c @ ('\\' | '\'' | '"') => u32::from(c),
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'n' => 10,
        'r' => 13,
        't' => 9,
        'v' => 11,
        c @ '0'..='7' => {
            let mut code = c.to_digit(8)?;
            for _ in 0..2 {
                let Some(digit) = chars.peek().and_then(|c| c.to_digit(8)) else { break };
                chars.next();
                code = 8 * code + digit;
            }
            code
        }
        'x' => hexadecimal(chars, 2)?,
        'u' => match hexadecimal(chars, 4)? {
            // a pair, as JSON writes what lies beyond 16 bits: Python keeps both halves, which is no text
            high @ 0xd800..0xdc00 => {
                let low = (chars.next()? == '\\' && chars.next()? == 'u').then(|| hexadecimal(chars, 4))??;
                0x10000 + ((high - 0xd800) << 10) + low.checked_sub(0xdc00)?
            }
            code => code,
        },
        'U' => hexadecimal(chars, 8)?,
        other => {
            out.push('\\');
            u32::from(other)
        }
    };
    out.push(char::from_u32(code)?);
    Some(())
}

fn hexadecimal(chars: &mut Peekable<Chars<'_>>, digits: usize) -> Option<u32> {
    (0..digits).try_fold(0, |code, _| Some(16 * code + chars.next()?.to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_those_of_python() {
        for (source, expected) in [
            (r#"'a\'b' "c\"d""#, Some("a'bc\"d")),
            (r"'\n\t\\\x41\u00e9\U0001F600\101\0'", Some("\n\t\\Aé😀A\0")),
            (r"'\/\d\ud83d\ude00'", Some("\\/\\d😀")),
            ("'a\\\nb'", Some("ab")),
            ("''", Some("")),
            (r"'\x4'", None),
            ("a", None),
            ("'a", None),
        ] {
            assert_eq!(python_string(source).as_deref(), expected, "{source}");
        }
    }
}
