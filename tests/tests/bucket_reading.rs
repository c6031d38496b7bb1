//! What the command line reads from a bucket without a daemon is what the file system holds, and
//! damage is named: `snapshot verify`, `diff`, `export`, `index show`, `index rebuild`, `log`.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too

mod reading {
    mod diff;
    mod export;
    mod history;
    mod index;
    mod log;
    mod verify;
}

use cbfs_tests::{Master, Node, Ran};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

/// A node that knows nothing: no daemon, no state. All it has is the bucket's URL.
struct Outsider {
    node: Node,
    url: String,
}

impl Outsider {
    fn of(m: &Master) -> Outsider {
        Outsider {
            node: m.stage.node("outsider"),
            url: m.bucket.url().to_owned(),
        }
    }

    fn ctl(&self, args: &[&str]) -> Ran {
        let mut command = self.node.command();
        command.args(args).env("CBFS_BUCKET", &self.url);
        Ran::of(&mut command)
    }

    /// What it prints with `--json`, and its exit code.
    fn json(&self, args: &[&str]) -> (Value, Option<i32>) {
        let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        let ran = self.ctl(&args);
        let value = serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
        (value, ran.code)
    }
}

/// The manifest of a snapshot.
fn manifest(m: &Master, number: u64) -> Value {
    serde_json::from_slice(&fs::read(manifest_path(m, number)).unwrap()).unwrap()
}

fn manifest_path(m: &Master, number: u64) -> PathBuf {
    object(m, &format!("m/{number:010}-e1.json"))
}

/// An object of the file system by its relative key.
fn object(m: &Master, key: &str) -> PathBuf {
    m.bucket.dir().join(&m.fs).join(key)
}

/// The key that a manifest has for one of its objects.
fn key_of(m: &Master, number: u64, what: &str) -> String {
    manifest(m, number)[what]["key"]
        .as_str()
        .unwrap()
        .to_owned()
}
