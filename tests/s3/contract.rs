//! What every bucket promises, whatever it is made of: the same checks for all of them.

use cbfs_core::bucket::{Body, Bucket, BucketError, Key, ObjectInfo, create_or_same};
use cbfs_core::inode::Timestamp;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Makes a further handle to the same place; the argument is a folder in it, empty for the top.
pub(crate) type Open<'a> = &'a dyn Fn(&str) -> Box<dyn Bucket>;

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn names(objects: &[ObjectInfo]) -> Vec<&str> {
    objects.iter().map(|o| o.key.as_str()).collect()
}

/// Bytes that look random, and do not compress.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let seed = blake3::Hasher::new();
    seed.finalize_xof().fill(&mut bytes);
    bytes
}

/// Check all of it. The place must be empty.
pub(crate) fn check(open: Open<'_>) {
    objects_are_read_back(open);
    a_second_creator_is_refused(open);
    of_twelve_creators_one_wins(open);
    ranges_are_exact(open);
    what_is_not_there_is_told_as_such(open);
    folders_are_apart(open);
    objects_are_replaced_and_deleted(open);
    listings_are_complete_and_sorted(open);
}

/// Check what creators rely on.
pub(crate) fn check_creation(open: Open<'_>) {
    a_second_creator_is_refused(open);
    of_twelve_creators_one_wins(open);
}

fn objects_are_read_back(open: Open<'_>) {
    let bucket = open("read");
    for (name, body) in [
        ("a/b/c.json", b"hello".to_vec()),
        ("empty", Vec::new()),
        ("n", noise(100_000)),
    ] {
        bucket.create(&key(name), Body::Bytes(&body)).unwrap();
        assert_eq!(bucket.get(&key(name)).unwrap(), body);
        let info = bucket.head(&key(name)).unwrap().unwrap();
        assert_eq!((info.key.as_str(), info.size), (name, body.len() as u64));
        assert!(info.modified > Timestamp(0));
    }
    let source = tempfile::NamedTempFile::new().unwrap();
    for (name, len) in [("file-0", 0), ("file-1", 1), ("file-3M", 3_000_001)] {
        let bytes = noise(len);
        std::fs::write(source.path(), &bytes).unwrap();
        bucket
            .create(&key(name), Body::File(source.path()))
            .unwrap();
        assert!(bucket.get(&key(name)).unwrap() == bytes, "{name}");
    }
    let missing = source.path().with_extension("none");
    let error = bucket
        .create(&key("file-none"), Body::File(&missing))
        .unwrap_err();
    assert!(matches!(error, BucketError::Io { .. }), "{error:?}");
    assert_eq!(bucket.head(&key("file-none")).unwrap(), None);
}

fn a_second_creator_is_refused(open: Open<'_>) {
    let bucket = open("second");
    let source = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(source.path(), b"third").unwrap();
    bucket.create(&key("a"), Body::Bytes(b"first")).unwrap();
    for body in [
        Body::Bytes(b"second"),
        Body::Bytes(b"first"),
        Body::File(source.path()),
    ] {
        let error = bucket.create(&key("a"), body).unwrap_err();
        assert!(
            matches!(&error, BucketError::AlreadyExists { key } if key.as_str() == "a"),
            "{error:?}"
        );
    }
    assert_eq!(bucket.get(&key("a")).unwrap(), b"first");
    assert!(create_or_same(&*bucket, &key("a"), b"first").is_ok());
    assert!(create_or_same(&*bucket, &key("a"), b"second").is_err());
}

fn of_twelve_creators_one_wins(open: Open<'_>) {
    let buckets: Vec<_> = (0..12).map(|_| open("race")).collect();
    for round in 0..3 {
        let key = key(&format!("epochs/{round}.json"));
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
                        Err(e) => panic!("creator {me}: {e:?}"),
                    }
                });
            }
        });
        assert_eq!(wins.load(Ordering::SeqCst), 1, "round {round}");
        let claim = format!("claim of {}", winner.load(Ordering::SeqCst));
        assert_eq!(buckets[0].get(&key).unwrap(), claim.as_bytes());
    }
}

fn ranges_are_exact(open: Open<'_>) {
    let bucket = open("ranges");
    bucket
        .create(&key("o"), Body::Bytes(b"0123456789"))
        .unwrap();
    bucket.create(&key("empty"), Body::Bytes(b"")).unwrap();
    let range = |offset, len| bucket.get_range(&key("o"), offset, len);
    assert_eq!(range(2, 3).unwrap(), b"234");
    assert_eq!(range(9, 1).unwrap(), b"9");
    assert_eq!(range(0, 10).unwrap(), b"0123456789");
    assert_eq!(range(10, 0).unwrap(), b"");
    for (offset, len) in [
        (5, 6),
        (10, 1),
        (11, 0),
        (0, 11),
        (0, u64::MAX),
        (u64::MAX, 2),
    ] {
        let error = range(offset, len).unwrap_err();
        assert!(
            matches!(error, BucketError::Damaged { .. }),
            "{offset} {len}: {error:?}"
        );
    }
    let error = bucket.get_range(&key("empty"), 0, 1).unwrap_err();
    assert!(matches!(error, BucketError::Damaged { .. }), "{error:?}");
    for (offset, len) in [(0, 1), (0, 0), (u64::MAX, 2)] {
        let error = bucket.get_range(&key("none"), offset, len).unwrap_err();
        assert!(matches!(error, BucketError::NotFound { .. }), "{error:?}");
    }
}

