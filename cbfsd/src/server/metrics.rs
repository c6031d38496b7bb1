//! `/metrics`: Prometheus text exposition format 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
//!
//! Names: `cbfs_` and what is measured, with the unit at the end (`_bytes`, `_seconds`), counters with `_total`. A
//! file system on this node is the label `instance_id` (`instance` is Prometheus's own). Every family has HELP and
//! TYPE, also while it has no samples, so that alert rules and dashboards can be checked against any daemon.
//! `share/prometheus/alerts.yml` and `share/grafana/cbfs.json` use these names; a test compares them.

use super::Shared;
use axum::extract::State;
use axum::response::IntoResponse;
use cbfs_core::api::{Health, InstanceInfo, Role, SnapshotInfo, Traffic};
use cbfs_core::inode::Timestamp;
use cbfs_core::snapshot::SnapshotState;
use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::fs;

/// The states that a request may be in without being done with.
const OPEN_STATES: [SnapshotState; 6] = [
    SnapshotState::Queued,
    SnapshotState::Collected,
    SnapshotState::Writing,
    SnapshotState::Written,
    SnapshotState::Copying,
    SnapshotState::Failed,
];

const HEALTHS: [(Health, &str); 4] = [
    (Health::Ok, "ok"),
    (Health::Degraded, "degraded"),
    (Health::Fenced, "fenced"),
    (Health::Poisoned, "poisoned"),
];

/// A gauge of each instance: name, help, value; no sample where the value does not apply.
type Gauge = (&'static str, &'static str, fn(&InstanceInfo) -> Option<u64>);

const GAUGES: &[Gauge] = &[
    (
        "cbfs_last_transaction",
        "Last transaction answered (xid).",
        |i| Some(i.xid.0),
    ),
    (
        "cbfs_durable_transaction",
        "Last transaction that survives power loss (xid).",
        |i| Some(i.durable_xid.0),
    ),
    (
        "cbfs_unpublished_transactions",
        "Transactions since the last complete snapshot.",
        |i| Some(i.unpublished),
    ),
    ("cbfs_inodes", "Inodes alive.", |i| Some(i.inodes)),
    (
        "cbfs_local_bytes",
        "Bytes of the instance on the local disk.",
        |i| Some(i.local_bytes),
    ),
    (
        "cbfs_local_limit_bytes",
        "Bound on the bytes on the local disk, where one is set.",
        |i| i.kvs_limit,
    ),
    (
        "cbfs_dirty_bytes",
        "Bytes of rows not yet written to the KVS files.",
        |i| Some(i.dirty_bytes),
    ),
    (
        "cbfs_contents_bytes",
        "Bytes of all files, as statfs tells them.",
        |i| Some(i.logical_bytes),
    ),
    (
        "cbfs_disk_free_bytes",
        "Bytes that the disk of the state directory leaves.",
        |i| Some(i.free_bytes),
    ),
    (
        "cbfs_proxy_bytes",
        "Bytes of objects on their way to or from the bucket.",
        |i| Some(i.proxy_bytes),
    ),
    ("cbfs_mounted", "1 when the instance is mounted.", |i| {
        Some(u64::from(i.mount_point.is_some()))
    }),
    (
        "cbfs_epoch",
        "Epoch of the master, or of the slave's snapshot.",
        |i| Some(u64::from(i.epoch.0)),
    ),
    (
        "cbfs_last_snapshot",
        "Number of the last complete snapshot of a master, of the mounted one of a slave.",
        |i| i.snapshot.or(i.last_snapshot).map(|n| n.0),
    ),
];

/// A counter of each instance: name, help, value.
type Counter = (&'static str, &'static str, fn(&Traffic) -> u64);

