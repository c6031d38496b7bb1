//! `cbfsctl status`.

use super::Context;
use super::instance::{instance_table, problem_lines};
use crate::bucket_traffic;
use crate::output::{Outcome, printable, to_the_second};
use crate::snapshot_watch::in_words;
use std::time::Duration;

/// Show this node's daemon, its instances, and the snapshots under way or failed.
///
/// Exit code 4 tells that no daemon runs.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  cbfsctl status")]
pub(crate) struct Args {}

/// Run it.
pub(crate) fn run(_: &Args, context: &mut Context) -> Outcome {
    let status = context.client()?.status()?;
    let output = &mut context.output;
    if output.is_json() {
        return output.json(&status);
    }
    output.line(format_args!("node       {}", printable(&status.node)))?;
    output.line(format_args!(
        "daemon     cbfs {}, pid {}, since {}",
        printable(&status.version),
        status.pid,
        to_the_second(&status.started_at)
    ))?;
    let state_dir = status.state_dir.to_string_lossy();
    output.line(format_args!("state      {}", printable(&state_dir)))?;
    let table = instance_table(&status.instances);
    if !table.is_empty() {
        output.line("")?;
        output.table(&table)?;
    }
    for line in problem_lines(&status.instances) {
        output.line(line)?;
    }
    for traffic in &status.buckets {
        output.line("")?;
        output.line(printable(&traffic.bucket))?;
        bucket_traffic::show(traffic, output)?;
    }
    for promotion in &status.promotions {
        let why = promotion
            .problem
            .as_deref()
            .unwrap_or("it goes on by itself");
        output.line(format_args!(
            "{}: this node is becoming master, in epoch {} ({})",
            promotion.fs,
            promotion.epoch,
            printable(why)
        ))?;
    }
    if !status.snapshots.is_empty() {
        output.line("")?;
    }
    for snapshot in &status.snapshots {
        let mut line = format!(
            "{}: {}",
            snapshot.fs,
            in_words(snapshot, Duration::ZERO, "")
        );
        if let Some(reason) = &snapshot.reason {
            line += &format!(" ({})", printable(reason));
        }
        output.line(line)?;
    }
    Ok(())
}
