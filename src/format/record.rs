//! A record of the redo log: the value that a key was given after the copy that its slot names.
//!
//! The log fills a file that is being changed from the offset in [`super::table::LOG`] to its end, one half of it after the other.
//! Of two records the later one has the higher lap, or lies further behind in the same one. Records begin 8
//! bytes behind the start of a page or a multiple of [`STEP`] further, and end before its last word: the first and
//! the last word of a page stay zero, because that is where the original looks for delimiters.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | [`Sum`] of the words behind it, begun with where the record lies, never 0 |
//! | 8 | 8 | lap, from bit 1 on; bit 0: 1 if an even number of values followed the copy, else 0 |
//! | 16 | 8 | offset of the slot in the file |
//! | 24 | 8 | the word of the slot, which names the copy |
//! | 32 | 128 | key, rest 0 |
//! | 160 | 4 | size of the value |
//! | 164 | | value, zeros up to a multiple of 8 |
//!
//! From [`FRONT`] on it is like the beginning of a block, so that what reads key and value of a block reads those of
//! a record.

use super::block::{self, KEY_LEN};
use super::key::Key;
use super::slot::Word;
use super::sum::Sum;
use super::{PAGE, u64_at, word_of};

/// Records begin this many bytes apart, or a multiple of it.
pub const STEP: u64 = 64;
/// Where the first record of a page begins.
pub const FIRST: u64 = 8;
/// Where in a record the field begins that has the lap and tells even from odd.
pub const LAP: u64 = 8;
/// Where in a record the word is.
pub const WORD: u64 = 24;
/// Where in a record something begins that is like a block.
pub const FRONT: u64 = 16;
/// Where in a record the key is.
const KEY: usize = FRONT as usize + block::KEY;
/// Where in a record the size of the value is.
const SIZE: usize = FRONT as usize + block::VALUE_SIZE;
/// Where in a record the value is.
const VALUE: usize = FRONT as usize + block::VALUE;
/// The longest value that a record has room for, in bytes.
pub const LONGEST: usize = (PAGE - FIRST - 8) as usize - VALUE;

/// What a record says beside its value.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    /// How often the log had been filled before.
    pub lap: u64,
    /// Whether an even number of values followed the copy.
    pub even: bool,
    /// Offset of the slot in the file.
    pub slot: u64,
    /// The word of the slot when the first value followed.
    pub word: Word,
}

/// How many words the record of a value has.
pub fn words(value: usize) -> usize {
    (VALUE + value).div_ceil(8)
}

/// Where the record of a value is that lies at `next` or behind it.
pub fn place(next: u64, value: usize) -> u64 {
    let bytes = 8 * words(value) as u64;
    let page = next - next % PAGE;
    let at = page + FIRST + (next - page).saturating_sub(FIRST).next_multiple_of(STEP);
    if at + bytes > page + PAGE - 8 {
        return page + PAGE + FIRST;
    }
    at
}

/// Word `i` of a record, but for the first.
pub fn word(head: &Head, key: &Key, value: &[u8], i: usize) -> u64 {
    match i {
        1 => head.lap << 1 | u64::from(head.even),
        2 => head.slot,
        3 => head.word.0,
        _ if i < SIZE / 8 => word_of(key.bytes(), 8 * (i - KEY / 8)),
        _ => block::value_word(value, i - SIZE / 8),
    }
}

/// A whole record in a page of the log.
pub struct Record<'a> {
    bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// The one that begins at `at` in the file, where these bytes are; `None` if there is none, or it is torn, or goes on
    /// behind them.
    pub fn read(bytes: &'a [u8], at: u64) -> Option<Self> {
        let room = (PAGE - 8).checked_sub(at % PAGE)? as usize;
        let rest = &bytes[..bytes.len().min(room)];
        if rest.len() <= VALUE || u64_at(rest, 0) == 0 {
            return None;
        }
        let size = u64_at(rest, SIZE) as u32 as usize;
        if size > LONGEST {
            return None;
        }
        let bytes = rest.get(..8 * words(size))?;
        let mut sum = Sum::begin(at);
        for i in (8..bytes.len()).step_by(8) {
            sum.add(u64_at(bytes, i));
        }
        (sum.value() == u64_at(bytes, 0)).then_some(Self { bytes })
    }

    /// Bytes of it.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// What it says beside key and value.
    pub fn head(&self) -> Head {
        let lap = u64_at(self.bytes, LAP as usize);
        Head {
            lap: lap >> 1,
            even: lap & 1 != 0,
            slot: u64_at(self.bytes, 16),
            word: Word(u64_at(self.bytes, WORD as usize)),
        }
    }

    /// Its key, without the NUL.
    pub fn key(&self) -> &'a [u8] {
        block::key_in(&self.bytes[KEY..KEY + KEY_LEN])
    }

    /// Its value.
    pub fn value(&self) -> &'a [u8] {
        let size = u64_at(self.bytes, SIZE) as u32 as usize;
        &self.bytes[VALUE..VALUE + size]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(page: &mut [u8; PAGE as usize], at: u64, head: &Head, key: &Key, value: &[u8]) {
        let mut sum = Sum::begin(at);
        let inside = (at % PAGE) as usize;
        for i in 1..words(value.len()) {
            let w = word(head, key, value, i);
            sum.add(w);
            crate::format::put_u64(page, inside + 8 * i, w);
        }
        crate::format::put_u64(page, inside, sum.value());
    }

    /// What was written is read, at its place only, and not with a byte changed.
    #[test]
    fn read_what_was_written() {
        let key = Key::new(b"/a/key").unwrap();
        let head = Head {
            lap: 5,
            even: true,
            slot: 4120,
            word: Word(77),
        };
        for size in [0, 1, 64, 365, LONGEST] {
            let value: Vec<u8> = (0..size).map(|n| n as u8 | 1).collect();
            let at = place(3 * PAGE, size);
            assert_eq!(at, 3 * PAGE + FIRST);
            let mut page = [0; PAGE as usize];
            write(&mut page, at, &head, &key, &value);
            assert_eq!((u64_at(&page, 0), u64_at(&page, PAGE as usize - 8)), (0, 0));
            let inside = FIRST as usize;
            let record = Record::read(&page[inside..], at).unwrap();
            assert_eq!((record.key(), record.value()), (&b"/a/key"[..], &value[..]));
            assert_eq!(record.len(), 8 * words(size));
            let read = record.head();
            assert_eq!((read.lap, read.even), (5, true));
            assert_eq!((read.slot, read.word), (4120, Word(77)));
            assert!(Record::read(&page[inside..], at + PAGE).is_none());
            let short = inside + 8 * words(size) - 1;
            assert!(Record::read(&page[inside..short], at).is_none());
            for i in (0..8 * words(size)).step_by(7) {
                let mut torn = page;
                torn[inside + i] ^= 1;
                assert!(Record::read(&torn[inside..], at).is_none(), "{size} {i}");
            }
        }
    }

    /// Records keep away from the first and the last word of their pages and from each other.
    #[test]
    fn places() {
        let mut next = 2 * PAGE;
        for n in 0..2000 {
            let size = n * 37 % (LONGEST + 1);
            let at = place(next, size);
            let end = at + 8 * words(size) as u64;
            assert!(at >= next && at % PAGE >= FIRST && (at % PAGE - FIRST).is_multiple_of(STEP));
            assert!(end <= at - at % PAGE + PAGE - 8, "{at} {size}");
            next = end;
        }
    }
}
