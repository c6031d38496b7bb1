//! A failed attempt: judged by the policy, tried again or given up, and told.

use super::SnapshotService;
use super::policy::{self, FailurePolicy, Verdict};
use cbfs_core::error::Result;
use cbfs_core::ids::SnapshotNumber;
use cbfs_core::inode::Timestamp;
use cbfs_core::snapshot::{FailureType, SnapshotState, SnapshotStatus};
use std::time::{Duration, Instant};

impl SnapshotService {
    /// The policy as it stands. One that cannot be understood is a problem of the instance; the defaults
    /// hold then.
    pub(super) fn policy(&self) -> FailurePolicy {
        let read = FailurePolicy::read(self.instance.dir());
        let problem = read.as_ref().err().map(|e| {
            let causes: String = e.causes().iter().map(|c| format!(": {c}")).collect();
            format!("{e}{causes}; {}", e.hint_text().unwrap_or_default())
        });
        self.instance.set_problem("failure-policy", problem);
        read.unwrap_or_default()
    }

    /// What to do about a failure of this type.
    pub(super) fn judge(&self, number: SnapshotNumber, failure: FailureType) -> Result<Verdict> {
        let status = self.status(number)?;
        let retry_for = self.policy().retry_for(status.kind);
        let failing_for = self.failing_for(&status);
        let left_to_next = self.left_to_next(&status, failing_for);
        Ok(policy::judge(retry_for, failure, failing_for, left_to_next))
    }

    /// How long nothing has worked, by the clock or by the time this daemon has seen pass, whichever is
    /// longer: a clock that is set back prolongs nothing.
    fn failing_for(&self, status: &SnapshotStatus) -> Duration {
        let Some(since) = &status.failing_since else {
            return Duration::ZERO;
        };
        let mut state = self.state.lock();
        let seen = match &state.failing {
            Some((number, then, seen)) if *number == status.number && then == since => *seen,
            _ => {
                let now = Instant::now();
                state.failing = Some((status.number, since.clone(), now));
                now
            }
        };
        drop(state);
        self.time_since(since).max(seen.elapsed())
    }

    /// By the clock; zero for what lies in the future.
    fn time_since(&self, since: &str) -> Duration {
        let passed = Timestamp::parse_rfc3339(since)
            .map_or(0, |since| self.clock.now().0.saturating_sub(since.0));
        Duration::from_nanos(u64::try_from(passed).unwrap_or(0))
    }

    /// What is left until the schedule's next one after this request is due.
    fn left_to_next(&self, status: &SnapshotStatus, failing_for: Duration) -> Option<Duration> {
        let schedule = self.schedule()?;
        let requested = Timestamp::parse_rfc3339(&status.requested_at)?;
        let due = schedule.next_due(requested);
        let whole = Duration::from_nanos(u64::try_from(due.0.saturating_sub(requested.0)).ok()?);
        let passed = self.time_since(&status.requested_at).max(failing_for);
        Some(whole.saturating_sub(passed))
    }

    /// Whether a request to the bucket is worth another pause; how long at most.
    pub(super) fn patience(&self, number: SnapshotNumber) -> Option<Duration> {
        match self.judge(number, FailureType::Transient) {
            Ok(Verdict::Retry(at_most)) => Some(at_most),
            Ok(Verdict::GiveUp) | Err(_) => None,
        }
    }

    /// The request has failed for good: let go of what it holds, and tell.
    pub(super) fn give_up(&self, number: SnapshotNumber) -> Result<()> {
        self.let_go()?;
        self.enter(number, SnapshotState::Failed)?;
        self.tell_failure(&self.status(number)?);
        let info = self.get(number)?;
        if let Err(e) = self.notifier.failed(self.policy(), info) {
            tracing::error!(fs = %self.fs, causes = ?e.causes(), "nobody is told of a failure: {e}");
        }
        self.remove_what_was_sent(number);
        self.forget_uploads();
        Ok(())
    }

    /// After a restart: a failure that no later snapshot has made good is told again.
    pub(super) fn tell_old_failure(&self) {
        let failed = {
            let state = self.state.lock();
            let complete = state.last_complete.as_ref().map_or(0, |m| m.number.0);
            let all = state.requests.statuses();
            all.filter(|s| s.state == SnapshotState::Failed && s.number.0 > complete)
                .last()
                .cloned()
        };
        if let Some(status) = failed {
            self.tell_failure(&status);
        }
    }

    fn tell_failure(&self, status: &SnapshotStatus) {
        let (fs, number) = (&self.fs, status.number);
        let reason = status.reason.as_deref().unwrap_or("no reason told");
        let text = format!(
            "snapshot {number} failed: {reason}; its changes are only on this machine until a snapshot is \
             complete: remove the cause, then `cbfsctl snapshot retry {fs}@{number}` or make a new one"
        );
        self.instance.set_problem("snapshots", Some(text));
    }
}
