//! A fetch in advance that waits for the store holds up nothing, and leaves nothing behind.

use super::scene::Scene;
use cbfs_tests::fault_proxy::{Fault, Rule, RuleId};
use cbfs_tests::{Node, Ran, needs_fuse, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
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

/// While a slave is warmed it is ended by `end`, and nothing of it comes back.
fn is_gone_after(end: impl FnOnce(&Scene, &Node, &Path)) {
    let scene = Scene::filled();
    let (node, mnt, hold) = slave(&scene);
    let gone = warm(&scene, &node, &mnt, hold, || {
        end(&scene, &node, &mnt);
        assert_eq!(instances(&node), 0);
    });
    gone.fails(11, &["unmounted or deleted"]);
    assert_eq!(instances(&node), 0, "what was fetched came back");
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_slave_that_is_unmounted_while_it_is_warmed_is_gone() {
    needs_fuse!();
    is_gone_after(|_, node, mnt| {
        node.ctl(["umount", mnt.to_str().unwrap()]).ok();
    });
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn an_instance_that_is_deleted_while_it_is_warmed_is_gone() {
    needs_fuse!();
    is_gone_after(|scene, node, _| {
        let id = format!("{}@1", scene.fs);
        node.ctl(["instance", "delete", &id, "--confirm", &scene.fs])
            .ok();
    });
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_slave_that_is_warmed_while_it_is_promoted_leaves_nothing_when_the_mount_ends() {
    needs_fuse!();
    let scene = Scene::filled();
    let (node, mnt, hold) = slave(&scene);
    let gone = warm(&scene, &node, &mnt, hold, || {
        let fs = &scene.fs;
        let promote = ["epoch", "promote", fs, "--previous-epoch", "1", "--confirm"];
        let bucket = [fs, "--bucket", &scene.url];
        node.ctl(promote.into_iter().chain(bucket)).ok();
        node.ctl(["umount", mnt.to_str().unwrap()]).ok();
        assert_eq!(instances(&node), 1, "the master");
    });
    gone.fails(11, &["unmounted or deleted"]);
    assert_eq!(instances(&node), 1, "the slave's directory came back");
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn an_interrupted_warm_ends_at_once_also_within_a_large_file() {
    needs_fuse!();
    let scene = Scene::filled();
    let (node, mnt, hold) = slave(&scene);
    let mut command = node.command();
    command
        .args(["warm", mnt.to_str().unwrap(), "large"])
        .process_group(0)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut warming = command.spawn().unwrap();
    scene.proxy.wait_until_met(hold, 1);
    let pid = Pid::from_child(&warming);
    kill_process(pid, Signal::INT).unwrap();
    // The store still does not answer.
    let mut ended = None;
    wait_until("the end of the interrupted warm", || {
        ended = warming.try_wait().unwrap();
        ended.is_some()
    });
    assert_eq!(ended.unwrap().code(), Some(130));
    let met = scene.proxy.met(hold);
    scene.proxy.lift(hold);
    assert!(met <= 8, "{met} requests");
    node.ctl(["warm", mnt.to_str().unwrap(), "large"]).ok();
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
