//! Asking before something is destroyed.

use crate::output::{Outcome, Output};
use cbfs_core::handle::Handle;
use cbfs_core::{Error, ErrorKind};
use std::io::IsTerminal;

/// `--confirm HANDLE` and `--dry-run`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ConfirmOption {
    /// Do it without asking: the full handle of the file system, so that a script cannot hit the
    /// wrong one. Needed off a terminal.
    #[arg(long, value_name = "HANDLE")]
    confirm: Option<String>,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

impl ConfirmOption {
    /// Go on only if a person or the command line says so. `what` is the question: "delete … ?".
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] off a terminal without `--confirm`, or when that names another file system;
    /// [`ErrorKind::Failed`] when the person did not say yes.
    pub(crate) fn ask(&self, what: &str, fs: &Handle, output: &mut Output) -> Outcome {
        if let Some(given) = &self.confirm {
            if *given == fs.to_string() {
                return Ok(());
            }
            let text = format!("--confirm names {given:?}, this is {fs}");
            return Err(Error::new(ErrorKind::Usage, text)
                .hint("nothing was done; give the full handle of the file system that is meant")
                .into());
        }
        if !std::io::stdin().is_terminal() || !output.err_is_terminal() {
            let text = format!("{what}: this needs a confirmation");
            return Err(Error::new(ErrorKind::Usage, text)
                .hint(format!(
                    "add --confirm {fs}, or --dry-run to see what would be done"
                ))
                .into());
        }
        output.ask(format_args!("{what}? [y/N] "));
        let mut answer = String::new();
        let read = std::io::stdin().read_line(&mut answer);
        if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
            return Ok(());
        }
        Err(Error::failed("not confirmed")
            .hint("nothing was done")
            .into())
    }
}
