//! All of it on every core, within a budget, and the way back from a failure.
//!
//! A state is named by a path: `scenario/epoch/choice@seed`, and where a recovery was cut in its turn
//! `scenario/epoch/choice/epoch/choice@seed`. The path says everything that is needed to make it
//! again, whatever the budget and the seeds were that found it.

use super::epoch::{Choice, Epoch, epochs};
use super::history::{Baseline, Permits};
use super::replay::{self, Case};
use super::scenario::{Op, Scenario};
use super::strategy::States;
use super::{Rng, number_of};
use std::any::Any;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

/// A state that takes longer hangs.
const HANG: Duration = Duration::from_secs(60);

/// How much is tried.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// States in all; where an epoch has few, all of its states are tried whatever this says.
    pub states: u64,
    /// Of them, how many percent are cuts of a recovery and of the life behind it.
    pub nested: u64,
    /// How often a recovery is cut in its turn.
    pub depth: u32,
    pub seed: u64,
    /// End after so many failures of different kinds.
    pub failures: usize,
}

/// A state in which a promise is broken.
#[derive(Debug, Clone)]
pub struct Failure {
    pub path: String,
    pub message: String,
    /// What was done and what reached the medium.
    pub story: String,
}

/// What came out.
#[derive(Debug, Default)]
pub struct Report {
    /// States by scenario, and the seconds of a core that they took.
    pub states: BTreeMap<String, (u64, f64)>,
    /// Of which so many of a recovery or a life behind it.
    pub nested: u64,
    pub failed: u64,
    /// One of each kind.
    pub failures: Vec<Failure>,
    pub seconds: f64,
}

impl Report {
    pub fn total(&self) -> u64 {
        self.states.values().map(|s| s.0).sum()
    }
}

/// A scenario that was played.
struct Played {
    scenario: Scenario,
    /// How it is reached: its name, or the path of the state it begins with.
    path: String,
    epochs: Vec<(usize, Epoch)>,
    log: Vec<String>,
}

impl Played {
    fn new(scenario: Scenario, path: String) -> Result<Self, String> {
        let record = quietly(|| scenario.record())?;
        let epochs = epochs(&scenario, &record);
        let log = log_lines(&record);
        Ok(Self {
            scenario,
            path,
            epochs,
            log,
        })
    }
}

/// What a state's last component and the rest of its path are.
fn path_of(played: &Played, epoch: usize, choice: &Choice, seed: u64) -> String {
    format!("{}/{epoch}/{}@{seed:x}", played.path, choice.encode())
}

/// The number in a header.
fn word(image: &[u8], at: usize) -> u64 {
    let bytes = image.get(at..at + 8).and_then(|b| b.try_into().ok());
    bytes.map_or(0, u64::from_le_bytes)
}

/// The life behind a cut: everything that it needs follows from the state and its path.
fn life_after(before: &Played, number: usize, epoch: &Epoch, choice: &Choice) -> Scenario {
    let path = format!("{}/{number}/{}", before.path, choice.encode());
    let permits = epoch.permits(choice);
    let image = epoch.image(choice);
    let mut rng = Rng::new(&[number_of(&path)]);
    let max = word(&image, 48);
    let slots = word(&image, 32);
    let keys: Vec<&Vec<u8>> = permits.keys().collect();
    let mut ops = Vec::new();
    for n in 0..rng.below(9) {
        let known = keys.get(rng.below(keys.len() as u64) as usize);
        let key = match (rng.below(4), known) {
            (0, _) | (_, None) => format!("/n{n}").into_bytes(),
            (1, Some(key)) => replay::neighbour(key, slots, rng.below(1000)),
            (_, Some(key)) => (*key).clone(),
        };
        ops.push(match rng.below(13) {
            0 | 1 => Op::Delete(key),
            2 | 3 => Op::Sync,
            4 => Op::Close,
            5 => Op::Kill,
            6 => Op::Join,
            _ => {
                let len = [0, 5, 100, 300, max][rng.below(5) as usize].min(max);
                let value: Vec<u8> = (0..len).map(|_| rng.next() as u8).collect();
                Op::Put(key, value.into())
            }
        });
    }
    if rng.chance(50) {
        ops.push(Op::Close);
    }
    Scenario {
        name: before.scenario.name.clone(),
        image,
        baseline: Baseline::of(permits),
        ops,
        ours: before.scenario.ours,
        damaged: before.scenario.damaged,
        fault: before.scenario.fault,
        room: None,
    }
}

