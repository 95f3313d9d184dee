//! A sum of our own over words, for what only this library writes and reads: a record of the redo log, the word of a
//! slot.
//!
//! Each step is a bijection of the sum so far and of the word, so what differs once stays different but for chance, over
//! whatever follows. Of the file's checksum that is not so, see [`super::checksum`].

use super::{u64_at, word_of};

/// In the making.
#[derive(Clone, Copy)]
pub struct Sum(u64);

impl Sum {
    /// Of no word yet. Other seeds make other sums.
    pub fn begin(seed: u64) -> Self {
        Self(seed ^ 0x6A09_E667_F3BC_C908)
    }

    /// Takes in the next word.
    #[inline]
    pub fn add(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ mixed >> 29;
    }

    /// The bytes of a value and how many they are: of each 32 bytes the four words go into sums of their own, which need not
    /// wait for each other; then these four follow, then what is left, in words.
    pub fn add_value(&mut self, value: &[u8]) {
        self.add(value.len() as u64);
        let (chunks, rest) = value.as_chunks::<32>();
        if !chunks.is_empty() {
            let mut side_by_side = [0, 1, 2, 3].map(Self::begin);
            for chunk in chunks {
                for (i, sum) in side_by_side.iter_mut().enumerate() {
                    sum.add(u64_at(chunk, 8 * i));
                }
            }
            side_by_side.iter().for_each(|sum| self.add(sum.0));
        }
        for at in (0..rest.len()).step_by(8) {
            self.add(word_of(rest, at));
        }
    }

    /// All 64 bits of it, never 0.
    pub fn value(self) -> u64 {
        let mixed = (self.0 ^ self.0 >> 32).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        (mixed ^ mixed >> 32).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: &[u8]) -> u64 {
        let mut sum = Sum::begin(0);
        sum.add_value(value);
        sum.value()
    }

    /// A run of one byte of which a part is lost: what the file's checksum is blind for.
    #[test]
    fn no_run_absorbs_a_loss() {
        for b in 0..=255 {
            for len in [365, 1000, 8028] {
                let whole = vec![b; len];
                for from in (364..len).step_by(512) {
                    let mut torn = whole.clone();
                    torn[from..len.min(from + 512)].fill(b ^ 0x20);
                    assert_ne!(of(&torn), of(&whole), "{b} {len} {from}");
                }
            }
        }
    }

    #[test]
    fn every_byte_counts_and_the_length() {
        let value: Vec<u8> = (0..200).collect();
        for len in 0..value.len() {
            assert_ne!(of(&value[..len]), of(&value[..len + 1]));
            for i in 0..len {
                let mut other = value[..len].to_vec();
                other[i] ^= 0x80;
                assert_ne!(of(&value[..len]), of(&other), "{len} {i}");
            }
        }
        assert_ne!(of(&[0; 40]), of(&[0; 41]));
    }
}
