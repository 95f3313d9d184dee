//! Both copies of a pair, and what they amount to.

use super::copies::{SECTOR, has_uncovered_tail};
use crate::format::block::{self, Kind, RawBlock, Side, Verdict};
use crate::format::slot::{Slot, Word};
use crate::format::{Sizes, hash, u64_at};
use std::cmp::Ordering;

/// What the two copies of a pair and the word of its slot amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The value is in this copy.
    Live(Side),
    /// Deleted; this copy is the good one.
    Deleted(Side),
    /// Neither copy can be believed.
    Damaged,
}

/// Both copies of a pair, read and checked.
pub(crate) struct Pair {
    pub at: u64,
    pub blocks: [RawBlock; 2],
    pub verdicts: [Verdict; 2],
}

impl Pair {
    /// The pair at `at` that these blocks are.
    pub fn check(at: u64, blocks: [RawBlock; 2], sizes: Sizes) -> Self {
        let verdicts = [Side::A, Side::B].map(|s| blocks[s as usize].check(sizes, s));
        Self {
            at,
            blocks,
            verdicts,
        }
    }

    pub fn block(&self, side: Side) -> &RawBlock {
        &self.blocks[side as usize]
    }

    pub fn verdict(&self, side: Side) -> Verdict {
        self.verdicts[side as usize]
    }

    /// The pair as the one of `slot` in table number `table`: of two good copies that hold different keys
    /// that one counts which names this place, if one of them does.
    pub fn of_slot(mut self, table: u64, slot: u16, sizes: Sizes) -> Self {
        let [a, b] = self.verdicts;
        let differ = self.block(Side::A).key() != self.block(Side::B).key();
        if a.good && b.good && differ {
            let near = |side: Side| {
                let own = !self.belongs_elsewhere(side, slot, sizes);
                (own, own && self.block(side).table() == table)
            };
            let loser = match near(Side::A).cmp(&near(Side::B)) {
                Ordering::Less => Side::A,
                Ordering::Greater => Side::B,
                Ordering::Equal => return self,
            };
            self.verdicts[loser as usize].good = false;
        }
        self
    }

    /// The pair whose slot has this word. Where it was written behind both copies, a live one that is not as it says has not arrived
    /// as a whole, whatever its checksum says: unless it has the end delimiter, which nobody writes before the rest is on the medium, or
    /// the original has written it.
    pub fn of_word(self, word: Word) -> Self {
        self.doubted(|pair, side| word.is_of_both() && word.sum() != Some(pair.verdict(side).sum))
    }

    /// Whether the copy that a word names is good and the one that it knows.
    pub fn holds(&self, word: Word) -> bool {
        let named = self.verdict(word.side());
        named.good && word.sum() == Some(named.sum)
    }

    /// The pair of this slot in a file that was not closed. A put whose slot has not arrived was not on the medium: what it has
    /// begun counts only where it is surely there as a whole.
    pub fn after_a_cut(self, slot: &Slot, sizes: Sizes) -> Self {
        let pair = self.of_word(slot.word);
        let complete = !slot.is_deleted() && slot.is_whole() && !slot.is_of_put();
        // A delete leaves the contents as they are.
        if complete || slot.word.is_of_live() || pair.holds(slot.word) {
            return pair;
        }
        pair.only_surely_whole(sizes)
    }

    /// The pair of a put whose slot has not arrived.
    pub fn only_surely_whole(self, sizes: Sizes) -> Self {
        self.doubted(|pair, side| !pair.is_surely_whole(side, sizes))
    }

    fn doubted(mut self, is_doubtful: impl Fn(&Self, Side) -> bool) -> Self {
        for side in [Side::A, Side::B] {
            let live = self.verdict(side).kind == Kind::Live;
            if live && !self.is_ended(side) && is_doubtful(&self, side) {
                self.verdicts[side as usize].good = false;
            }
        }
        self
    }

    /// Whether a copy has the end delimiter of a live one.
    pub fn is_ended(&self, side: Side) -> bool {
        self.block(side).delimiters().1 == side.delimiters(true).1
    }

    /// Whether no sector of a good copy can be missing that was never on the medium. Within the first one the start delimiter comes last. Of the
    /// others the last word is there, if it was written into zeros and is none; or they were on the medium before.
    fn is_surely_whole(&self, side: Side, sizes: Sizes) -> bool {
        let block = self.block(side);
        let end = block::VALUE + block.value(sizes).len();
        let sector = SECTOR as usize;
        let into_zeros = block.delimiters().1 == 0;
        end <= sector
            || has_uncovered_tail(sizes)
            || into_zeros
                && (sector..end).step_by(sector).all(|from| {
                    let last = end.min(from + sector) - 1;
                    u64_at(&block.0[..], last - last % 8) != 0
                })
    }

    fn belongs_elsewhere(&self, side: Side, slot: u16, sizes: Sizes) -> bool {
        hash::slot(self.block(side).key(), sizes.slots) != slot
    }

