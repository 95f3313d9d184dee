//! No power cut loses anything (guarantees P2 and P3): every state that a medium can be in after one
//! is made, opened and checked; see `support/cuts.rs` for the model.
//!
//! # By hand
//!
//! | variable | |
//! |---|---|
//! | `KISSDB_CUT_STATES` | about how many states for each seed: 200,000, few in an unoptimised build |
//! | `KISSDB_SEED` | the first seed |
//! | `KISSDB_SEEDS` | how many seeds, one after the other; to go on with a soak begin at a later one |
//! | `KISSDB_CUT_SCENARIO` | only scenarios with this in their name |
//! | `KISSDB_CUT_DEPTH` | how often a recovery is cut in its turn, 0 to 3 |
//! | `KISSDB_CUT_FAILURES` | end after so many kinds of failures |
//! | `KISSDB_CUT_DAMAGED` | how many damaged files, chosen by the seed, of some 500 states each: one for 2,000 states |
//! | `KISSDB_CUT_REPLAY` | the path of one state, as a failure prints it |
//! | `KISSDB_CUT_DUMP` | a directory for the files of a replay |
#![allow(clippy::type_complexity, clippy::needless_range_loop)]

#[path = "support/build.rs"]
mod build;
#[path = "support/cuts.rs"]
mod cuts;
#[path = "support/lives.rs"]
mod lives;
#[path = "support/made.rs"]
mod made;
#[path = "support/mutate.rs"]
mod mutate;
#[path = "support/procs.rs"]
mod procs;
#[path = "support/reader.rs"]
mod reader;
mod support;

use cuts::history::Bytes;
use cuts::run::{Budget, Report, replay, run};
use cuts::scenario::{Fault, Scenario, Script};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use support::{check, original};

/// Slots, key, value.
type Sizes = (u64, u64, u64);

const SETTINGS: Sizes = (510, 128, 8028);
const RESOURCES: Sizes = (510, 64, 212);

/// Keys that share a slot of 510.
const SAME_SLOT: [&str; 4] = ["/k0", "/k176", "/k253", "/k330"];

