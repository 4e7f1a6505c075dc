//! How fast a model works: at most the share of the time that the user grants it, less when the machine is hot, not at
//! all when it is too hot.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flashflood_backends::conditions::{Conditions, Sensors, ThermalState};

/// Where an engine learns the state of the machine: the system's own notices, or a stand-in of a test.
pub(crate) type ConditionsSource = Box<dyn FnMut() -> Conditions + Send>;

/// Time between two looks at the machine: asking takes a fraction of a millisecond, and systems start to swap or to end
/// programs within seconds.
const INTERVAL: Duration = Duration::from_millis(250);

/// Time between two looks while nothing is computed.
const WAIT: Duration = Duration::from_millis(100);

/// Percent of the time that is worked at most on a hot machine.
const HOT_POWER: u32 = 50;

/// Why nothing is computed for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Suspension {
    /// The machine is too hot.
    Thermal,
}

impl fmt::Display for Suspension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Suspension::Thermal => "the machine is too hot",
        })
    }
}

/// What is told while nothing is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Too hot for work: every tenth of a second.
    Suspended(Suspension),
    /// Work goes on after that.
    Resumed,
    /// A tenth of a second of rest went by.
    Resting,
}

/// The pace of an engine and its sessions. Clones are the same pace.
#[derive(Clone)]
pub(crate) struct Pace(Arc<Mutex<Watch>>);

/// The machine as it was when last looked at.
struct Watch {
    source: ConditionsSource,
    interval: Duration,
    looked: Option<Instant>,
    now: Conditions,
    /// The conditions were not yet given to whoever keeps the memory.
    is_new: bool,
    /// Percent of the time to work: 1 to 100.
    power: u32,
}

impl Watch {
    fn look(&mut self) {
        if self.looked.is_none_or(|looked| looked.elapsed() >= self.interval) {
            self.looked = Some(Instant::now());
            self.now = (self.source)();
            self.is_new = true;
        }
    }
}

impl Pace {
    /// Works `power` percent of the time (1 to 100) and watches this machine.
    pub(super) fn new(power: u32) -> Self {
        let mut sensors = Sensors::new();
        let now = sensors.read();
        let source = Box::new(move || sensors.read());
        let looked = Some(Instant::now());
        let watch = Watch { source, interval: INTERVAL, looked, now, is_new: false, power: power.clamp(1, 100) };
        Pace(Arc::new(Mutex::new(watch)))
    }

    /// Takes the state of the machine from `source` from now on, which is asked at every look: tests.
    pub(super) fn watch(&self, source: ConditionsSource) {
        let mut watch = self.lock();
        watch.source = source;
        watch.interval = Duration::ZERO;
        watch.looked = None;
    }

    fn lock(&self) -> MutexGuard<'_, Watch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state of the machine, once after each look.
    pub(super) fn news(&self) -> Option<Conditions> {
        let mut watch = self.lock();
        watch.look();
        std::mem::take(&mut watch.is_new).then_some(watch.now)
    }

    /// Why nothing should be computed now.
    fn suspension(&self) -> Option<Suspension> {
        let mut watch = self.lock();
        watch.look();
        (watch.now.thermal == ThermalState::Critical).then_some(Suspension::Thermal)
    }

    /// The rest that is owed for some work.
    fn rest_after(&self, worked: Duration) -> Duration {
        let watch = self.lock();
        let power = if watch.now.thermal >= ThermalState::Serious { watch.power.min(HOT_POWER) } else { watch.power };
        worked * (100 - power) / power
    }

