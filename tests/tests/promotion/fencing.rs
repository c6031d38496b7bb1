//! What becomes of the former master.

use super::{
    another_node, fingerprint, health, master_in_a_directory, master_with_a_snapshot, mount_slave,
    promote, snapshot, wait_until, wait_until_fenced,
};
use cbfs_tests::contents::noise;
use cbfs_tests::{assert_same, needs_fuse};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

fn send(node: &cbfs_tests::Node, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(node.pid()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

#[test]
fn a_live_master_is_fenced_keeps_what_it_has_and_cannot_publish() {
    needs_fuse!();
    let master = master_with_a_snapshot();
    fs::write(master.at("unpublished"), "kept").unwrap();
    fs::write(master.dir("new dir").join("in it"), noise(9, 50_000)).unwrap();
    fs::remove_file(master.at("symlink")).unwrap();
    fs::rename(master.at("sparse"), master.at("dir/moved")).unwrap();
    let node = another_node(&master, "b");
    let mnt = mount_slave(&master, &node, "mnt-b");
    let said = promote(&master, &node, 1);
    assert!(said.stderr.contains("THE MASTER LOOKS ALIVE"), "{said:#?}");
    said.ok();
    wait_until_fenced(&master, &master.node);

    let refused = fs::write(master.at("more"), "x").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
    let refused = OpenOptions::new().append(true).open(master.at("dir/small"));
    let refused = refused.and_then(|mut f| std::io::Write::write_all(&mut f, b"x"));
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    assert_eq!(fs::read(master.at("unpublished")).unwrap(), b"kept");
    let request = master.node.ctl(["snapshot", "create", &master.fs]);
    request.fails(11, &["is fenced"]);

    // It does not forget.
    master.node.kill9();
    master.node.start();
    assert_eq!(health(&master, &master.node), "fenced");
    assert_eq!(fs::read(master.at("unpublished")).unwrap(), b"kept");

    saved_then_demoted(&master);

    fs::write(mnt.join("goes on"), "here").unwrap();
    let wanted = fingerprint(&mnt);
    assert_eq!(snapshot(&master, &node), 2);
    master.assert_snapshot_is(2, &wanted);
}

/// What the fenced master has is told and saved whole; then it can be given up, and becomes a slave.
fn saved_then_demoted(master: &cbfs_tests::Master) {
    let node = &master.node;
    let shown = node.json(["instance", "show", &master.fs]);
    let told = |key: &str| shown["kept"][key].to_string();
    for (key, path) in [
        ("changed_paths", "unpublished"),
        ("changed_paths", "new dir/in it"),
        ("changed_paths", "dir/moved"),
        ("removed_paths", "symlink"),
        ("removed_paths", "sparse"),
    ] {
        assert!(
            told(key).contains(&format!("\"{path}\"")),
            "{path}: {shown:#}"
        );
    }
    assert!(!told("changed_paths").contains("large"), "{shown:#}");
    for verb in ["demote", "delete"] {
        let refused = node.ctl(["instance", verb, &master.fs]);
        refused.fails(11, &["changes that no snapshot has", "instance export"]);
    }
    let tar = master.stage.path("kept.tar");
    node.ctl([
        "instance",
        "export",
        &master.fs,
        "-o",
        tar.to_str().unwrap(),
    ])
    .ok();
    let there = master.stage.dir("kept");
    let unpacked = Command::new("tar")
        .arg("-xf")
        .arg(&tar)
        .arg("-C")
        .arg(&there)
        .status();
    assert!(unpacked.unwrap().success());
    assert_eq!(fs::read(there.join("unpublished")).unwrap(), b"kept");
    assert!(fs::read(there.join("new dir/in it")).unwrap() == noise(9, 50_000));
    assert_eq!(
        fs::metadata(there.join("dir/moved")).unwrap().len(),
        5_000_000
    );
    let removed = fs::read_to_string(there.join(".cbfs/removed.jsonl")).unwrap();
    assert!(
        removed.contains("\"symlink\"") && removed.contains("\"sparse\""),
        "{removed}"
    );

    let args = [
        "instance",
        "demote",
        &master.fs,
        "--discard",
        "--confirm",
        &master.fs,
    ];
    node.ctl(args).ok();
    assert!(!master.at("unpublished").exists());
    assert_eq!(fs::read(master.at("dir/small")).unwrap(), b"small\n");
    let instances = node.json(["instance", "list"]);
    assert_eq!(instances.as_array().unwrap().len(), 1, "{instances:#}");
    assert_eq!(instances[0]["role"], "slave", "{instances:#}");
}

#[test]
fn a_master_that_was_stopped_around_the_promotion_publishes_nothing_any_more() {
    needs_fuse!();
    let master = master_with_a_snapshot();
    fs::write(master.at("unpublished"), "kept").unwrap();
    send(&master.node, Signal::STOP);
    let node = another_node(&master, "b");
    promote(&master, &node, 1).ok();
    let mnt = master.stage.dir("mnt-b");
    node.mount(&master.fs, &master.bucket, &mnt);
    fs::write(mnt.join("new"), "epoch 2").unwrap();
    assert_eq!(snapshot(&master, &node), 2);
    let wanted = fingerprint(&mnt);
    send(&master.node, Signal::CONT);
    wait_until_fenced(&master, &master.node);
    assert_eq!(fs::read(master.at("unpublished")).unwrap(), b"kept");
    fs::write(mnt.join("newer"), "epoch 2").unwrap();
    assert_eq!(snapshot(&master, &node), 3);
    master.assert_snapshot_is(2, &wanted);
    master.assert_snapshot_is(3, &fingerprint(&mnt));
}

#[test]
fn requests_that_wait_for_the_bucket_are_cancelled_when_a_later_epoch_is_found() {
    needs_fuse!();
    let master = master_in_a_directory();
    fs::write(master.at("unpublished"), "kept").unwrap();
    // Everything but the claim is out of reach: attempts fail and are tried again.
    let folder = master.bucket.dir().join(&master.fs).join("s");
    fs::rename(&folder, folder.with_file_name("s-away")).unwrap();
    fs::write(&folder, "in the way").unwrap();
    let number = master.snapshot_until("collected");
    let queued = master.node.ctl(["snapshot", "create", &master.fs]).ok();
    let queued: u64 = queued.trim_end().parse().unwrap();
    fs::remove_file(&folder).unwrap();
    send(&master.node, Signal::STOP);
    fs::rename(folder.with_file_name("s-away"), &folder).unwrap();
    let node = another_node(&master, "b");
    promote(&master, &node, 1).ok();
    send(&master.node, Signal::CONT);
    for number in [number, queued] {
        wait_until("the request is cancelled", || {
            master
                .states_of(number)
                .last()
                .is_some_and(|s| s == "cancelled")
        });
    }
    assert_eq!(health(&master, &master.node), "fenced");
    let watched = format!("home@{number}");
    let watched = master.node.ctl(["snapshot", "watch", &watched]);
    watched.fails(1, &["was cancelled", "instance export"]);
    assert_eq!(fs::read(master.at("unpublished")).unwrap(), b"kept");
}

/// Copy a directory as it lies there.
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp")
        .arg("-a")
        .args([from, to])
        .status()
        .unwrap();
    assert!(copied.success());
}

#[test]
fn of_two_copies_of_one_state_directory_the_second_to_publish_is_fenced_and_damages_nothing() {
    needs_fuse!();
    let master = master_with_a_snapshot();
    fs::write(master.at("common"), "of both").unwrap();
    master.node.ctl(["umount", &master.fs]).ok();
    master.node.stop();
    let copied = master.stage.node("copy");
    copied.set("CBFS_EPOCH_CHECK", "0.2");
    copy(&master.node.state_dir(), &copied.state_dir());
    master.node.start();
    copied.start();
    let there = master.stage.dir("mnt-copy");
    master.node.mount(&master.fs, &master.bucket, &master.mnt);
    copied.mount(&master.fs, &master.bucket, &there);
    // The same number of operations: transactions have the same numbers on both.
    fs::write(master.at("one"), "the first").unwrap();
    fs::write(there.join("two"), "the copy").unwrap();
    let wanted = master.fingerprint();
    assert_eq!(master.snapshot(), 2);
    let asked = copied.ctl([
        "snapshot",
        "create",
        &master.fs,
        "--wait",
        "--timeout",
        "300",
    ]);
    assert_ne!(asked.code, Some(0), "{asked:#?}");
    wait_until_fenced(&master, &copied);
    let refused = fs::write(there.join("more"), "x").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
    assert_eq!(fs::read(there.join("two")).unwrap(), b"the copy");

    fs::write(master.at("on"), "and on").unwrap();
    let wanted_3 = master.fingerprint();
    assert_eq!(master.snapshot(), 3);
    master.assert_snapshot_is(2, &wanted);
    master.assert_snapshot_is(3, &wanted_3);
}

#[test]
fn a_state_directory_restored_from_a_backup_is_fenced_before_it_publishes() {
    needs_fuse!();
    let master = master_with_a_snapshot();
    master.node.stop();
    let backup = master.stage.path("backup");
    copy(&master.node.state_dir(), &backup);
    master.node.start();
    fs::write(master.at("later"), "than the backup").unwrap();
    let wanted = master.fingerprint();
    assert_eq!(master.snapshot(), 2);
    master.node.stop();
    fs::rename(master.node.state_dir(), master.stage.path("lost")).unwrap();
    fs::rename(&backup, master.node.state_dir()).unwrap();
    master.node.start();
    wait_until_fenced(&master, &master.node);
    // What it had published is there for a promotion.
    let node = another_node(&master, "b");
    promote(&master, &node, 1).ok();
    let mnt = master.stage.dir("mnt-b");
    node.mount(&master.fs, &master.bucket, &mnt);
    assert_same("what was published last", &wanted, &fingerprint(&mnt));
}

#[test]
fn snapshots_that_a_superseded_master_published_are_kept_shown_and_never_the_latest() {
    needs_fuse!();
    let master = master_in_a_directory();
    let node = another_node(&master, "b");
    let wanted = master.fingerprint();
    // Snapshot 2 is on its way, and arrives after the promotion: its manifest is held back.
    fs::write(master.at("diverged"), "of epoch 1").unwrap();
    let of_2 = master.fingerprint();
    assert_eq!(master.snapshot(), 2);
    let manifest = master
        .bucket
        .dir()
        .join(&master.fs)
        .join("m/0000000002-e1.json");
    let held_back = master.stage.path("held back");
    fs::rename(&manifest, &held_back).unwrap();
    master.node.kill9();
    promote(&master, &node, 1).ok();
    fs::rename(&held_back, &manifest).unwrap();
    let mnt = master.stage.dir("mnt-b");
    node.mount(&master.fs, &master.bucket, &mnt);
    assert_same("the promoted mount", &wanted, &fingerprint(&mnt));
    fs::write(mnt.join("lineal"), "of epoch 2").unwrap();
    let of_epoch_2 = fingerprint(&mnt);
    assert_eq!(snapshot(&master, &node), 2);
    master.assert_snapshot_is(2, &of_epoch_2);
    let latest = master.slave_of("latest");
    assert_same("the latest", &of_epoch_2, &fingerprint(&latest.mnt));
    assert!(of_2 != of_epoch_2);
    let all = node.ctl(["snapshot", "list", &master.fs, "--all"]).ok();
    assert!(all.contains("diverged: of epoch 1"), "{all}");
    let epochs = node.json(["epoch", "list", &master.fs]);
    assert_eq!(epochs[0]["state"], "superseded", "{epochs:#}");
    assert_eq!(epochs[0]["last_snapshot"], 1, "{epochs:#}");
    assert_eq!(epochs[0]["diverged"], serde_json::json!([2]), "{epochs:#}");
    assert_eq!(epochs[1]["state"], "current", "{epochs:#}");
    assert_eq!(epochs[1]["base"]["number"], 1, "{epochs:#}");
}
