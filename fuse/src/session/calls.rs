//! Calls of the file system: what they may do to the thread that makes them.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{Errno, OpResult, Patience, Refusal};

/// Call the file system; a panic in it becomes EIO.
pub(super) fn guarded<T>(op: &'static str, call: impl FnOnce() -> OpResult<T>) -> OpResult<T> {
    // Unwind safety: the arguments are not used again, and a file system that can panic half way
    // through a change is to poison itself, as `std::sync::Mutex` would.
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        tracing::error!(
            op,
            panic = panic_message(&*panic),
            "the file system panicked: EIO"
        );
        Err(Refusal::Errno(Errno::EIO))
    })
}

/// Call the file system on a worker, where it may wait but not refuse to.
pub(super) fn patiently<T>(
    op: &'static str,
    call: impl FnOnce(Patience) -> OpResult<T>,
) -> Result<T, Errno> {
    guarded(op, || call(Patience::MayWait)).map_err(|refusal| match refusal {
        Refusal::Errno(errno) => errno,
        Refusal::MustWait => {
            tracing::error!(op, "the file system must wait where it may wait: EIO");
            Errno::EIO
        }
    })
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    if let Some(message) = panic.downcast_ref::<&'static str>() {
        message
    } else if let Some(message) = panic.downcast_ref::<String>() {
        message
    } else {
        "no message"
    }
}
