//! Slaves that follow: they show each new snapshot exactly, without a remount, and never mix two of them in one file.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too

mod fetches;

use cbfs_tests::contents::noise;
use cbfs_tests::{
    Exactness, Fingerprint, Master, Node, Stage, assert_same, needs_fuse, wait_until,
};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// For what comes by itself, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A slave that follows, on a node of its own.
struct Follower {
    node: Node,
    mnt: PathBuf,
}

impl Follower {
    fn of(m: &Master, interval: &str) -> Follower {
        let node = m.stage.node("follower");
        node.start();
        let mnt = m.stage.dir("follower-mnt");
        let dir = mnt.to_str().unwrap();
        let follow = ["--slave", "--follow", "--poll-interval", interval];
        let words = ["mount", &m.fs, dir, "--bucket", m.bucket.url()];
        node.ctl(words.into_iter().chain(follow)).ok();
        Follower { node, mnt }
    }

    fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.mnt.join(name)
    }

    fn refresh(&self) -> u64 {
        let shown = self
            .node
            .json(["slave", "refresh", self.mnt.to_str().unwrap()]);
        shown["snapshot"].as_u64().unwrap()
    }

    /// Its line of `slave list`.
    fn listed(&self) -> serde_json::Value {
        self.node.json(["slave", "list"])[0].clone()
    }

    /// Wait until its line is as it should be.
    fn wait(&self, what: &str, is: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let begun = Instant::now();
        loop {
            let line = self.listed();
            if is(&line) {
                return line;
            }
            assert!(begun.elapsed() < PATIENCE, "never {what}: {line:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// All is as wanted, but that a file which was replaced under the kernel's eyes may have a new number.
    fn exact(&self, what: &str, wanted: &Fingerprint) {
        let found = Fingerprint::take(&self.mnt, Exactness::Snapshot);
        let found = found.without_fresh_numbers(wanted);
        assert_same(what, wanted, &found);
    }
}

/// Look at everything, so that the kernel has all of it in its caches.
fn look_at_all(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            look_at_all(&entry.path());
        } else {
            entry.metadata().unwrap();
            let _ = fs::read(entry.path());
        }
    }
}

fn rest_of(file: &mut File) -> Vec<u8> {
    let mut rest = Vec::new();
    file.read_to_end(&mut rest).unwrap();
    rest
}

