//! End-to-end suites of CBFS: real mounts, real daemons, real crashes. This library is the
//! harness; each file in `tests/` is a suite with a test binary of its own, and each test is named
//! after the promise it checks.
//!
//! A test sets up a [`Stage`]: a temporary directory with a bucket, nodes (each a state directory,
//! a socket and a daemon) and mount points. When it is dropped, also by a panic, daemons are
//! killed, mounts detached and the directory removed. Nothing outside is touched.
//!
//! Environment:
//!
//! | variable | meaning |
//! |---|---|
//! | `CBFS_TESTS_WITHOUT_FUSE=1` | where nothing can be mounted, skip with a message instead of failing |
//! | `CBFS_TESTS_REQUIRE_TOOLS=1` | fail where a program (rsync, jq, ...) is missing, instead of skipping |
//! | `CBFS_TESTS_CBFSCTL=PATH` | test this program instead of building it |
//! | `CBFS_TESTS_FULL=1` | full scale also in debug builds, where the daemon is ten times slower |
//! | `CBFS_TESTS_OVERLAP_MIB=N`, `CBFS_TESTS_OVERLAP_LIMIT_MIB=N` | size of the snapshot that is larger than the proxy cache, and of that cache |
//! | `CBFS_TESTS_MODEL_CASES=N` | random cases of the model test |
//! | `CBFS_TESTS_MODEL_REPLAY=FILE` | the case that its test `replay` runs |
//! | `CBFS_TEST_BUCKET_URL=URL` | use prefixes below this bucket instead of temporary directories |

// A harness has nobody to report to but the test that uses it: it panics, saying why.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bucket;
pub mod contents;
mod disk;
pub mod fault_proxy;
pub mod fingerprint;
mod fuse;
mod ledger;
mod node;
mod program;
mod stage;
pub mod terminal;
pub mod tools;
pub mod tree;

pub use bucket::{Away, TestBucket};
pub use disk::Disk;
pub use fingerprint::{Exactness, Fingerprint, assert_same};
pub use fuse::fuse_is_missing;
pub use ledger::{Ledger, Step};
pub use node::{Ended, Node, Ran};
pub use program::cbfsctl;
pub use stage::{Master, Slave, Stage};

/// How much of something a test makes: `full` in release builds and with `CBFS_TESTS_FULL=1`,
/// `less` in debug builds.
pub fn scaled(full: u64, less: u64) -> u64 {
    let wants_full = std::env::var_os("CBFS_TESTS_FULL").is_some_and(|v| v == "1");
    if wants_full || !cfg!(debug_assertions) {
        full
    } else {
        less
    }
}

/// Wait until `done` says so, for what cannot be waited for otherwise; panics when it does not within two minutes, a time
/// for a busy machine and debug builds.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);
    let started = std::time::Instant::now();
    while !done() {
        assert!(
            started.elapsed() < PATIENCE,
            "{what}: not within {PATIENCE:?}"
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// The most memory the process ever had (`VmHWM`, proc(5)), in bytes.
pub fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kibibytes = peak.and_then(|p| p.trim().strip_suffix(" kB"));
    let kibibytes: u64 = kibibytes.and_then(|k| k.parse().ok()).expect("VmHWM");
    kibibytes << 10
}

/// Leave the test where nothing can be mounted and `CBFS_TESTS_WITHOUT_FUSE=1` allows that; to
/// stand at the start of every test that mounts. Without that variable the test fails there.
#[macro_export]
macro_rules! needs_fuse {
    () => {
        if $crate::fuse_is_missing() {
            return;
        }
    };
}

/// Leave the test where a program is missing; see [`tools::is_missing`].
#[macro_export]
macro_rules! needs_tools {
    ($($tool:expr),+ $(,)?) => {
        if $($crate::tools::is_missing($tool))||+ {
            return;
        }
    };
}
