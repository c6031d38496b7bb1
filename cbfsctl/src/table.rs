//! Tables of text: columns as wide as their widest cell. Nothing is cut off where a program reads along; on a
//! terminal that is too narrow wide words are shortened, and where even that does not help each row becomes a
//! paragraph, with nothing shortened.

/// Which way a column leans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table under construction.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these titles.
    pub(crate) fn new(columns: &[(&'static str, Align)]) -> Table {
        Table {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Add a row, one cell a column. A missing value is `-`, so that every row has as many words
    /// as every other.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cell = |c: String| if c.is_empty() { "-".to_owned() } else { c };
        let row: Vec<String> = cells.into_iter().map(cell).collect();
        debug_assert_eq!(row.len(), self.columns.len());
        self.rows.push(row);
    }

    /// Whether it has no rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The lines as wide as they are, without a newline after the last and without spaces at the end of any.
    pub(crate) fn render(&self) -> String {
        lay_out(&self.columns, &self.lines(), &self.widths())
    }

    /// The lines for a terminal of `columns` characters.
    pub(crate) fn render_within(&self, columns: usize) -> String {
        let mut widths = self.widths();
        let total = |widths: &[usize]| widths.iter().sum::<usize>() + GAP * (widths.len() - 1);
        while total(&widths) > columns {
            // The widest column of words gives way; numbers are never shortened.
            let shrinkable = (0..widths.len())
                .filter(|i| self.columns[*i].1 == Align::Left && widths[*i] > LEAST)
                .max_by_key(|i| widths[*i]);
            let Some(widest) = shrinkable else {
                return self.paragraphs();
            };
            widths[widest] -= 1;
        }
        lay_out(&self.columns, &self.lines(), &widths)
    }

    /// A paragraph for each row: title and cell a line.
    fn paragraphs(&self) -> String {
        let titles = self.columns.iter().map(|(title, _)| width(title));
        let titles = titles.max().unwrap_or(0);
        let rows = self.rows.iter().map(|row| {
            let cells = row.iter().zip(&self.columns);
            let cells = cells.map(|(cell, (title, _))| format!("{title:titles$}  {cell}"));
            cells.collect::<Vec<_>>().join("\n")
        });
        rows.collect::<Vec<_>>().join("\n\n")
    }

    fn lines(&self) -> Vec<Vec<String>> {
        let titles = self.columns.iter().map(|(t, _)| (*t).to_owned()).collect();
        std::iter::once(titles)
            .chain(self.rows.iter().cloned())
            .collect()
    }

    fn widths(&self) -> Vec<usize> {
        let lines = self.lines();
        let of_column = |i: usize| {
            lines
                .iter()
                .filter_map(|l| l.get(i))
                .map(|c| width(c))
                .max()
        };
        (0..self.columns.len())
            .map(|i| of_column(i).unwrap_or(0))
            .collect()
    }
}

/// Between two columns.
const GAP: usize = 2;
/// No column becomes narrower.
const LEAST: usize = 13;

fn lay_out(columns: &[(&'static str, Align)], lines: &[Vec<String>], widths: &[usize]) -> String {
    let rendered = lines.iter().map(|cells| {
        let mut line = String::new();
        for ((cell, room), (_, align)) in cells.iter().zip(widths).zip(columns) {
            let cell = shortened(cell, *room);
            let padding = " ".repeat(room - width(&cell));
            match align {
                Align::Left => line += &format!("{cell}{padding}  "),
                Align::Right => line += &format!("{padding}{cell}  "),
            }
        }
        line.trim_end().to_owned()
    });
    rendered.collect::<Vec<_>>().join("\n")
}

/// At most `room` characters; `…` stands for what is left out at the end.
fn shortened(cell: &str, room: usize) -> String {
    if width(cell) <= room {
        return cell.to_owned();
    }
    let kept: String = cell.chars().take(room.saturating_sub(1)).collect();
    kept + "…"
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_nothing_is_cut() {
        let mut table = Table::new(&[
            ("NAME", Align::Left),
            ("SIZE", Align::Right),
            ("NOTE", Align::Left),
        ]);
        table.row(["grün".into(), "7".into(), String::new()]);
        table.row([
            "a-very-long-name-that-stays-whole".into(),
            "1,234".into(),
            "x".into(),
        ]);
        insta::assert_snapshot!(table.render(), @r"
        NAME                                SIZE  NOTE
        grün                                   7  -
        a-very-long-name-that-stays-whole  1,234  x
        ");
    }

    #[test]
    fn on_a_narrow_terminal_words_are_shortened_and_numbers_never() {
        let mut table = Table::new(&[
            ("FILE SYSTEM", Align::Left),
            ("SIZE", Align::Right),
            ("NOTE", Align::Left),
        ]);
        table.row([
            "home-50c156af-ac2e-417c-9045-ef81080b7ead".into(),
            "123,456,789".into(),
            "as it should be".into(),
        ]);
        assert_eq!(table.render_within(200), table.render());
        insta::assert_snapshot!(table.render_within(50), @r"
        FILE SYSTEM                  SIZE  NOTE
        home-50c156af-ac2e-…  123,456,789  as it should be
        ");
        assert!(table.render_within(50).lines().all(|l| width(l) <= 50));
        insta::assert_snapshot!(table.render_within(30), @r"
        FILE SYSTEM  home-50c156af-ac2e-417c-9045-ef81080b7ead
        SIZE         123,456,789
        NOTE         as it should be
        ");
    }
}
