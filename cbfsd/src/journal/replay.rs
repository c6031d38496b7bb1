//! Reading the journal: recovery after a crash, and the change log of a snapshot.

use super::record::{self, Decoded, Event, MAGIC, Record};
use cbfs_core::error::{Context, Error, Result};
use cbfs_core::ids::Xid;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// All segments of a journal directory, by first xid.
pub fn segments(dir: &Path) -> Result<Vec<(Xid, PathBuf)>> {
    let describe = || format!("the journal {} could not be listed", dir.display());
    let mut out = Vec::new();
    for entry in fs::read_dir(dir).context(describe)? {
        let path = entry.context(describe)?.path();
        let first = path
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(|n| n.strip_suffix(".log"))
            .and_then(|hex| u64::from_str_radix(hex, 16).ok());
        if let Some(first) = first {
            out.push((Xid(first), path));
        }
    }
    out.sort();
    Ok(out)
}

/// Bytes read at a time.
const STEP: u64 = 1 << 20;

/// One segment, read record by record. Some 1 MiB of it is in memory; all that is left of it, where the
/// end or damage is looked at.
pub struct SegmentReader {
    path: PathBuf,
    file: File,
    /// A part of the file.
    window: Vec<u8>,
    /// Where it begins in the file.
    base: u64,
    /// The next record, in the window.
    at: usize,
    /// Nothing follows the window.
    to_the_end: bool,
}

impl SegmentReader {
    /// Open a segment. One that ends within its magic was never used and reads as empty.
    pub fn open(path: &Path) -> Result<SegmentReader> {
        let file = File::open(path)
            .context(|| format!("the journal segment {} could not be read", path.display()))?;
        let mut reader = SegmentReader {
            path: path.to_owned(),
            file,
            window: Vec::new(),
            base: 0,
            at: 0,
            to_the_end: false,
        };
        reader.read_on()?;
        while !reader.to_the_end && reader.window.iter().all(|b| *b == 0) {
            reader.read_on()?;
        }
        let bytes = &reader.window;
        if bytes.len() < MAGIC.len() || bytes.iter().all(|b| *b == 0) {
            (reader.window, reader.to_the_end) = (Vec::new(), true);
            return Ok(reader);
        }
        if &bytes[..MAGIC.len()] != MAGIC {
            return Err(Error::damage(format!(
                "{} is no journal segment of this version of CBFS",
                path.display()
            )));
        }
        reader.at = MAGIC.len();
        Ok(reader)
    }

    /// Let go of what was read, and read more.
    fn read_on(&mut self) -> Result<()> {
        self.window.drain(..self.at);
        self.base += self.at as u64;
        self.at = 0;
        let read = (&self.file).take(STEP).read_to_end(&mut self.window);
        let read = read.context(|| {
            let path = self.path.display();
            format!("the journal segment {path} could not be read")
        })?;
        self.to_the_end = (read as u64) < STEP;
        Ok(())
    }

    /// The next record, sync marks left out; `None` at the end, which a torn tail also is.
    ///
    /// # Errors
    /// [`cbfs_core::ErrorKind::Damage`] when a record is bad although a sync mark behind it says
    /// that it had reached the disk.
    pub fn next_record(&mut self) -> Result<Option<Record>> {
        loop {
            match record::decode(self.window.get(self.at..).unwrap_or_default()) {
                Decoded::Record(record, length) => {
                    self.at += length;
                    if !matches!(record.events.as_slice(), [Event::SyncMark { .. }]) {
                        return Ok(Some(record));
                    }
                }
                Decoded::End | Decoded::Bad(_) if !self.to_the_end => self.read_on()?,
                Decoded::End if !self.synced_beyond() => return Ok(None),
                Decoded::Bad(_) if !self.synced_beyond() => return Ok(None),
                Decoded::End | Decoded::Bad(_) => {
                    return Err(Error::damage(format!(
                        "the journal segment {} is damaged at byte {}",
                        self.path.display(),
                        self.position()
                    ))
                    .hint("records before this place are whole; restore the file, or repair"));
                }
            }
        }
    }

    /// Bytes of the segment that are whole.
    pub fn position(&self) -> u64 {
        self.base + self.at as u64
    }

    /// Whether anything but zeros stands after the last whole record: to be asked at the end.
    pub fn has_torn_tail(&self) -> bool {
        self.window
            .get(self.at..)
            .unwrap_or_default()
            .iter()
            .any(|b| *b != 0)
    }

    /// Whether a sync mark somewhere behind the current place covers it.
    fn synced_beyond(&self) -> bool {
        let bytes = self.window.get(self.at..).unwrap_or_default();
        (1..bytes.len().saturating_sub(record::FRAME)).any(|skip| {
            let length = bytes[skip..skip + 4]
                .iter()
                .rev()
                .fold(0usize, |n, b| (n << 8) | usize::from(*b));
            // A sync mark is tiny; anything longer needs no CRC run.
            if !(17..=64).contains(&length) {
                return false;
            }
            match record::decode(&bytes[skip..]) {
                Decoded::Record(record, _) => match record.events.as_slice() {
                    [Event::SyncMark { offset }] => *offset > self.position(),
                    _ => false,
                },
                _ => false,
            }
        })
    }
}

