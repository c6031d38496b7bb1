//! What an update asked for, once.

use crate::bucket_view::{self, ViewKey};
use crate::message::{Effect, Failure, Message, failure};
use cbfs_client::DaemonClient;
use cbfs_core::api::{PromoteRequest, PromotionInfo};
use cbfs_core::bucket::{self, BucketUrl};
use cbfs_core::clock::{Clock, System};
use cbfs_core::format::epoch::BaseSnapshot;
use cbfs_core::format::mark::SnapshotMark;
use cbfs_core::handle::Handle;
use cbfs_core::ids::Epoch;
use cbfs_core::{Error, ErrorKind, Result, catalog};
use std::path::PathBuf;
use std::sync::mpsc::Sender;

/// Do it, and send what came of it.
pub(super) fn carry_out(sockets: &[PathBuf], effect: Effect, sender: &Sender<Message>) {
    let told = describe(&effect);
    let client = |place: usize| -> Result<DaemonClient> {
        let socket = sockets.get(place);
        let socket =
            socket.ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no such daemon"))?;
        DaemonClient::new(socket)
    };
    let message = match effect {
        Effect::LookAtBucket(key, known) => {
            let view = bucket_view::look(&key, &known);
            Message::Bucket(key, view.map(Box::new).map_err(|e| failure(&e)))
        }
        Effect::ReadLog(daemon, fs, number) => {
            let read = client(daemon).and_then(|c| c.snapshot_log(&fs.to_string(), number));
            Message::Log {
                daemon,
                fs,
                number,
                result: read.map_err(|e| failure(&e)),
            }
        }
        Effect::CreateSnapshot(daemon, request) => {
            let asked = client(daemon).and_then(|c| c.create_snapshot(&request));
            told.done(asked.map(|s| format!("snapshot {} is {}", s.number, s.state.name())))
        }
        Effect::Cancel(daemon, fs, number) => {
            let asked = client(daemon).and_then(|c| c.cancel_snapshot(&fs.to_string(), number));
            told.done(asked.map(|s| {
                let word = if s.cancelling {
                    "being cancelled"
                } else {
                    s.state.name()
                };
                format!("snapshot {number} is {word}")
            }))
        }
        Effect::Retry(daemon, fs, number) => {
            let asked =
                client(daemon).and_then(|c| c.retry_snapshot(&fs.to_string(), number, false));
            told.done(asked.map(|s| format!("snapshot {number} is {}", s.state.name())))
        }
        Effect::DeleteSnapshot(_, key, id) => {
            let deleted = delete(&key, id);
            told.done(deleted.map(|()| format!("snapshot {} is deleted", id.number)))
        }
        Effect::Mount(daemon, request) => {
            let mounted = client(daemon).and_then(|c| c.mount(&request));
            told.done(mounted.map(|i| {
                format!(
                    "{} is mounted on {}",
                    i.fs.tag,
                    request.mount_point.display()
                )
            }))
        }
        Effect::Umount(daemon, request) => {
            let unmounted = client(daemon).and_then(|c| c.umount(&request));
            told.done(unmounted.map(|i| format!("{} is unmounted", i.fs.tag)))
        }
        Effect::RefreshSlave(daemon, id) => {
            let moved = client(daemon).and_then(|c| c.refresh_slave(&id));
            told.done(moved.map(|i| match i.snapshot {
                Some(number) => format!("{} shows snapshot {number}", i.fs.tag),
                None => format!("{} has looked", i.fs.tag),
            }))
        }
        Effect::PlanPromotion(daemon, fs, previous_epoch) => {
            match client(daemon).and_then(|c| promote(&c, &fs, previous_epoch, true)) {
                Ok(plan) => Message::Plan(daemon, previous_epoch, Box::new(plan)),
                Err(error) => told.failed(failure(&error)),
            }
        }
        Effect::Promote(daemon, fs, previous_epoch) => {
            let promoted = client(daemon).and_then(|c| promote(&c, &fs, previous_epoch, false));
            told.done(promoted.map(|p| {
                format!(
                    "this node is the master of {} in epoch {}",
                    p.fs.tag, p.epoch
                )
            }))
        }
        Effect::Reconnect(_) => return,
    };
    // The program may have ended meanwhile.
    let _ = sender.send(message);
}

