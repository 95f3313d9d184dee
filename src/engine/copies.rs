//! The stores of a change, in their order: copies of a pair, delimiters, slots. docs/design.md proves each.

use super::grown::slice;
use super::index::{self, print_of};
use super::state::intent;
use super::survey::ByPair;
use super::{Engine, Outcome, Pair, Place, State, Storage};
use crate::error::{Error, Result};
use crate::format::block::{self, PAIR, RawBlock, Side, Sums};
use crate::format::key::Key;
use crate::format::slot::{self, Slot, Word};
use crate::format::{PAGE, Sizes, put_u64, u64_at, word_of};
use std::ops::Range;
use std::sync::atomic::Ordering::{Relaxed, Release};

/// So many slots at a time are fetched before their turn.
const AHEAD: usize = 8;

/// The unit in which a medium loses writes.
pub(super) const SECTOR: u64 = 512;

/// With unusual sizes the checksum leaves a part of the value uncovered that lies outside the first sector: there a
/// sync must do what the checksum can't, so that is on the medium before the first sector has its checksum.
pub(super) fn has_uncovered_tail(sizes: Sizes) -> bool {
    let covered = block::KEY + sizes.covered();
    let value = block::VALUE + sizes.value as usize;
    covered < value && value > SECTOR as usize
}

/// Whether a slot at this offset goes on in the next sector, so that its word may be missing or come alone.
pub(super) fn is_across_sectors(at: u64) -> bool {
    at / SECTOR != (at + slot::WORD) / SECTOR
}

/// The words of a slot that lie furthest apart.
pub(super) fn slot_ends(place: &Place) -> [u64; 2] {
    [place.at, place.at + slot::WORD]
}

fn delimiters_of(pair: u64) -> [u64; 4] {
    let (a, b) = (Side::A.offset(pair), Side::B.offset(pair));
    let end = block::END as u64;
    [a, a + end, b, b + end]
}

impl<S: Storage, H: AsRef<State>> Engine<S, H> {
    /// Slot `n` of some is about to be dealt with: every now and then those that come next are made ready, of each the
    /// ranges that `of` names. What takes long is to find their pages, and that is done side by side.
    pub(super) fn fetch_ahead<const N: usize>(
        &self,
        slots: &[ByPair],
        n: usize,
        of: impl Fn(&Place) -> [(u64, usize); N],
    ) -> Result<()> {
        if n.is_multiple_of(AHEAD) {
            for &(_, t, i) in slots.iter().skip(n + AHEAD).take(AHEAD) {
                for (at, len) in of(&self.place(t, i)?) {
                    self.store.fetch(at, len);
                }
            }
        }
        Ok(())
    }

    /// Whether a copy has the start delimiter of a live one. If not, it gets its end delimiter after a sync:
    /// a live one beside what was there before would bring that back.
    pub(super) fn begins_live(&self, side: Side, pair: u64) -> Result<bool> {
        Ok(self.store.load(side.offset(pair))? == side.delimiters(true).0)
    }

    /// Stores words of the field that begins with the size of the value.
    pub(super) fn store_field(&self, field: u64, words: Range<usize>, value: &[u8]) -> Result<()> {
        let mut some = [0; 16];
        for from in words.clone().step_by(some.len()) {
            let some = &mut some[..(words.end - from).min(16)];
            block::value_words(value, from, some);
            self.store.store_all(field + 8 * from as u64, some)?;
        }
        Ok(())
    }

    /// Stores the key field of the block at `at`, if it holds another key.
    pub(super) fn store_key(&self, at: u64, key: &Key) -> Result<()> {
        let at = at + block::KEY as u64;
        if self.store.holds(at, key)? {
            return Ok(());
        }
        let mut field = [0; block::KEY_LEN / 8];
        for (i, word) in field.iter_mut().enumerate() {
            *word = word_of(key.bytes(), 8 * i);
        }
        self.store.store_all(at, &field)
    }

    /// The slot of a pair whose copy A is whole, and whose B is too, or deleted.
    pub(super) fn commit(&mut self, place: &Place, key: &Key, word: Word) -> Result<()> {
        let print = print_of(key.hash());
        self.write_slot(place, Slot::live(place.pair, word), print)?;
        self.end_intent();
        self.set_checked(place.pair, true);
        // Both copies were written as a whole, or were tidy before.
        self.tidy.set(place.pair, true);
        Ok(())
    }

