//! An upload in parts outlives the daemon: what has arrived is not sent again, and nothing is left over.

use super::scene::Scene;
use super::{contract, wait_until};
use cbfs_tests::fault_proxy::{Fault, Rule, Seen};
use cbfs_tests::needs_fuse;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// More than five parts of the smallest size S3 has: what is smaller is one PUT.
const OBJECT: usize = 40_000_000;
const PART: &str = "5M";

/// The daemon's notes of uploads under way.
fn notes(scene: &Scene) -> Vec<PathBuf> {
    let dir = scene.node.state_dir().join("instances").join(&scene.fs);
    let notes = fs::read_dir(dir.join("uploads")).into_iter().flatten();
    notes.map(|entry| entry.unwrap().path()).collect()
}

/// The numbers of the parts that are noted as arrived.
fn noted(scene: &Scene) -> Vec<u64> {
    let text = notes(scene).pop().map(fs::read_to_string);
    let text = text.and_then(Result::ok).unwrap_or_default();
    let lines = text.lines().skip(1).map(serde_json::from_str::<Value>);
    lines
        .map_while(Result::ok)
        .filter_map(|line| line["number"].as_u64())
        .collect()
}

/// Number and times of the parts that were sent.
fn parts_in(seen: &[Seen]) -> BTreeMap<u64, usize> {
    let mut parts = BTreeMap::new();
    for request in seen.iter().filter(|r| r.method == "PUT") {
        let number = request.target.split(['?', '&']).find_map(|argument| {
            let number = argument.strip_prefix("partNumber=")?;
            number.parse::<u64>().ok()
        });
        if let Some(number) = number {
            *parts.entry(number).or_default() += 1;
        }
    }
    parts
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_daemon_killed_in_a_multipart_upload_sends_no_finished_part_again_and_leaves_nothing_over() {
    needs_fuse!();
    let scene = Scene::new();
    // Small parts, one after the other.
    let (place, endpoint) = scene.url.split_once('?').unwrap();
    let endpoint = endpoint.strip_prefix("endpoint=").unwrap();
    let config = scene.stage.path("cbfsd.toml");
    let section = format!(
        "[bucket.\"{place}\"]\nendpoint = \"{endpoint}\"\npart_size = \"{PART}\"\nparallel_parts = 1\n"
    );
    fs::write(&config, section).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    scene.node.stop();
    scene.node.set("CBFS_CONFIG", config.to_str().unwrap());
    scene.node.start();
    fs::write(scene.mnt.join("large"), contract::noise(OBJECT)).unwrap();
    let wanted = scene.fingerprint();

    // The fourth part never arrives.
    let hold = Rule::every(Fault::Hold).method("PUT").key("partNumber=4");
    let hold = scene.proxy.rule(hold);
    scene.proxy.take_seen();
    scene.ask_for_snapshot();
    scene.proxy.wait_until_met(hold, 1);
    wait_until("three parts are noted", || noted(&scene) == [1, 2, 3]);
    let before = scene.proxy.take_seen();
    scene.node.kill9();
    scene.proxy.lift(hold);
    assert_eq!(Vec::from_iter(parts_in(&before).into_keys()), [1, 2, 3, 4]);

    scene.node.start();
    scene.wait_for(1);
    let after = scene.proxy.take_seen();
    let parts = parts_in(&after);
    assert_eq!(Vec::from_iter(parts.keys().copied()), [4, 5, 6, 7, 8]);
    assert!(parts.values().all(|times| *times == 1), "{parts:?}");
    let begins = |r: &&Seen| r.method == "POST" && r.target.contains("?uploads");
    let begun = |seen: &[Seen]| seen.iter().filter(begins).count();
    assert_eq!((begun(&before), begun(&after)), (1, 0), "{after:#?}");
    scene.snapshot_is(1, &wanted);
    // Neither here nor in the store.
    assert_eq!(notes(&scene), Vec::<PathBuf>::new());
    assert_eq!(scene.server.uploads_under_way(), Vec::<String>::new());
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_multipart_upload_of_a_cancelled_snapshot_is_aborted() {
    needs_fuse!();
    let scene = Scene::new();
    // More than what goes as one PUT otherwise.
    let size = 90 << 20;
    fs::write(scene.mnt.join("large"), contract::noise(size)).unwrap();
    let hold = Rule::every(Fault::Hold).method("PUT").key("partNumber=2");
    let hold = scene.proxy.rule(hold);
    scene.ask_for_snapshot();
    scene.proxy.wait_until_met(hold, 1);
    assert_eq!(scene.server.uploads_under_way().len(), 1);
    let snapshot = format!("{}@1", scene.fs);
    scene.node.ctl(["snapshot", "cancel", &snapshot]).ok();
    wait_until("the upload is aborted", || {
        scene.server.uploads_under_way().is_empty() && notes(&scene).is_empty()
    });
}