/// Call `each` with every record of `from..=to` in the directory, in order.
pub fn read_range(
    dir: &Path,
    from: Xid,
    to: Xid,
    mut each: impl FnMut(Record) -> Result<()>,
) -> Result<()> {
    let all = segments(dir)?;
    for (index, (first, path)) in all.iter().enumerate() {
        let ends_before = all.get(index + 1).is_some_and(|(next, _)| *next <= from);
        if ends_before || *first > to {
            continue;
        }
        let mut reader = SegmentReader::open(path)?;
        while let Some(record) = reader.next_record()? {
            if record.xid > to {
                break;
            }
            if record.xid >= from {
                each(record)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Journal;
    use super::*;
    use cbfs_core::ids::Ino;
    use cbfs_core::inode::Timestamp;
    use std::os::unix::fs::FileExt;

    fn destroy(n: u64) -> Vec<Event> {
        vec![Event::InodeDestroy { ino: Ino(n) }]
    }

    fn read_all(dir: &Path) -> Result<Vec<u64>> {
        let mut seen = Vec::new();
        read_range(dir, Xid(0), Xid(u64::MAX), |r| {
            seen.push(r.xid.0);
            Ok(())
        })?;
        Ok(seen)
    }

    #[test]
    fn a_torn_tail_is_cut_off_and_a_synced_record_that_is_damaged_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(dir.path(), Xid(10)).unwrap();
        for n in 11..=14 {
            journal.append(Xid(n), Timestamp(0), &destroy(n)).unwrap();
        }
        let path = dir.path().join(super::super::segment_name(Xid(11)));
        let whole = std::fs::read(&path).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(whole.len() as u64 - 3).unwrap();
        assert_eq!(read_all(dir.path()).unwrap(), [11, 12, 13]);

        file.write_all_at(&whole, 0).unwrap();
        let synced = journal.syncer().sync(Xid(14), &|| Ok(())).unwrap();
        assert_eq!(synced, Xid(14));
        journal.mark_synced(synced).unwrap();
        journal.append(Xid(15), Timestamp(0), &destroy(15)).unwrap();
        assert_eq!(read_all(dir.path()).unwrap(), [11, 12, 13, 14, 15]);
        file.write_all_at(&[0xff], whole.len() as u64 - 1).unwrap();
        let error = read_all(dir.path()).unwrap_err();
        assert_eq!(error.kind(), cbfs_core::ErrorKind::Damage);
        assert!(error.to_string().contains("damaged at byte"), "{error}");
    }

    #[test]
    fn space_prepared_for_frequent_syncs_reads_as_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(dir.path(), Xid(0)).unwrap();
        let path = dir.path().join(super::super::segment_name(Xid(1)));
        let length = || std::fs::metadata(&path).unwrap().len();
        for n in 1..=40 {
            journal.append(Xid(n), Timestamp(0), &destroy(n)).unwrap();
            journal.syncer().sync(Xid(n), &|| Ok(())).unwrap();
        }
        let prepared = length();
        assert!(prepared > 100 << 10, "nothing was prepared: {prepared}");
        assert_eq!(read_all(dir.path()).unwrap(), Vec::from_iter(1..=40));
        // A page of an unsynced record that did not reach the disk, before one that did.
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[7; 16], prepared - 100).unwrap();
        assert_eq!(read_all(dir.path()).unwrap(), Vec::from_iter(1..=40));
        file.write_all_at(&[0; 16], prepared - 100).unwrap();
        journal.roll().unwrap();
        assert!(
            length() < 10_000,
            "a closed segment keeps its prepared space"
        );
        assert_eq!(read_all(dir.path()).unwrap(), Vec::from_iter(1..=40));
    }

    #[test]
    fn without_frequent_syncs_nothing_is_prepared() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(dir.path(), Xid(0)).unwrap();
        for n in 1..=20_000 {
            journal.append(Xid(n), Timestamp(0), &destroy(n)).unwrap();
        }
        let path = dir.path().join(super::super::segment_name(Xid(1)));
        let mut reader = SegmentReader::open(&path).unwrap();
        while reader.next_record().unwrap().is_some() {}
        assert_eq!(reader.position(), std::fs::metadata(&path).unwrap().len());
    }

    #[test]
    fn records_larger_than_a_step_are_read_and_damage_far_before_the_end_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(dir.path(), Xid(0)).unwrap();
        let large = |n: u64| {
            let (name, value) = (b"user.large".to_vec(), vec![n as u8 | 1; 700_000]);
            vec![Event::XattrSet {
                ino: Ino(n),
                name,
                value,
            }]
        };
        for n in 1..=20 {
            let events = if n == 7 {
                (0..4).flat_map(|_| large(n)).collect()
            } else {
                large(n)
            };
            journal.append(Xid(n), Timestamp(0), &events).unwrap();
        }
        assert_eq!(read_all(dir.path()).unwrap(), Vec::from_iter(1..=20));
        let path = dir.path().join(super::super::segment_name(Xid(1)));
        let mut reader = SegmentReader::open(&path).unwrap();
        while reader.next_record().unwrap().is_some() {}
        assert_eq!(reader.position(), std::fs::metadata(&path).unwrap().len());
        assert!(!reader.has_torn_tail());

        let synced = journal.syncer().sync(Xid(20), &|| Ok(())).unwrap();
        journal.mark_synced(synced).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[0], 2_000_000).unwrap();
        let error = read_all(dir.path()).unwrap_err();
        assert_eq!(error.kind(), cbfs_core::ErrorKind::Damage);
    }

    #[test]
    fn ranges_skip_segments() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(dir.path(), Xid(0)).unwrap();
        for n in 1..=9 {
            journal.append(Xid(n), Timestamp(0), &destroy(n)).unwrap();
            if n % 3 == 0 {
                journal.roll().unwrap();
            }
        }
        assert_eq!(segments(dir.path()).unwrap().len(), 4);
        assert_eq!(read_all(dir.path()).unwrap(), Vec::from_iter(1..=9));
        let mut seen = Vec::new();
        read_range(dir.path(), Xid(5), Xid(7), |r| {
            seen.push(r.xid.0);
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, [5, 6, 7]);
    }
}
