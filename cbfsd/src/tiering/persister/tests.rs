//! The persister against GNU tar, zstd and the rules of reading layers.

use super::*;
use cbfs_core::format::changes::{
    CHANGES_MEMBER, Change, MemberForm, SnapshotRecord, read_changes,
};
use cbfs_core::frames::{decompress_section, decompress_to_file};
use cbfs_core::ids::{Ino, Xid};
use cbfs_core::inode::{FileKind, InodeRow, Timestamp};
use cbfs_core::layers::schema::KVS_TABLES;
use cbfs_core::layers::{DentryRow, HoleRow, Layer, LayerDb, Stack, XattrRow, assemble, rows};
use cbfs_core::names::name_hash;
use cbfs_core::tarball::{FrameReader, MemberReader};
use cbfs_core::toc::Toc;
use parking_lot::Mutex;
use rusqlite::{Connection, params};
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::process::Command;
use std::sync::Arc;

pub(super) const BLOCK: u64 = 64 << 10;
const TIME: Timestamp = Timestamp(1_600_000_000_123_456_789);

/// A frozen file in the making, and the backing files that go with it.
pub(super) struct World {
    conn: Connection,
    path: PathBuf,
    below: Vec<Arc<dyn Layer>>,
    backing: HashMap<Ino, Vec<u8>>,
    at_cut: Option<Arc<dyn Layer>>,
}

impl World {
    fn new(path: PathBuf) -> World {
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY")
            .unwrap();
        rows::create_tables(&conn).unwrap();
        conn.execute_batch(KVS_TABLES).unwrap();
        World {
            conn,
            path,
            below: Vec::new(),
            backing: HashMap::new(),
            at_cut: None,
        }
    }

    pub(super) fn inode(
        &self,
        ino: u64,
        kind: FileKind,
        nlink: u32,
        size: u64,
        min_size: u64,
    ) -> InodeRow {
        let mut row = InodeRow::tombstone(Ino(ino), Xid(ino));
        (row.kind, row.nlink, row.size, row.min_size) = (kind, nlink, size, min_size);
        (row.mode, row.gone) = (0o640, false);
        (row.atime, row.mtime, row.ctime, row.btime) = (TIME, TIME, TIME, TIME);
        if kind == FileKind::Directory {
            row.mode = 0o750;
        }
        rows::put_inode(&self.conn, &row).unwrap();
        row
    }

    fn name(&self, parent: u64, name: &[u8], ino: Option<u64>, kind: FileKind) {
        let (hash, name) = (name_hash(name), name.to_vec());
        let row = DentryRow {
            parent: Ino(parent),
            hash,
            name,
            ino: ino.map(Ino),
            kind,
            xid: Xid(1),
        };
        rows::put_dentry(&self.conn, &row).unwrap();
    }

    pub(super) fn inline(&self, parent: u64, name: &[u8], ino: u64, data: &[u8]) {
        self.inode(ino, FileKind::File, 1, data.len() as u64, 0);
        self.name(parent, name, Some(ino), FileKind::File);
        self.put_inline(ino, data);
    }

    fn put_inline(&self, ino: u64, data: &[u8]) {
        let sql = "INSERT INTO inline VALUES (?1, ?2, 7)";
        self.conn.execute(sql, params![ino as i64, data]).unwrap();
    }

    fn directory(&self, parent: u64, name: &[u8], ino: u64) {
        self.inode(ino, FileKind::Directory, 2, 0, 0);
        self.name(parent, name, Some(ino), FileKind::Directory);
    }

    /// Say that a file has these contents in its backing file, and which blocks were written.
    pub(super) fn backing(&mut self, ino: u64, contents: Vec<u8>, blocks: &[u64]) {
        self.backing.insert(Ino(ino), contents);
        for blk in blocks {
            let sql = "INSERT INTO block VALUES (?1, ?2, 8)";
            self.conn
                .execute(sql, params![ino as i64, *blk as i64])
                .unwrap();
        }
    }

    fn freeze(&mut self) {
        let frozen = LayerDb::open_immutable(&self.path).unwrap();
        let mut layers: Vec<Arc<dyn Layer>> = vec![Arc::new(frozen)];
        layers.extend(self.below.iter().cloned());
        self.at_cut = Some(Arc::new(Stack::new(layers, BLOCK)));
    }
}

/// From here on the worlds that follow the first make new inodes.
const FIRST_NEW: u64 = 1000;

