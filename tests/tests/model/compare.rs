//! Whether a mounted tree is as the model says.

use crate::mounted::DEVICE;
use crate::operation::{Operation, Place, Special};
use crate::reference::{Id, Inode, Kind, ROOT, Tree};
use rustix::fs::{Dir, FileType};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// From here on (seconds) access times are later than any change: reading leaves them.
const FUTURE: i64 = 4_000_000_000;

/// What an operation touched, and the directories that hold it, must have the attributes that the
/// model says.
pub(crate) fn touched(root: &Path, tree: &mut Tree, operation: &Operation) -> Result<(), String> {
    for place in operation.places() {
        for place in [place.clone(), place.parent()] {
            look(root, tree, &place)?;
        }
    }
    Ok(())
}

fn look(root: &Path, tree: &mut Tree, place: &Place) -> Result<(), String> {
    let path = place.below(root);
    let found = rustix::fs::lstat(&path).map(|_| ());
    let wanted = tree.find(place);
    if found != wanted.map(|_| ()) {
        return Err(format!(
            "stat {:?} answers {found:?} instead of {wanted:?}",
            place.0
        ));
    }
    let Ok(id) = wanted else { return Ok(()) };
    let about = fs::symlink_metadata(&path).map_err(|e| format!("{}: {e}", place.0))?;
    attributes(tree, id, &about).map_err(|why| format!("{:?}: {why}", place.0))
}

