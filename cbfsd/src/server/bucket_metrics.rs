//! What is asked of buckets, by their URL and the kind of request: latencies, failures, what goes over the wire and
//! what it costs. (What an instance asks of its bucket is told with the instance.)

use super::metrics::Exposition;
use cbfs_core::bucket::{BucketTraffic, LATENCY_BOUNDS};

/// A counter of a bucket: name, help, value.
type Counter = (&'static str, &'static str, fn(&BucketTraffic) -> u64);

const COUNTERS: &[Counter] = &[
    (
        "cbfs_bucket_retries_total",
        "Requests to the bucket that were tried again.",
        |t| t.retries,
    ),
    (
        "cbfs_wire_writes_total",
        "PUT, POST and LIST requests on the wire, as stores charge them.",
        |t| t.wire.writes,
    ),
    (
        "cbfs_wire_reads_total",
        "GET and HEAD requests on the wire, as stores charge them.",
        |t| t.wire.reads,
    ),
    (
        "cbfs_wire_sent_bytes_total",
        "Bytes sent to the store.",
        |t| t.wire.bytes_out,
    ),
    (
        "cbfs_wire_received_bytes_total",
        "Bytes received from the store.",
        |t| t.wire.bytes_in,
    ),
];

pub(super) fn of_buckets(out: &mut Exposition, buckets: &[BucketTraffic]) {
    latencies(out, buckets);
    let name = "cbfs_bucket_request_failures_total";
    out.family(name, "counter", "Requests to the bucket that failed.");
    for traffic in buckets {
        for counted in &traffic.requests {
            let labels = [
                ("bucket", traffic.bucket.as_str()),
                ("kind", counted.kind.name()),
            ];
            out.sample(name, &labels, counted.failures);
        }
    }
    for (name, help, value) in COUNTERS {
        out.family(name, "counter", help);
        for traffic in buckets {
            out.sample(name, &[("bucket", &traffic.bucket)], value(traffic));
        }
    }
    let name = "cbfs_bucket_cost_last_hour";
    let help = "Estimated cost of the requests of the last hour.";
    out.family(name, "gauge", help);
    for traffic in buckets {
        if let Some(cost) = traffic.cost_last_hour {
            out.sample(name, &[("bucket", &traffic.bucket)], cost);
        }
    }
}

fn latencies(out: &mut Exposition, buckets: &[BucketTraffic]) {
    let name = "cbfs_bucket_request_seconds";
    let (bucket, sum, count) = (
        format!("{name}_bucket"),
        format!("{name}_sum"),
        format!("{name}_count"),
    );
    let help = "Requests to the bucket by how long they took.";
    out.family(name, "histogram", help);
    for traffic in buckets {
        for counted in &traffic.requests {
            let labels = [
                ("bucket", traffic.bucket.as_str()),
                ("kind", counted.kind.name()),
            ];
            let [of, kind] = labels;
            let mut below = 0;
            for (bound, within) in LATENCY_BOUNDS.iter().zip(&counted.latencies) {
                below += within;
                out.sample(&bucket, &[of, kind, ("le", &bound.to_string())], below);
            }
            out.sample(&bucket, &[of, kind, ("le", "+Inf")], counted.requests);
            out.sample(&sum, &labels, counted.seconds);
            out.sample(&count, &labels, counted.requests);
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
        let mut out = Exposition::default();
        of_buckets(&mut out, &[traffic]);
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
            assert!(out.text().contains(&line), "{line} in {}", out.text());
        }
        let all = format!("{name}_count{{{labels}}} 3\n");
        assert!(out.text().contains(&all));
    }
}
