//! Several creators of one object at the same time: whether a store lets exactly one of them win. Everything that
//! keeps two masters apart rests on this, and a store that ignores `If-None-Match` says nothing about it.

use super::{Body, Bucket, BucketError, BucketResult, Key};
use std::sync::Barrier;

/// Creators in a race.
pub const RACERS: usize = 12;

/// How a race ended.
#[derive(Debug)]
pub struct Race {
    /// Who was told that he created the object.
    pub winners: Vec<usize>,
    /// What those met who were neither told so nor refused.
    pub failures: Vec<BucketError>,
    /// Whose object is stored; `None` when it is nobody's.
    pub stored: Option<usize>,
}

/// What a racer writes.
fn claim(racer: usize) -> Vec<u8> {
    format!("claim of racer {racer}").into_bytes()
}

/// Let all `racers` create `key` at the same time, and once more, later, one of the losers. The object is there
/// afterwards.
///
/// # Errors
/// When nobody created it, and not because he was refused: the store could not be asked.
pub fn race(racers: &[&dyn Bucket], key: &Key) -> BucketResult<Race> {
    let start = Barrier::new(racers.len());
    let mut results: Vec<BucketResult<()>> = std::thread::scope(|scope| {
        let running: Vec<_> = racers
            .iter()
            .enumerate()
            .map(|(me, bucket)| {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    bucket.create(key, Body::Bytes(&claim(me)))
                })
            })
            .collect();
        let joined = running.into_iter().map(|racer| {
            racer.join().unwrap_or_else(|_| {
                Err(BucketError::Invalid {
                    what: "a racer panicked".to_owned(),
                })
            })
        });
        joined.collect()
    });
    // Even a store that decides races by luck is slow to overwrite what is settled.
    if let Some(late) = results.iter().position(|r| r.is_err()) {
        let again = racers[late].create(key, Body::Bytes(&claim(late)));
        if again.is_ok() {
            results[late] = again;
        }
    }
    let (mut winners, mut failures) = (Vec::new(), Vec::new());
    for (me, result) in results.into_iter().enumerate() {
        match result {
            Ok(()) => winners.push(me),
            Err(BucketError::AlreadyExists { .. }) => {}
            Err(e) => failures.push(e),
        }
    }
    if winners.is_empty()
        && let Some(e) = failures.pop()
    {
        return Err(e);
    }
    let stored = racers[0].get(key)?;
    Ok(Race {
        stored: (0..racers.len()).find(|racer| claim(*racer) == stored),
        winners,
        failures,
    })
}

impl Race {
    /// What is wrong with the store, in words; `None` when exactly one won and his object is stored.
    pub fn fault(&self) -> Option<String> {
        let words = match (self.winners.as_slice(), self.stored) {
            ([winner], Some(stored)) if *winner == stored => return None,
            ([], _) => "none of them succeeded".to_owned(),
            ([_], _) => "one of them succeeded, but another one's object is stored".to_owned(),
            (all, _) => format!("{} of them succeeded", all.len()),
        };
        Some(format!(
            "of {RACERS} creators of one object at once, {words}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::{BucketUrl, FileBucket, ObjectInfo};

    /// A store that ignores the condition.
    #[derive(Debug)]
    struct Careless(FileBucket);

    impl Bucket for Careless {
        fn url(&self) -> &BucketUrl {
            self.0.url()
        }
        fn create(&self, key: &Key, body: Body<'_>) -> BucketResult<()> {
            match body {
                Body::Bytes(bytes) => self.0.replace(key, bytes),
                Body::File(_) => self.0.create(key, body),
            }
        }
        fn replace(&self, key: &Key, body: &[u8]) -> BucketResult<()> {
            self.0.replace(key, body)
        }
        fn get(&self, key: &Key) -> BucketResult<Vec<u8>> {
            self.0.get(key)
        }
        fn get_range(&self, key: &Key, offset: u64, len: u64) -> BucketResult<Vec<u8>> {
            self.0.get_range(key, offset, len)
        }
        fn head(&self, key: &Key) -> BucketResult<Option<ObjectInfo>> {
            self.0.head(key)
        }
        fn list(&self, prefix: &str) -> BucketResult<Vec<ObjectInfo>> {
            self.0.list(prefix)
        }
        fn list_dir(&self, prefix: &str) -> BucketResult<Vec<ObjectInfo>> {
            self.0.list_dir(prefix)
        }
        fn delete(&self, key: &Key) -> BucketResult<()> {
            self.0.delete(key)
        }
    }

    #[test]
    fn a_race_with_one_winner_is_told_from_one_with_several() {
        let dir = tempfile::tempdir().unwrap();
        let honest = FileBucket::open(dir.path(), false).unwrap();
        let racers = [&honest as &dyn Bucket; RACERS];
        let fair = race(&racers, &Key::new("fair").unwrap()).unwrap();
        assert_eq!(fair.fault(), None, "{fair:?}");
        assert_eq!(fair.stored, Some(fair.winners[0]));
        let careless = Careless(FileBucket::open(dir.path(), false).unwrap());
        let racers = [&careless as &dyn Bucket; RACERS];
        let unfair = race(&racers, &Key::new("unfair").unwrap()).unwrap();
        assert_eq!(unfair.winners.len(), RACERS);
        assert!(unfair.fault().unwrap().contains("12 of them succeeded"));
    }

    #[test]
    fn a_store_that_cannot_be_asked_is_not_judged() {
        let dir = tempfile::tempdir().unwrap();
        let closed = FileBucket::open(dir.path(), true).unwrap();
        let racers = [&closed as &dyn Bucket; 2];
        let error = race(&racers, &Key::new("k").unwrap()).unwrap_err();
        assert!(matches!(error, BucketError::Denied { .. }), "{error:?}");
    }
}
