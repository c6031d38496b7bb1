//! What the index of a snapshot holds, in numbers.

use super::{CloudSnapshot, live_sections};
use crate::error::Result;
use crate::format::ObjectRef;
use crate::format::manifest::LayerRef;
use crate::ids::{SnapshotNumber, Xid};
use crate::layers::Layer;
use crate::layers::rows::{first, number};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Rows of a layer's tables.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Rows {
    /// Attributes.
    pub inodes: u64,
    /// Inodes that are gone.
    pub gone: u64,
    /// Names.
    pub names: u64,
    /// Names that are gone.
    pub names_gone: u64,
    /// Targets of symlinks.
    pub links: u64,
    /// Extended attributes, removed ones included.
    pub xattrs: u64,
    /// Runs of blocks.
    pub extents: u64,
    /// The blocks in them.
    pub blocks: u64,
    /// Holes.
    pub holes: u64,
    /// TOCs that it knows.
    pub sources: u64,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayerSummary {
    /// The object, and the snapshots it covers.
    #[serde(flatten)]
    pub object: LayerRef,
    /// The first transaction in it.
    pub xid_from: Option<Xid>,
    /// The last one.
    pub xid_to: Option<Xid>,
    /// What it has.
    pub rows: Rows,
}

/// The tarballs of one snapshot, as far as this one reads them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TocSummary {
    /// The snapshot that wrote them.
    pub snapshot: SnapshotNumber,
    /// The TOC.
    #[serde(flatten)]
    pub object: ObjectRef,
    /// Data tarballs.
    pub tarballs: u64,
    /// Those that hold a section that is read.
    pub live_tarballs: u64,
    /// Sections.
    pub sections: u64,
    /// Those that are read.
    pub live_sections: u64,
    /// Bytes of all sections as stored.
    pub stored_bytes: u64,
    /// Bytes of those that are read.
    pub live_bytes: u64,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Newest first.
    pub layers: Vec<LayerSummary>,
    /// Oldest first; snapshots of which nothing is read any more are left out.
    pub tocs: Vec<TocSummary>,
}

impl CloudSnapshot {
    /// Count what the index holds. Reads all TOCs that the snapshot needs.
    ///
    /// # Errors
    /// Those of layers, TOCs and bucket.
    pub fn summary(&self) -> Result<Summary> {
        let mut layers = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let xid = |key: &str| -> Result<Option<Xid>> {
                let text = layer.database.meta(key)?;
                Ok(text.and_then(|text| text.parse().ok()).map(Xid))
            };
            let count = |sql: &str| -> Result<u64> {
                let found = layer
                    .database
                    .with(|conn| first(conn, sql, [], |row| number(row, 0)))?;
                Ok(found.unwrap_or_default())
            };
            layers.push(LayerSummary {
                object: layer.object.clone(),
                xid_from: xid("xid_from")?,
                xid_to: xid("xid_to")?,
                rows: Rows {
                    inodes: count("SELECT count(*) FROM inode WHERE gone = 0")?,
                    gone: count("SELECT count(*) FROM inode WHERE gone <> 0")?,
                    names: count("SELECT count(*) FROM dentry WHERE ino IS NOT NULL")?,
                    names_gone: count("SELECT count(*) FROM dentry WHERE ino IS NULL")?,
                    links: count("SELECT count(*) FROM link")?,
                    xattrs: count("SELECT count(*) FROM xattr")?,
                    extents: count("SELECT count(*) FROM extent")?,
                    blocks: count("SELECT coalesce(sum(n), 0) FROM extent")?,
                    holes: count("SELECT count(*) FROM hole")?,
                    sources: count("SELECT count(*) FROM source")?,
                },
            });
        }
        let mut tocs = Vec::new();
        for (snapshot, live) in live_sections(&self.layers, &self.stack)? {
            tocs.push(self.toc_summary(snapshot, &live)?);
        }
        Ok(Summary { layers, tocs })
    }

    fn toc_summary(&self, snapshot: SnapshotNumber, live: &BTreeSet<u64>) -> Result<TocSummary> {
        let toc = self.toc(snapshot)?;
        let object = self.stack.source(snapshot)?.map(super::toc_object);
        let mut tarballs: BTreeMap<u32, bool> = BTreeMap::new();
        let (mut stored_bytes, mut live_bytes) = (0, 0);
        let sections = toc.sections()?;
        for place in &sections {
            let is_live = live.contains(&place.section);
            *tarballs.entry(place.tarball_nr).or_default() |= is_live;
            stored_bytes += place.length;
            live_bytes += if is_live { place.length } else { 0 };
        }
        Ok(TocSummary {
            snapshot,
            object: object.unwrap_or(ObjectRef {
                key: String::new(),
                size: 0,
                blake3: String::new(),
            }),
            tarballs: tarballs.len() as u64,
            live_tarballs: tarballs.values().filter(|live| **live).count() as u64,
            sections: sections.len() as u64,
            live_sections: live.len() as u64,
            stored_bytes,
            live_bytes,
        })
    }
}
