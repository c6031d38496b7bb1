//! What the words on a command line mean: `FS`, `FS@SNAP`, a directory.

use crate::bucket_option::{self, BucketOption};
use crate::client::DaemonClient;
use cbfs_core::api::{InstanceInfo, Role, SnapshotInfo};
use cbfs_core::bucket::{self, Bucket, BucketUrl};
use cbfs_core::catalog;
use cbfs_core::error::Context;
use cbfs_core::format::manifest::Manifest;
use cbfs_core::handle::{self, FsAndSnapshot, Handle, SnapshotSelector};
use cbfs_core::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file system and where its objects are.
#[derive(Debug)]
pub(crate) struct Located {
    /// The file system.
    pub(crate) fs: Handle,
    /// Its bucket.
    pub(crate) bucket: BucketUrl,
    /// Whether this node's daemon has an instance of it.
    pub(crate) on_this_node: bool,
}

impl Located {
    /// Open its bucket to read.
    pub(crate) fn open_bucket(&self) -> Result<Arc<dyn Bucket>> {
        Ok(bucket::open(&self.bucket, true)?)
    }

    /// Open its bucket to change it; with `dry_run` only to read, as opening it to write tries whether it can be written.
    pub(crate) fn open_bucket_to_write(&self, dry_run: bool) -> Result<Arc<dyn Bucket>> {
        Ok(bucket::open(&self.bucket, dry_run)?)
    }

    /// The complete snapshot that is meant.
    pub(crate) fn find_snapshot(&self, wanted: &SnapshotSelector) -> Result<Manifest> {
        catalog::find_snapshot(self.open_bucket()?.as_ref(), &self.fs, wanted)
    }
}

/// Find the file system that `text` means: in the bucket that was given, else among this node's
/// instances (the daemon knows their buckets). No daemon is needed when a bucket is given.
pub(crate) fn locate(text: &str, option: &BucketOption, client: &DaemonClient) -> Result<Located> {
    locate_by(text, option, client, catalog::find_fs)
}

/// The same for a file system that is deleted: where several are meant, the deleted one is.
pub(crate) fn locate_deleted(
    text: &str,
    option: &BucketOption,
    client: &DaemonClient,
) -> Result<Located> {
    locate_by(text, option, client, catalog::find_deleted_fs)
}

fn locate_by(
    text: &str,
    option: &BucketOption,
    client: &DaemonClient,
    find: impl Fn(&dyn Bucket, &str) -> Result<Handle>,
) -> Result<Located> {
    let instances = match client.instances() {
        Err(e)
            if !matches!(
                e.kind(),
                ErrorKind::DaemonUnreachable | ErrorKind::Credentials
            ) =>
        {
            return Err(e);
        }
        answer => answer,
    };
    let in_bucket = match option.url()? {
        None => None,
        Some(url) => match find(bucket::open(&url, true)?.as_ref(), text) {
            Ok(fs) => {
                let on_this_node = instances.iter().flatten().any(|i| i.fs == fs);
                return Ok(Located {
                    fs,
                    bucket: url,
                    on_this_node,
                });
            }
            Err(e) if e.kind() == ErrorKind::NotFound => Some(e),
            Err(e) => return Err(e),
        },
    };
    // CBFS_BUCKET may well name another bucket than that of an instance: look there too, but
    // where that finds nothing either, tell what the bucket said.
    let on_this_node = instances.map_err(|e| {
        e.hint(
            "look into a bucket with --bucket URL or CBFS_BUCKET, or start the daemon with \
             `cbfsctl mount …`",
        )
    });
    let found = on_this_node.and_then(|instances| {
        let fs = handle_on_this_node(text, &instances)?;
        let url = instances
            .iter()
            .find(|i| i.fs == fs)
            .map(|i| i.bucket.clone());
        Ok((fs, url.unwrap_or_default()))
    });
    match (found, in_bucket) {
        (Ok((fs, url)), _) => Ok(Located {
            fs,
            bucket: bucket_option::parse(&url)?,
            on_this_node: true,
        }),
        (Err(e), Some(_)) if e.kind() == ErrorKind::Conflict => Err(e),
        (Err(_), Some(not_in_bucket)) => Err(not_in_bucket),
        (Err(e), None) => Err(e),
    }
}

