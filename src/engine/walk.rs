//! The whole walk: the slots are made anew from the tables and pairs that `scan.rs` finds by their delimiters.

use super::index::print_of;
use super::scan::{Found, Named, Record};
use super::state;
use super::{Engine, Outcome, State, Storage};
use crate::error::{Error, Result};
use crate::format::block::{self, PAIR, RawBlock, Side};
use crate::format::slot::{Slot, Word};
use crate::format::table::{self, RawTable};
use crate::format::{PAGE, hash, header, put_u64, u64_at};
use std::sync::atomic::Ordering::{AcqRel, Relaxed, Release};

/// Which record each slot holds, table after table; 0 is none, n is record n-1.
struct Slots {
    slots: usize,
    at: Vec<u32>,
}

impl Slots {
    fn tables(&self) -> usize {
        self.at.len() / self.slots
    }

    fn get(&self, t: usize, i: usize) -> Option<usize> {
        self.at
            .get(t * self.slots + i)
            .and_then(|&n| (n as usize).checked_sub(1))
    }

    fn set(&mut self, t: usize, i: usize, record: Option<usize>) {
        if let Some(n) = self.at.get_mut(t * self.slots + i) {
            *n = record.map_or(0, |r| r as u32 + 1);
        }
    }

    fn add_table(&mut self) -> Result<usize> {
        self.at.try_reserve(self.slots).map_err(|_| Error::Memory)?;
        self.at.resize(self.at.len() + self.slots, 0);
        Ok(self.tables() - 1)
    }
}

/// So often slots are freed for pairs that come from other slots. Longer rows of pairs that take each other's place are written at once.
const ROUNDS: usize = 16;

/// The pairs that slots of these tables name for which `f` says so, in their order.
fn named(
    tables: &[RawTable],
    slots: u16,
    len: u64,
    f: impl Fn(usize, u16, Slot) -> bool,
) -> Vec<u64> {
    let slots = (0..tables.len()).flat_map(|t| (0..slots).map(move |i| (t, i)));
    let named = slots.filter_map(|(t, i)| {
        let slot = tables[t].slot(i);
        slot.pair(len).filter(|_| f(t, i, slot))
    });
    let mut named: Vec<u64> = named.collect();
    named.sort_unstable();
    named
}

impl<S: Storage, H: AsRef<State>> Engine<S, H> {
    /// Makes tables and slots anew from what is in the file.
    pub(crate) fn walk(&mut self) -> Result<()> {
        let before = self.st().walking.swap(1, AcqRel);
        self.tell_walk();
        self.sync()?;
        self.redo()?;
        self.rearrange();
        let (linked, _) = self.chain()?;
        let words = self.believable_words(&linked)?;
        let mut found = self.scan(&words)?;
        let moved = self.move_away(&words, &found);
        // Where there is no room for it, nothing has changed that anybody must finish.
        if moved.inspect_err(|_| self.st().walking.store(before, Release))? {
            found = self.scan(&words)?;
        }
        let Found {
            tables, records, ..
        } = found;
        if records.is_empty() && tables.len() <= 1 && !self.has_table_0()? {
            return self.walk_nothing();
        }
        let named = records.iter().map(|r| r.table);
        self.tell_tables(self.has_table_0()?, tables.len(), named);
        self.forget_tables(&tables, &words)?;
        let old = self.old_slots(&tables)?;
        let (slots, homeless) = self.assign(tables.len(), &records, &old)?;
        self.write_tables(tables, &linked, &words, &slots, &records, &old)?;
        self.make_room_for_all(&records)?;
        for &n in &homeless {
            self.rehouse(&records[n])?;
        }
        self.tidy_up(&mut true)?;
        self.sync()?;
        self.mark()?;
        self.finish_records(&slots, &records, &words)?;
        self.st().verified.store(state::tables::GOOD, Relaxed);
        self.st().walking.store(0, Release);
        self.tell_walked(records.len(), homeless.len());
        Ok(())
    }