#[test]
fn open_files_stay_what_they_are_and_names_lead_to_the_new_snapshot() {
    needs_fuse!();
    let m = Master::new();
    let (old, new) = (noise(1, 3 << 20), noise(2, 3 << 20));
    m.dir("dir/sub");
    for name in ["changed", "gone", "same", "moved", "mode", "dir/sub/x"] {
        fs::write(m.at(name), &old).unwrap();
    }
    fs::hard_link(m.at("changed"), m.at("dir/link")).unwrap();
    assert_eq!(m.snapshot(), 1);
    let f = Follower::of(&m, "1h");
    assert_eq!(f.listed()["snapshot"], 1);
    look_at_all(&f.mnt);
    assert!(!f.at("fresh").exists() && !f.at("dir/fresh").exists());
    let mut open = ["changed", "gone", "same", "dir/sub/x"].map(|name| {
        let mut file = File::open(f.at(name)).unwrap();
        let mut first = vec![0; 1 << 20];
        file.read_exact(&mut first).unwrap();
        assert!(first == old[..1 << 20]);
        (name, file)
    });
    let inos = ["changed", "same"].map(|name| fs::metadata(f.at(name)).unwrap().ino());

    fs::write(m.at("changed"), &new).unwrap();
    fs::remove_file(m.at("gone")).unwrap();
    fs::rename(m.at("moved"), m.at("dir/moved")).unwrap();
    fs::set_permissions(m.at("mode"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_dir_all(m.at("dir/sub")).unwrap();
    fs::write(m.at("fresh"), "fresh").unwrap();
    fs::write(m.at("dir/fresh"), "fresh").unwrap();
    assert_eq!(m.snapshot(), 2);
    let wanted = Fingerprint::take(&m.mnt, Exactness::Snapshot);
    assert_eq!(f.listed()["snapshot"], 1, "it looks once an hour");
    assert_eq!(f.refresh(), 2);

    for (name, file) in &mut open {
        assert!(rest_of(file) == old[1 << 20..], "{name} was mixed");
        file.seek(SeekFrom::Start(0)).unwrap();
        assert!(rest_of(file) == old, "{name} changed under a reader");
        assert_eq!(file.metadata().unwrap().len(), old.len() as u64);
    }
    assert!(fs::read(f.at("changed")).unwrap() == new);
    assert!(fs::read(f.at("dir/link")).unwrap() == new);
    assert_eq!(fs::read(f.at("fresh")).unwrap(), b"fresh");
    assert_eq!(fs::read(f.at("dir/fresh")).unwrap(), b"fresh");
    assert_eq!(fs::metadata(f.at("mode")).unwrap().mode() & 0o777, 0o600);
    for name in ["gone", "moved", "dir/sub", "dir/sub/x"] {
        let kind = fs::metadata(f.at(name)).unwrap_err().kind();
        assert_eq!(kind, io::ErrorKind::NotFound, "{name}");
    }
    f.exact("snapshot 2", &wanted);
    // To programs a file that has other contents is another file, as after a rename over it.
    let now = ["changed", "same"].map(|name| fs::metadata(f.at(name)).unwrap().ino());
    assert!(now[0] != inos[0] && now[1] == inos[1]);
    assert_eq!(fs::metadata(f.at("dir/link")).unwrap().ino(), now[0]);
    let refused = File::options().write(true).open(f.at("changed"));
    let refused = refused
        .and_then(|mut file| file.write_all(b"x"))
        .unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);

    // The version in between is held too, as long as it is open.
    let mut second = File::open(f.at("changed")).unwrap();
    fs::write(m.at("changed"), "third").unwrap();
    m.snapshot();
    assert_eq!(f.refresh(), 3);
    assert!(rest_of(&mut second) == new);
    let (_, first) = &mut open[0];
    first.seek(SeekFrom::Start(0)).unwrap();
    assert!(rest_of(first) == old);
    assert_eq!(fs::read(f.at("changed")).unwrap(), b"third");
}

#[test]
fn a_follower_is_exact_at_every_snapshot_also_over_merged_layers() {
    needs_fuse!();
    let m = Master::new();
    for n in 0..40 {
        let dir = m.dir(format!("d{}", n % 4));
        fs::write(dir.join(format!("f{n}")), noise(n, 3000)).unwrap();
    }
    m.snapshot();
    let f = Follower::of(&m, "1h");
    for round in 2..=9_u64 {
        look_at_all(&f.mnt);
        let held = File::open(f.at(format!("d{}/f{}", round % 4, round))).ok();
        fs::write(
            m.at(format!("d{}/f{}", round % 4, round)),
            noise(round + 99, 20_000),
        )
        .unwrap();
        fs::remove_file(m.at(format!("d2/f{}", round * 4 + 2))).unwrap();
        fs::rename(
            m.at(format!("d1/f{}", round * 4 + 1)),
            m.at(format!("d2/r{round}")),
        )
        .ok();
        fs::write(m.at(format!("d3/new{round}")), round.to_string()).unwrap();
        assert_eq!(m.snapshot(), round);
        let wanted = Fingerprint::take(&m.mnt, Exactness::Snapshot);
        if round % 3 == 0 {
            continue; // over two at once
        }
        assert_eq!(f.refresh(), round);
        f.exact(&format!("snapshot {round}"), &wanted);
        drop(held);
    }
    assert_eq!(f.refresh(), 9);
    f.exact("the last", &Fingerprint::take(&m.mnt, Exactness::Snapshot));
    // Of former snapshots nothing is left in the proxy cache.
    let instance = f.node.json(["instance", "list"])[0]["id"].clone();
    let dir = f
        .node
        .state_dir()
        .join("instances")
        .join(instance.as_str().unwrap());
    let manifest = fs::read(dir.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let layers = manifest["layers"].as_array().unwrap().len();
    assert!(layers < 9, "nothing was merged: {layers}");
    let cached = databases_below(&dir.join("proxy"));
    let cached: Vec<_> = cached.iter().filter(|p| !p.contains("toc")).collect();
    assert_eq!(cached.len(), layers, "{cached:?}");
}

fn databases_below(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(databases_below(&path));
        } else if path.extension().is_some_and(|e| e == "sqlite") {
            found.push(path.to_str().unwrap().to_owned());
        }
    }
    found
}

