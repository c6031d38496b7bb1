//! docs/promotion.md, followed word by word: the commands of its blocks as they stand, on a terminal, by a person who
//! answers `y`. Only the placeholders that it names are replaced: paths, and the number of the epoch.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too

use cbfs_tests::{Exactness, contents::noise};
use cbfs_tests::{Fingerprint, Node, Ran, Stage, assert_same, cbfsctl, needs_fuse, needs_tools};
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// For what comes by itself, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The blocks of commands below the heading that begins like this.
fn blocks(heading: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/promotion.md");
    let text = fs::read_to_string(path).unwrap();
    let start = format!("## {heading}");
    let mut lines = text.lines().skip_while(|line| !line.starts_with(&start));
    lines
        .next()
        .unwrap_or_else(|| panic!("no section {start:?}"));
    let mut section = lines.take_while(|line| !line.starts_with("## "));
    let mut found = Vec::new();
    while section.any(|line| line == "```sh") {
        let block = section.by_ref().take_while(|line| *line != "```");
        found.push(block.fold(String::new(), |all, line| all + line + "\n"));
    }
    assert!(!found.is_empty(), "nothing to do in {start:?}");
    found
}

/// A machine, and a person at its terminal.
struct Desk {
    node: Node,
    dir: PathBuf,
    /// Where all machines find the bucket.
    bucket: String,
}

impl Desk {
    fn new(stage: &Stage, name: &str) -> Desk {
        let node = stage.node(name);
        node.set("CBFS_EPOCH_CHECK", "0.2");
        let dir = stage.dir(format!("desk-{name}"));
        for sub in ["bin", "mnt/home", "root"] {
            fs::create_dir_all(dir.join(sub)).unwrap();
        }
        symlink(cbfsctl(), dir.join("bin/cbfsctl")).unwrap();
        let bucket = format!("file://{}", stage.dir("srv/bucket").display());
        node.set("CBFS_BUCKET", &bucket);
        node.start();
        Desk { node, dir, bucket }
    }

    fn mnt(&self) -> PathBuf {
        self.dir.join("mnt/home")
    }

