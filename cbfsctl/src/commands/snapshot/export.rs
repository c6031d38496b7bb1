//! `cbfsctl snapshot export`.

use super::super::Context;
use crate::bucket_option::BucketOption;
use crate::output::{Outcome, Stop, printable};
use crate::quantities::{bytes, plural};
use crate::snapshot_in_bucket::{Wanted, Work};
use cbfs_core::cloud_snapshot::{CloudSnapshot, Scratch};
use cbfs_core::error::Context as _;
use cbfs_core::export::{DirectorySink, Done, Sink, TarSink, walk};
use cbfs_core::{Error, ErrorKind, Result};
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes written at once.
const BUFFER: usize = 1 << 20;

/// Write a whole snapshot as a plain tar, to stdout or a file, or as files below a directory.
///
/// The tar is POSIX (pax): extended attributes, ACLs, hard links, holes and nanoseconds are in it.
/// GNU tar wants `--xattrs --xattrs-include='*'` to set all attributes. Sockets are left out of a
/// tar. Needs no daemon when the bucket is given; contents are verified.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cbfsctl snapshot export home@12 > home.tar\n  \
    cbfsctl snapshot export home@latest | ssh other tar -xp -C /srv/home\n  \
    cbfsctl snapshot export home@monday --to /srv/restored --bucket file:///srv/bucket\n  \
    cbfsctl snapshot export home@12 -o home-12.tar --json"
)]
pub(crate) struct Args {
    /// The snapshot: FS@12, FS@NAME or FS@latest.
    #[arg(value_name = "FS@SNAP")]
    snapshot: String,
    /// Write files below this directory, which must be empty or not exist.
    #[arg(long, value_name = "DIR", conflicts_with = "output")]
    to: Option<PathBuf>,
    /// Write the tar to this file, which must not exist; it appears when it is complete.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    bucket: BucketOption,
}

