//! Carrying out one request: from the cut to the manifest.
//!
//! A daemon that was killed, or stopped, in the middle of it takes the attempt up where its ledger
//! (`tiering/persister/ledger.rs`) says that it stood: finished tarballs are kept, and what arrived in
//! the bucket is not sent again. Where that cannot be done, and after a failure, a new attempt makes
//! everything under a new id; the status log says why (`anew_because` of the line `attempt`).

use super::policy::Verdict;
use super::publish::{Publication, SentinelObserver};
use super::{LONGEST_PAUSE, RETRY_PAUSE, SnapshotService, write_last_complete};
use crate::failpoints::{self, reach};
use crate::kvs::{Frozen, merge_frozen};
use crate::space::may_be_full;
use crate::tiering::change_log;
use crate::tiering::persister::{
    self, DEFAULT_TARBALL_TARGET, Identity, Job, Ledger, Logged, Part, Persisted,
};
use crate::tiering::uploader::{UploadObserver, Uploader};
use cbfs_core::catalog;
use cbfs_core::durable_file;
use cbfs_core::error::{Context, Error, ErrorKind, Result};
use cbfs_core::format::epoch::BaseSnapshot;
use cbfs_core::format::manifest::{LayerRef, Manifest, Totals, XidRange};
use cbfs_core::format::{Features, ObjectRef, keys};
use cbfs_core::frames::StoredObject;
use cbfs_core::ids::{SnapshotNumber, Xid};
use cbfs_core::inode::Timestamp;
use cbfs_core::snapshot::{FailureType, SnapshotState, SnapshotStatus, StatusEvent, up_to_written};
use cbfs_core::tarball::DEFAULT_LEVEL;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Tarballs do not get smaller than this on a full disk, in bytes.
const SMALLEST_TARBALL_TARGET: u64 = 1 << 20;

/// How an attempt ended.
pub(super) enum Outcome {
    Complete,
    /// Withdrawn, by a person or because this master was superseded.
    Cancelled,
}