fn scenarios() -> Vec<Scenario> {
    let [k0, k1, k2, k3] = SAME_SLOT;
    let sizes = |name: &str, sizes: Sizes| format!("{name}-{}-{}-{}", sizes.0, sizes.1, sizes.2);
    let mut scripts = vec![
        Script::new("first-life", SETTINGS)
            .put("/a", 20)
            .put("/b", 364)
            .sync()
            .put("/c", 8028)
            .put("/a", 30)
            .close(),
        Script::new("first-put", SETTINGS).put("/only", 100),
        Script::new("first-close", SETTINGS)
            .put("/a", 0)
            .delete("/a")
            .put("/b", 365)
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
        Script::new("overwrites-without-sync", SETTINGS)
            .put("/a", 300)
            .put("/b", 900)
            .before()
            .each(0..5, |s, n| s.put("/a", 300 + n).put("/b", 900 - n))
            .close(),
        Script::new("overwrites-each-synced", SETTINGS)
            .put("/a", 3000)
            .before()
            .each(0..5, |s, n| s.put("/a", 3000 - 400 * n).sync()),
        Script::new("one-byte", SETTINGS)
            .put("/a", 5000)
            .before()
            .put_changed("/a", 4000)
            .sync()
            .put_changed("/a", 100)
            .put_changed("/a", 4999)
            .sync()
            .put_changed("/a", 300)
            .close(),
        Script::new("largest-values", SETTINGS)
            .put("/a", 8028)
            .put_sparse("/b", 8028)
            .before()
            .put("/a", 8028)
            .put_sparse("/b", 8028)
            .sync()
            .put("/b", 8028)
            .put_sparse("/a", 7000)
            .close(),
        Script::new("sparse-values", SETTINGS)
            .put_sparse("/a", 4000)
            .put_sparse("/b", 364)
            .before()
            .put_sparse("/a", 6000)
            .sync()
            .put_sparse("/a", 300)
            .put_sparse("/a", 5000)
            .delete("/b")
            .put_sparse("/b", 2000)
            .close(),
        Script::new("empty-values", SETTINGS)
            .put("/a", 700)
            .put("/b", 0)
            .put("/c", 60)
            .before()
            .put("/a", 0)
            .put("/b", 500)
            .sync()
            .delete("/c")
            .sync()
            .put("/c", 0)
            .put("/a", 30)
            .sync()
            .put("/a", 0)
            .put("/b", 0)
            .delete("/c")
            .close(),
        Script::new("empty-values-deleted", SETTINGS)
            .put("/a", 0)
            .put("/b", 0)
            .before()
            .delete("/a")
            .sync()
            .put("/b", 40)
            .put("/b", 0)
            .sync()
            .delete("/b")
            .put("/a", 0)
            .sync()
            .delete("/a")
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
        Script::new("delete-after-overwrites", SETTINGS)
            .put("/a", 1000)
            .put("/b", 1000)
            .before()
            .put("/a", 1100)
            .sync()
            .delete("/a")
            .sync()
            .put("/b", 1200)
            .put("/b", 1300)
            .delete("/b")
            .close(),
        Script::new("put-again", SETTINGS)
            .put(k0, 1500)
            .put("/b", 700)
            .before()
            .delete(k0)
            .sync()
            .put(k0, 1600)
            .sync()
            .delete(k0)
            .put(k1, 200)
            .sync()
            .put(k1, 600)
            .put(k0, 100)
            .close(),
        Script::new("put-again-over-deleted", SETTINGS)
            .put(k0, 3000)
            .put("/e", 0)
            .before()
            .delete(k0)
            .delete("/e")
            .close()
            .put(k2, 3000)
            .put("/e", 0)
            .sync()
            .delete(k2)
            .delete("/e")
            .sync()
            .put(k3, 0)
            .put("/e", 30)
            .close(),
        Script::new("put-again-short", SETTINGS)
            .put(k0, 100)
            .put(k1, 90)
            .put(k2, 80)
            .before()
            .delete(k0)
            .sync()
            .put(k3, 70)
            .sync()
            .put(k3, 75)
            .delete(k1)
            .sync()
            .put(k0, 60)
            .put(k3, 364)
            .sync()
            .delete(k3)
            .put(k1, 50)
            .put(k1, 365)
            .close()
            .delete(k2)
            .close()
            .put(k3, 40)
            .put(k3, 30)
            .sync()
            .delete(k3)
            .sync()
            .put(k2, 20),
        Script::new("put-again-short-joined", SETTINGS)
            .put(k0, 100)
            .put(k1, 90)
            .before()
            .delete(k0)
            .put(k3, 70)
            .join()
            .put(k3, 71)
            .delete(k1)
            .join()
            .put(k0, 60)
            .join()
            .delete(k0)
            .sync()
            .put(k2, 30)
            .kill()
            .put(k2, 31)
            .join()
            .close(),
        // What a deleted copy holds is put again over what followed it.
        Script::new("put-again-of-equal-values", SETTINGS)
            .put_values("/a", &["one"])
            .put_values("/b", &["", "one"])
            .put_values("/c", &[""])
            .put_values("/z", &["\0\0\0"])
            .before()
            .delete("/a")
            .delete("/b")
            .delete("/c")
            .delete("/z")
            .sync()
            .put_values("/a", &["two"])
            .put_values("/b", &["two"])
            .put_values("/c", &["two"])
            .put_values("/z", &["two"])
            .sync()
            .put_values("/z", &["\0\0\0"])
            .put_values("/a", &["one"])
            .put_values("/b", &["one"])
            .put_values("/c", &[""])
            .sync()
            .delete("/b")
            .delete("/c")
            .close()
            .put_values("/b", &["two"])
            .put_values("/c", &["two"])
            .sync()
            .put_values("/b", &[""])
            .put_values("/c", &["\u{ff}"])
            .sync()
            .put_values("/c", &[""])
            .close(),
        Script::new("close-with-deleted", SETTINGS)
            .put("/a", 400)
            .put("/b", 4000)
            .put("/c", 0)
            .put("/d", 40)
            .before()
            .delete("/a")
            .delete("/b")
            .delete("/c")
            .put("/d", 50)
            .delete("/d")
            .close(),
        Script::new("many", SETTINGS)
            .each(0..12, |s, n| s.put(&format!("/m{n}"), n * 90))
            .before()
            .each(0..12, |s, n| match n % 4 {
                0 => s.delete(&format!("/m{n}")),
                1 => s.put(&format!("/m{n}"), n * 50),
                2 => s.put(&format!("/x{n}"), n * 70),
                _ => s.sync(),
            })
            .close()
            .each(0..12, |s, n| s.put(&format!("/m{n}"), 1 + n * 30))
            .close(),
        Script::new("growing-file", SETTINGS)
            .put("/z", 100)
            .before()
            .each(0..14, |s, n| s.put(&format!("/g{n}"), 20 + 40 * n))
            .sync()
            .put("/z", 110)
            .each(14..20, |s, n| s.put(&format!("/g{n}"), 30)),
        Script::new("lives", SETTINGS)
            .put("/a", 100)
            .close()
            .put("/a", 200)
            .put("/b", 10)
            .sync()
            .close()
            .read()
            .close()
            .delete("/a")
            .close()
            .put("/b", 20)
            .put("/a", 70)
            .close(),
        Script::new("killed", SETTINGS)
            .put("/a", 800)
            .put("/b", 80)
            .before()
            .put("/a", 900)
            .put("/n", 50)
            .kill()
            .put("/a", 1000)
            .sync()
            .kill()
            .delete("/b")
            .put("/m", 500)
            .kill()
            .put("/b", 90)
            .put("/n", 60)
            .close(),
        Script::new("joined", SETTINGS)
            .put("/a", 800)
            .put("/b", 80)
            .before()
            .put("/a", 900)
            .join()
            .put("/a", 910)
            .delete("/b")
            .sync()
            .join()
            .put("/b", 700)
            .put("/a", 700)
            .join()
            .close(),
        Script::new("values-like-blocks", SETTINGS)
            .put("/a", 500)
            .put("/z", 60)
            .before()
            .put_value("/b", &like_blocks())
            .put("/y", 70)
            .sync()
            .put_value("/a", &like_blocks())
            .delete("/b")
            .sync()
            .put_value("/b", &like_blocks())
            .put("/z", 61)
            .close(),
    ];
    for s in [SETTINGS, RESOURCES, (510, 64, 4000)] {
        scripts.push(
            Script::new(&sizes("growth", s), s)
                .put(k0, 150)
                .sync()
                .put(k1, 160)
                .put("/o", 20)
                .sync()
                .put(k2, 170)
                .put(k1, 180)
                .close(),
        );
        scripts.push(
            Script::new(&sizes("growth-and-deletes", s), s)
                .put(k0, 150)
                .put(k1, 200)
                .put("/o", 20)
                .before()
                .delete(k1)
                .sync()
                .put(k2, 210)
                .put(k1, 190)
                .sync()
                .delete(k0)
                .put(k3, 180)
                .put(k2, 0)
                .close(),
        );
    }
    for s in [RESOURCES, (510, 64, 4000), (510, 16, 700)] {
        // With these sizes the checksum does not cover the end of a value.
        let large = s.2 as usize;
        scripts.push(
            Script::new(&sizes("uncovered-tail", s), s)
                .put("/r", large)
                .put("/t", large)
                .put("/u", large)
                .before()
                .put_changed("/r", large - 1)
                .put("/t", large)
                .sync()
                .put_changed("/r", large - 10)
                .put_changed("/t", large - 56)
                .put_changed("/t", large - 20)
                .sync()
                .delete("/u")
                .put("/u", large)
                .sync()
                .put_changed("/u", large - 4)
                .close(),
        );
        scripts.push(
            Script::new(&sizes("life", s), s)
                .put("/r", large)
                .put("/s", 0)
                .sync()
                .put("/r", 30)
                .delete("/s")
                .put("/t", large / 2)
                .put("/s", large - 1)
                .sync()
                .put("/t", 0)
                .close()
                .put("/t", large)
                .put("/r", large)
                .close(),
        );
    }
    for s in [
        (1, 128, 8028),
        (7, 128, 8028),
        (3, 64, 212),
        (509, 128, 300),
    ] {
        scripts.push(
            Script::new(&sizes("small-tables", s), s)
                .put("/a", 10)
                .put("/b", 20)
                .sync()
                .put("/c", 30)
                .put("/d", 40)
                .delete("/b")
                .sync()
                .put("/e", 50)
                .put("/a", 15)
                .put("/b", 60)
                .close()
                .put("/f", 70)
                .close(),
        );
    }
    // A process dies within a call; what it left is finished by others, and then the power goes.
    for after in [0, 2, 5, 9, 14, 25, 60, 200] {
        scripts.push(
            Script::new(&format!("dying-after-{after}"), SETTINGS)
                .put("/a", 700)
                .put("/b", 40)
                .put(k0, 90)
                .before()
                .put("/a", 800)
                .die(after)
                .put("/a", 900)
                .sync()
                .die(after)
                .delete("/b")
                .put("/c", 20)
                .die(after)
                .put(k1, 600)
                .sync()
                .die(after)
                .put("/b", 650)
                .put("/a", 30)
                .die(after)
                .op(cuts::scenario::Op::Close)
                .put("/d", 10),
        );
    }
    for after in [0, 1, 4, 12, 18, 20, 24, 28, 40] {
        scripts.push(
            Script::new(&format!("dying-in-a-put-again-after-{after}"), SETTINGS)
                .put(k0, 60)
                .put(k1, 50)
                .before()
                .delete(k0)
                .sync()
                .die(after)
                .put(k2, 40)
                .put(k2, 45)
                .sync()
                .delete(k1)
                .die(after)
                .put(k0, 30)
                .sync()
                .die(after)
                .put(k1, 35)
                .op(cuts::scenario::Op::Close),
        );
    }
    for after in [80, 84, 87, 88, 89, 90, 91, 92, 93, 95, 100, 130, 170] {
        scripts.push(
            Script::new(
                &format!("dying-in-a-long-put-again-after-{after}"),
                SETTINGS,
            )
            .put(k0, 60)
            .put(k1, 50)
            .before()
            .delete(k0)
            .sync()
            .die(after)
            .put(k2, 600)
            .put("/o", 45)
            .sync()
            .put(k2, 30)
            .op(cuts::scenario::Op::Close),
        );
    }
    scripts.extend(of_the_log());
    scripts.extend(of_runs());
    let mut all: Vec<Scenario> = scripts.into_iter().map(Script::finish).collect();
    all.extend(of_the_original());
    all.extend([true, false].map(over_a_second_copy));
    all.push(a_torn_second_copy());
    all
}

