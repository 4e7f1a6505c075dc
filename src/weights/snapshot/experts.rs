//! Where the routed experts lie in a snapshot: fused, stacked (MLX) or one tensor per expert.

use super::reader::{Reader, Tensors};
use crate::file_error::FileError;
use crate::weights::layout::{LayerExperts, MatrixPlace, Part, Place, Rewritten, SECTION_ALIGN, SlotLayout};
use crate::weights::names::ExpertNames;
use crate::weights::safetensors::Tensor;
use crate::weights::source::ExpertShape;
use flashflood_formats::{Stored, WeightFormat};

/// One projection of every expert of a layer.
struct Projection {
    stored: Stored,
    /// Each tensor of it: where, and bytes per expert.
    tensors: Vec<(Place, usize)>,
}

/// gate and up, as one tensor or as two.
enum GateUp {
    Fused(Projection),
    Split { gate: Projection, up: Projection },
}

/// The experts of layer `i`, whose tensors begin with `at`.
pub(super) fn layer(
    reader: &Reader<'_>,
    names: &ExpertNames,
    shape: &ExpertShape,
    i: usize,
    at: &str,
) -> Result<LayerExperts, FileError> {
    let &ExpertShape { experts, top_k, hidden, width } = shape;
    let (gate_up, down) = projections(reader, names, shape, i, at)?;
    let [gate, up] = match &gate_up {
        GateUp::Fused(both) => [both.stored.format(); 2],
        GateUp::Split { gate, up } => [gate.stored.format(), up.stored.format()],
    };
    let slot = SlotLayout::new(hidden, width, [gate, up, down.stored.format()]);
    let mut into = IntoSlot::default();
    match gate_up {
        GateUp::Fused(both) => into.add(both, &slot.gate, 2 * width),
        GateUp::Split { gate, up } => {
            into.add(gate, &slot.gate, width);
            into.add(up, &slot.up, width);
        }
    }
    into.add(down, &slot.down, hidden);
    let IntoSlot { parts, rewritten } = into;
    Ok(LayerExperts { experts, top_k, slot, parts, rewritten, checksums: None })
}

/// gate and up, and down, in whichever of the forms the release has.
fn projections(
    reader: &Reader<'_>,
    names: &ExpertNames,
    shape: &ExpertShape,
    i: usize,
    at: &str,
) -> Result<(GateUp, Projection), FileError> {
    let &ExpertShape { experts, hidden, width, .. } = shape;
    let tensors = reader.tensors;
    let any = |start: &str| tensors.names_with(&format!("{at}{start}")).next().is_some();
    let fused = ["gate_up_proj", "down_proj"].map(|name| format!("{at}experts.{name}"));
    if fused.iter().any(|name| tensors.get(name).is_some()) {
        let projection = |name: &str, rows: usize, cols: usize| {
            Ok::<_, FileError>(stacked(&reader.fused(name, [experts, rows, cols])?, experts))
        };
        return Ok((GateUp::Fused(projection(&fused[0], 2 * width, hidden)?), projection(&fused[1], hidden, width)?));
    }
    let split = |projection: &dyn Fn(usize, usize, usize) -> Result<Projection, FileError>| {
        let (gate, up) = (projection(0, width, hidden)?, projection(1, width, hidden)?);
        Ok((GateUp::Split { gate, up }, projection(2, hidden, width)?))
    };
    if any("switch_mlp.") {
        // MLX calls them alike in all families
        const STACKED: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];
        return split(&|which, rows, cols| {
            let module = format!("{at}switch_mlp.{}", STACKED[which]);
            Ok(stacked(&reader.streams(&module, &[experts], rows, cols)?, experts))
        });
    }
    if any("experts.") {
        return split(&|which, rows, cols| listed(reader, (i, experts), (at, names.listed[which]), rows, cols));
    }
    let expected = format!(
        "the experts of layer {i}, there or as `{at}switch_mlp.gate_proj.weight` or `{at}experts.0.{}.weight`",
        names.listed[0]
    );
    Err(FileError::missing(tensors.root(), format!("tensor `{}`", fused[0]), expected))
}

fn described(format: WeightFormat) -> String {
    match format {
        WeightFormat::Affine(affine) => format!("{format}, scales {:?}", affine.scales),
        WeightFormat::Scaled(_) | WeightFormat::Dense(_) | WeightFormat::Block(_) => format.to_string(),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a snapshot has far fewer than 2^32 files")]
fn file(tensor: &Tensor) -> u32 {
    tensor.file as u32
}

/// Tensors whose first dimension is the expert.
fn stacked(tensors: &Tensors<'_>, experts: usize) -> Projection {
    let place = |tensor: &&Tensor| {
        let len = tensor.bytes.len() / experts;
        (Place::Strided { file: file(tensor), base: tensor.offset, stride: len as u64 }, len)
    };
    Projection { stored: tensors.stored, tensors: tensors.tensors.iter().map(place).collect() }
}

/// Tensors of its own for each expert.
fn listed(
    reader: &Reader<'_>,
    (layer, experts): (usize, usize),
    (at, name): (&str, &str),
    rows: usize,
    cols: usize,
) -> Result<Projection, FileError> {
    let one = |expert: usize| {
        let found = reader.streams(&format!("{at}experts.{expert}.{name}"), &[], rows, cols);
        found.map_err(|error| match error.is_missing() {
            true => {
                let tensor = error.place().to_owned();
                let place = format!("expert {expert} of layer {layer} is incomplete: {tensor}");
                FileError::missing(reader.tensors.root(), place, format!("experts 0 to {}", experts - 1))
            }
            false => error,
        })
    };
    let first = one(0)?;
    // one stands for all: each has its order in a tensor of its own
    reader.check_order(&format!("{at}experts.0.{name}"))?;
    let mut places: Vec<(Vec<(u32, u64)>, usize)> =
        first.tensors.iter().map(|tensor| (Vec::with_capacity(experts), tensor.bytes.len())).collect();
    for expert in 0..experts {
        let Tensors { stored, tensors } = one(expert)?;
        if stored != first.stored {
            let expected = format!("the format of `{}`: {}", first.tensors[0].name, described(first.stored.format()));
            return Err(reader.wrong(tensors[0], expected));
        }
        for ((places, _), tensor) in places.iter_mut().zip(&tensors) {
            places.push((file(tensor), tensor.offset));
        }
    }
    let tensors = places.into_iter().map(|(places, len)| (Place::Listed(places), len)).collect();
    Ok(Projection { stored: first.stored, tensors })
}

/// What to read into a slot.
#[derive(Default)]
struct IntoSlot {
    parts: Vec<Part>,
    rewritten: Vec<Rewritten>,
}

impl IntoSlot {
    /// The `rows` of a projection into the sections that begin where those of `place` do.
    fn add(&mut self, projection: Projection, place: &MatrixPlace, rows: usize) {
        let Projection { stored, tensors } = projection;
        let streams = place.streams;
        let (mut scratch, mut at) = (Vec::new(), 0);
        for (i, (tensor, (place, len))) in stored.tensors(rows, place.cols).into_iter().zip(tensors).enumerate() {
            match tensor.stream {
                Some(stream) => self.parts.push(Part { place, len, at: streams[stream] }),
                None => {
                    scratch.push((i, Part { place, len, at }));
                    // the next one may be read past the page cache
                    at = (at + len).next_multiple_of(SECTION_ALIGN);
                }
            }
        }
        if !scratch.is_empty() {
            self.rewritten.push(Rewritten { stored, rows, cols: place.cols, streams, parts: scratch });
        }
    }
}
