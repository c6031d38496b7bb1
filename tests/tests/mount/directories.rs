//! Huge directories, and listings while names come and go.

use super::{code, errno, open};
use cbfs_tests::contents::Dice;
use cbfs_tests::{Master, needs_fuse, scaled};
use rustix::fs::{OFlags, RawDir};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Bytes of a getdents(2) buffer: hardly room for one long name, a few names, the usual.
const BUFFERS: [usize; 3] = [288, 1_024, 32_768];

/// Names that getdents(2) tells from where `dir` stands, at most `most`, in its order and with the
/// cookie of the next one. `.` and `..` are left out.
fn list(dir: &File, buffer: usize, most: usize) -> Vec<(String, u64)> {
    let mut space = vec![MaybeUninit::uninit(); buffer];
    let mut entries = RawDir::new(dir, &mut space);
    let mut names = Vec::new();
    while names.len() < most {
        let Some(entry) = entries.next() else { break };
        let entry = entry.unwrap();
        let name = entry.file_name().to_str().unwrap();
        if name != "." && name != ".." {
            names.push((name.to_owned(), entry.next_entry_cookie()));
        }
    }
    names
}

fn open_dir(dir: &Path) -> File {
    open(dir, OFlags::RDONLY | OFlags::DIRECTORY)
}

/// A whole listing, in which every name stands once.
fn names_in(dir: &Path, buffer: usize) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (name, _) in list(&open_dir(dir), buffer, usize::MAX) {
        assert!(!names.contains(&name), "{name} was listed twice");
        names.insert(name);
    }
    names
}

#[test]
fn a_huge_directory_is_made_looked_up_listed_exactly_once_and_removed() {
    needs_fuse!();
    let count = scaled(1_000_000, 10_000);
    let m = Master::new();
    let dir = m.dir("huge");
    let name = |n: u64| format!("an-entry-with-a-usual-name-{n:07}");
    let wanted: BTreeSet<String> = (0..count).map(name).collect();
    // What it costs is for people to read; nothing depends on it.
    let mut begun = Instant::now();
    let mut tell = |what: &str| {
        let took = begun.elapsed();
        let each = took.as_secs_f64() * 1e6 / count as f64;
        let memory = cbfs_tests::peak_memory(m.node.pid()) >> 20;
        eprintln!("{count} names, {what}: {took:.1?}, {each:.1} us each; {memory} MiB at most");
        begun = Instant::now();
    };
    // Odd steps through all of them: not in the order of anything.
    let shuffled = || (0..count).map(|n| n.wrapping_mul(7_919) % count);
    let look_up = || {
        for n in shuffled() {
            assert!(fs::symlink_metadata(dir.join(name(n))).is_ok(), "{n}");
        }
        for n in (count..count + count / 10).map(name) {
            assert_eq!(errno(fs::symlink_metadata(dir.join(n))), code(Errno::NOENT));
        }
    };
    let is_whole = || {
        assert!(
            names_in(&dir, BUFFERS[2]) == wanted,
            "the listing is not exact"
        )
    };

    (0..count).for_each(|n| drop(File::create_new(dir.join(name(n))).unwrap()));
    tell("created");
    assert_eq!(fs::metadata(&dir).unwrap().len(), count);
    look_up();
    tell("looked up");
    is_whole();
    tell("listed");
    m.remount();
    tell("remounted");
    is_whole();
    tell("listed after a remount");
    m.remount();
    look_up();
    tell("looked up after a remount");
    let twice = File::create_new(dir.join(name(count / 2)));
    assert_eq!(errno(twice), code(Errno::EXIST));
    assert_eq!(errno(fs::remove_dir(&dir)), code(Errno::NOTEMPTY));
    m.snapshot();
    tell("snapshotted");
    for n in (0..count).step_by(2) {
        fs::remove_file(dir.join(name(n))).unwrap();
    }
    tell("half of them removed");
    let half: BTreeSet<String> = (1..count).step_by(2).map(name).collect();
    assert!(
        names_in(&dir, BUFFERS[2]) == half,
        "the other half is not exact"
    );
    tell("listed");
    for n in shuffled().filter(|n| n % 2 == 1) {
        fs::remove_file(dir.join(name(n))).unwrap();
    }
    tell("the other half removed");
    assert!(names_in(&dir, BUFFERS[2]).is_empty());
    tell("listed");
    fs::remove_dir(&dir).unwrap();
}

