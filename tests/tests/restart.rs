//! A daemon that is killed, or stopped, loses nothing that was answered; its mounts come back by
//! themselves, and snapshots under way go on.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too

use cbfs_tests::contents::{Dice, noise};
use cbfs_tests::{Exactness, Fingerprint, Ledger, Master, Stage, assert_same, needs_fuse};
use cbfs_tests::{needs_tools, tools, tree};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

/// Let a ledger go on until the daemon is gone. `done` counts what was answered.
fn write_until_killed(ledger: &mut Ledger, done: &AtomicU64) {
    while ledger.step().is_ok() {
        done.fetch_add(1, Ordering::SeqCst);
    }
}

/// Wait until `count` further operations were answered.
fn wait_until(done: &AtomicU64, count: u64) {
    let goal = done.load(Ordering::SeqCst) + count;
    while done.load(Ordering::SeqCst) < goal {
        std::thread::yield_now();
    }
}

#[test]
fn kill9_in_the_middle_of_writers_loses_nothing_that_was_answered() {
    needs_fuse!();
    let m = Master::new();
    let mut ledgers: Vec<Ledger> = (0..3)
        .map(|n| Ledger::begin(&m.at(format!("writer-{n}")), n))
        .collect();
    let done = AtomicU64::new(0);
    let mut dice = Dice::new(1);
    for _ in 0..6 {
        std::thread::scope(|scope| {
            for ledger in &mut ledgers {
                scope.spawn(|| write_until_killed(ledger, &done));
            }
            wait_until(&done, 50 + dice.below(1_500));
            m.node.kill9();
        });
        m.node.start();
        ledgers.iter_mut().for_each(Ledger::check);
    }
    // And once more, from nothing but the disk.
    m.node.stop();
    m.node.start();
    ledgers.iter_mut().for_each(Ledger::check);
}

#[test]
fn kill9_while_it_recovers_loses_nothing_either() {
    needs_fuse!();
    let m = Master::new();
    let mut ledger = Ledger::begin(&m.at("writer"), 5);
    let done = AtomicU64::new(0);
    for round in 0..3 {
        std::thread::scope(|scope| {
            scope.spawn(|| write_until_killed(&mut ledger, &done));
            wait_until(&done, 800);
            m.node.kill9();
        });
        // At several moments of its start.
        for moment in 0..4 {
            m.node.start_blindly();
            let spins = (round * 4 + moment) * 400_000;
            (0..spins).for_each(|n| {
                std::hint::black_box(n);
            });
            m.node.kill9();
        }
        m.node.start();
        ledger.check();
    }
}

#[test]
fn a_clean_stop_and_start_brings_the_mount_back_as_it_was() {
    needs_fuse!();
    let m = Master::new();
    tree::build(&m.dir("tree"));
    tree::build(&m.dir("changed"));
    tree::change(&m.at("changed"));
    let holes = || Fingerprint::take(&m.mnt, Exactness::CopyWithHoles);
    let (before, before_holes) = (m.fingerprint(), holes());
    m.node.stop();
    assert!(
        fs::read_dir(&m.mnt).unwrap().next().is_none(),
        "it is still mounted"
    );
    m.node.start();
    assert_same("after a clean stop", &before, &m.fingerprint());
    assert_same("holes after a clean stop", &before_holes, &holes());
    m.node.kill9();
    m.node.start();
    assert_same("after a kill", &before, &m.fingerprint());
    assert_same("holes after a kill", &before_holes, &holes());
}

#[test]
fn a_daemon_asked_to_stop_while_it_starts_ends_in_order() {
    needs_fuse!();
    let m = Master::new();
    fs::write(m.at("file"), "x").unwrap();
    m.node.kill9();
    // While it opens the instance: the journal's new segment is made, nothing answers yet.
    m.node.start_blindly_armed("segment.named,stop");
    m.node.must_be_stopped("it opens the instance");
    m.node.ask_to_stop();
    m.node.go_on();
    let status = m.node.wait_for_end();
    assert!(status.success(), "{status}\n{}", m.node.log());
    // It left no mount that nobody serves.
    assert_eq!(fs::read_dir(m.at(".")).unwrap().count(), 0);
    m.node.start();
    assert_eq!(fs::read(m.at("file")).unwrap(), b"x");
}

