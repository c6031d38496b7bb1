//! `update(state, message) -> effects`: the one place where the state changes. Pure: it asks neither clock nor
//! daemon, so whatever happened can be told again.

mod actions;
mod keys;
mod news;
mod promotion;

use crate::bucket_view::ViewKey;
use crate::message::{Effect, Failure, Message};
use crate::snapshot_rows::{settle, settle_instances};
use crate::state::{EventLine, LOG_LINES_KEPT, Notice, ShownLog, State};
use cbfs_core::api::{Note, Severity};
use cbfs_core::handle::Handle;

/// A look at a bucket is repeated after so many milliseconds, for what other nodes do.
const LOOK_AGAIN: u64 = 60_000;

/// How long a word about the last action stays, in milliseconds.
const NOTICE_STAYS: u64 = 15_000;

/// A message has come in; `state.now` tells when. Before the state is drawn, [`settle`] makes its rows.
pub fn update(state: &mut State, message: Message) -> Vec<Effect> {
    let mut effects = match message {
        Message::Key(key) => {
            settle(state);
            keys::key(state, key)
        }
        Message::Mouse(mouse) => {
            settle(state);
            keys::mouse(state, mouse)
        }
        Message::Resize(columns, rows) => {
            state.size = (columns, rows);
            Vec::new()
        }
        Message::Tick => {
            let now = state.now;
            state
                .notice
                .take_if(|notice| now.since(notice.at) >= NOTICE_STAYS);
            Vec::new()
        }
        Message::Daemon(daemon, news) => news::news(state, daemon, news),
        Message::Done {
            daemon,
            fs,
            result,
            bucket_changed,
        } => {
            if bucket_changed {
                state
                    .buckets
                    .values_mut()
                    .for_each(|look| look.stale = true);
            }
            done(state, daemon, fs, result);
            Vec::new()
        }
        Message::Bucket(key, result) => {
            looked(state, &key, result);
            Vec::new()
        }
        Message::Log {
            daemon,
            fs,
            number,
            result,
        } => {
            let of = (daemon, fs, number);
            if let Some(log) = state.log.as_mut().filter(|log| log.of == of) {
                log.lines = result.map(|mut lines| {
                    let excess = lines.len().saturating_sub(LOG_LINES_KEPT);
                    lines.drain(..excess);
                    lines
                });
            }
            Vec::new()
        }
        Message::Plan(daemon, previous, plan) => {
            promotion::ask(state, daemon, previous, &plan);
            Vec::new()
        }
        Message::Quit => {
            state.quit = true;
            Vec::new()
        }
    };
    settle_instances(state);
    effects.extend(look_at_bucket(state));
    effects
}

/// The selected file system's bucket, when it was not looked at, or long ago, or something changed.
fn look_at_bucket(state: &mut State) -> Option<Effect> {
    let key = state.selected_view()?;
    let now = state.now;
    let look = state.buckets.entry(key.clone()).or_default();
    let due = match look.ended {
        None => true,
        // What fails is not asked at once again, whatever changes.
        Some(ended) if look.error.is_some() => now.since(ended) >= LOOK_AGAIN,
        Some(ended) => look.stale || now.since(ended) >= LOOK_AGAIN,
    };
    if look.under_way || !due {
        return None;
    }
    look.under_way = true;
    look.stale = false;
    Some(Effect::LookAtBucket(key, Box::new(look.view.clone())))
}

fn looked(
    state: &mut State,
    key: &ViewKey,
    result: Result<Box<crate::bucket_view::BucketView>, Failure>,
) {
    let now = state.now;
    let Some(look) = state.buckets.get_mut(key) else {
        return; // its file system is gone meanwhile
    };
    look.under_way = false;
    look.ended = Some(now);
    match result {
        Ok(view) => {
            look.view = *view;
            look.error = None;
            state.rows_are_stale = true;
        }
        Err(error) => {
            let is_new = look.error.replace(error.clone()).is_none();
            if is_new {
                let text = format!("the bucket cannot be read from here: {}", error.message);
                let causes = with_hint(error.causes, error.hint);
                own_event(
                    state,
                    None,
                    Some(key.fs.clone()),
                    Severity::Warning,
                    text,
                    causes,
                );
            }
        }
    }
}

fn done(
    state: &mut State,
    daemon: usize,
    fs: Option<Handle>,
    result: Result<String, (String, Failure)>,
) {
    match result {
        Ok(text) => say(state, Severity::Info, text),
        Err((tried, error)) => {
            say(
                state,
                Severity::Error,
                format!("{tried}: {}", error.message),
            );
            let mut causes = vec![error.message];
            causes.extend(with_hint(error.causes, error.hint));
            own_event(state, Some(daemon), fs, Severity::Error, tried, causes);
        }
    }
}

fn with_hint(mut causes: Vec<String>, hint: Option<String>) -> Vec<String> {
    causes.extend(hint.map(|hint| format!("hint: {hint}")));
    causes
}

/// A word at the bottom.
fn say(state: &mut State, severity: Severity, text: impl Into<String>) {
    state.notice = Some(Notice {
        text: text.into(),
        severity,
        at: state.now,
    });
}

/// Something that this program noticed.
fn own_event(
    state: &mut State,
    daemon: Option<usize>,
    fs: Option<Handle>,
    severity: Severity,
    text: String,
    causes: Vec<String>,
) {
    let seconds = state.now.0.div_euclid(1000);
    let at = cbfs_core::inode::Timestamp::from_parts(seconds, 0).to_rfc3339();
    state.events.push(EventLine {
        daemon,
        note: Note {
            at,
            severity,
            fs,
            snapshot: None,
            text,
            causes,
        },
    });
}

/// Show the status log of a request: asked for now.
fn show_log(
    state: &mut State,
    daemon: usize,
    fs: Handle,
    number: cbfs_core::ids::SnapshotNumber,
) -> Effect {
    state.log = Some(ShownLog {
        of: (daemon, fs.clone(), number),
        lines: Ok(Vec::new()),
        asked: state.now,
    });
    Effect::ReadLog(daemon, fs, number)
}
