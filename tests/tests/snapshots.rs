//! A snapshot is exactly the file system as of its cut, costs what has changed, and opens with
//! tools that have nothing to do with CBFS.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too

use cbfs_tests::contents::{Dice, noise, text};
use cbfs_tests::{Exactness, Fingerprint, Master, assert_same, needs_fuse, needs_tools, scaled};
use cbfs_tests::{tools, tree};
use rustix::fs::{FallocateFlags, fallocate};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Everything in the bucket below the file system's prefix.
fn objects(m: &Master) -> BTreeSet<PathBuf> {
    fn walk(dir: &Path, found: &mut BTreeSet<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else {
                found.insert(path);
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(&m.bucket.dir().join(&m.fs), &mut found);
    found
}

fn bytes_of<'a>(objects: impl IntoIterator<Item = &'a PathBuf>) -> u64 {
    objects
        .into_iter()
        .map(|p| fs::metadata(p).unwrap().len())
        .sum()
}

/// The directory of a snapshot's objects.
fn attempt_dir(m: &Master, number: u64) -> PathBuf {
    let manifest = manifest(m, number);
    let attempt = manifest["attempt"].as_str().unwrap();
    m.bucket
        .dir()
        .join(&m.fs)
        .join(format!("s/{number:010}-e1-{attempt}"))
}

fn manifest(m: &Master, number: u64) -> serde_json::Value {
    let path = m
        .bucket
        .dir()
        .join(&m.fs)
        .join(format!("m/{number:010}-e1.json"));
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Paths of a snapshot's data tarballs, in order.
fn tarballs(m: &Master, number: u64) -> Vec<PathBuf> {
    let entries = fs::read_dir(attempt_dir(m, number)).unwrap();
    let mut all: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    all.retain(|p| {
        let name = p.file_name().unwrap().to_string_lossy();
        name.ends_with(".tar.zst") && !name.starts_with("0000")
    });
    all.sort();
    all
}

// ---------------------------------------------------------------- exactness

#[test]
fn the_first_snapshot_is_exact_on_a_second_node() {
    needs_fuse!();
    let m = Master::new();
    tree::build(&m.dir("tree"));
    let before = m.fingerprint();
    let holes = Fingerprint::take(&m.mnt, Exactness::CopyWithHoles);
    let number = m.snapshot();
    assert_eq!(number, 1);
    let slave = m.slave(number);
    let found = Fingerprint::take(&slave.mnt, Exactness::Snapshot);
    assert_same("the slave", &before, &found);
    let found = Fingerprint::take(&slave.mnt, Exactness::CopyWithHoles);
    assert_same("holes on the slave", &holes, &found);
    assert_same("the master", &before, &m.fingerprint());
}

#[test]
fn later_snapshots_are_exact_and_earlier_ones_stay() {
    needs_fuse!();
    let m = Master::new();
    tree::build(&m.dir("tree"));
    tree::build(&m.dir("untouched"));
    let first = m.fingerprint();
    m.snapshot();
    tree::change(&m.at("tree"));
    let second = m.fingerprint();
    m.snapshot();
    fs::remove_dir_all(m.at("tree")).unwrap();
    fs::rename(m.at("untouched"), m.at("moved")).unwrap();
    tree::build(&m.dir("tree"));
    let third = m.fingerprint();
    m.snapshot();
    tree::change(&m.at("moved"));
    let fourth = m.fingerprint();
    m.snapshot();
    for (number, wanted) in [(4, &fourth), (3, &third), (2, &second), (1, &first)] {
        m.assert_snapshot_is(number, wanted);
    }
}

#[test]
fn random_changes_of_large_files_are_exact_in_every_snapshot() {
    needs_fuse!();
    let m = Master::new();
    let mut dice = Dice::new(11);
    let mut wanted = Vec::new();
    for round in 0..6 {
        for n in 0..60 {
            let path = m.at(format!("file-{}", dice.below(14)));
            let file = File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .unwrap();
            let (offset, length) = (dice.below(4 << 20), dice.below(300_000) + 1);
            let near = (offset >> 20 << 20).saturating_sub(dice.below(3));
            match dice.below(12) {
                0..4 => file
                    .write_all_at(&noise(dice.roll(), length as usize), offset)
                    .unwrap(),
                4 => file.write_all_at(&noise(round * 100 + n, 5), near).unwrap(),
                5 => file.set_len(offset).unwrap(),
                6 => file.set_len(near).unwrap(),
                7 => file.set_len(dice.below(20_000)).unwrap(),
                8 => file.set_len(0).unwrap(),
                9 => {
                    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                    fallocate(&file, punch, offset, length * 8).unwrap();
                }
                10 => fallocate(&file, FallocateFlags::ZERO_RANGE, near, 1 << 20).unwrap(),
                _ => fs::remove_file(&path).unwrap(),
            }
        }
        wanted.push((m.snapshot(), m.fingerprint()));
        if round % 2 == 1 {
            m.node.kill9();
            m.node.start();
        }
    }
    for (number, wanted) in &wanted {
        m.assert_snapshot_is(*number, wanted);
    }
}

#[test]
fn a_file_of_a_tebibyte_of_holes_costs_nothing_and_is_exact() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    let file = File::create_new(m.at("huge")).unwrap();
    file.set_len(1 << 40).unwrap();
    let data = noise(4, 5_000);
    for offset in [0, 1 << 39, (1 << 40) - 5_000] {
        file.write_all_at(&data, offset).unwrap();
    }
    let number = m.snapshot();
    assert!(bytes_of(&objects(&m)) < 100_000);
    let slave = m.slave(number);
    let file = File::open(slave.mnt.join("huge")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1 << 40);
    let ranges = cbfs_tests::fingerprint::data_ranges(&file, 1 << 40);
    assert_eq!(ranges.len(), 3, "{ranges:?}");
    for offset in [0, 1 << 39, (1 << 40) - 5_000] {
        let mut found = vec![0; 5_000];
        file.read_exact_at(&mut found, offset).unwrap();
        assert!(found == data, "at {offset}");
    }
    let mut zeros = vec![1; 1 << 20];
    file.read_exact_at(&mut zeros, 1 << 30).unwrap();
    assert!(zeros.iter().all(|b| *b == 0));
}

#[test]
fn a_directory_with_many_entries_is_exact_on_a_slave() {
    needs_fuse!();
    let m = Master::new();
    let dir = m.dir("huge");
    let count = scaled(100_000, 8_000);
    for n in 0..count {
        File::create_new(dir.join(format!("entry-{n}"))).unwrap();
    }
    m.snapshot();
    for n in (0..count).step_by(3) {
        fs::remove_file(dir.join(format!("entry-{n}"))).unwrap();
    }
    let number = m.snapshot();
    let slave = m.slave(number);
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(slave.mnt.join("huge")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(names.insert(name.clone()), "{name} was listed twice");
    }
    let wanted: BTreeSet<String> = (0..count)
        .filter(|n| n % 3 != 0)
        .map(|n| format!("entry-{n}"))
        .collect();
    assert!(
        names == wanted,
        "{} names instead of {}",
        names.len(),
        wanted.len()
    );
}

// ---------------------------------------------------------------- cost

#[test]
fn a_second_snapshot_costs_what_has_changed() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    tree::small_files(&m.dir("small"), 1_500);
    fs::write(m.at("large"), noise(1, 12 << 20)).unwrap();
    fs::write(m.at("moves"), noise(2, 6 << 20)).unwrap();
    m.snapshot();
    let first = objects(&m);
    assert!(bytes_of(&first) > 18 << 20);

    let large = File::options().write(true).open(m.at("large")).unwrap();
    large.write_all_at(b"a patch", 5 << 20).unwrap();
    fs::rename(m.at("moves"), m.at("small/moved")).unwrap();
    fs::set_permissions(m.at("small/moved"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(m.at("small/000"), m.at("small/renamed")).unwrap();
    fs::write(m.at("new"), text(1, 10_000)).unwrap();
    let number = m.snapshot();
    // Not before: reading everything changes access times.
    let wanted = m.fingerprint();
    let all = objects(&m);
    let added: Vec<&PathBuf> = all.difference(&first).collect();
    let cost = bytes_of(added.iter().copied());
    // One block of 1 MiB and a little.
    assert!(
        cost < (1 << 20) + 150_000,
        "{cost} bytes for a small change: {added:?}"
    );
    assert!(
        first.is_subset(&all),
        "an object of the first snapshot is gone"
    );
    m.assert_snapshot_is(number, &wanted);
}

#[test]
fn a_snapshot_of_metadata_changes_has_no_data_to_send() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    fs::write(m.at("large"), noise(1, 3 << 20)).unwrap();
    m.snapshot();
    let first = objects(&m);
    fs::set_permissions(m.at("large"), fs::Permissions::from_mode(0o400)).unwrap();
    fs::rename(m.at("large"), m.at("renamed")).unwrap();
    tree::set_xattr(&m.at("renamed"), "user.a", b"b");
    let wanted = m.fingerprint();
    let number = m.snapshot();
    let all = objects(&m);
    let cost = bytes_of(all.difference(&first));
    assert!(cost < 30_000, "{cost} bytes");
    m.assert_snapshot_is(number, &wanted);
}

#[test]
fn a_snapshot_without_changes_is_a_manifest_alone() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    tree::build(&m.dir("tree"));
    let wanted = m.fingerprint();
    m.snapshot();
    let first = objects(&m);
    let number = m.snapshot();
    let all = objects(&m);
    let added: Vec<&PathBuf> = all.difference(&first).collect();
    assert_eq!(added.len(), 1, "{added:?}");
    assert_eq!(manifest(&m, 1)["layers"], manifest(&m, 2)["layers"]);
    m.assert_snapshot_is(number, &wanted);
    // Also before anything was ever made.
    let empty = Master::new();
    let wanted = empty.fingerprint();
    let number = empty.snapshot();
    empty.assert_snapshot_is(number, &wanted);
}

