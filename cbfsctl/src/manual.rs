//! Man pages, made from the command line itself: what `--help` says and what `man` says is the same
//! text. Section 1 has each command, section 8 the daemon and the helper of
//! mount(8), section 5 the daemon's settings, from their chapter in `docs/configuration.md`.

mod settings;

use crate::cli::Cli;
use crate::commands::{LIVE_VIEW, daemon_command};
use crate::mount_helper;
use cbfs_core::Result;
use cbfs_core::error::Context;
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};
use std::collections::BTreeMap;
use std::io;

/// All pages by file name.
pub(crate) fn pages() -> Result<BTreeMap<String, String>> {
    let mut pages = BTreeMap::new();
    let mut root = Cli::command();
    root.build();
    add(&mut pages, &root, "1")?;
    for helper in [daemon_command(), mount_helper::command()] {
        add(&mut pages, &helper, "8")?;
    }
    pages.insert("cbfsd.toml.5".to_owned(), settings::page()?);
    // Another name of the same.
    let other = ".so man1/cbfsctl-tui.1\n".to_owned();
    pages.insert(format!("{LIVE_VIEW}.1"), other);
    Ok(pages)
}

fn add(pages: &mut BTreeMap<String, String>, command: &Command, section: &str) -> Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let page = page(command, name, section)
        .context(|| format!("the man page of {name} could not be made"))?;
    pages.insert(format!("{name}.{section}"), page);
    for sub in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        add(pages, sub, section)?;
    }
    Ok(())
}

/// One page. clap_mangen's parts, but examples and exit codes keep their lines.
fn page(command: &Command, name: &str, section: &str) -> io::Result<String> {
    let after = command
        .get_after_long_help()
        .or(command.get_after_help())
        .map(ToString::to_string);
    let man = Man::new(command.clone())
        .title(name.to_uppercase())
        .section(section)
        .source(format!("CBFS {}", env!("CARGO_PKG_VERSION")))
        .manual("CBFS");
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    if command.get_arguments().any(|a| !a.is_hide_set()) {
        man.render_options_section(&mut out)?;
    }
    if command.get_subcommands().any(|c| !c.is_hide_set()) {
        man.render_subcommands_section(&mut out)?;
    }
    if let Some(text) = after {
        examples(&text).to_writer(&mut out)?;
    }
    see_also(command, name).to_writer(&mut out)?;
    String::from_utf8(out).map_err(io::Error::other)
}

fn examples(text: &str) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["EXAMPLES"]);
    // The heading stands above already.
    let text = text
        .strip_prefix("Examples:\n")
        .or(text.strip_prefix("Example:\n"))
        .unwrap_or(text);
    roff.control("nf", []);
    roff.text([roman(text)]);
    roff.control("fi", []);
    roff
}

fn see_also(command: &Command, name: &str) -> Roff {
    let mut others = Vec::new();
    if let Some((parent, _)) = name.rsplit_once('-') {
        others.push(format!("{parent}(1)"));
    }
    let subs = command.get_subcommands().filter(|c| !c.is_hide_set());
    others.extend(subs.map(|c| format!("{}(1)", c.get_display_name().unwrap_or(c.get_name()))));
    for page in ["cbfsctl(1)", "cbfsd(8)", "cbfsd.toml(5)", "mount.cbfs(8)"] {
        if !others.iter().any(|o| o == page) && !page.starts_with(&format!("{name}(")) {
            others.push(page.to_owned());
        }
    }
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman(others.join(", "))]);
    roff
}
