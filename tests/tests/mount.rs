//! A mounted file system is a file system: what programs do works, as on a local disk.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too

use cbfs_tests::contents::{Dice, noise};
use cbfs_tests::fingerprint::data_ranges;
use cbfs_tests::{Exactness, Fingerprint, Master, Stage, assert_same, needs_fuse, needs_tools, scaled};
use cbfs_tests::{tools, tree};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FlockOperation, Mode, OFlags, RenameFlags, XattrFlags, fallocate,
    flock, renameat_with,
};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

fn errno<T, E: Into<io::Error>>(result: Result<T, E>) -> Option<i32> {
    result.err().and_then(|e| e.into().raw_os_error())
}

fn code(errno: Errno) -> Option<i32> {
    Some(errno.raw_os_error())
}

/// A hostile tree on this machine's own file system.
fn local_tree(stage: &Stage) -> std::path::PathBuf {
    let root = stage.path("tree");
    tree::build(&root);
    root
}

fn open(path: &Path, flags: OFlags) -> File {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o644))
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        .into()
}

// ---------------------------------------------------------------- programs

#[test]
fn cp_a_copies_a_hostile_tree_in_and_out_exactly() {
    needs_fuse!();
    let m = Master::new();
    let source = local_tree(&m.stage);
    let copy = |from: &Path, to: &Path| {
        tools::run(Command::new("cp").args(["-a", "--sparse=auto", "--"]).args([from, to]));
    };
    copy(&source, &m.at("in"));
    let wanted = Fingerprint::take(&source, Exactness::CopyWithHoles);
    let found = Fingerprint::take(&m.at("in"), Exactness::CopyWithHoles);
    assert_same("copied in", &wanted, &found);
    copy(&m.at("in"), &m.stage.path("out"));
    let found = Fingerprint::take(&m.stage.path("out"), Exactness::CopyWithHoles);
    assert_same("copied out", &wanted, &found);
}

#[test]
fn tar_unpacks_and_packs_a_hostile_tree_exactly() {
    needs_fuse!();
    let m = Master::new();
    let source = local_tree(&m.stage);
    // tar has no sockets.
    fs::remove_file(source.join("special/socket")).unwrap();
    tree::set_mtime(&source.join("special"), 77, 7);
    let out = m.stage.dir("out");
    let pipe = |from: &Path, to: &Path| {
        let words = "tar --xattrs --xattrs-include='*' --acls --format=pax --sparse -C \"$0\" -cf - . \
            | tar --xattrs --xattrs-include='*' --acls --numeric-owner -C \"$1\" -xpf -";
        tools::run(Command::new("sh").args(["-euc", words]).args([from, to]));
    };
    fs::create_dir(m.at("in")).unwrap();
    pipe(&source, &m.at("in"));
    let wanted = Fingerprint::take(&source, Exactness::Copy);
    assert_same("unpacked", &wanted, &Fingerprint::take(&m.at("in"), Exactness::Copy));
    pipe(&m.at("in"), &out);
    assert_same("packed", &wanted, &Fingerprint::take(&out, Exactness::Copy));
}

#[test]
fn rsync_copies_a_hostile_tree_and_finds_nothing_left_to_do() {
    needs_fuse!();
    needs_tools!("rsync");
    let m = Master::new();
    let source = local_tree(&m.stage);
    let rsync = |more: &[&str]| {
        let mut command = Command::new("rsync");
        // By itself rsync takes times within a second for the same.
        command.args(["-aHAX", "--numeric-ids", "--delete", "--modify-window=-1"]).args(more);
        let (mut from, mut to) = (source.clone().into_os_string(), m.at("in").into_os_string());
        from.push("/");
        to.push("/");
        tools::run(command.arg(from).arg(to))
    };
    rsync(&[]);
    let wanted = Fingerprint::take(&source, Exactness::Copy);
    assert_same("copied", &wanted, &Fingerprint::take(&m.at("in"), Exactness::Copy));
    assert_eq!(rsync(&["-n", "--itemize-changes"]), "");
    tree::change(&source);
    rsync(&["--checksum"]);
    let wanted = Fingerprint::take(&source, Exactness::Copy);
    assert_same("updated", &wanted, &Fingerprint::take(&m.at("in"), Exactness::Copy));
}

