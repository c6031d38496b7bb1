mod documents;

use super::*;
use crate::bucket::FileBucket;
use crate::format::epoch::BaseSnapshot;
use crate::format::manifest::{Manifest, Totals, XidRange, writer};
use crate::format::mark::{DeletionEnd, SnapshotMark};
use crate::format::settings::FsSettings;
use crate::format::{FORMAT, Features};
use crate::handle::SnapshotSelector;
use crate::ids::{SnapshotNumber, Xid};
use crate::inode::Timestamp;
use crate::snapshot::SnapshotKind;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use uuid::Uuid;

/// A clock that stands still, and ids that count.
#[derive(Default)]
struct Fixed(AtomicU64);

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        Timestamp::from_parts(1_700_000_000, 0)
    }
}

impl Ids for Fixed {
    fn uuid(&self) -> Uuid {
        let count = self.0.fetch_add(1, Ordering::SeqCst);
        Uuid::from_u128((u128::from(count) + 0xabcd) << 112)
    }
}

/// A bucket with one file system.
struct World {
    dir: tempfile::TempDir,
    bucket: FileBucket,
    fixed: Fixed,
    fs: Handle,
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let bucket = FileBucket::open(dir.path(), false).unwrap();
        let fixed = Fixed::default();
        let fs = create_fs(&bucket, "home", &fixed, &fixed).unwrap().fs;
        World {
            dir,
            bucket,
            fixed,
            fs,
        }
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(self.fs.to_string()).join(relative)
    }

    fn put<T: Serialize>(&self, relative: &str, document: &T) {
        let key = keys::absolute(&self.fs, relative).unwrap();
        self.bucket
            .create(&key, Body::Bytes(&format::to_json(document).unwrap()))
            .unwrap();
    }

    /// Change the text of a stored document.
    fn damage(&self, relative: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path(relative)).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(self.path(relative), text.replacen(from, to, 1)).unwrap();
    }

    fn claim(&self, epoch: u16, node: &str) -> EpochClaim {
        let (host, nonce) = (format!("host-of-{node}"), format!("nonce-of-{node}"));
        let at = self.fixed.now().to_rfc3339();
        EpochClaim::new(
            self.fs.clone(),
            Epoch(epoch),
            node.to_owned(),
            host,
            nonce,
            at,
        )
    }

    /// Claim an epoch and write its base (number, epoch).
    fn promote(&self, epoch: u16, base: Option<(u64, u16)>) {
        claim_epoch(
            &self.bucket,
            &self.fs,
            &self.claim(epoch, &format!("n{epoch}")),
        )
        .unwrap();
        let base = base.map(|(number, epoch)| id(number, epoch));
        let document = EpochBase {
            format: FORMAT,
            features: Features::default(),
            epoch: Epoch(epoch),
            base,
        };
        self.put(&keys::epoch_base(Epoch(epoch)), &document);
    }

    fn publish(&self, number: u64, epoch: u16, name: Option<&str>) {
        let manifest = Manifest {
            format: FORMAT,
            features: Features::default(),
            fs: self.fs.clone(),
            number: SnapshotNumber(number),
            epoch: Epoch(epoch),
            attempt: "000000000001".to_owned(),
            name: name.map(str::to_owned),
            kind: SnapshotKind::User,
            xid: XidRange {
                from: Xid(1),
                to: Xid(2),
            },
            parent: None,
            created_at: self.fixed.now().to_rfc3339(),
            node: "n".to_owned(),
            layers: Vec::new(),
            toc: None,
            meta_tarball: None,
            log: None,
            status_log: None,
            status: None,
            totals: Totals::default(),
            writer: writer(),
        };
        self.put(&manifest_key(number, epoch), &manifest);
    }

    fn find(&self, selector: &str) -> Result<(u64, u16)> {
        let selector: SnapshotSelector = selector.parse()?;
        let manifest = find_snapshot(&self.bucket, &self.fs, &selector)?;
        Ok((manifest.number.0, manifest.epoch.0))
    }

    fn current(&self) -> Vec<(u64, u16)> {
        let all = manifests(&self.bucket, &self.fs).unwrap();
        all.iter().map(|m| (m.number.0, m.epoch.0)).collect()
    }

    fn diverged(&self) -> Vec<(u64, u16)> {
        let all = all_manifests(&self.bucket, &self.fs).unwrap();
        all.iter()
            .filter(|m| m.diverged)
            .map(|m| (m.id.number.0, m.id.epoch.0))
            .collect()
    }

    fn latest(&self) -> Option<(u64, u16)> {
        let latest = latest_manifest(&self.bucket, &self.fs).unwrap()?;
        Some((latest.number.0, latest.epoch.0))
    }
}

