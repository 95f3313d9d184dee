//! Which states each key may be found in after a cut, from the calls that were made.

use super::scenario::{Call, Effect};
use kissdb::engine::storage::Event;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A value.
pub type Bytes = Arc<[u8]>;
/// A key's value, or that it is absent.
pub type State = Option<Bytes>;

/// What may be found for one key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Permit {
    /// By this library: what the key had at the last sync before the cut or was given later.
    pub states: Vec<State>,
    /// Moreover by the original, if the key was there at the last sync: its value at the last clean
    /// close or one given since.
    pub older: Vec<Bytes>,
    /// Moreover by the original, in a file that it left itself, until the library has changed it: what it finds there.
    pub alien: Vec<State>,
}

impl Permit {
    pub fn ours(&self, found: &State) -> bool {
        self.states.contains(found)
    }

    pub fn originals(&self, found: &State) -> bool {
        self.ours(found)
            || found.as_ref().is_some_and(|v| self.older.contains(v))
            || self.alien.contains(found)
    }
}

/// What may be found for every key; one that is not listed was never there.
pub type Permits = BTreeMap<Vec<u8>, Permit>;

/// What is known of a file before the scenario begins.
#[derive(Debug, Clone, Default)]
pub struct Baseline(Permits);

impl Baseline {
    /// Cleanly closed with this in it.
    pub fn certain(model: BTreeMap<Vec<u8>, Bytes>) -> Self {
        let permit = |v: Bytes| Permit {
            states: vec![Some(v.clone())],
            older: vec![v],
            alien: Vec::new(),
        };
        Self(model.into_iter().map(|(k, v)| (k, permit(v))).collect())
    }

    /// In a file that the original left open each good copy holds what was there at the last clean close or was given since.
    pub fn or_older(&mut self, good: &BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>) {
        for (key, permit) in &mut self.0 {
            for value in good.get(key).into_iter().flatten() {
                add(&mut permit.older, value.as_slice().into());
            }
        }
    }

    /// The original finds this instead, as long as the library has not changed the file.
    pub fn or_else(&mut self, found: &BTreeMap<Vec<u8>, Bytes>) {
        for key in found.keys() {
            self.0.entry(key.clone()).or_insert_with(|| Permit {
                states: vec![None],
                ..Permit::default()
            });
        }
        for (key, permit) in &mut self.0 {
            add(&mut permit.alien, found.get(key).cloned());
        }
    }

    /// Cut off when this was permitted.
    pub fn of(permits: &Permits) -> Self {
        let mut permits = permits.clone();
        for p in permits.values_mut() {
            let values = p.states.iter().flatten().cloned().collect::<Vec<_>>();
            for v in values {
                add(&mut p.older, v);
            }
        }
        Self(permits)
    }

    pub fn keys(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.0.keys()
    }

    /// A key that was found as it may not be.
    pub fn contradicts(&self, found: &BTreeMap<Vec<u8>, Bytes>) -> Option<Vec<u8>> {
        let wrong = |k: &&Vec<u8>| match self.0.get(*k) {
            Some(p) => !p.ours(&found.get(*k).cloned()),
            None => found.contains_key(*k),
        };
        let mut keys = self.0.keys().chain(found.keys());
        keys.find(wrong).cloned()
    }

    /// Whether each key can be in one state only.
    pub fn is_certain(&self) -> bool {
        self.0.values().all(|p| p.states.len() == 1)
    }

    /// The keys that are there, if that is certain.
    pub fn only_states(&self) -> BTreeMap<Vec<u8>, Bytes> {
        let only = |(k, p): (&Vec<u8>, &Permit)| match p.states.as_slice() {
            [Some(v)] => Some((k.clone(), v.clone())),
            _ => None,
        };
        self.0.iter().filter_map(only).collect()
    }
}

/// What was permitted in one epoch: from each of these events on.
#[derive(Debug, Clone)]
pub struct Steps(Vec<(usize, Arc<Permits>)>);

