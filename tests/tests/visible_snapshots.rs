//! `MOUNT/.cbfs/snapshots`: every complete snapshot, read-only, for `cp`.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too

use cbfs_tests::contents::noise;
use cbfs_tests::{Exactness, Fingerprint, Master, assert_same, needs_fuse, tools, tree};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn snapshot_named(m: &Master, name: &str) -> u64 {
    let args = ["snapshot", "create", &m.fs, "--name", name, "--wait"];
    m.node.ctl(args).ok().trim_end().parse().unwrap()
}

fn refused<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|e| e.raw_os_error())
}

#[test]
fn a_copy_from_it_is_the_snapshot_and_a_deleted_file_comes_back() {
    needs_fuse!();
    let m = Master::new();
    tree::build(&m.dir("tree"));
    fs::write(m.at("lost"), noise(1, 3_000_000)).unwrap();
    let before = Fingerprint::take(&m.mnt, Exactness::Copy);
    assert_eq!(snapshot_named(&m, "before"), 1);
    tree::change(&m.at("tree"));
    fs::remove_file(m.at("lost")).unwrap();
    let after = Fingerprint::take(&m.mnt, Exactness::Copy);
    assert_eq!(m.snapshot(), 2);

    // By number and by name, on the master.
    let visible = m.at(".cbfs/snapshots");
    for (name, wanted) in [("1", &before), ("before", &before), ("2", &after)] {
        let found = Fingerprint::take(&visible.join(name), Exactness::Copy);
        assert_same(&format!(".cbfs/snapshots/{name}"), wanted, &found);
    }
    // And on a slave, of any other snapshot.
    let slave = m.slave(2);
    let found = Fingerprint::take(&slave.mnt.join(".cbfs/snapshots/1"), Exactness::Copy);
    assert_same("on the slave of 2", &before, &found);

    let copy = m.stage.dir("copy");
    let source = visible.join("before");
    tools::run(
        Command::new("cp")
            .arg("-a")
            .arg(source.join("."))
            .arg(&copy),
    );
    let first = m.slave(1);
    let wanted = Fingerprint::take(&first.mnt, Exactness::Copy);
    assert_same("cp -a", &wanted, &Fingerprint::take(&copy, Exactness::Copy));

    tools::run(
        Command::new("cp")
            .arg(source.join("lost"))
            .arg(m.at("lost")),
    );
    assert_eq!(fs::read(m.at("lost")).unwrap(), noise(1, 3_000_000));
}

