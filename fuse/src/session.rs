//! The FUSE session: mounts a [`FileSystem`], serves it, unmounts it.
//!
//! Threads: `threads` session threads (fuser's, named `fuser-N`), each with its own clone of
//! `/dev/fuse`, that read requests and answer those that need not wait; worker threads
//! (`cbfs-wait-N`) for those that must; one thread (`cbfs-fuse`) that waits for the session threads
//! to end. A session ends when the kernel gives the file system up: the last mount of it is gone and
//! so is the last open file. It then joins all its threads, frees `/dev/fuse` and calls what was
//! registered with [`Session::on_end`].
//!
//! After a crash of the process the kernel keeps the mount, and all use of it fails with ENOTCONN
//! until somebody unmounts it: see [`is_stale`] and [`detach_stale`]. Nothing acknowledged is in
//! the kernel only, as writes go through (dirty pages of a writable shared mmap are the exception).

mod answer;
mod calls;
mod conversion;
mod dispatch;
mod kernel_cache;
mod listing;
mod mount_point;
mod privileges;
mod workers;

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fuser::{Config, INodeNo, SessionACL};
use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::time::ClockId;

use self::dispatch::Dispatcher;
use self::kernel_cache::KernelCache;
use self::mount_point::{MountRequest, Standing};
pub use self::mount_point::{detach_stale, is_mount_point, is_stale};
use self::workers::Workers;
use crate::FileSystem;

/// Bytes of the largest read and write request, and of readahead.
const REQUEST_SIZE: u32 = 1 << 20;

/// Nanoseconds since 1970.
type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// How to mount and serve. The subtype is always `cbfs`; `default_permissions` is always on; root
/// also gets `dev`, `suid` and `allow_other`.
#[derive(Clone)]
pub struct MountOptions {
    /// The source as mountinfo and df(1) tell it.
    pub source: String,
    /// Session threads, at least 1.
    pub threads: usize,
    /// Most operations that may wait for the bucket at once; more of them queue. At least 1.
    pub workers: usize,
    /// While requests follow each other closely, one thread polls for the next one for this long before it
    /// sleeps: a sleeping thread costs its waker several microseconds. Zero: never.
    pub poll_for: Duration,
    /// Let other users in. Implied for root; others need `user_allow_other` in /etc/fuse.conf.
    pub allow_other: bool,
    /// Mount with `noatime` instead of `relatime`.
    pub noatime: bool,
    /// What "now" is for utimensat(2), in nanoseconds since 1970.
    pub clock: Arc<dyn Fn() -> i64 + Send + Sync>,
}

impl Default for MountOptions {
    fn default() -> MountOptions {
        MountOptions {
            source: "cbfs".to_owned(),
            threads: 2,
            workers: 32,
            poll_for: Duration::ZERO,
            allow_other: false,
            noatime: false,
            clock: Arc::new(system_clock),
        }
    }
}

impl std::fmt::Debug for MountOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MountOptions")
            .field("source", &self.source)
            .field("threads", &self.threads)
            .field("workers", &self.workers)
            .field("poll_for", &self.poll_for)
            .field("allow_other", &self.allow_other)
            .field("noatime", &self.noatime)
            .finish_non_exhaustive()
    }
}

fn system_clock() -> i64 {
    let now = rustix::time::clock_gettime(ClockId::Realtime);
    now.tv_sec
        .saturating_mul(1_000_000_000)
        .saturating_add(now.tv_nsec)
}

/// A mounted file system being served. Dropping it while it is mounted detaches the mount lazily,
/// as a last resort; call [`Session::unmount`].
pub struct Session {
    shared: Arc<Shared>,
}

struct Shared {
    /// Canonical.
    mount_point: PathBuf,
    /// `major:minor` of the mounted file system.
    device: String,
    life: Mutex<Life>,
    /// Notified when the session ended.
    ended: Condvar,
}

/// Callback of [`Session::on_end`].
type OnEnd = Box<dyn FnOnce() + Send>;

enum Life {
    Serving(Serving),
    Ended,
}

struct Serving {
    /// Our own descriptor of the FUSE connection, to see whether it still stands. Must go as soon
    /// as nobody serves: while it is open the kernel waits for answers.
    connection: OwnedFd,
    notifier: fuser::Notifier,
    on_end: Vec<OnEnd>,
}

