//! `cbfsctl tui`.

use super::Context;
use crate::output::Outcome;
use std::ffi::OsString;
use std::path::Path;

/// The other name of this program under which a package installs it.
pub(crate) const NAME: &str = "cbfs-tui";

/// Watch daemons live in the terminal, and act on what is seen.
///
/// Panes: file systems and instances, snapshots with their progress, KVS and proxy cache, throughput, epochs, events. `?`
/// shows all keys. State is told by sign and word, never by colour alone. What cannot be undone asks for a word to be
/// typed. It waits for a daemon that is away. See docs/tui.md.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  cbfsctl tui\n  \
    cbfsctl tui --socket /run/cbfs/cbfsd.sock --socket /tmp/second.sock\n  \
    cbfsctl tui --theme high-contrast\n  \
    NO_COLOR=1 cbfsctl tui --ascii")]
pub(crate) struct Args {
    #[command(flatten)]
    arguments: cbfs_tui::Arguments,
}

/// `cbfs-tui …` is `cbfsctl tui …`.
pub(crate) fn as_called(mut args: Vec<OsString>) -> Vec<OsString> {
    let name = args.first().map(Path::new).and_then(Path::file_name);
    if name.is_some_and(|name| name == NAME) {
        args.insert(1, "tui".into());
    }
    args
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    cbfs_tui::run(&context.sockets, &args.arguments)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_live_view_by_its_name() {
        let called = |line: &str| {
            let args = as_called(line.split(' ').map(OsString::from).collect());
            args.join(" ".as_ref()).into_string().unwrap()
        };
        assert_eq!(
            called("/usr/bin/cbfs-tui --ascii"),
            "/usr/bin/cbfs-tui tui --ascii"
        );
        assert_eq!(called("cbfs-tui"), "cbfs-tui tui");
        assert_eq!(called("cbfsctl status"), "cbfsctl status");
    }
}
