//! Bad input is answered with what is wrong, what to do about it and the right exit code; nothing
//! is lost by it, and damage never shows as wrong bytes.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too

use cbfs_tests::contents::noise;
use cbfs_tests::{
    Exactness, Fingerprint, Master, Node, Slave, Stage, TestBucket, needs_fuse, tools, tree,
};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount_bind, mount_remount};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A node without a daemon, and a bucket.
fn bare() -> (Stage, Node, TestBucket) {
    let stage = Stage::new();
    let (node, bucket) = (stage.node("a"), stage.directory_bucket());
    (stage, node, bucket)
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

// ---------------------------------------------------------------- words on the command line

#[test]
fn an_unknown_and_an_ambiguous_file_system_are_told_apart() {
    let (_stage, node, bucket) = bare();
    let run = |args: &[&str]| node.ctl(args.iter().chain(&["--bucket", bucket.url()]));
    run(&["fs", "show", "home"]).fails(10, &["home"]);
    let one = run(&["fs", "create", "home"]).ok();
    let two = run(&["fs", "create", "home"]).ok();
    let error = run(&["fs", "show", "home"]).fails(11, &["ambiguous"]);
    assert!(
        error.contains(one.trim()) && error.contains(two.trim()),
        "{error}"
    );
    run(&["fs", "show", one.trim()]).ok();
    let uuid_prefix = &one.trim()["home-".len()..]["".len()..13];
    run(&["fs", "show", uuid_prefix]).ok();
    run(&["fs", "show", "other"]).fails(10, &["other"]);
    run(&["fs", "create", "bad tag"]).fails(2, &["tag"]);
}

#[test]
fn mounting_what_is_unknown_ambiguous_or_has_no_such_snapshot_fails_and_leaves_nothing() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    let mnt = m.stage.dir("other");
    let mount = |fs: &str, more: &[&str]| {
        let dir = text(&mnt);
        let args = ["mount", fs, &dir, "--bucket", m.bucket.url()];
        m.node.ctl(args.iter().chain(more))
    };
    mount("nothing", &[]).fails(10, &["nothing"]);
    m.node
        .ctl(["fs", "create", "home", "--bucket", m.bucket.url()])
        .ok();
    mount("home", &["--slave"]).fails(11, &["ambiguous", &m.fs]);
    mount(&m.fs, &["--slave"]).fails(10, &["snapshot"]);
    m.snapshot();
    mount(&format!("{}@999", m.fs), &["--slave"]).fails(10, &["999"]);
    mount(&format!("{}@none", m.fs), &["--slave"]).fails(10, &["none"]);
    m.node
        .ctl(["snapshot", "show", &format!("{}@999", m.fs)])
        .fails(10, &["999"]);
    m.node
        .ctl(["snapshot", "watch", &format!("{}@999", m.fs)])
        .fails(10, &["999"]);
    mount(&format!("{}@1", m.fs), &[]).fails(2, &["--slave"]);
    assert!(fs::read_dir(&mnt).unwrap().next().is_none());
    let instances = fs::read_dir(m.node.state_dir().join("instances")).unwrap();
    assert_eq!(instances.count(), 1, "a refused mount left an instance");
}

#[test]
fn a_bucket_that_is_missing_or_no_directory_or_read_only_is_named() {
    needs_fuse!();
    let (stage, node, bucket) = bare();
    let create = |url: &str| node.ctl(["fs", "create", "home", "--bucket", url]);
    let missing = format!("file://{}", stage.path("missing").display());
    create(&missing).fails(5, &["missing"]);
    node.ctl(["fs", "list", "--bucket", &missing])
        .fails(5, &["missing"]);
    fs::write(stage.path("file"), "no directory").unwrap();
    create(&format!("file://{}", stage.path("file").display()))
        .fails(2, &["file", "not a directory"]);
    create("nonsense").fails(2, &[]);
    create("ftp://host/dir").fails(2, &["ftp"]);

    let handle = create(bucket.url()).ok();
    let handle = handle.trim();
    make_read_only(bucket.dir());
    create(bucket.url()).fails(12, &["bucket"]);
    node.ctl(["fs", "show", handle, "--bucket", bucket.url()])
        .ok();
    node.start();
    let mnt = stage.dir("mnt");
    node.ctl(["mount", handle, &text(&mnt), "--bucket", bucket.url()])
        .fails(12, &["bucket"]);
    // And it is there again, and mounts, once it can be written to.
    make_writable(bucket.dir());
    node.mount(handle, &bucket, &mnt);
    fs::write(mnt.join("file"), "x").unwrap();
}

