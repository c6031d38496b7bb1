//! What a store's refusals and the network's failures mean.
//!
//! Of an error document only `<Code>` is used: the rest may quote the request, access key and
//! signature included. For the same reason URLs are cut out of the network's errors.

use crate::bucket::{BucketError, Key};
use std::io;
use std::time::Duration;

/// Longest part of an error document that is read.
pub(super) const DOCUMENT_MAX: u64 = 64 * 1024;

/// What was asked, for messages and for the kind of error.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// As in `PUT s3://bucket/prefix/key`.
    pub(super) what: String,
    /// The object; `None` for listings.
    pub(super) key: Option<Key>,
}

/// An answer that is no success.
#[derive(Debug, Clone, Default)]
pub(super) struct Refusal {
    /// HTTP status.
    pub(super) status: u16,
    /// `<Code>` of the error document; empty when there is none.
    pub(super) code: String,
    /// The bucket's region, when the answer tells it.
    pub(super) region: Option<String>,
    /// How long to wait, when the answer tells it.
    pub(super) retry_after: Option<Duration>,
}

impl Refusal {
    /// `403 AccessDenied`.
    fn in_words(&self) -> String {
        let words = match self.code.as_str() {
            "SignatureDoesNotMatch" => ": the secret access key is wrong",
            "InvalidAccessKeyId" => ": the store does not know the access key",
            "RequestTimeTooSkewed" => ": the clocks of this machine and the store differ too much",
            "ExpiredToken" | "TokenRefreshRequired" => ": the session has expired",
            "InvalidToken" => ": the session token is not valid",
            _ => "",
        };
        match self.code.as_str() {
            "" => format!("the store answered {}", self.status),
            code => format!("the store answered {} {code}{words}", self.status),
        }
    }

    /// Whether it says that there is no such upload (any more), or not with these parts.
    pub(super) fn upload_is_gone(&self) -> bool {
        matches!(
            self.code.as_str(),
            "NoSuchUpload" | "InvalidPart" | "InvalidPartOrder"
        )
    }

    /// The error it means.
    pub(super) fn to_error(&self, asked: &Asked) -> BucketError {
        let what = asked.what.clone();
        // "access to … was refused": without the verb.
        let place = what
            .split_once(' ')
            .map_or(what.clone(), |(_, place)| place.to_owned());
        let cause = |kind| Some(io::Error::new(kind, self.in_words()));
        let code = self.code.as_str();
        // What stores disagree about the status of is told by its code.
        match code {
            "QuotaExceeded" | "InsufficientStorage" | "XMinioStorageFull" | "StorageFull" => {
                return BucketError::Full { what };
            }
            "NoSuchBucket" => {
                let what = format!("{what}: there is no such bucket");
                return BucketError::Unreachable {
                    what,
                    source: cause(io::ErrorKind::NotFound),
                };
            }
            "ExpiredToken"
            | "InvalidToken"
            | "TokenRefreshRequired"
            | "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "RequestTimeTooSkewed" => {
                return BucketError::Denied {
                    what: place,
                    source: cause(io::ErrorKind::PermissionDenied),
                };
            }
            "PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed" => {
                let region = self.region.as_deref();
                let told = region.map(|r| format!(" in the region {r}: say ?region={r}"));
                let what = format!(
                    "{what}: the bucket is elsewhere{}",
                    told.unwrap_or_default()
                );
                return BucketError::Unreachable {
                    what,
                    source: cause(io::ErrorKind::NotFound),
                };
            }
            // Something was lost on the way; the store did not keep it.
            "BadDigest"
            | "IncompleteBody"
            | "RequestTimeout"
            | "InvalidDigest"
            | "XAmzContentSHA256Mismatch"
            | "NoSuchUpload"
            | "SlowDown"
            | "InternalError"
            | "ServiceUnavailable"
            | "OperationAborted"
            | "ConditionalRequestConflict" => {
                return self.busy(&what);
            }
            _ => {}
        }
        match (self.status, &asked.key) {
            (401 | 403, _) => BucketError::Denied {
                what: place,
                source: cause(io::ErrorKind::PermissionDenied),
            },
            // Only a store knows this word: a stray web server's 404 is no absent object.
            (404, Some(key)) if code == "NoSuchKey" => BucketError::NotFound { key: key.clone() },
            (412, Some(key)) => BucketError::AlreadyExists { key: key.clone() },
            (507, _) => BucketError::Full { what },
            (301 | 302 | 307 | 308 | 404, _) => {
                let what = format!("{what}: there is no such bucket at this endpoint");
                BucketError::Unreachable {
                    what,
                    source: cause(io::ErrorKind::NotFound),
                }
            }
            (408 | 409 | 425 | 429 | 500 | 502..=504 | 520..=599, _) => self.busy(&what),
            _ => BucketError::Unsupported {
                what: format!("{what}: {}", self.in_words()),
            },
        }
    }

    fn busy(&self, what: &str) -> BucketError {
        BucketError::Busy {
            what: format!("{what}: {}", self.in_words()),
            retry_after: self.retry_after,
        }
    }
}

