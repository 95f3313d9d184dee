//! Which slot a key belongs to.

/// djb2 over the bytes of the key, without a NUL behind it.
pub fn djb2(key: &[u8]) -> u64 {
    key.iter().fold(5381, |h: u64, &b| {
        h.wrapping_mul(33).wrapping_add(u64::from(b))
    })
}

/// The slot of `key` in tables of `slots` slots (1..=510).
pub fn slot(key: &[u8], slots: u16) -> u16 {
    (djb2(key) % u64::from(slots.max(1))) as u16
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

    #[test]
    fn the_empty_key_of_a_wiped_record_is_slot_281() {
        assert_eq!(slot(b"", 510), 281);
    }
}
