use super::*;
use crate::format::ObjectRef;
use crate::format::manifest::LayerRef;
use crate::ids::Xid;
use crate::inode::Timestamp;
use crate::layers::{DentryRow, ExtentRow, HoleRow, LayerDb, rows};
use crate::names::name_hash;
use rusqlite::Connection;
use std::sync::Arc;

const BLOCK: u64 = 1 << 20;

fn layer(number: u64, fill: impl FnOnce(&Connection)) -> OpenLayer {
    let database = LayerDb::in_memory();
    let filled = |conn: &Connection| {
        fill(conn);
        Ok(())
    };
    database.with(filled).unwrap();
    let object = ObjectRef {
        key: format!("s/{number}/layer.sqlite.zst"),
        size: 1,
        blake3: String::new(),
    };
    let (from, to) = (SnapshotNumber(number), SnapshotNumber(number));
    OpenLayer {
        object: LayerRef { object, from, to },
        database: Arc::new(database),
    }
}

fn inode(conn: &Connection, ino: u64, kind: FileKind, time: i64) {
    inode_with(conn, ino, kind, time, |_| {});
}

fn inode_with(
    conn: &Connection,
    ino: u64,
    kind: FileKind,
    time: i64,
    change: impl FnOnce(&mut InodeRow),
) {
    let mut row = InodeRow {
        kind,
        mode: 0o644,
        nlink: 1,
        size: if kind == FileKind::File { 10 } else { 0 },
        mtime: Timestamp(time),
        ctime: Timestamp(time),
        gone: false,
        ..InodeRow::tombstone(Ino(ino), Xid(1))
    };
    row.min_size = row.size; // never cut
    change(&mut row);
    rows::put_inode(conn, &row).unwrap();
}

fn gone(conn: &Connection, ino: u64) {
    rows::put_inode(conn, &InodeRow::tombstone(Ino(ino), Xid(9))).unwrap();
}

fn name(conn: &Connection, parent: u64, name: &[u8], ino: Option<u64>) {
    let row = DentryRow {
        parent: Ino(parent),
        hash: name_hash(name),
        name: name.to_vec(),
        ino: ino.map(Ino),
        kind: FileKind::File,
        xid: Xid(1),
    };
    rows::put_dentry(conn, &row).unwrap();
}

fn data(conn: &Connection, ino: u64, snapshot: u64, section: u64) {
    let row = ExtentRow {
        ino: Ino(ino),
        blk: 0,
        n: 1,
        snapshot: SnapshotNumber(snapshot),
        section,
        offset: 0,
        xid: Xid(1),
    };
    rows::put_extent(conn, &row).unwrap();
}

/// Root with file `f` (2), directory `d` (3) with `x` (4) and `y` (5), and a symlink `s` (6).
fn base() -> OpenLayer {
    layer(1, |c| {
        inode(c, 1, FileKind::Directory, 1);
        for (parent, file, ino) in [(1, b"f", 2), (3, b"x", 4), (3, b"y", 5)] {
            inode(c, ino, FileKind::File, 1);
            name(c, parent, file, Some(ino));
            data(c, ino, 1, ino);
        }
        inode(c, 3, FileKind::Directory, 1);
        name(c, 1, b"d", Some(3));
        inode(c, 6, FileKind::Symlink, 1);
        name(c, 1, b"s", Some(6));
        rows::put_link(c, Ino(6), b"f").unwrap();
    })
}

/// `CHANGE path[ < from] [aspects]` of each entry, from newest-first layers.
fn told(first: &[OpenLayer], second: &[OpenLayer]) -> Vec<String> {
    let stack = |layers: &[OpenLayer]| crate::cloud_snapshot::stack_of(layers, BLOCK);
    let (a, b) = (stack(first), stack(second));
    let (own_a, own_b) = own_layers(first, second);
    let entries = Comparison::of(&a, &b, &[own_a, own_b])
        .unwrap()
        .run()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let shown = entries.iter().map(|e| {
        let from = e.from.as_ref().map(|f| format!(" < {}", text(f)));
        let differs = format!("{:?}", e.differs);
        let line = format!(
            "{:?} {}{}",
            e.change,
            text(&e.path),
            from.unwrap_or_default()
        );
        format!("{line} {differs}").replace(" []", "")
    });
    shown.collect()
}

