//! What a template may use: a checkpoint is a stranger's file, and `{% for %}` can go on for ever.

use minijinja::{Error, State};

use super::arguments::invalid;

/// Steps of the engine: some seconds, of which tests wait for less. A short conversation takes some thousands.
pub(super) const STEPS: u64 = if cfg!(test) { 2_000_000 } else { 300_000_000 };

/// Bytes of one text, and of all that a rendering writes. A context of a million tokens is 4 MB.
const TEXT: usize = 64 << 20;

/// Items of one list.
const ITEMS: usize = 4 << 20;

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
