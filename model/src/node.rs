//! What a node keeps on its disk, and in which order it calls the catalog: the daemon's half of the protocol
//! (`cbfsd/src/snapshots` and `cbfsd/src/manager`).

use crate::calls::{Call, Kind, Outcome, manifest, object_of, parse};
use crate::flaw::Flaw;
use crate::replay::{Answer, DocId, KeyId, Progress};
use crate::world::State;

/// What a node is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    /// Not there; a copy of another node's disk may be started here.
    Absent,
    /// Serves read-write and publishes, until it is fenced.
    Master,
    /// Serves a snapshot; a person may promote it.
    Slave,
    /// The nonce is persisted, the promotion goes on until it is done or lost.
    Promoting,
    /// Was superseded, or another was first.
    Fenced,
    /// Mounts the latest snapshot and follows.
    Follower,
    /// A person or retention that deletes snapshots.
    Deleter,
    /// Collects garbage.
    Collector,
}

/// A request for a snapshot.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Asked {
    /// Its number.
    pub number: u8,
    /// The cut, once made: stands for the content.
    pub cut: Option<u8>,
    /// Attempt ids, each with the cut it was drawn after.
    pub attempts: Vec<(u8, Option<u8>)>,
    /// A manifest may have been sent.
    pub copying: bool,
}

/// What survives a kill.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Disk {
    /// What the node is.
    pub role: Role,
    /// Its epoch, or the one it promotes itself to.
    pub epoch: u8,
    /// The nonce of its claim.
    pub nonce: u8,
    /// The last complete snapshot it knows; what a follower has mounted.
    pub complete: Option<DocId>,
    /// The request under way.
    pub open: Option<Asked>,
    /// Requests that were cancelled.
    pub given_up: Vec<Asked>,
}

/// What a call under way is for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Stage {
    /// Was it published before? `then_cancel`: it is withdrawn if not.
    Look {
        then_cancel: bool,
    },
    /// Is this master superseded, before the manifest?
    Before(DocId),
    /// Close a number that was given up.
    Close(DocId, u8),
    /// The manifest.
    Publish(DocId),
    /// Is it superseded, after the manifest?
    After(DocId),
    /// The latest snapshot before the claim (a mistake).
    Preview,
    /// The claim, with what was seen before it.
    Claim(Option<Option<(u8, u8)>>),
    /// The latest snapshot after the claim, to be believed in (a mistake).
    Find,
    /// The base.
    Base,
    /// The last look, with the base.
    Confirm(Option<(u8, u8)>),
    /// A follower's poll; did it begin after the collector's first look?
    Poll(bool),
    /// Delete.
    Delete,
    /// The collector's first and second look.
    FirstLook,
    SecondLook,
}

/// A call under way: lost with a kill.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Busy {
    /// What for.
    pub stage: Stage,
    /// The call.
    pub call: Call,
    /// What its requests were answered.
    pub answers: Vec<Answer>,
}

/// A node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Node {
    /// What survives a kill.
    pub disk: Disk,
    /// An image of it that may be restored.
    pub image: Option<Disk>,
    /// What it does.
    pub busy: Option<Busy>,
    /// It has looked whether its request was published before: lost with a kill.
    pub looked: bool,
    /// Random ids drawn so far. No image brings one back.
    pub drawn: u8,
    /// Snapshots to ask for, polls, deletions or collections to do.
    pub wants: u8,
    /// Cancellations to do.
    pub cancels: u8,
    /// Images to take.
    pub images: u8,
    /// What the collector found, and has not removed.
    pub garbage: Vec<KeyId>,
    /// Followers that may still read what it found.
    pub waits_for: Vec<usize>,
    /// The bucket contradicted itself.
    pub saw_damage: bool,
}

impl Node {
    /// A node of this role in this epoch.
    pub fn new(role: Role, epoch: u8, wants: u8) -> Node {
        Node {
            disk: Disk {
                role,
                epoch,
                nonce: 0,
                complete: None,
                open: None,
                given_up: Vec::new(),
            },
            image: None,
            busy: None,
            looked: false,
            drawn: 0,
            wants,
            cancels: 0,
            images: 0,
            garbage: Vec::new(),
            waits_for: Vec::new(),
            saw_damage: false,
        }
    }

    /// With cancellations.
    pub fn cancels(self, cancels: u8) -> Node {
        Node { cancels, ..self }
    }

    /// With images of its disk.
    pub fn images(self, images: u8) -> Node {
        Node { images, ..self }
    }

    /// What was in memory is lost.
    pub fn restart(&mut self) {
        self.busy = None;
        self.looked = false;
        self.garbage.clear();
        self.waits_for.clear();
    }

    fn complete_number(&self) -> u8 {
        self.disk
            .complete
            .map_or(0, |doc| u8::try_from(parse(doc).number.0).unwrap())
    }

