//! Buckets of tests.

use std::path::{Path, PathBuf};

/// A bucket that belongs to one test: a directory of its stage, or a prefix of the bucket that
/// `CBFS_TEST_BUCKET_URL` names.
#[derive(Debug, Clone)]
pub struct TestBucket {
    url: String,
    dir: Option<PathBuf>,
}

impl TestBucket {
    /// The directory `dir` (created) as a bucket, unless the environment names another one; there
    /// `unique` keeps tests apart.
    pub(crate) fn new(dir: &Path, unique: &str) -> TestBucket {
        match std::env::var("CBFS_TEST_BUCKET_URL") {
            Ok(base) if !base.is_empty() => {
                let (place, query) = base.split_once('?').unwrap_or((&base, ""));
                let mut url = format!("{}/{unique}", place.trim_end_matches('/'));
                if !query.is_empty() {
                    url = format!("{url}?{query}");
                }
                TestBucket { url, dir: None }
            }
            _ => TestBucket::directory(dir),
        }
    }

    /// The directory `dir` (created) as a bucket, whatever the environment says.
    pub(crate) fn directory(dir: &Path) -> TestBucket {
        std::fs::create_dir_all(dir).expect("the bucket's directory");
        TestBucket {
            url: format!("file://{}", dir.display()),
            dir: Some(dir.to_owned()),
        }
    }

    /// Its URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether it is one in a directory.
    pub fn is_directory(&self) -> bool {
        self.dir.is_some()
    }

    /// The directory, for tests that look at objects or damage them.
    ///
    /// # Panics
    /// Where the bucket is none.
    pub fn dir(&self) -> &Path {
        self.dir
            .as_deref()
            .expect("this test needs a bucket in a directory: use Stage::directory_bucket")
    }

    /// Take the directory away: nothing of the bucket can be reached.
    ///
    /// # Panics
    /// Where the bucket is none.
    pub fn take_away(&self) -> Away {
        let home = self.dir().to_owned();
        let hidden = home.with_extension("away");
        std::fs::rename(&home, &hidden).expect("the bucket's directory");
        Away { home, hidden }
    }
}

/// A bucket that is out of reach until it is brought back.
#[derive(Debug)]
#[must_use]
pub struct Away {
    home: PathBuf,
    hidden: PathBuf,
}

impl Away {
    /// It can be reached again, as it was.
    pub fn bring_back(self) {
        std::fs::rename(self.hidden, self.home).expect("the bucket's directory");
    }
}
