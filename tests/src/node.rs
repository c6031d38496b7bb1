//! A node: a state directory, a socket, a daemon, and `cbfsctl` that talks to it.

use crate::stage::Ground;
use crate::{TestBucket, cbfsctl};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long a daemon may take to start or stop, on a busy machine and in debug.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at something that cannot be waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How much of a log a failing test shows.
const LOG_LINES: usize = 40;

/// A node of a stage. Dropping it kills its daemon; its mounts go with the stage.
#[derive(Debug)]
pub struct Node {
    name: String,
    dir: PathBuf,
    daemon: Mutex<Option<Child>>,
    environment: Mutex<Vec<(String, String)>>,
    _ground: Arc<Ground>,
}

/// A daemon that ended instead of getting ready.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub status: ExitStatus,
    /// Its log.
    pub log: String,
}

impl Node {
    pub(crate) fn new(ground: &Arc<Ground>, name: &str) -> Node {
        let dir = ground.path().join("nodes").join(name);
        fs::create_dir_all(&dir).expect("the node's directory");
        Node {
            name: name.to_owned(),
            dir,
            daemon: Mutex::default(),
            environment: Mutex::default(),
            _ground: Arc::clone(ground),
        }
    }

    /// With these variables in the environment of its daemons and of `cbfsctl`.
    #[must_use]
    pub fn with_environment(self, environment: &[(&'static str, String)]) -> Node {
        for (variable, value) in environment {
            self.set(variable, value);
        }
        self
    }

    /// Another node (with a socket and a log of its own) that uses the state directory of this
    /// one.
    pub fn twin(&self, name: &str) -> Node {
        let twin = Node::new(&self._ground, name);
        std::os::unix::fs::symlink(self.state_dir(), twin.dir.join("state")).expect("a symlink");
        twin
    }

    /// Set a variable for everything of this node that is started from now on.
    pub fn set(&self, variable: &str, value: &str) {
        let mut environment = self.environment.lock().expect("no panic before");
        environment.push((variable.to_owned(), value.to_owned()));
    }

    /// `CBFS_STATE_DIR`.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// `CBFS_SOCKET`.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("sock")
    }

    /// The log of the daemons that [`Node::start`] started.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.dir.join("cbfsd.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// `cbfsctl` for this node, without anything of this machine's environment.
    pub fn command(&self) -> Command {
        self.environment_of(Command::new(cbfsctl()))
    }

    /// A program with the environment of this node's `cbfsctl`.
    pub fn environment_of(&self, mut command: Command) -> Command {
        for variable in [
            "CBFS_BUCKET",
            "CBFS_CLOCK_OFFSET_FILE",
            "CBFS_CONFIG",
            "CBFS_FAILPOINT",
            "CBFS_LOG",
            "CBFS_FLUSH_ROWS",
            "CBFS_CACHE_BYTES",
            "CBFS_FUSE_POLL",
            "CBFS_PROXY_LIMIT",
            "NO_COLOR",
        ] {
            command.env_remove(variable);
        }
        command
            // A file of this machine's must not be found; an empty one says nothing.
            .env("CBFS_CONFIG", "/dev/null")
            .env("CBFS_STATE_DIR", self.state_dir())
            .env("CBFS_SOCKET", self.socket())
            .envs(self.environment.lock().expect("no panic before").clone())
            .stdin(Stdio::null());
        command
    }

    /// Run `cbfsctl`.
    pub fn ctl<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        let mut command = self.command();
        command.args(args);
        Ran::of(&mut command)
    }

