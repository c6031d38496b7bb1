//! Requests to one bucket: rust-s3 builds and signs them, reqwest sends them under deadlines of
//! ours, and nothing is believed that the answer's headers do not bear out.
//!
//! Every request has two deadlines: on silence (no byte moved in either direction), and on the
//! whole try, in proportion to its size. Nothing is tried again here but parts of an upload.

use super::answer::{Asked, DOCUMENT_MAX, Refusal, broken, element, network_error, timed_out};
use super::credentials::{Keys, Provider};
use super::headers::{self, header_number, http_date, parse_content_range};
use super::limiter::Limiter;
use super::place::{Place, invalid};
use crate::bucket::{BucketError, BucketResult, Counters, Key, ObjectInfo};
use crate::clock::{Clock, System};
use crate::configuration::{BucketSection, Secret};
use crate::inode::Timestamp;
use parking_lot::Mutex;
use reqwest::header::{
    ETAG, HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH, LAST_MODIFIED,
};
use reqwest::{Method, Response, StatusCode};
use s3::bucket::Bucket as Signer;
use s3::command::{Command, HttpMethod};
use s3::creds::Credentials;
use s3::error::S3Error;
use s3::request::Request;
use s3::request::tokio_backend::ReqwestRequest;
use s3::serde_types::ListBucketResult;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// Longest key of S3, prefix included.
const KEY_MAX: usize = 1024;
/// Most that is reserved for a body because the answer says so.
const RESERVE_MAX: u64 = 64 << 20;
/// Longest document (one page of a listing, at most 1000 keys) that is read.
const LISTING_MAX: u64 = 16 << 20;
/// What a length beyond cannot be a range of any object (and overflows the arithmetic of servers).
const OBJECT_MAX: u64 = i64::MAX as u64;

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadlines {
    /// For a connection.
    pub(super) connect: Duration,
    /// Without a byte in either direction. Conditional PUTs may take seconds to be decided.
    pub(super) silence: Duration,
    /// For putting the parts of an upload together: AWS takes minutes for large ones.
    pub(super) completion: Duration,
    /// Slowest transfer that is waited for, in bytes per second.
    pub(super) slowest: u64,
}

impl Default for Deadlines {
    fn default() -> Deadlines {
        Deadlines {
            connect: Duration::from_secs(10),
            silence: Duration::from_secs(30),
            completion: Duration::from_secs(180),
            slowest: 64 * 1024,
        }
    }
}

impl Deadlines {
    /// As the bucket's section says.
    pub(super) fn of(section: Option<&BucketSection>) -> Deadlines {
        let default = Deadlines::default();
        let silence = section.and_then(|s| s.silence());
        let silence = silence.unwrap_or(default.silence);
        Deadlines {
            connect: default.connect.min(silence),
            silence,
            ..default
        }
    }

    /// For a whole try that moves so many bytes.
    pub(super) fn total(&self, bytes: u64) -> Duration {
        self.silence * 2 + Duration::from_secs(bytes / self.slowest.max(1))
    }
}

/// What signs requests with certain keys.
pub(super) struct Signers {
    keys: Keys,
    plain: Signer,
    /// The same, but `If-None-Match: *` on every request: rust-s3 takes no header for completions.
    create_only: Signer,
}

/// What a client is made with besides place and keys.
pub(super) struct Settings<'a> {
    pub(super) deadlines: Deadlines,
    /// PEM file of authorities to trust besides the machine's.
    pub(super) authorities: Option<&'a Path>,
    pub(super) limiter: Option<Arc<Limiter>>,
    pub(super) counters: Arc<Counters>,
}

/// Under which condition a request is carried out.
#[derive(Debug, Clone, Copy)]
enum Condition {
    None,
    /// There is no such object.
    CreateOnly,
}

/// A client of one bucket.
pub(super) struct Client {
    bucket: String,
    place: Place,
    provider: Provider,
    /// For the keys that were good last.
    signers: Mutex<Option<Arc<Signers>>>,
    /// Bounds the bytes that are sent.
    pub(super) limiter: Option<Arc<Limiter>>,
    pub(super) http: reqwest::Client,
    /// Who counts what goes over the wire.
    pub(super) counters: Arc<Counters>,
    /// `s3://bucket/prefix/`, for messages.
    shown: String,
    /// What all keys start with: empty or with a slash at its end.
    prefix: String,
    pub(super) deadlines: Deadlines,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("bucket", &self.shown)
            .finish_non_exhaustive()
    }
}

