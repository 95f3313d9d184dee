//! Which key is where, as one handle remembers it, so that a look-up touches no pair but the one
//! that it wants, and takes no lock.
//!
//! For each slot there is a row of fingerprints, one for each table of the chain: what the slot
//! holds there, or 16 bits of the hash of the key. `places.rs` says in which table a fingerprint is.
//! A row is made when its slot is first used, under the engine lock, which is also when the pairs of the chain are
//! checked. It is believed as long as [`State::changes`] of that slot has not moved; every change of which key is where
//! moves it, overwrites do not. Everything is void when [`State::layout`] moves.
//!
//! # Reading without the lock
//!
//! [`Reader`] looks a key up in its row, loads the word of the slot and its offset of B, copies from the copy or the
//! record that these name, and loads the word again. A record is not written over before the word has changed. A copy
//! is never written while its slot's word names it: an overwrite writes the other one, a delete leaves the contents
//! alone, and a pair is used again only when the word has changed. No word comes back once the value is another: each
//! change of a pair has an epoch of its own. What is done to pairs in any other way (recovery, the close) moves the
//! layout first, and that is looked at last. So what was copied is what was there at one instant. Where anything has
//! changed meanwhile, or nothing is remembered, the caller asks again under the lock. A short value that was found
//! is kept (`kept.rs`), and found there as long as nothing is stored into its chain.
//!
//! Memory: 2 bytes a slot and table, whose number is rounded up to the next power of two, and that of the
//! places.

use super::grown::slice;
use super::kept::{Kept, When};
use super::look::Content;
use super::places::{Hint, Known, Places};
use super::{Engine, Place, Position, State, Storage};
use crate::error::{Error, Result};
use crate::format::block::{self, KEY_LEN, Side};
use crate::format::key::Key;
use crate::format::slot::{self, Slot};
use crate::format::{PAGE, Sizes, hash, table};
use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
    fence,
};

/// The slot was never used.
pub(crate) const UNUSED: u16 = 0;
/// The slot holds a deleted pair.
pub(crate) const DELETED: u16 = 1;
/// The slot names no pair, or one that is not to be served.
pub(crate) const NOTHING: u16 = 2;
/// The pair is not as its slot says, or damaged: its key may be any.
pub(crate) const UNSURE: u16 = 3;
const FIRST_PRINT: u16 = 4;

