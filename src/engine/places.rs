//! Where the keys with a fingerprint are: a hash table beside the rows of [`super::index`], so that a
//! look-up touches one line of memory instead of a row as long as the chain.
//!
//! Written by one thread, read by any. It never forgets what is there as long as its slot stays as it
//! is; whether that is so the reader finds out himself. Where it can't tell, it says so.
//!
//! Memory: 12 bytes an entry, for as many entries as all tables have slots, and when it grows as much again.

use super::grown::{Grown, slice};
use crate::error::Result;
use crate::format::PAGE;
use crate::format::block::Side;
use crate::sys::prefetch::fetch_line;
use std::sync::atomic::{
    AtomicU16, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

/// Entries in a line.
const LANES: usize = 8;
/// For so many entries there are [`PER`]'s second lines.
const PER: (usize, usize) = (16, 3);
/// A look-up goes through so many full lines at most.
const MOST: usize = 8;
/// Each is twice as large as the one before.
const SIZES: usize = 32;
/// In place of a fingerprint. Free lanes are taken from the first on, so a line whose last one was never
/// used was never full.
const NEVER_USED: u16 = 0;
const FREE: u16 = 1;

/// Fingerprints first, so that all are compared at once.
#[repr(C, align(64))]
#[derive(Default)]
struct Line {
    prints: [AtomicU64; 2],
    tables: [AtomicU16; LANES],
    /// What [`Hint`] says.
    hints: [AtomicU32; LANES],
}

const LOW: u64 = 0x0001_0001_0001_0001;

/// The top bit of each 16 bits that are `print`.
#[inline(always)]
fn equal(word: u64, print: u16) -> u64 {
    let differs = word ^ (u64::from(print) * LOW);
    let rest = LOW * 0x7FFF;
    !(((differs & rest) + rest) | differs | rest)
}

impl Line {
    fn print(&self, lane: usize) -> u16 {
        (self.prints[lane / 4].load(Relaxed) >> (16 * (lane % 4))) as u16
    }

    fn set_print(&self, lane: usize, print: u16) {
        let (word, shift) = (&self.prints[lane / 4], 16 * (lane % 4));
        let others = word.load(Relaxed) & !(0xFFFF << shift);
        // With it counts what was stored into the lane before.
        word.store(others | u64::from(print) << shift, Release);
    }

    fn is_full(&self) -> bool {
        self.print(LANES - 1) != NEVER_USED
    }
}

/// Which slot of its table an entry is, and which block that probably names: copy (1 bit), slot (9 bits),
/// offset of the pair in pages (22 bits; 0 is unknown: 16 GiB on, blocks are not fetched early).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hint(u32);

const SLOT_BITS: u32 = 9;
const _: () = assert!(crate::format::table::SLOTS <= 1 << SLOT_BITS);

impl Hint {
    fn new(slot: u16, pair: u64, side: Side) -> Self {
        let pages = u32::try_from(pair / PAGE).unwrap_or(u32::MAX);
        let known = pages < 1 << (31 - SLOT_BITS);
        let pages = if known { pages } else { 0 };
        Self(((pages << SLOT_BITS) | u32::from(slot)) << 1 | u32::from(side == Side::B))
    }

    #[inline(always)]
    fn is_of(self, slot: u16) -> bool {
        (self.0 >> 1) & ((1 << SLOT_BITS) - 1) == u32::from(slot)
    }

    /// Offset of the pair.
    #[inline(always)]
    pub fn pair(self) -> u64 {
        u64::from(self.0 >> (1 + SLOT_BITS)) * PAGE
    }

    /// The block that is probably current, and the other one.
    #[inline(always)]
    pub fn blocks(self) -> (u64, u64) {
        let side = if self.0 & 1 == 0 { Side::A } else { Side::B };
        (side.offset(self.pair()), side.other().offset(self.pair()))
    }
}

/// What is known of a fingerprint in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    Nowhere,
    /// In this table, and in no other.
    Here(usize, Hint),
    /// In several tables, or that can't be told.
    Unclear,
}

/// The table.
pub(crate) struct Places {
    lines: Grown<Line, SIZES>,
    count: AtomicUsize,
}

/// How many lines there are for so many entries.
fn lines_for(entries: usize) -> usize {
    (entries / PER.0 + 1) * PER.1
}

impl Places {
    /// Without room.
    pub fn new() -> Self {
        Self {
            lines: Grown::new(),
            count: AtomicUsize::new(0),
        }
    }

    /// How many entries there are.
    pub fn count(&self) -> usize {
        self.count.load(Relaxed)
    }

    #[inline(always)]
    fn lines(&self) -> &[Line] {
        self.lines.last()
    }

