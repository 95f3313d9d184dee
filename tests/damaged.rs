//! Damaged and crafted files (guarantee P4, recovery of guarantees.md section 2; failures 5-12, 24-28 and 35 of the
//! original).
//!
//! What happened: a medium lost or mixed up sectors, a file was cut off or came from somebody who meant harm. What the
//! user saw: of 6000 randomly damaged files the original crashed on, hung at or ruined 946, with keys gone that no
//! damage had touched.
//!
//! Each run takes a real file (the original's, those of second-reader, our own in every state), damages it
//! (`support/mutate.rs`), opens it read-only and for writing, reads, iterates, changes and closes it. `support/reader.rs`
//! says which keys must survive. Most runs happen in memory, some through the C functions in a child process.
//!
//! `KISSDB_DAMAGED` says how many runs, `KISSDB_SEED` which; a run prints both. A failure prints how to see it again:
//! `KISSDB_DAMAGED_RUN` names one run (and `KISSDB_DAMAGED_MASK` the changes of it that are needed),
//! `KISSDB_DAMAGED_KEEP` a file to keep the damaged database in.
#![allow(clippy::type_complexity, clippy::arc_with_non_send_sync)]

#[path = "support/judge.rs"]
mod judge;
#[path = "support/made.rs"]
mod made;
#[path = "support/mutate.rs"]
mod mutate;
#[path = "support/procs.rs"]
mod procs;
#[path = "support/reader.rs"]
mod reader;
mod support;

use judge::{Contents, Counts, Judged, TOO_MANY, compare, judge, seeds, worse};
use mutate::{Damaged, Seed, damaged};
use procs::{Atomics, Mapped, Rng, Running, mix, number};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use support::Scratch;
use support::check::{self, check};
use support::ffi::{self, Plain};

// ---------------------------------------------------------------- many runs

/// One run by its number: what is wrong, and the damage.
fn run(seeds: &[Seed], seed: u64, n: u64, mask: u32, counts: &mut Counts) -> (Judged, Damaged) {
    let seed = seed_of(seed, n);
    let d = damaged(seeds, seed, mask);
    counts.runs += 1;
    let judged = catch_unwind(AssertUnwindSafe(|| {
        judge(&d.bytes, &mut Rng(mix(seed ^ 5)), counts)
    }));
    let judged = judged.unwrap_or_else(|p| {
        let text = p
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| p.downcast_ref::<&str>().map(|s| (*s).to_owned()))
            .unwrap_or_default();
        let place = PANICKED.take();
        Err(if text.contains(TOO_MANY) {
            text
        } else {
            format!("panic: {text} at {place}")
        })
    });
    (judged, d)
}

thread_local! {
    static PANICKED: Cell<String> = const { Cell::new(String::new()) };
}

/// Panics are findings, told once at the end.
fn quiet_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        if place.contains("src/") || info.to_string().contains(TOO_MANY) {
            PANICKED.set(place);
        } else {
            eprintln!("{info}");
        }
    }));
}

fn class(finding: &str) -> &str {
    finding.split(':').next().unwrap_or(finding)
}

/// Leaves out every change that the finding does not need.
fn shrink(seeds: &[Seed], seed: u64, n: u64, of: &str) -> u32 {
    let mut mask = u32::MAX;
    for bit in 0..mutate::CHANGES {
        let less = mask & !(1 << bit);
        let (judged, _) = run(seeds, seed, n, less, &mut Counts::default());
        if judged.err().is_some_and(|f| class(&f) == class(of)) {
            mask = less;
        }
    }
    mask
}

fn tell(seeds: &[Seed], seed: u64, n: u64, finding: &str) -> String {
    let mask = shrink(seeds, seed, n, finding);
    let (judged, d) = run(seeds, seed, n, mask, &mut Counts::default());
    let judged = judged.err().unwrap_or_default();
    format!(
        "{judged}\n  {}\n  again: KISSDB_SEED={seed} KISSDB_DAMAGED_RUN={n} KISSDB_DAMAGED_MASK={mask:#x} \
         cargo test --profile checked --test damaged in_memory -- --nocapture",
        d.told.join("\n  ")
    )
}

