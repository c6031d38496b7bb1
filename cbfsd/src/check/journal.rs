//! The journal: every segment is well-formed, transactions follow each other, and it goes on from where
//! the KVS ends.

use super::finding::{FindingKind, Place, Report, after};
use crate::instance::replay::{self, Replayer};
use crate::journal::{self, Event, Record, SegmentReader};
use crate::kvs::Kvs;
use cbfs_core::error::{ErrorKind, Result};
use cbfs_core::ids::Xid;
use std::path::Path;

/// Look at every segment, those that the KVS has long passed too: snapshots still need them.
pub(super) fn check_segments(dir: &Path, report: &mut Report) -> Result<()> {
    if !dir.is_dir() {
        let text = "the journal is missing";
        report.damage(FindingKind::JournalDamaged, text, Place::file(dir));
        return Ok(());
    }
    let mut last: Option<Xid> = None;
    let mut torn = false;
    for (first, path) in journal::segments(dir)? {
        report.checked.segments += 1;
        if let Some(last) = last.filter(|last| *last >= first) {
            let text =
                format!("the segment of {first} begins before the one before it ends, at {last}");
            report.damage(FindingKind::JournalGap, text, Place::file(&path));
        }
        // Behind a torn segment nothing was durable: told when it is replayed.
        if let Some(last) = last.filter(|last| last.next() < first && !torn) {
            let text = format!(
                "transactions {} to {} are missing",
                last.next(),
                Xid(first.0 - 1)
            );
            report.damage(FindingKind::JournalGap, text, Place::file(&path));
        }
        let mut expected = first;
        let read = read_segment(&path, &mut |record| {
            if expected != record.xid {
                let text = format!("transaction {} stands where {expected} should", record.xid);
                report.damage(FindingKind::JournalGap, text, Place::file(&path));
            }
            expected = record.xid.next();
            last = last.max(Some(record.xid));
        });
        match read {
            Ok(tail) => torn |= tail,
            Err(e) if e.kind() == ErrorKind::Damage => {
                torn = true;
                report.damage(
                    FindingKind::JournalDamaged,
                    e.to_string(),
                    Place::file(&path),
                );
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Answers whether its end is torn.
fn read_segment(path: &Path, each: &mut dyn FnMut(&Record)) -> Result<bool> {
    let mut reader = SegmentReader::open(path)?;
    while let Some(record) = reader.next_record()? {
        each(&record);
    }
    Ok(reader.has_torn_tail())
}

/// Replay what the KVS does not have, in memory; `false` when that cannot be done.
pub(super) fn replay(kvs: &Kvs, dir: &Path, floor: Xid, report: &mut Report) -> Result<bool> {
    if !dir.is_dir() {
        return Ok(true); // told already
    }
    let committed = kvs.tables().xid;
    if report.checked.segments == 0 && committed > floor {
        let text = format!("there is no journal {}", after(committed));
        report.damage(FindingKind::JournalGap, text, Place::file(dir));
        return Ok(true);
    }
    let mut replayer = InMemory { kvs, report };
    match replay::walk(dir, committed, &mut replayer) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::Damage => {
            let xid = kvs.tables().xid;
            let text = format!("{e}; rows are not checked ({})", after(xid));
            report.damage(FindingKind::ReplayFailed, text, Place::file(dir));
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

/// Applies records to the tables, and leaves files alone. What is not flushed is at most what the daemon
/// may hold dirty.
struct InMemory<'a> {
    kvs: &'a Kvs,
    report: &'a mut Report,
}

impl Replayer for InMemory<'_> {
    fn begin(&mut self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn record(&mut self, record: &Record) -> Result<()> {
        self.report.checked.replayed += 1;
        if let [Event::Cut { .. }] = record.events.as_slice() {
            // A rotation moves rows between files, which are all read as one here.
            return self
                .kvs
                .tables()
                .apply(record.xid, record.time, &record.events);
        }
        replay::apply(self.kvs, record)
    }

    fn end(&mut self, path: &Path, whole: u64, torn: bool) -> Result<()> {
        if torn {
            let text =
                format!("the record at byte {whole} was never finished; it was not answered");
            self.report
                .note(FindingKind::JournalTornTail, text, Place::file(path));
        }
        Ok(())
    }

    fn dropped(&mut self, path: &Path) -> Result<()> {
        let text = "a segment behind a torn one: power was lost before it was durable";
        self.report
            .note(FindingKind::JournalDropped, text, Place::file(path));
        Ok(())
    }
}
