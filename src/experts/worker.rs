//! The threads that read experts: each takes a job, fills a slot, checks what came, and reports.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvError, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use flashflood_backends::io::ShortRead;
use xxhash_rust::xxh3::xxh3_64;

use super::error::StoreError;
use super::reader::{ExpertReader, SliceRead};
use super::slots::SlotMemory;
use crate::weights::{ExpertLayout, MatrixPlace, Slice, WeightFormat, zeros_from};

/// An expert to read into a slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    pub(super) slot: usize,
    pub(super) layer: usize,
    pub(super) expert: u32,
}

/// A job that ended, well or not.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) slot: usize,
    pub(super) result: Result<(), StoreError>,
    pub(super) read: ReadCount,
    pub(super) finished: Instant,
}

/// What the reads of a job took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ReadCount {
    pub(super) bytes: u64,
    pub(super) time: Duration,
}

/// What the threads read with.
struct Shared {
    layout: Arc<ExpertLayout>,
    memory: Arc<dyn SlotMemory>,
    reader: Arc<dyn ExpertReader>,
    stopping: AtomicBool,
    /// By layer and expert: whether it was found to be whole.
    seen: Vec<Vec<AtomicBool>>,
    /// Jobs that were queued before the last of so many times that they were called off are not done.
    called_off: AtomicU64,
}

/// The reading threads and the two channels to them. Dropping it ends them after the read each is in.
pub(super) struct Workers {
    shared: Arc<Shared>,
    jobs: Option<Sender<(u64, Job)>>,
    done: Receiver<Done>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    pub(super) fn start(
        layout: Arc<ExpertLayout>,
        memory: Arc<dyn SlotMemory>,
        reader: Arc<dyn ExpertReader>,
        threads: usize,
    ) -> Result<Self, StoreError> {
        let of_layer = |experts: usize| (0..experts).map(|_| AtomicBool::new(false)).collect();
        let seen = layout.layers.iter().map(|layer| of_layer(layer.experts)).collect();
        let shared = Arc::new(Shared {
            layout,
            memory,
            reader,
            stopping: AtomicBool::new(false),
            called_off: AtomicU64::new(0),
            seen,
        });
        let (jobs, queue) = channel();
        let (report, done) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let mut workers = Workers { shared, jobs: Some(jobs), done, threads: Vec::new() };
        for index in 0..threads.max(1) {
            let (shared, queue, report) = (workers.shared.clone(), queue.clone(), report.clone());
            let thread = std::thread::Builder::new()
                .name(format!("expert-read-{index}"))
                .spawn(move || work(&shared, &queue, &report))
                .map_err(|cause| StoreError::Threads { cause })?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// Queues a job; false when no thread is left to take it.
    pub(super) fn send(&self, job: Job) -> bool {
        let queued = (self.shared.called_off.load(Ordering::Relaxed), job);
        self.jobs.as_ref().is_some_and(|jobs| jobs.send(queued).is_ok())
    }

    /// Lets no job begin that is queued now: each ends with an error.
    pub(super) fn call_off(&self) {
        self.shared.called_off.fetch_add(1, Ordering::Relaxed);
    }

    /// A job that ended, if one has.
    pub(super) fn poll(&self) -> Option<Done> {
        self.done.try_recv().ok()
    }

    /// Blocks until a job ends; an error when no thread is left.
    pub(super) fn next(&self) -> Result<Done, RecvError> {
        self.done.recv()
    }

    /// Blocks until a job ends, but not longer than `patience`: `None` then.
    pub(super) fn next_within(&self, patience: Duration) -> Option<Result<Done, RecvError>> {
        match self.done.recv_timeout(patience) {
            Ok(done) => Some(Ok(done)),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Err(RecvError)),
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.jobs = None;
        self.shared.memory.close();
        for thread in self.threads.drain(..) {
            // a panic was reported as a failed job already
            let _ = thread.join();
        }
    }
}

fn work(shared: &Shared, queue: &Mutex<Receiver<(u64, Job)>>, report: &Sender<Done>) {
    let mut scratch = Vec::new();
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((queued, job)) = job else { return };
        if shared.stopping.load(Ordering::Relaxed) {
            return;
        }
        let mut read = ReadCount::default();
        // without this, a panic would leave the caller waiting for a report that never comes
        let outcome = match queued == shared.called_off.load(Ordering::Relaxed) {
            true => catch_unwind(AssertUnwindSafe(|| {
                shared.memory.fill(job.slot, &mut |bytes| shared.read_expert(job, bytes, &mut scratch, &mut read))
            })),
            false => Ok(Err(StoreError::CalledOff { layer: job.layer, expert: job.expert })),
        };
        let result = outcome.unwrap_or_else(|panic| {
            let message = panic_message(panic.as_ref());
            Err(StoreError::WorkerPanicked { layer: job.layer, expert: job.expert, message })
        });
        let done = Done { slot: job.slot, result, read, finished: Instant::now() };
        if report.send(done).is_err() {
            return;
        }
    }
}

/// Each slice's place in `bytes`, in the slices' order.
fn cut<'a>(bytes: &'a mut [u8], slices: &[Slice]) -> Vec<SliceRead<'a>> {
    // a record that is the whole slot may be read with the rest of its last block
    let is_whole = slices.len() == 1;
    let mut by_place: Vec<usize> = (0..slices.len()).collect();
    by_place.sort_unstable_by_key(|i| slices[*i].3);
    let (mut rest, mut from) = (bytes, 0);
    let mut reads: Vec<(usize, SliceRead<'a>)> = Vec::with_capacity(slices.len());
    for i in by_place {
        let (file, offset, len, at) = slices[i];
        let (_, behind) = std::mem::take(&mut rest).split_at_mut(at - from);
        let (into, behind) = behind.split_at_mut(if is_whole { behind.len() } else { len });
        (rest, from) = (behind, at + into.len());
        reads.push((i, SliceRead { file, offset, into, len }));
    }
    reads.sort_unstable_by_key(|(i, _)| *i);
    reads.into_iter().map(|(_, read)| read).collect()
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}

