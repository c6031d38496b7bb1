//! What happens on this node, told to whoever listens: snapshots and instances as they stand now, and notes
//! that a person should read.
//!
//! Notes are derived here from the changes that pass through, so that none is forgotten by the code that causes
//! one. They have ids `RUN-N` (`RUN` is drawn anew by each daemon, `N` counts up), and the last
//! [`NOTES_KEPT`] are kept in memory: who was away for a while gets those it missed.

use cbfs_core::api::{DaemonEvent, Health, InstanceInfo, Note, Severity, SnapshotInfo};
use cbfs_core::clock::Clock;
use cbfs_core::snapshot::SnapshotState;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tokio::sync::broadcast;

/// Events kept for a slow listener.
const BACKLOG: usize = 1024;

/// Notes kept for a listener that was away.
const NOTES_KEPT: usize = 256;

/// An event and, of a note, its id.
pub type Told = (Option<String>, DaemonEvent);

/// The node's events.
pub struct EventHub {
    sender: broadcast::Sender<Told>,
    clock: Arc<dyn Clock>,
    /// Random, of this daemon.
    run: String,
    past: Mutex<Past>,
}

#[derive(Default)]
struct Past {
    noted: u64,
    notes: VecDeque<(u64, Note)>,
    /// How snapshots that are not final stood last: state, retries, and whether withdrawn.
    snapshots: BTreeMap<(String, u64), (SnapshotState, u64, bool)>,
    /// How instances stood last.
    instances: BTreeMap<String, (Health, Vec<String>)>,
}

impl EventHub {
    /// Nothing has happened yet; `run` is a random id.
    pub fn new(clock: Arc<dyn Clock>, run: String) -> EventHub {
        let (sender, _) = broadcast::channel(BACKLOG);
        EventHub {
            sender,
            clock,
            run,
            past: Mutex::default(),
        }
    }

    /// Everything from now on; before it, when `last` is given, the notes after that one that are still kept
    /// (all of them if `last` is no id of this daemon).
    pub fn subscribe(&self, last: Option<&str>) -> (Vec<Told>, broadcast::Receiver<Told>) {
        let past = self.past.lock();
        let mut missed = Vec::new();
        if let Some(last) = last {
            let last = last
                .split_once('-')
                .filter(|(run, _)| *run == self.run)
                .and_then(|(_, n)| n.parse().ok())
                .unwrap_or(0);
            let after = past.notes.iter().filter(|(n, _)| *n > last);
            missed.extend(after.map(|(n, note)| self.told(*n, note.clone())));
        }
        (missed, self.sender.subscribe())
    }

    /// A snapshot request changed.
    pub fn snapshot(&self, snapshot: SnapshotInfo) {
        let mut past = self.past.lock();
        let key = (snapshot.fs.to_string(), snapshot.number.0);
        let now = (snapshot.state, snapshot.retries, snapshot.cancelling);
        let before = if snapshot.state.is_final() {
            past.snapshots.remove(&key)
        } else {
            past.snapshots.insert(key, now)
        };
        let note = self.snapshot_note(&snapshot, before);
        self.send((None, DaemonEvent::Snapshot { snapshot }));
        if let Some(note) = note {
            self.note_now(&mut past, note);
        }
    }

    /// An instance was mounted, unmounted or changed its health.
    pub fn instance(&self, instance: InstanceInfo) {
        let mut past = self.past.lock();
        let now = (instance.health, instance.problems.clone());
        let before = past.instances.insert(instance.id.clone(), now);
        let note = self.health_note(&instance, before.as_ref());
        self.send((None, DaemonEvent::Instance { instance }));
        if let Some(note) = note {
            self.note_now(&mut past, note);
        }
    }

    /// An instance is no more.
    pub fn forget(&self, id: &str) {
        self.past.lock().instances.remove(id);
    }

    /// Whether an instance stands otherwise than it was told last.
    pub fn is_news(&self, id: &str, health: Health, problems: &[String]) -> bool {
        match self.past.lock().instances.get(id) {
            Some((before, then)) => *before != health || then != problems,
            None => health != Health::Ok,
        }
    }

