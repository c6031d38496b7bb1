//! `mount.cbfs`: what mount(8) runs for `mount -t cbfs SOURCE DIR -o …` and for lines of /etc/fstab. It is
//! this program under another name, and does what `cbfsctl mount` does: an option of mount(8) that has the
//! name of an option there is that option (`bucket=URL`, `slave`, `kvs_limit=10G`), so it learns new ones
//! by itself.
//!
//! Options that ask the kernel for something CBFS does not do are refused, never dropped: a mount with
//! `nosuid` in its line must not honour suid bits. Exit codes are those of mount(8).

use crate::cli::Cli;
use crate::commands::{self, Context};
use crate::error_report;
use crate::output::{Outcome, Output, Stop};
use crate::target;
use cbfs_core::api::{InstanceInfo, Role};
use cbfs_core::handle::{FsAndSnapshot, SnapshotSelector};
use cbfs_core::{Error, ErrorKind, Result};
use clap::{CommandFactory, Parser};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The name under which it is called.
const NAME: &str = "mount.cbfs";

/// mount(8): incorrect invocation or permissions.
const EXIT_USAGE: u8 = 1;
/// mount(8): interrupted by the user.
const EXIT_INTERRUPTED: u8 = 8;
/// mount(8): the mount failed.
const EXIT_FAILED: u8 = 32;

/// Options for mount(8) itself, for fstab, or for what holds anyway.
const NO_CONCERN: [&str; 21] = [
    "rw",
    "defaults",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "users",
    "nouser",
    "owner",
    "group",
    "exec",
    "suid",
    "dev",
    "async",
    "relatime",
    "allow_other",
    "default_permissions",
    "nonempty",
    "loud",
    "silent",
];

/// What only the kernel could promise, and is not asked to.
const NOT_KEPT: [&str; 9] = [
    "nosuid",
    "nodev",
    "noexec",
    "sync",
    "dirsync",
    "strictatime",
    "nodiratime",
    "lazytime",
    "remount",
];

/// Mount a CBFS file system: the helper of mount(8).
///
/// `mount -t cbfs SOURCE DIR -o OPTIONS` and lines of /etc/fstab with the type cbfs end here. SOURCE is a file system
/// (read-write, as its master) or a snapshot of it; `ro` is the same as `slave`. Each option of
/// `cbfsctl mount` may stand behind -o: bucket=URL, slave, noatime, kvs_limit=SIZE, and so on; also
/// socket=PATH. The daemon is started when none runs. A mount that the daemon brought back already is a success.
///
/// Exit codes are those of mount(8): 0 mounted, 1 usage or permissions, 8 interrupted, 32 failed.
#[derive(Debug, Parser)]
#[command(
    name = "mount.cbfs",
    version,
    disable_help_flag = true,
    after_help = "Examples:\n  mount -t cbfs home /mnt/home -o bucket=file:///srv/bucket\n  \
        mount -t cbfs home@12 /mnt/then -o slave,bucket=file:///srv/bucket\n\n\
        A line of /etc/fstab:\n  \
        home  /mnt/home  cbfs  bucket=s3://BUCKET/PREFIX,_netdev,nofail,x-systemd.requires=cbfsd.service  0 0"
)]
struct Args {
    /// The file system or snapshot: FS, FS@12, FS@NAME or FS@latest.
    #[arg(value_name = "SOURCE")]
    source: String,
    /// Where to.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Options, separated by commas.
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,
    /// Check the command line and mount nothing.
    #[arg(short = 'f')]
    fake: bool,
    /// Ignore unknown options.
    #[arg(short = 's')]
    sloppy: bool,
    /// Say what was done.
    #[arg(short = 'v')]
    verbose: bool,
    /// Write nothing to /etc/mtab (it never does).
    #[arg(short = 'n')]
    no_mtab: bool,
    /// The type as mount(8) was given it.
    #[arg(short = 't', value_name = "TYPE")]
    kind: Option<String>,
}

/// The helper's command line, for its man page.
pub(crate) fn command() -> clap::Command {
    Args::command()
}

/// Whether this process was started as the helper.
pub(crate) fn is_called(args: &[OsString]) -> bool {
    let name = args.first().map(Path::new).and_then(Path::file_name);
    name.is_some_and(|name| name == NAME)
}

/// Run it; `args` as mount(8) gives them.
pub(crate) fn run(args: &[OsString]) -> ExitCode {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(refusal) => {
            let _ = refusal.print(); // a closed pipe is no error
            let refused = refusal.use_stderr();
            return ExitCode::from(if refused { EXIT_USAGE } else { 0 });
        }
    };
    let mut output = Output::standard(false, !args.verbose);
    match mount(&args) {
        Ok(()) | Err(Stop::ClosedPipe) => ExitCode::SUCCESS,
        Err(Stop::Interrupted) => ExitCode::from(EXIT_INTERRUPTED),
        Err(Stop::Error(error)) => {
            let code = match error.kind() {
                ErrorKind::Usage | ErrorKind::Credentials => EXIT_USAGE,
                _ => EXIT_FAILED,
            };
            output.error(&error_report::with_general_hint(error));
            ExitCode::from(code)
        }
    }
}

/// The file system or snapshot that is meant. mount(8) takes the source for a path where a file of that name lies in its
/// working directory (for systemd that is `/`, so `home` becomes `/home`): the name is its last part. And the kernel's
/// list of mounts shows a source as `cbfs:HANDLE`.
fn source(text: &str) -> &str {
    let name = match text.strip_prefix('/') {
        Some(path) => path.rsplit('/').next().unwrap_or(path),
        None => text,
    };
    name.strip_prefix("cbfs:").unwrap_or(name)
}

