//! Reads of expert bytes from files or from the binary, and a reader that fails on purpose, for tests.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use flashflood_backends::PAGE;
use flashflood_backends::io::{ReadFile, ShortRead};
use rayon::prelude::*;

use super::error::StoreError;
use crate::weights::{ExpertFile, ExpertLayout, Place};

/// How the files of experts are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Reads {
    /// Direct when the experts on disk take more than half of the memory that is free, else cached
    #[default]
    Auto,
    /// Through the system's page cache
    Cached,
    /// Past the page cache, where the file system can
    Direct,
    /// Past the page cache with positioned reads on threads, also where the system has a queue (Linux io_uring)
    Threads,
}

impl Reads {
    /// Whether reads go past the page cache, with `available` bytes of memory free. A page cache that holds most of
    /// the experts is worth its copy; one that holds few costs a copy of every read and the memory of the slots.
    pub fn is_direct(self, layout: &ExpertLayout, available: u64) -> bool {
        match self {
            Reads::Auto => layout.disk_bytes() > available / 2,
            Reads::Cached => false,
            Reads::Direct | Reads::Threads => true,
        }
    }
}

/// Where the store reads expert bytes from. Called from several threads at once.
pub trait ExpertReader: Send + Sync {
    /// Fills `buf` with the bytes at `offset` of file `file` of the layout.
    fn read(&self, file: u32, offset: u64, buf: &mut [u8]) -> io::Result<()>;
    /// Fills the first `len` bytes of `buf`; what follows them in `buf` may be overwritten, so that a disk can write
    /// whole blocks.
    fn read_padded(&self, file: u32, offset: u64, buf: &mut [u8], len: usize) -> io::Result<()> {
        self.read(file, offset, &mut buf[..len])
    }
    /// Fills several buffers, at once where that is faster; an error for the first that failed, with its index.
    fn read_all(&self, reads: Vec<SliceRead<'_>>) -> Result<(), (usize, io::Error)> {
        reads.into_iter().enumerate().try_for_each(|(i, read)| read.by(self).map_err(|error| (i, error)))
    }
    /// The file's name for messages.
    fn describe(&self, file: u32) -> String;
}

/// A read of one slice of an expert.
pub struct SliceRead<'a> {
    /// File of the layout.
    pub file: u32,
    /// First byte in the file.
    pub offset: u64,
    /// Where to; what follows the first `len` bytes may be overwritten.
    pub into: &'a mut [u8],
    /// Bytes.
    pub len: usize,
}

impl SliceRead<'_> {
    fn by(self, reader: &(impl ExpertReader + ?Sized)) -> io::Result<()> {
        reader.read_padded(self.file, self.offset, self.into, self.len)
    }
}

/// Positioned reads of the files of a layout, which are all opened before the first expert is asked for.
#[derive(Debug)]
pub struct FileReader {
    files: Vec<Source>,
    /// Reads the slices of an expert at once; and the parts of a record, where the system has no queue that does.
    parts: Option<rayon::ThreadPool>,
}

/// A record is read in so many parts at once when threads do it. On an M5 Max it was worth 16 % (flash-moe's figures);
/// more parts make the reads too small.
const PARTS: usize = 4;
/// No part is smaller.
const LEAST_PART: usize = 256 << 10;
/// Threads that read parts.
const PART_THREADS: usize = 32;

#[derive(Debug)]
enum Source {
    Disk { path: String, file: ReadFile },
    Memory { name: &'static str, bytes: Bytes },
}

impl FileReader {
    /// Opens every file of the layout for reads through the page cache and checks that it is as long as its experts
    /// say.
    pub fn open(layout: &ExpertLayout) -> Result<Self, StoreError> {
        Self::open_for(layout, false)
    }

