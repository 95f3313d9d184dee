//! Several steps at once, by tables, where the processor can't multiply as [`super::products`] wants it.
//!
//! Without steps that are left out the state is linear in what went in. So are the indices of those steps, which are
//! computed beside it; where one of them is 255, the steps are made one by one.

use super::{EIGHT, Steps, first_255, one, rows};

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

/// By these tables.
#[derive(Clone, Copy)]
pub struct Tables;

impl Steps for Tables {
    type State = u32;

    fn begin(self, state: u32) -> u32 {
        state
    }

    fn end(self, state: u32) -> u32 {
        state
    }

    fn word(self, state: u32, word: u64) -> Option<u32> {
        let x = word ^ u64::from(state);
        let b = x.to_le_bytes();
        let index = |i: usize| INDICES[i % 4][b[i] as usize][0] << (i / 4 * 32);
        let seen = (index(0) ^ index(1) ^ index(2) ^ index(3))
            ^ (index(4) ^ index(5) ^ index(6) ^ index(7));
        (first_255(seen) == 0).then(|| eight_of(x))
    }

    fn zeros(self, mut state: u32, mut n: usize) -> u32 {
        while n >= 16 {
            let [near, far] = indices(state.to_le_bytes());
            if first_255(near) != 0 {
                break;
            }
            if first_255(far) != 0 {
                state = eight_of(u64::from(state));
                n -= 8;
                break;
            }
            state = sixteen_of(state.to_le_bytes());
            n -= 16;
        }
        while n > 0 && state & 255 != 255 {
            state = one(state, 0);
            n -= 1;
        }
        state
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
