//! `docs/json.md` is what the commands print: every command is in it, every key that is printed is in it, and
//! every key that it promises is printed, with its type.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too

use cbfs_tests::contents::noise;
use cbfs_tests::{Master, Node, needs_fuse, tree, wait_until};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A type as the document writes it.
#[derive(Debug, Clone, PartialEq)]
enum Type {
    Any,
    String,
    Number,
    Boolean,
    Null,
    List(Box<Type>),
    Document(String),
    Either(Vec<Type>),
}

impl Type {
    fn parse(text: &str) -> Type {
        let text = text.trim();
        if text.contains(" or ") {
            return Type::Either(text.split(" or ").map(Type::parse).collect());
        }
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']');
            let inner = inner.unwrap_or_else(|| panic!("{text}"));
            return Type::List(Box::new(Type::parse(inner)));
        }
        match text {
            "any" => Type::Any,
            "string" => Type::String,
            "number" => Type::Number,
            "boolean" => Type::Boolean,
            "null" => Type::Null,
            name => Type::Document(name.to_owned()),
        }
    }

    fn documents(&self) -> Vec<&str> {
        match self {
            Type::Document(name) => vec![name],
            Type::List(inner) => inner.documents(),
            Type::Either(all) => all.iter().flat_map(Type::documents).collect(),
            _ => Vec::new(),
        }
    }
}

#[derive(Debug)]
struct Key {
    kind: Type,
    optional: bool,
}

/// What the document says.
struct Reference {
    /// By command.
    commands: BTreeMap<String, (bool, Type)>,
    documents: BTreeMap<String, BTreeMap<String, Key>>,
}

impl Reference {
    fn read() -> Reference {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let text = fs::read_to_string(root.join("docs/json.md")).unwrap();
        let mut reference = Reference {
            commands: BTreeMap::new(),
            documents: BTreeMap::new(),
        };
        let mut document = None;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("### ") {
                reference.documents.insert(name.to_owned(), BTreeMap::new());
                document = Some(name.to_owned());
                continue;
            }
            let Some(row) = line.strip_prefix("| `") else {
                continue;
            };
            let cells: Vec<&str> = row.split(" | ").map(str::trim).collect();
            let name = cells[0].trim_end_matches('`').to_owned();
            let kind = cells[1].trim_end_matches('|').trim();
            match &document {
                None => {
                    let (stream, kind) = match kind.strip_prefix("stream of ") {
                        Some(kind) => (true, kind.split(',').next().unwrap()),
                        None => (false, kind),
                    };
                    let twice = reference.commands.insert(name, (stream, Type::parse(kind)));
                    assert!(twice.is_none(), "{line}");
                }
                Some(document) => {
                    let (kind, optional) = match kind.strip_suffix(", optional") {
                        Some(kind) => (kind, true),
                        None => (kind, false),
                    };
                    let key = Key {
                        kind: Type::parse(kind),
                        optional,
                    };
                    let keys = reference.documents.get_mut(document).unwrap();
                    assert!(keys.insert(name, key).is_none(), "{document}: {line}");
                }
            }
        }
        reference
    }

    /// Complaints about a value that should be of a type.
    fn check(&self, kind: &Type, value: &Value, at: &str, found: &mut Vec<String>) {
        let fits = match (kind, value) {
            (Type::Any, _)
            | (Type::String, Value::String(_))
            | (Type::Number, Value::Number(_))
            | (Type::Boolean, Value::Bool(_))
            | (Type::Null, Value::Null) => true,
            (Type::List(inner), Value::Array(all)) => {
                for (n, element) in all.iter().enumerate() {
                    self.check(inner, element, &format!("{at}[{n}]"), found);
                }
                true
            }
            (Type::Document(name), Value::Object(object)) => {
                let keys = &self.documents[name];
                for (key, value) in object {
                    match keys.get(key) {
                        Some(known) => {
                            self.check(&known.kind, value, &format!("{at}.{key}"), found);
                        }
                        None => found.push(format!("{at}: {name} has no key {key}")),
                    }
                }
                for (key, known) in keys {
                    if !known.optional && !object.contains_key(key) {
                        found.push(format!("{at}: {name} lacks {key}"));
                    }
                }
                true
            }
            (Type::Either(all), value) => {
                let mut least: Option<Vec<String>> = None;
                for one in all {
                    let mut complaints = Vec::new();
                    self.check(one, value, at, &mut complaints);
                    if least.as_ref().is_none_or(|l| complaints.len() < l.len()) {
                        least = Some(complaints);
                    }
                }
                found.extend(least.unwrap_or_default());
                true
            }
            _ => false,
        };
        if !fits {
            found.push(format!("{at}: {value} is no {kind:?}"));
        }
    }
}

