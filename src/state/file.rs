//! Session files, version 2. All numbers are little-endian; rows and states are stored as the device has them.
//!
//! ```text
//! offset  bytes  header
//!      0      8  "FLSESSN\0"
//!      8      4  version: 2
//!     12      4  F: length of the form, at most 512
//!     16      8  fingerprint of the model: xxh3 of its configuration, norms and samples of its matrices
//!     24      4  L: layers, at most 4096
//!     28      4  S: states, 1 to 4096
//!     32      8  T: tokens, at most 2^24
//!     40      8  N: streams of all layers, at most 65536
//!     48      F  form: formats of weights and activations, UTF-8
//!             8  per layer: what it keeps u32 (0 rows of every position, 1 state); its streams u32. Then for each stream
//!                16 bytes: format u32 (0 f32, 1 f16, 2 q8, 3 tq4); elements of a head u32 (0 where the format has no
//!                heads); elements u64, of a position or of a tensor of the state
//!            16  per state: position u64 (tokens it has seen; ascending, the last is T), reason u64
//!                (0 interval, 1 asked for, 2 end of a turn)
//!             4  per token: id
//!             8  xxh3-64 of everything before
//! ```
//!
//! Sections follow, in this order and without gaps: for every state, for every layer that keeps one, its tensors one
//! after the other (of a gated delta-net the conv state and the recurrent state); then for every layer with rows its cache:
//! of each 1024 positions, and of what is left at the end, the rows of each stream (of attention the keys, and then the
//! values).
//!
//! ```text
//! offset  bytes  section
//!      0      4  kind: 1 state, 2 cache
//!      4      4  layer
//!      8      8  position of the state; T for a cache
//!     16      8  B: bytes
//!     24      B  rows or tensors
//!              8  xxh3-64 of everything before in the section
//! ```
//!
//! Files of version 1 are refused, and their prompts computed again: they say nothing of streams, and their fingerprint
//! was made of something else.
//!
//! The header says how long the file is, and says it before anything else is read: a file that was cut is known from its
//! header alone. Nothing is allocated by a number of the file that was not held against a limit and the file's length.

use std::fs::File;
use std::io::{BufReader, BufWriter, Cursor, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::boundaries::common_prefix;
use super::codes::{format_code, format_of, reason_code};
use super::identity::{Identity, LayerContent, StreamShape};
use super::memory::SharedBytes;
use super::{Reason, SessionFileError};
use crate::file_error::FileError;

const MAGIC: &[u8; 8] = b"FLSESSN\0";
const VERSION: u32 = 2;
const FIXED: usize = 48;
/// Positions whose rows are stored together, stream after stream.
pub(crate) const CACHE_BLOCK: usize = 1024;
const MOST_FORM: u64 = 512;
const MOST_LAYERS: u64 = 4096;
const MOST_STATES: u64 = 4096;
const MOST_STREAMS: u64 = 65536;
const MOST_TOKENS: u64 = 1 << 24;

/// What a session file says before its sections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The model.
    pub identity: Identity,
    /// The timeline.
    pub tokens: Vec<u32>,
    /// Positions of the recurrent states, ascending; the last is the end of the timeline.
    pub states: Vec<(usize, Reason)>,
}

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The tensors of a layer's state.
    State = 1,
    /// The rows of all positions, in blocks of [`CACHE_BLOCK`].
    Cache = 2,
}

/// One section of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Section {
    /// What it holds.
    pub kind: Kind,
    /// Of which layer.
    pub layer: usize,
    /// After so many tokens.
    pub position: usize,
    /// How many bytes it holds.
    pub bytes: u64,
}

impl Section {
    fn head(&self) -> [u8; 24] {
        let mut head = [0; 24];
        head[..4].copy_from_slice(&(self.kind as u32).to_le_bytes());
        head[4..8].copy_from_slice(&(self.layer as u32).to_le_bytes());
        head[8..16].copy_from_slice(&(self.position as u64).to_le_bytes());
        head[16..].copy_from_slice(&self.bytes.to_le_bytes());
        head
    }