#[test]
fn a_hostile_tree_survives_a_kill_right_after_it_was_made() {
    needs_fuse!();
    let m = Master::new();
    tree::build(&m.dir("tree"));
    tree::change(&m.at("tree"));
    let before = m.fingerprint();
    m.node.kill9();
    m.node.start();
    assert_same("after a kill", &before, &m.fingerprint());
    // And it goes on from there.
    tree::build(&m.dir("another"));
    let before = m.fingerprint();
    m.node.kill9();
    m.node.start();
    assert_same("after a second kill", &before, &m.fingerprint());
}

#[test]
fn an_unmounted_file_system_stays_unmounted_and_keeps_its_changes() {
    needs_fuse!();
    let m = Master::new();
    fs::write(m.at("file"), "kept").unwrap();
    m.node.ctl(["umount", m.mnt.to_str().unwrap()]).ok();
    m.node.kill9();
    m.node.start();
    assert!(!m.at("file").exists());
    m.node.mount(&m.fs, &m.bucket, &m.mnt);
    assert_eq!(fs::read_to_string(m.at("file")).unwrap(), "kept");
}

#[test]
fn a_lost_node_costs_what_came_after_the_last_complete_snapshot_and_nothing_else() {
    needs_fuse!();
    let m = Master::new();
    tree::build(&m.dir("tree"));
    let before = m.fingerprint();
    let number = m.snapshot();
    tree::change(&m.at("tree"));
    let later = m.at("later");
    fs::write(&later, "fsynced").unwrap();
    File::open(&later).unwrap().sync_all().unwrap();
    m.node.kill9();
    fs::remove_dir_all(m.node.state_dir()).unwrap();
    let slave = m.slave_of("latest");
    let found = Fingerprint::take(&slave.mnt, Exactness::Snapshot);
    assert_same(&format!("snapshot {number}"), &before, &found);
}

#[test]
fn what_only_open_descriptors_kept_is_gone_after_a_kill_and_takes_no_space() {
    needs_fuse!();
    let m = Master::new();
    let inodes = || {
        let about = m.node.json(["instance", "show", &m.fs]);
        about["inodes"].as_u64().unwrap()
    };
    let before = inodes();
    let backing_files = || {
        let dirs = fs::read_dir(m.instance_dir().join("data")).unwrap();
        dirs.map(|d| fs::read_dir(d.unwrap().path()).unwrap().count())
            .sum::<usize>()
    };
    let path = m.at("open");
    let file = File::create_new(&path).unwrap();
    file.write_all_at(&noise(1, 200_000), 0).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(inodes(), before + 1);
    m.node.kill9();
    drop(file);
    m.node.start();
    assert_eq!(inodes(), before);
    assert_eq!(backing_files(), 0);
}

