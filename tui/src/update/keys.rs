//! Keys and mouse.

use super::{actions, promotion};
use crate::commands::{Action, Step, action_of};
use crate::layout;
use crate::message::Effect;
use crate::snapshot_rows::SnapshotOrder;
use crate::state::{FileSystemOrder, Overlay, Pane, State};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};

/// The longest filter.
const LONGEST_FILTER: usize = 100;

pub(super) fn key(state: &mut State, key: KeyEvent) -> Vec<Effect> {
    // Leaves whatever lies on top.
    if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
        state.quit = true;
        return Vec::new();
    }
    match state.overlay.take() {
        None => on_panes(state, key),
        Some(Overlay::Filter) => {
            filter_key(state, key);
            Vec::new()
        }
        Some(Overlay::Dialog(mut dialog)) => {
            match key.code {
                KeyCode::Esc => return Vec::new(),
                KeyCode::Enter => match dialog.effect() {
                    Ok(effect) => return vec![effect],
                    Err(refusal) => dialog.refusal = Some(refusal),
                },
                KeyCode::Tab | KeyCode::Down => dialog.next_field(false),
                KeyCode::BackTab | KeyCode::Up => dialog.next_field(true),
                KeyCode::Backspace => dialog.erase(),
                KeyCode::Char('u') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                    dialog.clear();
                }
                KeyCode::Char(c) if is_typed(key) => dialog.type_in(c),
                _ => {}
            }
            state.overlay = Some(Overlay::Dialog(dialog));
            Vec::new()
        }
        Some(Overlay::Help { scroll }) => {
            state.overlay = scrolled(state, key, scroll).map(|scroll| Overlay::Help { scroll });
            Vec::new()
        }
        Some(Overlay::Detail { of, scroll }) => {
            state.overlay =
                scrolled(state, key, scroll).map(|scroll| Overlay::Detail { of, scroll });
            if state.overlay.is_none() {
                state.log = None;
            }
            Vec::new()
        }
    }
}

fn is_typed(key: KeyEvent) -> bool {
    (key.modifiers - KeyModifiers::SHIFT).is_empty()
}

/// The new first line; `None`: it is to be closed.
fn scrolled(state: &mut State, key: KeyEvent, scroll: u16) -> Option<u16> {
    let page = state.size.1.saturating_sub(6).max(1);
    match action_of(key) {
        Some(Action::Quit) if key.code == KeyCode::Char('q') => None,
        Some(Action::Back | Action::Open | Action::Help) => None,
        Some(Action::Move(Step::Rows(n))) => Some(scroll.saturating_add_signed(n as i16)),
        Some(Action::Move(Step::Pages(n))) => {
            Some(scroll.saturating_add_signed(n as i16 * page as i16))
        }
        Some(Action::Move(Step::First)) => Some(0),
        Some(Action::Move(Step::Last)) => Some(u16::MAX),
        _ => Some(scroll),
    }
}

fn filter_key(state: &mut State, key: KeyEvent) {
    let place = state.focus.place();
    let filter = &mut state.filters[place];
    match key.code {
        KeyCode::Enter => return,
        KeyCode::Esc => {
            filter.clear();
            state.rows_are_stale = true;
            return;
        }
        KeyCode::Backspace => drop(filter.pop()),
        KeyCode::Char('u') if key.modifiers.contains(KeyModifiers::CONTROL) => filter.clear(),
        KeyCode::Char(c) if is_typed(key) && filter.len() < LONGEST_FILTER => filter.push(c),
        _ => {}
    }
    state.rows_are_stale = true;
    state.overlay = Some(Overlay::Filter);
}

fn on_panes(state: &mut State, key: KeyEvent) -> Vec<Effect> {
    if let KeyCode::Char(c @ '1'..='6') = key.code
        && key.modifiers.is_empty()
    {
        state.focus = Pane::ALL[c as usize - '1' as usize];
        return Vec::new();
    }
    let Some(action) = action_of(key) else {
        return Vec::new();
    };
    let panes = Pane::ALL.len();
    let place = state.focus.place();
    match action {
        Action::NextPane => state.focus = Pane::ALL[(place + 1) % panes],
        Action::PreviousPane => state.focus = Pane::ALL[(place + panes - 1) % panes],
        Action::Move(step) => move_selection(state, step),
        Action::Open => return actions::open(state),
        Action::Back => back(state),
        Action::Filter if state.focus.has_rows() => state.overlay = Some(Overlay::Filter),
        Action::Filter => {}
        Action::Sort => sort(state),
        Action::Reverse => match state.focus {
            Pane::FileSystems => {
                state.file_system_order.1 ^= true;
                state.rows_are_stale = true;
            }
            Pane::Snapshots => {
                state.snapshot_order.1 ^= true;
                state.rows_are_stale = true;
            }
            _ => {}
        },
        Action::Zoom => state.zoomed ^= true,
        Action::CreateSnapshot => actions::create_snapshot(state),
        Action::Cancel => actions::cancel(state),
        Action::Retry => return actions::retry(state),
        Action::Delete => actions::delete(state),
        Action::Mount => actions::mount(state),
        Action::Umount => actions::umount(state),
        Action::Follow => return actions::follow(state),
        Action::Promote => return promotion::plan(state),
        Action::Refresh => return actions::refresh(state),
        Action::Help => state.overlay = Some(Overlay::Help { scroll: 0 }),
        Action::Quit => state.quit = true,
    }
    Vec::new()
}

