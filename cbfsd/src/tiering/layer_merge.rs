//! The chain of layers of a master is kept short: while snapshots go on, a thread merges runs of adjacent
//! layers, uploads the merged one, and the next manifest lists it in the place of its run. Manifests that
//! exist keep theirs. No snapshot ever waits for a merge; one that fails is tried again after the next
//! snapshot.
//!
//! The chain is that of one manifest, hence of one lineage: a merge never crosses into what a superseded
//! master published.
//!
//! A crash leaves at most an object in the bucket that nothing refers to, and files in `layers/`, which the
//! next start removes. What was uploaded and waits for its manifest stands in `merged-layers.json`; without
//! it the merge is done again.

use super::proxy::ProxyCache;
use super::uploader::put_file;
use cbfs_core::bucket::{Bucket, Cancellation};
use cbfs_core::clock::Ids;
use cbfs_core::durable_file;
use cbfs_core::error::{Context, Error, Result};
use cbfs_core::format::manifest::LayerRef;
use cbfs_core::format::{Features, keys};
use cbfs_core::frames::compress_seekable;
use cbfs_core::handle::Handle;
use cbfs_core::layers::merge::{Merged, Run, merge};
use cbfs_core::tarball::DEFAULT_LEVEL;
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

/// A chain of this many layers is merged: early enough that it stays within 8 (the design's bound) although
/// one or two snapshots are made meanwhile.
const MERGE_AT: usize = 6;

/// Told of the last merge's problem; `None` when it went well.
pub type OnProblem = Box<dyn Fn(Option<String>) + Send + Sync>;

/// What a merger works with.
pub struct MergerParams {
    /// State directory of the instance.
    pub instance_dir: PathBuf,
    /// The file system.
    pub fs: Handle,
    /// Its bucket.
    pub bucket: Arc<dyn Bucket>,
    /// Source of attempt ids.
    pub ids: Arc<dyn Ids>,
    /// Bytes per block.
    pub block_size: u64,
    /// Told of problems.
    pub on_problem: OnProblem,
}

/// Merges the layers of one master in the background.
pub struct LayerMerger {
    params: MergerParams,
    state: Mutex<State>,
    wake: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
    cancellation: Cancellation,
}

#[derive(Default)]
struct State {
    /// The chain of the last complete snapshot, until it has been looked at.
    chain: Option<Vec<LayerRef>>,
    finished: Vec<Finished>,
    stop: bool,
}

/// A merged layer that is in the bucket, and in no manifest yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Finished {
    layer: LayerRef,
    /// Keys of the layers it stands for, newest first.
    run: Vec<String>,
}

/// Contents of `merged-layers.json`.
#[derive(Serialize, Deserialize)]
struct Record {
    format: u32,
    features: Features,
    finished: Vec<Finished>,
}

impl LayerMerger {
    /// Take up what an earlier process finished. [`LayerMerger::start`] follows.
    pub fn open(params: MergerParams) -> Result<Arc<LayerMerger>> {
        let finished = read_record(&params.record_path()).unwrap_or_else(|e| {
            // No reason not to open the instance: the merges are done again.
            tracing::warn!(fs = %params.fs, causes = ?e.causes(), "{e}");
            Vec::new()
        });
        let merger = LayerMerger {
            params,
            state: Mutex::new(State {
                finished,
                ..State::default()
            }),
            wake: Condvar::new(),
            thread: Mutex::default(),
            cancellation: Cancellation::default(),
        };
        merger.params.clear()?;
        Ok(Arc::new(merger))
    }

    /// Start the thread.
    pub fn start(self: &Arc<Self>) -> Result<()> {
        let merger = Arc::clone(self);
        let run = move || {
            let run = || merger.cancellation.scope(|| merger.run());
            let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
            if ran.is_err() {
                let text = "the thread that merges layers panicked; restart cbfsd";
                (merger.params.on_problem)(Some(text.into()));
            }
        };
        let thread = std::thread::Builder::new()
            .name("layer-merge".into())
            .spawn(run)
            .context(|| "a thread could not be started".into())?;
        *self.thread.lock() = Some(thread);
        Ok(())
    }

