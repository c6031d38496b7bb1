//! Slaves that follow, across promotions; and what is exact after several epochs with merged layers between them.

use super::{
    another_node, epoch, fingerprint, master_with_a_snapshot, mount_follower, mount_slave, promote,
    snapshot, verify, wait_until,
};
use cbfs_tests::contents::noise;
use cbfs_tests::{Exactness, Fingerprint, Master, Node, assert_same, needs_fuse, needs_tools};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

fn shown(node: &Node) -> (u64, u64) {
    let line = node.json(["slave", "list"])[0].clone();
    let number = |key: &str| line[key].as_u64().unwrap();
    (number("snapshot"), number("epoch"))
}

#[test]
#[cfg(debug_assertions)] // a release daemon has no failpoints
fn a_follower_goes_over_to_the_new_epoch_and_never_shows_what_diverged() {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};
    needs_fuse!();
    let master = master_with_a_snapshot();
    fs::write(master.at("who"), "first\n").unwrap();
    assert_eq!(master.snapshot(), 2);
    let third = another_node(&master, "third");
    let mnt = mount_follower(&master, &third, "mnt-third", "1s");
    let node = another_node(&master, "b");
    let promoted = mount_slave(&master, &node, "mnt-b");
    let (seen, stop) = (
        Mutex::new(vec!["first\n".to_owned()]),
        AtomicBool::new(false),
    );
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&mnt, &seen, &stop));
        // Snapshot 3 is about to get its manifest when its master stops, and gets it when it is superseded.
        let failpoint = "snapshot.before-manifest";
        master.node.stop();
        let armed = format!("{failpoint},stop");
        master.node.try_start_armed(&armed).unwrap();
        fs::write(master.at("who"), "diverged\n").unwrap();
        master.node.ctl(["snapshot", "create", &master.fs]).ok();
        wait_until(failpoint, || {
            master.node.log().contains("failpoint snapshot.")
        });
        master.node.must_be_stopped(failpoint);
        // A promotion that has its claim and no base: nothing is settled, the follower stays.
        node.stop();
        node.try_start_armed("promote.sealed,stop").unwrap();
        std::thread::scope(|scope| {
            let promotion = scope.spawn(|| promote(&master, &node, 1));
            wait_until("the claim", || node.log().contains("failpoint promote."));
            node.must_be_stopped("promote.sealed");
            third.ctl(["slave", "refresh", mnt.to_str().unwrap()]).ok();
            assert_eq!(shown(&third), (2, 1));
            node.go_on();
            promotion.join().unwrap().ok();
        });
        fs::write(promoted.join("who"), "second\n").unwrap();
        fs::remove_file(promoted.join("symlink")).unwrap();
        let wanted = fingerprint(&promoted);
        assert_eq!(snapshot(&master, &node), 3);
        wait_until("the follower is in epoch 2", || shown(&third) == (3, 2));
        let found = fingerprint(&mnt).without_fresh_numbers(&wanted);
        assert_same("snapshot 3 of epoch 2", &wanted, &found);
        wait_until("it was seen", || {
            seen.lock().unwrap().last().is_some_and(|w| w == "second\n")
        });

        master.node.go_on();
        let epochs = || node.json(["epoch", "list", &master.fs, "--bucket", master.bucket.url()]);
        wait_until("snapshot 3 of epoch 1 is there, diverged", || {
            epochs()[0]["diverged"] == serde_json::json!([3])
        });
        third.ctl(["slave", "refresh", mnt.to_str().unwrap()]).ok();
        assert_eq!(shown(&third), (3, 2));
        // Nor does one that comes back only now. (Nobody looks while its mount is dead.)
        stop.store(true, Ordering::SeqCst);
        watcher.join().unwrap();
        third.kill9();
        master.node.kill9();
        third.start();
        stop.store(false, Ordering::SeqCst);
        scope.spawn(|| watch(&mnt, &seen, &stop));
        fs::write(promoted.join("who"), "last\n").unwrap();
        let wanted = fingerprint(&promoted);
        assert_eq!(snapshot(&master, &node), 4);
        wait_until("the follower is at snapshot 4", || shown(&third) == (4, 2));
        let found = fingerprint(&mnt).without_fresh_numbers(&wanted);
        assert_same("snapshot 4", &wanted, &found);
        wait_until("it was seen", || {
            seen.lock().unwrap().last().is_some_and(|w| w == "last\n")
        });
        stop.store(true, Ordering::SeqCst);
    });
    assert_eq!(*seen.lock().unwrap(), ["first\n", "second\n", "last\n"]);
}

/// Look at `who` again and again, and note whatever it says that is new.
#[cfg(debug_assertions)]
fn watch(mnt: &Path, seen: &std::sync::Mutex<Vec<String>>, stop: &std::sync::atomic::AtomicBool) {
    while !stop.load(std::sync::atomic::Ordering::SeqCst) {
        let now = fs::read_to_string(mnt.join("who")).unwrap();
        let mut seen = seen.lock().unwrap();
        if seen.last() != Some(&now) {
            seen.push(now);
        }
    }
}