/// The requests of this node's master; none where it has only slaves of the file system, or nothing.
pub(crate) fn requests_here(client: &DaemonClient, located: &Located) -> Result<Vec<SnapshotInfo>> {
    if !located.on_this_node {
        return Ok(Vec::new());
    }
    match client.snapshots(&located.fs.to_string()) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        answer => answer,
    }
}

/// The file system among this node's instances that `text` means.
pub(crate) fn handle_on_this_node(text: &str, instances: &[InstanceInfo]) -> Result<Handle> {
    let handles: Vec<Handle> = instances.iter().map(|i| i.fs.clone()).collect();
    handle::select(text, &handles)
        .cloned()
        .map_err(|e| match e.kind() {
            ErrorKind::NotFound => Error::new(
                ErrorKind::NotFound,
                format!("there is no instance of {text:?} on this node"),
            )
            .hint("`cbfsctl instance list` lists them; look into a bucket with --bucket URL"),
            _ => e,
        })
}

/// Whether `request` is the one that is meant by number or name. `latest` is for the caller to
/// decide: it needs all of them.
pub(crate) fn is_request(request: &SnapshotInfo, wanted: &SnapshotSelector) -> bool {
    match wanted {
        SnapshotSelector::Latest => false,
        SnapshotSelector::Number(number) => request.number == *number,
        SnapshotSelector::Name(name) => request.name.as_deref() == Some(name),
    }
}

/// The instance that `text` means: by mount point when it has a slash, else by file system
/// (`FS`: the master, or the only slave; `FS@NUMBER`: that slave).
pub(crate) fn choose_instance(text: &str, instances: Vec<InstanceInfo>) -> Result<InstanceInfo> {
    if text.contains('/') {
        let path = Path::new(text);
        if let Some(instance) = mounted_as_named(path, &instances) {
            return Ok(instance.clone());
        }
        let path = directory(path)?;
        return mounted_at(&path, &instances).cloned().ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("no instance is mounted on {}", path.display()),
            )
            .hint("`cbfsctl instance list` lists them")
        });
    }
    let wanted: FsAndSnapshot = text.parse()?;
    let fs = handle_on_this_node(wanted.fs.as_str(), &instances)?;
    let mut of_fs: Vec<InstanceInfo> = instances.into_iter().filter(|i| i.fs == fs).collect();
    match wanted.snapshot {
        Some(snapshot) => of_fs.retain(|i| i.id == format!("{fs}@{snapshot}")),
        None if of_fs.iter().any(|i| i.role == Role::Master) => {
            of_fs.retain(|i| i.role == Role::Master);
        }
        None => {}
    }
    match (of_fs.pop(), of_fs.is_empty()) {
        (Some(instance), true) => Ok(instance),
        (Some(instance), false) => {
            let mut ids: Vec<&str> = of_fs.iter().map(|i| i.id.as_str()).collect();
            ids.push(&instance.id);
            let text = format!("{text:?} is ambiguous: it may be {}", ids.join(", "));
            Err(Error::new(ErrorKind::Conflict, text).hint("write one of these"))
        }
        (None, _) => Err(Error::new(
            ErrorKind::NotFound,
            format!("there is no instance {text} on this node"),
        )
        .hint("`cbfsctl instance list` lists them")),
    }
}

