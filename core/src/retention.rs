//! Which snapshots retention deletes: restic's `forget` over calendar periods in UTC.
//!
//! Pure: what a bucket says goes in, what is to be marked deleted comes out. A snapshot stays when any rule
//! wants it. Always kept, without taking the place of another: the latest, named ones and held ones: a name
//! or a hold is how a person says that a snapshot is wanted.

use crate::error::{Error, ErrorKind, Result};
use crate::format::epoch::BaseSnapshot;
use crate::inode::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// More difference between two clocks than this, and retention refuses, in nanoseconds.
const LARGEST_DIFFERENCE: i64 = 5 * 60 * 1_000_000_000;

/// How many to keep; 0: the rule does not exist. Without any rule everything is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Retention {
    /// The newest.
    pub last: u32,
    /// The newest of each of the last hours that have any.
    pub hourly: u32,
    /// The same for days.
    pub daily: u32,
    /// The same for ISO weeks (from Monday).
    pub weekly: u32,
    /// The same for months.
    pub monthly: u32,
}

/// A snapshot to be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub id: BaseSnapshot,
    /// What its manifest says.
    pub created_at: Timestamp,
    /// It has a name or is held.
    pub wanted: bool,
}

impl Retention {
    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        *self == Retention::default()
    }

    /// The snapshots that go, oldest first. `snapshots` are those of the current lineage that are not
    /// deleted, sorted.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when their times do not rise with their numbers: which is the newest of a
    /// day cannot be told then.
    pub fn forget(&self, snapshots: &[Candidate]) -> Result<Vec<BaseSnapshot>> {
        if self.is_empty() {
            return Ok(Vec::new());
        }
        for pair in snapshots.windows(2) {
            if let [earlier, later] = pair
                && earlier.created_at >= later.created_at
            {
                let text = format!(
                    "snapshot {} is not older than {} by their times: nothing is deleted",
                    earlier.id.number, later.id.number
                );
                return Err(Error::new(ErrorKind::Conflict, text)
                    .hint("a clock was wrong; delete what is not needed by hand"));
            }
        }
        let mut kept: BTreeSet<BaseSnapshot> = snapshots.last().map(|c| c.id).into_iter().collect();
        let judged: Vec<&Candidate> = snapshots.iter().rev().filter(|c| !c.wanted).collect();
        let rules: [(u32, Period); 5] = [
            (self.last, |c| c.created_at.0),
            (self.hourly, |c| c.created_at.secs().div_euclid(3600)),
            (self.daily, |c| c.created_at.secs().div_euclid(86_400)),
            // 1970-01-01 was a Thursday.
            (self.weekly, |c| {
                (c.created_at.secs().div_euclid(86_400) + 3).div_euclid(7)
            }),
            (self.monthly, |c| month(c.created_at)),
        ];
        for (count, period) in rules {
            let mut left = count;
            let mut last = None;
            for candidate in &judged {
                let this = Some(period(candidate));
                if left > 0 && this != last {
                    kept.insert(candidate.id);
                    left -= 1;
                }
                last = this;
            }
        }
        let forgotten = judged.iter().rev().filter(|c| !kept.contains(&c.id));
        Ok(forgotten.map(|c| c.id).collect())
    }
}

/// The number of the period that a snapshot falls into.
type Period = fn(&Candidate) -> i64;

/// Months since the year 0.
fn month(at: Timestamp) -> i64 {
    let date = time::OffsetDateTime::from_unix_timestamp(at.secs());
    date.map_or(0, |d| {
        i64::from(d.year()) * 12 + i64::from(u8::from(d.month()))
    })
}