impl Shared {
    /// Reads every slice of an expert into its place and checks it.
    fn read_expert(
        &self,
        job: Job,
        bytes: &mut [u8],
        scratch: &mut Vec<u8>,
        read: &mut ReadCount,
    ) -> Result<(), StoreError> {
        let at = (job.layer, job.expert as usize);
        let slices: Vec<_> = self.layout.slices(at.0, at.1).collect();
        self.read_slices(job, cut(bytes, &slices), read)?;
        self.layout.read_rewritten(at, bytes, scratch, &mut |slices, scratch| {
            self.read_slices(job, cut(scratch, slices), read)
        })?;
        let checksums = &self.layout.layers[job.layer].checksums;
        if let Some(checksums) = checksums {
            self.check_record(job, bytes, checksums[job.expert as usize])?;
        }
        // what a file holds is looked at once: it touches every scale, and the file does not change
        let was_seen = &self.seen[job.layer][job.expert as usize];
        if !was_seen.load(Ordering::Relaxed) {
            if checksums.is_none() {
                self.check_finite(job, bytes)?;
            }
            self.check_zeros(job, bytes)?;
            was_seen.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Reads slices of an expert, at once where that is faster.
    fn read_slices(&self, job: Job, reads: Vec<SliceRead<'_>>, read: &mut ReadCount) -> Result<(), StoreError> {
        let whole: Vec<_> = reads.iter().map(|read| (read.file, read.offset, read.len)).collect();
        let start = Instant::now();
        let outcome = self.reader.read_all(reads);
        read.time += start.elapsed();
        match outcome {
            Ok(()) => read.bytes += whole.iter().map(|(.., len)| *len as u64).sum::<u64>(),
            Err((i, cause)) => {
                let (file, offset, len) = whole[i];
                return Err(self.read_error(job, file, offset, len, cause));
            }
        }
        Ok(())
    }

    fn read_error(&self, job: Job, file: u32, offset: u64, expected: usize, cause: std::io::Error) -> StoreError {
        let Job { layer, expert, .. } = job;
        let path = self.reader.describe(file);
        match cause.get_ref().and_then(|inner| inner.downcast_ref::<ShortRead>()) {
            Some(short) => StoreError::ShortRead { path, layer, expert, offset, expected, found: short.found },
            None => StoreError::Read { path, layer, expert, offset, expected, cause },
        }
    }

    fn check_record(&self, job: Job, bytes: &[u8], expected: u64) -> Result<(), StoreError> {
        let Job { layer, expert, .. } = job;
        let Some((file, _, len, at)) = self.layout.slices(layer, expert as usize).next() else { return Ok(()) };
        let found = xxh3_64(&bytes[at..at + len]);
        if found == expected {
            return Ok(());
        }
        Err(StoreError::Checksum { path: self.reader.describe(file), layer, expert, expected, found })
    }

    /// Room that was kept for a download is full of zeros.
    fn check_zeros(&self, job: Job, bytes: &[u8]) -> Result<(), StoreError> {
        let Job { layer, expert, .. } = job;
        for (matrix, place) in self.matrices(layer) {
            let Some(row) = zeros_from(&place.rows_in(bytes), 0..place.rows) else { continue };
            let byte = place.streams[0] + row * place.format.stream_bytes(place.cols)[0];
            return Err(StoreError::Zeros { path: self.file_of(job, byte), layer, expert, matrix });
        }
        Ok(())
    }

    /// A snapshot carries no checksum; one NaN among its scales would silence every later token.
    fn check_finite(&self, job: Job, bytes: &[u8]) -> Result<(), StoreError> {
        let Job { layer, expert, .. } = job;
        for (matrix, place) in self.matrices(layer) {
            // what is dense is gigabytes that were never looked at, and shows in the logits
            if let WeightFormat::Dense(_) = place.format {
                continue;
            }
            let Some(bad) = place.rows_in(bytes).first_not_finite() else { continue };
            let stream = place.format.stream_names()[bad.stream];
            let path = self.file_of(job, place.streams[bad.stream] + bad.byte);
            return Err(StoreError::NotFinite { path, layer, expert, matrix, stream, row: bad.row, group: bad.index });
        }
        Ok(())
    }

    /// The matrices of an expert, as a checkpoint calls them.
    fn matrices(&self, layer: usize) -> impl Iterator<Item = (&'static str, MatrixPlace)> {
        let slot = &self.layout.layers[layer].slot;
        ["gate_proj", "up_proj", "down_proj"].into_iter().zip([slot.gate, slot.up, slot.down])
    }

    /// The name of the file that a byte of an expert's slot came from.
    fn file_of(&self, Job { layer, expert, .. }: Job, byte: usize) -> String {
        let mut slices = self.layout.slices(layer, expert as usize);
        let holder = slices.find(|&(_, _, len, at)| (at..at + len).contains(&byte)).map(|(file, ..)| file);
        // what is in no slice was rewritten
        let holder = holder.or_else(|| self.layout.files_of(layer, expert as usize).last());
        holder.map(|file| self.reader.describe(file)).unwrap_or_default()
    }
}
