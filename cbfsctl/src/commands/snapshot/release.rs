//! `cbfsctl snapshot release`.

use super::super::Context;
use super::marked::Marked;
use crate::bucket_option::BucketOption;
use crate::output::Outcome;
use cbfs_core::catalog;
use cbfs_core::{Error, ErrorKind};

/// Release a held snapshot: all its holds. It is not deleted by that.
///
/// One that was deleted while somebody held it, or that a promotion left behind, can be released too.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  cbfsctl snapshot release home@12")]
pub(crate) struct Args {
    /// The snapshot: FS@12, FS@NAME or FS@latest.
    #[arg(value_name = "FS@SNAP")]
    snapshot: String,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    bucket: BucketOption,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let marked = Marked::find_held(&args.snapshot, &args.bucket, args.dry_run, context)?;
    let mark = marked.mark(None);
    let output = &mut context.output;
    let released = if args.dry_run {
        let standing = catalog::standing_holds(&*marked.bucket, &mark.fs, mark.snapshot())?;
        if standing.is_empty() {
            let text = format!("{} is not held", marked.describe());
            let hint = format!("`cbfsctl snapshot list {}` shows holds", mark.fs);
            return Err(Error::new(ErrorKind::Conflict, text).hint(hint).into());
        }
        output.message(format_args!("would release {}", marked.describe()));
        standing.len()
    } else {
        catalog::release_snapshot(&*marked.bucket, &mark)?
    };
    if output.is_json() {
        return output.json(&serde_json::json!({
            "fs": mark.fs, "number": mark.number, "epoch": mark.epoch, "released": released,
        }));
    }
    if !args.dry_run {
        output.message(format_args!("{} is released", marked.describe()));
    }
    Ok(())
}
