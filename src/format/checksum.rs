//! The file's checksum: a dialect of CRC-32.
//!
//! Reflected polynomial 0xEDB88320, initial value and final XOR 0xFFFFFFFF, chainable like the
//! usual one, but a step whose table index is 255 is left out: the state stays as it is.
//! It is *not* CRC-32, although `123456789` gives cbf43926 in both.
//!
//! Two consequences. Once the low byte of the state is 0xFF, zero bytes change nothing any more,
//! so the rest of a run of zeros is skipped, which makes short values cheap. And an all-zero record has
//! checksum 0 and looks valid: whoever asks must refuse it.

/// Row `k`, entry `b`: what a byte `b` leaves in the state after `k` more steps with zero bytes, as long as
/// no step is left out. Row 0 is the table of one step.
const fn rows<const N: usize>(first: usize) -> [[u32; 256]; N] {
    let mut rows = [[0u32; 256]; N];
    let mut b = 0;
    while b < 256 {
        let mut c = step(b as u32);
        let mut k = 0;
        while k < first + N {
            if k >= first {
                rows[k - first][b] = c;
            }
            c = step(c & 255) ^ (c >> 8);
            k += 1;
        }
        b += 1;
    }
    rows
}

const fn step(byte: u32) -> u32 {
    let mut c = byte;
    let mut k = 0;
    while k < 8 {
        c = if c & 1 != 0 {
            (c >> 1) ^ 0xEDB8_8320
        } else {
            c >> 1
        };
        k += 1;
    }
    c
}

/// For eight bytes at once.
static EIGHT: [[u32; 256]; 8] = rows(0);
/// The state 16 zero bytes on: its lowest byte counts from the last row.
static SIXTEEN: [[u32; 256]; 4] = rows(12);

/// The table indices that a byte of the state, by its place, causes in the next 16 steps: two words,
/// the first step in the lowest byte.
static INDICES: [[[u64; 2]; 256]; 4] = {
    let rows: [[u32; 256]; 15] = rows(0);
    let mut t = [[[0u64; 2]; 256]; 4];
    let mut b = 0;
    while b < 256 {
        let mut all = b as u128;
        let mut k = 0;
        while k < 15 {
            all |= ((rows[k][b] & 255) as u128) << (8 * (k + 1));
            k += 1;
        }
        let mut place = 0;
        while place < 4 {
            let moved = all << (8 * place);
            t[place][b] = [moved as u64, (moved >> 64) as u64];
            place += 1;
        }
        b += 1;
    }
    t
};

/// The checksum of `bytes`, continuing from `crc` (0 to begin).
pub fn checksum(crc: u32, bytes: &[u8]) -> u32 {
    let mut s = State(!crc);
    s.bytes(bytes);
    s.sum()
}

/// A checksum in the making.
///
/// Several steps are made at once: without steps that are left out the state is linear in what went in. So
/// are the indices of those steps, which are computed beside it; where one of them is 255, the steps
/// are made one by one.
#[derive(Clone, Copy)]
pub struct State(u32);

impl State {
    /// Of no bytes yet.
    pub fn begin() -> Self {
        Self(u32::MAX)
    }

    /// The checksum of all that went in.
    pub fn sum(self) -> u32 {
        !self.0
    }

    /// More bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match u64::from_le_bytes(*word) {
                0 => {
                    let behind = skip_zeros(words.as_slice());
                    self.zeros(8 * (1 + words.len() - behind.len()));
                    words = behind.iter();
                }
                word => self.word(word),
            }
        }
        for &b in rest {
            self.one(b);
        }
    }

    /// As many zero bytes.
    pub fn zeros(&mut self, n: usize) {
        let mut n = n;
        while n >= 16 {
            let [near, far] = indices(self.0.to_le_bytes());
            if has_255(near) {
                break;
            }
            if has_255(far) {
                self.0 = eight_of(u64::from(self.0));
                n -= 8;
                break;
            }
            self.0 = sixteen_of(self.0.to_le_bytes());
            n -= 16;
        }
        if n == 8 && self.0 & 255 != 255 {
            return self.word(0);
        }
        while n > 0 && self.0 & 255 != 255 {
            self.one(0);
            n -= 1;
        }
    }

    /// Eight more bytes, the first one lowest.
    pub fn word(&mut self, word: u64) {
        let x = word ^ u64::from(self.0);
        let b = x.to_le_bytes();
        let index = |i: usize| INDICES[i % 4][b[i] as usize][0] << (i / 4 * 32);
        let seen = (index(0) ^ index(1) ^ index(2) ^ index(3))
            ^ (index(4) ^ index(5) ^ index(6) ^ index(7));
        if has_255(seen) {
            for b in word.to_le_bytes() {
                self.one(b);
            }
        } else {
            self.0 = eight_of(x);
        }
    }

    fn one(&mut self, byte: u8) {
        let i = (self.0 ^ u32::from(byte)) & 255;
        if i != 255 {
            self.0 = EIGHT[0][i as usize] ^ (self.0 >> 8);
        }
    }
}

