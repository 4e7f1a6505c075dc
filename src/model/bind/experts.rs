//! Where the routed experts lie in a snapshot: fused, stacked (MLX) or one tensor per expert.

use crate::experts::{ExpertFile, ExpertLayout, LayerExperts, MatrixPlace, Part, Place, SlotLayout};
use crate::formats::WeightFormat;
use crate::formats::safetensors::Tensor;
use crate::model::bind::BindError;
use crate::model::bind::reader::{Reader, Streams};
use crate::model::config::Config;

/// One projection of every expert of a layer.
struct Projection {
    format: WeightFormat,
    /// Codes, then scales and biases where the format has them: where, and bytes per expert.
    streams: Vec<(Place, usize)>,
    /// A tensor of it, for messages.
    example: String,
}

/// gate and up, as one tensor or as two.
enum GateUp {
    Fused(Projection),
    Split { gate: Projection, up: Projection },
}

pub(super) fn layout(reader: &Reader<'_>, config: &Config, trunk: &str) -> Result<ExpertLayout, BindError> {
    let layers = (0..config.layers.len())
        .map(|i| layer(reader, config, i, &format!("{trunk}layers.{i}.mlp.")))
        .collect::<Result<_, _>>()?;
    let files = reader.tensors.files().iter().cloned().map(ExpertFile::Path).collect();
    Ok(ExpertLayout { files, experts: config.experts, layers })
}

fn layer(reader: &Reader<'_>, config: &Config, i: usize, at: &str) -> Result<LayerExperts, BindError> {
    let (experts, hidden, width) = (config.experts, config.hidden, config.moe_intermediate);
    let tensors = reader.tensors;
    let any = |start: &str| tensors.names_with(&format!("{at}{start}")).next().is_some();
    let fused = ["gate_up_proj", "down_proj"].map(|name| format!("{at}experts.{name}"));
    let (gate_up, down) = if fused.iter().any(|name| tensors.get(name).is_some()) {
        let projection = |name: &str, rows: usize, cols: usize| {
            let shape = [experts, rows, cols];
            let tensor = reader.tensor(name, || format!("BF16, F16 or F32 {shape:?}"))?;
            Ok(stacked(&reader.dense(tensor, &shape)?, experts))
        };
        (GateUp::Fused(projection(&fused[0], 2 * width, hidden)?), projection(&fused[1], hidden, width)?)
    } else if any("switch_mlp.") {
        let projection = |name: &str, rows: usize, cols: usize| {
            Ok(stacked(&reader.streams(&format!("{at}switch_mlp.{name}"), &[experts], rows, cols)?, experts))
        };
        let (gate, up) = (projection("gate_proj", width, hidden)?, projection("up_proj", width, hidden)?);
        (GateUp::Split { gate, up }, projection("down_proj", hidden, width)?)
    } else if any("experts.") {
        let projection = |name: &str, rows, cols| listed(reader, (i, experts), (at, name), rows, cols);
        let (gate, up) = (projection("gate_proj", width, hidden)?, projection("up_proj", width, hidden)?);
        (GateUp::Split { gate, up }, projection("down_proj", hidden, width)?)
    } else {
        return Err(BindError::Missing {
            path: tensors.root().to_owned(),
            tensor: fused[0].clone(),
            expected: format!(
                "the experts of layer {i}, there or as `{at}switch_mlp.gate_proj.weight` or \
                 `{at}experts.0.gate_proj.weight`"
            ),
        });
    };

    let format = match &gate_up {
        GateUp::Fused(both) => both.format,
        GateUp::Split { gate, up } if gate.format == up.format => gate.format,
        GateUp::Split { gate, up } => {
            let tensor = tensors.get(&up.example);
            return Err(BindError::Tensor {
                path: tensor.map_or(tensors.root(), |tensor| tensors.path_of(tensor)).to_owned(),
                tensor: up.example.clone(),
                expected: format!("the format of `{}`: {}", gate.example, described(gate.format)),
                found: described(up.format),
            });
        }
    };
    let slot = SlotLayout::new(hidden, width, format, down.format);
    let parts = match gate_up {
        GateUp::Fused(both) => parts(both, &slot.gate_up, 0),
        GateUp::Split { gate, up } => {
            let mut parts = parts(gate, &slot.gate_up, 0);
            parts.extend(self::parts(up, &slot.gate_up, 1));
            parts
        }
    };
    let parts = parts.into_iter().chain(self::parts(down, &slot.down, 0)).collect();
    Ok(LayerExperts { slot, parts, checksums: None })
}

fn described(format: WeightFormat) -> String {
    match format {
        WeightFormat::Affine { scales, .. } => format!("{format}, scales {scales:?}"),
        dense => dense.to_string(),
    }
}

fn each<'a>(streams: &Streams<'a>) -> impl Iterator<Item = &'a Tensor> + use<'a> {
    let (scales, biases) = streams.scales.unzip();
    [Some(streams.codes), scales, biases].into_iter().flatten()
}

#[expect(clippy::cast_possible_truncation, reason = "a snapshot has far fewer than 2^32 files")]
fn file(tensor: &Tensor) -> u32 {
    tensor.file as u32
}

/// Tensors whose first dimension is the expert.
fn stacked(streams: &Streams<'_>, experts: usize) -> Projection {
    let place = |tensor: &Tensor| {
        let len = tensor.bytes.len() / experts;
        (Place::Strided { file: file(tensor), base: tensor.offset, stride: len as u64 }, len)
    };
    Projection {
        format: streams.format,
        streams: each(streams).map(place).collect(),
        example: streams.codes.name.clone(),
    }
}

/// One tensor, or one triple, per expert.
fn listed(
    reader: &Reader<'_>,
    (layer, experts): (usize, usize),
    (at, name): (&str, &str),
    rows: usize,
    cols: usize,
) -> Result<Projection, BindError> {
    let one = |expert: usize| {
        reader.streams(&format!("{at}experts.{expert}.{name}"), &[], rows, cols).map_err(|error| match error {
            BindError::Missing { path, tensor, .. } => {
                BindError::MissingExpert { path, layer, expert, last: experts - 1, tensor }
            }
            other => other,
        })
    };
    let first = one(0)?;
    let mut streams: Vec<(Vec<(u32, u64)>, usize)> =
        each(&first).map(|tensor| (Vec::with_capacity(experts), tensor.bytes.len())).collect();
    for expert in 0..experts {
        let streams_of = one(expert)?;
        if streams_of.format != first.format {
            let expected = format!("the format of `{}`: {}", first.codes.name, described(first.format));
            return Err(reader.wrong(streams_of.codes, expected));
        }
        for ((places, _), tensor) in streams.iter_mut().zip(each(&streams_of)) {
            places.push((file(tensor), tensor.offset));
        }
    }
    let streams = streams.into_iter().map(|(places, len)| (Place::Listed(places), len)).collect();
    Ok(Projection { format: first.format, streams, example: first.codes.name.clone() })
}

/// What to read into the sections of `place`; `half` 1 is the second half of each (up, behind gate).
fn parts(projection: Projection, place: &MatrixPlace, half: usize) -> Vec<Part> {
    let sections = [place.codes, place.scales, place.biases];
    let parts = projection.streams.into_iter().zip(sections);
    parts.map(|((place, len), section)| Part { place, len, at: section + half * len }).collect()
}
