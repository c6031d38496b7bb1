//! A small file system in memory, with switches to misbehave.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cbfs_fuse::{
    Attributes, CachePolicy, Caller, DirectoryEntry, DirectorySink, Errno, FileSystem,
    FileSystemStatistics, OpResult, Patience, Refusal, Reparented, SetAttributes,
};
use parking_lot::Mutex;

const LONG: std::time::Duration = std::time::Duration::from_secs(3600);
const S_IFMT: u32 = 0o170_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFLNK: u32 = 0o120_000;

/// How operations that may have to wait answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// At once.
    Not,
    /// `MustWait` unless they may wait.
    WhenAsked,
    /// `MustWait` always.
    Forever,
}

#[derive(Default)]
struct Node {
    attributes: Option<Attributes>,
    data: Vec<u8>,
    /// By cookie.
    entries: BTreeMap<u64, (Vec<u8>, u64)>,
    cookies: HashMap<Vec<u8>, u64>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    parent: u64,
    lookups: u64,
}

#[derive(Default)]
struct State {
    nodes: HashMap<u64, Node>,
    next: u64,
    cookie: u64,
    calls: HashMap<&'static str, u64>,
    looked_up: HashMap<Vec<u8>, u64>,
}

pub(crate) struct Memory {
    state: Mutex<State>,
    pub(crate) waiting: Mutex<Waiting>,
    /// Reads panic.
    pub(crate) panics: AtomicBool,
    /// Listings give no attributes.
    pub(crate) hides_attributes: AtomicBool,
    /// The kernel forgot lookups that were never counted.
    pub(crate) miscounted: AtomicBool,
    clock: AtomicU64,
}

fn attributes(ino: u64, mode: u32, caller: Caller, rdev: u32, now: i64) -> Attributes {
    Attributes {
        ino,
        mode,
        nlink: if mode & S_IFMT == S_IFDIR { 2 } else { 1 },
        uid: caller.uid,
        gid: caller.gid,
        rdev,
        size: 0,
        blocks: 0,
        blksize: 4096,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
    }
}

impl State {
    fn node(&mut self, ino: u64) -> OpResult<&mut Node> {
        self.nodes
            .get_mut(&ino)
            .ok_or(Refusal::Errno(Errno::ESTALE))
    }

    fn attributes(&mut self, ino: u64) -> OpResult<Attributes> {
        let node = self.node(ino)?;
        let mut a = node.attributes.unwrap();
        a.size = node.data.len() as u64;
        a.blocks = a.size.div_ceil(512);
        Ok(a)
    }

    fn child(&mut self, at: (u64, &[u8])) -> OpResult<u64> {
        let node = self.node(at.0)?;
        let cookie = node.cookies.get(at.1).ok_or(Errno::ENOENT)?;
        Ok(node.entries[cookie].1)
    }

    fn insert(&mut self, at: (u64, &[u8]), ino: u64) -> OpResult<()> {
        if self.child(at).is_ok() {
            return Err(Errno::EEXIST.into());
        }
        self.cookie += 1;
        let cookie = self.cookie;
        let parent = self.node(at.0)?;
        parent.entries.insert(cookie, (at.1.to_vec(), ino));
        parent.cookies.insert(at.1.to_vec(), cookie);
        Ok(())
    }

    fn remove(&mut self, at: (u64, &[u8])) -> OpResult<u64> {
        let node = self.node(at.0)?;
        let cookie = node.cookies.remove(at.1).ok_or(Errno::ENOENT)?;
        Ok(node.entries.remove(&cookie).unwrap().1)
    }

    fn adjust_links(&mut self, ino: u64, by: i32) -> OpResult<()> {
        let a = self.node(ino)?.attributes.as_mut().unwrap();
        a.nlink = a.nlink.checked_add_signed(by).unwrap();
        self.free_if_unused(ino);
        Ok(())
    }

    fn free_if_unused(&mut self, ino: u64) {
        if let Some(node) = self.nodes.get(&ino)
            && node.lookups == 0
            && node.attributes.unwrap().nlink == 0
        {
            self.nodes.remove(&ino);
        }
    }
}

