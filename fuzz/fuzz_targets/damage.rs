//! Damaged files, led by coverage: the input is a list of changes to a real file and a seed for the calls that follow;
//! the judgement is that of `tests/damaged.rs` (no panic, no hang, nothing lost, no file made worse).
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | number of the file |
//! | 2 | how checksums are put right, see `Damage::fix` |
//! | 3..7 | seed of the calls |
//! | 7.. | 4 bytes a change: its seed |
#![no_main]

#[path = "../../tests/support/judge.rs"]
mod judge;
#[path = "../../tests/support/made.rs"]
mod made;
#[path = "../../tests/support/mutate.rs"]
mod mutate;
#[path = "../../tests/support/procs.rs"]
mod procs;
#[path = "../../tests/support/reader.rs"]
mod reader;
#[path = "../../tests/support/mod.rs"]
mod support;

use judge::Counts;
use libfuzzer_sys::fuzz_target;
use mutate::{Damage, Seed, damaged_by};
use procs::{Rng, mix};
use std::sync::OnceLock;
use support::check;

/// More make files that nothing can be demanded of.
const MOST_CHANGES: usize = 12;

fuzz_target!(|input: &[u8]| {
    static SEEDS: OnceLock<Vec<Seed>> = OnceLock::new();
    let Some((head, changes)) = input.split_first_chunk::<7>() else {
        return;
    };
    let number = |bytes: &[u8]| bytes.iter().fold(0, |n, &b| n << 8 | u64::from(b));
    let calls = mix(number(&head[3..]));
    let damage = Damage {
        file: number(&head[..2]),
        changes: changes
            .chunks_exact(4)
            .take(MOST_CHANGES)
            .map(|c| mix(number(c)))
            .collect(),
        fix: u64::from(head[2] % 4),
        fix_seed: calls,
    };
    let seeds = SEEDS.get_or_init(judge::seeds);
    let file = damaged_by(seeds, &damage, u32::MAX);
    if let Err(finding) = judge::judge(&file.bytes, &mut Rng(calls), &mut Counts::default()) {
        panic!("{finding}\n  {}", file.told.join("\n  "));
    }
});
