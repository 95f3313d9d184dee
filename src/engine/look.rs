//! Look-ups and iteration.

use super::index::{DELETED, print_of};
use super::places::Hint;
use super::{Engine, Outcome, Pair, Place, Position, State, Storage};
use crate::error::{Error, Result};
use crate::format::block::{self, PAIR, Side};
use crate::format::key::Key;
use crate::format::slot::Word;
use crate::format::{hash, table};
use std::sync::atomic::Ordering::Relaxed;

/// Where a look-up ended.
pub(crate) enum Found {
    /// The key lives here, in this copy.
    Live(Place, Side),
    /// The key is here, but neither copy can be believed.
    Damaged(Place),
    /// Not in the chain.
    Absent,
}

/// Where a key may be.
pub(crate) enum Seen<'a> {
    /// In this table, and perhaps there. Neither slot nor pair was touched yet.
    Table(usize, Option<Hint>),
    /// Here, in that table.
    Place(&'a Place),
}

/// What a slot turned out to hold.
pub(crate) enum Content {
    Live(Side),
    /// The slot says live, the pair does not: it may be used again.
    Deleted,
    Nothing,
    Damaged,
}

impl<S: Storage, H: AsRef<State>> Engine<S, H> {
    /// The value of `key` is copied into `buf` if it fits; answers its size in bytes, `None` if
    /// there is no such key (or it is empty or of 128 bytes and more).
    ///
    /// # Errors
    /// [`Error::Corrupt`] if both copies are damaged; [`Error::Io`].
    pub fn get(&mut self, key: &[u8], buf: &mut [u8]) -> Result<Option<usize>> {
        let Some(key) = Key::new(key) else {
            return Ok(None);
        };
        self.ready()?;
        match self.find(&key)? {
            Found::Live(place, side) => self.read_value(&place, side, buf).map(Some),
            Found::Damaged(_) => Err(Error::Corrupt("both copies of a record are damaged")),
            Found::Absent => Ok(None),
        }
    }

    /// Copies a value that fits into `buf`; answers its size.
    pub(crate) fn read_value(&self, place: &Place, side: Side, buf: &mut [u8]) -> Result<usize> {
        self.store
            .read_value(self.front(place, side), self.sizes.value as usize, buf)
    }

    /// Looks through the whole chain of `key`.
    pub(crate) fn find(&mut self, key: &Key) -> Result<Found> {
        self.find_with(key, |e, seen| {
            if let Seen::Table(_, Some(hint)) = seen {
                e.store.fetch_block(hint.blocks().0, 0);
            }
            Ok(None)
        })
    }

    /// The same. Calls `look` with what is seen on the way, the last of it is where the key was found: slot and pair
    /// may be far away, and much can be done before they are here. It may answer which copy has the key.
    pub(crate) fn find_with(
        &mut self,
        key: &Key,
        mut look: impl FnMut(&Self, Seen) -> Result<Option<Side>>,
    ) -> Result<Found> {
        let hash = key.hash();
        let slot = hash::slot_of(hash, self.sizes.slots);
        let print = print_of(hash);
        let mut damaged = None;
        let mut t = 0;
        loop {
            self.make_row(slot)?;
            let Some((n, hint)) = self.candidate(slot, t, print) else {
                break;
            };
            look(self, Seen::Table(n, hint))?;
            let place = self.place(n, slot)?;
            if let Some(side) = look(self, Seen::Place(&place))? {
                return Ok(Found::Live(place, side));
            }
            match self.content(place)? {
                Content::Live(side) if self.has_key(&place, side, key)? => {
                    return Ok(Found::Live(place, side));
                }
                Content::Damaged
                    if self.is_at(Side::A.offset(place.pair), key)?
                        || self.is_at(Side::B.offset(place.pair), key)? =>
                {
                    // A whole one may follow.
                    damaged.get_or_insert(place);
                }
                _ => {}
            }
            t = n + 1;
        }
        Ok(damaged.map_or(Found::Absent, Found::Damaged))
    }

    /// The first slot of a chain, through which [`Engine::find`] has just looked, that holds a deleted pair.
    pub(crate) fn first_deleted(&self, slot: u16) -> Result<Option<Place>> {
        let table = self.index.search(slot, 0, DELETED);
        table.map(|t| self.place(t, slot)).transpose()
    }

    /// Whether this key is the one of a live slot.
    pub(super) fn has_key(&self, place: &Place, side: Side, key: &Key) -> Result<bool> {
        // A record has it too, and is what is read next. Where a name leads to none, the pair tells.
        let front = self.front(place, side);
        let block = side.offset(place.pair);
        Ok(self.is_at(front, key)? || front != block && self.is_at(block, key)?)
    }

    /// Whether this key stands in what begins here as a block.
    fn is_at(&self, front: u64, key: &Key) -> Result<bool> {
        self.store.holds(front + block::KEY as u64, key)
    }

