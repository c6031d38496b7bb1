//! `cbfsctl doctor`: what keeps CBFS from working well on this machine, each with its remedy.

mod machine;
mod node;

use super::Context;
use crate::bucket_option::BucketOption;
use crate::output::{Outcome, printable};
use crate::table::{Align, Table};
use cbfs_core::Error;
use serde::Serialize;
use std::process::ExitCode;

/// Check this machine, its daemon and the bucket, and say what to do about what is wrong.
///
/// Changes nothing. Exit code 1 tells that something keeps CBFS from working; warnings alone exit with 0.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cbfsctl doctor\n  cbfsctl doctor --bucket s3://BUCKET/PREFIX\n  \
    cbfsctl doctor --json | jq -r '.[] | select(.status != \"ok\") | .remedy'"
)]
pub(crate) struct Args {
    #[command(flatten)]
    bucket: BucketOption,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Ok,
    /// Works, but not as well or not as safely as it might.
    Warning,
    /// Keeps CBFS from working.
    Problem,
}

/// What one check found.
#[derive(Debug, Serialize)]
struct Finding {
    /// What was looked at.
    check: &'static str,
    status: Status,
    /// What was found.
    message: String,
    /// What to do; only where something is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, message: impl Into<String>) -> Finding {
        Finding {
            check,
            status: Status::Ok,
            message: message.into(),
            remedy: None,
        }
    }

    fn warning(
        check: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding {
            status: Status::Warning,
            remedy: Some(remedy.into()),
            ..Finding::ok(check, message)
        }
    }

    fn problem(
        check: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding {
            status: Status::Problem,
            ..Finding::warning(check, message, remedy)
        }
    }

    /// A problem as an error tells it.
    fn of_error(check: &'static str, error: &Error) -> Finding {
        let mut message = error.to_string();
        for cause in error.causes() {
            message += &format!(": {cause}");
        }
        let remedy = error.hint_text().unwrap_or("see `cbfsctl status`");
        Finding::problem(check, message, remedy)
    }
}

/// Run it; the exit code is 1 when there is a problem.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome<ExitCode> {
    let mut findings = machine::findings();
    findings.extend(node::findings(&args.bucket, context)?);
    let output = &mut context.output;
    if output.is_json() {
        output.json(&findings)?;
    } else {
        let mut table = Table::new(&[
            ("CHECK", Align::Left),
            ("STATUS", Align::Left),
            ("FOUND", Align::Left),
        ]);
        for finding in &findings {
            let status = match finding.status {
                Status::Ok => "✔ ok",
                Status::Warning => "⚠ warning",
                Status::Problem => "✖ problem",
            };
            table.row([
                finding.check.to_owned(),
                status.to_owned(),
                printable(&finding.message),
            ]);
        }
        output.table(&table)?;
        let style = output.style();
        for finding in &findings {
            if let Some(remedy) = &finding.remedy {
                // The whole of it: a narrow terminal has only its beginning in the table.
                let check = style.bold(format_args!("{}:", finding.check));
                let (message, remedy) =
                    (printable(&finding.message), remedy.replace('\n', "\n    "));
                output.line(format_args!("\n{check} {message}\n    {remedy}"))?;
            }
        }
    }
    let failed = findings.iter().any(|f| f.status == Status::Problem);
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_becomes_a_problem_with_its_causes_and_its_hint() {
        let error = Error::failed("inner").hint("do this").context("outer");
        let finding = Finding::of_error("bucket", &error);
        assert_eq!(finding.message, "outer: inner");
        assert_eq!(finding.remedy.as_deref(), Some("do this"));
        assert_eq!(finding.status, Status::Problem);
    }
}
