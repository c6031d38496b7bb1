//! The metadata tarball `0000.tar.zst`: what the snapshot is, all changed rows, and the attributes
//! of inodes without a member under their path.

use super::archive::SHARED_SECTION;
use super::frozen::Frozen;
use super::ledger::Part;
use super::plan::Plan;
use super::{Maker, remove};
use cbfs_core::error::{Context, Result};
use cbfs_core::format::changes::{
    CHANGES_MEMBER, SNAPSHOT_MEMBER, SnapshotRecord, attributes_member,
};
use cbfs_core::format::{Features, ObjectRef, keys, to_json};
use cbfs_core::ids::Ino;
use cbfs_core::inode::{FileKind, Timestamp};
use cbfs_core::tarball::{
    CompressionPool, END_OF_ARCHIVE, Member, MemberKind, SectionWriter, padding,
};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Raw bytes of the sections with the list of changes.
const SECTION: u64 = 1 << 20;

/// Write it, and note it; `changes`, the list of changes, is removed after.
pub(super) fn write(
    maker: &Maker<'_>,
    pool: &CompressionPool,
    frozen: &Frozen,
    plan: &Plan,
    changes: &Path,
) -> Result<()> {
    let job = maker.job;
    let mut writer = SectionWriter::create(&maker.path(&keys::tarball(0)), pool)?;
    let record = to_json(&SnapshotRecord {
        format: SnapshotRecord::FORMAT,
        features: Features::default(),
        fs: job.fs.clone(),
        number: job.number,
        epoch: job.epoch,
        attempt: job.attempt.clone(),
        name: job.name.clone(),
        kind: job.kind,
        xid: job.xid,
        parent: job.parent,
        created_at: job.created_at.clone(),
        block_size: job.block_size,
    })?;
    let mut raw = writer.buffer();
    document(maker, SNAPSHOT_MEMBER, record.len() as u64).encode(&mut raw);
    raw.extend_from_slice(&record);
    raw.resize(raw.len() + padding(record.len() as u64), 0);

    let failed = || format!("{} could not be read", changes.display());
    let mut source = File::open(changes).context(failed)?;
    let size = source.metadata().context(failed)?.len();
    document(maker, CHANGES_MEMBER, size).encode(&mut raw);
    let mut left = size;
    while left > 0 {
        maker.check_cancelled()?;
        let part = left.min(SECTION.saturating_sub(raw.len() as u64).max(1));
        let read = source
            .by_ref()
            .take(part)
            .read_to_end(&mut raw)
            .context(failed)? as u64;
        if read == 0 {
            return Err(cbfs_core::Error::failed(format!(
                "{} was cut off",
                changes.display()
            )));
        }
        left -= read;
        if raw.len() as u64 >= SECTION {
            let next = writer.buffer();
            writer.push(std::mem::replace(&mut raw, next))?;
        }
    }
    drop(source);
    remove(changes)?;
    raw.resize(raw.len() + padding(size), 0);

    for ino in &plan.attributes {
        attributes(maker, frozen, plan, *ino, &mut raw)?;
        if raw.len() as u64 >= SHARED_SECTION {
            maker.check_cancelled()?;
            let next = writer.buffer();
            writer.push(std::mem::replace(&mut raw, next))?;
        }
    }
    raw.extend_from_slice(&END_OF_ARCHIVE);
    writer.push(raw)?;
    let sealed = writer.seal()?;
    let object = ObjectRef {
        key: job.key(&keys::tarball(0)),
        size: sealed.size,
        blake3: sealed.blake3.to_hex().to_string(),
    };
    maker.object_made(Part::Metadata, &object, &sealed.path)
}

fn document<'m>(maker: &Maker<'_>, path: &'m str, size: u64) -> Member<'m> {
    let time = Timestamp::parse_rfc3339(&maker.job.created_at).unwrap_or_default();
    Member {
        path: path.as_bytes(),
        kind: MemberKind::File { size },
        mode: 0o600,
        uid: 0,
        gid: 0,
        mtime: time,
        atime: time,
        ctime: time,
        ino: Ino(0),
        xid: Some(maker.job.xid.to),
        blk: None,
        xattrs: &[],
    }
}

/// An empty file (or directory) with all attributes of an inode.
fn attributes(
    maker: &Maker<'_>,
    frozen: &Frozen,
    plan: &Plan,
    ino: Ino,
    out: &mut Vec<u8>,
) -> Result<()> {
    let job = maker.job;
    let row = frozen.inode(ino)?;
    let xattrs = plan.xattrs(frozen, job.instance, ino)?;
    let mut path = attributes_member(ino);
    let kind = match row.kind {
        FileKind::Directory => {
            path.push('/');
            MemberKind::Directory
        }
        _ => MemberKind::File { size: 0 },
    };
    Member {
        path: path.as_bytes(),
        kind,
        mode: row.mode,
        uid: row.uid,
        gid: row.gid,
        mtime: row.mtime,
        atime: row.atime,
        ctime: row.ctime,
        ino,
        xid: Some(row.xid),
        blk: None,
        xattrs: &xattrs,
    }
    .encode(out);
    Ok(())
}
