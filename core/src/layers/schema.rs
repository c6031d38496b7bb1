//! The layer schema: one set of tables for the index of a snapshot, merged layers and the KVS.
//!
//! A published layer is such a database, compressed as independent zstd frames with a seek table
//! (zstd seekable format); `zstd -d` and then `sqlite3` opens it. Numbers are SQLite integers
//! (64 bit, signed), times nanoseconds since 1970, names and values blobs. `PRAGMA user_version`
//! is [`FORMAT`]; `PRAGMA application_id` is [`APPLICATION_ID`].

/// Version of this schema. A higher one is refused by name.
pub const FORMAT: i64 = 1;

/// `PRAGMA application_id` of every layer: the bytes `CBFS`.
pub const APPLICATION_ID: i64 = 0x4342_4653;

/// The tables of every layer. Primary keys are ordered as the scans need them: a directory's
/// entries lie together and in cookie order, a file's extents in block order. `zero` has rows in merged
/// layers only.
pub const TABLES: &str = "
CREATE TABLE inode(
  ino INTEGER PRIMARY KEY, xid INTEGER NOT NULL, kind INTEGER NOT NULL, mode INTEGER NOT NULL,
  uid INTEGER NOT NULL, gid INTEGER NOT NULL, nlink INTEGER NOT NULL, size INTEGER NOT NULL,
  min_size INTEGER NOT NULL, rdev INTEGER NOT NULL, atime INTEGER NOT NULL, mtime INTEGER NOT NULL,
  ctime INTEGER NOT NULL, btime INTEGER NOT NULL, gone INTEGER NOT NULL);
CREATE TABLE dentry(
  parent INTEGER NOT NULL, hash INTEGER NOT NULL, name BLOB NOT NULL, ino INTEGER,
  kind INTEGER NOT NULL, xid INTEGER NOT NULL, PRIMARY KEY(parent, hash, name)) WITHOUT ROWID;
CREATE INDEX dentry_ino ON dentry(ino) WHERE ino IS NOT NULL;
CREATE TABLE link(ino INTEGER PRIMARY KEY, target BLOB NOT NULL);
CREATE TABLE xattr(
  ino INTEGER NOT NULL, name BLOB NOT NULL, value BLOB, xid INTEGER NOT NULL,
  PRIMARY KEY(ino, name)) WITHOUT ROWID;
CREATE TABLE extent(
  ino INTEGER NOT NULL, blk INTEGER NOT NULL, n INTEGER NOT NULL, snapshot INTEGER NOT NULL,
  section INTEGER NOT NULL, offset INTEGER NOT NULL, xid INTEGER NOT NULL,
  PRIMARY KEY(ino, blk)) WITHOUT ROWID;
CREATE TABLE hole(
  ino INTEGER NOT NULL, byte_from INTEGER NOT NULL, byte_to INTEGER NOT NULL,
  xid INTEGER NOT NULL, PRIMARY KEY(ino, byte_from)) WITHOUT ROWID;
CREATE TABLE zero(
  ino INTEGER NOT NULL, byte_from INTEGER NOT NULL, byte_to INTEGER NOT NULL,
  xid INTEGER NOT NULL, PRIMARY KEY(ino, byte_from)) WITHOUT ROWID;
CREATE TABLE source(
  snapshot INTEGER PRIMARY KEY, toc_key TEXT NOT NULL, toc_size INTEGER NOT NULL,
  toc_blake3 TEXT NOT NULL);
CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
";

/// The columns of `inode` in the order of [`crate::inode::InodeRow`].
pub const INODE_COLUMNS: &str = "ino, xid, kind, mode, uid, gid, nlink, size, min_size, rdev, \
                                 atime, mtime, ctime, btime, gone";

/// What the KVS of an instance adds to the layer tables; none of it is published.
///
/// - `inline`: the content of files of up to 16 KiB. `data` NULL hides a row below (the file moved
///   to a backing file or is gone).
/// - `backing`: regular files whose content lies in a backing file `data/<xx>/<ino>-<file>`;
///   `file` 0 hides a row below (the file is inline again).
/// - `block`: which blocks of a backing file are resident, and which operation last wrote them.
pub const KVS_TABLES: &str = "
CREATE TABLE inline(ino INTEGER PRIMARY KEY, data BLOB, xid INTEGER NOT NULL);
CREATE TABLE backing(ino INTEGER PRIMARY KEY, file INTEGER NOT NULL);
CREATE TABLE block(
  ino INTEGER NOT NULL, blk INTEGER NOT NULL, xid INTEGER NOT NULL,
  PRIMARY KEY(ino, blk)) WITHOUT ROWID;
";
