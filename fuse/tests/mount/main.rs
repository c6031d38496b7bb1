//! The session under a real kernel: an in-memory file system is mounted and used.
//!
//! Without /dev/fuse or the right to mount, each test says so and passes.

// clippy.toml allows these in test functions; here they are also in what those functions use.
#![allow(clippy::unwrap_used, clippy::panic)]

mod memory;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};

use cbfs_fuse::{MountOptions, Session, detach_stale, is_mount_point, is_stale};
use rustix::fs::{AtFlags, RenameFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use self::memory::{Memory, Waiting};

/// A mounted file system. Dropping it (also when a test fails) detaches the mount, then removes
/// the directory.
struct Mounted {
    session: Session,
    fs: Arc<Memory>,
    dir: tempfile::TempDir,
}

impl Mounted {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn unmount(self) {
        self.session.unmount(false).unwrap();
        assert!(self.session.has_ended());
        assert!(!is_mount_point(self.dir.path()).unwrap());
        assert!(
            !self.fs.miscounted.load(Ordering::SeqCst),
            "lookup counts went wrong"
        );
    }
}

/// Whether tests can mount here, as far as can be told before trying.
fn can_mount() -> bool {
    let device = Path::new("/dev/fuse").exists();
    if !device {
        eprintln!("skipped: there is no /dev/fuse here");
    }
    device
}

/// Whether the mount failed because this machine does not let us.
fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound
    )
}

fn mounted() -> Option<Mounted> {
    if !can_mount() {
        return None;
    }
    let fs = Arc::new(Memory::new());
    let dir = tempfile::tempdir().unwrap();
    let options = MountOptions {
        source: "test,with \\odd name".to_owned(),
        clock: Arc::new(|| 5_000_000_007),
        ..MountOptions::default()
    };
    match Session::mount(Arc::clone(&fs) as Arc<_>, dir.path(), &options) {
        Ok(session) => Some(Mounted { session, fs, dir }),
        Err(e) if is_refusal(&e) => {
            eprintln!("skipped: mounting is not permitted here: {e}");
            None
        }
        Err(e) => panic!("cannot mount: {e}"),
    }
}

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> Option<Errno> {
    Errno::from_io_error(&result.unwrap_err())
}

#[test]
fn files_do_what_files_do() {
    let Some(m) = mounted() else { return };
    let path = m.path("file");
    fs::write(&path, "hello").unwrap();
    let mut file = OpenOptions::new()
        .append(true)
        .read(true)
        .open(&path)
        .unwrap();
    file.write_all(b", world").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "hello, world");
    file.set_len(5).unwrap();
    file.sync_all().unwrap();
    assert_eq!(m.fs.calls("fsync"), 1);
    assert_eq!(fs::read_to_string(&path).unwrap(), "hello");
    File::create(&path).unwrap(); // truncates
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);

    fs::set_permissions(&path, fs::Permissions::from_mode(0o4640)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode(), 0o104_640);
    fs::hard_link(&path, m.path("other")).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().nlink(), 2);
    symlink("file", m.path("soft")).unwrap();
    assert_eq!(fs::read_link(m.path("soft")).unwrap(), Path::new("file"));
    fs::create_dir(m.path("dir")).unwrap();
    assert_eq!(
        errno(fs::remove_dir(m.dir.path().join("missing"))),
        Some(Errno::NOENT)
    );

    fs::remove_file(m.path("other")).unwrap();
    fs::remove_file(&path).unwrap();
    file.write_all(b"orphan").unwrap();
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "orphan");
    drop(file);
    m.unmount();
}

#[test]
fn large_requests_come_through_whole() {
    let Some(m) = mounted() else { return };
    let data: Vec<u8> = (0..5_000_000u32).map(|i| (i % 251) as u8).collect();
    fs::write(m.path("large"), &data).unwrap();
    let ino = fs::metadata(m.path("large")).unwrap().ino();
    m.session.notifier().invalidate_inode(ino, 0, 0).unwrap();
    assert!(fs::read(m.path("large")).unwrap() == data);
    m.unmount();
}

