//! The whole walk: tables and pairs are found by their delimiters, and the slots are made anew.
//!
//! Structural: from one intact table or pair to the next; single pages are tried only behind
//! damage. An intact pair is never looked into, because a value may contain delimiters.

use super::index::print_of;
use super::state;
use super::{Engine, Outcome, Pair, State, Storage};
use crate::error::{Error, Result};
use crate::format::block::{self, KEY, KEY_LEN, PAIR, RawBlock, Side};
use crate::format::slot::{Slot, Word};
use crate::format::table::{self, RawTable};
use crate::format::{PAGE, Sizes, hash, header, put_u64, u64_at};
use std::sync::atomic::Ordering::{AcqRel, Relaxed, Release};

/// A pair that the walk found.
#[derive(Clone, Copy)]
struct Record {
    at: u64,
    outcome: Outcome,
    /// The table that its good copy names.
    table: u64,
    hash: u64,
    checksum: u32,
    /// The slot of its key in some table that can be believed names it.
    named: bool,
    /// Both copies are good and say the same.
    twins: bool,
    /// See [`Pair::is_unfinished`].
    unfinished: bool,
}

impl Record {
    fn is_live(&self) -> bool {
        matches!(self.outcome, Outcome::Live(_))
    }
}

/// What a walk found.
#[derive(Default)]
struct Found {
    /// Offsets of the tables, in file order.
    tables: Vec<u64>,
    /// The pairs, in file order.
    records: Vec<Record>,
    /// Where pairs would be that are cut by another.
    cut: Vec<u64>,
}

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

/// Pairs by offset, each with index and word of a slot that names it.
struct Named {
    names: Vec<(u64, Name)>,
    /// Whether all slots of the file can be believed.
    all: bool,
}

/// The tables whose words can be believed.
struct Believed {
    /// What says so in table 0.
    first: u64,
    /// Those behind it, in file order.
    others: Vec<u64>,
}

impl Believed {
    /// What says so in the table at `t`, in place of a checksum.
    fn mark(&self, t: u64) -> u64 {
        let all = self.first == table::REBUILDING;
        match t {
            PAGE => self.first,
            _ if all || self.others.binary_search(&t).is_ok() => table::MARK,
            _ => table::REBUILDING_SOME,
        }
    }
}

/// A slot by table number and index, and its word.
#[derive(Clone, Copy)]
struct Name {
    table: u64,
    slot: u16,
    word: Word,
}

impl Named {
    /// Whether some slot names the pair at `at`.
    fn has(&self, at: u64) -> bool {
        self.names.binary_search_by_key(&at, |&(at, _)| at).is_ok()
    }

    /// The slot of a pair: if several name it, one that a good copy belongs to; and whether it does.
    fn of(&self, pair: &Pair, sizes: Sizes) -> Option<(Name, bool)> {
        let from = self.names.partition_point(|&(at, _)| at < pair.at);
        let all = self.names[from..]
            .iter()
            .take_while(|&&(at, _)| at == pair.at);
        let owns = |name: &Name| {
            [Side::A, Side::B].into_iter().any(|s| {
                let home = hash::slot(pair.block(s).key(), sizes.slots);
                pair.is_good(s) && home == name.slot
            })
        };
        let mut all = all.map(|(_, name)| name);
        // The one with the table that the pair names, if there is one.
        let at_home = |name: &&Name| {
            let good = [Side::A, Side::B].into_iter();
            let mut good = good.filter(|&s| pair.is_good(s));
            owns(name) && good.any(|s| pair.block(s).table() == name.table)
        };
        let home = all.clone().find(at_home);
        match home.or_else(|| all.clone().find(|name| owns(name))) {
            Some(name) => Some((*name, true)),
            None => all.next().map(|name| (*name, false)),
        }
    }
}

