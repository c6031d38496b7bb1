//! What the command line says.

use crate::glyphs::{ASCII, UNICODE};
use crate::theme::Theme;
use crate::view::Look;
use cbfs_core::{Result, environment};
use std::env;
use std::path::PathBuf;

/// Watch daemons live in the terminal, and act on what is seen.
///
/// Panes: file systems and instances, snapshots with their progress, KVS and proxy cache, throughput, epochs, events. `?`
/// shows all keys. State is told by sign and word, never by colour alone; NO_COLOR is heeded. What cannot be undone asks
/// for a word to be typed.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Arguments {
    /// Colours: `colour`, `high-contrast`, `monochrome`, or a theme file [default:
    /// $XDG_CONFIG_HOME/cbfs/tui.toml where it exists, else `colour`].
    #[arg(long, value_name = "NAME|FILE")]
    pub theme: Option<String>,
    /// Draw with ASCII only, as in a terminal without UTF-8.
    #[arg(long)]
    pub ascii: bool,
    /// Leave the mouse to the terminal.
    #[arg(long)]
    pub no_mouse: bool,
}

impl Arguments {
    /// How everything is to look.
    ///
    /// # Errors
    /// [`cbfs_core::ErrorKind::Usage`] for a theme that cannot be understood; those of reading it.
    pub fn look(&self) -> Result<Look> {
        let file = match &self.theme {
            Some(name) => match Theme::named(name) {
                Some(theme) => return Ok(self.with(theme, false)),
                None => Some(PathBuf::from(name)),
            },
            None => default_file().filter(|path| path.exists()),
        };
        if env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty()) && self.theme.is_none() {
            let ascii = file
                .map(|f| Theme::read(&f))
                .transpose()?
                .is_some_and(|f| f.ascii);
            return Ok(self.with(Theme::MONOCHROME, ascii));
        }
        match file {
            Some(file) => {
                let read = Theme::read(&file)?;
                Ok(self.with(read.theme, read.ascii))
            }
            None => Ok(self.with(Theme::COLOUR, false)),
        }
    }

    fn with(&self, theme: Theme, ascii: bool) -> Look {
        let glyphs = if self.ascii || ascii || !is_utf8() {
            ASCII
        } else {
            UNICODE
        };
        Look { theme, glyphs }
    }
}

/// The sockets to watch: those given, else this node's.
pub fn sockets(given: &[PathBuf]) -> Vec<PathBuf> {
    if given.is_empty() {
        return vec![environment::socket()];
    }
    let mut sockets = given.to_vec();
    sockets.dedup();
    sockets
}

fn default_file() -> Option<PathBuf> {
    let set = |name| {
        env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let config = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")))?;
    Some(config.join("cbfs/tui.toml"))
}

/// What locale(7) says: the first of these that is set.
fn is_utf8() -> bool {
    let set = |name| env::var(name).ok().filter(|v| !v.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set);
    locale.is_some_and(|l| {
        let l = l.to_lowercase();
        l.contains("utf-8") || l.contains("utf8")
    })
}
