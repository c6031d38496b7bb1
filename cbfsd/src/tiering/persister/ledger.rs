//! The ledger of an attempt: what of it is finished, so that a daemon that was killed goes on
//! behind it instead of beginning anew.
//!
//! `made.jsonl` in the attempt's folder, a line for every finished thing, appended in one write:
//! the BLAKE3 of the JSON in hex, a blank, the JSON ([`Entry`]). The first line says what the
//! attempt is of; a data tarball's line has the hashes of its two companions (its
//! [`facts`](super::facts), and the lines for the list of changes) and the place in the work list
//! where the next tarball begins.
//!
//! # Order of writes, and what a crash leaves
//!
//! 1. An object, and a tarball's companions, are whole in the attempt's folder.
//! 2. Its line is in the ledger.
//! 3. The status log says `object_made`, durably.
//! 4. The object goes to the bucket; the status log says `object_sent`, durably.
//! 5. The local copy is removed.
//!
//! From 1 before 2: what a line tells of is whole. From 2 before 4: **what is not in the ledger is
//! not in the bucket either**, so whatever is made again under the same name meets no older object.
//! A death between 1 and 2 costs that object: it is made again, and unlike the first need not be
//! equal byte for byte. A death between 2 and 5 costs nothing: the object is sent if the status log
//! does not say that it was, and a create-only PUT that finds it there compares. Half a line, at
//! the end, never counted.
//!
//! None of this is fsynced (3 and 4 are): a killed process loses no written byte, and after a
//! reboot nothing of an attempt is used, as the blocks preserved for it are not trusted either. A
//! folder that lost bytes all the same, say because its disk went away and came back, is found out:
//! every line and every file is checked against its hash, and the status log, which is durable, must
//! know no object that the ledger does not. Then [`Ledger::take_up`] refuses, and a new attempt
//! makes everything under a new name.

use crate::failpoints::{self, reach, reach_after};
use cbfs_core::error::{Context, Error, Result};
use cbfs_core::format::epoch::BaseSnapshot;
use cbfs_core::format::manifest::{XidRange, writer};
use cbfs_core::format::{ObjectRef, keys};
use cbfs_core::frames::StoredObject;
use cbfs_core::handle::Handle;
use cbfs_core::ids::{Epoch, SnapshotNumber};
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// File name of the ledger in the attempt's folder.
const NAME: &str = "made.jsonl";

/// Version of the ledger, its companions, and the order of the work list: another one is not taken
/// up.
const FORMAT: u32 = 1;

/// What an attempt is of. One that differs in any of it is not continued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The file system.
    pub fs: Handle,
    /// The snapshot's number.
    pub number: SnapshotNumber,
    /// The master's epoch.
    pub epoch: Epoch,
    /// The attempt's id.
    pub attempt: String,
    /// The transactions in it.
    pub xid: XidRange,
    /// The snapshot it builds on.
    pub parent: Option<BaseSnapshot>,
    /// Bytes per block.
    pub block_size: u64,
}

impl Identity {
    /// The attempt's folder below the proxy directory.
    pub fn prefix(&self) -> String {
        keys::attempt_prefix(self.number, self.epoch, &self.attempt)
    }
}

/// An object of an attempt that is no data tarball.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The metadata tarball.
    Metadata,
    /// The TOC.
    Toc,
    /// The layer.
    Layer,
    /// The change log.
    Log,
    /// The copy of the status log.
    Status,
}

/// Size and hash of a local file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Piece {
    pub(super) size: u64,
    /// BLAKE3, hex.
    pub(super) blake3: String,
}

/// A part of the work list, in the order of the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Phase {
    /// Members under their paths.
    #[default]
    Items,
    /// Files of which single blocks are stored.
    Patched,
    /// Directories.
    Directories,
    /// All is done.
    End,
}

/// A place in the work list: everything before it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Position {
    pub(super) phase: Phase,
    /// Which one of the phase.
    pub(super) index: u64,
    /// Which block of a patched file.
    pub(super) blk: u64,
    /// Files done.
    pub(super) files: u64,
    /// Bytes of contents done.
    pub(super) bytes: u64,
}

