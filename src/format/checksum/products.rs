//! Several steps at once, by multiplication.
//!
//! A step of one bit divides: with bits as coefficients, in the order in which they are taken, the lowest first, what goes in is divided
//! by [`DIVISOR`] as a power series, or multiplied by its [`INVERSE`]. The bits of the quotient say where the divisor was
//! subtracted. Eight of them tell the index of a step of one byte. Times the divisor, 32 of them are the state in front of them, and 64 have
//! that behind them above bit 64.

use super::{POLYNOMIAL, Steps, first_255};
use crate::sys::carryless::Multiply;

/// By these products.
#[derive(Clone, Copy)]
pub struct Products<M>(pub M);

/// The polynomial and its highest power.
const DIVISOR: u64 = (POLYNOMIAL as u64) << 1 | 1;

/// So many words of the quotient are made at once, and half of one more.
const BLOCK: usize = 8;

/// 1 divided by [`DIVISOR`].
static INVERSE: [u64; BLOCK + 1] = quotient(1);

/// The eight bits of the quotient where the index of a step is 255.
const LEFT_OUT: u8 = quotient::<1>(255)[0] as u8;

/// The first words of the quotient of this.
const fn quotient<const N: usize>(mut dividend: u64) -> [u64; N] {
    let mut words = [0; N];
    let mut i = 0;
    while i < 64 * N {
        let bit = dividend & 1;
        words[i / 64] |= bit << (i % 64);
        dividend = (dividend ^ (bit * DIVISOR)) >> 1;
        i += 1;
    }
    words
}

/// The top bit of the first byte that is [`LEFT_OUT`]; above it there may be others.
#[inline(always)]
fn left_out(quotient: u64) -> u64 {
    first_255(quotient ^ u64::from_ne_bytes([!LEFT_OUT; 8]))
}

impl<M: Multiply> Steps for Products<M> {
    /// In the upper word. What the lower one has does not count.
    type State = M::Pair;

    #[inline(always)]
    fn begin(self, state: u32) -> M::Pair {
        self.0.pair(0, u64::from(state))
    }

    #[inline(always)]
    fn end(self, state: M::Pair) -> u32 {
        self.0.words(state)[1] as u32
    }

    #[inline(always)]
    fn word(self, state: M::Pair, word: u64) -> Option<M::Pair> {
        let by = self.0;
        let dividend = by.add(state, by.pair(0, word));
        let quotient = by.upper_times(dividend, INVERSE[0]);
        let behind = by.lower_times(quotient, DIVISOR);
        (left_out(by.words(quotient)[0]) == 0).then_some(behind)
    }

    #[inline(always)]
    fn zeros(self, mut state: M::Pair, mut n: usize) -> M::Pair {
        let by = self.0;
        loop {
            let mut quotient = [0; BLOCK + 1];
            let mut carry = 0;
            for (quotient, inverse) in quotient.iter_mut().zip(INVERSE) {
                let [lower, upper] = by.words(by.upper_times(state, inverse));
                *quotient = lower ^ carry;
                carry = upper;
            }
            let ends = quotient[..BLOCK].iter().map(|&q| left_out(q));
            if ends.clone().fold(0, |a, b| a | b) == 0 && n >= 8 * BLOCK {
                // As behind a word, the last of these.
                state = by.lower_times(by.pair(quotient[BLOCK - 1], 0), DIVISOR);
                n -= 8 * BLOCK;
                continue;
            }
            // As far as the first step that is left out, and so are all behind it.
            let mut at = n;
            for (i, end) in ends.enumerate().rev() {
                if end != 0 {
                    at = n.min(8 * i + end.trailing_zeros() as usize / 8);
                }
            }
            let (i, bits) = (at / 8, 8 * (at % 8));
            let pair = u128::from(quotient[i + 1]) << 64 | u128::from(quotient[i]);
            let next = by.pair((pair >> bits) as u64, 0);
            return self.begin(by.words(by.lower_times(next, DIVISOR))[0] as u32);
        }
    }
}
