//! Tier-in: from a block that is not here to its bytes. The layer stack says which section holds
//! it, the TOC where that lies, proxy cache or bucket have it; it is verified against its BLAKE3,
//! decompressed and kept in a bounded cache, from which the block is built.
//!
//! Nothing is written here but the proxy cache; a crash costs only work. No error stands in the way of the next
//! read: when bucket or object are back, it succeeds. Which objects were found damaged or missing is remembered only to be
//! told ([`TierIn::damage`]), until they are read well.

mod sequential;
mod warming;

pub use warming::Warmed;

use super::proxy::{ProxyCache, SingleFlight};
use cbfs_core::bucket::Bucket;
use cbfs_core::cloud_snapshot::{is_frame, read_section, section_length};
use cbfs_core::error::{Context, Error, ErrorKind, Result};
use cbfs_core::format::ObjectRef;
use cbfs_core::frames::decompress_section;
use cbfs_core::handle::Handle;
use cbfs_core::ids::{Ino, SnapshotNumber};
use cbfs_core::layers::{Layer, SourceRow, Stack, assemble};
use cbfs_core::toc::{SectionPlace, Toc};
use parking_lot::Mutex;
use sequential::SequentialReaders;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

/// Threads that read ahead.
const READERS_AHEAD: usize = 3;
/// Read-ahead jobs that may wait; more are dropped, the reader is ahead of them anyway.
const JOBS: usize = 16;
/// Sections whose damage is remembered; more are only told to who reads them.
const DAMAGE_TOLD: usize = 1024;

/// A section of a snapshot.
type SectionId = (SnapshotNumber, u64);

/// What [`TierIn::block`] answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlockAnswer {
    /// The bytes of the block that were asked for.
    Ready(Vec<u8>),
    /// The section is not in memory, and the caller did not want to wait for it.
    WouldWait,
}

/// Reads file data of the layer stack.
pub struct TierIn {
    sections: Arc<Sections>,
    /// `None` only while dropping: the end of the channel ends the threads.
    jobs: Option<SyncSender<Job>>,
    readers_ahead: Vec<JoinHandle<()>>,
    stopping: Arc<AtomicBool>,
    sequential: Mutex<SequentialReaders>,
}

impl fmt::Debug for TierIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TierIn")
            .field("fs", &self.sections.fs)
            .finish_non_exhaustive()
    }
}

/// Blocks of a file to bring into memory.
#[derive(Debug)]
struct Job {
    ino: Ino,
    from: u64,
    to: u64,
}

impl TierIn {
    /// Tier-in for the snapshots that `stack` refers to. Up to `memory_limit` bytes of
    /// decompressed sections are kept. Starts threads that read ahead; they end with this.
    pub fn new(
        bucket: Arc<dyn Bucket>,
        fs: Handle,
        proxy: Arc<ProxyCache>,
        stack: Arc<Stack>,
        memory_limit: usize,
    ) -> Result<TierIn> {
        let blocks = memory_limit as u64 / stack.block_size();
        let sections = Arc::new(Sections {
            bucket,
            fs,
            proxy,
            stack,
            tocs: Mutex::default(),
            toc_flights: SingleFlight::default(),
            kept: Mutex::new(Kept::new(memory_limit)),
            flights: SingleFlight::default(),
            damaged: Mutex::default(),
            damage_changed: AtomicBool::new(false),
        });
        let stopping = Arc::new(AtomicBool::new(false));
        let (jobs, queue) = sync_channel(JOBS);
        let queue = Arc::new(Mutex::new(queue));
        let mut tier_in = TierIn {
            sections,
            jobs: Some(jobs),
            readers_ahead: Vec::new(),
            stopping,
            sequential: Mutex::new(SequentialReaders::new(blocks)),
        };
        for _ in 0..READERS_AHEAD {
            let sections = Arc::clone(&tier_in.sections);
            let (queue, stopping) = (Arc::clone(&queue), Arc::clone(&tier_in.stopping));
            let reader = thread::Builder::new()
                .name("cbfs-readahead".to_owned())
                .spawn(move || read_ahead(&sections, &queue, &stopping))
                .context(|| "a read-ahead thread could not be started".to_owned())?;
            tier_in.readers_ahead.push(reader);
        }
        Ok(tier_in)
    }

