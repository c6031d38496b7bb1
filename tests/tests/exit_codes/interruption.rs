//! Ctrl-C while a command waits or works: it ends with 130, leaves nothing half done, and what it asked of the
//! daemon was told.

use cbfs_tests::contents::noise;
use cbfs_tests::terminal::Terminal;
use cbfs_tests::{Master, Node, Stage, cbfsctl, needs_fuse, needs_tools, tree, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Who sleeps so long without a break hangs: nothing that these commands do by themselves takes this long.
const STILL: Duration = Duration::from_millis(200);

/// A command that runs.
struct Running {
    line: String,
    child: Child,
}

/// How one ended after SIGINT.
struct Interrupted {
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

/// As shells tell it: a death by SIGINT is 130 too.
fn as_shells_tell(status: ExitStatus) -> Option<i32> {
    status.code().or(status.signal().map(|signal| 128 + signal))
}

impl Running {
    /// Start `cbfsctl` with these words, in a process group of its own as a shell would; and with SIGINT as it is
    /// there, also where the tests run in the background of a script, which ignores it.
    fn start(node: &Node, line: &str) -> Running {
        let mut command = node.environment_of(Command::new("env"));
        let child = command
            .arg("--default-signal=INT")
            .arg(cbfsctl())
            .args(line.split(' '))
            .process_group(0)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Before that, a SIGINT is ignored where that was inherited.
        let name = format!("/proc/{}/comm", child.id());
        wait_until("cbfsctl", || {
            fs::read_to_string(&name).unwrap() == "cbfsctl\n"
        });
        Running {
            line: line.to_owned(),
            child,
        }
    }

    /// Wait for a line of stdout.
    fn wait_for_stdout(&mut self, text: &str) {
        wait_for(self.child.stdout.as_mut().unwrap(), text);
    }

    /// Wait for a line of stderr.
    fn wait_for_stderr(&mut self, text: &str) {
        wait_for(self.child.stderr.as_mut().unwrap(), text);
    }

    /// Wait until it does nothing but wait, for somebody who does not answer: all its threads sleep, and go on sleeping.
    fn wait_until_it_hangs(&self) {
        let mut before = Vec::new();
        let mut since = Instant::now();
        wait_until(&self.line, || {
            let now = threads(self.child.id());
            if now != before || now.iter().any(|thread| !thread.sleeps) {
                (before, since) = (now, Instant::now());
            }
            since.elapsed() >= STILL
        });
    }

    /// Whether it catches SIGINT by now (`SigCgt`, proc(5)); else Ctrl-C just kills it.
    fn catches_it(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let mask = field(&status, "SigCgt:");
        let mask = u64::from_str_radix(mask, 16).unwrap();
        mask & (1 << (Signal::INT.as_raw() - 1)) != 0
    }

    /// Press Ctrl-C once it hangs; where it catches that, it must end by itself.
    fn interrupt_hanging(self, catches: bool) -> Interrupted {
        self.wait_until_it_hangs();
        assert_eq!(self.catches_it(), catches, "{}", self.line);
        let ended = self.interrupt();
        assert_eq!(ended.status.code().is_some(), catches, "{}", ended.stderr);
        ended
    }

    /// Press Ctrl-C once; it must end with 130.
    fn interrupt(self) -> Interrupted {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        let out = self.child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let (stdout, stderr) = (text(out.stdout), text(out.stderr));
        let code = as_shells_tell(out.status);
        assert_eq!(code, Some(130), "{}: {stderr}", self.line);
        assert!(!stderr.contains("error: "), "{}: {stderr}", self.line);
        Interrupted {
            status: out.status,
            stdout,
            stderr,
        }
    }
}

/// What a thread does.
#[derive(PartialEq)]
struct Thread {
    sleeps: bool,
    /// How often it has begun to wait.
    waits: u64,
}

/// The threads of a process; without one that just ended.
fn threads(pid: u32) -> Vec<Thread> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let statuses =
        tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
    let thread = |status: String| Thread {
        sleeps: field(&status, "State:").starts_with(['S', 'D']),
        waits: field(&status, "voluntary_ctxt_switches:").parse().unwrap(),
    };
    statuses.map(thread).collect()
}

/// A value of a status file in proc(5).
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let value = status.lines().find_map(|line| line.strip_prefix(name));
    value.unwrap().trim()
}

/// Byte by byte: what comes after the line is for others.
fn wait_for(stream: &mut impl Read, text: &str) {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "{text:?} never came");
        match byte[0] {
            b'\n' if String::from_utf8_lossy(&line).contains(text) => return,
            b'\n' => line.clear(),
            other => line.push(other),
        }
    }
}

/// Continues a node in the end, also of a test that fails.
struct GoesOn<'a>(&'a Node);

impl Drop for GoesOn<'_> {
    fn drop(&mut self) {
        self.0.go_on();
    }
}

