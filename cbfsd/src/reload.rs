//! Reading `cbfsd.toml` anew while the daemon runs, on SIGHUP or by the API.
//!
//! Buckets notice by themselves: each is opened anew for its next request (`LazyBucket`). A file that cannot be
//! understood changes nothing.

use crate::daemon_log;
use crate::manager::Manager;
use cbfs_core::api::ReloadInfo;
use cbfs_core::configuration::{self, Configuration};
use cbfs_core::error::Result;

/// Read it; what happened is told in the log and in the answer. What waits for a bucket that refused it does not wait on.
pub(crate) fn reload(manager: &Manager) -> Result<ReloadInfo> {
    let accept = |next: &Configuration| daemon_log::refilter(&next.log);
    let reloaded = configuration::reload(accept).map(|changes| ReloadInfo {
        file: configuration::current().file.clone(),
        applied: changes.applied,
        needs_restart: changes.needs_restart,
    });
    match &reloaded {
        Ok(info) => {
            manager.settings_changed();
            let file = info.file.as_ref().map(|f| f.display().to_string());
            tracing::info!(
                file = file.as_deref().unwrap_or("none"),
                applied = ?info.applied,
                "the settings were read anew"
            );
            if !info.needs_restart.is_empty() {
                tracing::warn!(keys = ?info.needs_restart, "these new settings wait for a restart of the daemon");
            }
        }
        Err(e) => tracing::error!(
            causes = ?e.causes(),
            hint = e.hint_text(),
            "the settings stay as they were: {e}"
        ),
    }
    reloaded
}
