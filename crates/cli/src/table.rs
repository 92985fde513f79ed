//! Columns for people.

use std::fmt::Write;

/// Lines with every column as wide as its widest cell; the last one is not padded.
pub(crate) fn columns<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    table(head.map(str::to_owned).into(), rows)
}

/// The same of columns that are not known before.
pub(crate) fn table<R: AsRef<[String]>>(head: Vec<String>, rows: &[R]) -> String {
    let mut widths = vec![0; head.len()];
    let lines = || std::iter::once(head.as_slice()).chain(rows.iter().map(AsRef::as_ref));
    for row in lines() {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in lines() {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width + 2 - cell.chars().count()));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Text of others without anything a terminal would obey.
pub(crate) fn on_one_line(text: &str) -> String {
    let mut line = String::new();
    for char in text.chars() {
        // Writing to a string does not fail.
        let _ = if char.is_control() {
            write!(line, "{}", char.escape_default())
        } else {
            write!(line, "{char}")
        };
    }
    line
}

/// Bytes for people: `0`, `512 B`, `3.2 MiB`, `14 GiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let name = UNITS[unit];
    if unit == 0 || value >= 10.0 {
        format!("{value:.0} {name}")
    } else {
        format!("{value:.1} {name}")
    }
}

/// Writes data to standard output. A reader that went away is no failure.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error).context("write to standard output"))
        }
        _ => Ok(()),
    }
}

/// A line of a log as a JSON object on a line of its own, so that one that grows can be read as well.
pub(crate) fn json_line(line: &str) -> anyhow::Result<String> {
    let mut text = serde_json::to_string(&serde_json::json!({ "line": line }))?;
    text.push('\n');
    Ok(text)
}

/// Writes `value` to standard output as JSON.
pub(crate) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    print(&text)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["a".into(), "long cell".into()], ["bb".into(), "x".into()]];
        assert_eq!(columns(["ID", "NAME"], &rows), "ID  NAME\na   long cell\nbb  x\n");
    }

    #[test]
    fn sizes_read_well() {
        let shown = [0, 1023, 1024, 15 << 20, 3_435_973_836].map(bytes);
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "15 MiB", "3.2 GiB"]);
    }
}