/// Values above 364 bytes that are one byte repeated: if a sector of them is missing, the file's checksum is often the same.
fn of_runs() -> Vec<Script> {
    let [k0, k1, k2, k3] = SAME_SLOT;
    let mut scripts = vec![
        Script::new("runs", SETTINGS)
            .put_run("/a", 4000)
            .put_run("/b", 1000)
            .sync()
            .put_run("/c", 8028)
            .put_run("/a", 3000)
            .put_run("/d", 600)
            .sync()
            .put_run("/a", 2500)
            .put_run("/c", 7000)
            .close()
            .put_run("/a", 6000)
            .put_run("/b", 900)
            .sync()
            .put_run("/a", 800)
            .close(),
        Script::new("runs-put-again", SETTINGS)
            .put_run(k0, 2000)
            .put_run("/b", 700)
            .put_run("/c", 40)
            .before()
            .delete(k0)
            .delete("/c")
            .sync()
            .put_run(k3, 1500)
            .put_run("/c", 3000)
            .sync()
            .put_run("/c", 2000)
            .delete("/b")
            .sync()
            .put_run("/b", 1000)
            .close(),
        Script::new("runs-growth", SETTINGS)
            .put_run(k0, 1500)
            .before()
            .put_run(k1, 1600)
            .sync()
            .delete(k0)
            .put_run(k2, 1700)
            .sync()
            .put_run(k3, 1800)
            .put_run(k1, 900)
            .close(),
        Script::new("runs-in-the-log", SETTINGS)
            .put_run("/a", 1000)
            .before()
            .each(0..4, |s, n| s.put_run("/a", 1100 + n))
            .sync()
            .put_run("/a", 1000)
            .put_run("/a", 3900)
            .close(),
        Script::new("runs-killed", SETTINGS)
            .put_run("/a", 1000)
            .kill()
            .put_run("/b", 1100)
            .put_run("/a", 900)
            .sync()
            .kill()
            .put_run("/c", 3000)
            .put_run("/b", 800)
            .close(),
    ];
    // A table of which a part has arrived, behind a pair of which a part has.
    scripts.push(
        Script::new("runs-before-a-table", SETTINGS)
            .put(k0, 100)
            .sync()
            .put_run("/a", 830)
            .put_run(k1, 700),
    );
    // The process dies between the commit of a put and its end.
    for after in 508..514 {
        scripts.push(
            Script::new(&format!("runs-dying-after-{after}"), SETTINGS)
                .put_run("/a", 600)
                .sync()
                .die(after)
                .put_run("/b", 2000)
                .put("/c", 20)
                .close(),
        );
    }
    for slot in ACROSS_SECTORS {
        let keys = keys_in(slot);
        // Of the delete, made to a pair of a closed file, the third word has not arrived.
        scripts.push(
            Script::new(&format!("runs-and-a-torn-delete-{slot}"), SETTINGS)
                .put_run("/a", 600)
                .put_run("/old", 700)
                .put_run(&keys[0], 700)
                .before()
                .put("/x", 10)
                .put_run("/new", 2000)
                .delete("/old")
                .sync()
                .put_run("/old", 2000)
                .delete(&keys[0])
                .sync(),
        );
        scripts.push(
            Script::new(&format!("runs-in-a-torn-slot-{slot}"), SETTINGS)
                .put_run("/a", 600)
                .put_run(&keys[0], 700)
                .sync()
                .put_run(&keys[1], 800)
                .delete(&keys[0])
                .sync()
                .put_run(&keys[2], 900)
                .put_run(&keys[1], 1000)
                .sync()
                .close(),
        );
    }
    scripts
}

