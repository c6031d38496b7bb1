//! `cbfsctl snapshot list`.

use super::super::Context;
use super::record::{merge, record_table};
use crate::bucket_option::BucketOption;
use crate::client::DaemonClient;
use crate::output::{Outcome, Output, printable};
use crate::target::{self, Located};
use cbfs_core::api::DamagedLog;
use cbfs_core::catalog::{self, Hold};
use cbfs_core::format::epoch::BaseSnapshot;
use cbfs_core::format::manifest::Manifest;
use cbfs_core::{Error, ErrorKind, Result};
use std::collections::{BTreeMap, BTreeSet};

/// List the snapshots of a file system: those in the bucket, and the requests of this node.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  cbfsctl snapshot list home\n  \
    cbfsctl snapshot list home --all\n  \
    cbfsctl snapshot list home --bucket file:///srv/bucket --json | jq '.[].number'")]
pub(crate) struct Args {
    /// The file system: TAG, UUID prefix or full handle.
    #[arg(value_name = "FS")]
    fs: String,
    /// Also deleted ones, and those that a superseded master published beyond what the next epoch builds on.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    bucket: BucketOption,
}

/// What the bucket says.
#[derive(Default)]
struct Known {
    manifests: Vec<Manifest>,
    deleted: BTreeSet<BaseSnapshot>,
    diverged: BTreeSet<BaseSnapshot>,
    holds: BTreeMap<BaseSnapshot, Vec<Hold>>,
}

fn known(located: &Located, all: bool) -> Result<Known> {
    let (bucket, fs) = (located.open_bucket()?, &located.fs);
    let mut diverged = BTreeSet::new();
    let manifests = if all {
        let listed = catalog::all_manifests(&*bucket, fs)?;
        diverged.extend(listed.iter().filter(|m| m.diverged).map(|m| m.id));
        let manifests = listed.into_iter().map(|m| m.manifest);
        manifests.collect::<Result<_>>()?
    } else {
        catalog::manifests(&*bucket, fs)?
    };
    Ok(Known {
        manifests,
        diverged,
        deleted: catalog::deleted_snapshots(&*bucket, fs)?,
        holds: catalog::holds(&*bucket, fs)?,
    })
}

/// Requests that are in no list, as their status log cannot be read: their snapshot is listed where it is in the bucket.
fn tell_damaged_logs(located: &Located, client: &DaemonClient, output: &mut Output) {
    let instances = match located.on_this_node {
        true => client.instances().unwrap_or_default(),
        false => return,
    };
    let of_fs = instances.into_iter().filter(|i| i.fs == located.fs);
    for DamagedLog { number, problem } in of_fs.flat_map(|i| i.damaged_logs) {
        output.warning(format_args!(
            "request {number}: {}; what it held is in its snapshot, if that is listed, or in the next; move the file \
             away and restart cbfsd to be rid of it",
            printable(&problem)
        ));
    }
}

/// Run it. A bucket that cannot be read makes the list partial when the daemon knows the file
/// system: what is known is printed, then the error.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let client = context.client()?;
    let located = target::locate(&args.fs, &args.bucket, &client)?;
    let requests = target::requests_here(&client, &located)?;
    tell_damaged_logs(&located, &client, &mut context.output);
    let (known, unread) = match known(&located, args.all) {
        Ok(known) => (known, None),
        Err(e) if located.on_this_node => (Known::default(), Some(e)),
        Err(e) => return Err(e.into()),
    };
    let mut records = merge(requests, known.manifests);
    for record in &mut records {
        let id = BaseSnapshot {
            number: record.number,
            epoch: record.epoch,
        };
        record.diverged = known.diverged.contains(&id);
        record.deleted = known.deleted.contains(&id);
        record.holds = known.holds.get(&id).cloned().unwrap_or_default();
    }
    records.retain(|r| args.all || !r.deleted);
    let output = &mut context.output;
    if output.is_json() {
        output.json(&records)?;
    } else if records.is_empty() && unread.is_none() {
        output.message(format_args!("{} has no snapshots", located.fs));
    } else if !records.is_empty() {
        output.table(&record_table(&records))?;
    }
    match unread {
        None => Ok(()),
        Some(e) => {
            let hint = e.hint_text().map(str::to_owned);
            let partial = Error::new(
                ErrorKind::Partial,
                "the bucket could not be read: only requests are listed",
            );
            let partial = partial.because(e);
            Err(hint.into_iter().fold(partial, Error::hint).into())
        }
    }
}
