use super::super::{LayerDb, rows};
use super::*;
use crate::error::ErrorKind;
use crate::ids::Xid;
use crate::inode::{FileKind, Timestamp};
use crate::names::name_hash;
use proptest::prelude::*;
use std::collections::{BTreeSet, HashMap};

const BLOCK: u64 = 16;
const INO: Ino = Ino(5);

fn layer(fill: impl FnOnce(&rusqlite::Connection) -> Result<()>) -> Arc<dyn Layer> {
    let layer = LayerDb::in_memory();
    layer.with(fill).unwrap();
    Arc::new(layer)
}

fn inode_row(size: u64, min_size: u64) -> InodeRow {
    InodeRow {
        gone: false,
        size,
        min_size,
        mtime: Timestamp(1),
        ..InodeRow::tombstone(INO, Xid(1))
    }
}

fn extent_row(blk: u64, n: u64, snapshot: u64, section: u64, offset: u64) -> ExtentRow {
    let snapshot = SnapshotNumber(snapshot);
    ExtentRow {
        ino: INO,
        blk,
        n,
        snapshot,
        section,
        offset,
        xid: Xid(1),
    }
}

fn dentry_row(parent: u64, name: &str, ino: Option<u64>) -> DentryRow {
    DentryRow {
        parent: Ino(parent),
        hash: name_hash(name.as_bytes()),
        name: name.as_bytes().to_vec(),
        ino: ino.map(Ino),
        kind: FileKind::File,
        xid: Xid(1),
    }
}

/// A file as bytes, and what a persister would know of the time since the last cut.
#[derive(Debug, Default)]
struct Model {
    bytes: Vec<u8>,
    punched: Vec<bool>,
    dirty: BTreeSet<u64>,
    min_size: u64,
    touched: bool,
}

#[derive(Debug, Clone)]
enum Op {
    Write { at: usize, len: usize, fill: u8 },
    Truncate { size: usize },
    Punch { from: usize, len: usize },
    Cut { runs: bool },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..150usize, 1..50usize, 1..=255u8)
            .prop_map(|(at, len, fill)| Op::Write { at, len, fill }),
        2 => (0..200usize).prop_map(|size| Op::Truncate { size }),
        2 => (0..200usize, 1..60usize).prop_map(|(from, len)| Op::Punch { from, len }),
        2 => any::<bool>().prop_map(|runs| Op::Cut { runs }),
    ]
}

impl Model {
    fn apply(&mut self, op: &Op) {
        self.touched = true;
        match *op {
            Op::Write { at, len, fill } => {
                let size = self.bytes.len().max(at + len);
                self.resize(size);
                for position in at..at + len {
                    self.bytes[position] = fill.wrapping_add(position as u8).max(1);
                    self.punched[position] = false;
                    self.dirty.insert(position as u64 / BLOCK);
                }
            }
            Op::Truncate { size } => {
                self.resize(size);
                self.min_size = self.min_size.min(size as u64);
            }
            Op::Punch { from, len } => {
                for position in from..(from + len).min(self.bytes.len()) {
                    self.bytes[position] = 0;
                    self.punched[position] = true;
                }
            }
            Op::Cut { .. } => {}
        }
    }

    fn resize(&mut self, size: usize) {
        self.bytes.resize(size, 0);
        self.punched.resize(size, false);
    }