    /// Both copies, with start delimiters if `begins`. Answers [`Sums::ours`] of them.
    pub(super) fn write_new_pair(
        &mut self,
        pair: u64,
        key: &[u8],
        value: &[u8],
        table: u64,
        begins: bool,
    ) -> Result<u32> {
        let mut both = match self.zeros.take() {
            Some(zeros) => zeros,
            None => (slice(PAIR as usize, || 0)?.try_into()).map_err(|_| Error::Memory)?,
        };
        let (a, b) = both.split_at_mut(block::SIZE);
        let in_parts = self.sizes.covers_all() && !value.is_empty();
        let sum = if in_parts {
            let sums = Sums::of(key, value, table);
            for half in [&mut *a, &mut *b] {
                block::fill(half, key, value, table);
                put_u64(half, block::CHECKSUM, u64::from(sums.checksum));
            }
            sums.ours
        } else {
            let mut block = RawBlock::new(self.sizes, Side::A, true, key, value, table);
            block.mark_empty(self.sizes);
            self.prepare_uncovered(pair, &block)?;
            for half in [&mut *a, &mut *b] {
                half[..block::END].copy_from_slice(&block.0[..block::END]);
            }
            block.sum()
        };
        if begins {
            put_u64(a, 0, Side::A.delimiters(true).0);
            put_u64(b, 0, Side::B.delimiters(true).0);
        }
        self.store.write_pair(pair, &both)?;
        if in_parts {
            for half in both.chunks_exact_mut(block::SIZE) {
                half[..block::VALUE + value.len()].fill(0);
                put_u64(half, block::TABLE, 0);
            }
            self.zeros = Some(both);
        }
        Ok(sum)
    }

    /// What the checksum of a new pair does not cover goes first.
    fn prepare_uncovered(&mut self, pair: u64, block: &RawBlock) -> Result<()> {
        if self.sizes.covers_all() {
            return Ok(());
        }
        self.store.allocate(pair, PAIR)?;
        if block.table() > 0 {
            // The checksum does not cover the table number; a pair that named table 0 instead
            // would take the slot of another key in the original's eyes.
            for side in [Side::A, Side::B] {
                self.store
                    .store(side.offset(pair) + block::TABLE as u64, block.table())?;
            }
            self.sync()?;
        }
        if has_uncovered_tail(self.sizes) {
            for side in [Side::A, Side::B] {
                let at = side.offset(pair) + SECTOR;
                let behind = &block.0[SECTOR as usize..block::END];
                self.replace(at, behind.len() as u64, |i| u64_at(behind, i))?;
            }
            self.sync()?;
        }
        Ok(())
    }

    /// The four delimiters of a pair are about to be stored.
    pub(super) fn fetch_ends(&self, place: &Place) {
        for at in delimiters_of(place.pair) {
            self.store.fetch(at, 8);
        }
    }

    /// Where a file system makes room at the first store into a page, it is made now for these words: a change that was begun
    /// in one page and refused in the next is neither done nor undone, and the next recovery may find the other one.
    pub(super) fn claim<const N: usize>(&self, words: [u64; N]) -> Result<()> {
        if self.store.is_lasting() {
            for at in words {
                self.store.store(at, self.store.load(at)?)?;
            }
        }
        Ok(())
    }

    /// The slot and the delimiters of both copies; the contents stay as they are until the close, so
    /// that a torn delete is a live pair or a deleted one and never anything else.
    pub(super) fn write_deleted(&mut self, place: &Place, sum: u32) -> Result<()> {
        let word = Word::tagged(place.slot.word.side(), self.epoch(), sum);
        self.claim(slot_ends(place))?;
        self.claim(delimiters_of(place.pair))?;
        self.begin_intent(place.at, place.pair, intent::DELETE);
        // As tidy as it was.
        self.checked.set(place.pair, false);
        self.write_slot(place, Slot::deleted(place.pair, word), index::DELETED)?;
        self.write_dead(place.pair)?;
        self.end_intent();
        Ok(())
    }

    /// Recovery: ends what was begun with a pair, so that everybody reads it as `outcome` from now on.
    pub(super) fn finish(&mut self, pair: &Pair, outcome: Outcome) -> Result<()> {
        match outcome {
            Outcome::Live(side) => {
                // A delete that did not happen. The end delimiter follows at the close.
                self.store
                    .store(side.offset(pair.at), side.delimiters(true).0)?;
                let other = side.other();
                let start = other.delimiters(true).0;
                if !pair.verdict(other).good
                    || pair.block(other).delimiters().0 != start
                    || pair.keys_differ()
                {
                    // Torn, not there yet, or still the deleted record that was in this place: with
                    // another delimiter alone, or the one that it has, it would become a value.
                    let mut block = pair.block(side).clone();
                    block.set_delimiters(other, true);
                    // Its end may be that of a deleted one.
                    block.mark_empty(self.sizes);
                    self.revive_a(pair.at, other)?;
                    self.write_copy(pair.at, other, &block, false)?;
                }
                Ok(())
            }
            Outcome::Deleted(side) => {
                let other = side.other();
                if !pair.verdict(other).good {
                    let mut block = pair.block(side).clone();
                    block.set_delimiters(other, false);
                    self.write_copy(pair.at, other, &block, true)?;
                }
                if pair.verdict(Side::A).good && self.begins_live(Side::A, pair.at)? {
                    // A put in front of a chain that is undone. While A is live to the original, B must be.
                    self.write_dead_copy(pair.at, Side::A)?;
                    self.sync()?;
                }
                self.write_dead(pair.at)
            }
            Outcome::Damaged => Ok(()),
        }
    }

