//! A hash table: 12288 bytes.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | start delimiter 0x33333333 |
//! | 8 | 8 | checksum of the 12264 bytes at 16 |
//! | 16 | 511 x 24 | slots; slot 510 .offsetA is the offset of the next table, 0 in the last |
//! | 12280 | 8 | end delimiter 0xCCCCCCCC |
//!
//! A file with fewer than 510 slots a table keeps the link in slot htSize as well.

use super::checksum::checksum;
use super::slot::{self, Slot, Word};
use super::{put_u64, u64_at};

/// Bytes of a table.
pub const SIZE: u64 = 12288;
/// Slots that can hold data; the slot behind them holds the link.
pub const SLOTS: usize = 510;
/// Offset of the checksum.
pub const CHECKSUM: u64 = 8;
/// Offset of slot 0.
pub const FIRST_SLOT: u64 = 16;
/// Offset of the end delimiter.
pub const END: u64 = 12280;
/// The start delimiter.
pub const START_DELIMITER: u64 = 0x3333_3333;
/// The end delimiter.
pub const END_DELIMITER: u64 = 0xCCCC_CCCC;
/// In place of the checksum of table 0: this library is changing the file, slots are up to date.
/// No computed checksum equals it, so the original rebuilds from the pairs.
pub const MARK: u64 = u64::MAX;
/// In place of the checksum of table 0 while a walk makes the tables of a file anew that this library was changing. No
/// computed checksum equals it. What slots say of copies can be believed, old or new.
pub const REBUILDING: u64 = 0xFFFF_FFFF_0000_0000;
/// The same of any other file: only tables with [`MARK`] can be believed, not this one.
pub const REBUILDING_SOME: u64 = REBUILDING | 1;
/// The same, and this one as well.
pub const REBUILDING_FIRST: u64 = REBUILDING | 3;

/// In table 0 while the file is being changed: where the log of [`super::record`]s begins, 0 if there is none.
pub const LOG: u64 = FIRST_SLOT + slot::SIZE * SLOTS as u64 + 8;

/// Where slot `i` of the table at `table` is.
pub fn slot_offset(table: u64, i: u16) -> u64 {
    table + FIRST_SLOT + slot::SIZE * u64::from(i)
}

/// The bytes of a table, unchecked.
#[derive(Clone)]
pub struct RawTable(pub Box<[u8]>);

impl RawTable {
    /// A table without a single entry, with both delimiters.
    pub fn empty() -> Self {
        let mut b = vec![0; SIZE as usize].into_boxed_slice();
        put_u64(&mut b, 0, START_DELIMITER);
        put_u64(&mut b, END as usize, END_DELIMITER);
        Self(b)
    }

    /// Slot `i`, 0..=510.
    pub fn slot(&self, i: u16) -> Slot {
        let at = slot_offset(0, i) as usize;
        Slot {
            a: u64_at(&self.0, at) as i64,
            b: u64_at(&self.0, at + 8) as i64,
            word: Word(u64_at(&self.0, at + 16)),
        }
    }

    /// Sets slot `i`, 0..=510.
    pub fn set_slot(&mut self, i: u16, s: Slot) {
        let at = slot_offset(0, i) as usize;
        for (k, w) in [s.a as u64, s.b as u64, s.word.0].into_iter().enumerate() {
            put_u64(&mut self.0, at + 8 * k, w);
        }
    }

    /// How many of the two delimiters are there.
    pub fn delimiters(&self) -> usize {
        usize::from(u64_at(&self.0, 0) == START_DELIMITER)
            + usize::from(u64_at(&self.0, END as usize) == END_DELIMITER)
    }

    /// Whether slots and link are all zero.
    pub fn is_zero(&self) -> bool {
        self.0[FIRST_SLOT as usize..END as usize]
            .iter()
            .all(|&b| b == 0)
    }

    /// The checksum field as it stands: a checksum, or a mark.
    pub fn mark(&self) -> u64 {
        u64_at(&self.0, CHECKSUM as usize)
    }

    /// The checksum that belongs to the contents.
    pub fn checksum(&self) -> u64 {
        u64::from(checksum(0, &self.0[FIRST_SLOT as usize..END as usize]))
    }
}
