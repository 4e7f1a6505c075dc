//! A reader of experts that fails when a test wants it to.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flashflood_backends::io::ShortRead;

use crate::experts::ExpertReader;

/// What [`FaultyReader`] does to a read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// Ends after this many bytes.
    ShortRead(usize),
    /// Fails as a dying disk does.
    InputOutput,
    /// Reads rightly, but this much later.
    Stall(Duration),
    /// Flips the bits of the byte at this index of the read.
    Corrupt(usize),
    /// Panics on the reading thread.
    Panic,
}

/// A reader that fails on purpose: for the tests of everything that reads experts.
pub(crate) struct FaultyReader {
    inner: Arc<dyn ExpertReader>,
    reads: AtomicU64,
    fault: Box<dyn Fn(u64) -> Option<Fault> + Send + Sync>,
}

impl FaultyReader {
    /// Reads from `inner`, and asks `fault` what to do to the read with this index; reads count from 0 in the order
    /// in which they start.
    pub(crate) fn new(
        inner: Arc<dyn ExpertReader>,
        fault: impl Fn(u64) -> Option<Fault> + Send + Sync + 'static,
    ) -> Self {
        FaultyReader { inner, reads: AtomicU64::new(0), fault: Box::new(fault) }
    }

    /// Reads that started so far.
    pub(crate) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }
}

impl ExpertReader for FaultyReader {
    fn read(&self, file: u32, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let index = self.reads.fetch_add(1, Ordering::Relaxed);
        match (self.fault)(index) {
            Some(Fault::ShortRead(bytes)) => {
                let found = bytes.min(buf.len());
                self.inner.read(file, offset, &mut buf[..found])?;
                Err(ShortRead { expected: buf.len(), found }.into())
            }
            Some(Fault::InputOutput) => Err(io::Error::other("input/output error (injected)")),
            Some(Fault::Panic) => panic!("injected panic"),
            Some(Fault::Stall(time)) => {
                std::thread::sleep(time);
                self.inner.read(file, offset, buf)
            }
            Some(Fault::Corrupt(byte)) => {
                self.inner.read(file, offset, buf)?;
                if let Some(byte) = buf.get_mut(byte) {
                    *byte = !*byte;
                }
                Ok(())
            }
            None => self.inner.read(file, offset, buf),
        }
    }

    fn describe(&self, file: u32) -> String {
        self.inner.describe(file)
    }
}
