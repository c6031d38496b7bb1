//! `cbfsctl snapshot show`.

use super::super::Context;
use super::record::{SnapshotRecord, merge};
use crate::bucket_option::BucketOption;
use crate::output::{Outcome, Output, printable, to_the_second};
use crate::quantities;
use crate::target::{self, Located};
use cbfs_core::api::SnapshotInfo;
use cbfs_core::catalog;
use cbfs_core::format::epoch::BaseSnapshot;
use cbfs_core::handle::{FsAndSnapshot, SnapshotSelector};
use cbfs_core::{ErrorKind, Result};

/// Show all that is known of a snapshot.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cbfsctl snapshot show home@12\n  cbfsctl snapshot show home@latest\n  \
    cbfsctl snapshot show home@before-upgrade --bucket file:///srv/bucket --json"
)]
pub(crate) struct Args {
    /// The snapshot: FS@12, FS@NAME or FS@latest.
    #[arg(value_name = "FS@SNAP")]
    snapshot: String,
    #[command(flatten)]
    bucket: BucketOption,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let target: FsAndSnapshot = args.snapshot.parse()?;
    let wanted = target.snapshot.unwrap_or(SnapshotSelector::Latest);
    let client = context.client()?;
    let located = target::locate(target.fs.as_str(), &args.bucket, &client)?;
    let requests = if located.on_this_node {
        client.snapshots(&located.fs.to_string())?
    } else {
        Vec::new()
    };
    let record = find(&located, &wanted, requests)?;
    let output = &mut context.output;
    if output.is_json() {
        return output.json(&record);
    }
    show(&located, &record, output)
}

/// The snapshot in the bucket; where there is none, the request. A request that is not complete
/// is never `latest`: that word means the same here and for `mount`.
fn find(
    located: &Located,
    wanted: &SnapshotSelector,
    mut requests: Vec<SnapshotInfo>,
) -> Result<SnapshotRecord> {
    let in_bucket = match located.find_snapshot(wanted) {
        // The request is all there is (so far). Of a manifest that is there but cannot be read it
        // must not stand in.
        Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::BucketUnreachable) => {
            return Err(e);
        }
        answer => answer,
    };
    if in_bucket
        .as_ref()
        .is_err_and(|e| e.kind() == ErrorKind::NotFound)
    {
        // Complete, and not to be found: deleted. Its request must not stand in for it.
        let deleted = catalog::deleted_snapshots(&*located.open_bucket()?, &located.fs)?;
        requests.retain(|r| {
            let (number, epoch) = (r.number, r.epoch);
            !deleted.contains(&BaseSnapshot { number, epoch })
        });
    }
    requests.retain(|r| match &in_bucket {
        Ok(m) => (r.number, r.epoch) == (m.number, m.epoch),
        Err(_) => target::is_request(r, wanted),
    });
    match in_bucket {
        Ok(manifest) => {
            let id = manifest.id();
            let record = merge(requests, vec![manifest.clone()]).pop();
            let mut record = record.unwrap_or_else(|| SnapshotRecord::of_manifest(manifest));
            let mut holds = catalog::holds(&*located.open_bucket()?, &located.fs)?;
            record.holds = holds.remove(&id).unwrap_or_default();
            Ok(record)
        }
        Err(e) => requests.pop().map(SnapshotRecord::of_request).ok_or(e),
    }
}

fn show(located: &Located, record: &SnapshotRecord, output: &mut Output) -> Outcome {
    use quantities::{bytes, count, plural};
    output.line(format_args!("snapshot   {}@{}", located.fs, record.number))?;
    if let Some(name) = &record.name {
        output.line(format_args!("name       {}", printable(name)))?;
    }
    output.line(format_args!("state      {}", record.state_in_words()))?;
    for hold in &record.holds {
        let reason = hold.mark.reason.as_deref().unwrap_or("no reason given");
        output.line(format_args!(
            "held       since {} by {}: {}",
            to_the_second(&hold.mark.created_at),
            printable(&hold.mark.host),
            printable(reason)
        ))?;
    }
    if let Some(request) = &record.request {
        output.line(format_args!(
            "requested  {}",
            to_the_second(&request.requested_at)
        ))?;
        output.line(format_args!(
            "updated    {}",
            to_the_second(&request.updated_at)
        ))?;
        if let Some(reason) = &request.reason {
            output.line(format_args!("reason     {}", printable(reason)))?;
        }
        output.line(format_args!(
            "work       {} of {}, {} of {}; {} of {} sent",
            count(request.files_done),
            plural(request.files_total, "file", "files"),
            bytes(request.bytes_done),
            bytes(request.bytes_total),
            count(request.objects_sent),
            plural(request.objects_made, "object", "objects"),
        ))?;
    }
    let Some(m) = &record.manifest else {
        return Ok(());
    };
    let parent = match &m.parent {
        Some(parent) => parent.number.to_string(),
        None => "none: it is whole by itself".to_owned(),
    };
    let t = &m.totals;
    output.line(format_args!("created    {}", to_the_second(&m.created_at)))?;
    output.line(format_args!(
        "by         {}, epoch {}",
        printable(&m.node),
        m.epoch
    ))?;
    output.line(format_args!("parent     {parent}"))?;
    output.line(format_args!("xids       {} to {}", m.xid.from, m.xid.to))?;
    output.line(format_args!(
        "changed    {}, {} removed",
        plural(t.changed_inodes, "inode", "inodes"),
        count(t.removed_inodes)
    ))?;
    output.line(format_args!(
        "data       {} in {}, {}",
        bytes(t.data_bytes),
        plural(t.sections, "section", "sections"),
        plural(t.tarballs, "tarball", "tarballs")
    ))?;
    output.line(format_args!("stored     {}", bytes(t.stored_bytes)))?;
    output.line(format_args!(
        "holds      {}, {}",
        plural(t.inodes, "inode", "inodes"),
        bytes(t.logical_bytes)
    ))?;
    for layer in &m.layers {
        output.line(format_args!(
            "layer      {} ({})",
            layer.object.key,
            bytes(layer.object.size)
        ))?;
    }
    for (what, object) in [
        ("toc", &m.toc),
        ("metadata", &m.meta_tarball),
        ("log", &m.log),
    ] {
        if let Some(object) = object {
            output.line(format_args!(
                "{what:<9}  {} ({})",
                object.key,
                bytes(object.size)
            ))?;
        }
    }
    Ok(())
}
