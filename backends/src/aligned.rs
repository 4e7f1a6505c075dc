//! Memory that direct reads and devices can write into: it starts at a page and ends at one.

use std::alloc::{Layout, alloc_zeroed};
use std::ops::{Deref, DerefMut};

/// Start and length of an [`AlignedBuffer`] are multiples of this: the page of the machine, or the largest block that
/// disks ask for.
pub const PAGE: usize = if cfg!(target_vendor = "apple") { 16384 } else { 4096 };

/// Zeroed bytes in whole pages, which take memory when they are first written.
pub struct AlignedBuffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// At least `len` bytes, rounded up to whole pages; `None` when there is no memory for them.
    pub fn new(len: usize) -> Option<AlignedBuffer> {
        let len = len.checked_next_multiple_of(PAGE)?;
        // A layout with the page's alignment would be written with zeros by std at once; one page more, asked for
        // without alignment, comes zeroed from the system and is not touched.
        let bytes = zeroed(len.checked_add(PAGE)?)?;
        let start = bytes.as_ptr().addr().next_multiple_of(PAGE) - bytes.as_ptr().addr();
        Some(AlignedBuffer { bytes, start, len })
    }

    /// A buffer without a byte, which takes no memory.
    pub const fn empty() -> AlignedBuffer {
        AlignedBuffer { bytes: Vec::new(), start: 0, len: 0 }
    }
}

/// A vector of zeros, or `None` where `vec![0; len]` would end the program.
fn zeroed(len: usize) -> Option<Vec<u8>> {
    let layout = Layout::array::<u8>(len).ok().filter(|layout| layout.size() > 0)?;
    // SAFETY: the layout is not of size zero.
    let start = unsafe { alloc_zeroed(layout) };
    if start.is_null() {
        crate::forget_refused();
        return None;
    }
    // SAFETY: `start` comes from the global allocator with the layout of `len` bytes, which is what a vector of that
    // capacity gives back, and zeroed bytes are initialised bytes.
    Some(unsafe { Vec::from_raw_parts(start, len, len) })
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

impl std::fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuffer of {} bytes", self.len)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn whole_zeroed_pages() {
        for len in [1, PAGE - 1, PAGE, PAGE + 1, 3 << 20] {
            let mut buffer = AlignedBuffer::new(len).unwrap();
            assert_eq!(buffer.as_ptr().addr() % PAGE, 0);
            assert_eq!(buffer.len(), len.next_multiple_of(PAGE));
            assert!(buffer.iter().all(|&byte| byte == 0));
            buffer.fill(7);
            let moved = Box::new(buffer);
            assert_eq!(moved.as_ptr().addr() % PAGE, 0);
            assert!(moved.iter().all(|&byte| byte == 7));
        }
        assert!(AlignedBuffer::empty().is_empty());
    }

    #[test]
    fn no_memory_is_none() {
        assert!(AlignedBuffer::new(usize::MAX).is_none());
        assert!(AlignedBuffer::new(isize::MAX as usize - 2 * PAGE).is_none());
    }
}
