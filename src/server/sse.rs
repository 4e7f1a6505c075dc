//! Answers as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Response, header};
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream;
use serde_json::Value;

use super::answer::{Part, Running};

/// How long a client waits at most for a sign of life: clients and proxies give up on long prompts otherwise.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// One event.
pub(crate) struct Frame {
    /// Its name, where the protocol has names.
    pub(crate) name: Option<&'static str>,
    pub(crate) data: String,
}

impl Frame {
    /// Data without a name.
    pub(crate) fn data(data: &Value) -> Self {
        Frame { name: None, data: data.to_string() }
    }

    /// Data whose `type` is its name as well.
    pub(crate) fn named(name: &'static str, data: &Value) -> Self {
        Frame { name: Some(name), data: data.to_string() }
    }
}

/// How a protocol writes an answer down, piece by piece.
pub(crate) trait Dialect: Send + 'static {
    /// What comes first, before anything is computed.
    fn begin(&mut self) -> Vec<Frame>;

    /// A piece; after the last one nothing comes.
    fn part(&mut self, part: Part) -> Vec<Frame>;

    /// A sign of life while there is nothing to say.
    fn alive(&self) -> Event {
        Event::default().comment("computing")
    }
}

struct State<D> {
    running: Option<Running>,
    dialect: D,
    frames: VecDeque<Frame>,
}

/// The response that writes `running` down.
pub(crate) fn response(running: Running, mut dialect: impl Dialect) -> Response<Body> {
    let keep_alive = KeepAlive::new().interval(SIGN_OF_LIFE).event(dialect.alive());
    let frames = dialect.begin().into();
    let events = stream::unfold(State { running: Some(running), dialect, frames }, |mut state| async move {
        loop {
            if let Some(frame) = state.frames.pop_front() {
                let event = Event::default().data(frame.data);
                let event = frame.name.map_or(event.clone(), |name| event.event(name));
                return Some((Ok::<_, Infallible>(event), state));
            }
            let part = state.running.as_mut()?.next().await;
            if matches!(part, Part::Done(_) | Part::Failed(_)) {
                state.running = None;
            }
            state.frames.extend(state.dialect.part(part));
        }
    });
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    // proxies must not collect it
    response.headers_mut().insert(header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}
