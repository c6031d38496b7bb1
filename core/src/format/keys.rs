//! Names of all objects. Relative keys are below the file system's prefix `<tag>-<uuid>/`.

use crate::bucket::{BucketResult, Key};
use crate::handle::Handle;
use crate::ids::{Epoch, SnapshotNumber};

/// The config object `<tag>-<uuid>.config`.
pub fn config(fs: &Handle) -> BucketResult<Key> {
    Key::new(format!("{fs}.config"))
}

/// The full key of a relative one.
pub fn absolute(fs: &Handle, relative: &str) -> BucketResult<Key> {
    Key::new(format!("{fs}/{relative}"))
}

/// `config/<version>.json`.
pub fn settings(version: u32) -> String {
    format!("config/{version:06}.json")
}

/// `epochs/<epoch>.json`.
pub fn epoch_claim(epoch: Epoch) -> String {
    format!("epochs/{:05}.json", epoch.0)
}

/// `epochs/<epoch>.base.json`.
pub fn epoch_base(epoch: Epoch) -> String {
    format!("epochs/{:05}.base.json", epoch.0)
}

/// `m/<number>-e<epoch>.json`.
pub fn manifest(number: SnapshotNumber, epoch: Epoch) -> String {
    format!("m/{:010}-e{}.json", number.0, epoch.0)
}

/// The inverse of [`manifest`]; `None` for any other key.
pub fn parse_manifest(relative: &str) -> Option<(SnapshotNumber, Epoch)> {
    let (number, epoch) = relative
        .strip_prefix("m/")?
        .strip_suffix(".json")?
        .split_once("-e")?;
    Some((
        SnapshotNumber(number.parse().ok()?),
        Epoch(epoch.parse().ok()?),
    ))
}

/// The folder of one attempt at a snapshot: `s/<number>-e<epoch>-<attempt>/`.
pub fn attempt_prefix(number: SnapshotNumber, epoch: Epoch, attempt: &str) -> String {
    format!("s/{:010}-e{}-{attempt}/", number.0, epoch.0)
}

/// A tarball within the attempt's folder; 0 is the metadata tarball.
pub fn tarball(index: u32) -> String {
    format!("{index:04}.tar.zst")
}

/// The TOC within the attempt's folder.
pub const TOC: &str = "toc.sqlite.zst";
/// The layer within the attempt's folder.
pub const LAYER: &str = "layer.sqlite.zst";
/// The change log within the attempt's folder.
pub const LOG: &str = "log.jsonl.zst";
/// The status log within the attempt's folder.
pub const STATUS: &str = "status.jsonl";

/// The merged layer of the snapshots `from..=to`: `layers/<from>-<to>-<attempt>.sqlite.zst`.
pub fn merged_layer(from: SnapshotNumber, to: SnapshotNumber, attempt: &str) -> String {
    format!("layers/{:010}-{:010}-{attempt}.sqlite.zst", from.0, to.0)
}

/// `deleted/<number>-e<epoch>.json`: the snapshot is deleted.
pub fn deleted_snapshot(number: SnapshotNumber, epoch: Epoch) -> String {
    format!("deleted/{:010}-e{}.json", number.0, epoch.0)
}

/// The inverse of [`deleted_snapshot`]; `None` for any other key.
pub fn parse_deleted_snapshot(relative: &str) -> Option<(SnapshotNumber, Epoch)> {
    parse_snapshot(relative.strip_prefix("deleted/")?.strip_suffix(".json")?)
}

/// `deleted/fs.<nth>.json`: the nth deletion of the whole file system, from 1.
pub fn deleted_fs(nth: u32) -> String {
    format!("deleted/fs.{nth:04}.json")
}

/// `deleted/fs.<nth>.end.json`: how that deletion ended.
pub fn deletion_end(nth: u32) -> String {
    format!("deleted/fs.{nth:04}.end.json")
}

/// `holds/<number>-e<epoch>.<nth>.json`: the nth hold of the snapshot.
pub fn hold(number: SnapshotNumber, epoch: Epoch, nth: u32) -> String {
    format!("holds/{:010}-e{}.{nth:04}.json", number.0, epoch.0)
}

/// `holds/<number>-e<epoch>.<nth>.released.json`: that hold is released.
pub fn released_hold(number: SnapshotNumber, epoch: Epoch, nth: u32) -> String {
    format!("holds/{:010}-e{}.{nth:04}.released.json", number.0, epoch.0)
}

/// The inverse of [`hold`] and [`released_hold`] (`true`); `None` for any other key.
pub fn parse_hold(relative: &str) -> Option<(SnapshotNumber, Epoch, u32, bool)> {
    let text = relative.strip_prefix("holds/")?.strip_suffix(".json")?;
    let (text, released) = match text.strip_suffix(".released") {
        Some(text) => (text, true),
        None => (text, false),
    };
    let (snapshot, nth) = text.split_once('.')?;
    let (number, epoch) = parse_snapshot(snapshot)?;
    let nth = nth.parse().ok()?;
    let key = if released { released_hold } else { hold };
    (key(number, epoch, nth) == relative).then_some((number, epoch, nth, released))
}

/// `<number>-e<epoch>`.
fn parse_snapshot(text: &str) -> Option<(SnapshotNumber, Epoch)> {
    let (number, epoch) = text.split_once("-e")?;
    Some((
        SnapshotNumber(number.parse().ok()?),
        Epoch(epoch.parse().ok()?),
    ))
}

/// `nodes/<node>.json`.
pub fn node(node: &str) -> String {
    format!("nodes/{node}.json")
}
