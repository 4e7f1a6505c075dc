//! `flashflood bench --trace FILE`: what host and device did for a few tokens, in the format of Chrome's tracing, which
//! ui.perfetto.dev and chrome://tracing show.

use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use flashflood::compute::Span;
use serde_json::{Value, json};

use crate::cli::output::private_file;

/// Tokens that are shown.
pub(super) const TOKENS: usize = 4;

/// Some tokens, beside others that ran another way.
pub(super) struct Track {
    pub(super) name: &'static str,
    pub(super) spans: Vec<Span>,
}

/// Writes the tracks, one below the other, each from its own beginning.
pub(super) fn write(path: &Path, tracks: &[Track]) -> anyhow::Result<()> {
    let name = || path.display().to_string();
    let mut file = BufWriter::new(private_file(path)?);
    serde_json::to_writer(&mut file, &json!({ "traceEvents": events(tracks) })).with_context(name)?;
    file.flush().with_context(name)
}

fn events(tracks: &[Track]) -> Vec<Value> {
    let mut events = Vec::new();
    for (process, track) in (1..).zip(tracks) {
        let label = |what: &str, thread: u32, name: &str| json!({ "ph": "M", "name": what, "pid": process, "tid": thread, "args": { "name": name } });
        events.push(label("process_name", 0, track.name));
        events.push(label("thread_name", 0, "host"));
        events.push(label("thread_name", 1, "device"));
        let Some(first) = track.spans.iter().map(|span| span.start).min() else { continue };
        for span in &track.spans {
            events.push(json!({
                "ph": "X", "name": span.name, "pid": process, "tid": u32::from(span.on_device),
                "ts": span.start.duration_since(first).as_secs_f64() * 1e6, "dur": span.time.as_secs_f64() * 1e6,
            }));
        }
    }
    events
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn spans_are_drawn_from_the_first_of_their_track() {
        let start = Instant::now();
        let span = |name, on_device, after: u64, time: u64| Span {
            name,
            on_device,
            start: start + Duration::from_micros(after),
            time: Duration::from_micros(time),
        };
        let spans = vec![span("submit", false, 1030, 5), span("matvec", true, 1040, 8), span("step", false, 1000, 50)];
        let found = events(&[Track { name: "empty", spans: Vec::new() }, Track { name: "tokens", spans }]);
        let drawn: Vec<_> = found.iter().filter(|event| event["ph"] == "X").collect();
        let brief = |event: &Value| {
            let [ts, dur] = ["ts", "dur"].map(|key| event[key].as_f64().expect("a number").round() as u64);
            (event["name"].clone(), event["pid"].clone(), event["tid"].clone(), ts, dur)
        };
        let expected = [("submit", 0, 30, 5), ("matvec", 1, 40, 8), ("step", 0, 0, 50)];
        let expected = expected.map(|(name, tid, ts, dur)| (json!(name), json!(2), json!(tid), ts, dur));
        assert_eq!(drawn.into_iter().map(brief).collect::<Vec<_>>(), expected);
        let names: Vec<_> = found.iter().filter(|e| e["ph"] == "M").map(|e| e["args"]["name"].clone()).collect();
        assert_eq!(names, ["empty", "host", "device", "tokens", "host", "device"]);
    }
}