/// Only the name of its directory tells: optimised builds can have debug assertions too.
fn unoptimised() -> bool {
    let exe = std::env::current_exe().unwrap_or_default();
    exe.components().any(|c| c.as_os_str() == "debug")
}

fn seed_of(seed: u64, n: u64) -> u64 {
    mix(seed.wrapping_mul(0x1000_0001) ^ mix(n))
}

#[test]
fn in_memory() {
    quiet_panics();
    let seeds = seeds();
    let seed = number("KISSDB_SEED", 1);
    if let Some(n) = std::env::var_os("KISSDB_DAMAGED_RUN") {
        let n = n.to_string_lossy().parse().expect("a number");
        let mask = std::env::var("KISSDB_DAMAGED_MASK").unwrap_or_default();
        let mask = u32::from_str_radix(mask.trim_start_matches("0x"), 16).unwrap_or(u32::MAX);
        let (judged, d) = run(&seeds, seed, n, mask, &mut Counts::default());
        println!("{}", d.told.join("\n"));
        println!("{:#?}", check(&d.bytes, false));
        println!("{:#?}", check::dump(&d.bytes));
        if let Some(path) = std::env::var_os("KISSDB_DAMAGED_KEEP") {
            std::fs::write(path, &d.bytes).expect("keep the file");
        }
        assert_eq!(judged, Ok(()));
        return;
    }
    let default = if unoptimised() { 10_000 } else { 196_000 };
    let runs = number("KISSDB_DAMAGED", default);
    let threads = number("KISSDB_THREADS", 2).max(1);
    let started = Instant::now();
    let (all, findings) = std::thread::scope(|scope| {
        let work = |t: u64| {
            let seeds = &seeds;
            move || {
                let mut counts = Counts::default();
                let mut findings = Vec::new();
                for n in (t..runs).step_by(threads as usize) {
                    let (judged, _) = run(seeds, seed, n, u32::MAX, &mut counts);
                    findings.extend(judged.err().map(|f| (n, f)));
                }
                (counts, findings)
            }
        };
        let workers: Vec<_> = (0..threads).map(|t| scope.spawn(work(t))).collect();
        let mut all = Counts::default();
        let mut findings = Vec::new();
        for w in workers {
            let (counts, f) = w.join().expect("a worker");
            all.add(&counts);
            findings.extend(f);
        }
        (all, findings)
    });
    println!(
        "{} damaged files, seed {seed}, {:.1} s, {threads} threads: {} refused; {} keys demanded ({} with a choice of \
         values), {} pairs not judged because of overlaps, {} that no slot leads to; {} gets of damaged pairs, {} second looks, at most \
         {:.0} storage calls a page to open, memory {:.1} times the file",
        all.runs,
        started.elapsed().as_secs_f64(),
        all.refused,
        all.demanded,
        all.loose,
        all.ambiguous,
        all.unreachable,
        all.damaged_gets,
        all.second_looks,
        all.most_calls,
        all.most_memory
    );
    for (what, n) in &all.errors {
        println!("{n:8} {what}");
    }
    let mut classes: BTreeMap<&str, (u64, Vec<&(u64, String)>)> = BTreeMap::new();
    for f in &findings {
        let (n, list) = classes.entry(class(&f.1)).or_default();
        *n += 1;
        list.push(f);
    }
    for (class, (n, list)) in &classes {
        println!("{n} times {class}:");
        for (n, f) in list.iter().take(3) {
            println!("- {}", tell(&seeds, seed, *n, f));
        }
    }
    assert!(findings.is_empty(), "{} findings", findings.len());
}

// ---------------------------------------------------------------- through the C functions

/// Where a child is; survives it.
#[repr(C)]
struct Board {
    run: AtomicU64,
    since: AtomicU64,
    done: AtomicU64,
}

// SAFETY: atomics only.
unsafe impl Atomics for Board {}

const CHILD: &str = "KISSDB_DAMAGED_CHILD";
/// A run that takes longer hangs.
const LIMIT_NS: u64 = 10_000_000_000;

