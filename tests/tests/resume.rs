//! A snapshot that was interrupted goes on where it stood: finished tarballs are kept, what arrived in the
//! bucket is not sent again. The status log tells each object once when it is made and once when it is
//! sent, and objects in the bucket stay the files they were.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too

use cbfs_tests::contents::noise;
use cbfs_tests::{Master, needs_fuse};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

const MIB: u64 = 1 << 20;
const FILES: u64 = 20;

/// The keys of the objects that the log tells of with this event, in order.
fn keys(lines: &[Value], event: &str) -> Vec<String> {
    let found = lines.iter().filter(|line| line["event"] == event);
    found
        .map(|line| line["key"].as_str().unwrap().to_owned())
        .collect()
}

/// The attempts at the cut. (One before it only notes the boot.)
fn attempts(lines: &[Value]) -> Vec<&Value> {
    let cut = lines.iter().skip_while(|l| l["event"] != "cut");
    cut.filter(|l| l["event"] == "attempt").collect()
}

/// One attempt, taken up at least once, with each object made and sent once.
fn assert_nothing_was_done_twice(what: &str, lines: &[Value]) {
    let attempts = attempts(lines);
    let ids: BTreeSet<&str> = attempts
        .iter()
        .map(|a| a["attempt"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), 1, "{what}: {attempts:?}");
    assert!(attempts.len() > 1, "{what}: it was not interrupted");
    assert!(attempts.last().unwrap()["kept"].as_u64().unwrap() > 0);
    for event in ["object_made", "object_sent"] {
        let all = keys(lines, event);
        let once: BTreeSet<&String> = all.iter().collect();
        assert_eq!(all.len(), once.len(), "{what}: {event} twice: {all:?}");
        assert!(all.len() >= 5, "{what}: {all:?}");
    }
    assert_eq!(
        keys(lines, "object_made").len(),
        keys(lines, "object_sent").len(),
        "{what}"
    );
}

/// Inode number and time of change of the objects of all attempts.
fn objects(m: &Master) -> BTreeMap<PathBuf, (u64, i64, i64)> {
    let mut found = BTreeMap::new();
    let attempts = m.bucket.dir().join(&m.fs).join("s");
    let Ok(attempts) = fs::read_dir(attempts) else {
        return found;
    };
    for attempt in attempts {
        for object in fs::read_dir(attempt.unwrap().path()).unwrap() {
            let path = object.unwrap().path();
            let meta = fs::metadata(&path).unwrap();
            found.insert(path, (meta.ino(), meta.mtime(), meta.mtime_nsec()));
        }
    }
    found
}

#[test]
fn a_killed_daemon_keeps_finished_tarballs_and_sends_nothing_twice() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    m.node.stop();
    m.node.set("CBFS_PROXY_LIMIT", "8M"); // tarballs of 2 MiB
    m.node.start();
    for number in 0..FILES {
        let dir = m.at(format!("d{}", number % 3));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(number.to_string()), noise(number, MIB as usize)).unwrap();
    }
    let wanted = m.fingerprint();
    let number = m.snapshot_until("writing");
    while keys(&m.status_lines(number), "object_sent").len() < 2 {
        std::thread::yield_now();
    }
    m.node.kill9();
    let before = m.status_lines(number);
    let sent = keys(&before, "object_sent");
    assert!(sent.len() < FILES as usize / 2, "it was nearly done");
    let arrived = objects(&m);
    assert!(arrived.len() >= sent.len());

    // And once more, as soon as one more object has arrived.
    m.node.start();
    while keys(&m.status_lines(number), "object_sent").len() <= sent.len() {
        std::thread::yield_now();
    }
    m.node.kill9();
    m.node.start();
    m.wait_for(number);
    assert_nothing_was_done_twice("kill -9", &m.status_lines(number));
    let now = objects(&m);
    for (object, identity) in &arrived {
        assert_eq!(now.get(object), Some(identity), "{}", object.display());
    }
    m.assert_snapshot_is(number, &wanted);
    m.node
        .ctl([
            "snapshot",
            "verify",
            "--deep",
            &format!("{}@{number}", m.fs),
            "--bucket",
            m.bucket.url(),
        ])
        .ok();
}

#[test]
fn an_interrupted_snapshot_goes_on_from_every_state_unless_its_record_is_damaged() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    let change = |round: u64| {
        for file in 0..4 {
            let name = m.at(format!("file-{file}"));
            fs::write(name, noise(round * 10 + file, 90_000)).unwrap();
        }
    };
    #[cfg(debug_assertions)] // a release daemon has no failpoints
    for (round, failpoint) in [
        "snapshot.object-made:3",
        "snapshot.object-arrived:2",
        "snapshot.written",
        "snapshot.all-sent",
        "snapshot.before-manifest",
    ]
    .into_iter()
    .enumerate()
    {
        change(round as u64);
        m.node.stop();
        assert!(m.node.try_start_armed(failpoint).is_ok());
        drop(m.node.ctl(["snapshot", "create", &m.fs]));
        m.node.must_end(failpoint);
        let arrived = objects(&m);
        m.node.start();
        let number = round as u64 + 1;
        m.wait_for(number);
        assert_nothing_was_done_twice(failpoint, &m.status_lines(number));
        let now = objects(&m);
        for (object, identity) in &arrived {
            assert_eq!(now.get(object), Some(identity), "{}", object.display());
        }
        // That each is exact is checked where the crash harness ends at the same places.
    }

    // A stop in good order, while nothing can be sent.
    let (bucket, away) = (m.stage.path("bucket"), m.stage.path("bucket-away"));
    change(100);
    let wanted = m.fingerprint();
    fs::rename(&bucket, &away).unwrap();
    let number = m.snapshot_until("written");
    m.node.stop();
    fs::rename(&away, &bucket).unwrap();
    m.node.start();
    m.wait_for(number);
    assert_nothing_was_done_twice("a stop", &m.status_lines(number));
    m.assert_snapshot_is(number, &wanted);

    // The record of what was made is damaged: a new attempt, and the log says why.
    change(200);
    let wanted = m.fingerprint();
    fs::rename(&bucket, &away).unwrap();
    let number = m.snapshot_until("written");
    m.node.kill9();
    let lines = m.status_lines(number);
    let prefix = keys(&lines, "object_made").remove(0);
    let folder = m.instance_dir().join("proxy").join(prefix);
    let record = folder.parent().unwrap().join("made.jsonl");
    let mut bytes = fs::read(&record).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&record, bytes).unwrap();
    fs::rename(&away, &bucket).unwrap();
    m.node.start();
    m.wait_for(number);
    let lines = m.status_lines(number);
    let attempts = attempts(&lines);
    assert_ne!(
        attempts[0]["attempt"],
        attempts.last().unwrap()["attempt"],
        "{attempts:?}"
    );
    let because = attempts.last().unwrap()["anew_because"].as_str().unwrap();
    assert!(because.contains("made.jsonl"), "{because}");
    m.assert_snapshot_is(number, &wanted);
    let left = fs::read_dir(m.instance_dir().join("proxy"))
        .unwrap()
        .count();
    assert_eq!(left, 0, "the proxy cache was not emptied");
}
