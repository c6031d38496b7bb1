//! Where a command's words go: data to stdout, messages and errors to stderr, both as JSON when
//! asked. No command prints in any other way, so that a closed pipe ends it quietly.

use crate::error_report;
use crate::table::Table;
use cbfs_core::Error;
use cbfs_core::api::ErrorBody;
use serde::Serialize;
use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};

/// Why a command ends before its end.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It failed; to be reported, and told by the exit code of its kind.
    Error(Error),
    /// Nobody reads stdout any more: exit 0 without a word.
    ClosedPipe,
    /// Ctrl-C or SIGTERM: exit 130.
    Interrupted,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Error(error)
    }
}

/// What a command comes to.
pub(crate) type Outcome<T = ()> = std::result::Result<T, Stop>;

/// Colours, or none: state is always told by glyph and word as well.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Style {
    colour: bool,
}

impl Style {
    /// No colours.
    #[cfg(test)]
    pub(crate) const PLAIN: Style = Style { colour: false };

    /// Colours on a terminal, unless `NO_COLOR` is set (to anything but nothing) or the terminal
    /// is dumb.
    fn of(is_terminal: bool) -> Style {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
            || std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        Style {
            colour: is_terminal && !refused,
        }
    }

    fn paint(self, code: &str, text: impl Display) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_string()
        }
    }

    /// For headings.
    pub(crate) fn bold(self, text: impl Display) -> String {
        self.paint("1", text)
    }

    /// For what matters less.
    pub(crate) fn dim(self, text: impl Display) -> String {
        self.paint("2", text)
    }

    /// For what went well.
    pub(crate) fn good(self, text: impl Display) -> String {
        self.paint("32", text)
    }

    /// For what needs attention.
    pub(crate) fn bad(self, text: impl Display) -> String {
        self.paint("1;31", text)
    }
}

/// The two streams of a command.
pub(crate) struct Output {
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    out_style: Style,
    err_style: Style,
    /// Characters a line of the terminal has; `None` when stdout is none.
    out_width: Option<usize>,
    err_is_terminal: bool,
    json: bool,
    quiet: bool,
}

impl Output {
    /// The process's own streams.
    pub(crate) fn standard(json: bool, quiet: bool) -> Output {
        let (out, err) = (io::stdout(), io::stderr());
        Output {
            out_style: Style::of(out.is_terminal()),
            out_width: terminal_width(&out),
            err_style: Style::of(err.is_terminal()),
            err_is_terminal: err.is_terminal(),
            out: Box::new(out),
            err: Box::new(err),
            json,
            quiet,
        }
    }

    /// Streams of a test: no terminal, no colours.
    #[cfg(test)]
    pub(crate) fn to(out: Box<dyn Write>, err: Box<dyn Write>, json: bool) -> Output {
        let (out_style, err_style) = (Style::PLAIN, Style::PLAIN);
        Output {
            out,
            err,
            out_style,
            err_style,
            out_width: None,
            err_is_terminal: false,
            json,
            quiet: false,
        }
    }

    /// Whether `--json` was given.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether messages and progress are wanted: neither `--quiet` nor `--json`. (With `--json`
    /// stderr carries nothing but the error, so that it can be parsed.)
    pub(crate) fn is_chatty(&self) -> bool {
        !self.quiet && !self.json
    }

    /// Whether stderr can show a progress bar.
    pub(crate) fn err_is_terminal(&self) -> bool {
        self.err_is_terminal
    }

    /// The style of stdout.
    pub(crate) fn style(&self) -> Style {
        self.out_style
    }

    /// A line (or several, joined by newlines) of data on stdout.
    pub(crate) fn line(&mut self, text: impl Display) -> Outcome {
        written(writeln!(self.out, "{text}"))
    }

    /// A table on stdout, as wide as the terminal is.
    pub(crate) fn table(&mut self, table: &Table) -> Outcome {
        match self.out_width {
            Some(columns) => self.line(table.render_within(columns)),
            None => self.line(table.render()),
        }
    }

