//! Tables of measurements: as text, as JSON and as a plot.

#[cfg(feature = "plots")]
mod plot;

use std::fmt;

use serde::Serialize;

use super::spread::Spread;

/// One table of a report.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// Names the files, too.
    pub name: String,
    /// What is measured, and of what.
    pub title: String,
    pub columns: Vec<Column>,
    pub rows: Vec<Row>,
    /// The column that the plot shows.
    #[serde(skip)]
    pub plotted: usize,
}

/// What a column has, with the unit.
#[derive(Clone, Debug, Serialize)]
pub struct Column {
    pub name: String,
    #[serde(skip)]
    pub decimals: usize,
}

#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub name: String,
    pub cells: Vec<Cell>,
}

/// A number, several of the same kind, or nothing.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
pub enum Cell {
    Nothing,
    Number(f64),
    Spread(Spread),
}

impl From<Option<Spread>> for Cell {
    fn from(spread: Option<Spread>) -> Self {
        spread.map_or(Self::Nothing, Self::Spread)
    }
}

impl Cell {
    fn text(&self, decimals: usize) -> String {
        match self {
            Self::Nothing => "-".into(),
            Self::Number(number) => format!("{number:.decimals$}"),
            Self::Spread(spread) => format!("{spread:.decimals$}"),
        }
    }
}

impl Table {
    pub fn new(name: impl Into<String>, title: impl Into<String>, columns: &[(&'static str, usize)]) -> Self {
        let mut table = Self {
            name: name.into(),
            title: title.into(),
            columns: Vec::new(),
            rows: Vec::new(),
            plotted: 0,
        };
        for (name, decimals) in columns {
            table.column(*name, *decimals);
        }
        table
    }

    /// One more, after the others.
    pub fn column(&mut self, name: impl Into<String>, decimals: usize) {
        self.columns.push(Column { name: name.into(), decimals });
    }

    pub fn row(&mut self, name: impl Into<String>, cells: impl Into<Vec<Cell>>) {
        self.rows.push(Row { name: name.into(), cells: cells.into() });
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or_default();
        let texts: Vec<Vec<String>> = self.rows.iter().map(|row| self.texts(row)).collect();
        let width = |number: usize, column: &Column| {
            let cells = texts.iter().filter_map(|row| row.get(number)).map(|text| text.chars().count());
            cells.max().unwrap_or_default().max(column.name.chars().count())
        };
        let widths: Vec<usize> =
            self.columns.iter().enumerate().map(|(number, column)| width(number, column)).collect();
        writeln!(f, "{}", self.title)?;
        write!(f, "  {:first$}", "")?;
        for (column, width) in self.columns.iter().zip(&widths) {
            write!(f, "  {:>width$}", column.name)?;
        }
        for (row, texts) in self.rows.iter().zip(&texts) {
            write!(f, "\n  {:first$}", row.name)?;
            for (text, width) in texts.iter().zip(&widths) {
                write!(f, "  {text:>width$}")?;
            }
        }
        writeln!(f)
    }
}

impl Table {
    fn texts(&self, row: &Row) -> Vec<String> {
        row.cells.iter().zip(&self.columns).map(|(cell, column)| cell.text(column.decimals)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new("demo", "what a packet costs", &[("ns", 0), ("over a bare drop", 2)]);
        table.row("guard", [Cell::Spread(Spread::of(vec![59.0, 60.0, 62.0])), Cell::Number(2.5)]);
        table.row("nothing <at all>", [Cell::Number(21.0), Cell::Nothing]);
        table
    }

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let expected = "what a packet costs\n\
            \x20                           ns  over a bare drop\n\
            \x20 guard             60 (59–62)              2.50\n\
            \x20 nothing <at all>          21                 -\n";
        assert_eq!(table().to_string(), expected);
    }

    #[test]
    fn a_column_can_have_a_name_that_is_not_known_before() {
        let mut table = Table::new("demo", "programs", &[("ns", 0)]);
        table.column(format!("program {}", 42), 1);
        table.row("frame", [Cell::Number(1.0), Cell::Number(2.0)]);
        assert_eq!(table.to_string(), "programs\n         ns  program 42\n  frame   1         2.0\n");
    }

    #[cfg(feature = "plots")]
    #[test]
    fn files_have_all_of_it() {
        let directory = tempfile::tempdir().unwrap();
        table().write(directory.path(), "a machine").unwrap();
        let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
        let json: serde_json::Value = serde_json::from_str(&read("demo.json")).unwrap();
        assert_eq!(json["machine"], "a machine");
        assert_eq!(json["rows"][0]["cells"][0]["median"], 60.0);
        assert!(json["rows"][1]["cells"][1].is_null());
        let svg = read("demo.svg");
        assert!(svg.starts_with("<svg") && svg.contains("nothing &lt;at all&gt;"), "{svg}");
    }
}