    fn next_number(&self) -> u8 {
        let given_up = self.disk.given_up.iter().map(|asked| asked.number).max();
        given_up.unwrap_or(0).max(self.complete_number()) + 1
    }

    fn call(&mut self, stage: Stage, call: Call) {
        self.busy = Some(Busy {
            stage,
            call,
            answers: Vec::new(),
        });
    }

    /// Whether it has something to do of itself when no call is under way.
    pub fn can_begin(&self) -> bool {
        let disk = &self.disk;
        match disk.role {
            Role::Master => disk.open.is_some() || self.wants > 0,
            Role::Promoting => true,
            Role::Slave | Role::Follower => self.wants > 0,
            Role::Collector => {
                !self.garbage.is_empty() && self.waits_for.is_empty() || self.wants > 0
            }
            Role::Absent | Role::Fenced | Role::Deleter => false,
        }
    }

    fn superseded(&mut self) {
        self.disk.role = Role::Fenced;
        self.disk.open = None;
        self.busy = None;
    }
}

impl State {
    fn draw(&mut self, i: usize) -> u8 {
        let node = &mut self.nodes[i];
        node.drawn += 1;
        assert!(node.drawn < 16, "ids of this node are used up");
        u8::try_from(i).unwrap() * 16 + node.drawn
    }

    /// The next step of a node that has no call under way.
    pub(crate) fn begin(&mut self, i: usize, flaw: Option<Flaw>) {
        match self.nodes[i].disk.role {
            Role::Master => self.begin_snapshot(i, flaw),
            Role::Slave => {
                let nonce = self.draw(i);
                let epoch = self.highest_epoch() + 1;
                let node = &mut self.nodes[i];
                node.wants -= 1;
                node.disk.role = Role::Promoting;
                (node.disk.nonce, node.disk.epoch) = (nonce, epoch);
                // From here on it wants snapshots.
                node.wants += 1;
            }
            Role::Promoting => {
                let node = &mut self.nodes[i];
                if flaw == Some(Flaw::BaseFromBeforeTheClaim) {
                    node.call(Stage::Preview, Call::Latest);
                } else {
                    let (epoch, nonce) = (node.disk.epoch, node.disk.nonce);
                    node.call(Stage::Claim(None), Call::Claim { epoch, nonce });
                }
            }
            Role::Follower => {
                let marked = self.nodes.iter().any(|n| n.waits_for.contains(&i));
                let node = &mut self.nodes[i];
                node.wants -= 1;
                let call = if flaw == Some(Flaw::FollowDuringPromotion) {
                    Call::Latest
                } else {
                    Call::LatestSettled
                };
                node.call(Stage::Poll(marked), call);
            }
            Role::Collector => self.begin_collection(i, flaw),
            Role::Absent | Role::Fenced | Role::Deleter => {}
        }
    }

    fn begin_snapshot(&mut self, i: usize, flaw: Option<Flaw>) {
        let before_cut = flaw == Some(Flaw::AttemptBeforeCut);
        let node = &mut self.nodes[i];
        let Some(open) = node.disk.open.clone() else {
            node.wants -= 1;
            let number = node.next_number();
            let attempts = match before_cut {
                true => vec![(self.draw(i), None)],
                false => Vec::new(),
            };
            self.nodes[i].disk.open = Some(Asked {
                number,
                cut: None,
                attempts,
                copying: false,
            });
            return;
        };
        if open.cut.is_none() {
            let cut = self.draw(i);
            if let Some(open) = &mut self.nodes[i].disk.open {
                open.cut = Some(cut);
            }
            return;
        }
        if open.copying && !node.looked {
            let (number, epoch) = (open.number, node.disk.epoch);
            let look = Stage::Look { then_cancel: false };
            return node.call(look, Call::Load { number, epoch });
        }
        let attempt = match (before_cut, open.attempts.last()) {
            // Drawn before the cut, and not yet used.
            (true, Some((attempt, _))) if !open.copying => *attempt,
            _ => self.draw(i),
        };
        let node = &mut self.nodes[i];
        node.looked = false;
        let (epoch, parent) = (node.disk.epoch, node.disk.complete);
        let cut = open.cut.unwrap_or_default();
        let failed: Vec<u8> = node.disk.given_up.iter().filter_map(|a| a.cut).collect();
        let made = manifest(parent, (open.number, epoch), attempt, cut, &failed);
        if let Some(open) = &mut node.disk.open
            && !before_cut
        {
            open.attempts.push((attempt, Some(cut)));
        }
        node.call(Stage::Before(made), Call::IsSuperseded { epoch });
        let object = KeyId::of(&format!(
            "{}/{}",
            crate::calls::fs(),
            object_of(open.number, epoch, attempt)
        ));
        self.objects.0.entry(object).or_insert(DocId::of(&[cut]));
    }

