//! What a template may use: a checkpoint is a stranger's file, and `{% for %}` can go on for ever.

use minijinja::machinery::{Token, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Error, State};

use super::arguments::invalid;

/// Steps of the engine: many seconds, of which tests wait for less. A short conversation takes some thousands.
pub(super) const STEPS: u64 = if cfg!(test) { 2_000_000 } else { 100_000_000 };

/// Bytes of one text, and of all that a rendering writes. A context of a million tokens is 4 MB.
const TEXT: usize = 64 << 20;

/// Items of one list.
const ITEMS: usize = 4 << 20;

/// Values within each other that are written.
pub(super) const MOST_DEPTH: usize = 1_000;

/// Bytes of a template: published ones have 60 kB at most.
const SOURCE: usize = 1 << 20;

/// Words of one tag, of which hundreds may stand within each other without a bracket (`not not x`, `a.b.c`).
const WORDS: usize = 4_000;

/// `{% elif %}` of a template: to the engine, each stands within the one before.
const BRANCHES: usize = 4_000;

/// Bytes of stack for the engine, which calls itself for what stands within each other; values that a template makes may
/// lie in each other deeper still.
pub(in crate::text) const STACK: usize = 256 << 20;

/// Refuses a template of which the engine would make too deep a tree, with the line.
pub(super) fn check_source(source: &str, syntax: SyntaxConfig) -> Result<(), (usize, String)> {
    if source.len() > SOURCE {
        return Err((0, format!("the template has {} bytes, expected {SOURCE} at most", source.len())));
    }
    let (mut words, mut branches) = (0, 0);
    // what is no token is an error of the engine's, when it comes there
    for (token, span) in tokenize(source, false, syntax).map_while(Result::ok) {
        match token {
            Token::VariableStart | Token::BlockStart => words = 0,
            Token::Ident("elif") => branches += 1,
            _ => words += 1,
        }
        let line = usize::from(span.start_line);
        if words > WORDS {
            return Err((line, format!("a tag has more than {WORDS} words")));
        }
        if branches > BRANCHES {
            return Err((line, format!("the template has more than {BRANCHES} branches")));
        }
    }
    Ok(())
}

pub(super) fn check_text(bytes: usize) -> Result<(), Error> {
    if bytes > TEXT {
        return Err(invalid(format!("the template makes a text of {bytes} bytes, expected {TEXT} at most")));
    }
    Ok(())
}

pub(super) fn check_items(items: usize) -> Result<(), Error> {
    if items > ITEMS {
        return Err(invalid(format!("the template makes a list of {items} items, expected {ITEMS} at most")));
    }
    Ok(())
}

/// Bytes that the present rendering wrote, into its text and into variables.
#[derive(Default)]
struct Written(usize);

/// Counts `bytes` more.
pub(super) fn count_written(state: &mut State<'_, '_>, bytes: usize) -> Result<(), Error> {
    let written = state.get_or_insert_extension_with(Written::default);
    written.0 += bytes;
    check_text(written.0)
}
