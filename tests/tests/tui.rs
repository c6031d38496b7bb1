//! The TUI in a real terminal (tmux) against a real daemon.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are test code too

use cbfs_tests::terminal::Terminal;
use cbfs_tests::{Master, Node, cbfsctl, needs_fuse, needs_tools};
use std::process::Command;

/// The TUI of the master's node; when it ends, the terminal says how and stays.
fn watch(master: &Master, size: (u16, u16), options: &str) -> Terminal {
    watch_node(master, &master.node, size, options)
}

/// The TUI of a node on the master's stage.
fn watch_node(master: &Master, node: &Node, size: (u16, u16), options: &str) -> Terminal {
    let command = format!(
        "'{}' tui {options}; echo ended with $?; stty -a | grep -o ' -\\?icanon'; exec cat",
        cbfsctl().display()
    );
    let environment = [
        ("CBFS_SOCKET", &*node.socket()),
        ("CBFS_STATE_DIR", &*node.state_dir()),
        ("XDG_CONFIG_HOME", &*master.stage.path("no-config")),
    ];
    Terminal::run(master.stage.path("tmux"), size, &environment, &command)
}

/// Whether some line holds all of these.
fn line_with(screen: &str, parts: &[&str]) -> bool {
    screen
        .lines()
        .any(|line| parts.iter().all(|part| line.contains(part)))
}

#[test]
fn a_snapshot_is_made_with_a_key_and_the_daemon_may_go_and_come_back() {
    needs_fuse!();
    needs_tools!("tmux", "stty");
    let master = Master::new();
    std::fs::write(master.at("a"), vec![7; 300_000]).unwrap();
    let terminal = watch(&master, (120, 40), "");
    terminal.wait_for("● connected");
    terminal.wait_for("▸home");

    terminal.press(&["s"]);
    terminal.wait_for("Snapshot of home");
    terminal.press(&["f", "i", "r", "s", "t", "Enter"]);
    terminal.wait_until("complete snapshot", |s| {
        line_with(s, &["1 ✔ complete", "first"])
    });
    terminal.wait_for("snapshot 1 is complete");

    terminal.press(&["2", "Enter"]);
    terminal.wait_for("Time in each state");
    terminal.press(&["Escape"]);

    master.node.kill9();
    terminal.wait_for("✖ disconnected");
    terminal.wait_for("went away");
    // What was known stays, and nothing is asked of a daemon that is away.
    terminal.press(&["1", "s"]);
    terminal.wait_for("does not answer");

    master.node.start();
    terminal.wait_for("● connected");
    terminal.wait_for("is back after");
    terminal.press(&["s"]);
    terminal.wait_for("Snapshot of home");
    terminal.press(&["Enter"]);
    terminal.wait_until("second snapshot", |s| line_with(s, &["2 ✔ complete"]));

    terminal.press(&["q"]);
    let screen = terminal.wait_for("ended with 0");
    assert!(
        !screen.contains("File systems"),
        "the screen is given back\n{screen}"
    );
    terminal.wait_for(" icanon");
}

#[test]
fn a_deleted_snapshot_leaves_the_list_after_its_name_was_typed() {
    needs_fuse!();
    needs_tools!("tmux", "stty");
    let master = Master::new();
    master.snapshot();
    master.snapshot();
    let terminal = watch(&master, (80, 24), "--theme monochrome --ascii");
    terminal.wait_until("two snapshots", |s| {
        line_with(s, &["1 + complete"]) && s.contains("2 + complete")
    });
    terminal.press(&["2", "End", "d"]);
    terminal.wait_for("type home@1 to go on");
    terminal.press(&["h", "o", "m", "e", "@", "1", "Enter"]);
    terminal.wait_until("one snapshot", |s| {
        !line_with(s, &["1 + complete"]) && s.contains("2 + complete")
    });
    let list = master.node.json([
        "snapshot",
        "list",
        &master.fs,
        "--bucket",
        master.bucket.url(),
    ]);
    assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
    // The latest one is refused, with the reason.
    terminal.press(&["d", "h", "o", "m", "e", "@", "2", "Enter"]);
    terminal.wait_for("snapshot 2 was not deleted");
    terminal.press(&["C-c"]);
    terminal.wait_for("ended with 0");
}

#[test]
fn a_slave_is_promoted_after_the_whole_handle_was_typed() {
    needs_fuse!();
    needs_tools!("tmux", "stty");
    let master = Master::new();
    std::fs::write(master.at("a"), "kept").unwrap();
    let number = master.snapshot();
    std::fs::write(master.at("b"), "lost").unwrap();
    let slave = master.slave(number);
    master.node.kill9();
    let terminal = watch_node(&master, &slave.node, (120, 40), "");
    terminal.wait_for("▸home");
    terminal.wait_for("● master"); // the epochs were read: it is known whom to replace
    terminal.press(&["p"]);
    terminal.wait_for("LOST here");
    terminal.press(&[&master.fs, "Enter"]);
    terminal.wait_for("is the master of home in epoch 2");
    terminal.wait_until("the new master", |s| line_with(s, &["▸home", "rw e2"]));
    terminal.wait_until("both epochs", |s| {
        line_with(s, &["2 ● master"]) && line_with(s, &["1 ○ former"])
    });
    std::fs::write(slave.mnt.join("c"), "on it goes").unwrap();
    assert_eq!(
        std::fs::read_to_string(slave.mnt.join("a")).unwrap(),
        "kept"
    );
    assert!(!slave.mnt.join("b").exists());
    terminal.press(&["q"]);
    terminal.wait_for("ended with 0");
}

#[test]
fn the_terminal_is_given_back_on_a_signal() {
    needs_fuse!();
    needs_tools!("tmux", "stty");
    let master = Master::new();
    let terminal = watch(&master, (40, 10), "");
    terminal.wait_for("▸home");
    let tui = pid_below(&terminal);
    assert!(
        Command::new("kill")
            .arg(tui.to_string())
            .status()
            .unwrap()
            .success()
    );
    terminal.wait_for("ended with 0");
    terminal.wait_for(" icanon");
}

#[test]
fn without_a_terminal_it_says_what_to_use_instead() {
    needs_fuse!();
    let master = Master::new();
    let ran = master.node.ctl(["tui"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(
        ran.stderr.contains("needs a terminal") && ran.stderr.contains("status --json"),
        "{ran:?}"
    );
    let ran = master
        .node
        .ctl(["status", "--socket", "/a", "--socket", "/b"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
}

/// The TUI's process: the child of the terminal's shell.
fn pid_below(terminal: &Terminal) -> u32 {
    let out = terminal
        .tmux()
        .args(["display-message", "-p", "#{pane_pid}"])
        .output()
        .expect("tmux");
    let shell = String::from_utf8(out.stdout).expect("a number");
    let children = format!("/proc/{0}/task/{0}/children", shell.trim());
    let children = std::fs::read_to_string(children).expect("the shell's children");
    children.trim().parse().expect("one child")
}
