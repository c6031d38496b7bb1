//! `cbfsctl instance list`.

use super::super::Context;
use crate::output::{Outcome, printable};
use crate::quantities;
use crate::table::{Align, Table};
use cbfs_core::api::{Health, InstanceInfo, Role};

/// List the instances of this node's daemon.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  cbfsctl instance list")]
pub(crate) struct Args {}

/// Run it.
pub(crate) fn run(_: &Args, context: &mut Context) -> Outcome {
    let instances = context.client()?.instances()?;
    if context.output.is_json() {
        return context.output.json(&instances);
    }
    if instances.is_empty() {
        context
            .output
            .message("no instances: `cbfsctl mount FS DIR` makes one");
        return Ok(());
    }
    context.output.table(&instance_table(&instances))?;
    for line in problem_lines(&instances) {
        context.output.line(line)?;
    }
    Ok(())
}

/// The instances as a table.
pub(crate) fn instance_table(instances: &[InstanceInfo]) -> Table {
    let mut table = Table::new(&[
        ("INSTANCE", Align::Left),
        ("ROLE", Align::Left),
        ("EPOCH", Align::Right),
        ("HEALTH", Align::Left),
        ("SNAPSHOT", Align::Right),
        ("UNPUBLISHED", Align::Right),
        ("INODES", Align::Right),
        ("LOCAL", Align::Right),
        ("MOUNTED ON", Align::Left),
    ]);
    for i in instances {
        table.row([
            i.id.clone(),
            role(i.role).to_owned(),
            i.epoch.to_string(),
            health(i.health).to_owned(),
            i.snapshot
                .or(i.last_snapshot)
                .map(|n| n.to_string())
                .unwrap_or_default(),
            quantities::count(i.unpublished),
            quantities::count(i.inodes),
            match i.kvs_limit {
                Some(limit) => format!(
                    "{} of {}",
                    quantities::bytes(i.local_bytes),
                    quantities::bytes(limit)
                ),
                None => quantities::bytes(i.local_bytes),
            },
            i.mount_point
                .as_ref()
                .map(|p| printable(&p.to_string_lossy()))
                .unwrap_or_default(),
        ]);
    }
    table
}

/// What is wrong with which instance, a line each.
pub(crate) fn problem_lines(instances: &[InstanceInfo]) -> Vec<String> {
    instances
        .iter()
        .flat_map(|i| {
            i.problems
                .iter()
                .map(|p| format!("⚠ {}: {}", i.id, printable(p)))
        })
        .collect()
}

/// The role in a word.
pub(super) fn role(role: Role) -> &'static str {
    match role {
        Role::Master => "master",
        Role::Slave => "slave",
    }
}

/// The health in a glyph and a word.
pub(super) fn health(health: Health) -> &'static str {
    match health {
        Health::Ok => "✔ ok",
        Health::Degraded => "⚠ degraded",
        Health::Fenced => "⊘ fenced",
        Health::Poisoned => "✖ poisoned",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_are_told_with_role_health_and_problems() {
        let uuid = "6f1c2a52-8f8a-4d0e-9a53-0c2ad9d1a2b3";
        let instances: Vec<InstanceInfo> = serde_json::from_value(serde_json::json!([
            {"id": format!("home-{uuid}"), "fs": format!("home-{uuid}"), "bucket": "file:///srv/b",
             "role": "master", "epoch": 1, "mount_point": "/mnt/home", "health": "degraded",
             "problems": ["snapshot 3 failed: 403"], "xid": 7, "durable_xid": 7,
             "last_snapshot": 2, "unpublished": 1204, "inodes": 20000, "local_bytes": 5000000,
             "kvs_limit": 10737418240u64,
             "dirty_bytes": 0},
            {"id": format!("home-{uuid}@2"), "fs": format!("home-{uuid}"), "bucket": "file:///srv/b",
             "role": "slave", "epoch": 1, "snapshot": 2, "health": "ok", "xid": 7, "durable_xid": 7,
             "unpublished": 0, "inodes": 19000, "local_bytes": 900, "dirty_bytes": 0},
        ]))
        .unwrap();
        insta::assert_snapshot!(instance_table(&instances).render());
        insta::assert_snapshot!(problem_lines(&instances).join("\n"), @"⚠ home-6f1c2a52-8f8a-4d0e-9a53-0c2ad9d1a2b3: snapshot 3 failed: 403");
    }
}
