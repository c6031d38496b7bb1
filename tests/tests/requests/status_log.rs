use cbfs_tests::{Master, needs_fuse};
use std::fs;

#[test]
fn show_all_tells_every_attempt_here_and_from_the_bucket() {
    needs_fuse!();
    let m = Master::new();
    fs::write(m.at("file"), "contents").unwrap();
    let number = m.snapshot();
    let snapshot = format!("{}@{number}", m.fs);
    let here = m.node.ctl(["snapshot", "show", &snapshot, "--all"]).ok();
    for wanted in [
        "requested (user)",
        "attempt ",
        "cut after",
        "sent s/",
        "✔ complete",
    ] {
        assert!(here.contains(wanted), "{wanted}:\n{here}");
    }
    let log = m.node.json(["snapshot", "show", &snapshot, "--all"])["log"].clone();
    let lines = log.as_array().unwrap();
    assert_eq!(lines.first().unwrap()["event"], "requested");
    assert_eq!(lines.last().unwrap()["state"], "complete");
    let without = m.node.json(["snapshot", "show", &snapshot]);
    assert!(without["log"].is_null(), "{without}");
    // Who knows nothing has the copy that lies with the snapshot.
    let outsider = m.stage.node("outsider");
    let args = [
        "snapshot",
        "show",
        &snapshot,
        "--all",
        "--bucket",
        m.bucket.url(),
    ];
    let there = outsider.ctl(args).ok();
    assert!(
        there.contains("made s/") && !there.contains("✔ complete ("),
        "{there}"
    );
    assert!(there.contains("▶ written"), "{there}");
}

#[test]
fn a_damaged_status_log_is_named_and_all_others_work() {
    needs_fuse!();
    let m = Master::new();
    for text in ["one", "two", "three"] {
        fs::write(m.at("file"), text).unwrap();
        m.snapshot();
    }
    m.node.stop();
    let damaged = m.status_log(2);
    let text = fs::read_to_string(&damaged).unwrap();
    fs::write(
        &damaged,
        text.replacen("\"event\":\"cut\"", "\"evXnt\":\"cut\"", 1),
    )
    .unwrap();
    // One whose snapshot nobody else knows of.
    let lost = m.status_log(4);
    fs::write(&lost, "nonsense\n").unwrap();
    m.node.start();
    let status = m.node.ctl(["status"]).ok();
    for path in [&damaged, &lost] {
        assert!(status.contains(path.to_str().unwrap()), "{status}");
    }
    let show = |number: u64| {
        let snapshot = format!("{}@{number}", m.fs);
        m.node.ctl(["snapshot", "show", &snapshot])
    };
    show(1).ok();
    // The snapshot is there all the same.
    let second = show(2);
    assert_eq!(second.code, Some(0), "{second:?}");
    assert!(
        second.stderr.contains(damaged.to_str().unwrap()),
        "{second:?}"
    );
    show(4).fails(14, &[lost.to_str().unwrap()]);
    show(9).fails(10, &[]);
    let list = m.node.ctl(["snapshot", "list", &m.fs]);
    assert_eq!(list.code, Some(0), "{list:?}");
    assert_eq!(list.stdout.lines().count(), 4, "a head and three: {list:?}");
    for (number, path) in [(2, &damaged), (4, &lost)] {
        let told = format!("request {number}: the status log {}", path.display());
        assert!(list.stderr.contains(&told), "{list:?}");
    }
    assert!(list.stderr.contains("move the file away"), "{list:?}");
    // Its number is not given again.
    fs::write(m.at("file"), "four").unwrap();
    assert_eq!(m.snapshot(), 5);
}

#[test]
fn a_number_that_does_not_exist_is_told_by_every_command() {
    needs_fuse!();
    let m = Master::new();
    fs::write(m.at("file"), "contents").unwrap();
    m.snapshot();
    let unknown = format!("{}@77", m.fs);
    let first = format!("{}@1", m.fs);
    let dir = m.stage.dir("nowhere");
    let dir = dir.to_str().unwrap();
    let url = m.bucket.url();
    let no_such = 10;
    let conflict = 11;
    // Each says the number, what is wrong and what to do.
    let commands: [(&[&str], i32, &str); 24] = [
        (&["snapshot", "show", &unknown], no_such, "snapshot list"),
        (
            &["snapshot", "show", &unknown, "--all"],
            no_such,
            "snapshot list",
        ),
        (&["snapshot", "watch", &unknown], no_such, "snapshot list"),
        (&["snapshot", "cancel", &unknown], no_such, "snapshot list"),
        (
            &["snapshot", "cancel", &unknown, "--dry-run"],
            no_such,
            "snapshot list",
        ),
        (&["snapshot", "retry", &unknown], no_such, "snapshot list"),
        (
            &["snapshot", "retry", &unknown, "--dry-run"],
            no_such,
            "snapshot list",
        ),
        (
            &["snapshot", "verify", &unknown],
            no_such,
            "the latest is 1",
        ),
        (
            &["snapshot", "verify", &unknown, "--deep"],
            no_such,
            "the latest is 1",
        ),
        (
            &["snapshot", "diff", &first, &unknown],
            no_such,
            "the latest is 1",
        ),
        (
            &["snapshot", "diff", &unknown, &first],
            no_such,
            "the latest is 1",
        ),
        (
            &["snapshot", "export", &unknown, "--to", dir],
            no_such,
            "the latest is 1",
        ),
        (&["snapshot", "hold", &unknown], no_such, "the latest is 1"),
        (
            &["snapshot", "hold", &unknown, "--dry-run"],
            no_such,
            "the latest is 1",
        ),
        (
            &["snapshot", "release", &unknown],
            no_such,
            "the latest is 1",
        ),
        (
            &["snapshot", "release", &unknown, "--dry-run"],
            no_such,
            "the latest is 1",
        ),
        (
            &["snapshot", "delete", &unknown, "--confirm", &m.fs],
            no_such,
            "the latest is 1",
        ),
        (&["index", "show", &unknown], no_such, "the latest is 1"),
        (
            &["index", "rebuild", &unknown, "--to", dir],
            no_such,
            "snapshot list",
        ),
        (
            &["mount", &unknown, dir, "--slave", "--bucket", url],
            no_such,
            "the latest is 1",
        ),
        (&["umount", &unknown], no_such, "instance list"),
        (&["umount", &unknown, "--dry-run"], no_such, "instance list"),
        (
            &["log", &m.fs, "--since", "@77"],
            no_such,
            "the latest is 1",
        ),
        (
            &[
                "epoch",
                "promote",
                &m.fs,
                "--previous-epoch",
                "77",
                "--confirm",
                &m.fs,
            ],
            conflict,
            "--previous-epoch 1",
        ),
    ];
    for (args, code, hint) in commands {
        let said = m.node.ctl(args).fails(code, &["77"]);
        let told = said.split_once("hint: ").unwrap().1;
        assert!(told.contains(hint), "{args:?}: {said}");
    }
}