#[test]
fn git_commits_clones_collects_and_finds_no_fault() {
    needs_fuse!();
    needs_tools!("git");
    let m = Master::new();
    tree::small_files(&m.dir("repository"), 600);
    let output = tools::shell(
        &m.mnt,
        "export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
         export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
         cd repository
         git init -q . && git add . && git commit -qm first
         for n in 1 2 3 4 5; do
             echo $n >> 000/00/file-$n; git mv 000/01/file-10$n 000/02/; git commit -qam $n
         done
         git fsck --full --strict && git status --porcelain
         cd .. && git clone -q repository clone && cd clone
         git checkout -q HEAD~3 && git checkout -q -b branch && git reset -q --hard HEAD@{1}
         git gc -q --aggressive --prune=now && git repack -adq && git fsck --full --strict
         git status --porcelain && git rev-list --count --all",
    );
    assert_eq!(output, "6\n");
}

#[test]
fn sqlite_keeps_its_databases_whole_in_wal_and_delete_mode() {
    needs_fuse!();
    let m = Master::new();
    for mode in ["wal", "delete"] {
        let path = m.at(format!("{mode}.sqlite"));
        let connect = || {
            let conn = rusqlite::Connection::open(&path).unwrap();
            let got: String = conn
                .query_row(&format!("PRAGMA journal_mode={mode}"), [], |r| r.get(0))
                .unwrap();
            assert_eq!(got, mode);
            conn.busy_timeout(std::time::Duration::from_secs(60)).unwrap();
            conn
        };
        connect()
            .execute_batch("CREATE TABLE t(thread INT, n INT, data BLOB); CREATE INDEX i ON t(data)")
            .unwrap();
        std::thread::scope(|scope| {
            for thread in 0..2_i64 {
                scope.spawn(move || {
                    let mut conn = connect();
                    for n in 0..40_i64 {
                        // Taking the write lock at once: an upgrade could not wait.
                        let tx = conn
                            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
                            .unwrap();
                        for row in 0..10 {
                            let data = noise((thread * 1_000 + n * 10 + row) as u64, 700);
                            tx.execute("INSERT INTO t VALUES(?,?,?)", (thread, n, data)).unwrap();
                        }
                        tx.execute("DELETE FROM t WHERE thread=? AND n=?", (thread, n - 20))
                            .unwrap();
                        tx.commit().unwrap();
                    }
                });
            }
        });
        let conn = connect();
        let check: String = conn
            .query_row("PRAGMA integrity_check", [], |r| r.get(0))
            .unwrap();
        assert_eq!(check, "ok");
        let rows: i64 = conn.query_row("SELECT count(*) FROM t", [], |r| r.get(0)).unwrap();
        assert_eq!(rows, 2 * 20 * 10);
    }
}

#[test]
fn a_compiler_builds_a_program_that_runs() {
    needs_fuse!();
    needs_tools!("cc");
    let m = Master::new();
    fs::write(
        m.at("hello.c"),
        "#include <stdio.h>\n#include \"part.h\"\nint main(void) { puts(PART); return 3; }\n",
    )
    .unwrap();
    fs::write(m.at("part.h"), "#define PART \"built and run on CBFS\"\n").unwrap();
    tools::shell(&m.mnt, "cc -g -c hello.c -o hello.o && cc hello.o -o hello");
    let output = Command::new(m.at("hello")).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(output.stdout, b"built and run on CBFS\n");
    // A program that runs cannot be written to.
    let sleeper = m.at("sleeper");
    fs::copy("/bin/sleep", &sleeper).unwrap();
    let mut child = Command::new(&sleeper).arg("100").spawn().unwrap();
    let busy = File::options().write(true).open(&sleeper);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(errno(busy), code(Errno::TXTBSY));
}

