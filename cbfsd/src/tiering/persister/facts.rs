//! What is known of the contents of one data tarball: where its sections lie, and the extents and
//! holes of its members. It is written beside the tarball while that is made; TOC and layer are
//! made from it at the end, also after a restart of the daemon.
//!
//! A file of records, integers little-endian:
//!
//! | byte | then |
//! |---|---|
//! | `S` | a section: offset, length, raw length (`u64` each), BLAKE3 of the frame (32 bytes) |
//! | `E` | an extent: ino, blk, n, section, offset, xid (`u64` each) |
//! | `H` | a hole: ino, first byte, byte after the last, xid (`u64` each) |
//!
//! Sections come in the order of their numbers. The file means something only together with the
//! line of the [`ledger`](super::ledger) that has its size and hash.

use super::ledger::Piece;
use cbfs_core::error::{Context, Error, Result};
use cbfs_core::frames::HashingWriter;
use cbfs_core::ids::{Ino, SnapshotNumber, Xid};
use cbfs_core::layers::{ExtentRow, HoleRow};
use cbfs_core::tarball::Section;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// Bytes collected before a write.
const BUFFER: usize = 64 << 10;

/// A file of an attempt's folder that is written once, in order, and remembered by its hash.
pub(super) struct PieceWriter {
    path: PathBuf,
    out: BufWriter<HashingWriter<File>>,
}

impl PieceWriter {
    /// Begin the file, which must not exist.
    pub(super) fn create(path: &Path) -> Result<PieceWriter> {
        let file = File::create_new(path)
            .context(|| format!("{} could not be created", path.display()))?;
        Ok(PieceWriter {
            path: path.to_owned(),
            out: BufWriter::with_capacity(BUFFER, HashingWriter::new(file)),
        })
    }

    /// Close it: all of it is in the file (not necessarily on the disk).
    pub(super) fn finish(self) -> Result<Piece> {
        let failed = || format!("{} could not be written", self.path.display());
        let hashed = self.out.into_inner().map_err(|e| e.into_error());
        let (_, stored) = hashed.context(failed)?.finish();
        Ok(Piece {
            size: stored.size,
            blake3: stored.blake3,
        })
    }

    pub(super) fn section(&mut self, section: &Section) -> Result<()> {
        let numbers = [section.offset, section.length, section.raw_length];
        self.record(b'S', &numbers, section.blake3.as_bytes())
    }

    pub(super) fn extent(&mut self, row: &ExtentRow) -> Result<()> {
        let numbers = [
            row.ino.0,
            row.blk,
            row.n,
            row.section,
            row.offset,
            row.xid.0,
        ];
        self.record(b'E', &numbers, &[])
    }

    pub(super) fn hole(&mut self, row: &HoleRow) -> Result<()> {
        self.record(b'H', &[row.ino.0, row.from, row.to, row.xid.0], &[])
    }

    fn record(&mut self, tag: u8, numbers: &[u64], rest: &[u8]) -> Result<()> {
        let failed = || format!("{} could not be written", self.path.display());
        self.out.write_all(&[tag]).context(failed)?;
        for number in numbers {
            self.out.write_all(&number.to_le_bytes()).context(failed)?;
        }
        self.out.write_all(rest).context(failed)
    }
}

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// One record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fact {
    Section(Section),
    Extent(ExtentRow),
    Hole(HoleRow),
}

/// Call `each` with every record of the file. `number` is the snapshot's.
pub(super) fn read(
    path: &Path,
    number: SnapshotNumber,
    mut each: impl FnMut(Fact) -> Result<()>,
) -> Result<()> {
    let failed = || format!("{} could not be read", path.display());
    let mut file = BufReader::with_capacity(BUFFER, File::open(path).context(failed)?);
    let mut tag = [0];
    while file.read(&mut tag).context(failed)? == 1 {
        let fact = match tag[0] {
            b'S' => {
                let [offset, length, raw_length] = numbers(&mut file).context(failed)?;
                let mut hash = [0; blake3::OUT_LEN];
                file.read_exact(&mut hash).context(failed)?;
                Fact::Section(Section {
                    offset,
                    length,
                    raw_length,
                    blake3: blake3::Hash::from_bytes(hash),
                })
            }
            b'E' => {
                let [ino, blk, n, section, offset, xid] = numbers(&mut file).context(failed)?;
                Fact::Extent(ExtentRow {
                    ino: Ino(ino),
                    blk,
                    n,
                    snapshot: number,
                    section,
                    offset,
                    xid: Xid(xid),
                })
            }
            b'H' => {
                let [ino, from, to, xid] = numbers(&mut file).context(failed)?;
                Fact::Hole(HoleRow {
                    ino: Ino(ino),
                    from,
                    to,
                    xid: Xid(xid),
                })
            }
            tag => {
                let text = format!("{} has a record of kind {tag}", path.display());
                return Err(Error::damage(text));
            }
        };
        each(fact)?;
    }
    Ok(())
}

fn numbers<const N: usize>(source: &mut impl Read) -> io::Result<[u64; N]> {
    let mut out = [0; N];
    for number in &mut out {
        let mut bytes = [0; 8];
        source.read_exact(&mut bytes)?;
        *number = u64::from_le_bytes(bytes);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cbfs_core::frames::StoredObject;

    #[test]
    fn what_was_written_is_read_and_the_piece_is_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("facts");
        let section = Section {
            offset: 7,
            length: u64::MAX,
            raw_length: 3,
            blake3: blake3::hash(b"frame"),
        };
        let extent = ExtentRow {
            ino: Ino(1 << 48 | 9),
            blk: 2,
            n: 3,
            snapshot: SnapshotNumber(12),
            section: 4,
            offset: 5,
            xid: Xid(6),
        };
        let hole = HoleRow {
            ino: Ino(9),
            from: 0,
            to: 4096,
            xid: Xid(8),
        };
        let mut writer = PieceWriter::create(&path).unwrap();
        writer.extent(&extent).unwrap();
        writer.section(&section).unwrap();
        writer.hole(&hole).unwrap();
        let piece = writer.finish().unwrap();
        let stored = StoredObject::of(File::open(&path).unwrap()).unwrap();
        assert_eq!((piece.size, piece.blake3), (stored.size, stored.blake3));

        let mut seen = Vec::new();
        read(&path, SnapshotNumber(12), |fact| {
            seen.push(fact);
            Ok(())
        })
        .unwrap();
        let wanted = [
            Fact::Extent(extent),
            Fact::Section(section),
            Fact::Hole(hole),
        ];
        assert_eq!(seen, wanted);
        assert!(PieceWriter::create(&path).is_err(), "it was begun twice");
    }

    #[test]
    fn a_file_that_is_cut_off_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("facts");
        std::fs::write(&path, b"E1234567").unwrap();
        assert!(read(&path, SnapshotNumber(1), |_| Ok(())).is_err());
        std::fs::write(&path, b"?").unwrap();
        assert!(read(&path, SnapshotNumber(1), |_| Ok(())).is_err());
    }
}