/// The runs that the driver gave, each with a file of its own name.
#[test]
fn child() {
    let Ok(work) = std::env::var(CHILD) else {
        return;
    };
    procs::die_with_the_driver();
    let words: Vec<&str> = work.split('\n').collect();
    let [directory, seed, from, to] = words[..] else {
        panic!("{work}")
    };
    let directory = Path::new(directory);
    let number = |s: &str| s.parse::<u64>().expect("a number");
    let board: Mapped<Board> = Mapped::open(&directory.join("board")).expect("the board");
    let seeds = seeds();
    kissdb::log::set(kissdb::log::Level::Info, |_, text| {
        let fit = (1..1000).contains(&text.len()) && !text.contains(char::is_control);
        if !fit {
            *UNFIT.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.to_owned());
        }
    });
    for n in number(from)..number(to) {
        board.run.store(n, Relaxed);
        board.since.store(procs::now(), SeqCst);
        let seed = seed_of(number(seed), n);
        let d = damaged(&seeds, seed, u32::MAX);
        let path = directory.join(format!("{n}.db"));
        let judged = judge_file(&path, &d.bytes, &mut Rng(mix(seed ^ 6)));
        if let Err(finding) = judged.and_then(|_| unfit()) {
            std::fs::write(directory.join("finding"), finding).expect("a finding");
            std::process::exit(7);
        }
        board.since.store(0, SeqCst);
        board.done.fetch_add(1, SeqCst);
    }
}

/// A message that is no line for a log: whatever a file holds ends up there.
static UNFIT: Mutex<Option<String>> = Mutex::new(None);

fn unfit() -> Judged {
    let text = UNFIT.lock().unwrap_or_else(PoisonError::into_inner).take();
    text.map_or(Ok(()), |text| {
        Err(format!("a message: {}", text.escape_debug()))
    })
}

/// The same as in memory, shorter: what the C functions answer on a real file.
fn judge_file(path: &Path, bytes: &[u8], rng: &mut Rng) -> Judged {
    let want = reader::read(bytes);
    std::fs::write(path, bytes).expect("a file");
    let now = || std::fs::read(path).unwrap_or_default();
    let read = |db: &Plain, keys: &BTreeSet<Vec<u8>>| -> Judged<Contents> {
        let mut out = Contents::default();
        for key in keys {
            match db.get(key) {
                Ok(v) => {
                    out.pairs.insert(key.clone(), v);
                }
                Err(1) => {}
                Err(ffi::ERROR_CORRUPT_DBFILE) => {
                    out.bad.insert(key.clone());
                }
                Err(rc) => return Err(format!("get answers {rc}: {}", key.escape_ascii())),
            }
        }
        out.listed = db.keys().map_err(|rc| format!("iterate answers: {rc}"))?;
        Ok(out)
    };

    let db = Plain::new();
    let rc = db.open(path, ffi::RDONLY, ffi::WT, ffi::SETTINGS);
    if rc == 0 {
        read(&db, &want.keys)?.meets(&want, "after a read-only open")?;
        if db.put(b"a", b"b") != (ffi::ERROR_ACCESS_VIOLATION, 0) {
            return Err("read-only: a put is not refused".to_owned());
        }
        match db.close() {
            0 => {}
            rc => return Err(format!("read-only close: {rc}")),
        }
    } else if want.header && rc != ffi::ERROR_IO {
        return Err(format!("read-only open answers: {rc}"));
    }
    if now() != bytes {
        return Err("read-only: the file has changed".to_owned());
    }

    let mode = if rng.one_in(2) {
        ffi::RWCREAT
    } else {
        ffi::RDWR
    };
    let rc = db.open(path, mode, ffi::WT, ffi::SETTINGS);
    if rc != 0 {
        if now() != bytes {
            return Err("refused and changed: the file".to_owned());
        }
        if want.header || !(-12..0).contains(&rc) {
            return Err(format!("open answers: {rc}"));
        }
    } else {
        let mut found = read(&db, &want.keys)?;
        found.meets(&want, "after the open")?;
        let mut keys = want.keys.clone();
        let mut changed = 0;
        for _ in 0..rng.below(6) {
            let key = made::key(rng, 40);
            let value = made::value(rng, 200);
            match db.put(&key, &value).0 {
                0 => {
                    keys.insert(key.clone());
                    found.pairs.insert(key, value);
                    changed += 1;
                }
                ffi::ERROR_INVALID_PARAMETERS if value.len() > want.value_size => {}
                rc => return Err(format!("put answers: {rc}")),
            }
        }
        compare(&read(&db, &keys)?, &found.pairs, &want, "after changes")?;
        match db.close() {
            0 => {}
            rc => return Err(format!("close answers: {rc}")),
        }
        let closed = now();
        if closed != bytes || changed > 0 {
            let before = check(bytes, false);
            let new = worse(&before, &check(&closed, false));
            if !new.is_empty() {
                return Err(format!("made worse: {new:?}; before {before:?}"));
            }
        }
        // Once more: the same, and nothing is written.
        match db.open(path, ffi::RDWR, ffi::WT, ffi::SETTINGS) {
            0 => {}
            rc => return Err(format!("second open answers: {rc}")),
        }
        compare(&read(&db, &keys)?, &found.pairs, &want, "after reopening")?;
        match db.close() {
            0 => {}
            rc => return Err(format!("second close answers: {rc}")),
        }
        if now() != closed {
            return Err("a second open and close changes the file: settled before".to_owned());
        }
    }
    if let Some(tail) = ["-shm-info", "-ht"]
        .into_iter()
        .find(|tail| support::object_exists(path, tail))
    {
        return Err(format!("left behind: {tail}"));
    }
    std::fs::remove_file(path).expect("remove the file");
    Ok(())
}