#[test]
fn it_lists_numbers_and_names_as_they_come_and_the_root_does_not_list_it() {
    needs_fuse!();
    let m = Master::new();
    let visible = m.at(".cbfs/snapshots");
    assert_eq!(names(&visible), BTreeSet::new());
    assert!(!m.instance_dir().join("visible").exists(), "it has a cost");
    fs::write(m.at("file"), "1").unwrap();
    snapshot_named(&m, "monday");
    // A name that is not in the list is asked for anew; then the list is new, too.
    assert_eq!(fs::read(visible.join("1/file")).unwrap(), b"1");
    let all = |wanted: &[&str]| {
        wanted
            .iter()
            .map(|n| (*n).to_owned())
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(names(&visible), all(&["1", "monday"]));
    fs::write(m.at("file"), "2").unwrap();
    m.snapshot();
    assert_eq!(fs::read(visible.join("2/file")).unwrap(), b"2");
    assert_eq!(names(&visible), all(&["1", "2", "monday"]));
    assert_eq!(names(&m.at(".cbfs")), all(&["snapshots"]));
    assert_eq!(names(&m.mnt), all(&["file"]));
    for missing in ["3", "01", "tuesday", "latest"] {
        let looked = fs::metadata(visible.join(missing));
        assert_eq!(
            refused(looked),
            Some(Errno::NOENT.raw_os_error()),
            "{missing}"
        );
    }
    // Another file has another number, also in another snapshot.
    let numbers: BTreeSet<u64> = [
        "file",
        ".cbfs",
        ".cbfs/snapshots/1/file",
        ".cbfs/snapshots/2/file",
    ]
    .iter()
    .map(|path| fs::metadata(m.at(path)).unwrap().ino())
    .collect();
    assert_eq!(numbers.len(), 4);
}

#[test]
fn nothing_in_it_can_be_changed() {
    needs_fuse!();
    let m = Master::new();
    tree::build(&m.dir("tree"));
    let before = Fingerprint::take(&m.mnt, Exactness::Copy);
    m.snapshot();
    let old = m.at(".cbfs/snapshots/1");
    fs::write(m.at("own"), "x").unwrap();
    let rofs = Some(Errno::ROFS.raw_os_error());
    assert_eq!(refused(fs::write(old.join("new"), "x")), rofs);
    assert_eq!(refused(fs::create_dir(old.join("new"))), rofs);
    assert_eq!(refused(fs::rename(m.at("own"), old.join("own"))), rofs);
    assert_eq!(refused(fs::rename(old.join("tree"), m.at("taken"))), rofs);
    assert_eq!(refused(fs::hard_link(m.at("own"), old.join("own"))), rofs);
    assert_eq!(refused(fs::create_dir(m.at(".cbfs/snapshots/9"))), rofs);
    assert_eq!(refused(fs::create_dir(m.at(".cbfs/other"))), rofs);
    let own = OpenOptions::new().write(true).open(old.join("tree"));
    assert!(own.is_err());
    for path in [".cbfs", ".cbfs/snapshots", ".cbfs/snapshots/1"] {
        let ran = tools::output_of(Command::new("rm").arg("-rf").arg(m.at(path)));
        assert!(!ran.status.success(), "{path} was removed");
    }
    let perm = Some(Errno::PERM.raw_os_error());
    assert_eq!(refused(fs::rename(m.at(".cbfs"), m.at("dot"))), perm);
    let found = Fingerprint::take(&old, Exactness::Copy);
    assert_same("the snapshot", &before, &found);
}

#[test]
fn more_snapshots_than_are_kept_open_can_be_used_at_once_also_after_a_kill() {
    needs_fuse!();
    let m = Master::new();
    for round in 1..=9u64 {
        fs::write(m.at("file"), noise(round, 2_500_000)).unwrap();
        assert_eq!(m.snapshot(), round);
    }
    let path = |round: u64| m.at(format!(".cbfs/snapshots/{round}/file"));
    let files: Vec<File> = (1..=9)
        .map(|round| File::open(path(round)).unwrap())
        .collect();
    let mut read = vec![0; 100_000];
    for offset in [2_000_000, 0, 1_000_000] {
        for (file, round) in files.iter().zip(1..) {
            file.read_exact_at(&mut read, offset).unwrap();
            let wanted = noise(round, 2_500_000);
            let from = offset as usize;
            assert!(read == wanted[from..from + read.len()], "snapshot {round}");
        }
    }
    drop(files);
    m.node.kill9();
    m.node.start();
    assert!(!m.instance_dir().join("visible").exists(), "files stay");
    for round in [9, 1] {
        assert!(fs::read(path(round)).unwrap() == noise(round, 2_500_000));
    }
}

#[test]
fn a_bucket_that_is_away_is_an_error_there_and_nowhere_else() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    fs::write(m.at("file"), "1").unwrap();
    m.snapshot();
    fs::write(m.at("file"), "2").unwrap();
    m.snapshot();
    let visible = m.at(".cbfs/snapshots");
    assert_eq!(fs::read(visible.join("1/file")).unwrap(), b"1");
    let away = m.stage.path("away");
    fs::rename(m.bucket.dir(), &away).unwrap();
    let looked = fs::read(visible.join("2/file"));
    assert_eq!(refused(looked), Some(Errno::IO.raw_os_error()));
    assert_eq!(fs::read(m.at("file")).unwrap(), b"2");
    fs::rename(&away, m.bucket.dir()).unwrap();
    assert_eq!(fs::read(visible.join("2/file")).unwrap(), b"2");
}
