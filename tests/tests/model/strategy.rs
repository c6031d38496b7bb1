//! Random cases. Names come from a small pool, so that operations meet; sizes are often near the
//! edges where contents move: 4 KiB, the inline limit of 16 KiB, blocks of 1 MiB.

use crate::case::Case;
use crate::operation::{
    Allocation, Bytes, Operation as O, Place, Renaming, Setting, Special, Stamp,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::strategy::Union;

/// Where contents move from one representation to another, in bytes.
const EDGES: [u64; 6] = [0, 4_096, 16_384, 1 << 20, 2 << 20, (2 << 20) + 16_384];
/// Most that an offset is, in bytes.
const FARTHEST: u64 = 5 << 19;

/// Slots for open files.
pub(crate) const SLOTS: usize = 2;

pub(crate) fn case(longest: usize) -> impl Strategy<Value = Case> {
    let setting = (any::<bool>(), prop::bool::weighted(0.3));
    let case = (setting, vec(operation(), 1..=longest));
    case.prop_map(|((small_tables, neighbour), operations)| Case {
        small_tables,
        neighbour,
        operations,
    })
}

/// Mostly a file's place: files and directories have names of their own, so that most operations
/// find what they are meant for, and all the errors come up as well.
fn file() -> BoxedStrategy<Place> {
    let name =
        prop_oneof![6 => Just("a"), 5 => Just("b"), 2 => Just("c"), 1 => Just("L"), 1 => Just("d")];
    below(name.boxed())
}

fn directory() -> BoxedStrategy<Place> {
    let name = prop_oneof![6 => Just("d"), 3 => Just("e"), 1 => Just("a")];
    below(name.boxed())
}

/// A name at the root or in a directory.
fn below(name: BoxedStrategy<&'static str>) -> BoxedStrategy<Place> {
    let depth = prop_oneof![6 => Just(0_usize), 4 => Just(1), 1 => Just(2)];
    let inside = prop_oneof![8 => Just("d"), 3 => Just("e"), 1 => Just("b")];
    depth
        .prop_flat_map(move |depth| (vec(inside.clone(), depth), name.clone()))
        .prop_map(|(inside, name)| {
            Place(
                inside
                    .into_iter()
                    .chain([name])
                    .collect::<Vec<_>>()
                    .join("/"),
            )
        })
        .boxed()
}

fn any_place() -> BoxedStrategy<Place> {
    prop_oneof![3 => file(), 2 => directory()].boxed()
}

fn place_or_root() -> BoxedStrategy<Place> {
    prop_oneof![1 => Just(Place(String::new())), 6 => any_place()].boxed()
}

fn directory_or_root() -> BoxedStrategy<Place> {
    prop_oneof![1 => Just(Place(String::new())), 4 => directory(), 1 => file()].boxed()
}

fn pair() -> BoxedStrategy<(Place, Place)> {
    prop_oneof![6 => (file(), file()), 3 => (directory(), directory()), 1 => (any_place(), any_place())].boxed()
}

fn offset() -> impl Strategy<Value = u64> {
    let near = (prop::sample::select(&EDGES[..]), 0..7_u64);
    prop_oneof![
        2 => 0..100_u64,
        3 => near.prop_map(|(edge, past)| (edge + past).saturating_sub(3)),
        2 => 0..50_000_u64,
        2 => 0..FARTHEST,
    ]
}

fn length() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => 1..20_u64,
        3 => 1..6_000_u64,
        2 => 16_380..16_390_u64,
        2 => 1..40_000_u64,
        1 => 1..300_000_u64,
        1 => (1 << 20) - 3..(1 << 20) + 20_000_u64,
    ]
}

fn bytes() -> impl Strategy<Value = Bytes> {
    (0..1_000_000_u64, length()).prop_map(|(seed, length)| Bytes { seed, length })
}

fn mode() -> impl Strategy<Value = u32> {
    const MODES: [u32; 8] = [0o644, 0o600, 0o755, 0o000, 0o4755, 0o2755, 0o2644, 0o1755];
    prop::sample::select(&MODES[..])
}

fn xattr_name() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just("user.a".to_owned()),
        2 => Just("user.b".to_owned()),
        1 => Just(format!("user.{}", "x".repeat(250))),
        2 => Just("trusted.t".to_owned()),
    ]
}

fn stamp() -> impl Strategy<Value = Stamp> {
    let seconds = prop_oneof![
        2 => 1_600_000_000..1_700_000_000_i64,
        1 => Just(0),
        1 => -1_000_000_000..0_i64,
        // Past any clock of today: reading leaves such access times alone.
        1 => 4_000_000_000..5_000_000_000_i64,
    ];
    (seconds, prop_oneof![Just(0), Just(1), Just(999_999_999)])
}