impl<S: Storage, H: AsRef<State>> Engine<S, H> {
    /// Makes tables and slots anew from what is in the file.
    pub(crate) fn walk(&mut self) -> Result<()> {
        let before = self.st().walking.swap(1, AcqRel);
        self.tell_walk();
        self.sync()?;
        self.redo()?;
        self.rearrange();
        let (words, believed) = self.believable_words()?;
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
        self.forget_tables(&tables, &believed)?;
        let old = self.old_slots(&tables)?;
        let (slots, homeless) = self.assign(tables.len(), &records, &old)?;
        self.write_tables(tables, &believed, &slots, &records, &old)?;
        self.make_room_for_all(&records)?;
        for r in records.iter().filter(|r| r.unfinished) {
            let i = (r.hash % u64::from(self.sizes.slots)) as u16;
            let pair = self.read_pair(r.at)?.of_slot(r.table, i, self.sizes);
            self.finish(&pair, r.outcome)?;
        }
        for &n in &homeless {
            self.rehouse(&records[n])?;
        }
        self.tidy_up(&mut true)?;
        self.sync()?;
        self.mark()?;
        self.st().verified.store(state::tables::GOOD, Relaxed);
        self.st().walking.store(0, Release);
        self.tell_walked(records.len(), homeless.len());
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
    fn forget_tables(&mut self, tables: &[u64], believed: &Believed) -> Result<()> {
        self.grow(PAGE + table::SIZE)?;
        if believed.first != table::REBUILDING {
            for &t in tables.iter().skip(1) {
                self.store.store(t + table::CHECKSUM, believed.mark(t))?;
            }
            self.sync()?;
        }
        self.store.store(PAGE + table::CHECKSUM, believed.first)?;
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

    /// The words of the slots, by pair, where they can be believed: in a file that this library left,
    /// in any state, and in tables whose checksum is right in a file that was closed. What the
    /// original left unclean has slots of an older time.
    fn believable_words(&self) -> Result<(Named, Believed)> {
        let mut words = Named {
            names: Vec::new(),
            all: false,
        };
        let mut believed = Believed {
            first: table::REBUILDING_SOME,
            others: Vec::new(),
        };
        let len = self.store.len()?;
        let (tables, _) = self.chain()?;
        let Some(&first) = tables.first() else {
            return Ok((words, believed));
        };
        let mark = self.store.load(first + table::CHECKSUM)?;
        let clean = self.store.load(header::CLOSE_FAILED)? == 0;
        for (table, &t) in (0..).zip(&tables) {
            let raw = self.raw_table(t)?;
            let sum = self.store.load(t + table::CHECKSUM)?;
            let marked = table > 0 && sum == table::MARK;
            let can_be = match mark {
                table::MARK | table::REBUILDING => true,
                table::REBUILDING_SOME => marked,
                table::REBUILDING_FIRST => marked || table == 0,
                // Marked by a walk that ended before it came to table 0.
                _ => clean && (marked || raw.checksum() == sum),
            };
            if !can_be {
                continue;
            }
            match table {
                0 => believed.first = table::REBUILDING_FIRST,
                _ => {
                    believed.others.try_reserve(1).map_err(|_| Error::Memory)?;
                    believed.others.push(t);
                }
            }
            for i in 0..self.sizes.slots {
                let slot = raw.slot(i);
                if let Some(pair) = slot.pair(len) {
                    words.names.try_reserve(1).map_err(|_| Error::Memory)?;
                    let (slot, word) = (i, slot.word);
                    words.names.push((pair, Name { table, slot, word }));
                }
            }
        }
        words.all = mark == table::MARK || mark == table::REBUILDING;
        if words.all {
            believed.first = table::REBUILDING;
        }
        // In the order of the chain where several slots name one pair.
        words.names.sort_by_key(|&(pair, _)| pair);
        Ok((words, believed))
    }

    fn scan(&self, words: &Named) -> Result<Found> {
        fn keep<T>(list: &mut Vec<T>, item: T) -> Result<()> {
            list.try_reserve(1).map_err(|_| Error::Memory)?;
            list.push(item);
            Ok(())
        }
        let len = self.store.len()?;
        let mut found = Found::default();
        if len < PAGE + table::SIZE {
            return Ok(found);
        }
        let (linked, _) = self.chain()?;
        // Table 0 has its fixed place; if it is lost, an empty one stands there.
        keep(&mut found.tables, PAGE)?;
        let mut p = PAGE + table::SIZE;
        while p < len {
            if self.is_cut_by_another(p, words)? {
                keep(&mut found.cut, p)?;
                p += PAGE;
            } else if let Some(r) = self.record_at(p, words)? {
                keep(&mut found.records, r)?;
                p += PAIR;
            } else if self.is_table(p, len, &linked)? {
                keep(&mut found.tables, p)?;
                p += table::SIZE;
            } else if self.is_damaged_pair(p)? {
                self.tell_lost(p);
                p = self.next_in_place(p, words)?;
            } else {
                p += PAGE;
            }
        }
        Ok(found)
    }

    /// Where to go on behind the damaged pair at `p`: at a pair in its place that its slot names, if there is one; or, where not
    /// all slots can be believed, that has a good copy A.
    fn next_in_place(&self, p: u64, words: &Named) -> Result<u64> {
        for q in [p + PAGE, p + 2 * PAGE, p + 3 * PAGE] {
            let named = words.has(q) && self.record_at(q, words)?.is_some_and(|r| r.named);
            let good = || -> Result<bool> {
                Ok(self.pair_delimiters(q)? >= 2 && self.read_pair(q)?.is_good(Side::A))
            };
            if named || !words.all && good()? {
                return Ok(q);
            }
        }
        Ok(p + PAIR)
    }

    /// How many of the four delimiters that a pair at `p` has are there.
    fn pair_delimiters(&self, p: u64) -> Result<u32> {
        let mut n = 0;
        for side in [Side::A, Side::B] {
            let at = side.offset(p);
            let (live, dead) = (side.delimiters(true), side.delimiters(false));
            let start = self.store.load(at)?;
            let end = self.store.load(at + block::END as u64)?;
            n += u32::from(start == live.0 || start == dead.0);
            n += u32::from(end == live.1 || end == dead.1);
        }
        Ok(n)
    }

    /// A stray copy A without its B, in whose place an intact pair begins; or a stray pair in which
    /// another begins that its slot names. What its own slot names is cut only by another such pair.
    fn is_cut_by_another(&self, p: u64, words: &Named) -> Result<bool> {
        let named = |pair: &Pair| words.of(pair, self.sizes).is_some_and(|(_, owns)| owns);
        let pair = self.read_pair(p)?;
        let (a, b) = (pair.verdict(Side::A).good, pair.is_good(Side::B));
        // In B's place a copy A may lie, whose bytes are as good: B it is not.
        let alone = a && !b;
        let stray = !named(&pair);
        if !(alone || b && stray) {
            return Ok(false);
        }
        for q in [p + PAGE, p + 2 * PAGE, p + 3 * PAGE] {
            let by_place = alone && q >= Side::B.offset(p);
            let has_name = words.has(q);
            // End delimiters may be missing: they follow at a close.
            if (by_place && stray || has_name && (by_place || stray))
                && self.pair_delimiters(q)? >= 2
            {
                let other = self.read_pair(q)?;
                // By its place it can be one whose own B is lost.
                let alone = by_place && stray && other.is_good(Side::A);
                if alone || other.is_intact() && named(&other) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Pairs that their slots name, half under something else, or in one place with the pair of another key; and copies A in
    /// whose B's place the original has put another pair. Where the copy that counts is whole and lies in a place of its own, the
    /// file gets a new pair of it at its end, on the medium before anything else changes. `true`: there was one.
    fn move_away(&mut self, words: &Named, found: &Found) -> Result<bool> {
        // What begins last in front of the end of the block at `at`, if it reaches into it.
        let over = |all: &[u64], size: u64, at: u64| {
            let before = all.partition_point(|&p| p < at + block::SIZE as u64);
            let last = before.checked_sub(1).map(|n| all[n]);
            last.filter(|last| last + size > at)
        };
        let pairs: Vec<u64> = found.records.iter().map(|r| r.at).collect();
        let mut moved: Vec<(RawBlock, u64)> = Vec::new();
        let mut consider = |pair: &Pair, side: Side| -> Result<()> {
            let (block, place) = (pair.block(side), side.offset(pair.at));
            if over(&pairs, PAIR, place).is_some_and(|other| other != pair.at)
                || over(&found.tables, table::SIZE, place).is_some()
                || self.has_live(&found.records, block.key())?
                || moved.iter().any(|(other, _)| other.key() == block.key())
            {
                return Ok(());
            }
            moved.try_reserve(1).map_err(|_| Error::Memory)?;
            moved.push((block.clone(), block.table()));
            Ok(())
        };
        let only = |at, names: usize| names == 1 && pairs.binary_search(&at).is_ok();
        let names = words.names.chunk_by(|(at, _), (next, _)| at == next);
        for &(at, name) in names.filter(|all| !only(all[0].0, all.len())).flatten() {
            let pair = self.read_pair(at)?;
            let pair = pair.of_slot(name.table, name.slot, self.sizes);
            let outcome = pair.outcome(Some(name.word));
            if let Outcome::Live(side) = outcome
                && !pair.is_foreign(outcome, name.slot, self.sizes)
            {
                consider(&pair, side)?;
            }
        }
        for &at in &found.cut {
            let pair = self.read_pair(at)?;
            let whole = pair.block(Side::A).delimiters() == Side::A.delimiters(true);
            if whole && pair.outcome_of(Side::A) == Outcome::Live(Side::A) {
                consider(&pair, Side::A)?;
            }
        }
        // The last one may go on behind the end of the file.
        let behind = pairs.last().map_or(0, |at| at + PAIR);
        let copies = self.append_copies(&moved, behind)?;
        copies.iter().for_each(|&to| self.tell_moved(to));
        Ok(!copies.is_empty())
    }

    /// Whether one of these is a live one of this key.
    fn has_live(&self, records: &[Record], key: &[u8]) -> Result<bool> {
        let hash = hash::djb2(key);
        for r in records.iter().filter(|r| r.hash == hash && r.is_live()) {
            let field = self.key_of(r)?;
            if field[..key.len()] == *key && field[key.len()..].iter().all(|&b| b == 0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn record_at(&self, p: u64, words: &Named) -> Result<Option<Record>> {
        if self.pair_delimiters(p)? == 0 {
            return Ok(None);
        }
        let pair = self.read_pair(p)?;
        let name = words.of(&pair, self.sizes).map(|(name, _)| name);
        let pair = match name {
            Some(n) => pair.of_slot(n.table, n.slot, self.sizes),
            None => pair,
        };
        let outcome = pair.outcome(name.map(|n| n.word));
        let (Outcome::Live(side) | Outcome::Deleted(side)) = outcome else {
            return Ok(None);
        };
        let own = hash::slot(pair.block(side).key(), self.sizes.slots);
        let [a, b] = pair.verdicts;
        Ok(Some(Record {
            at: pair.at,
            outcome,
            table: pair.block(side).table(),
            hash: hash::djb2(pair.block(side).key()),
            checksum: pair.verdict(side).sum,
            twins: a.good && b.good && a.kind == b.kind && pair.is_same(),
            named: name.is_some_and(|n| n.slot == own),
            unfinished: pair.is_unfinished(outcome),
        }))
    }

    /// Both delimiters, or one and slots that point to pairs; then no intact pair begins inside, if no link leads to it.
    fn is_table(&self, p: u64, len: u64, linked: &[u64]) -> Result<bool> {
        if p + table::SIZE > len {
            return Ok(false);
        }
        let raw = self.raw_table(p)?;
        match raw.delimiters() {
            0 => return Ok(false),
            2 => return Ok(true),
            _ => {}
        }
        let mut some = false;
        for i in 0..self.sizes.slots {
            let slot = raw.slot(i);
            if slot.is_unused() {
                continue;
            }
            match slot.pair(len) {
                Some(pair) if self.pair_delimiters(pair)? > 0 => some = true,
                _ => return Ok(false),
            }
        }
        if some && linked.binary_search(&p).is_err() {
            for q in [p + PAGE, p + 2 * PAGE] {
                if self.pair_delimiters(q)? >= 2 && self.read_pair(q)?.is_intact() {
                    return Ok(false);
                }
            }
        }
        Ok(some)
    }

    fn is_damaged_pair(&self, p: u64) -> Result<bool> {
        Ok(self.pair_delimiters(p)? >= 2)
    }

    /// What the slots said, to break ties; unused where a table is new.
    fn old_slots(&self, tables: &[u64]) -> Result<Vec<RawTable>> {
        let mut old = Vec::new();
        for &t in tables {
            old.push(self.raw_table(t)?);
        }
        Ok(old)
    }

    fn key_of(&self, r: &Record) -> Result<[u8; KEY_LEN]> {
        let (Outcome::Live(side) | Outcome::Deleted(side)) = r.outcome else {
            return Ok([0; KEY_LEN]);
        };
        let mut key = [0; KEY_LEN];
        self.store.read(side.offset(r.at) + KEY as u64, &mut key)?;
        // What stands behind its end is no part of it.
        let n = key.iter().position(|&b| b == 0).unwrap_or(KEY_LEN);
        key[n..].fill(0);
        Ok(key)
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
        believed: &Believed,
        slots: &Slots,
        records: &[Record],
        old: &[RawTable],
    ) -> Result<()> {
        let len = self.store.len()?;
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
                    Outcome::Live(side) | Outcome::Deleted(side) => self.old_word(side, r.checksum),
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
            put_u64(&mut raw.0, table::CHECKSUM as usize, believed.mark(at));
            self.replace(at, table::SIZE, |i| u64_at(&raw.0, i))?;
        }
        self.adopt_tables(tables);
        Ok(())
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
        let block = RawBlock::new(
            self.sizes,
            to,
            true,
            from.key(),
            from.value(self.sizes),
            place.table as u64,
        );
        self.write_copy(r.at, to, &block, true)?;
        let word = Word::tagged(to, self.epoch(), block.sum(self.sizes));
        self.write_slot(&place, Slot::live(r.at, word), print_of(r.hash))
    }
}
