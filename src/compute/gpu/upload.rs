//! Weights on their way into GPU memory. Those of files are read, and not touched where they are mapped; while one piece
//! is given to the device, the next one is read.

use crate::file_error::FileError;
use crate::weights::{is_mapped, read_mapped};

/// Bytes that are read at a time, by one thread while another gives those before to the device: few enough to be found in
/// the processor's cache then. Where all cores are busy, larger ones read by several threads take three times as long.
const PIECE: usize = 4 << 20;
/// Upload at most so much before the staging memory is given back.
const STAGED: usize = 64 << 20;

/// A piece that was read.
struct Read<'a> {
    buffer: &'a wgpu::Buffer,
    at: u64,
    bytes: Vec<u8>,
    len: usize,
}

impl Read<'_> {
    fn write(&self, queue: &wgpu::Queue) {
        queue.write_buffer(self.buffer, self.at, &self.bytes[..self.len]);
    }
}

/// Writes to buffers of a device; [`finish`](Self::finish) writes the last piece.
pub(super) struct Upload<'a> {
    device: &'a wgpu::Device,
    queue: &'a wgpu::Queue,
    staged: usize,
    /// To be written while the next piece is read.
    read: Option<Read<'a>>,
    /// For the next piece.
    spare: Vec<u8>,
}

impl<'a> Upload<'a> {
    pub(super) fn new(device: &'a wgpu::Device, queue: &'a wgpu::Queue) -> Self {
        Upload { device, queue, staged: 0, read: None, spare: Vec::new() }
    }

    /// Writes `bytes`, whole words, to `buffer` from byte `at` on.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(super) fn write(&mut self, buffer: &'a wgpu::Buffer, at: u64, bytes: &[u8]) -> Result<(), FileError> {
        for (i, piece) in bytes.chunks(PIECE).enumerate() {
            let at = at + (i * PIECE) as u64;
            if is_mapped(piece) {
                let (queue, before, mut into) = (self.queue, self.read.take(), std::mem::take(&mut self.spare));
                let write = || before.iter().for_each(|read| read.write(queue));
                let (read, ()) = rayon::join(|| read_mapped(piece, &mut into).map(drop), write);
                read?;
                self.spare = before.map_or_else(Vec::new, |read| read.bytes);
                self.read = Some(Read { buffer, at, bytes: into, len: piece.len() });
            } else {
                self.queue.write_buffer(buffer, at, piece);
            }
            self.staged += piece.len();
            if self.staged >= STAGED {
                self.queue.submit([]);
                // an error here shows again, with a message, at the first step
                let _ = self.device.poll(wgpu::PollType::wait_indefinitely());
                self.staged = 0;
            }
        }
        Ok(())
    }

    /// Writes what was read last.
    pub(super) fn finish(self) {
        self.read.iter().for_each(|read| read.write(self.queue));
    }
}
