//! From bytes to slots: pure functions, so that the memory plan can ask before anything is allocated.

use super::error::StoreError;
use super::sets::SlotSets;
use crate::weights::ExpertLayout;

/// The least memory that an automatic budget leaves to everything else on the machine.
pub(crate) const LEAST_RESERVE: u64 = 1 << 30;

/// Slots for `budget_bytes`: never more than the model has experts, and no remainder that the sets of
/// [`super::ExpertStore`] would leave unused. What a token needs of any one layer must fit; a model without experts needs
/// no slot.
pub(crate) fn plan_slots(layout: &ExpertLayout, budget_bytes: u64) -> Result<usize, StoreError> {
    let slot_bytes = layout.slot_bytes().max(1) as u64;
    let affordable = usize::try_from(budget_bytes / slot_bytes).unwrap_or(usize::MAX);
    let slots = affordable.min(layout.experts());
    check_slots(slots, slot_bytes, budget_bytes, layout.most_of_a_token())?;
    Ok(SlotSets::new(layout, slots).slots())
}

/// Bytes for experts on a machine with `available` bytes free of which `other_needs` go to weights, state and scratch
/// that are not allocated yet. The reserve is the larger of [`LEAST_RESERVE`] and a tenth, but at most half of what
/// is available, so that a small machine runs too.
pub(crate) fn auto_budget(available: u64, other_needs: u64) -> u64 {
    available.saturating_sub(reserve(available)).saturating_sub(other_needs)
}

/// What an automatic budget leaves of `available` bytes to everything else on the machine.
pub(crate) fn reserve(available: u64) -> u64 {
    LEAST_RESERVE.max(available / 10).min(available / 2)
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
    fn a_model_without_experts_needs_no_slot() {
        for bytes in [0, GIB] {
            assert!(matches!(plan_slots(&ExpertLayout::default(), bytes), Ok(0)));
        }
    }
}
