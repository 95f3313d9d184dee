//! Pictures of the results: time against size, and bars an operation.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::plan::{Medium, Shape};
use crate::report::shown;
use crate::results::{CellResult, Results};

/// Engines with their names and colours, in the order of legends.
const ENGINES: [(&str, &str, RGBColor); 8] = [
    ("kissdb", "libkissdb", RGBColor(0, 90, 200)),
    ("compare", "other KISSDB", RGBColor(110, 170, 230)),
    ("lmdb", "LMDB", RGBColor(230, 130, 0)),
    ("tokyo", "Tokyo Cabinet", RGBColor(0, 150, 90)),
    ("tdb", "TDB", RGBColor(150, 80, 180)),
    ("gdbm", "GDBM", RGBColor(205, 40, 60)),
    ("sqlite", "SQLite", RGBColor(120, 90, 60)),
    ("bare", "bare loop", RGBColor(110, 110, 110)),
];

/// Figure, its title, and the figure of the bare loop beside it.
type Panel = (&'static str, &'static str, Option<&'static str>);

const BY_SIZE: [Panel; 6] = [
    ("get", "get, key present", Some("bare-read-dependent")),
    ("absent", "get, key absent", None),
    ("once", "put over an existing key", Some("bare-store-once")),
    ("new", "put, new key", Some("bare-write-new")),
    (
        "iterate-values",
        "iterate, keys and values",
        Some("bare-iterate-values"),
    ),
    ("open", "open, clean (once, not a key)", None),
];

const BY_OPERATION: [Panel; 9] = [
    ("get", "get, key present", Some("bare-read-dependent")),
    ("absent", "get, key absent", None),
    ("once", "put over each key once", Some("bare-store-once")),
    ("repeat", "put over random keys", Some("bare-store-repeat")),
    ("new", "put, new key", Some("bare-write-new")),
    ("delete", "delete", None),
    ("put-deleted", "put into a deleted slot", None),
    ("iterate", "iterate, keys", Some("bare-iterate")),
    (
        "iterate-values",
        "iterate, keys and values",
        Some("bare-iterate-values"),
    ),
];

const DURABLE: [Panel; 1] = [(
    "durable",
    "put made durable, on a disk",
    Some("bare-store-durable"),
)];

const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(225, 225, 225);
const FONT: &str = "DejaVu Sans, Arial, sans-serif";

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws what the results have data for.
pub fn plots(results: &Results, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory)?;
    let sizes: Vec<&CellResult> = results
        .cells
        .iter()
        .filter(|cell| cell.shape == Shape::new(Medium::Tmpfs, cell.shape.keys))
        .collect();
    if sizes.len() > 1 {
        by_size(&sizes, &directory.join("by-size.svg"))?;
    }
    for cell in &results.cells {
        let mut durable = Shape::new(Medium::Disk, cell.shape.keys);
        durable.durable = true;
        let (panels, name): (&[Panel], _) = if cell.shape == Shape::new(Medium::Tmpfs, 20_000) {
            (&BY_OPERATION, "by-operation.svg".into())
        } else if cell.shape == durable {
            (&DURABLE, format!("durable-{}.svg", cell.shape.keys))
        } else {
            continue;
        };
        by_operation(cell, panels, &directory.join(name))?;
    }
    Ok(())
}

/// A figure of an engine; of bare loops the one that goes with it.
fn value(cell: &CellResult, engine: &str, panel: &Panel) -> Option<f64> {
    let figure = if engine == "bare" { panel.2? } else { panel.0 };
    cell.median(figure, engine).filter(|&value| value > 0.0)
}

fn by_size(cells: &[&CellResult], file: &Path) -> Result<()> {
    let root = SVGBackend::new(file, (1320, 860)).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    let (head, below) = root.split_vertically(64);
    text(
        &head,
        "Time an operation against number of keys (tmpfs, values of 64 bytes)",
        (20, 12),
        20,
        INK,
    )?;
    legend(&head, cells, &BY_SIZE, 42)?;
    for (area, panel) in below.split_evenly((2, 3)).iter().zip(&BY_SIZE) {
        panel_by_size(area, cells, panel)?;
    }
    root.present().map_err(failed)
}

fn panel_by_size(area: &Area, cells: &[&CellResult], panel: &Panel) -> Result<()> {
    let mut lines = Vec::new();
    for (engine, _, colour) in ENGINES {
        let points: Vec<(f64, f64)> = cells
            .iter()
            .filter_map(|cell| Some((cell.shape.keys as f64, value(cell, engine, panel)?)))
            .collect();
        if !points.is_empty() {
            lines.push((engine, colour, points));
        }
    }
    let all = || {
        lines
            .iter()
            .flat_map(|line| line.2.iter().map(|point| point.1))
    };
    let low = 10f64.powf(all().fold(f64::INFINITY, f64::min).log10().floor());
    let high = 10f64.powf(all().fold(0.0, f64::max).log10().ceil());
    if lines.is_empty() {
        return Ok(());
    }
    let most = cells.iter().map(|cell| cell.shape.keys).max().unwrap_or(1) as f64;
    let mut chart = ChartBuilder::on(area)
        .caption(panel.1, (FONT, 17).into_font().color(&INK))
        .margin(12)
        .x_label_area_size(30)
        .y_label_area_size(62)
        .build_cartesian_2d((0.8..most * 1.3).log_scale(), (low..high).log_scale())
        .map_err(failed)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(GRID)
        .axis_style(INK)
        .label_style((FONT, 13).into_font().color(&INK))
        .x_labels(6)
        .y_labels(6)
        .x_label_formatter(&|keys| format!("{keys:.0}"))
        .y_label_formatter(&|&time| short(time))
        .draw()
        .map_err(failed)?;
    for (engine, colour, points) in lines.into_iter().rev() {
        let width = if engine == "kissdb" { 4 } else { 2 };
        let style = colour.stroke_width(width);
        let drawn = if engine == "bare" {
            chart
                .draw_series(DashedLineSeries::new(points.clone(), 6, 4, style))
                .map(drop)
        } else {
            chart
                .draw_series(LineSeries::new(points.clone(), style))
                .map(drop)
        };
        drawn.map_err(failed)?;
        chart
            .draw_series(
                points
                    .iter()
                    .map(|&point| Circle::new(point, width + 1, colour.filled())),
            )
            .map_err(failed)?;
    }
    Ok(())
}