impl Session {
    /// Mount `fs` at `mount_point` (a directory) and serve it until it is unmounted. The mount can
    /// be used when this returns.
    ///
    /// # Errors
    /// `NotConnected` when a stale mount is in the way (see [`detach_stale`]); `NotFound` for no
    /// mount point, /dev/fuse or fusermount3; `PermissionDenied`; what mount(2), the FUSE handshake
    /// and starting a thread say. Nothing is left mounted then.
    pub fn mount(
        fs: Arc<dyn FileSystem>,
        mount_point: &Path,
        options: &MountOptions,
    ) -> io::Result<Session> {
        let mount_point = mount_point::canonical(mount_point)?;
        let request = MountRequest {
            source: &options.source,
            allow_other: options.allow_other || rustix::process::geteuid().is_root(),
            noatime: options.noatime,
        };
        let connection = mount_point::mount(&mount_point, &request)?;
        Session::serve(fs, mount_point.clone(), options, connection).inspect_err(|_| {
            // Whether this detaches or finds that the failure took the mount along is one.
            if let Err(e) = mount_point::abort(&mount_point) {
                tracing::debug!(error = %e, "after a failed mount");
            }
        })
    }

    fn serve(
        fs: Arc<dyn FileSystem>,
        mount_point: PathBuf,
        options: &MountOptions,
        connection: OwnedFd,
    ) -> io::Result<Session> {
        let device = mount_point::device_at(&mount_point)?
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
        let own = connection.try_clone()?;
        let workers = Arc::new(Workers::new(options.workers));
        let (gone, all_gone) = std::sync::mpsc::channel::<()>();
        let kernel = Arc::new(KernelCache::default());
        let dispatcher = Dispatcher::new(
            fs,
            Arc::clone(&workers),
            Arc::clone(&options.clock),
            Arc::clone(&kernel),
            // The channel closes when the closure goes, called or not.
            Box::new(move || drop(gone)),
        );
        let mut config = Config::default();
        config.n_threads = Some(options.threads.max(1));
        // A clone is made by opening the device, which not every user of fusermount3 may.
        config.clone_fd = mount_point::open_device().is_ok();
        config.poll_for = Some(options.poll_for);
        // Who may come in is the kernel's matter (allow_other), so fuser lets everybody in.
        let session = fuser::Session::from_fd(dispatcher, connection, SessionACL::All, config)?;
        kernel.notify_with(session.notifier());
        if let Err(e) = mount_point::set_readahead(&device, REQUEST_SIZE) {
            tracing::debug!(error = %e, "readahead stays at the kernel's default");
        }
        let shared = Arc::new(Shared {
            mount_point,
            device,
            life: Mutex::new(Life::Serving(Serving {
                connection: own,
                notifier: session.notifier(),
                on_end: Vec::new(),
            })),
            ended: Condvar::new(),
        });
        let attendant = Arc::clone(&shared);
        thread::Builder::new()
            .name("cbfs-fuse".to_owned())
            .spawn(move || {
                let outcome = session.run();
                if let Err(e) = &outcome {
                    tracing::error!(error = %e, "a FUSE session thread failed");
                }
                // fuser stops waiting at the first thread that panicked; the others still serve. No
                // message is ever sent: this returns when the last of them is gone.
                let _ = all_gone.recv();
                attendant.end(&workers, outcome.is_err());
            })?;
        Ok(Session { shared })
    }

    /// A handle to make the kernel drop what it cached.
    pub fn notifier(&self) -> Notifier {
        Notifier {
            shared: Arc::clone(&self.shared),
        }
    }

    /// The mount point, canonical.
    pub fn mount_point(&self) -> &Path {
        &self.shared.mount_point
    }

    /// Unmount. Without `lazy` a mount in use stays mounted and served. With `lazy` it goes from
    /// the name space at once and stays served until the last open file in it is closed. No error
    /// when somebody else has unmounted it already.
    ///
    /// When the kernel has given the file system up, which after a non-lazy unmount is the rule (the
    /// exception is another mount of it, say in a container), the session threads and workers have
    /// ended on return. Callbacks of [`Session::on_end`] may still be running. Not to be called by
    /// the file system itself from within an operation.
    ///
    /// # Errors
    /// `ResourceBusy` (EBUSY) when the mount is in use, or another file system is mounted over it;
    /// else what umount2(2) or fusermount3 says. The session goes on then.
    pub fn unmount(&self, lazy: bool) -> io::Result<()> {
        if self.has_ended() {
            return Ok(());
        }
        let shared = &self.shared;
        match mount_point::standing(&shared.mount_point, &shared.device)? {
            Standing::OnTop => match mount_point::unmount(&shared.mount_point, lazy) {
                // Somebody else was faster.
                Err(_) if shared.is_absent()? => {}
                result => result?,
            },
            Standing::Covered => {
                let path = shared.mount_point.display();
                let message = format!("another file system is mounted over {path}");
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
            }
            Standing::Absent => {}
        }
        shared.wait_if_given_up()
    }

    /// Whether the session has ended, in whatever way.
    pub fn has_ended(&self) -> bool {
        matches!(*self.shared.life.lock(), Life::Ended)
    }

