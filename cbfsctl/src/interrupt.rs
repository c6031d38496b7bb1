//! Ctrl-C and SIGTERM as a flag that long work asks for, so that it can end in order.
//!
//! Without [`Interrupt::install`] the signals keep their default: the process ends at once.

use crate::output::{Outcome, Stop};
use cbfs_core::bucket::Cancellation;
use cbfs_core::error::Context;
use cbfs_core::{Error, Result};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How long nobody may look at the flag before the process ends all the same, where that was allowed.
const UNHEARD: Duration = Duration::from_secs(2);

/// How long the parting words may take: stderr may be a pipe that nobody reads.
const PARTING: Duration = Duration::from_millis(200);

/// What happens when the flag is set and nobody looks: the work hangs in a file system or a full pipe, or computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unheard {
    /// It is waited for: something must be put in order.
    Wait,
    /// The process ends, with the parting words: only temporary files stay behind, or nothing.
    End,
}

/// The flag. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt {
    flag: Cancellation,
    /// Whether the work was told.
    heard: Arc<AtomicBool>,
}

impl Interrupt {
    /// Catch SIGINT, SIGTERM and SIGHUP from now on. The first sets the flag; a second one ends
    /// the process with 130 after printing `parting` on stderr, for those who will not wait.
    pub(crate) fn install(parting: &str, unheard: Unheard) -> Result<Interrupt> {
        let interrupt = Interrupt::default();
        let (ready, installed) = mpsc::channel();
        let (theirs, parting) = (interrupt.clone(), parting.to_owned());
        let catcher = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(e) => return drop(ready.send(Err(e))), // the other end waits for it
            };
            runtime.block_on(async {
                let caught = (|| {
                    Ok((
                        signal(SignalKind::interrupt())?,
                        signal(SignalKind::terminate())?,
                        signal(SignalKind::hangup())?,
                    ))
                })();
                let (mut int, mut term, mut hup) = match caught {
                    Ok(streams) => streams,
                    Err(e) => return drop(ready.send(Err(e))),
                };
                drop(ready.send(Ok(())));
                let mut next = async || {
                    tokio::select! {
                        _ = int.recv() => {}
                        _ = term.recv() => {}
                        _ = hup.recv() => {}
                    }
                };
                next().await;
                theirs.flag.cancel();
                let again = tokio::time::timeout(UNHEARD, next()).await;
                if again.is_err() && (unheard == Unheard::Wait || theirs.is_heard()) {
                    next().await;
                }
                say_within(parting, PARTING);
                std::process::exit(i32::from(crate::EXIT_INTERRUPTED));
            });
        };
        std::thread::Builder::new()
            .name("interrupt".to_owned())
            .spawn(catcher)
            .context(|| "a thread could not be started".to_owned())?;
        match installed.recv() {
            Ok(Ok(())) => Ok(interrupt),
            Ok(Err(e)) => Err(Error::failed("Ctrl-C could not be caught").because(e)),
            Err(e) => Err(Error::failed("Ctrl-C could not be caught").because(e)),
        }
    }

    fn is_heard(&self) -> bool {
        self.heard.load(Ordering::Acquire)
    }

    /// [`Stop::Interrupted`] when the flag is set.
    pub(crate) fn check(&self) -> Outcome {
        if !self.flag.is_cancelled() {
            return Ok(());
        }
        self.heard.store(true, Ordering::Release);
        Err(Stop::Interrupted)
    }

    /// Wait for `time`, or until the flag is set: then [`Stop::Interrupted`].
    pub(crate) fn pause(&self, time: Duration) -> Outcome {
        self.flag.sleep(time);
        self.check()
    }

    /// Do work in which nothing waits for a daemon or a store any longer once the flag is set. An error
    /// is [`Stop::Interrupted`] then, whatever it was.
    pub(crate) fn during<T, E: Into<Stop>>(
        &self,
        work: impl FnOnce() -> std::result::Result<T, E>,
    ) -> Outcome<T> {
        let result = self.flag.scope(work);
        result.or_else(|e| self.check().and(Err(e.into())))
    }
}

/// Print a line on stderr, and wait no longer than that for it: best effort.
fn say_within(line: String, patience: Duration) {
    let (said, done) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = writeln!(std::io::stderr(), "{line}");
        let _ = said.send(());
    });
    let _ = done.recv_timeout(patience);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_ends_when_interrupted() {
        let interrupt = Interrupt::default();
        assert!(interrupt.check().is_ok());
        interrupt.flag.cancel();
        assert!(!interrupt.is_heard());
        assert!(matches!(interrupt.check(), Err(Stop::Interrupted)));
        assert!(interrupt.is_heard());
        assert!(matches!(
            interrupt.pause(Duration::from_secs(3600)),
            Err(Stop::Interrupted)
        ));
    }

    #[test]
    fn an_error_is_the_interruption_once_interrupted_and_what_was_done_is_done() {
        let interrupt = Interrupt::default();
        let failing = || Err::<(), _>(Error::failed("no"));
        assert!(matches!(interrupt.during(failing), Err(Stop::Error(_))));
        interrupt.flag.cancel();
        assert!(matches!(interrupt.during(failing), Err(Stop::Interrupted)));
        let done = interrupt.during(|| Ok::<_, Error>(7));
        assert!(matches!(done, Ok(7)));
    }
}