#[test]
fn readers_never_see_a_mix_of_two_snapshots_in_one_file() {
    needs_fuse!();
    let m = Master::new();
    let write = |n: u64| {
        for (name, size) in [("small", 3_000), ("large", 2 << 20)] {
            let line = format!("{n:07}\n").repeat(size / 8);
            fs::write(m.at(name), line).unwrap();
        }
    };
    write(1);
    m.snapshot();
    let f = Follower::of(&m, "1h");
    let (stop, read, last) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(1));
    std::thread::scope(|scope| {
        for name in ["small", "large", "large"] {
            let (f, stop, read, last) = (&f, &stop, &read, &last);
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let mut file = File::open(f.at(name)).unwrap();
                    let mut text = Vec::new();
                    let mut piece = [0; 8192];
                    loop {
                        let n = file.read(&mut piece).unwrap();
                        if n == 0 {
                            break;
                        }
                        text.extend_from_slice(&piece[..n]);
                        std::thread::yield_now();
                    }
                    let first = text[..8].to_vec();
                    assert!(text.chunks(8).all(|line| line == first), "{name} is mixed");
                    let seen: u64 = String::from_utf8(first).unwrap().trim().parse().unwrap();
                    assert!(seen <= last.load(Ordering::SeqCst));
                    read.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for n in 2..=6 {
            write(n);
            last.store(n, Ordering::SeqCst);
            assert_eq!(m.snapshot(), n);
            let before = read.load(Ordering::SeqCst);
            assert_eq!(f.refresh(), n);
            let text = fs::read(f.at("large")).unwrap();
            assert_eq!(text[..8], format!("{n:07}\n").into_bytes()[..]);
            while read.load(Ordering::SeqCst) < before + 3 {
                std::thread::yield_now();
            }
        }
        stop.store(true, Ordering::SeqCst);
    });
}