/// The text of the first element `name` of a small document, if it is plain.
pub(super) fn element(document: &str, name: &str) -> Option<String> {
    let (_, rest) = document.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once('<')?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    Some(text.trim())
        .filter(|t| t.len() <= 80 && t.bytes().all(plain))
        .map(str::to_owned)
}

/// A failure of the network as an error; `told` is what the client library says.
pub(super) fn network_error(asked: &Asked, told: reqwest::Error) -> BucketError {
    let (is_connect, is_timeout) = (told.is_connect(), told.is_timeout());
    let told = told.without_url();
    let (mut kind, mut reasons) = (io::ErrorKind::Other, Vec::new());
    let mut next: Option<&dyn std::error::Error> = Some(&told);
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            kind = io.kind();
        }
        let text = cause.to_string();
        // Wrappers repeat the wrapped.
        if reasons.last() != Some(&text) {
            reasons.push(text);
        }
        next = cause.source();
    }
    if is_timeout {
        kind = io::ErrorKind::TimedOut;
    }
    let what = asked.what.clone();
    // Outer layers say "error sending request" and the like: the innermost knows why.
    let mut why = reasons.pop().unwrap_or_default();
    if why.contains("UnknownIssuer") {
        why += " (the certificate of a private CA goes into the file that SSL_CERT_FILE names)";
    }
    let source = io::Error::new(kind, why);
    if is_connect || is_timeout {
        BucketError::Unreachable {
            what,
            source: Some(source),
        }
    } else {
        BucketError::Io { what, source }
    }
}

/// No answer, or no byte, within a deadline.
pub(super) fn timed_out(asked: &Asked, why: &str) -> BucketError {
    BucketError::Unreachable {
        what: asked.what.clone(),
        source: Some(io::Error::new(io::ErrorKind::TimedOut, why.to_owned())),
    }
}

/// An answer that was cut short or makes no sense: may be better next time.
pub(super) fn broken(asked: &Asked, why: impl Into<String>) -> BucketError {
    BucketError::Io {
        what: asked.what.clone(),
        source: io::Error::new(io::ErrorKind::InvalidData, why.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(status: u16, code: &str) -> BucketError {
        let key = Some(Key::new("k").unwrap());
        let asked = Asked {
            what: "PUT s3://b/k".to_owned(),
            key,
        };
        Refusal {
            status,
            code: code.to_owned(),
            ..Refusal::default()
        }
        .to_error(&asked)
    }

    #[test]
    fn every_answer_has_its_kind() {
        use BucketError as E;
        assert!(matches!(judge(404, "NoSuchKey"), E::NotFound { .. }));
        assert!(
            matches!(judge(404, ""), E::Unreachable { .. }),
            "an empty bucket is not invented"
        );
        assert!(matches!(judge(404, "NoSuchBucket"), E::Unreachable { .. }));
        assert!(matches!(
            judge(412, "PreconditionFailed"),
            E::AlreadyExists { .. }
        ));
        assert!(matches!(
            judge(409, "ConditionalRequestConflict"),
            E::Busy { .. }
        ));
        assert!(matches!(judge(403, "AccessDenied"), E::Denied { .. }));
        assert!(matches!(judge(403, "QuotaExceeded"), E::Full { .. }));
        assert!(matches!(judge(400, "ExpiredToken"), E::Denied { .. }));
        assert!(matches!(
            judge(400, "InvalidRequest"),
            E::Unsupported { .. }
        ));
        assert!(matches!(judge(507, ""), E::Full { .. }));
        for status in [408, 429, 500, 502, 503, 504] {
            assert!(judge(status, "").is_transient(), "{status}");
        }
        let elsewhere = Refusal {
            status: 301,
            code: "PermanentRedirect".to_owned(),
            region: Some("eu-1".to_owned()),
            retry_after: None,
        };
        let error = elsewhere.to_error(&Asked {
            what: "GET s3://b".to_owned(),
            key: None,
        });
        assert!(error.to_string().contains("?region=eu-1"), "{error}");
    }

    #[test]
    fn only_plain_words_are_taken_out_of_documents() {
        let document = "<?xml?><Error><Code>NoSuchKey</Code><Message>Hush</Message></Error>";
        assert_eq!(element(document, "Code").as_deref(), Some("NoSuchKey"));
        assert_eq!(element("<Code>a b</Code>", "Code"), None);
        assert_eq!(element("<Code>unfinished", "Code"), None);
        assert_eq!(element("", "Code"), None);
    }
}
