//! `cbfsctl warm`: contents that were fetched in advance need no bucket any more.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too

use cbfs_tests::contents::noise;
use cbfs_tests::{Master, Node, needs_fuse};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Files of one directory that share sections, a large one, and one that nobody warms.
fn master() -> Master {
    let master = Master::with_directory_bucket();
    let dir = master.dir("dir/sub");
    for n in 0..10 {
        fs::write(dir.join(format!("f{n}")), noise(n, 20_000)).unwrap();
    }
    fs::write(master.at("large"), noise(77, 3_500_000)).unwrap();
    fs::hard_link(master.at("large"), master.at("dir/link")).unwrap();
    fs::write(master.at("cold"), noise(78, 2_000_000)).unwrap();
    assert_eq!(master.snapshot(), 1);
    master
}

fn follower(master: &Master) -> (Node, PathBuf) {
    follower_on(master, "b")
}

fn follower_on(master: &Master, name: &str) -> (Node, PathBuf) {
    let node = master.stage.node(name);
    node.set("CBFS_EPOCH_CHECK", "0.2");
    node.start();
    let mnt = master.stage.dir(format!("mnt-{name}"));
    let at = mnt.to_str().unwrap();
    let follow = ["--slave", "--follow", "--poll-interval", "1h"];
    let args = ["mount", &master.fs, at, "--bucket", master.bucket.url()];
    node.ctl(args.into_iter().chain(follow)).ok();
    (node, mnt)
}

/// Nothing of it in memory, neither the daemon's nor the kernel's, and no bucket; then everything but `changed` is read.
fn reads_without_the_bucket(master: &Master, node: &Node, mnt: &Path, changed: Option<u64>) {
    node.kill9();
    let away = master.stage.path("away");
    fs::rename(master.bucket.dir(), &away).unwrap();
    node.start();
    for n in (0..10).filter(|n| Some(*n) != changed) {
        let read = fs::read(mnt.join(format!("dir/sub/f{n}"))).unwrap();
        assert!(read == noise(n, 20_000), "f{n}");
    }
    assert!(fs::read(mnt.join("large")).unwrap() == noise(77, 3_500_000));
    fs::rename(&away, master.bucket.dir()).unwrap();
    assert!(fs::read(mnt.join("cold")).unwrap() == noise(78, 2_000_000));
}

#[test]
fn what_was_warmed_needs_no_bucket_on_a_slave_nor_on_the_master_it_becomes() {
    needs_fuse!();
    let master = master();
    let (node, mnt) = follower(&master);
    let at = mnt.to_str().unwrap();
    let first = node.json(["warm", at, "dir", "large"]);
    assert_eq!(first["id"], format!("{}@latest", master.fs));
    assert_eq!(
        first["files"], 11,
        "two names of one file count once: {first:#}"
    );
    let fetched = first["fetched_bytes"].as_u64().unwrap();
    assert!((3_700_000..5_000_000).contains(&fetched), "{first:#}");
    assert_eq!(first["failed"], serde_json::json!([]));
    // Nothing is fetched twice, whatever word leads there.
    let absolute = mnt.join("dir");
    let again = node.json(["warm", &master.fs, absolute.to_str().unwrap(), "large"]);
    assert_eq!(again["fetched_bytes"], 0, "{again:#}");
    assert_eq!(again["kept_bytes"], fetched, "{again:#}");
    reads_without_the_bucket(&master, &node, &mnt, None);

    // What is unchanged stays warm when the slave moves on.
    fs::write(master.at("dir/sub/f3"), "changed").unwrap();
    assert_eq!(master.snapshot(), 2);
    node.ctl(["slave", "refresh", at]).ok();
    reads_without_the_bucket(&master, &node, &mnt, Some(3));
    let said = node.ctl(["warm", at, "dir", "large"]);
    assert!(said.stderr.contains("11 files"), "{said:#?}");
    said.ok();
    reads_without_the_bucket(&master, &node, &mnt, Some(3));

    // And when the slave becomes master.
    master.node.kill9();
    let args = ["epoch", "promote", &master.fs, "--previous-epoch", "1"];
    node.ctl(args.into_iter().chain(["--yes"])).ok();
    reads_without_the_bucket(&master, &node, &mnt, Some(3));
    assert_eq!(fs::read(mnt.join("dir/sub/f3")).unwrap(), b"changed");
    // A master warms too: what it has of its own needs nothing.
    fs::write(mnt.join("dir/new"), noise(5, 100_000)).unwrap();
    fs::write(mnt.join("cold"), noise(79, 100)).unwrap();
    let all = node.json(["warm", at]);
    assert_eq!(all["files"], 13, "{all:#}");
    assert_eq!(all["fetched_bytes"], 0, "{all:#}");
    assert_eq!(node.json(["warm", at, "dir/new"])["kept_bytes"], 0);
}

