//! Promotion: this node becomes master, on top of the last snapshot of the lineage.
//!
//! **Seal, then read.** What is durable after each step, and what a crash before the next one leaves:
//!
//! 1. `promotion.toml` in the instance's directory, with the nonce of the claim. Left alone, it is forgotten at
//!    the next start unless the claim turns out to be ours.
//! 2. The claim of the next epoch in the bucket: the former master is fenced by it. From here on there is no way
//!    back, only forward: `sealed` is noted, and every start of the daemon goes on.
//! 3. The base of the epoch in the bucket ([`catalog::settle_base`]): looked for after the claim; what stands
//!    there decides.
//! 4. `base.json`, the base's layers in `base/`, and `last-complete.json`: numbers go on from it.
//! 5. One more look: the claim is ours and no later one exists. Then `instance.toml`: this is a master from here
//!    on, and `promotion.toml` goes. The slave that was mounted goes with its config; its mount is the master's.
//!
//! Everything may be done again at any time; nothing is done from memory of what the bucket said before.

use super::config::{InstanceConfig, host_name};
use super::{Manager, Open, base};
use crate::failpoints::{self, reach};
use crate::snapshots;
use cbfs_core::api::{PromoteRequest, PromotionInfo, PromotionStep, Role};
use cbfs_core::bucket::{self, Bucket, BucketUrl};
use cbfs_core::catalog;
use cbfs_core::durable_file;
use cbfs_core::error::{Context, Error, ErrorKind, Result};
use cbfs_core::format::epoch::EpochClaim;
use cbfs_core::format::node::LIFE;
use cbfs_core::handle::{FsSelector, Handle};
use cbfs_core::ids::Epoch;
use cbfs_core::inode::Timestamp;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Inode numbers have the epoch in their upper bits, and the highest bit is taken.
const LAST_EPOCH: u16 = 0x7ffe;

/// A sealed promotion that could not be ended is taken up again after this long; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// `promotion.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    fs: Handle,
    bucket: BucketUrl,
    /// The epoch that is claimed.
    epoch: Epoch,
    /// Of the claim.
    nonce: String,
    block_size: u64,
    /// The claim is known to be ours.
    sealed: bool,
    /// Why the last try did not get further.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

fn note_path(dir: &Path) -> PathBuf {
    dir.join("promotion.toml")
}

impl Note {
    fn store(&self, dir: &Path) -> Result<()> {
        let path = note_path(dir);
        let text = toml::to_string(self).context(|| "a promotion could not be described".into())?;
        durable_file::create_dir_all(dir)
            .and_then(|()| durable_file::replace(&path, text.as_bytes()))
            .context(|| format!("{} could not be written", path.display()))
    }

    fn read(dir: &Path) -> Result<Option<Note>> {
        let path = note_path(dir);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).context(|| format!("{} could not be read", path.display())),
        };
        toml::from_str(&text).map(Some).map_err(|e| {
            Error::damage(format!("{} is damaged", path.display()))
                .because(e)
                .hint("what it stands for may be in the bucket: see `cbfsctl epoch list`")
        })
    }

    fn remove(dir: &Path) -> Result<()> {
        let path = note_path(dir);
        match fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done.and_then(|()| durable_file::sync_dir(dir)),
        }
        .context(|| format!("{} could not be removed", path.display()))
    }

    fn info(&self) -> PromotionInfo {
        PromotionInfo {
            fs: self.fs.clone(),
            bucket: self.bucket.to_string(),
            epoch: self.epoch,
            step: match self.sealed {
                true => PromotionStep::Sealed,
                false => PromotionStep::Noted,
            },
            former: None,
            last_sign: None,
            looks_alive: false,
            base: None,
            base_created_at: None,
            mount_point: None,
            problem: self.problem.clone(),
        }
    }
}

/// Whether a promotion is noted in an instance's directory.
pub(super) fn is_under_way(dir: &Path) -> bool {
    note_path(dir).exists()
}

