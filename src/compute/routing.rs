//! From the router's choice to work for each expert.

use super::executor::ExecuteError;
use super::ops::Pair;
use crate::experts::{ExpertStore, StoreError};

/// One expert of a layer with the (token, expert) pairs that chose it.
pub(crate) struct ExpertPairs {
    /// Expert.
    pub(crate) expert: u32,
    /// In order of tokens; slots are not set yet.
    pub(crate) pairs: Vec<Pair>,
}

/// Groups `ids` `[tokens, top_k]` by expert, in the order of the file.
pub(crate) fn group_by_expert(
    layer: usize,
    ids: &[u32],
    top_k: usize,
    experts: usize,
) -> Result<Vec<ExpertPairs>, ExecuteError> {
    let mut order: Vec<(u32, u32)> = ids.iter().enumerate().map(|(row, &id)| (id, row as u32)).collect();
    if let Some(&(found, _)) = order.iter().find(|(id, _)| *id as usize >= experts) {
        return Err(ExecuteError::Router { layer, found, experts });
    }
    order.sort_unstable();
    let mut groups: Vec<ExpertPairs> = Vec::new();
    for (expert, row) in order {
        let pair = Pair { token: row / top_k as u32, row, slot: 0, slab: 0 };
        match groups.last_mut() {
            Some(last) if last.expert == expert => last.pairs.push(pair),
            _ => groups.push(ExpertPairs { expert, pairs: vec![pair] }),
        }
    }
    Ok(groups)
}

/// Starts to read the first `most` experts of `layer` that `guess` names, and empties it. A guess that is none of the
/// layer's `experts` is left to the layer itself, whose error it is to report.
pub(crate) fn read_ahead(
    store: &mut ExpertStore,
    layer: usize,
    guess: &mut Vec<u32>,
    experts: usize,
    most: usize,
) -> Result<(), StoreError> {
    let guessed: Vec<u32> = guess.drain(..).filter(|id| (*id as usize) < experts).take(most).collect();
    // the last layer has no next one, and no guess
    if guessed.is_empty() { Ok(()) } else { store.prefetch(layer, &guessed) }
}
