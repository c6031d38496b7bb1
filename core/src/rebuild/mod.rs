//! Regenerating the index of a snapshot, its TOC and its layer, from its tarballs alone: rows from
//! the metadata tarball's `changes.jsonl`, the places of contents from the data tarballs' headers
//! and frames. [`compare`] proves that the result says what the original says.
//!
//! Both kinds of tarballs are streamed side by side, as the list of members has the order of the
//! tarballs; memory does not depend on the size of either, but for some 40 bytes per block of the
//! current data tarball.

pub mod chain;
pub mod compare;
mod data;
pub mod proof;

use crate::bucket::Bucket;
use crate::cloud_snapshot::{Scratch, TarballStream};
use crate::durable_file;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::changes::{
    CHANGES_MEMBER, Change, MemberChange, SNAPSHOT_MEMBER, SnapshotRecord, read_changes,
};
use crate::format::manifest::{LayerRef, Manifest, writer};
use crate::format::{self, ObjectRef, keys};
use crate::frames::{compress_seekable, compress_whole};
use crate::handle::Handle;
use crate::ids::{Epoch, SnapshotNumber};
use crate::layers::{LayerDb, SourceRow, rows};
use crate::tarball::DEFAULT_LEVEL;
use data::DataTarballs;
use rusqlite::Connection;
use std::fs;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// Largest `.cbfs/snapshot.json` that is read.
const RECORD_MAX: u64 = 1 << 20;

/// What was made of one snapshot.
#[derive(Debug)]
pub struct Rebuilt {
    /// Which snapshot it is, as its metadata tarball says.
    pub record: SnapshotRecord,
    /// The metadata tarball.
    pub meta_tarball: ObjectRef,
    /// The data tarballs, in order.
    pub tarballs: Vec<ObjectRef>,
    /// The TOC made from them; `None` when there is no data tarball.
    pub toc: Option<Made>,
    /// The layer.
    pub layer: Made,
}

impl Rebuilt {
    /// Remove the plain databases.
    pub fn remove_plain(&self) -> Result<()> {
        for made in self.toc.iter().chain([&self.layer]) {
            let plain = &made.plain;
            fs::remove_file(plain).context(|| format!("{} stays", plain.display()))?;
        }
        Ok(())
    }

    /// A manifest of this snapshot that refers to what was rebuilt, above those of its parent.
    /// What only the lost original could tell (node, sums, log) comes from `original` or is left out.
    pub fn manifest(&self, original: Option<&Manifest>, parent: Option<&Manifest>) -> Manifest {
        let record = &self.record;
        let own = LayerRef {
            object: self.layer.object.clone(),
            from: record.number,
            to: record.number,
        };
        let below = parent
            .map(|parent| parent.layers.clone())
            .unwrap_or_default();
        Manifest {
            format: Manifest::FORMAT,
            features: record.features.clone(),
            fs: record.fs.clone(),
            number: record.number,
            epoch: record.epoch,
            attempt: record.attempt.clone(),
            name: record.name.clone(),
            kind: record.kind,
            xid: record.xid,
            parent: record.parent,
            created_at: record.created_at.clone(),
            node: original.map(|m| m.node.clone()).unwrap_or_default(),
            layers: [vec![own], below].concat(),
            toc: self.toc.as_ref().map(|toc| toc.object.clone()),
            meta_tarball: Some(self.meta_tarball.clone()),
            log: original.and_then(|m| m.log.clone()),
            status_log: original.and_then(|m| m.status_log.clone()),
            status: original.and_then(|m| m.status.clone()),
            totals: original.map(|m| m.totals).unwrap_or_default(),
            writer: writer(),
        }
    }
}

/// A database that was made.
#[derive(Debug)]
pub struct Made {
    /// As it would stand in the bucket. Its bytes need not be those of the original, even when
    /// all rows are.
    pub object: ObjectRef,
    /// The compressed file.
    pub path: PathBuf,
    /// The plain database; removed by the caller.
    pub plain: PathBuf,
}

