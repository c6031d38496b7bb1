//! A bucket of an S3 store: `s3://BUCKET/PREFIX`.
//!
//! Creating is a PUT with `If-None-Match: *`: the store decides which of several creators wins, and
//! an object is there whole or not at all. A store that ignores the header lets two creators win;
//! `cbfsctl bucket probe` finds out.
//!
//! An answer can be lost after the store has acted. This type tells an error then; the decorator
//! [`Retrying`](super::Retrying) finds out what became of it.

mod answer;
mod client;
mod credentials;
mod headers;
mod limiter;
mod notes;
mod place;
mod runtime;
#[cfg(test)]
mod tests;
mod upload;

use super::{Body, Bucket, BucketError, BucketResult, BucketUrl, Counters, Key, ObjectInfo};
use crate::configuration;
use client::{Client, Deadlines, OnlyIf, Settings};
use limiter::Limiter;
use place::{Options, Place};
use std::io;
use std::path::Path;
use std::sync::Arc;
use upload::Limits;

/// How bytes are written.
#[derive(Debug, Clone)]
enum Write {
    Create,
    Replace,
    /// In place of this version only.
    Swap(String),
}

/// A bucket of an S3 store.
#[derive(Debug)]
pub struct S3Bucket {
    url: BucketUrl,
    read_only: bool,
    client: Arc<Client>,
    limits: Limits,
}

impl S3Bucket {
    /// A bucket at `url`. Finds credentials (which may ask services of the cloud this machine runs
    /// in), but asks nothing of the store.
    ///
    /// # Errors
    /// [`BucketError::Denied`] when there are no credentials, [`BucketError::Invalid`] when the URL is
    /// none of S3 or endpoint or region make no sense.
    pub fn open(url: &BucketUrl, read_only: bool) -> BucketResult<S3Bucket> {
        S3Bucket::open_counted(url, read_only, Arc::default())
    }

    /// The same; what goes over the wire is counted in `counters`.
    pub(super) fn open_counted(
        url: &BucketUrl,
        read_only: bool,
        counters: Arc<Counters>,
    ) -> BucketResult<S3Bucket> {
        let BucketUrl::S3 {
            bucket,
            prefix,
            endpoint,
            region,
            profile,
        } = url
        else {
            let what = format!("{url} is not in an S3 store");
            return Err(BucketError::Invalid { what });
        };
        let options = Options {
            endpoint: endpoint.as_deref(),
            region: region.as_deref(),
            profile: profile.as_deref(),
        };
        let configured = configuration::current();
        let section = configured.bucket(url);
        let config_file = place::config_file();
        let place = Place::find(bucket, options, section, &place::variable, &config_file)?;
        let shown = format!("s3://{bucket}");
        let provider = credentials::provider(&shown, options, section, &place.region)?;
        let limits = Limits::of(section);
        let mut deadlines = Deadlines::of(section);
        let rate = section.and_then(|s| s.upload_limit);
        let limiter = rate.map(|rate| {
            // Parts share it, and must not be given up because of it.
            let share = rate.0 / (2 * limits.parallel as u64);
            deadlines.slowest = deadlines.slowest.min(share).max(1);
            Limiter::shared(bucket, rate.0)
        });
        let settings = Settings {
            deadlines,
            authorities: section.and_then(|s| s.ca_file.as_deref()),
            limiter,
            counters,
        };
        let bucket = S3Bucket {
            url: url.clone(),
            read_only,
            client: Arc::new(Client::new(bucket, prefix, place, provider, settings)?),
            limits,
        };
        // Without keys nothing works: told now, not by the first request.
        let client = Arc::clone(&bucket.client);
        runtime::wait(async move { client.find_keys().await })?;
        Ok(bucket)
    }

    /// The same bucket, but files are sent in the smallest parts that stores take (5 MiB): to find
    /// out cheaply whether the store puts them together.
    #[must_use]
    pub fn with_smallest_parts(mut self) -> S3Bucket {
        self.limits = Limits::SMALLEST;
        self
    }

