//! A slot of a hash table: three words, {offset of A, offset of B, current}.
//!
//! | A, B | state |
//! |---|---|
//! | 0, 0 | never used; a look-up in the original stops here |
//! | > 0 | live |
//! | < 0 | deleted: the pair at -A may be used again by any key of this slot |
//!
//! `current` 0 means that copy A holds the value, anything else copy B. In a cleanly closed file it
//! is 0 or 1. From a change to the clean close, while table 0 carries the mark and only this
//! library reads the slots, it is a [`Word`] with a tag that also has a sum of the current copy
//! and says in which epoch the pair was changed. In that time the offset of B, which that of A tells as well,
//! can instead name a [`super::record`] that holds the value (from the top: bits 0, 1, 0, then 13 of its lap, 48 of
//! where its front is), or say that the slot was written by a put: then its word is one of
//! that put or a later change, or has not arrived ([`Slot::is_of_put`]).

use super::block::{PAIR, Side};
use super::{PAGE, record};

/// Bytes of a slot.
pub const SIZE: u64 = 24;
/// Offset of block B's offset in a slot.
pub const B: u64 = 8;
/// Offset of the third word.
pub const WORD: u64 = 16;

/// The third word of a slot.
///
/// Untagged: 0 or anything else. Tagged, from the top: 1 bit tag, 1 bit current copy, 1 bit that is set if the
/// close makes the other one current, 1 bit that is set if both copies were written for it, 1 bit that is set if the pair
/// was deleted with it, 27 bits epoch, 32 bits [`super::block::Sums::ours`] of the current copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Word(pub u64);

const TAG: u64 = 1 << 63;
const SIDE: u64 = 1 << 62;
const TURNED: u64 = 1 << 61;
const BOTH: u64 = 1 << 60;
const DELETED: u64 = 1 << 59;
const EPOCH: u64 = (1 << 27) - 1;

/// Set in the offset of B that names a record.
const RECORD: i64 = 1 << 62;
/// The bits above the record's place have its lap.
const LAP: u32 = 48;
/// So many laps have names of their own.
pub const LAPS: u64 = 1 << (61 - LAP);
/// Set in the offset of B by a put.
const PUT: i64 = 1 << 61;

impl Word {
    /// A word for a pair that was changed in `epoch` and whose current copy has this sum.
    pub fn tagged(side: Side, epoch: u64, sum: u32) -> Self {
        let side = if side == Side::B { SIDE } else { 0 };
        Self(TAG | side | (epoch & EPOCH) << 32 | u64::from(sum))
    }

    /// The same for a pair of which both copies were written as the current one.
    pub fn of_both(self) -> Self {
        Self(self.0 | BOTH)
    }

    /// Whether the other copy has this sum too, if all that was written with it is there.
    pub fn is_of_both(self) -> bool {
        self.is_tagged() && self.0 & BOTH != 0
    }

    /// What a cleanly closed file says: 0 for A, 1 for B.
    pub fn clean(side: Side) -> Self {
        Self(u64::from(side == Side::B))
    }

    /// The same for a pair that is deleted.
    pub fn of_deleted(self) -> Self {
        let bit = if self.is_tagged() { DELETED } else { 0 };
        Self(self.0 | bit)
    }

    /// Whether it is the word of a live pair that was changed in an unfinished life.
    pub fn is_of_live(self) -> bool {
        self.is_tagged() && self.0 & DELETED == 0
    }

    /// The current copy.
    #[inline(always)]
    pub fn side(self) -> Side {
        let b = if self.is_tagged() {
            self.0 & SIDE != 0
        } else {
            self.0 != 0
        };
        if b { Side::B } else { Side::A }
    }

    /// The same word, but for which copy the close makes current.
    pub fn turned(self, turned: bool) -> Self {
        if !self.is_tagged() {
            return self;
        }
        let bit = if turned { TURNED } else { 0 };
        Self(self.0 & !TURNED | bit)
    }

    /// Whether the close makes the other copy current: the original would have written that one last.
    pub fn is_turned(self) -> bool {
        self.is_tagged() && self.0 & TURNED != 0
    }

    /// The copy that the close makes current.
    pub fn last_side(self) -> Side {
        if self.is_turned() {
            self.side().other()
        } else {
            self.side()
        }
    }

    /// Whether this is a word of a pair that was changed in an unfinished life.
    #[inline(always)]
    pub fn is_tagged(self) -> bool {
        self.0 & TAG != 0
    }

    /// The sum that the current copy must have; `None` without a tag.
    pub fn sum(self) -> Option<u32> {
        self.is_tagged().then_some(self.0 as u32)
    }

    /// Whether the pair was changed in this epoch. Epochs are compared modulo 2^27: a false yes
    /// costs a sync.
    pub fn changed_in(self, epoch: u64) -> bool {
        self.is_tagged() && (self.0 >> 32) & EPOCH == epoch & EPOCH
    }
}

/// A slot as it stands in the file, its offsets unchecked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Slot {
    /// Offset of block A, negative for a deleted pair.
    pub a: i64,
    /// Offset of block B, of the same sign; or it names a record.
    pub b: i64,
    /// Which copy is current.
    pub word: Word,
}

impl Slot {
    /// Never used.
    pub fn is_unused(&self) -> bool {
        self.a == 0 && self.b == 0
    }

    /// Holds a deleted pair.
    pub fn is_deleted(&self) -> bool {
        self.a < 0 || (self.a == 0 && self.b < 0)
    }

