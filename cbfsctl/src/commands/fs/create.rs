//! `cbfsctl fs create`.

use super::super::Context;
use crate::bucket_option::BucketOption;
use crate::output::Outcome;
use cbfs_core::catalog;
use cbfs_core::clock::System;
use cbfs_core::handle::validate_tag;
use serde::Serialize;

/// Create an empty file system in a bucket and print its handle.
///
/// One small object is written; nothing is mounted yet. The handle is the TAG and a fresh UUID:
/// several file systems may share a TAG.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  cbfsctl fs create home --bucket file:///srv/bucket")]
pub(crate) struct Args {
    /// A mnemonic: letters, digits, `.`, `_` and `-`.
    tag: String,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    bucket: BucketOption,
}

/// What `--dry-run --json` tells.
#[derive(Debug, Serialize)]
struct Plan<'a> {
    dry_run: bool,
    tag: &'a str,
    bucket: String,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let bucket = args.bucket.open(args.dry_run)?;
    if args.dry_run {
        validate_tag(&args.tag)?;
        if context.output.is_json() {
            return context.output.json(&Plan {
                dry_run: true,
                tag: &args.tag,
                bucket: bucket.url().to_string(),
            });
        }
        context.output.message(format_args!(
            "would create a file system {} in {}",
            args.tag,
            bucket.url()
        ));
        return Ok(());
    }
    let config = catalog::create_fs(bucket.as_ref(), &args.tag, &System, &System)?;
    if context.output.is_json() {
        return context.output.json(&config);
    }
    context.output.line(&config.fs)?;
    context.output.message(format_args!(
        "created in {}; mount it with `cbfsctl mount {} DIR --bucket {}`",
        bucket.url(),
        config.fs,
        bucket.url()
    ));
    Ok(())
}
