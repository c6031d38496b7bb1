//! Colours: three built-in themes, and a file that changes some of them. A theme never says anything that glyph
//! and word do not say as well.

use cbfs_core::error::Context;
use cbfs_core::{Error, ErrorKind, Result};
use ratatui::style::{Color, Modifier, Style};
use serde::Deserialize;
use std::path::Path;
use std::str::FromStr;

/// The styles of everything that is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Theme {
    /// Ordinary text.
    pub text: Style,
    /// What matters less.
    pub dim: Style,
    /// Frames of panes.
    pub border: Style,
    /// Frame and title of the pane that has the keys.
    pub focus: Style,
    /// Titles of the others.
    pub title: Style,
    /// The selected row where the keys go.
    pub selected: Style,
    /// The selected row of the other panes.
    pub marked: Style,
    /// What is well.
    pub ok: Style,
    /// What is at work.
    pub active: Style,
    /// What needs attention.
    pub warning: Style,
    /// What failed.
    pub bad: Style,
    /// Bars and sparklines.
    pub gauge: Style,
    /// Keys in the key bar and the help.
    pub key: Style,
}

const PLAIN: Style = Style::new();

impl Theme {
    /// The terminal's own sixteen colours.
    pub const COLOUR: Theme = Theme {
        text: PLAIN,
        dim: Style::new().fg(Color::DarkGray),
        border: Style::new().fg(Color::DarkGray),
        focus: Style::new().fg(Color::Cyan),
        title: PLAIN,
        selected: Style::new().fg(Color::Black).bg(Color::Cyan),
        marked: Style::new().add_modifier(Modifier::BOLD),
        ok: Style::new().fg(Color::Green),
        active: Style::new().fg(Color::Cyan),
        warning: Style::new().fg(Color::Yellow),
        bad: Style::new().fg(Color::LightRed),
        gauge: Style::new().fg(Color::LightBlue),
        key: Style::new().fg(Color::Cyan),
    };

    /// White on black, nothing dim.
    pub const HIGH_CONTRAST: Theme = Theme {
        text: Style::new().fg(Color::White),
        dim: Style::new().fg(Color::White),
        border: Style::new().fg(Color::White),
        focus: Style::new()
            .fg(Color::LightYellow)
            .add_modifier(Modifier::BOLD),
        title: Style::new().fg(Color::White).add_modifier(Modifier::BOLD),
        selected: Style::new()
            .fg(Color::Black)
            .bg(Color::LightYellow)
            .add_modifier(Modifier::BOLD),
        marked: Style::new()
            .fg(Color::White)
            .add_modifier(Modifier::UNDERLINED),
        ok: Style::new().fg(Color::LightGreen),
        active: Style::new().fg(Color::LightCyan),
        warning: Style::new()
            .fg(Color::LightYellow)
            .add_modifier(Modifier::BOLD),
        bad: Style::new()
            .fg(Color::LightRed)
            .add_modifier(Modifier::BOLD),
        gauge: Style::new().fg(Color::LightCyan),
        key: Style::new().fg(Color::LightYellow),
    };

    /// No colours at all.
    pub const MONOCHROME: Theme = Theme {
        text: PLAIN,
        dim: PLAIN,
        border: PLAIN,
        focus: Style::new().add_modifier(Modifier::BOLD),
        title: PLAIN,
        selected: Style::new().add_modifier(Modifier::REVERSED),
        marked: Style::new().add_modifier(Modifier::BOLD),
        ok: PLAIN,
        active: Style::new().add_modifier(Modifier::BOLD),
        warning: Style::new().add_modifier(Modifier::BOLD),
        bad: Style::new().add_modifier(Modifier::BOLD),
        gauge: PLAIN,
        key: Style::new().add_modifier(Modifier::BOLD),
    };

    /// A built-in one by its name.
    pub fn named(name: &str) -> Option<Theme> {
        match name {
            "colour" => Some(Theme::COLOUR),
            "high-contrast" => Some(Theme::HIGH_CONTRAST),
            "monochrome" => Some(Theme::MONOCHROME),
            _ => None,
        }
    }

    /// The theme that a file describes.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for an unknown key, theme or colour; the line is named.
    pub fn read(path: &Path) -> Result<ThemeFile> {
        let text = std::fs::read_to_string(path)
            .context(|| format!("the theme {} could not be read", path.display()))?;
        ThemeFile::parse(&text).map_err(|e| e.context(format!("in the theme {}", path.display())))
    }
}

