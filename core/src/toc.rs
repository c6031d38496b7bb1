//! The TOC of a snapshot: its tarballs, where each section lies in them, which blocks of which
//! inode a section holds, and which sections of older snapshots lost their last block to this
//! one. There are no names in it: it is all that tier-in and the GC agent need.
//!
//! A SQLite database (tables below), stored compressed. `PRAGMA user_version` is [`FORMAT`],
//! `PRAGMA application_id` is [`APPLICATION_ID`].

use crate::error::{Error, Result};
use crate::format::ObjectRef;
use crate::ids::{Ino, SnapshotNumber};
use crate::layers::rows::{self, all, cast, check_database, column, first, narrow, number, put};
use crate::layers::{create_for_building, finish_building, open_immutable};
use parking_lot::Mutex;
use rusqlite::{Connection, Row, params};
use std::fmt;
use std::path::{Path, PathBuf};

/// Version of this schema. A higher one is refused by name.
pub const FORMAT: i64 = 1;

/// `PRAGMA application_id` of every TOC: the bytes `CBTO`.
pub const APPLICATION_ID: i64 = 0x4342_544F;

/// The tables. BLAKE3 hashes are hex; `offset` and `length` are bytes of the tarball as stored,
/// `raw_length` bytes of the decompressed section.
pub const TABLES: &str = "
CREATE TABLE tarball(
  nr INTEGER PRIMARY KEY, key TEXT NOT NULL, size INTEGER NOT NULL, blake3 TEXT NOT NULL);
CREATE TABLE section(
  section INTEGER PRIMARY KEY, tarball INTEGER NOT NULL, offset INTEGER NOT NULL,
  length INTEGER NOT NULL, raw_length INTEGER NOT NULL, blake3 TEXT NOT NULL);
CREATE TABLE block(
  section INTEGER NOT NULL, ino INTEGER NOT NULL, blk INTEGER NOT NULL,
  PRIMARY KEY(section, ino, blk)) WITHOUT ROWID;
CREATE TABLE superseded(
  snapshot INTEGER NOT NULL, section INTEGER NOT NULL,
  PRIMARY KEY(snapshot, section)) WITHOUT ROWID;
CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
";

/// Where a section lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SectionPlace {
    /// Its number within the snapshot.
    pub section: u64,
    /// Number of the tarball within the snapshot.
    pub tarball_nr: u32,
    /// The tarball.
    pub tarball: ObjectRef,
    /// First byte of the frame within the tarball.
    pub offset: u64,
    /// Bytes of the frame.
    pub length: u64,
    /// Bytes of the section, decompressed.
    pub raw_length: u64,
    /// BLAKE3 of the frame as stored, hex.
    pub blake3: String,
}

/// Writes a TOC. Everything happens in one transaction; a TOC that was not finished is of no use.
pub struct TocWriter {
    path: PathBuf,
    conn: Connection,
}

