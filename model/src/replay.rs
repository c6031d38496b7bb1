//! Runs functions of `cbfs_core::catalog` one request at a time.
//!
//! A function is called with the answers that its requests got so far. At the first request without an answer it
//! is stopped, and that request is what it does next. So the checker may let anything happen between any two
//! requests of the real code. Functions of the catalog are pure but for their requests: same answers, same
//! next request; what one did is remembered and not run twice.

use cbfs_core::bucket::{Body, Bucket, BucketError, BucketResult, BucketUrl, Key, ObjectInfo};
use cbfs_core::inode::Timestamp;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{LazyLock, Mutex, MutexGuard};

/// A key, as a small number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KeyId(u16);

/// The bytes of an object, as a small number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DocId(u16);

/// Each key and each object's bytes that ever occurred, once.
#[derive(Default)]
struct Interned {
    keys: Vec<String>,
    docs: Vec<Vec<u8>>,
    key_ids: HashMap<String, KeyId>,
    doc_ids: HashMap<Vec<u8>, DocId>,
}

static INTERNED: LazyLock<Mutex<Interned>> = LazyLock::new(Mutex::default);

fn interned() -> MutexGuard<'static, Interned> {
    INTERNED.lock().unwrap()
}

impl KeyId {
    /// The number of a key (or of the prefix of a listing).
    pub fn of(key: &str) -> KeyId {
        let mut all = interned();
        if let Some(id) = all.key_ids.get(key) {
            return *id;
        }
        let id = KeyId(u16::try_from(all.keys.len()).unwrap());
        all.keys.push(key.to_owned());
        all.key_ids.insert(key.to_owned(), id);
        id
    }

    pub fn text(self) -> String {
        interned().keys[usize::from(self.0)].clone()
    }
}

impl DocId {
    pub fn of(bytes: &[u8]) -> DocId {
        let mut all = interned();
        if let Some(id) = all.doc_ids.get(bytes) {
            return *id;
        }
        let id = DocId(u16::try_from(all.docs.len()).unwrap());
        all.docs.push(bytes.to_owned());
        all.doc_ids.insert(bytes.to_owned(), id);
        id
    }

    pub fn bytes(self) -> Vec<u8> {
        interned().docs[usize::from(self.0)].clone()
    }
}

/// What a function asks of the bucket.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Request {
    Create(KeyId, DocId),
    Get(KeyId),
    Head(KeyId),
    /// Everything below a prefix, or only what lies directly below it.
    List {
        prefix: KeyId,
        directly: bool,
    },
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Request::Create(key, _) => write!(f, "PUT {}", key.text()),
            Request::Get(key) => write!(f, "GET {}", key.text()),
            Request::Head(key) => write!(f, "HEAD {}", key.text()),
            Request::List { prefix, .. } => write!(f, "LIST {}", prefix.text()),
        }
    }
}

/// What it is told.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Answer {
    Created,
    /// A create-only PUT found the key taken.
    Taken,
    /// No answer: the request was carried out, or will be, or never.
    Lost,
    Doc(Option<DocId>),
    There(bool),
    Keys(Vec<KeyId>),
}

/// The objects of a bucket.
#[derive(Clone, Default, PartialEq, Eq, Hash, Debug)]
pub struct Objects(pub BTreeMap<KeyId, DocId>);

impl Objects {
    /// Carry a request out.
    pub fn serve(&mut self, request: &Request) -> Answer {
        match request {
            Request::Create(key, doc) => {
                if self.0.contains_key(key) {
                    return Answer::Taken;
                }
                self.0.insert(*key, *doc);
                Answer::Created
            }
            Request::Get(key) => Answer::Doc(self.0.get(key).copied()),
            Request::Head(key) => Answer::There(self.0.contains_key(key)),
            Request::List { prefix, directly } => {
                let prefix = prefix.text();
                let mut found: Vec<(String, KeyId)> = self
                    .0
                    .keys()
                    .map(|id| (id.text(), *id))
                    .filter(|(key, _)| {
                        key.strip_prefix(&prefix)
                            .is_some_and(|rest| !(*directly && rest.contains('/')))
                    })
                    .collect();
                found.sort();
                Answer::Keys(found.into_iter().map(|(_, id)| id).collect())
            }
        }
    }
}

/// How far a function got.
#[derive(Clone, Debug)]
pub enum Progress<T> {
    /// It asks this next.
    Asks(Request),
    /// It has ended.
    Ended(T),
}

