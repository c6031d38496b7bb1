//! Attributes, extended attributes, special files, statfs.

use cbfs_tests::contents::noise;
use cbfs_tests::{Master, needs_fuse};
use cbfs_tests::{tools, tree};
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

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
    assert_eq!(
        rustix::fs::removexattr(&path, "user.large"),
        Err(Errno::NODATA)
    );
    assert_eq!(get("user.large"), Err(Errno::NODATA));
}

#[test]
fn special_files_work() {
    needs_fuse!();
    let m = Master::new();
    tools::shell(
        &m.mnt,
        "mkfifo pipe; (echo through the pipe > pipe) & cat pipe > got; wait",
    );
    assert_eq!(
        fs::read_to_string(m.at("got")).unwrap(),
        "through the pipe\n"
    );
    let listener = std::os::unix::net::UnixListener::bind(m.at("sock")).unwrap();
    let mut client = std::os::unix::net::UnixStream::connect(m.at("sock")).unwrap();
    client.write_all(b"hello").unwrap();
    drop(client);
    let mut text = String::new();
    listener
        .accept()
        .unwrap()
        .0
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(text, "hello");
    assert!(fs::metadata(m.at("sock")).unwrap().file_type().is_socket());
    assert!(fs::metadata(m.at("pipe")).unwrap().file_type().is_fifo());
}

#[test]
fn another_users_change_takes_the_suid_bit_away() {
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
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .write_all(b"x")
            .unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o6777);
        for change in [
            "printf y >> program",
            "fallocate -l 200000 program",
            "truncate -s 3 program",
            ": > program",
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
            let mut other = Command::new("sh");
            other
                .args(["-c", change])
                .current_dir(&m.mnt)
                .uid(12_345)
                .gid(12_345);
            tools::run(&mut other);
            let mode = fs::metadata(&path).unwrap().mode() & 0o7777;
            assert_eq!(mode, 0o777, "{change}: {mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
        chown(&path, Some(1), Some(1)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o777);
    }
    // And permissions hold for others.
    fs::write(m.at("secret"), "s").unwrap();
    fs::set_permissions(m.at("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let mut other = Command::new("cat");
    other
        .arg("secret")
        .current_dir(&m.mnt)
        .uid(12_345)
        .gid(12_345);
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
        (
            time(about.mtime(), about.mtime_nsec()),
            time(about.ctime(), about.ctime_nsec()),
        )
    };
    let first = about(&path);
    let parent = about(&m.mnt);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let (mtime, ctime) = about(&path);
    assert!(mtime == first.0 && ctime > first.1);
    assert_eq!(about(&m.mnt), parent);
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .write_all(b"2")
        .unwrap();
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
    // With a limit others' use of the disk does not show.
    m.node.ctl(["umount", &m.fs]).ok();
    let mnt = m.mnt.to_str().unwrap();
    m.node.ctl(["mount", &m.fs, mnt, "--kvs-limit", "1G"]).ok();
    let before = rustix::fs::statvfs(&m.mnt).unwrap();
    assert_eq!(before.f_blocks * before.f_frsize, 1 << 30);
    tree::small_files(&m.dir("some"), 500);
    fs::write(m.at("large"), noise(1, 8 << 20)).unwrap();
    let after = rustix::fs::statvfs(&m.mnt).unwrap();
    let used = |s: &rustix::fs::StatVfs| (s.f_blocks - s.f_bfree) * s.f_frsize;
    assert!(used(&after) >= used(&before) + (8 << 20));
    assert!(after.f_files - after.f_ffree >= before.f_files - before.f_ffree + 500);
    assert_eq!(after.f_namemax, 255);
}
