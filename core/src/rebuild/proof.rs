//! What was rebuilt beside the originals.

use super::chain::Link;
use super::compare::{LAYER_TABLES, TOC_TABLES, Table, TableComparison, compare};
use super::{Made, Rebuilt};
use crate::bucket::Bucket;
use crate::cloud_snapshot::Scratch;
use crate::error::{ErrorKind, Result};
use crate::format::{ObjectRef, keys};
use crate::handle::Handle;
use crate::layers::open_immutable;
use serde::Serialize;

/// How an original compares to what was rebuilt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Original {
    /// All rows are the same.
    Equal,
    /// Rows differ.
    Different,
    /// It has other bytes than were written; the message says what was found.
    Damaged(String),
    /// There is no such object, or none that a manifest refers to.
    Missing,
}

/// One rebuilt object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ObjectProof {
    /// Key relative to the file system's prefix: of the original, and below the target directory.
    pub key: String,
    /// The original.
    pub original: Original,
    /// Rows of all tables, rebuilt.
    pub rows: u64,
    /// Table by table, where there was an original to compare.
    pub tables: Vec<TableComparison>,
}

impl ObjectProof {
    /// Whether the original is there and is not the same.
    pub fn contradicts(&self) -> bool {
        matches!(self.original, Original::Different | Original::Damaged(_))
    }
}

/// Compare TOC and layer of a snapshot with the originals that its manifest refers to; without a
/// manifest, with what lies under their keys.
///
/// # Errors
/// Those of bucket and local disk; originals that are missing or damaged are none.
pub fn prove(
    bucket: &dyn Bucket,
    fs: &Handle,
    link: &Link,
    rebuilt: &Rebuilt,
    scratch: &Scratch,
) -> Result<Vec<ObjectProof>> {
    let mut proofs = Vec::new();
    let manifest = link.manifest.as_ref();
    let prover = Prover {
        bucket,
        fs,
        scratch,
    };
    if let Some(toc) = &rebuilt.toc {
        let known = manifest.and_then(|m| m.toc.clone());
        proofs.push(prover.prove(toc, known, &TOC_TABLES)?);
    }
    let layer = &rebuilt.layer;
    let known = manifest.and_then(|manifest| {
        let mut layers = manifest.layers.iter().map(|l| &l.object);
        layers
            .find(|object| object.key == layer.object.key)
            .cloned()
    });
    proofs.push(prover.prove(layer, known, &LAYER_TABLES)?);
    Ok(proofs)
}

struct Prover<'a> {
    bucket: &'a dyn Bucket,
    fs: &'a Handle,
    scratch: &'a Scratch,
}

impl Prover<'_> {
    fn prove(
        &self,
        made: &Made,
        known: Option<ObjectRef>,
        tables: &[Table],
    ) -> Result<ObjectProof> {
        let rebuilt = open_immutable(&made.plain)?;
        let mut proof = ObjectProof {
            key: made.object.key.clone(),
            original: Original::Missing,
            rows: 0,
            tables: Vec::new(),
        };
        for table in tables {
            let sql = format!("SELECT count(*) FROM {}", table.name);
            let count: i64 = rebuilt.query_row(&sql, [], |row| row.get(0))?;
            proof.rows += count.unsigned_abs();
        }
        let object = match known {
            Some(object) => Some(object),
            None => self.as_it_lies(&made.object.key)?,
        };
        let Some(object) = object else {
            return Ok(proof);
        };
        let key = keys::absolute(self.fs, &object.key)?;
        if self.bucket.head(&key)?.is_none() {
            return Ok(proof);
        }
        let compared = self
            .scratch
            .database(self.bucket, self.fs, &object)
            .and_then(|path| compare(&open_immutable(&path)?, &rebuilt, tables));
        match compared {
            Ok(compared) => {
                let equal = compared.iter().all(TableComparison::is_equal);
                proof.original = match equal {
                    true => Original::Equal,
                    false => Original::Different,
                };
                proof.tables = compared;
            }
            Err(e) if e.kind() == ErrorKind::Damage => {
                proof.original = Original::Damaged(e.to_string());
            }
            Err(e) => return Err(e),
        }
        Ok(proof)
    }

    /// An object that nothing refers to any more.
    fn as_it_lies(&self, relative: &str) -> Result<Option<ObjectRef>> {
        let key = keys::absolute(self.fs, relative)?;
        if self.bucket.head(&key)?.is_none() {
            return Ok(None);
        }
        let bytes = self.bucket.get(&key)?;
        let stored = crate::frames::StoredObject::of(bytes.as_slice()).map_err(|e| {
            crate::error::Error::failed(format!("object {key} could not be hashed")).because(e)
        })?;
        Ok(Some(stored.at(relative)))
    }
}
