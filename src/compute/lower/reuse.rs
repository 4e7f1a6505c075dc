//! One tensor for all that are of one shape and not needed at the same time: a chunk of thousands of tokens has room for
//! one layer's activations, not for those of sixty.

use crate::compute::op::Use;
use crate::compute::recording::{Element, LayerState, Recorded, Recording, Rows, TensorId, View};

/// When a tensor is needed: from the first operation that touches it to the last.
#[derive(Clone, Copy)]
struct Span {
    last: usize,
    /// It holds nothing before its first operation, and nobody outside of the list looks at it.
    is_passing: bool,
}

/// Gives tensors that can share memory one place, and drops those that nothing touches.
pub(super) fn tensors(recording: &mut Recording) {
    let mut steps = std::mem::take(&mut recording.steps);
    let spans = spans(recording, &mut steps);
    let mut places = Places { old: &recording.tensors, new: Vec::new(), of: vec![None; spans.len()], free: Vec::new() };
    for (at, recorded) in steps.iter_mut().enumerate() {
        let mut ended = Vec::new();
        for (_, view) in recorded.operands() {
            let (old, span) = (view.tensor.0, spans[view.tensor.0]);
            *view = View { tensor: places.place(old, span), ..*view };
            if span.is_passing && span.last == at && !ended.contains(&view.tensor) {
                ended.push(view.tensor);
            }
        }
        // not before: an operation reads and writes different memory
        places.free.append(&mut ended);
    }
    let outside = |view: &mut View, places: &mut Places<'_>| {
        let span = Span { last: usize::MAX, is_passing: false };
        *view = View { tensor: places.place(view.tensor.0, span), ..*view };
    };
    recording.input.iter_mut().chain(&mut recording.logits).for_each(|view| outside(view, &mut places));
    for state in &mut recording.state {
        *state = places.place(state.0, Span { last: usize::MAX, is_passing: false });
    }
    for layer in &mut recording.layers {
        if let LayerState::DeltaNet { conv, recurrent, .. } = layer {
            outside(conv, &mut places);
            outside(recurrent, &mut places);
        }
    }
    recording.tensors = places.new;
    recording.steps = steps;
}

/// Where tensors go.
struct Places<'a> {
    old: &'a [crate::compute::TensorSpec],
    new: Vec<crate::compute::TensorSpec>,
    /// By old number.
    of: Vec<Option<TensorId>>,
    /// New ones that nobody needs any more.
    free: Vec<TensorId>,
}

impl Places<'_> {
    fn place(&mut self, old: usize, span: Span) -> TensorId {
        if let Some(known) = self.of[old] {
            return known;
        }
        let key = |spec: &crate::compute::TensorSpec| (rows_of(spec.rows), spec.width, spec.element == Element::U32);
        let wanted = key(&self.old[old]);
        let found = self.free.iter().rposition(|id| span.is_passing && key(&self.new[id.0]) == wanted);
        let id = match found {
            Some(at) => self.free.remove(at),
            None => {
                self.new.push(self.old[old].clone());
                TensorId(self.new.len() - 1)
            }
        };
        self.of[old] = Some(id);
        id
    }
}

fn rows_of(rows: Rows) -> (u8, usize) {
    match rows {
        Rows::PerToken(n) => (0, n),
        Rows::PerLogits => (1, 0),
        Rows::Fixed(n) => (2, n),
    }
}

fn spans(recording: &Recording, steps: &mut [Recorded]) -> Vec<Span> {
    let mut spans = vec![Span { last: 0, is_passing: true }; recording.tensors.len()];
    let mut seen = vec![false; spans.len()];
    for (at, recorded) in steps.iter_mut().enumerate() {
        for (how, view) in recorded.operands() {
            let span = &mut spans[view.tensor.0];
            span.last = at;
            // what is read first was written outside
            span.is_passing &= seen[view.tensor.0] || how == Use::Write;
            seen[view.tensor.0] = true;
        }
        // the host reads all choices when a step is done
        if let Recorded::Route(route) = recorded {
            spans[route.ids.tensor.0].is_passing = false;
        }
    }
    let outside = recording.input.iter().chain(&recording.logits).map(|view| view.tensor);
    for tensor in outside.chain(recording.state.iter().copied()) {
        spans[tensor.0].is_passing = false;
    }
    spans
}
