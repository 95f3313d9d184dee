//! A key, made ready to be compared and hashed.

use super::block::KEY_LEN;
use super::{hash, last_word};

/// A key that a database can hold: 1 to 127 bytes, none of them 0.
#[derive(Clone, Copy)]
pub struct Key<'a> {
    bytes: &'a [u8],
    /// The bytes behind the last whole word, zeros behind them.
    last: u64,
    hash: u64,
}

impl<'a> Key<'a> {
    /// `None` if these bytes can't be a key.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        Self::without_nul(bytes).filter(|key| !key.bytes.contains(&0))
    }

    /// The same for bytes of which somebody knows that none is 0: those of a C string.
    #[inline(always)]
    pub fn without_nul(bytes: &'a [u8]) -> Option<Self> {
        if bytes.is_empty() || bytes.len() >= KEY_LEN {
            return None;
        }
        let (whole, rest) = bytes.as_chunks::<8>();
        let last = last_word(bytes, rest);
        let mut hash = hash::Djb2::new();
        for word in whole {
            hash.eight(u64::from_le_bytes(*word));
        }
        let hash = hash.end(last, rest.len());
        Some(Self { bytes, last, hash })
    }

    /// The key.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// [`hash::djb2`] of it.
    #[inline]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Its whole words, and what is behind them with zeros behind it: a NUL is always there.
    #[inline(always)]
    pub fn words(&self) -> (&'a [[u8; 8]], u64) {
        (self.bytes.as_chunks::<8>().0, self.last)
    }

    /// Whether a key field, of which `word(i)` is word `i`, holds it, with a NUL behind it.
    #[inline(always)]
    pub fn is_in(&self, word: impl Fn(usize) -> u64) -> bool {
        let (whole, rest) = self.bytes.as_chunks::<8>();
        let behind = u64::MAX >> (56 - 8 * rest.len());
        let same = |(i, w): (usize, &[u8; 8])| word(i) == u64::from_le_bytes(*w);
        whole.iter().enumerate().all(same) && word(whole.len()) & behind == self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn field(key: &[u8], rest: u8) -> [u8; KEY_LEN] {
        let mut f = [rest; KEY_LEN];
        f[..key.len()].copy_from_slice(key);
        if let Some(nul) = f.get_mut(key.len()) {
            *nul = 0;
        }
        f
    }

    proptest! {
        #[test]
        fn agrees_with_the_bytes(
            key in prop::collection::vec(prop_oneof![9 => 1u8.., 1 => Just(0u8)], 0..140),
            other in prop::collection::vec(1u8..4, 1..20),
            rest: u8,
        ) {
            let valid = (1..KEY_LEN).contains(&key.len()) && !key.contains(&0);
            let made = Key::new(&key);
            prop_assert_eq!(made.is_some(), valid);
            let Some(made) = made else { return Ok(()) };
            prop_assert_eq!(made.hash(), hash::djb2(&key));
            for f in [field(&key, rest), field(&other, rest), field(&key[..key.len() / 2], rest)] {
                let word = |i: usize| u64::from_le_bytes(f[8 * i..8 * i + 8].try_into().expect("8"));
                let want = f.starts_with(&key) && f[key.len()] == 0;
                prop_assert_eq!(made.is_in(word), want);
            }
        }
    }
}
