//! The bucket, the nodes, and everything that may happen next.

use crate::calls::{Call, claim, fs, id, manifest, object_of};
use crate::flaw::Flaw;
use crate::invariants;
use crate::node::{Busy, Node, Role, Stage};
use crate::replay::{Answer, DocId, KeyId, Objects, Progress, Request};
use cbfs_core::format::{self, keys};
use cbfs_core::ids::Epoch;
use stateright::{Model, Property};
use std::collections::{BTreeMap, BTreeSet};

/// A state of everything.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    /// The bucket.
    pub objects: Objects,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// PUTs whose sender waits no more: they may arrive at any time, or never.
    pub late: Vec<(KeyId, DocId)>,
    /// Answers that may still be lost, and kills that may still happen.
    pub losses: u8,
    /// Kills.
    pub kills: u8,
    /// Snapshots reported complete: number, epoch, cut.
    pub reported: BTreeSet<(u8, u8, u8)>,
    /// Manifests that were once there, and are gone or others now.
    pub replaced: BTreeMap<KeyId, DocId>,
}

/// What may happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// A node makes its next request, or takes its next step on its disk.
    Step(usize),
    /// A node makes its next request, a PUT; no answer comes, and the PUT may arrive late.
    Lose(usize),
    /// A late PUT arrives.
    Arrive(usize),
    /// A node is killed and started again.
    Kill(usize),
    /// An image of a node's disk is made.
    Image(usize),
    /// A node is started from its image.
    Restore(usize),
    /// A copy of a node's disk is started as another node.
    Copy(usize, usize),
    /// A person cancels a node's request.
    Cancel(usize),
    /// A snapshot is to be deleted.
    Delete(usize, u8, u8),
}

/// The model: how it begins, and the mistake in it.
#[derive(Clone, Debug)]
pub struct World {
    /// The first state.
    pub start: State,
    /// The mistake.
    pub flaw: Option<Flaw>,
}

impl World {
    /// A file system whose epoch 1 has published `snapshots` complete snapshots, and these nodes.
    pub fn new(snapshots: u8, nodes: Vec<Node>) -> World {
        let mut objects = Objects::default();
        let mut put = |key: &str, bytes: &[u8]| {
            let key = KeyId::of(&format!("{}/{key}", fs()));
            objects.0.insert(key, DocId::of(bytes));
        };
        let first = format::to_json(&claim(1, 0)).unwrap();
        put(&keys::epoch_claim(Epoch(1)), &first);
        let (mut complete, mut reported) = (None, BTreeSet::new());
        for number in 1..=snapshots {
            // Ids of nobody.
            let own = 0xf0 + number;
            let doc = manifest(complete, (number, 1), own, own, &[]);
            let snapshot = id(number, 1);
            put(&object_of(number, 1, own), &[own]);
            put(
                &keys::manifest(snapshot.number, snapshot.epoch),
                &doc.bytes(),
            );
            reported.insert((number, 1, own));
            complete = Some(doc);
        }
        let mut nodes = nodes;
        for node in &mut nodes {
            if matches!(node.disk.role, Role::Master | Role::Follower) {
                node.disk.complete = complete;
            }
        }
        World {
            start: State {
                objects,
                nodes,
                late: Vec::new(),
                losses: 0,
                kills: 0,
                reported,
                replaced: BTreeMap::new(),
            },
            flaw: None,
        }
    }

    /// With answers to PUTs that are lost.
    pub fn losses(mut self, losses: u8) -> World {
        self.start.losses = losses;
        self
    }

    /// With kills.
    pub fn kills(mut self, kills: u8) -> World {
        self.start.kills = kills;
        self
    }

    /// With a snapshot of epoch 1 that is marked deleted.
    pub fn deleted(mut self, number: u8) -> World {
        let snapshot = id(number, 1);
        let key = keys::deleted_snapshot(snapshot.number, snapshot.epoch);
        let key = KeyId::of(&format!("{}/{key}", fs()));
        self.start.objects.0.insert(key, DocId::of(b"a mark"));
        self
    }

    /// With a follower that has mounted this snapshot of epoch 1.
    pub fn mounted(mut self, node: usize, number: u8) -> World {
        self.start.nodes[node].disk.complete = self.start.manifest_of(number, 1);
        self
    }

    /// With an image of a node's disk from when this snapshot of epoch 1 was the last.
    pub fn image(mut self, node: usize, number: u8) -> World {
        let complete = self.start.manifest_of(number, 1);
        let node = &mut self.start.nodes[node];
        let disk = node.disk.clone();
        node.image = Some(crate::node::Disk { complete, ..disk });
        self
    }

    /// With a mistake.
    pub fn with(mut self, flaw: Flaw) -> World {
        self.flaw = Some(flaw);
        self
    }
}

impl State {
    /// The highest epoch that is claimed.
    pub fn highest_epoch(&self) -> u8 {
        let claimed = |epoch: &u8| {
            let key = keys::epoch_claim(Epoch((*epoch).into()));
            let key = KeyId::of(&format!("{}/{key}", fs()));
            self.objects.0.contains_key(&key)
        };
        (1..).take_while(claimed).last().unwrap_or(0)
    }

