//! A snapshot as a plain pax tar: the members that the persister writes, of the whole tree, without
//! the records that only CBFS reads.

use super::{Entry, FileData, Sink};
use crate::error::{Context, Result};
use crate::inode::FileKind;
use crate::tarball::{END_OF_ARCHIVE, Member, MemberKind, padding};
use std::io::Write;

/// Writes a tar to `out`. A tar that was not finished has no end, which `tar` tells.
#[derive(Debug)]
pub struct TarSink<W> {
    out: W,
    headers: Vec<u8>,
    sockets: u64,
}

impl<W: Write> TarSink<W> {
    /// An empty archive.
    pub fn new(out: W) -> TarSink<W> {
        TarSink {
            out,
            headers: Vec::new(),
            sockets: 0,
        }
    }

    /// Write the end of the archive and flush. Answers the writer, and how many sockets were left
    /// out: tar does not have them.
    pub fn finish(mut self) -> Result<(W, u64)> {
        self.out.write_all(&END_OF_ARCHIVE).context(unwritable)?;
        self.out.flush().context(unwritable)?;
        Ok((self.out, self.sockets))
    }

    fn member(&mut self, entry: &Entry<'_>, path: &[u8], kind: MemberKind<'_>) -> Result<()> {
        let row = entry.row;
        self.headers.clear();
        Member {
            path,
            kind,
            mode: row.mode,
            uid: row.uid,
            gid: row.gid,
            mtime: row.mtime,
            atime: row.atime,
            ctime: row.ctime,
            ino: row.ino,
            xid: None,
            blk: None,
            xattrs: entry.xattrs,
        }
        .encode(&mut self.headers);
        self.out.write_all(&self.headers).context(unwritable)
    }
}

impl<W: Write> Sink for TarSink<W> {
    fn directory(&mut self, entry: Entry<'_>) -> Result<()> {
        let path = match entry.path {
            b"" => b"./".to_vec(),
            path => [path, b"/".as_slice()].concat(),
        };
        self.member(&entry, &path, MemberKind::Directory)
    }

    fn leave_directory(&mut self, _: Entry<'_>) -> Result<()> {
        Ok(())
    }

    fn file(&mut self, entry: Entry<'_>, data: &mut FileData<'_, '_>) -> Result<()> {
        let map = data.map().clone();
        let size = entry.row.size;
        let (kind, archived) = match map.is_dense() {
            true => (MemberKind::File { size }, size),
            false => {
                let archived = map.encode().len() as u64 + map.stored();
                (MemberKind::Sparse(&map), archived)
            }
        };
        self.member(&entry, entry.path, kind)?;
        data.read(|_, bytes| self.out.write_all(bytes).context(unwritable))?;
        let zeros = [0; crate::tarball::RECORD];
        self.out
            .write_all(&zeros[..padding(archived)])
            .context(unwritable)
    }

    fn hard_link(&mut self, entry: Entry<'_>, first: &[u8]) -> Result<()> {
        if entry.row.kind == FileKind::Socket {
            self.sockets += 1;
            return Ok(());
        }
        self.member(&entry, entry.path, MemberKind::HardLink(first))
    }

    fn symlink(&mut self, entry: Entry<'_>, target: &[u8]) -> Result<()> {
        self.member(&entry, entry.path, MemberKind::Symlink(target))
    }

    fn special(&mut self, entry: Entry<'_>) -> Result<()> {
        let kind = match entry.row.kind {
            FileKind::CharDevice => MemberKind::CharDevice(entry.row.rdev),
            FileKind::BlockDevice => MemberKind::BlockDevice(entry.row.rdev),
            FileKind::Fifo => MemberKind::Fifo,
            _ => {
                self.sockets += 1;
                return Ok(());
            }
        };
        self.member(&entry, entry.path, kind)
    }
}

fn unwritable() -> String {
    "the archive could not be written".to_owned()
}
