//! Requests for snapshots do what they are told: they queue, are withdrawn and taken up again, are deleted
//! and held, come by schedule, and tell somebody when they fail.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too

use cbfs_tests::contents::noise;
use cbfs_tests::{Master, needs_fuse};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// How long something may take on a busy machine.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// The exit code of conflicts.
const CONFLICT: i32 = 11;

/// What the daemon knows of a request, whether the bucket is there or not.
fn request(m: &Master, number: u64) -> Value {
    let listed = m.node.ctl(["snapshot", "list", &m.fs, "--json"]).stdout;
    let all: Vec<Value> = serde_json::from_str(&listed).unwrap();
    let mut found = all.into_iter().filter(|r| r["number"] == number);
    found.next().unwrap()["request"].clone()
}

fn state(m: &Master, number: u64) -> String {
    request(m, number)["state"].as_str().unwrap().to_owned()
}

/// Ask for a snapshot and do not wait.
fn create(m: &Master) -> u64 {
    let number = m.node.ctl(["snapshot", "create", &m.fs]).ok();
    number.trim_end().parse().unwrap()
}

/// `snapshot VERB FS@NUMBER`.
fn act(m: &Master, verb: &str, number: u64) -> cbfs_tests::Ran {
    let snapshot = format!("{}@{number}", m.fs);
    m.node.ctl(["snapshot", verb, &snapshot])
}

/// Wait until a snapshot's request is as wanted.
fn until(m: &Master, number: u64, wanted: impl Fn(&Value) -> bool) -> Value {
    let started = std::time::Instant::now();
    loop {
        let request = request(m, number);
        if wanted(&request) {
            return request;
        }
        assert!(
            started.elapsed().as_secs() < 60,
            "{request}\n{}",
            m.node.log()
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().next().is_none()
}

/// Nothing is left of an attempt but its frozen file.
fn assert_nothing_is_left(m: &Master) {
    let dir = m.instance_dir();
    assert!(is_empty(&dir.join("proxy")), "objects stay in the proxy");
    assert!(is_empty(&dir.join("frozen")), "preserved blocks stay");
    for entry in fs::read_dir(dir.join("kvs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.starts_with("merged-"), "{name} stays");
    }
}

// ---------------------------------------------------------------- the queue, cancel, retry

#[test]
fn queued_requests_tell_their_place_and_are_cancelled_at_once() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    fs::write(m.at("file"), "contents").unwrap();
    let away = m.bucket.take_away();
    let running = create(&m);
    until(&m, running, |r| r["retries"].as_u64() > Some(0));
    let (second, third) = (create(&m), create(&m));
    let list = m.node.ctl(["snapshot", "list", &m.fs]).stdout;
    assert!(list.contains("queued, place 1"), "{list}");
    assert!(list.contains("queued, place 2"), "{list}");
    act(&m, "cancel", second).ok();
    assert_eq!(state(&m, second), "cancelled");
    assert_eq!(request(&m, third)["queue_place"], 1);
    away.bring_back();
    m.wait_for(third);
    assert_eq!(state(&m, running), "complete");
    assert_eq!(act(&m, "cancel", third).code, Some(CONFLICT));
    assert_eq!(act(&m, "cancel", second).code, Some(CONFLICT));
}

#[test]
fn a_request_that_is_carried_out_is_cancelled_without_garbage_and_its_changes_stay() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    fs::write(m.at("kept"), noise(1, 3 << 20)).unwrap();
    m.snapshot();
    fs::write(m.at("small"), "first").unwrap();
    fs::write(m.at("large"), noise(2, 3 << 20)).unwrap();
    let away = m.bucket.take_away();
    let number = create(&m);
    until(&m, number, |r| r["retries"].as_u64() > Some(0));
    // Preserved for the snapshot under way.
    fs::write(m.at("kept"), noise(3, 3 << 20)).unwrap();
    act(&m, "cancel", number).ok();
    assert_nothing_is_left(&m);
    let states = m.states_of(number);
    assert_eq!(states.last().unwrap(), "cancelled", "{states:?}");
    away.bring_back();
    let health = m.node.json(["instance", "show", &m.fs])["health"].clone();
    assert_eq!(health, "ok");
    fs::remove_file(m.at("small")).unwrap();
    let wanted = m.fingerprint();
    let next = m.snapshot();
    m.assert_snapshot_is(next, &wanted);
}

#[test]
fn a_request_whose_manifest_cannot_be_created_is_cancelled_all_the_same() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    fs::write(m.at("file"), "contents").unwrap();
    let manifests = m.bucket.dir().join(&m.fs).join("m");
    fs::create_dir_all(manifests.parent().unwrap()).unwrap();
    fs::write(&manifests, "in the way of the manifests").unwrap();
    let number = create(&m);
    until(&m, number, |r| {
        r["retries"].as_u64() > Some(0) && r["state"] == "copying"
    });
    fs::remove_file(&manifests).unwrap();
    let cancelled = act(&m, "cancel", number);
    // The manifest may have got through meanwhile: then it was too late.
    match state(&m, number).as_str() {
        "cancelled" => drop(cancelled.ok()),
        "complete" => assert_eq!(cancelled.code, Some(CONFLICT)),
        other => panic!("{other}"),
    }
    assert_nothing_is_left(&m);
    let wanted = m.fingerprint();
    let next = m.snapshot();
    m.assert_snapshot_is(next, &wanted);
}