    /// The bytes `range` of block `blk` of a file as the stack has it (`range` ends at the block
    /// size, or less at the end of the file). A block without data is zeros. With `may_wait`
    /// this blocks on the bucket as long as that takes; without, it needs local lookups in the
    /// layers only.
    ///
    /// # Errors
    /// [`cbfs_core::ErrorKind::Damage`] names the object that is missing or not what it should be;
    /// [`cbfs_core::ErrorKind::BucketUnreachable`] may pass.
    pub fn block(
        &self,
        ino: Ino,
        blk: u64,
        range: Range<usize>,
        may_wait: bool,
    ) -> Result<BlockAnswer> {
        let next = blk
            .checked_add(1)
            .ok_or_else(|| Error::failed(format!("inode {ino} has no block {blk}")))?;
        let contents = self.sections.stack.content(ino, blk, next)?;
        let content = contents
            .first()
            .ok_or_else(|| Error::failed(format!("block {blk} of inode {ino} was not found")))?;
        let Some(extent) = content.extent else {
            return assemble(content, &[], range).map(BlockAnswer::Ready);
        };
        // Small files have one short block: nothing to read ahead.
        if blk > 0 || content.len >= self.sections.stack.block_size() {
            self.note_read(ino, blk);
        }
        let id = (extent.snapshot, extent.section);
        let kept = self.sections.kept.lock().get(id); // not in the match: fetching takes this lock
        let raw = match kept {
            Some(raw) => raw,
            None if !may_wait => return Ok(BlockAnswer::WouldWait),
            None => self.sections.fetch(id)?,
        };
        assemble(content, &raw, range).map(BlockAnswer::Ready)
    }

    /// What was damaged or missing when it was last read: the first such object by name, and how many sections more.
    pub fn damage(&self) -> Option<String> {
        let damaged = self.sections.damaged.lock();
        let first = damaged.values().next()?;
        Some(match damaged.len() - 1 {
            0 => first.clone(),
            more => format!("{first} (and {more} more of its kind)"),
        })
    }

    /// Whether [`TierIn::damage`] may answer something else than before the last call of this.
    pub fn damage_has_changed(&self) -> bool {
        self.sections.damage_changed.swap(false, Ordering::Relaxed)
    }

    /// Take over what `former` has in memory, as far as this one's layers refer to the same sections: to the same TOC of
    /// the snapshot they are of. No request; nothing is copied.
    ///
    /// # Errors
    /// Those of the layers.
    pub fn adopt(&self, former: &TierIn) -> Result<()> {
        if Arc::ptr_eq(&self.sections, &former.sections) {
            return Ok(());
        }
        let sections = former.sections.kept.lock().all();
        let tocs = former.sections.tocs.lock().clone();
        let mut same = HashMap::new();
        for (id, raw) in sections {
            let snapshot = id.0;
            let known = same.get(&snapshot).copied();
            let is_same = match known {
                Some(is_same) => is_same,
                None => {
                    // A number alone does not do: a diverged snapshot has the number of another one.
                    let toc = |source: SourceRow| (source.toc_key, source.toc_blake3);
                    let ours = self.sections.stack.source(snapshot)?.map(toc);
                    let theirs = former.sections.stack.source(snapshot)?.map(toc);
                    let is_same = ours.is_some() && ours == theirs;
                    if let (true, Some(toc)) = (is_same, tocs.get(&snapshot)) {
                        let toc = Arc::clone(toc);
                        self.sections.tocs.lock().entry(snapshot).or_insert(toc);
                    }
                    same.insert(snapshot, is_same);
                    is_same
                }
            };
            if is_same {
                self.sections.kept.lock().put(id, raw);
            }
        }
        Ok(())
    }

    /// Start reading ahead when `blk` follows the block read before.
    fn note_read(&self, ino: Ino, blk: u64) {
        let ahead = self.sequential.lock().note(ino, blk);
        if let (1.., Some(jobs)) = (ahead, &self.jobs) {
            let from = blk.saturating_add(1);
            let to = from.saturating_add(ahead);
            // A full queue means that reading ahead is late as it is.
            let _ = jobs.try_send(Job { ino, from, to });
        }
    }
}

