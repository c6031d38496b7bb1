use super::until;
use cbfs_tests::{Master, needs_fuse};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

/// Ask as any program may: HTTP over the socket.
fn ask(m: &Master) -> u64 {
    let body = format!("{{\"fs\":\"{}\",\"kind\":\"user\"}}", m.fs);
    let request = format!(
        "POST /v1/snapshots HTTP/1.1\r\nhost: cbfs\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut socket = UnixStream::connect(m.node.socket()).unwrap();
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    let body: Value = serde_json::from_str(body).unwrap();
    body["number"].as_u64().unwrap()
}

#[test]
fn a_hundred_requests_run_in_their_order_and_share_no_object() {
    needs_fuse!();
    let m = Master::with_directory_bucket();
    fs::write(m.at("file"), "contents").unwrap();
    let away = m.bucket.take_away();
    let numbers: Vec<u64> = (0..100).map(|_| ask(&m)).collect();
    assert_eq!(numbers, Vec::from_iter(1..=100));
    let last = format!("{}@100", m.fs);
    let shown = m.node.ctl(["snapshot", "list", &m.fs]).stdout;
    assert!(shown.contains("queued, place 99"), "{shown}");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // So that most of them have something to send.
        scope.spawn(|| {
            for n in 0_u64.. {
                if done.load(Ordering::SeqCst) {
                    break;
                }
                fs::write(m.at(format!("change-{}", n % 7)), n.to_string()).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        });
        away.bring_back();
        let ended = m.node.ctl(["snapshot", "watch", &last, "--timeout", "300"]);
        done.store(true, Ordering::SeqCst);
        ended.ok();
    });
    // Each request that came woke the one at hand, whose pauses must not end by that: they grow from half a second.
    let log = fs::read_to_string(m.status_log(1)).unwrap();
    let retries = log.matches("\"event\":\"retry\"").count();
    assert!(retries < 60, "{retries} retries:\n{log}");
    let all = m.node.json(["snapshot", "list", &m.fs]);
    let all = all.as_array().unwrap();
    assert_eq!(all.len(), 100);
    let mut seen = BTreeSet::new();
    let mut made = 0;
    let mut before = 0;
    for snapshot in all {
        let manifest = &snapshot["manifest"];
        assert_eq!(snapshot["state"], "complete", "{snapshot}");
        let cut = manifest["xid"]["to"].as_u64().unwrap();
        assert!(before < cut, "{before} {cut}");
        before = cut;
        assert!(seen.insert(manifest["attempt"].to_string()), "{manifest}");
        for key in ["toc", "meta_tarball", "log", "status"] {
            if let Some(key) = manifest[key]["key"].as_str() {
                made += 1;
                assert!(seen.insert(key.to_owned()), "{key} twice");
            }
        }
    }
    assert!(made > 200, "only {made} objects: the test does not test");
    let wanted = m.fingerprint();
    until(&m, "the last snapshot", || {
        let number = m.snapshot();
        m.assert_snapshot_is(number, &wanted);
        Some(())
    });
}
