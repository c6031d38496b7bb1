//! `/metrics`: Prometheus text exposition format 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use super::Shared;
use axum::extract::State;
use axum::response::IntoResponse;
use cbfs_core::api::{Health, InstanceInfo};
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
        out
    };
    let text = tokio::task::spawn_blocking(gather)
        .await
        .unwrap_or_default();
    ([("content-type", "text/plain; version=0.0.4")], text)
}
