//! The daemon as a service: what it tells the service manager, how it stops, what it tells monitoring.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too

use cbfs_tests::{Master, Stage, cbfsctl, needs_fuse};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long a message may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The service manager's end of sd_notify(3).
struct ServiceManager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl ServiceManager {
    fn new(stage: &Stage) -> ServiceManager {
        let path = stage.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        ServiceManager { socket, path }
    }

    /// The next message that has this line; those before it.
    fn wait_for(&self, wanted: &str) -> Vec<String> {
        let mut seen = Vec::new();
        loop {
            let mut bytes = [0; 4096];
            let n = self
                .socket
                .recv(&mut bytes)
                .unwrap_or_else(|e| panic!("no {wanted:?} after {seen:?}: {e}"));
            let text = String::from_utf8_lossy(&bytes[..n]).into_owned();
            let found = text.lines().any(|line| line == wanted);
            seen.push(text);
            if found {
                return seen;
            }
        }
    }
}

#[test]
fn the_service_manager_hears_that_it_is_ready_lives_and_stops() {
    needs_fuse!();
    let stage = Stage::new();
    let manager = ServiceManager::new(&stage);
    let node = stage.node("a").with_environment(&[
        ("NOTIFY_SOCKET", manager.path.display().to_string()),
        // A second, in microseconds: a beat every half one.
        ("WATCHDOG_USEC", "1000000".to_owned()),
    ]);
    let bucket = stage.bucket();
    node.start();
    let before = manager.wait_for("READY=1");
    // It may take its time to get there.
    assert!(
        before.concat().contains("EXTEND_TIMEOUT_USEC="),
        "{before:?}"
    );
    assert!(before.concat().contains("STATUS=0 instances, 0 mounted"));
    manager.wait_for("WATCHDOG=1");

    let created = node.ctl(["fs", "create", "home", "--bucket", bucket.url()]);
    let fs = created.ok().trim_end().to_owned();
    let mnt = stage.dir("mnt");
    node.mount(&fs, &bucket, &mnt);
    fs::write(mnt.join("file"), "kept").unwrap();
    node.stop();
    manager.wait_for("STOPPING=1");
    // What it waits for, and that it wants the time.
    let rest = manager.wait_for(&format!("STATUS=unmounting and writing out {fs} (1 of 1)"));
    assert!(rest.concat().contains("EXTEND_TIMEOUT_USEC="), "{rest:?}");

    // With the next start the mount is back before it says that it is ready.
    node.start();
    let ready = manager.wait_for("READY=1");
    assert!(ready.concat().contains("STATUS=1 instances, 1 mounted"));
    assert_eq!(fs::read_to_string(mnt.join("file")).unwrap(), "kept");
}

#[test]
fn a_daemon_that_hangs_does_not_say_that_it_lives() {
    needs_fuse!();
    let stage = Stage::new();
    let manager = ServiceManager::new(&stage);
    let node = stage.node("a").with_environment(&[
        ("NOTIFY_SOCKET", manager.path.display().to_string()),
        ("WATCHDOG_USEC", "400000".to_owned()),
    ]);
    node.start();
    manager.wait_for("READY=1");
    manager.wait_for("WATCHDOG=1");
    // Its API cannot be reached any more: the next beats must fail, and say so.
    fs::rename(node.socket(), stage.path("elsewhere")).unwrap();
    let log = || node.log().contains("the watchdog is not told");
    let started = std::time::Instant::now();
    while !log() {
        assert!(started.elapsed() < PATIENCE, "{}", node.log());
        std::thread::sleep(Duration::from_millis(20)); // a log cannot be waited for
    }
    while manager.socket.set_nonblocking(true).is_ok() && manager.socket.recv(&mut [0; 64]).is_ok()
    {
    }
    manager.socket.set_nonblocking(false).unwrap();
    let short = Some(Duration::from_millis(900));
    manager.socket.set_read_timeout(short).unwrap();
    let heard = manager.socket.recv(&mut [0; 64]);
    assert!(heard.is_err(), "it still says that it lives");
    fs::rename(stage.path("elsewhere"), node.socket()).unwrap();
}

#[test]
fn called_as_cbfsd_the_program_is_the_daemon() {
    let stage = Stage::new();
    let link = stage.path("cbfsd");
    std::os::unix::fs::symlink(cbfsctl(), &link).unwrap();
    let help = Command::new(&link).arg("--help").output().unwrap();
    let text = String::from_utf8(help.stdout).unwrap();
    assert!(
        text.contains("Usage: cbfsd") && text.contains("SIGTERM"),
        "{text}"
    );
    let version = Command::new(&link).arg("--version").output().unwrap();
    assert!(version.stdout.starts_with(b"cbfsd "));
}

// ---------------------------------------------------------------- monitoring

/// `/metrics` of a daemon.
fn scrape(socket: &Path) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    body.to_owned()
}