/// The state behind eight bytes, the state before them already in the first four.
fn eight_of(x: u64) -> u32 {
    let b = x.to_le_bytes();
    let row = |i: usize| EIGHT[7 - i][b[i] as usize];
    (row(0) ^ row(1) ^ row(2) ^ row(3)) ^ (row(4) ^ row(5) ^ row(6) ^ row(7))
}

/// The state behind 16 zero bytes.
fn sixteen_of(s: [u8; 4]) -> u32 {
    let row = |i: usize| SIXTEEN[3 - i][s[i] as usize];
    (row(0) ^ row(1)) ^ (row(2) ^ row(3))
}

/// The indices of the next 16 steps with zero bytes.
fn indices(s: [u8; 4]) -> [u64; 2] {
    let index = |i: usize| INDICES[i][s[i] as usize];
    let (a, b, c, d) = (index(0), index(1), index(2), index(3));
    [a[0] ^ b[0] ^ c[0] ^ d[0], a[1] ^ b[1] ^ c[1] ^ d[1]]
}

/// Whether one of the eight bytes is 255.
fn has_255(x: u64) -> bool {
    const LOW: u64 = 0x0101_0101_0101_0101;
    (!x).wrapping_sub(LOW) & x & (LOW << 7) != 0
}

/// `words` without the zeros that it begins with.
fn skip_zeros(words: &[[u8; 8]]) -> &[[u8; 8]] {
    let mut rest = words;
    while let Some((head, tail)) = rest.split_first_chunk::<8>() {
        if head.as_flattened().iter().fold(0, |a, &b| a | b) != 0 {
            break;
        }
        rest = tail;
    }
    while let Some((head, tail)) = rest.split_first() {
        if u64::from_le_bytes(*head) != 0 {
            break;
        }
        rest = tail;
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, a byte at a time.
    fn plain(crc: u32, bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!crc, |s, &b| {
            let i = (s ^ u32::from(b)) & 255;
            if i == 255 { s } else { step(i) ^ (s >> 8) }
        })
    }

    #[test]
    fn vectors() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(checksum(0, b"123456789"), 0xcbf4_3926);
        assert_eq!(checksum(0, &[0]), 0);
        assert_eq!(checksum(0, &[0; 8168]), 0);
        assert_eq!(checksum(0, &[0xff; 16]), 0xffff_ffff);
        assert_eq!(checksum(0, &all), 0x0170_51c0);
        assert_eq!(checksum(0, &all.repeat(4)), 0xe894_b6dd);
        let mut block = [0u8; 8168];
        block[..4].copy_from_slice(b"key1");
        block[128] = 5;
        block[132..137].copy_from_slice(b"hello");
        assert_eq!(checksum(0, &block), 0xa62f_fa00);
    }

    proptest! {
        #[test]
        fn the_fast_path_is_the_definition(
            runs in prop::collection::vec((any::<u8>(), 0usize..300, any::<bool>()), 0..20),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = Vec::new();
            for (b, n, zero) in runs {
                bytes.extend(std::iter::repeat_n(if zero { 0 } else { b }, n));
            }
            let want = plain(0, &bytes);
            prop_assert_eq!(checksum(0, &bytes), want);
            let at = cut.index(bytes.len() + 1);
            prop_assert_eq!(checksum(checksum(0, &bytes[..at]), &bytes[at..]), want);
            let mut zeros = State(!want);
            zeros.zeros(bytes.len());
            prop_assert_eq!(zeros.sum(), plain(want, &vec![0; bytes.len()]));
        }
    }
}
