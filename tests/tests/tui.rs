//! The TUI in a real terminal (tmux) against a real daemon.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are test code too

use cbfs_tests::terminal::Terminal;
use cbfs_tests::{Master, Node, cbfsctl, needs_fuse, needs_tools};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// The TUI of the master's node; when it ends, the terminal says how and stays.
fn watch(master: &Master, size: (u16, u16), options: &str) -> Terminal {
    watch_node(master, &master.node, size, options)
}

/// The TUI of a node on the master's stage.
fn watch_node(master: &Master, node: &Node, size: (u16, u16), options: &str) -> Terminal {
    watch_in(master, node, size, options, &[])
}

/// The same, with more in its environment.
fn watch_in(
    master: &Master,
    node: &Node,
    size: (u16, u16),
    options: &str,
    more: &[(&str, &Path)],
) -> Terminal {
    let command = format!(
        "'{}' tui {options}; echo ended with $?; stty -a | grep -o ' -\\?icanon'; exec cat",
        cbfsctl().display()
    );
    let (socket, state_dir) = (node.socket(), node.state_dir());
    let no_config = master.stage.path("no-config");
    let mut environment = vec![
        ("CBFS_SOCKET", &*socket),
        ("CBFS_STATE_DIR", &*state_dir),
        ("XDG_CONFIG_HOME", &*no_config),
    ];
    environment.extend(more);
    // A server that is just ending would refuse a new session.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let tmux = format!("tmux-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    Terminal::run(master.stage.path(tmux), size, &environment, &command)
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

/// The colours (SGR parameters) on the screen: `38;5;99`, `48;2;1;2;3`.
fn colours(screen: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for sequence in screen.split("\x1b[").skip(1) {
        let Some((parameters, _)) = sequence.split_once('m') else {
            continue;
        };
        let mut parameters = parameters.split(';');
        while let Some(parameter) = parameters.next() {
            let count = match (parameter, parameters.clone().next()) {
                ("38" | "48", Some("5")) => 2,
                ("38" | "48", Some("2")) => 4,
                _ => continue,
            };
            let more = parameters.by_ref().take(count);
            let all: Vec<&str> = [parameter].into_iter().chain(more).collect();
            found.insert(all.join(";"));
        }
    }
    found
}

#[test]
fn themes_come_by_name_by_file_and_from_the_users_own_and_no_color_is_heeded() {
    needs_fuse!();
    needs_tools!("tmux", "stty");
    let master = Master::new();
    let by_name = master.stage.path("mine.toml");
    fs::write(
        &by_name,
        "ascii = true\n[styles]\nfocus = { fg = \"#123456\" }\n",
    )
    .unwrap();
    let config = master.stage.dir("config");
    fs::create_dir(config.join("cbfs")).unwrap();
    let own = "base = \"monochrome\"\n[styles]\nfocus = { fg = \"99\" }\n";
    fs::write(config.join("cbfs/tui.toml"), own).unwrap();
    let home = master.stage.dir("someone");
    fs::create_dir_all(home.join(".config")).unwrap();
    std::os::unix::fs::symlink(config.join("cbfs"), home.join(".config/cbfs")).unwrap();

    let file = format!("--theme {}", by_name.display());
    let (xdg, empty, one) = ("XDG_CONFIG_HOME", Path::new(""), Path::new("1"));
    let of_home = [(xdg, empty), ("HOME", &*home)];
    // The options, the environment, a colour that must be there, and whether there may be others.
    type Row<'a> = (&'a str, &'a [(&'a str, &'a Path)], &'a str, bool);
    let rows: [Row<'_>; 7] = [
        ("", &[], "48;5;6", true),
        ("--theme high-contrast", &[], "48;5;11", true),
        ("--theme monochrome", &[], "", false),
        (&file, &[], "38;2;18;52;86", true),
        ("", &[(xdg, &*config)], "38;5;99", false),
        ("", &of_home, "38;5;99", false),
        ("", &[(xdg, &*config), ("NO_COLOR", one)], "", false),
    ];
    for (options, environment, colour, others) in rows {
        let terminal = watch_in(&master, &master.node, (80, 24), options, environment);
        let plain = terminal.wait_for("home");
        let screen = terminal.coloured_screen();
        let found = colours(&screen);
        let told = format!("{options:?} {environment:?}: {found:?}\n{screen}");
        if colour.is_empty() {
            assert!(found.is_empty(), "{told}");
        } else {
            assert!(found.contains(colour), "{told}");
            assert!(others || found.len() == 1, "{told}");
        }
        assert_eq!(plain.is_ascii(), options == file, "{plain}");
    }

    fs::write(&by_name, "[styles]\nfocus = { fg = \"greenish\" }\n").unwrap();
    let terminal = watch(&master, (120, 24), &file);
    let screen = terminal.wait_for("ended with 2");
    assert!(screen.contains("greenish"), "{screen}");
}

