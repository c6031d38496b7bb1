//! The fence: a master that was superseded, or that exists twice, changes nothing any more. It is durable
//! (`fenced.json`): what a master learned once it must not forget because the bucket is away at its next start.

use super::Instance;
use cbfs_core::durable_file;
use cbfs_core::error::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// `fenced.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Fenced {
    /// Why.
    reason: String,
    /// RFC 3339, for people.
    since: String,
}

fn path_in(dir: &Path) -> PathBuf {
    dir.join("fenced.json")
}

/// Why the instance in this directory is fenced, if it is. A file that cannot be understood fences as well.
pub(super) fn read(dir: &Path) -> Result<Option<String>> {
    let path = path_in(dir);
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice::<Fenced>(&bytes).map_or_else(
            |_| "fenced; the note that says why is damaged".to_owned(),
            |fenced| fenced.reason,
        ))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).context(|| format!("{} could not be read", path.display())),
    }
}

impl Instance {
    /// Nothing is changed any more, for this reason. Operations under way end first. Where the note cannot be
    /// written the fence stands until the daemon ends; the next one finds the reason again.
    pub fn fence(&self, reason: &str) {
        if self.fenced.set(reason.to_owned()).is_err() {
            return; // the first reason stands
        }
        tracing::error!(instance = %self.id, "fenced: {reason}");
        self.tell_health();
        // Whoever is inside the gate is done when this returns.
        drop(self.gate.write());
        let fenced = Fenced {
            reason: reason.to_owned(),
            since: self.clock.now().to_rfc3339(),
        };
        let noted = serde_json::to_vec(&fenced)
            .map_err(io::Error::from)
            .and_then(|bytes| durable_file::replace(&path_in(&self.dir), &bytes));
        if let Err(e) = noted {
            let e = Error::failed("the fence could not be noted").because(e);
            tracing::error!(instance = %self.id, causes = ?e.causes(), "{e}");
        }
    }

    /// Whether it is fenced.
    pub fn is_fenced(&self) -> bool {
        self.fenced.get().is_some()
    }

    /// Why it is fenced.
    pub fn fenced_because(&self) -> Option<&str> {
        self.fenced.get().map(String::as_str)
    }
}
