//! Becoming master.

use super::{
    another_node, epoch, fingerprint, master_in_a_directory, master_with_a_snapshot, mount_slave,
    promote, snapshot, wait_until, wait_until_fenced,
};
use cbfs_tests::{Exactness, Fingerprint, assert_same, needs_fuse, needs_tools};
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::process::Command;

#[test]
fn a_slave_turns_read_write_in_place_and_what_is_open_with_it() {
    needs_fuse!();
    let master = master_with_a_snapshot();
    let wanted = master.fingerprint();
    let node = another_node(&master, "b");
    let mnt = master.stage.dir("mnt-b");
    let at = mnt.to_str().unwrap();
    let follower = ["mount", &master.fs, at, "--slave", "--follow", "--bucket"];
    node.ctl(follower.into_iter().chain([master.bucket.url()]))
        .ok();
    let mut open = OpenOptions::new()
        .read(true)
        .write(true)
        .open(mnt.join("large"))
        .unwrap();
    let directory = fs::File::open(mnt.join("dir")).unwrap();
    let mut before = vec![0; 1000];
    open.read_exact(&mut before).unwrap();
    assert_eq!(
        open.write(b"x").unwrap_err().kind(),
        ErrorKind::ReadOnlyFilesystem
    );
    master.node.kill9();

    promote(&master, &node, 1).ok();
    assert_same("the promoted mount", &wanted, &fingerprint(&mnt));
    open.seek(SeekFrom::Start(1_500_000)).unwrap();
    open.write_all(b"written through a descriptor of before")
        .unwrap();
    let mut whole = fs::read(mnt.join("dir/hard link")).unwrap();
    assert_eq!(whole[..1000], before);
    let place = 1_500_000..1_500_038;
    assert_eq!(
        &whole[place.clone()],
        b"written through a descriptor of before"
    );
    whole[place.clone()].fill(0);
    let mut original = cbfs_tests::contents::noise(2, 2_500_000);
    original[place].fill(0);
    assert!(whole == original, "bytes beside those written");
    fs::write(mnt.join("dir/new"), "new\n").unwrap();
    directory.sync_all().unwrap();
    fs::remove_file(mnt.join("symlink")).unwrap();
    fs::rename(mnt.join("dir/other"), mnt.join("moved")).unwrap();
    // A file that is open and loses its last name goes on.
    let other = fs::File::open(mnt.join("moved")).unwrap();
    fs::remove_file(mnt.join("moved")).unwrap();
    let mut bytes = vec![0; 9_000];
    other.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == cbfs_tests::contents::noise(1, 9_000));
    drop(other);

    let wanted = fingerprint(&mnt);
    assert_eq!(snapshot(&master, &node), 2);
    master.assert_snapshot_is(2, &wanted);
    master.assert_snapshot_is(1, &master_tree_of_snapshot_1(&master));
    drop((open, directory));
    node.ctl(["umount", mnt.to_str().unwrap()]).ok();
    let left: Vec<_> = fs::read_dir(node.state_dir().join("instances"))
        .unwrap()
        .collect();
    assert_eq!(
        left.len(),
        1,
        "the slave's directory went with the mount: {left:?}"
    );
}

/// What snapshot 1 is, from a slave: compared with itself on another node it shows that the promotion left it alone.
fn master_tree_of_snapshot_1(master: &cbfs_tests::Master) -> cbfs_tests::Fingerprint {
    fingerprint(&master.slave(1).mnt)
}

