//! `cbfsctl status`.

use super::Context;
use super::instance::{instance_table, problem_lines};
use crate::output::{Outcome, printable, to_the_second};
use crate::quantities;
use crate::snapshot_watch::in_words;
use cbfs_core::bucket::BucketTraffic;
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
        output.line(traffic_line(traffic))?;
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

/// Requests to one bucket, in one line: `s3://b/p: create 7 (half within 25ms), …; 2 tried again, 1 failed`.
fn traffic_line(traffic: &BucketTraffic) -> String {
    let kinds = traffic.requests.iter().map(|counted| {
        let half = counted.quantile(0.5);
        let within = if half.is_finite() {
            format!(
                "half within {}",
                quantities::duration(Duration::from_secs_f64(half))
            )
        } else {
            "half slower than 30s".to_owned()
        };
        format!("{} {} ({within})", counted.kind.name(), counted.requests)
    });
    let mut line = format!(
        "\n{}: {}",
        printable(&traffic.bucket),
        kinds.collect::<Vec<_>>().join(", ")
    );
    let failures: u64 = traffic.requests.iter().map(|c| c.failures).sum();
    if traffic.retries > 0 || failures > 0 {
        line += &format!("; {} tried again, {failures} failed", traffic.retries);
    }
    if let Some(cost) = traffic.cost_last_hour {
        line += &format!(
            "; {} out, {} in; about {cost:.4} in the last hour at the prices of cbfsd.toml or AWS",
            quantities::bytes(traffic.wire.bytes_out),
            quantities::bytes(traffic.wire.bytes_in)
        );
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use cbfs_core::bucket::{AWS_PRICES, Counters, traffic_of};

    #[test]
    fn traffic_is_one_line() {
        let url = "s3://b/p".parse().unwrap();
        let mut traffic = traffic_of(&url, &Counters::default(), AWS_PRICES);
        let counted = Counters::default().counts().swap_remove(0);
        traffic.requests.push(cbfs_core::bucket::CountedRequests {
            requests: 7,
            failures: 1,
            latencies: vec![0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            ..counted
        });
        traffic.retries = 2;
        assert_eq!(
            traffic_line(&traffic),
            "\ns3://b/p: create 7 (half within 0.025 s); 2 tried again, 1 failed; 0 B out, 0 B in; \
             about 0.0000 in the last hour at the prices of cbfsd.toml or AWS"
        );
    }
}