#[test]
fn opening_and_closing_costs_no_request() {
    let Some(m) = mounted() else { return };
    fs::write(m.path("file"), "x").unwrap();
    assert_eq!(fs::read(m.path("file")).unwrap(), b"x");
    let before = m.fs.calls("read");
    for _ in 0..10 {
        assert_eq!(fs::read(m.path("file")).unwrap(), b"x"); // pages stay cached across opens
    }
    assert_eq!(m.fs.calls("read"), before);
    m.unmount();
}

#[test]
fn the_umask_is_left_to_the_file_system() {
    let Some(m) = mounted() else { return };
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o027));
    let made = fs::create_dir(m.path("dir"));
    rustix::process::umask(mask);
    made.unwrap();
    assert_eq!(fs::metadata(m.path("dir")).unwrap().mode(), 0o040_750);
    m.unmount();
}

#[test]
fn a_directory_of_5000_entries_is_listed_whole_with_and_without_attributes() {
    let Some(m) = mounted() else { return };
    let expected: BTreeSet<String> = (0..5000).map(|i| format!("file-{i}")).collect();
    for name in &expected {
        File::create(m.path(name)).unwrap();
    }
    let list = |with_attributes: bool| -> BTreeSet<String> {
        fs::read_dir(m.dir.path())
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                if with_attributes {
                    assert_eq!(entry.metadata().unwrap().ino(), entry.ino());
                }
                entry.file_name().into_string().unwrap()
            })
            .collect()
    };
    assert_eq!(list(false), expected);
    assert_eq!(list(true), expected);
    let before = m.fs.calls("readdir");
    assert_eq!(list(false), expected);
    assert_eq!(m.fs.calls("readdir"), before, "the listing stays cached");
    fs::remove_file(m.path("file-77")).unwrap();
    assert_eq!(list(true).len(), 4999);
    for entry in fs::read_dir(m.dir.path()).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert!(list(false).is_empty());
    m.unmount();
}

#[test]
fn entries_without_attributes_are_listed_and_not_counted() {
    let Some(m) = mounted() else { return };
    let sub = m.path("sub");
    fs::create_dir(&sub).unwrap();
    for i in 0..300 {
        File::create(sub.join(format!("{i}"))).unwrap();
    }
    // Forget all that creating them made known.
    let ino = fs::metadata(&sub).unwrap().ino();
    for i in 0..300 {
        m.session
            .notifier()
            .invalidate_entry(ino, format!("{i}").as_bytes())
            .unwrap();
    }
    m.fs.hides_attributes.store(true, Ordering::SeqCst);
    let mut seen = BTreeSet::new();
    for entry in fs::read_dir(&sub).unwrap() {
        let entry = entry.unwrap();
        assert!(entry.file_type().unwrap().is_file());
        assert_ne!(entry.ino(), 0);
        seen.insert((entry.ino(), entry.file_name()));
    }
    assert_eq!(seen.len(), 300);
    for (ino, name) in &seen {
        assert_eq!(fs::metadata(sub.join(name)).unwrap().ino(), *ino);
    }
    fs::remove_dir_all(&sub).unwrap();
    m.unmount();
}

#[test]
fn renames_replace_refuse_and_exchange() {
    let Some(m) = mounted() else { return };
    fs::write(m.path("a"), "a").unwrap();
    fs::write(m.path("b"), "b").unwrap();
    let dir = File::open(m.dir.path()).unwrap();
    let rename = |flags| rustix::fs::renameat_with(&dir, "a", &dir, "b", flags);
    assert_eq!(rename(RenameFlags::NOREPLACE), Err(Errno::EXIST));
    rename(RenameFlags::EXCHANGE).unwrap();
    assert_eq!(fs::read(m.path("a")).unwrap(), b"b");
    assert_eq!(rename(RenameFlags::WHITEOUT), Err(Errno::INVAL));
    fs::rename(m.path("a"), m.path("b")).unwrap();
    assert_eq!(fs::read(m.path("b")).unwrap(), b"b");
    assert!(!m.path("a").exists());
    drop(dir);
    m.unmount();
}

