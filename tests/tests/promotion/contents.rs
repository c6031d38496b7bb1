//! Random changes of files of before the promotion, beside the same changes of plain files.

use super::{another_node, fingerprint, promote, snapshot};
use cbfs_tests::contents::noise;
use cbfs_tests::{Master, Node, assert_same, needs_fuse, scaled};
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Sizes of files: inline, a block or less, several blocks.
const SIZES: [u64; 6] = [0, 700, 16_384, 200_000, 1_048_576, 3_400_000];

/// A small generator, so that a failure can be repeated by its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below.max(1)
    }
}

/// A change of one file.
#[derive(Debug, Clone)]
enum Change {
    Write(u64, u64),
    Truncate(u64),
    Punch(u64, u64),
    Zero(u64, u64),
    Allocate(u64, u64),
    CopyWithin(u64, u64, u64),
    Chmod(u32),
}

fn roll_change(dice: &mut Dice, size: u64) -> Change {
    let most = size + 100_000;
    let (a, b) = (dice.roll(most), dice.roll(most));
    let short = dice.roll(20_000) + 1;
    // Often at the edges of blocks.
    let edge = |at: u64| {
        if at.is_multiple_of(3) {
            at & !0xfffff
        } else {
            at
        }
    };
    match dice.roll(11) {
        0..=3 => Change::Write(edge(a), short),
        4 => Change::Write(edge(a), dice.roll(1_500_000) + 1),
        5 => Change::Truncate(edge(a)),
        6 => Change::Truncate(dice.roll(20_000)),
        7 => Change::Punch(edge(a), dice.roll(1_800_000) + 1),
        8 => Change::Zero(edge(a), short),
        9 => Change::CopyWithin(a, edge(b), short),
        _ if a.is_multiple_of(2) => Change::Allocate(edge(a), short),
        _ => Change::Chmod(0o600 + (a % 8) as u32),
    }
}

fn make(file: &File, change: &Change, seed: u64) {
    match *change {
        Change::Write(at, length) => {
            file.write_all_at(&noise(seed, length as usize), at)
                .unwrap();
        }
        Change::Truncate(size) => file.set_len(size).unwrap(),
        Change::Punch(at, length) => {
            let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(file, mode, at, length).unwrap();
        }
        Change::Zero(at, length) => {
            fallocate(file, FallocateFlags::ZERO_RANGE, at, length).unwrap();
        }
        Change::Allocate(at, length) => {
            fallocate(file, FallocateFlags::empty(), at, length).unwrap();
        }
        Change::CopyWithin(from, to, length) => {
            let mut bytes = vec![0; length as usize];
            let read = file.read_at(&mut bytes, from).unwrap();
            file.write_all_at(&bytes[..read], to).unwrap();
        }
        Change::Chmod(mode) => {
            use std::os::unix::fs::PermissionsExt;
            file.set_permissions(fs::Permissions::from_mode(mode))
                .unwrap();
        }
    }
}

/// All bytes, by way of SEEK_DATA: what is called a hole must be zeros, and all data found.
fn read_by_seeking(file: &File) -> Vec<u8> {
    let size = file.metadata().unwrap().len();
    let mut bytes = vec![0; size as usize];
    let mut at = 0;
    while at < size {
        let Ok(from) = seek(file, SeekFrom::Data(at)) else {
            break;
        };
        let to = seek(file, SeekFrom::Hole(from)).unwrap();
        assert!(
            from >= at && to > from,
            "SEEK_DATA {at}: {from}, SEEK_HOLE: {to}"
        );
        file.read_exact_at(&mut bytes[from as usize..to as usize], from)
            .unwrap();
        at = to;
    }
    bytes
}

fn compare(mnt: &Path, reference: &Path, names: &[String], when: &str) {
    for name in names {
        let (left, right) = (mnt.join(name), reference.join(name));
        let wanted = fs::read(&right).unwrap();
        let found = fs::read(&left).unwrap();
        let differs = wanted.iter().zip(&found).position(|(a, b)| a != b);
        let lengths = (wanted.len(), found.len());
        assert!(
            wanted == found,
            "{when}: {name} differs at {differs:?}, lengths {lengths:?}"
        );
        let sought = read_by_seeking(&File::open(&left).unwrap());
        let differs = wanted.iter().zip(&sought).position(|(a, b)| a != b);
        assert!(
            wanted == sought,
            "{when}: {name} by SEEK_DATA differs at {differs:?}"
        );
    }
}

