//! Threads that talk to daemons and buckets. Each may wait as long as it likes: nothing waits for it.

mod errands;
mod watch;

use crate::message::{Effect, Message};
use cbfs_core::Result;
use cbfs_core::error::Context;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// All of them.
pub(crate) struct Workers {
    sockets: Vec<PathBuf>,
    sender: Sender<Message>,
    bells: Vec<Arc<Bell>>,
}

/// Ends the pause before the next try.
#[derive(Default)]
pub(crate) struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
    stopped: AtomicBool,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.ring();
    }

    /// Whether the program ends.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Wait so long, or until it rings.
    pub(crate) fn wait(&self, patience: Duration) {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .changed
            .wait_timeout_while(rung, patience, |rung| !*rung);
        let (mut rung, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *rung = false;
    }
}

impl Workers {
    /// Watch the daemons behind `sockets`.
    pub(crate) fn start(sockets: Vec<PathBuf>, sender: Sender<Message>) -> Result<Workers> {
        let mut bells = Vec::new();
        for (place, socket) in sockets.iter().enumerate() {
            let bell = Arc::new(Bell::default());
            watch::start(place, socket.clone(), sender.clone(), Arc::clone(&bell))?;
            bells.push(bell);
        }
        Ok(Workers {
            sockets,
            sender,
            bells,
        })
    }

    /// Do what an update asked for, each on a thread of its own.
    pub(crate) fn carry_out(&self, effects: Vec<Effect>) {
        for effect in effects {
            if let Effect::Reconnect(place) = effect {
                if let Some(bell) = self.bells.get(place) {
                    bell.ring();
                }
                continue;
            }
            let (sockets, sender) = (self.sockets.clone(), self.sender.clone());
            let thread = std::thread::Builder::new()
                .name("errand".into())
                .spawn({
                    let effect = effect.clone();
                    move || errands::carry_out(&sockets, effect, &sender)
                })
                .context(|| "a thread could not be started".to_owned());
            if let Err(error) = thread {
                errands::refuse(effect, &error, &self.sender);
            }
        }
    }

    /// The program ends: threads that wait for a daemon end with it.
    pub(crate) fn stop(&self) {
        self.bells.iter().for_each(|bell| bell.stop());
    }
}
