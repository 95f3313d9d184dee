//! Keys, values and orders, the same for every engine: all of them follow from a seed.

use std::ffi::CStr;

use crate::plan::Shape;

const PREFIX: &str = "/node/user/1/seat/2/application/configuration/audio/entertainment/equalizer/surround/presets/favourite/stations/memory/";
const DIGITS: usize = 12;
const MODULUS: u64 = 1_000_000_000_000;
/// Behind any number of keys in use.
const FIRST_ABSENT: u64 = 1_000_000_000;

/// C strings of one length, side by side.
pub struct Keys {
    bytes: Vec<u8>,
    stride: usize,
}

impl Keys {
    fn of(length: usize, numbers: impl Iterator<Item = u64>) -> Self {
        let mut bytes = Vec::new();
        for number in numbers {
            push(&mut bytes, length, number);
        }
        Keys {
            bytes,
            stride: length + 1,
        }
    }

    /// The keys of a database.
    pub fn present(shape: &Shape) -> Self {
        Self::numbered(shape, 0)
    }

    /// As many that are not in it.
    pub fn absent(shape: &Shape) -> Self {
        Self::numbered(shape, FIRST_ABSENT)
    }

    fn numbered(shape: &Shape, first: u64) -> Self {
        if !shape.collide {
            return Self::of(shape.key, first..first + shape.keys as u64);
        }
        let mut key = Vec::new();
        let one_slot = (first..).filter(|&number| {
            key.clear();
            push(&mut key, shape.key, number);
            djb2(&key[..shape.key]) % 510 == 7
        });
        Self::of(shape.key, one_slot.take(shape.keys))
    }

    /// The same keys in the order in which they will be used, so that the clock sees the engine
    /// and not a search for the key's text.
    pub fn in_order(&self, order: &[u32]) -> Self {
        let mut bytes = Vec::with_capacity(order.len() * self.stride);
        for &at in order {
            bytes.extend_from_slice(&self.bytes[at as usize * self.stride..][..self.stride]);
        }
        Keys {
            bytes,
            stride: self.stride,
        }
    }

    pub fn len(&self) -> usize {
        self.bytes.len() / self.stride
    }

    #[inline]
    pub fn get(&self, at: usize) -> &CStr {
        let key = &self.bytes[at * self.stride..][..self.stride];
        // SAFETY: `push` ends each key with its only NUL.
        unsafe { CStr::from_bytes_with_nul_unchecked(key) }
    }
}

fn push(bytes: &mut Vec<u8>, length: usize, number: u64) {
    // Scattered, and no two alike: 3^18 has no factor in common with 10^12.
    let scattered = (number * 387_420_489 + 271_828_182_845) % MODULUS;
    bytes.extend_from_slice(&PREFIX.as_bytes()[..length - DIGITS]);
    bytes.extend_from_slice(format!("{scattered:0DIGITS$}").as_bytes());
    bytes.push(0);
}

fn djb2(key: &[u8]) -> u64 {
    key.iter().fold(5381, |hash: u64, &byte| {
        hash.wrapping_mul(33).wrapping_add(byte.into())
    })
}

/// `count` random numbers below `below`.
pub fn random(seed: u64, below: usize, count: usize) -> Vec<u32> {
    let mut dice = fastrand::Rng::with_seed(seed);
    (0..count).map(|_| dice.u32(..below as u32)).collect()
}

/// Each number below `below` once.
pub fn each_once(seed: u64, below: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..below as u32).collect();
    fastrand::Rng::with_seed(seed).shuffle(&mut order);
    order
}

/// A value without long runs of one byte; `turn` makes it another one.
pub fn value(length: usize, turn: u64) -> Vec<u8> {
    let mut dice = fastrand::Rng::with_seed(turn);
    (0..length).map(|_| dice.u8(1..)).collect()
}