    /// What a used slot holds. The first touch of a pair checks both copies.
    pub(crate) fn content(&mut self, place: Place) -> Result<Content> {
        if self.is_checked(place.pair) {
            return Ok(Content::Live(place.slot.word.side()));
        }
        let pair = match self.st().recovered.load(Relaxed) {
            0 => self.pair_of(&place)?,
            _ => self.pair_after_a_cut(&place)?,
        };
        let outcome = pair.outcome(Some(place.slot.word));
        if pair.is_foreign(outcome, place.index, self.sizes) || self.is_across_a_table(place.pair) {
            // In a closed file nobody can find it, or the first change would end it.
            self.doubtful[place.index as usize] = true;
            self.walk_if_recovered()?;
            return Ok(Content::Nothing);
        }
        match outcome {
            Outcome::Live(side)
                if side == place.slot.word.side()
                    && (!pair.is_unfinished(outcome)
                        || pair.is_put_again_in_a(place.slot.word)) =>
            {
                self.set_checked(place.pair, true);
                self.tidy.set(place.pair, pair.is_tidy(place.table));
            }
            // Its value is in the log, from where it finds its way into the pair.
            _ if place.slot.record().is_some() => return Ok(Content::Live(place.slot.word.side())),
            // The file is whole but for this record: served, not touched before the chain changes.
            _ if self.st().recovered.load(Relaxed) == 0 => {
                self.doubtful[place.index as usize] = true;
                self.tell_damage(&pair, outcome);
            }
            _ => self.mend(place, &pair, outcome)?,
        }
        Ok(match outcome {
            Outcome::Live(side) => Content::Live(side),
            Outcome::Deleted(_) => Content::Deleted,
            Outcome::Damaged if self.st().recovered.load(Relaxed) != 0 => Content::Nothing,
            Outcome::Damaged => Content::Damaged,
        })
    }

    /// A slot that leads there is damaged, whatever lies there: a table counts.
    fn is_across_a_table(&self, pair: u64) -> bool {
        let before = self.tables.partition_point(|&t| t < pair + PAIR);
        before > 0 && self.tables[before - 1] + table::SIZE > pair
    }

    /// After a recovery that did not read every pair something was met that is not by us.
    fn walk_if_recovered(&mut self) -> Result<()> {
        if self.st().recovered.load(Relaxed) != 0 && (self.writable || !self.store.is_file()) {
            self.walk()?;
        }
        Ok(())
    }

    /// First touch, after a recovery that did not read every pair, of one that is not as its slot says.
    fn mend(&mut self, place: Place, pair: &Pair, outcome: Outcome) -> Result<()> {
        let poisoned = self.st().poisoned.load(Relaxed) != 0;
        if self.store.is_file() && !self.writable || poisoned {
            return Ok(());
        }
        self.begin_change()?;
        match outcome {
            Outcome::Live(side) => {
                // The copy that the slot names did not reach the medium, and the other one had; or
                // there is something to finish.
                self.tell_mended(pair, side);
                self.finish(pair, outcome)?;
                let word = Word::tagged(side, self.epoch(), pair.verdict(side).sum);
                self.store_word(&place, word)?;
                self.set_checked(place.pair, true);
                Ok(())
            }
            Outcome::Deleted(side) if !pair.block(side).is_emptied() => {
                // A delete of ours: it keeps the contents. Only its slot did not reach the medium; or of
                // the put that followed it only the slot did.
                self.finish(pair, outcome)?;
                let named = pair.verdict(place.slot.word.side());
                let counts = pair.verdict(side);
                self.write_deleted(&place, if named.good { named.sum } else { counts.sum })
            }
            // Not by us: the original was here after us, or the medium is bad.
            Outcome::Deleted(_) => self.walk(),
            Outcome::Damaged => self.drop_pair(&place),
        }
    }

    /// The next live entry at or behind `pos`, which moves behind it: its key, and its value copied
    /// into `buf` (filled up with zeros) if there is one. `None` at the end. Damaged entries are
    /// passed over.
    ///
    /// The key is answered as the file's key size of bytes, zeros behind it.
    pub fn next(&mut self, pos: &mut Position, buf: Option<&mut [u8]>) -> Result<Option<Vec<u8>>> {
        let mut field = [0; block::KEY_LEN];
        let found = self.next_entry(pos, &mut field, buf)?;
        Ok(found.then(|| field[..self.sizes.key as usize].to_vec()))
    }

    /// As [`Engine::next`], but with the whole key field, also where keys can be longer than the key
    /// size; whether there was an entry.
    pub fn next_entry(
        &mut self,
        pos: &mut Position,
        field: &mut [u8; block::KEY_LEN],
        buf: Option<&mut [u8]>,
    ) -> Result<bool> {
        self.ready()?;
        while let Ok(t) = usize::try_from(pos.table)
            && t < self.tables.len()
        {
            if pos.slot >= u64::from(self.sizes.slots) {
                *pos = Position {
                    table: pos.table + 1,
                    slot: 0,
                };
                continue;
            }
            let place = self.place(t, pos.slot as u16)?;
            pos.slot += 1;
            if place.pair == 0 || place.slot.is_deleted() {
                continue;
            }
            let Content::Live(side) = self.content(place)? else {
                continue;
            };
            self.store
                .read_key(side.offset(place.pair) + block::KEY as u64, field)?;
            // By a second slot that names another's pair nobody finds it.
            let own = |key: &Key| hash::slot_of(key.hash(), self.sizes.slots) == place.index;
            let Some(key) = Key::new(block::key_in(field)).filter(own) else {
                continue;
            };
            if self.is_shadowed(&place, &key)? {
                continue;
            }
            if let Some(buf) = buf {
                let n = self.read_value(&place, side, buf)?.min(buf.len());
                buf[n..].fill(0);
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// Whether an earlier table holds the same key: the original can leave two, the first counts.
    fn is_shadowed(&mut self, place: &Place, key: &Key) -> Result<bool> {
        // Also for those who read without the lock.
        self.make_row(place.index)?;
        if place.table == 0 {
            return Ok(false);
        }
        let print = print_of(key.hash());
        let mut t = 0;
        loop {
            let Some((before, _)) = self
                .candidate(place.index, t, print)
                .filter(|&(t, _)| t < place.table)
            else {
                return Ok(false);
            };
            let p = self.place(before, place.index)?;
            if let Content::Live(side) = self.content(p)?
                && self.has_key(&p, side, key)?
            {
                self.walk_if_recovered()?;
                return Ok(true);
            }
            t = before + 1;
        }
    }
}