#[test]
fn a_shared_mapping_is_written_synced_and_read_back() {
    needs_fuse!();
    needs_tools!("python3");
    let m = Master::new();
    for size in [4_096, 16_384, 20_000, 3 << 20] {
        let path = m.at(format!("mapped-{size}"));
        fs::write(&path, noise(size, size as usize)).unwrap();
        let script = "
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
size = os.fstat(fd).st_size
m = mmap.mmap(fd, size)
for at in range(0, size - 8, 1000):
    m[at:at+4] = b'mmap'
m[size-4:size] = b'last'
# What is written by write(2) shows in the mapping, and the other way round.
os.pwrite(fd, b'both', 100)
assert m[100:104] == b'both'
m.flush()
assert os.pread(fd, 4, 0) == b'mmap'
other = open(sys.argv[1], 'rb').read()
assert len(other) == size and other[1000:1004] == b'mmap' and other[-4:] == b'last'
";
        tools::run(Command::new("python3").args(["-c", script]).arg(&path));
        let mut wanted = noise(size, size as usize);
        for at in (0..wanted.len() - 8).step_by(1_000) {
            wanted[at..at + 4].copy_from_slice(b"mmap");
        }
        let end = wanted.len();
        wanted[end - 4..].copy_from_slice(b"last");
        wanted[100..104].copy_from_slice(b"both");
        assert!(fs::read(&path).unwrap() == wanted, "{size} bytes");
        // Not from the page cache of this mount.
        m.remount();
        assert!(fs::read(&path).unwrap() == wanted, "{size} bytes after a remount");
    }
}

// ---------------------------------------------------------------- names

#[test]
fn an_unlinked_open_file_lives_until_it_is_closed() {
    needs_fuse!();
    let m = Master::new();
    for size in [100, 100_000] {
        let path = m.at("gone");
        fs::write(&path, noise(1, size)).unwrap();
        let mut file = File::options().read(true).write(true).open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(errno(fs::metadata(&path)), code(Errno::NOENT));
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        file.seek(SeekFrom::End(0)).unwrap();
        file.write_all(&noise(2, 50_000)).unwrap();
        file.set_len(size as u64 + 40_000).unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o600)).unwrap();
        let mut bytes = vec![0; size + 40_000];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes[..size] == noise(1, size) && bytes[size..] == noise(2, 50_000)[..40_000]);
        // The name is free, for another file.
        fs::write(&path, "new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(file.metadata().unwrap().len(), size as u64 + 40_000);
        drop(file);
        fs::remove_file(&path).unwrap();
    }
    // A directory likewise.
    fs::create_dir(m.at("d")).unwrap();
    let dir = File::open(m.at("d")).unwrap();
    fs::remove_dir(m.at("d")).unwrap();
    let made = rustix::fs::openat(&dir, "x", OFlags::CREATE | OFlags::RDWR, Mode::RUSR);
    assert_eq!(made.err(), Some(Errno::NOENT));
}

#[test]
fn rename_replaces_refuses_and_exchanges() {
    needs_fuse!();
    let m = Master::new();
    let rename = |from: &str, to: &str, flags| renameat_with(CWD, m.at(from), CWD, m.at(to), flags);
    let read = |name: &str| fs::read_to_string(m.at(name)).unwrap();
    fs::write(m.at("a"), "a").unwrap();
    fs::write(m.at("b"), "b").unwrap();
    let old = File::open(m.at("b")).unwrap();
    fs::rename(m.at("a"), m.at("b")).unwrap();
    assert_eq!(read("b"), "a");
    assert!(!m.at("a").exists());
    // Whoever has the replaced file open keeps it.
    let mut text = String::new();
    (&old).read_to_string(&mut text).unwrap();
    assert_eq!(text, "b");

    fs::write(m.at("c"), "c").unwrap();
    assert_eq!(rename("c", "b", RenameFlags::NOREPLACE), Err(Errno::EXIST));
    rename("c", "free", RenameFlags::NOREPLACE).unwrap();
    rename("free", "b", RenameFlags::EXCHANGE).unwrap();
    assert_eq!((read("free"), read("b")), ("a".into(), "c".into()));
    assert_eq!(rename("free", "nothing", RenameFlags::EXCHANGE), Err(Errno::NOENT));

    // A file and a directory that is not empty change places; `..` and link counts follow.
    fs::create_dir_all(m.at("dir/sub")).unwrap();
    fs::create_dir(m.at("other")).unwrap();
    fs::write(m.at("other/file"), "f").unwrap();
    rename("dir/sub", "other/file", RenameFlags::EXCHANGE).unwrap();
    assert!(m.at("other/file").is_dir());
    assert_eq!(read("dir/sub"), "f");
    assert_eq!(fs::metadata(m.at("dir")).unwrap().nlink(), 2);
    assert_eq!(fs::metadata(m.at("other")).unwrap().nlink(), 3);
    let up = fs::metadata(m.at("other/file/..")).unwrap().ino();
    assert_eq!(up, fs::metadata(m.at("other")).unwrap().ino());

    let refused = |from: &str, to: &str| errno(fs::rename(m.at(from), m.at(to)));
    assert_eq!(refused("b", "dir"), code(Errno::ISDIR));
    assert_eq!(refused("dir", "b"), code(Errno::NOTDIR));
    assert_eq!(refused("dir", "other"), code(Errno::NOTEMPTY));
    assert_eq!(refused("other", "other/file/below"), code(Errno::INVAL));
    fs::create_dir(m.at("empty")).unwrap();
    fs::rename(m.at("dir"), m.at("empty")).unwrap();
    assert_eq!(read("empty/sub"), "f");
    // Two names of one inode: POSIX says that nothing happens.
    fs::hard_link(m.at("b"), m.at("b2")).unwrap();
    fs::rename(m.at("b"), m.at("b2")).unwrap();
    assert!(m.at("b").exists() && m.at("b2").exists());
}