impl SnapshotService {
    /// Carry a request out to a final state, or until the service stops. An error is one of the
    /// request's own log.
    pub(super) fn carry_out(self: &Arc<Self>, number: SnapshotNumber) -> Result<()> {
        let mut pause = RETRY_PAUSE;
        loop {
            self.wait_while_deleted(number)?;
            if self.stopping() {
                return Ok(());
            }
            self.begin_round();
            let withdrawn = self.withdrawn(number);
            let fenced = self.instance.is_fenced();
            let settings = self.settings_count();
            let tried = {
                let _room = self.instance.lend_room()?;
                self.attempt(number)
            };
            let error = match tried {
                Ok(Outcome::Complete | Outcome::Cancelled) => {
                    self.instance.set_problem("snapshots", None);
                    return Ok(());
                }
                Err(_) if self.stopping() => return Ok(()),
                // Given up because it was withdrawn meanwhile: the next round settles that.
                Err(_) if self.withdrawn(number) && !withdrawn => continue,
                // It goes on when the deletion of the file system is taken back.
                Err(_) if self.is_deleted() && !withdrawn && !fenced => continue,
                // The same for one that was fenced meanwhile.
                Err(_) if self.instance.is_fenced() && !fenced => continue,
                Err(e) => e,
            };
            // Refused credentials pass too, once somebody renews them: until then `status` says so.
            let transient = !matches!(
                error.kind(),
                ErrorKind::Damage | ErrorKind::Conflict | ErrorKind::FormatTooNew
            );
            let mut reason = error.to_string();
            for cause in error.causes() {
                reason.push_str(": ");
                reason.push_str(&cause);
            }
            tracing::warn!(fs = %self.fs, snapshot = %number, "attempt failed: {reason}");
            let failure = if transient {
                FailureType::Transient
            } else {
                FailureType::Permanent
            };
            self.record(
                number,
                StatusEvent::Failure {
                    failure,
                    reason: reason.clone(),
                },
            )?;
            let longest = match self.judge(number, failure)? {
                Verdict::GiveUp => return self.give_up(number),
                Verdict::Retry(longest) => longest,
            };
            let text = format!("snapshot {number}: {reason}; it is tried again");
            self.instance.set_problem("snapshots", Some(text));
            let pause_now = pause.min(longest);
            let wait_ms = pause_now.as_millis() as u64;
            let what = "the attempt".to_owned();
            self.record(
                number,
                StatusEvent::Retry {
                    what,
                    reason,
                    wait_ms,
                },
            )?;
            if withdrawn {
                self.rest(pause_now, settings); // even its withdrawal has to wait for the bucket
            } else {
                self.pause(pause_now, settings, || self.instance.is_fenced() && !fenced);
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    pub(super) fn status(&self, number: SnapshotNumber) -> Result<SnapshotStatus> {
        let status = self.state.lock().requests.status(number).cloned();
        status.ok_or_else(|| self.unknown(number))
    }

    fn attempt(self: &Arc<Self>, number: SnapshotNumber) -> Result<Outcome> {
        let status = self.status(number)?;
        if status.state.is_final() {
            return Ok(Outcome::Complete);
        }
        if self.instance.is_fenced() {
            return self.end_fenced(&status);
        }
        if status.cancel_requested {
            return self.withdraw(&status);
        }
        if status.state != SnapshotState::Queued {
            if let Some(manifest) = self.published(number)? {
                self.check_epoch(number)?;
                return self.complete(number, &manifest);
            }
            self.prepare_resume(&status)?;
        }
        // Before the cut: a reboot right after it must be noticed.
        let (mut attempt, earlier) = self.begin(number)?;
        reach(failpoints::SNAPSHOT_ATTEMPT_LOGGED);
        let frozen = match self.status(number)?.state {
            SnapshotState::Queued => {
                let frozen = self.collect(number)?;
                // An attempt stands for contents: its id is of after the cut. Else a copy of this state directory
                // that was made before the cut would take what is published under it for its own.
                attempt = self.begin_anew(number, None)?;
                frozen
            }
            _ => self.instance.frozen_of(number)?,
        };
        self.go_on(number)?;
        self.enter(number, SnapshotState::Writing)?;
        let status = self.status(number)?;
        let manifest = self.make_and_send(&status, &frozen, &attempt, earlier)?;
        reach(failpoints::SNAPSHOT_ALL_SENT);
        self.go_on(number)?;
        self.enter(number, SnapshotState::Copying)?;
        let manifest = self.publish(manifest)?;
        reach(failpoints::SNAPSHOT_PUBLISHED);
        self.complete(number, &manifest)
    }

    /// Go on with the attempt found under way, if its ledger can be taken up, else with a new one. Answers its id,
    /// which is in the log then, and the ledger.
    fn begin(&self, number: SnapshotNumber) -> Result<(String, Option<Ledger>)> {
        let status = self.status(number)?;
        let (SnapshotState::Collected, Some(attempt)) = (status.state, &status.attempt) else {
            return Ok((self.begin_anew(number, None)?, None));
        };
        let mut because = None;
        let frozen = self.instance.frozen_of(number)?;
        let identity = self.identity(number, &frozen, attempt);
        let dir = self.proxy_dir().join(identity.prefix());
        if Ledger::is_in(&dir) {
            let logged = Logged {
                made: &status.made,
                sent: &status.sent,
            };
            match Ledger::take_up(&dir, &identity, logged) {
                Ok(ledger) => {
                    let kept = ledger.objects().len() as u64;
                    self.record_attempt(number, attempt, Some(kept), None)?;
                    return Ok((attempt.clone(), Some(ledger)));
                }
                Err(e) => because = Some(format!("attempt {attempt}: {e}")),
            }
        }
        durable_file::remove_dir_all(&dir)?;
        Ok((self.begin_anew(number, because)?, None))
    }

    /// Draw the id of an attempt, and log it.
    fn begin_anew(&self, number: SnapshotNumber, because: Option<String>) -> Result<String> {
        let attempt = self.ids.attempt();
        self.record_attempt(number, &attempt, None, because)?;
        Ok(attempt)
    }

    fn record_attempt(
        &self,
        number: SnapshotNumber,
        attempt: &str,
        kept: Option<u64>,
        anew_because: Option<String>,
    ) -> Result<()> {
        let event = StatusEvent::Attempt {
            attempt: attempt.to_owned(),
            boot_id: boot_id()?,
            kept,
            anew_because,
        };
        self.record(number, event)
    }

    /// What an attempt at a cut is of.
    fn identity(&self, number: SnapshotNumber, frozen: &Frozen, attempt: &str) -> Identity {
        let parent = self.last_complete();
        let before = parent
            .as_ref()
            .map_or(Xid::floor_of(self.instance.epoch()), |m| m.xid.to);
        Identity {
            fs: self.fs.clone(),
            number,
            epoch: self.instance.epoch(),
            attempt: attempt.to_owned(),
            xid: XidRange {
                from: before.next(),
                to: frozen.cut,
            },
            parent: parent.map(|m| BaseSnapshot {
                number: m.number,
                epoch: m.epoch,
            }),
            block_size: self.instance.kvs().block_size(),
        }
    }

    fn proxy_dir(&self) -> PathBuf {
        self.instance.dir().join("proxy")
    }

    /// Between two steps.
    ///
    /// # Errors
    /// When the service stops or the request was withdrawn: the attempt ends here.
    fn go_on(&self, number: SnapshotNumber) -> Result<()> {
        if self.must_end(number) {
            return Err(Error::failed("the attempt was stopped"));
        }
        Ok(())
    }

    /// Whether the attempt at hand is of no use any more.
    pub(super) fn must_end(&self, number: SnapshotNumber) -> bool {
        self.stopping() || self.withdrawn(number) || self.instance.is_fenced() || self.is_deleted()
    }

    /// This master publishes nothing any more: the request is cancelled, unless its manifest was created before and the
    /// next epoch builds on it.
    fn end_fenced(&self, status: &SnapshotStatus) -> Result<Outcome> {
        let number = status.number;
        if status.state == SnapshotState::Copying
            && let Ok(Some(manifest)) = self.published(number)
            && catalog::lineage(&*self.bucket, &self.fs)
                .is_ok_and(|lineage| lineage.contains(manifest.id()))
        {
            return self.complete(number, &manifest);
        }
        self.let_go()?;
        self.enter(number, SnapshotState::Cancelled)?;
        self.forget_uploads();
        Ok(Outcome::Cancelled)
    }

    /// A request found in the middle: back to `collected`, or to the queue when what was preserved
    /// cannot be trusted.
    fn prepare_resume(&self, status: &SnapshotStatus) -> Result<()> {
        let number = status.number;
        let same_boot = match &status.boot_id {
            Some(then) => *then == boot_id()?,
            None => true,
        };
        let cut_is_here = self.instance.frozen_of(number).is_ok();
        if same_boot && cut_is_here {
            if status.state != SnapshotState::Collected {
                self.enter(number, SnapshotState::Collected)?;
            }
            return Ok(());
        }
        let reason = if same_boot {
            "the cut is not on this disk any more; cut again".to_owned()
        } else {
            "the machine went down meanwhile; cut again".to_owned()
        };
        let failure = FailureType::Transient;
        self.record(number, StatusEvent::Failure { failure, reason })?;
        self.instance.stop_preserving()?;
        if let Some(attempt) = &status.attempt {
            let prefix = keys::attempt_prefix(number, self.instance.epoch(), attempt);
            durable_file::remove_dir_all(&self.proxy_dir().join(prefix))?;
        }
        self.enter(number, SnapshotState::Queued)
    }

    fn collect(self: &Arc<Self>, number: SnapshotNumber) -> Result<Frozen> {
        self.sync_mount()?;
        let (frozen, held) = self.instance.cut(number)?;
        reach(failpoints::SNAPSHOT_CUT);
        self.record(
            number,
            StatusEvent::Cut {
                xid: frozen.cut,
                held_us: Some(u64::try_from(held.as_micros()).unwrap_or(u64::MAX)),
            },
        )?;
        reach(failpoints::SNAPSHOT_CUT_LOGGED);
        self.enter(number, SnapshotState::Collected)?;
        reach(failpoints::SNAPSHOT_COLLECTED);
        Ok(frozen)
    }

    /// What programs wrote before the request is in the snapshot: also what still sits in shared
    /// mappings.
    fn sync_mount(&self) -> Result<()> {
        let Some(mount_point) = self.mount_point.lock().clone() else {
            return Ok(());
        };
        let describe = || format!("{} could not be synced", mount_point.display());
        let dir = fs::File::open(&mount_point).context(describe)?;
        rustix::fs::syncfs(&dir).context(describe)
    }

    /// Persist and upload; answers the manifest, not yet published. `earlier` is the ledger of an
    /// attempt that is taken up. After an error the attempt's folder is removed, as the next attempt
    /// begins anew; only where the service stops it is left to be taken up.
    fn make_and_send(
        self: &Arc<Self>,
        status: &SnapshotStatus,
        frozen: &Frozen,
        attempt: &str,
        earlier: Option<Ledger>,
    ) -> Result<Manifest> {
        let parent = self.last_complete();
        let Identity {
            xid, parent: base, ..
        } = self.identity(status.number, frozen, attempt);
        let created_at = match &earlier {
            Some(ledger) => ledger.created_at(),
            None => self.created_at(parent.as_ref()),
        };
        let mut manifest = Manifest {
            format: Manifest::FORMAT,
            features: Features::default(),
            fs: self.fs.clone(),
            number: status.number,
            epoch: self.instance.epoch(),
            attempt: attempt.to_owned(),
            name: status.name.clone(),
            kind: status.kind,
            xid,
            parent: base,
            created_at,
            node: self.node.clone(),
            layers: parent.map_or_else(Vec::new, |m| self.merger.replace_merged(m.layers)),
            toc: None,
            meta_tarball: None,
            log: None,
            status_log: None,
            status: None,
            totals: Totals::default(),
            writer: cbfs_core::format::manifest::writer(),
        };
        let merged = self.merged(frozen)?;
        let source = merged.as_deref().unwrap_or(frozen.file.path());
        let committed = frozen.file.committed()?.ok_or_else(|| {
            Error::damage(format!("{} has no commit", frozen.file.path().display()))
        })?;
        if crate::kvs::has_changes(source)? {
            let publication = Arc::new(Publication::new(Arc::clone(self), status.number));
            let taken_up = earlier.is_some();
            let made = self.make_objects(&mut manifest, status, source, &publication, earlier);
            if let Err(e) = made {
                let mut cause = publication.abort(e);
                if self.stopping() {
                    return Err(cause);
                }
                self.empty_proxy()?;
                if taken_up && cause.kind() == ErrorKind::Damage {
                    // What does not fit together may do so in a new attempt.
                    let text = "an attempt that was taken up could not be continued";
                    cause = Error::failed(text).because(cause);
                }
                return Err(cause);
            }
        } else {
            self.enter(status.number, SnapshotState::Written)?;
            manifest.status_log = self.short_log(status.number)?;
        }
        manifest.totals.inodes = committed.inodes;
        manifest.totals.logical_bytes = committed.bytes;
        if let Some(merged) = merged {
            fs::remove_file(&merged).context(|| format!("{} stays", merged.display()))?;
        }
        Ok(manifest)
    }

    /// Make all objects and wait until they have arrived.
    fn make_objects(
        self: &Arc<Self>,
        manifest: &mut Manifest,
        status: &SnapshotStatus,
        source: &Path,
        publication: &Arc<Publication>,
        earlier: Option<Ledger>,
    ) -> Result<()> {
        let proxy = self.proxy_dir();
        // The other half: the tarball that is being made, and the one on its way to the disk.
        let (limit, target) = (self.proxy_limit / 2, self.proxy_limit / 4);
        let observer: Arc<dyn UploadObserver> = Arc::new(SentinelObserver(Arc::clone(publication)));
        publication.attach(Uploader::start(&self.bucket, &self.fs, &observer, limit)?);
        let mut earlier_log = None;
        if let Some(ledger) = &earlier {
            for object in ledger.objects() {
                publication.object_kept(&object, &proxy.join(&object.key), status)?;
            }
            earlier_log = ledger.object(Part::Log);
        }
        let at_cut = self.instance.at_cut()?;
        let job = Job {
            fs: &self.fs,
            number: status.number,
            epoch: manifest.epoch,
            attempt: manifest.attempt.clone(),
            name: status.name.clone(),
            kind: status.kind,
            xid: manifest.xid,
            parent: manifest.parent,
            created_at: manifest.created_at.clone(),
            block_size: self.instance.kvs().block_size(),
            frozen: source,
            instance: &at_cut,
            out: &proxy,
            level: DEFAULT_LEVEL,
            tarball_target: self.tarball_target().min(target),
        };
        let log_key = format!("{}{}", job_prefix(manifest), keys::LOG);
        let log_path = proxy.join(format!("log-{}", manifest.attempt));
        let journal = self.instance.journal_dir();
        let log_is_made = earlier_log.is_some();
        // The change log is made beside the tarballs: it needs the journal alone.
        let (persisted, log) = std::thread::scope(|scope| {
            let log = || match earlier_log {
                Some(made) => Ok(made),
                None => change_log::write(&journal, job.xid, &log_path, log_key, DEFAULT_LEVEL),
            };
            let log = std::thread::Builder::new()
                .name("change-log".into())
                .spawn_scoped(scope, log);
            let persisted = persister::persist(&job, earlier, &**publication);
            let log = log
                .context(|| "a thread could not be started".into())
                .and_then(|log| {
                    log.join()
                        .unwrap_or_else(|_| Err(Error::failed("the change log thread panicked")))
                });
            Ok::<_, Error>((persisted?, log?))
        })?;
        let (persisted, ledger) = persisted;
        if !log_is_made {
            let home = proxy.join(&log.key);
            fs::rename(&log_path, &home).context(|| format!("{} is lost", log_path.display()))?;
            ledger.note(Part::Log, &log)?;
            persister::Observer::object_made(&**publication, &log, &home)?;
        }
        self.finish_objects(manifest, &persisted, &ledger, log, publication)
    }

    /// After the persister: the status log so far, then wait for the uploads.
    fn finish_objects(
        &self,
        manifest: &mut Manifest,
        persisted: &Persisted,
        ledger: &Ledger,
        log: ObjectRef,
        publication: &Publication,
    ) -> Result<()> {
        let number = manifest.number;
        publication.persisted();
        self.enter(number, SnapshotState::Written)?;
        reach(failpoints::SNAPSHOT_WRITTEN);
        manifest.status = ledger.object(Part::Status);
        if manifest.status.is_none() {
            manifest.status_log = self.short_log(number)?;
        }
        if manifest.status.is_none() && manifest.status_log.is_none() {
            manifest.status = Some(self.copy_status_log(manifest, ledger, publication)?);
        }
        publication.finish()?;

        manifest.totals = persisted.totals;
        let copy = manifest.status.as_ref().map_or(0, |copy| copy.size);
        manifest.totals.stored_bytes += log.size + copy;
        manifest.toc = persisted.toc.clone();
        manifest.meta_tarball = Some(persisted.meta_tarball.clone());
        manifest.log = Some(log);
        let layer = LayerRef {
            object: persisted.layer.clone(),
            from: number,
            to: number,
        };
        manifest.layers.insert(0, layer);
        Ok(())
    }

    /// The status log up to `written`, where it is short enough to stand in the manifest.
    fn short_log(&self, number: SnapshotNumber) -> Result<Option<String>> {
        let log = self.log(number)?;
        let log = up_to_written(&log);
        if log.len() > Manifest::LONGEST_STATUS_LOG {
            return Ok(None);
        }
        let text = std::str::from_utf8(log).context(|| "a status log is no text".into())?;
        Ok(Some(text.to_owned()))
    }

    /// The status log as it stands becomes an object.
    fn copy_status_log(
        &self,
        manifest: &Manifest,
        ledger: &Ledger,
        publication: &Publication,
    ) -> Result<ObjectRef> {
        let key = format!("{}{}", job_prefix(manifest), keys::STATUS);
        let path = self.proxy_dir().join(&key);
        let describe = || format!("{} could not be written", path.display());
        let log = self.log(manifest.number)?;
        let bytes = up_to_written(&log);
        fs::write(&path, bytes).context(describe)?;
        let copy = StoredObject::of(bytes).context(describe)?.at(key);
        ledger.note(Part::Status, &copy)?;
        persister::Observer::object_made(publication, &copy, &path)?;
        Ok(copy)
    }

    /// Several tarballs must fit into what the disk leaves.
    fn tarball_target(&self) -> u64 {
        let free = self.instance.free_bytes();
        (free / 8).clamp(SMALLEST_TARBALL_TARGET, DEFAULT_TARBALL_TARGET)
    }

    /// Frozen files of failed snapshots before this one: their changes belong to it.
    fn merged(&self, frozen: &Frozen) -> Result<Option<PathBuf>> {
        let complete = self.last_complete().map_or(Xid(0), |m| m.xid.to);
        let files = self.instance.kvs().files();
        let open = |f: &&Frozen| f.cut > complete && f.generation <= frozen.generation;
        let mut parts: Vec<Frozen> = files.frozen.iter().filter(open).cloned().collect();
        if parts.len() < 2 {
            return Ok(None);
        }
        parts.sort_by_key(|f| f.generation);
        let path = self
            .instance
            .dir()
            .join("kvs")
            .join(format!("merged-{:06}.sqlite", frozen.generation));
        merge_frozen(&parts, &path)?;
        Ok(Some(path))
    }

    /// Later than the parent, whatever the clock says.
    fn created_at(&self, parent: Option<&Manifest>) -> String {
        let after = parent.and_then(|m| Timestamp::parse_rfc3339(&m.created_at));
        let earliest = after.map_or(Timestamp(i64::MIN), |t| Timestamp(t.0.saturating_add(1)));
        self.clock.now().max(earliest).to_rfc3339()
    }

    /// The manifest exists: note it, and let go of what only this snapshot needed.
    pub(super) fn complete(&self, number: SnapshotNumber, manifest: &Manifest) -> Result<Outcome> {
        write_last_complete(&self.instance, manifest)?;
        reach(failpoints::SNAPSHOT_NOTED);
        self.state.lock().last_complete = Some(manifest.clone());
        if self.status(number)?.state != SnapshotState::Copying {
            // Found published after a crash.
            for state in [
                SnapshotState::Collected,
                SnapshotState::Writing,
                SnapshotState::Written,
                SnapshotState::Copying,
            ] {
                if self.status(number)?.state.may_become(state) {
                    self.enter(number, state)?;
                }
            }
        }
        // Who sees it complete must not find it failing.
        self.instance.set_problem("snapshots", None);
        self.enter(number, SnapshotState::Complete)?;
        reach(failpoints::SNAPSHOT_COMPLETE);
        self.instance.stop_preserving()?;
        self.clean_up_or_tell(manifest);
        self.merger.consider(&manifest.layers);
        Ok(Outcome::Complete)
    }

    /// What an attempt left in the proxy cache: all of it is in the bucket, or useless.
    pub(super) fn empty_proxy(&self) -> Result<()> {
        let proxy = self.proxy_dir();
        let emptied = fs::remove_dir_all(&proxy).and_then(|()| fs::create_dir(&proxy));
        emptied.context(|| format!("{} could not be emptied", proxy.display()))
    }

    /// The snapshot is complete whatever becomes of the clean-up: it is run again after the next one, and
    /// at the next start.
    pub(super) fn clean_up_or_tell(&self, manifest: &Manifest) {
        let problem = self.clean_up(manifest).err().map(|e| {
            tracing::error!(fs = %self.fs, causes = ?e.causes(), "{e}");
            format!("after snapshot {}: {e}", manifest.number)
        });
        self.instance.set_problem("clean-up", problem);
    }

    fn clean_up(&self, manifest: &Manifest) -> Result<()> {
        let running = self
            .state
            .lock()
            .requests
            .next_open()
            .is_some_and(|next| self.instance.frozen_of(next).is_ok());
        if !running {
            self.empty_proxy()?;
            self.forget_uploads();
        }
        // First: the frozen file has it all, and folding that takes room.
        reach(failpoints::TRIM_BEFORE);
        let keep = self.policy().keep_of_change_log();
        self.instance.keep_history(manifest.xid.to, &keep)?;
        let mut done: Vec<Frozen> = self
            .instance
            .kvs()
            .files()
            .frozen
            .iter()
            .filter(|f| f.cut <= manifest.xid.to)
            .cloned()
            .collect();
        done.sort_by_key(|f| f.generation);
        for frozen in &done {
            match self.instance.kvs().fold(frozen) {
                Err(e) if may_be_full(&e) => {
                    self.instance.give_history_up()?;
                    self.instance.kvs().fold(frozen)?;
                }
                folded => folded?,
            }
        }
        Ok(())
    }
}

fn job_prefix(manifest: &Manifest) -> String {
    keys::attempt_prefix(manifest.number, manifest.epoch, &manifest.attempt)
}

/// Changes with every boot of the machine (`/proc/sys/kernel/random/boot_id`, random(4)).
fn boot_id() -> Result<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .context(|| "the boot id could not be read".into())?;
    Ok(text.trim().to_owned())
}
