//! The redo log: values that were put over a pair which must not be changed again before the next sync.
//!
//! The first change of a pair in an epoch goes into the pair. Those that follow go into the log, one behind the
//! other, and the slot's offset of B names the last one, for those who read. The pair and the word stay as they are,
//! until all values of the log are folded into their pairs: when the log is full, before any other change of such a
//! key, and at the close. A fold is between two syncs, so nothing is written over a record that is still needed.
//!
//! Recovery believes no name. It reads the log from one end to the other; of the whole records of a slot the last one
//! counts that follows what the pair holds ([`Engine::follows`]).

use super::state::intent;
use super::{Engine, Place, State, Storage};
use crate::error::Result;
use crate::format::block::{self, Kind, PAIR, RawBlock, Side};
use crate::format::key::Key;
use crate::format::record::{self, Head, Record};
use crate::format::slot::{self, Slot, Word};
use crate::format::sum::Sum;
use crate::format::{PAGE, hash, table};
use std::cmp::Reverse;
use std::sync::atomic::Ordering::Relaxed;

/// Most records are no longer than this.
const SHORT: usize = 512;
/// No log is longer.
const LONGEST: u64 = 16 << 20;

/// The size of a new log behind a file of so many bytes in use.
fn first_size(end: u64) -> u64 {
    (end / 32).clamp(64 << 10, LONGEST).next_multiple_of(PAIR)
}

/// Each time when it was full a log gets twice as long, up to this.
fn last_size(end: u64) -> u64 {
    (end / 16).clamp(1 << 20, LONGEST)
}

impl<S: Storage, H: AsRef<State>> Engine<S, H> {
    /// Where the value of a live pair is: something that begins as a block.
    pub(super) fn front(&self, place: &Place, side: Side) -> u64 {
        let record = place.slot.record();
        record.unwrap_or_else(|| side.offset(place.pair))
    }

    /// Whether the next put over a live pair may change it.
    pub(super) fn is_settled(&self, place: &Place) -> bool {
        place.slot.record().is_none() && !place.slot.word.changed_in(self.epoch())
    }

    /// Makes that so; the slot has to be read again.
    pub(super) fn settle_pair(&mut self, place: &Place, value: &[u8]) -> Result<()> {
        if place.slot.record().is_some() {
            return self.take_back(place);
        }
        let logs = self.store.is_lasting() && self.fits_log(value);
        if !logs || !self.do_copies_differ(place)? {
            return self.sync();
        }
        match self.st().log_next.load(Relaxed) {
            0 => self.begin_log(),
            _ => self.fold().map(drop),
        }
    }

    /// The value of a pair that is in the log goes back into the pair, with all others.
    pub(super) fn take_back(&mut self, place: &Place) -> Result<()> {
        if !self.fold()? {
            // A name without a log is nobody's.
            self.name_b(place)?;
        }
        Ok(())
    }

    fn fits_log(&self, value: &[u8]) -> bool {
        value.len() <= record::LONGEST && self.sizes.covers_all()
    }

    /// In the log only what follows a pair of different copies can be told from what the original has done to it.
    fn do_copies_differ(&self, place: &Place) -> Result<bool> {
        let [a, b] = [Side::A, Side::B].map(|side| side.offset(place.pair));
        let checksum = |at| self.store.load(at + block::CHECKSUM as u64);
        Ok(checksum(a)? != checksum(b)?)
    }

    /// Puts a value into the log; `false` if there is none, or no room in it.
    pub(super) fn append(&self, place: &Place, key: &Key, value: &[u8]) -> Result<bool> {
        let st = self.st();
        let next = st.log_next.load(Relaxed);
        if next == 0 || !self.fits_log(value) {
            return Ok(false);
        }
        let n = record::words(value.len());
        let at = record::place(next, value.len());
        let end = at + 8 * n as u64;
        if end > st.length.load(Relaxed) {
            return Ok(false);
        }
        let even = match place.slot.record() {
            Some(front) => self.store.load(front - record::FRONT + record::EVEN)? == 0,
            None if !self.do_copies_differ(place)? => return Ok(false),
            None => false,
        };
        let head = Head {
            even,
            slot: place.at,
            word: place.slot.word,
        };
        self.begin_intent(place.at, at, intent::RECORD);
        st.log_next.store(end, Relaxed);
        let mut sum = Sum::begin(at);
        let mut some = [0; 16];
        for from in (1..n).step_by(some.len()) {
            let some = &mut some[..(n - from).min(16)];
            for (i, word) in (from..).zip(&mut *some) {
                *word = record::word(&head, key, value, i);
                sum.add(*word);
            }
            self.store.store_all(at + 8 * from as u64, some)?;
        }
        self.store.store(at, sum.value())?;
        let name = Slot::b_of_record(at + record::FRONT);
        self.store_b(place, name)?;
        self.end_intent();
        Ok(true)
    }

