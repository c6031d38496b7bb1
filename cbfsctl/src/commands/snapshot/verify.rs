//! `cbfsctl snapshot verify`.

use super::super::Context;
use crate::bucket_option::BucketOption;
use crate::output::{Outcome, Output, printable};
use crate::path_text::path_text;
use crate::quantities::{bytes, plural};
use crate::snapshot_in_bucket::{Wanted, Work};
use cbfs_core::catalog;
use cbfs_core::cloud_snapshot::Scratch;
use cbfs_core::format::epoch::BaseSnapshot;
use cbfs_core::handle::SnapshotSelector;
use cbfs_core::ids::SnapshotNumber;
use cbfs_core::names::JsonPath;
use cbfs_core::verify::{Finding, Problem, Report, Verification, verify};
use cbfs_core::{Error, Result};
use serde::Serialize;

/// Files that the text shows of a finding; --json has all.
const SHOWN: usize = 20;

/// Check that a snapshot in the bucket is whole; exit 14 when it is not.
///
/// Every object that the snapshot needs must be there, be what was written (size and BLAKE3) and
/// fit the others. The contents of the data tarballs are read with --deep only. What is found
/// names the object and the files it holds. Changes nothing and needs no daemon when the bucket is
/// given.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  cbfsctl snapshot verify home@12\n  \
    cbfsctl snapshot verify home@latest --deep --bucket file:///srv/bucket\n  \
    cbfsctl snapshot verify home@12 --json | jq -r '.findings[].object'\n\n\
    Exit codes: 0 whole, 14 damage found, 5 the bucket cannot be read, 10 no such snapshot.")]
pub(crate) struct Args {
    /// The snapshot: FS@12, FS@NAME or FS@latest.
    #[arg(value_name = "FS@SNAP")]
    snapshot: String,
    /// Read the data tarballs too: every section's hash and the tar structure.
    #[arg(long)]
    deep: bool,
    #[command(flatten)]
    bucket: BucketOption,
}

/// The answer as JSON.
#[derive(Serialize)]
struct Shown<'a> {
    fs: String,
    #[serde(flatten)]
    snapshot: BaseSnapshot,
    whole: bool,
    deep: bool,
    objects: u64,
    bytes: u64,
    sections: u64,
    extents: u64,
    findings: Vec<ShownFinding<'a>>,
}

#[derive(Serialize)]
struct ShownFinding<'a> {
    object: &'a str,
    problem: Problem,
    message: &'a str,
    holds: &'a str,
    files: Vec<JsonPath>,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let wanted = Wanted::find(&args.snapshot, &args.bucket, context)?;
    let id = identify(&wanted)?;
    let scratch = Scratch::new()?;
    let report = Work::run(context, 0, |work| {
        verify(Verification {
            bucket: &*wanted.bucket,
            fs: &wanted.fs,
            id,
            deep: args.deep,
            scratch: &scratch,
            progress: &mut |p| work.tell(p.done, p.total, p.object),
        })
    })?;
    let output = &mut context.output;
    if output.is_json() {
        output.json(&Shown {
            fs: wanted.fs.to_string(),
            snapshot: id,
            whole: report.findings.is_empty(),
            deep: args.deep,
            objects: report.objects,
            bytes: report.bytes,
            sections: report.sections,
            extents: report.extents,
            findings: report.findings.iter().map(as_json).collect(),
        })?;
    } else {
        show(&report, id.number, args.deep, output)?;
    }
    if report.findings.is_empty() {
        return Ok(());
    }
    let text = format!(
        "snapshot {} of {} is damaged: {}",
        id.number,
        wanted.fs,
        plural(report.findings.len() as u64, "finding", "findings")
    );
    Err(Error::damage(text)
        .hint(
            "restore the objects from a copy of the bucket; a lost TOC or layer can be made anew \
             with `cbfsctl index rebuild`",
        )
        .into())
}

/// Which snapshot is meant, also where its manifest cannot be read. One that is gone although a
/// later snapshot builds on it counts too.
fn identify(wanted: &Wanted) -> Result<BaseSnapshot> {
    let (bucket, fs) = (&*wanted.bucket, &wanted.fs);
    if let Some(id) = catalog::find_snapshot_id(bucket, fs, &wanted.snapshot)? {
        return Ok(id);
    }
    if let SnapshotSelector::Number(number) = wanted.snapshot {
        for listed in catalog::all_manifests(bucket, fs)? {
            let parent = listed.manifest.ok().and_then(|m| m.parent);
            if let Some(id) = parent.filter(|p| p.number == number && !listed.diverged) {
                return Ok(id);
            }
        }
    }
    // For its words.
    match catalog::find_snapshot(bucket, fs, &wanted.snapshot) {
        Ok(manifest) => Ok(manifest.id()),
        Err(e) => Err(e),
    }
}

fn as_json(finding: &Finding) -> ShownFinding<'_> {
    ShownFinding {
        object: &finding.object,
        problem: finding.problem,
        message: &finding.message,
        holds: &finding.holds,
        files: finding.paths.iter().map(|p| JsonPath::new(p)).collect(),
    }
}

fn show(report: &Report, number: SnapshotNumber, deep: bool, output: &mut Output) -> Outcome {
    for finding in &report.findings {
        let style = output.style();
        output.line(format_args!(
            "{} {}",
            style.bad("✖"),
            style.bold(printable(&finding.object))
        ))?;
        output.line(format_args!("    {}", printable(&finding.message)))?;
        output.line(format_args!("    holds {}", finding.holds))?;
        for path in finding.paths.iter().take(SHOWN) {
            output.line(format_args!("      {}", path_text(path)))?;
        }
        if let Some(more) = finding.paths.len().checked_sub(SHOWN).filter(|n| *n > 0) {
            let more = plural(more as u64, "more file", "more files");
            output.line(format_args!("      and {more}; --json lists all"))?;
        }
    }
    let checked = format!(
        "{} checked, {} read",
        plural(report.objects, "object", "objects"),
        bytes(report.bytes)
    );
    let contents = match deep {
        true => format!(", {}", plural(report.sections, "section", "sections")),
        false => "; contents were not read (--deep reads them)".to_owned(),
    };
    if report.findings.is_empty() {
        let good = output.style().good("✔");
        output.line(format_args!(
            "{good} snapshot {number} is whole: {checked}{contents}"
        ))
    } else {
        output.line(format_args!("{checked}{contents}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_tells_object_reason_and_files() {
        let finding = Finding {
            object: "home-uuid/s/1/0001.tar.zst".into(),
            problem: Problem::Missing,
            message: "it is missing".into(),
            holds: "contents written in snapshot 1".into(),
            paths: vec![b"a".to_vec(), b"b\n\xff".to_vec()],
        };
        let json = serde_json::to_string(&as_json(&finding));
        insta::assert_snapshot!(json.unwrap(), @r#"{"object":"home-uuid/s/1/0001.tar.zst","problem":"missing","message":"it is missing","holds":"contents written in snapshot 1","files":[{"path":"a"},{"path_hex":"620aff"}]}"#);
    }
}
