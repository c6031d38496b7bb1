//! Deleting a file system, taking that back, and collecting it: the functions of `cbfs_core::catalog` themselves, every
//! interleaving of their requests, with an answer that is lost (the request carried out at once, later, or never).

#![allow(clippy::unwrap_used, clippy::panic)]

use cbfs_core::bucket::{Body, Bucket};
use cbfs_core::catalog;
use cbfs_core::error::{ErrorKind, Result};
use cbfs_core::format::keys;
use cbfs_core::format::mark::{DeletionEnd, FsMark, SnapshotMark};
use cbfs_core::ids::Epoch;
use cbfs_model::calls::{claim, fs, id, manifest};
use cbfs_model::replay::{Answer, DocId, KeyId, Objects, Progress, Request, at_once, replay};
use std::collections::{BTreeSet, HashSet};

/// An invariant, or how it is broken.
type Held = Result<(), String>;

/// What somebody does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Act {
    Delete,
    Undelete,
    Collect,
    /// Hold a snapshot.
    Hold,
    /// As [`Act::Hold`] without a look behind it: the mistake that the look prevents.
    HoldBlindly,
    /// As [`Act::Collect`], but the mark has a key of its own: the mistake that one key for both ends prevents.
    CollectBesides,
}

/// What was told to somebody, of the nth deletion.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Told {
    TakenBack(u32),
    MayBeCollected(u32),
    Held,
    Refused,
}

impl Act {
    /// `at` tells one actor from the other.
    fn run(self, bucket: &dyn Bucket, at: &str) -> Result<Option<Told>> {
        let fs = &fs();
        match self {
            Act::Delete => {
                let next = catalog::fs_may_be_deleted(bucket, fs)?;
                catalog::delete_fs(bucket, fs, next, None, at)?;
                Ok(None)
            }
            Act::Hold => {
                catalog::hold_snapshot(bucket, &hold())?;
                Ok(Some(Told::Held))
            }
            Act::HoldBlindly => {
                catalog::refuse_deleted(bucket, fs)?;
                let key = keys::absolute(fs, &keys::hold(hold().number, hold().epoch, 1))?;
                let bytes = cbfs_core::format::to_sealed_json(&hold())?;
                cbfs_core::bucket::create_or_same(bucket, &key, &bytes)?;
                Ok(Some(Told::Held))
            }
            Act::Undelete => {
                let deletion = catalog::undelete_fs(bucket, fs, at)?;
                Ok(Some(Told::TakenBack(deletion.mark.nth)))
            }
            Act::Collect | Act::CollectBesides => {
                let Some(deletion) = catalog::deletion(bucket, fs)? else {
                    return Ok(None);
                };
                let nth = deletion.mark.nth;
                let end = DeletionEnd::Collected;
                if self == Act::CollectBesides {
                    let mark = FsMark::new(fs.clone(), nth, Some(end), None, at.to_owned());
                    let bytes = cbfs_core::format::to_json(&mark)?;
                    let key = keys::absolute(fs, &format!("deleted/fs.{nth:04}.gone.json"))?;
                    bucket.create(&key, Body::Bytes(&bytes))?;
                    return Ok(Some(Told::MayBeCollected(nth)));
                }
                let ended = catalog::end_deletion(bucket, fs, nth, end, at)?;
                Ok((ended == end).then_some(Told::MayBeCollected(nth)))
            }
        }
    }
}

/// Somebody, and how far he is with what he does next.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Actor {
    name: &'static str,
    acts: Vec<Act>,
    answers: Vec<Answer>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    objects: Objects,
    actors: Vec<Actor>,
    /// Answers that may still be lost.
    losses: u8,
    /// Requests whose answer was lost, and that are carried out some time.
    late: Vec<Request>,
    told: BTreeSet<Told>,
}

