//! What the environment, and after it `cbfsd.toml`, say of this node: state directory, socket, polling, bounds.

use crate::configuration::{self, ByteSize};
use crate::error::{Error, ErrorKind, Result};
use std::env;
use std::path::PathBuf;
use std::time::Duration;

/// How long a session thread polls for the next request by default, when requests follow each other closely.
const FUSE_POLL: Duration = Duration::from_micros(50);
/// More is of no use: no request "follows closely" after that.
const FUSE_POLL_MAX: u64 = 10_000;

const PROXY_LIMIT: u64 = 1 << 30;
/// Below that there would be a tarball for every few files.
const PROXY_LIMIT_MIN: u64 = 1 << 20;

/// The state directory: `CBFS_STATE_DIR`, `state_dir` of `cbfsd.toml`; else `/var/lib/cbfs` for root, else
/// `$XDG_STATE_HOME/cbfs`, else `~/.local/state/cbfs`.
pub fn state_dir() -> PathBuf {
    let said = non_empty("CBFS_STATE_DIR").or_else(|| configuration::current().state_dir.clone());
    if let Some(dir) = said {
        return dir;
    }
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/cbfs");
    }
    if let Some(dir) = non_empty("XDG_STATE_HOME") {
        return dir.join("cbfs");
    }
    non_empty("HOME")
        .unwrap_or_else(|| PathBuf::from("/tmp"))
        .join(".local/state/cbfs")
}

/// The daemon's socket: `CBFS_SOCKET`, `socket` of `cbfsd.toml`; else `/run/cbfs/cbfsd.sock` for root, else
/// `$XDG_RUNTIME_DIR/cbfs/cbfsd.sock`, else in the state directory.
pub fn socket() -> PathBuf {
    let said = non_empty("CBFS_SOCKET").or_else(|| configuration::current().socket.clone());
    if let Some(path) = said {
        return path;
    }
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/run/cbfs/cbfsd.sock");
    }
    match non_empty("XDG_RUNTIME_DIR") {
        Some(dir) => dir.join("cbfs/cbfsd.sock"),
        None => state_dir().join("cbfsd.sock"),
    }
}

/// How long a FUSE session thread polls for the next request before it sleeps: `CBFS_FUSE_POLL` or `fuse_poll` of
/// `cbfsd.toml`, in microseconds, 0 for never. By default 50 µs, and never on a single CPU.
///
/// # Errors
/// Usage, when it is not such a number.
pub fn fuse_poll() -> Result<Duration> {
    let said = setting(
        "CBFS_FUSE_POLL",
        "fuse_poll",
        configuration::current().fuse_poll,
    );
    let Some((name, text)) = said else {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        return Ok(if cpus > 1 { FUSE_POLL } else { Duration::ZERO });
    };
    text.parse()
        .ok()
        .filter(|micros| *micros <= FUSE_POLL_MAX)
        .map(Duration::from_micros)
        .ok_or_else(|| {
            Error::new(
                ErrorKind::Usage,
                format!("{name}={text} is no polling time"),
            )
            .hint("microseconds, at most 10000; 0 turns polling off")
        })
}

/// Between two looks of a master at its epoch: `CBFS_EPOCH_CHECK`, in seconds (a fraction will do). `None` when it is not set.
///
/// # Errors
/// Usage, when the variable is no such time, or longer than 30 s: a superseded master must notice by then.
pub fn epoch_check() -> Result<Option<Duration>> {
    let Some(text) = env::var_os("CBFS_EPOCH_CHECK").filter(|v| !v.is_empty()) else {
        return Ok(None);
    };
    let seconds = text.to_str().and_then(|text| text.parse().ok());
    let allowed = seconds.filter(|seconds: &f64| (0.01..=30.0).contains(seconds));
    allowed
        .map(Duration::from_secs_f64)
        .map(Some)
        .ok_or_else(|| {
            let text = format!("CBFS_EPOCH_CHECK={} is no such time", text.display());
            Error::new(ErrorKind::Usage, text).hint("seconds, 0.01 to 30")
        })
}

/// Bytes that a running snapshot may have in the proxy cache: `CBFS_PROXY_LIMIT`, in bytes or with `K`, `M`, `G`
/// or `T` (powers of 1024) behind the number, or `proxy_limit` of `cbfsd.toml`. By default 1 GiB.
///
/// # Errors
/// Usage, when it is no such size or below 1 MiB.
pub fn proxy_limit() -> Result<u64> {
    let said = configuration::current().proxy_limit;
    let Some((name, text)) = setting("CBFS_PROXY_LIMIT", "proxy_limit", said) else {
        return Ok(PROXY_LIMIT);
    };
    let size = ByteSize::parse(&text).map(|size| size.0);
    size.filter(|size| *size >= PROXY_LIMIT_MIN).ok_or_else(|| {
        Error::new(ErrorKind::Usage, format!("{name}={text} is no size"))
            .hint("bytes, or a number with K, M, G or T, at least 1M")
    })
}

/// A setting as text, with the name it was found under: the variable's, else that of the key of `cbfsd.toml`.
fn setting(
    variable: &'static str,
    key: &'static str,
    said: Option<u64>,
) -> Option<(&'static str, String)> {
    let given = env::var_os(variable).filter(|v| !v.is_empty());
    match given {
        Some(text) => Some((variable, text.to_string_lossy().into_owned())),
        None => said.map(|number| (key, number.to_string())),
    }
}

pub(crate) fn non_empty(name: &str) -> Option<PathBuf> {
    env::var_os(name)
        .filter(|v| !v.is_empty())
        .map(PathBuf::from)
}

/// This machine's host name, for people.
pub fn host_name() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}
