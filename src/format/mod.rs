//! The KISSDB 2.3 file: the one description of its bytes.
//!
//! All numbers are little endian. A file is a header, then hash tables and pairs in the order in
//! which they were appended; everything begins at a multiple of 4096.
//!
//! ```text
//! 0        header     4096 bytes    [`header`]
//! 4096     table 0   12288 bytes    [`table`]
//! 16384    pair      16384 bytes    block A, block B behind it    [`block`]
//! 32768    pair ...
//!          table 1, linked from table 0, when the slot of a new key is taken in every table
//! ```
//!
//! A key belongs to slot [`hash::djb2`]`(key) mod htSize` of one of the tables, which form a chain.
//! A slot names a pair. A pair holds its key and value twice, each copy with a checksum in a
//! dialect of CRC-32, [`checksum`].
//!
//! Nothing here reads or writes: these modules turn bytes into statements. Bytes that nobody has
//! checked yet are a [`block::RawBlock`] or a [`table::RawTable`]; what they claim is to be had only through a
//! method that checks it.
//!
//! # While the database is in use
//!
//! What the file looks like between the first change of a life and the clean close is this
//! library's own affair as long as the original recovers from it; docs/design.md has the protocol.
//! Some of it is bytes of the file: table 0 carries [`table::MARK`] in place of its
//! checksum, and the third word of a changed slot is a [`slot::Word`] with a tag. Behind the last pair there may be a
//! log of values that have not found their way into their pairs yet, see [`record`].

pub mod block;
pub mod checksum;
pub mod hash;
pub mod header;
pub mod key;
pub mod record;
pub mod slot;
pub mod sum;
pub mod table;

/// Header, tables and pairs begin at multiples of this many bytes, and so does the end of the file.
pub const PAGE: u64 = 4096;

/// The sizes that a file's header fixes for its whole life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Slots in use in each table, 1..=510.
    pub slots: u16,
    /// Bytes of a key that the iterator hands out and that the checksum covers, 1..=128.
    pub key: u16,
    /// Largest value in bytes, 1..=8028.
    pub value: u16,
}

impl Sizes {
    /// Takes the three sizes if each is in its range.
    pub fn new(slots: u64, key: u64, value: u64) -> Option<Self> {
        let fits = |v: u64, max: usize| (v != 0 && v <= max as u64).then_some(v as u16);
        Some(Self {
            slots: fits(slots, table::SLOTS)?,
            key: fits(key, block::KEY_LEN)?,
            value: fits(value, block::VALUE_LEN)?,
        })
    }

    /// How many bytes of a block, from the key on, its checksum covers.
    pub fn covered(&self) -> usize {
        self.key as usize + 4 + self.value as usize + 8
    }

    /// Whether that is all from the key to the table number.
    pub fn covers_all(&self) -> bool {
        self.covered() == block::END - block::KEY
    }
}

/// Whether all bytes are zero; many at once, which most callers hope for.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<64>();
    let zero = |chunk: &[u8]| chunk.iter().fold(0, |a, &b| a | b) == 0;
    chunks.iter().all(|c| zero(c)) && zero(rest)
}

/// Reads a little-endian `u64` at `at`; 0 where the slice is too short.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 8)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

/// Eight bytes from `at` on, the first one lowest; zeros behind their end. Not by a copy of as many as there are: that is a
/// call, for a few bytes.
#[inline]
pub(crate) fn word_of(bytes: &[u8], at: usize) -> u64 {
    let rest = bytes.get(at..).unwrap_or_default();
    match rest.first_chunk() {
        Some(word) => u64::from_le_bytes(*word),
        None => last_word(bytes, rest),
    }
}

/// The same for the last of these bytes, fewer than eight.
#[inline(always)]
pub(crate) fn last_word(bytes: &[u8], last: &[u8]) -> u64 {
    match bytes.last_chunk() {
        _ if last.is_empty() => 0,
        // Without those in front of the last ones.
        Some(word) => u64::from_le_bytes(*word) >> (64 - 8 * last.len()),
        None => last.iter().rfold(0, |word, &b| word << 8 | u64::from(b)),
    }
}

/// Writes a little-endian `u64` at `at`, which the caller knows to be inside.
pub(crate) fn put_u64(bytes: &mut [u8], at: usize, v: u64) {
    bytes[at..at + 8].copy_from_slice(&v.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_the_last_byte_a_word_is_zero() {
        let bytes: Vec<u8> = (1..=20).collect();
        for len in 0..=bytes.len() {
            for at in 0..=len + 9 {
                let mut word = [0; 8];
                let rest = bytes[..len].iter().skip(at);
                word.iter_mut().zip(rest).for_each(|(to, &b)| *to = b);
                let word = u64::from_le_bytes(word);
                assert_eq!(word_of(&bytes[..len], at), word, "{len} {at}");
            }
        }
    }
}
