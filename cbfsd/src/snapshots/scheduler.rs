//! Periodic snapshots and retention: a thread beside the one that carries requests out. It asks the bucket for
//! newer settings about every minute; what it knows is kept in `settings.json`, so that the schedule goes on
//! while the bucket is away.
//!
//! A request that is due while another periodic one is open counts as made: they coalesce. Only one that is
//! failing is waited for: it gives up when the next is due, and the next follows it.

use super::SnapshotService;
use cbfs_core::api::{ScheduleInfo, SnapshotRequest};
use cbfs_core::bucket::Bucket;
use cbfs_core::catalog;
use cbfs_core::durable_file;
use cbfs_core::error::{Context, Error, ErrorKind, Result};
use cbfs_core::format::mark::SnapshotMark;
use cbfs_core::format::settings::FsSettings;
use cbfs_core::format::{self, keys};
use cbfs_core::inode::Timestamp;
use cbfs_core::retention::{self, Candidate};
use cbfs_core::schedule::{Schedule, Timetable};
use cbfs_core::snapshot::{SnapshotKind, SnapshotState};
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the bucket is asked for newer settings.
const ASK_EVERY: Duration = Duration::from_secs(60);
/// The clock may be set while the thread waits: it is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How soon after a failing request that should have given up is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The settings as the bucket told them last.
const CACHE: &str = "settings.json";

/// The thread and what it is asked to do.
#[derive(Default)]
pub(super) struct Scheduler {
    wanted: Mutex<Wanted>,
    wake: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Wanted {
    stop: bool,
    retention: bool,
    /// Something has changed: do not wait.
    look: bool,
}

/// Up to when the schedule has been dealt with.
#[derive(Default)]
struct Progress {
    timetable: Option<Timetable>,
    schedule: Option<Schedule>,
}

impl Scheduler {
    /// A request has ended; `complete` asks for retention.
    pub(super) fn request_ended(&self, complete: bool) {
        self.wanted.lock().retention |= complete;
        self.look();
    }

    /// Look at everything now.
    fn look(&self) {
        self.wanted.lock().look = true;
        self.wake.notify_all();
    }

    pub(super) fn stop(&self) {
        self.wanted.lock().stop = true;
        self.wake.notify_all();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the scheduler had panicked");
        }
    }
}

impl SnapshotService {
    /// Start the thread.
    pub(super) fn start_scheduler(self: &Arc<Self>) -> Result<()> {
        let service = Arc::clone(self);
        let run = move || {
            let run = || service.waiting.service.scope(|| service.run_scheduler());
            let run = std::panic::AssertUnwindSafe(run);
            if std::panic::catch_unwind(run).is_err() {
                let text = "the scheduler panicked: no periodic snapshots; restart cbfsd";
                service.instance.set_problem("schedule", Some(text.into()));
            }
        };
        let thread = std::thread::Builder::new()
            .name("scheduler".into())
            .spawn(run);
        *self.scheduler.thread.lock() =
            Some(thread.context(|| "a thread could not be started".into())?);
        Ok(())
    }

    /// The schedule of the file system, where it has one.
    pub(super) fn schedule(&self) -> Option<Schedule> {
        self.settings.lock().schedule
    }

    /// When the next periodic snapshot is due, RFC 3339.
    pub fn next_periodic(&self) -> Option<String> {
        self.state.lock().next_periodic.map(Timestamp::to_rfc3339)
    }

    /// Ask the bucket for newer settings now, and take them up; then whether the file system is deleted.
    ///
    /// # Errors
    /// Those of the bucket and of the state directory. Settings that were taken up stay, whatever the deletion says.
    pub fn refresh_settings(&self) -> Result<ScheduleInfo> {
        let settings = self.take_up_settings()?;
        self.look_at_deletion()?;
        Ok(settings)
    }

