//! Where an expert's bytes lie: on disk (one slice in a pack, up to nine in an MLX snapshot) and in its slot.

use std::path::PathBuf;

use bytes::Bytes;

use flashflood_formats::{MOST_STREAMS, Stored, WeightFormat, WeightRows};

/// Sections of a slot start at multiples of this, so that kernels may read 16 bytes at a time.
pub(super) const SECTION_ALIGN: usize = 64;

/// Where one matrix of an expert lies in its slot. Offsets are bytes from the start of the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixPlace {
    /// How the elements are stored.
    pub format: WeightFormat,
    /// Output rows.
    pub rows: usize,
    /// Input columns.
    pub cols: usize,
    /// First byte of each stream of the format; 0 for streams that it does not have.
    pub streams: [usize; MOST_STREAMS],
}

impl MatrixPlace {
    /// The bytes `at .. at + len` of each stream of the format, in order.
    pub(crate) fn sections(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let bytes = self.format.stream_bytes(self.cols).map(|row| row * self.rows);
        self.streams.into_iter().zip(bytes).take(self.format.stream_names().len())
    }

    /// Its rows in the bytes of a slot.
    pub(crate) fn rows_in<'a>(&self, slot: &'a [u8]) -> WeightRows<'a> {
        let mut streams: [&[u8]; MOST_STREAMS] = [&[]; MOST_STREAMS];
        for (stream, (at, len)) in streams.iter_mut().zip(self.sections()) {
            *stream = &slot[at..][..len];
        }
        WeightRows { format: self.format, cols: self.cols, streams }
    }

    /// Bytes of all streams.
    pub(crate) fn bytes(&self) -> usize {
        self.format.matrix_bytes(self.rows, self.cols)
    }

    /// The upper half of its rows, and the lower.
    fn halves(self) -> (Self, Self) {
        let upper = MatrixPlace { rows: self.rows / 2, ..self };
        let row = self.format.stream_bytes(self.cols);
        let streams = std::array::from_fn(|i| self.streams[i] + upper.rows * row[i]);
        (upper, MatrixPlace { streams, ..upper })
    }
}

/// What a slot holds: gate `[I, H]`, up `[I, H]` and down `[H, I]`.
///
/// Gate and up of one format are one matrix `[2I, H]`, up below gate: in each stream up begins where gate ends. So one
/// kernel multiplies both. Of two formats each has sections of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotLayout {
    /// Gate projection.
    pub gate: MatrixPlace,
    /// Up projection.
    pub up: MatrixPlace,
    /// Down projection.
    pub down: MatrixPlace,
    /// Bytes from the start of the slot to the end of the last section.
    pub bytes: usize,
}

impl SlotLayout {
    /// Lays the matrices of the formats (gate, up, down) out one after the other, stream after stream, each at a multiple
    /// of 64 bytes: gate and up `[intermediate, hidden]`, as one matrix where their formats are equal, and down `[hidden,
    /// intermediate]`.
    pub fn new(hidden: usize, intermediate: usize, [gate, up, down]: [WeightFormat; 3]) -> Self {
        let mut end = 0;
        let mut place = |format: WeightFormat, rows: usize, cols: usize| {
            let mut streams = [0; MOST_STREAMS];
            for (at, bytes) in streams.iter_mut().zip(format.stream_bytes(cols)).take(format.stream_names().len()) {
                *at = end;
                end = (end + rows * bytes).next_multiple_of(SECTION_ALIGN);
            }
            MatrixPlace { format, rows, cols, streams }
        };
        let (gate, up) = match gate == up {
            true => place(gate, 2 * intermediate, hidden).halves(),
            false => (place(gate, intermediate, hidden), place(up, intermediate, hidden)),
        };
        let down = place(down, hidden, intermediate);
        SlotLayout { gate, up, down, bytes: end }
    }

    /// Gate over up as one matrix; none where their formats differ.
    pub fn gate_up(&self) -> Option<MatrixPlace> {
        (self.gate.format == self.up.format).then_some(MatrixPlace { rows: self.gate.rows + self.up.rows, ..self.gate })
    }

    /// The matrices that its sections are of, in their order: gate and up as one or as two, then down.
    pub fn matrices(&self) -> impl Iterator<Item = (&'static str, MatrixPlace)> + use<> {
        let first = match self.gate_up() {
            Some(both) => [Some(("gate_up", both)), None],
            None => [Some(("gate", self.gate)), Some(("up", self.up))],
        };
        first.into_iter().flatten().chain([("down", self.down)])
    }