impl Memory {
    pub(crate) fn new() -> Memory {
        let memory = Memory {
            state: Mutex::default(),
            waiting: Mutex::new(Waiting::Not),
            panics: AtomicBool::new(false),
            hides_attributes: AtomicBool::new(false),
            miscounted: AtomicBool::new(false),
            clock: AtomicU64::new(1_000_000_000),
        };
        let me = Caller {
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            pid: 0,
        };
        let root = attributes(1, S_IFDIR | 0o755, me, 0, 0);
        {
            let mut state = memory.state.lock();
            state.next = 2;
            state.nodes.insert(
                1,
                Node {
                    attributes: Some(root),
                    parent: 1,
                    ..Node::default()
                },
            );
        }
        memory
    }

    fn now(&self) -> i64 {
        self.clock.fetch_add(1, Ordering::SeqCst).cast_signed()
    }

    /// How often an operation was called.
    pub(crate) fn calls(&self, op: &'static str) -> u64 {
        self.state.lock().calls.get(op).copied().unwrap_or(0)
    }

    /// How often a name was looked up.
    pub(crate) fn lookups_of(&self, name: &[u8]) -> u64 {
        self.state.lock().looked_up.get(name).copied().unwrap_or(0)
    }

    /// Change a file behind the kernel's back.
    pub(crate) fn overwrite(&self, ino: u64, data: &[u8]) {
        self.state.lock().node(ino).unwrap().data = data.to_vec();
    }

    /// Remove a name behind the kernel's back.
    pub(crate) fn take_name(&self, name: &[u8]) {
        self.state.lock().remove((1, name)).unwrap();
    }

    fn begin(&self, op: &'static str, patience: Patience) -> OpResult<()> {
        *self.state.lock().calls.entry(op).or_insert(0) += 1;
        match (*self.waiting.lock(), patience) {
            (Waiting::WhenAsked, Patience::Never) | (Waiting::Forever, _) => Err(Refusal::MustWait),
            _ => Ok(()),
        }
    }

    fn create(
        &self,
        caller: Caller,
        at: (u64, &[u8]),
        mode: u32,
        rdev: u32,
    ) -> OpResult<Attributes> {
        let now = self.now();
        let mut state = self.state.lock();
        let ino = state.next;
        state.insert(at, ino)?;
        state.next += 1;
        let attributes = attributes(ino, mode, caller, rdev, now);
        let node = Node {
            attributes: Some(attributes),
            parent: at.0,
            lookups: 1,
            ..Node::default()
        };
        state.nodes.insert(ino, node);
        Ok(attributes)
    }
}

impl FileSystem for Memory {
    fn cache_policy(&self) -> CachePolicy {
        CachePolicy {
            entry: LONG,
            negative: LONG,
            attributes: LONG,
        }
    }

    fn lookup(&self, patience: Patience, parent: u64, name: &[u8]) -> OpResult<Attributes> {
        self.begin("lookup", patience)?;
        let mut state = self.state.lock();
        *state.looked_up.entry(name.to_vec()).or_insert(0) += 1;
        let ino = state.child((parent, name))?;
        state.node(ino)?.lookups += 1;
        state.attributes(ino)
    }

    fn forget(&self, ino: u64, count: u64) {
        let mut state = self.state.lock();
        let Ok(node) = state.node(ino) else {
            self.miscounted.store(true, Ordering::SeqCst);
            return;
        };
        match node.lookups.checked_sub(count) {
            Some(left) => node.lookups = left,
            None => self.miscounted.store(true, Ordering::SeqCst),
        }
        state.free_if_unused(ino);
    }

    fn getattr(&self, patience: Patience, ino: u64) -> OpResult<Attributes> {
        self.begin("getattr", patience)?;
        self.state.lock().attributes(ino)
    }

    fn setattr(
        &self,
        patience: Patience,
        _caller: Caller,
        ino: u64,
        change: &SetAttributes,
    ) -> OpResult<Attributes> {
        self.begin("setattr", patience)?;
        let now = self.now();
        let mut state = self.state.lock();
        let node = state.node(ino)?;
        if let Some(size) = change.size {
            node.data.resize(size as usize, 0);
        }
        let a = node.attributes.as_mut().unwrap();
        a.mode = change.mode.map_or(a.mode, |mode| a.mode & S_IFMT | mode);
        a.uid = change.uid.unwrap_or(a.uid);
        a.gid = change.gid.unwrap_or(a.gid);
        a.atime = change.atime.unwrap_or(a.atime);
        a.mtime = change.mtime.unwrap_or(a.mtime);
        a.ctime = now;
        state.attributes(ino)
    }

    fn readlink(&self, patience: Patience, ino: u64) -> OpResult<Vec<u8>> {
        self.begin("readlink", patience)?;
        Ok(self.state.lock().node(ino)?.data.clone())
    }