#[test]
fn what_cannot_be_warmed_is_named() {
    needs_fuse!();
    let master = master();
    let (node, mnt) = follower(&master);
    let at = mnt.to_str().unwrap();
    node.ctl(["warm", at, "dir", "no such"])
        .fails(10, &["no such"]);
    node.ctl(["warm", at, "/etc"])
        .fails(2, &["/etc is not in the file system"]);
    node.ctl(["warm", "/no/such/mount"]).fails(10, &[]);
    master.node.ctl(["umount", &master.fs]).ok();
    let unmounted = master.node.ctl(["warm", &master.fs]);
    unmounted.fails(11, &["is not mounted"]);
    // A mark of nothing having been fetched: the bucket still counts no section.
    let before = node.json(["warm", at, "dir/sub/f1"]);
    assert!(before["fetched_bytes"].as_u64().unwrap() > 0, "{before:#}");

    let folder = master.bucket.dir().join(&master.fs).join("s");
    let attempt = fs::read_dir(folder).unwrap().next().unwrap().unwrap();
    let tarball = attempt.path().join("0001.tar.zst");
    let good = fs::read(&tarball).unwrap();
    let mut bad = good.clone();
    for byte in bad.iter_mut().step_by(1000) {
        *byte ^= 1;
    }
    fs::write(&tarball, &bad).unwrap();
    let damaged = node.ctl(["warm", at, "large"]);
    assert_eq!(damaged.code, Some(14), "{damaged:#?}");
    for word in ["mnt-b/large", "0001.tar.zst", "could not be fetched whole"] {
        assert!(damaged.stderr.contains(word), "{damaged:#?}");
    }
    let problems = node.json(["slave", "list"])[0]["problems"].to_string();
    assert!(problems.contains("0001.tar.zst"), "{problems}");
    fs::write(&tarball, &good).unwrap();
    node.ctl(["warm", at, "large"]).ok();
    let shown = node.json(["slave", "list"]);
    assert_eq!(shown[0]["problems"], serde_json::json!([]), "{shown:#}");
    // Away is not damaged.
    let away = master.stage.path("away");
    fs::rename(master.bucket.dir(), &away).unwrap();
    let nothing = node.ctl(["warm", at, "cold", "--json"]);
    assert_eq!((nothing.code, nothing.stdout.as_str()), (Some(5), ""));
    fs::rename(&away, master.bucket.dir()).unwrap();

    // What one request found is told although a later one is refused: the first is full with these.
    master.node.mount(&master.fs, &master.bucket, &master.mnt);
    let many = master.dir("many");
    for n in 0..255 {
        fs::write(many.join(n.to_string()), "").unwrap();
    }
    assert_eq!(master.snapshot(), 2);
    node.ctl(["slave", "refresh", at]).ok();
    fs::write(&tarball, bad).unwrap();
    let words = ["warm", at, "cold", "many", ".cbfs/snapshots/1/large"];
    let said = node.ctl(words);
    assert!(said.stderr.contains("mnt-b/cold"), "{said:#?}");
    said.fails(2, &["of 255 files are on this node", "not kept"]);
    let said = node.ctl(words.iter().chain(&["--json"]));
    let shown: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(shown["files"], 255, "{shown:#}");
    let failed = shown["failed"].as_array().unwrap();
    assert_eq!(failed.len(), 1, "{shown:#}");
    assert!(failed[0]["path"].as_str().unwrap().ends_with("/cold"));
    assert_eq!(said.code, Some(2), "{said:#?}");
    assert!(said.stderr.contains("not kept"), "{said:#?}");
}

/// The new version of a file of which the old one is open has an inode number of its own kind.
#[test]
fn a_new_version_is_warmed_while_the_old_one_is_open() {
    needs_fuse!();
    let master = master();
    let (node, mnt) = follower(&master);
    let at = mnt.to_str().unwrap();
    let old = fs::File::open(mnt.join("large")).unwrap();
    fs::write(master.at("large"), noise(90, 2_000_000)).unwrap();
    assert_eq!(master.snapshot(), 2);
    node.ctl(["slave", "refresh", at]).ok();
    let new = fs::metadata(mnt.join("large")).unwrap();
    assert_ne!(new.ino(), old.metadata().unwrap().ino());
    let warmed = node.json(["warm", at, "large"]);
    assert!(
        warmed["fetched_bytes"].as_u64().unwrap() >= 2_000_000,
        "{warmed:#}"
    );
    let away = master.stage.path("away");
    fs::rename(master.bucket.dir(), &away).unwrap();
    assert!(fs::read(mnt.join("large")).unwrap() == noise(90, 2_000_000));
    fs::rename(&away, master.bucket.dir()).unwrap();
    // The old one is what it was, and the snapshots below `.cbfs` are still refused.
    let mut bytes = vec![0; 3_500_000];
    old.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == noise(77, 3_500_000));
    let inside = mnt.join(".cbfs/snapshots/1/large");
    node.ctl(["warm", at, inside.to_str().unwrap()])
        .fails(2, &["below .cbfs/snapshots"]);
}

/// Of a file with more blocks than can be counted, its data is fetched.
#[test]
fn a_hole_without_end_costs_nothing() {
    needs_fuse!();
    let master = master();
    let (node, mnt) = follower(&master);
    master.node.kill9();
    let args = ["epoch", "promote", &master.fs, "--previous-epoch", "1"];
    node.ctl(args.into_iter().chain(["--yes"])).ok();
    // No file system below has to carry this size: of the file nothing is on the node.
    let endless = fs::OpenOptions::new().write(true).open(mnt.join("cold"));
    endless.unwrap().set_len(1 << 62).unwrap();
    node.ctl(["snapshot", "create", &master.fs, "--wait"]).ok();
    let (other, mnt) = follower_on(&master, "c");
    assert_eq!(fs::metadata(mnt.join("cold")).unwrap().len(), 1 << 62);
    let warmed = other.json(["warm", mnt.to_str().unwrap(), "cold"]);
    let fetched = warmed["fetched_bytes"].as_u64().unwrap();
    assert!((2_000_000..3_000_000).contains(&fetched), "{warmed:#}");
    let away = master.stage.path("away");
    fs::rename(master.bucket.dir(), &away).unwrap();
    let mut bytes = vec![0; 2_000_000];
    let file = fs::File::open(mnt.join("cold")).unwrap();
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == noise(78, 2_000_000));
    fs::rename(&away, master.bucket.dir()).unwrap();
}
