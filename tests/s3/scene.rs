//! A master whose bucket is behind a fault proxy.

use super::server::Server;
use super::{contract, create_and_mount, wait_until};
use cbfs_tests::fault_proxy::{FaultProxy, Rule};
use cbfs_tests::{Exactness, Fingerprint, Node, Stage, assert_same, tree};
use std::fs;
use std::path::PathBuf;

/// Large enough for several parts of a multipart upload.
pub(crate) const LARGE: usize = 20_000_000;

/// A master whose bucket is behind a fault proxy.
pub(crate) struct Scene {
    pub(crate) node: Node,
    pub(crate) fs: String,
    pub(crate) mnt: PathBuf,
    /// The bucket through the proxy, and directly.
    pub(crate) url: String,
    pub(crate) direct: String,
    pub(crate) proxy: FaultProxy,
    pub(crate) stage: Stage,
    pub(crate) server: Server,
}

impl Scene {
    pub(crate) fn new() -> Scene {
        Scene::with_section("")
    }

    /// With these lines in the section of its bucket in the node's `cbfsd.toml`.
    fn with_section(lines: &str) -> Scene {
        let server = Server::start();
        let proxy = FaultProxy::start(server.address());
        let stage = Stage::new();
        let (node, mnt) = (stage.node("a"), stage.dir("mnt"));
        let (url, direct) = (server.url_through(&proxy, "faults"), server.url("faults"));
        let config = stage.path("a.toml");
        fs::write(&config, format!("[bucket.\"{url}\"]\n{lines}")).unwrap();
        node.set("CBFS_CONFIG", config.to_str().unwrap());
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
    pub(crate) fn filled() -> Scene {
        Scene::filled_with_section("")
    }

    /// Both.
    pub(crate) fn filled_with_section(lines: &str) -> Scene {
        let scene = Scene::with_section(lines);
        tree::build(&scene.mnt.join("tree"));
        fs::write(scene.mnt.join("large"), contract::noise(LARGE)).unwrap();
        scene
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::take(&self.mnt, Exactness::Snapshot)
    }

    pub(crate) fn ask_for_snapshot(&self) {
        self.node.ctl(["snapshot", "create", &self.fs]).ok();
    }

    pub(crate) fn wait_for(&self, number: u64) {
        let snapshot = format!("{}@{number}", self.fs);
        let args = ["snapshot", "watch", &snapshot, "--timeout", "120"];
        self.node.ctl(args).ok();
    }

    /// The mount goes on, whatever the bucket does.
    pub(crate) fn the_mount_works(&self) {
        let file = self.mnt.join("written-meanwhile");
        fs::write(&file, b"hello").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"hello");
        fs::remove_file(&file).unwrap();
    }

    /// What the node's status log of a snapshot says by now.
    pub(crate) fn status_log(&self, number: u64) -> String {
        let log = format!("instances/{}/status/{number:010}.jsonl", self.fs);
        fs::read_to_string(self.node.state_dir().join(log)).unwrap()
    }

    /// Wait until `status` says all of this of the instance; answers what it says.
    pub(crate) fn wait_until_status_says(&self, words: &[&str]) -> String {
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
    pub(crate) fn slave(&self, number: u64, url: &str) -> (Node, PathBuf) {
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
    pub(crate) fn snapshot_is(&self, number: u64, wanted: &Fingerprint) {
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
    pub(crate) fn waits_then_finishes(&self, number: u64, rule: Rule, words: &[&str]) {
        let wanted = self.fingerprint();
        let rule = self.proxy.rule(rule);
        self.ask_for_snapshot();
        self.proxy.wait_until_met(rule, 2);
        self.the_mount_works();
        self.wait_until_status_says(words);
        // Not asked of the bucket, which may not answer anybody.
        let log = self.status_log(number);
        assert!(!log.contains("\"failed\""), "{log}");
        self.proxy.lift(rule);
        self.wait_for(number);
        self.snapshot_is(number, &wanted);
    }

    /// A snapshot is complete and exact although some requests met a fault.
    pub(crate) fn finishes_in_spite_of(&self, number: u64, rules: Vec<(Rule, u64)>) {
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