    fn take_up_settings(&self) -> Result<ScheduleInfo> {
        let known = self.settings.lock().clone();
        let version = known.version;
        let newest = catalog::newer_settings(&*self.bucket, known)?;
        if newest.version > version {
            let _room = self.instance.lend_room()?;
            let path = self.instance.dir().join(CACHE);
            durable_file::replace(&path, &format::to_json(&newest)?)
                .context(|| format!("{} could not be written", path.display()))?;
            tracing::info!(fs = %self.fs, version = newest.version, "new settings");
            let mut settings = self.settings.lock();
            if newest.version > settings.version {
                *settings = newest.clone();
            }
            drop(settings);
            self.scheduler.look();
        }
        Ok(ScheduleInfo {
            fs: self.fs.clone(),
            version: newest.version,
            schedule: newest.schedule.map(|s| s.to_string()),
            retention: newest.retention.to_string(),
        })
    }

    fn run_scheduler(&self) {
        let mut asked: Option<Instant> = None;
        let mut progress = Progress::default();
        loop {
            if asked.is_none_or(|at| at.elapsed() >= ASK_EVERY) {
                asked = Some(Instant::now());
                self.tell("settings", self.take_up_settings().map(drop));
            }
            let wait = match self.make_periodic(&mut progress) {
                Ok(wait) => {
                    self.instance.set_problem("schedule", None);
                    wait.min(LOOK_EVERY)
                }
                Err(e) => {
                    self.tell("schedule", Err(e));
                    LOOK_EVERY
                }
            };
            if std::mem::take(&mut self.scheduler.wanted.lock().retention) {
                self.tell("retention", self.apply_retention());
            }
            let mut wanted = self.scheduler.wanted.lock();
            if !wanted.stop && !wanted.look {
                self.scheduler.wake.wait_for(&mut wanted, wait);
            }
            wanted.look = false;
            if wanted.stop {
                return;
            }
        }
    }

    /// Note an error where people look, or that it is over. That the bucket is away is told by snapshots.
    fn tell(&self, topic: &'static str, result: Result<()>) {
        let problem = match result {
            Err(e) if e.kind() != ErrorKind::BucketUnreachable => {
                tracing::warn!(fs = %self.fs, causes = ?e.causes(), "{topic}: {e}");
                let hint = e.hint_text().map(|h| format!("; {h}")).unwrap_or_default();
                Some(format!("{topic}: {e}{hint}"))
            }
            _ => None,
        };
        self.instance.set_problem(topic, problem);
    }

    /// Make a periodic request if one is due. Answers how long to wait for the next.
    fn make_periodic(&self, progress: &mut Progress) -> Result<Duration> {
        let settings = self.settings.lock().clone();
        let now = self.clock.now();
        if settings.schedule != progress.schedule {
            // A new schedule counts from when it was set, after a restart from the last request.
            let set_at = Timestamp::parse_rfc3339(&settings.created_at).unwrap_or(now);
            let last = progress.timetable.map(|t| t.dealt_with());
            let last = last.or_else(|| self.last_periodic());
            let from = last.map_or(set_at, |last| last.max(set_at));
            progress.timetable = Some(Timetable::from(from));
            progress.schedule = settings.schedule;
        }
        let Some(schedule) = settings
            .schedule
            .filter(|_| !self.instance.is_fenced() && !self.is_deleted())
        else {
            self.state.lock().next_periodic = None;
            return Ok(LOOK_EVERY);
        };
        let timetable = progress
            .timetable
            .get_or_insert_with(|| Timetable::from(now));
        let due = timetable.next_due(&schedule, now);
        if now < due {
            self.state.lock().next_periodic = Some(due);
            return Ok(until(now, due));
        }
        match self.open_periodic() {
            Some(true) => return Ok(LOOK_AGAIN),
            Some(false) => {}
            None => {
                let request = SnapshotRequest {
                    fs: self.fs.to_string(),
                    name: None,
                    kind: SnapshotKind::Periodic,
                };
                self.request(&request)?;
            }
        }
        *timetable = Timetable::from(now);
        let next = schedule.next_due(now);
        self.state.lock().next_periodic = Some(next);
        Ok(until(now, next))
    }

