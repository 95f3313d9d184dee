//! The store itself: look-ups, changes, recovery, the close, over a [`Storage`].
//!
//! The caller holds the engine lock during every call. The protocol, which store follows which
//! barrier and why, is in docs/design.md; in short:
//!
//! - A pair is changed at most once between two syncs of our own ([`State::epoch`]), so the copy
//!   that the last completed sync made durable is never overwritten.
//! - An overwrite writes the copy that is not current, then the slot's word, which has a sum of
//!   the copy that it names: a slot that reached the medium without its copy convicts itself.
//! - A new pair is written into zeros, with one call, so that of a sector nothing arrives or all. A deleted one gets its delimiters and
//!   keeps its contents until the close.
//! - From the first change of a life to its close table 0 carries [`table::MARK`].

mod beside;
mod change;
mod copies;
mod grown;
mod growth;
pub mod index;
mod intent;
mod kept;
mod look;
mod pair;
mod places;
mod recover;
mod redo;
mod scan;
mod settle;
mod snapshot;
pub mod state;
pub mod storage;
mod strays;
mod survey;
mod tell;
#[cfg(test)]
mod tests;
mod walk;

pub use beside::Look;
pub(crate) use pair::{Outcome, Pair};
pub use snapshot::Snapshot;
pub use state::State;
pub use storage::Storage;

use crate::error::{Error, Result};
use crate::format::block::{PAIR, RawBlock, Side};
use crate::format::header::{self, Header};
use crate::format::slot::Slot;
use crate::format::table::{self, RawTable};
use crate::format::{PAGE, Sizes};
use index::Index;
use state::phase;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};

/// Growing the file past this many bytes needs permission: the original reads larger offsets wrongly.
pub const OLD_LIMIT: u64 = 1 << 31;

/// A position of an iteration: the next slot to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Index of the table.
    pub table: u64,
    /// Index of the slot in it.
    pub slot: u64,
}

/// The engine of one handle.
pub struct Engine<S, H> {
    store: S,
    state: H,
    sizes: Sizes,
    writable: bool,
    large: bool,
    /// Offsets of the tables, valid while `layout` is the state's.
    tables: Vec<u64>,
    layout: u64,
    /// For each slot of a table whether this handle has met a pair in a closed file that is not as its slot says, and has not put
    /// its chain right since.
    doubtful: [bool; table::SLOTS],
    /// The pairs that were checked by this handle.
    checked: Pairs,
    /// Pairs, live or deleted, of which both copies have zeros behind key and value and the number of their
    /// table: of these an overwrite of the same key needs to store the value only.
    tidy: Pairs,
    /// What is remembered of which key is where, and for each slot [`State::changes`] when its row in
    /// there was made.
    index: Arc<Index>,
    rows: Vec<u64>,
    /// Zeros in which the next new pair is made, once there was one.
    zeros: Option<Box<[u8; PAIR as usize]>>,
}

/// A slot that was found, and where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// Index of its table.
    pub table: usize,
    /// Index in the table.
    pub index: u16,
    /// Offset of the slot in the file.
    pub at: u64,
    pub slot: Slot,
    /// Offset of the pair; 0 for an unused slot.
    pub pair: u64,
}

impl<S: Storage, H: AsRef<State>> Engine<S, H> {
    /// Opens the file in `store`: reads its header and, if nobody has in this life, recovers it.
    ///
    /// `writable`: whether this handle may change the file. `large`: whether the file may grow past
    /// [`OLD_LIMIT`].
    ///
    /// # Errors
    /// Those of [`Header::parse`] and of the storage; [`Error::Access`] if the file must be recovered
    /// and this handle may not write: open it again on a storage that keeps changes in memory.
    pub fn open(store: S, state: H, writable: bool, large: bool) -> Result<Self> {
        let mut bytes = [0; header::SIZE];
        if store.len()? < header::SIZE as u64 {
            return Err(Error::Corrupt("shorter than a header"));
        }
        store.read(0, &mut bytes)?;
        let header = Header::parse(&bytes)?;
        let mut engine = Self {
            store,
            state,
            sizes: header.sizes,
            writable,
            large,
            tables: Vec::new(),
            layout: u64::MAX,
            doubtful: [false; table::SLOTS],
            checked: Pairs::default(),
            tidy: Pairs::default(),
            index: Arc::new(Index::new(header.sizes.slots)?),
            rows: Vec::new(),
            zeros: None,
        };
        engine.begin_life(header.clean)?;
        Ok(engine)
    }