    /// Run `cbfsctl` for as long as the daemon lives: it would give a daemon that has died time to come
    /// back. `None` when the daemon died first.
    pub fn ctl_while_alive<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
    ) -> Option<ExitStatus> {
        let mut command = self.command();
        command.args(args).stdout(Stdio::null());
        let mut child = command.spawn().expect("cbfsctl could not be spawned");
        loop {
            if let Some(status) = child.try_wait().expect("the state of cbfsctl") {
                return Some(status);
            }
            if !self.is_running() {
                let _ = child.kill();
                child.wait().expect("the end of cbfsctl");
                return None;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Run `cbfsctl --json` and parse what it prints.
    pub fn json<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> serde_json::Value {
        let mut command = self.command();
        command.args(args).arg("--json");
        let text = Ran::of(&mut command).ok();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{command:?}: {e} in {text:?}"))
    }

    /// Ask the daemon's API, as `curl --unix-socket` would; the body of the answer.
    pub fn get(&self, path: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).expect("the daemon's socket");
        let request = format!("GET {path} HTTP/1.0\r\nhost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.contains(" 200 "), "{head}");
        body.to_owned()
    }

    /// Mount a master.
    pub fn mount(&self, fs: &str, bucket: &TestBucket, dir: &Path) {
        let dir = dir.to_str().expect("a plain path");
        self.ctl(["mount", fs, dir, "--bucket", bucket.url()]).ok();
    }

    /// Start the daemon and wait until it answers: then its mounts are back.
    pub fn start(&self) {
        if let Err(ended) = self.try_start() {
            panic!(
                "the daemon of {} did not start ({}):\n{}",
                self.name, ended.status, ended.log
            );
        }
    }

    /// Start the daemon; answers when it is ready or has ended.
    pub fn try_start(&self) -> Result<(), Ended> {
        self.try_start_with(&[])
    }

    /// The same with a failpoint armed: `NAME[:NTH][,stop]`.
    pub fn try_start_armed(&self, failpoint: &str) -> Result<(), Ended> {
        self.try_start_with(&[("CBFS_FAILPOINT", failpoint)])
    }

    fn try_start_with(&self, environment: &[(&str, &str)]) -> Result<(), Ended> {
        let mut daemon = self.daemon.lock().expect("no panic before");
        assert!(daemon.is_none(), "the daemon of {} runs already", self.name);
        let log_path = self.dir.join("cbfsd.log");
        let log = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&log_path)
            .expect("the daemon's log");
        let before = log.metadata().expect("the log's size").len();
        let mut child = self
            .command()
            .args(["util", "cbfsd"])
            .envs(environment.iter().copied())
            .stdout(log.try_clone().expect("the log twice"))
            .stderr(log)
            .spawn()
            .expect("the daemon could not be spawned");
        let started = Instant::now();
        while UnixStream::connect(self.socket()).is_err() {
            if let Some(status) = child.try_wait().expect("the daemon's state") {
                let _ = fs::remove_file(self.socket());
                let log = fs::read(&log_path).unwrap_or_default();
                let own = log.get(before as usize..).unwrap_or_default();
                let log = String::from_utf8_lossy(own).into_owned();
                return Err(Ended { status, log });
            }
            if started.elapsed() > PATIENCE {
                let _ = child.kill();
                let _ = child.wait();
                panic!("the daemon of {} is not ready:\n{}", self.name, self.log());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        *daemon = Some(child);
        Ok(())
    }

    /// Start the daemon without waiting for anything.
    pub fn start_blindly(&self) {
        self.start_blindly_with(&[]);
    }

    /// The same with a failpoint armed: `NAME[:NTH][,stop]`.
    pub fn start_blindly_armed(&self, failpoint: &str) {
        self.start_blindly_with(&[("CBFS_FAILPOINT", failpoint)]);
    }

    fn start_blindly_with(&self, environment: &[(&str, &str)]) {
        let mut daemon = self.daemon.lock().expect("no panic before");
        let log = OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.dir.join("cbfsd.log"))
            .expect("the daemon's log");
        let child = self
            .command()
            .args(["util", "cbfsd"])
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        *daemon = Some(child.expect("the daemon could not be spawned"));
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        let daemon = self.daemon.lock().expect("no panic before");
        daemon.as_ref().expect("the daemon runs").id()
    }

    /// `kill -9` the daemon, and wait until it is gone. Its mounts are dead now.
    pub fn kill9(&self) {
        let child = self.daemon.lock().expect("no panic before").take();
        let mut child = child.expect("the daemon runs");
        child.kill().expect("the daemon could not be killed");
        child.wait().expect("the daemon's end");
        // Else the next start would take the dead socket for one to wait for.
        let _ = fs::remove_file(self.socket());
    }

    /// Wait until the daemon has ended by itself (somebody else kills it).
    pub fn wait_for_end(&self) -> ExitStatus {
        let child = self.daemon.lock().expect("no panic before").take();
        let status = child.expect("the daemon runs").wait();
        let _ = fs::remove_file(self.socket());
        status.expect("the daemon's end")
    }

    /// Wait until the daemon has ended by itself, if it has not long ago; panics when it does not.
    pub fn must_end(&self, why: &str) {
        let started = Instant::now();
        while self.is_running() {
            assert!(started.elapsed() < PATIENCE, "the daemon lives on: {why}");
            std::thread::sleep(LOOK_AGAIN);
        }
        drop(self.daemon.lock().expect("no panic before").take());
        let _ = fs::remove_file(self.socket());
    }

    /// Whether the daemon that was started still runs.
    pub fn is_running(&self) -> bool {
        let mut daemon = self.daemon.lock().expect("no panic before");
        let child = daemon.as_mut();
        child.is_some_and(|c| matches!(c.try_wait(), Ok(None)))
    }

    /// Ask the daemon to end in order (SIGTERM), and do not wait.
    pub fn ask_to_stop(&self) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process id"), Signal::TERM).expect("SIGTERM");
    }

    /// Send the daemon SIGCONT, which goes on where it was stopped.
    pub fn go_on(&self) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process id"), Signal::CONT).expect("SIGCONT");
    }

    /// Send the daemon SIGSTOP, and wait until none of its threads runs any more.
    pub fn pause(&self) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process id"), Signal::STOP).expect("SIGSTOP");
        self.must_be_stopped("SIGSTOP");
    }

    /// Wait until no thread of the daemon runs any more, because a failpoint (or anybody) stopped it; panics when none does.
    pub fn must_be_stopped(&self, why: &str) {
        let tasks = format!("/proc/{}/task", self.pid());
        let started = Instant::now();
        while !fs::read_dir(&tasks)
            .expect("the daemon's threads")
            .all(|task| task.is_ok_and(|task| is_stopped(&task.path())))
        {
            assert!(self.is_running(), "the daemon has ended: {why}");
            assert!(started.elapsed() < PATIENCE, "the daemon runs on: {why}");
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// End the daemon in order (SIGTERM).
    pub fn stop(&self) {
        let child = self.daemon.lock().expect("no panic before").take();
        let mut child = child.expect("the daemon runs");
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process id"), Signal::TERM).expect("SIGTERM");
        let started = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().expect("the daemon's state") {
                break status;
            }
            if started.elapsed() > PATIENCE {
                let _ = child.kill();
                let _ = child.wait();
                panic!("the daemon of {} does not stop:\n{}", self.name, self.log());
            }
            std::thread::sleep(LOOK_AGAIN);
        };
        assert!(status.success(), "the daemon ended with {status}");
    }
}

