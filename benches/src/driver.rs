//! Starts a worker for each engine and lets them take turns, so that whatever disturbs the machine
//! disturbs all of them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::plan::{Cell, Medium, Op, Shape};
use crate::results::CellResult;
use crate::scratch::{self, Scratch};
use crate::worker::{Answer, Request};

/// What stays the same during a run.
pub struct Setup {
    /// Names of engines, and of a KISSDB library each where that is what it is.
    pub engines: Vec<(String, Option<PathBuf>)>,
    pub rounds: u64,
    pub tmpfs: PathBuf,
    pub disk: PathBuf,
}

struct Worker {
    name: String,
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Worker {
    fn start(name: &str, library: Option<&PathBuf>) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["worker", name])
            .env("KISSDB_LARGE_FILES", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(library) = library {
            command.env("KISSDB_BENCH_LIBRARY", library);
        }
        let mut child = command.spawn()?;
        let to = child.stdin.take().context("stdin")?;
        let from = BufReader::new(child.stdout.take().context("stdout")?);
        Ok(Worker {
            name: name.into(),
            child,
            to,
            from,
        })
    }

    fn ask(&mut self, request: &Request) -> Result<Answer> {
        let answer = self.answer(request);
        // A terminal interrupts the workers too: that one has ended is then not what is to be said.
        scratch::go_on()?;
        answer
    }

    fn answer(&mut self, request: &Request) -> Result<Answer> {
        serde_json::to_writer(&mut self.to, request)?;
        writeln!(self.to)?;
        self.to.flush()?;
        let mut line = String::new();
        if self.from.read_line(&mut line)? == 0 {
            let status = self.child.wait()?;
            bail!("{} ended during {request:?}: {status}", self.name);
        }
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Usually it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Setup {
    pub fn run(&self, cells: &[Cell]) -> Result<Vec<CellResult>> {
        let steps: u64 = cells
            .iter()
            .map(|cell| {
                cell.ops
                    .iter()
                    .map(|&op| self.rounds_of(&cell.shape, op))
                    .sum::<u64>()
                    + 1
            })
            .sum();
        let bar = ProgressBar::new(steps * self.engines.len() as u64);
        bar.set_style(ProgressStyle::with_template(
            "{elapsed_precise} {bar:30} {percent:>3} %  {msg}",
        )?);
        let mut results = Vec::new();
        for cell in cells {
            results.push(self.run_cell(cell, &bar)?);
        }
        bar.finish_and_clear();
        Ok(results)
    }

    /// Whole new files are written less often, and the largest ones still less.
    fn rounds_of(&self, shape: &Shape, op: Op) -> u64 {
        let large = shape.keys > 100_000;
        match op {
            Op::Memory => 1,
            _ if op.is_big() && large => self.rounds.min(2),
            _ if op.is_big() || large => self.rounds.min(5),
            _ => self.rounds,
        }
    }

    fn run_cell(&self, cell: &Cell, bar: &ProgressBar) -> Result<CellResult> {
        let shape = &cell.shape;
        let base = match shape.medium {
            Medium::Tmpfs => &self.tmpfs,
            Medium::Disk => &self.disk,
        };
        // Before the workers, so that it goes after them.
        let directory = Scratch::new(base.join(format!("kissdb-bench-{}", std::process::id())))?;
        let mut result = CellResult::new(shape.clone());
        let mut workers = Vec::new();
        for (name, library) in &self.engines {
            bar.set_message(format!("{}: load {name}", shape.title()));
            bar.inc(1);
            if !fits(name, shape) {
                continue;
            }
            let mut worker = Worker::start(name, library.as_ref())?;
            let request = Request::Load {
                shape: shape.clone(),
                directory: directory.path().into(),
            };
            let answer = worker.ask(&request)?;
            if let Answer::Skipped(why) = &answer {
                bar.println(format!("{name}: {why}"));
            }
            if result.take(bar, name, answer) {
                workers.push(worker);
            }
        }
        for &op in &cell.ops {
            let rounds = self.rounds_of(shape, op);
            // Who can't do it is not asked again.
            let mut skip = vec![false; workers.len()];
            for round in 0..rounds {
                for (worker, skip) in workers.iter_mut().zip(&mut skip) {
                    bar.inc(1);
                    if *skip {
                        continue;
                    }
                    bar.set_message(format!(
                        "{}: {op:?} {}/{rounds} {}",
                        shape.title(),
                        round + 1,
                        worker.name
                    ));
                    let answer = worker.ask(&Request::Run {
                        op,
                        round: round + 1,
                    })?;
                    *skip = !result.take(bar, &worker.name, answer);
                }
            }
        }
        for mut worker in workers {
            let answer = worker.ask(&Request::Leave)?;
            result.take(bar, &worker.name, answer);
        }
        Ok(result)
    }
}

/// SQLite is there for durable puts only; TDB and GDBM have none without transactions, or none
/// that outlive a power cut.
fn fits(engine: &str, shape: &Shape) -> bool {
    match engine {
        "sqlite" => shape.durable,
        "tdb" | "gdbm" => !shape.durable,
        _ => true,
    }
}

impl CellResult {
    fn new(shape: Shape) -> Self {
        CellResult {
            shape,
            figures: BTreeMap::new(),
            failures: Vec::new(),
        }
    }

    /// Whether the worker did what it was asked.
    fn take(&mut self, bar: &ProgressBar, engine: &str, answer: Answer) -> bool {
        match answer {
            Answer::Figures(figures) => {
                for figure in figures {
                    let series = self
                        .figures
                        .entry(figure.name.clone())
                        .or_default()
                        .entry(engine.to_string())
                        .or_default();
                    series.add(&figure);
                }
                true
            }
            Answer::Skipped(_) => false,
            Answer::Failed(why) => {
                let text = format!("{}: {engine}: {why}", self.shape.title());
                bar.println(&text);
                self.failures.push(text);
                false
            }
        }
    }
}
