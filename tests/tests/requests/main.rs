//! Requests for snapshots in bad circumstances: withdrawn in every state, found again after a reboot, by the
//! hundred, with damaged logs, and by clocks that are wrong.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too

mod cancelled;
#[cfg(debug_assertions)] // a release daemon has neither failpoints nor a clock to set
mod clock;
mod hundred;
mod retried;
mod status_log;
#[cfg(debug_assertions)]
mod watched;
#[cfg(debug_assertions)]
mod withdrawn;

use cbfs_tests::Master;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long something may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Look until it is there.
fn until<T>(m: &Master, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "{what}\n{}", m.node.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What the daemon knows of a request, whether the bucket is there or not.
fn request(m: &Master, number: u64) -> Value {
    let answer = m.node.get(&format!("/v1/snapshots/{}/{number}", m.fs));
    serde_json::from_str(&answer).unwrap()
}

/// Ask for a snapshot and do not wait; answers its number.
fn create(m: &Master, more: &[&str]) -> u64 {
    let words = ["snapshot", "create", &m.fs].into_iter();
    let number = m.node.ctl(words.chain(more.iter().copied())).ok();
    number.trim_end().parse().unwrap()
}

/// Wait until a request waits for the bucket.
fn until_it_is_tried_again(m: &Master, number: u64) {
    until(m, "a retry", || {
        (request(m, number)["retries"].as_u64() > Some(0)).then_some(())
    });
}

/// While the bucket is away: a request that was under way and is cancelled. It has something to send: were it at its
/// manifest, the bucket would have to be asked first.
fn cancelled_request(m: &Master) -> u64 {
    fs::write(m.at("change"), "of a cancelled request").unwrap();
    let number = create(m, &[]);
    until_it_is_tried_again(m, number);
    let snapshot = format!("{}@{number}", m.fs);
    m.node.ctl(["snapshot", "cancel", &snapshot]).ok();
    number
}

/// The objects of all attempts at a snapshot in a bucket that is a directory.
fn objects_of(m: &Master, number: u64) -> Vec<PathBuf> {
    let attempts = m.bucket.dir().join(&m.fs).join("s");
    let mut found = Vec::new();
    for attempt in fs::read_dir(&attempts).into_iter().flatten() {
        let attempt = attempt.unwrap();
        let name = attempt.file_name().into_string().unwrap();
        if name.starts_with(&format!("{number:010}-")) {
            found.extend(files_in(&attempt.path()));
        }
    }
    found
}

fn files_in(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}