/// `If-None-Match: *`.
pub(super) fn create_only() -> HeaderMap {
    HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_static("*"))])
}

impl Client {
    pub(super) fn new(
        bucket: &str,
        prefix: &str,
        place: Place,
        provider: Provider,
        settings: Settings<'_>,
    ) -> BucketResult<Client> {
        let Settings {
            deadlines,
            authorities,
            limiter,
            counters,
        } = settings;
        let mut http = reqwest::Client::builder();
        if let Some(file) = authorities {
            let told = |why: String| invalid(format!("ca_file {}: {why}", file.display()));
            let pem = std::fs::read(file).map_err(|e| told(e.to_string()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem);
            let certificates = certificates.map_err(|_| told("no PEM certificates".to_owned()))?;
            if certificates.is_empty() {
                return Err(told("no certificate in it".to_owned()));
            }
            for certificate in certificates {
                http = http.add_root_certificate(certificate);
            }
        }
        let http = http
            .connect_timeout(deadlines.connect)
            .tcp_keepalive(Duration::from_secs(15))
            // Shorter than what servers and middleboxes forget a connection after.
            .pool_idle_timeout(Duration::from_secs(20))
            // A signature holds for one host only.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("cbfs/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| invalid(format!("s3://{bucket}: {}", e.without_url())))?;
        let prefix = if prefix.is_empty() {
            String::new()
        } else {
            format!("{prefix}/")
        };
        let shown = format!("s3://{bucket}/{prefix}");
        Ok(Client {
            bucket: bucket.to_owned(),
            place,
            provider,
            signers: Mutex::default(),
            limiter,
            http,
            counters,
            shown,
            prefix,
            deadlines,
        })
    }

    /// What signs with keys that are good now.
    async fn signers(&self) -> BucketResult<Arc<Signers>> {
        let keys = self.provider.keys().await?;
        let mut signers = self.signers.lock();
        if let Some(signers) = signers.as_ref().filter(|s| s.keys == keys) {
            return Ok(Arc::clone(signers));
        }
        let token = keys.token.as_ref().map(Secret::expose);
        let (id, secret) = (Some(keys.id.as_str()), Some(keys.secret.expose()));
        // Words of the library may quote what it was given.
        let unusable = || invalid(format!("s3://{}: no requests can be signed", self.bucket));
        let credentials =
            Credentials::new(id, secret, None, token, None).map_err(|_| unusable())?;
        let plain = Signer::new(&self.bucket, self.place.to_region(), credentials);
        let mut plain = *plain.map_err(|_| unusable())?;
        if self.place.path_style {
            plain.set_path_style();
        }
        let create_only = plain
            .with_extra_headers(create_only())
            .map_err(|_| unusable())?;
        let new = Arc::new(Signers {
            keys,
            plain,
            create_only,
        });
        Ok(Arc::clone(signers.insert(new)))
    }

    /// Ask for keys, if none were asked for yet.
    pub(super) async fn find_keys(&self) -> BucketResult<()> {
        self.signers().await.map(drop)
    }

    /// The store refused us: ask for other keys. Tells whether there are some now.
    pub(super) async fn renew_keys(&self) -> bool {
        let old = self.signers.lock().as_ref().map(|s| s.keys.clone());
        match old {
            Some(old) => self.provider.renew(&old).await,
            None => false,
        }
    }

    /// The key within the store's bucket, and words for errors.
    pub(super) fn object(&self, verb: &str, key: &Key) -> BucketResult<(String, Asked)> {
        let path = format!("{}{key}", self.prefix);
        if path.len() > KEY_MAX {
            let what = format!("{key} is too long with the prefix of {}", self.shown);
            return Err(BucketError::InvalidKey { what });
        }
        let what = format!("{verb} {}{key}", self.shown);
        Ok((
            path,
            Asked {
                what,
                key: Some(key.clone()),
            },
        ))
    }

    /// Sign and send a request without a large body; the answer is whatever the store says.
    async fn send(
        &self,
        asked: &Asked,
        condition: Condition,
        path: &str,
        command: Command<'_>,
        patience: Duration,
    ) -> BucketResult<Response> {
        let signers = self.signers().await?;
        let signer = match condition {
            Condition::None => &signers.plain,
            Condition::CreateOnly => &signers.create_only,
        };
        let method = match command.http_verb() {
            HttpMethod::Get => Method::GET,
            HttpMethod::Head => Method::HEAD,
            HttpMethod::Put => Method::PUT,
            HttpMethod::Post => Method::POST,
            HttpMethod::Delete => Method::DELETE,
        };
        // Of our own making; its text may hold parts of the request.
        let signing = |_: S3Error| broken(asked, "the request could not be signed");
        let is_listing = matches!(command, Command::ListObjectsV2 { .. });
        let request = ReqwestRequest::new(signer, path, command)
            .await
            .map_err(signing)?;
        let headers = request.headers().await.map_err(signing)?;
        let url = request.url().map_err(signing)?;
        let mut builder = self.http.request(method.clone(), url).headers(headers);
        let mut bytes = 0;
        if matches!(method, Method::PUT | Method::POST) {
            let body = request.request_body().map_err(signing)?;
            bytes = body.len() as u64;
            builder = builder.body(body);
        }
        match method {
            Method::PUT | Method::POST => self.counters.sent(bytes),
            _ if is_listing => self.counters.sent(0),
            // Stores do not charge for it.
            Method::DELETE => {}
            _ => self.counters.asked(),
        }
        match timeout(patience, builder.send()).await {
            Ok(answer) => answer.map_err(|e| network_error(asked, e)),
            Err(_) => Err(timed_out(asked, "no answer in time")),
        }
    }

    /// Send and expect success.
    pub(super) async fn ask(
        &self,
        asked: &Asked,
        path: &str,
        command: Command<'_>,
    ) -> BucketResult<Response> {
        let answer = self
            .send(
                asked,
                Condition::None,
                path,
                command,
                self.deadlines.silence,
            )
            .await?;
        self.expect_success(asked, answer).await
    }

    /// Complete or abort an upload; completing is under the condition that the object does not exist. `None` when the
    /// store knows no such upload, or not its parts.
    pub(super) async fn ask_of_upload(
        &self,
        asked: &Asked,
        path: &str,
        command: Command<'_>,
        patience: Duration,
    ) -> BucketResult<Option<Response>> {
        let condition = match &command {
            Command::CompleteMultipartUpload { .. } => Condition::CreateOnly,
            _ => Condition::None,
        };
        let answer = self.send(asked, condition, path, command, patience).await?;
        self.expect_upload(asked, answer).await
    }

    /// The answer, if it is a success; `None`, if it says that there is no such upload.
    pub(super) async fn expect_upload(
        &self,
        asked: &Asked,
        answer: Response,
    ) -> BucketResult<Option<Response>> {
        if answer.status().is_success() {
            return Ok(Some(answer));
        }
        let refusal = self.refusal(asked, answer).await?;
        if refusal.upload_is_gone() {
            return Ok(None);
        }
        Err(refusal.to_error(asked))
    }

    /// A URL that permits one PUT with these headers. It is a credential: it goes into no message.
    pub(super) async fn permit_put(
        &self,
        asked: &Asked,
        path: &str,
        headers: Option<HeaderMap>,
        queries: Option<std::collections::HashMap<String, String>>,
    ) -> BucketResult<String> {
        /// Seconds; uploads that begin within them may go on.
        const VALID_FOR: u32 = 900;
        let signers = self.signers().await?;
        let url = signers
            .plain
            .presign_put(path, VALID_FOR, headers, queries)
            .await;
        url.map_err(|_| broken(asked, "the request could not be signed"))
    }

    /// The answer, if it is a success; else the error it tells.
    pub(super) async fn expect_success(
        &self,
        asked: &Asked,
        answer: Response,
    ) -> BucketResult<Response> {
        if answer.status().is_success() {
            return Ok(answer);
        }
        Err(self.refusal(asked, answer).await?.to_error(asked))
    }

    async fn refusal(&self, asked: &Asked, answer: Response) -> BucketResult<Refusal> {
        let header = |name: HeaderName| {
            answer
                .headers()
                .get(name)
                .and_then(|v| v.to_str().ok())
                .map(str::to_owned)
        };
        let status = answer.status().as_u16();
        let region = header(HeaderName::from_static("x-amz-bucket-region"));
        let retry_after = headers::retry_after(answer.headers(), System.now());
        // Without its document the refusal is still one, and its status tells most.
        let document = self
            .read_up_to(asked, answer, DOCUMENT_MAX)
            .await
            .unwrap_or_default();
        let document = String::from_utf8_lossy(&document);
        Ok(Refusal {
            status,
            code: element(&document, "Code").unwrap_or_default(),
            region: region.or_else(|| element(&document, "Region")),
            retry_after,
        })
    }

    /// Read the body whole: not more than `most` bytes, and as many as its header promised.
    pub(super) async fn read_up_to(
        &self,
        asked: &Asked,
        mut answer: Response,
        most: u64,
    ) -> BucketResult<Vec<u8>> {
        let promised = answer.content_length();
        let expected = promised.unwrap_or(0);
        if expected > most {
            let why = format!("the answer has {expected} bytes, more than the {most} asked for");
            return Err(broken(asked, why));
        }
        let out_of_time = Instant::now() + self.deadlines.total(expected);
        let mut body = Vec::with_capacity(expected.min(RESERVE_MAX) as usize);
        loop {
            let silent = Instant::now() + self.deadlines.silence;
            match timeout_at(silent.min(out_of_time), answer.chunk()).await {
                Ok(Ok(Some(chunk))) => {
                    self.counters.received(chunk.len() as u64);
                    body.extend_from_slice(&chunk);
                }
                Ok(Ok(None)) => break,
                Ok(Err(e)) => return Err(network_error(asked, e)),
                Err(_) => return Err(timed_out(asked, "the body did not arrive in time")),
            }
            if body.len() as u64 > most {
                return Err(broken(
                    asked,
                    format!("the answer has more than {most} bytes"),
                ));
            }
        }
        match promised {
            Some(promised) if promised != body.len() as u64 => {
                let why = format!("{} of {promised} bytes arrived", body.len());
                Err(broken(asked, why))
            }
            _ => Ok(body),
        }
    }

    /// Read what nobody needs, so that the connection can be used again.
    pub(super) async fn drain(&self, asked: &Asked, answer: Response) {
        if let Err(e) = self.read_up_to(asked, answer, DOCUMENT_MAX).await {
            // The request has succeeded by its status; only the connection is lost.
            tracing::debug!("the rest of an answer was lost: {e}");
        }
    }

    pub(super) async fn get(&self, key: &Key) -> BucketResult<Vec<u8>> {
        let (path, asked) = self.object("GET", key)?;
        let answer = self.ask(&asked, &path, Command::GetObject).await?;
        if answer.status() != StatusCode::OK {
            return Err(broken(
                &asked,
                format!("an answer of status {}", answer.status()),
            ));
        }
        self.read_up_to(&asked, answer, u64::MAX).await
    }

    pub(super) async fn get_range(
        &self,
        key: &Key,
        offset: u64,
        len: u64,
    ) -> BucketResult<Vec<u8>> {
        let damaged = |size: &str| BucketError::Damaged {
            key: key.clone(),
            why: format!("it has {size} bytes: {len} from {offset} on are not in it"),
        };
        let end = offset.checked_add(len).filter(|end| *end <= OBJECT_MAX);
        let (Some(end), true) = (end, len > 0) else {
            // What cannot be asked for is decided by the size.
            let info = self.head(key).await?;
            let size = info
                .ok_or_else(|| BucketError::NotFound { key: key.clone() })?
                .size;
            return match end {
                Some(end) if end <= size => Ok(Vec::new()),
                _ => Err(damaged(&size.to_string())),
            };
        };
        let (path, asked) = self.object("GET", key)?;
        let command = Command::GetObjectRange {
            start: offset,
            end: Some(end - 1),
        };
        let answer = self
            .send(
                &asked,
                Condition::None,
                &path,
                command,
                self.deadlines.silence,
            )
            .await?;
        if answer.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Err(damaged("fewer"));
        }
        let answer = self.expect_success(&asked, answer).await?;
        let length = answer.content_length();
        match answer.status() {
            StatusCode::PARTIAL_CONTENT => {
                let told = answer.headers().get(reqwest::header::CONTENT_RANGE);
                let told = told.and_then(|v| parse_content_range(v.to_str().ok()?));
                let (first, last, total) =
                    told.ok_or_else(|| broken(&asked, "a part without Content-Range"))?;
                if first != offset || last >= end {
                    return Err(broken(&asked, format!("bytes {first} to {last} arrived")));
                }
                if last + 1 < end {
                    return Err(damaged(&total));
                }
            }
            // The store does not know ranges, or the range is the whole object.
            StatusCode::OK if offset == 0 && length == Some(len) => {}
            StatusCode::OK => {
                let what = format!("{}: the store ignores ranges", asked.what);
                return Err(BucketError::Unsupported { what });
            }
            other => return Err(broken(&asked, format!("an answer of status {other}"))),
        }
        let bytes = self.read_up_to(&asked, answer, len).await?;
        if bytes.len() as u64 != len {
            return Err(broken(
                &asked,
                format!("{} of {len} bytes arrived", bytes.len()),
            ));
        }
        Ok(bytes)
    }

