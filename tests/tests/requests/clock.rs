use super::{create, request, until, until_it_is_tried_again};
use cbfs_tests::{Master, needs_fuse};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

const YEAR: i64 = 365 * 86_400;

/// A master whose daemon's clock the test sets.
struct Clocked {
    m: Master,
    offset: PathBuf,
}

impl Clocked {
    fn new() -> Clocked {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (_, offset) = file.keep().unwrap();
        let name = offset.to_str().unwrap().to_owned();
        let m = Master::with_environment(&[("CBFS_CLOCK_OFFSET_FILE", name)]);
        Clocked { m, offset }
    }

    /// The clock is so many seconds ahead from now on.
    fn set(&self, seconds: i64) {
        let new = self.offset.with_extension("new");
        fs::write(&new, seconds.to_string()).unwrap();
        fs::rename(new, &self.offset).unwrap();
    }

    fn change_and_snapshot(&self, text: &str) -> u64 {
        fs::write(self.m.at("file"), text).unwrap();
        self.m.snapshot()
    }

    /// Without the final `Z`: so the texts are in the order of the times, whatever zeros are left out.
    fn created_at(&self, number: u64) -> String {
        let snapshot = format!("{}@{number}", self.m.fs);
        let shown = self.m.node.json(["snapshot", "show", &snapshot]);
        let created = shown["manifest"]["created_at"].as_str().unwrap();
        created.strip_suffix('Z').unwrap().to_owned()
    }

    fn set_rules(&self, args: &[&str]) {
        let words = ["fs", "set", &self.m.fs].into_iter();
        self.m.node.ctl(words.chain(args.iter().copied())).ok();
    }

    fn problem(&self, wanted: &str) {
        until(&self.m, wanted, || {
            let status = self.m.node.ctl(["status"]).ok();
            status.contains(wanted).then_some(())
        });
    }

    fn listed(&self, args: &[&str]) -> Vec<Value> {
        let words = ["snapshot", "list", &self.m.fs].into_iter();
        let listed = self.m.node.json(words.chain(args.iter().copied()));
        listed.as_array().unwrap().clone()
    }

    fn deleted(&self) -> Vec<u64> {
        let all = self.listed(&["--all"]);
        let deleted = all.iter().filter(|s| s["deleted"] == true);
        deleted.map(|s| s["number"].as_u64().unwrap()).collect()
    }
}

impl Drop for Clocked {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.offset);
    }
}

#[test]
fn a_clock_that_jumps_back_a_year_orders_snapshots_all_the_same_and_deletes_none() {
    needs_fuse!();
    let c = Clocked::new();
    c.set_rules(&["--keep-last", "1"]);
    let first = c.change_and_snapshot("first");
    c.set(-YEAR);
    let second = c.change_and_snapshot("second");
    assert!(c.created_at(first) < c.created_at(second));
    c.problem("from the future");
    assert_eq!(c.deleted(), [] as [u64; 0]);
    // Periodic ones go on from the clock as it is now.
    c.set_rules(&["--every", "1s"]);
    let periodic = until(&c.m, "a periodic snapshot", || {
        let all = c.listed(&[]);
        let mut made = all.iter().filter(|s| s["request"]["kind"] == "periodic");
        made.find(|s| s["state"] == "complete")?["number"].as_u64()
    });
    c.set_rules(&["--no-schedule"]);
    assert!(c.created_at(second) < c.created_at(periodic));
    c.m.node.kill9();
    c.m.node.start();
    let last = c.change_and_snapshot("third");
    let created = c.created_at(last);
    assert_eq!(c.deleted(), [] as [u64; 0]);
    // Set right again: retention works, and the latest stays.
    c.set(0);
    let right = c.change_and_snapshot("fourth");
    assert!(created < c.created_at(right));
    let all_but_the_last = Vec::from_iter(1..right);
    until(&c.m, "retention", || {
        (c.deleted() == all_but_the_last).then_some(())
    });
    c.m.assert_snapshot_is(right, &c.m.fingerprint());
}

#[test]
fn retention_refuses_while_the_clocks_of_node_and_store_differ() {
    needs_fuse!();
    let c = Clocked::new();
    c.set(-600);
    c.change_and_snapshot("first");
    c.set_rules(&["--keep-last", "1"]);
    c.change_and_snapshot("second");
    c.problem("differ by more than 5 minutes");
    assert_eq!(c.deleted(), [] as [u64; 0]);
    c.set(-120);
    c.change_and_snapshot("third");
    until(&c.m, "retention", || (c.deleted() == [1, 2]).then_some(()));
    let health = c.m.node.json(["instance", "show", &c.m.fs])["health"].clone();
    assert_eq!(health, "ok");
}

#[test]
fn time_in_which_the_file_system_is_deleted_does_not_count_as_failing() {
    needs_fuse!();
    let c = Clocked::new();
    let m = &c.m;
    if !m.bucket.is_directory() {
        return; // it puts something in the way, which only a directory allows
    }
    m.node.stop();
    m.node.set("CBFS_EPOCH_CHECK", "0.2");
    m.node.start();
    let policy = "[retry_for]\nuser = \"1h\"\n";
    fs::write(m.instance_dir().join("policy.toml"), policy).unwrap();
    fs::write(m.at("file"), "contents").unwrap();
    let objects = m.bucket.dir().join(&m.fs).join("s");
    fs::write(&objects, "in the way").unwrap();
    let number = create(m, &[]);
    until_it_is_tried_again(m, number);
    let outsider = m.stage.node("outsider");
    let of_fs = |words: &[&str]| {
        let line = words.iter().copied().chain(["--bucket", m.bucket.url()]);
        outsider.ctl(line).ok();
    };
    of_fs(&[
        "fs",
        "delete",
        &m.fs,
        "--confirm",
        &m.fs,
        "--even-if-in-use",
    ]);
    until(m, "its waiting", || {
        let lines = m.status_lines(number);
        (lines.last().unwrap()["event"] == "fs_deleted").then_some(())
    });
    c.set(2 * 3600);
    let before = request(m, number)["retries"].as_u64();
    of_fs(&["fs", "undelete", &m.fs]);
    until(m, "the next failure", || {
        let request = request(m, number);
        assert_ne!(request["state"], "failed", "{request}");
        (request["retries"].as_u64() > before).then_some(())
    });
    fs::remove_file(&objects).unwrap();
    m.wait_for(number);
    m.assert_snapshot_is(number, &m.fingerprint());
}