/// All keys of a slot share the hash modulo the number of slots: here all bits of it count, in the upper ones most.
#[inline(always)]
pub(super) fn mixed(hash: u64) -> u64 {
    hash.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// The fingerprint of a key with this hash.
#[inline(always)]
pub(crate) fn print_of(hash: u64) -> u16 {
    ((mixed(hash) >> 48) as u16).max(FIRST_PRINT)
}

/// No row is made at this number of changes.
const NEVER: u64 = u64::MAX;
/// So many slots at a time an iteration fetches the blocks of.
const AHEAD: u16 = 8;
/// The first chunk holds this many tables, each further one as many as all before it.
const FIRST_CHUNK: usize = 16;
const CHUNKS: usize = 29;
/// So many tables are found without asking which chunk they are in: a step less on the way to a pair.
const NEAR: usize = 256;
/// Fingerprints in a word.
const LANES: usize = 4;
const LANE: u64 = 0x0001_0001_0001_0001;

/// The chunk of table `t`.
#[inline(always)]
fn chunk_of(t: usize) -> usize {
    (usize::BITS - (t / FIRST_CHUNK).leading_zeros()) as usize
}

/// The first table of a chunk.
#[inline(always)]
fn chunk_start(c: usize) -> usize {
    match c {
        0 => 0,
        c => FIRST_CHUNK << (c - 1),
    }
}

/// How many tables a chunk holds.
fn chunk_len(c: usize) -> usize {
    chunk_start(c).max(FIRST_CHUNK)
}

/// Arrays that grow without moving: written by one thread, read by any.
type Chunks<T> = [OnceLock<Box<[T]>>; CHUNKS];

/// A chunk, made of so many words if it is not there yet.
fn chunk<T: Default>(chunks: &Chunks<T>, c: usize, words: usize) -> Result<&[T]> {
    let place = chunks.get(c).ok_or(Error::Memory)?;
    if place.get().is_none() {
        // Only the thread that holds the handle writes, so nobody was faster.
        let _ = place.set(slice(words, T::default)?);
    }
    place.get().map(AsRef::as_ref).ok_or(Error::Memory)
}

/// What a handle remembers.
pub struct Index {
    slots: u16,
    /// The [`State::layout`] for which it holds.
    layout: AtomicU64,
    /// How many tables are known.
    count: AtomicUsize,
    /// Offsets of the first tables.
    near: [AtomicU64; NEAR],
    /// Of those behind them.
    far: Chunks<AtomicU64>,
    /// For each slot a row of fingerprints of the chunk's tables.
    rows: Chunks<AtomicU64>,
    /// The fingerprints of all rows.
    places: Places,
    /// What was read through it.
    kept: Kept,
    /// For each slot whether a fingerprint stands twice in its row.
    twice: Box<[AtomicBool]>,
    /// For each slot [`State::changes`] when its row was made, if all in it is sure.
    made: Box<[AtomicU64]>,
}

impl Index {
    /// Of nothing.
    pub(crate) fn new(slots: u16) -> Result<Self> {
        let each = slots as usize;
        Ok(Self {
            slots,
            layout: AtomicU64::new(NEVER),
            count: AtomicUsize::new(0),
            near: [const { AtomicU64::new(0) }; NEAR],
            far: [const { OnceLock::new() }; CHUNKS],
            rows: [const { OnceLock::new() }; CHUNKS],
            places: Places::new(),
            kept: Kept::new(),
            twice: slice(each, AtomicBool::default)?,
            made: slice(each, || AtomicU64::new(NEVER))?,
        })
    }

    /// From now on every look-up looks at the pair.
    #[cfg(test)]
    pub(crate) fn keep_nothing(&self) {
        self.kept.refuse();
    }

    /// Forgets everything and begins with these tables.
    fn begin(&self, layout: u64, tables: &[u64]) -> Result<()> {
        self.layout.store(NEVER, Relaxed);
        for made in &self.made {
            made.store(NEVER, Relaxed);
        }
        // Who reads sees these before anything that follows.
        fence(Release);
        self.count.store(0, Relaxed);
        self.places.clear();
        for twice in &self.twice {
            twice.store(false, Relaxed);
        }
        self.add_tables(tables)?;
        self.layout.store(layout, Release);
        Ok(())
    }

    /// Learns of tables that were appended. In those no slot is used as far as rows are made.
    fn add_tables(&self, tables: &[u64]) -> Result<()> {
        let known = self.count.load(Relaxed);
        if known >= tables.len() {
            return Ok(());
        }
        let all = (0..self.slots)
            .flat_map(|slot| (0..known).map(move |t| (slot, t)))
            .map(|(slot, t)| (slot, self.get(slot, t), t));
        let prints = all.filter(|&(_, print, _)| print >= FIRST_PRINT);
        self.places
            .reserve(tables.len() * self.slots as usize, prints)?;
        for (t, &at) in tables.iter().enumerate().skip(known) {
            let (c, n) = (chunk_of(t), chunk_len(chunk_of(t)));
            chunk(&self.rows, c, self.slots as usize * (n / LANES))?;
            match self.near.get(t) {
                Some(near) => near,
                None => &chunk(&self.far, c, n)?[t - chunk_start(c)],
            }
            .store(at, Relaxed);
            for slot in 0..self.slots {
                self.set_print(slot, t, UNUSED);
            }
            self.count.store(t + 1, Release);
        }
        Ok(())
    }

    #[inline(always)]
    fn table(&self, t: usize) -> Option<u64> {
        if let Some(at) = self.near.get(t) {
            return Some(at.load(Relaxed));
        }
        let c = chunk_of(t);
        let chunk = self.far.get(c)?.get()?;
        Some(chunk.get(t - chunk_start(c))?.load(Relaxed))
    }

    /// The word that holds the fingerprint of a slot in table `t`, and where in it.
    fn lane(&self, slot: u16, t: usize) -> Option<(&AtomicU64, usize)> {
        let c = chunk_of(t);
        let n = t - chunk_start(c);
        let row = self.rows.get(c)?.get()?;
        let word = row.get(slot as usize * (chunk_len(c) / LANES) + n / LANES)?;
        Some((word, 16 * (n % LANES)))
    }

    fn get(&self, slot: u16, t: usize) -> u16 {
        self.lane(slot, t).map_or(NOTHING, |(word, shift)| {
            (word.load(Relaxed) >> shift) as u16
        })
    }

    fn set_print(&self, slot: u16, t: usize, print: u16) {
        if let Some((word, shift)) = self.lane(slot, t) {
            let others = word.load(Relaxed) & !(0xFFFF << shift);
            word.store(others | u64::from(print) << shift, Relaxed);
        }
    }

    /// Remembers what a slot holds, of which pair, and which copy is current. `false`: it has not become
    /// known to those who read without the lock.
    fn set(&self, slot: u16, t: usize, print: u16, pair: u64, side: Side) -> bool {
        let before = self.get(slot, t);
        if before >= FIRST_PRINT && before != print {
            self.places.remove(slot, before, t);
        }
        self.set_print(slot, t, print);
        if print < FIRST_PRINT {
            return print != UNSURE;
        }
        if before != print
            && self.places.find(slot, print) != Known::Nowhere
            && let Some(twice) = self.twice.get(slot as usize)
        {
            twice.store(true, Relaxed);
        }
        self.places.put(slot, print, t, pair, side)
    }

    /// Remembers which copy is current of the pair of a live slot, if the pair is known: who folds meets slots whose rows
    /// are old.
    pub(crate) fn set_current(&self, place: &Place, print: u16, side: Side) {
        self.places
            .update(place.index, print, place.table, place.pair, side);
    }

    /// The first table from `from` on where this fingerprint is.
    #[inline]
    pub(crate) fn search(&self, slot: u16, from: usize, print: u16) -> Option<usize> {
        let count = self.count.load(Acquire);
        let want = u64::from(print) * LANE;
        for c in chunk_of(from)..CHUNKS {
            let start = chunk_start(c);
            if start >= count {
                break;
            }
            let words = chunk_len(c) / LANES;
            let first = slot as usize * words;
            let row = self.rows[c].get()?.get(first..first + words)?;
            let skipped = from.saturating_sub(start);
            // The bits of the lanes before `from`.
            let mut before = !(u64::MAX << (16 * (skipped % LANES)));
            for (i, word) in row.iter().enumerate().skip(skipped / LANES) {
                let differs = word.load(Relaxed) ^ want;
                // The top bit of each lane that is zero; above the lowest of them there may be others.
                let equal = differs.wrapping_sub(LANE) & !differs & (LANE << 15) & !before;
                if equal != 0 {
                    let found = start + i * LANES + equal.trailing_zeros() as usize / 16;
                    return (found < count).then_some(found);
                }
                before = 0;
            }
        }
        None
    }
}

/// Reads of a database that take no lock.
pub struct Reader<'a, S> {
    pub(crate) index: &'a Index,
    pub(crate) store: &'a S,
    pub(crate) state: &'a State,
    pub(crate) sizes: Sizes,
}

