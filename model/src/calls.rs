//! The calls of the catalog that nodes make, and what comes of them.

use crate::collector;
use crate::flaw::Flaw;
use crate::replay::{Answer, DocId, Progress, replay};
use cbfs_core::bucket::Bucket;
use cbfs_core::catalog;
use cbfs_core::error::{ErrorKind, Result};
use cbfs_core::format::epoch::{BaseSnapshot, EpochClaim};
use cbfs_core::format::manifest::{LayerRef, Manifest, Totals, XidRange};
use cbfs_core::format::mark::SnapshotMark;
use cbfs_core::format::{self, Features, ObjectRef, keys};
use cbfs_core::handle::Handle;
use cbfs_core::ids::{Epoch, SnapshotNumber, Xid};
use cbfs_core::snapshot::SnapshotKind;
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

/// A time; no clock takes part.
const AT: &str = "2026-01-01T00:00:00Z";

/// How many layers a snapshot refers to: as if those below had been merged and their contents replaced.
const LAYERS: usize = 1;

/// The file system.
pub fn fs() -> Handle {
    "home-11111111-1111-4111-8111-111111111111".parse().unwrap()
}

/// A snapshot, by number and epoch.
pub fn id(number: u8, epoch: u8) -> BaseSnapshot {
    BaseSnapshot {
        number: SnapshotNumber(number.into()),
        epoch: Epoch(epoch.into()),
    }
}

/// A call, with all that it depends on.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Call {
    /// Create the claim of an epoch.
    Claim { epoch: u8, nonce: u8 },
    /// Settle the base of an epoch.
    SettleBase { epoch: u8 },
    /// As [`Call::SettleBase`], with a base that was found earlier and is believed in.
    WriteBase { epoch: u8, base: Option<(u8, u8)> },
    /// The last look before read-write.
    Confirm { epoch: u8, nonce: u8 },
    /// Is there a later epoch?
    IsSuperseded { epoch: u8 },
    /// Create a manifest.
    Publish { manifest: DocId },
    /// Close a number that was given up.
    Close {
        parent: DocId,
        number: u8,
        epoch: u8,
    },
    /// What stands under a number.
    Load { number: u8, epoch: u8 },
    /// The latest of the lineage.
    Latest,
    /// The latest of the lineage, settled.
    LatestSettled,
    /// The last that an epoch has published.
    LastOfEpoch { epoch: u8 },
    /// Mark a snapshot deleted.
    Delete { number: u8, epoch: u8 },
    /// Mark a snapshot deleted, whatever promotion is under way.
    DeleteAnyway { number: u8, epoch: u8 },
    /// What is garbage.
    Garbage(Option<Flaw>),
}

/// What came of a call.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// Done, or: no.
    Done,
    /// Yes.
    Yes,
    /// This manifest.
    Manifest(DocId),
    /// This snapshot, or none.
    Snapshot(Option<(u8, u8)>),
    /// These keys.
    Keys(Vec<String>),
    /// It failed; with [`ErrorKind::BucketUnreachable`] it is to be tried again.
    Failed(Kind),
}

/// Kinds of errors that the protocol tells apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// An answer was lost.
    Unreachable,
    /// Another was first, or the epoch is over.
    Conflict,
    /// Not there.
    NotFound,
    /// The bucket contradicts itself.
    Damage,
    /// All others.
    Other,
}

type Known = HashMap<(Call, Vec<Answer>), Progress<Outcome>>;

static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);

impl Call {
    /// How far it gets with these answers.
    pub fn progress(&self, answers: &[Answer]) -> Progress<Outcome> {
        let key = (self.clone(), answers.to_vec());
        if let Some(known) = KNOWN.lock().unwrap().get(&key) {
            return known.clone();
        }
        let progress = replay(answers, |bucket| self.run(bucket));
        KNOWN.lock().unwrap().insert(key, progress.clone());
        progress
    }

    fn run(&self, bucket: &dyn Bucket) -> Outcome {
        self.try_run(bucket).unwrap_or_else(|e| {
            Outcome::Failed(match e.kind() {
                ErrorKind::BucketUnreachable => Kind::Unreachable,
                ErrorKind::Conflict => Kind::Conflict,
                ErrorKind::NotFound => Kind::NotFound,
                ErrorKind::Damage => Kind::Damage,
                _ => Kind::Other,
            })
        })
    }

