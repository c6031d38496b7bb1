//! `cbfsctl epoch list`.

use super::super::Context;
use crate::bucket_option::BucketOption;
use crate::output::{Outcome, printable, to_the_second};
use crate::table::{Align, Table};
use crate::target;
use cbfs_core::Result;
use cbfs_core::bucket::Bucket;
use cbfs_core::catalog;
use cbfs_core::format::epoch::{BaseSnapshot, EpochClaim};
use cbfs_core::handle::Handle;
use cbfs_core::ids::SnapshotNumber;
use serde::Serialize;

/// List the masters a file system has had, the present one last.
///
/// Of each: the snapshot it began with, the last one it published that counts, and how it stands. `diverged` are snapshots
/// that a master published after it was superseded: they are kept, and `snapshot list --all` shows them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  cbfsctl epoch list home --bucket file:///srv/bucket")]
pub(crate) struct Args {
    /// TAG, UUID prefix or full handle.
    #[arg(value_name = "FS")]
    fs: String,
    #[command(flatten)]
    bucket: BucketOption,
}

/// How an epoch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum EpochState {
    /// Its holder is master.
    Current,
    /// Claimed by a node that is becoming master.
    PromotionUnderWay,
    /// A later one exists.
    Superseded,
    /// A later one exists, and this one never became master.
    NeverBegan,
}

impl EpochState {
    fn words(self) -> &'static str {
        match self {
            EpochState::Current => "current",
            EpochState::PromotionUnderWay => "promotion under way",
            EpochState::Superseded => "superseded",
            EpochState::NeverBegan => "superseded before it began",
        }
    }
}

/// An epoch.
#[derive(Debug, Clone, Serialize)]
struct EpochRecord {
    #[serde(flatten)]
    claim: EpochClaim,
    state: EpochState,
    /// The snapshot it began with.
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<BaseSnapshot>,
    /// The last one of its own that counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_snapshot: Option<SnapshotNumber>,
    /// Published beyond what the next epoch builds on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    diverged: Vec<SnapshotNumber>,
}

fn records(bucket: &dyn Bucket, fs: &Handle) -> Result<Vec<EpochRecord>> {
    let published = catalog::published_ids(bucket, fs)?;
    let claims = catalog::epochs(bucket, fs)?;
    let last = claims.len();
    let mut records = Vec::with_capacity(last);
    for (nth, claim) in claims.into_iter().enumerate() {
        let base = catalog::epoch_base(bucket, fs, claim.epoch)?;
        let begun = base.is_some() || claim.epoch.0 == 1;
        let state = match (nth + 1 == last, begun) {
            (true, true) => EpochState::Current,
            (true, false) => EpochState::PromotionUnderWay,
            (false, true) => EpochState::Superseded,
            (false, false) => EpochState::NeverBegan,
        };
        let own = published.iter().filter(|(id, _)| id.epoch == claim.epoch);
        let (lineal, diverged): (Vec<_>, Vec<_>) = own.partition(|(_, lineal)| *lineal);
        records.push(EpochRecord {
            state,
            base: base.and_then(|document| document.base),
            last_snapshot: lineal.last().map(|(id, _)| id.number),
            diverged: diverged.into_iter().map(|(id, _)| id.number).collect(),
            claim,
        });
    }
    Ok(records)
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let located = target::locate(&args.fs, &args.bucket, &context.client()?)?;
    let epochs = records(located.open_bucket()?.as_ref(), &located.fs)?;
    if context.output.is_json() {
        return context.output.json(&epochs);
    }
    if epochs.is_empty() {
        context
            .output
            .message(format_args!("{} was never mounted", located.fs));
        return Ok(());
    }
    let mut table = Table::new(&[
        ("EPOCH", Align::Right),
        ("HOST", Align::Left),
        ("NODE", Align::Left),
        ("SINCE", Align::Left),
        ("FROM", Align::Right),
        ("LAST", Align::Right),
        ("STATE", Align::Left),
    ]);
    for record in &epochs {
        let number =
            |number: Option<SnapshotNumber>| number.map_or("-".to_owned(), |n| n.to_string());
        let mut state = record.state.words().to_owned();
        if !record.diverged.is_empty() {
            let all: Vec<String> = record.diverged.iter().map(ToString::to_string).collect();
            state.push_str(&format!(", diverged: {}", all.join(" ")));
        }
        table.row([
            record.claim.epoch.to_string(),
            printable(&record.claim.host),
            printable(&record.claim.node),
            to_the_second(&record.claim.claimed_at),
            number(record.base.map(|base| base.number)),
            number(record.last_snapshot),
            state,
        ]);
    }
    context.output.table(&table)
}