    fn begin_life(&mut self, clean: bool) -> Result<()> {
        match self.st().phase.load(Relaxed) {
            phase::UNREAD => {}
            phase::CLEAN => return Ok(()),
            _ => return self.ready(),
        }
        let marked = self.store.len()? >= PAGE + table::SIZE
            && self.store.load(PAGE + table::CHECKSUM)? == table::MARK;
        if clean && !marked && (self.has_whole_start()? || self.read_clean_tables()?) {
            // The other tables are read when they are needed.
            self.st().length.store(self.store.len()?, Relaxed);
            self.st().phase.store(phase::CLEAN, Relaxed);
            return Ok(());
        }
        if !self.writable && self.store.is_file() {
            return Err(Error::Access("the file must be recovered first"));
        }
        self.recover(marked)
    }

    /// Whether a closed file has no table yet, or a whole first one. That is appended before the flags say
    /// that the file is being changed, so power can have gone in the middle of it.
    fn has_whole_start(&self) -> Result<bool> {
        let len = self.store.len()?;
        if len < PAGE + table::SIZE {
            return Ok(len == PAGE);
        }
        // Its checksum field is stored before its start delimiter, into the same sector.
        Ok(self.store.load(PAGE)? == table::START_DELIMITER
            && self.store.load(PAGE + table::END)? == table::END_DELIMITER)
    }

    /// The sizes in the file's header.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// The medium.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// What this engine remembers, for reads without the lock.
    pub fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// Tables or pairs are about to be changed in another way than by a change of one key: what anybody
    /// remembers is void.
    pub(crate) fn rearrange(&mut self) {
        self.announce();
        self.forget_pairs();
    }

    /// The same for all but us, who know what we do to the pairs.
    pub(crate) fn announce(&mut self) {
        self.layout = self.st().layout.fetch_add(1, AcqRel) + 1;
        // Nothing that follows may be seen before it.
        std::sync::atomic::fence(AcqRel);
    }

    /// Whether it changes the file.
    #[inline(always)]
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// A store has failed, or zeros were read that are not the file's: it goes on with what the file holds. `writable`: whether
    /// it changes the file from now on.
    pub fn begin_anew(&mut self, writable: bool) {
        if writable && !self.writable {
            // Who only reads mends nothing, and remembers what he has found so.
            self.announce();
        }
        self.writable = writable;
        // The next call looks for the tables, and believes no pair that was checked.
        self.layout = u64::MAX;
    }

    pub(crate) fn st(&self) -> &State {
        self.state.as_ref()
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.st().epoch.load(Relaxed)
    }

    /// The length of the file.
    ///
    /// # Errors
    /// Those of the storage; [`Error::Io`]: somebody has cut it off.
    fn len(&self) -> Result<u64> {
        let length = self.st().length.load(Relaxed);
        let len = self.store.len()?;
        if len < length {
            crate::log::error(|| format!("cut off while open, from {length} to {len} bytes"));
            // Not "no such key": what was there is gone.
            return Err(std::io::Error::from_raw_os_error(libc::EIO).into());
        }
        Ok(len)
    }

    /// Before each call: finishes what a dead process left, and learns of rearranged tables.
    pub(crate) fn ready(&mut self) -> Result<()> {
        if self.store.known_len() < self.st().length.load(Relaxed) {
            self.len()?;
        }
        if self.writable {
            if self.st().walking.load(Relaxed) != 0 {
                self.walk()?;
            }
            // Behind a failed sync nothing is written any more, and reads go by the slot.
            if self.st().intent.load(Relaxed) != 0 && self.st().poisoned.load(Relaxed) == 0 {
                self.finish_dead()?;
            }
        }
        let layout = self.st().layout.load(Relaxed);
        if self.layout != layout || self.tables.len() as u64 != self.st().tables.load(Relaxed) {
            if self.layout != layout {
                self.forget_pairs();
            }
            self.tables = self.chain()?.0;
            self.st().tables.store(self.tables.len() as u64, Relaxed);
            self.layout = layout;
        }
        if self.st().verified.load(Relaxed) != state::tables::GOOD
            && self.st().phase.load(Relaxed) == phase::CLEAN
        {
            return self.verify();
        }
        Ok(())
    }

    /// First use of the tables of a clean file.
    fn verify(&mut self) -> Result<()> {
        let known = &self.st().verified;
        if known.load(Relaxed) == state::tables::UNREAD && self.read_clean_tables()? {
            self.st().verified.store(state::tables::GOOD, Relaxed);
            return Ok(());
        }
        self.st().verified.store(state::tables::BAD, Relaxed);
        if !self.writable && self.store.is_file() {
            return Err(Error::Access("the file must be recovered first"));
        }
        self.recover(false)
    }

    /// Whether this engine, which may not write the file, can read it as it is; else it must be opened on
    /// a storage that keeps changes in memory.
    ///
    /// # Errors
    /// Those of every call.
    pub fn is_readable(&mut self) -> Result<bool> {
        match self.ready() {
            Err(Error::Access(_)) => Ok(false),
            ready => ready.map(|()| true),
        }
    }

