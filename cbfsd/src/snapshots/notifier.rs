//! Telling somebody that a request has failed: a command and a webhook. One thread with a short queue, so that
//! nothing here ever holds up a snapshot. What cannot be delivered is logged and given up: the status of
//! the instance tells it too. A daemon that stops does not wait for deliveries.

use super::policy::FailurePolicy;
use cbfs_core::api::SnapshotInfo;
use cbfs_core::error::{Context, Error, Result};
use cbfs_core::snapshot::{FailureType, SnapshotKind};
use parking_lot::{Condvar, Mutex};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Serialize;
use std::collections::VecDeque;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// More than these wait for nobody: the oldest goes.
const QUEUE: usize = 64;
/// How often a webhook is tried.
const TRIES: u32 = 5;
/// Pause after its first failure; doubles.
const PAUSE: Duration = Duration::from_secs(2);
/// How long one request to a webhook may take.
const WEBHOOK_PATIENCE: Duration = Duration::from_secs(15);
/// How long a command may run.
const COMMAND_PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at a running command.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What a webhook gets, as JSON.
#[derive(Serialize)]
struct Message<'a> {
    event: &'static str,
    node: &'a str,
    snapshot: &'a SnapshotInfo,
}

struct Delivery {
    policy: FailurePolicy,
    snapshot: SnapshotInfo,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Delivery>,
    stop: bool,
}

/// The thread.
pub(super) struct Notifier {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    node: String,
    command_patience: Duration,
    queue: Mutex<Queue>,
    wake: Condvar,
}

impl Notifier {
    pub(super) fn new(node: &str) -> Notifier {
        Notifier {
            shared: Arc::new(Shared {
                node: node.to_owned(),
                command_patience: COMMAND_PATIENCE,
                queue: Mutex::default(),
                wake: Condvar::new(),
            }),
            thread: Mutex::default(),
        }
    }

    /// Queue the news of a failed request. The thread starts with the first.
    pub(super) fn failed(&self, policy: FailurePolicy, snapshot: SnapshotInfo) -> Result<()> {
        if policy.on_failure.is_empty() && policy.webhook.is_none() {
            return Ok(());
        }
        {
            let mut queue = self.shared.queue.lock();
            if queue.waiting.len() == QUEUE {
                tracing::warn!("too many failures to tell of: the oldest is dropped");
                queue.waiting.pop_front();
            }
            queue.waiting.push_back(Delivery { policy, snapshot });
        }
        let mut thread = self.thread.lock();
        if thread.is_none() {
            let shared = Arc::clone(&self.shared);
            let started = std::thread::Builder::new()
                .name("notifier".into())
                .spawn(move || {
                    let run = std::panic::AssertUnwindSafe(|| shared.run());
                    if std::panic::catch_unwind(run).is_err() {
                        tracing::error!("the notifier panicked: nobody is told of failures");
                    }
                });
            *thread = Some(started.context(|| "a thread could not be started".into())?);
        }
        self.shared.wake.notify_all();
        Ok(())
    }

    /// End the thread; what it still had to tell is logged.
    pub(super) fn stop(&self) {
        self.shared.queue.lock().stop = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the notifier had panicked");
        }
    }
}

impl Shared {
    fn run(&self) {
        loop {
            let delivery = {
                let mut queue = self.queue.lock();
                loop {
                    if queue.stop {
                        for lost in &queue.waiting {
                            let (fs, number) = (&lost.snapshot.fs, lost.snapshot.number);
                            tracing::warn!(%fs, snapshot = %number, "nobody was told of its failure");
                        }
                        return;
                    }
                    match queue.waiting.pop_front() {
                        Some(delivery) => break delivery,
                        None => self.wake.wait(&mut queue),
                    }
                }
            };
            let Delivery { policy, snapshot } = delivery;
            if let Some((program, args)) = policy.on_failure.split_first() {
                log_result(
                    "on_failure",
                    program,
                    self.run_command(program, args, &snapshot),
                );
            }
            if let Some(url) = &policy.webhook {
                log_result("webhook", without_secrets(url), self.post(url, &snapshot));
            }
        }
    }

