//! Builds KISSDB 2.3 files byte by byte, right or wrong ones: a third writing of the format, from its description. The
//! library never takes part, so that a test can say what was in a file before the library saw it.
//!
//! Nothing is added behind a caller's back: a pair without a slot, a slot without a pair, a checksum that does not fit
//! are all to be had.
#![forbid(unsafe_code)]
#![allow(dead_code)] // each test program uses a part of it

use super::support::check::{BLOCK, HEADER, LINK, PAIR, TABLE, checksum, slot_of};
use super::support::ffi::Sizes;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Offset of table 0.
pub const FIRST_TABLE: u64 = 4096;
/// Where the first pair of a file lies.
pub const FIRST_PAIR: u64 = 16384;
pub const PAGE: u64 = 4096;
/// Offsets in a block.
pub const KEY_AT: usize = 16;
pub const SIZE_AT: usize = 144;
pub const VALUE_AT: usize = 148;
pub const NUMBER_AT: usize = 8176;
pub const BLOCK_END_AT: usize = 8184;
/// Offset of a table's end delimiter.
pub const TABLE_END_AT: usize = 12280;
pub const TABLE_START: u64 = 0x3333_3333;
pub const TABLE_END: u64 = 0xCCCC_CCCC;

/// One of the two copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copy {
    A,
    B,
}

/// Start and end delimiter.
pub fn delimiters(copy: Copy, live: bool) -> (u64, u64) {
    match (copy, live) {
        (Copy::A, true) => (0x2AAA_AAAA, 0x5555_5555),
        (Copy::A, false) => (0xAAAA_AAAA, 0xD555_5555),
        (Copy::B, true) => (0xE38E_38E3, 0xAAAA_AAA8),
        (Copy::B, false) => (0x7E07_E07E, 0x81F8_1F81),
    }
}

/// The 4096 bytes of a header.
pub fn header(sizes: Sizes, close_failed: u64, close_ok: u64) -> Vec<u8> {
    let mut b = vec![0; HEADER];
    b[..8].copy_from_slice(b"KdB\x02.\x0300");
    let words = [
        close_failed,
        close_ok,
        sizes.table.into(),
        sizes.key,
        sizes.value,
    ];
    for (i, w) in words.into_iter().enumerate() {
        put_u64(&mut b, 16 + 8 * i, w);
    }
    b
}

/// The 12288 bytes of a table with these slots (number, A, B, current) and a right checksum.
pub fn table(slots: &[(usize, i64, i64, u64)], next: u64) -> Vec<u8> {
    let mut b = vec![0; TABLE];
    put_u64(&mut b, 0, TABLE_START);
    put_u64(&mut b, TABLE_END_AT, TABLE_END);
    for &(n, a, bb, current) in slots {
        set_slot(&mut b, n, a, bb, current);
    }
    put_u64(&mut b, 16 + 24 * LINK, next);
    seal_table(&mut b);
    b
}

pub fn set_slot(table: &mut [u8], n: usize, a: i64, b: i64, current: u64) {
    put_u64(table, 16 + 24 * n, a as u64);
    put_u64(table, 24 + 24 * n, b as u64);
    put_u64(table, 32 + 24 * n, current);
}

pub fn seal_table(table: &mut [u8]) {
    let sum = checksum(&table[16..TABLE_END_AT]);
    put_u64(table, 8, sum.into());
}

/// The 8192 bytes of one copy, with a right checksum. The key may be 128 bytes long or hold anything.
pub fn block(
    sizes: Sizes,
    copy: Copy,
    live: bool,
    key: &[u8],
    value: &[u8],
    number: u64,
) -> Vec<u8> {
    let mut b = vec![0; BLOCK];
    let (start, end) = delimiters(copy, live);
    put_u64(&mut b, 0, start);
    put_u64(&mut b, BLOCK_END_AT, end);
    b[KEY_AT..KEY_AT + key.len()].copy_from_slice(key);
    put_u32(&mut b, SIZE_AT, value.len() as u32);
    b[VALUE_AT..VALUE_AT + value.len()].copy_from_slice(value);
    put_u64(&mut b, NUMBER_AT, number);
    seal_block(&mut b, sizes);
    b
}

