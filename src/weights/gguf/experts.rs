//! Where the routed experts lie in GGUF files: three tensors of all experts, two where gate and up are fused, or three of
//! each expert in files from before that.

use super::{Gguf, Tensor};
use crate::file_error::FileError;
use crate::weights::layout::{LayerExperts, MatrixPlace, Part, Place, SlotLayout};
use crate::weights::source::ExpertShape;
use flashflood_formats::WeightFormat;

/// One projection of every expert of a layer.
struct Projection<'a> {
    format: WeightFormat,
    place: Place,
    /// Bytes of an expert.
    len: usize,
    /// A tensor of it, for messages.
    example: &'a Tensor,
}

/// The experts of layer `i`.
pub(super) fn layer(gguf: &Gguf, i: usize, shape: &ExpertShape) -> Result<LayerExperts, FileError> {
    let &ExpertShape { experts, top_k, hidden, width } = shape;
    let projection = |name: &str, rows: usize, cols: usize| projection(gguf, i, name, [experts, rows, cols]);
    let down = projection("down", hidden, width)?;
    let (format, gate_up) = match gguf.get(&format!("blk.{i}.ffn_gate_up_exps.weight")) {
        Some(_) => {
            let both = projection("gate_up", 2 * width, hidden)?;
            (both.format, vec![both])
        }
        None => {
            let (gate, up) = (projection("gate", width, hidden)?, projection("up", width, hidden)?);
            if gate.format != up.format {
                let gate = gate.example;
                let expected = format!("{}, the type of `{}`: both make one product", gate.kind.name, gate.name);
                return Err(gguf.wrong(up.example, expected));
            }
            (gate.format, vec![gate, up])
        }
    };
    let slot = SlotLayout::new(hidden, width, format, down.format);
    let mut parts: Vec<Part> = Vec::new();
    // up lies behind gate
    let mut at = 0;
    for Projection { place, len, .. } in gate_up {
        parts.push(Part { place, len, at: start(&slot.gate_up) + at });
        at += len;
    }
    parts.push(Part { place: down.place, len: down.len, at: start(&slot.down) });
    Ok(LayerExperts { experts, top_k, slot, parts, rewritten: Vec::new(), checksums: None })
}

/// All types of ggml have one stream.
fn start(place: &MatrixPlace) -> usize {
    place.streams[0]
}

#[expect(clippy::cast_possible_truncation, reason = "a model has far fewer than 2^32 files")]
fn file(tensor: &Tensor) -> u32 {
    tensor.file as u32
}

fn projection<'a>(gguf: &'a Gguf, layer: usize, name: &str, shape: [usize; 3]) -> Result<Projection<'a>, FileError> {
    let [experts, rows, cols] = shape;
    let stacked = format!("blk.{layer}.ffn_{name}_exps.weight");
    if let Some(example) = gguf.get(&stacked) {
        let format = gguf.format(example, &shape)?;
        let len = example.bytes.len() / experts;
        let place = Place::Strided { file: file(example), base: example.offset, stride: len as u64 };
        return Ok(Projection { format, place, len, example });
    }
    let of = |expert: usize| gguf.get(&format!("blk.{layer}.ffn_{name}.{expert}.weight"));
    let Some(example) = of(0) else { return Err(gguf.missing(&stacked, &shape)) };
    let format = gguf.format(example, &[rows, cols])?;
    let mut places = Vec::with_capacity(experts);
    for expert in 0..experts {
        let Some(tensor) = of(expert) else {
            return Err(gguf.missing(&format!("blk.{layer}.ffn_{name}.{expert}.weight"), &[rows, cols]));
        };
        if gguf.format(tensor, &[rows, cols])? != format {
            return Err(gguf.wrong(tensor, format!("{}, the type of `{}`", example.kind.name, example.name)));
        }
        places.push((file(tensor), tensor.offset));
    }
    Ok(Projection { format, place: Place::Listed(places), len: example.bytes.len(), example })
}