/// The numbers of the requests for snapshots.
fn requests(m: &Master) -> Vec<u64> {
    let listed = m.node.json(["snapshot", "list", "home"]);
    let numbers = listed.as_array().unwrap().iter();
    numbers.map(|s| s["number"].as_u64().unwrap()).collect()
}

#[test]
fn waiting_for_a_snapshot_ends_and_the_snapshot_goes_on() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    // It cannot come to its end while the bucket is away.
    let (bucket, away) = (m.stage.path("bucket"), m.stage.path("away"));
    fs::write(m.at("file"), "contents").unwrap();
    fs::rename(&bucket, &away).unwrap();
    for daemon_stands in [false, true] {
        let mut create = Running::start(&m.node, "snapshot create home --wait");
        create.wait_for_stdout("");
        create.wait_for_stderr("snapshot ");
        let mut watch = Running::start(&m.node, "snapshot watch home@1");
        watch.wait_for_stderr("snapshot 1");
        let mut stream = Running::start(&m.node, "snapshot watch home@1 --json");
        stream.wait_for_stdout("\"number\":1");
        let standing = daemon_stands.then(|| {
            m.node.pause();
            GoesOn(&m.node)
        });
        for waiting in [create, watch, stream] {
            let ended = waiting.interrupt();
            assert!(!ended.stderr.contains("warning"), "{}", ended.stderr);
        }
        drop(standing);
    }
    fs::rename(&away, &bucket).unwrap();
    m.wait_for(1);
    m.wait_for(2);
    assert_eq!(requests(&m), [1, 2]);
}

/// What is asked of a daemon that does not answer: nothing but the command's own end is waited for, and nothing is
/// on stdout or on the disk.
#[test]
fn a_daemon_that_stands_still_holds_no_command() {
    needs_fuse!();
    let m = Master::new();
    fs::write(m.at("file"), "contents").unwrap();
    m.snapshot();
    m.node.pause();
    let standing = GoesOn(&m.node);
    let tar = m.stage.path("half.tar");
    let mnt = m.stage.dir("other");
    // Most ask the daemon before they have anything to put in order.
    for (line, catches) in [
        ("status", false),
        ("snapshot watch home@1", false),
        ("snapshot cancel home@1", false),
        ("snapshot list home", false),
        ("log home --follow", true),
        ("warm home", false),
        (&*format!("mount home {}", mnt.display()), false),
        (&format!("instance export home -o {}", tar.display()), false),
        (
            &format!("epoch promote home --previous-epoch 1 --confirm {}", m.fs),
            false,
        ),
    ] {
        let ended = Running::start(&m.node, line).interrupt_hanging(catches);
        assert_eq!(ended.stdout, "", "{line}");
    }
    assert!(!tar.exists());
    drop(standing);
    assert_eq!(m.node.json(["epoch", "list", "home"])[0]["epoch"], 1);
    assert_eq!(requests(&m), [1]);
}

/// The daemon stops in the middle of what it was asked for; who waits for it is told that it may go on, and it does.
#[cfg(debug_assertions)] // a release daemon has no failpoints
#[test]
fn what_the_daemon_has_begun_is_told() {
    needs_fuse!();
    let m = Master::new();
    fs::write(m.at("file"), "contents").unwrap();
    m.snapshot();
    let begun = |node: &Node, failpoint: &str, line: &str, told: &str| {
        node.try_start_armed(&format!("{failpoint},stop")).unwrap();
        let running = Running::start(node, line);
        node.must_be_stopped(failpoint);
        let standing = GoesOn(node);
        let ended = running.interrupt();
        assert_eq!(ended.stdout, "", "{line}");
        assert!(ended.stderr.contains(told), "{line}: {}", ended.stderr);
        drop(standing);
    };
    m.node.stop();
    begun(
        &m.node,
        "snapshot.requested",
        "snapshot create home --name told",
        "may still take the request: `cbfsctl snapshot list home` tells",
    );
    m.wait_for(2);
    assert_eq!(requests(&m), [1, 2]);

    let other = m.stage.node("other");
    let bucket = m.bucket.url();
    let promote = format!(
        "epoch promote {} --previous-epoch 1 --yes --bucket {bucket}",
        m.fs
    );
    begun(
        &other,
        "promote.noted",
        &promote,
        "the daemon may go on with the promotion",
    );
    wait_until("the promotion", || {
        let epochs = m.node.json(["epoch", "list", "home"]);
        epochs.as_array().map(Vec::len) == Some(2)
    });
    // Who did not see the answer asks again.
    let again = other.ctl(promote.split(' '));
    again.fails(11, &["this node is the master of", "in epoch 2"]);

    let fresh = m.stage.node("fresh");
    fresh.ctl(["fs", "create", "new", "--bucket", bucket]).ok();
    let mnt = m.stage.dir("fresh-mnt");
    begun(
        &fresh,
        "segment.named",
        &format!("mount new {} --bucket {bucket}", mnt.display()),
        "the daemon may still mount it",
    );
    wait_until("the mount", || {
        fresh.json(["instance", "list"])[0]["mount_point"] == mnt.to_str().unwrap()
    });
}

