//! Programs that tests run on a mount.

use std::path::Path;
use std::process::{Command, Output};

/// Tells whether a program is missing and the test is to be skipped, with a message.
///
/// # Panics
/// When it is missing and `CBFS_TESTS_REQUIRE_TOOLS=1` says that it must not be.
pub fn is_missing(tool: &str) -> bool {
    if is_here(tool) {
        return false;
    }
    let required = std::env::var_os("CBFS_TESTS_REQUIRE_TOOLS").is_some_and(|v| v == "1");
    assert!(
        !required,
        "{tool} is not installed, and CBFS_TESTS_REQUIRE_TOOLS=1 demands it"
    );
    eprintln!("skipped: {tool} is not installed");
    true
}

/// Whether a program is installed.
pub fn is_here(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(tool).is_file())
}

/// Whether the test runs as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Run a command that must succeed; answers its stdout.
pub fn run(command: &mut Command) -> String {
    let output = output_of(command);
    assert!(
        output.status.success(),
        "{command:?} failed ({}):\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Run a command, whatever comes of it.
pub fn output_of(command: &mut Command) -> Output {
    command
        .env("LC_ALL", "C")
        .output()
        .unwrap_or_else(|e| panic!("{command:?} could not be run: {e}"))
}

/// Run shell words in a directory; they must succeed. Answers stdout.
pub fn shell(dir: &Path, script: &str) -> String {
    run(Command::new("sh").args(["-euc", script]).current_dir(dir))
}
