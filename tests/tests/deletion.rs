//! Deleting a whole file system, and taking that back, with real nodes.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too

use cbfs_tests::{Master, Ran, Stage, needs_fuse, wait_until};
use serde_json::Value;
use std::fs;

/// The exit code of what is refused for how things stand.
const CONFLICT: i32 = 11;

fn delete(m: &Master, more: &[&str]) -> Ran {
    let words = ["fs", "delete", "home", "--confirm", &m.fs, "--bucket"];
    let words = words.into_iter().chain([m.bucket.url()]);
    // By somebody elsewhere, without a daemon.
    let outsider = m.stage.node("outsider");
    outsider.ctl(words.chain(more.iter().copied()))
}

fn instance(m: &Master) -> Value {
    m.node.json(["instance", "show", &m.fs])
}

#[test]
fn a_deleted_file_system_is_not_published_mounted_followed_or_promoted_until_it_is_taken_back() {
    needs_fuse!();
    let m = Master::with_environment(&[("CBFS_EPOCH_CHECK", "0.2".to_owned())]);
    fs::write(m.at("file"), "first").unwrap();
    m.snapshot();
    let other = m.stage.node("other");
    let (then, now) = (m.stage.dir("then"), m.stage.dir("now"));
    let b = ["--bucket", m.bucket.url()];
    let mount = |snapshot: &str, dir: &str, more: &[&str]| {
        let words = ["mount", snapshot, dir, "--slave"];
        other.ctl(words.iter().chain(&b).chain(more))
    };
    let now_dir = now.to_str().unwrap();
    mount("home", now_dir, &["--follow", "--poll-interval", "1h"]).ok();

    // Its master lives, and says so in the bucket (also where it is mounted, once it has looked again).
    let bucket = cbfs_core::bucket::open(&m.bucket.url().parse().unwrap(), true).unwrap();
    let says_where = || {
        let signs = bucket.list(&format!("{}/nodes/", m.fs)).unwrap();
        let texts = signs.iter().filter_map(|sign| bucket.get(&sign.key).ok());
        texts
            .into_iter()
            .any(|text| String::from_utf8_lossy(&text).contains(m.mnt.to_str().unwrap()))
    };
    wait_until("the master gives a sign", says_where);
    let refused = delete(&m, &[]).fails(CONFLICT, &["is in use", "--even-if-in-use"]);
    assert!(refused.contains(m.mnt.to_str().unwrap()), "{refused}");
    let told = delete(&m, &["--even-if-in-use", "--reason", "moved"]);
    assert_eq!(told.code, Some(0), "{told:?}");
    assert!(told.stderr.contains("THE MASTER IS IN USE"), "{told:?}");

    // The master finds it out by itself; its mount goes on.
    wait_until("the master is degraded", || {
        let i = instance(&m);
        i["problems"].to_string().contains("fs undelete")
    });
    fs::write(m.at("file"), "second").unwrap();
    m.node
        .ctl(["snapshot", "create", "home"])
        .fails(CONFLICT, &["is deleted since", "moved", "fs undelete"]);
    other
        .ctl(["slave", "refresh", now_dir])
        .fails(CONFLICT, &["is deleted since"]);
    assert_eq!(fs::read_to_string(now.join("file")).unwrap(), "first");
    let then_dir = then.to_str().unwrap();
    mount("home@1", then_dir, &[]).fails(CONFLICT, &["fs undelete"]);
    mount("home@1", then_dir, &["--dry-run"]).fails(CONFLICT, &["fs undelete"]);
    let promote = ["epoch", "promote", "home", "--previous-epoch", "1", "--yes"];
    other
        .ctl(promote.iter().chain(&b))
        .fails(CONFLICT, &["fs undelete"]);
    other
        .ctl(["snapshot", "hold", "home@1"].iter().chain(&b))
        .fails(CONFLICT, &["fs undelete"]);
    m.node.ctl(["umount", "home"]).ok();
    let mnt = m.mnt.to_str().unwrap();
    m.node
        .ctl(["mount", "home", mnt])
        .fails(CONFLICT, &["fs undelete"]);
    delete(&m, &[]).fails(CONFLICT, &["is deleted since"]);

    // It is a record that can be read, and its tag is free.
    let listed = |more: &[&str]| -> Vec<String> {
        let words = ["fs", "list"].iter().chain(&b).chain(more);
        let all = other.json(words);
        let all = all.as_array().unwrap().iter();
        all.map(|f| f["fs"].as_str().unwrap().to_owned()).collect()
    };
    assert!(listed(&[]).is_empty());
    assert_eq!(listed(&["--deleted"]), std::slice::from_ref(&m.fs));
    other
        .ctl(["snapshot", "verify", "home@1"].iter().chain(&b))
        .ok();
    let second = other.ctl(["fs", "create", "home"].iter().chain(&b)).ok();
    assert_eq!(listed(&[]), [second.trim()]);
    assert_eq!(listed(&["--all"]).len(), 2);

    // Taken back: everything goes on.
    other.ctl(["fs", "undelete", "home"].iter().chain(&b)).ok();
    other
        .ctl(["fs", "undelete", &m.fs].iter().chain(&b))
        .fails(CONFLICT, &["is not deleted"]);
    wait_until("the master is well", || instance(&m)["health"] == "ok");
    m.node.ctl(["mount", &m.fs, mnt]).ok();
    assert_eq!(fs::read_to_string(m.at("file")).unwrap(), "second");
    m.snapshot();
    other.ctl(["slave", "refresh", now_dir]).ok();
    assert_eq!(fs::read_to_string(now.join("file")).unwrap(), "second");
}