    /// The tables, by following the links from the first one, and whether the last link was a
    /// proper end. Links out of range, unaligned or cyclic end the chain.
    pub(crate) fn chain(&self) -> Result<(Vec<u64>, bool)> {
        let len = self.len()?;
        let mut tables = Vec::new();
        let mut at = PAGE;
        if len < PAGE + table::SIZE {
            return Ok((tables, true));
        }
        loop {
            let inside = at >= PAGE
                && at.is_multiple_of(PAGE)
                && at.checked_add(table::SIZE).is_some_and(|e| e <= len);
            // Tables are appended, so a link always leads towards the end: no cycle can hide.
            let onward = tables.last().is_none_or(|&last| at > last);
            if !inside || !onward {
                return Ok((tables, false));
            }
            let start = self.store.load(at)? == table::START_DELIMITER;
            let end = self.store.load(at + table::END)? == table::END_DELIMITER;
            if !start && !end {
                // A header with zeros behind it has no table yet.
                let none = tables.is_empty() && self.is_zero(PAGE, table::SIZE)?;
                return Ok((tables, none));
            }
            tables.try_reserve(1).map_err(|_| Error::Memory)?;
            tables.push(at);
            at = self.link(at)?;
            if at == 0 {
                return Ok((tables, true));
            }
        }
    }

    fn link(&self, table: u64) -> Result<u64> {
        let next = self
            .store
            .load(table::slot_offset(table, table::SLOTS as u16))?;
        if next == 0 && (self.sizes.slots as usize) < table::SLOTS {
            return self.store.load(table::slot_offset(table, self.sizes.slots));
        }
        Ok(next)
    }

    /// Reads the tables of a clean file; `false` if one of them is not what it was.
    fn read_clean_tables(&mut self) -> Result<bool> {
        let (tables, whole) = self.chain()?;
        // Zeros behind a header without a table are a first put that did not get far.
        if !whole || (tables.is_empty() && self.store.len()? > PAGE) {
            return Ok(false);
        }
        let mut zeros = false;
        for &t in &tables {
            let raw = self.raw_table(t)?;
            let sum = raw.checksum();
            if raw.delimiters() != 2 || sum != self.store.load(t + table::CHECKSUM)? {
                return Ok(false);
            }
            zeros |= raw.is_zero();
            // A word of an unfinished life says something else to everybody but this library.
            let odd = |s: Slot| {
                let unfinished = s.word.is_tagged() && !s.is_unused() || s.record().is_some();
                unfinished || !s.a.unsigned_abs().is_multiple_of(PAGE)
            };
            if (0..self.sizes.slots).any(|i| odd(raw.slot(i))) {
                return Ok(false);
            }
        }
        self.layout = self.st().layout.load(Relaxed);
        self.st().tables.store(tables.len() as u64, Relaxed);
        self.tables = tables;
        // A table of zeros has a right checksum, 0. It is believed only where nothing is missed: a
        // put that failed leaves one.
        Ok(!zeros || self.is_nothing_loose()?)
    }

