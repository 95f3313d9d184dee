//! Which parts of the file are in use, and the places that are free.

use super::state::GAPS;
use super::{Engine, State, Storage};
use crate::error::{Error, Result};
use crate::format::PAGE;
use crate::format::block::PAIR;
use crate::format::slot::Slot;
use crate::format::table::{self, RawTable};
use std::sync::atomic::Ordering::Relaxed;

/// A used slot: offset of its pair, table, index.
pub(super) type ByPair = (u64, usize, u16);

/// One bit for each page of the file that a table or a pair lies in.
pub(crate) struct Used {
    bits: Vec<u64>,
    /// First page behind everything in use.
    end: u64,
}

impl Used {
    pub fn new(len: u64) -> Result<Self> {
        let words = usize::try_from(len / PAGE / 64 + 1).map_err(|_| Error::Memory)?;
        let mut bits = Vec::new();
        bits.try_reserve_exact(words).map_err(|_| Error::Memory)?;
        bits.resize(words, 0);
        let mut used = Self { bits, end: 0 };
        used.take(0, PAGE)?;
        Ok(used)
    }

    /// Marks a range of whole pages.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a part of it is in use already.
    pub fn take(&mut self, at: u64, len: u64) -> Result<()> {
        for page in at / PAGE..(at + len) / PAGE {
            let bit = 1 << (page % 64);
            match self.bits.get_mut((page / 64) as usize) {
                Some(w) if *w & bit == 0 => *w |= bit,
                _ => return Err(Error::Corrupt("two things in one place")),
            }
        }
        self.end = self.end.max((at + len) / PAGE);
        Ok(())
    }

    /// Behind everything in use, in bytes.
    pub fn end(&self) -> u64 {
        self.end * PAGE
    }

    /// The free ranges before the end, as (offset, bytes).
    pub fn free(&self) -> Vec<(u64, u64)> {
        let mut out: Vec<(u64, u64)> = Vec::new();
        for (n, &word) in (0..).zip(&self.bits) {
            if word == u64::MAX {
                continue;
            }
            for page in (64 * n..64 * n + 64).take_while(|&p| p < self.end) {
                if word >> (page % 64) & 1 != 0 {
                    continue;
                }
                match out.last_mut() {
                    Some((at, len)) if *at + *len == page * PAGE => *len += PAGE,
                    _ => out.push((page * PAGE, PAGE)),
                }
            }
        }
        out
    }
}

impl<S: Storage, H: AsRef<State>> Engine<S, H> {
    /// What the tables say is in use.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a slot names no place in the file or two things overlap.
    pub(crate) fn used(&self) -> Result<Used> {
        let len = self.store.len()?;
        let mut used = Used::new(len)?;
        self.each_slot(|_, _, slot| {
            let pair = slot.pair(len).ok_or(Error::Corrupt("offsets in a slot"))?;
            used.take(pair, PAIR)
        })?;
        for &t in &self.tables {
            used.take(t, table::SIZE)?;
        }
        Ok(used)
    }

    /// Calls `f` with table number, index and contents of every slot that is not unused.
    pub(crate) fn each_slot(
        &self,
        mut f: impl FnMut(usize, u16, Slot) -> Result<()>,
    ) -> Result<()> {
        let mut raw = RawTable::empty();
        for (t, &at) in self.tables.iter().enumerate() {
            self.store.read_by_call(at, &mut raw.0)?;
            for i in 0..self.sizes.slots {
                let slot = raw.slot(i);
                if !slot.is_unused() {
                    f(t, i, slot)?;
                }
            }
        }
        Ok(())
    }

    /// The used slots that are of this kind, in the order of their pairs: one behind the other those are found much sooner
    /// than at random.
    pub(super) fn slots_by_pair(&self, is: impl Fn(Slot) -> bool) -> Result<Vec<ByPair>> {
        let mut slots = Vec::new();
        self.each_slot(|table, index, slot| {
            if is(slot) {
                slots.try_reserve(1).map_err(|_| Error::Memory)?;
                slots.push((slot.a.unsigned_abs(), table, index));
            }
            Ok(())
        })?;
        slots.sort_unstable();
        Ok(slots)
    }

    /// Learns where the next pair goes; answers what is in use.
    ///
    /// # Errors
    /// Those of [`Engine::used`].
    pub(crate) fn survey(&mut self) -> Result<Used> {
        let used = self.used()?;
        self.survey_free(&used)?;
        Ok(used)
    }

    /// The same where it is known what is in use.
    pub(crate) fn survey_free(&mut self, used: &Used) -> Result<()> {
        let mut gaps = Vec::new();
        for (at, len) in used.free() {
            let mut p = at;
            while p + PAIR <= at + len && gaps.len() < GAPS {
                if self.is_zero(p, PAIR)? {
                    gaps.push(p);
                }
                p += PAIR;
            }
        }
        let st = self.st();
        // The lowest is taken first, from the back of the list.
        for (word, &gap) in st.gaps.iter().zip(gaps.iter().rev()) {
            word.store(gap, Relaxed);
        }
        st.gap_count.store(gaps.len() as u64, Relaxed);
        st.end.store(used.end(), Relaxed);
        st.surveyed.store(1, Relaxed);
        Ok(())
    }

    pub(crate) fn survey_once(&mut self) -> Result<()> {
        if self.st().surveyed.load(Relaxed) == 0 {
            self.survey()?;
        }
        Ok(())
    }
}
