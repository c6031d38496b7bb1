//! A full disk under the state directory, and a limit that is reached: writers get ENOSPC; deletes, fsync
//! and snapshots work; nothing that was answered is lost.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too

use cbfs_tests::contents::noise;
use cbfs_tests::{Disk, Exactness, Fingerprint, Master, assert_same, needs_fuse};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Bytes of a small file: inline in the KVS.
const SMALL: usize = 8 << 10;
/// Bytes written at a time to a large one.
const PIECE: usize = 256 << 10;
/// Size of the disk in MiB.
const DISK: u64 = 96;

/// Different contents for every `n`, made fast also in debug builds.
fn contents(n: u64, length: usize) -> Vec<u8> {
    static NOISE: OnceLock<Vec<u8>> = OnceLock::new();
    let mut bytes = NOISE.get_or_init(|| noise(1, PIECE))[..length].to_vec();
    for block in bytes.chunks_mut(512) {
        block[..8].copy_from_slice(&n.to_le_bytes());
    }
    bytes
}

fn is_full(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::StorageFull
}

/// What was answered, to be compared with what is there.
struct Written {
    dir: PathBuf,
    /// Small files that are there, by number.
    small: Vec<u64>,
    /// Pieces of the large file.
    pieces: u64,
    next: u64,
}

impl Written {
    fn new(dir: PathBuf) -> Written {
        fs::create_dir_all(&dir).unwrap();
        Written {
            dir,
            small: Vec::new(),
            pieces: 0,
            next: 0,
        }
    }

    fn path(&self, n: u64) -> PathBuf {
        self.dir.join(format!("small-{n}"))
    }

    fn large(&self) -> PathBuf {
        self.dir.join("large")
    }

    /// One more small file, or none at all.
    fn write_small(&mut self) -> io::Result<()> {
        let n = self.next;
        let file = File::create_new(self.path(n))?;
        match file.write_all_at(&contents(n, SMALL), 0) {
            Ok(()) => {
                self.next += 1;
                self.small.push(n);
                Ok(())
            }
            Err(e) => {
                assert_eq!(file.metadata().unwrap().size(), 0, "of a failed write");
                fs::remove_file(self.path(n)).unwrap();
                Err(e)
            }
        }
    }

    /// One more piece at the end of the large file.
    fn write_piece(&mut self) -> io::Result<()> {
        let mut options = File::options();
        let file = options
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.large())?;
        let at = self.pieces * PIECE as u64;
        file.write_all_at(&contents(self.pieces, PIECE), at)?;
        self.pieces += 1;
        Ok(())
    }

    fn fill_with_small_files(&mut self) {
        let refused = loop {
            if let Err(e) = self.write_small() {
                break e;
            }
        };
        assert!(is_full(&refused), "{refused}");
        assert!(self.small.len() > 500, "{} files only", self.small.len());
    }

    fn fill_with_a_large_file(&mut self) {
        let refused = loop {
            if let Err(e) = self.write_piece() {
                break e;
            }
        };
        assert!(is_full(&refused), "{refused}");
        assert!(self.pieces > 40, "{} pieces only", self.pieces);
    }

    /// fsync of what was written.
    fn sync(&self) {
        for n in self.small.iter().rev().take(20) {
            File::open(self.path(*n)).unwrap().sync_all().unwrap();
        }
        if self.pieces > 0 {
            File::open(self.large()).unwrap().sync_all().unwrap();
        }
        File::open(&self.dir).unwrap().sync_all().unwrap();
    }

    fn check(&self) {
        for n in &self.small {
            let found = fs::read(self.path(*n)).unwrap();
            assert!(found == contents(*n, SMALL), "small file {n}");
        }
        let names = fs::read_dir(&self.dir).unwrap().count();
        assert_eq!(names, self.small.len() + usize::from(self.pieces > 0));
        if self.pieces > 0 {
            let file = File::open(self.large()).unwrap();
            let mut found = vec![0; PIECE];
            for n in 0..self.pieces {
                file.read_exact_at(&mut found, n * PIECE as u64).unwrap();
                assert!(found == contents(n, PIECE), "piece {n} of the large file");
            }
        }
    }

    /// Delete every second small file.
    fn delete_half(&mut self) -> usize {
        let before = self.small.len();
        let mut keep = false;
        let (kept, gone): (Vec<u64>, Vec<u64>) = self.small.iter().partition(|_| {
            keep = !keep;
            keep
        });
        for n in gone {
            fs::remove_file(self.path(n)).unwrap();
        }
        self.small = kept;
        before - self.small.len()
    }
}

fn available(at: &Path) -> u64 {
    let told = rustix::fs::statvfs(at).unwrap();
    told.f_bavail * told.f_frsize
}

/// The kernel tells of the end of an unlinked file right after unlink(2), not in it.
fn wait_for_available(at: &Path, wanted: u64) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while available(at) < wanted {
        assert!(Instant::now() < deadline, "{} available", available(at));
        std::thread::yield_now();
    }
}

