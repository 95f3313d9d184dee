//! The close: the file becomes what the original would have left.
//!
//! 1. What is in the redo log goes into its pairs, after a sync of its own. Sync: every current copy is on the medium, so
//!    the other one is free.
//! 2. The other copy of every changed pair becomes like the current one, end delimiters follow;
//!    of a deleted pair copy B first. Sync, if a pair has something left for step 3, or its current copy is to be the
//!    other one, or its end delimiters are what tells that its slot is whole.
//! 3. The end of a B that was a deleted record until step 2, and a sync if A of such a pair has something left;
//!    copy A of deleted pairs and of empty values that carry a mark; slots lose their tags, tables get their
//!    checksums, all but table 0's; the file gets its length. Sync.
//! 4. The checksum of table 0 and the flags. Sync. One without the other: nothing has to be
//!    recovered then, and nothing is lost if somebody does.

use super::copies::SECTOR;
use super::state::phase;
use super::survey::ByPair;
use super::{Engine, Outcome, Pair, Place, State, Storage};
use crate::error::{Error, Result};
use crate::format::block::{self, RawBlock, Side};
use crate::format::slot::{Slot, Word};
use crate::format::{PAGE, header, put_u64, table, u64_at};
use std::sync::atomic::Ordering::Relaxed;

/// What step 2 has left for step 3.
enum Late {
    /// The end delimiter of a live copy that has only just become one.
    End(Side),
    /// The copy that decided until now becomes like the one of step 2.
    Copy(Side),
}

/// Table and index of a slot.
type LateSlot = (usize, u16, Late);

impl<S: Storage, H: AsRef<State>> Engine<S, H> {
    /// Leaves a clean file on the medium. Does nothing if nothing was changed.
    ///
    /// # Errors
    /// [`crate::Error::Io`]: the file stays marked as changed.
    pub fn settle(&mut self) -> Result<()> {
        match self.st().phase.load(Relaxed) {
            phase::CHANGED => self.ready()?,
            phase::MARKING => {
                self.ready()?;
                self.begin_change()?;
            }
            _ => return Ok(()),
        }
        self.st().closes.fetch_add(1, Relaxed);
        if self.st().recovered.load(Relaxed) != 0 {
            self.touch_all()?;
        }
        self.fold_pairs()?;
        self.sync()?;
        self.announce();
        let (late, waits) = self.settle_pairs()?;
        if waits || !late.is_empty() {
            self.sync()?;
        }
        self.settle_late(&late)?;
        // All pairs are as they will be. Whoever goes on from here, should we die, marks the file again before he changes
        // anything, and clears what lies behind its end.
        self.st().recovered.store(0, Relaxed);
        self.st().phase.store(phase::MARKING, Relaxed);
        self.st().log_next.store(0, Relaxed);
        self.st().log.store(0, Relaxed);
        self.settle_tables()?;
        self.survey()?;
        let end = self.st().end.load(Relaxed).max(PAGE);
        if self.store.len()? != end {
            self.truncate(end)?;
        }
        self.sync()?;
        if let Some(&first) = self.tables.first() {
            let sum = self.raw_table(first)?.checksum();
            self.store.store(first + table::CHECKSUM, sum)?;
        }
        self.write_clean()
    }

    /// The flags of a clean file, and a life in which nothing has been changed.
    pub(crate) fn write_clean(&mut self) -> Result<()> {
        self.store.store(header::CLOSE_FAILED, 0)?;
        self.store.store(header::CLOSE_OK, 1)?;
        self.sync()?;
        self.st().recovered.store(0, Relaxed);
        self.st().phase.store(phase::CLEAN, Relaxed);
        Ok(())
    }

    /// After a recovery that did not read every pair: reads the rest, so that a clean file has
    /// nothing torn in it.
    fn touch_all(&mut self) -> Result<()> {
        let mut pos = super::Position::default();
        let mut field = [0; block::KEY_LEN];
        while self.next_entry(&mut pos, &mut field, None)? {}
        Ok(())
    }