    /// Makes a log, behind room for some new pairs, or makes the one that is there usable again. Syncs, also where there
    /// is no room for one.
    fn begin_log(&mut self) -> Result<()> {
        let mut at = self.st().log.load(Relaxed);
        if at == 0 {
            self.survey_once()?;
            let (end, len) = (self.st().end.load(Relaxed), self.store.len()?);
            let room = self.room(end).max(len.saturating_sub(end));
            at = end + room.next_multiple_of(PAIR);
            let size = first_size(end);
            if at + size > self.limit() {
                return self.sync();
            }
            if self.extend(at).is_err() || self.lengthen_log(at, size).is_err() {
                // Without one: nothing of the medium's last room is kept for it.
                self.truncate(len)?;
                return self.sync();
            }
            self.st().log.store(at, Relaxed);
        }
        let first = self.tables[0];
        self.store.store(first + table::LOG, at)?;
        self.sync()?;
        self.st().log_next.store(at, Relaxed);
        Ok(())
    }

    fn lengthen_log(&self, at: u64, size: u64) -> Result<()> {
        self.grow(at + size)?;
        // Else each page of it would have to be noted in the file system when it is first synced.
        self.store.fill(at, size)
    }

    /// Brings every value of the log into its pair, and all of it to the medium; `false`: the log is empty.
    pub(super) fn fold(&mut self) -> Result<bool> {
        if !self.fold_pairs()? {
            return Ok(false);
        }
        self.sync()?;
        let st = self.st();
        let (log, next) = (st.log.load(Relaxed), st.log_next.load(Relaxed));
        st.log_next.store(log, Relaxed);
        let len = self.store.len()?;
        let size = len.saturating_sub(log);
        let was_full = next - log > size / 2;
        if was_full
            && 2 * size <= last_size(st.end.load(Relaxed))
            && len + size <= self.limit()
            && self.lengthen_log(len, size).is_err()
        {
            self.truncate(len)?;
        }
        Ok(true)
    }

    /// Syncs, and brings every value of the log into its pair. The records must stay until the next sync. `false`: the
    /// log is empty.
    pub(super) fn fold_pairs(&mut self) -> Result<bool> {
        let st = self.st();
        let next = st.log_next.load(Relaxed);
        if next == 0 || next == st.log.load(Relaxed) {
            return Ok(false);
        }
        self.sync()?;
        let logged = self.slots_by_pair(|slot| slot.record().is_some())?;
        for (n, &(_, t, i)) in logged.iter().enumerate() {
            self.fetch_ahead(&logged, n, |place| {
                let side = place.slot.word.side();
                let copy = side.other().offset(place.pair);
                [copy, self.front(place, side)].map(|at| (at, block::FRONT))
            })?;
            let place = self.place(t, i)?;
            self.fold_pair(&place)?;
        }
        Ok(true)
    }

    /// The value goes into the copy that the word does not name, then the word says so, then nobody needs the record.
    pub(super) fn fold_pair(&mut self, place: &Place) -> Result<()> {
        let Some(front) = place.slot.record() else {
            return Ok(());
        };
        self.begin_intent(place.at, place.pair, intent::PAIR);
        let at = front - record::FRONT;
        let (mut some, mut all) = ([0; SHORT], None);
        self.store.read(at, &mut some)?;
        let mut record = Record::read(&some, at);
        if record.is_none() {
            record = Record::read(all.insert(self.page_from(at)?), at);
        }
        if let Some(record) = &record
            && let Some(key) = Key::new(record.key())
            && let Head { word, even, .. } = record.head()
            // Else whoever died here came as far as the word.
            && word == place.slot.word
        {
            let turned = word.is_turned() != even;
            let (side, value) = (word.side(), record.value());
            let tidy = self.tidy_sums(place, side.other(), &key, value, None)?;
            self.write_over(place, side, &key, value, turned, tidy)?;
        }
        if record.is_none() {
            self.tell_lost_record(place.pair);
        }
        self.name_b(place)?;
        self.end_intent();
        Ok(())
    }

    /// The slot of a live pair names its B.
    pub(super) fn name_b(&self, place: &Place) -> Result<()> {
        self.store_b(place, Side::B.offset(place.pair))
    }

    fn page_from(&self, at: u64) -> Result<[u8; PAGE as usize]> {
        let mut page = [0; PAGE as usize];
        self.store.read(at, &mut page)?;
        Ok(page)
    }

    /// A put into the log that somebody did not end: it counts if the slot names it.
    pub(super) fn finish_record(&mut self, place: &Place, at: u64) -> Result<()> {
        let log = self.st().log.load(Relaxed);
        let inside = log != 0 && at >= log && at + 8 <= self.store.len()?;
        if inside && place.slot.record() != Some(at + record::FRONT) {
            self.store.store(at, 0)?;
        }
        Ok(())
    }

    /// The place of the log is needed for pairs.
    pub(super) fn end_log(&mut self) -> Result<()> {
        let log = self.st().log.load(Relaxed);
        if log == 0 {
            return Ok(());
        }
        if self.fold_pairs()? {
            self.sync()?;
        }
        self.st().log_next.store(0, Relaxed);
        self.store.store(self.tables[0] + table::LOG, 0)?;
        self.zero(log, self.store.len()?.saturating_sub(log))?;
        self.sync()?;
        self.st().log.store(0, Relaxed);
        Ok(())
    }

