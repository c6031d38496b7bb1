//! Whether a snapshot is whole: every object it needs is there, is what was written, and fits the
//! others. Nothing is changed and nothing is trusted; a finding names the object and the files it
//! holds.
//!
//! Checked are, by size and BLAKE3: the manifest (seal, key, numbers), all layers of its chain, the
//! TOCs its files need, its metadata tarball, change log and status log. Every extent of a live file
//! must lie in a section that its TOC has; sections must tile their tarballs, and tarballs must be
//! there in full length. `deep` reads the tarballs too: every section's hash and the tar structure
//! ([`tarballs`]), and whether the metadata tarball says what the layer says.
//!
//! What only shows that the bucket cannot be read now is an error, not a finding.

mod files;
mod tarballs;

use crate::bucket::Bucket;
use crate::catalog;
use crate::cloud_snapshot::{
    OpenLayer, Scratch, TarballStream, download, live_extents, open_layer, stack_of, toc_object,
};
use crate::error::{Error, ErrorKind, Result};
use crate::format::epoch::BaseSnapshot;
use crate::format::manifest::{LayerRef, Manifest};
use crate::format::{self, ObjectRef, Seal, keys};
use crate::handle::Handle;
use crate::ids::SnapshotNumber;
use crate::layers::{ExtentRow, Layer, Stack, open_immutable};
use crate::rebuild::{self, chain};
use crate::snapshot::SnapshotStatus;
use crate::toc::Toc;
use files::Lost;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

/// What is wrong with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Problem {
    /// There is no such object.
    Missing,
    /// It has another length than was written.
    Length,
    /// It has other contents than were written.
    Contents,
    /// It is as it was written, but contradicts another object.
    Inconsistent,
}

/// One object that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its key in the bucket.
    pub object: String,
    /// What kind of damage.
    pub problem: Problem,
    /// What was found, in words.
    pub message: String,
    /// What the object holds, in words.
    pub holds: String,
    /// The files of this snapshot that need what is damaged: sorted paths, the root's is empty.
    pub paths: Vec<Vec<u8>>,
}

/// What was looked at, and what was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Objects that were looked at.
    pub objects: u64,
    /// Bytes of them that were read.
    pub bytes: u64,
    /// Sections whose hashes were checked.
    pub sections: u64,
    /// Runs of blocks that were found in their TOCs.
    pub extents: u64,
    /// In the order of discovery.
    pub findings: Vec<Finding>,
}

/// How far the work is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Bytes read.
    pub done: u64,
    /// Bytes to read, as far as is known yet.
    pub total: u64,
    /// The object being read, relative to the file system's prefix.
    pub object: &'a str,
}

/// What to do.
pub struct Verification<'a> {
    /// Where the snapshot is.
    pub bucket: &'a dyn Bucket,
    /// The file system.
    pub fs: &'a Handle,
    /// Which snapshot.
    pub id: BaseSnapshot,
    /// Read the tarballs too.
    pub deep: bool,
    /// For the databases.
    pub scratch: &'a Scratch,
    /// Hears how far it is; an error ends the work.
    pub progress: &'a mut dyn FnMut(Progress<'_>) -> Result<()>,
}

/// Verify a snapshot.
///
/// # Errors
/// [`ErrorKind::BucketUnreachable`], [`ErrorKind::Credentials`], [`ErrorKind::FormatTooNew`], those of the
/// local disk and of `progress`. Damage is no error but a finding.
pub fn verify(verification: Verification<'_>) -> Result<Report> {
    let mut verifier = Verifier {
        the: verification,
        report: Report::default(),
        lost: Vec::new(),
        unnamed: Vec::new(),
        total: 0,
    };
    verifier.run()?;
    Ok(verifier.report)
}

struct Verifier<'a> {
    the: Verification<'a>,
    report: Report,
    /// Beside each finding: what is lost by it.
    lost: Vec<Lost>,
    /// Lost layers whose names are not all known.
    unnamed: Vec<LayerRef>,
    total: u64,
}

