//! The commands in the documents run. Blocks marked `sh` of one document are one session of a shell, in order, on a
//! node and a bucket of their own; paths below /srv and /mnt lie on the test's stage. A block that cannot run here has
//! a line `<!-- not run: REASON -->` above it.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too

use cbfs_tests::{Ran, Stage, cbfsctl, needs_fuse, tools};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Documents whose blocks begin where another left: what must be there first.
const PROLOGUES: [(&str, &str); 2] = [("docs/snapshots.md", MASTER), ("docs/slaves.md", MASTER)];

/// The file system `home`, its master, and a snapshot `monday`.
const MASTER: &str = "export CBFS_BUCKET=file:///srv/bucket
mkdir -p /srv/bucket /mnt/home /mnt/then /mnt/now
cbfsctl fs create home
cbfsctl mount home /mnt/home
cbfsctl snapshot create home --name monday --wait";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// All documents with commands.
fn documents() -> Vec<PathBuf> {
    let docs = fs::read_dir(root().join("docs")).unwrap();
    let docs = docs.map(|e| e.unwrap().path());
    let mut all: Vec<PathBuf> = docs
        .filter(|p| p.extension().is_some_and(|e| e == "md"))
        .collect();
    all.extend(["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"].map(|n| root().join(n)));
    all.sort();
    all
}

/// A block of commands: its first line's number, its text, and why it is not run.
struct Block {
    line: usize,
    text: String,
    not_run: Option<String>,
}

fn blocks(document: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut not_run = None;
    let mut lines = document.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let marker = line.trim().strip_prefix("<!-- not run: ");
        if let Some(reason) = marker.and_then(|m| m.strip_suffix(" -->")) {
            not_run = Some(reason.to_owned());
        } else if line.trim() == "```sh" {
            let text = lines
                .by_ref()
                .map(|(_, l)| l)
                .take_while(|l| l.trim() != "```")
                .fold(String::new(), |all, l| all + l + "\n");
            found.push(Block {
                line: at + 1,
                text,
                not_run: not_run.take(),
            });
        } else if !line.trim().is_empty() {
            not_run = None;
        }
    }
    found
}

#[test]
fn a_block_without_a_reason_is_run() {
    let text = "a\n```sh\none\ntwo\n```\n<!-- not run: root -->\n```sh\nthree\n```\n\n<!-- not run: x -->\nb\n```sh\nfour\n```\n";
    let found = blocks(text);
    let seen: Vec<_> = found
        .iter()
        .map(|b| (b.line, b.text.as_str(), b.not_run.as_deref()))
        .collect();
    assert_eq!(
        seen,
        [
            (2, "one\ntwo\n", None),
            (7, "three\n", Some("root")),
            (13, "four\n", None)
        ]
    );
}

#[test]
fn every_command_in_the_documents_runs() {
    needs_fuse!();
    if ["jq", "zstd", "curl"].into_iter().any(tools::is_missing) {
        return;
    }
    let mut run = 0;
    std::thread::scope(|scope| {
        for path in documents() {
            let name = path.strip_prefix(root()).unwrap().display().to_string();
            let text = fs::read_to_string(&path).unwrap();
            let blocks: Vec<Block> = blocks(&text)
                .into_iter()
                .filter(|b| b.not_run.is_none())
                .collect();
            run += blocks.len();
            if !blocks.is_empty() {
                scope.spawn(move || run_session(&name, &blocks));
            }
        }
    });
    assert!(run > 10, "only {run} blocks ran");
}

fn run_session(name: &str, blocks: &[Block]) {
    let stage = Stage::new();
    let node = stage.node("a");
    let dir = stage.dir("session");
    symlink(root().join("share"), dir.join("share")).unwrap();
    let bin = stage.dir("bin");
    symlink(cbfsctl(), bin.join("cbfsctl")).unwrap();
    let here = |text: &str| {
        let below = |top: &str, text: &str| {
            text.replace(
                &format!("file:///{top}/"),
                &format!("file://{}/{top}/", dir.display()),
            )
            .replace(&format!(" /{top}/"), &format!(" {}/{top}/", dir.display()))
        };
        below("mnt", &below("srv", text))
    };
    fs::create_dir(dir.join("srv")).unwrap();
    fs::create_dir(dir.join("mnt")).unwrap();
    let prologue = PROLOGUES.iter().find(|(document, _)| *document == name);
    let mut script = String::from("set -eu\n");
    script += &here(prologue.map_or("", |(_, commands)| commands));
    for block in blocks {
        script += &format!(
            "\necho '--- {name}, line {}' >&2\n{}",
            block.line,
            here(&block.text)
        );
    }
    // Whatever the document left running.
    script += "\ncbfsctl daemon stop 2>/dev/null || true\n";
    let mut bash = node.environment_of(Command::new("bash"));
    let path = std::env::var("PATH").unwrap();
    bash.arg("-c")
        .arg(&script)
        .current_dir(&dir)
        .env("PATH", format!("{}:{path}", bin.display()));
    let ran = Ran::of(&mut bash);
    assert!(
        ran.code == Some(0),
        "{name}:\n{}\n{}",
        ran.stdout,
        ran.stderr
    );
}
