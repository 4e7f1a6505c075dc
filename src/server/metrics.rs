//! Counters in Prometheus' text format.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::Generated;
use crate::StoreStats;

/// Upper ends of the time histograms' buckets, seconds.
const BUCKETS: [f64; 10] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 1800.0];

/// What was done since the start.
#[derive(Default)]
pub(crate) struct Metrics {
    requests: AtomicU64,
    in_flight: AtomicU64,
    refused: AtomicU64,
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    generated_tokens: AtomicU64,
    times: Mutex<Times>,
}

#[derive(Default)]
struct Times {
    prefill: Histogram,
    decode: Histogram,
    first_token: Histogram,
    experts: StoreStats,
}

#[derive(Default)]
struct Histogram {
    counts: [u64; BUCKETS.len()],
    count: u64,
    sum: f64,
}

/// Counts a request as long as it lives.
pub(crate) struct InFlight(std::sync::Arc<super::Server>);

impl InFlight {
    pub(crate) fn new(server: &std::sync::Arc<super::Server>) -> Self {
        server.metrics.requests.fetch_add(1, Ordering::Relaxed);
        server.metrics.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(server.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.metrics.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    /// Requests whose answers are not written yet.
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The queue had no room.
    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// The first token came this long after the request.
    pub(crate) fn first_token(&self, after: Duration) {
        self.times().first_token.add(after);
    }

    /// A request was computed, to its end or not.
    pub(crate) fn computed(&self, made: &Generated, experts: StoreStats) {
        let (prompt, cached) = (made.prompt, made.reused);
        self.prompt_tokens.fetch_add(prompt as u64, Ordering::Relaxed);
        self.cached_tokens.fetch_add(cached as u64, Ordering::Relaxed);
        self.generated_tokens.fetch_add(made.tokens.len() as u64, Ordering::Relaxed);
        let mut times = self.times();
        times.prefill.add(made.prefill);
        times.decode.add(made.decode);
        times.experts = experts;
    }

    fn times(&self) -> std::sync::MutexGuard<'_, Times> {
        // counters are right after every statement
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of it; `depth` requests wait.
    pub(crate) fn text(&self, depth: usize) -> String {
        let mut text = String::new();
        let mut one = |name: &str, kind: &str, help: &str, value: f64| {
            let _ = write!(
                text,
                "# HELP flashflood_{name} {help}\n# TYPE flashflood_{name} {kind}\nflashflood_{name} {value}\n"
            );
        };
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        let times = self.times();
        let experts = &times.experts;
        one("requests_total", "counter", "Requests of any kind.", count(&self.requests));
        one("requests_in_flight", "gauge", "Requests whose answers are not written yet.", count(&self.in_flight));
        one("requests_refused_total", "counter", "Requests that found the queue full.", count(&self.refused));
        one("queue_depth", "gauge", "Requests that wait for the engine.", depth as f64);
        one("prompt_tokens_total", "counter", "Tokens of prompts.", count(&self.prompt_tokens));
        one(
            "cached_tokens_total",
            "counter",
            "Tokens of prompts that were computed before.",
            count(&self.cached_tokens),
        );
        one("generated_tokens_total", "counter", "Tokens made.", count(&self.generated_tokens));
        one("expert_hits_total", "counter", "Experts that were in memory.", experts.hits as f64);
        one("expert_misses_total", "counter", "Experts that had to be read.", experts.misses as f64);
        one("expert_read_bytes_total", "counter", "Bytes of experts read.", experts.bytes_read as f64);
        let stalled = experts.stall_time.as_secs_f64();
        one("expert_stall_seconds_total", "counter", "Time that computing waited for reads.", stalled);
        if let Some(bytes) = flashflood_backends::memory::resident_memory() {
            one("memory_bytes", "gauge", "Memory of the program.", bytes as f64);
        }
        times.prefill.write(&mut text, "prefill_seconds", "Time for a prompt.");
        times.decode.write(&mut text, "decode_seconds", "Time for the tokens behind the first.");
        times.first_token.write(&mut text, "ttft_seconds", "Time from a request to its first token.");
        text
    }
}

impl Histogram {
    fn add(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        for (count, most) in self.counts.iter_mut().zip(BUCKETS) {
            *count += u64::from(seconds <= most);
        }
        self.count += 1;
        self.sum += seconds;
    }

    fn write(&self, text: &mut String, name: &str, help: &str) {
        let _ = write!(text, "# HELP flashflood_{name} {help}\n# TYPE flashflood_{name} histogram\n");
        for (count, most) in self.counts.iter().zip(BUCKETS) {
            let _ = writeln!(text, "flashflood_{name}_bucket{{le=\"{most}\"}} {count}");
        }
        let (count, sum) = (self.count, self.sum);
        let _ = writeln!(text, "flashflood_{name}_bucket{{le=\"+Inf\"}} {count}");
        let _ = write!(text, "flashflood_{name}_sum {sum}\nflashflood_{name}_count {count}\n");
    }
}