/// Slots of which the third word lies in another sector than the first, or than both others.
const ACROSS_SECTORS: [usize; 2] = [20, 63];

/// Three keys of this slot of 510.
fn keys_in(slot: usize) -> Vec<String> {
    let names = (0..).map(|n| format!("/s{n}"));
    let keys = names.filter(|k| check::slot_of(k.as_bytes(), 510) == slot);
    keys.take(3).collect()
}

/// Keys that are put again and again: what follows the first change since a sync goes into the redo log.
fn of_the_log() -> Vec<Script> {
    let [k0, k1, k2, k3] = SAME_SLOT;
    let two = |name: &str| {
        let script = Script::new(name, SETTINGS);
        script.put("/a", 100).put("/b", 700).before()
    };
    let mut scripts = vec![
        two("log-synced")
            .each(1..4, |s, n| s.put("/a", 100 + n).sync())
            .put("/b", 600)
            .sync()
            .each(0..4, |s, n| s.put("/b", 500 + n).put("/a", 90 + n).sync())
            .close(),
        // Both numbers of changes, even and odd, at the close.
        two("log-lives")
            .each(1..6, |s, n| s.put("/a", 100 + n))
            .put("/b", 30)
            .close()
            .each(1..5, |s, n| s.put("/b", 40 + n).sync())
            .put("/a", 0)
            .close()
            .each(1..4, |s, n| s.put("/a", n % 2).sync())
            .close(),
        // The value that was there comes back, and the one before.
        two("log-of-equal-values")
            .put_values("/a", &["one", "two", "one"])
            .sync()
            .put_values("/a", &["one", "two"])
            .sync()
            .put_values("/a", &["two"])
            .put_values("/b", &["two", "one", "one", "two"])
            .sync()
            .put_values("/a", &["one"])
            .close()
            .put_values("/a", &["one"])
            .sync()
            .put_values("/b", &["one", "one"])
            .close()
            .put_values("/a", &["one"])
            .put_values("/b", &["one", "two", "two"])
            .sync()
            .delete("/a")
            .close(),
        // An empty value once without and once with its mark, then one that goes into the log.
        Script::new("log-of-empty-values", SETTINGS)
            .put("/a", 0)
            .put("/b", 100)
            .before()
            .put("/b", 101)
            .put("/b", 102)
            .put("/a", 0)
            .put("/a", 50)
            .sync()
            .put("/a", 51)
            .sync()
            .close(),
        two("log-and-deletes")
            .each(1..4, |s, n| s.put("/a", 100 + n))
            .sync()
            .delete("/a")
            .sync()
            .put("/a", 50)
            .each(1..4, |s, n| s.put("/b", 700 + n))
            .delete("/b")
            .put("/a", 51)
            .put("/a", 52)
            .sync()
            .put("/b", 20)
            .put("/b", 21)
            .put("/b", 22)
            .delete("/a")
            .close(),
        // A record fills a page. The medium has no room for a longer log: each half is full after 8, and both are used again and
        // again, with a key that rests in it.
        two("log-laps")
            .room(192 << 10)
            .each(0..3, |s, n| s.put("/b", 600 + n).put("/a", 3900 - n))
            .each(3..16, |s, n| s.put("/a", 3900 - n))
            .sync()
            .each(16..30, |s, n| s.put("/a", 3800 - n))
            .put("/b", 30)
            .sync()
            .each(30..48, |s, n| s.put("/a", 3700 - n))
            .sync()
            .put("/a", 10)
            .close(),
        // And each change durable; a third key comes while the other half is begun.
        two("log-laps-synced")
            .room(192 << 10)
            .each(0..2, |s, n| s.put("/b", 600 + n).put("/a", 3900 - n))
            .each(2..9, |s, n| s.put("/a", 3900 - n).sync())
            .put("/c", 50)
            .each(9..18, |s, n| s.put("/a", 3900 - n).sync())
            .put("/c", 51)
            .put("/c", 52)
            .each(18..27, |s, n| s.put("/a", 3900 - n).put("/c", n).sync())
            .delete("/b")
            .each(27..36, |s, n| s.put("/a", 3900 - n).put("/c", n).sync()),
        // Who brings values to the other half dies in it.
        two("log-laps-deaths")
            .room(192 << 10)
            .each(0..3, |s, n| s.put("/b", 600 + n).put("/a", 3900 - n))
            .each(3..9, |s, n| s.put("/a", 3900 - n))
            .sync()
            .die(150)
            .put("/a", 3880)
            .each(9..16, |s, n| s.put("/a", 3800 - n))
            .sync()
            .each(16..26, |s, n| s.put("/a", 3800 - n).die(2).put("/b", n))
            .each(26..36, |s, n| {
                s.put("/a", 3800 - n).die(700).put("/a", 3700 - n)
            })
            .sync()
            .each(36..44, |s, n| s.put("/a", 3800 - n))
            .close(),
        // A record fills a page: half of the log is full after 8, and it gets longer.
        two("log-full")
            .each(0..12, |s, n| s.put("/a", 3900 - n))
            .sync()
            .put("/b", 600)
            .put("/b", 601)
            .each(0..8, |s, n| s.put("/a", 3800 - n))
            .sync()
            .each(0..6, |s, n| s.put("/b", 3500 + n).put("/a", 20 + n))
            .sync()
            .put("/a", 3700)
            .put("/b", 3600),
        two("log-of-long-values")
            .put("/a", 3916)
            .put("/a", 3916)
            .put("/a", 3917)
            .sync()
            .put("/a", 5000)
            .put("/a", 3915)
            .put("/b", 8028)
            .put("/b", 10)
            .put("/b", 8028)
            .sync()
            .put("/b", 11)
            .close(),
        // New keys need the place of the log.
        two("log-and-new-keys")
            .each(1..4, |s, n| s.put("/a", 100 + n))
            .each(0..3, |s, n| s.put(&format!("/n{n}"), 30))
            .sync()
            .each(3..7, |s, n| s.put(&format!("/n{n}"), 30).put("/a", 40 + n))
            .sync()
            .each(7..9, |s, n| s.put(&format!("/n{n}"), 30).put("/n1", n)),
        Script::new("log-and-tables", SETTINGS)
            .put(k0, 100)
            .before()
            .each(1..4, |s, n| s.put(k0, 100 + n))
            .put(k1, 50)
            .sync()
            .each(1..4, |s, n| s.put(k1, 50 + n).put(k0, 60 + n))
            .put(k2, 20)
            .each(1..4, |s, n| s.put(k2, 20 + n))
            .delete(k1)
            .put(k3, 15)
            .put(k3, 16)
            .sync()
            .put(k3, 17)
            .close(),
        two("log-killed")
            .each(1..4, |s, n| s.put("/a", 100 + n))
            .kill()
            .each(1..4, |s, n| s.put("/a", 200 + n))
            .sync()
            .put("/b", 70)
            .put("/b", 71)
            .put("/b", 72)
            .kill()
            .put("/a", 10)
            .kill()
            .put("/a", 11)
            .close(),
        two("log-joined")
            .each(1..4, |s, n| s.put("/a", 100 + n))
            .join()
            .each(1..4, |s, n| s.put("/a", 200 + n).put("/b", 300 + n))
            .sync()
            .join()
            .put("/b", 70)
            .delete("/a")
            .join()
            .put("/b", 71)
            .put("/a", 72)
            .close(),
    ];
    // A process dies while it writes a record, makes the log or brings values into their pairs.
    for after in [0, 1, 3, 10, 22, 24, 25, 26, 27, 28, 30, 40] {
        scripts.push(
            two(&format!("dying-in-the-log-after-{after}"))
                .put("/a", 60)
                .die(after)
                .put("/a", 61)
                .put("/a", 62)
                .sync()
                .die(after)
                .put("/a", 63)
                .put("/a", 64)
                .die(after)
                .put("/a", 65)
                .sync()
                .put("/b", 80)
                .put("/b", 81)
                .die(after)
                .delete("/a")
                .put("/b", 82)
                .die(after)
                .op(cuts::scenario::Op::Close),
        );
    }
    scripts
}