fn mount(args: &Args) -> Outcome {
    let words = command_line(args)?;
    let cli = Cli::try_parse_from(&words).map_err(|e| {
        let text = e.to_string();
        let first = text.lines().next().unwrap_or_default();
        let first = first.strip_prefix("error: ").unwrap_or(first).to_owned();
        Error::new(ErrorKind::Usage, first).hint("see mount.cbfs(8)")
    })?;
    if args.fake {
        return Ok(());
    }
    let output = Output::standard(false, !args.verbose);
    cbfs_core::configuration::load()?;
    let mut context = Context::new(output, &cli.global);
    if let Some(instance) = standing(args, &context)? {
        let text = format_args!("{} is mounted already", instance.id);
        context.output.message(text);
        return Ok(());
    }
    commands::run(cli.command, &mut context).map(drop)
}

/// The mount that is asked for, where it stands already: the daemon brings mounts back by itself, perhaps
/// before `mount -a` gets to their lines.
fn standing(args: &Args, context: &Context) -> Result<Option<InstanceInfo>> {
    let instances = match context.client()?.instances() {
        Ok(instances) => instances,
        // To be started, or to be told by the mount.
        Err(_) => return Ok(None),
    };
    let dir = target::directory(&args.dir)?;
    let wanted: FsAndSnapshot = source(&args.source).parse()?;
    let here = instances
        .into_iter()
        .find(|i| i.mount_point.as_deref() == Some(&dir));
    Ok(here.filter(|i| {
        let snapshot = match &wanted.snapshot {
            Some(SnapshotSelector::Number(number)) => i.snapshot == Some(*number),
            // By name, or the latest of that time.
            Some(_) => i.role == Role::Slave,
            None => true,
        };
        wanted.fs.matches(&i.fs) && snapshot
    }))
}

/// The command line of `cbfsctl mount` that the options stand for.
fn command_line(args: &Args) -> Result<Vec<OsString>> {
    let known = Cli::command();
    let known = known.find_subcommand("mount");
    let takes_value = |name: &str| {
        let mut all = known.into_iter().flat_map(|m| m.get_arguments());
        let found = all.find(|a| a.get_long() == Some(name))?;
        Some(found.get_action().takes_values())
    };
    let mut words: Vec<OsString> = ["cbfsctl", "mount"].map(OsString::from).to_vec();
    let mut slave = false;
    let options = args.options.iter().flat_map(|o| o.split(','));
    for option in options.filter(|o| !o.is_empty()) {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        let long = name.replace('_', "-");
        if matches!(name, "ro" | "slave") {
            slave = true;
        } else if name == "socket" || takes_value(&long) == Some(true) {
            let value = value.filter(|v| !v.is_empty()).ok_or_else(|| {
                Error::new(ErrorKind::Usage, format!("the option {name} has no value"))
                    .hint(format!("write {name}=VALUE; a value has no comma"))
            })?;
            words.extend([format!("--{long}"), value.to_owned()].map(OsString::from));
        } else if takes_value(&long) == Some(false) && value.is_none() {
            words.push(format!("--{long}").into());
        } else if NOT_KEPT.contains(&name) {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("CBFS does not keep the mount option {name}"),
            )
            .hint("leave it out; what it asks for would not hold"));
        } else if !NO_CONCERN.contains(&name)
            && !name.starts_with("x-")
            && !name.starts_with("X-")
            && name != "comment"
            && !args.sloppy
        {
            return Err(
                Error::new(ErrorKind::Usage, format!("unknown mount option {option}"))
                    .hint("see mount.cbfs(8) for the options"),
            );
        }
    }
    if slave {
        words.push("--slave".into());
    }
    // Neither may be taken for an option.
    words.push("--".into());
    words.push(source(&args.source).into());
    words.push(args.dir.clone().into());
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<String> {
        let line = std::iter::once("mount.cbfs").chain(line.split(' '));
        let words = command_line(&Args::try_parse_from(line).unwrap())?;
        let words = words.iter().map(|w| w.to_string_lossy().into_owned());
        Ok(words.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn options_of_mount_are_those_of_cbfsctl_mount() {
        assert_eq!(
            words(
                "home@12 /mnt -o rw,slave,bucket=s3://b/p?region=x,_netdev,noatime -o kvs_limit=1G"
            )
            .unwrap(),
            "cbfsctl mount --bucket s3://b/p?region=x --noatime --kvs-limit 1G --slave -- home@12 /mnt"
        );
        assert_eq!(
            words("home /mnt -o ro,nofail,x-systemd.requires=a.service").unwrap(),
            "cbfsctl mount --slave -- home /mnt"
        );
        assert_eq!(
            words("home /mnt -n -o defaults,socket=/s").unwrap(),
            "cbfsctl mount --socket /s -- home /mnt"
        );
        // As mount(8) makes it of `home`, where /srv/home exists; and as the kernel shows it.
        for source in ["/srv/home", "/home", "cbfs:home"] {
            assert_eq!(
                words(&format!("{source} /mnt")).unwrap(),
                "cbfsctl mount -- home /mnt"
            );
        }
    }

    #[test]
    fn what_would_not_hold_and_what_is_unknown_is_refused() {
        for option in ["nosuid", "noexec", "bucket", "bucket=", "slow", "noatime=1"] {
            let refused = words(&format!("home /mnt -o {option}")).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Usage, "{option}");
            assert!(refused.hint_text().is_some());
        }
        assert!(words("home /mnt -s -o slow").is_ok());
        assert!(words("home /mnt -s -o nosuid").is_err());
    }

    #[test]
    fn it_goes_by_its_name() {
        let called = |name: &str| is_called(&[name.into()]);
        assert!(called("/sbin/mount.cbfs") && called("mount.cbfs"));
        assert!(!called("/usr/bin/cbfsctl"));
    }
}