/// The families of an exposition, by name, with their type. Panics where `promtool check metrics` would complain.
fn families(text: &str) -> BTreeMap<String, String> {
    let mut families = BTreeMap::new();
    let mut helped = BTreeSet::new();
    let mut samples = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(helped.insert(name), "{name} has two HELP lines");
            assert!(help.ends_with('.'), "{name}: {help}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(helped.contains(name), "{name} has no HELP before its TYPE");
            let twice = families.insert(name.to_owned(), kind.to_owned());
            assert_eq!(twice, None, "{name} has two TYPE lines");
        } else {
            let name = line.split(['{', ' ']).next().unwrap();
            let (series, value) = line.rsplit_once(' ').unwrap();
            let parts = ["_bucket", "_sum", "_count"];
            let of_histogram = parts.iter().filter_map(|p| name.strip_suffix(p));
            let known = families.contains_key(name)
                || of_histogram
                    .map(|family| families.get(family))
                    .any(|kind| kind.is_some_and(|k| k == "histogram"));
            assert!(known, "{name} has no TYPE: {line}");
            assert!(samples.insert(series), "{series} is there twice");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
    for (name, kind) in &families {
        let total = name.ends_with("_total");
        assert_eq!(total, kind == "counter", "{name} is a {kind}");
        for unit in [
            "_ms",
            "_milliseconds",
            "_kib",
            "_mib",
            "_percent",
            "_minutes",
        ] {
            assert!(!name.ends_with(unit), "{name}: base units only");
        }
        assert!(
            name.starts_with("cbfs_") || name.starts_with("process_"),
            "{name}"
        );
    }
    families
}

/// The names of metrics in expressions.
fn names_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let metrics = words
        .filter(|w| (w.starts_with("cbfs_") || w.starts_with("process_")) && !w.ends_with('_'));
    metrics.map(str::to_owned).collect()
}

#[test]
fn metrics_are_well_formed_and_rules_and_dashboard_use_them() {
    needs_fuse!();
    let m = Master::new();
    fs::write(m.at("file"), "twelve bytes").unwrap();
    m.snapshot();
    let text = scrape(&m.node.socket());
    let families = families(&text);
    let sample = |start: &str| {
        let line = text.lines().find(|l| l.starts_with(start));
        let line = line.unwrap_or_else(|| panic!("no {start} in:\n{text}"));
        line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()
    };
    let of = |name: &str| sample(&format!("{name}{{instance_id=\"{}\"", m.fs));
    assert_eq!(of("cbfs_mounted"), 1.0);
    assert_eq!(of("cbfs_last_snapshot"), 1.0);
    assert_eq!(of("cbfs_unpublished_transactions"), 0.0);
    assert!(of("cbfs_last_snapshot_timestamp_seconds") > 1.7e9);
    assert!(of("cbfs_written_bytes_total") >= 12.0);
    assert!(sample("process_resident_memory_bytes") > 1e6);
    assert_eq!(
        sample(&format!(
            "cbfs_health{{instance_id=\"{}\",state=\"ok\"}}",
            m.fs
        )),
        1.0
    );

    let share = Path::new(env!("CARGO_MANIFEST_DIR")).join("../share");
    let rules = fs::read_to_string(share.join("prometheus/alerts.yml")).unwrap();
    let board = fs::read_to_string(share.join("grafana/cbfs.json")).unwrap();
    let board: Value = serde_json::from_str(&board).unwrap();
    let mut used = names_in(&rules);
    assert!(used.len() > 8, "{used:?}");
    for panel in board["panels"].as_array().unwrap() {
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{panel}");
        for target in targets {
            used.extend(names_in(target["expr"].as_str().unwrap()));
        }
    }
    let known: BTreeSet<String> = families.keys().cloned().collect();
    let unknown: Vec<_> = used.difference(&known).collect();
    assert!(unknown.is_empty(), "the daemon has no {unknown:?}");
    let unseen: Vec<_> = known.difference(&used).collect();
    assert!(unseen.len() < known.len() / 3, "nobody looks at {unseen:?}");
}

#[test]
fn the_unit_keeps_mounts_visible_to_the_host() {
    let share = Path::new(env!("CARGO_MANIFEST_DIR")).join("../share");
    let unit = fs::read_to_string(share.join("systemd/cbfsd.service")).unwrap();
    let set: Vec<&str> = unit
        .lines()
        .filter(|l| !l.starts_with('#'))
        .filter_map(|l| l.split_once('=').map(|(key, _)| key))
        .collect();
    // systemd.exec(5): each of these gives the service a mount namespace of its own.
    for private in [
        "PrivateMounts",
        "PrivateTmp",
        "PrivateDevices",
        "ProtectSystem",
        "ProtectHome",
        "ProtectProc",
        "ProcSubset",
        "ProtectKernelTunables",
        "ProtectKernelModules",
        "ProtectKernelLogs",
        "ProtectControlGroups",
        "ReadOnlyPaths",
        "ReadWritePaths",
        "InaccessiblePaths",
        "ExecPaths",
        "NoExecPaths",
        "TemporaryFileSystem",
        "BindPaths",
        "BindReadOnlyPaths",
        "DynamicUser",
        "RootDirectory",
        "RootImage",
        "MountFlags",
        "MountAPIVFS",
    ] {
        assert!(!set.contains(&private), "{private} hides the mounts");
    }
    for needed in ["Type", "WatchdogSec", "RuntimeDirectory", "StateDirectory"] {
        assert!(set.contains(&needed), "{needed} is missing");
    }
    // systemd's own opinion, where it is installed.
    let verify = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(share.join("systemd/cbfsd.service"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output();
    if let Ok(ran) = verify {
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        // The program need not be installed here.
        let serious = said
            .lines()
            .filter(|l| l.contains("cbfsd.service") && !l.contains("/usr/bin/cbfs"));
        assert_eq!(serious.collect::<Vec<_>>(), Vec::<&str>::new());
    }
}