/// The mounted instance that `text` means: by mount point (with a slash in it, or a directory of that name here that is
/// one), else by id, by file system (`FS`: its only mount here) or by slave (`FS@NUMBER`).
///
/// # Errors
/// [`ErrorKind::NotFound`] when nothing that is meant is mounted; [`ErrorKind::Conflict`] when several mounts are meant: which
/// one is to end is for the user to say.
pub(crate) fn choose_mounted(text: &str, instances: &[InstanceInfo]) -> Result<InstanceInfo> {
    let not_mounted = || {
        Error::new(
            ErrorKind::NotFound,
            format!("nothing of CBFS is mounted as {text}"),
        )
        .hint("see `cbfsctl instance list`")
    };
    let path = Path::new(text);
    if let Some(instance) = mounted_as_named(path, instances) {
        return Ok(instance.clone());
    }
    if text.contains('/') || matches!(text, "." | "..") {
        let path = directory(path)?;
        return mounted_at(&path, instances)
            .cloned()
            .ok_or_else(not_mounted);
    }
    let mut mounted: Vec<&InstanceInfo> = instances
        .iter()
        .filter(|i| i.mount_point.is_some())
        .collect();
    if let Some(instance) = mounted.iter().find(|i| i.id == text) {
        return Ok((*instance).clone());
    }
    let Ok(wanted) = text.parse::<FsAndSnapshot>() else {
        return Err(not_mounted());
    };
    mounted.retain(|i| {
        let snapshot = wanted.snapshot.as_ref();
        wanted.fs.matches(&i.fs) && snapshot.is_none_or(|s| i.id == format!("{}@{s}", i.fs))
    });
    match mounted.as_slice() {
        [] => Err(not_mounted()),
        [one] => Ok((*one).clone()),
        several => {
            let ids: Vec<&str> = several.iter().map(|i| i.id.as_str()).collect();
            let text = format!("{text} has several mounts: {}", ids.join(", "));
            Err(Error::new(ErrorKind::Conflict, text).hint("name the mount point"))
        }
    }
}

/// The instance whose mount point this is, as the daemon tells it.
fn mounted_at<'a>(path: &Path, instances: &'a [InstanceInfo]) -> Option<&'a InstanceInfo> {
    let mut all = instances.iter();
    all.find(|i| i.mount_point.as_deref() == Some(path))
}

/// The instance that is mounted on `path`, found without touching the mount itself: it may hang, and who touches it would
/// hang as well.
fn mounted_as_named<'a>(path: &Path, instances: &'a [InstanceInfo]) -> Option<&'a InstanceInfo> {
    let literally = absolute(path).ok();
    literally
        .and_then(|path| mounted_at(&path, instances))
        .or_else(|| mounted_at(&in_its_parent(path)?, instances))
}

/// The absolute path of a directory, without symlinks where it can be resolved: so it stands in
/// the list of mounts.
pub(crate) fn directory(path: &Path) -> Result<PathBuf> {
    std::fs::canonicalize(path).or_else(|_| absolute(path))
}

/// The absolute path, without a slash at its end; nothing on disk is looked at.
fn absolute(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path);
    let absolute = absolute.context(|| format!("{} has no absolute path", path.display()))?;
    Ok(absolute.components().collect())
}

