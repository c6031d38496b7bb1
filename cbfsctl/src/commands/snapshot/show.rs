//! `cbfsctl snapshot show`.

use super::super::Context;
use super::record::{SnapshotRecord, merge};
use crate::bucket_option::BucketOption;
use crate::client::DaemonClient;
use crate::output::{Outcome, Output, printable, to_the_second};
use crate::quantities;
use crate::snapshot_watch::event_in_words;
use crate::target::{self, Located};
use cbfs_core::api::SnapshotInfo;
use cbfs_core::catalog;
use cbfs_core::format::epoch::BaseSnapshot;
use cbfs_core::handle::{FsAndSnapshot, SnapshotSelector};
use cbfs_core::snapshot::StatusLine;
use cbfs_core::{Error, ErrorKind, Result};

/// Show all that is known of a snapshot.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cbfsctl snapshot show home@12\n  cbfsctl snapshot show home@latest\n  \
    cbfsctl snapshot show home@13 --all\n  \
    cbfsctl snapshot show home@before-upgrade --bucket file:///srv/bucket --json"
)]
pub(crate) struct Args {
    /// The snapshot: FS@12, FS@NAME or FS@latest.
    #[arg(value_name = "FS@SNAP")]
    snapshot: String,
    /// Also the whole status log: every attempt, state, object and retry.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    bucket: BucketOption,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let target: FsAndSnapshot = args.snapshot.parse()?;
    let wanted = target.snapshot.unwrap_or(SnapshotSelector::Latest);
    let client = context.client()?;
    let located = target::locate(target.fs.as_str(), &args.bucket, &client)?;
    let requests = target::requests_here(&client, &located)?;
    let mut record = match find(&located, &wanted, requests) {
        // Its request may be there, and its log damaged.
        Err(e) if e.kind() == ErrorKind::NotFound => match wanted {
            SnapshotSelector::Number(number) if located.on_this_node => {
                let asked = client.snapshot(&located.fs.to_string(), number);
                return Err(asked.err().filter(is_damage).unwrap_or(e).into());
            }
            _ => return Err(e.into()),
        },
        found => found?,
    };
    let output = &mut context.output;
    if located.on_this_node && record.request.is_none() {
        let asked = client.snapshot(&located.fs.to_string(), record.number);
        if let Some(e) = asked.err().filter(is_damage) {
            output.warning(e);
        }
    }
    if args.all {
        record.log = Some(status_log(&located, &record, &client)?);
    }
    if output.is_json() {
        return output.json(&record);
    }
    show(&located, &record, output)?;
    for line in record.log.iter().flatten() {
        let (at, event) = (to_the_second(&line.at), event_in_words(&line.event));
        output.line(format_args!("{at}  {event}"))?;
    }
    Ok(())
}

fn is_damage(e: &Error) -> bool {
    e.kind() == ErrorKind::Damage
}

/// The status log: this node's, which is the longer one, else the copy that lies with the snapshot.
fn status_log(
    located: &Located,
    record: &SnapshotRecord,
    client: &DaemonClient,
) -> Result<Vec<StatusLine>> {
    if record.request.is_some() {
        return client.snapshot_log(&located.fs.to_string(), record.number);
    }
    let manifest = record.manifest.as_ref();
    let bytes = if let Some(log) = manifest.and_then(|m| m.status_log.as_ref()) {
        log.as_bytes().to_vec()
    } else if let Some(object) = manifest.and_then(|m| m.status.as_ref()) {
        catalog::read_object(&*located.open_bucket()?, &located.fs, object)?
    } else {
        let text = format!(
            "the status log of {}@{} is not in the bucket",
            located.fs, record.number
        );
        return Err(Error::new(ErrorKind::NotFound, text)
            .hint("the node that made the snapshot has it; ask there"));
    };
    let lines = bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    // What a newer version noted is left out.
    Ok(lines
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect())
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