fn not_poisoned(m: &Master) {
    let about = m.node.json(["instance", "show", &m.fs]);
    assert!(
        ["ok", "degraded"].contains(&about["health"].as_str().unwrap()),
        "{about}"
    );
}

/// The daemon tells within a second or so.
fn wait_for_problem(m: &Master, wanted: Option<&str>) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let about = m.node.json(["instance", "show", &m.fs]);
        let problems = about["problems"].as_array().cloned().unwrap_or_default();
        let told = |text: &str| problems.iter().any(|p| p.as_str().unwrap().contains(text));
        if wanted.map_or(problems.is_empty(), told) {
            return;
        }
        assert!(Instant::now() < deadline, "{wanted:?} is not in {about}");
    }
}

/// Fill the disk with a file that is none of ours.
fn fill_from_outside(m: &Master) -> PathBuf {
    let path = m.node.state_dir().join("of-somebody-else");
    let file = File::create_new(&path).unwrap();
    let mut at = 0;
    for step in [1 << 20, 4096] {
        let bytes = vec![1; step];
        while file.write_all_at(&bytes, at).is_ok() {
            at += step as u64;
        }
    }
    path
}

fn small_files(disk: Disk) {
    needs_fuse!();
    if disk.is_missing() {
        return;
    }
    let m = Master::on_disk(disk, DISK);
    let mut written = Written::new(m.at("dir"));
    written.fill_with_small_files();
    assert!(is_full(
        &fs::write(m.at("another"), contents(1, SMALL)).unwrap_err()
    ));
    let _ = fs::remove_file(m.at("another"));
    written.sync();
    written.check();
    not_poisoned(&m);
    m.node.kill9();
    m.node.start();
    written.check();
    wait_for_problem(&m, Some("disk under the state directory is full"));
    // What takes nothing works.
    fs::rename(written.path(0), m.at("dir/renamed")).unwrap();
    fs::rename(m.at("dir/renamed"), written.path(0)).unwrap();
    let cut = written.small.pop().unwrap();
    File::options()
        .write(true)
        .open(written.path(cut))
        .unwrap()
        .set_len(0)
        .unwrap();
    fs::remove_file(written.path(cut)).unwrap();
    let deleted = written.delete_half();
    for n in 0..deleted / 4 {
        written
            .write_small()
            .unwrap_or_else(|e| panic!("file {n} after {deleted} were deleted: {e}"));
    }
    written.sync();
    written.check();
    not_poisoned(&m);
    m.node.kill9();
    m.node.start();
    written.check();
}

#[test]
fn a_tmpfs_full_of_small_files_refuses_writers_and_loses_nothing() {
    small_files(Disk::Tmpfs);
}

#[test]
fn an_ext4_full_of_small_files_refuses_writers_and_loses_nothing() {
    small_files(Disk::Ext4);
}

fn large_file(disk: Disk) {
    needs_fuse!();
    if disk.is_missing() {
        return;
    }
    let m = Master::on_disk(disk, DISK);
    let mut written = Written::new(m.at("dir"));
    written.fill_with_a_large_file();
    written.sync();
    written.check();
    assert!(available(&m.mnt) < 4 << 20, "{}", available(&m.mnt));
    not_poisoned(&m);
    m.node.kill9();
    m.node.start();
    written.check();
    // Cut to a quarter: df tells at once, and what it tells can be used at once.
    let before = available(&m.mnt);
    written.pieces /= 4;
    let file = File::options().write(true).open(written.large()).unwrap();
    file.set_len(written.pieces * PIECE as u64).unwrap();
    let freed = available(&m.mnt) - before;
    assert!(freed > 32 << 20, "df tells {freed}");
    let mut more = 0;
    while more < freed / 4 * 3 {
        written.write_piece().unwrap();
        more += PIECE as u64;
    }
    written.check();
    // Deleted whole, likewise.
    fs::remove_file(written.large()).unwrap();
    drop(file);
    let large = written.pieces;
    written.pieces = 0;
    wait_for_available(&m.mnt, 48 << 20);
    for _ in 0..large / 4 * 3 {
        written.write_piece().unwrap();
    }
    written.sync();
    written.check();
    not_poisoned(&m);
}

#[test]
fn a_large_file_fills_a_tmpfs_and_what_is_cut_or_deleted_is_free_at_once() {
    large_file(Disk::Tmpfs);
}

#[test]
fn a_large_file_fills_an_ext4_and_what_is_cut_or_deleted_is_free_at_once() {
    large_file(Disk::Ext4);
}

fn snapshot(disk: Disk) {
    needs_fuse!();
    if disk.is_missing() {
        return;
    }
    let m = Master::on_disk(disk, DISK);
    let mut written = Written::new(m.at("dir"));
    for _ in 0..20 {
        written.write_piece().unwrap();
    }
    written.fill_with_small_files();
    let before = m.fingerprint();
    let first = m.snapshot();
    m.assert_snapshot_is(first, &before);
    written.check();
    // The journal went into the snapshot: there is room again, as soon as that is cleaned up.
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(e) = written.write_small() {
        assert!(is_full(&e) && Instant::now() < deadline, "{e}");
    }
    for _ in 0..100 {
        written.write_small().unwrap();
    }
    written.fill_with_small_files();
    let before = m.fingerprint();
    let second = m.snapshot();
    m.assert_snapshot_is(second, &before);
    m.assert_snapshot_is(
        first,
        &Fingerprint::take(&m.slave(first).mnt, Exactness::Snapshot),
    );
    m.node.kill9();
    m.node.start();
    written.check();
    assert_same("after a kill", &before, &m.fingerprint());
    not_poisoned(&m);
}