    /// Type these commands into a terminal, `previous` in the place of the epoch's number, and answer `y` to what they ask.
    /// All must succeed; answers what stood on the screen.
    fn types(&self, block: &str, previous: u32) -> String {
        let here = |path: &str| format!(" {}{path}", self.dir.display());
        let script = block
            .replace("file:///srv/bucket", &self.bucket)
            .replace(" /mnt/", &here("/mnt/"))
            .replace(" /root/", &here("/root/"))
            .replace(
                "--previous-epoch 1",
                &format!("--previous-epoch {previous}"),
            );
        let file = self.dir.join("typed.sh");
        fs::write(&file, format!("set -eu\n{script}")).unwrap();
        let command = format!("sh {}", file.display());
        let mut terminal = self.node.environment_of(Command::new("script"));
        let path = std::env::var("PATH").unwrap();
        let mut running = terminal
            .args(["-qec", &command, "/dev/null"])
            .env("PATH", format!("{}/bin:{path}", self.dir.display()))
            .env("TERM", "dumb")
            .current_dir(&self.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut keyboard = running.stdin.take().unwrap();
        keyboard.write_all(b"y\n").unwrap();
        // The keyboard stays plugged in until the screen is dark.
        let output = running.wait_with_output().unwrap();
        drop(keyboard);
        let screen = String::from_utf8_lossy(&output.stdout).replace('\r', "");
        assert!(output.status.success(), "{script}\n{screen}");
        screen
    }
}

fn has(screen: &str, words: &[&str]) {
    for word in words {
        assert!(screen.contains(word), "no {word:?} in:\n{screen}");
    }
}

fn fingerprint(mnt: &Path) -> Fingerprint {
    Fingerprint::take(mnt, Exactness::Snapshot)
}

fn wait_until_fenced(desk: &Desk) {
    let begun = Instant::now();
    loop {
        let said = desk.node.ctl(["status"]).ok();
        if said.contains("fenced") {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "never fenced: {said}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The file system `home` on the machine alfa, with a snapshot, and something that no snapshot has.
fn alfa(stage: &Stage) -> (Desk, Fingerprint) {
    let alfa = Desk::new(stage, "alfa");
    alfa.types("cbfsctl fs create home\ncbfsctl mount home /mnt/home\n", 1);
    fs::write(alfa.mnt().join("text"), "published\n").unwrap();
    fs::write(alfa.mnt().join("large"), noise(1, 2_500_000)).unwrap();
    fs::write(alfa.mnt().join("old"), "old\n").unwrap();
    alfa.types("cbfsctl snapshot create home --wait\n", 1);
    let published = fingerprint(&alfa.mnt());
    fs::write(alfa.mnt().join("unpublished"), "only here\n").unwrap();
    fs::remove_file(alfa.mnt().join("old")).unwrap();
    (alfa, published)
}

/// Sections 1 to 3 up to the question, which is answered.
fn promoted(desk: &Desk, previous: u32) -> String {
    let [who] = &blocks("1. ")[..] else { panic!() };
    let screen = desk.types(who, previous);
    has(
        &screen,
        &["EPOCH", "HOST", "NODE", "SINCE", "FROM", "LAST", "STATE"],
    );
    let last = screen.trim_end().lines().last().unwrap();
    assert!(
        last.trim_start().starts_with(&previous.to_string()),
        "{last}"
    );
    has(last, &["current"]);
    let [plan] = &blocks("2. ")[..] else { panic!() };
    let screen = desk.types(plan, previous);
    has(
        &screen,
        &[
            "the master is node",
            "last heard of",
            "goes on from snapshot",
        ],
    );
    has(&screen, &["WARNING: THE MASTER LOOKS ALIVE"]);
    let screen = desk.types(&blocks("3. ")[0], previous);
    has(&screen, &["[y/N]", "this node is the master of"]);
    screen
}

#[test]
fn the_runbook_leads_from_a_lost_master_to_a_new_one_and_brings_the_old_one_back() {
    needs_fuse!();
    needs_tools!("script");
    let stage = Stage::new();
    let (alfa, published) = alfa(&stage);
    let (bravo, charlie) = (Desk::new(&stage, "bravo"), Desk::new(&stage, "charlie"));
    for desk in [&bravo, &charlie] {
        desk.types(
            "cbfsctl mount home /mnt/home --slave --follow --poll-interval 1s\n",
            1,
        );
    }
    alfa.node.kill9();

    let screen = promoted(&bravo, 1);
    has(&screen, &["mnt/home is read-write"]);
    assert_same("the promoted mount", &published, &fingerprint(&bravo.mnt()));
    fs::write(bravo.mnt().join("text"), "epoch 2\n").unwrap();
    let blocks_3 = blocks("3. ");
    let [_, mount, look] = &blocks_3[..] else {
        panic!()
    };
    assert!(mount.contains("cbfsctl mount home /mnt/home"));
    let screen = bravo.types(look, 1);
    has(&screen, &["master", "ok"]);
    assert!(
        screen
            .trim_end()
            .lines()
            .last()
            .unwrap()
            .trim()
            .parse::<u64>()
            .is_ok(),
        "{screen}"
    );
    // What follows goes over by itself.
    let begun = Instant::now();
    while fs::read_to_string(charlie.mnt().join("text")).unwrap() != "epoch 2\n" {
        assert!(begun.elapsed() < PATIENCE, "charlie does not follow");
        std::thread::sleep(Duration::from_millis(50));
    }

    // The old machine is repaired and comes back.
    alfa.node.start();
    wait_until_fenced(&alfa);
    let [save, demote] = &blocks("4. ")[..] else {
        panic!()
    };
    let screen = alfa.types(save, 1);
    has(&screen, &["unpublished", "\"old\""]);
    assert!(alfa.dir.join("root/home-kept.tar").exists());
    let screen = alfa.types(demote, 1);
    has(&screen, &["[y/N]", "read-only"]);
    assert!(!alfa.mnt().join("unpublished").exists());
    assert_eq!(
        fs::read_to_string(alfa.mnt().join("text")).unwrap(),
        "epoch 2\n"
    );
    let tar = alfa.dir.join("root/home-kept.tar");
    let mut unpack = Command::new("tar");
    unpack.arg("-xf").arg(&tar).arg("-C").arg(bravo.mnt());
    assert!(
        unpack
            .args(["--exclude", ".cbfs"])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(
        fs::read_to_string(bravo.mnt().join("unpublished")).unwrap(),
        "only here\n"
    );

    // And gets its office back, in order.
    let [leave, become_slave] = &blocks("5. ")[..] else {
        panic!()
    };
    let wanted = fingerprint(&bravo.mnt());
    bravo.types(leave, 1);
    promoted(&alfa, 2);
    assert_same("moved in order", &wanted, &fingerprint(&alfa.mnt()));
    alfa.types(look, 1);
    wait_until_fenced(&bravo);
    bravo.types(become_slave, 1);
    let instances = bravo.node.json(["instance", "list"]);
    let masters = instances
        .as_array()
        .unwrap()
        .iter()
        .filter(|i| i["role"] == "master");
    assert_eq!(masters.count(), 0, "{instances:#}");
}

#[test]
fn the_runbook_leads_to_a_master_on_a_node_that_has_nothing_but_the_bucket() {
    needs_fuse!();
    needs_tools!("script");
    let stage = Stage::new();
    let (alfa, published) = alfa(&stage);
    alfa.node.kill9();
    let bravo = Desk::new(&stage, "bravo");
    // What the section on failures says of those who skip a line.
    let mut forgotten = bravo.node.command();
    forgotten.env_remove("CBFS_BUCKET");
    forgotten.args(["epoch", "promote", "home", "--previous-epoch", "1"]);
    Ran::of(&mut forgotten).fails(10, &["this node does not know home", "CBFS_BUCKET"]);
    let unasked = ["epoch", "promote", "home", "--previous-epoch", "1"];
    bravo.node.ctl(unasked).fails(2, &["needs a confirmation"]);
    promoted(&bravo, 1);
    let blocks = blocks("3. ");
    let [_, mount, look] = &blocks[..] else {
        panic!()
    };
    bravo.types(mount, 1);
    assert_same("the mount", &published, &fingerprint(&bravo.mnt()));
    let screen = bravo.types(look, 1);
    has(&screen, &["master", "ok"]);
    let again = bravo
        .node
        .ctl(["epoch", "promote", "home", "--previous-epoch", "1", "--yes"]);
    again.fails(11, &["this node is the master"]);
}
