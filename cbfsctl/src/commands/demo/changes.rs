//! What the demo does to the tree: the odd ones that make a file system sweat, before the first
//! snapshot, and a mix of everyday changes before the second.

use super::fingerprint::Fingerprint;
use crate::interrupt::Interrupt;
use crate::output::Outcome;
use cbfs_core::Result;
use cbfs_core::error::Context;
use rustix::fs::XattrFlags;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

/// The directory of the odd ones.
const ODD: &str = "odd ones";
/// Size of the large file: several blocks, so that a small change stores one of them.
const LARGE: u64 = 8 << 20;

/// Make hard links, symlinks, extended attributes, a sparse file, a name that is no UTF-8, and a
/// larger file.
pub(super) fn make_odd_ones(root: &Path) -> Result<()> {
    let dir = root.join(ODD);
    let at = |name: &str| dir.join(name);
    fs::create_dir(&dir).context(|| about("make", &dir))?;

    fs::write(at("first name"), "one inode, two names\n").context(|| about("write", &dir))?;
    fs::hard_link(at("first name"), at("second name")).context(|| about("link", &dir))?;
    symlink("first name", at("symlink")).context(|| about("link", &dir))?;

    fs::write(at("tagged"), "with an extended attribute\n").context(|| about("write", &dir))?;
    rustix::fs::setxattr(at("tagged"), "user.cbfs.demo", b"kept", XattrFlags::empty())
        .context(|| about("tag", &at("tagged")))?;

    let sparse = File::create_new(at("sparse")).context(|| about("make", &at("sparse")))?;
    sparse
        .set_len(64 << 20)
        .context(|| about("extend", &at("sparse")))?;
    sparse
        .write_all_at(b"in the middle of nothing", 32 << 20)
        .context(|| about("write", &at("sparse")))?;

    let latin1 = dir.join(OsStr::from_bytes(b"gr\xfcn"));
    fs::write(&latin1, "a name in Latin-1\n").context(|| about("write", &latin1))?;

    write_large(&at("large")).context(|| about("write", &at("large")))
}

/// Contents that do not compress away: the output of BLAKE3 in counter mode.
fn write_large(path: &Path) -> std::io::Result<()> {
    let mut noise = blake3::Hasher::new().finalize_xof();
    let mut file = File::create_new(path)?;
    let mut chunk = vec![0; 1 << 20];
    for _ in 0..LARGE / (1 << 20) {
        noise.fill(&mut chunk);
        file.write_all(&chunk)?;
    }
    Ok(())
}

/// What was changed, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Changed {
    /// Files with other contents.
    pub(super) edited: u64,
    /// Names moved (a directory counts once).
    pub(super) renamed: u64,
    /// Names removed.
    pub(super) removed: u64,
    /// Files with another mode.
    pub(super) chmodded: u64,
    /// New files.
    pub(super) added: u64,
}

impl Changed {
    /// As a line of text.
    pub(super) fn in_words(&self) -> String {
        let Changed {
            edited,
            renamed,
            removed,
            chmodded,
            added,
        } = self;
        format!(
            "{edited} edited, {renamed} renamed, {removed} removed, {chmodded} chmodded, {added} added"
        )
    }
}

/// New files in the second snapshot.
const ADDED: u64 = 200;

/// Change the tree under `root`, whose present state is `before`. Deterministic: every so-manyth
/// file is edited, removed, renamed, chmodded.
pub(super) fn change(root: &Path, before: &Fingerprint, interrupt: &Interrupt) -> Outcome<Changed> {
    let files: Vec<&Path> = before
        .entries
        .iter()
        .filter(|(path, entry)| entry.is_file() && entry.is_writable() && !path.starts_with(ODD))
        .map(|(path, _)| path.as_path())
        .collect();
    let stride = (files.len() / 50).clamp(5, 100);
    let mut changed = Changed::default();
    for (i, relative) in files.iter().enumerate() {
        interrupt.check()?;
        let path = root.join(relative);
        match i % stride {
            0 => {
                let mut file = OpenOptions::new()
                    .append(true)
                    .open(&path)
                    .context(|| about("edit", &path))?;
                file.write_all(b"edited by the demo\n")
                    .context(|| about("edit", &path))?;
                changed.edited += 1;
            }
            1 => {
                fs::remove_file(&path).context(|| about("remove", &path))?;
                changed.removed += 1;
            }
            2 => {
                let mut name = path.clone().into_os_string();
                name.push(".renamed");
                // a name of more than 255 bytes stays as it is
                if Path::new(&name).file_name().is_some_and(|n| n.len() <= 255) {
                    fs::rename(&path, &name).context(|| about("rename", &path))?;
                    changed.renamed += 1;
                }
            }
            3 => {
                let mode = fs::Permissions::from_mode(0o640);
                fs::set_permissions(&path, mode).context(|| about("chmod", &path))?;
                changed.chmodded += 1;
            }
            _ => {}
        }
    }
    change_odd_ones(root, &mut changed)?;
    add(root, &mut changed)?;
    Ok(changed)
}

fn change_odd_ones(root: &Path, changed: &mut Changed) -> Result<()> {
    let dir = root.join(ODD);
    let large = dir.join("large");
    let patched = OpenOptions::new().write(true).open(&large);
    let patched = patched.and_then(|f| f.write_all_at(b"four words in one block", (5 << 20) + 123));
    patched.context(|| about("edit", &large))?;
    let sparse = dir.join("sparse");
    let shortened = OpenOptions::new()
        .write(true)
        .open(&sparse)
        .and_then(|f| f.set_len(40 << 20));
    shortened.context(|| about("truncate", &sparse))?;
    let tagged = dir.join("tagged");
    rustix::fs::setxattr(&tagged, "user.cbfs.demo", b"changed", XattrFlags::REPLACE)
        .context(|| about("tag", &tagged))?;
    changed.edited += 3;
    let symlink_path = dir.join("symlink");
    fs::remove_file(&symlink_path).context(|| about("remove", &symlink_path))?;
    changed.removed += 1;
    // A whole directory moves at the cost of one name.
    let moved = root.join("odd ones, moved");
    fs::rename(&dir, &moved).context(|| about("rename", &dir))?;
    changed.renamed += 1;
    Ok(())
}

fn add(root: &Path, changed: &mut Changed) -> Result<()> {
    let dir = root.join("added");
    fs::create_dir(&dir).context(|| about("make", &dir))?;
    for i in 0..ADDED {
        let path = dir.join(format!("{i:03}.txt"));
        let text = format!("file {i} was not in the first snapshot\n").repeat(1 + i as usize);
        fs::write(&path, text).context(|| about("write", &path))?;
        changed.added += 1;
    }
    Ok(())
}

fn about(verb: &str, path: &Path) -> String {
    format!("could not {verb} {}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_change_is_made_and_the_fingerprint_sees_it() {
        let dir = tempfile::tempdir().unwrap();
        let interrupt = Interrupt::default();
        for i in 0..20 {
            fs::write(dir.path().join(format!("file {i:02}")), "x").unwrap();
        }
        if make_odd_ones(dir.path()).is_err() {
            return; // this machine's /tmp has no user xattrs
        }
        let take = || Fingerprint::take(dir.path(), &interrupt, &mut |_, _| {}).unwrap();
        let before = take();
        let changed = change(dir.path(), &before, &interrupt).unwrap();
        assert_eq!(
            changed,
            Changed {
                edited: 7,
                renamed: 5,
                removed: 5,
                chmodded: 4,
                added: ADDED
            }
        );
        assert!(before.differences(&take()).len() > 200);
    }
}