#[test]
fn through_the_c_functions() {
    let seed = number("KISSDB_SEED", 1);
    let default = if unoptimised() { 500 } else { 4_000 };
    let mut runs = number("KISSDB_DAMAGED_FILES", default);
    let mut next = 0;
    if std::env::var_os("KISSDB_DAMAGED_RUN").is_some() {
        next = number("KISSDB_DAMAGED_RUN", 0);
        runs = next + 1;
    }
    let scratch = Scratch::below(procs::fast_directory());
    let board: Mapped<Board> = Mapped::create(&scratch.db("board")).expect("a board");
    let started = Instant::now();
    let mut findings = Vec::new();
    while next < runs && findings.len() < 10 {
        let work = format!("{}\n{seed}\n{next}\n{runs}", scratch.path().display());
        board.since.store(0, SeqCst);
        let mut child = Running::start(&mut procs::child(CHILD, work));
        let ended = loop {
            if let Some(status) = child.wait_for(Duration::from_millis(200)) {
                break Some(status);
            }
            let since = board.since.load(SeqCst);
            if since != 0 && procs::now().saturating_sub(since) > LIMIT_NS {
                child.kill();
                break None;
            }
        };
        let n = board.run.load(Relaxed);
        let what = match ended {
            Some(status) if status.success() => break,
            Some(status) if status.code() == Some(7) => {
                std::fs::read_to_string(scratch.db("finding")).unwrap_or_default()
            }
            Some(status) => procs::how(status),
            None => "hangs".to_owned(),
        };
        scratch.wipe_objects();
        let told = damaged(&seeds(), seed_of(seed, n), u32::MAX)
            .told
            .join("\n  ");
        findings.push(format!(
            "{what}\n  {told}\n  again: KISSDB_SEED={seed} KISSDB_DAMAGED_RUN={n} cargo test --profile checked --test damaged \
             through_the_c_functions -- --nocapture"
        ));
        next = n + 1;
    }
    println!(
        "{} damaged files through the C functions, seed {seed}, {:.1} s",
        board.done.load(SeqCst),
        started.elapsed().as_secs_f64()
    );
    let left = scratch.objects();
    assert!(findings.is_empty(), "{}", findings.join("\n"));
    assert!(left.is_empty(), "left behind: {left:?}");
}
