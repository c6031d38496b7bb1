//! `cbfsctl fs list`.

use super::super::Context;
use crate::bucket_option::BucketOption;
use crate::output::{Outcome, to_the_second};
use crate::table::{Align, Table};
use cbfs_core::catalog;
use cbfs_core::format::config::FsConfig;
use cbfs_core::format::epoch::EpochClaim;
use serde::Serialize;

/// List the file systems in a bucket.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cbfsctl fs list --bucket file:///srv/bucket\n  \
    cbfsctl fs list --json | jq -r '.[].fs'"
)]
pub(crate) struct Args {
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
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let bucket = args.bucket.open(true)?;
    let mut listed = Vec::new();
    for fs in catalog::list_fs(bucket.as_ref())? {
        let config = catalog::load_config(bucket.as_ref(), &fs)?;
        let master = catalog::epochs(bucket.as_ref(), &fs)?.pop();
        listed.push(Listed { config, master });
    }
    if context.output.is_json() {
        return context.output.json(&listed);
    }
    if listed.is_empty() {
        context
            .output
            .message(format_args!("no file systems in {}", bucket.url()));
        return Ok(());
    }
    let mut table = Table::new(&[
        ("FILE SYSTEM", Align::Left),
        ("CREATED", Align::Left),
        ("EPOCH", Align::Right),
        ("MASTER", Align::Left),
    ]);
    for Listed { config, master } in &listed {
        table.row([
            config.fs.to_string(),
            to_the_second(&config.created_at),
            master
                .as_ref()
                .map(|m| m.epoch.to_string())
                .unwrap_or_default(),
            master.as_ref().map(|m| m.host.clone()).unwrap_or_default(),
        ]);
    }
    context.output.table(&table)
}
