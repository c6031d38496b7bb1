//! A snapshot may be larger than the proxy cache: it is sent while it is made.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too

use cbfs_tests::contents::noise;
use cbfs_tests::{Master, needs_fuse};
use serde_json::Value;
use std::fs;

const MIB: u64 = 1 << 20;
const LIMIT: u64 = 8 * MIB;
const SNAPSHOT: u64 = 40 * MIB;

fn small_cache() -> Master {
    let m = Master::with_directory_bucket();
    m.node.stop();
    m.node.set("CBFS_PROXY_LIMIT", "8M");
    m.node.start();
    fs::create_dir(m.at("big")).unwrap();
    for number in 0..SNAPSHOT / MIB {
        let path = m.at(format!("big/{number}"));
        fs::write(path, noise(number, MIB as usize)).unwrap();
    }
    m
}

fn status_lines(m: &Master, number: u64) -> Vec<Value> {
    let path = m.instance_dir().join(format!("status/{number:010}.jsonl"));
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines();
    lines.map(|l| serde_json::from_str(l).unwrap()).collect()
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
    let number = m.snapshot();
    let lines = status_lines(&m, number);
    let most = peak(&lines);
    assert!(most > 0, "{lines:?}");
    assert!(most <= LIMIT, "{most} bytes waited for the bucket");
    m.assert_snapshot_is(number, &wanted);
}

#[test]
fn a_daemon_killed_while_it_sends_more_than_the_cache_holds_goes_on() {
    needs_fuse!();
    let m = small_cache();
    let wanted = m.fingerprint();
    let number = m.snapshot_until("writing");
    let sent = || {
        let lines = status_lines(&m, number);
        let sent = lines.iter().filter(|l| l["event"] == "object_sent");
        sent.count()
    };
    while sent() < 2 {
        std::thread::yield_now();
    }
    m.node.kill9();
    m.node.start();
    m.wait_for(number);
    m.assert_snapshot_is(number, &wanted);
}
