//! What keys start: closer looks, and questions before something is changed.

use super::{say, show_log};
use crate::dialog::{Dialog, Purpose};
use crate::figures;
use crate::message::Effect;
use crate::snapshot_rows::SnapshotRow;
use crate::state::{DetailOf, InstanceKey, Link, Overlay, Pane, State};
use cbfs_core::api::{Role, Severity};
use cbfs_core::handle::Handle;
use cbfs_core::snapshot::SnapshotState;

/// A closer look at what is selected.
pub(super) fn open(state: &mut State) -> Vec<Effect> {
    let of = match state.focus {
        Pane::FileSystems => state
            .selected_instance()
            .map(|(key, _)| DetailOf::Instance(key)),
        Pane::Cache | Pane::Throughput => state
            .selected_instance()
            .map(|(key, _)| DetailOf::Cache(key)),
        Pane::Epochs => state.selected_view().map(DetailOf::Epochs),
        Pane::Events => {
            let first = || state.filtered_events().next().map(|(n, _)| n);
            state.event.key.or_else(first).map(DetailOf::Event)
        }
        Pane::Snapshots => {
            let Some((fs, row)) = selected_snapshot(state) else {
                return Vec::new();
            };
            let (daemon, id) = (row.daemon.unwrap_or(0), row.id);
            let effect = row
                .daemon
                .map(|daemon| show_log(state, daemon, fs.clone(), id.number));
            let of = DetailOf::Snapshot(daemon, fs, id);
            state.overlay = Some(Overlay::Detail { of, scroll: 0 });
            return effect.into_iter().collect();
        }
    };
    state.overlay = of.map(|of| Overlay::Detail { of, scroll: 0 });
    Vec::new()
}

fn selected_snapshot(state: &State) -> Option<(Handle, SnapshotRow)> {
    let (_, watched) = state.selected_instance()?;
    Some((watched.info.fs.clone(), state.selected_snapshot()?.clone()))
}

/// The selected instance, or a word about why there is none.
pub(super) fn selected(state: &mut State) -> Option<InstanceKey> {
    let key = state.selected_instance().map(|(key, _)| key);
    if key.is_none() {
        say(state, Severity::Warning, "no file system is selected");
    }
    key
}

/// Whether a daemon can be asked; says so when not.
pub(super) fn answers(state: &mut State, daemon: usize) -> bool {
    let Some(asked) = state.daemons.get(daemon) else {
        return false;
    };
    if matches!(asked.link, Link::Connected { .. }) {
        return true;
    }
    let text = format!("the daemon of {} does not answer", asked.name());
    say(state, Severity::Warning, text);
    false
}

/// The daemon with the master of the selected file system.
fn master(state: &mut State) -> Option<(usize, Handle)> {
    let (prefer, id) = selected(state)?;
    let fs = state.watched(&(prefer, id))?.info.fs.clone();
    let Some(daemon) = state.master_of(&fs, prefer).map(|(place, _)| place) else {
        let text = format!(
            "the master of {} is on another node: snapshots are made there",
            fs.tag
        );
        say(state, Severity::Warning, text);
        return None;
    };
    answers(state, daemon).then_some((daemon, fs))
}

pub(super) fn create_snapshot(state: &mut State) {
    let Some((daemon, fs)) = master(state) else {
        return;
    };
    let unpublished = state
        .master_of(&fs, daemon)
        .map_or(0, |(_, w)| w.info.unpublished);
    let text = if unpublished == 0 {
        "nothing has changed since the last one".to_owned()
    } else {
        format!(
            "{} since the last one",
            figures::counted(unpublished, "change", "changes")
        )
    };
    let title = format!("Snapshot of {}", fs.tag);
    let dialog = Dialog::new(Purpose::CreateSnapshot(daemon, fs), title)
        .text([text])
        .field("name (optional)", "");
    state.overlay = Some(Overlay::Dialog(dialog));
}

/// The selected snapshot's request, or a word about why nothing can be done with it.
fn request(
    state: &mut State,
    verb: &str,
    fit: fn(SnapshotState) -> bool,
) -> Option<(usize, Handle, SnapshotRow)> {
    let Some((fs, row)) = selected_snapshot(state) else {
        say(state, Severity::Warning, "no snapshot is selected");
        return None;
    };
    let number = row.id.number;
    let Some(daemon) = row.daemon.filter(|_| fit(row.state)) else {
        let text = format!(
            "snapshot {number} is {}: nothing to {verb}",
            row.state.name()
        );
        say(state, Severity::Warning, text);
        return None;
    };
    answers(state, daemon).then_some((daemon, fs, row))
}

pub(super) fn cancel(state: &mut State) {
    let Some((daemon, fs, row)) = request(state, "cancel", |s| !s.is_final()) else {
        return;
    };
    let number = row.id.number;
    let title = format!("Cancel snapshot {number} of {}", fs.tag);
    let dialog = Dialog::new(Purpose::Cancel(daemon, fs, number), title)
        .text([
            format!("It is {}.", row.state.name()),
            "What it would have held goes into the next snapshot.".to_owned(),
        ])
        .confirmed_by("yes");
    state.overlay = Some(Overlay::Dialog(dialog));
}

