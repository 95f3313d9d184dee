//! The results as text, and the machine.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

use crate::results::{CellResult, Results, median};
use crate::targets;

/// Columns, in this order, where there is something to show.
const ENGINES: [&str; 8] = [
    "kissdb", "compare", "lmdb", "tokyo", "tdb", "gdbm", "sqlite", "bare",
];

/// Rows, in this order; others come last.
const FIGURES: [&str; 39] = [
    "get",
    "bare-read-dependent",
    "bare-read",
    "absent",
    "once",
    "bare-store-once",
    "repeat",
    "bare-store-repeat",
    "new",
    "bare-write-new",
    "bare-store-new",
    "delete",
    "put-deleted",
    "iterate",
    "bare-iterate",
    "iterate-values",
    "bare-iterate-values",
    "open",
    "open-first-get",
    "close-unchanged",
    "open-crashed",
    "open-crashed-lost-keys",
    "close-changed",
    "bare-store-sync",
    "bare-write-sync",
    "together-1-processes",
    "together-2-processes",
    "together-4-processes",
    "together-2-threads",
    "durable",
    "bare-store-durable",
    "durable-syncs",
    "durable-device-flushes",
    "memory-open",
    "memory-resident",
    "memory-file",
    "memory-heap",
    "memory-beside",
    "file-bytes",
];

pub fn text(results: &Results) -> String {
    let mut out = String::new();
    for cell in &results.cells {
        table(&mut out, cell);
        judge(&mut out, results, cell);
    }
    out
}

/// Rows of figures, columns of engines, in Markdown.
fn table(out: &mut String, cell: &CellResult) {
    let engines: Vec<&str> = ENGINES
        .into_iter()
        .filter(|engine| cell.figures.values().any(|row| row.contains_key(*engine)))
        .collect();
    let mut rows = vec![vec!["".to_string()]];
    rows[0].extend(engines.iter().map(|engine| engine.to_string()));
    rows[0].push("/ best peer".into());
    let place = |figure: &str| {
        FIGURES
            .iter()
            .position(|known| *known == figure)
            .unwrap_or(FIGURES.len())
    };
    let mut figures: Vec<_> = cell.figures.iter().collect();
    figures.sort_by_key(|(figure, _)| place(figure));
    for (figure, series) in figures {
        let mut row = vec![figure.clone()];
        for engine in &engines {
            row.push(
                series
                    .get(*engine)
                    .map_or(String::new(), |series| shown(figure, series.median())),
            );
        }
        let ratio = cell
            .best_peer(figure)
            .and_then(|(_, best)| Some(cell.median(figure, "kissdb")? / best))
            .filter(|ratio| ratio.is_finite());
        row.push(ratio.map_or(String::new(), |ratio| format!("{ratio:.2}")));
        rows.push(row);
        for (what, pick) in [("syncs", true), ("bytes", false)] {
            let medians: Vec<f64> = engines
                .iter()
                .map(|engine| {
                    series.get(*engine).map_or(0.0, |series| {
                        median(if pick { &series.syncs } else { &series.bytes })
                    })
                })
                .collect();
            if medians.iter().any(|&median| median > 0.0) {
                let mut row = vec![format!("  {what} an operation")];
                row.extend(medians.iter().map(|&median| match median {
                    none if none.is_nan() || none == 0.0 => String::new(),
                    few if few < 100.0 => format!("{few:.3}"),
                    many => format!("{many:.0}"),
                }));
                row.push(String::new());
                rows.push(row);
            }
        }
    }
    let _ = writeln!(out, "\n{}\n", cell.shape.title());
    aligned(out, &rows);
    for failure in &cell.failures {
        let _ = writeln!(out, "failed: {failure}");
    }
}

fn judge(out: &mut String, results: &Results, cell: &CellResult) {
    let mut rows = verdict_rows(results, cell);
    if rows.is_empty() {
        return;
    }
    rows.insert(0, VERDICT.map(String::from).to_vec());
    let _ = writeln!(out);
    aligned(out, &rows);
}

/// Of the rows below.
const VERDICT: [&str; 7] = [
    "target",
    "limit is",
    "limit",
    "ours",
    "quickest round",
    "ours / limit",
    "",
];

fn verdict_rows(results: &Results, cell: &CellResult) -> Vec<Vec<String>> {
    targets::verdicts(results, cell)
        .iter()
        .map(|verdict| {
            vec![
                verdict.figure.into(),
                verdict.rule.clone(),
                shown(verdict.figure, verdict.limit),
                shown(verdict.figure, verdict.ours),
                match verdict.quickest {
                    Some(quickest) => shown(verdict.figure, quickest),
                    None => String::new(),
                },
                if verdict.limit > 0.0 {
                    format!("{:.2}", verdict.ours / verdict.limit)
                } else {
                    String::new()
                },
                if verdict.passed() {
                    "reached"
                } else {
                    "MISSED"
                }
                .into(),
            ]
        })
        .collect()
}

/// A figure of ours, and what the machine takes for the same bytes.
const LIMITS: [(&str, &str); 8] = [
    ("get", "bare-read-dependent"),
    ("once", "bare-store-once"),
    ("repeat", "bare-store-repeat"),
    ("new", "bare-write-new"),
    ("iterate", "bare-iterate"),
    ("iterate-values", "bare-iterate-values"),
    ("close-changed", "bare-store-sync"),
    ("durable", "bare-store-durable"),
];

