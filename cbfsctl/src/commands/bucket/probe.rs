//! `cbfsctl bucket probe`: what a store can do, found out by doing it.
//!
//! All objects it makes are named `cbfs-probe-<random>-…`, lie at the top of the bucket's prefix and
//! are deleted at the end, also after a failure or Ctrl-C. A probe that is killed leaves them.

use super::super::Context;
use crate::bucket_option;
use crate::bucket_traffic;
use crate::interrupt::{Interrupt, Unheard};
use crate::output::{Outcome, Output, printable};
use crate::quantities;
use cbfs_core::bucket::{
    self, Body, Bucket, BucketError, BucketResult, BucketTraffic, BucketUrl, Key, RACERS, S3Bucket,
};
use cbfs_core::clock::{Clock, Ids, System};
use cbfs_core::error::Context as _;
use cbfs_core::{Error, ErrorKind, Result};
use serde::Serialize;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often [`RACERS`] race.
const RACES: usize = 3;
/// Requests of a kind whose median is told.
const SAMPLES: usize = 9;
/// Size of the object whose transfer is timed. More than the smallest part of an upload in parts.
const LARGE: usize = 8 << 20;
/// Clocks farther apart make retention refuse to run.
const SKEW_MAX: Duration = Duration::from_secs(300);

/// Find out what a bucket's store can do, and what it is good for.
///
/// Creates, reads, lists and deletes a few objects of its own (about 30 MiB in all), and tells in
/// words what came of it. A store on which two creators of one object can both succeed lets two
/// masters overwrite each other: it is told as broken, and the exit code is 1.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cbfsctl bucket probe file:///srv/bucket\n  \
    cbfsctl bucket probe 's3://my-bucket/prefix?endpoint=http://127.0.0.1:8333'"
)]
pub(crate) struct Args {
    /// The bucket: file:///DIRECTORY or s3://BUCKET/PREFIX.
    #[arg(value_name = "URL", env = "CBFS_BUCKET", hide_env_values = true)]
    url: String,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// It can.
    Good,
    /// It can, but look at the words.
    Doubtful,
    /// It cannot.
    Bad,
    /// It was not tried.
    Skipped,
}

/// One thing that was tried.
#[derive(Debug, Serialize)]
struct Check {
    what: &'static str,
    verdict: Verdict,
    words: String,
}

/// What the bucket can be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum GoodFor {
    /// Everything.
    MastersAndSlaves,
    /// Reading.
    Slaves,
    /// Nothing.
    Nothing,
}

/// Medians.
#[derive(Debug, Default, Serialize)]
struct Measures {
    #[serde(skip_serializing_if = "Option::is_none")]
    list_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    put_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    get_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    put_bytes_per_second: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    get_bytes_per_second: Option<u64>,
}

/// All that was found out.
#[derive(Debug, Serialize)]
struct Report {
    bucket: String,
    good_for: GoodFor,
    checks: Vec<Check>,
    measures: Measures,
    /// What the probe itself has asked, with latencies and an estimate of what it cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    traffic: Option<BucketTraffic>,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let url = bucket_option::parse(&args.url)?;
    let interrupt = Interrupt::install(
        "interrupted again: objects named cbfs-probe-* stay behind",
        Unheard::Wait,
    )?;
    let bucket = bucket::open(&url, false).or_else(|e| match e {
        // A directory that may not be written can still be read.
        BucketError::Denied { .. } => bucket::open(&url, true),
        other => Err(other),
    });
    let mut probe = Probe {
        bucket: bucket.map_err(Error::from)?,
        url,
        name: format!("cbfs-probe-{}", System.attempt()),
        made: Vec::new(),
        checks: Vec::new(),
        measures: Measures::default(),
    };
    // What it made is deleted all the same.
    let result = interrupt.during(|| probe.all(&interrupt, &mut context.output));
    probe.clean_up(&mut context.output);
    let good_for = result?;
    let report = Report {
        bucket: probe.url.to_string(),
        good_for,
        checks: probe.checks,
        measures: probe.measures,
        traffic: bucket::traffic().into_iter().next(),
    };
    show(&report, &mut context.output)?;
    match good_for {
        GoodFor::MastersAndSlaves | GoodFor::Slaves => Ok(()),
        GoodFor::Nothing => Err(Error::new(
            ErrorKind::Failed,
            "this store breaks promises that CBFS rests on",
        )
        .hint("keep file systems elsewhere: two masters could overwrite each other here")
        .into()),
    }
}