    pub(super) async fn head(&self, key: &Key) -> BucketResult<Option<ObjectInfo>> {
        let (path, mut asked) = self.object("HEAD", key)?;
        let command = Command::HeadObject;
        let mut answer = self
            .send(
                &asked,
                Condition::None,
                &path,
                command,
                self.deadlines.silence,
            )
            .await?;
        let mut size = header_number(answer.headers(), "content-length");
        if !answer.status().is_success() {
            // HEAD has no error document: an absent object, an absent bucket and a stray web
            // server look the same. One byte of a GET tells.
            asked.what = asked.what.replacen("HEAD", "GET", 1);
            let command = Command::GetObjectRange {
                start: 0,
                end: Some(0),
            };
            let told = self
                .send(
                    &asked,
                    Condition::None,
                    &path,
                    command,
                    self.deadlines.silence,
                )
                .await?;
            if !told.status().is_success() {
                return match self.refusal(&asked, told).await?.to_error(&asked) {
                    BucketError::NotFound { .. } => Ok(None),
                    other => Err(other),
                };
            }
            // It has come into being between the two.
            let range = told.headers().get(reqwest::header::CONTENT_RANGE);
            let range = range.and_then(|v| parse_content_range(v.to_str().ok()?));
            size = match range {
                Some((_, _, total)) => total.parse().ok(),
                None => header_number(told.headers(), "content-length"),
            };
            answer = told;
        }
        let size = size.ok_or_else(|| broken(&asked, "the answer does not tell the size"))?;
        let modified = answer
            .headers()
            .get(LAST_MODIFIED)
            .and_then(|v| v.to_str().ok());
        let modified = modified.and_then(http_date).unwrap_or(Timestamp(0));
        Ok(Some(ObjectInfo {
            key: key.clone(),
            size,
            modified,
        }))
    }

