//! What a walk finds: tables, pairs, and what lies half under something else.
//!
//! Structural: from one intact table or pair to the next; single pages are tried only behind
//! damage. An intact pair is never looked into, because a value may contain delimiters.

use super::{Engine, Outcome, Pair, State, Storage};
use crate::error::{Error, Result};
use crate::format::block::{self, KEY, KEY_LEN, Kind, PAIR, RawBlock, Side};
use crate::format::slot::Slot;
use crate::format::table;
use crate::format::{PAGE, Sizes, hash, header};

/// A pair that the walk found.
#[derive(Clone, Copy)]
pub(super) struct Record {
    pub(super) at: u64,
    pub(super) outcome: Outcome,
    /// The table that its good copy names.
    pub(super) table: u64,
    pub(super) hash: u64,
    pub(super) sum: u32,
    /// The slot of its key in some table that can be believed names it.
    pub(super) named: bool,
    /// Both copies are good and say the same.
    pub(super) twins: bool,
    /// See [`Pair::is_unfinished`].
    pub(super) unfinished: bool,
}

impl Record {
    pub(super) fn is_live(&self) -> bool {
        matches!(self.outcome, Outcome::Live(_))
    }
}

/// What a walk found.
#[derive(Default)]
pub(super) struct Found {
    /// Offsets of the tables, in file order.
    pub(super) tables: Vec<u64>,
    /// The pairs, in file order.
    pub(super) records: Vec<Record>,
    /// Where pairs would be that are cut by another.
    cut: Vec<u64>,
}

/// Pairs by offset, each with index and word of a slot that names it.
pub(super) struct Named {
    names: Vec<(u64, Name)>,
    /// What says in table 0 which tables are believed.
    first: u64,
    /// Those behind it, in file order.
    others: Vec<u64>,
}

/// A slot by table number and index, and what is in it.
#[derive(Clone, Copy)]
pub(super) struct Name {
    table: u64,
    index: u16,
    slot: Slot,
}

impl Named {
    /// What says that it is believed, or not, in the table at `t`, in place of a checksum.
    pub(super) fn mark(&self, t: u64) -> u64 {
        match t {
            PAGE => self.first,
            _ if self.all() || self.others.binary_search(&t).is_ok() => table::MARK,
            _ => table::REBUILDING_SOME,
        }
    }

    /// Whether all tables are believed: this library was changing the file.
    pub(super) fn all(&self) -> bool {
        self.first == table::REBUILDING
    }

    /// The pair of this slot. In a file that this library was changing it may be what a power cut has left of a put.
    fn judge(&self, pair: Pair, name: Option<&Name>, sizes: Sizes) -> Pair {
        let pair = match name {
            Some(n) => pair.of_slot(n.table, n.index, sizes),
            None => pair,
        };
        match name {
            _ if !self.all() => pair,
            Some(n) => pair.after_a_cut(&n.slot, sizes),
            None => pair.only_surely_whole(sizes),
        }
    }

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
                pair.is_good(s) && home == name.index
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
    /// The words of the slots of these tables, by pair, where they can be believed: in a file that this library left,
    /// in any state, and in tables whose checksum is right in a file that was closed. What the
    /// original left unclean has slots of an older time.
    pub(super) fn believable_words(&self, tables: &[u64]) -> Result<Named> {
        let mut words = Named {
            names: Vec::new(),
            first: table::REBUILDING_SOME,
            others: Vec::new(),
        };
        let len = self.store.len()?;
        let Some(&first) = tables.first() else {
            return Ok(words);
        };
        let mark = self.store.load(first + table::CHECKSUM)?;
        let clean = self.store.load(header::CLOSE_FAILED)? == 0;
        for (table, &t) in (0..).zip(tables) {
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
                0 => words.first = table::REBUILDING_FIRST,
                _ => {
                    words.others.try_reserve(1).map_err(|_| Error::Memory)?;
                    words.others.push(t);
                }
            }
            for i in 0..self.sizes.slots {
                let slot = raw.slot(i);
                if let Some(pair) = slot.pair(len) {
                    words.names.try_reserve(1).map_err(|_| Error::Memory)?;
                    let index = i;
                    words.names.push((pair, Name { table, index, slot }));
                }
            }
        }
        if mark == table::MARK || mark == table::REBUILDING {
            words.first = table::REBUILDING;
        }
        // In the order of the chain where several slots name one pair.
        words.names.sort_by_key(|&(pair, _)| pair);
        Ok(words)
    }

    pub(super) fn scan(&self, words: &Named) -> Result<Found> {
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
            if named || !words.all() && good()? {
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
                let begins = by_place && stray && other.is_good(Side::A);
                if begins || other.is_intact() && named(&other) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Pairs that their slots name, half under something else, or in one place with the pair of another key; and copies A in
    /// whose B's place the original has put another pair. Where the copy that counts is whole and lies in a place of its own, the
    /// file gets a new pair of it at its end, on the medium before anything else changes. `true`: there was one.
    pub(super) fn move_away(&mut self, words: &Named, found: &Found) -> Result<bool> {
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
            let pair = words.judge(pair, Some(&name), self.sizes);
            let outcome = pair.outcome(Some(name.slot.word));
            if let Outcome::Live(side) = outcome
                && !pair.is_foreign(outcome, name.index, self.sizes)
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

    /// The pair at `p` and the slot that names it, if there is one.
    pub(super) fn pair_in_walk(&self, p: u64, words: &Named) -> Result<(Pair, Option<Name>)> {
        let pair = self.read_pair(p)?;
        let name = words.of(&pair, self.sizes).map(|(name, _)| name);
        Ok((words.judge(pair, name.as_ref(), self.sizes), name))
    }

    fn record_at(&self, p: u64, words: &Named) -> Result<Option<Record>> {
        if self.pair_delimiters(p)? == 0 {
            return Ok(None);
        }
        let (pair, name) = self.pair_in_walk(p, words)?;
        let outcome = pair.outcome(name.map(|n| n.slot.word));
        let (Outcome::Live(side) | Outcome::Deleted(side)) = outcome else {
            return Ok(None);
        };
        let own = hash::slot(pair.block(side).key(), self.sizes.slots);
        let [a, b] = pair.verdicts;
        // Without that a word without a tag would say that it has not arrived.
        let ended = a.kind != Kind::Live || pair.is_ended(Side::A) && pair.is_ended(Side::B);
        Ok(Some(Record {
            at: pair.at,
            outcome,
            table: pair.block(side).table(),
            hash: hash::djb2(pair.block(side).key()),
            sum: pair.verdict(side).sum,
            twins: a.good && b.good && a.kind == b.kind && pair.is_same() && ended,
            named: name.is_some_and(|n| n.index == own),
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

    pub(super) fn key_of(&self, r: &Record) -> Result<[u8; KEY_LEN]> {
        let (Outcome::Live(side) | Outcome::Deleted(side)) = r.outcome else {
            return Ok([0; KEY_LEN]);
        };
        let mut key = [0; KEY_LEN];
        self.store.read(side.offset(r.at) + KEY as u64, &mut key)?;
        // What stands behind its end is no part of it.
        let n = block::key_in(&key).len();
        key[n..].fill(0);
        Ok(key)
    }
}
