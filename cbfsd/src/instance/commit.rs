//! How an operation becomes true: decide on the tables, journal, apply, all under the tables' lock
//! and inside the shared gate. A cut takes the gate exclusively, so it never sees half an operation.
//!
//! Lock order: stripe of the inode, gate, tables, journal.

use super::Instance;
use crate::journal::Event;
use crate::kvs::{Miss, Tables};
use crate::space::full_errno;
use cbfs_core::error::Error;
use cbfs_core::ids::Xid;
use cbfs_core::inode::Timestamp;
use cbfs_fuse::{Errno, OpResult, Refusal};
use parking_lot::RwLockReadGuard;
use std::io;

/// Why deciding on an operation stopped.
pub(super) enum Stop {
    /// A row must be loaded first.
    Miss(Miss),
    /// The answer is this error.
    Errno(Errno),
}

impl From<Miss> for Stop {
    fn from(miss: Miss) -> Stop {
        Stop::Miss(miss)
    }
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Stop {
        Stop::Errno(errno)
    }
}

/// The shared side of the gate.
pub(super) type Gate<'a> = RwLockReadGuard<'a, ()>;

/// An operation being decided.
pub(super) struct Decision<'a> {
    /// The tables as they stand.
    pub tables: &'a Tables,
    /// Now.
    pub time: Timestamp,
    /// What it will do.
    pub events: Vec<Event>,
}

impl Instance {
    /// Enter the gate for a mutating operation.
    ///
    /// # Errors
    /// `EROFS` on a slave or fenced master, `EIO` on a poisoned one.
    pub(super) fn enter(&self) -> Result<Gate<'_>, Errno> {
        if self.journal.is_none() || self.is_fenced() {
            return Err(Errno::EROFS);
        }
        if self.poisoned().is_some() {
            return Err(Errno::EIO);
        }
        self.wait_for_memory();
        let gate = self.gate.read();
        // The fence waits for those inside; who comes in after it must see it.
        if self.is_fenced() {
            return Err(Errno::EROFS);
        }
        Ok(gate)
    }

    /// Decide and do an operation on names and attributes. Answers its value and xid (the last xid
    /// before it when it turned out to change nothing).
    pub(super) fn commit<T>(
        &self,
        mut decide: impl FnMut(&mut Decision<'_>) -> Result<T, Stop>,
    ) -> OpResult<(T, Xid)> {
        loop {
            let gate = self.enter()?;
            match self.try_commit(&gate, &mut decide) {
                Ok(done) => return Ok(done),
                Err(Stop::Errno(e)) => return Err(e.into()),
                Err(Stop::Miss(miss)) => {
                    drop(gate);
                    self.load(&miss)?;
                }
            }
        }
    }

    /// The same inside a gate that the caller keeps until the data is written too.
    pub(super) fn commit_inside<T>(
        &self,
        gate: &Gate<'_>,
        mut decide: impl FnMut(&mut Decision<'_>) -> Result<T, Stop>,
    ) -> OpResult<(T, Xid)> {
        loop {
            match self.try_commit(gate, &mut decide) {
                Ok(done) => return Ok(done),
                Err(Stop::Errno(e)) => return Err(e.into()),
                Err(Stop::Miss(miss)) => self.load(&miss)?,
            }
        }
    }

    fn try_commit<T>(
        &self,
        _inside: &Gate<'_>,
        decide: &mut impl FnMut(&mut Decision<'_>) -> Result<T, Stop>,
    ) -> Result<(T, Xid), Stop> {
        let Some(journal) = &self.journal else {
            return Err(Errno::EROFS.into());
        };
        let mut tables = self.kvs.tables();
        let mut decision = Decision {
            tables: &tables,
            time: self.clock.now(),
            events: Vec::new(),
        };
        let value = decide(&mut decision)?;
        let Decision { time, events, .. } = decision;
        if events.is_empty() {
            return Ok((value, tables.xid));
        }
        tables.needs(&events)?;
        let xid = tables.xid.next();
        journal
            .lock()
            .append(xid, time, &events)
            .map_err(|e| self.journal_errno(&e))?;
        if let Err(e) = tables.apply(xid, time, &events) {
            // The journal has it and memory has not: nothing after this could be trusted.
            self.poison(&e);
            return Err(Errno::EIO.into());
        }
        let full = tables.hot.rows() >= self.options.flush_rows
            || tables.hot.bytes() >= self.options.flush_bytes;
        // The workers' lock never comes under the tables' (`wait_for_memory` has them the other way).
        drop(tables);
        if full {
            self.wake_flusher();
        }
        Ok((value, xid))
    }

    fn journal_errno(&self, e: &io::Error) -> Errno {
        match e.kind() {
            io::ErrorKind::StorageFull => Errno::ENOSPC,
            io::ErrorKind::QuotaExceeded => Errno::EDQUOT,
            io::ErrorKind::InvalidInput => Errno::E2BIG,
            _ => {
                tracing::error!(instance = %self.id, "the journal could not be written: {e}");
                Errno::EIO
            }
        }
    }

    /// Load a row, telling the log when that fails.
    pub(super) fn load(&self, miss: &Miss) -> Result<(), Refusal> {
        self.kvs.load(miss).map_err(|e| self.eio(&e))
    }

    /// The answer to an internal error: `EIO` (`ENOSPC` or `EDQUOT` on a full disk), with the cause in the log.
    pub(super) fn eio(&self, e: &Error) -> Refusal {
        if let Some(errno) = full_errno(e) {
            return errno.into();
        }
        tracing::error!(instance = %self.id, causes = ?e.causes(), "{e}");
        Errno::EIO.into()
    }

    /// The answer to a failed system call on local files.
    pub(super) fn io_refusal(&self, what: &str, e: &io::Error) -> Refusal {
        match e.kind() {
            io::ErrorKind::StorageFull => Errno::ENOSPC.into(),
            io::ErrorKind::QuotaExceeded => Errno::EDQUOT.into(),
            io::ErrorKind::FileTooLarge => Errno::EFBIG.into(),
            _ => {
                tracing::error!(instance = %self.id, "{what}: {e}");
                Errno::EIO.into()
            }
        }
    }
}
