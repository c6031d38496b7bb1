//! Signs of life.

use super::{get_document, promised};
use crate::bucket::Bucket;
use crate::error::{Error, Result};
use crate::format::node::NodeSign;
use crate::format::{self, keys};
use crate::handle::Handle;
use crate::inode::Timestamp;

/// Replace the sign of life of a node. One PUT.
///
/// # Errors
/// Those of the bucket; [`crate::ErrorKind::Credentials`] when it may only be read.
pub fn write_node_sign(bucket: &dyn Bucket, sign: &NodeSign) -> Result<()> {
    let key = keys::absolute(&sign.fs, &keys::node(&sign.node))?;
    bucket.replace(&key, &format::to_json(sign)?)?;
    Ok(())
}

/// The last sign of life of a node; `None` when it left none. One GET.
pub fn node_sign(bucket: &dyn Bucket, fs: &Handle, node: &str) -> Result<Option<NodeSign>> {
    let key = keys::absolute(fs, &keys::node(node))?;
    let Some(sign) = get_document::<NodeSign>(bucket, &key)? else {
        return Ok(None);
    };
    promised(&key, sign.fs == *fs && sign.node == node, || {
        format!("node {} of {}", sign.node, sign.fs)
    })?;
    Ok(Some(sign))
}

/// The signs of life of all nodes, by node; with why one cannot be read. One listing and a GET for each.
///
/// # Errors
/// Those of the bucket.
pub fn node_signs(bucket: &dyn Bucket, fs: &Handle) -> Result<Vec<(String, Result<NodeSign>)>> {
    let prefix = format!("{fs}/nodes/");
    let mut signs = Vec::new();
    for object in bucket.list_dir(&prefix)? {
        let name = object.key.as_str().strip_prefix(&prefix);
        let Some(node) = name.and_then(|name| name.strip_suffix(".json")) else {
            continue;
        };
        match node_sign(bucket, fs, node) {
            Ok(Some(sign)) => signs.push((node.to_owned(), Ok(sign))),
            Ok(None) => {}
            Err(e) if is_of_the_object(&e) => signs.push((node.to_owned(), Err(e))),
            Err(e) => return Err(e),
        }
    }
    Ok(signs)
}

/// How far the clock of a node is ahead of the store's (negative: behind), in nanoseconds: its last sign of life says when
/// that was written by the one, and the store by the other. The way there counts as ahead of nothing: seconds say
/// little. `None` when it left no sign, or is just leaving one. A GET and two HEADs.
///
/// # Errors
/// Those of the bucket and of the document.
pub fn clock_ahead(bucket: &dyn Bucket, fs: &Handle, node: &str) -> Result<Option<i64>> {
    let key = keys::absolute(fs, &keys::node(node))?;
    let stored = bucket.head(&key)?;
    let (Some(before), Some(sign)) = (&stored, node_sign(bucket, fs, node)?) else {
        return Ok(None);
    };
    if bucket.head(&key)? != stored {
        return Ok(None);
    }
    if before.modified == Timestamp::default() {
        return Ok(None); // the store does not tell
    }
    let written = Timestamp::parse_rfc3339(&sign.written_at);
    Ok(written.map(|written| written.0.saturating_sub(before.modified.0)))
}

fn is_of_the_object(e: &Error) -> bool {
    use crate::error::ErrorKind::{Damage, FormatTooNew};
    matches!(e.kind(), Damage | FormatTooNew)
}