#[test]
fn a_name_may_have_255_bytes_and_no_more() {
    needs_fuse!();
    let m = Master::new();
    let (longest, too_long) = (m.at("x".repeat(255)), m.at("x".repeat(256)));
    fs::write(&longest, "fits").unwrap();
    fs::rename(&longest, m.at("y".repeat(255))).unwrap();
    fs::rename(m.at("y".repeat(255)), &longest).unwrap();
    let refused = [
        errno(File::create(&too_long)),
        errno(fs::metadata(&too_long)),
        errno(fs::create_dir(&too_long)),
        errno(fs::rename(&longest, &too_long)),
        errno(fs::hard_link(&longest, &too_long)),
        errno(symlink("x", &too_long)),
        errno(fs::remove_file(&too_long)),
    ];
    assert_eq!(refused, [code(Errno::NAMETOOLONG); 7]);
    assert_eq!(errno(symlink("x".repeat(4_096), m.at("link"))), code(Errno::NAMETOOLONG));
    symlink("x".repeat(4_095), m.at("link")).unwrap();
    assert_eq!(fs::read_link(m.at("link")).unwrap().as_os_str().len(), 4_095);
}

#[test]
fn the_name_that_is_reserved_for_cbfs_is_refused_in_the_root_only() {
    needs_fuse!();
    let m = Master::new();
    assert_eq!(errno(fs::create_dir(m.at(".cbfs"))), code(Errno::PERM));
    assert_eq!(errno(File::create(m.at(".cbfs"))), code(Errno::PERM));
    fs::create_dir_all(m.at("below/.cbfs")).unwrap();
    assert_eq!(errno(fs::rename(m.at("below/.cbfs"), m.at(".cbfs"))), code(Errno::PERM));
}

#[test]
fn a_huge_directory_is_made_listed_exactly_once_and_removed() {
    needs_fuse!();
    let count = scaled(100_000, 10_000);
    let m = Master::new();
    let dir = m.dir("huge");
    let name = |n: u64| format!("an-entry-with-a-usual-name-{n:06}");
    for n in 0..count {
        File::create_new(dir.join(name(n))).unwrap();
    }
    let list = || {
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(&dir).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(names.insert(name.clone()), "{name} was listed twice");
        }
        names
    };
    let wanted: BTreeSet<String> = (0..count).map(name).collect();
    assert!(list() == wanted, "the listing is not exact");
    m.remount();
    assert!(list() == wanted, "the listing after a remount is not exact");
    assert_eq!(errno(fs::remove_dir(&dir)), code(Errno::NOTEMPTY));
    for n in (0..count).step_by(2).chain((1..count).step_by(2)) {
        fs::remove_file(dir.join(name(n))).unwrap();
    }
    assert!(list().is_empty());
    fs::remove_dir(&dir).unwrap();
}

