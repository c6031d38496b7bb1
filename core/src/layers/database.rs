//! A layer as a SQLite file: built once, then immutable.

use super::{DentryRow, ExtentRow, HoleRow, Layer, SourceRow, XattrRow, rows};
use crate::error::{Error, Result};
use crate::ids::{Ino, SnapshotNumber};
use crate::inode::InodeRow;
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags};
use std::fmt::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Bytes of a layer that SQLite may map: pages come from the page cache, not from copies.
const MMAP_BYTES: i64 = 256 << 20;

/// SQLite's own page cache per layer, in KiB (negative is SQLite's way to say so).
const CACHE_KIB: i64 = -2048;

/// One layer in a SQLite file. One connection behind one mutex; calls block.
pub struct LayerDb {
    path: PathBuf,
    conn: Mutex<Connection>,
    /// Whether the table `zero` has rows: hardly any layer has, and then no read asks for them.
    has_zeroes: bool,
}

impl fmt::Debug for LayerDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerDb")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl LayerDb {
    /// Create a layer at `path`, which must not exist, and begin the one transaction that fills
    /// it: use [`LayerDb::with`] and the writers of [`rows`], in the order of primary keys, then
    /// [`LayerDb::finish`]. There is no journal and no fsync: after a crash before the end of
    /// `finish` and the caller's fsync the file is worthless, so build it where nobody takes it
    /// for a finished one.
    pub fn create(path: &Path) -> Result<LayerDb> {
        let what = || format!("layer {} could not be created", path.display());
        let conn = create_for_building(path).map_err(|e| e.context(what()))?;
        rows::create_tables(&conn).map_err(|e| e.context(what()))?;
        Ok(LayerDb {
            path: path.to_owned(),
            conn: Mutex::new(conn),
            has_zeroes: true,
        })
    }

    /// Commit what was written since [`LayerDb::create`] and close the file. The caller fsyncs it
    /// and its directory.
    pub fn finish(self) -> Result<()> {
        finish_building(self.conn.into_inner()).map_err(|e| {
            e.context(format!(
                "layer {} could not be finished",
                self.path.display()
            ))
        })
    }

    /// Open a finished layer read-only and without locks: nobody may change the file from now on
    /// (replacing it by a rename is fine: this keeps reading the old one).
    ///
    /// # Errors
    /// [`crate::ErrorKind::Damage`] when it is no layer, [`crate::ErrorKind::FormatTooNew`] when
    /// it is one of a later format.
    pub fn open_immutable(path: &Path) -> Result<LayerDb> {
        let what = format!("layer {}", path.display());
        let conn =
            open_immutable(path).map_err(|e| e.context(format!("{what} could not be opened")))?;
        rows::check_format(&conn, &what)?;
        let has_zeroes = rows::has_zeroes(&conn)
            .map_err(|e| e.context(format!("{what} could not be opened")))?;
        Ok(LayerDb {
            path: path.to_owned(),
            conn: Mutex::new(conn),
            has_zeroes,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Use the connection; other readers of this layer wait meanwhile. Errors name the layer.
    pub fn with<T>(&self, f: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        f(&self.conn.lock())
            .map_err(|e| e.context(format!("layer {} could not be used", self.path.display())))
    }

    /// A value of the layer's `meta` table.
    pub fn meta(&self, key: &str) -> Result<Option<String>> {
        self.with(|conn| rows::meta(conn, key))
    }

    /// Keys of the TOCs of all snapshots that its extents point at.
    pub fn toc_keys(&self) -> Result<Vec<String>> {
        let sql = "SELECT toc_key FROM source ORDER BY snapshot";
        self.with(|conn| rows::all(conn, sql, [], |row| Ok(row.get(0)?)))
    }

    /// A layer without a file, for tests.
    #[cfg(test)]
    pub(crate) fn in_memory() -> LayerDb {
        let conn = Connection::open_in_memory().unwrap();
        rows::create_tables(&conn).unwrap();
        LayerDb {
            path: PathBuf::from(":memory:"),
            conn: Mutex::new(conn),
            has_zeroes: true,
        }
    }
}

impl Layer for LayerDb {
    fn inode(&self, ino: Ino) -> Result<Option<InodeRow>> {
        self.with(|conn| rows::inode(conn, ino))
    }

    fn dentry(&self, parent: Ino, name: &[u8]) -> Result<Option<DentryRow>> {
        self.with(|conn| rows::dentry(conn, parent, name))
    }

    fn scan_dir(
        &self,
        parent: Ino,
        after: Option<(u64, &[u8])>,
        limit: usize,
    ) -> Result<Vec<DentryRow>> {
        self.with(|conn| rows::scan_dir(conn, parent, after, limit))
    }

    fn names_of(&self, ino: Ino) -> Result<Vec<DentryRow>> {
        self.with(|conn| rows::names_of(conn, ino))
    }

    fn link(&self, ino: Ino) -> Result<Option<Vec<u8>>> {
        self.with(|conn| rows::link(conn, ino))
    }

    fn xattrs(&self, ino: Ino) -> Result<Vec<XattrRow>> {
        self.with(|conn| rows::xattrs(conn, ino))
    }

    fn extents(&self, ino: Ino, from: u64, to: u64) -> Result<Vec<ExtentRow>> {
        self.with(|conn| rows::extents(conn, ino, from, to))
    }

    fn holes(&self, ino: Ino, from: u64, to: u64) -> Result<Vec<HoleRow>> {
        self.with(|conn| rows::holes(conn, ino, from, to))
    }

    fn zeroes(&self, ino: Ino, from: u64, to: u64) -> Result<Vec<HoleRow>> {
        if !self.has_zeroes {
            return Ok(Vec::new());
        }
        self.with(|conn| rows::zeroes(conn, ino, from, to))
    }

    fn source(&self, snapshot: SnapshotNumber) -> Result<Option<SourceRow>> {
        self.with(|conn| rows::source(conn, snapshot))
    }
}

/// A new database to be filled in one transaction, which is open on return.
pub(crate) fn create_for_building(path: &Path) -> Result<Connection> {
    // SQLite would open an existing file as well, and a leftover of a crash must not be built upon.
    std::fs::File::create_new(path).map_err(|e| {
        Error::failed(format!("{} could not be created", path.display())).because(e)
    })?;
    let conn = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    conn.set_prepared_statement_cache_capacity(rows::STATEMENT_CACHE);
    // Nobody else opens a file under construction, and a crash throws it away.
    conn.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    conn.pragma_update(None, "journal_mode", "OFF")?;
    conn.pragma_update(None, "synchronous", "OFF")?;
    conn.execute_batch("BEGIN")?;
    Ok(conn)
}

/// Commit and close a database made by [`create_for_building`].
pub(crate) fn finish_building(conn: Connection) -> Result<()> {
    conn.execute_batch("COMMIT")?;
    conn.flush_prepared_statement_cache();
    conn.close().map_err(|(_, e)| Error::from(e))
}

/// A read-only connection, without locks, to a database file that nobody changes from now on
/// (replacing it by a rename is fine). For files with more tables than a layer; the format is not
/// checked: see [`rows::check_format`]. SQLite reads the file on first use only, so what is no
/// database shows then.
pub fn open_immutable(path: &Path) -> Result<Connection> {
    let conn = Connection::open_with_flags(
        immutable_uri(path),
        OpenFlags::SQLITE_OPEN_READ_ONLY
            | OpenFlags::SQLITE_OPEN_URI
            | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    conn.set_prepared_statement_cache_capacity(rows::STATEMENT_CACHE);
    conn.pragma_update(None, "mmap_size", MMAP_BYTES)?;
    conn.pragma_update(None, "cache_size", CACHE_KIB)?;
    Ok(conn)
}

/// `file:PATH?immutable=1` with everything escaped that has a meaning in a URI (or is no ASCII).
fn immutable_uri(path: &Path) -> String {
    let mut uri = String::from("file:");
    let bytes = path.as_os_str().as_bytes();
    // `file://x` would make `x` an authority.
    let bytes = match bytes {
        [b'/', b'/', ..] => {
            let start = bytes.iter().take_while(|b| **b == b'/').count() - 1;
            &bytes[start..]
        }
        other => other,
    };
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            let _ = write!(uri, "%{byte:02X}"); // writing to a String cannot fail
        }
    }
    uri.push_str("?immutable=1");
    uri
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::ids::Xid;

    #[test]
    fn a_finished_layer_opens_immutable_under_any_path() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("a b?c#d%41&gr\u{fc}n");
        std::fs::create_dir(&odd).unwrap();
        let path = odd.join("layer?immutable=0.sqlite");
        let layer = LayerDb::create(&path).unwrap();
        layer
            .with(|conn| {
                rows::put_meta(conn, "fs", "x")?;
                rows::put_inode(conn, &InodeRow::tombstone(Ino(9), Xid(3)))
            })
            .unwrap();
        layer.finish().unwrap();
        let layer = LayerDb::open_immutable(&path).unwrap();
        assert_eq!(layer.meta("fs").unwrap().as_deref(), Some("x"));
        assert_eq!(
            layer.inode(Ino(9)).unwrap(),
            Some(InodeRow::tombstone(Ino(9), Xid(3)))
        );
        assert_eq!(layer.inode(Ino(8)).unwrap(), None);
        let refused = layer.with(|conn| rows::put_meta(conn, "fs", "y"));
        assert!(refused.is_err(), "an immutable layer took a write");
        assert_eq!(
            std::fs::read_dir(&odd).unwrap().count(),
            1,
            "a journal was left behind"
        );
    }

    #[test]
    fn building_never_continues_a_leftover() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("layer.sqlite");
        drop(LayerDb::create(&path).unwrap());
        assert!(LayerDb::create(&path).is_err());
    }

    #[test]
    fn a_file_that_is_no_layer_is_damage_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("garbage.sqlite");
        std::fs::write(&path, vec![7; 9000]).unwrap();
        let error = LayerDb::open_immutable(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damage);
        assert!(error.to_string().contains("garbage.sqlite"), "{error}");
        std::fs::write(&path, b"").unwrap();
        assert_eq!(
            LayerDb::open_immutable(&path).unwrap_err().kind(),
            ErrorKind::Damage
        );
    }

    #[test]
    fn a_truncated_layer_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("layer.sqlite");
        let layer = LayerDb::create(&path).unwrap();
        layer
            .with(|conn| (0..5000).try_for_each(|i| rows::put_link(conn, Ino(i), &[b'x'; 100])))
            .unwrap();
        layer.finish().unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(64 << 10).unwrap();
        let layer = LayerDb::open_immutable(&path);
        let read = layer.and_then(|layer| layer.link(Ino(4900)));
        assert_eq!(read.unwrap_err().kind(), ErrorKind::Damage);
    }
}
