//! The proxy cache: a local directory of objects on their way to or from the bucket, under their
//! keys relative to the file system's prefix. One instance owns it (the state directory's lock
//! sees to that).
//!
//! What stands under a key was verified before it got there: it is downloaded to `tmp/`, checked
//! against size and BLAKE3 of its reference, and renamed. A crash leaves files in `tmp/`,
//! which the next [`ProxyCache::open`] removes. What an earlier process left is hashed once before
//! this process trusts it; so nothing that was fetched is fsynced: what a power loss takes is fetched again.
//!
//! Parts of tarballs that were fetched in advance lie beside them: see [`parts`].
//!
//! A decompressed database `KEY` (of the object `KEY.zst`) has a file `KEY.made` beside it that
//! says which object it was made from, and its own size and hash; it is written after the database,
//! so a database without a fitting one is made anew.

mod parts;

use cbfs_core::api::ErrorBody;
use cbfs_core::bucket::{Bucket, BucketError, Key};
use cbfs_core::cloud_snapshot::{decompressed_limit, download};
use cbfs_core::durable_file;
use cbfs_core::error::{Context, Error, ErrorKind, Result};
use cbfs_core::format::{ObjectRef, keys};
use cbfs_core::frames::{StoredObject, decompress_seekable, decompress_to_file};
use cbfs_core::handle::Handle;
use parking_lot::{Condvar, Mutex, RwLock, RwLockReadGuard};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::hash::Hash;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Folder of unfinished files; no key begins with it.
const TMP: &str = "tmp";
/// End of all keys of compressed objects.
const COMPRESSED: &str = ".zst";

/// The local directory of objects.
#[derive(Debug)]
pub struct ProxyCache {
    dir: PathBuf,
    /// Objects (key and hash) that this process verified or made.
    trusted: Mutex<HashSet<(String, String)>>,
    fetches: SingleFlight<(String, String), PathBuf>,
    decompressions: SingleFlight<(String, String), PathBuf>,
    /// Whether it is over; held for reading by whoever puts a file here.
    ended: RwLock<bool>,
}

/// Contents of a `.made` file.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Made {
    /// BLAKE3 of the compressed object.
    from: String,
    /// Bytes of the database.
    size: u64,
    /// BLAKE3 of the database.
    blake3: String,
}

impl ProxyCache {
    /// Open the cache in `dir`, which is created when missing; unfinished files are removed.
    pub fn open(dir: &Path) -> Result<ProxyCache> {
        let what = || format!("the proxy cache {} could not be opened", dir.display());
        let tmp = dir.join(TMP);
        durable_file::remove_dir_all(&tmp).map_err(|e| e.context(what()))?;
        durable_file::create_dir_all(&tmp).context(what)?;
        Ok(ProxyCache {
            dir: dir.to_owned(),
            trusted: Mutex::default(),
            fetches: SingleFlight::default(),
            decompressions: SingleFlight::default(),
            ended: RwLock::default(),
        })
    }

    /// From now on nothing is put here: what comes of fetches under way is refused. On return the directory can be removed.
    /// Waits for the disk at most, never for the bucket.
    pub fn end(&self) {
        *self.ended.write() = true;
    }