    /// Stop; a merge and an upload under way are given up.
    pub fn stop(&self) {
        self.state.lock().stop = true;
        self.cancellation.cancel();
        self.wake.notify_all();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!(fs = %self.params.fs, "the thread that merges layers had panicked");
        }
    }

    /// The layers below a new snapshot whose parent has `parent`: merged ones in the place of their runs.
    pub fn replace_merged(&self, parent: Vec<LayerRef>) -> Vec<LayerRef> {
        replaced(parent, &self.state.lock().finished)
    }

    /// A snapshot is complete, with these layers: merge some of them if there are too many.
    pub fn consider(&self, layers: &[LayerRef]) {
        let mut state = self.state.lock();
        let before = state.finished.len();
        let mut chain = layers.to_vec();
        state.finished.retain(|finished| {
            let next = replaced(chain.clone(), std::slice::from_ref(finished));
            let useful = next.len() < chain.len();
            chain = next;
            useful
        });
        if state.finished.len() != before
            && let Err(e) = self.params.write_record(&state.finished)
        {
            // One that is listed in vain does no harm.
            tracing::warn!(fs = %self.params.fs, causes = ?e.causes(), "{e}");
        }
        state.chain = Some(layers.to_vec());
        drop(state);
        self.wake.notify_all();
    }

    fn run(&self) {
        loop {
            let chain = {
                let mut state = self.state.lock();
                loop {
                    if state.stop {
                        return;
                    }
                    match state.chain.take() {
                        Some(chain) => break chain,
                        None => self.wake.wait(&mut state),
                    }
                }
            };
            let merged = self.shorten(&chain);
            if self.state.lock().stop {
                return;
            }
            let problem = merged.err().map(|e| {
                tracing::warn!(fs = %self.params.fs, causes = ?e.causes(), "{e}");
                let causes = e.causes().into_iter();
                causes.fold(format!("layers could not be merged: {e}"), |text, cause| {
                    format!("{text}: {cause}")
                })
            });
            (self.params.on_problem)(problem);
        }
    }

    fn shorten(&self, complete: &[LayerRef]) -> Result<()> {
        loop {
            let chain = self.replace_merged(complete.to_vec());
            let Some(range) = choose(&chain) else {
                return Ok(());
            };
            let merged = self.merge(&chain, range);
            let cleared = self.params.clear();
            let finished = merged?;
            cleared?;
            let mut state = self.state.lock();
            let mut all = state.finished.clone();
            all.push(finished);
            self.params.write_record(&all)?;
            state.finished = all;
        }
    }

    /// Merge a part of a chain and upload the result.
    fn merge(&self, chain: &[LayerRef], range: Range<usize>) -> Result<Finished> {
        let params = &self.params;
        let dir = params.dir();
        let proxy = ProxyCache::open(&dir)?;
        let plain = dir.join("merged.sqlite");
        let mut range = range;
        loop {
            let run = chain.get(range.clone()).unwrap_or_default();
            let (Some(newest), Some(oldest)) = (run.first(), run.last()) else {
                return Err(Error::failed("there is no layer to merge"));
            };
            let mut files = Vec::with_capacity(run.len());
            for layer in run {
                self.check_stop()?;
                let file = proxy.fetch_decompressed(&*params.bucket, &params.fs, &layer.object)?;
                files.push(file);
            }
            let paths: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
            let what = Run {
                layers: &paths,
                bottom: range.end == chain.len(),
                block_size: params.block_size,
                stop: &|| self.state.lock().stop,
            };
            if let Merged::NeedsBottom(ino) = merge(&what, &plain)? {
                if what.bottom {
                    let text = format!("inode {ino} cannot be merged");
                    return Err(Error::damage(text));
                }
                tracing::debug!(fs = %params.fs, %ino, "merging down to the bottom");
                fs::remove_file(&plain).context(|| format!("{} stays", plain.display()))?;
                range.end = chain.len();
                continue;
            }
            let (from, to) = (oldest.from, newest.to);
            let key = keys::merged_layer(from, to, &params.ids.attempt());
            let packed = dir.join("merged.sqlite.zst");
            let object = compress_seekable(&plain, &packed, DEFAULT_LEVEL)?.at(key);
            self.check_stop()?;
            let absolute = keys::absolute(&params.fs, &object.key)?;
            put_file(&*params.bucket, &absolute, &object, &packed, None)?;
            tracing::info!(fs = %params.fs, key = object.key, layers = run.len(), "merged");
            let keys = run.iter().map(|layer| layer.object.key.clone()).collect();
            return Ok(Finished {
                layer: LayerRef { object, from, to },
                run: keys,
            });
        }
    }

    fn check_stop(&self) -> Result<()> {
        if self.state.lock().stop {
            return Err(Error::failed("merging layers was stopped"));
        }
        Ok(())
    }
}

