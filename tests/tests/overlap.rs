//! A snapshot may be larger than the proxy cache: it is sent while it is made.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too

use cbfs_tests::contents::noise;
use cbfs_tests::{Master, Node, needs_fuse, wait_until};
use serde_json::Value;
use std::fs;

const MIB: u64 = 1 << 20;

/// A size in MiB, from the environment or as usual, in bytes.
fn size(variable: &str, usual: u64) -> u64 {
    let given = std::env::var(variable).ok();
    MIB * given.map_or(usual, |text| text.parse().unwrap())
}

/// What the daemon may have in its proxy cache.
fn limit() -> u64 {
    size("CBFS_TESTS_OVERLAP_LIMIT_MIB", 8)
}

/// What the snapshot holds, several times as much.
fn contents() -> u64 {
    size("CBFS_TESTS_OVERLAP_MIB", 40)
}

fn small_cache() -> Master {
    small_cache_of(Node::start)
}

/// The same with a daemon that is started so.
fn small_cache_of(start: impl FnOnce(&Node)) -> Master {
    let m = Master::with_directory_bucket();
    m.node.stop();
    m.node.set("CBFS_PROXY_LIMIT", &limit().to_string());
    start(&m.node);
    fs::create_dir(m.at("big")).unwrap();
    for number in 0..contents() / MIB {
        let path = m.at(format!("big/{number}"));
        fs::write(path, noise(number, MIB as usize)).unwrap();
    }
    m
}

/// Take a snapshot to its end, however large it is; answers its number.
fn snapshot(m: &Master) -> u64 {
    let number = m.snapshot_until("queued");
    wait_for(m, number);
    number
}

fn wait_for(m: &Master, number: u64) {
    let snapshot = format!("{}@{number}", m.fs);
    let seconds = (300 + contents() / MIB).to_string();
    let args = ["snapshot", "watch", &snapshot, "--timeout", &seconds];
    m.node.ctl(args).ok();
}

/// The most bytes that were made and had not arrived, as the status log tells.
fn peak(lines: &[Value]) -> u64 {
    let (mut waiting, mut most) = (0, 0);
    for line in lines {
        let size = line["size"].as_u64().unwrap_or(0);
        match line["event"].as_str() {
            Some("object_made") => waiting += size,
            Some("object_sent") => waiting -= size,
            _ => {}
        }
        most = most.max(waiting);
    }
    most
}

#[test]
fn a_snapshot_larger_than_the_proxy_cache_completes_within_it() {
    needs_fuse!();
    let m = small_cache();
    let wanted = m.fingerprint();
    let number = snapshot(&m);
    let lines = m.status_lines(number);
    let most = peak(&lines);
    assert!(most > 0, "{lines:?}");
    assert!(most <= limit(), "{most} bytes waited for the bucket");
    m.assert_snapshot_is(number, &wanted);
}

fn sent(m: &Master, number: u64) -> Vec<Value> {
    let mut lines = m.status_lines(number);
    lines.retain(|l| l["event"] == "object_sent");
    lines
}

/// Wait until so many objects have arrived.
fn until_sent(m: &Master, number: u64, wanted: usize) {
    wait_until("objects that arrived", || sent(m, number).len() >= wanted);
}

#[cfg(debug_assertions)] // a release daemon has no failpoints
#[test]
fn a_bucket_that_vanishes_half_way_is_waited_for_and_what_had_arrived_is_not_sent_again() {
    needs_fuse!();
    let m = small_cache_of(|node| {
        let two = "snapshot.object-logged:2,stop";
        node.try_start_armed(two).unwrap();
    });
    let wanted = m.fingerprint();
    let mut create = m.node.command();
    create.args(["snapshot", "create", &m.fs]);
    // Not waited for: the daemon may stop before it has answered.
    let mut create = create.stdout(std::process::Stdio::null()).spawn().unwrap();
    m.node.must_be_stopped("two objects are sent");
    let away = m.bucket.take_away();
    m.node.go_on();
    assert!(create.wait().unwrap().success());
    let number = 1;
    assert!(sent(&m, number).len() >= 2);
    let path = format!("/v1/snapshots/{}/{number}", m.fs);
    let mut waiting = Value::Null;
    wait_until("a retry", || {
        waiting = serde_json::from_str(&m.node.get(&path)).unwrap();
        waiting["retries"].as_u64() > Some(0)
    });
    // It is not given up, and a person can see why it does not go on.
    assert_eq!(waiting["state"], "writing", "{waiting}");
    assert_eq!(waiting["failure"], Value::Null, "{waiting}");
    let instance = m.node.json(["instance", "show", &m.fs]);
    assert_eq!(instance["health"], "degraded", "{instance:#}");
    let told = instance["problems"].to_string();
    assert!(told.contains("the bucket does not take objects"), "{told}");
    let status = m.node.ctl(["status"]).ok();
    assert!(
        status.contains("the bucket does not take objects"),
        "{status}"
    );
    away.bring_back();
    wait_for(&m, number);
    let instance = m.node.json(["instance", "show", &m.fs]);
    assert_eq!(instance["health"], "ok", "{instance:#}");
    let sent = sent(&m, number);
    let mut keys: Vec<&str> = sent.iter().map(|l| l["key"].as_str().unwrap()).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), sent.len(), "sent twice: {sent:#?}");
    let lines = m.status_lines(number);
    let attempts = lines.iter().filter(|l| l["event"] == "attempt");
    // One before the cut, one after it.
    assert_eq!(attempts.count(), 2, "{lines:?}");
    m.assert_snapshot_is(number, &wanted);
}

#[test]
fn a_daemon_killed_while_it_sends_more_than_the_cache_holds_goes_on() {
    needs_fuse!();
    let m = small_cache();
    let wanted = m.fingerprint();
    let number = m.snapshot_until("writing");
    until_sent(&m, number, 2);
    m.node.kill9();
    m.node.start();
    wait_for(&m, number);
    m.assert_snapshot_is(number, &wanted);
}
