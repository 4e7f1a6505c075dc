//! What can go wrong with experts; every message names the file or the flag to look at.

use std::io;

/// What can go wrong with experts: before the first read (budget, layout, files), in a request, or in a read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The cache cannot hold the experts of one token of one layer.
    #[error(
        "the expert cache of {given} bytes is too small: the {experts} experts that a token needs in a layer take \
         {needed} bytes; give at least --expert-cache {}MB", needed.div_ceil(1_000_000)
    )]
    BudgetTooSmall {
        /// Bytes that would do.
        needed: u64,
        /// Bytes given.
        given: u64,
        /// Experts per token.
        experts: usize,
    },
    /// The layout contradicts itself.
    #[error("the experts of layer {layer}: {what}")]
    Layout {
        /// Layer, counted from 0.
        layer: usize,
        /// What was expected and what was found.
        what: String,
    },
    /// The slots were made for smaller experts.
    #[error("an expert takes {expected} bytes, the slots have {found}")]
    SlotTooSmall {
        /// Bytes of the largest expert.
        expected: usize,
        /// Bytes of a slot.
        found: usize,
    },
    /// A file that holds experts cannot be opened.
    #[error("{path}: cannot open: {cause}")]
    Open {
        /// The file.
        path: String,
        /// What the system said.
        cause: io::Error,
    },
    /// A file ends before the experts in it do.
    #[error("{path}: truncated: expected at least {expected} bytes, found {found}")]
    FileTooShort {
        /// The file.
        path: String,
        /// Where the last expert ends.
        expected: u64,
        /// Bytes of the file.
        found: u64,
    },
    /// The system could not read.
    #[error("{path}: cannot read {expected} bytes at offset {offset} (layer {layer}, expert {expert}): {cause}")]
    Read {
        /// The file.
        path: String,
        /// Layer, counted from 0.
        layer: usize,
        /// Expert, counted from 0.
        expert: u32,
        /// Offset in the file.
        offset: u64,
        /// Bytes asked for.
        expected: usize,
        /// What the system said.
        cause: io::Error,
    },
    /// The file became shorter after it was opened, or the disk gave less than it should.
    #[error(
        "{path}: short read at offset {offset} (layer {layer}, expert {expert}): expected {expected} bytes, found {found}"
    )]
    ShortRead {
        /// The file.
        path: String,
        /// Layer, counted from 0.
        layer: usize,
        /// Expert, counted from 0.
        expert: u32,
        /// Offset in the file.
        offset: u64,
        /// Bytes asked for.
        expected: usize,
        /// Bytes that came.
        found: usize,
    },
    /// A record is not what was written.
    #[error(
        "{path}: damaged record of layer {layer}, expert {expert}: expected checksum {expected:016x}, found {found:016x}"
    )]
    Checksum {
        /// The file.
        path: String,
        /// Layer, counted from 0.
        layer: usize,
        /// Expert, counted from 0.
        expert: u32,
        /// xxh3-64 that the manifest names.
        expected: u64,
        /// xxh3-64 of the bytes read.
        found: u64,
    },
    /// A file whose bytes never came.
    #[error(
        "{path}: layer {layer}, expert {expert}: expected the weights of {matrix}, found zeros (hint: the file is damaged: is \
         the download complete?)"
    )]
    Zeros {
        /// The file.
        path: String,
        /// Layer, counted from 0.
        layer: usize,
        /// Expert, counted from 0.
        expert: u32,
        /// gate_proj, up_proj or down_proj.
        matrix: &'static str,
    },
    /// A scale or bias of a snapshot is NaN or infinite.
    #[error(
        "{path}: layer {layer}, expert {expert}: expected finite numbers, found NaN or infinity among the {stream} of \
         {matrix} (row {row}, group {group})"
    )]
    NotFinite {
        /// The file.
        path: String,
        /// Layer, counted from 0.
        layer: usize,
        /// Expert, counted from 0.
        expert: u32,
        /// gate_proj, up_proj or down_proj.
        matrix: &'static str,
        /// scales or biases.
        stream: &'static str,
        /// Row of the matrix.
        row: usize,
        /// Group of columns.
        group: usize,
    },
    /// A thread that reads experts panicked: a mistake in this program.
    #[error("reading expert {expert} of layer {layer} panicked: {message}")]
    WorkerPanicked {
        /// Layer, counted from 0.
        layer: usize,
        /// Expert, counted from 0.
        expert: u32,
        /// What the panic said.
        message: String,
    },
    /// Nobody wanted an expert any more before its read had begun.
    #[error("layer {layer}: expert {expert} was not read: it was called off")]
    CalledOff {
        /// Layer, counted from 0.
        layer: usize,
        /// The expert.
        expert: u32,
    },
    /// The threads that read experts are gone: a mistake in this program.
    #[error("the threads that read experts have ended")]
    WorkersGone,
    /// The device has no such memory for experts, or not so much.
    #[error("{wanted} memory for experts: {cause} (hint: a smaller --expert-cache)")]
    Landing {
        /// Which was asked for.
        wanted: String,
        /// Why there is none.
        cause: String,
    },
    /// The system gave no thread.
    #[error("cannot start a thread to read experts: {cause} (hint: {hint})", hint = flashflood_backends::NO_THREADS_HINT)]
    Threads {
        /// What the system said.
        cause: io::Error,
    },
    /// A layer that the model does not have.
    #[error("there is no layer {layer}: the model has {layers} layers with experts")]
    NoSuchLayer {
        /// Layer asked for.
        layer: usize,
        /// Layers of the model.
        layers: usize,
    },
    /// An expert that the layer does not have.
    #[error("layer {layer} has no expert {expert}: it has {experts} experts")]
    NoSuchExpert {
        /// Layer asked for.
        layer: usize,
        /// Expert asked for.
        expert: u32,
        /// Experts of the layer.
        experts: usize,
    },
    /// One request names an expert twice.
    #[error("expert {expert} of layer {layer} is asked for twice at once")]
    Repeated {
        /// Layer asked for.
        layer: usize,
        /// Expert asked for.
        expert: u32,
    },
    /// One request names more experts than the slots of its layer.
    #[error("{asked} experts of layer {layer} are asked for at once: the cache holds {capacity} of a layer")]
    TooManyExperts {
        /// Layer asked for.
        layer: usize,
        /// Experts asked for.
        asked: usize,
        /// The most that one request may name.
        capacity: usize,
    },
    /// The slots that are not held are fewer than the experts to read.
    #[error("no free slot for {asked} experts of layer {layer}: {held} of {capacity} slots are held")]
    AllHeld {
        /// Layer asked for.
        layer: usize,
        /// Experts asked for.
        asked: usize,
        /// Slots of the set that are held.
        held: usize,
        /// Slots of the set.
        capacity: usize,
    },
    /// A slot was waited for that no request gave out.
    #[error("slot {slot} holds no expert and none is being read into it")]
    EmptySlot {
        /// The slot.
        slot: usize,
    },
    /// The system gave no memory for a slot.
    #[error("no memory for expert slot {slot} of {bytes} bytes (hint: a smaller --expert-cache)")]
    OutOfMemory {
        /// The slot.
        slot: usize,
        /// Its bytes.
        bytes: usize,
    },
    /// The memory of a slot cannot be reached: a lost device, a failed mapping.
    #[error("expert slot {slot}: {message}")]
    Memory {
        /// The slot.
        slot: usize,
        /// What happened.
        message: String,
    },
}
