//! How errors look: what failed, the chain of causes, a hint.

use crate::output::Style;
use cbfs_core::api::{ErrorBody, ErrorDetail};
use cbfs_core::{Error, ErrorKind};
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

/// The error as people read it; every line ends with a newline.
///
/// ```text
/// error: the bucket cannot be opened
///   caused by: no such directory
///   hint: check that the bucket exists and is reachable
/// ```
pub(crate) fn render(error: &Error, style: Style) -> String {
    let mut out = format!(
        "{} {}\n",
        style.bad("error:"),
        indent(&error.to_string(), 7)
    );
    for cause in error.causes() {
        out += &format!("  {} {}\n", style.bold("caused by:"), indent(&cause, 13));
    }
    if let Some(hint) = error.hint_text() {
        out += &format!("  {} {}\n", style.bold("hint:"), indent(hint, 8));
    }
    out
}

/// The error, with a hint by its kind where the one who made it knew none.
pub(crate) fn with_general_hint(error: Error) -> Error {
    match (error.hint_text(), error.kind()) {
        (None, ErrorKind::Damage) => error.hint(
            "nothing was changed; restore what is damaged from a copy or an older version, or use \
             another snapshot",
        ),
        _ => error,
    }
}

/// Continuation lines under the first one.
fn indent(text: &str, columns: usize) -> String {
    text.trim_end()
        .replace('\n', &format!("\n{}", " ".repeat(columns)))
}

/// Report what clap refused (or print the help or version that was asked for). The command line
/// did not parse, so whether JSON is wanted is read from the raw `args`.
pub(crate) fn usage(refusal: &clap::Error, args: &[OsString]) -> ExitCode {
    let wants_json = args
        .iter()
        .take_while(|a| *a != "--")
        .any(|a| a == "--json");
    if refusal.use_stderr() && wants_json {
        let detail = ErrorDetail {
            kind: ErrorKind::Usage,
            message: first_line(&refusal.to_string()),
            hint: Some("see `cbfsctl --help`".to_owned()),
            causes: Vec::new(),
        };
        if let Ok(text) = serde_json::to_string(&ErrorBody { error: detail }) {
            let _ = writeln!(std::io::stderr(), "{text}"); // nobody left to tell
        }
    } else {
        let _ = refusal.print(); // a closed pipe is no error
    }
    if refusal.use_stderr() {
        ExitCode::from(ErrorKind::Usage.exit_code())
    } else {
        ExitCode::SUCCESS
    }
}

fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or(text);
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_what_failed_why_and_what_to_do() {
        let error = Error::new(ErrorKind::BucketUnreachable, "no such directory /b")
            .hint("check that the bucket exists\nand is reachable")
            .context("the bucket cannot be opened");
        insta::assert_snapshot!(render(&error, Style::PLAIN), @r"
        error: the bucket cannot be opened
          caused by: no such directory /b
          hint: check that the bucket exists
                and is reachable
        ");
    }

    #[test]
    fn an_error_alone_is_one_line() {
        insta::assert_snapshot!(render(&Error::failed("no"), Style::PLAIN), @"error: no");
    }

    #[test]
    fn an_error_is_the_same_json_as_the_api_sends() {
        let error = Error::new(ErrorKind::NotFound, "no snapshot 9").hint("see `snapshot list`");
        let json = serde_json::to_string(&ErrorBody::from(&error)).unwrap();
        insta::assert_snapshot!(json, @r#"{"error":{"kind":"not_found","message":"no snapshot 9","hint":"see `snapshot list`","causes":[]}}"#);
    }
}
