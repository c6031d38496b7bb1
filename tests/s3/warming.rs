//! A fetch in advance that waits for the store holds up nothing, and leaves nothing behind.

use super::scene::Scene;
use cbfs_tests::fault_proxy::{Fault, Rule, RuleId};
use cbfs_tests::{Node, Ran, needs_fuse};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

/// A slave of a snapshot, of whose tarballs the store answers nothing while the rule is in force.
fn slave(scene: &Scene) -> (Node, PathBuf, RuleId) {
    scene.ask_for_snapshot();
    scene.wait_for(1);
    let (node, mnt) = scene.slave(1, &scene.url);
    let hold = Rule::every(Fault::Hold).method("GET").key(".tar.zst");
    let hold = scene.proxy.rule(hold);
    (node, mnt, hold)
}

/// Warm the mount, and when that waits for the store do `meanwhile`; answers how it ended.
fn warm(scene: &Scene, node: &Node, mnt: &Path, hold: RuleId, meanwhile: impl FnOnce()) -> Ran {
    thread::scope(|scope| {
        let warming = scope.spawn(|| node.ctl(["warm", mnt.to_str().unwrap(), "large"]));
        scene.proxy.wait_until_met(hold, 1);
        meanwhile();
        scene.proxy.lift(hold);
        warming.join().unwrap()
    })
}

fn instances(node: &Node) -> usize {
    let dir = node.state_dir().join("instances");
    fs::read_dir(dir).unwrap().count()
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_slave_that_is_unmounted_while_it_is_warmed_is_gone() {
    needs_fuse!();
    let scene = Scene::filled();
    let (node, mnt, hold) = slave(&scene);
    let gone = warm(&scene, &node, &mnt, hold, || {
        node.ctl(["umount", mnt.to_str().unwrap()]).ok();
        assert_eq!(instances(&node), 0);
    });
    gone.fails(11, &["unmounted or deleted"]);
    assert_eq!(instances(&node), 0, "what was fetched came back");
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn an_instance_that_is_deleted_while_it_is_warmed_is_gone() {
    needs_fuse!();
    let scene = Scene::filled();
    let (node, mnt, hold) = slave(&scene);
    let gone = warm(&scene, &node, &mnt, hold, || {
        let id = format!("{}@1", scene.fs);
        node.ctl(["instance", "delete", &id, "--confirm", &scene.fs])
            .ok();
        assert_eq!(instances(&node), 0);
    });
    gone.fails(11, &["unmounted or deleted"]);
    assert_eq!(instances(&node), 0, "what was fetched came back");
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_daemon_that_warms_stops_at_once() {
    needs_fuse!();
    let scene = Scene::filled();
    let (node, mnt, hold) = slave(&scene);
    let stopped = warm(&scene, &node, &mnt, hold, || node.stop());
    stopped.fails(4, &["the daemon is stopping"]);
    node.start();
    node.ctl(["warm", mnt.to_str().unwrap(), "large"]).ok();
}
