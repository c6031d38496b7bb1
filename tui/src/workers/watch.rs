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
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

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

    /// Until the daemon goes away.
    fn connection(&mut self, socket: &Path, bell: &Bell, reached: &mut bool) -> Result<()> {
        // The stream holds its client: questions beside it need another.
        let (questions, stream) = (DaemonClient::new(socket)?, DaemonClient::new(socket)?);
        self.known.clear();
        self.ask(&questions)?;
        *reached = true;
        let mut asked = Instant::now();
        let last = self.last_note.clone();
        stream.events(Some(&last), &mut |told| {
            if let Some(Told { id, event }) = told {
                self.last_note = id.unwrap_or(std::mem::take(&mut self.last_note));
                if !self.send(News::Event(Box::new(event))) {
                    return Ok(false);
                }
            }
            if asked.elapsed() >= POLL {
                asked = Instant::now();
                self.ask(&questions)?;
            }
            Ok(!bell.is_stopped())
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
