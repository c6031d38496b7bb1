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
        let mut whole = reader.position();
        while let Some(record) = reader.next_record()? {
            if last.is_some_and(|last| record.xid != last.next()) {
                broken = true;
                break;
            }
            let begins_late = last.is_none() && record.xid > committed.next();
            if begins_late {
                return Err(Error::damage(format!(
                    "the journal begins at transaction {} but the KVS ends at {committed}",
                    record.xid
                )));
            }
            last = Some(record.xid);
            whole = reader.position();
            if record.xid > committed {
                by.record(&record)?;
            }
        }
        broken |= reader.has_torn_tail() || whole != reader.position();
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