/// Files that the original left, closed or not: our library recovers them and goes on.
fn of_the_original() -> Vec<Scenario> {
    let names = [
        "01-basic",
        "02-overwrite",
        "03-delete-reuse",
        "05-rct",
        "unclean-first",
        "unclean-grown",
        "unclean-later",
    ];
    let mut all: Vec<Scenario> = names
        .map(|name| after_the_original(name, packed("golden", name)))
        .into();
    // Not closed, its tables are of an older time, and what they say of one pair is not what its copies say: no recovery
    // may believe them, nor one that follows a recovery that was cut short.
    all.push(after_the_original(
        "stale-word",
        packed("second-reader", "185"),
    ));
    // Closed, and the checksum of the first of its tables is wrong: some are believed.
    let mut image = packed("golden", "04-chain");
    image[4096 + 8] ^= 1;
    all.push(after_the_original("one-bad-table", image));
    all
}

/// What the original finds.
fn found_in(image: &[u8]) -> BTreeMap<Vec<u8>, Bytes> {
    let found = original::recover(image).pairs.into_iter();
    found.map(|(k, v)| (k, v.as_slice().into())).collect()
}

/// The checksum of table 0, of the usual sizes.
fn seal_first_table(image: &mut [u8]) {
    let table = &mut image[4096..4 * 4096];
    let sum = check::checksum(&table[16..12288 - 8]);
    table[8..12].copy_from_slice(&sum.to_le_bytes());
}

/// A file that was cut off behind the first copy of /y; the original put the pair of /z there, and closed it or not.
fn over_a_second_copy(closed: bool) -> Scenario {
    const PAIR: usize = 16384;
    let mut image = Script::new("over-a-second-copy", SETTINGS)
        .put("/x", 100)
        .put("/y", 90)
        .put("/z", 80)
        .before()
        .finish()
        .image;
    let z = image.len() - PAIR;
    // Header and first table; the pairs of /x, /y and /z follow.
    assert_eq!(z, 4 * 4096 + 2 * PAIR);
    image.copy_within(z.., z - PAIR / 2);
    image.truncate(z + PAIR / 2);
    let table = 4096..4 * 4096;
    let slot = table.start + 16 + 24 * check::slot_of(b"/z", 510);
    for at in [slot, slot + 8] {
        let moved = reader::word(&image, at) - PAIR as u64 / 2;
        image[at..at + 8].copy_from_slice(&moved.to_le_bytes());
    }
    seal_first_table(&mut image);
    if !closed {
        image[16] = 1;
        image[24] = 0;
    }
    let found = found_in(&image);
    let name = if closed { "" } else { "-left-open" };
    Script::new(&format!("over-a-second-copy{name}"), SETTINGS)
        .put("/new", 70)
        .put("/x", 60)
        .sync()
        .delete("/z")
        .put("/y", 50)
        .close()
        .on(image, &found, |ours| assert_eq!(ours.len(), 3))
}

