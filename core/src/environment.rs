//! Where things are on this node: state directory and socket, from the environment.

use std::env;
use std::path::PathBuf;

/// The state directory: `CBFS_STATE_DIR`; else `/var/lib/cbfs` for root, else
/// `$XDG_STATE_HOME/cbfs`, else `~/.local/state/cbfs`.
pub fn state_dir() -> PathBuf {
    if let Some(dir) = non_empty("CBFS_STATE_DIR") {
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

/// The daemon's socket: `CBFS_SOCKET`; else `/run/cbfs/cbfsd.sock` for root, else
/// `$XDG_RUNTIME_DIR/cbfs/cbfsd.sock`, else in the state directory.
pub fn socket() -> PathBuf {
    if let Some(path) = non_empty("CBFS_SOCKET") {
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

fn non_empty(name: &str) -> Option<PathBuf> {
    env::var_os(name)
        .filter(|v| !v.is_empty())
        .map(PathBuf::from)
}