    /// All objects whose key starts with `start`, or those of them directly in it.
    pub(super) async fn list(
        &self,
        start: &str,
        only_directly: bool,
    ) -> BucketResult<Vec<ObjectInfo>> {
        let asked = Asked {
            what: format!("LIST {}{start}", self.shown),
            key: None,
        };
        let mut found = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let command = Command::ListObjectsV2 {
                prefix: format!("{}{start}", self.prefix),
                delimiter: only_directly.then(|| "/".to_owned()),
                continuation_token: token.clone(),
                start_after: None,
                max_keys: None,
            };
            let answer = self.ask(&asked, "/", command).await?;
            let document = self.read_up_to(&asked, answer, LISTING_MAX).await?;
            let page: ListBucketResult = quick_xml::de::from_reader(document.as_slice())
                .map_err(|_| broken(&asked, "the listing is no S3 listing"))?;
            for object in page.contents {
                let Some(relative) = object.key.strip_prefix(&self.prefix) else {
                    return Err(broken(
                        &asked,
                        "the listing holds keys that were not asked for",
                    ));
                };
                let in_it = relative.strip_prefix(start);
                let in_it = in_it.is_some_and(|rest| !(only_directly && rest.contains('/')));
                // Others may keep things beside ours whose names are no keys.
                if let (true, Ok(key)) = (in_it, Key::new(relative)) {
                    let modified = Timestamp::parse_rfc3339(&object.last_modified);
                    let modified = modified.unwrap_or(Timestamp(0));
                    found.push(ObjectInfo {
                        key,
                        size: object.size,
                        modified,
                    });
                }
            }
            match (page.is_truncated, page.next_continuation_token) {
                (false, _) => break,
                (true, Some(next)) if token.as_ref() != Some(&next) => token = Some(next),
                (true, _) => return Err(broken(&asked, "the listing does not go on")),
            }
        }
        found.sort_by(|a, b| a.key.cmp(&b.key));
        found.dedup_by(|a, b| a.key == b.key);
        Ok(found)
    }

    pub(super) async fn delete(&self, key: &Key) -> BucketResult<()> {
        let (path, asked) = self.object("DELETE", key)?;
        match self.ask(&asked, &path, Command::DeleteObject).await {
            Ok(answer) => {
                self.drain(&asked, answer).await;
                Ok(())
            }
            Err(BucketError::NotFound { .. }) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// PUT of bytes whose hash is part of the signature.
    pub(super) async fn put(
        &self,
        key: &Key,
        bytes: &[u8],
        only_if: OnlyIf<'_>,
    ) -> BucketResult<()> {
        let (path, asked) = self.object("PUT", key)?;
        let custom_headers = match only_if {
            OnlyIf::Always => None,
            OnlyIf::Absent => Some(create_only()),
            OnlyIf::Is(etag) => {
                let etag = HeaderValue::from_str(etag);
                let etag = etag.map_err(|_| broken(&asked, "an ETag that is none"))?;
                Some(HeaderMap::from_iter([(IF_MATCH, etag)]))
            }
        };
        let command = Command::PutObject {
            content: bytes,
            content_type: content_type(key),
            custom_headers,
            multipart: None,
        };
        if let Some(limiter) = &self.limiter {
            limiter.take(bytes.len() as u64).await;
        }
        let patience = self.deadlines.total(bytes.len() as u64);
        let answer = self
            .send(&asked, Condition::None, &path, command, patience)
            .await?;
        let answer = self.expect_success(&asked, answer).await?;
        self.drain(&asked, answer).await;
        Ok(())
    }

    /// What the store calls this version of an object.
    pub(super) async fn etag(&self, key: &Key) -> BucketResult<String> {
        let (path, asked) = self.object("HEAD", key)?;
        let answer = self.ask(&asked, &path, Command::HeadObject).await?;
        let etag = answer.headers().get(ETAG).and_then(|v| v.to_str().ok());
        etag.map(str::to_owned)
            .ok_or_else(|| broken(&asked, "the answer has no ETag"))
    }

    /// Set the one tag of an object. Both texts must be plain: they are not escaped.
    pub(super) async fn set_tag(&self, key: &Key, name: &str, value: &str) -> BucketResult<()> {
        let (path, asked) = self.object("TAG", key)?;
        let tags = format!(
            "<Tagging><TagSet><Tag><Key>{name}</Key><Value>{value}</Value></Tag></TagSet></Tagging>"
        );
        let command = Command::PutObjectTagging { tags: &tags };
        let answer = self.ask(&asked, &path, command).await?;
        self.drain(&asked, answer).await;
        Ok(())
    }

    /// The value of the first tag of an object.
    pub(super) async fn tag(&self, key: &Key) -> BucketResult<Option<String>> {
        let (path, asked) = self.object("TAGS OF", key)?;
        let answer = self.ask(&asked, &path, Command::GetObjectTagging).await?;
        let document = self.read_up_to(&asked, answer, DOCUMENT_MAX).await?;
        Ok(element(&String::from_utf8_lossy(&document), "Value"))
    }
}

/// Under which condition an object is written.
#[derive(Debug, Clone, Copy)]
pub(super) enum OnlyIf<'a> {
    /// None.
    Always,
    /// There is none.
    Absent,
    /// It is still this version.
    Is(&'a str),
}

/// The media type of an object, by its name.
pub(super) fn content_type(key: &Key) -> &'static str {
    match key.as_str().rsplit_once('.') {
        Some((_, "json" | "config")) => "application/json",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_as_the_section_says_and_bounds_the_wait_for_a_connection() {
        let section = BucketSection {
            silence: Some(3),
            ..BucketSection::default()
        };
        let deadlines = Deadlines::of(Some(&section));
        let seconds = Duration::from_secs;
        assert_eq!(
            (deadlines.connect, deadlines.silence, deadlines.total(0)),
            (seconds(3), seconds(3), seconds(6))
        );
        let deadlines = Deadlines::of(None);
        assert_eq!(
            (deadlines.connect, deadlines.silence),
            (seconds(10), seconds(30))
        );
    }

    #[test]
    fn a_try_may_take_as_long_as_its_size_is_worth() {
        let deadlines = Deadlines::default();
        assert_eq!(deadlines.total(0), Duration::from_secs(60));
        assert_eq!(deadlines.total(64 << 20), Duration::from_secs(60 + 1024));
    }
}