#[test]
fn large_files_overwritten_cut_and_spilled_around_a_kill_are_whole() {
    needs_fuse!();
    let m = Master::new();
    let mut dice = Dice::new(3);
    let mut wanted: Vec<Vec<u8>> = Vec::new();
    for n in 0..24 {
        wanted.push(noise(
            n,
            [100, 16_384, 16_385, 700_000, 2_500_000][n as usize % 5],
        ));
        fs::write(m.at(format!("file-{n}")), &wanted[n as usize]).unwrap();
    }
    for round in 0..4 {
        for (n, bytes) in wanted.iter_mut().enumerate() {
            let path = m.at(format!("file-{n}"));
            let file = File::options().write(true).open(&path).unwrap();
            let size = bytes.len() as u64;
            match (n + round) % 6 {
                0 => {
                    let at = dice.below(size + 1) as usize;
                    let patch = noise(dice.roll(), 9_000);
                    bytes.resize(bytes.len().max(at + patch.len()), 0);
                    bytes[at..at + patch.len()].copy_from_slice(&patch);
                    file.write_all_at(&patch, at as u64).unwrap();
                }
                1 => {
                    bytes.truncate(dice.below(size + 1) as usize);
                    file.set_len(bytes.len() as u64).unwrap();
                }
                2 => {
                    *bytes = noise(dice.roll(), 60_000);
                    fs::write(&path, &bytes).unwrap();
                }
                3 => {
                    bytes.resize(bytes.len() + 50_000, 0);
                    file.set_len(bytes.len() as u64).unwrap();
                }
                4 => {
                    // Down to inline and up again.
                    *bytes = noise(dice.roll(), 10);
                    fs::write(&path, &bytes).unwrap();
                    let more = noise(dice.roll(), 30_000);
                    file.write_all_at(&more, 10).unwrap();
                    bytes.extend(&more);
                }
                _ => {
                    let other = m.at("replacement");
                    *bytes = noise(dice.roll(), 300_000);
                    fs::write(&other, &bytes).unwrap();
                    fs::rename(&other, &path).unwrap();
                }
            }
        }
        m.node.kill9();
        m.node.start();
        for (n, bytes) in wanted.iter().enumerate() {
            let found = fs::read(m.at(format!("file-{n}"))).unwrap();
            assert!(found == *bytes, "file-{n} in round {round}");
        }
    }
}

/// A tree in which a snapshot has something to do.
fn much(m: &Master) {
    tree::build(&m.dir("tree"));
    for n in 0..20 {
        fs::write(m.at(format!("much-{n}")), noise(n, 1_500_000)).unwrap();
    }
}

/// Change what a snapshot under way still needs.
fn disturb(m: &Master) {
    for n in (0..20).rev() {
        let path = m.at(format!("much-{n}"));
        match n % 4 {
            0 => fs::write(&path, "replaced").unwrap(),
            1 => File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .write_all_at(b"!", 9)
                .unwrap(),
            2 => fs::remove_file(&path).unwrap(),
            _ => File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(1_100_000)
                .unwrap(),
        }
    }
    tree::change(&m.at("tree"));
}

#[test]
fn a_snapshot_goes_on_after_a_kill_in_any_state_and_is_exact() {
    needs_fuse!();
    for state in ["queued", "collected", "writing", "written", "copying"] {
        let m = Master::new();
        much(&m);
        let before = m.fingerprint();
        let number = m.snapshot_until(state);
        if state != "queued" {
            disturb(&m);
        }
        m.node.kill9();
        m.node.start();
        let after = m.fingerprint();
        m.wait_for(number);
        m.assert_snapshot_is(number, &before);
        assert_same("the master", &after, &m.fingerprint());
        // The next one has what came after, and nothing is lost by the next kill.
        let second = m.snapshot();
        m.assert_snapshot_is(second, &after);
        m.node.kill9();
        m.node.start();
        assert_same("the master after all that", &after, &m.fingerprint());
    }
}

#[test]
fn kill9_right_after_a_cut_loses_neither_what_was_before_nor_what_came_after() {
    needs_fuse!();
    let m = Master::new();
    let mut ledger = Ledger::begin(&m.at("writer"), 17);
    let done = AtomicU64::new(0);
    for round in 0..4 {
        let number = std::thread::scope(|scope| {
            scope.spawn(|| write_until_killed(&mut ledger, &done));
            wait_until(&done, 300);
            let number = m.snapshot_until("collected");
            wait_until(&done, round * 20);
            m.node.kill9();
            number
        });
        m.node.start();
        ledger.check();
        m.wait_for(number);
        ledger.check();
    }
    let before = m.fingerprint();
    let number = m.snapshot();
    m.assert_snapshot_is(number, &before);
}

