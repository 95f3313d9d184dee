//! Recovery of a file that was not closed.
//!
//! A file that this library left (table 0 marked) has slots that are up to date: it is enough to
//! read tables, links, the pairs of deleted slots and what lies loose. Every other pair is checked
//! when it is first touched. Any sign that the original was there after us means a walk over the
//! whole file ([`super::walk`]), and so does any contradiction. Where nothing has to be mended nothing is synced: that is
//! left to the first change.

use super::copies::is_across_sectors;
use super::index::{self, print_of};
use super::state::{intent, phase};
use super::{Engine, Outcome, Pair, Place, State, Storage};
use crate::error::{Error, Result};
use crate::format::block::{self, PAIR, RawBlock, Side};
use crate::format::key::Key;
use crate::format::slot::{Slot, Word};
use crate::format::table::{self, RawTable};
use crate::format::{PAGE, hash, header};
use std::sync::atomic::Ordering::Relaxed;

/// What lies where no slot names anything.
enum Loose {
    /// Offset and bytes of what is not zero: a pair that may be whole, or a page.
    Parts(Vec<(u64, u64)>),
    /// Something that the original has written.
    Foreign,
    /// What begins like a table.
    Table(u64),
}

/// What a deleted or torn slot and its pair need.
enum Doubt {
    Nothing,
    /// Neither copy can be believed.
    Drop,
    /// Slot and pair are to say this; whether the copies have to be finished.
    Finish(Pair, Outcome, bool),
    /// The original was here, or the slot is another key's.
    Foreign,
}

/// So many tables that no link leads to are taken in one by one, each with a look at everything. With more of them a walk is quicker.
const LOOSE_TABLES: u32 = 32;

impl<S: Storage, H: AsRef<State>> Engine<S, H> {
    /// Brings the file into order; afterwards it is marked as changed, or will be before the first change.
    pub(crate) fn recover(&mut self, marked: bool) -> Result<()> {
        self.tell_recovery(marked);
        self.rearrange();
        if !marked {
            self.move_strays()?;
        }
        // The file may end anywhere; from here on it has whole pages.
        self.grow(self.store.len()?.next_multiple_of(PAGE))?;
        let before = self.st().recovered.swap(1, Relaxed);
        if !marked {
            return self.walk().inspect_err(|_| {
                // It could not begin: the file is served as it is.
                if self.st().walking.load(Relaxed) == 0 {
                    self.st().recovered.store(before, Relaxed);
                }
            });
        }
        let mut synced = false;
        if self.named_log()? != 0 {
            self.sync_once(&mut synced)?;
        }
        self.redo()?;
        if !self.recover_marked(&mut synced, LOOSE_TABLES)? {
            return self.walk();
        }
        self.tidy_up(&mut synced)?;
        // The header may say clean: power went before it had reached the medium, or right behind
        // the end of a close.
        if synced || !self.says_changed()? {
            return self.mark();
        }
        // Nothing had to be mended. The first change syncs.
        self.st().phase.store(phase::MARKING, Relaxed);
        Ok(())
    }

    /// What dead processes stored is in memory, perhaps not on the medium: it has to be before anything is mended.
    fn sync_once(&mut self, synced: &mut bool) -> Result<()> {
        if !*synced {
            self.sync()?;
            *synced = true;
        }
        Ok(())
    }