    fn mknod(
        &self,
        patience: Patience,
        caller: Caller,
        at: (u64, &[u8]),
        mode: u32,
        umask: u32,
        rdev: u32,
    ) -> OpResult<Attributes> {
        self.begin("mknod", patience)?;
        self.create(caller, at, mode & !umask, rdev)
    }

    fn mkdir(
        &self,
        patience: Patience,
        caller: Caller,
        at: (u64, &[u8]),
        mode: u32,
        umask: u32,
    ) -> OpResult<Attributes> {
        self.begin("mkdir", patience)?;
        let attributes = self.create(caller, at, S_IFDIR | mode & !umask, 0)?;
        self.state.lock().adjust_links(at.0, 1)?;
        Ok(attributes)
    }

    fn symlink(
        &self,
        patience: Patience,
        caller: Caller,
        at: (u64, &[u8]),
        target: &[u8],
    ) -> OpResult<Attributes> {
        self.begin("symlink", patience)?;
        let attributes = self.create(caller, at, S_IFLNK | 0o777, 0)?;
        let mut state = self.state.lock();
        state.node(attributes.ino)?.data = target.to_vec();
        state.attributes(attributes.ino)
    }

    fn link(&self, patience: Patience, ino: u64, at: (u64, &[u8])) -> OpResult<Attributes> {
        self.begin("link", patience)?;
        let mut state = self.state.lock();
        state.insert(at, ino)?;
        state.adjust_links(ino, 1)?;
        state.node(ino)?.lookups += 1;
        state.attributes(ino)
    }

    fn unlink(&self, patience: Patience, parent: u64, name: &[u8]) -> OpResult<()> {
        self.begin("unlink", patience)?;
        let mut state = self.state.lock();
        let ino = state.remove((parent, name))?;
        state.adjust_links(ino, -1)
    }

    fn rmdir(&self, patience: Patience, parent: u64, name: &[u8]) -> OpResult<()> {
        self.begin("rmdir", patience)?;
        let mut state = self.state.lock();
        let ino = state.child((parent, name))?;
        if !state.node(ino)?.entries.is_empty() {
            return Err(Errno::ENOTEMPTY.into());
        }
        state.remove((parent, name))?;
        state.adjust_links(parent, -1)?;
        state.adjust_links(ino, -2)
    }

    fn rename(
        &self,
        patience: Patience,
        from: (u64, &[u8]),
        to: (u64, &[u8]),
        flags: u32,
    ) -> OpResult<Reparented> {
        self.begin("rename", patience)?;
        let mut state = self.state.lock();
        let ino = state.child(from)?;
        let replaced = state.child(to).ok();
        match flags {
            1 if replaced.is_some() => return Err(Errno::EEXIST.into()),
            2 => {
                let other = replaced.ok_or(Errno::ENOENT)?;
                state.remove(from)?;
                state.remove(to)?;
                state.insert(from, other)?;
                state.insert(to, ino)?;
                return Ok([Some(ino), Some(other)]);
            }
            _ => {}
        }
        if let Some(replaced) = replaced {
            state.remove(to)?;
            state.adjust_links(replaced, -1)?;
        }
        state.remove(from)?;
        state.insert(to, ino)?;
        Ok([Some(ino), None])
    }

    fn read(&self, patience: Patience, ino: u64, offset: u64, size: u32) -> OpResult<Vec<u8>> {
        self.begin("read", patience)?;
        assert!(
            !self.panics.load(Ordering::SeqCst),
            "a read that panics, as the test wants"
        );
        let mut state = self.state.lock();
        let data = &state.node(ino)?.data;
        let from = data.len().min(offset as usize);
        let to = data.len().min(from + size as usize);
        Ok(data[from..to].to_vec())
    }

    fn write(&self, patience: Patience, ino: u64, offset: u64, data: &[u8]) -> OpResult<()> {
        self.begin("write", patience)?;
        let now = self.now();
        let mut state = self.state.lock();
        let node = state.node(ino)?;
        let (from, to) = (offset as usize, offset as usize + data.len());
        if node.data.len() < to {
            node.data.resize(to, 0);
        }
        node.data[from..to].copy_from_slice(data);
        node.attributes.as_mut().unwrap().mtime = now;
        Ok(())
    }

    fn fsync(&self, patience: Patience, _ino: u64, _datasync: bool) -> OpResult<()> {
        self.begin("fsync", patience)
    }

