//! What was measured: one table to read, and one file to compare with (design: targets.md, `latest.json`).

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::stats::Runs;

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The target that it belongs to, such as `P1`.
    pub id: String,
    /// What was measured.
    pub what: String,
    /// Median of the runs, in `unit`.
    pub value: f64,
    /// Unit of value, baseline, min and max.
    pub unit: String,
    /// Median of what it is compared with, in `unit`.
    pub baseline: Option<f64>,
    /// The comparison, the better the larger or the smaller, as the target says.
    pub ratio: Option<f64>,
    /// The target in words, such as `ratio >= 0.43`.
    pub target: Option<String>,
    /// Whether it is met; nothing where there is no target.
    pub ok: Option<bool>,
    /// Runs.
    pub runs: usize,
    /// The smallest value.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

/// What a figure is held to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// The ratio is at least this.
    RatioAtLeast(f64),
    /// The ratio is at most this.
    RatioAtMost(f64),
    /// The value is at most this.
    ValueAtMost(f64),
}

impl Row {
    /// A figure that is compared with nothing.
    pub fn new(id: &str, what: impl Into<String>, unit: &str, runs: &Runs) -> Self {
        Self {
            id: id.to_owned(),
            what: what.into(),
            value: runs.median(),
            unit: unit.to_owned(),
            baseline: None,
            ratio: None,
            target: None,
            ok: None,
            runs: runs.count(),
            min: runs.min(),
            max: runs.max(),
        }
    }

    /// The same, compared.
    pub fn against(self, baseline: f64, ratio: f64) -> Self {
        Self { baseline: Some(baseline), ratio: Some(ratio), ..self }
    }

    /// The same, held to a target.
    pub fn held_to(self, target: Target) -> Self {
        let (text, ok) = match target {
            Target::RatioAtLeast(least) => {
                (format!("ratio >= {least}"), self.ratio.map(|ratio| ratio >= least))
            }
            Target::RatioAtMost(most) => (format!("ratio <= {most}"), self.ratio.map(|ratio| ratio <= most)),
            Target::ValueAtMost(most) => (format!("value <= {most}"), Some(self.value <= most)),
        };
        Self { target: Some(text), ok, ..self }
    }
}

/// The table.
pub fn table(rows: &[Row]) -> String {
    let head = ["id", "what", "value", "unit", "baseline", "ratio", "target", "ok", "min", "max"];
    let mut lines = vec![head.map(str::to_owned)];
    for row in rows {
        let optional = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), number);
        lines.push([
            row.id.clone(),
            row.what.clone(),
            number(row.value),
            row.unit.clone(),
            optional(row.baseline),
            optional(row.ratio),
            row.target.clone().unwrap_or_else(|| "-".to_owned()),
            row.ok.map_or("-", |ok| if ok { "ok" } else { "short" }).to_owned(),
            number(row.min),
            number(row.max),
        ]);
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 10] = std::array::from_fn(width);
    let mut text = String::new();
    for line in &lines {
        for (place, (cell, width)) in line.iter().zip(widths).enumerate() {
            let is_number = matches!(place, 2 | 4 | 5 | 8 | 9);
            // Writing to a String cannot fail.
            let _ =
                if is_number { write!(text, "{cell:>width$}  ") } else { write!(text, "{cell:<width$}  ") };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// Three significant figures, more of large whole numbers.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || size == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// Writes the figures to `folder`: `latest.json`, and `latest.txt` with the same as a table. Figures of other targets that
/// are there already stay, so that a part can be measured anew.
///
/// # Errors
/// When a file cannot be read, understood or written.
pub fn write(folder: &Path, machine: &str, rows: &[Row]) -> anyhow::Result<()> {
    let path = &folder.join("latest.json");
    let known: Vec<Row> = match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text)
            .with_context(|| format!("{} holds no results: remove it and measure again", path.display()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let merged = merge(known, rows);
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let words = folder.join("latest.txt");
    std::fs::write(&words, format!("last measured on {machine}\n\n{}", table(&merged)))
        .with_context(|| format!("writing {}", words.display()))?;
    // A row a line: figures of two runs can be compared with diff.
    let lines: Vec<String> = merged.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
    let text = format!("[\n{}\n]\n", lines.join(",\n"));
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

fn merge(known: Vec<Row>, rows: &[Row]) -> Vec<Row> {
    let is_new = |row: &Row| rows.iter().any(|new| new.id == row.id);
    let mut merged: Vec<Row> =
        known.into_iter().filter(|row| !is_new(row)).chain(rows.iter().cloned()).collect();
    merged.sort_by(|a, b| a.id.cmp(&b.id));
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, values: &[f64]) -> Row {
        Row::new(id, "packets", "Mpps", &Runs::new(values.to_vec()).expect("runs"))
    }

    #[test]
    fn a_target_is_met_or_missed_and_said_so() {
        let compared = row("P1", &[25.0, 27.0, 26.0]).against(60.0, 0.433);
        assert_eq!(compared.clone().held_to(Target::RatioAtLeast(0.43)).ok, Some(true));
        assert_eq!(compared.clone().held_to(Target::RatioAtLeast(0.55)).ok, Some(false));
        assert_eq!(compared.clone().held_to(Target::ValueAtMost(26.0)).ok, Some(true));
        let short = compared.held_to(Target::RatioAtMost(0.4));
        let text = table(&[short]);
        assert!(text.contains("26.0  Mpps      60.0   0.43  ratio <= 0.4  short  25.0  27.0"), "{text}");
        assert_eq!(row("P1", &[1.0]).held_to(Target::RatioAtLeast(1.0)).ok, None, "nothing to compare with");
    }

    #[test]
    fn a_measured_target_replaces_its_old_figures_and_no_others() {
        let known = vec![row("P1", &[1.0]), row("P2", &[2.0]), row("P7", &[7.0])];
        let merged = merge(known, &[row("P2", &[3.0]), row("P2", &[4.0])]);
        let figures: Vec<(&str, f64)> = merged.iter().map(|row| (row.id.as_str(), row.value)).collect();
        assert_eq!(figures, [("P1", 1.0), ("P2", 3.0), ("P2", 4.0), ("P7", 7.0)]);
    }

    #[test]
    fn what_is_written_can_be_read_and_written_again() {
        let folder = std::env::temp_dir().join(format!("ipos-bench-report-{}", std::process::id()));
        write(&folder, "a machine", &[row("P1", &[1.0])]).expect("a new folder");
        write(&folder, "a machine", &[row("P3", &[2.0])]).expect("a known folder");
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect("a file");
        let rows: Vec<Row> = serde_json::from_str(&read("latest.json")).expect("rows");
        assert_eq!(rows, [row("P1", &[1.0]), row("P3", &[2.0])]);
        assert!(read("latest.txt").starts_with("last measured on a machine"));
        std::fs::write(folder.join("latest.json"), "[1]").expect("a file");
        let error = write(&folder, "a machine", &[]).expect_err("no rows").to_string();
        assert!(error.contains("holds no results"), "{error}");
        std::fs::remove_dir_all(&folder).expect("a folder of this test");
    }

    #[test]
    fn what_is_written_has_exactly_the_fields_of_the_design() {
        let json = serde_json::to_value(row("P1", &[1.0])).expect("a row");
        let mut fields: Vec<&str> = json.as_object().expect("an object").keys().map(String::as_str).collect();
        fields.sort_unstable();
        let mut wanted =
            ["id", "what", "value", "unit", "baseline", "ratio", "target", "ok", "runs", "min", "max"];
        wanted.sort_unstable();
        assert_eq!(fields, wanted);
    }
}
