use super::super::{Outsider, key_of, manifest, manifest_path, object};
use cbfs_tests::contents::noise;
use cbfs_tests::{Master, needs_fuse, tree};
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Two snapshots: `old-large` and `old-small` in the first; the second has a patch, a new file,
/// a rename and a change of mode.
fn two_snapshots() -> Master {
    let m = Master::with_directory_bucket();
    fs::write(m.dir("dir").join("first"), "first").unwrap();
    fs::write(m.at("dir/old-large"), noise(1, 2 << 20)).unwrap();
    fs::write(m.at("dir/old-small"), "small").unwrap();
    fs::write(m.at("dir/mode"), "mode").unwrap();
    m.snapshot();
    let large = File::options().write(true).open(m.at("dir/old-large"));
    large.unwrap().write_all_at(b"patch", 1 << 20).unwrap();
    fs::write(m.at("new"), noise(2, 400_000)).unwrap();
    fs::set_permissions(m.at("dir/mode"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(m.snapshot(), 2);
    m
}

/// Change an object for the time of a closure.
fn with_damage<T>(path: &Path, damage: impl FnOnce(&mut Vec<u8>), check: impl FnOnce() -> T) -> T {
    let good = fs::read(path).unwrap();
    let mut bad = good.clone();
    damage(&mut bad);
    let replace = |bytes: &[u8]| {
        fs::remove_file(path).unwrap();
        fs::write(path, bytes).unwrap();
    };
    replace(&bad);
    let answer = check();
    replace(&good);
    answer
}

fn flip(at: usize) -> impl FnOnce(&mut Vec<u8>) {
    move |bytes| {
        let at = at.min(bytes.len() - 1);
        bytes[at] ^= 0x10;
    }
}

fn files(finding: &Value) -> Vec<&str> {
    let files = finding["files"].as_array().unwrap();
    files.iter().map(|f| f["path"].as_str().unwrap()).collect()
}

/// The one finding of `snapshot verify ARGS`, which must be about the object `key`.
fn only_finding(m: &Master, args: &[&str], key: &str) -> Value {
    let args: Vec<&str> = ["snapshot", "verify"].iter().chain(args).copied().collect();
    let (report, code) = Outsider::of(m).json(&args);
    assert_eq!(code, Some(14), "{report:#}");
    assert_eq!(report["whole"], false);
    let findings = report["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 1, "{report:#}");
    let object = findings[0]["object"].as_str().unwrap();
    assert_eq!(object, format!("{}/{key}", m.fs), "{report:#}");
    findings[0].clone()
}

fn data_tarball(m: &Master, number: u64) -> String {
    let meta = key_of(m, number, "meta_tarball");
    meta.replace("0000.tar.zst", "0001.tar.zst")
}

#[test]
fn a_whole_snapshot_verifies_without_a_daemon() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    tree::build(&m.dir("tree"));
    m.snapshot();
    tree::change(&m.at("tree"));
    m.snapshot();
    m.snapshot(); // nothing changed: a manifest alone
    let outsider = Outsider::of(&m);
    for snapshot in ["home@1", "home@2", "home@latest"] {
        for depth in [&[][..], &["--deep"]] {
            let args = [&["snapshot", "verify", snapshot], depth].concat();
            let (report, code) = outsider.json(&args);
            assert_eq!(code, Some(0), "{report:#}");
            assert_eq!(report["findings"], Value::Array(Vec::new()));
            assert_eq!(report["sections"].as_u64().unwrap() > 0, depth.len() == 1);
            assert!(report["extents"].as_u64().unwrap() > 10, "{report}");
        }
    }
    let text = outsider.ctl(&["snapshot", "verify", "home"]).ok();
    assert!(text.contains("snapshot 3 is whole"), "{text}");
}

#[test]
fn a_flipped_byte_in_any_object_is_found_and_named_with_the_files_it_holds() {
    needs_fuse!();
    let m = two_snapshots();
    let layer = |number: u64| {
        let layer = &manifest(&m, number)["layers"][0]["key"];
        layer.as_str().unwrap().to_owned()
    };
    let changed = ["", "dir/mode", "dir/old-large", "new"];
    let first = [
        "dir",
        "dir/first",
        "dir/mode",
        "dir/old-large",
        "dir/old-small",
    ];
    let cases: [(String, Vec<&str>); 7] = [
        (key_of(&m, 2, "toc"), vec!["dir/old-large", "new"]),
        (key_of(&m, 1, "toc"), first[1..].to_vec()),
        (layer(2), changed.to_vec()),
        (layer(1), [&[""], &first[..]].concat()),
        (key_of(&m, 2, "meta_tarball"), changed.to_vec()),
        (key_of(&m, 2, "log"), vec![]),
        ("m/0000000002-e1.json".to_owned(), vec![]),
    ];
    for (key, holds) in &cases {
        let path = object(&m, key);
        let size = fs::read(&path).unwrap().len();
        for at in [0, size / 2, size - 1] {
            let finding = with_damage(&path, flip(at), || only_finding(&m, &["home@2"], key));
            assert_eq!(files(&finding), *holds, "byte {at}: {finding:#}");
            assert!(!finding["holds"].as_str().unwrap().is_empty());
        }
    }
    // Contents are read with --deep only.
    for (number, at, holds) in [
        (1, 100, "dir/first"),
        (1, 600_000, "dir/old-large"),
        (2, 100_000, "new"),
        (2, 900_000, "dir/old-large"),
    ] {
        let key = data_tarball(&m, number);
        let path = object(&m, &key);
        with_damage(&path, flip(at), || {
            let (report, code) = Outsider::of(&m).json(&["snapshot", "verify", "home@2"]);
            assert_eq!(code, Some(0), "{report:#}");
            let finding = only_finding(&m, &["home@2", "--deep"], &key);
            assert_eq!(files(&finding), [holds], "{number}: {finding:#}");
            assert_eq!(finding["problem"], "contents");
        });
    }
    // A hold is one more object of the snapshot. The mark of a deleted snapshot says all by its name.
    let mark = "holds/0000000002-e1.0001.json";
    m.node.ctl(["snapshot", "hold", "home@2"]).ok();
    let path = object(&m, mark);
    let size = fs::read(&path).unwrap().len();
    for at in [0, size / 2, size - 1] {
        let finding = with_damage(&path, flip(at), || only_finding(&m, &["home@2"], mark));
        assert!(files(&finding).is_empty(), "byte {at}: {finding:#}");
    }
    m.node
        .ctl(["snapshot", "delete", "home@1", "--confirm", &m.fs])
        .ok();
    let mark = object(&m, "deleted/0000000001-e1.json");
    with_damage(&mark, flip(10), || {
        let listed = m.node.json(["snapshot", "list", "home"]);
        let numbers: Vec<_> = listed
            .as_array()
            .unwrap()
            .iter()
            .map(|s| &s["number"])
            .collect();
        assert_eq!(numbers, [2], "{listed:#}");
    });
    // All is as before.
    let (report, code) = Outsider::of(&m).json(&["snapshot", "verify", "home@2", "--deep"]);
    assert_eq!(code, Some(0), "{report:#}");
}

#[test]
fn a_flipped_byte_in_a_merged_layer_is_named_with_the_files_of_all_its_snapshots() {
    needs_fuse!();
    let m = two_snapshots();
    let merged = |number: u64| {
        let layers = manifest(&m, number)["layers"].clone();
        let keys = layers.as_array().unwrap().iter();
        let mut keys = keys.map(|l| l["key"].as_str().unwrap().to_owned());
        keys.find(|key| key.starts_with("layers/"))
    };
    // Merges are made beside snapshots: some later one lists the first.
    let (number, key) = (3..200)
        .find_map(|n| {
            fs::write(m.at("counter"), n.to_string()).unwrap();
            assert_eq!(m.snapshot(), n);
            merged(n).map(|key| (n, key))
        })
        .expect("layers are merged");
    let snapshot = format!("home@{number}");
    let path = object(&m, &key);
    let size = fs::read(&path).unwrap().len();
    let all = [
        "",
        "counter",
        "dir",
        "dir/first",
        "dir/mode",
        "dir/old-large",
        "dir/old-small",
        "new",
    ];
    for at in [0, size / 2, size - 1] {
        let finding = with_damage(&path, flip(at), || only_finding(&m, &[&snapshot], &key));
        assert_eq!(files(&finding), all, "byte {at}: {finding:#}");
        let holds = finding["holds"].as_str().unwrap();
        assert!(holds.contains("in snapshots 1 to "), "{finding:#}");
        assert!(!holds.contains("cannot be told"), "{finding:#}");
    }
    // Where one of their metadata tarballs is gone too, that is said.
    let tarball = object(&m, &key_of(&m, 1, "meta_tarball"));
    let aside = tarball.with_extension("aside");
    fs::rename(&tarball, &aside).unwrap();
    let finding = with_damage(&path, flip(0), || only_finding(&m, &[&snapshot], &key));
    fs::rename(&aside, &tarball).unwrap();
    let holds = finding["holds"].as_str().unwrap();
    assert!(
        holds.contains("further files cannot be told"),
        "{finding:#}"
    );
    assert!(files(&finding).contains(&"new"), "{finding:#}");
}

#[test]
fn a_flipped_byte_in_what_all_snapshots_share_is_found_and_the_object_named() {
    needs_fuse!();
    let m = two_snapshots();
    m.node.ctl(["fs", "set", "home", "--keep-last", "9"]).ok();
    // A second epoch, with its claim and its base.
    let node = m.stage.node("b");
    node.start();
    let url = m.bucket.url();
    let promote = ["epoch", "promote", &m.fs, "--previous-epoch", "1"];
    let confirm = ["--confirm", &m.fs, "--bucket", url];
    node.ctl(promote.iter().chain(&confirm)).ok();
    let config = m.bucket.dir().join(format!("{}.config", m.fs));
    let whole = Outsider::of(&m).ctl(&["snapshot", "verify", "home@2"]);
    assert_eq!(whole.code, Some(0), "{whole:?}");
    let cases: [(PathBuf, &str, &[&str]); 5] = [
        (config, ".config", &["snapshot", "verify", "home@2"]),
        (
            object(&m, "epochs/00001.json"),
            "epochs/00001.json",
            &["snapshot", "verify", "home@2"],
        ),
        (
            object(&m, "epochs/00002.json"),
            "epochs/00002.json",
            &["snapshot", "verify", "home@2"],
        ),
        (
            object(&m, "epochs/00002.base.json"),
            "epochs/00002.base.json",
            &["snapshot", "verify", "home@2"],
        ),
        // Snapshots do without it.
        (
            object(&m, "config/000001.json"),
            "config/000001.json",
            &["fs", "show", "home"],
        ),
    ];
    for (path, key, args) in cases {
        let size = fs::read(&path).unwrap().len();
        for at in [0, size / 2, size - 2] {
            let ran = with_damage(&path, flip(at), || Outsider::of(&m).ctl(args));
            assert_eq!(ran.code, Some(14), "{key}, byte {at}: {ran:?}");
            let said = ran.stdout.clone() + &ran.stderr;
            assert!(said.contains(key), "{key}, byte {at}: {ran:?}");
        }
    }
}

#[test]
fn an_object_cut_short_or_missing_is_found_without_reading_contents() {
    needs_fuse!();
    let m = two_snapshots();
    let keys: Vec<String> = ["toc", "meta_tarball", "log"]
        .iter()
        .map(|what| key_of(&m, 2, what))
        .chain([data_tarball(&m, 1), data_tarball(&m, 2)])
        .collect();
    for key in &keys {
        let path = object(&m, key);
        let cut = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2);
        let finding = with_damage(&path, cut, || only_finding(&m, &["home@2"], key));
        assert_eq!(finding["problem"], "length");
        let aside = path.with_extension("aside");
        fs::rename(&path, &aside).unwrap();
        let finding = only_finding(&m, &["home@2"], key);
        assert_eq!(finding["problem"], "missing");
        if key.ends_with("0001.tar.zst") {
            assert!(files(&finding).contains(&"dir/old-large"), "{finding:#}");
        }
        fs::rename(&aside, &path).unwrap();
    }
    // What lies before the cut is not lost.
    let path = object(&m, &data_tarball(&m, 1));
    let cut = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - 2000);
    let key = data_tarball(&m, 1);
    let finding = with_damage(&path, cut, || only_finding(&m, &["home@1"], &key));
    assert!(!files(&finding).contains(&"dir/first"), "{finding:#}");

    // A manifest that a later snapshot builds on is known to be missing; one that never was is not.
    let path: PathBuf = manifest_path(&m, 1);
    let aside = path.with_extension("aside");
    fs::rename(&path, &aside).unwrap();
    let finding = only_finding(&m, &["home@1"], "m/0000000001-e1.json");
    assert_eq!(finding["problem"], "missing");
    fs::rename(&aside, &path).unwrap();
    let ran = Outsider::of(&m).ctl(&["snapshot", "verify", "home@7"]);
    assert_eq!(ran.code, Some(10), "{ran:?}");
}

#[test]
fn a_long_status_log_is_an_object_that_verify_checks_and_a_short_one_stands_in_the_manifest() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    m.node.stop();
    // Small tarballs: many lines.
    m.node.set("CBFS_PROXY_LIMIT", "8M");
    m.node.start();
    fs::write(m.at("small"), "small").unwrap();
    m.snapshot();
    let short = manifest(&m, 1);
    assert!(short["status"].is_null(), "{short:#}");
    let log = short["status_log"].as_str().unwrap();
    let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!(last["state"], "written", "{log}");

    fs::create_dir(m.at("large")).unwrap();
    for number in 0..60 {
        fs::write(m.at(format!("large/{number}")), noise(number, 1 << 20)).unwrap();
    }
    m.snapshot();
    let long = manifest(&m, 2);
    assert!(long["status_log"].is_null(), "{long:#}");
    let key = key_of(&m, 2, "status");
    let path = object(&m, &key);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.len() > 8 << 10, "{text}");
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["state"], "written", "{text}");
    for number in ["home@1", "home@2"] {
        let (report, code) = Outsider::of(&m).json(&["snapshot", "verify", number]);
        assert_eq!(code, Some(0), "{report:#}");
        let shown = Outsider::of(&m).ctl(&["snapshot", "show", number, "--all"]);
        assert!(shown.ok().contains("▶ written"));
    }
    with_damage(&path, flip(100), || only_finding(&m, &["home@2"], &key));
    let aside = path.with_extension("aside");
    fs::rename(&path, &aside).unwrap();
    let finding = only_finding(&m, &["home@2"], &key);
    assert_eq!(finding["problem"], "missing");
    fs::rename(&aside, &path).unwrap();
}

#[test]
fn verify_of_a_bucket_that_is_gone_is_no_damage() {
    needs_fuse!();
    let m = two_snapshots();
    let dir = m.bucket.dir();
    let aside = dir.with_extension("aside");
    fs::rename(dir, &aside).unwrap();
    let ran = Outsider::of(&m).ctl(&["snapshot", "verify", "home@2"]);
    fs::rename(&aside, dir).unwrap();
    assert_eq!(ran.code, Some(5), "{ran:?}");
}

#[test]
fn the_text_names_object_and_files_and_the_error_says_what_to_do() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    let odd = "odd \"name\"\nof a file";
    fs::write(m.at(odd), noise(1, 300_000)).unwrap();
    m.snapshot();
    let key = data_tarball(&m, 1);
    fs::remove_file(object(&m, &key)).unwrap();
    let ran = Outsider::of(&m).ctl(&["snapshot", "verify", "home@1"]);
    assert_eq!(ran.code, Some(14), "{ran:?}");
    assert!(ran.stdout.contains(&key), "{ran:?}");
    let quoted = "\"/odd \\\"name\\\"\\nof a file\"";
    assert!(ran.stdout.contains(quoted), "{ran:?}");
    assert!(ran.stderr.contains("hint:"), "{ran:?}");
}