#[test]
fn a_listing_under_concurrent_change_has_everything_that_stays_exactly_once() {
    needs_fuse!();
    let m = Master::new();
    let dir = m.dir("busy");
    for n in 0..3_000 {
        fs::write(dir.join(format!("stays-{n}")), "").unwrap();
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (dir, stop) = (&dir, &stop);
            scope.spawn(move || {
                let mut dice = Dice::new(thread);
                while !stop.load(Ordering::Relaxed) {
                    let n = dice.below(500);
                    let path = dir.join(format!("comes-and-goes-{thread}-{n}"));
                    if !path.exists() {
                        fs::write(&path, "x").unwrap();
                    } else if n % 3 == 0 {
                        fs::rename(&path, dir.join(format!("renamed-{thread}-{n}"))).unwrap();
                    } else {
                        fs::remove_file(&path).unwrap();
                    }
                }
            });
        }
        for _ in 0..12 {
            let mut stays = BTreeSet::new();
            for entry in fs::read_dir(&dir).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                if name.starts_with("stays-") {
                    assert!(stays.insert(name.clone()), "{name} was listed twice");
                }
            }
            if stays.len() != 3_000 {
                stop.store(true, Ordering::Relaxed);
                panic!("{} of 3000 names were listed", stays.len());
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

// ---------------------------------------------------------------- attributes

#[test]
fn extended_attributes_are_set_replaced_listed_and_removed() {
    needs_fuse!();
    let m = Master::new();
    let path = m.at("file");
    fs::write(&path, "x").unwrap();
    let set = |name: &str, value: &[u8], flags| rustix::fs::setxattr(&path, name, value, flags);
    let get = |name: &str| {
        let mut buffer = vec![0; 70_000];
        rustix::fs::getxattr(&path, name, &mut buffer[..]).map(|n| buffer[..n].to_vec())
    };
    set("user.a", b"1", XattrFlags::CREATE).unwrap();
    assert_eq!(set("user.a", b"2", XattrFlags::CREATE), Err(Errno::EXIST));
    assert_eq!(set("user.b", b"2", XattrFlags::REPLACE), Err(Errno::NODATA));
    set("user.a", b"22", XattrFlags::REPLACE).unwrap();
    assert_eq!(get("user.a").unwrap(), b"22");
    let large = noise(1, 60_000);
    set("user.large", &large, XattrFlags::empty()).unwrap();
    assert!(get("user.large").unwrap() == large);
    set("user.empty", b"", XattrFlags::empty()).unwrap();
    assert_eq!(get("user.empty").unwrap(), b"");
    assert_eq!(get("user.none"), Err(Errno::NODATA));
    m.remount();
    let names: Vec<_> = cbfs_tests::fingerprint::xattrs(&path).into_keys().collect();
    assert_eq!(names, [&b"user.a"[..], b"user.empty", b"user.large"]);
    rustix::fs::removexattr(&path, "user.large").unwrap();
    assert_eq!(rustix::fs::removexattr(&path, "user.large"), Err(Errno::NODATA));
    assert_eq!(get("user.large"), Err(Errno::NODATA));
}

#[test]
fn special_files_work() {
    needs_fuse!();
    let m = Master::new();
    tools::shell(&m.mnt, "mkfifo pipe; (echo through the pipe > pipe) & cat pipe > got; wait");
    assert_eq!(fs::read_to_string(m.at("got")).unwrap(), "through the pipe\n");
    let listener = std::os::unix::net::UnixListener::bind(m.at("sock")).unwrap();
    let mut client = std::os::unix::net::UnixStream::connect(m.at("sock")).unwrap();
    client.write_all(b"hello").unwrap();
    drop(client);
    let mut text = String::new();
    listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    assert!(fs::metadata(m.at("sock")).unwrap().file_type().is_socket());
    assert!(fs::metadata(m.at("pipe")).unwrap().file_type().is_fifo());
}

#[test]
fn another_users_write_takes_the_suid_bit_away() {
    needs_fuse!();
    if !tools::is_root() {
        eprintln!("skipped: only root can become somebody else");
        return;
    }
    let m = Master::new();
    for size in [10, 100_000] {
        let path = m.at("program");
        fs::write(&path, noise(1, size)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
        // Root's own write leaves it.
        File::options().write(true).open(&path).unwrap().write_all(b"x").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o6777);
        let mut other = Command::new("sh");
        other.args(["-c", "printf y >> program"]).current_dir(&m.mnt).uid(12_345).gid(12_345);
        tools::run(&mut other);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o777);
    }
    // And permissions hold for others.
    fs::write(m.at("secret"), "s").unwrap();
    fs::set_permissions(m.at("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let mut other = Command::new("cat");
    other.arg("secret").current_dir(&m.mnt).uid(12_345).gid(12_345);
    let output = tools::output_of(&mut other);
    assert!(String::from_utf8_lossy(&output.stderr).contains("Permission denied"));
}

#[test]
fn times_follow_what_is_done() {
    needs_fuse!();
    let m = Master::new();
    let path = m.at("file");
    fs::write(&path, "1").unwrap();
    let about = |path: &Path| {
        let about = fs::symlink_metadata(path).unwrap();
        let time = |s: i64, ns: i64| i128::from(s) * 1_000_000_000 + i128::from(ns);
        (time(about.mtime(), about.mtime_nsec()), time(about.ctime(), about.ctime_nsec()))
    };
    let first = about(&path);
    let parent = about(&m.mnt);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let (mtime, ctime) = about(&path);
    assert!(mtime == first.0 && ctime > first.1);
    assert_eq!(about(&m.mnt), parent);
    File::options().write(true).open(&path).unwrap().write_all(b"2").unwrap();
    let written = about(&path);
    assert!(written.0 > mtime && written.1 > ctime);
    fs::hard_link(&path, m.at("second")).unwrap();
    let linked = about(&path);
    assert!(linked.0 == written.0 && linked.1 > written.1);
    assert!(about(&m.mnt).0 > parent.0);
    tree::set_mtime(&path, -3, 999_999_999);
    m.remount();
    assert_eq!(about(&path).0, -3 * 1_000_000_000 + 999_999_999);
}

#[test]
fn statfs_counts_inodes_and_blocks() {
    needs_fuse!();
    let m = Master::new();
    let before = rustix::fs::statvfs(&m.mnt).unwrap();
    tree::small_files(&m.dir("some"), 500);
    fs::write(m.at("large"), noise(1, 8 << 20)).unwrap();
    let after = rustix::fs::statvfs(&m.mnt).unwrap();
    let used = |s: &rustix::fs::StatVfs| (s.f_blocks - s.f_bfree) * s.f_frsize;
    assert!(used(&after) >= used(&before) + (8 << 20));
    assert!(after.f_files - after.f_ffree >= before.f_files - before.f_ffree + 500);
    assert_eq!(after.f_namemax, 255);
}

// ---------------------------------------------------------------- contents

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
    let paths = [m.at(format!("random-{seed}")), m.stage.path(format!("local-{seed}"))];
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
                        return Ok(rustix::fs::copy_file_range(&*file, from, &*file, to, want)? as u64);
                    }
                }
                _ => file.sync_all()?,
            }
            Ok(0)
        });
        let [ours, theirs] = results.map(|r| r.map_err(|e| e.raw_os_error()));
        assert_eq!(ours, theirs, "operation {n} of seed {seed}: {:?}", log.last());
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
        assert_eq!(ours.len(), theirs.len(), "size after {n} of seed {seed}: {:?}", log.last());
        if ours != theirs {
            let at = ours.iter().zip(&theirs).position(|(a, b)| a != b).unwrap();
            let last = &log[log.len().saturating_sub(8)..];
            panic!("byte {at} of {} after operation {n} of seed {seed}: {last:?}", ours.len());
        }
    }
}