struct Mounted {
    at_cut: Arc<dyn Layer>,
    backing: HashMap<Ino, Vec<u8>>,
}

impl MountedInstance for Mounted {
    fn at_cut(&self) -> Arc<dyn Layer> {
        Arc::clone(&self.at_cut)
    }

    fn first_new_inode(&self) -> Result<Ino> {
        Ok(Ino(FIRST_NEW))
    }

    fn backing_file(&self, _: Ino) -> Result<u64> {
        Ok(77)
    }

    fn read_block(&self, ino: Ino, file: u64, blk: u64, len: usize) -> Result<BlockBytes> {
        assert_eq!(file, 77);
        let from = (blk * BLOCK) as usize;
        let bytes = self.backing[&ino][from..from + len].to_vec();
        let mut holes: Vec<(u64, u64)> = Vec::new();
        for (page, at) in bytes.chunks(4096).zip((0u64..).step_by(4096)) {
            let end = at + page.len() as u64;
            match (page.iter().all(|b| *b == 0), holes.last_mut()) {
                (true, Some(last)) if last.1 == at => last.1 = end,
                (true, _) => holes.push((at, end)),
                (false, _) => {}
            }
        }
        Ok(BlockBytes { bytes, holes })
    }
}

#[derive(Default)]
pub(super) struct Seen {
    pub(super) planned: Mutex<Option<(u64, u64, u64)>>,
    pub(super) progress: Mutex<(u64, u64)>,
    pub(super) objects: Mutex<Vec<String>>,
    pub(super) cancel_at: Option<usize>,
    /// An object after this many fails, as if the process had died there.
    pub(super) fail_at: Option<usize>,
}

impl Observer for Seen {
    fn planned(&self, inodes: u64, files: u64, bytes: u64) {
        *self.planned.lock() = Some((inodes, files, bytes));
    }

    fn progress(&self, files: u64, bytes: u64) {
        *self.progress.lock() = (files, bytes);
    }

    fn object_made(&self, object: &ObjectRef, path: &Path) -> Result<()> {
        object.verify(&fs::read(path).unwrap()).unwrap();
        assert!(path.to_str().unwrap().ends_with(&object.key));
        let mut objects = self.objects.lock();
        if self.fail_at.is_some_and(|at| objects.len() >= at) {
            return Err(Error::failed("it ends here"));
        }
        objects.push(object.key.clone());
        Ok(())
    }

    fn cancelled(&self) -> bool {
        self.cancel_at
            .is_some_and(|at| self.objects.lock().len() >= at)
    }
}

pub(super) struct Made {
    pub(super) persisted: Persisted,
    pub(super) seen: Seen,
    out: PathBuf,
}

pub(super) fn run(world: &mut World, out: &Path, number: u64, seen: Seen) -> Result<Made> {
    run_with(world, out, number, seen, 200 << 10, false)
}

/// With `again` the attempt in the folder is taken up; nothing of it was sent.
pub(super) fn run_with(
    world: &mut World,
    out: &Path,
    number: u64,
    seen: Seen,
    tarball_target: u64,
    again: bool,
) -> Result<Made> {
    world.freeze();
    let at_cut = world.at_cut.clone().unwrap();
    let mounted = Mounted {
        at_cut,
        backing: world.backing.clone(),
    };
    let id = uuid::Uuid::from_u128(0x1234_5678);
    let fs = Handle::new("home", id).unwrap();
    let parent = BaseSnapshot {
        number: SnapshotNumber(number - 1),
        epoch: Epoch(1),
    };
    let job = Job {
        fs: &fs,
        number: SnapshotNumber(number),
        epoch: Epoch(1),
        attempt: "0123456789ab".into(),
        name: None,
        kind: SnapshotKind::User,
        xid: XidRange {
            from: Xid(1),
            to: Xid(99),
        },
        parent: (number > 1).then_some(parent),
        created_at: "2026-01-02T03:04:05Z".into(),
        block_size: BLOCK,
        frozen: &world.path,
        instance: &mounted,
        out,
        level: 3,
        tarball_target,
    };
    let none = BTreeMap::new();
    let logged = Logged {
        made: &none,
        sent: &none,
    };
    let earlier = again.then(|| {
        let identity = job.identity();
        Ledger::take_up(&out.join(identity.prefix()), &identity, logged)
    });
    let (persisted, _) = persist(&job, earlier.transpose()?, &seen)?;
    Ok(Made {
        persisted,
        seen,
        out: out.to_owned(),
    })
}

