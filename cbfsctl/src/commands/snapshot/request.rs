//! Which request of this node's daemon is meant.

use crate::client::DaemonClient;
use crate::target;
use cbfs_core::api::SnapshotInfo;
use cbfs_core::handle::{FsAndSnapshot, SnapshotSelector};
use cbfs_core::{Error, ErrorKind, Result};

/// The request that `text` (`FS@12`, `FS@NAME`) means; of several with one name the last that `wanted`
/// fits, else the last.
///
/// # Errors
/// [`ErrorKind::Usage`] without a snapshot or for `latest`, which is no request; [`ErrorKind::NotFound`].
pub(super) fn find(
    text: &str,
    client: &DaemonClient,
    wanted: impl Fn(&SnapshotInfo) -> bool,
) -> Result<SnapshotInfo> {
    let target: FsAndSnapshot = text.parse()?;
    let selector = match target.snapshot {
        Some(SnapshotSelector::Latest) | None => {
            return Err(Error::new(ErrorKind::Usage, "which request?")
                .hint("give its number or name: FS@12 or FS@NAME"));
        }
        Some(selector) => selector,
    };
    let fs = target::handle_on_this_node(target.fs.as_str(), &client.instances()?)?.to_string();
    let mut found = client.snapshots(&fs)?;
    found.retain(|r| target::is_request(r, &selector));
    found
        .into_iter()
        .max_by_key(|r| (wanted(r), r.epoch, r.number))
        .ok_or_else(|| {
            let text = format!("this node has no request {fs}@{selector}");
            Error::new(ErrorKind::NotFound, text)
                .hint(format!("`cbfsctl snapshot list {fs}` lists them"))
        })
}