    /// Bytes in the file, head and checksum included. Saturates, so that no header makes it overflow.
    fn file_bytes(&self) -> u64 {
        self.bytes.saturating_add(24 + 8)
    }

    fn name(&self) -> String {
        let kind = match self.kind {
            Kind::State => "recurrent state",
            Kind::Cache => "KV cache",
        };
        format!("{kind} of layer {} after {} tokens", self.layer, self.position)
    }
}

impl Header {
    /// The sections, in order.
    pub(crate) fn sections(&self) -> impl Iterator<Item = Section> {
        let end = self.tokens.len();
        let layers = || self.identity.layers.iter().enumerate();
        let bytes = |shape: &LayerContent| shape.streams().iter().fold(0u64, |sum, of| sum.saturating_add(of.bytes()));
        let states = self.states.iter().flat_map(move |&(position, _)| {
            layers().filter_map(move |(layer, shape)| match shape {
                LayerContent::Cache(_) => None,
                LayerContent::State(_) => Some(Section { kind: Kind::State, layer, position, bytes: bytes(shape) }),
            })
        });
        let caches = layers().filter_map(move |(layer, shape)| match shape {
            LayerContent::State(_) => None,
            LayerContent::Cache(_) => {
                let bytes = bytes(shape).saturating_mul(end as u64);
                Some(Section { kind: Kind::Cache, layer, position: end, bytes })
            }
        });
        states.chain(caches)
    }

    /// Bytes of the whole file.
    pub(crate) fn file_bytes(&self) -> u64 {
        let sections = self.sections().fold(0u64, |sum, section| sum.saturating_add(section.file_bytes()));
        sections.saturating_add(self.to_bytes().len() as u64)
    }

    /// How many of `tokens` the file has a state for: at most all but the last, whose logits are wanted.
    pub(crate) fn usable(&self, tokens: &[u32]) -> usize {
        let most = common_prefix(&self.tokens, tokens).min(tokens.len().saturating_sub(1));
        if !self.identity.is_recurrent() {
            return most;
        }
        self.states.iter().map(|(position, _)| *position).filter(|at| *at <= most).max().unwrap_or(0)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let form = &self.identity.form.as_bytes()[..self.identity.form.len().min(MOST_FORM as usize)];
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend((form.len() as u32).to_le_bytes());
        bytes.extend(self.identity.fingerprint.to_le_bytes());
        bytes.extend((self.identity.layers.len() as u32).to_le_bytes());
        bytes.extend((self.states.len() as u32).to_le_bytes());
        bytes.extend((self.tokens.len() as u64).to_le_bytes());
        let streams: usize = self.identity.layers.iter().map(|layer| layer.streams().len()).sum();
        bytes.extend((streams as u64).to_le_bytes());
        bytes.extend(form);
        for layer in &self.identity.layers {
            let kept: u32 = if matches!(layer, LayerContent::Cache(_)) { 0 } else { 1 };
            bytes.extend(kept.to_le_bytes());
            bytes.extend((layer.streams().len() as u32).to_le_bytes());
            for stream in layer.streams() {
                bytes.extend(format_code(stream.format).to_le_bytes());
                bytes.extend(stream.width.to_le_bytes());
            }
        }
        let state = |(position, reason): &(usize, Reason)| [*position as u64, reason_code(*reason)];
        bytes.extend(self.states.iter().flat_map(state).flat_map(u64::to_le_bytes));
        bytes.extend(self.tokens.iter().flat_map(|id| id.to_le_bytes()));
        bytes.extend(xxh3_64(&bytes).to_le_bytes());
        bytes
    }
}

/// Makes a session file, section by section.
pub(crate) struct SessionWriter {
    path: PathBuf,
    out: Written,
    sum: Xxh3,
}

