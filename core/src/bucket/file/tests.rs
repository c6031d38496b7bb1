use super::*;
use crate::bucket::create_or_same;
use std::fs::{self as std_fs, FileTimes};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::Barrier;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, UNIX_EPOCH};

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn bucket() -> (tempfile::TempDir, FileBucket) {
    let dir = tempfile::tempdir().unwrap();
    let bucket = FileBucket::open(dir.path(), false).unwrap();
    (dir, bucket)
}

fn put(bucket: &FileBucket, name: &str, bytes: &[u8]) {
    bucket.create(&key(name), Body::Bytes(bytes)).unwrap();
}

fn names(objects: &[ObjectInfo]) -> Vec<&str> {
    objects.iter().map(|o| o.key.as_str()).collect()
}

fn temporaries(dir: &Path) -> usize {
    std_fs::read_dir(dir.join(TEMPORARY)).unwrap().count()
}

#[test]
fn an_object_is_read_back_as_it_was_written() {
    let (dir, bucket) = bucket();
    put(&bucket, "a/b/c.json", b"hello");
    assert_eq!(bucket.get(&key("a/b/c.json")).unwrap(), b"hello");
    let info = bucket.head(&key("a/b/c.json")).unwrap().unwrap();
    assert_eq!((info.key.as_str(), info.size), ("a/b/c.json", 5));
    assert!(info.modified > Timestamp(0));
    assert_eq!(
        std_fs::read(dir.path().join("a/b/c.json")).unwrap(),
        b"hello"
    );
    assert_eq!(temporaries(dir.path()), 0);
    let mode = std_fs::metadata(dir.path().join("a/b/c.json"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7133, 0, "0644 & umask, but {mode:o}");
    assert_eq!(
        bucket.url().to_string(),
        format!("file://{}", dir.path().display())
    );
}

#[test]
fn a_file_is_streamed_into_an_object() {
    let (dir, bucket) = bucket();
    let source = dir.path().join("..source");
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
    std_fs::write(&source, &bytes).unwrap();
    bucket
        .create(&key("s/0001.tar.zst"), Body::File(&source))
        .unwrap();
    assert!(bucket.get(&key("s/0001.tar.zst")).unwrap() == bytes);
    let error = bucket
        .create(&key("s/2"), Body::File(&dir.path().join("none")))
        .unwrap_err();
    assert!(matches!(error, BucketError::Io { .. }), "{error:?}");
    assert_eq!(bucket.head(&key("s/2")).unwrap(), None);
    assert_eq!(temporaries(dir.path()), 0);
}

#[test]
fn a_second_creator_is_refused_and_changes_nothing() {
    let (dir, bucket) = bucket();
    put(&bucket, "a/b", b"first");
    let error = bucket
        .create(&key("a/b"), Body::Bytes(b"second"))
        .unwrap_err();
    assert!(matches!(error, BucketError::AlreadyExists { key } if key.as_str() == "a/b"));
    assert_eq!(bucket.get(&key("a/b")).unwrap(), b"first");
    assert!(create_or_same(&bucket, &key("a/b"), b"first").is_ok());
    assert!(create_or_same(&bucket, &key("a/b"), b"second").is_err());
    assert_eq!(temporaries(dir.path()), 0);
}

#[test]
fn of_sixteen_creators_of_a_key_exactly_one_wins() {
    let (dir, _) = bucket();
    // Every thread is its own process, as far as the bucket is concerned.
    let buckets: Vec<FileBucket> = (0..16)
        .map(|_| FileBucket::open(dir.path(), false).unwrap())
        .collect();
    for round in 0..8 {
        let key = key(&format!("epochs/{round}/claim.json"));
        let (start, wins) = (Barrier::new(buckets.len()), AtomicUsize::new(0));
        let winner = AtomicUsize::new(usize::MAX);
        std::thread::scope(|scope| {
            for (me, bucket) in buckets.iter().enumerate() {
                let (key, start, wins, winner) = (&key, &start, &wins, &winner);
                scope.spawn(move || {
                    start.wait();
                    match bucket.create(key, Body::Bytes(format!("claim of {me}").as_bytes())) {
                        Ok(()) => {
                            wins.fetch_add(1, Ordering::SeqCst);
                            winner.store(me, Ordering::SeqCst);
                        }
                        Err(BucketError::AlreadyExists { .. }) => {}
                        Err(e) => panic!("{e}"),
                    }
                });
            }
        });
        assert_eq!(wins.load(Ordering::SeqCst), 1);
        let claim = format!("claim of {}", winner.load(Ordering::SeqCst));
        assert_eq!(buckets[0].get(&key).unwrap(), claim.as_bytes());
    }
    assert_eq!(temporaries(dir.path()), 0);
}

#[test]
fn ranges_are_exact_or_damage() {
    let (_dir, bucket) = bucket();
    put(&bucket, "o", b"0123456789");
    let range = |offset, len| bucket.get_range(&key("o"), offset, len);
    assert_eq!(range(2, 3).unwrap(), b"234");
    assert_eq!(range(0, 10).unwrap(), b"0123456789");
    assert_eq!(range(10, 0).unwrap(), b"");
    for (offset, len) in [(5, 6), (11, 0), (0, u64::MAX), (u64::MAX, 2)] {
        let error = range(offset, len).unwrap_err();
        assert!(
            matches!(error, BucketError::Damaged { .. }),
            "{offset} {len}: {error:?}"
        );
    }
    assert!(matches!(
        bucket.get_range(&key("p"), 0, 1),
        Err(BucketError::NotFound { .. })
    ));
}

#[test]
fn listings_hold_objects_only_and_are_sorted() {
    let (dir, bucket) = bucket();
    for name in [
        "f.config",
        "f/m/2",
        "f/m/1",
        "f/m-x",
        "f/m/deep/er",
        "g.config",
        "fa",
    ] {
        put(&bucket, name, name.as_bytes());
    }
    std_fs::write(dir.path().join(TEMPORARY).join("stray"), "x").unwrap();
    std_fs::write(dir.path().join("f/not a key"), "x").unwrap();
    std_fs::create_dir(dir.path().join("f/empty")).unwrap();
    symlink("f.config", dir.path().join("link")).unwrap();
    let all = [
        "f.config",
        "f/m-x",
        "f/m/1",
        "f/m/2",
        "f/m/deep/er",
        "fa",
        "g.config",
    ];
    assert_eq!(names(&bucket.list("").unwrap()), all);
    assert_eq!(names(&bucket.list("f/m").unwrap()), all[1..5]);
    assert_eq!(names(&bucket.list("f/m/").unwrap()), all[2..5]);
    assert_eq!(names(&bucket.list("f/m/d").unwrap()), ["f/m/deep/er"]);
    assert_eq!(
        names(&bucket.list_dir("").unwrap()),
        ["f.config", "fa", "g.config"]
    );
    assert_eq!(names(&bucket.list_dir("f/m/").unwrap()), ["f/m/1", "f/m/2"]);
    assert_eq!(bucket.list("f/m/1").unwrap()[0].size, 5);
    for none in [
        "zzz", "f/none/", "../", "/", "f//", ".tmp", ".tmp/", "f/m/1/",
    ] {
        assert_eq!(bucket.list(none).unwrap(), [], "{none}");
        assert_eq!(bucket.list_dir(none).unwrap(), [], "{none}");
    }
}

#[test]
fn a_symlink_does_not_lead_out_of_the_bucket() {
    let outside = tempfile::tempdir().unwrap();
    std_fs::write(outside.path().join("secret"), "secret").unwrap();
    let (dir, bucket) = bucket();
    symlink(outside.path(), dir.path().join("out")).unwrap();
    symlink(outside.path().join("secret"), dir.path().join("secret")).unwrap();
    symlink(outside.path().join("new"), dir.path().join("new")).unwrap();
    let denied = |result: BucketResult<()>| {
        assert!(
            matches!(result, Err(BucketError::Denied { .. })),
            "{result:?}"
        )
    };
    for name in ["out/secret", "secret"] {
        denied(bucket.get(&key(name)).map(drop));
        denied(bucket.get_range(&key(name), 0, 1).map(drop));
        denied(bucket.head(&key(name)).map(drop));
        denied(bucket.replace(&key(name), b"x"));
        denied(bucket.delete(&key(name)));
    }
    denied(bucket.create(&key("out/x"), Body::Bytes(b"x")));
    denied(bucket.create(&key("out/deep/x"), Body::Bytes(b"x")));
    denied(bucket.create(&key("new"), Body::Bytes(b"x")));
    denied(bucket.list("out/").map(drop));
    let left: Vec<_> = std_fs::read_dir(outside.path()).unwrap().collect();
    assert_eq!(left.len(), 1);
    assert_eq!(
        std_fs::read(outside.path().join("secret")).unwrap(),
        b"secret"
    );
}

#[test]
fn a_temporary_folder_that_is_a_symlink_is_refused() {
    let outside = tempfile::tempdir().unwrap();
    let dir = tempfile::tempdir().unwrap();
    symlink(outside.path(), dir.path().join(TEMPORARY)).unwrap();
    assert!(matches!(
        FileBucket::open(dir.path(), false),
        Err(BucketError::Denied { .. })
    ));
    assert_eq!(std_fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn what_is_no_regular_file_is_no_object() {
    let (dir, bucket) = bucket();
    put(&bucket, "folder/object", b"x");
    let fifo = dir.path().join("fifo");
    fs::mknodat(
        fs::CWD,
        &fifo,
        FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    for name in ["folder", "fifo", "none", "none/x", "folder/object/x"] {
        assert!(
            matches!(bucket.get(&key(name)), Err(BucketError::NotFound { .. })),
            "{name}"
        );
        assert_eq!(bucket.head(&key(name)).unwrap(), None, "{name}");
    }
    assert!(bucket.create(&key("folder"), Body::Bytes(b"x")).is_err());
    let error = bucket
        .create(&key("folder/object/x"), Body::Bytes(b"x"))
        .unwrap_err();
    assert!(matches!(error, BucketError::InvalidKey { .. }), "{error:?}");
    let long = key(&"n".repeat(300));
    assert!(matches!(
        bucket.create(&long, Body::Bytes(b"")),
        Err(BucketError::InvalidKey { .. })
    ));
    let own = bucket.create(&key(".tmp/x"), Body::Bytes(b"")).unwrap_err();
    assert!(matches!(own, BucketError::InvalidKey { .. }), "{own:?}");
}

#[test]
fn replace_and_delete_change_one_object() {
    let (dir, bucket) = bucket();
    bucket.replace(&key("nodes/n.json"), b"1").unwrap();
    bucket.replace(&key("nodes/n.json"), b"22").unwrap();
    assert_eq!(bucket.get(&key("nodes/n.json")).unwrap(), b"22");
    bucket.delete(&key("nodes/n.json")).unwrap();
    assert_eq!(bucket.head(&key("nodes/n.json")).unwrap(), None);
    for absent in ["nodes/n.json", "none/at/all", "nodes"] {
        bucket.delete(&key(absent)).unwrap();
    }
    assert!(dir.path().join("nodes").is_dir(), "empty folders stay");
    put(&bucket, "nodes/n.json", b"again");
    assert_eq!(temporaries(dir.path()), 0);
}

#[test]
fn a_missing_directory_is_unreachable_and_another_thing_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let missing = FileBucket::open(&dir.path().join("none"), false).unwrap_err();
    assert!(
        matches!(&missing, BucketError::Unreachable { what, .. } if what.contains("does not exist"))
    );
    assert!(missing.is_transient());
    let file = dir.path().join("file");
    std_fs::write(&file, "x").unwrap();
    assert!(matches!(
        FileBucket::open(&file, true),
        Err(BucketError::Invalid { .. })
    ));
    assert!(matches!(
        FileBucket::open(Path::new("rel"), true),
        Err(BucketError::Invalid { .. })
    ));
}

#[test]
fn a_bucket_opened_read_only_writes_nothing() {
    let (dir, bucket) = bucket();
    put(&bucket, "a", b"x");
    std_fs::remove_dir(dir.path().join(TEMPORARY)).unwrap();
    let reader = FileBucket::open(dir.path(), true).unwrap();
    assert_eq!(reader.get(&key("a")).unwrap(), b"x");
    for result in [
        reader.create(&key("b"), Body::Bytes(b"x")),
        reader.replace(&key("a"), b"y"),
        reader.delete(&key("a")),
    ] {
        assert!(
            matches!(result, Err(BucketError::Denied { .. })),
            "{result:?}"
        );
    }
    assert!(!dir.path().join(TEMPORARY).exists());
    assert_eq!(names(&reader.list("").unwrap()), ["a"]);
}

#[test]
fn a_directory_without_permission_is_denied() {
    if rustix::process::geteuid().is_root() {
        return; // root may do everything
    }
    let (dir, bucket) = bucket();
    put(&bucket, "a", b"x");
    let set = |path: &Path, mode| {
        std_fs::set_permissions(path, std_fs::Permissions::from_mode(mode)).unwrap();
    };
    set(&dir.path().join(TEMPORARY), 0o555);
    let denied = |result: BucketResult<()>| {
        assert!(
            matches!(result, Err(BucketError::Denied { .. })),
            "{result:?}"
        );
    };
    denied(FileBucket::open(dir.path(), false).map(drop));
    denied(bucket.create(&key("b"), Body::Bytes(b"x")));
    assert!(FileBucket::open(dir.path(), true).is_ok());
    set(&dir.path().join(TEMPORARY), 0o755);
    set(&dir.path().join("a"), 0o000);
    denied(bucket.get(&key("a")).map(drop));
}

#[test]
fn a_bucket_that_vanishes_is_unreachable_until_it_is_back() {
    let home = tempfile::tempdir().unwrap();
    let (path, away) = (home.path().join("bucket"), home.path().join("away"));
    std_fs::create_dir(&path).unwrap();
    let bucket = FileBucket::open(&path, false).unwrap();
    put(&bucket, "a", b"x");
    let all_unreachable = |when: &str| {
        let results = [
            bucket.get(&key("a")).map(drop),
            bucket.get_range(&key("a"), 0, 1).map(drop),
            bucket.head(&key("none")).map(drop),
            bucket.list("").map(drop),
            bucket.list_dir("none/").map(drop),
            bucket.create(&key("b"), Body::Bytes(b"x")),
            bucket.replace(&key("b"), b"x"),
            bucket.delete(&key("a")),
        ];
        for result in results {
            assert!(
                matches!(result, Err(BucketError::Unreachable { .. })),
                "{when}: {result:?}"
            );
        }
    };
    std_fs::rename(&path, &away).unwrap();
    all_unreachable("gone");
    // As below the mount point of an unmounted disk: it must not pass for an empty bucket.
    std_fs::create_dir(&path).unwrap();
    all_unreachable("another directory");
    assert_eq!(std_fs::read_dir(&path).unwrap().count(), 0);
    std_fs::remove_dir(&path).unwrap();
    std_fs::rename(&away, &path).unwrap();
    assert_eq!(bucket.get(&key("a")).unwrap(), b"x");
    assert_eq!(names(&bucket.list("").unwrap()), ["a"]);
}

#[test]
fn leftovers_of_crashed_writers_go_after_a_day() {
    let (dir, _) = bucket();
    let folder = dir.path().join(TEMPORARY);
    let now = std_fs::metadata(&folder).unwrap().modified().unwrap();
    let now = now.duration_since(UNIX_EPOCH).unwrap();
    let leave = |name: &str, age: Duration| {
        let file = File::create(folder.join(name)).unwrap();
        let then = UNIX_EPOCH + now - age;
        file.set_times(FileTimes::new().set_modified(then)).unwrap();
    };
    leave("old", Duration::from_secs(25 * 3600));
    leave("young", Duration::from_secs(23 * 3600));
    FileBucket::open(dir.path(), true).unwrap();
    assert!(folder.join("old").exists(), "a reader removes nothing");
    FileBucket::open(dir.path(), false).unwrap();
    assert!(!folder.join("old").exists());
    assert!(folder.join("young").exists());
}

#[test]
fn a_name_in_use_by_another_process_is_stepped_over() {
    let (dir, bucket) = bucket();
    let next = bucket.next_temporary.load(Ordering::Relaxed);
    for n in 0..3 {
        let name = format!("{:016x}", next.wrapping_add(n));
        std_fs::write(dir.path().join(TEMPORARY).join(name), "theirs").unwrap();
    }
    put(&bucket, "a", b"ours");
    assert_eq!(bucket.get(&key("a")).unwrap(), b"ours");
    assert_eq!(temporaries(dir.path()), 3);
}

#[test]
fn errors_of_the_system_say_what_to_do() {
    let kind = |e| failure("x".to_owned(), e);
    assert!(matches!(kind(Errno::NOSPC), BucketError::Full { .. }));
    assert!(matches!(kind(Errno::DQUOT), BucketError::Full { .. }));
    assert!(matches!(kind(Errno::ROFS), BucketError::Denied { .. }));
    assert!(matches!(kind(Errno::ACCESS), BucketError::Denied { .. }));
    assert!(matches!(
        kind(Errno::STALE),
        BucketError::Unreachable { .. }
    ));
    assert!(matches!(kind(Errno::IO), BucketError::Io { .. }));
    let full = io("x".to_owned(), std::io::Error::from_raw_os_error(28));
    assert!(matches!(full, BucketError::Full { .. }));
}
