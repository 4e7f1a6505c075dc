//! How fast a model works: at most the share of the time that the user grants it, less when the machine is hot, not at
//! all when it is too hot.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flashflood_backends::conditions::{Conditions, Sensors, ThermalState};

/// Where an engine learns the state of the machine: the system's own notices, or a stand-in of a test.
pub type ConditionsSource = Box<dyn FnMut() -> Conditions + Send>;

/// Time between two looks at the machine: asking takes a fraction of a millisecond, and systems start to swap or to end
/// programs within seconds.
const INTERVAL: Duration = Duration::from_millis(250);

/// Time between two looks while nothing is computed.
const WAIT: Duration = Duration::from_millis(100);

/// The longest rest at once. It cannot be interrupted, and someone may wait for the end.
const LONGEST_REST: Duration = Duration::from_secs(5);

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
        (worked * (100 - power) / power).min(LONGEST_REST)
    }

    /// Between two pieces of work: rests for the work since `since`, which becomes now, and waits as long as the engine
    /// is suspended. `on_wait` is told why, every tenth of a second, and at last `None` when work goes on; it ends the
    /// waiting by returning `false`, which is the answer then.
    pub(crate) fn turn(&self, since: &mut Instant, mut on_wait: impl FnMut(Option<Suspension>) -> bool) -> bool {
        let rest = self.rest_after(since.elapsed());
        if !rest.is_zero() {
            std::thread::sleep(rest);
        }
        let mut has_waited = false;
        let mut go_on = true;
        while let Some(why) = self.suspension().filter(|_| go_on) {
            if !has_waited {
                tracing::warn!("paused: {why}");
            }
            has_waited = true;
            go_on = on_wait(Some(why));
            if go_on {
                std::thread::sleep(WAIT);
            }
        }
        if has_waited && go_on {
            tracing::info!("work goes on");
            go_on = on_wait(None);
        }
        *since = Instant::now();
        go_on
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
        // one percent would be 99 seconds
        assert_eq!(rest(1, ThermalState::Nominal), LONGEST_REST);
        assert_eq!(rest(0, ThermalState::Nominal), LONGEST_REST);
    }

    #[test]
    fn a_hot_machine_works_half_of_the_time_at_most() {
        let second = Duration::from_secs(1);
        assert_eq!(at(100, ThermalState::Serious).rest_after(second), second);
        assert_eq!(at(25, ThermalState::Serious).rest_after(second), 3 * second);
        assert_eq!(at(100, ThermalState::Critical).rest_after(second), second);
    }

    #[test]
    fn a_turn_sleeps_and_counts_from_its_end() {
        let pace = at(50, ThermalState::Nominal);
        let worked = Duration::from_millis(50);
        let mut since = Instant::now() - worked;
        let start = Instant::now();
        assert!(pace.turn(&mut since, |_| panic!("nothing to wait for")));
        assert!(start.elapsed() >= worked);
        assert!(since >= start + worked);
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
        let go_on = pace.turn(&mut Instant::now(), |why| {
            told.push(why);
            true
        });
        assert!(go_on);
        assert_eq!(told, [Some(Suspension::Thermal), Some(Suspension::Thermal), None]);
    }

    #[test]
    fn waiting_can_be_given_up() {
        let pace = at(100, ThermalState::Critical);
        let mut told = Vec::new();
        let go_on = pace.turn(&mut Instant::now(), |why| {
            told.push(why);
            false
        });
        assert!(!go_on);
        assert_eq!(told, [Some(Suspension::Thermal)]);
    }
}