    /// Whether the copy that counts holds the key of another slot.
    pub fn is_foreign(&self, outcome: Outcome, slot: u16, sizes: Sizes) -> bool {
        match outcome {
            Outcome::Live(side) | Outcome::Deleted(side) => {
                self.belongs_elsewhere(side, slot, sizes)
            }
            Outcome::Damaged => false,
        }
    }

    /// What one copy says by itself.
    pub fn outcome_of(&self, side: Side) -> Outcome {
        match self.verdict(side) {
            Verdict {
                good: true,
                kind: Kind::Live,
                ..
            } => Outcome::Live(side),
            Verdict {
                good: true,
                kind: Kind::Deleted,
                ..
            } => Outcome::Deleted(side),
            _ => Outcome::Damaged,
        }
    }

    /// Whether one copy says something.
    pub fn is_good(&self, side: Side) -> bool {
        self.outcome_of(side) != Outcome::Damaged
    }

    /// Whether both do.
    pub fn is_intact(&self) -> bool {
        self.is_good(Side::A) && self.is_good(Side::B)
    }

    /// Which copy counts. `word` is the third word of the pair's slot, if that can be believed.
    ///
    /// Whether the pair is deleted is copy A's to say, as for the original, so that both always
    /// agree; B is asked only where A is nothing or not good.
    pub fn outcome(&self, word: Option<Word>) -> Outcome {
        match (self.outcome_of(Side::A), self.outcome_of(Side::B)) {
            (Outcome::Damaged, b) => b,
            (Outcome::Deleted(side), _) => Outcome::Deleted(side),
            (Outcome::Live(_), b) => {
                let b_lives = matches!(b, Outcome::Live(_));
                // The slot is ours, from an unfinished life. If the copy that it names is not the
                // one that it knows, that copy did not reach the medium whole: then the other one
                // had not been touched since the last sync.
                let arrived = |w: Word| self.is_good(w.side()) && self.holds(w);
                match word {
                    // As the original: B, if it lives.
                    None if b_lives => b,
                    Some(w) if !w.is_tagged() && w.side() == Side::B => match b {
                        Outcome::Live(_) => b,
                        // A delete of ours keeps the contents; an emptied B is the original's.
                        Outcome::Deleted(_)
                            if !self.block(Side::B).is_emptied()
                                && self.block(Side::A).key() == self.block(Side::B).key() =>
                        {
                            Outcome::Live(Side::B)
                        }
                        _ => Outcome::Live(Side::A),
                    },
                    Some(w) if w.is_tagged() && w.side() == Side::B && arrived(w) => match b {
                        // Either only B's delimiters of a delete arrived, or not this put of a value that the
                        // deleted B has had: live is right in both.
                        Outcome::Deleted(_)
                            if w.is_of_live() && !self.block(Side::B).is_emptied() =>
                        {
                            Outcome::Live(Side::B)
                        }
                        // Live, or deleted: then of this delete A's delimiters did not arrive, or of
                        // the put that followed it A alone did.
                        _ => b,
                    },
                    Some(w) if w.is_tagged() && w.side() == Side::A && !arrived(w) && b_lives => b,
                    _ => Outcome::Live(Side::A),
                }
            }
        }
    }

    /// Whether both copies hold the same, by their bytes: over zeros checksums can agree by chance.
    pub fn is_same(&self) -> bool {
        let [a, b] = &self.blocks;
        a.0[block::KEY..block::END] == b.0[block::KEY..block::END]
    }

    pub fn keys_differ(&self) -> bool {
        self.block(Side::A).key() != self.block(Side::B).key()
    }

    /// Whether both copies have this table's number, and zeros behind key and value.
    pub fn is_tidy(&self, table: usize) -> bool {
        let tidy = |b: &RawBlock| b.is_tidy() && b.table() == table as u64;
        self.blocks.iter().all(tidy)
    }

    /// Whether copy A is what this word names, and B still the deleted record that was in this place before.
    pub fn is_put_again_in_a(&self, word: Word) -> bool {
        let b = self.verdict(Side::B);
        let named = word.side() == Side::A && self.holds(word);
        let live = self.block(Side::A).delimiters().0 == Side::A.delimiters(true).0;
        named && live && b.good && b.kind == Kind::Deleted
    }

    /// Whether recovery has something to finish in this pair: a deleted one that lacks a delimiter
    /// of a deleted one, a live one of which not both copies are good, of one key, and begin as live ones.
    pub fn is_unfinished(&self, outcome: Outcome) -> bool {
        let found = |side: Side| self.block(side).delimiters();
        let mut sides = [Side::A, Side::B].into_iter();
        match outcome {
            Outcome::Live(_) => {
                self.keys_differ()
                    || sides.any(|s| !self.verdict(s).good || found(s).0 != s.delimiters(true).0)
            }
            Outcome::Deleted(_) => {
                sides.any(|s| !self.verdict(s).good || found(s) != s.delimiters(false))
            }
            Outcome::Damaged => false,
        }
    }
}
