//! The file's checksum: a dialect of CRC-32.
//!
//! Reflected polynomial 0xEDB88320, initial value and final XOR 0xFFFFFFFF, chainable like the
//! usual one, but a step whose table index is 255 is left out: the state stays as it is.
//! It is *not* CRC-32, although `123456789` gives cbf43926 in both.
//!
//! Two consequences. Once the low byte of the state is 0xFF, zero bytes change nothing any more,
//! so the rest of a run of zeros is skipped, which makes short values cheap. And an all-zero record has
//! checksum 0 and looks valid: whoever asks must refuse it.

mod products;
mod tables;

use crate::sys::carryless::{self, Multiply, Work};
use products::Products;
use tables::Tables;

const POLYNOMIAL: u32 = 0xEDB8_8320;

/// The checksum of `bytes`, continuing from `crc` (0 to begin).
pub fn checksum(crc: u32, bytes: &[u8]) -> u32 {
    continued(crc, bytes)
}

/// What goes into a checksum.
pub(crate) trait Input {
    /// All of it, in its order. Has to be `#[inline(always)]`, or each step costs a call.
    fn put_into(&self, state: &mut State<impl Steps>);
}

/// The checksum of this, continuing from `crc` (0 to begin).
#[inline(always)]
pub(crate) fn continued(crc: u32, input: impl Input) -> u32 {
    carryless::work(Run { crc, input }).unwrap_or_else(|w| run(w.crc, w.input, Tables))
}

#[inline(always)]
fn run(crc: u32, input: impl Input, steps: impl Steps) -> u32 {
    let mut state = State {
        state: steps.begin(!crc),
        steps,
    };
    input.put_into(&mut state);
    !steps.end(state.state)
}

struct Run<I> {
    crc: u32,
    input: I,
}

impl<I: Input> Work for Run<I> {
    type Answer = u32;

    #[inline(always)]
    fn run(self, by: impl Multiply) -> u32 {
        run(self.crc, self.input, Products(by))
    }
}

/// A checksum in the making.
#[derive(Clone, Copy)]
pub(crate) struct State<S: Steps> {
    state: S::State,
    steps: S,
}

impl<S: Steps> State<S> {
    /// Eight more bytes, the first one lowest.
    #[inline(always)]
    pub fn word(&mut self, word: u64) {
        self.state = match self.steps.word(self.state, word) {
            Some(state) => state,
            None => self
                .steps
                .begin(one_by_one(self.steps.end(self.state), word)),
        };
    }

    /// One more byte.
    fn byte(&mut self, byte: u8) {
        let state = one(self.steps.end(self.state), byte);
        self.state = self.steps.begin(state);
    }

    /// As many zero bytes.
    #[inline(always)]
    pub fn zeros(&mut self, n: usize) {
        match n {
            0 => {}
            8 => self.word(0),
            n => self.state = self.steps.zeros(self.state, n),
        }
    }
}

impl Input for &[u8] {
    #[inline(always)]
    fn put_into(&self, state: &mut State<impl Steps>) {
        let (words, rest) = self.as_chunks::<8>();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match u64::from_le_bytes(*word) {
                0 => {
                    let behind = skip_zeros(words.as_slice());
                    state.zeros(8 * (1 + words.len() - behind.len()));
                    words = behind.iter();
                }
                word => state.word(word),
            }
        }
        for &b in rest {
            state.byte(b);
        }
    }
}

/// Several steps at once.
pub(crate) trait Steps: Copy {
    /// The state, where these steps need it.
    type State: Copy;
    fn begin(self, state: u32) -> Self::State;
    fn end(self, state: Self::State) -> u32;
    /// The state behind eight bytes, `None` if a step is left out.
    fn word(self, state: Self::State, word: u64) -> Option<Self::State>;
    /// The state behind as many zero bytes.
    fn zeros(self, state: Self::State, n: usize) -> Self::State;
}

fn one(state: u32, byte: u8) -> u32 {
    match (state ^ u32::from(byte)) & 255 {
        255 => state,
        i => EIGHT[0][i as usize] ^ (state >> 8),
    }
}

#[cold]
fn one_by_one(state: u32, word: u64) -> u32 {
    word.to_le_bytes().into_iter().fold(state, one)
}

/// The top bit of the first of eight bytes that is 255; above it there may be others.
#[inline(always)]
fn first_255(x: u64) -> u64 {
    const LOW: u64 = 0x0101_0101_0101_0101;
    (!x).wrapping_sub(LOW) & x & (LOW << 7)
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
            (c >> 1) ^ POLYNOMIAL
        } else {
            c >> 1
        };
        k += 1;
    }
    c
}

/// For one step, and for eight at once.
static EIGHT: [[u32; 256]; 8] = rows(0);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::carryless::Shifts;
    use proptest::prelude::*;

    /// The definition, a byte at a time.
    fn plain(crc: u32, bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!crc, |s, &b| {
            let i = (s ^ u32::from(b)) & 255;
            if i == 255 { s } else { step(i) ^ (s >> 8) }
        })
    }

    struct Zeros(usize);

    impl Input for &Zeros {
        #[inline(always)]
        fn put_into(&self, state: &mut State<impl Steps>) {
            state.zeros(self.0);
        }
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
            // Each way, whatever this processor can.
            prop_assert_eq!(run(0, &bytes[..], Tables), want);
            prop_assert_eq!(run(0, &bytes[..], Products(Shifts)), want);
            let zeros = Zeros(bytes.len());
            let behind = plain(want, &vec![0; bytes.len()]);
            prop_assert_eq!(continued(want, &zeros), behind);
            prop_assert_eq!(run(want, &zeros, Tables), behind);
            prop_assert_eq!(run(want, &zeros, Products(Shifts)), behind);
        }
    }
}
