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
mod place;
mod runtime;
#[cfg(test)]
mod tests;
mod upload;

use super::{Body, Bucket, BucketError, BucketResult, BucketUrl, Key, ObjectInfo};
use client::{Client, Deadlines};
use place::{Options, Place};
use std::io;
use std::sync::Arc;
use upload::Limits;

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
        let place = Place::find(bucket, options, &place::variable, &place::config_file())?;
        let credentials = place::credentials(&format!("s3://{bucket}"), profile.as_deref())?;
        let client = Client::new(bucket, prefix, &place, credentials, Deadlines::default())?;
        Ok(S3Bucket {
            url: url.clone(),
            read_only,
            client: Arc::new(client),
            limits: Limits::default(),
        })
    }

    /// The same bucket, but files are sent in the smallest parts that stores take (5 MiB): to find
    /// out cheaply whether the store puts them together.
    #[must_use]
    pub fn with_smallest_parts(mut self) -> S3Bucket {
        self.limits = Limits::SMALLEST;
        self
    }

    /// Let a request run on the network's threads and wait for its answer.
    fn ask<T, F>(&self, request: impl FnOnce(Arc<Client>) -> F) -> BucketResult<T>
    where
        T: Send + 'static,
        F: Future<Output = BucketResult<T>> + Send + 'static,
    {
        runtime::wait(request(Arc::clone(&self.client)))
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
        let key = key.clone();
        match body {
            Body::Bytes(bytes) => {
                let bytes = bytes.to_vec();
                self.ask(|client| async move { client.put(&key, &bytes, true).await })
            }
            Body::File(path) => {
                let (path, limits) = (path.to_owned(), self.limits);
                self.ask(|client| async move { client.put_file(&key, &path, limits).await })
            }
        }
    }

    fn replace(&self, key: &Key, body: &[u8]) -> BucketResult<()> {
        self.may_write(key)?;
        let (key, bytes) = (key.clone(), body.to_vec());
        self.ask(|client| async move { client.put(&key, &bytes, false).await })
    }

    fn get(&self, key: &Key) -> BucketResult<Vec<u8>> {
        let key = key.clone();
        self.ask(|client| async move { client.get(&key).await })
    }

    fn get_range(&self, key: &Key, offset: u64, len: u64) -> BucketResult<Vec<u8>> {
        let key = key.clone();
        self.ask(|client| async move { client.get_range(&key, offset, len).await })
    }

    fn head(&self, key: &Key) -> BucketResult<Option<ObjectInfo>> {
        let key = key.clone();
        self.ask(|client| async move { client.head(&key).await })
    }

    fn list(&self, prefix: &str) -> BucketResult<Vec<ObjectInfo>> {
        let prefix = prefix.to_owned();
        self.ask(|client| async move { client.list(&prefix, false).await })
    }

    fn list_dir(&self, prefix: &str) -> BucketResult<Vec<ObjectInfo>> {
        let prefix = prefix.to_owned();
        self.ask(|client| async move { client.list(&prefix, true).await })
    }

    fn delete(&self, key: &Key) -> BucketResult<()> {
        self.may_write(key)?;
        let key = key.clone();
        self.ask(|client| async move { client.delete(&key).await })
    }
}
