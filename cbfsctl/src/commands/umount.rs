//! `cbfsctl umount`.

use super::Context;
use crate::output::{Outcome, printable};
use crate::target;
use cbfs_core::api::UmountRequest;
use std::path::Path;

/// Unmount a file system.
///
/// What was changed since the last snapshot stays on this node and is there again at the next
/// mount. The daemon goes on running.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cbfsctl umount /mnt/home\n  cbfsctl umount home\n  \
    cbfsctl umount home@12"
)]
pub(crate) struct Args {
    /// The mount point, or the file system where it has one mount on this node.
    #[arg(value_name = "DIR|FS")]
    target: String,
    /// Detach now, even when files are open; the rest happens when they are closed.
    #[arg(long)]
    lazy: bool,
    /// Say what would be unmounted, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let client = context.client()?;
    let instance = target::choose_mounted(&args.target, &client.instances()?)?;
    if args.dry_run {
        if context.output.is_json() {
            return context.output.json(&instance);
        }
        let dir = instance.mount_point.as_deref().map(Path::to_string_lossy);
        let dir = printable(&dir.unwrap_or_default());
        context
            .output
            .message(format_args!("would unmount {} from {dir}", instance.id));
        return Ok(());
    }
    let instance = client.umount(&UmountRequest {
        target: instance.id,
        lazy: args.lazy,
    })?;
    if context.output.is_json() {
        return context.output.json(&instance);
    }
    context
        .output
        .message(format_args!("{} is unmounted", printable(&instance.id)));
    Ok(())
}