#[test]
fn with_nothing_but_the_bucket_promote_then_mount_gives_the_tree_and_it_is_all_exact_again() {
    needs_fuse!();
    needs_tools!("jq", "zstd");
    let master = master_in_a_directory();
    let wanted = master.fingerprint();
    master.node.kill9();
    let node = another_node(&master, "b");
    let mnt = master.stage.dir("mnt-b");
    let (at, url) = (mnt.to_str().unwrap(), master.bucket.url());
    let refused = node.ctl(["mount", &master.fs, at, "--bucket", url]);
    refused.fails(11, &["has a master", "epoch promote", "--previous-epoch 1"]);

    let dry = node.json([
        "epoch",
        "promote",
        &master.fs,
        "--previous-epoch",
        "1",
        "--dry-run",
        "--bucket",
        url,
    ]);
    assert_eq!(
        (dry["step"].as_str(), dry["epoch"].as_u64()),
        (Some("planned"), Some(2))
    );
    assert_eq!(epoch(&master, &node), 1);
    promote(&master, &node, 1).ok();
    node.mount(&master.fs, &master.bucket, &mnt);
    assert_same("the promoted mount", &wanted, &fingerprint(&mnt));

    fs::write(mnt.join("dir/small"), "changed\n").unwrap();
    let large = OpenOptions::new()
        .write(true)
        .open(mnt.join("large"))
        .unwrap();
    large.write_all_at(b"patch", 1_000_000).unwrap();
    drop(large);
    let wanted = fingerprint(&mnt);
    assert_eq!(snapshot(&master, &node), 2);
    master.assert_snapshot_is(2, &wanted);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../share/recover.sh");
    let rebuilt = master.stage.path("rebuilt");
    let snapshot_2 = format!("{}@2", master.fs);
    let ran = Command::new("sh")
        .args([script, master.bucket.dir().to_str().unwrap(), &snapshot_2])
        .arg(&rebuilt)
        .output()
        .unwrap();
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    let copied = |dir: &std::path::Path| Fingerprint::take(dir, Exactness::CopyWithHoles);
    assert_same("recover.sh", &copied(&mnt), &copied(&rebuilt));
    let index = master.stage.path("index");
    node.ctl([
        "index",
        "rebuild",
        &snapshot_2,
        "--to",
        index.to_str().unwrap(),
    ])
    .ok();
    node.ctl(["snapshot", "verify", &snapshot_2, "--deep"]).ok();

    // It comes back after a kill, without its bucket, and is whole.
    node.kill9();
    let away = master.stage.path("away");
    fs::rename(master.bucket.dir(), &away).unwrap();
    node.start();
    assert_eq!(fs::read(mnt.join("dir/small")).unwrap(), b"changed\n");
    fs::write(mnt.join("without the bucket"), "works").unwrap();
    fs::rename(&away, master.bucket.dir()).unwrap();
    assert_eq!(snapshot(&master, &node), 3);
    node.stop();
    node.ctl(["fs", "check", "--local", &master.fs]).ok();
}

#[test]
fn promotion_goes_on_through_several_epochs_and_nodes() {
    needs_fuse!();
    let master = master_with_a_snapshot();
    let mut wanted = master.fingerprint();
    master.node.kill9();
    for (number, name) in (2..).zip(["b", "c", "d"]) {
        let node = another_node(&master, name);
        promote(&master, &node, number - 1).ok();
        let mnt = master.stage.dir(format!("mnt-{name}"));
        node.mount(&master.fs, &master.bucket, &mnt);
        assert_same(name, &wanted, &fingerprint(&mnt));
        fs::write(mnt.join(name), name).unwrap();
        let large = OpenOptions::new()
            .write(true)
            .open(mnt.join("large"))
            .unwrap();
        large
            .write_all_at(name.as_bytes(), u64::from(number) * 500_000)
            .unwrap();
        large.set_len(2_500_000 - u64::from(number) * 10).unwrap();
        drop(large);
        fs::rename(mnt.join("dir/small"), mnt.join("dir/renamed")).unwrap();
        fs::rename(mnt.join("dir/renamed"), mnt.join("dir/small")).unwrap();
        wanted = fingerprint(&mnt);
        assert_eq!(snapshot(&master, &node), u64::from(number));
        master.assert_snapshot_is(u64::from(number), &wanted);
        node.kill9();
    }
}

