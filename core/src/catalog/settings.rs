//! Settings of a file system: create-only versions.

use super::{get_document, promised};
use crate::bucket::{Body, Bucket, BucketError};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::format::settings::FsSettings;
use crate::format::{self, keys};
use crate::handle::Handle;

/// How often somebody else may be quicker before a change is given up.
const TRIES: usize = 5;

/// One version; `None` when it does not exist (yet). One GET.
pub fn settings_version(
    bucket: &dyn Bucket,
    fs: &Handle,
    version: u32,
) -> Result<Option<FsSettings>> {
    let key = keys::absolute(fs, &keys::settings(version))?;
    let Some(mut settings) = get_document::<FsSettings>(bucket, &key)? else {
        return Ok(None);
    };
    // It is of this version's bytes: nothing to be carried over to the next.
    settings.other.remove(format::SEAL);
    promised(
        &key,
        settings.fs == *fs && settings.version == version,
        || format!("version {} of {}", settings.version, settings.fs),
    )?;
    Ok(Some(settings))
}

/// The newest version from `known` on; `known` itself when nothing newer exists. Versions have no gaps: one
/// GET for each newer one, and one more.
pub fn newer_settings(bucket: &dyn Bucket, known: FsSettings) -> Result<FsSettings> {
    let mut newest = known;
    while let Some(next) = settings_version(bucket, &newest.fs, newest.version + 1)? {
        newest = next;
    }
    Ok(newest)
}

/// The settings that hold; version 0 when nothing was ever set. Costs as [`newer_settings`].
pub fn settings(bucket: &dyn Bucket, fs: &Handle) -> Result<FsSettings> {
    newer_settings(bucket, FsSettings::unset(fs.clone()))
}

/// Change the settings: `change` is applied to what holds, and the result becomes the next version. When
/// somebody else was quicker it is applied to theirs. Answers what holds now.
///
/// # Errors
/// [`ErrorKind::Conflict`] when others were quicker too often; those of the bucket.
pub fn change_settings(
    bucket: &dyn Bucket,
    fs: &Handle,
    clock: &dyn Clock,
    change: impl Fn(&mut FsSettings),
) -> Result<FsSettings> {
    let mut current = settings(bucket, fs)?;
    for _ in 0..TRIES {
        let mut next = current.clone();
        change(&mut next);
        next.version = current.version + 1;
        next.created_at = clock.now().to_rfc3339();
        next.host = crate::environment::host_name();
        next.writer = format::manifest::writer();
        let key = keys::absolute(fs, &keys::settings(next.version))?;
        match bucket.create(&key, Body::Bytes(&format::to_sealed_json(&next)?)) {
            Ok(()) => return Ok(next),
            // Also our own, when the answer was lost: then the change is in it already.
            Err(BucketError::AlreadyExists { .. }) => current = newer_settings(bucket, current)?,
            Err(e) => return Err(e.into()),
        }
    }
    Err(Error::new(
        ErrorKind::Conflict,
        format!("others change the settings of {fs} as well"),
    )
    .hint("look at them with `cbfsctl fs show`, and try again"))
}
