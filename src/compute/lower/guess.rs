//! A guess at the experts of the next layer: its norm and router on what this layer's experts begin from, beside this
//! layer's own router.

use super::plain;
use crate::compute::op::Op;
use crate::compute::ops::{Input, Matmul, RmsNorm, Route, RouterTopK};
use crate::compute::recording::{Recorded, Recording, View};

/// The router of a layer: the norm before it, its product and its choice, and their places in the list.
struct Router {
    norm: RmsNorm,
    norm_at: usize,
    product: Matmul,
    choice: RouterTopK,
    route_at: usize,
}

/// The tensors that all guesses are made in.
#[derive(Clone, Copy)]
struct Tensors {
    normed: View,
    logits: View,
    ids: View,
    weights: View,
}

/// Inserts a guess into every layer that has routed experts and is followed by another that has.
pub(super) fn insert(recording: &mut Recording) {
    let routers = routers(recording);
    // layers of one shape share the tensors of their guesses
    let mut made: Vec<(usize, usize, Tensors)> = Vec::new();
    let mut guesses = Vec::new();
    for pair in routers.windows(2) {
        let [now, next] = pair else { continue };
        let (experts, top_k) = (next.choice.logits.width, next.choice.ids.width);
        let tensors = match made.iter().find(|known| (known.0, known.1) == (experts, top_k)) {
            Some(known) => known.2,
            None => {
                let tensors = Tensors {
                    normed: recording.tensor("ahead.normed", 1, next.norm.out.width),
                    logits: recording.tensor("ahead.router", 1, experts),
                    ids: recording.ids("ahead.ids", top_k),
                    weights: recording.tensor("ahead.weights", 1, top_k),
                };
                made.push((experts, top_k, tensors));
                tensors
            }
        };
        if let Recorded::Route(Route { ahead, .. }) = &mut recording.steps[now.route_at] {
            *ahead = Some(tensors.ids);
        }
        guesses.push((now.norm_at + 1, guess(now, next, tensors)));
    }
    // from the last to the first, so that places stay right
    for (at, steps) in guesses.into_iter().rev() {
        recording.steps.splice(at..at, steps);
    }
}

fn guess(now: &Router, next: &Router, tensors: Tensors) -> [Recorded; 3] {
    let layer = next.choice.layer;
    let kernel = |label: &str, kernel: Op| Recorded::Kernel { label: format!("ahead.{layer}.{label}"), kernel };
    let Tensors { normed, logits, ids, weights } = tensors;
    [
        kernel("norm", RmsNorm { x: now.norm.x, out: normed, ..next.norm.clone() }.into()),
        kernel("router", Matmul { x: Input::F32(normed), out: logits, ..next.product.clone() }.into()),
        kernel("route", RouterTopK { logits, ids, weights, ..next.choice.clone() }.into()),
    ]
}

/// The routers of all layers whose norm and product are there to be repeated.
fn routers(recording: &Recording) -> Vec<Router> {
    let steps = &recording.steps;
    let mut found = Vec::new();
    for (at, recorded) in steps.iter().enumerate() {
        let Recorded::Kernel { kernel: Op::RouterTopK(choice), .. } = recorded else { continue };
        let product = steps[..at].iter().rev().find_map(|recorded| match recorded {
            Recorded::Kernel { kernel: Op::Matmul(product), .. } if product.out == choice.logits => Some(product),
            _ => None,
        });
        let Some((product, normed)) = product.and_then(|product| Some((product, plain(&product.x)?))) else { continue };
        let norm = steps[..at].iter().enumerate().rev().find_map(|(i, recorded)| match recorded {
            Recorded::Kernel { kernel: Op::RmsNorm(norm), .. } if norm.out == normed => Some((i, norm)),
            _ => None,
        });
        let is_route = |recorded: &Recorded| matches!(recorded, Recorded::Route(route) if route.ids == choice.ids);
        let route = steps[at..].iter().position(is_route);
        if let (Some((norm_at, norm)), Some(route)) = (norm, route) {
            let (norm, product, choice) = (norm.clone(), product.clone(), choice.clone());
            found.push(Router { norm, norm_at, product, choice, route_at: at + route });
        }
    }
    found
}
