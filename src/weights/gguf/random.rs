//! A GGUF file of random weights: matrices of one type, and in f32 what steers everything else.

use std::collections::HashMap;
use std::io::{self, Write};

use flashflood_formats::{Fill, WeightFormat, split_mix};
use xxhash_rust::xxh3::xxh3_64;

use super::GgufNames;
use super::source::vector_name;
use super::types::{GgmlType, named};
use super::write::{Entry, Planned, header, pad};
use crate::weights::listing::{Listed, Listing};
use crate::weights::names::of_layer;
use crate::weights::random::gain;
use crate::weights::source::{MatrixRole, VectorRole};

/// Patterns of a [`Fill`] that make the numbers that rows are cut from: a prime, so that rows begin at another place
/// each, whatever their width. 15,311 blocks.
const PATTERNS: u64 = 251;

/// A GGUF file before it is written.
pub struct RandomGguf {
    header: Vec<u8>,
    tensors: Vec<(Planned, Numbers)>,
    seed: u64,
}

/// What a tensor holds.
enum Numbers {
    /// These, in f32.
    Given(Vec<f32>),
    /// Random ones, of rows of `cols` elements.
    Random { format: WeightFormat, cols: usize, gain: f32 },
}

/// Random blocks of a format, of which tensors take as many as they need from somewhere on.
struct Pool {
    bytes: Vec<u8>,
    /// Bytes of what cannot be cut.
    block: usize,
}

impl RandomGguf {
    /// A file of the model that `listing` is of, whose layers with experts are `moe_layers`, with matrices of the type
    /// `kind`. Rows that are no multiple of its blocks are Q8_0 or F16, as llama.cpp's quantiser has them.
    pub(crate) fn new(
        keys: &[(String, Entry)],
        listing: &Listing,
        moe_layers: &[usize],
        names: &GgufNames,
        kind: GgmlType,
        seed: u64,
    ) -> RandomGguf {
        let mut tensors = Vec::new();
        for listed in &listing.resident {
            tensors.extend(resident(listed, names, kind));
        }
        for (layer, experts) in moe_layers.iter().zip(&listing.experts.layers) {
            let (hidden, width) = (experts.slot.gate.cols, experts.slot.down.cols);
            for (name, rows, cols) in [("gate", width, hidden), ("up", width, hidden), ("down", hidden, width)] {
                let name = format!("blk.{layer}.ffn_{name}_exps.weight");
                tensors.push(random(name, &[cols, rows, experts.experts], kind, 1.0));
            }
        }
        let header = header(keys, tensors.iter().map(|(planned, _)| planned));
        RandomGguf { header, tensors, seed }
    }

    /// Bytes of the file, without what fills up between tensors.
    pub fn bytes(&self) -> u64 {
        self.header.len() as u64 + self.tensors.iter().map(|(planned, _)| planned.bytes()).sum::<u64>()
    }

    /// Writes it from its first byte to its last. `progress` is told of bytes that are written.
    ///
    /// # Errors
    /// What `out` says.
    pub fn write(&self, out: &mut dyn Write, progress: &dyn Fn(u64)) -> io::Result<()> {
        let mut pools: HashMap<(WeightFormat, u32, usize), Pool> = HashMap::new();
        out.write_all(&self.header)?;
        progress(self.header.len() as u64);
        for (planned, numbers) in &self.tensors {
            match numbers {
                Numbers::Given(values) => {
                    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                    out.write_all(&bytes)?;
                    progress(bytes.len() as u64);
                }
                Numbers::Random { format, cols, gain } => {
                    let key = (*format, gain.to_bits(), *cols);
                    let pool = pools.entry(key).or_insert_with(|| Pool::new(planned.kind, *format, *cols, *gain));
                    let mut state = self.seed ^ xxh3_64(planned.name.as_bytes());
                    pool.write(planned.bytes(), &mut state, out, progress)?;
                }
            }
            pad(planned.bytes(), out)?;
        }
        out.flush()
    }
}

impl Pool {
    fn new(kind: GgmlType, format: WeightFormat, cols: usize, gain: f32) -> Pool {
        let mut bytes = Vec::new();
        for seed in 0..PATTERNS {
            // every type of ggml has one stream, and blocks are filled with a pattern that has all of their scales
            if let [Fill::Repeat(pattern), ..] = format.fills(cols, gain, seed) {
                bytes.extend(pattern);
            }
        }
        Pool { bytes, block: kind.bytes }
    }

    fn write(&self, count: u64, state: &mut u64, out: &mut dyn Write, progress: &dyn Fn(u64)) -> io::Result<()> {
        let blocks = (self.bytes.len() / self.block) as u64;
        let mut left = count;
        while left > 0 {
            let start = usize::try_from(split_mix(state) % blocks).expect("a place in the pool") * self.block;
            // from there to the end, and from the beginning: all blocks once, then from another place
            for piece in [&self.bytes[start..], &self.bytes[..start]] {
                let piece = &piece[..usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()))];
                out.write_all(piece)?;
                left -= piece.len() as u64;
                progress(piece.len() as u64);
            }
        }
        Ok(())
    }
}

/// A resident weight; nothing where it is part of one that has come before it.
fn resident(listed: &Listed, names: &GgufNames, kind: GgmlType) -> Option<(Planned, Numbers)> {
    let f32 = named("F32").expect("a type of ggml");
    match listed {
        Listed::Matrix { name, role, matrix } => {
            let kind = if role.is_kept() { f32 } else { kind };
            let (mut called, mut rows) = (names.in_file(name), matrix.rows);
            // some families have decay and β in one tensor
            if let Some((layer, both)) = of_layer(name).filter(|_| *role == MatrixRole::DeltaNetGate)
                && names.fused.iter().any(|fused| fused.module == BETA_ALPHA)
            {
                (called, rows) = (format!("blk.{layer}.{BETA_ALPHA}"), 2 * rows);
                if both != "delta_net.b" {
                    return None;
                }
            }
            let dims = if rows == 1 { vec![matrix.cols] } else { vec![matrix.cols, rows] };
            Some(random(format!("{called}.weight"), &dims, kind, gain(*role, matrix.cols)))
        }
        Listed::Vector { name, role, shape, values } => {
            let dims = shape.iter().rev().map(|dim| *dim as u64).collect();
            let values = match role {
                VectorRole::Decay => values.iter().map(|value| -value.exp()).collect(),
                _ => values.clone(),
            };
            Some((Planned { name: vector_name(names, name, *role), dims, kind: f32 }, Numbers::Given(values)))
        }
    }
}

const BETA_ALPHA: &str = "ssm_ba";

fn random(name: String, dims: &[usize], kind: GgmlType, gain: f32) -> (Planned, Numbers) {
    let cols = dims[0];
    let kinds = [Some(kind), named("Q8_0"), named("F16")].into_iter().flatten();
    let (kind, format) = kinds
        .filter_map(|kind| Some((kind, WeightFormat::from_ggml(kind.id)?)))
        .find(|(_, format)| cols.is_multiple_of(format.column_multiple()))
        .expect("rows of F16 have any width");
    let dims = dims.iter().map(|dim| *dim as u64).collect();
    (Planned { name, dims, kind }, Numbers::Random { format, cols, gain })
}