    /// The layer a persister would write now, its sections going to `store`.
    fn cut(
        &mut self,
        snapshot: u64,
        runs: bool,
        store: &mut HashMap<(u64, u64), Vec<u8>>,
    ) -> Arc<dyn Layer> {
        let size = self.bytes.len();
        let mut extents: Vec<ExtentRow> = Vec::new();
        let mut section = 0;
        for &blk in &self.dirty {
            let start = (blk * BLOCK) as usize;
            let end = (start + BLOCK as usize).min(size);
            if start >= end || self.punched[start..end].iter().all(|p| *p) {
                continue;
            }
            let data = (start..end)
                .filter(|i| !self.punched[*i])
                .map(|i| self.bytes[i]);
            let offset = if runs { 0 } else { 3 + blk };
            let mut raw = vec![0xee; offset as usize];
            raw.extend(data);
            raw.extend([0xdd; 40]); // what follows in the tar
            store.insert((snapshot, section), raw);
            match extents.last_mut() {
                Some(last) if runs && last.blk + last.n == blk => last.n += 1,
                _ => extents.push(extent_row(blk, 1, snapshot, section, offset)),
            }
            section += 1;
        }
        let touched = self.touched;
        let row = inode_row(size as u64, self.min_size);
        let layer = layer(|conn| {
            if touched {
                rows::put_inode(conn, &row)?;
            }
            let mut holes = Ranges::default();
            for (i, _) in self
                .punched
                .iter()
                .enumerate()
                .filter(|(_, punched)| **punched)
            {
                holes.insert(i as u64, i as u64 + 1);
            }
            for (from, to) in holes.0 {
                rows::put_hole(
                    conn,
                    &HoleRow {
                        ino: INO,
                        from,
                        to,
                        xid: Xid(1),
                    },
                )?;
            }
            extents
                .iter()
                .try_for_each(|extent| rows::put_extent(conn, extent))
        });
        self.dirty.clear();
        self.punched.fill(false);
        (self.min_size, self.touched) = (size as u64, false);
        layer
    }
}

fn check(model: &Model, stack: &Stack, store: &HashMap<(u64, u64), Vec<u8>>) {
    let size = model.bytes.len() as u64;
    let blocks = size.div_ceil(BLOCK);
    let contents = stack.content(INO, 0, blocks + 2).unwrap();
    let extents = stack.extents(INO, 0, u64::MAX).unwrap();
    let mut read = Vec::new();
    for (blk, content) in contents.iter().enumerate() {
        let blk = blk as u64;
        assert_eq!(content.blk, blk);
        let alone = stack.content(INO, blk, blk + 1).unwrap();
        assert_eq!(alone.as_slice(), std::slice::from_ref(content));
        let part = extents.iter().find(|e| e.blk <= blk && blk < e.blk + e.n);
        assert_eq!(content.extent, part.map(|e| part_of(e, blk, blk + 1)));
        let raw = content
            .extent
            .map(|e| store[&(e.snapshot.0, e.section)].clone());
        let len = size.saturating_sub(blk * BLOCK).min(BLOCK) as usize;
        read.extend(assemble(content, &raw.unwrap_or_default(), 0..len).unwrap());
    }
    assert_eq!(read, model.bytes);
    for hole in stack.holes(INO, 0, size).unwrap() {
        assert!(hole.from < hole.to && hole.to <= size);
        let zeros = &model.bytes[hole.from as usize..hole.to as usize];
        assert!(zeros.iter().all(|b| *b == 0), "{hole:?} covers data");
    }
}