#[test]
fn every_kind_of_change_is_one_entry_and_both_ways_mirror_each_other() {
    let base = base();
    let newer = layer(2, |c| {
        inode(c, 1, FileKind::Directory, 2);
        // f gets contents; d is renamed to e, and its x gets another mode; y goes; z comes.
        inode(c, 2, FileKind::File, 2);
        data(c, 2, 2, 0);
        name(c, 1, b"d", None);
        name(c, 1, b"e", Some(3));
        inode(c, 3, FileKind::Directory, 2);
        inode_with(c, 4, FileKind::File, 1, |row| row.mode = 0o600);
        name(c, 3, b"y", None);
        gone(c, 5);
        inode(c, 7, FileKind::File, 2);
        name(c, 3, b"z", Some(7));
    });
    let (first, second) = ([base.clone()], [newer, base]);
    assert_eq!(
        told(&first, &second),
        [
            "Removed d/y",
            "Renamed e < d",
            "Metadata e/x [Mode]",
            "Added e/z",
            "Changed f [Contents, Mtime]",
        ]
    );
    assert_eq!(
        told(&second, &first),
        [
            "Renamed d < e",
            "Metadata d/x [Mode]",
            "Added d/y",
            "Removed e/z",
            "Changed f [Contents, Mtime]",
        ]
    );
    assert!(told(&second, &second).is_empty());
}

#[test]
fn a_file_replaced_by_another_is_one_that_changed_and_by_another_kind_is_two_entries() {
    let base = base();
    let newer = layer(2, |c| {
        gone(c, 2);
        inode(c, 8, FileKind::File, 2);
        data(c, 8, 2, 0);
        name(c, 1, b"f", Some(8));
        gone(c, 6);
        inode(c, 9, FileKind::Directory, 2);
        name(c, 1, b"s", Some(9));
    });
    assert_eq!(
        told(std::slice::from_ref(&base), &[newer, base.clone()]),
        ["Changed f [Contents, Mtime]", "Removed s", "Added s"]
    );
}

#[test]
fn hard_links_come_and_go_by_name() {
    let base = base();
    let newer = layer(2, |c| {
        inode_with(c, 2, FileKind::File, 1, |row| {
            (row.nlink, row.ctime) = (2, Timestamp(9));
        });
        name(c, 3, b"link", Some(2));
    });
    let second = [newer, base.clone()];
    assert_eq!(told(&[base], &second), ["Added d/link"]);
    let newest = layer(3, |c| {
        inode(c, 2, FileKind::File, 1);
        name(c, 1, b"f", None);
    });
    let third = [&[newest], &second[..]].concat();
    assert_eq!(told(&second, &third), ["Removed f"]);
}

#[test]
fn holes_and_truncation_are_changes_and_access_times_are_none() {
    let base = base();
    let newer = layer(2, |c| {
        let hole = HoleRow {
            ino: Ino(2),
            from: 0,
            to: 5,
            xid: Xid(9),
        };
        inode_with(c, 2, FileKind::File, 1, |row| row.min_size = 10);
        rows::put_hole(c, &hole).unwrap();
        inode_with(c, 4, FileKind::File, 1, |row| row.min_size = 3);
        inode_with(c, 5, FileKind::File, 1, |row| {
            (row.min_size, row.atime) = (10, Timestamp(99));
        });
        inode_with(c, 6, FileKind::Symlink, 1, |row| row.ctime = Timestamp(5));
    });
    assert_eq!(
        told(std::slice::from_ref(&base), &[newer, base.clone()]),
        [
            "Changed d/x [Contents]",
            "Changed f [Contents]",
            "Metadata s [Ctime]"
        ]
    );
}

#[test]
fn stacks_without_a_common_layer_are_compared_in_full() {
    let mut merged = base();
    merged.object.object.key = "layers/1-2".into();
    assert!(told(&[base()], &[merged.clone()]).is_empty());
    let newer = layer(2, |c| inode_with(c, 4, FileKind::File, 1, |r| r.uid = 5));
    assert_eq!(told(&[base()], &[newer, merged]), ["Metadata d/x [Owner]"]);
}
