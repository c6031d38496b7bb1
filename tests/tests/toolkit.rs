//! What stands around the commands: completion in shells, the helper of mount(8), `doctor`.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too

use cbfs_tests::terminal::Terminal;
use cbfs_tests::{Disk, Master, Node, Ran, Stage, cbfsctl, needs_fuse, needs_tools, wait_until};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

/// What a shell is offered behind `line`, whose last word is being typed.
fn offered(node: &Node, line: &[&str]) -> Vec<String> {
    let mut command = node.command();
    command
        .env("CBFSCTL_COMPLETE", "fish")
        .args(["--", "cbfsctl"])
        .args(line);
    let lines = Ran::of(&mut command).ok();
    let values = lines.lines().filter_map(|l| l.split('\t').next());
    values.map(str::to_owned).collect()
}

#[test]
fn completion_offers_what_exists_now() {
    needs_fuse!();
    let m = Master::new();
    let named = ["snapshot", "create", "home", "--name", "monday", "--wait"];
    m.node.ctl(named).ok();
    let mnt = m.mnt.to_str().unwrap();
    let offers = |line: &[&str]| offered(&m.node, line);
    assert_eq!(
        offers(&["snapshot", "show", "home@"]),
        ["home@latest", "home@1", "home@monday"]
    );
    assert_eq!(offers(&["snapshot", "show", "home@m"]), ["home@monday"]);
    assert_eq!(offers(&["snapshot", "create", "ho"]), ["home"]);
    assert_eq!(offers(&["umount", mnt]), [mnt]);
    // From the bucket, where no daemon runs.
    let other = m.stage.node("other");
    let bucket = ["--bucket", m.bucket.url(), "snapshot", "show", "home@mo"];
    assert_eq!(offered(&other, &bucket), ["home@monday"]);
    assert!(offered(&other, &["snapshot", "show", "home@"]).is_empty());
    // Every command, none by hand.
    let commands = offers(&[""]);
    for command in ["fs", "mount", "snapshot", "doctor", "status"] {
        assert!(commands.iter().any(|c| c == command), "{commands:?}");
    }
    assert!(!commands.iter().any(|c| c == "util"), "{commands:?}");
    assert_eq!(offers(&["snapshot", "wat"]), ["watch"]);
}

