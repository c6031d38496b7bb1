//! The commands that go straight to a bucket, as a person runs them: exit codes, streams, JSON.

#![allow(clippy::unwrap_used)] // helpers of tests are test code too, which clippy does not see

use assert_cmd::Command;
use std::path::Path;
use std::process::Output;

/// `cbfsctl` without anything of this machine's environment.
fn cbfsctl(state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cbfsctl"));
    command
        .env_remove("CBFS_BUCKET")
        .env("CBFS_CONFIG", "/dev/null")
        .env("CBFS_STATE_DIR", state.join("state"))
        .env("CBFS_SOCKET", state.join("no-daemon.sock"));
    command
}

struct Sandbox {
    dir: tempfile::TempDir,
    url: String,
}

impl Sandbox {
    fn new() -> Sandbox {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("bucket")).unwrap();
        let url = format!("file://{}/bucket", dir.path().display());
        Sandbox { dir, url }
    }

    fn run(&self, args: &[&str]) -> Output {
        cbfsctl(self.dir.path())
            .env("CBFS_BUCKET", &self.url)
            .args(args)
            .output()
            .unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let (stdout, stderr) = texts(&output);
        assert!(output.status.success(), "{args:?}: {stdout}{stderr}");
        stdout
    }
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn fs_create_prints_the_handle_alone_and_list_and_show_find_it() {
    let sandbox = Sandbox::new();
    let created = sandbox.run(&["fs", "create", "home"]);
    let (stdout, stderr) = texts(&created);
    let handle = stdout.trim_end();
    assert!(created.status.success());
    assert_eq!(stdout, format!("{handle}\n"));
    assert!(
        handle.starts_with("home-") && handle.len() == "home-".len() + 36,
        "{handle}"
    );
    assert!(stderr.contains("cbfsctl mount"), "{stderr}");

    assert!(sandbox.ok(&["fs", "list"]).contains(handle));
    let shown = sandbox.ok(&["fs", "show", "home"]);
    assert!(
        shown.contains(handle) && shown.contains("none yet: never mounted"),
        "{shown}"
    );
    assert_eq!(sandbox.ok(&["snapshot", "list", "home"]), "");
    assert_eq!(sandbox.ok(&["epoch", "list", "home", "-q"]), "");
}

#[test]
fn json_is_json_and_lists_are_arrays() {
    let sandbox = Sandbox::new();
    let parse = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap();
    assert_eq!(
        parse(sandbox.ok(&["fs", "list", "--json"])),
        serde_json::json!([])
    );
    let created = parse(sandbox.ok(&["--json", "fs", "create", "home"]));
    let listed = parse(sandbox.ok(&["fs", "list", "--json"]));
    assert_eq!(listed[0]["fs"], created["fs"]);
    let shown = parse(sandbox.ok(&["fs", "show", "home", "--json"]));
    assert_eq!(
        (&shown["fs"], &shown["snapshots"]),
        (&created["fs"], &serde_json::json!(0))
    );
    for list in ["snapshot", "epoch"] {
        assert_eq!(
            parse(sandbox.ok(&[list, "list", "home", "--json"])),
            serde_json::json!([])
        );
    }
}

#[test]
fn errors_tell_their_kind_by_exit_code_and_as_json() {
    let sandbox = Sandbox::new();
    let code = |args: &[&str]| sandbox.run(args).status.code().unwrap();
    assert_eq!(code(&["fs", "create", "no tag"]), 2);
    assert_eq!(code(&["fs", "show", "home"]), 10);
    assert_eq!(code(&["snapshot", "show", "home@1"]), 10);
    assert_eq!(
        code(&["fs", "list", "--bucket", "file:///nonexistent/bucket"]),
        5
    );
    assert_eq!(code(&["fs", "list", "--bucket", "nonsense"]), 2);
    assert_eq!(code(&["status"]), 4);
    assert_eq!(code(&["umount", "home"]), 4);
    assert_eq!(code(&["mount", "home@1", "/nonexistent"]), 2);
    assert_eq!(code(&["nonsense"]), 2);
    assert_eq!(code(&["--version"]), 0);

    sandbox.ok(&["fs", "create", "twice"]);
    sandbox.ok(&["fs", "create", "twice"]);
    assert_eq!(code(&["fs", "show", "twice"]), 11);

    let output = sandbox.run(&["fs", "show", "home", "--json"]);
    let (stdout, stderr) = texts(&output);
    assert_eq!(stdout, "");
    let error: serde_json::Value = serde_json::from_str(&stderr).unwrap();
    assert_eq!(error["error"]["kind"], "not_found");
    let (_, stderr) = texts(&sandbox.run(&["fs", "nonsense", "--json"]));
    let error: serde_json::Value = serde_json::from_str(&stderr).unwrap();
    assert_eq!(error["error"]["kind"], "usage");
}

#[test]
fn without_a_bucket_and_a_daemon_the_hint_says_what_to_give() {
    let dir = tempfile::tempdir().unwrap();
    let output = cbfsctl(dir.path()).args(["fs", "list"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(texts(&output).1.contains("CBFS_BUCKET"));
    let output = cbfsctl(dir.path())
        .args(["snapshot", "list", "home"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4));
    assert!(texts(&output).1.contains("--bucket"));
}

#[test]
fn a_reader_that_goes_away_ends_the_command_quietly() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["fs", "create", "home"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_cbfsctl"))
        .args(["fs", "list", "--bucket", &sandbox.url])
        .stdout(writer)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(texts(&output).1, "");
}