fn id(number: u64, epoch: u16) -> BaseSnapshot {
    BaseSnapshot {
        number: SnapshotNumber(number),
        epoch: Epoch(epoch),
    }
}

fn manifest_key(number: u64, epoch: u16) -> String {
    keys::manifest(SnapshotNumber(number), Epoch(epoch))
}

#[test]
fn a_file_system_is_created_listed_and_found() {
    let world = World::new();
    let logs = create_fs(&world.bucket, "logs", &world.fixed, &world.fixed).unwrap();
    let home2 = create_fs(&world.bucket, "home", &world.fixed, &world.fixed).unwrap();
    world.promote(1, None);
    std::fs::write(world.dir.path().join("not-a-handle.config"), "x").unwrap();
    let bucket = &world.bucket;
    assert_eq!(
        list_fs(bucket).unwrap(),
        [world.fs.clone(), home2.fs, logs.fs.clone()]
    );
    assert_eq!(load_config(bucket, &logs.fs).unwrap(), logs);
    for text in ["logs", "abce", &logs.fs.to_string()] {
        assert_eq!(find_fs(bucket, text).unwrap(), logs.fs, "{text}");
    }
    assert_eq!(
        find_fs(bucket, "home").unwrap_err().kind(),
        ErrorKind::Conflict
    );
    let none = Handle::new("home", Uuid::from_u128(7)).unwrap();
    for text in ["nope", &none.to_string()] {
        let error = find_fs(bucket, text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.hint_text().unwrap().contains(&logs.fs.to_string()));
    }
    assert_eq!(
        load_config(bucket, &none).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    let bad = create_fs(bucket, "a b", &world.fixed, &world.fixed).unwrap_err();
    assert_eq!(bad.kind(), ErrorKind::Usage);
}

#[test]
fn a_config_is_judged_before_it_is_believed() {
    let world = World::new();
    world.promote(1, None); // makes the folder that the path goes through
    let name = format!("../{}.config", world.fs);
    let kind = || load_config(&world.bucket, &world.fs).unwrap_err().kind();
    world.damage(&name, "\"block_size\": 1048576", "\"block_size\": 1048577");
    assert_eq!(kind(), ErrorKind::Damage);
    world.damage(&name, "1048577", "1048576");
    world.damage(&name, "home-abcd", "home-abcf");
    assert_eq!(kind(), ErrorKind::Damage);
    world.damage(&name, "\"incompat\": []", "\"incompat\": [\"sealed\"]");
    assert_eq!(kind(), ErrorKind::FormatTooNew);
    world.damage(&name, "{", "");
    assert_eq!(kind(), ErrorKind::Damage);
}

#[test]
fn an_epoch_is_claimed_once() {
    let world = World::new();
    let (bucket, fs) = (&world.bucket, &world.fs);
    assert_eq!(current_epoch(bucket, fs).unwrap(), None);
    let ours = world.claim(1, "a");
    claim_epoch(bucket, fs, &ours).unwrap();
    claim_epoch(bucket, fs, &ours).unwrap(); // a retry after a lost answer
    let error = claim_epoch(bucket, fs, &world.claim(1, "b")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let text = error.to_string();
    assert!(
        text.contains("node a") && text.contains("host-of-a"),
        "{text}"
    );
    claim_epoch(bucket, fs, &world.claim(2, "b")).unwrap();
    let nodes: Vec<String> = epochs(bucket, fs)
        .unwrap()
        .into_iter()
        .map(|c| c.node)
        .collect();
    assert_eq!(nodes, ["a", "b"]);
    assert_eq!(current_epoch(bucket, fs).unwrap().unwrap().epoch, Epoch(2));
    assert_eq!(epoch_claim(bucket, fs, Epoch(3)).unwrap(), None);
}

#[test]
fn epochs_have_no_gaps() {
    let world = World::new();
    let (bucket, fs) = (&world.bucket, &world.fs);
    let gap = claim_epoch(bucket, fs, &world.claim(2, "a")).unwrap_err();
    assert_eq!(gap.kind(), ErrorKind::Conflict);
    assert!(claim_epoch(bucket, fs, &world.claim(0, "a")).is_err());
    assert_eq!(epochs(bucket, fs).unwrap(), []);
    let mut foreign = world.claim(1, "a");
    foreign.fs = Handle::new("other", Uuid::from_u128(1)).unwrap();
    assert!(claim_epoch(bucket, fs, &foreign).is_err());
    assert_eq!(bucket.list_dir(&format!("{fs}/epochs/")).unwrap(), []);
}

#[test]
fn a_claim_or_base_under_a_wrong_name_is_damage() {
    let world = World::new();
    world.promote(1, None);
    world.promote(2, Some((1, 1)));
    let (bucket, fs) = (&world.bucket, &world.fs);
    std::fs::copy(
        world.path("epochs/00002.json"),
        world.path("epochs/00003.json"),
    )
    .unwrap();
    assert_eq!(epochs(bucket, fs).unwrap_err().kind(), ErrorKind::Damage);
    std::fs::copy(
        world.path("epochs/00002.base.json"),
        world.path("epochs/00003.base.json"),
    )
    .unwrap();
    assert_eq!(
        epoch_base(bucket, fs, Epoch(3)).unwrap_err().kind(),
        ErrorKind::Damage
    );
    assert_eq!(epoch_base(bucket, fs, Epoch(4)).unwrap(), None);
    world.damage("epochs/00002.base.json", "\"epoch\": 1", "\"epoch\": 2");
    assert_eq!(
        epoch_base(bucket, fs, Epoch(2)).unwrap_err().kind(),
        ErrorKind::Damage
    );
}

#[test]
fn snapshots_are_found_by_number_name_and_latest() {
    let world = World::new();
    let empty = world.find("latest").unwrap_err();
    assert_eq!(empty.kind(), ErrorKind::NotFound);
    assert!(empty.hint_text().unwrap().contains("snapshot create"));
    assert_eq!(world.latest(), None);
    world.promote(1, None);
    for (number, name) in [(1, Some("first")), (2, None), (10, Some("tenth"))] {
        world.publish(number, 1, name);
    }
    assert_eq!(world.current(), [(1, 1), (2, 1), (10, 1)]);
    assert_eq!(world.latest(), Some((10, 1)));
    for (text, expected) in [("latest", 10), ("2", 2), ("first", 1), ("tenth", 10)] {
        assert_eq!(world.find(text).unwrap(), (expected, 1), "{text}");
    }
    for text in ["3", "nope"] {
        let error = world.find(text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(
            error.hint_text().unwrap().contains("the latest is 10"),
            "{error:?}"
        );
    }
    let gone = load_manifest(&world.bucket, &world.fs, SnapshotNumber(3), Epoch(1)).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
}

#[test]
fn what_a_superseded_master_published_beyond_the_base_is_diverged() {
    let world = World::new();
    world.promote(1, None);
    for number in 1..=5 {
        world.publish(number, 1, (number == 5).then_some("late"));
    }
    world.promote(2, Some((3, 1)));
    assert_eq!(world.latest(), Some((3, 1)));
    world.publish(4, 2, None);
    assert_eq!(world.current(), [(1, 1), (2, 1), (3, 1), (4, 2)]);
    assert_eq!(world.diverged(), [(4, 1), (5, 1)]);
    assert_eq!(world.latest(), Some((4, 2)));
    assert_eq!(world.find("4").unwrap(), (4, 2));
    let error = world.find("5").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("diverged"), "{error}");
    assert_eq!(world.find("late").unwrap_err().kind(), ErrorKind::NotFound);
    // Kept: who asks for it by number and epoch gets it.
    let kept = load_manifest(&world.bucket, &world.fs, SnapshotNumber(5), Epoch(1)).unwrap();
    assert_eq!(kept.name.as_deref(), Some("late"));
    // Epoch 3 starts from before epoch 2: nothing of epoch 2 counts any more.
    world.promote(3, Some((3, 1)));
    world.publish(5, 3, None);
    assert_eq!(world.current(), [(1, 1), (2, 1), (3, 1), (5, 3)]);
    assert_eq!(world.diverged(), [(4, 1), (4, 2), (5, 1)]);
    // And epoch 4 from nothing.
    world.promote(4, None);
    assert_eq!((world.current(), world.latest()), (Vec::new(), None));
}

#[test]
fn a_promotion_under_way_leaves_the_lineage_of_the_epoch_before() {
    let world = World::new();
    claim_epoch(&world.bucket, &world.fs, &world.claim(1, "n1")).unwrap();
    world.publish(1, 1, None);
    claim_epoch(&world.bucket, &world.fs, &world.claim(2, "n2")).unwrap();
    claim_epoch(&world.bucket, &world.fs, &world.claim(3, "n3")).unwrap();
    world.publish(2, 1, None);
    assert_eq!(world.current(), [(1, 1), (2, 1)]);
    assert_eq!(world.diverged(), []);
}

#[test]
fn a_lost_base_or_claim_does_not_bring_an_old_lineage_back() {
    let world = World::new();
    world.promote(1, None);
    world.publish(1, 1, None);
    world.publish(2, 1, None);
    world.promote(2, Some((1, 1)));
    world.publish(2, 2, None);
    world.promote(3, Some((2, 2)));
    world.publish(3, 3, None);
    assert_eq!(world.current(), [(1, 1), (2, 2), (3, 3)]);
    for lost in [
        "epochs/00003.base.json",
        "epochs/00003.json",
        "epochs/00002.base.json",
        "epochs/00001.json",
    ] {
        let bytes = std::fs::read(world.path(lost)).unwrap();
        std::fs::remove_file(world.path(lost)).unwrap();
        for result in [
            latest_manifest(&world.bucket, &world.fs).map(drop),
            manifests(&world.bucket, &world.fs).map(drop),
            all_manifests(&world.bucket, &world.fs).map(drop),
        ] {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Damage, "{lost}");
        }
        std::fs::write(world.path(lost), bytes).unwrap();
    }
    assert_eq!(world.latest(), Some((3, 3)));
}

#[test]
fn a_damaged_manifest_does_not_hide_the_others() {
    let world = World::new();
    world.promote(1, None);
    for (number, name) in [(1, "one"), (2, "two"), (3, "three")] {
        world.publish(number, 1, Some(name));
    }
    world.damage(&manifest_key(2, 1), "\"number\"", "\"numbex\"");
    assert_eq!(world.find("one").unwrap(), (1, 1));
    assert_eq!(world.find("1").unwrap(), (1, 1));
    assert_eq!(world.latest(), Some((3, 1)));
    assert_eq!(world.find("2").unwrap_err().kind(), ErrorKind::Damage);
    // It may be the one of that name: "not found" would be a guess.
    assert_eq!(world.find("two").unwrap_err().kind(), ErrorKind::Damage);
    let listed = all_manifests(&world.bucket, &world.fs).unwrap();
    let readable: Vec<bool> = listed.iter().map(|m| m.manifest.is_ok()).collect();
    assert_eq!(readable, [true, false, true]);
    assert_eq!(
        manifests(&world.bucket, &world.fs).unwrap_err().kind(),
        ErrorKind::Damage
    );
    // The latest being damaged is an error, not a reason to take an older one.
    world.damage(&manifest_key(3, 1), "{", "[");
    assert_eq!(world.find("latest").unwrap_err().kind(), ErrorKind::Damage);
}

#[test]
fn a_manifest_of_a_newer_format_is_refused_by_name() {
    let world = World::new();
    world.promote(1, None);
    world.publish(1, 1, None);
    world.publish(2, 1, None);
    world.damage(&manifest_key(2, 1), "\"format\": 1", "\"format\": 2");
    for selector in ["latest", "2"] {
        let error = world.find(selector).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FormatTooNew);
        assert!(
            error.to_string().contains("m/0000000002-e1.json"),
            "{error}"
        );
    }
    assert_eq!(world.find("1").unwrap(), (1, 1));
}