fn show(report: &Report, output: &mut Output) -> Outcome {
    if output.is_json() {
        return output.json(report);
    }
    let style = output.style();
    output.line(style.bold(printable(&report.bucket)))?;
    for check in &report.checks {
        let (glyph, word) = match check.verdict {
            Verdict::Good => (style.good("✔"), ""),
            Verdict::Doubtful => (style.bad("!"), "doubtful: "),
            Verdict::Bad => (style.bad("✖"), "broken: "),
            Verdict::Skipped => (style.dim("-"), "not tried: "),
        };
        let words = printable(&check.words);
        output.line(format_args!("  {glyph} {:<12} {word}{words}", check.what))?;
    }
    if let Some(traffic) = &report.traffic {
        output.line("\nwhat the probe asked, and what it cost")?;
        bucket_traffic::show(traffic, output)?;
        output.line("")?;
    }
    output.line(match report.good_for {
        GoodFor::MastersAndSlaves => style.good("good for masters and slaves"),
        GoodFor::Slaves => style.bold("good for slaves only: it may be read, not written"),
        GoodFor::Nothing => style.bad("good for nothing that CBFS does"),
    })
}

/// A probe under way.
struct Probe {
    bucket: Arc<dyn Bucket>,
    url: BucketUrl,
    name: String,
    made: Vec<Key>,
    checks: Vec<Check>,
    measures: Measures,
}

impl Probe {
    fn note(&mut self, what: &'static str, verdict: Verdict, words: impl Into<String>) {
        let words = words.into();
        self.checks.push(Check {
            what,
            verdict,
            words,
        });
    }

    /// A key that is deleted at the end.
    fn key(&mut self, name: &str) -> Result<Key> {
        let key = Key::new(format!("{}-{name}", self.name))?;
        self.made.push(key.clone());
        Ok(key)
    }

    fn all(&mut self, interrupt: &Interrupt, output: &mut Output) -> Outcome<GoodFor> {
        output.message("probing: listing, reading, writing");
        self.listing()?;
        if !self.writing()? {
            return Ok(GoodFor::Slaves);
        }
        interrupt.check()?;
        self.reading()?;
        self.ranges()?;
        self.listing_of_what_was_made()?;
        interrupt.check()?;
        output.message(format_args!("probing: {RACERS} creators at once"));
        let mut is_safe = self.create_only()?;
        interrupt.check()?;
        self.compare_and_swap()?;
        self.tagging()?;
        interrupt.check()?;
        output.message("probing: large objects");
        self.transfer()?;
        interrupt.check()?;
        is_safe &= self.parts()?;
        Ok(if is_safe {
            GoodFor::MastersAndSlaves
        } else {
            GoodFor::Nothing
        })
    }

    fn listing(&mut self) -> Result<()> {
        let mut found = 0;
        let bucket = Arc::clone(&self.bucket);
        let median = median(|_| {
            found = bucket.list_dir("")?.len();
            Ok(())
        })?;
        self.measures.list_ms = Some(millis(median));
        let objects = quantities::plural(found as u64, "object", "objects");
        let words = format!(
            "{} to list the top level ({objects})",
            quantities::duration(median)
        );
        self.note("reachable", Verdict::Good, words);
        Ok(())
    }

    /// Tells whether we may.
    fn writing(&mut self) -> Result<bool> {
        let keys: Vec<Key> = (0..SAMPLES)
            .map(|n| self.key(&format!("small-{n}")))
            .collect::<Result<_>>()?;
        let bucket = Arc::clone(&self.bucket);
        let created = median(|n| bucket.create(&keys[n], Body::Bytes(b"0123456789")));
        let median = match created {
            Err(e) if e.kind() == ErrorKind::Credentials => {
                self.made.clear();
                self.note(
                    "writing",
                    Verdict::Skipped,
                    "the credentials permit to read only",
                );
                return Ok(false);
            }
            other => other?,
        };
        self.measures.put_ms = Some(millis(median));
        self.note(
            "writing",
            Verdict::Good,
            format!("{} a small object", quantities::duration(median)),
        );
        let stored = self.bucket.head(&keys[0])?.map(|info| info.modified.secs());
        let skew = stored.map_or(0, |secs| secs.abs_diff(System.now().secs()));
        if Duration::from_secs(skew) > SKEW_MAX {
            let words = format!("{skew} s apart: set this machine's clock, or the store's");
            self.note("clocks", Verdict::Doubtful, words);
        } else {
            self.note("clocks", Verdict::Good, format!("{skew} s apart"));
        }
        Ok(true)
    }

