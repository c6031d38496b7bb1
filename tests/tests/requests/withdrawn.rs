use super::{objects_of, until};
use cbfs_tests::contents::noise;
use cbfs_tests::{Master, needs_fuse};
use serde_json::Value;
use std::fs;

/// Bring a request to a failpoint, where the daemon dies.
fn die_at(m: &Master, failpoint: &str) -> u64 {
    m.node.stop();
    m.node.try_start_armed(failpoint).unwrap();
    // The daemon may die before it answers.
    drop(m.node.ctl(["snapshot", "create", &m.fs]));
    m.node.must_end(failpoint);
    let mut numbers: Vec<u64> = super::files_in(&m.instance_dir().join("status"))
        .iter()
        .filter_map(|path| path.file_stem()?.to_str()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    *numbers.last().unwrap()
}

fn state_lines(m: &Master, number: u64) -> Vec<String> {
    m.states_of(number)
}

fn removed(m: &Master, number: u64) -> Option<Value> {
    let lines = m.status_lines(number);
    lines.into_iter().find(|l| l["event"] == "objects_removed")
}

fn assert_nothing_is_left_here(m: &Master, at: &str) {
    let dir = m.instance_dir();
    for sub in ["proxy", "frozen"] {
        let left = super::files_in(&dir.join(sub));
        assert!(left.is_empty(), "{at}: {left:?}");
    }
    for path in super::files_in(&dir.join("kvs")) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(!name.starts_with("merged-"), "{at}: {name}");
    }
}

/// The states in which a request can be withdrawn, each with a place where the daemon dies in it, and whether
/// something had arrived in the bucket by then.
const STATES: &[(&str, &str, bool)] = &[
    ("queued", "snapshot.requested", false),
    ("collected", "snapshot.collected", false),
    ("writing", "snapshot.object-arrived", true),
    ("written", "snapshot.all-sent", true),
];

#[test]
fn a_request_withdrawn_in_any_state_leaves_nothing_here_nor_in_the_bucket() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    fs::write(m.at("kept"), noise(1, 300_000)).unwrap();
    m.snapshot();
    for (n, (state, failpoint, arrived)) in (10_u64..).zip(STATES) {
        fs::write(m.at("kept"), noise(n, 300_000)).unwrap();
        let number = die_at(&m, failpoint);
        // Objects are sent while others are made: by the first arrival all may be made.
        let found = state_lines(&m, number).last().unwrap().clone();
        let all_made = (*state, found.as_str()) == ("writing", "written");
        assert!(found == *state || all_made, "{found} instead of {state}");
        assert_eq!(!objects_of(&m, number).is_empty(), *arrived, "{state}");
        withdraw_on_disk(&m, number);
        m.node.start();
        until(&m, state, || {
            let states = state_lines(&m, number);
            (states.last().unwrap() == "cancelled").then_some(())
        });
        if *arrived {
            let told = until(&m, state, || removed(&m, number));
            assert!(told["objects"].as_u64() > Some(0), "{told}");
            assert_eq!(told["left"], 0, "{told}");
        }
        assert_eq!(objects_of(&m, number), [] as [std::path::PathBuf; 0]);
        assert_nothing_is_left_here(&m, state);
    }
    // All of it is in the next one.
    let wanted = m.fingerprint();
    let next = m.snapshot();
    m.assert_snapshot_is(next, &wanted);
}

/// As the daemon would have noted it just before it died.
fn withdraw_on_disk(m: &Master, number: u64) {
    let path = m.status_log(number);
    let line = "{\"at\":\"2026-01-01T00:00:00Z\",\"event\":\"cancel_requested\"}\n";
    let text = fs::read_to_string(&path).unwrap() + line;
    fs::write(&path, text).unwrap();
}

#[test]
fn what_a_manifest_may_still_refer_to_is_left_to_garbage_collection() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    fs::write(m.at("file"), noise(1, 100_000)).unwrap();
    let number = die_at(&m, "snapshot.before-manifest");
    assert_eq!(state_lines(&m, number).last().unwrap(), "copying");
    let before = objects_of(&m, number);
    assert!(!before.is_empty());
    withdraw_on_disk(&m, number);
    m.node.start();
    let told = until(&m, "the removal", || removed(&m, number));
    assert_eq!(
        (&told["objects"], &told["left"]),
        (&0.into(), &before.len().into())
    );
    assert!(
        told["reason"].as_str().unwrap().contains("manifest"),
        "{told}"
    );
    assert_eq!(state_lines(&m, number).last().unwrap(), "cancelled");
    assert_eq!(objects_of(&m, number), before);
    // What is in doubt is the bucket's side; here nobody needs it any more.
    assert_nothing_is_left_here(&m, "copying");
}

#[test]
fn after_a_reboot_what_was_preserved_is_not_trusted_and_the_request_is_cut_again() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    fs::write(m.at("file"), noise(1, 100_000)).unwrap();
    m.snapshot();
    for (n, failpoint) in (2_u64..).zip(["snapshot.collected", "snapshot.object-made"]) {
        fs::write(m.at("file"), noise(n, 100_000)).unwrap();
        let number = die_at(&m, failpoint);
        let path = m.status_log(number);
        let here = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(here.trim()), "{text}");
        let then = "00000000-0000-4000-8000-000000000000";
        fs::write(&path, text.replace(here.trim(), then)).unwrap();
        m.node.start();
        let wanted = m.fingerprint();
        m.wait_for(number);
        let states = state_lines(&m, number);
        let queued = states.iter().filter(|s| *s == "queued").count();
        assert_eq!(queued, 2, "{failpoint}: {states:?}");
        let lines = m.status_lines(number);
        let failure = lines.iter().find(|l| l["event"] == "failure").unwrap();
        assert_eq!(failure["failure"], "transient");
        assert!(
            failure["reason"].as_str().unwrap().contains("went down"),
            "{failure}"
        );
        m.assert_snapshot_is(number, &wanted);
    }
}
