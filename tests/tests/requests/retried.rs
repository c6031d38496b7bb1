//! What `snapshot retry` refuses, `--dry-run` refuses in the same words; and neither changes anything then.

use super::{cancelled_request, create, request, until, until_it_is_tried_again};
use cbfs_tests::{Master, needs_fuse};
use std::fs;

/// The exit code of what is refused for how things stand.
const CONFLICT: i32 = 11;

/// How often a request was put into the queue.
fn queued(m: &Master, number: u64) -> usize {
    let lines = m.status_lines(number);
    lines.iter().filter(|l| l["state"] == "queued").count()
}

/// `snapshot retry` is refused with these texts, and its `--dry-run` likewise.
fn is_refused(m: &Master, number: u64, texts: &[&str]) {
    let before = queued(m, number);
    let snapshot = format!("{}@{number}", m.fs);
    let retry = ["snapshot", "retry", &snapshot];
    let dry = m.node.ctl(retry.iter().chain(&["--dry-run"]));
    let said = dry.fails(CONFLICT, texts);
    assert_eq!(m.node.ctl(retry).fails(CONFLICT, texts), said);
    assert_eq!(queued(m, number), before);
}

#[test]
fn a_request_is_retried_only_where_it_was_given_up_and_its_name_and_changes_are_free() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    fs::write(m.at("file"), "contents").unwrap();
    let complete = m.snapshot();
    is_refused(&m, complete, &["is complete", "snapshot show"]);

    let away = m.bucket.take_away();
    fs::write(m.at("file"), "changed").unwrap();
    let running = create(&m, &[]);
    // There it stays, as nothing can be sent.
    until(&m, "all objects made", || {
        (request(&m, running)["state"] == "written").then_some(())
    });
    is_refused(&m, running, &["nothing to retry", "snapshot show"]);

    let name = ["--name", "monday"];
    let named = create(&m, &name);
    let snapshot = format!("{}@{named}", m.fs);
    m.node.ctl(["snapshot", "cancel", &snapshot]).ok();
    let other = create(&m, &name);
    let told = format!("snapshot {other} of {} is named", m.fs);
    is_refused(&m, named, &[&told, "another name"]);

    // Without the other one nothing is in its way.
    let rival = format!("{}@{other}", m.fs);
    m.node.ctl(["snapshot", "cancel", &rival]).ok();
    let retry = ["snapshot", "retry", &snapshot];
    let dry = m.node.ctl(retry.iter().chain(&["--dry-run"]));
    assert_eq!((dry.code, dry.stdout.as_str()), (Some(0), ""), "{dry:?}");
    assert!(dry.stderr.contains("would queue"), "{dry:?}");
    let dry = m.node.json(retry.iter().chain(&["--dry-run"]));
    assert_eq!(dry["state"], "cancelled");
    assert_eq!(queued(&m, named), 1, "a dry run queued it");
    m.node.ctl(retry).ok();
    assert_eq!(queued(&m, named), 2);
    away.bring_back();
    m.wait_for(named);
    is_refused(&m, named, &["is complete", "snapshot show"]);

    let away = m.bucket.take_away();
    let given_up = cancelled_request(&m);
    let later = create(&m, &[]);
    until_it_is_tried_again(&m, later);
    is_refused(&m, given_up, &["came after it", "snapshot create"]);
    away.bring_back();
    m.wait_for(later);
    is_refused(&m, given_up, &["came after it", "snapshot create"]);
}

#[test]
fn a_master_that_publishes_nothing_any_more_retries_nothing() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    m.node.stop();
    m.node.set("CBFS_EPOCH_CHECK", "0.2");
    m.node.start();
    fs::write(m.at("file"), "contents").unwrap();
    m.snapshot();
    let away = m.bucket.take_away();
    let given_up = cancelled_request(&m);
    away.bring_back();
    let bucket = ["--bucket", m.bucket.url()];
    let other = m.stage.node("other");
    let of_fs = |words: &[&str]| {
        let line = words.iter().copied().chain(bucket);
        other.ctl(line).ok();
    };

    of_fs(&[
        "fs",
        "delete",
        &m.fs,
        "--confirm",
        &m.fs,
        "--even-if-in-use",
    ]);
    until(&m, "the deletion", || {
        let status = m.node.ctl(["status"]).ok();
        status.contains("fs undelete").then_some(())
    });
    is_refused(&m, given_up, &["deleted", "fs undelete"]);
    of_fs(&["fs", "undelete", &m.fs]);

    other.start();
    of_fs(&[
        "epoch",
        "promote",
        &m.fs,
        "--previous-epoch",
        "1",
        "--confirm",
        &m.fs,
    ]);
    until(&m, "the fencing", || {
        let health = m.node.json(["instance", "show", &m.fs])["health"].clone();
        (health == "fenced").then_some(())
    });
    is_refused(&m, given_up, &["fenced", "epoch list"]);
}
