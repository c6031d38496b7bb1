//! The program under test: `cbfsctl`, built once per test process in the profile and the target
//! directory of the test binary, so that no test ever runs yesterday's program.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The path of `cbfsctl`, which is built at the first call.
pub fn cbfsctl() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| match std::env::var_os("CBFS_TESTS_CBFSCTL") {
        Some(path) => PathBuf::from(path),
        None => pinned(&build()),
    })
}

/// Where cargo put the test binary.
struct Layout {
    target_dir: PathBuf,
    /// With `cargo test --target TRIPLE`.
    triple: Option<OsString>,
    profile_dir: PathBuf,
}

impl Layout {
    fn of_this_binary() -> Layout {
        let exe = std::env::current_exe().expect("the path of the test binary");
        let deps = exe.parent().expect("a test binary lies in deps/");
        let profile_dir = deps.parent().expect("deps/ lies in the profile").to_owned();
        let above = profile_dir.parent().expect("the profile lies in target/");
        // Cargo marks the target directory itself as a cache.
        match above.parent() {
            Some(up)
                if !above.join("CACHEDIR.TAG").exists() && up.join("CACHEDIR.TAG").exists() =>
            {
                Layout {
                    target_dir: up.to_owned(),
                    triple: above.file_name().map(Into::into),
                    profile_dir,
                }
            }
            _ => Layout {
                target_dir: above.to_owned(),
                triple: None,
                profile_dir,
            },
        }
    }
}

fn build() -> PathBuf {
    let layout = Layout::of_this_binary();
    let profile = match layout.profile_dir.file_name().and_then(|n| n.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let mut command = Command::new(cargo);
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--quiet", "-p", "cbfsctl", "--bin", "cbfsctl"])
        .args(["--profile", profile, "--target-dir"])
        .arg(&layout.target_dir);
    if let Some(triple) = &layout.triple {
        command.arg("--target").arg(triple);
    }
    let output = command.output().expect("cargo could not be run");
    assert!(
        output.status.success(),
        "cbfsctl could not be built:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    layout.profile_dir.join("cbfsctl")
}

/// A hard link to the build of now: another cargo that builds anew meanwhile takes nothing away
/// from the tests that run. Links of earlier builds are removed.
fn pinned(program: &Path) -> PathBuf {
    let dir = program.with_file_name("cbfs-tests-programs");
    fs::create_dir_all(&dir).expect("a directory beside the program");
    let built = fs::metadata(program).expect("the program was built");
    let id = format!("{}-{}-{}", built.ino(), built.mtime(), built.mtime_nsec());
    let link = dir.join(&id).join("cbfsctl");
    if !link.exists() {
        for old in fs::read_dir(&dir).into_iter().flatten().flatten() {
            // A process that still runs it keeps it.
            let _ = fs::remove_dir_all(old.path());
        }
        fs::create_dir_all(dir.join(&id)).expect("a directory beside the program");
        match fs::hard_link(program, &link) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                fs::copy(program, &link).expect("the program could not be copied");
            }
            _ => {}
        }
    }
    link
}