#[test]
fn it_moves_by_itself_and_goes_on_after_a_kill() {
    needs_fuse!();
    let m = Master::new();
    fs::write(m.at("file"), "1").unwrap();
    m.snapshot();
    let f = Follower::of(&m, "1s");
    fs::write(m.at("file"), "2").unwrap();
    m.snapshot();
    f.wait("at snapshot 2", |line| line["snapshot"] == 2);
    assert_eq!(fs::read(f.at("file")).unwrap(), b"2");
    // The master's node hears of it, through the bucket.
    let begun = Instant::now();
    let heard = loop {
        let all = m.node.json(["slave", "list", &m.fs]);
        match all.as_array().unwrap().first() {
            Some(line) => break line.clone(),
            None => assert!(begun.elapsed() < PATIENCE, "no sign of the follower"),
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(
        (&heard["here"], &heard["follow"]),
        (&false.into(), &1.into())
    );
    assert_eq!(heard["id"], format!("{}@latest", m.fs));
    assert_eq!(heard["mount_point"], f.mnt.to_str().unwrap());
    f.node.kill9();
    fs::write(m.at("file"), "3").unwrap();
    m.snapshot();
    f.node.start();
    let line = f.wait("at snapshot 3", |line| line["snapshot"] == 3);
    assert_eq!(line["follow"], 1);
    assert_eq!(fs::read(f.at("file")).unwrap(), b"3");
    // Another mount of the same is refused, and a slave that does not follow is not moved.
    let other = m.stage.dir("other");
    let words = [
        "mount",
        &m.fs,
        other.to_str().unwrap(),
        "--slave",
        "--follow",
    ];
    f.node.ctl(words).fails(11, &["mounted already"]);
    let at_two = format!("{}@2", m.fs);
    f.node
        .ctl(["mount", &at_two, other.to_str().unwrap(), "--slave"])
        .ok();
    f.node
        .ctl(["slave", "refresh", &at_two])
        .fails(11, &["does not follow"]);
    f.node.ctl(["umount", f.mnt.to_str().unwrap()]).ok();
    f.node
        .ctl(["slave", "refresh", f.mnt.to_str().unwrap()])
        .fails(10, &["no slave on this node"]);
    let left = fs::read_dir(f.node.state_dir().join("instances")).unwrap();
    assert_eq!(left.count(), 1, "the other one");
}

#[test]
fn how_far_a_follower_is_behind_is_told_on_other_nodes_until_it_has_moved() {
    needs_fuse!();
    let m = Master::new();
    fs::write(m.at("file"), "1").unwrap();
    m.snapshot();
    let f = Follower::of(&m, "1h");
    // As the master's node hears of it, through the bucket.
    let heard_at = |snapshot: u64| {
        let mut line = serde_json::Value::Null;
        wait_until("the follower's sign tells its snapshot", || {
            line = m.node.json(["slave", "list", &m.fs])[0].clone();
            line["snapshot"] == snapshot
        });
        assert_eq!(line["here"], false, "{line:#}");
        line
    };
    let level = |line: &serde_json::Value| line["behind"] == 0 && line["lag"].is_null();
    let line = heard_at(1);
    assert!(level(&line), "{line:#}");
    for (number, behind) in [(2, 1), (3, 2)] {
        fs::write(m.at("file"), number.to_string()).unwrap();
        let begun = Instant::now();
        assert_eq!(m.snapshot(), number);
        let line = heard_at(1);
        assert_eq!(line["behind"], behind, "{line:#}");
        // Since the latest was made, not since it was missed first. Two clocks that count whole seconds.
        let most = begun.elapsed().as_secs() + 1;
        assert!(line["lag"].as_u64().unwrap() <= most, "{line:#}");
    }
    // It grows as long as the follower stays where it is.
    wait_until("the lag grows", || heard_at(1)["lag"].as_u64() > Some(0));
    assert_eq!(f.refresh(), 3);
    let line = heard_at(3);
    assert!(level(&line), "{line:#}");
    let line = f.listed();
    assert!(level(&line), "{line:#}");
}

/// Names that a directory stream tells, at most `most`; none twice, or it panics.
fn walk(stream: &mut fs::ReadDir, most: usize) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in stream.take(most) {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(names.insert(name.clone()), "{name} twice");
    }
    names
}

#[test]
fn a_directory_that_is_being_read_goes_on_over_a_move() {
    needs_fuse!();
    let m = Master::new();
    let dir = m.dir("dir");
    // More than one answer of getdents(2) has room for: glibc asks for 32 KiB.
    let name = |kind: &str, n: u64| format!("{kind}-{n:04}-{}", "x".repeat(100));
    let count = 1000;
    for n in 0..count {
        for kind in ["kept", "gone"] {
            fs::write(dir.join(name(kind, n)), "").unwrap();
        }
    }
    m.snapshot();
    let f = Follower::of(&m, "1h");
    let all_of = |kind: &str| (0..count).map(|n| name(kind, n)).collect::<BTreeSet<_>>();
    // At its begin, within the first answer, and far behind that.
    let mut walks: Vec<_> = [0, 1, 700]
        .map(|seen| {
            let mut stream = fs::read_dir(f.at("dir")).unwrap();
            let seen = walk(&mut stream, seen);
            (stream, seen)
        })
        .into();
    for n in 0..count {
        fs::remove_file(dir.join(name("gone", n))).unwrap();
        fs::write(dir.join(name("come", n)), "").unwrap();
    }
    m.snapshot();
    assert_eq!(f.refresh(), 2);
    let (kept, gone, come) = (all_of("kept"), all_of("gone"), all_of("come"));
    let known = &(&kept | &gone) | &come;
    for (stream, seen) in &mut walks {
        let rest = walk(stream, usize::MAX);
        let before = seen.len();
        let twice: Vec<_> = rest.intersection(seen).collect();
        assert!(twice.is_empty(), "after {before}: {twice:?}");
        let told = &rest | seen;
        let lost: Vec<_> = kept.difference(&told).collect();
        assert!(lost.is_empty(), "after {before}: {lost:?}");
        let strange: Vec<_> = told.difference(&known).collect();
        assert!(strange.is_empty(), "after {before}: {strange:?}");
    }
    // One that begins now sees the new snapshot and nothing else.
    let told = walk(&mut fs::read_dir(f.at("dir")).unwrap(), usize::MAX);
    assert!(told == &kept | &come, "{} names", told.len());
}

#[test]
fn a_damaged_or_missing_object_is_named_in_status_until_it_reads_well_again() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    fs::write(m.at("large"), noise(7, 3 << 20)).unwrap();
    fs::write(m.at("good"), "good").unwrap();
    m.snapshot();
    let f = Follower::of(&m, "1h");
    assert_eq!(fs::read_dir(&f.mnt).unwrap().count(), 2);
    let folder = m.bucket.dir().join(&m.fs).join("s");
    let attempt = fs::read_dir(&folder).unwrap().next().unwrap().unwrap();
    let attempt = attempt.path();
    let mut tarballs: Vec<PathBuf> = fs::read_dir(&attempt)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.to_str().unwrap().ends_with(".tar.zst") && !p.ends_with("0000.tar.zst"))
        .collect();
    tarballs.sort();
    let away = m.stage.path("away");
    let mut hidden: Vec<(PathBuf, PathBuf)> = Vec::new();
    for (n, path) in tarballs.into_iter().enumerate() {
        let to = away.with_extension(n.to_string());
        fs::rename(&path, &to).unwrap();
        hidden.push((path, to));
    }
    let read = fs::read(f.at("large")).unwrap_err();
    assert_eq!(
        read.raw_os_error(),
        Some(rustix::io::Errno::IO.raw_os_error())
    );
    let shown = || f.node.json(["instance", "list"])[0].clone();
    let degraded = shown();
    let problem = degraded["problems"][0].as_str().unwrap();
    assert!(problem.contains(".tar.zst"), "{problem}");
    assert!(problem.contains("EIO"), "{problem}");
    assert_eq!(degraded["health"], "degraded");
    assert_eq!(f.listed()["problems"][0], problem);
    let said = f.node.ctl(["status"]).ok();
    assert!(said.contains(".tar.zst"), "{said}");
    let id = format!("{}@latest", m.fs);
    let said = f.node.ctl(["instance", "show", &id]).ok();
    assert!(said.contains(".tar.zst"), "{said}");
    // It works on.
    assert_eq!(fs::metadata(f.at("large")).unwrap().len(), 3 << 20);
    // A byte that is wrong is as bad as one that is missing, and never read.
    for (path, to) in &hidden {
        let mut bytes = fs::read(to).unwrap();
        for byte in bytes.iter_mut().step_by(64) {
            *byte ^= 1;
        }
        fs::write(path, bytes).unwrap();
    }
    assert!(fs::read(f.at("large")).is_err());
    assert_eq!(shown()["health"], "degraded");
    for (path, to) in &hidden {
        fs::rename(to, path).unwrap();
    }
    assert!(fs::read(f.at("large")).unwrap() == noise(7, 3 << 20));
    assert_eq!(fs::read(f.at("good")).unwrap(), b"good");
    let shown = shown();
    assert_eq!(shown["health"], "ok", "{shown:#}");
}