    /// The pair, if both offsets agree and it lies on a page boundary inside a file of `len` bytes.
    ///
    /// A slot may straddle two sectors of which a power cut kept one: then one offset is still 0,
    /// or of the other sign.
    pub fn pair(&self, len: u64) -> Option<u64> {
        let Self { a, b, .. } = self.of_nobody();
        let (a, b) = (a.unsigned_abs(), b.unsigned_abs());
        let half = PAIR / 2;
        let at = if a != 0 { a } else { b.checked_sub(half)? };
        let agrees = b == 0 || b == at.checked_add(half)? || self.record().is_some();
        (agrees && at >= PAGE && at % PAGE == 0 && at.checked_add(PAIR)? <= len).then_some(at)
    }

    /// Where the front of the record is that holds the value of this live slot.
    #[inline(always)]
    pub fn record(&self) -> Option<u64> {
        if self.b & RECORD == 0 || self.a <= 0 || self.b < 0 {
            return None;
        }
        let front = self.b as u64 & ((1 << LAP) - 1);
        let first = record::FIRST + record::FRONT;
        (front % PAGE % record::STEP == first).then_some(front)
    }

    /// The same slot, but that it says that a put has written it.
    pub fn of_put(self) -> Self {
        Self {
            b: self.b | PUT,
            ..self
        }
    }

    /// The same slot without that.
    pub fn of_nobody(self) -> Self {
        let bit = if self.is_of_put() { PUT } else { 0 };
        Self {
            b: self.b ^ bit,
            ..self
        }
    }

    /// Whether a put has written it. Only slots that lie across the end of a sector say so.
    pub fn is_of_put(&self) -> bool {
        self.b > 0 && self.b & (PUT | RECORD) == PUT
    }

    /// What stands for the offset of B if the value is in the record of this lap with this front.
    pub fn b_of_record(front: u64, lap: u64) -> u64 {
        front | (lap % LAPS) << LAP | RECORD as u64
    }

    /// Whether both offsets are there and of one sign.
    pub fn is_whole(&self) -> bool {
        self.a.signum() == self.b.signum()
    }

    /// The slot of the pair at `at`.
    pub fn live(at: u64, word: Word) -> Self {
        Self {
            a: at as i64,
            b: (at + PAIR / 2) as i64,
            word,
        }
    }

    /// The slot of the deleted pair at `at`.
    pub fn deleted(at: u64, word: Word) -> Self {
        let word = word.of_deleted();
        let s = Self::live(at, word);
        Self {
            a: -s.a,
            b: -s.b,
            word,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let w = Word::tagged(Side::B, 7, 0xdead_beef);
        assert_eq!((w.side(), w.sum()), (Side::B, Some(0xdead_beef)));
        assert!(!w.is_of_both() && w.of_both().is_of_both() && !Word(u64::MAX >> 1).is_of_both());
        assert!(
            w.is_of_live() && !w.of_deleted().is_of_live() && !Word::clean(Side::B).is_of_live()
        );
        let all = w.of_both().of_deleted().turned(true);
        assert_eq!(
            (all.sum(), all.side(), all.changed_in(7)),
            (w.sum(), w.side(), true)
        );
        assert!(w.changed_in(7) && !w.changed_in(8) && w.changed_in(7 + (1 << 27)));
        assert_eq!(Word(0).side(), Side::A);
        assert_eq!(Word(77).side(), Side::B);
        assert!(!Word(1).changed_in(0));
    }

    #[test]
    fn a_slot_of_a_put_names_the_same_pair() {
        let slot = Slot::live(16384, Word(0));
        let put = slot.of_put();
        assert!(put.is_of_put() && put.is_whole() && !slot.is_of_put());
        assert_eq!(put.pair(1 << 20), Some(16384));
        assert_eq!(Slot { a: 0, ..put }.pair(1 << 20), Some(16384));
        assert_eq!(put.record(), None);
        let front = (1 << 20) + record::FIRST + record::FRONT;
        for lap in [0, 1, LAPS - 1, LAPS] {
            let named = Slot {
                b: Slot::b_of_record(front, lap) as i64,
                ..slot
            };
            assert!(!named.is_of_put() && named.is_whole());
            assert_eq!(named.record(), Some(front));
        }
        assert_ne!(Slot::b_of_record(front, 1), Slot::b_of_record(front, 2));
        assert!(!Slot::deleted(16384, Word(0)).is_of_put());
    }

    #[test]
    fn offsets_out_of_range_name_no_pair() {
        let len = 1 << 20;
        let pair = |a, b| {
            Slot {
                a,
                b,
                word: Word(0),
            }
            .pair(len)
        };
        assert_eq!(pair(16384, 24576), Some(16384));
        assert_eq!(pair(-16384, -24576), Some(16384));
        assert_eq!(pair(16384, 0), Some(16384));
        assert_eq!(pair(0, 24576), Some(16384));
        assert_eq!(pair(-16384, 24576), Some(16384));
        for (a, b) in [
            (0, 0),
            (0, 4096),
            (16384, 24577),
            (16385, 24577),
            (i64::MIN, 0),
            (i64::MIN, i64::MIN),
            (i64::MAX, i64::MAX),
            (1 << 20, (1 << 20) + 8192),
            ((1 << 20) - 8192, 1 << 20),
        ] {
            assert_eq!(pair(a, b), None, "{a} {b}");
        }
    }
}
