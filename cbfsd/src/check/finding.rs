//! What a check says: findings with a name, a place and a hint.

use cbfs_core::ids::{Ino, Xid};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Findings of one kind that are told one by one; more are only counted.
const TOLD_OF_A_KIND: u64 = 50;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something is lost or wrong.
    Damage,
    /// A crash left it behind; the next start deals with it.
    Note,
}

/// What is wrong. The names are stable: scripts may match them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// `instance.toml` is missing or damaged.
    Config,
    /// A journal segment is damaged before its durable end, or is none.
    JournalDamaged,
    /// Transactions are missing in the journal, or out of order.
    JournalGap,
    /// Bytes after the last whole record: cut off at the next start.
    JournalTornTail,
    /// A segment behind a torn one: removed at the next start.
    JournalDropped,
    /// The journal does not fit the KVS.
    ReplayFailed,
    /// A KVS file cannot be read, or SQLite finds it damaged.
    KvsFileDamaged,
    /// A KVS file is not there.
    KvsFileMissing,
    /// A file that nobody needs any more: removed at the next start.
    LeftOver,
    /// There is no root directory.
    RootMissing,
    /// A name stands for an inode that does not exist.
    NameWithoutInode,
    /// A name stands in a directory that does not exist, or in something else.
    NameWithoutDirectory,
    /// A name says another kind than its inode.
    NameKind,
    /// A name that cannot be: empty, too long, with a slash or under another hash.
    NameImpossible,
    /// The link count of an inode is not that of its names (of a directory: 2 and its subdirectories).
    LinkCount,
    /// The size of a directory is not the number of its entries.
    DirectorySize,
    /// A directory has several names.
    DirectoryNames,
    /// A directory cannot be reached from the root.
    Unreachable,
    /// A symlink without its target, or of another length.
    SymlinkTarget,
    /// Inline contents are longer than the file.
    InlineLength,
    /// A file has inline contents and a backing file.
    ContentsTwice,
    /// A file has a size but no contents at all.
    ContentsMissing,
    /// A backing file is not there.
    BackingFileMissing,
    /// A backing file of no inode: removed at the next start.
    BackingFileUnused,
    /// A backing or block row of an inode that is none, or no file.
    BackingRow,
    /// Extended attributes of an inode that does not exist.
    XattrWithoutInode,
    /// A number was used that is to be given out again.
    NumberReused,
    /// The sums that statfs tells are wrong.
    Counters,
    /// A status log is damaged.
    StatusLog,
    /// `last-complete.json` is damaged.
    LastComplete,
    /// A frozen file of no request.
    FrozenUnknown,
    /// A snapshot under way has lost its cut: it is cut again.
    CutMissing,
    /// What a snapshot under way must still persist is not there.
    PendingContentsMissing,
    /// An object that waits for its upload is not in the proxy cache: the attempt is made anew.
    ObjectMissing,
    /// The manifest of a slave is missing or damaged.
    Manifest,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is.
    pub kind: FindingKind,
    /// In words.
    pub message: String,
    /// The inode it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ino: Option<u64>,
    /// The path in the file system, as far as it is known; control characters and what is no UTF-8 are
    /// escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The file in the state directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// What can be done.
    pub hint: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(path) = &self.path {
            write!(f, " ({path})")?;
        }
        Ok(())
    }
}

/// What was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Live inodes.
    pub inodes: u64,
    /// Names.
    pub names: u64,
    /// Bytes of regular files.
    pub bytes: u64,
    /// Inodes without a name that only open descriptors kept: removed at the next start.
    pub orphans: u64,
    /// Backing files.
    pub backing_files: u64,
    /// Journal segments.
    pub segments: u64,
    /// Records that the journal has beyond the KVS.
    pub replayed: u64,
    /// Snapshot requests.
    pub requests: u64,
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The instance's state directory.
    pub dir: PathBuf,
    /// Whether names, inodes and contents were looked at: not where journal or KVS cannot be read.
    pub complete: bool,
    /// What was looked at.
    pub checked: Checked,
    /// Findings that are damage.
    pub damage: u64,
    /// Findings that are none.
    pub notes: u64,
    /// The findings, at most 50 of a kind.
    pub findings: Vec<Finding>,
    /// Findings beyond that, by kind.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub more: BTreeMap<FindingKind, u64>,
    #[serde(skip)]
    told: BTreeMap<FindingKind, u64>,
}

impl Report {
    pub(super) fn new(dir: &Path) -> Report {
        Report {
            dir: dir.to_owned(),
            complete: false,
            checked: Checked::default(),
            damage: 0,
            notes: 0,
            findings: Vec::new(),
            more: BTreeMap::new(),
            told: BTreeMap::new(),
        }
    }

    /// Whether anything of this kind was found.
    pub fn has(&self, kind: FindingKind) -> bool {
        self.told.contains_key(&kind)
    }

    /// Say that something is wrong.
    pub(super) fn damage(&mut self, kind: FindingKind, message: impl Into<String>, at: Place) {
        self.add(Severity::Damage, kind, message.into(), at);
    }

    /// Say that a crash left something behind.
    pub(super) fn note(&mut self, kind: FindingKind, message: impl Into<String>, at: Place) {
        self.add(Severity::Note, kind, message.into(), at);
    }

    fn add(&mut self, severity: Severity, kind: FindingKind, message: String, at: Place) {
        match severity {
            Severity::Damage => self.damage += 1,
            Severity::Note => self.notes += 1,
        }
        let told = self.told.entry(kind).or_insert(0);
        *told += 1;
        if *told > TOLD_OF_A_KIND {
            *self.more.entry(kind).or_insert(0) += 1;
            return;
        }
        self.findings.push(Finding {
            severity,
            kind,
            message,
            ino: at.ino.map(|i| i.0),
            path: at.path,
            file: at.file,
            hint: hint(severity, kind),
        });
    }
}

/// Where something was found.
#[derive(Debug, Default)]
pub(super) struct Place {
    ino: Option<Ino>,
    path: Option<String>,
    file: Option<PathBuf>,
}

impl Place {
    /// A file of the state directory.
    pub(super) fn file(path: &Path) -> Place {
        Place {
            file: Some(path.to_owned()),
            ..Place::default()
        }
    }

    /// An inode, with its path where it has one.
    pub(super) fn ino(ino: Ino, path: Option<String>) -> Place {
        Place {
            ino: Some(ino),
            path,
            file: None,
        }
    }
}

/// The last transaction, for messages.
pub(super) fn after(xid: Xid) -> String {
    format!("after transaction {xid}")
}

fn hint(severity: Severity, kind: FindingKind) -> &'static str {
    use FindingKind::*;
    if severity == Severity::Note {
        return "nothing to do: the next start deals with it";
    }
    match kind {
        Config => "its keys are described in docs/configuration.md: write it anew, or restore it",
        JournalDamaged | JournalGap | ReplayFailed | KvsFileDamaged | KvsFileMissing => {
            "copy the whole directory aside first; then restore this file from a backup of the node, or \
             mount the last snapshot (docs/recovery.md)"
        }
        BackingFileMissing | ContentsMissing | PendingContentsMissing => {
            "the contents are in the last snapshot if they had not changed since: mount it as a slave, \
             and copy them"
        }
        StatusLog | LastComplete => {
            "`cbfsctl snapshot list --bucket URL` says what is in the bucket; move the file aside"
        }
        _ => {
            "copy the whole directory aside and report this as a bug of CBFS; the last snapshot has the \
             state before (docs/recovery.md)"
        }
    }
}
