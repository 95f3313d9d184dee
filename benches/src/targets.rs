//! What is to be reached, as limits that follow from the same run.

use crate::plan::Medium;
use crate::results::{CellResult, Results};

pub struct Verdict {
    pub figure: &'static str,
    /// What the limit is made from.
    pub rule: String,
    /// Nanoseconds.
    pub limit: f64,
    /// The median, which is judged.
    pub ours: f64,
    /// `None` for what is counted.
    pub quickest: Option<f64>,
}

impl Verdict {
    pub fn passed(&self) -> bool {
        self.ours <= self.limit
    }
}

/// The verdicts on one database; `results` is looked at for the other sizes.
pub fn verdicts(results: &Results, cell: &CellResult) -> Vec<Verdict> {
    let shape = &cell.shape;
    let mut list = Judge {
        cell,
        verdicts: Vec::new(),
    };
    if shape.durable {
        // First change of a life, beginning and folds of the log.
        list.at_most("durable-syncs", 1.01, "the caller's and the log's");
        return list.verdicts;
    }
    if shape.key != 20 || shape.value != 64 || shape.collide {
        return Vec::new();
    }
    match (shape.medium, shape.keys) {
        (Medium::Tmpfs, 500) => list.at_most("get", 45.0, "45 ns"),
        (Medium::Tmpfs, 20_000) => {
            list.peers("get", 0.9);
            list.bare("get", "bare-read-dependent", 1.0, 50.0);
            list.peers("absent", 0.3);
            list.peers("once", 0.6);
            list.peers("repeat", 2.0);
            list.bare("new", "bare-write-new", 1.3, 0.0);
            list.ours("delete", "once");
            list.ours("put-deleted", "once");
            list.at_most("iterate", 60.0, "60 ns");
            list.at_most("iterate-values", 300.0, "300 ns");
            list.at_most("open", 0.2e6, "0.2 ms");
            list.at_most("open-crashed", 3e6, "3 ms");
            list.nothing_lost();
            list.bare("close-changed", "bare-store-sync", 1.5, 0.0);
            list.bare("close-changed", "bare-write-sync", 1.5, 0.0);
        }
        (Medium::Tmpfs, 200_000) => {
            if let Some(small) = at_20_000(results) {
                list.growth("get", "bare-read-dependent", small);
                list.growth("once", "bare-read-dependent", small);
                list.growth("repeat", "bare-read-dependent", small);
            }
            list.at_most("open", 1e6, "1 ms");
            list.at_most("open-crashed", 20e6, "20 ms");
            list.nothing_lost();
        }
        (Medium::Disk, 20_000) => {
            list.bare("once", "bare-store-once", 1.5, 0.0);
            list.peers("repeat", 2.0);
            list.bare("new", "bare-write-new", 1.3, 0.0);
            list.ours("delete", "once");
            list.ours("put-deleted", "once");
            list.at_most("open", 0.2e6, "0.2 ms");
            list.at_most("open-crashed", 3e6, "3 ms");
            list.nothing_lost();
            list.bare("close-changed", "bare-store-sync", 1.5, 0.0);
            list.bare("close-changed", "bare-write-sync", 1.5, 0.0);
        }
        _ => {}
    }
    list.verdicts
}

fn at_20_000(results: &Results) -> Option<&CellResult> {
    results.cells.iter().find(|cell| {
        let shape = &cell.shape;
        shape.keys == 20_000
            && shape.medium == Medium::Tmpfs
            && shape.key == 20
            && shape.value == 64
            && !shape.collide
            && !shape.durable
    })
}

struct Judge<'a> {
    cell: &'a CellResult,
    verdicts: Vec<Verdict>,
}

impl Judge<'_> {
    fn add(&mut self, figure: &'static str, limit: Option<f64>, rule: String) {
        let series = self.cell.series(figure, "kissdb");
        if let (Some(limit), Some(series)) = (limit, series) {
            self.verdicts.push(Verdict {
                figure,
                rule,
                limit,
                ours: series.median(),
                quickest: (!figure.ends_with("syncs") && !figure.ends_with("keys"))
                    .then(|| series.quickest()),
            });
        }
    }

    fn at_most(&mut self, figure: &'static str, limit: f64, text: &str) {
        self.add(figure, Some(limit), text.into());
    }

    fn peers(&mut self, figure: &'static str, factor: f64) {
        if let Some((peer, best)) = self.cell.best_peer(figure) {
            self.add(figure, Some(best * factor), format!("{factor} x {peer}"));
        }
    }

    fn bare(&mut self, figure: &'static str, bare: &str, factor: f64, more: f64) {
        let limit = self.cell.bare(bare).map(|time| time * factor + more);
        let rule = if more > 0.0 {
            format!("{bare} + {more} ns")
        } else {
            format!("{factor} x {bare}")
        };
        self.add(figure, limit, rule);
    }

    fn ours(&mut self, figure: &'static str, other: &str) {
        self.add(
            figure,
            self.cell.median(other, "kissdb"),
            format!("our {other}"),
        );
    }

    fn growth(&mut self, figure: &'static str, bare: &str, small: &CellResult) {
        let limit = (|| {
            let growth = self.cell.bare(bare)? - small.bare(bare)?;
            Some(small.median(figure, "kissdb")? + growth)
        })();
        self.add(figure, limit, format!("at 20000 + growth of {bare}"));
    }

    fn nothing_lost(&mut self) {
        self.add("open-crashed-lost-keys", Some(0.0), "nothing lost".into());
    }
}