    fn reading(&mut self) -> Result<()> {
        let (bucket, key) = (Arc::clone(&self.bucket), self.made[0].clone());
        let mut exact = true;
        let median = median(|_| {
            exact &= bucket.get(&key)? == b"0123456789";
            Ok(())
        })?;
        self.measures.get_ms = Some(millis(median));
        if !exact {
            return Err(Error::damage(format!(
                "{key} was read back with other bytes than were written"
            )));
        }
        self.note(
            "reading",
            Verdict::Good,
            format!("{} a small object", quantities::duration(median)),
        );
        Ok(())
    }

    fn ranges(&mut self) -> Result<()> {
        let key = &self.made[0];
        let inside = self.bucket.get_range(key, 3, 4);
        let beyond = self.bucket.get_range(key, 8, 4);
        let (verdict, words) = match (inside, beyond) {
            (Ok(bytes), Err(BucketError::Damaged { .. })) if bytes == b"3456" => (
                Verdict::Good,
                "exact, and refused beyond the end".to_owned(),
            ),
            (Ok(bytes), _) if bytes == b"3456" => (
                Verdict::Doubtful,
                "exact, but odd beyond the end".to_owned(),
            ),
            (Ok(_), _) => (Verdict::Bad, "other bytes than asked for".to_owned()),
            (Err(BucketError::Unsupported { what }), _) => (Verdict::Bad, what),
            (Err(e), _) => return Err(e.into()),
        };
        self.note("ranges", verdict, words);
        Ok(())
    }

    fn listing_of_what_was_made(&mut self) -> Result<()> {
        let listed: Vec<Key> = self
            .bucket
            .list(&self.name)?
            .into_iter()
            .map(|info| info.key)
            .collect();
        let mut wanted = self.made.clone();
        wanted.sort();
        if listed == wanted {
            self.note(
                "listing",
                Verdict::Good,
                "shows new objects at once, sorted",
            );
        } else {
            let words = format!("shows {} of {} new objects", listed.len(), wanted.len());
            self.note("listing", Verdict::Doubtful, words);
        }
        Ok(())
    }

    /// Tells whether a key never has two creators.
    fn create_only(&mut self) -> Result<bool> {
        let taken = self.made[0].clone();
        let again = self.bucket.create(&taken, Body::Bytes(b"other"));
        if !matches!(again, Err(BucketError::AlreadyExists { .. })) {
            let words = match again {
                Ok(()) => "an object was overwritten: the store ignores If-None-Match".to_owned(),
                Err(e) => format!("a second creation was refused for another reason: {e}"),
            };
            self.note("create-only", Verdict::Bad, words);
            return Ok(false);
        }
        let racers: Vec<Arc<dyn Bucket>> = (0..RACERS)
            .map(|_| bucket::open(&self.url, false))
            .collect::<BucketResult<_>>()?;
        let racers: Vec<&dyn Bucket> = racers.iter().map(|r| &**r).collect();
        let mut failures = 0;
        for round in 0..RACES {
            let key = self.key(&format!("race-{round}"))?;
            let race = bucket::race(&racers, &key)?;
            failures += race.failures.len();
            if let Some(fault) = race.fault() {
                self.note("create-only", Verdict::Bad, fault);
                return Ok(false);
            }
        }
        let mut words =
            format!("of {RACERS} creators at once exactly one succeeded, {RACES} times of {RACES}");
        if failures > 0 {
            words += &format!(" ({failures} of the others failed instead of being refused)");
        }
        self.note("create-only", Verdict::Good, words);
        Ok(true)
    }

    /// Nothing of CBFS needs it: told, not judged.
    fn compare_and_swap(&mut self) -> Result<()> {
        const WHAT: &str = "swap";
        if !matches!(self.url, BucketUrl::S3 { .. }) {
            self.note(
                WHAT,
                Verdict::Skipped,
                "CBFS does not need it in a directory",
            );
            return Ok(());
        }
        let bucket = S3Bucket::open(&self.url, false)?;
        let key = self.key("swap")?;
        self.bucket.create(&key, Body::Bytes(b"first"))?;
        let first = bucket.etag(&key)?;
        let swapped = bucket.swap(&key, b"second", &first);
        let stale = bucket.swap(&key, b"third", &first);
        let stored = self.bucket.get(&key)?;
        let (verdict, words) = match (swapped, stale) {
            (Ok(()), Err(BucketError::AlreadyExists { .. })) if stored == b"second" => (
                Verdict::Good,
                "If-Match replaces one version only".to_owned(),
            ),
            (Ok(()), Ok(())) => (
                Verdict::Doubtful,
                "If-Match is ignored: CBFS does not need it".to_owned(),
            ),
            (Err(e), _) => (
                Verdict::Doubtful,
                format!("If-Match is refused; CBFS does not need it: {e}"),
            ),
            (Ok(()), Err(e)) => (
                Verdict::Doubtful,
                format!("a stale If-Match is refused in an odd way; CBFS does not need it: {e}"),
            ),
        };
        self.note(WHAT, verdict, words);
        Ok(())
    }

