//! Another node becomes master: promotion, fencing, and what a promoted master does with the contents of before. Real
//! daemons as two nodes and more, real mounts; a bucket of any kind unless a test looks into it.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too

mod contents;
mod fencing;
mod followed;
#[cfg(debug_assertions)] // a release daemon has no failpoints
mod interrupted;
#[cfg(debug_assertions)]
mod stopped;
mod takeover;

use cbfs_tests::contents::noise;
use cbfs_tests::{Exactness, Fingerprint, Master, Node, Ran, wait_until};
use std::fs;
use std::path::{Path, PathBuf};

/// A tree with all kinds of contents, and a complete snapshot of it.
fn master_with_a_snapshot() -> Master {
    master_in(Master::with_environment(&[(
        "CBFS_EPOCH_CHECK",
        "0.2".into(),
    )]))
}

/// The same in a bucket that is a directory.
fn master_in_a_directory() -> Master {
    let master = Master::with_directory_bucket();
    master.node.stop();
    master.node.set("CBFS_EPOCH_CHECK", "0.2");
    master.node.start();
    master_in(master)
}

fn master_in(master: Master) -> Master {
    let dir = master.dir("dir");
    fs::write(dir.join("small"), "small\n").unwrap();
    fs::write(dir.join("other"), noise(1, 9_000)).unwrap();
    fs::write(master.at("large"), noise(2, 2_500_000)).unwrap();
    fs::hard_link(master.at("large"), dir.join("hard link")).unwrap();
    std::os::unix::fs::symlink("dir/small", master.at("symlink")).unwrap();
    fs::File::create(master.at("sparse"))
        .unwrap()
        .set_len(5_000_000)
        .unwrap();
    assert_eq!(master.snapshot(), 1);
    master
}

/// A further node of a master's stage.
fn another_node(master: &Master, name: &str) -> Node {
    let node = master.stage.node(name);
    node.set("CBFS_EPOCH_CHECK", "0.2");
    node.start();
    node
}

/// `epoch promote`, not asking.
fn promote(master: &Master, node: &Node, previous: u32) -> Ran {
    let previous = previous.to_string();
    node.ctl([
        "epoch",
        "promote",
        &master.fs,
        "--previous-epoch",
        &previous,
        "--confirm",
        &master.fs,
        "--bucket",
        master.bucket.url(),
    ])
}

/// Mount a slave of the latest snapshot on a node.
fn mount_slave(master: &Master, node: &Node, dir: &str) -> PathBuf {
    let mnt = master.stage.dir(dir);
    let snapshot = format!("{}@latest", master.fs);
    let at = mnt.to_str().unwrap();
    let args = [
        "mount",
        &snapshot,
        at,
        "--slave",
        "--bucket",
        master.bucket.url(),
    ];
    node.ctl(args).ok();
    mnt
}

/// Mount a slave that follows on a node.
fn mount_follower(master: &Master, node: &Node, dir: &str, interval: &str) -> PathBuf {
    let mnt = master.stage.dir(dir);
    let at = mnt.to_str().unwrap();
    let follow = ["--slave", "--follow", "--poll-interval", interval];
    let args = ["mount", &master.fs, at, "--bucket", master.bucket.url()];
    node.ctl(args.into_iter().chain(follow)).ok();
    mnt
}

/// Whether this node has the master of the file system.
#[cfg(debug_assertions)]
fn is_master(master: &Master, node: &Node) -> bool {
    let instances = node.json(["instance", "list"]);
    let mut all = instances.as_array().unwrap().iter();
    all.any(|i| i["id"] == master.fs.as_str() && i["role"] == "master")
}

/// Nothing of a snapshot of the lineage is damaged.
fn verify(master: &Master, node: &Node, number: u64) {
    let snapshot = format!("{}@{number}", master.fs);
    let bucket = ["--bucket", master.bucket.url()];
    let args = ["snapshot", "verify", &snapshot, "--deep"];
    node.ctl(args.into_iter().chain(bucket)).ok();
}

/// Take a snapshot to its end; answers its number.
fn snapshot(master: &Master, node: &Node) -> u64 {
    let args = [
        "snapshot",
        "create",
        &master.fs,
        "--wait",
        "--timeout",
        "300",
    ];
    node.ctl(args).ok().trim_end().parse().unwrap()
}

/// The health of the master on a node.
fn health(master: &Master, node: &Node) -> String {
    let info = node.json(["instance", "show", &master.fs]);
    info["health"].as_str().unwrap().to_owned()
}

fn wait_until_fenced(master: &Master, node: &Node) {
    wait_until("the former master is fenced", || {
        health(master, node) == "fenced"
    });
}

fn fingerprint(mnt: &Path) -> Fingerprint {
    Fingerprint::take(mnt, Exactness::Snapshot)
}

/// The latest claimed epoch.
fn epoch(master: &Master, node: &Node) -> u64 {
    let epochs = node.json(["epoch", "list", &master.fs, "--bucket", master.bucket.url()]);
    let last = epochs.as_array().unwrap().last().unwrap().clone();
    last["epoch"].as_u64().unwrap()
}
