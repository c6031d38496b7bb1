//! Replay of the journal onto the KVS after a crash. The same walk over the segments serves recovery,
//! which leaves behind exactly the records that were replayed, and the consistency checker, which
//! changes nothing.

use super::Options;
use crate::journal::{self, Event, Record, SegmentReader};
use crate::kvs::{Kvs, Miss};
use cbfs_core::durable_file;
use cbfs_core::error::{Context, Error, Result};
use cbfs_core::ids::Xid;
use std::fs::{self, File, OpenOptions};
use std::path::Path;

/// What is done with the segments and records of a journal.
pub(crate) trait Replayer {
    /// A segment is about to be read.
    fn begin(&mut self, path: &Path) -> Result<()>;

    /// The next record that the KVS does not have: xids follow each other without a gap.
    fn record(&mut self, record: &Record) -> Result<()>;

    /// A segment was read. Its first `whole` bytes are good; `torn` says that others follow.
    fn end(&mut self, path: &Path, whole: u64, torn: bool) -> Result<()>;

    /// A segment behind a torn one: power was lost before it counted as durable.
    fn dropped(&mut self, path: &Path) -> Result<()>;
}

/// Walk over the records after `committed`, oldest first.
///
/// # Errors
/// [`cbfs_core::ErrorKind::Damage`] where a record is bad although it had reached the disk, and where
/// the journal begins after a gap; those of `by`.
pub(crate) fn walk(dir: &Path, committed: Xid, by: &mut dyn Replayer) -> Result<()> {
    let segments = journal::segments(dir)?;
    let mut broken = false;
    let mut last: Option<Xid> = None;
    for (index, (_, path)) in segments.iter().enumerate() {
        if broken {
            by.dropped(path)?;
            continue;
        }
        if segments
            .get(index + 1)
            .is_some_and(|(next, _)| *next <= committed.next())
        {
            continue;
        }
        by.begin(path)?;
        let mut reader = SegmentReader::open(path)?;
        let whole = loop {
            let before = reader.position();
            let Some(record) = reader.next_record()? else {
                broken = reader.has_torn_tail();
                // Sync marks after the last record included: a segment that ends with them is whole.
                break reader.position();
            };
            if last.is_some_and(|last| record.xid != last.next()) {
                broken = true;
                break before;
            }
            let begins_late = last.is_none() && record.xid > committed.next();
            if begins_late {
                return Err(Error::damage(format!(
                    "the journal begins at transaction {} but the KVS ends at {committed}",
                    record.xid
                )));
            }
            last = Some(record.xid);
            if record.xid > committed {
                by.record(&record)?;
            }
        };
        by.end(path, whole, broken)?;
    }
    Ok(())
}

/// Apply a record to the tables, loading the rows it needs.
pub(crate) fn apply(kvs: &Kvs, record: &Record) -> Result<()> {
    loop {
        let miss: Miss = {
            let mut tables = kvs.tables();
            match tables.needs(&record.events) {
                Ok(()) => return tables.apply(record.xid, record.time, &record.events),
                Err(miss) => miss,
            }
        };
        kvs.load(&miss)?;
    }
}

/// Replay the journal onto the KVS, and leave behind exactly the records that were replayed.
pub(super) fn replay(kvs: &Kvs, dir: &Path, options: &Options) -> Result<()> {
    let committed = kvs.tables().xid;
    // A new segment's name is only durable after the first sync of its records: see `begin` below.
    durable_file::sync_dir(dir)
        .context(|| format!("the journal {} could not be synced", dir.display()))?;
    walk(dir, committed, &mut Recovery { kvs, options })
}

struct Recovery<'a> {
    kvs: &'a Kvs,
    options: &'a Options,
}

impl Replayer for Recovery<'_> {
    /// After a kill the records are only in the page cache; the rows made of them must not become
    /// durable before them.
    fn begin(&mut self, path: &Path) -> Result<()> {
        File::open(path)
            .and_then(|file| file.sync_data())
            .context(|| format!("{} could not be synced", path.display()))
    }

    fn record(&mut self, record: &Record) -> Result<()> {
        if let [Event::Cut { number }] = record.events.as_slice() {
            return self
                .kvs
                .replay_cut(*number, record.xid, self.options.cache_limit);
        }
        apply(self.kvs, record)?;
        if self.kvs.tables().hot.bytes() > self.options.flush_bytes {
            // The journal on disk already has all of it.
            self.kvs.flush(&|_| Ok(()), self.options.cache_limit)?;
        }
        Ok(())
    }

    fn end(&mut self, path: &Path, whole: u64, torn: bool) -> Result<()> {
        if !torn {
            return Ok(());
        }
        let cut = || {
            let file = OpenOptions::new().write(true).open(path)?;
            file.set_len(whole)?;
            file.sync_data()
        };
        cut().context(|| format!("the torn tail of {} could not be cut off", path.display()))
    }

    fn dropped(&mut self, path: &Path) -> Result<()> {
        tracing::warn!(segment = %path.display(), "dropped: it follows a torn segment");
        fs::remove_file(path).context(|| format!("{} could not be removed", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cbfs_core::ids::Ino;
    use cbfs_core::inode::Timestamp;

    #[derive(Default)]
    struct Noting {
        records: Vec<u64>,
        torn: Vec<bool>,
        dropped: usize,
    }

    impl Replayer for Noting {
        fn begin(&mut self, _: &Path) -> Result<()> {
            Ok(())
        }
        fn record(&mut self, record: &Record) -> Result<()> {
            self.records.push(record.xid.0);
            Ok(())
        }
        fn end(&mut self, _: &Path, _: u64, torn: bool) -> Result<()> {
            self.torn.push(torn);
            Ok(())
        }
        fn dropped(&mut self, _: &Path) -> Result<()> {
            self.dropped += 1;
            Ok(())
        }
    }

    fn walked(dir: &Path) -> Noting {
        let mut noting = Noting::default();
        walk(dir, Xid(0), &mut noting).unwrap();
        noting
    }

    #[test]
    fn a_segment_that_ends_with_a_sync_mark_is_whole_and_those_behind_it_count() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = journal::Journal::create(dir.path(), Xid(0)).unwrap();
        let append = |journal: &mut journal::Journal, xid| {
            let events = [Event::InodeDestroy { ino: Ino(xid) }];
            journal.append(Xid(xid), Timestamp(0), &events).unwrap();
        };
        append(&mut journal, 1);
        append(&mut journal, 2);
        let synced = journal.syncer().sync(Xid(2), &|| Ok(())).unwrap();
        journal.mark_synced(synced).unwrap();
        journal.roll().unwrap();
        append(&mut journal, 3);
        let noting = walked(dir.path());
        assert_eq!(noting.records, [1, 2, 3]);
        assert_eq!(noting.torn, [false, false]);
        assert_eq!(noting.dropped, 0);

        // What follows a torn segment does not count.
        let (_, first) = journal::segments(dir.path()).unwrap().remove(0);
        let length = fs::metadata(&first).unwrap().len();
        let file = OpenOptions::new().write(true).open(&first).unwrap();
        file.set_len(length - 30).unwrap();
        let noting = walked(dir.path());
        assert_eq!(noting.records, [1]);
        assert_eq!(noting.torn, [true]);
        assert_eq!(noting.dropped, 1);
    }
}