    /// For as long as a file is put here.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] after [`ProxyCache::end`].
    pub fn writing(&self) -> Result<RwLockReadGuard<'_, bool>> {
        let ended = self.ended.read();
        if *ended {
            let text = "the instance was unmounted or deleted: nothing more is kept of it";
            return Err(Error::new(ErrorKind::Conflict, text).hint("mount it again to go on"));
        }
        Ok(ended)
    }

    /// Where the object `key` stands, or would stand. It need not exist.
    ///
    /// # Errors
    /// [`cbfs_core::ErrorKind::Damage`] for what is no key of an object: keys come out of the
    /// bucket, and none of them may lead out of this directory.
    pub fn path_of(&self, key: &str) -> Result<PathBuf> {
        let bad = |why: Option<BucketError>| {
            let error = Error::damage(format!("{key:?} is no key of an object"));
            match why {
                Some(why) => error.because(why),
                None => error,
            }
        };
        Key::new(key).map_err(|e| bad(Some(e)))?;
        if key.split('/').next() == Some(TMP) {
            return Err(bad(None));
        }
        Ok(self.dir.join(key))
    }

    /// A verified local copy of an object. An existing one is checked by size, and by hash once per
    /// process; else, or when it is not what it should be, it is downloaded. Concurrent callers
    /// share one download and its outcome. Blocks on disk and bucket.
    ///
    /// # Errors
    /// [`cbfs_core::ErrorKind::Damage`] when the object in the bucket is missing or not what the
    /// reference says; nothing of it stays here. Else those of the bucket and the disk. No error is
    /// remembered: the next call tries again.
    pub fn fetch(&self, bucket: &dyn Bucket, fs: &Handle, object: &ObjectRef) -> Result<PathBuf> {
        let path = self.path_of(&object.key)?;
        self.fetches
            .run((object.key.clone(), object.blake3.clone()), || {
                if self.is_good(&path, object)? {
                    return Ok(path.clone());
                }
                self.download(bucket, fs, object, &path)?;
                Ok(path.clone())
            })
    }

    /// The decompressed database of an object whose key ends in `.zst`: a file under the key
    /// without that, made atomically. An existing one is hashed once per process. Callers share the
    /// work as in [`ProxyCache::fetch`]. A file once answered is only ever replaced by a rename,
    /// so it can be kept open as immutable.
    ///
    /// # Errors
    /// As [`ProxyCache::fetch`].
    pub fn fetch_decompressed(
        &self,
        bucket: &dyn Bucket,
        fs: &Handle,
        object: &ObjectRef,
    ) -> Result<PathBuf> {
        let database = object.key.strip_suffix(COMPRESSED).ok_or_else(|| {
            Error::damage(format!(
                "object {} should be compressed and is not",
                object.key
            ))
        })?;
        let path = self.path_of(database)?;
        let id = (database.to_owned(), object.blake3.clone());
        self.decompressions.run(id.clone(), || {
            if self.is_made(&path, object, &id)? {
                return Ok(path.clone());
            }
            let compressed = self.path_of(&object.key)?;
            if self.is_good(&compressed, object)? {
                let file = File::open(&compressed)
                    .context(|| format!("{} could not be opened", compressed.display()))?;
                self.decompress(&file, object, &path)?;
            } else {
                // The database is what is needed: the object itself is not kept.
                let temporary = self.temporary()?;
                download(bucket, fs, object, temporary.as_file())?;
                self.decompress(temporary.as_file(), object, &path)?;
            }
            self.trusted.lock().insert(id);
            Ok(path.clone())
        })
    }

    /// Remove all objects, and databases made from objects, but those of these keys and the parts of tarballs beside
    /// them. Who has a removed file open reads on.
    ///
    /// # Errors
    /// Those of the disk; some files are removed then, others not.
    pub fn keep_only(&self, keys: &HashSet<String>) -> Result<()> {
        let mut kept = HashSet::new();
        for key in keys {
            let path = self.path_of(key)?;
            if let Some(database) = key.strip_suffix(COMPRESSED) {
                let database = self.path_of(database)?;
                kept.insert(made_path(&database));
                kept.insert(database);
            }
            kept.insert(path);
        }
        let removed = remove_others(&self.dir, &self.dir.join(TMP), &kept);
        removed.context(|| format!("{} could not be tidied", self.dir.display()))
    }

    /// Whether the file at `path` is `object`. One that is not is removed.
    fn is_good(&self, path: &Path, object: &ObjectRef) -> Result<bool> {
        let Some(size) = size_of(path)? else {
            return Ok(false);
        };
        let id = (object.key.clone(), object.blake3.clone());
        if size == object.size {
            if self.trusted.lock().contains(&id) {
                return Ok(true);
            }
            if hash_of(path)?.blake3 == object.blake3 {
                self.trusted.lock().insert(id);
                return Ok(true);
            }
        }
        tracing::warn!(
            key = object.key,
            "a file of the proxy cache is damaged: fetching it again"
        );
        self.trusted.lock().remove(&id);
        fs::remove_file(path).context(|| format!("{} could not be removed", path.display()))?;
        Ok(false)
    }

    /// Whether the database at `path` was made from `object` and is whole.
    fn is_made(&self, path: &Path, object: &ObjectRef, id: &(String, String)) -> Result<bool> {
        let Some(size) = size_of(path)? else {
            return Ok(false);
        };
        let made_path = made_path(path);
        let made = match fs::read(&made_path) {
            // A torn or foreign file proves nothing, as a missing one: the database is made anew.
            Ok(bytes) => serde_json::from_slice::<Made>(&bytes).ok(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e).context(|| format!("{} is unreadable", made_path.display())),
        };
        let Some(made) = made else { return Ok(false) };
        if made.from != object.blake3 || made.size != size {
            return Ok(false);
        }
        if self.trusted.lock().contains(id) {
            return Ok(true);
        }
        let good = hash_of(path)?.blake3 == made.blake3;
        if good {
            self.trusted.lock().insert(id.clone());
        } else {
            let file = path.display();
            tracing::warn!(%file, "a database of the proxy cache is damaged: making it again");
        }
        Ok(good)
    }

    fn download(
        &self,
        bucket: &dyn Bucket,
        fs: &Handle,
        object: &ObjectRef,
        path: &Path,
    ) -> Result<()> {
        let key = keys::absolute(fs, &object.key)?;
        let writing = || format!("object {key} could not be stored in the proxy cache");
        let temporary = self.temporary()?;
        download(bucket, fs, object, temporary.as_file())?;
        self.keep(temporary, path).context(writing)?;
        self.trusted
            .lock()
            .insert((object.key.clone(), object.blake3.clone()));
        Ok(())
    }

    fn decompress(&self, compressed: &File, object: &ObjectRef, path: &Path) -> Result<()> {
        let what = format!("object {}", object.key);
        let writing = || format!("the database of {what} could not be stored in the proxy cache");
        let temporary = self.temporary()?;
        let limit = decompressed_limit(object);
        let stored = match decompress_seekable(compressed, &what, temporary.as_file(), limit)? {
            Some(stored) => stored,
            None => {
                let mut input = compressed;
                input.seek(SeekFrom::Start(0)).context(writing)?;
                decompress_to_file(input, &what, temporary.path(), limit)?
            }
        };
        self.keep(temporary, path).context(writing)?;
        let made = Made {
            from: object.blake3.clone(),
            size: stored.size,
            blake3: stored.blake3,
        };
        let made = serde_json::to_vec(&made).context(writing)?;
        let temporary = self.temporary()?;
        temporary.as_file().write_all(&made).context(writing)?;
        self.keep(temporary, &made_path(path)).context(writing)
    }

    fn temporary(&self) -> Result<tempfile::NamedTempFile> {
        let _writing = self.writing()?;
        tempfile::NamedTempFile::new_in(self.dir.join(TMP))
            .context(|| format!("no file could be created in {}", self.dir.display()))
    }

    /// Put a finished file under its key.
    fn keep(&self, temporary: tempfile::NamedTempFile, path: &Path) -> io::Result<()> {
        let _writing = self.writing().map_err(io::Error::other)?;
        fs::create_dir_all(path.parent().unwrap_or(&self.dir))?;
        temporary.persist(path).map_err(|e| e.error)?;
        Ok(())
    }
}

