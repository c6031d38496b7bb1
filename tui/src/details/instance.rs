//! An instance.

use super::Page;
use crate::figures::{bytes, count, date_and_time};
use crate::glyphs::health_word;
use crate::panes::health_style;
use crate::state::InstanceKey;
use cbfs_core::api::Role;

pub(super) fn tell(page: &mut Page<'_>, key: &InstanceKey) -> String {
    let view = page.view;
    let Some(watched) = view.state.watched(key) else {
        page.gone("the instance");
        return key.1.clone();
    };
    let info = &watched.info;
    page.fact("file system", info.fs.to_string());
    page.fact("bucket", &info.bucket);
    let role = match (info.role, info.snapshot) {
        (Role::Master, _) => format!("master, epoch {}", info.epoch),
        (Role::Slave, Some(number)) => format!("slave of snapshot {number} (epoch {})", info.epoch),
        (Role::Slave, None) => format!("slave (epoch {})", info.epoch),
    };
    page.fact("role", role);
    if let Some(following) = &info.following {
        let looked = following.looked_at.as_deref().map(date_and_time);
        let looked = looked.unwrap_or_else(|| "never".to_owned());
        let text = format!(
            "every {} s, {} behind, last look {looked}",
            following.interval, following.behind
        );
        page.fact("follows", text);
        if let Some(since) = &following.unreachable_since {
            let text = format!("the bucket does not answer since {}", date_and_time(since));
            page.styled_fact("", &text, view.theme.warning);
        }
    }
    match &info.mount_point {
        Some(path) => page.fact("mounted on", path.to_string_lossy()),
        None => page.fact("mounted on", "nothing"),
    }
    let health = format!(
        "{} {}",
        view.glyphs.of_health(info.health),
        health_word(info.health)
    );
    page.styled_fact("health", &health, health_style(view, info.health));
    for problem in &info.problems {
        page.styled_fact("", problem, health_style(view, info.health));
    }
    page.fact(
        "contents",
        format!(
            "{} in {} inodes",
            bytes(info.logical_bytes),
            count(info.inodes)
        ),
    );
    if info.role == Role::Master {
        page.fact(
            "last xid",
            format!("{}, durable up to {}", info.xid, info.durable_xid),
        );
        page.fact(
            "unpublished",
            format!("{} changes since the last cut", count(info.unpublished)),
        );
        match info.last_snapshot {
            Some(number) => page.fact("last snapshot", number.to_string()),
            None => page.fact("last snapshot", "none"),
        }
        if let Some(at) = &info.next_periodic {
            page.fact("next snapshot", date_and_time(at));
        }
    }
    let daemon = &view.state.daemons[key.0];
    page.head("Daemon");
    page.fact("node", daemon.node.clone().unwrap_or_default());
    page.fact("socket", daemon.socket.display().to_string());
    page.fact("version", daemon.version.clone().unwrap_or_default());
    page.fact(
        "started",
        daemon
            .started_at
            .as_deref()
            .map(date_and_time)
            .unwrap_or_default(),
    );
    format!("Instance {}", info.fs.tag)
}
