//! `snapshot cancel` says what it waits for, and who stops waiting stops nothing else.

use super::{create, request, until, until_it_is_tried_again};
use cbfs_tests::{Away, Master, needs_fuse};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};

/// A request that has come to its manifest: that may have been created, so the bucket must be asked before it is over. The
/// bucket is away.
struct AtItsManifest {
    m: Master,
    number: u64,
    away: Away,
    /// Why it is not created.
    obstacle: PathBuf,
}

impl AtItsManifest {
    fn new() -> AtItsManifest {
        let m = Master::with_directory_bucket();
        fs::write(m.at("file"), "contents").unwrap();
        let obstacle = m.bucket.dir().join(&m.fs).join("m");
        fs::write(&obstacle, "in the way of the manifests").unwrap();
        let number = create(&m, &[]);
        until(&m, "copying", || {
            let request = request(&m, number);
            (request["state"] == "copying" && request["retries"].as_u64() > Some(0)).then_some(())
        });
        let away = m.bucket.take_away();
        AtItsManifest {
            m,
            number,
            away,
            obstacle,
        }
    }

    fn snapshot(&self) -> String {
        format!("{}@{}", self.m.fs, self.number)
    }

    /// `snapshot cancel` begins to wait; answers what it said then.
    fn cancel(&self) -> (Child, String) {
        let mut command = self.m.node.command();
        command.args(["snapshot", "cancel", &self.snapshot()]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        let mut stderr = BufReader::new(child.stderr.as_mut().unwrap());
        stderr.read_line(&mut said).unwrap();
        (child, said)
    }

    /// It is withdrawn, and not over.
    fn is_being_cancelled(&self) {
        let request = request(&self.m, self.number);
        assert_eq!(request["state"], "copying", "{request}");
        assert_eq!(request["cancelling"], true, "{request}");
    }

    /// The bucket is back, and the request cancelled.
    fn ends_cancelled(self) {
        let AtItsManifest {
            m,
            number,
            away,
            obstacle,
        } = self;
        away.bring_back();
        fs::remove_file(obstacle).unwrap();
        m.node.ctl(["daemon", "reload"]).ok(); // ends the pause before the next question
        until(&m, "the cancellation", || {
            (request(&m, number)["state"] == "cancelled").then_some(())
        });
        let wanted = m.fingerprint();
        let next = m.snapshot();
        m.assert_snapshot_is(next, &wanted);
    }
}

#[test]
fn ctrl_c_ends_the_waiting_and_the_request_is_cancelled_all_the_same() {
    needs_fuse!();
    let held = AtItsManifest::new();
    let (mut child, said) = held.cancel();
    for part in ["waiting for", "it is copying", "status: ", "Ctrl-C"] {
        assert!(said.contains(part), "{said}");
    }
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    kill_process(pid.unwrap(), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    held.is_being_cancelled();
    held.ends_cancelled();
}

#[test]
fn cancel_waits_for_the_bucket_unless_it_is_told_not_to() {
    needs_fuse!();
    let held = AtItsManifest::new();
    let snapshot = held.snapshot();
    let cancel = ["snapshot", "cancel", &snapshot];
    let dry = held.m.node.ctl(cancel.iter().chain(&["--dry-run"]));
    assert!(dry.stderr.contains("which is copying"), "{dry:?}");
    let unchanged = request(&held.m, held.number);
    assert_eq!(unchanged["cancelling"], serde_json::Value::Null);

    let no_wait = || cancel.iter().chain(&["--no-wait"]);
    let ran = held.m.node.ctl(no_wait());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for part in ["is being cancelled", "it is copying", "snapshot watch"] {
        assert!(ran.stderr.contains(part), "{ran:?}");
    }
    held.is_being_cancelled();
    assert_eq!(held.m.node.json(no_wait())["cancelling"], true);
    let (child, said) = held.cancel();
    assert!(said.contains("waiting for"), "{said}");
    held.ends_cancelled();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(said.contains("is cancelled"), "{said}");
}

#[test]
fn a_queued_request_is_cancelled_at_once_with_no_wait_too() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    fs::write(m.at("file"), "contents").unwrap();
    let away = m.bucket.take_away();
    let running = create(&m, &[]);
    until_it_is_tried_again(&m, running);
    let queued = create(&m, &[]);
    let snapshot = format!("{}@{queued}", m.fs);
    let cancelled = m.node.json(["snapshot", "cancel", &snapshot, "--no-wait"]);
    assert_eq!(cancelled["state"], "cancelled");
    away.bring_back();
    m.wait_for(running);
}
