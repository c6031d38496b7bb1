//! What can go wrong with a bucket, by what one has to do about it.

use super::Key;
use crate::error::{Error, ErrorKind};
use std::io;
use std::time::Duration;

/// Result with [`BucketError`].
pub type BucketResult<T> = Result<T, BucketError>;

/// Why a request to a bucket failed.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// No such object.
    #[error("no object {key}")]
    NotFound {
        /// The key asked for.
        key: Key,
    },
    /// A create-only PUT found the key taken.
    #[error("object {key} exists already")]
    AlreadyExists {
        /// The key.
        key: Key,
    },
    /// The object is shorter or other than promised.
    #[error("object {key} is damaged: {why}")]
    Damaged {
        /// The key.
        key: Key,
        /// What is wrong.
        why: String,
    },
    /// The store refuses the credentials or the permission is missing.
    #[error("access to {what} was refused")]
    Denied {
        /// Bucket or object.
        what: String,
        /// The cause.
        #[source]
        source: Option<std::io::Error>,
    },
    /// The store does not answer, or the bucket does not exist: may pass.
    #[error("the bucket cannot be reached: {what}")]
    Unreachable {
        /// Which bucket, and what was tried.
        what: String,
        /// The cause.
        #[source]
        source: Option<std::io::Error>,
    },
    /// The store answers that it cannot now: may pass soon.
    #[error("the bucket is busy: {what}")]
    Busy {
        /// What was asked, and the answer.
        what: String,
        /// How long it asks to wait.
        retry_after: Option<Duration>,
    },
    /// The store is full.
    #[error("the bucket is full: {what}")]
    Full {
        /// What was being written.
        what: String,
    },
    /// A key that CBFS does not accept, or that the store cannot hold.
    #[error("{what}")]
    InvalidKey {
        /// The key, and why not.
        what: String,
    },
    /// A URL that CBFS does not accept.
    #[error("{what}")]
    Invalid {
        /// What, and why not.
        what: String,
    },
    /// The store cannot do this.
    #[error("{what}")]
    Unsupported {
        /// What it cannot do.
        what: String,
    },
    /// Anything else; may pass.
    #[error("{what}")]
    Io {
        /// What was being done.
        what: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// When trying the same again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TryAgain {
    /// Never: something has to change first.
    Never,
    /// In minutes, once somebody has made room, the bucket, or has mended the credentials.
    Later,
    /// In seconds; not before what the store asks for.
    Soon(Option<Duration>),
}

impl BucketError {
    /// Whether trying the same again later can help.
    pub fn is_transient(&self) -> bool {
        self.try_again() != TryAgain::Never
    }

    /// When trying the same again can help.
    pub fn try_again(&self) -> TryAgain {
        match self {
            BucketError::Unreachable {
                source: Some(cause),
                ..
            } if cause.kind() == io::ErrorKind::NotFound => TryAgain::Later,
            BucketError::Unreachable { .. } | BucketError::Io { .. } => TryAgain::Soon(None),
            BucketError::Busy { retry_after, .. } => TryAgain::Soon(*retry_after),
            BucketError::Full { .. } | BucketError::Denied { .. } => TryAgain::Later,
            BucketError::NotFound { .. }
            | BucketError::AlreadyExists { .. }
            | BucketError::Damaged { .. }
            | BucketError::InvalidKey { .. }
            | BucketError::Invalid { .. }
            | BucketError::Unsupported { .. } => TryAgain::Never,
        }
    }
}

impl From<BucketError> for Error {
    fn from(e: BucketError) -> Error {
        let (kind, hint) = match &e {
            BucketError::NotFound { .. } => (ErrorKind::NotFound, None),
            BucketError::AlreadyExists { .. } => (ErrorKind::Conflict, None),
            BucketError::Damaged { .. } => (ErrorKind::Damage, None),
            BucketError::Denied { .. } => (
                ErrorKind::Credentials,
                Some("check the credentials, and that they may read and write this bucket"),
            ),
            BucketError::Unreachable { .. } => (
                ErrorKind::BucketUnreachable,
                Some("check that the bucket exists and is reachable"),
            ),
            BucketError::Busy { .. } => (ErrorKind::BucketUnreachable, Some("try again later")),
            BucketError::Full { .. } => (ErrorKind::Failed, Some("free space in the bucket")),
            BucketError::Invalid { .. } => (
                ErrorKind::Usage,
                Some("a bucket is file:///DIRECTORY or s3://BUCKET/PREFIX"),
            ),
            BucketError::InvalidKey { .. }
            | BucketError::Unsupported { .. }
            | BucketError::Io { .. } => (ErrorKind::Failed, None),
        };
        let error = Error::new(kind, e.to_string());
        let error = match std::error::Error::source(&e) {
            Some(cause) => error.because(cause.to_string()),
            None => error,
        };
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}