#[test]
fn a_snapshot_is_taken_of_a_full_tmpfs_and_is_exact() {
    snapshot(Disk::Tmpfs);
}

#[test]
fn a_snapshot_is_taken_of_a_full_ext4_and_is_exact() {
    snapshot(Disk::Ext4);
}

fn others(disk: Disk) {
    needs_fuse!();
    if disk.is_missing() {
        return;
    }
    let m = Master::on_disk(disk, DISK);
    let mut written = Written::new(m.at("dir"));
    for _ in 0..200 {
        written.write_small().unwrap();
    }
    for _ in 0..20 {
        written.write_piece().unwrap();
    }
    let theirs = fill_from_outside(&m);
    assert!(available(&m.mnt) < 4096, "{}", available(&m.mnt));
    let refused = loop {
        if let Err(e) = written.write_small() {
            break e;
        }
    };
    assert!(is_full(&refused), "{refused}");
    written.sync();
    written.delete_half();
    written.check();
    not_poisoned(&m);
    m.node.kill9();
    m.node.start();
    written.check();
    written.delete_half();
    m.node.stop();
    m.node.start();
    written.check();
    let before = m.fingerprint();
    let number = m.snapshot();
    m.assert_snapshot_is(number, &before);
    fs::remove_file(theirs).unwrap();
    for _ in 0..200 {
        written.write_small().unwrap();
    }
    for _ in 0..20 {
        written.write_piece().unwrap();
    }
    written.check();
    wait_for_problem(&m, None);
}

#[test]
fn a_tmpfs_that_others_fill_leaves_room_to_delete_to_sync_to_restart_and_to_snapshot() {
    others(Disk::Tmpfs);
}

#[test]
fn an_ext4_that_others_fill_leaves_room_to_delete_to_sync_to_restart_and_to_snapshot() {
    others(Disk::Ext4);
}

/// Bytes on disk below a directory.
fn taken(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    let sizes = entries.map(|e| match e.metadata() {
        Ok(about) if about.is_dir() => taken(&e.path()),
        Ok(about) => about.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}

#[test]
fn a_limit_that_is_reached_refuses_writers_and_df_tells_it() {
    needs_fuse!();
    const LIMIT: u64 = 64 << 20;
    let m = Master::new();
    m.node.ctl(["umount", &m.fs]).ok();
    let mnt = m.mnt.to_str().unwrap();
    let mount = |limit: &str| m.node.ctl(["mount", &m.fs, mnt, "--kvs-limit", limit]);
    mount("63M").fails(2, &["64 MiB"]);
    mount("64M").ok();
    let limit = |m: &Master| m.node.json(["instance", "show", &m.fs])["kvs_limit"].as_u64();
    assert_eq!(limit(&m), Some(LIMIT));
    let told = rustix::fs::statvfs(&m.mnt).unwrap();
    assert_eq!(told.f_blocks * told.f_frsize, LIMIT);
    let kept = || {
        let parts = ["data", "kvs", "journal"].map(|part| taken(&m.instance_dir().join(part)));
        parts.iter().sum::<u64>()
    };

    let mut written = Written::new(m.at("dir"));
    written.fill_with_small_files();
    written.sync();
    written.check();
    assert!(kept() < LIMIT + (8 << 20), "{}", kept());
    assert!(available(&m.mnt) < 1 << 20);
    wait_for_problem(&m, Some("--kvs-limit"));
    let deleted = written.delete_half();
    for _ in 0..deleted / 4 {
        written.write_small().unwrap();
    }
    written.check();
    // It is kept, over a kill and a remount.
    m.node.kill9();
    m.node.start();
    m.remount();
    assert_eq!(limit(&m), Some(LIMIT));
    written.check();
    let before = m.fingerprint();
    let number = m.snapshot();
    m.assert_snapshot_is(number, &before);

    for n in written.small.drain(..) {
        fs::remove_file(m.at(format!("dir/small-{n}"))).unwrap();
    }
    m.snapshot();
    written.fill_with_a_large_file();
    written.sync();
    assert!(kept() < LIMIT + (8 << 20), "{}", kept());
    let free = available(&m.mnt);
    fs::remove_file(written.large()).unwrap();
    wait_for_available(&m.mnt, free + (32 << 20));
    let large = written.pieces;
    written.pieces = 0;
    for _ in 0..large / 10 * 9 {
        written.write_piece().unwrap();
    }
    m.node.ctl(["umount", &m.fs]).ok();
    mount("none").ok();
    assert_eq!(limit(&m), None);
    for _ in 0..large {
        written.write_piece().unwrap();
    }
    written.check();
    not_poisoned(&m);
}
