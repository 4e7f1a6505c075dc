//! Waiting for a hub that has too much to do: as long as it says, or longer each time where it says nothing.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use ureq::http::{HeaderMap, header};

use super::{HubError, Report};

/// Answers in a row that may be no success before the hub is left alone.
pub(super) const TRIES: u32 = 6;
/// A longer wait than this is not begun: the user has something better to do.
const MOST: Duration = Duration::from_secs(600);
/// The first wait where the hub does not say how long; each is twice as long as the one before it.
const FIRST: Duration = Duration::from_secs(1);

/// Whether the same request may be answered later: too many requests, or a server that is out of order.
pub(super) fn is_passing(status: u16) -> bool {
    matches!(status, 429 | 500 | 502 | 503 | 504)
}

/// Who is told of a wait, and who may end it.
pub(super) struct Patience<'a> {
    pub(super) report: &'a (dyn Fn(Report<'_>) + Sync),
    pub(super) check_go_on: &'a (dyn Fn() -> Result<(), HubError> + Sync),
    /// The end of the wait that was last told of: several connections wait at once, and say so once.
    told: Mutex<Option<Instant>>,
}

impl<'a> Patience<'a> {
    pub(super) fn new(
        report: &'a (dyn Fn(Report<'_>) + Sync),
        check_go_on: &'a (dyn Fn() -> Result<(), HubError> + Sync),
    ) -> Patience<'a> {
        Patience { report, check_go_on, told: Mutex::default() }
    }

    /// Waits after the answer number `tries`, from 1, whose status was `status`. Whether the request is worth another try.
    pub(super) fn wait(&self, status: u16, headers: &HeaderMap, tries: u32) -> Result<bool, HubError> {
        let wait = asked_for(headers, SystemTime::now()).unwrap_or(FIRST * (1 << (tries - 1)));
        if tries >= TRIES || wait > MOST {
            return Ok(false);
        }
        let end = Instant::now() + wait;
        let mut told = self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if told.is_none_or(|told| told < Instant::now()) {
            *told = Some(end);
            let why = if status == 429 { "too many requests" } else { "it has too much to do" };
            let seconds = wait.as_secs_f32().ceil();
            (self.report)(Report::Note(&format!("the hub answered {status}, {why}: waiting {seconds} s")));
        }
        drop(told);
        // in short steps, for Ctrl-C
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            std::thread::sleep(left.min(Duration::from_millis(100)));
            (self.check_go_on)()?;
        }
        Ok(true)
    }
}

/// How long the hub asks to wait: `Retry-After` as seconds or a date, or the end of the window of `RateLimit`, which
/// huggingface.co sends with its 429.
pub(super) fn asked_for(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let until = |date: &str| {
        let date = httpdate::parse_http_date(date).ok()?;
        Some(date.duration_since(now).unwrap_or_default())
    };
    let seconds = |text: &str| text.parse().ok().map(Duration::from_secs);
    let retry_after = text(header::RETRY_AFTER.as_str()).and_then(|text| seconds(text).or_else(|| until(text)));
    // "api";r=0;t=55
    let reset = |limit: &str| limit.split(';').find_map(|part| seconds(part.trim().strip_prefix("t=")?));
    retry_after.or_else(|| text("ratelimit").and_then(reset))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn seconds_dates_and_windows() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let asked = |name: &'static str, value: &str| {
            asked_for(&HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]), now)
        };
        let seconds = |n| Some(Duration::from_secs(n));
        assert_eq!(asked("retry-after", "17"), seconds(17));
        assert_eq!(asked("retry-after", "Sun, 06 Nov 1994 08:50:00 GMT"), seconds(23));
        assert_eq!(asked("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT"), seconds(0), "it is over");
        assert_eq!(asked("ratelimit", "\"api\";r=0;t=55"), seconds(55));
        for nothing in ["soon", "-1", ""] {
            assert_eq!(asked("retry-after", nothing), None, "{nothing}");
        }
        assert_eq!(asked("x-other", "17"), None);
    }

    #[test]
    fn waits_are_longer_each_time_and_end() {
        let notes = Mutex::new(Vec::new());
        let report = |report: Report<'_>| match report {
            Report::Note(text) => notes.lock().unwrap().push(text.to_owned()),
            other => panic!("{other:?}"),
        };
        // Ctrl-C after each note
        let patience = Patience::new(&report, &|| Err(HubError::Interrupted));
        let none = HeaderMap::new();
        for (tries, seconds) in [(1, 1), (3, 4), (5, 16)] {
            *patience.told.lock().unwrap() = None;
            assert!(matches!(patience.wait(503, &none, tries), Err(HubError::Interrupted)));
            let last = notes.lock().unwrap().pop().unwrap();
            assert!(last.ends_with(&format!("waiting {seconds} s")), "{last}");
        }
        // another connection says nothing meanwhile
        assert!(patience.wait(503, &none, 1).is_err());
        assert!(notes.lock().unwrap().is_empty());
        assert!(!patience.wait(429, &none, TRIES).unwrap(), "often enough");
        let long = HeaderMap::from_iter([(header::RETRY_AFTER, "86400".parse().unwrap())]);
        assert!(!patience.wait(429, &long, 1).unwrap(), "nobody waits a day");
    }
}