    /// Tell a note.
    pub fn note(&self, note: Note) {
        self.note_now(&mut self.past.lock(), note);
    }

    /// The time of a note made now, RFC 3339.
    pub fn now(&self) -> String {
        self.clock.now().to_rfc3339()
    }

    fn note_now(&self, past: &mut Past, note: Note) {
        past.noted += 1;
        let n = past.noted;
        past.notes.push_back((n, note.clone()));
        if past.notes.len() > NOTES_KEPT {
            past.notes.pop_front();
        }
        self.send(self.told(n, note));
    }

    fn told(&self, n: u64, note: Note) -> Told {
        (
            Some(format!("{}-{n}", self.run)),
            DaemonEvent::Note { note },
        )
    }

    fn send(&self, told: Told) {
        // Nobody listening is fine.
        drop(self.sender.send(told));
    }

    fn snapshot_note(
        &self,
        snapshot: &SnapshotInfo,
        before: Option<(SnapshotState, u64, bool)>,
    ) -> Option<Note> {
        let state_before = before.map(|(state, ..)| state);
        let (severity, text, causes) = if state_before != Some(snapshot.state) {
            match snapshot.state {
                SnapshotState::Queued => (Severity::Info, "is queued".to_owned(), vec![]),
                SnapshotState::Collected => (Severity::Info, "is cut".to_owned(), vec![]),
                SnapshotState::Complete => (Severity::Info, "is complete".to_owned(), vec![]),
                SnapshotState::Failed => {
                    let why = snapshot.reason.iter().cloned().collect();
                    (Severity::Error, "failed".to_owned(), why)
                }
                SnapshotState::Cancelled => (Severity::Warning, "is cancelled".to_owned(), vec![]),
                SnapshotState::Writing | SnapshotState::Written | SnapshotState::Copying => {
                    return None;
                }
            }
        } else if before.is_some_and(|(_, retries, _)| retries < snapshot.retries) {
            let why = snapshot.reason.iter().cloned().collect();
            let text = format!("is tried again (retry {})", snapshot.retries);
            (Severity::Warning, text, why)
        } else if before.is_some_and(|(.., cancelling)| !cancelling && snapshot.cancelling) {
            (Severity::Info, "is being cancelled".to_owned(), vec![])
        } else {
            return None;
        };
        Some(Note {
            at: self.now(),
            severity,
            fs: Some(snapshot.fs.clone()),
            snapshot: Some(snapshot.number),
            text: format!("snapshot {} {text}", snapshot.number),
            causes,
        })
    }

