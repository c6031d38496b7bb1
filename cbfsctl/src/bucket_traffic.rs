//! Requests to a bucket, for people: a table of them by kind, and what they cost.

use crate::output::{Outcome, Output};
use crate::quantities;
use crate::table::{Align, Table};
use cbfs_core::bucket::{BucketTraffic, CountedRequests, LATENCY_BOUNDS};
use std::time::Duration;

/// Print it; nothing of a bucket that was not asked for anything.
pub(crate) fn show(traffic: &BucketTraffic, output: &mut Output) -> Outcome {
    let table = request_table(traffic);
    if !table.is_empty() {
        output.table(&table)?;
    }
    let mut lines = Vec::new();
    if traffic.retries > 0 {
        lines.push(format!("{} tried again", traffic.retries));
    }
    if let Some(cost) = traffic.cost_last_hour {
        let wire = &traffic.wire;
        lines.push(format!(
            "on the wire: {} writes, {} reads, {} out, {} in",
            quantities::count(wire.writes),
            quantities::count(wire.reads),
            quantities::bytes(wire.bytes_out),
            quantities::bytes(wire.bytes_in)
        ));
        lines.push(format!(
            "about {cost:.4} in the last hour, at the prices of cbfsd.toml or AWS"
        ));
    }
    lines.iter().try_for_each(|line| output.line(line))
}

/// One row for each kind that was asked for; P50 and P99 are bounds that half, or 99 of 100, stayed within.
fn request_table(traffic: &BucketTraffic) -> Table {
    let mut table = Table::new(&[
        ("REQUEST", Align::Left),
        ("COUNT", Align::Right),
        ("FAILED", Align::Right),
        ("BYTES", Align::Right),
        ("P50", Align::Right),
        ("P99", Align::Right),
    ]);
    for counted in &traffic.requests {
        table.row([
            counted.kind.name().to_owned(),
            quantities::count(counted.requests),
            quantities::count(counted.failures),
            quantities::bytes(counted.bytes),
            within(counted, 0.5),
            within(counted, 0.99),
        ]);
    }
    table
}

/// `≤0.025 s`, as histograms tell it.
fn within(counted: &CountedRequests, share: f64) -> String {
    let bound = counted.quantile(share);
    let (sign, bound) = match bound.is_finite() {
        true => ("≤", bound),
        false => (">", LATENCY_BOUNDS[LATENCY_BOUNDS.len() - 1]),
    };
    format!(
        "{sign}{}",
        quantities::duration(Duration::from_secs_f64(bound))
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use cbfs_core::bucket::{AWS_PRICES, Counters, RequestKind, traffic_of};

    #[test]
    fn a_row_for_each_kind_tells_how_long_half_and_nearly_all_took_within_80_columns() {
        let url = "s3://b/p".parse().unwrap();
        let mut traffic = traffic_of(&url, &Counters::default(), AWS_PRICES);
        let counted = |kind, latencies: [u64; LATENCY_BOUNDS.len() + 1]| CountedRequests {
            kind,
            requests: latencies.iter().sum(),
            failures: 1,
            bytes: u64::MAX,
            seconds: 0.0,
            latencies: latencies.into(),
        };
        traffic.requests = vec![
            counted(
                RequestKind::GetRange,
                [0, 0, 60, 39, 1, 0, 0, 0, 0, 0, 0, 0, 0],
            ),
            counted(RequestKind::Create, [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        ];
        let table = request_table(&traffic).render();
        let rows: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split("  ").filter(|cell| !cell.is_empty()).collect())
            .collect();
        let cells = |row: usize| rows[row].iter().map(|c| c.trim()).collect::<Vec<_>>();
        assert_eq!(
            cells(0),
            ["REQUEST", "COUNT", "FAILED", "BYTES", "P50", "P99"]
        );
        let first = cells(1);
        assert_eq!(first[..3], ["get_range", "100", "1"]);
        assert_eq!(first[4..], ["≤0.025 s", "≤0.050 s"]);
        assert_eq!(cells(2)[4..], ["≤0.005 s", ">30.00 s"]);
        assert_eq!(rows.len(), 3, "{table}");
        assert!(
            table.lines().all(|line| line.chars().count() <= 80),
            "{table}"
        );
    }
}
