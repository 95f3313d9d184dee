//! The redo log: values that were put over a pair which must not be changed again before the next sync.
//!
//! The first change of a pair in an epoch goes into the pair. Those that follow go into the log, one behind the
//! other, and the slot's offset of B names the last one, for those who read. The pair and the word stay as they are,
//! until all values of the log are folded into their pairs: before any other change of such a key, and at the close. A
//! fold is between two syncs, so nothing is written over a record that is still needed.
//!
//! The log is filled one half after the other. When one is full, a sync makes it durable, so nothing in the other one is
//! needed any more, and what slots still name goes there first ([`Engine::turn_log`]). Until it is long enough, the log gets twice
//! as long each time. If what is named would fill much of the other half, all is folded instead.
//!
//! Recovery believes no name. It reads the log from one end to the other; of the whole records of a slot the last one,
//! by lap and place, counts that follows what the pair holds ([`Engine::follows`]).

use super::state::intent;
use super::{Engine, Place, State, Storage};
use crate::error::{Error, Result};
use crate::format::block::{self, Kind, PAIR, RawBlock, Side};
use crate::format::key::Key;
use crate::format::record::{self, Head, Record};
use crate::format::slot::{self, LAPS, Slot, Word};
use crate::format::sum::Sum;
use crate::format::{PAGE, hash, table};
use std::cmp::Reverse;
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

/// No log is longer.
const LONGEST: u64 = 64 << 20;

/// The size of a new log behind a file of so many bytes in use.
fn first_size(end: u64) -> u64 {
    let size = (end / 32).clamp(64 << 10, LONGEST / 4);
    size - size % PAIR
}