#[test]
fn holes_are_kept_made_and_found() {
    needs_fuse!();
    let m = Master::new();
    let path = m.at("sparse");
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    file.set_len(1 << 40).unwrap();
    file.write_all_at(&noise(1, 8_192), 1 << 39).unwrap();
    assert_eq!(data_ranges(&file, 1 << 40), [(1 << 39, (1 << 39) + 8_192)]);
    assert!(file.metadata().unwrap().blocks() < 1_000, "the hole takes space");
    file.set_len(4 << 20).unwrap();
    assert_eq!(data_ranges(&file, 4 << 20), []);
    file.write_all_at(&noise(2, 4 << 20), 0).unwrap();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, 1 << 20, 1 << 20).unwrap();
    fallocate(&file, FallocateFlags::ZERO_RANGE, 3 << 20, 1 << 19).unwrap();
    let found = data_ranges(&file, 4 << 20);
    assert!(found.contains(&(0, 1 << 20)) && found[1].0 == 2 << 20, "{found:?}");
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
        assert!(copied[..10] == *b"0123456789" && copied[10..] == bytes, "{size}");
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
    holder.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
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
        command.args(["-c", script]).arg(&path).arg(start.to_string());
        tools::run(&mut command)
    };
    assert_eq!((attempt(105), attempt(200)), ("held\n".into(), "free\n".into()));
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

