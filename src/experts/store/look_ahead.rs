//! Reads of experts before the router has asked for them.

use super::super::worker::Job;
use super::{ExpertStore, SlotUse, StoreError};

impl ExpertStore {
    /// Starts to read experts that the next request for `layer` will probably name, as far as slots can be had without
    /// waiting and without taking one from the current request or from another of `experts`. What nobody asks for
    /// leaves before anything that was.
    pub(crate) fn prefetch(&mut self, layer: usize, mut experts: &[u32]) -> Result<(), StoreError> {
        if layer < self.layout.layers.len() {
            experts = &experts[..experts.len().min(self.capacity(layer))];
        }
        self.check_request(layer, experts)?;
        let set = self.set(layer);
        let wanted: Vec<usize> = experts.iter().filter_map(|&e| self.places.get(&(layer, e)).copied()).collect();
        for &expert in experts {
            if self.places.contains_key(&(layer, expert)) {
                continue;
            }
            let filled = set.clone().filter(|&slot| !self.is_empty(slot)).count();
            let empty = set.clone().find(|&slot| self.is_empty(slot) && self.slots[slot].holds == 0);
            let slot = match empty.filter(|_| filled < self.limit_of(layer)) {
                Some(slot) => slot,
                None => {
                    self.hold(&wanted);
                    let evicted = self.evict_one(set.clone());
                    self.release(&wanted);
                    let Some(slot) = evicted else { break };
                    slot
                }
            };
            self.start_read(Job { slot, layer, expert })?;
            // as if never used, until somebody does
            self.uses[slot] = SlotUse::default();
            self.slots[slot].ahead = true;
            self.stats.ahead += 1;
        }
        Ok(())
    }
}
