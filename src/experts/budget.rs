//! From bytes to slots: pure functions, so that the memory plan can ask before anything is allocated.

use super::error::StoreError;
use super::layout::ExpertLayout;

/// The least memory that an automatic budget leaves to everything else on the machine.
pub const LEAST_RESERVE: u64 = 1 << 30;

/// Slots for `budget_bytes`: never more than the model has experts, and no remainder that the sets of
/// [`super::ExpertStore`] would leave unused. `top_k` experts a token must fit.
pub fn plan_slots(layout: &ExpertLayout, budget_bytes: u64, top_k: usize) -> Result<usize, StoreError> {
    let slot_bytes = layout.slot_bytes().max(1) as u64;
    let layers = layout.layers.len();
    let all = layers.saturating_mul(layout.experts);
    let affordable = usize::try_from(budget_bytes / slot_bytes).unwrap_or(usize::MAX);
    let slots = affordable.min(all);
    check_slots(slots, slot_bytes, budget_bytes, top_k)?;
    Ok(match slots_per_layer(slots, layers, layout.experts, top_k) {
        Some(each) => each * layers,
        None => slots,
    })
}

/// Bytes for experts on a machine with `available` bytes free of which `other_needs` go to weights, state and scratch
/// that are not allocated yet. The reserve is the larger of [`LEAST_RESERVE`] and a tenth, but at most half of what
/// is available, so that a small machine runs too.
pub fn auto_budget(available: u64, other_needs: u64) -> u64 {
    available.saturating_sub(reserve(available)).saturating_sub(other_needs)
}

/// What an automatic budget leaves of `available` bytes to everything else on the machine.
pub fn reserve(available: u64) -> u64 {
    LEAST_RESERVE.max(available / 10).min(available / 2)
}

/// Slots of each layer's own set; `None` when they would be fewer than `top_k` and all layers share one set.
pub(super) fn slots_per_layer(slots: usize, layers: usize, experts: usize, top_k: usize) -> Option<usize> {
    let each = (slots / layers.max(1)).min(experts);
    (each >= top_k).then_some(each)
}

/// Slots that an expert of one layer may be in, of `slots` in all: those of the layer, or all of them.
pub fn set_size(slots: usize, layout: &ExpertLayout, top_k: usize) -> usize {
    slots_per_layer(slots, layout.layers.len(), layout.experts, top_k).unwrap_or(slots)
}

/// Whether the slots hold what one token needs of one layer.
pub(super) fn check_slots(slots: usize, slot_bytes: u64, given: u64, top_k: usize) -> Result<(), StoreError> {
    if slots >= top_k {
        return Ok(());
    }
    Err(StoreError::BudgetTooSmall { needed: top_k as u64 * slot_bytes, given, experts: top_k })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_reserve_is_a_gibibyte_a_tenth_or_half() {
        assert_eq!(auto_budget(64 * GIB, 0), 64 * GIB - 64 * GIB / 10);
        assert_eq!(auto_budget(8 * GIB, GIB), 6 * GIB);
        assert_eq!(auto_budget(GIB, 0), GIB / 2);
        assert_eq!(auto_budget(GIB, GIB), 0);
    }

    #[test]
    fn sets_are_per_layer_when_a_token_fits_in_each() {
        assert_eq!(slots_per_layer(40, 4, 16, 8), Some(10));
        assert_eq!(slots_per_layer(31, 4, 16, 8), None);
        assert_eq!(slots_per_layer(1000, 4, 16, 8), Some(16));
    }
}