/// What was there when a read began.
#[derive(Clone, Copy, PartialEq)]
struct Stamp {
    layout: u64,
    changes: u64,
}

/// A slot that is live, and the block or record that it names.
struct Named {
    at: u64,
    slot: Slot,
    block: u64,
}

impl Named {
    /// By the slot at `at`; `Some(None)` if it is not live, `None` if that is for those to judge who hold the lock.
    #[inline(always)]
    fn by(at: u64, slot: Slot) -> Option<Option<Self>> {
        let Slot { a, b, word } = slot;
        if a <= 0 {
            return (a < 0 || b == 0).then_some(None);
        }
        let pair = a as u64;
        pair.is_multiple_of(PAGE).then_some(Some(Self {
            at,
            slot,
            block: slot.record().unwrap_or_else(|| word.side().offset(pair)),
        }))
    }
}

impl<S: Storage> Reader<'_, S> {
    /// As [`Engine::get`]; `None` if it must be asked under the lock.
    #[inline(always)]
    pub fn get(&self, key: &Key, buf: &mut [u8]) -> Option<Option<usize>> {
        let whole_at = self.store.whole_at();
        let found = self.get_at(key, whole_at, buf);
        found.filter(|_| self.store.is_whole_since(whole_at))
    }

    #[inline(always)]
    fn get_at(&self, key: &Key, whole_at: u64, buf: &mut [u8]) -> Option<Option<usize>> {
        let slot = hash::slot_of(key.hash(), self.sizes.slots);
        let print = print_of(key.hash());
        let stamp = self.stamp(slot)?;
        if self.index.places.lacks(slot, print) {
            return (self.stamp(slot)? == stamp).then_some(None);
        }
        let when = self.when(slot, stamp.layout)?;
        if let Some(size) = self.index.kept.get(key, when, buf) {
            return Some(Some(size));
        }
        match self.index.places.find(slot, print) {
            Known::Nowhere => (self.stamp(slot)? == stamp).then_some(None),
            Known::Here(table, hint) => {
                self.get_from_pair(key, (slot, table, hint), (stamp, when, whole_at), buf)
            }
            Known::Unclear => None,
        }
    }

    /// The same for a key that is in this table, if its fingerprint is no other's, and whose value is not kept; then it is.
    #[inline(never)]
    fn get_from_pair(
        &self,
        key: &Key,
        (slot, table, hint): (u16, usize, Hint),
        (stamp, when, whole_at): (Stamp, When, u64),
        buf: &mut [u8],
    ) -> Option<Option<usize>> {
        // Slot and block are in different places, and both far from the processor: the block is fetched
        // while the slot is asked which one it is.
        let (block, _) = hint.blocks();
        self.store.fetch_block(block, key.bytes().len());
        let at = table::slot_offset(self.index.table(table)?, slot);
        let named = Named::by(at, self.store.load_slot(at).ok()?)??;
        let most = self.sizes.value as usize;
        let size = self.store.read_value_of(key, named.block, most, buf).ok()?;
        if !self.is_still(&named, stamp.layout) {
            return None;
        }
        let Some(n) = size else {
            return (self.stamp(slot)? == stamp).then_some(None);
        };
        let value = buf.get(..n);
        if !self.store.is_whole_since(whole_at) {
            return None;
        }
        let goes_on = value.is_none_or(|value| self.keep(key, when, value));
        goes_on.then_some(size)
    }

    /// Keeps a value that was read since `when`: if its chain has changed meanwhile, it counts for nobody. `false`: there would be
    /// room for it if the lock was taken.
    fn keep(&self, key: &Key, when: When, value: &[u8]) -> bool {
        let keys = self.index.places.count();
        when.is_changing() || self.index.kept.set(key, when, value, keys)
    }

    /// Whether the value of this key is kept.
    #[cfg(test)]
    pub(crate) fn keeps(&self, key: &Key) -> bool {
        let slot = hash::slot_of(key.hash(), self.sizes.slots);
        let when = self.layout().and_then(|layout| self.when(slot, layout));
        when.is_some_and(|when| self.index.kept.get(key, when, &mut []).is_some())
    }

    /// As [`Engine::next`], but `key` receives as much of the key as it has room for, zeros behind it, and
    /// `Some(false)` is the end; `None` if it must be asked under the lock. `pos` moves as far as it
    /// came.
    pub fn next(&self, pos: &mut Position, key: &mut [u8], buf: Option<&mut [u8]>) -> Option<bool> {
        let whole_at = self.store.whole_at();
        let from = *pos;
        let found = self.next_at(pos, key, buf);
        if !self.store.is_whole_since(whole_at) {
            // It may have come past slots that were not the file's.
            *pos = from;
            return None;
        }
        found
    }

    #[inline(always)]
    fn next_at(&self, pos: &mut Position, key: &mut [u8], buf: Option<&mut [u8]>) -> Option<bool> {
        // All that is read from here on belongs to this layout, or the answer is not used.
        let layout = self.layout()?;
        loop {
            let count = self.index.count.load(Acquire);
            let t = usize::try_from(pos.table).ok()?;
            if t >= count {
                let all = self.state.tables.load(Acquire) == count as u64;
                return (all && self.layout()? == layout).then_some(false);
            }
            if pos.slot >= u64::from(self.sizes.slots) {
                *pos = Position {
                    table: pos.table + 1,
                    slot: 0,
                };
                continue;
            }
            let slot = pos.slot as u16;
            let table = self.index.table(t)?;
            if slot.is_multiple_of(AHEAD) {
                self.fetch_ahead(table, slot, buf.is_some());
            }
            let at = table::slot_offset(table, slot);
            let found = self.store.load_slot(at).ok()?;
            if found.is_unused() {
                pos.slot += self.unused(at, slot, layout)?;
                continue;
            }
            self.changes(slot)?;
            let Some(named) = Named::by(at, found)? else {
                // Or it is another layout's in the making.
                if self.layout()? != layout {
                    return None;
                }
                pos.slot += 1;
                continue;
            };
            let print = self.index.get(slot, t);
            if print < FIRST_PRINT || self.is_shadowed(slot, t, print) {
                return None;
            }
            let field = named.block + block::KEY as u64;
            self.store.read_key(field, key).ok()?;
            if let Some(buf) = buf {
                let most = self.sizes.value as usize;
                let size = self.store.read_value(named.block, most, buf).ok()?;
                let n = size.min(buf.len());
                buf[n..].fill(0);
            }
            if !self.is_still(&named, layout) {
                return None;
            }
            pos.slot += 1;
            return Some(true);
        }
    }

    /// How many slots are unused from this one on, which is, among those that are fetched together.
    #[inline(never)]
    fn unused(&self, at: u64, slot: u16, layout: u64) -> Option<u64> {
        let behind = (AHEAD - slot % AHEAD).min(self.sizes.slots - slot) - 1;
        let unused = self.store.unused_slots(at + slot::SIZE, behind).ok()?;
        // For such a slot perhaps no row was ever made.
        (self.layout()? == layout).then_some(1 + u64::from(unused))
    }

    /// Fetches the blocks that the next slots but these few name. Several at once: what takes long is to find their
    /// pages, and that is done side by side.
    #[inline(never)]
    fn fetch_ahead(&self, table: u64, slot: u16, values: bool) {
        let first = slot.saturating_add(AHEAD);
        let n = AHEAD.min(self.sizes.slots.saturating_sub(first));
        self.store
            .fetch_named(table::slot_offset(table, first), n, values);
    }

    /// Whether an earlier table may hold the same key, which then counts there.
    #[inline(always)]
    fn is_shadowed(&self, slot: u16, t: usize, print: u16) -> bool {
        let twice = self.index.twice.get(slot as usize);
        twice.is_none_or(|w| w.load(Relaxed))
            && !matches!(self.index.places.find(slot, print), Known::Here(..))
            && self.index.search(slot, 0, print) != Some(t)
    }

    /// The layout that all that is remembered holds for; `None` if it is void, or somebody has made the
    /// file longer or cut it off since it was last asked for its length.
    #[inline(always)]
    fn layout(&self) -> Option<u64> {
        // What was read before must not be read after this.
        fence(Acquire);
        let layout = self.state.layout.load(Acquire);
        let holds = self.index.layout.load(Acquire) == layout
            && self.store.known_len() >= self.state.length.load(Relaxed);
        holds.then_some(layout)
    }

    /// What a value of this slot's chain that is read now belongs to.
    #[inline(always)]
    fn when(&self, slot: u16, layout: u64) -> Option<When> {
        let written = self.state.written.get(slot as usize)?.load(Acquire);
        Some(When { layout, written })
    }

    /// `None` if nothing sure is remembered of this slot.
    #[inline(always)]
    fn stamp(&self, slot: u16) -> Option<Stamp> {
        let layout = self.layout()?;
        let changes = self.changes(slot)?;
        Some(Stamp { layout, changes })
    }

    /// How often the slot's chain was changed when its row was made, if it has not been since and all in it is sure.
    #[inline(always)]
    fn changes(&self, slot: u16) -> Option<u64> {
        let changes = self.state.changes.get(slot as usize)?.load(Acquire);
        let made = self.index.made.get(slot as usize)?.load(Acquire);
        (made == changes).then_some(changes)
    }

    /// Whether what was read of a block is what it held at one instant.
    #[inline(always)]
    fn is_still(&self, named: &Named, layout: u64) -> bool {
        fence(Acquire);
        let still = |at, was| self.store.load(named.at + at).is_ok_and(|w| w == was);
        still(slot::WORD, named.slot.word.0)
            && still(slot::B, named.slot.b as u64)
            && self.state.layout.load(Relaxed) == layout
    }
}

