//! Every interleaving of a few nodes, request by request; and the mistakes that must not go unnoticed.

#![allow(clippy::unwrap_used, clippy::panic)]

use cbfs_model::flaw::Flaw;
use cbfs_model::invariants::{
    COMPLETE_IS_NEVER_LOST, FOLLOWED_IS_OF_THE_LINEAGE, LATEST_IS_NEVER_DELETED,
    NOTHING_NEEDED_IS_COLLECTED, NUMBERS_ARE_NEVER_REUSED, ONE_EPOCH_PAST_A_BASE,
};
use cbfs_model::node::{Node, Role};
use cbfs_model::world::{Action, State, World};
use stateright::{Checker, HasDiscoveries, Model, Path};

fn master(snapshots: u8) -> Node {
    Node::new(Role::Master, 1, snapshots)
}

/// A slave that is promoted, and then makes a snapshot.
fn slave() -> Node {
    Node::new(Role::Slave, 0, 1)
}

fn absent(snapshots: u8) -> Node {
    Node::new(Role::Absent, 0, snapshots)
}

fn follower(polls: u8) -> Node {
    Node::new(Role::Follower, 0, polls)
}

fn deleter(snapshots: u8) -> Node {
    Node::new(Role::Deleter, 0, snapshots)
}

fn collector() -> Node {
    Node::new(Role::Collector, 0, 1)
}

/// How an invariant was broken.
fn tell(invariant: &str, path: &Path<State, Action>) {
    println!("not true: {invariant}");
    for (state, action) in path.clone().into_vec() {
        if let Some(action) = action {
            println!("  {}", state.tell(action));
        }
    }
    let last = path.last_state();
    println!("  reported: {:?}", last.reported);
    for key in last.objects.0.keys() {
        println!("  there is {}", key.text());
    }
}

/// Look at every state there is.
fn holds(name: &str, world: World) {
    let checker = world.checker().spawn_bfs().join();
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    println!("{name}: {states} states, {depth} steps deep");
    let broken = checker.discoveries();
    for (invariant, path) in &broken {
        tell(invariant, path);
    }
    assert!(broken.is_empty(), "{name}: {:?}", broken.keys());
}

/// Some state breaks this invariant.
fn catches(world: World, broken: &'static str) {
    let any = HasDiscoveries::AnyFailures;
    let checker = world.checker().finish_when(any).spawn_bfs().join();
    let found = checker.discoveries();
    let path = found.get(broken);
    let path = path.unwrap_or_else(|| panic!("not caught; found: {:?}", found.keys()));
    tell(broken, path);
}

/// A master, and a slave that is promoted.
fn promotion() -> World {
    World::new(1, vec![master(1), slave()])
}

/// Two slaves that are promoted, at once or one over the other.
fn rivals() -> World {
    World::new(1, vec![master(1), slave(), slave()])
}

/// A master of which images are restored or copies started.
fn copies() -> World {
    World::new(1, vec![master(2).cancels(1).images(1), absent(2)])
}

fn following() -> World {
    World::new(1, vec![master(1), slave(), follower(2)])
}

fn deleting() -> World {
    World::new(2, vec![master(1), slave(), deleter(1)])
}

fn collecting_beside_a_master() -> World {
    World::new(2, vec![master(1), deleter(1), collector()])
}

fn collecting_beside_a_follower() -> World {
    World::new(2, vec![follower(1), deleter(1), collector()]).mounted(0, 1)
}

fn collecting_beside_a_promotion() -> World {
    World::new(2, vec![master(1), slave(), collector()]).deleted(1)
}

#[test]
fn promotion_is_safe_with_lost_and_late_answers_and_kills() {
    holds("promotion", promotion().losses(1).kills(2));
}

#[test]
fn of_two_promotions_at_once_one_wins_and_a_stopped_one_may_be_promoted_over() {
    holds("rivals", rivals());
}

#[test]
fn a_restored_or_copied_state_directory_harms_nothing_that_is_complete() {
    holds("copies", copies().losses(1));
}

#[test]
fn a_restored_or_copied_state_directory_of_a_promoted_slave_harms_nothing() {
    let world = World::new(1, vec![master(1), slave().images(1), absent(1)]);
    holds("copied promotion", world);
}

#[test]
fn a_follower_is_never_on_a_snapshot_that_does_not_count() {
    holds("following", following());
}

#[test]
fn the_latest_stays_however_a_deletion_meets_a_promotion() {
    holds("deleting", deleting());
}

#[test]
fn garbage_collection_takes_nothing_that_is_needed() {
    holds("beside a master", collecting_beside_a_master().kills(1));
    holds("beside a follower", collecting_beside_a_follower().kills(1));
    holds("beside a promotion", collecting_beside_a_promotion());
}

#[test]
fn the_model_catches_a_base_from_before_the_claim() {
    let world = promotion().with(Flaw::BaseFromBeforeTheClaim);
    catches(world, COMPLETE_IS_NEVER_LOST);
}

#[test]
fn the_model_catches_a_master_that_does_not_look_after_its_manifest() {
    let world = promotion().with(Flaw::NoLookAfterTheManifest);
    catches(world, COMPLETE_IS_NEVER_LOST);
}

#[test]
fn the_model_catches_a_promotion_that_does_not_read_the_base_back() {
    let world = promotion().losses(1).kills(1).with(Flaw::BaseNotReadBack);
    catches(world, ONE_EPOCH_PAST_A_BASE);
}

#[test]
fn the_model_catches_attempts_that_are_drawn_before_the_cut() {
    catches(
        copies().with(Flaw::AttemptBeforeCut),
        COMPLETE_IS_NEVER_LOST,
    );
}

#[test]
fn the_model_catches_numbers_that_stay_free() {
    catches(copies().with(Flaw::GapsStayOpen), COMPLETE_IS_NEVER_LOST);
}

#[test]
fn the_model_catches_manifests_that_are_replaced() {
    catches(
        copies().with(Flaw::ManifestsAreReplaced),
        NUMBERS_ARE_NEVER_REUSED,
    );
}

#[test]
fn the_model_catches_deletions_during_a_promotion() {
    let world = deleting().with(Flaw::DeleteDuringPromotion);
    catches(world, LATEST_IS_NEVER_DELETED);
}

#[test]
fn the_model_catches_a_follower_that_moves_during_a_promotion() {
    let world = following().with(Flaw::FollowDuringPromotion);
    catches(world, FOLLOWED_IS_OF_THE_LINEAGE);
}

#[test]
fn the_model_catches_a_collector_without_grace() {
    let world = collecting_beside_a_follower().with(Flaw::NoGrace);
    catches(world, NOTHING_NEEDED_IS_COLLECTED);
}

#[test]
fn the_model_catches_a_collector_that_takes_the_unpublished_for_garbage() {
    let world = collecting_beside_a_master().with(Flaw::UnpublishedIsGarbage);
    catches(world, NOTHING_NEEDED_IS_COLLECTED);
}

#[test]
fn the_model_catches_a_collector_that_does_not_mind_a_promotion() {
    let world = collecting_beside_a_promotion().with(Flaw::EpochMayChange);
    catches(world, NOTHING_NEEDED_IS_COLLECTED);
}

#[test]
fn the_model_catches_a_collector_that_removes_manifests() {
    let world = World::new(3, vec![master(1), collector()])
        .deleted(2)
        .image(0, 1);
    catches(
        world.with(Flaw::ManifestsAreCollected),
        NUMBERS_ARE_NEVER_REUSED,
    );
}
