//! A table as files: as JSON, and a column of it as horizontal bars, the median with a line from quartile to quartile.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;
use serde::Serialize;

use super::{Cell, Table};

/// In pixels.
const WIDTH: u32 = 900;
const BAR: u32 = 26;
const AROUND: u32 = 110;
const LETTER: f64 = 7.5;
const FONT: &str = "sans-serif";
const COLOUR: RGBColor = RGBColor(97, 175, 239);

impl Table {
    /// Writes `NAME.json`, which has the machine as well, and `NAME.svg`.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write(&self, directory: &Path, machine: &str) -> Result<()> {
        #[derive(Serialize)]
        struct Document<'a> {
            machine: &'a str,
            #[serde(flatten)]
            table: &'a Table,
        }
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let file = directory.join(format!("{}.json", self.name));
        let text = serde_json::to_string_pretty(&Document { machine, table: self })?;
        fs::write(&file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
        let file = directory.join(format!("{}.svg", self.name));
        fs::write(&file, svg(self)?).with_context(|| format!("cannot write {}", file.display()))
    }
}

/// # Errors
/// When nothing can be drawn: a table without rows.
fn svg(table: &Table) -> Result<String> {
    let bars =
        table.rows.iter().filter_map(|row| Some((row.name.as_str(), range(row.cells.get(table.plotted)?)?)));
    let bars: Vec<(&str, [f64; 3])> = bars.collect();
    let mut svg = String::new();
    draw(table, &bars, &mut svg).map_err(|error| anyhow!("cannot draw {}: {error}", table.name))?;
    Ok(svg)
}

/// The lower quartile, the median and the upper quartile.
fn range(cell: &Cell) -> Option<[f64; 3]> {
    match cell {
        Cell::Nothing => None,
        Cell::Number(number) => Some([*number; 3]),
        Cell::Spread(spread) => Some([spread.lower_quartile, spread.median, spread.upper_quartile]),
    }
}

fn draw(
    table: &Table,
    bars: &[(&str, [f64; 3])],
    svg: &mut String,
) -> Result<(), Box<dyn std::error::Error>> {
    let count = bars.len();
    let height = AROUND + BAR * u32::try_from(count)?;
    let most = bars.iter().map(|(_, [_, _, upper])| *upper).fold(0.0, f64::max);
    let letters = bars.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    let unit = table.columns.get(table.plotted).map_or("", |column| column.name.as_str());
    let area = SVGBackend::with_string(svg, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(&table.title, (FONT, 15))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size((letters as f64 * LETTER) as u32)
        .build_cartesian_2d(0.0..(most * 1.08).max(f64::MIN_POSITIVE), -0.5..count as f64 - 0.5)?;
    // From the top down, as the rows of the table.
    let name = |place: &f64| {
        let number = count.checked_sub(1 + place.round().max(0.0) as usize);
        let is_bar = (place - place.round()).abs() < 0.01;
        number
            .filter(|_| is_bar)
            .and_then(|number| bars.get(number))
            .map_or(String::new(), |(name, _)| (*name).into())
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(2 * count + 1)
        .y_label_formatter(&name)
        .x_desc(unit)
        .label_style((FONT, 13))
        .draw()?;
    for (number, (_, [lower, median, upper])) in bars.iter().enumerate() {
        let place = (count - 1 - number) as f64;
        let bar = Rectangle::new([(0.0, place - 0.32), (*median, place + 0.32)], COLOUR.filled());
        let line = PathElement::new(vec![(*lower, place), (*upper, place)], BLACK);
        chart.draw_series([bar])?;
        chart.draw_series([line])?;
    }
    area.present()?;
    Ok(())
}