/// Power went while the original wrote the second copy of /y, whose value is a run of one byte. The first recovery mends it.
fn a_torn_second_copy() -> Scenario {
    let value = [0x5A; 1000];
    let before = |script: Script| script.put("/x", 100).put_value("/y", &value).before();
    let mut image = before(Script::new("before", SETTINGS)).finish().image;
    let second = image.len() - 8192;
    image[second + 148..][..1000].fill(0);
    image[second + 8] ^= 1;
    image[16] = 1;
    image[24] = 0;
    let found = found_in(&image);
    Script::new("original-torn-second-copy", SETTINGS)
        .put("/new", 70)
        .sync()
        .put_run("/y", 900)
        .close()
        .on(image, &found, |ours| {
            assert_eq!(ours[&b"/y"[..]][..], value)
        })
}

/// The same, and the table that the pair names has not arrived. The first recovery gives the pair a slot of another one, in the copy
/// that is not whole.
fn a_torn_second_copy_without_its_table() -> Scenario {
    let [k0, k1, ..] = SAME_SLOT;
    let value = [0x5A; 1000];
    let before = Script::new("before", SETTINGS).put(k0, 100);
    let mut image = before.put_value(k1, &value).before().finish().image;
    let pair = image.len() - 16384;
    image[pair - 12288..pair].fill(0);
    image[pair + 8192 + 148..][..1000].fill(0);
    image[16] = 1;
    image[24] = 0;
    let known = [(k1.as_bytes().to_vec(), value.as_slice().into())];
    Script::new("damaged-torn-second-copy", SETTINGS)
        .put("/new", 70)
        .sync()
        .close()
        .on_damaged(image, known.into())
}

fn after_the_original(name: &str, image: Vec<u8>) -> Scenario {
    let found = found_in(&image);
    let text = |n: usize| {
        let key = found.keys().nth(n % found.len().max(1)).cloned();
        key.and_then(|k| String::from_utf8(k).ok())
            .unwrap_or_else(|| "/none".into())
    };
    let (one, two, three) = (text(0), text(found.len() / 2), text(found.len() - 1));
    Script::new(&format!("original-{name}"), SETTINGS)
        .put(&one, 100)
        .put("/cut/new", 150)
        .sync()
        .delete(&two)
        .put(&three, 60)
        .put(&three, 70)
        .sync()
        .put(&two, 80)
        .close()
        .on(image.clone(), &found, |ours| {
            let expected = reader::read(&image);
            assert!(
                expected.header && expected.ambiguous == 0 && !expected.foreign,
                "{name}"
            );
            assert!(expected.must.keys().eq(ours.keys()), "{name}: other keys");
            for (key, value) in ours {
                let values = &expected.must[key];
                assert!(
                    values.contains(&value[..]),
                    "{name}: {}",
                    key.escape_ascii()
                );
            }
        })
}

/// A closed file: start delimiter and one slot of its table are gone, and what is left has a right checksum. With the
/// delimiter alone it would be a whole table of a closed file, without the key.
fn a_lost_start_of_a_table() -> Scenario {
    let mut image = Script::new("before", SETTINGS)
        .put("/x", 100)
        .put("/y", 90)
        .before()
        .finish()
        .image;
    let found = found_in(&image);
    let table = 4096..4 * 4096;
    image[table.start..table.start + 8].fill(0);
    let slot = table.start + 16 + 24 * check::slot_of(b"/x", 510);
    image[slot..slot + 24].fill(0);
    seal_first_table(&mut image);
    Script::new("damaged-start-of-a-table", SETTINGS)
        .put("/new", 70)
        .put("/x", 60)
        .sync()
        .close()
        .on_damaged(image, found)
}

/// A file that a walk is in the middle of, with a table to which no link leads. So the next table's number is another one, and the slot of a
/// pair goes from it to the lost one. Power went when it was not there yet and gone here: of the two copies the older one was taken.
fn a_slot_goes_to_a_lost_table() -> Scenario {
    const TABLE: usize = 12288;
    let [k0, k1, ..] = SAME_SLOT;
    let before = Script::new("before", SETTINGS).put(k0, 100);
    let before = before.put(k1, 90).put(k1, 100).before();
    let mut image = before.put(k1, 110).sync().finish().record().last;
    let link = 4096 + 16 + 24 * 510;
    let linked = reader::word(&image, link) as usize;
    // An empty table in front of it.
    let mut lost = vec![0; TABLE];
    lost[..8].copy_from_slice(&image[4096..4096 + 8]);
    lost[TABLE - 8..].copy_from_slice(&image[4 * 4096 - 8..4 * 4096]);
    image.splice(linked..linked, lost);
    let slot = linked + TABLE + 16 + 24 * check::slot_of(k1.as_bytes(), 510);
    for at in [link, slot, slot + 8] {
        let behind = reader::word(&image, at) + TABLE as u64;
        image[at..at + 8].copy_from_slice(&behind.to_le_bytes());
    }
    image[4096 + 8..4096 + 16].copy_from_slice(&0xFFFF_FFFF_0000_0000_u64.to_le_bytes());
    let value = reader::read(&image).must.remove(k1.as_bytes()).expect("k1");
    let value = value.into_iter().next().expect("a value").into();
    Script::new("damaged-slot-to-a-lost-table", SETTINGS)
        .put("/new", 70)
        .sync()
        .close()
        .on_damaged(image, [(k1.as_bytes().to_vec(), value)].into())
}