    /// Between two pieces of work: rests for `worked`, and waits as long as the engine is suspended. `on_wait` is told so
    /// every tenth of a second, and at last that work goes on if it was suspended; it ends the waiting by returning
    /// `false`, which is the answer then.
    pub(crate) fn turn(&self, worked: Duration, mut on_wait: impl FnMut(Wait) -> bool) -> bool {
        let until = Instant::now() + self.rest_after(worked);
        while let Some(rest) = until.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()) {
            std::thread::sleep(rest.min(WAIT));
            if rest > WAIT && !on_wait(Wait::Resting) {
                return false;
            }
        }
        let mut has_waited = false;
        while let Some(why) = self.suspension() {
            if !has_waited {
                tracing::warn!("paused: {why}");
            }
            has_waited = true;
            if !on_wait(Wait::Suspended(why)) {
                return false;
            }
            std::thread::sleep(WAIT);
        }
        if has_waited {
            tracing::info!("work goes on");
        }
        !has_waited || on_wait(Wait::Resumed)
    }
}

#[cfg(test)]
mod tests {
    use flashflood_backends::conditions::MemoryPressure;

    use super::*;

    fn at(power: u32, thermal: ThermalState) -> Pace {
        let pace = Pace::new(power);
        pace.watch(Box::new(move || Conditions { available: 1 << 30, memory: MemoryPressure::Normal, thermal }));
        assert!(pace.news().is_some());
        pace
    }

    #[test]
    fn rests_make_the_share_of_work_what_was_asked_for() {
        let second = Duration::from_secs(1);
        let rest = |power, thermal| at(power, thermal).rest_after(second);
        assert_eq!(rest(100, ThermalState::Nominal), Duration::ZERO);
        assert_eq!(rest(100, ThermalState::Fair), Duration::ZERO);
        assert_eq!(rest(80, ThermalState::Nominal), second / 4);
        assert_eq!(rest(25, ThermalState::Nominal), 3 * second);
        assert_eq!(rest(1, ThermalState::Nominal), 99 * second);
        assert_eq!(rest(0, ThermalState::Nominal), 99 * second);
    }

    #[test]
    fn a_hot_machine_works_half_of_the_time_at_most() {
        let second = Duration::from_secs(1);
        assert_eq!(at(100, ThermalState::Serious).rest_after(second), second);
        assert_eq!(at(25, ThermalState::Serious).rest_after(second), 3 * second);
        assert_eq!(at(100, ThermalState::Critical).rest_after(second), second);
    }

    #[test]
    fn a_rest_is_as_long_as_it_must_be_and_can_be_ended() {
        let pace = at(50, ThermalState::Nominal);
        let start = Instant::now();
        assert!(pace.turn(Duration::from_millis(50), |_| panic!("a short rest is not told")));
        assert!(start.elapsed() >= Duration::from_millis(50));
        let (start, mut told) = (Instant::now(), 0);
        let go_on = pace.turn(Duration::from_secs(1000), |event| {
            assert_eq!(event, Wait::Resting);
            told += 1;
            told < 3
        });
        assert!(!go_on && told == 3 && start.elapsed() < Duration::from_secs(100), "{told}");
    }

    #[test]
    fn an_engine_that_is_too_hot_waits_until_it_is_cooler() {
        let pace = at(100, ThermalState::Nominal);
        let mut looks = 0;
        pace.watch(Box::new(move || {
            looks += 1;
            let thermal = if looks <= 2 { ThermalState::Critical } else { ThermalState::Serious };
            Conditions { available: 1 << 30, memory: MemoryPressure::Normal, thermal }
        }));
        let mut told = Vec::new();
        let go_on = pace.turn(Duration::ZERO, |event| {
            told.push(event);
            true
        });
        assert!(go_on);
        let hot = Wait::Suspended(Suspension::Thermal);
        assert_eq!(told, [hot, hot, Wait::Resumed]);
    }

    #[test]
    fn waiting_can_be_given_up() {
        let pace = at(100, ThermalState::Critical);
        let mut told = Vec::new();
        let go_on = pace.turn(Duration::ZERO, |event| {
            told.push(event);
            false
        });
        assert!(!go_on);
        assert_eq!(told, [Wait::Suspended(Suspension::Thermal)]);
    }
}
