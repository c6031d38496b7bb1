//! `cbfsctl fs set`.

use super::super::Context;
use crate::bucket_option::BucketOption;
use crate::output::Outcome;
use crate::target;
use cbfs_core::catalog;
use cbfs_core::clock::System;
use cbfs_core::format::settings::FsSettings;
use cbfs_core::schedule::{Schedule, Seconds, TimeOfDay};
use cbfs_core::{Error, ErrorKind};

/// Set when snapshots of a file system are made by themselves, and which are kept.
///
/// What is not given stays as it is. The settings are stored in the bucket as a new version; the
/// master's daemon takes them up at once when it runs here, else within a minute. Times are UTC.
/// Retention marks snapshots deleted after each complete one; named and held ones and the latest
/// are always kept. A count of 0 lifts a rule; without any rule everything is kept.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cbfsctl fs set home --every 1h --keep-hourly 24 --keep-daily 7 --keep-monthly 12\n  \
    cbfsctl fs set home --daily-at 03:00\n  cbfsctl fs set home --no-schedule"
)]
pub(crate) struct Args {
    /// The file system: TAG, UUID prefix or full handle.
    #[arg(value_name = "FS")]
    fs: String,
    /// A snapshot every so often: 30m, 1h, 1d (at full multiples, so 1h is on the hour).
    #[arg(long, value_name = "DURATION", conflicts_with_all = ["daily_at", "no_schedule"])]
    every: Option<Seconds>,
    /// A snapshot every day at this time, UTC.
    #[arg(long, value_name = "HH:MM", conflicts_with = "no_schedule")]
    daily_at: Option<TimeOfDay>,
    /// No periodic snapshots any more.
    #[arg(long)]
    no_schedule: bool,
    /// Keep the newest N.
    #[arg(long, value_name = "N")]
    keep_last: Option<u32>,
    /// Keep the newest of each of the last N hours that have any.
    #[arg(long, value_name = "N")]
    keep_hourly: Option<u32>,
    /// The same for days.
    #[arg(long, value_name = "N")]
    keep_daily: Option<u32>,
    /// The same for weeks, from Monday.
    #[arg(long, value_name = "N")]
    keep_weekly: Option<u32>,
    /// The same for months.
    #[arg(long, value_name = "N")]
    keep_monthly: Option<u32>,
    /// Say what would hold, and change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    bucket: BucketOption,
}

impl Args {
    fn apply(&self, settings: &mut FsSettings) {
        if self.no_schedule {
            settings.schedule = None;
        }
        if let Some(every) = self.every {
            settings.schedule = Some(Schedule::Every(every));
        }
        if let Some(at) = self.daily_at {
            settings.schedule = Some(Schedule::DailyAt(at));
        }
        let keep = &mut settings.retention;
        for (given, rule) in [
            (self.keep_last, &mut keep.last),
            (self.keep_hourly, &mut keep.hourly),
            (self.keep_daily, &mut keep.daily),
            (self.keep_weekly, &mut keep.weekly),
            (self.keep_monthly, &mut keep.monthly),
        ] {
            *rule = given.unwrap_or(*rule);
        }
    }
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let client = context.client()?;
    let located = target::locate(&args.fs, &args.bucket, &client)?;
    let bucket = located.open_bucket_to_write(args.dry_run)?;
    catalog::refuse_deleted(&*bucket, &located.fs)?;
    let now = catalog::settings(&*bucket, &located.fs)?;
    let mut wanted = now.clone();
    args.apply(&mut wanted);
    let changes = wanted != now;
    if !changes && !args.dry_run && now.version == 0 {
        return Err(Error::new(ErrorKind::Usage, "nothing is to be set")
            .hint("see `cbfsctl fs set --help`")
            .into());
    }
    let settings = if changes && !args.dry_run {
        catalog::change_settings(&*bucket, &located.fs, &System, |s| args.apply(s))?
    } else {
        wanted
    };
    let output = &mut context.output;
    if changes && !args.dry_run && located.on_this_node {
        // A slave's daemon has no use for it, and one that does not answer asks the bucket itself.
        if let Err(e) = client.refresh_settings(&located.fs.to_string()) {
            output.message(format_args!("the master takes it up within a minute ({e})"));
        }
    }
    if output.is_json() {
        return output.json(&settings);
    }
    for line in lines(&settings) {
        output.line(line)?;
    }
    Ok(())
}

/// The settings for people.
pub(super) fn lines(settings: &FsSettings) -> [String; 2] {
    let schedule = settings
        .schedule
        .map_or("none".to_owned(), |s| s.to_string());
    [
        format!("schedule     {schedule}"),
        format!("keeps        {}", settings.retention),
    ]
}