impl Made {
    fn path(&self, object: &ObjectRef) -> PathBuf {
        self.out.join(&object.key)
    }

    /// The layer, by nothing but `zstd -d`.
    pub(super) fn layer(&self, dir: &Path) -> LayerDb {
        let plain = dir.join(format!("{}.plain", self.persisted.layer.blake3));
        let status = Command::new("zstd")
            .args(["-q", "-d", "-f", "-o"])
            .args([&plain, &self.path(&self.persisted.layer)])
            .status()
            .unwrap();
        assert!(status.success());
        LayerDb::open_immutable(&plain).unwrap()
    }

    fn toc(&self, dir: &Path) -> Toc {
        let object = self.persisted.toc.as_ref().unwrap();
        let plain = dir.join(format!("{}.plain", object.blake3));
        let stored = File::open(self.path(object)).unwrap();
        decompress_to_file(stored, "TOC", &plain, 1 << 30).unwrap();
        Toc::open_immutable(&plain).unwrap()
    }

    fn changes(&self) -> (SnapshotRecord, Vec<Change>, Vec<Vec<u8>>) {
        let file = File::open(self.path(&self.persisted.meta_tarball)).unwrap();
        let raw: Vec<u8> = FrameReader::new(file)
            .flat_map(|f| f.unwrap().raw)
            .collect();
        let mut reader = MemberReader::new(raw.as_slice());
        reader.next_member().unwrap().unwrap();
        let record = cbfs_core::format::parse("it", &reader.read_all().unwrap()).unwrap();
        let member = reader.next_member().unwrap().unwrap();
        assert_eq!(member.path, CHANGES_MEMBER.as_bytes());
        let text = reader.read_all().unwrap();
        let changes = read_changes(text.as_slice()).map(|c| c.unwrap()).collect();
        let mut others = Vec::new();
        while let Some(member) = reader.next_member().unwrap() {
            others.push(member.path);
        }
        (record, changes, others)
    }

    fn unpack(&self, into: &Path) {
        let tarballs: Vec<_> = self
            .persisted
            .tarballs
            .iter()
            .map(|t| self.path(t))
            .collect();
        let script = r#"into=$1; shift; cat "$@" | zstd -dc |
            tar -xpi --xattrs --xattrs-include='*' --warning=no-unknown-keyword -C "$into""#;
        let run = Command::new("bash")
            .args(["-o", "pipefail", "-c", script, "unpack"])
            .arg(into)
            .args(tarballs)
            .output()
            .unwrap();
        assert!(
            run.status.success(),
            "{}",
            String::from_utf8_lossy(&run.stderr)
        );
        assert_eq!(String::from_utf8_lossy(&run.stderr), "");
    }

    fn forms(&self) -> BTreeMap<Vec<u8>, MemberForm> {
        let members = self
            .changes()
            .1
            .into_iter()
            .filter_map(|change| match change {
                Change::Member(member) => Some((member.bytes().unwrap(), member.form)),
                _ => None,
            });
        members.collect()
    }
}

/// The contents of a file as a reader of the bucket builds them.
fn read_back(stack: &Stack, made: &[&Made], dir: &Path, ino: u64) -> Vec<u8> {
    let row = stack.inode(Ino(ino)).unwrap().unwrap();
    let mut out = Vec::new();
    for content in stack
        .content(Ino(ino), 0, row.size.div_ceil(BLOCK))
        .unwrap()
    {
        let mut raw = Vec::new();
        if let Some(extent) = content.extent {
            let source = made[extent.snapshot.0 as usize - 1];
            let place = source.toc(dir).section(extent.section).unwrap().unwrap();
            let tarball = fs::read(source.path(&place.tarball)).unwrap();
            let frame = &tarball[place.offset as usize..][..place.length as usize];
            assert_eq!(blake3::hash(frame).to_hex().as_str(), place.blake3);
            raw = decompress_section(frame, place.raw_length as usize, "section").unwrap();
        }
        let length = BLOCK.min(row.size - content.blk * BLOCK) as usize;
        out.extend(assemble(&content, &raw, 0..length).unwrap());
    }
    out
}

pub(super) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8 | 1 // never 0: holes are only where they are meant
        })
        .collect()
}

