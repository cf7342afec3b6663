//! Tables for people. Knows columns and widths, and nothing of keys.

use std::io::{self, Write};

/// Prints rows under their headings, in columns as wide as their widest cell.
///
/// # Errors
/// Those of `out`.
pub(super) fn rows<const N: usize>(out: &mut impl Write, headings: [&str; N], rows: &[[String; N]]) -> io::Result<()> {
    let mut widths = headings.map(width);
    for row in rows {
        for (widest, cell) in widths.iter_mut().zip(row) {
            *widest = width(cell).max(*widest);
        }
    }
    line(out, &widths, headings)?;
    rows.iter().try_for_each(|row| line(out, &widths, row.each_ref().map(String::as_str)))
}

/// Prints one thing: a line for each of its fields.
///
/// # Errors
/// Those of `out`.
pub(super) fn fields(out: &mut impl Write, fields: &[(&str, String)]) -> io::Result<()> {
    let widest = fields.iter().map(|(name, _)| width(name)).max().unwrap_or(0);
    fields.iter().try_for_each(|(name, value)| writeln!(out, "{name:widest$}  {}", printable(value)))
}

fn line<const N: usize>(out: &mut impl Write, widths: &[usize; N], cells: [&str; N]) -> io::Result<()> {
    let padded: Vec<String> =
        cells.iter().zip(widths).map(|(cell, width)| format!("{:width$}", printable(cell))).collect();
    writeln!(out, "{}", padded.join("  ").trim_end())
}

/// A server that lies must not be able to steer the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_steer_no_terminal() {
        let mut out = Vec::new();
        let table = [["é\u{1b}[2J".to_owned(), "1".to_owned()], ["ab".to_owned(), String::new()]];
        rows(&mut out, ["NAME", "N"], &table).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "NAME   N\né\u{fffd}[2J  1\nab\n");
    }
}
