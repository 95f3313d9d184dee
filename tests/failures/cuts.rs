//! Power cuts: what the medium may hold, and whether what is found in it afterwards is permitted.
//!
//! Two ways to the states of a medium. [`mixtures`] takes the file as it was at the caller's sync and as it is now, and
//! mixes their sectors: that is what a user has who pulls the plug. [`Run`] takes the engine's own record of every store
//! and sync, and so reaches into the middle of a call.

use super::build::Image;
use super::procs::Rng;
use super::support::{ffi, original};
use super::*;
use kissdb::engine::storage::{Event, Memory};
use kissdb::engine::{Engine, State};
use std::collections::BTreeSet;

/// The unit in which a medium loses writes.
const SECTOR: usize = 512;

/// What the medium may hold of two states of a file: each sector as in the one or the other. All of the new ones, none,
/// each of them alone, each of them missing, and `random` mixtures.
pub fn mixtures(old: &[u8], new: &[u8], random: usize) -> Vec<Vec<u8>> {
    let len = new.len().max(old.len()).div_ceil(SECTOR);
    let part = |b: &[u8], n: usize| {
        let mut s = [0; SECTOR];
        let from = b.get(n * SECTOR..).unwrap_or_default();
        let k = from.len().min(SECTOR);
        s[..k].copy_from_slice(&from[..k]);
        s
    };
    let changed: Vec<usize> = (0..len).filter(|&n| part(old, n) != part(new, n)).collect();
    let mut choices: Vec<Vec<bool>> = vec![vec![false; changed.len()], vec![true; changed.len()]];
    for n in 0..changed.len() {
        choices.push((0..changed.len()).map(|i| i == n).collect());
        choices.push((0..changed.len()).map(|i| i != n).collect());
    }
    let mut rng = Rng(changed.len() as u64);
    for _ in 0..random {
        choices.push(changed.iter().map(|_| rng.one_in(2)).collect());
    }
    let lengths: BTreeSet<usize> = [old.len(), new.len()].into();
    let mut states = BTreeSet::new();
    for choice in &choices {
        for &length in &lengths {
            let mut state = old.to_vec();
            state.resize(new.len().max(old.len()), 0);
            for (&n, _) in changed.iter().zip(choice).filter(|&(_, &new)| new) {
                let end = (n * SECTOR + SECTOR).min(state.len());
                state[n * SECTOR..end].copy_from_slice(&part(new, n)[..end - n * SECTOR]);
            }
            state.truncate(length);
            states.insert(state);
        }
    }
    states.into_iter().collect()
}

/// What each key may be found with; `None`: it may be absent. Keys that are not named must not be found.
#[derive(Clone, Default)]
pub struct Permitted(BTreeMap<Vec<u8>, Vec<Option<Vec<u8>>>>);

impl Permitted {
    pub fn of(model: &Model) -> Permitted {
        let one = |(k, v): (&Vec<u8>, &Vec<u8>)| (k.clone(), vec![Some(v.clone())]);
        Permitted(model.iter().map(one).collect())
    }

    /// The key may also have this value, or be absent.
    pub fn or(mut self, key: &str, value: Option<&[u8]>) -> Permitted {
        let also = value.map(<[u8]>::to_vec);
        self.0
            .entry(key.into())
            .or_insert_with(|| vec![None])
            .push(also);
        self
    }

    /// What is wrong with this, if anything.
    pub fn judge(&self, found: &Model) -> Result<(), String> {
        for (key, may) in &self.0 {
            let value = found.get(key);
            if !may.iter().any(|m| m.as_ref() == value) {
                let size = value.map_or("absent".into(), |v| format!("{} bytes", v.len()));
                return Err(format!("{} is {size}", key.escape_ascii()));
            }
        }
        match found.keys().find(|key| !self.0.contains_key(*key)) {
            Some(key) => Err(format!("{} appears", key.escape_ascii())),
            None => Ok(()),
        }
    }
}

/// After the power has come back: what is found is permitted, stays so, and is whole after the close. `then` does more
/// with the open database, knows what was found in it, and answers what it has left.
#[track_caller]
pub fn survives(
    what: &str,
    path: &Path,
    state: &[u8],
    sizes: Sizes,
    permitted: &Permitted,
    then: impl FnOnce(&Plain, Model) -> Model,
) -> Model {
    fs::write(path, state).expect("the file");
    let reader = Plain::opened(path, ffi::RDONLY, sizes);
    // A file that never got a header is nothing to a reader.
    let read = reader.map(|db| {
        let found = all(&db).unwrap_or_else(|e| panic!("{what}: a reader: {e}"));
        close(&db);
        assert!(
            fs::read(path).expect("the file") == state,
            "{what}: a reader has written"
        );
        found
    });
    let db = opened(path, ffi::RDWR, sizes);
    let found = all(&db).unwrap_or_else(|e| panic!("{what}: {e}"));
    if let Err(e) = permitted.judge(&found) {
        panic!("{what}: {e}; found is [{}]", told(&found));
    }
    if let Ok(read) = read {
        assert!(
            read == found,
            "{what}: a reader finds [{}], a writer [{}]",
            told(&read),
            told(&found)
        );
    }
    let left = then(&db, found);
    finds(what, &db, &left);
    close(&db);
    is_clean(what, path, &left);
    left
}

/// What the original makes of a state.
#[track_caller]
pub fn original_survives(what: &str, state: &[u8], permitted: &Permitted) {
    let read = original::recover(state);
    assert!(read.opens && !read.crashes, "{what}: the original crashes");
    if let Err(e) = permitted.judge(&read.pairs) {
        panic!("{what}, for the original: {e}");
    }
}