    /// The manifest that stands.
    pub fn manifest_of(&self, number: u8, epoch: u8) -> Option<DocId> {
        let snapshot = id(number, epoch);
        let key = keys::manifest(snapshot.number, snapshot.epoch);
        let key = KeyId::of(&format!("{}/{key}", fs()));
        self.objects.0.get(&key).copied()
    }

    /// The collector removes an object.
    pub(crate) fn remove(&mut self, key: KeyId) {
        if let Some(was) = self.objects.0.remove(&key)
            && key.text().contains("/m/")
        {
            self.replaced.entry(key).or_insert(was);
        }
    }

    /// An action in words.
    pub fn tell(&self, action: Action) -> String {
        match action {
            Action::Step(i) | Action::Lose(i) => match self.next_request(i) {
                Some(request) => format!("{action:?}: {request}"),
                None => format!("{action:?}: {:?} goes on", self.nodes[i].disk.role),
            },
            Action::Arrive(which) => format!("{action:?}: {}", self.late[which].0.text()),
            other => format!("{other:?}"),
        }
    }

    fn next_request(&self, i: usize) -> Option<Request> {
        let busy = self.nodes[i].busy.as_ref()?;
        match busy.call.progress(&busy.answers) {
            Progress::Asks(request) => Some(request),
            Progress::Ended(_) => None,
        }
    }

    fn serve(&mut self, request: &Request, flaw: Option<Flaw>) -> Answer {
        if flaw == Some(Flaw::ManifestsAreReplaced)
            && let Request::Create(key, doc) = request
            && key.text().contains("/m/")
        {
            if let Some(was) = self.objects.0.insert(*key, *doc)
                && was != *doc
            {
                self.replaced.entry(*key).or_insert(was);
            }
            return Answer::Created;
        }
        self.objects.serve(request)
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.start.clone()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (i, node) in state.nodes.iter().enumerate() {
            match &node.busy {
                Some(_) => {
                    actions.push(Action::Step(i));
                    let put = matches!(state.next_request(i), Some(Request::Create(..)));
                    if put && state.losses > 0 {
                        actions.push(Action::Lose(i));
                    }
                    if state.kills > 0 {
                        actions.push(Action::Kill(i));
                    }
                }
                None => {
                    if node.can_begin() {
                        actions.push(Action::Step(i));
                    }
                    if node.disk.open.is_some() && node.cancels > 0 {
                        actions.push(Action::Cancel(i));
                    }
                    if node.disk.role == Role::Deleter && node.wants > 0 {
                        actions.extend(deletable(state).map(|(n, e)| Action::Delete(i, n, e)));
                    }
                }
            }
            if node.images > 0 {
                actions.push(Action::Image(i));
                let absent = |n: &Node| n.disk.role == Role::Absent;
                if let Some(free) = state.nodes.iter().position(absent) {
                    actions.push(Action::Copy(i, free));
                }
            }
            if node.image.is_some() {
                actions.push(Action::Restore(i));
            }
        }
        actions.extend((0..state.late.len()).map(Action::Arrive));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Step(i) => match state.next_request(i) {
                Some(request) => {
                    let answer = state.serve(&request, self.flaw);
                    state.answered(i, answer, self.flaw);
                }
                None => state.begin(i, self.flaw),
            },
            Action::Lose(i) => {
                let Some(Request::Create(key, doc)) = state.next_request(i) else {
                    return None;
                };
                state.losses -= 1;
                state.late.push((key, doc));
                state.answered(i, Answer::Lost, self.flaw);
            }
            Action::Arrive(which) => {
                let (key, doc) = state.late.remove(which);
                state.serve(&Request::Create(key, doc), self.flaw);
            }
            Action::Kill(i) => {
                state.kills -= 1;
                state.nodes[i].restart();
            }
            Action::Image(i) => {
                let node = &mut state.nodes[i];
                node.images -= 1;
                node.image = Some(node.disk.clone());
            }
            Action::Restore(i) => {
                let node = &mut state.nodes[i];
                node.disk = node.image.take()?;
                node.restart();
            }
            Action::Copy(i, free) => {
                state.nodes[i].images -= 1;
                state.nodes[free].disk = state.nodes[i].disk.clone();
            }
            Action::Cancel(i) => state.cancel(i),
            Action::Delete(i, number, epoch) => {
                let call = match self.flaw {
                    Some(Flaw::DeleteDuringPromotion) => Call::DeleteAnyway { number, epoch },
                    _ => Call::Delete { number, epoch },
                };
                let node = &mut state.nodes[i];
                node.wants -= 1;
                node.busy = Some(Busy {
                    stage: Stage::Delete,
                    call,
                    answers: Vec::new(),
                });
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<World>> {
        invariants::all()
    }
}

/// The snapshots there are.
fn deletable(state: &State) -> impl Iterator<Item = (u8, u8)> {
    let prefix = format!("{}/", fs());
    let ids: Vec<(u8, u8)> = state
        .objects
        .0
        .keys()
        .filter_map(|key| {
            let text = key.text();
            let (number, epoch) = keys::parse_manifest(text.strip_prefix(&prefix)?)?;
            Some((u8::try_from(number.0).ok()?, u8::try_from(epoch.0).ok()?))
        })
        .collect();
    ids.into_iter()
}