/// Have the daemon killed by the kernel at its `nth` call of `call` from now on.
fn kill_at(m: &Master, call: &str, nth: u32) -> Option<std::process::Child> {
    let mut strace = Command::new("strace")
        .args([
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-p",
            &m.node.pid().to_string(),
        ])
        .args(["-e", &format!("trace={call}")])
        .args(["-e", &format!("inject={call}:signal=KILL:when={nth}")])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Attached when the kernel says so.
    let status = format!("/proc/{}/status", m.node.pid());
    for _ in 0..2_000 {
        let status = fs::read_to_string(&status).unwrap_or_default();
        if status
            .lines()
            .any(|l| l.starts_with("TracerPid:") && !l.ends_with("\t0"))
        {
            return Some(strace);
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    strace.kill().unwrap();
    strace.wait().unwrap();
    None
}

#[test]
fn a_kill_at_every_rename_sync_and_removal_of_a_snapshot_leaves_all_of_it() {
    needs_fuse!();
    needs_tools!("strace");
    let m = Master::new();
    fs::create_dir(m.at("tree")).unwrap();
    let mut kills = 0;
    let mut round = 0;
    for (call, moments) in [
        ("rename", &[1, 2, 3, 5][..]),
        ("fdatasync", &[1, 2, 3, 5, 8, 12]),
        ("unlink", &[1, 2, 4]),
        ("link", &[1, 3]),
    ] {
        for &nth in moments {
            round += 1;
            for n in 0..6 {
                let size = [90, 20_000, 1_200_000][n as usize % 3];
                fs::write(
                    m.at(format!("tree/{}", (round + n) % 9)),
                    noise(round + n, size),
                )
                .unwrap();
            }
            let before = m.fingerprint();
            let Some(mut strace) = kill_at(&m, call, nth) else {
                eprintln!("skipped: strace may not attach here");
                return;
            };
            // The daemon may die before it answers.
            let asked = m.node.ctl(["snapshot", "create", &m.fs]);
            let number: Option<u64> = asked.stdout.trim().parse().ok();
            let ended = number.and_then(|number| {
                let snapshot = format!("{}@{number}", m.fs);
                let watch = ["snapshot", "watch", &snapshot, "--timeout", "60"];
                m.node.ctl_while_alive(watch)
            });
            if m.node.is_running() && ended.is_some_and(|status| status.success()) {
                strace.kill().unwrap();
                strace.wait().unwrap();
                // strace leaves with its process untouched.
            } else {
                m.node.wait_for_end();
                strace.wait().unwrap();
                kills += 1;
                m.node.start();
            }
            assert_same(&format!("{call} {nth}"), &before, &m.fingerprint());
            if let Some(number) = number {
                m.wait_for(number);
                m.assert_snapshot_is(number, &before);
            }
            assert_same(&format!("{call} {nth}, later"), &before, &m.fingerprint());
        }
    }
    assert!(kills >= 6, "only {kills} kills: the test does not test");
}

#[test]
fn the_daemon_that_mount_starts_goes_on_alone_and_shuts_down_in_order() {
    needs_fuse!();
    let stage = Stage::new();
    let bucket = stage.bucket();
    let node = stage.node("a");
    let fs = node
        .ctl(["fs", "create", "home", "--bucket", bucket.url()])
        .ok();
    let fs = fs.trim_end();
    let mnt = stage.dir("mnt");
    let ran = node.ctl(["mount", fs, mnt.to_str().unwrap(), "--bucket", bucket.url()]);
    assert!(ran.stderr.contains("started the daemon"), "{ran:?}");
    fs::write(mnt.join("file"), "x").unwrap();
    let pid = node.json(["status"])["pid"].as_u64().unwrap();
    tools::run(Command::new("kill").arg(pid.to_string()));
    let gone = |pid: u64| {
        let process = format!("/proc/{pid}/stat");
        fs::read_to_string(process).map_or(true, |s| s.contains(") Z "))
    };
    while !gone(pid) || Path::new(&node.socket()).exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(!mnt.join("file").exists());
    // Another one brings the mount back.
    node.start();
    assert_eq!(fs::read_to_string(mnt.join("file")).unwrap(), "x");
}
