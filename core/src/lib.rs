//! What every part of CBFS agrees on: identifiers, attributes, on-bucket formats, the bucket
//! trait, the layer trait, the daemon's API types and the error type. No policy lives here, no
//! thread is started here but those that serve the network of S3 buckets, and nothing here knows
//! FUSE or the command line.

pub mod api;
pub mod bucket;
pub mod catalog;
pub mod change_log;
pub mod clock;
pub mod cloud_snapshot;
pub mod configuration;
pub mod diff;
pub mod durable_file;
pub mod environment;
pub mod error;
pub mod export;
pub mod format;
pub mod frames;
pub mod handle;
pub mod ids;
pub mod inode;
pub mod layers;
pub mod names;
pub mod rebuild;
pub mod retention;
pub mod schedule;
pub mod snapshot;
pub mod tarball;
pub mod toc;
pub mod verify;

pub use error::{Error, ErrorKind, Result};