// ---------------------------------------------------------------- slaves

#[test]
fn a_slave_answers_erofs_to_every_mutation_and_serves_reads() {
    needs_fuse!();
    let m = Master::new();
    fs::write(m.at("file"), "contents").unwrap();
    fs::write(m.at("large"), noise(1, 2 << 20)).unwrap();
    fs::create_dir(m.at("dir")).unwrap();
    symlink("file", m.at("link")).unwrap();
    rustix::fs::setxattr(m.at("file"), "user.a", b"1", XattrFlags::empty()).unwrap();
    let number = m.snapshot();
    let slave = m.slave(number);
    let at = |name: &str| slave.mnt.join(name);
    let before = Fingerprint::take(&slave.mnt, Exactness::Snapshot);

    let writable = |name: &str| File::options().write(true).open(at(name));
    let with_file = |f: &dyn Fn(File) -> io::Result<()>| writable("large").and_then(f);
    let mode = fs::Permissions::from_mode(0o600);
    let now = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 },
        last_modification: rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 },
    };
    let mknod = |kind| rustix::fs::mknodat(CWD, at("new"), kind, Mode::RUSR, 0);
    let attempts: Vec<(&str, Option<i32>)> = vec![
        ("create", errno(File::create(at("new")))),
        ("truncate at open", errno(File::create(at("file")))),
        ("write", errno(writable("file").and_then(|mut f| f.write_all(b"x")))),
        ("write to a large file", errno(with_file(&|f| f.write_all_at(b"x", 1 << 20)))),
        ("append", errno(File::options().append(true).open(at("file")).and_then(|mut f| f.write_all(b"x")))),
        ("truncate", errno(with_file(&|f| f.set_len(5)))),
        ("fallocate", errno(with_file(&|f| Ok(fallocate(f, FallocateFlags::empty(), 0, 4 << 20)?)))),
        ("punch", errno(with_file(&|f| {
            Ok(fallocate(f, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, 4_096)?)
        }))),
        ("copy_file_range", errno(with_file(&|f| {
            let from = File::open(at("file"))?;
            Ok(rustix::fs::copy_file_range(from, None, f, None, 5).map(drop)?)
        }))),
        ("mkdir", errno(fs::create_dir(at("new")))),
        ("rmdir", errno(fs::remove_dir(at("dir")))),
        ("unlink", errno(fs::remove_file(at("file")))),
        ("rename", errno(fs::rename(at("file"), at("new")))),
        ("exchange", errno(renameat_with(CWD, at("file"), CWD, at("large"), RenameFlags::EXCHANGE))),
        ("link", errno(fs::hard_link(at("file"), at("new")))),
        ("symlink", errno(symlink("x", at("new")))),
        ("fifo", errno(mknod(rustix::fs::FileType::Fifo))),
        ("socket", errno(std::os::unix::net::UnixListener::bind(at("new")))),
        ("chmod", errno(fs::set_permissions(at("file"), mode))),
        ("chown", errno(std::os::unix::fs::chown(at("file"), Some(5), Some(5)))),
        ("utimes", errno(rustix::fs::utimensat(CWD, at("file"), &now, AtFlags::empty()))),
        ("setxattr", errno(rustix::fs::setxattr(at("file"), "user.b", b"1", XattrFlags::empty()))),
        ("removexattr", errno(rustix::fs::removexattr(at("file"), "user.a"))),
    ];
    for (what, got) in attempts {
        assert_eq!(got, code(Errno::ROFS), "{what} on a slave");
    }
    let after = Fingerprint::take(&slave.mnt, Exactness::Snapshot);
    assert_same("after all that", &before, &after);
    // Locks are no changes.
    flock(File::open(at("file")).unwrap(), FlockOperation::LockExclusive).unwrap();
}
