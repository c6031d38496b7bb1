//! The one error type of CBFS's libraries: a kind that says what the operator must do, a
//! message that says what failed, the cause, and a hint.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the operator must do; also the exit code of `cbfsctl` and `error.kind` of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// It failed; the message says why.
    Failed,
    /// The request was malformed: change the command.
    Usage,
    /// Part of it was done, or a wait timed out: look, then ask again.
    Partial,
    /// No daemon answers on the socket: start it.
    DaemonUnreachable,
    /// The bucket does not answer: check network and endpoint, try again.
    BucketUnreachable,
    /// No such file system, snapshot, instance or object.
    NotFound,
    /// Ambiguous, fenced, busy or already there.
    Conflict,
    /// Credentials or an encryption key are missing or wrong.
    Credentials,
    /// Written by a newer CBFS: upgrade.
    FormatTooNew,
    /// Something stored is damaged; the message names it.
    Damage,
}

impl ErrorKind {
    /// The exit code of `cbfsctl`.
    pub fn exit_code(self) -> u8 {
        match self {
            ErrorKind::Failed => 1,
            ErrorKind::Usage => 2,
            ErrorKind::Partial => 3,
            ErrorKind::DaemonUnreachable => 4,
            ErrorKind::BucketUnreachable => 5,
            ErrorKind::NotFound => 10,
            ErrorKind::Conflict => 11,
            ErrorKind::Credentials => 12,
            ErrorKind::FormatTooNew => 13,
            ErrorKind::Damage => 14,
        }
    }
}

/// An error: what failed, why, and what to do about it.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync + 'static>>,
}

impl Error {
    /// A new error without cause or hint.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error {
            kind,
            message: message.into(),
            hint: None,
            source: None,
        }
    }

    /// Short for kind [`ErrorKind::Failed`].
    pub fn failed(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Failed, message)
    }

    /// Short for kind [`ErrorKind::Damage`].
    pub fn damage(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Damage, message)
    }

    /// Add the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        self.source = Some(source.into());
        self
    }

    /// Add what the operator can do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }

    /// Wrap this error in a message that says what was being done; kind and hint stay.
    #[must_use]
    pub fn context(self, message: impl Into<String>) -> Error {
        let (kind, hint) = (self.kind, self.hint.clone());
        Error {
            kind,
            message: message.into(),
            hint,
            source: Some(Box::new(self)),
        }
    }

    /// What the operator must do.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The hint, where there is one.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The causes below this error, outermost first.
    pub fn causes(&self) -> Vec<String> {
        let mut out = Vec::new();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            out.push(cause.to_string());
            next = cause.source();
        }
        out
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

/// Adds "what was being done" to foreign errors.
pub trait Context<T> {
    /// On error: an [`ErrorKind::Failed`] error with this message and the cause below it.
    fn context(self, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E> Context<T> for Result<T, E>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn context(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::failed(message()).because(e))
    }
}

impl From<rusqlite::Error> for Error {
    fn from(e: rusqlite::Error) -> Error {
        use rusqlite::ErrorCode;
        let kind = match e.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => ErrorKind::Damage,
            _ => ErrorKind::Failed,
        };
        Error::new(kind, "a SQLite database could not be used").because(e)
    }
}
