//! What CBFS asks of a bucket is bounded: requests cost money and round trips. Counted as the daemon counts them, by
//! kind, for a bucket of any kind.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too

use cbfs_tests::{Master, needs_fuse};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;

/// A snapshot of a few changed files: five objects, the manifest, and a look at the epoch before and after it.
const BUDGET: u64 = 8;

/// Requests so far, by kind.
fn requests(m: &Master) -> BTreeMap<String, u64> {
    let status = m.node.json(["status"]);
    let mut all = BTreeMap::new();
    for bucket in status["buckets"].as_array().unwrap() {
        for kind in bucket["requests"].as_array().unwrap() {
            let name = kind["kind"].as_str().unwrap().to_owned();
            *all.entry(name).or_default() += kind["requests"].as_u64().unwrap();
        }
    }
    all
}

/// What was asked since.
fn since(before: &BTreeMap<String, u64>, m: &Master) -> BTreeMap<String, u64> {
    let mut now = requests(m);
    for (kind, count) in before {
        *now.get_mut(kind).unwrap() -= count;
    }
    now.retain(|_, count| *count > 0);
    now
}

#[test]
fn a_snapshot_of_a_few_changed_files_costs_at_most_eight_requests_and_lists_nothing() {
    needs_fuse!();
    let m = Master::new();
    for n in 0..50 {
        fs::write(m.at(format!("file-{n}")), format!("first {n}")).unwrap();
    }
    m.snapshot();
    // Now and then the daemon looks at the epoch and the settings: the cheapest of some is that of the snapshot
    // alone. None of them lists.
    let mut costs = Vec::new();
    for round in 0..3 {
        let before = requests(&m);
        for n in 0..5 {
            fs::write(m.at(format!("file-{n}")), format!("{round} {n}")).unwrap();
        }
        fs::write(m.at(format!("large-{round}")), vec![round; 100_000]).unwrap();
        fs::remove_file(m.at(format!("file-{}", 40 + round))).unwrap();
        m.snapshot();
        let cost = since(&before, &m);
        assert!(!cost.contains_key("list"), "{cost:?}");
        costs.push(cost);
    }
    let sums = costs.iter().map(|cost| cost.values().sum::<u64>());
    let cheapest = sums.min().unwrap();
    assert!(cheapest > 2, "nothing was counted: {costs:?}");
    assert!(cheapest <= BUDGET, "{costs:?}");
}

#[test]
fn what_was_asked_of_a_bucket_is_in_status_and_metrics() {
    needs_fuse!();
    let m = Master::new();
    fs::write(m.at("file"), "contents").unwrap();
    m.snapshot();
    let status: Value = m.node.json(["status"]);
    let bucket = &status["buckets"][0];
    let created = bucket["requests"].as_array().unwrap();
    let created = created.iter().find(|r| r["kind"] == "create").unwrap();
    let count = created["requests"].as_u64().unwrap();
    let latencies = created["latencies"].as_array().unwrap();
    let sum: u64 = latencies.iter().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(sum, count);
    assert!(count > 3);
    let said = m.node.ctl(["status"]).ok();
    let is_told = |line: &str| {
        let mut words = line.split_whitespace();
        words.next() == Some("create") && words.next() == Some(&count.to_string())
    };
    assert!(said.lines().any(is_told), "{count} in {said}");
    let metrics = m.node.get("/metrics");
    let all = format!(",kind=\"create\",le=\"+Inf\"}} {count}\n");
    assert!(
        metrics.contains("cbfs_bucket_request_seconds_bucket{bucket=\""),
        "{metrics}"
    );
    assert!(metrics.contains(&all), "{all} in {metrics}");
}
