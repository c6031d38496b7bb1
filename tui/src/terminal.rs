//! The terminal: taken and given back, and the loop between messages, state and screen.
//!
//! Given back in every case: at the end, on an error, on SIGTERM, SIGHUP and SIGINT (messages like any other), and
//! on a panic of any thread, which ends the program.

use crate::arguments::{Arguments, sockets};
use crate::figures::Moment;
use crate::message::Message;
use crate::snapshot_rows::settle;
use crate::state::State;
use crate::update::update;
use crate::view::{Look, draw};
use crate::workers::Workers;
use cbfs_core::clock::{Clock, System};
use cbfs_core::error::Context;
use cbfs_core::{Error, ErrorKind, Result};
use crossterm::cursor::{Hide, Show};
use crossterm::event::{DisableMouseCapture, EnableMouseCapture, Event, KeyEventKind};
use crossterm::execute;
use crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Between two screens at least: 30 a second.
const FRAME: Duration = Duration::from_millis(33);

/// Ages and rates move so often.
const TICK: Duration = Duration::from_secs(1);

/// Exit code after a panic, as Rust's own.
const PANICKED: i32 = 101;

/// Messages taken at once before the next look at the clock.
const BATCH: usize = 1_000;

/// Show the daemons behind `given` (none: this node's) until a person leaves.
///
/// # Errors
/// [`ErrorKind::Usage`] where stdin or stdout is no terminal; those of the theme and of the terminal.
pub fn run(given: &[PathBuf], arguments: &Arguments) -> Result<()> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(Error::new(ErrorKind::Usage, "this needs a terminal")
            .hint("`cbfsctl status --json` is for scripts"));
    }
    let look = arguments.look()?;
    let about = || "the terminal could not be used".to_owned();
    let guard = Taken::take(!arguments.no_mouse).context(about)?;
    let mut terminal = Terminal::new(CrosstermBackend::new(io::stdout())).context(about)?;
    let size = terminal.size().context(about)?;
    let sockets = sockets(given);
    let state = State::new(sockets.clone(), (size.width, size.height), now());
    let (sender, messages) = channel();
    read_keys(sender.clone())?;
    hear_signals(sender.clone())?;
    let workers = Workers::start(sockets, sender)?;
    let outcome = turn(&mut terminal, state, &look, &messages, &workers);
    workers.stop();
    drop(guard);
    outcome.context(about)
}

fn now() -> Moment {
    Moment::from(System.now())
}

/// When to draw, and when to let time go on: at most 30 screens a second, however much happens, and one when nothing does.
struct Pace {
    /// Something changed since the last screen.
    changed: bool,
    drawn: Option<Instant>,
    ticked: Instant,
}

impl Pace {
    fn from(now: Instant) -> Pace {
        Pace {
            changed: true,
            drawn: None,
            ticked: now,
        }
    }

    fn frame_due(&self, now: Instant) -> Duration {
        let since = self.drawn.map_or(FRAME, |at| now.duration_since(at));
        FRAME.saturating_sub(since)
    }

    /// Whether a screen is to be drawn now; it counts as drawn then.
    fn draws(&mut self, now: Instant) -> bool {
        if !self.changed || !self.frame_due(now).is_zero() {
            return false;
        }
        (self.changed, self.drawn) = (false, Some(now));
        true
    }

    /// Whether a tick is due now; it counts as done then.
    fn ticks(&mut self, now: Instant) -> bool {
        if now.duration_since(self.ticked) < TICK {
            return false;
        }
        (self.changed, self.ticked) = (true, now);
        true
    }

    /// How long to wait for a message.
    fn patience(&self, now: Instant) -> Duration {
        let tick_due = TICK.saturating_sub(now.duration_since(self.ticked));
        match self.changed {
            true => self.frame_due(now).min(tick_due),
            false => tick_due,
        }
    }
}

