//! The file's checksum: a dialect of CRC-32.
//!
//! Reflected polynomial 0xEDB88320, initial value and final XOR 0xFFFFFFFF, chainable like the
//! usual one, but a step whose table index is 255 is left out: the state stays as it is.
//! It is *not* CRC-32, although `123456789` gives cbf43926 in both.
//!
//! Two consequences. Once the low byte of the state is 0xFF, zero bytes change nothing any more,
//! so a run of zeros is skipped here, which makes short values cheap. And an all-zero record has
//! checksum 0 and looks valid: whoever asks must refuse it.

const TABLE: [u32; 256] = {
    let mut t = [0u32; 256];
    let mut n = 0;
    while n < 256 {
        let mut c = n as u32;
        let mut k = 0;
        while k < 8 {
            c = if c & 1 != 0 {
                (c >> 1) ^ 0xEDB8_8320
            } else {
                c >> 1
            };
            k += 1;
        }
        t[n] = c;
        n += 1;
    }
    t
};

/// The checksum of `bytes`, continuing from `crc` (0 to begin).
pub fn checksum(crc: u32, bytes: &[u8]) -> u32 {
    let mut s = !crc;
    let mut rest = bytes;
    while let Some((&b, tail)) = rest.split_first() {
        let i = (s ^ u32::from(b)) & 255;
        if i != 255 {
            s = TABLE[i as usize] ^ (s >> 8);
            rest = tail;
        } else if b == 0 {
            rest = skip_zeros(tail);
        } else {
            rest = tail;
        }
    }
    !s
}

/// `bytes` without the zeros that it begins with.
fn skip_zeros(bytes: &[u8]) -> &[u8] {
    let mut rest = bytes;
    while let Some((head, tail)) = rest.split_first_chunk::<64>() {
        if head.iter().fold(0, |a, &b| a | b) != 0 {
            break;
        }
        rest = tail;
    }
    let n = rest.iter().take_while(|&&b| b == 0).count();
    &rest[n..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, a byte at a time.
    fn plain(crc: u32, bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!crc, |s, &b| {
            let i = (s ^ u32::from(b)) & 255;
            if i == 255 {
                s
            } else {
                TABLE[i as usize] ^ (s >> 8)
            }
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
        }
    }
}
