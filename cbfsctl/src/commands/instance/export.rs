//! `cbfsctl instance export`.

use super::super::Context;
use crate::interrupt::{Interrupt, Unheard};
use crate::output::{Outcome, printable};
use crate::target;
use cbfs_core::api::UnpublishedInfo;
use cbfs_core::error::Context as _;
use cbfs_core::{Error, ErrorKind};
use serde::Serialize;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::PathBuf;

/// Save what a fenced master has that no complete snapshot has, as a tar.
///
/// Changed and new files and directories stand in it under their paths, whole; `.cbfs/removed.jsonl` in it lists the names that
/// were removed. To bring all of it into the file system as it is now, unpack it there and look through that list.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cbfsctl instance export home -o home-kept.tar\n  \
    cbfsctl instance export home | tar -t\n  tar -xOf home-kept.tar .cbfs/removed.jsonl"
)]
pub(crate) struct Args {
    /// The file system (TAG, UUID prefix or full handle) or its mount point.
    #[arg(value_name = "FS|DIR")]
    instance: String,
    /// Write the tar to this file, which must not exist.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    #[serde(flatten)]
    what: &'a UnpublishedInfo,
}

/// Ends with an error once Ctrl-C was pressed.
struct Interruptible<'a> {
    out: BufWriter<File>,
    interrupt: &'a Interrupt,
}

impl Write for Interruptible<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.interrupt.check() {
            Ok(()) => self.out.write(bytes),
            Err(_) => Err(io::Error::other("interrupted")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let client = context.client()?;
    let instance = target::choose_instance(&args.instance, client.instances()?)?;
    if args.output.is_none() && std::io::stdout().is_terminal() {
        let error = Error::new(ErrorKind::Usage, "a tar is not written to a terminal");
        return Err(error
            .hint("redirect it (`> FILE`, `| tar -t`), or give -o FILE")
            .into());
    }
    let what = client.unpublished(&instance.id)?;
    match &args.output {
        Some(path) => {
            let describe = || format!("{} could not be written", path.display());
            let parting = "interrupted again: half a tar stays behind";
            let interrupt = Interrupt::install(parting, Unheard::Wait)?;
            let file = File::create_new(path).context(describe)?;
            let mut out = Interruptible {
                out: BufWriter::with_capacity(1 << 20, file),
                interrupt: &interrupt,
            };
            let saved = interrupt.during(|| {
                client.export_unpublished(&instance.id, &mut out)?;
                out.flush().context(describe)?;
                out.out.get_ref().sync_all().context(describe)
            });
            if let Err(stop) = saved {
                // Half a tar is worse than none.
                if let Err(e) = std::fs::remove_file(path) {
                    context
                        .output
                        .message(format_args!("{}: {e}", printable(&path.to_string_lossy())));
                }
                return Err(stop);
            }
            if context.output.is_json() {
                return context.output.json(&Shown {
                    id: &instance.id,
                    what: &what,
                });
            }
        }
        None => client.export_unpublished(&instance.id, &mut std::io::stdout().lock())?,
    }
    context.output.message(format_args!(
        "{}: {} changed names are in the tar, {} removed ones in its .cbfs/removed.jsonl",
        instance.id, what.changed, what.removed
    ));
    Ok(())
}