    /// What was begun with the pairs that have a slot. Behind the mark the word of a slot says which copy counts, whatever a
    /// cut leaves of the other one.
    fn finish_records(&mut self, slots: &Slots, records: &[Record], words: &Named) -> Result<()> {
        let mut some = false;
        for n in slots.at.iter().filter_map(|&n| (n as usize).checked_sub(1)) {
            let r = &records[n];
            if !r.unfinished {
                continue;
            }
            let (pair, _) = self.pair_in_walk(r.at, words)?;
            self.finish(&pair, r.outcome)?;
            some = true;
        }
        if some {
            self.sync()?;
        }
        Ok(())
    }

    /// A header, and nothing behind it that means anything.
    fn walk_nothing(&mut self) -> Result<()> {
        self.adopt_tables(Vec::new());
        self.truncate(PAGE)?;
        self.survey()?;
        self.sync()?;
        // The 2015 generation dies at a header alone that says it was not closed.
        self.write_clean()?;
        self.st().verified.store(state::tables::GOOD, Relaxed);
        self.st().walking.store(0, Release);
        self.tell_walked(0, 0);
        Ok(())
    }

    fn has_table_0(&self) -> Result<bool> {
        Ok(self.store.len()? >= PAGE + table::SIZE && self.raw_table(PAGE)?.delimiters() > 0)
    }

    /// From now on until the new tables are on the medium, only walks read the old ones, and believe those that this one
    /// does: of two copies each takes the same. With its delimiters a table can be whole that was not, so they follow. The
    /// file has a table before its header says that it was not closed.
    fn forget_tables(&mut self, tables: &[u64], words: &Named) -> Result<()> {
        self.grow(PAGE + table::SIZE)?;
        if !words.all() {
            for &t in tables.iter().skip(1) {
                self.store.store(t + table::CHECKSUM, words.mark(t))?;
            }
            self.sync()?;
        }
        self.store.store(PAGE + table::CHECKSUM, words.mark(PAGE))?;
        self.sync()?;
        if self.raw_table(PAGE)?.delimiters() < 2 {
            self.store.store(PAGE, table::START_DELIMITER)?;
            self.store.store(PAGE + table::END, table::END_DELIMITER)?;
            self.sync()?;
        }
        self.store.store(header::CLOSE_FAILED, 1)?;
        self.store.store(header::CLOSE_OK, 0)?;
        self.sync()
    }

    /// What the slots said, to break ties; unused where a table is new.
    fn old_slots(&self, tables: &[u64]) -> Result<Vec<RawTable>> {
        let mut old = Vec::new();
        for &t in tables {
            old.push(self.raw_table(t)?);
        }
        Ok(old)
    }

    /// Gives every record the slot that its block and key name; answers the live ones that have none.
    fn assign(
        &self,
        tables: usize,
        records: &[Record],
        old: &[RawTable],
    ) -> Result<(Slots, Vec<usize>)> {
        let mut slots = Slots {
            slots: self.sizes.slots as usize,
            at: Vec::new(),
        };
        for _ in 0..tables {
            slots.add_table()?;
        }
        let mut homeless = Vec::new();
        let len = self.store.len()?;
        for (n, r) in records.iter().enumerate() {
            let i = (r.hash % u64::from(self.sizes.slots)) as usize;
            let Some(t) = usize::try_from(r.table).ok().filter(|&t| t < tables) else {
                homeless.push(n);
                continue;
            };
            let Some(before) = slots.get(t, i) else {
                slots.set(t, i, Some(n));
                continue;
            };
            // Two pairs for one slot: a live one, then the one that the old slot names, then the later.
            let b = &records[before];
            let named = |r: &Record| old[t].slot(i as u16).pair(len) == Some(r.at);
            let keep = (b.is_live(), named(b)) > (r.is_live(), named(r));
            let loser = if keep { n } else { before };
            if !keep {
                slots.set(t, i, Some(n));
            }
            homeless.push(loser);
        }
        // Of a key that stands twice in its chain the first counts: of those that a slot names, if
        // there is one, because the others could not be found until now.
        let mut twice = Vec::new();
        for i in 0..slots.slots {
            let mut chain: Vec<&Record> = (0..tables)
                .filter_map(|t| slots.get(t, i))
                .map(|n| &records[n])
                .filter(|r| r.is_live())
                .collect();
            chain.sort_by_key(|r| !r.named);
            for (k, r) in chain.iter().enumerate() {
                for e in &chain[..k] {
                    if r.hash == e.hash && self.key_of(r)? == self.key_of(e)? {
                        twice.push((r.table as usize, i));
                        break;
                    }
                }
            }
        }
        // That can be one without a slot, whose pair says a table that is not there.
        for &n in &homeless {
            let r = &records[n];
            let i = (r.hash % u64::from(self.sizes.slots)) as usize;
            for t in (0..tables).filter(|_| r.named && r.is_live()) {
                if let Some(e) = slots.get(t, i).map(|n| &records[n])
                    && e.is_live()
                    && !e.named
                    && r.hash == e.hash
                    && self.key_of(r)? == self.key_of(e)?
                {
                    twice.push((t, i));
                }
            }
        }
        for (t, i) in twice {
            slots.set(t, i, None);
        }
        homeless.retain(|&n| records[n].is_live());
        // Of several with one key the first is taken.
        homeless.sort_by_key(|&n| !records[n].named);
        Ok((slots, homeless))
    }

