//! Tells listeners when an instance's health changes. The change is noticed anywhere, under any lock; a thread of
//! its own looks at the instances afterwards.

use super::Manager;
use crate::instance::Instance;
use cbfs_core::error::{Context, Result};
use parking_lot::{Condvar, Mutex};
use std::sync::{Arc, Weak};

/// Wakes the thread.
#[derive(Default)]
pub(super) struct HealthWatch {
    bell: Arc<Bell>,
}

#[derive(Default)]
struct Bell {
    state: Mutex<BellState>,
    rung: Condvar,
}

#[derive(Default)]
struct BellState {
    rung: bool,
    stop: bool,
}

impl Bell {
    fn ring(&self, stop: bool) {
        let mut state = self.state.lock();
        state.rung = true;
        state.stop |= stop;
        self.rung.notify_one();
    }

    /// Waits for a ring; `false` when it was the last.
    fn wait(&self) -> bool {
        let mut state = self.state.lock();
        while !state.rung {
            self.rung.wait(&mut state);
        }
        state.rung = false;
        !state.stop
    }
}

impl HealthWatch {
    /// Hear of an instance's changes.
    pub(super) fn attend(&self, instance: &Instance) {
        let bell = Arc::clone(&self.bell);
        instance.on_health_change(Box::new(move || bell.ring(false)));
        // What it knows since it was opened.
        self.bell.ring(false);
    }

    /// End the thread.
    pub(super) fn stop(&self) {
        self.bell.ring(true);
    }
}

impl Drop for HealthWatch {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Manager {
    pub(super) fn watch_health(self: &Arc<Self>) -> Result<()> {
        let (manager, bell) = (Arc::downgrade(self), Arc::clone(&self.health.bell));
        std::thread::Builder::new()
            .name("health".into())
            .spawn(move || watch(&manager, &bell))
            .map(drop)
            .context(|| "a thread could not be started".to_owned())
    }
}

fn watch(manager: &Weak<Manager>, bell: &Bell) {
    while bell.wait() {
        let Some(manager) = manager.upgrade() else {
            return;
        };
        let all: Vec<_> = manager.open.lock().values().cloned().collect();
        for open in all {
            let (health, problems) = open.instance().health();
            if manager.events.is_news(&open.id, health, &problems) {
                manager.tell(&open);
            }
        }
    }
}
