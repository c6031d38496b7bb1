//! Snapshots of a master: the queue of requests and the thread that carries them out, one after the
//! other. A request's status log is the one truth about it; whatever is in memory here is derived.
//!
//! What a crash leaves: every accepted request has its log. A request found between `collected` and
//! `copying` is resumed from its frozen layer, behind what its attempt had finished (`attempt.rs`); where that
//! cannot be, with a new attempt, and the objects of the old one stay in the bucket unreferenced. After a reboot the preserved blocks are not trusted: the attempt fails as
//! transient and the request is cut again. Changes of a snapshot that failed or was cancelled belong to the
//! next.

mod attempt;
mod deletion;
mod failure;
mod notifier;
mod policy;
mod publish;
mod removal;
mod requests;
mod scheduler;
mod waiting;
mod watch;
mod withdrawal;

use crate::failpoints::{self, reach};
use crate::instance::Instance;
use crate::tiering::layer_merge::{LayerMerger, MergerParams};
use cbfs_core::api::{DamagedLog, SnapshotInfo, SnapshotRequest};
use cbfs_core::bucket::Bucket;
use cbfs_core::catalog::{self, Deletion};
use cbfs_core::clock::{Clock, Ids};
use cbfs_core::durable_file;
use cbfs_core::error::{Context, Error, ErrorKind, Result};
use cbfs_core::format::epoch::BaseSnapshot;
use cbfs_core::format::manifest::Manifest;
use cbfs_core::format::settings::FsSettings;
use cbfs_core::handle::{Handle, SnapshotSelector, validate_snapshot_name};
use cbfs_core::ids::{SnapshotNumber, Xid};
use cbfs_core::inode::Timestamp;
use cbfs_core::snapshot::{SnapshotState, StatusEvent};
use notifier::Notifier;
use parking_lot::{Condvar, Mutex};
use requests::{DamagedLogs, Requests};
use scheduler::Scheduler;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use waiting::Waiting;
use watch::Watch;

/// Pause before what failed for a passing reason is tried again; doubles up to [`LONGEST_PAUSE`].
const RETRY_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(120);

/// Called with every change of a request.
pub type OnChange = Arc<dyn Fn(SnapshotInfo) + Send + Sync>;

/// What a snapshot service is opened with.
pub struct ServiceParams {
    /// The master.
    pub instance: Arc<Instance>,
    /// The file system.
    pub fs: Handle,
    /// Its bucket.
    pub bucket: Arc<dyn Bucket>,
    /// This node's id.
    pub node: String,
    /// Nonce of the master's claim.
    pub nonce: String,
    /// Clock.
    pub clock: Arc<dyn Clock>,
    /// Source of attempt ids.
    pub ids: Arc<dyn Ids>,
    /// Told of every change.
    pub on_change: OnChange,
    /// Bytes that a running snapshot may have in the proxy cache.
    pub proxy_limit: u64,
}

/// The snapshots of one master.
pub struct SnapshotService {
    instance: Arc<Instance>,
    fs: Handle,
    bucket: Arc<dyn Bucket>,
    node: String,
    nonce: String,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    on_change: OnChange,
    proxy_limit: u64,
    mount_point: Mutex<Option<PathBuf>>,
    state: Mutex<State>,
    /// One look at a time, so that an older answer does not overwrite a newer one. Taken before `state`, never within.
    deletion_look: Mutex<()>,
    wake: Condvar,
    notifier: Notifier,
    scheduler: Scheduler,
    settings: Mutex<FsSettings>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// As found when the service was opened.
    damaged_logs: DamagedLogs,
    merger: Arc<LayerMerger>,
    waiting: Waiting,
    watch: Watch,
}

