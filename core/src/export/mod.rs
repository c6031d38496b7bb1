//! A whole snapshot as one tree: [`walk`] goes through it and hands every entry to a [`Sink`], which
//! makes a tar ([`TarSink`]) or files ([`DirectorySink`]) of it.
//!
//! Order: a directory, what lies in it but directories (by inode number: the order in which
//! contents lie in the tarballs), then its subdirectories by name; then it is left. The names of
//! one directory and those above it are in memory, and the paths of files with several names.
//!
//! Names come from a bucket and go to file systems: one that is empty, `.`, `..` or has a `/` or a NUL is
//! damage, not a path.

mod directory;
mod tar;

pub use directory::{DirectorySink, Refused};
pub use tar::TarSink;

use crate::cloud_snapshot::{CloudSnapshot, Contents};
use crate::error::{Error, Result};
use crate::ids::Ino;
use crate::inode::{FileKind, InodeRow};
use crate::layers::paths::join;
use crate::layers::{BlockContent, DentryRow, Layer};
use crate::tarball::SparseMap;
use std::collections::HashMap;

/// Names read from a directory at once.
const BATCH: usize = 4096;

/// Holes begin and end at multiples of this: tar wants 512, disks 4096.
const GRAIN: u64 = 4096;

/// Blocks of a file that are looked up at once.
const BLOCKS: u64 = 256;

/// Names and values.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// An entry of the tree.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Its path, relative; the root's is empty.
    pub path: &'a [u8],
    /// Its attributes.
    pub row: &'a InodeRow,
    /// Its extended attributes, ACLs among them.
    pub xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

