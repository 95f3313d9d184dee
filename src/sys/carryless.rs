//! Products without carries: of polynomials over GF(2), bit `i` of a word being the coefficient of the power `i`. Many
//! processors have an instruction for them.

/// Can multiply.
pub trait Multiply: Copy {
    /// Two words, where products are made: the way there and back takes longer than a product.
    type Pair: Copy;
    fn pair(self, lower: u64, upper: u64) -> Self::Pair;
    /// The lower and the upper word.
    fn words(self, pair: Self::Pair) -> [u64; 2];
    /// The sum of the polynomials of each word.
    fn add(self, a: Self::Pair, b: Self::Pair) -> Self::Pair;
    /// The product of the lower word of `a` and this one.
    fn lower_times(self, a: Self::Pair, b: u64) -> Self::Pair;
    /// That of the upper word.
    fn upper_times(self, a: Self::Pair, b: u64) -> Self::Pair;
}

/// What is to be done with such products. All of it has to be `#[inline(always)]`, or each of them costs a call.
pub trait Work {
    type Answer;
    fn run(self, by: impl Multiply) -> Self::Answer;
}

/// Does this work if the processor can multiply so; else it comes back.
#[inline(always)]
pub fn work<W: Work>(work: W) -> Result<W::Answer, W> {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("pclmulqdq") {
        // SAFETY: the processor has it.
        return Ok(unsafe { x86_64::run(work) });
    }
    Err(work)
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use super::{Multiply, Work};
    use std::arch::x86_64::{
        __m128i, _mm_clmulepi64_si128, _mm_cvtsi64_si128, _mm_cvtsi128_si64, _mm_set_epi64x,
        _mm_unpackhi_epi64, _mm_xor_si128,
    };

    #[target_feature(enable = "pclmulqdq")]
    pub fn run<W: Work>(work: W) -> W::Answer {
        work.run(Instruction(()))
    }

    /// Made by [`run`] alone.
    #[derive(Clone, Copy)]
    struct Instruction(());

    impl Multiply for Instruction {
        type Pair = __m128i;

        #[inline(always)]
        fn pair(self, lower: u64, upper: u64) -> __m128i {
            // SAFETY: every processor of this kind has it.
            unsafe { _mm_set_epi64x(upper as i64, lower as i64) }
        }

        #[inline(always)]
        fn words(self, pair: __m128i) -> [u64; 2] {
            // SAFETY: as above.
            let word = |pair| unsafe { _mm_cvtsi128_si64(pair) } as u64;
            // SAFETY: as above.
            [word(pair), word(unsafe { _mm_unpackhi_epi64(pair, pair) })]
        }

        #[inline(always)]
        fn add(self, a: __m128i, b: __m128i) -> __m128i {
            // SAFETY: as above.
            unsafe { _mm_xor_si128(a, b) }
        }

        #[inline(always)]
        fn lower_times(self, a: __m128i, b: u64) -> __m128i {
            // SAFETY: who has an `Instruction` runs where the processor can multiply so.
            unsafe { _mm_clmulepi64_si128::<0x00>(a, _mm_cvtsi64_si128(b as i64)) }
        }

        #[inline(always)]
        fn upper_times(self, a: __m128i, b: u64) -> __m128i {
            // SAFETY: as above.
            unsafe { _mm_clmulepi64_si128::<0x01>(a, _mm_cvtsi64_si128(b as i64)) }
        }
    }
}

/// By shifts, on any processor.
#[cfg(test)]
#[derive(Clone, Copy)]
pub struct Shifts;

#[cfg(test)]
impl Multiply for Shifts {
    type Pair = [u64; 2];

    fn pair(self, lower: u64, upper: u64) -> [u64; 2] {
        [lower, upper]
    }

    fn words(self, pair: [u64; 2]) -> [u64; 2] {
        pair
    }

    fn add(self, a: [u64; 2], b: [u64; 2]) -> [u64; 2] {
        [a[0] ^ b[0], a[1] ^ b[1]]
    }

    fn lower_times(self, [a, _]: [u64; 2], b: u64) -> [u64; 2] {
        let ones = (0..64).filter(|i| b >> i & 1 != 0);
        let product = ones.fold(0, |sum, i| sum ^ u128::from(a) << i);
        [product as u64, (product >> 64) as u64]
    }

    fn upper_times(self, [_, a]: [u64; 2], b: u64) -> [u64; 2] {
        self.lower_times([a, 0], b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both words of a pair times another word, and the sum of these.
    struct Products([u64; 2], u64);

    impl Work for Products {
        type Answer = [[u64; 2]; 3];
        #[inline(always)]
        fn run(self, by: impl Multiply) -> [[u64; 2]; 3] {
            let pair = by.pair(self.0[0], self.0[1]);
            let (lower, upper) = (by.lower_times(pair, self.1), by.upper_times(pair, self.1));
            [lower, upper, by.add(lower, upper)].map(|pair| by.words(pair))
        }
    }

    #[test]
    fn a_product_is_the_sum_of_shifted_ones() {
        let mut a = 0x9E37_79B9_7F4A_7C15u64;
        let mut b = !0;
        for _ in 0..1000 {
            if let Ok(products) = work(Products([a, a.rotate_left(32)], b)) {
                assert_eq!(products, Products([a, a.rotate_left(32)], b).run(Shifts));
            }
            (a, b) = (
                b.rotate_left(9) ^ a << 3,
                a.wrapping_mul(0xD6E8_FEB8_6659_FD93),
            );
        }
    }
}
