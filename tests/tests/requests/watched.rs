//! `snapshot watch` on a terminal.

use super::create;
use cbfs_tests::contents::noise;
use cbfs_tests::terminal::Terminal;
use cbfs_tests::{Master, cbfsctl, needs_fuse, needs_tools};
use std::fs;

#[test]
fn a_live_line_has_state_rate_and_time_left_and_the_last_one_is_complete() {
    needs_fuse!();
    needs_tools!("tmux");
    let m = Master::with_directory_bucket();
    m.node.stop();
    // Many small objects.
    m.node.set("CBFS_PROXY_LIMIT", "4M");
    m.node
        .try_start_armed("snapshot.object-logged:4,stop")
        .unwrap();
    for number in 0..32 {
        let path = m.at(number.to_string());
        fs::write(path, noise(number, 1 << 20)).unwrap();
    }
    let away = m.bucket.take_away();
    let number = create(&m, &[]);
    let command = format!(
        "'{}' snapshot watch {}@{number}; echo ended with $?; exec cat",
        cbfsctl().display(),
        m.fs
    );
    let environment = [
        ("CBFS_SOCKET", &*m.node.socket()),
        ("CBFS_STATE_DIR", &*m.node.state_dir()),
    ];
    let terminal = Terminal::run(m.stage.path("tmux"), (120, 20), &environment, &command);
    // What cannot be sent stops it in the middle.
    terminal.wait_for(&format!("snapshot {number} ▶ writing"));
    away.bring_back();
    m.node.must_be_stopped("four objects are sent");
    let away = m.bucket.take_away();
    m.node.go_on();
    terminal.wait_until("rate and time left", |screen| {
        let mut lines = screen.lines();
        lines.any(|l| l.contains("▶ writing") && l.contains("B/s") && l.contains(" left"))
    });
    away.bring_back();
    let screen = terminal.wait_for("ended with 0");
    let last = format!("snapshot {number} ✔ complete");
    let said: Vec<&str> = screen.lines().filter(|l| !l.trim().is_empty()).collect();
    assert_eq!(said, [last.as_str(), "ended with 0"], "{screen}");
}