/// Root writes to everything, but not to a read-only mount.
fn make_read_only(dir: &Path) {
    if tools::is_root() {
        mount_bind(dir, dir).unwrap();
        let flags = MountFlags::BIND | MountFlags::RDONLY;
        mount_remount(dir, flags, "").unwrap();
    } else {
        tools::run(std::process::Command::new("chmod").arg("555").arg(dir));
    }
}

fn make_writable(dir: &Path) {
    if tools::is_root() {
        rustix::mount::unmount(dir, rustix::mount::UnmountFlags::DETACH).unwrap();
    } else {
        tools::run(std::process::Command::new("chmod").arg("755").arg(dir));
    }
}

#[test]
fn a_mount_point_that_will_not_do_is_refused() {
    needs_fuse!();
    let m = Master::new();
    fs::write(m.at("file"), "x").unwrap();
    m.snapshot();
    let mount = |dir: &Path| {
        let dir = text(dir);
        m.node.ctl([
            "mount",
            &format!("{}@1", m.fs),
            &dir,
            "--slave",
            "--bucket",
            m.bucket.url(),
        ])
    };
    mount(&m.stage.path("missing")).fails(10, &["missing", "mkdir"]);
    fs::write(m.stage.dir("full").join("file"), "x").unwrap();
    mount(&m.stage.path("full")).fails(11, &["not empty", "--non-empty"]);
    mount(&m.stage.path("full/file")).fails(2, &["no directory"]);
    mount(&m.mnt).fails(11, &["mounted"]);
    // The same file system twice.
    let other = m.stage.dir("other");
    m.node
        .ctl(["mount", &m.fs, &text(&other), "--bucket", m.bucket.url()])
        .fails(11, &["mounted already", &text(&m.mnt)]);
    mount(&other).ok();
    mount(&m.stage.dir("third")).fails(11, &["mounted already", &text(&other)]);
    // Nobody was disturbed.
    assert_eq!(fs::read_to_string(m.at("file")).unwrap(), "x");
    assert_eq!(fs::read_to_string(other.join("file")).unwrap(), "x");
    // A mount with open files is not taken away.
    let sitting = || {
        let mut sleep = std::process::Command::new("sleep");
        sleep.arg("1000").current_dir(&other).spawn().unwrap()
    };
    let mut sitter = sitting();
    m.node.ctl(["umount", &text(&other)]).fails(11, &["--lazy"]);
    sitter.kill().unwrap();
    sitter.wait().unwrap();
    m.node.ctl(["umount", &text(&other)]).ok();
    m.node.ctl(["umount", &text(&other)]).fails(10, &[]);
    // Detached while in use, it does not come back with the next daemon.
    mount(&other).ok();
    let mut sitter = sitting();
    m.node.ctl(["umount", &text(&other), "--lazy"]).ok();
    assert!(!other.join("file").exists());
    m.node.kill9();
    m.node.start();
    assert!(!other.join("file").exists());
    assert_eq!(fs::read_to_string(m.at("file")).unwrap(), "x");
    sitter.kill().unwrap();
    sitter.wait().unwrap();
    mount(&other).ok();
}

#[test]
fn without_a_daemon_commands_say_so() {
    let (stage, node, bucket) = bare();
    node.ctl(["status"]).fails(4, &["daemon"]);
    node.ctl(["instance", "list"]).fails(4, &["daemon"]);
    node.ctl(["snapshot", "create", "home"])
        .fails(4, &["daemon"]);
    node.ctl(["umount", "home"]).fails(4, &["daemon"]);
    // A socket that nobody serves any more is no daemon.
    drop(std::os::unix::net::UnixListener::bind(node.socket()).unwrap());
    node.ctl(["status"]).fails(4, &["daemon"]);
    node.ctl(["fs", "list", "--bucket", bucket.url()]).ok();
    drop(stage);
}

// ---------------------------------------------------------------- two of what must be one

#[test]
fn a_second_daemon_on_a_state_directory_is_refused_and_the_first_goes_on() {
    needs_fuse!();
    let m = Master::new();
    let ended = m.node.twin("b").try_start().unwrap_err();
    assert_eq!(ended.status.code(), Some(11), "{}", ended.log);
    assert!(
        ended
            .log
            .contains("another daemon uses the state directory"),
        "{}",
        ended.log
    );
    fs::write(m.at("file"), "goes on").unwrap();
    m.node.ctl(["status"]).ok();
    m.snapshot();
}

