//! Linux: pressure stall information, and the thermal zones with their trip points. Files come through a function, so
//! that tests need no machine that is hot.

use std::path::{Path, PathBuf};

use super::{MemoryPressure, ThermalState};
use crate::memory::total_memory;

/// Percent of the last ten seconds in which programs waited for memory, from which on it is pressure.
const STALLED: f64 = 10.0;

/// Stalls count only when less than this share of the memory is free. Reads of experts through the page cache stall as
/// well, on a machine that has all the memory it needs.
const SCARCE: u64 = 16;

/// Thousandths of a degree below a zone's critical point, where the machine turns itself off: serious, critical.
/// Closer than it looks: processors of laptops run at 95 degrees by design, with this point at 100 or 105.
const BELOW_CRITICAL: [i64; 2] = [5_000, 2_000];

/// No point below this is meant as one, in thousandths of a degree: firmware writes 0 and worse.
const LEAST_TRIP: i64 = 45_000;

type Read<'a> = &'a dyn Fn(&Path) -> Option<String>;

pub(super) struct Sensors {
    zones: Vec<Zone>,
    total: u64,
}

/// A thermometer with the points where it gets serious and critical, in thousandths of a degree.
#[derive(Debug, PartialEq, Eq)]
struct Zone {
    temperature: PathBuf,
    fair: Option<i64>,
    serious: Option<i64>,
    critical: Option<i64>,
}

