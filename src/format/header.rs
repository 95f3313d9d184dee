//! The header: 4096 bytes at offset 0.
//!
//! | offset | size | field | value |
//! |---|---|---|---|
//! | 0 | 8 | magic and version | `KdB` 2 `.` 3, two bytes that are not read (`00`) |
//! | 8 | 8 | checksum | 0, not read |
//! | 16 | 8 | closeFailed | 1 while open for writing, 0 after a clean close |
//! | 24 | 8 | closeOk | 0 while open for writing, 1 after a clean close |
//! | 32 | 8 | htSize | slots in use in each table |
//! | 40 | 8 | keySize | |
//! | 48 | 8 | valSize | |
//! | 56 | 8 | delimiter | 0 |
//! | 64 | 4032 | padding | 0 |

use super::{Sizes, put_u64, u64_at};
use crate::error::{Error, Result};

/// Bytes of the header.
pub const SIZE: usize = 4096;
/// Offset of closeFailed; closeOk is the word behind it.
pub const CLOSE_FAILED: u64 = 16;
/// Offset of closeOk.
pub const CLOSE_OK: u64 = 24;
const SIZES: usize = 32;
const SIZES_END: usize = 56;
const MAGIC: &[u8; 3] = b"KdB";
const VERSION: [u8; 3] = [2, b'.', 3];
const NOT_READ: &[u8; 2] = b"00";
const SOMEBODY_ELSES: Error = Error::Corrupt("a short file of somebody else's");

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The sizes of the file.
    pub sizes: Sizes,
    /// Whether the last user closed it: closeFailed 0 and closeOk 1.
    pub clean: bool,
}

impl Header {
    /// Checks the first bytes of a file of 4096 bytes or more.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a bad magic or sizes out of range, [`Error::Version`].
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() < SIZES_END || !bytes.starts_with(MAGIC) {
            return Err(Error::Corrupt("no header"));
        }
        if bytes[3..6] != VERSION {
            return Err(Error::Version);
        }
        let at = |i: usize| u64_at(bytes, SIZES + 8 * i);
        Ok(Self {
            sizes: Sizes::new(at(0), at(1), at(2)).ok_or(Error::Corrupt("sizes in the header"))?,
            clean: u64_at(bytes, CLOSE_FAILED as usize) == 0
                && u64_at(bytes, CLOSE_OK as usize) == 1,
        })
    }

    /// What a file of at most 4096 bytes that is not a whole header may be: a creation that was
    /// cut off. Answers the sizes if the bytes reach that far.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the bytes are neither all zero nor the start of a header.
    pub fn cut_off(bytes: &[u8]) -> Result<Option<Sizes>> {
        if bytes.iter().all(|&b| b == 0) {
            return Ok(None);
        }
        if bytes.len() >= SIZES_END {
            // Of a short file -4 is all that is said.
            let sizes = Self::parse(bytes).map_err(|_| SOMEBODY_ELSES)?.sizes;
            let flags = |at| u64_at(bytes, at) <= 1;
            let rest = bytes[8..16].iter().chain(&bytes[SIZES_END..]);
            if flags(16) && flags(24) && rest.into_iter().all(|&b| b == 0) {
                return Ok(Some(sizes));
            }
            return Err(SOMEBODY_ELSES);
        }
        // Too short for sizes: every byte must be one that a header of any sizes may have there.
        let fits = |(at, &b): (usize, &u8)| match at {
            0..3 => b == MAGIC[at],
            3..6 => b == VERSION[at - 3],
            6..8 => true,
            16 | 24 => b <= 1,
            32 | 33 | 40 | 41 | 48 | 49 => true,
            _ => b == 0,
        };
        if bytes.iter().enumerate().all(fits) {
            return Ok(None);
        }
        Err(SOMEBODY_ELSES)
    }

    /// The 4096 bytes of this header.
    pub fn bytes(&self) -> [u8; SIZE] {
        let mut b = [0; SIZE];
        b[..3].copy_from_slice(MAGIC);
        b[3..6].copy_from_slice(&VERSION);
        b[6..8].copy_from_slice(NOT_READ);
        put_u64(&mut b, CLOSE_FAILED as usize, u64::from(!self.clean));
        put_u64(&mut b, CLOSE_OK as usize, u64::from(self.clean));
        let s = self.sizes;
        for (i, v) in [s.slots, s.key, s.value].into_iter().enumerate() {
            put_u64(&mut b, SIZES + 8 * i, u64::from(v));
        }
        b
    }
}

/// The fields of a header one by one, as they stand, for whoever looks at a damaged one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields {
    /// The file begins with `KdB`.
    pub magic: bool,
    /// The version is 2.3.
    pub version: bool,
    /// closeFailed.
    pub close_failed: u64,
    /// closeOk.
    pub close_ok: u64,
    /// htSize, keySize, valSize.
    pub sizes: [u64; 3],
    /// Offset of the first byte that is not 0 although nothing belongs there.
    pub stray: Option<u64>,
}

impl Fields {
    /// Reads the fields; what `bytes` is too short for is 0.
    pub fn read(bytes: &[u8]) -> Self {
        let stray = |&at: &usize| bytes.get(at).is_some_and(|&b| b != 0);
        Self {
            magic: bytes.starts_with(MAGIC),
            version: bytes.get(3..6) == Some(&VERSION[..]),
            close_failed: u64_at(bytes, CLOSE_FAILED as usize),
            close_ok: u64_at(bytes, CLOSE_OK as usize),
            sizes: [0, 1, 2].map(|i| u64_at(bytes, SIZES + 8 * i)),
            stray: (8..CLOSE_FAILED as usize)
                .chain(SIZES_END..SIZE)
                .find(stray)
                .map(|at| at as u64),
        }
    }

    /// Whether the flags are those of a file that its last user closed.
    pub fn is_closed(&self) -> bool {
        (self.close_failed, self.close_ok) == (0, 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let sizes = Sizes::new(510, 128, 8028).expect("in range");
        Header { sizes, clean: true }
    }

    #[test]
    fn round_trip() {
        let h = header();
        assert_eq!(Header::parse(&h.bytes()).expect("valid"), h);
    }

    #[test]
    fn every_start_of_a_header_is_one_and_nothing_else_is() {
        let b = header().bytes();
        for n in 0..SIZE {
            let got = Header::cut_off(&b[..n]).expect("a start");
            assert_eq!(got.is_some(), n >= SIZES_END, "{n}");
        }
        assert!(Header::cut_off(b"hello, world").is_err());
        for (at, v) in [(0, b'X'), (5, 9), (9, 1), (60, 1), (100, 1)] {
            let mut c = b;
            c[at] = v;
            assert!(Header::cut_off(&c[..200]).is_err(), "{at}");
        }
    }

    #[test]
    fn sizes_out_of_range() {
        for (at, v) in [(32, 0u64), (32, 511), (40, 129), (48, 8029), (48, 1 << 32)] {
            let mut b = header().bytes();
            put_u64(&mut b, at, v);
            assert_eq!(Header::parse(&b).map_err(|e| e.code()), Err(-4));
        }
    }
}
