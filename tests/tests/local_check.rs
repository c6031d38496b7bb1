//! `cbfsctl fs check --local` finds each kind of damage in a state directory, names it, and changes
//! nothing; what a crash leaves behind is no damage.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too

use cbfs_tests::contents::noise;
use cbfs_tests::{Master, Ran, needs_fuse, tools, tree};
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A master that was killed with rows in every place: `main`, a frozen file that a snapshot under way
/// needs, `active`, and the journal alone.
struct Victim {
    m: Master,
    inos: BTreeMap<&'static str, u64>,
}

impl Victim {
    fn new() -> Victim {
        Victim::with(|_| ())
    }

    /// With more in it.
    fn with(more: fn(&Path)) -> Victim {
        let m = Master::with_directory_bucket();
        more(&m.dir("more"));
        fs::create_dir_all(m.at("dir/below/deep")).unwrap();
        fs::write(m.at("dir/small"), "small").unwrap();
        fs::write(m.at("dir/large"), noise(1, 100_000)).unwrap();
        fs::write(m.at("dir/replaced"), noise(2, 100_000)).unwrap();
        symlink("small", m.at("dir/link")).unwrap();
        fs::hard_link(m.at("dir/small"), m.at("dir/again")).unwrap();
        m.snapshot();
        let paths = [
            "dir",
            "dir/below",
            "dir/below/deep",
            "dir/small",
            "dir/large",
            "dir/link",
        ];
        let ino = |name: &'static str| (name, fs::symlink_metadata(m.at(name)).unwrap().ino());
        let inos = paths.map(ino).into_iter().collect();

        // A snapshot that cannot go on, and changes after its cut.
        fs::rename(m.stage.path("bucket"), m.stage.path("bucket-away")).unwrap();
        fs::write(m.at("dir/replaced"), noise(3, 90_000)).unwrap();
        m.snapshot_until("collected");
        fs::remove_file(m.at("dir/replaced")).unwrap();
        // Makes all of it durable, and says so in the journal.
        m.node.ctl(["umount", &m.fs]).ok();
        m.node.mount(&m.fs, &m.bucket, &m.mnt);
        fs::write(m.at("dir/last"), "in the journal alone, perhaps").unwrap();
        m.node.kill9();
        Victim { m, inos }
    }

    fn dir(&self) -> PathBuf {
        self.m.instance_dir()
    }

    fn check(&self, dir: &Path) -> Ran {
        let dir = dir.to_str().unwrap();
        self.m.node.ctl(["fs", "check", "--local", dir, "--json"])
    }

    /// Damage a copy: the checker must say `kind`, with exit code 14.
    fn finds(&self, kind: &str, damage: impl FnOnce(&Path)) {
        let copy = self.m.stage.dir("copies").join(kind);
        let mut cp = Command::new("cp");
        tools::run(cp.arg("-a").arg(self.dir()).arg(&copy));
        damage(&copy);
        let ran = self.check(&copy);
        assert_eq!(ran.code, Some(14), "{kind}: {ran:#?}");
        let kinds = kinds(&ran, "damage");
        assert!(
            kinds.contains(&kind.to_owned()),
            "{kind} is not in {kinds:?}"
        );
        fs::remove_dir_all(copy).unwrap();
    }

    /// Damage the rows of `main` in a copy; `?1` is the inode of `name`.
    fn finds_in_main(&self, kind: &str, name: &str, sql: &str) {
        let ino = self.inos[name] as i64;
        self.finds(kind, |dir| {
            let main = Connection::open(dir.join("kvs/main.sqlite")).unwrap();
            let changed = main.execute(sql, [ino]).unwrap();
            assert!(changed > 0, "{kind}: nothing was damaged");
        });
    }
}

/// The kinds of findings of a severity.
fn kinds(ran: &Ran, severity: &str) -> Vec<String> {
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap().iter();
    findings
        .filter(|f| f["severity"] == severity)
        .inspect(|f| assert!(f["message"].is_string() && f["hint"].is_string(), "{f}"))
        .map(|f| f["kind"].as_str().unwrap().to_owned())
        .collect()
}

/// The only file in a directory whose name begins so.
fn the_file(dir: &Path, prefix: &str) -> PathBuf {
    let all = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let mut found = all.filter(|p| {
        let name = p.file_name().unwrap().to_str().unwrap();
        name.starts_with(prefix) && !name.ends_with("-wal") && !name.ends_with("-shm")
    });
    let first = found
        .next()
        .unwrap_or_else(|| panic!("no {prefix} in {}", dir.display()));
    assert!(
        found.next().is_none(),
        "several {prefix} in {}",
        dir.display()
    );
    first
}

fn backing_file(dir: &Path, ino: u64) -> PathBuf {
    the_file(
        &dir.join(format!("data/{:02x}", ino & 0xff)),
        &format!("{ino:x}-"),
    )
}

/// A journal segment with a sync mark in it that covers its first records.
fn synced_segment(dir: &Path) -> PathBuf {
    let all = fs::read_dir(dir.join("journal"))
        .unwrap()
        .map(|e| e.unwrap().path());
    all.max_by_key(|p| fs::metadata(p).unwrap().len()).unwrap()
}

