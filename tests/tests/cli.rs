//! The command line keeps its promises to scripts: data on stdout, messages on stderr, JSON that
//! parses, exit codes that mean something.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too

use cbfs_core::api::{DaemonStatus, ErrorBody, Health, InstanceInfo, Role, SnapshotInfo};
use cbfs_core::snapshot::SnapshotState;
use cbfs_tests::contents::noise;
use cbfs_tests::{Master, Node, Ran, Stage, needs_fuse, tree};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;

fn parse<T: serde::de::DeserializeOwned>(value: Value) -> T {
    let text = value.to_string();
    serde_json::from_value(value).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn fs_create_prints_the_handle_and_nothing_else() {
    let stage = Stage::new();
    let (node, bucket) = (stage.node("a"), stage.bucket());
    let ran = node.ctl(["fs", "create", "home", "--bucket", bucket.url()]);
    assert!(
        ran.stderr.contains("cbfsctl mount"),
        "no word on how to go on: {ran:?}"
    );
    let stdout = ran.ok();
    let handle = stdout.strip_suffix('\n').unwrap();
    assert!(handle.starts_with("home-") && handle.len() == 41 && !handle.contains('\n'));
    let quiet = node.ctl(["fs", "create", "home", "--bucket", bucket.url(), "--quiet"]);
    assert_eq!(quiet.stderr, "");
    assert_eq!(quiet.stdout.lines().count(), 1);
    // By the environment, too.
    let mut command = node.command();
    command
        .args(["fs", "list", "--json"])
        .env("CBFS_BUCKET", bucket.url());
    let listed: Value = serde_json::from_str(&Ran::of(&mut command).ok()).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 2);
}

#[test]
fn json_answers_are_what_the_api_documents() {
    needs_fuse!();
    let m = Master::new();
    fs::write(m.at("file"), noise(1, 2_000_000)).unwrap();
    let created = [
        "snapshot",
        "create",
        &m.fs,
        "--name",
        "one",
        "--wait",
        "--timeout",
        "100",
    ];
    let info: SnapshotInfo = parse(m.node.json(created));
    assert_eq!((info.number.0, info.state), (1, SnapshotState::Complete));
    assert!(info.files_done == info.files_total && info.objects_sent == info.objects_made);

    let status: DaemonStatus = parse(m.node.json(["status"]));
    assert_eq!(status.pid, m.node.pid());
    assert_eq!(status.instances.len(), 1);
    assert_eq!(status.snapshots, []);
    let instances: Vec<InstanceInfo> = parse(m.node.json(["instance", "list"]));
    let shown: InstanceInfo = parse(m.node.json(["instance", "show", "home"]));
    assert_eq!(instances[0].id, m.fs);
    assert_eq!(shown.mount_point.as_deref(), Some(m.mnt.as_path()));
    assert_eq!((shown.role, shown.health), (Role::Master, Health::Ok));
    assert_eq!(shown.last_snapshot.map(|n| n.0), Some(1));
    assert!(shown.problems.is_empty());

    let snapshots = m.node.json(["snapshot", "list", "home"]);
    assert_eq!(snapshots[0]["number"], 1);
    assert_eq!(snapshots[0]["name"], "one");
    assert_eq!(snapshots[0]["state"], "complete");
    let shown = m.node.json(["snapshot", "show", "home@one"]);
    assert_eq!(shown["manifest"]["number"], 1);
    assert_eq!(
        m.node
            .json(["fs", "show", "home", "--bucket", m.bucket.url()])["fs"],
        m.fs.as_str()
    );
    assert_eq!(m.node.json(["epoch", "list", "home"])[0]["epoch"], 1);
    let unmounted: InstanceInfo = parse(m.node.json(["umount", "home"]));
    assert_eq!(unmounted.mount_point, None);
    let mnt = m.mnt.to_str().unwrap();
    let mounted: InstanceInfo = parse(m.node.json(["mount", "home", mnt]));
    assert_eq!(mounted.mount_point.as_deref(), Some(m.mnt.as_path()));

    // A stream is one JSON document a line, up to the final state.
    let watched = m.node.ctl(["snapshot", "watch", "home@1", "--json"]);
    let lines: Vec<SnapshotInfo> = watched
        .ok()
        .lines()
        .map(|l| parse(serde_json::from_str(l).unwrap()))
        .collect();
    assert_eq!(lines.last().unwrap().state, SnapshotState::Complete);
}