/// Remove files below `dir` and directories that become empty, but for `left_alone` and `kept`.
fn remove_others(dir: &Path, left_alone: &Path, kept: &HashSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        if path == left_alone || kept.contains(&path) || parts::is_beside(&path, kept) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            remove_others(&path, left_alone, kept)?;
            match fs::remove_dir(&path) {
                Err(e) if e.kind() != io::ErrorKind::DirectoryNotEmpty => return Err(e),
                _ => {}
            }
        } else {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn made_path(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".made");
    PathBuf::from(name)
}

/// Bytes of the file; `None` when there is none.
fn size_of(path: &Path) -> Result<Option<u64>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).context(|| format!("{} could not be examined", path.display())),
    }
}

fn hash_of(path: &Path) -> Result<StoredObject> {
    File::open(path)
        .and_then(StoredObject::of)
        .context(|| format!("{} could not be read", path.display()))
}

/// Lets concurrent calls for the same key share one execution and its outcome. Nothing is kept
/// afterwards: a call that comes when none is under way starts a new one.
#[derive(Debug)]
pub(super) struct SingleFlight<K, T> {
    flights: Mutex<HashMap<K, Arc<Flight<T>>>>,
}

#[derive(Debug)]
struct Flight<T> {
    outcome: Mutex<Option<Result<T, ErrorBody>>>,
    landed: Condvar,
}

