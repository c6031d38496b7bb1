//! Tables of text: columns as wide as their widest cell, nothing ever cut off.

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
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.columns.len());
        let cell = |c: String| if c.is_empty() { "-".to_owned() } else { c };
        self.rows.push(cells.into_iter().map(cell).collect());
    }

    /// Whether it has no rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The lines, without a newline after the last and without spaces at the end of any.
    pub(crate) fn render(&self) -> String {
        let titles: Vec<String> = self.columns.iter().map(|(t, _)| (*t).to_owned()).collect();
        let lines: Vec<&Vec<String>> = std::iter::once(&titles).chain(&self.rows).collect();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|i| {
                lines
                    .iter()
                    .filter_map(|l| l.get(i))
                    .map(|c| width(c))
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let rendered: Vec<String> = lines
            .iter()
            .map(|cells| {
                let mut line = String::new();
                for ((cell, width_of_column), (_, align)) in
                    cells.iter().zip(&widths).zip(&self.columns)
                {
                    let padding = " ".repeat(width_of_column - width(cell));
                    match align {
                        Align::Left => line += &format!("{cell}{padding}  "),
                        Align::Right => line += &format!("{padding}{cell}  "),
                    }
                }
                line.trim_end().to_owned()
            })
            .collect();
        rendered.join("\n")
    }
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
}
