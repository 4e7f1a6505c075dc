//! `flashflood bench --experts`: how fast this machine reads the files of a model's experts, by read size and queue
//! depth, past the page cache and through it. What decode reaches is to be held against these figures.

use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use flashflood::experts::{ExpertReader, FileReader};
use flashflood::weights::{ExpertFile, ExpertLayout, Place};
use flashflood_backends::{AlignedBuffer, PAGE};
use indicatif::ProgressBar;

use super::super::{Interrupted, interrupted};
use super::BenchArgs;
use crate::cli::notes::note;

const DEPTHS: [usize; 6] = [1, 2, 4, 8, 16, 32];
/// A pass ends after this time or these bytes.
const PASS_TIME: Duration = Duration::from_secs(1);
const PASS_BYTES: u64 = 8 << 30;

/// One read size at one depth.
#[derive(serde::Serialize)]
struct Row {
    read_bytes: usize,
    /// Whether this is the size of one expert.
    is_record: bool,
    depth: usize,
    /// `None` where the file system has no direct reads.
    direct_gb_s: Option<f64>,
    /// The same by positioned reads on threads, where direct reads go through the system's queue (Linux io_uring).
    direct_on_threads_gb_s: Option<f64>,
    /// The first pass through the page cache.
    cached_gb_s: f64,
    /// Whether the page cache held nothing of these files before that.
    cached_is_cold: bool,
    /// The second pass over the same reads: from memory, as far as it holds them.
    cached_again_gb_s: f64,
    best: bool,
}

/// GB/s of direct reads of one expert each, `depth` at a time, `queued` or on threads: what decode can reach. `None`
/// where the file system has no direct reads.
pub(super) fn ceiling(layout: &ExpertLayout, queued: bool, depth: usize) -> anyhow::Result<Option<f64>> {
    let lengths = file_lengths(layout)?;
    let size = record_bytes(layout);
    let mut reader = FileReader::open_for(layout, true)?;
    if !queued {
        reader = reader.without_queue()?;
    }
    if !reader.is_direct() {
        return Ok(None);
    }
    let buffers: Option<Vec<_>> = (0..depth).map(|_| AlignedBuffer::new(size).map(Mutex::new)).collect();
    let buffers = buffers.with_context(|| format!("no memory for {depth} reads of {size} bytes"))?;
    for buffer in &buffers {
        buffer.lock().unwrap_or_else(PoisonError::into_inner).fill(1);
    }
    let targets = targets(&lengths, size, 1);
    Ok(Some(measure(&reader, &targets, usize::MAX, size, &buffers)?.rate))
}

/// Reads of one expert each at one depth.
pub(in crate::cli) struct ReadSpeed {
    /// Of a read.
    pub(in crate::cli) bytes: usize,
    /// Reads at a time.
    pub(in crate::cli) depth: usize,
    /// GB/s past the page cache; `None` where the file system has no direct reads.
    pub(in crate::cli) direct: Option<f64>,
    /// GB/s of a first pass through the page cache.
    pub(in crate::cli) cached: f64,
    /// Whether the page cache held nothing of these files before that.
    pub(in crate::cli) cached_is_cold: bool,
}

impl ReadSpeed {
    /// GB/s of the disk, as far as these reads came from it.
    pub(in crate::cli) fn rate(&self) -> f64 {
        self.direct.unwrap_or(if self.cached_is_cold { self.cached } else { 0.0 })
    }
}

/// How fast experts are read at each of `depths`: a second or less for each, past the page cache and through it.
pub(in crate::cli) fn read_speeds(layout: &ExpertLayout, depths: &[usize]) -> anyhow::Result<Vec<ReadSpeed>> {
    let (lengths, bytes) = (file_lengths(layout)?, record_bytes(layout));
    let (direct, cached) = (FileReader::open_for(layout, true)?, FileReader::open(layout)?);
    let most = depths.iter().copied().max().unwrap_or(1);
    let buffers: Option<Vec<_>> = (0..most).map(|_| AlignedBuffer::new(bytes).map(Mutex::new)).collect();
    let buffers = buffers.with_context(|| format!("no memory for {most} reads of {bytes} bytes"))?;
    for buffer in &buffers {
        buffer.lock().unwrap_or_else(PoisonError::into_inner).fill(1);
    }
    let targets = targets(&lengths, bytes, 1);
    if targets.is_empty() {
        bail!("the files of the experts are shorter than one expert");
    }
    let speed = |&depth: &usize| {
        let pass = |reader, reads| measure(reader, &targets, reads, bytes, &buffers[..depth]).map(|pass| pass.rate);
        let direct = if direct.is_direct() { Some(pass(&direct, usize::MAX)?) } else { None };
        let cached_is_cold = cached.forget_cached();
        Ok(ReadSpeed { bytes, depth, direct, cached: pass(&cached, targets.len())?, cached_is_cold })
    };
    depths.iter().map(speed).collect()
}