pub fn seal_block(block: &mut [u8], sizes: Sizes) {
    let covered = sizes.key as usize + 4 + sizes.value as usize + 8;
    let sum = checksum(&block[KEY_AT..KEY_AT + covered]);
    put_u64(block, 8, sum.into());
}

/// Both copies of a pair.
pub fn pair(sizes: Sizes, live: bool, key: &[u8], value: &[u8], number: u64) -> Vec<u8> {
    let mut b = block(sizes, Copy::A, live, key, value, number);
    b.extend(block(sizes, Copy::B, live, key, value, number));
    b
}

/// The first `n` names `/PREFIX0`, `/PREFIX1`, ... that belong to a slot.
pub fn names_in_slot(prefix: &str, slot: usize, slots: usize, n: usize) -> Vec<String> {
    let names = (0..).map(|i| format!("/{prefix}{i}"));
    names
        .filter(|name| slot_of(name.as_bytes(), slots) == slot)
        .take(n)
        .collect()
}

/// A whole file in memory.
#[derive(Clone)]
pub struct Image {
    pub bytes: Vec<u8>,
    pub sizes: Sizes,
    tables: Vec<u64>,
}

impl Image {
    /// A header alone, cleanly closed.
    pub fn new(sizes: Sizes) -> Image {
        Image {
            bytes: header(sizes, 0, 1),
            sizes,
            tables: Vec::new(),
        }
    }

    /// A file that somebody else has made, to be damaged.
    pub fn of(bytes: Vec<u8>, sizes: Sizes) -> Image {
        Image {
            bytes,
            sizes,
            tables: Vec::new(),
        }
    }

    /// A cleanly closed file with these pairs, put in this order.
    pub fn with(sizes: Sizes, pairs: &[(&str, &[u8])]) -> Image {
        let mut image = Image::new(sizes);
        for (key, value) in pairs {
            image.put(key, value);
        }
        image
    }

    /// As the original's put of a new key: a table where one is needed, the pair behind it. Answers the pair's offset.
    pub fn put(&mut self, key: &str, value: &[u8]) -> u64 {
        let index = slot_of(key.as_bytes(), self.sizes.table.into());
        let free = self
            .tables
            .iter()
            .position(|&t| self.slot(t, index) == (0, 0, 0));
        let number = free.unwrap_or_else(|| self.append_table());
        let at = self.end();
        self.append(&pair(
            self.sizes,
            true,
            key.as_bytes(),
            value,
            number as u64,
        ));
        let (a, b) = (at as i64, at as i64 + BLOCK as i64);
        self.set_slot(number, index, a, b, 0);
        at
    }

    /// As the original's delete. Answers the pair's offset.
    pub fn delete(&mut self, key: &str) -> u64 {
        let (number, index, at) = self.find(key);
        let dead = pair(self.sizes, false, key.as_bytes(), b"", number as u64);
        self.write(at, &dead);
        self.set_slot(number, index, -(at as i64), -(at as i64) - BLOCK as i64, 0);
        at
    }

    /// Number of the table, number of the slot and offset of the pair of a live key that was put.
    pub fn find(&self, key: &str) -> (usize, usize, u64) {
        let index = slot_of(key.as_bytes(), self.sizes.table.into());
        for (n, &t) in self.tables.iter().enumerate() {
            let (a, ..) = self.slot(t, index);
            if a > 0 {
                let field = &self.bytes[a as usize + KEY_AT..a as usize + VALUE_AT];
                if field.starts_with(key.as_bytes()) && field[key.len()] == 0 {
                    return (n, index, a as u64);
                }
            }
        }
        panic!("{key} was never put");
    }

    /// Offset of a table.
    pub fn table(&self, number: usize) -> u64 {
        self.tables[number]
    }