fn sparse() -> Vec<u8> {
    let mut contents = vec![0; 20 * BLOCK as usize + 100];
    contents[..4096].copy_from_slice(&noise(3, 4096));
    let from = 5 * BLOCK as usize + 8192;
    contents[from..from + 400_000].copy_from_slice(&noise(4, 400_000));
    contents
}

/// A first snapshot with one of everything.
pub(super) fn first_world(dir: &Path) -> World {
    let mut world = World::new(dir.join("frozen-1.sqlite"));
    world.inode(1, FileKind::Directory, 4, 0, 0);
    world.inline(1, b"a", 10, b"alpha");
    world.inline(1, b"empty", 11, b"");
    world.inline(1, b"caf\xe9\n", 12, &noise(1, 16_000));
    world.directory(1, b"d", 20);
    world.directory(20, b"e", 21);
    for i in 0..60 {
        world.inline(
            21,
            format!("file {i}").as_bytes(),
            100 + i,
            &noise(i, 9_000),
        );
    }
    world.inode(30, FileKind::File, 2, 700_000, 0);
    world.name(21, b"big", Some(30), FileKind::File);
    world.name(1, b"also big", Some(30), FileKind::File);
    world.backing(30, noise(2, 700_000), &(0..11).collect::<Vec<_>>());
    world.inode(31, FileKind::File, 1, 20 * BLOCK + 100, 0);
    world.name(20, b"sparse", Some(31), FileKind::File);
    world.backing(31, sparse(), &[0, 3, 5, 6, 7, 8, 9, 10, 11]);
    world.inode(32, FileKind::File, 1, 100_000, 0);
    world.name(20, b"middle", Some(32), FileKind::File);
    world.backing(32, noise(5, 100_000), &[0, 1]);
    world.inode(33, FileKind::File, 1, 1 << 30, 0);
    world.name(20, b"hole", Some(33), FileKind::File);
    world.inode(34, FileKind::File, 1, 3_000_000, 0);
    world.name(1, b"large", Some(34), FileKind::File);
    world.backing(34, noise(6, 3_000_000), &(0..46).collect::<Vec<_>>());
    world.inode(40, FileKind::Symlink, 1, 9, 0);
    world.name(20, b"link", Some(40), FileKind::Symlink);
    rows::put_link(&world.conn, Ino(40), b"../no\xffwhe").unwrap();
    world.inode(41, FileKind::Fifo, 1, 0, 0);
    world.name(20, b"fifo", Some(41), FileKind::Fifo);
    world.inode(42, FileKind::Socket, 1, 0, 0);
    world.name(20, b"socket", Some(42), FileKind::Socket);
    world.inode(50, FileKind::File, 0, 3, 0);
    world.put_inline(50, b"xyz");
    for (ino, name) in [(10, "user.k"), (50, "user.gone")] {
        let (name, value) = (name.into(), Some(b"\0value\n".to_vec()));
        rows::put_xattr(
            &world.conn,
            &XattrRow {
                ino: Ino(ino),
                name,
                value,
                xid: Xid(3),
            },
        )
        .unwrap();
    }
    world
}