fn read_file(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

impl Sensors {
    pub(super) fn new() -> Self {
        let folder = std::fs::read_dir("/sys/class/thermal").into_iter().flatten().flatten();
        let zones = folder.map(|entry| entry.path()).filter_map(|path| Zone::open(&path, &read_file));
        Sensors { zones: zones.collect(), total: total_memory() }
    }

    pub(super) fn memory(&self, available: u64) -> MemoryPressure {
        let stalls = read_file(Path::new("/proc/pressure/memory"));
        stalls.map_or(MemoryPressure::Normal, |stalls| pressure_of(&stalls, available, self.total))
    }

    pub(super) fn thermal(&self) -> ThermalState {
        self.zones.iter().map(|zone| zone.state(&read_file)).max().unwrap_or_default()
    }
}

/// Reads the lines `some avg10=1.00 avg60=...` (some program waits) and `full avg10=...` (all do).
fn pressure_of(stalls: &str, available: u64, total: u64) -> MemoryPressure {
    if available >= total / SCARCE {
        return MemoryPressure::Normal;
    }
    let average = |kind: &str| {
        let line = stalls.lines().find_map(|line| line.strip_prefix(kind))?;
        let field = line.split_whitespace().find_map(|field| field.strip_prefix("avg10="))?;
        field.parse::<f64>().ok()
    };
    if average("full ").is_some_and(|percent| percent >= STALLED) {
        MemoryPressure::Critical
    } else if average("some ").is_some_and(|percent| percent >= STALLED) {
        MemoryPressure::Warning
    } else {
        MemoryPressure::Normal
    }
}

impl Zone {
    /// The zone in `folder`, when it is one and has points to compare with.
    fn open(folder: &Path, read: Read<'_>) -> Option<Zone> {
        let temperature = folder.join("temp");
        read(&temperature)?;
        let mut zone = Zone { temperature, fair: None, serious: None, critical: None };
        for index in 0.. {
            let Some(kind) = read(&folder.join(format!("trip_point_{index}_type"))) else { break };
            let at = read(&folder.join(format!("trip_point_{index}_temp"))).and_then(|at| at.trim().parse().ok());
            let Some(at) = at.filter(|at| *at >= LEAST_TRIP) else { continue };
            let lower = |point: Option<i64>, at| Some(point.map_or(at, |point: i64| point.min(at)));
            match kind.trim() {
                "passive" => zone.fair = lower(zone.fair, at),
                "hot" => zone.serious = lower(zone.serious, at),
                "critical" => {
                    let [serious, critical] = BELOW_CRITICAL.map(|below| at - below);
                    zone.serious = lower(zone.serious, serious);
                    zone.critical = lower(zone.critical, critical);
                }
                // those of fans
                _ => {}
            }
        }
        (zone.fair.or(zone.serious).is_some()).then_some(zone)
    }

    fn state(&self, read: Read<'_>) -> ThermalState {
        let Some(now) = read(&self.temperature).and_then(|text| text.trim().parse::<i64>().ok()) else {
            return ThermalState::Nominal;
        };
        let reached = |point: Option<i64>| point.is_some_and(|point| now >= point);
        if reached(self.critical) {
            ThermalState::Critical
        } else if reached(self.serious) {
            ThermalState::Serious
        } else if reached(self.fair) {
            ThermalState::Fair
        } else {
            ThermalState::Nominal
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const GB: u64 = 1_000_000_000;

    fn stalls(some: f64, full: f64) -> String {
        format!(
            "some avg10={some:.2} avg60=0.00 avg300=0.00 total=8\nfull avg10={full:.2} avg60=99.00 avg300=9 total=4\n"
        )
    }

    #[test]
    fn stalls_are_pressure_when_memory_is_scarce() {
        let of = |some, full, available| pressure_of(&stalls(some, full), available, 32 * GB);
        assert_eq!(of(0.0, 0.0, GB), MemoryPressure::Normal);
        assert_eq!(of(9.99, 3.0, GB), MemoryPressure::Normal);
        assert_eq!(of(10.0, 3.0, GB), MemoryPressure::Warning);
        assert_eq!(of(60.0, 10.0, GB), MemoryPressure::Critical);
        // streaming through the page cache, with plenty of it
        assert_eq!(of(60.0, 50.0, 2 * GB), MemoryPressure::Normal);
    }

    #[test]
    fn what_cannot_be_read_is_no_pressure() {
        for text in ["", "some", "full avg10=x", "some avg60=99.0", "full avg10=99\0"] {
            assert_eq!(pressure_of(text, 0, GB), MemoryPressure::Normal, "{text:?}");
        }
    }

    fn zone_of(files: &[(&str, &str)]) -> Option<Zone> {
        Zone::open(Path::new("/z"), &|path| {
            let (_, text) = files.iter().find(|(name, _)| Path::new("/z").join(name) == path)?;
            Some((*text).to_owned())
        })
    }

    fn state_at(zone: &Zone, thousandths: &str) -> ThermalState {
        zone.state(&|path| (path == Path::new("/z/temp")).then(|| thousandths.to_owned()))
    }

    #[test]
    fn a_zone_gets_serious_before_the_machine_turns_itself_off() {
        let zone = zone_of(&[
            ("temp", "40000\n"),
            ("trip_point_0_type", "critical\n"),
            ("trip_point_0_temp", "105000\n"),
            ("trip_point_1_type", "passive\n"),
            ("trip_point_1_temp", "95000\n"),
            ("trip_point_2_type", "active\n"),
            ("trip_point_2_temp", "50000\n"),
        ])
        .unwrap();
        let expected = [
            ("60000\n", ThermalState::Nominal),
            ("95000", ThermalState::Fair),
            ("100000", ThermalState::Serious),
            ("103000", ThermalState::Critical),
            ("-1", ThermalState::Nominal),
            ("", ThermalState::Nominal),
        ];
        for (thousandths, state) in expected {
            assert_eq!(state_at(&zone, thousandths), state, "{thousandths}");
        }
    }

    #[test]
    fn a_hot_point_is_serious_wherever_it_is() {
        let zone = zone_of(&[
            ("temp", "40000"),
            ("trip_point_0_type", "hot"),
            ("trip_point_0_temp", "70000"),
            ("trip_point_1_type", "critical"),
            ("trip_point_1_temp", "110000"),
        ])
        .unwrap();
        assert_eq!(state_at(&zone, "69999"), ThermalState::Nominal);
        assert_eq!(state_at(&zone, "70000"), ThermalState::Serious);
        assert_eq!(state_at(&zone, "107999"), ThermalState::Serious);
        assert_eq!(state_at(&zone, "108000"), ThermalState::Critical);
    }

    #[test]
    fn zones_without_meaning_are_left_out() {
        assert_eq!(zone_of(&[("temp", "50000")]), None, "no points");
        assert_eq!(zone_of(&[("trip_point_0_type", "hot"), ("trip_point_0_temp", "70000")]), None, "a fan");
        let nonsense = [("temp", "50000"), ("trip_point_0_type", "critical"), ("trip_point_0_temp", "-274000")];
        assert_eq!(zone_of(&nonsense), None, "a point below zero");
    }
}