#[test]
fn a_follower_at_rest_finds_out_by_itself_that_its_file_system_is_deleted() {
    needs_fuse!();
    let m = Master::new();
    fs::write(m.at("file"), "first").unwrap();
    m.snapshot();
    let (other, mnt) = (m.stage.node("other"), m.stage.dir("follower"));
    let dir = mnt.to_str().unwrap();
    let follow = ["--slave", "--follow", "--poll-interval", "1s"];
    let mount = ["mount", "home", dir, "--bucket", m.bucket.url()];
    other.ctl(mount.iter().chain(&follow)).ok();
    // From its first look on it asks for the next snapshot only, but for every sixth time.
    other.ctl(["slave", "refresh", dir]).ok();
    let says = |wanted: &str| {
        let mut instance = String::new();
        wait_until(wanted, || {
            instance = other.json(["status"])["instances"][0].to_string();
            instance.contains(wanted)
        });
        instance
    };
    let deleted = delete(&m, &["--even-if-in-use"]);
    assert_eq!(deleted.code, Some(0), "{deleted:?}");
    let instance = says("is deleted since");
    assert!(!instance.contains("\"health\":\"ok\""), "{instance}");
    let listed = other.json(["slave", "list", "home"]).to_string();
    assert!(listed.contains("is deleted since"), "{listed}");
    assert_eq!(fs::read_to_string(mnt.join("file")).unwrap(), "first");
    let undelete = ["fs", "undelete", "home", "--bucket", m.bucket.url()];
    other.ctl(undelete).ok();
    says("\"health\":\"ok\"");
}

#[test]
fn a_request_that_is_under_way_waits_while_its_file_system_is_deleted() {
    needs_fuse!();
    let m = Master::with_environment(&[("CBFS_EPOCH_CHECK", "0.2".to_owned())]);
    if !m.bucket.url().starts_with("file:") {
        return; // it takes the bucket away, which only a directory allows
    }
    fs::write(m.at("file"), vec![7; 300_000]).unwrap();
    let wanted = m.fingerprint();
    // A file where its objects belong: it cannot come to its end, and everything else in the bucket works.
    let objects = m.bucket.dir().join(&m.fs).join("s");
    fs::write(&objects, "in the way").unwrap();
    let asked = m.node.json(["snapshot", "create", "home"]);
    let number = asked["number"].as_u64().unwrap();
    let told = || {
        wait_until("the master tells it", || {
            let i = instance(&m);
            i["problems"].to_string().contains("fs undelete")
        });
    };
    let deleted = delete(&m, &["--even-if-in-use"]);
    assert_eq!(deleted.code, Some(0), "{deleted:?}");
    told();
    m.node.kill9();
    m.node.start();
    told();
    let looks = || {
        let status = m.node.json(["status"]);
        let all = status["buckets"][0]["requests"].as_array().unwrap();
        let gets = all.iter().find(|r| r["kind"] == "get").unwrap();
        gets["requests"].as_u64().unwrap()
    };
    let look_on = || {
        let before = looks();
        wait_until("the master looks", || looks() >= before + 12);
    };
    // A try that had begun before it heard of the deletion ends meanwhile.
    look_on();
    // Nothing but the deletion keeps it from its end now.
    fs::remove_file(&objects).unwrap();
    look_on();
    let snapshot = format!("home@{number}");
    let shown = m.node.json(["snapshot", "show", &snapshot]);
    assert_ne!(shown["state"], "complete", "{shown:#}");
    assert!(!objects.exists(), "objects were sent");
    let b = ["--bucket", m.bucket.url()];
    let stranger = m.stage.node("stranger");
    stranger
        .ctl(["fs", "undelete", "home"].iter().chain(&b))
        .ok();
    m.wait_for(number);
    m.assert_snapshot_is(number, &wanted);
}

