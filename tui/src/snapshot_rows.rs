//! The rows of the panes of file systems and snapshots: gathered from what daemons and buckets say, filtered and
//! sorted. Made anew only when something changed.

use crate::glyphs::health_word;
use crate::state::{FileSystemOrder, InstanceKey, Pane, State, Watched};
use cbfs_core::api::{Health, SnapshotInfo};
use cbfs_core::format::epoch::BaseSnapshot;
use cbfs_core::snapshot::{SnapshotKind, SnapshotState};
use std::cmp::Ordering;

/// A snapshot, or the request for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRow {
    /// Number and epoch.
    pub id: BaseSnapshot,
    /// Its name.
    pub name: Option<String>,
    /// Who asked; `None`: its manifest was not read.
    pub kind: Option<SnapshotKind>,
    /// Where it stands.
    pub state: SnapshotState,
    /// When it was asked for or made, RFC 3339; empty: not known.
    pub at: String,
    /// Bytes that it put into the bucket.
    pub bytes: u64,
    /// It cannot be deleted.
    pub held: bool,
    /// The daemon that has its request.
    pub daemon: Option<usize>,
}

/// How snapshots are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SnapshotOrder {
    /// Newest first.
    #[default]
    Number,
    /// What is at work or failed first.
    State,
    /// By name.
    Name,
    /// Largest first.
    Size,
}

/// Who asked, in a word.
pub fn kind_word(kind: SnapshotKind) -> &'static str {
    match kind {
        SnapshotKind::User => "user",
        SnapshotKind::Periodic => "periodic",
        SnapshotKind::Pressure => "pressure",
        SnapshotKind::Final => "final",
    }
}

/// Make the rows of file systems anew, if something changed: there are few, and what is selected hangs on them.
pub(crate) fn settle_instances(state: &mut State) {
    if state.rows_are_stale {
        state.instance_rows = instance_rows(state);
    }
}

/// Make the rows anew, if something changed. To be called before drawing, not for each of the messages between two
/// screens: there may be thousands of snapshots.
pub fn settle(state: &mut State) {
    if !std::mem::take(&mut state.rows_are_stale) {
        return;
    }
    state.instance_rows = instance_rows(state);
    state.snapshot_rows = snapshot_rows(state);
}

fn instance_rows(state: &State) -> Vec<InstanceKey> {
    let filter = state.filter(Pane::FileSystems).to_lowercase();
    let mut rows: Vec<(InstanceKey, &Watched)> = Vec::new();
    for (place, daemon) in state.daemons.iter().enumerate() {
        for (id, watched) in &daemon.instances {
            if matches(watched, &filter) {
                rows.push(((place, id.clone()), watched));
            }
        }
    }
    let (order, reversed) = state.file_system_order;
    rows.sort_by(|(a_key, a), (b_key, b)| {
        let by_order = match order {
            FileSystemOrder::Name => Ordering::Equal,
            FileSystemOrder::Health => gravity(b.info.health).cmp(&gravity(a.info.health)),
            FileSystemOrder::Unpublished => b.info.unpublished.cmp(&a.info.unpublished),
        };
        let by_name =
            (&a.info.fs, &a.info.snapshot, a_key).cmp(&(&b.info.fs, &b.info.snapshot, b_key));
        turned(by_order.then(by_name), reversed)
    });
    rows.into_iter().map(|(key, _)| key).collect()
}

fn matches(watched: &Watched, filter: &str) -> bool {
    let info = &watched.info;
    let mount = info
        .mount_point
        .as_ref()
        .map(|p| p.to_string_lossy().to_lowercase());
    filter.is_empty()
        || info.id.to_lowercase().contains(filter)
        || health_word(info.health) == filter
        || mount.is_some_and(|m| m.contains(filter))
}

fn gravity(health: Health) -> u8 {
    match health {
        Health::Ok => 0,
        Health::Degraded => 1,
        Health::Fenced => 2,
        Health::Poisoned => 3,
    }
}

fn turned(order: Ordering, reversed: bool) -> Ordering {
    if reversed { order.reverse() } else { order }
}

fn snapshot_rows(state: &State) -> Vec<SnapshotRow> {
    let Some(((prefer, _), watched)) = state.selected_instance() else {
        return Vec::new();
    };
    let fs = &watched.info.fs;
    let look = state.selected_look();
    let master = state.master_of(fs, prefer).map(|(place, _)| place);
    let mut rows: Vec<SnapshotRow> = Vec::new();
    if let Some(place) = master {
        let requests = state.daemons[place].requests.values();
        let of_fs = requests.filter(|r| r.fs == *fs);
        rows.extend(of_fs.map(|r| of_request(r, place)));
    }
    if let Some(look) = look {
        let view = &look.view;
        // A snapshot that became complete after the look is not in it yet.
        rows.retain(|r| !view.deleted.contains(&r.id));
        let known: std::collections::BTreeSet<BaseSnapshot> = rows.iter().map(|r| r.id).collect();
        for id in view.snapshots.difference(&known) {
            let manifest = view.manifests.get(id);
            rows.push(SnapshotRow {
                id: *id,
                name: manifest.and_then(|m| m.name.clone()),
                kind: manifest.map(|m| m.kind),
                state: SnapshotState::Complete,
                at: manifest.map(|m| m.created_at.clone()).unwrap_or_default(),
                bytes: manifest.map_or(0, |m| m.stored_bytes),
                held: false,
                daemon: None,
            });
        }
        for row in &mut rows {
            row.held = view.held.contains(&row.id);
        }
    }
    let filter = state.filter(Pane::Snapshots).to_lowercase();
    rows.retain(|r| passes(r, &filter));
    let (order, reversed) = state.snapshot_order;
    rows.sort_by(|a, b| {
        let by_order = match order {
            SnapshotOrder::Number => Ordering::Equal,
            SnapshotOrder::State => urgency(a.state).cmp(&urgency(b.state)),
            // Those without a name last.
            SnapshotOrder::Name => (a.name.is_none(), &a.name).cmp(&(b.name.is_none(), &b.name)),
            SnapshotOrder::Size => b.bytes.cmp(&a.bytes),
        };
        turned(by_order.then(b.id.cmp(&a.id)), reversed)
    });
    rows
}

fn of_request(r: &SnapshotInfo, daemon: usize) -> SnapshotRow {
    SnapshotRow {
        id: BaseSnapshot {
            number: r.number,
            epoch: r.epoch,
        },
        name: r.name.clone(),
        kind: Some(r.kind),
        state: r.state,
        at: r.requested_at.clone(),
        bytes: r.sent_bytes,
        held: false,
        daemon: Some(daemon),
    }
}

fn passes(row: &SnapshotRow, filter: &str) -> bool {
    filter.is_empty()
        || row.state.name().contains(filter)
        || row.id.number.to_string() == filter
        || row
            .name
            .as_ref()
            .is_some_and(|n| n.to_lowercase().contains(filter))
        || row.kind.is_some_and(|k| kind_word(k) == filter)
        || (row.held && filter == "held")
}

fn urgency(state: SnapshotState) -> u8 {
    match state {
        SnapshotState::Collected
        | SnapshotState::Writing
        | SnapshotState::Written
        | SnapshotState::Copying => 0,
        SnapshotState::Queued => 1,
        SnapshotState::Failed => 2,
        SnapshotState::Cancelled => 3,
        SnapshotState::Complete => 4,
    }
}