    fn begin_collection(&mut self, i: usize, flaw: Option<Flaw>) {
        let garbage = Call::Garbage(flaw);
        let node = &mut self.nodes[i];
        if node.garbage.is_empty() {
            node.wants -= 1;
            node.call(Stage::FirstLook, garbage);
        } else {
            node.call(Stage::SecondLook, garbage);
        }
    }

    /// A person cancels the request under way.
    pub(crate) fn cancel(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        node.cancels -= 1;
        let Some(open) = node.disk.open.clone() else {
            return;
        };
        if open.copying {
            let (number, epoch) = (open.number, node.disk.epoch);
            node.call(
                Stage::Look { then_cancel: true },
                Call::Load { number, epoch },
            );
        } else {
            node.give_up(open);
        }
    }

    /// One request of the call under way was answered.
    pub(crate) fn answered(&mut self, i: usize, answer: Answer, flaw: Option<Flaw>) {
        let Some(busy) = &mut self.nodes[i].busy else {
            return;
        };
        busy.answers.push(answer);
        if let Progress::Ended(outcome) = busy.call.progress(&busy.answers) {
            self.ended(i, outcome, flaw);
        }
    }

    fn ended(&mut self, i: usize, outcome: Outcome, flaw: Option<Flaw>) {
        if outcome == Outcome::Failed(Kind::Unreachable) {
            // Tried again from its start, as every function of the catalog allows.
            if let Some(busy) = &mut self.nodes[i].busy {
                busy.answers.clear();
            }
            return;
        }
        let Some(busy) = self.nodes[i].busy.take() else {
            return;
        };
        if outcome == Outcome::Failed(Kind::Damage) {
            self.nodes[i].saw_damage = true;
        }
        match busy.stage {
            Stage::Look { then_cancel } => self.looked(i, &outcome, then_cancel, flaw),
            Stage::Before(made) => match outcome {
                Outcome::Done => self.go_on(i, made, self.nodes[i].complete_number() + 1, flaw),
                _ => self.nodes[i].superseded(),
            },
            Stage::Close(made, number) => {
                let others = match &outcome {
                    Outcome::Manifest(other) => !self.nodes[i].is_own(number, *other, flaw),
                    _ => outcome != Outcome::Done,
                };
                if others {
                    self.nodes[i].superseded();
                } else {
                    self.go_on(i, made, number + 1, flaw);
                }
            }
            Stage::Publish(made) => match outcome {
                Outcome::Done => self.look_after(i, made, flaw),
                Outcome::Manifest(other) => {
                    let number = parse(other).number.0;
                    if self.nodes[i].is_own(u8::try_from(number).unwrap(), other, flaw) {
                        self.look_after(i, other, flaw);
                    } else {
                        self.nodes[i].superseded();
                    }
                }
                _ => self.nodes[i].superseded(),
            },
            Stage::After(made) => match outcome {
                Outcome::Done => self.complete(i, made),
                _ => self.nodes[i].superseded(),
            },
            Stage::Preview => {
                let (epoch, nonce) = (self.nodes[i].disk.epoch, self.nodes[i].disk.nonce);
                let seen = Some(snapshot(&outcome));
                self.nodes[i].call(Stage::Claim(seen), Call::Claim { epoch, nonce });
            }
            Stage::Claim(seen) => self.claimed(i, &outcome, seen, flaw),
            Stage::Find => {
                let (epoch, base) = (self.nodes[i].disk.epoch, snapshot(&outcome));
                self.nodes[i].call(Stage::Base, Call::WriteBase { epoch, base });
            }
            Stage::Base => match outcome {
                Outcome::Snapshot(base) => {
                    let (epoch, nonce) = (self.nodes[i].disk.epoch, self.nodes[i].disk.nonce);
                    self.nodes[i].call(Stage::Confirm(base), Call::Confirm { epoch, nonce });
                }
                _ => self.nodes[i].superseded(),
            },
            Stage::Confirm(base) => match outcome {
                Outcome::Done => {
                    let base = base.and_then(|(number, epoch)| self.manifest_of(number, epoch));
                    let disk = &mut self.nodes[i].disk;
                    (disk.role, disk.complete) = (Role::Master, base);
                }
                _ => self.nodes[i].superseded(),
            },
            Stage::Poll(after_mark) => {
                let to = match outcome {
                    Outcome::Manifest(to) => Some(to),
                    Outcome::Snapshot(Some((number, epoch))) => self.manifest_of(number, epoch),
                    _ => None,
                };
                if let Some(to) = to {
                    self.nodes[i].disk.complete = Some(to);
                    if after_mark {
                        for node in &mut self.nodes {
                            node.waits_for.retain(|f| *f != i);
                        }
                    }
                }
            }
            Stage::Delete => {}
            Stage::FirstLook => {
                if let Outcome::Keys(keys) = outcome {
                    let followers = (0..self.nodes.len())
                        .filter(|f| self.nodes[*f].disk.role == Role::Follower);
                    let followers = match flaw {
                        Some(Flaw::NoGrace) => Vec::new(),
                        _ => followers.collect(),
                    };
                    let node = &mut self.nodes[i];
                    node.garbage = keys.iter().map(|key| KeyId::of(key)).collect();
                    node.waits_for = match node.garbage.is_empty() {
                        true => Vec::new(),
                        false => followers,
                    };
                }
            }
            Stage::SecondLook => {
                let found = std::mem::take(&mut self.nodes[i].garbage);
                if let Outcome::Keys(keys) = outcome {
                    for key in found.into_iter().filter(|k| keys.contains(&k.text())) {
                        self.remove(key);
                    }
                }
            }
        }
    }

