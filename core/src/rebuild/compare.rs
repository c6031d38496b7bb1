//! Two databases, row by row.

use crate::error::{Error, Result};
use rusqlite::types::Value;
use rusqlite::{Connection, Rows};
use serde::Serialize;
use std::cmp::Ordering;

/// A table, and how to read it.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// Columns that are compared, the primary key first.
    pub columns: &'static str,
    /// How many of them are the primary key.
    pub key: usize,
}

const fn table(name: &'static str, columns: &'static str, key: usize) -> Table {
    Table { name, columns, key }
}

/// The tables of a layer. Of `source` size and hash are left out: they tell how the TOC was
/// compressed, and the TOC is compared by its own rows.
pub const LAYER_TABLES: [Table; 8] = [
    table("inode", crate::layers::schema::INODE_COLUMNS, 1),
    table("dentry", "parent, hash, name, ino, kind, xid", 3),
    table("link", "ino, target", 1),
    table("xattr", "ino, name, value, xid", 2),
    table("extent", "ino, blk, n, snapshot, section, offset, xid", 2),
    table("hole", "ino, byte_from, byte_to, xid", 2),
    table("source", "snapshot, toc_key", 1),
    table("meta", "key, CAST(value AS TEXT)", 1),
];

/// The tables of a TOC.
pub const TOC_TABLES: [Table; 5] = [
    table("tarball", "nr, key, size, blake3", 1),
    table(
        "section",
        "section, tarball, offset, length, raw_length, blake3",
        1,
    ),
    table("block", "section, ino, blk", 3),
    table("superseded", "snapshot, section", 2),
    table("meta", "key, CAST(value AS TEXT)", 1),
];

/// How a table differs. Not serialized when it does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableComparison {
    /// The table.
    pub table: &'static str,
    /// Rows that both have alike.
    pub equal: u64,
    /// Rows that only the original has.
    pub missing: u64,
    /// Rows that only the rebuilt one has.
    pub extra: u64,
    /// Rows of the same key with other values.
    pub changed: u64,
    /// The first difference, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<String>,
}

impl TableComparison {
    /// Whether both are the same.
    pub fn is_equal(&self) -> bool {
        self.missing == 0 && self.extra == 0 && self.changed == 0
    }
}

/// Compare all of `tables` in both databases.
///
/// # Errors
/// When a database cannot be read.
pub fn compare(
    original: &Connection,
    rebuilt: &Connection,
    tables: &[Table],
) -> Result<Vec<TableComparison>> {
    tables
        .iter()
        .map(|table| compare_table(original, rebuilt, table))
        .collect()
}

fn compare_table(
    original: &Connection,
    rebuilt: &Connection,
    table: &Table,
) -> Result<TableComparison> {
    let order: Vec<String> = (1..=table.key).map(|n| n.to_string()).collect();
    let sql = format!(
        "SELECT {} FROM {} ORDER BY {}",
        table.columns,
        table.name,
        order.join(", ")
    );
    let mut outcome = TableComparison {
        table: table.name,
        equal: 0,
        missing: 0,
        extra: 0,
        changed: 0,
        first: None,
    };
    let (mut original, mut rebuilt) = (original.prepare(&sql)?, rebuilt.prepare(&sql)?);
    let columns = original.column_count();
    let (mut originals, mut rebuilts) = (original.query([])?, rebuilt.query([])?);
    let (mut left, mut right) = (
        next(&mut originals, columns)?,
        next(&mut rebuilts, columns)?,
    );
    loop {
        let order = match (&left, &right) {
            (None, None) => return Ok(outcome),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => compare_keys(&a[..table.key], &b[..table.key])?,
        };
        let mut tell = |what: &str, row: &Option<Vec<Value>>| {
            let row = row.as_deref().unwrap_or_default();
            outcome
                .first
                .get_or_insert_with(|| format!("{what} {}", shown(row)));
        };
        match order {
            Ordering::Less => tell("only the original has", &left),
            Ordering::Greater => tell("only the rebuilt one has", &right),
            Ordering::Equal if left != right => {
                let rebuilt = shown(right.as_deref().unwrap_or_default());
                tell(
                    &format!("rebuilt as {rebuilt}, but the original has"),
                    &left,
                );
            }
            Ordering::Equal => {}
        }
        match order {
            Ordering::Less => outcome.missing += 1,
            Ordering::Greater => outcome.extra += 1,
            Ordering::Equal if left != right => outcome.changed += 1,
            Ordering::Equal => outcome.equal += 1,
        }
        if order != Ordering::Greater {
            left = next(&mut originals, columns)?;
        }
        if order != Ordering::Less {
            right = next(&mut rebuilts, columns)?;
        }
    }
}

fn next(rows: &mut Rows<'_>, columns: usize) -> Result<Option<Vec<Value>>> {
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let values: rusqlite::Result<Vec<Value>> = (0..columns).map(|n| row.get(n)).collect();
    Ok(Some(values?))
}

/// The order in which SQLite sorts keys: numbers by value, texts and blobs by their bytes.
fn compare_keys(a: &[Value], b: &[Value]) -> Result<Ordering> {
    for (a, b) in a.iter().zip(b) {
        let order = match (a, b) {
            (Value::Integer(a), Value::Integer(b)) => a.cmp(b),
            (Value::Text(a), Value::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
            (Value::Blob(a), Value::Blob(b)) => a.cmp(b),
            _ => {
                return Err(Error::damage(
                    "a key column is of another type than CBFS wrote",
                ));
            }
        };
        if order != Ordering::Equal {
            return Ok(order);
        }
    }
    Ok(Ordering::Equal)
}

fn shown(row: &[Value]) -> String {
    let cells = row.iter().map(|value| match value {
        Value::Null => "null".to_owned(),
        Value::Integer(n) => n.to_string(),
        Value::Real(n) => n.to_string(),
        Value::Text(text) => text.escape_debug().to_string(),
        Value::Blob(bytes) => bytes.escape_ascii().to_string(),
    });
    format!("({})", cells.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_of_two_tables_is_counted_and_the_first_is_told() {
        let database = |rows: &str| {
            let conn = Connection::open_in_memory().unwrap();
            let sql = "CREATE TABLE hole(ino, byte_from, byte_to, xid); INSERT INTO hole VALUES ";
            conn.execute_batch(&format!("{sql} {rows}")).unwrap();
            conn
        };
        let original = database("(1,0,5,9), (2,0,5,9), (3,0,5,9), (-4,0,5,9)");
        let rebuilt = database("(1,0,5,9), (3,0,6,9), (3,7,8,9), (-4,0,5,9)");
        let tables = [table("hole", "ino, byte_from, byte_to, xid", 2)];
        let found = compare(&original, &rebuilt, &tables).unwrap().remove(0);
        let counts = (found.equal, found.missing, found.extra, found.changed);
        assert_eq!(counts, (2, 1, 1, 1));
        let first = found.first.unwrap();
        assert_eq!(first, "only the original has (2, 0, 5, 9)");
        assert!(compare(&original, &original, &tables).unwrap()[0].is_equal());
    }
}
