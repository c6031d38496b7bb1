//! CBFS: who reads the next request, and whether it polls or sleeps until there is one.
//!
//! Waking a thread on another, idle CPU costs several microseconds, in a virtual machine ten and more: as much as
//! serving a small request. So while requests follow each other closely, one thread, the leader, does not sleep
//! between them but polls (its own clone of) the device, and the others stand by instead of sleeping in the kernel,
//! which would wake one of them for each request.
//!
//! The leader steps down when no request came for a while, when requests queue up (then others can help), and when it
//! finds that it was descheduled between two polls (then somebody else has use for the CPU). A leader that makes no
//! progress for a tick, say because it serves a request that takes long, loses the lead to those who stand by.
//! Without a leader every thread sleeps in `read(2)`, and an idle session costs nothing.
//!
//! The idea is that of adaptive polling in the kernel: haltpoll, NAPI busy polling, adaptive mutexes.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use parking_lot::Condvar;
use parking_lot::Mutex;

use crate::channel::Channel;

/// How long those who stand by watch a leader without progress before they take the lead away.
const TICK: Duration = Duration::from_millis(1);
/// Requests that follow each other closely before a thread tries to lead.
const QUICK_BEFORE_LEADING: u32 = 4;
/// Requests found waiting, one after the other, after which the leader lets others help.
const QUEUED_BEFORE_HELP: u32 = 32;
/// Time between two polls that says that the leader was descheduled.
const DESCHEDULED: Duration = Duration::from_micros(150);
/// Requests of a thread for which it does not try to lead again after it gave up; doubled each time, up to the
/// largest, until a lead lasts as many requests.
const PAUSE: u32 = 64;
const LONGEST_PAUSE: u32 = 8192;

/// Shared by the threads of a session.
#[derive(Debug)]
pub(crate) struct Attendance {
    /// How long a leader polls for a request; zero turns leading off.
    poll_for: Duration,
    /// Odd while there is a leader. Each change counts it up, so an old leader notices that it is none any more.
    lead: AtomicU64,
    /// Counted up by the leader at each poll.
    progress: AtomicU64,
    /// Threads that stand by.
    standing_by: Mutex<usize>,
    lead_ended: Condvar,
}

impl Attendance {
    pub(crate) fn new(poll_for: Duration) -> Attendance {
        Attendance {
            poll_for,
            lead: AtomicU64::new(0),
            progress: AtomicU64::new(0),
            standing_by: Mutex::new(0),
            lead_ended: Condvar::new(),
        }
    }

    fn is_led(&self) -> bool {
        self.lead.load(Ordering::Acquire) % 2 == 1
    }

    fn try_lead(&self) -> Option<u64> {
        let lead = self.lead.load(Ordering::Acquire);
        let taken = lead % 2 == 0
            && self
                .lead
                .compare_exchange(lead, lead + 1, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok();
        taken.then_some(lead + 1)
    }

    /// End the lead `ticket`, if it has not ended yet, and send those who stand by to read.
    fn end(&self, ticket: u64) {
        if self
            .lead
            .compare_exchange(ticket, ticket + 1, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
        {
            // Under the lock, so that nobody is between its look at `lead` and its sleep.
            let standing_by = self.standing_by.lock();
            if *standing_by > 0 {
                self.lead_ended.notify_all();
            }
        }
    }

    /// Returns when there is no leader, or the leader made no progress for a tick and lost the lead.
    fn stand_by(&self) {
        let mut standing_by = self.standing_by.lock();
        *standing_by += 1;
        loop {
            let lead = self.lead.load(Ordering::Acquire);
            if lead % 2 == 0 {
                break;
            }
            let progress = self.progress.load(Ordering::Relaxed);
            if self.lead_ended.wait_for(&mut standing_by, TICK).timed_out()
                && progress == self.progress.load(Ordering::Relaxed)
                && self.lead.load(Ordering::Acquire) == lead
            {
                *standing_by -= 1;
                drop(standing_by);
                self.end(lead);
                return;
            }
        }
        *standing_by -= 1;
    }
}

/// Receives the requests of one thread of a session.
pub(crate) struct Reader<'a> {
    channel: &'a Channel,
    attendance: &'a Attendance,
    /// While this thread leads.
    ticket: Option<u64>,
    /// Requests in a row that came soon after the thread was ready.
    quick: u32,
    /// Requests served while leading.
    served: u32,
    /// Requests before this thread may lead again, and how many it will be the next time.
    rest: u32,
    pause: u32,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(channel: &'a Channel, attendance: &'a Attendance) -> Reader<'a> {
        Reader {
            channel,
            attendance,
            ticket: None,
            quick: 0,
            served: 0,
            rest: 0,
            pause: PAUSE,
        }
    }