    /// As [`open`](Self::open), for reads past the page cache when `direct`, where the file systems can.
    pub fn open_for(layout: &ExpertLayout, direct: bool) -> Result<Self, StoreError> {
        let open = if direct { ReadFile::open_direct } else { ReadFile::open };
        let ends = file_ends(layout)?;
        let mut files = Vec::with_capacity(layout.files.len());
        for (index, file) in layout.files.iter().enumerate() {
            let source = match file {
                ExpertFile::Path(path) => {
                    let path_text = path.display().to_string();
                    let file = open(path).map_err(|cause| StoreError::Open { path: path_text.clone(), cause })?;
                    Source::Disk { path: path_text, file }
                }
                ExpertFile::Memory { name, bytes } => Source::Memory { name, bytes: bytes.clone() },
            };
            let found = source.len()?;
            let expected = ends.get(&index).copied().unwrap_or(0);
            if found < expected {
                return Err(StoreError::FileTooShort { path: source.name(), expected, found });
            }
            files.push(source);
        }
        let has_slices = layout.layers.iter().any(|layer| layer.all_parts().nth(1).is_some());
        FileReader { files, parts: None }.with_threads_for_parts(has_slices)
    }

    /// The same files, read by positioned reads on threads even where the system has a queue.
    pub fn without_queue(self) -> Result<Self, StoreError> {
        let files = self.files.into_iter().map(|source| match source {
            Source::Disk { path, file } => Source::Disk { path, file: file.without_queue() },
            memory => memory,
        });
        FileReader { files: files.collect(), parts: None }.with_threads_for_parts(self.parts.is_some())
    }

    /// `has_slices` says that experts are more than one read each.
    fn with_threads_for_parts(mut self, has_slices: bool) -> Result<Self, StoreError> {
        let on_threads = |source: &Source| matches!(source, Source::Disk { file, .. } if file.is_direct() && (has_slices || !file.is_queued()));
        if self.files.iter().any(on_threads) {
            let threads = rayon::ThreadPoolBuilder::new().num_threads(PART_THREADS);
            let threads = threads.thread_name(|index| format!("expert-part-{index}")).build();
            let parts = threads.map_err(|cause| StoreError::Threads { cause: io::Error::other(cause) })?;
            self.parts = Some(parts);
        }
        Ok(self)
    }

    /// Whether every file on disk is read through the system's queue.
    pub fn is_queued(&self) -> bool {
        self.files.iter().all(|source| !matches!(source, Source::Disk { file, .. } if !file.is_queued()))
    }

    /// Whether every file on disk is read past the page cache.
    pub fn is_direct(&self) -> bool {
        self.files.iter().all(|source| !matches!(source, Source::Disk { file, .. } if !file.is_direct()))
    }

    /// Drops what the page cache holds of these files, and of no others; false where the platform cannot.
    pub fn forget_cached(&self) -> bool {
        self.files.iter().all(|source| !matches!(source, Source::Disk { file, .. } if !file.forget_cached()))
    }
}

impl Source {
    fn name(&self) -> String {
        match self {
            Source::Disk { path, .. } => path.clone(),
            Source::Memory { name, .. } => (*name).to_owned(),
        }
    }

    fn len(&self) -> Result<u64, StoreError> {
        match self {
            Source::Disk { path, file } => file.len().map_err(|cause| StoreError::Open { path: path.clone(), cause }),
            Source::Memory { bytes, .. } => Ok(bytes.len() as u64),
        }
    }
}

impl ExpertReader for FileReader {
    fn read(&self, file: u32, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let len = buf.len();
        self.read_padded(file, offset, buf, len)
    }

    fn read_padded(&self, file: u32, offset: u64, buf: &mut [u8], len: usize) -> io::Result<()> {
        match self.files.get(file as usize) {
            Some(Source::Disk { file, .. }) => match &self.parts {
                Some(threads) if file.is_direct() && !file.is_queued() => read_parts(threads, file, buf, len, offset),
                _ => file.read_padded_at(buf, len, offset),
            },
            Some(Source::Memory { bytes, .. }) => {
                let buf = &mut buf[..len];
                let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                let left = &bytes[from..];
                match left.get(..buf.len()) {
                    Some(found) => {
                        buf.copy_from_slice(found);
                        Ok(())
                    }
                    None => Err(ShortRead { expected: buf.len(), found: left.len() }.into()),
                }
            }
            None => {
                let what = format!("there is no file {file} among the {} of the experts", self.files.len());
                Err(io::Error::new(io::ErrorKind::NotFound, what))
            }
        }
    }

