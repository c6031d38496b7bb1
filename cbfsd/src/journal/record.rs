//! Records of the journal: encoding of operations.
//!
//! A segment file starts with [`MAGIC`] and holds records back to back. A record on disk:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | length of what follows the CRC, little endian; 0 is the clean end (preallocated space) |
//! | 4 | CRC-32C of what follows, little endian |
//! | 8 | xid, little endian |
//! | 8 | time, nanoseconds since 1970, little endian |
//! | rest | the events in postcard encoding (<https://postcard.jamesmunns.com/wire-format>) |
//!
//! Enum variants are numbered by their order below: append only, never reorder. Values are full,
//! with parent and name, so that replaying a range of records twice ends in the same state.

use cbfs_core::ids::{Epoch, Ino, SnapshotNumber, Xid};
use cbfs_core::inode::{FileKind, InodeRow, Timestamp};
use serde::{Deserialize, Serialize};

/// First bytes of every segment: name and version of the format.
pub const MAGIC: &[u8; 8] = b"CBFSJ\x00\x01\n";

/// Bytes before the payload: length and CRC.
pub const FRAME: usize = 8;

/// A longer record is no record.
pub const MAX_RECORD: usize = 4 << 20;

/// What an operation did, in full values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A new inode with these attributes.
    InodeCreate(InodeRow),
    /// All attributes of an inode after a change.
    InodeUpdate(InodeRow),
    /// An inode is gone, with its attributes, names and contents.
    InodeDestroy {
        /// Which.
        ino: Ino,
    },
    /// A name was given.
    DentryLink {
        /// Directory.
        parent: Ino,
        /// Name.
        #[serde(with = "serde_bytes")]
        name: Vec<u8>,
        /// What it names now.
        ino: Ino,
        /// Kind of `ino`.
        kind: FileKind,
    },
    /// A name was removed.
    DentryUnlink {
        /// Directory.
        parent: Ino,
        /// Name.
        #[serde(with = "serde_bytes")]
        name: Vec<u8>,
        /// Kind of what it named.
        kind: FileKind,
    },
    /// A rename, for people; the links and unlinks beside it in the record do the work.
    Rename {
        /// What moved.
        ino: Ino,
        /// From this directory.
        from_parent: Ino,
        /// And name.
        #[serde(with = "serde_bytes")]
        from_name: Vec<u8>,
        /// To this directory.
        to_parent: Ino,
        /// And name.
        #[serde(with = "serde_bytes")]
        to_name: Vec<u8>,
    },
    /// The target of a new symlink.
    SymlinkTarget {
        /// The symlink.
        ino: Ino,
        /// Its target.
        #[serde(with = "serde_bytes")]
        target: Vec<u8>,
    },
    /// An extended attribute was set.
    XattrSet {
        /// Inode.
        ino: Ino,
        /// Name.
        #[serde(with = "serde_bytes")]
        name: Vec<u8>,
        /// Value.
        #[serde(with = "serde_bytes")]
        value: Vec<u8>,
    },
    /// An extended attribute was removed.
    XattrRemove {
        /// Inode.
        ino: Ino,
        /// Name.
        #[serde(with = "serde_bytes")]
        name: Vec<u8>,
    },
    /// Bytes were written; size, mtime and ctime follow from this record.
    Write {
        /// File.
        ino: Ino,
        /// First byte.
        offset: u64,
        /// How many.
        length: u64,
        /// The bytes, where the file is inline.
        data: Option<serde_bytes::ByteBuf>,
    },
    /// The file's inline contents moved to a fresh backing file, which held them before this record. Of a file whose
    /// contents are only in the stack below nothing moved: it has a backing file from now on, without any block.
    Spill {
        /// File.
        ino: Ino,
        /// Number of the backing file.
        file: u64,
    },
    /// The contents were cut or extended to `size`; the attributes follow in an `InodeUpdate`.
    /// At size 0 a backing file is given up: the file is inline again.
    Truncate {
        /// File.
        ino: Ino,
        /// New size.
        size: u64,
    },
    /// Bytes `from..to` of a backing file became a hole (or zeros).
    Hole {
        /// File.
        ino: Ino,
        /// First byte.
        from: u64,
        /// Byte after the last.
        to: u64,
    },
    /// The instant snapshot `number` describes: everything before belongs to it.
    Cut {
        /// The snapshot.
        number: SnapshotNumber,
    },
    /// A master took office.
    Epoch {
        /// Its epoch.
        epoch: Epoch,
    },
    /// Not an operation: everything before `offset` of this segment has been synced. A record
    /// that fails its CRC before a sync mark is corruption, not a torn tail.
    SyncMark {
        /// Bytes of this segment that are durable.
        offset: u64,
    },
}