fn distances(out: &mut String, results: &Results) {
    let mut rows = vec![
        [
            "database",
            "figure",
            "bare loop",
            "takes",
            "ours",
            "ours / bare",
        ]
        .map(String::from)
        .to_vec(),
    ];
    for cell in &results.cells {
        for (figure, bare) in LIMITS {
            if let (Some(limit), Some(ours)) = (cell.bare(bare), cell.median(figure, "kissdb")) {
                rows.push(vec![
                    cell.shape.title(),
                    figure.into(),
                    bare.into(),
                    shown(bare, limit),
                    shown(figure, ours),
                    format!("{:.1}", ours / limit),
                ]);
            }
        }
    }
    aligned(out, &rows);
}

const BEGIN: &str = "<!-- measured: begin -->";
const END: &str = "<!-- measured: end -->";

/// A document with everything between its two marks made anew from the results.
pub fn document(results: &Results, text: &str) -> Option<String> {
    let (head, rest) = text.split_once(BEGIN)?;
    let (_, tail) = rest.split_once(END)?;
    let mut out = format!("{head}{BEGIN}\n\n## The run\n\n");
    let mut rows = vec![["", ""].map(String::from).to_vec()];
    let pairs = |map: &BTreeMap<String, String>| -> Vec<Vec<String>> {
        map.iter()
            .map(|(name, value)| vec![name.clone(), value.clone()])
            .collect()
    };
    rows.extend(pairs(&results.machine));
    rows.extend(pairs(&results.engines));
    rows.push(vec![
        "rounds".into(),
        format!("{}, medians are shown", results.rounds),
    ]);
    aligned(&mut out, &rows);
    let _ = writeln!(out, "\n## Targets\n");
    let head = ["database"].into_iter().chain(VERDICT);
    let mut rows = vec![head.map(String::from).collect::<Vec<_>>()];
    for cell in &results.cells {
        let medium = cell
            .shape
            .title()
            .split(" of ")
            .next()
            .unwrap_or_default()
            .to_string();
        for mut row in verdict_rows(results, cell) {
            row.insert(0, medium.clone());
            rows.push(row);
        }
    }
    aligned(&mut out, &rows);
    let _ = writeln!(out, "\n## Distance from the limit\n");
    distances(&mut out, results);
    let _ = writeln!(out, "\n## All figures");
    for cell in &results.cells {
        let _ = write!(out, "\n###");
        let mut one = String::new();
        table(&mut one, cell);
        let _ = write!(out, " {}", one.trim_start());
    }
    let _ = write!(out, "\n{END}{tail}");
    Some(out)
}

fn aligned(out: &mut String, rows: &[Vec<String>]) {
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|text| text.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    for (number, row) in rows.iter().enumerate() {
        for (column, text) in row.iter().enumerate() {
            let width = widths[column];
            let _ = if column == 0 {
                write!(out, "| {text:width$} ")
            } else {
                write!(out, "| {text:>width$} ")
            };
        }
        let _ = writeln!(out, "|");
        if number == 0 {
            for (column, width) in widths.iter().enumerate() {
                let _ = match column {
                    0 => write!(out, "|{:-<width$}", "", width = width + 2),
                    _ => write!(out, "|{:->width$}:", "", width = width + 1),
                };
            }
            let _ = writeln!(out, "|");
        }
    }
}

/// A figure with its unit.
pub fn shown(figure: &str, value: f64) -> String {
    if figure.ends_with("keys") {
        return format!("{value:.0}");
    }
    if figure.ends_with("flushes") || figure.ends_with("syncs") {
        return format!("{value:.3}");
    }
    if figure.starts_with("memory") || figure.ends_with("bytes") {
        return match value {
            large if large >= 10e6 => format!("{:.0} MB", large / 1e6),
            small if small >= 1e6 => format!("{:.1} MB", small / 1e6),
            small => format!("{:.0} KB", small / 1e3),
        };
    }
    match value {
        large if large >= 1e7 => format!("{:.1} ms", large / 1e6),
        large if large >= 1e6 => format!("{:.2} ms", large / 1e6),
        large if large >= 1e4 => format!("{:.1} us", large / 1e3),
        small if small >= 100.0 => format!("{small:.0} ns"),
        small => format!("{small:.1} ns"),
    }
}

/// What a reader of figures wants to know about the machine.
pub fn machine() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut note = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            found.insert(name.to_string(), value.trim().to_string());
        }
    };
    let line = |file: &str, name: &str| {
        let text = fs::read_to_string(file).ok()?;
        let line = text
            .lines()
            .find(|line| line.starts_with(name))?
            .to_string();
        Some(
            line.split_once([':', '='])?
                .1
                .trim_matches(['"', ' ', '\t'])
                .to_string(),
        )
    };
    note("processor", line("/proc/cpuinfo", "model name"));
    note(
        "cores",
        std::thread::available_parallelism()
            .ok()
            .map(|many| many.to_string()),
    );
    note("memory", line("/proc/meminfo", "MemTotal"));
    note(
        "kernel",
        fs::read_to_string("/proc/sys/kernel/osrelease").ok(),
    );
    note("system", line("/etc/os-release", "PRETTY_NAME"));
    let revision = std::process::Command::new("git")
        .args(["describe", "--always", "--dirty"])
        .output();
    note(
        "revision",
        revision
            .ok()
            .and_then(|ran| String::from_utf8(ran.stdout).ok()),
    );
    note(
        "load at the start",
        fs::read_to_string("/proc/loadavg").ok(),
    );
    found
}
