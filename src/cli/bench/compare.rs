//! `flashflood bench --compare A B`: two measurements side by side.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, bail};
use serde_json::Value;

/// Runs the command: `files` are two, written by `bench --json`.
pub(super) fn run(files: &[std::path::PathBuf]) -> anyhow::Result<()> {
    let [a, b] = files else { bail!("expected two files, found {}", files.len()) };
    let (before, after) = (figures_of(a)?, figures_of(b)?);
    let mut out = io::stdout().lock();
    write(&mut out, [a, b], [&before, &after])?;
    Ok(())
}

/// What rows are of.
const ASKED: [&str; 5] = ["context", "tokens", "read_bytes", "depth", "cache_bytes"];

/// Figures by name.
type Figures = BTreeMap<String, f64>;

fn figures_of(file: &Path) -> anyhow::Result<Figures> {
    let name = || file.display().to_string();
    let text = std::fs::read_to_string(file).with_context(name)?;
    let all: Value = serde_json::from_str(&text)
        .with_context(|| format!("{}: expected what flashflood bench --json prints", file.display()))?;
    let figures = figures(&all);
    if figures.is_empty() {
        bail!("{}: no figures (hint: flashflood bench --json >{0} writes some)", file.display());
    }
    Ok(figures)
}

/// The medians of a measurement: of runs alike, each figure's.
fn figures(all: &Value) -> Figures {
    let mut found: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut add = |name: String, value: &Value| {
        if let Some(number) = value.as_f64() {
            found.entry(name).or_default().push(number);
        }
    };
    // reads are a list of rows
    let rows = all.as_array().or_else(|| all.get("runs").and_then(Value::as_array));
    for row in rows.into_iter().flatten().filter_map(Value::as_object) {
        // what was asked for tells runs apart, and is no figure
        let asked = ASKED.into_iter().filter_map(|key| Some((key, row.get(key)?)));
        let of = asked.map(|(key, value)| format!("{key} {value}, ")).collect::<String>();
        for (key, value) in row.iter().filter(|(key, _)| !ASKED.contains(&key.as_str())) {
            add(format!("{of}{key}"), value);
        }
    }
    for kernel in all.get("kernels").and_then(Value::as_array).into_iter().flatten() {
        let (calls, time) = (kernel["calls"].as_f64().unwrap_or(1.0).max(1.0), kernel["us"].as_f64());
        let (Some(name), Some(time)) = (kernel["kernel"].as_str(), time) else { continue };
        add(format!("kernel {name}, us a call"), &(time / calls).into());
    }
    for (key, value) in all.as_object().into_iter().flatten() {
        add(key.clone(), value);
    }
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0
    };
    found.into_iter().map(|(name, values)| (name, median(values))).collect()
}

fn write(out: &mut impl Write, files: [&Path; 2], [before, after]: [&Figures; 2]) -> io::Result<()> {
    writeln!(out, "A: {}\nB: {}\nmedians of the runs of each\n", files[0].display(), files[1].display())?;
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
    writeln!(out, "{:<width$} {:>14} {:>14} {:>9}", "", "A", "B", "B to A")?;
    for name in names {
        let figure = |of: &Figures| of.get(name).map_or("-".to_owned(), |value| for_people(*value));
        let change = match (before.get(name), after.get(name)) {
            (Some(a), Some(b)) if *a != 0.0 => format!("{:+.1} %", (b / a - 1.0) * 100.0),
            _ => String::new(),
        };
        let line = format!("{name:<width$} {:>14} {:>14} {change:>9}", figure(before), figure(after));
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Four digits that count.
fn for_people(value: f64) -> String {
    let digits = (3 - value.abs().max(1e-9).log10().floor() as i32).clamp(0, 6) as usize;
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use serde_json::json;

    #[test]
    fn figures_are_medians_by_what_was_asked_for() {
        let prompts = json!({ "chunk": 512, "device": "CPU", "runs": [
            { "tokens": 128, "tokens_per_s": 10.0 }, { "tokens": 128, "tokens_per_s": 30.0 },
            { "tokens": 128, "tokens_per_s": 90.0 }, { "tokens": 512, "tokens_per_s": 7.0, "sweep_s": null },
        ], "kernels": [{ "kernel": "matvec", "calls": 4, "us": 10.0 }] });
        let expected = [
            ("chunk", 512.0),
            ("kernel matvec, us a call", 2.5),
            ("tokens 128, tokens_per_s", 30.0),
            ("tokens 512, tokens_per_s", 7.0),
        ];
        assert_eq!(figures(&prompts), expected.map(|(name, value)| (name.to_owned(), value)).into());
        let depths = json!({ "runs": [{ "context": 0, "decode_tokens_per_s": 9.0 }] });
        assert_eq!(figures(&depths), [("context 0, decode_tokens_per_s".to_owned(), 9.0)].into());
        let reads = json!([{ "read_bytes": 4096, "depth": 8, "direct_gb_s": 2.0, "best": true }]);
        assert_eq!(figures(&reads), [("read_bytes 4096, depth 8, direct_gb_s".to_owned(), 2.0)].into());
    }

    #[test]
    fn a_table_says_what_changed() {
        let mut out = Vec::new();
        let (a, b) =
            ([("speed".to_owned(), 100.0), ("old".to_owned(), 0.00123)].into(), [("speed".to_owned(), 125.0)].into());
        write(&mut out, [Path::new("a.json"), Path::new("b.json")], [&a, &b]).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("speed          100.0          125.0   +25.0 %"), "{text}");
        assert!(text.contains("old         0.001230              -\n"), "{text}");
    }
}