impl fmt::Debug for TocWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TocWriter")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl TocWriter {
    /// Create a TOC at `path`, which must not exist. Nothing is fsynced.
    pub fn create(path: &Path) -> Result<TocWriter> {
        let create = || -> Result<Connection> {
            let conn = create_for_building(path)?;
            conn.execute_batch(TABLES)?;
            conn.pragma_update(None, "application_id", APPLICATION_ID)?;
            conn.pragma_update(None, "user_version", FORMAT)?;
            Ok(conn)
        };
        let conn = create()
            .map_err(|e| e.context(format!("TOC {} could not be created", path.display())))?;
        Ok(TocWriter {
            path: path.to_owned(),
            conn,
        })
    }

    /// Add a data tarball: its number within the snapshot, key (below the file system's prefix),
    /// bytes and BLAKE3 (hex) as stored.
    pub fn add_tarball(&mut self, nr: u32, key: &str, size: u64, blake3: &str) -> Result<()> {
        self.put(
            "INSERT INTO tarball VALUES (?1,?2,?3,?4)",
            params![nr, key, cast(size), blake3],
        )
    }

    /// Add a section. Its tarball may be added later.
    pub fn add_section(
        &mut self,
        section: u64,
        tarball_nr: u32,
        offset: u64,
        length: u64,
        raw_length: u64,
        blake3: &str,
    ) -> Result<()> {
        self.put(
            "INSERT INTO section VALUES (?1,?2,?3,?4,?5,?6)",
            params![
                cast(section),
                tarball_nr,
                cast(offset),
                cast(length),
                cast(raw_length),
                blake3
            ],
        )
    }

    /// Say that `section` holds block `blk` of `ino`.
    pub fn add_block(&mut self, section: u64, ino: Ino, blk: u64) -> Result<()> {
        let row = params![cast(section), cast(ino.0), cast(blk)];
        self.put("INSERT OR IGNORE INTO block VALUES (?1,?2,?3)", row)
    }

    /// Say that `section` of the older `snapshot` lost its last block to this snapshot.
    pub fn add_superseded(&mut self, snapshot: SnapshotNumber, section: u64) -> Result<()> {
        let row = params![cast(snapshot.0), cast(section)];
        self.put("INSERT OR IGNORE INTO superseded VALUES (?1,?2)", row)
    }

    /// Set a value of the `meta` table: `fs`, `number`, `epoch`, `attempt`, `format`.
    pub fn put_meta(&mut self, key: &str, value: &str) -> Result<()> {
        self.put(
            "INSERT OR REPLACE INTO meta VALUES (?1,?2)",
            params![key, value],
        )
    }

    /// Commit and close. The caller fsyncs the file and its directory.
    pub fn finish(self) -> Result<()> {
        finish_building(self.conn)
            .map_err(|e| e.context(format!("TOC {} could not be finished", self.path.display())))
    }

    fn put(&mut self, sql: &str, row: impl rusqlite::Params) -> Result<()> {
        put(&self.conn, sql, row)
            .map_err(|e| e.context(format!("TOC {} could not be written", self.path.display())))
    }
}

/// A finished TOC. One connection behind one mutex; calls block.
pub struct Toc {
    path: PathBuf,
    conn: Mutex<Connection>,
}

impl fmt::Debug for Toc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Toc")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// A section with its tarball; the join keeps a section whose tarball is missing, to tell of it.
macro_rules! places {
    ($rest:literal) => {
        concat!(
            "SELECT section, s.tarball, t.key, t.size, t.blake3, offset, length, raw_length, ",
            "s.blake3 FROM section s LEFT JOIN tarball t ON t.nr = s.tarball ",
            $rest
        )
    };
}
const PLACE_OF: &str = places!("WHERE section = ?1");
const PLACES: &str = places!("ORDER BY section");

impl Toc {
    /// Open a finished, decompressed TOC, which nobody may change from now on.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Damage`] when it is no TOC, [`crate::ErrorKind::FormatTooNew`] when it
    /// is one of a later format.
    pub fn open_immutable(path: &Path) -> Result<Toc> {
        let what = format!("TOC {}", path.display());
        let conn =
            open_immutable(path).map_err(|e| e.context(format!("{what} could not be opened")))?;
        check_database(&conn, &what, "TOC", APPLICATION_ID, FORMAT)?;
        Ok(Toc {
            path: path.to_owned(),
            conn: Mutex::new(conn),
        })
    }

    /// Where a section lies; `None` when the snapshot has no such section.
    pub fn section(&self, section: u64) -> Result<Option<SectionPlace>> {
        self.with(|conn| first(conn, PLACE_OF, params![cast(section)], place_from_row))
    }

    /// All data tarballs by number.
    pub fn tarballs(&self) -> Result<Vec<(u32, ObjectRef)>> {
        self.with(|conn| {
            all(
                conn,
                "SELECT nr, key, size, blake3 FROM tarball ORDER BY nr",
                [],
                |row| {
                    let (key, blake3) = (column(row, 1)?, column(row, 3)?);
                    Ok((
                        narrow(row, 0)?,
                        ObjectRef {
                            key,
                            size: number(row, 2)?,
                            blake3,
                        },
                    ))
                },
            )
        })
    }

    /// All sections by number. A row of each in memory: some 200 bytes.
    pub fn sections(&self) -> Result<Vec<SectionPlace>> {
        self.with(|conn| all(conn, PLACES, [], place_from_row))
    }

    /// The blocks a section holds, by inode and block.
    pub fn blocks(&self, section: u64) -> Result<Vec<(Ino, u64)>> {
        let sql = "SELECT ino, blk FROM block WHERE section = ?1 ORDER BY ino, blk";
        self.with(|conn| {
            all(conn, sql, params![cast(section)], |row| {
                Ok((Ino(number(row, 0)?), number(row, 1)?))
            })
        })
    }