#[test]
fn a_missing_name_is_asked_for_once() {
    let Some(m) = mounted() else { return };
    for _ in 0..10 {
        assert_eq!(errno(fs::metadata(m.path("missing"))), Some(Errno::NOENT));
    }
    assert_eq!(m.fs.lookups_of(b"missing"), 1);
    fs::write(m.path("missing"), "no more").unwrap();
    assert_eq!(fs::read(m.path("missing")).unwrap(), b"no more");
    m.unmount();
}

#[test]
fn names_beyond_255_bytes_are_refused() {
    let Some(m) = mounted() else { return };
    File::create(m.path(&"n".repeat(255))).unwrap();
    assert_eq!(
        errno(File::create(m.path(&"n".repeat(256)))),
        Some(Errno::NAMETOOLONG)
    );
    m.unmount();
}

#[test]
fn extended_attributes_are_kept() {
    let Some(m) = mounted() else { return };
    let path = m.path("file");
    File::create(&path).unwrap();
    let mut buffer = [0u8; 64];
    let set = |value: &[u8], flags| rustix::fs::setxattr(&path, "user.color", value, flags);
    set(b"blue", XattrFlags::CREATE).unwrap();
    assert_eq!(set(b"red", XattrFlags::CREATE), Err(Errno::EXIST));
    set(b"green", XattrFlags::REPLACE).unwrap();
    set(b"", XattrFlags::empty()).unwrap();
    assert_eq!(
        rustix::fs::getxattr(&path, "user.color", &mut buffer),
        Ok(0)
    );
    set(b"yellow", XattrFlags::empty()).unwrap();
    assert_eq!(rustix::fs::getxattr_query(&path, "user.color"), Ok(6));
    assert_eq!(
        rustix::fs::getxattr(&path, "user.color", &mut buffer[..3]),
        Err(Errno::RANGE)
    );
    assert_eq!(
        rustix::fs::getxattr(&path, "user.color", &mut buffer),
        Ok(6)
    );
    assert_eq!(&buffer[..6], b"yellow");
    assert_eq!(rustix::fs::listxattr(&path, &mut buffer), Ok(11));
    assert_eq!(&buffer[..11], b"user.color\0");
    rustix::fs::removexattr(&path, "user.color").unwrap();
    assert_eq!(
        rustix::fs::getxattr(&path, "user.color", &mut buffer),
        Err(Errno::NODATA)
    );
    assert_eq!(rustix::fs::listxattr(&path, &mut buffer), Ok(0));
    m.unmount();
}

#[test]
fn ranges_are_allocated_sought_and_copied() {
    let Some(m) = mounted() else { return };
    fs::write(m.path("from"), "0123456789").unwrap();
    let from = File::open(m.path("from")).unwrap();
    let to = File::create(m.path("to")).unwrap();
    let (mut start, mut end) = (2, 0);
    let copied = rustix::fs::copy_file_range(&from, Some(&mut start), &to, Some(&mut end), 5);
    assert_eq!(copied, Ok(5));
    assert_eq!(m.fs.calls("copy_range"), 1);
    assert_eq!(fs::read(m.path("to")).unwrap(), b"23456");
    rustix::fs::fallocate(&to, rustix::fs::FallocateFlags::empty(), 0, 100).unwrap();
    assert_eq!(to.metadata().unwrap().len(), 100);
    assert_eq!(
        rustix::fs::seek(&from, rustix::fs::SeekFrom::Hole(0)),
        Ok(10)
    );
    assert_eq!(
        rustix::fs::seek(&from, rustix::fs::SeekFrom::Data(10)),
        Err(Errno::NXIO)
    );
    let statistics = rustix::fs::statvfs(m.dir.path()).unwrap();
    assert_eq!((statistics.f_frsize, statistics.f_bavail), (4096, 400));
    drop((from, to));
    m.unmount();
}

