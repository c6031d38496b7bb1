//! Signs of life: what this node says of itself in the buckets of its file systems (`nodes/<node>.json`), for people
//! at other nodes, above all for who is about to promote one.
//!
//! The same thread tells the service manager how the daemon stands, as it hears of everything that comes or goes.
//!
//! Written when an instance comes, goes or changes its role or epoch; at most twice a minute when another snapshot is
//! the last; and every [`WRITE_EVERY`]. Where the bucket may only be read nothing is said, and nobody complains: no
//! decision rests on a sign.

use super::Manager;
use super::config::host_name;
use crate::service_manager;
use cbfs_core::api::Role;
use cbfs_core::bucket::{BucketUrl, LazyBucket};
use cbfs_core::catalog;
use cbfs_core::error::{Context, ErrorKind, Result};
use cbfs_core::format::Features;
use cbfs_core::format::manifest::writer;
use cbfs_core::format::node::{InstanceSign, NodeSign};
use cbfs_core::handle::Handle;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// A sign is never older than about this ...
const WRITE_EVERY: Duration = Duration::from_secs(180);
/// ... and not renewed sooner than this for a new snapshot alone.
const PAUSE: Duration = Duration::from_secs(30);
/// What there is to say is looked at this often, besides whenever an instance is told of.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// A bucket that refused a sign is left alone for this long.
const REFUSED: Duration = Duration::from_secs(3600);

/// A file system in a bucket.
type Place = (String, Handle);

/// What was last said in one place.
struct Said {
    bucket: LazyBucket,
    instances: Vec<InstanceSign>,
    /// When it is to be said again at the latest, and for a new snapshot.
    again_at: Instant,
    again_for_snapshot_at: Instant,
}

impl Manager {
    /// Start saying what this node is; ends with the last sender of `bell`, which makes it look at once.
    pub(super) fn give_signs(self: &Arc<Self>, bell: Receiver<()>) -> Result<()> {
        let manager = Arc::downgrade(self);
        std::thread::Builder::new()
            .name("signs".into())
            .spawn(move || run(&manager, &bell))
            .map(drop)
            .context(|| "a thread could not be started".to_owned())
    }

    /// What there is to say, by place.
    fn signs(&self) -> BTreeMap<Place, Vec<InstanceSign>> {
        let mut places: BTreeMap<Place, Vec<InstanceSign>> = BTreeMap::new();
        for instance in self.instances() {
            let place = (instance.bucket.clone(), instance.fs.clone());
            places.entry(place).or_default().push(InstanceSign {
                id: instance.id,
                role: instance.role,
                epoch: instance.epoch,
                snapshot: instance.snapshot.or(instance.last_snapshot),
                unpublished: match instance.role {
                    Role::Master => instance.unpublished,
                    Role::Slave => 0,
                },
                mount_point: instance.mount_point,
                follow: instance.following.map(|f| f.interval),
            });
        }
        places
    }

    fn sign(&self, fs: Handle, instances: Vec<InstanceSign>) -> NodeSign {
        let disk = rustix::fs::statvfs(&self.state_dir);
        let bytes = |blocks: fn(&rustix::fs::StatVfs) -> u64| {
            disk.as_ref()
                .map_or(0, |disk| blocks(disk).saturating_mul(disk.f_frsize))
        };
        NodeSign {
            format: NodeSign::FORMAT,
            features: Features::default(),
            fs,
            node: self.node.clone(),
            host: host_name(),
            written_at: self.clock.now().to_rfc3339(),
            instances,
            disk_bytes: bytes(|disk| disk.f_blocks),
            free_bytes: bytes(|disk| disk.f_bavail),
            writer: writer(),
        }
    }
}

fn run(manager: &Weak<Manager>, bell: &Receiver<()>) {
    let mut said: BTreeMap<Place, Said> = BTreeMap::new();
    let mut status = None;
    loop {
        if let Err(RecvTimeoutError::Disconnected) = bell.recv_timeout(LOOK_EVERY) {
            return;
        }
        while bell.try_recv().is_ok() {}
        let Some(manager) = manager.upgrade() else {
            return;
        };
        if manager.stopping.load(Ordering::SeqCst) {
            return; // its instances come back with the next daemon
        }
        let mut now = manager.signs();
        if manager.stopping.load(Ordering::SeqCst) {
            return;
        }
        let words = manager.in_words();
        if status.as_ref() != Some(&words) {
            service_manager::status(&words);
            status = Some(words);
        }
        let places: BTreeSet<Place> = now.keys().chain(said.keys()).cloned().collect();
        for place in places {
            let instances = now.remove(&place).unwrap_or_default();
            say(&manager, &mut said, place, instances);
        }
    }
}

fn say(
    manager: &Manager,
    said: &mut BTreeMap<Place, Said>,
    place: Place,
    instances: Vec<InstanceSign>,
) {
    let at = Instant::now();
    if let Some(before) = said.get(&place)
        && at < before.again_at
        && !news(&before.instances, &instances)
        && (at < before.again_for_snapshot_at
            || snapshots(&before.instances) == snapshots(&instances))
    {
        return;
    }
    let gone = instances.is_empty();
    let bucket = match said.remove(&place) {
        Some(before) => before.bucket,
        None => match place.0.parse::<BucketUrl>() {
            Ok(url) => LazyBucket::new(url, false),
            Err(e) => return tracing::debug!("{} is no bucket: {e}", place.0),
        },
    };
    let sign = manager.sign(place.1.clone(), instances);
    let (mut again_at, again_for_snapshot_at) = (at + WRITE_EVERY, at + PAUSE);
    match catalog::write_node_sign(&bucket, &sign) {
        Ok(()) if gone => return,
        Ok(()) => {}
        Err(e) => {
            tracing::debug!(fs = %place.1, causes = ?e.causes(), "no sign of life is left: {e}");
            if e.kind() == ErrorKind::Credentials {
                again_at = at + REFUSED;
            }
            if gone {
                return;
            }
        }
    }
    let instances = sign.instances;
    let now = Said {
        bucket,
        instances,
        again_at,
        again_for_snapshot_at,
    };
    said.insert(place, now);
}

/// Whether something changed that others should hear of at once.
fn news(before: &[InstanceSign], now: &[InstanceSign]) -> bool {
    let told = |all: &[InstanceSign]| -> Vec<_> {
        let told = all
            .iter()
            .map(|i| (i.id.clone(), i.role, i.epoch, i.mount_point.clone()));
        told.collect()
    };
    told(before) != told(now)
}

fn snapshots(all: &[InstanceSign]) -> Vec<Option<cbfs_core::ids::SnapshotNumber>> {
    all.iter().map(|i| i.snapshot).collect()
}
