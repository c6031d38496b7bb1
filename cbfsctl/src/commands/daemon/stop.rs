//! `cbfsctl daemon stop`.

use crate::commands::Context;
use crate::output::Outcome;
use cbfs_core::error::Context as _;
use cbfs_core::{Error, ErrorKind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Serialize;
use std::time::Duration;

/// How often a person is told that it still takes.
const TELL_AGAIN: Duration = Duration::from_secs(5);

/// Stop the daemon in order, and wait for its end.
///
/// Mounts end, and come back by themselves with the next start. Snapshots under way stop at a point from which they
/// go on; everything in memory is written out. Nothing is lost, whatever happens meanwhile. Programs that have files
/// open in a mount get errors from then on.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cbfsctl daemon stop\n  cbfsctl daemon stop --dry-run\n  \
    cbfsctl daemon stop --timeout 60"
)]
pub(crate) struct Args {
    /// Only tell what would end.
    #[arg(long)]
    dry_run: bool,
    /// Wait at most so many seconds, then exit with 3; the daemon goes on stopping.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

/// What stopped, or would.
#[derive(Serialize)]
struct Stopped {
    pid: u32,
    /// Mounts that ended, or would; they come back with the next start.
    mount_points: Vec<String>,
    dry_run: bool,
}

/// Run it.
pub(crate) fn run(args: &Args, context: &mut Context) -> Outcome {
    let client = context.client()?;
    let status = client.status()?;
    let mounted = status
        .instances
        .iter()
        .filter_map(|i| i.mount_point.as_ref());
    let stopped = Stopped {
        pid: status.pid,
        mount_points: mounted.map(|m| m.to_string_lossy().into_owned()).collect(),
        dry_run: args.dry_run,
    };
    if !args.dry_run {
        let pid = i32::try_from(status.pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| Error::failed("the daemon has no process id"))?;
        // Before it is asked: afterwards the number may be another process's.
        let process = pidfd_open(pid, PidfdFlags::empty())
            .context(|| format!("the daemon (pid {}) cannot be watched", status.pid))?;
        client.shutdown()?;
        let mut waited = Duration::ZERO;
        loop {
            let limit = args.timeout.map(Duration::from_secs);
            let left = limit.map_or(TELL_AGAIN, |l| l.saturating_sub(waited).min(TELL_AGAIN));
            let pause = Timespec::try_from(left).context(|| "no such time".to_owned())?;
            let mut fds = [PollFd::new(&process, PollFlags::IN)];
            let ended = poll(&mut fds, Some(&pause));
            let ended = ended.context(|| "the end of the daemon cannot be told".to_owned())?;
            if ended > 0 {
                break;
            }
            waited += left;
            if limit.is_some_and(|l| waited >= l) {
                let text = format!("the daemon (pid {}) is still stopping", status.pid);
                return Err(Error::new(ErrorKind::Partial, text)
                    .hint("its log says what it waits for")
                    .into());
            }
            let text = format!(
                "still stopping ({} s); its log says what it waits for",
                waited.as_secs()
            );
            context.output.message(text);
        }
    }
    if context.output.is_json() {
        return context.output.json(&stopped);
    }
    for mount_point in &stopped.mount_points {
        context.output.line(mount_point)?;
    }
    let back = match stopped.mount_points.is_empty() {
        true => "",
        false => "; what is mounted comes back with the next start",
    };
    let pid = stopped.pid;
    context.output.message(match args.dry_run {
        true => format!("would stop the daemon (pid {pid}){back}"),
        false => format!("the daemon (pid {pid}) has stopped{back}"),
    });
    Ok(())
}