#[test]
fn a_json_error_is_one_document_on_stderr() {
    needs_fuse!();
    let m = Master::new();
    for (args, code, kind) in [
        (vec!["snapshot", "show", "home@7"], 10, "not_found"),
        (vec!["snapshot", "create", "other"], 10, "not_found"),
        (vec!["mount", "home@1", "/tmp"], 2, "usage"),
        (
            vec!["snapshot", "create", "home", "--wait=never"],
            2,
            "usage",
        ),
        (
            vec!["mount", "home", m.mnt.to_str().unwrap()],
            11,
            "conflict",
        ),
        (
            vec!["--socket", "/nonexistent", "status"],
            4,
            "daemon_unreachable",
        ),
        (
            vec!["fs", "list", "--bucket", "file:///nonexistent"],
            5,
            "bucket_unreachable",
        ),
    ] {
        let ran = m.node.ctl(args.iter().chain(&["--json"]));
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(code), ""), "{ran:?}");
        let body: ErrorBody =
            serde_json::from_str(&ran.stderr).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
        assert_eq!(serde_json::to_value(body.error.kind).unwrap(), kind);
        assert!(
            !body.error.message.is_empty() && body.error.hint.is_some(),
            "{ran:?}"
        );
    }
}

#[test]
fn progress_and_messages_keep_off_stdout() {
    needs_fuse!();
    let m = Master::new();
    tree::small_files(&m.dir("files"), 100);
    let ran = m.node.ctl(["snapshot", "create", "home", "--wait"]);
    assert_eq!(ran.stdout, "1\n");
    assert!(ran.stderr.contains("complete"), "{ran:?}");
    assert!(
        !ran.stderr.contains('\x1b') && !ran.stderr.contains('\r'),
        "{ran:?}"
    );
    let ran = m.node.ctl(["umount", "home"]);
    assert_eq!(ran.stdout, "");
    assert!(ran.stderr.contains("is unmounted"), "{ran:?}");
    let ran = m
        .node
        .ctl(["mount", "home", m.mnt.to_str().unwrap(), "--quiet"]);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
    let ran = m.node.ctl(["status"]);
    assert_eq!(ran.stderr, "");
    assert!(!ran.stdout.contains('\x1b'), "{ran:?}");
    ran.ok();
}

#[test]
fn a_wait_that_times_out_exits_with_3_and_the_snapshot_goes_on() {
    needs_fuse!();
    let m = Master::new();
    fs::write(m.at("large"), noise(1, 24 << 20)).unwrap();
    let ran = m
        .node
        .ctl(["snapshot", "create", "home", "--wait", "--timeout", "0"]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert_eq!(ran.stdout, "1\n");
    m.wait_for(1);
}

/// Whatever prints what there is. Snapshot 2 is the latest. (An export whose reader goes away has failed.)
const LISTINGS: [&str; 17] = [
    "--help",
    "status",
    "doctor",
    "fs list",
    "fs show home",
    "instance list",
    "instance show home",
    "slave list home",
    "epoch list home",
    "snapshot list home",
    "snapshot list home --all",
    "snapshot show home@1",
    "snapshot diff home@1 2",
    "snapshot verify home@2 --deep",
    "index show home@2",
    "log home",
    "snapshot watch home@1",
];

/// A master with a slave and two snapshots, whose commands find its bucket.
fn with_something_to_list() -> Master {
    let m = Master::new();
    m.node.set("CBFS_BUCKET", m.bucket.url());
    fs::write(m.at("file"), noise(1, 300_000)).unwrap();
    m.snapshot();
    fs::write(m.at("other"), noise(2, 300_000)).unwrap();
    m.snapshot();
    fs::write(m.at("unpublished"), noise(3, 300_000)).unwrap();
    m
}

#[test]
fn a_reader_that_goes_away_ends_a_command_quietly() {
    needs_fuse!();
    let m = with_something_to_list();
    for listing in LISTINGS {
        for json in [false, true] {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            let mut command = m.node.command();
            command.args(listing.split(' ')).arg("--quiet");
            if json && listing != "--help" {
                command.arg("--json");
            }
            command.stdout(writer).stderr(Stdio::piped());
            let ran = Ran::of(&mut command);
            assert_eq!(ran.stderr, "", "{listing}, {json}");
            assert_eq!(ran.code, Some(0), "{listing}, {json}");
        }
    }
}

#[test]
fn the_demo_shows_everything_and_leaves_nothing() {
    needs_fuse!();
    let stage = Stage::new();
    let node = stage.node("nobody");
    tree::small_files(&stage.dir("tree"), 250);
    fs::write(stage.path("tree/large"), noise(1, 3_000_000)).unwrap();
    let dir = stage.path("demo");
    let mut command = node.command();
    command
        .args(["demo", "--dir"])
        .arg(&dir)
        .arg("--tree")
        .arg(stage.path("tree"));
    let ran = Ran::of(&mut command);
    let stderr = ran.stderr.clone();
    let stdout = ran.ok();
    for word in ["zstd", "tar", "sqlite3"] {
        assert!(
            stdout.contains(word) || stderr.contains(word),
            "no word of {word}:\n{stdout}{stderr}"
        );
    }
    let left = fs::read_dir(&dir).map(|d| d.count()).unwrap_or(0);
    assert_eq!(left, 0, "the demo left something in {}", dir.display());
    assert!(
        !node.state_dir().exists(),
        "the demo used the node's own state directory"
    );

    let mut command = node.command();
    command
        .args(["demo", "--json", "--dir"])
        .arg(&dir)
        .arg("--tree")
        .arg(stage.path("tree"));
    let told: Value = serde_json::from_str(&Ran::of(&mut command).ok()).unwrap();
    assert_eq!(told["kept"], false);
    assert!(
        told["steps"].as_array().is_some_and(|s| s.len() > 3),
        "{told}"
    );

    // A directory with something in it is not touched.
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("precious"), "mine").unwrap();
    let mut command = node.command();
    command
        .args(["demo", "--dir"])
        .arg(&dir)
        .arg("--tree")
        .arg(stage.path("tree"));
    let refused = Ran::of(&mut command);
    assert!(refused.code != Some(0), "{refused:?}");
    assert_eq!(fs::read_to_string(dir.join("precious")).unwrap(), "mine");
}

