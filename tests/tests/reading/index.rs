use super::super::{Outsider, key_of, manifest, manifest_path, object};
use cbfs_tests::contents::noise;
use cbfs_tests::{Exactness, Fingerprint, Master, assert_same, needs_fuse, needs_tools};
use cbfs_tests::{tools, tree};
use rustix::fs::{FallocateFlags, fallocate};
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;

/// Three snapshots of a tree with everything in it, and one in which nothing changed.
fn history() -> Master {
    let m = Master::with_directory_bucket();
    tree::build(&m.dir("tree"));
    m.snapshot();
    tree::change(&m.at("tree"));
    m.snapshot();
    m.snapshot();
    let large = File::options()
        .write(true)
        .open(m.at("tree/sizes/noise-5242880"));
    let large = large.unwrap();
    large.write_all_at(&noise(7, 2_000_000), 1_500_000).unwrap();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&large, punch, 3 << 20, 1 << 20).unwrap();
    fs::remove_dir_all(m.at("tree/times")).unwrap();
    assert_eq!(m.snapshot(), 4);
    m
}

fn originals(report: &Value) -> Vec<&Value> {
    let snapshots = report.as_array().unwrap().iter();
    let objects = snapshots.flat_map(|s| s["objects"].as_array().unwrap());
    objects.map(|o| &o["original"]).collect()
}

#[test]
fn a_rebuilt_index_is_equal_to_the_original_row_by_row() {
    needs_fuse!();
    let m = history();
    let out = m.stage.path("index");
    let to = out.to_str().unwrap();
    let (report, code) = Outsider::of(&m).json(&["index", "rebuild", "home@4", "--to", to]);
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(originals(&report), ["equal"; 6], "{report:#}");
    assert_eq!(report[2]["objects"], Value::Array(Vec::new()));
    let rows: u64 = report[0]["objects"][1]["rows"].as_u64().unwrap();
    assert!(rows > 500, "{report:#}");
    // Once more into the same directory is refused.
    let ran = Outsider::of(&m).ctl(&["index", "rebuild", "home@4", "--to", to]);
    assert_eq!(ran.code, Some(11), "{ran:?}");
    let one = m.stage.path("one");
    let args = [
        "index",
        "rebuild",
        "home@2",
        "--only",
        "--to",
        one.to_str().unwrap(),
    ];
    let (report, _) = Outsider::of(&m).json(&args);
    assert_eq!(originals(&report), ["equal"; 2]);
}

#[test]
fn without_layers_tocs_and_a_manifest_the_rebuilt_index_mounts_exactly() {
    needs_fuse!();
    needs_tools!("cp");
    let m = history();
    let wanted = Fingerprint::take(&m.slave(4).mnt, Exactness::Snapshot);
    for number in [1, 2, 4] {
        fs::remove_file(object(&m, &key_of(&m, number, "toc"))).unwrap();
        let layer = manifest(&m, number)["layers"][0]["key"]
            .as_str()
            .unwrap()
            .to_owned();
        fs::remove_file(object(&m, &layer)).unwrap();
    }
    fs::remove_file(manifest_path(&m, 2)).unwrap();
    let outsider = Outsider::of(&m);
    let ran = outsider.ctl(&["snapshot", "verify", "home@4"]);
    assert_eq!(ran.code, Some(14), "{ran:?}");
    let out = m.stage.path("index");
    let args = ["index", "rebuild", "home@4", "--to", out.to_str().unwrap()];
    let (report, code) = outsider.json(&args);
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(originals(&report), ["missing"; 6], "{report:#}");
    assert_eq!(report[1]["manifest"], false);

    let copy = m.stage.path("copy");
    tools::run(Command::new("cp").arg("-r").arg(m.bucket.dir()).arg(&copy));
    tools::run(Command::new("cp").arg("-r").arg(out.join(".")).arg(&copy));
    let url = format!("file://{}", copy.display());
    let verified = outsider.ctl(&["snapshot", "verify", "home@4", "--deep", "--bucket", &url]);
    verified.ok();
    let node = m.stage.node("b");
    node.start();
    let mnt = m.stage.dir("rebuilt-mnt");
    let dir = mnt.to_str().unwrap();
    node.ctl(["mount", "home@4", dir, "--slave", "--bucket", &url])
        .ok();
    let found = Fingerprint::take(&mnt, Exactness::Snapshot);
    assert_same("the slave of the rebuilt index", &wanted, &found);
}

#[test]
fn a_damaged_original_and_a_damaged_tarball_are_named() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    fs::write(m.at("file"), noise(1, 500_000)).unwrap();
    m.snapshot();
    let outsider = Outsider::of(&m);
    let out = m.stage.path("index");
    let args = ["index", "rebuild", "home@1", "--to", out.to_str().unwrap()];
    let toc = key_of(&m, 1, "toc");
    let damage = |key: &str| {
        let path = object(&m, key);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
    };
    damage(&toc);
    let ran = outsider.ctl(&args);
    assert_eq!(ran.code, Some(14), "{ran:?}");
    assert!(ran.stdout.contains(&format!("✖ {toc}")), "{ran:?}");
    fs::remove_dir_all(&out).unwrap();
    let tarball = key_of(&m, 1, "meta_tarball").replace("0000.tar", "0001.tar");
    damage(&tarball);
    let ran = outsider.ctl(&args);
    assert_eq!(ran.code, Some(14), "{ran:?}");
    assert!(ran.stderr.contains(&tarball), "{ran:?}");
}

#[test]
fn index_show_counts_rows_sections_and_live_bytes() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    fs::write(m.at("large"), noise(1, 3 << 20)).unwrap();
    fs::write(m.at("small"), "small").unwrap();
    m.snapshot();
    fs::remove_file(m.at("large")).unwrap();
    fs::write(m.at("new"), "new").unwrap();
    m.snapshot();
    let outsider = Outsider::of(&m);
    let (shown, _) = outsider.json(&["index", "show", "home@2"]);
    let (newer, older) = (&shown["layers"][0], &shown["layers"][1]);
    assert_eq!(newer["rows"]["gone"], 1);
    assert_eq!(newer["rows"]["names_gone"], 1);
    assert_eq!(older["rows"]["names"], 2);
    assert_eq!(
        (&older["from"], &older["to"]),
        (&Value::from(1), &Value::from(1))
    );
    assert_eq!(older["rows"]["blocks"], 4);
    let first = &shown["tocs"][0];
    assert_eq!(first["snapshot"], 1);
    assert_eq!(first["live_sections"], 1);
    assert!(first["live_bytes"].as_u64().unwrap() < 2_000, "{shown:#}");
    assert!(first["stored_bytes"].as_u64().unwrap() > 3 << 20);
    let text = outsider.ctl(&["index", "show", "home@2"]).ok();
    assert!(text.contains("LAYER") && text.contains("TOC"), "{text}");
}
