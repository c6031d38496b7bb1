//! `cbfsctl snapshot hold`.

use super::super::Context;
use super::marked::Marked;
use crate::bucket_option::BucketOption;
use crate::output::Outcome;
use cbfs_core::catalog;
use cbfs_core::catalog::Hold;

/// Hold a snapshot: neither a person nor retention can delete it until it is released.
///
/// Several holds may stand; `release` lifts them all. No daemon is needed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  cbfsctl snapshot hold home@12 --reason 'audit of March'")]
pub(crate) struct Args {
    /// The snapshot: FS@12, FS@NAME or FS@latest.
    #[arg(value_name = "FS@SNAP")]
    snapshot: String,
    /// Why, for others to read.
    #[arg(long)]
    reason: Option<String>,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    bucket: BucketOption,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let marked = Marked::find(&args.snapshot, &args.bucket, args.dry_run, context)?;
    let mark = marked.mark(args.reason.clone());
    let output = &mut context.output;
    if args.dry_run {
        if output.is_json() {
            return output.json(&mark);
        }
        output.message(format_args!("would hold {}", marked.describe()));
        return Ok(());
    }
    let nth = catalog::hold_snapshot(&*marked.bucket, &mark)?;
    if output.is_json() {
        return output.json(&Hold { nth, mark });
    }
    output.message(format_args!("{} is held", marked.describe()));
    Ok(())
}