impl<S: Storage, H: AsRef<State>> Engine<S, H> {
    fn changes(&self, slot: u16) -> u64 {
        let word = self.st().changes.get(slot as usize);
        word.map_or(0, |w| w.load(Relaxed))
    }

    /// About how many keys there are, by the rows that were made: all have about as many.
    fn keys(&self) -> usize {
        let known = self.index.places.count();
        let rows = self.rows.iter().filter(|&&row| row != NEVER).count();
        match known {
            0..32 => known,
            _ => known * self.sizes.slots as usize / rows.max(1),
        }
    }

    /// Makes the row of a slot, if it is not there or is old.
    pub(crate) fn make_row(&mut self, slot: u16) -> Result<()> {
        let n = slot as usize;
        loop {
            if self.index.layout.load(Relaxed) != self.layout {
                self.index.begin(self.layout, &self.tables)?;
                self.rows.clear();
            }
            self.index.add_tables(&self.tables)?;
            self.index.kept.make_wanted(|| self.keys());
            let changes = self.changes(slot);
            if self.rows.get(n) == Some(&changes) {
                return Ok(());
            }
            if self.rows.len() <= n {
                let more = self.sizes.slots as usize - self.rows.len();
                self.rows.try_reserve(more).map_err(|_| Error::Memory)?;
                self.rows.resize(self.sizes.slots as usize, NEVER);
            }
            self.index.made[n].store(NEVER, Relaxed);
            fence(Release);
            let mut sure = true;
            let mut t = 0;
            // A first touch can lead to a repair that changes the chain: then all begins anew. It
            // happens once to a pair.
            while t < self.tables.len() && self.changes(slot) == changes {
                let place = self.place(t, slot)?;
                let print = self.print_at(&place)?;
                let side = place.slot.word.side();
                sure &= self.index.set(slot, t, print, place.pair, side);
                t += 1;
            }
            if self.changes(slot) != changes
                || self.index.layout.load(Relaxed) != self.layout
                || self.rows.len() <= n
            {
                continue;
            }
            self.rows[n] = changes;
            if sure {
                self.index.made[n].store(changes, Release);
            }
        }
    }