// ---------------------------------------------------------------- the cut

#[test]
fn writers_during_a_snapshot_change_nothing_of_what_it_holds() {
    needs_fuse!();
    let m = Master::new();
    tree::build(&m.dir("tree"));
    let files = 40;
    for n in 0..files {
        fs::write(m.at(format!("large-{n:03}")), noise(n, 2_600_000)).unwrap();
        fs::write(m.at(format!("small-{n:03}")), noise(n, 3_000)).unwrap();
        fs::write(m.at(format!("middle-{n:03}")), noise(n, 40_000)).unwrap();
    }
    let wanted = m.fingerprint();
    let number = m.snapshot_until("collected");

    // What is persisted last is changed first.
    let mut preserved = false;
    for n in (0..files).rev() {
        let large = m.at(format!("large-{n:03}"));
        let open = || File::options().write(true).open(&large).unwrap();
        match n % 6 {
            0 => open()
                .write_all_at(&noise(n + 100, 1_500_000), 500_000)
                .unwrap(),
            1 => open().set_len(1_200_000).unwrap(),
            2 => fs::remove_file(&large).unwrap(),
            3 => fs::write(&large, "rewritten as a small file").unwrap(),
            4 => {
                let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(open(), punch, 0, 2_000_000).unwrap();
            }
            _ => {
                fs::write(m.at("replacement"), noise(n + 200, 900_000)).unwrap();
                fs::rename(m.at("replacement"), &large).unwrap();
            }
        }
        let frozen = fs::read_dir(m.instance_dir().join("frozen")).unwrap();
        preserved |= frozen
            .filter_map(|d| fs::read_dir(d.unwrap().path()).ok())
            .any(|mut d| d.next().is_some());
        let small = m.at(format!("small-{n:03}"));
        match n % 3 {
            0 => fs::write(&small, "overwritten").unwrap(),
            1 => fs::write(&small, noise(n, 100_000)).unwrap(),
            _ => fs::remove_file(&small).unwrap(),
        }
        fs::write(m.at(format!("middle-{n:03}")), noise(n + 300, 50_000)).unwrap();
    }
    tree::change(&m.at("tree"));
    assert!(
        preserved,
        "nothing had to be preserved: the test did not test"
    );
    let after = m.fingerprint();
    m.wait_for(number);
    m.assert_snapshot_is(number, &wanted);
    // What came after the cut is in the next one, and the copies are gone.
    assert_same("the master", &after, &m.fingerprint());
    let number = m.snapshot();
    m.assert_snapshot_is(number, &after);
    let mut frozen = fs::read_dir(m.instance_dir().join("frozen")).unwrap();
    assert!(frozen.next().is_none(), "preserved copies were left");
}