    /// `fs delete` marks objects for the GC agent with it.
    fn tagging(&mut self) -> Result<()> {
        const WHAT: &str = "tagging";
        if !matches!(self.url, BucketUrl::S3 { .. }) {
            self.note(WHAT, Verdict::Skipped, "a directory has no tags");
            return Ok(());
        }
        let bucket = S3Bucket::open(&self.url, false)?;
        let key = self.made[0].clone();
        let tagged = bucket.set_tag(&key, "cbfs-probe", "yes");
        let (verdict, words) = match tagged.and_then(|()| bucket.tag(&key)) {
            Ok(Some(value)) if value == "yes" => {
                (Verdict::Good, "objects can be tagged".to_owned())
            }
            Ok(_) => (
                Verdict::Doubtful,
                "a tag was taken, and is not there: lifecycle rules by tag will not work"
                    .to_owned(),
            ),
            Err(e) => (
                Verdict::Doubtful,
                format!("objects cannot be tagged: lifecycle rules by tag will not work ({e})"),
            ),
        };
        self.note(WHAT, verdict, words);
        Ok(())
    }

    fn transfer(&mut self) -> Result<()> {
        let (file, bytes) = large_file()?;
        let key = self.key("large")?;
        let start = Instant::now();
        self.bucket.create(&key, Body::File(file.path()))?;
        let put = quantities::per_second(LARGE as u64, start.elapsed());
        let start = Instant::now();
        let stored = self.bucket.get(&key)?;
        let get = quantities::per_second(LARGE as u64, start.elapsed());
        if stored != bytes {
            return Err(Error::damage(format!(
                "{key} was read back with other bytes than were written"
            )));
        }
        self.measures.put_bytes_per_second = Some(put);
        self.measures.get_bytes_per_second = Some(get);
        let words = format!(
            "{}/s out, {}/s in (one stream)",
            quantities::bytes(put),
            quantities::bytes(get)
        );
        self.note("transfer", Verdict::Good, words);
        Ok(())
    }

    /// Tells whether an upload in parts neither loses bytes nor overwrites.
    fn parts(&mut self) -> Result<bool> {
        const WHAT: &str = "multipart";
        if !matches!(self.url, BucketUrl::S3 { .. }) {
            self.note(WHAT, Verdict::Skipped, "files are written as one");
            return Ok(true);
        }
        let bucket = S3Bucket::open(&self.url, false)?.with_smallest_parts();
        let (file, bytes) = large_file()?;
        let key = self.key("parts")?;
        if let Err(e) = bucket.create(&key, Body::File(file.path())) {
            let words = format!("objects above 80 MiB cannot be sent: {e}");
            self.note(WHAT, Verdict::Bad, words);
            return Ok(true);
        }
        if self.bucket.get(&key)? != bytes {
            self.note(
                WHAT,
                Verdict::Bad,
                "the parts were not put together as they were sent",
            );
            return Ok(false);
        }
        let taken = self.made[0].clone();
        match bucket.create(&taken, Body::File(file.path())) {
            Err(BucketError::AlreadyExists { .. }) => {
                self.note(
                    WHAT,
                    Verdict::Good,
                    "parts are put together, and overwrite nothing",
                );
                Ok(true)
            }
            Ok(()) => {
                let words = "an object was overwritten by an upload in parts: objects above 80 MiB \
                    have random names, so that this does no harm";
                self.note(WHAT, Verdict::Doubtful, words);
                Ok(true)
            }
            Err(e) => Err(e.into()),
        }
    }

    fn clean_up(&self, output: &mut Output) {
        for key in &self.made {
            if let Err(e) = self.bucket.delete(key) {
                output.warning(format_args!(
                    "the object {key} of the probe is left in the bucket: {e}"
                ));
            }
        }
    }
}