    /// Call `callback` once when the session ends: unmounted by [`Session::unmount`], by somebody
    /// else (`umount DIR`), or failed. It is called by a thread of the session, after all others
    /// were joined; at once, by the caller, when the session has already ended. It may drop the
    /// session.
    pub fn on_end(&self, callback: impl FnOnce() + Send + 'static) {
        let mut life = self.shared.life.lock();
        match &mut *life {
            Life::Serving(serving) => serving.on_end.push(Box::new(callback)),
            Life::Ended => {
                drop(life);
                callback();
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.has_ended() {
            return;
        }
        let shared = &self.shared;
        let path = shared.mount_point.display();
        let result = match mount_point::standing(&shared.mount_point, &shared.device) {
            Ok(Standing::OnTop) => {
                tracing::warn!(mount_point = %path, "session dropped while mounted: detaching");
                mount_point::unmount(&shared.mount_point, true)
            }
            Ok(Standing::Covered | Standing::Absent) => Ok(()),
            Err(e) => Err(e),
        };
        if let Err(e) = result {
            tracing::error!(mount_point = %path, error = %e, "cannot detach the mount");
        }
    }
}

impl Shared {
    /// Called once, when no session thread is left.
    fn end(&self, workers: &Workers, failed: bool) {
        if failed {
            // The kernel may still have the mount: whoever uses it must not wait for ever.
            match mount_point::standing(&self.mount_point, &self.device) {
                Ok(Standing::OnTop) => {
                    if let Err(e) = mount_point::abort(&self.mount_point) {
                        tracing::error!(error = %e, "cannot detach the mount of a failed session");
                    }
                }
                Ok(Standing::Covered | Standing::Absent) => {}
                Err(e) => tracing::error!(error = %e, "cannot tell what is mounted"),
            }
        }
        workers.shut_down();
        let serving = std::mem::replace(&mut *self.life.lock(), Life::Ended);
        self.ended.notify_all();
        let Life::Serving(Serving {
            connection,
            notifier,
            on_end,
        }) = serving
        else {
            return;
        };
        drop((connection, notifier));
        for callback in on_end {
            if catch_unwind(AssertUnwindSafe(callback)).is_err() {
                tracing::error!("a callback for the end of a FUSE session panicked");
            }
        }
    }

    fn is_absent(&self) -> io::Result<bool> {
        Ok(mount_point::standing(&self.mount_point, &self.device)? == Standing::Absent)
    }

    /// If the kernel has given the file system up, wait until the session has ended.
    fn wait_if_given_up(&self) -> io::Result<()> {
        let mut life = self.life.lock();
        if let Life::Serving(serving) = &*life {
            // The kernel raises ERR for a connection that is over, and nothing else is asked for.
            let mut descriptors = [PollFd::new(&serving.connection, PollFlags::empty())];
            rustix::io::retry_on_intr(|| {
                rustix::event::poll(&mut descriptors, Some(&Timespec::default()))
            })?;
            if !descriptors[0].revents().contains(PollFlags::ERR) {
                return Ok(());
            }
        }
        while matches!(*life, Life::Serving(_)) {
            self.ended.wait(&mut life);
        }
        Ok(())
    }
}

/// Makes the kernel drop what it cached. Cheap to clone; does nothing after the session's end.
///
/// The kernel takes locks of the inode for this, which a program waiting for an answer of the same
/// file system may hold: never notify from within an operation, nor with a lock held that an
/// operation takes.
#[derive(Clone)]
pub struct Notifier {
    shared: Arc<Shared>,
}

impl Notifier {
    /// Drop the attributes of `ino` and the cached pages from byte `offset` on, `len` bytes of
    /// them; up to the end when `len` is 0 or less, none when `offset` is negative. No error when
    /// the kernel does not know the inode.
    ///
    /// # Errors
    /// What the kernel says to the notification.
    pub fn invalidate_inode(&self, ino: u64, offset: i64, len: i64) -> io::Result<()> {
        self.notify(|notifier| notifier.inval_inode(INodeNo(ino), offset, len))
    }

    /// Drop what is known of the name `name` in the directory `parent`, whether it exists or not,
    /// and of the attributes and the listing of `parent`. No error when the kernel knows nothing
    /// of it.
    ///
    /// # Errors
    /// What the kernel says to the notification.
    pub fn invalidate_entry(&self, parent: u64, name: &[u8]) -> io::Result<()> {
        self.notify(|notifier| notifier.inval_entry(INodeNo(parent), OsStr::from_bytes(name)))
    }

    fn notify(&self, send: impl Fn(&fuser::Notifier) -> io::Result<()>) -> io::Result<()> {
        // The lock must not be held while the kernel may wait.
        let notifier = match &*self.shared.life.lock() {
            Life::Serving(serving) => serving.notifier.clone(),
            Life::Ended => return Ok(()),
        };
        send(&notifier)
    }
}
