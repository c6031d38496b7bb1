//! The fingerprint of a tree: every attribute that must survive, and the BLAKE3 of every file.

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Holes are told apart at multiples of this many bytes.
const GRAIN: u64 = 4096;
/// Smaller files need no holes: their contents may be kept elsewhere than in blocks.
const SMALLEST_WITH_HOLES: u64 = 64 << 10;
/// Differences that a failing test shows.
const SHOWN: usize = 30;
/// Characters of each.
const SHOWN_WIDTH: usize = 400;

/// How much a fingerprint tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exactness {
    /// What a copy keeps.
    Copy,
    /// A copy, and where the holes of files are.
    CopyWithHoles,
    /// What a snapshot keeps of its master: inode numbers and change times too.
    Snapshot,
}

/// What one name is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes; of directories 0.
    pub size: u64,
    /// Seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// Link count.
    pub nlink: u64,
    /// Of devices.
    pub rdev: u64,
    /// Of symlinks.
    pub target: Option<Vec<u8>>,
    /// All extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Of regular files.
    pub blake3: Option<blake3::Hash>,
    /// The first name of the same inode, where there are several.
    pub same_as: Option<PathBuf>,
    /// Ranges with data, at [`Exactness::CopyWithHoles`].
    pub data: Option<Vec<(u64, u64)>>,
    /// Inode number and change time, at [`Exactness::Snapshot`].
    pub identity: Option<(u64, i64, i64)>,
}

/// The fingerprint of a tree, by path below its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// The root itself is the empty path.
    pub entries: BTreeMap<PathBuf, Entry>,
}

/// Inode numbers above this are those of a file that was replaced under the eyes of a slave's kernel.
const FRESH: u64 = 0xffff << 48;

impl Fingerprint {
    /// The same, but a file that a slave gave a number of its own, because its former version was still in use when the slave
    /// moved on, has the number that it has in `wanted`.
    #[must_use]
    pub fn without_fresh_numbers(mut self, wanted: &Fingerprint) -> Fingerprint {
        for (path, entry) in &mut self.entries {
            let wanted = wanted.entries.get(path).and_then(|entry| entry.identity);
            if let (Some(identity), Some(wanted)) = (&mut entry.identity, wanted)
                && identity.0 >= FRESH
            {
                identity.0 = wanted.0;
            }
        }
        self
    }

    /// Read the tree under `root`.
    ///
    /// # Panics
    /// When anything cannot be read.
    pub fn take(root: &Path, exactness: Exactness) -> Fingerprint {
        let mut walk = Walk {
            root,
            exactness,
            found: BTreeMap::new(),
            first_names: HashMap::new(),
        };
        walk.visit(Path::new(""));
        Fingerprint {
            entries: walk.found,
        }
    }

    /// Without the entries for which `leave_out` holds.
    #[must_use]
    pub fn without(mut self, leave_out: impl Fn(&Path, &Entry) -> bool) -> Fingerprint {
        self.entries.retain(|path, entry| !leave_out(path, entry));
        self
    }

    /// How `found` differs, a line per path.
    pub fn differences(&self, found: &Fingerprint) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, wanted) in &self.entries {
            match found.entries.get(path) {
                None => lines.push(format!("{}: missing", short(path))),
                Some(found) if found != wanted => {
                    lines.push(format!("{}: {}", short(path), wanted.differs_in(found)));
                }
                Some(_) => {}
            }
        }
        let unknown = found
            .entries
            .keys()
            .filter(|p| !self.entries.contains_key(*p));
        lines.extend(unknown.map(|path| format!("{}: should not be there", short(path))));
        lines
    }
}

