//! Where new pairs and tables go: gaps, the end of the file, and how that moves.

use super::state::intent;
use super::{Engine, OLD_LIMIT, State, Storage};
use crate::error::{Error, Result};
use crate::format::block::PAIR;
use crate::format::table::{self, RawTable};
use crate::format::{PAGE, u64_at};
use std::io;
use std::sync::atomic::Ordering::Relaxed;

/// The file grows by an eighth, but by no less and no more than this.
const STEP: (u64, u64) = (64 << 10, 4 << 20);

impl<S: Storage, H: AsRef<State>> Engine<S, H> {
    /// A zeroed place for a pair: inside the file if there is one, and whether it is. It may have no
    /// place on the medium yet.
    pub(super) fn room_for_pair(&mut self) -> Result<(u64, bool)> {
        let st = self.st();
        let n = st.gap_count.load(Relaxed);
        if n > 0
            && let Some(gap) = st.gaps.get(n as usize - 1)
        {
            return Ok((gap.load(Relaxed), true));
        }
        let at = st.end.load(Relaxed);
        self.make_room(at, PAIR)?;
        Ok((at, false))
    }

    /// Makes the file reach `bytes` behind `at`, in one step: it must never end inside a pair. And
    /// beyond, by whole pairs, because each growth is a change of the file's length.
    fn make_room(&mut self, at: u64, bytes: u64) -> Result<()> {
        let need = at
            .checked_add(bytes)
            .ok_or(Error::Corrupt("offset out of range"))?;
        let log = self.st().log.load(Relaxed);
        if log != 0 && need > log {
            self.end_log()?;
        }
        let known = self.store.known_len();
        if need <= known && known.is_multiple_of(PAGE) {
            return Ok(());
        }
        let len = self.store.len()?;
        if need > len || len % PAGE != 0 {
            let limit = self.limit();
            if need > limit {
                return Err(io::Error::from_raw_os_error(libc::EFBIG).into());
            }
            let want = need.saturating_add(self.room(need));
            let want = want.next_multiple_of(PAGE).min(limit);
            if self.extend(want).is_err() {
                self.extend(need.next_multiple_of(PAGE))?;
            }
            if at < len {
                // The file must not end inside what is written there.
                self.sync()?;
            }
        }
        Ok(())
    }

    /// How much room for new pairs there is to be behind so many bytes.
    pub(super) fn room(&self, need: u64) -> u64 {
        (need / 8).clamp(STEP.0, STEP.1).next_multiple_of(PAIR)
    }

    /// How long the file may become.
    pub(super) fn limit(&self) -> u64 {
        match self.large {
            true => u64::MAX - PAGE,
            false => OLD_LIMIT,
        }
    }

    /// Appends an empty table and links it; answers its number.
    pub(super) fn append_table(&mut self) -> Result<usize> {
        let log = self.st().log.load(Relaxed);
        self.end_log()?;
        if log != 0 {
            // Or the next one would begin behind its place.
            self.truncate(log)?;
        }
        let at = self.st().end.load(Relaxed);
        self.make_room(at, table::SIZE)?;
        self.store.allocate(at, table::SIZE)?;
        // A store into a page that is not there yet would have those around it read.
        self.store.fill(at, table::SIZE)?;
        // One pair or more fits behind it, and no part of one, so that none of them will cross the end that the file has
        // now, which would cost a sync.
        let (end, len) = (at + table::SIZE, self.store.known_len());
        let behind = len.saturating_sub(end).next_multiple_of(PAIR).max(PAIR);
        if end.saturating_add(behind) > self.limit() {
            return Err(io::Error::from_raw_os_error(libc::EFBIG).into());
        }
        self.extend(end + behind)?;
        let slot = match self.tables.last() {
            Some(&last) => table::slot_offset(last, table::SLOTS as u16),
            None => at,
        };
        self.begin_intent(slot, 0, intent::PAIR);
        let raw = RawTable::empty();
        self.store.store(at + table::CHECKSUM, table::MARK)?;
        for i in [0, table::END] {
            self.store.store(at + i, u64_at(&raw.0, i as usize))?;
        }
        // Before any pair names it, and before any link leads to it. Alone: the pairs before it can wait.
        self.sync_range(at, table::SIZE)?;
        if let Some(&last) = self.tables.last() {
            self.set_link(last, at)?;
        }
        self.tables.try_reserve(1).map_err(|_| Error::Memory)?;
        self.tables.push(at);
        self.st().tables.store(self.tables.len() as u64, Relaxed);
        self.st().end.store(at + table::SIZE, Relaxed);
        self.end_intent();
        Ok(self.tables.len() - 1)
    }

    pub(super) fn set_link(&self, table: u64, next: u64) -> Result<()> {
        if (self.sizes.slots as usize) < table::SLOTS {
            self.store
                .store(table::slot_offset(table, self.sizes.slots), next)?;
        }
        self.store
            .store(table::slot_offset(table, table::SLOTS as u16), next)
    }
}