/// Takes the entries of a snapshot, in the order that the module describes.
pub trait Sink {
    /// A directory, before what lies in it.
    fn directory(&mut self, entry: Entry<'_>) -> Result<()>;

    /// All of a directory has come.
    fn leave_directory(&mut self, entry: Entry<'_>) -> Result<()>;

    /// A regular file; its contents come from `data`.
    fn file(&mut self, entry: Entry<'_>, data: &mut FileData<'_, '_>) -> Result<()>;

    /// A further name of the file, or whatever it is, that came under the path `first`.
    fn hard_link(&mut self, entry: Entry<'_>, first: &[u8]) -> Result<()>;

    /// A symlink.
    fn symlink(&mut self, entry: Entry<'_>, target: &[u8]) -> Result<()>;

    /// A fifo, device or socket.
    fn special(&mut self, entry: Entry<'_>) -> Result<()>;
}

/// The contents of a file that is being exported.
pub struct FileData<'c, 's> {
    contents: &'c mut Contents<'s>,
    snapshot: &'s CloudSnapshot,
    ino: Ino,
    map: SparseMap,
    before: Done,
    progress: &'c mut dyn FnMut(Done) -> Result<()>,
}

impl std::fmt::Debug for FileData<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileData")
            .field("ino", &self.ino)
            .finish_non_exhaustive()
    }
}

impl FileData<'_, '_> {
    /// Where the file has data; all else is holes.
    pub fn map(&self) -> &SparseMap {
        &self.map
    }

    /// Call `each` with all data of the map, in order, in pieces of up to a block: offset in the
    /// file and bytes.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Damage`] names the object that is missing or damaged; those of the bucket
    /// and of `each`.
    pub fn read(&mut self, mut each: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        let stack = self.snapshot.stack();
        let block_size = stack.block_size();
        let size = self.map.size();
        let contents = &mut *self.contents;
        let (map, before, progress) = (&self.map, self.before, &mut *self.progress);
        blocks_with_data(self.snapshot, self.ino, size, |content| {
            let from = content.blk * block_size;
            let to = size.min(from + block_size);
            let mut regions = map.data_within(from, to).peekable();
            if regions.peek().is_none() {
                return Ok(());
            }
            let length = usize::try_from(to - from)
                .map_err(|_| Error::failed("a block is larger than memory"))?;
            let bytes = contents.block(content, length)?;
            for (start, end) in regions {
                each(
                    start,
                    &bytes[(start - from) as usize..(end - from) as usize],
                )?;
            }
            progress(Done {
                bytes: before.bytes + to,
                ..before
            })
        })
    }
}

/// Visit the recipes of the blocks that some layer has data for, in order.
fn blocks_with_data(
    snapshot: &CloudSnapshot,
    ino: Ino,
    size: u64,
    mut visit: impl FnMut(&BlockContent) -> Result<()>,
) -> Result<()> {
    let stack = snapshot.stack();
    for extent in stack.extents(ino, 0, size.div_ceil(stack.block_size()))? {
        let end = extent.blk.saturating_add(extent.n);
        let mut from = extent.blk;
        while from < end {
            let to = end.min(from + BLOCKS);
            for content in stack.content(ino, from, to)? {
                visit(&content)?;
            }
            from = to;
        }
    }
    Ok(())
}

/// Where a file has data, from the index alone.
fn map_of(snapshot: &CloudSnapshot, row: &InodeRow) -> Result<SparseMap> {
    let mut map = SparseMap::new(row.size);
    let block_size = snapshot.stack().block_size();
    blocks_with_data(snapshot, row.ino, row.size, |content| {
        if content.extent.is_none() {
            return Ok(());
        }
        let start = content.blk.saturating_mul(block_size);
        let mut holes: Vec<(u64, u64)> = [&content.holes[..], &content.zeroes].concat();
        holes.sort_unstable();
        let mut data = |from: u64, to: u64| {
            if from < to {
                let to = to.next_multiple_of(GRAIN).min(block_size);
                map.add_data(start + from / GRAIN * GRAIN, start + to);
            }
        };
        let mut at = 0;
        for (from, to) in holes {
            data(at, from.min(content.len));
            at = at.max(to);
        }
        data(at, content.len);
        Ok(())
    })?;
    Ok(map)
}

/// How far an export is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// Names.
    pub names: u64,
    /// Bytes of files, holes included.
    pub bytes: u64,
}

/// Hand all of a snapshot to a sink. `progress` hears of every name and block; its error ends the work.
///
/// # Errors
/// [`crate::ErrorKind::Damage`] names the object or the path; those of the bucket and of the sink.
pub fn walk(
    snapshot: &CloudSnapshot,
    sink: &mut dyn Sink,
    progress: &mut dyn FnMut(Done) -> Result<()>,
) -> Result<Done> {
    let root = attributes(snapshot, Ino::ROOT, b"")?;
    let mut walk = Walk {
        snapshot,
        contents: Contents::new(snapshot),
        sink,
        progress,
        done: Done::default(),
        first_names: HashMap::new(),
    };
    let mut open = vec![walk.enter(Vec::new(), root)?];
    while let Some(directory) = open.last_mut() {
        match directory.subdirectories.pop() {
            Some((name, ino)) => {
                let path = join(&directory.path, &name);
                if open.len() > MAX_DEPTH {
                    let shown = path.escape_ascii();
                    let text = format!("{shown}: directories lie within each other without end");
                    return Err(Error::damage(text));
                }
                let row = attributes(snapshot, ino, &path)?;
                open.push(walk.enter(path, row)?);
            }
            None => {
                if let Some(directory) = open.pop() {
                    let xattrs = &directory.xattrs;
                    let (path, row) = (&directory.path, &directory.row);
                    walk.sink.leave_directory(Entry { path, row, xattrs })?;
                }
            }
        }
    }
    Ok(walk.done)
}

/// No path has more directories than this: a deeper one is a loop.
const MAX_DEPTH: usize = 1 << 16;

struct Walk<'w, 's> {
    snapshot: &'s CloudSnapshot,
    contents: Contents<'s>,
    sink: &'w mut dyn Sink,
    progress: &'w mut dyn FnMut(Done) -> Result<()>,
    done: Done,
    /// The path under which an inode with several names came first, and how many are to come.
    first_names: HashMap<Ino, (Vec<u8>, u32)>,
}

/// A directory whose contents came already; its subdirectories follow.
struct OpenDirectory {
    path: Vec<u8>,
    row: InodeRow,
    xattrs: Xattrs,
    /// By name, last one first.
    subdirectories: Vec<(Vec<u8>, Ino)>,
}

impl Walk<'_, '_> {
    /// Hand over a directory and all in it that is no directory.
    fn enter(&mut self, path: Vec<u8>, row: InodeRow) -> Result<OpenDirectory> {
        if row.kind != FileKind::Directory {
            let shown = path.escape_ascii();
            return Err(Error::damage(format!("{shown} is a directory and is none")));
        }
        let xattrs = self.xattrs(row.ino)?;
        self.sink.directory(Entry {
            path: &path,
            row: &row,
            xattrs: &xattrs,
        })?;
        self.tell(0)?;
        let (mut files, mut subdirectories) = (Vec::new(), Vec::new());
        let mut after: Option<(u64, Vec<u8>)> = None;
        let stack = self.snapshot.stack();
        loop {
            let position = after.as_ref().map(|(hash, name)| (*hash, name.as_slice()));
            let rows = stack.scan_dir(row.ino, position, BATCH)?;
            let ended = rows.len() < BATCH;
            after = rows.last().map(|last| (last.hash, last.name.clone()));
            for DentryRow {
                name, ino, kind, ..
            } in rows
            {
                let Some(ino) = ino else { continue };
                check_name(&path, &name)?;
                match kind {
                    FileKind::Directory => subdirectories.push((name, ino)),
                    _ => files.push((ino, name)),
                }
            }
            if ended {
                break;
            }
        }
        files.sort_unstable();
        subdirectories.sort_unstable();
        subdirectories.reverse();
        for (ino, name) in files {
            self.file(&join(&path, &name), ino)?;
        }
        Ok(OpenDirectory {
            path,
            row,
            xattrs,
            subdirectories,
        })
    }

    fn file(&mut self, path: &[u8], ino: Ino) -> Result<()> {
        let row = attributes(self.snapshot, ino, path)?;
        if let Some((first, left)) = self.first_names.get_mut(&ino) {
            let entry = Entry {
                path,
                row: &row,
                xattrs: &[],
            };
            self.sink.hard_link(entry, first)?;
            *left -= 1;
            if *left == 0 {
                self.first_names.remove(&ino);
            }
            return self.tell(0);
        }
        let xattrs = self.xattrs(ino)?;
        let entry = Entry {
            path,
            row: &row,
            xattrs: &xattrs,
        };
        match row.kind {
            FileKind::File => {
                let mut data = FileData {
                    map: map_of(self.snapshot, &row)?,
                    contents: &mut self.contents,
                    snapshot: self.snapshot,
                    ino,
                    before: self.done,
                    progress: &mut *self.progress,
                };
                self.sink
                    .file(entry, &mut data)
                    .map_err(|e| e.context(format!("/{} failed", path.escape_ascii())))?;
            }
            FileKind::Symlink => {
                let target = self.snapshot.stack().link(ino)?.ok_or_else(|| {
                    let shown = path.escape_ascii();
                    Error::damage(format!("the symlink {shown} has no target"))
                })?;
                self.sink.symlink(entry, &target)?;
            }
            FileKind::Directory => {
                let shown = path.escape_ascii();
                return Err(Error::damage(format!("{shown} is no directory and is one")));
            }
            _ => self.sink.special(entry)?,
        }
        if row.nlink > 1 {
            let first = (path.to_vec(), row.nlink - 1);
            self.first_names.insert(ino, first);
        }
        self.tell(row.size)
    }

    fn xattrs(&self, ino: Ino) -> Result<Xattrs> {
        let rows = self.snapshot.stack().xattrs(ino)?.into_iter();
        Ok(rows.filter_map(|x| Some((x.name, x.value?))).collect())
    }

    fn tell(&mut self, bytes: u64) -> Result<()> {
        self.done.names += 1;
        self.done.bytes += bytes;
        (self.progress)(self.done)
    }
}

fn attributes(snapshot: &CloudSnapshot, ino: Ino, path: &[u8]) -> Result<InodeRow> {
    let row = snapshot.stack().inode(ino)?.filter(|row| !row.gone);
    row.ok_or_else(|| {
        let shown = path.escape_ascii();
        Error::damage(format!(
            "the index has no attributes of /{shown} (inode {ino})"
        ))
    })
}

fn check_name(directory: &[u8], name: &[u8]) -> Result<()> {
    let is_name = !name.is_empty()
        && name != b"."
        && name != b".."
        && !name.contains(&b'/')
        && !name.contains(&0);
    if is_name {
        return Ok(());
    }
    let (name, directory) = (name.escape_ascii(), directory.escape_ascii());
    Err(Error::damage(format!(
        "the index has the impossible name {name:?} in /{directory}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leads_elsewhere_is_damage_and_no_path() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"/etc/passwd", b"a\0b"] {
            let error = check_name(b"dir", bad).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Damage);
        }
        for good in [&b"a"[..], b"...", b"new\nline", b"\xff"] {
            check_name(b"dir", good).unwrap();
        }
    }
}
