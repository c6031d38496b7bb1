//! The chain of layers stays short however many snapshots are taken, and what is merged reads as
//! what it was merged from.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too

use cbfs_tests::contents::{Dice, noise};
use cbfs_tests::{Exactness, Fingerprint, Master, assert_same, needs_fuse, needs_tools};
use cbfs_tests::{tools, tree};
use rustix::fs::{FallocateFlags, fallocate};
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A merge is begun at this many layers, see `layer_merge.rs`.
const MERGE_AT: usize = 6;

fn manifest(m: &Master, number: u64) -> Value {
    let path = format!("{}/m/{number:010}-e1.json", m.fs);
    serde_json::from_slice(&fs::read(m.bucket.dir().join(path)).unwrap()).unwrap()
}

fn keys(manifest: &Value) -> Vec<String> {
    let layers = manifest["layers"].as_array().unwrap().iter();
    layers
        .map(|l| l["key"].as_str().unwrap().to_owned())
        .collect()
}

/// The chain that the next manifest will list below its own layer: that of the last one with what has
/// been merged since in its place.
fn next_chain(m: &Master, last: &Value) -> Vec<String> {
    let mut chain = keys(last);
    let Ok(record) = fs::read(m.instance_dir().join("merged-layers.json")) else {
        return chain;
    };
    let record: Value = serde_json::from_slice(&record).unwrap();
    for finished in record["finished"].as_array().unwrap() {
        let run: Vec<&str> = finished["run"]
            .as_array()
            .unwrap()
            .iter()
            .map(|k| k.as_str().unwrap())
            .collect();
        if let Some(at) = chain.windows(run.len()).position(|part| part == run) {
            let merged = finished["layer"]["key"].as_str().unwrap().to_owned();
            chain.splice(at..at + run.len(), [merged]);
        }
    }
    chain
}

/// A snapshot, and the merge that follows it: nothing of the daemon waits for merges, so the test does.
fn snapshot_and_merge(m: &Master) -> u64 {
    let number = m.snapshot();
    let manifest = manifest(m, number);
    let length = keys(&manifest).len();
    assert!(length <= 8, "snapshot {number} has {length} layers");
    while next_chain(m, &manifest).len() >= MERGE_AT {
        std::thread::sleep(Duration::from_millis(5));
    }
    number
}

fn change_something(m: &Master, dice: &mut Dice) {
    for _ in 0..8 {
        let path = m.at(format!("file-{}", dice.below(9)));
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .unwrap();
        let (offset, length) = (dice.below(3 << 20), dice.below(200_000) + 1);
        match dice.below(10) {
            0..3 => {
                let bytes = noise(dice.roll(), length as usize);
                file.write_all_at(&bytes, offset).unwrap();
            }
            3 => file.set_len(offset).unwrap(),
            4 => file.set_len(dice.below(20_000)).unwrap(),
            5..8 => {
                // In the middle of a block, mostly.
                let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(&file, punch, offset, length).unwrap();
            }
            8 => {
                let name = format!("user.n{}", dice.below(4));
                tree::set_xattr(&path, &name, &noise(dice.roll(), 9));
            }
            _ => fs::remove_file(&path).unwrap(),
        }
    }
}

#[test]
fn forty_snapshots_keep_the_chain_within_eight_and_stay_exact() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    tree::build(&m.dir("tree"));
    let mut dice = Dice::new(40);
    let mut wanted = Vec::new();
    for round in 1..=40 {
        change_something(&m, &mut dice);
        match round {
            10 => tree::change(&m.at("tree")),
            20 => fs::remove_dir_all(m.at("tree")).unwrap(),
            _ => {}
        }
        let number = snapshot_and_merge(&m);
        assert_eq!(number, round);
        if matches!(round, 9 | 10 | 21 | 33 | 40) {
            wanted.push((number, m.fingerprint()));
        }
        if matches!(round, 12 | 27) {
            m.node.kill9();
            m.node.start();
        }
    }
    let last = keys(&manifest(&m, 40));
    assert!(
        last.iter().any(|key| key.starts_with("layers/")),
        "{last:?}"
    );
    for (number, wanted) in &wanted {
        m.assert_snapshot_is(*number, wanted);
    }
    needs_tools!("zstd", "tar", "jq");
    let wanted = Fingerprint::take(&m.mnt, Exactness::Copy);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../share/recover.sh");
    let out = m.stage.path("recovered");
    let mut command = Command::new("sh");
    let snapshot = format!("{}@40", m.fs);
    tools::run(
        command
            .arg(&script)
            .arg(m.bucket.dir())
            .arg(snapshot)
            .arg(&out),
    );
    let found = Fingerprint::take(&out, Exactness::Copy);
    assert_same("recovered from the objects alone", &wanted, &found);
}

#[test]
fn a_merged_layer_that_was_killed_on_its_way_leaves_a_whole_chain() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    let mut dice = Dice::new(7);
    // Killed as soon as the snapshot is complete: the merge is anywhere.
    for round in 1..=16 {
        change_something(&m, &mut dice);
        let number = m.snapshot();
        assert_eq!(number, round);
        m.node.kill9();
        m.node.start();
    }
    snapshot_and_merge(&m);
    let wanted = m.fingerprint();
    change_something(&m, &mut dice);
    let before = m.snapshot() - 1;
    m.assert_snapshot_is(before, &wanted);
    m.assert_snapshot_is(before + 1, &m.fingerprint());
}
