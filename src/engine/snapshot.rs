//! All entries as they are at one moment, read in small steps, so that nobody waits for long.
//!
//! Every change of a pair changes its slot: the offsets or the tagged word. So what was read counts
//! as long as the slot has not moved, the file was not closed, which drops the tags, and the tables
//! were not made anew. A step that finds nothing left to read has seen one moment of the file.

use super::look::Content;
use super::{Engine, Place, State, Storage};
use crate::error::{Error, Result};
use crate::format::block::{self, KEY_LEN, Side};
use crate::format::slot::Slot;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

/// The entries of a database at one moment; made by [`crate::Database::snapshot`].
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Closes, layout, and whether it was the file itself that was read.
    life: Option<(u64, u64, bool)>,
    /// One for each slot, table after table.
    taken: Vec<Taken>,
}

#[derive(Debug, Default, Clone)]
struct Taken {
    slot: Slot,
    entry: Option<Entry>,
    damaged: bool,
}

#[derive(Debug, Clone)]
struct Entry {
    key: Box<[u8]>,
    value: Box<[u8]>,
}

impl Snapshot {
    /// Keys and values, ordered by key.
    pub fn entries(&self) -> BTreeMap<&[u8], &[u8]> {
        let mut all = BTreeMap::new();
        for e in self.taken.iter().filter_map(|t| t.entry.as_ref()) {
            // The original can leave a key twice in its chain: the first counts.
            all.entry(&e.key[..]).or_insert(&e.value[..]);
        }
        all
    }

    /// Records that were passed over because both copies are damaged.
    pub fn damaged(&self) -> u64 {
        self.taken.iter().filter(|t| t.damaged).count() as u64
    }
}

impl<S: Storage, H: AsRef<State>> Engine<S, H> {
    /// Reads at most `most` pairs that `snapshot` does not have as they are now. `None` if none is
    /// left: then it holds what the database holds now. Else the slots done and all slots.
    pub(crate) fn snapshot_step(
        &mut self,
        snapshot: &mut Snapshot,
        most: usize,
    ) -> Result<Option<(u64, u64)>> {
        self.ready()?;
        let life = (
            self.st().closes.load(Relaxed),
            self.layout,
            self.store.is_file(),
        );
        if snapshot.life != Some(life) {
            *snapshot = Snapshot {
                life: Some(life),
                ..Snapshot::default()
            };
        }
        let slots = usize::from(self.sizes.slots);
        let more = (self.tables.len() * slots).saturating_sub(snapshot.taken.len());
        snapshot
            .taken
            .try_reserve(more)
            .map_err(|_| Error::Memory)?;
        snapshot
            .taken
            .resize(snapshot.taken.len() + more, Taken::default());
        let mut left = most;
        for t in 0..self.tables.len() {
            let raw = self.raw_table(self.tables[t])?;
            for i in 0..self.sizes.slots {
                let n = t * slots + usize::from(i);
                if snapshot.taken[n].slot == raw.slot(i) {
                    continue;
                }
                if left == 0 {
                    return Ok(Some((n as u64, snapshot.taken.len() as u64)));
                }
                left -= 1;
                snapshot.taken[n] = self.take(t, i)?;
                if self.layout != life.1 || self.st().layout.load(Relaxed) != life.1 {
                    // The look at a pair has shown that the tables are wrong.
                    return Ok(Some((0, snapshot.taken.len() as u64)));
                }
            }
        }
        Ok(None)
    }

    fn take(&mut self, table: usize, index: u16) -> Result<Taken> {
        let place = self.place(table, index)?;
        let mut taken = Taken {
            slot: place.slot,
            ..Taken::default()
        };
        if place.pair == 0 || place.slot.is_deleted() {
            return Ok(taken);
        }
        match self.content(place)? {
            Content::Live(side) => taken.entry = Some(self.entry(&place, side)?),
            Content::Damaged => taken.damaged = true,
            Content::Deleted | Content::Nothing => {}
        }
        Ok(taken)
    }

    /// Key and value of the pair of a slot.
    fn entry(&self, place: &Place, side: Side) -> Result<Entry> {
        let at = self.front(place, side);
        let mut field = [0; KEY_LEN];
        self.store.read(at + block::KEY as u64, &mut field)?;
        let mut value = vec![0; self.read_value(place, side, &mut [])?];
        self.store.read(at + block::VALUE as u64, &mut value)?;
        Ok(Entry {
            key: block::key_in(&field).into(),
            value: value.into(),
        })
    }
}
