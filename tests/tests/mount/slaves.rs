//! What a read-only mount refuses.

use super::{code, errno};
use cbfs_tests::contents::noise;
use cbfs_tests::{Exactness, Fingerprint, Master, assert_same, needs_fuse};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FlockOperation, Mode, RenameFlags, XattrFlags, fallocate, flock,
    renameat_with,
};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};

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
        last_access: rustix::fs::Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        },
        last_modification: rustix::fs::Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        },
    };
    let mknod = |kind| rustix::fs::mknodat(CWD, at("new"), kind, Mode::RUSR, 0);
    let attempts: Vec<(&str, Option<i32>)> = vec![
        ("create", errno(File::create(at("new")))),
        ("truncate at open", errno(File::create(at("file")))),
        (
            "write",
            errno(writable("file").and_then(|mut f| f.write_all(b"x"))),
        ),
        (
            "write to a large file",
            errno(with_file(&|f| f.write_all_at(b"x", 1 << 20))),
        ),
        (
            "append",
            errno(
                File::options()
                    .append(true)
                    .open(at("file"))
                    .and_then(|mut f| f.write_all(b"x")),
            ),
        ),
        ("truncate", errno(with_file(&|f| f.set_len(5)))),
        (
            "fallocate",
            errno(with_file(&|f| {
                Ok(fallocate(f, FallocateFlags::empty(), 0, 4 << 20)?)
            })),
        ),
        (
            "punch",
            errno(with_file(&|f| {
                Ok(fallocate(
                    f,
                    FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                    0,
                    4_096,
                )?)
            })),
        ),
        (
            "copy_file_range",
            errno(with_file(&|f| {
                let from = File::open(at("file"))?;
                Ok(rustix::fs::copy_file_range(from, None, f, None, 5).map(drop)?)
            })),
        ),
        ("mkdir", errno(fs::create_dir(at("new")))),
        ("rmdir", errno(fs::remove_dir(at("dir")))),
        ("unlink", errno(fs::remove_file(at("file")))),
        ("rename", errno(fs::rename(at("file"), at("new")))),
        (
            "exchange",
            errno(renameat_with(
                CWD,
                at("file"),
                CWD,
                at("large"),
                RenameFlags::EXCHANGE,
            )),
        ),
        ("link", errno(fs::hard_link(at("file"), at("new")))),
        ("symlink", errno(symlink("x", at("new")))),
        ("fifo", errno(mknod(rustix::fs::FileType::Fifo))),
        (
            "socket",
            errno(std::os::unix::net::UnixListener::bind(at("new"))),
        ),
        ("chmod", errno(fs::set_permissions(at("file"), mode))),
        (
            "chown",
            errno(std::os::unix::fs::chown(at("file"), Some(5), Some(5))),
        ),
        (
            "utimes",
            errno(rustix::fs::utimensat(
                CWD,
                at("file"),
                &now,
                AtFlags::empty(),
            )),
        ),
        (
            "setxattr",
            errno(rustix::fs::setxattr(
                at("file"),
                "user.b",
                b"1",
                XattrFlags::empty(),
            )),
        ),
        (
            "removexattr",
            errno(rustix::fs::removexattr(at("file"), "user.a")),
        ),
    ];
    for (what, got) in attempts {
        assert_eq!(got, code(Errno::ROFS), "{what} on a slave");
    }
    let after = Fingerprint::take(&slave.mnt, Exactness::Snapshot);
    assert_same("after all that", &before, &after);
    // Locks are no changes.
    flock(
        File::open(at("file")).unwrap(),
        FlockOperation::LockExclusive,
    )
    .unwrap();
}
