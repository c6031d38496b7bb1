//! A daemon that hangs must fail the case, not stop the suite.

use crate::case::Case;
use crate::keep;
use rustix::process::{Pid, Signal, kill_process};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Far longer than anything takes that gets anywhere, on a busy machine and in debug.
const PATIENCE: Duration = Duration::from_secs(180);

/// Kills the daemon when nothing happens for long. Ends when it is dropped.
pub(crate) struct Watchdog {
    steps: Sender<u32>,
}

impl Watchdog {
    /// Watch a case.
    pub(crate) fn over(case: &Case) -> Watchdog {
        let (steps, heard) = channel();
        let case = case.clone();
        std::thread::spawn(move || {
            let mut daemon: Option<u32> = None;
            loop {
                match heard.recv_timeout(PATIENCE) {
                    Ok(pid) => daemon = Some(pid),
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => {
                        eprintln!(
                            "the daemon hangs and is killed. {}",
                            keep(&case, "model-hang.jsonl")
                        );
                        let pid = daemon.and_then(|pid| i32::try_from(pid).ok());
                        if let Some(pid) = pid.and_then(Pid::from_raw) {
                            let _ = kill_process(pid, Signal::KILL);
                        }
                    }
                }
            }
        });
        Watchdog { steps }
    }

    /// The case went on; `daemon` is what serves it.
    pub(crate) fn step(&self, daemon: u32) {
        let _ = self.steps.send(daemon);
    }
}