/// Masters that keep directories in memory, and that read them from files which change all the
/// time.
fn masters() -> [Master; 2] {
    let next_to_nothing = [
        ("CBFS_FLUSH_ROWS", "500".to_owned()),
        ("CBFS_CACHE_BYTES", "100000".to_owned()),
    ];
    [Master::new(), Master::with_environment(&next_to_nothing)]
}

#[test]
fn a_listing_under_concurrent_change_has_everything_that_stays_exactly_once() {
    needs_fuse!();
    let count = scaled(100_000, 3_000);
    for (m, after_a_remount) in masters().iter().zip([false, true]) {
        let (dir, elsewhere) = (m.dir("busy"), m.dir("elsewhere"));
        for n in 0..count {
            File::create_new(dir.join(format!("stays-{n}"))).unwrap();
        }
        if after_a_remount {
            m.remount();
        }
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let changers = (0..2).map(|thread| {
                let (dir, elsewhere, stop) = (&dir, &elsewhere, &stop);
                scope.spawn(move || {
                    let mut dice = Dice::new(thread);
                    let mut changes = 0_u64;
                    while !stop.load(Ordering::Relaxed) {
                        let n = dice.below(500);
                        let at = |what: &str| dir.join(format!("{what}-{thread}-{n}"));
                        let (path, renamed) = (at("comes-and-goes"), at("renamed"));
                        let moved = elsewhere.join(format!("{thread}-{n}"));
                        match dice.below(6) {
                            0..2 => drop(File::create(&path).unwrap()),
                            2 => drop(fs::remove_file(&path)),
                            3 => drop(fs::rename(&path, &renamed)),
                            4 => drop(fs::rename(&renamed, &moved)),
                            _ => drop(fs::rename(&moved, &path)),
                        }
                        changes += 1;
                    }
                    changes
                })
            });
            let changers: Vec<_> = changers.collect();
            // Also when a check fails, or the changers would go on for ever.
            let checked = std::panic::catch_unwind(|| {
                for round in 0..4 {
                    for buffer in BUFFERS {
                        let mut names = names_in(&dir, buffer);
                        names.retain(|n| n.starts_with("stays-"));
                        let found = names.len() as u64;
                        assert_eq!(found, count, "round {round}, buffer {buffer}");
                    }
                }
            });
            stop.store(true, Ordering::Relaxed);
            for changer in changers {
                assert!(changer.join().unwrap() > 0, "nothing changed meanwhile");
            }
            if let Err(failed) = checked {
                std::panic::resume_unwind(failed);
            }
        });
    }
}

#[test]
fn a_listing_goes_on_at_its_cookie_whatever_was_removed_or_came_before() {
    needs_fuse!();
    for m in masters() {
        let dir = m.dir("listed");
        for n in 0..2_000 {
            File::create_new(dir.join(format!("entry-{n}"))).unwrap();
        }
        let order = list(&open_dir(&dir), BUFFERS[1], usize::MAX);
        assert_eq!(order.len(), 2_000);
        for at in [0, 1, 499, 1_000, 1_999] {
            // What was told already goes, and so does the entry that the cookie stands behind.
            for (name, _) in &order[at.max(3) - 3..=at] {
                let _ = fs::remove_file(dir.join(name));
            }
            File::create(dir.join(format!("came-at-{at}"))).unwrap();
            let resumed = open_dir(&dir);
            rustix::fs::seek(&resumed, rustix::fs::SeekFrom::Start(order[at].1)).unwrap();
            let rest = list(&resumed, BUFFERS[0], usize::MAX);
            let rest: Vec<&String> = rest
                .iter()
                .map(|(name, _)| name)
                .filter(|n| n.starts_with("entry-"))
                .collect();
            let wanted: Vec<&String> = order[at + 1..].iter().map(|(name, _)| name).collect();
            assert!(rest == wanted, "from {at}: {} names", rest.len());
        }
        // A whole one has each entry that is left once.
        let left: BTreeSet<String> = names_in(&dir, BUFFERS[2]);
        let gone = order
            .iter()
            .filter(|(name, _)| !left.contains(name))
            .count();
        assert_eq!(left.len(), 2_000 - gone + 5);
    }
}
