//! `kill -9` at each step of a promotion.

use super::{
    another_node, epoch, fingerprint, is_master, master_with_a_snapshot, mount_slave, promote,
    snapshot, wait_until, wait_until_fenced,
};
use cbfs_tests::{Fingerprint, Master, Node, assert_same, needs_fuse};
use std::fs;
use std::path::Path;

/// Before its claim a promotion is forgotten; behind it it goes on by itself, whatever happens.
const SEALED: [&str; 6] = [
    "promote.claimed",
    "promote.sealed",
    "promote.based",
    "promote.fetched",
    "promote.configured",
    "promote.forgotten",
];

/// The new master works, and what it publishes is exact.
fn check(master: &Master, node: &Node, mnt: &Path, wanted: &Fingerprint, name: &str) {
    assert_same(name, wanted, &fingerprint(mnt));
    fs::write(mnt.join("after"), name).unwrap();
    let number = snapshot(master, node);
    assert_eq!(number, 2, "{name}");
    master.assert_snapshot_is(2, &fingerprint(mnt));
}

#[test]
fn killed_before_its_claim_a_promotion_is_forgotten() {
    needs_fuse!();
    let master = master_with_a_snapshot();
    let node = another_node(&master, "b");
    node.stop();
    node.try_start_armed("promote.noted").unwrap();
    assert_ne!(promote(&master, &node, 1).code, Some(0));
    node.must_end("promote.noted");
    node.start();
    wait_until("the promotion is forgotten", || {
        !node.state_dir().join("instances").join(&master.fs).exists()
    });
    assert_eq!(epoch(&master, &node), 1);
    fs::write(master.at("still"), "master").unwrap();
    assert_eq!(master.snapshot(), 2);
}

#[test]
fn killed_behind_its_claim_a_promotion_goes_on_by_itself_at_every_step() {
    needs_fuse!();
    for failpoint in SEALED {
        let master = master_with_a_snapshot();
        let wanted = master.fingerprint();
        let node = another_node(&master, "b");
        // Every other time a mount is taken over.
        let mounted = failpoint != "promote.sealed" && failpoint != "promote.fetched";
        let mnt = match mounted {
            true => mount_slave(&master, &node, "mnt-b"),
            false => master.stage.dir("mnt-b"),
        };
        node.stop();
        node.try_start_armed(failpoint).unwrap();
        assert_ne!(promote(&master, &node, 1).code, Some(0), "{failpoint}");
        node.must_end(failpoint);
        wait_until_fenced(&master, &master.node);
        node.start();
        wait_until(failpoint, || is_master(&master, &node));
        if !mounted {
            node.mount(&master.fs, &master.bucket, &mnt);
        }
        check(&master, &node, &mnt, &wanted, failpoint);
    }
}

#[test]
fn a_node_that_is_lost_behind_its_claim_is_promoted_over() {
    needs_fuse!();
    let master = master_with_a_snapshot();
    let wanted = master.fingerprint();
    let lost = another_node(&master, "b");
    lost.stop();
    lost.try_start_armed("promote.sealed").unwrap();
    assert_ne!(promote(&master, &lost, 1).code, Some(0));
    lost.must_end("promote.sealed");
    let node = another_node(&master, "c");
    promote(&master, &node, 1).fails(11, &["is master in epoch 2"]);
    promote(&master, &node, 2).ok();
    let mnt = master.stage.dir("mnt-c");
    node.mount(&master.fs, &master.bucket, &mnt);
    check(&master, &node, &mnt, &wanted, "epoch 3");
    // The lost one comes back, finds that it was overtaken, and is nobody.
    lost.start();
    wait_until("the promotion is given up", || {
        !lost.state_dir().join("instances").join(&master.fs).exists()
    });
    assert!(!is_master(&master, &lost));
    fs::write(mnt.join("more"), "more").unwrap();
    assert_eq!(snapshot(&master, &node), 3);
    master.assert_snapshot_is(3, &fingerprint(&mnt));
}

#[test]
fn killed_while_a_block_comes_here_the_file_is_as_it_was() {
    needs_fuse!();
    let master = master_with_a_snapshot();
    let mut original = fs::read(master.at("large")).unwrap();
    master.node.kill9();
    let node = another_node(&master, "b");
    promote(&master, &node, 1).ok();
    let mnt = master.stage.dir("mnt-b");
    node.mount(&master.fs, &master.bucket, &mnt);
    let changes: [fn(&fs::File) -> std::io::Result<()>; 3] = [
        |file| std::os::unix::fs::FileExt::write_all_at(file, b"patch", 1_300_000),
        |file| file.set_len(2_200_000),
        |file| {
            use rustix::fs::FallocateFlags as Mode;
            let mode = Mode::PUNCH_HOLE | Mode::KEEP_SIZE;
            Ok(rustix::fs::fallocate(file, mode, 400_000, 5_000)?)
        },
    ];
    let dies = |change: fn(&fs::File) -> std::io::Result<()>, wanted: &[u8]| {
        node.stop();
        node.try_start_armed("block.brought").unwrap();
        let file = fs::OpenOptions::new()
            .write(true)
            .open(mnt.join("large"))
            .unwrap();
        assert!(change(&file).is_err());
        drop(file);
        node.must_end("block.brought");
        node.start();
        assert!(fs::read(mnt.join("large")).unwrap() == wanted);
    };
    // All of it is below; (what is only below is cut without any block).
    dies(changes[0], &original);
    dies(changes[2], &original);
    // Some of it is here.
    let file = fs::OpenOptions::new()
        .write(true)
        .open(mnt.join("large"))
        .unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[b'x'; 1 << 20], 0).unwrap();
    drop(file);
    original[..1 << 20].fill(b'x');
    dies(changes[0], &original);
    dies(changes[1], &original);
    for change in changes {
        change(
            &fs::OpenOptions::new()
                .write(true)
                .open(mnt.join("large"))
                .unwrap(),
        )
        .unwrap();
    }
    let mut wanted = original;
    wanted[1_300_000..1_300_005].copy_from_slice(b"patch");
    wanted[400_000..405_000].fill(0);
    wanted.truncate(2_200_000);
    assert!(fs::read(mnt.join("large")).unwrap() == wanted);
    assert_eq!(snapshot(&master, &node), 2);
    master.assert_snapshot_is(2, &fingerprint(&mnt));
}
