//! The model test: random operations on a real mount of a real daemon, beside a reference model in
//! memory. After each operation its answer and the attributes of what it touched are compared;
//! after a `kill -9`, a restart or a remount the whole tree; every snapshot, mounted on a second
//! node, must be the model as it was at the cut.
//!
//! Every case starts from an empty file system on a node of its own, so that a failing case
//! shrinks to the few operations that matter. They are printed as a replay, one JSON object a
//! line, and written to a file:
//!
//! ```sh
//! CBFS_TESTS_MODEL_REPLAY=FILE cargo test -p cbfs-tests --test model replay -- --nocapture
//! ```
//!
//! A replay of a mended bug goes to `regressions/`, and is run with every test run from then on.
//! `CBFS_TESTS_MODEL_CASES=1000` runs that many cases instead of the usual few.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are test code too

mod case;
mod compare;
mod controls;
mod mounted;
mod neighbour;
mod operation;
mod reference;
mod strategy;
mod watchdog;

use case::{Case, run};
use cbfs_tests::needs_fuse;
use operation::{Operation, parse, print};
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};
use reference::Tree;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Cases of a plain `cargo test`.
const CASES: u32 = 24;
/// Most operations of a case.
const LONGEST: usize = 300;
/// How long shrinking may take: cases that hang take minutes each.
const SHRINKING_TIME: Duration = Duration::from_secs(1_200);
/// Runs that shrinking may take.
const SHRINKING: u32 = 600;

fn configuration(cases: u32, shrinking: u32) -> Config {
    Config {
        cases,
        max_shrink_iters: shrinking,
        max_shrink_time: SHRINKING_TIME.as_millis() as u32,
        // A seed means nothing once the strategies change; a replay stays what it was.
        failure_persistence: None,
        ..Config::default()
    }
}

/// Run random cases with `tamper` interfering; answers the shrunk failure.
fn search(
    mut runner: TestRunner,
    longest: usize,
    tamper: &dyn Fn(&mut Tree, &Operation),
) -> Result<(), (String, Case)> {
    let found = runner.run(&strategy::case(longest), |case| {
        run(&case, tamper).map_err(TestCaseError::fail)
    });
    match found {
        Ok(()) => Ok(()),
        Err(TestError::Fail(why, case)) => Err((why.message().to_owned(), case)),
        Err(TestError::Abort(why)) => panic!("the search was given up: {why}"),
    }
}

/// Write a case to a file; answers the text that tells of it.
fn keep(case: &Case, name: &str) -> String {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let replay = print(case);
    fs::write(&file, &replay).unwrap();
    let file = file.display();
    format!("Replay (also in {file}; run it with CBFS_TESTS_MODEL_REPLAY):\n{replay}")
}

fn honest(_: &mut Tree, _: &Operation) {}

#[test]
fn a_mount_does_what_the_model_says_through_kills_remounts_and_snapshots() {
    needs_fuse!();
    let cases = std::env::var("CBFS_TESTS_MODEL_CASES").ok();
    let cases = cases.map_or(CASES, |text| {
        text.parse().expect("CBFS_TESTS_MODEL_CASES is a number")
    });
    let runner = TestRunner::new(configuration(cases, SHRINKING));
    let Err((why, case)) = search(runner, LONGEST, &honest) else {
        return;
    };
    panic!("{why}\n\n{}", keep(&case, "model-failure.jsonl"));
}

#[test]
fn replay() {
    needs_fuse!();
    let Some(file) = std::env::var_os("CBFS_TESTS_MODEL_REPLAY") else {
        return;
    };
    let text = fs::read_to_string(&file).unwrap();
    let case = parse(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    if let Err(why) = run(&case, &honest) {
        panic!("{}: {why}", file.display());
    }
}

#[test]
fn mended_bugs_stay_mended() {
    needs_fuse!();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/model/regressions");
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "jsonl"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "the regressions are not there");
    for file in files {
        let case = parse(&fs::read_to_string(&file).unwrap())
            .unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        if let Err(why) = run(&case, &honest) {
            panic!("{}: {why}", file.display());
        }
    }
}