/// A finished data tarball.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TarballEntry {
    pub(super) object: ObjectRef,
    /// How many sections it has; their numbers go on from the tarball before it.
    pub(super) sections: u64,
    pub(super) facts: Piece,
    pub(super) members: Piece,
    /// Where the next tarball begins.
    pub(super) next: Position,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Begun {
    format: u32,
    writer: String,
    identity: Identity,
    created_at: String,
    /// BLAKE3 of the work list, hex.
    plan: String,
}

/// A line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Entry {
    Begun(Begun),
    Tarball(TarballEntry),
    Object { part: Part, object: ObjectRef },
}

/// The ledger of a running attempt.
#[derive(Debug)]
pub struct Ledger {
    dir: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    begun: Begun,
    tarballs: Vec<TarballEntry>,
    objects: Vec<(Part, ObjectRef)>,
}

/// What the status log says about an attempt's objects: key, and bytes.
#[derive(Debug, Clone, Copy)]
pub struct Logged<'a> {
    /// They were made.
    pub made: &'a BTreeMap<String, u64>,
    /// They have arrived in the bucket.
    pub sent: &'a BTreeMap<String, u64>,
}

impl Ledger {
    /// Whether there is a ledger in the folder of an attempt.
    pub fn is_in(dir: &Path) -> bool {
        dir.join(NAME).is_file()
    }

    /// Begin the ledger of a new attempt. `plan` is the hash of the work list.
    pub(super) fn begin(
        dir: &Path,
        identity: Identity,
        created_at: &str,
        plan: String,
    ) -> Result<Ledger> {
        let path = dir.join(NAME);
        let open = OpenOptions::new().append(true).create_new(true).open(&path);
        let mut file = open.context(|| format!("{} could not be created", path.display()))?;
        let begun = Begun {
            format: FORMAT,
            writer: writer(),
            identity,
            created_at: created_at.to_owned(),
            plan,
        };
        append(&mut file, &path, &Entry::Begun(begun.clone()))?;
        Ok(Ledger {
            dir: dir.to_owned(),
            state: Mutex::new(State {
                file,
                begun,
                tarballs: Vec::new(),
                objects: Vec::new(),
            }),
        })
    }

