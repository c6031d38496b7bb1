use super::super::Outsider;
use cbfs_tests::contents::noise;
use cbfs_tests::{Exactness, Fingerprint, Master, needs_fuse, tree};
use serde_json::Value;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;

#[test]
fn diff_tells_each_change_once_in_the_order_of_paths() {
    needs_fuse!();
    let m = Master::new();
    let dir = m.dir("dir");
    fs::write(dir.join("large"), noise(1, 3 << 20)).unwrap();
    fs::write(dir.join("mode"), "x").unwrap();
    fs::write(m.at("gone"), "x").unwrap();
    fs::write(m.at("saved"), "by an editor").unwrap();
    fs::write(m.at("moves"), "x").unwrap();
    fs::write(m.at("read"), "only").unwrap();
    m.snapshot();
    let large = File::options().write(true).open(dir.join("large")).unwrap();
    large.write_all_at(b"patch", 1 << 20).unwrap();
    fs::set_permissions(dir.join("mode"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&dir, m.at("renamed")).unwrap();
    fs::remove_file(m.at("gone")).unwrap();
    fs::write(m.at("saved~"), "again").unwrap();
    fs::rename(m.at("saved~"), m.at("saved")).unwrap();
    fs::rename(m.at("moves"), m.at("renamed/moved")).unwrap();
    fs::write(m.at(OsStr::from_bytes(b"odd\n\xff")), "new").unwrap();
    fs::read(m.at("read")).unwrap();
    m.snapshot();
    let text = Outsider::of(&m)
        .ctl(&["snapshot", "diff", "home@1", "home@2"])
        .ok();
    assert_eq!(
        text,
        "- file    /gone\n\
         + file    \"/odd\\n\\377\"\n\
         R dir     /dir -> /renamed\n\
         M file    /renamed/large  (contents, mtime)\n\
         m file    /renamed/mode  (mode)\n\
         R file    /moves -> /renamed/moved\n\
         M file    /saved  (contents, mtime)\n"
    );
    let (entries, code) = Outsider::of(&m).json(&["snapshot", "diff", "home@1", "latest"]);
    assert_eq!(code, Some(0));
    assert_eq!(entries[1]["path_hex"], "6f64640aff");
    assert_eq!(entries[2]["from"], "dir");
    assert_eq!(
        entries[3]["differs"],
        serde_json::json!(["contents", "mtime"])
    );
    let (none, _) = Outsider::of(&m).json(&["snapshot", "diff", "home@2", "2"]);
    assert_eq!(none, Value::Array(Vec::new()));
}

#[test]
fn diff_agrees_with_a_comparison_of_both_trees() {
    needs_fuse!();
    let m = Master::new();
    tree::build(&m.dir("tree"));
    let before = m.fingerprint();
    m.snapshot();
    tree::change(&m.at("tree"));
    let after = Fingerprint::take(&m.mnt, Exactness::Snapshot);
    m.snapshot();
    let (entries, _) = Outsider::of(&m).json(&["snapshot", "diff", "home@1", "home@2"]);
    let path = |entry: &Value, plain: &str, hex: &str| -> Option<PathBuf> {
        let bytes = match (&entry[plain], &entry[hex]) {
            (Value::String(text), _) => text.as_bytes().to_vec(),
            (_, Value::String(hex)) => (0..hex.len() / 2)
                .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
                .collect(),
            _ => return None,
        };
        Some(PathBuf::from(OsStr::from_bytes(&bytes)))
    };
    let entries: Vec<(&str, PathBuf, Option<PathBuf>)> = entries
        .as_array()
        .unwrap()
        .iter()
        .map(|e| {
            let change = e["change"].as_str().unwrap();
            let from = path(e, "from", "from_hex");
            (change, path(e, "path", "path_hex").unwrap(), from)
        })
        .collect();
    let renames: Vec<(&PathBuf, &PathBuf)> = entries
        .iter()
        .filter_map(|(_, to, from)| Some((from.as_ref()?, to)))
        .collect();
    // Where a path of before is now, by the longest rename above it.
    let moved = |old: &PathBuf| -> PathBuf {
        let above = renames.iter().filter(|(from, _)| old.starts_with(from));
        match above.max_by_key(|(from, _)| from.components().count()) {
            Some((from, to)) if *from == old => (*to).clone(),
            Some((from, to)) => to.join(old.strip_prefix(from).unwrap()),
            None => old.clone(),
        }
    };
    let of = |wanted: &str| -> BTreeSet<PathBuf> {
        let of_kind = entries.iter().filter(|(change, ..)| *change == wanted);
        of_kind.map(|(_, path, _)| path.clone()).collect()
    };
    let (removed, added) = (of("removed"), of("added"));
    let kept: BTreeSet<PathBuf> = before
        .entries
        .keys()
        .filter(|path| !removed.contains(*path))
        .map(moved)
        .collect();
    let expected: BTreeSet<PathBuf> = kept.union(&added).cloned().collect();
    let found: BTreeSet<PathBuf> = after.entries.keys().cloned().collect();
    assert_eq!(expected, found, "the names do not add up");
    let told: BTreeSet<PathBuf> = entries.iter().map(|(_, path, _)| path.clone()).collect();
    for (old, entry) in &before.entries {
        let new = moved(old);
        if removed.contains(old) || told.contains(&new) {
            continue;
        }
        let now = &after.entries[&new];
        assert_eq!(entry.blake3, now.blake3, "{}: contents", old.display());
        assert_eq!(entry.mode, now.mode, "{}: mode", old.display());
        assert_eq!(entry.xattrs, now.xattrs, "{}: xattrs", old.display());
        assert_eq!(
            (entry.uid, entry.gid),
            (now.uid, now.gid),
            "{}",
            old.display()
        );
    }
    for (change, path, _) in &entries {
        if let (&"changed", Some(old)) = (change, before.entries.get(path)) {
            assert_ne!(old, &after.entries[path], "{}", path.display());
        }
    }
}
