//! Rows of several layers side by side.

use super::super::rows;
use crate::error::Result;
use crate::ids::Ino;
use rusqlite::{Connection, Row, Rows, Statement};
use std::cmp::Ordering;

/// One query prepared on each layer of a run.
pub(super) struct Statements<'c>(Vec<Statement<'c>>);

impl<'c> Statements<'c> {
    pub(super) fn prepare(conns: &'c [Connection], sql: &str) -> Result<Statements<'c>> {
        let prepared = conns.iter().map(|conn| conn.prepare(sql));
        Ok(Statements(prepared.collect::<rusqlite::Result<_>>()?))
    }

    /// Run it everywhere; newest layer first, as the connections are.
    pub(super) fn cursors<T>(
        &mut self,
        decode: fn(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<Cursor<'_, T>>> {
        let started = self.0.iter_mut().map(|statement| {
            let mut cursor = Cursor {
                rows: statement.query([])?,
                decode,
                head: None,
            };
            cursor.advance()?;
            Ok(cursor)
        });
        started.collect()
    }
}

/// The rows of one layer, of which the next one can be looked at.
pub(super) struct Cursor<'s, T> {
    rows: Rows<'s>,
    decode: fn(&Row<'_>) -> Result<T>,
    head: Option<T>,
}

impl<T> Cursor<'_, T> {
    /// The next row; `None` at the end.
    pub(super) fn head(&self) -> Option<&T> {
        self.head.as_ref()
    }

    /// Take the next row if it is wanted.
    pub(super) fn take_if(&mut self, wanted: impl FnOnce(&T) -> bool) -> Result<Option<T>> {
        if self.head.as_ref().is_some_and(wanted) {
            let taken = self.head.take();
            self.advance()?;
            return Ok(taken);
        }
        Ok(None)
    }

    fn advance(&mut self) -> Result<()> {
        self.head = match self.rows.next()? {
            Some(row) => Some((self.decode)(row)?),
            None => None,
        };
        Ok(())
    }
}

/// Walk along cursors that are sorted by `order`: `each` gets the rows with the same key, with their
/// layers, newest first.
pub(super) fn same_keys<T>(
    cursors: &mut [Cursor<'_, T>],
    order: impl Fn(&T, &T) -> Ordering,
    mut each: impl FnMut(&[(usize, T)]) -> Result<()>,
) -> Result<()> {
    let mut group: Vec<(usize, T)> = Vec::with_capacity(cursors.len());
    loop {
        let heads = cursors.iter().enumerate();
        let heads = heads.filter_map(|(layer, cursor)| Some((layer, cursor.head()?)));
        let Some((first, _)) = heads.min_by(|a, b| order(a.1, b.1)) else {
            return Ok(());
        };
        group.clear();
        // The first of equal ones is the newest.
        for (layer, cursor) in cursors.iter_mut().enumerate().skip(first) {
            let same = |row: &T| {
                group
                    .first()
                    .is_none_or(|(_, key)| order(row, key) == Ordering::Equal)
            };
            if let Some(row) = cursor.take_if(same)? {
                group.push((layer, row));
            }
        }
        each(&group)?;
    }
}

/// Which layer removed an inode; to be asked in ascending order of inodes.
pub(super) struct Removals<'s>(Vec<Cursor<'s, Ino>>);

impl<'s> Removals<'s> {
    pub(super) const SQL: &'static str = "SELECT ino FROM inode WHERE gone <> 0 ORDER BY ino";

    pub(super) fn new(statements: &'s mut Statements<'_>) -> Result<Removals<'s>> {
        let decode = |row: &Row<'_>| Ok(Ino(rows::number(row, 0)?));
        Ok(Removals(statements.cursors(decode)?))
    }

    /// The newest layer that says that `ino` is gone: rows of it and of those below are hidden.
    /// The number of layers when none does.
    pub(super) fn of(&mut self, ino: Ino) -> Result<usize> {
        let mut newest = self.0.len();
        for (layer, cursor) in self.0.iter_mut().enumerate() {
            while cursor.take_if(|at| *at < ino)?.is_some() {}
            if cursor.head() == Some(&ino) {
                newest = newest.min(layer);
            }
        }
        Ok(newest)
    }
}
