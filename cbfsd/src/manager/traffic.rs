//! What an instance moves, for the API.

use crate::instance::MountTraffic;
use cbfs_core::api::Traffic;
use cbfs_core::bucket::{Counters, RequestKind};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Mount and bucket together.
pub(super) fn of(mount: &MountTraffic, bucket: &Counters) -> Traffic {
    let mut traffic = Traffic {
        read_bytes: mount.bytes_read(),
        written_bytes: mount.bytes_written(),
        ..Traffic::default()
    };
    for counted in bucket.counts() {
        match counted.kind {
            RequestKind::Create | RequestKind::Replace => {
                traffic.puts += counted.requests;
                traffic.sent_bytes += counted.bytes;
            }
            RequestKind::Get | RequestKind::GetRange => {
                traffic.gets += counted.requests;
                traffic.received_bytes += counted.bytes;
            }
            RequestKind::Head | RequestKind::List | RequestKind::Delete => {
                traffic.other_requests += counted.requests;
            }
        }
        traffic.failed_requests += counted.failures;
    }
    traffic
}

/// Bytes on disk of the files below a directory. What vanishes meanwhile, and what cannot be read, counts
/// nothing: this is a gauge.
pub(super) fn directory_bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(m) if m.is_dir() => directory_bytes(&entry.path()),
        Ok(m) => m.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_directory_are_those_of_the_files_below_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        assert_eq!(directory_bytes(dir.path()), 0);
        fs::write(dir.path().join("a/b/c"), [1; 8192]).unwrap();
        fs::write(dir.path().join("d"), [1; 4096]).unwrap();
        assert!(directory_bytes(dir.path()) >= 12288);
        assert_eq!(directory_bytes(&dir.path().join("none")), 0);
    }
}
