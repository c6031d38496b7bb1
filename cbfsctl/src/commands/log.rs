//! `cbfsctl log`.

use super::Context;
use crate::bucket_option::BucketOption;
use crate::client::DaemonClient;
use crate::interrupt::{Interrupt, Unheard};
use crate::log_text;
use crate::output::{Outcome, Output, Stop};
use crate::published_history::{self, Gap};
use crate::target;
use cbfs_core::bucket::Bucket;
use cbfs_core::catalog::HistoricSnapshot;
use cbfs_core::change_log::{PathTracker, Resolved, covering, parse_line, read_log};
use cbfs_core::clock::{Clock, System};
use cbfs_core::cloud_snapshot::{CloudSnapshot, Scratch};
use cbfs_core::format::log::LogRecord;
use cbfs_core::format::manifest::Manifest;
use cbfs_core::handle::{FsAndSnapshot, Handle, SnapshotSelector};
use cbfs_core::ids::{SnapshotNumber, Xid};
use cbfs_core::inode::Timestamp;
use cbfs_core::layers::Layer;
use cbfs_core::names::JsonPath;
use cbfs_core::snapshot::SnapshotState;
use cbfs_core::{Error, ErrorKind, Result, catalog};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks for a new snapshot, where no daemon tells.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Print the change log of a file system: every operation, when, and on which path.
///
/// Published logs come from the bucket, those of deleted snapshots included; what is not published yet comes
/// from this node's daemon, where it has the master. While the bucket is away, so does recent history, which
/// stays on the node for a while. What no log has any more is told as a gap. Paths are those at the moment of the operation; an inode whose name is
/// not known is shown by its number. Times are those of the master's clock, in UTC. Attributes that
/// changed along with something else, and access times, are only in --json.
///
/// BOUND is a transaction (281474976710660), a snapshot (@5, @monday, @latest: its cut), a time
/// (2026-11-21, 2026-11-21T18:00:00Z) or a duration before now (90m, 36h, 7d). Both ends are included,
/// but for --since @SNAP, which begins after its cut.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  cbfsctl log home --since @5 --until @9\n  \
    cbfsctl log home --since 2h --path documents/report.odt\n  \
    cbfsctl log home --follow\n  \
    cbfsctl log home --since @latest --json | jq -r '.paths[].path'\n\n\
    With --json each operation is a line: xid, time, events as in log.jsonl.zst (docs/format.md),\n\
    snapshot (where published), and paths: for each event `path` or `path_hex`, and `to` of a rename.\n\
    A gap is a line with `gap`: from, to, reason.")]
pub(crate) struct Args {
    /// The file system: TAG, UUID prefix or full handle.
    #[arg(value_name = "FS")]
    fs: String,
    /// Begin here.
    #[arg(long, value_name = "BOUND")]
    since: Option<String>,
    /// End here.
    #[arg(long, value_name = "BOUND", conflicts_with = "follow")]
    until: Option<String>,
    /// Only what concerns this path of the file system (relative to its root) or lies below it.
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// Go on with what happens from now on, until Ctrl-C.
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    bucket: BucketOption,
}

/// Where to begin or end.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Bound {
    Xid(Xid),
    Snapshot(SnapshotSelector),
    Time(Timestamp),
}

/// What to print.
#[derive(Debug, Clone)]
struct Filter {
    from: Xid,
    to: Xid,
    after: Timestamp,
    before: Timestamp,
    path: Option<Vec<u8>>,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let target: FsAndSnapshot = args.fs.parse()?;
    if target.snapshot.is_some() {
        let error = Error::new(
            ErrorKind::Usage,
            "a log is of a file system, not of a snapshot",
        );
        return Err(error.hint("write FS --since @SNAP").into());
    }
    let parting = "interrupted: temporary files stay behind";
    let interrupt = Interrupt::install(parting, Unheard::End)?;
    interrupt.during(|| print(args, &target, &interrupt, context))
}