/// Whether times can be trusted enough to delete by them. `newest` is the time of the newest snapshot, `now`
/// this node's; `store`: when the newest manifest was created, by the store's clock and by this node's.
///
/// # Errors
/// [`ErrorKind::Conflict`] says which clocks differ.
pub fn clocks_agree(
    now: Timestamp,
    newest: Timestamp,
    store: Option<(Timestamp, Timestamp)>,
) -> Result<()> {
    let refuse = |text: &str| {
        Err(Error::new(ErrorKind::Conflict, text)
            .hint("set the clock (NTP); retention runs again after the next snapshot"))
    };
    if newest.0.saturating_sub(now.0) > LARGEST_DIFFERENCE {
        return refuse(
            "the newest snapshot is from the future by this node's clock: nothing is deleted",
        );
    }
    match store {
        Some((by_store, by_node))
            if by_store.0.saturating_sub(by_node.0).saturating_abs() > LARGEST_DIFFERENCE =>
        {
            refuse(
                "the clocks of this node and of the store differ by more than 5 minutes: nothing is deleted",
            )
        }
        _ => Ok(()),
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules = [
            (self.last, "last"),
            (self.hourly, "hourly"),
            (self.daily, "daily"),
            (self.weekly, "weekly"),
            (self.monthly, "monthly"),
        ];
        let texts: Vec<String> = rules
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, word)| format!("{count} {word}"))
            .collect();
        if texts.is_empty() {
            f.write_str("everything")
        } else {
            f.write_str(&texts.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, SnapshotNumber};
    use proptest::prelude::*;

    const HOUR: i64 = 3600;

    /// Snapshots 1, 2, … at these seconds.
    fn at(seconds: &[i64]) -> Vec<Candidate> {
        let numbered = seconds.iter().zip(1..);
        numbered
            .map(|(seconds, number)| Candidate {
                id: BaseSnapshot {
                    number: SnapshotNumber(number),
                    epoch: Epoch(1),
                },
                created_at: Timestamp::from_parts(*seconds, 0),
                wanted: false,
            })
            .collect()
    }

    fn kept(rules: Retention, snapshots: &[Candidate]) -> Vec<u64> {
        let gone = rules.forget(snapshots).unwrap();
        let all = snapshots.iter().map(|c| c.id);
        all.filter(|id| !gone.contains(id))
            .map(|id| id.number.0)
            .collect()
    }

    #[test]
    fn without_rules_everything_stays() {
        assert_eq!(kept(Retention::default(), &at(&[1, 2, 3])), [1, 2, 3]);
    }

    #[test]
    fn the_newest_of_each_period_stays() {
        let rules = Retention {
            hourly: 2,
            ..Retention::default()
        };
        let times = [0, 10, HOUR, HOUR + 10, 5 * HOUR, 5 * HOUR + 10];
        assert_eq!(kept(rules, &at(&times)), [4, 6]);
        let rules = Retention {
            last: 1,
            daily: 2,
            ..Retention::default()
        };
        assert_eq!(
            kept(rules, &at(&[0, 24 * HOUR, 25 * HOUR, 49 * HOUR])),
            [3, 4]
        );
    }

    #[test]
    fn weeks_begin_on_monday_and_months_on_their_first() {
        let second = |text: &str| Timestamp::parse_rfc3339(text).unwrap().secs();
        let times = [
            second("2026-02-28T10:00:00Z"), // Saturday
            second("2026-03-01T10:00:00Z"), // Sunday
            second("2026-03-02T10:00:00Z"), // Monday
        ];
        let weekly = Retention {
            weekly: 9,
            ..Retention::default()
        };
        assert_eq!(kept(weekly, &at(&times)), [2, 3]);
        let monthly = Retention {
            monthly: 9,
            ..Retention::default()
        };
        assert_eq!(kept(monthly, &at(&times)), [1, 3]);
    }

    #[test]
    fn wanted_snapshots_stay_and_take_no_place() {
        let mut snapshots = at(&[0, 1, 2, 3, 4]);
        snapshots[0].wanted = true;
        snapshots[3].wanted = true;
        let rules = Retention {
            last: 2,
            ..Retention::default()
        };
        assert_eq!(kept(rules, &snapshots), [1, 3, 4, 5]);
    }

    #[test]
    fn times_out_of_order_and_clocks_that_differ_are_refused() {
        let rules = Retention {
            last: 1,
            ..Retention::default()
        };
        for times in [&[5, 4, 6][..], &[4, 4]] {
            assert_eq!(
                rules.forget(&at(times)).unwrap_err().kind(),
                ErrorKind::Conflict
            );
        }
        let t = |minutes: i64| Timestamp::from_parts(minutes * 60, 0);
        assert!(clocks_agree(t(100), t(104), None).is_ok());
        assert!(clocks_agree(t(100), t(106), None).is_err());
        assert!(clocks_agree(t(9_999), t(100), Some((t(96), t(100)))).is_ok());
        assert!(clocks_agree(t(100), t(100), Some((t(106), t(100)))).is_err());
        assert!(clocks_agree(t(100), t(100), Some((t(94), t(100)))).is_err());
    }

    proptest! {
        #[test]
        fn the_latest_and_as_many_as_asked_stay_and_a_second_run_changes_nothing(
            gaps in prop::collection::vec(1i64..200_000, 1..60),
            (last, hourly, daily, weekly, monthly) in (0u32..9, 0u32..9, 0u32..9, 0u32..9, 0u32..9),
        ) {
            let rules = Retention { last, hourly, daily, weekly, monthly };
            let mut now = 0;
            let times: Vec<i64> = gaps.iter().map(|gap| { now += gap; now }).collect();
            let snapshots = at(&times);
            let gone = rules.forget(&snapshots).unwrap();
            let left: Vec<Candidate> =
                snapshots.iter().filter(|c| !gone.contains(&c.id)).copied().collect();
            prop_assert_eq!(left.last(), snapshots.last());
            prop_assert!(left.len() >= snapshots.len().min(last as usize));
            if !rules.is_empty() {
                prop_assert!(left.len() as u32 <= 1 + last + hourly + daily + weekly + monthly);
            }
            prop_assert!(rules.forget(&left).unwrap().is_empty());
        }
    }
}
