//! A bucket in a real S3 store keeps the same promises as one in a directory, and a store that
//! dies and comes back costs patience only.
//!
//! What needs a server is ignored unless asked for: `tests/s3/run` installs SeaweedFS and asks.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too
#![allow(clippy::expect_used)]

mod careless;
mod cluster;
mod contract;
mod faults;
mod keys;
mod requests;
mod scene;
mod secrets;
mod server;
mod tls;
mod uploads;
mod warming;

use cbfs_core::bucket::{Bucket, BucketError, FileBucket, Key, S3Bucket};
use cbfs_core::bucket::{MachinePace, Patience, Retrying};
use cbfs_tests::{Exactness, Fingerprint, Node, Ran, Stage, assert_same, needs_fuse, tree};
use server::{READER, Server};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a test waits for what a daemon does.
const PATIENCE: Duration = Duration::from_secs(120);

// ---------------------------------------------------------------- the trait

fn directory_opener(root: &Path) -> impl Fn(&str) -> Box<dyn Bucket> {
    let root = root.to_owned();
    move |folder| {
        let dir = root.join(folder);
        fs::create_dir_all(&dir).unwrap();
        Box::new(FileBucket::open(&dir, false).unwrap())
    }
}

fn s3_opener(server: &Server) -> impl Fn(&str) -> Box<dyn Bucket> {
    |folder| {
        let url = server.url(folder).parse().unwrap();
        Box::new(S3Bucket::open(&url, false).unwrap())
    }
}

#[test]
fn a_bucket_in_a_directory_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    contract::check(&directory_opener(dir.path()));
}

