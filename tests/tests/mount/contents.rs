//! Contents: random access, holes, appends, locks, direct I/O.

use super::open;
use cbfs_tests::contents::{Dice, noise};
use cbfs_tests::fingerprint::data_ranges;
use cbfs_tests::tools;
use cbfs_tests::{Master, needs_fuse, needs_tools};
use rustix::fs::{FallocateFlags, FlockOperation, OFlags, fallocate, flock};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn random_operations_on_a_file_do_what_they_do_on_a_local_disk() {
    needs_fuse!();
    let m = Master::new();
    for seed in 0..4 {
        random_operations(&m, seed, 500);
    }
}

/// The same operations on a file in the mount and on a local one, compared after each.
fn random_operations(m: &Master, seed: u64, count: u64) {
    let mut dice = Dice::new(seed);
    let paths = [
        m.at(format!("random-{seed}")),
        m.stage.path(format!("local-{seed}")),
    ];
    let open = |path: &Path| {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        options.open(path).unwrap()
    };
    let mut files = paths.each_ref().map(|p| open(p));
    let most = [40_000, 3 << 20][seed as usize % 2];
    let mut log = Vec::new();
    for n in 0..count {
        let near = [16_384, 1 << 20, 4_096, most][dice.below(4) as usize];
        let offset = match dice.below(3) {
            0 => (near + dice.below(20)).saturating_sub(10).min(most),
            _ => dice.below(most),
        };
        let longest = [10, 5_000, 200_000][dice.below(3) as usize];
        let length = (dice.below(longest) + 1).min(most + 10 - offset);
        let choice = dice.below(12);
        log.push((choice, offset, length));
        let results = files.each_mut().map(|file| -> io::Result<u64> {
            let wipe = |flags| fallocate(&*file, flags, offset, length);
            match choice {
                0..5 => file.write_all_at(&noise(n, length as usize), offset)?,
                5 => file.set_len(offset)?,
                6 => file.set_len(if offset % 4 == 0 { 0 } else { length })?,
                7 => wipe(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE)?,
                8 => wipe(FallocateFlags::ZERO_RANGE)?,
                9 => wipe(FallocateFlags::empty())?,
                10 => {
                    let size = file.metadata()?.len();
                    let (mut from, mut to) = (size / 3, (size + offset) / 2 + length);
                    if from + length <= to && to < most {
                        let want = length.min(size - from) as usize;
                        let (from, to) = (Some(&mut from), Some(&mut to));
                        return Ok(
                            rustix::fs::copy_file_range(&*file, from, &*file, to, want)? as u64
                        );
                    }
                }
                _ => file.sync_all()?,
            }
            Ok(0)
        });
        let [ours, theirs] = results.map(|r| r.map_err(|e| e.raw_os_error()));
        assert_eq!(
            ours,
            theirs,
            "operation {n} of seed {seed}: {:?}",
            log.last()
        );
        if n % 50 == 49 {
            // Other descriptors, and from time to time nothing in the kernel's caches.
            if n % 200 == 199 {
                drop(files);
                m.remount();
            }
            files = paths.each_ref().map(|p| open(p));
        }
        let [ours, theirs] = files.each_ref().map(|file| {
            let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        });
        assert_eq!(
            ours.len(),
            theirs.len(),
            "size after {n} of seed {seed}: {:?}",
            log.last()
        );
        if ours != theirs {
            let at = ours.iter().zip(&theirs).position(|(a, b)| a != b).unwrap();
            let last = &log[log.len().saturating_sub(8)..];
            panic!(
                "byte {at} of {} after operation {n} of seed {seed}: {last:?}",
                ours.len()
            );
        }
    }
}

#[test]
fn holes_are_kept_made_and_found() {
    needs_fuse!();
    let m = Master::new();
    let path = m.at("sparse");
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    file.set_len(1 << 40).unwrap();
    file.write_all_at(&noise(1, 8_192), 1 << 39).unwrap();
    assert_eq!(data_ranges(&file, 1 << 40), [(1 << 39, (1 << 39) + 8_192)]);
    assert!(
        file.metadata().unwrap().blocks() < 1_000,
        "the hole takes space"
    );
    file.set_len(4 << 20).unwrap();
    assert_eq!(data_ranges(&file, 4 << 20), []);
    file.write_all_at(&noise(2, 4 << 20), 0).unwrap();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, 1 << 20, 1 << 20).unwrap();
    fallocate(&file, FallocateFlags::ZERO_RANGE, 3 << 20, 1 << 19).unwrap();
    let found = data_ranges(&file, 4 << 20);
    assert!(
        found.contains(&(0, 1 << 20)) && found[1].0 == 2 << 20,
        "{found:?}"
    );
    let mut wanted = noise(2, 4 << 20);
    wanted[1 << 20..2 << 20].fill(0);
    wanted[3 << 20..(3 << 20) + (1 << 19)].fill(0);
    drop(file);
    m.remount();
    assert!(fs::read(&path).unwrap() == wanted);
    let seek = |at| rustix::fs::seek(File::open(&path).unwrap(), at);
    assert_eq!(seek(rustix::fs::SeekFrom::Hole(0)), Ok(1 << 20));
    assert_eq!(seek(rustix::fs::SeekFrom::Data(1 << 20)), Ok(2 << 20));
    assert_eq!(seek(rustix::fs::SeekFrom::Data(4 << 20)), Err(Errno::NXIO));
}