fn print(
    args: &Args,
    target: &FsAndSnapshot,
    interrupt: &Interrupt,
    context: &mut Context,
) -> Outcome {
    let client = context.client()?;
    let found = target::locate(target.fs.as_str(), &args.bucket, &client).and_then(|located| {
        let bucket = located.open_bucket()?;
        let history = catalog::history(&*bucket, &located.fs)?;
        Ok((located.fs, bucket, history))
    });
    let (fs, bucket, history) = match found {
        Err(e) if e.kind() == ErrorKind::BucketUnreachable => {
            let here = client
                .instances()
                .and_then(|instances| target::handle_on_this_node(target.fs.as_str(), &instances));
            let Ok(fs) = here else { return Err(e.into()) };
            let text =
                "only what this node still has is shown, with the names that are known from it";
            context.output.warning(format_args!("{text}: {e}"));
            return local(args, &fs, &client, interrupt, context);
        }
        found => found?,
    };
    let wanted = Published { bucket, fs };
    let manifests: Vec<&Manifest> = history.iter().filter_map(|s| s.manifest.as_ref()).collect();
    let cut_of = |selector: &SnapshotSelector| wanted.cut_of(&history, selector);
    let filter = filter(args, &cut_of, System.now())?;
    let scratch = Arc::new(Scratch::new()?);
    let latest = manifests.last().map_or(Xid(0), |m| m.xid.to);
    let recent = |m: &Manifest| !ends_before(m, filter.after);
    let range = (filter.from, filter.to);
    let runs = published_history::runs(&*wanted.bucket, &wanted.fs, &history, range, recent)?;
    let mut bases = Vec::with_capacity(runs.len());
    for run in &runs {
        // Paths start from the snapshot before the first log that is read.
        let base = match run.logs.first() {
            Some(first) => parent_of(first, &manifests),
            None => manifests.last().copied(),
        };
        bases.push(match base {
            Some(base) => wanted.names(base, &scratch, &mut context.output)?,
            None => None,
        });
    }
    let mut printer = Printer::new(filter, &mut context.output, interrupt);
    for (run, base) in runs.iter().zip(&bases) {
        for gap in &run.gaps {
            printer.gap(gap)?;
        }
        let layer = base.as_ref().map(|base| base.stack() as &dyn Layer);
        printer.tracker = PathTracker::new(layer);
        for manifest in &run.logs {
            printer.published(&wanted, manifest, &scratch)?;
        }
    }
    printer.next = Xid(printer.next.0.max(latest.0 + 1));
    if printer.filter.to < printer.next {
        return Ok(());
    }
    tail(args, &wanted, &client, &scratch, &mut printer)
}

/// Where the published logs are.
struct Published {
    bucket: Arc<dyn Bucket>,
    fs: Handle,
}

impl Published {
    /// The cut of a snapshot, deleted or not. A name means the one that has it now.
    fn cut_of(&self, history: &[HistoricSnapshot], selector: &SnapshotSelector) -> Result<Xid> {
        let fits = |m: &&Manifest| match selector {
            SnapshotSelector::Number(number) => m.number == *number,
            SnapshotSelector::Name(name) => m.name.as_ref() == Some(name),
            SnapshotSelector::Latest => false,
        };
        let of = |deleted: bool| {
            let some = history.iter().rev().filter(move |s| s.deleted == deleted);
            some.filter_map(|s| s.manifest.as_ref()).find(fits)
        };
        match of(false).or_else(|| of(true)) {
            Some(manifest) => Ok(manifest.xid.to),
            None => {
                let found = catalog::find_snapshot(&*self.bucket, &self.fs, selector);
                found.map(|manifest| manifest.xid.to)
            }
        }
    }

