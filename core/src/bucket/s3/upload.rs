//! Files to objects: one streamed PUT, or parts in parallel.
//!
//! Both send through URLs that rust-s3 signs, so that a body is neither hashed nor held in memory.
//! The last request of either carries `If-None-Match: *`: until then there is no object. A crash
//! leaves at most an unfinished upload, which costs storage until the store's lifecycle rule
//! ("abort incomplete multipart uploads") removes it.

use super::answer::{Asked, Refusal, broken, element, network_error, timed_out};
use super::client::{Client, content_type, create_only};
use super::limiter::Limiter;
use crate::bucket::error::TryAgain;
use crate::bucket::{BucketError, BucketResult, Key};
use crate::configuration::BucketSection;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue};
use reqwest::{Body, Response};
use s3::command::Command;
use s3::serde_types::{CompleteMultipartUploadData, InitiateMultipartUploadResponse, Part};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};

/// What is read from a file and handed to the network at a time.
const CHUNK: u64 = 512 * 1024;
/// Most parts of an upload (S3).
const PARTS_MAX: u64 = 10_000;
/// Tries of one part, and the pause after the first; each further one is four times as long.
const PART_TRIES: u32 = 4;
const PART_PAUSE: Duration = Duration::from_millis(200);
/// Parts on their way at a time.
const PARALLEL: usize = 4;
/// Smallest part but the last (S3).
const PART_MIN: u64 = 5 << 20;
/// Longest answer to a completion that is read.
const COMPLETION_MAX: u64 = 1 << 20;

/// From which size on an object is sent in parts, and how large these are at least.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Files up to this size are one PUT.
    pub(super) one_put: u64,
    /// At least [`PART_MIN`].
    pub(super) part: u64,
    /// Parts on their way at a time.
    pub(super) parallel: usize,
}

impl Limits {
    /// As many parts as S3 allows.
    pub(super) const SMALLEST: Limits = Limits {
        one_put: PART_MIN,
        part: PART_MIN,
        parallel: PARALLEL,
    };
}

impl Default for Limits {
    fn default() -> Limits {
        // A tarball of the default size is one PUT.
        Limits {
            one_put: 80 << 20,
            part: 16 << 20,
            parallel: PARALLEL,
        }
    }
}

impl Limits {
    /// As the bucket's section says.
    pub(super) fn of(section: Option<&BucketSection>) -> Limits {
        let default = Limits::default();
        let part = section.and_then(|s| s.part_size);
        let parallel = section.and_then(|s| s.parallel_parts);
        Limits {
            one_put: part.map_or(default.one_put, |part| part.0.saturating_mul(5)),
            part: part.map_or(default.part, |part| part.0),
            parallel: parallel.unwrap_or(default.parallel),
        }
    }
}

/// A range of an open file.
#[derive(Debug, Clone)]
struct Source {
    file: Arc<File>,
    from: u64,
    len: u64,
    limiter: Option<Arc<Limiter>>,
}

/// What a body on its way tells its sender.
#[derive(Debug)]
struct Watch {
    moved: Mutex<Instant>,
    /// Why the file could not be read.
    failure: Mutex<Option<io::Error>>,
}

impl Source {
    /// A body that reads the file as the network takes it.
    fn body(&self, watch: &Arc<Watch>) -> Body {
        if self.len == 0 {
            return Body::from(Vec::new());
        }
        let (file, end, watch) = (
            Arc::clone(&self.file),
            self.from + self.len,
            Arc::clone(watch),
        );
        let limiter = self.limiter.clone();
        let portion = limiter.as_ref().map_or(CHUNK, |limiter| limiter.portion());
        Body::wrap_stream(stream::try_unfold(self.from, move |at| {
            let (file, watch) = (Arc::clone(&file), Arc::clone(&watch));
            let limiter = limiter.clone();
            async move {
                *watch.moved.lock() = Instant::now();
                if at == end {
                    return Ok(None);
                }
                let next = (at + portion).min(end);
                if let Some(limiter) = limiter {
                    limiter.take(next - at).await;
                    *watch.moved.lock() = Instant::now();
                }
                let read = spawn_blocking(move || {
                    let mut chunk = vec![0; (next - at) as usize];
                    file.read_exact_at(&mut chunk, at).map(|()| chunk)
                });
                match read.await.unwrap_or_else(|e| Err(io::Error::other(e))) {
                    Ok(chunk) => Ok(Some((chunk, next))),
                    Err(e) => {
                        let told = io::Error::new(e.kind(), "the file could not be read");
                        *watch.failure.lock() = Some(e);
                        Err::<_, io::Error>(told)
                    }
                }
            }
        }))
    }
}

