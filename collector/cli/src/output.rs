//! Results on standard output: tables for people, JSON for programs.

use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table};
use serde_json::Value;

use crate::args::Format;
use crate::failure::Failure;

pub(crate) struct Output {
    format: Format,
    wide: bool,
    terminal: bool,
}

impl Output {
    pub(crate) fn new(format: Format, wide: bool) -> Self {
        Self {
            format,
            wide,
            terminal: io::stdout().is_terminal(),
        }
    }

    /// Whether the answer is wanted as JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// A line cut to the width of the terminal; whole where there is none, or where it is wanted.
    pub(crate) fn cut(&self, line: String) -> String {
        let fit = self.terminal && !self.wide && !self.is_json();
        match Table::new().width().filter(|_| fit) {
            Some(width) => shorten(line, usize::from(width)),
            None => line,
        }
    }

    /// Whether every column is wanted.
    pub(crate) fn is_wide(&self) -> bool {
        self.wide
    }

    pub(crate) fn line(&self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        writeln!(out, "{text}")?;
        Ok(out.flush()?)
    }

    pub(crate) fn text(&self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }

    pub(crate) fn json(&self, value: &Value) -> Result<(), Failure> {
        let text = if self.terminal {
            serde_json::to_string_pretty(value)
        } else {
            serde_json::to_string(value)
        };
        self.line(&text.map_err(|error| Failure::other(error.to_string()))?)
    }

    /// A table; `none` is said when it has no rows.
    pub(crate) fn table(&self, header: &[&str], rows: Vec<Vec<String>>, none: &str) -> Result<(), Failure> {
        if rows.is_empty() {
            return self.line(none);
        }
        self.line(&self.drawn(header, rows))
    }

    /// A table as text, each line moved to the right.
    pub(crate) fn indented(&self, header: &[&str], rows: Vec<Vec<String>>, by: usize) -> String {
        let indent = " ".repeat(by);
        let lines = self.drawn(header, rows);
        lines
            .lines()
            .map(|line| format!("{indent}{line}"))
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn drawn(&self, header: &[&str], rows: Vec<Vec<String>>) -> String {
        let mut table = Table::new();
        table.load_preset(NOTHING);
        // Cut to the terminal only where there is one: a script gets whole values.
        let fit = self.terminal && !self.wide;
        table.set_content_arrangement(if fit {
            ContentArrangement::Dynamic
        } else {
            ContentArrangement::Disabled
        });
        if !header.is_empty() {
            table.set_header(
                header
                    .iter()
                    .map(|name| Cell::new(name).add_attribute(Attribute::Bold)),
            );
        }
        for row in rows {
            table.add_row(row.into_iter().map(|text| self.cell(&text)));
        }
        if let Some(first) = table.column_mut(0) {
            first.set_padding((0, 1));
        }
        let lines = table.to_string();
        lines.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
    }

    fn cell(&self, text: &str) -> Cell {
        let plain = clean(text);
        let cell = Cell::new(&plain);
        if !self.terminal {
            return cell;
        }
        match plain.as_str() {
            "REAL" | "up" | "healed" | "connected" | "resolved" | "delivered" => cell.fg(Color::Green),
            "DEGRADED" | "medium" | "waiting" | "pending" | "under_way" | "would_act" => {
                cell.fg(Color::Yellow)
            }
            "BROKEN" | "down" | "critical" | "high" | "firing" | "failed-safe" | "given_up" | "revoked"
            | "expired" => cell.fg(Color::Red),
            _ => cell,
        }
    }
}

/// Text without what could move the cursor or change colours: much of it was chosen by processes of the hosts.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|char| {
            if char.is_control() && char != '\n' {
                '\u{fffd}'
            } else {
                char
            }
        })
        .collect()
}

/// At most so many characters; the last says that more was there.
fn shorten(line: String, width: usize) -> String {
    if line.chars().count() <= width {
        return line;
    }
    let mut short: String = line.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// Says what went wrong, on standard error.
pub(crate) fn complain(text: &impl std::fmt::Display) {
    // Where standard error is closed there is nobody to tell.
    if writeln!(io::stderr(), "fleetmend: {}", clean(&text.to_string())).is_err() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_long_ends_with_an_ellipsis() {
        assert_eq!(shorten("four".to_owned(), 4), "four");
        assert_eq!(shorten("fünf!".to_owned(), 4), "fün…");
        assert_eq!(shorten("any".to_owned(), 0), "…");
    }
}
