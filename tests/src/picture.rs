//! A screen of a terminal as a picture (SVG): text on a grid, with the colours that the terminal was told.

use std::fmt::Write as _;

/// Of a letter, in pixels.
const WIDTH: f64 = 8.4;
const HEIGHT: f64 = 18.0;
const MARGIN: f64 = 14.0;
const BACKGROUND: &str = "#16181d";
const TEXT: &str = "#d6d9df";
/// The eight of the terminal, by their numbers.
const COLOURS: [&str; 8] =
    ["#5c6370", "#ef6b73", "#8cc570", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#d6d9df"];

/// How a piece of text looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Look {
    colour: Option<usize>,
    is_bold: bool,
    is_underlined: bool,
    is_reversed: bool,
}

impl Look {
    /// Changes it as `ESC [ numbers m` says (ECMA-48, SGR); what is not shown here is left out.
    fn change(&mut self, numbers: &str) {
        for number in numbers.split(';').map(|number| number.parse().unwrap_or(0_usize)) {
            match number {
                0 => *self = Self::default(),
                1 => self.is_bold = true,
                4 => self.is_underlined = true,
                7 => self.is_reversed = true,
                22 => self.is_bold = false,
                24 => self.is_underlined = false,
                27 => self.is_reversed = false,
                30..=37 => self.colour = Some(number - 30),
                39 => self.colour = None,
                90..=97 => self.colour = Some(number - 90),
                _ => {}
            }
        }
    }
}

/// The picture of a screen of so many columns and lines, as `tmux capture-pane -e` tells it.
pub fn of_screen(screen: &str, (columns, lines): (u16, u16)) -> String {
    let (width, height) =
        (f64::from(columns) * WIDTH + 2.0 * MARGIN, f64::from(lines) * HEIGHT + 2.0 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace\" font-size=\"14\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"{BACKGROUND}\"/>\n"
    );
    let mut look = Look::default();
    for (row, line) in screen.lines().enumerate() {
        let top = MARGIN + row as f64 * HEIGHT;
        let mut column = 0;
        for (piece, its_look) in pieces(line, &mut look) {
            let letters = piece.chars().count();
            let left = MARGIN + f64::from(column) * WIDTH;
            column += u32::try_from(letters).unwrap_or(u32::MAX);
            write_piece(&mut svg, &piece, its_look, (left, top), letters as f64 * WIDTH);
        }
    }
    svg + "</svg>\n"
}

/// The pieces of a line that look the same.
fn pieces(line: &str, look: &mut Look) -> Vec<(String, Look)> {
    let mut pieces = Vec::new();
    let mut parts = line.split("\u{1b}[");
    let first = parts.next().unwrap_or_default();
    pieces.push((first.to_owned(), *look));
    for part in parts {
        let (numbers, text) = part.split_once('m').unwrap_or((part, ""));
        look.change(numbers);
        pieces.push((text.to_owned(), *look));
    }
    pieces.retain(|(text, _)| !text.is_empty());
    pieces
}

fn write_piece(svg: &mut String, text: &str, look: Look, (left, top): (f64, f64), length: f64) {
    let ink = look.colour.and_then(|colour| COLOURS.get(colour).copied()).unwrap_or(TEXT);
    let ink = if look.is_reversed {
        // Writing to a string cannot fail.
        let _ = writeln!(
            svg,
            "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{length:.1}\" height=\"{HEIGHT}\" fill=\"{ink}\"/>"
        );
        BACKGROUND
    } else {
        ink
    };
    if text.trim().is_empty() && !look.is_underlined {
        return;
    }
    let bold = if look.is_bold { " font-weight=\"bold\"" } else { "" };
    let line = if look.is_underlined { " text-decoration=\"underline\"" } else { "" };
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    // The length keeps the grid, whatever the reader's font.
    let _ = writeln!(
        svg,
        "<text x=\"{left:.1}\" y=\"{:.1}\" textLength=\"{length:.1}\" fill=\"{ink}\"{bold}{line} xml:space=\"preserve\">{escaped}</text>",
        top + HEIGHT - 5.0
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_have_their_looks() {
        let mut look = Look::default();
        let found = pieces("a\u{1b}[1;31mb\u{1b}[0m<c", &mut look);
        let red = Look { colour: Some(1), is_bold: true, ..Look::default() };
        assert_eq!(found, [("a".into(), Look::default()), ("b".into(), red), ("<c".into(), Look::default())]);
        let svg = of_screen("a\u{1b}[7mb\u{1b}[0m<c", (80, 24));
        assert!(svg.contains("&lt;c</text>") && svg.contains(&format!("fill=\"{BACKGROUND}\"")), "{svg}");
    }
}