    /// Step 2. Answers the slots that have something left for step 3, and whether step 3 has to wait: it names copies that step 2
    /// has written, or takes a tag that stands for end delimiters.
    fn settle_pairs(&mut self) -> Result<(Vec<LateSlot>, bool)> {
        let all = self.st().recovered.load(Relaxed) != 0;
        // Damage in a closed file can say that a put has written a slot. Nobody else will look at what it names.
        let changed =
            self.slots_by_pair(|slot| all || slot.word.is_tagged() || slot.is_of_put())?;
        self.settle_ends_of_empty(&changed)?;
        let mut waits = false;
        let mut late = Vec::new();
        let mut later = |t, i, what| {
            late.try_reserve(1).map_err(|_| Error::Memory)?;
            late.push((t, i, what));
            Ok::<_, Error>(())
        };
        for (n, &(_, t, i)) in changed.iter().enumerate() {
            self.fetch_ahead(&changed, n, |place| {
                let [a, b] = [Side::A, Side::B].map(|side| side.offset(place.pair));
                let end = block::END as u64;
                [
                    (a, block::FRONT),
                    (a + end, 8),
                    (b, block::FRONT),
                    (b + end, 8),
                ]
            })?;
            let place = self.place(t, i)?;
            waits |= self.stands_for_ends(&place)?;
            if let Some(new) = self.settle_tidy(&place)? {
                waits |= new && place.slot.word.is_turned();
                continue;
            }
            let Some((place, pair, side, mut block)) = self.settled(t, i)? else {
                continue;
            };
            let live = !place.slot.is_deleted();
            // Of a deleted pair A decides, so B goes first; of a live one that which is not current.
            let first = if live { side.other() } else { Side::B };
            block.set_delimiters(first, live);
            if pair.block(first).0[..] != block.0[..] {
                waits |= place.slot.word.is_turned();
                // B may be the deleted record that was in this place.
                let end = !live || self.begins_live(first, place.pair)?;
                if live {
                    self.revive_a(place.pair, first)?;
                }
                self.write_copy(place.pair, first, &block, end)?;
                if !end {
                    later(t, i, Late::End(first))?;
                }
            }
            let second = first.other();
            let mut now = pair.block(second).clone();
            if live {
                let (start, end) = second.delimiters(true);
                self.store.store(second.offset(place.pair), start)?;
                self.store
                    .store(second.offset(place.pair) + block::END as u64, end)?;
                now.set_delimiters(second, true);
            }
            block.set_delimiters(second, live);
            if now.0[..] != block.0[..] {
                later(t, i, Late::Copy(second))?;
            }
        }
        Ok((late, waits))
    }

