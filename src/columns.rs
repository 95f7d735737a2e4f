//! Columns for people, as kubectl prints them: upper-case heads, three spaces between, nothing around.

use std::fmt::{self, Display, Formatter};

/// Rows of text under heads.
#[derive(Clone, Debug)]
pub(crate) struct Columns {
    heads: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Columns {
    /// No rows yet.
    pub(crate) fn new(heads: &[&'static str]) -> Self {
        Self { heads: heads.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; an empty cell is printed as `<none>`.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.heads.len(), "a cell a head");
        let cells = cells.into_iter().map(|cell| if cell.is_empty() { "<none>".to_owned() } else { cell });
        self.rows.push(cells.collect());
    }

    fn widths(&self) -> Vec<usize> {
        let width = |column: usize, head: &str| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.chain([head.len()]).max().unwrap_or(0)
        };
        self.heads.iter().enumerate().map(|(column, head)| width(column, head)).collect()
    }
}

impl Display for Columns {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        let heads: Vec<String> = self.heads.iter().map(ToString::to_string).collect();
        for row in std::iter::once(&heads).chain(&self.rows) {
            let line: Vec<String> =
                row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
            writeln!(f, "{}", line.join("   ").trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut columns = Columns::new(&["NAME", "PORT"]);
        columns.row(vec!["a-long-name".into(), "80".into()]);
        columns.row(vec!["b".into(), String::new()]);
        assert_eq!(columns.to_string(), "NAME          PORT\na-long-name   80\nb             <none>\n");
    }
}