    /// Go on with the attempt whose folder is `dir`: see that it is the one of `identity` and that
    /// what its ledger tells of is here or, where the status log says so, in the bucket. Everything
    /// else in the folder is removed.
    ///
    /// # Errors
    /// Whatever keeps the attempt from being continued; the folder may have lost its leftovers.
    pub fn take_up(dir: &Path, identity: &Identity, logged: Logged<'_>) -> Result<Ledger> {
        let path = dir.join(NAME);
        let failed = || format!("{} could not be read", path.display());
        let bytes = fs::read(&path).context(failed)?;
        let whole = bytes
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |at| at + 1);
        let mut entries = Vec::new();
        for (line, number) in bytes[..whole].split_inclusive(|b| *b == b'\n').zip(1u64..) {
            let entry = parse(line).ok_or_else(|| {
                Error::damage(format!("line {number} of {} is damaged", path.display()))
            })?;
            entries.push(entry);
        }
        let mut entries = entries.into_iter();
        let Some(Entry::Begun(begun)) = entries.next() else {
            let text = format!("{} does not say what it is of", path.display());
            return Err(Error::damage(text));
        };
        if (begun.format, begun.writer.as_str()) != (FORMAT, writer().as_str()) {
            let text = format!("another version began the attempt ({})", begun.writer);
            return Err(Error::failed(text));
        }
        if begun.identity != *identity {
            return Err(Error::damage("its folder is one of something else"));
        }
        let open = OpenOptions::new().append(true).open(&path);
        let file = open.and_then(|file| file.set_len(whole as u64).map(|()| file));
        let mut state = State {
            file: file.context(failed)?,
            begun,
            tarballs: Vec::new(),
            objects: Vec::new(),
        };
        for entry in entries {
            match entry {
                Entry::Tarball(entry) => state.tarballs.push(entry),
                Entry::Object { part, object } => state.objects.push((part, object)),
                Entry::Begun(_) => return Err(Error::damage("its ledger begins twice")),
            }
        }
        let keep = state.check(dir, logged)?;
        remove_all_but(dir, &keep)?;
        Ok(Ledger {
            dir: dir.to_owned(),
            state: Mutex::new(state),
        })
    }

    /// `created_at` of the attempt.
    pub fn created_at(&self) -> String {
        self.state.lock().begun.created_at.clone()
    }

    /// The object of this part, if it is made.
    pub fn object(&self, part: Part) -> Option<ObjectRef> {
        let state = self.state.lock();
        let found = state.objects.iter().find(|(of, _)| *of == part);
        found.map(|(_, object)| object.clone())
    }

    /// All finished objects, in the order in which they were made.
    pub fn objects(&self) -> Vec<ObjectRef> {
        let state = self.state.lock();
        let tarballs = state.tarballs.iter().map(|t| &t.object);
        let others = state.objects.iter().map(|(_, object)| object);
        tarballs.chain(others).cloned().collect()
    }

    /// Note an object that is whole in the attempt's folder. Only then may it be sent.
    pub fn note(&self, part: Part, object: &ObjectRef) -> Result<()> {
        let entry = Entry::Object {
            part,
            object: object.clone(),
        };
        let mut state = self.append(&entry)?;
        state.objects.push((part, object.clone()));
        Ok(())
    }

    pub(super) fn note_tarball(&self, tarball: TarballEntry) -> Result<()> {
        let mut state = self.append(&Entry::Tarball(tarball.clone()))?;
        state.tarballs.push(tarball);
        Ok(())
    }

    /// The hash of the work list when the attempt began.
    pub(super) fn plan(&self) -> String {
        self.state.lock().begun.plan.clone()
    }

    pub(super) fn tarballs(&self) -> Vec<TarballEntry> {
        self.state.lock().tarballs.clone()
    }

    fn append(&self, entry: &Entry) -> Result<MutexGuard<'_, State>> {
        let mut state = self.state.lock();
        append(&mut state.file, &self.dir.join(NAME), entry)?;
        Ok(state)
    }
}

impl State {
    /// See that everything is as the lines say; answers the names of the files that are needed.
    fn check(&self, dir: &Path, logged: Logged<'_>) -> Result<BTreeSet<String>> {
        let prefix = self.begun.identity.prefix();
        let mut keep = BTreeSet::from([NAME.to_owned()]);
        let mut known = BTreeSet::new();
        for (tarball, index) in self.tarballs.iter().zip(1u32..) {
            if tarball.object.key != format!("{prefix}{}", keys::tarball(index)) {
                return Err(Error::damage("its ledger misses a tarball"));
            }
            for (name, piece) in [
                (facts_name(index), &tarball.facts),
                (members_name(index), &tarball.members),
            ] {
                check_file(&dir.join(&name), piece.size, &piece.blake3)?;
                keep.insert(name);
            }
        }
        let objects = self.tarballs.iter().map(|t| &t.object);
        for object in objects.chain(self.objects.iter().map(|(_, object)| object)) {
            known.insert(object.key.as_str());
            if let Some(size) = logged.sent.get(&object.key) {
                if *size != object.size {
                    let text = format!("the status log has another size of {}", object.key);
                    return Err(Error::damage(text));
                }
                continue;
            }
            let name = object.key.strip_prefix(&prefix).ok_or_else(|| {
                Error::damage(format!("{} is no object of the attempt", object.key))
            })?;
            check_file(&dir.join(name), object.size, &object.blake3)?;
            keep.insert(name.to_owned());
        }
        let logged = logged.made.keys().chain(logged.sent.keys());
        let own = logged.filter(|key| key.starts_with(&prefix));
        for key in own {
            if !known.contains(key.as_str()) {
                let text = format!("the status log knows {key}, its ledger does not");
                return Err(Error::damage(text));
            }
        }
        Ok(keep)
    }
}