#[test]
fn an_export_into_a_pipe_that_nobody_reads_ends() {
    needs_fuse!();
    let m = Master::new();
    fs::write(m.at("file"), noise(1, 3_000_000)).unwrap();
    m.snapshot();
    let line = format!("snapshot export home@1 --bucket {}", m.bucket.url());
    let mut export = Running::start(&m.node, &line);
    // It has begun; and a pipe does not take three megabytes.
    export
        .child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut [0])
        .unwrap();
    let stdout = export.child.stdout.take();
    let ended = export.interrupt();
    assert!(!ended.stderr.contains("complete"), "{}", ended.stderr);
    drop(stdout);
}

/// A bucket on a network file system that hangs: a mount whose daemon stands still.
#[test]
fn a_bucket_that_hangs_holds_no_command() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    fs::write(m.at("file"), noise(1, 300_000)).unwrap();
    m.snapshot();
    fs::write(m.at("file"), "other").unwrap();
    m.snapshot();
    let network = Master::new();
    let copied = Command::new("cp")
        .arg("-a")
        .arg(m.stage.path("bucket"))
        .arg(&network.mnt)
        .status();
    assert!(copied.unwrap().success());
    network.remount();
    network.node.pause();
    let standing = GoesOn(&network.node);
    let bucket = format!("file://{}", network.at("bucket").display());
    let (tar, index) = (m.stage.path("half.tar"), m.stage.path("index"));
    let reader = m.stage.node("reader");
    // Most open the bucket before they have anything to put in order.
    for (line, catches) in [
        ("fs list", false),
        ("snapshot list home", false),
        ("snapshot verify home@1 --deep", false),
        ("snapshot diff home@1 2", false),
        (
            &*format!("snapshot export home@1 -o {}", tar.display()),
            false,
        ),
        (
            &format!("index rebuild home@2 --to {}", index.display()),
            false,
        ),
        ("log home", true),
    ] {
        let line = format!("{line} --bucket {bucket}");
        let ended = Running::start(&reader, &line).interrupt_hanging(catches);
        assert_eq!(ended.stdout, "", "{line}");
    }
    assert!(!tar.exists() && !index.exists());
    drop(standing);
}

#[test]
fn ctrl_c_at_the_question_of_a_promotion_means_no() {
    needs_fuse!();
    needs_tools!("tmux");
    let m = Master::new();
    m.snapshot();
    let slave = m.slave(1);
    let command = format!(
        "trap : INT; '{}' epoch promote home --previous-epoch 1; echo ended with $?; exec cat",
        cbfsctl().display()
    );
    let environment = [
        ("CBFS_SOCKET", &*slave.node.socket()),
        ("CBFS_STATE_DIR", &*slave.node.state_dir()),
        ("CBFS_CONFIG", Path::new("/dev/null")),
    ];
    let terminal = Terminal::run(m.stage.path("tmux"), (150, 20), &environment, &command);
    terminal.wait_for("[y/N]");
    terminal.press(&["C-c"]);
    terminal.wait_for("ended with 130");
    let epochs = slave.node.json(["epoch", "list", "home"]);
    assert_eq!(epochs.as_array().map(Vec::len), Some(1), "{epochs}");
}

#[test]
fn an_interrupted_demo_takes_everything_away() {
    needs_fuse!();
    let stage = Stage::new();
    let node = stage.node("nobody");
    tree::small_files(&stage.dir("tree"), 20);
    let dir = stage.path("demo");
    let (at, of) = (dir.display(), stage.path("tree"));
    let mut demo = Running::start(&node, &format!("demo --dir {at} --tree {}", of.display()));
    demo.wait_for_stdout("mounted it as master");
    demo.interrupt();
    assert!(!dir.exists() || fs::read_dir(&dir).unwrap().next().is_none());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(dir.to_str().unwrap()), "{mounts}");
}

#[test]
fn an_interrupted_probe_leaves_no_object() {
    let stage = Stage::new();
    let (node, bucket) = (stage.node("one"), stage.dir("probed"));
    let line = format!("bucket probe file://{}", bucket.display());
    let mut probe = Running::start(&node, &line);
    // It has made objects by now, and has most before it.
    probe.wait_for_stderr("creators at once");
    let ended = probe.interrupt();
    assert!(!ended.stderr.contains("large objects"), "{}", ended.stderr);
    let names = fs::read_dir(&bucket)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = names.filter(|name| name != ".tmp").collect();
    assert!(left.is_empty(), "{left:?}");
}