    /// Makes tables and slots anew from what lies in the file, in whatever state it is.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn rebuild(&mut self) -> Result<()> {
        self.ready()?;
        self.recover(false)
    }

    /// Whether the flags say already that the file is being changed.
    fn says_changed(&self) -> Result<bool> {
        let failed = self.store.load(header::CLOSE_FAILED)?;
        Ok(failed == 1 && self.store.load(header::CLOSE_OK)? == 0)
    }

    /// `false`: this file has to be walked. `more`: so many tables can still be taken in.
    fn recover_marked(&mut self, synced: &mut bool, more: u32) -> Result<bool> {
        let (tables, whole) = self.chain()?;
        if !whole || tables.is_empty() {
            return Ok(false);
        }
        for &t in &tables {
            if self.store.load(t)? != table::START_DELIMITER
                || self.store.load(t + table::END)? != table::END_DELIMITER
            {
                return Ok(false);
            }
        }
        self.adopt_tables(tables);
        if usize::from(self.sizes.slots) < table::SLOTS && self.tables.len() > 1 {
            self.sync_once(synced)?;
            for n in 1..self.tables.len() {
                // In both places, of which only one may have arrived.
                self.set_link(self.tables[n - 1], self.tables[n])?;
            }
        }
        let doubtful = self.doubtful_slots(synced)?;
        let Ok(used) = self.used() else {
            return Ok(false);
        };
        let looked_at = doubtful.len();
        // All is looked at before anything is changed: a walk must find the file as it was.
        let mut repairs = Vec::new();
        for (t, i) in doubtful {
            match self.doubt(&self.place(t, i)?)? {
                Doubt::Nothing => {}
                Doubt::Drop | Doubt::Finish(..) => repairs.push((t, i)),
                Doubt::Foreign => return Ok(false),
            }
        }
        let mut free = used.free();
        free.push((used.end(), self.store.len()?.saturating_sub(used.end())));
        let mut loose = Vec::new();
        for (at, len) in free {
            match self.loose(at, len)? {
                Loose::Parts(parts) => loose.extend(parts),
                Loose::Foreign => return Ok(false),
                Loose::Table(p) => {
                    self.sync_once(synced)?;
                    // Its slots count from now on, so everything is looked at once more.
                    let Some(more) = more.checked_sub(1) else {
                        return Ok(false);
                    };
                    return Ok(self.adopt_table(p)? && self.recover_marked(synced, more)?);
                }
            }
        }
        if !repairs.is_empty() || !loose.is_empty() {
            self.sync_once(synced)?;
        }
        for (t, i) in repairs {
            let place = self.place(t, i)?;
            match self.doubt(&place)? {
                Doubt::Drop => self.drop_pair(&place)?,
                Doubt::Finish(pair, outcome, unfinished) => {
                    self.end_doubt(&place, &pair, outcome, unfinished)?;
                }
                Doubt::Nothing | Doubt::Foreign => {}
            }
        }
        for (at, len) in loose {
            self.recover_loose(at, len)?;
        }
        self.tell_recovered(looked_at);
        Ok(true)
    }

    /// A table that is durable, whose link is not: pairs behind it may name it, so it stays. One of which a part has arrived is
    /// nothing yet.
    fn adopt_table(&mut self, at: u64) -> Result<bool> {
        let mark = self.store.load(at + table::CHECKSUM)?;
        let in_file = at + table::SIZE <= self.store.len()?;
        if in_file && self.store.load(at + table::END)? == 0 && matches!(mark, 0 | table::MARK) {
            let slots = at + table::CHECKSUM + 8;
            if self.is_zero(slots, at + table::SIZE - slots)? {
                self.erase(at, table::SIZE)?;
                return Ok(true);
            }
        }
        let ours = mark == table::MARK;
        match self.tables.last() {
            Some(&last) if ours && at > last && in_file => {
                self.set_link(last, at)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Deleted and torn slots. No slot names a record any more. Where the slot of a new pair reached the medium and the
    /// length of the file did not, the put did not happen.
    fn doubtful_slots(&mut self, synced: &mut bool) -> Result<Vec<(usize, u16)>> {
        let len = self.store.len()?;
        let (mut doubtful, mut lost, mut logged) = (Vec::new(), Vec::new(), Vec::new());
        self.each_slot(|t, i, slot| {
            let behind = slot.pair(len).is_none() && slot.pair(i64::MAX as u64).is_some();
            let list = match behind {
                true => &mut lost,
                false if slot.is_deleted() || !slot.is_whole() => &mut doubtful,
                false if slot.record().is_some() => &mut logged,
                false => return Ok(()),
            };
            list.try_reserve(1).map_err(|_| Error::Memory)?;
            list.push((t, i));
            Ok(())
        })?;
        if !lost.is_empty() || !logged.is_empty() {
            self.sync_once(synced)?;
        }
        for (t, i) in lost {
            let place = self.place(t, i)?;
            self.write_slot(&place, Slot::default(), index::UNUSED)?;
        }
        for (t, i) in logged {
            self.name_b(&self.place(t, i)?)?;
        }
        Ok(doubtful)
    }

    /// Takes over a list of tables that others must learn of.
    pub(crate) fn adopt_tables(&mut self, tables: Vec<u64>) {
        self.st().tables.store(tables.len() as u64, Relaxed);
        self.tables = tables;
        self.rearrange();
    }

    /// As [`Engine::pair_of`], of a pair that nobody has looked at since the file was recovered.
    pub(super) fn pair_after_a_cut(&self, place: &Place) -> Result<Pair> {
        let pair = self.pair_of(place)?;
        Ok(pair.after_a_cut(&place.slot, self.sizes))
    }

    /// A deleted or torn slot: the copies carry the truth.
    fn doubt(&self, place: &Place) -> Result<Doubt> {
        let pair = self.pair_after_a_cut(place)?;
        let outcome = pair.outcome(Some(place.slot.word));
        let live = match outcome {
            Outcome::Live(_) => true,
            Outcome::Deleted(_) => false,
            Outcome::Damaged => return Ok(Doubt::Drop),
        };
        if live && place.slot.is_deleted() {
            // A delete of ours, or one of which the word has not arrived.
            let word = place.slot.word;
            let ours = pair.holds(word) || !word.is_tagged() && is_across_sectors(place.at);
            let whole = [Side::A, Side::B]
                .into_iter()
                .all(|s| pair.block(s).delimiters() == s.delimiters(true));
            if whole && !ours {
                return Ok(Doubt::Foreign);
            }
        }
        if pair.is_foreign(outcome, place.index, self.sizes) {
            return Ok(Doubt::Foreign);
        }
        let unfinished = pair.is_unfinished(outcome);
        // The word of a put that was undone must not be there when the rest of the slot of the next one arrives.
        let stale = place.slot.is_deleted() && place.slot.word.is_of_live();
        if unfinished || stale || live == place.slot.is_deleted() || !place.slot.is_whole() {
            return Ok(Doubt::Finish(pair, outcome, unfinished));
        }
        Ok(Doubt::Nothing)
    }

    fn end_doubt(
        &mut self,
        place: &Place,
        pair: &Pair,
        outcome: Outcome,
        unfinished: bool,
    ) -> Result<()> {
        let (side, slot) = match outcome {
            Outcome::Live(side) => (side, Slot::live as fn(u64, Word) -> Slot),
            Outcome::Deleted(side) => (side, Slot::deleted as _),
            Outcome::Damaged => return Ok(()),
        };
        if unfinished {
            self.finish(pair, outcome)?;
        }
        let word = Word::tagged(side, self.epoch(), pair.verdict(side).sum);
        self.write_slot(place, slot(place.pair, word), index::NOTHING)
    }

    /// A word for a pair that was changed, but before the last sync.
    pub(crate) fn old_word(&self, side: Side, sum: u32) -> Word {
        Word::tagged(side, self.epoch().wrapping_sub(1), sum)
    }

    /// What is not zero in a range that no slot names.
    fn loose(&self, at: u64, len: u64) -> Result<Loose> {
        let mut parts = Vec::new();
        let mut p = self.next_page(at)?;
        while p < at + len {
            if self.is_zero(p, PAGE)? {
                p = self.next_page(p + PAGE)?;
                continue;
            }
            if self.store.load(p)? == table::START_DELIMITER {
                // Only a table of ours that the last link did not reach is dealt with here.
                return Ok(Loose::Table(p));
            }
            let pair = self.read_pair(p)?;
            let end = |side: Side| {
                let word = self.store.load(side.offset(p) + block::END as u64);
                word.map(|w| w == side.delimiters(true).1 || w == side.delimiters(false).1)
            };
            if pair.verdicts.iter().any(|v| v.good) && (end(Side::A)? || end(Side::B)?) {
                return Ok(Loose::Foreign);
            }
            let whole = matches!(pair.outcome(None), Outcome::Live(_)) && p + PAIR <= at + len;
            let bytes = if whole { PAIR } else { PAGE };
            parts.try_reserve(1).map_err(|_| Error::Memory)?;
            parts.push((p, bytes.min(at + len - p)));
            p += bytes;
        }
        Ok(Loose::Parts(parts))
    }

    /// The next page from this one on that is no hole.
    fn next_page(&self, page: u64) -> Result<u64> {
        let data = self.store.next_data(page)?;
        Ok((data - data % PAGE).max(page))
    }

    /// A put that did not get as far as its slot was not on the medium. It is finished if it is surely whole: its slot may
    /// be what is damaged. Else it is undone.
    fn recover_loose(&mut self, at: u64, len: u64) -> Result<()> {
        if len == PAIR {
            let pair = self.read_pair(at)?.only_surely_whole(self.sizes);
            if let Outcome::Live(side) = pair.outcome(None)
                && let Ok(t) = usize::try_from(pair.block(side).table())
                && t < self.tables.len()
            {
                let key = pair.block(side).key();
                let place = self.place(t, hash::slot(key, self.sizes.slots))?;
                if place.slot.is_unused() {
                    let word = self.old_word(side, pair.verdict(side).sum);
                    let print = print_of(hash::djb2(key));
                    self.finish(&pair, Outcome::Live(side))?;
                    return self.write_slot(&place, Slot::live(at, word), print);
                }
            }
        }
        self.erase(at, len)
    }

    /// After recovery: free space is zero, the file ends behind the last thing in use, no chain has a hole.
    pub(crate) fn tidy_up(&mut self, synced: &mut bool) -> Result<()> {
        let used = self.used()?;
        for (at, len) in used.free() {
            self.erase(at, len)?;
        }
        if self.store.len()? != used.end() {
            self.truncate(used.end())?;
            self.grow(used.end())?;
        }
        self.survey_free(&used)?;
        let holes = self.holes()?;
        if !holes.is_empty() {
            self.sync_once(synced)?;
        }
        for (t, i) in holes {
            let place = self.place(t, i)?;
            self.close_hole(&place)?;
        }
        Ok(())
    }

    /// Unused slots before a used one of their chain. The tables are read one after the other, the last
    /// one first.
    fn holes(&self) -> Result<Vec<(usize, u16)>> {
        let mut holes = Vec::new();
        let mut used = [false; table::SLOTS];
        let mut raw = RawTable::empty();
        for (t, &at) in self.tables.iter().enumerate().rev() {
            self.store.read_by_call(at, &mut raw.0)?;
            for (i, used) in (0..self.sizes.slots).zip(&mut used) {
                if !raw.slot(i).is_unused() {
                    *used = true;
                } else if *used {
                    holes.try_reserve(1).map_err(|_| Error::Memory)?;
                    holes.push((t, i));
                }
            }
        }
        holes.reverse();
        Ok(holes)
    }

    /// Both copies are lost: the place is zeroed, to be used by the next new pair.
    pub(crate) fn drop_pair(&mut self, place: &Place) -> Result<()> {
        self.tell_lost(place.pair);
        self.announce();
        self.set_checked(place.pair, false);
        self.erase(place.pair, PAIR)?;
        self.write_slot(place, Slot::default(), index::UNUSED)?;
        // Before the place is used for another key, to which the old slot would lead.
        self.sync()?;
        self.st().surveyed.store(0, Relaxed);
        let place = Place {
            slot: Slot::default(),
            pair: 0,
            ..*place
        };
        self.close_hole(&place)
    }

    /// The original stops at an unused slot, so none may stand before a used one of its chain: a
    /// deleted pair fills it. Where there is no room the hole stays; this library looks past it.
    fn close_hole(&mut self, hole: &Place) -> Result<()> {
        // The filler's key must belong to this slot, for whoever rebuilds the tables from the pairs. Any will do, also of a damaged pair.
        let mut key = Vec::new();
        for t in hole.table + 1..self.tables.len() {
            let place = self.place(t, hole.index)?;
            if place.pair != 0 {
                let pair = self.pair_of(&place)?;
                let keys = [Side::A, Side::B].map(|side| pair.block(side).key());
                let own = |key: &&[u8]| {
                    Key::new(key).is_some() && hash::slot(key, self.sizes.slots) == hole.index
                };
                if let Some(own) = keys.into_iter().find(own) {
                    key = own.to_vec();
                    break;
                }
            }
        }
        if key.is_empty() {
            return Ok(());
        }
        self.survey_once()?;
        let Ok((pair, in_gap)) = self.room_for_pair() else {
            return Ok(());
        };
        if self.store.allocate(pair, PAIR).is_err() {
            return Ok(());
        }
        self.begin_intent(hole.at, pair, intent::PAIR);
        for side in [Side::B, Side::A] {
            let b = RawBlock::new(self.sizes, side, false, &key, b"", hole.table as u64);
            let at = side.offset(pair);
            // Checksum and delimiters last: a part of this is nothing.
            self.replace(
                at + block::KEY as u64,
                (block::END - block::KEY) as u64,
                |i| crate::format::u64_at(&b.0[..], block::KEY + i),
            )?;
            for i in [block::CHECKSUM, 0, block::END] {
                self.store
                    .store(at + i as u64, crate::format::u64_at(&b.0[..], i))?;
            }
        }
        let st = self.st();
        if in_gap {
            st.gap_count.fetch_sub(1, Relaxed);
        } else {
            st.end.store(pair + PAIR, Relaxed);
        }
        self.write_slot(hole, Slot::deleted(pair, Word(0)), index::DELETED)?;
        self.end_intent();
        Ok(())
    }
}
