//! `cbfsctl fs undelete`.

use super::super::Context;
use super::delete::tell_master;
use crate::bucket_option::BucketOption;
use crate::output::{Outcome, printable};
use crate::target;
use cbfs_core::catalog;
use cbfs_core::clock::{Clock, System};

/// Take the deletion of a file system back: everything is there as before.
///
/// Possible until garbage collection of it has begun. Where several file systems have the tag, the deleted one is meant. No
/// daemon is needed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cbfsctl fs list --deleted\n  cbfsctl fs undelete home --bucket file:///srv/bucket"
)]
pub(crate) struct Args {
    /// TAG, UUID prefix or full handle.
    #[arg(value_name = "FS")]
    fs: String,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    bucket: BucketOption,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let client = context.client()?;
    let located = target::locate_deleted(&args.fs, &args.bucket, &client)?;
    let bucket = located.open_bucket_to_write(args.dry_run)?;
    let (bucket, fs) = (&*bucket, &located.fs);
    let output = &mut context.output;
    let deletion = if args.dry_run {
        let deletion = catalog::fs_may_be_undeleted(bucket, fs)?;
        output.message(format_args!(
            "would take back that {}",
            printable(&deletion.describe())
        ));
        deletion
    } else {
        let deletion = catalog::undelete_fs(bucket, fs, &System.now().to_rfc3339())?;
        tell_master(&located, &client, output);
        output.message(format_args!("{fs} is there as before"));
        deletion
    };
    if output.is_json() {
        output.json(&deletion)?;
    }
    Ok(())
}