#[test]
fn completion_in_bash_keeps_what_stands_before_an_at_sign() {
    needs_fuse!();
    let m = Master::new();
    let named = ["snapshot", "create", "home", "--name", "monday", "--wait"];
    m.node.ctl(named).ok();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../completions/cbfsctl.bash");
    let program = cbfsctl().to_str().unwrap().to_owned();
    // As readline calls it: the words are split at the at sign, and "@mo" is to be replaced.
    let calls = format!(
        "source {}; COMP_WORDS=({program} snapshot show home @ mo); COMP_CWORD=5; COMP_TYPE=9
         COMP_LINE='{program} snapshot show home@mo'; COMP_POINT=${{#COMP_LINE}}
         _cbfsctl {program} @mo @; echo \"${{COMPREPLY[*]}}\"",
        script.display()
    );
    let mut bash = m.node.environment_of(Command::new("bash"));
    bash.args(["--norc", "-c", &calls]);
    assert_eq!(Ran::of(&mut bash).ok(), "@monday\n");
}

/// How a shell takes the completion up, in a directory with it.
const SHELLS: [(&str, &str, &str); 3] = [
    (
        "bash",
        "bash --norc --noprofile -i",
        "source ./cbfsctl.bash",
    ),
    (
        "zsh",
        "zsh -f -i",
        "fpath=($PWD $fpath); autoload -Uz compinit; compinit -u -D",
    ),
    ("fish", "fish --no-config -i", "source ./cbfsctl.fish"),
];

#[test]
fn completion_works_in_the_real_shells() {
    needs_fuse!();
    needs_tools!("tmux", "zsh", "fish");
    let m = Master::new();
    let named = ["snapshot", "create", "home", "--name", "monday", "--wait"];
    m.node.ctl(named).ok();
    let bin = m.stage.dir("bin");
    std::os::unix::fs::symlink(cbfsctl(), bin.join("cbfsctl")).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../completions");
    for (name, shell, setup) in SHELLS {
        let command = format!("cd {} && exec {shell}", scripts.display());
        let environment = [
            ("CBFS_SOCKET", &*m.node.socket()),
            ("CBFS_STATE_DIR", &*m.node.state_dir()),
            ("CBFS_CONFIG", Path::new("/dev/null")),
            ("HOME", &*m.stage.dir("shell-home")),
            ("PATH", Path::new(&path)),
        ];
        let socket = m.stage.path(format!("tmux-{name}"));
        let terminal = Terminal::run(socket, (100, 30), &environment, &command);
        // In two parts, so that the line that is typed does not count as the answer.
        terminal.press(&[&format!("{setup}; echo re''ady"), "Enter"]);
        terminal.wait_for("ready");
        // The only candidate is filled in: of a snapshot the live name, of a command its word.
        terminal.press(&["cbfsctl snapshot show home@mo", "Tab"]);
        terminal.wait_for("show home@monday");
        terminal.press(&["C-u"]);
        terminal.wait_until("line without the command", |screen| {
            !screen.contains("show home@monday")
        });
        terminal.press(&["cbfsctl sna", "Tab"]);
        terminal.wait_for("cbfsctl snapshot");
        terminal.press(&["C-u", "cbfsctl umou", "Tab", "ho", "Tab"]);
        terminal.wait_for("cbfsctl umount home");
    }
}

/// `mount.cbfs` as mount(8) runs it.
fn helper(node: &Node, stage: &Stage) -> Command {
    let link = stage.path("mount.cbfs");
    if !link.exists() {
        std::os::unix::fs::symlink(cbfsctl(), &link).unwrap();
    }
    node.environment_of(Command::new(link))
}

#[test]
fn the_helper_of_mount_mounts_masters_and_snapshots_with_the_exit_codes_of_mount() {
    needs_fuse!();
    let stage = Stage::new();
    let (node, bucket) = (stage.node("a"), stage.bucket());
    let created = node.ctl(["fs", "create", "home", "--bucket", bucket.url()]);
    created.ok();
    let (mnt, then) = (stage.dir("mnt"), stage.dir("then"));
    let url = format!("bucket={}", bucket.url());
    let mount = |source: &str, dir: &Path, options: &str| {
        let mut command = helper(&node, &stage);
        command.arg(source).arg(dir).args(["-o", options]);
        Ran::of(&mut command)
    };
    // A line of fstab: the daemon is started, and mounting what is mounted already is no error.
    let line = format!("rw,{url},noatime,_netdev,nofail");
    mount("home", &mnt, &line).ok();
    fs::write(mnt.join("file"), "one").unwrap();
    mount("home", &mnt, &line).ok();
    node.ctl(["snapshot", "create", "home", "--wait"]).ok();
    fs::write(mnt.join("file"), "two").unwrap();
    mount("home@1", &then, &format!("ro,{url}")).ok();
    assert_eq!(fs::read_to_string(then.join("file")).unwrap(), "one");
    mount("home@latest", &then, &format!("slave,{url}")).ok();

    let fails = |ran: Ran, code: i32, text: &str| {
        assert_eq!(ran.code, Some(code), "{ran:?}");
        assert!(ran.stderr.contains(text), "{ran:?}");
    };
    let other = stage.dir("other");
    fails(mount("home", &other, &url), 32, "mounted already");
    fails(mount("nothing", &other, &url), 32, "nothing");
    fails(mount("home", &other, "nosuid"), 1, "nosuid");
    fails(mount("home@1", &other, "rw"), 1, "--slave");
    fails(mount("home", &other, "color=red"), 1, "color=red");
    // Nothing is done with -f.
    let mut fake = helper(&node, &stage);
    fake.arg("home@1").arg(&other).args(["-f", "-o", "slave"]);
    Ran::of(&mut fake).ok();
    assert_eq!(fs::read_dir(&other).unwrap().count(), 0);
}

fn findings(ran: &Ran) -> Vec<Value> {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"))
}

/// The findings of one check that `doctor` does with this exit code; what is wrong must have a remedy.
fn diagnosed(node: &Node, code: i32, check: &str) -> Vec<Value> {
    let ran = node.ctl(["doctor", "--json"]);
    assert_eq!(ran.code, Some(code), "{ran:?}");
    let mut all = findings(&ran);
    for finding in all.iter().filter(|f| f["status"] != "ok") {
        assert!(finding["remedy"].is_string(), "{finding}");
    }
    all.retain(|f| f["check"] == check);
    all
}

#[test]
fn doctor_warns_of_a_disk_that_is_almost_full() {
    if Disk::Tmpfs.is_missing() {
        return;
    }
    let stage = Stage::new();
    let node = stage.node("a");
    fs::create_dir_all(node.state_dir()).unwrap();
    Disk::Tmpfs.mount(&node.state_dir(), Path::new("none"), 64);
    let disk = &diagnosed(&node, 0, "disk")[0];
    assert_eq!(disk["status"], "warning", "{disk}");
    let kind = &diagnosed(&node, 0, "disk type")[0];
    assert_eq!(kind["status"], "warning", "{kind}");
}

#[test]
fn doctor_takes_a_socket_that_nobody_listens_on_for_no_daemon() {
    let stage = Stage::new();
    let node = stage.node("a");
    drop(std::os::unix::net::UnixListener::bind(node.socket()).unwrap());
    let daemon = &diagnosed(&node, 0, "daemon")[0];
    assert_eq!(daemon["status"], "ok", "{daemon}");
    let said = daemon["message"].as_str().unwrap();
    assert!(said.contains("does not run"), "{daemon}");
}

#[cfg(debug_assertions)] // a release daemon keeps to the machine's clock
#[test]
fn doctor_compares_the_clock_with_that_of_the_bucket() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    let beside = |clocks: &[Value], text: &str| {
        let said = clocks.iter().filter_map(|c| c["message"].as_str());
        said.into_iter().any(|said| said.contains(text))
    };
    // The daemon leaves its sign of life when the mount has come.
    let url = format!("that of {}", m.bucket.url());
    wait_until("a sign of life", || {
        beside(&diagnosed(&m.node, 0, "clock"), &url)
    });
    let clocks = diagnosed(&m.node, 0, "clock");
    assert!(clocks.iter().all(|c| c["status"] == "ok"), "{clocks:?}");

    let ahead = m.stage.path("ahead");
    fs::write(&ahead, "7200").unwrap();
    m.node
        .set("CBFS_CLOCK_OFFSET_FILE", ahead.to_str().unwrap());
    m.node.stop();
    m.node.start();
    let wrong = format!("ahead of {url}");
    wait_until("a sign with the wrong time", || {
        beside(&diagnosed(&m.node, 0, "clock"), &wrong)
    });
    let clocks = diagnosed(&m.node, 0, "clock");
    assert!(
        clocks.iter().any(|c| c["status"] == "warning"),
        "{clocks:?}"
    );
}

#[test]
fn doctor_tells_what_is_wrong_with_its_remedy() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    let well = m.node.ctl(["doctor", "--json"]);
    let all = findings(&well);
    let of = |all: &[Value], check: &str| {
        let found = all.iter().find(|f| f["check"] == check);
        found
            .unwrap_or_else(|| panic!("no {check}: {all:?}"))
            .clone()
    };
    for check in ["fuse", "daemon", "instance", "bucket", "state directory"] {
        assert_eq!(of(&all, check)["status"], "ok", "{all:?}");
    }
    assert_eq!(well.code, Some(0));

    // The bucket is gone, and everybody may talk to the daemon.
    fs::rename(m.stage.path("bucket"), m.stage.path("elsewhere")).unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(m.node.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    let ill = m.node.ctl(["doctor", "--json"]);
    assert_eq!(ill.code, Some(1));
    let all = findings(&ill);
    assert_eq!(of(&all, "bucket")["status"], "problem");
    assert_eq!(of(&all, "socket")["status"], "warning");
    for finding in all.iter().filter(|f| f["status"] != "ok") {
        assert!(finding["remedy"].is_string(), "{finding}");
    }
    let text = m.node.ctl(["doctor"]);
    assert!(text.stdout.contains("✖ problem") && text.stdout.contains("chmod 660"));
    fs::rename(m.stage.path("elsewhere"), m.stage.path("bucket")).unwrap();

    // Without a daemon there is nothing wrong, only nothing running.
    let idle = m.stage.node("idle");
    let ran = idle.ctl(["doctor", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let daemon = of(&findings(&ran), "daemon");
    assert!(daemon["message"].as_str().unwrap().contains("mount"));

    // Settings that no command understands are a finding, too.
    let wrong = m.stage.path("wrong.toml");
    fs::write(&wrong, "proxy_limt = 1\n").unwrap();
    idle.set("CBFS_CONFIG", wrong.to_str().unwrap());
    let ran = idle.ctl(["doctor", "--json"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let settings = of(&findings(&ran), "settings");
    assert!(settings["message"].as_str().unwrap().contains("proxy_limt"));
    assert_eq!(idle.ctl(["status"]).code, Some(2));
}