impl Manager {
    /// Become master of a file system in the place of the one of `previous_epoch`. With `dry_run` only tells.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when that is not the latest epoch (it says who is master), another node was faster,
    /// or this node has a master of it; [`ErrorKind::Damage`] when the last snapshot cannot be read: nothing was
    /// done then. After an error behind the claim the promotion goes on by itself.
    pub fn promote(self: &Arc<Self>, fs: &str, request: &PromoteRequest) -> Result<PromotionInfo> {
        let _one = self.changing.lock();
        self.refuse_when_stopping()?;
        let (bucket, url) = self.bucket_of(fs, request.bucket.as_deref(), request.dry_run)?;
        let fs = catalog::find_fs(&*bucket, fs)?;
        let dir = self.instances_dir().join(fs.to_string());
        let mut plan = self.plan(&*bucket, &url, &fs, request.previous_epoch)?;
        let noted = Note::read(&dir)?.filter(|note| note.epoch == plan.epoch);
        if request.dry_run {
            return Ok(plan);
        }
        let note = match noted {
            Some(note) => note,
            None => {
                let begun = self.begin_promotion(&bucket, url, &fs, plan.epoch, &dir);
                // There was nothing in it, says the plan; nobody would ever look for what was fetched.
                if begun.is_err()
                    && !is_under_way(&dir)
                    && let Err(e) = durable_file::remove_dir_all(&dir)
                {
                    tracing::warn!(causes = ?e.causes(), "{e}");
                }
                begun?
            }
        };
        reach(failpoints::PROMOTE_NOTED);
        let done = self.carry_promotion_out(&*bucket, &dir, note);
        let open = match done {
            Ok(open) => open,
            Err(e) => {
                if is_under_way(&dir) && Note::read(&dir)?.is_some_and(|note| note.sealed) {
                    self.go_on_promoting(dir);
                    return Err(e.hint(format!(
                        "epoch {} of {fs} is this node's: it goes on by itself as soon as it can; \
                         `cbfsctl status` tells",
                        plan.epoch
                    )));
                }
                return Err(e);
            }
        };
        plan.step = PromotionStep::Master;
        plan.base = open.config.lock().base;
        plan.mount_point = open.mounted_at();
        Ok(plan)
    }

    /// Step 1: see that the last snapshot can be read, and note the promotion.
    fn begin_promotion(
        &self,
        bucket: &Arc<dyn Bucket>,
        url: BucketUrl,
        fs: &Handle,
        epoch: Epoch,
        dir: &Path,
    ) -> Result<Note> {
        let block_size = catalog::load_config(&**bucket, fs)?.block_size;
        catalog::refuse_careless_store(&**bucket, fs, epoch, false)?;
        // What cannot be read is better known before the former master is fenced.
        if let Some(latest) = catalog::latest_manifest(&**bucket, fs)? {
            self.begin_with_slave(fs, dir);
            base::open(dir, &latest, Arc::clone(bucket), block_size)?;
        }
        let note = Note {
            fs: fs.clone(),
            bucket: url,
            epoch,
            nonce: self.ids.uuid().simple().to_string(),
            block_size,
            sealed: false,
            problem: None,
        };
        note.store(dir)?;
        Ok(note)
    }

    /// The promotion of a file system (full handle) that is under way.
    pub fn promotion(&self, fs: &str) -> Result<PromotionInfo> {
        let handle: Handle = fs.parse()?;
        let dir = self.instances_dir().join(handle.to_string());
        let note = Note::read(&dir)?.filter(|_| !dir.join("instance.toml").exists());
        note.map(|note| note.info()).ok_or_else(|| {
            let text = format!("no promotion of {fs} is under way on this node");
            Error::new(ErrorKind::NotFound, text).hint(format!("see `cbfsctl epoch list {fs}`"))
        })
    }

    /// All promotions that are under way on this node.
    pub fn promotions(&self) -> Vec<PromotionInfo> {
        let Ok(entries) = fs::read_dir(self.instances_dir()) else {
            return Vec::new();
        };
        let under_way = entries.filter_map(|entry| {
            let dir = entry.ok()?.path();
            let note = Note::read(&dir).ok()??;
            (!dir.join("instance.toml").exists()).then(|| note.info())
        });
        under_way.collect()
    }