    /// One JSON document on stdout, for people to read too.
    pub(crate) fn json(&mut self, document: &impl Serialize) -> Outcome {
        let text = serde_json::to_string_pretty(document).map_err(unserializable)?;
        self.line(text)
    }

    /// One JSON document on one line of stdout, sent at once: an element of a stream.
    pub(crate) fn json_line(&mut self, document: &impl Serialize) -> Outcome {
        let text = serde_json::to_string(document).map_err(unserializable)?;
        self.line(text)?;
        written(self.out.flush())
    }

    /// A message on stderr; nothing with `--quiet` or `--json`.
    pub(crate) fn message(&mut self, text: impl Display) {
        if self.is_chatty() {
            self.complain(text);
        }
    }

    /// A question to a person on a terminal: a message without the newline.
    pub(crate) fn ask(&mut self, text: impl Display) {
        let _ = write!(self.err, "{text}"); // as `complain`
        let _ = self.err.flush();
    }

    /// What went wrong although the command goes on: on stderr, also with `--quiet`.
    pub(crate) fn warning(&mut self, text: impl Display) {
        if !self.json {
            let label = self.err_style.bold("warning:");
            self.complain(format_args!("{label} {text}"));
        }
    }

    /// The error that ends the command, on stderr.
    pub(crate) fn error(&mut self, error: &Error) {
        if self.json {
            match serde_json::to_string(&ErrorBody::from(error)) {
                Ok(text) => self.complain(text),
                Err(e) => self.complain(format_args!("error: {error} (not shown as JSON: {e})")),
            }
        } else {
            let text = error_report::render(error, self.err_style);
            self.complain(text.trim_end());
        }
    }

    /// A failed write to stderr leaves nobody to be told about it.
    fn complain(&mut self, text: impl Display) {
        let _ = writeln!(self.err, "{text}");
    }
}

/// The width of the terminal that a stream goes to; `None` when it goes elsewhere, or the terminal does not tell.
fn terminal_width(out: &io::Stdout) -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(out).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// A failed write to stdout as the end of the command.
fn written(result: io::Result<()>) -> Outcome {
    match result {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Err(Stop::ClosedPipe),
        Err(e) => Err(Error::failed("the output could not be written")
            .because(e)
            .into()),
    }
}

fn unserializable(e: serde_json::Error) -> Error {
    Error::failed("the answer could not be written as JSON").because(e)
}

/// Text from elsewhere (a path, a name) as it may go to a terminal: control characters escaped.
pub(crate) fn printable(text: &str) -> String {
    if text.chars().any(char::is_control) {
        text.escape_debug().to_string()
    } else {
        text.to_owned()
    }
}

/// An RFC 3339 time without its fraction of a second.
pub(crate) fn to_the_second(rfc3339: &str) -> String {
    match rfc3339.split_once('.') {
        Some((head, tail)) => {
            let zone = tail.trim_start_matches(|c: char| c.is_ascii_digit());
            format!("{head}{zone}")
        }
        None => rfc3339.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_pipe_ends_a_command_quietly() {
        let mut output = Output::to(Box::new(Closed), Box::new(Closed), false);
        assert!(matches!(output.line("x"), Err(Stop::ClosedPipe)));
        output.message("nobody hears this, and nothing panics");
    }

    #[test]
    fn times_lose_their_fraction_only() {
        assert_eq!(
            to_the_second("2025-11-21T15:38:04.123456789Z"),
            "2025-11-21T15:38:04Z"
        );
        assert_eq!(
            to_the_second("2025-11-21T15:38:04.5+02:00"),
            "2025-11-21T15:38:04+02:00"
        );
        assert_eq!(
            to_the_second("2025-11-21T15:38:04Z"),
            "2025-11-21T15:38:04Z"
        );
    }

    #[test]
    fn control_characters_never_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(printable("grün"), "grün");
    }
}
