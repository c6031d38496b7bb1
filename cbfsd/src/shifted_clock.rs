//! The daemon's clock. In builds with `debug_assertions` tests may set it wrong while the daemon runs:
//! `CBFS_CLOCK_OFFSET_FILE` names a file with the seconds it is ahead (or, negative, behind). In a release build
//! the variable means nothing.

use cbfs_core::clock::{Clock, System};
use std::sync::Arc;

/// What the daemon tells the time by.
pub(crate) fn daemon_clock() -> Arc<dyn Clock> {
    #[cfg(debug_assertions)]
    if let Some(file) = std::env::var_os("CBFS_CLOCK_OFFSET_FILE").filter(|v| !v.is_empty()) {
        return Arc::new(Shifted { file: file.into() });
    }
    Arc::new(System)
}

#[cfg(debug_assertions)]
struct Shifted {
    file: std::path::PathBuf,
}

#[cfg(debug_assertions)]
impl Clock for Shifted {
    fn now(&self) -> cbfs_core::inode::Timestamp {
        // Without the file, or while it is being written, the clock is right.
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        let seconds: i64 = text.trim().parse().unwrap_or(0);
        let now = System.now();
        cbfs_core::inode::Timestamp(now.0.saturating_add(seconds.saturating_mul(1_000_000_000)))
    }
}
