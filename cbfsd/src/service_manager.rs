//! What the daemon tells the service manager (sd_notify(3)): ready, how long stopping may still take, and
//! that it lives. Without `NOTIFY_SOCKET` nothing is told, and nothing costs anything.
//!
//! `WATCHDOG=1` is sent only after a real round: the API server answered a request for the status on its own
//! socket, which asks every instance and so takes their locks. A daemon whose API loop or whose instances hang
//! is therefore killed by systemd and started again; what it had acknowledged is in the journals.

use cbfs_core::error::{Context, Result};
use parking_lot::{Condvar, Mutex};
use sd_notify::NotifyState;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// While it starts or stops, the service manager is asked this often for more time.
const LENGTHY_PACE: Duration = Duration::from_secs(5);
/// The time asked for then: more than one pace, so that a slow machine is not killed.
const EXTENSION: Duration = Duration::from_secs(30);
/// How much of an answer is looked at.
const ANSWER: usize = 4096;

/// Tell states; that the service manager does not listen is no reason to stop.
fn tell(states: &[NotifyState]) {
    if let Err(e) = sd_notify::notify(states) {
        tracing::warn!("the service manager was not told: {e}");
    }
}

/// The mounts are back and the API answers.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// How it stands now, for `systemctl status`.
pub fn status(text: &str) {
    tell(&[NotifyState::Status(text)]);
}

/// The settings are being read anew; [`ready`] must follow.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(e) => tracing::warn!("the service manager was not told of the reload: {e}"),
    }
}

/// A thread with something to do in regular intervals until it is dropped.
struct Pulse {
    ended: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Pulse {
    fn start(
        name: &str,
        pace: Duration,
        mut beat: impl FnMut() + Send + 'static,
    ) -> io::Result<Pulse> {
        let ended = Arc::new((Mutex::new(false), Condvar::new()));
        let shared = Arc::clone(&ended);
        let run = move || {
            let (ended, changed) = &*shared;
            loop {
                beat();
                let mut ended = ended.lock();
                if !*ended {
                    let _ = changed.wait_for(&mut ended, pace); // timed out, or ended: looked at below
                }
                if *ended {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(run)?;
        Ok(Pulse {
            ended,
            thread: Some(thread),
        })
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        let (ended, changed) = &*self.ended;
        *ended.lock() = true;
        changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a thread that talks to the service manager had panicked");
        }
    }
}

/// Tells the service manager that the daemon lives, as long as it does.
pub struct Watchdog {
    _pulse: Option<Pulse>,
}

impl Watchdog {
    /// Start to tell, where the service manager asks for it (`WatchdogSec=`). `socket` is the API's.
    ///
    /// # Errors
    /// When no thread could be started.
    pub fn start(socket: &Path) -> Result<Watchdog> {
        let Some(limit) = sd_notify::watchdog_enabled() else {
            return Ok(Watchdog { _pulse: None });
        };
        let socket = socket.to_owned();
        // Twice as often as asked for, as sd_watchdog_enabled(3) wants it.
        let pace = limit / 2;
        tracing::info!(
            limit_seconds = limit.as_secs_f64(),
            "the service manager watches"
        );
        let beat = move || match lives(&socket, pace) {
            Ok(()) => tell(&[NotifyState::Watchdog]),
            Err(e) => tracing::error!("the watchdog is not told that all is well: {e}"),
        };
        let pulse = Pulse::start("watchdog", pace, beat)
            .context(|| "the watchdog could not be started".into())?;
        Ok(Watchdog {
            _pulse: Some(pulse),
        })
    }
}

/// Whether the API answers for all instances within `patience`.
fn lives(socket: &PathBuf, patience: Duration) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream
        .write_all(b"GET /v1/instances HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER as u64).read_to_end(&mut answer)?;
    if answer.starts_with(b"HTTP/1.1 200 ") {
        return Ok(());
    }
    let line = answer.split(|b| *b == b'\r').next().unwrap_or_default();
    Err(io::Error::other(format!(
        "the API answered {}",
        String::from_utf8_lossy(line)
    )))
}

/// Work that the service manager must not cut short, while it starts or stops: until this is dropped it is
/// told what goes on, and asked for more time again and again.
pub struct Lengthy {
    doing: Arc<Mutex<String>>,
    _pulse: Option<Pulse>,
}

impl Lengthy {
    /// Starting; ends with [`ready`].
    pub fn starting(what: &str) -> Lengthy {
        Lengthy::begin(what)
    }

    /// Stopping, until the process ends.
    pub fn stopping(what: &str) -> Lengthy {
        tell(&[NotifyState::Stopping]);
        Lengthy::begin(what)
    }

    fn begin(what: &str) -> Lengthy {
        let doing = Arc::new(Mutex::new(what.to_owned()));
        let (told, since) = (Arc::clone(&doing), Instant::now());
        let beat = move || {
            let (what, seconds) = (told.lock().clone(), since.elapsed().as_secs());
            let extension = u32::try_from(EXTENSION.as_micros()).unwrap_or(u32::MAX);
            tell(&[
                NotifyState::Status(&format!("{what} ({seconds} s so far)")),
                NotifyState::ExtendTimeoutUsec(extension),
                // The API may not answer any more, or not yet.
                NotifyState::Watchdog,
            ]);
            if seconds > 0 {
                tracing::info!(seconds, "{what}: goes on");
            }
        };
        // Before anything else is told, not whenever a thread gets its turn.
        beat();
        let pulse = Pulse::start("lengthy", LENGTHY_PACE, beat);
        if let Err(e) = &pulse {
            tracing::warn!("the service manager is not asked for more time: {e}");
        }
        Lengthy {
            doing,
            _pulse: pulse.ok(),
        }
    }

    /// What is waited for from now on.
    pub fn doing(&self, what: &str) {
        tracing::info!("{what}");
        what.clone_into(&mut self.doing.lock());
        tell(&[NotifyState::Status(what)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// A server that answers once.
    fn answering(answer: &'static str) -> (tempfile::TempDir, PathBuf, JoinHandle<()>) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let n = stream.read(&mut request).unwrap();
            assert!(n > 0);
            stream.write_all(answer.as_bytes()).unwrap();
        });
        (dir, socket, thread)
    }

    #[test]
    fn a_daemon_lives_when_its_api_answers_for_all_instances() {
        let patience = Duration::from_secs(10);
        let (_dir, socket, server) = answering("HTTP/1.1 200 OK\r\n\r\n[]");
        lives(&socket, patience).unwrap();
        server.join().unwrap();
        let (_dir, socket, server) = answering("HTTP/1.1 500 Oops\r\n\r\n");
        assert!(lives(&socket, patience).is_err());
        server.join().unwrap();
    }

    #[test]
    fn a_daemon_that_accepts_and_does_not_answer_does_not_live() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let _listener = UnixListener::bind(&socket).unwrap(); // nobody accepts
        assert!(lives(&socket, Duration::from_millis(20)).is_err());
        assert!(lives(&dir.path().join("none"), Duration::from_millis(20)).is_err());
    }

    #[test]
    fn a_pulse_ends_at_once_when_dropped() {
        let beats = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&beats);
        let pulse = Pulse::start("test", Duration::from_secs(3600), move || {
            *counted.lock() += 1
        });
        let pulse = pulse.unwrap();
        while *beats.lock() == 0 {
            std::thread::yield_now();
        }
        drop(pulse);
        assert_eq!(*beats.lock(), 1);
    }
}