/// The folder of a snapshot's objects, found without manifest or TOC: the one attempt at it that
/// has a metadata tarball. One listing.
///
/// # Errors
/// [`ErrorKind::NotFound`] when there is none, [`ErrorKind::Conflict`] when several attempts have
/// one (then only the manifest can tell which one counts).
pub fn find_attempt(
    bucket: &dyn Bucket,
    fs: &Handle,
    number: SnapshotNumber,
    epoch: Option<Epoch>,
) -> Result<String> {
    let folder = match epoch {
        Some(epoch) => keys::attempt_prefix(number, epoch, ""),
        None => format!("s/{:010}-e", number.0),
    };
    let folder = folder.trim_end_matches('/');
    let prefix = format!("{fs}/");
    let objects = bucket.list(&format!("{prefix}{folder}"))?;
    let tail = keys::tarball(0);
    let mut found: Vec<&str> = objects
        .iter()
        .filter_map(|o| o.key.as_str().strip_prefix(&prefix)?.strip_suffix(&tail))
        .collect();
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only.to_owned()),
        (None, _) => {
            let text = format!("{fs} has no metadata tarball of snapshot {number}");
            Err(Error::new(ErrorKind::NotFound, text)
                .hint(format!(
                "`cbfsctl snapshot list {fs}` shows which there are; one in which nothing changed has no \
                 tarball: rebuild the one it builds on"
            )))
        }
        (Some(last), false) => {
            let text = format!(
                "several attempts at snapshot {number} of {fs} lie in the bucket, and no manifest \
                 says which one counts: {}, {last}",
                found.join(", ")
            );
            Err(Error::new(ErrorKind::Conflict, text))
        }
    }
}

/// Rebuild TOC and layer of the snapshot whose objects lie in `folder` (relative, with its final
/// `/`), at their keys below `out`, which gets the folders it needs. Nothing in `out` is
/// overwritten; plain databases are made in `scratch`.
///
/// # Errors
/// [`ErrorKind::NotFound`] and [`ErrorKind::Damage`] name the tarball; those of bucket and disk.
pub fn rebuild(
    bucket: &dyn Bucket,
    fs: &Handle,
    folder: &str,
    scratch: &Scratch,
    out: &Path,
) -> Result<Rebuilt> {
    let key = |name: &str| format!("{folder}{name}");
    let mut metadata = TarballStream::open(bucket, fs, &key(&keys::tarball(0)))?;
    let record = read_record(&mut metadata, fs)?;
    let (plain_toc, plain_layer) = (scratch.path("toc.sqlite"), scratch.path("layer.sqlite"));
    let layer = LayerDb::create(&plain_layer)?;
    let mut data = DataTarballs::new(bucket, fs, folder, &record, &plain_toc)?;
    layer.with(|conn| {
        copy_changes(&mut metadata, conn, |member| data.member(member, conn))?;
        data.close(conn)
    })?;
    let (meta_tarball, _) = metadata.finish()?;
    let (has_toc, tarballs) = data.finish()?;
    let home = out.join(folder);
    fs::create_dir_all(&home).context(|| format!("{} could not be created", home.display()))?;
    let toc = if has_toc {
        let path = home.join(keys::TOC);
        let stored = compress_whole(&plain_toc, &path, DEFAULT_LEVEL)?;
        durable_file::sync_file(&path)
            .context(|| format!("{} could not be made durable", path.display()))?;
        Some(Made {
            object: stored.at(key(keys::TOC)),
            path,
            plain: plain_toc,
        })
    } else {
        None
    };
    layer.with(|conn| {
        if let Some(toc) = &toc {
            rows::put_source(
                conn,
                &SourceRow {
                    snapshot: record.number,
                    toc_key: toc.object.key.clone(),
                    toc_size: toc.object.size,
                    toc_blake3: toc.object.blake3.clone(),
                },
            )?;
        }
        rows::put_meta(conn, "fs", &fs.to_string())?;
        rows::put_meta(conn, "from", &record.number.to_string())?;
        rows::put_meta(conn, "to", &record.number.to_string())?;
        rows::put_meta(conn, "xid_from", &record.xid.from.to_string())?;
        rows::put_meta(conn, "xid_to", &record.xid.to.to_string())
    })?;
    layer.finish()?;
    let path = home.join(keys::LAYER);
    let stored = compress_seekable(&plain_layer, &path, DEFAULT_LEVEL)?;
    durable_file::sync_file(&path)
        .context(|| format!("{} could not be made durable", path.display()))?;
    Ok(Rebuilt {
        record,
        meta_tarball,
        tarballs,
        toc,
        layer: Made {
            object: stored.at(key(keys::LAYER)),
            path,
            plain: plain_layer,
        },
    })
}

