//! `cbfsctl epoch list`.

use super::super::Context;
use crate::bucket_option::BucketOption;
use crate::output::{Outcome, printable, to_the_second};
use crate::table::{Align, Table};
use crate::target;
use cbfs_core::catalog;

/// List the masters a file system has had, the present one last.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  cbfsctl epoch list home --bucket file:///srv/bucket")]
pub(crate) struct Args {
    /// TAG, UUID prefix or full handle.
    #[arg(value_name = "FS")]
    fs: String,
    #[command(flatten)]
    bucket: BucketOption,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let located = target::locate(&args.fs, &args.bucket, &context.client()?)?;
    let epochs = catalog::epochs(located.open_bucket()?.as_ref(), &located.fs)?;
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
    ]);
    for claim in &epochs {
        table.row([
            claim.epoch.to_string(),
            printable(&claim.host),
            printable(&claim.node),
            to_the_second(&claim.claimed_at),
        ]);
    }
    context.output.table(&table)
}