    /// Whether a section holds this block.
    pub fn has_block(&self, section: u64, ino: Ino, blk: u64) -> Result<bool> {
        let sql = "SELECT 1 FROM block WHERE section = ?1 AND ino = ?2 AND blk = ?3";
        let key = params![cast(section), cast(ino.0), cast(blk)];
        self.with(|conn| Ok(first(conn, sql, key, |_| Ok(()))?.is_some()))
    }

    /// The older snapshots' sections that lost their last block to this snapshot.
    pub fn superseded(&self) -> Result<Vec<(SnapshotNumber, u64)>> {
        let sql = "SELECT snapshot, section FROM superseded ORDER BY snapshot, section";
        self.with(|conn| {
            all(conn, sql, [], |row| {
                Ok((SnapshotNumber(number(row, 0)?), number(row, 1)?))
            })
        })
    }

    /// A value of the `meta` table.
    pub fn meta(&self, key: &str) -> Result<Option<String>> {
        self.with(|conn| rows::meta(conn, key))
    }

    fn with<T>(&self, f: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        f(&self.conn.lock())
            .map_err(|e| e.context(format!("TOC {} could not be read", self.path.display())))
    }
}

fn place_from_row(row: &Row<'_>) -> Result<SectionPlace> {
    let section = number(row, 0)?;
    let key: Option<String> = column(row, 2)?;
    let key = key.ok_or_else(|| {
        Error::damage(format!(
            "section {section} lies in a tarball that is not listed"
        ))
    })?;
    Ok(SectionPlace {
        section,
        tarball_nr: narrow(row, 1)?,
        tarball: ObjectRef {
            key,
            size: number(row, 3)?,
            blake3: column(row, 4)?,
        },
        offset: number(row, 5)?,
        length: number(row, 6)?,
        raw_length: number(row, 7)?,
        blake3: column(row, 8)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::layers::LayerDb;

    #[test]
    fn a_toc_tells_what_was_put_into_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("toc.sqlite");
        let mut writer = TocWriter::create(&path).unwrap();
        writer.put_meta("number", "4").unwrap();
        writer.add_section(1, 2, 70, 30, 1000, "bb").unwrap();
        writer.add_section(0, 1, 0, 70, 2000, "aa").unwrap();
        writer.add_tarball(1, "s/1/0001.tar.zst", 70, "t1").unwrap();
        writer
            .add_tarball(2, "s/1/0002.tar.zst", 100, "t2")
            .unwrap();
        writer.add_block(1, Ino(9), 3).unwrap();
        writer.add_block(1, Ino(9), 2).unwrap();
        writer.add_superseded(SnapshotNumber(3), 8).unwrap();
        writer.finish().unwrap();

        let toc = Toc::open_immutable(&path).unwrap();
        let place = toc.section(1).unwrap().unwrap();
        assert_eq!(place.tarball.key, "s/1/0002.tar.zst");
        assert_eq!(
            (place.offset, place.length, place.raw_length),
            (70, 30, 1000)
        );
        assert_eq!((place.tarball.size, place.blake3.as_str()), (100, "bb"));
        assert_eq!(toc.section(2).unwrap(), None);
        let sections: Vec<u64> = toc.sections().unwrap().iter().map(|s| s.section).collect();
        assert_eq!(sections, [0, 1]);
        assert_eq!(toc.tarballs().unwrap().len(), 2);
        assert_eq!(toc.blocks(1).unwrap(), [(Ino(9), 2), (Ino(9), 3)]);
        assert_eq!(toc.superseded().unwrap(), [(SnapshotNumber(3), 8)]);
        assert_eq!(toc.meta("number").unwrap().as_deref(), Some("4"));
    }

    #[test]
    fn a_section_without_its_tarball_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("toc.sqlite");
        let mut writer = TocWriter::create(&path).unwrap();
        writer.add_section(0, 1, 0, 70, 2000, "aa").unwrap();
        writer.finish().unwrap();
        let toc = Toc::open_immutable(&path).unwrap();
        assert_eq!(toc.section(0).unwrap_err().kind(), ErrorKind::Damage);
    }

    #[test]
    fn a_layer_is_no_toc() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("layer.sqlite");
        LayerDb::create(&path).unwrap().finish().unwrap();
        assert_eq!(
            Toc::open_immutable(&path).unwrap_err().kind(),
            ErrorKind::Damage
        );
    }
}
