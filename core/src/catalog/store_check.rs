//! Whether a store may carry epochs at all: looked at before each claim, in the bucket itself, so that no verdict can
//! be out of date. Claims are rare: one per file system and one per promotion.

use super::epoch_claim;
use crate::bucket::{self, Bucket, BucketUrl, Key, RACERS};
use crate::clock::{Ids, System};
use crate::error::{Error, ErrorKind, Result};
use crate::format::keys;
use crate::handle::Handle;
use crate::ids::Epoch;

/// Before anything is noted of a claim of `epoch`: let [`RACERS`] create one object at once. A directory is not asked
/// (its implementation is ours), nor is a store where a person prevents a split brain: by his word now
/// (`by_hand`), or in the claim before. Sixteen requests; an object `epochs/race-…` stays where it may not be deleted, and means nothing.
///
/// # Errors
/// [`ErrorKind::Failed`] when not exactly one of them succeeds: on such a store two masters would overwrite each
/// other; and those of the bucket.
pub fn refuse_careless_store(
    bucket: &dyn Bucket,
    fs: &Handle,
    epoch: Epoch,
    by_hand: bool,
) -> Result<()> {
    if by_hand || matches!(bucket.url(), BucketUrl::File { .. }) {
        return Ok(());
    }
    let previous = Epoch(epoch.0.saturating_sub(1));
    if previous.0 > 0
        && epoch_claim(bucket, fs, previous)?.is_some_and(|c| c.split_brain_prevented_by_hand)
    {
        return Ok(());
    }
    let key: Key = keys::absolute(fs, &format!("epochs/race-{}", System.attempt()))?;
    let raced = bucket::race(&[bucket; RACERS], &key);
    if let Err(e) = bucket.delete(&key) {
        tracing::debug!("the object of a race stays: {e}");
    }
    let Some(fault) = raced?.fault() else {
        return Ok(());
    };
    let text = format!("{} cannot carry a master: {fault}", bucket.url());
    Err(Error::new(ErrorKind::Failed, text).hint(
        "`cbfsctl bucket probe` tells more; keep file systems elsewhere, or mount with --i-prevent-split-brain \
         and see to it yourself that there is never more than one master",
    ))
}