#[test]
fn two_daemons_are_watched_at_once_and_one_may_go() {
    needs_fuse!();
    needs_tools!("tmux", "stty");
    let master = Master::new();
    master.snapshot();
    let slave = master.slave(1);
    let sockets = format!(
        "--socket {} --socket {}",
        master.node.socket().display(),
        slave.node.socket().display()
    );
    let terminal = watch(&master, (120, 40), &sockets);
    terminal.wait_until("two connected daemons", |s| {
        s.lines()
            .next()
            .unwrap_or_default()
            .matches("● connected")
            .count()
            == 2
    });
    terminal.wait_until("master and slave", |s| {
        line_with(s, &["home", "rw e1"]) && line_with(s, &["home", "ro @1"])
    });
    slave.node.kill9();
    terminal.wait_until("one lost daemon", |s| {
        let first = s.lines().next().unwrap_or_default();
        first.contains("● connected") && first.contains("✖ lost")
    });
    // What is asked goes to the daemon of the selected instance.
    terminal.press(&["Home", "s", "Enter"]);
    terminal.wait_until("second snapshot", |s| line_with(s, &["2 ✔ complete"]));
    slave.node.start();
    terminal.wait_until("both again", |s| {
        s.lines()
            .next()
            .unwrap_or_default()
            .matches("● connected")
            .count()
            == 2
    });
}

#[test]
fn a_click_selects_a_row() {
    needs_fuse!();
    needs_tools!("tmux", "stty");
    let master = Master::new();
    for _ in 0..3 {
        master.snapshot();
    }
    let terminal = watch(&master, (80, 24), "");
    let selected = |n: u64| move |s: &str| line_with(s, &[&format!("▸    {n} ✔ complete")]);
    terminal.press(&["2"]);
    let screen = terminal.wait_until("the latest snapshot", selected(3));
    let row = screen.lines().position(|l| l.contains("1 ✔ complete"));
    let row = row.expect("snapshot 1 is on the screen") + 1;
    let column = 40;
    terminal.send(&format!("\x1b[<0;{column};{row}M\x1b[<0;{column};{row}m"));
    terminal.wait_until("the oldest snapshot", selected(1));
    // The wheel moves by three rows.
    terminal.send(&format!("\x1b[<64;{column};{row}M"));
    terminal.wait_until("the latest snapshot", selected(3));
}

#[test]
fn a_daemon_that_stands_still_is_told_and_keys_go_on() {
    needs_fuse!();
    needs_tools!("tmux", "stty");
    let master = Master::new();
    let terminal = watch(&master, (120, 40), "");
    terminal.wait_for("● connected");
    master.node.pause();
    terminal.wait_for("⚠ no answer for");
    // What waits for the daemon holds nobody, and what needs none works.
    terminal.press(&["s", "Enter", "2", "z"]);
    terminal.wait_until("one pane", |s| !s.contains("File systems"));
    terminal.press(&["z", "?"]);
    terminal.wait_for("Keys");
    terminal.press(&["Escape"]);
    master.node.go_on();
    terminal.wait_for("● connected");
    terminal.wait_until("the snapshot", |s| line_with(s, &["1 ✔ complete"]));
    master.node.pause();
    terminal.press(&["q"]);
    terminal.wait_for("ended with 0");
    master.node.go_on();
}

#[test]
fn a_follower_is_mounted_with_the_dialog() {
    needs_fuse!();
    needs_tools!("tmux", "stty");
    let master = Master::new();
    master.snapshot();
    let slave = master.slave(1);
    let terminal = watch_node(&master, &slave.node, (120, 40), "");
    terminal.wait_for("▸home");
    let dir = master.stage.dir("follower");
    terminal.press(&["m"]);
    terminal.wait_for("follow every");
    terminal.press(&[dir.to_str().unwrap(), "Tab", "Tab", "1s", "Tab", "@latest"]);
    terminal.wait_for(&format!("{}@latest", master.fs));
    terminal.press(&["Enter"]);
    terminal.wait_until("no dialog", |s| !s.contains("follow every"));
    fs::write(master.at("news"), "of today").unwrap();
    master.snapshot();
    terminal.wait_until("the follower", |s| line_with(s, &["home", "@2"]));
    assert_eq!(fs::read_to_string(dir.join("news")).unwrap(), "of today");
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
