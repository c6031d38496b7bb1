//! `config/<version>.json`: what may change of a file system. Each version is whole; the highest counts.

use super::{FORMAT, Features};
use crate::handle::Handle;
use crate::retention::Retention;
use crate::schedule::Schedule;
use serde::{Deserialize, Serialize};

/// One version of the settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsSettings {
    /// Format of this document.
    pub format: u32,
    /// Features a reader must know.
    pub features: Features,
    /// The file system.
    pub fs: Handle,
    /// From 1.
    pub version: u32,
    /// RFC 3339, by the clock of the machine that set it.
    pub created_at: String,
    /// Host name of that machine.
    pub host: String,
    /// Program and version.
    pub writer: String,
    /// When snapshots are made by themselves; `None`: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// Which snapshots are kept.
    #[serde(default, skip_serializing_if = "Retention::is_empty")]
    pub retention: Retention,
    /// What newer versions of CBFS put in: kept when an older one writes the next version.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

impl FsSettings {
    /// Version 0, which is never stored: nothing set yet.
    pub fn unset(fs: Handle) -> FsSettings {
        FsSettings {
            format: FORMAT,
            features: Features::default(),
            fs,
            version: 0,
            created_at: String::new(),
            host: crate::environment::host_name(),
            writer: super::manifest::writer(),
            schedule: None,
            retention: Retention::default(),
            other: serde_json::Map::new(),
        }
    }
}
