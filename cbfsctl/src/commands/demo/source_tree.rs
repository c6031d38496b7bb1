//! Copying a real tree into the mount, with all that `cp -a` keeps but special files.

use crate::interrupt::Interrupt;
use crate::output::Outcome;
use cbfs_core::error::Context;
use cbfs_core::{Error, ErrorKind, Result};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

/// A tree to copy, and the name of its copy below the mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// Where it is.
    pub(super) path: PathBuf,
    /// What its copy is called.
    pub(super) name: String,
}

/// What was copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Copied {
    /// Regular files.
    pub(super) files: u64,
    /// Directories.
    pub(super) directories: u64,
    /// Symlinks.
    pub(super) symlinks: u64,
    /// Further names of files already copied.
    pub(super) hard_links: u64,
    /// Bytes of the files.
    pub(super) bytes: u64,
    /// What could not be read, or is neither file, directory nor symlink.
    pub(super) skipped: u64,
}

/// The trees to show CBFS with: the one that was given; else the sources of the cargo workspace
/// around the current directory and the system's C headers, whichever there are.
///
/// # Errors
/// [`ErrorKind::NotFound`] and [`ErrorKind::Usage`] when there is nothing to copy.
pub(super) fn choose(given: Option<&Path>) -> Result<Vec<Source>> {
    if let Some(path) = given {
        let path = fs::canonicalize(path).map_err(|e| {
            Error::new(ErrorKind::NotFound, format!("no tree {}", path.display())).because(e)
        })?;
        if !path.is_dir() {
            let text = format!("{} is not a directory", path.display());
            return Err(Error::new(ErrorKind::Usage, text));
        }
        return Ok(vec![Source {
            path,
            name: "tree".to_owned(),
        }]);
    }
    let mut sources = Vec::new();
    let here = std::env::current_dir().context(|| "there is no current directory".to_owned())?;
    if let Some(workspace) = here.ancestors().find(|dir| is_workspace(dir)) {
        sources.push(Source {
            path: workspace.to_owned(),
            name: "sources".to_owned(),
        });
    }
    let headers = Path::new("/usr/include");
    if headers.is_dir() {
        sources.push(Source {
            path: headers.to_owned(),
            name: "include".to_owned(),
        });
    }
    if sources.is_empty() {
        return Err(Error::new(ErrorKind::Usage, "found no tree to copy")
            .hint("name one: cbfsctl demo --tree DIR"));
    }
    Ok(sources)
}

fn is_workspace(dir: &Path) -> bool {
    fs::read_to_string(dir.join("Cargo.toml"))
        .is_ok_and(|text| text.lines().any(|line| line.trim() == "[workspace]"))
}

/// Copies trees, keeping count over all of them.
pub(super) struct Copier<'a> {
    /// Never entered: the demo's own directory may lie within the tree.
    pub(super) leave_out: &'a Path,
    /// Ends the copying.
    pub(super) interrupt: &'a Interrupt,
    /// Hears how much is copied.
    pub(super) tick: &'a mut dyn FnMut(&Copied),
    /// What is copied so far.
    pub(super) copied: Copied,
    /// Copies of files with several names, by device and inode of the original.
    first_copies: HashMap<(u64, u64), PathBuf>,
    is_root: bool,
}

