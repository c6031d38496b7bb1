//! A mounted file system is a file system: what programs do works, as on a local disk.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are test code too

mod attributes;
mod contents;
mod directories;
mod names;
mod programs;
mod slaves;

use cbfs_tests::Stage;
use cbfs_tests::tree;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self};
use std::path::Path;

pub(crate) fn errno<T, E: Into<io::Error>>(result: Result<T, E>) -> Option<i32> {
    result.err().and_then(|e| e.into().raw_os_error())
}

pub(crate) fn code(errno: Errno) -> Option<i32> {
    Some(errno.raw_os_error())
}

/// A hostile tree on this machine's own file system.
pub(crate) fn local_tree(stage: &Stage) -> std::path::PathBuf {
    let root = stage.path("tree");
    tree::build(&root);
    root
}

pub(crate) fn open(path: &Path, flags: OFlags) -> File {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o644))
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        .into()
}
