//! The data tarballs: there in full length, and with `deep` every section and the tar structure.

use super::files::Lost;
use super::{Problem, Verifier};
use crate::cloud_snapshot::{ObjectReader, is_frame, section_length};
use crate::error::{Error, ErrorKind, Result};
use crate::format::keys;
use crate::frames::decompress_section;
use crate::handle::Handle;
use crate::ids::SnapshotNumber;
use crate::tarball::MemberReader;
use crate::toc::{SectionPlace, Toc};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

impl Verifier<'_> {
    /// All tarballs that hold one of the `needed` sections.
    pub(super) fn tarballs(
        &mut self,
        tocs: &BTreeMap<SnapshotNumber, Toc>,
        needed: &BTreeMap<SnapshotNumber, BTreeSet<u64>>,
    ) -> Result<()> {
        let mut work = Vec::new();
        for (snapshot, sections) in needed {
            let Some(toc) = tocs.get(snapshot) else {
                continue;
            };
            let mut tarballs: BTreeMap<u32, Vec<SectionPlace>> = BTreeMap::new();
            for place in toc.sections()? {
                tarballs.entry(place.tarball_nr).or_default().push(place);
            }
            tarballs.retain(|_, places| places.iter().any(|p| sections.contains(&p.section)));
            work.extend(tarballs.into_values().map(|places| (*snapshot, places)));
        }
        if self.the.deep {
            let objects = work.iter().filter_map(|(_, places)| places.first());
            self.total += objects.map(|place| place.tarball.size).sum::<u64>();
        }
        for (snapshot, places) in work {
            self.tarball(snapshot, places)?;
        }
        Ok(())
    }

    fn tarball(&mut self, snapshot: SnapshotNumber, places: Vec<SectionPlace>) -> Result<()> {
        let Some(object) = places.first().map(|place| place.tarball.clone()) else {
            return Ok(());
        };
        self.report.objects += 1;
        let all = places.len();
        let holds = |sections: &BTreeSet<u64>| match sections.len() {
            0 => format!("contents written in snapshot {snapshot}"),
            n => format!(
                "contents written in snapshot {snapshot}: {n} of its {all} sections are lost"
            ),
        };
        let size = match self.stored_length(&object.key) {
            Ok(size) => size,
            Err(e) => {
                let sections: BTreeSet<u64> = places.iter().map(|p| p.section).collect();
                let (found, holds) = (self.judge(e)?, holds(&sections));
                self.find(
                    &object.key,
                    found,
                    holds,
                    Lost::Sections(snapshot, sections),
                );
                return Ok(());
            }
        };
        let stored = size.unwrap_or(0);
        let cut_off = places.iter().filter(|p| p.offset + p.length > stored);
        let mut lost: BTreeSet<u64> = cut_off.map(|place| place.section).collect();
        let found = match size {
            None => Some((Problem::Missing, "it is missing".to_owned())),
            Some(size) if size != object.size => {
                let text = format!("it has {size} bytes instead of {}", object.size);
                Some((Problem::Length, text))
            }
            Some(_) => None,
        };
        let mut structure = None;
        let mut damaged = Vec::new();
        if self.the.deep && size.is_some() {
            let there = places.into_iter().filter(|p| !lost.contains(&p.section));
            let read = self.read_tarball(&object.key, stored, there.collect())?;
            damaged = read.damaged;
            structure = read.structure;
        }
        lost.extend(damaged.iter().map(|(section, _)| *section));
        let found = match (found, damaged.first(), structure) {
            (Some(found), _, _) => found,
            (None, Some((section, why)), _) => {
                let others = match damaged.len() {
                    1 => String::new(),
                    n => format!(", and {} more", n - 1),
                };
                (
                    Problem::Contents,
                    format!("section {section} {why}{others}"),
                )
            }
            (None, None, Some(text)) => (Problem::Inconsistent, text),
            (None, None, None) => return Ok(()),
        };
        let holds = holds(&lost);
        self.find(&object.key, found, holds, Lost::Sections(snapshot, lost));
        Ok(())
    }

    /// Read sections that follow each other from the start of a tarball.
    fn read_tarball(
        &mut self,
        relative: &str,
        size: u64,
        places: Vec<SectionPlace>,
    ) -> Result<ReadTarball> {
        let key = keys::absolute(self.the.fs, relative)?;
        let reader = ObjectReader::new(self.the.bucket, key, size);
        let failure = reader.failure();
        let fs = self.the.fs;
        let (mut stored, sections) = (0u64, places.len() as u64);
        let mut told = |bytes: u64| -> Result<()> {
            stored += bytes;
            let done = self.report.bytes + stored;
            (self.the.progress)(super::Progress {
                done,
                total: self.total.max(done),
                object: relative,
            })
        };
        let mut feed = SectionFeed {
            fs,
            reader,
            places: places.into_iter(),
            raw: Vec::new(),
            taken: 0,
            damaged: Vec::new(),
            ended: None,
            told: &mut told,
        };
        let mut structure = None;
        let mut members = MemberReader::new(&mut feed);
        loop {
            match members.next_member() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(e) => {
                    structure = Some(format!("it is no proper tar file: {e}"));
                    break;
                }
            }
        }
        // A damaged section or member ends the archive, not the check.
        while feed.ended.is_none() && feed.next_section().unwrap_or(true) {}
        if let Some(e) = failure.take() {
            match e.kind() {
                ErrorKind::Damage | ErrorKind::NotFound => structure = Some(e.to_string()),
                _ => return Err(e),
            }
        } else if let Some(e) = feed.ended.take() {
            return Err(e);
        }
        let damaged = std::mem::take(&mut feed.damaged);
        self.report.bytes += stored;
        self.report.sections += sections;
        if !damaged.is_empty() {
            structure = None; // that is why
        }
        Ok(ReadTarball { damaged, structure })
    }
}