/// The node's kernel caches are empty afterwards.
fn remount(master: &Master, node: &Node, mnt: &Path) {
    node.ctl(["umount", &master.fs]).ok();
    node.mount(&master.fs, &master.bucket, mnt);
}

#[test]
fn changed_files_of_before_the_promotion_have_exactly_the_bytes_they_should() {
    needs_fuse!();
    let seed = std::env::var("CBFS_TESTS_SEED")
        .ok()
        .and_then(|s| s.parse().ok());
    let seed: u64 = seed.unwrap_or(0x9e37_79b9_7f4a_7c15);
    eprintln!("CBFS_TESTS_SEED={seed}");
    let mut dice = Dice(seed | 1);
    let master = Master::new();
    let reference = master.stage.dir("reference");
    let mut names = Vec::new();
    for (n, size) in SIZES.iter().enumerate() {
        for kind in ["dense", "sparse"] {
            let name = format!("{kind}-{n}");
            for path in [master.at(&name), reference.join(&name)] {
                let file = File::create(&path).unwrap();
                if kind == "dense" {
                    file.write_all_at(&noise(n as u64, *size as usize), 0)
                        .unwrap();
                } else {
                    file.set_len(*size).unwrap();
                    let piece = noise(n as u64 + 7, (*size / 5) as usize);
                    file.write_all_at(&piece, *size / 2).unwrap();
                }
            }
            names.push(name);
        }
    }
    assert_eq!(master.snapshot(), 1);
    // A second layer below: a patched file, and one that was cut and grew again.
    for root in [&master.mnt, &reference] {
        let file = OpenOptions::new()
            .write(true)
            .open(root.join("dense-5"))
            .unwrap();
        file.write_all_at(b"second layer", 1_100_000).unwrap();
        let file = OpenOptions::new()
            .write(true)
            .open(root.join("dense-4"))
            .unwrap();
        file.set_len(300_000).unwrap();
        file.set_len(900_000).unwrap();
    }
    assert_eq!(master.snapshot(), 2);
    master.node.kill9();

    let node = another_node(&master, "b");
    promote(&master, &node, 1).ok();
    let mnt = master.stage.dir("mnt-b");
    node.mount(&master.fs, &master.bucket, &mnt);
    compare(&mnt, &reference, &names, "after the promotion");
    let mut number = 2;
    for round in 0..scaled(40, 6) {
        remount(&master, &node, &mnt);
        for step in 0..scaled(60, 25) {
            let name = &names[dice.roll(names.len() as u64) as usize];
            let open = |root: &Path| {
                let mut options = OpenOptions::new();
                options
                    .read(true)
                    .write(true)
                    .open(root.join(name))
                    .unwrap()
            };
            let (ours, plain) = (open(&mnt), open(&reference));
            let change = roll_change(&mut dice, plain.metadata().unwrap().len());
            let seed = round * 1000 + step;
            make(&plain, &change, seed);
            make(&ours, &change, seed);
            let sizes = (
                plain.metadata().unwrap().len(),
                ours.metadata().unwrap().len(),
            );
            assert_eq!(sizes.0, sizes.1, "{name}: {change:?}");
        }
        let when = format!("round {round}");
        match round % 3 {
            0 => compare(&mnt, &reference, &names, &when),
            1 => {
                node.kill9();
                node.start();
                compare(&mnt, &reference, &names, &format!("{when}, killed"));
            }
            _ => {
                number += 1;
                let wanted = fingerprint(&mnt);
                assert_eq!(snapshot(&master, &node), number);
                let slave = master.slave(number);
                compare(
                    &slave.mnt,
                    &reference,
                    &names,
                    &format!("{when}, its snapshot"),
                );
                assert_same(&when, &wanted, &fingerprint(&slave.mnt));
            }
        }
    }
    remount(&master, &node, &mnt);
    compare(&mnt, &reference, &names, "at the end");
    node.ctl(["umount", &master.fs]).ok();
    node.stop();
    node.ctl(["fs", "check", "--local", &master.fs]).ok();
}

/// What is done to a small file of before the promotion.
#[derive(Clone, Copy)]
enum Step {
    Append(usize),
    Cut(u64),
    Patch(u64, usize),
    Read,
}

