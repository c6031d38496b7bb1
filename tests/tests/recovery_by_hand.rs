//! The steps of docs/recovery.md by hand, with tar, zstd, jq and sqlite3 and without CBFS, on a real bucket with several
//! snapshots. The commands are the document's own; the test puts what it finds in the place of the document's names, as
//! a person would.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too

use cbfs_tests::contents::noise;
use cbfs_tests::{Exactness, Fingerprint, Master, assert_same, needs_fuse, needs_tools};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The commands of the block of the document that has this text.
fn block(text: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/recovery.md");
    let document = fs::read_to_string(path).unwrap();
    let blocks = document.split("```sh\n").skip(1);
    let mut blocks = blocks.map(|rest| rest.split("```").next().unwrap());
    let found = blocks.find(|block| block.contains(text));
    found
        .unwrap_or_else(|| panic!("no block has {text:?}"))
        .to_owned()
}

/// The line of a block that begins so.
fn line(block: &str, begin: &str) -> String {
    let found = block.lines().find(|l| l.starts_with(begin));
    found
        .unwrap_or_else(|| panic!("no line {begin:?} in\n{block}"))
        .to_owned()
}

/// Run commands of the document in a directory, with other words in the place of some; all of them must be there.
fn run(dir: &Path, commands: &str, words: &[(&str, &str)]) -> String {
    let mut commands = commands.to_owned();
    for (theirs, ours) in words {
        assert!(
            commands.contains(theirs),
            "{theirs:?} is not in\n{commands}"
        );
        commands = commands.replace(theirs, ours);
    }
    let mut shell = Command::new("sh");
    shell
        .args(["-euc", &commands])
        .current_dir(dir)
        .stdin(Stdio::null());
    let done = shell.output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{commands}\n{said}");
    String::from_utf8(done.stdout).unwrap()
}

