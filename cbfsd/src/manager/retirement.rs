//! The end of a master on this node: a superseded one becomes a slave ([`Manager::demote`]), or an instance is deleted
//! with all that only it has ([`Manager::delete_instance`]).
//!
//! The directory gets the name `.gone-<random>` first, in one rename: from then on no start opens it, and each removes what
//! is left of such directories.

use super::{Manager, Open};
use crate::instance::Unpublished;
use cbfs_core::api::{InstanceInfo, MountRequest, RetireRequest, Role, UnpublishedInfo};
use cbfs_core::durable_file;
use cbfs_core::error::{Context, Error, ErrorKind, Result};
use cbfs_core::ids::Xid;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Paths told at most; the numbers are always right.
const PATHS_TOLD: usize = 100;

/// A demoted master looks for new snapshots this often, in seconds.
const FOLLOW_EVERY: u64 = 10;

/// How directories that nobody needs are called.
const GONE: &str = ".gone-";

impl Manager {
    /// The open instance with this id.
    pub(super) fn open_one(&self, id: &str) -> Result<Arc<Open>> {
        let open = self.open.lock().get(id).cloned();
        open.ok_or_else(|| super::unknown_instance(id))
    }

    /// What a master has that no complete snapshot has.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] for one that is not fenced: it changes.
    fn unpublished_of(&self, open: &Open) -> Result<Unpublished> {
        let instance = open.instance();
        if instance.role() != Role::Master || !instance.is_fenced() {
            let text = format!("{} is no fenced master", open.id);
            return Err(Error::new(ErrorKind::Conflict, text).hint(
                "a master that is not fenced publishes what it has: `cbfsctl snapshot create`",
            ));
        }
        let last = open.snapshots().and_then(|s| s.last_complete());
        let published = last.map_or(Xid(0), |m| m.xid.to);
        instance.unpublished(published)
    }

    /// The same for the API.
    pub fn unpublished(&self, id: &str) -> Result<UnpublishedInfo> {
        let open = self.open_one(id)?;
        let found = self.unpublished_of(&open)?;
        Ok(info_of(&found))
    }

    /// Write it as a tar. May wait for the bucket.
    pub fn export_unpublished(&self, id: &str, out: &mut dyn Write) -> Result<()> {
        let open = self.open_one(id)?;
        let found = self.unpublished_of(&open)?;
        open.instance().export_unpublished(&found, out)
    }

    /// A fenced master becomes a slave of the latest snapshot, at the same mount point if it is mounted.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when it is not fenced, is in use, or has unpublished changes that the request does not
    /// give up.
    pub fn demote(
        self: &Arc<Self>,
        id: &str,
        request: &RetireRequest,
    ) -> Result<Option<InstanceInfo>> {
        let _one = self.changing.lock();
        self.refuse_when_stopping()?;
        let open = self.open_one(id)?;
        let found = self.unpublished_of(&open)?;
        refuse_to_lose(&open, &found, request)?;
        let config = open.config.lock().clone();
        self.retire(&open)?;
        let Some(mount_point) = config.mount_point else {
            return Ok(None);
        };
        let request = MountRequest {
            fs: config.fs.to_string(),
            bucket: Some(config.bucket.to_string()),
            snapshot: Some("latest".into()),
            mount_point,
            role: Role::Slave,
            follow: Some(FOLLOW_EVERY),
            non_empty: false,
            noatime: config.noatime,
            kvs_limit: None,
            i_prevent_split_brain: false,
        };
        self.mount_while_changing(&request).map(Some)
    }

    /// Forget an instance: unmount it, and remove its state directory.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when it is in use, or is a master with unpublished changes that the request does not give
    /// up.
    pub fn delete_instance(
        self: &Arc<Self>,
        id: &str,
        request: &RetireRequest,
    ) -> Result<InstanceInfo> {
        let _one = self.changing.lock();
        self.refuse_when_stopping()?;
        let open = self.open_one(id)?;
        let info = open.info();
        if info.role == Role::Master {
            if open.instance().is_fenced() {
                refuse_to_lose(&open, &self.unpublished_of(&open)?, request)?;
            } else if info.unpublished > 0 && !request.discard {
                let text = format!(
                    "{id} has {} transactions that no snapshot has",
                    info.unpublished
                );
                return Err(Error::new(ErrorKind::Conflict, text).hint(format!(
                    "`cbfsctl snapshot create {id} --wait` publishes them; or give them up with --discard"
                )));
            }
        }
        self.retire(&open)?;
        Ok(info)
    }

    /// Unmount, close and remove.
    fn retire(&self, open: &Arc<Open>) -> Result<()> {
        open.stop_following();
        if let Some(session) = open.session.lock().take()
            && let Err(e) = session.unmount(false)
        {
            let text = format!("{} could not be unmounted", session.mount_point().display());
            *open.session.lock() = Some(session);
            return Err(Error::new(ErrorKind::Conflict, text)
                .because(e)
                .hint("files are open in it: see `fuser -vm DIR`"));
        }
        if let Some(snapshots) = open.snapshots() {
            snapshots.stop();
        }
        let instance = open.instance();
        instance.forget_all();
        instance.close()?;
        instance.end_cache();
        self.open.lock().remove(&open.id);
        self.events.forget(&open.id);
        let gone = self
            .instances_dir()
            .join(format!("{GONE}{}", self.ids.attempt()));
        fs::rename(&open.dir, &gone)
            .and_then(|()| durable_file::sync_dir(&self.instances_dir()))
            .context(|| format!("{} could not be removed", open.dir.display()))?;
        open.remove_replaced();
        remove_gone(&gone).map(drop)
    }
}

fn refuse_to_lose(open: &Open, found: &Unpublished, request: &RetireRequest) -> Result<()> {
    if request.discard || (found.changed.is_empty() && found.removed.is_empty()) {
        return Ok(());
    }
    let (id, changed, removed) = (&open.id, found.changed.len(), found.removed.len());
    let text = format!(
        "{id} has changes that no snapshot has: {changed} names changed, {removed} removed"
    );
    Err(Error::new(ErrorKind::Conflict, text).hint(format!(
        "`cbfsctl instance export {id} -o FILE` saves them; then give them up here with --discard"
    )))
}

fn info_of(found: &Unpublished) -> UnpublishedInfo {
    let told = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    UnpublishedInfo {
        changed: found.changed.len() as u64,
        removed: found.removed.len() as u64,
        changed_paths: found
            .changed
            .keys()
            .take(PATHS_TOLD)
            .map(|p| told(p))
            .collect(),
        removed_paths: found
            .removed
            .iter()
            .take(PATHS_TOLD)
            .map(|p| told(p))
            .collect(),
    }
}

/// Remove a directory that was given up; `false` when this is none.
pub(super) fn remove_gone(dir: &Path) -> Result<bool> {
    let name: PathBuf = dir.file_name().unwrap_or_default().into();
    if !name.to_string_lossy().starts_with(GONE) {
        return Ok(false);
    }
    durable_file::remove_dir_all(dir)?;
    Ok(true)
}
