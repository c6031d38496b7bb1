//! The requests of a master, each with its status log. Logs of final requests are closed: a file
//! descriptor per request ever made would run out.

use cbfs_core::api::SnapshotInfo;
use cbfs_core::clock::Clock;
use cbfs_core::error::{Context, Result};
use cbfs_core::handle::Handle;
use cbfs_core::ids::SnapshotNumber;
use cbfs_core::snapshot::{SnapshotState, SnapshotStatus, StatusEvent, StatusLine, StatusLog};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One request.
struct Request {
    path: PathBuf,
    status: SnapshotStatus,
    /// Open while there is something to write.
    log: Option<StatusLog>,
}

/// What is wrong with the logs that cannot be read.
pub(super) type DamagedLogs = BTreeMap<SnapshotNumber, String>;

/// All requests by number.
pub(super) struct Requests {
    dir: PathBuf,
    clock: Arc<dyn Clock>,
    all: BTreeMap<SnapshotNumber, Request>,
    /// Numbers whose log is damaged: never given again.
    damaged: BTreeSet<SnapshotNumber>,
}

impl Requests {
    /// Read all status logs in `dir`. A damaged one is left alone and told, by its number; the others work.
    pub(super) fn read(dir: &Path, clock: Arc<dyn Clock>) -> Result<(Requests, DamagedLogs)> {
        let describe = || format!("{} could not be listed", dir.display());
        let mut requests = Requests {
            dir: dir.to_owned(),
            clock,
            all: BTreeMap::new(),
            damaged: BTreeSet::new(),
        };
        let mut problems = DamagedLogs::new();
        for entry in fs::read_dir(dir).context(describe)? {
            let path = entry.context(describe)?.path();
            let number = path
                .file_name()
                .and_then(|n| n.to_str())
                .and_then(|n| n.strip_suffix(".jsonl"))
                .filter(|n| n.len() == 10)
                .and_then(|n| n.parse().ok());
            let Some(number) = number.map(SnapshotNumber) else {
                continue;
            };
            let read = fs::read(&path)
                .context(|| format!("{} could not be read", path.display()))
                .and_then(|bytes| SnapshotStatus::parse(&bytes));
            match read {
                Ok(status) => {
                    requests.all.insert(
                        number,
                        Request {
                            path,
                            status,
                            log: None,
                        },
                    );
                }
                Err(e) => {
                    let text = format!("the status log {} is damaged: {e}", path.display());
                    problems.insert(number, text);
                    requests.damaged.insert(number);
                }
            }
        }
        Ok((requests, problems))
    }

    /// The highest number ever given, 0 for none.
    pub(super) fn last_number(&self) -> u64 {
        let whole = self.all.last_key_value().map_or(0, |(n, _)| n.0);
        whole.max(self.damaged.last().map_or(0, |n| n.0))
    }

    /// Begin the log of a new request.
    pub(super) fn create(
        &mut self,
        number: SnapshotNumber,
        name: Option<String>,
        kind: cbfs_core::snapshot::SnapshotKind,
        epoch: cbfs_core::ids::Epoch,
    ) -> Result<()> {
        let path = self.dir.join(format!("{:010}.jsonl", number.0));
        let log = StatusLog::create(&path, number, name, kind, epoch, Arc::clone(&self.clock))?;
        let status = log.status().clone();
        self.all.insert(
            number,
            Request {
                path,
                status,
                log: Some(log),
            },
        );
        Ok(())
    }

    /// Record an event; `false` when there is no such request. After an error the log is opened
    /// anew for the next event.
    pub(super) fn append(&mut self, number: SnapshotNumber, event: StatusEvent) -> Result<bool> {
        let Some(request) = self.all.get_mut(&number) else {
            return Ok(false);
        };
        let log = match &mut request.log {
            Some(log) => log,
            None => request
                .log
                .insert(StatusLog::open(&request.path, Arc::clone(&self.clock))?),
        };
        let appended = log.append(event);
        request.status = log.status().clone();
        if appended.is_err() || request.status.state.is_final() {
            request.log = None;
        }
        appended.map(|()| true)
    }

    /// How a request stands.
    pub(super) fn status(&self, number: SnapshotNumber) -> Option<&SnapshotStatus> {
        self.all.get(&number).map(|r| &r.status)
    }

    /// All, oldest first.
    pub(super) fn statuses(&self) -> impl Iterator<Item = &SnapshotStatus> {
        self.all.values().map(|r| &r.status)
    }

    /// The oldest that is not final. [`SnapshotService::retry`](super::SnapshotService::retry) never puts
    /// one before another that is past its cut, so that the order of cuts is the order of numbers.
    pub(super) fn next_open(&self) -> Option<SnapshotNumber> {
        self.statuses()
            .find(|s| !s.state.is_final())
            .map(|s| s.number)
    }

    /// Where a request's log lies.
    pub(super) fn path(&self, number: SnapshotNumber) -> Option<PathBuf> {
        self.all.get(&number).map(|r| r.path.clone())
    }

    /// As the API tells it.
    pub(super) fn info(&self, fs: &Handle, number: SnapshotNumber) -> Option<SnapshotInfo> {
        let status = self.status(number)?;
        let before = if status.state == SnapshotState::Queued {
            let earlier = self.all.range(..number).map(|(_, r)| &r.status);
            earlier.filter(|s| !s.state.is_final()).count()
        } else {
            0
        };
        Some(status.to_info(fs, before as u64))
    }

    /// The attempt ids of a request that were drawn after a cut: what is published under one of them has the
    /// contents of that cut.
    pub(super) fn attempts(&self, number: SnapshotNumber) -> Result<BTreeSet<String>> {
        let Some(path) = self.path(number) else {
            return Ok(BTreeSet::new());
        };
        let bytes = fs::read(&path).context(|| format!("{} could not be read", path.display()))?;
        let lines = bytes.split(|b| *b == b'\n');
        let events = lines.filter_map(|line| serde_json::from_slice::<StatusLine>(line).ok());
        let mut cut = false;
        let mut attempts = BTreeSet::new();
        for line in events {
            match line.event {
                StatusEvent::Cut { .. } => cut = true,
                StatusEvent::Attempt { attempt, .. } if cut => drop(attempts.insert(attempt)),
                _ => {}
            }
        }
        Ok(attempts)
    }
}