#[test]
fn a_manifest_under_a_wrong_name_is_damage_and_odd_names_are_none() {
    let world = World::new();
    world.promote(1, None);
    world.publish(1, 1, None);
    let from = world.path(&manifest_key(1, 1));
    std::fs::copy(&from, world.path("m/2-e1.json")).unwrap();
    std::fs::copy(&from, world.path("m/0000000002-e01.json")).unwrap();
    assert_eq!(world.current(), [(1, 1)]);
    std::fs::copy(&from, world.path(&manifest_key(2, 1))).unwrap();
    assert_eq!(world.find("2").unwrap_err().kind(), ErrorKind::Damage);
}

#[test]
fn an_object_is_read_exactly_or_not_at_all() {
    let world = World::new();
    let bytes = b"the bytes of a layer".to_vec();
    let object = ObjectRef {
        key: "s/0000000001-e1-0123/layer.sqlite.zst".to_owned(),
        size: bytes.len() as u64,
        blake3: blake3::hash(&bytes).to_hex().to_string(),
    };
    let read = || read_object(&world.bucket, &world.fs, &object);
    let missing = read().unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(missing.to_string().contains(&object.key), "{missing}");
    let key = keys::absolute(&world.fs, &object.key).unwrap();
    world.bucket.create(&key, Body::Bytes(&bytes)).unwrap();
    assert_eq!(read().unwrap(), bytes);
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        std::fs::write(world.path(&object.key), flipped).unwrap();
        let error = read().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damage);
        assert!(error.to_string().contains(&object.key), "{error}");
    }
    std::fs::write(world.path(&object.key), &bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(read().unwrap_err().kind(), ErrorKind::Damage);
    let escape = ObjectRef {
        key: "../other.config".to_owned(),
        ..object.clone()
    };
    let error = read_object(&world.bucket, &world.fs, &escape).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damage);
}