    fn try_run(&self, bucket: &dyn Bucket) -> Result<Outcome> {
        let fs = &fs();
        Ok(match *self {
            Call::Claim { epoch, nonce } => {
                catalog::claim_epoch(bucket, fs, &claim(epoch, nonce))?;
                Outcome::Done
            }
            Call::SettleBase { epoch } => {
                short(catalog::settle_base(bucket, fs, Epoch(epoch.into()))?)
            }
            Call::WriteBase { epoch, base } => {
                let document = base_document(epoch, base.map(|(n, e)| id(n, e)));
                let key = keys::absolute(fs, &keys::epoch_base(Epoch(epoch.into())))?;
                match bucket.create(&key, cbfs_core::bucket::Body::Bytes(&document)) {
                    Ok(()) | Err(cbfs_core::bucket::BucketError::AlreadyExists { .. }) => {}
                    Err(e) => return Err(e.into()),
                }
                Outcome::Snapshot(base)
            }
            Call::Confirm { epoch, nonce } => {
                catalog::confirm_epoch(bucket, fs, Epoch(epoch.into()), &nonce.to_string())?;
                Outcome::Done
            }
            Call::IsSuperseded { epoch } => {
                if catalog::is_superseded(bucket, fs, Epoch(epoch.into()))? {
                    Outcome::Yes
                } else {
                    Outcome::Done
                }
            }
            Call::Publish { manifest } => {
                match catalog::create_manifest(bucket, &parse(manifest))? {
                    None => Outcome::Done,
                    Some(other) => Outcome::Manifest(doc(&other)),
                }
            }
            Call::Close {
                parent,
                number,
                epoch,
            } => {
                let (number, epoch) = (SnapshotNumber(number.into()), Epoch(epoch.into()));
                match catalog::close_number(bucket, &parse(parent), number, epoch, AT)? {
                    None => Outcome::Done,
                    Some(other) => Outcome::Manifest(doc(&other)),
                }
            }
            Call::Load { number, epoch } => {
                let (number, epoch) = (SnapshotNumber(number.into()), Epoch(epoch.into()));
                Outcome::Manifest(doc(&catalog::load_manifest(bucket, fs, number, epoch)?))
            }
            Call::Latest => short(catalog::latest_manifest(bucket, fs)?.map(|m| m.id())),
            Call::LatestSettled => match catalog::latest_settled(bucket, fs)? {
                Some(manifest) => Outcome::Manifest(doc(&manifest)),
                None => Outcome::Done,
            },
            Call::LastOfEpoch { epoch } => {
                short(catalog::last_of_epoch(bucket, fs, Epoch(epoch.into()))?)
            }
            Call::Delete { number, epoch } => {
                catalog::delete_snapshot(bucket, &mark(number, epoch))?;
                Outcome::Done
            }
            Call::DeleteAnyway { number, epoch } => {
                let live = catalog::snapshot_ids(bucket, fs)?;
                let wanted = id(number, epoch);
                if live.contains(&wanted) && live.last() != Some(&wanted) {
                    let key =
                        keys::absolute(fs, &keys::deleted_snapshot(wanted.number, wanted.epoch))?;
                    let bytes = format::to_json(&mark(number, epoch))?;
                    cbfs_core::bucket::create_or_same(bucket, &key, &bytes)?;
                }
                Outcome::Done
            }
            Call::Garbage(flaw) => Outcome::Keys(collector::garbage(bucket, fs, flaw)?),
        })
    }
}

/// The cuts that a manifest has beyond its parent.
pub fn cuts(manifest: &Manifest) -> Vec<u64> {
    let failed = manifest.node.split_whitespace();
    let failed = failed.filter_map(|cut| cut.parse().ok());
    failed.chain([manifest.xid.to.0]).collect()
}

fn short(snapshot: Option<BaseSnapshot>) -> Outcome {
    Outcome::Snapshot(snapshot.map(|s| {
        let (number, epoch) = (s.number.0, s.epoch.0);
        (u8::try_from(number).unwrap(), u8::try_from(epoch).unwrap())
    }))
}

fn mark(number: u8, epoch: u8) -> SnapshotMark {
    SnapshotMark::new(fs(), id(number, epoch), None, AT.to_owned())
}

/// The claim that a nonce makes.
pub fn claim(epoch: u8, nonce: u8) -> EpochClaim {
    let (node, host) = (format!("n{nonce}"), format!("h{nonce}"));
    let epoch = Epoch(epoch.into());
    EpochClaim::new(fs(), epoch, node, host, nonce.to_string(), AT.to_owned())
}

fn base_document(epoch: u8, base: Option<BaseSnapshot>) -> Vec<u8> {
    let document = cbfs_core::format::epoch::EpochBase {
        format: format::FORMAT,
        features: Features::default(),
        epoch: Epoch(epoch.into()),
        base,
    };
    format::to_json(&document).unwrap()
}

/// The manifest that these bytes are.
pub fn parse(manifest: DocId) -> Manifest {
    format::parse("a manifest of the model", &manifest.bytes()).unwrap()
}

fn doc(manifest: &Manifest) -> DocId {
    DocId::of(&format::to_sealed_json(manifest).unwrap())
}

/// The object that an attempt makes: one layer.
pub fn object_of(number: u8, epoch: u8, attempt: u8) -> String {
    let snapshot = id(number, epoch);
    let prefix = keys::attempt_prefix(snapshot.number, snapshot.epoch, &attempt.to_string());
    format!("{prefix}{}", keys::LAYER)
}

/// The manifest of an attempt. `cut` stands for the content: no two cuts have the same. What was cut for requests
/// that failed since the parent belongs to it: its manifest names them (where real ones name the node).
pub fn manifest(
    parent: Option<DocId>,
    (number, epoch): (u8, u8),
    attempt: u8,
    cut: u8,
    failed: &[u8],
) -> DocId {
    let parent = parent.map(parse);
    let snapshot = id(number, epoch);
    let layer = LayerRef {
        object: ObjectRef {
            key: object_of(number, epoch, attempt),
            size: 1,
            blake3: String::new(),
        },
        from: snapshot.number,
        to: snapshot.number,
    };
    let below = parent.iter().flat_map(|p| p.layers.iter().cloned());
    doc(&Manifest {
        format: Manifest::FORMAT,
        features: Features::default(),
        fs: fs(),
        number: snapshot.number,
        epoch: snapshot.epoch,
        attempt: attempt.to_string(),
        name: None,
        kind: SnapshotKind::User,
        xid: XidRange {
            from: Xid(0),
            to: Xid(cut.into()),
        },
        parent: parent.as_ref().map(Manifest::id),
        created_at: AT.to_owned(),
        node: failed.iter().map(|cut| format!("{cut} ")).collect(),
        layers: std::iter::once(layer).chain(below).take(LAYERS).collect(),
        toc: None,
        meta_tarball: None,
        log: None,
        status_log: None,
        status: None,
        totals: Totals::default(),
        writer: String::new(),
    })
}
