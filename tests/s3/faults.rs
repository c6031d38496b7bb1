//! What networks and stores do to a bucket costs patience, and never a byte: a fault proxy stands between daemon
//! and store, one test for each fault.

use super::server::Server;
use super::{PATIENCE, contract, create_and_mount, wait_until};
use cbfs_tests::fault_proxy::{Fault, FaultProxy, Rule};
use cbfs_tests::{Exactness, Fingerprint, Node, Stage, assert_same, needs_fuse, tree};
use rustix::io::Errno;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Large enough for several parts of a multipart upload.
const LARGE: usize = 20_000_000;

/// A master whose bucket is behind a fault proxy.
struct Scene {
    node: Node,
    fs: String,
    mnt: PathBuf,
    /// The bucket through the proxy, and directly.
    url: String,
    direct: String,
    proxy: FaultProxy,
    stage: Stage,
    server: Server,
}

impl Scene {
    fn new() -> Scene {
        let server = Server::start();
        let proxy = FaultProxy::start(server.address());
        let stage = Stage::new();
        let (node, mnt) = (stage.node("a"), stage.dir("mnt"));
        let (url, direct) = (server.url_through(&proxy, "faults"), server.url("faults"));
        let fs = create_and_mount(&node, &url, &mnt);
        Scene {
            node,
            fs,
            mnt,
            url,
            direct,
            proxy,
            stage,
            server,
        }
    }

    /// With a tree and a large file in it.
    fn filled() -> Scene {
        let scene = Scene::new();
        tree::build(&scene.mnt.join("tree"));
        fs::write(scene.mnt.join("large"), contract::noise(LARGE)).unwrap();
        scene
    }

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::take(&self.mnt, Exactness::Snapshot)
    }

    fn ask_for_snapshot(&self) {
        self.node.ctl(["snapshot", "create", &self.fs]).ok();
    }

    fn wait_for(&self, number: u64) {
        let snapshot = format!("{}@{number}", self.fs);
        let args = ["snapshot", "watch", &snapshot, "--timeout", "120"];
        self.node.ctl(args).ok();
    }

    /// The mount goes on, whatever the bucket does.
    fn the_mount_works(&self) {
        let file = self.mnt.join("written-meanwhile");
        fs::write(&file, b"hello").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"hello");
        fs::remove_file(&file).unwrap();
    }

    /// Wait until `status` says all of this of the instance; answers what it says.
    fn wait_until_status_says(&self, words: &[&str]) -> String {
        let mut said = String::new();
        let what = format!("status says {words:?}");
        wait_until(&what, || {
            said = self.node.json(["status"]).to_string();
            words.iter().all(|word| said.contains(word))
        });
        assert!(!said.contains("\"health\":\"ok\""), "{said}");
        said
    }

    /// Mount a snapshot on a node of its own.
    fn slave(&self, number: u64, url: &str) -> (Node, PathBuf) {
        let name = format!("slave-{number}");
        let (node, there) = (
            self.stage.node(&name),
            self.stage.dir(format!("{name}-mnt")),
        );
        node.start();
        let snapshot = format!("{}@{number}", self.fs);
        let dir = there.to_str().unwrap();
        node.ctl(["mount", &snapshot, dir, "--slave", "--bucket", url])
            .ok();
        (node, there)
    }

    /// A node that knows nothing finds exactly this in a snapshot, and all its objects are whole.
    fn snapshot_is(&self, number: u64, wanted: &Fingerprint) {
        let snapshot = format!("{}@{number}", self.fs);
        let verify = [
            "snapshot",
            "verify",
            &snapshot,
            "--deep",
            "--bucket",
            &self.direct,
        ];
        self.node.ctl(verify).ok();
        let (_node, there) = self.slave(number, &self.direct);
        let found = Fingerprint::take(&there, Exactness::Snapshot);
        assert_same(&format!("snapshot {number}"), wanted, &found);
    }

    /// A snapshot is asked for while a rule is in force, waits with these words in `status`, and is complete and exact
    /// once it is lifted.
    fn waits_then_finishes(&self, number: u64, rule: Rule, words: &[&str]) {
        let wanted = self.fingerprint();
        let rule = self.proxy.rule(rule);
        self.ask_for_snapshot();
        self.proxy.wait_until_met(rule, 2);
        self.the_mount_works();
        self.wait_until_status_says(words);
        // Not asked of the bucket, which may not answer anybody.
        let log = format!("instances/{}/status/{number:010}.jsonl", self.fs);
        let log = fs::read_to_string(self.node.state_dir().join(log)).unwrap();
        assert!(!log.contains("\"failed\""), "{log}");
        self.proxy.lift(rule);
        self.wait_for(number);
        self.snapshot_is(number, &wanted);
    }

    /// A snapshot is complete and exact although some requests met a fault.
    fn finishes_in_spite_of(&self, number: u64, rules: Vec<(Rule, u64)>) {
        let wanted = self.fingerprint();
        let rules: Vec<_> = rules
            .into_iter()
            .map(|(rule, times)| (self.proxy.rule(rule.times(times)), times))
            .collect();
        self.ask_for_snapshot();
        // What is written from here on comes after the cut.
        self.proxy.wait_until_met(rules[0].0, 1);
        self.the_mount_works();
        self.wait_for(number);
        for (rule, times) in rules {
            assert_eq!(self.proxy.met(rule), times, "{rule:?}");
        }
        self.snapshot_is(number, &wanted);
    }
}

