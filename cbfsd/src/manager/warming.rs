//! Fetching contents of a mount in advance, for `cbfsctl warm`.

use super::Manager;
use crate::instance::Instance;
use crate::visible_snapshots::is_visible_snapshot;
use cbfs_core::api::{WarmFailure, WarmInfo, WarmRequest};
use cbfs_core::error::{Error, ErrorKind, Result};
use cbfs_core::ids::Ino;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Node ids of the mount, and the inodes they stand for.
type Files = Vec<(u64, Ino)>;

impl Manager {
    /// Bring the contents of files to this node, to stay. A file that changed hands meanwhile (the slave moved on, and nobody
    /// has it open) needs nothing. Waits for the bucket, and holds no lock that anything else waits for. Ends early once `given_up` is
    /// set, or the instance is unmounted or deleted.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for too many inodes, or those of a snapshot below `.cbfs`; those of bucket and disk. A damaged
    /// object is told for each file.
    pub fn warm(&self, id: &str, request: &WarmRequest, given_up: &AtomicBool) -> Result<WarmInfo> {
        let refused = |text: &str| Err(Error::new(ErrorKind::Usage, text));
        if request.inodes.len() > WarmRequest::MOST {
            return refused("more files at once than one request may name");
        }
        if request.inodes.iter().any(|n| is_visible_snapshot(*n)) {
            return refused("what is below .cbfs/snapshots is not kept on this node")
                .map_err(|e| e.hint("mount that snapshot as a slave, and warm the mount"));
        }
        let open = self.open_one(id)?;
        // An old version that somebody has open belongs to an instance of its own.
        let mut holders: Vec<(Arc<Instance>, Files)> = Vec::new();
        for node in &request.inodes {
            let Ok((holder, ino)) = open.mounted.holder_of(*node) else {
                continue;
            };
            match holders
                .iter_mut()
                .find(|(known, _)| Arc::ptr_eq(known, &holder))
            {
                Some((_, files)) => files.push((*node, ino)),
                None => holders.push((holder, vec![(*node, ino)])),
            }
        }
        let mut info = WarmInfo {
            files: request.inodes.len() as u64,
            ..WarmInfo::default()
        };
        for (holder, files) in holders {
            let inodes: Vec<Ino> = files.iter().map(|(_, ino)| *ino).collect();
            let mut warmed = holder.warm(&inodes, given_up)?;
            info.fetched_bytes += warmed.fetched_bytes;
            info.kept_bytes += warmed.kept_bytes;
            for (node, ino) in files {
                if let Some(error) = warmed.failed.remove(&ino) {
                    info.failed.push(WarmFailure { inode: node, error });
                }
            }
        }
        info.files = info.files.saturating_sub(info.failed.len() as u64);
        Ok(info)
    }
}
