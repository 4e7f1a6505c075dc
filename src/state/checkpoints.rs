//! Copies of the recurrent state along the live timeline.
//!
//! A [`Checkpoint`] holds no KV rows: those of its tokens are in the cache for as long as the timeline begins with them.
//! When another prompt takes over from position `d`, the rows beyond `d` are overwritten, so checkpoints beyond `d` are
//! dropped. A branch that is to be come back to is kept in a session file.

/// Why a checkpoint was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Some tokens have passed since the last one.
    Interval,
    /// The caller asked for it: the end of a system prompt, or where the next turn will part from this one.
    Asked,
    /// The timeline went on from here: the end of a turn.
    Turn,
}

/// The state of all linear layers after `position` tokens of the timeline.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoint {
    /// Tokens that the state has seen.
    pub position: usize,
    /// Why it was taken.
    pub reason: Reason,
    /// The state tensors of the recording, in its order.
    pub state: Vec<Vec<f32>>,
}

/// How many checkpoints are kept, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointOptions {
    /// Memory for them, in bytes. At least two are kept however little this is, and none where it is 0.
    pub bytes: u64,
    /// Tokens between two within a long prompt.
    pub every: usize,
    /// One that is fewer tokens after another than this is not worth its memory.
    pub least_gap: usize,
}

impl CheckpointOptions {
    /// Tokens between two checkpoints within a long prompt. A prompt of 100,000 tokens makes 25, which are thinned out.
    pub(crate) const EVERY: usize = 4096;
    /// Tokens that are sooner computed again than kept.
    pub(crate) const LEAST_GAP: usize = 32;

    /// The least of 1 GiB and a sixteenth of what the machine has free.
    pub(crate) fn on_this_machine() -> Self {
        let bytes = (flashflood_backends::memory::available_memory() / 16).clamp(1, 1 << 30);
        CheckpointOptions { bytes, every: Self::EVERY, least_gap: Self::LEAST_GAP }
    }

    /// For a session that runs one prompt and ends.
    pub fn none() -> Self {
        CheckpointOptions { bytes: 0, every: Self::EVERY, least_gap: Self::LEAST_GAP }
    }
}

/// The checkpoints of one timeline, in order of their positions, within a budget.
///
/// When there is one too many, that one goes whose loss would cost the least: the first that was asked for (the system
/// prompt) and the newest stay, and the others get sparser with their distance from the end.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoints {
    kept: Vec<Checkpoint>,
    options: CheckpointOptions,
    state_bytes: u64,
}

impl Checkpoints {
    /// None yet, of `state_bytes` bytes each.
    pub(crate) fn new(options: CheckpointOptions, state_bytes: u64) -> Self {
        Checkpoints { kept: Vec::new(), options, state_bytes }
    }

    /// How many are kept at most; 0 for a model without recurrent state, which needs none.
    pub(crate) fn most(&self) -> usize {
        match self.options.bytes {
            0 => 0,
            _ if self.state_bytes == 0 => 0,
            bytes => usize::try_from(bytes / self.state_bytes).unwrap_or(usize::MAX).max(2),
        }
    }

    /// Those that are kept, in order of their positions.
    pub(crate) fn kept(&self) -> &[Checkpoint] {
        &self.kept
    }

    /// The last one at `position` or before.
    pub(crate) fn last_until(&self, position: usize) -> Option<&Checkpoint> {
        self.kept.iter().rev().find(|checkpoint| checkpoint.position <= position)
    }

    /// Keeps `checkpoint`, and drops another when there are too many.
    pub(crate) fn insert(&mut self, checkpoint: Checkpoint) {
        let at = self.kept.partition_point(|kept| kept.position < checkpoint.position);
        match self.kept.get_mut(at) {
            // one that was asked for stays so
            Some(kept) if kept.position == checkpoint.position => {
                let reason = if kept.reason == Reason::Asked { Reason::Asked } else { checkpoint.reason };
                *kept = Checkpoint { reason, ..checkpoint };
            }
            _ => self.kept.insert(at, checkpoint),
        }
        while self.kept.len() > self.most() {
            self.kept.remove(self.least_useful());
        }
    }

    /// Drops those beyond `position`: the timeline has left them.
    pub(crate) fn forget_beyond(&mut self, position: usize) {
        self.kept.retain(|checkpoint| checkpoint.position <= position);
    }

    /// Drops all.
    pub(crate) fn clear(&mut self) {
        self.kept.clear();
    }

    /// Where steps from `start` to before `end` must stop for a checkpoint: at `boundaries`, which the caller knows, and
    /// at multiples of the interval.
    pub(crate) fn stops(&self, start: usize, end: usize, boundaries: &[usize]) -> Vec<(usize, Reason)> {
        if self.most() == 0 {
            return Vec::new();
        }
        let every = self.options.every.max(1);
        let intervals = (start / every + 1..end.div_ceil(every)).map(|n| (n * every, Reason::Interval));
        let mut wanted: Vec<_> = boundaries.iter().map(|&at| (at, Reason::Asked)).chain(intervals).collect();
        wanted.retain(|(at, _)| (start + 1..end).contains(at));
        // asked for before interval, where both are the same position
        wanted.sort_by_key(|&(at, reason)| (at, reason != Reason::Asked));
        let mut last = self.last_until(start).map_or(0, |checkpoint| checkpoint.position);
        wanted.retain(|&(at, _)| {
            let is_far = at >= last + self.options.least_gap.max(1);
            if is_far {
                last = at;
            }
            is_far
        });
        wanted
    }

