//! A page to share: what was measured and on which machine, with tables, pictures and the JSON in it. One file that needs
//! nothing else and asks nothing of the network.

use std::path::Path;

use flashflood_backends::{machine, memory};
use serde_json::{Value, json};

use super::output::write_whole;

/// The page, whose script draws what stands in place of [`DATA`].
const PAGE: &str = include_str!("report.html");
const DATA: &str = "\"DATA\"";

/// Writes `result` of a command, `what` it is and which model it is of.
pub(super) fn write(file: &Path, what: &str, model: Option<&Path>, result: &Value) -> anyhow::Result<()> {
    let model = model.map_or_else(|| "the small model in the program".to_owned(), shown);
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut all = json!({
        "what": what,
        "model": model,
        "version": env!("CARGO_PKG_VERSION"),
        "time": seconds,
        "system": machine::system(),
        "processor": machine::processor(),
        "threads": std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        "memory": memory::total_memory(),
        "result": result,
    });
    if let Ok(home) = etcetera::home_dir() {
        without_home(&mut all, home.to_string_lossy().trim_end_matches(['/', '\\']));
    }
    write_whole(file, |place| Ok(std::fs::write(place, page(&all))?))
}

/// The name alone: folders say who a user is.
fn shown(model: &Path) -> String {
    let text = model.to_string_lossy();
    match model.exists() {
        true => model.file_name().map_or(text.clone(), |name| name.to_string_lossy()).into_owned(),
        false => text.into_owned(),
    }
}

fn page(all: &Value) -> String {
    // a string within could end the script
    let data = all.to_string().replace('<', "\\u003c");
    PAGE.replacen(DATA, &data, 1)
}

/// `value` with `~` in place of the user's home, in every text of it: a page is to share.
fn without_home(value: &mut Value, home: &str) {
    match value {
        Value::String(text) if !home.is_empty() => *text = text.replace(home, "~"),
        Value::Array(values) => values.iter_mut().for_each(|value| without_home(value, home)),
        Value::Object(values) => values.values_mut().for_each(|value| without_home(value, home)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn text_cannot_end_the_script() {
        let page = page(&json!({ "model": "</script><script>alert(1)</script>" }));
        assert!(!page.contains("alert(1)</script>"), "{page}");
        assert_eq!(page.matches("<script").count(), PAGE.matches("<script").count());
        let data = page.split("const data = ").nth(1).unwrap().split(";\n").next().unwrap();
        let read: Value = serde_json::from_str(data).unwrap();
        assert_eq!(read["model"], "</script><script>alert(1)</script>");
    }

    #[test]
    fn a_page_does_not_say_who_made_it() {
        let mut value = json!({ "findings": [{ "text": "2 models in /home/ada/.cache/huggingface", "n": 2 }] });
        without_home(&mut value, "/home/ada");
        assert_eq!(value["findings"][0]["text"], "2 models in ~/.cache/huggingface");
    }
}
