//! Exit codes, one by one, and the errors that people read: what failed, why, what to do.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too

mod interruption;

use cbfs_tests::{Master, Ran, needs_fuse};
use std::fs;
use std::path::Path;

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

    let failed = run("snapshot export home@1 --to /proc/nowhere");
    assert_eq!(failed.code, Some(1), "{failed:?}");
    insta::assert_snapshot!(told(&failed, &m), @r"
    error: the directory /proc/nowhere could not be made
      caused by: No such file or directory (os error 2)
    ");

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
    insta::assert_snapshot!(told(&refused, &m), @r"
    error: access to s3://b was refused
      caused by: no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or say them in cbfsd.toml
      hint: check the credentials, and that they may read and write this bucket
    ");

    let latest = run("snapshot delete home@1");
    assert_eq!(latest.code, Some(11), "{latest:?}");
    insta::assert_snapshot!(told(&latest, &m), @r"
    error: snapshot 1 of HANDLE is the latest complete one: nothing newer could take its place
      hint: make another snapshot first; `fs delete` is for whole file systems
    ");

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