#[test]
fn an_operation_that_must_wait_is_served_by_a_worker() {
    let Some(m) = mounted() else { return };
    *m.fs.waiting.lock() = Waiting::WhenAsked;
    fs::write(m.path("file"), vec![7; 300_000]).unwrap();
    assert_eq!(fs::read(m.path("file")).unwrap(), vec![7; 300_000]);
    fs::create_dir(m.path("dir")).unwrap();
    symlink("target", m.path("soft")).unwrap();
    fs::rename(m.path("soft"), m.path("dir/soft")).unwrap();
    assert_eq!(
        fs::read_link(m.path("dir/soft")).unwrap(),
        Path::new("target")
    );
    rustix::fs::setxattr(m.path("file"), "user.a", b"b", XattrFlags::empty()).unwrap();
    let names: BTreeSet<_> = fs::read_dir(m.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["dir".into(), "file".into()].into());
    m.unmount();
}

#[test]
fn many_operations_wait_at_once() {
    let Some(m) = mounted() else { return };
    for i in 0..100 {
        fs::write(m.path(&i.to_string()), i.to_string()).unwrap();
    }
    *m.fs.waiting.lock() = Waiting::WhenAsked;
    std::thread::scope(|scope| {
        for i in 0..100 {
            let path = m.path(&i.to_string());
            let notifier = m.session.notifier();
            scope.spawn(move || {
                let ino = fs::metadata(&path).unwrap().ino();
                notifier.invalidate_inode(ino, 0, 0).unwrap();
                assert_eq!(fs::read_to_string(&path).unwrap(), i.to_string());
            });
        }
    });
    m.unmount();
}

#[test]
fn an_operation_that_waits_for_ever_is_an_io_error() {
    let Some(m) = mounted() else { return };
    *m.fs.waiting.lock() = Waiting::Forever;
    assert_eq!(errno(fs::metadata(m.path("file"))), Some(Errno::IO));
    *m.fs.waiting.lock() = Waiting::Not;
    assert_eq!(errno(fs::metadata(m.path("file"))), Some(Errno::NOENT));
    m.unmount();
}

#[test]
fn a_panic_is_an_io_error_and_the_mount_goes_on() {
    let Some(m) = mounted() else { return };
    fs::write(m.path("file"), "x").unwrap();
    let file = File::open(m.path("file")).unwrap();
    let ino = file.metadata().unwrap().ino();
    m.fs.panics.store(true, Ordering::SeqCst);
    for waiting in [
        Waiting::Not,
        Waiting::WhenAsked,
        Waiting::Not,
        Waiting::WhenAsked,
    ] {
        *m.fs.waiting.lock() = waiting;
        m.session.notifier().invalidate_inode(ino, 0, 0).unwrap();
        assert_eq!(errno(file.read_at(&mut [0], 0)), Some(Errno::IO));
    }
    m.fs.panics.store(false, Ordering::SeqCst);
    assert_eq!(fs::read(m.path("file")).unwrap(), b"x");
    drop(file);
    m.unmount();
}

#[test]
fn times_before_1970_keep_their_fraction() {
    let Some(m) = mounted() else { return };
    let file = File::create(m.path("old")).unwrap();
    let times = [
        (-2, 750_000_000),
        (-1, 999_999_999),
        (-86_400, 0),
        (0, 1),
        (4_000_000_000, 5),
    ];
    for (tv_sec, tv_nsec) in times {
        let time = Timespec { tv_sec, tv_nsec };
        let both = Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::utimensat(rustix::fs::CWD, m.path("old"), &both, AtFlags::empty()).unwrap();
        m.session
            .notifier()
            .invalidate_inode(file.metadata().unwrap().ino(), -1, 0)
            .unwrap();
        let read = file.metadata().unwrap();
        assert_eq!((read.mtime(), read.mtime_nsec()), (tv_sec, tv_nsec));
        assert_eq!((read.atime(), read.atime_nsec()), (tv_sec, tv_nsec));
    }
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: rustix::fs::UTIME_NOW,
    };
    let both = Timestamps {
        last_access: now,
        last_modification: now,
    };
    rustix::fs::futimens(file.as_fd(), &both).unwrap();
    let read = file.metadata().unwrap();
    assert_eq!(
        (read.mtime(), read.mtime_nsec()),
        (5, 7),
        "now is what the clock says"
    );
    drop(file);
    m.unmount();
}

