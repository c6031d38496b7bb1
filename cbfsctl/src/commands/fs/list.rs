//! `cbfsctl fs list`.

use super::super::Context;
use crate::bucket_option::BucketOption;
use crate::output::{Outcome, to_the_second};
use crate::quantities;
use crate::table::{Align, Table};
use cbfs_core::catalog::{self, Deletion};
use cbfs_core::format::config::FsConfig;
use cbfs_core::format::epoch::EpochClaim;
use serde::Serialize;

/// List the file systems in a bucket, without those that are deleted.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cbfsctl fs list --bucket file:///srv/bucket\n  \
    cbfsctl fs list --json | jq -r '.[].fs'"
)]
pub(crate) struct Args {
    /// Only those that are deleted (`cbfsctl fs undelete` takes that back).
    #[arg(long, conflicts_with = "all")]
    deleted: bool,
    /// Deleted ones too.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    bucket: BucketOption,
}

/// An element of the list.
#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    config: FsConfig,
    /// The latest claim: who is master.
    #[serde(skip_serializing_if = "Option::is_none")]
    master: Option<EpochClaim>,
    /// Since when it is deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted: Option<Deletion>,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let bucket = args.bucket.open(true)?;
    let (mut listed, mut hidden) = (Vec::new(), 0_u64);
    for fs in catalog::list_fs(bucket.as_ref())? {
        let deleted = catalog::deletion(bucket.as_ref(), &fs)?;
        if !args.all && args.deleted != deleted.is_some() {
            hidden += u64::from(deleted.is_some());
            continue;
        }
        let config = catalog::load_config(bucket.as_ref(), &fs)?;
        let master = catalog::epochs(bucket.as_ref(), &fs)?.pop();
        listed.push(Listed {
            config,
            master,
            deleted,
        });
    }
    if context.output.is_json() {
        return context.output.json(&listed);
    }
    let output = &mut context.output;
    if hidden > 0 {
        let deleted = quantities::plural(hidden, "deleted one is", "deleted ones are");
        output.message(format_args!("{deleted} not shown (--all)"));
    }
    if listed.is_empty() {
        let which = if args.deleted { "deleted " } else { "" };
        output.message(format_args!("no {which}file systems in {}", bucket.url()));
        return Ok(());
    }
    let mut columns = vec![
        ("FILE SYSTEM", Align::Left),
        ("CREATED", Align::Left),
        ("EPOCH", Align::Right),
        ("MASTER", Align::Left),
    ];
    let with_deleted = args.all || args.deleted;
    if with_deleted {
        columns.push(("DELETED", Align::Left));
    }
    let mut table = Table::new(&columns);
    for Listed {
        config,
        master,
        deleted,
    } in &listed
    {
        let mut row = vec![
            config.fs.to_string(),
            to_the_second(&config.created_at),
            master
                .as_ref()
                .map(|m| m.epoch.to_string())
                .unwrap_or_default(),
            master.as_ref().map(|m| m.host.clone()).unwrap_or_default(),
        ];
        if with_deleted {
            let at = deleted.as_ref().map(|d| to_the_second(&d.mark.created_at));
            row.push(at.unwrap_or_default());
        }
        table.row(row);
    }
    output.table(&table)
}
