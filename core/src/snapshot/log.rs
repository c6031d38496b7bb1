//! The writer of status logs.

use super::status::complete_len;
use super::{SnapshotKind, SnapshotState, SnapshotStatus, StatusEvent, StatusLine};
use crate::clock::Clock;
use crate::durable_file::sync_dir;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::ids::{Epoch, SnapshotNumber};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The status log of one request, open for appending. One writer at a time: the lock of the
/// instance's state directory sees to that.
///
/// An event is one line, written in one call: when [`StatusLog::append`] answers `Ok` it survives the
/// death of the daemon. What is built upon after power loss survives that too: the request, attempts,
/// failures, cancellation, and every state but `writing` and `written`. The other lines (counters,
/// objects, the cut's xid, those two states) become durable with the next such line: nobody relies on
/// them after a reboot, as an attempt is then cut again, and an fsync for each was most of the time
/// that a small snapshot took. A failed write leaves no part of a line behind. When that cannot be granted, or an fsync fails, the log is poisoned:
/// what is on the disk is unknown, so every later append is refused until the log is opened anew.
pub struct StatusLog {
    path: PathBuf,
    file: File,
    /// Bytes of the file that are whole lines.
    len: u64,
    status: SnapshotStatus,
    clock: Arc<dyn Clock>,
    /// Why nothing can be appended any more.
    poisoned: Option<String>,
}

impl fmt::Debug for StatusLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusLog")
            .field("path", &self.path)
            .field("status", &self.status)
            .field("poisoned", &self.poisoned)
            .finish_non_exhaustive()
    }
}

impl StatusLog {
    /// Accept a request: create its log, durably, with the request and the state `queued`. After a
    /// crash the log is there with both lines or not at all (a stray `.tmp…` file may stay).
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when there is a log at `path`; [`ErrorKind::Failed`].
    pub fn create(
        path: &Path,
        number: SnapshotNumber,
        name: Option<String>,
        kind: SnapshotKind,
        epoch: Epoch,
        clock: Arc<dyn Clock>,
    ) -> Result<StatusLog> {
        let at = clock.now().to_rfc3339();
        let requested = StatusEvent::Requested {
            number,
            name,
            kind,
            epoch,
        };
        let requested = StatusLine {
            at: at.clone(),
            event: requested,
        };
        let queued = StatusLine {
            at,
            event: StatusEvent::State {
                state: SnapshotState::Queued,
            },
        };
        let mut status = SnapshotStatus::begin(&requested)?;
        status.apply(&queued)?;
        let mut bytes = to_line(&requested)?;
        bytes.extend(to_line(&queued)?);

        let failed = || format!("the status log {} could not be created", path.display());
        create_durably(path, &bytes).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => {
                let text = format!(
                    "snapshot {number} has a status log already: {}",
                    path.display()
                );
                Error::new(ErrorKind::Conflict, text)
            }
            _ => Error::failed(failed()).because(e),
        })?;
        let file = open_for_append(path).context(failed)?;
        let len = bytes.len() as u64;
        Ok(StatusLog {
            path: path.to_owned(),
            file,
            len,
            status,
            clock,
            poisoned: None,
        })
    }

    /// Open the log at `path` after a restart: a torn last line is cut off.
    ///
    /// # Errors
    /// [`ErrorKind::Damage`] naming file and line when another line is damaged,
    /// [`ErrorKind::FormatTooNew`] when a newer CBFS wrote what this one cannot judge, both with the
    /// file untouched; [`ErrorKind::NotFound`] without a file.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<StatusLog> {
        let failed = || format!("the status log {} could not be opened", path.display());
        let file = open_for_append(path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::new(
                ErrorKind::NotFound,
                format!("there is no status log {}", path.display()),
            ),
            _ => Error::failed(failed()).because(e),
        })?;
        let bytes = std::fs::read(path).context(failed)?;
        let status = SnapshotStatus::parse(&bytes).map_err(|e| {
            let text = format!("status log {}: {e}", path.display());
            e.context(text)
        })?;
        let len = complete_len(&bytes) as u64;
        if len < bytes.len() as u64 {
            let torn = bytes.len() as u64 - len;
            tracing::warn!(log = %path.display(), "cut off a torn last line of {torn} bytes");
            file.set_len(len)
                .and_then(|()| file.sync_all())
                .context(failed)?;
        }
        Ok(StatusLog {
            path: path.to_owned(),
            file,
            len,
            status,
            clock,
            poisoned: None,
        })
    }

    /// Record that `event` happened, now.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when it may not happen in this state
    /// ([`SnapshotStatus::check`]); nothing is written then. [`ErrorKind::Failed`] when it could not
    /// be written or made durable; it does not count then, and the log may be poisoned.
    pub fn append(&mut self, event: StatusEvent) -> Result<()> {
        let failed = format!(
            "the status log {} could not be written",
            self.path.display()
        );
        if let Some(why) = &self.poisoned {
            let text = format!("{failed}: an earlier write to it failed");
            return Err(Error::failed(text).because(why.clone()));
        }
        self.status.check(&event)?;
        let durable = is_built_upon(&event);
        let line = StatusLine {
            at: self.clock.now().to_rfc3339(),
            event,
        };
        let bytes = to_line(&line)?;

        if let Err(e) = self.file.write_all(&bytes) {
            // Part of the line may be there, and the next one must not be glued to it.
            if let Err(cut) = self.file.set_len(self.len) {
                self.poisoned = Some(format!("{e}; the torn line could not be cut off: {cut}"));
            }
            return Err(Error::failed(failed).because(e));
        }
        if durable && let Err(e) = self.file.sync_data() {
            self.poisoned = Some(format!("fsync failed: {e}"));
            return Err(Error::failed(failed).because(e));
        }
        self.len += bytes.len() as u64;
        self.status.apply(&line)
    }

    /// How the request stands.
    pub fn status(&self) -> &SnapshotStatus {
        &self.status
    }

    /// Where the log is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// What of a status log goes to the bucket with its snapshot: up to the last line that says `written`. Later lines may
