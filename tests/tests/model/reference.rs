//! The reference: a file system in memory, simple enough to be right. Inodes have identities of
//! their own, so that hard links, renames and open files without a name are what they are.

use crate::operation::{
    Allocation, Operation as O, Place, Renaming, Setting, Special, Stamp, crowd_name,
};
use crate::strategy::SLOTS;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// File mode creation mask of the test process.
pub(crate) const UMASK: u32 = 0o022;
const SGID: u32 = 0o2000;
const SUID: u32 = 0o4000;

/// An inode's identity in the model.
pub(crate) type Id = u64;
pub(crate) const ROOT: Id = 0;

/// What an operation answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    Count(u64),
    Bytes(Arc<Vec<u8>>),
    Names(BTreeSet<Vec<u8>>),
}

pub(crate) type Outcome = Result<Answer, Errno>;

/// What an inode is.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    File(Arc<Vec<u8>>),
    Directory(BTreeMap<Vec<u8>, Id>),
    Symlink(Vec<u8>),
    Special(Special),
    /// A directory that belongs to somebody else.
    Foreign,
}

/// An inode.
#[derive(Debug, Clone)]
pub(crate) struct Inode {
    pub kind: Kind,
    /// Permissions, without the type.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u64,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// `None` when it is for the file system to say: the next look learns it, and from then on it
    /// must stay.
    pub mtime: Option<Stamp>,
    pub ctime: Option<Stamp>,
    /// Only where reading does not change it.
    pub atime: Option<Stamp>,
    /// The number the file system gave it, once seen.
    pub number: Option<u64>,
}

/// The file system.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    pub inodes: BTreeMap<Id, Inode>,
    next: Id,
    /// Every inode number ever seen: none is given twice.
    pub numbers: BTreeMap<u64, Id>,
    slots: [Option<Id>; SLOTS],
    is_root: bool,
}

impl Tree {
    /// A file system that was just made, with the root directory's attributes as found.
    pub(crate) fn new(mode: u32, uid: u32, gid: u32) -> Tree {
        let mut tree = Tree {
            inodes: BTreeMap::new(),
            next: ROOT,
            numbers: BTreeMap::new(),
            slots: [None; SLOTS],
            is_root: cbfs_tests::tools::is_root(),
        };
        let root = tree.insert(Kind::Directory(BTreeMap::new()), mode, (uid, gid));
        assert_eq!(root, ROOT);
        tree
    }

    fn insert(&mut self, kind: Kind, mode: u32, owner: (u32, u32)) -> Id {
        let id = self.next;
        self.next += 1;
        let nlink = if matches!(kind, Kind::Directory(_)) {
            2
        } else {
            1
        };
        let inode = Inode {
            kind,
            mode,
            uid: owner.0,
            gid: owner.1,
            nlink,
            xattrs: BTreeMap::new(),
            mtime: None,
            ctime: None,
            atime: None,
            number: None,
        };
        self.inodes.insert(id, inode);
        id
    }

    /// Note a directory in the root that is not the model's business.
    pub(crate) fn add_foreign(&mut self, name: &str, mode: u32, owner: (u32, u32)) {
        let id = self.insert(Kind::Foreign, mode, owner);
        self.names_mut(ROOT).insert(name.as_bytes().to_vec(), id);
        self.inode(ROOT).nlink += 1;
    }

    pub(crate) fn inode(&mut self, id: Id) -> &mut Inode {
        self.inodes.get_mut(&id).expect("an inode of the model")
    }

    fn names(&self, id: Id) -> Option<&BTreeMap<Vec<u8>, Id>> {
        match &self.inodes[&id].kind {
            Kind::Directory(names) => Some(names),
            _ => None,
        }
    }

    fn names_mut(&mut self, id: Id) -> &mut BTreeMap<Vec<u8>, Id> {
        match &mut self.inode(id).kind {
            Kind::Directory(names) => names,
            other => unreachable!("{other:?} is no directory"),
        }
    }

    fn is_directory(&self, id: Id) -> bool {
        self.names(id).is_some()
    }

