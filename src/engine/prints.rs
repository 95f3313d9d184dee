//! Fingerprints of the keys, so that a look-up touches no pair but the one that it wants.
//!
//! For each slot a handle remembers one word for each table of the chain: what the slot holds, or
//! 32 bits of the hash of the key. They are made when the slot is first used and believed as long
//! as [`State::changes`] of that slot has not moved; every change of which key is where moves it.
//! Overwrites do not. Memory: 4 bytes a key and handle.

use super::look::Content;
use super::{Engine, Place, State, Storage};
use crate::error::{Error, Result};
use crate::format::block::{self, KEY_LEN, Side};
use crate::format::hash;
use std::sync::atomic::Ordering::Relaxed;

/// The slot was never used.
pub(crate) const UNUSED: u32 = 0;
/// The slot holds a deleted pair.
pub(crate) const DELETED: u32 = 1;
/// The slot names no pair, or one that is not to be served.
pub(crate) const NOTHING: u32 = 2;
/// Both copies of the pair are damaged; its key may be any.
pub(crate) const DAMAGED: u32 = 3;
const FIRST_PRINT: u32 = 4;

/// The fingerprint of a key with this hash. All keys of a slot share the hash modulo the number of
/// slots, so other bits are taken.
pub(crate) fn print_of(hash: u64) -> u32 {
    let mixed = (hash.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32;
    mixed.max(FIRST_PRINT)
}

/// What a handle remembers of one slot.
#[derive(Default, Clone)]
pub(crate) struct Prints {
    /// [`State::changes`] when they were made.
    changes: u32,
    /// One for each table of the chain.
    pub words: Vec<u32>,
}

impl<S: Storage, H: AsRef<State>> Engine<S, H> {
    fn changes(&self, index: u16) -> u32 {
        let word = self.st().changes.get(index as usize);
        word.map_or(0, |w| w.load(Relaxed))
    }

    /// The fingerprints of a slot, made anew if they are old.
    pub(crate) fn prints(&mut self, index: u16) -> Result<&[u32]> {
        let n = index as usize;
        loop {
            if self.prints.len() <= n {
                let slots = self.sizes.slots as usize;
                let more = slots - self.prints.len();
                self.prints.try_reserve(more).map_err(|_| Error::Memory)?;
                self.prints.resize(slots, Prints::default());
            }
            let (changes, tables) = (self.changes(index), self.tables.len());
            let mine = &mut self.prints[n];
            if mine.changes == changes && mine.words.len() == tables {
                break;
            }
            let mut words = std::mem::take(&mut mine.words);
            if mine.changes != changes || words.len() > tables {
                words.clear();
            }
            words
                .try_reserve(tables - words.len())
                .map_err(|_| Error::Memory)?;
            // A first touch can lead to a repair that changes the chain: then all begins anew. It
            // happens once to a pair.
            while words.len() < self.tables.len() && self.changes(index) == changes {
                let place = self.place(words.len(), index)?;
                words.push(self.print_at(&place)?);
            }
            if let Some(mine) = self.prints.get_mut(n) {
                *mine = Prints { changes, words };
            }
        }
        Ok(&self.prints[n].words)
    }

    fn print_at(&mut self, place: &Place) -> Result<u32> {
        if place.slot.is_unused() {
            return Ok(UNUSED);
        }
        if place.pair == 0 {
            return Ok(NOTHING);
        }
        if place.slot.is_deleted() {
            return Ok(DELETED);
        }
        Ok(match self.content(*place)? {
            Content::Live(side) => print_of(self.hash_at(place.pair, side)?),
            Content::Deleted => DELETED,
            Content::Nothing => NOTHING,
            Content::Damaged => DAMAGED,
        })
    }

    fn hash_at(&self, pair: u64, side: Side) -> Result<u64> {
        let mut field = [0; KEY_LEN];
        self.store
            .read(side.offset(pair) + block::KEY as u64, &mut field)?;
        let n = field.iter().position(|&b| b == 0).unwrap_or(KEY_LEN);
        Ok(hash::djb2(&field[..n]))
    }

    /// A slot has been written: everybody's fingerprints of it are old, but ours can follow.
    pub(crate) fn changed_slot(&mut self, place: &Place, print: u32) {
        let n = place.index as usize;
        let Some(word) = self.st().changes.get(n) else {
            return;
        };
        let before = word.fetch_add(1, Relaxed);
        if let Some(p) = self.prints.get_mut(n)
            && p.changes == before
            && let Some(w) = p.words.get_mut(place.table)
        {
            *w = print;
            p.changes = before.wrapping_add(1);
        }
    }
}