/// be added meanwhile. All of it where none says so.
pub fn up_to_written(log: &[u8]) -> &[u8] {
    let mut end = None;
    let mut read = 0;
    for line in log.split_inclusive(|b| *b == b'\n') {
        read += line.len();
        let line = serde_json::from_slice::<StatusLine>(line);
        let written = StatusEvent::State {
            state: SnapshotState::Written,
        };
        if line.is_ok_and(|line| line.event == written) {
            end = Some(read);
        }
    }
    &log[..end.unwrap_or(log.len())]
}

/// Whether the line must be durable before the work goes on.
fn is_built_upon(event: &StatusEvent) -> bool {
    match event {
        StatusEvent::State { state } => {
            !matches!(state, SnapshotState::Writing | SnapshotState::Written)
        }
        // `collected` follows the cut at once, and is durable.
        StatusEvent::Cut { .. }
        | StatusEvent::Planned { .. }
        | StatusEvent::Progress { .. }
        | StatusEvent::ObjectMade { .. }
        | StatusEvent::ObjectSent { .. } => false,
        StatusEvent::Requested { .. }
        | StatusEvent::Attempt { .. }
        | StatusEvent::Retry { .. }
        | StatusEvent::FsDeleted
        | StatusEvent::CancelRequested
        | StatusEvent::ObjectsRemoved { .. }
        | StatusEvent::Failure { .. } => true,
    }
}

fn to_line(line: &StatusLine) -> Result<Vec<u8>> {
    let mut bytes =
        serde_json::to_vec(line).context(|| "a status line could not be serialized".to_owned())?;
    bytes.push(b'\n'); // JSON has no raw newline inside
    Ok(bytes)
}

fn open_for_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).open(path)
}

/// Create `path` with these contents, all or nothing; never replaces a file.
fn create_durably(path: &Path, contents: &[u8]) -> io::Result<()> {
    let dir = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut temporary = tempfile::Builder::new().prefix(".tmp").tempfile_in(dir)?;
    temporary.write_all(contents)?;
    temporary.as_file().sync_all()?;
    temporary.persist_noclobber(path).map_err(|e| e.error)?;
    sync_dir(dir)
}

#[cfg(test)]
mod tests;