    /// The names in a snapshot; `None` where they cannot be had any more.
    fn names(
        &self,
        base: &Manifest,
        scratch: &Arc<Scratch>,
        output: &mut Output,
    ) -> Result<Option<CloudSnapshot>> {
        let bucket = Arc::clone(&self.bucket);
        match CloudSnapshot::open(bucket, base.clone(), Arc::clone(scratch)) {
            Ok(base) => Ok(Some(base)),
            Err(e) if matches!(e.kind(), ErrorKind::Damage | ErrorKind::NotFound) => {
                output.warning(format_args!("names from before are not known: {e}"));
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }
}

/// The bucket is away: what the daemon's journal still has.
fn local(
    args: &Args,
    fs: &Handle,
    client: &DaemonClient,
    interrupt: &Interrupt,
    context: &mut Context,
) -> Outcome {
    let requests = client.snapshots(&fs.to_string())?;
    let cut_of = |selector: &SnapshotSelector| {
        let complete = requests
            .iter()
            .filter(|r| r.state == SnapshotState::Complete);
        let found = match selector {
            SnapshotSelector::Latest => complete.max_by_key(|r| (r.epoch, r.number)),
            selector => complete
                .filter(|r| target::is_request(r, selector))
                .max_by_key(|r| r.epoch),
        };
        found.and_then(|r| r.xid).ok_or_else(|| {
            let text = format!("the cut of {fs}@{selector} is not known without the bucket");
            Error::new(ErrorKind::BucketUnreachable, text)
                .hint("give a transaction or a time as the bound")
        })
    };
    let filter = filter(args, &cut_of, System.now())?;
    let from = filter.from;
    let mut printer = Printer::new(filter, &mut context.output, interrupt);
    let mut begun = false;
    let answer = client.change_log(&fs.to_string(), Xid(0), args.follow, &mut |line| {
        let Some(line) = line else {
            return Ok(printer.interrupt.check().is_ok());
        };
        let record = parse_line(line)?;
        if !begun && record.xid > from {
            let text = format!(
                "what was before transaction {} is in the bucket only",
                record.xid
            );
            printer.output.message(text);
        }
        begun = true;
        printer.record(record, None)
    });
    if let Some(stop) = printer.stop.take() {
        return Err(stop);
    }
    printer.interrupt.check()?;
    Ok(answer?)
}

/// What is not published yet; with `--follow` for ever.
fn tail(
    args: &Args,
    wanted: &Published,
    client: &DaemonClient,
    scratch: &Arc<Scratch>,
    printer: &mut Printer<'_>,
) -> Outcome {
    loop {
        let (fs, from) = (wanted.fs.to_string(), printer.next);
        let mut missing = None;
        let answer = client.change_log(&fs, from, args.follow, &mut |line| {
            let record = match line {
                Some(line) => parse_line(line)?,
                None => return Ok(printer.interrupt.check().is_ok()),
            };
            // Published and trimmed meanwhile: the bucket has what lies between.
            if record.xid > printer.next {
                missing = Some(record.xid);
                return Ok(false);
            }
            printer.record(record, None)
        });
        if let Some(stop) = printer.stop.take() {
            return Err(stop);
        }
        printer.interrupt.check()?;
        match answer {
            Ok(()) if missing.is_none() && !args.follow => return Ok(()),
            Ok(()) => {}
            // No daemon, or no master here: the bucket is all there is.
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::DaemonUnreachable | ErrorKind::NotFound | ErrorKind::Credentials
                ) =>
            {
                if e.kind() == ErrorKind::Credentials {
                    let text = "only what is published is shown";
                    printer.output.warning(format_args!("{text}: {e}"));
                }
                if !args.follow {
                    return Ok(());
                }
                printer.interrupt.pause(LOOK_AGAIN)?;
            }
            Err(e) => return Err(e.into()),
        }
        let before = printer.next;
        let manifests = catalog::manifests(&*wanted.bucket, &wanted.fs)?;
        for manifest in covering(manifests, printer.next, printer.filter.to) {
            printer.published(wanted, &manifest, scratch)?;
        }
        if let Some(xid) = missing.filter(|_| printer.next == before) {
            // A new epoch begins with a jump; else no log has what lies between.
            if before.0 >> 48 == xid.0 >> 48 {
                printer.gap(&Gap {
                    from: before,
                    to: Xid(xid.0 - 1),
                    snapshot: None,
                    reason: "neither the bucket nor this node has them",
                })?;
            }
            printer.next = xid;
        }
    }
}

struct Printer<'a> {
    tracker: PathTracker<'a>,
    filter: Filter,
    output: &'a mut Output,
    interrupt: &'a Interrupt,
    /// The first transaction that was not seen yet.
    next: Xid,
    stop: Option<Stop>,
}