    /// The lines in which an entry may be, in their order.
    #[inline(always)]
    fn path(lines: &[Line], slot: u16, print: u16) -> impl Iterator<Item = &Line> {
        // Fingerprints are spread already; with very many lines the slot spreads those that share one.
        let spread = u64::from(print) << 16 | u64::from(slot) << (16 - SLOT_BITS);
        let mut next = ((spread * lines.len() as u64) >> 32) as usize;
        (0..MOST.min(lines.len())).map_while(move |_| {
            let line = lines.get(next);
            next = if next + 1 == lines.len() { 0 } else { next + 1 };
            line
        })
    }

    /// A fingerprint is about to be looked up.
    #[inline(always)]
    pub fn fetch(&self, slot: u16, print: u16) {
        if let Some(line) = Self::path(self.lines(), slot, print).next() {
            fetch_line(line);
        }
    }

    /// Looks a fingerprint up.
    #[inline(always)]
    pub fn find(&self, slot: u16, print: u16) -> Known {
        let mut known = Known::Nowhere;
        for line in Self::path(self.lines(), slot, print) {
            let words = [0, 1].map(|i: usize| line.prints[i].load(Acquire));
            // Lane n of the second word is the bit behind that of lane n of the first one.
            let [low, high] = words.map(|word| equal(word, print));
            let mut same = low >> 15 | high >> 14;
            while same != 0 {
                let bit = same.trailing_zeros() as usize;
                same &= same - 1;
                let lane = bit / 16 + bit % 16 * 4;
                let hint = Hint(line.hints[lane].load(Relaxed));
                if hint.is_of(slot) {
                    if known != Known::Nowhere {
                        return Known::Unclear;
                    }
                    let table = line.tables[lane].load(Relaxed);
                    known = Known::Here(usize::from(table), hint);
                }
            }
            if words[1] >> 48 == u64::from(NEVER_USED) {
                return known;
            }
        }
        Known::Unclear
    }

    /// Whether a fingerprint is surely nowhere: less work than [`Places::find`].
    #[inline(always)]
    pub fn lacks(&self, slot: u16, print: u16) -> bool {
        for line in Self::path(self.lines(), slot, print) {
            let [low, high] = [0, 1].map(|i: usize| line.prints[i].load(Acquire));
            if equal(low, print) | equal(high, print) != 0 {
                return false;
            }
            if high >> 48 == u64::from(NEVER_USED) {
                return true;
            }
        }
        false
    }

    /// The lane of the entry of a slot in this table.
    fn lane(&self, slot: u16, print: u16, table: usize) -> Option<(&Line, usize)> {
        for line in Self::path(self.lines(), slot, print) {
            let own = |&n: &usize| {
                line.print(n) == print
                    && usize::from(line.tables[n].load(Relaxed)) == table
                    && Hint(line.hints[n].load(Relaxed)).is_of(slot)
            };
            if let Some(lane) = (0..LANES).find(own) {
                return Some((line, lane));
            }
            if !line.is_full() {
                break;
            }
        }
        None
    }

    /// Remembers that a slot of a table has this fingerprint, and its pair and current copy; `false` if there is no
    /// place for it.
    pub fn put(&self, slot: u16, print: u16, table: usize, pair: u64, side: Side) -> bool {
        if self.update(slot, print, table, pair, side) {
            return true;
        }
        let hint = Hint::new(slot, pair, side);
        let inserted = Self::insert(self.lines(), slot, print, table, hint);
        self.count.fetch_add(inserted.into(), Relaxed);
        inserted
    }

    /// Remembers pair and current copy of an entry, if there is one.
    pub fn update(&self, slot: u16, print: u16, table: usize, pair: u64, side: Side) -> bool {
        let entry = self.lane(slot, print, table);
        if let Some((line, lane)) = entry {
            line.hints[lane].store(Hint::new(slot, pair, side).0, Relaxed);
        }
        entry.is_some()
    }

    fn insert(lines: &[Line], slot: u16, print: u16, table: usize, hint: Hint) -> bool {
        let Ok(table) = u16::try_from(table) else {
            return false;
        };
        for line in Self::path(lines, slot, print) {
            if let Some(lane) = (0..LANES).find(|&n| line.print(n) <= FREE) {
                line.tables[lane].store(table, Relaxed);
                line.hints[lane].store(hint.0, Relaxed);
                line.set_print(lane, print);
                return true;
            }
        }
        false
    }

    /// Forgets an entry.
    pub fn remove(&self, slot: u16, print: u16, table: usize) {
        if let Some((line, lane)) = self.lane(slot, print, table) {
            line.set_print(lane, FREE);
            self.count.fetch_sub(1, Relaxed);
        }
    }

    /// Forgets all entries.
    pub fn clear(&self) {
        for line in self.lines() {
            line.prints.iter().for_each(|word| word.store(0, Relaxed));
        }
        self.count.store(0, Relaxed);
    }