/// A theme file as read: see `docs/tui.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThemeFile {
    /// Its colours.
    pub theme: Theme,
    /// Whether it asks for ASCII.
    pub ascii: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Document {
    base: Option<String>,
    ascii: bool,
    styles: Styles,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Styles {
    text: Option<Described>,
    dim: Option<Described>,
    border: Option<Described>,
    focus: Option<Described>,
    title: Option<Described>,
    selected: Option<Described>,
    marked: Option<Described>,
    ok: Option<Described>,
    active: Option<Described>,
    warning: Option<Described>,
    bad: Option<Described>,
    gauge: Option<Described>,
    key: Option<Described>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Described {
    fg: Option<String>,
    bg: Option<String>,
    bold: bool,
    underlined: bool,
    reversed: bool,
}

impl ThemeFile {
    /// See [`Theme::read`].
    pub fn parse(text: &str) -> Result<ThemeFile> {
        let document: Document = toml::from_str(text).map_err(|e| {
            Error::new(ErrorKind::Usage, "the theme cannot be understood").because(e)
        })?;
        let name = document.base.as_deref().unwrap_or("colour");
        let mut theme = Theme::named(name).ok_or_else(|| {
            Error::new(ErrorKind::Usage, format!("there is no theme {name:?}"))
                .hint("base is colour, high-contrast or monochrome")
        })?;
        let s = document.styles;
        for (style, described) in [
            (&mut theme.text, s.text),
            (&mut theme.dim, s.dim),
            (&mut theme.border, s.border),
            (&mut theme.focus, s.focus),
            (&mut theme.title, s.title),
            (&mut theme.selected, s.selected),
            (&mut theme.marked, s.marked),
            (&mut theme.ok, s.ok),
            (&mut theme.active, s.active),
            (&mut theme.warning, s.warning),
            (&mut theme.bad, s.bad),
            (&mut theme.gauge, s.gauge),
            (&mut theme.key, s.key),
        ] {
            if let Some(described) = described {
                *style = described.style()?;
            }
        }
        Ok(ThemeFile {
            theme,
            ascii: document.ascii,
        })
    }
}

impl Described {
    fn style(&self) -> Result<Style> {
        let mut style = Style::new();
        if let Some(fg) = &self.fg {
            style = style.fg(colour(fg)?);
        }
        if let Some(bg) = &self.bg {
            style = style.bg(colour(bg)?);
        }
        for (wanted, modifier) in [
            (self.bold, Modifier::BOLD),
            (self.underlined, Modifier::UNDERLINED),
            (self.reversed, Modifier::REVERSED),
        ] {
            if wanted {
                style = style.add_modifier(modifier);
            }
        }
        Ok(style)
    }
}

fn colour(text: &str) -> Result<Color> {
    Color::from_str(text).map_err(|_| {
        Error::new(ErrorKind::Usage, format!("{text:?} is no colour"))
            .hint("a name (red, light-blue, …), a number up to 255, or #rrggbb")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_changes_some_styles_of_a_built_in_theme() {
        let text = "base = \"high-contrast\"\nascii = true\n\
                    [styles]\nok = { fg = \"#00ff00\", bold = true }\n";
        let file = ThemeFile::parse(text).unwrap();
        assert!(file.ascii);
        let green = Style::new().fg(Color::Rgb(0, 255, 0));
        assert_eq!(file.theme.ok, green.add_modifier(Modifier::BOLD));
        assert_eq!(file.theme.bad, Theme::HIGH_CONTRAST.bad);
        assert_eq!(ThemeFile::parse("").unwrap().theme, Theme::COLOUR);
    }

    #[test]
    fn what_a_file_gets_wrong_is_named() {
        for (text, word) in [
            ("base = \"sepia\"", "sepia"),
            ("[styles]\nok = { fg = \"greenish\" }", "greenish"),
            ("[styles]\nokay = {}", "okay"),
            ("colour = 1", "colour"),
        ] {
            let error = ThemeFile::parse(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage);
            let all = format!("{error} {:?}", error.causes());
            assert!(all.contains(word), "{all}");
        }
    }

    #[test]
    fn the_monochrome_theme_has_no_colour() {
        let text = format!("{:?}", Theme::MONOCHROME);
        assert!(
            !text.contains("fg: Some") && !text.contains("bg: Some"),
            "{text}"
        );
    }
}