    fn print_at(&mut self, place: &Place) -> Result<u16> {
        if place.slot.is_unused() {
            return Ok(UNUSED);
        }
        if place.pair == 0 {
            return Ok(NOTHING);
        }
        if place.slot.is_deleted() {
            return Ok(DELETED);
        }
        Ok(match self.content(*place)? {
            Content::Live(side) if self.is_checked(place.pair) => {
                let hash = self.hash_at(place.pair, side)?;
                // A second slot that names another's pair.
                if hash::slot_of(hash, self.sizes.slots) != place.index {
                    return Ok(NOTHING);
                }
                print_of(hash)
            }
            Content::Live(_) | Content::Damaged => UNSURE,
            Content::Deleted => DELETED,
            Content::Nothing => NOTHING,
        })
    }

    fn hash_at(&self, pair: u64, side: Side) -> Result<u64> {
        let mut field = [0; KEY_LEN];
        self.store
            .read(side.offset(pair) + block::KEY as u64, &mut field)?;
        Ok(hash::djb2(block::key_in(&field)))
    }

    /// A key is about to be looked up: the line of memory that tells where it is comes while locks are taken.
    #[inline(always)]
    pub(crate) fn fetch_place(&self, key: &Key) {
        let slot = hash::slot_of(key.hash(), self.sizes.slots);
        self.index.places.fetch(slot, print_of(key.hash()));
    }

