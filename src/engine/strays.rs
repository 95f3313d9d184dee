//! Pairs at odd offsets.
//!
//! After a power cut that left a file whose length is no multiple of 4096 the original goes on to append at
//! its end as it is. It reads what it finds there, so such files are clean, and in the field. But
//! nobody finds such a pair by walking. Here they are copied to where pairs belong before anything else is
//! changed, and found there by the walk that follows.

use super::{Engine, Outcome, State, Storage};
use crate::error::{Error, Result};
use crate::format::block::{self, PAIR, RawBlock, Side};
use crate::format::{PAGE, hash, header, table, u64_at};

impl<S: Storage, H: AsRef<State>> Engine<S, H> {
    /// Copies the live pairs at odd offsets that the tables of a closed file name.
    pub(crate) fn move_strays(&mut self) -> Result<()> {
        let clean =
            self.store.load(header::CLOSE_FAILED)? == 0 && self.store.load(header::CLOSE_OK)? == 1;
        let len = self.store.len()?;
        if !clean || len < PAGE + table::SIZE {
            return Ok(());
        }
        let (mut number, mut at) = (0, PAGE);
        let mut copies = Vec::new();
        while at >= PAGE && at.checked_add(table::SIZE).is_some_and(|end| end <= len) {
            let raw = self.raw_table(at)?;
            if raw.delimiters() != 2 || raw.checksum() != u64_at(&raw.0, table::CHECKSUM as usize) {
                break;
            }
            for i in 0..self.sizes.slots {
                let slot = raw.slot(i);
                let Ok(pair) = u64::try_from(slot.a) else {
                    continue;
                };
                let inside = pair >= PAGE && pair.checked_add(PAIR).is_some_and(|end| end <= len);
                if !inside || pair.is_multiple_of(PAGE) {
                    continue;
                }
                let found = self.read_pair(pair)?;
                let Outcome::Live(side) = found.outcome(Some(slot.word)) else {
                    continue;
                };
                let from = found.block(side);
                if hash::slot(from.key(), self.sizes.slots) == i {
                    copies.try_reserve(1).map_err(|_| Error::Memory)?;
                    copies.push(self.append_copy(from, number)?);
                }
            }
            let next = u64::try_from(raw.slot(table::SLOTS as u16).a).unwrap_or(0);
            if next <= at {
                break;
            }
            (number, at) = (number + 1, next);
        }
        // Before the tables that name the old places are given up.
        self.end_copies(&copies)
    }

    /// A new pair behind everything, with the key and value of this block and the number of its table; nothing names
    /// it yet, and it has no end delimiters ([`Engine::end_copies`]). Answers its offset.
    pub(super) fn append_copy(&mut self, from: &RawBlock, number: u64) -> Result<u64> {
        let to = self.store.len()?.next_multiple_of(PAGE);
        self.grow(to.saturating_add(PAIR))?;
        self.write_new_pair(to, from.key(), from.value(self.sizes), number)?;
        Ok(to)
    }

    /// Pairs that were appended are on the medium from here on. To the original an end delimiter beside zeros is a copy
    /// with an empty key, so these follow the rest.
    pub(super) fn end_copies(&mut self, copies: &[u64]) -> Result<()> {
        if copies.is_empty() {
            return Ok(());
        }
        self.sync()?;
        for &pair in copies {
            for side in [Side::A, Side::B] {
                let end = side.offset(pair) + block::END as u64;
                self.store.store(end, side.delimiters(true).1)?;
            }
        }
        self.sync()
    }
}