    /// Judge a promotion, and say what it would do.
    fn plan(
        &self,
        bucket: &dyn Bucket,
        url: &BucketUrl,
        fs: &Handle,
        previous: Epoch,
    ) -> Result<PromotionInfo> {
        let dir = self.instances_dir().join(fs.to_string());
        catalog::refuse_deleted(bucket, fs)?;
        let claims = catalog::epochs(bucket, fs)?;
        let Some(current) = claims.last() else {
            let text = format!("{fs} has no master yet, and never had one");
            return Err(Error::new(ErrorKind::Conflict, text).hint(format!(
                "`cbfsctl mount {fs} DIR` makes this node its first master"
            )));
        };
        let own = Note::read(&dir)?;
        let resumed = own.as_ref().is_some_and(|note| {
            note.nonce == current.nonce && note.epoch.0 == previous.0.saturating_add(1)
        });
        let open = self.open.lock().get(&fs.to_string()).cloned();
        let open = open.map(|open| open.config.lock().epoch);
        let asked_again = previous.0.saturating_add(1) == current.epoch.0;
        if open == Some(current.epoch) && (asked_again || previous == current.epoch) {
            let text = format!(
                "this node is the master of {fs}, in epoch {}",
                current.epoch
            );
            let hint = format!("`cbfsctl mount {fs} DIR` mounts it");
            return Err(Error::new(ErrorKind::Conflict, text).hint(hint));
        }
        if !resumed && current.epoch != previous {
            return Err(not_the_latest(fs, previous, current));
        }
        if let Some(epoch) = open {
            let text =
                format!("this node still has the master of epoch {epoch} of {fs}, which is fenced");
            let hint = format!(
                "`cbfsctl instance export {fs}` saves what it has not published, then \
                 `cbfsctl instance demote {fs}`"
            );
            return Err(Error::new(ErrorKind::Conflict, text).hint(hint));
        }
        if dir.join("instance.toml").exists() || dir.join("kvs").exists() {
            let text = format!("{} holds a master that could not be opened", dir.display());
            return Err(Error::new(ErrorKind::Conflict, text).hint(
                "the daemon's log says why; once nothing in it is needed any more, move the directory away",
            ));
        }
        if previous.0 >= LAST_EPOCH {
            let text = format!("{fs} has used up its epochs: {previous} is the last");
            return Err(Error::failed(text));
        }
        let latest = catalog::latest_manifest(bucket, fs)?;
        let former = claims.iter().rev().find(|claim| claim.epoch == previous);
        let mut info = PromotionInfo {
            fs: fs.clone(),
            bucket: url.to_string(),
            epoch: Epoch(previous.0 + 1),
            step: match (resumed, &own) {
                (true, _) => PromotionStep::Sealed,
                (false, Some(note)) if note.epoch.0 == previous.0 + 1 => PromotionStep::Noted,
                _ => PromotionStep::Planned,
            },
            former: former.cloned(),
            last_sign: None,
            looks_alive: false,
            base: latest.as_ref().map(|m| m.id()),
            base_created_at: latest.map(|m| m.created_at),
            mount_point: self.slave_to_promote(fs).and_then(|open| open.mounted_at()),
            problem: None,
        };
        self.look_for_life(bucket, &mut info);
        Ok(info)
    }

    /// Steps 2 to 5, from wherever it stands.
    fn carry_promotion_out(
        self: &Arc<Self>,
        bucket: &dyn Bucket,
        dir: &Path,
        note: Note,
    ) -> Result<Arc<Open>> {
        let mut note = note;
        let tried = self.seal_and_read(bucket, dir, &mut note);
        let config = match tried {
            Ok(config) => config,
            Err(e) if lost(&e) || (!note.sealed && refused(&e)) => {
                // Nothing of this promotion is in the bucket, or nothing that anybody will ever read.
                Note::remove(dir)?;
                durable_file::remove_dir_all(dir)?;
                return Err(e);
            }
            Err(e) => {
                note.problem = Some(e.to_string());
                note.store(dir)?;
                return Err(e);
            }
        };
        Note::remove(dir)?;
        reach(failpoints::PROMOTE_FORGOTTEN);
        self.take_office(config)
    }