#[test]
fn the_first_snapshot_unpacks_with_tar_and_reads_back_from_sections() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = first_world(dir.path());
    let made = run(&mut world, &dir.path().join("out"), 1, Seen::default()).unwrap();
    assert!(
        made.persisted.tarballs.len() > 1,
        "the target of the tarballs was ignored"
    );
    // The index is made beside the metadata tarball.
    let told = made.seen.objects.lock().clone();
    let mut objects: Vec<String> = made
        .persisted
        .tarballs
        .iter()
        .map(|t| t.key.clone())
        .collect();
    objects.extend(made.persisted.toc.iter().map(|t| t.key.clone()));
    objects.extend([
        made.persisted.layer.key.clone(),
        made.persisted.meta_tarball.key.clone(),
    ]);
    let tarballs = made.persisted.tarballs.len();
    assert_eq!(told[..tarballs], objects[..tarballs]);
    let sorted = |mut keys: Vec<String>| {
        keys.sort();
        keys
    };
    assert_eq!(sorted(told), sorted(objects.clone()));
    let attempt = made.path(&made.persisted.layer);
    let left = fs::read_dir(attempt.parent().unwrap()).unwrap().count();
    let ledger = 1 + 2 * tarballs;
    assert_eq!(
        left,
        objects.len() + ledger,
        "scratch files were left behind"
    );

    let into = dir.path().join("unpacked");
    fs::create_dir(&into).unwrap();
    made.unpack(&into);
    let at = |name: &[u8]| into.join(OsStr::from_bytes(name));
    assert_eq!(fs::read(at(b"a")).unwrap(), b"alpha");
    assert_eq!(fs::read(at(b"empty")).unwrap(), b"");
    assert_eq!(fs::read(at(b"caf\xe9\n")).unwrap(), noise(1, 16_000));
    for i in 0..60 {
        let name = format!("d/e/file {i}");
        assert_eq!(fs::read(at(name.as_bytes())).unwrap(), noise(i, 9_000));
    }
    assert!(fs::read(at(b"d/e/big")).unwrap() == noise(2, 700_000));
    let (one, two) = (
        fs::metadata(at(b"d/e/big")).unwrap(),
        fs::metadata(at(b"also big")).unwrap(),
    );
    assert_eq!((one.ino(), one.nlink()), (two.ino(), 2));
    assert!(fs::read(at(b"large")).unwrap() == noise(6, 3_000_000));
    assert!(fs::read(at(b"d/sparse")).unwrap() == sparse());
    assert!(fs::metadata(at(b"d/sparse")).unwrap().blocks() * 512 < 600_000);
    assert!(fs::read(at(b"d/middle")).unwrap() == noise(5, 100_000));
    assert_eq!(fs::metadata(at(b"d/hole")).unwrap().len(), 1 << 30);
    let target = fs::read_link(at(b"d/link")).unwrap();
    assert_eq!(target.as_os_str().as_bytes(), b"../no\xffwhe");
    assert!(fs::metadata(at(b"d/fifo")).unwrap().file_type().is_fifo());
    let mut value = [0; 64];
    let length = rustix::fs::getxattr(at(b"a"), "user.k", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"\0value\n");
    for (name, mode) in [
        ("", 0o750),
        ("d", 0o750),
        ("d/e", 0o750),
        ("a", 0o640),
        ("d/e/big", 0o640),
    ] {
        let stat = fs::symlink_metadata(into.join(name)).unwrap();
        assert_eq!(stat.mode() & 0o7777, mode, "{name}");
        let mtime = Timestamp::from_parts(stat.mtime(), stat.mtime_nsec() as u32);
        assert_eq!(mtime, TIME, "{name}");
    }

    let layer = Arc::new(made.layer(dir.path()));
    assert_eq!(layer.meta("xid_to").unwrap().as_deref(), Some("99"));
    let source = layer.source(SnapshotNumber(1)).unwrap().unwrap();
    assert_eq!(source.toc_key, made.persisted.toc.as_ref().unwrap().key);
    assert!(
        layer.inode(Ino(50)).unwrap().unwrap().gone,
        "an orphan lives on"
    );
    assert!(layer.xattrs(Ino(50)).unwrap().is_empty());
    assert_eq!(layer.names_of(Ino(30)).unwrap().len(), 2);
    let dense = layer.extents(Ino(30), 0, 100).unwrap();
    assert_eq!(
        dense.iter().map(|e| (e.blk, e.n)).collect::<Vec<_>>(),
        [(0, 11)]
    );
    assert!(layer.extents(Ino(33), 0, u64::MAX).unwrap().is_empty());
    let tables: i64 = layer
        .with(|c| {
            let sql =
                "SELECT count(*) FROM sqlite_schema WHERE name IN ('inline','backing','block')";
            Ok(c.query_row(sql, [], |row| row.get(0))?)
        })
        .unwrap();
    assert_eq!(tables, 0, "tables of the KVS were published");
    let stack = Stack::new(vec![layer], BLOCK);
    let back = |ino| read_back(&stack, &[&made], dir.path(), ino);
    assert_eq!(back(10), b"alpha");
    assert!(back(30) == noise(2, 700_000));
    assert!(back(31) == sparse());
    assert!(back(32) == noise(5, 100_000));
    assert_eq!(back(159), noise(59, 9_000));

    let totals = made.persisted.totals;
    let data = 5 + 16_000 + 60 * 9_000 + 700_000 + 3_000_000 + 4096 + 100_000;
    let sparse_data = totals.data_bytes - data;
    assert!((400_000..420_000).contains(&sparse_data), "{sparse_data}");
    let sections = made.toc(dir.path()).sections().unwrap();
    assert_eq!(totals.sections, sections.len() as u64);
    assert!(sections.iter().all(|s| s.raw_length <= (256 << 10) + 4096));
    assert_eq!(made.seen.progress.lock().1, totals.data_bytes);
    assert_eq!((totals.changed_inodes, totals.removed_inodes), (74, 1));

    let (record, changes, attributes) = made.changes();
    assert_eq!((record.number, record.parent), (SnapshotNumber(1), None));
    assert_eq!(attributes, [b".cbfs/attributes/42".to_vec()]);
    let forms = made.forms();
    let hard_links = forms
        .values()
        .filter(|f| **f == MemberForm::HardLink)
        .count();
    assert_eq!(hard_links, 1);
    assert_eq!(forms[b"./".as_slice()], MemberForm::Directory);
    let rows = changes
        .iter()
        .filter(|c| matches!(c, Change::Dentry(_)))
        .count();
    assert_eq!(rows, 74);
}