#[test]
fn a_second_master_is_refused_and_told_who_the_first_is() {
    needs_fuse!();
    let m = Master::new();
    let other = m.stage.node("b");
    other.start();
    let mnt = m.stage.dir("other");
    let first = m.node.json(["status"])["node"].as_str().unwrap().to_owned();
    for _ in 0..2 {
        other
            .ctl(["mount", &m.fs, &text(&mnt), "--bucket", m.bucket.url()])
            .fails(11, &["master", &first, "--slave"]);
    }
    assert!(fs::read_dir(&mnt).unwrap().next().is_none());
    assert_eq!(other.json(["instance", "list"]), serde_json::json!([]));
    // Also not after a restart of either.
    other.stop();
    other.start();
    assert_eq!(other.json(["instance", "list"]), serde_json::json!([]));
    fs::write(m.at("file"), "goes on").unwrap();
    let number = m.snapshot();
    m.assert_snapshot_is(number, &m.fingerprint());
}

#[test]
fn snapshots_are_refused_where_there_is_no_master() {
    needs_fuse!();
    let m = Master::new();
    m.snapshot();
    let slave = m.slave(1);
    slave
        .node
        .ctl(["snapshot", "create", &m.fs])
        .fails(10, &["no master"]);
}

// ---------------------------------------------------------------- damage in the bucket

/// A file system with files whose contents are known, in one snapshot.
fn published() -> (Master, BTreeMap<PathBuf, Vec<u8>>) {
    let m = Master::with_directory_bucket();
    let mut wanted = BTreeMap::new();
    for n in 0..40_u64 {
        let name = PathBuf::from(format!("small-{n}"));
        wanted.insert(name, noise(n, 9_000));
    }
    for n in 0..3 {
        wanted.insert(
            PathBuf::from(format!("z-large-{n}")),
            noise(100 + n, 2_500_000),
        );
    }
    for (name, bytes) in &wanted {
        fs::write(m.at(name), bytes).unwrap();
    }
    m.snapshot();
    (m, wanted)
}

/// The snapshot's object of that name, and its key.
fn object(m: &Master, name: &str) -> (PathBuf, String) {
    let fs_dir = m.bucket.dir().join(&m.fs);
    let attempt = fs::read_dir(fs_dir.join("s"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    let key = format!("s/{}/{name}", attempt.file_name().to_str().unwrap());
    (fs_dir.join(&key), key)
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// Read everything on a fresh slave: whatever can be read is right, whatever cannot is EIO.
/// Answers how many files could not be read.
fn check_damaged(m: &Master, wanted: &BTreeMap<PathBuf, Vec<u8>>) -> (usize, Slave) {
    let slave = m.slave(1);
    // Names and attributes are not in tarballs.
    let found = tree_of_names(&slave.mnt);
    assert_eq!(found, tree_of_names(&m.mnt));
    let mut lost = 0;
    for (name, bytes) in wanted {
        match fs::read(slave.mnt.join(name)) {
            Ok(found) => assert!(found == *bytes, "{} has wrong bytes", name.display()),
            Err(e) => {
                assert_eq!(e.raw_os_error(), Some(Errno::IO.raw_os_error()), "{e}");
                lost += 1;
            }
        }
    }
    (lost, slave)
}

fn tree_of_names(dir: &Path) -> BTreeMap<PathBuf, u64> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap());
    entries
        .map(|e| (e.file_name().into(), e.metadata().unwrap().len()))
        .collect()
}

#[test]
fn a_flipped_byte_in_a_tarball_costs_what_it_held_and_nothing_else() {
    needs_fuse!();
    let (m, wanted) = published();
    let (tarball, key) = object(&m, "0001.tar.zst");
    let size = fs::metadata(&tarball).unwrap().len() as usize;
    for at in [10, size / 3, size / 2, size * 4 / 5] {
        flip(&tarball, at);
        let (lost, slave) = check_damaged(&m, &wanted);
        assert!(lost > 0, "the damage at {at} of {size} was not noticed");
        assert!(lost <= 30, "the damage at {at} of {size} cost {lost} files");
        assert!(
            slave.node.log().contains(&key),
            "the log does not name {key}:\n{}",
            slave.node.log()
        );
        flip(&tarball, at);
    }
    assert_eq!(check_damaged(&m, &wanted).0, 0);
}

#[test]
fn a_tarball_cut_short_or_gone_costs_what_it_held_and_comes_back_without_a_remount() {
    needs_fuse!();
    let (m, wanted) = published();
    let (tarball, key) = object(&m, "0001.tar.zst");
    let whole = fs::read(&tarball).unwrap();
    fs::write(&tarball, &whole[..whole.len() / 2]).unwrap();
    let (lost, slave) = check_damaged(&m, &wanted);
    assert!(lost > 0 && lost < wanted.len(), "{lost} files");
    assert!(
        slave.node.log().contains(&key),
        "the log does not name {key}"
    );
    fs::remove_file(&tarball).unwrap();
    let (lost, slave_2) = check_damaged(&m, &wanted);
    assert_eq!(lost, wanted.len());
    assert!(
        slave_2.node.log().contains(&key),
        "the log does not name {key}"
    );
    // Put back, everything can be read on the mounts that are there.
    fs::write(&tarball, &whole).unwrap();
    for slave in [slave, slave_2] {
        for (name, bytes) in &wanted {
            assert!(fs::read(slave.mnt.join(name)).unwrap() == *bytes);
        }
    }
}

#[test]
fn a_damaged_layer_or_manifest_is_not_mounted() {
    needs_fuse!();
    let (m, wanted) = published();
    let node = m.stage.node("b");
    node.start();
    let mnt = m.stage.dir("other");
    let mount = || {
        let snapshot = format!("{}@1", m.fs);
        node.ctl([
            "mount",
            &snapshot,
            &text(&mnt),
            "--slave",
            "--bucket",
            m.bucket.url(),
        ])
    };
    let (layer, key) = object(&m, "layer.sqlite.zst");
    let whole = fs::read(&layer).unwrap();
    for at in [0, whole.len() / 2, whole.len() - 1] {
        flip(&layer, at);
        mount().fails(14, &[&key]);
        flip(&layer, at);
    }
    fs::write(&layer, &whole[..whole.len() - 10]).unwrap();
    mount().fails(14, &[&key]);
    fs::remove_file(&layer).unwrap();
    let gone = mount();
    assert!(matches!(gone.code, Some(10 | 14)), "{gone:?}");
    assert!(gone.stderr.contains(&key), "{gone:?}");
    fs::write(&layer, &whole).unwrap();

    let manifest = m.bucket.dir().join(&m.fs).join("m/0000000001-e1.json");
    let good = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, &good[..good.len() / 2]).unwrap();
    mount().fails(14, &["m/0000000001-e1.json"]);
    fs::write(&manifest, "").unwrap();
    mount().fails(14, &["m/0000000001-e1.json"]);
    fs::write(&manifest, &good).unwrap();
    mount().ok();
    for (name, bytes) in &wanted {
        assert!(fs::read(mnt.join(name)).unwrap() == *bytes);
    }
}