#[test]
fn an_unreachable_bucket_is_not_an_empty_one() {
    let World {
        dir, bucket, fs, ..
    } = World::new();
    let away = dir.path().with_extension("away");
    std::fs::rename(dir.path(), &away).unwrap();
    let kinds = [
        list_fs(&bucket).unwrap_err().kind(),
        find_fs(&bucket, "home").unwrap_err().kind(),
        epochs(&bucket, &fs).unwrap_err().kind(),
        latest_manifest(&bucket, &fs).unwrap_err().kind(),
        all_manifests(&bucket, &fs).unwrap_err().kind(),
    ];
    std::fs::rename(&away, dir.path()).unwrap();
    assert_eq!(kinds, [ErrorKind::BucketUnreachable; 5]);
}

fn mark(w: &World, number: u64, reason: Option<&str>) -> SnapshotMark {
    let at = w.fixed.now().to_rfc3339();
    SnapshotMark::new(w.fs.clone(), id(number, 1), reason.map(str::to_owned), at)
}

#[test]
fn a_deleted_snapshot_is_found_no_more_and_its_name_means_another() {
    let w = World::new();
    w.promote(1, None);
    for (number, name) in [(1, Some("a")), (2, Some("b")), (3, None)] {
        w.publish(number, 1, name);
    }
    delete_snapshot(&w.bucket, &mark(&w, 2, None)).unwrap();
    assert_eq!(w.current(), [(1, 1), (3, 1)]);
    for selector in ["2", "b"] {
        assert_eq!(w.find(selector).unwrap_err().kind(), ErrorKind::NotFound);
    }
    assert!(w.find("2").unwrap_err().to_string().contains("deleted"));
    let again = delete_snapshot(&w.bucket, &mark(&w, 2, None)).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::NotFound);
    w.publish(4, 1, Some("b"));
    assert_eq!(w.find("b").unwrap(), (4, 1));
    let all = all_manifests(&w.bucket, &w.fs).unwrap();
    let deleted: Vec<u64> = all
        .iter()
        .filter(|m| m.deleted)
        .map(|m| m.id.number.0)
        .collect();
    assert_eq!(deleted, [2]);
    assert!(is_deleted(&w.bucket, &w.fs, id(2, 1)).unwrap());
}