fn all_files(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, i64, i64)> {
    let mut out = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let about = fs::symlink_metadata(&path).unwrap();
            let bytes = if about.is_dir() {
                open.push(path.clone());
                Vec::new()
            } else {
                fs::read(&path).unwrap()
            };
            out.insert(path, (bytes, about.mtime(), about.mtime_nsec()));
        }
    }
    out
}

#[test]
fn a_killed_master_is_whole_and_the_check_changes_nothing() {
    needs_fuse!();
    let v = Victim::with(tree::build);
    let before = all_files(&v.dir());
    let ran = v.check(&v.dir());
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    assert_eq!(kinds(&ran, "damage"), Vec::<String>::new());
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["complete"], true, "{report}");
    assert!(
        report["checked"]["names"].as_u64().unwrap() > 10,
        "{report}"
    );
    let after = all_files(&v.dir());
    assert!(before.keys().eq(after.keys()), "files came or went");
    for (path, then) in &before {
        assert!(*then == after[path], "{} was changed", path.display());
    }
    // By name too, for people.
    let told = v.m.node.ctl(["fs", "check", "--local", "home"]).ok();
    assert!(told.ends_with("nothing is wrong\n"), "{told}");
}

#[test]
fn what_runs_is_in_use_and_what_is_none_is_not_found() {
    needs_fuse!();
    let m = Master::new();
    let check = |what: &str| m.node.ctl(["fs", "check", "--local", what]);
    check("home").fails(11, &["another daemon"]);
    check("other").fails(10, &["other"]);
    check(m.stage.dir("nothing").to_str().unwrap()).fails(10, &["no instance"]);
    m.node.stop();
    check("home").ok();
    check(m.instance_dir().to_str().unwrap()).ok();
}

#[test]
fn what_a_crash_leaves_behind_is_no_damage() {
    needs_fuse!();
    let v = Victim::new();
    let left = [
        v.dir().join("data/07/7007-9"),
        v.dir().join("frozen/000077"),
        v.dir().join("kvs/merged-000009.sqlite"),
    ];
    for path in &left {
        fs::write(path, "left over").unwrap();
    }
    let last = v.dir().join("journal");
    let last = fs::read_dir(last)
        .unwrap()
        .map(|e| e.unwrap().path())
        .max()
        .unwrap();
    let file = fs::File::options().write(true).open(&last).unwrap();
    let end = file.metadata().unwrap().len();
    file.write_all_at(&[9, 0, 0, 0, 1, 2], end).unwrap();
    let ran = v.check(&v.dir());
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    let notes = kinds(&ran, "note");
    for kind in ["backing-file-unused", "left-over", "journal-torn-tail"] {
        assert!(
            notes.contains(&kind.to_owned()),
            "{kind} is not in {notes:?}"
        );
    }
}

#[test]
fn damaged_rows_are_found() {
    needs_fuse!();
    let v = Victim::new();
    for (kind, name, sql) in [
        (
            "name-without-inode",
            "dir/small",
            "DELETE FROM inode WHERE ino=?1",
        ),
        ("link-count", "dir/link", "DELETE FROM dentry WHERE ino=?1"),
        (
            "link-count",
            "dir/small",
            "UPDATE inode SET nlink=7 WHERE ino=?1",
        ),
        (
            "link-count",
            "dir/below",
            "UPDATE inode SET nlink=2 WHERE ino=?1",
        ),
        (
            "directory-size",
            "dir/below",
            "UPDATE inode SET size=5 WHERE ino=?1",
        ),
        (
            "name-kind",
            "dir/large",
            "UPDATE dentry SET kind=1 WHERE ino=?1",
        ),
        (
            "name-impossible",
            "dir/large",
            "UPDATE dentry SET name=x'612f62' WHERE ino=?1",
        ),
        (
            "name-without-directory",
            "dir/small",
            "UPDATE dentry SET parent=?1 WHERE name=CAST('again' AS BLOB)",
        ),
        (
            "unreachable",
            "dir/below/deep",
            "UPDATE dentry SET parent=?1 WHERE ino=?1",
        ),
        (
            "directory-names",
            "dir/below",
            "UPDATE dentry SET ino=?1 WHERE kind=4 AND ino<>?1",
        ),
        (
            "symlink-target",
            "dir/link",
            "DELETE FROM link WHERE ino=?1",
        ),
        (
            "inline-length",
            "dir/small",
            "UPDATE inline SET data=zeroblob(9999) WHERE ino=?1",
        ),
        (
            "contents-twice",
            "dir/large",
            "INSERT OR REPLACE INTO inline VALUES(?1, x'00', 1)",
        ),
        (
            "contents-missing",
            "dir/small",
            "DELETE FROM inline WHERE ino=?1",
        ),
        (
            "backing-row",
            "dir/link",
            "INSERT OR REPLACE INTO backing VALUES(?1, 9)",
        ),
        (
            "backing-row",
            "dir",
            "INSERT INTO block VALUES(?1 + 50000, 0, 1)",
        ),
        (
            "xattr-without-inode",
            "dir",
            "INSERT INTO xattr VALUES(?1 + 50000, x'75', x'00', 1)",
        ),
        (
            "counters",
            "dir/small",
            "UPDATE inode SET size=size + 1 WHERE ino=?1",
        ),
        (
            "number-reused",
            "dir/small",
            "UPDATE inode SET xid=xid + 1000000 WHERE ino=?1",
        ),
        (
            "kvs-file-damaged",
            "dir/small",
            "UPDATE inode SET kind=99 WHERE ino=?1",
        ),
    ] {
        v.finds_in_main(kind, name, sql);
    }
    v.finds_in_main(
        "root-missing",
        "dir",
        "DELETE FROM inode WHERE ino=1 AND ?1<>0",
    );
}

