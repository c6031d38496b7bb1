//! Where the panes are: a function of the terminal's size, shared by drawing, paging and the mouse.

use crate::state::{Pane, State};
use ratatui::layout::Rect;

/// Below that there is one pane at a time.
const NARROW: u16 = 60;
const LOW: u16 = 18;

/// Between head line and key bar.
pub fn body(size: (u16, u16)) -> Rect {
    Rect::new(0, 1, size.0, size.1.saturating_sub(2))
}

/// Whether one pane fills the screen.
pub fn is_single(state: &State) -> bool {
    state.zoomed || state.size.0 < NARROW || state.size.1 < LOW
}

/// The panes shown and their places. Neighbours share a line of their frames.
pub fn panes(state: &State) -> Vec<(Pane, Rect)> {
    let body = body(state.size);
    if is_single(state) {
        return vec![(state.focus, body)];
    }
    let events = (body.height * 27 / 100).clamp(5, 14);
    let epochs = (body.height / 6).clamp(4, 8);
    let top = body.height + 2 - events - epochs;
    let left = (body.width * 36 / 100).clamp(28, 48);
    let right = body.width + 1 - left;
    let cache = (top / 2).clamp(6, 9);
    let throughput = (top * 2 / 5).clamp(5, 9);
    let at = |x, y, width, height| Rect::new(x, body.y + y, width, height);
    vec![
        (Pane::FileSystems, at(0, 0, left, top + 1 - cache)),
        (
            Pane::Snapshots,
            at(left - 1, 0, right, top + 1 - throughput),
        ),
        (Pane::Cache, at(0, top - cache, left, cache)),
        (
            Pane::Throughput,
            at(left - 1, top - throughput, right, throughput),
        ),
        (Pane::Epochs, at(0, top - 1, body.width, epochs)),
        (Pane::Events, at(0, top + epochs - 2, body.width, events)),
    ]
}

/// The place of a pane; `None`: it is not shown.
fn place_of(state: &State, pane: Pane) -> Option<Rect> {
    panes(state)
        .into_iter()
        .find(|(p, _)| *p == pane)
        .map(|(_, area)| area)
}

/// Whether the snapshot pane tells about the one at work below its rows.
pub fn has_progress(area: Rect) -> bool {
    area.height >= 8
}

/// Lines of a pane above its first row: frame and column heads.
fn lines_above(pane: Pane) -> u16 {
    match pane {
        Pane::Snapshots => 2,
        _ => 1,
    }
}

/// Rows that a pane of this size shows.
pub fn rows_in(pane: Pane, area: Rect) -> usize {
    let below = if pane == Pane::Snapshots && has_progress(area) {
        3
    } else {
        1
    };
    usize::from(area.height.saturating_sub(lines_above(pane) + below))
}

/// Rows that a pane shows: a page.
pub fn rows_of(state: &State, pane: Pane) -> usize {
    place_of(state, pane)
        .map_or(1, |area| rows_in(pane, area))
        .max(1)
}

/// The first row shown, so that the selected one is in the middle where that is possible.
pub fn first_row(selected: usize, rows: usize, height: usize) -> usize {
    selected
        .saturating_sub(height / 2)
        .min(rows.saturating_sub(height))
}

/// The pane at a place of the screen, and the row of it counted from its first one shown.
pub fn pane_at(state: &State, column: u16, row: u16) -> Option<(Pane, Option<usize>)> {
    let position = ratatui::layout::Position::new(column, row);
    let mut all = panes(state).into_iter();
    let (pane, area) = all.find(|(_, area)| area.contains(position))?;
    let row = row.checked_sub(area.y + lines_above(pane)).map(usize::from);
    Some((pane, row.filter(|r| *r < rows_in(pane, area))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Moment;

    fn state(columns: u16, rows: u16) -> State {
        State::new(Vec::new(), (columns, rows), Moment::default())
    }

    #[test]
    fn panes_fill_every_terminal_and_stay_in_it() {
        for columns in 0..200 {
            for rows in 0..70 {
                let state = state(columns, rows);
                let body = body(state.size);
                for (pane, area) in panes(&state) {
                    assert_eq!(
                        area.intersection(body),
                        area,
                        "{pane:?} at {columns}x{rows}"
                    );
                    assert!(
                        is_single(&state) || rows_in(pane, area) >= 2,
                        "{pane:?} at {columns}x{rows}"
                    );
                }
                let last = panes(&state).last().map(|(_, a)| (a.right(), a.bottom()));
                assert_eq!(last, Some((body.right(), body.bottom())));
            }
        }
    }

    #[test]
    fn the_selected_row_is_always_shown() {
        for rows in 0..50 {
            for height in 1..20 {
                for selected in 0..rows {
                    let first = first_row(selected, rows, height);
                    assert!(first <= selected && selected < first + height);
                    assert!(first + height <= rows || first == 0);
                }
            }
        }
    }

    #[test]
    fn a_place_on_the_screen_belongs_to_a_row() {
        let state = state(80, 24);
        assert_eq!(pane_at(&state, 3, 2), Some((Pane::FileSystems, Some(0))));
        assert_eq!(pane_at(&state, 60, 3), Some((Pane::Snapshots, Some(0))));
        assert_eq!(pane_at(&state, 60, 2), Some((Pane::Snapshots, None)));
        assert_eq!(pane_at(&state, 3, 0), None);
    }
}