proptest! {
    #[test]
    fn a_file_reads_as_written_whatever_layers_it_lies_in(
        ops in proptest::collection::vec(op(), 1..40)
    ) {
        let mut model = Model { touched: true, ..Model::default() };
        let mut layers: Vec<Arc<dyn Layer>> = Vec::new();
        let mut store = HashMap::new();
        for op in ops.iter().chain([&Op::Cut { runs: false }]) {
            model.apply(op);
            if let Op::Cut { runs } = *op {
                let snapshot = layers.len() as u64 + 1;
                layers.insert(0, model.cut(snapshot, runs, &mut store));
                check(&model, &Stack::new(layers.clone(), BLOCK), &store);
            }
        }
    }

    #[test]
    fn ranges_are_sets(ops in proptest::collection::vec((any::<bool>(), 0..40u64, 0..40u64), 1..30)) {
        let mut ranges = Ranges::default();
        let mut model = BTreeSet::new();
        for (insert, a, b) in ops {
            if insert {
                ranges.insert(a, b);
                model.extend(a..b);
            } else {
                ranges.remove(a, b);
                model.retain(|x| !(a..b).contains(x));
            }
            let found: Vec<u64> = ranges.0.iter().flat_map(|r| r.0..r.1).collect();
            prop_assert_eq!(&found, &model.iter().copied().collect::<Vec<_>>());
            prop_assert!(ranges.0.windows(2).all(|w| w[0].1 < w[1].0));
            let part: Vec<u64> = ranges.within(a, b).iter().flat_map(|r| r.0..r.1).collect();
            prop_assert_eq!(part, model.iter().copied().filter(|x| (a..b).contains(x)).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_tombstone_of_an_inode_hides_all_rows_below() {
    let bottom = layer(|conn| {
        rows::put_inode(conn, &inode_row(20, 0))?;
        rows::put_extent(conn, &extent_row(0, 2, 1, 0, 0))?;
        rows::put_hole(
            conn,
            &HoleRow {
                ino: INO,
                from: 3,
                to: 4,
                xid: Xid(1),
            },
        )?;
        rows::put_link(conn, INO, b"target")?;
        rows::put_dentry(conn, &dentry_row(1, "a", Some(5)))?;
        let (name, value) = (b"user.a".to_vec(), Some(b"1".to_vec()));
        rows::put_xattr(
            conn,
            &XattrRow {
                ino: INO,
                name,
                value,
                xid: Xid(1),
            },
        )
    });
    let top = layer(|conn| rows::put_inode(conn, &InodeRow::tombstone(INO, Xid(2))));
    let below = Stack::new(vec![bottom.clone()], BLOCK);
    assert_eq!(below.extents(INO, 0, 9).unwrap().len(), 1);
    assert_eq!(below.holes(INO, 0, 9).unwrap().len(), 1);
    assert_eq!(below.names_of(INO).unwrap().len(), 1);
    assert_eq!(below.link(INO).unwrap().unwrap(), b"target");
    let stack = Stack::new(vec![top, bottom], BLOCK);
    assert!(stack.inode(INO).unwrap().unwrap().gone);
    assert_eq!(stack.link(INO).unwrap(), None);
    assert!(stack.xattrs(INO).unwrap().is_empty());
    assert!(stack.extents(INO, 0, 9).unwrap().is_empty());
    assert!(stack.holes(INO, 0, 9).unwrap().is_empty());
    assert!(stack.names_of(INO).unwrap().is_empty());
    assert_eq!(stack.content(INO, 0, 1).unwrap(), [BlockContent::zero(0)]);
}

#[test]
fn names_are_merged_and_their_tombstones_told() {
    let bottom = layer(|conn| {
        for i in 0..40 {
            rows::put_dentry(conn, &dentry_row(1, &format!("n{i}"), Some(100 + i)))?;
        }
        rows::put_dentry(conn, &dentry_row(1, "link", Some(100)))
    });
    let top = layer(|conn| {
        rows::put_dentry(conn, &dentry_row(1, "n0", None))?;
        rows::put_dentry(conn, &dentry_row(1, "n1", Some(100)))?;
        rows::put_dentry(conn, &dentry_row(1, "new", Some(200)))
    });
    let stack = Stack::new(vec![top, bottom], BLOCK);
    assert_eq!(stack.dentry(Ino(1), b"n0").unwrap().unwrap().ino, None);
    assert_eq!(
        stack.dentry(Ino(1), b"n1").unwrap().unwrap().ino,
        Some(Ino(100))
    );
    assert_eq!(
        stack.dentry(Ino(1), b"n2").unwrap().unwrap().ino,
        Some(Ino(102))
    );
    assert_eq!(stack.dentry(Ino(1), b"none").unwrap(), None);
    let whole = stack.scan_dir(Ino(1), None, 1000).unwrap();
    assert_eq!(whole.len(), 42);
    assert!(whole.is_sorted_by_key(|row| (row.hash, row.name.clone())));
    assert_eq!(whole.iter().filter(|row| row.ino.is_none()).count(), 1);
    let mut pieces: Vec<DentryRow> = Vec::new();
    loop {
        let after = pieces.last().map(|row| (row.hash, row.name.clone()));
        let after = after.as_ref().map(|(hash, name)| (*hash, name.as_slice()));
        let piece = stack.scan_dir(Ino(1), after, 5).unwrap();
        let end = piece.len() < 5;
        pieces.extend(piece);
        if end {
            break;
        }
    }
    assert_eq!(pieces, whole);
    // n0 named 100 until the tombstone; n1 names it now; n1 named 101 before.
    let names = |ino| -> Vec<Vec<u8>> {
        let mut names: Vec<_> = stack
            .names_of(Ino(ino))
            .unwrap()
            .into_iter()
            .map(|row| row.name)
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(100), [b"link".to_vec(), b"n1".to_vec()]);
    assert!(names(101).is_empty());
    assert_eq!(names(200), [b"new".to_vec()]);
}

#[test]
fn attributes_are_merged_by_name() {
    let row = |name: &str, value: Option<&str>| XattrRow {
        ino: INO,
        name: name.into(),
        value: value.map(Into::into),
        xid: Xid(1),
    };
    let of = |rows: Vec<XattrRow>| {
        layer(move |conn| rows.iter().try_for_each(|row| rows::put_xattr(conn, row)))
    };
    let bottom = of(vec![
        row("a", Some("1")),
        row("b", Some("1")),
        row("c", Some("1")),
    ]);
    let top = of(vec![
        row("b", None),
        row("c", Some("2")),
        row("d", Some("2")),
    ]);
    let merged = Stack::new(vec![top, bottom], BLOCK).xattrs(INO).unwrap();
    let expected = [
        row("a", Some("1")),
        row("b", None),
        row("c", Some("2")),
        row("d", Some("2")),
    ];
    assert_eq!(merged, expected);
}

#[test]
fn the_smallest_size_of_a_stack_is_that_of_all_its_layers() {
    let of = |size, min| layer(move |conn| rows::put_inode(conn, &inode_row(size, min)));
    let empty = layer(|_| Ok(()));
    let stack = Stack::new(vec![of(90, 50), empty, of(50, 20), of(60, 60)], BLOCK);
    let row = stack.inode(INO).unwrap().unwrap();
    assert_eq!((row.size, row.min_size), (90, 20));
}

#[test]
fn an_extent_ends_where_the_file_ended_when_it_was_made() {
    let bottom = layer(|conn| rows::put_inode(conn, &inode_row(10, 0)));
    let middle = layer(|conn| rows::put_extent(conn, &extent_row(0, 1, 1, 0, 2)));
    let top = layer(|conn| rows::put_inode(conn, &inode_row(100, 10)));
    let stack = Stack::new(vec![top, middle.clone(), bottom], BLOCK);
    let content = stack.content(INO, 0, 1).unwrap().remove(0);
    assert_eq!(
        (content.len, content.zeroes.as_slice()),
        (10, &[(10, 16)][..])
    );
    let block = assemble(&content, b"..0123456789headers of the next", 0..16).unwrap();
    assert_eq!(block, b"0123456789\0\0\0\0\0\0");
    assert_eq!(assemble(&content, b"..0123456789", 0..4).unwrap(), b"0123");
    let error = assemble(&content, b"..012345678", 0..16).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damage);
    assert_eq!(
        assemble(&content, b".", 0..16).unwrap_err().kind(),
        ErrorKind::Damage
    );
    let headless = Stack::new(vec![middle], BLOCK).content(INO, 0, 1);
    assert_eq!(headless.unwrap_err().kind(), ErrorKind::Damage);
}

#[test]
fn a_stack_without_layers_is_an_empty_file_system() {
    let stack = Stack::new(Vec::new(), BLOCK);
    assert_eq!(stack.inode(Ino::ROOT).unwrap(), None);
    assert_eq!(stack.scan_dir(Ino::ROOT, None, 10).unwrap(), []);
    assert_eq!(stack.content(INO, 3, 4).unwrap(), [BlockContent::zero(3)]);
}