    fn readdir(
        &self,
        patience: Patience,
        ino: u64,
        cookie: u64,
        sink: &mut dyn DirectorySink,
    ) -> OpResult<()> {
        self.begin("readdir", patience)?;
        let mut state = self.state.lock();
        let parent = state.node(ino)?.parent;
        // Cookies 1 and 2 are the dots, the others are moved up by as much.
        for (own, dot, name) in [(1, ino, &b"."[..]), (2, parent, &b".."[..])] {
            let entry = DirectoryEntry {
                ino: dot,
                cookie: own,
                kind: S_IFDIR >> 12,
                name,
            };
            if cookie < own && !sink.push(entry, &mut || None) {
                return Ok(());
            }
        }
        let after = cookie.saturating_sub(2);
        let entries: Vec<_> = state
            .node(ino)?
            .entries
            .range(after + 1..)
            .map(|(c, e)| (*c, e.clone()))
            .collect();
        for (own, (name, child)) in entries {
            let attributes = state.attributes(child)?;
            let kind = attributes.mode >> 12;
            let entry = DirectoryEntry {
                ino: child,
                cookie: own + 2,
                kind,
                name: &name,
            };
            let mut asked = false;
            let taken = sink.push(entry, &mut || {
                asked = !self.hides_attributes.load(Ordering::SeqCst);
                asked.then_some(attributes)
            });
            if !taken {
                break;
            }
            if asked {
                state.node(child)?.lookups += 1;
            }
        }
        Ok(())
    }

    fn statfs(&self) -> OpResult<FileSystemStatistics> {
        Ok(FileSystemStatistics {
            block_size: 4096,
            blocks: 1000,
            free: 500,
            available: 400,
            files: 100,
            files_free: 50,
            name_max: 255,
        })
    }

    fn setxattr(
        &self,
        patience: Patience,
        ino: u64,
        name: &[u8],
        value: &[u8],
        flags: u32,
        _kill_sgid: bool,
    ) -> OpResult<()> {
        self.begin("setxattr", patience)?;
        let mut state = self.state.lock();
        let xattrs = &mut state.node(ino)?.xattrs;
        match (flags, xattrs.contains_key(name)) {
            (1, true) => Err(Errno::EEXIST.into()),
            (2, false) => Err(Errno::ENODATA.into()),
            _ => {
                xattrs.insert(name.to_vec(), value.to_vec());
                Ok(())
            }
        }
    }

    fn getxattr(&self, patience: Patience, ino: u64, name: &[u8]) -> OpResult<Vec<u8>> {
        self.begin("getxattr", patience)?;
        let mut state = self.state.lock();
        Ok(state
            .node(ino)?
            .xattrs
            .get(name)
            .cloned()
            .ok_or(Errno::ENODATA)?)
    }

    fn listxattr(&self, patience: Patience, ino: u64) -> OpResult<Vec<Vec<u8>>> {
        self.begin("listxattr", patience)?;
        Ok(self
            .state
            .lock()
            .node(ino)?
            .xattrs
            .keys()
            .cloned()
            .collect())
    }

    fn removexattr(&self, patience: Patience, ino: u64, name: &[u8]) -> OpResult<()> {
        self.begin("removexattr", patience)?;
        let mut state = self.state.lock();
        state.node(ino)?.xattrs.remove(name).ok_or(Errno::ENODATA)?;
        Ok(())
    }

    fn fallocate(
        &self,
        patience: Patience,
        ino: u64,
        offset: u64,
        length: u64,
        mode: u32,
    ) -> OpResult<()> {
        self.begin("fallocate", patience)?;
        if mode != 0 {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let mut state = self.state.lock();
        let data = &mut state.node(ino)?.data;
        let size = data.len().max((offset + length) as usize);
        data.resize(size, 0);
        Ok(())
    }

    fn seek(&self, patience: Patience, ino: u64, offset: u64, whence: u32) -> OpResult<u64> {
        self.begin("seek", patience)?;
        let size = self.state.lock().node(ino)?.data.len() as u64;
        match whence {
            _ if offset >= size => Err(Errno::ENXIO.into()),
            3 => Ok(offset),
            _ => Ok(size),
        }
    }

    fn copy_range(
        &self,
        patience: Patience,
        from: (u64, u64),
        to: (u64, u64),
        length: u64,
    ) -> OpResult<u64> {
        self.begin("copy_range", patience)?;
        let data = self.read(patience, from.0, from.1, length as u32)?;
        self.write(patience, to.0, to.1, &data)?;
        Ok(data.len() as u64)
    }
}
