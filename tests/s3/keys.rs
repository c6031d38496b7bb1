//! Keys that change while everything runs, keys that may read only, and a store that is gone for who reads.

use super::secrets::configured;
use super::server::{READER, Server};
use super::{contract, create_and_mount, ctl_as, wait_until};
use cbfs_core::bucket::{Bucket, S3Bucket};
use cbfs_tests::{Exactness, Fingerprint, Node, Stage, assert_same, needs_fuse, tree};
use rustix::io::Errno;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The section of `cbfsd.toml` with a key pair, and more lines.
fn section(url: &str, (id, secret): (&str, &str), more: &str) -> String {
    let (place, endpoint) = url.split_once("?endpoint=").unwrap();
    format!(
        "[bucket.\"{place}\"]\nendpoint = \"{endpoint}\"\nregion = \"us-east-1\"\naccess_key_id = \"{id}\"\n\
         secret_access_key = \"{secret}\"\n{more}"
    )
}

fn our_key() -> (String, String) {
    let variable = |name| std::env::var(name).unwrap();
    (
        variable("AWS_ACCESS_KEY_ID"),
        variable("AWS_SECRET_ACCESS_KEY"),
    )
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn after_a_secret_was_rotated_a_snapshot_waits_and_finishes_at_the_reload() {
    needs_fuse!();
    let mut server = Server::start();
    let stage = Stage::new();
    let url = server.url("rotated");
    let (id, old) = our_key();
    let node = configured(&stage, "a", &section(&url, (&id, &old), ""));
    let config = stage.path("a.toml");
    let mnt = stage.dir("mnt");
    let place = url.split_once('?').unwrap().0;
    let fs = create_and_mount(&node, place, &mnt);
    tree::build(&mnt.join("tree"));
    node.ctl(["snapshot", "create", &fs, "--wait", "--timeout", "120"])
        .ok();

    // In the store first: the old secret is good for nothing from now on.
    let new = "a-new-secret";
    server.rotate(new);
    fs::write(mnt.join("written"), "with the old secret").unwrap();
    let wanted = Fingerprint::take(&mnt, Exactness::Snapshot);
    node.ctl(["snapshot", "create", &fs]).ok();
    wait_until("status tells what is wrong", || {
        let said = node.json(["status"]).to_string();
        said.contains("the secret access key is wrong") && said.contains("refused")
    });
    ctl_as(&node, (&id, &old), &["fs", "list", "--bucket", &url]).fails(12, &["refused"]);
    // The mount works all the same.
    fs::write(mnt.join("written"), "meanwhile").unwrap();
    assert_eq!(fs::read(mnt.join("written")).unwrap(), b"meanwhile");

    fs::write(&config, section(&url, (&id, new), "")).unwrap();
    node.ctl(["daemon", "reload"]).ok();
    let snapshot = format!("{fs}@2");
    node.ctl(["snapshot", "watch", &snapshot, "--timeout", "120"])
        .ok();
    wait_until("all is well again", || {
        let status = node.json(["status"]).to_string();
        !status.contains("access key")
    });
    let (other, there) = (
        configured(&stage, "b", &section(&url, (&id, new), "")),
        stage.dir("there"),
    );
    other.start();
    let dir = there.to_str().unwrap();
    other
        .ctl(["mount", &snapshot, dir, "--slave", "--bucket", place])
        .ok();
    let found = Fingerprint::take(&there, Exactness::Snapshot);
    assert_same("what waited for the new secret", &wanted, &found);
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn keys_of_a_shared_profile_are_good_for_all_however_the_profile_is_named() {
    needs_fuse!();
    let server = Server::start();
    let stage = Stage::new();
    let url = server.url("profiles");
    let (id, secret) = our_key();
    let files = stage.path("aws-credentials");
    let profile = |name: &str, id: &str, secret: &str| {
        format!("[{name}]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n")
    };
    let text = profile("default", "AKIDNOBODY", "x")
        + &profile("team", &id, &secret)
        + &profile("reader", READER.0, READER.1);
    fs::write(&files, text).unwrap();
    let files = files.to_str().unwrap();
    let of_environment = |name: &str, profile: &str| {
        let node = configured(&stage, name, "");
        node.set("AWS_SHARED_CREDENTIALS_FILE", files);
        node.set("AWS_PROFILE", profile);
        node
    };

    // By the environment, all the way; the default profile is good for nothing.
    let (node, mnt) = (of_environment("a", "team"), stage.dir("mnt"));
    let fs = create_and_mount(&node, &url, &mnt);
    tree::build(&mnt.join("tree"));
    let create = ["snapshot", "create", &fs, "--wait", "--timeout", "120"];
    node.ctl(create).ok();
    let wanted = Fingerprint::take(&mnt, Exactness::Snapshot);
    let nobody = of_environment("nobody", "");
    let list = |url: &str| {
        [
            "fs".to_owned(),
            "list".into(),
            "--bucket".into(),
            url.into(),
        ]
    };
    nobody
        .ctl(list(&url))
        .fails(12, &["does not know the access key"]);
    of_environment("absent", "absent")
        .ctl(list(&url))
        .fails(12, &["absent"]);

    // By the URL, before the environment; and by the bucket's section.
    let named = format!("{url}&profile=team");
    assert!(nobody.ctl(list(&named)).ok().contains(&fs));
    let (place, endpoint) = url.split_once("?endpoint=").unwrap();
    let section = format!(
        "[bucket.\"{place}\"]\nendpoint = \"{endpoint}\"\nregion = \"us-east-1\"\n\
         profile = \"reader\"\ncredentials_file = \"{files}\"\n"
    );
    let (slave, there) = (configured(&stage, "b", &section), stage.dir("there"));
    slave.start();
    let (snapshot, dir) = (format!("{fs}@1"), there.to_str().unwrap());
    slave
        .ctl(["mount", &snapshot, dir, "--slave", "--bucket", place])
        .ok();
    let found = Fingerprint::take(&there, Exactness::Snapshot);
    assert_same("read with a profile's keys", &wanted, &found);
    slave
        .ctl(["fs", "create", "mine", "--bucket", place])
        .fails(12, &["refused"]);
}

/// A slave that follows, on a node of its own whose key may read only.
fn follower_that_may_only_read(stage: &Stage, url: &str, fs: &str) -> (Node, PathBuf) {
    let place = url.split_once('?').unwrap().0;
    let reader = configured(stage, "reader", &section(url, READER, ""));
    let there = stage.dir("there");
    let dir = there.to_str().unwrap();
    reader.start();
    let mount = ["mount", fs, dir, "--slave", "--bucket", place, "--follow"];
    reader
        .ctl(mount.into_iter().chain(["--poll-interval", "1s"]))
        .ok();
    (reader, there)
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_slave_that_follows_needs_to_read_only() {
    needs_fuse!();
    let server = Server::start();
    let stage = Stage::new();
    let (node, mnt, url) = (stage.node("a"), stage.dir("mnt"), server.url("follower"));
    let fs = create_and_mount(&node, &url, &mnt);
    tree::build(&mnt.join("tree"));
    let snapshot = || {
        node.ctl(["snapshot", "create", &fs, "--wait", "--timeout", "120"])
            .ok()
    };
    snapshot();
    let (reader, there) = follower_that_may_only_read(&stage, &url, &fs);
    for round in ["changed", "and again"] {
        fs::write(mnt.join("news"), round).unwrap();
        tree::build(&mnt.join(round));
        snapshot();
        wait_until("the follower shows it", || {
            fs::read(there.join("news")).is_ok_and(|news| news == round.as_bytes())
        });
        let wanted = Fingerprint::take(&mnt, Exactness::Snapshot);
        let found = Fingerprint::take(&there, Exactness::Snapshot);
        assert_same("followed with a key that may read only", &wanted, &found);
    }
    // That it may write no sign of life is no trouble.
    let status = reader.json(["status"]);
    assert_eq!(status["instances"][0]["health"], "ok", "{status:#}");
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_promotion_with_a_key_that_may_read_only_is_refused_and_changes_nothing() {
    needs_fuse!();
    let server = Server::start();
    let stage = Stage::new();
    let (node, mnt, url) = (stage.node("a"), stage.dir("mnt"), server.url("promoted"));
    let fs = create_and_mount(&node, &url, &mnt);
    fs::write(mnt.join("news"), "old").unwrap();
    let snapshot = || {
        node.ctl(["snapshot", "create", &fs, "--wait", "--timeout", "120"])
            .ok()
    };
    snapshot();
    let (reader, there) = follower_that_may_only_read(&stage, &url, &fs);
    // All but the signs of life, which the master goes on to write.
    let objects = || {
        let bucket = S3Bucket::open(&url.parse().unwrap(), true).unwrap();
        let mut all = bucket.list("").unwrap();
        all.retain(|object| !object.key.as_str().contains("/nodes/"));
        all
    };
    let before = objects();
    let place = url.split_once('?').unwrap().0;
    let promote = ["epoch", "promote", &fs, "--previous-epoch", "1"];
    let rest = ["--confirm", &fs, "--bucket", place];
    reader
        .ctl(promote.into_iter().chain(rest))
        .fails(12, &["refused"]);
    assert_eq!(objects(), before);
    let status = reader.json(["status"]);
    // Left out of it when there are none.
    assert!(status["promotions"].is_null(), "{status:#}");
    assert_eq!(status["instances"][0]["role"], "slave", "{status:#}");

    // The master is still the master, and the slave goes on.
    fs::write(mnt.join("news"), "new").unwrap();
    snapshot();
    wait_until("the follower shows it", || {
        fs::read(there.join("news")).is_ok_and(|news| news == b"new")
    });
    let status = reader.json(["status"]);
    assert_eq!(status["instances"][0]["health"], "ok", "{status:#}");
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_reader_of_a_dead_store_gets_eio_in_time_and_the_bytes_without_remount_when_it_is_back() {
    needs_fuse!();
    let mut server = Server::start();
    let stage = Stage::new();
    let (node, mnt, url) = (stage.node("a"), stage.dir("mnt"), server.url("dead"));
    let fs = create_and_mount(&node, &url, &mnt);
    fs::write(mnt.join("large"), contract::noise(3_000_000)).unwrap();
    fs::write(mnt.join("other"), contract::noise(1_000_000)).unwrap();
    node.ctl(["snapshot", "create", &fs, "--wait", "--timeout", "120"])
        .ok();
    let (id, secret) = our_key();
    let patience = Duration::from_secs(3);
    let more = format!("patience = {}\n", patience.as_secs());
    let slave = configured(&stage, "b", &section(&url, (&id, &secret), &more));
    let there = stage.dir("there");
    slave.start();
    let (place, snapshot) = (url.split_once('?').unwrap().0, format!("{fs}@1"));
    let dir = there.to_str().unwrap();
    slave
        .ctl(["mount", &snapshot, dir, "--slave", "--bucket", place])
        .ok();
    assert!(fs::read(there.join("large")).unwrap() == contract::noise(3_000_000));

    server.kill9();
    // What is here already needs nobody.
    assert!(fs::read(there.join("large")).unwrap() == contract::noise(3_000_000));
    let begun = Instant::now();
    let refused = fs::read(there.join("other")).unwrap_err();
    let took = begun.elapsed();
    assert_eq!(refused.raw_os_error(), Some(Errno::IO.raw_os_error()));
    // No try begins later than its patience, and a refused connection takes no time; but machines are busy.
    assert!(took < 10 * patience, "{took:?}");
    server.restart();
    assert!(fs::read(there.join("other")).unwrap() == contract::noise(1_000_000));
}
