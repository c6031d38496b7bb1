//! Ctrl-C and SIGTERM as a flag that long work asks for, so that it can end in order.
//!
//! Without [`Interrupt::install`] the signals keep their default: the process ends at once.

use crate::output::{Outcome, Stop};
use cbfs_core::error::Context;
use cbfs_core::{Error, Result};
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// The flag. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt {
    state: Arc<(Mutex<bool>, Condvar)>,
}

impl Interrupt {
    /// Catch SIGINT, SIGTERM and SIGHUP from now on. The first sets the flag; a second one ends
    /// the process with 130 after printing `parting` on stderr, for those who will not wait.
    pub(crate) fn install(parting: &str) -> Result<Interrupt> {
        let interrupt = Interrupt::default();
        let (ready, installed) = mpsc::channel();
        let (flag, parting) = (interrupt.clone(), parting.to_owned());
        let catcher = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
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
                loop {
                    tokio::select! {
                        _ = int.recv() => {}
                        _ = term.recv() => {}
                        _ = hup.recv() => {}
                    }
                    if flag.set() {
                        let _ = writeln!(std::io::stderr(), "{parting}"); // best effort
                        std::process::exit(i32::from(crate::EXIT_INTERRUPTED));
                    }
                }
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

    /// Set the flag; tells whether it was set already.
    fn set(&self) -> bool {
        let (flag, changed) = &*self.state;
        let mut flag = flag.lock().unwrap_or_else(PoisonError::into_inner);
        changed.notify_all();
        std::mem::replace(&mut *flag, true)
    }

    /// [`Stop::Interrupted`] when the flag is set.
    pub(crate) fn check(&self) -> Outcome {
        let (flag, _) = &*self.state;
        if *flag.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(Stop::Interrupted);
        }
        Ok(())
    }

    /// Wait for `time`, or until the flag is set: then [`Stop::Interrupted`].
    pub(crate) fn pause(&self, time: Duration) -> Outcome {
        let (flag, changed) = &*self.state;
        let guard = flag.lock().unwrap_or_else(PoisonError::into_inner);
        let (guard, _) = changed
            .wait_timeout_while(guard, time, |set| !*set)
            .unwrap_or_else(PoisonError::into_inner);
        if *guard {
            Err(Stop::Interrupted)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_ends_when_interrupted() {
        let interrupt = Interrupt::default();
        assert!(interrupt.check().is_ok());
        assert!(!interrupt.set());
        assert!(matches!(interrupt.check(), Err(Stop::Interrupted)));
        assert!(matches!(
            interrupt.pause(Duration::from_secs(3600)),
            Err(Stop::Interrupted)
        ));
        assert!(interrupt.set());
    }
}