#[test]
fn a_damaged_table_of_contents_costs_the_data_and_not_the_names() {
    needs_fuse!();
    let (m, wanted) = published();
    let (toc, key) = object(&m, "toc.sqlite.zst");
    let size = fs::metadata(&toc).unwrap().len() as usize;
    flip(&toc, size / 2);
    let (lost, slave) = check_damaged(&m, &wanted);
    assert_eq!(lost, wanted.len());
    assert!(
        slave.node.log().contains(&key),
        "the log does not name {key}"
    );
}

#[test]
fn a_newer_format_is_refused_by_name() {
    needs_fuse!();
    let (m, _) = published();
    let node = m.stage.node("b");
    node.start();
    let mnt = m.stage.dir("other");
    let mount = || {
        let snapshot = format!("{}@1", m.fs);
        node.ctl([
            "mount",
            &snapshot,
            &text(&mnt),
            "--slave",
            "--bucket",
            m.bucket.url(),
        ])
    };
    let edit = |path: &Path, change: &dyn Fn(&mut serde_json::Value)| {
        let good = fs::read(path).unwrap();
        let mut value: serde_json::Value = serde_json::from_slice(&good).unwrap();
        change(&mut value);
        fs::write(path, serde_json::to_vec(&value).unwrap()).unwrap();
        good
    };
    let manifest = m.bucket.dir().join(&m.fs).join("m/0000000001-e1.json");
    let good = edit(&manifest, &|v| v["format"] = 99.into());
    mount().fails(13, &["m/0000000001-e1.json", "99"]);
    fs::write(&manifest, &good).unwrap();
    edit(&manifest, &|v| {
        v["features"] = serde_json::json!({"incompat": ["time-travel"]})
    });
    mount().fails(13, &["m/0000000001-e1.json", "time-travel"]);
    m.node
        .ctl(["snapshot", "show", &format!("{}@1", m.fs)])
        .fails(13, &["time-travel"]);
    fs::write(&manifest, &good).unwrap();

    let config = m.bucket.dir().join(format!("{}.config", m.fs));
    let good = edit(&config, &|v| v["format"] = 99.into());
    mount().fails(13, &["99"]);
    m.node
        .ctl(["fs", "show", &m.fs, "--bucket", m.bucket.url()])
        .fails(13, &["99"]);
    // The master goes on: it needs no config from the bucket, not even after a restart.
    fs::write(m.at("new"), "goes on").unwrap();
    m.node.kill9();
    m.node.start();
    assert_eq!(fs::read_to_string(m.at("new")).unwrap(), "goes on");
    fs::write(&config, &good).unwrap();
    mount().ok();
}

