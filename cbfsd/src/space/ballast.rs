//! The ballast: a file that only holds space, to be let go when the disk is full.

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Largest ballast that is chosen without being asked for, in bytes ...
const LARGEST: u64 = 64 << 20;
/// ... and the part of the disk that it takes at most.
const PART_OF_DISK: u64 = 8;

/// The size of a ballast on a disk of so many bytes.
pub fn default_ballast(disk: u64) -> u64 {
    LARGEST.min(disk / PART_OF_DISK)
}

/// The file `ballast` of an instance.
pub struct Ballast {
    path: PathBuf,
    /// Bytes; 0 for none.
    size: u64,
    whole: AtomicBool,
    /// Held while it changes.
    changing: Mutex<()>,
}

impl Ballast {
    /// Look at what is there; nothing is made yet.
    pub fn open(dir: &Path, size: u64) -> Ballast {
        let path = dir.join("ballast");
        // One that cannot be examined is made again.
        let held = fs::metadata(&path).map_or(0, |m| m.blocks() * 512);
        Ballast {
            path,
            size,
            whole: AtomicBool::new(held >= size),
            changing: Mutex::default(),
        }
    }

    /// Bytes it holds when it is whole.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Free bytes on the disk that it takes to make it again: more than its size, so that it does not
    /// come and go with every small file.
    pub fn wants(&self) -> u64 {
        self.size + self.size / 8
    }

    /// Whether all of its space is held.
    pub fn is_whole(&self) -> bool {
        self.whole.load(Ordering::SeqCst)
    }

    /// Let its space go; whether there was any.
    pub fn release(&self) -> bool {
        let _one = self.changing.lock();
        if self.size == 0 || !self.whole.swap(false, Ordering::SeqCst) {
            return false;
        }
        match File::options().write(true).open(&self.path) {
            Ok(file) => file.set_len(0).is_ok(),
            Err(_) => false,
        }
    }

    /// Take its space again; whether it is whole now. Where there is not enough it takes none.
    ///
    /// # Errors
    /// Those of creating and filling the file, but for a full disk or quota.
    pub fn restore(&self) -> io::Result<bool> {
        let _one = self.changing.lock();
        if self.is_whole() {
            return Ok(true);
        }
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&self.path);
        let filled = file.and_then(|file| {
            // More than it keeps: a quota says only this way how much it leaves.
            let filled = match fallocate(&file, FallocateFlags::empty(), 0, self.wants()) {
                Err(rustix::io::Errno::OPNOTSUPP) => write_zeros(&file, self.wants()),
                other => other.map_err(io::Error::from),
            };
            filled
                .and_then(|()| file.set_len(self.size))
                .inspect_err(|_| {
                    // Only what was taken in vain: there is nobody to tell if that fails as well.
                    let _ = file.set_len(0);
                })
        });
        match filled {
            Ok(()) => {
                self.whole.store(true, Ordering::SeqCst);
                Ok(true)
            }
            Err(e) if super::is_full_io(&e) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// For file systems without fallocate(2).
fn write_zeros(file: &File, length: u64) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut at = 0;
    while at < length {
        let part = (length - at).min(zeros.len() as u64);
        file.write_all_at(&zeros[..part as usize], at)?;
        at += part;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ballast_is_made_let_go_once_and_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let held = || {
            let file = fs::metadata(dir.path().join("ballast"));
            file.map_or(0, |m| m.blocks() * 512)
        };
        let ballast = Ballast::open(dir.path(), 1 << 20);
        assert!(!ballast.is_whole() && !ballast.release());
        assert!(ballast.restore().unwrap() && ballast.is_whole());
        assert!(held() >= 1 << 20 && held() < ballast.wants());
        assert!(Ballast::open(dir.path(), 1 << 20).is_whole());
        assert!(ballast.release() && !ballast.is_whole() && !ballast.release());
        assert_eq!(held(), 0);
        assert!(!Ballast::open(dir.path(), 1 << 20).is_whole());
        assert!(ballast.restore().unwrap() && held() >= 1 << 20);
    }

    #[test]
    fn without_a_size_there_is_none_and_it_is_never_short() {
        let dir = tempfile::tempdir().unwrap();
        let ballast = Ballast::open(dir.path(), 0);
        assert!(ballast.is_whole() && !ballast.release() && ballast.is_whole());
        assert!(!dir.path().join("ballast").exists());
    }
}