#[test]
fn a_withdrawal_survives_the_daemon() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    fs::write(m.at("file"), "contents").unwrap();
    let away = m.bucket.take_away();
    let number = create(&m);
    until(&m, number, |r| r["retries"].as_u64() > Some(0));
    m.node.kill9();
    // As the daemon would have written it just before it died.
    let log = m.instance_dir().join(format!("status/{number:010}.jsonl"));
    let line = "{\"at\":\"2026-01-01T00:00:00Z\",\"event\":\"cancel_requested\"}\n";
    let text = fs::read_to_string(&log).unwrap() + line;
    fs::write(&log, text).unwrap();
    m.node.start();
    until(&m, number, |r| r["state"] == "cancelled");
    assert_nothing_is_left(&m);
    away.bring_back();
    let wanted = m.fingerprint();
    let next = m.snapshot();
    m.assert_snapshot_is(next, &wanted);
}

#[test]
fn a_cancelled_request_is_taken_up_again_under_its_number() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    fs::write(m.at("file"), "first").unwrap();
    let away = m.bucket.take_away();
    let number = create(&m);
    until(&m, number, |r| r["retries"].as_u64() > Some(0));
    act(&m, "cancel", number).ok();
    fs::write(m.at("file"), "second").unwrap();
    fs::write(m.at("other"), noise(4, 2 << 20)).unwrap();
    let wanted = m.fingerprint();
    act(&m, "retry", number).ok();
    assert_eq!(act(&m, "retry", number).code, Some(CONFLICT));
    away.bring_back();
    m.wait_for(number);
    m.assert_snapshot_is(number, &wanted);
    let states = m.states_of(number);
    assert_eq!(
        states.iter().filter(|s| *s == "queued").count(),
        2,
        "{states:?}"
    );
}

#[test]
fn a_request_is_not_taken_up_again_behind_a_later_snapshot() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    fs::write(m.at("file"), "first").unwrap();
    let away = m.bucket.take_away();
    let number = create(&m);
    until(&m, number, |r| r["retries"].as_u64() > Some(0));
    act(&m, "cancel", number).ok();
    let later = create(&m);
    until(&m, later, |r| r["retries"].as_u64() > Some(0));
    let refused = act(&m, "retry", number);
    assert_eq!(refused.code, Some(CONFLICT));
    assert!(refused.stderr.contains("came after it"), "{refused:#?}");
    away.bring_back();
    m.wait_for(later);
    assert_eq!(act(&m, "retry", number).code, Some(CONFLICT));
    assert_eq!(act(&m, "retry", 77).code, Some(10));
}

// ---------------------------------------------------------------- delete, hold, release

fn numbers(m: &Master, args: &[&str]) -> Vec<u64> {
    let mut words = vec!["snapshot", "list", &m.fs];
    words.extend(args);
    let listed = m.node.json(words);
    let all = listed.as_array().unwrap();
    all.iter().map(|r| r["number"].as_u64().unwrap()).collect()
}

fn create_named(m: &Master, name: &str) -> cbfs_tests::Ran {
    let args = ["snapshot", "create", &m.fs, "--name", name, "--wait"];
    m.node.ctl(args)
}