    /// Gate, up and down, each for itself.
    pub(crate) fn projections(&self) -> [(&'static str, MatrixPlace); 3] {
        [("gate", self.gate), ("up", self.up), ("down", self.down)]
    }

    /// The formats of all matrices, for people.
    pub fn formats(&self) -> String {
        let [gate, up, down] = self.projections().map(|(_, place)| place.format);
        match (gate == up, up == down) {
            (true, true) => down.to_string(),
            (true, false) => format!("{gate}; down {down}"),
            (false, _) => format!("gate {gate}, up {up}; down {down}"),
        }
    }
}

/// Where a part of every expert of one layer lies on disk.
#[derive(Clone, Debug)]
pub enum Place {
    /// Expert `e` starts at `base + e * stride` of one file: stacked tensors and packs.
    Strided {
        /// Index into [`ExpertLayout::files`].
        file: u32,
        /// Offset of expert 0.
        base: u64,
        /// Bytes from one expert to the next.
        stride: u64,
    },
    /// Expert `e` lies at `places[e]` = (file, offset): one tensor per expert.
    Listed(Vec<(u32, u64)>),
}

/// A contiguous run of bytes of every expert of a layer.
#[derive(Clone, Debug)]
pub struct Part {
    /// Where on disk.
    pub place: Place,
    /// Bytes to read.
    pub len: usize,
    /// Offset in the slot.
    pub at: usize,
}

impl Part {
    /// What to read for expert `e`: (file index, offset in the file, bytes, offset in the slot).
    fn slice(&self, expert: usize) -> Slice {
        let (file, offset) = match &self.place {
            Place::Strided { file, base, stride } => (*file, base + expert as u64 * stride),
            Place::Listed(places) => places[expert],
        };
        (file, offset, self.len, self.at)
    }

    /// The file of the first expert.
    fn first_file(&self) -> Option<u32> {
        match &self.place {
            Place::Strided { file, .. } => Some(*file),
            Place::Listed(places) => places.first().map(|place| place.0),
        }
    }
}

/// Reads slices into their places.
type Read<'a, E> = dyn FnMut(&[Slice], &mut [u8]) -> Result<(), E> + 'a;

/// Bytes to read: (file index, offset in the file, bytes, offset in the slot or in a scratch).
pub(crate) type Slice = (u32, u64, usize, usize);

/// A matrix of every expert of a layer of which some bytes are rewritten on their way into the slot.
#[derive(Clone, Debug)]
pub struct Rewritten {
    /// How it is stored.
    pub stored: Stored,
    /// Output rows.
    pub rows: usize,
    /// Input columns.
    pub cols: usize,
    /// First byte in the slot of each stream of the format.
    pub streams: [usize; MOST_STREAMS],
    /// What to read for one expert, by the tensor that it is of: offsets are those in a scratch.
    pub parts: Vec<(usize, Part)>,
}

impl Rewritten {
    /// Bytes of the scratch for one expert.
    pub(crate) fn scratch_bytes(&self) -> usize {
        self.parts.iter().map(|(_, part)| part.at + part.len).max().unwrap_or(0)
    }

    /// The bytes `at .. at + len` of the slot that are written.
    pub(crate) fn sections(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let as_they_are: Vec<usize> =
            self.stored.tensors(self.rows, self.cols).iter().filter_map(|tensor| tensor.stream).collect();
        let bytes = self.stored.format().stream_bytes(self.cols).map(|row| row * self.rows);
        let sections = self.streams.into_iter().zip(bytes).enumerate();
        sections.filter(move |(i, (_, len))| *len > 0 && !as_they_are.contains(i)).map(|(_, section)| section)
    }