const COUNTERS: &[Counter] = &[
    (
        "cbfs_read_bytes_total",
        "Bytes read on the mount that the kernel did not have in its cache.",
        |t| t.read_bytes,
    ),
    (
        "cbfs_written_bytes_total",
        "Bytes written on the mount.",
        |t| t.written_bytes,
    ),
    (
        "cbfs_bucket_sent_bytes_total",
        "Bytes of objects sent to the bucket.",
        |t| t.sent_bytes,
    ),
    (
        "cbfs_bucket_received_bytes_total",
        "Bytes of objects received from the bucket.",
        |t| t.received_bytes,
    ),
    (
        "cbfs_bucket_failed_requests_total",
        "Requests to the bucket that failed.",
        |t| t.failed_requests,
    ),
];

/// The text under construction.
#[derive(Default)]
pub(super) struct Exposition(String);

impl Exposition {
    /// Begin a family of samples.
    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A sample of the family begun last.
    pub(super) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0 += name;
        for (at, (label, text)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{before}{label}=\"{}\"", escaped(text));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }

    /// What is there so far.
    #[cfg(test)]
    pub(super) fn text(&self) -> &str {
        &self.0
    }

    /// A family with one sample without labels.
    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }
}

/// A label's value: backslash, quote and newline escaped.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

pub(super) async fn metrics(State(shared): State<Shared>) -> impl IntoResponse {
    let gather = move || {
        let mut out = Exposition::default();
        let version = env!("CARGO_PKG_VERSION");
        out.family(
            "cbfs_build_info",
            "gauge",
            "Version of the daemon; always 1.",
        );
        out.sample("cbfs_build_info", &[("version", version)], 1);
        let node = shared.manager.node().to_owned();
        out.family("cbfs_node_info", "gauge", "Id of the node; always 1.");
        out.sample("cbfs_node_info", &[("node", &node)], 1);
        of_process(&mut out, &shared.started_at);
        of_instances(&mut out, &shared.manager.instances());
        of_requests(&mut out, &shared.manager.open_snapshots());
        super::bucket_metrics::of_buckets(&mut out, &cbfs_core::bucket::traffic());
        out.0
    };
    let text = tokio::task::spawn_blocking(gather)
        .await
        .unwrap_or_default();
    ([("content-type", "text/plain; version=0.0.4")], text)
}

fn of_instances(out: &mut Exposition, instances: &[InstanceInfo]) {
    let name = "cbfs_instance_info";
    out.family(name, "gauge", "What an instance is; always 1.");
    for i in instances {
        let role = match i.role {
            Role::Master => "master",
            Role::Slave => "slave",
        };
        let fs = i.fs.to_string();
        let labels = [
            ("instance_id", i.id.as_str()),
            ("fs", &fs),
            ("role", role),
            ("bucket", &i.bucket),
        ];
        out.sample(name, &labels, 1);
    }
    let name = "cbfs_health";
    out.family(name, "gauge", "1 for the state that the instance is in.");
    for i in instances {
        for (health, word) in HEALTHS {
            let labels = [("instance_id", i.id.as_str()), ("state", word)];
            out.sample(name, &labels, u64::from(i.health == health));
        }
    }
    for (name, help, value) in GAUGES {
        out.family(name, "gauge", help);
        for i in instances {
            if let Some(value) = value(i) {
                out.sample(name, &[("instance_id", &i.id)], value);
            }
        }
    }
    for (name, help, value) in COUNTERS {
        out.family(name, "counter", help);
        for i in instances {
            out.sample(name, &[("instance_id", &i.id)], value(&i.traffic));
        }
    }
    let name = "cbfs_bucket_requests_total";
    let help = "Requests to the bucket, tries again included, since the daemon started.";
    out.family(name, "counter", help);
    for i in instances {
        let t = &i.traffic;
        for (kind, count) in [
            ("put", t.puts),
            ("get", t.gets),
            ("other", t.other_requests),
        ] {
            out.sample(name, &[("instance_id", &i.id), ("kind", kind)], count);
        }
    }
    let name = "cbfs_last_snapshot_timestamp_seconds";
    let help = "When the last complete snapshot was cut, in seconds since 1970.";
    out.family(name, "gauge", help);
    for i in instances {
        if let Some(at) = i.last_snapshot_at.as_deref().and_then(seconds) {
            out.sample(name, &[("instance_id", &i.id)], at);
        }
    }
}