    fn write_tables(
        &mut self,
        tables: Vec<u64>,
        linked: &[u64],
        words: &Named,
        slots: &Slots,
        records: &[Record],
        old: &[RawTable],
    ) -> Result<()> {
        let len = self.store.len()?;
        let mut new = Vec::new();
        for (t, &at) in tables.iter().enumerate() {
            let mut raw = RawTable::empty();
            for i in 0..slots.slots {
                let Some(r) = slots.get(t, i).map(|n| records[n]) else {
                    continue;
                };
                let was = old[t].slot(i as u16);
                let word = match r.outcome {
                    // The old parity, if it belongs to this pair.
                    Outcome::Live(_) if r.twins && was.pair(len) == Some(r.at) => {
                        Word::clean(was.word.side())
                    }
                    Outcome::Live(_) if r.twins => Word::clean(Side::A),
                    Outcome::Live(side) | Outcome::Deleted(side) => self.old_word(side, r.sum),
                    Outcome::Damaged => Word::default(),
                };
                let slot = if r.is_live() {
                    Slot::live(r.at, word)
                } else {
                    Slot::deleted(r.at, word)
                };
                raw.set_slot(i as u16, slot);
            }
            let next = tables.get(t + 1).copied().unwrap_or(0);
            for i in [slots.slots, table::SLOTS] {
                put_u64(&mut raw.0, table::slot_offset(0, i as u16) as usize, next);
            }
            put_u64(&mut raw.0, table::CHECKSUM as usize, words.mark(at));
            new.push(raw);
        }
        self.replace_tables(&tables, linked, old, &new)?;
        self.adopt_tables(tables);
        Ok(())
    }

