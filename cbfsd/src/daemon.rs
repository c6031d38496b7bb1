//! The daemon's entry: arguments, log, lock, instances, API, signals.

use crate::daemon_log;
use crate::failpoints;
use crate::manager::Manager;
use crate::reload;
use crate::server;
use crate::service_manager::{self, Lengthy, Watchdog};
use crate::shifted_clock::daemon_clock;
use cbfs_core::clock::System;
use cbfs_core::configuration::{self, LogSettings};
use cbfs_core::environment;
use cbfs_core::error::{Context, Error, ErrorKind, Result};
use clap::{CommandFactory, Parser};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

/// The CBFS daemon: serves the mounts of this node, takes snapshots, answers `cbfsctl`.
///
/// Environment: CBFS_CONFIG names its settings (cbfsd.toml); CBFS_STATE_DIR and CBFS_SOCKET as for cbfsctl;
/// CBFS_LOG filters the log (info, debug, cbfsd=trace, …); AWS_* for S3 buckets. SIGHUP reads the settings anew.
///
/// SIGTERM and SIGINT stop it in order: mounts end (and come back with the next start), snapshots under way
/// stop at a point from which they go on, rows in memory are written out. What it waits for is in the log and
/// in `systemctl status`. Nothing that was acknowledged is lost, also when it is killed.
#[derive(Debug, Parser)]
#[command(
    name = "cbfsd",
    version,
    after_help = "Example:\n  cbfsd --state-dir /var/lib/cbfs --log-json"
)]
struct Args {
    /// State directory.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// API socket.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Log as JSON lines.
    #[arg(long)]
    log_json: bool,
}

/// The daemon's command line, for its man page.
pub fn command() -> clap::Command {
    Args::command()
}

/// Run the daemon; `words` is the command line with the program's name first. Returns when the daemon
/// ends: 0 after a shutdown request or SIGTERM, else the exit code of the error.
pub fn main(words: impl Iterator<Item = OsString>) -> ExitCode {
    let args = match Args::try_parse_from(words) {
        Ok(args) => args,
        Err(e) => {
            // Where even this cannot be printed there is nobody to tell.
            let _ = e.print();
            return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(2));
        }
    };
    // Its log depends on it; without one the error is told as by any program.
    let configured = match configuration::load() {
        Ok(configured) => configured,
        Err(e) => {
            daemon_log::start(args.log_json, &LogSettings::default());
            tracing::error!(causes = ?e.causes(), hint = e.hint_text(), "{e}");
            return ExitCode::from(e.kind().exit_code());
        }
    };
    daemon_log::start(args.log_json, &configured.log);
    if let Err(e) = rustix::thread::set_name(c"cbfsd") {
        tracing::debug!("the process keeps its name: {e}");
    }
    // The allocator asks for them: 100 MB more of memory during a snapshot of 8,000 files, and a fifth of its CPU time went
    // into clearing what was never used (by a profile).
    if let Err(e) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!("memory stays in huge pages: {e}");
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!(causes = ?e.causes(), hint = e.hint_text(), "{e}");
            ExitCode::from(e.kind().exit_code())
        }
    }
}

fn run(args: &Args) -> Result<()> {
    failpoints::arm_from_environment()?;
    let state_dir = args
        .state_dir
        .clone()
        .unwrap_or_else(environment::state_dir);
    let socket = args.socket.clone().unwrap_or_else(environment::socket);
    let _lock = lock(&state_dir)?;
    // Many backing files are open at once.
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("api")
        .enable_all()
        .build()
        .context(|| "the runtime could not be started".into())?;
    let signals = {
        let _context = runtime.enter();
        Signals::expect()?
    };
    let clock = daemon_clock();
    let started_at = clock.now().to_rfc3339();
    let manager = Manager::new(&state_dir, clock, Arc::new(System))?;
    // Mounts first: when the socket answers, they are back.
    let starting = Lengthy::starting("opening the instances and bringing their mounts back");
    manager.restore()?;
    drop(starting);
    let shutdown = Arc::new(Notify::new());
    let served = runtime.block_on(async {
        let listener = server::bind(&socket)?;
        tracing::info!(socket = %socket.display(), state_dir = %state_dir.display(), "ready");
        service_manager::ready(&manager.in_words());
        let watchdog = Watchdog::start(&socket)?;
        signals.heed(&manager, &shutdown);
        let serving = server::serve(
            listener,
            Arc::clone(&manager),
            started_at,
            Arc::clone(&shutdown),
        );
        let served = serving.await.context(|| "the API server failed".into());
        // It asks the API, which is no more; on a thread of its own, which may be asking just now.
        runtime.spawn_blocking(|| drop(watchdog));
        served
    });
    let stopping = Lengthy::stopping("stopping");
    manager.close(&|what| stopping.doing(what));
    // Event streams that are still open must not hold the end up.
    runtime.shutdown_background();
    if let Err(e) = fs::remove_file(&socket) {
        tracing::debug!("the socket stays: {e}");
    }
    drop(stopping);
    tracing::info!("stopped");
    served
}

/// What the daemon heeds, from before its first mount on: without a handler SIGTERM would end it as SIGKILL does, and leave
/// mounts that nobody serves. One that comes while instances are opened takes effect when they are open; SIGKILL ends the daemon also then.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// In the context of a runtime.
    fn expect() -> Result<Signals> {
        let expect = |kind| signal(kind).context(|| "no signal handler".into());
        Ok(Signals {
            terminate: expect(SignalKind::terminate())?,
            interrupt: expect(SignalKind::interrupt())?,
            hang_up: expect(SignalKind::hangup())?,
        })
    }

    /// From now on: SIGHUP reads the settings anew, SIGTERM and SIGINT tell `shutdown`; also those that have come already.
    fn heed(self, manager: &Arc<Manager>, shutdown: &Arc<Notify>) {
        let Signals {
            mut terminate,
            mut interrupt,
            mut hang_up,
        } = self;
        let manager = Arc::clone(manager);
        tokio::spawn(async move {
            while hang_up.recv().await.is_some() {
                let manager = Arc::clone(&manager);
                // Told in the log either way.
                let _ = tokio::task::spawn_blocking(move || reload::reload(&manager)).await;
            }
        });
        let shutdown = Arc::clone(shutdown);
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            shutdown.notify_one();
        });
    }
}

/// One daemon per state directory.
fn lock(state_dir: &Path) -> Result<File> {
    let describe = || format!("the state directory {} cannot be used", state_dir.display());
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state_dir)
        .context(describe)
        .map_err(|e| e.hint("set CBFS_STATE_DIR to a directory you may write"))?;
    let path = state_dir.join("lock");
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path);
    let lock = lock.context(describe)?;
    match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let text = format!(
                "another daemon uses the state directory {}",
                state_dir.display()
            );
            Err(Error::new(ErrorKind::Conflict, text)
                .hint("stop it, or give this one another CBFS_STATE_DIR"))
        }
        Err(e) => Err(e).context(describe),
    }
}

fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: now.maximum,
        maximum: now.maximum,
    };
    if let Err(e) = setrlimit(Resource::Nofile, most) {
        tracing::debug!("the limit on open files stays: {e}");
    }
}