/// The companion of a tarball with its facts.
pub(super) fn facts_name(tarball: u32) -> String {
    format!("{tarball:04}.facts")
}

/// The companion of a tarball with the lines of its members for the list of changes.
pub(super) fn members_name(tarball: u32) -> String {
    format!("{tarball:04}.members.jsonl")
}

fn append(file: &mut File, path: &Path, entry: &Entry) -> Result<()> {
    let failed = || format!("{} could not be written", path.display());
    let json = serde_json::to_string(entry).context(failed)?;
    let line = format!("{} {json}\n", blake3::hash(json.as_bytes()).to_hex());
    reach(failpoints::LEDGER_BEFORE_LINE);
    reach_after(failpoints::LEDGER_HALF_WRITTEN, || {
        let _ = file.write_all(&line.as_bytes()[..line.len() / 2]);
    });
    file.write_all(line.as_bytes()).context(failed)
}

fn parse(line: &[u8]) -> Option<Entry> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    let (hash, json) = line.split_once(' ')?;
    if blake3::hash(json.as_bytes()).to_hex().as_str() != hash {
        return None;
    }
    serde_json::from_str(json).ok()
}

fn check_file(path: &Path, size: u64, blake3: &str) -> Result<()> {
    let stored = File::open(path)
        .and_then(StoredObject::of)
        .context(|| format!("{} could not be read", path.display()))?;
    if (stored.size, stored.blake3.as_str()) != (size, blake3) {
        let text = format!("{} is not what was written", path.display());
        return Err(Error::damage(text));
    }
    Ok(())
}

