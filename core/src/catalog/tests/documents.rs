//! Documents that nothing else holds a hash of, and settings over versions of CBFS.

use super::*;

/// Nothing else holds a hash of these: their own seal must tell.
#[test]
fn no_byte_of_a_configuration_claim_base_or_settings_changes_unseen() {
    let world = World::new();
    let (bucket, fs) = (&world.bucket, &world.fs);
    for epoch in 1..=2 {
        claim_epoch(bucket, fs, &world.claim(epoch, "node")).unwrap();
    }
    settle_base(bucket, fs, Epoch(2)).unwrap();
    change_settings(bucket, fs, &world.fixed, |settings| {
        settings.retention.last = 7
    })
    .unwrap();
    type Read<'a> = &'a dyn Fn() -> crate::Result<String>;
    let documents: [(PathBuf, Read<'_>); 4] = [
        (world.dir.path().join(format!("{fs}.config")), &|| {
            load_config(bucket, fs).map(|c| format!("{c:?}"))
        }),
        (world.path(&keys::epoch_claim(Epoch(2))), &|| {
            epoch_claim(bucket, fs, Epoch(2)).map(|c| format!("{c:?}"))
        }),
        (world.path(&keys::epoch_base(Epoch(2))), &|| {
            epoch_base(bucket, fs, Epoch(2)).map(|b| format!("{b:?}"))
        }),
        (world.path(&keys::settings(1)), &|| {
            settings(bucket, fs).map(|s| format!("{:?}", (s.schedule, s.retention)))
        }),
    ];
    for (path, read) in documents {
        let written = std::fs::read(&path).unwrap();
        assert_eq!(format::seal_of(&written), format::Seal::Intact, "{path:?}");
        let good = read().unwrap();
        for at in 0..written.len() {
            let mut flipped = written.clone();
            flipped[at] ^= 1;
            std::fs::write(&path, flipped).unwrap();
            if let Ok(read) = read() {
                // The name of the seal itself was hit; what it is for was not.
                assert_eq!(read, good, "byte {at} of {path:?}");
            }
        }
        std::fs::write(&path, written).unwrap();
    }
}

#[test]
fn settings_are_versions_that_keep_what_they_do_not_know() {
    let w = World::new();
    assert_eq!(settings(&w.bucket, &w.fs).unwrap().version, 0);
    let every = |text: &str| Some(crate::schedule::Schedule::Every(text.parse().unwrap()));
    let change = |s: &mut FsSettings| s.schedule = every("1h");
    let first = change_settings(&w.bucket, &w.fs, &w.fixed, change).unwrap();
    assert_eq!((first.version, first.schedule), (1, every("1h")));
    // As a later CBFS writes it.
    let path = w.path("config/000001.json");
    let mut document: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let fields = document.as_object_mut().unwrap();
    fields.remove(format::SEAL);
    fields.insert("later".to_owned(), serde_json::json!([7]));
    std::fs::write(&path, format::to_sealed_json(&document).unwrap()).unwrap();
    let change = |s: &mut FsSettings| s.retention.daily = 7;
    change_settings(&w.bucket, &w.fs, &w.fixed, change).unwrap();
    let now = settings(&w.bucket, &w.fs).unwrap();
    assert_eq!(
        (now.version, now.schedule, now.retention.daily),
        (2, every("1h"), 7)
    );
    assert_eq!(now.other["later"][0], 7);
    assert_eq!(now.other.len(), 1);
    w.damage("config/000002.json", "\"version\": 2", "\"version\": 3");
    assert_eq!(
        settings(&w.bucket, &w.fs).unwrap_err().kind(),
        ErrorKind::Damage
    );
}