pub(super) fn retry(state: &mut State) -> Vec<Effect> {
    let fit = |s| matches!(s, SnapshotState::Failed | SnapshotState::Cancelled);
    match request(state, "retry", fit) {
        Some((daemon, fs, row)) => vec![Effect::Retry(daemon, fs, row.id.number)],
        None => Vec::new(),
    }
}

pub(super) fn delete(state: &mut State) {
    let (Some((fs, row)), Some(key)) = (selected_snapshot(state), state.selected_view()) else {
        say(state, Severity::Warning, "no snapshot is selected");
        return;
    };
    let number = row.id.number;
    if row.state != SnapshotState::Complete {
        let text = format!(
            "snapshot {number} is {}: only complete ones can be deleted",
            row.state.name()
        );
        say(state, Severity::Warning, text);
        return;
    }
    if row.held {
        let text = format!("snapshot {number} is held: `cbfsctl snapshot release` first");
        say(state, Severity::Warning, text);
        return;
    }
    let daemon = state.selected_instance().map_or(0, |((place, _), _)| place);
    let name = row
        .name
        .as_ref()
        .map(|n| format!(" ({})", figures::printable(n)));
    let title = format!("Delete snapshot {number} of {}", fs.tag);
    let mut dialog = Dialog::new(Purpose::Delete(daemon, key, row.id), title)
        .text([
            format!(
                "Snapshot {number}{}, made {}, {}.",
                name.unwrap_or_default(),
                figures::date_and_time(&row.at),
                figures::bytes(row.bytes)
            ),
            "It is not listed, found or mounted any more; this cannot be undone.".to_owned(),
            "What later snapshots need of it stays.".to_owned(),
        ])
        .confirmed_by(&format!("{}@{number}", fs.tag));
    dialog.destructive = true;
    state.overlay = Some(Overlay::Dialog(dialog));
}

pub(super) fn mount(state: &mut State) {
    let chosen = state
        .selected_instance()
        .map(|(key, w)| (key, w.info.clone()));
    let daemon = chosen.as_ref().map_or(0, |((place, _), _)| *place);
    if !answers(state, daemon) {
        return;
    }
    let (mut what, mut dir, bucket) = match &chosen {
        Some((_, info)) => {
            let mounted = info.mount_point.is_some();
            let dir = if mounted { "" } else { "/mnt/" };
            (info.fs.to_string(), dir.to_owned(), info.bucket.clone())
        }
        None => Default::default(),
    };
    let on_snapshot = state.focus == Pane::Snapshots;
    if on_snapshot
        && let Some(row) = state.selected_snapshot()
        && row.state == SnapshotState::Complete
    {
        what = format!("{what}@{}", row.id.number);
        dir.clear();
    }
    let mut dialog = Dialog::new(Purpose::Mount(daemon), "Mount".to_owned())
        .text([
            "FS is the master, read-write; FS@12, FS@NAME or FS@latest that snapshot, read-only."
                .to_owned(),
            "FS@latest with a time (10s, 5m) in the last field follows: it looks for new snapshots that often."
                .to_owned(),
        ])
        .field("FS[@SNAP]", &what)
        .field("directory", &dir)
        .field("bucket", &bucket)
        .field("follow every", "");
    dialog.focus = usize::from(!what.is_empty());
    state.overlay = Some(Overlay::Dialog(dialog));
}

pub(super) fn umount(state: &mut State) {
    let Some(key) = selected(state) else { return };
    let Some(info) = state.watched(&key).map(|w| w.info.clone()) else {
        return;
    };
    let Some(mount_point) = &info.mount_point else {
        say(
            state,
            Severity::Warning,
            format!("{} is not mounted", info.fs.tag),
        );
        return;
    };
    if !answers(state, key.0) {
        return;
    }
    let after = match info.role {
        Role::Master => "The master stays: its snapshots go on, and it can be mounted again.",
        Role::Slave => "A slave is nothing but its mount: what it has fetched goes too.",
    };
    let title = format!("Unmount {}", info.fs.tag);
    let dialog = Dialog::new(Purpose::Umount(key.0, key.1), title)
        .text([
            format!("Programs lose {}.", mount_point.display()),
            after.to_owned(),
        ])
        .confirmed_by("yes");
    state.overlay = Some(Overlay::Dialog(dialog));
}

/// Let the selected slave look for a newer snapshot now.
pub(super) fn follow(state: &mut State) -> Vec<Effect> {
    let Some(key) = selected(state) else {
        return Vec::new();
    };
    let follows = state
        .watched(&key)
        .is_some_and(|w| w.info.following.is_some());
    if !follows {
        let text =
            "this one does not follow: `cbfsctl mount FS DIR --slave --follow` makes one that does";
        say(state, Severity::Warning, text);
        return Vec::new();
    }
    if !answers(state, key.0) {
        return Vec::new();
    }
    say(state, Severity::Info, "looking for a newer snapshot");
    vec![Effect::RefreshSlave(key.0, key.1)]
}

pub(super) fn refresh(state: &mut State) -> Vec<Effect> {
    for look in state.buckets.values_mut() {
        look.stale = true;
        look.error = None;
    }
    let lost = state.daemons.iter().enumerate();
    let lost = lost.filter(|(_, d)| !matches!(d.link, Link::Connected { .. }));
    let effects: Vec<Effect> = lost.map(|(place, _)| Effect::Reconnect(place)).collect();
    say(state, Severity::Info, "looking again");
    effects
}