    /// Whether only the tag of this slot's word tells, after a power cut, that a put had got as far as that: the pair has no end
    /// delimiters yet, and not all of the value lies in the first sector ([`Pair::after_a_cut`]).
    fn stands_for_ends(&self, place: &Place) -> Result<bool> {
        if !place.slot.is_of_put() || place.pair == 0 {
            return Ok(false);
        }
        for side in [Side::A, Side::B] {
            let at = side.offset(place.pair);
            let ended = self.store.load(at + block::END as u64)? == side.delimiters(true).1;
            let size = self.store.load(at + block::VALUE_SIZE as u64)? as u32;
            if !ended && block::VALUE as u64 + u64::from(size) > SECTOR {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Step 2 for a live pair of which only the value can differ between the copies, and whether it did; `None`: it is
    /// another case. The order of stores is that of [`Engine::write_copy`].
    fn settle_tidy(&self, place: &Place) -> Result<Option<bool>> {
        let known = self.sizes.covers_all() && place.slot.word.is_tagged();
        if !known || place.slot.is_deleted() || !self.tidy.has(place.pair) {
            return Ok(None);
        }
        let side = place.slot.word.side();
        let from = side.offset(place.pair);
        let to = side.other().offset(place.pair);
        // Or it is the deleted record that was in this place.
        if self.store.load(to)? != side.other().delimiters(true).0
            || !self.is_same(
                from + block::KEY as u64,
                to + block::KEY as u64,
                block::KEY_LEN,
            )?
        {
            return Ok(None);
        }
        let size = |at: u64| -> Result<usize> {
            let word = self.store.load(at + block::VALUE_SIZE as u64)?;
            Ok((word as u32 as usize).min(block::VALUE_LEN))
        };
        let (new, old) = (size(from)?, size(to)?);
        if new == 0 {
            return Ok(None);
        }
        let n = (4 + new.max(old)).next_multiple_of(8);
        let field = block::VALUE_SIZE as u64;
        let same = self.is_same(from + field, to + field, n)?;
        if !same {
            let first = n.min(SECTOR as usize - block::VALUE_SIZE);
            let sum = self.store.load(from + block::CHECKSUM as u64)?;
            self.store
                .store(to + block::CHECKSUM as u64, block::WRITING)?;
            for part in [first..n, 0..first] {
                for at in part.step_by(8) {
                    let word = self.store.load(from + field + at as u64)?;
                    self.store.store(to + field + at as u64, word)?;
                }
            }
            self.store.store(to + block::CHECKSUM as u64, sum)?;
        }
        for side in [Side::A, Side::B] {
            // Another process may have used the pair again, which leaves them for now.
            let at = side.offset(place.pair) + block::END as u64;
            let end = side.delimiters(true).1;
            if self.store.load(at)? != end {
                self.store.store(at, end)?;
            }
        }
        Ok(Some(!same))
    }

    fn is_same(&self, one: u64, other: u64, len: usize) -> Result<bool> {
        let mut parts = [[0; SECTOR as usize]; 2];
        for at in (0..len).step_by(SECTOR as usize) {
            let n = (len - at).min(SECTOR as usize);
            for (part, from) in parts.iter_mut().zip([one, other]) {
                self.store.read(from + at as u64, &mut part[..n])?;
            }
            if parts[0][..n] != parts[1][..n] {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// An empty copy is about to lose the byte that tells it from a torn delete: before that its end
    /// delimiter must be live on the medium.
    fn settle_ends_of_empty(&mut self, changed: &[ByPair]) -> Result<()> {
        let mut some = false;
        for &(_, t, i) in changed {
            let place = self.place(t, i)?;
            let side = place.slot.word.side();
            if place.pair == 0
                || place.slot.is_deleted()
                || self
                    .store
                    .load(side.offset(place.pair) + block::VALUE_SIZE as u64)?
                    as u32
                    != 0
            {
                continue;
            }
            for side in [Side::A, Side::B] {
                let (start, end) = side.delimiters(true);
                let at = side.offset(place.pair);
                if self.store.load(at)? == start && self.store.load(at + block::END as u64)? != end
                {
                    self.store.store(at + block::END as u64, end)?;
                    some = true;
                }
            }
        }
        if some {
            self.sync()?;
        }
        Ok(())
    }

    /// Step 3, the pairs. Nobody judges again: what step 2 wrote may have settled a doubt in which the copy
    /// was chosen.
    fn settle_late(&mut self, late: &[LateSlot]) -> Result<()> {
        let mut ended = None;
        let mut waits = false;
        for (t, i, what) in late {
            match what {
                Late::End(side) => {
                    let at = side.offset(self.place(*t, *i)?.pair) + block::END as u64;
                    self.store.store(at, side.delimiters(true).1)?;
                    ended = Some((*t, *i));
                }
                Late::Copy(_) => waits |= ended == Some((*t, *i)),
            }
        }
        if waits {
            // An empty copy that still ends as a deleted one looks like a torn delete: the other one must not change yet.
            self.sync()?;
        }
        for (t, i, what) in late {
            if let Late::Copy(second) = what {
                let place = self.place(*t, *i)?;
                let mut block = RawBlock::zeroed();
                self.store
                    .read(second.other().offset(place.pair), &mut block.0[..])?;
                block.set_delimiters(*second, !place.slot.is_deleted());
                self.write_copy(place.pair, *second, &block, true)?;
            }
        }
        Ok(())
    }

    /// A used slot, its pair, the copy that counts, and a block with what both copies shall hold.
    fn settled(&self, t: usize, i: u16) -> Result<Option<(Place, Pair, Side, RawBlock)>> {
        let place = self.place(t, i)?;
        if place.pair == 0 {
            return Ok(None);
        }
        let pair = self.pair_of(&place)?;
        let (side, live) = match pair.outcome(Some(place.slot.word)) {
            Outcome::Live(side) => (side, true),
            Outcome::Deleted(side) => (side, false),
            Outcome::Damaged => return Ok(None),
        };
        if live == place.slot.is_deleted() {
            return Ok(None);
        }
        let from = pair.block(side);
        let value = if live { from.value(self.sizes) } else { b"" };
        let block = RawBlock::new(self.sizes, side, live, from.key(), value, t as u64);
        Ok(Some((place, pair, side, block)))
    }

    /// Step 3, the tables: what they say in a clean file.
    fn settle_tables(&mut self) -> Result<()> {
        let len = self.store.len()?;
        for (t, &at) in self.tables.iter().enumerate() {
            let mut raw = self.raw_table(at)?;
            for i in 0..self.sizes.slots {
                let slot = raw.slot(i);
                let clean = match slot.pair(len) {
                    _ if slot.is_unused() => continue,
                    None => slot,
                    Some(pair) if slot.is_deleted() => Slot::deleted(pair, Word::clean(Side::A)),
                    Some(pair) => Slot::live(pair, Word::clean(slot.word.last_side())),
                };
                raw.set_slot(i, clean);
            }
            if t == 0 {
                put_u64(&mut raw.0, table::LOG as usize, 0);
            }
            let sum = if t == 0 { table::MARK } else { raw.checksum() };
            put_u64(&mut raw.0, table::CHECKSUM as usize, sum);
            put_u64(&mut raw.0, 0, table::START_DELIMITER);
            put_u64(&mut raw.0, table::END as usize, table::END_DELIMITER);
            self.replace(at, table::SIZE, |i| u64_at(&raw.0, i))?;
        }
        Ok(())
    }
}