    /// Sees to it that there is room for so many entries. `all`: those that are there, as (slot,
    /// fingerprint, table), for a larger one.
    ///
    /// # Errors
    /// [`crate::Error::Memory`].
    pub fn reserve(
        &self,
        entries: usize,
        all: impl Iterator<Item = (u16, u16, usize)>,
    ) -> Result<()> {
        let have = self.lines().len();
        if have >= lines_for(entries) {
            return Ok(());
        }
        let wanted = lines_for(entries).max(2 * have);
        let lines = slice(wanted, Line::default)?;
        for (slot, print, table) in all {
            let hint = match self.lane(slot, print, table) {
                Some((line, lane)) => Hint(line.hints[lane].load(Relaxed)),
                None => Hint::new(slot, 0, Side::A),
            };
            // Where there is no place all lines on its path are full, and a look-up can't tell.
            Self::insert(&lines, slot, print, table, hint);
        }
        self.lines.replace(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn a_line_is_one_line() {
        assert_eq!(size_of::<Line>(), 64);
        assert_eq!(equal(0x0005_0004_8005_0005, 5), 0x8000_0000_0000_8000);
        assert_eq!(equal(0x0000_0001_0000_FFFF, 0), 0x8000_0000_8000_0000);
    }

    #[test]
    fn a_fingerprint_that_two_slots_share() {
        // A small table has one path for all. One slot's entry was taken for the other's: both became one, and with
        // a delete in one slot a key of the other was not found any more.
        let places = Places::new();
        places.reserve(1, std::iter::empty()).expect("memory");
        for slot in [2, 0] {
            assert!(places.put(slot, 4, 3, PAGE, Side::A));
        }
        places.remove(0, 4, 3);
        assert_eq!(places.find(0, 4), Known::Nowhere);
        let hint = Hint::new(2, PAGE, Side::A);
        assert_eq!(places.find(2, 4), Known::Here(3, hint));
        assert_eq!(hint.blocks(), (PAGE, PAGE + 8192));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Put(u16, u16, usize),
        Remove(u16, u16, usize),
        Grow,
    }

    /// Of lines at the beginning, in the middle and at the end.
    const PRINTS: [u16; 5] = [4, 5, 0x5555, 0xAAAA, 0xFFFF];

    fn step() -> impl Strategy<Value = Step> {
        // Few slots and fingerprints, so that lines fill up.
        let entry = (0..3u16, prop::sample::select(&PRINTS), 0..12usize);
        prop_oneof![
            8 => entry.clone().prop_map(|(s, p, t)| Step::Put(s, p, t)),
            4 => entry.prop_map(|(s, p, t)| Step::Remove(s, p, t)),
            1 => Just(Step::Grow),
        ]
    }

    proptest! {
        /// What was put in is found until it is taken out, or it is answered that nothing can be told.
        #[test]
        fn nothing_is_forgotten(steps in prop::collection::vec(step(), 0..300), room in 1usize..60) {
            let places = Places::new();
            let mut model: BTreeMap<(u16, u16), BTreeSet<usize>> = BTreeMap::new();
            let mut entries = room;
            places.reserve(entries, std::iter::empty()).expect("memory");
            for step in steps {
                match step {
                    Step::Put(s, p, t) => {
                        places.put(s, p, t, (t as u64 + 1) * PAGE, Side::B);
                        model.entry((s, p)).or_default().insert(t);
                    }
                    Step::Remove(s, p, t) => {
                        places.remove(s, p, t);
                        model.entry((s, p)).or_default().remove(&t);
                    }
                    Step::Grow => {
                        entries = (2 * entries).min(500);
                        let all = model.iter().flat_map(|(&(s, p), tables)| {
                            tables.iter().map(move |&t| (s, p, t))
                        });
                        let all: Vec<_> = all.collect();
                        places.reserve(entries, all.into_iter()).expect("memory");
                    }
                }
                for s in 0..3 {
                    for p in PRINTS {
                        let tables = model.get(&(s, p)).cloned().unwrap_or_default();
                        prop_assert!(tables.is_empty() || !places.lacks(s, p));
                        match places.find(s, p) {
                            Known::Nowhere => prop_assert!(tables.is_empty()),
                            Known::Here(table, hint) => {
                                let blocks = hint.blocks();
                                prop_assert!(tables.iter().eq([&table]));
                                let pair = (table as u64 + 1) * PAGE;
                                let known = blocks != Hint::new(s, 0, Side::A).blocks();
                                prop_assert!(!known || blocks == (pair + 8192, pair));
                            }
                            Known::Unclear => {}
                        }
                    }
                }
            }
        }
    }
}