/// Changes of all kinds since [`first_world`], and the contents of inode 30 after them.
pub(super) fn second_world(dir: &Path, below: Arc<dyn Layer>) -> (World, Vec<u8>) {
    let mut world = World::new(dir.join("frozen-2.sqlite"));
    world.below = vec![below];
    // One block of the big file, its end, and a block that became a hole.
    let mut big = noise(2, 700_000);
    big[2 * BLOCK as usize..3 * BLOCK as usize].fill(0x55);
    big[4 * BLOCK as usize..5 * BLOCK as usize].fill(0);
    big[7 * BLOCK as usize..7 * BLOCK as usize + 8192].fill(0); // a hole within a patch
    big.truncate(690_000);
    world.inode(30, FileKind::File, 2, 690_000, 690_000);
    world.backing(30, big.clone(), &[2, 4, 7, 10, 11]);
    let punched = HoleRow {
        ino: Ino(30),
        from: 2 * BLOCK - 4096,
        to: 3 * BLOCK,
        xid: Xid(60),
    };
    rows::put_hole(&world.conn, &punched).unwrap();
    big[2 * BLOCK as usize - 4096..2 * BLOCK as usize].fill(0);
    // Holes alone.
    let hole = HoleRow {
        ino: Ino(32),
        from: 0,
        to: 4096,
        xid: Xid(61),
    };
    rows::put_hole(&world.conn, &hole).unwrap();
    world.inode(32, FileKind::File, 1, 100_000, 100_000);
    // A small file anew, by its old name; one renamed; one deleted; attributes only.
    world.inode(10, FileKind::File, 1, 4, 4);
    world.put_inline(10, b"beta");
    let mut renamed = world.inode(11, FileKind::File, 1, 0, 0);
    renamed.mode = 0o600;
    rows::put_inode(&world.conn, &renamed).unwrap();
    world.name(1, b"empty", None, FileKind::File);
    world.name(20, b"moved", Some(11), FileKind::File);
    world.name(21, b"file 7", None, FileKind::File);
    rows::put_inode(&world.conn, &InodeRow::tombstone(Ino(107), Xid(70))).unwrap();
    let mut changed = world.inode(12, FileKind::File, 1, 16_000, 16_000);
    changed.uid = 1000;
    rows::put_inode(&world.conn, &changed).unwrap();
    // A directory renamed, with a file below it changed.
    world.inode(21, FileKind::Directory, 2, 0, 0);
    world.name(20, b"e", None, FileKind::Directory);
    world.name(1, b"E", Some(21), FileKind::Directory);
    world.inode(105, FileKind::File, 1, 3, 3);
    world.put_inline(105, b"new");
    // A file made since, with an attribute.
    world.inline(1, b"made since", FIRST_NEW, b"made");
    let attribute = XattrRow {
        ino: Ino(FIRST_NEW),
        name: b"user.since".into(),
        value: Some(b"too".to_vec()),
        xid: Xid(80),
    };
    rows::put_xattr(&world.conn, &attribute).unwrap();
    (world, big)
}