    /// An empty table at the end, linked from the last one. Answers its number.
    pub fn append_table(&mut self) -> usize {
        let at = self.end();
        self.append(&table(&[], 0));
        if let Some(&last) = self.tables.last() {
            self.set_link(last, at);
        }
        self.tables.push(at);
        self.tables.len() - 1
    }

    pub fn set_link(&mut self, table: u64, next: u64) {
        self.set(table + 16 + 24 * LINK as u64, next);
        if usize::from(self.sizes.table) < LINK {
            self.set(table + 16 + 24 * u64::from(self.sizes.table), next);
        }
        self.seal(table);
    }

    pub fn set_slot(&mut self, number: usize, index: usize, a: i64, b: i64, current: u64) {
        let at = self.tables[number];
        set_slot(&mut self.bytes[at as usize..], index, a, b, current);
        self.seal(at);
    }

    fn slot(&self, table: u64, index: usize) -> (i64, i64, u64) {
        let at = table + 16 + 24 * index as u64;
        let (a, b) = (self.u64(at) as i64, self.u64(at + 8) as i64);
        (a, b, self.u64(at + 16))
    }

    /// Gives a table its right checksum.
    pub fn seal(&mut self, table: u64) {
        let at = table as usize;
        seal_table(&mut self.bytes[at..at + TABLE]);
    }

    /// Gives the block at this offset its right checksum.
    pub fn seal_block(&mut self, at: u64) {
        let (at, sizes) = (at as usize, self.sizes);
        seal_block(&mut self.bytes[at..at + BLOCK], sizes);
    }

    /// closeFailed and closeOk as while open for writing.
    pub fn unclean(mut self) -> Image {
        self.set(16, 1).set(24, 0);
        self
    }

    /// Unclean, and the checksum of table 0 is wrong: whoever opens it has to look at the pairs.
    pub fn into_rebuild(self) -> Image {
        let mut image = self.unclean();
        image.flip(FIRST_TABLE + 8);
        image
    }

    pub fn end(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub fn append(&mut self, bytes: &[u8]) -> &mut Image {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub fn write(&mut self, at: u64, bytes: &[u8]) -> &mut Image {
        self.bytes[at as usize..][..bytes.len()].copy_from_slice(bytes);
        self
    }

    pub fn u64(&self, at: u64) -> u64 {
        let word = self.bytes[at as usize..][..8].try_into();
        u64::from_le_bytes(word.expect("eight bytes"))
    }

    pub fn set(&mut self, at: u64, word: u64) -> &mut Image {
        put_u64(&mut self.bytes, at as usize, word);
        self
    }

    pub fn set_u32(&mut self, at: u64, word: u32) -> &mut Image {
        put_u32(&mut self.bytes, at as usize, word);
        self
    }

    /// Changes one byte into another one.
    pub fn flip(&mut self, at: u64) -> &mut Image {
        self.bytes[at as usize] ^= 0x5A;
        self
    }

    pub fn zero(&mut self, at: u64, len: usize) -> &mut Image {
        self.bytes[at as usize..][..len].fill(0);
        self
    }

    /// Damages the value of both copies of a pair; sizes and checksums stay.
    pub fn ruin(&mut self, pair: u64) -> &mut Image {
        self.flip(pair + VALUE_AT as u64);
        self.flip(pair + (BLOCK + VALUE_AT) as u64)
    }

    pub fn save(&self, path: &Path) {
        fs::write(path, &self.bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}

/// A file that is too long to be built in memory: only what is written takes space.
pub struct Sparse(fs::File);

impl Sparse {
    pub fn create(path: &Path, len: u64) -> io::Result<Sparse> {
        let file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        file.set_len(len)?;
        Ok(Sparse(file))
    }

    pub fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }
}

pub fn put_u64(b: &mut [u8], at: usize, word: u64) {
    b[at..at + 8].copy_from_slice(&word.to_le_bytes());
}

pub fn put_u32(b: &mut [u8], at: usize, word: u32) {
    b[at..at + 4].copy_from_slice(&word.to_le_bytes());
}

/// Bytes of a pair, as an offset.
pub const PAIR_BYTES: u64 = PAIR as u64;