    /// Whether everything that no table names is zero.
    fn is_nothing_loose(&self) -> Result<bool> {
        let Ok(used) = self.used() else {
            return Ok(false);
        };
        let len = self.store.len()?;
        let mut loose = used.free();
        loose.push((used.end(), len.saturating_sub(used.end())));
        for (at, len) in loose {
            if !self.is_zero(at, len)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(crate) fn raw_table(&self, at: u64) -> Result<RawTable> {
        let mut raw = RawTable(vec![0; table::SIZE as usize].into_boxed_slice());
        self.store.read_by_call(at, &mut raw.0)?;
        Ok(raw)
    }

    pub(crate) fn read_pair(&self, at: u64) -> Result<Pair> {
        let mut blocks = [RawBlock::zeroed(), RawBlock::zeroed()];
        for side in [Side::A, Side::B] {
            let bytes = &mut blocks[side as usize].0[..];
            self.store.read(side.offset(at), bytes)?;
        }
        Ok(Pair::check(at, blocks, self.sizes))
    }

    /// The pair that a slot names.
    pub(crate) fn pair_of(&self, place: &Place) -> Result<Pair> {
        let pair = self.read_pair(place.pair)?;
        let pair = pair.of_slot(place.table as u64, place.index, self.sizes);
        Ok(pair.of_word(place.slot.word))
    }

    /// Slot `index` of table number `table`.
    pub(crate) fn place(&self, table: usize, index: u16) -> Result<Place> {
        let at = table::slot_offset(self.tables[table], index);
        let slot = self.store.load_slot(at)?;
        let pair = match slot.pair(self.store.known_len()) {
            Some(pair) => pair,
            None if slot.is_unused() => 0,
            None => slot.pair(self.len()?).unwrap_or(0),
        };
        Ok(Place {
            table,
            index,
            at,
            slot,
            pair,
        })
    }

    /// Makes the file longer, for all.
    pub(crate) fn grow(&self, len: u64) -> Result<()> {
        self.store.grow(len)?;
        self.st().length.fetch_max(self.store.known_len(), Relaxed);
        Ok(())
    }

    /// The same without a place on the medium.
    pub(crate) fn extend(&self, len: u64) -> Result<()> {
        self.store.extend(len)?;
        self.st().length.fetch_max(self.store.known_len(), Relaxed);
        Ok(())
    }

    /// Cuts the file off, for all: they must expect it before it happens.
    pub(crate) fn truncate(&self, len: u64) -> Result<()> {
        self.st().length.store(len, Relaxed);
        self.store.truncate(len)
    }

    pub(crate) fn is_zero(&self, at: u64, len: u64) -> Result<bool> {
        let mut page = [0; PAGE as usize];
        let mut done = 0;
        while done < len {
            let n = (len - done).min(PAGE) as usize;
            self.store.read_by_call(at + done, &mut page[..n])?;
            if !crate::format::is_zero(&page[..n]) {
                return Ok(false);
            }
            done += n as u64;
        }
        Ok(true)
    }

    /// Zeroes what is not zero in a range of whole words.
    pub(crate) fn zero(&self, at: u64, len: u64) -> Result<()> {
        self.replace_by(S::read_by_call, at, len, |_| 0)
    }

    /// Stores those words of a range that are not what `want` says of their offset in it.
    pub(crate) fn replace(&self, at: u64, len: u64, want: impl Fn(usize) -> u64) -> Result<()> {
        self.replace_by(S::read, at, len, want)
    }

    fn replace_by(
        &self,
        read: impl Fn(&S, u64, &mut [u8]) -> Result<()>,
        at: u64,
        len: u64,
        want: impl Fn(usize) -> u64,
    ) -> Result<()> {
        let mut page = [0; PAGE as usize];
        let mut done = 0;
        while done < len {
            let n = (len - done).min(PAGE) as usize;
            read(&self.store, at + done, &mut page[..n])?;
            for i in (0..n).step_by(8) {
                let w = want(done as usize + i);
                if crate::format::u64_at(&page, i) != w {
                    self.store.store(at + done + i as u64, w)?;
                }
            }
            done += n as u64;
        }
        Ok(())
    }

    /// Makes everything durable; then every pair may be changed again.
    pub fn sync(&mut self) -> Result<()> {
        self.sync_by(|store| store.sync())?;
        self.st().epoch.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Makes what was stored into a range durable.
    pub(crate) fn sync_range(&self, at: u64, len: u64) -> Result<()> {
        self.sync_by(|store| store.sync_range(at, len))
    }

    fn sync_by(&self, sync: impl FnOnce(&S) -> Result<()>) -> Result<()> {
        if self.st().poisoned.load(Relaxed) != 0 {
            return Err(std::io::Error::from_raw_os_error(libc::EIO).into());
        }
        if let Err(e) = sync(&self.store) {
            // Pages of a failed sync may be marked clean without having been written.
            self.st().poisoned.store(1, Relaxed);
            crate::log::error(|| format!("sync failed, no more changes until all close it: {e}"));
            return Err(e);
        }
        Ok(())
    }

    fn forget_pairs(&mut self) {
        self.checked = Pairs::default();
        self.tidy = Pairs::default();
    }

    pub(crate) fn is_checked(&self, pair: u64) -> bool {
        self.checked.has(pair)
    }

    pub(crate) fn set_checked(&mut self, pair: u64, yes: bool) {
        self.checked.set(pair, yes);
        if !yes {
            self.tidy.set(pair, false);
        }
    }
}

/// A set of pairs: one bit for each page of the file.
#[derive(Default)]
struct Pairs(Vec<u64>);

impl Pairs {
    fn has(&self, pair: u64) -> bool {
        let page = (pair / PAGE) as usize;
        let word = self.0.get(page / 64);
        word.is_some_and(|w| w >> (page % 64) & 1 != 0)
    }

    /// Where there is no memory for it the pair is not in the set.
    fn set(&mut self, pair: u64, yes: bool) {
        let page = (pair / PAGE) as usize;
        if yes && self.0.len() <= page / 64 {
            let more = page / 64 + 1 - self.0.len();
            if self.0.try_reserve(more).is_err() {
                return;
            }
            self.0.resize(page / 64 + 1, 0);
        }
        if let Some(w) = self.0.get_mut(page / 64) {
            let bit = 1 << (page % 64);
            *w = if yes { *w | bit } else { *w & !bit };
        }
    }
}