/// What happens after each step.
#[derive(Debug, Clone, Copy)]
enum Between {
    Nothing,
    PagesDropped,
    Remounted,
    Killed,
}

/// Ways out of inline contents: into a backing file, and by way of nothing.
const SMALL_FILES: [(&str, &[Step]); 6] = [
    (
        "appended",
        &[Step::Append(1), Step::Append(7_000), Step::Append(1)],
    ),
    (
        "read",
        &[Step::Read, Step::Append(1), Step::Append(7_000), Step::Read],
    ),
    (
        "emptied",
        &[
            Step::Append(1),
            Step::Cut(0),
            Step::Append(20_000),
            Step::Append(1),
        ],
    ),
    (
        "emptied-at-once",
        &[
            Step::Read,
            Step::Cut(0),
            Step::Append(20_000),
            Step::Patch(5_000, 10),
        ],
    ),
    (
        "grown",
        &[
            Step::Patch(10, 20),
            Step::Cut(40_000),
            Step::Patch(30_000, 5),
        ],
    ),
    (
        "cut",
        &[
            Step::Append(1),
            Step::Cut(4_000),
            Step::Append(30_000),
            Step::Patch(2_000, 9),
        ],
    ),
];

fn drop_pages(path: &Path) {
    let file = File::open(path).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

fn take(step: Step, path: &Path, seed: u64) {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).open(path).unwrap();
    let size = file.metadata().unwrap().len();
    match step {
        Step::Append(length) => file.write_all_at(&noise(seed, length), size).unwrap(),
        Step::Patch(at, length) => file.write_all_at(&noise(seed, length), at).unwrap(),
        Step::Cut(size) => file.set_len(size).unwrap(),
        Step::Read => drop(fs::read(path).unwrap()),
    }
}

/// What was known of a file while all of it was below must not be believed once it has been inline.
#[test]
fn a_small_file_of_before_the_promotion_outgrows_its_row() {
    needs_fuse!();
    let master = Master::new();
    let reference = master.stage.dir("reference");
    let all = [
        Between::Nothing,
        Between::PagesDropped,
        Between::Remounted,
        Between::Killed,
    ];
    let name_of = |between: Between, what: &str| format!("{what}-{between:?}");
    let mut names = Vec::new();
    for between in all {
        for (n, (what, _)) in SMALL_FILES.iter().enumerate() {
            let name = name_of(between, what);
            for path in [master.at(&name), reference.join(&name)] {
                fs::write(path, noise(n as u64 + 100, 10_000)).unwrap();
            }
            names.push(name);
        }
    }
    assert_eq!(master.snapshot(), 1);
    master.node.kill9();
    let node = another_node(&master, "b");
    promote(&master, &node, 1).ok();
    let mnt = master.stage.dir("mnt-b");
    node.mount(&master.fs, &master.bucket, &mnt);

    for between in all {
        let most = SMALL_FILES.iter().map(|(_, steps)| steps.len()).max();
        for turn in 0..most.unwrap() {
            for (what, steps) in SMALL_FILES {
                let name = name_of(between, what);
                if let Some(step) = steps.get(turn) {
                    take(*step, &mnt.join(&name), turn as u64);
                    take(*step, &reference.join(&name), turn as u64);
                }
                if let Between::PagesDropped = between {
                    drop_pages(&mnt.join(&name));
                }
            }
            match between {
                Between::Nothing | Between::PagesDropped => {}
                Between::Remounted => remount(&master, &node, &mnt),
                Between::Killed => {
                    node.kill9();
                    node.start();
                }
            }
        }
        let ours = names
            .iter()
            .filter(|name| name.ends_with(&format!("{between:?}")));
        let ours: Vec<String> = ours.cloned().collect();
        for name in &ours {
            drop_pages(&mnt.join(name));
        }
        compare(&mnt, &reference, &ours, &format!("{between:?}"));
    }
    assert_eq!(snapshot(&master, &node), 2);
    let slave = master.slave(2);
    compare(&slave.mnt, &reference, &names, "in the next snapshot");
    remount(&master, &node, &mnt);
    compare(&mnt, &reference, &names, "at the end");
    node.ctl(["umount", &master.fs]).ok();
    node.stop();
    node.ctl(["fs", "check", "--local", &master.fs]).ok();
}
