//! map: a picture of the file.

use crate::args::Map;
use crate::check::survey;
use crate::fail::{About, Result, Status, said};
use crate::out::{self, Out};
use console::Style;
use kissdb::inspect::{Part, Report};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// How each part is drawn: the later ones win where several share a cell.
const PARTS: [(Part, char, &str, &str); 8] = [
    (Part::Unused, '.', "unused", "#e7e7e4"),
    (Part::Deleted, '-', "deleted", "#b9b3a6"),
    (Part::Log, 'L', "log", "#8f6ba8"),
    (Part::Live, '#', "live", "#3f8f6b"),
    (Part::Table, 'T', "table", "#3d6fb4"),
    (Part::Header, 'H', "header", "#22324a"),
    (Part::Loose, '?', "nothing leads to it", "#d99a2b"),
    (Part::Damaged, 'X', "damaged", "#c8372d"),
];

fn style(part: Part) -> Style {
    match part {
        Part::Header => Style::new().white().on_blue(),
        Part::Table => Style::new().blue().bold(),
        Part::Live => Style::new().green(),
        Part::Deleted => Style::new().dim(),
        Part::Log => Style::new().magenta(),
        Part::Damaged => Style::new().white().on_red(),
        Part::Loose => Style::new().yellow(),
        Part::Unused => Style::new().dim(),
    }
}

fn rank(part: Part) -> usize {
    PARTS.iter().position(|p| p.0 == part).unwrap_or(0)
}

/// The file in cells of `unit` bytes: what shows in each. What is rare and matters is never hidden: damage first,
/// then what nothing leads to, then the structure; of the others the one that has most of the cell.
fn cells(report: &Report, unit: u64) -> Vec<Part> {
    let n = report.len.div_ceil(unit);
    let mut shares = vec![[0u64; PARTS.len()]; n as usize];
    for r in &report.regions {
        let (mut at, end) = (r.at, r.at + r.len);
        while at < end {
            let cell = at / unit;
            let stop = end.min((cell + 1) * unit);
            if let Some(s) = shares.get_mut(cell as usize) {
                s[rank(r.part)] += stop - at;
            }
            at = stop;
        }
    }
    let show = |s: &[u64; PARTS.len()]| {
        let important = (rank(Part::Table)..PARTS.len()).rev().find(|&p| s[p] > 0);
        let most = (0..PARTS.len()).max_by_key(|&p| s[p]).unwrap_or(0);
        PARTS[important.unwrap_or(most)].0
    };
    shares.iter().map(show).collect()
}

/// Bytes of a cell, a round number of pages, so that at most `room` cells are needed.
fn unit_for(len: u64, room: u64) -> u64 {
    let pages = len.div_ceil(4096).max(1);
    pages.div_ceil(room.max(1)).next_power_of_two() * 4096
}

/// How many chains have which length, as `3` or, where there are too many for a bar each, `3-5`.
fn lengths(report: &Report) -> Vec<(String, u64)> {
    let all: Vec<u32> = report.chains.iter().map(|c| c.length).collect();
    let (Some(&least), Some(&most)) = (all.iter().min(), all.iter().max()) else {
        return Vec::new();
    };
    let step = (most - least + 1).div_ceil(BARS);
    let bar = |from: u32| {
        let to = (from + step - 1).min(most);
        let name = if from == to {
            from.to_string()
        } else {
            format!("{from}-{to}")
        };
        (
            name,
            all.iter().filter(|n| (from..=to).contains(n)).count() as u64,
        )
    };
    (least..=most).step_by(step as usize).map(bar).collect()
}

/// Bars of the histogram at most.
const BARS: u32 = 12;

pub fn map(a: &Map, out: &mut Out) -> Result<Status> {
    let path = &a.db.file;
    let report = survey(path)?;
    if report.sizes.is_none() {
        return said(format!(
            "{0}: not a database; see `kissdb check {0}`",
            path.display()
        ));
    }
    if let Some(to) = &a.svg {
        let title = path
            .file_name()
            .unwrap_or(path.as_os_str())
            .to_string_lossy();
        std::fs::write(to, svg(&report, &title)).about(to)?;
    }
    if out.json {
        let regions: Vec<Value> = report
            .regions
            .iter()
            .map(|r| json!({"offset": r.at, "length": r.len, "part": PARTS[rank(r.part)].2}))
            .collect();
        let chains: Vec<Value> = lengths(&report)
            .into_iter()
            .map(|(length, count)| json!({"length": length, "slots": count}))
            .collect();
        out.object(&json!({"file": path.display().to_string(), "length": report.len, "regions": regions, "chains": chains}))?;
        return Ok(Status::Fine);
    }
    if a.svg.is_none() {
        draw(&report, out)?;
    }
    Ok(Status::Fine)
}

/// Rows of the picture in a terminal.
const ROWS: u64 = 20;