/// The layer of a snapshot without its contents: names and attributes, from the metadata tarball
/// alone. The database is made at `path`.
///
/// # Errors
/// As [`rebuild`].
pub fn names_alone(
    bucket: &dyn Bucket,
    fs: &Handle,
    meta_tarball: &str,
    path: &Path,
) -> Result<LayerDb> {
    let mut metadata = TarballStream::open(bucket, fs, meta_tarball)?;
    read_record(&mut metadata, fs)?;
    let layer = LayerDb::create(path)?;
    layer.with(|conn| {
        copy_changes(&mut metadata, conn, |_| Ok(()))?;
        rows::put_meta(conn, "fs", &fs.to_string())
    })?;
    layer.finish()?;
    LayerDb::open_immutable(path)
}

/// `.cbfs/snapshot.json`, which must come first.
pub(crate) fn read_record(metadata: &mut TarballStream<'_>, fs: &Handle) -> Result<SnapshotRecord> {
    expect_member(metadata, SNAPSHOT_MEMBER)?;
    let mut bytes = Vec::new();
    let read = metadata
        .contents()
        .take(RECORD_MAX)
        .read_to_end(&mut bytes)
        .context(|| format!("{SNAPSHOT_MEMBER} could not be read"))
        .and_then(|_| format::parse::<SnapshotRecord>(SNAPSHOT_MEMBER, &bytes));
    let record = read.map_err(|e| metadata.explain(e))?;
    if record.fs != *fs {
        let text = format!("{SNAPSHOT_MEMBER} is of {}, not of {fs}", record.fs);
        return Err(metadata.explain(Error::damage(text)));
    }
    if !record.block_size.is_power_of_two() {
        let text = format!("{SNAPSHOT_MEMBER} has a block size that is no power of two");
        return Err(metadata.explain(Error::damage(text)));
    }
    Ok(record)
}

/// Copy all rows of `.cbfs/changes.jsonl`, which must be the next member, to a layer; `member` gets
/// the members, which come last. Other kinds of rows are written as they come.
pub(crate) fn copy_changes(
    metadata: &mut TarballStream<'_>,
    conn: &Connection,
    mut member: impl FnMut(&MemberChange) -> Result<()>,
) -> Result<()> {
    expect_member(metadata, CHANGES_MEMBER)?;
    // An error of `member` is about another object: it must not be taken for one of this.
    let mut elsewhere = None;
    let mut copy = || -> Result<()> {
        for change in read_changes(BufReader::with_capacity(1 << 18, metadata.contents())) {
            match change? {
                Change::Inode(row) => rows::put_inode(conn, &row)?,
                Change::Dentry(change) => rows::put_dentry(conn, &change.row()?)?,
                Change::Link(change) => rows::put_link(conn, change.ino, &change.bytes()?)?,
                Change::Xattr(change) => rows::put_xattr(conn, &change.row()?)?,
                Change::Hole(change) => rows::put_hole(conn, &change.row())?,
                Change::Member(change) => {
                    if let Err(e) = member(&change) {
                        elsewhere = Some(e);
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    };
    let copied = copy();
    match elsewhere {
        Some(e) => Err(e),
        None => copied.map_err(|e| metadata.explain(e)),
    }
}

fn expect_member(metadata: &mut TarballStream<'_>, wanted: &str) -> Result<()> {
    match metadata.next_member()? {
        Some(found) if found.path == wanted.as_bytes() => Ok(()),
        _ => {
            let text = format!("{wanted} is not where it should be");
            Err(metadata.explain(Error::damage(text)))
        }
    }
}
