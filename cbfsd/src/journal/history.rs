//! Recent history: segments of the journal that nothing needs any more but people, who ask what changed.
//!
//! A segment is *published* once the KVS and a complete snapshot are past its last record: it is in the
//! snapshot's `log.jsonl.zst`. Published segments stay while one of the bounds of [`Keep`] wants them, and go at
//! once when the disk is short of room. Always the oldest goes first, so that what is left has no gap, also after
//! a crash in between.

use super::segments;
use crate::failpoints::{self, reach};
use cbfs_core::durable_file;
use cbfs_core::error::{Context, Result};
use cbfs_core::ids::Xid;
use cbfs_core::inode::Timestamp;
use parking_lot::Mutex;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How much published history stays on this node. A segment stays when it is one of the newest `segments` or
/// was written to within `time`; but all of them together never take more than `bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Newest segments, whatever their age.
    pub segments: usize,
    /// Age of what stays, whatever its number.
    pub time: Duration,
    /// Bound on the disk space of all of it, in bytes.
    pub bytes: u64,
}

impl Keep {
    /// Nothing stays.
    pub const NOTHING: Keep = Keep {
        segments: 0,
        time: Duration::ZERO,
        bytes: 0,
    };
}

/// A published segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Published {
    /// When it was written to last.
    written: Timestamp,
    /// Bytes on the disk.
    bytes: u64,
}

/// How many of `published` (oldest first) go, all of them older than those that stay.
fn surplus(published: &[Published], keep: &Keep, now: Timestamp) -> usize {
    let mut taken: u64 = 0;
    let mut stay = 0;
    for segment in published.iter().rev() {
        taken = taken.saturating_add(segment.bytes);
        // One that is from the future by a clock that was set back is young.
        let age = now.0.saturating_sub(segment.written.0).max(0);
        let young = u128::from(age.unsigned_abs()) < keep.time.as_nanos();
        if taken > keep.bytes || !(young || stay < keep.segments) {
            break;
        }
        stay += 1;
    }
    published.len() - stay
}

/// The published history of one journal.
#[derive(Debug)]
pub struct History {
    dir: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Everything up to here is published.
    through: Xid,
    /// Disk space of the segments that only history needs, in bytes.
    bytes: u64,
}

impl History {
    /// That of the journal in `dir`. Until it is told what is published, nothing counts as history.
    pub fn new(dir: &Path) -> History {
        History {
            dir: dir.to_owned(),
            state: Mutex::new(State {
                through: Xid(0),
                bytes: 0,
            }),
        }
    }

    /// Everything up to `through` is published, and the KVS is past it: remove what `keep` does not want. A
    /// crash leaves the newer part; it is looked at again after the next snapshot and the next start.
    pub fn advance(&self, through: Xid, keep: &Keep, now: Timestamp) -> Result<()> {
        let mut state = self.state.lock();
        state.through = state.through.max(through);
        self.trim(&mut state, keep, now)
    }

    /// Remove all of it: the room is needed.
    pub fn give_up(&self) -> Result<()> {
        let mut state = self.state.lock();
        self.trim(&mut state, &Keep::NOTHING, Timestamp(0))
    }

    /// Disk space that [`History::give_up`] gives back, in bytes.
    pub fn bytes(&self) -> u64 {
        self.state.lock().bytes
    }

    fn trim(&self, state: &mut State, keep: &Keep, now: Timestamp) -> Result<()> {
        let all = segments(&self.dir)?;
        let mut published = Vec::new();
        // The newest is never closed.
        for pair in all.windows(2) {
            if pair[1].0 > state.through.next() {
                break;
            }
            let path = &pair[0].1;
            let about = fs::metadata(path)
                .and_then(|about| Ok((about.modified()?, about.blocks() * 512)))
                .context(|| format!("{} could not be examined", path.display()))?;
            published.push(Published {
                written: Timestamp::from_system_time(about.0),
                bytes: about.1,
            });
        }
        let gone = surplus(&published, keep, now);
        for (_, path) in all.iter().take(gone) {
            match fs::remove_file(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    let text = format!(
                        "the journal segment {} could not be removed",
                        path.display()
                    );
                    return Err(e).context(|| text);
                }
                _ => {}
            }
            reach(failpoints::TRIM_BETWEEN);
        }
        if gone > 0 {
            durable_file::sync_dir(&self.dir)
                .context(|| "the journal directory could not be synced".into())?;
        }
        state.bytes = published.iter().skip(gone).map(|p| p.bytes).sum();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Event, Journal};
    use super::*;
    use cbfs_core::ids::Ino;

    const HOUR: i64 = 3600 * 1_000_000_000;

    fn hours(ages: &[i64]) -> Vec<Published> {
        let segment = |age: &i64| Published {
            written: Timestamp(100 * HOUR - age * HOUR),
            bytes: 10,
        };
        ages.iter().map(segment).collect()
    }

    fn left(ages: &[i64], segments: usize, hours_kept: u64, bytes: u64) -> usize {
        let keep = Keep {
            segments,
            time: Duration::from_secs(3600 * hours_kept),
            bytes,
        };
        let all = hours(ages);
        all.len() - surplus(&all, &keep, Timestamp(100 * HOUR))
    }

    #[test]
    fn the_more_of_count_and_age_stays_within_the_bytes() {
        let ages = [50, 30, 20, 5, 1];
        assert_eq!(left(&ages, 0, 0, 1000), 0);
        assert_eq!(left(&ages, 2, 0, 1000), 2);
        assert_eq!(left(&ages, 2, 24, 1000), 3);
        assert_eq!(left(&ages, 4, 24, 1000), 4);
        assert_eq!(left(&ages, 9, 0, 1000), 5);
        assert_eq!(left(&ages, 9, 0, 25), 2);
        assert_eq!(left(&[], 9, 24, 1000), 0);
        // No gap: what is older than one that went goes as well. The future is young.
        assert_eq!(left(&[1, 30, 2], 0, 24, 1000), 1);
        assert_eq!(left(&[-9000, -1], 0, 24, 1000), 2);
    }

    #[test]
    fn what_is_not_published_stays_and_history_goes_when_room_is_needed() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(dir.path(), Xid(0)).unwrap();
        for n in 1..=9 {
            let events = [Event::InodeDestroy { ino: Ino(n) }];
            journal.append(Xid(n), Timestamp(0), &events).unwrap();
            if n % 3 == 0 {
                journal.roll().unwrap();
            }
        }
        let count = || segments(dir.path()).unwrap().len();
        let history = History::new(dir.path());
        history.give_up().unwrap();
        assert_eq!(count(), 4);
        let keep = Keep {
            segments: 1,
            bytes: u64::MAX,
            ..Keep::NOTHING
        };
        history.advance(Xid(5), &keep, Timestamp(0)).unwrap();
        assert_eq!(count(), 4, "the only published one stays");
        assert!(history.bytes() > 0);
        history.advance(Xid(6), &keep, Timestamp(i64::MAX)).unwrap();
        assert_eq!(count(), 3);
        history.give_up().unwrap();
        assert_eq!((count(), history.bytes()), (2, 0));
        history
            .advance(Xid(9), &Keep::NOTHING, Timestamp(0))
            .unwrap();
        assert_eq!(count(), 1, "the open segment stays");
    }
}