/// An operation as the journal holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its transaction. A sync mark repeats the xid before it.
    pub xid: Xid,
    /// When it was answered, by the node's clock.
    pub time: Timestamp,
    /// What it did.
    pub events: Vec<Event>,
}

/// Append the encoding of a record to `out`.
pub fn encode(xid: Xid, time: Timestamp, events: &[Event], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME]);
    out.extend_from_slice(&xid.0.to_le_bytes());
    out.extend_from_slice(&time.0.to_le_bytes());
    // Encoding into a Vec cannot fail: none of the types refuse to serialize.
    match postcard::to_extend(events, std::mem::take(out)) {
        Ok(full) => *out = full,
        Err(e) => unreachable!("postcard into memory: {e}"),
    }
    let body = out.len() - start - FRAME;
    let crc = crc32c::crc32c(&out[start + FRAME..]);
    out[start..start + 4].copy_from_slice(&(body as u32).to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// What stands at the start of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A record and the bytes it takes.
    Record(Record, usize),
    /// Nothing more: the end of the data or preallocated zeros.
    End,
    /// Neither: torn or damaged.
    Bad(&'static str),
}

/// Decode the record at the start of `bytes`.
pub fn decode(bytes: &[u8]) -> Decoded {
    if bytes.is_empty() {
        return Decoded::End;
    }
    let Some((head, rest)) = bytes.split_at_checked(FRAME) else {
        return if bytes.iter().all(|b| *b == 0) {
            Decoded::End
        } else {
            Decoded::Bad("torn frame")
        };
    };
    let length = le_u32(&head[..4]) as usize;
    if length == 0 {
        return if head.iter().all(|b| *b == 0) {
            Decoded::End
        } else {
            Decoded::Bad("no length")
        };
    }
    if !(16..=MAX_RECORD).contains(&length) {
        return Decoded::Bad("impossible length");
    }
    let Some(body) = rest.get(..length) else {
        return Decoded::Bad("torn record");
    };
    if crc32c::crc32c(body) != le_u32(&head[4..]) {
        return Decoded::Bad("wrong CRC");
    }
    let xid = Xid(le_u64(&body[..8]));
    let time = Timestamp(le_u64(&body[8..16]) as i64);
    match postcard::from_bytes(&body[16..]) {
        Ok(events) => Decoded::Record(Record { xid, time, events }, FRAME + length),
        Err(_) => Decoded::Bad("unknown event"),
    }
}

fn le_u32(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |n, b| (n << 8) | u32::from(*b))
}

fn le_u64(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, b| (n << 8) | u64::from(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<Event> {
        vec![
            Event::InodeCreate(InodeRow::tombstone(Ino(7), Xid(9))),
            Event::DentryLink {
                parent: Ino(1),
                name: b"a\xff\n".to_vec(),
                ino: Ino(7),
                kind: FileKind::File,
            },
            Event::Write {
                ino: Ino(7),
                offset: 3,
                length: 2,
                data: Some(serde_bytes::ByteBuf::from(vec![1, 2])),
            },
        ]
    }

    #[test]
    fn a_record_survives_its_encoding() {
        let mut bytes = Vec::new();
        encode(Xid(5), Timestamp(-3), &sample(), &mut bytes);
        let first = bytes.len();
        encode(Xid(6), Timestamp(8), &[], &mut bytes);
        let expected = Record {
            xid: Xid(5),
            time: Timestamp(-3),
            events: sample(),
        };
        assert_eq!(decode(&bytes), Decoded::Record(expected, first));
        let second = Record {
            xid: Xid(6),
            time: Timestamp(8),
            events: vec![],
        };
        assert_eq!(
            decode(&bytes[first..]),
            Decoded::Record(second, bytes.len() - first)
        );
        assert_eq!(decode(&[0; 100]), Decoded::End);
    }

    #[test]
    fn every_torn_or_flipped_byte_is_noticed() {
        let mut bytes = Vec::new();
        encode(Xid(5), Timestamp(3), &sample(), &mut bytes);
        for cut in 1..bytes.len() {
            assert!(
                matches!(decode(&bytes[..cut]), Decoded::Bad(_)),
                "cut at {cut}"
            );
        }
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x40;
            assert!(!matches!(decode(&bad), Decoded::Record(..)), "flip at {at}");
        }
    }
}