/// A file of this library that was not closed, which the original has recovered and closed: it leaves the ends of pairs alone that it
/// does not change. `again`: the pair was a deleted one before. No cut may take such a pair for one that has not arrived.
fn closed_without_ends(slot: usize, again: bool) -> Scenario {
    let key = &keys_in(slot)[0];
    let mut script = Script::new("before", SETTINGS).put("/x", 100);
    if again {
        script = script.put(key, 3).before();
        script = script.delete(key).sync().put("/x", 7);
    }
    let mut image = script.put_sparse(key, 2000).sync().finish().record().last;
    for slot in (0..510).map(|i| 4096 + 16 + 24 * i) {
        // As a closed file says it.
        let word = reader::word(&image, slot + 16);
        let current = if word >> 63 == 1 {
            word >> 62 & 1
        } else {
            word
        };
        image[slot + 16..slot + 24].copy_from_slice(&current.to_le_bytes());
        let a = reader::word(&image, slot);
        if a != 0 {
            image[slot + 8..slot + 16].copy_from_slice(&(a + 8192).to_le_bytes());
        }
    }
    image[4096 + 8..4096 + 16].fill(0);
    seal_first_table(&mut image);
    image[16] = 0;
    image[24] = 1;
    let found = found_in(&image);
    assert!(found.contains_key(key.as_bytes()));
    Script::new(&format!("damaged-ends-{slot}-{again}"), SETTINGS)
        .put("/new", 70)
        .sync()
        .kill()
        .put("/new", 71)
        .close()
        .on_damaged(image, found)
}

/// Files that were damaged, of this library in every state and of the original, and files of the original that power cuts have
/// shortened. What no damage has touched must outlive a power cut as well, in the first changes and in the recovery before them.
fn of_damaged_files(seed: u64, files: u64) -> Vec<Scenario> {
    let mut rng = procs::Rng(2_303);
    let mut seeds: Vec<_> = (0..200)
        .map(|_| made::file(&mut rng))
        .map(|(name, bytes)| mutate::Seed::new(name, bytes))
        .collect();
    for name in ["01-basic", "05-rct", "unclean-first", "unclean-later"] {
        seeds.push(mutate::Seed::new(name.into(), packed("golden", name)));
    }
    let path = std::env::var("KISSDB_CUT_REPLAY").unwrap_or_default();
    let asked = |kind| {
        let number = path.strip_prefix(kind)?.get(..16)?;
        u64::from_str_radix(number, 16).ok()
    };
    if let Some(number) = asked(DAMAGED) {
        return damaged_file(&seeds, number).into_iter().collect();
    }
    if let Some(number) = asked(SHORTENED) {
        return shortened_file(number).into_iter().collect();
    }
    let mut rng = procs::Rng(seed);
    let numbers: Vec<_> = (0..files).map(|_| rng.next()).collect();
    let damaged = numbers.iter().filter_map(|&n| damaged_file(&seeds, n));
    let shortened = numbers
        .iter()
        .filter_map(|&n| shortened_file(n))
        .take(numbers.len() / 5);
    damaged.chain(shortened).collect()
}

/// Before the number in the name of such a scenario.
const DAMAGED: &str = "damaged-";
const SHORTENED: &str = "shortened-";

/// `None`: too little is known of it.
fn damaged_file(seeds: &[mutate::Seed], number: u64) -> Option<Scenario> {
    let mut image = mutate::damaged(seeds, number, u32::MAX).bytes;
    image.resize(image.len().next_multiple_of(4096), 0);
    let want = reader::read(&image);
    if want.foreign {
        // A copy of a key where nobody looks for it is found by a walk only, perhaps behind a delete of the key.
        return None;
    }
    let mut known = BTreeMap::new();
    for (key, values) in want.must {
        // Which of two counts is lost, in a closed file, by a cut between the marks in header and table.
        let one = want.good.get(&key).is_some_and(|all| all.len() == 1);
        if values.len() == 1 && (one || want.marked) {
            known.extend(values.iter().map(|v| (key.clone(), v.as_slice().into())));
        }
    }
    changed(
        &format!("{DAMAGED}{number:016x}"),
        want.value_size,
        image,
        known,
    )
}

/// A file of the original that power cuts have shortened.
fn shortened_file(number: u64) -> Option<Scenario> {
    let lives = lives::Lives::some(number);
    let known = lives.keys().map(|(key, value)| (key.into(), value.into()));
    let known: BTreeMap<_, _> = known.collect();
    changed(
        &format!("{SHORTENED}{number:016x}"),
        8028,
        lives.image.bytes,
        known,
    )
}

/// Some calls on a file in which this is known; `None`: too little is. `most`: bytes of a value.
fn changed(
    name: &str,
    most: usize,
    image: Vec<u8>,
    known: BTreeMap<Vec<u8>, Bytes>,
) -> Option<Scenario> {
    let names = known.keys().cloned().map(String::from_utf8);
    let names: Vec<_> = names.filter_map(Result::ok).collect();
    let [first, .., last] = &names[..] else {
        return None;
    };
    let script = Script::new(name, SETTINGS)
        .put("/cut/new", most.min(150))
        .put(first, most.min(100))
        .sync()
        .delete(last)
        .put(first, most.min(60))
        .put(first, most.min(70))
        .sync()
        .put(last, most.min(80))
        .close();
    Some(script.on_damaged(image, known))
}

/// A value with block delimiters wherever a page can begin in it: who looks into values stumbles.
fn like_blocks() -> Vec<u8> {
    let mut value = vec![0x77; 8028];
    let marks: [u32; 4] = [0x2AAA_AAAA, 0xE38E_38E3, 0xAAAA_AAAA, 0x7E07_E07E];
    // The value begins at 148 of its block.
    for (n, mark) in marks.into_iter().enumerate() {
        let at = if n % 2 == 0 { 3948 } else { 3948 - 8 };
        value[at + n * 512..at + n * 512 + 4].copy_from_slice(&mark.to_le_bytes());
        value[at + n * 512 + 4..at + n * 512 + 8].fill(0);
    }
    value
}