impl MergerParams {
    fn dir(&self) -> PathBuf {
        self.instance_dir.join("layers")
    }

    fn record_path(&self) -> PathBuf {
        self.instance_dir.join("merged-layers.json")
    }

    fn clear(&self) -> Result<()> {
        durable_file::remove_dir_all(&self.dir())
    }

    fn write_record(&self, finished: &[Finished]) -> Result<()> {
        let path = self.record_path();
        let record = Record {
            format: cbfs_core::format::FORMAT,
            features: Features::default(),
            finished: finished.to_vec(),
        };
        durable_file::replace(&path, &cbfs_core::format::to_json(&record)?)
            .context(|| format!("{} could not be written", path.display()))
    }
}

fn read_record(path: &Path) -> Result<Vec<Finished>> {
    match fs::read(path) {
        Ok(bytes) => {
            let record: Record = cbfs_core::format::parse(&path.display().to_string(), &bytes)?;
            Ok(record.finished)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e).context(|| format!("{} could not be read", path.display())),
    }
}

/// The chain with each merged layer in the place of its run, where all of that is there.
fn replaced(mut chain: Vec<LayerRef>, finished: &[Finished]) -> Vec<LayerRef> {
    for Finished { layer, run } in finished {
        let place = chain.windows(run.len().max(1)).position(|part| {
            let keys = part.iter().map(|layer| &layer.object.key);
            keys.eq(run)
        });
        if let Some(at) = place {
            chain.splice(at..at + run.len(), [layer.clone()]);
        }
    }
    chain
}

/// Which part of a chain (newest first) to merge: the whole of it once what lies above the bottom is as large
/// as the bottom, so that tombstones go and the sum stays within twice what is alive; else the run that
/// costs the fewest bytes per layer that goes away, which makes layers of similar size meet.
fn choose(chain: &[LayerRef]) -> Option<Range<usize>> {
    let sizes: Vec<u64> = chain.iter().map(|layer| layer.object.size.max(1)).collect();
    let (bottom, above) = sizes.split_last()?;
    if chain.len() < MERGE_AT {
        return None;
    }
    if above.iter().sum::<u64>() >= *bottom {
        return Some(0..chain.len());
    }
    let fewest = chain.len() - MERGE_AT + 2;
    let runs =
        (0..chain.len()).flat_map(|from| (from + fewest..=chain.len()).map(move |to| from..to));
    // Ties go to the longer run.
    runs.min_by_key(|run| {
        let bytes: u64 = sizes.get(run.clone()).unwrap_or_default().iter().sum();
        let gone = run.len() as u64 - 1;
        (bytes / gone, u64::MAX - gone)
    })
}

#[cfg(test)]
mod tests;
