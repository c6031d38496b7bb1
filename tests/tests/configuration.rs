//! `cbfsd.toml`: what it says holds, what it says wrongly is refused with its line, and a daemon that runs takes
//! up what changed.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too
#![allow(clippy::expect_used)]

use cbfs_core::inode::Timestamp;
use cbfs_tests::{Node, Ran, Stage};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// A node with a configuration file.
fn configured(stage: &Stage, text: &str) -> (Node, PathBuf) {
    let node = stage.node("a");
    let path = stage.path("cbfsd.toml");
    fs::write(&path, text).unwrap();
    node.set("CBFS_CONFIG", path.to_str().unwrap());
    (node, path)
}

/// `POST /v1/reload` as curl would send it: status line, and the answer.
fn reload(node: &Node) -> (String, Value) {
    let mut stream = UnixStream::connect(node.socket()).unwrap();
    stream
        .write_all(b"POST /v1/reload HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.lines().next().unwrap().to_owned();
    (status, serde_json::from_str(body).unwrap())
}

fn wait_for_log(node: &Node, words: &str) {
    let started = Instant::now();
    while !node.log().contains(words) {
        assert!(
            started.elapsed() < PATIENCE,
            "{words:?} did not come:\n{}",
            node.log()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_file_says_where_the_daemon_is_and_variables_go_before_it() {
    let stage = Stage::new();
    let elsewhere = stage.path("elsewhere");
    let text = format!(
        "state_dir = {:?}\nsocket = {:?}\n",
        elsewhere.join("state"),
        elsewhere.join("sock")
    );
    let (node, _) = configured(&stage, &text);
    let mut command = node.command();
    command.args(["status"]);
    // The node's own variables win: no daemon is there.
    let said = Ran::of(&mut command).fails(4, &[]);
    assert!(said.contains(node.socket().to_str().unwrap()), "{said}");
    command
        .env_remove("CBFS_SOCKET")
        .env_remove("CBFS_STATE_DIR");
    let said = Ran::of(&mut command).fails(4, &[]);
    assert!(
        said.contains(elsewhere.join("sock").to_str().unwrap()),
        "{said}"
    );
}

#[test]
fn a_bucket_can_be_the_default_of_a_node() {
    let stage = Stage::new();
    let bucket = stage.dir("bucket");
    let text = format!("default_bucket = \"file://{}\"\n", bucket.display());
    let (node, _) = configured(&stage, &text);
    node.ctl(["fs", "create", "home"]).ok();
    assert!(node.ctl(["fs", "list"]).ok().contains("home"));
}

#[test]
fn an_unknown_key_stops_commands_and_daemon_with_its_line() {
    let stage = Stage::new();
    let (node, path) = configured(&stage, "\nproxy_limitt = \"1G\"\n");
    let at = format!("{}, line 2", path.display());
    node.ctl(["status"]).fails(2, &[&at, "proxy_limitt"]);
    let ended = node.try_start().unwrap_err();
    assert_eq!(ended.status.code(), Some(2));
    assert!(ended.log.contains("line 2"), "{}", ended.log);
    fs::remove_file(&path).unwrap();
    node.ctl(["status"])
        .fails(1, &["could not be read", "CBFS_CONFIG"]);
}

#[test]
fn a_daemon_that_runs_takes_up_what_changed_and_tells_what_waits() {
    let stage = Stage::new();
    let (node, path) = configured(&stage, "[log]\nfilter = \"info\"\n");
    node.start();
    assert!(!node.log().contains("DEBUG"));

    let changed =
        "proxy_limit = \"2G\"\n[log]\nfilter = \"debug\"\n[bucket.\"s3://b\"]\nregion = \"r\"\n";
    fs::write(&path, changed).unwrap();
    let (status, answer) = reload(&node);
    assert!(status.contains("200"), "{status}");
    assert_eq!(
        answer["applied"],
        serde_json::json!(["log.filter", "bucket.\"s3://b\""])
    );
    assert_eq!(answer["needs_restart"], serde_json::json!(["proxy_limit"]));
    wait_for_log(&node, "wait for a restart");

    // What cannot be understood changes nothing, and is told.
    for broken in ["log.filter = 5\n", "log.filter = \"a=b=c\"\n"] {
        fs::write(&path, broken).unwrap();
        let (status, answer) = reload(&node);
        assert!(status.contains("400"), "{status} {answer}");
        assert_eq!(answer["error"]["kind"], "usage");
    }
    wait_for_log(&node, "the settings stay as they were");

    // The signal does the same.
    fs::write(&path, "fuse_poll = 0\n").unwrap();
    let pid = Pid::from_raw(i32::try_from(node.pid()).unwrap()).unwrap();
    kill_process(pid, Signal::HUP).unwrap();
    wait_for_log(&node, "fuse_poll");
    node.stop();
}

/// Each line of a JSON log, with the fields that whoever collects logs looks for.
fn json_lines(node: &Node) -> Vec<Value> {
    let log = node.log();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    assert!(!lines.is_empty(), "nothing was logged");
    for line in &lines {
        let time = line["timestamp"].as_str().unwrap();
        let at = Timestamp::parse_rfc3339(time);
        assert!(at.is_some() && time.ends_with('Z'), "{line}");
        let level = line["level"].as_str().unwrap();
        assert!(
            ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&level),
            "{line}"
        );
        assert!(
            line["target"].as_str().is_some_and(|t| !t.is_empty()),
            "{line}"
        );
        let message = line["fields"]["message"].as_str();
        assert!(message.is_some_and(|m| !m.is_empty()), "{line}");
    }
    lines
}

#[test]
fn a_json_log_has_a_document_a_line_with_time_level_target_and_message() {
    let stage = Stage::new();
    let (node, _) = configured(&stage, "[log]\nformat = \"json\"\nfilter = \"debug\"\n");
    node.start();
    reload(&node);
    node.stop();
    let lines = json_lines(&node);
    let ready = lines.iter().find(|l| l["fields"]["message"] == "ready");
    let ready = ready.expect("it says that it is ready");
    assert_eq!(ready["level"], "INFO");
    assert_eq!(ready["target"], "cbfsd::daemon");
    // What the message is about are fields of their own.
    let socket = node.socket();
    assert_eq!(ready["fields"]["socket"], socket.to_str().unwrap());

    // By the option too, whatever the file says; and of a daemon that cannot start.
    let (node, _) = configured(&stage, "[log]\nformat = \"text\"\n");
    let twin = node.twin("twin");
    twin.start();
    assert!(
        twin.log().contains(" INFO cbfsd::daemon: ready"),
        "{}",
        twin.log()
    );
    let mut refused = node.command();
    refused.args(["util", "cbfsd", "--", "--log-json"]);
    let refused = Ran::of(&mut refused);
    assert_eq!(refused.code, Some(11), "{refused:?}");
    let last = refused.stderr.lines().last().unwrap();
    let last: Value = serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {refused:?}"));
    assert_eq!(last["level"], "ERROR");
    twin.stop();
}

#[test]
fn a_log_for_the_journal_goes_to_stderr_where_there_is_no_journal() {
    let stage = Stage::new();
    let (node, _) = configured(&stage, "[log]\nformat = \"journald\"\n");
    node.start();
    node.stop();
    let log = node.log();
    if Path::new("/run/systemd/journal/socket").exists() {
        assert!(!log.contains("ready"), "{log}");
    } else {
        assert!(log.contains("the journal cannot be reached"), "{log}");
        assert!(log.contains("cbfsd::daemon: ready"), "{log}");
    }
}