fn what_is_not_there_is_told_as_such(open: Open<'_>) {
    let bucket = open("absent");
    assert!(matches!(
        bucket.get(&key("a/b")),
        Err(BucketError::NotFound { .. })
    ));
    assert_eq!(bucket.head(&key("a/b")).unwrap(), None);
    bucket.delete(&key("a/b")).unwrap();
    assert_eq!(bucket.list("").unwrap(), []);
    assert_eq!(bucket.list_dir("a/").unwrap(), []);
}

fn folders_are_apart(open: Open<'_>) {
    let (here, there, top) = (open("here"), open("here-2"), open(""));
    here.create(&key("o"), Body::Bytes(b"1")).unwrap();
    there.create(&key("o"), Body::Bytes(b"2")).unwrap();
    assert_eq!(here.get(&key("o")).unwrap(), b"1");
    assert_eq!(names(&here.list("").unwrap()), ["o"]);
    assert_eq!(names(&top.list("here").unwrap()), ["here-2/o", "here/o"]);
    assert_eq!(names(&top.list("here/").unwrap()), ["here/o"]);
    here.delete(&key("o")).unwrap();
    assert_eq!(there.get(&key("o")).unwrap(), b"2");
}

fn objects_are_replaced_and_deleted(open: Open<'_>) {
    let bucket = open("change");
    bucket.replace(&key("nodes/n.json"), b"1").unwrap();
    bucket.replace(&key("nodes/n.json"), b"22").unwrap();
    assert_eq!(bucket.get(&key("nodes/n.json")).unwrap(), b"22");
    bucket.delete(&key("nodes/n.json")).unwrap();
    assert_eq!(bucket.head(&key("nodes/n.json")).unwrap(), None);
    bucket
        .create(&key("nodes/n.json"), Body::Bytes(b"again"))
        .unwrap();
}

fn listings_are_complete_and_sorted(open: Open<'_>) {
    let bucket = open("lists");
    let all = [
        "f.config",
        "f/m-x",
        "f/m/1",
        "f/m/2",
        "f/m/deep/er",
        "fa",
        "g.config",
    ];
    for name in all.iter().rev() {
        bucket
            .create(&key(name), Body::Bytes(name.as_bytes()))
            .unwrap();
    }
    assert_eq!(names(&bucket.list("").unwrap()), all);
    assert_eq!(names(&bucket.list("f/m").unwrap()), all[1..5]);
    assert_eq!(names(&bucket.list("f/m/").unwrap()), all[2..5]);
    assert_eq!(names(&bucket.list("f/m/d").unwrap()), ["f/m/deep/er"]);
    assert_eq!(
        names(&bucket.list_dir("").unwrap()),
        ["f.config", "fa", "g.config"]
    );
    assert_eq!(names(&bucket.list_dir("f/m/").unwrap()), ["f/m/1", "f/m/2"]);
    let listed = &bucket.list("f/m/1").unwrap()[0];
    assert!(listed.size == 5 && listed.modified > Timestamp(0));
    for none in ["zzz", "f/none/", "f//", "f/m/1/"] {
        assert_eq!(bucket.list(none).unwrap(), [], "{none}");
        assert_eq!(bucket.list_dir(none).unwrap(), [], "{none}");
    }
}

/// More objects than a store lists at a time.
pub(crate) fn check_many_objects(open: Open<'_>, count: usize) {
    let bucket = open("many");
    let wanted: Vec<String> = (0..count).map(|n| format!("m/{n:010}-e1.json")).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some(name) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                    bucket.create(&key(name), Body::Bytes(b"{}")).unwrap();
                }
            });
        }
    });
    assert_eq!(names(&bucket.list("m/").unwrap()), wanted);
    assert_eq!(names(&bucket.list_dir("m/").unwrap()), wanted);
    assert_eq!(bucket.list_dir("").unwrap(), []);
}

/// An object larger than one request may carry.
pub(crate) fn check_a_large_object(open: Open<'_>, len: usize) {
    let bucket = open("large");
    let source = tempfile::NamedTempFile::new().unwrap();
    let bytes = noise(len);
    std::fs::write(source.path(), &bytes).unwrap();
    bucket
        .create(&key("tar"), Body::File(source.path()))
        .unwrap();
    assert_eq!(bucket.head(&key("tar")).unwrap().unwrap().size, len as u64);
    assert!(bucket.get(&key("tar")).unwrap() == bytes);
    for at in [0, 16 << 20, len / 2, len - 1000] {
        let range = bucket.get_range(&key("tar"), at as u64, 1000).unwrap();
        assert!(range == bytes[at..at + 1000], "{at}");
    }
    // Also in parts nobody overwrites an object, and what was sent in vain leaves none.
    std::fs::write(source.path(), &bytes[1..]).unwrap();
    let error = bucket
        .create(&key("tar"), Body::File(source.path()))
        .unwrap_err();
    assert!(
        matches!(error, BucketError::AlreadyExists { .. }),
        "{error:?}"
    );
    assert!(bucket.get(&key("tar")).unwrap() == bytes);
    assert_eq!(names(&bucket.list("").unwrap()), ["tar"]);
}