    /// Whether a state at `position` is worth keeping beside those that are.
    pub(crate) fn is_worth(&self, position: usize) -> bool {
        let last = self.last_until(position).map_or(0, |checkpoint| checkpoint.position);
        self.most() > 0 && position >= last + self.options.least_gap.max(1)
    }

    fn least_useful(&self) -> usize {
        let first = self.kept.iter().position(|c| c.reason == Reason::Asked).unwrap_or(0);
        let newest = self.kept.len() - 1;
        let others = (0..newest).filter(|&i| i != first);
        // without others there are two at most, and those always fit
        others.min_by(|&a, &b| self.loss(a).total_cmp(&self.loss(b))).unwrap_or(0)
    }

    /// What losing one costs: the tokens that are computed again whenever a prompt parts from the timeline between it and
    /// the next, times how likely that is. The nearer to the end the likelier, and likelier where somebody asked.
    fn loss(&self, i: usize) -> f64 {
        let position = |i: usize| self.kept[i].position as f64;
        let before = if i == 0 { 0.0 } else { position(i - 1) };
        let end = position(self.kept.len() - 1);
        let asked = if self.kept[i].reason == Reason::Interval { 1.0 } else { 8.0 };
        asked * (position(i) - before) * (position(i + 1) - position(i)) / (end - position(i) + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(position: usize, reason: Reason) -> Checkpoint {
        Checkpoint { position, reason, state: Vec::new() }
    }

    /// Room for `most` checkpoints of 10 bytes.
    fn room_for(most: u64) -> Checkpoints {
        Checkpoints::new(CheckpointOptions { bytes: 10 * most, every: 100, least_gap: 8 }, 10)
    }

    fn positions(checkpoints: &Checkpoints) -> Vec<usize> {
        checkpoints.kept().iter().map(|c| c.position).collect()
    }

    #[test]
    fn the_system_prompt_and_the_newest_stay() {
        let mut kept = room_for(2);
        for (position, reason) in [(100, Reason::Interval), (150, Reason::Asked), (200, Reason::Interval)] {
            kept.insert(at(position, reason));
        }
        assert_eq!(positions(&kept), [150, 200]);
        kept.insert(at(260, Reason::Asked));
        assert_eq!(positions(&kept), [150, 260]);
        kept.forget_beyond(259);
        assert_eq!(positions(&kept), [150]);
        assert_eq!(kept.last_until(149).map(|c| c.position), None);
        assert_eq!(kept.last_until(150).map(|c| c.position), Some(150));
    }

    #[test]
    fn the_middle_is_thinned_out() {
        let mut kept = room_for(6);
        (1..=64).for_each(|n| kept.insert(at(n * 100, Reason::Interval)));
        let positions = positions(&kept);
        assert_eq!((positions.len(), positions[0], positions[5]), (6, 100, 6400));
        let gaps: Vec<usize> = positions.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps[4] <= 300 && gaps[1] >= gaps[4], "{positions:?}");
        // nothing in the latter half of the timeline is far from a checkpoint before it
        assert!(gaps[2..].iter().all(|gap| *gap <= 3200), "{positions:?}");
    }

    #[test]
    fn budgets() {
        let most = |bytes, state_bytes| {
            Checkpoints::new(CheckpointOptions { bytes, ..CheckpointOptions::none() }, state_bytes).most()
        };
        assert_eq!([most(0, 10), most(5, 10), most(20, 10), most(59, 10), most(100, 0)], [0, 2, 2, 5, 0]);
    }

    #[test]
    fn stops_are_far_enough_apart() {
        let mut kept = room_for(9);
        let (asked, interval) = (Reason::Asked, Reason::Interval);
        // 3 is near the start, 107 near an interval, 250 is the end
        let boundaries = [3, 50, 100, 107, 240, 250, 900];
        assert_eq!(kept.stops(0, 250, &boundaries), [(50, asked), (100, asked), (200, interval), (240, asked)]);
        kept.insert(at(100, interval));
        assert_eq!(kept.stops(100, 250, &boundaries), [(200, interval), (240, asked)]);
        assert_eq!(kept.stops(103, 250, &[107, 108]), [(108, asked), (200, interval)]);
        assert_eq!(room_for(0).stops(0, 250, &boundaries), []);
        assert!(kept.is_worth(108) && !kept.is_worth(107) && !kept.is_worth(100));
    }

    proptest! {
        #[test]
        fn in_order_and_within_the_budget(
            most in 2u64..8,
            inserted in prop::collection::vec((1usize..500, prop::sample::select(vec![Reason::Asked, Reason::Interval])), 1..60),
        ) {
            let mut kept = room_for(most);
            for (position, reason) in inserted {
                kept.insert(at(position, reason));
                let positions = positions(&kept);
                prop_assert!(positions.len() <= most as usize);
                prop_assert!(positions.is_sorted_by(|a, b| a < b), "{:?}", positions);
            }
        }
    }
}