    fn claimed(
        &mut self,
        i: usize,
        outcome: &Outcome,
        seen: Option<Option<(u8, u8)>>,
        flaw: Option<Flaw>,
    ) {
        let node = &mut self.nodes[i];
        let epoch = node.disk.epoch;
        match (outcome, seen) {
            (Outcome::Done, Some(base)) => node.call(Stage::Base, Call::WriteBase { epoch, base }),
            (Outcome::Done, None) if flaw == Some(Flaw::BaseNotReadBack) => {
                node.call(Stage::Find, Call::Latest);
            }
            (Outcome::Done, None) => node.call(Stage::Base, Call::SettleBase { epoch }),
            _ => node.superseded(),
        }
    }

    /// Close the given-up numbers from `number` on, then publish.
    fn go_on(&mut self, i: usize, made: DocId, number: u8, flaw: Option<Flaw>) {
        let node = &mut self.nodes[i];
        let epoch = node.disk.epoch;
        if let Some(parent) = node.disk.complete
            && u64::from(number) < parse(made).number.0
            && flaw != Some(Flaw::GapsStayOpen)
        {
            let call = Call::Close {
                parent,
                number,
                epoch,
            };
            return node.call(Stage::Close(made, number), call);
        }
        if let Some(open) = &mut node.disk.open {
            open.copying = true;
        }
        node.call(Stage::Publish(made), Call::Publish { manifest: made });
    }

    fn look_after(&mut self, i: usize, made: DocId, flaw: Option<Flaw>) {
        if flaw == Some(Flaw::NoLookAfterTheManifest) {
            return self.complete(i, made);
        }
        let epoch = self.nodes[i].disk.epoch;
        self.nodes[i].call(Stage::After(made), Call::IsSuperseded { epoch });
    }

    fn looked(&mut self, i: usize, outcome: &Outcome, then_cancel: bool, flaw: Option<Flaw>) {
        let Some(open) = self.nodes[i].disk.open.clone() else {
            return;
        };
        match outcome {
            Outcome::Manifest(there) if self.nodes[i].is_own(open.number, *there, flaw) => {
                self.look_after(i, *there, flaw);
            }
            Outcome::Failed(Kind::NotFound) if then_cancel => self.nodes[i].give_up(open),
            Outcome::Failed(Kind::NotFound) => self.nodes[i].looked = true,
            _ => self.nodes[i].superseded(),
        }
    }

    fn complete(&mut self, i: usize, made: DocId) {
        let disk = &mut self.nodes[i].disk;
        if let Some(open) = disk.open.take() {
            disk.complete = Some(made);
            disk.given_up.clear();
            let cut = open.cut.unwrap_or_default();
            self.reported.insert((open.number, disk.epoch, cut));
        }
    }
}

impl Node {
    /// Whether the manifest of this number is one of our own attempts.
    fn is_own(&self, number: u8, manifest: DocId, flaw: Option<Flaw>) -> bool {
        let Ok(attempt) = parse(manifest).attempt.parse::<u8>() else {
            return false; // a number that somebody else closed
        };
        let asked = self.disk.open.iter().chain(&self.disk.given_up);
        asked.filter(|a| a.number == number).any(|asked| {
            asked.attempts.iter().any(|(ours, cut)| {
                *ours == attempt && (cut.is_some() || flaw == Some(Flaw::AttemptBeforeCut))
            })
        })
    }

    fn give_up(&mut self, open: Asked) {
        self.disk.given_up.push(open);
        self.disk.open = None;
        self.looked = false;
    }
}

fn snapshot(outcome: &Outcome) -> Option<(u8, u8)> {
    match outcome {
        Outcome::Snapshot(snapshot) => *snapshot,
        _ => None,
    }
}
