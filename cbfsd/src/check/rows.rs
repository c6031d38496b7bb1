//! All rows of a KVS as one: every file from the oldest to the newest, then what the journal has
//! beyond them, in a temporary database that SQLite keeps in a file once it outgrows its cache.
//! Contents are left out, only their lengths are kept.

use super::finding::{FindingKind, Place, Report};
use crate::kvs::{Kvs, KvsFile};
use cbfs_core::error::Result;
use cbfs_core::ids::{Ino, Xid};
use cbfs_core::layers::{LayerDb, rows, schema};
use cbfs_core::names::{NAME_MAX, name_hash};
use rusqlite::{Connection, OptionalExtension, Row, Statement, params};
use std::path::Path;
use std::sync::Arc;

const TABLES: &str = "
PRAGMA temp_store=FILE; PRAGMA cache_size=-32768; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;
CREATE TABLE inode(ino INTEGER PRIMARY KEY, kind INTEGER, nlink INTEGER, size INTEGER);
CREATE TABLE dentry(parent INTEGER, hash INTEGER, name BLOB, ino INTEGER, kind INTEGER,
  PRIMARY KEY(parent, hash, name)) WITHOUT ROWID;
CREATE TABLE link(ino INTEGER PRIMARY KEY, length INTEGER);
CREATE TABLE xattr(ino INTEGER, name BLOB, PRIMARY KEY(ino, name)) WITHOUT ROWID;
CREATE TABLE inline(ino INTEGER PRIMARY KEY, length INTEGER);
CREATE TABLE backing(ino INTEGER PRIMARY KEY, file INTEGER);
CREATE TABLE at_cut(ino INTEGER PRIMARY KEY, file INTEGER);
CREATE TABLE pending(ino INTEGER PRIMARY KEY);
CREATE TABLE gone(ino INTEGER PRIMARY KEY);
CREATE TABLE below(ino INTEGER PRIMARY KEY);
";

/// Questions go by inode too.
const INDEX: &str = "CREATE INDEX dentry_ino ON dentry(ino)";

/// A directory this deep is in a cycle, or as good as.
const DEEPEST_PATH: usize = 4096;

/// The merged rows.
pub(super) struct Merged {
    pub(super) conn: Connection,
    /// The highest inode number that any row has.
    pub(super) last_ino: Ino,
    /// The highest transaction that any row has.
    pub(super) last_xid: Xid,
}

impl Merged {
    /// Read all of it.
    pub(super) fn read(below: &[Arc<LayerDb>], kvs: &Kvs, report: &mut Report) -> Result<Merged> {
        let conn = Connection::open("")?;
        conn.execute_batch(TABLES)?;
        conn.set_prepared_statement_cache_capacity(rows::STATEMENT_CACHE);
        let mut merged = Merged {
            conn,
            last_ino: Ino(0),
            last_xid: Xid(0),
        };
        merged.conn.execute_batch("BEGIN")?;
        for layer in below {
            merged.add_layer(layer, report)?;
        }
        let files = kvs.files();
        if let Some(main) = &files.main {
            merged.add_file(main, report)?;
            block_rows_without_inode(main, report)?;
        }
        for frozen in files.frozen.iter().rev() {
            merged.add_file(&frozen.file, report)?;
        }
        if let Some(newest) = files.frozen.first() {
            merged.note_pending(newest.file.as_ref())?;
        }
        if let Some(active) = &files.active {
            merged.add_file(active, report)?;
        }
        merged.add_tables(kvs)?;
        merged.conn.execute_batch("COMMIT")?;
        merged.conn.execute_batch(INDEX)?;
        Ok(merged)
    }

    fn seen(&mut self, ino: Ino, xid: Xid) {
        self.last_ino = self.last_ino.max(ino);
        self.last_xid = self.last_xid.max(xid);
    }

    fn add_file(&mut self, file: &KvsFile, report: &mut Report) -> Result<()> {
        file.with(|source| {
            self.add_inodes(source)?;
            self.add_dentries(source, file.path(), report)?;
            self.add_contents(source)
        })?;
        self.remove_gone()
    }

    /// A layer below the KVS: its files may be without contents here.
    fn add_layer(&mut self, layer: &LayerDb, report: &mut Report) -> Result<()> {
        layer.with(|source| {
            self.add_inodes(source)?;
            self.add_dentries(source, layer.path(), report)?;
            self.add_links_and_xattrs(source)
        })?;
        self.remove_gone()?;
        self.conn.execute("DELETE FROM below", [])?;
        self.conn
            .execute("INSERT INTO below SELECT ino FROM inode", [])?;
        Ok(())
    }

    fn add_inodes(&mut self, source: &Connection) -> Result<()> {
        let sql = format!("SELECT {} FROM inode", schema::INODE_COLUMNS);
        each(&mut source.prepare(&sql)?, |row| {
            let inode = rows::inode_from_row(row)?;
            self.seen(inode.ino, inode.xid);
            self.put_inode(&inode)
        })
    }

