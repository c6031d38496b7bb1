//! Requests for snapshots in bad circumstances: withdrawn in every state, found again after a reboot, by the
//! hundred, with damaged logs, and by clocks that are wrong.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too

#[cfg(debug_assertions)] // a release daemon has neither failpoints nor a clock to set
mod clock;
mod hundred;
mod status_log;
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

/// Where the status log of a request is.
fn log_path(m: &Master, number: u64) -> PathBuf {
    m.instance_dir().join(format!("status/{number:010}.jsonl"))
}

/// Its whole lines.
fn log_lines(m: &Master, number: u64) -> Vec<Value> {
    let text = fs::read_to_string(log_path(m, number)).unwrap();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
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