#[test]
fn a_deleted_snapshot_is_gone_from_view_and_later_ones_stay_exact() {
    needs_fuse!();
    let m = Master::new();
    cbfs_tests::tree::build(&m.dir("tree"));
    create_named(&m, "base").ok();
    cbfs_tests::tree::change(&m.at("tree"));
    let wanted = m.fingerprint();
    let second = m.snapshot();
    let snapshot = format!("{}@base", m.fs);
    // It asks; off a terminal the handle answers, and only the right one.
    let delete = ["snapshot", "delete", &snapshot];
    m.node.ctl(delete).fails(2, &["--confirm"]);
    let wrong = delete.iter().copied().chain(["--confirm", "home"]);
    m.node.ctl(wrong).fails(2, &["nothing was done"]);
    m.node.ctl(delete.iter().copied().chain(["--dry-run"])).ok();
    assert_eq!(numbers(&m, &[]), [1, 2]);
    m.node
        .ctl(delete.iter().copied().chain(["--confirm", &m.fs]))
        .ok();
    assert_eq!(numbers(&m, &[]), [2]);
    assert_eq!(numbers(&m, &["--all"]), [1, 2]);
    for name in ["1", "base"] {
        let snapshot = format!("{}@{name}", m.fs);
        m.node.ctl(["snapshot", "show", &snapshot]).fails(10, &[]);
        let dir = m.stage.dir("nowhere");
        let args = ["mount", &snapshot, dir.to_str().unwrap(), "--slave"];
        m.node.ctl(args).fails(10, &[]);
    }
    m.assert_snapshot_is(second, &wanted);
    // The name is free, the number is not.
    create_named(&m, "base").ok();
    assert_eq!(numbers(&m, &[]), [2, 3]);
    create_named(&m, "base").fails(CONFLICT, &["named"]);
    m.assert_snapshot_is(3, &wanted);
    m.node.kill9();
    m.node.start();
    create_named(&m, "base").fails(CONFLICT, &["named"]);
}

#[test]
fn the_latest_and_held_snapshots_are_not_deleted() {
    needs_fuse!();
    let m = Master::new();
    fs::write(m.at("file"), "first").unwrap();
    let first = m.snapshot();
    let delete = |number: u64| {
        let snapshot = format!("{}@{number}", m.fs);
        m.node
            .ctl(["snapshot", "delete", &snapshot, "--confirm", &m.fs])
    };
    delete(first).fails(CONFLICT, &["latest"]);
    fs::write(m.at("file"), "second").unwrap();
    let second = m.snapshot();
    let snapshot = format!("{}@{first}", m.fs);
    m.node
        .ctl(["snapshot", "hold", &snapshot, "--reason", "audit of March"])
        .ok();
    delete(first).fails(CONFLICT, &["audit of March", "release"]);
    let list = m.node.ctl(["snapshot", "list", &m.fs]).ok();
    assert!(list.contains("held: audit of March"), "{list}");
    act(&m, "release", first).ok();
    act(&m, "release", first).fails(CONFLICT, &[]);
    delete(first).ok();
    delete(first).fails(10, &["deleted"]);
    act(&m, "hold", first).fails(10, &["deleted"]);
    assert_eq!(numbers(&m, &[]), [second]);
}

// ---------------------------------------------------------------- failures

/// Take one HTTP request and answer with this status; its body.
fn one_post(listener: &std::net::TcpListener, status: &str) -> String {
    use std::io::{Read, Write};
    let (mut stream, _) = listener.accept().unwrap();
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let n = stream.read(&mut buffer).unwrap();
        request.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|l| {
                l.to_ascii_lowercase()
                    .strip_prefix("content-length: ")?
                    .parse()
                    .ok()
            });
            if body.len() >= length.unwrap_or(0) {
                let answer =
                    format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                stream.write_all(answer.as_bytes()).unwrap();
                return body.to_owned();
            }
        }
        assert_ne!(n, 0, "{text}");
    }
}

/// Who is told of failures: a webhook and a command, by a policy that gives up after a second.
struct Hear {
    posts: std::sync::mpsc::Receiver<String>,
    told: PathBuf,
}

