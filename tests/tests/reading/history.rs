use super::super::Outsider;
use super::super::{key_of, object};
use cbfs_tests::{Master, needs_fuse};
use serde_json::Value;
use std::fs;

/// Three snapshots, the second one deleted.
fn with_a_deleted_snapshot() -> Master {
    let m = Master::with_directory_bucket();
    fs::create_dir(m.at("docs")).unwrap();
    fs::write(m.at("docs/a"), "first").unwrap();
    m.snapshot();
    fs::rename(m.at("docs"), m.at("papers")).unwrap();
    m.snapshot();
    fs::write(m.at("papers/a"), "third").unwrap();
    m.snapshot();
    let second = format!("{}@2", m.fs);
    m.node
        .ctl(["snapshot", "delete", &second, "--confirm", &m.fs])
        .ok();
    m
}

#[test]
fn history_in_deleted_snapshots_is_told_and_what_is_gone_is_a_gap() {
    needs_fuse!();
    let m = with_a_deleted_snapshot();
    let outsider = Outsider::of(&m);
    let log = key_of(&m, 2, "log");
    let second = ["log", "home", "--since", "@1", "--until", "@2"];
    let text = outsider.ctl(&second).ok();
    assert!(text.contains("rename      /docs -> /papers"), "{text}");
    // Garbage collection may take it.
    fs::remove_file(object(&m, &log)).unwrap();
    let ran = outsider.ctl(&["log", "home", "--since", "@1"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(
        ran.stderr.contains("(snapshot 2) are missing here"),
        "{ran:?}"
    );
    assert!(!ran.stdout.contains("rename"), "{ran:?}");
    // What follows has the names of then.
    assert!(ran.stdout.contains("/papers/a"), "{ran:?}");
    let json = outsider.ctl(&["log", "home", "--json"]).ok();
    let lines: Vec<Value> = json
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let at = lines.iter().position(|l| l["gap"].is_object()).unwrap();
    assert_eq!(lines[at]["gap"]["snapshot"], 2);
    assert_eq!(lines[at - 1]["snapshot"], 1);
    assert_eq!(lines[at + 1]["snapshot"], 3);
}

#[test]
fn recent_history_stays_on_the_node_within_its_bounds() {
    needs_fuse!();
    let m = with_a_deleted_snapshot();
    let without_bucket = |args: &[&str]| {
        let away = m.bucket.take_away();
        let ran = m.node.ctl(["log", "home"].iter().chain(args));
        away.bring_back();
        assert_eq!(ran.code, Some(0), "{ran:?}");
        ran
    };
    let ran = without_bucket(&["--since", "@1", "--until", "@3"]);
    assert!(
        ran.stderr.contains("only what this node still has"),
        "{ran:?}"
    );
    assert!(
        ran.stdout.contains("rename      /docs -> /papers"),
        "{ran:?}"
    );
    assert!(!ran.stdout.contains("create"), "{ran:?}");
    // Nothing but what no snapshot has yet is to stay.
    let policy = "[change_log]\nkeep_segments = 0\nkeep_for = \"0\"\n";
    fs::write(m.instance_dir().join("policy.toml"), policy).unwrap();
    fs::write(m.at("papers/b"), "fourth").unwrap();
    m.snapshot();
    fs::write(m.at("papers/c"), "unpublished").unwrap();
    let ran = without_bucket(&[]);
    assert!(ran.stderr.contains("is in the bucket only"), "{ran:?}");
    assert!(!ran.stdout.contains("rename"), "{ran:?}");
    let text = m.node.ctl(["log", "home", "--since", "@3"]).ok();
    for path in ["/papers/b", "/papers/c"] {
        assert!(text.contains(path), "{text}");
    }
}