    /// Wait; `false` when the daemon stops.
    fn pause(&self, pause: Duration) -> bool {
        let mut queue = self.queue.lock();
        let until = Instant::now() + pause;
        while !queue.stop {
            if self.wake.wait_until(&mut queue, until).timed_out() {
                return true;
            }
        }
        false
    }

    /// Run a program, without a shell. One that takes too long is killed, and what it has started with it.
    fn run_command(&self, program: &str, args: &[String], snapshot: &SnapshotInfo) -> Result<()> {
        let describe = || format!("{program} could not be run");
        let mut command = Command::new(program);
        command
            .args(args)
            .envs(environment(&self.node, snapshot))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0);
        let mut child = command.spawn().context(describe)?;
        let started = Instant::now();
        loop {
            if let Some(status) = child.try_wait().context(describe)? {
                return ended_well(program, status);
            }
            let goes_on = self.pause(LOOK_AGAIN);
            if !goes_on || started.elapsed() >= self.command_patience {
                kill_group_of(&child).context(describe)?;
                child.wait().context(describe)?;
                let why = if goes_on {
                    "it took too long"
                } else {
                    "the daemon stops"
                };
                return Err(Error::failed(format!("{program} was killed: {why}")));
            }
        }
    }

    fn post(&self, url: &str, snapshot: &SnapshotInfo) -> Result<()> {
        let message = Message {
            event: "snapshot_failed",
            node: &self.node,
            snapshot,
        };
        let body = serde_json::to_vec(&message).context(|| "no message could be made".into())?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context(|| "a runtime could not be started".into())?;
        let client = reqwest::Client::builder()
            .timeout(WEBHOOK_PATIENCE)
            .user_agent(concat!("cbfs/", env!("CARGO_PKG_VERSION")))
            .build();
        let client = client.map_err(no_answer)?;
        let mut pause = PAUSE;
        for left in (0..TRIES).rev() {
            let request = client
                .post(url)
                .header("content-type", "application/json")
                .body(body.clone());
            // Within the runtime: the timeout needs its clock.
            let answer = runtime.block_on(async { request.send().await });
            let error = match answer.map(|a| a.status()) {
                Ok(status) if status.is_success() => return Ok(()),
                Ok(status) => Error::failed(format!("it answered {status}")),
                Err(e) => no_answer(e),
            };
            if left == 0 || !self.pause(pause) {
                return Err(error);
            }
            tracing::info!(webhook = without_secrets(url), "{error}; trying again");
            pause *= 2;
        }
        Ok(())
    }
}

/// Kill a program that was not waited for yet, and everything in its process group.
fn kill_group_of(leader: &Child) -> std::io::Result<()> {
    Ok(kill_process_group(Pid::from_child(leader), Signal::KILL)?)
}

/// What the command finds in its environment.
fn environment(node: &str, snapshot: &SnapshotInfo) -> Vec<(&'static str, String)> {
    let kind = match snapshot.kind {
        SnapshotKind::User => "user",
        SnapshotKind::Periodic => "periodic",
        SnapshotKind::Pressure => "pressure",
        SnapshotKind::Final => "final",
    };
    let failure = match snapshot.failure {
        Some(FailureType::Permanent) => "permanent",
        Some(FailureType::Transient) | None => "transient",
    };
    let reason = snapshot.reason.clone().unwrap_or_default();
    vec![
        ("CBFS_FS", snapshot.fs.to_string()),
        ("CBFS_SNAPSHOT", snapshot.number.to_string()),
        ("CBFS_NAME", snapshot.name.clone().unwrap_or_default()),
        ("CBFS_KIND", kind.to_owned()),
        ("CBFS_FAILURE", failure.to_owned()),
        // execve(2) takes no NUL.
        ("CBFS_REASON", reason.replace('\0', "?")),
        ("CBFS_REQUESTED_AT", snapshot.requested_at.clone()),
        ("CBFS_NODE", node.to_owned()),
    ]
}