    /// Writes the sections into `slot` from what was read.
    pub(crate) fn write(&self, scratch: &[u8], slot: &mut [u8]) {
        let tensors = self.stored.tensors(self.rows, self.cols).len();
        let mut read: Vec<&[u8]> = vec![&[]; tensors];
        for (tensor, part) in &self.parts {
            read[*tensor] = &scratch[part.at..][..part.len];
        }
        let sections: Vec<(usize, usize)> = self.sections().collect();
        // streams lie one behind the other
        let (mut rest, mut at) = (slot, 0);
        let out = self.streams.map(|start| match sections.iter().find(|section| section.0 == start) {
            Some((start, len)) if *start >= at => {
                let (_, behind) = std::mem::take(&mut rest).split_at_mut(start - at);
                let (section, behind) = behind.split_at_mut(*len);
                (rest, at) = (behind, start + len);
                section
            }
            _ => Default::default(),
        });
        self.stored.arrange(self.rows, self.cols, &read, out);
    }
}

/// The experts of one layer.
#[derive(Clone, Debug)]
pub struct LayerExperts {
    /// Experts of the layer.
    pub experts: usize,
    /// Experts of a token.
    pub top_k: usize,
    /// What a slot of this layer holds.
    pub slot: SlotLayout,
    /// What to read for one expert.
    pub parts: Vec<Part>,
    /// What is read into a scratch and written from there, where the release's bytes are not those of the format.
    pub rewritten: Vec<Rewritten>,
    /// xxh3-64 of each expert's record, where the format carries it (packs: one part that is the whole record).
    pub checksums: Option<Vec<u64>>,
}

/// A file that holds experts.
#[derive(Clone, Debug)]
pub enum ExpertFile {
    /// On disk.
    Path(PathBuf),
    /// In memory: the model in the binary, or a synthetic one on its way to a file.
    Memory {
        /// Name for messages.
        name: &'static str,
        /// The whole file.
        bytes: Bytes,
    },
}

/// The routed experts of a model: those of its MoE layers, in order. Dense layers are not among them.
#[derive(Clone, Debug, Default)]
pub struct ExpertLayout {
    /// The files that places refer to.
    pub files: Vec<ExpertFile>,
    /// One per MoE layer.
    pub layers: Vec<LayerExperts>,
}

impl ExpertLayout {
    /// Bytes of a slot that fits any expert of the model.
    pub fn slot_bytes(&self) -> usize {
        self.layers.iter().map(|l| l.slot.bytes).max().unwrap_or(0)
    }

    /// Experts of all layers.
    pub(crate) fn experts(&self) -> usize {
        self.layers.iter().map(|layer| layer.experts).sum()
    }

    /// The most experts that a token uses in a layer; 0 without experts.
    pub fn most_of_a_token(&self) -> usize {
        self.layers.iter().map(|layer| layer.top_k).max().unwrap_or(0)
    }

    /// Bytes on disk of all experts; those in memory do not count.
    pub fn disk_bytes(&self) -> u64 {
        let bytes = self.layers.iter().flat_map(|layer| {
            layer
                .all_parts()
                .filter(|part| {
                    let file = part.first_file().and_then(|file| self.files.get(file as usize));
                    matches!(file, Some(ExpertFile::Path(_)))
                })
                .map(|part| part.len as u64 * layer.experts as u64)
        });
        bytes.sum()
    }

    /// The slices to read for one expert of an MoE layer, each into its place in the slot.
    pub fn slices(&self, layer: usize, expert: usize) -> impl Iterator<Item = Slice> + '_ {
        self.layers[layer].parts.iter().map(move |part| part.slice(expert))
    }

    /// Reads what of an expert of an MoE layer is rewritten, and writes it. `scratch` is kept from one to the next.
    pub(crate) fn read_rewritten<E>(
        &self,
        (layer, expert): (usize, usize),
        slot: &mut [u8],
        scratch: &mut Vec<u8>,
        read: &mut Read<'_, E>,
    ) -> Result<(), E> {
        for rewritten in &self.layers[layer].rewritten {
            let bytes = rewritten.scratch_bytes();
            scratch.resize(bytes.max(scratch.len()), 0);
            let slices: Vec<Slice> = rewritten.parts.iter().map(|(_, part)| part.slice(expert)).collect();
            read(&slices, &mut scratch[..bytes])?;
            rewritten.write(&scratch[..bytes], slot);
        }
        Ok(())
    }

    /// The files that an expert is read from.
    pub(crate) fn files_of(&self, layer: usize, expert: usize) -> impl Iterator<Item = u32> + '_ {
        self.layers[layer].all_parts().map(move |part| part.slice(expert).0)
    }
}

impl LayerExperts {
    /// What is read for an expert, into its slot or into a scratch.
    pub(crate) fn all_parts(&self) -> impl Iterator<Item = &Part> {
        self.parts
            .iter()
            .chain(self.rewritten.iter().flat_map(|rewritten| rewritten.parts.iter().map(|(_, part)| part)))
    }
}
