//! cbfsd.toml(5), from its chapter in `docs/configuration.md`: the only place that describes the keys.

use cbfs_core::error::Context;
use cbfs_core::{Error, Result};
use clap_mangen::roff::{Inline, Roff, bold, roman};

const DOCUMENT: &str = include_str!("../../../docs/configuration.md");
const HEADING: &str = "## `cbfsd.toml`\n";

/// The page.
///
/// # Errors
/// When the document has no such chapter.
pub(super) fn page() -> Result<String> {
    let chapter = DOCUMENT
        .split_once(HEADING)
        .map(|(_, rest)| rest.split("\n## ").next().unwrap_or(rest))
        .ok_or_else(|| Error::failed("docs/configuration.md has no chapter on cbfsd.toml"))?;
    let mut roff = Roff::new();
    let source = format!("CBFS {}", env!("CARGO_PKG_VERSION"));
    roff.control("TH", ["CBFSD.TOML", "5", "", source.as_str(), "CBFS"]);
    roff.control("SH", ["NAME"]);
    roff.text([roman(
        "cbfsd.toml - settings of the CBFS daemon and of cbfsctl",
    )]);
    roff.control("SH", ["DESCRIPTION"]);
    let mut titles: Vec<&str> = Vec::new();
    for block in chapter.trim().split("\n\n") {
        if block.starts_with('|') {
            for (at, row) in block.lines().enumerate() {
                let cells = row.trim_matches('|').split('|').map(str::trim);
                let cells: Vec<&str> = cells.collect();
                match at {
                    0 => titles = cells,
                    1 => {}
                    _ => key(&mut roff, &titles, &cells),
                }
            }
        } else {
            roff.control("PP", []);
            roff.text(inlines(&block.replace('\n', " ")));
        }
    }
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman("cbfsd(8), cbfsctl(1)")]);
    let mut out = Vec::new();
    roff.to_writer(&mut out)
        .context(|| "the man page of cbfsd.toml could not be made".to_owned())?;
    String::from_utf8(out).context(|| "the man page of cbfsd.toml is not UTF-8".to_owned())
}

/// A row: the key, its meaning, and what stands in the other columns under their titles.
fn key(roff: &mut Roff, titles: &[&str], cells: &[&str]) {
    let (Some(name), Some(meaning)) = (cells.first(), cells.get(1)) else {
        return;
    };
    roff.control("TP", []);
    roff.text(inlines(name));
    let mut text = (*meaning).to_owned();
    for (title, cell) in titles.iter().zip(cells).skip(2) {
        if !cell.is_empty() {
            text += &format!("; {title}: {cell}");
        }
    }
    roff.text(inlines(&text));
}

/// Markdown of one paragraph: `code` is bold, a link is its text.
fn inlines(text: &str) -> Vec<Inline> {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, link)) = rest.split_once('[') {
        plain += before;
        match link
            .split_once("](")
            .and_then(|(label, tail)| Some((label, tail.split_once(')')?.1)))
        {
            Some((label, tail)) if !label.contains(['`', '"', ']']) => {
                plain += label;
                rest = tail;
            }
            _ => {
                plain.push('[');
                rest = link;
            }
        }
    }
    plain += rest;
    let parts = plain.split('`').enumerate();
    let parts = parts.map(|(at, part)| if at % 2 == 1 { bold(part) } else { roman(part) });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_meaning_and_default() {
        let page = page().unwrap();
        for words in [
            "proxy_limit",
            "secret_access_key_file",
            "default: ",
            "SIGHUP",
        ] {
            assert!(page.contains(words), "{words}");
        }
        assert!(!page.contains("](") && !page.contains('`'), "{page}");
    }
}
