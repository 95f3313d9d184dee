//! A guard that does not depend on the clock: instructions an operation, counted by callgrind,
//! beside figures that are committed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::engines::{Engine, Kissdb};
use crate::keys::{self, Keys};
use crate::plan::{Medium, Shape};
use crate::scratch::{self, Scratch};

const OPERATIONS: [&str; 6] = ["get", "absent", "overwrite", "new", "delete", "iterate"];
/// Enough for a chain of several tables.
const KEYS: usize = 2000;
/// How far a figure may be from the committed one, either way.
const TOLERANCE: f64 = 0.10;

/// Callgrind counts while this runs.
#[unsafe(no_mangle)]
#[inline(never)]
fn kissdb_bench_counted(work: &mut &mut dyn FnMut()) {
    work();
}

/// Does one operation with every key; run under callgrind.
pub fn workload(operation: &str, directory: &Path) -> Result<()> {
    let shape = Shape::new(Medium::Tmpfs, KEYS);
    let file = directory.join("guard");
    let _ = fs::remove_file(&file);
    let present = Keys::present(&shape).in_order(&keys::each_once(1, KEYS));
    let absent = Keys::absent(&shape);
    let [one, other] = [1, 2].map(|turn| keys::value(shape.value, turn));
    let mut buffer = vec![0; 8192];
    let mut db = Kissdb::open(&file, &shape)?;
    if operation != "new" {
        for at in 0..KEYS {
            ensure!(db.put(present.get(at), &one), "put");
        }
        for at in 0..KEYS {
            ensure!(db.get(present.get(at), &mut buffer).is_some(), "get");
        }
        // Makes everything settled, so that an overwrite is the first one since.
        db.close()?;
        db = Kissdb::open(&file, &shape)?;
        // What is remembered of a key is complete when it was read some times.
        for _ in 0..3 {
            for at in 0..KEYS {
                ensure!(db.get(present.get(at), &mut buffer).is_some(), "get");
                ensure!(db.get(absent.get(at), &mut buffer).is_none(), "absent");
            }
        }
    }
    if operation == "overwrite" || operation == "delete" {
        // The first change of a life costs more, and is not what is counted.
        ensure!(db.put(c"/first", &one), "put");
    }
    let mut good = true;
    let mut work = || match operation {
        "get" => (0..KEYS).for_each(|at| good &= db.get(present.get(at), &mut buffer).is_some()),
        "absent" => (0..KEYS).for_each(|at| good &= db.get(absent.get(at), &mut buffer).is_none()),
        "overwrite" => (0..KEYS).for_each(|at| good &= db.put(present.get(at), &other)),
        "new" => (0..KEYS).for_each(|at| good &= db.put(present.get(at), &one)),
        "delete" => (0..KEYS).for_each(|at| good &= db.delete(present.get(at))),
        _ => good &= db.iterate(false) == KEYS,
    };
    kissdb_bench_counted(&mut (&mut work as &mut dyn FnMut()));
    ensure!(good, "{operation} failed");
    db.close()?;
    fs::remove_file(&file)?;
    Ok(())
}

/// Counts, and compares with the committed figures or writes them.
pub fn guard(library: &Path, figures: &Path, out: &Path, bless: bool) -> Result<()> {
    scratch::note_interrupts();
    let mut counted = BTreeMap::new();
    for operation in OPERATIONS {
        counted.insert(operation.to_string(), count(library, operation, out)?);
    }
    if bless {
        fs::write(figures, serde_json::to_string_pretty(&counted)? + "\n")?;
        println!("Written: {}\n{counted:#?}", figures.display());
        return Ok(());
    }
    let text = fs::read_to_string(figures).with_context(|| figures.display().to_string())?;
    let known: BTreeMap<String, u64> = serde_json::from_str(&text)?;
    let mut bad = 0;
    println!("| instructions an operation | committed | now | change |  |\n|---|--:|--:|--:|---|");
    for (operation, &now) in &counted {
        let before = *known
            .get(operation)
            .with_context(|| format!("no figure for {operation}"))?;
        let change = now as f64 / before as f64 - 1.0;
        let verdict = if change.abs() <= TOLERANCE {
            "ok"
        } else {
            bad += 1;
            if change > 0.0 { "MORE" } else { "LESS" }
        };
        println!(
            "| {operation} | {before} | {now} | {:+.1} % | {verdict} |",
            change * 100.0
        );
    }
    if bad > 0 {
        bail!("{bad} figures are more than 10 % away; if that is meant: make bench-guard-bless");
    }
    Ok(())
}

/// Instructions an operation. What callgrind found by function stays in `out`.
fn count(library: &Path, operation: &str, out: &Path) -> Result<u64> {
    let profile: PathBuf = out.join(format!("callgrind.{operation}"));
    let directory = format!("/dev/shm/kissdb-bench-guard-{}", std::process::id());
    let directory = Scratch::new(directory.into())?;
    let ran = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--collect-atstart=no",
            "--toggle-collect=kissdb_bench_counted",
        ])
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(std::env::current_exe()?)
        .args(["workload", operation])
        .arg(directory.path())
        .env("KISSDB_BENCH_LIBRARY", library)
        .output()
        .context("valgrind")?;
    scratch::go_on()?;
    let text = String::from_utf8_lossy(&ran.stderr);
    ensure!(ran.status.success(), "{operation} under valgrind: {text}");
    let total: u64 = text
        .lines()
        .find_map(|line| line.split_once("Collected : "))
        .with_context(|| format!("no count from valgrind: {text}"))?
        .1
        .trim()
        .parse()?;
    ensure!(total > KEYS as u64, "nothing was counted");
    Ok(total / KEYS as u64)
}
