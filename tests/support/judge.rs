//! The judgement of a damaged file: opens it, reads, changes, closes and opens it again, in memory, and says what is
//! wrong. `super::reader` says what must be there.
#![allow(dead_code)] // each program uses a part of it
#![allow(clippy::type_complexity, clippy::arc_with_non_send_sync)]

use super::check::{self, check};
use super::mutate::Seed;
use super::procs::Rng;
use super::reader::{self, Expected};
use super::{made, support};
use kissdb::engine::storage::{Memory, Overlay};
use kissdb::engine::{Engine, Position, State, Storage};
use kissdb::{Error, Result};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;
/// A finding, in words; what stands before the first `:` is its class.
pub type Judged<T = ()> = std::result::Result<T, String>;

// ---------------------------------------------------------------- memory

/// Counts what a thread has allocated, so that a run can tell how much it needed.
struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(0) };
}

impl Counting {
    fn add(n: usize) {
        // A thread that is ending has no counters any more.
        let _ = HELD.try_with(|held| {
            held.set(held.get().wrapping_add(n));
            let _ = MOST.try_with(|most| most.set(most.get().max(held.get())));
        });
    }

    fn sub(n: usize) {
        let _ = HELD.try_with(|held| held.set(held.get().saturating_sub(n)));
    }
}