    /// The next request, into `buffer`.
    ///
    /// # Errors
    /// What read(2) says, except for what is worth a retry. ENODEV: the file system was unmounted.
    pub(crate) fn next(&mut self, buffer: &mut [u8]) -> nix::Result<usize> {
        if self.attendance.poll_for.is_zero() {
            return self.channel.receive_retrying(buffer);
        }
        loop {
            if let Some(ticket) = self.ticket {
                if let Some(size) = self.poll(ticket, buffer)? {
                    return Ok(size);
                }
                self.step_down()?;
            }
            if self.attendance.is_led() {
                self.attendance.stand_by();
                continue;
            }
            if self.rest == 0 && self.quick >= QUICK_BEFORE_LEADING {
                if let Some(ticket) = self.attendance.try_lead() {
                    self.ticket = Some(ticket);
                    self.served = 0;
                    self.channel.set_nonblocking(true)?;
                    continue;
                }
            }
            let ready = Instant::now();
            let size = self.channel.receive_retrying(buffer)?;
            self.rest = self.rest.saturating_sub(1);
            let soon = ready.elapsed() < self.attendance.poll_for;
            self.quick = if soon { self.quick.saturating_add(1) } else { 0 };
            return Ok(size);
        }
    }

    /// Poll as the leader. None: the lead is over.
    fn poll(&mut self, ticket: u64, buffer: &mut [u8]) -> nix::Result<Option<usize>> {
        let attendance = self.attendance;
        let started = Instant::now();
        let mut polled = started;
        loop {
            attendance.progress.fetch_add(1, Ordering::Relaxed);
            if attendance.lead.load(Ordering::Acquire) != ticket {
                self.rest = PAUSE;
                return Ok(None);
            }
            if let Some(size) = self.channel.receive_now(buffer)? {
                self.served = self.served.saturating_add(1);
                self.quick = if polled == started { self.quick + 1 } else { 0 };
                if self.quick > QUEUED_BEFORE_HELP {
                    self.give_up();
                    attendance.end(ticket);
                }
                return Ok(Some(size));
            }
            let now = Instant::now();
            if now - polled > DESCHEDULED {
                self.give_up();
                return Ok(None);
            }
            if now - started > attendance.poll_for {
                return Ok(None);
            }
            polled = now;
        }
    }

    fn give_up(&mut self) {
        self.pause = if self.served > self.pause {
            PAUSE
        } else {
            (self.pause * 2).min(LONGEST_PAUSE)
        };
        self.rest = self.pause;
    }

    fn step_down(&mut self) -> nix::Result<()> {
        self.quick = 0;
        if let Some(ticket) = self.ticket.take() {
            self.attendance.end(ticket);
            self.channel.set_nonblocking(false)?;
        }
        Ok(())
    }
}

impl Drop for Reader<'_> {
    /// However a thread ends, the others must not wait for it.
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.attendance.end(ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    #[test]
    fn there_is_one_leader_at_a_time() {
        let attendance = Attendance::new(Duration::from_micros(50));
        let first = attendance.try_lead().unwrap();
        assert!(attendance.try_lead().is_none());
        attendance.end(first);
        let second = attendance.try_lead().unwrap();
        assert_ne!(first, second);
        attendance.end(first); // has ended before: nothing happens
        assert!(attendance.is_led());
    }

    #[test]
    fn the_end_of_a_lead_wakes_those_who_stand_by() {
        let attendance = Arc::new(Attendance::new(Duration::from_micros(50)));
        let ticket = attendance.try_lead().unwrap();
        let other = Arc::clone(&attendance);
        let waiting = thread::spawn(move || other.stand_by());
        attendance.end(ticket);
        waiting.join().unwrap();
        assert!(!attendance.is_led());
    }

    #[test]
    fn a_leader_without_progress_loses_the_lead() {
        let attendance = Attendance::new(Duration::from_micros(50));
        attendance.try_lead().unwrap();
        attendance.stand_by();
        assert!(!attendance.is_led());
        assert_eq!(*attendance.standing_by.lock(), 0);
    }
}