    fn seal_and_read(
        &self,
        bucket: &dyn Bucket,
        dir: &Path,
        note: &mut Note,
    ) -> Result<InstanceConfig> {
        let fs = note.fs.clone();
        if !note.sealed {
            let claim = EpochClaim::new(
                fs.clone(),
                note.epoch,
                self.node.clone(),
                host_name(),
                note.nonce.clone(),
                self.clock.now().to_rfc3339(),
            );
            catalog::claim_epoch(bucket, &fs, &claim)?;
            reach(failpoints::PROMOTE_CLAIMED);
            note.sealed = true;
            note.store(dir)?;
        }
        reach(failpoints::PROMOTE_SEALED);
        let settled = catalog::settle_base(bucket, &fs, note.epoch)?;
        reach(failpoints::PROMOTE_BASED);
        if let Some(id) = settled {
            let manifest = catalog::load_manifest(bucket, &fs, id.number, id.epoch)?;
            self.begin_with_slave(&fs, dir);
            // Layers first: what is opened without its bucket needs them.
            let url = note.bucket.clone();
            let reading = bucket::open(&url, true)?;
            drop(base::open(dir, &manifest, reading, note.block_size)?);
            base::store(dir, &manifest)?;
            base::tidy(dir, &manifest, note.block_size)?;
            snapshots::begin_after(dir, &manifest)?;
        }
        reach(failpoints::PROMOTE_FETCHED);
        catalog::confirm_epoch(bucket, &fs, note.epoch, &note.nonce)?;
        let slave = self.slave_to_promote(&fs);
        let slave = slave.map(|open| open.config.lock().clone());
        let config = InstanceConfig {
            fs,
            bucket: note.bucket.clone(),
            role: Role::Master,
            epoch: note.epoch,
            snapshot: None,
            follow: None,
            block_size: note.block_size,
            nonce: Some(note.nonce.clone()),
            mount_point: slave.as_ref().and_then(|c| c.mount_point.clone()),
            noatime: slave.is_some_and(|c| c.noatime),
            kvs_limit: None,
            ballast: None,
            base: settled,
        };
        config.store(dir)?;
        reach(failpoints::PROMOTE_CONFIGURED);
        Ok(config)
    }

    /// At the start of the daemon: what a promotion left in an instance's directory. Answers whether the directory is
    /// dealt with.
    pub(super) fn restore_promotion(self: &Arc<Self>, dir: &Path) -> Result<bool> {
        let Some(_) = Note::read(dir)? else {
            return Ok(false);
        };
        if dir.join("instance.toml").exists() {
            Note::remove(dir)?;
            return Ok(false);
        }
        self.go_on_promoting(dir.to_owned());
        Ok(true)
    }