impl Drop for TierIn {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.jobs = None;
        for reader in self.readers_ahead.drain(..) {
            if reader.join().is_err() {
                tracing::error!("a read-ahead thread panicked");
            }
        }
    }
}

fn read_ahead(sections: &Sections, queue: &Mutex<Receiver<Job>>, stopping: &AtomicBool) {
    loop {
        let job = queue.lock().recv();
        let Ok(job) = job else { return };
        let contents = match sections.stack.content(job.ino, job.from, job.to) {
            Ok(contents) => contents,
            Err(e) => {
                tracing::debug!(ino = %job.ino, error = %e, "reading ahead failed");
                continue;
            }
        };
        for extent in contents.iter().filter_map(|content| content.extent) {
            if stopping.load(Ordering::Relaxed) {
                return;
            }
            let id = (extent.snapshot, extent.section);
            // One that is on its way is not waited for: the next may be begun meanwhile.
            if sections.kept.lock().contains(id) || sections.flights.is_flying(&id) {
                continue;
            }
            // Whoever needs the block meets the error itself.
            if let Err(e) = sections.fetch(id) {
                tracing::debug!(ino = %job.ino, error = %e, "reading ahead failed");
                break;
            }
        }
    }
}

/// Brings sections into memory and keeps them.
struct Sections {
    bucket: Arc<dyn Bucket>,
    fs: Handle,
    proxy: Arc<ProxyCache>,
    stack: Arc<Stack>,
    tocs: Mutex<HashMap<SnapshotNumber, Arc<Toc>>>,
    toc_flights: SingleFlight<SnapshotNumber, Arc<Toc>>,
    kept: Mutex<Kept>,
    flights: SingleFlight<SectionId, Arc<Vec<u8>>>,
    /// Why a section could not be read, when it was tried last, for those of which the object is to blame.
    damaged: Mutex<BTreeMap<SectionId, String>>,
    damage_changed: AtomicBool,
}

impl Sections {
    /// The decompressed section: fetched, verified and kept. Concurrent callers share one fetch.
    fn fetch(&self, id: SectionId) -> Result<Arc<Vec<u8>>> {
        self.flights.run(id, || {
            // A flight that landed between the caller's look and this one has left it there.
            if let Some(raw) = self.kept.lock().get(id) {
                return Ok(raw);
            }
            let read = self.find_and_read(id);
            self.note_damage(id, read.as_ref().err());
            let raw = Arc::new(read?);
            self.kept.lock().put(id, Arc::clone(&raw));
            Ok(raw)
        })
    }

    fn find_and_read(&self, (snapshot, section): SectionId) -> Result<Vec<u8>> {
        let toc = self.toc(snapshot)?;
        self.read(&self.place(&toc, snapshot, section)?)
    }

    fn place(&self, toc: &Toc, snapshot: SnapshotNumber, section: u64) -> Result<SectionPlace> {
        toc.section(section)?.ok_or_else(|| {
            Error::damage(format!(
                "the TOC of snapshot {snapshot} has no section {section}"
            ))
        })
    }

    /// Remember, or forget, that the object a section lies in is damaged or missing.
    fn note_damage(&self, id: SectionId, error: Option<&Error>) {
        let mut damaged = self.damaged.lock();
        let changed = match error {
            None => damaged.remove(&id).is_some(),
            Some(e) if e.kind() == ErrorKind::Damage && damaged.len() < DAMAGE_TOLD => {
                let text = e.to_string();
                damaged.insert(id, text.clone()) != Some(text)
            }
            // A bucket that is away says nothing about its objects.
            Some(_) => false,
        };
        if changed {
            self.damage_changed.store(true, Ordering::Relaxed);
        }
    }

