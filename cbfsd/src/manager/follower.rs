//! A slave that follows: a thread looks for the next snapshot and moves the slave to it.
//!
//! A look in the steady state is one request: is there a manifest with the next number, of the epoch that was the last
//! when it was last asked for? Numbers have no gaps (a number that was given up gets a manifest when the next one is
//! published), so nothing is missed but a new epoch, and that the file system was deleted: every [`EPOCH_LOOK`]th look asks for
//! the next claim and the mark of a deletion too. A look that
//! finds something, and one that is asked for by a person, comes after an error or during a promotion, finds out what the
//! latest snapshot of the lineage is. That one is moved to, whatever lies in between; also when its number is lower,
//! because the present one turned out to be diverged.
//!
//! After an error (a bucket that is away, a damaged manifest or layer) the slave shows what it showed, says so in its
//! status, and looks again: at first after an interval, then less and less often.

use super::{Manager, Open};
use cbfs_core::api::FollowInfo;
use cbfs_core::bucket::{Bucket, has_small};
use cbfs_core::catalog;
use cbfs_core::error::{Context, Error, ErrorKind, Result};
use cbfs_core::format::keys;
use cbfs_core::handle::Handle;
use cbfs_core::ids::{Epoch, SnapshotNumber};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Every so manieth look asks for the next epoch and a deletion too.
const EPOCH_LOOK: u32 = 6;
/// The longest pause after errors, unless the interval is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long the end of the thread is waited for: a request to a bucket that is away may take longer, and has no effect then.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// Under which topic its problem stands in the status.
const TOPIC: &str = "following";

/// The thread, and what it knows.
pub(super) struct Follower {
    interval: Duration,
    state: Mutex<State>,
    /// Held while the slave is moved.
    moving: Mutex<()>,
    /// The thread is to do something.
    wake: Condvar,
    /// A look has ended, or the thread.
    done: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct State {
    stop: bool,
    ended: bool,
    /// Looks that were asked for, and how many of these have ended.
    asked: u64,
    answered: u64,
    /// How the last of these ended.
    answer: Option<std::result::Result<(), cbfs_core::api::ErrorBody>>,
    looked_at: Option<String>,
    unreachable_since: Option<String>,
    latest: Option<(SnapshotNumber, String)>,
    epoch: Epoch,
    /// Looks since the last that asked for the epoch.
    short_looks: u32,
    /// What the last look at everything found was a promotion under way.
    unsettled: bool,
    failures: u32,
}

/// What a look asks for.
#[derive(Clone, Copy)]
enum Look {
    /// Epochs, snapshots, the latest of them.
    Everything,
    /// Whether there is a next snapshot, by one request.
    Snapshot,
    /// Whether there is a next snapshot or a next epoch, or it was deleted, by one request each.
    SnapshotAndEpoch,
}

impl State {
    /// What to ask for now.
    fn next_look(&mut self) -> Look {
        let something_is_up = self.asked > self.answered || self.failures > 0 || self.unsettled;
        self.short_looks += 1;
        if something_is_up || self.epoch == Epoch(0) {
            self.short_looks = 0;
            Look::Everything
        } else if self.short_looks >= EPOCH_LOOK {
            self.short_looks = 0;
            Look::SnapshotAndEpoch
        } else {
            Look::Snapshot
        }
    }
}

impl Follower {
    /// Start following with an open slave.
    pub(super) fn start(
        manager: &Arc<Manager>,
        open: &Arc<Open>,
        interval: Duration,
    ) -> Result<Arc<Follower>> {
        let follower = Arc::new(Follower {
            interval,
            state: Mutex::default(),
            moving: Mutex::default(),
            wake: Condvar::new(),
            done: Condvar::new(),
            thread: Mutex::default(),
        });
        let (manager, open) = (Arc::downgrade(manager), Arc::downgrade(open));
        let own = Arc::clone(&follower);
        let thread = std::thread::Builder::new()
            .name("follower".into())
            .spawn(move || {
                let ended = Ended(&own);
                own.run(&manager, &open);
                drop(ended);
            })
            .context(|| "a thread could not be started".to_owned())?;
        *follower.thread.lock() = Some(thread);
        Ok(follower)
    }

    /// Stop following. Once this returns the slave is not moved any more.
    pub(super) fn stop(&self) {
        let mut state = self.state.lock();
        state.stop = true;
        self.wake.notify_all();
        let deadline = Instant::now() + END_PATIENCE;
        while !state.ended && !self.done.wait_until(&mut state, deadline).timed_out() {}
        // From now on it finds that it is to stop before it moves anything.
        let ended = state.ended;
        drop(state);
        drop(self.moving.lock());
        if ended
            && let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("a follower's thread panicked");
        }
    }

    /// Look now, and wait for what comes of it.
    ///
    /// # Errors
    /// Why the latest snapshot is not shown now.
    pub(super) fn look_now(&self) -> Result<()> {
        let mut state = self.state.lock();
        state.asked += 1;
        let ours = state.asked;
        self.wake.notify_all();
        while state.answered < ours && !state.ended && !state.stop {
            self.done.wait(&mut state);
        }
        match &state.answer {
            Some(Ok(())) if state.answered >= ours => Ok(()),
            Some(Err(body)) if state.answered >= ours => Err(Error::from(body.clone())),
            _ => Err(Error::failed("it has stopped following")),
        }
    }

