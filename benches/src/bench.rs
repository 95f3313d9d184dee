//! Measures libkissdb: see docs/performance.md, `make bench ARGS=--help`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

mod bare;
mod counters;
mod driver;
mod engines;
mod guard;
mod keys;
mod plan;
mod plot;
mod report;
mod results;
mod scratch;
mod targets;
mod worker;

use plan::{Medium, Op};
use results::Results;

/// Measures libkissdb against other stores and against bare loops, each engine in a process of
/// its own, all of them taking turns.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure
    Run(Box<Run>),
    /// One engine, told what to do on its standard input
    #[command(hide = true)]
    Worker { engine: String },
    #[command(hide = true)]
    Version { engine: String },
    /// Count instructions an operation, and compare
    Guard {
        #[arg(long)]
        library: PathBuf,
        /// The committed figures
        #[arg(long)]
        figures: PathBuf,
        /// Where callgrind's files go
        #[arg(long)]
        out: PathBuf,
        /// Write the figures instead
        #[arg(long)]
        bless: bool,
    },
    #[command(hide = true)]
    Workload {
        operation: String,
        directory: PathBuf,
    },
    /// Print the tables of a file of results again
    Show {
        results: PathBuf,
        /// Draw the plots into this directory too
        #[arg(long)]
        plots: Option<PathBuf>,
        /// Write them into this document, between its marks
        #[arg(long)]
        document: Option<PathBuf>,
    },
}

#[derive(Parser)]
struct Run {
    /// The libkissdb.so to measure
    #[arg(long = "library", value_name = "LIBRARY")]
    ours: PathBuf,
    /// Another library with the same interface, for a column of its own
    #[arg(long, env = "KISSDB_COMPARE")]
    compare: Option<PathBuf>,
    /// Some of the targets, in some minutes
    #[arg(long)]
    quick: bool,
    /// Only these operations
    #[arg(long, value_delimiter = ',')]
    ops: Vec<Op>,
    /// Only databases of these sizes
    #[arg(long, value_delimiter = ',')]
    keys: Vec<usize>,
    /// Only databases on these media
    #[arg(long, value_delimiter = ',')]
    media: Vec<Medium>,
    /// Only databases with values of these sizes
    #[arg(long, value_delimiter = ',')]
    values: Vec<usize>,
    /// Only these engines
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "kissdb,compare,lmdb,tokyo,tdb,gdbm,sqlite,bare"
    )]
    engines: Vec<String>,
    /// Times that each operation is measured; medians are shown [default: 7, quick: 3]
    #[arg(long)]
    rounds: Option<u64>,
    #[arg(long, default_value = "/dev/shm")]
    tmpfs: PathBuf,
    /// A directory on a disk
    #[arg(long, default_value = ".")]
    disk: PathBuf,
    /// Where results.json goes
    #[arg(long, default_value = ".")]
    out: PathBuf,
}

fn main() -> ExitCode {
    match Arguments::parse().command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Command {
    fn run(self) -> Result<()> {
        match self {
            Command::Run(run) => run.run(),
            Command::Worker { engine } => worker::serve(&engine),
            Command::Version { engine } => {
                println!("{}", worker::version(&engine));
                Ok(())
            }
            Command::Guard {
                library,
                figures,
                out,
                bless,
            } => guard::guard(&fs::canonicalize(library)?, &figures, &out, bless),
            Command::Workload {
                operation,
                directory,
            } => guard::workload(&operation, &directory),
            Command::Show {
                results,
                plots,
                document,
            } => {
                let results: Results = serde_json::from_slice(&fs::read(results)?)?;
                print!("{}", report::text(&results));
                if let Some(file) = document {
                    let text = report::document(&results, &fs::read_to_string(&file)?);
                    fs::write(&file, text.context("the document has no marks")?)?;
                }
                plots.map_or(Ok(()), |directory| plot::plots(&results, &directory))
            }
        }
    }
}

impl Run {
    fn run(self) -> Result<()> {
        let mut cells = if self.quick {
            plan::quick()
        } else {
            plan::full()
        };
        let wanted = |cell: &plan::Cell| {
            let shape = &cell.shape;
            (self.keys.is_empty() || self.keys.contains(&shape.keys))
                && (self.media.is_empty() || self.media.contains(&shape.medium))
                && (self.values.is_empty() || self.values.contains(&shape.value))
        };
        cells.retain(wanted);
        for cell in &mut cells {
            cell.ops
                .retain(|op| self.ops.is_empty() || self.ops.contains(op));
        }
        cells.retain(|cell| !cell.ops.is_empty());
        let library =
            |path: &PathBuf| fs::canonicalize(path).with_context(|| path.display().to_string());
        let ours = library(&self.ours)?;
        let other = self.compare.as_ref().map(library).transpose()?;
        let engines = self
            .engines
            .iter()
            .filter(|name| *name != "compare" || other.is_some())
            .map(|name| {
                let library = match name.as_str() {
                    "kissdb" => Some(ours.clone()),
                    "compare" => other.clone(),
                    _ => None,
                };
                (name.clone(), library)
            })
            .collect();
        fs::create_dir_all(&self.disk)?;
        fs::create_dir_all(&self.out)?;
        let machine = report::machine();
        scratch::note_interrupts();
        let setup = driver::Setup {
            engines,
            rounds: self.rounds.unwrap_or(if self.quick { 3 } else { 7 }),
            tmpfs: self.tmpfs.clone(),
            disk: fs::canonicalize(&self.disk)?,
        };
        let cells = setup.run(&cells)?;
        let results = Results {
            machine,
            engines: versions(&setup)?,
            rounds: setup.rounds,
            cells,
        };
        let file = self.out.join("results.json");
        fs::write(&file, serde_json::to_vec_pretty(&results)?)?;
        print!("{}", report::text(&results));
        let plots = self.out.join("plots");
        plot::plots(&results, &plots)?;
        println!("\nWritten: {}, {}", file.display(), plots.display());
        Ok(())
    }
}

/// Asked in processes of their own, so that no library is loaded here.
fn versions(setup: &driver::Setup) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for (name, library) in &setup.engines {
        let answer = match library {
            Some(path) => path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            None => {
                let out = std::process::Command::new(std::env::current_exe()?)
                    .args(["version", name])
                    .output()?;
                String::from_utf8_lossy(&out.stdout).trim().to_string()
            }
        };
        found.insert(name.clone(), answer);
    }
    Ok(found)
}
