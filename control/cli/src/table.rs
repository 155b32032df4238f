//! Aligned columns: upper-case names, two spaces between, no borders and no trailing blanks, so
//! that both people and `awk` read them.

use std::io::{self, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde_json::Value;

use crate::arguments::Format;

/// One column.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    name: &'static str,
    alignment: CellAlignment,
    wide: bool,
}

/// A column of words.
pub(crate) const fn text(name: &'static str) -> Column {
    Column {
        name,
        alignment: CellAlignment::Left,
        wide: false,
    }
}

/// A column of numbers.
pub(crate) const fn number(name: &'static str) -> Column {
    Column {
        alignment: CellAlignment::Right,
        ..text(name)
    }
}

impl Column {
    /// The same column, shown only by `-o wide`.
    pub(crate) const fn wide(self) -> Self {
        Self { wide: true, ..self }
    }
}

/// One answer in all its formats. A row has a cell for every column, wide ones included.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) json: Value,
    pub(crate) columns: &'static [Column],
    pub(crate) rows: Vec<Vec<String>>,
}

impl View {
    /// Writes the answer.
    pub(crate) fn write(
        &self,
        format: Format,
        headers: bool,
        output: &mut impl Write,
    ) -> io::Result<()> {
        match format {
            Format::Json => {
                serde_json::to_writer_pretty(&mut *output, &self.json)?;
                writeln!(output)
            }
            Format::Yaml => serde_norway::to_writer(output, &self.json).map_err(io::Error::other),
            Format::Table => self.write_table(false, headers, output),
            Format::Wide => self.write_table(true, headers, output),
        }
    }

    fn write_table(&self, wide: bool, headers: bool, output: &mut impl Write) -> io::Result<()> {
        let shown = |column: &Column| wide || !column.wide;
        let mut table = Table::new();
        table
            .load_style(NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled);
        let columns = self.columns.iter().filter(|column| shown(column));
        if headers {
            table.set_header(columns.clone().map(|column| column.name));
        }
        for row in &self.rows {
            let cells = row.iter().zip(self.columns);
            table.add_row(
                cells
                    .filter(|(_, column)| shown(column))
                    .map(|(cell, _)| cell),
            );
        }
        for (formatted, column) in table.column_iter_mut().zip(columns) {
            formatted.set_padding((0, 2));
            formatted.set_cell_alignment(column.alignment);
        }
        if table.row_count() == 0 && !headers {
            return Ok(());
        }
        for line in table.lines() {
            writeln!(output, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] = &[text("NAME"), number("PACKETS"), text("NOTE").wide()];

    fn view() -> View {
        View {
            json: serde_json::json!([{ "name": "a" }]),
            columns: COLUMNS,
            rows: vec![
                vec!["a".into(), "7".into(), "x".into()],
                vec!["longer".into(), "1234567".into(), String::new()],
            ],
        }
    }

    fn written(format: Format, headers: bool) -> String {
        let mut bytes = Vec::new();
        view().write(format, headers, &mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn columns_align_by_kind() {
        assert_eq!(
            written(Format::Table, true),
            "NAME    PACKETS\n\
             a             7\n\
             longer  1234567\n"
        );
    }

    #[test]
    fn wide_shows_all_and_headers_can_go() {
        assert_eq!(
            written(Format::Wide, false),
            "a             7  x\n\
             longer  1234567\n"
        );
    }

    #[test]
    fn json_and_yaml_are_the_value() {
        let value: Value = serde_json::from_str(&written(Format::Json, true)).unwrap();
        assert_eq!(value, view().json);
        let value: Value = serde_norway::from_str(&written(Format::Yaml, true)).unwrap();
        assert_eq!(value, view().json);
    }
}
