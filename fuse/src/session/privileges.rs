//! The suid and sgid bits that go when contents or owner change, with `FUSE_HANDLE_KILLPRIV_V2`.
//!
//! The kernel says with writes and setattr whether they go. For fallocate(2) and copy_file_range(2) it has no
//! way to: there they go unless root calls. It holds the inode's lock throughout, so looking and setting are one
//! step to programs. `security.capability` is still removed by the kernel itself.

use super::kernel_cache::KernelCache;
use crate::{Caller, FileSystem, OpResult, Patience, SetAttributes};

const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;

/// Take the bits away from an inode that is about to be written.
pub(super) fn take_privileges_away(
    fs: &dyn FileSystem,
    patience: Patience,
    caller: Caller,
    ino: u64,
    kernel: &KernelCache,
) -> OpResult<()> {
    let before = fs.getattr(patience, ino)?;
    let Some(mode) = without_privileges(before.mode, before.gid == caller.gid) else {
        return Ok(());
    };
    let change = SetAttributes {
        mode: Some(mode),
        ..SetAttributes::default()
    };
    fs.setattr(patience, caller, ino, &change)?;
    // The answer to the operation will not bring the new mode.
    kernel.forget_attributes(ino);
    Ok(())
}

/// The change of attributes that also takes the bits away; its answer brings the new mode.
pub(super) fn with_privileges_dropped(
    fs: &dyn FileSystem,
    patience: Patience,
    caller: Caller,
    ino: u64,
    change: &SetAttributes,
) -> OpResult<SetAttributes> {
    let before = fs.getattr(patience, ino)?;
    let mode = change.mode.unwrap_or(before.mode);
    let mode = without_privileges(mode, before.gid == caller.gid);
    Ok(SetAttributes {
        mode: mode.or(change.mode),
        ..*change
    })
}

/// What is left of the permission bits; `None` when nothing goes. The sgid bit of a file that its group cannot
/// execute only goes when the caller is of another group, as in `setattr_should_drop_sgid` of the kernel
/// (supplementary groups are not known here; without group execute the bit gives no privilege).
fn without_privileges(mode: u32, caller_is_of_the_group: bool) -> Option<u32> {
    let mut left = mode & !SET_UID;
    if mode & GROUP_EXECUTE != 0 || !caller_is_of_the_group {
        left &= !SET_GID;
    }
    (left != mode).then_some(left & 0o7777)
}

#[cfg(test)]
mod tests {
    use super::without_privileges;

    #[test]
    fn suid_goes_and_sgid_of_an_executable() {
        assert_eq!(without_privileges(0o100_6755, true), Some(0o755));
        assert_eq!(without_privileges(0o100_4644, true), Some(0o644));
        assert_eq!(without_privileges(0o100_2745, true), None);
        assert_eq!(without_privileges(0o100_2745, false), Some(0o745));
        assert_eq!(without_privileges(0o100_6745, true), Some(0o2745));
        assert_eq!(without_privileges(0o100_1755, false), None);
    }
}
