//! A snapshot and those it builds on, as far as they can be told without layers and TOCs.

use super::{find_attempt, read_record};
use crate::bucket::Bucket;
use crate::catalog;
use crate::cloud_snapshot::TarballStream;
use crate::error::{Error, ErrorKind, Result};
use crate::format::epoch::BaseSnapshot;
use crate::format::keys;
use crate::format::manifest::Manifest;
use crate::handle::Handle;
use crate::ids::{Epoch, SnapshotNumber};

/// One snapshot of a chain.
#[derive(Debug)]
pub struct Link {
    /// Which one.
    pub id: BaseSnapshot,
    /// Its manifest, unless that is lost.
    pub manifest: Option<Manifest>,
    /// The folder of its objects; `None` when it has none, as nothing changed in it.
    pub folder: Option<String>,
    /// The snapshot it builds on.
    pub parent: Option<BaseSnapshot>,
}

/// A snapshot by its number; the epoch is needed only where several published that number.
/// Manifest, or where it is lost the metadata tarball.
///
/// # Errors
/// [`ErrorKind::NotFound`] when there is neither; those of [`find_attempt`] and the bucket.
pub fn link(
    bucket: &dyn Bucket,
    fs: &Handle,
    number: SnapshotNumber,
    epoch: Option<Epoch>,
) -> Result<Link> {
    let lost = match epoch {
        None => None,
        Some(epoch) => match catalog::load_manifest(bucket, fs, number, epoch) {
            Ok(manifest) => return of_manifest(manifest),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Damage) => Some(e),
            Err(e) => return Err(e),
        },
    };
    let folder = find_attempt(bucket, fs, number, epoch).map_err(|e| match lost {
        // Why that was asked at all.
        Some(lost) if e.kind() == ErrorKind::NotFound => {
            let (kind, text) = (lost.kind(), format!("{lost}, and {e}"));
            Error::new(kind, text).because(lost)
        }
        _ => e,
    })?;
    let key = format!("{folder}{}", keys::tarball(0));
    let mut metadata = TarballStream::open(bucket, fs, &key)?;
    let record = read_record(&mut metadata, fs)?;
    if record.number != number || epoch.is_some_and(|epoch| epoch != record.epoch) {
        let text = format!("object {fs}/{key} is of snapshot {}", record.number);
        return Err(Error::damage(text));
    }
    Ok(Link {
        id: BaseSnapshot {
            number,
            epoch: record.epoch,
        },
        manifest: None,
        folder: Some(folder),
        parent: record.parent,
    })
}

fn of_manifest(manifest: Manifest) -> Result<Link> {
    let folder = manifest.meta_tarball.as_ref().map(|object| {
        let name = keys::tarball(0);
        object
            .key
            .strip_suffix(&name)
            .map(str::to_owned)
            .ok_or_else(|| {
                let text = format!("{} is no key of a metadata tarball", object.key);
                Error::damage(text)
            })
    });
    Ok(Link {
        id: manifest.id(),
        folder: folder.transpose()?,
        parent: manifest.parent,
        manifest: Some(manifest),
    })
}

/// A snapshot and all it builds on, newest first.
///
/// # Errors
/// As [`link`].
pub fn chain(bucket: &dyn Bucket, fs: &Handle, newest: Link) -> Result<Vec<Link>> {
    let mut links = vec![newest];
    while let Some(parent) = links.last().and_then(|link| link.parent) {
        if links
            .last()
            .is_some_and(|link| parent.number >= link.id.number)
        {
            let text = format!("snapshot {} builds on a later one", parent.number);
            return Err(Error::damage(text));
        }
        links.push(link(bucket, fs, parent.number, Some(parent.epoch))?);
    }
    Ok(links)
}