impl Client {
    /// Create the object `key` with the contents of the file at `path`.
    pub(super) async fn put_file(
        self: &Arc<Self>,
        key: &Key,
        path: &Path,
        limits: Limits,
    ) -> BucketResult<()> {
        let (object, asked) = self.object("PUT", key)?;
        let owned = path.to_owned();
        let limiter = self.limiter.clone();
        let opened = spawn_blocking(move || {
            let file = File::open(owned)?;
            let len = file.metadata()?.len();
            Ok(Source {
                file: Arc::new(file),
                from: 0,
                len,
                limiter,
            })
        });
        let source = opened
            .await
            .unwrap_or_else(|e| Err(io::Error::other(e)))
            .map_err(|source| BucketError::Io {
                what: format!("{} could not be read", path.display()),
                source,
            })?;
        if source.len > limits.one_put {
            return self
                .put_in_parts(key, &object, &asked, &source, limits)
                .await;
        }
        let mut headers = create_only();
        let url = self
            .permit_put(&asked, &object, Some(headers.clone()), None)
            .await?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type(key)));
        let answer = self.stream(&asked, url, headers, &source).await?;
        self.drain(&asked, answer).await;
        Ok(())
    }

    /// Send a range of a file to `url`, which is a credential, and expect success.
    async fn stream(
        &self,
        asked: &Asked,
        url: String,
        mut headers: HeaderMap,
        source: &Source,
    ) -> BucketResult<Response> {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(source.len));
        let watch = Arc::new(Watch {
            moved: Mutex::new(Instant::now()),
            failure: Mutex::default(),
        });
        let request = self
            .http
            .put(url)
            .headers(headers)
            .body(source.body(&watch));
        let answered = request.send();
        let out_of_time = sleep(self.deadlines.total(source.len));
        tokio::pin!(answered, out_of_time);
        let answer = loop {
            let silent = *watch.moved.lock() + self.deadlines.silence;
            tokio::select! {
                answer = &mut answered => break answer,
                () = &mut out_of_time => return Err(timed_out(asked, "the upload takes too long")),
                () = sleep_until(silent) => {
                    if *watch.moved.lock() + self.deadlines.silence <= Instant::now() {
                        return Err(timed_out(asked, "the store takes no more bytes"));
                    }
                }
            }
        };
        if let Some(source) = watch.failure.lock().take() {
            let what = format!("{}: the file could not be read", asked.what);
            return Err(BucketError::Io { what, source });
        }
        let answer = answer.map_err(|e| network_error(asked, e))?;
        self.expect_success(asked, answer).await
    }

    async fn put_in_parts(
        self: &Arc<Self>,
        key: &Key,
        path: &str,
        asked: &Asked,
        source: &Source,
        limits: Limits,
    ) -> BucketResult<()> {
        let part = part_size(source.len, limits.part);
        let command = Command::InitiateMultipartUpload {
            content_type: content_type(key),
        };
        let answer = self.ask(asked, path, command).await?;
        let document = self.read_up_to(asked, answer, COMPLETION_MAX).await?;
        let upload: InitiateMultipartUploadResponse =
            quick_xml::de::from_reader(document.as_slice())
                .map_err(|_| broken(asked, "the store began no multipart upload"))?;
        let id = upload.upload_id;
        let sent = self
            .send_parts(asked, path, &id, source, part, limits.parallel)
            .await;
        let done = match sent {
            Ok(parts) => self.complete(asked, path, &id, parts).await,
            Err(e) => Err(e),
        };
        if let Err(e) = &done {
            // Whatever became of it: an object that has come into being is not touched by this.
            let abort = Command::AbortMultipartUpload { upload_id: &id };
            match self.ask(asked, path, abort).await {
                Ok(answer) => self.drain(asked, answer).await,
                Err(also) => tracing::warn!(
                    "an upload stays unfinished in the bucket ({e}), and could not be aborted: {also}"
                ),
            }
        }
        done
    }

    async fn send_parts(
        self: &Arc<Self>,
        asked: &Asked,
        path: &str,
        id: &str,
        source: &Source,
        part: u64,
        parallel: usize,
    ) -> BucketResult<Vec<Part>> {
        let sends = (0..source.len.div_ceil(part)).map(|index| {
            let from = index * part;
            let range = Source {
                file: Arc::clone(&source.file),
                from,
                len: part.min(source.len - from),
                limiter: source.limiter.clone(),
            };
            self.send_part(asked, path, id, index as u32 + 1, range)
        });
        let mut parts: Vec<Part> = stream::iter(sends)
            .buffer_unordered(parallel)
            .try_collect()
            .await?;
        parts.sort_by_key(|part| part.part_number);
        Ok(parts)
    }

    async fn send_part(
        self: &Arc<Self>,
        asked: &Asked,
        path: &str,
        id: &str,
        part_number: u32,
        range: Source,
    ) -> BucketResult<Part> {
        let mut pause = PART_PAUSE;
        for turn in 1.. {
            let queries = HashMap::from([
                ("partNumber".to_owned(), part_number.to_string()),
                ("uploadId".to_owned(), id.to_owned()),
            ]);
            let url = self.permit_put(asked, path, None, Some(queries)).await?;
            match self.stream(asked, url, HeaderMap::new(), &range).await {
                Ok(answer) => {
                    let etag = answer.headers().get(ETAG).and_then(|v| v.to_str().ok());
                    let etag = etag.map(str::to_owned);
                    let etag = etag.ok_or_else(|| broken(asked, "a part has no ETag"))?;
                    self.drain(asked, answer).await;
                    return Ok(Part { part_number, etag });
                }
                Err(e) => match e.try_again() {
                    TryAgain::Soon(asked_for) if turn < PART_TRIES => {
                        sleep(asked_for.unwrap_or(pause).min(Duration::from_secs(20))).await;
                        pause *= 4;
                    }
                    _ => return Err(e),
                },
            }
        }
        Err(broken(asked, "a part was not sent"))
    }

    /// Make the object out of its parts, if there is none yet.
    async fn complete(
        &self,
        asked: &Asked,
        path: &str,
        id: &str,
        parts: Vec<Part>,
    ) -> BucketResult<()> {
        let data = CompleteMultipartUploadData { parts };
        let command = Command::CompleteMultipartUpload {
            upload_id: id,
            data,
        };
        let patience = self.deadlines.completion;
        let answer = self.ask_create_only(asked, path, command, patience).await?;
        let document = self.read_up_to(asked, answer, COMPLETION_MAX).await?;
        let document = String::from_utf8_lossy(&document);
        if document.contains("<CompleteMultipartUploadResult") {
            return Ok(());
        }
        // The status was sent before the work was done: the document alone tells how it ended.
        match element(&document, "Code") {
            Some(code) => {
                let status = if code == "PreconditionFailed" {
                    412
                } else {
                    500
                };
                Err(Refusal {
                    status,
                    code,
                    ..Refusal::default()
                }
                .to_error(asked))
            }
            None => Err(broken(
                asked,
                "the store did not say whether the upload is complete",
            )),
        }
    }
}

/// Parts of at least `least` bytes, not more than S3 allows, in whole MiB.
fn part_size(len: u64, least: u64) -> u64 {
    least.max(len.div_ceil(PARTS_MAX).next_multiple_of(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_never_more_than_the_store_takes() {
        const MIB: u64 = 1 << 20;
        assert_eq!(part_size(100 * MIB, 16 * MIB), 16 * MIB);
        for len in [1 << 40, 5 << 40, 160_000 * MIB, 160_001 * MIB] {
            let part = part_size(len, 16 * MIB);
            assert!(
                len.div_ceil(part) <= PARTS_MAX && part.is_multiple_of(MIB),
                "{len} {part}"
            );
        }
    }
}