/// Run a function with the answers its requests got so far.
pub fn replay<T>(answers: &[Answer], function: impl FnOnce(&dyn Bucket) -> T) -> Progress<T> {
    let bucket = Replay {
        source: Mutex::new(Source::Answers(answers.to_vec(), 0)),
        asked: Mutex::new(None),
        url: "file:///model".parse().unwrap(),
    };
    let value = function(&bucket);
    match bucket.asked.into_inner().unwrap() {
        Some(request) => Progress::Asks(request),
        None => Progress::Ended(value),
    }
}

/// Run a function at once on what is there.
pub fn at_once<T>(objects: &Objects, function: impl FnOnce(&dyn Bucket) -> T) -> T {
    let bucket = Replay {
        source: Mutex::new(Source::Objects(objects.clone())),
        asked: Mutex::new(None),
        url: "file:///model".parse().unwrap(),
    };
    function(&bucket)
}

#[derive(Debug)]
enum Source {
    Answers(Vec<Answer>, usize),
    Objects(Objects),
}

#[derive(Debug)]
struct Replay {
    source: Mutex<Source>,
    /// The first request that had no answer.
    asked: Mutex<Option<Request>>,
    url: BucketUrl,
}

impl Replay {
    fn ask(&self, request: Request) -> BucketResult<Answer> {
        let mut asked = self.asked.lock().unwrap();
        let answer = match &mut *self.source.lock().unwrap() {
            Source::Objects(objects) => Some(objects.serve(&request)),
            Source::Answers(answers, next) => {
                *next += 1;
                answers.get(*next - 1).cloned()
            }
        };
        let unreachable = || BucketError::Unreachable {
            what: format!("{request:?}"),
            source: None,
        };
        match answer {
            Some(Answer::Lost) => Err(unreachable()),
            Some(answer) => Ok(answer),
            None => {
                // What it does after this "error" is forgotten.
                let error = unreachable();
                asked.get_or_insert(request);
                Err(error)
            }
        }
    }

    fn listed(&self, prefix: &str, directly: bool) -> BucketResult<Vec<ObjectInfo>> {
        let prefix = KeyId::of(prefix);
        match self.ask(Request::List { prefix, directly })? {
            Answer::Keys(keys) => Ok(keys.into_iter().map(info).collect()),
            other => panic!("{other:?} for a listing"),
        }
    }
}

fn info(key: KeyId) -> ObjectInfo {
    ObjectInfo {
        key: Key::new(key.text()).unwrap(),
        size: 1,
        modified: Timestamp(0),
    }
}

impl Bucket for Replay {
    fn url(&self) -> &BucketUrl {
        &self.url
    }

    fn create(&self, key: &Key, body: Body<'_>) -> BucketResult<()> {
        let Body::Bytes(bytes) = body else {
            panic!("the catalog sends no files");
        };
        let request = Request::Create(KeyId::of(key.as_str()), DocId::of(bytes));
        match self.ask(request)? {
            Answer::Created => Ok(()),
            Answer::Taken => Err(BucketError::AlreadyExists { key: key.clone() }),
            other => panic!("{other:?} for a PUT"),
        }
    }

    fn replace(&self, key: &Key, _: &[u8]) -> BucketResult<()> {
        panic!("{key}: the protocol replaces nothing")
    }

    fn get(&self, key: &Key) -> BucketResult<Vec<u8>> {
        match self.ask(Request::Get(KeyId::of(key.as_str())))? {
            Answer::Doc(Some(doc)) => Ok(doc.bytes()),
            Answer::Doc(None) => Err(BucketError::NotFound { key: key.clone() }),
            other => panic!("{other:?} for a GET"),
        }
    }

    fn get_range(&self, key: &Key, _: u64, _: u64) -> BucketResult<Vec<u8>> {
        panic!("{key}: the protocol reads no ranges")
    }

    fn head(&self, key: &Key) -> BucketResult<Option<ObjectInfo>> {
        let id = KeyId::of(key.as_str());
        match self.ask(Request::Head(id))? {
            Answer::There(there) => Ok(there.then(|| info(id))),
            other => panic!("{other:?} for a HEAD"),
        }
    }

    fn list(&self, prefix: &str) -> BucketResult<Vec<ObjectInfo>> {
        self.listed(prefix, false)
    }

    fn list_dir(&self, prefix: &str) -> BucketResult<Vec<ObjectInfo>> {
        self.listed(prefix, true)
    }

    fn delete(&self, key: &Key) -> BucketResult<()> {
        panic!("{key}: what removes objects stands in the model")
    }
}
