//! Failpoints: named places between two writes whose order matters, where a test lets the daemon die as
//! `kill -9` would, or stops it as `kill -STOP` would. Armed by `CBFS_FAILPOINT=NAME[:NTH][,stop]` in the daemon's
//! environment: at the `NTH` time (1 unless given) the place is reached, its name goes to stderr and the process gets
//! SIGKILL; no destructor runs, nothing is flushed. With `,stop` it gets SIGSTOP instead, and nothing behind the place runs
//! before somebody sends SIGCONT; it does so once.
//!
//! They exist in builds with `debug_assertions` only. In a release build [`reach`] is empty and the
//! variable means nothing, so that no environment can kill a daemon that somebody's data is in. In a
//! debug build an unarmed place costs one relaxed load. An unknown name is refused at the start: a
//! test must not pass because it misspelt one.
//!
//! A new place: a constant in the list below, whose doc says what is written before it and what after
//! it; `reach` at the place; a round in `tests/tests/failpoints.rs` (a test there names the ones that
//! have none).

use cbfs_core::error::{Error, ErrorKind, Result};
#[cfg(debug_assertions)]
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

/// The environment variable that arms one.
pub const VARIABLE: &str = "CBFS_FAILPOINT";

/// A place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failpoint {
    name: &'static str,
    /// Position in [`ALL`], from 1.
    #[cfg_attr(not(debug_assertions), allow(dead_code))]
    index: usize,
}

impl Failpoint {
    /// Its name: `part.moment`.
    pub fn name(self) -> &'static str {
        self.name
    }
}

macro_rules! failpoints {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal;)+) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        enum Position { $($name),+ }
        $($(#[doc = $doc])+
        pub const $name: Failpoint = Failpoint { name: $text, index: Position::$name as usize + 1 };)+
        /// All of them.
        pub const ALL: &[Failpoint] = &[$($name),+];
    };
}