    /// What it knows.
    pub(super) fn info(&self, shown: Option<SnapshotNumber>) -> FollowInfo {
        let state = self.state.lock();
        let newer = state
            .latest
            .as_ref()
            .filter(|(number, _)| Some(*number) != shown);
        let behind = newer.map_or(0, |(latest, _)| {
            let shown = shown.map_or(0, |number| number.0);
            // Of a diverged one the latest is not behind by a number.
            latest.0.saturating_sub(shown).max(1)
        });
        FollowInfo {
            interval: self.interval.as_secs(),
            looked_at: state.looked_at.clone(),
            behind,
            behind_since: newer.map(|(_, created_at)| created_at.clone()),
            unreachable_since: state.unreachable_since.clone(),
        }
    }

    fn run(self: &Arc<Self>, manager: &Weak<Manager>, open: &Weak<Open>) {
        let mut due = Instant::now() + self.interval;
        loop {
            let (look, asked) = {
                let mut state = self.state.lock();
                while !state.stop && state.asked == state.answered && Instant::now() < due {
                    self.wake.wait_until(&mut state, due);
                }
                if state.stop {
                    return;
                }
                (state.next_look(), state.asked)
            };
            let (Some(manager), Some(open)) = (manager.upgrade(), open.upgrade()) else {
                return;
            };
            let looked = self.look(&manager, &open, look);
            let failures = self.note(&manager, &open, &looked, asked);
            due = Instant::now() + self.pause(failures);
        }
    }

    /// The usual interval; after errors longer.
    fn pause(&self, failures: u32) -> Duration {
        let doubled = self
            .interval
            .saturating_mul(1 << failures.saturating_sub(1).min(10));
        doubled.min(self.interval.max(LONGEST_PAUSE))
    }

    fn note(&self, manager: &Manager, open: &Open, looked: &Result<()>, asked: u64) -> u32 {
        let now = manager.clock.now().to_rfc3339();
        let mut state = self.state.lock();
        let problem = match looked {
            Ok(()) => {
                state.failures = 0;
                state.unreachable_since = None;
                state.looked_at = Some(now);
                None
            }
            Err(e) => {
                state.failures += 1;
                let away = matches!(
                    e.kind(),
                    ErrorKind::BucketUnreachable | ErrorKind::Credentials
                );
                let mut text = if away {
                    let since = state.unreachable_since.get_or_insert(now);
                    format!("it cannot look for newer snapshots since {since}: {e}")
                } else {
                    state.unreachable_since = None;
                    state.looked_at = Some(now);
                    format!("it cannot move on: {e}")
                };
                for cause in e.causes() {
                    text = format!("{text}: {cause}");
                }
                if state.failures == 1 {
                    tracing::warn!(instance = open.id, "{text}");
                }
                Some(text)
            }
        };
        state.answer = Some(match looked {
            Ok(()) => Ok(()),
            Err(e) => Err(e.into()),
        });
        state.answered = asked;
        let failures = state.failures;
        drop(state);
        open.instance().set_problem(TOPIC, problem);
        self.done.notify_all();
        failures
    }

    fn look(self: &Arc<Self>, manager: &Manager, open: &Arc<Open>, look: Look) -> Result<()> {
        let (fs, number) = {
            let config = open.config.lock();
            (config.fs.clone(), config.snapshot.unwrap_or_default())
        };
        let bucket: &dyn Bucket = &*open.bucket;
        let known = self.state.lock().epoch;
        let there =
            |key: &str| -> Result<bool> { Ok(has_small(bucket, &keys::absolute(&fs, key)?)?) };
        let snapshot = keys::manifest(SnapshotNumber(number.0.saturating_add(1)), known);
        let epoch = keys::epoch_claim(Epoch(known.0.saturating_add(1)));
        let something_new = match look {
            Look::Everything => true,
            Look::Snapshot => there(&snapshot)?,
            Look::SnapshotAndEpoch => there(&snapshot)? || there(&epoch)?,
        };
        if something_new || matches!(look, Look::SnapshotAndEpoch) {
            catalog::refuse_deleted(bucket, &fs)?;
        }
        if !something_new {
            return Ok(());
        }
        // Epochs first: one that is claimed after this is found by a later look, whatever the lineage says now.
        let epoch = last_epoch(bucket, &fs, known)?;
        let latest = catalog::latest_settled(bucket, &fs)?;
        {
            let mut state = self.state.lock();
            state.epoch = epoch;
            // None while a promotion is under way: what counts is not settled, so the slave stays.
            state.unsettled = latest.is_none();
            if let Some(manifest) = &latest {
                state.latest = Some((manifest.number, manifest.created_at.clone()));
            }
        }
        let Some(latest) = latest else {
            return Ok(());
        };
        let shown = open.shown.lock().as_ref().map(|s| s.manifest.id());
        if shown == Some(latest.id()) {
            return Ok(());
        }
        let to = latest.id();
        manager.move_slave(open, latest, || self.unless_stopped())?;
        tracing::info!(
            instance = open.id,
            "shows snapshot {} of epoch {}",
            to.number,
            to.epoch
        );
        Ok(())
    }

    /// While this is held [`Follower::stop`] waits.
    fn unless_stopped(&self) -> Option<MutexGuard<'_, ()>> {
        let moving = self.moving.lock();
        (!self.state.lock().stop).then_some(moving)
    }
}

/// The last epoch, from one that is known on. One GET, and one for each that is new.
fn last_epoch(bucket: &dyn Bucket, fs: &Handle, known: Epoch) -> Result<Epoch> {
    let mut last = known;
    while let Some(next) = last.0.checked_add(1).map(Epoch) {
        if catalog::epoch_claim(bucket, fs, next)?.is_none() {
            break;
        }
        last = next;
    }
    Ok(last)
}

/// Says so when the thread ends, in whatever way.
struct Ended<'a>(&'a Follower);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.state.lock().ended = true;
        self.0.done.notify_all();
    }
}