fn refuse(status: u16, code: &'static str, retry_after: Option<u64>) -> Fault {
    Fault::Refuse {
        status,
        code,
        retry_after,
    }
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn in_a_storm_of_503_the_mount_works_and_the_snapshot_waits_and_finishes() {
    needs_fuse!();
    let scene = Scene::filled();
    let storm = Rule::every(refuse(503, "SlowDown", Some(1)));
    scene.waits_then_finishes(1, storm, &["503", "trying again"]);
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_snapshot_waits_for_credentials_that_are_refused_and_status_says_which_way() {
    needs_fuse!();
    let scene = Scene::filled();
    let expired = Rule::every(refuse(403, "ExpiredToken", None)).method("PUT");
    scene.waits_then_finishes(1, expired, &["refused", "the session has expired"]);
    fs::write(scene.mnt.join("more"), b"more").unwrap();
    let wrong = Rule::every(refuse(403, "SignatureDoesNotMatch", None)).method("PUT");
    scene.waits_then_finishes(2, wrong, &["refused", "the secret access key is wrong"]);
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_snapshot_waits_for_room_in_a_full_bucket() {
    needs_fuse!();
    let scene = Scene::filled();
    let full = Rule::every(refuse(507, "InsufficientStorage", None)).method("PUT");
    scene.waits_then_finishes(1, full, &["the bucket is full"]);
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_snapshot_whose_answers_are_lost_is_made_once_and_exact() {
    needs_fuse!();
    let scene = Scene::filled();
    let lost = |key: &str| Rule::every(Fault::LoseAnswer).method("PUT").key(key);
    scene.finishes_in_spite_of(1, vec![(lost("/s/"), 3), (lost("/m/"), 1)]);
    // Also again and again.
    scene.finishes_in_spite_of(2, vec![(lost("/m/"), 2)]);
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn an_upload_that_is_cut_or_delayed_arrives_whole() {
    needs_fuse!();
    let scene = Scene::filled();
    let cut = Rule::every(Fault::CutRequest).method("PUT").key("/s/");
    let late = Rule::every(Fault::Delay(Duration::from_millis(500))).method("PUT");
    scene.finishes_in_spite_of(1, vec![(cut, 3), (late, 3)]);
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_reader_gets_the_right_bytes_although_answers_are_cut_slow_refused_or_lost() {
    needs_fuse!();
    let scene = Scene::filled();
    let wanted = scene.fingerprint();
    scene.ask_for_snapshot();
    scene.wait_for(1);
    let (_node, there) = scene.slave(1, &scene.url);
    let slow = Fault::SlowAnswer {
        pieces: 4,
        pause: Duration::from_millis(100),
    };
    let faults = [
        Fault::CutAnswer,
        slow,
        refuse(503, "SlowDown", Some(1)),
        Fault::LoseAnswer,
    ];
    let on_reads = |fault| Rule::every(fault).method("GET").key(".tar.zst").times(2);
    let rules = faults.map(|fault| scene.proxy.rule(on_reads(fault)));
    let found = Fingerprint::take(&there, Exactness::Snapshot);
    assert_same("read through a bad network", &wanted, &found);
    for rule in rules {
        assert_eq!(scene.proxy.met(rule), 2, "{rule:?}");
    }
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn wrong_bytes_are_never_read_and_the_object_is_named() {
    needs_fuse!();
    let scene = Scene::filled();
    scene.ask_for_snapshot();
    scene.wait_for(1);
    let (node, there) = scene.slave(1, &scene.url);
    let wrong = Rule::every(Fault::WrongBytes).method("GET").key(".tar.zst");
    let wrong = scene.proxy.rule(wrong);
    let refused = fs::read(there.join("large")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(Errno::IO.raw_os_error()));
    assert!(scene.proxy.met(wrong) > 0);
    wait_until("the log names the object", || {
        node.log().contains(".tar.zst")
    });
    // What does not need that object works; and so does all of it, once the bytes are right.
    assert!(fs::read_dir(there.join("tree")).unwrap().count() > 0);
    scene.proxy.lift(wrong);
    assert!(fs::read(there.join("large")).unwrap() == contract::noise(LARGE));
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn while_the_store_is_stopped_the_mount_works_and_the_snapshot_finishes_when_it_goes_on() {
    needs_fuse!();
    let scene = Scene::filled();
    let wanted = scene.fingerprint();
    scene.proxy.take_seen();
    scene.server.pause();
    scene.ask_for_snapshot();
    let put = "the first object is on its way";
    wait_until(put, || {
        let seen = scene.proxy.take_seen();
        seen.iter().any(|request| request.method == "PUT")
    });
    scene.the_mount_works();
    scene.server.resume();
    scene.wait_for(1);
    scene.snapshot_is(1, &wanted);
}

#[test]
#[ignore = "needs an S3 server: tests/s3/run"]
fn a_store_that_is_killed_again_and_again_costs_time_only() {
    needs_fuse!();
    let mut scene = Scene::filled();
    let wanted = scene.fingerprint();
    // Slow enough that there is something to interrupt.
    let slow = Rule::every(Fault::Delay(Duration::from_millis(300))).method("PUT");
    let slow = scene.proxy.rule(slow);
    scene.ask_for_snapshot();
    let started = Instant::now();
    for round in 1..=3 {
        scene.proxy.wait_until_met(slow, round * 2);
        scene.server.kill9();
        scene.the_mount_works();
        scene.server.restart();
    }
    assert!(started.elapsed() < PATIENCE);
    scene.proxy.lift(slow);
    scene.wait_for(1);
    scene.snapshot_is(1, &wanted);
}