/// A record as a JSON line.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<SnapshotNumber>,
    #[serde(flatten)]
    record: &'a LogRecord,
    paths: Vec<ShownPaths>,
}

#[derive(Serialize)]
struct ShownPaths {
    #[serde(flatten)]
    path: Option<JsonPath>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<JsonPath>,
}

impl<'a> Printer<'a> {
    fn new(filter: Filter, output: &'a mut Output, interrupt: &'a Interrupt) -> Printer<'a> {
        Printer {
            tracker: PathTracker::new(None),
            filter,
            output,
            interrupt,
            next: Xid(0),
            stop: None,
        }
    }

    /// Tell what no log has any more: on stderr, and with `--json` as a line of its own.
    fn gap(&mut self, gap: &Gap) -> Outcome {
        #[derive(Serialize)]
        struct Line<'a> {
            gap: &'a Gap,
        }
        if self.output.is_json() {
            return self.output.json_line(&Line { gap });
        }
        let of = match gap.snapshot {
            Some(number) => format!(" (snapshot {number})"),
            None => String::new(),
        };
        self.output.warning(format_args!(
            "transactions {} to {}{of} are missing here: {}",
            gap.from, gap.to, gap.reason
        ));
        Ok(())
    }

    fn published(&mut self, wanted: &Published, manifest: &Manifest, scratch: &Scratch) -> Outcome {
        let number = Some(manifest.number);
        let read = read_log(&*wanted.bucket, manifest, scratch, |record| {
            match self.record(record, number)? {
                true => Ok(()),
                false => Err(Error::failed("stopped")),
            }
        });
        if let Some(stop) = self.stop.take() {
            return Err(stop);
        }
        read?;
        self.next = Xid(self.next.0.max(manifest.xid.to.0 + 1));
        Ok(())
    }

    /// The next record; whether to go on (else `stop` says why).
    fn record(&mut self, record: LogRecord, snapshot: Option<SnapshotNumber>) -> Result<bool> {
        if record.xid < self.next {
            return Ok(true); // seen already
        }
        self.next = record.xid.next();
        let resolved = self.tracker.follow(record)?;
        let printed = self.interrupt.check().and_then(|()| {
            if self.is_wanted(&resolved) {
                self.print(&resolved, snapshot)
            } else {
                Ok(())
            }
        });
        match printed {
            Ok(()) => Ok(true),
            Err(stop) => {
                self.stop = Some(stop);
                Ok(false)
            }
        }
    }

    fn is_wanted(&self, resolved: &Resolved) -> bool {
        let (record, filter) = (&resolved.record, &self.filter);
        let time = Timestamp::parse_rfc3339(&record.time).unwrap_or_default();
        let in_range = record.xid >= filter.from
            && record.xid <= filter.to
            && time >= filter.after
            && time <= filter.before;
        let concerns = |path: &Vec<u8>| resolved.paths.iter().any(|p| p.concern(path));
        in_range && !record.events.is_empty() && filter.path.as_ref().is_none_or(concerns)
    }

    fn print(&mut self, resolved: &Resolved, snapshot: Option<SnapshotNumber>) -> Outcome {
        if self.output.is_json() {
            let json = |path: &Option<Vec<u8>>| path.as_deref().map(JsonPath::new);
            let paths = resolved.paths.iter().map(|p| ShownPaths {
                path: json(&p.path),
                to: json(&p.to),
            });
            return self.output.json_line(&Shown {
                snapshot,
                record: &resolved.record,
                paths: paths.collect(),
            });
        }
        for line in log_text::lines(resolved, self.filter.path.as_deref()) {
            self.output.line(line)?;
        }
        Ok(())
    }
}