/// All commands that do something, from the man pages (which a test keeps complete).
fn all_commands() -> BTreeSet<String> {
    let man = Path::new(env!("CARGO_MANIFEST_DIR")).join("../man");
    let pages: BTreeSet<String> = fs::read_dir(man)
        .unwrap()
        .filter_map(|e| e.unwrap().file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".1").map(str::to_owned))
        .collect();
    let is_group = |page: &String| {
        let below = format!("{page}-");
        pages.iter().any(|other| other.starts_with(&below))
    };
    let leaves = pages.iter().filter(|page| !is_group(page));
    leaves.map(|page| page.replace('-', " ")).collect()
}

#[test]
fn every_command_is_in_the_document_and_nothing_else() {
    let reference = Reference::read();
    let documented: BTreeSet<String> = reference.commands.keys().cloned().collect();
    // One and the same.
    let without_json = ["cbfsctl tui", "cbfs tui"].map(str::to_owned).into();
    let wanted: BTreeSet<String> = &all_commands() - &without_json;
    assert_eq!(
        wanted.symmetric_difference(&documented).collect::<Vec<_>>(),
        Vec::<&String>::new()
    );
    let keys = reference.documents.values().flat_map(BTreeMap::values);
    let types = keys.map(|k| &k.kind);
    let types = types.chain(reference.commands.values().map(|(_, t)| t));
    let used: BTreeSet<&str> = types.flat_map(Type::documents).collect();
    let described: BTreeSet<&str> = reference.documents.keys().map(String::as_str).collect();
    let alone: Vec<&&str> = described
        .symmetric_difference(&used)
        .filter(|n| !["Failure"].contains(n))
        .collect();
    assert_eq!(alone, Vec::<&&str>::new());
}

/// Runs commands and holds what they print against the document.
struct Checker<'a> {
    reference: &'a Reference,
    /// Commands that succeeded.
    checked: BTreeSet<String>,
    /// Complaints.
    found: Vec<String>,
}

impl Checker<'_> {
    fn new(reference: &Reference) -> Checker<'_> {
        Checker {
            reference,
            checked: BTreeSet::new(),
            found: Vec::new(),
        }
    }

    /// Run a command line; answers its exit code.
    fn run(&mut self, node: &Node, line: &str) -> Option<i32> {
        let words: Vec<&str> = line.split(' ').collect();
        let ran = node.ctl(words.iter().chain(&["--json"]));
        let output = if ran.code == Some(0) {
            &ran.stdout
        } else {
            &ran.stderr
        };
        let name = (1..=2)
            .rev()
            .map(|n| format!("cbfsctl {}", words[..n.min(words.len())].join(" ")))
            .find(|name| self.reference.commands.contains_key(name))
            .unwrap_or_else(|| panic!("{line} is not in the document"));
        let (stream, kind) = match ran.code {
            Some(0) => {
                assert_eq!(ran.stderr, "", "{line}: stderr is for errors");
                self.checked.insert(name.clone());
                self.reference.commands[&name].clone()
            }
            _ => (false, Type::Document("Failure".to_owned())),
        };
        let parse = |text: &str| -> Value {
            serde_json::from_str(text).unwrap_or_else(|e| panic!("{line}: {e}: {ran:?}"))
        };
        let documents: Vec<Value> = match stream {
            true => output.lines().map(parse).collect(),
            false => vec![parse(output)],
        };
        assert!(!documents.is_empty(), "{line} printed nothing");
        for document in &documents {
            self.reference
                .check(&kind, document, &name, &mut self.found);
        }
        ran.code
    }
}

/// What the master's end and the new master's begin print.
fn around_a_promotion(checker: &mut Checker) {
    // It notices soon that it is fenced.
    let m = Master::with_environment(&[("CBFS_EPOCH_CHECK", "0.2".to_owned())]);
    fs::write(m.at("file"), "1").unwrap();
    m.snapshot();
    fs::write(m.at("unpublished"), "kept").unwrap();
    fs::remove_file(m.at("file")).unwrap();
    let next = m.stage.node("next");
    next.start();
    let (fs, url) = (&m.fs, m.bucket.url());
    let promote = format!("epoch promote {fs} --previous-epoch 1 --bucket {url}");
    for line in [
        format!("{promote} --dry-run"),
        format!("{promote} --confirm {fs}"),
        "status".to_owned(),
    ] {
        assert_eq!(checker.run(&next, &line), Some(0), "{line}");
    }
    wait_until("the former master is fenced", || {
        m.node.json(["instance", "show", fs])["health"] == "fenced"
    });
    let tar = m.stage.path("kept.tar");
    for (line, code) in [
        ("instance show home".to_owned(), 0),
        (format!("instance export home -o {}", tar.display()), 0),
        ("instance demote home".to_owned(), 11),
        ("instance delete home".to_owned(), 11),
        ("instance demote home --dry-run".to_owned(), 0),
        ("instance delete home --discard --dry-run".to_owned(), 0),
        (format!("instance demote home --discard --confirm {fs}"), 0),
        (format!("instance delete {fs}@latest"), 0),
    ] {
        assert_eq!(checker.run(&m.node, &line), Some(code), "{line}");
    }
}

