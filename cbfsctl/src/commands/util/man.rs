//! `cbfsctl util man`.

use crate::commands::Context;
use crate::manual;
use crate::output::Outcome;
use cbfs_core::{Error, ErrorKind};

/// Print a man page, as `man` reads it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  cbfsctl util man cbfsctl-snapshot-create | man -l -")]
pub(crate) struct Args {
    /// The page: cbfsctl-snapshot-create, cbfsd, ...
    #[arg(value_name = "PAGE", default_value = "cbfsctl")]
    page: String,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let pages = manual::pages()?;
    let page = pages.iter().find(|(file, _)| {
        let name = file.rsplit_once('.').map(|(name, _)| name);
        **file == args.page || name == Some(&args.page)
    });
    let (_, text) = page.ok_or_else(|| {
        let names: Vec<&str> = pages.keys().map(String::as_str).collect();
        Error::new(
            ErrorKind::NotFound,
            format!("there is no page {:?}", args.page),
        )
        .hint(format!("the pages are {}", names.join(", ")))
    })?;
    context.output.line(text.trim_end())
}