#[test]
fn a_number_that_was_given_up_is_closed_and_followers_go_over_it() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    fs::write(m.at("file"), "1").unwrap();
    m.snapshot();
    let f = Follower::of(&m, "1s");
    // The second waits for the first, which waits for its bucket.
    let away = m.stage.path("away");
    fs::rename(m.bucket.dir(), &away).unwrap();
    fs::write(m.at("file"), "2").unwrap();
    assert_eq!(m.snapshot_until("collected"), 2);
    let given_up = m.node.ctl(["snapshot", "create", &m.fs]).ok();
    assert_eq!(given_up.trim_end(), "3");
    let given_up = format!("{}@3", m.fs);
    m.node.ctl(["snapshot", "cancel", &given_up]).ok();
    fs::rename(&away, m.bucket.dir()).unwrap();
    m.wait_for(2);
    let of_2 = m.fingerprint();
    fs::write(m.at("file"), "4").unwrap();
    assert_eq!(m.snapshot(), 4);
    let wanted = m.fingerprint();
    f.wait("at snapshot 4", |line| line["snapshot"] == 4);
    f.exact("snapshot 4", &wanted);
    // The chain of manifests has no gap; what fills it is no snapshot to anybody.
    let manifests = m.bucket.dir().join(&m.fs).join("m");
    for number in 1..=4 {
        assert!(manifests.join(format!("{number:010}-e1.json")).exists());
    }
    let other = m.stage.dir("other");
    let at = other.to_str().unwrap();
    let refused = ["mount", &given_up, at, "--slave"];
    f.node.ctl(refused).fails(10, &["3"]);
    let bucket = ["--bucket", m.bucket.url()];
    let listed = f
        .node
        .json(["snapshot", "list", &m.fs].into_iter().chain(bucket));
    let numbers: Vec<_> = listed.as_array().unwrap().iter().collect();
    let numbers: Vec<u64> = numbers
        .iter()
        .map(|s| s["number"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, [1, 2, 4], "{listed:#}");
    m.assert_snapshot_is(2, &of_2);
    m.assert_snapshot_is(4, &wanted);
    for number in [2, 4] {
        let snapshot = format!("{}@{number}", m.fs);
        let verify = ["snapshot", "verify", &snapshot, "--deep"];
        f.node.ctl(verify.into_iter().chain(bucket)).ok();
    }
}