/// Whether a thread is stopped (state `T`, proc(5)); one that ended meanwhile does not run either.
fn is_stopped(task: &Path) -> bool {
    let Ok(stat) = fs::read_to_string(task.join("stat")) else {
        return true;
    };
    // The name, in parentheses, may hold anything.
    let rest = stat.rsplit_once(") ").map(|(_, rest)| rest);
    rest.is_some_and(|rest| rest.starts_with('T'))
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Ok(Some(mut child)) = self.daemon.lock().map(|mut d| d.take()) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
            eprintln!("--- log of node {}:\n{}\n---", self.name, last.join("\n"));
        }
    }
}

/// A command that has run.
#[derive(Debug)]
pub struct Ran {
    /// The command.
    pub command: String,
    /// Its exit code.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained.
    pub stderr: String,
}

impl Ran {
    /// Run it.
    pub fn of(command: &mut Command) -> Ran {
        let output = command
            .output()
            .unwrap_or_else(|e| panic!("{command:?} could not be run: {e}"));
        let text = |bytes| String::from_utf8(bytes).expect("cbfsctl speaks UTF-8");
        let words = command.get_args().map(|w| w.to_string_lossy());
        Ran {
            command: words.collect::<Vec<_>>().join(" "),
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// It must have succeeded; answers stdout.
    pub fn ok(self) -> String {
        assert!(self.code == Some(0), "it should have succeeded: {self:#?}");
        self.stdout
    }

    /// It must have failed with this exit code, printed nothing on stdout, and said all of
    /// `texts` on stderr, where an error and a hint must stand.
    pub fn fails(self, code: i32, texts: &[&str]) -> String {
        assert!(
            self.code == Some(code),
            "it should have failed with {code}: {self:#?}"
        );
        assert_eq!(self.stdout, "", "an error belongs on stderr: {self:#?}");
        for text in ["error: ", "hint: "].iter().chain(texts) {
            assert!(
                self.stderr.contains(text),
                "{text:?} is missing in the error: {self:#?}"
            );
        }
        self.stderr
    }
}
