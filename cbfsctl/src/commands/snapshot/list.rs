//! `cbfsctl snapshot list`.

use super::super::Context;
use super::record::{merge, record_table};
use crate::bucket_option::BucketOption;
use crate::output::Outcome;
use crate::target;
use cbfs_core::{Error, ErrorKind};

/// List the snapshots of a file system: those in the bucket, and the requests of this node.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  cbfsctl snapshot list home\n  \
    cbfsctl snapshot list home --bucket file:///srv/bucket --json | jq '.[].number'")]
pub(crate) struct Args {
    /// The file system: TAG, UUID prefix or full handle.
    #[arg(value_name = "FS")]
    fs: String,
    #[command(flatten)]
    bucket: BucketOption,
}

/// Run it. A bucket that cannot be read makes the list partial when the daemon knows the file
/// system: what is known is printed, then the error.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let client = context.client()?;
    let located = target::locate(&args.fs, &args.bucket, &client)?;
    let requests = if located.on_this_node {
        client.snapshots(&located.fs.to_string())?
    } else {
        Vec::new()
    };
    let (manifests, unread) = match located.manifests() {
        Ok(manifests) => (manifests, None),
        Err(e) if located.on_this_node => (Vec::new(), Some(e)),
        Err(e) => return Err(e.into()),
    };
    let records = merge(requests, manifests);
    let output = &mut context.output;
    if output.is_json() {
        output.json(&records)?;
    } else if records.is_empty() && unread.is_none() {
        output.message(format_args!("{} has no snapshots", located.fs));
    } else if !records.is_empty() {
        output.line(record_table(&records).render())?;
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
