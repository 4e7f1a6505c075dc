//! How many slots may be filled: less when others need memory.

use std::ops::Range;

use super::{ExpertStore, State, StoreError};

impl ExpertStore {
    /// Lets at most `slots` slots be filled, shared out among the layers as all of them are; never fewer than a token needs of
    /// each, never more than there are. A lower limit takes effect layer by layer, as each is asked for next: the
    /// policy chooses what leaves, and its memory goes back to the system where it can. Slots that are held or being
    /// read stay until they no longer are. Call it between steps: it changes [`capacity`](Self::capacity).
    pub(crate) fn set_limit(&mut self, slots: usize) {
        let (all, granule) = (self.sets.slots(), self.memory.granule());
        let needed = |set: usize| match self.sets.is_shared() {
            true => self.layout.most_of_a_token(),
            false => self.layout.layers[set].top_k,
        };
        let limit = |(index, set): (usize, Range<usize>)| {
            let share = (slots.min(all) as u128 * set.len() as u128 / all.max(1) as u128) as usize;
            if share >= set.len() {
                return set.len();
            }
            // memory that goes back together is taken together
            (share / granule * granule).max(granule).min(set.len()).max(needed(index))
        };
        self.limits = self.sets.iter().enumerate().map(limit).collect();
    }

    /// The most slots that may be filled now.
    pub(crate) fn limit(&self) -> usize {
        self.limits.iter().sum()
    }

    /// Slots that hold an expert or are about to.
    pub(crate) fn filled(&self) -> usize {
        self.slots.iter().filter(|slot| !matches!(slot.state, State::Empty)).count()
    }

    /// Slots by which a limit rises or falls at least, all layers together.
    pub(crate) fn limit_step(&self) -> usize {
        self.memory.granule() * self.limits.len()
    }

    /// Whether a lower limit gives memory back to the system.
    pub(crate) fn gives_back(&self) -> bool {
        self.memory.gives_back()
    }

    /// Empties `count` slots of the layer's set: those that are empty already, as far as the limit allows, then by
    /// the policy. What is over the limit afterwards is evicted too.
    pub(super) fn free_slots(&mut self, layer: usize, count: usize) -> Result<Vec<usize>, StoreError> {
        let (set, limit) = (self.set(layer), self.limit_of(layer));
        if self.memory.granule() > 1 && limit < set.len() {
            return self.free_front(layer, set, limit, count);
        }
        let filled = set.clone().filter(|&slot| !self.is_empty(slot)).count();
        let mut over = filled.saturating_sub(limit);
        let mut unfilled: Vec<usize> = set.clone().filter(|&s| self.is_empty(s) && !self.is_pinned(s)).collect();
        let beyond = unfilled.split_off(unfilled.len().min(limit.saturating_sub(filled)));
        let mut beyond = beyond.into_iter();
        let mut freed = Vec::with_capacity(count);
        for slot in unfilled.into_iter().take(count) {
            freed.push(self.claim(slot));
        }
        while freed.len() < count {
            // held slots may leave no other than one beyond the limit
            let Some(slot) = self.evict_one(set.clone()).or_else(|| beyond.next().inspect(|_| over += 1)) else {
                return Err(self.all_held(layer, count));
            };
            freed.push(self.claim(slot));
        }
        for _ in 0..over {
            let Some(slot) = self.evict_one(set.clone()) else { break };
            self.memory.release(slot);
        }
        Ok(freed)
    }

    /// The same where memory goes back many slots at a time: the slots at the front of the set are kept, whatever they
    /// hold, and those behind the limit are emptied.
    fn free_front(
        &mut self,
        layer: usize,
        set: Range<usize>,
        limit: usize,
        count: usize,
    ) -> Result<Vec<usize>, StoreError> {
        let (front, back) = (set.start..set.start + limit, set.start + limit..set.end);
        let mut freed = Vec::with_capacity(count);
        while freed.len() < count {
            let found = front.clone().find(|&s| self.is_empty(s) && !self.is_pinned(s));
            // held slots may leave no other than one behind the limit
            let found = found.or_else(|| self.evict_one(front.clone()));
            let found = found.or_else(|| back.clone().find(|&s| self.is_empty(s) && !self.is_pinned(s)));
            let Some(slot) = found.or_else(|| self.evict_one(back.clone())) else {
                return Err(self.all_held(layer, count));
            };
            freed.push(self.claim(slot));
        }
        while self.evict_one(back.clone()).is_some() {}
        for slot in back {
            if self.is_empty(slot) && !freed.contains(&slot) {
                self.memory.release(slot);
            }
        }
        Ok(freed)
    }
}
