//! Which dispatches may run side by side.

use std::ops::Range;

/// What a dispatch touches.
#[derive(Clone, Debug)]
pub(super) struct Touch {
    /// The number of the buffer.
    pub(super) buffer: u32,
    /// The part of it, in whatever unit.
    pub(super) columns: Range<u32>,
    /// Whether it may write there.
    pub(super) writes: bool,
}

/// When columns of a buffer were last read and last written.
struct Touched {
    columns: Range<u32>,
    read: u64,
    written: u64,
}

/// What was read and written since the last barrier.
#[derive(Default)]
pub(super) struct Hazards {
    /// Barriers so far, and one: what was touched then counts.
    now: u64,
    /// Of each buffer.
    touched: Vec<Vec<Touched>>,
    /// Buffers that are written by the last dispatch that is not beside others, and by those beside it.
    series: Vec<u32>,
}

impl Hazards {
    /// Whether a dispatch has to wait for those since the last barrier: it touches what one of them writes, or writes what
    /// one of them reads. One that is `beside` those before it does not wait for what they write as it does.
    pub(super) fn conflicts(&self, touches: &[Touch], beside: bool) -> bool {
        let is_shared = |touch: &Touch| beside && touch.writes && self.series.contains(&touch.buffer);
        touches.iter().filter(|touch| !is_shared(touch)).any(|touch| {
            let of_buffer = self.touched.get(touch.buffer as usize).map_or(&[][..], Vec::as_slice);
            let overlap = |of: &&Touched| of.columns.start < touch.columns.end && touch.columns.start < of.columns.end;
            of_buffer.iter().filter(overlap).any(|of| of.written == self.now || (touch.writes && of.read == self.now))
        })
    }

    /// A barrier is recorded.
    pub(super) fn barrier(&mut self) {
        self.now += 1;
    }

    /// A dispatch is recorded, `beside` those before it or not.
    pub(super) fn touch(&mut self, touches: &[Touch], beside: bool) {
        if !beside {
            self.series.clear();
        }
        self.series.extend(touches.iter().filter(|touch| touch.writes).map(|touch| touch.buffer));
        for Touch { buffer, columns, writes } in touches {
            let buffer = *buffer as usize;
            if buffer >= self.touched.len() {
                self.touched.resize_with(buffer + 1, Vec::new);
            }
            let of_buffer = &mut self.touched[buffer];
            let known = of_buffer.iter().position(|of| of.columns == *columns);
            let known = known.unwrap_or_else(|| {
                // what was touched before the last barrier does not count any more
                of_buffer.retain(|of| of.read == self.now || of.written == self.now);
                of_buffer.push(Touched { columns: columns.clone(), read: 0, written: 0 });
                of_buffer.len() - 1
            });
            // nothing was touched at the time 0, before the first barrier
            let Touched { read, written, .. } = &mut of_buffer[known];
            *(if *writes { written } else { read }) = self.now;
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
            if hazards.conflicts(touches, false) {
                hazards.barrier();
                count += 1;
            }
            hazards.touch(touches, false);
        }
        count
    }

    const READ: fn(u32) -> Touch = |buffer| Touch { buffer, columns: 0..u32::MAX, writes: false };
    const WRITE: fn(u32) -> Touch = |buffer| Touch { buffer, columns: 0..u32::MAX, writes: true };
    const OF_ONE: fn(Range<u32>, bool) -> Touch = |columns, writes| Touch { buffer: 1, columns, writes };

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

    #[test]
    fn writers_of_other_columns_run_side_by_side() {
        assert_eq!(barriers(&[&[OF_ONE(0..4, true)], &[OF_ONE(4..8, true)], &[OF_ONE(8..9, false)]]), 0);
        assert_eq!(barriers(&[&[OF_ONE(0..4, true)], &[OF_ONE(3..8, true)]]), 1);
        assert_eq!(barriers(&[&[OF_ONE(0..4, true)], &[OF_ONE(2..3, false)]]), 1);
        // all of it is any of it, and what was touched before a barrier is forgotten
        assert_eq!(barriers(&[&[OF_ONE(0..4, true)], &[OF_ONE(4..8, true)], &[READ(1)], &[OF_ONE(4..8, false)]]), 1);
        assert_eq!(barriers(&[&[READ(1)], &[OF_ONE(4..8, true)], &[OF_ONE(0..4, true)], &[OF_ONE(0..9, false)]]), 2);
    }

    /// The first of them has waited for all. What another reads, or writes alone, is nothing that it knows of.
    #[test]
    fn those_beside_each_other_share_what_they_write() {
        let mut hazards = Hazards::default();
        hazards.barrier();
        hazards.touch(&[READ(0), WRITE(1)], false);
        assert!(hazards.conflicts(&[READ(0), WRITE(1)], false));
        assert!(!hazards.conflicts(&[READ(0), WRITE(1)], true));
        assert!(!hazards.conflicts(&[READ(2), WRITE(1)], true));
        assert!(hazards.conflicts(&[READ(1), WRITE(3)], true), "it reads what the one before writes");
        assert!(hazards.conflicts(&[WRITE(0), WRITE(1)], true), "it writes what the one before reads");
        // a window of its own, besides what all write
        hazards.touch(&[WRITE(4), WRITE(1)], true);
        assert!(!hazards.conflicts(&[WRITE(4), WRITE(5), WRITE(1)], true));
        // another one in between is beside nobody
        hazards.touch(&[READ(9), WRITE(2)], false);
        assert!(hazards.conflicts(&[WRITE(1)], true));
    }
}
