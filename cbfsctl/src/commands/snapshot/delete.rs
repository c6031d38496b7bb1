//! `cbfsctl snapshot delete`.

use super::super::Context;
use super::marked::Marked;
use crate::bucket_option::BucketOption;
use crate::confirmation::ConfirmOption;
use crate::output::{Outcome, to_the_second};
use cbfs_core::catalog;

/// Delete a snapshot: it is not listed, found or mounted any more.
///
/// It is only marked: later snapshots keep what they need of it, and garbage collection takes the
/// rest. Its name is free again, its number is not. A held snapshot and the latest complete one
/// are refused (exit 11). No daemon is needed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cbfsctl snapshot delete home@12 --dry-run\n  \
    cbfsctl snapshot delete home@before-upgrade\n  \
    cbfsctl snapshot delete home@12 --confirm home-6f1c2a52-8f8a-4d0e-9a53-0c2ad9d1a2b3"
)]
pub(crate) struct Args {
    /// The snapshot: FS@12 or FS@NAME.
    #[arg(value_name = "FS@SNAP")]
    snapshot: String,
    #[command(flatten)]
    confirm: ConfirmOption,
    #[command(flatten)]
    bucket: BucketOption,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let dry_run = args.confirm.dry_run;
    let marked = Marked::find(&args.snapshot, &args.bucket, dry_run, context)?;
    let (bucket, m) = (&*marked.bucket, &marked.manifest);
    catalog::may_be_deleted(bucket, &m.fs, m.id())?;
    let what = format!(
        "delete {}, made {}",
        marked.describe(),
        to_the_second(&m.created_at)
    );
    let output = &mut context.output;
    let mark = marked.mark(None);
    if dry_run {
        output.message(format_args!("would {what}"));
    } else {
        args.confirm.ask(&what, &m.fs, output)?;
        catalog::delete_snapshot(bucket, &mark)?;
        output.message(format_args!(
            "{} is deleted; garbage collection will take what nothing else needs",
            marked.describe()
        ));
    }
    if output.is_json() {
        output.json(&mark)?;
    }
    Ok(())
}
