//! What becomes of a request that fails: how long it is tried again, and who is told. And how much of the change
//! log stays on this node once it is published.
//!
//! `policy.toml` in the instance's directory belongs to the administrator: the daemon reads it whenever it
//! needs it and never writes it. Without it the defaults hold.

use crate::journal::Keep;
use cbfs_core::configuration::ByteSize;
use cbfs_core::error::{Context, Error, ErrorKind, Result};
use cbfs_core::schedule::parse_duration;
use cbfs_core::snapshot::{FailureType, SnapshotKind};
use serde::Deserialize;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

/// The file in the instance's directory.
pub(super) const FILE: &str = "policy.toml";

/// How long a request of a person, or the last one of an instance, is tried.
const A_DAY: Duration = Duration::from_secs(86_400);

/// How long transient failures are retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) enum RetryFor {
    /// For this long since the first failure.
    Time(Duration),
    /// Until the schedule's next one is due.
    UntilNext,
    /// As long as it takes.
    Forever,
}

impl TryFrom<String> for RetryFor {
    type Error = Error;

    fn try_from(text: String) -> Result<RetryFor> {
        match text.as_str() {
            "until-next" => Ok(RetryFor::UntilNext),
            "forever" => Ok(RetryFor::Forever),
            text => parse_duration(text).map(RetryFor::Time),
        }
    }
}

/// By kind of request.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RetryTable {
    user: RetryFor,
    periodic: RetryFor,
    pressure: RetryFor,
    r#final: RetryFor,
}

impl Default for RetryTable {
    fn default() -> RetryTable {
        RetryTable {
            user: RetryFor::Time(A_DAY),
            periodic: RetryFor::UntilNext,
            // Without it the local disk stays full.
            pressure: RetryFor::Forever,
            r#final: RetryFor::Time(A_DAY),
        }
    }
}

/// How long a segment of the change log stays, as a string such as `24h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct KeepFor(Duration);

impl TryFrom<String> for KeepFor {
    type Error = Error;

    fn try_from(text: String) -> Result<KeepFor> {
        match text.as_str() {
            "0" => Ok(KeepFor(Duration::ZERO)),
            text => parse_duration(text).map(KeepFor),
        }
    }
}

/// What stays of the change log on this node although the bucket has it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ChangeLogTable {
    keep_segments: usize,
    keep_for: KeepFor,
    at_most: ByteSize,
}

impl Default for ChangeLogTable {
    fn default() -> ChangeLogTable {
        ChangeLogTable {
            keep_segments: 8,
            keep_for: KeepFor(A_DAY),
            at_most: ByteSize(512 << 20),
        }
    }
}

/// `policy.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FailurePolicy {
    /// A program and its arguments, run when a request has failed for good.
    #[serde(default)]
    pub(super) on_failure: Vec<String>,
    /// An HTTP or HTTPS URL that gets a POST then.
    #[serde(default)]
    pub(super) webhook: Option<String>,
    #[serde(default)]
    retry_for: RetryTable,
    #[serde(default)]
    change_log: ChangeLogTable,
}

impl FailurePolicy {
    /// Read it from an instance's directory.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when the file says what makes no sense.
    pub(super) fn read(dir: &Path) -> Result<FailurePolicy> {
        let path = dir.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(FailurePolicy::default()),
            Err(e) => return Err(e).context(|| format!("{} could not be read", path.display())),
        };
        let policy: FailurePolicy = toml::from_str(&text).map_err(|e| {
            let text = format!("{} cannot be understood", path.display());
            Error::new(ErrorKind::Usage, text).because(e).hint(
                "its keys are described in docs/configuration.md; until then the defaults hold",
            )
        })?;
        if let Some(url) = &policy.webhook
            && !(url.starts_with("https://") || url.starts_with("http://"))
        {
            let text = format!("the webhook {url:?} in {} is no HTTP URL", path.display());
            return Err(Error::new(ErrorKind::Usage, text)
                .hint("give https://…; until then the defaults hold"));
        }
        Ok(policy)
    }

    /// How long a request of this kind is retried.
    pub(super) fn retry_for(&self, kind: SnapshotKind) -> RetryFor {
        match kind {
            SnapshotKind::User => self.retry_for.user,
            SnapshotKind::Periodic => self.retry_for.periodic,
            SnapshotKind::Pressure => self.retry_for.pressure,
            SnapshotKind::Final => self.retry_for.r#final,
        }
    }

    /// What of the published change log stays on this node.
    pub(super) fn keep_of_change_log(&self) -> Keep {
        Keep {
            segments: self.change_log.keep_segments,
            time: self.change_log.keep_for.0,
            bytes: self.change_log.at_most.0,
        }
    }
}

