//! What documents, help and hints say in passing (`cbfsctl …` between backticks) is a command that exists, with
//! options that it has. (Blocks of commands are run by the test `documented_commands`.)

use super::Cli;
use clap::CommandFactory;
use std::fs;
use std::path::{Path, PathBuf};

/// What is looked through, from the repository's root: documents, and the sources that talk to people.
const PLACES: [&str; 11] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs",
    "share",
    "core/src",
    "client/src",
    "cbfsd/src",
    "cbfsctl/src",
    "tui/src",
];

/// Text files below a place.
fn files(place: PathBuf) -> Vec<PathBuf> {
    if place.is_file() {
        return vec![place];
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(&place).unwrap() {
        found.extend(files(entry.unwrap().path()));
    }
    let texts = ["md", "rs", "toml", "sh", "yml", "json"];
    found.retain(|file| {
        file.extension()
            .is_none_or(|e| texts.iter().any(|t| e == *t))
    });
    found
}

/// Each `cbfsctl …` between backticks, on one line also where the text breaks it, with the number of its line.
fn commands(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("`cbfsctl ") {
        let rest = &text[at + 1..];
        let Some(end) = rest.find('`') else { continue };
        // A paragraph's end before the backtick: it was none.
        if rest[..end].contains("\n\n") {
            continue;
        }
        let joined = rest[..end].lines().map(|line| {
            let line = line.trim().trim_end_matches('\\');
            let line = ["///", "//!", "//", "#", ">"]
                .iter()
                .fold(line, |line, mark| line.strip_prefix(mark).unwrap_or(line));
            line.trim()
        });
        let line = text[..at].matches('\n').count() + 1;
        found.push((line, joined.collect::<Vec<_>>().join(" ")));
    }
    found
}

/// What is wrong with a line, if anything.
fn wrong(root: &clap::Command, line: &str) -> Option<String> {
    let mut command = root;
    for word in line.split_whitespace().skip(1) {
        if ["|", ">", ">>", "<", "&&", ";", "…", "...", "->"].contains(&word) {
            return None;
        }
        if word.starts_with('-') && word.len() > 1 {
            let option = word.split(['=', '[', ']', ',', '…']).next().unwrap_or(word);
            let is_there = match option.strip_prefix("--") {
                Some("help" | "version" | "") => true,
                Some(long) => command.get_arguments().any(|a| a.get_long() == Some(long)),
                None => {
                    let short = option.chars().nth(1);
                    short == Some('h') || command.get_arguments().any(|a| a.get_short() == short)
                }
            };
            if !is_there {
                return Some(format!("{} has no {option}", command.get_name()));
            }
        } else if command.has_subcommands() {
            let is_word = word.chars().all(|c| c.is_ascii_lowercase());
            match command.find_subcommand(word) {
                Some(sub) => command = sub,
                None if is_word => {
                    return Some(format!("{} has no command {word}", command.get_name()));
                }
                None => return None, // a name that stands for some
            }
        }
    }
    None
}

#[test]
fn every_command_in_prose_exists_with_its_options() {
    let mut cli = Cli::command();
    cli.build();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (mut seen, mut faults) = (0, Vec::new());
    for file in PLACES.iter().flat_map(|place| files(root.join(place))) {
        let text = fs::read_to_string(&file).unwrap();
        for (line, command) in commands(&text) {
            seen += 1;
            if let Some(why) = wrong(&cli, &command) {
                let file = file.strip_prefix(&root).unwrap().display();
                faults.push(format!("{file}:{line}: `{command}`: {why}"));
            }
        }
    }
    assert!(seen > 200, "only {seen} were found");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn what_does_not_exist_is_seen() {
    let mut cli = Cli::command();
    cli.build();
    for line in [
        "cbfsctl snapshot create FS --wait",
        "cbfsctl snapshot create {fs} --wait=collected --json | jq .",
        "cbfsctl mount FS@SNAP DIR --slave",
        "cbfsctl NOUN VERB",
        "cbfsctl -q status",
    ] {
        assert_eq!(wrong(&cli, line), None);
    }
    for line in [
        "cbfsctl snapshots list",
        "cbfsctl snapshot lst",
        "cbfsctl snapshot list FS --wait",
        "cbfsctl umount DIR --force",
    ] {
        assert!(wrong(&cli, line).is_some(), "{line}");
    }
    let broken = "a `cbfsctl snapshot\n/// list FS` b, and\n`cbfsctl` `cbfsctl log \\\n      FS`";
    let found: Vec<_> = commands(broken);
    assert_eq!(found[0], (1, "cbfsctl snapshot list FS".to_owned()));
    assert_eq!(found[1], (3, "cbfsctl log FS".to_owned()));
}