fn draw(report: &Report, out: &mut Out) -> Result<()> {
    let width = out.width.unwrap_or(80).clamp(24, 120);
    // A power of two, so that the offsets are round.
    let columns = 1 << (width - 12).ilog2();
    let unit = unit_for(report.len, columns * ROWS);
    for (row, line) in (0u64..).zip(cells(report, unit).chunks(columns as usize)) {
        let mut text = format!("{:#010x}  ", row * columns * unit);
        for run in line.chunk_by(|a, b| a == b) {
            let letters = String::from(PARTS[rank(run[0])].1).repeat(run.len());
            let _ = write!(text, "{}", style(run[0]).apply_to(letters));
        }
        out.line(text)?;
    }
    out.line(String::new())?;
    for (part, letter, name, _) in PARTS.iter().rev() {
        let bytes = report.bytes_of(*part);
        if bytes > 0 {
            let share = 100.0 * bytes as f64 / report.len.max(1) as f64;
            out.line(format!(
                "{}  {name:<20} {:>10}  {share:>5.1}%",
                style(*part).apply_to(letter),
                out::bytes(bytes)
            ))?;
        }
    }
    out.line(format!("one letter is {}", out::bytes(unit)))?;
    out.line(String::new())?;
    out.line("tables a look-up goes through, and for how many slots")?;
    let lengths = lengths(report);
    let most = lengths.iter().map(|l| l.1).max().unwrap_or(1).max(1);
    for (length, count) in lengths {
        let n = (count * (width as u64 - 20)).div_ceil(most) as usize;
        let bar = Style::new().green().apply_to("=".repeat(n));
        out.line(format!("{length:>9} {count:>6}  {bar}").trim_end())?;
    }
    Ok(())
}

/// Columns of the picture as SVG, and the sides of a cell.
const COLUMNS: u64 = 64;
const SIDE: u64 = 12;
const MOST_ROWS: u64 = 96;
const MARGIN: u64 = 24;
const LABEL: u64 = 88;

fn escape(text: &str) -> String {
    let text = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    text.chars().filter(|c| !c.is_control()).collect()
}

fn svg(report: &Report, title: &str) -> String {
    let unit = unit_for(report.len, COLUMNS * MOST_ROWS);
    let cells = cells(report, unit);
    let rows = (cells.len() as u64).div_ceil(COLUMNS);
    let top = MARGIN + 46;
    let legend = top + rows * SIDE + 34;
    let used: Vec<_> = PARTS
        .iter()
        .rev()
        .filter(|p| report.bytes_of(p.0) > 0)
        .collect();
    let chart = legend + used.len() as u64 * 20 + 44;
    let lengths = lengths(report);
    let (chart_height, width) = (120, LABEL + COLUMNS * SIDE + 2 * MARGIN);
    let height = chart + chart_height + 44 + MARGIN;
    let left = MARGIN + LABEL;
    let mut s = String::new();
    let mut put = |text: String| {
        s.push_str(&text);
        s.push('\n');
    };
    put(format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12" fill="#222">"##
    ));
    put(format!(
        r##"<rect width="{width}" height="{height}" fill="#fff"/>"##
    ));
    put(format!(
        r#"<text x="{MARGIN}" y="{}" font-size="18" font-weight="bold">{}</text>"#,
        MARGIN + 14,
        escape(title)
    ));
    put(format!(
        r##"<text x="{MARGIN}" y="{}" fill="#666">{}, {}, {}; one square is {}</text>"##,
        MARGIN + 34,
        out::bytes(report.len),
        out::count(report.live, "key"),
        out::count(report.tables.len() as u64, "table"),
        out::bytes(unit)
    ));
    for (row, line) in (0u64..).zip(cells.chunks(COLUMNS as usize)) {
        let y = top + row * SIDE;
        if row % 8 == 0 {
            put(format!(
                r##"<text x="{}" y="{}" text-anchor="end" font-family="monospace" font-size="10" fill="#888">{:#x}</text>"##,
                left - 8,
                y + SIDE - 3,
                row * COLUMNS * unit
            ));
        }
        let mut x = left;
        for run in line.chunk_by(|a, b| a == b) {
            for _ in run {
                let color = PARTS[rank(run[0])].3;
                let side = SIDE - 1;
                put(format!(
                    r#"<rect x="{x}" y="{y}" width="{side}" height="{side}" fill="{color}"/>"#
                ));
                x += SIDE;
            }
        }
    }
    for (n, (part, _, name, color)) in (0u64..).zip(used.iter().copied()) {
        let y = legend + n * 20;
        let bytes = report.bytes_of(*part);
        let share = 100.0 * bytes as f64 / report.len.max(1) as f64;
        put(format!(
            r#"<rect x="{left}" y="{y}" width="12" height="12" fill="{color}"/>"#
        ));
        put(format!(
            r#"<text x="{}" y="{}">{name}</text>"#,
            left + 20,
            y + 10
        ));
        put(format!(
            r#"<text x="{}" y="{}" text-anchor="end">{}</text>"#,
            left + 280,
            y + 10,
            out::bytes(bytes)
        ));
        put(format!(
            r#"<text x="{}" y="{}" text-anchor="end">{share:.1}%</text>"#,
            left + 350,
            y + 10
        ));
    }
    put(format!(
        r#"<text x="{left}" y="{}">Slots by the number of tables that a look-up goes through</text>"#,
        chart - 14
    ));
    let most = lengths.iter().map(|l| l.1).max().unwrap_or(1).max(1);
    let bar = (COLUMNS * SIDE / (lengths.len() as u64).max(1)).min(60);
    let base = chart + chart_height;
    for (n, (length, count)) in (0u64..).zip(lengths) {
        let h = (count * (chart_height - 14)).div_ceil(most);
        let x = left + n * bar;
        let middle = x + bar / 2 - 1;
        put(format!(
            r##"<rect x="{x}" y="{}" width="{}" height="{h}" fill="#3d6fb4"/>"##,
            base - h,
            bar - 3
        ));
        put(format!(
            r#"<text x="{middle}" y="{}" text-anchor="middle" font-size="10">{count}</text>"#,
            base - h - 3
        ));
        put(format!(
            r#"<text x="{middle}" y="{}" text-anchor="middle" font-size="11">{length}</text>"#,
            base + 14
        ));
    }
    put("</svg>".into());
    s
}
