//! Exit codes, one by one, and the errors that people read: what failed, why, what to do.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too

use cbfs_tests::{Master, Node, Ran, Stage, needs_fuse};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;

/// An error as it was shown, with what differs from run to run replaced.
fn told(ran: &Ran, m: &Master) -> String {
    let stage = m.stage.path("");
    let stage = stage.to_str().unwrap().trim_end_matches('/');
    let text = ran.stderr.replace(&m.fs, "HANDLE");
    text.replace(stage, "STAGE").trim_end().to_owned()
}

/// Change a JSON object of a directory bucket.
fn edit(bucket: &Path, name: &str, change: impl Fn(String) -> String) {
    let path = bucket.join(name);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, change(text)).unwrap();
}

#[test]
fn each_exit_code_has_its_error_with_cause_and_hint() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    m.snapshot();
    let run = |line: &str| m.node.ctl(line.split(' '));
    assert_eq!(run("status").code, Some(0));

    let failed = run("index rebuild home@1 --to /proc/nowhere");
    assert_eq!(failed.code, Some(1), "{failed:?}");

    let usage = run("mount home@1 /tmp");
    assert_eq!(usage.code, Some(2));
    insta::assert_snapshot!(told(&usage, &m), @r"
    error: home@1 is a snapshot, and snapshots never change
      hint: add --slave to mount it read-only
    ");
    let unknown = run("status --jsn");
    assert_eq!(unknown.code, Some(2));
    assert!(
        unknown
            .stderr
            .contains("a similar argument exists: '--json'")
    );

    let unreachable = run("--socket /nonexistent/s status");
    assert_eq!(unreachable.code, Some(4));
    insta::assert_snapshot!(told(&unreachable, &m), @r"
    error: no daemon answers on /nonexistent/s
      caused by: No such file or directory (os error 2)
      hint: start it with `cbfsctl mount …` or `systemctl start cbfsd`
    ");

    let no_bucket = run("fs list --bucket file:///nonexistent");
    assert_eq!(no_bucket.code, Some(5));
    insta::assert_snapshot!(told(&no_bucket, &m), @r"
    error: the bucket cannot be reached: the directory /nonexistent does not exist
      hint: check that the bucket exists and is reachable
    ");

    let nothing = run("snapshot show home@77");
    assert_eq!(nothing.code, Some(10));
    insta::assert_snapshot!(told(&nothing, &m), @r"
    error: HANDLE has no snapshot 77
      hint: the latest is 1; `cbfsctl snapshot list HANDLE` shows all
    ");

    let busy = run(&format!("mount home {}", m.mnt.display()));
    assert_eq!(busy.code, Some(11));
    insta::assert_snapshot!(told(&busy, &m), @r"
    error: something is mounted at STAGE/mnt already
      hint: umount it, or use another directory
    ");

    let mut command = m.node.command();
    for variable in [
        "HOME",
        "AWS_PROFILE",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
    ] {
        command.env_remove(variable);
    }
    command.args([
        "fs",
        "list",
        "--bucket",
        "s3://b/p?endpoint=http://127.0.0.1:9&region=x",
    ]);
    let refused = Ran::of(&mut command);
    assert_eq!(refused.code, Some(12), "{refused:?}");
    assert!(refused.stderr.contains("hint: "), "{refused:?}");

    let unconfirmed = run("snapshot delete home@1");
    assert!(unconfirmed.code != Some(0), "{unconfirmed:?}");

    let bucket = m.stage.path("bucket");
    let config = format!("{}.config", m.fs);
    let good = fs::read_to_string(bucket.join(&config)).unwrap();
    edit(&bucket, &config, |t| t.replacen("1", "99", 1));
    let show = format!("fs show {} --bucket {}", m.fs, m.bucket.url());
    let newer = run(&show);
    assert_eq!(newer.code, Some(13), "{newer:?}");
    insta::assert_snapshot!(told(&newer, &m), @r"
    error: HANDLE.config has format 99, this CBFS reads up to 1
      hint: upgrade CBFS on this machine
    ");
    edit(&bucket, &config, |_| "garbage".to_owned());
    let damaged = run(&show);
    assert_eq!(damaged.code, Some(14), "{damaged:?}");
    insta::assert_snapshot!(told(&damaged, &m), @r"
    error: HANDLE.config is damaged: it is no document of CBFS
      caused by: expected value at line 1 column 1
      hint: nothing was changed; restore what is damaged from a copy or an older version, or use another snapshot
    ");
    edit(&bucket, &config, |_| good.clone());
    assert_eq!(run(&show).code, Some(0));
}

#[test]
fn an_interrupted_wait_exits_with_130_and_what_was_asked_goes_on() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    // It cannot come to its end while the bucket is away.
    let (bucket, away) = (m.stage.path("bucket"), m.stage.path("away"));
    fs::write(m.at("file"), "contents").unwrap();
    fs::rename(&bucket, &away).unwrap();
    let mut command = m.node.command();
    command
        .args(["snapshot", "create", "home", "--wait"])
        .process_group(0)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "1");
    let mut progress = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(progress.next().unwrap().unwrap().contains("snapshot 1"));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let status = child.wait().unwrap();
    // Shells tell a death by SIGINT as 130 too.
    use std::os::unix::process::ExitStatusExt;
    assert!(
        status.code() == Some(130) || status.signal() == Some(2),
        "{status}"
    );
    fs::rename(&away, &bucket).unwrap();
    m.wait_for(1);
}

#[test]
fn an_interrupted_probe_exits_with_130_and_leaves_no_object() {
    let stage = Stage::new();
    let (node, bucket) = (stage.node("one"), stage.dir("probed"));
    let mut command = node.command();
    command
        .args(["bucket", "probe", &format!("file://{}", bucket.display())])
        .process_group(0)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let progress = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut told = progress.map(|line| line.unwrap());
    // It has made objects by now, and has most before it.
    assert!(told.any(|line| line.contains("creators at once")));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert!(!told.any(|line| line.contains("large objects")));
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let names = fs::read_dir(&bucket)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = names.filter(|name| name != ".tmp").collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Run a command on a terminal of so many columns.
fn on_terminal(node: &Node, columns: u16, line: &str) -> String {
    // script(1) gives it one; stty sets its width.
    let command = format!(
        "stty cols {columns} rows 24; {} {line}",
        cbfs_tests::cbfsctl().display()
    );
    let mut script = node.environment_of(std::process::Command::new("script"));
    script
        .args(["-qec", &command, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::null());
    Ran::of(&mut script).stdout
}

#[test]
fn tables_fit_the_terminal_and_colours_are_only_there() {
    needs_fuse!();
    if cbfs_tests::tools::is_missing("script") {
        return;
    }
    let m = Master::new();
    m.snapshot();
    let longest = |text: &str| text.lines().map(|l| l.trim_end().chars().count()).max();
    for columns in [100, 120] {
        let text = on_terminal(&m.node, columns, "instance list");
        assert!(longest(&text) <= Some(usize::from(columns)), "{text}");
    }
    // Too narrow for a table: nothing is cut off then.
    let text = on_terminal(&m.node, 40, "instance list");
    assert!(text.contains(&m.fs), "{text}");
    let piped = m.node.ctl(["instance", "list"]).ok();
    assert!(
        piped.contains(&m.fs) && piped.lines().count() == 2,
        "{piped}"
    );

    let wrong = on_terminal(&m.node, 80, "snapshot show home@77");
    assert!(wrong.contains("\x1b["), "{wrong:?}");
    m.node.set("NO_COLOR", "1");
    let wrong = on_terminal(&m.node, 80, "snapshot show home@77");
    assert!(!wrong.contains("\x1b["), "{wrong:?}");
}