/// It could not even be begun.
pub(super) fn refuse(effect: Effect, error: &Error, sender: &Sender<Message>) {
    let told = describe(&effect);
    let message = match effect {
        Effect::LookAtBucket(key, _) => Message::Bucket(key, Err(failure(error))),
        _ => told.failed(failure(error)),
    };
    let _ = sender.send(message);
}

/// What was tried, in words.
struct Errand {
    daemon: usize,
    fs: Option<Handle>,
    tried: String,
    bucket_changes: bool,
}

impl Errand {
    fn done(self, result: Result<String>) -> Message {
        match result {
            Ok(text) => Message::Done {
                daemon: self.daemon,
                fs: self.fs,
                result: Ok(text),
                bucket_changed: self.bucket_changes,
            },
            Err(error) => self.failed(failure(&error)),
        }
    }

    fn failed(self, error: Failure) -> Message {
        Message::Done {
            daemon: self.daemon,
            fs: self.fs,
            result: Err((self.tried, error)),
            bucket_changed: self.bucket_changes,
        }
    }
}

fn describe(effect: &Effect) -> Errand {
    let (daemon, fs, tried, bucket_changes) = match effect {
        Effect::CreateSnapshot(d, request) => (
            *d,
            request.fs.parse().ok(),
            "no snapshot was asked for".to_owned(),
            false,
        ),
        Effect::Cancel(d, fs, n) => (
            *d,
            Some(fs.clone()),
            format!("snapshot {n} was not cancelled"),
            false,
        ),
        Effect::Retry(d, fs, n) => (
            *d,
            Some(fs.clone()),
            format!("snapshot {n} was not taken up again"),
            false,
        ),
        Effect::DeleteSnapshot(d, key, id) => {
            let text = format!("snapshot {} was not deleted", id.number);
            (*d, Some(key.fs.clone()), text, true)
        }
        Effect::Mount(d, request) => (
            *d,
            request.fs.parse().ok(),
            format!("{} was not mounted", request.fs),
            true,
        ),
        Effect::Umount(d, request) => (
            *d,
            None,
            format!("{} was not unmounted", request.target),
            false,
        ),
        Effect::RefreshSlave(d, id) => (*d, None, format!("{id} did not move"), false),
        Effect::PlanPromotion(d, fs, _) | Effect::Promote(d, fs, _) => {
            let changes = matches!(effect, Effect::Promote(..));
            (
                *d,
                Some(fs.clone()),
                format!("{} was not promoted", fs.tag),
                changes,
            )
        }
        Effect::ReadLog(d, fs, _) => (*d, Some(fs.clone()), "no log was read".to_owned(), false),
        Effect::LookAtBucket(key, _) => (
            0,
            Some(key.fs.clone()),
            "the bucket was not read".to_owned(),
            false,
        ),
        Effect::Reconnect(d) => (*d, None, String::new(), false),
    };
    Errand {
        daemon,
        fs,
        tried,
        bucket_changes,
    }
}

fn promote(
    client: &DaemonClient,
    fs: &Handle,
    previous_epoch: Epoch,
    dry_run: bool,
) -> Result<PromotionInfo> {
    let request = PromoteRequest {
        bucket: None,
        previous_epoch,
        dry_run,
    };
    client.promote(&fs.to_string(), &request)
}

fn delete(key: &ViewKey, id: BaseSnapshot) -> Result<()> {
    let url: BucketUrl = key.bucket.parse()?;
    let bucket = bucket::open(&url, false)?;
    let at = System.now().to_rfc3339();
    let mark = SnapshotMark::new(key.fs.clone(), id, None, at);
    catalog::delete_snapshot(&*bucket, &mark)
}