impl Verifier<'_> {
    fn run(&mut self) -> Result<()> {
        let Some(manifest) = self.manifest()? else {
            return Ok(());
        };
        let config = match catalog::load_config(self.the.bucket, self.the.fs) {
            Ok(config) => config,
            Err(e) => {
                let key = keys::config(self.the.fs)?;
                return self.whole_snapshot(key.as_str(), self.judge(e)?);
            }
        };
        self.holds()?;
        self.total = objects_of(&manifest).map(|o| o.size).sum();
        let layers = self.layers(&manifest)?;
        let stack = stack_of(&layers, config.block_size);
        self.metadata(&manifest, &layers)?;
        self.log(&manifest)?;
        self.status(&manifest)?;
        let tocs = self.tocs(&manifest, &layers, &stack)?;
        let needed = self.extents(&layers, &stack, &tocs)?;
        self.tarballs(&tocs, &needed)?;
        self.name_files(&manifest, &layers, &stack)
    }

    /// The manifest; `None` when nothing more can be said of the snapshot.
    fn manifest(&mut self) -> Result<Option<Manifest>> {
        let BaseSnapshot { number, epoch } = self.the.id;
        let key = keys::absolute(self.the.fs, &keys::manifest(number, epoch))?;
        self.report.objects += 1;
        let manifest = match catalog::load_manifest(self.the.bucket, self.the.fs, number, epoch) {
            Ok(manifest) => manifest,
            Err(e) => {
                let found = self.judge(e)?;
                self.whole_snapshot(key.as_str(), found)?;
                return Ok(None);
            }
        };
        let bytes = self.the.bucket.get(&key).map_err(Error::from)?;
        self.report.bytes += bytes.len() as u64;
        if format::seal_of(&bytes) != Seal::Intact {
            let text = "it has no seal, so a changed byte would not show".to_owned();
            self.whole_snapshot(key.as_str(), (Problem::Contents, text))?;
        }
        for pair in manifest.layers.windows(2) {
            if pair[0].from <= pair[1].to {
                let (above, below) = (&pair[0].object.key, &pair[1].object.key);
                let text = format!("it lists layer {above} above {below}, which is not older");
                self.whole_snapshot(key.as_str(), (Problem::Inconsistent, text))?;
                return Ok(None);
            }
        }
        Ok(Some(manifest))
    }

    /// The marks that keep the snapshot from being deleted.
    fn holds(&mut self) -> Result<()> {
        let (bucket, fs, id) = (self.the.bucket, self.the.fs, self.the.id);
        for nth in catalog::standing_holds(bucket, fs, id)? {
            self.report.objects += 1;
            if let Err(e) = catalog::read_hold(bucket, fs, id, nth) {
                let key = keys::absolute(fs, &keys::hold(id.number, id.epoch, nth))?;
                self.report.findings.push(Finding {
                    object: key.as_str().to_owned(),
                    problem: Problem::Contents,
                    message: self.judge(e)?.1,
                    holds: format!("who holds snapshot {}, and why", id.number),
                    paths: Vec::new(),
                });
                self.lost.push(Lost::Nothing);
            }
        }
        Ok(())
    }

    /// A finding that concerns all of the snapshot.
    fn whole_snapshot(&mut self, key: &str, (problem, message): (Problem, String)) -> Result<()> {
        self.report.findings.push(Finding {
            object: key.to_owned(),
            problem,
            message,
            holds: format!(
                "all of snapshot {}: it cannot be mounted",
                self.the.id.number
            ),
            paths: Vec::new(),
        });
        self.lost.push(Lost::Nothing);
        Ok(())
    }

    /// The layers that are good; for a lost one its names from the metadata tarballs of its snapshots, so
    /// that files below it can still be named.
    fn layers(&mut self, manifest: &Manifest) -> Result<Vec<OpenLayer>> {
        let mut layers = Vec::with_capacity(manifest.layers.len());
        for layer in &manifest.layers {
            let holds = match layer.from == layer.to {
                true => format!("names and attributes changed in snapshot {}", layer.from),
                false => format!(
                    "names and attributes changed in snapshots {} to {}",
                    layer.from, layer.to
                ),
            };
            let lost = || Lost::Layer(layer.clone());
            let opened = match self.database(&layer.object, &holds, lost)? {
                None => None,
                Some(path) => {
                    let opened = open_layer(self.the.fs, layer, &path);
                    match opened.and_then(|open| is_the_layer(layer, &open).map(|()| open)) {
                        Ok(open) => Some(open),
                        Err(e) => {
                            let found = self.judge(e)?.1;
                            let found = (Problem::Inconsistent, found);
                            self.find(&layer.object.key, found, holds, lost());
                            None
                        }
                    }
                }
            };
            match opened {
                Some(open) => layers.push(open),
                None => layers.extend(self.substitute(manifest, layer)?),
            }
        }
        Ok(layers)
    }

    /// What metadata tarballs tell of a lost layer, newest first.
    fn substitute(&mut self, manifest: &Manifest, lost: &LayerRef) -> Result<Vec<OpenLayer>> {
        let (bucket, fs) = (self.the.bucket, self.the.fs);
        let (tarballs, mut all) = self.tarballs_of(manifest, lost)?;
        let mut found = Vec::with_capacity(tarballs.len());
        for key in tarballs {
            let path = self.the.scratch.path("names.sqlite");
            match rebuild::names_alone(bucket, fs, &key, &path) {
                Ok(database) => found.push(OpenLayer {
                    object: lost.clone(),
                    database: Arc::new(database),
                }),
                Err(e) => {
                    self.judge(e)?;
                    all = false;
                }
            }
        }
        if !all {
            self.unnamed.push(lost.clone());
        }
        Ok(found)
    }

    /// The metadata tarballs of the snapshots that a layer is of, newest first, and whether these are all.
    fn tarballs_of(&self, manifest: &Manifest, layer: &LayerRef) -> Result<(Vec<String>, bool)> {
        let in_folder = |folder: &str| format!("{folder}{}", keys::tarball(0));
        if let Some(folder) = layer.object.key.strip_suffix(keys::LAYER) {
            return Ok((vec![in_folder(folder)], true));
        }
        let mut tarballs = Vec::new();
        let mut next = manifest.parent;
        while let Some(id) = next.filter(|id| id.number >= layer.from) {
            let found = chain::link(self.the.bucket, self.the.fs, id.number, Some(id.epoch));
            let link = match found {
                Ok(link) => link,
                // Its manifest is lost, and several attempts may be meant.
                Err(e) if e.kind() == ErrorKind::Conflict => return Ok((tarballs, false)),
                Err(e) => return self.judge(e).map(|_| (tarballs, false)),
            };
            if id.number <= layer.to {
                tarballs.extend(link.folder.as_deref().map(in_folder));
            }
            next = link.parent.filter(|parent| parent.number < id.number);
        }
        Ok((tarballs, true))
    }

    /// The metadata tarball.
    fn metadata(&mut self, manifest: &Manifest, layers: &[OpenLayer]) -> Result<()> {
        let Some(object) = &manifest.meta_tarball else {
            return Ok(());
        };
        let holds = format!(
            "what changed in snapshot {}, for recovery without CBFS and for `index rebuild`",
            manifest.number
        );
        let lost = || Lost::Metadata;
        if !self.is_there(object, &holds, lost)? {
            return Ok(());
        }
        let read = || -> Result<ObjectRef> {
            let mut stream = TarballStream::open(self.the.bucket, self.the.fs, &object.key)?;
            let record = rebuild::read_record(&mut stream, self.the.fs)?;
            let same = record.number == manifest.number
                && record.epoch == manifest.epoch
                && record.attempt == manifest.attempt
                && record.name == manifest.name
                && record.kind == manifest.kind
                && record.xid == manifest.xid
                && record.parent == manifest.parent
                && record.created_at == manifest.created_at;
            if !same {
                let text = "it describes another snapshot than the manifest does";
                return Err(Error::damage(text));
            }
            Ok(stream.finish()?.0)
        };
        match read() {
            Ok(found) if found == *object => {}
            Ok(_) => {
                let text = "it has other contents than were written".to_owned();
                self.find(&object.key, (Problem::Contents, text), holds, lost());
                return Ok(());
            }
            Err(e) => {
                let found = self.judge(e)?;
                self.find(&object.key, found, holds, lost());
                return Ok(());
            }
        }
        self.read(object.size, &object.key)?;
        let own = layers.iter().find(|open| {
            let of = &open.object;
            let expected = format!("{}{}", folder_of(object), keys::LAYER);
            of.from == manifest.number && of.to == manifest.number && of.object.key == expected
        });
        match own {
            Some(own) if self.the.deep => self.says_the_same(object, own, holds),
            _ => Ok(()),
        }
    }

    /// Whether the metadata tarball has the rows of the layer.
    fn says_the_same(&mut self, object: &ObjectRef, own: &OpenLayer, holds: String) -> Result<()> {
        let path = self.the.scratch.path("names.sqlite");
        let compared = rebuild::names_alone(self.the.bucket, self.the.fs, &object.key, &path)
            .and_then(|_| {
                let names = open_immutable(&path)?;
                let of_names = ["inode", "dentry", "link", "xattr", "hole"];
                let mut tables = rebuild::compare::LAYER_TABLES.to_vec();
                tables.retain(|table| of_names.contains(&table.name));
                own.database
                    .with(|layer| rebuild::compare::compare(layer, &names, &tables))
            });
        match compared {
            Ok(tables) => {
                if let Some(table) = tables.iter().find(|table| !table.is_equal()) {
                    let text = format!(
                        "its {} rows differ from those of the layer: {}",
                        table.table,
                        table.first.as_deref().unwrap_or_default()
                    );
                    let found = (Problem::Inconsistent, text);
                    self.find(&object.key, found, holds, Lost::Metadata);
                }
                Ok(())
            }
            Err(e) => {
                let found = self.judge(e)?;
                self.find(&object.key, found, holds, Lost::Metadata);
                Ok(())
            }
        }
    }

    fn log(&mut self, manifest: &Manifest) -> Result<()> {
        let Some(object) = &manifest.log else {
            return Ok(());
        };
        let holds = format!(
            "the change log of snapshot {}, and no file's contents",
            manifest.number
        );
        if self.is_there(object, &holds, || Lost::Nothing)? {
            self.download(object, &holds, std::io::sink())?;
        }
        Ok(())
    }

    fn status(&mut self, manifest: &Manifest) -> Result<()> {
        let holds = format!(
            "how snapshot {} was made, and no file's contents",
            manifest.number
        );
        if let Some(log) = &manifest.status_log {
            let key = keys::manifest(manifest.number, manifest.epoch);
            self.judge_status(manifest, log.as_bytes(), &key, holds.clone())?;
        }
        let Some(object) = &manifest.status else {
            return Ok(());
        };
        if !self.is_there(object, &holds, || Lost::Nothing)? {
            return Ok(());
        }
        let mut bytes = Vec::new();
        if !self.download(object, &holds, &mut bytes)? {
            return Ok(());
        }
        self.judge_status(manifest, &bytes, &object.key, holds)
    }

    /// Whether a status log is one, and of this snapshot; `key`: where it stands.
    fn judge_status(
        &mut self,
        manifest: &Manifest,
        log: &[u8],
        key: &str,
        holds: String,
    ) -> Result<()> {
        let text = match SnapshotStatus::parse(log) {
            Ok(status) if (status.number, status.epoch) == (manifest.number, manifest.epoch) => {
                return Ok(());
            }
            Ok(status) => format!("it is of snapshot {}", status.number),
            Err(e) => self.judge(e)?.1,
        };
        let found = (Problem::Inconsistent, text);
        self.find(key, found, holds, Lost::Nothing);
        Ok(())
    }

    /// All TOCs that live files need, and the snapshot's own.
    fn tocs(
        &mut self,
        manifest: &Manifest,
        layers: &[OpenLayer],
        stack: &Stack,
    ) -> Result<BTreeMap<SnapshotNumber, Toc>> {
        let mut sources: BTreeMap<SnapshotNumber, ObjectRef> = BTreeMap::new();
        let mut unknown = BTreeSet::new();
        live_extents(layers, stack, |extent| {
            if !sources.contains_key(&extent.snapshot) && !unknown.contains(&extent.snapshot) {
                match stack.source(extent.snapshot)? {
                    Some(source) => drop(sources.insert(extent.snapshot, toc_object(source))),
                    None => drop(unknown.insert(extent.snapshot)),
                }
            }
            Ok(())
        })?;
        if let Some(own) = &manifest.toc {
            let known = stack.source(manifest.number)?.map(toc_object);
            if known.as_ref().is_some_and(|known| known != own) {
                let text = "the layers refer to another TOC of this snapshot".to_owned();
                let name = keys::manifest(manifest.number, manifest.epoch);
                let holds = format!("all of snapshot {}", manifest.number);
                let found = (Problem::Inconsistent, text);
                self.find(&name, found, holds, Lost::Nothing);
            }
            sources
                .entry(manifest.number)
                .or_insert_with(|| own.clone());
        }
        for snapshot in unknown {
            let text = format!("no layer says where the TOC of snapshot {snapshot} lies");
            let name = keys::manifest(manifest.number, manifest.epoch);
            let holds = format!("contents written in snapshot {snapshot}");
            let found = (Problem::Inconsistent, text);
            self.find(&name, found, holds, Lost::Toc(snapshot));
        }
        let mut tocs = BTreeMap::new();
        for (snapshot, object) in sources {
            if Some(&object) != manifest.toc.as_ref() {
                self.total += object.size;
            }
            let holds = format!("where contents written in snapshot {snapshot} lie");
            let lost = || Lost::Toc(snapshot);
            let Some(path) = self.database(&object, &holds, lost)? else {
                continue;
            };
            let opened = Toc::open_immutable(&path).and_then(|toc| {
                self.is_the_toc(&toc, snapshot)?;
                Ok(toc)
            });
            match opened {
                Ok(toc) => drop(tocs.insert(snapshot, toc)),
                Err(e) => {
                    let text = self.judge(e)?.1;
                    let found = (Problem::Inconsistent, text);
                    self.find(&object.key, found, holds, lost());
                }
            }
        }
        Ok(tocs)
    }

    /// Every live extent lies in sections that its TOC has. Answers the sections by snapshot.
    fn extents(
        &mut self,
        layers: &[OpenLayer],
        stack: &Stack,
        tocs: &BTreeMap<SnapshotNumber, Toc>,
    ) -> Result<BTreeMap<SnapshotNumber, BTreeSet<u64>>> {
        let mut needed: BTreeMap<SnapshotNumber, BTreeSet<u64>> = BTreeMap::new();
        let mut strays: BTreeMap<SnapshotNumber, Vec<(ExtentRow, String)>> = BTreeMap::new();
        let mut extents = 0;
        live_extents(layers, stack, |extent| {
            let Some(toc) = tocs.get(&extent.snapshot) else {
                return Ok(()); // a finding of its own
            };
            extents += 1;
            for i in 0..extent.n {
                let (section, blk) = (extent.section.saturating_add(i), extent.blk + i);
                if let Some(text) = misplaced(toc, extent, section, blk)? {
                    let of_snapshot = strays.entry(extent.snapshot).or_default();
                    of_snapshot.push((*extent, text));
                    return Ok(());
                }
                needed.entry(extent.snapshot).or_default().insert(section);
            }
            Ok(())
        })?;
        self.report.extents = extents;
        for (snapshot, strays) in strays {
            let Some(object) = stack.source(snapshot)?.map(toc_object) else {
                continue;
            };
            let first = strays
                .first()
                .map(|(_, text)| text.as_str())
                .unwrap_or_default();
            let text = format!("{} runs of blocks do not fit it: {first}", strays.len());
            let holds = format!("where contents written in snapshot {snapshot} lie");
            let inodes = strays.iter().map(|(extent, _)| extent.ino).collect();
            let found = (Problem::Inconsistent, text);
            self.find(&object.key, found, holds, Lost::Inodes(inodes));
        }
        Ok(needed)
    }

    /// Whether the TOC is that of the snapshot, and its sections tile its tarballs.
    fn is_the_toc(&self, toc: &Toc, snapshot: SnapshotNumber) -> Result<()> {
        let fs = self.the.fs.to_string();
        if toc.meta("fs")?.as_ref() != Some(&fs)
            || toc.meta("number")? != Some(snapshot.to_string())
        {
            return Err(Error::damage("it is the TOC of another snapshot"));
        }
        let mut ends: BTreeMap<u32, u64> = BTreeMap::new();
        for (section, place) in (0u64..).zip(toc.sections()?) {
            let end = ends.entry(place.tarball_nr).or_default();
            if place.section != section || place.offset != *end || place.length == 0 {
                let text = format!("section {section} does not follow the one before it");
                return Err(Error::damage(text));
            }
            *end = end.saturating_add(place.length);
        }
        for (nr, tarball) in toc.tarballs()? {
            if ends.remove(&nr) != Some(tarball.size) {
                let text = format!("the sections of tarball {} do not fill it", tarball.key);
                return Err(Error::damage(text));
            }
        }
        Ok(())
    }

    /// A database of the snapshot: there, verified and decompressed; else a finding.
    fn database(
        &mut self,
        object: &ObjectRef,
        holds: &str,
        lost: impl Fn() -> Lost,
    ) -> Result<Option<PathBuf>> {
        if !self.is_there(object, holds, &lost)? {
            return Ok(None);
        }
        match self
            .the
            .scratch
            .database(self.the.bucket, self.the.fs, object)
        {
            Ok(path) => {
                self.read(object.size, &object.key)?;
                Ok(Some(path))
            }
            Err(e) => {
                let found = self.judge(e)?;
                self.find(&object.key, found, holds.to_owned(), lost());
                Ok(None)
            }
        }
    }

    /// Copy an object that is there; whether it is what was written.
    fn download(
        &mut self,
        object: &ObjectRef,
        holds: &str,
        out: impl std::io::Write,
    ) -> Result<bool> {
        match download(self.the.bucket, self.the.fs, object, out) {
            Ok(()) => {
                self.read(object.size, &object.key)?;
                Ok(true)
            }
            Err(e) => {
                let found = self.judge(e)?;
                self.find(&object.key, found, holds.to_owned(), Lost::Nothing);
                Ok(false)
            }
        }
    }

    /// Whether an object is there in full length; else a finding.
    fn is_there(
        &mut self,
        object: &ObjectRef,
        holds: &str,
        lost: impl Fn() -> Lost,
    ) -> Result<bool> {
        self.report.objects += 1;
        let found = match self.stored_length(&object.key) {
            Ok(Some(size)) if size == object.size => return Ok(true),
            Ok(Some(size)) => {
                let text = format!("it has {size} bytes instead of {}", object.size);
                (Problem::Length, text)
            }
            Ok(None) => (Problem::Missing, "it is missing".to_owned()),
            Err(e) => self.judge(e)?,
        };
        self.find(&object.key, found, holds.to_owned(), lost());
        Ok(false)
    }

    fn stored_length(&self, relative: &str) -> Result<Option<u64>> {
        let key = keys::absolute(self.the.fs, relative).map_err(|e| {
            Error::damage(format!("{relative:?} is no key of an object")).because(e)
        })?;
        Ok(self.the.bucket.head(&key)?.map(|info| info.size))
    }

    /// What an error says of an object; one that says nothing of it ends the work.
    fn judge(&self, e: Error) -> Result<(Problem, String)> {
        let problem = match e.kind() {
            ErrorKind::NotFound => Problem::Missing,
            ErrorKind::Damage => Problem::Contents,
            _ => return Err(e),
        };
        let causes = e.causes();
        let text = std::iter::once(e.to_string()).chain(causes);
        Ok((problem, text.collect::<Vec<_>>().join(": ")))
    }

    fn find(
        &mut self,
        relative: &str,
        (problem, message): (Problem, String),
        holds: String,
        lost: Lost,
    ) {
        self.report.findings.push(Finding {
            object: format!("{}/{relative}", self.the.fs),
            problem,
            message,
            holds,
            paths: Vec::new(),
        });
        self.lost.push(lost);
    }

    fn read(&mut self, bytes: u64, object: &str) -> Result<()> {
        self.report.bytes += bytes;
        (self.the.progress)(Progress {
            done: self.report.bytes,
            total: self.total.max(self.report.bytes),
            object,
        })
    }
}

