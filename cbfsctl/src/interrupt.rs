//! Ctrl-C and SIGTERM as a flag that long work asks for, so that it can end in order.
//!
//! Without [`Interrupt::install`] the signals keep their default: the process ends at once.

use crate::output::{Outcome, Stop};
use cbfs_core::error::Context;
use cbfs_core::{Error, Result};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
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

    /// Do work that cannot look at the flag on a thread of its own, and wait for it, or until the flag is set: then
    /// [`Stop::Interrupted`], and the work ends with the process.
    pub(crate) fn unless_set<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Outcome<T> {
        let done = Arc::new(Mutex::new(None));
        let (theirs, state) = (Arc::clone(&done), Arc::clone(&self.state));
        let worker = move || {
            // The waiting thread goes on panicking.
            let result = catch_unwind(AssertUnwindSafe(work));
            *theirs.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            let (flag, changed) = &*state;
            // With the lock: who has just looked waits already.
            let _flag = flag.lock().unwrap_or_else(PoisonError::into_inner);
            changed.notify_all();
        };
        std::thread::Builder::new()
            .name("interruptible".to_owned())
            .spawn(worker)
            .context(|| "a thread could not be started".to_owned())?;
        let (flag, changed) = &*self.state;
        let mut flag = flag.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match done.lock().unwrap_or_else(PoisonError::into_inner).take() {
                Some(Ok(result)) => return Ok(result),
                Some(Err(panic)) => resume_unwind(panic),
                None if *flag => return Err(Stop::Interrupted),
                None => {}
            }
            flag = changed.wait(flag).unwrap_or_else(PoisonError::into_inner);
        }
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
    fn work_that_hangs_is_not_waited_for_when_interrupted() {
        let interrupt = Interrupt::default();
        assert!(matches!(interrupt.unless_set(|| 7), Ok(7)));
        let (begun, wait) = mpsc::channel();
        let (hold, held) = mpsc::channel::<()>();
        let other = interrupt.clone();
        let waiter = std::thread::spawn(move || {
            other.unless_set(move || {
                begun.send(()).unwrap();
                held.recv()
            })
        });
        wait.recv().unwrap();
        interrupt.set();
        assert!(matches!(waiter.join().unwrap(), Err(Stop::Interrupted)));
        drop(hold);
    }

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
