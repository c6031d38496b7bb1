//! The replies to the kernel, one function per kind of result.

use fuser::{
    FileType, Generation, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyStatfs,
    ReplyWrite, ReplyXattr,
};

use super::conversion::{Entry, Known, fuser_errno, nameplate};
use crate::{Errno, FileSystemStatistics};

#[expect(clippy::needless_pass_by_value, reason = "all answers have one shape")]
pub(super) fn answer_entry(reply: ReplyEntry, result: Result<Entry, Errno>) {
    match result {
        Ok(Entry::Known(Known { attr, policy })) => {
            reply.entry_with_ttls(&policy.attributes, &policy.entry, &attr, Generation(0));
        }
        Ok(Entry::Negative(ttl)) => {
            // Node id 0 is "there is no such name", with a time to remember it for.
            let nobody = nameplate(0, FileType::RegularFile);
            reply.entry_with_ttls(&ttl, &ttl, &nobody, Generation(0));
        }
        Err(errno) => reply.error(fuser_errno(errno)),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "all answers have one shape")]
pub(super) fn answer_attributes(reply: ReplyAttr, result: Result<Known, Errno>) {
    match result {
        Ok(Known { attr, policy }) => reply.attr(&policy.attributes, &attr),
        Err(errno) => reply.error(fuser_errno(errno)),
    }
}

pub(super) fn answer_data(reply: ReplyData, result: Result<Vec<u8>, Errno>) {
    match result {
        Ok(data) => reply.data(&data),
        Err(errno) => reply.error(fuser_errno(errno)),
    }
}

pub(super) fn answer_empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(fuser_errno(errno)),
    }
}

pub(super) fn answer_written(reply: ReplyWrite, result: Result<u32, Errno>) {
    match result {
        Ok(count) => reply.written(count),
        Err(errno) => reply.error(fuser_errno(errno)),
    }
}

/// Extended attributes are asked for with the room there is; no room asks for the size.
pub(super) fn answer_xattr(reply: ReplyXattr, room: u32, result: Result<Vec<u8>, Errno>) {
    let value = match result {
        Ok(value) => value,
        Err(errno) => return reply.error(fuser_errno(errno)),
    };
    match u32::try_from(value.len()) {
        Ok(size) if room == 0 => reply.size(size),
        Ok(size) if size <= room => reply.data(&value),
        Ok(_) => reply.error(fuser::Errno::ERANGE),
        Err(_) => reply.error(fuser::Errno::E2BIG),
    }
}

pub(super) fn answer_statistics(reply: ReplyStatfs, result: Result<FileSystemStatistics, Errno>) {
    match result {
        Ok(s) => reply.statfs(
            s.blocks,
            s.free,
            s.available,
            s.files,
            s.files_free,
            s.block_size,
            s.name_max,
            s.block_size,
        ),
        Err(errno) => reply.error(fuser_errno(errno)),
    }
}

pub(super) fn answer_seek(reply: ReplyLseek, result: Result<u64, Errno>) {
    match result.and_then(|offset| i64::try_from(offset).map_err(|_| Errno::EOVERFLOW)) {
        Ok(offset) => reply.offset(offset),
        Err(errno) => reply.error(fuser_errno(errno)),
    }
}