/// A time on an axis.
fn short(time: f64) -> String {
    let (value, unit) = match time {
        large if large >= 1e6 => (large / 1e6, "ms"),
        middle if middle >= 1e3 => (middle / 1e3, "us"),
        small => (small, "ns"),
    };
    format!("{} {unit}", (value * 100.0).round() / 100.0)
}

fn legend(area: &Area, cells: &[&CellResult], panels: &[Panel], at: i32) -> Result<()> {
    let mut left = 20;
    for (engine, name, colour) in ENGINES {
        let used = cells.iter().any(|cell| {
            panels
                .iter()
                .any(|panel| value(cell, engine, panel).is_some())
        });
        if used {
            area.draw(&Rectangle::new(
                [(left, at + 2), (left + 22, at + 12)],
                colour.filled(),
            ))
            .map_err(failed)?;
            text(area, name, (left + 28, at), 14, INK)?;
            left += 56 + 8 * name.len() as i32;
        }
    }
    Ok(())
}

const ROW: i32 = 24;

fn by_operation(cell: &CellResult, panels: &[Panel], file: &Path) -> Result<()> {
    let columns = panels.len().min(3);
    let rows = panels.len().div_ceil(columns);
    let bars = panels
        .iter()
        .map(|panel| bars_of(cell, panel).len())
        .max()
        .unwrap_or(0);
    let height = 56 + rows as u32 * (bars as i32 * ROW + 56) as u32;
    let width = if columns == 1 { 760 } else { 1320 };
    let root = SVGBackend::new(file, (width, height)).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    let (head, below) = root.split_vertically(48);
    text(
        &head,
        &format!("Time an operation: {}", cell.shape.title()),
        (20, 16),
        20,
        INK,
    )?;
    for (area, panel) in below.split_evenly((rows, columns)).iter().zip(panels) {
        panel_by_operation(area, cell, panel)?;
    }
    root.present().map_err(failed)
}

fn bars_of(cell: &CellResult, panel: &Panel) -> Vec<(&'static str, &'static str, RGBColor, f64)> {
    ENGINES
        .into_iter()
        .filter_map(|(engine, name, colour)| {
            Some((engine, name, colour, value(cell, engine, panel)?))
        })
        .collect()
}

fn panel_by_operation(area: &Area, cell: &CellResult, panel: &Panel) -> Result<()> {
    let bars = bars_of(cell, panel);
    text(area, panel.1, (20, 8), 16, INK)?;
    let left = 130;
    let room = f64::from(area.dim_in_pixel().0) - f64::from(left) - 90.0;
    // Bars that would make the others too short to tell apart are cut off.
    let mut times: Vec<f64> = bars.iter().map(|bar| bar.3).collect();
    times.sort_by(f64::total_cmp);
    let middle = times.get(times.len() / 2).copied().unwrap_or(1.0);
    let ours = bars
        .iter()
        .find(|bar| bar.0 == "kissdb")
        .map_or(0.0, |bar| bar.3);
    let most = times
        .last()
        .copied()
        .unwrap_or(1.0)
        .min(3.0 * middle.max(ours));
    for (number, (engine, name, colour, time)) in bars.into_iter().enumerate() {
        let top = 34 + number as i32 * ROW;
        let cut = time > most;
        let length = (time.min(most) / most * room).max(1.0) as i32;
        text(area, name, (20, top + 2), 13, INK)?;
        area.draw(&Rectangle::new(
            [(left, top), (left + length, top + ROW - 6)],
            colour.filled(),
        ))
        .map_err(failed)?;
        if cut {
            for line in [0, 8] {
                let at = left + length - 24 + line;
                let slash = vec![(at + 5, top - 2), (at - 1, top + ROW - 4)];
                area.draw(&PathElement::new(slash, WHITE.stroke_width(3)))
                    .map_err(failed)?;
            }
        }
        let size = if engine == "kissdb" { 14 } else { 13 };
        text(
            area,
            &shown(panel.0, time),
            (left + length + 8, top + 2),
            size,
            INK,
        )?;
    }
    Ok(())
}

fn text(area: &Area, what: &str, at: (i32, i32), size: i32, colour: RGBColor) -> Result<()> {
    let style = (FONT, size).into_font().color(&colour);
    area.draw(&Text::new(what.to_string(), at, style))
        .map_err(failed)
}

/// Errors of the drawing library cannot be passed on as they are.
fn failed<E: std::fmt::Debug>(error: E) -> anyhow::Error {
    anyhow!("{error:?}")
}
