//! Starting the daemon from the command line: the same program with other arguments, on its own
//! session, with its log in the state directory.
//!
//! Two commands that start a daemon at the same time are harmless: the state directory is
//! locked, the loser's daemon ends with the exit code of [`ErrorKind::Conflict`], and both
//! commands find the winner's socket.

use crate::client::DaemonClient;
use crate::interrupt::Interrupt;
use crate::output::{Outcome, Stop};
use cbfs_core::api::DaemonStatus;
use cbfs_core::error::Context;
use cbfs_core::{Error, ErrorKind, Result};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a daemon may take until it answers.
const READINESS_DEADLINE: Duration = Duration::from_secs(10);
/// How long after our daemon's end another one may still turn up on the socket.
const WINNER_GRACE: Duration = Duration::from_millis(500);
/// Between two looks at the socket.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How much of the log an error shows.
const LOG_LINES: usize = 12;

/// Where a daemon keeps its state and listens.
#[derive(Debug, Clone)]
pub(crate) struct DaemonPlace {
    /// Its state directory, absolute.
    pub(crate) state_dir: PathBuf,
    /// Its socket, absolute.
    pub(crate) socket: PathBuf,
}

impl DaemonPlace {
    /// The place of this node's daemon, by the environment; `socket` as given or by default.
    pub(crate) fn of_this_node(socket: &Path) -> Result<DaemonPlace> {
        let absolute = |path: &Path| {
            std::path::absolute(path).context(|| format!("{} has no absolute path", path.display()))
        };
        Ok(DaemonPlace {
            state_dir: absolute(&cbfs_core::environment::state_dir())?,
            socket: absolute(socket)?,
        })
    }

    /// The daemon's log.
    pub(crate) fn log(&self) -> PathBuf {
        self.state_dir.join("cbfsd.log")
    }
}

/// A daemon that this process started.
#[derive(Debug)]
pub(crate) struct StartedDaemon {
    child: Child,
    place: DaemonPlace,
    /// Where its own lines in the log begin.
    log_start: u64,
}

/// The status of the daemon at `place`, which is started first when none answers; then its
/// process is told too. Any error but "no daemon" is passed on: a daemon that refuses us or
/// hangs is not to be doubled.
pub(crate) fn ensure_running(
    place: &DaemonPlace,
    client: &DaemonClient,
    interrupt: &Interrupt,
) -> Outcome<(DaemonStatus, Option<StartedDaemon>)> {
    match client.status() {
        Ok(status) => return Ok((status, None)),
        Err(e) if e.kind() == ErrorKind::DaemonUnreachable => {}
        Err(e) => return Err(e.into()),
    }
    let mut daemon = StartedDaemon::spawn(place)?;
    let status = daemon.wait_until_ready(client, interrupt)?;
    Ok((status, Some(daemon)))
}