#[test]
fn the_latest_snapshot_cannot_be_deleted() {
    let w = World::new();
    w.promote(1, None);
    w.publish(1, 1, None);
    w.publish(2, 1, None);
    let refused = delete_snapshot(&w.bucket, &mark(&w, 2, None)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    delete_snapshot(&w.bucket, &mark(&w, 1, None)).unwrap();
    assert_eq!(w.latest(), Some((2, 1)));
    assert_eq!(
        delete_snapshot(&w.bucket, &mark(&w, 2, None))
            .unwrap_err()
            .kind(),
        ErrorKind::Conflict
    );
}

#[test]
fn a_held_snapshot_cannot_be_deleted_until_all_its_holds_are_released() {
    let w = World::new();
    w.promote(1, None);
    w.publish(1, 1, None);
    w.publish(2, 1, None);
    assert_eq!(
        hold_snapshot(&w.bucket, &mark(&w, 1, Some("audit"))).unwrap(),
        1
    );
    assert_eq!(hold_snapshot(&w.bucket, &mark(&w, 1, None)).unwrap(), 2);
    let refused = delete_snapshot(&w.bucket, &mark(&w, 1, None)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    assert!(refused.to_string().contains("audit"), "{refused}");
    assert_eq!(holds(&w.bucket, &w.fs).unwrap()[&id(1, 1)].len(), 2);
    assert_eq!(release_snapshot(&w.bucket, &mark(&w, 1, None)).unwrap(), 2);
    assert!(holds(&w.bucket, &w.fs).unwrap().is_empty());
    assert_eq!(
        release_snapshot(&w.bucket, &mark(&w, 1, None))
            .unwrap_err()
            .kind(),
        ErrorKind::Conflict
    );
    // A number is never used twice: an old release does not lift a new hold.
    assert_eq!(hold_snapshot(&w.bucket, &mark(&w, 1, None)).unwrap(), 3);
    assert!(delete_snapshot(&w.bucket, &mark(&w, 1, None)).is_err());
    release_snapshot(&w.bucket, &mark(&w, 1, None)).unwrap();
    delete_snapshot(&w.bucket, &mark(&w, 1, None)).unwrap();
    assert_eq!(
        hold_snapshot(&w.bucket, &mark(&w, 1, None))
            .unwrap_err()
            .kind(),
        ErrorKind::NotFound
    );
}

#[test]
fn a_hold_beside_a_deletion_or_on_a_diverged_snapshot_can_be_released() {
    let w = World::new();
    w.promote(1, None);
    for (number, name) in [(1, Some("a")), (2, None), (3, None)] {
        w.publish(number, 1, name);
    }
    let held = |selector: &str| find_held(&w.bucket, &w.fs, &selector.parse().unwrap());
    assert_eq!(held("1").unwrap(), id(1, 1), "told that it is not held");
    assert_eq!(held("7").unwrap_err().kind(), ErrorKind::NotFound);
    // Who deleted had looked for holds before this one stood.
    hold_snapshot(&w.bucket, &mark(&w, 1, None)).unwrap();
    marks::delete_mark(&w.bucket, &mark(&w, 1, None)).unwrap();
    hold_snapshot(&w.bucket, &mark(&w, 3, None)).unwrap();
    w.promote(2, Some((2, 1)));
    w.publish(3, 2, None);
    for selector in ["1", "a"] {
        assert_eq!(w.find(selector).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(held(selector).unwrap(), id(1, 1));
    }
    assert_eq!(w.find("3").unwrap(), (3, 2));
    assert_eq!(held("3").unwrap(), id(3, 1));
    // Of two that are held the one that can be seen comes first.
    let now = SnapshotMark::new(w.fs.clone(), id(3, 2), None, w.fixed.now().to_rfc3339());
    hold_snapshot(&w.bucket, &now).unwrap();
    assert_eq!(held("3").unwrap(), id(3, 2));
    assert_eq!(held("latest").unwrap(), id(3, 2));
    release_snapshot(&w.bucket, &now).unwrap();
    let refused = fs_may_be_deleted(&w.bucket, &w.fs).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    for number in [1, 3] {
        assert_eq!(held(&number.to_string()).unwrap(), id(number, 1));
        release_snapshot(&w.bucket, &mark(&w, number, None)).unwrap();
    }
    fs_may_be_deleted(&w.bucket, &w.fs).unwrap();
}

#[test]
fn a_number_that_was_given_up_is_closed_once_and_is_no_snapshot_to_be_seen() {
    let w = World::new();
    w.promote(1, None);
    w.publish(1, 1, None);
    let parent = load_manifest(&w.bucket, &w.fs, SnapshotNumber(1), Epoch(1)).unwrap();
    let at = w.fixed.now().to_rfc3339();
    let close = |number| close_number(&w.bucket, &parent, SnapshotNumber(number), Epoch(1), &at);
    // Also by a copy of the state directory, or after a crash.
    assert_eq!(close(2).unwrap(), None);
    assert_eq!(close(2).unwrap(), None);
    w.publish(3, 1, None);
    assert_eq!(w.current(), [(1, 1), (3, 1)]);
    let taken = close(3).unwrap().unwrap();
    assert_eq!(taken.id(), id(3, 1));
    let closed = load_manifest(&w.bucket, &w.fs, SnapshotNumber(2), Epoch(1)).unwrap();
    assert_eq!(
        (closed.layers, closed.parent),
        (parent.layers.clone(), Some(id(1, 1)))
    );
    let late = create_manifest(
        &w.bucket,
        &Manifest {
            number: SnapshotNumber(2),
            ..parent.clone()
        },
    );
    assert!(late.unwrap().is_some(), "the number is taken");
}

#[test]
fn nothing_is_deleted_and_no_follower_moves_while_a_promotion_is_under_way() {
    let w = World::new();
    w.promote(1, None);
    w.publish(1, 1, None);
    w.publish(2, 1, None);
    claim_epoch(&w.bucket, &w.fs, &w.claim(2, "b")).unwrap();
    let refused = delete_snapshot(&w.bucket, &mark(&w, 1, None)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    assert!(latest_settled(&w.bucket, &w.fs).unwrap().is_none());
    assert_eq!(
        settle_base(&w.bucket, &w.fs, Epoch(2)).unwrap(),
        Some(id(2, 1))
    );
    w.publish(3, 1, None); // by the old master: too late
    assert_eq!(
        settle_base(&w.bucket, &w.fs, Epoch(2)).unwrap(),
        Some(id(2, 1))
    );
    confirm_epoch(&w.bucket, &w.fs, Epoch(2), "nonce-of-b").unwrap();
    let stranger = confirm_epoch(&w.bucket, &w.fs, Epoch(2), "nonce-of-c").unwrap_err();
    assert_eq!(stranger.kind(), ErrorKind::Conflict);
    delete_snapshot(&w.bucket, &mark(&w, 1, None)).unwrap();
    let latest = latest_settled(&w.bucket, &w.fs).unwrap().unwrap();
    assert_eq!(latest.id(), id(2, 1));
    assert!(is_superseded(&w.bucket, &w.fs, Epoch(1)).unwrap());
}

const LATER: &str = "2026-01-02T00:00:00Z";

fn delete_whole(w: &World, reason: Option<&str>) -> Result<Deletion> {
    let next = fs_may_be_deleted(&w.bucket, &w.fs)?;
    let reason = reason.map(str::to_owned);
    delete_fs(&w.bucket, &w.fs, next, reason, &w.fixed.now().to_rfc3339())
}

#[test]
fn a_file_system_is_deleted_and_taken_back_as_often_as_one_likes() {
    let w = World::new();
    w.promote(1, None);
    w.publish(1, 1, None);
    for round in 1..=3 {
        refuse_deleted(&w.bucket, &w.fs).unwrap();
        let not_deleted = undelete_fs(&w.bucket, &w.fs, LATER).unwrap_err();
        assert_eq!(not_deleted.kind(), ErrorKind::Conflict);
        let made = delete_whole(&w, Some("too many")).unwrap();
        assert_eq!((made.mark.nth, made.collected), (round, false));
        assert_eq!(deletion(&w.bucket, &w.fs).unwrap(), Some(made.clone()));
        let refused = refuse_deleted(&w.bucket, &w.fs).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Conflict);
        assert!(refused.to_string().contains("too many"), "{refused}");
        assert!(refused.hint_text().unwrap().contains("fs undelete"));
        let again = delete_whole(&w, None).unwrap_err();
        assert_eq!(again.kind(), ErrorKind::Conflict);
        // It is a record that can be read.
        assert_eq!(w.current(), [(1, 1)]);
        assert_eq!(undelete_fs(&w.bucket, &w.fs, LATER).unwrap(), made);
    }
}

#[test]
fn once_garbage_collection_has_begun_a_deletion_stays() {
    let w = World::new();
    let made = delete_whole(&w, None).unwrap();
    let end = |end| end_deletion(&w.bucket, &w.fs, made.mark.nth, end, LATER).unwrap();
    assert_eq!(end(DeletionEnd::Collected), DeletionEnd::Collected);
    // Whoever comes later hears how it ended, and the same again is the same.
    assert_eq!(end(DeletionEnd::Undone), DeletionEnd::Collected);
    assert_eq!(end(DeletionEnd::Collected), DeletionEnd::Collected);
    let refused = undelete_fs(&w.bucket, &w.fs, LATER).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    assert!(refused.hint_text().unwrap().contains("has begun"));
    assert!(deletion(&w.bucket, &w.fs).unwrap().unwrap().collected);
}

#[test]
fn a_file_system_with_a_held_snapshot_is_not_deleted() {
    let w = World::new();
    w.promote(1, None);
    w.publish(1, 1, None);
    hold_snapshot(&w.bucket, &mark(&w, 1, Some("audit"))).unwrap();
    let refused = delete_whole(&w, None).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    assert!(refused.to_string().contains("held (audit)"), "{refused}");
    release_snapshot(&w.bucket, &mark(&w, 1, None)).unwrap();
    delete_whole(&w, None).unwrap();
}

#[test]
fn a_tag_means_the_file_system_that_is_not_deleted() {
    let w = World::new();
    assert_eq!(find_fs(&w.bucket, "home").unwrap(), w.fs);
    delete_whole(&w, None).unwrap();
    // Alone it is found: what may not be done with it is refused later, with a reason.
    assert_eq!(find_fs(&w.bucket, "home").unwrap(), w.fs);
    let second = create_fs(&w.bucket, "home", &w.fixed, &w.fixed).unwrap().fs;
    assert_eq!(find_fs(&w.bucket, "home").unwrap(), second);
    assert_eq!(find_deleted_fs(&w.bucket, "home").unwrap(), w.fs);
    undelete_fs(&w.bucket, &w.fs, LATER).unwrap();
    let ambiguous = find_fs(&w.bucket, "home").unwrap_err();
    assert_eq!(ambiguous.kind(), ErrorKind::Conflict);
    assert!(find_deleted_fs(&w.bucket, "home").is_err());
}

#[test]
fn a_mark_of_a_deletion_that_cannot_be_read_is_damage_not_absence() {
    let w = World::new();
    delete_whole(&w, None).unwrap();
    undelete_fs(&w.bucket, &w.fs, LATER).unwrap();
    w.damage("deleted/fs.0001.end.json", "undone", "undine");
    let damaged = deletion(&w.bucket, &w.fs).unwrap_err();
    assert_eq!(damaged.kind(), ErrorKind::Damage);
    assert!(
        damaged.to_string().contains("fs.0001.end.json"),
        "{damaged}"
    );
    w.damage("deleted/fs.0001.json", "\"nth\": 1", "\"nth\": 2");
    assert_eq!(
        deletion(&w.bucket, &w.fs).unwrap_err().kind(),
        ErrorKind::Damage
    );
}