    fn toc(&self, snapshot: SnapshotNumber) -> Result<Arc<Toc>> {
        if let Some(toc) = self.tocs.lock().get(&snapshot) {
            return Ok(Arc::clone(toc));
        }
        self.toc_flights.run(snapshot, || {
            let source = self.stack.source(snapshot)?.ok_or_else(|| {
                Error::damage(format!(
                    "no layer says where the TOC of snapshot {snapshot} lies"
                ))
            })?;
            let object = ObjectRef {
                key: source.toc_key,
                size: source.toc_size,
                blake3: source.toc_blake3,
            };
            let path = self
                .proxy
                .fetch_decompressed(self.bucket.as_ref(), &self.fs, &object)?;
            let toc = Arc::new(
                Toc::open_immutable(&path)
                    .map_err(|e| e.context(format!("object {} is no usable TOC", object.key)))?,
            );
            self.tocs.lock().insert(snapshot, Arc::clone(&toc));
            Ok(toc)
        })
    }

    fn read(&self, place: &SectionPlace) -> Result<Vec<u8>> {
        let raw_length = section_length(&self.fs, place)?;
        if let Some(frame) = self.read_local(place)? {
            if is_frame(&frame, place) {
                let what = format!(
                    "section {} in the proxy's {}",
                    place.section, place.tarball.key
                );
                return decompress_section(&frame, raw_length, &what);
            }
            tracing::warn!(
                key = place.tarball.key,
                "the proxy's copy is damaged: asking the bucket"
            );
        }
        if let Some(frame) = self.read_warm(place)? {
            let what = format!(
                "section {} in the kept parts of {}",
                place.section, place.tarball.key
            );
            return decompress_section(&frame, raw_length, &what);
        }
        read_section(self.bucket.as_ref(), &self.fs, place)
    }

    /// The frame from the parts of the tarball that were fetched in advance, verified.
    fn read_warm(&self, place: &SectionPlace) -> Result<Option<Vec<u8>>> {
        let path = self.proxy.warm_path_of(&place.tarball.key)?;
        let frame = read_frame_of(&path, place)?;
        Ok(frame.filter(|frame| is_frame(frame, place)))
    }

    /// The frame from the proxy cache, unverified; `None` when the tarball is not there.
    fn read_local(&self, place: &SectionPlace) -> Result<Option<Vec<u8>>> {
        read_frame_of(&self.proxy.path_of(&place.tarball.key)?, place)
    }
}

/// The bytes of a frame from a local file; `None` when they are not there.
fn read_frame_of(path: &Path, place: &SectionPlace) -> Result<Option<Vec<u8>>> {
    let read = File::open(path).and_then(|file| {
        let length = usize::try_from(place.length).map_err(io::Error::other)?;
        let mut frame = vec![0; length];
        file.read_exact_at(&mut frame, place.offset)?;
        Ok(frame)
    });
    match read {
        Ok(frame) => Ok(Some(frame)),
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof
            ) =>
        {
            Ok(None)
        }
        Err(e) => {
            // The bucket has it too.
            tracing::warn!(file = %path.display(), error = %e, "the proxy's copy is unreadable");
            Ok(None)
        }
    }
}

/// The sections in memory, least recently used dropped first.
struct Kept {
    limit: usize,
    bytes: usize,
    clock: u64,
    sections: HashMap<SectionId, (u64, Arc<Vec<u8>>)>,
    by_use: BTreeMap<u64, SectionId>,
}

impl Kept {
    fn new(limit: usize) -> Kept {
        Kept {
            limit,
            bytes: 0,
            clock: 0,
            sections: HashMap::new(),
            by_use: BTreeMap::new(),
        }
    }

    fn contains(&self, id: SectionId) -> bool {
        self.sections.contains_key(&id)
    }

    /// All of them, least recently used first.
    fn all(&self) -> Vec<(SectionId, Arc<Vec<u8>>)> {
        let by_use = self.by_use.values();
        by_use
            .filter_map(|id| Some((*id, Arc::clone(&self.sections.get(id)?.1))))
            .collect()
    }

    fn get(&mut self, id: SectionId) -> Option<Arc<Vec<u8>>> {
        let (used, raw) = self.sections.get_mut(&id)?;
        self.clock += 1;
        self.by_use.remove(used);
        self.by_use.insert(self.clock, id);
        *used = self.clock;
        Some(Arc::clone(raw))
    }

