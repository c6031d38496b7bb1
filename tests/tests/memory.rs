//! The daemon's memory stays bounded, however much is copied in and snapshotted.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too

use cbfs_tests::{Exactness, Fingerprint, Master, assert_same, needs_fuse};
use cbfs_tests::{peak_memory, scaled, tools, tree};
use std::fs;
use std::process::Command;

/// The promise, in bytes.
const BOUND: u64 = 300 << 20;

#[test]
fn a_tree_of_100k_files_is_copied_in_and_snapshotted_in_less_than_300_mib() {
    needs_fuse!();
    let count = scaled(100_000, 8_000);
    let m = Master::new();
    let source = m.stage.dir("source");
    tree::small_files(&source, count);
    tools::run(Command::new("cp").arg("-a").arg(&source).arg(m.at("copy")));
    let check = |when: &str| {
        let peak = peak_memory(m.node.pid());
        eprintln!("{count} files, {when}: {} MiB at most", peak >> 20);
        assert!(peak < BOUND, "{} MiB {when}", peak >> 20);
    };
    check("copied in");
    m.snapshot();
    check("snapshotted");
    // Everything once more: read, changed, snapshotted, listed.
    let wanted = Fingerprint::take(&source, Exactness::Copy);
    let found = Fingerprint::take(&m.at("copy"), Exactness::Copy);
    assert_same("the copy", &wanted, &found);
    check("read");
    tools::run(Command::new("chmod").arg("-R").arg("o+w").arg(m.at("copy")));
    fs::rename(m.at("copy"), m.at("moved")).unwrap();
    let number = m.snapshot();
    check("changed and snapshotted again");

    let slave = m.slave(number);
    Fingerprint::take(&slave.mnt, Exactness::Copy);
    let peak = peak_memory(slave.node.pid());
    eprintln!("{count} files, read on a slave: {} MiB at most", peak >> 20);
    assert!(peak < BOUND, "{} MiB on the slave", peak >> 20);
}