/// The path with all symlinks resolved but its own last component.
fn in_its_parent(path: &Path) -> Option<PathBuf> {
    let path = absolute(path).ok()?;
    Some(
        std::fs::canonicalize(path.parent()?)
            .ok()?
            .join(path.file_name()?),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_its_path_without_a_look_at_what_is_there() {
        // What would be looked at is somewhere else.
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let (mount, other) = (dir.join("mnt"), dir.join("other"));
        std::fs::create_dir(&other).unwrap();
        std::os::unix::fs::symlink(&other, &mount).unwrap();
        let mount = mount.to_str().unwrap();
        let all = [instance(&format!("home-{UUID}"), "master", mount)];
        for text in [mount.to_owned(), format!("{mount}/")] {
            assert_eq!(choose_instance(&text, all.to_vec()).unwrap(), all[0]);
            assert_eq!(choose_mounted(&text, &all).unwrap(), all[0]);
        }
        let elsewhere = choose_instance(other.to_str().unwrap(), all.to_vec());
        assert_eq!(elsewhere.unwrap_err().kind(), ErrorKind::NotFound);
    }

    const UUID: &str = "6f1c2a52-8f8a-4d0e-9a53-0c2ad9d1a2b3";

    fn instance(id: &str, role: &str, mount_point: &str) -> InstanceInfo {
        serde_json::from_value(serde_json::json!({
            "id": id, "fs": id.split('@').next(), "bucket": "file:///srv/b", "role": role, "epoch": 1,
            "mount_point": mount_point, "health": "ok", "xid": 7, "durable_xid": 7,
            "unpublished": 0, "inodes": 1, "local_bytes": 0, "dirty_bytes": 0,
        }))
        .unwrap()
    }

    fn instances() -> Vec<InstanceInfo> {
        let (home, logs) = (
            format!("home-{UUID}"),
            format!("logs-{}", UUID.replace("6f", "70")),
        );
        vec![
            instance(&home, "master", "/mnt/home"),
            instance(&format!("{home}@2"), "slave", "/mnt/then"),
            instance(&format!("{logs}@1"), "slave", "/mnt/logs-1"),
            instance(&format!("{logs}@2"), "slave", "/mnt/logs-2"),
        ]
    }

    #[test]
    fn an_instance_is_chosen_by_name_or_mount_point() {
        let chosen =
            |text: &str| choose_instance(text, instances()).map(|i| i.mount_point.unwrap());
        assert_eq!(chosen("home").unwrap(), Path::new("/mnt/home"));
        assert_eq!(chosen("home@2").unwrap(), Path::new("/mnt/then"));
        assert_eq!(chosen("/mnt/logs-1").unwrap(), Path::new("/mnt/logs-1"));
        assert_eq!(chosen("70").unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(chosen("701c").unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(chosen("home@3").unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(chosen("/mnt").unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn umount_takes_directories_and_what_has_one_mount() {
        let mut all = instances();
        let home = format!("home-{UUID}");
        let chosen = |text: &str, all: &[InstanceInfo]| {
            choose_mounted(text, all)
                .map(|i| i.mount_point.unwrap())
                .map_err(|e| e.kind())
        };
        let at = |path: &str| Ok(PathBuf::from(path));
        // Two mounts: it is not for us to say which, though one is the master's.
        assert_eq!(chosen("home", &all), Err(ErrorKind::Conflict));
        assert_eq!(chosen("logs", &all), Err(ErrorKind::Conflict));
        assert_eq!(chosen(&home, &all), at("/mnt/home"));
        assert_eq!(chosen("home@2", &all), at("/mnt/then"));
        assert_eq!(chosen("6f1c@2", &all), at("/mnt/then"));
        assert_eq!(chosen("home@3", &all), Err(ErrorKind::NotFound));
        assert_eq!(chosen("else", &all), Err(ErrorKind::NotFound));
        assert_eq!(chosen("/mnt/home", &all), at("/mnt/home"));
        assert_eq!(chosen("/mnt/home/", &all), at("/mnt/home"));
        assert_eq!(chosen("/nonexistent/x", &all), Err(ErrorKind::NotFound));
        // A master that is not mounted does not stand before a slave that is.
        all[0].mount_point = None;
        assert_eq!(chosen("home", &all), at("/mnt/then"));
        assert_eq!(chosen(&home, &all), at("/mnt/then"));
        assert_eq!(chosen("/mnt/home", &all), Err(ErrorKind::NotFound));
        all.truncate(1);
        assert_eq!(chosen("home", &all), Err(ErrorKind::NotFound));
    }

    #[test]
    fn a_bucket_needs_no_daemon_and_none_of_both_says_what_to_give() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            bucket: BucketOption,
        }
        let no_daemon = DaemonClient::new(Path::new("/nonexistent/s")).unwrap();
        let line: Line = clap::Parser::try_parse_from(["x", "--bucket", ""]).unwrap();
        let error = locate("home", &line.bucket, &no_daemon).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DaemonUnreachable);
        assert!(error.hint_text().unwrap().contains("--bucket"));
    }
}
