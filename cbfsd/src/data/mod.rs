//! File contents outside of the KVS: backing files of large files, and copies of blocks that a
//! pending snapshot still needs.

mod backing;
mod preserve;

pub use backing::BackingFiles;
pub use preserve::{Preserved, data_ranges};