impl Hear {
    /// The webhook answers one request after the other with these.
    fn of(m: &Master, answers: &'static [&'static str]) -> Hear {
        let told = m.stage.path("told");
        let script = m.stage.path("tell");
        let text = format!(
            "#!/bin/sh\nenv | grep ^CBFS_ > {0}.part; mv {0}.part {0}\n",
            told.display()
        );
        fs::write(&script, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&script, mode).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let policy = format!(
            "on_failure = [{:?}]\nwebhook = \"http://{}/hook\"\n[retry_for]\nuser = \"1s\"\n",
            script.to_str().unwrap(),
            listener.local_addr().unwrap()
        );
        fs::write(m.instance_dir().join("policy.toml"), policy).unwrap();
        let (posted, posts) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut answers = answers.iter();
            answers.all(|status| posted.send(one_post(&listener, status)).is_ok())
        });
        Hear { posts, told }
    }

    fn post(&self) -> Value {
        serde_json::from_str(&self.posts.recv_timeout(PATIENCE).unwrap()).unwrap()
    }

    /// What the command found.
    fn environment(&self, m: &Master) -> String {
        let started = std::time::Instant::now();
        while !self.told.exists() {
            assert!(started.elapsed() < PATIENCE, "{}", m.node.log());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        fs::read_to_string(&self.told).unwrap()
    }
}

#[test]
fn what_needs_a_person_fails_at_once_and_a_webhook_that_refuses_is_tried_again() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    fs::write(m.at("file"), "contents").unwrap();
    // Damage that only a person can judge: something else in the place of the manifest.
    let manifest = m.bucket.dir().join(&m.fs).join("m/0000000001-e1.json");
    fs::create_dir_all(manifest.parent().unwrap()).unwrap();
    fs::write(&manifest, "no manifest").unwrap();
    let hear = Hear::of(&m, &["500 Internal Server Error", "200 OK"]);
    let number = create(&m);
    let failed = until(&m, number, |r| r["state"] == "failed");
    assert_eq!(failed["failure"], "permanent", "{failed}");
    assert_nothing_is_left(&m);
    let told = hear.environment(&m);
    let line = "CBFS_FAILURE=permanent";
    assert!(told.lines().any(|l| l == line), "{told}");
    let refused = hear.post();
    assert_eq!(refused["snapshot"]["failure"], "permanent", "{refused}");
    assert_eq!(hear.post(), refused);
    let failed = until(&m, number, |r| r["state"] == "failed");
    assert_eq!(failed["failure"], "permanent", "{failed}");
    // The cause removed, it is made good.
    fs::remove_file(&manifest).unwrap();
    act(&m, "retry", number).ok();
    m.wait_for(number);
    m.assert_snapshot_is(number, &m.fingerprint());
}

#[test]
fn a_request_that_fails_too_long_is_given_up_and_people_are_told() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    let hear = Hear::of(&m, &["200 OK"]);

    fs::write(m.at("file"), "contents").unwrap();
    let away = m.bucket.take_away();
    let number = create(&m);
    let failed = until(&m, number, |r| r["state"] == "failed");
    assert_eq!(failed["failure"], "transient");
    assert_nothing_is_left(&m);
    let body = hear.post();
    assert_eq!(body["event"], "snapshot_failed");
    assert_eq!(body["snapshot"]["number"], number);
    let told = hear.environment(&m);
    for line in [
        format!("CBFS_FS={}", m.fs),
        format!("CBFS_SNAPSHOT={number}"),
        "CBFS_FAILURE=transient".to_owned(),
    ] {
        assert!(told.lines().any(|l| l == line), "{told}");
    }
    assert!(told.contains("CBFS_REASON="), "{told}");

    // Also after a restart the instance says what is wrong and what to do.
    m.node.kill9();
    m.node.start();
    let status = m.node.ctl(["status"]).ok();
    assert!(
        status.contains("degraded") && status.contains("snapshot retry"),
        "{status}"
    );
    away.bring_back();
    act(&m, "retry", number).ok();
    m.wait_for(number);
    let health = m.node.json(["instance", "show", &m.fs])["health"].clone();
    assert_eq!(health, "ok");
    m.assert_snapshot_is(number, &m.fingerprint());
}

#[test]
fn a_policy_that_cannot_be_understood_is_told_and_stops_nothing() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    fs::write(m.instance_dir().join("policy.toml"), "on_failuer = []").unwrap();
    m.node.kill9();
    m.node.start();
    let status = m.node.ctl(["status"]).ok();
    assert!(status.contains("policy.toml"), "{status}");
    fs::write(m.at("file"), "contents").unwrap();
    m.snapshot();
}

// ---------------------------------------------------------------- schedules, retention