/// Remove what a crash left unfinished.
fn remove_all_but(dir: &Path, keep: &BTreeSet<String>) -> Result<()> {
    let failed = || format!("{} could not be cleaned up", dir.display());
    for entry in fs::read_dir(dir).context(failed)? {
        let entry = entry.context(failed)?;
        let kept = entry.file_name().to_str().is_some_and(|n| keep.contains(n));
        if !kept {
            fs::remove_file(entry.path()).context(failed)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cbfs_core::ids::Xid;

    fn identity() -> Identity {
        Identity {
            fs: Handle::new("home", uuid::Uuid::from_u128(7)).unwrap(),
            number: SnapshotNumber(3),
            epoch: Epoch(1),
            attempt: "0123456789ab".into(),
            xid: XidRange {
                from: Xid(1),
                to: Xid(9),
            },
            parent: None,
            block_size: 1 << 20,
        }
    }

    fn object(dir: &Path, name: &str, bytes: &[u8]) -> ObjectRef {
        fs::write(dir.join(name), bytes).unwrap();
        let stored = StoredObject::of(bytes).unwrap();
        stored.at(format!("{}{name}", identity().prefix()))
    }

    fn piece(dir: &Path, name: &str) -> Piece {
        fs::write(dir.join(name), name).unwrap();
        let ObjectRef { size, blake3, .. } = object(dir, name, name.as_bytes());
        Piece { size, blake3 }
    }

    /// A folder with one tarball and a TOC.
    fn attempt(dir: &Path) -> (TarballEntry, ObjectRef) {
        let ledger = Ledger::begin(dir, identity(), "then", "plan".into()).unwrap();
        let tarball = TarballEntry {
            object: object(dir, "0001.tar.zst", b"tarball"),
            sections: 2,
            facts: piece(dir, "0001.facts"),
            members: piece(dir, "0001.members.jsonl"),
            next: Position {
                phase: Phase::Patched,
                index: 1,
                blk: 2,
                files: 3,
                bytes: 4,
            },
        };
        let toc = object(dir, "toc.sqlite.zst", b"toc");
        ledger.note_tarball(tarball.clone()).unwrap();
        ledger.note(Part::Toc, &toc).unwrap();
        (tarball, toc)
    }

    fn sizes(objects: &[&ObjectRef]) -> BTreeMap<String, u64> {
        let pairs = objects.iter().map(|o| (o.key.clone(), o.size));
        pairs.collect()
    }

    fn take_up(dir: &Path, made: &[&ObjectRef], sent: &[&ObjectRef]) -> Result<Ledger> {
        let (made, sent) = (sizes(made), sizes(sent));
        let logged = Logged {
            made: &made,
            sent: &sent,
        };
        Ledger::take_up(dir, &identity(), logged)
    }

    #[test]
    fn what_is_noted_is_taken_up_and_leftovers_go() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let (tarball, toc) = attempt(dir);
        fs::write(dir.join("0002.tar.zst"), b"unfinished").unwrap();
        let ledger = take_up(dir, &[&tarball.object], &[]).unwrap();
        assert_eq!(ledger.tarballs(), std::slice::from_ref(&tarball));
        assert_eq!(ledger.object(Part::Toc), Some(toc.clone()));
        assert_eq!(ledger.object(Part::Layer), None);
        assert_eq!(ledger.created_at(), "then");
        assert!(!dir.join("0002.tar.zst").exists());

        // What has arrived needs no local copy, and keeps none.
        let layer = object(dir, "layer.sqlite.zst", b"layer");
        ledger.note(Part::Layer, &layer).unwrap();
        fs::remove_file(dir.join("0001.tar.zst")).unwrap();
        let sent = [&tarball.object, &toc];
        let ledger = take_up(dir, &sent, &sent).unwrap();
        assert_eq!(ledger.objects(), [tarball.object, toc, layer]);
        assert!(!dir.join("toc.sqlite.zst").exists());
        assert!(dir.join("layer.sqlite.zst").exists());
    }

    #[test]
    fn half_a_line_at_the_end_does_not_count_and_is_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let (tarball, toc) = attempt(dir);
        let path = dir.join(NAME);
        let whole = fs::read(&path).unwrap();
        let last = whole[..whole.len() - 1].iter().rposition(|b| *b == b'\n');
        for cut in last.unwrap() + 1..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            fs::write(dir.join("toc.sqlite.zst"), b"toc").unwrap();
            let ledger = take_up(dir, &[], &[]).unwrap();
            let kept = std::slice::from_ref(&tarball.object);
            assert_eq!(ledger.objects(), kept, "cut at {cut}");
            ledger.note(Part::Log, &tarball.object).unwrap();
            let again = take_up(dir, &[], &[]).unwrap();
            assert_eq!(again.object(Part::Log), Some(tarball.object.clone()));
        }
        assert_eq!(toc.size, 3);
    }

    #[test]
    fn an_attempt_that_lost_or_changed_a_byte_is_not_continued() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let (tarball, toc) = attempt(dir);
        let names = [
            NAME,
            "0001.facts",
            "0001.members.jsonl",
            "0001.tar.zst",
            "toc.sqlite.zst",
        ];
        for name in names {
            let whole = fs::read(dir.join(name)).unwrap();
            for at in [0, whole.len() / 2] {
                let mut bad = whole.clone();
                bad[at] ^= 1;
                fs::write(dir.join(name), &bad).unwrap();
                assert!(take_up(dir, &[], &[]).is_err(), "{name}, byte {at}");
            }
            fs::write(dir.join(name), b"").unwrap();
            assert!(take_up(dir, &[], &[]).is_err(), "{name} is empty");
            fs::write(dir.join(name), &whole).unwrap();
        }
        take_up(dir, &[&tarball.object, &toc], &[]).unwrap();

        // The end of the ledger is lost, line by line: the status log knows more.
        let whole = fs::read(dir.join(NAME)).unwrap();
        let last = whole[..whole.len() - 1].iter().rposition(|b| *b == b'\n');
        fs::write(dir.join(NAME), &whole[..=last.unwrap()]).unwrap();
        assert!(take_up(dir, &[&toc], &[]).is_err());
    }

    #[test]
    fn an_attempt_of_something_else_is_not_continued() {
        let dir = tempfile::tempdir().unwrap();
        attempt(dir.path());
        let mut other = identity();
        other.xid.to = Xid(10);
        let none = BTreeMap::new();
        let logged = Logged {
            made: &none,
            sent: &none,
        };
        assert!(Ledger::take_up(dir.path(), &other, logged).is_err());
    }
}