fn back(state: &mut State) {
    let filter = &mut state.filters[state.focus.place()];
    if !filter.is_empty() {
        filter.clear();
        state.rows_are_stale = true;
    } else {
        state.zoomed = false;
        state.notice = None;
    }
}

fn sort(state: &mut State) {
    match state.focus {
        Pane::FileSystems => {
            state.file_system_order.0 = match state.file_system_order.0 {
                FileSystemOrder::Name => FileSystemOrder::Health,
                FileSystemOrder::Health => FileSystemOrder::Unpublished,
                FileSystemOrder::Unpublished => FileSystemOrder::Name,
            };
        }
        Pane::Snapshots => {
            state.snapshot_order.0 = match state.snapshot_order.0 {
                SnapshotOrder::Number => SnapshotOrder::State,
                SnapshotOrder::State => SnapshotOrder::Name,
                SnapshotOrder::Name => SnapshotOrder::Size,
                SnapshotOrder::Size => SnapshotOrder::Number,
            };
        }
        _ => return,
    }
    state.rows_are_stale = true;
}

/// Where a step leads among `rows` rows.
fn stepped(from: usize, rows: usize, page: usize, step: Step) -> usize {
    let last = rows.saturating_sub(1);
    let by = |n: i32, unit: usize| {
        let far = (n.unsigned_abs() as usize).saturating_mul(unit);
        if n < 0 {
            from.saturating_sub(far)
        } else {
            from.saturating_add(far).min(last)
        }
    };
    match step {
        Step::Rows(n) => by(n, 1),
        Step::Pages(n) => by(n, page.max(1)),
        Step::First => 0,
        Step::Last => last,
    }
}

fn move_selection(state: &mut State, step: Step) {
    let page = layout::rows_of(state, state.focus);
    match state.focus {
        Pane::FileSystems => {
            let rows = state.instance_rows.len();
            let to = stepped(state.instance_index(), rows, page, step);
            select_instance(state, to);
        }
        Pane::Snapshots => {
            let rows = state.snapshot_rows.len();
            let to = stepped(state.snapshot_index(), rows, page, step);
            // At the top the selection stays with whatever is newest.
            let key = state.snapshot_rows.get(to).map(|r| r.id);
            state.snapshot.key = key.filter(|_| to > 0);
        }
        Pane::Epochs => {
            let rows = state.selected_look().map_or(0, |l| l.view.epochs.len());
            state.epoch = stepped(state.epoch.min(rows.saturating_sub(1)), rows, page, step);
        }
        Pane::Events => {
            let numbers: Vec<u64> = state.filtered_events().map(|(n, _)| n).collect();
            let from = state
                .event
                .key
                .and_then(|k| numbers.iter().position(|n| *n == k));
            let to = stepped(from.unwrap_or(0), numbers.len(), page, step);
            state.event.key = numbers.get(to).copied().filter(|_| to > 0);
        }
        Pane::Cache | Pane::Throughput => {}
    }
}

fn select_instance(state: &mut State, to: usize) {
    let before = state.selected_view();
    state.instance.key = state.instance_rows.get(to).cloned();
    if state.selected_view() != before {
        state.snapshot.key = None;
        state.epoch = 0;
    }
    state.rows_are_stale = true;
}

pub(super) fn mouse(state: &mut State, mouse: MouseEvent) -> Vec<Effect> {
    let wheel = match mouse.kind {
        MouseEventKind::ScrollDown => 3,
        MouseEventKind::ScrollUp => -3,
        MouseEventKind::Down(MouseButton::Left) => 0,
        _ => return Vec::new(),
    };
    match &mut state.overlay {
        Some(Overlay::Help { scroll } | Overlay::Detail { scroll, .. }) => {
            *scroll = scroll.saturating_add_signed(wheel);
            return Vec::new();
        }
        Some(_) => return Vec::new(),
        None => {}
    }
    let Some((pane, row)) = layout::pane_at(state, mouse.column, mouse.row) else {
        return Vec::new();
    };
    state.focus = pane;
    if wheel != 0 {
        move_selection(state, Step::Rows(wheel.into()));
    } else if let Some(row) = row {
        let height = layout::rows_of(state, pane);
        match pane {
            Pane::FileSystems => {
                let top =
                    layout::first_row(state.instance_index(), state.instance_rows.len(), height);
                if top + row < state.instance_rows.len() {
                    select_instance(state, top + row);
                }
            }
            Pane::Snapshots => {
                let top =
                    layout::first_row(state.snapshot_index(), state.snapshot_rows.len(), height);
                if let Some(found) = state.snapshot_rows.get(top + row) {
                    state.snapshot.key = Some(found.id);
                }
            }
            _ => {}
        }
    }
    Vec::new()
}