fn packed(directory: &str, name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(directory)
        .join(format!("{name}.db.gz"));
    let packed = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut bytes = Vec::new();
    flate2::read::MultiGzDecoder::new(packed.as_slice())
        .read_to_end(&mut bytes)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    bytes
}

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |t| {
        let digits = t.replace('_', "");
        digits.parse().unwrap_or_else(|_| panic!("{name}: {t}"))
    })
}

/// An unoptimised build is thirty times slower. That it is one only the name of its directory tells,
/// because optimised builds can have debug assertions too.
fn default_states() -> u64 {
    let exe = std::env::current_exe().unwrap_or_default();
    let debug = exe.components().any(|c| c.as_os_str() == "debug");
    if debug { 5000 } else { 200_000 }
}

fn tell(report: &Report, seed: u64) {
    for (name, (n, seconds)) in &report.states {
        println!("{n:9} states {seconds:7.1} s {name}");
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

fn asked_for(mut all: Vec<Scenario>) -> Vec<Scenario> {
    if let Ok(part) = std::env::var("KISSDB_CUT_SCENARIO") {
        all.retain(|s| s.name.contains(&part));
    }
    all
}

/// Whether one state is asked for instead of all; it is shown if it is one of these scenarios.
fn is_replayed(all: &[Scenario]) -> bool {
    let Ok(path) = std::env::var("KISSDB_CUT_REPLAY") else {
        return false;
    };
    if all.iter().any(|s| path.split('/').next() == Some(&s.name)) {
        replay(all.to_vec(), &path).unwrap_or_else(|e| panic!("{e}"));
    }
    true
}

#[test]
fn no_cut_loses_anything() {
    let all = asked_for(scenarios());
    if is_replayed(&all) {
        return;
    }
    let first = number("KISSDB_SEED", 1);
    for seed in first..first + number("KISSDB_SEEDS", 1) {
        let budget = Budget {
            states: number("KISSDB_CUT_STATES", default_states()),
            nested: 30,
            depth: number("KISSDB_CUT_DEPTH", 2) as u32,
            seed,
            failures: number("KISSDB_CUT_FAILURES", 20) as usize,
        };
        let report = run(all.clone(), budget);
        tell(&report, seed);
        assert_eq!(report.failed, 0, "seed {seed}");
    }
}

#[test]
fn no_cut_loses_what_no_damage_has_touched() {
    let first = number("KISSDB_SEED", 1);
    for seed in first..first + number("KISSDB_SEEDS", 1) {
        let states = number("KISSDB_CUT_STATES", default_states());
        let files = number("KISSDB_CUT_DAMAGED", states / 2000);
        let mut all = of_damaged_files(seed, files);
        all.push(a_lost_start_of_a_table());
        all.push(a_torn_second_copy_without_its_table());
        all.push(a_slot_goes_to_a_lost_table());
        for slot in ACROSS_SECTORS {
            all.extend([false, true].map(|again| closed_without_ends(slot, again)));
        }
        let all = asked_for(all);
        if is_replayed(&all) {
            return;
        }
        let budget = Budget {
            states: 200 * files,
            nested: 30,
            depth: 2,
            seed,
            failures: number("KISSDB_CUT_FAILURES", 20) as usize,
        };
        let report = run(all, budget);
        tell(&report, seed);
        assert_eq!(report.failed, 0, "seed {seed}");
    }
}

/// The enumerator over a medium, or a protocol, that breaks its word. Answers what it finds.
fn deceived(name: &str, fault: Fault) -> Report {
    let mut all = scenarios();
    all.retain(|s| s.name == name);
    for s in &mut all {
        s.fault = fault;
    }
    run(
        all,
        Budget {
            states: 3000,
            nested: 0,
            depth: 0,
            seed: 1,
            failures: 1,
        },
    )
}

#[test]
fn a_sync_that_does_nothing_is_noticed() {
    // The engine then changes both copies of a pair in one epoch, among others.
    for name in [
        "first-life",
        "overwrites",
        "overwrites-without-sync",
        "one-byte",
        "largest-values",
        "empty-values",
        "deletes",
        "put-again",
        "close-with-deleted",
        "joined",
        "growth-510-128-8028",
        "growth-and-deletes-510-64-212",
        "uncovered-tail-510-64-212",
        "uncovered-tail-510-64-4000",
        "small-tables-7-128-8028",
        "dying-after-9",
    ] {
        let report = deceived(name, Fault::SyncsDoNothing);
        assert_ne!(report.failed, 0, "{name}: {report:?}");
        let message = &report.failures[0].message;
        assert!(message.starts_with('P'), "{name}: {message}");
    }
}

#[test]
fn the_order_of_stores_in_a_sector_matters() {
    // Where a checksum proves all of a copy the order does not matter. It does for a new pair, whose
    // start delimiter comes last, and where the checksum does not cover the end of the value or the
    // number of the table.
    for name in [
        "first-life",
        "put-again",
        "uncovered-tail-510-64-212",
        "growth-and-deletes-510-64-212",
        "small-tables-3-64-212",
    ] {
        let report = deceived(name, Fault::Reversed);
        assert_ne!(report.failed, 0, "{name}: {report:?}");
    }
}

#[test]
fn an_honest_medium_deceives_nobody() {
    // The same few states as above.
    for name in ["overwrites", "first-life", "put-again", "deletes"] {
        let report = deceived(name, Fault::None);
        assert_eq!(report.failed, 0, "{name}: {report:?}");
        assert!(report.total() > 1000, "{name}: {report:?}");
    }
}