struct ReadTarball {
    damaged: Vec<(u64, String)>,
    structure: Option<String>,
}

/// The sections of a tarball, checked, as one decompressed stream; it fails at a damaged one.
struct SectionFeed<'a, 't> {
    fs: &'a Handle,
    reader: ObjectReader<'a>,
    places: std::vec::IntoIter<SectionPlace>,
    raw: Vec<u8>,
    taken: usize,
    damaged: Vec<(u64, String)>,
    /// Why nothing more is to be read: the bucket, or whoever hears of the progress.
    ended: Option<Error>,
    told: &'t mut dyn FnMut(u64) -> Result<()>,
}

impl SectionFeed<'_, '_> {
    /// Read and check the next section; `false` at the end.
    fn next_section(&mut self) -> io::Result<bool> {
        let Some(place) = self.places.next() else {
            return Ok(false);
        };
        let opened = self.open(&place);
        match opened {
            Ok(raw) => {
                (self.raw, self.taken) = (raw, 0);
                Ok(true)
            }
            Err(e) if self.ended.is_some() => Err(e),
            Err(e) => {
                self.damaged.push((place.section, e.to_string()));
                Err(e)
            }
        }
    }

    fn open(&mut self, place: &SectionPlace) -> io::Result<Vec<u8>> {
        let raw_length = section_length(self.fs, place).map_err(|e| into_io(&e))?;
        let length = usize::try_from(place.length).map_err(io::Error::other)?;
        let mut frame = vec![0; length];
        if let Err(e) = self.reader.read_exact(&mut frame) {
            let text = format!("object {} could not be read", place.tarball.key);
            self.ended = Some(Error::failed(text).because(e.to_string()));
            return Err(e);
        }
        if let Err(e) = (self.told)(place.length) {
            self.ended = Some(e);
            return Err(io::Error::other("stopped"));
        }
        if !is_frame(&frame, place) {
            return Err(io::Error::other("has other contents than were written"));
        }
        decompress_section(&frame, raw_length, "it")
            .map_err(|e| io::Error::other(format!("cannot be decompressed: {e}")))
    }
}

impl Read for SectionFeed<'_, '_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.raw.len() {
            if !self.next_section()? {
                return Ok(0);
            }
        }
        let rest = &self.raw[self.taken..];
        let n = rest.len().min(out.len());
        out[..n].copy_from_slice(&rest[..n]);
        self.taken += n;
        Ok(n)
    }
}

fn into_io(e: &Error) -> io::Error {
    io::Error::other(e.to_string())
}
