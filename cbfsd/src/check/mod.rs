//! The consistency checker: one for `cbfsctl fs check --local`, the crash harness, and whoever wants to
//! know whether a state directory is whole. It takes the lock of the instance, so that nobody runs on
//! it, and changes nothing: SQLite files are opened without their WAL being touched, the journal is
//! replayed in memory by the code of recovery ([`crate::instance`]), and what is found is told.
//!
//! Rows are read once, file by file from the oldest to the newest, into a database in a temporary
//! file ([`rows`]); then questions are asked of it in bulk ([`tree`]). So memory stays small whatever the
//! number of files; the temporary file takes some 200 bytes for each.

mod finding;
mod journal;
mod kvs;
mod local;
mod rows;
mod tree;

pub use finding::{Checked, Finding, FindingKind, Report, Severity};

use crate::instance::lock_existing;
use crate::kvs::{Committed, Counters};
use crate::manager::{self, InstanceConfig};
use cbfs_core::api::Role;
use cbfs_core::error::{Context, Error, ErrorKind, Result};
use cbfs_core::format::manifest::Manifest;
use cbfs_core::ids::Epoch;
use cbfs_core::layers::{Layer, LayerDb, Stack};
use finding::Place;
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// Bytes per block where the config that says it is damaged.
const DEFAULT_BLOCK_SIZE: u64 = 1 << 20;

/// Check the state directory of an instance. Findings are in the report, damage included.
///
/// # Errors
/// [`ErrorKind::NotFound`] when `dir` is no instance's directory, [`ErrorKind::Conflict`] when a daemon
/// runs on it; others only where the check itself fails (no permission, no room for temporary files).
pub fn check(dir: &Path) -> Result<Report> {
    let looks_like_one = ["instance.toml", "journal", "kvs", "manifest.json"];
    if !looks_like_one.iter().any(|name| dir.join(name).exists()) {
        let text = format!("{} is no instance's state directory", dir.display());
        return Err(Error::new(ErrorKind::NotFound, text)
            .hint("they are below CBFS_STATE_DIR/instances/, or name the file system"));
    }
    let _lock = lock_existing(dir)?;
    let mut report = Report::new(dir);
    let config = match InstanceConfig::read(dir) {
        Ok(config) => config,
        Err(e) => {
            let text = format!("{e}: {}", e.causes().join(": "));
            report.damage(
                FindingKind::Config,
                text,
                Place::file(&dir.join("instance.toml")),
            );
            None
        }
    };
    if config.is_none() && !report.has(FindingKind::Config) {
        let path = dir.join("instance.toml");
        report.damage(
            FindingKind::Config,
            "instance.toml is missing",
            Place::file(&path),
        );
    }
    let role = match &config {
        Some(config) => config.role,
        None if dir.join("journal").exists() => Role::Master,
        None => Role::Slave,
    };
    match role {
        Role::Slave => check_slave(dir, &mut report)?,
        Role::Master => {
            let epoch = config.as_ref().map_or(Epoch(1), |c| c.epoch);
            let block_size = config.as_ref().map_or(DEFAULT_BLOCK_SIZE, |c| c.block_size);
            let base = match &config {
                Some(config) => read_base(dir, config, &mut report)?,
                None => Some(Base::default()),
            };
            if let Some(base) = base {
                check_master(dir, (epoch, base), block_size, &mut report)?;
            }
        }
    }
    Ok(report)
}

/// A slave holds nothing but its manifest and copies of objects, each checked when it is used.
fn check_slave(dir: &Path, report: &mut Report) -> Result<()> {
    let path = dir.join("manifest.json");
    let manifest = fs::read(&path)
        .context(|| format!("{} could not be read", path.display()))
        .and_then(|bytes| {
            cbfs_core::format::parse::<Manifest>(&path.display().to_string(), &bytes)
        });
    match manifest {
        Ok(_) => report.complete = true,
        Err(e) => report.damage(FindingKind::Manifest, e.to_string(), Place::file(&path)),
    }
    Ok(())
}

/// What a promoted master stands on, as far as it is here.
#[derive(Default)]
struct Base {
    /// Oldest first.
    layers: Vec<Arc<LayerDb>>,
    counters: Option<Counters>,
}

/// `None` when it cannot be read, which is in the report then.
fn read_base(dir: &Path, config: &InstanceConfig, report: &mut Report) -> Result<Option<Base>> {
    let Some(base) = config.base else {
        return Ok(Some(Base::default()));
    };
    let read = manager::base::manifest(dir, base).and_then(|manifest| {
        let layers = manager::base::layers_here(dir, &config.fs, &manifest)?;
        let counters = Some(manager::base::counters(&manifest));
        Ok(Base { layers, counters })
    });
    match read {
        Ok(base) => Ok(Some(base)),
        Err(e) => {
            let text = format!("what this master stands on cannot be read: {e}");
            let place = Place::file(&dir.join("base.json"));
            report.damage(FindingKind::Manifest, text, place);
            Ok(None)
        }
    }
}

fn check_master(
    dir: &Path,
    (epoch, base): (Epoch, Base),
    block_size: u64,
    report: &mut Report,
) -> Result<()> {
    journal::check_segments(&dir.join("journal"), report)?;
    let requests = local::check_status_logs(dir, report)?;
    let floor = Committed::floor_of(epoch, base.counters);
    let newest_first = base.layers.iter().rev();
    let newest_first = newest_first.map(|layer| Arc::clone(layer) as Arc<dyn Layer>);
    let stack =
        (base.counters.is_some()).then(|| Arc::new(Stack::new(newest_first.collect(), block_size)));
    let Some(inspected) = kvs::check_files(&dir.join("kvs"), stack, floor, block_size, report)?
    else {
        return Ok(());
    };
    if !journal::replay(&inspected.kvs, &dir.join("journal"), floor.xid, report)? {
        return Ok(());
    }
    let merged = match rows::Merged::read(&base.layers, &inspected.kvs, report) {
        Ok(merged) => merged,
        Err(e) if e.kind() == ErrorKind::Damage => {
            let text = format!("a row cannot be read: {e}");
            report.damage(
                FindingKind::KvsFileDamaged,
                text,
                Place::file(&dir.join("kvs")),
            );
            return Ok(());
        }
        Err(e) => return Err(e),
    };
    tree::check(&merged, &inspected.kvs, report)?;
    local::check_backing_files(dir, &merged, report)?;
    local::check_requests(dir, &requests, &merged, &inspected, report)?;
    report.complete = true;
    Ok(())
}