    /// The directory of a place, and its last name. Symbolic links lead nowhere.
    fn parent(&self, place: &Place) -> Result<(Id, Vec<u8>), Errno> {
        let mut names: Vec<Vec<u8>> = place.names().collect();
        let last = names.pop().expect("not for the root");
        let mut at = ROOT;
        for name in names {
            let inside = self.names(at).ok_or(Errno::NOTDIR)?;
            at = *inside.get(&name).ok_or(Errno::NOENT)?;
            if matches!(self.inodes[&at].kind, Kind::Symlink(_)) {
                return Err(Errno::NOENT);
            }
        }
        self.names(at).ok_or(Errno::NOTDIR)?;
        Ok((at, last))
    }

    /// The inode of a place, symbolic links not followed.
    pub(crate) fn find(&self, place: &Place) -> Result<Id, Errno> {
        if place.names().next().is_none() {
            return Ok(ROOT);
        }
        let (parent, name) = self.parent(place)?;
        self.child(parent, &name).ok_or(Errno::NOENT)
    }

    fn child(&self, parent: Id, name: &[u8]) -> Option<Id> {
        self.names(parent).and_then(|n| n.get(name)).copied()
    }

    /// A place at which something new may appear.
    fn free(&self, place: &Place) -> Result<(Id, Vec<u8>), Errno> {
        let (parent, name) = self.parent(place)?;
        match self.child(parent, &name) {
            Some(_) => Err(Errno::EXIST),
            None => Ok((parent, name)),
        }
    }

    /// Open for writing: a regular file.
    fn open_file(&self, place: &Place) -> Result<Id, Errno> {
        let id = self.find(place)?;
        match self.inodes[&id].kind {
            Kind::File(_) => Ok(id),
            Kind::Directory(_) => Err(Errno::ISDIR),
            Kind::Symlink(_) => Err(Errno::LOOP),
            Kind::Special(_) => Err(Errno::NXIO),
            Kind::Foreign => unreachable!("no operation names it"),
        }
    }

    /// Open for reading: directories too.
    fn open_to_read(&self, place: &Place) -> Result<Id, Errno> {
        match self.open_file(place) {
            Err(Errno::ISDIR) => self.find(place),
            other => other,
        }
    }

    /// What without root cannot be is left out, here as on the mount.
    pub(crate) fn allowed_mode(&self, mode: u32) -> u32 {
        if self.is_root {
            mode
        } else {
            mode & 0o777 | 0o700
        }
    }

    fn changed_names(&mut self, directory: Id) {
        let inode = self.inode(directory);
        (inode.mtime, inode.ctime) = (None, None);
    }

    fn enter(&mut self, at: (Id, Vec<u8>), id: Id) {
        if self.is_directory(id) {
            self.inode(at.0).nlink += 1;
        }
        self.names_mut(at.0).insert(at.1, id);
        self.changed_names(at.0);
    }

    fn leave(&mut self, at: &(Id, Vec<u8>)) -> Id {
        let id = self.names_mut(at.0).remove(&at.1).expect("a name");
        if self.is_directory(id) {
            self.inode(at.0).nlink -= 1;
        }
        self.changed_names(at.0);
        id
    }

    fn lost_name(&mut self, id: Id) {
        let is_directory = self.is_directory(id);
        let inode = self.inode(id);
        inode.nlink = if is_directory { 0 } else { inode.nlink - 1 };
        inode.ctime = None;
        self.drop_if_unused(id);
    }

    fn drop_if_unused(&mut self, id: Id) {
        if self.inodes[&id].nlink == 0 && !self.slots.contains(&Some(id)) {
            self.inodes.remove(&id);
        }
    }

    /// All open files are closed.
    pub(crate) fn close_all(&mut self) {
        for slot in 0..SLOTS {
            if let Some(id) = self.slots[slot].take() {
                self.drop_if_unused(id);
            }
        }
    }

    fn create(&mut self, at: &Place, kind: Kind, mode: u32) -> Outcome {
        let at = self.free(at)?;
        let (parent_mode, parent_gid) = (self.inodes[&at.0].mode, self.inodes[&at.0].gid);
        let is_directory = matches!(kind, Kind::Directory(_));
        let mut mode = match kind {
            Kind::Symlink(_) => 0o777,
            Kind::Directory(_) => self.allowed_mode(mode) & 0o1777 & !UMASK,
            _ => self.allowed_mode(mode) & !UMASK,
        };
        let mut gid = rustix::process::getegid().as_raw();
        if parent_mode & SGID != 0 {
            gid = parent_gid;
            if is_directory {
                mode |= SGID;
            }
        }
        let uid = rustix::process::geteuid().as_raw();
        let id = self.insert(kind, mode, (uid, gid));
        self.enter(at, id);
        Ok(Answer::Done)
    }

