//! Files of the original that power cuts have shortened: lives, each ended by a cut. The tables are those of the last close; a
//! pair at the end of the file is there as far as it was written, from its copy A on, and the next life goes on behind that.
#![forbid(unsafe_code)]
#![allow(dead_code)] // each test program uses a part of it

use super::build::{Copy, Image, PAGE, PAIR_BYTES, delimiters, names_in_slot, pair, table};
use super::procs::Rng;
use super::support::check;
use super::support::ffi::SETTINGS;
use std::collections::{BTreeMap, BTreeSet};

/// A file of the original between two of its lives, and what is in it.
pub struct Lives {
    rng: Rng,
    pub image: Image,
    /// Names that were not used yet.
    names: Vec<String>,
    /// Where each key is: offset, table, value.
    keys: BTreeMap<String, (u64, u64, Vec<u8>)>,
    /// Deleted pairs: offset, table, slot.
    free: Vec<(u64, u64, usize)>,
    /// So many keys of each slot have a place.
    used: BTreeMap<usize, u64>,
    tables: u64,
    /// What was done.
    pub story: Vec<String>,
}

impl Lives {
    /// After one life or more.
    pub fn some(seed: u64) -> Lives {
        let mut lives = Lives::new(seed);
        for _ in 0..1 + lives.rng.below(4) {
            lives.live();
        }
        lives
    }

    /// Every key whose copy A is whole, and its value.
    pub fn keys(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let all = self.keys.iter();
        all.map(|(name, (.., value))| (name.as_str(), value.as_slice()))
    }

    /// Closed with one key or more in it.
    fn new(seed: u64) -> Lives {
        let mut names = names_in_slot("s", 7, 510, 8);
        names.extend((0..8).map(|n| format!("/other/{n}")));
        let mut lives = Lives {
            rng: Rng(seed),
            image: Image::new(SETTINGS),
            names,
            keys: BTreeMap::new(),
            free: Vec::new(),
            used: BTreeMap::new(),
            tables: 1,
            story: Vec::new(),
        };
        for _ in 0..1 + lives.rng.below(3) {
            let name = lives.new_name();
            let at = lives.image.put(&name, b"closed");
            let number = lives.image.find(&name).0 as u64;
            lives.tables = lives.tables.max(number + 1);
            *lives.used.entry(slot_of(&name)).or_default() += 1;
            lives.keys.insert(name, (at, number, b"closed".to_vec()));
        }
        lives.image = lives.image.unclean();
        lives
    }

    fn new_name(&mut self) -> String {
        let n = self.rng.below(self.names.len() as u64);
        self.names.swap_remove(n as usize)
    }

    /// A life of some calls. Of what the last one has appended only so many pages arrive.
    fn live(&mut self) {
        // What has lost its copy B is left alone: it would be written over what is there now.
        let whole: BTreeSet<u64> = self.keys.values().map(|k| k.0).collect();
        let whole: BTreeSet<u64> = whole
            .into_iter()
            .filter(|at| at + PAIR_BYTES <= self.image.end())
            .filter(|at| self.image.u64(at + PAIR_BYTES - 8) == delimiters(Copy::B, true).1)
            .collect();
        for _ in 0..self.rng.below(4) {
            let n = self.rng.below(self.keys.len().max(1) as u64) as usize;
            let known = self.keys.iter().nth(n);
            let known = known.filter(|(_, (at, ..))| whole.contains(at));
            let known = known.map(|(name, &(at, number, _))| (name.clone(), at, number));
            match (self.rng.below(4), known) {
                (0, Some((name, at, number))) => {
                    let value = self.value();
                    self.write(at, true, &name, &value, number);
                    self.keys.insert(name, (at, number, value));
                }
                (1, Some((name, at, number))) => {
                    self.write(at, false, &name, b"", number);
                    self.keys.remove(&name);
                    self.free.push((at, number, slot_of(&name)));
                }
                _ => self.put_new(None),
            }
        }
        // None of it, copy A, a part of copy B, all.
        let pages = [0, 2, 3, 4][self.rng.below(4) as usize];
        self.put_new(Some(pages));
    }

    fn value(&mut self) -> Vec<u8> {
        let len = 1 + self.rng.below(600) as usize;
        if self.rng.one_in(3) {
            return vec![self.rng.next() as u8; len];
        }
        (0..len).map(|_| self.rng.next() as u8).collect()
    }

    fn write(&mut self, at: u64, live: bool, name: &str, value: &[u8], number: u64) {
        let bytes = pair(SETTINGS, live, name.as_bytes(), value, number);
        self.image.write(at, &bytes);
        self.story.push(format!("{name} at {at:#x}, live {live}"));
    }

    /// `pages`: the put is cut short.
    fn put_new(&mut self, pages: Option<u64>) {
        if self.names.is_empty() {
            return;
        }
        let (name, value) = (self.new_name(), self.value());
        let slot = slot_of(&name);
        if let Some(n) = self.free.iter().position(|f| f.2 == slot) {
            let (at, number, _) = self.free.swap_remove(n);
            self.write(at, true, &name, &value, number);
            self.keys.insert(name, (at, number, value));
            return;
        }
        let number = self.used.get(&slot).copied().unwrap_or(0);
        let begin = self.image.end();
        if pages == Some(0) {
            return;
        }
        if number >= self.tables {
            self.image.append(&table(&[], 0));
            self.tables += 1;
            self.story.push(format!("table at {begin:#x}"));
        }
        let at = self.image.end();
        let bytes = pair(SETTINGS, true, name.as_bytes(), &value, number);
        let keep = pages.unwrap_or(4) * PAGE;
        self.image.append(&bytes[..keep as usize]);
        self.story.push(format!("{name} at {at:#x}, {keep} bytes"));
        *self.used.entry(slot).or_default() += 1;
        self.keys.insert(name, (at, number, value));
    }
}

fn slot_of(name: &str) -> usize {
    check::slot_of(name.as_bytes(), 510)
}
