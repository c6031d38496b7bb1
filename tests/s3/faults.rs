//! What networks and stores do to a bucket costs patience, and never a byte: a fault proxy stands between daemon
//! and store, one test for each fault.

use super::scene::{LARGE, Scene};
use super::{PATIENCE, contract, wait_until};
use cbfs_tests::fault_proxy::{Fault, Rule};
use cbfs_tests::{Exactness, Fingerprint, assert_same, needs_fuse};
use rustix::io::Errno;
use std::fs;
use std::time::{Duration, Instant};

fn refuse(status: u16, code: &'static str, retry_after: Option<u64>) -> Fault {
    Fault::Refuse {
        status,
        code,
        retry_after,
    }
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn in_a_storm_of_503_the_mount_works_and_the_snapshot_waits_and_finishes() {
    needs_fuse!();
    let scene = Scene::filled();
    let storm = Rule::every(refuse(503, "SlowDown", Some(1)));
    scene.waits_then_finishes(1, storm, &["503", "trying again"]);
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_snapshot_waits_for_a_session_that_has_expired_and_status_says_so() {
    needs_fuse!();
    let scene = Scene::filled();
    let expired = Rule::every(refuse(403, "ExpiredToken", None)).method("PUT");
    scene.waits_then_finishes(1, expired, &["refused", "the session has expired"]);
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_snapshot_waits_for_a_secret_that_is_wrong_and_status_says_so() {
    needs_fuse!();
    let scene = Scene::filled();
    let wrong = Rule::every(refuse(403, "SignatureDoesNotMatch", None)).method("PUT");
    scene.waits_then_finishes(1, wrong, &["refused", "the secret access key is wrong"]);
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_snapshot_waits_for_room_in_a_full_bucket() {
    needs_fuse!();
    let scene = Scene::filled();
    let full = Rule::every(refuse(507, "InsufficientStorage", None)).method("PUT");
    scene.waits_then_finishes(1, full, &["the bucket is full"]);
    fs::write(scene.mnt.join("more"), b"more").unwrap();
    let quota = Rule::every(refuse(403, "QuotaExceeded", None)).method("PUT");
    scene.waits_then_finishes(2, quota, &["the bucket is full"]);
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_snapshot_whose_answers_are_lost_is_made_once_and_exact() {
    needs_fuse!();
    let scene = Scene::filled();
    let lost = |key: &str| Rule::every(Fault::LoseAnswer).method("PUT").key(key);
    scene.finishes_in_spite_of(1, vec![(lost("/s/"), 3), (lost("/m/"), 1)]);
    // Also again and again.
    scene.finishes_in_spite_of(2, vec![(lost("/m/"), 2)]);
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn an_upload_that_is_cut_or_delayed_arrives_whole() {
    needs_fuse!();
    let scene = Scene::filled();
    let cut = Rule::every(Fault::CutRequest).method("PUT").key("/s/");
    let late = Rule::every(Fault::Delay(Duration::from_millis(500))).method("PUT");
    scene.finishes_in_spite_of(1, vec![(cut, 3), (late, 3)]);
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_store_that_is_slow_but_never_silent_costs_time_and_no_try() {
    needs_fuse!();
    let scene = Scene::filled_with_section("silence = 5\n");
    let wanted = scene.fingerprint();
    // Each longer in all than what counts as silence.
    let slow = Fault::SlowRequest {
        pieces: 20,
        pause: Duration::from_millis(400),
    };
    let slow = Rule::every(slow)
        .method("PUT")
        .key("/0001.tar.zst")
        .times(1);
    let slow = scene.proxy.rule(slow);
    let late = scene
        .proxy
        .rule(Rule::every(Fault::Delay(Duration::from_secs(1))));
    scene.ask_for_snapshot();
    scene.proxy.wait_until_met(slow, 1);
    scene.the_mount_works();
    let status = scene.node.json(["status"]);
    assert_eq!(status["instances"][0]["health"], "ok", "{status:#}");
    let snapshot = &status["snapshots"][0];
    assert_eq!(snapshot["number"], 1, "{status:#}");
    assert_eq!(snapshot["retries"], 0, "{status:#}");
    scene.wait_for(1);
    assert!(scene.proxy.met(late) > 3);
    let log = scene.status_log(1);
    assert!(!log.contains("\"retry\""), "{log}");
    scene.proxy.lift(late);
    scene.snapshot_is(1, &wanted);
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_store_that_takes_no_bytes_or_does_not_answer_in_time_is_told_and_waited_for() {
    needs_fuse!();
    let scene = Scene::filled_with_section("silence = 1\n");
    let clogged = Fault::SlowRequest {
        pieces: 4,
        pause: Duration::from_secs(5),
    };
    let clogged = Rule::every(clogged).method("PUT").key("/0001.tar.zst");
    scene.waits_then_finishes(1, clogged, &["takes no more bytes", "trying again"]);
    fs::write(scene.mnt.join("more"), b"more").unwrap();
    let mute = Rule::every(Fault::Delay(Duration::from_secs(4))).method("PUT");
    scene.waits_then_finishes(2, mute, &["no answer in time", "trying again"]);
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_reader_gets_the_right_bytes_although_answers_are_cut_slow_refused_or_lost() {
    needs_fuse!();
    let scene = Scene::filled();
    let wanted = scene.fingerprint();
    scene.ask_for_snapshot();
    scene.wait_for(1);
    let (_node, there) = scene.slave(1, &scene.url);
    let slow = Fault::SlowAnswer {
        pieces: 4,
        pause: Duration::from_millis(100),
    };
    let faults = [
        Fault::CutAnswer,
        slow,
        refuse(503, "SlowDown", Some(1)),
        Fault::LoseAnswer,
    ];
    let on_reads = |fault| Rule::every(fault).method("GET").key(".tar.zst").times(2);
    let rules = faults.map(|fault| scene.proxy.rule(on_reads(fault)));
    let found = Fingerprint::take(&there, Exactness::Snapshot);
    assert_same("read through a bad network", &wanted, &found);
    for rule in rules {
        assert_eq!(scene.proxy.met(rule), 2, "{rule:?}");
    }
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn wrong_bytes_are_never_read_and_the_object_is_named() {
    needs_fuse!();
    let scene = Scene::filled();
    scene.ask_for_snapshot();
    scene.wait_for(1);
    let (node, there) = scene.slave(1, &scene.url);
    let wrong = Rule::every(Fault::WrongBytes).method("GET").key(".tar.zst");
    let wrong = scene.proxy.rule(wrong);
    let refused = fs::read(there.join("large")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(Errno::IO.raw_os_error()));
    assert!(scene.proxy.met(wrong) > 0);
    wait_until("the log names the object", || {
        node.log().contains(".tar.zst")
    });
    let shown = || node.json(["status"])["instances"][0].clone();
    let degraded = shown();
    assert_eq!(degraded["health"], "degraded", "{degraded:#}");
    let problem = degraded["problems"][0].as_str().unwrap();
    for word in [".tar.zst", "EIO"] {
        assert!(problem.contains(word), "{problem}");
    }
    let said = node.ctl(["status"]).ok();
    assert!(said.contains(".tar.zst"), "{said}");
    // What does not need that object works; and so does all of it, once the bytes are right.
    assert!(fs::read_dir(there.join("tree")).unwrap().count() > 0);
    scene.proxy.lift(wrong);
    assert!(fs::read(there.join("large")).unwrap() == contract::noise(LARGE));
    let shown = shown();
    assert_eq!(shown["health"], "ok", "{shown:#}");
    assert!(
        shown["problems"].is_null(),
        "left out when there are none: {shown:#}"
    );
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn while_the_store_is_stopped_the_mount_works_and_the_snapshot_finishes_when_it_goes_on() {
    needs_fuse!();
    let scene = Scene::filled();
    let wanted = scene.fingerprint();
    scene.proxy.take_seen();
    scene.server.pause();
    scene.ask_for_snapshot();
    let put = "the first object is on its way";
    wait_until(put, || {
        let seen = scene.proxy.take_seen();
        seen.iter().any(|request| request.method == "PUT")
    });
    scene.the_mount_works();
    scene.wait_until_status_says(&["no answer in time", "trying again"]);
    scene.the_mount_works();
    scene.server.resume();
    scene.wait_for(1);
    scene.snapshot_is(1, &wanted);
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_daemon_that_looks_who_is_master_stops_at_once_although_nobody_answers() {
    needs_fuse!();
    let scene = Scene::new();
    scene.node.stop();
    scene.node.set("CBFS_EPOCH_CHECK", "0.1");
    let hold = Rule::every(Fault::Hold)
        .method("GET")
        .key("/epochs/00001.json");
    let hold = scene.proxy.rule(hold);
    scene.node.start();
    scene.proxy.wait_until_met(hold, 1);
    let begun = Instant::now();
    scene.node.stop();
    let took = begun.elapsed();
    // Silence counts as an answer after 30 s only, and reads are patient for 60.
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_store_that_is_killed_again_and_again_costs_time_only() {
    needs_fuse!();
    let mut scene = Scene::filled();
    let wanted = scene.fingerprint();
    // Slow enough that there is something to interrupt.
    let slow = Rule::every(Fault::Delay(Duration::from_millis(300))).method("PUT");
    let slow = scene.proxy.rule(slow);
    scene.ask_for_snapshot();
    let started = Instant::now();
    for round in 1..=3 {
        scene.proxy.wait_until_met(slow, round * 2);
        scene.server.kill9();
        scene.the_mount_works();
        scene.server.restart();
    }
    assert!(started.elapsed() < PATIENCE);
    scene.proxy.lift(slow);
    scene.wait_for(1);
    scene.snapshot_is(1, &wanted);
}
