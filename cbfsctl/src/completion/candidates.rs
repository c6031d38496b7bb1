//! What exists now: file systems, snapshots and mount points, from the daemon and from the bucket.

use super::{Wanted, candidate};
use crate::bucket_option;
use crate::client::DaemonClient;
use cbfs_core::api::InstanceInfo;
use cbfs_core::handle::Handle;
use cbfs_core::snapshot::SnapshotState;
use cbfs_core::{Result, bucket, catalog, configuration, environment};
use clap_complete::engine::CompletionCandidate;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

/// How long a person at a keyboard is kept waiting.
pub(super) const PATIENCE: Duration = Duration::from_millis(1500);

/// What `--wait` takes.
const WAITED_FOR: [SnapshotState; 6] = [
    SnapshotState::Queued,
    SnapshotState::Collected,
    SnapshotState::Writing,
    SnapshotState::Written,
    SnapshotState::Copying,
    SnapshotState::Complete,
];

/// Where candidates come from.
#[derive(Debug, Clone)]
pub(super) struct Candidates {
    socket: PathBuf,
    bucket: Option<String>,
}

/// A snapshot that can be named.
struct Named {
    number: u64,
    name: Option<String>,
    created_at: String,
}

impl Candidates {
    /// As the line `words` and the environment say.
    pub(super) fn of(words: &[OsString]) -> Candidates {
        let socket = option(words, "--socket").map(PathBuf::from);
        let environment = || {
            let named = std::env::var("CBFS_BUCKET").ok();
            named.or_else(|| configuration::current().bucket.clone())
        };
        Candidates {
            socket: socket.unwrap_or_else(environment::socket),
            bucket: option(words, "--bucket")
                .or_else(environment)
                .filter(|url| !url.is_empty()),
        }
    }

    /// What fits behind `typed`; nothing when it is not known in time. Errors are no candidates.
    pub(super) fn for_value(&self, wanted: Wanted, typed: &str) -> Vec<CompletionCandidate> {
        let (sender, answer) = mpsc::channel();
        let (this, text) = (self.clone(), typed.to_owned());
        // On a thread of its own: this process ends soon, whatever a slow bucket still does.
        let asked = std::thread::Builder::new().spawn(move || {
            let _ = sender.send(this.gather(wanted, &text)); // too late is no error
        });
        let found = asked.ok().and_then(|_| answer.recv_timeout(PATIENCE).ok());
        let mut found = found.unwrap_or_default();
        found.retain(|c| c.get_value().to_string_lossy().starts_with(typed));
        found
    }

    fn gather(&self, wanted: Wanted, typed: &str) -> Vec<CompletionCandidate> {
        if wanted == Wanted::SnapshotState {
            let states = WAITED_FOR.iter();
            return states
                .map(|s| candidate(s.name().to_owned(), String::new()))
                .collect();
        }
        let instances = self.instances().unwrap_or_default();
        if wanted == Wanted::Bucket {
            return self.buckets(&instances, typed);
        }
        let file_systems = self.file_systems(&instances);
        let words = words_for(&file_systems);
        let mut found = Vec::new();
        if typed.contains('/') || wanted == Wanted::FileSystemOrMountPoint {
            for instance in &instances {
                if let Some(dir) = &instance.mount_point {
                    found.push(candidate(
                        dir.to_string_lossy().into_owned(),
                        instance.id.clone(),
                    ));
                }
            }
        }
        let (before, behind) = match typed.split_once('@') {
            Some((before, _)) => (before, true),
            None => (typed, false),
        };
        let takes_snapshot = matches!(wanted, Wanted::Snapshot | Wanted::FileSystemOrSnapshot);
        let matching: Vec<&(String, Handle)> = words
            .iter()
            .filter(|(word, _)| match behind {
                true => word == before,
                false => word.starts_with(before),
            })
            .collect();
        for (word, fs) in &matching {
            if !behind && wanted != Wanted::Snapshot {
                found.push(candidate(word.clone(), fs.to_string()));
            }
            if !takes_snapshot {
                continue;
            }
            found.push(candidate(format!("{word}@latest"), String::new()));
            // Only where it is clear which file system is meant: each costs a look.
            if matching.len() == 1 {
                for snapshot in self.snapshots(fs, file_systems.get(fs)).unwrap_or_default() {
                    let about = snapshot.created_at.clone();
                    found.push(candidate(format!("{word}@{}", snapshot.number), about));
                    if let Some(name) = &snapshot.name {
                        let about =
                            format!("snapshot {}, {}", snapshot.number, snapshot.created_at);
                        found.push(candidate(format!("{word}@{name}"), about));
                    }
                }
            }
        }
        found
    }

