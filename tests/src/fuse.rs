//! Whether this machine can mount FUSE file systems.

use std::fs::OpenOptions;
use std::path::Path;

/// Tells whether nothing can be mounted here and the test is to be skipped.
///
/// # Panics
/// When nothing can be mounted and `CBFS_TESTS_WITHOUT_FUSE` is not `1`: a test that checked
/// nothing must not look like one that passed.
pub fn fuse_is_missing() -> bool {
    let Some(why) = obstacle() else { return false };
    if std::env::var_os("CBFS_TESTS_WITHOUT_FUSE").is_some_and(|v| v == "1") {
        eprintln!("skipped: {why}");
        return true;
    }
    panic!(
        "{why}, so this test cannot mount anything.\n\
         On a machine: modprobe fuse, apt-get install fuse3, and run as root or as a user who may \
         open /dev/fuse.\n\
         In a container: docker run --device /dev/fuse --cap-add SYS_ADMIN ...\n\
         To leave out all tests that mount: CBFS_TESTS_WITHOUT_FUSE=1"
    );
}

fn obstacle() -> Option<String> {
    if let Err(e) = OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        return Some(format!("/dev/fuse cannot be opened ({e})"));
    }
    if !rustix::process::geteuid().is_root() && !has_helper() {
        return Some("this is not root, and there is no fusermount3".to_owned());
    }
    None
}

fn has_helper() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/bin".into(), "/bin".into()])
        .any(|dir| Path::new(&dir).join("fusermount3").is_file())
}