impl Entry {
    fn differs_in(&self, found: &Entry) -> String {
        let mut out = String::new();
        let mut tell = |name: &str, wanted: String, found: String| {
            if wanted != found {
                let _ = write!(out, "{name} {found} instead of {wanted}; ");
            }
        };
        tell(
            "mode",
            format!("{:o}", self.mode),
            format!("{:o}", found.mode),
        );
        let owner = |e: &Entry| format!("{}:{}", e.uid, e.gid);
        tell("owner", owner(self), owner(found));
        tell("size", self.size.to_string(), found.size.to_string());
        let mtime = |e: &Entry| format!("{:?}", e.mtime);
        tell("mtime", mtime(self), mtime(found));
        tell("nlink", self.nlink.to_string(), found.nlink.to_string());
        tell("rdev", self.rdev.to_string(), found.rdev.to_string());
        let target = |e: &Entry| {
            format!(
                "{:?}",
                e.target
                    .as_deref()
                    .map(<[u8]>::escape_ascii)
                    .map(|t| t.to_string())
            )
        };
        tell("target", target(self), target(found));
        let xattrs = |e: &Entry| {
            let pairs = e.xattrs.iter();
            let pairs = pairs.map(|(k, v)| format!("{}={}", k.escape_ascii(), v.escape_ascii()));
            pairs.collect::<Vec<_>>().join(",")
        };
        tell("xattrs", xattrs(self), xattrs(found));
        let hash = |e: &Entry| format!("{:?}", e.blake3.map(|h| h.to_hex()[..8].to_owned()));
        tell("contents", hash(self), hash(found));
        let links = |e: &Entry| format!("{:?}", e.same_as);
        tell("hard link", links(self), links(found));
        let data = |e: &Entry| format!("{:?}", e.data);
        tell("data", data(self), data(found));
        let identity = |e: &Entry| format!("{:?}", e.identity);
        tell("inode and ctime", identity(self), identity(found));
        out
    }
}

/// The end of a path, which tells more than its beginning.
fn short(path: &Path) -> String {
    let text: Vec<char> = format!("{path:?}").chars().collect();
    let from = text.len().saturating_sub(SHOWN_WIDTH / 4);
    text[from..].iter().collect()
}

/// Two trees must be the same.
///
/// # Panics
/// When they are not, with the first differences.
pub fn assert_same(what: &str, wanted: &Fingerprint, found: &Fingerprint) {
    let lines = wanted.differences(found);
    assert!(
        lines.is_empty(),
        "{what}: {} differences in {} entries:\n{}",
        lines.len(),
        wanted.entries.len(),
        lines[..lines.len().min(SHOWN)]
            .iter()
            .map(|line| line.chars().take(SHOWN_WIDTH).collect())
            .collect::<Vec<String>>()
            .join("\n")
    );
}

struct Walk<'a> {
    root: &'a Path,
    exactness: Exactness,
    found: BTreeMap<PathBuf, Entry>,
    first_names: HashMap<(u64, u64), PathBuf>,
}

impl Walk<'_> {
    fn visit(&mut self, relative: &Path) {
        let path = self.path(relative);
        let entry = self.entry(relative, &path);
        let is_directory = entry.mode & 0o170_000 == 0o040_000;
        let twice = self.found.insert(relative.to_owned(), entry);
        assert!(twice.is_none(), "{relative:?} was listed twice");
        if !is_directory {
            return;
        }
        let listing = fs::read_dir(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        let mut names: Vec<_> = listing
            .map(|e| e.unwrap_or_else(|e| panic!("{path:?}: {e}")).file_name())
            .collect();
        names.sort();
        for name in names {
            self.visit(&relative.join(name));
        }
    }

    /// `root.join("")` would end in a slash.
    fn path(&self, relative: &Path) -> PathBuf {
        if relative.as_os_str().is_empty() {
            self.root.to_owned()
        } else {
            self.root.join(relative)
        }
    }

    fn entry(&mut self, relative: &Path, path: &Path) -> Entry {
        let about = fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        let kind = about.file_type();
        let same_as = if about.nlink() > 1 && !kind.is_dir() {
            let id = (about.dev(), about.ino());
            let first = self
                .first_names
                .entry(id)
                .or_insert_with(|| relative.to_owned());
            (first != relative).then(|| first.clone())
        } else {
            None
        };
        let target = kind.is_symlink().then(|| {
            let target = fs::read_link(path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
            target.as_os_str().as_bytes().to_vec()
        });
        let (mut blake3, mut data) = (None, None);
        if kind.is_file() {
            let mut file = File::open(path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
            if self.exactness != Exactness::Copy && about.size() >= SMALLEST_WITH_HOLES {
                data = Some(data_ranges(&file, about.size()));
            }
            blake3 = Some(hash(&mut file, path));
        }
        let is_device = kind.is_block_device() || kind.is_char_device();
        let identity = (self.exactness == Exactness::Snapshot)
            .then(|| (about.ino(), about.ctime(), about.ctime_nsec()));
        Entry {
            mode: about.mode(),
            uid: about.uid(),
            gid: about.gid(),
            size: if kind.is_dir() { 0 } else { about.size() },
            mtime: (about.mtime(), about.mtime_nsec()),
            nlink: if kind.is_dir() && self.exactness != Exactness::Snapshot {
                0
            } else {
                about.nlink()
            },
            rdev: if is_device { about.rdev() } else { 0 },
            target,
            xattrs: xattrs(path),
            blake3,
            same_as,
            data: data.filter(|_| self.exactness == Exactness::CopyWithHoles),
            identity,
        }
    }
}

fn hash(file: &mut File, path: &Path) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return hasher.finalize(),
            Ok(n) => drop(hasher.update(&buffer[..n])),
            Err(e) => panic!("{path:?} could not be read: {e}"),
        }
    }
}