#[test]
fn a_file_system_with_a_held_snapshot_or_an_unknown_one_is_not_deleted() {
    needs_fuse!();
    let m = Master::new();
    fs::write(m.at("file"), "first").unwrap();
    m.snapshot();
    m.node
        .ctl(["snapshot", "hold", "home@1", "--reason", "audit"])
        .ok();
    delete(&m, &["--even-if-in-use"]).fails(CONFLICT, &["audit", "snapshot release"]);
    m.node.ctl(["snapshot", "release", "home@1"]).ok();
    let delete_by = |words: &[&str]| m.node.ctl(["fs", "delete"].iter().chain(words));
    delete_by(&["home", "--even-if-in-use"]).fails(2, &["--confirm", &m.fs]);
    delete_by(&["nothing", "--confirm", "nothing"]).fails(10, &["nothing"]);
    let dry = delete_by(&["home", "--even-if-in-use", "--dry-run"]);
    assert_eq!(dry.code, Some(0), "{dry:?}");
    assert!(dry.stderr.contains("1 snapshot"), "{dry:?}");
    // Once its master is gone it needs no word more; the mark is there at once for whoever looks.
    m.node.ctl(["umount", "home"]).ok();
    delete_by(&["home", "--confirm", &m.fs]).fails(CONFLICT, &["not mounted"]);
    m.node.ctl(["instance", "delete", "home"]).ok();
    let b = ["--bucket", m.bucket.url()];
    let words = ["home", "--confirm", &m.fs];
    delete_by(&words.iter().chain(&b).copied().collect::<Vec<_>>()).ok();
}

#[test]
fn a_hold_that_raced_with_a_deletion_is_released_and_then_the_file_system_can_go() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    for text in ["first", "second"] {
        fs::write(m.at("file"), text).unwrap();
        m.snapshot();
    }
    let of_first = |verb: &str, more: &[&str]| {
        let words = ["snapshot", verb, "home@1"].into_iter();
        m.node.ctl(words.chain(more.iter().copied()))
    };
    of_first("delete", &["--confirm", &m.fs]).ok();
    // As if both had looked before the other one's mark stood.
    let mark = m
        .bucket
        .dir()
        .join(&m.fs)
        .join("deleted/0000000001-e1.json");
    let aside = m.stage.path("mark");
    fs::rename(&mark, &aside).unwrap();
    of_first("hold", &["--reason", "audit"]).ok();
    fs::rename(&aside, &mark).unwrap();
    of_first("hold", &[]).fails(10, &["deleted"]);
    delete(&m, &["--even-if-in-use"]).fails(CONFLICT, &["audit", "snapshot release"]);
    let dry = of_first("release", &["--dry-run"]);
    assert!(dry.stderr.contains("would release snapshot 1"), "{dry:?}");
    of_first("release", &[]).ok();
    of_first("release", &[]).fails(10, &["deleted"]);
    delete(&m, &["--even-if-in-use"]).ok();
}