/// Run a command on a terminal of so many columns.
fn on_terminal(node: &Node, columns: u16, line: &str) -> String {
    // script(1) gives it one; stty sets its width.
    let command = format!(
        "stty cols {columns} rows 24; {} {line}",
        cbfs_tests::cbfsctl().display()
    );
    let mut script = node.environment_of(std::process::Command::new("script"));
    script
        .args(["-qec", &command, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::null());
    Ran::of(&mut script).stdout
}

#[test]
fn tables_fit_the_terminal_and_colours_are_only_there() {
    needs_fuse!();
    if cbfs_tests::tools::is_missing("script") {
        return;
    }
    let m = with_something_to_list();
    let longest = |text: &str| text.lines().map(|l| l.trim_end().chars().count()).max();
    for columns in [100, 120] {
        let text = on_terminal(&m.node, columns, "instance list");
        assert!(longest(&text) <= Some(usize::from(columns)), "{text}");
    }
    // Too narrow for a table: nothing is cut off then. No number ever is.
    let text = on_terminal(&m.node, 40, "instance list");
    assert!(text.contains(&m.fs), "{text}");
    let numbers = |text: &str| -> BTreeSet<String> {
        let is_number = |w: &&str| w.chars().all(|c| c.is_ascii_digit() || c == ',');
        text.split_whitespace()
            .filter(is_number)
            .map(str::to_owned)
            .collect()
    };
    for listing in LISTINGS {
        let piped = || numbers(&m.node.ctl(listing.split(' ')).ok());
        let before = piped();
        let texts = [40, 80].map(|columns| (columns, on_terminal(&m.node, columns, listing)));
        // Those that do not change by themselves.
        let steady: BTreeSet<String> = &before & &piped();
        for (columns, text) in texts {
            let at = format!("{listing} at {columns}");
            assert!(
                longest(&text) <= Some(usize::from(columns)) || !text.contains('…'),
                "{at}:\n{text}"
            );
            // Its numbers stand in sentences.
            let whole = steady.is_subset(&numbers(&text)) || listing == "doctor";
            assert!(whole, "{at}: {steady:?}\n{text}");
        }
    }
    let piped = m.node.ctl(["instance", "list"]).ok();
    assert!(
        piped.contains(&m.fs) && piped.lines().count() == 2,
        "{piped}"
    );

    let wrong = on_terminal(&m.node, 80, "snapshot show home@77");
    assert!(wrong.contains("\x1b["), "{wrong:?}");
    m.node.set("NO_COLOR", "1");
    let wrong = on_terminal(&m.node, 80, "snapshot show home@77");
    assert!(!wrong.contains("\x1b["), "{wrong:?}");
}
