//! Loading rows from the files into the clean cache.
//!
//! Race: between reading the files and filling the cache, a newer version of the row may have gone
//! from `hot` through `flushing` into the files. [`Tables::generation`] is raised after the commit and
//! before the first such row enters the cache; a row read before is thrown away and read again.

use super::file::dentry_of;
use super::table::{Dentry, Inline, Inode, Xattr};
use super::{Files, Kvs, Miss, NameKey, Tables};
use cbfs_core::error::{Error, Result};
use cbfs_core::ids::{Ino, Xid};
use cbfs_core::inode::{FileKind, InodeRow};
use cbfs_core::layers::{DentryRow, Layer};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A directory with at most this many names is loaded whole on the first miss ...
const WHOLE_DIRECTORY: usize = 512;
/// ... if the cache may hold this many bytes for each: an operation on two directories must find room
/// for both, or it would load the one, lose the other, and start over for ever.
const CACHE_PER_NAME: usize = 2048;

/// A row as the files have it.
enum Loaded {
    Inode(Inode),
    Name(Ino, NameKey, Dentry),
    Directory(Ino, Vec<DentryRow>),
    LargeDirectory(Ino, NameKey, Dentry),
    Xattrs(Ino, Vec<(Vec<u8>, Xattr)>),
    Inline(Ino, Inline),
    Link(Ino, Vec<u8>),
}

impl Kvs {
    /// Bring a row into the cache. A row that exists nowhere becomes a tombstone there, so that a
    /// second look does not miss again.
    pub fn load(&self, miss: &Miss) -> Result<()> {
        loop {
            let (generation, large) = {
                let tables = self.tables.lock();
                let large =
                    matches!(miss, Miss::Dentry(parent, _) if tables.cache.large.contains(parent));
                (tables.generation, large)
            };
            let limit = self.cache_limit.load(Ordering::Relaxed);
            // Reads alone must stay within the bound too: on a slave, and while no flush comes.
            self.bound_cache(limit);
            let loaded = fetch(&self.files(), miss, large, limit)?;
            let mut tables = self.tables.lock();
            if tables.generation == generation {
                install(&mut tables, loaded);
                return Ok(());
            }
        }
    }
}

fn fetch(files: &Files, miss: &Miss, large: bool, cache_limit: usize) -> Result<Loaded> {
    Ok(match miss {
        Miss::Inode(ino) => {
            // A stack answers the smallest `min_size` of all its layers; the next change of the row
            // goes on from the one of `active` alone, as that is the range it will stand in.
            let active = files
                .active
                .as_ref()
                .map(|file| file.inode(*ino))
                .transpose()?;
            let row = match active.flatten() {
                Some(row) => row,
                None => files
                    .stack
                    .inode(*ino)?
                    .unwrap_or(InodeRow::tombstone(*ino, Xid(0))),
            };
            let file = if row.kind == FileKind::File && !row.gone {
                first(files, |f| f.backing(*ino))?.unwrap_or(0)
            } else {
                0
            };
            Loaded::Inode(Inode { row, file })
        }
        Miss::Dentry(parent, key) => {
            if !large {
                let most = WHOLE_DIRECTORY.min(cache_limit / CACHE_PER_NAME);
                let all = files.stack.scan_dir(*parent, None, most + 1)?;
                if all.len() <= most {
                    return Ok(Loaded::Directory(*parent, all));
                }
            }
            let dentry = match files.stack.dentry(*parent, &key.1)? {
                Some(row) => dentry_of(&row),
                None => Dentry {
                    ino: None,
                    kind: FileKind::File,
                    xid: Xid(0),
                },
            };
            if large {
                Loaded::Name(*parent, key.clone(), dentry)
            } else {
                Loaded::LargeDirectory(*parent, key.clone(), dentry)
            }
        }
        Miss::Xattrs(ino) => {
            let all = files.stack.xattrs(*ino)?;
            let xattr = |value: Option<Vec<u8>>, xid| Xattr {
                value: value.map(Into::into),
                xid,
            };
            Loaded::Xattrs(
                *ino,
                all.into_iter()
                    .map(|x| (x.name, xattr(x.value, x.xid)))
                    .collect(),
            )
        }
        Miss::Inline(ino) => {
            let inline = first(files, |f| f.inline(*ino))?;
            Loaded::Inline(
                *ino,
                inline.unwrap_or(Inline {
                    data: None,
                    xid: Xid(0),
                }),
            )
        }
        Miss::Link(ino) => match files.stack.link(*ino)? {
            Some(target) => Loaded::Link(*ino, target),
            None => return Err(Error::damage(format!("the symlink {ino} has no target"))),
        },
    })
}

/// The first answer of the KVS's own files, newest first.
fn first<T>(
    files: &Files,
    ask: impl Fn(&super::KvsFile) -> Result<Option<T>>,
) -> Result<Option<T>> {
    for file in files.own() {
        if let Some(answer) = ask(file)? {
            return Ok(Some(answer));
        }
    }
    Ok(None)
}

fn install(tables: &mut Tables, loaded: Loaded) {
    let cache = &mut tables.cache;
    match loaded {
        Loaded::Inode(inode) => cache.put_inode(inode),
        Loaded::Name(parent, key, dentry) => cache.put_dentry(parent, key, dentry),
        Loaded::LargeDirectory(parent, key, dentry) => {
            cache.large.insert(parent);
            cache.put_dentry(parent, key, dentry);
        }
        Loaded::Directory(parent, all) => {
            for row in all.into_iter().filter(|r| r.ino.is_some()) {
                let dentry = dentry_of(&row);
                cache.put_dentry(parent, (row.hash, row.name.into()), dentry);
            }
            cache.complete.insert(parent);
        }
        Loaded::Xattrs(ino, all) => {
            cache.touch_xattrs(ino);
            for (name, xattr) in all {
                cache.put_xattr(ino, name, xattr);
            }
        }
        Loaded::Inline(ino, inline) => cache.put_inline(ino, inline),
        Loaded::Link(ino, target) => cache.put_link(ino, Arc::from(target)),
    }
}