/// Lines of JSON.
fn rows(text: &str) -> Vec<Value> {
    text.lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

/// Names as a person keeps them on paper: what is where, by parent and name.
type Names = BTreeMap<(u64, String), u64>;

/// Where an inode lies below the root, by its first name.
fn path_of(names: &Names, ino: u64) -> PathBuf {
    if ino == 1 {
        return PathBuf::new();
    }
    let name = names.iter().find(|(_, named)| **named == ino);
    let ((parent, name), _) = name.unwrap_or_else(|| panic!("inode {ino} has no name"));
    path_of(names, *parent).join(name)
}

/// What is done by hand.
struct Restored {
    /// The file system's folder in the bucket.
    objects: PathBuf,
    /// Where the tree comes.
    out: PathBuf,
    names: Names,
    /// Of directories, by inode: the changes that say their latest time.
    times: HashMap<u64, PathBuf>,
}

impl Restored {
    /// Unpack the data tarballs of a snapshot, whose manifest is `manifest`.
    fn unpack(&self, manifest: &str) {
        let out = self.out.to_str().unwrap();
        let commands =
            block("MANIFEST=m/0000000001-e1.json").replace("mkdir /restore", "mkdir -p /restore");
        let words = [("m/0000000001-e1.json", manifest), ("/restore", out)];
        run(&self.objects, &commands, &words);
    }

    /// What changed in a snapshot; the changes themselves go to a directory of their own.
    fn changes(&self, number: u64, dir: &Path) -> (Vec<Value>, Vec<Value>, Vec<Value>) {
        fs::create_dir_all(dir).unwrap();
        for folder in ["m", "s"] {
            symlink(self.objects.join(folder), dir.join(folder)).unwrap();
        }
        let commands = block("META=$(jq");
        let number = format!("{number:010}");
        let fetch: Vec<&str> = commands.lines().take_while(|l| !l.is_empty()).collect();
        run(dir, &fetch.join("\n"), &[("0000000002", &number)]);
        let listed = |begin: &str| rows(&run(dir, &line(&commands, begin), &[]));
        (
            listed("jq -c 'select(.row == \"dentry\" and .ino == null)'"),
            listed("jq -c 'select(.row == \"dentry\" and .ino != null)'"),
            listed("jq -c 'select(.row == \"member\" and .form == \"patch\")'"),
        )
    }

    /// Where a name is, by the names of a time.
    fn place(&self, names: &Names, row: &Value) -> PathBuf {
        let parent = path_of(names, row["parent"].as_u64().unwrap());
        self.out.join(parent).join(row["name"].as_str().unwrap())
    }

    /// Names go and move. All that move are put aside first, so that none is in another's way.
    fn rename(&mut self, gone: &[Value], come: &[Value], aside: &Path) {
        let key = |row: &Value| {
            let name = row["name"].as_str().unwrap().to_owned();
            (row["parent"].as_u64().unwrap(), name)
        };
        let before = self.names.clone();
        for row in gone {
            self.names.remove(&key(row));
        }
        for row in come {
            self.names.insert(key(row), row["ino"].as_u64().unwrap());
        }
        fs::create_dir_all(aside).unwrap();
        // Deepest first: what lies in a directory does not go or move with it.
        let mut left: Vec<_> = gone
            .iter()
            .map(|row| (self.place(&before, row), row))
            .collect();
        left.sort_by_key(|(at, _)| std::cmp::Reverse(at.components().count()));
        for (at, row) in left {
            let ino = before[&key(row)];
            let still_named = self.names.values().any(|named| *named == ino);
            let had_others = before.iter().any(|(k, i)| *i == ino && *k != key(row));
            if still_named && !had_others {
                fs::rename(&at, aside.join(ino.to_string())).unwrap();
            } else if at.is_dir() && !at.is_symlink() {
                fs::remove_dir(&at).unwrap();
            } else {
                fs::remove_file(&at).unwrap();
            }
        }
        for row in come {
            let ino = row["ino"].as_u64().unwrap();
            let from = aside.join(ino.to_string());
            if from.symlink_metadata().is_ok() {
                fs::rename(from, self.out.join(path_of(&self.names, ino))).unwrap();
            }
        }
    }

    /// Changed blocks go into their files.
    fn patch(&self, patches: &[Value]) {
        let put = line(&block("META=$(jq"), "dd if=.cbfs/patch");
        for patch in patches {
            let (ino, offset) = (
                patch["ino"].as_u64().unwrap(),
                patch["offset"].as_u64().unwrap(),
            );
            let file = path_of(&self.names, ino);
            let (member, offset) = (format!("patch/{ino}/{offset}"), format!("seek={offset}"));
            let words = [
                ("patch/7/1048576", member.as_str()),
                ("seek=1048576", &offset),
                ("the/file", file.to_str().unwrap()),
            ];
            run(&self.out, &put, &words);
        }
    }

    /// Attributes of what changed without being rewritten.
    fn attributes(&mut self, dir: &Path) {
        let commands = block("chmod 00640 the/file");
        let inodes = rows(&fs::read_to_string(dir.join("changes.jsonl")).unwrap());
        let inodes = inodes
            .iter()
            .filter(|r| r["row"] == "inode" && r["gone"] == false);
        run(
            dir,
            "zstd -dc \"$(jq -r .meta_tarball.key MANIFEST)\" | tar -xp --xattrs --xattrs-include='*'",
            &[("MANIFEST", self.manifest_of(dir).as_str())],
        );
        for row in inodes {
            let ino = row["ino"].as_u64().unwrap();
            if row["kind"] == "directory" {
                self.times.insert(ino, dir.to_owned());
            }
            let member = dir.join(format!(".cbfs/attributes/{ino}"));
            if !member.exists() || !["file", "directory"].iter().any(|k| row["kind"] == *k) {
                continue;
            }
            let mode = format!("{:05o}", row["mode"].as_u64().unwrap());
            let at = self.out.join(path_of(&self.names, ino));
            let words = [("00640", mode.as_str()), ("the/file", at.to_str().unwrap())];
            run(dir, &line(&commands, "chmod"), &words);
            let words = [
                (".cbfs/attributes/7", member.to_str().unwrap()),
                ("the/file", words[1].1),
            ];
            run(dir, &line(&commands, "cp -r"), &words);
        }
    }

    fn manifest_of(&self, dir: &Path) -> String {
        let number = dir.file_name().unwrap().to_str().unwrap();
        format!("m/{number}.json")
    }

    /// At the very end: times of directories, and what is not part of the tree goes.
    fn finish(&self) {
        let _ = fs::remove_dir_all(self.out.join(".cbfs")); // there are no patches, perhaps
        let touch = line(&block("chmod 00640 the/file"), "touch");
        for (ino, changes) in &self.times {
            if *ino != 1 && !self.names.values().any(|named| named == ino) {
                continue;
            }
            let at = self.out.join(path_of(&self.names, *ino));
            let word = format!("\"ino\":{ino},");
            let words = [
                ("\"ino\":7,", word.as_str()),
                ("the/directory", at.to_str().unwrap()),
            ];
            run(changes, &touch, &words);
        }
    }
}

/// A master with three snapshots, and what each of them holds.
fn three_snapshots() -> (Master, Vec<Fingerprint>) {
    let m = Master::with_directory_bucket();
    let mut trees = Vec::new();
    let mut snapshot = || {
        trees.push(Fingerprint::take(&m.mnt, Exactness::Copy));
        m.snapshot();
    };
    fs::create_dir(m.at("etc")).unwrap();
    fs::write(m.at("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
    fs::hard_link(m.at("etc/hosts"), m.at("etc/same")).unwrap();
    fs::write(m.at("large"), noise(1, 5_300_000)).unwrap();
    symlink("etc/hosts", m.at("link")).unwrap();
    m.dir("old/deep");
    fs::write(m.at("old/deep/kept"), "kept").unwrap();
    fs::write(m.at("old/deep/lost"), "lost").unwrap();
    snapshot();

    fs::rename(m.at("old"), m.at("new")).unwrap();
    fs::remove_file(m.at("new/deep/lost")).unwrap();
    let large = fs::OpenOptions::new()
        .write(true)
        .open(m.at("large"))
        .unwrap();
    large.write_all_at(&noise(2, 1000), 3_500_000).unwrap();
    fs::set_permissions(m.at("etc/hosts"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(m.at("etc/passwd"), "root\n").unwrap();
    snapshot();

    large.write_all_at(&noise(3, 1000), 10).unwrap();
    fs::rename(m.at("new/deep/kept"), m.at("etc/kept")).unwrap();
    fs::remove_dir(m.at("new/deep")).unwrap();
    fs::remove_file(m.at("link")).unwrap();
    symlink("etc/kept", m.at("link")).unwrap();
    fs::set_permissions(m.at("new"), fs::Permissions::from_mode(0o750)).unwrap();
    snapshot();
    drop(large);
    (m, trees)
}

#[test]
fn each_snapshot_is_rebuilt_by_hand_exactly() {
    needs_fuse!();
    needs_tools!("zstd", "tar", "jq");
    let (m, trees) = three_snapshots();
    // What is there is found as the document says.
    let bucket = m.bucket.dir();
    let handle = format!("FS={}", m.fs);
    let words = [
        ("cd BUCKET", ":"),
        ("FS=home-0f8b…", &handle),
        ("cat epochs/*.base.json", ":"),
    ];
    let found = run(bucket, &block("cd BUCKET"), &words);
    assert!(found.contains(&format!("{}.config", m.fs)), "{found}");
    assert!(found.contains("0000000003-e1.json"), "{found}");

    let mut restored = Restored {
        objects: bucket.join(&m.fs),
        out: m.stage.path("restore"),
        names: Names::new(),
        times: HashMap::new(),
    };
    for (number, wanted) in (1..).zip(&trees) {
        let dir = m.stage.path(format!("{number:010}-e1"));
        let (gone, come, patches) = restored.changes(number, &dir);
        if number > 1 {
            restored.rename(&gone, &come, &m.stage.path("aside"));
        }
        restored.unpack(&format!("m/{number:010}-e1.json"));
        if number == 1 {
            restored.rename(&gone, &come, &m.stage.path("aside"));
            let found = Fingerprint::take(&restored.out, Exactness::Copy);
            assert_same("the first snapshot, as tar leaves it", wanted, &found);
        }
        restored.patch(&patches);
        restored.attributes(&dir);
        restored.finish();
        let found = Fingerprint::take(&restored.out, Exactness::Copy);
        assert_same(&format!("snapshot {number} by hand"), wanted, &found);
    }
}

#[test]
fn one_file_is_found_by_hand_in_the_layers() {
    needs_fuse!();
    needs_tools!("zstd", "jq", "sqlite3");
    let (m, _) = three_snapshots();
    let objects = m.bucket.dir().join(&m.fs);
    let work = m.stage.dir("layers");
    for folder in ["m", "s"] {
        symlink(objects.join(folder), work.join(folder)).unwrap();
    }
    let commands = block("SELECT ino FROM dentry");
    let fetch: Vec<&str> = commands.lines().take_while(|l| !l.is_empty()).collect();
    let with_manifest = format!("MANIFEST=m/0000000003-e1.json\n{}", fetch.join("\n"));
    run(&work, &with_manifest, &[]);
    let manifest = fs::read(objects.join("m/0000000003-e1.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let layers = manifest["layers"].as_array().unwrap().iter();
    let layers: Vec<String> = layers
        .map(|l| format!("{}.sqlite", l["key"].as_str().unwrap().replace('/', "_")))
        .collect();
    // The first layer that has a row says it.
    let first = |begin: &str, words: &[(&str, &str)]| -> (String, String) {
        let ask = line(&commands, begin);
        let asked = layers.iter().map(|layer| {
            let words: Vec<_> = [("LAYER.sqlite", layer.as_str())]
                .iter()
                .chain(words)
                .copied()
                .collect();
            (
                layer.clone(),
                run(&work, &ask, &words).trim_end().to_owned(),
            )
        });
        asked
            .into_iter()
            .find(|(_, said)| !said.is_empty())
            .unwrap()
    };
    let name = |parent: &str, name: &str| {
        let words = [
            ("= 17", format!("= {parent}")),
            ("'hosts'", format!("'{name}'")),
        ];
        let words = words
            .each_ref()
            .map(|(theirs, ours)| (*theirs, ours.as_str()));
        first(
            "sqlite3 LAYER.sqlite \"SELECT ino FROM dentry WHERE parent = 17",
            &words,
        )
        .1
    };
    let etc = first(
        "sqlite3 LAYER.sqlite \"SELECT ino FROM dentry WHERE parent = 1 ",
        &[],
    )
    .1;
    let section = block("SELECT t.key, s.offset");
    for (ino, path) in [
        (name(&etc, "hosts"), "etc/hosts"),
        (name("1", "large"), "large"),
    ] {
        let wanted = fs::read(m.at(path)).unwrap();
        let inode = format!("= {ino}");
        let words = [("= 23", inode.as_str())];
        let (_, row) = first("sqlite3 LAYER.sqlite \"SELECT * FROM inode", &words);
        assert!(
            row.split('|').any(|cell| cell == wanted.len().to_string()),
            "{row}"
        );
        // Older layers first: what is newer lies over it.
        let mut blocks: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        let extents = line(&commands, "sqlite3 LAYER.sqlite \"SELECT blk");
        for layer in layers.iter().rev() {
            let words = [("LAYER.sqlite", layer.as_str()), ("= 23", &inode)];
            for extent in run(&work, &extents, &words).lines() {
                let cells: Vec<u64> = extent.split('|').map(|c| c.parse().unwrap()).collect();
                let [block, n, snapshot, section, offset] = cells[..] else {
                    panic!("{extent}")
                };
                for k in 0..n {
                    let place = [snapshot, section + k, if k == 0 { offset } else { 0 }];
                    let mut place = place.map(|p| p.to_string()).to_vec();
                    place.push(layer.clone());
                    blocks.insert(block + k, place);
                }
            }
        }
        let size = 1 << 20;
        let mut read = Vec::new();
        for (block, place) in blocks {
            let [snapshot, number, offset, layer] = &place[..] else {
                panic!("{place:?}")
            };
            let source = line(&commands, "sqlite3 LAYER.sqlite \"SELECT toc_key");
            let is = format!("= {snapshot}");
            let toc = run(
                &work,
                &source,
                &[("LAYER.sqlite", layer.as_str()), ("= 4", &is)],
            );
            let is = format!("= {number}");
            let words = [("TOC_KEY", toc.trim_end()), ("= 12", is.as_str())];
            let end = section.find("# tarball key").unwrap();
            let told = run(&work, &section[..end], &words);
            let told: Vec<&str> = told.trim_end().split('|').collect();
            let [tarball, frame, length, _] = told[..] else {
                panic!("{told:?}")
            };
            let left = (wanted.len() as u64 - block * size).min(size).to_string();
            let fetch: String = section[end..]
                .lines()
                .filter(|l| !l.starts_with("b3sum"))
                .fold(String::new(), |all, l| all + l + "\n");
            let set = format!(
                "TARBALL={tarball} FRAME_OFFSET={frame} FRAME_LENGTH={length} OFFSET={offset} SIZE={left}\n{}",
                fetch.replace("TARBALL |", "$TARBALL |")
            );
            assert_eq!(read.len() as u64, block * size);
            let mut shell = Command::new("sh");
            shell.args(["-euc", &set]).current_dir(&work);
            read.extend(shell.output().unwrap().stdout);
        }
        assert!(read == wanted, "{path} has {} bytes by hand", read.len());
    }
}

#[test]
fn one_file_that_was_written_whole_is_found_by_hand_in_the_tarballs() {
    needs_fuse!();
    needs_tools!("zstd", "tar", "jq");
    let (m, _) = three_snapshots();
    let objects = m.bucket.dir().join(&m.fs);
    let commands = block("for meta in s/*/0000.tar.zst");
    let end = commands.find("zstd -dc s/…/").unwrap();
    let (search, unpack) = commands.split_at(end);
    for (path, wanted) in [
        ("etc/passwd", b"root\n".to_vec()),
        ("old/deep/kept", b"kept".to_vec()),
        ("large", noise(1, 5_300_000)),
    ] {
        let found = rows(&run(&objects, search, &[("etc/hosts", path)]));
        let [found] = &found[..] else {
            panic!("{path}: {found:?}")
        };
        let folder = Path::new(found[0].as_str().unwrap()).parent().unwrap();
        let tarball = folder.join(format!("{:04}.tar.zst", found[1].as_u64().unwrap()));
        let to = m.stage.path("one-file");
        let words = [
            ("s/…/0001.tar.zst", tarball.to_str().unwrap()),
            ("etc/hosts", path),
        ];
        let unpack = format!("{} > {}", unpack.trim_end(), to.display());
        run(&objects, &unpack, &words);
        let read = fs::read(&to).unwrap();
        assert!(
            read == wanted,
            "{path} in {}: {} bytes",
            tarball.display(),
            read.len()
        );
    }
}