/// What to do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Try again, after a pause no longer than this.
    Retry(Duration),
    /// The request has failed.
    GiveUp,
}

/// Judge a failure. `failing_for`: since when nothing has worked; `next_due`: how long after the request the
/// schedule's next one is due, with how much of that is left (`None`: there is no schedule).
pub(super) fn judge(
    retry_for: RetryFor,
    failure: FailureType,
    failing_for: Duration,
    left_to_next: Option<Duration>,
) -> Verdict {
    if failure == FailureType::Permanent {
        return Verdict::GiveUp;
    }
    let left = match (retry_for, left_to_next) {
        (RetryFor::Forever, _) => Duration::MAX,
        (RetryFor::Time(limit), _) => limit.saturating_sub(failing_for),
        (RetryFor::UntilNext, Some(left)) => left,
        // The schedule is gone: somebody may still want this one.
        (RetryFor::UntilNext, None) => A_DAY.saturating_sub(failing_for),
    };
    if left.is_zero() {
        Verdict::GiveUp
    } else {
        Verdict::Retry(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_permanent_failure_is_final_and_a_transient_one_when_its_time_is_over() {
        let (transient, permanent) = (FailureType::Transient, FailureType::Permanent);
        let day = RetryFor::Time(A_DAY);
        assert_eq!(judge(day, permanent, Duration::ZERO, None), Verdict::GiveUp);
        assert_eq!(
            judge(RetryFor::Forever, permanent, Duration::ZERO, None),
            Verdict::GiveUp
        );
        assert_eq!(
            judge(day, transient, HOUR, None),
            Verdict::Retry(A_DAY - HOUR)
        );
        assert_eq!(judge(day, transient, A_DAY, None), Verdict::GiveUp);
        assert_eq!(
            judge(RetryFor::Forever, transient, A_DAY * 9, None),
            Verdict::Retry(Duration::MAX)
        );
        let next = RetryFor::UntilNext;
        assert_eq!(
            judge(next, transient, A_DAY, Some(HOUR)),
            Verdict::Retry(HOUR)
        );
        assert_eq!(
            judge(next, transient, HOUR, Some(Duration::ZERO)),
            Verdict::GiveUp
        );
        assert_eq!(judge(next, transient, A_DAY, None), Verdict::GiveUp);
    }

    #[test]
    fn the_file_is_read_and_nonsense_in_it_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            fs::write(dir.path().join(FILE), text).unwrap();
            FailurePolicy::read(dir.path())
        };
        let default = FailurePolicy::default();
        assert_eq!(read("").unwrap(), default);
        assert_eq!(default.retry_for(SnapshotKind::User), RetryFor::Time(A_DAY));
        assert_eq!(
            default.retry_for(SnapshotKind::Periodic),
            RetryFor::UntilNext
        );
        let policy = read(
            "on_failure = [\"/bin/tell\", \"me\"]\nwebhook = \"https://h/x\"\n\
             [retry_for]\nuser = \"90s\"\nfinal = \"forever\"\n\
             [change_log]\nkeep_segments = 2\nkeep_for = \"0\"\nat_most = \"3M\"\n",
        )
        .unwrap();
        assert_eq!(policy.on_failure, ["/bin/tell", "me"]);
        assert_eq!(
            policy.retry_for(SnapshotKind::User),
            RetryFor::Time(Duration::from_secs(90))
        );
        assert_eq!(policy.retry_for(SnapshotKind::Final), RetryFor::Forever);
        assert_eq!(policy.retry_for(SnapshotKind::Pressure), RetryFor::Forever);
        let keep = policy.keep_of_change_log();
        assert_eq!((keep.segments, keep.time), (2, Duration::ZERO));
        assert_eq!(keep.bytes, 3 << 20);
        assert_eq!(default.keep_of_change_log().time, A_DAY);
        for bad in [
            "x = 1",
            "[change_log]\nkeep_for = \"long\"",
            "[change_log]\nat_most = \"1 G\"",
            "webhook = \"ftp://x\"",
            "[retry_for]\nuser = \"soon\"",
            "[retry_for]\nusr = \"1h\"",
        ] {
            assert_eq!(read(bad).unwrap_err().kind(), ErrorKind::Usage, "{bad}");
        }
    }
}
