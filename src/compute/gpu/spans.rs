use std::time::Instant;

use crate::compute::step::Span;

/// What host and device did, and when: kept from when somebody asks for it.
#[derive(Default)]
pub(super) struct Spans(Option<Vec<Span>>);

impl Spans {
    /// Keeps what follows.
    pub(super) fn keep(&mut self) {
        self.0.get_or_insert_default();
    }

    /// Whether any are kept.
    fn are_kept(&self) -> bool {
        self.0.is_some()
    }

    /// The host did something from `start` until now.
    pub(super) fn host(&mut self, name: &'static str, start: Instant) {
        if self.are_kept() {
            self.add(Span { name, on_device: false, start, time: start.elapsed() });
        }
    }

    pub(super) fn add(&mut self, span: Span) {
        if let Some(kept) = &mut self.0 {
            kept.push(span);
        }
    }

    /// What was kept, in the order in which it ended; nothing is kept any more.
    pub(super) fn take(&mut self) -> Vec<Span> {
        self.0.take().unwrap_or_default()
    }
}