    fn read_all(&self, reads: Vec<SliceRead<'_>>) -> Result<(), (usize, io::Error)> {
        let one = |(i, read): (usize, SliceRead<'_>)| read.by(self).map_err(|error| (i, error));
        let bytes: usize = reads.iter().map(|read| read.len).sum();
        match &self.parts {
            // waking threads for less takes longer than the reads
            Some(threads) if reads.len() > 1 && bytes >= LEAST_PART => {
                let outcomes: Vec<Result<(), (usize, io::Error)>> =
                    threads.install(|| reads.into_par_iter().enumerate().with_max_len(1).map(one).collect());
                outcomes.into_iter().collect()
            }
            _ => reads.into_iter().enumerate().try_for_each(one),
        }
    }

    fn describe(&self, file: u32) -> String {
        match self.files.get(file as usize) {
            Some(source) => source.name(),
            None => format!("file {file}"),
        }
    }
}

/// Reads the parts of a record at once.
fn read_parts(threads: &rayon::ThreadPool, file: &ReadFile, buf: &mut [u8], len: usize, offset: u64) -> io::Result<()> {
    let part = (len / PARTS).next_multiple_of(PAGE).max(LEAST_PART);
    if len <= part {
        return file.read_padded_at(buf, len, offset);
    }
    let mut outcomes: Vec<io::Result<()>> = (0..len.div_ceil(part)).map(|_| Ok(())).collect();
    // what is left over for the last block belongs to the last part
    let (last, first) = (outcomes.len() - 1, buf);
    let (front, back) = first.split_at_mut(last * part);
    threads.scope(|scope| {
        let parts = front.chunks_mut(part).chain([back]);
        for (index, (into, outcome)) in parts.zip(&mut outcomes).enumerate() {
            let start = index * part;
            scope.spawn(move |_| {
                *outcome = file.read_padded_at(into, part.min(len - start), offset + start as u64);
            });
        }
    });
    for (index, outcome) in outcomes.into_iter().enumerate() {
        let Err(error) = outcome else { continue };
        let short = error.get_ref().and_then(|inner| inner.downcast_ref::<ShortRead>()).copied();
        return Err(match short {
            Some(short) => ShortRead { expected: len, found: index * part + short.found }.into(),
            None => error,
        });
    }
    Ok(())
}

/// Where the last expert of each file ends.
fn file_ends(layout: &ExpertLayout) -> Result<BTreeMap<usize, u64>, StoreError> {
    let mut ends = BTreeMap::new();
    for (layer, experts) in layout.layers.iter().enumerate() {
        let mut covers = |file: u32, end: Option<u64>| -> Result<(), StoreError> {
            let what = || "an expert ends beyond what an offset can say".to_owned();
            let end = end.ok_or_else(|| StoreError::Layout { layer, what: what() })?;
            let last = ends.entry(file as usize).or_insert(0);
            *last = end.max(*last);
            Ok(())
        };
        for part in experts.all_parts() {
            let len = part.len as u64;
            match &part.place {
                Place::Strided { file, base, stride } => {
                    let last = (experts.experts as u64).saturating_sub(1).checked_mul(*stride);
                    let end = last.and_then(|last| last.checked_add(*base)?.checked_add(len));
                    covers(*file, end)?;
                }
                Place::Listed(places) => {
                    for (file, offset) in places {
                        covers(*file, offset.checked_add(len))?;
                    }
                }
            }
        }
    }
    Ok(ends)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn parts_meet_and_say_where_the_file_ends() {
        let bytes: Vec<u8> = (0..5_000_001_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, &bytes).unwrap();
        let file = ReadFile::open_direct(&path).unwrap().without_queue();
        let threads = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let mut buffer = flashflood_backends::AlignedBuffer::new(6_000_000).unwrap();
        for (offset, len) in [(0, 5_000_000), (4096, 3_000_000), (1 << 20, 1 << 20), (777, 2_000_003), (0, 300_000)] {
            buffer.fill(0);
            let room = (len + PAGE).next_multiple_of(PAGE);
            read_parts(&threads, &file, &mut buffer[..room], len, offset as u64).unwrap();
            assert!(buffer[..len] == bytes[offset..offset + len], "{len} bytes at {offset}");
        }
        for (offset, len) in [(0, 5_000_002), (4096, 5_900_000), (4 << 20, 1 << 20)] {
            let error = read_parts(&threads, &file, &mut buffer, len, offset as u64).unwrap_err();
            let short = error.get_ref().unwrap().downcast_ref::<ShortRead>().unwrap();
            assert_eq!(*short, ShortRead { expected: len, found: bytes.len() - offset });
        }
    }
}