impl<'a> Copier<'a> {
    /// A copier that has copied nothing yet.
    pub(super) fn new(
        leave_out: &'a Path,
        interrupt: &'a Interrupt,
        tick: &'a mut dyn FnMut(&Copied),
    ) -> Copier<'a> {
        Copier {
            leave_out,
            interrupt,
            tick,
            copied: Copied::default(),
            first_copies: HashMap::new(),
            is_root: rustix::process::geteuid().is_root(),
        }
    }

    /// Copy what is at `from` to `to`, which must not exist. Sources that cannot be read are
    /// counted and left out; an error on the copy's side is an error.
    pub(super) fn copy(&mut self, from: &Path, to: &Path) -> Outcome {
        self.interrupt.check()?;
        let Ok(metadata) = fs::symlink_metadata(from) else {
            self.copied.skipped += 1;
            return Ok(());
        };
        if metadata.is_dir() {
            self.directory(from, to, &metadata)?;
        } else if metadata.is_file() {
            self.file(from, to, &metadata)?;
        } else if metadata.is_symlink() {
            match fs::read_link(from) {
                Ok(target) => {
                    symlink(target, to).context(|| not_written(to))?;
                    self.attributes(to, &metadata)?;
                    self.copied.symlinks += 1;
                }
                Err(_) => self.copied.skipped += 1,
            }
        } else {
            self.copied.skipped += 1;
        }
        (self.tick)(&self.copied);
        Ok(())
    }

    fn directory(&mut self, from: &Path, to: &Path, metadata: &Metadata) -> Outcome {
        let Ok(children) = fs::read_dir(from) else {
            self.copied.skipped += 1;
            return Ok(());
        };
        fs::create_dir(to).context(|| not_written(to))?;
        self.copied.directories += 1;
        let has_manifest = from.join("Cargo.toml").is_file();
        for child in children {
            let Ok(child) = child else {
                self.copied.skipped += 1;
                continue;
            };
            let (name, path) = (child.file_name(), child.path());
            let is_build_output = name == ".git" || has_manifest && name == "target";
            if !is_build_output && path != self.leave_out {
                self.copy(&path, &to.join(name))?;
            }
        }
        self.attributes(to, metadata)?; // last: its children changed its mtime
        Ok(())
    }

    fn file(&mut self, from: &Path, to: &Path, metadata: &Metadata) -> Result<()> {
        let id = (metadata.dev(), metadata.ino());
        if metadata.nlink() > 1
            && let Some(first) = self.first_copies.get(&id)
        {
            fs::hard_link(first, to).context(|| not_written(to))?;
            self.copied.hard_links += 1;
            return Ok(());
        }
        let Ok(mut source) = fs::File::open(from) else {
            self.copied.skipped += 1;
            return Ok(());
        };
        let copy =
            fs::File::create_new(to).and_then(|mut target| io::copy(&mut source, &mut target));
        self.copied.bytes += copy.context(|| not_written(to))?;
        self.attributes(to, metadata)?;
        if metadata.nlink() > 1 {
            self.first_copies.insert(id, to.to_owned());
        }
        self.copied.files += 1;
        Ok(())
    }

    /// Owner (for root), mode and times, in this order: a new owner clears set-id bits.
    fn attributes(&self, to: &Path, metadata: &Metadata) -> Result<()> {
        let (uid, gid) = (metadata.uid(), metadata.gid());
        let is_link = metadata.is_symlink();
        if self.is_root && (uid, gid) != (0, 0) {
            let owner = if is_link { lchown } else { chown::<&Path> };
            owner(to, Some(uid), Some(gid)).context(|| not_written(to))?;
        }
        if !is_link {
            let mode = fs::Permissions::from_mode(metadata.mode() & 0o7777);
            fs::set_permissions(to, mode).context(|| not_written(to))?;
        }
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: metadata.atime(),
                tv_nsec: metadata.atime_nsec() as _,
            },
            last_modification: Timespec {
                tv_sec: metadata.mtime(),
                tv_nsec: metadata.mtime_nsec() as _,
            },
        };
        rustix::fs::utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)
            .context(|| not_written(to))
    }
}

fn not_written(path: &Path) -> String {
    format!("{} could not be written", path.display())
}

#[cfg(test)]
mod tests {
    use super::super::fingerprint::Fingerprint;
    use super::*;

    #[test]
    fn a_copy_is_the_same_tree_without_build_output() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("src/deep")).unwrap();
        fs::write(from.join("src/deep/a"), "a").unwrap();
        fs::set_permissions(from.join("src/deep/a"), fs::Permissions::from_mode(0o4711)).unwrap();
        fs::hard_link(from.join("src/deep/a"), from.join("z")).unwrap();
        symlink("nowhere", from.join("src/s")).unwrap();
        let interrupt = Interrupt::default();
        let fingerprint = |d: &Path| Fingerprint::take(d, &interrupt, &mut |_, _| {}).unwrap();

        let mut tick = |_: &Copied| {};
        let mut copier = Copier::new(Path::new("/none"), &interrupt, &mut tick);
        copier.copy(&from, &to).unwrap();
        let copied = copier.copied;
        assert_eq!(
            (copied.files, copied.directories, copied.symlinks),
            (1, 3, 1)
        );
        assert_eq!((copied.hard_links, copied.bytes, copied.skipped), (1, 1, 0));
        let differences = fingerprint(&from).differences(&fingerprint(&to));
        assert!(differences.is_empty(), "{differences:?}");

        fs::create_dir_all(from.join("target/debug")).unwrap();
        fs::create_dir_all(from.join("src/target")).unwrap();
        fs::create_dir_all(from.join(".git")).unwrap();
        fs::write(from.join("Cargo.toml"), "[workspace]\n").unwrap();
        let without = dir.path().join("without");
        let deep = from.join("src/deep");
        let mut copier = Copier::new(&deep, &interrupt, &mut tick);
        copier.copy(&from, &without).unwrap();
        assert!(!without.join("target").exists() && !without.join(".git").exists());
        assert!(without.join("src/target").exists() && !without.join("src/deep").exists());
    }
}