/// Runs the command.
pub(super) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let layout = args.model.source()?.weights.experts;
    let lengths = file_lengths(&layout)?;
    let record = record_bytes(&layout);
    let direct = FileReader::open_for(&layout, true)?;
    let cached = FileReader::open(&layout)?;
    let on_threads = match direct.is_direct() && direct.is_queued() {
        true => Some(FileReader::open_for(&layout, true)?.without_queue()?),
        false => None,
    };
    match (direct.is_direct(), &on_threads) {
        (false, _) => note!("the file system has no direct reads"),
        (true, Some(_)) => note!("direct reads go through the system's queue"),
        (true, None) => note!("direct reads are made on threads: the system has no queue, or refuses it"),
    }
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let mut sizes = vec![(record / 2).next_multiple_of(PAGE), record, 1 << 20, 8 << 20];
    sizes.retain(|&size| size as u64 <= longest);
    sizes.sort_unstable();
    sizes.dedup();
    let largest = sizes.last().copied().context("the files of the experts are shorter than one expert")?;
    let most = DEPTHS[DEPTHS.len() - 1];
    let buffers: Option<Vec<_>> = (0..most).map(|_| AlignedBuffer::new(largest).map(Mutex::new)).collect();
    let buffers = buffers.with_context(|| format!("no memory for {most} reads of {largest} bytes"))?;
    for buffer in &buffers {
        // a first touch takes the system's time, which is not the disk's
        buffer.lock().unwrap_or_else(PoisonError::into_inner).fill(1);
    }
    let bar = ProgressBar::new((sizes.len() * DEPTHS.len()) as u64);
    let mut rows = Vec::new();
    for size in sizes {
        let targets = targets(&lengths, size, rows.len() as u64 + 1);
        for depth in DEPTHS {
            let pass = |reader, reads| measure(reader, &targets, reads, size, &buffers[..depth]);
            let direct_gb_s = match direct.is_direct() {
                true => Some(pass(&direct, usize::MAX)?.rate),
                false => None,
            };
            let direct_on_threads_gb_s = match &on_threads {
                Some(reader) => Some(pass(reader, usize::MAX)?.rate),
                None => None,
            };
            let cached_is_cold = cached.forget_cached();
            let first = pass(&cached, targets.len())?;
            let again = pass(&cached, first.reads)?;
            rows.push(Row {
                read_bytes: size,
                is_record: size == record,
                depth,
                direct_gb_s,
                direct_on_threads_gb_s,
                cached_gb_s: first.rate,
                cached_is_cold,
                cached_again_gb_s: again.rate,
                best: false,
            });
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    // what comes from the disk counts, not what comes from memory
    let rate = |row: &Row| {
        let cached = row.cached_is_cold.then_some(row.cached_gb_s);
        [row.direct_gb_s, row.direct_on_threads_gb_s, cached].into_iter().flatten().fold(0.0, f64::max)
    };
    if let Some(best) = rows.iter_mut().max_by(|a, b| rate(a).total_cmp(&rate(b))) {
        best.best = true;
    }
    let all = serde_json::to_value(&rows)?;
    if !args.present("reads", &serde_json::json!({ "reads": all }), &all)? {
        print_table(&mut std::io::stdout().lock(), &rows)?;
    }
    Ok(())
}

fn print_table(out: &mut impl Write, rows: &[Row]) -> io::Result<()> {
    let first = if rows.iter().all(|row| row.cached_is_cold) { "cold" } else { "first pass" };
    writeln!(
        out,
        "| read size | depth | direct GB/s | on threads | cached GB/s ({first}) | cached GB/s (second pass) | |"
    )?;
    writeln!(out, "| ---: | ---: | ---: | ---: | ---: | ---: | :--- |")?;
    for row in rows {
        let figure = |rate: Option<f64>| rate.map_or("none".to_owned(), |rate| format!("{rate:.2}"));
        let (direct, on_threads) = (figure(row.direct_gb_s), figure(row.direct_on_threads_gb_s));
        let notes = [(row.is_record, "one expert"), (row.best, "best")];
        let notes: Vec<&str> = notes.iter().filter(|(is, _)| *is).map(|(_, note)| *note).collect();
        writeln!(
            out,
            "| {:.2} MB | {} | {direct} | {on_threads} | {:.2} | {:.2} | {} |",
            row.read_bytes as f64 / 1e6,
            row.depth,
            row.cached_gb_s,
            row.cached_again_gb_s,
            notes.join(", "),
        )?;
    }
    Ok(())
}

/// The length of each file on disk.
fn file_lengths(layout: &ExpertLayout) -> anyhow::Result<Vec<u64>> {
    let length = |file: &ExpertFile| match file {
        ExpertFile::Path(path) => Ok(std::fs::metadata(path).with_context(|| path.display().to_string())?.len()),
        ExpertFile::Memory { name, .. } => anyhow::bail!(
            "{name} is part of this program, not on a disk to measure (hint: flashflood synth --shape qwen3.5-35b-a3b \
             --layers 8 DIR makes a model to measure with: bench --experts -m DIR)"
        ),
    };
    layout.files.iter().map(length).collect()
}

/// What is read for one expert at once: its record in a pack, its largest tensor in a snapshot.
fn record_bytes(layout: &ExpertLayout) -> usize {
    let parts = layout.layers.iter().flat_map(|layer| &layer.parts);
    let bytes = parts.map(|part| match part.place {
        Place::Strided { stride, .. } => stride.max(part.len as u64) as usize,
        Place::Listed(_) => part.len,
    });
    bytes.max().unwrap_or(0).next_multiple_of(PAGE)
}

/// Every piece of `size` bytes of every file, in random order, as far as a pass may come.
fn targets(lengths: &[u64], size: usize, seed: u64) -> Vec<(u32, u64)> {
    let pieces = |(file, length): (usize, &u64)| {
        let count = length / size as u64;
        (0..count).map(move |piece| (file as u32, piece * size as u64))
    };
    let mut targets: Vec<_> = lengths.iter().enumerate().flat_map(pieces).collect();
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for i in (1..targets.len()).rev() {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        targets.swap(i, (random % (i as u64 + 1)) as usize);
    }
    targets.truncate((PASS_BYTES / size as u64) as usize);
    targets
}

/// How a pass went.
struct Pass {
    reads: usize,
    /// GB a second.
    rate: f64,
}

/// Reads `targets`, from the start again at their end, with as many threads as `buffers`, until the time is over or
/// `reads` are done.
fn measure(
    reader: &FileReader,
    targets: &[(u32, u64)],
    reads: usize,
    size: usize,
    buffers: &[Mutex<AlignedBuffer>],
) -> anyhow::Result<Pass> {
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let ready = Barrier::new(buffers.len());
    let work = |buffer: &Mutex<AlignedBuffer>| -> io::Result<(Instant, Instant)> {
        let mut buffer = buffer.lock().unwrap_or_else(PoisonError::into_inner);
        ready.wait();
        let start = Instant::now();
        while start.elapsed() < PASS_TIME && !interrupted() {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= reads {
                break;
            }
            let (file, offset) = targets[index % targets.len()];
            reader.read_padded(file, offset, &mut buffer, size).map_err(|cause| {
                let path = reader.describe(file);
                io::Error::new(cause.kind(), format!("{path}: cannot read {size} bytes at offset {offset}: {cause}"))
            })?;
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok((start, Instant::now()))
    };
    // from the first thread's start to the last one's end: this thread may wake after both
    let spans = std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = buffers.iter().map(|buffer| scope.spawn(move || work(buffer))).collect();
        let panicked = |_| io::Error::other("a reading thread panicked");
        threads.into_iter().map(|thread| thread.join().map_err(panicked)?).collect::<io::Result<Vec<_>>>()
    })?;
    let (start, end) = (spans.iter().map(|span| span.0).min(), spans.iter().map(|span| span.1).max());
    let elapsed = end.zip(start).map_or(Duration::ZERO, |(end, start)| end - start);
    if interrupted() {
        return Err(Interrupted.into());
    }
    let reads = done.into_inner();
    Ok(Pass { reads, rate: reads as f64 * size as f64 / elapsed.as_secs_f64() / 1e9 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_every_piece_once() {
        let mut found = targets(&[10 * 4096, 4096 + 1, 100], 4096, 3);
        assert!(!found.is_sorted());
        found.sort_unstable();
        let expected: Vec<_> = (0..10).map(|piece| (0, piece * 4096)).chain([(1, 0)]).collect();
        assert_eq!(found, expected);
    }
}