    /// `O_CREAT` without `O_EXCL`. Errors are those of the open that follows.
    fn create_if_free(&mut self, at: &Place) -> Outcome {
        if self.free(at).is_ok() {
            self.create(at, Kind::File(Arc::default()), 0o644)?;
        }
        Ok(Answer::Done)
    }

    fn contents(&mut self, id: Id) -> &mut Vec<u8> {
        let inode = self.inode(id);
        (inode.mtime, inode.ctime) = (None, None);
        match &mut inode.kind {
            Kind::File(bytes) => Arc::make_mut(bytes),
            other => unreachable!("{other:?} is no file"),
        }
    }

    fn bytes(&self, id: Id) -> Arc<Vec<u8>> {
        match &self.inodes[&id].kind {
            Kind::File(bytes) => Arc::clone(bytes),
            other => unreachable!("{other:?} is no file"),
        }
    }

    fn write(&mut self, id: Id, offset: u64, bytes: &[u8]) {
        let contents = self.contents(id);
        let (from, to) = (offset as usize, offset as usize + bytes.len());
        if contents.len() < to {
            contents.resize(to, 0);
        }
        contents[from..to].copy_from_slice(bytes);
    }

    fn allocate(&mut self, id: Id, how: Allocation, offset: u64, length: u64) {
        let contents = self.contents(id);
        let (from, to) = (offset as usize, (offset + length) as usize);
        if matches!(how, Allocation::Grow | Allocation::Zero) && contents.len() < to {
            contents.resize(to, 0);
        }
        if !matches!(how, Allocation::Grow | Allocation::Keep) {
            let end = contents.len();
            contents[from.min(end)..to.min(end)].fill(0);
        }
    }

    /// The name of an attribute as this user can set it.
    pub(crate) fn xattr_name(&self, name: &str) -> String {
        match name.strip_prefix("trusted.") {
            Some(rest) if !self.is_root => format!("user.{rest}"),
            _ => name.to_owned(),
        }
    }

    fn with_xattrs(&self, at: &Place, name: &str) -> Result<(Id, Vec<u8>), Errno> {
        let id = self.find(at)?;
        let name = self.xattr_name(name);
        let plain = matches!(self.inodes[&id].kind, Kind::File(_) | Kind::Directory(_));
        if name.starts_with("user.") && !plain {
            return Err(Errno::PERM);
        }
        Ok((id, name.into_bytes()))
    }

    /// Whether `above` is `below` or a directory that holds it.
    fn holds(&self, above: Id, below: Id) -> bool {
        above == below
            || self.names(above).is_some_and(|names| {
                let mut inside = names.values().filter(|id| self.is_directory(**id));
                inside.any(|id| self.holds(*id, below))
            })
    }

    /// The checks in the order of the kernel's.
    fn rename(&mut self, from: &Place, to: &Place, how: Renaming) -> Outcome {
        let from = self.parent(from)?;
        let to = self.parent(to)?;
        let moved = self.child(from.0, &from.1).ok_or(Errno::NOENT)?;
        let target = self.child(to.0, &to.1);
        match (how, target) {
            (Renaming::NoReplace, Some(_)) => return Err(Errno::EXIST),
            (Renaming::Exchange, None) => return Err(Errno::NOENT),
            _ => {}
        }
        if self.holds(moved, to.0) {
            return Err(Errno::INVAL);
        }
        if target.is_some_and(|target| self.holds(target, from.0)) {
            return Err(match how {
                Renaming::Exchange => Errno::INVAL,
                _ => Errno::NOTEMPTY,
            });
        }
        if target == Some(moved) {
            return Ok(Answer::Done);
        }
        if let (Some(other), Renaming::Exchange) = (target, how) {
            self.leave(&from);
            self.leave(&to);
            self.enter(from, other);
            self.enter(to, moved);
            self.inode(moved).ctime = None;
            self.inode(other).ctime = None;
            return Ok(Answer::Done);
        }
        if let Some(target) = target {
            match (self.is_directory(moved), self.names(target)) {
                (true, None) => return Err(Errno::NOTDIR),
                (false, Some(_)) => return Err(Errno::ISDIR),
                (true, Some(names)) if !names.is_empty() => return Err(Errno::NOTEMPTY),
                _ => {}
            }
            self.leave(&to);
            self.lost_name(target);
        }
        self.leave(&from);
        self.enter(to, moved);
        self.inode(moved).ctime = None;
        Ok(Answer::Done)
    }