impl Steps {
    /// At the instant of an event.
    pub fn at(&self, event: usize) -> &Arc<Permits> {
        let n = self.0.partition_point(|(from, _)| *from <= event);
        &self.0[n.max(1) - 1].1
    }
}

/// For one key, while the calls go by.
#[derive(Debug, Clone, Default)]
struct Life {
    /// What the caller may think that it is now: more than one state only while a call is in flight
    /// or after a cut.
    now: Vec<State>,
    /// What it was at the last sync or later.
    since_sync: Vec<State>,
    /// Whether it may have been there at the last sync.
    there: bool,
    /// Its values at the last clean close or later.
    since_close: Vec<Bytes>,
    /// See [`Permit::alien`].
    alien: Vec<State>,
}

impl Life {
    fn absent() -> Self {
        Self {
            now: vec![None],
            since_sync: vec![None],
            ..Self::default()
        }
    }

    fn permit(&self) -> Permit {
        Permit {
            states: self.since_sync.clone(),
            older: if self.there {
                self.since_close.clone()
            } else {
                Vec::new()
            },
            alien: self.alien.clone(),
        }
    }

    fn begin(&mut self, state: &State) {
        add(&mut self.now, state.clone());
        add(&mut self.since_sync, state.clone());
        if let Some(v) = state {
            add(&mut self.since_close, v.clone());
        }
    }

    fn sync(&mut self) {
        self.since_sync.clone_from(&self.now);
        self.there = self.now.iter().any(Option::is_some);
    }
}

fn add<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

/// What is permitted in each epoch of a record: from the beginning to the first sync, and behind each sync.
pub fn permits(baseline: &Baseline, log: &[Event], calls: &[Call]) -> Vec<Steps> {
    let mut lives: BTreeMap<Vec<u8>, Life> = BTreeMap::new();
    for (k, p) in &baseline.0 {
        let life = Life {
            now: p.states.clone(),
            since_sync: p.states.clone(),
            there: p.states.iter().any(Option::is_some),
            since_close: p.older.clone(),
            alien: p.alien.clone(),
        };
        lives.insert(k.clone(), life);
    }
    let snapshot = |lives: &BTreeMap<Vec<u8>, Life>| {
        let all = lives.iter().map(|(k, l)| (k.clone(), l.permit()));
        Arc::new(all.collect::<Permits>())
    };
    let mut epochs = Vec::new();
    let mut steps = vec![(0, snapshot(&lives))];
    let mut changed = false;
    for (n, event) in log.iter().enumerate() {
        match event {
            Event::Sync => {
                if changed {
                    lives.values_mut().for_each(|life| life.alien.clear());
                }
                lives.values_mut().for_each(Life::sync);
                let next = vec![(n, snapshot(&lives))];
                epochs.push(Steps(std::mem::replace(&mut steps, next)));
            }
            Event::Mark(mark) => {
                let begins = mark % 2 == 0;
                let Some(call) = calls.get((mark / 2) as usize) else {
                    continue;
                };
                match &call.effect {
                    Effect::Change(k, state) | Effect::Perhaps(k, state) if begins => {
                        let life = lives.entry(k.clone()).or_insert_with(Life::absent);
                        life.begin(state);
                        changed = true;
                        steps.push((n, snapshot(&lives)));
                    }
                    Effect::Change(k, state) => {
                        if let Some(life) = lives.get_mut(k) {
                            life.now = vec![state.clone()];
                        }
                    }
                    Effect::Seen(found) if !begins => {
                        for (k, life) in &mut lives {
                            life.now = vec![found.get(k).cloned()];
                        }
                    }
                    Effect::Close if !begins => {
                        for life in lives.values_mut() {
                            life.since_close = life.now.iter().flatten().cloned().collect();
                        }
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
    epochs.push(Steps(steps));
    epochs
}