failpoints! {
    /// An operation is decided; its record is not written.
    JOURNAL_BEFORE_WRITE = "journal.before-write";
    /// Half of a record is written.
    JOURNAL_HALF_WRITTEN = "journal.half-written";
    /// The record is written; memory has not changed and nobody was answered.
    JOURNAL_WRITTEN = "journal.written";
    /// What must come first is synced (backing files, their directories); the journal is not.
    JOURNAL_BEFORE_SYNC = "journal.before-sync";
    /// The journal is synced; its sync mark is not written.
    JOURNAL_BEFORE_MARK = "journal.before-mark";
    /// The sync mark is written; useless backing files are still there.
    JOURNAL_MARKED = "journal.marked";
    /// A new segment has its name; its magic is not written.
    SEGMENT_NAMED = "segment.named";
    /// A new segment is begun; its name is not durable.
    SEGMENT_BEGUN = "segment.begun";

    /// Dirty rows are swapped out; the journal that has them is not synced.
    FLUSH_SWAPPED = "flush.swapped";
    /// The journal is synced; SQLite has heard nothing.
    FLUSH_JOURNAL_SYNCED = "flush.journal-synced";
    /// All rows are in the transaction; it is not committed.
    FLUSH_BEFORE_COMMIT = "flush.before-commit";
    /// The transaction is committed; memory still calls the rows dirty.
    FLUSH_COMMITTED = "flush.committed";

    /// The place for preserved blocks is made; the cut is not journaled.
    CUT_BEFORE_RECORD = "cut.before-record";
    /// The cut is journaled; nothing is swapped out.
    CUT_JOURNALED = "cut.journaled";
    /// Cut and journal are synced; the last rows are not in `active`.
    ROTATE_BEFORE_ROWS = "rotate.before-rows";
    /// The last rows and the mark of the cut are committed; `active` is not checkpointed.
    ROTATE_MARKED = "rotate.marked";
    /// `active` is one closed file; it has its old name.
    ROTATE_BEFORE_RENAME = "rotate.before-rename";
    /// It is called `frozen`; the name is not durable.
    ROTATE_RENAMED = "rotate.renamed";
    /// The frozen file is durable; there is no new `active`.
    ROTATE_FROZEN = "rotate.frozen";
    /// The new `active` is made; nobody uses it.
    ROTATE_NEW_ACTIVE = "rotate.new-active";

    /// Some kinds of rows of a frozen file are in `main`, others are not.
    FOLD_BETWEEN_STEPS = "fold.between-steps";
    /// All rows are in `main`; `main` does not say so.
    FOLD_BEFORE_MARK = "fold.before-mark";
    /// `main` says that it has the frozen file; it is not checkpointed.
    FOLD_MARKED = "fold.marked";
    /// `main` is durable; the frozen file is still there.
    FOLD_BEFORE_REMOVAL = "fold.before-removal";
    /// Frozen files of two cuts are merged, the result is not closed.
    MERGE_BEFORE_CLOSE = "merge.before-close";

    /// The next snapshot of a slave is stored and its layers are here; the former one is still shown.
    SLAVE_MOVED = "slave.moved";

    /// A fresh backing file is filled; no record refers to it.
    SPILL_FILLED = "spill.filled";
    /// A write is journaled; the backing file does not have it.
    WRITE_JOURNALED = "write.journaled";
    /// A block for the snapshot is copied; the copy has a temporary name.
    PRESERVE_COPIED = "preserve.copied";
    /// The copy has its name; the overwrite is not journaled.
    PRESERVE_KEPT = "preserve.kept";
    /// A backing file is extended; no record says so.
    TRUNCATE_EXTENDED = "truncate.extended";
    /// A truncation is journaled; the backing file has its old length.
    TRUNCATE_JOURNALED = "truncate.journaled";
    /// A hole is journaled; it is not punched.
    HOLE_JOURNALED = "hole.journaled";
    /// The end of an inode is journaled; its backing file is not on the list of useless ones.
    DESTROY_JOURNALED = "destroy.journaled";
    /// The uselessness of a backing file is durable; the file is still there.
    REAP_BEFORE_REMOVAL = "reap.before-removal";
    /// A promotion is noted; its claim is not made.
    PROMOTE_NOTED = "promote.noted";
    /// The claim is in the bucket; this node has not noted that.
    PROMOTE_CLAIMED = "promote.claimed";
    /// It has; the base of the epoch is not settled.
    PROMOTE_SEALED = "promote.sealed";
    /// The base is in the bucket; nothing of it is here.
    PROMOTE_BASED = "promote.based";
    /// The base is noted here, with its layers; the instance has no config.
    PROMOTE_FETCHED = "promote.fetched";
    /// The instance has its config; the promotion is still noted, and the slave of before still has its own.
    PROMOTE_CONFIGURED = "promote.configured";
    /// Only the slave of before still has its config.
    PROMOTE_FORGOTTEN = "promote.forgotten";
    /// Of a promoted master: what is below of a block that is about to change is in the backing file; no record
    /// says so.
    BLOCK_BROUGHT = "block.brought";

    /// The log of a request is durable; nobody was answered.
    REQUEST_LOGGED = "snapshot.requested";
    /// The attempt and the boot are in the status log; there is no cut.
    SNAPSHOT_ATTEMPT_LOGGED = "snapshot.attempt-logged";
    /// The cut is made and rotated; the status log does not know.
    SNAPSHOT_CUT = "snapshot.cut";
    /// The cut is in the status log; the request still counts as queued.
    SNAPSHOT_CUT_LOGGED = "snapshot.cut-logged";
    /// The request is `collected`; nothing is persisted.
    SNAPSHOT_COLLECTED = "snapshot.collected";
    /// Something of an attempt is whole in its folder; its ledger does not know.
    LEDGER_BEFORE_LINE = "ledger.before-line";
    /// Half of a line of an attempt's ledger is written.
    LEDGER_HALF_WRITTEN = "ledger.half-written";
    /// An object is whole in the proxy cache; the status log does not know.
    SNAPSHOT_OBJECT_MADE = "snapshot.object-made";
    /// An object is in the bucket; the status log does not know.
    SNAPSHOT_OBJECT_ARRIVED = "snapshot.object-arrived";
    /// Its arrival is in the status log; the local copy is still there.
    SNAPSHOT_OBJECT_LOGGED = "snapshot.object-logged";
    /// The request is `written`; its log is not among the objects.
    SNAPSHOT_WRITTEN = "snapshot.written";
    /// Every object is in the bucket; the request is not `copying`.
    SNAPSHOT_ALL_SENT = "snapshot.all-sent";
    /// The request is `copying` and the epoch ours; there is no manifest.
    SNAPSHOT_BEFORE_MANIFEST = "snapshot.before-manifest";
    /// A number that was given up is closed; the manifest of the snapshot behind it is not there.
    SNAPSHOT_NUMBER_CLOSED = "snapshot.number-closed";
    /// The manifest exists; whether the epoch is still ours is not looked at again.
    SNAPSHOT_MANIFEST_MADE = "snapshot.manifest-made";
    /// The manifest exists, and the epoch is ours; nothing local says so.
    SNAPSHOT_PUBLISHED = "snapshot.published";
    /// `last-complete.json` is written; the request is not `complete`.
    SNAPSHOT_NOTED = "snapshot.noted";
    /// The request is `complete`; nothing is cleaned up.
    SNAPSHOT_COMPLETE = "snapshot.complete";
    /// Everything is folded; the journal is not trimmed.
    TRIM_BEFORE = "trim.before";
    /// A segment is removed; others, and the directory, are not done.
    TRIM_BETWEEN = "trim.between";
}

/// Which place is armed, by index; 0 is none.
#[cfg(debug_assertions)]
static ARMED: AtomicUsize = AtomicUsize::new(0);

