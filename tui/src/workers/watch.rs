//! Watches one daemon: its status every second, its events as they come; when it is away, tries to reach it
//! again with growing pauses.

use super::Bell;
use crate::message::{Message, News, failure};
use cbfs_client::{DaemonClient, Told};
use cbfs_core::api::{DaemonStatus, Role};
use cbfs_core::error::Context;
use cbfs_core::handle::Handle;
use cbfs_core::{Error, ErrorKind, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

/// Gauges are asked for so often.
const POLL: Duration = Duration::from_secs(1);

/// Pause before the first try to reach a daemon again; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

pub(super) fn start(
    place: usize,
    socket: PathBuf,
    sender: Sender<Message>,
    bell: Arc<Bell>,
) -> Result<()> {
    let watch = move || {
        let mut watch = Watch {
            place,
            sender,
            last_note: String::new(),
            known: BTreeSet::new(),
        };
        watch.run(&socket, &bell);
    };
    std::thread::Builder::new()
        .name("watch".into())
        .spawn(watch)
        .map(drop)
        .context(|| "a thread could not be started".to_owned())
}

struct Watch {
    place: usize,
    sender: Sender<Message>,
    /// The last note seen: those after it are asked for.
    last_note: String,
    /// Masters whose requests were asked for since the connection stands.
    known: BTreeSet<Handle>,
}

impl Watch {
    fn run(&mut self, socket: &Path, bell: &Bell) {
        let mut pause = FIRST_PAUSE;
        while !bell.is_stopped() {
            let mut reached = false;
            let ended = self.connection(socket, bell, &mut reached);
            if reached {
                pause = FIRST_PAUSE;
            }
            let error = match ended {
                Err(error) => error,
                // The stream was ended in order: the daemon stops.
                Ok(()) => Error::new(ErrorKind::DaemonUnreachable, "the daemon has stopped"),
            };
            let retry_in = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            if !self.send(News::Lost(failure(&error), retry_in)) {
                return;
            }
            bell.wait(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Until the daemon goes away: events on a thread of their own, questions here.
    fn connection(&mut self, socket: &Path, bell: &Bell, reached: &mut bool) -> Result<()> {
        let (questions, stream) = (DaemonClient::new(socket)?, DaemonClient::new(socket)?);
        self.known.clear();
        self.ask(&questions)?;
        *reached = true;
        let events = Events {
            place: self.place,
            sender: self.sender.clone(),
            last_note: std::mem::take(&mut self.last_note),
        };
        let enough = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let stream = std::thread::Builder::new()
                .name("events".into())
                .spawn_scoped(scope, || {
                    let (last_note, ended) = events.take(&stream, &enough);
                    bell.ring();
                    (last_note, ended)
                })
                .context(|| "a thread could not be started".to_owned())?;
            let asked = loop {
                bell.wait(POLL);
                if bell.is_stopped() || stream.is_finished() {
                    break Ok(());
                }
                if let Err(error) = self.ask(&questions) {
                    break Err(error);
                }
            };
            enough.store(true, Ordering::SeqCst);
            let (last_note, streamed) = stream
                .join()
                .map_err(|_| Error::failed("the event thread panicked"))?;
            self.last_note = last_note;
            streamed.and(asked)
        })
    }

    /// Ask how all stands, and for the requests of masters not seen before.
    fn ask(&mut self, client: &DaemonClient) -> Result<()> {
        let status: DaemonStatus = client.status()?;
        let masters = status.instances.iter().filter(|i| i.role == Role::Master);
        let masters: BTreeSet<Handle> = masters.map(|i| i.fs.clone()).collect();
        self.send(News::Status(Box::new(status)));
        for fs in masters.difference(&self.known) {
            let requests = client.snapshots(&fs.to_string())?;
            self.send(News::Requests(fs.clone(), requests));
        }
        self.known = masters;
        Ok(())
    }

    /// `false`: the program has ended.
    fn send(&self, news: News) -> bool {
        self.sender.send(Message::Daemon(self.place, news)).is_ok()
    }
}

/// The stream of a connection.
struct Events {
    place: usize,
    sender: Sender<Message>,
    last_note: String,
}

impl Events {
    /// Until the daemon goes away or it is enough; answers the last note seen.
    fn take(mut self, client: &DaemonClient, enough: &AtomicBool) -> (String, Result<()>) {
        let since = self.last_note.clone();
        let ended = client.events(Some(&since), &mut |told| {
            let mut listens = true;
            if let Some(Told { id, event }) = told {
                if let Some(id) = id {
                    self.last_note = id;
                }
                let news = News::Event(Box::new(event));
                listens = self.sender.send(Message::Daemon(self.place, news)).is_ok();
            }
            Ok(listens && !enough.load(Ordering::SeqCst))
        });
        (self.last_note, ended)
    }
}