/// Until it is to end: take messages, change the state, draw.
fn turn(
    terminal: &mut Terminal<CrosstermBackend<io::Stdout>>,
    mut state: State,
    look: &Look,
    messages: &Receiver<Message>,
    workers: &Workers,
) -> io::Result<()> {
    let mut pace = Pace::from(Instant::now());
    while !state.quit {
        if pace.draws(Instant::now()) {
            settle(&mut state);
            terminal.draw(|frame| {
                let area = frame.area();
                state.size = (area.width, area.height);
                draw(frame, &state, look);
            })?;
        }
        let first = match messages.recv_timeout(pace.patience(Instant::now())) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        let waiting = std::iter::from_fn(|| messages.try_recv().ok()).take(BATCH);
        let all: Vec<Message> = first.into_iter().chain(waiting).collect();
        state.now = now();
        for message in all {
            pace.changed = true;
            let effects = update(&mut state, message);
            workers.carry_out(effects);
        }
        if pace.ticks(Instant::now()) {
            let effects = update(&mut state, Message::Tick);
            workers.carry_out(effects);
        }
    }
    Ok(())
}

/// The terminal in our hands; given back when dropped.
struct Taken;

impl Taken {
    fn take(mouse: bool) -> io::Result<Taken> {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            give_back();
            before(info);
            // A thread that panicked would leave a screen that nobody keeps up.
            process::exit(PANICKED);
        }));
        enable_raw_mode()?;
        let taken = Taken;
        execute!(io::stdout(), EnterAlternateScreen, Hide)?;
        if mouse {
            execute!(io::stdout(), EnableMouseCapture)?;
        }
        Ok(taken)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        give_back();
        drop(std::panic::take_hook());
    }
}

/// Whatever was taken. What fails here has no terminal left to say so.
fn give_back() {
    let _ = execute!(
        io::stdout(),
        DisableMouseCapture,
        LeaveAlternateScreen,
        Show
    );
    let _ = disable_raw_mode();
}

/// A thread that waits for keys. It ends with the program.
fn read_keys(sender: Sender<Message>) -> Result<()> {
    let read = move || {
        loop {
            let message = match crossterm::event::read() {
                Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => Message::Key(key),
                Ok(Event::Mouse(mouse)) => Message::Mouse(mouse),
                Ok(Event::Resize(columns, rows)) => Message::Resize(columns, rows),
                Ok(_) => continue,
                // The terminal is gone.
                Err(_) => Message::Quit,
            };
            let last = matches!(message, Message::Quit);
            if sender.send(message).is_err() || last {
                return;
            }
        }
    };
    thread("keys", read)
}

/// A thread that waits for signals. It ends with the program.
fn hear_signals(sender: Sender<Message>) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context(|| "signals cannot be heard".to_owned())?;
    let hear = |kind| {
        let _inside = runtime.enter();
        signal(kind).context(|| "signals cannot be heard".to_owned())
    };
    let mut terminate = hear(SignalKind::terminate())?;
    let mut hang_up = hear(SignalKind::hangup())?;
    let mut interrupt = hear(SignalKind::interrupt())?;
    thread("signals", move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = hang_up.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        // It has ended already, perhaps.
        let _ = sender.send(Message::Quit);
    })
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map(drop)
        .context(|| "a thread could not be started".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Screens in ten seconds in which messages come so often, as [`turn`] goes round.
    fn screens(every: Duration) -> u32 {
        let begin = Instant::now();
        let (mut now, mut next_message) = (begin, begin + every);
        let mut pace = Pace::from(begin);
        let mut drawn = 0;
        while now.duration_since(begin) < Duration::from_secs(10) {
            drawn += u32::from(pace.draws(now));
            now = next_message.min(now + pace.patience(now));
            if now == next_message {
                next_message += every;
                pace.changed = true;
            }
            pace.ticks(now);
        }
        drawn
    }

    #[test]
    fn a_storm_of_events_draws_thirty_screens_a_second_and_quiet_one() {
        let storm = screens(Duration::from_micros(100));
        assert!((290..=304).contains(&storm), "{storm}");
        let busy = screens(Duration::from_millis(100));
        assert!((95..=112).contains(&busy), "{busy}");
        let quiet = screens(Duration::from_secs(3600));
        assert!((10..=11).contains(&quiet), "{quiet}");
    }
}