/// How often it is still passed unharmed.
#[cfg(debug_assertions)]
static TO_PASS: AtomicU32 = AtomicU32::new(0);

/// Whether the process stops there instead of dying.
#[cfg(debug_assertions)]
static STOPS: AtomicBool = AtomicBool::new(false);

/// The signal's bit in the masks of `/proc/self/status`.
#[cfg(debug_assertions)]
const SIGSTOP_BIT: u64 = 1 << (19 - 1);

/// Arm what [`VARIABLE`] says, if it says anything. To be called once, before any place can be reached.
///
/// # Errors
/// [`ErrorKind::Usage`] when it names no failpoint of this build. A release build ignores it.
pub fn arm_from_environment() -> Result<()> {
    match std::env::var(VARIABLE) {
        Ok(text) if cfg!(debug_assertions) && !text.is_empty() => arm(&text),
        _ => Ok(()),
    }
}

fn arm(text: &str) -> Result<()> {
    let (point, nth, stops) = parse(text)?;
    #[cfg(debug_assertions)]
    {
        STOPS.store(stops, Ordering::SeqCst);
        TO_PASS.store(nth - 1, Ordering::SeqCst);
        ARMED.store(point.index, Ordering::SeqCst);
    }
    tracing::warn!(
        failpoint = point.name,
        nth,
        stops,
        "this daemon will kill or stop itself"
    );
    Ok(())
}

/// `NAME[:NTH][,stop]`.
fn parse(text: &str) -> Result<(Failpoint, u32, bool)> {
    let refused = |why: &str| {
        Error::new(ErrorKind::Usage, format!("{VARIABLE}={text}: {why}"))
            .hint("NAME[:NTH][,stop]; the names stand in cbfsd/src/failpoints.rs")
    };
    let (place, stops) = match text.strip_suffix(",stop") {
        Some(place) => (place, true),
        None => (text, false),
    };
    let (name, nth) = match place.split_once(':') {
        Some((name, nth)) => (name, nth.parse().unwrap_or(0)),
        None => (place, 1),
    };
    let point = ALL.iter().find(|p| p.name == name);
    match point {
        Some(point) if nth > 0 => Ok((*point, nth, stops)),
        Some(_) => Err(refused("the count is no number from 1 on")),
        None => Err(refused("there is no such failpoint")),
    }
}

/// The process dies here, or stops, if this place is armed and its time has come.
#[inline(always)]
pub fn reach(point: Failpoint) {
    reach_after(point, || ());
}

/// The same, with something to do right before dying (half a write).
#[inline(always)]
pub fn reach_after(point: Failpoint, last_words: impl FnOnce()) {
    #[cfg(debug_assertions)]
    if ARMED.load(Ordering::Relaxed) == point.index {
        strike(point, last_words);
    }
    #[cfg(not(debug_assertions))]
    let _ = (point, last_words);
}

#[cfg(debug_assertions)]
#[cold]
fn strike(point: Failpoint, last_words: impl FnOnce()) {
    use std::io::Write;
    let passed = TO_PASS.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
    if passed.is_ok() {
        return;
    }
    if STOPS.load(Ordering::SeqCst) {
        // Once: who is continued must be able to pass the place again.
        if ARMED.swap(0, Ordering::SeqCst) == point.index {
            stop(point);
        }
        return;
    }
    last_words();
    // Nobody is left to be told when stderr is closed.
    let _ = std::io::stderr().write_all(format!("failpoint {}\n", point.name).as_bytes());
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort();
}

/// As `kill -STOP` at this very place: returns after SIGCONT.
#[cfg(debug_assertions)]
fn stop(point: Failpoint) {
    use std::io::Write;
    let _ = std::io::stderr().write_all(format!("failpoint {}\n", point.name).as_bytes());
    let sent =
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
    if let Err(e) = sent {
        tracing::error!("this daemon could not stop itself: {e}");
        return;
    }
    // Another thread may be the one that takes the signal, and this one would run on until it has. Once it is taken, every
    // thread stops at its next return from the kernel: from this look at the latest.
    while stop_is_pending() {
        std::thread::yield_now();
    }
}

#[cfg(debug_assertions)]
fn stop_is_pending() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let pending = status.lines().find_map(|l| l.strip_prefix("ShdPnd:"));
    let mask = pending.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & SIGSTOP_BIT != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for point in ALL {
            assert_eq!(parse(point.name).unwrap(), (*point, 1, false));
            let numbered = format!("{}:7", point.name);
            assert_eq!(parse(&numbered).unwrap(), (*point, 7, false));
            let stopped = format!("{numbered},stop");
            assert_eq!(parse(&stopped).unwrap(), (*point, 7, true));
        }
    }

    #[test]
    fn what_is_no_failpoint_is_refused_by_name() {
        for text in [
            "flush",
            "flush.committed:",
            "flush.committed:0",
            "flush.committed:x",
            "flush.committed,halt",
            "flush.committed:x,stop",
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