struct State {
    requests: Requests,
    last_complete: Option<Manifest>,
    /// The request that the thread carries out.
    current: Option<SnapshotNumber>,
    /// When the next periodic request is due.
    next_periodic: Option<Timestamp>,
    /// Since when the request at hand fails, by the log and by a clock that nobody sets.
    failing: Option<(SnapshotNumber, String, Instant)>,
    /// Snapshots known to be marked deleted: their names are free.
    deleted: BTreeSet<SnapshotNumber>,
    /// How often settings were read anew.
    settings_changed: u64,
    /// The file system is deleted, as far as is known: nothing is published. Set under [`SnapshotService::deletion_look`].
    deletion: Option<Deletion>,
    stop: bool,
}

impl SnapshotService {
    /// Read the status logs, take up preserving where a snapshot was being persisted. To be called
    /// before the mount comes back; [`SnapshotService::start`] follows.
    pub fn open(params: ServiceParams) -> Result<Arc<SnapshotService>> {
        let ServiceParams {
            instance,
            fs,
            bucket,
            node,
            nonce,
            clock,
            ids,
            on_change,
            proxy_limit,
        } = params;
        let (requests, damaged_logs) =
            Requests::read(&instance.dir().join("status"), Arc::clone(&clock))?;
        if !damaged_logs.is_empty() {
            let all: Vec<String> = damaged_logs.values().cloned().collect();
            let all = all.join("; ");
            tracing::error!(instance = instance.id(), "{all}");
            instance.set_problem("status-log", Some(all));
        }
        let last_complete = read_last_complete(&instance.dir().join(LAST_COMPLETE))?;
        let notifier = Notifier::new(&node);
        let settings = scheduler::cached_settings(instance.dir(), FsSettings::unset(fs.clone()))?;
        let problems = Arc::clone(&instance);
        let merger = LayerMerger::open(MergerParams {
            instance_dir: instance.dir().to_owned(),
            fs: fs.clone(),
            bucket: Arc::clone(&bucket),
            ids: Arc::clone(&ids),
            block_size: instance.kvs().block_size(),
            on_problem: Box::new(move |problem| problems.set_problem("layers", problem)),
        })?;
        let service = Arc::new(SnapshotService {
            merger,
            damaged_logs,
            instance,
            fs,
            bucket,
            node,
            nonce,
            clock,
            ids,
            on_change,
            proxy_limit,
            mount_point: Mutex::default(),
            state: Mutex::new(State {
                requests,
                last_complete,
                current: None,
                next_periodic: None,
                failing: None,
                deleted: BTreeSet::new(),
                settings_changed: 0,
                deletion: None,
                stop: false,
            }),
            deletion_look: Mutex::default(),
            wake: Condvar::new(),
            notifier,
            scheduler: Scheduler::default(),
            settings: Mutex::new(settings),
            thread: Mutex::default(),
            waiting: Waiting::default(),
            watch: Watch::default(),
        });
        service.resume_preserving()?;
        service.tell_old_failure();
        service.policy();
        Ok(service)
    }

    /// Start carrying out requests.
    pub fn start(self: &Arc<Self>) -> Result<()> {
        let service = Arc::clone(self);
        let run = move || {
            let run = || service.waiting.service.scope(|| service.run());
            let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
            if ran.is_err() {
                let text = "the snapshot thread panicked; restart cbfsd";
                service.instance.set_problem("snapshots", Some(text.into()));
            }
        };
        let thread = std::thread::Builder::new()
            .name("snapshots".into())
            .spawn(run)
            .map_err(|e| Error::failed("a thread could not be started").because(e))?;
        *self.thread.lock() = Some(thread);
        self.start_watch()?;
        self.start_scheduler()?;
        self.merger.start()
    }