#[test]
fn what_is_only_in_a_shared_mapping_is_in_the_snapshot() {
    needs_fuse!();
    needs_tools!("python3");
    use std::io::{BufRead, BufReader, Write};
    let m = Master::new();
    fs::write(m.at("mapped"), vec![0; 200_000]).unwrap();
    let script = "
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
m = mmap.mmap(fd, 200000)
m[100000:100005] = b'dirty'
print('ready', flush=True)
sys.stdin.readline()
";
    let mut child = Command::new("python3")
        .args(["-c", script])
        .arg(m.at("mapped"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let number = m.snapshot();
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    child.wait().unwrap();
    let slave = m.slave(number);
    assert_eq!(
        &fs::read(slave.mnt.join("mapped")).unwrap()[100_000..100_005],
        b"dirty"
    );
}

#[test]
fn an_unlinked_open_file_is_in_no_snapshot_and_still_works() {
    needs_fuse!();
    let m = Master::new();
    fs::write(m.at("stays"), "x").unwrap();
    fs::write(m.at("goes"), noise(1, 500_000)).unwrap();
    m.snapshot();
    let file = File::options()
        .read(true)
        .write(true)
        .open(m.at("goes"))
        .unwrap();
    fs::remove_file(m.at("goes")).unwrap();
    file.write_all_at(&noise(2, 100_000), 0).unwrap();
    let wanted = m.fingerprint();
    let number = m.snapshot();
    m.assert_snapshot_is(number, &wanted);
    let mut bytes = vec![0; 500_000];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes[..100_000] == noise(2, 100_000));
    assert!(bytes[100_000..] == noise(1, 500_000)[100_000..]);
    drop(file);
    let number = m.snapshot();
    m.assert_snapshot_is(number, &wanted);
}

// ---------------------------------------------------------------- requests

#[test]
fn requests_are_carried_out_one_after_the_other_in_their_order() {
    needs_fuse!();
    let m = Master::new();
    let mut wanted = Vec::new();
    for n in 0..5_u64 {
        fs::write(m.at(format!("file-{n}")), noise(n, 2_000_000)).unwrap();
        wanted.push(m.fingerprint());
        // Content is as of the cut: only after it the next change may come.
        assert_eq!(m.snapshot_until("collected"), n + 1);
    }
    let queued: Vec<u64> = (0..3).map(|_| m.snapshot_until("queued")).collect();
    assert_eq!(queued, [6, 7, 8]);
    m.wait_for(8);
    let listed = m.node.json(["snapshot", "list", &m.fs]);
    let states: Vec<(u64, &str)> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|s| (s["number"].as_u64().unwrap(), s["state"].as_str().unwrap()))
        .collect();
    let complete: Vec<(u64, &str)> = (1..=8).map(|n| (n, "complete")).collect();
    assert_eq!(states, complete);
    for (n, wanted) in (1..).zip(&wanted) {
        m.assert_snapshot_is(n, wanted);
    }
    assert_eq!(
        m.states_of(3),
        [
            "queued",
            "collected",
            "writing",
            "written",
            "copying",
            "complete"
        ]
    );
}

