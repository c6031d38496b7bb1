//! What must hold in every state. Each names the failure it prevents.

use crate::calls::{cuts, fs, parse};
use crate::node::Role;
use crate::replay::{Objects, at_once};
use crate::world::{State, World};
use cbfs_core::catalog::{self, Lineage};
use cbfs_core::format::epoch::BaseSnapshot;
use cbfs_core::format::keys;
use cbfs_core::format::manifest::Manifest;
use stateright::Property;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, LazyLock, Mutex};

/// A snapshot that was reported complete counts at any later time, has what was cut for it, and the latest of the lineage
/// builds on that. Else a person was told that work is safe which the next master does not have.
pub const COMPLETE_IS_NEVER_LOST: &str = "a complete snapshot is never lost";
/// No two snapshots of the lineage that were published by different epochs have the same parent, no two have the same
/// number, and each has a parent that counts. Else two masters would both count, or one would build on what does not.
pub const ONE_EPOCH_PAST_A_BASE: &str = "at most one epoch publishes past a base";
/// A manifest never changes. Else a reader that mounted a number has other contents than one that mounts it now.
pub const NUMBERS_ARE_NEVER_REUSED: &str = "numbers are never reused for different contents";
/// Else recovery and promotion would start from an older one.
pub const LATEST_IS_NEVER_DELETED: &str = "the latest of the lineage is never deleted";
/// Else a follower would show what the next master never had.
pub const FOLLOWED_IS_OF_THE_LINEAGE: &str = "a followed snapshot is of the lineage";
/// All objects of snapshots that count, and of those that are mounted, are there.
pub const NOTHING_NEEDED_IS_COLLECTED: &str = "nothing that a reader needs is collected";
/// Documents refer to each other as their readers expect.
pub const NO_CONTRADICTION: &str = "the bucket never contradicts itself";

/// All of them.
pub fn all() -> Vec<Property<World>> {
    vec![
        Property::always(COMPLETE_IS_NEVER_LOST, |_, s| complete_is_never_lost(s)),
        Property::always(ONE_EPOCH_PAST_A_BASE, |_, s| one_epoch_past_a_base(s)),
        Property::always(NUMBERS_ARE_NEVER_REUSED, |_, s| numbers_are_never_reused(s)),
        Property::always(LATEST_IS_NEVER_DELETED, |_, s| latest_is_never_deleted(s)),
        Property::always(FOLLOWED_IS_OF_THE_LINEAGE, |_, s| {
            followed_is_of_the_lineage(s)
        }),
        Property::always(NOTHING_NEEDED_IS_COLLECTED, |_, s| {
            nothing_needed_is_collected(s)
        }),
        Property::always(NO_CONTRADICTION, |_, s: &State| {
            s.nodes.iter().all(|n| !n.saw_damage)
        }),
    ]
}

/// What the bucket says, read at once.
struct View {
    lineage: Lineage,
    manifests: BTreeMap<BaseSnapshot, Manifest>,
    /// As readers see them.
    deleted: BTreeSet<BaseSnapshot>,
    /// As they are marked.
    marked: BTreeSet<BaseSnapshot>,
    latest: Option<BaseSnapshot>,
}

static VIEWS: LazyLock<Mutex<HashMap<Objects, Arc<View>>>> = LazyLock::new(Mutex::default);

fn view(state: &State) -> Arc<View> {
    if let Some(view) = VIEWS.lock().unwrap().get(&state.objects) {
        return Arc::clone(view);
    }
    let view = Arc::new(at_once(&state.objects, |bucket| {
        let fs = &fs();
        let all = catalog::all_manifests(bucket, fs).unwrap();
        let lineage = catalog::lineage(bucket, fs).unwrap();
        let latest = all.iter().rfind(|m| !m.diverged).map(|m| m.id);
        View {
            deleted: all.iter().filter(|m| m.deleted).map(|m| m.id).collect(),
            marked: catalog::deleted_snapshots(bucket, fs).unwrap(),
            manifests: all
                .into_iter()
                .map(|m| (m.id, m.manifest.unwrap()))
                .collect(),
            lineage,
            latest,
        }
    }));
    VIEWS
        .lock()
        .unwrap()
        .insert(state.objects.clone(), Arc::clone(&view));
    view
}

impl View {
    fn lineal(&self) -> impl Iterator<Item = &Manifest> {
        self.manifests
            .values()
            .filter(|m| self.lineage.contains(m.id()))
    }

    /// What was cut for the latest and all its ancestors.
    fn past(&self) -> BTreeSet<u64> {
        let mut found = BTreeSet::new();
        let mut next = self.latest;
        while let Some(id) = next {
            let manifest = self.manifests.get(&id);
            found.extend(manifest.into_iter().flat_map(cuts));
            next = manifest.and_then(|m| m.parent);
        }
        found
    }
}

fn complete_is_never_lost(state: &State) -> bool {
    let view = view(state);
    let past = view.past();
    state.reported.iter().all(|(number, epoch, cut)| {
        let id = crate::calls::id(*number, *epoch);
        let content = view.manifests.get(&id).map(|m| m.xid.to.0);
        past.contains(&u64::from(*cut))
            && view.lineage.contains(id)
            && content == Some((*cut).into())
    })
}

fn is_closed(manifest: &Manifest) -> bool {
    // A number that was given up, or one of the first snapshots.
    manifest.attempt.parse::<u8>().is_err()
}

fn one_epoch_past_a_base(state: &State) -> bool {
    let view = view(state);
    let (mut epochs, mut numbers) = (HashMap::new(), BTreeSet::new());
    view.lineal().all(|m| {
        let alone = is_closed(m) || *epochs.entry(m.parent).or_insert(m.epoch) == m.epoch;
        let parent_counts = m.parent.is_none_or(|parent| view.lineage.contains(parent));
        alone && parent_counts && numbers.insert(m.number)
    })
}

fn numbers_are_never_reused(state: &State) -> bool {
    let was = |key| state.replaced.get(key);
    let mut changed = state.objects.0.iter();
    changed.all(|(key, doc)| was(key).is_none_or(|was| was == doc))
}

fn latest_is_never_deleted(state: &State) -> bool {
    let view = view(state);
    let Some(latest) = view.latest else {
        return true;
    };
    // The one who closes a number marks it at once, and publishes the next.
    !view.lineage.is_settled()
        || !view.marked.contains(&latest)
        || is_closed(&view.manifests[&latest])
}

fn followed_is_of_the_lineage(state: &State) -> bool {
    let view = view(state);
    let mut followers = state.nodes.iter().filter(|n| n.disk.role == Role::Follower);
    followers.all(|n| {
        let at = n.disk.complete.map(|doc| parse(doc).id());
        at.is_none_or(|at| view.lineage.contains(at))
    })
}

fn nothing_needed_is_collected(state: &State) -> bool {
    let view = view(state);
    let there = |m: &Manifest| {
        m.layers.iter().all(|layer| {
            let key = keys::absolute(&fs(), &layer.object.key).unwrap();
            let key = crate::replay::KeyId::of(key.as_str());
            state.objects.0.contains_key(&key)
        })
    };
    let mounted = state
        .nodes
        .iter()
        .filter(|n| n.disk.role == Role::Follower)
        .filter_map(|n| n.disk.complete);
    view.lineal()
        .filter(|m| !view.deleted.contains(&m.id()))
        .all(there)
        && mounted.map(parse).all(|m| there(&m))
}
