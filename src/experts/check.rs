//! Checks of a layout before anything is read with it: a slot that is filled only in part computes nonsense.

use super::error::StoreError;
use crate::weights::{ExpertLayout, LayerExperts, MatrixPlace, Place, Rewritten};

/// The bytes `at .. at + len` of a slot.
type Span = (usize, usize);

/// The streams of a matrix in its slot, by name.
fn sections(matrix: &MatrixPlace) -> impl Iterator<Item = (&'static str, Span)> {
    matrix.format.stream_names().iter().copied().zip(matrix.sections())
}

/// Whether every layer's parts fill every section of a slot from files that exist.
pub(super) fn check_layout(layout: &ExpertLayout) -> Result<(), StoreError> {
    let error = |layer, what| Err(StoreError::Layout { layer, what });
    if layout.layers.is_empty() {
        return error(0, "expected at least one layer with experts, found none".to_owned());
    }
    for (layer, experts) in layout.layers.iter().enumerate() {
        if let Err(what) = check_layer(layout, experts) {
            return error(layer, what);
        }
    }
    Ok(())
}

fn check_layer(layout: &ExpertLayout, layer: &LayerExperts) -> Result<(), String> {
    let (experts, top_k) = (layer.experts, layer.top_k);
    if top_k == 0 || top_k > experts || u32::try_from(experts).is_err() {
        return Err(format!("expected between 1 and all of the experts per token, found {top_k} of {experts}"));
    }
    if let Some(checksums) = &layer.checksums {
        if layer.parts.len() != 1 {
            return Err(format!("expected one part per checksummed expert, found {}", layer.parts.len()));
        }
        if checksums.len() != experts {
            return Err(format!("expected {experts} checksums, found {}", checksums.len()));
        }
    }
    for (from, len) in filled(layer) {
        if from.checked_add(len).is_none_or(|end| end > layer.slot.bytes) {
            return Err(format!("expected parts within {} bytes, found {len} bytes at {from}", layer.slot.bytes));
        }
    }
    for part in layer.all_parts() {
        let files: Vec<u32> = match &part.place {
            Place::Strided { file, .. } => vec![*file],
            Place::Listed(places) => places.iter().map(|place| place.0).collect(),
        };
        if matches!(part.place, Place::Listed(_)) && files.len() != experts {
            return Err(format!("expected a place for each of {experts} experts, found {}", files.len()));
        }
        if let Some(file) = files.iter().find(|file| **file as usize >= layout.files.len()) {
            return Err(format!("expected one of {} files, found file {file}", layout.files.len()));
        }
    }
    check_cover(layer)
}

/// What of a slot is read, or written from what was read.
fn filled(layer: &LayerExperts) -> impl Iterator<Item = Span> {
    let read = layer.parts.iter().map(|part| (part.at, part.len));
    read.chain(layer.rewritten.iter().flat_map(Rewritten::sections))
}

/// Whether the parts cover every section and do not overlap.
fn check_cover(layer: &LayerExperts) -> Result<(), String> {
    let mut parts: Vec<Span> = filled(layer).collect();
    parts.sort_unstable();
    if let Some(pair) = parts.windows(2).find(|pair| pair[0].0 + pair[0].1 > pair[1].0) {
        return Err(format!("two parts overlap at byte {} of the slot", pair[1].0));
    }
    for (name, matrix) in layer.slot.matrices() {
        for (stream, (at, len)) in sections(&matrix) {
            let mut covered = at;
            for &(part, bytes) in &parts {
                if part <= covered {
                    covered = covered.max(part + bytes);
                }
            }
            if covered < at + len {
                return Err(format!(
                    "no file holds the {stream} of {name} from byte {covered} of the slot: expected them to end at {}",
                    at + len
                ));
            }
        }
    }
    Ok(())
}