    fn put_inode(&self, inode: &cbfs_core::inode::InodeRow) -> Result<()> {
        let ino = inode.ino.0 as i64;
        if inode.gone {
            self.run("INSERT OR REPLACE INTO gone VALUES(?)", params![ino])
        } else {
            self.run(
                "INSERT OR REPLACE INTO inode VALUES(?,?,?,?)",
                params![ino, inode.kind.code(), inode.nlink, inode.size as i64],
            )
        }
    }

    fn add_dentries(
        &mut self,
        source: &Connection,
        path: &Path,
        report: &mut Report,
    ) -> Result<()> {
        let sql = format!("SELECT {} FROM dentry", rows::DENTRY_COLUMNS);
        each(&mut source.prepare(&sql)?, |row| {
            let dentry = rows::dentry_from_row(row)?;
            self.seen(dentry.ino.unwrap_or(Ino(0)), dentry.xid);
            let name = &dentry.name;
            let impossible = name.is_empty()
                || name.len() > NAME_MAX
                || name.contains(&b'/')
                || name.contains(&0)
                || matches!(name.as_slice(), b"." | b"..")
                || name_hash(name) != dentry.hash;
            if impossible {
                let text = format!(
                    "the name \"{}\" of inode {} cannot be",
                    name.escape_ascii(),
                    dentry.parent
                );
                report.damage(FindingKind::NameImpossible, text, Place::file(path));
            }
            self.put_dentry(
                dentry.parent,
                dentry.hash,
                name,
                dentry.ino,
                dentry.kind.code(),
            )
        })
    }

    fn put_dentry(
        &self,
        parent: Ino,
        hash: u64,
        name: &[u8],
        ino: Option<Ino>,
        kind: u32,
    ) -> Result<()> {
        let (parent, hash) = (parent.0 as i64, hash as i64);
        match ino {
            Some(ino) => self.run(
                "INSERT OR REPLACE INTO dentry VALUES(?,?,?,?,?)",
                params![parent, hash, name, ino.0 as i64, kind],
            ),
            None => self.run(
                "DELETE FROM dentry WHERE parent=? AND hash=? AND name=?",
                params![parent, hash, name],
            ),
        }
    }

    /// Everything of an inode beside its attributes and names.
    fn add_contents(&mut self, source: &Connection) -> Result<()> {
        self.add_links_and_xattrs(source)?;
        let number = |row: &Row<'_>, at: usize| rows::column::<Option<i64>>(row, at);
        let mut inline = source.prepare("SELECT ino, length(data) FROM inline")?;
        each(&mut inline, |row| {
            self.put_length("inline", number(row, 0)?, number(row, 1)?)
        })?;
        let mut backing = source.prepare("SELECT ino, nullif(file, 0) FROM backing")?;
        each(&mut backing, |row| {
            self.put_length("backing", number(row, 0)?, number(row, 1)?)
        })
    }

    fn add_links_and_xattrs(&mut self, source: &Connection) -> Result<()> {
        let number = |row: &Row<'_>, at: usize| rows::column::<Option<i64>>(row, at);
        let mut links = source.prepare("SELECT ino, length(target) FROM link")?;
        each(&mut links, |row| {
            self.put_length("link", number(row, 0)?, number(row, 1)?)
        })?;
        let mut xattrs = source.prepare("SELECT ino, name, value IS NOT NULL, xid FROM xattr")?;
        each(&mut xattrs, |row| {
            let (ino, name): (i64, Vec<u8>) = (rows::column(row, 0)?, rows::column(row, 1)?);
            self.seen(Ino(0), Xid(rows::column::<i64>(row, 3)? as u64));
            self.put_xattr(ino, &name, rows::column(row, 2)?)
        })
    }

    /// A row of a table with one number per inode; `None` hides what is below.
    fn put_length(&self, table: &'static str, ino: Option<i64>, number: Option<i64>) -> Result<()> {
        let sql = match (table, number.is_some()) {
            ("link", true) => "INSERT OR REPLACE INTO link VALUES(?1,?2)",
            ("link", false) => "DELETE FROM link WHERE ino=?1 AND ?2 IS NULL",
            ("inline", true) => "INSERT OR REPLACE INTO inline VALUES(?1,?2)",
            ("inline", false) => "DELETE FROM inline WHERE ino=?1 AND ?2 IS NULL",
            (_, true) => "INSERT OR REPLACE INTO backing VALUES(?1,?2)",
            (_, false) => "DELETE FROM backing WHERE ino=?1 AND ?2 IS NULL",
        };
        self.run(sql, params![ino, number])
    }

    fn put_xattr(&self, ino: i64, name: &[u8], alive: bool) -> Result<()> {
        if alive {
            self.run(
                "INSERT OR REPLACE INTO xattr VALUES(?,?)",
                params![ino, name],
            )
        } else {
            self.run(
                "DELETE FROM xattr WHERE ino=? AND name=?",
                params![ino, name],
            )
        }
    }

    /// What a tombstone hides: all of the inode but its names, which have tombstones of their own.
    fn remove_gone(&self) -> Result<()> {
        for table in ["inode", "link", "xattr", "inline", "backing"] {
            let sql = format!("DELETE FROM {table} WHERE ino IN (SELECT ino FROM gone)");
            self.conn.execute(&sql, [])?;
        }
        self.conn.execute("DELETE FROM gone", [])?;
        Ok(())
    }