impl<K, T> Default for SingleFlight<K, T> {
    fn default() -> Self {
        SingleFlight {
            flights: Mutex::default(),
        }
    }
}

impl<K: Clone + Eq + Hash, T: Clone> SingleFlight<K, T> {
    /// Whether a call for `key` is under way at this moment.
    pub(super) fn is_flying(&self, key: &K) -> bool {
        self.flights.lock().contains_key(key)
    }

    /// Run `f`, or wait for the call that already runs for `key` and answer what it answers.
    /// `f` must not ask for the same key again.
    pub(super) fn run(&self, key: K, f: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut flights = self.flights.lock();
        if let Some(flight) = flights.get(&key).cloned() {
            drop(flights);
            let mut outcome = flight.outcome.lock();
            loop {
                match &*outcome {
                    Some(Ok(answer)) => return Ok(answer.clone()),
                    Some(Err(body)) => return Err(Error::from(body.clone())),
                    None => flight.landed.wait(&mut outcome),
                }
            }
        }
        let flight = Arc::new(Flight {
            outcome: Mutex::new(None),
            landed: Condvar::new(),
        });
        flights.insert(key.clone(), Arc::clone(&flight));
        drop(flights);
        // Lands the flight also when `f` panics: nobody may wait forever.
        let landing = Landing {
            owner: self,
            key,
            flight,
        };
        let answer = f();
        *landing.flight.outcome.lock() = Some(match &answer {
            Ok(answer) => Ok(answer.clone()),
            Err(e) => Err(ErrorBody::from(e)),
        });
        answer
    }
}

struct Landing<'a, K: Eq + Hash, T> {
    owner: &'a SingleFlight<K, T>,
    key: K,
    flight: Arc<Flight<T>>,
}

impl<K: Eq + Hash, T> Drop for Landing<'_, K, T> {
    fn drop(&mut self) {
        self.owner.flights.lock().remove(&self.key);
        self.flight.outcome.lock().get_or_insert_with(|| {
            Err(ErrorBody::from(&Error::failed(
                "the work this waited for was abandoned",
            )))
        });
        self.flight.landed.notify_all();
    }
}