    /// Stop after the step at hand; the request goes on where it stands after the next start.
    pub fn stop(&self) {
        self.state.lock().stop = true;
        self.end_waiting();
        self.wake.notify_all();
        self.watch.stop();
        self.scheduler.stop();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!(fs = %self.fs, "the snapshot thread had panicked");
        }
        self.notifier.stop();
        self.merger.stop();
    }

    /// Where the instance is mounted: synced before every cut.
    pub fn set_mount_point(&self, mount_point: Option<PathBuf>) {
        *self.mount_point.lock() = mount_point;
    }

    /// Accept a request. Once this returns it survives everything but the loss of the disk.
    pub fn request(&self, request: &SnapshotRequest) -> Result<SnapshotInfo> {
        if let Some(name) = &request.name {
            validate_snapshot_name(name)?;
        }
        self.may_be_asked_for(request.name.as_deref())?;
        // Its log must be written on a full disk too.
        let _room = self.instance.lend_room()?;
        let info = {
            let mut state = self.state.lock();
            if let Some(name) = &request.name {
                self.name_is_free(&state, name)?;
            }
            let number = state.next_number();
            let epoch = self.instance.epoch();
            state
                .requests
                .create(number, request.name.clone(), request.kind, epoch)?;
            reach(failpoints::REQUEST_LOGGED);
            state.requests.info(&self.fs, number)
        };
        self.wake.notify_all();
        let info = info.ok_or_else(|| Error::failed("the request vanished"))?;
        (self.on_change)(info.clone());
        Ok(info)
    }

    /// Whether a request with this name may be queued at all; what the bucket tells of the name is noted.
    fn may_be_asked_for(&self, name: Option<&str>) -> Result<()> {
        self.refuse_when_fenced()?;
        self.refuse_when_deleted()?;
        let Some(name) = name else { return Ok(()) };
        self.look_for_deleted(name);
        self.is_not_a_former_masters(name)
    }

    fn refuse_when_fenced(&self) -> Result<()> {
        if self.instance.is_fenced() {
            return Err(
                Error::new(ErrorKind::Conflict, format!("{} is fenced", self.fs))
                    .hint("a later epoch has taken over; see `cbfsctl epoch list`"),
            );
        }
        Ok(())
    }

    /// Ask the bucket whether the complete snapshots with this name were deleted; who deletes one does not
    /// tell the daemon. Where the bucket does not answer they keep the name.
    fn look_for_deleted(&self, name: &str) {
        let candidates: Vec<BaseSnapshot> = {
            let state = self.state.lock();
            let named = state.requests.statuses().filter(|s| {
                s.name.as_deref() == Some(name)
                    && s.state == SnapshotState::Complete
                    && !state.deleted.contains(&s.number)
            });
            named
                .map(|s| BaseSnapshot {
                    number: s.number,
                    epoch: s.epoch,
                })
                .collect()
        };
        for id in candidates {
            match catalog::is_deleted(&*self.bucket, &self.fs, id) {
                Ok(true) => drop(self.state.lock().deleted.insert(id.number)),
                Ok(false) => {}
                Err(e) => tracing::warn!(fs = %self.fs, causes = ?e.causes(), "{e}"),
            }
        }
    }

    /// The same invariant with regard to what was published before this master's epoch, which only the bucket knows.
    /// Where it does not answer the request is taken: then the name means the later one.
    fn is_not_a_former_masters(&self, name: &str) -> Result<()> {
        if self.instance.epoch().0 == 1 {
            return Ok(());
        }
        let selector = SnapshotSelector::Name(name.to_owned());
        let other = match catalog::find_snapshot(&*self.bucket, &self.fs, &selector) {
            Ok(other) if other.epoch < self.instance.epoch() => other,
            Ok(_) => return Ok(()),
            Err(e) => {
                if e.kind() != ErrorKind::NotFound {
                    tracing::warn!(fs = %self.fs, causes = ?e.causes(), "{e}");
                }
                return Ok(());
            }
        };
        let text = format!("snapshot {} of {} is named {name:?}", other.number, self.fs);
        Err(Error::new(ErrorKind::Conflict, text).hint("choose another name"))
    }

    /// Invariant: a name means one snapshot.
    fn name_is_free(&self, state: &State, name: &str) -> Result<()> {
        let taken = state.requests.statuses().find(|s| {
            s.name.as_deref() == Some(name)
                && !matches!(s.state, SnapshotState::Failed | SnapshotState::Cancelled)
                && !state.deleted.contains(&s.number)
        });
        let Some(other) = taken else { return Ok(()) };
        let text = format!("snapshot {} of {} is named {name:?}", other.number, self.fs);
        Err(Error::new(ErrorKind::Conflict, text).hint("choose another name"))
    }

    /// All requests this instance knows, oldest first.
    pub fn list(&self) -> Vec<SnapshotInfo> {
        let state = self.state.lock();
        let numbers: Vec<SnapshotNumber> = state.requests.statuses().map(|s| s.number).collect();
        numbers
            .into_iter()
            .filter_map(|n| state.requests.info(&self.fs, n))
            .collect()
    }

    /// Requests whose status log was damaged when this was opened.
    pub fn damaged_logs(&self) -> Vec<DamagedLog> {
        let told = |(number, problem): (&SnapshotNumber, &String)| DamagedLog {
            number: *number,
            problem: problem.clone(),
        };
        self.damaged_logs.iter().map(told).collect()
    }

    /// One request.
    pub fn get(&self, number: SnapshotNumber) -> Result<SnapshotInfo> {
        let info = self.state.lock().requests.info(&self.fs, number);
        info.ok_or_else(|| self.unknown(number))
    }

    /// The status log of a request as it stands, JSON lines.
    pub fn log(&self, number: SnapshotNumber) -> Result<Vec<u8>> {
        let path = self.state.lock().requests.path(number);
        let path = path.ok_or_else(|| self.unknown(number))?;
        fs::read(&path).context(|| format!("{} could not be read", path.display()))
    }

    /// The manifest of the last complete snapshot.
    pub fn last_complete(&self) -> Option<Manifest> {
        self.state.lock().last_complete.clone()
    }

    fn unknown(&self, number: SnapshotNumber) -> Error {
        if let Some(problem) = self.damaged_logs.get(&number) {
            return Error::damage(format!("{problem}; how its request stands is not known")).hint(
                "what it held is in the next snapshot; move the file away and restart cbfsd to be rid of it",
            );
        }
        let text = format!(
            "this node knows no request for snapshot {number} of {}",
            self.fs
        );
        Error::new(ErrorKind::NotFound, text).hint("see `cbfsctl snapshot list`")
    }

    fn stopping(&self) -> bool {
        self.state.lock().stop
    }

    /// Append to a request's log and tell everybody.
    fn record(&self, number: SnapshotNumber, event: StatusEvent) -> Result<()> {
        let info = {
            let mut state = self.state.lock();
            if !state.requests.append(number, event)? {
                return Err(self.unknown(number));
            }
            state.requests.info(&self.fs, number)
        };
        if let Some(info) = info {
            (self.on_change)(info);
        }
        Ok(())
    }

    fn enter(&self, number: SnapshotNumber, state: SnapshotState) -> Result<()> {
        self.record(number, StatusEvent::State { state })
    }

    /// The thread: the oldest request that is not final, until stopped.
    fn run(self: &Arc<Self>) {
        // A crash right after a snapshot was complete leaves its clean-up undone.
        if let Some(manifest) = self.last_complete() {
            self.clean_up_or_tell(&manifest);
            self.merger.consider(&manifest.layers);
        }
        loop {
            let next = {
                let mut state = self.state.lock();
                loop {
                    if state.stop {
                        return;
                    }
                    state.current = state.requests.next_open();
                    match state.current {
                        Some(number) => break number,
                        None => self.wake.wait(&mut state),
                    }
                }
            };
            let settings = self.settings_count();
            if let Err(e) = self.carry_out(next) {
                // Its log could not be written, for a full disk say.
                tracing::error!(fs = %self.fs, snapshot = %next, causes = ?e.causes(), "{e}");
                self.instance
                    .set_problem("snapshots", Some(format!("snapshot {next}: {e}")));
                self.rest(RETRY_PAUSE, settings);
            }
            let ended = self.status(next).map(|s| s.state);
            let complete = matches!(ended, Ok(SnapshotState::Complete));
            self.scheduler.request_ended(complete);
        }
    }

    /// Wait, unless the service stops, the request at hand is withdrawn, or it is `in_vain` for another reason, whose
    /// coming [`SnapshotService::wake_after`] tells. `settings`: as in [`SnapshotService::wait_unless`].
    fn pause(&self, pause: Duration, settings: u64, in_vain: impl Fn() -> bool) {
        self.wait_unless(pause, settings, |state| {
            state.stop || state.withdrawn() || in_vain()
        });
    }

    /// Wait, unless the service stops.
    fn rest(&self, pause: Duration, settings: u64) {
        self.wait_unless(pause, settings, |state| state.stop);
    }

    /// Wait until it is so, for so long at most; what failed because of the settings does not wait on when they have
    /// changed since [`SnapshotService::settings_count`] was `settings`, before that was begun. Whatever else wakes this
    /// thread (a further request, say) does not shorten the pause: the bucket is not to be asked more often the more is
    /// wanted of it.
    fn wait_unless(&self, pause: Duration, settings: u64, is_so: impl Fn(&State) -> bool) {
        let until = Instant::now() + pause;
        let mut state = self.state.lock();
        while !is_so(&state) && state.settings_changed == settings {
            if self.wake.wait_until(&mut state, until).timed_out() {
                return;
            }
        }
    }

    /// Change what a pause looks at, and end the pause.
    fn wake_after(&self, change: impl FnOnce(&mut State)) {
        // With the lock: who has just looked waits already.
        change(&mut self.state.lock());
        self.wake.notify_all();
    }

    /// How often the settings have changed.
    fn settings_count(&self) -> u64 {
        self.state.lock().settings_changed
    }

    /// Other settings are in force, credentials perhaps: what waits for the bucket tries at once.
    pub fn settings_changed(&self) {
        self.wake_after(|state| state.settings_changed += 1);
    }

    fn resume_preserving(&self) -> Result<()> {
        let state = self.state.lock();
        let mut resumed = None;
        for status in state.requests.statuses() {
            let persisting = !status.state.is_final() && status.state != SnapshotState::Queued;
            if persisting && let Ok(frozen) = self.instance.frozen_of(status.number) {
                self.instance.resume_preserving(&frozen)?;
                resumed = Some(frozen.generation);
            }
        }
        // A crash between the cut and its line in the log: the request is cut again, and what the
        // first cut froze belongs to it. Its copies are useless, like all others.
        self.instance.discard_preserved_but(resumed)
    }
}