    /// Keep a section; one that is larger than the limit is not kept.
    fn put(&mut self, id: SectionId, raw: Arc<Vec<u8>>) {
        if raw.len() > self.limit || self.contains(id) {
            return;
        }
        self.clock += 1;
        self.bytes += raw.len();
        self.by_use.insert(self.clock, id);
        self.sections.insert(id, (self.clock, raw));
        while self.bytes > self.limit {
            let Some((_, oldest)) = self.by_use.pop_first() else {
                break;
            };
            if let Some((_, raw)) = self.sections.remove(&oldest) {
                self.bytes -= raw.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::proxy::testing::{Watched, fs_handle};
    use super::*;
    use cbfs_core::error::ErrorKind;
    use cbfs_core::ids::Xid;
    use cbfs_core::inode::InodeRow;
    use cbfs_core::layers::{ExtentRow, LayerDb, rows};
    use cbfs_core::toc::TocWriter;

    const BLOCK: usize = 4096;
    const BLOCKS: u64 = 8;
    const INO: Ino = Ino(5);
    const TARBALL: &str = "s/1/0001.tar.zst";

    struct World {
        bucket: Arc<Watched>,
        proxy: Arc<ProxyCache>,
        stack: Arc<Stack>,
        tarball: Vec<u8>,
        _dir: tempfile::TempDir,
    }

    fn block(blk: u64) -> Vec<u8> {
        (0..BLOCK)
            .map(|i| (i as u64 / 7 + blk * 31) as u8)
            .collect()
    }

    /// A file of 8 blocks, one section each, and a ninth that no extent covers.
    fn world() -> World {
        let bucket = Arc::new(Watched::new());
        let dir = tempfile::tempdir().unwrap();
        let toc_path = dir.path().join("toc");
        let mut toc = TocWriter::create(&toc_path).unwrap();
        let mut tarball = Vec::new();
        for blk in 0..BLOCKS {
            let frame = zstd::bulk::compress(&block(blk), 3).unwrap();
            let hash = blake3::hash(&frame).to_hex();
            let (at, length) = (tarball.len() as u64, frame.len() as u64);
            toc.add_section(blk, 1, at, length, BLOCK as u64, hash.as_str())
                .unwrap();
            tarball.extend(frame);
        }
        let object = bucket.store(TARBALL, &tarball);
        toc.add_tarball(1, &object.key, object.size, &object.blake3)
            .unwrap();
        toc.finish().unwrap();
        let packed =
            zstd::stream::encode_all(std::fs::read(toc_path).unwrap().as_slice(), 3).unwrap();
        let toc = bucket.store("s/1/toc.sqlite.zst", &packed);

        let layer_path = dir.path().join("layer");
        let layer = LayerDb::create(&layer_path).unwrap();
        layer
            .with(|conn| {
                let size = (BLOCKS + 1) * BLOCK as u64;
                let row = InodeRow {
                    gone: false,
                    size,
                    ..InodeRow::tombstone(INO, Xid(1))
                };
                rows::put_inode(conn, &row)?;
                let (snapshot, xid) = (SnapshotNumber(1), Xid(1));
                let (blk, section, offset) = (0, 0, 0);
                let extent = ExtentRow {
                    ino: INO,
                    blk,
                    n: BLOCKS,
                    snapshot,
                    section,
                    offset,
                    xid,
                };
                rows::put_extent(conn, &extent)?;
                let (toc_key, toc_size, toc_blake3) = (toc.key, toc.size, toc.blake3);
                rows::put_source(
                    conn,
                    &SourceRow {
                        snapshot,
                        toc_key,
                        toc_size,
                        toc_blake3,
                    },
                )
            })
            .unwrap();
        layer.finish().unwrap();
        let layer = LayerDb::open_immutable(&layer_path).unwrap();
        let stack = Arc::new(Stack::new(vec![Arc::new(layer)], BLOCK as u64));
        let proxy = Arc::new(ProxyCache::open(&dir.path().join("proxy")).unwrap());
        World {
            bucket,
            proxy,
            stack,
            tarball,
            _dir: dir,
        }
    }

    impl World {
        fn tier_in(&self, memory_limit: usize) -> TierIn {
            let bucket: Arc<dyn Bucket> = self.bucket.clone();
            let (proxy, stack) = (self.proxy.clone(), self.stack.clone());
            TierIn::new(bucket, fs_handle(), proxy, stack, memory_limit).unwrap()
        }
    }

    #[test]
    fn a_file_is_warmed_in_steps_and_each_of_its_sections_once() {
        let world = world();
        let tier_in = world.tier_in(1 << 20);
        let wanted = [(INO, 0..BLOCKS)];
        let warm = |given_up: bool| {
            let warmed = tier_in.warm_in_steps(&wanted, &given_up.into(), 2, 3);
            warmed.map(|w| (w.fetched_bytes, w.kept_bytes))
        };
        assert_eq!(warm(true).unwrap_err().kind(), ErrorKind::Conflict);
        let all = world.tarball.len() as u64;
        assert_eq!(warm(false).unwrap(), (all, 0));
        assert_eq!(warm(false).unwrap(), (0, all));
    }

    fn ready(blk: u64) -> BlockAnswer {
        BlockAnswer::Ready(block(blk))
    }

    #[test]
    fn a_block_is_fetched_once_and_then_answered_without_waiting() {
        let world = world();
        let tier_in = world.tier_in(1 << 20);
        assert_eq!(
            tier_in.block(INO, 3, 0..BLOCK, false).unwrap(),
            BlockAnswer::WouldWait
        );
        assert_eq!(world.bucket.reads(), 0);
        assert_eq!(tier_in.block(INO, 3, 0..BLOCK, true).unwrap(), ready(3));
        assert_eq!(world.bucket.reads(), 2, "TOC and section");
        assert_eq!(tier_in.block(INO, 3, 0..BLOCK, false).unwrap(), ready(3));
        let BlockAnswer::Ready(part) = tier_in.block(INO, 3, 0..10, true).unwrap() else {
            panic!()
        };
        assert_eq!(part, block(3)[..10]);
        assert_eq!(world.bucket.reads(), 2);
    }

    #[test]
    fn a_block_without_data_is_zeros_and_needs_no_bucket() {
        let world = world();
        let tier_in = world.tier_in(1 << 20);
        let zeros = BlockAnswer::Ready(vec![0; BLOCK]);
        assert_eq!(tier_in.block(INO, BLOCKS, 0..BLOCK, false).unwrap(), zeros);
        assert_eq!(world.bucket.reads(), 0);
    }

    #[test]
    fn what_another_has_in_memory_is_taken_over_where_the_sections_are_the_same() {
        let world = world();
        let former = world.tier_in(1 << 20);
        for blk in [3, 5] {
            assert_eq!(former.block(INO, blk, 0..BLOCK, true).unwrap(), ready(blk));
        }
        assert_eq!(world.bucket.reads(), 3, "TOC and sections");
        let next = world.tier_in(1 << 20);
        next.adopt(&former).unwrap();
        assert_eq!(next.block(INO, 5, 0..BLOCK, false).unwrap(), ready(5));
        // Not the block behind it: nothing is to be read ahead.
        assert_eq!(next.block(INO, 1, 0..BLOCK, true).unwrap(), ready(1));
        assert_eq!(world.bucket.reads(), 4, "the TOC was taken over too");
        // The same number, but another snapshot.
        let other = self::world();
        let layer = LayerDb::create(&other._dir.path().join("other")).unwrap();
        layer.finish().unwrap();
        let layer = LayerDb::open_immutable(&other._dir.path().join("other")).unwrap();
        let bucket: Arc<dyn Bucket> = other.bucket.clone();
        let stack = Arc::new(Stack::new(vec![Arc::new(layer)], BLOCK as u64));
        let empty = TierIn::new(bucket, fs_handle(), other.proxy, stack, 1 << 20).unwrap();
        empty.adopt(&former).unwrap();
        assert!(empty.sections.kept.lock().all().is_empty());
    }

    #[test]
    fn memory_stays_below_its_limit() {
        let world = world();
        let tier_in = world.tier_in(2 * BLOCK);
        for blk in [0, 2, 4] {
            assert_eq!(tier_in.block(INO, blk, 0..BLOCK, true).unwrap(), ready(blk));
        }
        assert_eq!(
            tier_in.block(INO, 0, 0..BLOCK, false).unwrap(),
            BlockAnswer::WouldWait
        );
        assert_eq!(tier_in.block(INO, 4, 0..BLOCK, false).unwrap(), ready(4));
        let none = world.tier_in(10);
        assert_eq!(none.block(INO, 0, 0..BLOCK, true).unwrap(), ready(0));
        assert_eq!(
            none.block(INO, 0, 0..BLOCK, false).unwrap(),
            BlockAnswer::WouldWait
        );
    }

    #[test]
    fn a_damaged_or_missing_tarball_is_named_and_recovery_needs_no_remount() {
        let world = world();
        let tier_in = world.tier_in(1 << 20);
        let mut rotten = world.tarball.clone();
        rotten[10] ^= 1;
        for stored in [Some(rotten.as_slice()), Some(&rotten[..20]), None] {
            world.bucket.tamper(TARBALL, stored);
            let error = tier_in.block(INO, 0, 0..BLOCK, true).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Damage, "{error}");
            assert!(error.to_string().contains(TARBALL), "{error}");
            assert_eq!(tier_in.damage(), Some(error.to_string()));
            assert!(tier_in.damage_has_changed() && !tier_in.damage_has_changed());
        }
        world.bucket.tamper(TARBALL, Some(&world.tarball));
        assert_eq!(tier_in.block(INO, 0, 0..BLOCK, true).unwrap(), ready(0));
        assert_eq!(tier_in.damage(), None);
        assert!(tier_in.damage_has_changed());
    }

    #[test]
    fn an_unreachable_bucket_is_told_and_may_come_back() {
        let world = world();
        let tier_in = world.tier_in(1 << 20);
        world.bucket.down.store(true, Ordering::SeqCst);
        let error = tier_in.block(INO, 0, 0..BLOCK, true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BucketUnreachable, "{error}");
        assert_eq!(tier_in.damage(), None, "its objects may be well");
        world.bucket.down.store(false, Ordering::SeqCst);
        assert_eq!(tier_in.block(INO, 0, 0..BLOCK, true).unwrap(), ready(0));
    }

    #[test]
    fn a_tarball_in_the_proxy_is_read_there_unless_it_is_damaged() {
        let world = world();
        let path = world.proxy.path_of(TARBALL).unwrap();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &world.tarball).unwrap();
        let tier_in = world.tier_in(1 << 20);
        assert_eq!(tier_in.block(INO, 2, 0..BLOCK, true).unwrap(), ready(2));
        assert_eq!(world.bucket.reads(), 1, "the TOC");
        for damaged in [vec![0; world.tarball.len()], Vec::new()] {
            std::fs::write(&path, damaged).unwrap();
            let tier_in = world.tier_in(1 << 20);
            assert_eq!(tier_in.block(INO, 2, 0..BLOCK, true).unwrap(), ready(2));
        }
        assert_eq!(world.bucket.reads(), 3, "a section each");
    }

    #[test]
    fn a_sequential_reader_finds_the_next_blocks_in_memory() {
        let world = world();
        let tier_in = world.tier_in(1 << 20);
        for blk in [0, 1] {
            assert_eq!(tier_in.block(INO, blk, 0..BLOCK, true).unwrap(), ready(blk));
        }
        for blk in 2..6 {
            while !tier_in
                .sections
                .kept
                .lock()
                .contains((SnapshotNumber(1), blk))
            {
                thread::yield_now();
            }
        }
        assert!(
            !tier_in
                .sections
                .kept
                .lock()
                .contains((SnapshotNumber(1), 6))
        );
        assert_eq!(tier_in.block(INO, 2, 0..BLOCK, false).unwrap(), ready(2));
    }

    #[test]
    fn concurrent_misses_of_a_section_fetch_it_once() {
        let world = world();
        let tier_in = world.tier_in(1 << 20);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    assert_eq!(tier_in.block(INO, 3, 0..BLOCK, true).unwrap(), ready(3));
                });
            }
        });
        assert_eq!(world.bucket.reads(), 2, "TOC and section");
    }
}
