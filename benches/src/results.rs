//! What a run has found, as it stands in the JSON file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::plan::Shape;
use crate::worker::Figure;

#[derive(Serialize, Deserialize)]
pub struct Results {
    pub machine: BTreeMap<String, String>,
    /// Version of each engine.
    pub engines: BTreeMap<String, String>,
    pub rounds: u64,
    pub cells: Vec<CellResult>,
}

#[derive(Serialize, Deserialize)]
pub struct CellResult {
    pub shape: Shape,
    /// Figure, then engine.
    pub figures: BTreeMap<String, BTreeMap<String, Series>>,
    pub failures: Vec<String>,
}

/// One figure of one engine over the rounds.
#[derive(Default, Serialize, Deserialize)]
pub struct Series {
    /// Nanoseconds an operation (bytes, keys where the name says so), one a round.
    pub rounds: Vec<f64>,
    /// Syncs asked for, an operation.
    pub syncs: Vec<f64>,
    /// Bytes of pages made dirty, an operation; 0 on tmpfs.
    pub bytes: Vec<f64>,
}

impl Series {
    pub fn add(&mut self, figure: &Figure) {
        self.rounds.push(figure.value);
        self.syncs.extend(figure.syncs);
        self.bytes.extend(figure.bytes);
    }

    pub fn median(&self) -> f64 {
        median(&self.rounds)
    }

    /// The round that others on the machine have disturbed least.
    pub fn quickest(&self) -> f64 {
        self.rounds.iter().copied().fold(f64::NAN, f64::min)
    }
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        many if many % 2 == 1 => sorted[many / 2],
        many => (sorted[many / 2 - 1] + sorted[many / 2]) / 2.0,
    }
}

impl CellResult {
    pub fn series(&self, figure: &str, engine: &str) -> Option<&Series> {
        self.figures.get(figure)?.get(engine)
    }

    pub fn median(&self, figure: &str, engine: &str) -> Option<f64> {
        Some(self.series(figure, engine)?.median())
    }

    pub fn bare(&self, figure: &str) -> Option<f64> {
        self.median(figure, "bare")
    }

    /// The quickest of the others.
    pub fn best_peer(&self, figure: &str) -> Option<(&str, f64)> {
        let engines = self.figures.get(figure)?;
        engines
            .iter()
            .filter(|(engine, _)| !["kissdb", "compare", "bare"].contains(&engine.as_str()))
            .map(|(engine, series)| (engine.as_str(), series.median()))
            .min_by(|one, other| one.1.total_cmp(&other.1))
    }
}