    /// Writes the new tables so that, whatever a cut leaves of them, each pair has a slot that says which copy counts: first, tables
    /// that no link led to are emptied, whose slots nobody has believed; then the links; then by turns what names a pair in a
    /// slot that is not used, its word before, and what frees a slot whose pair has its new one. Each step is on the medium
    /// before the next.
    fn replace_tables(
        &mut self,
        tables: &[u64],
        linked: &[u64],
        old: &[RawTable],
        new: &[RawTable],
    ) -> Result<()> {
        let (slots, len) = (self.sizes.slots, self.store.len()?);
        let wanted = named(new, slots, len, |_, _, _| true);
        let mut now = new.to_vec();
        for ((at, now), old) in tables.iter().zip(&mut now).zip(old) {
            let was_linked = linked.binary_search(at).is_ok();
            for i in 0..slots {
                let slot = match was_linked {
                    true => old.slot(i),
                    false => Slot::default(),
                };
                now.set_slot(i, slot);
            }
            if !was_linked {
                // Without slots only both delimiters tell the next walk that it is one.
                self.store.store(*at, table::START_DELIMITER)?;
                self.store.store(*at + table::END, table::END_DELIMITER)?;
                self.sync()?;
                self.replace(*at, table::SIZE, |i| u64_at(&now.0, i))?;
            }
        }
        self.sync()?;
        for (&at, now) in tables.iter().zip(&now) {
            self.replace(at, table::SIZE, |i| u64_at(&now.0, i))?;
        }
        self.sync()?;
        for _ in 0..ROUNDS {
            if now.iter().zip(new).all(|(now, new)| now.0 == new.0) {
                break;
            }
            let arrived = named(&now, slots, len, |t, i, slot| slot == new[t].slot(i));
            let mut some = false;
            for gets_name in [false, true] {
                for (t, &at) in tables.iter().enumerate() {
                    let mut raw = new[t].clone();
                    for i in 0..slots {
                        let (old, new) = (now[t].slot(i), new[t].slot(i));
                        let before = old.pair(len);
                        let stays = before.is_some() && before == new.pair(len);
                        let is_needed = before.is_some_and(|pair| {
                            wanted.binary_search(&pair).is_ok()
                                && arrived.binary_search(&pair).is_err()
                        });
                        let is_free = stays || old.is_unused() && old.word == new.word;
                        let slot = match gets_name {
                            true if is_free => new,
                            false if !stays && !is_needed => Slot {
                                word: new.word,
                                ..Slot::default()
                            },
                            _ => old,
                        };
                        some |= slot != old;
                        raw.set_slot(i, slot);
                    }
                    self.replace(at, table::SIZE, |i| u64_at(&raw.0, i))?;
                    now[t] = raw;
                }
                self.sync()?;
            }
            if !some {
                break;
            }
        }
        for (&at, raw) in tables.iter().zip(new) {
            self.replace(at, table::SIZE, |i| u64_at(&raw.0, i))?;
        }
        self.sync()
    }

    /// A pair that the file's end cuts off gets its whole place. What is appended from here on goes
    /// behind everything, because not every pair has its slot yet.
    fn make_room_for_all(&mut self, records: &[Record]) -> Result<()> {
        let last = records.last().map_or(0, |r| r.at + PAIR);
        let need = self.store.len()?.next_multiple_of(PAGE).max(last);
        self.grow(need)?;
        self.survey()?;
        self.st().gap_count.store(0, Relaxed);
        self.st().end.store(need, Relaxed);
        Ok(())
    }

    /// A live record whose block names no table, or a slot that is another's: inserted as a put
    /// would be, its pair stays where it is.
    fn rehouse(&mut self, r: &Record) -> Result<()> {
        let Outcome::Live(side) = r.outcome else {
            return Ok(());
        };
        let pair = self.read_pair(r.at)?;
        let from = pair.block(side).clone();
        let index = hash::slot(from.key(), self.sizes.slots);
        let mut free = None;
        for t in 0..self.tables.len() {
            let p = self.place(t, index)?;
            if p.slot.is_unused() {
                free.get_or_insert(p);
            } else if p.pair != 0 && !p.slot.is_deleted() {
                let other = self.pair_of(&p)?;
                if let Outcome::Live(s) = other.outcome(Some(p.slot.word))
                    && other.block(s).key() == from.key()
                {
                    return Ok(());
                }
            }
        }
        let place = match free {
            Some(p) => p,
            None => {
                let t = self.append_table()?;
                self.place(t, index)?
            }
        };
        let to = side.other();
        let mut block = RawBlock::new(
            self.sizes,
            to,
            true,
            from.key(),
            from.value(self.sizes),
            place.table as u64,
        );
        if to == Side::B {
            // Of two live copies the next walk would take B: it is none before it is whole.
            let at = to.offset(r.at);
            let (start, end) = block.delimiters();
            self.store.store(at, 0)?;
            self.store.store(at + block::END as u64, 0)?;
            self.sync()?;
            put_u64(&mut block.0[..], 0, 0);
            self.write_copy(r.at, to, &block, false)?;
            self.sync()?;
            self.store.store(at, start)?;
            self.store.store(at + block::END as u64, end)?;
        } else {
            self.write_copy(r.at, to, &block, true)?;
        }
        let word = Word::tagged(to, self.epoch(), block.sum());
        self.write_slot(&place, Slot::live(r.at, word), print_of(r.hash))
    }
}