/// Learn what is for the file system to say: so that from now on it must stay.
pub(crate) fn learn(root: &Path, tree: &mut Tree) -> Result<(), String> {
    let mut below = vec![(root.to_owned(), ROOT)];
    while let Some((path, id)) = below.pop() {
        let inode = &tree.inodes[&id];
        if matches!(inode.kind, Kind::Foreign) {
            continue;
        }
        if inode.ctime.is_none() || inode.mtime.is_none() || inode.number.is_none() {
            let about =
                fs::symlink_metadata(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            attributes(tree, id, &about).map_err(|why| format!("{}: {why}", path.display()))?;
        }
        if let Kind::Directory(names) = &tree.inodes[&id].kind {
            let inside = names.iter();
            below.extend(inside.map(|(name, id)| (path.join(OsStr::from_bytes(name)), *id)));
        }
    }
    Ok(())
}

/// The whole tree: names, attributes, contents.
pub(crate) fn everything(root: &Path, tree: &mut Tree) -> Result<(), String> {
    let mut below = vec![(root.to_owned(), ROOT, ROOT)];
    while let Some((path, id, above)) = below.pop() {
        let told = |why: String| format!("{}: {why}", shown(root, &path));
        let about = fs::symlink_metadata(&path).map_err(|e| told(e.to_string()))?;
        attributes(tree, id, &about).map_err(told)?;
        let wanted = &tree.inodes[&id];
        let xattrs = cbfs_tests::fingerprint::xattrs(&path);
        if xattrs != wanted.xattrs {
            let names = |all: &BTreeMap<Vec<u8>, Vec<u8>>| {
                let all = all.iter();
                all.map(|(k, v)| format!("{} ({} bytes)", k.escape_ascii(), v.len()))
                    .collect::<Vec<_>>()
            };
            let (found, wanted) = (names(&xattrs), names(&wanted.xattrs));
            return Err(told(format!("xattrs {found:?} instead of {wanted:?}")));
        }
        match &wanted.kind {
            Kind::File(wanted) => {
                let found = fs::read(&path).map_err(|e| told(e.to_string()))?;
                same_bytes(&found, wanted).map_err(told)?;
            }
            Kind::Symlink(target) => {
                let found = fs::read_link(&path).map_err(|e| told(e.to_string()))?;
                if found.as_os_str().as_bytes() != target {
                    return Err(told(format!("leads to {found:?}")));
                }
            }
            Kind::Special(_) | Kind::Foreign => {}
            Kind::Directory(names) => {
                listing(&path, tree, (id, above)).map_err(told)?;
                let inside = names.iter();
                let inside =
                    inside.map(|(n, inside)| (path.join(OsStr::from_bytes(n)), *inside, id));
                below.extend(inside);
            }
        }
    }
    Ok(())
}

/// A directory's listing: each name once, with the kind and number of its inode; `.` and `..`, too.
fn listing(path: &Path, tree: &Tree, (id, above): (Id, Id)) -> Result<(), String> {
    let Kind::Directory(names) = &tree.inodes[&id].kind else {
        unreachable!("not a directory");
    };
    let dots = [(b".".to_vec(), id), (b"..".to_vec(), above)];
    let wanted: BTreeMap<Vec<u8>, Id> = names.clone().into_iter().chain(dots).collect();
    let mut listed = BTreeSet::new();
    let dir = File::open(path).and_then(|d| Ok(Dir::new(d)?));
    for entry in dir.map_err(|e| e.to_string())? {
        let entry = entry.map_err(|e| e.to_string())?;
        let name = entry.file_name().to_bytes().to_vec();
        let text = name.escape_ascii().to_string();
        let Some(inode) = wanted.get(&name).map(|id| &tree.inodes[id]) else {
            return Err(format!("{text} should not be there"));
        };
        if inode.number.is_some_and(|n| n != entry.ino()) {
            return Err(format!("{text} is listed as another inode"));
        }
        let kind = match entry.file_type() {
            FileType::RegularFile => "file",
            FileType::Directory => "directory",
            FileType::Symlink => "symlink",
            FileType::Fifo => "fifo",
            FileType::Socket => "socket",
            FileType::CharacterDevice => "device",
            _ => "something else",
        };
        if kind != kind_wanted(inode) {
            return Err(format!("{text} is listed as a {kind}"));
        }
        if !listed.insert(name) {
            return Err(format!("{text} is listed twice"));
        }
    }
    match wanted.keys().find(|n| !listed.contains(*n)) {
        Some(missing) => Err(format!("{} is missing", missing.escape_ascii())),
        None => Ok(()),
    }
}

fn shown(root: &Path, path: &Path) -> String {
    let below = path.strip_prefix(root).unwrap_or(path);
    format!("/{}", below.as_os_str().as_bytes().escape_ascii())
}

/// Two answers' bytes.
pub(crate) fn same_bytes(found: &[u8], wanted: &[u8]) -> Result<(), String> {
    if found == wanted {
        return Ok(());
    }
    let at = found.iter().zip(wanted).position(|(a, b)| a != b);
    Err(format!(
        "{} bytes instead of {}, the first difference at {:?}",
        found.len(),
        wanted.len(),
        at.unwrap_or(found.len().min(wanted.len()))
    ))
}

/// What stat(2) says of an inode. What the model leaves to the file system is learned.
fn attributes(tree: &mut Tree, id: Id, about: &Metadata) -> Result<(), String> {
    let owner = *tree.numbers.entry(about.ino()).or_insert(id);
    if owner != id {
        return Err(format!("the inode number {} was given twice", about.ino()));
    }
    let inode = tree.inode(id);
    let mut wrong = Vec::new();
    let mut compare = |what: &str, found: String, wanted: String| {
        if found != wanted {
            wrong.push(format!("{what} {found} instead of {wanted}"));
        }
    };
    compare("type", kind_found(about).into(), kind_wanted(inode).into());
    let octal = |mode: u32| format!("{mode:04o}");
    compare("mode", octal(about.mode() & 0o7777), octal(inode.mode));
    compare("owner", about.uid().to_string(), inode.uid.to_string());
    compare("group", about.gid().to_string(), inode.gid.to_string());
    if matches!(inode.kind, Kind::Foreign) {
        // The rest is in other hands.
        return match wrong.is_empty() {
            true => Ok(()),
            false => Err(wrong.join(", ")),
        };
    }
    compare("nlink", about.nlink().to_string(), inode.nlink.to_string());
    let size = match &inode.kind {
        Kind::File(bytes) => bytes.len(),
        Kind::Directory(names) => names.len(),
        Kind::Symlink(target) => target.len(),
        Kind::Special(_) | Kind::Foreign => 0,
    };
    compare("size", about.size().to_string(), size.to_string());
    if matches!(inode.kind, Kind::Special(Special::Device)) {
        compare("device", about.rdev().to_string(), DEVICE.to_string());
    }
    let number = *inode.number.get_or_insert(about.ino());
    compare("inode number", about.ino().to_string(), number.to_string());
    let (mtime, ctime) = (
        (about.mtime(), about.mtime_nsec()),
        (about.ctime(), about.ctime_nsec()),
    );
    let time = |stamp: (i64, i64)| format!("{}s+{}ns", stamp.0, stamp.1);
    let wanted = *inode.mtime.get_or_insert(mtime);
    compare("mtime", time(mtime), time(wanted));
    let wanted = *inode.ctime.get_or_insert(ctime);
    compare("ctime", time(ctime), time(wanted));
    if let Some(wanted) = inode.atime {
        let atime = (about.atime(), about.atime_nsec());
        compare("atime", time(atime), time(wanted));
        if wanted.0 < FUTURE || wanted <= mtime {
            inode.atime = None;
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join(", "))
    }
}

fn kind_found(about: &Metadata) -> &'static str {
    let kind = about.file_type();
    match () {
        () if kind.is_file() => "file",
        () if kind.is_dir() => "directory",
        () if kind.is_symlink() => "symlink",
        () if kind.is_fifo() => "fifo",
        () if kind.is_socket() => "socket",
        () if kind.is_char_device() => "device",
        () => "something else",
    }
}

fn kind_wanted(inode: &Inode) -> &'static str {
    match inode.kind {
        Kind::File(_) => "file",
        Kind::Directory(_) | Kind::Foreign => "directory",
        Kind::Symlink(_) => "symlink",
        Kind::Special(Special::Fifo) => "fifo",
        Kind::Special(Special::Socket) => "socket",
        Kind::Special(Special::Device) => "device",
    }
}

/// An errno by name, for messages.
pub(crate) fn named(errno: Errno) -> String {
    format!("{errno:?} ({errno})")
}
