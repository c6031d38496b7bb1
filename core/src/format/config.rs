//! `<tag>-<uuid>.config`: what never changes of a file system. Its creation creates the file
//! system.

use super::{FORMAT, Features};
use crate::handle::Handle;
use serde::{Deserialize, Serialize};

/// Default block size: 1 MiB.
pub const DEFAULT_BLOCK_SIZE: u64 = 1 << 20;

/// The create-only config object of a file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsConfig {
    /// Format of this document.
    pub format: u32,
    /// Features a reader must know.
    pub features: Features,
    /// The file system.
    pub fs: Handle,
    /// Bytes per block of a large file; a power of two.
    pub block_size: u64,
    /// RFC 3339 time of creation, by the creator's clock.
    pub created_at: String,
    /// Program and version that wrote this.
    pub writer: String,
}

impl FsConfig {
    /// The config of a new file system.
    pub fn new(fs: Handle, created_at: String) -> FsConfig {
        FsConfig {
            format: FORMAT,
            features: Features::default(),
            fs,
            block_size: DEFAULT_BLOCK_SIZE,
            created_at,
            writer: super::manifest::writer(),
        }
    }
}