    /// Where the log of a file begins that was not closed; 0: it has none.
    pub(super) fn named_log(&self) -> Result<u64> {
        if self.store.len()? < PAGE + table::SIZE {
            return Ok(0);
        }
        let mark = self.store.load(PAGE + table::CHECKSUM)?;
        match mark == table::MARK || mark == table::REBUILDING {
            true => self.store.load(PAGE + table::LOG),
            false => Ok(0),
        }
    }

    /// Recovery, after a sync: what the log has for pairs goes there, and to the medium. Afterwards there is none, and what
    /// slots say of records is void.
    pub(super) fn redo(&mut self) -> Result<()> {
        let st = self.st();
        st.log_next.store(0, Relaxed);
        st.log.store(0, Relaxed);
        let (log, len) = (self.named_log()?, self.store.len()?);
        if log == 0 {
            return Ok(());
        }
        let (tables, _) = self.chain()?;
        self.adopt_tables(tables);
        let mut records = self.read_log(log, len)?;
        records.sort_unstable_by_key(|&(slot, at)| (slot, Reverse(at)));
        let (mut done, mut count) = (None, 0);
        for (slot, at) in records {
            if done != Some(slot) && self.redo_record(slot, at)? {
                done = Some(slot);
                count += 1;
            }
        }
        if count > 0 {
            self.sync()?;
        }
        self.store.store(PAGE + table::LOG, 0)?;
        self.tell_redone(count);
        Ok(())
    }

    /// Slot and offset of every whole record.
    fn read_log(&self, log: u64, len: u64) -> Result<Vec<(u64, u64)>> {
        let mut records = Vec::new();
        let inside = log.is_multiple_of(PAGE) && log >= PAGE + table::SIZE && log < len;
        if !inside {
            return Ok(records);
        }
        // Behind that lies what the original has appended.
        let len = len.min(log + LONGEST);
        let mut page = [0; PAGE as usize];
        for at in (log..len).step_by(PAGE as usize) {
            self.store.read(at, &mut page)?;
            let mut inside = record::FIRST as usize;
            while inside < page.len() {
                let mut step = record::STEP as usize;
                if let Some(record) = Record::read(&page[inside..], at + inside as u64) {
                    records.try_reserve(1).map_err(|_| crate::Error::Memory)?;
                    records.push((record.head().slot, at + inside as u64));
                    step = record.len().next_multiple_of(step);
                }
                inside += step;
            }
        }
        Ok(records)
    }

    /// `false`: this record does not count.
    fn redo_record(&mut self, slot: u64, at: u64) -> Result<bool> {
        let Some((t, i)) = self.slot_at(slot) else {
            return Ok(false);
        };
        let place = self.place(t, i)?;
        let page = self.page_from(at)?;
        let Some(record) = Record::read(&page, at) else {
            return Ok(false);
        };
        let Some(key) = Key::new(record.key()) else {
            return Ok(false);
        };
        let side = record.head().word.side().other();
        let (key, value) = (key.bytes(), record.value());
        let mut block = RawBlock::new(self.sizes, side, true, key, value, t as u64);
        block.mark_empty(self.sizes);
        if !self.follows(&place, record.head().word, &block, side)? {
            return Ok(false);
        }
        self.revive_a(place.pair, side)?;
        let end = self.begins_live(side, place.pair)?;
        self.write_copy(place.pair, side, &block, end)?;
        let word = Word::tagged(side, self.epoch(), block.sum());
        self.store_word(&place, word)?;
        Ok(true)
    }

    /// Whether a value of the log, which `block` holds as copy `side`, is later than what its pair holds. The copy
    /// that the record's word names has to be there, and the slot says the same word, or it says that this value is in
    /// the other copy, where it is not. If both copies are good and the same, the original has written them.
    fn follows(&self, place: &Place, base: Word, block: &RawBlock, side: Side) -> Result<bool> {
        if place.pair == 0 || place.slot.a <= 0 || !self.sizes.covers_all() {
            return Ok(false);
        }
        let pair = self.pair_of(place)?;
        let (old, new) = (pair.verdict(side.other()), pair.verdict(side));
        let there = old.kind == Kind::Live && pair.holds(base);
        let same = new.good && pair.is_same();
        let own = hash::slot(block.key(), self.sizes.slots) == place.index;
        if !there || same || !own || pair.block(side.other()).key() != block.key() {
            return Ok(false);
        }
        let (word, sum) = (place.slot.word, block.sum());
        let arrived = new.good && new.kind == Kind::Live && new.sum == sum;
        let folded = word.side() == side && word.sum() == Some(sum);
        Ok(word == base || folded && !arrived)
    }

    /// Table and index of the slot at this offset in the file.
    pub(super) fn slot_at(&self, at: u64) -> Option<(usize, u16)> {
        let before = self.tables.partition_point(|&table| table <= at);
        let t = before.checked_sub(1)?;
        let inside = at.checked_sub(table::slot_offset(self.tables[t], 0))?;
        let i = inside / slot::SIZE;
        let whole = inside.is_multiple_of(slot::SIZE) && i < u64::from(self.sizes.slots);
        whole.then_some((t, i as u16))
    }
}
