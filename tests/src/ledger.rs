//! A ledger of what a file system has acknowledged: random operations on a directory, each
//! written down once it was answered. After a crash the directory must be as the ledger says; only
//! the one operation that was not answered may have happened, or not.

use crate::contents::{Dice, noise};
use rustix::fs::{FallocateFlags, XattrFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Names in use at once.
const NAMES: u64 = 60;
/// Directories they are spread over.
const DIRECTORIES: u64 = 4;
/// Most bytes of a file.
const LARGEST: u64 = 3 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Inode {
    bytes: Vec<u8>,
    mode: u32,
    tag: Option<Vec<u8>>,
}

/// Inodes by a number of the ledger's own, or by the file system's.
#[derive(Debug, Clone, Default)]
struct Model {
    names: BTreeMap<PathBuf, u64>,
    inodes: BTreeMap<u64, Arc<Inode>>,
}

/// The operation that was not answered.
#[derive(Debug)]
struct Doubt {
    what: Step,
    after: Model,
}

/// One system call. Names are relative to the ledger's directory, in one of `d0` to `d3`.
#[derive(Debug, Clone)]
pub enum Step {
    /// A new, empty file.
    Create(PathBuf),
    /// pwrite(2).
    Write {
        /// Of this file.
        name: PathBuf,
        /// First byte.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// ftruncate(2).
    Truncate(PathBuf, u64),
    /// fallocate(2) with a hole from the first to before the second number.
    Punch(PathBuf, u64, u64),
    /// rename(2).
    Rename(PathBuf, PathBuf),
    /// unlink(2).
    Unlink(PathBuf),
    /// link(2).
    Link(PathBuf, PathBuf),
    /// chmod(2).
    Chmod(PathBuf, u32),
    /// setxattr(2) of `user.tag`.
    Tag(PathBuf, Vec<u8>),
}

/// The ledger of a directory that nobody else changes.
#[derive(Debug)]
pub struct Ledger {
    dir: PathBuf,
    dice: Dice,
    model: Model,
    next: u64,
    doubt: Option<Doubt>,
    names: u64,
    largest: u64,
}

impl Ledger {
    /// Begin with a directory, which is created.
    pub fn begin(dir: &Path, seed: u64) -> Ledger {
        Ledger::begin_with(dir, seed, NAMES, LARGEST)
    }

    /// The same with few and small files, for tests that read all of it often.
    pub fn begin_small(dir: &Path, seed: u64) -> Ledger {
        Ledger::begin_with(dir, seed, NAMES / 3, LARGEST / 20)
    }

    fn begin_with(dir: &Path, seed: u64, names: u64, largest: u64) -> Ledger {
        for n in 0..DIRECTORIES {
            fs::create_dir_all(dir.join(format!("d{n}"))).expect("a directory");
        }
        Ledger {
            dir: dir.to_owned(),
            dice: Dice::new(seed),
            model: Model::default(),
            next: 1,
            doubt: None,
            names,
            largest,
        }
    }

    /// Do one operation. On an error it stays in doubt until [`Ledger::check`]: nothing may be
    /// done before.
    pub fn step(&mut self) -> io::Result<()> {
        let step = self.choose();
        self.take(step)
    }

    /// Do this operation.
    pub fn take(&mut self, step: Step) -> io::Result<()> {
        assert!(self.doubt.is_none(), "check first");
        let after = self.after(&step);
        match self.perform(&step) {
            Ok(()) => {
                self.model = after;
                Ok(())
            }
            Err(e) => {
                self.doubt = Some(Doubt { what: step, after });
                Err(e)
            }
        }
    }

    fn some_name(&mut self) -> PathBuf {
        let n = self.dice.below(self.names);
        PathBuf::from(format!("d{}/f{n}", n % DIRECTORIES))
    }

    fn existing_name(&mut self) -> Option<PathBuf> {
        let count = self.model.names.len() as u64;
        let nth = self.dice.below(count.max(1)) as usize;
        self.model.names.keys().nth(nth).cloned()
    }

    fn choose(&mut self) -> Step {
        let fresh = self.some_name();
        let Some(name) = self.existing_name() else {
            return Step::Create(fresh);
        };
        let is_fresh = !self.model.names.contains_key(&fresh);
        match self.dice.below(100) {
            0..20 if is_fresh => Step::Create(fresh),
            20..28 => Step::Unlink(name),
            28..36 => Step::Rename(name, fresh),
            36..40 if is_fresh => Step::Link(name, fresh),
            40..50 => {
                let size = self.some_size();
                Step::Truncate(name, size)
            }
            50..55 => Step::Chmod(name, 0o600 + self.dice.below(0o100) as u32),
            55..60 => {
                let tag = self.dice.below(300) as usize;
                Step::Tag(name, noise(self.next, tag))
            }
            _ => {
                let offset = self.some_size();
                let most = match self.dice.below(10) {
                    0 => 300 << 10,
                    1..4 => 40 << 10,
                    _ => 5 << 10,
                };
                let length = self.dice.below(most) + 1;
                let seed = self.dice.roll();
                Step::Write {
                    name,
                    offset,
                    bytes: noise(seed, length as usize),
                }
            }
        }
    }

    /// Often about the sizes where contents move from inline to a file of their own, or into
    /// the next block.
    fn some_size(&mut self) -> u64 {
        let size = match self.dice.below(10) {
            0..3 => self.dice.below(16 << 10),
            3 => (16 << 10) - 2 + self.dice.below(4),
            4..7 => self.dice.below(100 << 10),
            7 => (1 << 20) - 2 + self.dice.below(4),
            8 => 0,
            _ => self.dice.below(self.largest),
        };
        size.min(self.largest)
    }

    fn perform(&self, step: &Step) -> io::Result<()> {
        let at = |name: &Path| self.dir.join(name);
        match step {
            Step::Create(name) => File::create_new(at(name)).map(drop),
            Step::Write {
                name,
                offset,
                bytes,
            } => {
                let file = File::options().write(true).open(at(name))?;
                match file.write_at(bytes, *offset)? {
                    n if n == bytes.len() => Ok(()),
                    _ => Err(io::ErrorKind::WriteZero.into()),
                }
            }
            Step::Truncate(name, size) => {
                rustix::fs::ftruncate(File::options().write(true).open(at(name))?, *size)
                    .map_err(Into::into)
            }
            Step::Punch(name, from, to) => {
                let file = File::options().write(true).open(at(name))?;
                let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(file, how, *from, to - from).map_err(Into::into)
            }
            Step::Rename(from, to) => fs::rename(at(from), at(to)),
            Step::Unlink(name) => fs::remove_file(at(name)),
            Step::Link(from, to) => fs::hard_link(at(from), at(to)),
            Step::Chmod(name, mode) => {
                fs::set_permissions(at(name), fs::Permissions::from_mode(*mode))
            }
            Step::Tag(name, value) => {
                rustix::fs::lsetxattr(at(name), "user.tag", value, XattrFlags::empty())
                    .map_err(Into::into)
            }
        }
    }

    /// The model after a step.
    fn after(&mut self, step: &Step) -> Model {
        let mut model = self.model.clone();
        let change = |model: &mut Model, name: &Path, change: &dyn Fn(&mut Inode)| {
            let ino = model.names[name];
            change(Arc::make_mut(model.inodes.get_mut(&ino).expect("an inode")));
        };
        match step {
            Step::Create(name) => {
                let inode = Inode {
                    bytes: Vec::new(),
                    mode: 0,
                    tag: None,
                };
                model.names.insert(name.clone(), self.next);
                model.inodes.insert(self.next, Arc::new(inode));
                self.next += 1;
            }
            Step::Write {
                name,
                offset,
                bytes,
            } => change(&mut model, name, &|inode| {
                let (from, to) = (*offset as usize, *offset as usize + bytes.len());
                if inode.bytes.len() < to {
                    inode.bytes.resize(to, 0);
                }
                inode.bytes[from..to].copy_from_slice(bytes);
            }),
            Step::Truncate(name, size) => {
                change(&mut model, name, &|inode| {
                    inode.bytes.resize(*size as usize, 0)
                });
            }
            Step::Punch(name, from, to) => change(&mut model, name, &|inode| {
                let size = inode.bytes.len();
                let (from, to) = (size.min(*from as usize), size.min(*to as usize));
                inode.bytes[from..to].fill(0);
            }),
            Step::Rename(from, to) => {
                let ino = model.names[from];
                // Two names of one inode: nothing happens.
                if model.names.get(to) != Some(&ino) {
                    model.names.remove(from);
                    model.names.insert(to.clone(), ino);
                }
            }
            Step::Unlink(name) => drop(model.names.remove(name)),
            Step::Link(from, to) => {
                let ino = model.names[from];
                model.names.insert(to.clone(), ino);
            }
            Step::Chmod(name, mode) => change(&mut model, name, &|inode| inode.mode = *mode),
            Step::Tag(name, value) => {
                change(&mut model, name, &|inode| inode.tag = Some(value.clone()));
            }
        }
        let used: BTreeSet<u64> = model.names.values().copied().collect();
        model.inodes.retain(|ino, _| used.contains(ino));
        model
    }

    /// The directory must be as written down. An operation in doubt may have happened, or not; of
    /// a write in doubt, any bytes. From then on the ledger stands as the directory does.
    pub fn check(&mut self) {
        let found = self.read();
        let mut wrong = differences(&self.model, &found, None);
        if let (false, Some(doubt)) = (wrong.is_empty(), &self.doubt) {
            let region = match &doubt.what {
                Step::Write {
                    name,
                    offset,
                    bytes,
                } => Some((name.as_path(), *offset, bytes.as_slice())),
                _ => None,
            };
            let instead = differences(&doubt.after, &found, region);
            if instead.is_empty() {
                wrong.clear();
            } else {
                wrong.push(format!("in doubt: {}", summary(&doubt.what)));
                wrong.push("and if it had happened:".to_owned());
                wrong.extend(instead);
            }
        }
        assert!(
            wrong.is_empty(),
            "acknowledged operations were lost in {}:\n{}",
            self.dir.display(),
            wrong.join("\n")
        );
        self.doubt = None;
        self.next = found
            .inodes
            .keys()
            .max()
            .map_or(1, |n| n + 1)
            .max(self.next);
        // The modes of created files are those of the umask.
        self.model = found;
    }

    fn read(&self) -> Model {
        let mut model = Model::default();
        for n in 0..DIRECTORIES {
            let sub = format!("d{n}");
            for entry in fs::read_dir(self.dir.join(&sub)).expect("a directory") {
                let entry = entry.expect("a name");
                let path = entry.path();
                let about = fs::symlink_metadata(&path)
                    .unwrap_or_else(|e| panic!("{} is listed, but: {e}", path.display()));
                let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                let mut xattrs = crate::fingerprint::xattrs(&path);
                let inode = Inode {
                    bytes,
                    mode: about.mode() & 0o7777,
                    tag: xattrs.remove(&b"user.tag"[..]),
                };
                model
                    .names
                    .insert(Path::new(&sub).join(entry.file_name()), about.ino());
                model.inodes.insert(about.ino(), Arc::new(inode));
            }
        }
        model
    }
}

fn summary(step: &Step) -> String {
    match step {
        Step::Write {
            name,
            offset,
            bytes,
        } => {
            format!(
                "a write of {} bytes at {offset} to {}",
                bytes.len(),
                name.display()
            )
        }
        Step::Tag(name, value) => format!("a tag of {} bytes on {}", value.len(), name.display()),
        other => format!("{other:?}"),
    }
}

/// `doubtful` is a write that may have been done in part.
fn differences(
    wanted: &Model,
    found: &Model,
    doubtful: Option<(&Path, u64, &[u8])>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut same_inode: BTreeMap<u64, u64> = BTreeMap::new();
    let doubtful_ino = doubtful.and_then(|(name, ..)| wanted.names.get(name));
    for (name, ino) in &wanted.names {
        let Some(found_ino) = found.names.get(name) else {
            wrong.push(format!("{} is missing", name.display()));
            continue;
        };
        if *same_inode.entry(*ino).or_insert(*found_ino) != *found_ino {
            wrong.push(format!("{} is no hard link any more", name.display()));
        }
        let (a, b) = (&wanted.inodes[ino], &found.inodes[found_ino]);
        if a.mode != 0 && a.mode != b.mode {
            wrong.push(format!(
                "{}: mode {:o} instead of {:o}",
                name.display(),
                b.mode,
                a.mode
            ));
        }
        if a.tag != b.tag {
            wrong.push(format!("{}: another user.tag", name.display()));
        }
        let region = doubtful.filter(|_| doubtful_ino == Some(ino));
        if let Some(text) = bytes_differ(&a.bytes, &b.bytes, region) {
            wrong.push(format!("{}: {text}", name.display()));
        }
    }
    for name in found
        .names
        .keys()
        .filter(|n| !wanted.names.contains_key(*n))
    {
        wrong.push(format!("{} should not be there", name.display()));
    }
    wrong
}

fn bytes_differ(
    wanted: &[u8],
    found: &[u8],
    region: Option<(&Path, u64, &[u8])>,
) -> Option<String> {
    if wanted == found {
        return None;
    }
    let in_doubt = region.map_or(0..0, |(_, offset, bytes)| {
        offset as usize..offset as usize + bytes.len()
    });
    // A write in doubt may have grown the file in part.
    if wanted.len() != found.len() && !(found.len() < wanted.len() && wanted.len() == in_doubt.end)
    {
        return Some(format!("{} bytes instead of {}", found.len(), wanted.len()));
    }
    let mut pairs = wanted.iter().zip(found).enumerate();
    let first = pairs.position(|(at, (a, b))| a != b && !in_doubt.contains(&at))?;
    Some(format!("byte {first} of {} differs", wanted.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_wrong(ledger: &mut Ledger) -> bool {
        let check = std::panic::AssertUnwindSafe(|| ledger.check());
        std::panic::catch_unwind(check).is_err()
    }

    #[test]
    fn what_is_lost_or_wrong_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::begin(dir.path(), 1);
        (0..400).for_each(|_| ledger.step().unwrap());
        ledger.check();
        let largest = ledger
            .model
            .names
            .iter()
            .max_by_key(|(_, i)| ledger.model.inodes[i].bytes.len());
        let path = dir.path().join(largest.unwrap().0);
        let good = fs::read(&path).unwrap();

        let mut bad = good.clone();
        bad[good.len() / 2] ^= 1;
        fs::write(&path, &bad).unwrap();
        assert!(is_wrong(&mut ledger), "a flipped bit");
        fs::write(&path, &good[..good.len() - 1]).unwrap();
        assert!(is_wrong(&mut ledger), "a byte too few");
        fs::write(&path, &good).unwrap();
        ledger.check();
        fs::rename(&path, dir.path().join("d0/elsewhere")).unwrap();
        assert!(is_wrong(&mut ledger), "a lost name");
    }

    #[test]
    fn one_operation_in_doubt_may_have_happened_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::begin(dir.path(), 2);
        (0..200).for_each(|_| ledger.step().unwrap());
        let name = ledger.existing_name().unwrap();
        let path = dir.path().join(&name);
        for happened in [false, true] {
            let step = Step::Truncate(name.clone(), 77);
            let after = ledger.after(&step);
            if happened {
                ledger.perform(&step).unwrap();
            }
            ledger.doubt = Some(Doubt { what: step, after });
            ledger.check();
        }
        // But nothing else may have.
        let step = Step::Truncate(name, 70);
        let after = ledger.after(&step);
        ledger.doubt = Some(Doubt { what: step, after });
        fs::remove_file(&path).unwrap();
        assert!(is_wrong(&mut ledger));
    }
}