/// What the tests of tiering share.
#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use cbfs_core::bucket::{Body, BucketResult, BucketUrl, FileBucket, ObjectInfo};
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    /// A bucket in a temporary directory that counts reads and can be unreachable.
    #[derive(Debug)]
    pub(crate) struct Watched {
        _dir: tempfile::TempDir,
        inner: FileBucket,
        pub(crate) reads: AtomicUsize,
        pub(crate) down: AtomicBool,
    }

    impl Watched {
        pub(crate) fn new() -> Watched {
            let dir = tempfile::tempdir().unwrap();
            let inner = FileBucket::open(dir.path(), false).unwrap();
            Watched {
                _dir: dir,
                inner,
                reads: AtomicUsize::new(0),
                down: AtomicBool::new(false),
            }
        }

        /// Store an object of the file system.
        pub(crate) fn store(&self, relative: &str, bytes: &[u8]) -> ObjectRef {
            let key = keys::absolute(&fs_handle(), relative).unwrap();
            self.inner.create(&key, Body::Bytes(bytes)).unwrap();
            StoredObject::of(bytes).unwrap().at(relative)
        }

        /// Change the bytes of an object behind the bucket's back; `None` removes it.
        pub(crate) fn tamper(&self, relative: &str, bytes: Option<&[u8]>) {
            let key = keys::absolute(&fs_handle(), relative).unwrap();
            self.inner.delete(&key).unwrap();
            if let Some(bytes) = bytes {
                self.inner.create(&key, Body::Bytes(bytes)).unwrap();
            }
        }

        pub(crate) fn reads(&self) -> usize {
            self.reads.load(Ordering::SeqCst)
        }
    }

    impl Bucket for Watched {
        fn url(&self) -> &BucketUrl {
            self.inner.url()
        }

        fn create(&self, key: &Key, body: Body<'_>) -> BucketResult<()> {
            self.inner.create(key, body)
        }

        fn replace(&self, key: &Key, body: &[u8]) -> BucketResult<()> {
            self.inner.replace(key, body)
        }

        fn get(&self, key: &Key) -> BucketResult<Vec<u8>> {
            self.inner.get(key)
        }

        fn get_range(&self, key: &Key, offset: u64, len: u64) -> BucketResult<Vec<u8>> {
            self.reads.fetch_add(1, Ordering::SeqCst);
            if self.down.load(Ordering::SeqCst) {
                return Err(BucketError::Unreachable {
                    what: "test".into(),
                    source: None,
                });
            }
            self.inner.get_range(key, offset, len)
        }

        fn head(&self, key: &Key) -> BucketResult<Option<ObjectInfo>> {
            self.inner.head(key)
        }

        fn list(&self, prefix: &str) -> BucketResult<Vec<ObjectInfo>> {
            self.inner.list(prefix)
        }

        fn list_dir(&self, prefix: &str) -> BucketResult<Vec<ObjectInfo>> {
            self.inner.list_dir(prefix)
        }

        fn delete(&self, key: &Key) -> BucketResult<()> {
            self.inner.delete(key)
        }
    }

    pub(crate) fn fs_handle() -> Handle {
        "home-0f9a1c2e-3b4d-4e5f-8a6b-7c8d9e0f1a2b".parse().unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{Watched, fs_handle};
    use super::*;
    use cbfs_core::error::ErrorKind;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn files(dir: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(files(&path))
            } else {
                found.push(path)
            }
        }
        found
    }

    #[test]
    fn what_is_not_needed_goes_and_can_be_fetched_again() {
        let bucket = Watched::new();
        let packed = |text: &[u8]| zstd::encode_all(text, 1).unwrap();
        let objects = ["s/1/layer.sqlite.zst", "s/2/layer.sqlite.zst", "s/2/b.zst"]
            .map(|key| bucket.store(key, &packed(key.as_bytes())));
        let dir = tempfile::tempdir().unwrap();
        let proxy = ProxyCache::open(dir.path()).unwrap();
        let fetch = |i: usize| {
            proxy
                .fetch_decompressed(&bucket, &fs_handle(), &objects[i])
                .unwrap()
        };
        let before: Vec<PathBuf> = (0..3).map(fetch).collect();
        let keys = HashSet::from([objects[1].key.clone()]);
        proxy.keep_only(&keys).unwrap();
        let there: Vec<bool> = before.iter().map(|path| path.exists()).collect();
        assert_eq!(there, [false, true, false]);
        assert!(!dir.path().join("s/1").exists());
        let reads = bucket.reads();
        fetch(1);
        assert_eq!(bucket.reads(), reads);
        assert_eq!(fs::read(fetch(0)).unwrap(), b"s/1/layer.sqlite.zst");
        proxy.keep_only(&HashSet::new()).unwrap();
        assert!(files(dir.path()).is_empty());
    }

    #[test]
    fn an_object_is_downloaded_once_and_hashed_once_per_process() {
        let bucket = Watched::new();
        let object = bucket.store("s/1/a", b"contents");
        let dir = tempfile::tempdir().unwrap();
        let proxy = ProxyCache::open(dir.path()).unwrap();
        for _ in 0..2 {
            let path = proxy.fetch(&bucket, &fs_handle(), &object).unwrap();
            assert_eq!(path, proxy.path_of("s/1/a").unwrap());
            assert_eq!(fs::read(path).unwrap(), b"contents");
        }
        assert_eq!(bucket.reads(), 1);
        // The next process finds bit rot of the same length, and gets the object anew.
        fs::write(proxy.path_of("s/1/a").unwrap(), b"cOntents").unwrap();
        let proxy = ProxyCache::open(dir.path()).unwrap();
        let path = proxy.fetch(&bucket, &fs_handle(), &object).unwrap();
        assert_eq!(fs::read(path).unwrap(), b"contents");
        assert_eq!(bucket.reads(), 2);
    }

    #[test]
    fn a_large_object_is_downloaded_in_parts() {
        let bucket = Watched::new();
        let bytes: Vec<u8> = (0..(8 << 20) + 77usize).map(|i| (i / 1000) as u8).collect();
        let object = bucket.store("s/1/a", &bytes);
        let dir = tempfile::tempdir().unwrap();
        let proxy = ProxyCache::open(dir.path()).unwrap();
        let path = proxy.fetch(&bucket, &fs_handle(), &object).unwrap();
        assert_eq!(bucket.reads(), 2);
        assert!(fs::read(path).unwrap() == bytes);
    }

    #[test]
    fn a_damaged_or_missing_object_is_named_and_leaves_nothing() {
        let bucket = Watched::new();
        let object = bucket.store("s/1/a", b"contents");
        let dir = tempfile::tempdir().unwrap();
        let proxy = ProxyCache::open(dir.path()).unwrap();
        for stored in [Some(&b"cOntents"[..]), Some(b"short"), None] {
            bucket.tamper("s/1/a", stored);
            let error = proxy.fetch(&bucket, &fs_handle(), &object).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Damage, "{error}");
            assert!(error.to_string().contains("s/1/a"), "{error}");
            assert!(files(dir.path()).is_empty());
        }
        bucket.tamper("s/1/a", Some(b"contents"));
        proxy.fetch(&bucket, &fs_handle(), &object).unwrap();
    }

    #[test]
    fn a_database_is_decompressed_once_and_made_again_when_damaged() {
        let bucket = Watched::new();
        let raw = vec![42; 100_000];
        let packed = zstd::stream::encode_all(raw.as_slice(), 3).unwrap();
        let object = bucket.store("s/1/toc.sqlite.zst", &packed);
        let dir = tempfile::tempdir().unwrap();
        let proxy = ProxyCache::open(dir.path()).unwrap();
        let path = proxy
            .fetch_decompressed(&bucket, &fs_handle(), &object)
            .unwrap();
        assert_eq!(path, proxy.path_of("s/1/toc.sqlite").unwrap());
        assert_eq!(fs::read(&path).unwrap(), raw);
        // A database that this process trusts, or the next finds whole, needs no bucket; the object is not kept.
        assert!(!proxy.path_of("s/1/toc.sqlite.zst").unwrap().exists());
        proxy
            .fetch_decompressed(&bucket, &fs_handle(), &object)
            .unwrap();
        let proxy = ProxyCache::open(dir.path()).unwrap();
        proxy
            .fetch_decompressed(&bucket, &fs_handle(), &object)
            .unwrap();
        assert_eq!(bucket.reads(), 1);
        let mut rotten = raw.clone();
        rotten[70_000] = 0;
        fs::write(&path, rotten).unwrap();
        let proxy = ProxyCache::open(dir.path()).unwrap();
        proxy
            .fetch_decompressed(&bucket, &fs_handle(), &object)
            .unwrap();
        assert_eq!(fs::read(&path).unwrap(), raw);
        assert_eq!(bucket.reads(), 2);
        // A crash between database and note: nobody trusts the database.
        fs::remove_file(made_path(&path)).unwrap();
        fs::write(&path, b"half").unwrap();
        proxy
            .fetch_decompressed(&bucket, &fs_handle(), &object)
            .unwrap();
        assert_eq!(fs::read(&path).unwrap(), raw);
    }

    #[test]
    fn what_is_no_zstd_is_damage_and_leaves_no_database() {
        let bucket = Watched::new();
        let object = bucket.store("s/1/toc.sqlite.zst", b"no zstd");
        let dir = tempfile::tempdir().unwrap();
        let proxy = ProxyCache::open(dir.path()).unwrap();
        let error = proxy
            .fetch_decompressed(&bucket, &fs_handle(), &object)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damage);
        assert!(error.to_string().contains("s/1/toc.sqlite.zst"), "{error}");
        assert!(!proxy.path_of("s/1/toc.sqlite").unwrap().exists());
    }

    #[test]
    fn no_key_leads_out_of_the_cache() {
        let dir = tempfile::tempdir().unwrap();
        let proxy = ProxyCache::open(dir.path()).unwrap();
        for key in ["../a", "/a", "a//b", "a/../../b", "", "tmp/a", "a\0", "a/."] {
            assert_eq!(
                proxy.path_of(key).unwrap_err().kind(),
                ErrorKind::Damage,
                "{key:?}"
            );
        }
    }

    #[test]
    fn unfinished_files_go_at_the_next_open() {
        let dir = tempfile::tempdir().unwrap();
        drop(ProxyCache::open(dir.path()).unwrap());
        fs::write(dir.path().join("tmp/stray"), b"x").unwrap();
        drop(ProxyCache::open(dir.path()).unwrap());
        assert!(files(dir.path()).is_empty());
    }

    /// Four callers; the first waits inside until the others wait for it.
    fn share(outcome: fn() -> Result<u32>) -> (usize, Vec<Result<u32>>) {
        let flights: SingleFlight<u32, u32> = SingleFlight::default();
        let runs = AtomicUsize::new(0);
        let call = || {
            flights.run(7, || {
                runs.fetch_add(1, Ordering::SeqCst);
                // One reference in the map, one of the leader, one per waiter.
                let waiting = || {
                    flights
                        .flights
                        .lock()
                        .get(&7)
                        .is_some_and(|f| Arc::strong_count(f) == 5)
                };
                while !waiting() {
                    std::thread::yield_now();
                }
                outcome()
            })
        };
        let answers = std::thread::scope(|scope| {
            let callers: Vec<_> = (0..4).map(|_| scope.spawn(call)).collect();
            callers
                .into_iter()
                .map(|caller| {
                    caller
                        .join()
                        .unwrap_or_else(|_| Err(Error::failed("panicked")))
                })
                .collect()
        });
        assert!(flights.flights.lock().is_empty());
        (runs.into_inner(), answers)
    }

    #[test]
    fn concurrent_callers_share_one_run_and_its_outcome() {
        let (runs, answers) = share(|| Ok(5));
        assert_eq!(runs, 1);
        assert!(answers.iter().all(|answer| *answer.as_ref().unwrap() == 5));
        let (runs, answers) = share(|| Err(Error::damage("object x").hint("restore it")));
        assert_eq!(runs, 1);
        for answer in answers {
            let error = answer.unwrap_err();
            assert_eq!(
                (error.kind(), error.to_string()),
                (ErrorKind::Damage, "object x".into())
            );
            assert_eq!(error.hint_text(), Some("restore it"));
        }
    }

    #[test]
    fn a_panic_of_the_one_that_runs_leaves_nobody_waiting() {
        let (runs, answers) = share(|| panic!("on purpose"));
        assert_eq!(runs, 1);
        assert!(answers.iter().all(Result::is_err));
    }
}