#[test]
fn dry_runs_change_nothing() {
    needs_fuse!();
    let stage = Stage::new();
    let (node, bucket) = (stage.node("a"), stage.bucket());
    let b = ["--bucket", bucket.url()];
    let mnt = stage.dir("mnt");
    let dir = mnt.to_str().unwrap();
    let run = |line: &str, said: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let needs_bucket = matches!(words[0], "fs" | "mount");
        let b = if needs_bucket { &b[..] } else { &[] };
        let ran = node.ctl(words.iter().chain(["--dry-run"].iter()).chain(b));
        assert_eq!(ran.code, Some(0), "{line}: {ran:?}");
        assert!(ran.stderr.contains(said), "{line}: {ran:?}");
        assert_eq!(ran.stdout, "", "{line}");
    };
    // A directory's times tell that something was created in it, though it is gone again.
    let touched = || -> Option<Vec<_>> {
        let places = [bucket.dir().to_owned(), bucket.dir().join(".tmp")];
        let changed = places.map(|p| fs::metadata(p).ok().map(|m| m.modified().unwrap()));
        Some(changed.to_vec())
    };
    let touched = || bucket.is_directory().then(touched).flatten();
    let fresh = touched();
    run("fs create home", "would create");
    assert_eq!(touched(), fresh, "the bucket was written to");
    assert_eq!(
        node.json(["fs", "list"].iter().chain(&b)),
        Value::Array(Vec::new())
    );
    node.ctl(["fs", "create", "home"].iter().chain(&b)).ok();
    run(&format!("mount home {dir}"), "as its first master");
    assert!(!node.socket().exists(), "a daemon was started");
    node.ctl(["mount", "home", dir].iter().chain(&b)).ok();
    run("snapshot create home --name monday", "named \"monday\"");
    assert_eq!(
        node.json(["snapshot", "list", "home"]),
        Value::Array(Vec::new())
    );
    run("umount home", "would unmount");
    fs::write(mnt.join("file"), "still mounted").unwrap();
    node.ctl(["snapshot", "create", "home", "--wait"]).ok();
    // Another node is not its master, and its daemon knows that.
    let other = stage.node("b");
    let mount = ["mount", "home", dir, "--dry-run"];
    let said = other.ctl(mount.iter().chain(&b));
    assert!(said.stderr.contains("if this node is"), "{said:?}");
    other.start();
    let refused = other.ctl(mount.iter().chain(&b));
    refused.fails(CONFLICT, &["has a master", "epoch promote"]);
    // What is unmounted is what the dry run says: nothing where several mounts are meant, else the mounted one.
    let then = stage.dir("then");
    let slave = ["mount", "home@1", then.to_str().unwrap(), "--slave"];
    node.ctl(slave.iter().chain(&b)).ok();
    for more in [&["--dry-run"][..], &[]] {
        let words = ["umount", "home"];
        node.ctl(words.iter().chain(more))
            .fails(CONFLICT, &["several mounts"]);
        let words = ["umount", "home@2"];
        node.ctl(words.iter().chain(more)).fails(10, &["home@2"]);
    }
    run("umount home@1", "@1 from");
    node.ctl(["umount", dir]).ok();
    run("umount home", "@1 from");
    node.ctl(["mount", "home", dir]).ok();
    node.ctl(["umount", "home@1"]).ok();
    run("umount home", dir);
    let cancel = ["snapshot", "cancel", "home@1", "--dry-run"];
    node.ctl(cancel).fails(CONFLICT, &["nothing to cancel"]);
    let retry = ["snapshot", "retry", "home@1", "--dry-run"];
    node.ctl(retry).fails(CONFLICT, &["nothing to retry"]);
    // Signs of life would be written now and then.
    node.ctl(["snapshot", "create", "home", "--wait"]).ok(); // the latest is not deleted
    node.ctl(["daemon", "stop"]).ok();
    let in_bucket = |line: &str, said: &str| {
        let line = format!("{line} --dry-run");
        let ran = node.ctl(line.split(' ').chain(b));
        assert_eq!(ran.code, Some(0), "{line}: {ran:?}");
        assert!((ran.stderr + &ran.stdout).contains(said), "{line}");
    };
    let before = touched();
    in_bucket("snapshot hold home@1", "would hold");
    let release = ["snapshot", "release", "home@1"];
    let released = node.ctl(release.iter().chain(&["--dry-run"]).chain(&b));
    released.fails(CONFLICT, &["is not held"]);
    in_bucket("fs set home --every 1h", "1h");
    in_bucket("snapshot delete home@1", "would delete");
    in_bucket("fs delete home --even-if-in-use", "would delete");
    assert_eq!(touched(), before, "the bucket was written to");
    let there = |words: &[&str]| node.ctl(words.iter().chain(&b)).ok();
    there(&["snapshot", "hold", "home@1"]);
    let before = touched();
    in_bucket("snapshot release home@1", "would release");
    assert_eq!(touched(), before, "the bucket was written to");
    let shown = node.json(["snapshot", "show", "home@1"].iter().chain(&b));
    assert_eq!(shown["holds"].as_array().unwrap().len(), 1, "{shown:#}");
    there(&release);
    there(&[
        "fs",
        "delete",
        "home",
        "--even-if-in-use",
        "--confirm",
        shown["manifest"]["fs"].as_str().unwrap(),
    ]);
    let before = touched();
    in_bucket("fs undelete home", "would take back");
    assert_eq!(touched(), before, "the bucket was written to");
    there(&["fs", "undelete", "home"]);
    assert_eq!(
        node.json(["fs", "list"].iter().chain(&b))
            .as_array()
            .unwrap()
            .len(),
        1
    );
}