/// The engine at work on a medium that keeps a record.
pub struct Run {
    pub engine: Engine<Memory, State>,
    image: Vec<u8>,
}

/// What was stored between two syncs.
#[derive(Clone)]
pub struct Epoch {
    /// What is on the medium.
    synced: Vec<u8>,
    events: Vec<Event>,
    /// The number of the last [`Run::sync`] before it.
    pub mark: u64,
}

impl Run {
    pub fn new(image: &Image) -> Run {
        let memory = Memory::new(image.bytes.clone());
        let engine = Engine::open(memory, State::default(), true, false).expect("opens");
        Run {
            engine,
            image: image.bytes.clone(),
        }
    }

    pub fn put(&mut self, key: &str, value: &[u8]) {
        self.engine.put(key.as_bytes(), value).expect("put");
    }

    pub fn delete(&mut self, key: &str) {
        assert!(self.engine.delete(key.as_bytes()).expect("delete"));
    }

    /// The caller's fdatasync, of which the engine learns nothing. The number tells what is on the medium from then on.
    pub fn sync(&mut self, number: u64) {
        self.engine.store().mark(number);
        kissdb::engine::Storage::sync(self.engine.store()).expect("sync");
    }

    pub fn close(&mut self) {
        self.engine.settle().expect("settle");
    }

    /// Everything that was stored, in order.
    pub fn log(&mut self) -> Vec<Event> {
        self.engine.store().take_log()
    }

    /// The same, cut at the syncs.
    pub fn epochs(mut self) -> Vec<Epoch> {
        let mut bytes = self.image.clone();
        let mut mark = 0;
        let mut epochs = Vec::new();
        let mut epoch = Epoch {
            synced: bytes.clone(),
            events: Vec::new(),
            mark: 0,
        };
        for event in self.log().into_iter().chain([Event::Sync]) {
            match event {
                Event::Sync => {
                    epochs.push(epoch);
                    epoch = Epoch {
                        synced: bytes.clone(),
                        events: Vec::new(),
                        mark,
                    };
                }
                // One more for the time in which that part stays.
                Event::SyncRange(at, len) => {
                    let part = at..at + len;
                    epochs.push(epoch.clone());
                    let (synced, rest) = epoch.events.into_iter().partition(|e| match e {
                        Event::Store(at, _) => part.contains(at),
                        _ => true,
                    });
                    let synced: Vec<Event> = synced;
                    synced.iter().for_each(|e| apply(&mut epoch.synced, e));
                    epoch.events = rest;
                }
                Event::Mark(n) => mark = n,
                event => {
                    apply(&mut bytes, &event);
                    epoch.events.push(event);
                }
            }
        }
        epochs
    }
}

fn apply(bytes: &mut Vec<u8>, event: &Event) {
    match *event {
        Event::Store(at, word) => {
            bytes[at as usize..at as usize + 8].copy_from_slice(&word.to_le_bytes());
        }
        Event::Length(len) => bytes.resize(len as usize, 0),
        Event::Sync | Event::SyncRange(..) | Event::Mark(_) => {}
    }
}

impl Epoch {
    /// States of the medium in this epoch: prefixes of its stores in their order, each sector alone, each sector
    /// missing, and random ones where each sector stands at a store of its own; about `most` in all.
    pub fn states(&self, most: usize) -> Vec<Vec<u8>> {
        let mut states = BTreeSet::new();
        let share = most / 4;
        let step = (self.events.len() / share.max(1)).max(1);
        let mut bytes = self.synced.clone();
        states.insert(bytes.clone());
        for (n, event) in self.events.iter().enumerate() {
            apply(&mut bytes, event);
            if n % step == 0 || n + 1 == self.events.len() {
                states.insert(bytes.clone());
            }
        }
        let mut sectors: BTreeMap<u64, usize> = BTreeMap::new();
        for event in &self.events {
            if let Event::Store(at, _) = event {
                *sectors.entry(at / SECTOR as u64).or_default() += 1;
            }
        }
        let step = (sectors.len() / share.max(1)).max(1);
        for (n, &s) in sectors.keys().enumerate() {
            if n % step == 0 {
                states.insert(self.state(|sector| if sector == s { usize::MAX } else { 0 }));
                states.insert(self.state(|sector| if sector == s { 0 } else { usize::MAX }));
            }
        }
        let mut rng = Rng(self.events.len() as u64);
        for _ in 0..share {
            let upto: BTreeMap<u64, usize> = sectors
                .iter()
                .map(|(&s, &n)| match rng.below(3) {
                    0 => (s, 0),
                    1 => (s, n),
                    _ => (s, rng.below(n as u64 + 1) as usize),
                })
                .collect();
            states.insert(self.state(|s| upto[&s]));
        }
        states.into_iter().collect()
    }

    /// Each sector as it was after so many of the stores into it; the length is the last one.
    fn state(&self, upto: impl Fn(u64) -> usize) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        let mut seen: BTreeMap<u64, usize> = BTreeMap::new();
        // A store behind an end that is cut off later is of no consequence, but must find its place.
        for event in &self.events {
            match event {
                Event::Store(at, _) => {
                    let sector = at / SECTOR as u64;
                    let n = seen.entry(sector).or_default();
                    *n += 1;
                    if *n <= upto(sector) {
                        apply(&mut bytes, event);
                    }
                }
                event => apply(&mut bytes, event),
            }
        }
        bytes
    }
}