#[test]
fn times_that_cannot_be_stored_become_the_nearest_and_end_no_session_thread() {
    let Some(m) = mounted() else { return };
    let file = File::create(m.path("extreme")).unwrap();
    let nearest = |nanos: i64| {
        (
            nanos.div_euclid(1_000_000_000),
            nanos.rem_euclid(1_000_000_000),
        )
    };
    // Each several times: there are only two session threads to lose.
    for _ in 0..4 {
        for tv_sec in [i64::MIN, i64::MIN + 1, i64::MAX] {
            let time = Timespec {
                tv_sec,
                tv_nsec: 999_999_999,
            };
            let both = Timestamps {
                last_access: time,
                last_modification: time,
            };
            rustix::fs::futimens(file.as_fd(), &both).unwrap();
            let read = file.metadata().unwrap();
            let stored = if tv_sec < 0 { i64::MIN } else { i64::MAX };
            assert_eq!((read.mtime(), read.mtime_nsec()), nearest(stored));
        }
    }
    drop(file);
    m.unmount();
}

#[test]
fn invalidation_makes_changes_behind_the_kernel_visible() {
    let Some(m) = mounted() else { return };
    fs::write(m.path("file"), "old").unwrap();
    let ino = fs::metadata(m.path("file")).unwrap().ino();
    assert_eq!(fs::read(m.path("file")).unwrap(), b"old"); // now the page is cached
    m.fs.overwrite(ino, b"new");
    assert_eq!(fs::read(m.path("file")).unwrap(), b"old");
    m.session.notifier().invalidate_inode(ino, 0, 0).unwrap();
    assert_eq!(fs::read(m.path("file")).unwrap(), b"new");

    m.fs.take_name(b"file");
    assert!(m.path("file").exists());
    m.session.notifier().invalidate_entry(1, b"file").unwrap();
    assert!(!m.path("file").exists());
    m.session
        .notifier()
        .invalidate_entry(1, b"never heard of")
        .unwrap();
    let notifier = m.session.notifier();
    m.unmount();
    notifier.invalidate_inode(ino, 0, 0).unwrap();
}

#[test]
fn a_busy_mount_stays_until_it_is_free() {
    let Some(m) = mounted() else { return };
    let (sender, ended) = mpsc::channel();
    let early = sender.clone();
    m.session.on_end(move || early.send("early").unwrap());
    let mut file = File::create(m.path("file")).unwrap();
    let error = m.session.unmount(false).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
    assert!(!m.session.has_ended());
    file.write_all(b"still served").unwrap();
    assert_eq!(fs::read(m.path("file")).unwrap(), b"still served");
    drop(file);
    m.session.unmount(false).unwrap();
    assert!(m.session.has_ended());
    m.session.unmount(false).unwrap(); // nothing left to do
    m.session.on_end(move || sender.send("late").unwrap());
    let mut all: Vec<_> = ended.iter().collect();
    all.sort_unstable();
    assert_eq!(all, ["early", "late"]);
}

#[test]
fn a_lazily_unmounted_file_system_serves_open_files() {
    let Some(m) = mounted() else { return };
    let (sender, ended) = mpsc::channel();
    m.session.on_end(move || sender.send(()).unwrap());
    let mut file = File::create(m.path("file")).unwrap();
    m.session.unmount(true).unwrap();
    assert!(!is_mount_point(m.dir.path()).unwrap());
    assert!(!m.session.has_ended());
    file.write_all(b"still served").unwrap();
    assert_eq!(m.fs.calls("write"), 1);
    drop(file);
    ended.recv().unwrap();
    assert!(m.session.has_ended());
}

#[test]
fn an_unmount_from_outside_ends_the_session() {
    let Some(m) = mounted() else { return };
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: not root");
        return;
    }
    let (sender, ended) = mpsc::channel();
    m.session.on_end(move || sender.send(()).unwrap());
    rustix::mount::unmount(m.dir.path(), rustix::mount::UnmountFlags::empty()).unwrap();
    ended.recv().unwrap();
    assert!(m.session.has_ended());
    m.unmount();
}

