//! No power cut loses anything (guarantees P2 and P3): every state that a medium can be in after one
//! is made, opened and checked; see `support/cuts.rs` for the model.

#[path = "support/check.rs"]
#[allow(dead_code)]
mod check;
#[path = "support/cuts.rs"]
mod cuts;
#[path = "support/original.rs"]
mod original;

use cuts::run::{Budget, Report, replay, run};
use cuts::scenario::{Fault, Scenario, Script};

const SETTINGS: (u64, u64, u64) = (510, 128, 8028);
const RESOURCES: (u64, u64, u64) = (510, 64, 212);

fn scenarios() -> Vec<Scenario> {
    let scripts = vec![
        Script::new("first-life", SETTINGS)
            .put("/a", 20)
            .put("/b", 364)
            .sync()
            .put("/c", 8028)
            .put("/a", 30)
            .close(),
        Script::new("overwrites", SETTINGS)
            .put("/a", 100)
            .put("/b", 2000)
            .before()
            .put("/a", 100)
            .sync()
            .put("/a", 90)
            .put("/a", 110)
            .sync()
            .put("/b", 1800)
            .put("/b", 1900)
            .sync()
            .put("/b", 2100)
            .close(),
        Script::new("deletes", SETTINGS)
            .put("/a", 100)
            .put("/b", 2000)
            .put("/c", 8000)
            .before()
            .delete("/a")
            .delete("/c")
            .sync()
            .put("/b", 1000)
            .delete("/b")
            .sync()
            .put("/a", 50)
            .put("/b", 50)
            .close(),
    ];
    scripts.into_iter().map(Script::finish).collect()
}

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |t| {
        t.replace('_', "")
            .parse()
            .unwrap_or_else(|_| panic!("{name}: {t}"))
    })
}

fn told(report: &Report, seed: u64) {
    for (name, n) in &report.states {
        println!("{n:9} {name}");
    }
    println!(
        "seed {seed}: {} states, {} of them of a recovery or behind one, {:.1} s, {:.0} a second; {} failed",
        report.total(),
        report.nested,
        report.seconds,
        report.total() as f64 / report.seconds,
        report.failed
    );
    for f in &report.failures {
        println!(
            "\n{}\n{}to see it again: KISSDB_CUT_REPLAY='{}'",
            f.message, f.story, f.path
        );
    }
}

#[test]
fn no_cut_loses_anything() {
    let mut all = scenarios();
    if let Ok(path) = std::env::var("KISSDB_CUT_REPLAY") {
        replay(all, &path).unwrap_or_else(|e| panic!("{e}"));
        return;
    }
    if let Ok(part) = std::env::var("KISSDB_CUT_SCENARIO") {
        all.retain(|s| s.name.contains(&part));
    }
    let seed = number("KISSDB_CUT_SEED", 1);
    let report = run(
        all,
        Budget {
            states: number("KISSDB_CUT_STATES", 200_000),
            nested: 30,
            depth: 2,
            seed,
            failures: 20,
        },
    );
    told(&report, seed);
    assert_eq!(report.failed, 0);
}