// ---------------------------------------------------------------- damage on the node

/// The newest segment of the journal.
fn newest_segment(m: &Master) -> PathBuf {
    let entries = fs::read_dir(m.instance_dir().join("journal")).unwrap();
    let mut all: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    all.sort();
    all.retain(|p| fs::metadata(p).unwrap().len() > 100);
    all.pop().unwrap()
}

#[test]
fn a_journal_damaged_before_its_durable_end_is_refused_by_name_and_harms_no_other_instance() {
    needs_fuse!();
    let m = Master::new();
    let other = m
        .node
        .ctl(["fs", "create", "other", "--bucket", m.bucket.url()])
        .ok();
    let other_mnt = m.stage.dir("other");
    m.node.mount(other.trim(), &m.bucket, &other_mnt);
    fs::write(other_mnt.join("file"), "not harmed").unwrap();
    tree::small_files(&m.dir("files"), 50);
    // Unmounting makes everything durable, and says so in the journal.
    m.remount();
    fs::write(m.at("later"), "after the mark").unwrap();
    m.node.kill9();
    let segment = newest_segment(&m);
    let whole = fs::read(&segment).unwrap();
    flip(&segment, 200);
    m.node.start();
    let name = text(segment.file_name().map(Path::new).unwrap());
    assert!(
        m.node.log().contains(&name),
        "the log does not name {name}:\n{}",
        m.node.log()
    );
    assert_eq!(
        fs::read_to_string(other_mnt.join("file")).unwrap(),
        "not harmed"
    );
    let mount = || {
        m.node
            .ctl(["mount", &m.fs, &text(&m.mnt), "--bucket", m.bucket.url()])
    };
    mount().fails(14, &[&name, "damaged at byte"]);
    mount().fails(14, &[&name]);
    // Nothing was touched: with the file restored all of it is back.
    m.node.kill9();
    fs::write(&segment, &whole).unwrap();
    m.node.start();
    let text = fs::read_to_string(m.at("later")).unwrap_or_else(|_| {
        mount().ok();
        fs::read_to_string(m.at("later")).unwrap()
    });
    assert_eq!(text, "after the mark");
}

#[test]
fn a_torn_tail_of_the_journal_costs_the_torn_operation_only() {
    needs_fuse!();
    let m = Master::new();
    tree::small_files(&m.dir("files"), 200);
    let before = Fingerprint::take(&m.at("files"), Exactness::Copy);
    fs::create_dir(m.at("torn")).unwrap();
    m.node.kill9();
    let segment = newest_segment(&m);
    let bytes = fs::read(&segment).unwrap();
    fs::write(&segment, &bytes[..bytes.len() - 3]).unwrap();
    m.node.start();
    let after = Fingerprint::take(&m.at("files"), Exactness::Copy);
    cbfs_tests::assert_same("after a torn tail", &before, &after);
    fs::create_dir_all(m.at("torn")).unwrap();
    m.node.kill9();
    m.node.start();
    assert!(m.at("torn").is_dir());
}

#[test]
fn a_state_directory_that_is_no_directory_is_told() {
    let stage = Stage::new();
    let node = stage.node("a");
    fs::write(node.state_dir(), "a file").unwrap();
    let ended = node.try_start().unwrap_err();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
    assert!(ended.log.contains("state directory"), "{}", ended.log);
    let ran = node.ctl([
        "mount",
        "home",
        &text(&stage.dir("mnt")),
        "--bucket",
        "file:///nowhere",
    ]);
    ran.fails(1, &["state directory", "CBFS_STATE_DIR"]);
    assert_eq!(fs::read_to_string(node.state_dir()).unwrap(), "a file");
}

#[test]
fn an_io_error_has_an_errno_and_no_panic_in_the_log() {
    needs_fuse!();
    let (m, _) = published();
    let slave = m.slave(1);
    // At once: the daemon may be writing into it.
    fs::rename(m.bucket.dir(), m.bucket.dir().with_extension("gone")).unwrap();
    let error: io::Error = fs::read(slave.mnt.join("z-large-0")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()));
    assert!(
        !slave.node.log().contains("panicked"),
        "{}",
        slave.node.log()
    );
    // The master does not need it.
    fs::write(m.at("new"), noise(1, 100_000)).unwrap();
    assert!(fs::read(m.at("new")).unwrap() == noise(1, 100_000));
}