    /// Let a request run on the network's threads and wait for its answer. When the store refuses our keys, and
    /// there are others by now, once more: a refused request was not carried out.
    fn ask<T, F>(&self, request: impl Fn(Arc<Client>) -> F + Send + 'static) -> BucketResult<T>
    where
        T: Send + 'static,
        F: Future<Output = BucketResult<T>> + Send + 'static,
    {
        let client = Arc::clone(&self.client);
        runtime::wait(async move {
            match request(Arc::clone(&client)).await {
                Err(BucketError::Denied { .. }) if client.renew_keys().await => {
                    request(client).await
                }
                answer => answer,
            }
        })
    }

    fn put(&self, key: &Key, bytes: &[u8], write: Write) -> BucketResult<()> {
        let (key, bytes): (Key, Arc<[u8]>) = (key.clone(), bytes.into());
        self.ask(move |client| {
            let (key, bytes, write) = (key.clone(), Arc::clone(&bytes), write.clone());
            async move {
                let only_if = match &write {
                    Write::Create => OnlyIf::Absent,
                    Write::Replace => OnlyIf::Always,
                    Write::Swap(etag) => OnlyIf::Is(etag),
                };
                client.put(&key, &bytes, only_if).await
            }
        })
    }

    fn put_file(&self, key: &Key, path: &Path, notes: Option<&Path>) -> BucketResult<()> {
        let (key, path, limits) = (key.clone(), path.to_owned(), self.limits);
        let notes = notes.map(Path::to_owned);
        self.ask(move |client| {
            let (key, path, notes) = (key.clone(), path.clone(), notes.clone());
            async move { client.put_file(&key, &path, limits, notes.as_deref()).await }
        })
    }

    /// What the store calls this version of an object. CBFS itself does not need it; a probe does.
    pub fn etag(&self, key: &Key) -> BucketResult<String> {
        let key = key.clone();
        self.ask(move |client| {
            let key = key.clone();
            async move { client.etag(&key).await }
        })
    }

    /// Replace an object if it is still the version `etag` ([`S3Bucket::etag`]); else it is
    /// [`BucketError::AlreadyExists`].
    pub fn swap(&self, key: &Key, bytes: &[u8], etag: &str) -> BucketResult<()> {
        self.may_write(key)?;
        self.put(key, bytes, Write::Swap(etag.to_owned()))
    }

    /// Give an object one tag, in place of all it has. Name and value must be letters, digits and `-`.
    pub fn set_tag(&self, key: &Key, name: &str, value: &str) -> BucketResult<()> {
        self.may_write(key)?;
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !plain(name) || !plain(value) {
            let what = format!("{name:?} = {value:?} is no tag");
            return Err(BucketError::Invalid { what });
        }
        let (key, name, value) = (key.clone(), name.to_owned(), value.to_owned());
        self.ask(move |client| {
            let (key, name, value) = (key.clone(), name.clone(), value.clone());
            async move { client.set_tag(&key, &name, &value).await }
        })
    }

    /// The value of an object's first tag.
    pub fn tag(&self, key: &Key) -> BucketResult<Option<String>> {
        let key = key.clone();
        self.ask(move |client| {
            let key = key.clone();
            async move { client.tag(&key).await }
        })
    }

    fn list_below(&self, prefix: &str, only_directly: bool) -> BucketResult<Vec<ObjectInfo>> {
        let prefix = prefix.to_owned();
        self.ask(move |client| {
            let prefix = prefix.clone();
            async move { client.list(&prefix, only_directly).await }
        })
    }

    fn may_write(&self, key: &Key) -> BucketResult<()> {
        if !self.read_only {
            return Ok(());
        }
        let why = "the bucket was opened to read only";
        Err(BucketError::Denied {
            what: key.to_string(),
            source: Some(io::Error::new(io::ErrorKind::PermissionDenied, why)),
        })
    }
}

impl Bucket for S3Bucket {
    fn url(&self) -> &BucketUrl {
        &self.url
    }

    fn create(&self, key: &Key, body: Body<'_>) -> BucketResult<()> {
        self.may_write(key)?;
        match body {
            Body::Bytes(bytes) => self.put(key, bytes, Write::Create),
            Body::File(path) => self.put_file(key, path, None),
        }
    }

    fn create_resumably(&self, key: &Key, path: &Path, notes: &Path) -> BucketResult<()> {
        self.may_write(key)?;
        self.put_file(key, path, Some(notes))
    }

    fn forget_upload(&self, notes: &Path) -> BucketResult<()> {
        let notes = notes.to_owned();
        self.ask(move |client| {
            let notes = notes.clone();
            async move { client.forget_upload(&notes).await }
        })
    }

    fn replace(&self, key: &Key, body: &[u8]) -> BucketResult<()> {
        self.may_write(key)?;
        self.put(key, body, Write::Replace)
    }

    fn get(&self, key: &Key) -> BucketResult<Vec<u8>> {
        let key = key.clone();
        self.ask(move |client| {
            let key = key.clone();
            async move { client.get(&key).await }
        })
    }

    fn get_range(&self, key: &Key, offset: u64, len: u64) -> BucketResult<Vec<u8>> {
        let key = key.clone();
        self.ask(move |client| {
            let key = key.clone();
            async move { client.get_range(&key, offset, len).await }
        })
    }

    fn head(&self, key: &Key) -> BucketResult<Option<ObjectInfo>> {
        let key = key.clone();
        self.ask(move |client| {
            let key = key.clone();
            async move { client.head(&key).await }
        })
    }

    fn list(&self, prefix: &str) -> BucketResult<Vec<ObjectInfo>> {
        self.list_below(prefix, false)
    }

    fn list_dir(&self, prefix: &str) -> BucketResult<Vec<ObjectInfo>> {
        self.list_below(prefix, true)
    }

    fn delete(&self, key: &Key) -> BucketResult<()> {
        self.may_write(key)?;
        let key = key.clone();
        self.ask(move |client| {
            let key = key.clone();
            async move { client.delete(&key).await }
        })
    }
}