    fn copy(&mut self, from: (Id, u64), to: (Id, u64), length: u64) -> Outcome {
        let source = self.bytes(from.0);
        let end = source.len().min((from.1 + length) as usize);
        let start = end.min(from.1 as usize);
        let count = (end - start) as u64;
        if from.0 == to.0 && to.1 + count > from.1 && to.1 < from.1 + count {
            return Err(Errno::INVAL);
        }
        if count > 0 {
            self.write(to.0, to.1, &source[start..end]);
        }
        Ok(Answer::Count(count))
    }

    fn slot(&self, slot: usize) -> Result<Id, Errno> {
        self.slots[slot].ok_or(Errno::BADF)
    }

    /// Do it.
    pub(crate) fn perform(&mut self, operation: &O) -> Outcome {
        match operation {
            O::Create { at, mode } => self.create(at, Kind::File(Arc::default()), *mode),
            O::Mkdir { at, mode } => self.create(at, Kind::Directory(BTreeMap::new()), *mode),
            O::Mknod { at, mode, special } => {
                let special = match special {
                    Special::Device if !self.is_root => Special::Fifo,
                    other => *other,
                };
                self.create(at, Kind::Special(special), *mode)
            }
            O::Symlink { at, length } => self.create(at, Kind::Symlink(target(*length)), 0),
            O::Link { from, to } => {
                let id = self.find(from)?;
                let to = self.free(to)?;
                if self.is_directory(id) {
                    return Err(Errno::PERM);
                }
                self.inode(id).nlink += 1;
                self.inode(id).ctime = None;
                self.enter(to, id);
                Ok(Answer::Done)
            }
            O::Unlink { at } => {
                let id = self.find(at)?;
                if self.is_directory(id) {
                    return Err(Errno::ISDIR);
                }
                let at = self.parent(at)?;
                self.leave(&at);
                self.lost_name(id);
                Ok(Answer::Done)
            }
            O::Rmdir { at } => {
                let id = self.find(at)?;
                if !self.names(id).ok_or(Errno::NOTDIR)?.is_empty() {
                    return Err(Errno::NOTEMPTY);
                }
                let at = self.parent(at)?;
                self.leave(&at);
                self.lost_name(id);
                Ok(Answer::Done)
            }
            O::Rename { from, to, how } => self.rename(from, to, *how),
            O::Write {
                at,
                offset,
                bytes,
                create,
            } => {
                if *create {
                    self.create_if_free(at)?;
                }
                let id = self.open_file(at)?;
                self.write(id, *offset, &bytes.make());
                Ok(Answer::Done)
            }
            O::Append { at, bytes } => {
                let id = self.open_file(at)?;
                let end = self.bytes(id).len() as u64;
                self.write(id, end, &bytes.make());
                Ok(Answer::Done)
            }
            O::Truncate { at, size } => {
                let id = self.open_file(at)?;
                self.contents(id).resize(*size as usize, 0);
                Ok(Answer::Done)
            }
            O::Allocate {
                at,
                how,
                offset,
                length,
            } => {
                let id = self.open_file(at)?;
                self.allocate(id, *how, *offset, *length);
                Ok(Answer::Done)
            }
            O::CopyRange {
                from,
                to,
                from_offset,
                to_offset,
                length,
            } => {
                let from = self.open_to_read(from)?;
                let to = self.open_file(to)?;
                if self.is_directory(from) {
                    return Err(Errno::ISDIR);
                }
                self.copy((from, *from_offset), (to, *to_offset), *length)
            }
            O::SetXattr {
                at,
                name,
                value,
                how,
            } => {
                let (id, name) = self.with_xattrs(at, name)?;
                let inode = self.inode(id);
                match (how, inode.xattrs.contains_key(&name)) {
                    (Setting::Create, true) => return Err(Errno::EXIST),
                    (Setting::Replace, false) => return Err(Errno::NODATA),
                    _ => {}
                }
                inode.xattrs.insert(name, value.make());
                inode.ctime = None;
                Ok(Answer::Done)
            }
            O::RemoveXattr { at, name } => {
                let (id, name) = self.with_xattrs(at, name)?;
                let inode = self.inode(id);
                inode.xattrs.remove(&name).ok_or(Errno::NODATA)?;
                inode.ctime = None;
                Ok(Answer::Done)
            }
            O::Chmod { at, mode } => {
                let id = self.find(at)?;
                if matches!(self.inodes[&id].kind, Kind::Symlink(_)) {
                    return Err(Errno::NOENT);
                }
                let mode = self.allowed_mode(*mode);
                let inode = self.inode(id);
                (inode.mode, inode.ctime) = (mode, None);
                Ok(Answer::Done)
            }
            O::Chown { at, uid, gid } => {
                let id = self.find(at)?;
                let is_directory = self.is_directory(id);
                let inode = self.inode(id);
                (inode.uid, inode.ctime) = (*uid, None);
                inode.gid = gid.unwrap_or(inode.gid);
                if !is_directory {
                    inode.mode &= !SUID;
                    if inode.mode & 0o010 != 0 {
                        inode.mode &= !SGID;
                    }
                }
                Ok(Answer::Done)
            }
            O::SetTimes { at, atime, mtime } => {
                let id = self.find(at)?;
                let inode = self.inode(id);
                (inode.mtime, inode.ctime) = (Some(*mtime), None);
                inode.atime = atime.or(inode.atime);
                Ok(Answer::Done)
            }
            O::Read { at } => {
                let id = self.open_to_read(at)?;
                if self.is_directory(id) {
                    return Err(Errno::ISDIR);
                }
                Ok(Answer::Bytes(self.bytes(id)))
            }
            O::List { at } => {
                let id = self.find(at)?;
                if matches!(self.inodes[&id].kind, Kind::Symlink(_)) {
                    return Err(Errno::NOENT);
                }
                let names = self.names(id).ok_or(Errno::NOTDIR)?;
                Ok(Answer::Names(names.keys().cloned().collect()))
            }
            O::Fsync { at } => self.open_to_read(at).map(|_| Answer::Done),
            O::Open { slot, at } => {
                self.create_if_free(at)?;
                let id = self.open_file(at)?;
                if let Some(old) = self.slots[*slot].replace(id) {
                    self.drop_if_unused(old);
                }
                Ok(Answer::Done)
            }
            O::WriteOpen {
                slot,
                offset,
                bytes,
            } => {
                let id = self.slot(*slot)?;
                self.write(id, *offset, &bytes.make());
                Ok(Answer::Done)
            }
            O::TruncateOpen { slot, size } => {
                let id = self.slot(*slot)?;
                self.contents(id).resize(*size as usize, 0);
                Ok(Answer::Done)
            }
            O::ReadOpen { slot } => Ok(Answer::Bytes(self.bytes(self.slot(*slot)?))),
            O::Close { slot } => {
                let id = self.slots[*slot].take().ok_or(Errno::BADF)?;
                self.drop_if_unused(id);
                Ok(Answer::Done)
            }
            O::Crowd { at, count } => {
                let made = (0..*count).map(|n| {
                    let mode = 0o644;
                    let at = at.join(&crowd_name(n));
                    self.create(&at, Kind::File(Arc::default()), mode)
                });
                count_done(made, Errno::EXIST)
            }
            O::Disperse { at, every } => {
                let names = (0..crate::mounted::MOST_IN_CROWD).step_by(*every as usize);
                let gone = names.map(|n| {
                    self.perform(&O::Unlink {
                        at: at.join(&crowd_name(n)),
                    })
                });
                count_done(gone, Errno::NOENT)
            }
            O::Snapshot { .. } | O::CompareSnapshot { .. } | O::Kill | O::Restart | O::Remount => {
                unreachable!("not an operation on files")
            }
        }
    }
}

/// How many were done, `harmless` errors not counted; the first other error ends it.
pub(crate) fn count_done(outcomes: impl Iterator<Item = Outcome>, harmless: Errno) -> Outcome {
    let mut done = 0;
    for outcome in outcomes {
        match outcome {
            Ok(_) => done += 1,
            Err(e) if e == harmless => {}
            Err(e) => return Err(e),
        }
    }
    Ok(Answer::Count(done))
}

/// What a symbolic link says: a path that leads nowhere.
pub(crate) fn target(length: usize) -> Vec<u8> {
    b"no/".iter().copied().cycle().take(length).collect()
}