    /// Zeroes pages that nothing names. End delimiters go first: one beside zeros is a copy with an empty key to the
    /// original. Where the checksum does not cover the table number, a pair must stop being one before that goes: it would
    /// take the slot of another key.
    pub(super) fn erase(&mut self, at: u64, len: u64) -> Result<()> {
        let ends = [Side::A, Side::B].map(|side| [true, false].map(|live| side.delimiters(live).1));
        let mut some = false;
        let mut bytes = [0; PAGE as usize];
        for page in (at..at + len).step_by(PAGE as usize) {
            let end = page + PAGE - 8;
            self.store.read_by_call(page, &mut bytes)?;
            let ends_here = ends
                .as_flattened()
                .contains(&u64_at(&bytes, PAGE as usize - 8));
            let begins_here = !self.sizes.covers_all() && u64_at(&bytes, 0) != 0;
            for (word, goes) in [(end, ends_here), (page, begins_here)] {
                if goes {
                    self.store.store(word, 0)?;
                    some = true;
                }
            }
        }
        if some {
            self.sync()?;
        }
        self.zero(at, len)
    }

    fn write_dead(&self, pair: u64) -> Result<()> {
        self.write_dead_copy(pair, Side::A)?;
        self.write_dead_copy(pair, Side::B)
    }

    fn write_dead_copy(&self, pair: u64, side: Side) -> Result<()> {
        let (start, end) = side.delimiters(false);
        self.store.store(side.offset(pair), start)?;
        self.store.store(side.offset(pair) + block::END as u64, end)
    }

    /// Offset of A last: it is what makes a slot used. `print`: what the slot holds from now on.
    pub(super) fn write_slot(&mut self, place: &Place, slot: Slot, print: u16) -> Result<()> {
        let slot = match slot.word.is_of_live() && slot.a > 0 && is_across_sectors(place.at) {
            true => slot.of_put(),
            false => slot,
        };
        let before = self.announce_slot(place.index);
        let (a, b) = (slot.a as u64, slot.b as u64);
        self.store_in_slot(place, [(slot::WORD, slot.word.0), (slot::B, b), (0, a)])?;
        self.changed_slot(place, &slot, print, before);
        Ok(())
    }

    /// The word of a slot: with it an overwrite counts.
    pub(super) fn store_word(&self, place: &Place, word: Word) -> Result<()> {
        self.store_in_slot(place, [(slot::WORD, word.0)])
    }

    /// The offset of B of a slot, or what stands in place of it.
    pub(super) fn store_b(&self, place: &Place, b: u64) -> Result<()> {
        self.store_in_slot(place, [(slot::B, b)])
    }

    /// Words of a slot, by their offsets in it. From before the first one on nothing that is kept of its chain counts, also if we
    /// die behind it; what is read behind the last one may be kept.
    #[inline(always)]
    fn store_in_slot<const N: usize>(&self, place: &Place, words: [(u64, u64); N]) -> Result<()> {
        let written = self.st().written.get(place.index as usize);
        let odd = written.map_or(0, |written| written.load(Relaxed)) | 1;
        if let Some(written) = written {
            // In front of the stores, each of which is a release.
            written.store(odd, Relaxed);
        }
        for (at, word) in words {
            self.store.store(place.at + at, word)?;
        }
        if let Some(written) = written {
            written.store(odd.wrapping_add(1), Release);
        }
        Ok(())
    }

    /// Before a copy is mended beside a live B that is on the medium and counts. A copy A that begins as a deleted
    /// one becomes live, with its old contents: the original gives a pair up whose A is deleted and bad.
    pub(super) fn revive_a(&mut self, pair: u64, side: Side) -> Result<()> {
        if side == Side::A && !self.begins_live(side, pair)? {
            self.store.store(pair, side.delimiters(true).0)?;
            self.sync()?;
        }
        Ok(())
    }

    /// Writes over one copy: its checksum is invalid from the first store to the last, and in its
    /// first sector no prefix of the stores looks whole. `end`: also the end delimiter.
    pub(super) fn write_copy(
        &mut self,
        pair: u64,
        side: Side,
        block: &RawBlock,
        end: bool,
    ) -> Result<()> {
        let at = side.offset(pair);
        let word = |i: usize| u64_at(&block.0[..], i);
        self.store
            .store(at + block::CHECKSUM as u64, block::WRITING)?;
        if has_uncovered_tail(self.sizes) {
            self.sync()?;
        }
        let tail = if end { block::SIZE } else { block::END } as u64;
        self.replace(at + SECTOR, tail - SECTOR, |i| word(SECTOR as usize + i))?;
        if has_uncovered_tail(self.sizes) {
            self.sync()?;
        }
        let key = block::KEY as u64;
        self.replace(at + key, SECTOR - key, |i| word(block::KEY + i))?;
        self.store.store(at, word(0))?;
        self.store
            .store(at + block::CHECKSUM as u64, word(block::CHECKSUM))
    }
}
