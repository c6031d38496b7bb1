//! `cbfsctl fs show`.

use super::super::Context;
use crate::bucket_option::BucketOption;
use crate::output::{Outcome, printable, to_the_second};
use crate::quantities;
use cbfs_core::catalog::{self, Deletion};
use cbfs_core::format::config::FsConfig;
use cbfs_core::format::epoch::EpochClaim;
use cbfs_core::format::manifest::Manifest;
use cbfs_core::format::settings::FsSettings;
use serde::Serialize;

/// Show a file system as the bucket knows it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  cbfsctl fs show home --bucket file:///srv/bucket")]
pub(crate) struct Args {
    /// TAG, UUID prefix or full handle.
    #[arg(value_name = "FS")]
    fs: String,
    #[command(flatten)]
    bucket: BucketOption,
}

/// All that is shown.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    config: FsConfig,
    bucket: String,
    /// The latest claim: who is master.
    #[serde(skip_serializing_if = "Option::is_none")]
    master: Option<EpochClaim>,
    /// Schedule and retention; version 0 when nothing was set.
    settings: FsSettings,
    /// Complete snapshots.
    snapshots: usize,
    /// Bytes of all their objects, as stored.
    stored_bytes: u64,
    /// Since when it is deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted: Option<Deletion>,
    /// The last of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    latest: Option<Manifest>,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let bucket = args.bucket.open(true)?;
    let fs = catalog::find_fs(bucket.as_ref(), &args.fs)?;
    let mut manifests = catalog::manifests(bucket.as_ref(), &fs)?;
    let shown = Shown {
        config: catalog::load_config(bucket.as_ref(), &fs)?,
        bucket: bucket.url().to_string(),
        master: catalog::epochs(bucket.as_ref(), &fs)?.pop(),
        settings: catalog::settings(bucket.as_ref(), &fs)?,
        snapshots: manifests.len(),
        stored_bytes: manifests.iter().map(|m| m.totals.stored_bytes).sum(),
        deleted: catalog::deletion(bucket.as_ref(), &fs)?,
        latest: manifests.pop(),
    };
    if context.output.is_json() {
        return context.output.json(&shown);
    }
    let master = match &shown.master {
        Some(m) => format!(
            "{} (node {}), epoch {} since {}",
            printable(&m.host),
            printable(&m.node),
            m.epoch,
            to_the_second(&m.claimed_at)
        ),
        None => "none yet: never mounted".to_owned(),
    };
    let output = &mut context.output;
    output.line(format_args!("file system  {}", shown.config.fs))?;
    output.line(format_args!("bucket       {}", shown.bucket))?;
    output.line(format_args!(
        "created      {}",
        to_the_second(&shown.config.created_at)
    ))?;
    if let Some(deletion) = &shown.deleted {
        let reason = deletion.mark.reason.as_deref();
        output.line(format_args!(
            "DELETED      {} by host {}{}; {}",
            to_the_second(&deletion.mark.created_at),
            printable(&deletion.mark.host),
            reason
                .map(|r| format!(": {}", printable(r)))
                .unwrap_or_default(),
            match deletion.collected {
                true => "garbage collection has begun".to_owned(),
                false => format!("`cbfsctl fs undelete {}` takes it back", shown.config.fs),
            }
        ))?;
    }
    output.line(format_args!(
        "block size   {}",
        quantities::bytes(shown.config.block_size)
    ))?;
    output.line(format_args!("master       {master}"))?;
    for line in super::set::lines(&shown.settings) {
        output.line(line)?;
    }
    output.line(format_args!(
        "snapshots    {}, {} stored",
        quantities::count(shown.snapshots as u64),
        quantities::bytes(shown.stored_bytes)
    ))?;
    if let Some(latest) = &shown.latest {
        let name = latest
            .name
            .as_ref()
            .map(|n| format!(" ({n})"))
            .unwrap_or_default();
        output.line(format_args!(
            "latest       {}{name} of {}: {}, {}",
            latest.number,
            to_the_second(&latest.created_at),
            quantities::plural(latest.totals.inodes, "inode", "inodes"),
            quantities::bytes(latest.totals.logical_bytes)
        ))?;
    }
    Ok(())
}
