//! An attempt that ended anywhere is taken up and ends as if nothing had happened.

use super::tests::{BLOCK, Made, Seen, World, first_world, noise, run, run_with, second_world};
use cbfs_core::error::ErrorKind;
use cbfs_core::inode::FileKind;
use cbfs_core::layers::Layer;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// So small that every section ends its tarball.
const TARGET: u64 = 20 << 10;

fn folder(out: &Path, number: u64) -> std::path::PathBuf {
    out.join(format!("s/{number:010}-e1-0123456789ab"))
}

/// Persist `world` in one go, and with an end after each number of objects; everything must be the same.
fn check_all_ends(mut world: impl FnMut(&Path) -> (World, Option<Made>), number: u64) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("whole");
    let (mut at_once, _first) = world(dir.path());
    let whole = run_with(&mut at_once, &out, number, Seen::default(), TARGET, false).unwrap();
    let all: BTreeSet<String> = whole.seen.objects.lock().iter().cloned().collect();

    for end in 0..all.len() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let (mut world, _first) = world(dir.path());
        let seen = Seen {
            fail_at: Some(end),
            ..Seen::default()
        };
        let failed = run_with(&mut world, &out, number, seen, TARGET, false);
        assert!(failed.is_err(), "it did not end after {end} objects");
        // What a death in the middle of the next tarball would leave.
        fs::write(folder(&out, number).join("9999.tar.zst"), b"half").unwrap();
        let again = run_with(&mut world, &out, number, Seen::default(), TARGET, true).unwrap();
        assert_eq!(again.persisted, whole.persisted, "after {end} objects");
        // What was noted before the end is not made again. (The object at which it ended was noted.)
        let made: BTreeSet<String> = again.seen.objects.lock().iter().cloned().collect();
        assert!(made.len() < all.len() - end, "after {end}: {made:?}");
        assert!(made.is_subset(&all));
        assert_eq!(again.seen.planned.lock().map(|p| p.0 > 0), Some(true));
        let progress = |made: &Made| *made.seen.progress.lock();
        if !made.is_empty() && made.iter().any(|key| key.ends_with("0000.tar.zst")) {
            assert_eq!(progress(&again), progress(&whole), "after {end} objects");
        }
    }
    all.len() as u64
}

#[test]
fn a_first_snapshot_that_ended_after_any_object_goes_on_behind_it() {
    let ends = check_all_ends(|dir| (first_world(dir), None), 1);
    assert!(ends > 8, "{ends} objects are too few to say anything");
}

#[test]
fn an_incremental_one_goes_on_also_between_the_blocks_of_one_file() {
    let ends = check_all_ends(
        |dir| {
            let first = run(
                &mut first_world(dir),
                &dir.join("first"),
                1,
                Seen::default(),
            )
            .unwrap();
            let below: Arc<dyn Layer> = Arc::new(first.layer(dir));
            let (mut world, _) = second_world(dir, below);
            // Two files with many changed blocks, every fifth of them a hole now.
            for (ino, size) in [(31, 20 * BLOCK + 100), (34, 3_000_000)] {
                let mut contents = noise(ino, size as usize);
                let changed: Vec<u64> = (0..size / BLOCK).filter(|blk| blk % 7 != 6).collect();
                for blk in changed.iter().filter(|blk| *blk % 5 == 0) {
                    let from = (blk * BLOCK) as usize;
                    contents[from..from + BLOCK as usize].fill(0);
                }
                world.inode(ino, FileKind::File, 1, size, size);
                world.backing(ino, contents, &changed);
            }
            (world, Some(first))
        },
        2,
    );
    assert!(ends > 8, "{ends} objects are too few to say anything");
}

#[test]
fn a_cancelled_attempt_keeps_what_it_finished() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut world = first_world(dir.path());
    let seen = Seen {
        cancel_at: Some(2),
        ..Seen::default()
    };
    assert!(run(&mut world, &out, 1, seen).is_err());
    let again = run_with(&mut world, &out, 1, Seen::default(), 200 << 10, true).unwrap();
    let made = again.seen.objects.lock();
    assert!(!made.iter().any(|key| key.ends_with("0001.tar.zst")));
    assert!(made.iter().any(|key| key.ends_with("0003.tar.zst")));
}

#[test]
fn an_attempt_with_another_work_list_is_not_continued() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut world = first_world(dir.path());
    let seen = Seen {
        fail_at: Some(1),
        ..Seen::default()
    };
    assert!(run(&mut world, &out, 1, seen).is_err());
    world.inline(1, b"one more", 60, b"that was not there");
    let error = run_with(&mut world, &out, 1, Seen::default(), 200 << 10, true);
    assert_eq!(error.err().unwrap().kind(), ErrorKind::Damage);
}
