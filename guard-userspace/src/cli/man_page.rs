//! A manual page of a command, whose examples and tables keep their lines.

use std::io::{self, Write};

use clap::Command;
use clap_mangen::Man;
use roff::{Roff, roman};

const EXIT_STATUS: &str = "Exit status: ";

/// Writes the page of a command in section 8.
pub(super) fn render(command: &Command, page: &mut dyn Write) -> io::Result<()> {
    let man = Man::new(command.clone()).section("8");
    let notes = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let (prose, sections) = split(&notes);
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    lines(&prose).to_writer(page)?;
    man.render_options_section(page)?;
    if command.get_subcommands().next().is_some() {
        man.render_subcommands_section(page)?;
    }
    lines(&sections).to_writer(page)?;
    if command.get_version().is_some() {
        man.render_version_section(page)?;
    }
    Ok(())
}

/// The paragraphs that come before the first heading, and the rest.
fn split(notes: &str) -> (Vec<&str>, Vec<&str>) {
    let all: Vec<&str> = notes.lines().collect();
    let first = all.iter().position(|line| heading(line).is_some()).unwrap_or(all.len());
    (all.iter().take(first).copied().collect(), all.iter().skip(first).copied().collect())
}

/// A heading, and the text that follows it in its line.
fn heading(line: &str) -> Option<(&str, &str)> {
    if let Some(text) = line.strip_prefix(EXIT_STATUS) {
        return Some(("Exit status", text));
    }
    let name = line.strip_suffix(':')?;
    (!name.is_empty() && !name.starts_with(' ')).then_some((name, ""))
}

/// Headings become sections, and indented lines are shown as they are.
fn lines(lines: &[&str]) -> Roff {
    let mut roff = Roff::new();
    let mut is_verbatim = false;
    for line in lines {
        if line.starts_with(' ') != is_verbatim && !(line.is_empty() && is_verbatim) {
            is_verbatim = !is_verbatim;
            roff.control(if is_verbatim { "EX" } else { "EE" }, []);
        }
        match heading(line) {
            Some((name, text)) => {
                roff.control("SH", [name.to_uppercase().as_str()]);
                if !text.is_empty() {
                    roff.text([roman(text)]);
                }
            }
            None if line.is_empty() && !is_verbatim => {
                roff.control("PP", []);
            }
            None => {
                roff.text([roman(*line)]);
            }
        }
    }
    if is_verbatim {
        roff.control("EE", []);
    }
    roff
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    /// A terminal of the usual width shows this much of a line.
    const WIDTH: usize = 79;

    fn all_commands() -> Vec<Command> {
        let mut cli = Cli::command();
        cli.build();
        let of_cli: Vec<Command> = cli.get_subcommands().cloned().collect();
        std::iter::once(cli).chain(of_cli).collect()
    }

    #[test]
    fn examples_fit_a_terminal() {
        for command in all_commands() {
            let notes = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in notes.lines().filter(|line| line.starts_with(' ')) {
                let width = line.chars().count();
                assert!(width <= WIDTH, "guard {}: {width} characters: {line}", command.get_name());
            }
        }
    }

    #[test]
    fn a_page_keeps_the_lines_of_examples() {
        for command in all_commands() {
            let mut page = Vec::new();
            render(&command, &mut page).unwrap();
            let page = String::from_utf8(page).unwrap();
            let notes = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let name = command.get_name();
            assert_eq!(page.matches("\n.EX\n").count(), page.matches("\n.EE\n").count(), "{name}: {page}");
            for line in notes.lines().filter(|line| line.starts_with(' ')) {
                let shown = Roff::new().text([roman(line)]).render();
                let shown = shown.lines().last().unwrap_or_default();
                assert!(page.contains(&format!("\n{shown}")), "{name}: {line}\n{page}");
                let before = page.split(shown).next().unwrap_or_default();
                let blocks = before.matches("\n.EX\n").count() - before.matches("\n.EE\n").count();
                assert_eq!(blocks, 1, "{name}: {line}");
            }
            let has_examples = notes.contains("Example");
            assert_eq!(has_examples, page.contains(".SH EXAMPLE"), "{name}: {page}");
        }
    }

    #[test]
    fn what_comes_before_the_examples_belongs_to_the_description() {
        let command = Command::new("x").about("Does x").after_help(
            "First.\n\nSecond.\n\nExamples:\n  x -a\n\n  x 'b'\n\nExit status: 3 if it was not there.",
        );
        let mut page = Vec::new();
        render(&command, &mut page).unwrap();
        let page = String::from_utf8(page).unwrap();
        let order = [
            "Does x",
            "First.",
            ".PP\nSecond.",
            ".SH OPTIONS",
            ".SH EXAMPLES\n.EX",
            "x \\-a",
            ".EE",
            ".SH \"EXIT STATUS\"\n3 if",
        ];
        let mut rest = page.as_str();
        for part in order {
            let Some((_, after)) = rest.split_once(part) else { panic!("{part}: {page}") };
            rest = after;
        }
    }
}
