//! Snapshots of a master: the queue of requests and the thread that carries them out, one after the
//! other. A request's status log is the one truth about it; whatever is in memory here is derived.
//!
//! What a crash leaves: every accepted request has its log. A request found between `collected` and
//! `copying` is resumed from its frozen layer with a new attempt; the objects of the old attempt stay in
//! the bucket unreferenced. After a reboot the preserved blocks are not trusted: the attempt fails as
//! transient and the request is cut again. Changes of a snapshot that failed belong to the next.

mod attempt;
mod publish;

use crate::instance::Instance;
use cbfs_core::api::{SnapshotInfo, SnapshotRequest};
use cbfs_core::bucket::Bucket;
use cbfs_core::clock::{Clock, Ids};
use cbfs_core::durable_file;
use cbfs_core::error::{Context, Error, ErrorKind, Result};
use cbfs_core::format::manifest::Manifest;
use cbfs_core::handle::{Handle, validate_snapshot_name};
use cbfs_core::ids::{Epoch, SnapshotNumber};
use cbfs_core::snapshot::{SnapshotState, StatusEvent, StatusLog};
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

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
    /// Clock.
    pub clock: Arc<dyn Clock>,
    /// Source of attempt ids.
    pub ids: Arc<dyn Ids>,
    /// Told of every change.
    pub on_change: OnChange,
}

/// The snapshots of one master.
pub struct SnapshotService {
    instance: Arc<Instance>,
    fs: Handle,
    bucket: Arc<dyn Bucket>,
    node: String,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    on_change: OnChange,
    mount_point: Mutex<Option<PathBuf>>,
    state: Mutex<State>,
    wake: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct State {
    requests: BTreeMap<SnapshotNumber, StatusLog>,
    last_complete: Option<Manifest>,
    stop: bool,
}

impl SnapshotService {
    /// Read the status logs, take up preserving where a snapshot was being persisted. To be called
    /// before the mount comes back; [`SnapshotService::start`] follows.
    pub fn open(params: ServiceParams) -> Result<Arc<SnapshotService>> {
        let ServiceParams { instance, fs, bucket, node, clock, ids, on_change } = params;
        let requests = read_logs(&instance.dir().join("status"), &clock)?;
        let last_complete = read_last_complete(&last_complete_path(&instance))?;
        let service = Arc::new(SnapshotService {
            instance,
            fs,
            bucket,
            node,
            clock,
            ids,
            on_change,
            mount_point: Mutex::default(),
            state: Mutex::new(State { requests, last_complete, stop: false }),
            wake: Condvar::new(),
            thread: Mutex::default(),
        });
        service.resume_preserving()?;
        Ok(service)
    }

    /// Start carrying out requests.
    pub fn start(self: &Arc<Self>) -> Result<()> {
        let service = Arc::clone(self);
        let run = move || {
            let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| service.run()));
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
        Ok(())
    }