#[rustfmt::skip] // a table
fn operation() -> impl Strategy<Value = O> {
    let renaming = prop_oneof![3 => Just(Renaming::Plain), 1 => Just(Renaming::NoReplace), 2 => Just(Renaming::Exchange)];
    let allocation = prop::sample::select(&[Allocation::Grow, Allocation::Keep, Allocation::Punch, Allocation::Zero, Allocation::ZeroKeep][..]);
    let setting = prop_oneof![3 => Just(Setting::Any), 1 => Just(Setting::Create), 1 => Just(Setting::Replace)];
    let special = prop::sample::select(&[Special::Fifo, Special::Socket, Special::Device][..]);
    let value = prop_oneof![4 => 0..300_u64, 1 => 0..5_000_u64, 1 => 50_000..60_000_u64];
    let value = (0..1_000_000_u64, value).prop_map(|(seed, length)| Bytes { seed, length });
    let slot = || 0..SLOTS;
    Union::new_weighted(vec![
        (60, (file(), mode()).prop_map(|(at, mode)| O::Create { at, mode }).boxed()),
        (60, (directory(), mode()).prop_map(|(at, mode)| O::Mkdir { at, mode }).boxed()),
        (8, (file(), mode(), special).prop_map(|(at, mode, special)| O::Mknod { at, mode, special }).boxed()),
        (8, (file(), prop_oneof![3 => 1..60_usize, 1 => Just(4_000)]).prop_map(|(at, length)| O::Symlink { at, length }).boxed()),
        (30, (file(), file()).prop_map(|(from, to)| O::Link { from, to }).boxed()),
        (35, file().prop_map(|at| O::Unlink { at }).boxed()),
        (15, directory().prop_map(|at| O::Rmdir { at }).boxed()),
        (70, (pair(), renaming).prop_map(|((from, to), how)| O::Rename { from, to, how }).boxed()),
        (150, (file(), offset(), bytes(), prop::bool::weighted(0.7)).prop_map(|(at, offset, bytes, create)| O::Write { at, offset, bytes, create }).boxed()),
        (30, (file(), bytes()).prop_map(|(at, bytes)| O::Append { at, bytes }).boxed()),
        (60, (file(), offset()).prop_map(|(at, size)| O::Truncate { at, size }).boxed()),
        (50, (file(), allocation, offset(), length()).prop_map(|(at, how, offset, length)| O::Allocate { at, how, offset, length }).boxed()),
        (30, (file(), file(), offset(), offset(), length()).prop_map(|(from, to, from_offset, to_offset, length)| O::CopyRange { from, to, from_offset, to_offset, length }).boxed()),
        (30, (place_or_root(), xattr_name(), value, setting).prop_map(|(at, name, value, how)| O::SetXattr { at, name, value, how }).boxed()),
        (15, (place_or_root(), xattr_name()).prop_map(|(at, name)| O::RemoveXattr { at, name }).boxed()),
        (25, (place_or_root(), mode()).prop_map(|(at, mode)| O::Chmod { at, mode }).boxed()),
        (20, (place_or_root(), 0..3_u32, option::of(0..3_u32)).prop_map(|(at, uid, gid)| O::Chown { at, uid, gid }).boxed()),
        (20, (place_or_root(), option::of(stamp()), stamp()).prop_map(|(at, atime, mtime)| O::SetTimes { at, atime, mtime }).boxed()),
        (40, file().prop_map(|at| O::Read { at }).boxed()),
        (20, directory_or_root().prop_map(|at| O::List { at }).boxed()),
        (20, place_or_root().prop_map(|at| O::Fsync { at }).boxed()),
        (30, (slot(), file()).prop_map(|(slot, at)| O::Open { slot, at }).boxed()),
        (40, (slot(), offset(), bytes()).prop_map(|(slot, offset, bytes)| O::WriteOpen { slot, offset, bytes }).boxed()),
        (20, (slot(), offset()).prop_map(|(slot, size)| O::TruncateOpen { slot, size }).boxed()),
        (20, slot().prop_map(|slot| O::ReadOpen { slot }).boxed()),
        (10, slot().prop_map(|slot| O::Close { slot }).boxed()),
        (6, (directory_or_root(), prop_oneof![3 => 1..40_u32, 1 => 500..620_u32]).prop_map(|(at, count)| O::Crowd { at, count }).boxed()),
        (6, (directory_or_root(), 1..4_u32).prop_map(|(at, every)| O::Disperse { at, every }).boxed()),
        (16, any::<bool>().prop_map(|complete| O::Snapshot { complete }).boxed()),
        (8, (0..8_usize).prop_map(|nth| O::CompareSnapshot { nth }).boxed()),
        (20, Just(O::Kill).boxed()),
        (8, Just(O::Restart).boxed()),
        (16, Just(O::Remount).boxed()),
    ])
}
