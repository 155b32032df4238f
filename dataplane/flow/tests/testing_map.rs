//! docs/TESTING.md says which test shows which row of the reliability tables. Here the page is
//! held to it: every row is there once, and every test it names exists.
#![expect(clippy::panic, clippy::unwrap_used, reason = "a failed test panics")]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The cells of a table's line.
fn cells(line: &str) -> Option<Vec<&str>> {
    let inside = line.strip_prefix("| ")?.strip_suffix(" |")?;
    Some(inside.split(" | ").map(str::trim).collect())
}

/// Everything a place holds: a file, or the files of a directory.
fn text(place: &Path) -> String {
    if place.is_dir() {
        let files = fs::read_dir(place).unwrap();
        return files.map(|file| text(&file.unwrap().path())).collect();
    }
    fs::read_to_string(place).unwrap_or_else(|error| panic!("{}: {error}", place.display()))
}

/// Whether `source` has a test function of this name.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let start = format!("fn {name}(");
    lines.iter().enumerate().any(|(at, line)| {
        line.starts_with(&start) && {
            let above = lines[..at].iter().rev();
            let mut attributes = above.take_while(|line| {
                line.starts_with("#[") || line.starts_with("//") || line.ends_with(")]")
            });
            attributes.any(|line| *line == "#[test]")
        }
    })
}

/// Whether `source` has data under this row: a literal that names it as a word at its head.
fn has_row(source: &str, row: &str) -> bool {
    source.split('"').skip(1).any(|literal| {
        let mut words = literal.split(|c: char| !c.is_ascii_alphanumeric());
        words
            .by_ref()
            .take_while(|word| is_row(word))
            .any(|word| word == row)
    })
}

fn is_row(word: &str) -> bool {
    word.strip_prefix(['P', 'N'])
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

#[test]
fn every_row_is_shown_by_tests_that_exist() {
    let page = text(&root().join("docs/TESTING.md"));
    let section = page
        .split("\n## ")
        .find(|part| part.starts_with("Bad packets and translation"));
    let tables: Vec<Vec<&str>> = section.unwrap().lines().filter_map(cells).collect();
    let places: HashMap<&str, String> = tables
        .iter()
        .filter(|row| row.len() == 2 && row[1].starts_with('`'))
        .map(|row| (row[0], text(&root().join(row[1].trim_matches('`')))))
        .collect();
    let rows: Vec<&Vec<&str>> = tables
        .iter()
        .filter(|row| row.len() == 4 && is_row(row[0]))
        .collect();

    let packets = (1..=78).map(|n| format!("P{n:02}"));
    let expected: Vec<String> = packets.chain((1..=15).map(|n| format!("N{n}"))).collect();
    let named: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(named, expected, "each row once, in order");

    let mut wrong = Vec::new();
    for row in rows {
        let shown: Vec<&str> = row[3]
            .split(", ")
            .map(|test| test.trim_matches('`'))
            .collect();
        for test in shown {
            let (place, name) = test.split_once('#').unwrap_or((test, ""));
            let found = places.get(place).is_some_and(|source| match is_row(name) {
                true => name == row[0] && has_row(source, name),
                false => has_test(source, name),
            });
            if !found {
                wrong.push(format!("{}: {test}", row[0]));
            }
        }
    }
    assert!(wrong.is_empty(), "named, but not there: {wrong:#?}");
}

/// The check itself can fail.
#[test]
fn what_is_not_there_is_not_found() {
    let source =
        "#[test]\n#[ignore = \"root\"]\nfn shown() {\n}\nfn helper() {}\nrow(\"P02 P15 text\");";
    assert!(has_test(source, "shown"));
    assert!(!has_test(source, "helper"));
    assert!(!has_test(source, "show"));
    assert!(has_row(source, "P02") && has_row(source, "P15"));
    assert!(!has_row(source, "P1") && !has_row(source, "P16"));
}
