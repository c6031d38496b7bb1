//! `cbfsctl util dump`: what is generated and checked in, written anew.

use crate::commands::Context;
use crate::completion;
use crate::manual;
use crate::output::Outcome;
use cbfs_core::Result;
use cbfs_core::error::Context as _;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The directories that hold nothing but what is generated.
const DIRECTORIES: [&str; 2] = ["completions", "man"];

/// Write completions/ and man/ anew.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  cargo run -p cbfsctl -- util dump")]
pub(crate) struct Args {
    /// The directory that holds completions/ and man/.
    #[arg(long, value_name = "DIR", default_value = ".")]
    to: PathBuf,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let files = generated()?;
    for (name, text) in &files {
        let path = args.to.join(name);
        let about = || format!("{} could not be written", path.display());
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).context(about)?;
        }
        if fs::read_to_string(&path).ok().as_deref() != Some(text) {
            fs::write(&path, text).context(about)?;
            context.output.message(format_args!("wrote {name}"));
        }
    }
    for name in present(&args.to)? {
        if !files.contains_key(&name) {
            let path = args.to.join(&name);
            fs::remove_file(&path).context(|| format!("{} stays", path.display()))?;
            context.output.message(format_args!("removed {name}"));
        }
    }
    Ok(())
}

/// What is generated, by its path in the repository.
fn generated() -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for (shell, file) in completion::SHELLS {
        let text = completion::script(shell)?.trim_end().to_owned() + "\n";
        files.insert(format!("completions/{file}"), text);
    }
    for (file, text) in manual::pages()? {
        files.insert(format!("man/{file}"), text);
    }
    Ok(files)
}

/// The files in these directories, by their paths below `root`.
fn present(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for directory in DIRECTORIES {
        let dir = root.join(directory);
        let about = || format!("{} could not be read", dir.display());
        for entry in fs::read_dir(&dir).context(about)? {
            let name = entry.context(about)?.file_name();
            names.push(format!("{directory}/{}", name.to_string_lossy()));
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_and_man_pages_are_those_of_this_command_line() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let files = generated().unwrap();
        let stale = files
            .iter()
            .filter(|(name, text)| fs::read_to_string(root.join(name)).ok().as_ref() != Some(*text))
            .map(|(name, _)| name.clone());
        let orphans = present(&root).unwrap().into_iter();
        let orphans = orphans.filter(|name| !files.contains_key(name));
        let stale: Vec<String> = stale.chain(orphans).collect();
        assert!(
            stale.is_empty(),
            "stale: {stale:?}\nrenew them: cargo run -p cbfsctl -- util dump (in the repository), and commit"
        );
    }
}
