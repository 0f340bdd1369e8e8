//! What all commands print with.

use std::borrow::Cow;
use std::io::{self, ErrorKind, Write};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::plain::{plain, plain_json, plain_lines};

/// Prints text on stdout. A reader that has seen enough (`guard status | head`) is no failure.
pub(super) fn print(text: &str) -> Result<()> {
    print_on(text).map(drop)
}

/// Prints one JSON document.
pub(super) fn print_json(document: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(document).context("cannot write the answer as JSON")?;
    print(&format!("{}\n", plain_json(&text)))
}

/// Prints a part of what goes on and on. Returns whether there still is a reader.
pub(super) fn print_on(text: &str) -> Result<bool> {
    let mut stdout = io::stdout();
    // Names and reasons come from others; a terminal would obey what they hold.
    let text = plain_lines(text);
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("cannot write to stdout"),
    }
}

/// Rows in columns: text to the left, numbers to the right. The first row is the heading.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    // A cell is one line.
    let rows: Vec<Vec<_>> = rows.iter().map(|row| row.iter().map(|cell| plain(cell)).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cells = |column: usize| rows.iter().filter_map(move |row| row.get(column));
    let widths: Vec<usize> = (0..columns)
        .map(|column| cells(column).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let is_number = |cell: &Cow<'_, str>| cell.chars().next().is_some_and(|first| first.is_ascii_digit());
    let numbers: Vec<bool> = (0..columns).map(|column| cells(column).skip(1).all(is_number)).collect();
    let line = |row: &Vec<Cow<'_, str>>| {
        let cells = row.iter().zip(&widths).zip(&numbers).map(|((cell, width), number)| {
            if *number { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        format!("  {}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_to_the_right() {
        let rows = [["reason", "packets"], ["not_allowed", "7"], ["allowed", "1200"]];
        let rows: Vec<Vec<String>> = rows.map(|row| row.map(String::from).to_vec()).to_vec();
        assert_eq!(table(&rows), "  reason       packets\n  not_allowed        7\n  allowed         1200\n");
    }
}
