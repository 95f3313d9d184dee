//! Put and delete: the write protocol.

use super::index::{self, print_of};
use super::look::Found;
use super::state::phase;
use super::{Engine, OLD_LIMIT, Outcome, Pair, Place, State, Storage};
use crate::error::{Error, Result};
use crate::format::block::{self, Kind, PAIR, RawBlock, Side, Verdict};
use crate::format::header;
use crate::format::key::Key;
use crate::format::slot::{Slot, Word};
use crate::format::table::{self, RawTable};
use crate::format::{PAGE, hash, put_u64, u64_at, word_of};
use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

/// The unit in which a medium loses writes.
pub(crate) const SECTOR: u64 = 512;
/// The file grows by an eighth, but by no less and no more than this.
const STEP: (u64, u64) = (64 << 10, 4 << 20);

impl<S: Storage, H: AsRef<State>> Engine<S, H> {
    /// Sets the value of `key`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a key of 0 or more than 127 bytes or a value larger than the file's
    /// value size; [`Error::Access`] on a read-only handle; [`Error::Io`], nothing changed.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let key = Key::new(key).ok_or(Error::NO_KEY)?;
        if value.len() > self.sizes.value as usize {
            return Err(Error::Invalid(
                "the value is larger than the database's value size",
            ));
        }
        self.may_write()?;
        self.ready()?;
        self.begin_change()?;
        let mut found = self.find(&key)?;
        if self.put_right(hash::slot_of(key.hash(), self.sizes.slots))? {
            found = self.find(&key)?;
        }
        match found {
            Found::Live(place, side) => self.overwrite(&place, side, &key, value),
            Found::Damaged(place) => self.put_again(&place, &key, value),
            Found::Absent {
                deleted: Some(p), ..
            } => self.put_again(&p, &key, value),
            Found::Absent {
                unused: Some(p), ..
            } => self.put_new(&p, &key, value),
            Found::Absent { .. } => {
                let table = self.append_table()?;
                let place = self.place(table, hash::slot_of(key.hash(), self.sizes.slots))?;
                self.put_new(&place, &key, value)
            }
        }
    }

    /// As [`Engine::put`] where the key is there and no memory is needed; else `false`, and nothing has
    /// changed.
    pub fn put_in_place(&mut self, key: &Key, value: &[u8]) -> Result<bool> {
        if value.len() > self.sizes.value as usize
            || self.st().phase.load(Relaxed) != phase::CHANGED
        {
            return Ok(false);
        }
        self.may_write()?;
        self.ready()?;
        match self.find(key)? {
            Found::Live(place, current) if !self.doubtful => {
                let side = current.other();
                let tidy = self.is_tidy(&place, side, key, value)?;
                if tidy {
                    self.overwrite_tidy(&place, side, key, value)?;
                }
                Ok(tidy)
            }
            _ => Ok(false),
        }
    }

    /// Deletes `key`; `false` if there is no such key.
    ///
    /// # Errors
    /// [`Error::Access`] on a read-only handle; [`Error::Io`], nothing changed.
    pub fn delete(&mut self, key: &[u8]) -> Result<bool> {
        let Some(key) = Key::new(key) else {
            return Ok(false);
        };
        self.may_write()?;
        self.ready()?;
        if let Found::Absent { .. } = self.find(&key)? {
            return Ok(false);
        }
        self.begin_change()?;
        // The original can leave a key in two tables of its chain: all of them go.
        let mut found = false;
        loop {
            match self.find(&key)? {
                Found::Live(place, _) => {
                    self.settle_epoch(&place)?;
                    let side = place.slot.word.side();
                    let sum = self.sum_at(side.offset(place.pair))?;
                    self.write_deleted(&place, sum)?;
                }
                Found::Damaged(place) => self.drop_pair(&place)?,
                Found::Absent { .. } => {
                    self.put_right(hash::slot_of(key.hash(), self.sizes.slots))?;
                    return Ok(found);
                }
            }
            found = true;
        }
    }

    /// A chain that is about to change is put right where its pairs are not as their slots say: who does
    /// not look at the copies would find what such a pair held before what is put behind it. `true`:
    /// there was one.
    fn put_right(&mut self, slot: u16) -> Result<bool> {
        let mut some = false;
        if !self.doubtful {
            return Ok(some);
        }
        let mut seen: Vec<[u8; block::KEY_LEN]> = Vec::new();
        for t in 0..self.tables.len() {
            let place = self.place(t, slot)?;
            if place.pair == 0 || place.slot.is_deleted() {
                continue;
            }
            let pair = self.pair_of(&place)?;
            let outcome = pair.outcome(Some(place.slot.word));
            if outcome == Outcome::Damaged {
                continue;
            }
            if pair.is_foreign(outcome, slot, self.sizes) {
                // It goes where it belongs.
                self.recover(false)?;
                return Ok(true);
            }
            let mut twice = false;
            if let Outcome::Live(side) = outcome {
                let name = pair.block(side).key();
                let mut key = [0; block::KEY_LEN];
                key[..name.len()].copy_from_slice(name);
                // The first counts; a second one was found by nobody here.
                twice = seen.contains(&key);
                seen.try_reserve(1).map_err(|_| Error::Memory)?;
                seen.push(key);
            }
            let as_said = outcome == Outcome::Live(place.slot.word.side());
            if as_said && !twice && !pair.is_unfinished(outcome) {
                continue;
            }
            self.settle_epoch(&place)?;
            self.rearrange();
            match outcome {
                Outcome::Live(side) if !twice => {
                    self.finish(&pair, outcome)?;
                    let word = Word::tagged(side, self.epoch(), pair.verdict(side).sum);
                    self.store.store(place.at + 16, word.0)?;
                }
                _ => {
                    let sum = pair.verdict(place.slot.word.side()).sum;
                    self.write_deleted(&place, sum)?;
                }
            }
            some = true;
        }
        Ok(some)
    }

    /// [`RawBlock::sum`] of the block at `at`.
    fn sum_at(&self, at: u64) -> Result<u32> {
        if self.sizes.covers_all() {
            return Ok(self.store.load(at + block::CHECKSUM as u64)? as u32);
        }
        let mut block = RawBlock::zeroed();
        self.store.read(at, &mut block.0[..])?;
        Ok(block.sum(self.sizes))
    }

    fn may_write(&self) -> Result<()> {
        if !self.writable {
            return Err(Error::Access("opened read-only"));
        }
        if self.st().poisoned.load(Relaxed) != 0 {
            return Err(io::Error::from_raw_os_error(libc::EIO).into());
        }
        Ok(())
    }

    /// A pair that was changed since our last sync may hold the value that the caller synced in
    /// either copy: it must not be changed again before everything is on the medium.
    fn settle_epoch(&mut self, place: &Place) -> Result<()> {
        if place.slot.word.changed_in(self.epoch()) {
            self.sync()?;
        }
        Ok(())
    }

    /// First change of a life: the file is marked, on the medium, before anything else is stored.
    pub(crate) fn begin_change(&mut self) -> Result<()> {
        if self.st().phase.load(Relaxed) == phase::CHANGED {
            return self.survey_once();
        }
        self.store.fill_holes()?;
        // Tables that contradict each other are found out before they are trusted with more.
        let mut whole = true;
        self.each_slot(|_, _, slot| {
            whole &= slot.is_whole();
            Ok(())
        })?;
        match self.survey() {
            Ok(()) if whole => {}
            Ok(()) | Err(Error::Corrupt(_)) => {
                self.recover(false)?;
                return self.survey_once();
            }
            Err(e) => return Err(e),
        }
        self.clear_loose()?;
        self.st().phase.store(phase::MARKING, Relaxed);
        if self.tables.is_empty() {
            self.append_table()?;
        }
        self.mark()
    }

    /// What no table of a closed file names was lost for everybody who has read it since: it must not
    /// come back, nor stand in the way of new pairs, which are written into zeros.
    fn clear_loose(&mut self) -> Result<()> {
        let used = self.used()?;
        let len = self.store.len()?;
        let mut some = false;
        for (at, n) in used.free() {
            if !self.is_zero(at, n)? {
                self.erase(at, n)?;
                some = true;
            }
        }
        if !self.is_zero(used.end(), len.saturating_sub(used.end()))? {
            self.truncate(used.end())?;
            some = true;
        }
        if some {
            self.sync()?;
            self.survey()?;
        }
        Ok(())
    }

    /// Marks the file as changed. Both marks may reach the medium in any order: nothing else has
    /// changed yet.
    pub(crate) fn mark(&mut self) -> Result<()> {
        self.store.store(header::CLOSE_FAILED, 1)?;
        self.store.store(header::CLOSE_OK, 0)?;
        if let Some(&first) = self.tables.first() {
            self.store.store(first + table::CHECKSUM, table::MARK)?;
        }
        self.sync()?;
        self.st().phase.store(phase::CHANGED, Relaxed);
        Ok(())
    }

    pub(crate) fn begin_intent(&self, slot: u64, pair: u64, delete: bool) {
        let st = self.st();
        st.intent_pair.store(pair, Relaxed);
        st.intent_delete.store(u64::from(delete), Relaxed);
        st.intent.store(slot, std::sync::atomic::Ordering::Release);
    }

    pub(crate) fn end_intent(&self) {
        self.st()
            .intent
            .store(0, std::sync::atomic::Ordering::Release);
    }

    /// The value goes to the copy that is not current; the slot's word makes it count.
    fn overwrite(&mut self, place: &Place, current: Side, key: &Key, value: &[u8]) -> Result<()> {
        let side = current.other();
        if self.is_tidy(place, side, key, value)? {
            return self.overwrite_tidy(place, side, key, value);
        }
        self.settle_epoch(place)?;
        let number = place.table as u64;
        let mut block = RawBlock::new(self.sizes, side, true, key.bytes(), value, number);
        block.mark_empty(self.sizes);
        self.set_checked(place.pair, false);
        self.begin_intent(place.at, place.pair, false);
        let end = self.begins_live(side, place.pair)?;
        self.write_copy(place.pair, side, &block, end)?;
        let word = Word::tagged(side, self.epoch(), block.sum(self.sizes));
        self.store.store(place.at + 16, word.0)?;
        self.end_intent();
        self.set_checked(place.pair, true);
        Ok(())
    }

    /// Whether an overwrite of this copy needs to store the value only.
    fn is_tidy(&self, place: &Place, side: Side, key: &Key, value: &[u8]) -> Result<bool> {
        // An empty value is written with a mark behind it.
        let tidy = self.sizes.covers_all() && !value.is_empty() && self.tidy.has(place.pair);
        Ok(tidy && self.is_live_copy(side, place.pair, key)?)
    }

    /// Whether a copy of a tidy pair is a live one of this key, and not the deleted record that was in its
    /// place.
    fn is_live_copy(&self, side: Side, pair: u64, key: &Key) -> Result<bool> {
        let field = side.offset(pair) + block::KEY as u64;
        Ok(self.begins_live(side, pair)? && self.store.holds(field, key)?)
    }

    /// Whether a copy has the start delimiter of a live one. If not, it gets its end delimiter after a sync:
    /// a live one beside what was there before would bring that back.
    pub(crate) fn begins_live(&self, side: Side, pair: u64) -> Result<bool> {
        Ok(self.store.load(side.offset(pair))? == side.delimiters(true).0)
    }

    /// [`Engine::overwrite`] where key, table number and all that lies behind the longer of both values
    /// are as they have to be. The order of stores is that of [`Engine::write_copy`].
    fn overwrite_tidy(&mut self, place: &Place, side: Side, key: &Key, value: &[u8]) -> Result<()> {
        self.settle_epoch(place)?;
        let at = side.offset(place.pair);
        let sum = RawBlock::sum_of(key.bytes(), value, place.table as u64);
        let field = at + block::VALUE_SIZE as u64;
        let old = self.store.load(field)? as u32 as usize;
        // From the size on: as much as the old and the new value fill.
        let words = (4 + old.min(block::VALUE_LEN).max(value.len())).div_ceil(8);
        let in_first = words.min((SECTOR as usize - block::VALUE_SIZE) / 8);
        self.begin_intent(place.at, place.pair, false);
        self.store
            .store(at + block::CHECKSUM as u64, block::WRITING)?;
        self.store_field(field, in_first..words, value)?;
        self.store_field(field, 0..in_first, value)?;
        self.store
            .store(at + block::CHECKSUM as u64, u64::from(sum))?;
        let word = Word::tagged(side, self.epoch(), sum);
        self.store.store(place.at + 16, word.0)?;
        self.index.set_current(place, print_of(key.hash()), side);
        self.end_intent();
        Ok(())
    }

    /// Stores words of the field that begins with the size of the value.
    fn store_field(&self, field: u64, words: Range<usize>, value: &[u8]) -> Result<()> {
        let mut some = [0; 16];
        for from in words.clone().step_by(some.len()) {
            let n = (words.end - from).min(some.len());
            for (i, word) in (from..).zip(&mut some[..n]) {
                *word = block::value_word(value, i);
            }
            self.store.store_all(field + 8 * from as u64, &some[..n])?;
        }
        Ok(())
    }

    /// Into the pair of a deleted slot. Either [`Engine::put_again_in_a`], or B first, while the good deleted
    /// A still decides, then A.
    fn put_again(&mut self, place: &Place, key: &Key, value: &[u8]) -> Result<()> {
        self.settle_epoch(place)?;
        if self.is_short(place, value)? {
            return self.put_again_in_a(place, key, value);
        }
        let mut block = RawBlock::new(
            self.sizes,
            Side::B,
            true,
            key.bytes(),
            value,
            place.table as u64,
        );
        block.mark_empty(self.sizes);
        self.begin_intent(place.at, place.pair, false);
        self.set_checked(place.pair, false);
        // The end delimiters stay deleted until the close: one of them beside older contents would
        // bring those back.
        self.write_copy(place.pair, Side::B, &block, false)?;
        block.set_delimiters(Side::A, true);
        if self.is_before_others(place)? {
            self.prepare_a(place, &block)?;
        }
        self.write_copy(place.pair, Side::A, &block, false)?;
        self.commit(place, key, block.sum(self.sizes))
    }

    /// Whether both copies of a deleted pair are good, and all of A that its old value or this one fills
    /// lies in its first sector.
    fn is_short(&mut self, place: &Place, value: &[u8]) -> Result<bool> {
        if !place.slot.is_deleted() || !self.sizes.covers_all() || value.is_empty() {
            return Ok(false);
        }
        if !self.tidy.has(place.pair) {
            let pair = self.pair_of(place)?;
            let deleted = |v: &Verdict| v.good && v.kind == Kind::Deleted;
            let tidy = pair.verdicts.iter().all(deleted) && pair.is_tidy(place.table);
            self.tidy.set(place.pair, tidy);
        }
        let old = self.store.load(place.pair + block::VALUE_SIZE as u64)? as u32 as usize;
        let room = SECTOR as usize - block::VALUE;
        Ok(self.tidy.has(place.pair) && old.max(value.len()) <= room)
    }

    /// A alone, within one sector, start delimiter last: until then it is deleted or bad, and the deleted B
    /// decides; from then on it is whole. B follows with the next overwrite or at the close.
    fn put_again_in_a(&mut self, place: &Place, key: &Key, value: &[u8]) -> Result<()> {
        let (at, number) = (place.pair, place.table as u64);
        let sum = RawBlock::sum_of(key.bytes(), value, number);
        let field = at + block::VALUE_SIZE as u64;
        let old = self.store.load(field)? as u32 as usize;
        let words = (4 + old.max(value.len())).div_ceil(8);
        self.begin_intent(place.at, at, false);
        self.store
            .store(at + block::CHECKSUM as u64, block::WRITING)?;
        self.store_key(at, key)?;
        self.store_field(field, 0..words, value)?;
        self.store
            .store(at + block::CHECKSUM as u64, u64::from(sum))?;
        self.store.store(at, Side::A.delimiters(true).0)?;
        self.commit(place, key, sum)
    }

    /// Stores the key field of the block at `at`, if it holds another key.
    fn store_key(&self, at: u64, key: &Key) -> Result<()> {
        let at = at + block::KEY as u64;
        if self.store.holds(at, key)? {
            return Ok(());
        }
        let mut field = [0; block::KEY_LEN / 8];
        for (i, word) in field.iter_mut().enumerate() {
            *word = word_of(key.bytes(), 8 * i);
        }
        self.store.store_all(at, &field)
    }

    /// Whether a later table of the chain uses the same slot.
    fn is_before_others(&self, place: &Place) -> Result<bool> {
        for t in place.table + 1..self.tables.len() {
            if !self.place(t, place.index)?.slot.is_unused() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Where the original would lose the rest of the chain if it found a deleted A that is bad: A
    /// becomes live, with its old contents, while a durable B is the one that counts.
    fn prepare_a(&mut self, place: &Place, block: &RawBlock) -> Result<()> {
        let word = Word::tagged(Side::B, self.epoch(), block.sum(self.sizes));
        self.store.store(place.at + 16, word.0)?;
        self.sync()?;
        let mut old = RawBlock::zeroed();
        self.store.read(place.pair, &mut old.0[..])?;
        self.store.store(place.pair, Side::A.delimiters(true).0)?;
        // Inside one sector the order is kept; others could come before it.
        let behind = SECTOR as usize..block::END;
        if old.0[behind.clone()] != block.0[behind] {
            self.sync()?;
        }
        Ok(())
    }

    /// The slot of a pair whose copy A is whole, with this [`RawBlock::sum`], and whose B is too, or deleted.
    fn commit(&mut self, place: &Place, key: &Key, sum: u32) -> Result<()> {
        let word = Word::tagged(Side::A, self.epoch(), sum);
        let print = print_of(key.hash());
        self.write_slot(place, Slot::live(place.pair, word), print)?;
        self.end_intent();
        self.set_checked(place.pair, true);
        // Both copies were written as a whole, or were tidy before.
        self.tidy.set(place.pair, true);
        Ok(())
    }

    /// A new pair, into zeros: the start delimiters come last, and without them the pair is nothing. The
    /// end delimiters follow at the close.
    fn put_new(&mut self, place: &Place, key: &Key, value: &[u8]) -> Result<()> {
        let (pair, in_gap) = self.room_for_pair()?;
        self.begin_intent(place.at, pair, false);
        if !in_gap {
            self.st().end.store(pair + PAIR, Relaxed);
        }
        let written = self.write_new_pair(pair, key, value, place.table as u64);
        if written.is_err() && !in_gap {
            // As it was. Zeros could not be stored into pages that the medium has no room for.
            self.truncate(pair)?;
        }
        let sum = written?;
        let place = Place { pair, ..*place };
        self.commit(&place, key, sum)?;
        if in_gap {
            self.st().gap_count.fetch_sub(1, Relaxed);
        }
        Ok(())
    }

    /// Answers the [`RawBlock::sum`] of both blocks.
    fn write_new_pair(&mut self, pair: u64, key: &Key, value: &[u8], table: u64) -> Result<u32> {
        let mut both = [0; PAIR as usize];
        let (a, b) = both.split_at_mut(block::SIZE);
        let sum = if self.sizes.covers_all() && !value.is_empty() {
            let sum = RawBlock::sum_of(key.bytes(), value, table);
            for half in [&mut *a, &mut *b] {
                block::fill(half, key.bytes(), value, table);
                put_u64(half, block::CHECKSUM, u64::from(sum));
            }
            sum
        } else {
            let mut block = RawBlock::new(self.sizes, Side::A, true, key.bytes(), value, table);
            block.mark_empty(self.sizes);
            self.prepare_uncovered(pair, &block)?;
            for half in [&mut *a, &mut *b] {
                half[..block::END].copy_from_slice(&block.0[..block::END]);
            }
            block.sum(self.sizes)
        };
        put_u64(a, 0, Side::A.delimiters(true).0);
        put_u64(b, 0, Side::B.delimiters(true).0);
        self.store.write_pair(pair, &both)?;
        Ok(sum)
    }

    /// What the checksum of a new pair does not cover goes first.
    fn prepare_uncovered(&mut self, pair: u64, block: &RawBlock) -> Result<()> {
        if self.sizes.covers_all() {
            return Ok(());
        }
        self.store.allocate(pair, PAIR)?;
        if block.table() > 0 {
            // The checksum does not cover the table number; a pair that named table 0 instead
            // would take the slot of another key in the original's eyes.
            for side in [Side::A, Side::B] {
                self.store
                    .store(side.offset(pair) + block::TABLE as u64, block.table())?;
            }
            self.sync()?;
        }
        if self.uncovered_tail() {
            for side in [Side::A, Side::B] {
                let at = side.offset(pair) + SECTOR;
                let behind = &block.0[SECTOR as usize..block::END];
                self.replace(at, behind.len() as u64, |i| u64_at(behind, i))?;
            }
            self.sync()?;
        }
        Ok(())
    }

    /// Delimiters of both copies and the slot; the contents stay as they are until the close, so
    /// that a torn delete is a live pair or a deleted one and never anything else.
    pub(crate) fn write_deleted(&mut self, place: &Place, checksum: u32) -> Result<()> {
        let word = Word::tagged(place.slot.word.side(), self.epoch(), checksum);
        self.begin_intent(place.at, place.pair, true);
        // As tidy as it was.
        self.checked.set(place.pair, false);
        self.write_dead(place.pair)?;
        self.write_slot(place, Slot::deleted(place.pair, word), index::DELETED)?;
        self.end_intent();
        Ok(())
    }

    /// Recovery: ends what was begun with a pair, so that everybody reads it as `outcome` from now on.
    pub(crate) fn finish(&mut self, pair: &Pair, outcome: Outcome) -> Result<()> {
        match outcome {
            Outcome::Live(side) => {
                // A delete that did not happen. The end delimiter follows at the close.
                self.store
                    .store(side.offset(pair.at), side.delimiters(true).0)?;
                let other = side.other();
                let start = other.delimiters(true).0;
                if !pair.verdict(other).good || pair.block(other).delimiters().0 != start {
                    // Torn, not there yet, or still the deleted record that was in this place: with
                    // another delimiter alone it would become a value.
                    let mut block = pair.block(side).clone();
                    block.set_delimiters(other, true);
                    self.write_copy(pair.at, other, &block, false)?;
                }
                Ok(())
            }
            Outcome::Deleted(side) => {
                let other = side.other();
                if !pair.verdict(other).good {
                    let mut block = pair.block(side).clone();
                    block.set_delimiters(other, false);
                    self.write_copy(pair.at, other, &block, true)?;
                }
                self.write_dead(pair.at)
            }
            Outcome::Damaged => Ok(()),
        }
    }

    /// Zeroes pages that nothing names. Where the checksum does not cover the table number, a pair
    /// must stop being one before that goes: it would take the slot of another key.
    pub(crate) fn erase(&mut self, at: u64, len: u64) -> Result<()> {
        if !self.sizes.covers_all() {
            let mut some = false;
            for page in (at..at + len).step_by(PAGE as usize) {
                if self.store.load(page)? != 0 {
                    self.store.store(page, 0)?;
                    some = true;
                }
            }
            if some {
                self.sync()?;
            }
        }
        self.zero(at, len)
    }

    fn write_dead(&self, pair: u64) -> Result<()> {
        for side in [Side::A, Side::B] {
            let (start, end) = side.delimiters(false);
            self.store.store(side.offset(pair), start)?;
            self.store
                .store(side.offset(pair) + block::END as u64, end)?;
        }
        Ok(())
    }

    /// Offset of A last: it is what makes a slot used. `print`: what the slot holds from now on.
    pub(crate) fn write_slot(&mut self, place: &Place, slot: Slot, print: u16) -> Result<()> {
        let at = place.at;
        self.store.store(at + 16, slot.word.0)?;
        self.store.store(at + 8, slot.b as u64)?;
        self.store.store(at, slot.a as u64)?;
        self.changed_slot(place, &slot, print);
        Ok(())
    }

    /// Writes over one copy: its checksum is invalid from the first store to the last, and in its
    /// first sector no prefix of the stores looks whole. `end`: also the end delimiter.
    pub(crate) fn write_copy(
        &mut self,
        pair: u64,
        side: Side,
        block: &RawBlock,
        end: bool,
    ) -> Result<()> {
        let at = side.offset(pair);
        let word = |i: usize| u64_at(&block.0[..], i);
        self.store
            .store(at + block::CHECKSUM as u64, block::WRITING)?;
        if self.uncovered_tail() {
            self.sync()?;
        }
        let tail = if end { block::SIZE } else { block::END } as u64;
        self.replace(at + SECTOR, tail - SECTOR, |i| word(SECTOR as usize + i))?;
        if self.uncovered_tail() {
            self.sync()?;
        }
        let key = block::KEY as u64;
        self.replace(at + key, SECTOR - key, |i| word(block::KEY + i))?;
        self.store.store(at, word(0))?;
        self.store
            .store(at + block::CHECKSUM as u64, word(block::CHECKSUM))
    }

    /// With unusual sizes the checksum leaves a part of the value uncovered that lies outside the
    /// first sector: there a sync must do what the checksum can't.
    fn uncovered_tail(&self) -> bool {
        let covered = block::KEY + self.sizes.covered();
        let value = block::VALUE + self.sizes.value as usize;
        covered < value && value > SECTOR as usize
    }

    /// A zeroed place for a pair: inside the file if there is one, and whether it is. It may have no
    /// place on the medium yet.
    pub(crate) fn room_for_pair(&mut self) -> Result<(u64, bool)> {
        let st = self.st();
        let n = st.gap_count.load(Relaxed);
        if n > 0
            && let Some(gap) = st.gaps.get(n as usize - 1)
        {
            return Ok((gap.load(Relaxed), true));
        }
        let at = st.end.load(Relaxed);
        self.make_room(at, PAIR)?;
        Ok((at, false))
    }

    /// Makes the file reach `bytes` behind `at`, in one step: it must never end inside a pair. And
    /// beyond, by whole pairs, because each growth is a change of the file's length.
    fn make_room(&mut self, at: u64, bytes: u64) -> Result<()> {
        let need = at
            .checked_add(bytes)
            .ok_or(Error::Corrupt("offset out of range"))?;
        let known = self.store.known_len();
        if need <= known && known.is_multiple_of(PAGE) {
            return Ok(());
        }
        let len = self.store.len()?;
        if need > len || len % PAGE != 0 {
            let limit = self.limit();
            if need > limit {
                return Err(io::Error::from_raw_os_error(libc::EFBIG).into());
            }
            let step = (need / 8).clamp(STEP.0, STEP.1).next_multiple_of(PAIR);
            let want = need.saturating_add(step).next_multiple_of(PAGE).min(limit);
            if self.extend(want).is_err() {
                self.extend(need.next_multiple_of(PAGE))?;
            }
            if at < len {
                // The file must not end inside what is written there.
                self.sync()?;
            }
        }
        Ok(())
    }

    /// How long the file may become.
    fn limit(&self) -> u64 {
        match self.large {
            true => u64::MAX - PAGE,
            false => OLD_LIMIT,
        }
    }

    /// Appends an empty table and links it; answers its number.
    pub(crate) fn append_table(&mut self) -> Result<usize> {
        let at = self.st().end.load(Relaxed);
        self.make_room(at, table::SIZE)?;
        self.store.allocate(at, table::SIZE)?;
        // Whole pairs fit behind it, so that none of them will cross the end that the file has now, which
        // would cost a sync.
        let len = self.store.known_len();
        let odd = len.saturating_sub(at + table::SIZE) % PAIR;
        if odd != 0 && len + PAIR - odd <= self.limit() {
            self.extend(len + PAIR - odd)?;
        }
        let slot = match self.tables.last() {
            Some(&last) => table::slot_offset(last, table::SLOTS as u16),
            None => at,
        };
        self.begin_intent(slot, 0, false);
        let raw = RawTable::empty();
        self.store.store(at + table::CHECKSUM, table::MARK)?;
        for i in [0, table::END] {
            self.store.store(at + i, u64_at(&raw.0, i as usize))?;
        }
        // Before any pair names it, and before any link leads to it.
        self.sync()?;
        if let Some(&last) = self.tables.last() {
            self.set_link(last, at)?;
        }
        self.tables.try_reserve(1).map_err(|_| Error::Memory)?;
        self.tables.push(at);
        self.st().tables.store(self.tables.len() as u64, Relaxed);
        self.st().end.store(at + table::SIZE, Relaxed);
        self.end_intent();
        Ok(self.tables.len() - 1)
    }

    pub(crate) fn set_link(&self, table: u64, next: u64) -> Result<()> {
        if (self.sizes.slots as usize) < table::SLOTS {
            self.store
                .store(table::slot_offset(table, self.sizes.slots), next)?;
        }
        self.store
            .store(table::slot_offset(table, table::SLOTS as u16), next)
    }

    /// Finishes or undoes the change that a process was making when it died, or that failed.
    pub(crate) fn finish_dead(&mut self) -> Result<()> {
        let st = self.st();
        let at = st.intent.load(Relaxed);
        let (pair, delete) = (
            st.intent_pair.load(Relaxed),
            st.intent_delete.load(Relaxed) != 0,
        );
        self.tell_unfinished(at, pair);
        self.rearrange();
        // Tables first: the count may be behind the links.
        self.tables = self.chain()?.0;
        self.st().tables.store(self.tables.len() as u64, Relaxed);
        let inside = self.tables.iter().enumerate().find_map(|(t, &o)| {
            let i = at.checked_sub(table::slot_offset(o, 0))? / crate::format::slot::SIZE;
            (i < u64::from(self.sizes.slots)).then_some((t, i as u16))
        });
        if pair != 0
            && let Some((t, i)) = inside
        {
            let place = self.place(t, i)?;
            if place.pair == pair {
                self.finish_pair(&place, delete)?;
            } else if pair % PAGE == 0 && pair + PAIR <= self.store.len()? {
                // Not committed: the place is as empty as before.
                self.erase(pair, PAIR)?;
            }
        }
        self.st().surveyed.store(0, Relaxed);
        self.survey_once()?;
        let end = self.st().end.load(Relaxed);
        let rest = self
            .store
            .len()?
            .saturating_sub(end)
            .min(table::SIZE + PAIR);
        self.erase(end, rest)?;
        self.end_intent();
        Ok(())
    }

    /// A delete goes on; a put into a deleted pair goes on if it counts already, else it is undone.
    fn finish_pair(&mut self, place: &Place, delete: bool) -> Result<()> {
        let pair = self.pair_of(place)?;
        if delete {
            let side = place.slot.word.side();
            return self.write_deleted(place, pair.verdict(side).sum);
        }
        if !place.slot.is_deleted() {
            // An overwrite: the slot decides. From now on it also says that the pair was changed, so
            // that the close mends the copy that was being written.
            if let Outcome::Live(side) = pair.outcome(Some(place.slot.word)) {
                let word = Word::tagged(side, self.epoch(), pair.verdict(side).sum);
                self.store.store(place.at + 16, word.0)?;
            }
            return Ok(());
        }
        let outcome = pair.outcome(Some(place.slot.word));
        let b = pair.outcome_of(Side::B);
        let (side, live) = match outcome {
            Outcome::Live(side) => (side, true),
            Outcome::Deleted(side) => (side, false),
            Outcome::Damaged => return self.drop_pair(place),
        };
        let mut block = pair.block(side).clone();
        if let Outcome::Deleted(_) = b {
            // B has not been touched, and is on the medium: it stays until A is there as well.
            if live && let Some(key) = Key::new(block.key()) {
                return self.commit(place, &key, block.sum(self.sizes));
            }
            return self.finish(&pair, outcome);
        }
        let other = side.other();
        let v = pair.verdict(other);
        if !v.good
            || v.sum != block.sum(self.sizes)
            || pair.block(other).delimiters().0 != other.delimiters(live).0
        {
            block.set_delimiters(other, live);
            self.write_copy(place.pair, other, &block, !live)?;
        }
        if live && let Some(key) = Key::new(block.key()) {
            return self.commit(place, &key, block.sum(self.sizes));
        }
        Ok(())
    }
}
