//! What the system asks of a program that uses much of the machine: less memory, less heat. The engine looks between
//! tokens and obeys.
//!
//! | system | memory pressure | heat |
//! | --- | --- | --- |
//! | macOS, iOS | libdispatch's memory pressure events | `NSProcessInfo.thermalState` |
//! | Linux, Android | `/proc/pressure/memory` | `/sys/class/thermal`, by the trip points of its zones |
//! | Windows | the low memory notification | not told: [`ThermalState::Nominal`] |

#[cfg(target_vendor = "apple")]
#[path = "conditions/apple.rs"]
mod system;
#[cfg(any(target_os = "linux", target_os = "android"))]
#[path = "conditions/linux.rs"]
mod system;
#[cfg(windows)]
#[path = "conditions/windows.rs"]
mod system;

use std::time::{Duration, Instant};

use crate::memory::available_memory;

/// How much the system needs memory back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemoryPressure {
    /// It has enough, or does not say.
    #[default]
    Normal,
    /// It has begun to compress, swap or stall: caches should shrink.
    Warning,
    /// It will end programs next: all that can be given back should be.
    Critical,
}

/// How hot the machine is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ThermalState {
    /// Cool enough, or not told.
    #[default]
    Nominal,
    /// Warm: the system has begun to slow the machine down by itself.
    Fair,
    /// Hot: programs should do less.
    Serious,
    /// Too hot: programs should do nothing that can wait.
    Critical,
}

/// The state of the machine at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// Bytes that can be allocated without swapping: [`available_memory`].
    pub available: u64,
    /// What the system says of its memory.
    pub memory: MemoryPressure,
    /// What the system says of its heat.
    pub thermal: ThermalState,
}

/// Reads [`Conditions`]. One is made when a model is opened; reading takes a fraction of a millisecond.
pub struct Sensors {
    system: system::Sensors,
    thermal: ThermalState,
    /// When the heat was read last.
    felt: Option<Instant>,
}

/// Time between two readings of the heat, which changes slowly: some firmware takes milliseconds for one.
const HEAT_INTERVAL: Duration = Duration::from_secs(1);

impl Sensors {
    /// Opens what the system has; what it does not have reads as if all were well.
    pub fn new() -> Self {
        Sensors { system: system::Sensors::new(), thermal: ThermalState::Nominal, felt: None }
    }

    /// The state of the machine now.
    pub fn read(&mut self) -> Conditions {
        if self.felt.is_none_or(|felt| felt.elapsed() >= HEAT_INTERVAL) {
            self.felt = Some(Instant::now());
            self.thermal = self.system.thermal();
        }
        let available = available_memory();
        Conditions { available, memory: self.system.memory(available), thermal: self.thermal }
    }
}

impl Default for Sensors {
    fn default() -> Self {
        Self::new()
    }
}

/// Systems without such notices.
#[cfg(not(any(target_vendor = "apple", target_os = "linux", target_os = "android", windows)))]
mod system {
    use super::{MemoryPressure, ThermalState};

    pub(super) struct Sensors;

    impl Sensors {
        pub(super) fn new() -> Self {
            Sensors
        }

        pub(super) fn memory(&self, _available: u64) -> MemoryPressure {
            MemoryPressure::Normal
        }

        pub(super) fn thermal(&self) -> ThermalState {
            ThermalState::Nominal
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_read_again_and_again() {
        let mut sensors = Sensors::new();
        let first = sensors.read();
        assert!(first.available > 0);
        let start = Instant::now();
        for _ in 0..20 {
            // the heat comes from the last reading
            assert_eq!(sensors.read().thermal, first.thermal);
            if start.elapsed() > HEAT_INTERVAL / 2 {
                break;
            }
        }
    }

    #[test]
    fn worse_is_greater() {
        assert!(MemoryPressure::Normal < MemoryPressure::Warning && MemoryPressure::Warning < MemoryPressure::Critical);
        assert!(ThermalState::Nominal < ThermalState::Fair && ThermalState::Fair < ThermalState::Serious);
        assert!(ThermalState::Serious < ThermalState::Critical);
    }
}