/// Changes of all kinds, others in each round.
fn change(mnt: &Path, round: u64) {
    let dir = mnt.join(format!("dir-{}", round % 3));
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join(format!("new-{round}")), noise(round, 3_000)).unwrap();
    fs::write(mnt.join("dir/small"), format!("round {round}\n")).unwrap();
    let large = OpenOptions::new()
        .write(true)
        .open(mnt.join("large"))
        .unwrap();
    large
        .write_all_at(&noise(round, 70_000), round * 131_071)
        .unwrap();
    match round % 4 {
        0 => large.set_len(1_400_000 + round * 1000).unwrap(),
        1 => large.set_len(4_000_000).unwrap(),
        2 => {
            use rustix::fs::{FallocateFlags as Mode, fallocate};
            let mode = Mode::PUNCH_HOLE | Mode::KEEP_SIZE;
            fallocate(&large, mode, round * 100_000, 300_000).unwrap();
        }
        _ => {}
    }
    drop(large);
    if round > 2 {
        let name = format!("dir-{}/new-{}", (round - 2) % 3, round - 2);
        fs::rename(mnt.join(name), mnt.join(format!("moved-{round}"))).unwrap();
    }
    if round > 5 {
        fs::remove_file(mnt.join(format!("moved-{}", round - 2))).unwrap();
    }
    if round.is_multiple_of(3) {
        let link = mnt.join("dir/hard link");
        fs::remove_file(&link).unwrap();
        fs::hard_link(mnt.join("large"), link).unwrap();
    }
}

#[test]
fn two_more_epochs_with_merged_layers_between_them_are_exact_at_every_snapshot() {
    needs_fuse!();
    needs_tools!("jq", "zstd");
    let master = master_with_a_snapshot();
    let third = another_node(&master, "third");
    let follower = mount_follower(&master, &third, "mnt-third", "1h");
    let at = follower.to_str().unwrap();
    let (mut number, mut merged) = (1, 0);
    let mut node = None;
    let mut mnt = master.mnt.clone();
    let mut kept: Vec<(u64, Fingerprint, Fingerprint)> = Vec::new();
    for tenure in 1..=3_u32 {
        if tenure > 1 {
            match &node {
                None => master.node.kill9(),
                Some(node) => Node::kill9(node),
            }
            let next = another_node(&master, &format!("node-{tenure}"));
            mnt = mount_slave(&master, &next, &format!("mnt-{tenure}"));
            promote(&master, &next, tenure - 1).ok();
            let (_, wanted, _) = kept.last().unwrap();
            assert_same("the promoted mount", wanted, &fingerprint(&mnt));
            node = Some(next);
        }
        for _ in 0..7 {
            change(&mnt, number);
            let wanted = fingerprint(&mnt);
            number += 1;
            let present = node.as_ref().unwrap_or(&master.node);
            assert_eq!(snapshot(&master, present), number);
            third.ctl(["slave", "refresh", at]).ok();
            assert_eq!(shown(&third), (number, u64::from(tenure)));
            let what = format!("snapshot {number}, epoch {tenure}");
            let found = fingerprint(&follower).without_fresh_numbers(&wanted);
            assert_same(&what, &wanted, &found);
            let layers = layers_of_the_shown(&third);
            assert!(layers.len() <= 8, "{what}: {layers:?}");
            merged = layers
                .iter()
                .filter(|key| key.contains("/layers/") || key.starts_with("layers/"))
                .count();
            let copied = Fingerprint::take(&mnt, Exactness::Copy);
            kept.push((number, wanted, copied));
        }
        assert!(merged > 0, "nothing was merged in epoch {tenure}");
    }
    let present = node.as_ref().unwrap();
    assert_eq!(epoch(&master, present), 3);
    // The last of each epoch, for somebody who knows nothing; and without anything of ours.
    for (number, wanted, copied) in kept.iter().skip(6).step_by(7) {
        verify(&master, present, *number);
        master.assert_snapshot_is(*number, wanted);
        if master.bucket.is_directory() {
            let rebuilt = recovered(&master, *number);
            let found = Fingerprint::take(&rebuilt, Exactness::Copy);
            assert_same(&format!("recover.sh {number}"), copied, &found);
        }
    }
}

/// The keys of the layers of what a node's only slave shows.
fn layers_of_the_shown(node: &Node) -> Vec<String> {
    let id = node.json(["instance", "list"])[0]["id"].clone();
    let dir = node
        .state_dir()
        .join("instances")
        .join(id.as_str().unwrap());
    let manifest = fs::read(dir.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let layers = manifest["layers"].as_array().unwrap().iter();
    layers
        .map(|layer| layer["key"].as_str().unwrap().to_owned())
        .collect()
}

/// A snapshot, rebuilt by share/recover.sh.
fn recovered(master: &Master, number: u64) -> std::path::PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../share/recover.sh");
    let rebuilt = master.stage.path(format!("rebuilt-{number}"));
    let snapshot = format!("{}@{number}", master.fs);
    let ran = Command::new("sh")
        .args([script, master.bucket.dir().to_str().unwrap(), &snapshot])
        .arg(&rebuilt)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}");
    rebuilt
}