fn filter(
    args: &Args,
    cut_of: &dyn Fn(&SnapshotSelector) -> Result<Xid>,
    now: Timestamp,
) -> Result<Filter> {
    let mut filter = Filter {
        from: Xid(0),
        to: Xid(i64::MAX.unsigned_abs()),
        after: Timestamp(i64::MIN),
        before: Timestamp(i64::MAX),
        path: args.path.as_ref().map(|path| {
            let path = path.trim_matches('/');
            path.strip_prefix("./").unwrap_or(path).as_bytes().to_vec()
        }),
    };
    match args
        .since
        .as_deref()
        .map(|text| parse_bound(text, now))
        .transpose()?
    {
        None => {}
        Some(Bound::Xid(xid)) => filter.from = xid,
        Some(Bound::Snapshot(selector)) => filter.from = cut_of(&selector)?.next(),
        Some(Bound::Time(time)) => filter.after = time,
    }
    match args
        .until
        .as_deref()
        .map(|text| parse_bound(text, now))
        .transpose()?
    {
        None => {}
        Some(Bound::Xid(xid)) => filter.to = xid,
        Some(Bound::Snapshot(selector)) => filter.to = cut_of(&selector)?,
        Some(Bound::Time(time)) => filter.before = time,
    }
    Ok(filter)
}

fn parse_bound(text: &str, now: Timestamp) -> Result<Bound> {
    if let Some(snapshot) = text.strip_prefix('@') {
        return Ok(Bound::Snapshot(snapshot.parse()?));
    }
    if let Ok(xid) = text.parse::<u64>() {
        return Ok(Bound::Xid(Xid(xid)));
    }
    let seconds = |unit: char| match unit {
        's' => Some(1i64),
        'm' => Some(60),
        'h' => Some(3600),
        'd' => Some(86_400),
        _ => None,
    };
    let ago = text.chars().last().and_then(seconds).and_then(|unit| {
        let count: u32 = text[..text.len() - 1].parse().ok()?;
        let nanos = i64::from(count)
            .checked_mul(unit)?
            .checked_mul(1_000_000_000)?;
        Some(Timestamp(now.0.saturating_sub(nanos)))
    });
    let time = ago
        .or_else(|| Timestamp::parse_rfc3339(text))
        .or_else(|| Timestamp::parse_rfc3339(&format!("{}Z", text.replacen(' ', "T", 1))))
        .or_else(|| Timestamp::parse_rfc3339(&format!("{text}T00:00:00Z")));
    time.map(Bound::Time).ok_or_else(|| {
        let text = format!("{text:?} is no transaction, snapshot, time or duration");
        Error::new(ErrorKind::Usage, text)
            .hint("write 281474976710660, @5, @NAME, 2026-11-21, 2026-11-21T18:00:00Z or 36h")
    })
}

/// Whether all of a snapshot is from before a time. Its manifest is made after its cut.
fn ends_before(manifest: &Manifest, time: Timestamp) -> bool {
    Timestamp::parse_rfc3339(&manifest.created_at).is_some_and(|created| created < time)
}

fn parent_of<'a>(manifest: &Manifest, all: &[&'a Manifest]) -> Option<&'a Manifest> {
    let parent = manifest.parent?;
    all.iter().copied().find(|m| m.id() == parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_transactions_snapshots_times_and_durations() {
        let now = Timestamp::parse_rfc3339("2026-11-21T12:00:00Z").unwrap();
        let time = |text: &str| Bound::Time(Timestamp::parse_rfc3339(text).unwrap());
        for (text, wanted) in [
            ("281474976710660", Bound::Xid(Xid(281_474_976_710_660))),
            ("@5", Bound::Snapshot("5".parse().unwrap())),
            ("@latest", Bound::Snapshot(SnapshotSelector::Latest)),
            ("36h", time("2026-11-20T00:00:00Z")),
            ("90m", time("2026-11-21T10:30:00Z")),
            ("2026-11-20", time("2026-11-20T00:00:00Z")),
            ("2026-11-20 10:11:12", time("2026-11-20T10:11:12Z")),
            ("2026-11-20T10:11:12+02:00", time("2026-11-20T08:11:12Z")),
        ] {
            assert_eq!(parse_bound(text, now).unwrap(), wanted, "{text}");
        }
        for text in ["", "yesterday", "-3h", "5x", "\u{fc}"] {
            let error = parse_bound(text, now).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{text}");
        }
    }
}
