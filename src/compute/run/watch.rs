//! Whoever watches a prompt may end it. How much is done before they are asked again follows the time that it takes: on a
//! slow device an operation of a chunk takes seconds, on a fast one a layer takes milliseconds.

use std::time::{Duration, Instant};

use crate::compute::step::ExecuteError;

/// How often whoever watches is asked, at most.
const OFTEN: Duration = Duration::from_millis(50);

/// Whoever watches a step of a prompt.
pub(super) struct Watch<'a> {
    /// Is told how many layers are done, and says whether to go on.
    ask: &'a mut dyn FnMut(usize) -> bool,
    asked: Instant,
}

impl<'a> Watch<'a> {
    pub(super) fn new(ask: &'a mut dyn FnMut(usize) -> bool) -> Self {
        Watch { ask, asked: Instant::now() }
    }

    /// A layer is done, which they always hear.
    pub(super) fn layer_done(&mut self, layers: usize) -> Result<(), ExecuteError> {
        let goes_on = (self.ask)(layers);
        self.asked = Instant::now();
        if goes_on { Ok(()) } else { Err(ExecuteError::Interrupted) }
    }

    /// In the midst of a layer, `layers` of which are done.
    pub(super) fn look(&mut self, layers: usize) -> Result<(), ExecuteError> {
        if self.asked.elapsed() < OFTEN { Ok(()) } else { self.layer_done(layers) }
    }
}

/// How much is asked of the device before it is waited for. Results do not depend on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stride {
    /// Operations.
    pub(super) operations: usize,
    /// (token, expert) pairs of a layer's routed experts.
    pub(super) pairs: usize,
}

impl Default for Stride {
    fn default() -> Self {
        Stride { operations: 8, pairs: 4096 }
    }
}

impl Stride {
    /// Beyond this it is less.
    const LONG: Duration = Duration::from_millis(200);
    /// Below this it is more: every wait has its price.
    const SHORT: Duration = Duration::from_millis(40);
    /// A stride of operations for a device that would otherwise be far behind the host.
    const MOST_OPERATIONS: usize = 128;
    const LEAST_PAIRS: usize = 64;
    const MOST_PAIRS: usize = 1 << 24;

    /// Takes in how long so many operations took.
    pub(super) fn learn_operations(&mut self, took: Duration) {
        self.operations = follow(self.operations, took).clamp(1, Self::MOST_OPERATIONS);
    }

    /// Takes in how long some experts took.
    pub(super) fn learn_pairs(&mut self, took: Duration) {
        self.pairs = follow(self.pairs, took).clamp(Self::LEAST_PAIRS, Self::MOST_PAIRS);
    }
}

fn follow(amount: usize, took: Duration) -> usize {
    match took {
        long if long > Stride::LONG => amount / 2,
        short if short < Stride::SHORT => amount * 2,
        _ => amount,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stride_follows_the_time_that_it_takes() {
        let mut stride = Stride::default();
        let found: Vec<(usize, usize)> = [300, 300, 900, 9000, 100, 1, 1]
            .into_iter()
            .map(|milliseconds| {
                stride.learn_operations(Duration::from_millis(milliseconds));
                stride.learn_pairs(Duration::from_millis(milliseconds));
                (stride.operations, stride.pairs)
            })
            .collect();
        assert_eq!(found, [(4, 2048), (2, 1024), (1, 512), (1, 256), (1, 256), (2, 512), (4, 1024)]);
        (0..40).for_each(|_| stride.learn_operations(Duration::ZERO));
        (0..40).for_each(|_| stride.learn_pairs(Duration::from_secs(1)));
        assert_eq!((stride.operations, stride.pairs), (Stride::MOST_OPERATIONS, Stride::LEAST_PAIRS));
    }

    #[test]
    fn between_layers_nobody_is_asked_without_end() {
        let mut asked = 0;
        let mut ask = |_| {
            asked += 1;
            asked < 3
        };
        let mut watch = Watch::new(&mut ask);
        (0..100).for_each(|_| watch.look(1).unwrap_or_default());
        watch.layer_done(1).unwrap_or_default();
        std::thread::sleep(OFTEN);
        watch.look(1).unwrap_or_default();
        std::thread::sleep(OFTEN);
        assert!(matches!(watch.look(1), Err(ExecuteError::Interrupted)));
        assert_eq!(asked, 3);
    }
}
