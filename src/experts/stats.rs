//! The counters of the expert store and the line that `run --stats` prints.

use std::fmt;
use std::time::Duration;

/// What the expert store did since it was made or since its counters were reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Experts asked for that were in a slot or already on the way there.
    pub hits: u64,
    /// Experts asked for that had to be read.
    pub misses: u64,
    /// Experts that lost their slot: to another one, or to a lower limit.
    pub evictions: u64,
    /// Experts read before they were asked for.
    pub ahead: u64,
    /// Those of them that were then asked for.
    pub ahead_used: u64,
    /// Bytes of the reads that came back, failed ones left out.
    pub bytes_read: u64,
    /// Time inside reads, summed over the threads.
    pub read_time: Duration,
    /// Time on the clock during which at least one read was under way.
    pub busy_time: Duration,
    /// Time that callers waited for reads.
    pub stall_time: Duration,
}

impl StoreStats {
    /// Hits among all experts asked for, 0 to 1; 0 when none was.
    pub fn hit_rate(&self) -> f64 {
        let asked = self.hits + self.misses;
        if asked == 0 { 0.0 } else { self.hits as f64 / asked as f64 }
    }

    /// Bytes a second while the disk was busy; 0 when nothing was read.
    pub fn read_rate(&self) -> f64 {
        let seconds = self.busy_time.as_secs_f64();
        if seconds == 0.0 { 0.0 } else { self.bytes_read as f64 / seconds }
    }
}

impl fmt::Display for StoreStats {
    /// `experts: 71.2 % hit (4,310 of 6,053), 1.93 GB read at 2.1 GB/s, stalled 0.42 s`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let asked = self.hits + self.misses;
        write!(f, "experts: {:.1} % hit ({} of {})", 100.0 * self.hit_rate(), grouped(self.hits), grouped(asked))?;
        write!(f, ", {} read", decimal_bytes(self.bytes_read as f64, 2))?;
        if self.read_rate() > 0.0 {
            write!(f, " at {}/s", decimal_bytes(self.read_rate(), 1))?;
        }
        write!(f, ", stalled {:.2} s", self.stall_time.as_secs_f64())
    }
}

/// 1234567 as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes in the unit that leaves one to three digits before the point.
fn decimal_bytes(bytes: f64, places: usize) -> String {
    for (unit, name) in [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")] {
        if bytes >= unit {
            return format!("{:.places$} {name}", bytes / unit);
        }
    }
    format!("{bytes:.0} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_for_people() {
        let stats = StoreStats {
            hits: 4310,
            misses: 1743,
            bytes_read: 1_930_000_000,
            busy_time: Duration::from_millis(919),
            stall_time: Duration::from_millis(420),
            ..StoreStats::default()
        };
        let line = "experts: 71.2 % hit (4,310 of 6,053), 1.93 GB read at 2.1 GB/s, stalled 0.42 s";
        assert_eq!(stats.to_string(), line);
        let none = "experts: 0.0 % hit (0 of 0), 0 B read, stalled 0.00 s";
        assert_eq!(StoreStats::default().to_string(), none);
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(12), "12");
    }
}