struct Task {
    played: Arc<Played>,
    epoch: usize,
    quota: u64,
    /// Recoveries that are cut.
    nested: u64,
}

/// Tries every scenario.
pub fn run(scenarios: Vec<Scenario>, budget: Budget) -> Report {
    let begun = Instant::now();
    let shared = Shared {
        budget,
        report: Mutex::default(),
        kinds: Mutex::default(),
        enough: AtomicBool::new(false),
        watched: Mutex::default(),
    };
    let mut played = Vec::new();
    for s in scenarios {
        let name = s.name.clone();
        match Played::new(s, name.clone()) {
            Ok(p) => played.push(Arc::new(p)),
            Err(message) => shared.fail(&name, message, String::new),
        }
    }
    let tasks = tasks(&played, budget);
    let next = AtomicUsize::new(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let workers: Vec<_> = (0..cores)
            .map(|_| {
                scope.spawn(|| {
                    let watch = shared.watch();
                    while let Some(task) = tasks.get(next.fetch_add(1, Relaxed)) {
                        shared.task(task, &watch);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Relaxed) {
                shared.bark();
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        for w in workers {
            let _ended = w.join();
        }
        done.store(true, Relaxed);
    });
    let mut report = shared
        .report
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    report.seconds = begun.elapsed().as_secs_f64();
    report
}

/// Shares the budget out: every scenario the same, less to those with large files, and every large
/// epoch of it the same.
fn tasks(played: &[Arc<Played>], budget: Budget) -> Vec<Task> {
    let kib = |p: &Played| p.scenario.image.len() as f64 / 1024.0;
    let weight = |p: &Played| (128.0 / kib(p).max(128.0)).powi(2);
    let all: f64 = played.iter().map(|p| weight(p)).sum();
    let mut tasks = Vec::new();
    for p in played {
        let states = (budget.states as f64 * weight(p) / all) as u64;
        let nested = if kib(p) < 1024.0 {
            states * budget.nested / 100
        } else {
            0
        };
        // All states of an epoch that has few, if states are cheap and many are wanted.
        let scale = (budget.states as f64 / FULL as f64).min(1.0) * weight(p);
        let limit = (super::strategy::ALL as f64 * scale) as u64;
        let few = |e: &Epoch| u64::try_from(e.states()).ok().filter(|n| *n <= limit);
        let spent: u64 = p.epochs.iter().filter_map(|(_, e)| few(e)).sum();
        let many = p.epochs.iter().filter(|(_, e)| few(e).is_none()).count() as u64;
        let quota = (states - nested).saturating_sub(spent) / many.max(1);
        let nested = nested / (p.epochs.len() as u64).max(1);
        for (n, (_, epoch)) in p.epochs.iter().enumerate() {
            // On the average.
            let mut rng = Rng::new(&[number_of(&p.path), n as u64, budget.seed]);
            tasks.push(Task {
                played: Arc::clone(p),
                epoch: n,
                quota: few(epoch).unwrap_or(quota.max(10)),
                nested: (nested + rng.below(WORTH)) / WORTH,
            });
        }
    }
    // The slow ones first, so that no core is left alone with one in the end.
    tasks.sort_by_key(|t| std::cmp::Reverse(t.played.scenario.image.len()));
    tasks
}

/// Each recovery that is cut gets about so many states.
const WORTH: u64 = 200;
/// With fewer states than these the epochs that have few are not tried in full either.
const FULL: u64 = 200_000;

/// What a worker is doing, for the watchdog.
type Watch = Arc<Mutex<Option<(Instant, String)>>>;

struct Shared {
    budget: Budget,
    report: Mutex<Report>,
    kinds: Mutex<BTreeSet<String>>,
    enough: AtomicBool,
    watched: Mutex<Vec<Watch>>,
}

fn locked<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn watch(&self) -> Watch {
        let watch = Watch::default();
        locked(&self.watched).push(Arc::clone(&watch));
        watch
    }

    /// A hang cannot be ended, only told.
    fn bark(&self) {
        for w in locked(&self.watched).iter() {
            if let Some((since, path)) = &*locked(w)
                && since.elapsed() > HANG
            {
                eprintln!("a state hangs; to see it: KISSDB_CUT_REPLAY='{path}'");
                std::process::exit(101);
            }
        }
    }

    fn task(&self, task: &Task, watch: &Watch) {
        let begun = Instant::now();
        let (number, epoch) = &task.played.epochs[task.epoch];
        let seed = number_of(&task.played.path) ^ *number as u64;
        let count = self.states(&task.played, *number, epoch, seed, task.quota, watch);
        let mut inner = 0;
        if self.budget.depth > 0 {
            let seed = Rng::new(&[seed, self.budget.seed, 1]).next();
            inner = self.recoveries(
                &task.played,
                *number,
                epoch,
                seed,
                (task.nested, WORTH, self.budget.depth),
                watch,
            );
        }
        let mut report = locked(&self.report);
        let name = task.played.scenario.name.clone();
        let entry = report.states.entry(name).or_default();
        entry.0 += count + inner;
        entry.1 += begun.elapsed().as_secs_f64();
        report.nested += inner;
    }

    /// Tries one epoch; answers how many states that were.
    fn states(
        &self,
        played: &Played,
        number: usize,
        epoch: &Epoch,
        seed: u64,
        quota: u64,
        watch: &Watch,
    ) -> u64 {
        let mut count = 0;
        let seed = Rng::new(&[seed, self.budget.seed]).next();
        let mut seeds = Rng::new(&[seed, 2]);
        States::new(epoch, seed).each(quota, |choice| {
            let seed = seeds.next() & 0xFF_FFFF;
            *locked(watch) = Some((Instant::now(), path_of(played, number, &choice, seed)));
            if let Err(message) = judge(played, epoch, &choice, seed) {
                self.fail_state(played, number, epoch, choice, seed, message);
            }
            *locked(watch) = None;
            count += 1;
            !self.enough.load(Relaxed)
        });
        count
    }

    /// Picks states of an epoch, records the recovery from each and what follows it, and cuts that.
    fn recoveries(
        &self,
        played: &Played,
        number: usize,
        epoch: &Epoch,
        seed: u64,
        (recoveries, quota, depth): (u64, u64, u32),
        watch: &Watch,
    ) -> u64 {
        let mut count = 0;
        let mut chosen = Vec::new();
        States::new(epoch, seed).each(recoveries * 4, |choice| {
            chosen.push(choice);
            chosen.len() < 4096
        });
        let mut rng = Rng::new(&[seed, 3]);
        for _ in 0..recoveries {
            if chosen.is_empty() || self.enough.load(Relaxed) {
                break;
            }
            let choice = chosen.swap_remove(rng.below(chosen.len() as u64) as usize);
            let path = format!("{}/{number}/{}", played.path, choice.encode());
            *locked(watch) = Some((Instant::now(), path.clone()));
            let life = Played::new(life_after(played, number, epoch, &choice), path.clone());
            *locked(watch) = None;
            let life = match life {
                Ok(life) => life,
                Err(message) => {
                    self.fail(&path, message, || epoch.describe(&choice));
                    continue;
                }
            };
            let each = (quota / (life.epochs.len() as u64).max(1)).max(8);
            for (n, e) in &life.epochs {
                let seed = rng.next();
                count += self.states(&life, *n, e, seed, each, watch);
                if depth > 1 && rng.chance(20) {
                    count += self.recoveries(&life, *n, e, seed, (1, quota / 2, depth - 1), watch);
                }
            }
        }
        count
    }

    fn fail_state(
        &self,
        played: &Played,
        number: usize,
        epoch: &Epoch,
        choice: Choice,
        seed: u64,
        message: String,
    ) {
        locked(&self.report).failed += 1;
        let kind = kind(&played.scenario.name, &message);
        if !locked(&self.kinds).insert(kind) {
            return;
        }
        let (choice, message) = shrink(played, epoch, choice, seed, message);
        let path = path_of(played, number, &choice, seed);
        let story = story(played, epoch, &choice);
        self.push(Failure {
            path,
            message,
            story,
        });
    }

    fn fail(&self, path: &str, message: String, story: impl Fn() -> String) {
        locked(&self.report).failed += 1;
        let name = path.split('/').next().unwrap_or_default();
        if locked(&self.kinds).insert(kind(name, &message)) {
            self.push(Failure {
                path: path.to_owned(),
                message,
                story: story(),
            });
        }
    }

    fn push(&self, failure: Failure) {
        let mut report = locked(&self.report);
        report.failures.push(failure);
        if report.failures.len() >= self.budget.failures {
            self.enough.store(true, Relaxed);
        }
    }
}

/// Failures of one scenario whose messages differ in names and numbers only are of one kind.
fn kind(name: &str, message: &str) -> String {
    let words = message.split(|c: char| !c.is_ascii_alphabetic());
    let words: Vec<&str> = words.filter(|w| w.len() > 2).take(8).collect();
    format!("{name} {}", words.join(" "))
}

fn judge(played: &Played, epoch: &Epoch, choice: &Choice, seed: u64) -> Result<(), String> {
    let permits: &Permits = epoch.permits(choice);
    let image = epoch.image(choice);
    let case = Case {
        image: &image,
        permits,
        ours: played.scenario.ours,
        seed,
    };
    quietly(|| match played.scenario.damaged {
        true => replay::check_damaged(&case),
        false => replay::check(&case),
    })?
}

/// The same failure with as little as possible on the medium, or as little as possible missing.
fn shrink(
    played: &Played,
    epoch: &Epoch,
    mut choice: Choice,
    seed: u64,
    mut message: String,
) -> (Choice, String) {
    let name = &played.scenario.name;
    let wanted = kind(name, &message);
    let versions: Vec<u32> = epoch.sectors.iter().map(|s| s.versions()).collect();
    let full = choice
        .upto
        .iter()
        .zip(&versions)
        .filter(|(a, b)| a == b)
        .count();
    let towards_new = full * 2 > versions.len();
    let end = Instant::now() + Duration::from_secs(10);
    for _ in 0..3 {
        let before = choice.clone();
        let mut attempt = |candidate: Choice, choice: &mut Choice| {
            if candidate == *choice || Instant::now() > end {
                return;
            }
            if let Err(m) = judge(played, epoch, &candidate, seed)
                && kind(name, &m) == wanted
            {
                *choice = candidate;
                message = m;
            }
        };
        let mut longest = choice.clone();
        longest.length = epoch.last_length();
        attempt(longest, &mut choice);
        for i in 0..versions.len() {
            let ends = if towards_new {
                [versions[i], 0]
            } else {
                [0, versions[i]]
            };
            for value in ends {
                let done = choice.upto[i] == ends[0];
                let mut candidate = choice.clone();
                candidate.upto[i] = value;
                if !done {
                    attempt(candidate, &mut choice);
                }
            }
        }
        if choice == before {
            break;
        }
    }
    (choice, message)
}

/// What was done, where the cut came, what is on the medium.
fn story(played: &Played, epoch: &Epoch, choice: &Choice) -> String {
    let instant = epoch.instant(choice);
    let mut text = String::new();
    for (n, line) in played.log.iter().enumerate() {
        if n == epoch.start && n > 0 {
            text.push_str("  -- the last sync --\n");
        }
        if !line.is_empty() {
            let _ = writeln!(text, "  {n:5} {line}");
        }
        if n == instant {
            text.push_str("  -- no more than this is needed --\n");
            break;
        }
    }
    text.push_str(&epoch.describe(choice));
    text
}

/// The log in lines for people, one for each event; those of stores are empty but for the first of a row.
fn log_lines(record: &super::scenario::Record) -> Vec<String> {
    use kissdb::engine::storage::Event;
    let mut stores = false;
    let mut line = |e: &Event| {
        let was = stores;
        stores = matches!(e, Event::Store(..));
        match e {
            Event::Store(at, _) if !was => format!("stores from {at:#x} on"),
            Event::Store(..) => String::new(),
            Event::Length(len) => format!("length {len}"),
            Event::Sync => "sync".into(),
            Event::SyncRange(at, len) => format!("sync of {len} bytes at {at:#x}"),
            Event::Mark(n) => {
                let call = record.calls.get((n / 2) as usize);
                let text = call.map_or("", |c| c.text.as_str());
                let what = if n % 2 == 0 { "begin" } else { "answer" };
                format!("{what} {text}")
            }
        }
    };
    record.log.iter().map(&mut line).collect()
}

/// Makes one state again and says what is wrong with it.
pub fn replay(scenarios: Vec<Scenario>, path: &str) -> Result<String, String> {
    let (path, seed) = path.split_once('@').unwrap_or((path, "0"));
    let seed = u64::from_str_radix(seed, 16).map_err(|e| e.to_string())?;
    let mut parts = path.split('/');
    let name = parts.next().unwrap_or_default();
    let scenario = scenarios.into_iter().find(|s| s.name == name);
    let scenario = scenario.ok_or_else(|| format!("no scenario {name}"))?;
    let mut played = Played::new(scenario, name.to_owned())?;
    let parts: Vec<&str> = parts.collect();
    let mut told = String::new();
    for (n, part) in parts.chunks(2).enumerate() {
        let [number, choice] = part else {
            return Err("an epoch without a choice".into());
        };
        let number: usize = number.parse().map_err(|e| format!("epoch: {e}"))?;
        let choice = Choice::decode(choice).ok_or("no choice")?;
        let epoch = played.epochs.iter().find(|(e, _)| *e == number);
        let (_, epoch) = epoch.ok_or_else(|| format!("no epoch {number}"))?;
        if choice.upto.len() != epoch.sectors.len() {
            return Err(format!(
                "a choice for {} sectors, not {}",
                choice.upto.len(),
                epoch.sectors.len()
            ));
        }
        let _ = writeln!(told, "{}", story(&played, epoch, &choice));
        if let Some(dir) = std::env::var_os("KISSDB_CUT_DUMP") {
            let file = std::path::Path::new(&dir).join(format!("cut-{n}.db"));
            std::fs::write(&file, epoch.image(&choice)).map_err(|e| e.to_string())?;
        }
        if (n + 1) * 2 == parts.len() {
            println!("{told}");
            return judge(&played, epoch, &choice, seed).map(|()| told);
        }
        let life = life_after(&played, number, epoch, &choice);
        let path = format!("{}/{number}/{}", played.path, choice.encode());
        println!("{told}");
        told.clear();
        played = Played::new(life, path)?;
    }
    Ok(told)
}

thread_local! {
    static QUIET: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `f`; a panic becomes an error and prints nothing.
fn quietly<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let quiet = QUIET.with_borrow_mut(|q| {
                if let Some(text) = q {
                    *text = info.location().map_or(String::new(), ToString::to_string);
                }
                q.is_some()
            });
            if !quiet {
                before(info);
            }
        }));
    });
    QUIET.set(Some(String::new()));
    let result = catch_unwind(AssertUnwindSafe(f));
    let place = QUIET.take().unwrap_or_default();
    result.map_err(|payload| format!("panic at {place}: {}", panic_text(&*payload)))
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_default()
}