#[test]
fn a_snapshot_that_is_deleted_is_shown_on_by_its_slaves_and_mounted_by_nobody_else() {
    needs_fuse!();
    let m = Master::new();
    fs::write(m.at("file"), noise(1, 100_000)).unwrap();
    m.snapshot();
    let slave = m.slave(1);
    let f = Follower::of(&m, "1h");
    fs::write(m.at("file"), "2").unwrap();
    m.snapshot();
    let first = format!("{}@1", m.fs);
    m.node
        .ctl(["snapshot", "delete", &first, "--confirm", &m.fs])
        .ok();
    for mnt in [&slave.mnt, &f.mnt] {
        assert!(fs::read(mnt.join("file")).unwrap() == noise(1, 100_000));
    }
    // Not only as long as the daemon lives.
    slave.node.kill9();
    slave.node.start();
    assert!(fs::read(slave.mnt.join("file")).unwrap() == noise(1, 100_000));
    let other = m.stage.dir("other");
    let words = ["mount", &first, other.to_str().unwrap(), "--slave"];
    let bucket = ["--bucket", m.bucket.url()];
    f.node
        .ctl(words.into_iter().chain(bucket))
        .fails(10, &["1"]);
    assert_eq!(f.refresh(), 2);
    assert_eq!(fs::read(f.at("file")).unwrap(), b"2");
    // One that was never there is named.
    let words = [
        "mount",
        &format!("{}@7", m.fs),
        other.to_str().unwrap(),
        "--slave",
    ];
    f.node
        .ctl(words.into_iter().chain(bucket))
        .fails(10, &["7"]);
}

#[test]
#[cfg(debug_assertions)] // a release daemon has no failpoints
fn a_death_in_the_middle_of_a_move_leaves_one_of_the_two() {
    needs_fuse!();
    let m = Master::new();
    fs::write(m.at("file"), "1").unwrap();
    m.snapshot();
    let f = Follower::of(&m, "1h");
    f.node.stop();
    f.node.try_start_armed("slave.moved").unwrap();
    assert_eq!(fs::read(f.at("file")).unwrap(), b"1");
    fs::write(m.at("file"), "2").unwrap();
    m.snapshot();
    let wanted = Fingerprint::take(&m.mnt, Exactness::Snapshot);
    let dir = f.mnt.to_str().unwrap();
    f.node.ctl(["slave", "refresh", dir]).fails(4, &[]);
    f.node.must_end("slave.moved");
    f.node.start();
    assert_eq!(f.listed()["snapshot"], 2, "it was stored before the death");
    f.exact("snapshot 2", &wanted);
}