#[test]
fn a_bucket_in_a_directory_holds_many_and_large_objects() {
    let dir = tempfile::tempdir().unwrap();
    contract::check_many_objects(&directory_opener(dir.path()), 50);
    contract::check_a_large_object(&directory_opener(dir.path()), 33_000_001);
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_bucket_in_a_store_keeps_the_contract() {
    let server = Server::start();
    contract::check(&s3_opener(&server));
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_bucket_in_a_store_with_retries_has_one_creator_per_object() {
    let server = Server::start();
    contract::check_creation(&|folder| {
        let url = server.url(folder).parse().unwrap();
        let bucket = Arc::new(S3Bucket::open(&url, false).unwrap());
        let pace = Arc::new(MachinePace::default());
        Box::new(Retrying::new(bucket, Patience::SERVICE, pace))
    });
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_bucket_in_a_store_holds_many_and_large_objects() {
    let server = Server::start();
    // More than a page of a listing; more than one PUT.
    contract::check_many_objects(&s3_opener(&server), 1_100);
    contract::check_a_large_object(&s3_opener(&server), 100_000_001);
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn an_absent_bucket_does_not_look_like_an_empty_one() {
    let server = Server::start();
    let url = server
        .url("")
        .replace("s3://cbfs-tests", "s3://no-such-bucket")
        .parse()
        .unwrap();
    let bucket = S3Bucket::open(&url, true).unwrap();
    let key = Key::new("a").unwrap();
    let unreachable = |e: Option<BucketError>| {
        assert!(matches!(e, Some(BucketError::Unreachable { .. })), "{e:?}");
    };
    unreachable(bucket.get(&key).err());
    unreachable(bucket.get_range(&key, 0, 1).err());
    unreachable(bucket.head(&key).err());
    unreachable(bucket.list("").err());
    unreachable(bucket.list_dir("").err());
}

// ---------------------------------------------------------------- the whole

/// Mount a file system of its own, as master; answers its handle.
fn create_and_mount(node: &Node, url: &str, mnt: &Path) -> String {
    node.start();
    let fs = node
        .ctl(["fs", "create", "home", "--bucket", url])
        .ok()
        .trim_end()
        .to_owned();
    node.ctl(["mount", &fs, mnt.to_str().unwrap(), "--bucket", url])
        .ok();
    fs
}

/// `cbfsctl` on a node, with these credentials instead of ours.
fn ctl_as(node: &Node, (key, secret): (&str, &str), args: &[&str]) -> Ran {
    let mut command = node.command();
    command
        .env("AWS_ACCESS_KEY_ID", key)
        .env("AWS_SECRET_ACCESS_KEY", secret)
        .args(args);
    Ran::of(&mut command)
}

/// Wait until `is_so`.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(
            started.elapsed() < PATIENCE,
            "it did not come about: {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn the_demo_runs_with_a_bucket_in_a_store() {
    needs_fuse!();
    let server = Server::start();
    let stage = Stage::new();
    let tree = stage.path("tree");
    tree::build(&tree);
    let mut command = Command::new(cbfs_tests::cbfsctl());
    command.args(["demo", "--bucket", &server.url("demo")]);
    command
        .arg("--tree")
        .arg(&tree)
        .arg("--dir")
        .arg(stage.path("d"));
    let said = Ran::of(&mut command).ok();
    assert!(said.contains("all of it exact"), "{said}");
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_wrong_secret_is_exit_code_12_at_once_and_is_not_repeated() {
    let server = Server::start();
    let stage = Stage::new();
    let node = stage.node("a");
    let url = server.url("wrong");
    let key = std::env::var("AWS_ACCESS_KEY_ID").unwrap();
    let wrong = (key.as_str(), "not-the-secret");
    for args in [
        ["fs", "create", "home", "--bucket", &url],
        ["fs", "show", "home", "--bucket", &url],
    ] {
        let said = ctl_as(&node, wrong, &args).fails(12, &["refused"]);
        assert!(
            !said.contains("not-the-secret") && !said.contains(&key),
            "{said}"
        );
    }
    let said = ctl_as(
        &node,
        ("AKIDNOBODY", "x"),
        &["fs", "list", "--bucket", &url],
    );
    said.fails(12, &["does not know the access key"]);
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn an_absent_store_or_bucket_is_exit_code_5() {
    let mut server = Server::start();
    let stage = Stage::new();
    let node = stage.node("a");
    let absent = server
        .url("")
        .replace("s3://cbfs-tests", "s3://no-such-bucket");
    node.ctl(["fs", "list", "--bucket", &absent])
        .fails(5, &["no such bucket"]);
    server.kill9();
    node.ctl(["fs", "list", "--bucket", &server.url("")])
        .fails(5, &["refused"]);
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_slave_needs_to_read_only_and_a_master_is_refused_then() {
    needs_fuse!();
    let server = Server::start();
    let stage = Stage::new();
    let (node, mnt, url) = (stage.node("a"), stage.dir("mnt"), server.url("ro"));
    let fs = create_and_mount(&node, &url, &mnt);
    tree::build(&mnt.join("tree"));
    node.ctl(["snapshot", "create", &fs, "--wait", "--timeout", "120"])
        .ok();
    let wanted = Fingerprint::take(&mnt, Exactness::Snapshot);

    let (reader, there) = (stage.node("reader"), stage.dir("there"));
    let there_text = there.to_str().unwrap();
    let snapshot = format!("{fs}@1");
    ctl_as(
        &reader,
        READER,
        &["mount", &snapshot, there_text, "--slave", "--bucket", &url],
    )
    .ok();
    let found = Fingerprint::take(&there, Exactness::Snapshot);
    assert_same("read with a key that may read only", &wanted, &found);
    ctl_as(&reader, READER, &["fs", "create", "mine", "--bucket", &url]).fails(12, &["refused"]);
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn while_the_store_is_down_the_mount_works_and_the_snapshot_completes_when_it_is_back() {
    needs_fuse!();
    let mut server = Server::start();
    let stage = Stage::new();
    let (node, mnt, url) = (stage.node("a"), stage.dir("mnt"), server.url("outage"));
    let fs = create_and_mount(&node, &url, &mnt);
    tree::build(&mnt.join("tree"));
    // Several tarballs, so that there is something on its way when the first has arrived.
    for n in 0..5 {
        fs::write(
            mnt.join(format!("large-{n}")),
            contract::noise(20_000_000 + n),
        )
        .unwrap();
    }
    let wanted = Fingerprint::take(&mnt, Exactness::Snapshot);
    let log = node
        .state_dir()
        .join("instances")
        .join(&fs)
        .join("status/0000000001.jsonl");
    let log = || fs::read_to_string(&log).unwrap_or_default();
    node.ctl(["snapshot", "create", &fs]).ok();
    wait_until("the first object arrives", || log().contains("object_sent"));
    server.kill9();
    wait_until("the uploader notices", || log().contains("\"retry\""));
    let status = || node.ctl(["status"]).stdout;
    wait_until("status says what is wrong", || {
        status().contains("the bucket does not take objects")
    });
    assert!(status().contains("trying again"), "{}", status());

    fs::write(mnt.join("written-while-down"), b"hello").unwrap();
    fs::remove_file(mnt.join("large-0")).unwrap();
    assert_eq!(fs::read(mnt.join("written-while-down")).unwrap(), b"hello");
    assert!(fs::read(mnt.join("large-1")).unwrap() == contract::noise(20_000_001));
    assert!(!log().contains("\"complete\""), "{}", log());

    server.restart();
    let snapshot = format!("{fs}@1");
    node.ctl(["snapshot", "watch", &snapshot, "--timeout", "120"])
        .ok();

    let (other, there) = (stage.node("b"), stage.dir("there"));
    other.start();
    other
        .ctl([
            "mount",
            &snapshot,
            there.to_str().unwrap(),
            "--slave",
            "--bucket",
            &url,
        ])
        .ok();
    let found = Fingerprint::take(&there, Exactness::Snapshot);
    assert_same("a snapshot whose upload was interrupted", &wanted, &found);
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_probe_tells_what_the_store_is_good_for_and_leaves_nothing() {
    let server = Server::start();
    let stage = Stage::new();
    let node = stage.node("a");
    let url = server.url("probe");
    let report = node.json(["bucket", "probe", &url]);
    assert_eq!(report["good_for"], "masters_and_slaves", "{report:#}");
    for check in report["checks"].as_array().unwrap() {
        assert_eq!(check["verdict"], "good", "{report:#}");
    }
    let traffic = &report["traffic"];
    assert!(
        traffic["cost_last_hour"].as_f64().unwrap() > 0.0,
        "{traffic:#}"
    );
    assert!(
        traffic["wire"]["writes"].as_u64().unwrap() > 20,
        "{traffic:#}"
    );
    assert!(
        traffic["wire"]["bytes_out"].as_u64().unwrap() > 8 << 20,
        "{traffic:#}"
    );
    let left = S3Bucket::open(&url.parse().unwrap(), true)
        .unwrap()
        .list("");
    assert_eq!(left.unwrap(), []);
    let said = ctl_as(&node, READER, &["bucket", "probe", &url]).ok();
    assert!(said.contains("good for slaves only"), "{said}");
}