#[test]
fn an_incremental_snapshot_holds_patches_deletions_renames_and_attributes() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = first_world(dir.path());
    let out = dir.path().join("out");
    let first = run(&mut world, &out, 1, Seen::default()).unwrap();
    let below: Arc<dyn Layer> = Arc::new(first.layer(dir.path()));

    let (mut world, big) = second_world(dir.path(), below.clone());
    let made = run(&mut world, &out, 2, Seen::default()).unwrap();

    let forms = made.forms();
    let patch = |blk: u64| format!(".cbfs/patch/30/{}", blk * BLOCK).into_bytes();
    let expected: BTreeMap<Vec<u8>, MemberForm> = [
        (patch(2), MemberForm::Patch),
        (patch(7), MemberForm::Patch),
        (patch(10), MemberForm::Patch),
        (b"a".to_vec(), MemberForm::File),
        (b"made since".to_vec(), MemberForm::File),
        (b"d/moved".to_vec(), MemberForm::File),
        (b"E/file 5".to_vec(), MemberForm::File),
        (b"E/".to_vec(), MemberForm::Directory),
    ]
    .into();
    assert_eq!(forms, expected);
    // Extended attributes of members: those of before, and those of what is new.
    let into = dir.path().join("unpacked");
    fs::create_dir(&into).unwrap();
    made.unpack(&into);
    for (path, name, expected) in [
        ("a", "user.k", b"\0value\n".as_slice()),
        ("made since", "user.since", b"too"),
    ] {
        let mut value = [0; 64];
        let length = rustix::fs::getxattr(into.join(path), name, &mut value[..]).unwrap();
        assert_eq!(&value[..length], expected, "{path}");
    }
    let (_, changes, attributes) = made.changes();
    let numbers: Vec<_> = [12, 30, 32]
        .map(|i| format!(".cbfs/attributes/{i}").into_bytes())
        .into();
    assert_eq!(attributes, numbers);
    assert!(
        changes
            .iter()
            .any(|c| matches!(c, Change::Inode(row) if row.gone && row.ino == Ino(107)))
    );
    assert_eq!(made.persisted.totals.removed_inodes, 1);

    let layer: Arc<dyn Layer> = Arc::new(made.layer(dir.path()));
    let holes = layer.holes(Ino(30), 0, u64::MAX).unwrap();
    let ranges: Vec<_> = holes.iter().map(|h| (h.from, h.to)).collect();
    assert_eq!(
        ranges,
        [(2 * BLOCK - 4096, 2 * BLOCK), (4 * BLOCK, 5 * BLOCK)]
    );
    let stack = Stack::new(vec![layer, below], BLOCK);
    let all = [&first, &made];
    let back = |ino| read_back(&stack, &all, dir.path(), ino);
    assert!(back(30) == big);
    let mut middle = noise(5, 100_000);
    middle[..4096].fill(0);
    assert!(back(32) == middle);
    assert_eq!(back(10), b"beta");
    assert_eq!(back(105), b"new");
    assert!(back(31) == sparse());
    assert!(
        stack
            .dentry(Ino(21), b"file 7")
            .unwrap()
            .is_none_or(|d| d.ino.is_none())
    );
    assert_eq!(
        stack.dentry(Ino(20), b"moved").unwrap().unwrap().ino,
        Some(Ino(11))
    );
    assert_eq!(stack.inode(Ino(12)).unwrap().unwrap().uid, 1000);
}

#[test]
fn a_snapshot_of_attributes_alone_has_no_data_tarball_and_no_toc() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = first_world(dir.path());
    let out = dir.path().join("out");
    let first = run(&mut world, &out, 1, Seen::default()).unwrap();
    let mut world = World::new(dir.path().join("frozen-2.sqlite"));
    world.below = vec![Arc::new(first.layer(dir.path()))];
    world.inode(20, FileKind::Directory, 3, 0, 0);
    world.inode(12, FileKind::File, 1, 16_000, 16_000);
    let made = run(&mut world, &out, 2, Seen::default()).unwrap();
    assert_eq!(
        (made.persisted.toc.clone(), made.persisted.tarballs.len()),
        (None, 0)
    );
    let attributes = made.changes().2;
    assert_eq!(
        attributes,
        [
            b".cbfs/attributes/12".to_vec(),
            b".cbfs/attributes/20/".to_vec()
        ]
    );
    assert!(
        made.layer(dir.path())
            .source(SnapshotNumber(2))
            .unwrap()
            .is_none()
    );
}

#[test]
fn an_attempt_never_touches_the_folder_of_another() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = first_world(dir.path());
    let out = dir.path().join("out");
    let made = run(&mut world, &out, 1, Seen::default()).unwrap();
    let error = run(&mut world, &out, 1, Seen::default()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(made.path(&made.persisted.layer).exists());
}
