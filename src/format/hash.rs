//! Which slot a key belongs to.

use super::last_word;

/// djb2 over the bytes of the key, without a NUL behind it.
pub fn djb2(key: &[u8]) -> u64 {
    let (whole, rest) = key.as_chunks::<8>();
    let mut hash = Djb2::new();
    for word in whole {
        hash.eight(u64::from_le_bytes(*word));
    }
    hash.end(last_word(key, rest), rest.len())
}

/// The hash in the making, eight bytes at a time.
pub(super) struct Djb2(u64);

impl Djb2 {
    pub fn new() -> Self {
        Self(5381)
    }

    /// Eight more bytes.
    #[inline(always)]
    pub fn eight(&mut self, word: u64) {
        let h = self.0.wrapping_mul(POWERS[8]);
        self.0 = h.wrapping_add(eight(word));
    }

    /// The hash with the `n` last bytes, less than 8.
    #[inline(always)]
    pub fn end(self, last: u64, n: usize) -> u64 {
        if n == 0 {
            return self.0;
        }
        // Zeros in front add nothing.
        let h = self.0.wrapping_mul(POWERS[n]);
        h.wrapping_add(eight(last << (64 - 8 * n)))
    }
}

/// Powers of 33.
const POWERS: [u64; 9] = {
    let mut p = [1; 9];
    let mut i = 1;
    while i < 9 {
        p[i] = p[i - 1] * 33;
        i += 1;
    }
    p
};

/// What eight bytes add: pairs of bytes, then pairs of pairs, side by side in one word.
#[inline(always)]
fn eight(word: u64) -> u64 {
    const BYTES: u64 = 0x00FF_00FF_00FF_00FF;
    const PAIRS: u64 = 0x0000_FFFF_0000_FFFF;
    let pairs = (word & BYTES) * 33 + (word >> 8 & BYTES);
    let fours = (pairs & PAIRS) * POWERS[2] + (pairs >> 16 & PAIRS);
    (fours & 0xFFFF_FFFF) * POWERS[4] + (fours >> 32)
}

/// The slot of `key` in tables of `slots` slots (1..=510).
pub fn slot(key: &[u8], slots: u16) -> u16 {
    slot_of(djb2(key), slots)
}

/// The slot of a key with this hash.
#[inline(always)]
pub fn slot_of(hash: u64, slots: u16) -> u16 {
    if usize::from(slots) != super::table::SLOTS {
        return (hash % u64::from(slots.max(1))) as u16;
    }
    // The usual number by a multiplication: a division takes as long as the rest of the hash, and with `%` in both
    // branches compilers merge them into one division. 2^71 / 255, rounded up, is exact for 64 bits.
    const USUAL: u64 = super::table::SLOTS as u64;
    const { assert!(USUAL == 2 * 255) };
    const INVERSE: u128 = (1 << 71) / 255 + 1;
    let whole = ((u128::from(hash >> 1) * INVERSE) >> 71) as u64;
    (hash - whole * USUAL) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_slots() {
        assert_eq!(djb2(b""), 5381);
        assert_eq!(djb2(b"a"), 5381 * 33 + 97);
        // Unsigned bytes, and keys that share a slot (the traces rely on them).
        assert_eq!(djb2(b"\xff"), 5381 * 33 + 255);
        let s = slot(b"/k0", 510);
        for k in ["/k176", "/k253", "/k330"] {
            assert_eq!(slot(k.as_bytes(), 510), s);
        }
    }

    proptest::proptest! {
        #[test]
        fn eight_at_a_time_is_the_definition(key: Vec<u8>) {
            let plain = key.iter().fold(5381u64, |h, &b| h.wrapping_mul(33).wrapping_add(b.into()));
            proptest::prop_assert_eq!(djb2(&key), plain);
        }

        #[test]
        fn the_slot_is_the_remainder(
            hash: u64,
            near in proptest::sample::select(vec![0, 510, 255 << 56, 1 << 63, u64::MAX / 510 * 510]),
            off in -600i64..600,
            slots in 1u16..=510,
        ) {
            for hash in [hash, near.wrapping_add_signed(off)] {
                proptest::prop_assert_eq!(u64::from(slot_of(hash, 510)), hash % 510);
                proptest::prop_assert_eq!(u64::from(slot_of(hash, slots)), hash % u64::from(slots));
            }
        }
    }

    #[test]
    fn the_empty_key_of_a_wiped_record_is_slot_281() {
        assert_eq!(slot(b"", 510), 281);
    }
}
