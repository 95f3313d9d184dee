//! Put and delete: the write protocol.

use super::copies::{SECTOR, slot_ends};
use super::index::{UNUSED, print_of};
use super::look::{Found, Seen};
use super::state::{intent, phase};
use super::survey::Used;
use super::{Engine, Outcome, Place, State, Storage};
use crate::error::{Error, Result};
use crate::format::block::{self, Kind, PAIR, RawBlock, Side, Sums, Verdict};
use crate::format::key::Key;
use crate::format::slot::{self, Slot, Word};
use crate::format::{hash, header, table};
use std::io;
use std::sync::atomic::Ordering::Relaxed;

/// What a put has found out while slot and pair were on their way.
#[derive(Default)]
struct Ahead {
    /// Those of the copy, if they are known.
    sums: Option<Sums>,
    /// Nothing but the value has to be stored into it.
    is_tidy: bool,
}

impl<S: Storage, H: AsRef<State>> Engine<S, H> {
    /// Sets the value of `key`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a key of 0 or more than 127 bytes or a value larger than the file's
    /// value size; [`Error::Access`] on a read-only handle; [`Error::Io`], nothing changed.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let key = Key::new(key).ok_or(Error::NO_KEY)?;
        self.put_key(&key, value, || Ok(()))
    }

    /// The same. `memory` says whether there is some, where any may be needed.
    ///
    /// # Errors
    /// Those of `memory` too.
    pub fn put_key(
        &mut self,
        key: &Key,
        value: &[u8],
        memory: impl Fn() -> Result<()>,
    ) -> Result<()> {
        if value.len() > self.sizes.value as usize {
            return Err(Error::Invalid(
                "the value is larger than the database's value size",
            ));
        }
        self.may_write()?;
        self.ready()?;
        if self.st().phase.load(Relaxed) != phase::CHANGED {
            memory()?;
            self.begin_change()?;
        }
        let slot = hash::slot_of(key.hash(), self.sizes.slots);
        let (mut found, mut ahead) = self.find_to_put(key, value)?;
        if self.doubtful[slot as usize] {
            memory()?;
            if self.put_right(slot)? {
                (found, ahead) = self.find_to_put(key, value)?;
            }
        }
        if let Found::Live(place, side) = found {
            return self.overwrite((place, side), key, value, ahead, memory);
        }
        let again = match found {
            Found::Damaged(place) => Some(place),
            _ => self.first_deleted(slot)?,
        };
        if let Some(place) = again {
            return self.put_again(&place, key, value, memory);
        }
        memory()?;
        self.survey_once()?;
        let table = match self.index.search(slot, 0, UNUSED) {
            Some(table) => table,
            None => self.append_table()?,
        };
        self.put_new((table, slot), key, value)
    }

    /// As [`Engine::find`], and what it finds out on the way. Of a tidy pair the copy that is written tells the key, and the
    /// current one is not touched.
    fn find_to_put(&mut self, key: &Key, value: &[u8]) -> Result<(Found, Ahead)> {
        let mut ahead = Ahead::default();
        let slot = hash::slot_of(key.hash(), self.sizes.slots);
        // Else the value may go into the log.
        let at_once = !self.store.is_lasting();
        let found = self.find_with(key, |e, seen| {
            let sums = |table: usize| Sums::of(key.bytes(), value, table as u64);
            let place = match seen {
                Seen::Table(table, hint) => {
                    ahead = Ahead::default();
                    let Some(hint) = hint else {
                        return Ok(None);
                    };
                    let at = table::slot_offset(e.tables[table], slot);
                    e.store.fetch(at, slot::SIZE as usize);
                    if !at_once && e.has_log() {
                        // The pair stays as it is.
                        return Ok(None);
                    }
                    let (block, other) = hint.blocks();
                    e.store.fetch_block(other, key.bytes().len());
                    if !e.may_be_tidy(hint.pair(), value) {
                        // The key, which is mostly short.
                        e.store.fetch(block, 1);
                    } else if at_once {
                        ahead.sums = Some(sums(table));
                    }
                    return Ok(None);
                }
                Seen::Place(place) => place,
            };
            if !e.is_settled(place) || !e.may_be_tidy(place.pair, value) {
                return Ok(None);
            }
            ahead.sums.get_or_insert_with(|| sums(place.table));
            let current = place.slot.word.side();
            ahead.is_tidy =
                e.is_checked(place.pair) && e.is_live_copy(current.other(), place.pair, key)?;
            debug_assert!(!ahead.is_tidy || e.has_key(place, current, key)?);
            Ok(ahead.is_tidy.then_some(current))
        })?;
        Ok((found, ahead))
    }

    /// Deletes `key`; `false` if there is no such key.
    ///
    /// # Errors
    /// [`Error::Access`] on a read-only handle; [`Error::Io`], nothing changed.
    pub fn delete(&mut self, key: &[u8]) -> Result<bool> {
        match Key::new(key) {
            Some(key) => self.delete_key(&key, || Ok(())),
            None => Ok(false),
        }
    }

    /// The same. `memory`: as for [`Engine::put_key`].
    ///
    /// # Errors
    /// Those of `memory` too.
    pub fn delete_key(&mut self, key: &Key, memory: impl Fn() -> Result<()>) -> Result<bool> {
        self.may_write()?;
        self.ready()?;
        let mut found = self.find_with(key, |e, seen| {
            match seen {
                Seen::Table(_, None) => {}
                Seen::Table(_, Some(hint)) => {
                    let (block, other) = hint.blocks();
                    e.store.fetch(block, 1);
                    e.store.fetch(other, 1);
                }
                Seen::Place(place) => e.fetch_ends(place),
            }
            Ok(None)
        })?;
        if let Found::Absent = found {
            return Ok(false);
        }
        let slot = hash::slot_of(key.hash(), self.sizes.slots);
        if self.doubtful[slot as usize] || self.st().phase.load(Relaxed) != phase::CHANGED {
            memory()?;
            self.begin_change()?;
            found = self.find(key)?;
        }
        // The original can leave a key in two tables of its chain: all of them go.
        let mut some = false;
        loop {
            match found {
                // Back into its pair first, which is then deleted.
                Found::Live(place, _) if place.slot.record().is_some() => {
                    memory()?;
                    self.take_back(&place)?;
                }
                Found::Live(place, _) => {
                    self.settle_epoch(&place)?;
                    let sum = self.sum_of(&place, key)?;
                    self.write_deleted(&place, sum)?;
                    some = true;
                }
                Found::Damaged(place) => {
                    memory()?;
                    self.drop_pair(&place)?;
                    some = true;
                }
                Found::Absent => {
                    self.put_right(slot)?;
                    return Ok(some);
                }
            }
            found = self.find(key)?;
        }
    }

    /// A chain that is about to change is put right where its pairs are not as their slots say: who does
    /// not look at the copies would find what such a pair held before what is put behind it. `true`:
    /// something has changed, look again.
    fn put_right(&mut self, slot: u16) -> Result<bool> {
        if !self.doubtful[slot as usize] {
            return Ok(false);
        }
        let mut some = self.fold()?;
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
                    self.store_word(&place, word)?;
                }
                _ => {
                    let sum = pair.verdict(place.slot.word.side()).sum;
                    self.write_deleted(&place, sum)?;
                }
            }
            some = true;
        }
        self.doubtful[slot as usize] = false;
        Ok(some)
    }

    /// [`Sums::ours`] of the copy that the slot of this key names.
    fn sum_of(&self, place: &Place, key: &Key) -> Result<u32> {
        if let Some(sum) = place.slot.word.sum() {
            return Ok(sum);
        }
        let at = place.slot.word.side().offset(place.pair);
        let field = at + block::VALUE_SIZE as u64;
        let size = (self.store.load(field)? as u32 as usize).min(block::VALUE_LEN);
        let table = self.store.load(at + block::TABLE as u64)?;
        let sum_in = |from_size_on: &mut [u8]| {
            self.store.read(field, from_size_on)?;
            let value = &from_size_on[4..];
            Ok(block::sum_of_copy(key.bytes(), value, size, table))
        };
        let n = 4 + size.max(1);
        if n <= 128 {
            return sum_in(&mut [0; 128][..n]);
        }
        sum_in(&mut [0; 4 + block::VALUE_LEN][..n])
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

    /// First change of a life: the file is marked, on the medium, before anything else is stored. So is what a recovery
    /// has found to be whole.
    pub(crate) fn begin_change(&mut self) -> Result<()> {
        let recovered = self.st().recovered.load(Relaxed) != 0;
        match self.st().phase.load(Relaxed) {
            phase::CHANGED => return self.survey_once(),
            phase::MARKING if recovered => {
                self.mark()?;
                return self.survey_once();
            }
            _ => {}
        }
        self.store.fill_holes()?;
        // Tables that contradict each other are found out before they are trusted with more.
        let mut whole = true;
        self.each_slot(|_, _, slot| {
            whole &= slot.is_whole();
            Ok(())
        })?;
        match self.survey() {
            Ok(used) if whole => self.clear_loose(&used)?,
            Ok(_) | Err(Error::Corrupt(_)) => {
                self.recover(false)?;
                return self.survey_once();
            }
            Err(e) => return Err(e),
        }
        // Who died in a close can have left the place of a log that was.
        self.st().log_next.store(0, Relaxed);
        self.st().log.store(0, Relaxed);
        let (before, len) = (self.st().phase.load(Relaxed), self.store.len()?);
        self.st().phase.store(phase::MARKING, Relaxed);
        if self.tables.is_empty()
            && let Err(e) = self.append_table()
        {
            // Without room for one nothing has changed.
            if self.st().intent.load(Relaxed) == 0 && self.truncate(len).is_ok() {
                self.st().phase.store(before, Relaxed);
            }
            return Err(e);
        }
        self.mark()
    }

    /// What no table of a closed file names was lost for everybody who has read it since: it must not
    /// come back, nor stand in the way of new pairs, which are written into zeros.
    fn clear_loose(&mut self, used: &Used) -> Result<()> {
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
            self.survey_free(used)?;
        }
        Ok(())
    }

    /// Marks the file as changed. Both marks may reach the medium in any order: nothing else has
    /// changed yet.
    pub(crate) fn mark(&mut self) -> Result<()> {
        self.store.store(header::CLOSE_FAILED, 1)?;
        self.store.store(header::CLOSE_OK, 0)?;
        if let Some(&first) = self.tables.first() {
            if self.store.load(first + table::LOG)? != 0 {
                self.store.store(first + table::LOG, 0)?;
            }
            self.store.store(first + table::CHECKSUM, table::MARK)?;
        }
        self.sync()?;
        self.st().phase.store(phase::CHANGED, Relaxed);
        Ok(())
    }

    /// Into the log, or into the pair.
    fn overwrite(
        &mut self,
        (mut place, mut current): (Place, Side),
        key: &Key,
        value: &[u8],
        ahead: Ahead,
        memory: impl Fn() -> Result<()>,
    ) -> Result<()> {
        let word = place.slot.word;
        let Ahead { sums, is_tidy } = ahead;
        let differs = sums.is_some_and(|s| word.sum().is_some_and(|old| old != s.ours));
        if !differs && self.is_no_change(&place, current, value)? {
            return self.turn(&place, current, key);
        }
        if !self.is_settled(&place) {
            if self.append(&place, key, value)? {
                return Ok(());
            }
            memory()?;
            if self.may_log(&place, value)? && self.turn_log()? {
                place = self.place(place.table, place.index)?;
                if self.append(&place, key, value)? {
                    return Ok(());
                }
            }
            self.settle_pair(&place, value)?;
            place = self.place(place.table, place.index)?;
            current = place.slot.word.side();
        }
        let tidy = match is_tidy {
            true => sums,
            false => self.tidy_sums(&place, current.other(), key, value, sums)?,
        };
        if tidy.is_none() {
            memory()?;
        }
        let turned = place.slot.word.is_turned();
        self.begin_intent(place.at, place.pair, intent::PAIR);
        self.write_over(&place, current, key, value, turned, tidy)?;
        self.end_intent();
        Ok(())
    }

    /// Whether the current copy of a pair holds this value already.
    fn is_no_change(&self, place: &Place, current: Side, value: &[u8]) -> Result<bool> {
        let known = self.sizes.covers_all() && self.is_checked(place.pair);
        if !known || place.slot.record().is_some() || value.is_empty() {
            return Ok(false);
        }
        let field = current.offset(place.pair) + block::VALUE_SIZE as u64;
        for i in 0..(4 + value.len()).div_ceil(8) {
            if self.store.load(field + 8 * i as u64)? != block::value_word(value, i) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A put of the value that is there: only which copy the close makes current is another.
    fn turn(&self, place: &Place, current: Side, key: &Key) -> Result<()> {
        let word = place.slot.word;
        let word = match word.is_tagged() {
            true => word,
            false => self.old_word(current, self.sum_of(place, key)?),
        };
        let word = word.turned(!word.is_turned());
        self.store_word(place, word)
    }

    /// The value goes to the copy that is not current; the slot's word makes it count. `turned`: see
    /// [`Word::is_turned`]; `tidy`: what [`Engine::tidy_sums`] answers of that copy.
    pub(super) fn write_over(
        &mut self,
        place: &Place,
        current: Side,
        key: &Key,
        value: &[u8],
        turned: bool,
        tidy: Option<Sums>,
    ) -> Result<()> {
        let side = current.other();
        if let Some(sums) = tidy {
            return self.overwrite_tidy(place, side, key, value, turned, sums);
        }
        let number = place.table as u64;
        let mut block = RawBlock::new(self.sizes, side, true, key.bytes(), value, number);
        block.mark_empty(self.sizes);
        // This copy is written whole; an empty value has a mark behind it.
        let tidy = self.tidy.has(place.pair) && !value.is_empty();
        self.set_checked(place.pair, false);
        let end = self.begins_live(side, place.pair)?;
        self.write_copy(place.pair, side, &block, end)?;
        let word = Word::tagged(side, self.epoch(), block.sum()).turned(turned);
        self.store_word(place, word)?;
        self.set_checked(place.pair, true);
        self.tidy.set(place.pair, tidy);
        Ok(())
    }

    /// The sums of a copy whose overwrite needs to store the value only; `None`: more is needed. `sums`: those, if they are
    /// known.
    pub(super) fn tidy_sums(
        &self,
        place: &Place,
        side: Side,
        key: &Key,
        value: &[u8],
        sums: Option<Sums>,
    ) -> Result<Option<Sums>> {
        if !self.may_be_tidy(place.pair, value) || !self.is_live_copy(side, place.pair, key)? {
            return Ok(None);
        }
        let number = place.table as u64;
        Ok(sums.or_else(|| Some(Sums::of(key.bytes(), value, number))))
    }

    /// What of that can be told without touching the pair.
    fn may_be_tidy(&self, pair: u64, value: &[u8]) -> bool {
        // An empty value is written with a mark behind it.
        self.sizes.covers_all() && !value.is_empty() && self.tidy.has(pair)
    }

    /// Whether a copy of a tidy pair is a live one of this key, and not the deleted record that was in its
    /// place.
    fn is_live_copy(&self, side: Side, pair: u64, key: &Key) -> Result<bool> {
        let field = side.offset(pair) + block::KEY as u64;
        Ok(self.begins_live(side, pair)? && self.store.holds(field, key)?)
    }

    /// [`Engine::write_over`] where key, table number and all that lies behind the longer of both values
    /// are as they have to be. The order of stores is that of [`Engine::write_copy`].
    fn overwrite_tidy(
        &mut self,
        place: &Place,
        side: Side,
        key: &Key,
        value: &[u8],
        turned: bool,
        sums: Sums,
    ) -> Result<()> {
        let at = side.offset(place.pair);
        let field = at + block::VALUE_SIZE as u64;
        let old = self.store.load(field)? as u32 as usize;
        // From the size on: as much as the old and the new value fill.
        let words = (4 + old.min(block::VALUE_LEN).max(value.len())).div_ceil(8);
        let in_first = words.min((SECTOR as usize - block::VALUE_SIZE) / 8);
        self.store
            .store(at + block::CHECKSUM as u64, block::WRITING)?;
        self.store_field(field, in_first..words, value)?;
        self.store_field(field, 0..in_first, value)?;
        self.store
            .store(at + block::CHECKSUM as u64, u64::from(sums.checksum))?;
        let word = Word::tagged(side, self.epoch(), sums.ours).turned(turned);
        self.store_word(place, word)?;
        self.index.set_current(place, print_of(key.hash()), side);
        Ok(())
    }

    /// Into the pair of a deleted slot. Either [`Engine::put_again_in_a`], or B first, while the good deleted
    /// A still decides, then A.
    fn put_again(
        &mut self,
        place: &Place,
        key: &Key,
        value: &[u8],
        memory: impl Fn() -> Result<()>,
    ) -> Result<()> {
        self.store.fetch(place.pair, block::FRONT);
        if !self.tidy.has(place.pair) {
            memory()?;
        }
        self.settle_epoch(place)?;
        self.claim(slot_ends(place))?;
        if self.put_again_in_a(place, key, value)? {
            return Ok(());
        }
        memory()?;
        let number = place.table as u64;
        let mut block = RawBlock::new(self.sizes, Side::B, true, key.bytes(), value, number);
        block.mark_empty(self.sizes);
        self.begin_intent(place.at, place.pair, intent::PAIR);
        self.set_checked(place.pair, false);
        // The end delimiters stay deleted until the close: one of them beside older contents would
        // bring those back.
        self.write_copy(place.pair, Side::B, &block, false)?;
        block.set_delimiters(Side::A, true);
        if self.is_before_others(place)? {
            self.prepare_a(place, &block)?;
        }
        self.write_copy(place.pair, Side::A, &block, false)?;
        let word = Word::tagged(Side::A, self.epoch(), block.sum());
        self.commit(place, key, word.of_both())
    }

    /// A alone, within one sector, start delimiter last: until then it is deleted or bad, and the deleted B
    /// decides; from then on it is whole. B follows with the next overwrite or at the close. `false`, and nothing is
    /// done: not both copies are good, or not all of A that its old value or this one fills lies in its first sector.
    fn put_again_in_a(&mut self, place: &Place, key: &Key, value: &[u8]) -> Result<bool> {
        let room = SECTOR as usize - block::VALUE;
        let fits = self.sizes.covers_all() && (1..=room).contains(&value.len());
        if !fits || !place.slot.is_deleted() {
            return Ok(false);
        }
        let (at, number) = (place.pair, place.table as u64);
        // Before the pair is touched, which may still be on its way.
        let sums = Sums::of(key.bytes(), value, number);
        if !self.tidy.has(at) {
            let pair = self.pair_of(place)?;
            let deleted = |v: &Verdict| v.good && v.kind == Kind::Deleted;
            let tidy = pair.verdicts.iter().all(deleted) && pair.is_tidy(place.table);
            self.tidy.set(at, tidy);
        }
        let field = at + block::VALUE_SIZE as u64;
        let old = self.store.load(field)? as u32 as usize;
        if !self.tidy.has(at) || old > room {
            return Ok(false);
        }
        let words = (4 + old.max(value.len())).div_ceil(8);
        self.begin_intent(place.at, at, intent::PAIR);
        self.store
            .store(at + block::CHECKSUM as u64, block::WRITING)?;
        self.store_key(at, key)?;
        self.store_field(field, 0..words, value)?;
        self.store
            .store(at + block::CHECKSUM as u64, u64::from(sums.checksum))?;
        self.store.store(at, Side::A.delimiters(true).0)?;
        let word = Word::tagged(Side::A, self.epoch(), sums.ours);
        self.commit(place, key, word)?;
        Ok(true)
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
        let word = Word::tagged(Side::B, self.epoch(), block.sum());
        self.store_word(place, word)?;
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

    /// A new pair, into zeros: without its start delimiters it is nothing. The end delimiters follow at the close.
    /// `table`, `index`: of its slot, which is unused.
    fn put_new(&mut self, (table, index): (usize, u16), key: &Key, value: &[u8]) -> Result<()> {
        let at = table::slot_offset(self.tables[table], index);
        self.store.fetch(at, slot::SIZE as usize);
        let (pair, in_gap) = self.room_for_pair()?;
        let place = Place {
            table,
            index,
            at,
            slot: Slot::default(),
            pair,
        };
        self.claim(slot_ends(&place))?;
        self.begin_intent(place.at, pair, intent::PAIR);
        if !in_gap {
            self.st().end.store(pair + PAIR, Relaxed);
        }
        let written = self.write_new_pair(pair, key.bytes(), value, place.table as u64, true);
        if written.is_err() && !in_gap {
            // As it was. Zeros could not be stored into pages that the medium has no room for. The end of the log has
            // ended what was under way.
            self.end_log()?;
            self.begin_intent(place.at, pair, intent::PAIR);
            self.st().end.store(pair, Relaxed);
            self.truncate(pair)?;
            self.end_intent();
        }
        let sum = written?;
        if in_gap {
            self.st().gap_count.fetch_sub(1, Relaxed);
        }
        let word = Word::tagged(Side::A, self.epoch(), sum);
        self.commit(&place, key, word.of_both())
    }
}
