//! Tables of verdicts, as text: a line with `from` and the destinations, then a line for each source.
//!
//! ```text
//!     from   x/a  x/b  node-a
//!     x/a    A    A    A        A: allowed, D: denied, .: not asked
//!     y/c    D    A    .
//! ```

use anyhow::{Context, Result, bail, ensure};

/// What the first line begins with: all lines have one indentation then, as YAML wants it.
const CORNER: &str = "from";

/// One cell that is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// The row's name.
    pub from: String,
    /// The column's.
    pub to: String,
    /// What must become of it.
    pub allowed: bool,
}

/// Reads a table.
///
/// # Errors
/// With the line and what is wrong with it: a letter that is none, too many or few of them, a name twice, nothing asked.
pub fn parse(text: &str) -> Result<Vec<Cell>> {
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let (_, head) = lines.next().context("is empty")?;
    let mut words = head.split_whitespace();
    ensure!(words.next() == Some(CORNER), "line 1: does not begin with {CORNER:?} and the destinations");
    let columns: Vec<&str> = words.collect();
    once(&columns).context("line 1")?;
    let mut cells = Vec::new();
    let mut rows = Vec::new();
    for (index, line) in lines {
        let mut words = line.split_whitespace();
        let from = words.next().unwrap_or_default();
        rows.push(from);
        let row = row(from, &columns, &words.collect::<Vec<_>>());
        cells.extend(row.with_context(|| format!("line {}, {from}", index + 1))?);
    }
    once(&rows)?;
    ensure!(!cells.is_empty(), "asks nothing");
    Ok(cells)
}

fn row(from: &str, columns: &[&str], letters: &[&str]) -> Result<Vec<Cell>> {
    ensure!(letters.len() == columns.len(), "{} verdicts for {} columns", letters.len(), columns.len());
    let mut cells = Vec::new();
    for (to, letter) in columns.iter().zip(letters) {
        let allowed = match *letter {
            "A" => true,
            "D" => false,
            "." => continue,
            other => bail!("{other:?} is not A (allowed), D (denied) or . (not asked)"),
        };
        cells.push(Cell { from: from.to_owned(), to: (*to).to_owned(), allowed });
    }
    Ok(cells)
}

fn once(names: &[&str]) -> Result<()> {
    for (index, name) in names.iter().enumerate() {
        ensure!(!names.iter().take(index).any(|other| other == name), "{name} is there twice");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_its_cells() {
        let cells = parse(" from x/a  b\n\n x/a   A  D\n b     .  A\n").unwrap();
        let told: Vec<_> =
            cells.iter().map(|c| format!("{} {} {}", c.from, c.to, u8::from(c.allowed))).collect();
        assert_eq!(told, ["x/a x/a 1", "x/a b 0", "b b 1"]);
    }

    #[test]
    fn what_is_no_table_is_refused_with_its_line() {
        let rows = [
            ("", "is empty"),
            ("a b\nc A A", "line 1: does not begin with \"from\" and the destinations"),
            ("from a b", "asks nothing"),
            ("from a b\nc . .", "asks nothing"),
            ("from a b a\nc A A A", "line 1: a is there twice"),
            ("from a b\nc A", "line 2, c: 1 verdicts for 2 columns"),
            ("from a b\nc A D\nd A x", "line 3, d: \"x\" is not A (allowed), D (denied) or . (not asked)"),
            ("from a\nc A\nc D", "c is there twice"),
        ];
        for (text, expected) in rows {
            assert_eq!(format!("{:#}", parse(text).unwrap_err()), expected, "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "[ADx.\n /ab]{0,60}") {
            let _ = parse(&text);
            let _ = parse(&format!("from {text}"));
        }
    }
}
