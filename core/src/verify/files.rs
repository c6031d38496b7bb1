//! From lost objects to the files that need them.

use super::Verifier;
use crate::cloud_snapshot::{OpenLayer, inodes_touched, live_extents};
use crate::error::Result;
use crate::format::manifest::{LayerRef, Manifest};
use crate::ids::{Ino, SnapshotNumber};
use crate::layers::paths::Paths;
use crate::layers::{Layer, Stack};
use std::collections::BTreeSet;

/// What a finding takes away.
#[derive(Debug, Clone)]
pub(super) enum Lost {
    /// No file.
    Nothing,
    /// Rows of a layer.
    Layer(LayerRef),
    /// What the metadata tarball of the snapshot tells.
    Metadata,
    /// All contents written in a snapshot.
    Toc(SnapshotNumber),
    /// Sections of a snapshot.
    Sections(SnapshotNumber, BTreeSet<u64>),
    /// Contents of these files.
    Inodes(Vec<Ino>),
}

impl Verifier<'_> {
    /// Fill in the paths of all findings.
    pub(super) fn name_files(
        &mut self,
        manifest: &Manifest,
        layers: &[OpenLayer],
        stack: &Stack,
    ) -> Result<()> {
        if self.report.findings.is_empty() {
            return Ok(());
        }
        let mut inodes: Vec<BTreeSet<Ino>> = vec![BTreeSet::new(); self.lost.len()];
        for (lost, found) in self.lost.iter().zip(&mut inodes) {
            let of_layer: Vec<OpenLayer> = match lost {
                Lost::Layer(wanted) => named(layers, |layer| layer == wanted),
                Lost::Metadata => named(layers, |layer| layer.to == manifest.number),
                Lost::Inodes(known) => {
                    found.extend(known);
                    continue;
                }
                _ => continue,
            };
            found.extend(inodes_touched(&of_layer)?);
        }
        live_extents(layers, stack, |extent| {
            for (lost, found) in self.lost.iter().zip(&mut inodes) {
                let is_lost = match lost {
                    Lost::Toc(snapshot) => extent.snapshot == *snapshot,
                    Lost::Sections(snapshot, sections) => {
                        let end = extent.section.saturating_add(extent.n);
                        extent.snapshot == *snapshot
                            && sections.range(extent.section..end).next().is_some()
                    }
                    _ => false,
                };
                if is_lost {
                    found.insert(extent.ino);
                }
            }
            Ok(())
        })?;
        let mut paths = Paths::new(stack);
        for (index, inodes) in inodes.into_iter().enumerate() {
            let mut found = Vec::new();
            for ino in inodes {
                if stack.inode(ino)?.is_some_and(|row| !row.gone) {
                    found.extend(paths.of(ino)?);
                }
            }
            found.sort();
            let untold = match &self.lost[index] {
                Lost::Layer(wanted) => self.unnamed.contains(wanted),
                _ => false,
            };
            let headers_only = found.is_empty() && matches!(self.lost[index], Lost::Sections(..));
            let finding = &mut self.report.findings[index];
            if headers_only {
                finding.holds += " (tar headers, or nothing that this snapshot reads)";
            }
            if untold {
                finding.holds += if found.is_empty() {
                    " (of which files cannot be told without their metadata tarballs)"
                } else {
                    " (of which further files cannot be told without their metadata tarballs)"
                };
            }
            finding.paths = found;
        }
        Ok(())
    }
}

fn named(layers: &[OpenLayer], wanted: impl Fn(&LayerRef) -> bool) -> Vec<OpenLayer> {
    let found = layers.iter().filter(|open| wanted(&open.object));
    found.cloned().collect()
}