/// Ranges with data by `SEEK_DATA` and `SEEK_HOLE`, widened to the grain in which holes are kept.
pub fn data_ranges(file: &File, size: u64) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    let mut at = 0;
    while at < size {
        let from = match seek(file, SeekFrom::Data(at)) {
            Ok(from) => from,
            Err(Errno::NXIO) => break,
            Err(e) => panic!("SEEK_DATA from {at}: {e}"),
        };
        let to = seek(file, SeekFrom::Hole(from)).expect("SEEK_HOLE");
        assert!(
            at <= from && from < to && to <= size,
            "{at} {from} {to} {size}"
        );
        let wide = (from / GRAIN * GRAIN, to.next_multiple_of(GRAIN).min(size));
        match ranges.last_mut() {
            Some(last) if last.1 >= wide.0 => last.1 = wide.1,
            _ => ranges.push(wide),
        }
        at = to;
    }
    seek(file, SeekFrom::Start(0)).expect("back to the start");
    ranges
}

/// All extended attributes; none where the file system has none.
pub fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut buffer = vec![0; 64 << 10];
    let names = match rustix::fs::llistxattr(path, &mut buffer[..]) {
        Ok(n) => buffer[..n].to_vec(),
        Err(Errno::NOTSUP) => return BTreeMap::new(),
        Err(e) => panic!("the xattrs of {path:?}: {e}"),
    };
    let names = names.split(|b| *b == 0).filter(|n| !n.is_empty());
    names
        .map(|name| {
            let n = rustix::fs::lgetxattr(path, name, &mut buffer[..])
                .unwrap_or_else(|e| panic!("xattr {} of {path:?}: {e}", name.escape_ascii()));
            (name.to_vec(), buffer[..n].to_vec())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, PermissionsExt};

    #[test]
    fn a_single_difference_of_any_kind_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), vec![7; 200_000]).unwrap();
        fs::hard_link(at("file"), at("link")).unwrap();
        std::os::unix::fs::symlink("file", at("symlink")).unwrap();
        let take = || Fingerprint::take(dir.path(), Exactness::Snapshot);
        let before = take();
        assert_same("nothing changed", &before, &take());

        let file = File::options().write(true).open(at("file")).unwrap();
        let mtime = file.metadata().unwrap().modified().unwrap();
        file.write_all_at(&[8], 123_456).unwrap();
        file.set_modified(mtime).unwrap();
        let lines = before.differences(&take());
        assert!(lines[0].contains("contents"), "{lines:?}");
        fs::set_permissions(at("file"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::remove_file(at("symlink")).unwrap();
        fs::remove_file(at("link")).unwrap();
        fs::write(at("link"), vec![7; 200_000]).unwrap();
        let lines = before.differences(&take()).join("\n");
        for word in ["mode", "nlink", "hard link", "missing", "inode"] {
            assert!(lines.contains(word), "{word} is not in {lines}");
        }
    }
}
