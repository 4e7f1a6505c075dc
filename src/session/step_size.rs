//! How many tokens of a prompt a step takes. Whoever watches can end the work only between operations, so none must take
//! long; but every step reads the experts that are not in memory once more, so only a model that is in memory has a choice.

use std::time::Duration;

/// What may pass before whoever watches is asked.
const LONGEST: Duration = Duration::from_millis(400);

/// Tokens of the first step on a processor, before anything is known about the time. A GPU for which the longest step is too
/// long is rare; it is found out by that step.
const FIRST: usize = 256;

/// Steps are multiples of this: kernels that go through tokens in runs then have the same runs, and the same results.
const RUN: usize = 64;

#[derive(Clone, Copy, Debug)]
pub(super) struct StepSize {
    most: usize,
    now: usize,
    adapts: bool,
}

impl StepSize {
    /// Of at most `most` tokens; `adapts` when smaller steps cost nothing.
    pub(super) fn new(most: usize, adapts: bool, is_processor: bool) -> Self {
        let adapts = adapts && most > FIRST;
        StepSize { most, now: if adapts && is_processor { FIRST } else { most }, adapts }
    }

    /// Most tokens of the next step.
    pub(super) fn tokens(self) -> usize {
        self.now
    }

    /// Takes in the longest time of a step of `tokens` in which whoever watches was not asked.
    pub(super) fn learn(&mut self, tokens: usize, slowest: Duration) {
        // a step that was cut short says nothing about longer ones, unless it took long itself
        if !self.adapts || (tokens < self.now && slowest < LONGEST) {
            return;
        }
        let scale = LONGEST.as_secs_f64() / slowest.as_secs_f64().max(1e-6);
        let fitting = tokens as f64 * scale.min(2.0);
        self.now = (fitting as usize / RUN * RUN).clamp(RUN, self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_follow_the_time_that_they_cannot_be_ended() {
        let mut size = StepSize::new(4096, true, true);
        let mut found = Vec::new();
        for milliseconds in [10, 10, 400, 800, 100_000, 1, 1, 1, 1, 1, 1, 1, 1] {
            size.learn(size.tokens(), Duration::from_millis(milliseconds));
            found.push(size.tokens());
        }
        assert_eq!(found, [512, 1024, 1024, 512, 64, 128, 256, 512, 1024, 2048, 4096, 4096, 4096]);
        size.learn(100, Duration::from_millis(1));
        assert_eq!(size.tokens(), 4096);
        let mut size = StepSize::new(4096, true, false);
        assert_eq!(size.tokens(), 4096);
        size.learn(4096, Duration::from_millis(20));
        assert_eq!(size.tokens(), 4096);
        size.learn(4096, Duration::from_millis(1600));
        assert_eq!(size.tokens(), 1024);
        for (most, adapts) in [(4096, false), (100, true)] {
            let mut size = StepSize::new(most, adapts, true);
            size.learn(most, Duration::from_secs(9));
            assert_eq!(size.tokens(), most);
        }
    }
}
