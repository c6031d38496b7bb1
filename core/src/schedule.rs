//! When periodic snapshots are due. All in UTC; slots lie on a fixed grid, so that nothing drifts and a
//! machine that was off knows what it missed.
//!
//! The decision is pure: [`Schedule::next_due`] of the moment the last one was dealt with. A scheduler that
//! keeps that moment, moves it to `now` whenever it lies in the future (the clock was set back), and
//! moves it with every request it makes, has these properties: however many slots were missed, one
//! request follows; a clock that jumps back causes none at once and the next after at most one period.

use crate::error::{Error, ErrorKind, Result};
use crate::inode::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const NANOS: i64 = 1_000_000_000;
const DAY: i64 = 86_400;

/// When snapshots are made by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// At every multiple of so many seconds since 1970: every hour is on the hour.
    Every(Seconds),
    /// Once a day.
    DailyAt(TimeOfDay),
}

/// A number of seconds, at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Seconds(u64);

/// A time of the day in UTC, to the minute; `HH:MM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeOfDay {
    minutes: u16,
}

impl Schedule {
    /// The first slot after `after`.
    pub fn next_due(&self, after: Timestamp) -> Timestamp {
        let (period, offset) = match self {
            Schedule::Every(seconds) => (i64::try_from(seconds.0).unwrap_or(i64::MAX), 0),
            Schedule::DailyAt(at) => (DAY, i64::from(at.minutes) * 60),
        };
        let slots = (after.secs().saturating_sub(offset)).div_euclid(period);
        let next = slots
            .saturating_add(1)
            .saturating_mul(period)
            .saturating_add(offset);
        Timestamp(next.saturating_mul(NANOS))
    }
}

/// Up to when a schedule has been dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timetable {
    dealt_with: Timestamp,
}

impl Timetable {
    /// Slots up to `moment` are dealt with.
    pub fn from(moment: Timestamp) -> Timetable {
        Timetable { dealt_with: moment }
    }

    /// Up to when.
    pub fn dealt_with(&self) -> Timestamp {
        self.dealt_with
    }

    /// When the next one is due, by a clock that says `now`; due is what is not later than that. When the
    /// clock was set back the schedule goes on from there.
    pub fn next_due(&mut self, schedule: &Schedule, now: Timestamp) -> Timestamp {
        self.dealt_with = self.dealt_with.min(now);
        schedule.next_due(self.dealt_with)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Schedule::Every(seconds) => write!(f, "every {}", format_duration(seconds.0)),
            Schedule::DailyAt(at) => write!(f, "daily at {at} UTC"),
        }
    }
}

impl TryFrom<u64> for Seconds {
    type Error = Error;

    fn try_from(seconds: u64) -> Result<Seconds> {
        // Longer than a century is a slip of the pen.
        if (1..=3_153_600_000).contains(&seconds) {
            return Ok(Seconds(seconds));
        }
        let text = format!("a period of {seconds} seconds makes no sense");
        Err(Error::new(ErrorKind::Usage, text).hint("give 1h, 30m, 1d, …"))
    }
}

impl From<Seconds> for u64 {
    fn from(seconds: Seconds) -> u64 {
        seconds.0
    }
}

impl FromStr for Seconds {
    type Err = Error;

    fn from_str(text: &str) -> Result<Seconds> {
        Seconds::try_from(parse_duration(text)?.as_secs())
    }
}

impl FromStr for TimeOfDay {
    type Err = Error;

    fn from_str(text: &str) -> Result<TimeOfDay> {
        let parts = text.split_once(':').and_then(|(hour, minute)| {
            let two = |part: &str| part.len() <= 2 && part.bytes().all(|b| b.is_ascii_digit());
            let parsed = (hour.parse::<u16>().ok()?, minute.parse::<u16>().ok()?);
            (two(hour) && two(minute) && parsed.0 < 24 && parsed.1 < 60).then_some(parsed)
        });
        let (hour, minute) = parts.ok_or_else(|| {
            Error::new(ErrorKind::Usage, format!("{text:?} is no time of the day"))
                .hint("give HH:MM, in UTC: 03:00")
        })?;
        Ok(TimeOfDay {
            minutes: hour * 60 + minute,
        })
    }
}

impl TryFrom<String> for TimeOfDay {
    type Error = Error;

    fn try_from(text: String) -> Result<TimeOfDay> {
        text.parse()
    }
}

impl From<TimeOfDay> for String {
    fn from(at: TimeOfDay) -> String {
        at.to_string()
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.minutes / 60, self.minutes % 60)
    }
}

/// A time as people write it: a number with `s`, `m`, `h`, `d` or `w`.
///
/// # Errors
/// [`ErrorKind::Usage`] for anything else.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let split = text.len() - text.bytes().last().map_or(0, |b| usize::from(b.is_ascii()));
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 604_800,
        _ => 0,
    };
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    let total = number.parse::<u64>().ok().filter(|_| digits && seconds > 0);
    match total.and_then(|n| n.checked_mul(seconds)) {
        Some(total) => Ok(Duration::from_secs(total)),
        None => Err(
            Error::new(ErrorKind::Usage, format!("{text:?} is no duration"))
                .hint("a number with s, m, h, d or w: 90s, 30m, 24h"),
        ),
    }
}