/// Each time when it was full a log gets twice as long, up to this.
fn last_size(end: u64) -> u64 {
    (end / 8).clamp(1 << 20, LONGEST)
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
        if !self.may_log(place, value)? {
            return self.sync();
        }
        match self.st().log_next.load(Relaxed) {
            0 => self.begin_log(),
            _ if self.fold()? => Ok(()),
            _ => self.sync(),
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

    /// Whether a value of this live pair could go into a log with room for it.
    pub(super) fn may_log(&self, place: &Place, value: &[u8]) -> Result<bool> {
        let may = self.store.is_lasting() && self.fits_log(value);
        Ok(may && (place.slot.record().is_some() || self.do_copies_differ(place)?))
    }

    /// In the log only what follows a pair of different copies can be told from what the original has done to it.
    fn do_copies_differ(&self, place: &Place) -> Result<bool> {
        let [a, b] = [Side::A, Side::B].map(|side| side.offset(place.pair));
        let checksum = |at| self.store.load(at + block::CHECKSUM as u64);
        Ok(checksum(a)? != checksum(b)?)
    }

    /// Whether values go into the log.
    pub(super) fn has_log(&self) -> bool {
        self.st().log_next.load(Relaxed) != 0
    }

    /// Puts a value into the log; `false` if there is none, or no room in it.
    pub(super) fn append(&self, place: &Place, key: &Key, value: &[u8]) -> Result<bool> {
        if self.st().log_next.load(Relaxed) == 0 || !self.fits_log(value) {
            return Ok(false);
        }
        let even = match place.slot.record() {
            Some(front) => self.store.load(front - record::FRONT + record::LAP)? & 1 == 0,
            None if !self.do_copies_differ(place)? => return Ok(false),
            None => false,
        };
        self.write_record(place, even, key, value)
    }

    /// The next record, and that the slot names it; `false`: there is no room in this half.
    fn write_record(&self, place: &Place, even: bool, key: &Key, value: &[u8]) -> Result<bool> {
        let st = self.st();
        let lap = st.log_lap.load(Relaxed);
        let n = record::words(value.len());
        let at = record::place(st.log_next.load(Relaxed), value.len());
        let end = at + 8 * n as u64;
        let half = self.half(lap);
        if at < half.start || end > half.end {
            return Ok(false);
        }
        let head = Head {
            lap,
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
        let name = Slot::b_of_record(at + record::FRONT, lap);
        self.store_b(place, name)?;
        self.end_intent();
        Ok(true)
    }

    /// Where the records of a lap are.
    fn half(&self, lap: u64) -> Range<u64> {
        let (log, end) = (self.st().log.load(Relaxed), self.st().length.load(Relaxed));
        let size = end.saturating_sub(log) / 2;
        let middle = log + (size - size % PAGE);
        match lap % 2 {
            0 => log..middle,
            _ => middle..end,
        }
    }

    /// From here on records go into the half of this lap. What slots name stays, until somebody begins the lap behind it.
    fn begin_lap(&self, lap: u64) {
        let st = self.st();
        // Whoever comes between the two finds no room.
        st.log_lap.store(lap, Relaxed);
        st.log_next.store(self.half(lap).start, Relaxed);
    }

    /// A full log goes on in its other half, or in as much behind it, with what slots name in this one, durable. `false`: that
    /// would fill much of the other one, or something is still named in it.
    pub(super) fn turn_log(&mut self) -> Result<bool> {
        let st = self.st();
        let lap = st.log_lap.load(Relaxed);
        // A name is not to come twice with the same word.
        if st.log_next.load(Relaxed) == 0 || lap % LAPS + 2 >= LAPS {
            return Ok(false);
        }
        let half = self.half(lap);
        let (mut named, mut all_here) = (Vec::new(), true);
        self.each_slot(|t, i, slot| {
            if let Some(front) = slot.record() {
                all_here &= half.contains(&front);
                named.try_reserve(1).map_err(|_| Error::Memory)?;
                named.push((front, t, i));
            }
            Ok(())
        })?;
        if !all_here {
            return Ok(false);
        }
        named.sort_unstable();
        let mut need = 0;
        for &(front, ..) in &named {
            let len = self.record_len(front - record::FRONT)?;
            need = record::place(need, len) + 8 * record::words(len) as u64;
        }
        let other = self.half(lap + 1);
        let fits = need <= other.end.saturating_sub(other.start) / 2;
        let grows = self.may_log_grow()?;
        if !fits && !grows {
            return Ok(false);
        }
        self.sync()?;
        match grows && self.grow_log()? {
            // What there was until now is the first half: what is named is no more than half of it.
            true => self.begin_lap((lap + 1) | 1),
            false if fits => self.begin_lap(lap + 1),
            false => return Ok(false),
        }
        let mut page = [0; PAGE as usize];
        for (front, t, i) in named {
            let place = self.place(t, i)?;
            let mut copied = false;
            if let Some(record) = self.logged_at(front - record::FRONT, &mut page)?
                && let Some(key) = Key::new(record.key())
                && record.head().word == place.slot.word
            {
                copied = self.write_record(&place, record.head().even, &key, record.value())?;
            }
            if !copied {
                self.fold_pair(&place)?;
            }
        }
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
        self.begin_lap(self.st().log_lap.load(Relaxed) + 1);
        Ok(())
    }

    fn may_log_grow(&self) -> Result<bool> {
        let (st, len) = (self.st(), self.store.len()?);
        let size = len.saturating_sub(st.log.load(Relaxed));
        Ok(2 * size <= last_size(st.end.load(Relaxed)) && len + size <= self.limit())
    }

    /// Makes the log twice as long; `false`: there is no room.
    fn grow_log(&self) -> Result<bool> {
        let len = self.store.len()?;
        let size = len.saturating_sub(self.st().log.load(Relaxed));
        let grown = self.lengthen_log(len, size).is_ok();
        if !grown {
            self.truncate(len)?;
        }
        Ok(grown)
    }

    fn lengthen_log(&self, at: u64, size: u64) -> Result<()> {
        self.grow(at + size)?;
        // Else each page of it would have to be noted in the file system when it is first synced.
        self.store.fill(at, size)
    }

    /// Brings every value of the log into its pair, and all of it to the medium; `false`: there is none.
    pub(super) fn fold(&mut self) -> Result<bool> {
        if !self.fold_pairs()? {
            return Ok(false);
        }
        self.sync()?;
        self.begin_lap(self.st().log_lap.load(Relaxed) + 1);
        Ok(true)
    }

    /// Syncs, and brings every value of the log into its pair. The records must stay until the next sync. `false`: there
    /// is none.
    pub(super) fn fold_pairs(&mut self) -> Result<bool> {
        if self.st().log_next.load(Relaxed) == 0 {
            return Ok(false);
        }
        let logged = self.slots_by_pair(|slot| slot.record().is_some())?;
        if logged.is_empty() {
            return Ok(false);
        }
        self.sync()?;
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
        let mut page = [0; PAGE as usize];
        let record = self.logged_at(front - record::FRONT, &mut page)?;
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

    /// What the record at `at` says of the length of its value.
    fn record_len(&self, at: u64) -> Result<usize> {
        let size = self
            .store
            .load(at + record::FRONT + block::VALUE_SIZE as u64)?;
        Ok((size as u32 as usize).min(record::LONGEST))
    }

    /// The record at `at`, if it is whole.
    fn logged_at<'a>(
        &self,
        at: u64,
        page: &'a mut [u8; PAGE as usize],
    ) -> Result<Option<Record<'a>>> {
        let bytes = &mut page[..8 * record::words(self.record_len(at)?)];
        self.store.read(at, bytes)?;
        Ok(Record::read(bytes, at))
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
        records.sort_unstable_by_key(|&(slot, lap, at)| (slot, Reverse((lap, at))));
        let (mut done, mut count) = (None, 0);
        for (slot, _, at) in records {
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

    /// Slot, lap and offset of every whole record.
    fn read_log(&self, log: u64, len: u64) -> Result<Vec<(u64, u64, u64)>> {
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
                    records.try_reserve(1).map_err(|_| Error::Memory)?;
                    let head = record.head();
                    records.push((head.slot, head.lap, at + inside as u64));
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
        let mut page = [0; PAGE as usize];
        let Some(record) = self.logged_at(at, &mut page)? else {
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
