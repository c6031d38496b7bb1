//! What a node remembers: its id, and per instance what it is and where it is mounted.

use cbfs_core::api::Role;
use cbfs_core::bucket::BucketUrl;
use cbfs_core::clock::Ids;
use cbfs_core::durable_file;
use cbfs_core::error::{Context, Error, Result};
use cbfs_core::format::epoch::BaseSnapshot;
use cbfs_core::handle::Handle;
use cbfs_core::ids::{Epoch, SnapshotNumber};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// `instance.toml`: an instance of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceConfig {
    /// The file system.
    pub fs: Handle,
    /// Where its objects live.
    pub bucket: BucketUrl,
    /// Master or slave.
    pub role: Role,
    /// The master's epoch, or the epoch that published the slave's snapshot.
    pub epoch: Epoch,
    /// The slave's snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotNumber>,
    /// The slave moves to each new snapshot, and looks for one every so many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follow: Option<u64>,
    /// Bytes per block, from the file system's config: a mount needs no bucket.
    pub block_size: u64,
    /// Nonce of the master's claim, stored before the claim is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// Where it is to be mounted; comes back with the daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_point: Option<PathBuf>,
    /// Never update access times.
    #[serde(default)]
    pub noatime: bool,
    /// Bound on what a master keeps on this node, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kvs_limit: Option<u64>,
    /// Space held back for a full disk, in bytes; by the size of the disk when it is not here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ballast: Option<u64>,
    /// The snapshot that a promoted master stands on; its manifest is in `base.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseSnapshot>,
}

impl InstanceConfig {
    /// `HANDLE` of a master, `HANDLE@NUMBER` of a slave, `HANDLE@latest` of one that follows.
    pub fn id(&self) -> String {
        match self.snapshot {
            Some(_) if self.follow.is_some() => format!("{}@latest", self.fs),
            Some(number) => format!("{}@{number}", self.fs),
            None => self.fs.to_string(),
        }
    }

    /// Store durably in an instance's directory.
    pub fn store(&self, dir: &Path) -> Result<()> {
        let path = dir.join("instance.toml");
        let text = toml::to_string(self).context(|| "an instance could not be described".into())?;
        durable_file::create_dir_all(dir)
            .and_then(|()| durable_file::replace(&path, text.as_bytes()))
            .context(|| format!("{} could not be written", path.display()))
    }

    /// Read it; `None` when the directory never became an instance.
    pub fn read(dir: &Path) -> Result<Option<InstanceConfig>> {
        let path = dir.join("instance.toml");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).context(|| format!("{} could not be read", path.display())),
        };
        toml::from_str(&text).map(Some).map_err(|e| {
            Error::damage(format!("{} is damaged", path.display()))
                .because(e)
                .hint(
                    "its keys are described in docs/configuration.md: write it anew, or restore it",
                )
        })
    }
}

/// The stable id of this node: made once, kept in `node.toml`.
pub fn node_id(state_dir: &Path, ids: &dyn Ids) -> Result<String> {
    #[derive(Serialize, Deserialize)]
    struct Node {
        id: String,
    }
    let path = state_dir.join("node.toml");
    match fs::read_to_string(&path) {
        Ok(text) => toml::from_str(&text)
            .map(|node: Node| node.id)
            .map_err(|e| Error::damage(format!("{} is damaged", path.display())).because(e)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let id = format!("{}-{}", short_host(), ids.attempt());
            let text = toml::to_string(&Node { id: id.clone() })
                .context(|| "the node could not be described".into())?;
            durable_file::replace(&path, text.as_bytes())
                .context(|| format!("{} could not be written", path.display()))?;
            Ok(id)
        }
        Err(e) => Err(e).context(|| format!("{} could not be read", path.display())),
    }
}

/// The host's name, for people.
pub(super) fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// The host's name as object keys may hold it.
fn short_host() -> String {
    let allowed = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
    let name: String = host_name()
        .chars()
        .take_while(|c| *c != '.')
        .filter(allowed)
        .take(32)
        .collect();
    if name.is_empty() {
        "node".to_owned()
    } else {
        name
    }
}