impl StartedDaemon {
    /// Start a daemon; it is not ready yet. The environment (with the AWS settings) is passed on.
    pub(crate) fn spawn(place: &DaemonPlace) -> Result<StartedDaemon> {
        let state_dir = &place.state_dir;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state_dir)
            .map_err(|e| unusable_state_dir(state_dir, e))?;
        let log_path = place.log();
        let log = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&log_path)
            .map_err(|e| unusable_state_dir(state_dir, e))?;
        let about_log = || format!("the log {} could not be used", log_path.display());
        let log_start = log.metadata().context(about_log)?.len();
        let log_too = log.try_clone().context(about_log)?;
        let program = std::env::current_exe()
            .context(|| "the path of this program could not be told".to_owned())?;
        let mut command = Command::new(&program);
        if let (Some(path), true) = cbfs_core::configuration::path() {
            // The daemon's working directory is another one.
            let absolute = std::path::absolute(&path)
                .context(|| format!("{} has no absolute path", path.display()))?;
            command.env("CBFS_CONFIG", absolute);
        }
        let child = command
            .arg0("cbfsd")
            .args(["util", "cbfsd", "--detach"])
            .env("CBFS_STATE_DIR", state_dir)
            .env("CBFS_SOCKET", &place.socket)
            .current_dir("/") // holds no directory that somebody wants to unmount
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(log_too)
            .spawn()
            .context(|| format!("the daemon could not be started: {}", program.display()))?;
        Ok(StartedDaemon {
            child,
            place: place.clone(),
            log_start,
        })
    }

    /// Wait until a daemon answers on the socket: this one, or another that was faster.
    ///
    /// # Errors
    /// [`ErrorKind::Failed`] with the last lines of the log when this daemon ended or is not
    /// ready after 10 s (it is left running then: it may be recovering).
    pub(crate) fn wait_until_ready(
        &mut self,
        client: &DaemonClient,
        interrupt: &Interrupt,
    ) -> Outcome<DaemonStatus> {
        let started = Instant::now();
        let mut ended: Option<(ExitStatus, Instant)> = None;
        loop {
            match client.status() {
                Ok(status) => return Ok(status),
                Err(e) if e.kind() == ErrorKind::DaemonUnreachable => {}
                Err(e) => return Err(e.into()),
            }
            if ended.is_none() {
                let status = self.child.try_wait();
                let status = status.context(|| "the daemon's end could not be told".to_owned())?;
                ended = status.map(|s| (s, Instant::now()));
            }
            match ended {
                Some((status, _)) if lost_the_race(status) => {}
                Some((status, at)) if at.elapsed() >= WINNER_GRACE => {
                    return Err(self.not_ready(&format!("the daemon ended at once: {status}")));
                }
                _ => {}
            }
            if started.elapsed() >= READINESS_DEADLINE {
                let seconds = READINESS_DEADLINE.as_secs();
                return Err(match ended {
                    Some(_) => self.not_ready(&format!(
                        "another daemon uses {} but does not answer on {}",
                        self.place.state_dir.display(),
                        self.place.socket.display()
                    )),
                    None => self.not_ready(&format!(
                        "the daemon (pid {}) does not answer after {seconds} s",
                        self.child.id()
                    )),
                });
            }
            interrupt.pause(LOOK_AGAIN)?;
        }
    }

    /// Wait until the process has ended by itself; kill it after `patience`. Tells whether it had
    /// to be killed.
    pub(crate) fn wait_for_end(&mut self, patience: Duration) -> io::Result<bool> {
        let started = Instant::now();
        while self.child.try_wait()?.is_none() {
            if started.elapsed() >= patience {
                self.child.kill()?;
                self.child.wait()?;
                return Ok(true);
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(false)
    }

    /// Ask the process to end, where its socket does not answer. It may have ended already.
    pub(crate) fn terminate(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return; // it has ended and was reaped: its id may be another process's by now
        }
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // What fails here shows in the wait for its end.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn not_ready(&self, what: &str) -> Stop {
        let log = self.place.log();
        let error = Error::failed(what);
        let error = match last_lines(&log, self.log_start) {
            Ok(lines) if lines.is_empty() => error,
            Ok(lines) => error.because(lines),
            Err(e) => error.because(format!("{} could not be read: {e}", log.display())),
        };
        error
            .hint(format!("the whole log is {}", log.display()))
            .into()
    }
}

/// Whether a daemon ended because another one has the state directory.
fn lost_the_race(status: ExitStatus) -> bool {
    status.code() == Some(i32::from(ErrorKind::Conflict.exit_code()))
}

fn unusable_state_dir(state_dir: &Path, e: io::Error) -> Error {
    let kind = match e.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::Credentials,
        _ => ErrorKind::Failed,
    };
    Error::new(
        kind,
        format!("the state directory {} cannot be used", state_dir.display()),
    )
    .because(e)
    .hint("choose another one with CBFS_STATE_DIR")
}

/// The last lines of a log from byte `start` on.
fn last_lines(log: &Path, start: u64) -> io::Result<String> {
    let mut file = File::open(log)?;
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(1 << 20).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    Ok(lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_daemons_own_last_lines_are_shown() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("cbfsd.log");
        let old = "an earlier daemon\n";
        let new: String = (0..30).map(|i| format!("line {i}\n")).collect();
        fs::write(&log, format!("{old}{new}")).unwrap();
        let shown = last_lines(&log, old.len() as u64).unwrap();
        assert_eq!(shown.lines().count(), LOG_LINES);
        assert!(shown.starts_with("line 18\n") && shown.ends_with("line 29"));
    }
}