// SAFETY: everything is the system allocator's; only numbers are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Counting::add(layout.size());
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Counting::add(layout.size());
        // SAFETY: the caller's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        Counting::sub(layout.size());
        // SAFETY: the caller's.
        unsafe { System.dealloc(p, layout) }
    }

    unsafe fn realloc(&self, p: *mut u8, layout: Layout, to: usize) -> *mut u8 {
        Counting::add(to);
        Counting::sub(layout.size());
        // SAFETY: the caller's.
        unsafe { System.realloc(p, layout, to) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// ---------------------------------------------------------------- the medium

/// A file in memory that counts the calls on it and does not let them go on for ever.
struct Counted {
    file: Memory,
    calls: Cell<u64>,
    limit: Cell<u64>,
    changes: Cell<u64>,
}

pub const TOO_MANY: &str = "hang: too many storage calls";

impl Counted {
    fn new(bytes: Vec<u8>) -> Counted {
        Counted {
            file: Memory::new(bytes),
            calls: Cell::new(0),
            limit: Cell::new(u64::MAX),
            changes: Cell::new(0),
        }
    }

    /// So many calls for each page of the file may follow.
    fn allow(&self) {
        let pages = self.file.known_len() / 4096;
        self.calls.set(0);
        self.limit.set(20_000 + 4_000 * pages);
    }

    fn call(&self) {
        self.calls.set(self.calls.get() + 1);
        assert!(self.calls.get() <= self.limit.get(), "{TOO_MANY}");
    }

    fn change(&self) {
        self.call();
        self.changes.set(self.changes.get() + 1);
        if self.changes.get().is_multiple_of(4096) {
            self.file.take_log();
        }
    }
}

impl Storage for Counted {
    fn len(&self) -> Result<u64> {
        self.file.len()
    }

    fn known_len(&self) -> u64 {
        self.file.known_len()
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        self.call();
        self.file.read(at, buf)
    }

    fn store(&self, at: u64, word: u64) -> Result<()> {
        self.change();
        self.file.store(at, word)
    }

    fn grow(&self, len: u64) -> Result<()> {
        self.change();
        self.file.grow(len)
    }

    fn truncate(&self, len: u64) -> Result<()> {
        self.change();
        self.file.truncate(len)
    }

    fn fill_holes(&self) -> Result<()> {
        self.file.fill_holes()
    }

    fn sync(&self) -> Result<()> {
        self.call();
        self.file.sync()
    }

    fn is_file(&self) -> bool {
        true
    }
}

// ---------------------------------------------------------------- one run in memory

/// What happened, counted over all runs.
#[derive(Default, Clone)]
pub struct Counts {
    pub runs: u64,
    pub refused: u64,
    pub demanded: u64,
    /// Demanded, with a choice of values.
    pub loose: u64,
    pub ambiguous: u64,
    pub unreachable: u64,
    pub damaged_gets: u64,
    pub second_looks: u64,
    pub errors: BTreeMap<String, u64>,
    pub most_calls: f64,
    pub most_memory: f64,
}

impl Counts {
    pub fn add(&mut self, o: &Counts) {
        self.runs += o.runs;
        self.refused += o.refused;
        self.demanded += o.demanded;
        self.loose += o.loose;
        self.ambiguous += o.ambiguous;
        self.unreachable += o.unreachable;
        self.damaged_gets += o.damaged_gets;
        self.second_looks += o.second_looks;
        for (k, n) in &o.errors {
            *self.errors.entry(k.clone()).or_default() += n;
        }
        self.most_calls = self.most_calls.max(o.most_calls);
        self.most_memory = self.most_memory.max(o.most_memory);
    }

    fn error(&mut self, what: &str, e: &Error) {
        *self.errors.entry(format!("{what}: {e}")).or_default() += 1;
    }
}

/// The storage below, whatever lies between.
trait Below: Storage {
    fn counted(&self) -> &Counted;
}

impl Below for Counted {
    fn counted(&self) -> &Counted {
        self
    }
}

impl Below for Overlay<Counted> {
    fn counted(&self) -> &Counted {
        self.below()
    }
}

/// What reads an engine has been asked for: keys with values, keys that are damaged, and the iterator's keys.
#[derive(Default, PartialEq, Eq, Debug)]
pub struct Contents {
    pub pairs: Pairs,
    pub bad: BTreeSet<Vec<u8>>,
    pub listed: Vec<Vec<u8>>,
}

fn read_all<S: Below>(
    e: &mut Engine<S, State>,
    keys: &BTreeSet<Vec<u8>>,
    counts: &mut Counts,
) -> Judged<Contents> {
    let mut out = Contents::default();
    let mut buf = [0xEE; 8028];
    e.store().counted().allow();
    for key in keys {
        match e.get(key, &mut buf) {
            Ok(Some(n)) => {
                out.pairs.insert(key.clone(), buf[..n].to_vec());
            }
            Ok(None) => {}
            Err(Error::Corrupt(_)) => {
                counts.damaged_gets += 1;
                out.bad.insert(key.clone());
            }
            Err(e) => return Err(format!("get fails: {e}")),
        }
    }
    e.store().counted().allow();
    let mut pos = Position::default();
    let room = usize::from(e.sizes().value);
    let key_size = usize::from(e.sizes().key);
    loop {
        let mut value = vec![0xEE; room];
        match e.next(&mut pos, Some(&mut value)) {
            Ok(Some(field)) => {
                if field.len() != key_size {
                    return Err(format!("iterate: a key of {} bytes", field.len()));
                }
                let n = field.iter().position(|&b| b == 0).unwrap_or(key_size);
                let key = field[..n].to_vec();
                if n < key_size
                    && let Some(v) = out.pairs.get(&key)
                    && (value[..v.len()] != v[..] || value[v.len()..].iter().any(|&b| b != 0))
                {
                    return Err(format!("iterate: not the value of {}", key.escape_ascii()));
                }
                out.listed.push(key);
            }
            Ok(None) => break,
            Err(e) => return Err(format!("iterate fails: {e}")),
        }
    }
    out.listed.sort();
    Ok(out)
}

/// In an unclean file of ours each pair is checked when it is first touched, and what is found then may lead to a walk
/// that finds more. So what counts is a second look.
fn settled<S: Below>(
    now: Contents,
    e: &mut Engine<S, State>,
    keys: &BTreeSet<Vec<u8>>,
    want: &Expected,
    counts: &mut Counts,
) -> Judged<Contents> {
    if want.believed || now.agree(want.key_size).is_ok() {
        return Ok(now);
    }
    counts.second_looks += 1;
    read_all(e, keys, counts)
}

impl Contents {
    /// The iterator gives what gets find, each once.
    fn agree(&self, key_size: usize) -> Judged {
        let mut from_gets: Vec<Vec<u8>> = self
            .pairs
            .keys()
            .map(|k| k[..k.len().min(key_size)].to_vec())
            .collect();
        from_gets.sort();
        if from_gets != self.listed {
            return Err(format!(
                "iterate and get disagree: iterated {}, got {}",
                told(&self.listed),
                told(&from_gets)
            ));
        }
        Ok(())
    }

    /// Nothing is lost that must be there, nothing is served that no good copy held.
    pub fn meets(&self, want: &Expected, when: &str) -> Judged {
        for (key, values) in &want.must {
            match self.pairs.get(key) {
                Some(v) if values.contains(v) => {}
                Some(v) => {
                    return Err(format!(
                        "another value {when}: {} has {} bytes that are not one of {} values",
                        key.escape_ascii(),
                        v.len(),
                        values.len()
                    ));
                }
                None if self.bad.contains(key) => {
                    return Err(format!("damaged {when}: {}", key.escape_ascii()));
                }
                None => return Err(format!("lost {when}: {}", key.escape_ascii())),
            }
        }
        for (key, v) in &self.pairs {
            if !want.good.get(key).is_some_and(|all| all.contains(v)) {
                return Err(format!(
                    "served {when} what no good copy holds: {} with {} bytes",
                    key.escape_ascii(),
                    v.len()
                ));
            }
        }
        Ok(())
    }
}

pub fn told(keys: &[Vec<u8>]) -> String {
    let all: Vec<String> = keys.iter().map(|k| k.escape_ascii().to_string()).collect();
    format!("[{}]", all.join(" "))
}

fn open(bytes: Vec<u8>, writable: bool) -> Result<Engine<Counted, State>> {
    let store = Counted::new(bytes);
    store.allow();
    Engine::open(store, State::default(), writable, false)
}

/// The way of a read-only handle: the file itself if it is clean, else a recovery in memory.
fn read_only(
    bytes: &[u8],
    want: &Expected,
    counts: &mut Counts,
) -> Judged<std::result::Result<Contents, Error>> {
    fn whole<S: Below>(
        mut e: Engine<S, State>,
        bytes: &[u8],
        want: &Expected,
        counts: &mut Counts,
    ) -> Judged<Contents> {
        let contents = read_all(&mut e, &want.keys, counts)?;
        contents.meets(want, "after a read-only open")?;
        let contents = settled(contents, &mut e, &want.keys, want, counts)?;
        for key in want.keys.iter().take(1) {
            if !matches!(e.put(key, b""), Err(Error::Access(_)))
                || !matches!(e.delete(key), Err(Error::Access(_)))
            {
                return Err("read-only: a change is not refused".to_owned());
            }
        }
        if e.settle().is_err() {
            return Err("read-only: the close fails".to_owned());
        }
        let below = e.store().counted();
        if below.changes.get() != 0 || below.file.bytes() != bytes {
            return Err("read-only: the file has changed".to_owned());
        }
        Ok(contents)
    }
    // That the tables of a clean file are bad comes out when they are first used.
    let on_the_file = open(bytes.to_vec(), false).and_then(|mut e| Ok((e.is_readable()?, e)));
    match on_the_file {
        Ok((true, e)) => whole(e, bytes, want, counts).map(Ok),
        Ok((false, _)) | Err(Error::Access(_)) => {
            let store = Counted::new(bytes.to_vec());
            store.allow();
            let Ok(over) = Overlay::new(store) else {
                return Err("read-only: no overlay".to_owned());
            };
            match Engine::open(over, State::default(), false, false) {
                Ok(e) => whole(e, bytes, want, counts).map(Ok),
                Err(e) => Ok(Err(e)),
            }
        }
        Err(e) => Ok(Err(e)),
    }
}

/// Opens, reads, changes, closes and opens again; says what is wrong.
pub fn judge(bytes: &[u8], rng: &mut Rng, counts: &mut Counts) -> Judged {
    let want = reader::read(bytes);
    counts.ambiguous += want.ambiguous as u64;
    counts.unreachable += want.unreachable as u64;
    counts.demanded += want.must.len() as u64;
    counts.loose += want.must.values().filter(|v| v.len() > 1).count() as u64;
    let before = check(bytes, false);

    HELD.set(0);
    MOST.set(0);
    let ro = read_only(bytes, &want, counts)?;
    let opened = open(bytes.to_vec(), true);
    let mut e = match opened {
        Ok(e) => e,
        Err(e) => {
            counts.refused += 1;
            counts.error("open", &e);
            // Its file is gone with it; what it did to it shows in a second try.
            return refuses(bytes, &want, &ro);
        }
    };
    if !want.header {
        return Err("opened what has no proper header".to_owned());
    }
    let calls = e.store().calls.get();
    let now = read_all(&mut e, &want.keys, counts)?;
    now.meets(&want, "after the open")?;
    let now = settled(now, &mut e, &want.keys, &want, counts)?;
    now.meets(&want, "after a look at everything")?;
    now.agree(want.key_size)?;
    match ro {
        Ok(ro) if ro != now => {
            return Err(format!(
                "read-only reads something else: {} and {} pairs, damaged {} and {}",
                ro.pairs.len(),
                now.pairs.len(),
                ro.bad.len(),
                now.bad.len()
            ));
        }
        Ok(_) => {}
        Err(e) => return Err(format!("read-only open refuses: {e}")),
    }
    let pages = (bytes.len() / 4096).max(1);
    counts.most_calls = counts.most_calls.max(calls as f64 / pages as f64);

    // Changes, then a close, or the end of the process.
    let mut model = now.pairs;
    let mut keys = want.keys.clone();
    let mut changed = BTreeSet::new();
    let many = match rng.below(4) {
        0 => 0,
        1 => 1 + rng.below(2),
        _ => rng.below(12),
    };
    for _ in 0..many {
        one_change(&mut e, rng, &mut model, &mut keys, &mut changed, counts)?;
    }
    if many > 0 {
        let now = read_all(&mut e, &keys, counts)?;
        compare(&now, &model, &want, "after changes")?;
        let now = settled(now, &mut e, &keys, &want, counts)?;
        compare(
            &now,
            &model,
            &want,
            "after changes and a look at everything",
        )?;
        now.agree(want.key_size)?;
        // A walk in between may have found more.
        model = now.pairs;
    }
    let killed = rng.one_in(4);
    if !killed {
        e.store().allow();
        if let Err(e) = e.settle() {
            return Err(format!("close fails: {e}"));
        }
    }
    let after = e.store().file.bytes();
    let untouched = e.store().changes.get() == 0;
    drop(e);
    if let Some(path) = std::env::var_os("KISSDB_DAMAGED_AFTER") {
        std::fs::write(path, &after).expect("keep the file");
    }
    if untouched && after != bytes {
        return Err("changed without a store: the file".to_owned());
    }
    if after.len() > 2 * bytes.len() + (many as usize + 8) * (64 << 10) {
        return Err(format!("grown: from {} to {}", bytes.len(), after.len()));
    }
    if !killed && !untouched {
        let new = worse(&before, &check(&after, false));
        if !new.is_empty() {
            return Err(format!("made worse: {new:?}; before {before:?}"));
        }
    }

    // Once more.
    let mut e = match open(after.clone(), true) {
        Ok(e) => e,
        Err(e) => return Err(format!("does not open again: {e}")),
    };
    let again = read_all(&mut e, &keys, counts)?;
    compare(&again, &model, &want, "after reopening")?;
    if !killed && want.believed && again.pairs != model {
        return Err(format!(
            "more after reopening: {} pairs, were {}; {:?}; {:?}",
            again.pairs.len(),
            model.len(),
            check(&after, false),
            check::dump(&after)
        ));
    }
    if !killed {
        e.store().allow();
        if let Err(e) = e.settle() {
            return Err(format!("second close fails: {e}"));
        }
        if e.store().changes.get() != 0 {
            let now = e.store().file.bytes();
            let at: Vec<usize> = (0..now.len().min(after.len()))
                .step_by(8)
                .filter(|&i| now[i..].iter().take(8).ne(after[i..].iter().take(8)))
                .take(6)
                .collect();
            return Err(format!(
                "a second open and close changes the file: {} to {} bytes, at {at:x?}; was {:?}; {:x?}",
                after.len(),
                now.len(),
                check(&after, false),
                e.store().file.take_log().iter().take(8).collect::<Vec<_>>()
            ));
        }
    }
    drop(e);
    let most = MOST.get() as f64 / bytes.len().max(65536) as f64;
    counts.most_memory = counts.most_memory.max(most);
    if most > 24.0 {
        return Err(format!(
            "memory: {} bytes for a file of {}",
            MOST.get(),
            bytes.len()
        ));
    }
    Ok(())
}

/// A file that is refused stays as it is, and nothing is lost by refusing it.
fn refuses(bytes: &[u8], want: &Expected, ro: &std::result::Result<Contents, Error>) -> Judged {
    let store = Shared(Arc::new(Counted::new(bytes.to_vec())));
    store.0.allow();
    if Engine::open(Shared(store.0.clone()), State::default(), true, false).is_ok() {
        return Err("refused once: opens the second time".to_owned());
    }
    if store.0.file.bytes() != bytes {
        return Err("refused and changed: the file".to_owned());
    }
    if !want.must.is_empty() {
        return Err(format!("refused: with {} undamaged pairs", want.must.len()));
    }
    if ro.is_ok() {
        return Err("refused: but not read-only".to_owned());
    }
    Ok(())
}

/// A medium that can be looked at after an engine that did not open has gone.
struct Shared(Arc<Counted>);

impl Storage for Shared {
    fn len(&self) -> Result<u64> {
        self.0.len()
    }
    fn known_len(&self) -> u64 {
        self.0.known_len()
    }
    fn read(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        self.0.read(at, buf)
    }
    fn store(&self, at: u64, word: u64) -> Result<()> {
        self.0.store(at, word)
    }
    fn grow(&self, len: u64) -> Result<()> {
        self.0.grow(len)
    }
    fn truncate(&self, len: u64) -> Result<()> {
        self.0.truncate(len)
    }
    fn fill_holes(&self) -> Result<()> {
        self.0.fill_holes()
    }
    fn sync(&self) -> Result<()> {
        self.0.sync()
    }
    fn is_file(&self) -> bool {
        true
    }
}

fn one_change(
    e: &mut Engine<Counted, State>,
    rng: &mut Rng,
    model: &mut Pairs,
    keys: &mut BTreeSet<Vec<u8>>,
    changed: &mut BTreeSet<Vec<u8>>,
    counts: &mut Counts,
) -> Judged {
    let room = usize::from(e.sizes().value);
    let key = if rng.one_in(3) || keys.is_empty() {
        made::key(rng, 40)
    } else {
        let n = rng.below(keys.len() as u64) as usize;
        keys.iter().nth(n).cloned().unwrap_or_default()
    };
    e.store().allow();
    if rng.one_in(3) {
        match e.delete(&key) {
            Ok(_) => {
                model.remove(&key);
                changed.insert(key);
            }
            Err(e) => counts.error("delete", &e),
        }
    } else {
        let value = made::value(rng, room);
        match e.put(&key, &value) {
            Ok(()) => {
                keys.insert(key.clone());
                changed.insert(key.clone());
                model.insert(key, value);
            }
            Err(e) => counts.error("put", &e),
        }
    }
    Ok(())
}

/// What is wrong with a closed file that was not wrong with it before.
pub fn worse(before: &[String], after: &[String]) -> Vec<String> {
    // Where all later pairs of a chain are unreadable nobody knows a key to close a hole with.
    let unreadable = ["checksum", "key of 0 bytes"];
    let unreadable = before
        .iter()
        .any(|f| unreadable.iter().any(|what| f.contains(what)));
    let excused = |f: &str| unreadable && f.contains("a hole in the chain");
    after
        .iter()
        .filter(|f| !before.contains(f) && !excused(f))
        .cloned()
        .collect()
}

/// Everything that was answered is there; more only if a good copy held it.
pub fn compare(now: &Contents, model: &Pairs, want: &Expected, when: &str) -> Judged {
    let others = |key: &[u8], v: &[u8]| {
        let single = want.must.get(key).is_some_and(|all| all.len() == 1);
        !single && want.good.get(key).is_some_and(|all| all.contains(v))
    };
    for (key, v) in model {
        match now.pairs.get(key) {
            Some(w) if w == v => {}
            // A damaged pair whose good copies differ may come to be read by the other one.
            Some(w) if others(key, v) && others(key, w) => {}
            Some(w) => {
                return Err(format!(
                    "answered otherwise {when}: {} had {} bytes, has {}",
                    key.escape_ascii(),
                    v.len(),
                    w.len()
                ));
            }
            None => return Err(format!("gone {when}: {}", key.escape_ascii())),
        }
    }
    for (key, v) in &now.pairs {
        let known = want.good.get(key).is_some_and(|all| all.contains(v));
        if !known && !model.contains_key(key) {
            return Err(format!("appeared {when}: {}", key.escape_ascii()));
        }
    }
    Ok(())
}

pub fn seeds() -> Vec<Seed> {
    let mut out = Vec::new();
    let mut add = |dir: &str, limit: usize| {
        let mut names: Vec<_> = std::fs::read_dir(support::data(dir))
            .into_iter()
            .flatten()
            .flatten()
            .map(|f| f.path())
            .filter(|p| p.extension().is_some_and(|x| x == "gz"))
            .collect();
        names.sort();
        for path in names {
            let bytes = support::gunzip(&path);
            if bytes.len() <= limit {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                out.push(Seed::new(format!("{dir}/{name}"), bytes));
            }
        }
    };
    // The largest ones would take all the time.
    add("golden", 150_000);
    add("second-reader", 150_000);
    assert!(out.len() > 100, "{} files", out.len());
    let mut rng = Rng(2_303);
    for _ in 0..200 {
        let (name, bytes) = made::file(&mut rng);
        out.push(Seed::new(name, bytes));
    }
    out
}