#[test]
fn what_commands_print_is_what_the_document_says() {
    needs_fuse!();
    let m = Master::new();
    let url = m.bucket.url().to_owned();
    tree::small_files(&m.dir("files"), 20);
    let reference = Reference::read();
    let mut checker = Checker::new(&reference);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (then, index, tar) = (
        text(&m.stage.dir("then")),
        text(&m.stage.path("index")),
        text(&m.stage.path("tar")),
    );
    let mnt = text(&m.mnt);
    let state = text(&m.instance_dir());
    let mut run = |line: &str| checker.run(&m.node, line);
    let b = format!("--bucket {url}");
    for line in [
        &format!("fs create other {b} --dry-run"),
        &format!("fs create other {b}"),
        &format!("fs list {b}"),
        &format!("fs delete other {b} --dry-run"),
        &format!("mount other {then} {b} --dry-run"),
        "snapshot create home --name two --dry-run",
        "snapshot create home --name one --wait",
        &format!("mount home {then} {b} --slave --dry-run"),
        "umount home --dry-run",
        "snapshot hold home@1 --dry-run",
        "status",
        "snapshot watch home@1",
        "snapshot list home",
        "snapshot show home@one",
        "snapshot hold home@1 --reason audit",
        "snapshot show home@1",
        "snapshot release home@1 --dry-run",
        "snapshot release home@1",
    ] {
        assert_eq!(run(line), Some(0), "{line}");
    }
    let all = m.node.json(["fs", "list", "--bucket", &url]);
    let mut all = all.as_array().unwrap().iter().map(|f| &f["fs"]);
    let other = all.find(|fs| fs.as_str().unwrap().starts_with("other-"));
    let other = other.unwrap().as_str().unwrap();
    for line in [
        &format!("fs delete {other} {b} --confirm {other} --reason audit"),
        &format!("fs list {b} --all"),
        &format!("fs show {other} {b}"),
        &format!("fs undelete {other} {b}"),
    ] {
        assert_eq!(run(line), Some(0), "{line}");
    }
    fs::write(m.at("files/more"), "more").unwrap();
    fs::rename(m.at("files"), m.at("moved")).unwrap();
    m.snapshot();
    for line in [
        "snapshot diff home@1 latest",
        "snapshot verify home@2 --deep",
        &format!("snapshot export home@2 -o {tar}"),
        &format!("snapshot delete home@1 --confirm {}", m.fs),
        "snapshot list home --all",
        "fs set home --every 1h --keep-daily 7",
        // Else the full hour makes one by itself.
        "fs set home --no-schedule",
        &format!("fs show home {b}"),
        "epoch list home",
        "index show home@2",
        &format!("index rebuild home@2 --to {index} {b}"),
        "log home",
        &format!("bucket probe {url}"),
        &format!("mount home@2 {then} --slave"),
        "instance list",
        "instance show home",
        &format!("umount {then}"),
        &format!("mount home {then} --slave --follow"),
        &format!("slave refresh {then}"),
        &format!("warm {then}"),
        "slave list",
        "status",
        &format!("umount {then}"),
        &format!("umount {mnt}"),
        &format!("mount home {mnt} --kvs-limit 1G"),
        "instance show home",
        "doctor",
        "daemon start",
        "daemon reload",
        "daemon stop --dry-run",
    ] {
        assert_eq!(run(line), Some(0), "{line}");
    }
    // Requests that never become complete: their bucket is away.
    if let Some(dir) = url.strip_prefix("file://") {
        fs::rename(dir, format!("{dir}-away")).unwrap();
        // With contents to send it cannot get as far as its manifest, which nobody could withdraw.
        fs::write(m.at("large"), noise(1, 3_000_000)).unwrap();
        assert_eq!(run("snapshot create home"), Some(0));
        run("snapshot list home");
        assert_eq!(run("snapshot cancel home@3"), Some(0));
        let ended = m
            .node
            .ctl(["snapshot", "watch", "home@3", "--timeout", "100"]);
        assert!(
            ended.stdout.contains("cancelled") || ended.stderr.contains("cancelled"),
            "{ended:?}"
        );
        assert_eq!(run("snapshot retry home@3"), Some(0));
        fs::rename(format!("{dir}-away"), dir).unwrap();
        m.wait_for(3);
    }
    assert_eq!(run("snapshot show home@77"), Some(10));
    m.node.stop();
    assert_eq!(run(&format!("fs check --local {state}")), Some(0));
    assert_eq!(run("status"), Some(4));
    around_a_promotion(&mut checker);
    let tree = m.stage.dir("tree");
    tree::small_files(&tree, 20);
    let demo = m.stage.path("demo");
    let demo = format!("demo --dir {} --tree {}", text(&demo), text(&tree));
    assert_eq!(checker.run(&m.node, &demo), Some(0));
    assert_eq!(checker.found, Vec::<String>::new());
    let all = reference.commands.keys().cloned().collect::<BTreeSet<_>>();
    let mut unseen = &all - &checker.checked;
    unseen.retain(|c| c.starts_with("cbfsctl "));
    if url.starts_with("file://") {
        assert_eq!(unseen, BTreeSet::new(), "commands that nobody ran here");
    }
}