    /// The first table from `from` on where a key with this fingerprint may be, and perhaps what is known of its blocks. The row is
    /// made.
    pub(crate) fn candidate(
        &self,
        slot: u16,
        from: usize,
        print: u16,
    ) -> Option<(usize, Option<Hint>)> {
        let sure = self.index.made[slot as usize].load(Relaxed) != NEVER;
        if sure && from == 0 {
            match self.index.places.find(slot, print) {
                Known::Nowhere => return None,
                Known::Here(table, hint) => return Some((table, Some(hint))),
                Known::Unclear => {}
            }
        }
        let mut found = self.index.search(slot, from, print);
        if !sure {
            let unsure = self.index.search(slot, from, UNSURE);
            found = found.min(unsure).or(found).or(unsure);
        }
        found.map(|t| (t, None))
    }

    /// A slot is about to be written: everybody's rows of it are old, also if we die behind the next store. Answers the count before.
    pub(crate) fn announce_slot(&self, slot: u16) -> Option<u64> {
        let word = self.st().changes.get(slot as usize)?;
        Some(word.fetch_add(1, AcqRel))
    }

    /// It has been written, and our row can follow.
    pub(crate) fn changed_slot(
        &mut self,
        place: &Place,
        slot: &Slot,
        print: u16,
        before: Option<u64>,
    ) {
        let n = place.index as usize;
        let Some(before) = before else {
            return;
        };
        if self.rows.get(n) == Some(&before)
            && self.index.layout.load(Relaxed) == self.layout
            && place.table < self.index.count.load(Relaxed)
        {
            let (pair, side) = (slot.a.unsigned_abs(), slot.word.side());
            let sure = self.index.set(place.index, place.table, print, pair, side);
            self.rows[n] = before.wrapping_add(1);
            if sure && self.index.made[n].load(Relaxed) == before {
                self.index.made[n].store(before.wrapping_add(1), Release);
            } else {
                self.index.made[n].store(NEVER, Release);
            }
        }
    }
}
