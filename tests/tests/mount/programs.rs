//! Programs on a mount: cp, tar, rsync, git, sqlite, a compiler, mmap.

use super::{code, errno, local_tree};
use cbfs_tests::contents::noise;
use cbfs_tests::{Exactness, Fingerprint, Master, assert_same, needs_fuse, needs_tools};
use cbfs_tests::{tools, tree};
use rustix::io::Errno;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

#[test]
fn cp_a_copies_a_hostile_tree_in_and_out_exactly() {
    needs_fuse!();
    let m = Master::new();
    let source = local_tree(&m.stage);
    let copy = |from: &Path, to: &Path| {
        tools::run(
            Command::new("cp")
                .args(["-a", "--sparse=auto", "--"])
                .args([from, to]),
        );
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
    assert_same(
        "unpacked",
        &wanted,
        &Fingerprint::take(&m.at("in"), Exactness::Copy),
    );
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
        command
            .args(["-aHAX", "--numeric-ids", "--delete", "--modify-window=-1"])
            .args(more);
        let (mut from, mut to) = (source.clone().into_os_string(), m.at("in").into_os_string());
        from.push("/");
        to.push("/");
        tools::run(command.arg(from).arg(to))
    };
    rsync(&[]);
    let wanted = Fingerprint::take(&source, Exactness::Copy);
    assert_same(
        "copied",
        &wanted,
        &Fingerprint::take(&m.at("in"), Exactness::Copy),
    );
    assert_eq!(rsync(&["-n", "--itemize-changes"]), "");
    tree::change(&source);
    rsync(&["--checksum"]);
    let wanted = Fingerprint::take(&source, Exactness::Copy);
    assert_same(
        "updated",
        &wanted,
        &Fingerprint::take(&m.at("in"), Exactness::Copy),
    );
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
            conn.busy_timeout(std::time::Duration::from_secs(60))
                .unwrap();
            conn
        };
        connect()
            .execute_batch(
                "CREATE TABLE t(thread INT, n INT, data BLOB); CREATE INDEX i ON t(data)",
            )
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
                            tx.execute("INSERT INTO t VALUES(?,?,?)", (thread, n, data))
                                .unwrap();
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
        let rows: i64 = conn
            .query_row("SELECT count(*) FROM t", [], |r| r.get(0))
            .unwrap();
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
        assert!(
            fs::read(&path).unwrap() == wanted,
            "{size} bytes after a remount"
        );
    }
}
