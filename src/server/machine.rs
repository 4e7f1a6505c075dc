//! `GET /machine`: what the engine does, as a stream of events for the page's machine room.
//!
//! The first event describes the machine, each later one says what has changed. A listener keeps two numbers of what it has
//! seen and asks when its connection has room: one that reads slowly hears less often, and the engine waits for nobody.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use axum::response::sse::{Event, Sse};
use flashflood_backends::conditions::{MemoryPressure, Sensors, ThermalState};
use futures_util::stream;
use serde_json::{Value, json};

use super::Server;
use super::error::ApiError;
use super::sse::unbuffered;
use crate::{Activity, Engine, StoreStats, Watcher};

/// Time between two events while something happens.
const INTERVAL: Duration = Duration::from_millis(100);

/// Events are this many intervals apart while nothing does.
const QUIET: u32 = 10;

/// The most listeners at once.
const MOST: usize = 16;

/// What does not change while a model is served.
pub(crate) struct Machine {
    activity: Arc<Activity>,
    description: Value,
    looks_up: bool,
}

impl Machine {
    pub(crate) fn of(engine: &Engine, model: &str) -> Self {
        let activity = engine.activity().clone();
        let description = json!({"machine": {
            "version": env!("CARGO_PKG_VERSION"),
            "model": model,
            "device": engine.device(),
            "layers": activity.experts().map(|experts| experts.layers()).unwrap_or_default(),
            "plan": engine.plan(),
        }});
        Machine { activity, description, looks_up: engine.looks_up() }
    }
}

/// One connection.
struct Listener {
    server: Arc<Server>,
    activity: Arc<Activity>,
    looks_up: bool,
    first: Option<Value>,
    /// Whether something was told after that.
    has_told: bool,
    begun: Instant,
    sensors: Sensors,
    /// What of the experts and of the steps was told.
    seen: (u64, u64),
    stats: StoreStats,
    /// Nothing had happened when the last event was told: the changes in it were the last.
    was_quiet: bool,
    _watcher: Watcher,
}

pub(crate) fn get(server: &Arc<Server>) -> Result<Response<Body>, ApiError> {
    let machine = &server.model()?.machine;
    let activity = machine.activity.clone();
    if activity.watchers() >= MOST {
        let message = format!("{MOST} listeners are here already");
        return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, message));
    }
    let listener = Listener {
        server: server.clone(),
        _watcher: activity.watch(),
        looks_up: machine.looks_up,
        first: Some(machine.description.clone()),
        has_told: false,
        begun: Instant::now(),
        sensors: Sensors::new(),
        seen: (0, activity.step_count()),
        stats: StoreStats::default(),
        was_quiet: false,
        activity,
    };
    let events = stream::unfold(listener, |mut listener| async move {
        let data = listener.next().await?;
        Some((Ok::<_, Infallible>(Event::default().data(data.to_string())), listener))
    });
    Ok(unbuffered(Sse::new(events).into_response()))
}

impl Listener {
    /// What is told next; `None` when the server stops.
    async fn next(&mut self) -> Option<Value> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        let is_first = !std::mem::replace(&mut self.has_told, true);
        for quiet in 1.. {
            if !is_first {
                tokio::time::sleep(INTERVAL).await;
            }
            if self.server.queue.is_closed() {
                return None;
            }
            let experts = self.activity.experts();
            let stats = experts.map(|experts| experts.stats()).unwrap_or_default();
            let steps = self.activity.steps_since(&mut self.seen.1);
            let is_quiet = steps.is_empty() && stats == self.stats && !is_first;
            if is_quiet && quiet < QUIET {
                continue;
            }
            let experts = experts.filter(|_| !(is_quiet && self.was_quiet));
            (self.stats, self.was_quiet) = (stats, is_quiet);
            let changes = experts.map(|experts| experts.changes_since(&mut self.seen.0)).unwrap_or_default();
            let changes: Vec<usize> =
                changes.into_iter().flat_map(|(layer, expert, state)| [layer, expert, state as usize]).collect();
            let steps: Vec<Value> = steps
                .iter()
                .map(|step| {
                    json!({
                        "tokens": step.tokens, "prompt": step.is_prompt,
                        "disk_us": micros(step.disk), "device_us": micros(step.device), "host_us": micros(step.host),
                        "between_us": micros(step.between),
                    })
                })
                .collect();
            let now = self.sensors.read();
            return Some(json!({
                "at": u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
                "experts": changes,
                "looked_up": self.looks_up,
                "steps": steps,
                "stats": {
                    "hits": stats.hits, "misses": stats.misses, "bytes_read": stats.bytes_read,
                    "busy_us": micros(stats.busy_time), "stall_us": micros(stats.stall_time),
                },
                "memory_bytes": flashflood_backends::memory::resident_memory(),
                "waiting": self.server.queue.depth(),
                "conditions": {
                    "thermal": match now.thermal {
                        ThermalState::Nominal => "normal",
                        ThermalState::Fair => "warm",
                        ThermalState::Serious => "hot",
                        ThermalState::Critical => "too hot",
                    },
                    "memory_pressure": match now.memory {
                        MemoryPressure::Normal => "normal",
                        MemoryPressure::Warning => "high",
                        MemoryPressure::Critical => "critical",
                    },
                },
            }));
        }
        None
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
