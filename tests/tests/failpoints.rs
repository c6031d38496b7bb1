//! The crash harness: at every failpoint (`cbfsd/src/failpoints.rs`) the daemon dies as by `kill -9` while
//! it is used. Each time the state directory must be consistent as the checker sees it, the next start
//! must have everything that was answered, and the snapshots that were under way and the next one must
//! be exact on another node.
//!
//! A failpoint that a round does not reach fails it, and so does one without a round.

#![cfg(debug_assertions)] // a release daemon has no failpoints
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too

use cbfs_tests::contents::noise;
use cbfs_tests::{Exactness, Fingerprint, Ledger, Master, Node, Step, assert_same, needs_fuse};
use cbfsd::failpoints::ALL;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Random operations around the one that matters.
const STEPS: usize = 25;

/// How a daemon is brought to its failpoint.
#[derive(Clone, Copy)]
enum How {
    /// It gets there while it starts.
    Start,
    /// Random operations do it.
    Steps,
    /// This operation on the file of the round (1,500,000 bytes), or random ones after it.
    Op(fn(&Path) -> Vec<Step>),
    /// The end of the daemon does it, after these operations.
    Stop(fn(&Path) -> Vec<Step>),
    /// A snapshot does it.
    Snapshot,
    /// A snapshot does it, behind a number that was given up.
    SnapshotAfterGap,
    /// This operation does it, while a snapshot waits for its bucket.
    Pending(fn(&Path) -> Vec<Step>),
    /// The snapshot goes on after it was interrupted at this other failpoint.
    SnapshotAfter(&'static str),
}

/// `NAME[:NTH]`, and how it is reached.
type Round = (&'static str, How);

fn nothing(_: &Path) -> Vec<Step> {
    Vec::new()
}

fn spill(file: &Path) -> Vec<Step> {
    let small = file.with_extension("small");
    let write = |offset, length| Step::Write {
        name: small.clone(),
        offset,
        bytes: noise(offset, length),
    };
    vec![
        Step::Create(small.clone()),
        write(0, 9_000),
        write(9_000, 30_000),
    ]
}

fn overwrite(file: &Path) -> Vec<Step> {
    let bytes = noise(3, 70_000);
    vec![Step::Write {
        name: file.to_owned(),
        offset: 1_000_000,
        bytes,
    }]
}

fn grow(file: &Path) -> Vec<Step> {
    vec![Step::Truncate(file.to_owned(), 2_700_000)]
}

fn shrink_and_grow(file: &Path) -> Vec<Step> {
    vec![
        Step::Truncate(file.to_owned(), 900_001),
        Step::Truncate(file.to_owned(), 1_400_000),
    ]
}

fn punch(file: &Path) -> Vec<Step> {
    vec![Step::Punch(file.to_owned(), 300_001, 1_200_000)]
}

fn unlink(file: &Path) -> Vec<Step> {
    vec![Step::Unlink(file.to_owned())]
}

fn replace(file: &Path) -> Vec<Step> {
    let other = file.with_extension("other");
    let bytes = noise(8, 400_000);
    vec![
        Step::Create(other.clone()),
        Step::Write {
            name: other.clone(),
            offset: 0,
            bytes,
        },
        Step::Rename(other, file.to_owned()),
    ]
}

/// More than a journal segment takes.
fn fill_a_segment(file: &Path) -> Vec<Step> {
    let tag = |n| Step::Tag(file.to_owned(), noise(n, 60_000));
    (0..1_150).map(tag).collect()
}

/// One life of a file system, through many deaths of its daemon.
struct World {
    m: Master,
    ledger: Ledger,
    reader: Node,
    reader_mnt: PathBuf,
    rounds: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let m = Master::with_directory_bucket();
        // So that each snapshot trims the journal.
        let policy = "[change_log]\nkeep_segments = 0\nkeep_for = \"0\"\n";
        fs::write(m.instance_dir().join("policy.toml"), policy).unwrap();
        let ledger = Ledger::begin_small(&m.at("ledger"), seed);
        let reader = m.stage.node("reader");
        reader.start();
        let reader_mnt = m.stage.dir("reader-mnt");
        World {
            m,
            ledger,
            reader,
            reader_mnt,
            rounds: 0,
        }
    }

    /// Random operations, until the daemon dies if it does.
    fn steps(&mut self) -> io::Result<()> {
        (0..STEPS).try_for_each(|_| self.ledger.step())
    }

    /// These operations, then random ones.
    fn take(&mut self, steps: Vec<Step>) -> io::Result<()> {
        for step in steps {
            self.ledger.take(step)?;
        }
        self.steps()
    }

    /// Begin with a large file of the round, and a daemon armed.
    fn begin(&mut self, failpoint: &str) -> (PathBuf, bool) {
        // The tree stays small: it is compared often.
        let last = PathBuf::from(format!("d0/round-{}", self.rounds));
        if self.m.at("ledger").join(&last).exists() {
            self.ledger.take(Step::Unlink(last)).unwrap();
        }
        self.steps().unwrap();
        self.rounds += 1;
        let file = PathBuf::from(format!("d0/round-{}", self.rounds));
        self.ledger.take(Step::Create(file.clone())).unwrap();
        let bytes = noise(self.rounds, 1_500_000);
        let write = Step::Write {
            name: file.clone(),
            offset: 0,
            bytes,
        };
        self.ledger.take(write).unwrap();
        if self.rounds.is_multiple_of(2) {
            self.m.node.stop();
        } else {
            self.m.node.kill9();
        }
        (file, self.arm(failpoint))
    }

    /// Start with a failpoint armed; `false` when it is reached at once.
    fn arm(&self, failpoint: &str) -> bool {
        let started = self.m.node.try_start_armed(failpoint);
        if let Err(ended) = &started {
            assert!(!ended.status.success(), "{failpoint}: {ended:?}");
        }
        started.is_ok()
    }

    /// Ask for a snapshot. Nobody waits for it to end: the daemon dies before it does.
    fn ask(&self) {
        drop(self.m.node.ctl(["snapshot", "create", &self.m.fs]));
    }

    /// A request is cancelled while another, before it, waits for its bucket.
    fn give_a_number_up(&self) {
        let bucket = self.m.stage.path("bucket");
        let away = self.m.stage.path("bucket-away");
        fs::rename(&bucket, &away).unwrap();
        let first = self.m.snapshot_until("collected");
        let second = self.m.node.ctl(["snapshot", "create", &self.m.fs]).ok();
        let second = format!("{}@{}", self.m.fs, second.trim_end());
        self.m.node.ctl(["snapshot", "cancel", &second]).ok();
        fs::rename(&away, &bucket).unwrap();
        self.m.wait_for(first);
    }

    /// The daemon must have died at the failpoint; then everything must be right.
    fn after_death(&mut self, failpoint: &str, cut: Option<(u64, &Fingerprint)>) {
        let m = &self.m;
        m.node.must_end(failpoint);
        let name = failpoint.split(':').next().unwrap();
        let word = format!("failpoint {name}\n");
        assert!(
            m.node.log().contains(&word),
            "{failpoint} was never reached"
        );

        m.node.ctl(["fs", "check", "--local", &m.fs]).ok();
        m.node.start();
        self.ledger.check();

        let now = m.fingerprint();
        let interrupted = self.open_requests();
        for number in &interrupted {
            self.m.wait_for(*number);
            match cut {
                Some((of, then)) if of == *number => self.compare(failpoint, *number, then),
                _ => self.compare(failpoint, *number, &now),
            }
        }
        self.steps().unwrap();
        if interrupted.is_empty() || cut.is_some() {
            self.compare_with_a_new_snapshot(failpoint);
        }
    }

    fn compare_with_a_new_snapshot(&mut self, failpoint: &str) {
        let now = self.m.fingerprint();
        let number = self.m.snapshot();
        self.compare(failpoint, number, &now);
        self.ledger.check();
    }

    /// Snapshots that the death interrupted.
    fn open_requests(&self) -> Vec<u64> {
        let all = self.m.node.json(["snapshot", "list", &self.m.fs]);
        let open = all.as_array().unwrap().iter();
        open.filter(|s| s["state"] != "complete")
            .map(|s| s["number"].as_u64().unwrap())
            .collect()
    }

    /// A snapshot on the other node is exactly what it was made of.
    fn compare(&self, failpoint: &str, number: u64, wanted: &Fingerprint) {
        let snapshot = format!("{}@{number}", self.m.fs);
        let dir = self.reader_mnt.to_str().unwrap();
        let args = [
            "mount",
            &snapshot,
            dir,
            "--slave",
            "--bucket",
            self.m.bucket.url(),
        ];
        self.reader.ctl(args).ok();
        let found = Fingerprint::take(&self.reader_mnt, Exactness::Snapshot);
        assert_same(&format!("{failpoint}: snapshot {number}"), wanted, &found);
        self.reader.ctl(["umount", dir]).ok();
    }

    fn round(&mut self, (failpoint, how): &Round) {
        let mut cut = None;
        match how {
            How::Start => assert!(!self.begin(failpoint).1, "{failpoint} was not reached"),
            How::Steps => {
                assert!(self.begin(failpoint).1);
                let lived = self.steps();
                assert!(lived.is_err(), "{failpoint} was not reached");
            }
            How::Op(op) => {
                let (file, up) = self.begin(failpoint);
                if up {
                    let _ = self.take(op(&file));
                }
            }
            How::Stop(op) => {
                let (file, up) = self.begin(failpoint);
                if up && self.take(op(&file)).is_ok() {
                    self.m.node.ask_to_stop();
                }
            }
            How::Snapshot => {
                if self.begin(failpoint).1 {
                    self.ask();
                }
            }
            How::SnapshotAfterGap => {
                self.give_a_number_up();
                if self.begin(failpoint).1 {
                    self.ask();
                }
            }
            How::SnapshotAfter(first) => {
                if self.begin(first).1 {
                    self.ask();
                }
                self.m.node.must_end(first);
                self.arm(failpoint);
            }
            How::Pending(op) => {
                let (file, up) = self.begin(failpoint);
                assert!(up);
                // Not exact to the last access time, but to everything a snapshot keeps.
                let then = self.m.fingerprint();
                let bucket = self.m.stage.path("bucket");
                let away = self.m.stage.path("bucket-away");
                fs::rename(&bucket, &away).unwrap();
                let number = self.m.snapshot_until("collected");
                let _ = self.take(op(&file));
                self.m.node.must_end(failpoint);
                fs::rename(&away, &bucket).unwrap();
                cut = Some((number, then));
            }
        }
        self.after_death(
            failpoint,
            cut.as_ref().map(|(number, then)| (*number, then)),
        );
    }
}

/// The journal, and what is written to files without it.
const OPERATIONS: &[Round] = &[
    ("journal.before-write:9", How::Steps),
    ("journal.half-written:9", How::Steps),
    ("journal.written:9", How::Steps),
    ("journal.before-sync", How::Stop(nothing)),
    ("journal.before-mark", How::Stop(nothing)),
    ("journal.marked", How::Stop(nothing)),
    ("segment.named", How::Start),
    ("segment.begun", How::Start),
    ("segment.begun:2", How::Op(fill_a_segment)),
    ("spill.filled", How::Op(spill)),
    ("write.journaled", How::Op(overwrite)),
    ("truncate.extended", How::Op(grow)),
    ("truncate.journaled", How::Op(shrink_and_grow)),
    ("hole.journaled", How::Op(punch)),
    ("destroy.journaled", How::Op(unlink)),
    ("reap.before-removal", How::Stop(unlink)),
    ("reap.before-removal:2", How::Stop(replace)),
];

/// Flush, cut, rotation, fold.
const KVS: &[Round] = &[
    ("flush.swapped", How::Stop(nothing)),
    ("flush.journal-synced", How::Stop(nothing)),
    ("flush.before-commit", How::Stop(nothing)),
    ("flush.committed", How::Stop(nothing)),
    ("cut.before-record", How::Snapshot),
    ("cut.journaled", How::Snapshot),
    ("rotate.before-rows", How::Snapshot),
    ("rotate.marked", How::Snapshot),
    ("rotate.before-rename", How::Snapshot),
    ("rotate.renamed", How::Snapshot),
    ("rotate.frozen", How::Snapshot),
    ("rotate.new-active", How::Snapshot),
    ("fold.between-steps:3", How::Snapshot),
    ("fold.between-steps:8", How::Snapshot),
    ("fold.before-mark", How::Snapshot),
    ("fold.marked", How::Snapshot),
    ("fold.before-removal", How::Snapshot),
    ("trim.before", How::Snapshot),
    ("trim.between", How::Snapshot),
];

/// The way of a request.
const SNAPSHOTS: &[Round] = &[
    ("snapshot.requested", How::Snapshot),
    ("snapshot.attempt-logged", How::Snapshot),
    ("snapshot.cut", How::Snapshot),
    ("snapshot.cut-logged", How::Snapshot),
    ("merge.before-close", How::SnapshotAfter("snapshot.cut")),
    ("snapshot.collected", How::Snapshot),
    ("ledger.before-line", How::Snapshot),
    ("ledger.before-line:2", How::Snapshot),
    ("ledger.half-written:2", How::Snapshot),
    (
        "ledger.half-written:2",
        How::SnapshotAfter("ledger.half-written:2"),
    ),
    ("snapshot.object-made", How::Snapshot),
    ("snapshot.object-made:3", How::Snapshot),
    ("snapshot.object-arrived", How::Snapshot),
    ("snapshot.object-logged", How::Snapshot),
    ("snapshot.written", How::Snapshot),
    ("snapshot.all-sent", How::Snapshot),
    ("snapshot.before-manifest", How::Snapshot),
    (
        "snapshot.published",
        How::SnapshotAfter("snapshot.before-manifest"),
    ),
    ("snapshot.number-closed", How::SnapshotAfterGap),
    ("snapshot.manifest-made", How::Snapshot),
    ("snapshot.published", How::Snapshot),
    ("snapshot.noted", How::Snapshot),
    ("snapshot.complete", How::Snapshot),
];

/// Changes of what a snapshot under way still needs.
const PENDING: &[Round] = &[
    ("preserve.copied", How::Pending(overwrite)),
    ("preserve.kept", How::Pending(overwrite)),
    ("preserve.kept:2", How::Pending(shrink_and_grow)),
    ("write.journaled", How::Pending(overwrite)),
    ("truncate.journaled", How::Pending(shrink_and_grow)),
    ("hole.journaled", How::Pending(punch)),
    ("destroy.journaled", How::Pending(unlink)),
];

fn all_rounds(seed: u64, rounds: &[Round]) {
    let mut world = World::new(seed);
    for round in rounds {
        world.round(round);
    }
    world.compare_with_a_new_snapshot("after all of it");
}

/// Not of a master: the round of a follower stands in the suite `following`.
const ELSEWHERE: [&str; 1] = ["slave.moved"];

#[test]
fn every_failpoint_has_a_round() {
    let rounds = [OPERATIONS, KVS, SNAPSHOTS, PENDING].concat();
    let name = |text: &str| text.split(':').next().unwrap().to_owned();
    let mut have: BTreeSet<String> = rounds.iter().map(|(point, _)| name(point)).collect();
    have.extend(ELSEWHERE.map(str::to_owned));
    let wanted: BTreeSet<String> = ALL.iter().map(|p| p.name().to_owned()).collect();
    // Those of promotion, and of masters on a snapshot, have theirs in `promotion/interrupted.rs`.
    let elsewhere = |name: &String| name.starts_with("promote.") || name == "block.brought";
    let wanted: BTreeSet<String> = wanted.into_iter().filter(|n| !elsewhere(n)).collect();
    assert_eq!(have, wanted);
}

#[test]
fn a_death_between_journal_and_files_loses_nothing() {
    needs_fuse!();
    all_rounds(1, OPERATIONS);
}

#[test]
fn a_death_in_a_flush_cut_rotation_or_fold_loses_nothing() {
    needs_fuse!();
    all_rounds(2, KVS);
}

#[test]
fn a_death_on_the_way_of_a_snapshot_leaves_it_exact() {
    needs_fuse!();
    all_rounds(3, SNAPSHOTS);
}

#[test]
fn a_death_while_a_snapshot_still_needs_what_changes_leaves_both_exact() {
    needs_fuse!();
    all_rounds(4, PENDING);
}

#[test]
fn a_misspelt_failpoint_is_refused_at_the_start() {
    let stage = cbfs_tests::Stage::new();
    let ended = stage
        .node("a")
        .try_start_armed("journal.wriiten")
        .unwrap_err();
    assert_eq!(ended.status.code(), Some(2));
    assert!(ended.log.contains("journal.wriiten"), "{ended:?}");
}