    /// When the last periodic request was made.
    fn last_periodic(&self) -> Option<Timestamp> {
        let state = self.state.lock();
        let periodic = state
            .requests
            .statuses()
            .filter(|s| s.kind == SnapshotKind::Periodic);
        periodic
            .last()
            .and_then(|s| Timestamp::parse_rfc3339(&s.requested_at))
    }

    /// Whether a periodic request is open, and whether it is failing.
    fn open_periodic(&self) -> Option<bool> {
        let state = self.state.lock();
        let mut open = state
            .requests
            .statuses()
            .filter(|s| s.kind == SnapshotKind::Periodic && !s.state.is_final());
        open.next().map(|s| s.failing_since.is_some())
    }

    /// Mark deleted what the rules do not keep.
    fn apply_retention(&self) -> Result<()> {
        let rules = self.settings.lock().retention;
        if rules.is_empty() || self.instance.is_fenced() || self.is_deleted() {
            return Ok(());
        }
        let bucket = &*self.bucket;
        let manifests = catalog::manifests(bucket, &self.fs)?;
        let held: BTreeSet<_> = catalog::holds(bucket, &self.fs)?.into_keys().collect();
        let mut candidates = Vec::with_capacity(manifests.len());
        for m in &manifests {
            let created_at = Timestamp::parse_rfc3339(&m.created_at).ok_or_else(|| {
                let text = format!("snapshot {} has no time: {:?}", m.number, m.created_at);
                Error::damage(text)
            })?;
            candidates.push(Candidate {
                id: m.id(),
                created_at,
                wanted: m.name.is_some() || held.contains(&m.id()),
            });
        }
        let Some(newest) = candidates.last() else {
            return Ok(());
        };
        let store = self.creation_by_both_clocks(bucket, newest)?;
        retention::clocks_agree(self.clock.now(), newest.created_at, store)?;
        for id in rules.forget(&candidates)? {
            let reason = Some(format!("retention: keep {rules}"));
            let at = self.clock.now().to_rfc3339();
            let mark = SnapshotMark::new(self.fs.clone(), id, reason, at);
            match catalog::delete_snapshot(bucket, &mark) {
                Ok(()) => {
                    tracing::info!(fs = %self.fs, snapshot = %id.number, "deleted by retention");
                    self.state.lock().deleted.insert(id.number);
                }
                // Held or deleted meanwhile.
                Err(e) if matches!(e.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => {
                    tracing::info!(fs = %self.fs, snapshot = %id.number, "not deleted: {e}");
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// When the newest manifest was created, by the store's clock and by ours (from its log, where it was made
    /// here).
    fn creation_by_both_clocks(
        &self,
        bucket: &dyn Bucket,
        newest: &Candidate,
    ) -> Result<Option<(Timestamp, Timestamp)>> {
        let here = {
            let state = self.state.lock();
            let status = state.requests.status(newest.id.number);
            let complete = status.and_then(|s| s.state_times.get(&SnapshotState::Complete));
            complete.and_then(|at| Timestamp::parse_rfc3339(at))
        };
        let Some(here) = here else { return Ok(None) };
        let key = keys::absolute(&self.fs, &keys::manifest(newest.id.number, newest.id.epoch))?;
        Ok(bucket.head(&key)?.map(|info| (info.modified, here)))
    }
}

fn until(now: Timestamp, due: Timestamp) -> Duration {
    Duration::from_nanos(u64::try_from(due.0.saturating_sub(now.0)).unwrap_or(0))
}

/// The settings as they were known last; unset ones when there is no cache or it is damaged: the bucket has
/// them.
pub(super) fn cached_settings(dir: &Path, unset: FsSettings) -> Result<FsSettings> {
    let path = dir.join(CACHE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(unset),
        Err(e) => return Err(e).context(|| format!("{} could not be read", path.display())),
    };
    match format::parse::<FsSettings>(&path.display().to_string(), &bytes) {
        Ok(settings) if settings.fs == unset.fs => Ok(settings),
        Ok(_) => Ok(unset),
        Err(e) => {
            tracing::warn!(causes = ?e.causes(), "{e}; the bucket is asked for the settings");
            Ok(unset)
        }
    }
}
