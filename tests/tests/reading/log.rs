use super::super::Outsider;
use cbfs_tests::{Master, needs_fuse};
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

fn append(path: &std::path::Path, text: &str) {
    let mut file = OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// `WHAT PATH…` of each line, without time, transaction and details.
fn told(text: &str) -> Vec<String> {
    let line = |line: &str| {
        let words: Vec<&str> = line.splitn(3, ' ').collect();
        let (what, path) = words[2].split_once(' ').unwrap();
        let path = path.trim_start().split("  ").next().unwrap();
        format!("{what} {path}")
    };
    text.lines().map(line).collect()
}

/// Two snapshots, and something that is in none.
fn history() -> Master {
    let m = Master::new();
    fs::write(m.dir("docs").join("a"), "first").unwrap();
    fs::write(m.at("gone"), "x").unwrap();
    m.snapshot();
    append(&m.at("docs/a"), "second");
    fs::rename(m.at("docs"), m.at("papers")).unwrap();
    fs::set_permissions(m.at("papers/a"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(m.at("gone")).unwrap();
    m.snapshot();
    fs::write(m.at("papers/b"), "not published").unwrap();
    m
}

#[test]
fn the_log_between_two_snapshots_tells_what_changed_and_when_without_a_daemon() {
    needs_fuse!();
    let m = history();
    let outsider = Outsider::of(&m);
    let text = outsider
        .ctl(&["log", "home", "--since", "@1", "--until", "@2"])
        .ok();
    let told = told(&text);
    for wanted in [
        "write /docs/a",
        "rename /docs -> /papers",
        "attributes /papers/a",
        "unlink /gone",
    ] {
        assert!(told.iter().any(|line| line == wanted), "{wanted}:\n{text}");
    }
    assert!(!text.contains("create"), "{text}");
    // Times and transactions of these lines are bounds, too.
    let rename = text.lines().find(|line| line.contains("rename")).unwrap();
    let words: Vec<&str> = rename.split(' ').collect();
    for bound in [words[0], words[1]] {
        let args = ["log", "home", "--since", bound, "--until", bound];
        let text = outsider.ctl(&args).ok();
        assert_eq!(text.lines().next().unwrap(), rename, "{bound}");
    }
    let none = outsider.ctl(&["log", "home", "--until", "2001-01-01"]).ok();
    assert_eq!(none, "");
    let all = outsider.ctl(&["log", "home", "--since", "1h"]).ok();
    assert!(all.contains("create") && !all.contains("papers/b"), "{all}");
    // A path: as it was called at the time.
    let of_path = outsider.ctl(&["log", "home", "--path", "/docs"]).ok();
    assert!(
        of_path.contains("write") && !of_path.contains("gone"),
        "{of_path}"
    );
    let json = outsider
        .ctl(&["log", "home", "--since", "@1", "--json"])
        .ok();
    let records: Vec<Value> = json
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let at = |record: &Value| {
        let events = record["events"].as_array().unwrap();
        events.iter().position(|event| event["rename"].is_object())
    };
    let mut renames = records.iter().filter_map(|r| Some((r, at(r)?)));
    let (rename, at) = renames.next().unwrap();
    assert_eq!(rename["snapshot"], 2);
    assert_eq!(rename["paths"][at]["path"], "docs");
    assert_eq!(rename["paths"][at]["to"]["path"], "papers");
    for (args, code) in [
        (&["log", "home", "--since", "@9"][..], 10),
        (&["log", "home", "--since", "tomorrow"], 2),
        (&["log", "home@1"], 2),
    ] {
        let ran = outsider.ctl(args);
        assert_eq!(ran.code, Some(code), "{ran:?}");
    }
}

#[test]
fn the_daemon_adds_what_is_not_published_and_follow_goes_on() {
    needs_fuse!();
    let m = history();
    let text = m.node.ctl(["log", "home", "--since", "@2"]).ok();
    assert_eq!(told(&text)[0], "create /papers/b", "{text}");

    let mut command = m.node.command();
    command.args([
        "log", "home", "--since", "@2", "--follow", "--path", "papers",
    ]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut lines = lines.map(Result::unwrap);
    let mut wait_for = |wanted: &str| {
        lines.by_ref().find(|line| line.contains(wanted)).unwrap();
    };
    wait_for("create      /papers/b");
    fs::write(m.at("elsewhere"), "x").unwrap();
    fs::rename(m.at("papers/b"), m.at("papers/c")).unwrap();
    wait_for("/papers/b -> /papers/c");
    // Over a snapshot, which trims the journal.
    m.snapshot();
    fs::remove_file(m.at("papers/c")).unwrap();
    wait_for("unlink      /papers/c");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_file_system_without_a_snapshot_has_the_log_of_its_daemon() {
    needs_fuse!();
    let m = Master::new();
    fs::write(m.at("new"), "x").unwrap();
    let text = m.node.ctl(["log", "home"]).ok();
    assert!(told(&text).contains(&"create /new".to_owned()), "{text}");
}