#[test]
fn of_ten_nodes_that_promote_at_once_exactly_one_wins() {
    needs_fuse!();
    let master = master_with_a_snapshot();
    master.node.kill9();
    for (previous, count) in [(1, 2), (2, 3), (3, 10)] {
        let nodes: Vec<_> = (0..count)
            .map(|n| another_node(&master, &format!("n{previous}-{n}")))
            .collect();
        let ran: Vec<_> = std::thread::scope(|scope| {
            let started: Vec<_> = nodes
                .iter()
                .map(|node| scope.spawn(|| promote(&master, node, previous)))
                .collect();
            started.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let won = ran.iter().filter(|r| r.code == Some(0)).count();
        let lost = ran.iter().filter(|r| r.code == Some(11)).count();
        assert_eq!((won, lost), (1, count - 1), "{ran:#?}");
        assert_eq!(epoch(&master, &nodes[0]), u64::from(previous) + 1);
        let winner = ran.iter().position(|r| r.code == Some(0)).unwrap();
        for (n, node) in nodes.iter().enumerate() {
            let instances = node.json(["instance", "list"]);
            let masters = instances.as_array().unwrap().len();
            assert_eq!(masters, usize::from(n == winner), "node {n}: {instances:#}");
        }
    }
}

#[test]
fn a_promotion_that_cannot_be_right_is_refused_and_changes_nothing() {
    needs_fuse!();
    let master = master_in_a_directory();
    let node = another_node(&master, "b");
    promote(&master, &node, 2).fails(11, &["is not the latest", "is master in epoch 1"]);
    promote(&master, &node, 0).fails(11, &["is not the latest"]);
    promote(&master, &master.node, 1).fails(11, &["is the master of"]);
    let unasked = node.ctl([
        "epoch",
        "promote",
        &master.fs,
        "--previous-epoch",
        "1",
        "--bucket",
        master.bucket.url(),
    ]);
    unasked.fails(
        2,
        &[
            "needs a confirmation",
            "looks alive".to_uppercase().as_str(),
        ],
    );

    // A latest snapshot that cannot be read must be known before the master is fenced.
    let manifest = master
        .bucket
        .dir()
        .join(&master.fs)
        .join("m/0000000001-e1.json");
    let good = fs::read(&manifest).unwrap();
    fs::write(&manifest, &good[..good.len() / 2]).unwrap();
    promote(&master, &node, 1).fails(14, &["0000000001-e1.json"]);
    fs::write(&manifest, &good).unwrap();
    // So must one whose layer is gone.
    let folder = master.bucket.dir().join(&master.fs).join("s");
    let attempt = fs::read_dir(&folder)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    fs::rename(attempt.join("layer.sqlite.zst"), attempt.join("away")).unwrap();
    promote(&master, &node, 1).fails(14, &["layer.sqlite.zst"]);
    let left = node.state_dir().join("instances").join(&master.fs);
    assert!(!left.exists(), "what was fetched is nobody's");
    fs::rename(attempt.join("away"), attempt.join("layer.sqlite.zst")).unwrap();
    // A damaged epoch.
    let claim = master
        .bucket
        .dir()
        .join(&master.fs)
        .join("epochs/00001.json");
    let good = fs::read(&claim).unwrap();
    fs::write(&claim, "{}").unwrap();
    promote(&master, &node, 1).fails(14, &["epochs/00001.json"]);
    // Its master serves on, and says what is wrong.
    let problems = || master.node.json(["instance", "show", &master.fs])["problems"].to_string();
    wait_until("the damaged epoch is told", || {
        problems().contains("epochs/00001.json")
    });
    fs::write(master.at("while it is damaged"), "written").unwrap();
    fs::write(&claim, good).unwrap();
    wait_until("all is well again", || problems() == "null");
    // No right to write.
    let epochs = claim.parent().unwrap();
    if make_read_only(epochs, true) {
        promote(&master, &node, 1).fails(12, &[]);
        assert!(make_read_only(epochs, false));
    }

    assert_eq!(epoch(&master, &node), 1);
    fs::write(master.at("still"), "master").unwrap();
    assert_eq!(master.snapshot(), 2);
    assert!(
        node.json(["instance", "list"])
            .as_array()
            .unwrap()
            .is_empty()
    );
    promote(&master, &node, 1).ok();
    wait_until_fenced(&master, &master.node);
}

/// Bind a directory read-only onto itself, or take that away; `false` where that cannot be done.
fn make_read_only(dir: &std::path::Path, on: bool) -> bool {
    let run = |args: &[&str]| {
        let mut command = Command::new(args[0]);
        command.args(&args[1..]).arg(dir);
        command.output().is_ok_and(|o| o.status.success())
    };
    if on {
        let dir = dir.to_str().unwrap();
        run(&["mount", "--bind", dir]) && run(&["mount", "-o", "remount,bind,ro"])
    } else {
        run(&["umount"])
    }
}

#[test]
fn the_view_of_a_slave_at_an_older_snapshot_moves_forward() {
    needs_fuse!();
    let master = master_with_a_snapshot();
    let node = another_node(&master, "b");
    let mnt = mount_slave(&master, &node, "mnt-b");
    // The kernel knows all of it.
    drop(fingerprint(&mnt));
    let same = OpenOptions::new()
        .write(true)
        .open(mnt.join("dir/other"))
        .unwrap();
    fs::write(master.at("dir/small"), "another length\n").unwrap();
    fs::remove_file(master.at("symlink")).unwrap();
    fs::write(master.at("dir/later"), "later").unwrap();
    assert_eq!(master.snapshot(), 2);
    let wanted = master.fingerprint();
    assert!(!mnt.join("dir/later").exists());
    master.node.kill9();
    promote(&master, &node, 1).ok();
    assert_same("the promoted mount", &wanted, &fingerprint(&mnt));
    same.write_all_at(b"x", 8_999).unwrap();
    assert_eq!(fs::read(mnt.join("dir/other")).unwrap()[8_999], b'x');
    fs::write(mnt.join("dir/small"), "and on\n").unwrap();
    let wanted = fingerprint(&mnt);
    assert_eq!(snapshot(&master, &node), 3);
    master.assert_snapshot_is(3, &wanted);
    wait_until("the slave is gone", || {
        node.json(["instance", "list"]).as_array().unwrap().len() == 1
    });
}