#[test]
fn a_bucket_that_is_away_is_told_and_the_mount_stays() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    fs::write(m.at("file"), "1").unwrap();
    m.snapshot();
    let f = Follower::of(&m, "1s");
    assert_eq!(fs::read(f.at("file")).unwrap(), b"1");
    fs::write(m.at("file"), "2").unwrap();
    m.snapshot();
    f.wait("at snapshot 2", |line| line["snapshot"] == 2);
    let away = m.stage.path("away");
    fs::rename(m.bucket.dir(), &away).unwrap();
    let line = f.wait("cut off", |line| line["unreachable_since"].is_string());
    let problem = line["problems"][0].as_str().unwrap();
    assert!(
        problem.contains("cannot look for newer snapshots since"),
        "{problem}"
    );
    assert_eq!(line["snapshot"], 2);
    assert_eq!(fs::metadata(f.at("file")).unwrap().len(), 1);
    let dir = f.mnt.to_str().unwrap();
    f.node.ctl(["slave", "refresh", dir]).fails(5, &[]);
    fs::rename(&away, m.bucket.dir()).unwrap();
    fs::write(m.at("file"), "3").unwrap();
    m.snapshot();
    f.wait("at snapshot 3", |line| {
        line["snapshot"] == 3 && line["unreachable_since"].is_null()
    });
    assert_eq!(fs::read(f.at("file")).unwrap(), b"3");
}

#[test]
fn what_is_damaged_is_not_shown_and_the_next_good_one_is() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    fs::write(m.at("file"), "1").unwrap();
    m.snapshot();
    let f = Follower::of(&m, "1h");
    let dir = f.mnt.to_str().unwrap();
    for (number, key) in [
        (2, format!("{}/m/0000000002-e1.json", m.fs)),
        (3, format!("{}/s/0000000003-e1-", m.fs)),
    ] {
        fs::write(m.at("file"), number.to_string()).unwrap();
        assert_eq!(m.snapshot(), number);
        let mut object = m.bucket.dir().join(&key);
        if !object.exists() {
            let parent = object.parent().unwrap();
            let attempts = fs::read_dir(parent).unwrap().map(|e| e.unwrap().path());
            let mut of_it = attempts.filter(|p| p.to_str().unwrap().contains("0000000003"));
            object = of_it.next().unwrap().join("layer.sqlite.zst");
        }
        let good = fs::read(&object).unwrap();
        let mut bad = good.clone();
        let at = bad.len() / 2;
        bad[at] ^= 1;
        fs::write(&object, &bad).unwrap();
        f.node.ctl(["slave", "refresh", dir]).fails(14, &[]);
        let line = f.listed();
        assert_eq!(line["snapshot"], number - 1);
        assert!(
            line["problems"][0]
                .as_str()
                .unwrap()
                .contains("cannot move on"),
            "{line}"
        );
        let shown = (number - 1).to_string();
        assert_eq!(fs::read(f.at("file")).unwrap(), shown.as_bytes());
        fs::write(&object, &good).unwrap();
        assert_eq!(f.refresh(), number);
        assert_eq!(
            fs::read(f.at("file")).unwrap(),
            number.to_string().as_bytes()
        );
        assert_eq!(f.listed()["problems"], serde_json::json!([]));
    }
}

#[test]
fn a_followed_snapshot_that_is_deleted_is_served_until_the_follower_moves() {
    needs_fuse!();
    let m = Master::new();
    fs::write(m.at("file"), noise(1, 1 << 20)).unwrap();
    m.snapshot();
    let f = Follower::of(&m, "1h");
    fs::write(m.at("file"), "2").unwrap();
    m.snapshot();
    let first = format!("{}@1", m.fs);
    m.node
        .ctl(["snapshot", "delete", &first, "--confirm", &m.fs])
        .ok();
    assert!(fs::read(f.at("file")).unwrap() == noise(1, 1 << 20));
    assert_eq!(f.refresh(), 2);
    assert_eq!(fs::read(f.at("file")).unwrap(), b"2");
}

#[test]
fn bad_input_is_refused() {
    let stage = Stage::new();
    let node = stage.node("a");
    for words in [
        &["mount", "home", "/mnt", "--follow"][..],
        &["mount", "home", "/mnt", "--slave", "--poll-interval", "5s"],
        &[
            "mount",
            "home",
            "/mnt",
            "--slave",
            "--follow",
            "--poll-interval",
            "0s",
        ],
        &[
            "mount",
            "home",
            "/mnt",
            "--slave",
            "--follow",
            "--poll-interval",
            "soon",
        ],
    ] {
        assert_eq!(node.ctl(words).code, Some(2), "{words:?}");
    }
}