/// The median time of a request, tried [`SAMPLES`] times.
fn median(mut request: impl FnMut(usize) -> BucketResult<()>) -> Result<Duration> {
    let mut times = Vec::with_capacity(SAMPLES);
    for n in 0..SAMPLES {
        let start = Instant::now();
        request(n)?;
        times.push(start.elapsed());
    }
    times.sort();
    Ok(times[SAMPLES / 2])
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// A file that does not compress, and its bytes.
fn large_file() -> Result<(tempfile::NamedTempFile, Vec<u8>)> {
    let mut bytes = vec![0; LARGE];
    let mut noise = blake3::Hasher::new();
    noise.update(System.attempt().as_bytes());
    noise.finalize_xof().fill(&mut bytes);
    let unusable = || "a temporary file could not be written".to_owned();
    let mut file = tempfile::NamedTempFile::new().context(unusable)?;
    file.write_all(&bytes).context(unusable)?;
    Ok((file, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cbfs_core::bucket::FileBucket;
    use cbfs_core::bucket::ObjectInfo;

    fn probe(bucket: Arc<dyn Bucket>) -> Probe {
        Probe {
            url: bucket.url().clone(),
            bucket,
            name: "cbfs-probe-test".to_owned(),
            made: Vec::new(),
            checks: Vec::new(),
            measures: Measures::default(),
        }
    }

    fn silent() -> Output {
        Output::to(Box::new(std::io::sink()), Box::new(std::io::sink()), false)
    }

    #[test]
    fn a_directory_is_good_for_everything_and_is_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let bucket = Arc::new(FileBucket::open(dir.path(), false).unwrap());
        let mut probe = probe(bucket);
        assert_eq!(
            probe.all(&Interrupt::default(), &mut silent()).unwrap(),
            GoodFor::MastersAndSlaves
        );
        let bad = probe
            .checks
            .iter()
            .find(|c| matches!(c.verdict, Verdict::Bad | Verdict::Doubtful));
        assert!(bad.is_none(), "{bad:?}");
        probe.clean_up(&mut silent());
        assert_eq!(probe.bucket.list("").unwrap(), []);
    }

    #[test]
    fn a_directory_that_may_be_read_only_is_good_for_slaves() {
        let dir = tempfile::tempdir().unwrap();
        FileBucket::open(dir.path(), false).unwrap();
        let mut probe = probe(Arc::new(FileBucket::open(dir.path(), true).unwrap()));
        assert_eq!(
            probe.all(&Interrupt::default(), &mut silent()).unwrap(),
            GoodFor::Slaves
        );
    }

    /// A store that ignores the condition.
    #[derive(Debug)]
    struct Careless(FileBucket);

    impl Bucket for Careless {
        fn url(&self) -> &BucketUrl {
            self.0.url()
        }
        fn create(&self, key: &Key, body: Body<'_>) -> BucketResult<()> {
            match body {
                Body::Bytes(bytes) => self.0.replace(key, bytes),
                Body::File(_) => self.0.create(key, body),
            }
        }
        fn replace(&self, key: &Key, body: &[u8]) -> BucketResult<()> {
            self.0.replace(key, body)
        }
        fn get(&self, key: &Key) -> BucketResult<Vec<u8>> {
            self.0.get(key)
        }
        fn get_range(&self, key: &Key, offset: u64, len: u64) -> BucketResult<Vec<u8>> {
            self.0.get_range(key, offset, len)
        }
        fn head(&self, key: &Key) -> BucketResult<Option<ObjectInfo>> {
            self.0.head(key)
        }
        fn list(&self, prefix: &str) -> BucketResult<Vec<ObjectInfo>> {
            self.0.list(prefix)
        }
        fn list_dir(&self, prefix: &str) -> BucketResult<Vec<ObjectInfo>> {
            self.0.list_dir(prefix)
        }
        fn delete(&self, key: &Key) -> BucketResult<()> {
            self.0.delete(key)
        }
    }

    #[test]
    fn a_store_that_overwrites_is_good_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let careless = Careless(FileBucket::open(dir.path(), false).unwrap());
        let mut probe = probe(Arc::new(careless));
        assert_eq!(
            probe.all(&Interrupt::default(), &mut silent()).unwrap(),
            GoodFor::Nothing
        );
        let check = probe
            .checks
            .iter()
            .find(|c| c.what == "create-only")
            .unwrap();
        assert_eq!(check.verdict, Verdict::Bad);
    }
}