    /// Buckets of this node, and directories that may be one.
    fn buckets(&self, instances: &[InstanceInfo], typed: &str) -> Vec<CompletionCandidate> {
        let mut urls: BTreeSet<String> = instances.iter().map(|i| i.bucket.clone()).collect();
        urls.extend(self.bucket.clone().filter(|url| url != typed));
        if let Some(path) = typed.strip_prefix("file://") {
            let dir = &path[..path.rfind('/').map_or(0, |at| at + 1)];
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    let name = entry.file_name();
                    urls.insert(format!("file://{dir}{}/", name.to_string_lossy()));
                }
            }
        } else {
            urls.extend(["file:///", "s3://"].map(str::to_owned));
        }
        let urls = urls.into_iter();
        urls.map(|url| candidate(url, String::new())).collect()
    }

    fn instances(&self) -> Result<Vec<InstanceInfo>> {
        DaemonClient::new(&self.socket)?.instances()
    }

    /// File systems and their buckets.
    fn file_systems(&self, instances: &[InstanceInfo]) -> BTreeMap<Handle, String> {
        let mut all = BTreeMap::new();
        if let Some(url) = &self.bucket
            && let Ok(listed) = list(url)
        {
            all.extend(listed.into_iter().map(|fs| (fs, url.clone())));
        }
        all.extend(instances.iter().map(|i| (i.fs.clone(), i.bucket.clone())));
        all
    }

    /// The complete snapshots: as the daemon knows them, else as the bucket does.
    fn snapshots(&self, fs: &Handle, bucket: Option<&String>) -> Result<Vec<Named>> {
        let client = DaemonClient::new(&self.socket)?;
        if let Ok(requests) = client.snapshots(&fs.to_string()) {
            let complete = requests.into_iter();
            let complete = complete.filter(|s| s.state == SnapshotState::Complete);
            return Ok(complete
                .map(|s| Named {
                    number: s.number.0,
                    name: s.name,
                    created_at: s.requested_at,
                })
                .collect());
        }
        let Some(url) = bucket else {
            return Ok(Vec::new());
        };
        let bucket = bucket::open(&bucket_option::parse(url)?, true)?;
        let manifests = catalog::manifests(&*bucket, fs)?.into_iter();
        Ok(manifests
            .map(|m| Named {
                number: m.number.0,
                name: m.name,
                created_at: m.created_at,
            })
            .collect())
    }
}

fn list(url: &str) -> Result<Vec<Handle>> {
    let bucket = bucket::open(&bucket_option::parse(url)?, true)?;
    catalog::list_fs(&*bucket)
}

/// The shortest word for each file system: its tag where that is unique, else its handle.
fn words_for(file_systems: &BTreeMap<Handle, String>) -> Vec<(String, Handle)> {
    let word = |fs: &Handle| {
        let same = file_systems.keys().filter(|other| other.tag == fs.tag);
        match same.count() {
            1 => fs.tag.clone(),
            _ => fs.to_string(),
        }
    };
    let all = file_systems.keys();
    all.map(|fs| (word(fs), fs.clone())).collect()
}

/// The value of an option on a line that may not be complete.
fn option(words: &[OsString], name: &str) -> Option<String> {
    let mut words = words.iter().filter_map(|w| w.to_str());
    while let Some(word) = words.next() {
        if word == name {
            return words.next().map(str::to_owned);
        }
        let value = word.strip_prefix(name).and_then(|v| v.strip_prefix('='));
        if let Some(value) = value {
            return Some(value.to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn options_are_found_wherever_they_stand() {
        let text = "cbfsctl --bucket file:///b mount --socket=/s home";
        assert_eq!(option(&line(text), "--bucket").unwrap(), "file:///b");
        assert_eq!(option(&line(text), "--socket").unwrap(), "/s");
        assert_eq!(option(&line("cbfsctl --bucket"), "--bucket"), None);
        assert_eq!(option(&line("cbfsctl --bucketed x"), "--bucket"), None);
    }

    #[test]
    fn a_tag_that_is_not_unique_is_not_offered() {
        let fs = |text: &str| text.parse::<Handle>().unwrap();
        let a = "home-6f1c2a52-8f8a-4d0e-9a53-0c2ad9d1a2b3";
        let b = "home-7f1c2a52-8f8a-4d0e-9a53-0c2ad9d1a2b3";
        let c = "logs-7f1c2a52-8f8a-4d0e-9a53-0c2ad9d1a2b4";
        let all = [a, b, c].map(|h| (fs(h), String::new()));
        let words: Vec<String> = words_for(&all.into()).into_iter().map(|w| w.0).collect();
        assert_eq!(words, [a, b, "logs"]);
    }
}