fn of_requests(out: &mut Exposition, open: &[SnapshotInfo]) {
    let mut counts: BTreeMap<(String, &str), u64> = BTreeMap::new();
    for snapshot in open {
        let fs = snapshot.fs.to_string();
        for state in OPEN_STATES {
            let count = counts.entry((fs.clone(), state.name())).or_default();
            *count += u64::from(snapshot.state == state);
        }
    }
    let name = "cbfs_snapshot_requests";
    let help = "Snapshot requests that are not complete or cancelled, by state.";
    out.family(name, "gauge", help);
    for ((fs, state), count) in &counts {
        out.sample(name, &[("fs", fs), ("state", state)], count);
    }
    type Amount = (&'static str, &'static str, fn(&SnapshotInfo) -> u64);
    let amounts: [Amount; 5] = [
        (
            "cbfs_snapshot_contents_bytes",
            "Contents that an open request is to persist, before compression.",
            |s| s.bytes_total,
        ),
        (
            "cbfs_snapshot_persisted_bytes",
            "Contents that an open request has persisted, before compression.",
            |s| s.bytes_done,
        ),
        (
            "cbfs_snapshot_made_bytes",
            "Bytes of the objects that an open request has made.",
            |s| s.made_bytes,
        ),
        (
            "cbfs_snapshot_sent_bytes",
            "Bytes of the objects of an open request that have arrived in the bucket.",
            |s| s.sent_bytes,
        ),
        (
            "cbfs_snapshot_retries",
            "How often an open request was tried again.",
            |s| s.retries,
        ),
    ];
    for (name, help, value) in amounts {
        out.family(name, "gauge", help);
        for s in open {
            let (fs, number) = (s.fs.to_string(), s.number.to_string());
            out.sample(name, &[("fs", &fs), ("snapshot", &number)], value(s));
        }
    }
}

/// The names that Prometheus's own client libraries give a process.
fn of_process(out: &mut Exposition, started_at: &str) {
    if let Some(at) = seconds(started_at) {
        let help = "When the daemon started, in seconds since 1970.";
        out.single("process_start_time_seconds", "gauge", help, at);
    }
    if let Some(bytes) = resident() {
        let help = "Resident memory of the daemon.";
        out.single("process_resident_memory_bytes", "gauge", help, bytes);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        let help = "Open files of the daemon.";
        out.single("process_open_fds", "gauge", help, open.count());
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if let Some(most) = limit.current {
        let help = "How many files the daemon may have open.";
        out.single("process_max_fds", "gauge", help, most);
    }
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let cpu = used.tv_sec as f64 + used.tv_nsec as f64 / 1e9;
    let help = "CPU time that the daemon has used.";
    out.single("process_cpu_seconds_total", "counter", help, cpu);
}

/// Resident memory in bytes; `None` where /proc does not tell.
fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// An RFC 3339 time as seconds since 1970, with its fraction.
fn seconds(rfc3339: &str) -> Option<f64> {
    let time = Timestamp::parse_rfc3339(rfc3339)?;
    Some(time.0 as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_samples_have_their_form() {
        let mut out = Exposition::default();
        out.family("cbfs_x", "gauge", "Some.");
        out.sample("cbfs_x", &[("a", "1\"2\\3\n4"), ("b", "c")], 7);
        out.single("cbfs_y_seconds", "gauge", "Other.", 1.5);
        assert_eq!(
            out.0,
            "# HELP cbfs_x Some.\n# TYPE cbfs_x gauge\ncbfs_x{a=\"1\\\"2\\\\3\\n4\",b=\"c\"} 7\n\
             # HELP cbfs_y_seconds Other.\n# TYPE cbfs_y_seconds gauge\ncbfs_y_seconds 1.5\n"
        );
    }

    #[test]
    fn times_are_seconds_since_1970() {
        assert_eq!(seconds("1970-01-02T00:00:00.5Z"), Some(86_400.5));
        assert_eq!(seconds("yesterday"), None);
    }
}