    /// Go on in the background until this node is master, somebody else is, or the daemon stops.
    fn go_on_promoting(self: &Arc<Self>, dir: PathBuf) {
        let manager = Arc::downgrade(self);
        let run = move || {
            let mut pause = FIRST_PAUSE;
            loop {
                let Some(manager) = manager.upgrade() else {
                    return;
                };
                match manager.try_promotion(&dir) {
                    Ok(()) => return,
                    Err(e) => {
                        tracing::warn!(dir = %dir.display(), causes = ?e.causes(), "promotion: {e}");
                    }
                }
                if manager.wait_for_stop(pause) {
                    return;
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        };
        let started = std::thread::Builder::new()
            .name("promotion".into())
            .spawn(run);
        if let Err(e) = started {
            tracing::error!("a promotion waits for the next start of the daemon: {e}");
        }
    }

    /// One try. `Ok` when nothing is left to do.
    fn try_promotion(self: &Arc<Self>, dir: &Path) -> Result<()> {
        let _one = self.changing.lock();
        if self.stopping.load(Ordering::SeqCst) {
            return Ok(());
        }
        let Some(mut note) = Note::read(dir)? else {
            return Ok(()); // somebody asked again meanwhile
        };
        let bucket = bucket::open(&note.bucket, false)?;
        if !note.sealed {
            // Nobody knows whether the claim was made; only if it was this goes on without being asked.
            let claim = catalog::epoch_claim(&*bucket, &note.fs, note.epoch)?;
            if claim.is_none_or(|claim| claim.nonce != note.nonce) {
                tracing::warn!(fs = %note.fs, epoch = %note.epoch, "a promotion ended before its claim: forgotten");
                Note::remove(dir)?;
                return durable_file::remove_dir_all(dir);
            }
            note.sealed = true;
            note.store(dir)?;
        }
        let fs = note.fs.clone();
        match self.carry_promotion_out(&*bucket, dir, note) {
            Ok(open) => {
                tracing::info!(instance = open.id, "promoted");
                Ok(())
            }
            Err(e) if lost(&e) => {
                tracing::error!(%fs, "a promotion was overtaken: {e}");
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    /// # Errors
    /// [`ErrorKind::Conflict`] while this node becomes master of it.
    pub(super) fn refuse_while_promoting(&self, fs: &Handle) -> Result<()> {
        let dir = self.instances_dir().join(fs.to_string());
        let Some(note) = Note::read(&dir)?.filter(|_| !dir.join("instance.toml").exists()) else {
            return Ok(());
        };
        let text = format!(
            "this node is becoming master of {fs}, in epoch {}",
            note.epoch
        );
        let why = note
            .problem
            .unwrap_or_else(|| "it goes on by itself".into());
        Err(Error::new(ErrorKind::Conflict, text).hint(format!(
            "{why}; `cbfsctl epoch promote {fs} --previous-epoch {}` tries again at once",
            note.epoch.0.saturating_sub(1)
        )))
    }

    /// What was heard of the former master, and when: its sign of life, its claim, its last snapshot.
    fn look_for_life(&self, bucket: &dyn Bucket, info: &mut PromotionInfo) {
        let former = info.former.as_ref();
        let sign = former.map(|former| catalog::node_sign(bucket, &info.fs, &former.node));
        let sign = match sign {
            Some(Ok(sign)) => sign.map(|sign| sign.written_at),
            None => None,
            Some(Err(e)) => {
                // Only for people: nothing is decided by it.
                tracing::warn!(fs = %info.fs, causes = ?e.causes(), "{e}");
                None
            }
        };
        let claimed = former.map(|claim| claim.claimed_at.clone());
        let heard = [claimed, info.base_created_at.clone(), sign];
        let last = heard
            .into_iter()
            .flatten()
            .max_by_key(|at| Timestamp::parse_rfc3339(at));
        let now = self.clock.now();
        info.looks_alive = last
            .as_deref()
            .and_then(Timestamp::parse_rfc3339)
            .is_some_and(|at| now.0.saturating_sub(at.0) < LIFE.as_nanos() as i64);
        info.last_sign = last;
    }

    /// The bucket that is named, or that of an instance of the file system here.
    pub(super) fn bucket_of(
        &self,
        fs: &str,
        named: Option<&str>,
        read_only: bool,
    ) -> Result<(Arc<dyn Bucket>, BucketUrl)> {
        let url: BucketUrl = match named {
            Some(url) => url.parse().map_err(Error::from)?,
            None => {
                let selector: FsSelector = fs.parse()?;
                let all = self.open.lock();
                let known = all.values().map(|o| o.config.lock().clone());
                let found = known.into_iter().find(|c| selector.matches(&c.fs));
                found.map(|c| c.bucket).ok_or_else(|| {
                    let text = format!("this node does not know {fs}");
                    Error::new(ErrorKind::NotFound, text)
                        .hint("say where it lives: --bucket URL, or CBFS_BUCKET")
                })?
            }
        };
        Ok((bucket::open(&url, read_only)?, url))
    }

    fn begin_with_slave(&self, fs: &Handle, dir: &Path) {
        let slave = self.slave_to_promote(fs);
        let shown = slave.and_then(|open| open.shown.lock().clone());
        if let Some(shown) = shown {
            base::begin_with(dir, &shown.proxy);
        }
    }

    /// The mounted slave whose mount is to be the master's: the one with the latest snapshot.
    fn slave_to_promote(&self, fs: &Handle) -> Option<Arc<Open>> {
        let all: Vec<Arc<Open>> = self.open.lock().values().cloned().collect();
        let slaves = all.into_iter().filter(|open| {
            let config = open.config.lock();
            config.role == Role::Slave && config.fs == *fs && open.session.lock().is_some()
        });
        slaves.max_by_key(|open| open.config.lock().snapshot)
    }
}

/// Whether the error says that somebody else is, or will be, master.
fn lost(e: &Error) -> bool {
    e.kind() == ErrorKind::Conflict
}

/// Whether the claim cannot have been made.
fn refused(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::Credentials | ErrorKind::Usage)
}

fn not_the_latest(fs: &Handle, previous: Epoch, current: &EpochClaim) -> Error {
    let text = format!(
        "epoch {previous} of {fs} is not the latest: node {} ({}) is master in epoch {}, since {}",
        current.node, current.host, current.epoch, current.claimed_at
    );
    Error::new(ErrorKind::Conflict, text).hint(format!(
        "to take over from that one: `cbfsctl epoch promote {fs} --previous-epoch {}`",
        current.epoch
    ))
}