/// The inverse of [`parse_duration`], in the largest unit that fits exactly.
pub fn format_duration(seconds: u64) -> String {
    for (unit, size) in [("w", 604_800), ("d", 86_400), ("h", 3600), ("m", 60)] {
        if seconds > 0 && seconds.is_multiple_of(size) {
            return format!("{}{unit}", seconds / size);
        }
    }
    format!("{seconds}s")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(text).unwrap()
    }

    fn every(text: &str) -> Schedule {
        Schedule::Every(text.parse().unwrap())
    }

    #[test]
    fn slots_lie_on_the_grid() {
        let next = |s: Schedule, after: &str| s.next_due(at(after)).to_rfc3339();
        assert_eq!(
            next(every("1h"), "2026-03-01T10:20:00.5Z"),
            "2026-03-01T11:00:00Z"
        );
        assert_eq!(
            next(every("1h"), "2026-03-01T11:00:00Z"),
            "2026-03-01T12:00:00Z"
        );
        let daily = Schedule::DailyAt("03:00".parse().unwrap());
        assert_eq!(next(daily, "2026-03-01T02:59:59Z"), "2026-03-01T03:00:00Z");
        assert_eq!(next(daily, "2026-03-01T03:00:00Z"), "2026-03-02T03:00:00Z");
        assert_eq!(next(daily, "1969-12-31T02:00:00Z"), "1969-12-31T03:00:00Z");
    }

    #[test]
    fn durations_and_times_are_read_back() {
        for text in ["1s", "90s", "30m", "1h", "36h", "2d", "1w"] {
            assert_eq!(
                format_duration(parse_duration(text).unwrap().as_secs()),
                text
            );
        }
        for bad in [
            "",
            "h",
            "1",
            "1x",
            "-1h",
            "+1h",
            "1.5h",
            "1 h",
            "99999999999999999999s",
            "1ü",
        ] {
            assert_eq!(
                parse_duration(bad).unwrap_err().kind(),
                ErrorKind::Usage,
                "{bad}"
            );
        }
        assert!("0s".parse::<Seconds>().is_err());
        for bad in ["24:00", "3", "03:60", "003:00", "+3:00", ":", ""] {
            assert!(bad.parse::<TimeOfDay>().is_err(), "{bad}");
        }
        for (schedule, json) in [
            (every("1h"), r#"{"every":3600}"#),
            (
                Schedule::DailyAt("03:05".parse().unwrap()),
                r#"{"daily_at":"03:05"}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&schedule).unwrap(), json);
            assert_eq!(serde_json::from_str::<Schedule>(json).unwrap(), schedule);
        }
        assert!(serde_json::from_str::<Schedule>(r#"{"every":0}"#).is_err());
    }

    fn any_schedule() -> impl Strategy<Value = Schedule> {
        prop_oneof![
            (1u64..1_000_000).prop_map(|s| Schedule::Every(Seconds(s))),
            (0u16..1440).prop_map(|minutes| Schedule::DailyAt(TimeOfDay { minutes })),
        ]
    }

    #[test]
    fn missed_slots_are_made_up_for_once() {
        let mut table = Timetable::from(at("2026-03-01T00:00:00Z"));
        let (hourly, now) = (every("1h"), at("2026-03-08T12:34:56Z"));
        assert!(table.next_due(&hourly, now) <= now);
        table = Timetable::from(now);
        assert_eq!(table.next_due(&hourly, now), at("2026-03-08T13:00:00Z"));
    }

    proptest! {
        #[test]
        fn no_movement_of_the_clock_causes_a_storm(
            schedule in any_schedule(),
            moves in prop::collection::vec(-40_000_000i64..40_000_000, 1..100),
        ) {
            let mut now = Timestamp(1_700_000_000 * NANOS);
            let mut table = Timetable::from(now);
            for seconds in moves {
                now = Timestamp(now.0 + seconds * NANOS);
                let due = table.next_due(&schedule, now);
                if seconds <= 0 {
                    prop_assert!(due > now, "made although no time has passed");
                }
                if due <= now {
                    table = Timetable::from(now);
                    prop_assert!(table.next_due(&schedule, now) > now, "made twice");
                }
            }
        }

        #[test]
        fn the_next_slot_is_later_and_at_most_a_period_away(
            schedule in any_schedule(),
            after in -4_000_000_000_000_000_000i64..4_000_000_000_000_000_000,
        ) {
            let next = schedule.next_due(Timestamp(after));
            let period = match schedule {
                Schedule::Every(s) => s.0,
                Schedule::DailyAt(_) => DAY as u64,
            };
            prop_assert!(next.0 > after);
            prop_assert!((next.0 - after) as u64 <= period * NANOS as u64);
            // No slot in between: the grid does not depend on where one asks from.
            prop_assert_eq!(schedule.next_due(Timestamp(next.0 - 1)), next);
        }
    }
}