#[test]
fn what_is_mounted_over_it_is_not_unmounted() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: fusermount3 does not mount over a FUSE mount");
        return;
    }
    let Some(below) = mounted() else { return };
    let fs = Arc::new(Memory::new());
    let above = Session::mount(fs, below.dir.path(), &MountOptions::default()).unwrap();
    let error = below.session.unmount(false).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
    assert!(!above.has_ended());
    above.unmount(false).unwrap();
    below.session.unmount(false).unwrap();
    assert!(below.session.has_ended());
}

#[test]
fn mount_and_its_options_are_as_asked() {
    let Some(m) = mounted() else { return };
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table
        .lines()
        .find(|line| line.contains(m.dir.path().to_str().unwrap()))
        .unwrap();
    assert!(
        line.contains(" - fuse.cbfs test,with\\040\\134odd\\040name "),
        "{line}"
    );
    assert!(line.contains("default_permissions"), "{line}");
    assert!(line.contains("relatime"), "{line}");
    if rustix::process::geteuid().is_root() {
        assert!(line.contains("allow_other"), "{line}");
        assert!(
            !line.contains("nosuid") && !line.contains("nodev"),
            "{line}"
        );
        let device = line.split(' ').nth(2).unwrap();
        let readahead = fs::read_to_string(format!("/sys/class/bdi/{device}/read_ahead_kb"));
        if let Ok(readahead) = readahead {
            assert_eq!(readahead.trim(), "1024");
        }
    }
    assert!(is_mount_point(m.dir.path()).unwrap());
    assert!(!is_stale(m.dir.path()));
    let refused = detach_stale(m.dir.path()).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ResourceBusy);
    m.unmount();
}

#[test]
fn a_failed_mount_leaves_nothing() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    File::create(&path).unwrap();
    let mount = |path: &Path| {
        Session::mount(Arc::new(Memory::new()), path, &MountOptions::default()).map(drop)
    };
    assert_eq!(
        mount(&path).unwrap_err().kind(),
        io::ErrorKind::NotADirectory
    );
    assert_eq!(
        mount(&dir.path().join("none")).unwrap_err().kind(),
        io::ErrorKind::NotFound
    );
}

const SERVE_AT: &str = "CBFS_FUSE_TEST_SERVE_AT";

/// Not a test by itself: the process that the next test kills.
#[test]
fn server_process() {
    let Some(path) = std::env::var_os(SERVE_AT) else {
        return;
    };
    let options = MountOptions::default();
    let session = Session::mount(Arc::new(Memory::new()), Path::new(&path), &options);
    println!(
        "{}",
        if session.is_ok() {
            "mounted"
        } else {
            "not mounted"
        }
    );
    io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn a_killed_server_leaves_a_stale_mount_that_can_be_detached() {
    if !can_mount() {
        return;
    }
    struct Detached(tempfile::TempDir);
    impl Drop for Detached {
        fn drop(&mut self) {
            let _ = detach_stale(self.0.path());
        }
    }
    let dir = Detached(tempfile::tempdir().unwrap());
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "server_process", "--nocapture"])
        .env(SERVE_AT, dir.0.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let said = lines
        .map_while(Result::ok)
        .find(|line| line.ends_with("mounted"));
    let mounted = said.as_deref() == Some("mounted");
    if mounted {
        fs::write(dir.0.path().join("file"), "x").unwrap();
    }
    server.kill().unwrap();
    server.wait().unwrap();
    if !mounted {
        eprintln!("skipped: mounting is not permitted here");
        return;
    }
    assert!(is_mount_point(dir.0.path()).unwrap());
    assert!(is_stale(dir.0.path()));
    let again = Session::mount(
        Arc::new(Memory::new()),
        dir.0.path(),
        &MountOptions::default(),
    );
    drop(again); // whatever it says, it must not hang
    detach_stale(dir.0.path()).unwrap();
    assert!(!is_mount_point(dir.0.path()).unwrap());
    let again = Session::mount(
        Arc::new(Memory::new()),
        dir.0.path(),
        &MountOptions::default(),
    );
    again.unwrap().unmount(false).unwrap();
}
