//! Which dispatches may run side by side.

/// What a dispatch touches: the number of a buffer, and whether it may write it.
pub(super) type Touch = (u32, bool);

/// The buffers that were read and written since the last barrier.
#[derive(Default)]
pub(super) struct Hazards {
    /// Barriers so far, and one: what was touched then counts.
    now: u64,
    /// When each buffer was last read and last written.
    touched: Vec<(u64, u64)>,
}

impl Hazards {
    /// Whether a dispatch has to wait for those since the last barrier: it touches what one of them writes, or writes what
    /// one of them reads.
    pub(super) fn conflicts(&self, touches: &[Touch]) -> bool {
        touches.iter().any(|&(buffer, writes)| {
            self.touched
                .get(buffer as usize)
                .is_some_and(|&(read, written)| written == self.now || (writes && read == self.now))
        })
    }

    /// A barrier is recorded.
    pub(super) fn barrier(&mut self) {
        self.now += 1;
    }

    /// A dispatch is recorded.
    pub(super) fn touch(&mut self, touches: &[Touch]) {
        for &(buffer, writes) in touches {
            let buffer = buffer as usize;
            if buffer >= self.touched.len() {
                // nothing was touched at the time 0, before the first barrier
                self.touched.resize(buffer + 1, (0, 0));
            }
            let (read, written) = &mut self.touched[buffer];
            *(if writes { written } else { read }) = self.now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many barriers dispatches need, each waiting only if it must.
    fn barriers(dispatches: &[&[Touch]]) -> usize {
        let mut hazards = Hazards::default();
        hazards.barrier();
        let mut count = 0;
        for touches in dispatches {
            if hazards.conflicts(touches) {
                hazards.barrier();
                count += 1;
            }
            hazards.touch(touches);
        }
        count
    }

    const READ: fn(u32) -> Touch = |buffer| (buffer, false);
    const WRITE: fn(u32) -> Touch = |buffer| (buffer, true);

    #[test]
    fn readers_run_side_by_side_and_writers_do_not() {
        assert_eq!(barriers(&[&[READ(0), WRITE(1)], &[READ(0), WRITE(2)], &[READ(0), WRITE(9)]]), 0);
        // read after write, write after read, write after write
        assert_eq!(barriers(&[&[WRITE(1)], &[READ(1)]]), 1);
        assert_eq!(barriers(&[&[READ(1)], &[WRITE(1)]]), 1);
        assert_eq!(barriers(&[&[WRITE(1)], &[WRITE(1)]]), 1);
    }

    #[test]
    fn one_barrier_is_for_all_before_it() {
        let chain: [&[Touch]; 6] = [
            &[READ(0), WRITE(1)],
            &[READ(0), WRITE(2)],
            // waits for both
            &[READ(1), WRITE(3)],
            &[READ(2), WRITE(4)],
            // and for those two
            &[READ(3), READ(4), WRITE(0)],
            // which have nothing to do with this
            &[READ(5), WRITE(1)],
        ];
        assert_eq!(barriers(&chain), 2);
    }

    #[test]
    fn a_buffer_that_is_read_and_written_by_one_dispatch() {
        assert_eq!(barriers(&[&[READ(1), WRITE(1)], &[READ(2), WRITE(3)], &[READ(1)]]), 1);
        assert_eq!(barriers(&[&[READ(1)], &[READ(1), WRITE(1)]]), 1);
    }
}
