//! Rows of `benches/results/*.csv`, for benches that measure models.

mod line;

use flashflood::model::ModelSource;
pub(crate) use line::{Row, Rows};

/// The weight format of the experts: `q4`, or `q2 down q3` when the down projections have another; `q4 up q8 down q4` when
/// gate and up differ.
pub(crate) fn format_of(source: &ModelSource) -> String {
    let Some(layer) = source.experts().layers.first() else { return "none".to_owned() };
    let [gate, up, down] = [layer.slot.gate, layer.slot.up, layer.slot.down].map(|place| place.format.suffix());
    match (layer.slot.gate_up().is_some(), gate == down) {
        (true, true) => gate.to_owned(),
        (true, false) => format!("{gate} down {down}"),
        (false, _) => format!("{gate} up {up} down {down}"),
    }
}
