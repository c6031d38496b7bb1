//! Small disks for state directories, to be filled.

use crate::tools;
use std::path::Path;
use std::process::Command;

/// A kind of disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// In memory.
    Tmpfs,
    /// ext4 with a journal, on a loop device.
    Ext4,
}

impl Disk {
    /// Tells whether such a disk cannot be made here, with a message.
    ///
    /// # Panics
    /// As [`tools::is_missing`].
    pub fn is_missing(self) -> bool {
        if !tools::is_root() {
            eprintln!("skipped: only root can mount a small disk");
            return true;
        }
        self == Disk::Ext4 && tools::is_missing("mkfs.ext4")
    }

    /// Mount a fresh one of `mib` MiB at `dir`; `image` is where its bytes may lie.
    pub fn mount(self, dir: &Path, image: &Path, mib: u64) {
        let mut mount = Command::new("mount");
        match self {
            Disk::Tmpfs => {
                mount.args(["-t", "tmpfs", "-o"]);
                mount.arg(format!("size={mib}M,mode=700")).arg("tmpfs");
            }
            Disk::Ext4 => {
                let mut make = Command::new("mkfs.ext4");
                make.args(["-q", "-F"]).arg(image).arg(format!("{mib}M"));
                tools::run(&mut make);
                // Its loop device goes with the mount.
                mount.args(["-o", "loop"]).arg(image);
            }
        }
        tools::run(mount.arg(dir));
    }
}