impl State {
    fn new(losses: u8, actors: &[(&'static str, &[Act])]) -> State {
        let actors = actors.iter().map(|(name, acts)| Actor {
            name,
            acts: acts.to_vec(),
            answers: Vec::new(),
        });
        State {
            objects: Objects::default(),
            actors: actors.collect(),
            losses,
            late: Vec::new(),
            told: BTreeSet::new(),
        }
    }

    fn next(&self) -> Vec<State> {
        let mut next = Vec::new();
        for n in 0..self.late.len() {
            let mut state = self.clone();
            let request = state.late.remove(n);
            state.objects.serve(&request);
            next.push(state);
        }
        for (n, actor) in self.actors.iter().enumerate() {
            let Some(act) = actor.acts.first() else {
                continue;
            };
            match replay(&actor.answers, |bucket| act.run(bucket, actor.name)) {
                Progress::Asks(request) => self.answer(n, &request, &mut next),
                Progress::Ended(outcome) => {
                    let mut state = self.clone();
                    state.actors[n].answers.clear();
                    match outcome {
                        // As a person would: once more.
                        Err(e) if e.kind() == ErrorKind::BucketUnreachable => {}
                        Err(e) => {
                            assert_eq!(e.kind(), ErrorKind::Conflict, "{e}");
                            state.told.insert(Told::Refused);
                            state.actors[n].acts.remove(0);
                        }
                        Ok(told) => {
                            state.told.extend(told);
                            state.actors[n].acts.remove(0);
                        }
                    }
                    next.push(state);
                }
            }
        }
        next
    }

    fn answer(&self, n: usize, request: &Request, next: &mut Vec<State>) {
        let mut served = self.clone();
        let answer = served.objects.serve(request);
        served.actors[n].answers.push(answer);
        if self.losses > 0 && matches!(request, Request::Create(..)) {
            let mut never = self.clone();
            never.losses -= 1;
            never.actors[n].answers.push(Answer::Lost);
            let mut later = never.clone();
            later.late.push(request.clone());
            let mut at_once = never.clone();
            at_once.objects = served.objects.clone();
            next.extend([never, later, at_once]);
        }
        next.push(served);
    }

    /// Nobody is told "taken back" of what is collected.
    fn one_end(&self) -> Held {
        for told in &self.told {
            if let Told::TakenBack(nth) = told
                && self.told.contains(&Told::MayBeCollected(*nth))
            {
                return Err(format!("deletion {nth} was taken back, and is collected"));
            }
        }
        Ok(())
    }

    /// Whoever was told that a snapshot is held may count on it.
    fn holds_hold(&self) -> Held {
        let collected = |told: &Told| matches!(told, Told::MayBeCollected(_));
        if self.told.contains(&Told::Held) && self.told.iter().any(collected) {
            return Err("a snapshot is held, and its file system collected".to_owned());
        }
        Ok(())
    }

    /// Where no request is late, a file system with a held snapshot is not even deleted.
    fn held_or_deleted(&self) -> Held {
        let deletion = at_once(&self.objects, |bucket| catalog::deletion(bucket, &fs()));
        let deletion = deletion.map_err(|e| e.to_string())?;
        let idle = self.actors.iter().all(|actor| actor.acts.is_empty());
        if idle && self.told.contains(&Told::Held) && deletion.is_some() {
            return Err("a snapshot is held, and its file system deleted".to_owned());
        }
        Ok(())
    }

    /// What was told still holds: deletions have no gaps, and a later one stands behind an undone one only.
    fn what_was_told_stands(&self) -> Held {
        let deletion = at_once(&self.objects, |bucket| catalog::deletion(bucket, &fs()));
        let deletion = deletion.map_err(|e| e.to_string())?;
        let last = deletion.as_ref().map(|d| (d.mark.nth, d.collected));
        for told in &self.told {
            match (told, last) {
                (Told::TakenBack(nth), Some((last, _))) if *nth >= last => {
                    return Err(format!("deletion {nth} was taken back, and stands"));
                }
                (Told::MayBeCollected(nth), last) if last != Some((*nth, true)) => {
                    return Err(format!("deletion {nth} is collected, and {last:?} stands"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A file system with one snapshot, which may be held.
fn with_a_snapshot(losses: u8, actors: &[(&'static str, &[Act])]) -> State {
    let mut state = State::new(losses, actors);
    let claim = cbfs_core::format::to_json(&claim(1, 1)).unwrap();
    for (key, doc) in [
        (keys::epoch_claim(Epoch(1)), DocId::of(&claim)),
        (
            keys::manifest(id(1, 1).number, id(1, 1).epoch),
            manifest(None, (1, 1), 1, 1, &[]),
        ),
    ] {
        let key = KeyId::of(keys::absolute(&fs(), &key).unwrap().as_str());
        state.objects.serve(&Request::Create(key, doc));
    }
    state
}

fn hold() -> SnapshotMark {
    SnapshotMark::new(fs(), id(1, 1), None, "now".to_owned())
}

/// Look at every state there is; answers how many there are, or how the first is broken.
fn explore(first: State, holds: impl Fn(&State) -> Held) -> Result<usize, String> {
    let mut seen: HashSet<State> = HashSet::from([first.clone()]);
    let mut open = vec![first];
    while let Some(state) = open.pop() {
        holds(&state)?;
        for next in state.next() {
            if seen.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    Ok(seen.len())
}

#[test]
fn a_deletion_is_taken_back_or_collected_and_never_both() {
    use Act::{Collect, Delete, Undelete};
    let settings: [&[(&'static str, &[Act])]; 3] = [
        &[("a", &[Delete, Undelete]), ("b", &[Collect])],
        &[
            ("a", &[Delete]),
            ("b", &[Undelete, Delete]),
            ("c", &[Collect]),
        ],
        &[
            ("a", &[Delete, Undelete]),
            ("b", &[Delete, Undelete, Collect]),
        ],
    ];
    for actors in settings {
        let states = explore(State::new(1, actors), |state| {
            state.one_end().and_then(|()| state.what_was_told_stands())
        });
        let states = states.unwrap_or_else(|e| panic!("{actors:?}: {e}"));
        println!("{actors:?}: {states} states");
        assert!(states > 100, "nothing was looked at");
    }
}

#[test]
fn a_file_system_is_collected_or_a_snapshot_of_it_held_and_never_both() {
    use Act::{Collect, Delete, Hold, HoldBlindly, Undelete};
    let together: [(&'static str, &[Act]); 2] =
        [("a", &[Delete, Undelete, Delete]), ("b", &[Hold])];
    let states = explore(with_a_snapshot(0, &together), State::held_or_deleted);
    assert!(states.unwrap() > 100, "nothing was looked at");
    let collected: [(&'static str, &[Act]); 2] = [("a", &[Delete, Collect]), ("b", &[Hold])];
    let states = explore(with_a_snapshot(1, &collected), State::holds_hold);
    assert!(states.unwrap() > 100, "nothing was looked at");
    let blind: [(&'static str, &[Act]); 2] = [("a", &[Delete, Collect]), ("b", &[HoldBlindly])];
    let broken = explore(with_a_snapshot(0, &blind), State::holds_hold).unwrap_err();
    assert!(broken.contains("and its file system collected"), "{broken}");
}

#[test]
fn two_keys_for_the_two_ends_of_a_deletion_are_caught() {
    use Act::{CollectBesides, Delete, Undelete};
    let actors: [(&'static str, &[Act]); 2] =
        [("a", &[Delete, Undelete]), ("b", &[CollectBesides])];
    let broken = explore(State::new(0, &actors), State::one_end).unwrap_err();
    assert!(broken.contains("and is collected"), "{broken}");
}