impl State {
    /// Whether the request that is carried out was withdrawn.
    fn withdrawn(&self) -> bool {
        let status = self.current.and_then(|n| self.requests.status(n));
        status.is_some_and(|s| s.cancel_requested)
    }

    fn next_number(&self) -> SnapshotNumber {
        let complete = self.last_complete.as_ref().map_or(0, |m| m.number.0);
        SnapshotNumber(self.requests.last_number().max(complete) + 1)
    }
}

/// The manifest of the last complete snapshot.
const LAST_COMPLETE: &str = "last-complete.json";

fn read_last_complete(path: &Path) -> Result<Option<Manifest>> {
    match fs::read(path) {
        Ok(bytes) => cbfs_core::format::parse(&path.display().to_string(), &bytes).map(Some),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).context(|| format!("{} could not be read", path.display())),
    }
}

/// Up to where the instance in `dir` has published; 0 when nothing is.
pub(crate) fn published(dir: &Path) -> Result<Xid> {
    Ok(read_last_complete(&dir.join(LAST_COMPLETE))?.map_or(Xid(0), |m| m.xid.to))
}

fn write_last_complete(instance: &Instance, manifest: &Manifest) -> Result<()> {
    begin_after(instance.dir(), manifest)
}

/// Let the snapshots of the instance in `dir` go on after this one.
pub(crate) fn begin_after(dir: &Path, manifest: &Manifest) -> Result<()> {
    let path = dir.join(LAST_COMPLETE);
    let bytes = cbfs_core::format::to_json(manifest)?;
    durable_file::replace(&path, &bytes)
        .context(|| format!("{} could not be written", path.display()))
}