enum Written {
    File(BufWriter<File>),
    /// Without the header.
    Memory(Vec<u8>),
}

impl SessionWriter {
    /// Creates the file and writes its header.
    ///
    /// # Errors
    /// What the system refuses.
    pub(crate) fn create(path: &Path, file: File, header: &Header) -> Result<SessionWriter, SessionFileError> {
        // says to others that somebody writes it; some file systems have no locks
        let _ = file.try_lock();
        let mut writer = SessionWriter {
            path: path.to_owned(),
            out: Written::File(BufWriter::with_capacity(1 << 20, file)),
            sum: Xxh3::new(),
        };
        writer.write(&header.to_bytes())?;
        Ok(writer)
    }

    /// For the sections alone, in memory.
    pub(crate) fn in_memory(header: &Header) -> SessionWriter {
        let bytes = usize::try_from(header.file_bytes()).unwrap_or(0);
        SessionWriter { path: PathBuf::new(), out: Written::Memory(Vec::with_capacity(bytes)), sum: Xxh3::new() }
    }

    /// What was written to memory.
    pub(crate) fn into_memory(self) -> Vec<u8> {
        match self.out {
            Written::Memory(sections) => sections,
            Written::File(_) => Vec::new(),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), SessionFileError> {
        self.sum.update(bytes);
        match &mut self.out {
            Written::File(out) => out.write_all(bytes).map_err(SessionFileError::io("write", &self.path)),
            Written::Memory(sections) => {
                sections.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// Begins the next section.
    pub(crate) fn begin(&mut self, section: &Section) -> Result<(), SessionFileError> {
        self.sum.reset();
        self.write(&section.head())
    }

    /// Writes some of the section's bytes.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), SessionFileError> {
        self.write(bytes)
    }

    /// Ends the section.
    pub(crate) fn end(&mut self) -> Result<(), SessionFileError> {
        let sum = self.sum.digest();
        self.write(&sum.to_le_bytes())
    }

    /// Makes the file durable.
    pub(crate) fn finish(self) -> Result<(), SessionFileError> {
        let Written::File(out) = self.out else { return Ok(()) };
        let file = out.into_inner().map_err(|e| SessionFileError::io("write", &self.path)(e.into_error()))?;
        file.sync_all().map_err(SessionFileError::io("sync", &self.path))
    }
}

enum Source {
    File(BufReader<File>),
    /// Without the header.
    Memory(Cursor<SharedBytes>),
}

/// Reads a session file, section by section.
pub(crate) struct SessionReader {
    path: PathBuf,
    from: Source,
    sum: Xxh3,
    /// What the file begins with.
    pub header: Header,
}

impl SessionReader {
    /// Opens a file of the model `expected` and reads its header.
    ///
    /// # Errors
    /// Anything but a whole file of this version and model.
    pub(crate) fn open(path: &Path, expected: &Identity) -> Result<SessionReader, SessionFileError> {
        let io = |action| SessionFileError::io(action, path);
        // asked before it is opened: a pipe would wait for a writer
        let meta = std::fs::metadata(path).map_err(io("open"))?;
        if !meta.is_file() {
            return Err(FileError::new(path, "", "a session file", "something else").into());
        }
        let file = File::open(path).map_err(io("open"))?;
        let mut from = BufReader::with_capacity(1 << 16, file);
        let header = read_header(path, &mut from, meta.len(), expected)?;
        Ok(SessionReader { path: path.to_owned(), from: Source::File(from), sum: Xxh3::new(), header })
    }

    /// Of a session in memory.
    pub(crate) fn of_memory(header: Header, sections: Arc<Vec<u8>>) -> SessionReader {
        let from = Source::Memory(Cursor::new(SharedBytes(sections)));
        SessionReader { path: "a session in memory".into(), from, sum: Xxh3::new(), header }
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), SessionFileError> {
        let read = match &mut self.from {
            Source::File(file) => file.read_exact(bytes),
            Source::Memory(sections) => sections.read_exact(bytes),
        };
        read.map_err(SessionFileError::io("read", &self.path))?;
        self.sum.update(bytes);
        Ok(())
    }

    /// Begins the next section, which must be this one.
    pub(crate) fn begin(&mut self, section: &Section) -> Result<(), SessionFileError> {
        self.sum.reset();
        let mut head = [0; 24];
        self.read(&mut head)?;
        match head == section.head() {
            true => Ok(()),
            false => Err(self.damaged(format!("head of the section {}", section.name()), section.head(), head)),
        }
    }

    /// Passes over a section.
    pub(crate) fn skip(&mut self, section: &Section) -> Result<(), SessionFileError> {
        // the whole file's length is known to fit
        let bytes = i64::try_from(section.file_bytes()).unwrap_or(i64::MAX);
        let skipped = match &mut self.from {
            Source::File(file) => file.seek_relative(bytes),
            Source::Memory(sections) => sections.seek_relative(bytes),
        };
        skipped.map_err(SessionFileError::io("read", &self.path))
    }

    /// Reads some of the section's bytes; they are not to be believed before [`end`](Self::end).
    pub(crate) fn bytes(&mut self, bytes: &mut [u8]) -> Result<(), SessionFileError> {
        self.read(bytes)
    }

    /// Ends the section: holds its checksum against its bytes.
    pub(crate) fn end(&mut self, section: &Section) -> Result<(), SessionFileError> {
        let expected = self.sum.digest();
        let mut found = [0; 8];
        self.read(&mut found)?;
        match u64::from_le_bytes(found) == expected {
            true => Ok(()),
            false => Err(self.damaged(format!("checksum of the {}", section.name()), expected.to_le_bytes(), found)),
        }
    }

    fn damaged<const N: usize>(&self, what: String, expected: [u8; N], found: [u8; N]) -> SessionFileError {
        let hex = |bytes: [u8; N]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        SessionFileError::damaged(&self.path, &what, hex(expected), &hex(found))
    }
}

/// Numbers of a header, one after the other.
struct Numbers<'a>(&'a [u8]);

impl<'a> Numbers<'a> {
    /// The next bytes.
    ///
    /// # Panics
    /// Past the end: the length of a header is computed from its counts before it is read.
    fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (now, rest) = self.0.split_at(n);
        self.0 = rest;
        now
    }

    fn u32(&mut self) -> u32 {
        self.bytes(4).iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
    }

    fn u64(&mut self) -> u64 {
        self.bytes(8).iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

fn read_header(
    path: &Path,
    from: &mut impl Read,
    file_bytes: u64,
    model: &Identity,
) -> Result<Header, SessionFileError> {
    let io = |action| SessionFileError::io(action, path);
    let format = |expected: String, found: String| FileError::new(path, "", expected, found).into();
    let damaged = |what: &str, expected: String, found: String| SessionFileError::damaged(path, what, expected, &found);
    if file_bytes < (FIXED + 8) as u64 {
        return Err(format(format!("a session file of at least {} bytes", FIXED + 8), format!("{file_bytes} bytes")));
    }
    let mut fixed = [0; FIXED];
    from.read_exact(&mut fixed).map_err(io("read"))?;
    let mut numbers = Numbers(&fixed);
    let magic = numbers.bytes(8);
    if magic != MAGIC {
        return Err(format("a session file".to_owned(), format!("a file that begins with {}", magic.escape_ascii())));
    }
    let version = numbers.u32();
    if version != VERSION {
        let again = if version < VERSION { ", of an earlier release: its prompt is computed again" } else { "" };
        return Err(format(format!("a session file of version {VERSION}"), format!("version {version}{again}")));
    }
    let form = u64::from(numbers.u32());
    let fingerprint = numbers.u64();
    let (layers, states, tokens) = (u64::from(numbers.u32()), u64::from(numbers.u32()), numbers.u64());
    let streams = numbers.u64();
    for (what, most, found) in [
        ("length of the form", MOST_FORM, form),
        ("layers", MOST_LAYERS, layers),
        ("states", MOST_STATES, states),
        ("tokens", MOST_TOKENS, tokens),
        ("streams", MOST_STREAMS, streams),
    ] {
        if found > most {
            return Err(damaged(what, format!("at most {most}"), found.to_string()));
        }
    }
    let rest = form + 8 * layers + 16 * streams + 16 * states + 4 * tokens + 8;
    if FIXED as u64 + rest > file_bytes {
        return Err(damaged("length", format!("at least {} bytes", FIXED as u64 + rest), format!("{file_bytes}")));
    }
    let mut bytes = fixed.to_vec();
    bytes.resize(FIXED + rest as usize, 0);
    from.read_exact(&mut bytes[FIXED..]).map_err(io("read"))?;
    let (bytes, sum) = bytes.split_at(bytes.len() - 8);
    let (expected, found) = (xxh3_64(bytes), Numbers(sum).u64());
    if expected != found {
        return Err(damaged("checksum of the header", format!("{expected:016x}"), format!("{found:016x}")));
    }
    let mut numbers = Numbers(&bytes[FIXED..]);
    let form = String::from_utf8_lossy(numbers.bytes(form as usize)).into_owned();
    let mut streams_left = streams;
    let mut shapes = Vec::new();
    for _ in 0..layers {
        let (kept, streams) = (numbers.u32(), u64::from(numbers.u32()));
        if streams > streams_left {
            return Err(damaged("streams of the layers", streams_left.to_string(), streams.to_string()));
        }
        streams_left -= streams;
        let mut shape = Vec::new();
        for _ in 0..streams {
            let code = numbers.u64();
            let unknown = || damaged("format of a stream", "0 to 3, and heads".to_owned(), format!("{code:#x}"));
            shape.push(StreamShape { format: format_of(code).ok_or_else(unknown)?, width: numbers.u64() });
        }
        shapes.push(if kept == 0 { LayerContent::Cache(shape) } else { LayerContent::State(shape) });
    }
    if streams_left > 0 {
        let (expected, found) = (streams.to_string(), (streams - streams_left).to_string());
        return Err(damaged("streams of the layers", expected, found));
    }
    let identity = Identity { fingerprint, form, layers: shapes };
    if identity.differs_in_kv(model) {
        let (expected, found) = (model.kv(), identity.kv());
        return Err(SessionFileError::OtherFormat { path: path.to_owned(), expected, found });
    }
    if identity != *model {
        let (expected, found) = (model.to_string(), identity.to_string());
        return Err(SessionFileError::OtherModel { path: path.to_owned(), expected, found });
    }
    let states = (0..states).map(|_| {
        let (position, reason) = (numbers.u64(), numbers.u64());
        let reason = [Reason::Interval, Reason::Asked, Reason::Turn].into_iter().find(|r| reason_code(*r) == reason);
        (position as usize, reason.unwrap_or(Reason::Interval))
    });
    let states: Vec<(usize, Reason)> = states.collect();
    let tokens: Vec<u32> = (0..tokens).map(|_| numbers.u32()).collect();
    let is_ascending = states.is_sorted_by(|a, b| a.0 < b.0);
    if !is_ascending || states.last().is_none_or(|(position, _)| *position != tokens.len()) {
        let expected = format!("ascending, the last is {}", tokens.len());
        return Err(damaged("positions of the states", expected, format!("{states:?}")));
    }
    let header = Header { identity, tokens, states };
    let expected = header.file_bytes();
    if expected != file_bytes {
        return Err(damaged("length", format!("{expected} bytes"), file_bytes.to_string()));
    }
    Ok(header)
}