    /// The backing files as of the newest cut, and which of them its snapshot reads: those of files
    /// with blocks in its frozen file.
    fn note_pending(&self, newest: &KvsFile) -> Result<()> {
        self.run("INSERT INTO at_cut SELECT ino, file FROM backing", [])?;
        newest.with(|source| {
            let mut inodes = source.prepare("SELECT DISTINCT ino FROM block")?;
            each(&mut inodes, |row| {
                self.run(
                    "INSERT INTO pending VALUES(?)",
                    [rows::column::<i64>(row, 0)?],
                )
            })
        })
    }

    /// The rows that are in memory only.
    fn add_tables(&mut self, kvs: &Kvs) -> Result<()> {
        let tables = kvs.tables();
        let hot = &tables.hot;
        for inode in hot.inodes.values() {
            self.seen(inode.row.ino, inode.row.xid);
            self.put_inode(&inode.row)?;
        }
        for (parent, names) in &hot.dentries {
            for ((hash, name), dentry) in names {
                self.seen(dentry.ino.unwrap_or(Ino(0)), dentry.xid);
                self.put_dentry(*parent, *hash, name, dentry.ino, dentry.kind.code())?;
            }
        }
        let ino = |ino: &Ino| Some(ino.0 as i64);
        for (of, target) in &hot.links {
            self.put_length("link", ino(of), Some(target.len() as i64))?;
        }
        for (of, inline) in &hot.inline {
            let length = inline.data.as_ref().map(|d| d.len() as i64);
            self.put_length("inline", ino(of), length)?;
        }
        for (of, file) in &hot.backing {
            let file = Some(*file as i64).filter(|f| *f != 0);
            self.put_length("backing", ino(of), file)?;
        }
        for (of, xattrs) in &hot.xattrs {
            for (name, xattr) in xattrs {
                self.put_xattr(of.0 as i64, name, xattr.value.is_some())?;
            }
        }
        drop(tables);
        self.remove_gone()
    }

    fn run(&self, sql: &str, with: impl rusqlite::Params) -> Result<()> {
        self.conn.prepare_cached(sql)?.execute(with)?;
        Ok(())
    }

    /// A number that a query answers.
    pub(super) fn number(&self, sql: &str) -> Result<u64> {
        Ok(self.conn.query_row(sql, [], |r| r.get::<_, i64>(0))? as u64)
    }

    /// Call `each` with the rows of a query whose first column is an inode.
    pub(super) fn ask(
        &self,
        sql: &str,
        mut with: impl FnMut(Ino, &Row<'_>) -> Result<()>,
    ) -> Result<()> {
        each(&mut self.conn.prepare(sql)?, |row| {
            let ino: i64 = rows::column(row, 0)?;
            with(Ino(ino as u64), row)
        })
    }

    /// Where an inode is found, by its first name.
    pub(super) fn place(&self, ino: Ino) -> Result<Place> {
        Ok(Place::ino(ino, self.path(ino)?))
    }

    /// A path; begins with `…/` where its beginning does not exist.
    pub(super) fn path(&self, ino: Ino) -> Result<Option<String>> {
        let sql = "SELECT parent, name FROM dentry WHERE ino=? LIMIT 1";
        let mut up = self.conn.prepare_cached(sql)?;
        let mut at = ino;
        let mut names: Vec<String> = Vec::new();
        while at != Ino::ROOT && names.len() < DEEPEST_PATH {
            let found = up
                .query_row([at.0 as i64], |r| {
                    Ok((r.get::<_, i64>(0)?, r.get::<_, Vec<u8>>(1)?))
                })
                .optional()?;
            let Some((parent, name)) = found else {
                if names.is_empty() {
                    return Ok(None);
                }
                names.push("…".into());
                names.reverse();
                return Ok(Some(names.join("/")));
            };
            names.push(escaped(&name));
            at = Ino(parent as u64);
        }
        names.push(String::new());
        names.reverse();
        let path = names.join("/");
        Ok(Some(if path.is_empty() { "/".into() } else { path }))
    }
}

/// A name as text; what is no UTF-8 or would change a terminal is escaped.
pub(super) fn escaped(name: &[u8]) -> String {
    match std::str::from_utf8(name) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => name.escape_ascii().to_string(),
    }
}

/// Blocks in `main` must be of inodes that it has.
fn block_rows_without_inode(main: &KvsFile, report: &mut Report) -> Result<()> {
    main.with(|conn| {
        let sql = "SELECT DISTINCT ino FROM block WHERE ino NOT IN (SELECT ino FROM inode)";
        each(&mut conn.prepare(sql)?, |row| {
            let ino = Ino(rows::column::<i64>(row, 0)? as u64);
            let text = format!("main has blocks of inode {ino}, which it does not know");
            report.damage(FindingKind::BackingRow, text, Place::ino(ino, None));
            Ok(())
        })
    })
}

fn each(statement: &mut Statement<'_>, mut with: impl FnMut(&Row<'_>) -> Result<()>) -> Result<()> {
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        with(row)?;
    }
    Ok(())
}