#[test]
fn space_is_allocated_within_and_beyond_the_size() {
    needs_fuse!();
    let m = Master::new();
    let path = m.at("allocated");
    fs::write(&path, "start").unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 1 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 5);
    fallocate(&file, FallocateFlags::empty(), 0, 100_000).unwrap();
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes.len(), 100_000);
    assert!(bytes.starts_with(b"start") && bytes[5..].iter().all(|b| *b == 0));
    let unknown = FallocateFlags::COLLAPSE_RANGE;
    assert_eq!(fallocate(&file, unknown, 0, 4_096), Err(Errno::OPNOTSUPP));
}

#[test]
fn copy_file_range_copies_within_and_between_files() {
    needs_fuse!();
    let m = Master::new();
    for size in [1_000_usize, 16_384, 3_000_000] {
        let bytes = noise(size as u64, size);
        fs::write(m.at("from"), &bytes).unwrap();
        fs::write(m.at("to"), b"0123456789").unwrap();
        let from = File::open(m.at("from")).unwrap();
        let to = File::options().write(true).open(m.at("to")).unwrap();
        let (mut read, mut write) = (0, 10);
        while read < size as u64 {
            let want = size - read as usize;
            let copied =
                rustix::fs::copy_file_range(&from, Some(&mut read), &to, Some(&mut write), want);
            assert!(copied.unwrap() > 0);
        }
        let copied = fs::read(m.at("to")).unwrap();
        assert!(
            copied[..10] == *b"0123456789" && copied[10..] == bytes,
            "{size}"
        );
    }
}

#[test]
fn concurrent_appends_lose_and_tear_nothing() {
    needs_fuse!();
    let m = Master::new();
    let path = m.at("log");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let path = &path;
            scope.spawn(move || {
                let mut file = open(path, OFlags::APPEND | OFlags::CREATE | OFlags::WRONLY);
                for n in 0..400 {
                    let line = format!("{thread} {n} {}\n", "x".repeat(n % 90));
                    assert_eq!(file.write(line.as_bytes()).unwrap(), line.len());
                }
            });
        }
    });
    let text = fs::read_to_string(&path).unwrap();
    let mut next = [0; 4];
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let (thread, n): (usize, usize) = (words[0].parse().unwrap(), words[1].parse().unwrap());
        assert_eq!(n, next[thread], "out of order or lost: {line}");
        assert_eq!(words[2], "x".repeat(n % 90));
        next[thread] += 1;
    }
    assert_eq!(next, [400; 4]);
}

#[test]
fn flock_and_fcntl_locks_hold_between_processes() {
    needs_fuse!();
    let m = Master::new();
    let path = m.at("lock");
    fs::write(&path, "x").unwrap();
    let (one, two) = (File::open(&path).unwrap(), File::open(&path).unwrap());
    flock(&one, FlockOperation::LockExclusive).unwrap();
    let busy = flock(&two, FlockOperation::NonBlockingLockShared);
    assert_eq!(busy, Err(Errno::WOULDBLOCK));
    flock(&one, FlockOperation::Unlock).unwrap();
    flock(&two, FlockOperation::NonBlockingLockShared).unwrap();

    needs_tools!("python3");
    let script = "
import fcntl, os, sys
f = open(sys.argv[1], 'r+')
fcntl.lockf(f, fcntl.LOCK_EX, 10, 100)
print('locked', flush=True)
sys.stdin.readline()
";
    let mut holder = Command::new("python3")
        .args(["-c", script])
        .arg(&path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 7];
    holder
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut ready)
        .unwrap();
    let attempt = |start: u64| {
        let script = "
import fcntl, sys
f = open(sys.argv[1], 'r+')
try:
    fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, int(sys.argv[2]))
    print('free')
except OSError:
    print('held')
";
        let mut command = Command::new("python3");
        command
            .args(["-c", script])
            .arg(&path)
            .arg(start.to_string());
        tools::run(&mut command)
    };
    assert_eq!(
        (attempt(105), attempt(200)),
        ("held\n".into(), "free\n".into())
    );
    drop(holder.stdin.take());
    holder.wait().unwrap();
    assert_eq!(attempt(105), "free\n");
}

#[test]
fn direct_io_reads_and_writes_past_the_page_cache() {
    needs_fuse!();
    let m = Master::new();
    for size in [4_096_usize, 16_384, 5 << 20] {
        let path = m.at("direct");
        let _ = fs::remove_file(&path);
        // Aligned by choosing where to begin in a larger buffer.
        let mut buffer = vec![0; size + 4_096];
        let start = buffer.as_ptr().align_offset(4_096);
        let aligned = &mut buffer[start..start + size];
        aligned.copy_from_slice(&noise(size as u64, size));
        let file = open(&path, OFlags::DIRECT | OFlags::CREATE | OFlags::RDWR);
        file.write_all_at(aligned, 0).unwrap();
        // A buffered reader sees it, and direct readers see buffered writes.
        assert!(fs::read(&path).unwrap() == aligned);
        let other = File::options().write(true).open(&path).unwrap();
        other.write_all_at(b"buffered", 100).unwrap();
        aligned.fill(0);
        file.read_exact_at(aligned, 0).unwrap();
        let mut wanted = noise(size as u64, size);
        wanted[100..108].copy_from_slice(b"buffered");
        assert!(aligned == wanted, "{size}");
    }
}
