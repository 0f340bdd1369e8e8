//! What the terminal can show.

use std::env;

use ratatui::style::{Color, Style as Look};

/// From nothing to all of the height.
pub(super) type Bars = [&'static str; 9];

pub(super) const BARS: Bars = [" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];
/// For terminals that have no others.
pub(super) const PLAIN_BARS: Bars = [" ", ".", ".", ":", "-", "=", "+", "*", "#"];

/// What the terminal can show.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    colours: bool,
    pub(super) bars: Bars,
}

impl Style {
    pub(super) fn of_environment() -> Self {
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .iter()
            .find_map(|name| env::var(name).ok().filter(|value| !value.is_empty()));
        let is_utf8 = locale.is_some_and(|locale| locale.to_uppercase().replace('-', "").contains("UTF8"));
        Self {
            colours: env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            bars: if is_utf8 { BARS } else { PLAIN_BARS },
        }
    }

    #[cfg(test)]
    pub(super) const fn plain() -> Self {
        Self { colours: false, bars: PLAIN_BARS }
    }

    pub(super) const fn coloured(self, colour: Color) -> Look {
        if self.colours { Look::new().fg(colour) } else { Look::new() }
    }
}