    /// Stop after the step at hand; the request goes on where it stands after the next start.
    pub fn stop(&self) {
        self.state.lock().stop = true;
        self.wake.notify_all();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!(fs = %self.fs, "the snapshot thread had panicked");
        }
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
        if self.instance.is_fenced() {
            return Err(Error::new(ErrorKind::Conflict, format!("{} is fenced", self.fs))
                .hint("a later epoch has taken over; see `cbfsctl epoch list`"));
        }
        let info = {
            let mut state = self.state.lock();
            if let Some(name) = &request.name {
                let taken = state.requests.values().map(StatusLog::status).find(|s| {
                    s.name.as_ref() == Some(name)
                        && !matches!(s.state, SnapshotState::Failed | SnapshotState::Cancelled)
                });
                if let Some(other) = taken {
                    let text = format!("snapshot {} of {} is named {name:?}", other.number, self.fs);
                    return Err(Error::new(ErrorKind::Conflict, text).hint("choose another name"));
                }
            }
            let number = state.next_number();
            let path = log_path(&self.instance.dir().join("status"), number);
            let log = StatusLog::create(
                &path,
                number,
                request.name.clone(),
                request.kind,
                self.instance.epoch(),
                Arc::clone(&self.clock),
            )?;
            state.requests.insert(number, log);
            state.info(&self.fs, number)
        };
        self.wake.notify_all();
        let info = info.ok_or_else(|| Error::failed("the request vanished"))?;
        (self.on_change)(info.clone());
        Ok(info)
    }

    /// All requests this instance knows, oldest first.
    pub fn list(&self) -> Vec<SnapshotInfo> {
        let state = self.state.lock();
        state.requests.keys().filter_map(|n| state.info(&self.fs, *n)).collect()
    }

    /// One request.
    pub fn get(&self, number: SnapshotNumber) -> Result<SnapshotInfo> {
        self.state.lock().info(&self.fs, number).ok_or_else(|| self.unknown(number))
    }

    /// The status log of a request as it stands, JSON lines.
    pub fn log(&self, number: SnapshotNumber) -> Result<Vec<u8>> {
        let path = match self.state.lock().requests.get(&number) {
            Some(log) => log.path().to_owned(),
            None => return Err(self.unknown(number)),
        };
        fs::read(&path).context(|| format!("{} could not be read", path.display()))
    }

    /// The manifest of the last complete snapshot.
    pub fn last_complete(&self) -> Option<Manifest> {
        self.state.lock().last_complete.clone()
    }

    fn unknown(&self, number: SnapshotNumber) -> Error {
        let text = format!("this node knows no request for snapshot {number} of {}", self.fs);
        Error::new(ErrorKind::NotFound, text).hint("see `cbfsctl snapshot list`")
    }

    fn stopping(&self) -> bool {
        self.state.lock().stop
    }

    /// Append to a request's log and tell everybody.
    fn record(&self, number: SnapshotNumber, event: StatusEvent) -> Result<()> {
        let info = {
            let mut state = self.state.lock();
            let Some(log) = state.requests.get_mut(&number) else {
                return Err(self.unknown(number));
            };
            log.append(event)?;
            state.info(&self.fs, number)
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
        loop {
            let next = {
                let mut state = self.state.lock();
                loop {
                    if state.stop {
                        return;
                    }
                    match state.next_open() {
                        Some(number) => break number,
                        None => self.wake.wait(&mut state),
                    }
                }
            };
            if let Err(e) = self.carry_out(next) {
                tracing::error!(fs = %self.fs, snapshot = %next, causes = ?e.causes(), "{e}");
                self.instance.set_problem("snapshots", Some(format!("snapshot {next}: {e}")));
                // Its log could not be written: nothing more can be done for it now.
                return;
            }
        }
    }

    fn resume_preserving(&self) -> Result<()> {
        let state = self.state.lock();
        for log in state.requests.values() {
            let status = log.status();
            let persisting = !status.state.is_final() && status.state != SnapshotState::Queued;
            if persisting && let Ok(frozen) = self.instance.frozen_of(status.number) {
                self.instance.resume_preserving(&frozen)?;
            }
        }
        // A crash between the cut and its line in the log: the request is cut again, and what the
        // first cut froze belongs to it.
        Ok(())
    }
}

impl State {
    fn next_number(&self) -> SnapshotNumber {
        let requested = self.requests.last_key_value().map_or(0, |(n, _)| n.0);
        let complete = self.last_complete.as_ref().map_or(0, |m| m.number.0);
        SnapshotNumber(requested.max(complete) + 1)
    }

    fn next_open(&self) -> Option<SnapshotNumber> {
        let open = |log: &&StatusLog| !log.status().state.is_final();
        self.requests.values().find(open).map(|log| log.status().number)
    }

    fn info(&self, fs: &Handle, number: SnapshotNumber) -> Option<SnapshotInfo> {
        let status = self.requests.get(&number)?.status();
        let before = if status.state == SnapshotState::Queued {
            let open = |log: &&StatusLog| !log.status().state.is_final();
            self.requests.range(..number).map(|(_, log)| log).filter(open).count()
        } else {
            0
        };
        Some(status.to_info(fs, before as u64))
    }
}

fn log_path(dir: &Path, number: SnapshotNumber) -> PathBuf {
    dir.join(format!("{:010}.jsonl", number.0))
}

fn read_logs(dir: &Path, clock: &Arc<dyn Clock>) -> Result<BTreeMap<SnapshotNumber, StatusLog>> {
    let describe = || format!("{} could not be listed", dir.display());
    let mut logs = BTreeMap::new();
    for entry in fs::read_dir(dir).context(describe)? {
        let path = entry.context(describe)?.path();
        let number = path
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(|n| n.strip_suffix(".jsonl"))
            .filter(|n| n.len() == 10)
            .and_then(|n| n.parse().ok());
        if let Some(number) = number {
            logs.insert(SnapshotNumber(number), StatusLog::open(&path, Arc::clone(clock))?);
        }
    }
    Ok(logs)
}

fn last_complete_path(instance: &Instance) -> PathBuf {
    instance.dir().join("last-complete.json")
}

fn read_last_complete(path: &Path) -> Result<Option<Manifest>> {
    match fs::read(path) {
        Ok(bytes) => cbfs_core::format::parse(&path.display().to_string(), &bytes).map(Some),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).context(|| format!("{} could not be read", path.display())),
    }
}

fn write_last_complete(instance: &Instance, manifest: &Manifest) -> Result<()> {
    let path = last_complete_path(instance);
    let bytes = cbfs_core::format::to_json(manifest)?;
    durable_file::replace(&path, &bytes)
        .context(|| format!("{} could not be written", path.display()))
}

/// The epoch a manifest's parent line names.
fn epoch_of(manifest: &Manifest) -> Epoch {
    manifest.epoch
}
