//! The option `--bucket`, shared by all commands that go to one.

use cbfs_core::bucket::{self, Bucket, BucketUrl};
use cbfs_core::{Error, ErrorKind, Result};
use std::sync::Arc;

/// `--bucket URL`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct BucketOption {
    /// The bucket: file:///DIRECTORY or s3://BUCKET/PREFIX.
    #[arg(long, value_name = "URL", env = "CBFS_BUCKET", hide_env_values = true)]
    bucket: Option<String>,
}

impl BucketOption {
    /// The URL, where one was given, or `default_bucket` of `cbfsd.toml`. An empty one counts as none.
    pub(crate) fn url(&self) -> Result<Option<BucketUrl>> {
        let configured = cbfs_core::configuration::current();
        let given = self.bucket.as_deref().filter(|text| !text.is_empty());
        match given.or(configured.bucket.as_deref()) {
            None | Some("") => Ok(None),
            Some(text) => Ok(Some(parse(text)?)),
        }
    }

    /// Open the bucket; it is a usage error when none was given.
    pub(crate) fn open(&self, read_only: bool) -> Result<Arc<dyn Bucket>> {
        let url = self.url()?.ok_or_else(|| {
            Error::new(ErrorKind::Usage, "which bucket?")
                .hint("give --bucket URL or set CBFS_BUCKET; URL is file:///DIRECTORY or s3://BUCKET/PREFIX")
        })?;
        Ok(bucket::open(&url, read_only)?)
    }
}

/// A bucket URL from a command line.
pub(crate) fn parse(text: &str) -> Result<BucketUrl> {
    Ok(text.parse::<BucketUrl>()?)
}