fn ended_well(program: &str, status: ExitStatus) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    Err(Error::failed(format!("{program} ended with {status}")))
}

fn no_answer(e: reqwest::Error) -> Error {
    Error::failed("it could not be reached").because(e.without_url())
}

/// Scheme and host: tokens of webhooks stand in the path.
fn without_secrets(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..]
        .find(['/', '?', '#'])
        .map_or(url.len(), |at| host + at);
    let user = url[host..end].rfind('@').map_or(host, |at| host + at + 1);
    &url[user..end]
}

fn log_result(what: &str, target: &str, result: Result<()>) {
    match result {
        Ok(()) => tracing::info!(what, target, "told of a failed snapshot"),
        Err(e) => {
            tracing::error!(what, target, causes = ?e.causes(), "nobody was told of a failed snapshot: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::sync::mpsc;

    #[test]
    fn logs_hold_no_tokens_of_webhooks() {
        for url in [
            "https://u:p@hooks.example/T0/secret",
            "https://hooks.example?k=secret",
        ] {
            assert_eq!(without_secrets(url), "hooks.example");
        }
    }

    fn failed(failure: FailureType) -> SnapshotInfo {
        serde_json::from_value(serde_json::json!({
            "fs": "home-6f1c2a52-8f8a-4d0e-9a53-0c2ad9d1a2b3", "number": 3, "kind": "user", "state": "failed",
            "epoch": 1, "requested_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:01Z",
            "failure": failure, "reason": "no\u{0} room",
        }))
        .unwrap()
    }

    fn shell(patience: Duration, script: &str, snapshot: &SnapshotInfo) -> Result<()> {
        let shared = Shared {
            node: "n".to_owned(),
            command_patience: patience,
            queue: Mutex::default(),
            wake: Condvar::new(),
        };
        shared.run_command("sh", &["-c".to_owned(), script.to_owned()], snapshot)
    }

    #[test]
    fn the_command_is_told_the_type_of_the_failure_and_what_it_answers_counts() {
        let long = Duration::from_secs(60);
        for failure in [FailureType::Permanent, FailureType::Transient] {
            let snapshot = failed(failure);
            let name = format!("{failure:?}").to_lowercase();
            let script = format!("test \"$CBFS_FAILURE $CBFS_REASON\" = '{name} no? room'");
            shell(long, &script, &snapshot).unwrap();
        }
        let error = shell(long, "exit 3", &failed(FailureType::Permanent)).unwrap_err();
        assert!(error.to_string().contains("exit status: 3"), "{error}");
    }

    /// What came through a pipe until the last of its writers was gone, after a command that never ends was killed.
    fn told_by_a_killed_command(patience: Duration) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        // With a writer of ours no opening of the pipe waits for its other end.
        let mut both = File::options();
        let ours = both.read(true).write(true).open(&pipe).unwrap();
        let mut reader = File::open(&pipe).unwrap();
        // The shell and its child hold the pipe open for writing; a line comes once both are there.
        let script = format!("exec 3> '{}'; sleep 600 & echo >&3; wait", pipe.display());
        let error = shell(patience, &script, &failed(FailureType::Permanent)).unwrap_err();
        assert!(error.to_string().contains("it took too long"), "{error}");
        drop(ours);
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            tell.send(bytes)
        });
        let told = told.recv_timeout(Duration::from_secs(60));
        told.expect("what the command has started is there still")
    }

    #[test]
    fn a_command_that_takes_too_long_is_killed_with_what_it_has_started() {
        // On a busy machine a shell may be killed before it has started anything.
        let patiences = [300, 3_000, 30_000].map(Duration::from_millis);
        let mut told = patiences.into_iter().map(told_by_a_killed_command);
        assert!(told.any(|bytes| bytes == b"\n"), "it started nothing");
    }
}
