//! Questions: what is about to be done, fields to fill in, and for what cannot be undone a word to type.

use crate::bucket_view::ViewKey;
use crate::message::Effect;
use cbfs_core::api::{MountRequest, Role, SnapshotRequest, UmountRequest};
use cbfs_core::format::epoch::BaseSnapshot;
use cbfs_core::handle::{FsAndSnapshot, Handle, SnapshotSelector, validate_snapshot_name};
use cbfs_core::ids::{Epoch, SnapshotNumber};
use cbfs_core::schedule;
use cbfs_core::snapshot::SnapshotKind;
use std::path::{Path, PathBuf};

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialog {
    /// What is to be done.
    pub purpose: Purpose,
    /// In a few words.
    pub title: String,
    /// What one should know before answering.
    pub text: Vec<String>,
    /// To be filled in.
    pub fields: Vec<Field>,
    /// The field that is being typed into.
    pub focus: usize,
    /// What was wrong with the last answer.
    pub refusal: Option<String>,
    /// It does away with something: drawn as a warning.
    pub destructive: bool,
}

/// A field of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// What is asked.
    pub label: String,
    /// What was typed.
    pub value: String,
    /// What must be typed, where it is a confirmation.
    pub expected: Option<String>,
}

/// What a question is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// A snapshot of a file system.
    CreateSnapshot(usize, Handle),
    /// Withdraw a request.
    Cancel(usize, Handle, SnapshotNumber),
    /// Delete a snapshot.
    Delete(usize, ViewKey, BaseSnapshot),
    /// Mount.
    Mount(usize),
    /// Unmount an instance by its id.
    Umount(usize, String),
    /// Make a daemon's node the master; the previous epoch is this.
    Promote(usize, Handle, Epoch),
}

/// The longest answer.
const LONGEST: usize = 4096;

impl Dialog {
    /// A question with nothing to fill in yet.
    pub fn new(purpose: Purpose, title: String) -> Dialog {
        Dialog {
            purpose,
            title,
            text: Vec::new(),
            fields: Vec::new(),
            focus: 0,
            refusal: None,
            destructive: false,
        }
    }

    /// With a field.
    #[must_use]
    pub fn field(mut self, label: &str, value: &str) -> Dialog {
        self.fields.push(Field {
            label: label.to_owned(),
            value: value.to_owned(),
            expected: None,
        });
        self
    }

    /// With a word that must be typed.
    #[must_use]
    pub fn confirmed_by(mut self, expected: &str) -> Dialog {
        self.fields.push(Field {
            label: format!("type {expected} to go on"),
            value: String::new(),
            expected: Some(expected.to_owned()),
        });
        self
    }

    /// With lines of text.
    #[must_use]
    pub fn text(mut self, lines: impl IntoIterator<Item = String>) -> Dialog {
        self.text.extend(lines);
        self
    }

    /// A character was typed.
    pub fn type_in(&mut self, c: char) {
        self.refusal = None;
        if let Some(field) = self.fields.get_mut(self.focus)
            && field.value.len() < LONGEST
        {
            field.value.push(c);
        }
    }

    /// The last character goes.
    pub fn erase(&mut self) {
        self.refusal = None;
        if let Some(field) = self.fields.get_mut(self.focus) {
            field.value.pop();
        }
    }

    /// The whole field goes.
    pub fn clear(&mut self) {
        if let Some(field) = self.fields.get_mut(self.focus) {
            field.value.clear();
        }
    }

    /// To the next field, or the one before.
    pub fn next_field(&mut self, back: bool) {
        let n = self.fields.len().max(1);
        let step = if back { n - 1 } else { 1 };
        self.focus = (self.focus + step) % n;
    }

    /// Whether what was typed so far can be an answer.
    pub fn is_confirmed(&self) -> bool {
        let mut fields = self.fields.iter();
        fields.all(|f| f.expected.as_ref().is_none_or(|e| *e == f.value.trim()))
    }

    /// What is to be done by these answers.
    ///
    /// # Errors
    /// What is wrong with them, for the person.
    pub fn effect(&self) -> Result<Effect, String> {
        if !self.is_confirmed() {
            let wanted = self.fields.iter().find_map(|f| f.expected.as_deref());
            return Err(format!(
                "type {} exactly, or Esc to leave it",
                wanted.unwrap_or_default()
            ));
        }
        let answer = |n: usize| self.fields.get(n).map_or("", |f| f.value.trim());
        match &self.purpose {
            Purpose::CreateSnapshot(daemon, fs) => {
                let name = Some(answer(0)).filter(|n| !n.is_empty());
                if let Some(name) = name {
                    validate_snapshot_name(name).map_err(|e| e.to_string())?;
                }
                let request = SnapshotRequest {
                    fs: fs.to_string(),
                    name: name.map(str::to_owned),
                    kind: SnapshotKind::User,
                };
                Ok(Effect::CreateSnapshot(*daemon, request))
            }
            Purpose::Cancel(daemon, fs, number) => Ok(Effect::Cancel(*daemon, fs.clone(), *number)),
            Purpose::Delete(daemon, key, id) => {
                Ok(Effect::DeleteSnapshot(*daemon, key.clone(), *id))
            }
            Purpose::Promote(daemon, fs, previous) => {
                Ok(Effect::Promote(*daemon, fs.clone(), *previous))
            }
            Purpose::Mount(daemon) => mount_request(answer(0), answer(1), answer(2), answer(3))
                .map(|r| Effect::Mount(*daemon, r)),
            Purpose::Umount(daemon, id) => {
                let request = UmountRequest {
                    target: id.clone(),
                    lazy: false,
                };
                Ok(Effect::Umount(*daemon, request))
            }
        }
    }
}

fn mount_request(
    what: &str,
    dir: &str,
    bucket: &str,
    follow: &str,
) -> Result<MountRequest, String> {
    let target: FsAndSnapshot = what.parse().map_err(|e: cbfs_core::Error| e.to_string())?;
    if !Path::new(dir).is_absolute() {
        return Err("the directory must be an absolute path".to_owned());
    }
    let follow = match (follow, &target.snapshot) {
        ("", _) => None,
        (every, Some(SnapshotSelector::Latest)) => {
            let every = schedule::parse_duration(every).map_err(|e| e.to_string())?;
            if every.is_zero() {
                return Err("following looks every second at most".to_owned());
            }
            Some(every.as_secs())
        }
        _ => return Err("only FS@latest follows; leave that field empty".to_owned()),
    };
    Ok(MountRequest {
        fs: target.fs.as_str().to_owned(),
        bucket: Some(bucket.to_owned()).filter(|b| !b.is_empty()),
        role: match target.snapshot {
            Some(_) => Role::Slave,
            None => Role::Master,
        },
        snapshot: target.snapshot.map(|s| s.to_string()),
        mount_point: PathBuf::from(dir),
        non_empty: false,
        noatime: false,
        kvs_limit: None,
        follow,
        i_prevent_split_brain: false,
    })
}