#[test]
fn damaged_and_missing_files_are_found() {
    needs_fuse!();
    let v = Victim::new();
    let garbage = |path: PathBuf, at: u64| {
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[0xa5; 12_000], at).unwrap();
    };
    let remove = |path: PathBuf| fs::remove_file(path).unwrap();
    let kvs = |dir: &Path, prefix: &str| the_file(&dir.join("kvs"), prefix);
    v.finds("config", |dir| remove(dir.join("instance.toml")));
    v.finds("config", |dir| garbage(dir.join("instance.toml"), 0));
    v.finds("journal-damaged", |dir| {
        let path = synced_segment(dir);
        let file = fs::File::options()
            .read(true)
            .write(true)
            .open(path)
            .unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 40).unwrap();
        file.write_all_at(&[byte[0] ^ 4], 40).unwrap();
    });
    v.finds("journal-damaged", |dir| garbage(synced_segment(dir), 0));
    v.finds("journal-damaged", |dir| {
        fs::remove_dir_all(dir.join("journal")).unwrap()
    });
    v.finds("kvs-file-damaged", |dir| garbage(kvs(dir, "main"), 4096));
    v.finds("kvs-file-damaged", |dir| garbage(kvs(dir, "frozen-"), 0));
    v.finds("kvs-file-damaged", |dir| {
        let frozen = Connection::open(kvs(dir, "frozen-")).unwrap();
        frozen.execute_batch("DROP TABLE block").unwrap();
    });
    v.finds("kvs-file-damaged", |dir| {
        let frozen = Connection::open(kvs(dir, "frozen-")).unwrap();
        frozen.pragma_update(None, "user_version", 99).unwrap();
    });
    v.finds("kvs-file-missing", |dir| remove(kvs(dir, "main")));
    v.finds("kvs-file-missing", |dir| remove(kvs(dir, "frozen-")));
    v.finds("kvs-file-missing", |dir| {
        fs::remove_dir_all(dir.join("kvs")).unwrap()
    });
    v.finds("journal-gap", |dir| {
        fs::remove_dir_all(dir.join("journal")).unwrap();
        fs::create_dir(dir.join("journal")).unwrap();
    });
    v.finds("backing-file-missing", |dir| {
        remove(backing_file(dir, v.inos["dir/large"]));
    });
    v.finds("pending-contents-missing", |dir| {
        let frozen = Connection::open(kvs(dir, "frozen-")).unwrap();
        let sql = "SELECT ino, file FROM backing WHERE file<>0";
        let row = |r: &rusqlite::Row<'_>| Ok((r.get::<_, i64>(0)?, r.get::<_, i64>(1)?));
        let (ino, file) = frozen.query_row(sql, [], row).unwrap();
        remove(dir.join(format!("data/{:02x}/{ino:x}-{file:x}", ino & 0xff)));
    });
    v.finds("status-log", |dir| {
        garbage(dir.join("status/0000000002.jsonl"), 0)
    });
    v.finds("last-complete", |dir| {
        garbage(dir.join("last-complete.json"), 0)
    });
    v.finds("frozen-unknown", |dir| {
        remove(dir.join("status/0000000002.jsonl"))
    });
}

#[test]
fn a_transaction_that_is_missing_in_the_journal_is_found() {
    needs_fuse!();
    let m = Master::new();
    for n in 0..3 {
        fs::write(m.at(format!("file-{n}")), "x").unwrap();
        // A new start begins a new segment.
        m.node.kill9();
        m.node.start();
    }
    m.node.stop();
    let dir = m.instance_dir().join("journal");
    let mut segments: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    segments.sort();
    fs::remove_file(&segments[1]).unwrap();
    let ran = m.node.ctl(["fs", "check", "--local", "home", "--json"]);
    assert_eq!(ran.code, Some(14), "{ran:#?}");
    assert_eq!(kinds(&ran, "damage"), ["journal-gap"]);

    // Without the rows too, there is nothing to go on from.
    fs::remove_file(&segments[0]).unwrap();
    fs::remove_file(the_file(&m.instance_dir().join("kvs"), "active-")).unwrap();
    let ran = m.node.ctl(["fs", "check", "--local", "home", "--json"]);
    assert_eq!(ran.code, Some(14), "{ran:#?}");
    assert_eq!(kinds(&ran, "damage"), ["replay-failed"]);
}