/// Wait until the list of snapshots is as wanted.
fn until_listed(m: &Master, args: &[&str], wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let started = std::time::Instant::now();
    loop {
        let mut words = vec!["snapshot", "list", &m.fs, "--json"];
        words.extend(args);
        let listed = m.node.ctl(words).stdout;
        let all: Vec<Value> = serde_json::from_str(&listed).unwrap();
        if wanted(&all) {
            return all;
        }
        assert!(started.elapsed() < PATIENCE, "{all:#?}\n{}", m.node.log());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

fn periodic<'a>(all: &'a [Value], state: &str) -> Vec<&'a Value> {
    let of_kind = all.iter().filter(|r| r["request"]["kind"] == "periodic");
    of_kind.filter(|r| r["state"] == state).collect()
}

fn set(m: &Master, args: &[&str]) -> String {
    let mut words = vec!["fs", "set", &m.fs];
    words.extend(args);
    m.node.ctl(words).ok()
}

#[test]
fn periodic_snapshots_come_by_themselves_and_retention_keeps_what_was_asked() {
    needs_fuse!();
    let m = Master::new();
    fs::write(m.at("file"), "contents").unwrap();
    create_named(&m, "mine").ok();
    let shown = set(&m, &["--every", "1s", "--keep-last", "2"]);
    assert!(
        shown.contains("every 1s") && shown.contains("2 last"),
        "{shown}"
    );
    let show = ["fs", "show", &m.fs, "--bucket", m.bucket.url()];
    let shown = m.node.ctl(show).ok();
    assert!(
        shown.contains("every 1s") && shown.contains("2 last"),
        "{shown}"
    );
    until_listed(&m, &["--all"], |all| {
        all.iter().filter(|r| r["deleted"] == true).count() >= 2
    });
    set(&m, &["--no-schedule"]);
    let mut open = until_listed(&m, &[], |all| all.iter().all(|r| r["state"] == "complete"));
    assert_eq!(open.remove(0)["name"], "mine", "named ones stay");
    let last = open.last().unwrap()["number"].as_u64().unwrap();
    m.assert_snapshot_is(last, &m.fingerprint());
    let next = m.node.json(["instance", "show", &m.fs])["next_periodic"].clone();
    assert!(next.is_null(), "{next}");
    // Retention of the last one may still be under way: the next one settles it.
    let number = m.snapshot();
    let left = until_listed(&m, &[], |all| all.len() <= 3);
    let left: Vec<u64> = left.iter().map(|r| r["number"].as_u64().unwrap()).collect();
    assert_eq!(left.first(), Some(&1));
    assert_eq!(left.last(), Some(&number));
}

#[test]
fn periodic_requests_coalesce_while_the_bucket_is_away_and_missed_ones_come_once() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    fs::write(m.at("file"), "contents").unwrap();
    set(&m, &["--every", "1s"]);
    until_listed(&m, &[], |all| !periodic(all, "complete").is_empty());
    let away = m.bucket.take_away();
    until_listed(&m, &[], |all| {
        let open = all.iter().filter(|r| {
            let state = r["state"].as_str().unwrap();
            !["complete", "failed"].contains(&state)
        });
        assert!(open.count() <= 1, "{all:#?}");
        periodic(all, "failed").len() >= 2
    });
    away.bring_back();
    // The schedule is known without the bucket, also after a restart; from now on it is rare.
    set(&m, &["--every", "52w"]);
    until_listed(&m, &[], |all| {
        all.iter()
            .all(|r| ["complete", "failed"].contains(&r["state"].as_str().unwrap()))
    });
    m.node.kill9();
    // The last request was made two years ago, says the log: a slot was missed, or two.
    for entry in fs::read_dir(m.instance_dir().join("status")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let year = &text[7..11];
        let then = (year.parse::<u32>().unwrap() - 2).to_string();
        fs::write(
            &path,
            text.replace(&format!("{{\"at\":\"{year}"), &format!("{{\"at\":\"{then}")),
        )
        .unwrap();
    }
    let settings = m.instance_dir().join("settings.json");
    let text = fs::read_to_string(&settings).unwrap();
    let at = text.find("\"created_at\": \"").unwrap() + 15;
    let text = format!("{}2020{}", &text[..at], &text[at + 4..]);
    fs::write(&settings, text).unwrap();
    let made = fs::read_dir(m.instance_dir().join("status"))
        .unwrap()
        .count() as u64;
    m.node.start();
    let all = until_listed(&m, &[], |all| {
        all.last().unwrap()["number"].as_u64() > Some(made)
            && all.last().unwrap()["state"] == "complete"
    });
    assert_eq!(all.last().unwrap()["number"], made + 1, "{all:#?}");
    let next = m.node.json(["instance", "show", &m.fs])["next_periodic"].clone();
    assert!(next.is_string(), "{next}");
}
