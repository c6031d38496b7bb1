//! `/metrics`: Prometheus text exposition format 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use super::Shared;
use axum::extract::State;
use axum::response::IntoResponse;
use cbfs_core::api::{Health, InstanceInfo};
use cbfs_core::bucket::{BucketTraffic, LATENCY_BOUNDS};
use cbfs_core::snapshot::SnapshotState;
use std::fmt::Write;

/// One gauge: name, help, value of an instance.
type Gauge = (&'static str, &'static str, fn(&InstanceInfo) -> u64);

const GAUGES: &[Gauge] = &[
    ("cbfs_xid", "Last transaction answered.", |i| i.xid.0),
    (
        "cbfs_durable_xid",
        "Last transaction that survives power loss.",
        |i| i.durable_xid.0,
    ),
    (
        "cbfs_unpublished_transactions",
        "Transactions since the last complete snapshot.",
        |i| i.unpublished,
    ),
    ("cbfs_inodes", "Inodes alive.", |i| i.inodes),
    (
        "cbfs_local_bytes",
        "Bytes of KVS and journal on the local disk.",
        |i| i.local_bytes,
    ),
    (
        "cbfs_dirty_bytes",
        "Bytes of rows not yet written to SQLite.",
        |i| i.dirty_bytes,
    ),
    ("cbfs_healthy", "1 when the instance is ok.", |i| {
        u64::from(i.health == Health::Ok)
    }),
    ("cbfs_mounted", "1 when the instance is mounted.", |i| {
        u64::from(i.mount_point.is_some())
    }),
    (
        "cbfs_last_snapshot",
        "Number of the last complete snapshot, 0 for none.",
        |i| i.last_snapshot.map_or(0, |n| n.0),
    ),
];

pub(super) async fn metrics(State(shared): State<Shared>) -> impl IntoResponse {
    let gather = move || {
        let mut out = String::new();
        let instances = shared.manager.instances();
        for (name, help, value) in GAUGES {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
            for instance in &instances {
                let id = &instance.id;
                let _ = writeln!(out, "{name}{{instance_id=\"{id}\"}} {}", value(instance));
            }
        }
        let open = shared.manager.open_snapshots();
        let failed = open
            .iter()
            .filter(|s| s.state == SnapshotState::Failed)
            .count();
        let name = "cbfs_snapshot_requests";
        let _ = writeln!(out, "# HELP {name} Requests by state.\n# TYPE {name} gauge");
        let _ = writeln!(out, "{name}{{state=\"open\"}} {}", open.len() - failed);
        let _ = writeln!(out, "{name}{{state=\"failed\"}} {failed}");
        bucket_metrics(&mut out, &cbfs_core::bucket::traffic());
        out
    };
    let text = tokio::task::spawn_blocking(gather)
        .await
        .unwrap_or_default();
    ([("content-type", "text/plain; version=0.0.4")], text)
}

/// A counter of a bucket: name, help, value.
type BucketCounter = (&'static str, &'static str, fn(&BucketTraffic) -> u64);

const BUCKET_COUNTERS: &[BucketCounter] = &[
    (
        "cbfs_bucket_retries_total",
        "Requests to the bucket that were tried again.",
        |t| t.retries,
    ),
    (
        "cbfs_bucket_wire_writes_total",
        "PUT, POST and LIST requests on the wire, as stores charge them.",
        |t| t.wire.writes,
    ),
    (
        "cbfs_bucket_wire_reads_total",
        "GET and HEAD requests on the wire, as stores charge them.",
        |t| t.wire.reads,
    ),
    (
        "cbfs_bucket_sent_bytes_total",
        "Bytes sent to the store.",
        |t| t.wire.bytes_out,
    ),
    (
        "cbfs_bucket_received_bytes_total",
        "Bytes received from the store.",
        |t| t.wire.bytes_in,
    ),
];

/// A label value as the format wants it.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// What is asked of buckets: a latency histogram and failures by kind of request, and what goes over the wire.
fn bucket_metrics(out: &mut String, buckets: &[BucketTraffic]) {
    // Writing to a String cannot fail.
    let name = "cbfs_bucket_request_seconds";
    let _ = writeln!(
        out,
        "# HELP {name} Requests to the bucket by how long they took.\n# TYPE {name} histogram"
    );
    for traffic in buckets {
        let bucket = label(&traffic.bucket);
        for counted in &traffic.requests {
            let labels = format!("bucket=\"{bucket}\",kind=\"{}\"", counted.kind.name());
            let mut below = 0;
            for (bound, count) in LATENCY_BOUNDS.iter().zip(&counted.latencies) {
                below += count;
                let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {below}");
            }
            let all = counted.requests;
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {all}");
            let _ = writeln!(out, "{name}_sum{{{labels}}} {}", counted.seconds);
            let _ = writeln!(out, "{name}_count{{{labels}}} {all}");
        }
    }
    let name = "cbfs_bucket_request_failures_total";
    let _ = writeln!(
        out,
        "# HELP {name} Requests to the bucket that failed.\n# TYPE {name} counter"
    );
    for traffic in buckets {
        let bucket = label(&traffic.bucket);
        for counted in &traffic.requests {
            let (kind, failures) = (counted.kind.name(), counted.failures);
            let _ = writeln!(
                out,
                "{name}{{bucket=\"{bucket}\",kind=\"{kind}\"}} {failures}"
            );
        }
    }
    for (name, help, value) in BUCKET_COUNTERS {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter");
        for traffic in buckets {
            let bucket = label(&traffic.bucket);
            let _ = writeln!(out, "{name}{{bucket=\"{bucket}\"}} {}", value(traffic));
        }
    }
    let name = "cbfs_bucket_cost_last_hour";
    let _ = writeln!(
        out,
        "# HELP {name} Estimated cost of the requests of the last hour.\n# TYPE {name} gauge"
    );
    for traffic in buckets {
        if let Some(cost) = traffic.cost_last_hour {
            let bucket = label(&traffic.bucket);
            let _ = writeln!(out, "{name}{{bucket=\"{bucket}\"}} {cost}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cbfs_core::bucket::{AWS_PRICES, Counters, traffic_of};

    #[test]
    fn a_histogram_is_cumulative_and_ends_with_all() {
        let url = "s3://b/p".parse().unwrap();
        let mut traffic = traffic_of(&url, &Counters::default(), AWS_PRICES);
        let mut counted = Counters::default().counts().swap_remove(0);
        counted.requests = 3;
        counted.latencies[0] = 1;
        counted.latencies[3] = 1;
        counted.latencies[12] = 1;
        traffic.requests.push(counted);
        let mut out = String::new();
        bucket_metrics(&mut out, &[traffic]);
        let labels = "bucket=\"s3://b/p\",kind=\"create\"";
        let name = "cbfs_bucket_request_seconds";
        for (le, count) in [
            ("0.005", 1),
            ("0.025", 1),
            ("0.05", 2),
            ("30", 2),
            ("+Inf", 3),
        ] {
            let line = format!("{name}_bucket{{{labels},le=\"{le}\"}} {count}\n");
            assert!(out.contains(&line), "{line} in {out}");
        }
        assert!(out.contains(&format!("{name}_count{{{labels}}} 3\n")));
    }
}
