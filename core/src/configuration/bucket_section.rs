//! `[bucket."s3://…"]`: what one bucket needs.

use super::{ByteSize, Secret};
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

/// Smallest part of a multipart upload that stores take (S3), and the largest.
const PART_MIN: u64 = 5 << 20;
const PART_MAX: u64 = 5 << 30;
/// More parts at a time only wait for each other.
const PARALLEL_MAX: usize = 64;
/// Slower than this no upload of a part ends within its deadline.
const UPLOAD_LIMIT_MIN: u64 = 64 << 10;

/// Settings of one bucket. Options of a bucket's URL go before them; they go before `AWS_*` variables and files.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketSection {
    /// URL of the store.
    pub endpoint: Option<String>,
    /// Region that signatures name.
    pub region: Option<String>,
    /// Whether the bucket's name goes into the path (`true`) or the host name.
    pub path_style: Option<bool>,
    /// Profile of the AWS files.
    pub profile: Option<String>,
    /// Access key id.
    pub access_key_id: Option<String>,
    /// Its secret.
    pub secret_access_key: Option<Secret>,
    /// A file with the secret, and nothing else.
    pub secret_access_key_file: Option<PathBuf>,
    /// Session token that goes with the key.
    pub session_token: Option<Secret>,
    /// An AWS credentials file instead of the one of the environment.
    pub credentials_file: Option<PathBuf>,
    /// PEM file with certificates of authorities to trust besides the machine's.
    pub ca_file: Option<PathBuf>,
    /// Parts of one upload on their way at a time.
    pub parallel_parts: Option<usize>,
    /// Size of a part.
    pub part_size: Option<ByteSize>,
    /// Bytes per second that uploads may take, together.
    pub upload_limit: Option<ByteSize>,
    /// Seconds for which the daemon tries a read again before it is an error.
    pub patience: Option<u64>,
    /// Seconds without a byte in either direction after which a try of a request is given up.
    pub silence: Option<u64>,
    /// What the store charges.
    pub prices: Option<Prices>,
}

/// What a store charges, in a currency of your own, for the estimate in `status`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// 1000 PUT, POST or LIST requests.
    pub per_1000_writes: f64,
    /// 1000 GET or HEAD requests.
    pub per_1000_reads: f64,
    /// 1 GiB from the store to this node.
    #[serde(default)]
    pub per_gib_out: f64,
}

impl BucketSection {
    /// Whether a secret stands in the file itself.
    pub(super) fn holds_secret(&self) -> bool {
        self.secret_access_key.is_some() || self.session_token.is_some()
    }

    /// The patience of reads.
    pub fn patience(&self) -> Option<Duration> {
        self.patience.map(Duration::from_secs)
    }

    /// After how long without a byte a try of a request is given up.
    pub fn silence(&self) -> Option<Duration> {
        self.silence.map(Duration::from_secs)
    }

    /// Why it makes no sense, if it does not.
    pub(super) fn check(&self) -> Result<(), String> {
        let secrets = usize::from(self.secret_access_key.is_some())
            + usize::from(self.secret_access_key_file.is_some());
        if secrets > 1 {
            return Err("secret_access_key and secret_access_key_file: say one of them".to_owned());
        }
        if self.access_key_id.is_some() != (secrets == 1) {
            return Err(
                "access_key_id and secret_access_key (or secret_access_key_file) go together"
                    .to_owned(),
            );
        }
        if self.session_token.is_some() && self.access_key_id.is_none() {
            return Err("session_token needs access_key_id".to_owned());
        }
        if self.access_key_id.is_some()
            && (self.profile.is_some() || self.credentials_file.is_some())
        {
            return Err(
                "access_key_id or a profile (profile, credentials_file): say one of them"
                    .to_owned(),
            );
        }
        let within = |name: &str, value: Option<u64>, least: u64, most: u64| match value {
            Some(v) if v < least || v > most => {
                Err(format!("{name} must be from {least} to {most}, not {v}"))
            }
            _ => Ok(()),
        };
        within("part_size", self.part_size.map(|s| s.0), PART_MIN, PART_MAX)?;
        let parallel = self.parallel_parts.map(|n| n as u64);
        within("parallel_parts", parallel, 1, PARALLEL_MAX as u64)?;
        let limit = self.upload_limit.map(|s| s.0);
        within("upload_limit", limit, UPLOAD_LIMIT_MIN, u64::MAX)?;
        within("patience", self.patience, 1, 3600)?;
        within("silence", self.silence, 1, 600)?;
        if let Some(prices) = self.prices {
            let all = [
                prices.per_1000_writes,
                prices.per_1000_reads,
                prices.per_gib_out,
            ];
            if all.iter().any(|p| !p.is_finite() || *p < 0.0) {
                return Err("prices are numbers, and not negative".to_owned());
            }
        }
        Ok(())
    }
}
