//! Where the routed experts lie in a snapshot: fused, stacked (MLX) or one tensor per expert.

use super::reader::{Reader, Tensors};
use crate::file_error::FileError;
use crate::weights::layout::{LayerExperts, MatrixPlace, Part, Place, Rewritten, SECTION_ALIGN, SlotLayout};
use crate::weights::names::ExpertNames;
use crate::weights::safetensors::Tensor;
use crate::weights::source::ExpertShape;
use flashflood_formats::{MOST_STREAMS, Stored, WeightFormat};

/// One projection of every expert of a layer.
struct Projection {
    stored: Stored,
    /// Each tensor of it: where, and bytes per expert.
    tensors: Vec<(Place, usize)>,
    /// A tensor of it, for messages.
    example: String,
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
    let format = match &gate_up {
        GateUp::Fused(both) => both.stored.format(),
        GateUp::Split { gate, up } if gate.stored.format() == up.stored.format() => gate.stored.format(),
        GateUp::Split { gate, up } => {
            let path = reader.tensors.get(&up.example).map(|tensor| reader.tensors.path_of(tensor));
            return Err(FileError::new(
                path.unwrap_or(reader.tensors.root()),
                format!("tensor `{}`", up.example),
                format!("the format of `{}`: {}", gate.example, described(gate.stored.format())),
                described(up.stored.format()),
            ));
        }
    };
    let slot = SlotLayout::new(hidden, width, format, down.stored.format());
    let mut into = IntoSlot::default();
    match gate_up {
        GateUp::Fused(both) => into.add(both, &slot.gate_up, 0, 2 * width),
        GateUp::Split { gate, up } => {
            into.add(gate, &slot.gate_up, 0, width);
            into.add(up, &slot.gate_up, 1, width);
        }
    }
    into.add(down, &slot.down, 0, hidden);
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
    Projection {
        stored: tensors.stored,
        tensors: tensors.tensors.iter().map(place).collect(),
        example: tensors.tensors[0].name.clone(),
    }
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
    Ok(Projection { stored: first.stored, tensors, example: first.tensors[0].name.clone() })
}

/// What to read into a slot.
#[derive(Default)]
struct IntoSlot {
    parts: Vec<Part>,
    rewritten: Vec<Rewritten>,
}

impl IntoSlot {
    /// The `rows` of a projection into the sections of `place`; `half` 1 is the second half of each (up, behind gate).
    fn add(&mut self, projection: Projection, place: &MatrixPlace, half: usize, rows: usize) {
        let Projection { stored, tensors, .. } = projection;
        let bytes = stored.format().stream_bytes(place.cols).map(|row| row * rows);
        let streams: [usize; MOST_STREAMS] = std::array::from_fn(|i| place.streams[i] + half * bytes[i]);
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
