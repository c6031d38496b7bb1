//! Files to objects: one streamed PUT, or parts in parallel.
//!
//! Both send through URLs that rust-s3 signs, so that a body is neither hashed nor held in memory.
//! The last request of either carries `If-None-Match: *`: until then there is no object. An upload in parts that
//! is noted (see `notes`) goes on after a crash; one that is not, and one whose beginning was not answered, costs
//! storage until the store's lifecycle rule ("abort incomplete multipart uploads") removes it.

use super::answer::{Asked, Refusal, broken, element, network_error, timed_out};
use super::client::{Client, content_type, create_only};
use super::limiter::Limiter;
use super::notes::{Arrived, Notes};
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
use std::sync::atomic::{AtomicBool, Ordering};
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
    /// The network has taken all of it.
    all_taken: AtomicBool,
    /// Why the file could not be read.
    failure: Mutex<Option<io::Error>>,
}

impl Source {
    /// BLAKE3 of the range, in hex.
    async fn hash(&self) -> io::Result<String> {
        let source = self.clone();
        let hashed = spawn_blocking(move || {
            let (mut hasher, mut at) = (blake3::Hasher::new(), source.from);
            let end = source.from + source.len;
            let mut chunk = vec![0; CHUNK as usize];
            while at < end {
                let piece = &mut chunk[..CHUNK.min(end - at) as usize];
                source.file.read_exact_at(piece, at)?;
                hasher.update(piece);
                at += piece.len() as u64;
            }
            Ok(hasher.finalize().to_hex().to_string())
        });
        hashed.await.unwrap_or_else(|e| Err(io::Error::other(e)))
    }

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
                    watch.all_taken.store(true, Ordering::Relaxed);
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
        notes: Option<&Path>,
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
            let object = Object {
                path: &object,
                asked: &asked,
            };
            return self
                .put_in_parts(key, &object, &source, limits, notes)
                .await;
        }
        let mut headers = create_only();
        let url = self
            .permit_put(&asked, &object, Some(headers.clone()), None)
            .await?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type(key)));
        let answer = self.stream(&asked, url, headers, &source).await?;
        let answer = answer.ok_or_else(|| broken(&asked, "the answer is about another request"))?;
        self.drain(&asked, answer).await;
        Ok(())
    }

    /// Send a range of a file to `url`, which is a credential, and expect success. `None`: it was to be part of an
    /// upload that the store does not know.
    async fn stream(
        &self,
        asked: &Asked,
        url: String,
        mut headers: HeaderMap,
        source: &Source,
    ) -> BucketResult<Option<Response>> {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(source.len));
        let watch = Arc::new(Watch {
            moved: Mutex::new(Instant::now()),
            all_taken: AtomicBool::new(source.len == 0),
            failure: Mutex::default(),
        });
        let request = self
            .http
            .put(url)
            .headers(headers)
            .body(source.body(&watch));
        self.counters.sent(source.len);
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
                        let why = match watch.all_taken.load(Ordering::Relaxed) {
                            true => "no answer in time",
                            false => "the store takes no more bytes",
                        };
                        return Err(timed_out(asked, why));
                    }
                }
            }
        };
        if let Some(source) = watch.failure.lock().take() {
            let what = format!("{}: the file could not be read", asked.what);
            return Err(BucketError::Io { what, source });
        }
        let answer = answer.map_err(|e| network_error(asked, e))?;
        self.expect_upload(asked, answer).await
    }

    /// Make the object out of parts. With a path for notes an upload that was cut short goes on where it was, also
    /// in another process; without, it is aborted.
    async fn put_in_parts(
        self: &Arc<Self>,
        key: &Key,
        object: &Object<'_>,
        source: &Source,
        limits: Limits,
        notes: Option<&Path>,
    ) -> BucketResult<()> {
        let asked = object.asked;
        let size = part_size(source.len, limits.part);
        let noted = |e: io::Error| BucketError::Io {
            what: format!("{}: the notes of the upload", asked.what),
            source: e,
        };
        if let Some(path) = notes
            && let Some(notes) = Notes::read(path).map_err(noted)?
        {
            let known = &notes.upload;
            let is_same =
                known.key == object.path && known.size == source.len && known.part == size;
            if is_same {
                let upload = Parts {
                    id: known.id.clone(),
                    size,
                    parallel: limits.parallel,
                    notes: Some(Arc::new(notes)),
                };
                if self.send_all(object, source, &upload).await? {
                    return Ok(());
                }
                // The store has forgotten it. It does that too when it is complete.
                if self.head(key).await?.is_some() {
                    return Err(BucketError::AlreadyExists { key: key.clone() });
                }
            } else {
                self.abort(asked, &known.key, &known.id).await?;
                notes.remove().map_err(noted)?;
            }
        }
        let command = Command::InitiateMultipartUpload {
            content_type: content_type(key),
        };
        let answer = self.ask(asked, object.path, command).await?;
        let document = self.read_up_to(asked, answer, COMPLETION_MAX).await?;
        let begun: InitiateMultipartUploadResponse =
            quick_xml::de::from_reader(document.as_slice())
                .map_err(|_| broken(asked, "the store began no multipart upload"))?;
        let id = begun.upload_id;
        let begin = |path| Notes::begin(path, object.path, &id, source.len, size);
        let upload = Parts {
            size,
            parallel: limits.parallel,
            notes: notes.map(begin).transpose().map_err(noted)?.map(Arc::new),
            id: id.clone(),
        };
        let gone = || broken(asked, "the store has forgotten the upload");
        let done = match self.send_all(object, source, &upload).await {
            Ok(true) => return Ok(()),
            Ok(false) => Err(gone()),
            Err(e) => Err(e),
        };
        if upload.notes.is_none()
            && let (Err(e), Err(also)) = (&done, self.abort(asked, object.path, &id).await)
        {
            // Whatever became of it: an object that has come into being is not touched by this.
            tracing::warn!(
                "an upload stays unfinished in the bucket ({e}), and could not be aborted: {also}"
            );
        }
        done
    }

    /// Send the parts that have not arrived, and complete. `false`: the store knows no such upload, or not its parts.
    /// Notes are removed at either end, and when the object exists already.
    async fn send_all(
        self: &Arc<Self>,
        object: &Object<'_>,
        source: &Source,
        upload: &Parts,
    ) -> BucketResult<bool> {
        let done = match self.send_parts(object, source, upload).await {
            Ok(Some(parts)) => {
                self.complete(object.asked, object.path, &upload.id, parts)
                    .await
            }
            Ok(None) => Ok(false),
            Err(e) => Err(e),
        };
        if let Err(BucketError::AlreadyExists { .. }) = &done
            && upload.notes.is_some()
        {
            self.abort(object.asked, object.path, &upload.id).await?;
        }
        if let (Some(notes), Ok(_) | Err(BucketError::AlreadyExists { .. })) =
            (&upload.notes, &done)
            && let Err(e) = notes.remove()
        {
            tracing::warn!("the notes of an upload that is over stay: {e}");
        }
        done
    }

    /// Give an upload up: the store forgets its parts.
    async fn abort(&self, asked: &Asked, path: &str, id: &str) -> BucketResult<()> {
        let command = Command::AbortMultipartUpload { upload_id: id };
        let patience = self.deadlines.silence;
        let answer = self.ask_of_upload(asked, path, command, patience).await?;
        if let Some(answer) = answer {
            self.drain(asked, answer).await;
        }
        Ok(())
    }

    /// Abort the upload that notes tell of, and remove them.
    pub(super) async fn forget_upload(&self, path: &Path) -> BucketResult<()> {
        let failed = |source| BucketError::Io {
            what: format!("the notes {}", path.display()),
            source,
        };
        if let Some(notes) = Notes::read(path).map_err(failed)? {
            let asked = Asked {
                what: format!("ABORT {}", notes.upload.key),
                key: None,
            };
            self.abort(&asked, &notes.upload.key, &notes.upload.id)
                .await?;
            notes.remove().map_err(failed)?;
        }
        Ok(())
    }

    async fn send_parts(
        self: &Arc<Self>,
        object: &Object<'_>,
        source: &Source,
        upload: &Parts,
    ) -> BucketResult<Option<Vec<Part>>> {
        let sends = (0..source.len.div_ceil(upload.size)).map(|index| {
            let from = index * upload.size;
            let range = Source {
                file: Arc::clone(&source.file),
                from,
                len: upload.size.min(source.len - from),
                limiter: source.limiter.clone(),
            };
            async move {
                let sent = self
                    .send_part(object, upload, index as u32 + 1, range)
                    .await;
                // Nothing more is sent to an upload that is gone: as after an error.
                sent.map_err(Some)?.ok_or(None)
            }
        });
        let parts: Result<Vec<Part>, Option<BucketError>> = stream::iter(sends)
            .buffer_unordered(upload.parallel)
            .try_collect()
            .await;
        match parts {
            Ok(mut parts) => {
                parts.sort_by_key(|part| part.part_number);
                Ok(Some(parts))
            }
            Err(None) => Ok(None),
            Err(Some(e)) => Err(e),
        }
    }

    /// Send a part, unless it has arrived before. `None`: the store knows no such upload.
    async fn send_part(
        self: &Arc<Self>,
        object: &Object<'_>,
        upload: &Parts,
        part_number: u32,
        range: Source,
    ) -> BucketResult<Option<Part>> {
        let asked = object.asked;
        let unreadable = |source| BucketError::Io {
            what: format!("{}: the file could not be read", asked.what),
            source,
        };
        let mut hash = None;
        if let Some(notes) = &upload.notes {
            let own = range.hash().await.map_err(unreadable)?;
            if let Some(arrived) = notes.arrived.get(&part_number)
                && arrived.blake3 == own
            {
                let etag = arrived.etag.clone();
                return Ok(Some(Part { part_number, etag }));
            }
            hash = Some(own);
        }
        let mut pause = PART_PAUSE;
        for turn in 1.. {
            let queries = HashMap::from([
                ("partNumber".to_owned(), part_number.to_string()),
                ("uploadId".to_owned(), upload.id.clone()),
            ]);
            let url = self
                .permit_put(asked, object.path, None, Some(queries))
                .await?;
            let sent = self.stream(asked, url, HeaderMap::new(), &range).await;
            match sent {
                Ok(None) => return Ok(None),
                Ok(Some(answer)) => {
                    let etag = answer.headers().get(ETAG).and_then(|v| v.to_str().ok());
                    let etag = etag.map(str::to_owned);
                    let etag = etag.ok_or_else(|| broken(asked, "a part has no ETag"))?;
                    self.drain(asked, answer).await;
                    if let (Some(notes), Some(blake3)) = (&upload.notes, hash) {
                        let arrived = Arrived {
                            number: part_number,
                            etag: etag.clone(),
                            blake3,
                        };
                        let notes = Arc::clone(notes);
                        let noted = spawn_blocking(move || notes.add(&arrived)).await;
                        noted
                            .unwrap_or_else(|e| Err(io::Error::other(e)))
                            .map_err(|source| BucketError::Io {
                                what: format!("{}: the notes of the upload", asked.what),
                                source,
                            })?;
                    }
                    return Ok(Some(Part { part_number, etag }));
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

    /// Make the object out of its parts, if there is none yet. `false`: the store knows no such upload, or not its
    /// parts.
    async fn complete(
        &self,
        asked: &Asked,
        path: &str,
        id: &str,
        parts: Vec<Part>,
    ) -> BucketResult<bool> {
        let data = CompleteMultipartUploadData { parts };
        let command = Command::CompleteMultipartUpload {
            upload_id: id,
            data,
        };
        let patience = self.deadlines.completion;
        let answer = self.ask_of_upload(asked, path, command, patience).await?;
        let Some(answer) = answer else {
            return Ok(false);
        };
        let document = self.read_up_to(asked, answer, COMPLETION_MAX).await?;
        let document = String::from_utf8_lossy(&document);
        if document.contains("<CompleteMultipartUploadResult") {
            return Ok(true);
        }
        // The status was sent before the work was done: the document alone tells how it ended.
        match element(&document, "Code") {
            Some(code) => {
                let status = if code == "PreconditionFailed" {
                    412
                } else {
                    500
                };
                let refusal = Refusal {
                    status,
                    code,
                    ..Refusal::default()
                };
                if refusal.upload_is_gone() {
                    return Ok(false);
                }
                Err(refusal.to_error(asked))
            }
            None => Err(broken(
                asked,
                "the store did not say whether the upload is complete",
            )),
        }
    }
}

/// What is made.
struct Object<'a> {
    /// Its key within the store's bucket.
    path: &'a str,
    asked: &'a Asked,
}

/// An upload in parts.
struct Parts {
    id: String,
    /// Bytes of each part but the last.
    size: u64,
    /// How many are on their way at a time.
    parallel: usize,
    notes: Option<Arc<Notes>>,
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
