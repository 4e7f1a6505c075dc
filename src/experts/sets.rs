//! Which slots the experts of which layer may be in: pure arithmetic, so that the memory plan, the store and the memory of
//! a device agree before anything is allocated.

use std::ops::Range;

use crate::weights::{ExpertLayout, LayerExperts};

/// Slots in sets that follow one another: one for each layer with experts, or one that all of them share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SlotSets {
    /// Where each set ends; it begins where the one before ends.
    ends: Vec<usize>,
    is_shared: bool,
}

impl SlotSets {
    /// Shares `slots` slots out among the layers of `layout`: first what a token needs of each, then the rest in
    /// proportion to the experts that are left, never more than a layer has. Fewer slots than that make one set of them
    /// all. Layers that are alike get equal sets, and what remains is in none.
    pub(crate) fn new(layout: &ExpertLayout, slots: usize) -> SlotSets {
        let needed: usize = layout.layers.iter().map(|layer| layer.top_k).sum();
        if slots < needed {
            return SlotSets { ends: vec![slots], is_shared: true };
        }
        let wanted = layout.experts().saturating_sub(needed);
        let mut left = (slots - needed).min(wanted);
        let alike = |pair: &[LayerExperts]| (pair[0].experts, pair[0].top_k) == (pair[1].experts, pair[1].top_k);
        if layout.layers.windows(2).all(alike) {
            left -= left % layout.layers.len().max(1);
        }
        // what all layers so far want, and get
        let (mut more, mut given) = (0, 0);
        SlotSets::of_lengths(layout.layers.iter().map(|layer| {
            more += layer.experts.saturating_sub(layer.top_k);
            let before = given;
            // nothing is left where nothing is wanted
            given = (more as u128 * left as u128 / wanted.max(1) as u128) as usize;
            layer.top_k + given - before
        }))
    }

    /// A set for each layer, of so many slots.
    pub(crate) fn of_lengths(lengths: impl IntoIterator<Item = usize>) -> SlotSets {
        let mut end = 0;
        let ends = lengths.into_iter().map(|length| {
            end += length;
            end
        });
        SlotSets { ends: ends.collect(), is_shared: false }
    }

    /// The slots that experts of a layer may be in.
    ///
    /// # Panics
    /// For a layer that has no experts.
    pub(crate) fn of_layer(&self, layer: usize) -> Range<usize> {
        let set = self.set_of(layer);
        let start = if set == 0 { 0 } else { self.ends[set - 1] };
        start..self.ends[set]
    }

    /// The index of a layer's set.
    pub(super) fn set_of(&self, layer: usize) -> usize {
        if self.is_shared { 0 } else { layer }
    }

    /// Whether all layers share one set.
    pub(crate) fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// The sets, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| start..end)
    }

    /// Slots of all sets.
    pub(crate) fn slots(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::weights::SlotLayout;
    use crate::weights::WeightFormat;

    /// Layers with so many experts, and as many of a token.
    fn layout(layers: &[(usize, usize)]) -> ExpertLayout {
        let slot = SlotLayout::new(32, 32, WeightFormat::F32, WeightFormat::F32);
        let layer = |&(experts, top_k): &(usize, usize)| LayerExperts {
            experts,
            top_k,
            slot,
            parts: Vec::new(),
            rewritten: Vec::new(),
            checksums: None,
        };
        ExpertLayout { files: Vec::new(), layers: layers.iter().map(layer).collect() }
    }

    fn lengths(layers: &[(usize, usize)], slots: usize) -> (bool, Vec<usize>) {
        let sets = SlotSets::new(&layout(layers), slots);
        (sets.is_shared(), sets.iter().map(|set| set.len()).collect())
    }

    #[test]
    fn sets_are_per_layer_when_a_token_fits_in_each() {
        assert_eq!(lengths(&[(16, 8); 4], 40), (false, vec![10; 4]));
        assert_eq!(lengths(&[(16, 8); 4], 31), (true, vec![31]));
        assert_eq!(lengths(&[(16, 8); 4], 1000), (false, vec![16; 4]));
        assert_eq!(lengths(&[(8, 8); 2], 16), (false, vec![8; 2]));
        assert_eq!(lengths(&[], 0), (false, vec![]));
    }

    #[test]
    fn layers_that_differ_get_what_a_token_needs_and_their_share() {
        let layers = [(64, 8), (16, 2), (4, 4)];
        assert_eq!(lengths(&layers, 13), (true, vec![13]));
        assert_eq!(lengths(&layers, 14), (false, vec![8, 2, 4]));
        // 35 more, of 56 and 14 that are left
        assert_eq!(lengths(&layers, 49), (false, vec![36, 9, 4]));
        assert_eq!(lengths(&layers, usize::MAX), (false, vec![64, 16, 4]));
        let sets = SlotSets::new(&layout(&layers), 49);
        assert_eq!([0, 1, 2].map(|layer| sets.of_layer(layer)), [0..36, 36..45, 45..49]);
    }

    proptest! {
        #[test]
        fn every_layer_holds_a_token_and_no_slot_is_in_two_sets(
            layers in prop::collection::vec((1usize..40).prop_flat_map(|experts| (Just(experts), 1..=experts)), 1..6),
            slots in 0usize..300,
        ) {
            let sets = SlotSets::new(&layout(&layers), slots);
            let mut next = 0;
            for (layer, (experts, top_k)) in layers.iter().enumerate() {
                let set = sets.of_layer(layer);
                if sets.is_shared() {
                    prop_assert_eq!(set, 0..slots);
                    continue;
                }
                prop_assert_eq!(set.start, next);
                prop_assert!((*top_k..=*experts).contains(&set.len()));
                next = set.end;
            }
            prop_assert!(sets.slots() <= slots);
            // whoever asks again with what is used gets the same
            prop_assert_eq!(&SlotSets::new(&layout(&layers), sets.slots()), &sets);
        }
    }
}