/// What was done, as JSON (not on stdout's tar).
#[derive(Serialize)]
struct Shown {
    fs: String,
    number: u64,
    names: u64,
    bytes: u64,
    /// Sockets that are not in the tar.
    #[serde(skip_serializing_if = "Option::is_none")]
    sockets_left_out: Option<u64>,
    /// What the system did not allow an unprivileged user.
    #[serde(skip_serializing_if = "Option::is_none")]
    owners_not_set: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    xattrs_not_set: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    devices_not_made: Option<u64>,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let to_stdout = args.to.is_none() && args.output.is_none();
    if to_stdout && std::io::stdout().is_terminal() {
        let error = Error::new(ErrorKind::Usage, "a tar is not written to a terminal");
        return Err(error
            .hint("redirect it (`> FILE`, `| tar -x`), or give -o FILE or --to DIR")
            .into());
    }
    let wanted = Wanted::find(&args.snapshot, &args.bucket, context)?;
    let manifest = wanted.manifest()?;
    let mut shown = Shown {
        fs: wanted.fs.to_string(),
        number: manifest.number.0,
        names: 0,
        bytes: 0,
        sockets_left_out: None,
        owners_not_set: None,
        xattrs_not_set: None,
        devices_not_made: None,
    };
    let mut destination = match (&args.to, &args.output) {
        (Some(dir), _) => Destination::Directory(DirectorySink::new(dir)?),
        (None, Some(file)) => Destination::File(Target::at(file)?),
        (None, None) => {
            let stdout = std::io::stdout().as_fd().try_clone_to_owned();
            let stdout = stdout.context(|| "stdout could not be used".to_owned())?;
            Destination::File(Target::Stream(File::from(stdout)))
        }
    };
    let scratch = Arc::new(Scratch::new()?);
    let total = manifest.totals.logical_bytes;
    let exported = Work::run(context, total, |work| {
        let bucket = Arc::clone(&wanted.bucket);
        let snapshot = CloudSnapshot::open(bucket, manifest.clone(), Arc::clone(&scratch))?;
        let mut export = |sink: &mut dyn Sink| -> Result<Done> {
            walk(&snapshot, sink, &mut |done| {
                work.tell(done.bytes, total.max(done.bytes), "")
            })
        };
        match &mut destination {
            Destination::Directory(sink) => {
                let done = export(sink)?;
                (shown.names, shown.bytes) = (done.names, done.bytes);
                Ok(None)
            }
            Destination::File(target) => {
                let mut sink = TarSink::new(BufWriter::with_capacity(BUFFER, target.file()));
                let done = export(&mut sink)?;
                (shown.names, shown.bytes) = (done.names, done.bytes);
                Ok(Some(sink.finish()?.1))
            }
        }
    });
    if let (Err(Stop::Interrupted), Some(dir)) = (&exported, &args.to) {
        let dir = printable(&dir.to_string_lossy());
        let text = format_args!("interrupted: {dir} holds a part of the snapshot only");
        context.output.message(text);
    }
    let sockets = exported?;
    let mut warnings = Vec::new();
    if let Some(sockets) = sockets {
        shown.sockets_left_out = Some(sockets);
        if sockets > 0 {
            let sockets = plural(sockets, "socket is", "sockets are");
            warnings.push(format!(
                "{sockets} not in the tar, which has no such members"
            ));
        }
    }
    match destination {
        Destination::File(target) => target.keep()?,
        Destination::Directory(sink) => {
            let refused = sink.refused();
            shown.owners_not_set = Some(refused.owners);
            shown.xattrs_not_set = Some(refused.xattrs);
            shown.devices_not_made = Some(refused.devices);
            if let Some(first) = &refused.first {
                warnings.push(format!(
                    "not allowed: {}, {}, {}; first: {}",
                    plural(refused.owners, "owner", "owners"),
                    plural(refused.xattrs, "extended attribute", "extended attributes"),
                    plural(refused.devices, "device", "devices"),
                    printable(first)
                ));
            }
        }
    }
    let output = &mut context.output;
    for warning in warnings {
        output.warning(warning);
    }
    if output.is_json() && !to_stdout {
        return output.json(&shown);
    }
    output.message(format_args!(
        "snapshot {} of {}: {}, {}",
        shown.number,
        shown.fs,
        plural(shown.names, "name", "names"),
        bytes(shown.bytes)
    ));
    Ok(())
}

/// Where it goes.
enum Destination {
    Directory(DirectorySink),
    File(Target),
}

/// A tar file.
enum Target {
    /// A file that is renamed to its name once it is whole.
    New(tempfile::NamedTempFile, PathBuf),
    /// Stdout, a pipe or a device.
    Stream(File),
}

impl Target {
    fn at(path: &Path) -> Result<Target> {
        let failed = || format!("{} could not be created", path.display());
        match path.metadata() {
            Ok(found) if found.is_file() || found.is_dir() => {
                let text = format!("{} exists already", path.display());
                Err(Error::new(ErrorKind::Conflict, text).hint("remove it, or name another file"))
            }
            Ok(_) => {
                let file = OpenOptions::new().write(true).open(path);
                Ok(Target::Stream(file.context(failed)?))
            }
            Err(_) => {
                let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
                let mut builder = tempfile::Builder::new();
                builder.prefix(".cbfs-export-");
                let file = builder.tempfile_in(dir.unwrap_or(Path::new(".")));
                Ok(Target::New(file.context(failed)?, path.to_owned()))
            }
        }
    }

    fn file(&mut self) -> &mut dyn Write {
        match self {
            Target::New(file, _) => file.as_file_mut(),
            Target::Stream(file) => file,
        }
    }

    /// It is whole.
    fn keep(self) -> Result<()> {
        let Target::New(file, path) = self else {
            return Ok(());
        };
        let failed = || format!("{} could not be written", path.display());
        file.as_file().sync_all().context(failed)?;
        file.persist_noclobber(&path)
            .map_err(|e| e.error)
            .context(failed)?;
        Ok(())
    }
}