    fn health_note(
        &self,
        instance: &InstanceInfo,
        before: Option<&(Health, Vec<String>)>,
    ) -> Option<Note> {
        let well = (Health::Ok, Vec::new());
        let (health, problems) = before.unwrap_or(&well);
        let is_new = |problem: &&String| !problems.contains(problem);
        let new: Vec<String> = instance.problems.iter().filter(is_new).cloned().collect();
        let role = match instance.snapshot {
            Some(number) => format!("the slave of snapshot {number}"),
            None => "the master".to_owned(),
        };
        let (severity, text) = match (instance.health, *health == instance.health) {
            (Health::Ok, true) => return None,
            (Health::Ok, false) => (Severity::Info, format!("{role} is well again")),
            (Health::Degraded, same) if same && new.is_empty() => return None,
            (Health::Degraded, _) => (Severity::Warning, format!("{role} is degraded")),
            (Health::Fenced | Health::Poisoned, true) => return None,
            (Health::Fenced, false) => (Severity::Error, format!("{role} is fenced: read-only")),
            (Health::Poisoned, false) => (Severity::Error, format!("{role} is poisoned")),
        };
        Some(Note {
            at: self.now(),
            severity,
            fs: Some(instance.fs.clone()),
            snapshot: None,
            text,
            causes: new,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cbfs_core::clock::System;
    use serde_json::json;

    const FS: &str = "home-6f1c2a52-8f8a-4d0e-9a53-0c2ad9d1a2b3";

    fn snapshot(number: u64, state: &str, retries: u64) -> SnapshotInfo {
        serde_json::from_value(json!({
            "fs": FS, "number": number, "kind": "user", "state": state, "epoch": 1,
            "requested_at": "2025-01-01T00:00:00Z", "updated_at": "2025-01-01T00:00:00Z",
            "retries": retries, "reason": "503",
        }))
        .unwrap()
    }

    fn instance(health: &str, problems: &[&str]) -> InstanceInfo {
        serde_json::from_value(json!({
            "id": FS, "fs": FS, "bucket": "file:///b", "role": "master", "epoch": 1,
            "health": health, "problems": problems, "xid": 1, "durable_xid": 1,
            "unpublished": 0, "inodes": 1, "local_bytes": 0, "dirty_bytes": 0,
        }))
        .unwrap()
    }

    fn texts(hub: &EventHub, last: &str) -> Vec<String> {
        let (missed, _) = hub.subscribe(Some(last));
        let texts = missed.into_iter().map(|(_, event)| match event {
            DaemonEvent::Note { note } => format!("{:?} {}", note.severity, note.text),
            other => panic!("{other:?} is no note"),
        });
        texts.collect()
    }

    fn hub() -> EventHub {
        EventHub::new(Arc::new(System), "run".into())
    }

    #[test]
    fn changes_of_snapshots_become_notes_and_progress_does_not() {
        let hub = hub();
        for (state, retries) in [
            ("queued", 0),
            ("collected", 0),
            ("writing", 0),
            ("writing", 0),
            ("writing", 1),
            ("written", 1),
            ("copying", 1),
            ("complete", 1),
        ] {
            hub.snapshot(snapshot(7, state, retries));
        }
        let wanted = [
            "Info snapshot 7 is queued",
            "Info snapshot 7 is cut",
            "Warning snapshot 7 is tried again (retry 1)",
            "Info snapshot 7 is complete",
        ];
        assert_eq!(texts(&hub, ""), wanted);
        assert!(
            hub.past.lock().snapshots.is_empty(),
            "what is final is let go"
        );
    }

    #[test]
    fn health_is_noted_when_it_changes() {
        let hub = hub();
        hub.instance(instance("ok", &[]));
        hub.instance(instance("degraded", &["a"]));
        hub.instance(instance("degraded", &["a"]));
        hub.instance(instance("degraded", &["a", "b"]));
        assert!(!hub.is_news(FS, Health::Degraded, &["a".into(), "b".into()]));
        assert!(hub.is_news(FS, Health::Ok, &[]));
        hub.instance(instance("ok", &[]));
        hub.instance(instance("fenced", &["c"]));
        let wanted = [
            "Warning the master is degraded",
            "Warning the master is degraded",
            "Info the master is well again",
            "Error the master is fenced: read-only",
        ];
        assert_eq!(texts(&hub, "another-9"), wanted);
    }

    #[test]
    fn who_was_away_gets_the_notes_it_missed() {
        let hub = hub();
        hub.snapshot(snapshot(1, "queued", 0));
        let (missed, mut live) = hub.subscribe(Some(""));
        let seen = missed[0].0.clone().unwrap();
        hub.snapshot(snapshot(2, "queued", 0));
        assert_eq!(texts(&hub, &seen), ["Info snapshot 2 is queued"]);
        assert!(hub.subscribe(None).0.is_empty());
        let (id, event) = live.try_recv().unwrap();
        assert!(id.is_none() && matches!(event, DaemonEvent::Snapshot { .. }));
        assert_eq!(live.try_recv().unwrap().0.as_deref(), Some("run-2"));
    }

    #[test]
    fn the_notes_kept_are_bounded() {
        let hub = hub();
        for number in 0..3 * NOTES_KEPT as u64 {
            hub.snapshot(snapshot(number, "failed", 0));
        }
        assert_eq!(texts(&hub, "").len(), NOTES_KEPT);
        assert!(hub.past.lock().snapshots.is_empty());
    }
}
