//! `strftime_now`, which some chat templates call to tell the model the date.
//!
//! In UTC: the standard library knows no time zones, and one date in a prompt is not worth a crate that does.

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::{Error, ErrorKind};

const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Tells the seconds since 1970.
pub(in crate::text) type Clock = fn() -> u64;

/// The clock of the machine.
pub(in crate::text) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

/// The time of `clock` in `format`.
pub(super) fn strftime_now(format: &str, clock: Clock) -> Result<String, Error> {
    strftime(format, clock()).map_err(|directive| {
        Error::new(ErrorKind::InvalidOperation, format!("strftime_now: no directive %{directive}"))
    })
}

/// `seconds` since 1970 (UTC) in Python's format language; an unknown directive is the error.
pub(crate) fn strftime(format: &str, seconds: u64) -> Result<String, String> {
    let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    let (year, day_of_year, month, day) = civil(days);
    let weekday = DAYS[(days % 7) as usize];
    let month_name = MONTHS[month];
    let hour12 = (hour + 11) % 12 + 1;
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        out.push_str(&match chars.next() {
            Some('Y') => year.to_string(),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{:02}", month + 1),
            Some('d') => format!("{day:02}"),
            Some('e') => format!("{day:2}"),
            Some('j') => format!("{day_of_year:03}"),
            Some('B') => month_name.into(),
            Some('b' | 'h') => month_name[..3].into(),
            Some('A') => weekday.into(),
            Some('a') => weekday[..3].into(),
            Some('H') => format!("{hour:02}"),
            Some('I') => format!("{hour12:02}"),
            Some('M') => format!("{minute:02}"),
            Some('S') => format!("{second:02}"),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.into(),
            Some('F') => format!("{year}-{:02}-{day:02}", month + 1),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('R') => format!("{hour:02}:{minute:02}"),
            Some('D' | 'x') => format!("{:02}/{day:02}/{:02}", month + 1, year % 100),
            Some('X') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('c') => {
                format!("{} {} {day:2} {hour:02}:{minute:02}:{second:02} {year}", &weekday[..3], &month_name[..3])
            }
            Some('u') => ((days + 3) % 7 + 1).to_string(),
            Some('w') => ((days + 4) % 7).to_string(),
            Some('s') => seconds.to_string(),
            Some('f') => "000000".into(),
            Some('n') => "\n".into(),
            Some('t') => "\t".into(),
            // a naive datetime has no zone
            Some('Z' | 'z') => String::new(),
            Some('%') => "%".into(),
            // without leading zero, as glibc has it
            Some('-') => match chars.next() {
                Some('d') => day.to_string(),
                Some('m') => (month + 1).to_string(),
                Some('H') => hour.to_string(),
                Some('I') => hour12.to_string(),
                Some(other) => return Err(format!("-{other}")),
                None => return Err("-".into()),
            },
            Some(other) => return Err(other.to_string()),
            None => return Err(String::new()),
        });
    }
    Ok(out)
}

/// Year, day of the year (from 1), month (from 0) and day of the month (from 1) of a day counted from 1970-01-01.
fn civil(days: u64) -> (u64, u64, usize, u64) {
    // 400 years repeat exactly: start at 1600, when such a cycle began, and skip whole cycles
    let from_1600 = days + 135_140;
    let mut year = 1600 + from_1600 / 146_097 * 400;
    let mut rest = from_1600 % 146_097;
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let length = |year| if is_leap(year) { 366 } else { 365 };
    while rest >= length(year) {
        rest -= length(year);
        year += 1;
    }
    let day_of_year = rest + 1;
    let february = if is_leap(year) { 29 } else { 28 };
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while rest >= lengths[month] {
        rest -= lengths[month];
        month += 1;
    }
    (year, day_of_year, month, rest + 1)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn dates_are_those_of_python() {
        // datetime.fromtimestamp(s, UTC).strftime("%A %d %B %Y %j %I:%M:%S %p")
        for (seconds, expected) in [
            (0, "Thursday 01 January 1970 001 12:00:00 AM"),
            (951_782_400, "Tuesday 29 February 2000 060 12:00:00 AM"),
            (1_735_689_599, "Tuesday 31 December 2024 366 11:59:59 PM"),
            (4_107_585_600, "Monday 01 March 2100 060 12:00:00 PM"),
        ] {
            assert_eq!(strftime("%A %d %B %Y %j %I:%M:%S %p", seconds).unwrap(), expected);
        }
        assert_eq!(strftime("%-d %b %y %F %T %%", 0).unwrap(), "1 Jan 70 1970-01-01 00:00:00 %");
        assert_eq!(strftime("%Q", 0).unwrap_err(), "Q");
        assert!(strftime("%", 0).is_err());
        assert!(strftime_now("%Y", now).unwrap().as_str() >= "2025");
    }
}