#[test]
fn names_are_unique_and_mean_their_snapshot() {
    needs_fuse!();
    let m = Master::new();
    let create = |name: &str| {
        m.node.ctl([
            "snapshot",
            "create",
            &m.fs,
            "--name",
            name,
            "--wait",
            "--timeout",
            "100",
        ])
    };
    fs::write(m.at("file"), "one").unwrap();
    create("before").ok();
    fs::write(m.at("file"), "two").unwrap();
    create("after").ok();
    create("before").fails(11, &["before", "another name"]);
    let long = "x".repeat(300);
    for bad in ["latest", "12", "no/slash", "two\nlines", "", "..", &long] {
        create(bad).fails(2, &["name of a snapshot"]);
    }
    let slave = m.slave_of("before");
    assert_eq!(fs::read_to_string(slave.mnt.join("file")).unwrap(), "one");
    let slave = m.slave_of("latest");
    assert_eq!(fs::read_to_string(slave.mnt.join("file")).unwrap(), "two");
    let shown = m
        .node
        .json(["snapshot", "show", &format!("{}@after", m.fs)]);
    assert_eq!(shown["number"], 2);
    // The name stays taken after a restart.
    m.node.kill9();
    m.node.start();
    create("after").fails(11, &["after"]);
}

#[test]
fn a_bucket_that_goes_away_delays_a_snapshot_and_nothing_else() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    tree::build(&m.dir("tree"));
    let aside = m.stage.path("aside");
    fs::rename(m.bucket.dir(), &aside).unwrap();
    let number = m.snapshot_until("queued");
    // The mount works meanwhile, also after a restart.
    let wanted = loop {
        // The cut needs no bucket: whatever comes after it is not in the snapshot.
        if m.states_of(number).contains(&"collected".to_owned()) {
            break m.fingerprint();
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    fs::write(m.at("meanwhile"), "works").unwrap();
    m.node.kill9();
    m.node.start();
    assert_eq!(fs::read_to_string(m.at("meanwhile")).unwrap(), "works");
    fs::rename(&aside, m.bucket.dir()).unwrap();
    m.wait_for(number);
    m.assert_snapshot_is(number, &wanted);
}

// ---------------------------------------------------------------- tools that are not ours

#[test]
fn the_first_snapshot_unpacks_with_zstd_and_tar_alone() {
    needs_fuse!();
    needs_tools!("zstd", "tar");
    let m = Master::with_directory_bucket();
    tree::build(&m.dir("tree"));
    // tar has no sockets.
    fs::remove_file(m.at("tree/special/socket")).unwrap();
    let number = m.snapshot();
    let wanted = Fingerprint::take(&m.mnt, Exactness::CopyWithHoles);
    let out = m.stage.dir("out");
    let mut command = Command::new("sh");
    command
        .args(["-euc", "out=$1; shift; cat \"$@\" | zstd -dcq | tar -C \"$out\" -xpif - --xattrs --xattrs-include='*' --numeric-owner --warning=no-unknown-keyword", "sh"])
        .arg(&out)
        .args(tarballs(&m, number));
    tools::run(&mut command);
    let found = Fingerprint::take(&out, Exactness::CopyWithHoles);
    assert_same("unpacked by tar", &wanted, &found);
}

#[test]
fn many_tarballs_unpack_like_one() {
    needs_fuse!();
    needs_tools!("zstd", "tar");
    let m = Master::with_directory_bucket();
    // A tarball is closed at 64 MiB: incompressible, so that there are several.
    for n in 0..4 {
        fs::write(m.at(format!("large-{n}")), noise(n, 40 << 20)).unwrap();
    }
    tree::small_files(&m.dir("small"), 300);
    let number = m.snapshot();
    let all = tarballs(&m, number);
    assert!(all.len() > 1, "{all:?}");
    let wanted = Fingerprint::take(&m.mnt, Exactness::Copy);
    let out = m.stage.dir("out");
    let mut command = Command::new("sh");
    command
        .args(["-euc", "out=$1; shift; cat \"$@\" | zstd -dcq | tar -C \"$out\" -xpif - --warning=no-unknown-keyword", "sh"])
        .arg(&out)
        .args(all);
    tools::run(&mut command);
    assert_same(
        "unpacked by tar",
        &wanted,
        &Fingerprint::take(&out, Exactness::Copy),
    );
    let slave = m.slave(number);
    let found = Fingerprint::take(&slave.mnt, Exactness::Copy);
    assert_same("the slave", &wanted, &found);
}

#[test]
fn recover_sh_rebuilds_the_second_snapshot_from_the_objects_alone() {
    needs_fuse!();
    needs_tools!("zstd", "tar", "jq");
    let m = Master::with_directory_bucket();
    tree::build(&m.dir("tree"));
    let first = Fingerprint::take(&m.mnt, Exactness::Copy);
    m.snapshot();
    tree::change(&m.at("tree"));
    let second = Fingerprint::take(&m.mnt, Exactness::Copy);
    m.snapshot();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../share/recover.sh");
    for (number, wanted) in [(2, second), (1, first)] {
        let out = m.stage.path(format!("recovered-{number}"));
        let mut command = Command::new("sh");
        command
            .arg(&script)
            .arg(m.bucket.dir())
            .arg(format!("{}@{number}", m.fs))
            .arg(&out);
        tools::run(&mut command);
        // Sockets are rows without a member: nothing recreates them.
        let is_socket =
            |entry: &cbfs_tests::fingerprint::Entry| entry.mode & 0o170_000 == 0o140_000;
        let wanted = wanted.without(|_, entry| is_socket(entry));
        let found = Fingerprint::take(&out, Exactness::Copy).without(|_, entry| is_socket(entry));
        assert_same(&format!("recovered snapshot {number}"), &wanted, &found);
    }
}

#[test]
fn layers_tocs_and_logs_open_with_zstd_and_sqlite() {
    needs_fuse!();
    needs_tools!("zstd");
    let m = Master::with_directory_bucket();
    tree::build(&m.dir("tree"));
    let number = m.snapshot();
    let dir = attempt_dir(&m, number);
    let unpacked = |name: &str| {
        let to = m.stage.path(name);
        let from = dir.join(format!("{name}.zst"));
        tools::run(
            Command::new("zstd")
                .args(["-dqf"])
                .arg(from)
                .arg("-o")
                .arg(&to),
        );
        to
    };
    let layer = rusqlite::Connection::open(unpacked("layer.sqlite")).unwrap();
    let count = |db: &rusqlite::Connection, sql: &str| -> u64 {
        let count: i64 = db.query_row(sql, [], |r| r.get(0)).unwrap();
        u64::try_from(count).unwrap()
    };
    let names = m.fingerprint().entries.len() as u64 - 1;
    assert_eq!(
        count(&layer, "SELECT count(*) FROM dentry WHERE ino IS NOT NULL"),
        names
    );
    let ino = fs::metadata(m.at("tree/sizes/noise-5242880"))
        .unwrap()
        .ino();
    let size = count(&layer, &format!("SELECT size FROM inode WHERE ino = {ino}"));
    assert_eq!(size, 5 << 20);
    // The KVS's own tables stay at home.
    let private = "SELECT count(*) FROM sqlite_master WHERE name IN ('inline', 'backing', 'block')";
    assert_eq!(count(&layer, private), 0);

    let toc = rusqlite::Connection::open(unpacked("toc.sqlite")).unwrap();
    let blocks = count(
        &toc,
        &format!("SELECT count(*) FROM block WHERE ino = {ino}"),
    );
    assert_eq!(blocks, 5);
    // Every section is where the TOC says, whole, and a zstd frame by itself.
    let mut select = toc
        .prepare(
            "SELECT key, offset, length, raw_length, section.blake3 FROM section \
             JOIN tarball ON nr = tarball ORDER BY section",
        )
        .unwrap();
    let mut rows = select.query([]).unwrap();
    let mut sections = 0;
    while let Some(row) = rows.next().unwrap() {
        let number = |column: usize| -> u64 {
            let number: i64 = row.get(column).unwrap();
            u64::try_from(number).unwrap()
        };
        let (offset, length, raw_length) = (number(1), number(2) as usize, number(3) as usize);
        let (key, hash): (String, String) = (row.get(0).unwrap(), row.get(4).unwrap());
        let tarball = File::open(m.bucket.dir().join(&m.fs).join(key)).unwrap();
        let mut frame = vec![0; length];
        tarball.read_exact_at(&mut frame, offset).unwrap();
        assert_eq!(blake3::hash(&frame).to_hex().as_str(), hash);
        if sections % 10 == 0 {
            fs::write(m.stage.path("frame.zst"), &frame).unwrap();
            let mut zstd = Command::new("zstd");
            let raw = tools::output_of(zstd.arg("-dcq").arg(m.stage.path("frame.zst"))).stdout;
            assert_eq!(raw.len(), raw_length);
        }
        sections += 1;
    }
    assert!(sections > 10);

    let mut last = 0;
    for line in fs::read_to_string(unpacked("log.jsonl")).unwrap().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let xid = line["xid"]
            .as_u64()
            .unwrap_or_else(|| panic!("no xid in {line}"));
        assert!(xid >= last, "out of order: {line}");
        last = xid;
    }
    assert_eq!(last, manifest(&m, number)["xid"]["to"].as_u64().unwrap());
    for object in [
        &manifest(&m, number)["toc"],
        &manifest(&m, number)["meta_tarball"],
    ] {
        let bytes = fs::read(
            m.bucket
                .dir()
                .join(&m.fs)
                .join(object["key"].as_str().unwrap()),
        )
        .unwrap();
        assert_eq!(object["size"].as_u64().unwrap(), bytes.len() as u64);
        assert_eq!(
            object["blake3"].as_str().unwrap(),
            blake3::hash(&bytes).to_hex().as_str()
        );
    }
}
