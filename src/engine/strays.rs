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
        // The last pair in its place may go on behind the end of the file.
        let (mut strays, mut behind) = (Vec::new(), 0);
        while at >= PAGE && at.checked_add(table::SIZE).is_some_and(|end| end <= len) {
            let raw = self.raw_table(at)?;
            if raw.delimiters() != 2 || raw.checksum() != u64_at(&raw.0, table::CHECKSUM as usize) {
                break;
            }
            for i in 0..self.sizes.slots {
                let slot = raw.slot(i);
                let Some(pair) = u64::try_from(slot.a).ok().filter(|&a| a >= PAGE && a < len)
                else {
                    continue;
                };
                let end = pair.saturating_add(PAIR);
                if pair.is_multiple_of(PAGE) {
                    behind = end.max(behind);
                }
                if pair.is_multiple_of(PAGE) || end > len {
                    continue;
                }
                let found = self.read_pair(pair)?;
                let Outcome::Live(side) = found.outcome(Some(slot.word)) else {
                    continue;
                };
                let from = found.block(side);
                if hash::slot(from.key(), self.sizes.slots) == i {
                    strays.try_reserve(1).map_err(|_| Error::Memory)?;
                    strays.push((from.clone(), number));
                }
            }
            let next = u64::try_from(raw.slot(table::SLOTS as u16).a).unwrap_or(0);
            if next <= at {
                break;
            }
            (number, at) = (number + 1, next);
        }
        // Before the tables that name the old places are given up.
        self.append_copies(&strays, behind).map(drop)
    }

    /// New pairs behind everything, and behind this offset, each with the key and value of a block and the number of its
    /// table; nothing names them yet. Answers where they are, on the medium.
    pub(super) fn append_copies(
        &mut self,
        of: &[(RawBlock, u64)],
        behind: u64,
    ) -> Result<Vec<u64>> {
        let mut copies = Vec::new();
        copies.try_reserve(of.len()).map_err(|_| Error::Memory)?;
        let mut to = self.store.len()?.max(behind).next_multiple_of(PAGE);
        for (from, number) in of {
            self.grow(to.saturating_add(PAIR))?;
            let (key, value) = (from.key(), from.value(self.sizes));
            self.write_new_pair(to, key, value, *number, false)?;
            copies.push(to);
            to += PAIR;
        }
        if copies.is_empty() {
            return Ok(copies);
        }
        // No slot tells of a copy whether it has arrived as a whole: it is none before that.
        self.sync()?;
        for &pair in &copies {
            for side in [Side::A, Side::B] {
                let (at, (start, end)) = (side.offset(pair), side.delimiters(true));
                self.store.store(at, start)?;
                self.store.store(at + block::END as u64, end)?;
            }
        }
        self.sync()?;
        Ok(copies)
    }
}