/// Objects that the manifest itself names.
fn objects_of(manifest: &Manifest) -> impl Iterator<Item = &ObjectRef> {
    let layers = manifest.layers.iter().map(|layer| &layer.object);
    layers
        .chain(&manifest.toc)
        .chain(&manifest.meta_tarball)
        .chain(&manifest.log)
        .chain(&manifest.status)
}

fn folder_of(object: &ObjectRef) -> &str {
    let slash = object.key.rfind('/').map_or(0, |at| at + 1);
    &object.key[..slash]
}

fn is_the_layer(wanted: &LayerRef, open: &OpenLayer) -> Result<()> {
    for (key, number) in [("from", wanted.from), ("to", wanted.to)] {
        if open.database.meta(key)? != Some(number.to_string()) {
            let text = format!("it does not say {key:?} snapshot {number}, as the manifest does");
            return Err(Error::damage(text));
        }
    }
    Ok(())
}

/// Why a block does not lie where its extent says.
fn misplaced(toc: &Toc, extent: &ExtentRow, section: u64, blk: u64) -> Result<Option<String>> {
    let ino = extent.ino;
    let Some(place) = toc.section(section)? else {
        return Ok(Some(format!(
            "block {blk} of inode {ino} is said to be in section {section}, which it does not have"
        )));
    };
    if extent.offset > place.raw_length || !toc.has_block(section, ino, blk)? {
        return Ok(Some(format!(
            "block {blk} of inode {ino} is not in section {section}"
        )));
    }
    Ok(None)
}
