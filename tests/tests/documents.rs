//! What the documents promise is tested, by the tests they name.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too

use std::fs;
use std::path::Path;

/// The repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The rows of all tables of a document, header rows left out: one list of rows per table.
fn tables(text: &str) -> Vec<Vec<Vec<String>>> {
    let mut all: Vec<Vec<Vec<String>>> = Vec::new();
    let mut header = true;
    for line in text.lines() {
        let Some(row) = line.strip_prefix('|').and_then(|r| r.strip_suffix('|')) else {
            header = true;
            continue;
        };
        if row.starts_with("---") {
            header = false;
            all.push(Vec::new());
        } else if !header {
            let cells = row.split('|').map(|cell| cell.trim().to_owned());
            all.last_mut().unwrap().push(cells.collect());
        }
    }
    all
}

/// `file::function` between backticks.
fn tests_named_in(text: &str) -> Vec<(&str, &str)> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter_map(|name| name.split_once("::")).collect()
}

/// Whether a file has a test of this name: a function under `#[test]` in Rust, any in Python.
fn has_test(source: &str, file: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let begins = |line: &str, keyword: &str| {
        let rest = line.strip_prefix(keyword);
        rest.and_then(|r| r.strip_prefix(name))
            .is_some_and(|r| r.starts_with('('))
    };
    lines.iter().enumerate().any(|(at, line)| {
        if file.ends_with(".py") {
            return begins(line, "def ");
        }
        let attributes = lines[..at].iter().rev().take_while(|l| l.starts_with("#["));
        begins(line, "fn ") && attributes.into_iter().any(|l| *l == "#[test]")
    })
}

#[test]
fn every_test_that_the_durability_table_names_exists() {
    let text = fs::read_to_string(root().join("docs/durability.md")).unwrap();
    let named = tests_named_in(&text);
    assert!(named.len() > 15, "only {} tests are named", named.len());
    for (file, name) in named {
        let source =
            fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(has_test(&source, file, name), "{file} has no test {name}");
    }
}

#[test]
fn every_cell_of_the_durability_table_has_a_test() {
    let text = fs::read_to_string(root().join("docs/durability.md")).unwrap();
    let tables = tables(&text);
    let [promises, proofs] = tables.as_slice() else {
        panic!("{} tables instead of promises and proofs", tables.len());
    };
    assert_eq!(promises.len(), proofs.len());
    for (promise, proof) in promises.iter().zip(proofs) {
        assert_eq!(promise.len(), proof.len(), "{}", proof[0]);
        let mut before = "";
        for (promised, proved) in promise.iter().zip(proof).skip(1) {
            let proved = if proved == "the same" { before } else { proved };
            assert_eq!(
                promised.is_empty(),
                tests_named_in(proved).is_empty(),
                "{}: {promised:?} is proved by {proved:?}",
                promise[0]
            );
            before = proved;
        }
    }
}

#[test]
fn a_name_in_a_comment_or_without_test_is_no_test() {
    let source =
        "#[test]\nfn one() {}\nfn two() {}\n// fn three()\n#[test]\n#[ignore]\nfn four() {}";
    let found = ["one", "two", "three", "four", "on"].map(|n| has_test(source, "a.rs", n));
    assert_eq!(found, [true, false, false, true, false]);
    assert!(has_test("    def five(self):", "a.py", "five"));
}
