//! What is known of an upload in parts that may outlive this process: a small file of JSON lines.
//!
//! The first line names the upload; it is durable before the first part is sent, so that an upload is never
//! forgotten by more than the answer that began it. Each further line is a part that has arrived, with the hash of
//! its bytes: a part is only taken for sent when the file still has these bytes there. A last line that was
//! torn by a crash is ignored, and its part sent again.

use crate::durable_file;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Version of the notes.
const FORMAT: u32 = 1;

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Upload {
    pub(super) format: u32,
    /// The key within the store's bucket.
    pub(super) key: String,
    /// The store's id of the upload.
    pub(super) id: String,
    /// Bytes of the whole object.
    pub(super) size: u64,
    /// Bytes of each part but the last.
    pub(super) part: u64,
}

/// Another line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Arrived {
    /// From 1 on.
    pub(super) number: u32,
    /// What the store calls it.
    pub(super) etag: String,
    /// BLAKE3 of its bytes, in hex.
    pub(super) blake3: String,
}

/// Notes of one upload, open to be added to.
#[derive(Debug)]
pub(super) struct Notes {
    path: PathBuf,
    file: Mutex<File>,
    pub(super) upload: Upload,
    pub(super) arrived: BTreeMap<u32, Arrived>,
}

impl Notes {
    /// Read them; `None` when there are none, or none that can be understood (then nothing can be done with them).
    pub(super) fn read(path: &Path) -> io::Result<Option<Notes>> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut lines = text.lines();
        let first = lines.next().map(serde_json::from_str::<Upload>);
        let upload = match first {
            Some(Ok(upload)) if upload.format == FORMAT => upload,
            _ => {
                tracing::warn!("{} holds no notes of an upload: removed", path.display());
                fs::remove_file(path)?;
                return Ok(None);
            }
        };
        let mut arrived = BTreeMap::new();
        let mut whole = 0;
        for line in text.split_inclusive('\n') {
            let is_first = whole == 0;
            match serde_json::from_str::<Arrived>(line) {
                _ if is_first => {}
                Ok(part) if line.ends_with('\n') => drop(arrived.insert(part.number, part)),
                _ => break,
            }
            whole += line.len();
        }
        let file = OpenOptions::new().write(true).open(path)?;
        // What is added must not continue a torn line.
        file.set_len(whole as u64)?;
        drop(file);
        Ok(Some(Notes {
            file: Mutex::new(OpenOptions::new().append(true).open(path)?),
            path: path.to_owned(),
            upload,
            arrived,
        }))
    }

    /// Begin notes of a new upload, durably.
    pub(super) fn begin(
        path: &Path,
        key: &str,
        id: &str,
        size: u64,
        part: u64,
    ) -> io::Result<Notes> {
        let upload = Upload {
            format: FORMAT,
            key: key.to_owned(),
            id: id.to_owned(),
            size,
            part,
        };
        let mut line = serde_json::to_vec(&upload)?;
        line.push(b'\n');
        if let Some(dir) = path.parent() {
            durable_file::create_dir_all(dir)?;
        }
        durable_file::replace(path, &line)?;
        Ok(Notes {
            file: Mutex::new(OpenOptions::new().append(true).open(path)?),
            path: path.to_owned(),
            upload,
            arrived: BTreeMap::new(),
        })
    }

    /// Note a part, durably.
    pub(super) fn add(&self, part: &Arrived) -> io::Result<()> {
        let mut line = serde_json::to_vec(part)?;
        line.push(b'\n');
        let mut file = self.file.lock();
        file.write_all(&line)?;
        file.sync_data()
    }

    /// The upload is over: complete, or gone.
    pub(super) fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_come_back_and_a_torn_line_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("uploads/one");
        assert!(Notes::read(&path).unwrap().is_none());
        let notes = Notes::begin(&path, "p/k", "id", 12, 5).unwrap();
        let part = |number| Arrived {
            number,
            etag: format!("\"{number}\""),
            blake3: blake3::hash(&[number as u8]).to_hex().to_string(),
        };
        notes.add(&part(2)).unwrap();
        notes.add(&part(1)).unwrap();
        let whole = fs::read(&path).unwrap();
        for cut in 0..30 {
            fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let read = Notes::read(&path).unwrap().unwrap();
            assert_eq!(read.upload, notes.upload);
            let numbers: Vec<u32> = read.arrived.keys().copied().collect();
            assert_eq!(numbers, if cut == 0 { vec![1, 2] } else { vec![2] });
            read.add(&part(3)).unwrap();
            let again = Notes::read(&path).unwrap().unwrap();
            assert_eq!(again.arrived[&3], part(3), "{cut} bytes torn");
        }
        notes.remove().unwrap();
        notes.remove().unwrap();
        assert!(Notes::read(&path).unwrap().is_none());
    }

    #[test]
    fn notes_of_another_version_are_no_notes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("one");
        fs::write(
            &path,
            "{\"format\":2,\"key\":\"k\",\"id\":\"i\",\"size\":1,\"part\":1}\n",
        )
        .unwrap();
        assert!(Notes::read(&path).unwrap().is_none());
        assert!(!path.exists());
    }
}
